"""Widgets: each is a pure function that writes HTML, and a ``Demo``, a thin shell that joins controls to it.

All work alike on ipywidgets 7 and 8.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from html import escape, unescape
from typing import Any

import ipywidgets
import torch
from IPython import get_ipython
from IPython.display import display

from helpers.activations import Promoted
from helpers.html import BAR, LEFT, PALE, PIECE
from helpers.models import TransformerBridge
from helpers.prediction import TopTokens, adjust, last_logits, pieces, sample, tokenize, truncate, visible
from helpers.running import ENTRY

JOINER = "\u200d"  # joins several emoji to one; Python would spell it out in a message that quotes a text
LARGEST = 100.0  # multiples of a direction or an edit beyond it would only make the model stammer
KEPT = 64  # answers that a function remembers for each model
SEVENTH = ipywidgets.__version__.startswith("7.")  # Colab's ipywidgets


def html_to_text(html: str) -> str:
    """The words of an HTML text, one line for each of its blocks, for printing and for tests."""
    lines = re.sub(r"<(?:/p|/tr|br)[^>]*>", "\n", html)
    words = re.sub(r"<[^>]+>", " ", lines)
    return "\n".join(" ".join(unescape(line).split()) for line in words.split("\n") if line.strip())


def as_text(write: Callable[..., str]) -> Callable[..., str]:
    """Makes of a function that writes HTML one that, where it would raise a ValueError, returns its message as a paragraph."""

    @wraps(write)
    def answered(*arguments: Any, **options: Any) -> str:
        try:
            with torch.no_grad():
                return write(*arguments, **options)
        except ValueError as problem:
            return f"<p>{escape(str(problem).replace(JOINER.encode('unicode_escape').decode(), JOINER))}</p>"

    return answered


def within(value: float, largest: float, what: str) -> float:
    """The number. Raises ValueError for one that is not a number or too large."""
    if not abs(value) <= largest:
        raise ValueError(f"The {what} must be a number from {-largest:g} to {largest:g}, not {value}.")
    return float(value)


def clean(text: str) -> str:
    """A text that can be sent to a browser, without the blanks around it: half of a surrogate pair is replaced."""
    return text.encode("utf-8", errors="replace").decode("utf-8").strip()


LABELS = {"description_width": "initial"}  # a label is as wide as its words
WIDE = {"width": "95%"}
# Of a slider: it takes a line of its own before its track gets short.
TRACK = {"width": "auto", "flex": "1 1 340px", "max_width": "440px"}


def text_field(value: str, label: str, several_lines: bool = False, **layout: str) -> ipywidgets.Text | ipywidgets.Textarea:
    """A field of one line, which Enter sends; one of several lines where they are wanted or the text has them."""
    several = several_lines or "\n" in value
    kind, height = (ipywidgets.Textarea, {"height": "5.5em"}) if several else (ipywidgets.Text, {})
    return kind(value, description=label, continuous_update=False, style=LABELS, layout=(layout or WIDE) | height)


def slider(value: float, low: float, high: float, label: str, step: float | None = None) -> ipywidgets.IntSlider | ipywidgets.FloatSlider:
    """A slider over whole numbers, or with a ``step`` over others; it answers when it is let go."""
    kind, more = (ipywidgets.IntSlider, {}) if step is None else (ipywidgets.FloatSlider, {"step": step})
    return kind(value, min=low, max=high, description=label, continuous_update=False, style=LABELS, layout=TRACK, **more)


def choice_slider(options: Sequence[Any], value: Any, label: str) -> ipywidgets.SelectionSlider:
    """A slider over a few values, or pairs of a name and a value."""
    return ipywidgets.SelectionSlider(options=options, value=value, description=label, continuous_update=False, style=LABELS, layout=TRACK)


def dropdown(options: Sequence[Any], label: str, value: Any = None, **layout: str) -> ipywidgets.Dropdown:
    """A list to choose from, of values or pairs of a name and a value; ``value`` None is the first. Raises ValueError for an empty list."""
    if not options:
        raise ValueError(f"There is no {label.lower()} to choose from: give at least one.")
    first = options[0][1] if isinstance(options[0], tuple) else options[0]
    layout = {"width": "auto", "max_width": "95%"} | layout
    return ipywidgets.Dropdown(options=options, value=first if value is None else value, description=label, style=LABELS, layout=layout)


def number_field(value: int, low: int, high: int, label: str) -> ipywidgets.BoundedIntText:
    """A field for a whole number within bounds."""
    layout = {"width": "auto", "max_width": "14em"}
    return ipywidgets.BoundedIntText(value, min=low, max=high, description=label, style=LABELS, layout=layout)


def tick_box(value: bool, label: str) -> ipywidgets.Checkbox:
    """A box to tick, with its words behind it."""
    return ipywidgets.Checkbox(value, description=label, indent=False, layout={"width": "auto"})


STATUS, FRAME = "course-status", "course-frame"  # classes of the line below the controls, and of the picture on a page without a kernel
LINE_HINT = "A text is read when you press Enter or leave its field."
LINES_HINT = "A text is read when you leave its field: press Tab, or click beside it."
STOPPED = "<p><b>Stopped: below is still an older answer. Move a control for a new one.</b></p>"
WAITING = "A cell is running: the answer comes when it has ended."
# Hidden for its first third of a second, so that quick answers do not make it flicker.
LATE = "@keyframes course-late{from{opacity:0}to{opacity:1}}"
WORKING = f"<style>{LATE}</style><span style='animation:course-late 0.3s steps(1)'>working …</span>"


class Demo(ipywidgets.VBox):
    """Controls, in rows that wrap on a narrow page, and a ``panel`` that shows what a function makes of their values.

    Between them stands a line that says how a text is sent, and that an answer is on its way.

    JupyterLab can deliver a change in a second thread while a cell runs in the main one. Both would put their interventions into the one
    model, so an answer is always made in the main thread: after the cell, and once for all the changes that came meanwhile.
    """

    def __init__(self, title: str, write: Callable[..., str], *rows: Mapping[str, ipywidgets.Widget]) -> None:
        """``title`` says in a few words what can be done. ``write`` gets the value of each control by its name in ``rows``."""
        self.title, self._write = title, write
        self.controls = {name: control for row in rows for name, control in row.items()}
        for name, control in self.controls.items():
            setattr(self, name, control)
        self._seen: dict[str, Any] = {}
        self._following = self._awaited = False
        self.status, self.panel = ipywidgets.HTML(), ipywidgets.HTML(layout={"overflow": "auto"})  # a wide answer can be scrolled
        self.status.add_class(STATUS)
        self._answer()
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        wrapped = [ipywidgets.HBox(list(row.values()), layout={"flex_flow": "row wrap", "width": "100%"}) for row in rows]
        super().__init__([*wrapped, self.status, self.panel])

    def values(self) -> dict[str, Any]:
        """What the controls stand at."""
        return {name: control.value for name, control in self.controls.items()}

    def follow(self, before: Mapping[str, Any]) -> None:
        """Sets controls that depend on others, where a subclass has such; ``before``: the values of the last answer, none at the first."""

    def _changed(self, _: object = None) -> None:
        """Answers now, or, from another thread than the main one, as soon as that is free."""
        kernel = getattr(get_ipython(), "kernel", None)
        if threading.current_thread() is threading.main_thread() or kernel is None:
            self._answer()
        elif not self._awaited:
            self._awaited = True
            self._say(WAITING)
            kernel.io_loop.add_callback(self._answer)

    def _answer(self) -> None:
        """Brings the panel up to date with the controls. What ``write`` raises is said in the panel, and raised."""
        if self._following:  # a control was set by `follow`, and the answer comes after it
            return
        self._awaited, self._following = False, True
        self._say(WORKING)
        try:
            self.follow(self._seen)
            self._seen = self.values()
            self.panel.value = self._write(**self._seen)
        except KeyboardInterrupt:
            self.panel.value = STOPPED + self.panel.value.removeprefix(STOPPED)
            raise
        except Exception as problem:
            reason = escape(f"{type(problem).__name__}: {problem}"[:200])
            self.panel.value = f"<p>This cannot be shown ({reason}): choose something else.</p>"
            raise
        finally:
            self._following = False
            self._say(self._hint())

    def _say(self, words: str) -> None:
        self.status.value = f"<small style='opacity:0.7'>{words}</small>" if words else ""

    def _hint(self) -> str:
        fields = self.controls.values()
        if any(isinstance(field, ipywidgets.Textarea) for field in fields):
            return LINES_HINT
        return LINE_HINT if any(isinstance(field, ipywidgets.Text) for field in fields) else ""

    def settings(self) -> dict[str, ipywidgets.Widget]:
        """The controls that play a part now; a subclass knows where some do not."""
        return self.controls

    def frame(self) -> str:
        """The widget as it stands, as HTML for a page on which no kernel runs: its settings in words, and the panel."""
        settings = ", ".join(f"{escape(control.description)} <b>{escape(_in_words(control))}</b>" for control in self.settings().values())
        note = f"{escape(self.title)}. This is a picture; run the notebook to change its settings: {settings}."
        return f'<div class="{FRAME}"><p><small>{note}</small></p>{self.panel.value}</div>'

    def __repr__(self) -> str:
        """What a page shows in the widget's place that can show no HTML either."""
        return f"[{self.title}, once the notebook runs.]"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The widget, and its picture and a sentence for pages that cannot show widgets (and for files from which its view was taken)."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, "text/html": self.frame(), "text/plain": repr(self)}

    if SEVENTH:

        def _ipython_display_(self, **options: Any) -> None:
            """The same for ipywidgets 7, which would show no picture."""
            display(self._repr_mimebundle_(), raw=True)
            self._handle_displayed(**options)


def _in_words(control: ipywidgets.Widget) -> str:
    """What a control stands at, as a reader sees it."""
    if isinstance(control.value, bool):
        return "yes" if control.value else "no"
    chosen = control.options[control.index] if hasattr(control, "options") else control.value
    text = str(chosen[0] if isinstance(chosen, tuple) else chosen)
    return text if len(text) <= 60 else f"{text[:59]}…"


def named_layer(layer: int) -> str:
    """A layer in a sentence."""
    return "the entry" if layer == ENTRY else f"layer {layer}"


def framed(piece: str, colour: str = "") -> str:
    """A token in a frame, perhaps on a colour."""
    return f'<span style="{PIECE}{colour}">{escape(visible(piece))}</span> '


def _bar(prob: float, style: str = BAR) -> str:
    return f"<td style='{LEFT}'><span style='{style};width:{200 * prob:.0f}px'></span>{prob:.1%}</td>"


def bars_html(top: TopTokens) -> str:
    """The next tokens as rows of a table, each with a bar as long as its probability."""
    pairs = zip(top.tokens, top.probs, strict=True)
    rows = [f"<tr><td style='font-family:monospace'>{escape(visible(token))}</td>{_bar(prob)}</tr>" for token, prob in pairs]
    return f"<table>{''.join(rows)}</table>"


def columns_html(columns: Mapping[str, TopTokens]) -> str:
    """Bars of next tokens side by side, each under its heading."""
    cell = "<td style='vertical-align:top;padding-right:24px'><b>{}</b>{}</td>"
    cells = "".join(cell.format(escape(head), bars_html(top)) for head, top in columns.items())
    return f"<table><tr>{cells}</tr></table>"


def promoted_html(found: Promoted) -> str:
    """The tokens that a vector pushes up, and those that it pushes down, a line each."""
    up, down = (" ".join(f"<code>{escape(visible(piece))}</code>" for piece, _ in side) for side in (found.up, found.down))
    return f"<p><b>It promotes</b> {up}<br><b>and suppresses</b> {down}</p>"


def cut_note(whole: int, read: int, most: int | None = None) -> str:
    """In words, what of a text is not read, and what not shown where ``most`` tokens are; "" where all is."""
    unread = f" The model reads {read} tokens at most, so the first {whole - read:,} of the text are cut off." if whole > read else ""
    return unread + (f" Of {read} tokens the last {most} are shown." if most and read > most else "")


@as_text
def prompt_html(model: TransformerBridge, text: str, temperature: float = 1.0, top_k: int = 0, seed: int = 0, length: int = 12) -> str:
    """What the model makes of ``text``, as HTML: its tokens, the ten most likely next ones, and a sampled continuation.

    ``top_k`` 0 lets every token be drawn. Whatever cannot be done is said in a sentence, never raised.
    """
    tokens = tokenize(model, text)
    logits = last_logits(model, tokens)
    continuation = sample(model, text, length, temperature, top_k or None, seed)
    probs, ids = logits.softmax(-1).topk(min(10, len(logits)))
    drawn = adjust(logits, temperature, top_k or None)[ids]
    rows = [
        f"<tr><td style='font-family:monospace'>{escape(visible(token))}</td>{_bar(prob)}{_bar(share, PALE)}</tr>"
        for token, prob, share in zip(pieces(model, ids), probs.tolist(), drawn.tolist(), strict=True)
    ]
    among = f"the {top_k} best tokens" if 0 < top_k < len(logits) else "all tokens"
    how = f"how it is drawn (temperature {temperature:g}, from {among})"
    head = f"<tr><th></th><th style='{LEFT}'>what the model says</th><th style='{LEFT}'>{how}</th></tr>"
    bars = f"<p><b>The ten most likely next tokens</b></p><table>{head}{''.join(rows)}</table>"
    kept = truncate(model, tokens)
    count = f"<b>{len(kept)} {'token' if len(kept) == 1 else 'tokens'}.</b>{cut_note(len(tokens), len(kept))}"
    read = f"<p>{count}</p><p>{''.join(map(framed, pieces(model, kept)))}</p>"
    written = "none; the model ends the document here."
    if continuation:
        written = f"<span style='white-space:pre-wrap'>{escape(continuation)}</span>"
    return f"{read}{bars}<p><b>A sampled continuation</b> (seed {seed}): {written}</p>"


class PromptExplorer(Demo):
    """Controls for a prompt, temperature, top-k and seed, and a ``panel`` that shows what the model makes of them."""

    def __init__(self, model: TransformerBridge, text: str = "Once upon a time there was a") -> None:
        super().__init__(
            "Type a prompt here",
            lambda **values: prompt_html(model, **values),
            {"text": text_field(text, "Prompt")},
            {
                "temperature": slider(1.0, 0, 2, "Temperature", step=0.1),
                "top_k": slider(0, 0, 50, "Top-k (0: all)"),
                "seed": slider(0, 0, 20, "Seed"),
            },
        )
