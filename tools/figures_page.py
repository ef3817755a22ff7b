"""Writes docs/figures.md: every figure of the lecture with its claim, and what the course makes of it.

    python tools/figures_page.py

Which cell shows which figure stands in data/lecture_map.csv; pictures and printed text are taken from the outputs that the
notebooks are committed with. Where the cell draws nothing, the page shows what its section draws beside it, if that belongs to no other
figure, or the sketch of the idea with which the notebook opens. Run it after `make notebooks`.
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
SKETCHES = {  # the figures of the lecture that are diagrams of an idea, and the sketch of it in notebooks/figures
    1: "one_neuron.svg", 12: "one_direction.svg", 23: "dictionary.svg", 34: "model_of_model.svg", 44: "residual_stream.svg",
    45: "residual_stream.svg", 53: "patchscope.svg", 54: "patchscope.svg",
}  # fmt: skip
HEAD = """# The figures of the lecture

The lecture (Hung-yi Lee, 2025) numbers its figures from 1 to 58 and has no figure 5. Here is each of the {n} with what it claims, and with
what the course makes of it on the course LM: the picture that its notebook draws, and what it prints. Below each stands how it is made.
Where the lecture shows a text, such as an answer of a model, there is a text here as well.

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
    beside: bool = False  # its pictures are those of a cell near it

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its picture files: ``fig-08.png``, and ``fig-08b.png`` for a second picture."""
        return tuple(f"fig-{self.figure:02}{letter}.png" for letter in ("", *"bcdefgh")[: len(self.pictures)])

    def entry(self) -> str:
        """What the page says about it."""
        number = self.notebook.split("_")[0]
        where = f"[Notebook {number}](../notebooks/{self.notebook}.ipynb), *{self.heading}*; `helpers.{self.helper}`"
        alt = f"What notebook {number} draws {'beside' if self.beside else 'for'} figure {self.figure}, {self.heading}"
        alt += "" if self.beside else "; its main numbers are printed below"
        parts = [f"### Figure {self.figure}", f"The lecture: **{self.claim}**", where]
        parts += [f"![{alt}](figures/{file})" for file in self.files]
        if not self.files and self.figure in SKETCHES:
            parts += [f"![The idea of figure {self.figure} as a sketch](../notebooks/figures/{SKETCHES[self.figure]})"]
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
    at = next((n for n, cell in enumerate(notebook.cells) if row["cell"] in cell.metadata.get("tags", [])), None)
    if at is None:
        raise ValueError(f"No cell of {row['notebook']} is tagged {row['cell']}: tag the one that shows figure {row['figure']}.")
    cell, above = notebook.cells[at], [line for other in notebook.cells[:at] for line in headings(other)]
    printed = "\n".join(texts(cell.outputs))
    about = (int(row["figure"]), row["section"], row["claim"], row["notebook"], row["helper"], above[-1] if above else "")
    own = tuple(pictures(cell.outputs))
    near = () if own else nearby(notebook.cells, at)
    return Shown(*about, cell.source, printed, own or near, bool(near))


def headings(cell: NotebookNode) -> list[str]:
    """The headings in a cell of text, without their marks."""
    return [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")] if cell.cell_type == "markdown" else []


def nearby(cells: Sequence[NotebookNode], at: int) -> tuple[bytes, ...]:
    """The pictures of the next cell that draws some, else of the last one before; in the same section, and of no other figure."""
    for others in (cells[at + 1 :], cells[:at][::-1]):
        for cell in others:
            if headings(cell) or any(tag.startswith("fig-") for tag in cell.metadata.get("tags", [])):
                break
            if cell.cell_type == "code" and (found := tuple(pictures(cell.outputs))):
                return found
    return ()


def texts(outputs: Sequence[NotebookNode]) -> Iterator[str]:
    """What some outputs say in plain text; of a picture or a widget this is only the name of its type, and left out."""
    for output in outputs:
        data = output.get("data", {})
        plain = data.get("text/plain", "")
        widget = 'class="course-frame"' in data.get("text/html", "")
        says_nothing = widget or set(data) - {"text/plain", "text/html"} or plain.startswith("<IPython.")
        yield output.get("text", "") or ("" if says_nothing else plain)


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
    drawn = sum(bool(figure.pictures) or figure.figure in SKETCHES for figure in figures)
    megabytes = sum(map(len, made.values())) / 1e6
    print(f"docs/figures.md shows {len(figures)} figures, {drawn} of them with a picture; {len(made)} files, {megabytes:.2f} MB.")


if __name__ == "__main__":
    main()
