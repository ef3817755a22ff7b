"""Writes docs/lecture_map.md from data/lecture_map.csv: where each figure of the lecture comes alive; `make pages`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lecture_map.md"
HEAD = """# The figures of the lecture

Where each of the 57 figures of the lecture comes alive. The cell that shows it is tagged with its number (`fig-07`) and stands in the
section named here. Written by `make pages` from `data/lecture_map.csv`.

| figure | what the lecture says | where | helper |
|---|---|---|---|
"""


def section(notebook: nbformat.NotebookNode, tag: str) -> str:
    """The heading above the cell with a tag. Raises ValueError if no cell has it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = [text.lstrip("# ") for text in cell.source.splitlines() if text.startswith("#")]
            heading = found[-1] if found else heading
        if tag in cell.metadata.get("tags", []):
            return heading
    raise ValueError(f"No cell is tagged {tag}: tag the one that shows this figure.")


def number(name: str) -> str:
    """The number of a lesson, such as 02a, from the name of its notebook."""
    return name.split("_")[0]


def line(row: Mapping[str, str], notebook: nbformat.NotebookNode) -> str:
    """One figure."""
    claim = row["claim"].replace("|", r"\|")
    return f"| {row['figure']} | {claim} | [{number(row['notebook'])}], *{section(notebook, row['cell'])}* | `helpers.{row['helper']}` |"


def page(rows: Sequence[Mapping[str, str]], folder: Path = ROOT / "notebooks") -> str:
    """The whole page."""
    notebooks = {name: nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in sorted({row["notebook"] for row in rows})}
    figures = [line(row, notebooks[row["notebook"]]) for row in rows]
    links = [f"[{number(name)}]: ../notebooks/{name}.ipynb" for name in notebooks]
    return HEAD + "\n".join([*figures, "", *links]) + "\n"


def rows() -> list[dict[str, str]]:
    """The figures of the map."""
    with (ROOT / "data" / "lecture_map.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(rows()), encoding="utf-8")
    print(f"docs/lecture_map.md has {len(rows())} figures.")


if __name__ == "__main__":
    main()
