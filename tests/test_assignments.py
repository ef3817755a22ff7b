"""The graded assignments: what their sources promise, and that made submissions get the points that they deserve (see test_grading.py)."""

import ast
import builtins
import re
from collections.abc import Iterator, Mapping

import assignment_tools as made
import pytest
import torch
from assignment_tools import MADE, SOURCES, about, hidden_tests, of_task, points, tasks
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


def test_each_section_has_an_assignment_and_names_of_cells_and_tasks_differ():
    assert {"1", "2", "3", "4"} <= {name[0] for name in SOURCES}
    every = [task for source in SOURCES.values() for task in tasks(source)]
    assert len(set(every)) == len(every)
    for source in SOURCES.values():
        marks = [about(cell) for cell in source.cells if about(cell)]
        assert len({mark["grade_id"] for mark in marks}) == len(marks)
        assert all(mark["schema_version"] == 3 for mark in marks)


def test_each_task_has_an_example_that_one_sees_and_two_tests_that_one_does_not(source: NotebookNode):
    locked = {about(cell)["grade_id"] for cell in source.cells if about(cell).get("locked")}
    assert all(f"{task}-visible" in locked and len(of_task(task, source)) == 2 for task in tasks(source))


def test_hidden_tests_are_hidden_whole_say_what_they_are_about_and_leave_no_value_and_no_name(source: NotebookNode):
    """A value at the end would be a grade for nbgrader, and a name could replace one of the student's."""
    for name, cell in hidden_tests(source).items():
        shown = made.HIDDEN.sub("", cell.source + "\n")
        assert re.fullmatch(rf"# Hidden tests, {about(cell)['points']} points: .+\.\n", shown), name
        *body, last = ast.parse(cell.source).body
        assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and last.value.func.id == "print", name
        functions = [part for part in body if not isinstance(part, ast.Import | ast.ImportFrom)]
        assert all(function.name.startswith("_") or function.decorator_list for function in functions), name


def test_rounding_may_cost_a_share_of_the_entries_and_no_more():
    right = torch.tensor([1.0, float("inf"), 0.1])
    for answer, share in (([1.0, float("inf"), 0.1], 0.0), (right.double(), 0.0), ([1.0, 2.0, 0.1], 0.34)):
        graded.mostly(answer, right, "your list", share)
    with pytest.raises(NotYet, match=r"Your list is not the right one in 33% of its entries; it begins with \[1\.0, 2\.0, 0\.1"):
        graded.mostly([1.0, 2.0, 0.1], right, "your list", 0.3)
    with pytest.raises(NotYet, match=r"Your list has the shape \[2\]; \[3\] is wanted\."):
        graded.mostly([1.0, float("inf")], right, "your list", 0.5)


def test_a_function_gets_copies_and_no_right_answers():
    names = {"_right": 3}
    finds = eval("lambda given: _right", names)
    with pytest.raises(NotYet, match="NameError"):
        graded.run(finds, 1)
    assert finds(1) == 3
    turned = [1, 2]
    assert graded.run(lambda numbers: numbers.reverse() or "right", turned) == "right" and turned == [1, 2]
    with pytest.raises(NotYet, match="changes a tensor that it was given"):
        graded.run(lambda x: x.add_(1), torch.zeros(2))


def failed(source: NotebookNode, passed: Mapping[str, bool]) -> set[str]:
    """The hidden tests that did not pass."""
    return {test for test in points(source) if not passed[test]}


def test_what_is_subtly_wrong_calls_only_what_there_is():
    """Else a name that is gone would be its mistake."""
    for source in SOURCES.values():
        known = {*dir(builtins), *re.findall(r"\w+", "\n".join(cell.source for cell in source.cells if cell.cell_type == "code"))}
        called = {name for task in tasks(source) for name in re.findall(r"(?<![\w.])(\w+)\(", made.SUBTLY_WRONG.get(task, ""))}
        assert called <= known, called - known


@pytest.mark.parametrize("kind", MADE)
def test_a_made_submission_loses_the_tests_that_it_should(kind: str, source: NotebookNode, gradients: None):
    passed = made.outcomes(source, MADE[kind](source))
    assert failed(source, passed) == made.lost(kind, source)
    if kind == "hard-coded":  # it passes what one sees: otherwise its 0 points would say nothing about the hidden tests
        assert all(passed[f"{task}-visible"] for task in tasks(source)), passed


RANKS_FROM_1 = """places = [resid_post(layer) for layer in range(model.cfg.n_layers)]
stream = record(model, tokens, *places)
logits = torch.stack([model.unembed(model.ln_final(stream[place][:, -1:]))[:, 0] for place in places])
return (logits >= logits.gather(-1, answers[None, :, None].expand(len(places), -1, 1))).sum(-1)"""
CLIPPED = """p, q = logits[-1, 1:].softmax(-1).clamp(min=1e-9), logits[:, 1:].softmax(-1).clamp(min=1e-9)
return (p * (p / q).log2()).sum(-1).mean(-1)"""


@pytest.mark.parametrize(
    ("task", "body", "lost"),
    [("ranks", RANKS_FROM_1, {"ranks-course", "ranks-small"}), ("bits-from-end", CLIPPED, {"bits-from-end-edges"})],
    ids=["ranks from 1", "probabilities clipped"],
)
def test_a_single_task_loses_only_what_it_should(task: str, body: str, lost: set[str], gradients: None):
    source = SOURCES["4_thoughts"]
    assert failed(source, made.outcomes(source, made.with_bodies(source, {task: body}))) == lost


def test_an_example_can_be_run_without_those_before_it(source: NotebookNode, gradients: None):
    """Who goes on at a later task in a new session needs its cells only."""
    notebook = MADE["perfect"](source)
    imports = [cell for cell in notebook.cells if cell.cell_type == "code"][1]
    for task, cell in tasks(notebook).items():
        example = next(other for other in source.cells if about(other).get("grade_id") == f"{task}-visible")
        names: dict[str, object] = {"__name__": "__main__"}
        assert all(made.runs(each.source, names) for each in (imports, cell, example)), task
