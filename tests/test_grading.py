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

import nbformat
import pytest
from assignment_tools import (
    ATTACKS,
    MADE,
    PATHS,
    ROOT,
    SHOWN_BY_SNOOPING,
    UNTIDY,
    about,
    deserved,
    empty,
    gained,
    hidden_tests,
    of_task,
    of_untidy,
    perfect,
    secret_lines,
    secret_names,
    snooping,
    tasks,
    write_all,
)
from nbformat import NotebookNode
from nbformat.v4 import new_output
from pygments import highlight
from pygments.formatters import HtmlFormatter, TerminalFormatter
from pygments.lexers import PythonLexer

from teaching import grade, submission

REASON = 'nbgrader is not installed: pip install --constraint constraints.txt --editable ".[instructor]"'
GRADED_BY_NBGRADER = "1_one_neuron"
UNTIDY_BY_NBGRADER = {kind: UNTIDY[kind] for kind in ("copied-often", "cut-tests", "other-kernel")}
BY_NBGRADER = {kind: MADE[kind] for kind in ("perfect", "empty", "hard-coded", "crashing")} | ATTACKS | UNTIDY_BY_NBGRADER
BY_NBGRADER["snooping"] = snooping
NOTEBOOK = '{"cells": []}'


def needs_nbgrader(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs nbgrader, and is skipped without it."""
    return pytest.mark.instructor(pytest.mark.skipif(find_spec("nbgrader") is None, reason=REASON)(test))


# ------------------------------------------------------------------------------------------------------------ without nbgrader


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what grading writes."""
    monkeypatch.setattr(grade, "WORK", tmp_path / "grading")
    (tmp_path / "grading").mkdir()
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


def test_the_folder_that_nbgrader_collects_into_loses_nothing(work: Path):
    handed_in(work / "submitted", "ann/1_one_neuron/1_one_neuron.ipynb", age=9)
    handed_in(work / "submitted", "ann/1_one_neuron/timestamp.txt", text="2026-11-26 08:00:00 UTC")
    handed_in(work / "submitted", "ann/1_one_neuron/1_one_neuron (1).ipynb", text='{"cells": [1]}')
    before = taken(work)
    assert grade.take_in(work / "submitted") == [("ann", "1_one_neuron", "")]
    assert taken(work) == before


def test_a_newer_submission_takes_the_place_of_an_older_one(work: Path, tmp_path: Path):
    handed_in(work / "submitted", "ann/1_one_neuron/1_one_neuron.ipynb")
    handed_in(tmp_path / "class", "ann/1_one_neuron.ipynb", "ann/old/1_one_neuron.ipynb", age=9)
    handed_in(tmp_path / "class", "ann/new/1_one_neuron.ipynb", text='{"cells": [1]}')
    grade.take_in(tmp_path / "class")
    assert taken(work) == {"ann/1_one_neuron/1_one_neuron.ipynb": '{"cells": [1]}'}


def test_a_copy_that_fails_leaves_what_was_there(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(source: Path, target: Path) -> None:
        Path(target).write_text("{", encoding="utf-8")
        raise OSError("the disk is full")

    handed_in(work / "submitted", "ann/1_one_neuron/1_one_neuron.ipynb")
    handed_in(tmp_path / "class", "ann/1_one_neuron.ipynb", text='{"cells": [1]}')
    before = taken(work)
    monkeypatch.setattr(grade.shutil, "copy2", half)
    with pytest.raises(OSError, match="full"):
        grade.take_in(tmp_path / "class")
    assert taken(work) == before


@pytest.mark.parametrize("name", ["1_one_neuron (1).ipynb", "Copy of 1_one_neuron.ipynb", "mueller_417_1_one_neuron-2.ipynb"])
def test_a_renamed_notebook_is_taken(name: str, work: Path, tmp_path: Path):
    handed_in(tmp_path / "class", f"ann/{name}")
    assert grade.take_in(tmp_path / "class") == [("ann", "1_one_neuron", "")]
    assert taken(work) == {"ann/1_one_neuron/1_one_neuron.ipynb": NOTEBOOK}


def test_one_assignment_can_be_graded_alone(work: Path, tmp_path: Path):
    handed_in(tmp_path / "class", "ann/1_one_neuron.ipynb", "ann/2_one_layer.ipynb", "bob/1_one_neuron.ipynb")
    assert grade.take_in(tmp_path / "class", ["2_one_layer"]) == [("ann", "2_one_layer", "")]
    assert list(taken(work)) == ["ann/2_one_layer/2_one_layer.ipynb"]


@pytest.mark.parametrize(
    ("files", "listed"),
    [
        ([], "nothing"),
        (["homework.ipynb", "notes.txt"], "homework.ipynb, notes.txt"),
        (["1_one_neuron and 2_one_layer.ipynb"], "1_one_neuron and 2_one_layer.ipynb"),
        ([".ipynb_checkpoints/1_one_neuron-checkpoint.ipynb", "__MACOSX/._1_one_neuron.ipynb"], "nothing"),
        ([f"{number}.txt" for number in range(7)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"),
    ],
)
def test_a_folder_without_a_known_name_is_named(files: Sequence[str], listed: str, work: Path, tmp_path: Path):
    (tmp_path / "class" / "ann").mkdir(parents=True)
    handed_in(tmp_path / "class", *(f"ann/{name}" for name in files))
    assert grade.take_in(tmp_path / "class") == [("ann", "", f"no notebook with a known name; found: {listed}")]
    assert not (work / "submitted").exists()


def test_the_table_is_of_all_in_the_gradebook_and_of_what_could_not_be_graded_now(work: Path, monkeypatch: pytest.MonkeyPatch):
    known = {(student, "1_one_neuron"): (30.0, 37.5, 40.0, student == "bob") for student in ("ann", "bob", "cem", "dua")}
    monkeypatch.setattr(grade, "scores", lambda: known)
    handed_in(work / "autograded", *(f"{student}/1_one_neuron/1_one_neuron.ipynb" for student in ("ann", "bob", "cem")))
    grade.write_table([("cem", "1_one_neuron", "it is no notebook"), ("eve", "", "no notebook")])
    with (work / "grades.csv").open(encoding="utf-8") as file:
        rows = {row["student"]: (row["assignment"], row["automatic"], row["score"], row["note"]) for row in csv.DictReader(file)}
    assert rows == {
        "ann": ("1_one_neuron", "30.0", "37.5", ""),
        "bob": ("1_one_neuron", "30.0", "37.5", "written answers to read"),
        "cem": ("1_one_neuron", "30.0", "37.5", "it is no notebook; the points are those of an earlier file"),
        "dua": ("1_one_neuron", "", "", "it could not be run: nbgrader.log says why"),
        "eve": ("", "", "", "no notebook"),
    }


@pytest.mark.parametrize("folder", [".", "grading", "grading/autograded", "grading/submitted/ann"])
def test_what_grading_has_written_is_no_folder_of_submissions(folder: str, work: Path, tmp_path: Path):
    handed_in(work, "autograded/ann/1_one_neuron/1_one_neuron.ipynb", "submitted/ann/1_one_neuron/1_one_neuron.ipynb")
    with pytest.raises(SystemExit, match="lies what grading itself writes"):
        grade.grade(tmp_path / folder)


def test_the_table_says_which_cells_were_not_in_order(work: Path, monkeypatch: pytest.MonkeyPatch):
    source = nbformat.read(PATHS[0], as_version=4)
    name = PATHS[0].stem
    write_all(work / "class", {"ann": UNTIDY["copied-text"], "bob": perfect}, PATHS[:1])
    monkeypatch.setattr(grade, "scores", lambda: {(student, name): (30.0, 30.0, 40.0, True) for student in ("ann", "bob")})
    (work / "release" / name).mkdir(parents=True)
    nbformat.write(empty(source, name), work / "release" / name / f"{name}.ipynb")
    handed_in(work / "autograded", *(f"{student}/{name}/{name}.ipynb" for student in ("ann", "bob")))
    rows = {row["student"]: row["note"] for row in grade.write_table(grade.take_in(work / "class"))}
    assert rows == {"ann": f"written answers to read; {submission.COPIED}: question-a", "bob": "written answers to read"}


# ------------------------------------------------------------------------------------------------------- notebooks put in order


@pytest.fixture(scope="module", params=PATHS, ids=[path.stem for path in PATHS])
def source(request: pytest.FixtureRequest) -> NotebookNode:
    """The source of an assignment; its name stands in its metadata here."""
    notebook = nbformat.read(request.param, as_version=4)
    notebook.metadata["name"] = request.param.stem
    return notebook


def in_order(kind: str, source: NotebookNode) -> tuple[NotebookNode, dict[str, list[str]]]:
    """What grading makes of a kind of notebook, and what it says about it."""
    name = source.metadata["name"]
    return submission.mended(submission.read(json.dumps(({"perfect": perfect} | UNTIDY)[kind](source, name))), empty(source, name))


@pytest.mark.parametrize("kind", ["perfect", *UNTIDY])
def test_in_an_untidy_notebook_each_cell_is_there_once_and_tests_stand_behind_the_right_answer(kind: str, source: NotebookNode):
    notebook, _ = in_order(kind, source)
    right, given = (make(source, source.metadata["name"]) for make in (perfect, empty))
    marked = {about(cell)["grade_id"]: cell for cell in notebook.cells if about(cell)}
    assert len(marked) == sum(bool(about(cell)) for cell in notebook.cells)
    assert list(marked) == [name for cell in given.cells if (name := about(cell).get("grade_id")) and name in marked]
    for cell in (cell for cell in given.cells if about(cell)):
        name = about(cell)["grade_id"]
        if about(cell)["locked"] or name.startswith("question"):
            assert about(marked[name]) == about(cell) and marked[name].cell_type == cell.cell_type
            assert marked[name].source == cell.source or not about(cell)["locked"]
    for task, cell in tasks(right).items():
        before = notebook.cells[: notebook.cells.index(marked[of_task(task, source)[0]])]
        function = re.search(r"^def \w+\(", cell.source, flags=re.MULTILINE)
        defined = [other.source for other in before if other.cell_type == "code" and function and function[0] in other.source]
        if kind == "cut-task" and task == next(iter(tasks(source))):
            assert not defined
        else:
            assert cell.source in defined[-1], task


@pytest.mark.parametrize("kind", ["copied-text", "split", "turned"])
def test_the_written_answer_that_somebody_wrote_last_is_the_one_to_read(kind: str, source: NotebookNode):
    answers = [cell.source for cell in in_order(kind, source)[0].cells if about(cell).get("grade_id") == "question-a"]
    assert len(answers) == 1 and answers[0].startswith("**A model answer.**")


@pytest.mark.parametrize("kind", ["cut-tests", "unmarked"])
def test_a_written_answer_without_its_cell_waits_for_a_person(kind: str, source: NotebookNode):
    notebook, found = in_order(kind, source)
    answer = next(cell for cell in notebook.cells if about(cell).get("grade_id") == "question-b")
    assert answer.source == submission.NO_CELL and "question-b" in found[submission.MISSING]


def test_what_was_not_in_order_is_told_by_the_names_of_cells(source: NotebookNode):
    first, second, third = list(tasks(source))[:3]
    told = {kind: in_order(kind, source)[1] for kind in ("perfect", *UNTIDY)}
    assert {kind for kind, found in told.items() if not found} == {"perfect", "badly-marked", "other-kernel"}
    assert told["copied-answer"] == {submission.COPIED: [first, second]}
    assert told["copied-example"] == {submission.COPIED: [f"{first}-visible"]}
    assert told["copied-test"] == {submission.COPIED: [of_task(first, source)[0]]}
    assert told["copied-text"] == {submission.COPIED: ["question-a"]}
    assert told["cut-task"] == {submission.MISSING: [first, f"{first}-visible", *of_task(first, source)]}
    assert told["merged"] == {
        submission.MISSING: [first, second, f"{third}-visible"],
        submission.CHANGED: [f"{first}-visible", of_task(second, source)[0]],
    }
    assert told["turned"][submission.TURNED] == [first, second, "question-a"]


def test_nothing_that_was_written_is_lost(source: NotebookNode):
    """What does not count, such as a function in a test's cell, stays in the notebook."""
    for kind in ("copied-answer", "copied-example", "merged", "split", "turned"):
        written = {cell.source for cell in UNTIDY[kind](source, source.metadata["name"]).cells}
        lost = written - {cell.source for cell in in_order(kind, source)[0].cells}
        assert lost <= {cell.source for cell in empty(source, source.metadata["name"]).cells}, kind


def test_a_picture_that_was_pasted_into_an_answer_stays(source: NotebookNode):
    notebook, picture = perfect(source, source.metadata["name"]), {"curve.png": {"image/png": "iVBORw0KGgo="}}
    next(cell for cell in notebook.cells if about(cell).get("grade_id") == "question-a")["attachments"] = picture
    mended, _ = submission.mended(submission.read(json.dumps(notebook)), empty(source, source.metadata["name"]))
    nbformat.validate(mended)
    assert [cell.attachments for cell in mended.cells if "attachments" in cell] == [picture]


@pytest.mark.parametrize("form", ["format 3", "byte order mark", "no metadata", "lists of lines"])
def test_a_notebook_of_any_form_is_read(form: str, source: NotebookNode):
    notebook = perfect(source, source.metadata["name"])
    bare = [{"cell_type": cell.cell_type, "source": cell.source} for cell in notebook.cells]
    texts = {
        "format 3": lambda: nbformat.writes(nbformat.convert(deepcopy(notebook), 3), version=3),
        "byte order mark": lambda: "\ufeff" + nbformat.writes(notebook),
        "no metadata": lambda: json.dumps({"cells": bare}),
        "lists of lines": lambda: json.dumps({"cells": [cell | {"source": cell["source"].splitlines(keepends=True)} for cell in bare]}),
    }
    read = submission.read(texts[form]())
    nbformat.validate(read)
    assert [(cell.cell_type, cell.source) for cell in read.cells] == [(cell["cell_type"], cell["source"]) for cell in bare]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("see attachment", "it is no notebook"),
        ("[1]", "it is no notebook"),
        ('{"cells": 3}', "it has no cells"),
        ('{"worksheets": 3, "nbformat": 3}', "it is a notebook of an old format"),
    ],
)
def test_a_file_that_cannot_be_read_is_answered_in_a_sentence(text: str, why: str, tmp_path: Path):
    handed_in(tmp_path, "1_one_neuron.ipynb", text=text)
    assert grade.problem(tmp_path / "1_one_neuron.ipynb").startswith(why)


# --------------------------------------------------------------------------------------------------------- what students see


def bare(text: str) -> str:
    """A text without colours and tags."""
    return html.unescape(re.sub(r"<[^>]*>|\x1b\[[0-9;]*m", "", text))


def seen(notebook: NotebookNode) -> str:
    """All that a notebook says, in sources and outputs."""
    outputs = [submission.text_of(output) for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join([*(cell.source for cell in notebook.cells), *outputs])
    return f"{text}\n{bare(text)}"


def leaks(text: str, source: NotebookNode) -> tuple[int, int]:
    """How many lines of an assignment's hidden tests a text has, and how many names of functions with right answers."""
    return sum(line in text for line in secret_lines(source)), sum(name in text for name in secret_names(source))


def as_snooped(source: NotebookNode) -> NotebookNode:
    """An assignment after its tests were run, with everything that could tell a hidden test in the outputs of all cells."""
    notebook = deepcopy(source)
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
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = deepcopy(outputs)
    return notebook


def test_nothing_of_the_hidden_tests_is_in_what_a_student_sees(source: NotebookNode):
    snooped = as_snooped(source)
    assert leaks(seen(snooped), source) == (len(secret_lines(source)), len(secret_names(source)))
    assert len(secret_lines(source)) > 50 and secret_names(source)
    assert leaks(seen(submission.for_student(snooped)), source) == (0, 0)
    assert "HIDDEN TESTS" not in seen(submission.for_student(snooped))


@pytest.mark.parametrize("form", ["plain", "coloured", "tagged"])
def test_a_single_line_of_a_hidden_test_in_an_output_is_left_out(form: str, source: NotebookNode):
    formatter = {"coloured": TerminalFormatter(), "tagged": HtmlFormatter()}.get(form)
    secrets = submission.pieces(source)
    shown = submission.words(seen(submission.for_student(source)))
    lines = [line for line in secret_lines(source) if submission.words(line) not in shown]
    long = [line for line in lines if len(submission.words(line).split()) > 6]
    assert len(long) > 30
    for line in long:
        text = highlight(line, PythonLexer(), formatter) if formatter else line
        output = submission.shown(new_output("stream", name="stdout", text=f"3\n{text}\n4"), secrets, test=False)
        assert output.text == submission.LEFT_OUT, line


@pytest.mark.parametrize(
    ("ename", "evalue", "said"),
    [
        ("Wrong", "Your change has the shape [2]; [3] is wanted.", "Not yet. Your change has the shape [2]; [3] is wanted."),
        ("KeyboardInterrupt", "", "Not yet. The test was stopped: it took longer than a cell may."),
        ("NameError", "name 'torch' is not defined\nand more", "Not yet. The test stopped with NameError: name 'torch' is not defined"),
    ],
)
def test_an_error_of_a_test_is_one_sentence(ename: str, evalue: str, said: str):
    error = new_output("error", ename=ename, evalue=evalue, traceback=["Cell In[3], line 7", "----> 7 secret = 3"])
    assert submission.shown(error, set(), test=True).traceback == [said]


def test_the_sentences_of_hidden_tests_stay(source: NotebookNode):
    code = "\n".join(cell.source for cell in hidden_tests(source).values())
    texts = [text[1:-1] for text in submission.TEXT.findall(code) if not text.startswith("f") and len(text.split()) > 4]
    assert texts
    for text in texts:
        error = new_output("error", ename="Wrong", evalue=f"{text}: no.", traceback=["line 3"])
        assert submission.shown(error, submission.pieces(source), test=True).traceback == [f"Not yet. {text}: no."]


def test_what_a_student_printed_and_did_wrong_stays(source: NotebookNode):
    notebook = perfect(source, source.metadata["name"])
    told = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, original in zip(notebook.cells, source.cells, strict=True):
        cell.source = original.source
    for cell in told:
        cell.outputs = [
            new_output("stream", name="stdout", text=f"tensor([0., 0., 1., 0.]), found 12 for k in range\n{cell.source.splitlines()[0]}"),
            new_output("stream", name="stdout", text="Your share is not the right one; the right change is [0.1, 0.2]."),
        ]
        cell.outputs += [] if submission.is_test(cell) else [new_output("error", ename="ValueError", evalue="no", traceback=["line 3"])]
    before = [deepcopy(cell.outputs) for cell in told]
    after = [cell.outputs for cell in submission.for_student(notebook).cells if cell.cell_type == "code"]
    assert after == before


def test_graded_cells_say_what_they_are_about(source: NotebookNode):
    notebook = submission.for_student(source, unread={"question-a"})
    titles = {about(cell)["grade_id"]: about(cell)["title"] for cell in notebook.cells if about(cell).get("grade")}
    assert len(set(titles.values())) == len(titles) == 12
    assert all(re.fullmatch(rf"{name}: .{{10,}}[^.]", titles[name]) for name in hidden_tests(source))
    assert [name for cell in notebook.cells if about(cell).get("unread") and (name := about(cell)["grade_id"])] == ["question-a"]


# --------------------------------------------------------------------------------------------------------------- by nbgrader


def in_work(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs teaching/grade.py with a folder of its own for what it writes."""
    env = os.environ | {"COURSE_GRADING": str(folder), "COURSE_CELL_SECONDS": "30", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-m", "teaching.grade", *command], cwd=ROOT, env=env, capture_output=True, text=True)


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by student."""
    with (folder / "grades.csv").open(encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """The folder of a course in which one assignment was graded by nbgrader, and the rows of its table by student."""
    base = tmp_path_factory.mktemp("course")
    write_all(base / "submissions", BY_NBGRADER, [path for path in PATHS if path.stem == GRADED_BY_NBGRADER])
    (base / "submissions" / "no-notebook").mkdir()
    (base / "submissions" / "no-notebook" / f"{GRADED_BY_NBGRADER}.ipynb").write_text("see attachment", encoding="utf-8")
    done = in_work(base / "grading", "grade", str(base / "submissions"))
    assert done.returncode == 0, done.stdout + done.stderr
    (base / "screen.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return base / "grading", table_of(base / "grading")


@needs_nbgrader
@pytest.mark.parametrize("kind", BY_NBGRADER)
def test_nbgrader_gives_the_points_that_are_deserved(kind: str, graded: tuple[Path, dict[str, dict[str, str]]]):
    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    right = of_untidy(kind, source) if kind in UNTIDY else gained(kind, source)
    right = sum(deserved(kind, source, GRADED_BY_NBGRADER).values()) if kind in MADE else right
    assert float(graded[1][kind]["automatic"]) == right
    assert float(graded[1][kind]["of"]) == 40


@needs_nbgrader
def test_written_answers_wait_for_a_person_and_empty_ones_do_not(graded: tuple[Path, dict[str, dict[str, str]]]):
    assert graded[1]["perfect"]["note"] == "written answers to read"
    assert graded[1]["empty"]["note"] == ""
    assert graded[1]["edited-tests"]["note"].startswith(submission.MISSING)


@needs_nbgrader
def test_a_file_that_is_no_notebook_is_named_and_holds_nobody_up(graded: tuple[Path, dict[str, dict[str, str]]]):
    row = graded[1]["no-notebook"]
    assert (row["automatic"], row["note"]) == ("", "it is no notebook")


@needs_nbgrader
def test_feedback_says_in_sentences_what_is_wrong(graded: tuple[Path, dict[str, dict[str, str]]]):
    page = (graded[0] / "feedback" / "hard-coded" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.html").read_text(encoding="utf-8")
    assert "Not yet. " in page and "Score: 0.0 / 40.0, 10.0 of them yet to be given by a person" in page
    assert page.count("of 5.0 points: a person has yet to read it") == 4  # in the list at the top, and above each of the two answers


@needs_nbgrader
@pytest.mark.parametrize("kind", ["empty", "hard-coded", "crashing", "snooping", "edited-tests", "copied-often"])
def test_feedback_has_points_and_sentences_and_nothing_of_the_hidden_tests(kind: str, graded: tuple[Path, dict[str, dict[str, str]]]):
    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    folder = graded[0] / "feedback" / kind / GRADED_BY_NBGRADER
    assert [path.name for path in folder.iterdir()] == [f"{GRADED_BY_NBGRADER}.html"]
    page = bare((folder / f"{GRADED_BY_NBGRADER}.html").read_text(encoding="utf-8"))
    assert leaks(page, source) == (0, 0) and "HIDDEN TESTS" not in page
    for name, cell in hidden_tests(source).items():
        assert f"{name}: " in page and f"of {about(cell)['points']:.1f} points" in page
    run = nbformat.read(graded[0] / "autograded" / kind / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.ipynb", as_version=4)
    assert leaks(seen(run), source) == (len(secret_lines(source)), len(secret_names(source)))  # which is not for students


@needs_nbgrader
def test_the_snooping_submission_does_find_the_hidden_tests(graded: tuple[Path, dict[str, dict[str, str]]]):
    """Otherwise that they are not in its feedback would say nothing."""
    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    folder = graded[0] / "autograded" / "snooping" / GRADED_BY_NBGRADER
    run = nbformat.read(folder / f"{GRADED_BY_NBGRADER}.ipynb", as_version=4)
    shown = [bare("\n".join(map(submission.text_of, cell.outputs))) for cell in run.cells[-len(SHOWN_BY_SNOOPING) :]]
    assert [cell.source for cell in run.cells[-len(SHOWN_BY_SNOOPING) :]] == list(SHOWN_BY_SNOOPING)
    assert all(sum(leaks(text, source)) for text in shown), [sum(leaks(text, source)) for text in shown]
    assert (folder / "stolen.txt").is_file()


@needs_nbgrader
def test_a_copied_cell_is_named_to_the_student_and_to_the_instructor(graded: tuple[Path, dict[str, dict[str, str]]]):
    page = graded[0] / "feedback" / "copied-often" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.html"
    assert f"{submission.COPIED}: active-share, " in bare(page.read_text(encoding="utf-8"))
    assert f"{submission.COPIED}: active-share, " in graded[1]["copied-often"]["note"]


@needs_nbgrader
def test_neither_tracebacks_nor_warnings_come_onto_the_screen(graded: tuple[Path, dict[str, dict[str, str]]]):
    screen = (graded[0].parent / "screen.txt").read_text(encoding="utf-8")
    lines = screen.splitlines()
    assert lines[0] == f"{GRADED_BY_NBGRADER}: running the tests of {len(BY_NBGRADER)} notebooks ..."
    assert len(lines) == len(BY_NBGRADER) + 3  # a row for each student, among them one without a notebook, and where the table is
    assert "TCP" not in (graded[0] / "nbgrader.log").read_text(encoding="utf-8")


@needs_nbgrader
def test_the_student_version_has_no_solution_and_no_hidden_test(graded: tuple[Path, dict[str, dict[str, str]]]):
    path = graded[0] / "release" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.ipynb"
    notebook, source = nbformat.read(path, as_version=4), nbformat.read(next(p for p in PATHS if p.stem == path.stem), as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"BEGIN|END (SOLUTION|HIDDEN)|model answer", text)
    assert text.count("raise NotImplementedError") == len(tasks(source)) and text.count("YOUR ANSWER HERE") >= 2
    assert all(re.fullmatch(r"# Hidden tests, .*\n?", cell.source) for cell in hidden_tests(notebook).values())
    assert not any(cell.get("outputs") for cell in notebook.cells)


def read_by_hand(folder: Path, student: str, points: float) -> None:
    """Gives each written answer of a student as many points, as Formgrader would."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for given in book.find_submission_notebook(GRADED_BY_NBGRADER, GRADED_BY_NBGRADER, student).grades:
            if given.needs_manual_grade:
                given.manual_score, given.needs_manual_grade = points, False
        book.db.commit()


@needs_nbgrader
def test_points_given_by_hand_come_into_tables_and_feedback_and_stay_there(graded: tuple[Path, dict[str, dict[str, str]]], tmp_path: Path):
    folder = tmp_path / "grading"
    shutil.copytree(graded[0], folder)
    read_by_hand(folder, "perfect", 3.5)
    done = in_work(folder, "table")
    assert done.returncode == 0, done.stdout + done.stderr
    row = table_of(folder)["perfect"]
    assert (row["automatic"], row["score"], row["note"]) == ("30.0", "37.0", "")
    assert re.search(r"^1_one_neuron,.*,perfect,.*,37\.0,40\.0$", (folder / "nbgrader.csv").read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = folder / "feedback" / "perfect" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.html"
    assert "Score: 37.0 / 40.0" in page.read_text(encoding="utf-8")

    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    for late in ("late", "misnamed"):
        (tmp_path / "later" / late).mkdir(parents=True)
    nbformat.write(empty(source, GRADED_BY_NBGRADER), tmp_path / "later" / "late" / f"Copy of {GRADED_BY_NBGRADER}.ipynb")
    (tmp_path / "later" / "misnamed" / "homework.ipynb").write_text(NOTEBOOK, encoding="utf-8")
    done = in_work(folder, "grade", str(tmp_path / "later"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^misnamed +not graded; no notebook with a known name; found: homework\.ipynb$", done.stdout, flags=re.MULTILINE)
    after = table_of(folder)
    assert after["perfect"] == row
    assert (after["late"]["assignment"], after["late"]["score"], after["late"]["note"]) == (GRADED_BY_NBGRADER, "0.0", "")
    assert set(after) == {*graded[1], "late", "misnamed"} - {"no-notebook"}  # which is not of this call


@needs_nbgrader
def test_a_table_of_nothing_is_answered_in_a_sentence(tmp_path: Path):
    done = in_work(tmp_path / "work", "table")
    assert done.returncode == 1
    assert done.stderr == "Nothing has been graded yet: first run make grade SUBMISSIONS=FOLDER.\n"


@needs_nbgrader
@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_submissions_is_answered_in_a_sentence(folder: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    done = in_work(tmp_path / "work", "grade", str(tmp_path / folder))
    assert done.returncode == 1
    assert re.fullmatch(r"(There is no folder|No assignment lies in) .+\.\n", done.stderr)
