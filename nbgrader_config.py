"""How nbgrader finds and grades the assignments of the course; `make assignments` and `make grade` use it, from a clean clone.

The sources lie in notebooks/assignments, one folder for each. What nbgrader makes of them, and of submissions, goes to the folder
that COURSE_GRADING names, else to runs/grading, which git ignores: release, submitted, autograded, feedback, gradebook.db.
"""

import os
import shutil
import sys
from pathlib import Path
from time import monotonic

import zmq
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.exporters import NotebookExporter
from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
from nbformat.v4 import new_output
from nbgrader import preprocessors, utils
from nbgrader.api import Gradebook
from nbgrader.server_extensions import formgrader

ROOT = Path(__file__).resolve().parent
FORMGRADER = Path(formgrader.__file__).parent  # where nbgrader's page for feedback lies
sys.path.insert(0, str(ROOT))
from teaching import submission  # noqa: E402

WORK = Path(os.environ.get("COURSE_GRADING") or ROOT / "runs" / "grading").resolve()
CELL = int(os.environ.get("COURSE_CELL_SECONDS", 60))  # the longest that a cell may run, and
NOTEBOOK = int(os.environ.get("COURSE_NOTEBOOK_SECONDS", 600))  # all cells of a notebook together; after that each has a second left


class AnyNotebook(NotebookExporter):
    """Reads a submission of any age and in any state."""

    def from_file(self, file_stream, resources=None, **options):
        return self.from_notebook_node(submission.read(file_stream.read()), resources=resources, **options)


class PutInOrder(preprocessors.NbGraderPreprocessor):
    """Makes cells that were copied, cut, moved or changed such that nbgrader can grade them, and says so at the notebook's top."""

    def preprocess(self, nb, resources):
        about = resources["nbgrader"]
        given = WORK / "release" / about["assignment"] / f"{about['notebook']}.ipynb"
        notebook, found = submission.mended(nb, submission.read(given.read_text(encoding="utf-8")))
        return submission.announced(notebook, found), resources


class Execute(preprocessors.Execute):
    """Runs a submission to its end, whatever is in it: no cell takes forever, and a kernel that dies or is deaf costs only what is left."""

    def preprocess(self, nb, resources=None, km=None):
        end = monotonic() + NOTEBOOK
        self.timeout_func = lambda cell: max(1, min(CELL, int(end - monotonic())))
        try:
            return super().preprocess(nb, resources, km)
        except (DeadKernelError, CellTimeoutError) as problem:
            name = type(problem).__name__
            for cell in nb.cells:
                if cell.cell_type == "code" and not cell.get("execution_count"):
                    text = "The kernel died, or did not stop when it was told to, before this cell had run."
                    cell.outputs = [new_output("error", ename=name, evalue="", traceback=[text])]
            return nb, resources


class NoGradesFromOutputs(preprocessors.NbGraderPreprocessor):
    """No test of the course ends on a value, so a value below one is not the test's: nbgrader would take it for a partial grade."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code" and utils.is_grade(cell) and not utils.is_solution(cell):
            cell.outputs = [output for output in cell.outputs if output.output_type != "execute_result"]
        return cell, resources


class ForStudent(preprocessors.NbGraderPreprocessor):
    """Takes hidden tests out of the page with feedback, and says what a person has yet to read."""

    def preprocess(self, nb, resources):
        about = resources["nbgrader"]
        with Gradebook(about["db_url"]) as book:
            grades = book.find_submission_notebook(about["notebook"], about["assignment"], about["student"]).grades
            unread = {grade.name: grade.max_score for grade in grades if grade.needs_manual_grade}
        about["unread"] = sum(unread.values())
        return submission.for_student(nb, unread), resources


def only_pages(notebooks, **_):
    """Leaves in a folder with feedback the pages, and what nbgrader's exchange needs, but no file that a student's code wrote as it ran."""
    for graded in {Path(notebook).parent for notebook in notebooks}:
        student, assignment = graded.parts[-2:]
        folder, pages = WORK / "feedback" / student / assignment, {f"{path.stem}.html" for path in graded.glob("*.ipynb")}
        for path in list(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in pages:
                path.unlink()
        for name in ("timestamp.txt", "submission_secret.txt"):
            if (given := WORK / "submitted" / student / assignment / name).is_file():
                shutil.copy(given, folder)


c = get_config()  # nbgrader provides it

c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.db_url = f"sqlite:///{WORK / 'gradebook.db'}"
c.CourseDirectory.source_directory = str(ROOT / "notebooks" / "assignments")
for step in ("release", "submitted", "autograded", "feedback", "solution", "source_with_tests"):
    setattr(c.CourseDirectory, f"{step}_directory", str(WORK / step))

c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
c.ClearSolutions.text_stub = "YOUR ANSWER HERE"
c.Autograde.exporter_class = AnyNotebook
c.Autograde.sanitize_preprocessors = [
    preprocessors.ClearOutput,
    PutInOrder,
    preprocessors.OverwriteKernelspec,
    preprocessors.OverwriteCells,
    preprocessors.CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    Execute,
    NoGradesFromOutputs,
    preprocessors.IgnorePattern,
    ClearMetadataPreprocessor,
    preprocessors.LimitOutput,
    preprocessors.SaveAutoGrades,
    preprocessors.AssignLatePenalties,
    preprocessors.CheckCellMetadata,
]
c.GenerateFeedback.preprocessors = [preprocessors.GetGrades, ForStudent, CSSHTMLHeaderPreprocessor]
c.GenerateFeedback.post_convert_hook = only_pages
c.GenerateFeedback.HTMLExporter.template_name = "course_feedback"
c.GenerateFeedback.HTMLExporter.extra_template_basedirs = [str(ROOT / "teaching" / "templates"), str(FORMGRADER / "templates")]
c.GenerateFeedback.HTMLExporter.extra_template_paths = [
    str(FORMGRADER / part) for part in ("templates", "static/node_modules/bootstrap/dist/css")
]
if zmq.has("curve"):  # else each kernel warns that others on this machine could listen
    c.KernelManager.transport_encryption = "auto"

# A submission runs offline, on one thread, without progress bars (text on stderr counts as a failed test), and finds the course.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
