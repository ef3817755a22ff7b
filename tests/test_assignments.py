"""The graded assignments: what their sources promise, and that made submissions get the points that they deserve (see test_grading.py)."""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest
import torch
from assignment_tools import (
    CASES,
    HIDDEN,
    MADE,
    PATHS,
    about,
    deserved,
    grades,
    hidden_tests,
    of_case,
    of_task,
    outcomes,
    points,
    runs,
    tasks,
)
from nbformat import NotebookNode

from helpers.answers import NotYet
from teaching import graded

STEMS = [path.stem for path in PATHS]


@pytest.fixture(scope="module", params=PATHS, ids=STEMS)
def source(request: pytest.FixtureRequest) -> NotebookNode:
    """The source of an assignment; its name stands in its metadata here."""
    notebook = nbformat.read(request.param, as_version=4)
    notebook.metadata["name"] = request.param.stem
    return notebook


@pytest.fixture
def gradients() -> Iterator[None]:
    """Assignments switch gradients off; other tests need them."""
    with torch.enable_grad():
        yield


# --------------------------------------------------------------------------------------------------------------- the sources


def test_there_is_an_assignment_for_each_section():
    assert {"1", "2", "3", "4"} <= {stem[0] for stem in STEMS}


def test_an_assignment_has_thirty_points_for_code_and_ten_for_two_written_answers(source: NotebookNode):
    written = [cell for cell in source.cells if about(cell).get("grade") and about(cell)["solution"]]
    assert sum(points(source).values()) == 30
    assert [about(cell)["points"] for cell in written] == [5, 5]
    assert all(cell.cell_type == "markdown" and "A model answer" in cell.source for cell in written)


def test_the_points_and_minutes_that_headings_promise_add_up(source: NotebookNode):
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## \d .*\((\d+) points, about (\d+) minutes\)$", text, flags=re.MULTILINE)
    total = re.search(r"^\*About (\d+) minutes", text, flags=re.MULTILINE)
    assert total and len(headings) == 6
    assert sum(int(worth) for worth, _ in headings) == 40
    minutes = sum(int(each) for _, each in headings)
    assert 60 <= int(total[1]) <= 90 and abs(minutes - int(total[1])) <= 5
    for task, (worth, _) in zip(tasks(source), headings, strict=False):
        assert sum(points(source)[test] for test in of_task(task, source)) == int(worth), task


def test_names_of_cells_differ_and_all_metadata_is_of_one_version(source: NotebookNode):
    names = [about(cell)["grade_id"] for cell in source.cells if about(cell)]
    assert len(names) == len(set(names))
    assert all(about(cell)["schema_version"] == 3 for cell in source.cells if about(cell))


def test_each_task_has_an_example_that_one_sees_and_two_tests_that_one_does_not(source: NotebookNode):
    locked = {about(cell)["grade_id"] for cell in source.cells if about(cell).get("locked")}
    for task in tasks(source):
        assert f"{task}-visible" in locked
        assert len(of_task(task, source)) == 2


def test_hidden_tests_are_hidden_whole_and_say_what_they_are_about(source: NotebookNode):
    for name, cell in hidden_tests(source).items():
        shown = HIDDEN.sub("", cell.source + "\n")
        assert re.fullmatch(rf"# Hidden tests, {about(cell)['points']} points: .+\.\n", shown), name


def test_no_test_ends_on_a_value_which_nbgrader_would_take_for_a_grade(source: NotebookNode):
    for name, cell in hidden_tests(source).items():
        last = ast.parse(cell.source).body[-1]
        assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and last.value.func.id == "print", name


@pytest.mark.parametrize(
    ("answer", "share", "words"),
    [
        ([1.0, float("inf"), 0.1], 0.0, ""),
        (torch.tensor([1.0, float("inf"), 0.1], dtype=torch.float64), 0.0, ""),
        ([1.0, 2.0, 0.1], 0.34, ""),
        ([1.0, 2.0, 0.1], 0.3, "Your list is not the right one in 33% of its entries; it begins with [1.0, 2.0, 0.1"),
        ([1.0, float("inf")], 0.5, "Your list has the shape [2]; [3] is wanted."),
    ],
)
def test_rounding_may_cost_a_share_of_the_entries_and_no_more(answer: object, share: float, words: str):
    def said() -> str:
        try:
            graded.mostly(answer, torch.tensor([1.0, float("inf"), 0.1]), "your list", share)
        except NotYet as problem:
            return str(problem)
        return ""

    assert said().startswith(words) and bool(said()) == bool(words)


# ------------------------------------------------------------------------------------------------------- made submissions


@pytest.mark.parametrize("kind", MADE)
def test_a_made_submission_gets_the_points_that_it_deserves(kind: str, source: NotebookNode, gradients: None):
    name = source.metadata["name"]
    assert grades(source, MADE[kind](source, name)) == deserved(kind, source, name)


def test_hard_coded_answers_pass_what_one_sees(source: NotebookNode, gradients: None):
    """Otherwise their 0 points would say nothing about the hidden tests."""
    passed = outcomes(source, MADE["hard-coded"](source, source.metadata["name"]))
    assert all(passed[f"{task}-visible"] for task in tasks(source)), passed


@pytest.mark.parametrize("name", CASES)
def test_a_single_task_loses_only_what_it_should(name: str, gradients: None):
    case = CASES[name]
    source = nbformat.read(next(path for path in PATHS if path.stem == case.assignment), as_version=4)
    found = grades(source, of_case(case, source))
    assert {test: gained for test, gained in found.items() if test.startswith(f"{case.task}-")} == {
        test: 0 if test in case.lost else points(source)[test] for test in of_task(case.task, source)
    }
    assert sum(found.values()) == 30 - sum(points(source)[test] for test in case.lost)


def test_an_example_can_be_run_without_those_before_it(source: NotebookNode, gradients: None):
    """Who goes on at a later task in a new session needs its cells only."""
    notebook = MADE["perfect"](source, source.metadata["name"])
    imports = [cell for cell in notebook.cells if cell.cell_type == "code"][1]
    for task, cell in tasks(notebook).items():
        example = next(other for other in source.cells if about(other).get("grade_id") == f"{task}-visible")
        names: dict[str, object] = {"__name__": "__main__"}
        assert all(runs(each.source, names) for each in (imports, cell, example)), task
