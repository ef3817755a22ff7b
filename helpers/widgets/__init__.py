"""Widgets: each is a pure function that writes HTML, and a thin shell that joins controls to it.

A control is observed, the function is called, the panel's ``value`` is set. That works alike on ipywidgets 7 and 8.
"""

import re
from collections.abc import Callable
from functools import wraps
from html import escape, unescape
from typing import Any

import ipywidgets
import torch
from jaxtyping import Int
from torch import Tensor

from helpers.models import TransformerBridge
from helpers.prediction import TopTokens, fit, pieces, sample, tokenize, top_tokens, visible

PIECE = "display:inline-block;border:1px solid #8c8c8c;border-radius:3px;padding:0 3px;margin:1px;font-family:monospace"
BAR = "display:inline-block;height:0.8em;background:#0072B2;vertical-align:middle;margin-right:6px"
LABELS = {"description_width": "initial"}


def readable(html: str) -> str:
    """The words of an HTML text, one line for each of its blocks, for printing and for tests."""
    lines = re.sub(r"<(?:/p|/tr|br)[^>]*>", "\n", html)
    words = re.sub(r"<[^>]+>", " ", lines)
    return "\n".join(" ".join(unescape(line).split()) for line in words.split("\n") if line.strip())


# ---------------------------------------------------------------------------- a prompt, and what may come next


def said(write: Callable[..., str]) -> Callable[..., str]:
    """Makes of a function that writes HTML one that says in a sentence, instead of raising, what cannot be done."""

    @wraps(write)
    def answered(*arguments: Any, **options: Any) -> str:
        try:
            with torch.no_grad():
                return write(*arguments, **options)
        except ValueError as problem:
            return f"<p>{escape(str(problem))}</p>"

    return answered


@said
def prompt_html(model: TransformerBridge, text: str, temperature: float = 1.0, top_k: int = 0, seed: int = 0, length: int = 12) -> str:
    """What the model makes of ``text``, as HTML: its tokens, the ten most likely next ones, and a sampled continuation.

    ``top_k`` 0 lets every token be drawn. Whatever cannot be done is said in a sentence, never raised.
    """
    tokens = tokenize(model, text)
    continuation = sample(model, text, length, temperature, top_k or None, seed)
    bars = f"<p><b>The ten most likely next tokens</b></p>{bars_html(top_tokens(model, text))}"
    return _tokens_html(model, tokens) + bars + _continuation_html(continuation)


def _tokens_html(model: TransformerBridge, tokens: Int[Tensor, "pos"]) -> str:
    """The tokens that the model reads, each in a frame, and a sentence where the text is too long for it."""
    kept = fit(model, tokens)
    cut = len(tokens) - len(kept)
    note = f" The model reads {model.cfg.n_ctx} tokens at most, so the first {cut:,} of the text are cut off." if cut else ""
    frames = "".join(f'<span style="{PIECE}">{escape(visible(piece))}</span> ' for piece in pieces(model, kept))
    return f"<p><b>{len(kept)} {'token' if len(kept) == 1 else 'tokens'}.</b>{note}</p><p>{frames}</p>"


def bars_html(top: TopTokens) -> str:
    """The next tokens as rows of a table, each with a bar as long as its probability."""
    rows = [
        f"<tr><td style='font-family:monospace'>{escape(visible(token))}</td>"
        f"<td><span style='{BAR};width:{200 * prob:.0f}px'></span>{prob:.1%}</td></tr>"
        for token, prob in zip(top.tokens, top.probs, strict=True)
    ]
    return f"<table>{''.join(rows)}</table>"


def _continuation_html(continuation: str) -> str:
    """The sampled text with its line breaks, or a sentence where the model ends at once."""
    if not continuation:
        return "<p><b>A sampled continuation:</b> none; the model ends the document here.</p>"
    return f"<p><b>A sampled continuation:</b> <span style='white-space:pre-wrap'>{escape(continuation)}</span></p>"


class PromptExplorer(ipywidgets.VBox):
    """Controls for a prompt, temperature, top-k and seed, and a ``panel`` that shows what the model makes of them."""

    def __init__(self, model: TransformerBridge, text: str = "The capital of Poland is") -> None:
        self.model = model
        self.text = ipywidgets.Textarea(text, description="Prompt", continuous_update=False, layout={"width": "95%", "height": "4.5em"})
        self.temperature = ipywidgets.FloatSlider(
            1.0, min=0, max=2, step=0.1, description="Temperature", continuous_update=False, style=LABELS
        )
        self.top_k = ipywidgets.IntSlider(0, min=0, max=50, description="Top-k (0: all)", continuous_update=False, style=LABELS)
        self.seed = ipywidgets.IntSlider(0, min=0, max=20, description="Seed", continuous_update=False, style=LABELS)
        self.panel = ipywidgets.HTML()
        controls = {"text": self.text, "temperature": self.temperature, "top_k": self.top_k, "seed": self.seed}
        connect(controls, self.panel, lambda **values: prompt_html(model, **values))
        super().__init__([self.text, ipywidgets.HBox([self.temperature, self.top_k, self.seed]), self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[Type a prompt here, once the notebook runs.]"


def connect(controls: dict[str, Any], panel: ipywidgets.HTML, write: Callable[..., str]) -> None:
    """Keeps ``panel`` at what ``write`` makes of the controls' values, from now on and after every change."""

    def update(_: object = None) -> None:
        panel.value = write(**{name: control.value for name, control in controls.items()})

    for control in controls.values():
        control.observe(update, names="value")
    update()
