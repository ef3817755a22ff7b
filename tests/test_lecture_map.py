"""The map of the lecture: a row for each of its figures, and every name that a row fills in holds against the tree."""

import ast
import csv
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
COLUMNS = ["figure", "section", "claim", "notebook", "cell", "helper", "test"]
PLACES = COLUMNS[3:]  # filled when a lesson shows the figure: all four, or none yet
FIGURES = [*range(1, 5), *range(6, 59)]  # the lecture numbers its figures from 1 to 58 and has no figure 5
SECTIONS = {"1 One neuron": 10, "2 One layer": 31, "3 A cluster of neurons": 41, "4 Thoughts in words": 58}  # and its last figure

Row = dict[str, str]


def read_map(path: Path) -> tuple[Row, ...]:
    """The rows of a map, each as a dictionary of its columns."""
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


ROWS = read_map(ROOT / "data" / "lecture_map.csv")


# ------------------------------------------------------------------------------------------------------- the rows


def problems_of_map(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the map as a whole: columns, figures, sections and claims."""
    if any(list(row) != COLUMNS or None in row.values() for row in rows):
        return [f"every row must have the columns {', '.join(COLUMNS)}"]
    if [row["figure"] for row in rows] != [str(figure) for figure in FIGURES]:
        return [f"it must have one row for each of the {len(FIGURES)} figures, in their order"]
    twice = ["two figures have the same claim"] if len({row["claim"] for row in rows}) < len(rows) else []
    return twice + [problem for row in rows for problem in problems_of_words(row)]


def problems_of_words(row: Row) -> list[str]:
    """What is wrong with the section and the claim of one row."""
    found = []
    section = next(section for section, last in SECTIONS.items() if int(row["figure"]) <= last)
    if row["section"] != section:
        found.append(f"figure {row['figure']} belongs to the section {section!r}")
    if not row["claim"].endswith(".") or len(row["claim"]) < 30:
        found.append(f"the claim of figure {row['figure']} is no sentence")
    return found


def problems_of_row(row: Row, root: Path) -> list[str]:
    """Which of the names that one row fills in do not hold in the tree below ``root``."""
    filled = [place for place in PLACES if row[place]]
    if not filled:
        return []
    if filled != PLACES:
        return [f"figure {row['figure']} fills in {', '.join(filled)}, but must fill in all of {', '.join(PLACES)} or none"]
    found = [problem_of_cell(row, root), problem_of_helper(row, root), problem_of_test(row, root)]
    return [f"figure {row['figure']}: {problem}" for problem in found if problem]


def problem_of_cell(row: Row, root: Path) -> str:
    """Does the notebook exist, and does exactly one of its cells have the figure's tag?"""
    if row["cell"] != tag(row["figure"]):
        return f"its cell must be tagged {tag(row['figure'])}, not {row['cell']}"
    if not notebook_path(row, root).is_file():
        return f"there is no notebook {row['notebook']}"
    count = tags(notebook_path(row, root)).count(row["cell"])
    return "" if count == 1 else f"{count} cells of {row['notebook']} are tagged {row['cell']}"


def problem_of_helper(row: Row, root: Path) -> str:
    """Can ``module.function`` be imported from helpers, and does the notebook use it?"""
    module, _, name = row["helper"].rpartition(".")
    try:
        getattr(import_module(f"helpers.{module}"), name)
    except (ImportError, AttributeError, ValueError):
        return f"helpers has no {row['helper']}"
    used = notebook_path(row, root).is_file() and name in code(notebook_path(row, root))
    return "" if used else f"{row['notebook']} never uses {name}"


def problem_of_test(row: Row, root: Path) -> str:
    """Does ``file::name`` name a test?"""
    file, _, name = row["test"].partition("::")
    path = root / "tests" / file
    return "" if path.is_file() and name in names_of_tests(path) else f"there is no test {row['test']}"


def tag(figure: str) -> str:
    """The tag of the cell that shows a figure.

    >>> tag("8"), tag("58")
    ('fig-08', 'fig-58')
    """
    return f"fig-{int(figure):02}"


def notebook_path(row: Row, root: Path) -> Path:
    return root / "notebooks" / f"{row['notebook']}.ipynb"


@cache
def tags(path: Path) -> tuple[str, ...]:
    """All tags of a notebook's cells, one after the other."""
    return tuple(tag for cell in nbformat.read(path, as_version=4).cells for tag in cell.metadata.get("tags", []))


@cache
def code(path: Path) -> str:
    """The code of a notebook."""
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@cache
def names_of_tests(path: Path) -> tuple[str, ...]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def test_every_figure_of_the_lecture_has_its_row():
    assert len(ROWS) == 57
    assert problems_of_map(ROWS) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: tag(row["figure"]))
def test_every_name_of_a_row_holds(row: Row):
    assert problems_of_row(row, ROOT) == []


def test_no_cell_shows_a_figure_that_the_map_does_not_know_of():
    shown = {
        (path.relative_to(ROOT / "notebooks").with_suffix("").as_posix(), name)
        for path in (ROOT / "notebooks").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
        for name in tags(path)
        if name.startswith("fig-")
    }
    assert shown == {(row["notebook"], row["cell"]) for row in ROWS if row["notebook"]}


# ------------------------------------------------------------------------------------- the checks find what is wrong


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in which ``filled`` holds: a notebook with a tagged cell, and a file with a test."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tests").mkdir()
    cells = [new_code_cell("readable('')", metadata={"tags": [name]}) for name in ("fig-08", "fig-09", "fig-09")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "01_one.ipynb")
    (tmp_path / "tests" / "test_one.py").write_text("def test_it():\n    assert True\n\n\ndef helper():\n    pass\n")
    return tmp_path


def filled(**changes: str) -> Row:
    """A row whose names hold in ``tree``, but for the changes."""
    row = {"figure": "8", "section": "1 One neuron", "claim": "A sentence.", "notebook": "01_one", "cell": "fig-08"}
    return row | {"helper": "widgets.readable", "test": "test_one.py::test_it"} | changes


WRONG = {
    "no notebook": {"notebook": "01_two"},
    "0 cells": {"figure": "7", "cell": "fig-07"},
    "2 cells": {"figure": "9", "cell": "fig-09"},
    "must be tagged fig-08": {"cell": "fig-8"},
    "no widgets.unreadable": {"helper": "widgets.unreadable"},
    "no nowhere.readable": {"helper": "nowhere.readable"},
    "helpers has no readable": {"helper": "readable"},
    "never uses PromptExplorer": {"helper": "widgets.PromptExplorer"},
    "no test test_one.py::test_other": {"test": "test_one.py::test_other"},
    "no test test_one.py::helper": {"test": "test_one.py::helper"},
    "no test test_two.py::test_it": {"test": "test_two.py::test_it"},
    "no test test_one.py": {"test": "test_one.py"},
    "or none": {"test": ""},
    "must fill in all": {"notebook": "", "cell": "", "helper": ""},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_row_that_is_wrong_on_purpose_is_reported(sentence: str, tree: Path):
    assert problems_of_row(filled(), tree) == []
    assert any(sentence in problem for problem in problems_of_row(filled(**WRONG[sentence]), tree))


def with_row(place: int, **changes: str) -> list[Row]:
    """The map with one row changed."""
    return [row | changes if number == place else row for number, row in enumerate(ROWS)]


WRONG_MAPS = {
    "columns": lambda: [{**row, "page": "1"} for row in ROWS],
    "one row for each": lambda: ROWS[1:],
    "in their order": lambda: [ROWS[1], ROWS[0], *ROWS[2:]],
    "of the 57 figures": lambda: [*ROWS[:4], ROWS[3] | {"figure": "5", "claim": "There is a figure with the number five."}, *ROWS[4:]],
    "the same claim": lambda: with_row(1, claim=ROWS[0]["claim"]),
    "no sentence": lambda: with_row(1, claim="swearing"),
    "belongs to the section '1 One neuron'": lambda: with_row(1, section="2 One layer"),
}


@pytest.mark.parametrize("sentence", WRONG_MAPS)
def test_a_map_that_is_wrong_on_purpose_is_reported(sentence: str):
    assert any(sentence in problem for problem in problems_of_map(WRONG_MAPS[sentence]()))
