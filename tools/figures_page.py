"""Writes docs/figures.md: every figure of the lecture with its claim, and what the course makes of it.

    python tools/figures_page.py

Which cell shows which figure stands in data/lecture_map.csv; pictures and printed text are taken from the outputs that the
notebooks are committed with. Run it after `make notebooks`.
"""

import base64
import csv
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
WIDEST = 720  # pixels
COLOURS = 64  # of a picture; a plot has few
LONGEST, LINES = 118, 16  # of printed text: letters in a line, and lines
HEAD = """# The figures of the lecture

The lecture (Hung-yi Lee, 2025) numbers its figures from 1 to 58 and has no figure 5. Here is each of the {n} with what it claims, and with
what the course makes of it on the course LM: the picture that its notebook draws, or what it prints. Below each stands how it is made.

A sketch of an idea becomes a number that can be checked; a table of a large model becomes the same table for the small one. Where the
course LM does not show what the lecture claims, the picture says so: what was measured, beside its control, stands in the
[README](../README.md#what-the-course-found).

*This page is made of the committed notebooks by `python tools/figures_page.py`; do not edit it by hand.*
"""


@dataclass(frozen=True)
class Shown:
    """A figure of the lecture as the course shows it: what its cell prints, its pictures (PNG), its code, the section where it stands."""

    figure: int
    part: str
    claim: str
    notebook: str
    helper: str
    heading: str
    code: str
    text: str
    pictures: tuple[bytes, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its picture files: ``fig-08.png``, and ``fig-08b.png`` for a second picture."""
        return tuple(f"fig-{self.figure:02}{letter}.png" for letter in ("", *"bcdefgh")[: len(self.pictures)])

    def entry(self) -> str:
        """What the page says about it."""
        number = self.notebook.split("_")[0]
        where = f"[Notebook {number}](../notebooks/{self.notebook}.ipynb), *{self.heading}*; `helpers.{self.helper}`"
        alt = f"What notebook {number} draws for figure {self.figure}, {self.heading}; its main numbers are printed below"
        parts = [f"### Figure {self.figure}", f"The lecture: **{self.claim}**", where]
        parts += [f"![{alt}](figures/{file})" for file in self.files]
        parts += [fenced(shorten(self.text), "text")] if self.text else []
        parts += [f"<details><summary>How figure {self.figure} is made</summary>\n\n{fenced(self.code, 'python')}\n</details>"]
        return "\n\n".join(parts)


def fenced(text: str, language: str) -> str:
    """A code block."""
    return f"```{language}\n{text.rstrip()}\n```"


def shorten(text: str) -> str:
    """Printed text without its empty lines: long lines are continued on the next one, and of many lines the last are left out.

    >>> shorten("one\\n\\ntwo")
    'one\\ntwo'
    """
    wrap = textwrap.TextWrapper(LONGEST, subsequent_indent="    ", replace_whitespace=False, break_on_hyphens=False, drop_whitespace=True)
    lines = [part for line in text.splitlines() if line.strip() for part in (wrap.wrap(line) if len(line) > LONGEST else [line.rstrip()])]
    left_out = len(lines) - LINES
    return "\n".join(lines if left_out <= 1 else [*lines[:LINES], f"… and {left_out} lines more"])


def read_figures(root: Path = ROOT) -> list[Shown]:
    """All figures of the map that a notebook shows, in the order of the lecture."""
    with (root / "data" / "lecture_map.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["notebook"]]
    notebooks = {name: nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4) for name in {row["notebook"] for row in rows}}
    return [shown(row, notebooks[row["notebook"]]) for row in rows]


def shown(row: dict[str, str], notebook: NotebookNode) -> Shown:
    """What the notebook shows of the figure in one row of the map. Raises ValueError where no cell has its tag."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in reversed(cell.source.splitlines()) if line.startswith("#")), heading)
        if row["cell"] in cell.metadata.get("tags", []):
            printed = "\n".join(texts(cell.outputs))
            about = (int(row["figure"]), row["section"], row["claim"], row["notebook"], row["helper"], heading)
            return Shown(*about, cell.source, printed, tuple(pictures(cell.outputs)))
    raise ValueError(f"No cell of {row['notebook']} is tagged {row['cell']}: tag the one that shows figure {row['figure']}.")


def texts(outputs: Sequence[NotebookNode]) -> Iterator[str]:
    """What some outputs say in plain text; of a picture or a widget this is only the name of its type, and left out."""
    for output in outputs:
        data = output.get("data", {})
        yield output.get("text", "") or ("" if set(data) - {"text/plain"} else data.get("text/plain", ""))


def pictures(outputs: Sequence[NotebookNode]) -> Iterator[bytes]:
    """The PNG pictures of some outputs."""
    for output in outputs:
        if png := output.get("data", {}).get("image/png"):
            yield base64.b64decode(png)


def small(png: bytes) -> bytes:
    """The picture with few colours and no wider than the page."""
    picture = Image.open(BytesIO(png))
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.convert("RGBA").getchannel("A"))
    if flat.width > WIDEST:
        flat = flat.resize((WIDEST, round(flat.height * WIDEST / flat.width)), Image.Resampling.LANCZOS)
    file = BytesIO()
    flat.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def page(figures: Sequence[Shown]) -> str:
    """The whole page."""
    parts = [HEAD.format(n=len(figures)).strip()]
    for before, figure in zip([None, *figures], figures, strict=False):
        if before is None or before.part != figure.part:
            parts.append(f"## {figure.part}")
        parts.append(figure.entry())
    return "\n\n".join(parts) + "\n"


def main(root: Path = ROOT) -> None:
    """Writes the page and its pictures, and removes pictures that no figure has any more."""
    figures = read_figures(root)
    folder = root / "docs" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    made = {file: small(png) for figure in figures for file, png in zip(figure.files, figure.pictures, strict=True)}
    for old in folder.glob("fig-*.png"):
        if old.name not in made:
            old.unlink()
    for file, png in made.items():
        (folder / file).write_bytes(png)
    (root / "docs" / "figures.md").write_text(page(figures), encoding="utf-8")
    print(f"docs/figures.md shows {len(figures)} figures with {len(made)} pictures, {sum(map(len, made.values())) / 1e6:.2f} MB.")


if __name__ == "__main__":
    main()
