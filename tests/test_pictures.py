"""The sketches in notebooks/figures: nothing is cut off or lies on something else in a wide font, and they tell what the figures tell.

Which font draws them is decided by the reader's machine. They are measured with DejaVu Sans, the widest of the common ones.
"""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from contrast import contrast
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from helpers.models import load_model
from helpers.plots import PAPER
from helpers.prediction import top_tokens, visible

FOLDER = Path(__file__).parents[1] / "notebooks" / "figures"
PICTURES = sorted(path.name for path in FOLDER.glob("*.svg"))
SKETCHES = [name for name in PICTURES if name != "colab.svg"]  # which is a badge
INHERITED = ("font-size", "font-family", "font-weight", "font-style", "text-anchor", "fill", "fill-opacity")
Style = dict[str, str]


class Part(NamedTuple):
    """One element of a picture, with what it inherits from the groups around it."""

    tag: str
    style: Style
    words: str


class Words(NamedTuple):
    """One text where it is drawn."""

    words: str
    box: Bbox
    colour: str


def parts(element: ElementTree.Element, above: Style | None = None) -> list[Part]:
    """An element and all below it that are drawn."""
    tag = element.tag.rpartition("}")[2]
    style = {key: value for key, value in (above or {}).items() if key in INHERITED} | element.attrib
    below = [] if tag == "defs" else [part for child in element for part in parts(child, style)]
    return [Part(tag, style, (element.text or "").strip()), *below]


def read(name: str) -> list[Part]:
    return parts(ElementTree.parse(FOLDER / name).getroot())


def written(picture: list[Part]) -> list[Words]:
    """All texts of a picture, with the boxes of their ink."""
    return [Words(part.words, _ink(part), part.style.get("fill", "#000000")) for part in picture if part.tag == "text"]


def _ink(part: Part) -> Bbox:
    style = part.style
    family = "DejaVu Sans Mono" if "monospace" in style.get("font-family", "") else "DejaVu Sans"
    look = dict(weight=style.get("font-weight", "normal"), style=style.get("font-style", "normal"))
    box = TextPath((0, 0), part.words, size=float(style["font-size"]), prop=FontProperties(family=family, **look)).get_extents()
    left = float(style["x"]) - {"start": 0.0, "middle": 0.5, "end": 1.0}[style.get("text-anchor", "start")] * box.width
    baseline = float(style["y"])
    return Bbox([[left, baseline - box.y1], [left + box.width, baseline - box.y0]])


def boxes(picture: list[Part]) -> list[Bbox]:
    """The rectangles and circles of a picture, the card first."""
    found = []
    for tag, style, _ in picture:
        if tag == "rect":
            found.append(Bbox.from_bounds(*(float(style.get(key, 0)) for key in ("x", "y", "width", "height"))))
        if tag == "circle":
            x, y, r = (float(style[key]) for key in ("cx", "cy", "r"))
            found.append(Bbox([[x - r, y - r], [x + r, y + r]]))
    return found


def within(inner: Bbox, outer: Bbox, margin: float) -> bool:
    room = outer.padded(-margin)
    return room.x0 <= inner.x0 and inner.x1 <= room.x1 and room.y0 <= inner.y0 and inner.y1 <= room.y1


def faults(picture: list[Part]) -> list[str]:
    """What a reader would see as a mistake: text beyond the card, over the rim of a box, or on another text."""
    card, *others = boxes(picture)
    texts = written(picture)
    found = [f"{text.words!r} is cut off" for text in texts if not within(text.box, card, 3)]
    for text in texts:
        inside = [within(text.box, box, 1.5) or not text.box.padded(1.5).overlaps(box) for box in others]
        found += [f"{text.words!r} touches a box"] * (not all(inside))
    return found + [f"{a.words!r} lies on {b.words!r}" for a, b in combinations(texts, 2) if a.box.padded(1).overlaps(b.box)]


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_of_a_picture_is_cut_off_or_touches_anything_in_a_wide_font(name: str):
    picture = read(name)
    assert written(picture), "no text was found, so none was measured"
    assert not faults(picture)


@pytest.mark.parametrize(
    ("drawn", "fault"),
    [
        ('<text x="150" y="50">quite a long text</text>', "'quite a long text' is cut off"),
        ('<g text-anchor="end"><text x="20" y="50">reads</text></g>', "'reads' is cut off"),
        ('<text x="10" y="50">The capital of</text><rect x="100" y="34" width="60" height="24"/>', "'The capital of' touches a box"),
        ('<text x="10" y="50">one</text><text x="30" y="54">two</text>', "'one' lies on 'two'"),
        ('<rect x="10" y="30" width="60" height="30"/><text x="40" y="50" text-anchor="middle">fits</text>', None),
    ],
)
def test_each_kind_of_fault_is_seen(drawn: str, fault: str | None):
    svg = f'<svg width="200" height="100" font-size="14"><rect width="200" height="100"/>{drawn}</svg>'
    assert faults(parts(ElementTree.fromstring(svg))) == ([fault] if fault else [])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_what_it_is_to_who_does_not_see_it(name: str):
    picture = read(name)
    svg = picture[0].style
    assert svg["role"] == "img"
    assert len(svg.get("aria-label", "") or next((part.words for part in picture if part.tag == "title"), "")) > 10


@pytest.mark.parametrize("name", SKETCHES)
def test_a_picture_brings_its_own_light_card_so_that_it_can_be_read_on_a_dark_page(name: str):
    picture = read(name)
    card = next(part.style for part in picture if part.tag == "rect")
    assert [card["width"], card["height"]] == [picture[0].style[key] for key in ("width", "height")]
    assert card["fill"] == PAPER.lower() and float(card["rx"]) > 4 and "fill-opacity" not in card
    pale = {text.words for text in written(picture) if contrast(text.colour, PAPER) < 4.5}
    assert not pale, "WCAG 2.1 asks for a contrast of 4.5 to 1"


def test_the_road_goes_from_the_tokens_of_its_prompt_to_what_the_model_says():
    words = [text.words for text in written(read("road.svg"))]
    model = load_model()
    prompt = "The capital of Poland is"
    pieces = [visible(piece) for piece in model.to_str_tokens(prompt)[1:]]
    assert words[words.index("new document") + 1 :][: len(pieces)] == pieces
    top = top_tokens(model, prompt, 4)
    said = [word for token, prob in zip(top.tokens, top.probs, strict=True) for word in (visible(token), f"{100 * prob:.0f} %")]
    assert words[words.index("next token") + 1 :][: len(said)] == said
