"""The map of the lecture: a row for each of its figures, and every name in a row holds against the tree."""

import ast
import csv
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
COLUMNS = ["figure", "section", "claim", "notebook", "cell", "helper", "test"]
FIGURES = [*range(1, 5), *range(6, 59)]  # the lecture numbers its figures from 1 to 58 and has no figure 5
SECTIONS = {"1 One neuron": 10, "2 One layer": 31, "3 A cluster of neurons": 41, "4 Thoughts in words": 58}  # and its last figure

Row = dict[str, str]
with (ROOT / "data" / "lecture_map.csv").open(encoding="utf-8", newline="") as stream:
    ROWS: tuple[Row, ...] = tuple(csv.DictReader(stream))


def problems_of_map(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the map as a whole: columns, figures, sections and claims."""
    if any(list(row) != COLUMNS or None in row.values() for row in rows):
        return [f"every row must have the columns {', '.join(COLUMNS)}"]
    if [row["figure"] for row in rows] != [str(figure) for figure in FIGURES]:
        return [f"it must have one row for each of the {len(FIGURES)} figures, in their order"]
    found = ["two figures have the same claim"] if len({row["claim"] for row in rows}) < len(rows) else []
    for row in rows:
        section = next(section for section, last in SECTIONS.items() if int(row["figure"]) <= last)
        if row["section"] != section:
            found.append(f"figure {row['figure']} belongs to the section {section!r}")
        if not row["claim"].endswith(".") or len(row["claim"]) < 30:
            found.append(f"the claim of figure {row['figure']} is no sentence")
    return found


def problems_of_row(row: Row, root: Path) -> list[str]:
    """Which of the names in a row do not hold in the tree below ``root``."""
    path = root / "notebooks" / f"{row['notebook']}.ipynb"
    if not path.is_file():
        return [f"there is no notebook {row['notebook']}"]
    found = []
    if row["cell"] != tag(row["figure"]):
        found.append(f"its cell must be tagged {tag(row['figure'])}, not {row['cell']}")
    elif (count := tags(path).count(row["cell"])) != 1:
        found.append(f"{count} cells of {row['notebook']} are tagged {row['cell']}")
    module, _, name = row["helper"].rpartition(".")
    try:
        getattr(import_module(f"helpers.{module}"), name)
    except (ImportError, AttributeError, ValueError):
        found.append(f"helpers has no {row['helper']}")
    if not any(name in cell.source for cell in cells(path) if cell.cell_type == "code"):
        found.append(f"{row['notebook']} never uses {name}")
    file, _, test = row["test"].partition("::")
    if not test or test not in names_of_tests(root / "tests" / file):
        found.append(f"there is no test {row['test']}")
    return found


def tag(figure: str) -> str:
    """The tag of the cell that shows a figure.

    >>> tag("8"), tag("58")
    ('fig-08', 'fig-58')
    """
    return f"fig-{int(figure):02}"


@cache
def cells(path: Path) -> list[NotebookNode]:
    """The cells of a notebook."""
    return nbformat.read(path, as_version=4).cells


def tags(path: Path) -> list[str]:
    """All tags of a notebook's cells, one after the other."""
    return [tag for cell in cells(path) for tag in cell.metadata.get("tags", [])]


@cache
def names_of_tests(path: Path) -> tuple[str, ...]:
    """The names of the tests in a file; none if there is no such file."""
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return tuple(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def test_every_figure_of_the_lecture_has_its_row():
    assert len(ROWS) == 57
    assert problems_of_map(ROWS) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: tag(row["figure"]))
def test_every_name_of_a_row_holds(row: Row):
    assert problems_of_row(row, ROOT) == []


def test_no_cell_shows_a_figure_that_the_map_does_not_know_of():
    notebooks = [path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    shown = {(path.stem, name) for path in notebooks for name in tags(path) if name.startswith("fig-")}
    assert shown == {(row["notebook"], row["cell"]) for row in ROWS}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in which RIGHT holds: a notebook with a tagged cell, and a file with a test."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tests").mkdir()
    tagged = [new_code_cell("html_to_text('')", metadata={"tags": [name]}) for name in ("fig-08", "fig-09", "fig-09")]
    nbformat.write(new_notebook(cells=tagged), tmp_path / "notebooks" / "01_one.ipynb")
    (tmp_path / "tests" / "test_one.py").write_text("def test_it():\n    assert True\n\n\ndef helper():\n    pass\n")
    return tmp_path


RIGHT = {"figure": "8", "notebook": "01_one", "cell": "fig-08", "helper": "widgets.html_to_text", "test": "test_one.py::test_it"}
WRONG = {
    "no notebook": {"notebook": "01_two"},
    "0 cells": {"figure": "7", "cell": "fig-07"},
    "2 cells": {"figure": "9", "cell": "fig-09"},
    "must be tagged fig-08": {"cell": "fig-8"},
    "no widgets.unreadable": {"helper": "widgets.unreadable"},
    "no nowhere.html_to_text": {"helper": "nowhere.html_to_text"},
    "never uses PromptExplorer": {"helper": "widgets.PromptExplorer"},
    "no test test_one.py::test_other": {"test": "test_one.py::test_other"},
    "no test test_one.py::helper": {"test": "test_one.py::helper"},
    "no test test_two.py::test_it": {"test": "test_two.py::test_it"},
}


def with_second(**changes: str) -> list[Row]:
    """The map with its second row changed."""
    return [ROWS[0], ROWS[1] | changes, *ROWS[2:]]


WRONG_MAPS: dict[str, Sequence[Row]] = {
    "columns": [{**row, "page": "1"} for row in ROWS],
    "one row for each of the 57 figures": ROWS[1:],
    "in their order": [ROWS[1], ROWS[0], *ROWS[2:]],
    "the same claim": with_second(claim=ROWS[0]["claim"]),
    "no sentence": with_second(claim="swearing"),
    "belongs to the section '1 One neuron'": with_second(section="2 One layer"),
}


@pytest.mark.parametrize("sentence", [*WRONG, *WRONG_MAPS])
def test_a_row_or_a_map_that_is_wrong_on_purpose_is_reported(sentence: str, tree: Path):
    assert problems_of_row(RIGHT, tree) == []
    found = problems_of_row(RIGHT | WRONG[sentence], tree) if sentence in WRONG else problems_of_map(WRONG_MAPS[sentence])
    assert any(sentence in problem for problem in found)
