"""Grading with nbgrader, as `make grade` does it: made submissions and attacks get the points that they deserve, and nobody is held up."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from assignment_tools import ATTACKS, MADE, PATHS, ROOT, deserved, gained, hidden_tests, tasks, write_all

pytest.importorskip("nbgrader", reason='nbgrader is not installed: pip install --constraint constraints.txt --editable ".[instructor]"')

pytestmark = pytest.mark.instructor
GRADED_BY_NBGRADER = "1_one_neuron"
BY_NBGRADER = {kind: MADE[kind] for kind in ("perfect", "hard-coded")} | ATTACKS


def in_work(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs tools/grade.py with a folder of its own for what it writes."""
    env = os.environ | {"COURSE_GRADING": str(folder), "COURSE_CELL_SECONDS": "30", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "grade.py", *command], cwd=folder.parent, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """The folder of a course in which one assignment was graded by nbgrader, and the rows of its table by student."""
    base = tmp_path_factory.mktemp("course")
    write_all(base / "submissions", BY_NBGRADER, [path for path in PATHS if path.stem == GRADED_BY_NBGRADER])
    (base / "submissions" / "no-notebook").mkdir()
    (base / "submissions" / "no-notebook" / f"{GRADED_BY_NBGRADER}.ipynb").write_text("see attachment", encoding="utf-8")
    done = in_work(base / "grading", "grade", str(base / "submissions"))
    assert done.returncode == 0, done.stdout + done.stderr
    with (base / "grading" / "grades.csv").open(encoding="utf-8") as file:
        return base / "grading", {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", BY_NBGRADER)
def test_nbgrader_gives_the_points_that_are_deserved(kind: str, graded: tuple[Path, dict[str, dict[str, str]]]):
    source = nbformat.read(next(path for path in PATHS if path.stem == GRADED_BY_NBGRADER), as_version=4)
    right = gained(kind, source) if kind in ATTACKS else sum(deserved(kind, source, GRADED_BY_NBGRADER).values())
    assert float(graded[1][kind]["automatic"]) == right
    assert float(graded[1][kind]["of"]) == 40


def test_written_answers_wait_for_a_person_and_empty_ones_do_not(graded: tuple[Path, dict[str, dict[str, str]]]):
    assert graded[1]["perfect"]["note"] == "written answers to read"
    assert graded[1]["edited-tests"]["note"] == ""


def test_a_file_that_is_no_notebook_is_named_and_holds_nobody_up(graded: tuple[Path, dict[str, dict[str, str]]]):
    row = graded[1]["no-notebook"]
    assert (row["automatic"], row["note"]) == ("", "it is no notebook")


def test_feedback_says_in_sentences_what_is_wrong(graded: tuple[Path, dict[str, dict[str, str]]]):
    page = (graded[0] / "feedback" / "hard-coded" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.html").read_text(encoding="utf-8")
    assert "Not yet. " in page and "Score: 0.0 / 40.0" in page


def test_the_student_version_has_no_solution_and_no_hidden_test(graded: tuple[Path, dict[str, dict[str, str]]]):
    path = graded[0] / "release" / GRADED_BY_NBGRADER / f"{GRADED_BY_NBGRADER}.ipynb"
    notebook, source = nbformat.read(path, as_version=4), nbformat.read(next(p for p in PATHS if p.stem == path.stem), as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"BEGIN|END (SOLUTION|HIDDEN)|model answer", text)
    assert text.count("raise NotImplementedError") == len(tasks(source)) and text.count("YOUR ANSWER HERE") >= 2
    assert all(re.fullmatch(r"# Hidden tests, .*\n?", cell.source) for cell in hidden_tests(notebook).values())
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_submissions_is_answered_in_a_sentence(folder: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    done = in_work(tmp_path / "work", "grade", str(tmp_path / folder))
    assert done.returncode == 1
    assert re.fullmatch(r"(There is no folder|No assignment lies in) .+\.\n", done.stderr)
