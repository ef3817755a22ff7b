"""The graded assignments: what their sources promise, and that made submissions get the points that they deserve (see test_grading.py)."""

import ast
import re
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from assignment_tools import (
    CASES,
    HIDDEN,
    MADE,
    SOURCES,
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


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> NotebookNode:
    """The source of an assignment."""
    return SOURCES[request.param]


@pytest.fixture
def gradients() -> Iterator[None]:
    """Assignments switch gradients off; other tests need them."""
    with torch.enable_grad():
        yield


# --------------------------------------------------------------------------------------------------------------- the sources


def test_there_is_an_assignment_for_each_section():
    assert {"1", "2", "3", "4"} <= {name[0] for name in SOURCES}


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


def test_names_of_cells_differ_and_all_metadata_is_of_one_version():
    marks = [about(cell) for source in SOURCES.values() for cell in source.cells if about(cell)]
    tasks_of_all = [task for source in SOURCES.values() for task in tasks(source)]
    assert all(mark["schema_version"] == 3 for mark in marks)
    assert len(set(tasks_of_all)) == len(tasks_of_all)
    for source in SOURCES.values():
        names = [about(cell)["grade_id"] for cell in source.cells if about(cell)]
        assert len(names) == len(set(names))


def test_each_task_has_an_example_that_one_sees_and_two_tests_that_one_does_not(source: NotebookNode):
    locked = {about(cell)["grade_id"] for cell in source.cells if about(cell).get("locked")}
    assert all(f"{task}-visible" in locked and len(of_task(task, source)) == 2 for task in tasks(source))


def test_hidden_tests_are_hidden_whole_say_what_they_are_about_and_end_on_no_value(source: NotebookNode):
    """A value at the end would be a grade for nbgrader."""
    for name, cell in hidden_tests(source).items():
        shown = HIDDEN.sub("", cell.source + "\n")
        assert re.fullmatch(rf"# Hidden tests, {about(cell)['points']} points: .+\.\n", shown), name
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
    with pytest.raises(NotYet, match=f"^{re.escape(words)}") if words else nullcontext():
        graded.mostly(answer, torch.tensor([1.0, float("inf"), 0.1]), "your list", share)


# ------------------------------------------------------------------------------------------------------- made submissions


@pytest.mark.parametrize("kind", MADE)
def test_a_made_submission_gets_the_points_that_it_deserves(kind: str, source: NotebookNode, gradients: None):
    passed = outcomes(source, MADE[kind](source))
    assert grades(source, passed) == deserved(kind, source)
    if kind == "hard-coded":  # it passes what one sees: otherwise its 0 points would say nothing about the hidden tests
        assert all(passed[f"{task}-visible"] for task in tasks(source)), passed


@pytest.mark.parametrize("name", CASES)
def test_a_single_task_loses_only_what_it_should(name: str, gradients: None):
    case = CASES[name]
    source = next(source for source in SOURCES.values() if case.task in tasks(source))
    found = grades(source, outcomes(source, of_case(case, source)))
    assert found == {test: 0 if test in case.lost else worth for test, worth in points(source).items()}


def test_an_example_can_be_run_without_those_before_it(source: NotebookNode, gradients: None):
    """Who goes on at a later task in a new session needs its cells only."""
    notebook = MADE["perfect"](source)
    imports = [cell for cell in notebook.cells if cell.cell_type == "code"][1]
    for task, cell in tasks(notebook).items():
        example = next(other for other in source.cells if about(other).get("grade_id") == f"{task}-visible")
        names: dict[str, object] = {"__name__": "__main__"}
        assert all(runs(each.source, names) for each in (imports, cell, example)), task
