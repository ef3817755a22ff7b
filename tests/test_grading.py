"""Grading with nbgrader, as `make grade` does it: made submissions and attacks get the points that they deserve, and nobody is held up.

What needs no nbgrader, the taking in of submissions, their order, what students get to see, and the table, is tested without it.
"""

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import assignment_tools as made
import nbformat
import pytest
from assignment_tools import SOURCES, UNTIDY, about, empty, hidden_tests, perfect, tasks
from nbformat import NotebookNode
from nbformat.v4 import new_output
from pygments import highlight
from pygments.formatters import HtmlFormatter, TerminalFormatter
from pygments.lexers import PythonLexer

from teaching import grade, submission

NAME = "1_one_neuron"
REASON = 'nbgrader is not installed: pip install --constraint constraints.txt --editable ".[instructor]"'
KINDS = made.MADE | made.ATTACKS | {kind: UNTIDY[kind] for kind in ("copied-answers", "copied-tests", "cut", "badly-marked")}
KINDS.pop("subtly-wrong")  # which tests/test_assignments.py grades
NOTEBOOK, NEWER = '{"cells": []}', '{"cells": [1]}'


def needs_nbgrader(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs nbgrader, and is skipped without it."""
    return pytest.mark.instructor(pytest.mark.skipif(find_spec("nbgrader") is None, reason=REASON)(test))


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> NotebookNode:
    """The source of an assignment."""
    return SOURCES[request.param]


# ------------------------------------------------------------------------------------------------- taken in, and the table


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what grading writes; beside it, in class, lies what students hand in."""
    monkeypatch.setattr(grade, "WORK", tmp_path / "grading")
    (tmp_path / "grading").mkdir()
    (tmp_path / "class").mkdir()
    return tmp_path / "grading"


def handed_in(folder: Path, *paths: str, text: str = NOTEBOOK, age: int = 0) -> None:
    """Writes files that are some seconds old."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        os.utime(folder / path, (1e9 - age, 1e9 - age))


def taken(folder: Path) -> dict[str, str]:
    """What lies where nbgrader looks for submissions, by the path below it."""
    found = sorted(path for path in (folder / "submitted").rglob("*") if path.is_file())
    return {path.relative_to(folder / "submitted").as_posix(): path.read_text(encoding="utf-8") for path in found}


def test_submissions_are_taken_in_the_newest_of_each_and_nothing_is_lost(work: Path, monkeypatch: pytest.MonkeyPatch):
    handed_in(work / "submitted", f"ann/{NAME}/{NAME}.ipynb", age=9)
    handed_in(work / "submitted", f"ann/{NAME}/timestamp.txt", text="2026-11-26 08:00:00 UTC")
    handed_in(work / "submitted", f"ann/{NAME}/{NAME} (1).ipynb", text="{}")
    before = taken(work)
    assert grade.take_in(work / "submitted") == [("ann", NAME, "")] and taken(work) == before, "where nbgrader itself collects"
    handed_in(work.parent / "class", f"ann/{NAME}.ipynb", f"ann/old/{NAME}.ipynb", "ann/2_one_layer.ipynb", age=9)
    handed_in(work.parent / "class", f"ann/new/{NAME}.ipynb", text=NEWER)
    monkeypatch.setattr(grade.shutil, "copy2", lambda source, target: Path(target).write_text("{", encoding="utf-8") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grade.take_in(work.parent / "class", [NAME])
    assert taken(work) == before, "a copy that fails leaves what was there"
    monkeypatch.undo()
    monkeypatch.setattr(grade, "WORK", work)
    assert grade.take_in(work.parent / "class", [NAME]) == [("ann", NAME, "")]
    assert taken(work) == before | {f"ann/{NAME}/{NAME}.ipynb": NEWER}, "the newest, and of this assignment alone"


@pytest.mark.parametrize("name", [f"{NAME} (1).ipynb", f"Copy of {NAME}.ipynb", f"mueller_417_{NAME}-2.ipynb"])
def test_a_renamed_notebook_is_taken(name: str, work: Path):
    handed_in(work.parent / "class", f"ann/{name}")
    assert grade.take_in(work.parent / "class") == [("ann", NAME, "")]
    assert taken(work) == {f"ann/{NAME}/{NAME}.ipynb": NOTEBOOK}


@pytest.mark.parametrize(
    ("files", "listed"),
    [
        ([], "nothing"),
        (["homework.ipynb", "notes.txt"], "homework.ipynb, notes.txt"),
        ([f"{NAME} and 2_one_layer.ipynb"], f"{NAME} and 2_one_layer.ipynb"),
        ([f".ipynb_checkpoints/{NAME}-checkpoint.ipynb", f"__MACOSX/._{NAME}.ipynb"], "nothing"),
        ([f"{number}.txt" for number in range(7)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"),
    ],
)
def test_a_folder_without_a_known_name_is_named(files: Sequence[str], listed: str, work: Path):
    (work.parent / "class" / "ann").mkdir()
    handed_in(work.parent / "class" / "ann", *files)
    assert grade.take_in(work.parent / "class") == [("ann", "", f"no notebook with a known name; found: {listed}")]
    assert not taken(work)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        *((folder, "lies what grading itself writes") for folder in (".", "grading", "grading/autograded", "grading/submitted/ann")),
        ("nowhere", "^There is no folder"),
        ("class", "^No assignment lies in"),
    ],
)
def test_a_folder_that_cannot_be_graded_is_answered_in_a_sentence(folder: str, said: str, work: Path):
    handed_in(work, f"autograded/ann/{NAME}/{NAME}.ipynb", f"submitted/ann/{NAME}/{NAME}.ipynb")
    with pytest.raises(SystemExit, match=said):
        grade.grade(work.parent / folder)


def test_the_table_is_of_all_in_the_gradebook_and_of_what_could_not_be_graded_now(work: Path, monkeypatch: pytest.MonkeyPatch):
    known = {(student, NAME): (30.0, 37.5, 40.0, student == "bob") for student in ("ann", "bob", "cem", "dua")}
    monkeypatch.setattr(grade, "scores", lambda: known)
    handed_in(work / "autograded", *(f"{student}/{NAME}/{NAME}.ipynb" for student in ("ann", "bob", "cem")))
    grade.write_table([("cem", NAME, "it is no notebook"), ("eve", "", "no notebook")])
    rows = {student: (row["assignment"], row["automatic"], row["score"], row["note"]) for student, row in table_of(work).items()}
    assert rows == {
        "ann": (NAME, "30.0", "37.5", ""),
        "bob": (NAME, "30.0", "37.5", "written answers to read"),
        "cem": (NAME, "30.0", "37.5", "it is no notebook; the points are those of an earlier file"),
        "dua": (NAME, "", "", "it could not be run: nbgrader.log says why"),
        "eve": ("", "", "", "no notebook"),
    }


def test_the_table_says_which_cells_were_not_in_order(work: Path, monkeypatch: pytest.MonkeyPatch):
    made.write_all(work.parent / "class", {"ann": UNTIDY["copied-tests"], "bob": perfect}, [NAME])
    made.write_all(work / "release", {NAME: empty}, [NAME])
    monkeypatch.setattr(grade, "scores", lambda: {(student, NAME): (30.0, 30.0, 40.0, True) for student in ("ann", "bob")})
    handed_in(work / "autograded", *(f"{student}/{NAME}/{NAME}.ipynb" for student in ("ann", "bob")))
    cells = ("active-share-visible", "active-share-dense")
    rows = {row["student"]: row["note"] for row in grade.write_table(grade.take_in(work.parent / "class"))}
    assert rows == {"ann": f"written answers to read; {submission.COPIED}: {', '.join(cells)}", "bob": "written answers to read"}


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by student."""
    with (folder / "grades.csv").open(encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


# ------------------------------------------------------------------------------------------------------- notebooks put in order


def in_order(kind: str, source: NotebookNode) -> tuple[NotebookNode, dict[str, list[str]]]:
    """What grading makes of a kind of notebook, and what it says about it."""
    make = UNTIDY.get(kind, perfect)
    return submission.mended(submission.read(json.dumps(make(source))), empty(source))


@pytest.mark.parametrize("kind", ["perfect", *UNTIDY])
def test_in_an_untidy_notebook_each_cell_is_there_once_and_tests_stand_behind_the_right_answer(kind: str, source: NotebookNode):
    notebook, _ = in_order(kind, source)
    given = {about(cell)["grade_id"]: cell for cell in empty(source).cells if about(cell)}
    marked = {about(cell)["grade_id"]: cell for cell in notebook.cells if about(cell)}
    assert len(marked) == sum(bool(about(cell)) for cell in notebook.cells)
    assert list(marked) == [name for name in given if name in marked]
    for name, cell in given.items():
        if about(cell)["locked"] or name.startswith("question"):
            assert about(marked[name]) == about(cell) and marked[name].cell_type == cell.cell_type
            assert marked[name].source == cell.source or not about(cell)["locked"]
    for task, cell in tasks(perfect(source)).items():
        before = notebook.cells[: notebook.cells.index(marked[made.of_task(task, source)[0]])]
        function = re.search(r"^def \w+\(", cell.source, flags=re.MULTILINE)
        defined = [other.source for other in before if other.cell_type == "code" and function and function[0] in other.source]
        gone = kind == "cut" and task == next(iter(tasks(source)))
        assert not defined if gone else cell.source in defined[-1], task


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        *((kind, "question-a", "**A model answer.**") for kind in ("copied-answers", "turned")),  # who wrote last counts
        *((kind, "question-b", submission.NO_CELL) for kind in ("cut", "unmarked")),  # it waits for a person
    ],
)
def test_a_written_answer_is_there_once(kind: str, name: str, text: str, source: NotebookNode):
    notebook, found = in_order(kind, source)
    [answer] = [cell.source for cell in notebook.cells if about(cell).get("grade_id") == name]
    assert answer.startswith(text) and (name in found.get(submission.MISSING, [])) == (text == submission.NO_CELL)


def test_what_was_not_in_order_is_told_by_the_names_of_cells(source: NotebookNode):
    first, second, third = list(tasks(source))[:3]
    told = {kind: in_order(kind, source)[1] for kind in ("perfect", *UNTIDY)}
    assert {kind for kind, found in told.items() if not found} == {"perfect", "badly-marked"}
    assert told["copied-answers"] == {submission.COPIED: [first, second, "question-a"]}
    assert told["copied-tests"] == {submission.COPIED: [f"{first}-visible", made.of_task(first, source)[0]]}
    cut = [name for cell in source.cells if (name := about(cell).get("grade_id")) in (first, "question-b") or about(cell).get("locked")]
    assert told["cut"] == {submission.MISSING: cut}
    assert told["merged"] == {
        submission.MISSING: [first, second, f"{third}-visible"],
        submission.CHANGED: [f"{first}-visible", made.of_task(second, source)[0]],
    }
    assert told["turned"][submission.TURNED] == [first, second, "question-a"]


@pytest.mark.parametrize("kind", ["copied-answers", "copied-tests", "merged", "turned"])
def test_nothing_that_was_written_is_lost(kind: str, source: NotebookNode):
    """What does not count, such as a function in a test's cell, stays in the notebook."""
    written, kept, given = ({cell.source for cell in n.cells} for n in (UNTIDY[kind](source), in_order(kind, source)[0], empty(source)))
    assert written - kept <= given


def test_a_picture_that_was_pasted_into_an_answer_stays(source: NotebookNode):
    notebook, picture = perfect(source), {"curve.png": {"image/png": "iVBORw0KGgo="}}
    notebook.cells[made.named(notebook, "question-a")]["attachments"] = picture
    mended, _ = submission.mended(submission.read(json.dumps(notebook)), empty(source))
    nbformat.validate(mended)
    assert [cell.attachments for cell in mended.cells if "attachments" in cell] == [picture]


@pytest.mark.parametrize("form", ["format 3", "byte order mark", "no metadata", "lists of lines"])
def test_a_notebook_of_any_form_is_read(form: str, source: NotebookNode):
    notebook = perfect(source)
    bare = [{"cell_type": cell.cell_type, "source": cell.source} for cell in notebook.cells]
    texts = {
        "format 3": lambda: nbformat.writes(nbformat.convert(notebook, 3), version=3),
        "byte order mark": lambda: "\ufeff" + nbformat.writes(notebook),
        "no metadata": lambda: json.dumps({"cells": bare}),
        "lists of lines": lambda: json.dumps({"cells": [cell | {"source": cell["source"].splitlines(keepends=True)} for cell in bare]}),
    }
    read = submission.read(texts[form]())
    nbformat.validate(read)
    assert [{"cell_type": cell.cell_type, "source": cell.source} for cell in read.cells] == bare


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("see attachment", "it is no notebook"),
        ("[1]", "it is no notebook"),
        ('{"cells": 3}', "it has no cells"),
        ('{"worksheets": 3, "nbformat": 3}', "it is a notebook of an old format"),
    ],
)
def test_a_file_that_cannot_be_read_is_answered_in_a_sentence(text: str, said: str, tmp_path: Path):
    handed_in(tmp_path, f"{NAME}.ipynb", text=text)
    assert grade.problem(tmp_path / f"{NAME}.ipynb").startswith(said)


# --------------------------------------------------------------------------------------------------------- what students see


def bare(text: str) -> str:
    """A text without colours and tags."""
    return html.unescape(re.sub(r"<[^>]*>|\x1b\[[0-9;]*m", "", text))


def seen(notebook: NotebookNode) -> str:
    """All that a notebook says, in sources and outputs."""
    outputs = [submission.text_of(output) for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join([*(cell.source for cell in notebook.cells), *outputs])
    return f"{text}\n{bare(text)}"


def leaks(text: str, source: NotebookNode) -> set[str]:
    """The lines of an assignment's hidden tests, and the names of functions with right answers, that a text has."""
    return {secret for secret in made.secrets(source) if secret in text}


def test_nothing_of_the_hidden_tests_is_in_what_a_student_sees(source: NotebookNode):
    """Even where everything that could tell a hidden test is in the outputs of all cells."""
    text = "\n".join(cell.source for cell in hidden_tests(source).values())
    lines = highlight(text, PythonLexer(), TerminalFormatter()).splitlines()
    outputs = [
        new_output("error", ename="ValueError", evalue=text, traceback=lines),
        new_output("error", ename="Wrong", evalue=text, traceback=[text]),
        new_output("error", ename="KeyboardInterrupt", evalue="", traceback=lines),
        new_output("stream", name="stdout", text=repr(text.splitlines())),
        new_output("stream", name="stderr", text=text),
        new_output("display_data", data={"text/html": highlight(text, PythonLexer(), HtmlFormatter()), "text/plain": "<HTML>"}),
        new_output("execute_result", data={"text/plain": repr(text), "application/json": {"text": text}}),
    ]
    snooped = deepcopy(source)
    for cell in snooped.cells:
        if cell.cell_type == "code":
            cell.outputs = deepcopy(outputs)
    assert leaks(seen(snooped), source) == made.secrets(source) > made.secret_lines(source) and len(made.secret_lines(source)) > 50
    given_back = seen(submission.for_student(snooped))
    assert not leaks(given_back, source) and "HIDDEN TESTS" not in given_back


@pytest.mark.parametrize("formatter", [None, TerminalFormatter(), HtmlFormatter()], ids=["plain", "coloured", "tagged"])
def test_a_single_line_of_a_hidden_test_in_an_output_is_left_out(formatter: HtmlFormatter | None, source: NotebookNode):
    secrets, shown = submission.pieces(source), submission.words(seen(submission.for_student(source)))
    words = {line: submission.words(line) for line in made.secret_lines(source)}
    long = [line for line, said in words.items() if said not in shown and len(said.split()) > 6]
    assert len(long) > 30
    for line in long:
        text = highlight(line, PythonLexer(), formatter) if formatter else line
        output = submission.shown(new_output("stream", name="stdout", text=f"3\n{text}\n4"), secrets, test=False)
        assert output.text == submission.LEFT_OUT, line


SAID = [
    ("Wrong", "Your change has the shape [2]; [3] is wanted.", "Not yet. Your change has the shape [2]; [3] is wanted."),
    ("KeyboardInterrupt", "", "Not yet. The test was stopped: it took longer than a cell may."),
    ("NameError", "name 'torch' is not defined\nand more", "Not yet. The test stopped with NameError: name 'torch' is not defined"),
]


def test_an_error_of_a_test_is_one_sentence_its_own_where_it_has_one(source: NotebookNode):
    code = "\n".join(cell.source for cell in hidden_tests(source).values())
    texts = [text[1:-1] for text in submission.TEXT.findall(code) if not text.startswith("f") and len(text.split()) > 4]
    assert texts
    for ename, evalue, said in [*SAID, *(("Wrong", f"{text}: no.", f"Not yet. {text}: no.") for text in texts)]:
        error = new_output("error", ename=ename, evalue=evalue, traceback=["Cell In[3], line 7", "----> 7 secret = 3"])
        assert submission.shown(error, submission.pieces(source), test=True).traceback == [said]


def test_what_a_student_printed_and_did_wrong_stays(source: NotebookNode):
    notebook = deepcopy(source)
    told = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, answered in zip(notebook.cells, perfect(source).cells, strict=True):
        first = (answered.source.splitlines() or [""])[0]
        cell.outputs = [
            new_output("stream", name="stdout", text=f"tensor([0., 0., 1., 0.]), found 12 for k in range\n{first}"),
            new_output("stream", name="stdout", text="Your share is not the right one; the right change is [0.1, 0.2]."),
        ]
        cell.outputs += [] if submission.is_test(cell) else [new_output("error", ename="ValueError", evalue="no", traceback=["line 3"])]
    after = [cell.outputs for cell in submission.for_student(notebook).cells if cell.cell_type == "code"]
    assert after == [cell.outputs for cell in told]


def test_graded_cells_say_what_they_are_about(source: NotebookNode):
    notebook = submission.for_student(source, unread={"question-a"})
    titles = {about(cell)["grade_id"]: about(cell)["title"] for cell in notebook.cells if about(cell).get("grade")}
    assert len(set(titles.values())) == len(titles) == 12
    assert all(re.fullmatch(rf"{name}: .{{10,}}[^.]", titles[name]) for name in hidden_tests(source))
    assert [name for cell in notebook.cells if about(cell).get("unread") and (name := about(cell)["grade_id"])] == ["question-a"]


# --------------------------------------------------------------------------------------------------------------- by nbgrader

SOURCE = SOURCES[NAME]


def run_of(folder: Path, kind: str) -> NotebookNode:
    """A submission after its tests were run, which is not for students."""
    return nbformat.read(folder / "autograded" / kind / NAME / f"{NAME}.ipynb", as_version=4)


def page_of(folder: Path, kind: str) -> str:
    """The page with feedback, in words."""
    return bare((folder / "feedback" / kind / NAME / f"{NAME}.html").read_text(encoding="utf-8"))


def in_work(folder: Path, *command: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs teaching/grade.py with a folder of its own for what it writes."""
    env = os.environ | {"COURSE_GRADING": str(folder), "COURSE_CELL_SECONDS": "30", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "teaching.grade", *command], cwd=made.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all kinds of submissions, and one that is no notebook, were graded by nbgrader; screen.txt has what was on the screen."""
    folder = tmp_path_factory.mktemp("course")
    made.write_all(folder / "submissions", KINDS, [NAME])
    handed_in(folder / "submissions", f"no-notebook/{NAME}.ipynb", text="see attachment")
    done = in_work(folder / "grading", "grade", folder / "submissions")
    handed_in(folder / "grading", "screen.txt", text=done.stdout + done.stderr)
    return folder / "grading"


@needs_nbgrader
@pytest.mark.parametrize("kind", KINDS)
def test_nbgrader_gives_the_points_that_are_deserved(kind: str, graded: Path):
    row = table_of(graded)[kind]
    assert (float(row["automatic"]), float(row["of"])) == (made.deserved(kind, SOURCE), 40)


@needs_nbgrader
def test_notes_say_what_waits_and_what_was_not_in_order_and_nothing_else_comes_onto_the_screen(graded: Path):
    notes = {kind: row["note"] for kind, row in table_of(graded).items()}
    assert (notes["perfect"], notes["empty"]) == ("written answers to read", "")
    assert notes["edited-tests"].startswith(submission.MISSING)
    assert (notes["no-notebook"], table_of(graded)["no-notebook"]["automatic"]) == ("it is no notebook", "")
    lines = (graded / "screen.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"{NAME}: running the tests of {len(KINDS)} notebooks ..."
    assert len(lines) == len(KINDS) + 3  # a row for each student, among them one without a notebook, and where the table is
    assert "TCP" not in (graded / "nbgrader.log").read_text(encoding="utf-8")
    for told in (notes["copied-answers"], page_of(graded, "copied-answers")):
        assert f"{submission.COPIED}: active-share, " in told


@needs_nbgrader
@pytest.mark.parametrize("kind", ["empty", "hard-coded", "crashing", "snooping", "edited-tests", "copied-answers"])
def test_feedback_has_points_and_sentences_and_nothing_of_the_hidden_tests(kind: str, graded: Path):
    assert [path.name for path in (graded / "feedback" / kind / NAME).iterdir()] == [f"{NAME}.html"]
    page = page_of(graded, kind)
    assert not leaks(page, SOURCE) and "HIDDEN TESTS" not in page
    for name, cell in hidden_tests(SOURCE).items():
        assert f"{name}: " in page and f"of {about(cell)['points']:.1f} points" in page
    assert leaks(seen(run_of(graded, kind)), SOURCE) == made.secrets(SOURCE)
    if kind == "hard-coded":
        assert "Not yet. " in page and "Score: 0.0 / 40.0, 10.0 of them yet to be given by a person" in page
        assert page.count("of 5.0 points: a person has yet to read it") == 4  # at the top, and above each of the two answers


@needs_nbgrader
def test_the_snooping_submission_does_find_the_hidden_tests(graded: Path):
    """Otherwise that they are not in its feedback would say nothing."""
    cells = run_of(graded, "snooping").cells[-len(made.SHOWN_BY_SNOOPING) :]
    assert [cell.source for cell in cells] == list(made.SHOWN_BY_SNOOPING)
    found = [leaks(bare("\n".join(map(submission.text_of, cell.outputs))), SOURCE) for cell in cells]
    assert all(found), found
    assert (graded / "autograded" / "snooping" / NAME / "stolen.txt").is_file()


@needs_nbgrader
def test_the_student_version_has_no_solution_and_no_hidden_test(graded: Path):
    notebook = nbformat.read(graded / "release" / NAME / f"{NAME}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"BEGIN|END (SOLUTION|HIDDEN)|model answer", text)
    assert text.count("raise NotImplementedError") == len(tasks(SOURCE)) and text.count("YOUR ANSWER HERE") >= 2
    assert all(re.fullmatch(r"# Hidden tests, .*\n?", cell.source) for cell in hidden_tests(notebook).values())
    assert not any(cell.get("outputs") for cell in notebook.cells)


@needs_nbgrader
def test_points_given_by_hand_come_into_tables_and_feedback_and_stay_there(graded: Path, tmp_path: Path):
    from nbgrader.api import Gradebook

    folder = tmp_path / "grading"
    shutil.copytree(graded, folder)
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:  # as Formgrader would
        for given in book.find_submission_notebook(NAME, NAME, "perfect").grades:
            if given.needs_manual_grade:
                given.manual_score, given.needs_manual_grade = 3.5, False
        book.db.commit()
    in_work(folder, "table")
    row = table_of(folder)["perfect"]
    assert (row["automatic"], row["score"], row["note"]) == ("30.0", "37.0", "")
    assert re.search(r"^1_one_neuron,.*,perfect,.*,37\.0,40\.0$", (folder / "nbgrader.csv").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "Score: 37.0 / 40.0" in page_of(folder, "perfect")

    handed_in(tmp_path / "later", f"late/Copy of {NAME}.ipynb", text=nbformat.writes(empty(SOURCE)))
    handed_in(tmp_path / "later", "misnamed/homework.ipynb")
    said = in_work(folder, "grade", tmp_path / "later").stdout
    assert re.search(r"^misnamed +not graded; no notebook with a known name; found: homework\.ipynb$", said, flags=re.MULTILINE)
    after = table_of(folder)
    assert after["perfect"] == row
    assert (after["late"]["assignment"], after["late"]["score"], after["late"]["note"]) == (NAME, "0.0", "")
    assert set(after) == {*table_of(graded), "late", "misnamed"} - {"no-notebook"}  # which is not of this call


@needs_nbgrader
def test_a_table_of_nothing_is_answered_in_a_sentence(tmp_path: Path):
    assert in_work(tmp_path, "table", status=1).stderr == "Nothing has been graded yet: first run make grade SUBMISSIONS=FOLDER.\n"
