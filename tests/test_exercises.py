"""Exercises: a check explains and never stops, the score is kept, and the solutions of a notebook run in place of its stubs."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from exercise_tools import (
    assert_exercise,
    names_of,
    overwritten_by_solutions,
    solutions,
    solved_cell,
    stubs,
    with_solutions,
)
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.answers import (
    NotYet,
    expect_callable,
    expect_close,
    expect_indices,
    expect_nonzero,
    expect_number,
    expect_tensor,
    expect_text,
)
from helpers.exercises import Exercises
from helpers.html import AMBER, GREEN
from helpers.widgets import html_to_text

ROOT = Path(__file__).parents[1]
DATA = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 4.0]])


def demo() -> Exercises:
    """Three exercises of an invented lesson: a vector, a function, a text; and one with a check that is broken."""
    exercises = Exercises("09_demo")

    @exercises.add("9.1", "Average the rows", minutes=5)
    def average(answer: Any, data: torch.Tensor = DATA) -> str:
        vector = expect_tensor(answer, 3, what="your average")
        expect_nonzero(vector, "your average")
        expect_close(vector, data.mean(0), "your average", hint="Average over the rows.")
        return "That is the average of the rows."

    @exercises.add("9.2", "Write <ReLU>", minutes=8)
    def relu(answer: Any) -> str:
        result = expect_callable(answer)(torch.tensor([-1.0, 2.0]))
        expect_close(expect_tensor(result, 2, what="what your function returns"), torch.tensor([0.0, 2.0]), "what your function returns")
        return "Negative sums become 0."

    @exercises.add("9.3", "Explain", minutes=10, core=False)
    def explain(answer: Any) -> str:
        text = expect_text(answer)
        if len(text.split()) < 3:
            raise NotYet(f"{text!r} is short: write three words or more.")
        return "Thank you."

    return exercises


def test_checks_pass_on_solutions_and_explain_what_is_wrong():
    exercises = demo()
    wrong_averages = [
        (DATA.mean(0) - DATA.mean(0), "Your average has norm 0: did you subtract a mean from itself?"),
        (DATA.sum(0), "points the right way, but is 2 times as long"),
        (-DATA.mean(0), "wrong sign"),
        (DATA.mean(1), "A tensor of shape [3] is needed here, and your average is a tensor of shape [2]."),
        (DATA, "an axis too many"),
        (DATA[0], "is wrong in 2 of its 3 entries, by up to 1. Average over the rows."),
        (DATA[:0].mean(0), "a mean over nothing"),
    ]
    assert_exercise(exercises, "9.1", DATA.mean(0), wrong_averages)
    wrong_functions = [
        (torch.relu(DATA), "hand over its name, without parentheses"),
        (lambda x: None, "does its last line say return?"),
        (lambda x: x + ..., "There is still a `...` to fill in"),
        (lambda x: x / undefined, "NameError, name 'undefined' is not defined"),
        (lambda: 0, "TypeError"),
        (lambda x: x, "What your function returns is wrong in 1 of its 2 entries"),
        (lambda x: exit("bye"), "stopped with an error before it had an answer: SystemExit, bye"),
    ]
    assert_exercise(exercises, "9.2", torch.relu, wrong_functions)
    assert_exercise(exercises, "9.3", "it likes plurals", [("plural", "'plural' is short"), (3, "the number 3")])
    assert_exercise(exercises, "9.1", [1, 1, 1], [([2, 2, 2], "2 times as long"), ("a", "the text 'a'")], data=torch.ones(4, 3))


def test_the_test_of_an_exercise_can_fail():
    exercises = demo()

    @exercises.add("9.4", "Anything goes", minutes=1)
    def anything(answer: Any) -> str:
        return "Fine."

    @exercises.add("9.5", "Puzzled", minutes=1)
    def puzzled(answer: Any) -> str:
        expect_nonzero(answer)
        return "Fine."

    wrong = [(DATA, "axis too many"), (-DATA.mean(0), "wrong sign")]
    for call, words in (
        (lambda: assert_exercise(exercises, "9.1", DATA.sum(0), wrong), "rejects its own solution"),
        (lambda: assert_exercise(exercises, "9.1", DATA.mean(0), wrong[:1]), "two or more typical wrong answers"),
        (lambda: assert_exercise(exercises, "9.1", DATA.mean(0), [*wrong, (DATA, "unicorn")]), "says nothing of 'unicorn'"),
        (lambda: assert_exercise(exercises, "9.4", 1, [(2, ""), (3, "")]), "accepts 2"),
        (lambda: assert_exercise(exercises, "9.5", DATA, [(2, ""), (3, "")]), "did not foresee 2"),
    ):
        with pytest.raises(AssertionError, match=words):
            call()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(max_size=5), st.lists, max_leaves=4
    )
)
def test_no_answer_whatever_ends_in_a_traceback(answer: Any):
    for exercise in demo().known.values():
        verdict = exercise.verdict(answer)
        assert verdict.text.strip() and (not verdict.solved or exercise.number == "9.3")


def test_answers_that_fight_back_do_not_end_in_a_traceback_either():
    itself: list = []
    itself.append(itself)

    class Spiteful:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no")

    for answer in (itself, Spiteful(), 10**10000, float("inf"), {"a": ...}, torch.ones(3, dtype=torch.complex64), torch.ones(0)):
        for exercise in demo().known.values():
            assert not exercise.verdict(answer).solved


SAID = [  # a call, and words of what it says
    (lambda: expect_text(DATA.numpy()), "A text in quotes is needed here, and your answer is a ndarray of shape [2, 3]"),
    (lambda: expect_text(True), "is the truth value True"),
    (lambda: expect_text(3), "is the number 3"),
    (lambda: expect_text((1, 2)), "is a tuple with 2 entries"),
    (lambda: expect_text([1]), "is a list with 1 entry"),
    (lambda: expect_text(torch.relu), "is a function"),
    (lambda: expect_text(object()), "is an object of the kind object"),
    (lambda: expect_text("  "), "an empty text"),
    (lambda: expect_tensor("x" * 50, 2), f"is the text '{'x' * 40}' …"),
    (lambda: expect_tensor(DATA.T, 2, 3), "The axes stand the other way round"),
    (lambda: expect_tensor(DATA[0][None], 3), "Only axes of length 1 differ"),
    (lambda: expect_tensor(DATA[0], 2, 3), "an axis too few"),
    (lambda: expect_tensor(DATA, "row", 4), "A tensor of shape [row, 4] is needed here, and your answer is a tensor of shape [2, 3]."),
    (lambda: expect_tensor([[1.0], [1.0, 2.0]], 2), "a list with 2 entries"),
    (lambda: expect_tensor([1.0, float("inf")], 2), "infinite or no numbers"),
    (lambda: expect_tensor(torch.ones(0), "n"), "is empty"),
    (lambda: expect_tensor(1j), "complex numbers"),
    (lambda: expect_number("seven"), "One number is needed here, and your answer is the text 'seven'."),
    (lambda: expect_number(7, 0, 1, "your share"), "Your share is 7, and it has to lie between 0 and 1."),
    (lambda: expect_indices((5, 768), layer=12, neuron=768), "There is no neuron 768: each neuron has a number from 0 to 767."),
    (lambda: expect_indices((-1, 3), layer=12, neuron=768), "There is no layer -1"),
    (lambda: expect_indices((5, 1.5), layer=12, neuron=768), "Whole numbers are needed here (layer, neuron)"),
    (lambda: expect_indices((5,), layer=12, neuron=768), "a tuple with 1 entry"),
    (lambda: expect_indices("5", layer=12), "the text '5'"),
    (lambda: expect_indices(float("nan"), layer=12), "Whole numbers are needed here (layer)"),
    (lambda: expect_close(2.0, 3.0, "your shift"), "Your shift is 2, and that is too small."),
    (lambda: expect_close(4.0, 3.0, "your shift", hint="Look at the sign."), "that is too large. Look at the sign."),
    (lambda: expect_close(-3.0, 3.0), "the wrong sign"),
    (lambda: expect_close(float("nan"), 3.0), "not a number (NaN)"),
    (lambda: expect_close(1000.5, 1000.0), "too large"),
]


@pytest.mark.parametrize(("call", "words"), SAID)
def test_each_tool_says_what_is_wrong(call: Callable[[], object], words: str):
    with pytest.raises(NotYet) as caught:
        call()
    assert words in str(caught.value)


def test_what_fits_is_handed_on_as_floats():
    weights = torch.ones(3, requires_grad=True)
    assert not expect_tensor(weights, 3).requires_grad and expect_tensor([1, 2], "n").dtype == torch.float32
    assert expect_tensor(DATA, "row", 3).equal(DATA) and expect_number(torch.tensor(3)) == 3.0 and expect_text("  a b ") == "a b"
    for pair in ((5, torch.tensor(185)), torch.tensor([5, 185])):
        assert expect_indices(pair, layer=12, neuron=768) == (5, 185)
    assert expect_indices(3, layer=12) == (3,)
    expect_close(1000.05, 1000.0)  # in proportion
    expect_close(torch.tensor([1e-9, 1.0]), torch.tensor([0.0, 1.0]))


def test_a_card_says_what_it_costs_and_is_safe_html():
    exercises = demo()
    card = exercises.exercise("9.2")
    assert repr(card) == "Exercise 9.2: Write <ReLU> (core, about 8 minutes)"
    assert "Exercise 9.2: Write &lt;ReLU&gt;" in card._repr_html_() and "core, about 8 minutes" in card._repr_html_()
    for answer, solved in ((3, False), (DATA.mean(0), True), (3, True)):  # once solved, it stays solved
        exercises.check("9.1", answer)
        assert exercises.exercise("9.1").solved == solved == ("✓" in exercises.exercise("9.1")._repr_html_())
    card = exercises.exercise("9.1")
    assert html_to_text(card._repr_html_()) == "Exercise 9.1: Average the rows\ncore, about 5 minutes · ✓ solved"
    assert repr(card) == "Exercise 9.1: Average the rows (core, about 5 minutes, solved)"


def test_a_notebook_shows_what_is_solved_by_sign_and_colour_and_the_score_as_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    exercises, shown = demo(), []
    monkeypatch.setattr("helpers.exercises.show", lambda html, text: shown.append((html, text)))
    for number, answer in (("9.1", DATA.mean(0)), ("9.1", ...), ("9.3", "<b>")):
        exercises.check(number, answer)
    (solved, _), (untouched_, _), (short, _) = shown
    assert html_to_text(solved) == "✓ Solved · Exercise 9.1: Average the rows\nThat is the average of the rows."
    assert html_to_text(untouched_).splitlines()[0] == "… Not yet · Exercise 9.1: Average the rows"
    assert "<code>...</code>" in untouched_ and "'&lt;b&gt;' is short" in short
    assert [f"rgb({GREEN})" in html for html in (solved, untouched_, short)] == [True, False, False]
    assert [f"rgb({AMBER})" in html for html in (solved, untouched_, short)] == [False, True, True]
    exercises.score_table(tmp_path)
    html, text = shown[-1]
    words = [line.replace("✓", "").replace("…", "").split() for line in html_to_text(html).splitlines()]
    assert words == [line.split() for line in text.splitlines()], "the table says what the text says"
    assert [row.count("✓") for row in html.split("<tr")[1:]] == [1, 0, 0] and "&lt;ReLU&gt;" in html


def test_numbers_that_are_unknown_taken_or_no_numbers():
    exercises = demo()
    for call, words in (
        (lambda: exercises.exercise("9.9"), "There is no exercise '9.9'; choose one of: 9.1, 9.2, 9.3."),
        (lambda: exercises.check("9.9", 3), "There is no exercise '9.9'"),
        (lambda: exercises.add("9.1", "Again", minutes=1), "'9.1' is taken"),
        (lambda: exercises.add("first", "No number", minutes=1), "'first' is none"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_score_table_and_its_file_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture):
    exercises = demo()
    exercises.check("9.1", DATA.mean(0))
    exercises.check("9.1", ...)
    exercises.check("9.2", 3)
    exercises.score_table(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "Solved. That is the average of the rows.",
        "Not yet. There is still a `...` to fill in: put your own answer there, then run the cell again.",
        "Not yet. A function is needed here, and your answer is the number 3: hand over its name, without parentheses.",
        "  9.1  Average the rows  core        5 min  solved",
        "  9.2  Write <ReLU>      core        8 min  not yet",
        "  9.3  Explain           optional   10 min  not yet",
        "Solved: 1 of 2 core exercises, 0 of 1 optional ones. The same is in results.json.",
    ]
    facts = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["09_demo"]
    assert (facts["core_solved"], facts["optional_solved"]) == (1, 0)
    assert facts["exercises"][0] == {"number": "9.1", "title": "Average the rows", "core": True, "minutes": 5, "solved": True}
    assert [row["solved"] for row in facts["exercises"]] == [True, False, False]


@pytest.mark.parametrize("before", ['{"08_other": {"core_solved": 2}}', "damaged", "[]"])
def test_results_of_other_notebooks_stay_and_a_damaged_file_is_replaced(before: str, tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text(before, encoding="utf-8")
    demo().score().write(path)
    results = json.loads(path.read_text(encoding="utf-8"))
    assert set(results) == ({"08_other", "09_demo"} if "other" in before else {"09_demo"})


FOLDED = "<details><summary>Solution {}</summary>\n\n```python\n{}```\n</details>"
LESSON = """
from typing import Any
from helpers.exercises import Exercises
from helpers.answers import expect_number

exercises = Exercises("09_demo")
check, score_table = exercises.check, exercises.score_table

@exercises.add("9.1", "Double it", minutes=1)
def double(answer: Any) -> str:
    return f"Twice 21 is {expect_number(answer, 42, 42):g}."

@exercises.add("9.2", "Halve it", minutes=1)
def halve(answer: Any) -> str:
    return f"Half of 84 is {expect_number(answer, 42, 42):g}."
"""


def write_notebook(folder: Path, *sources: str) -> Path:
    """A notebook of these cells; those that begin with < are text."""
    path = folder / "09_demo.ipynb"
    cells = [new_markdown_cell(source) if source.startswith("<") else new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), path)
    return path


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A lesson with two exercises, the second of which builds on a value of the notebook."""
    return write_notebook(
        tmp_path,
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{LESSON}",
        "start = 21",
        "<p>Double it.</p>",
        'twice = ...\ncheck("9.1", twice)',
        FOLDED.format("9.1", "twice = 2 * start\n") + "\n\n" + FOLDED.format("9.2", "half = 4 * start / 2\n"),
        'half = ...\ncheck(\n    "9.2",\n    half,\n)',
        "score_table()",
    )


def test_a_solution_takes_the_stubs_place_above_the_check(notebook: Path):
    assert solutions(notebook) == {"9.1": "twice = 2 * start\n", "9.2": "half = 4 * start / 2\n"}
    code = [cell.source for cell in with_solutions(notebook).cells if cell.cell_type == "code"]
    assert code[2:] == ['twice = 2 * start\ncheck("9.1", twice)', 'half = 4 * start / 2\ncheck(\n    "9.2",\n    half,\n)', "score_table()"]
    assert "..." in notebook.read_text(encoding="utf-8"), "the reader's notebook stays as it is"
    with pytest.raises(AssertionError, match=r"ends in check\(number, answer\)"):
        solved_cell("x = ...", "x = 1")


@pytest.mark.parametrize(
    ("source", "used", "made"),
    [
        ("a = b + c[d].e", "bcd", "a"),
        ("import torch.nn as a, b.c\nfrom d import e as f", "", "abf"),
        ("x = [a for a in b if c]", "bc", "x"),
        ("def f(a, b=c):\n    d = a + e\n    return d", "ce", "f"),
        ("a.add(b)\nc[0] = d\ne.f = lambda g: g + h", "abcdeh", ""),
        ("for a in b:\n    c += a", "abc", "ac"),
        ("!pip install {a}\n%cd -q b\nc = 1", "", "c"),
    ],
)
def test_the_names_of_a_cell_are_read_off_its_code(source: str, used: str, made: str):
    found = names_of(source)
    assert (found.used - {"get_ipython"}, found.made) == (set(used), set(made))


@pytest.mark.parametrize(
    ("after", "said"),
    [("print(a)", ["9.1: a"]), ("a = 3\nprint(a)", []), ("a = 3", []), ("print(b)", []), ("print([a for a in b])", [])],
)
def test_a_solution_that_takes_a_value_away_from_later_cells_is_reported(after: str, said: list[str], tmp_path: Path):
    solution = FOLDED.format("9.1", "a = 2\nx = a\n")
    path = write_notebook(tmp_path, "a, b = 1, [1]", 'x = ...\ncheck("9.1", x)', solution, after)
    assert overwritten_by_solutions(path) == said


@pytest.mark.parametrize("module", sorted((ROOT / "helpers").glob("*/exercises_*.py")), ids=lambda module: module.stem)
def test_each_exercise_of_a_lesson_has_a_folded_solution(module: Path):
    """That they solve it is seen when the notebook runs (conftest.py)."""
    [notebook] = (ROOT / "notebooks").glob(f"{module.stem.removeprefix('exercises_')}_*.ipynb")
    assert stubs(with_solutions(notebook)).keys() == import_module(f"helpers.{module.parent.name}.{module.stem}").exercises.known.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_no_solution_of_a_lesson_takes_a_value_away_from_later_cells(path: Path):
    assert overwritten_by_solutions(path) == []


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([FOLDED.format("9.1", "x = 1\n")] * 2, "two solutions 9.1"),
        (["<details><summary>Solution 9.1</summary>\nThink.\n</details>"], "no block that begins with ```python"),
        (['check("9.1", 1)', 'check("9.1", 2)'], "two cells check exercise 9.1"),
        ([FOLDED.format("9.1", "x = 1\n"), 'check("9.2", 1)'], r"solutions \['9.1'\] and stubs \['9.2'\]"),
    ],
)
def test_a_notebook_whose_exercises_are_not_whole_is_named(cells: list[str], words: str, tmp_path: Path):
    with pytest.raises(AssertionError, match=words):
        with_solutions(write_notebook(tmp_path, *cells))
