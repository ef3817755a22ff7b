"""How nbgrader finds and grades the assignments of the course; `make assignments` and `make grade` use it, from a clean clone.

The sources lie in notebooks/assignments, one folder for each. What nbgrader makes of them, and of submissions, goes to the folder
that COURSE_GRADING names, else to runs/grading, which git ignores: release, submitted, autograded, feedback, gradebook.db.
"""

import os
from pathlib import Path
from time import monotonic

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat.v4 import new_output
from nbgrader import preprocessors, utils

ROOT = Path(__file__).resolve().parent
WORK = Path(os.environ.get("COURSE_GRADING") or ROOT / "runs" / "grading").resolve()
CELL = int(os.environ.get("COURSE_CELL_SECONDS", 60))  # the longest that a cell may run, and
NOTEBOOK = int(os.environ.get("COURSE_NOTEBOOK_SECONDS", 600))  # all cells of a notebook together; after that each has a second left


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


c = get_config()  # nbgrader provides it

c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.db_url = f"sqlite:///{WORK / 'gradebook.db'}"
c.CourseDirectory.source_directory = str(ROOT / "notebooks" / "assignments")
for step in ("release", "submitted", "autograded", "feedback", "solution", "source_with_tests"):
    setattr(c.CourseDirectory, f"{step}_directory", str(WORK / step))

c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
c.ClearSolutions.text_stub = "YOUR ANSWER HERE"
c.OverwriteCells.add_missing_cells = True  # who loses a test's cell gets it back
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

# A submission runs offline, on one thread, without progress bars (text on stderr counts as a failed test), and finds the course.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
