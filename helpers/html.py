"""HTML that is readable on light and on dark pages, with the same content in words for who sees no colour: coloured text, and boxes.

``show`` puts HTML beside plain text, so that every front end shows one of them; all else here are pure functions. Colours are mixed into
the page's own background, and letters keep the page's own colour. What GitHub leaves of it, where styles are taken away, can be read too.
"""

import re
import sys
from collections.abc import Sequence
from html import escape
from math import isfinite

from helpers.prediction import visible

WARM, COLD = "213,94,0", "0,114,178"  # orange above zero, blue below (Okabe and Ito), mixed into the page's own background
GREEN, AMBER, GREY = "0,158,115", "230,159,0", "128,128,128"  # from the same palette: well, not yet, and neither
DEEPEST = 0.6  # opacity of the strongest colour: black and white letters both stay readable on it

# Styles that several widgets share. JupyterLab takes opacity and outlines away from pages that were not run here: hence PALE and RIM.
PIECE = "display:inline-block;border:1px solid #8c8c8c;border-radius:3px;padding:0 3px;margin:1px;font-family:monospace"
BAR = "display:inline-block;height:0.8em;background:#0072B2;vertical-align:middle;margin-right:6px"
PALE = BAR.replace("#0072B2", "rgba(0,114,178,0.45)")
LEFT = "text-align:left;white-space:nowrap"
RIM = ";border:2px solid"  # in the colour of the letters
SQUARE = "padding:1px 6px;text-align:left;white-space:nowrap;font-family:monospace;font-size:85%;line-height:1.35;vertical-align:top"
NUMBER = "padding:1px 8px 1px 2px;text-align:right;font-weight:normal;font-size:85%;line-height:1.35;white-space:nowrap;vertical-align:top"
TABLE = "border-collapse:collapse"
SIDES = "display:flex;flex-wrap:wrap;gap:0 40px"  # side by side, or below each other on a narrow page


def activation_html(pieces: Sequence[str], values: Sequence[float], scale: float | None = None, n_words: int = 3) -> str:
    """A text whose tokens are coloured by one value each: orange above zero, blue below, the deeper the larger.

    ``scale`` is the value of the deepest colour (``None``: the largest one here), so that several texts can share it. The value
    of each token shows when the mouse rests on it, and a line below names the ``n_words`` largest.
    Raises ValueError unless there is one value for each piece.
    """
    if len(pieces) != len(values):
        raise ValueError(f"There are {len(pieces)} tokens and {len(values)} values: each token needs one value.")
    top = scale or max((abs(value) for value in values if isfinite(value)), default=0) or 1.0
    spans = "".join(_span(piece, value, top) for piece, value in zip(pieces, values, strict=True))
    words = escape(strongest(pieces, values, n_words))
    return f'<p style="line-height:1.9;white-space:pre-wrap;margin:2px 0">{spans}</p><p style="margin:0 0 8px"><small>{words}</small></p>'


def _span(piece: str, value: float, top: float) -> str:
    """One token on its colour; a line break is shown and made."""
    depth = DEEPEST * min(abs(value) / top, 1) if isfinite(value) else 0
    shown = escape(piece).replace("\r", "⏎").replace("\n", "⏎\n").replace("\t", "⇥")
    colour = f"background:rgba({WARM if value > 0 else COLD},{depth:.2f});border-radius:3px" if depth >= 0.005 else ""
    return f'<span title="{escape(visible(piece))} {value:.2f}" style="{colour}">{shown}</span>'


def strongest(pieces: Sequence[str], values: Sequence[float], n: int = 3) -> str:
    """In words, where a text is coloured most.

    >>> strongest(["The", " Eiffel", " Tower"], [0.0, 1.5, 4.25])
    'most on ·Tower (4.2), ·Eiffel (1.5)'
    """
    ranked = sorted(range(len(values)), key=lambda place: -abs(values[place]) if isfinite(values[place]) else 0)
    named = [f"{visible(pieces[place])} ({values[place]:.1f})" for place in ranked[:n] if isfinite(values[place]) and values[place] != 0]
    return f"most on {', '.join(named)}" if named else "silent on every token"


def show(html: str, text: str) -> None:
    """Shows ``html`` in a notebook, and ``text`` wherever HTML cannot be shown; outside of notebooks it prints ``text``.

    A notebook's file then holds both in one output (``text/html`` and ``text/plain``), so that what reads or compares outputs finds the
    text. The HTML has to say the same as the text, with the same rounded numbers, for both are compared when notebooks are tested.
    """
    html, text = (words.encode("utf-8", "replace").decode("utf-8") for words in (html, text))  # half of a surrogate pair cannot be sent
    ipython = sys.modules.get("IPython")  # whoever runs in a notebook has it imported
    if ipython is None or ipython.get_ipython() is None:
        print(text)
    else:
        ipython.display.display({"text/plain": text, "text/html": html}, raw=True)


def boxed(content: str, colour: str) -> str:
    """HTML in a box with a thick left edge of a colour, and faintly tinted with it; ``colour`` is written as ``GREEN`` is."""
    edge = f"border-left:5px solid rgb({colour});border-radius:4px;background:rgba({colour},0.1)"
    return f'<div style="{edge};padding:6px 12px;margin:4px 0;max-width:64em;overflow-wrap:anywhere">{content}</div>'


def side_by_side(cells: Sequence[str], tints: Sequence[str]) -> str:
    """Pieces of HTML as cells beside each other, each faintly tinted; on a narrow page they go below each other.

    It is a table of one row, which it stays where styles are taken away.
    """
    block = "display:block;width:100%;margin:0;border:0;font-size:1em"
    flex = "display:flex;flex-wrap:wrap;gap:5px;padding:0;border:0;background:none"
    cell = "flex:1 1 13em;min-width:0;padding:4px 8px;border:0;border-radius:4px;text-align:left;white-space:normal;line-height:1.5"
    row = "".join(f'<td style="{cell};background:rgba({tint},0.12)">{html}</td>' for html, tint in zip(cells, tints, strict=True))
    return f'<table style="{block}"><tbody style="display:block"><tr style="{flex}">{row}</tr></tbody></table>'


def prose(text: str) -> str:
    """Plain text as HTML: line breaks stay, what stands between backticks is set as code, and a dollar sign begins no formula.

    >>> prose("Is `x < 3`?")
    'Is <code>x &lt; 3</code>?'
    """
    safe = escape(text, quote=False).replace("$", "<span>$</span>").replace("\n", "<br>")
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
