"""Coloured text as HTML: pure functions, readable on light and on dark pages, with the same content in words for who sees no colour."""

from collections.abc import Sequence
from html import escape
from math import isfinite

from helpers.prediction import visible

WARM, COLD = "213,94,0", "0,114,178"  # orange above zero, blue below (Okabe and Ito), mixed into the page's own background
DEEPEST = 0.6  # opacity of the strongest colour: black and white letters both stay readable on it


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
