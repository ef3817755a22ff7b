"""Grading with nbgrader, as `make grade` does it: made submissions and attacks get the points that they deserve, and nobody is held up.

What needs no nbgrader, the taking in of submissions and the table, is tested without it.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from assignment_tools import ATTACKS, MADE, PATHS, ROOT, deserved, empty, gained, hidden_tests, tasks, write_all

sys.path.insert(0, str(ROOT / "tools"))
import grade

REASON = 'nbgrader is not installed: pip install --constraint constraints.txt --editable ".[instructor]"'
GRADED_BY_NBGRADER = "1_one_neuron"
BY_NBGRADER = {kind: MADE[kind] for kind in ("perfect", "hard-coded")} | ATTACKS
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
        "dua": ("1_one_neuron", "", "", "it could not be run: see what nbgrader said"),
        "eve": ("", "", "", "no notebook"),
    }


@pytest.mark.parametrize("folder", [".", "grading", "grading/autograded", "grading/submitted/ann"])
def test_what_grading_has_written_is_no_folder_of_submissions(folder: str, work: Path, tmp_path: Path):
    handed_in(work, "autograded/ann/1_one_neuron/1_one_neuron.ipynb", "submitted/ann/1_one_neuron/1_one_neuron.ipynb")
    with pytest.raises(SystemExit, match="lies what grading itself writes"):
        grade.grade(tmp_path / folder)


# --------------------------------------------------------------------------------------------------------------- by nbgrader


def in_work(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs tools/grade.py with a folder of its own for what it writes."""
    env = os.environ | {"COURSE_GRADING": str(folder), "COURSE_CELL_SECONDS": "30", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "grade.py", *command], cwd=folder.parent, env=env, capture_output=True, text=True
    )


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
    return base / "grading", table_of(base / "grading")


@needs_nbgrader
@pytest.mark.parametrize("kind", BY_NBGRADER)
def test_nbgrader_gives_the_points_that_are_deserved(kind: str, graded: tuple[Path, dict[str, dict[str, str]]]):
    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    right = gained(kind, source) if kind in ATTACKS else sum(deserved(kind, source, GRADED_BY_NBGRADER).values())
    assert float(graded[1][kind]["automatic"]) == right
    assert float(graded[1][kind]["of"]) == 40


@needs_nbgrader
def test_written_answers_wait_for_a_person_and_empty_ones_do_not(graded: tuple[Path, dict[str, dict[str, str]]]):
    assert graded[1]["perfect"]["note"] == "written answers to read"
    assert graded[1]["edited-tests"]["note"] == ""


@needs_nbgrader
def test_a_file_that_is_no_notebook_is_named_and_holds_nobody_up(graded: tuple[Path, dict[str, dict[str, str]]]):
    row = graded[1]["no-notebook"]
    assert (row["automatic"], row["note"]) == ("", "it is no notebook")


@needs_nbgrader
def test_feedback_says_in_sentences_what_is_wrong(graded: tuple[Path, dict[str, dict[str, str]]]):
    page = (graded[0] / "feedback" / "hard-coded" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.html").read_text(encoding="utf-8")
    assert "Not yet. " in page and "Score: 0.0 / 40.0" in page


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
