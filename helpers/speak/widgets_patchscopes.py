"""The widget of lesson 4b on Patchscopes: put a state into another text, and read what the model says about it."""

from collections.abc import Mapping
from html import escape
from typing import Any

from helpers.html import DEEPEST, GREEN, RIM, TABLE, WARM
from helpers.models import TransformerBridge
from helpers.prediction import pieces, sample, tokenize
from helpers.running import check_layers, layer_name
from helpers.speak.patchscopes import DESCRIPTION, IDENTITY, ITSELF, SAME, Layer, Readings, Source, Target, patchscope
from helpers.speak.widgets_lens import keeping, remembered, word
from helpers.widgets import Demo, as_text, choice_slider, dropdown, named_layer, text_field

TARGETS = {
    "What is it?": DESCRIPTION,
    "What comes next there?": IDENTITY,
    "Which token is it?": ITSELF,
    "What is its capital?": Target("The capital of x is", until="."),
}
OWN = "a text of your own"
TOKENS = 6  # of a continuation
CELL = "text-align:left;vertical-align:top;padding:2px 16px 2px 0"
ROW = "text-align:left;padding:1px 10px;font-size:90%"
NUMBER = "text-align:right;padding:1px 10px 1px 2px;font-weight:normal;font-size:90%"


def tokens_of(model: TransformerBridge, text: str) -> list[tuple[str, int]]:
    """The tokens of a source with their positions, the mark of a new document left out; none where the text is empty or too long."""
    ids = tokenize(model, text)
    if not text.strip() or len(ids) > model.cfg.n_ctx:
        return []
    return [(f"{at} {word(piece)}", at) for at, piece in enumerate(pieces(model, ids)) if at >= _start(model)]


def _start(model: TransformerBridge) -> int:
    return int(bool(model.cfg.default_prepend_bos))


def name_at(model: TransformerBridge, text: str, pos: int) -> str:
    """The name that ends at a token: its word up to there, and the words with capital letters right before it; "" where it is no word.

    >>> name_at(model, "The wife of Brad Pitt is", 5)  # doctest: +SKIP
    'Brad Pitt'
    """
    ids = tokenize(model, text)[_start(model) : pos + 1]
    if not any(letter.isalnum() for letter in pieces(model, ids[-1:])[0]):
        return ""
    words = model.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False).split()
    first = len(words) - 1
    while first > 0 and words[first][0].isupper() and words[first - 1][0].isupper() and words[first - 1][-1].isalnum():
        first -= 1
    return " ".join(words[first:])


@remembered
def readings_of(model: TransformerBridge, source: Source, target: Target, target_layer: Layer) -> Readings:
    """What is said about a state after each source layer: all of them cost hardly more than one."""
    return patchscope(model, [source], target, None, target_layer, tokens=TOKENS)


@remembered
def in_words(model: TransformerBridge, target: Target, name: str) -> str | None:
    """The most likely continuation where the name stands in the target in words, cut as a reading is; None where there is no room."""
    text = name.join(target.parts)
    if len(tokenize(model, text)) + TOKENS > model.cfg.n_ctx:
        return None
    return sample(model, text, TOKENS, temperature=0).split(target.until)[0].strip()


@as_text
def patchscope_html(
    model: TransformerBridge, targets: Mapping[str, Target], text: str, pos: int, prompt: str, source_layer: int, target_layer: Layer
) -> str:
    """What the model says about one state put into a target, beside the bare target and the name in words, as HTML.

    ``pos`` is the position of the token in ``text``, the mark of a new document at 0. ``prompt`` is that of a target, or any text with
    an x in it. Below stands what is said for the states of all source layers. Whatever cannot be done is said in a sentence.
    """
    check_layers(model, [source_layer])
    if not text.strip():
        raise ValueError("The source text is empty: write some words.")
    target = next((one for one in targets.values() if one.prompt == prompt), None) or Target(prompt)
    n = len(tokenize(model, text))
    if not _start(model) <= pos < n:
        raise ValueError(f"There is no token {pos} to choose: those of this text are {_start(model)} to {n - 1}.")
    found = readings_of(model, Source(text, pos), target, target_layer)
    name = name_at(model, text, pos)
    words = in_words(model, target, name) if name else None
    token = pieces(model, tokenize(model, text)[pos : pos + 1])[0]
    row = found.layers.index(source_layer)
    into = named_layer(found.target_layers[row])
    head = f"<p>The state of <b>{escape(word(token, 24))}</b> (token {pos}) after {named_layer(source_layer)} is put in the place of"
    head += f" <b>x</b> after {into}. The model goes on:</p>"
    return f"{head}{_three(found, row, name, words)}{_layers(found, row, words)}"


def _three(found: Readings, row: int, name: str, words: str | None) -> str:
    """What is said with the state, with nothing put in, and with the name in words."""
    lines = [
        ("with the state", f"<b>{_quoted(found.texts[row][0])}</b>"),
        ("with nothing put in, x as it is", _quoted(found.unpatched[0])),
    ]
    if words is not None:
        lines.append((f"with {escape(word(name, 40)).replace('·', ' ')} in words", _quoted(words)))
    rows = "".join(f"<tr><td style='{CELL}'>{label}</td><td style='{CELL}'>{text}</td></tr>" for label, text in lines)
    return f"<table style='{TABLE}'>{rows}</table>"


def _quoted(text: str) -> str:
    """A continuation on one line."""
    return escape(text.replace("\n", "⏎").replace("\r", "⏎")) or "<i>nothing; the text ends here</i>"


def _layers(found: Readings, chosen: int, words: str | None) -> str:
    """What is said for each source layer, the chosen one framed, and coloured where it is the same as in words or without a state."""
    rows = []
    for row, (layer, into, [text]) in enumerate(zip(found.layers, found.target_layers, found.texts, strict=True)):
        colour, sign = _kind(text, words, found.unpatched[0])
        style = f"{ROW}{colour}{RIM if row == chosen else ''}"
        numbers = "".join(f"<th style='{NUMBER}'>{layer_name(at)}</th>" for at in (layer, into))
        rows.append(f"<tr>{numbers}<td style='{style}'>{_quoted(text)}</td><td style='{ROW}'>{sign}</td></tr>")
    head = "".join(f"<th style='{NUMBER};font-weight:bold'>{name}</th>" for name in ("from", "into"))
    head += f"<th style='{ROW}'>what is said</th>"
    return f"<div style='overflow-x:auto'><table style='{TABLE};margin-top:10px'><tr>{head}</tr>{''.join(rows)}</table></div>"


def _kind(text: str, words: str | None, bare: str) -> tuple[str, str]:
    """The colour of a reading, and in words what it is the same as."""
    if words is not None and text == words:
        return f";background:rgba({GREEN},0.35)", "as in words"
    if text == bare:
        return f";background:rgba({WARM},{DEEPEST / 2})", "as with nothing put in"
    return "", ""


class PatchscopeBench(Demo):
    """Controls for a source and its token, a target, and the layers from which and into which its state is put, and a ``panel`` with
    what the model says then, beside the bare target and the name in words.

    ``targets`` are those to choose from (``None``: the paper's and a capital); their prompts can be rewritten. Raises ValueError where
    there is no target.
    """

    def __init__(
        self, model: TransformerBridge, text: str = "The train from Paris to Warsaw", targets: Mapping[str, Target] | None = None
    ) -> None:
        self._model, self._targets = model, TARGETS if targets is None else targets
        targets, first = self._targets, next(iter(self._targets), "")
        layers = [(layer_name(layer), layer) for layer in check_layers(model, None)]
        target = dropdown([*targets, OWN] if targets else [], "Target")
        super().__init__(
            "Put a state into another text",
            keeping(lambda target, **values: patchscope_html(model, targets, **values)),  # the target's text says all
            {"text": text_field(text, "Source", flex="1 1 340px"), "pos": dropdown([("none", 0)], "Its token")},
            {"target": target},
            {"prompt": text_field(targets[first].prompt, "Its text, x the placeholder", several_lines=True)},
            {
                "source_layer": choice_slider(layers, model.cfg.n_layers // 3, "From layer"),
                "target_layer": choice_slider([("the same", SAME), *layers], 0, "Into layer"),
            },
        )

    def follow(self, before: Mapping[str, Any]) -> None:
        """A new source: its tokens, of which the last is chosen. A new target: its text. A text that was rewritten: whose it is."""
        if self.text.value != before.get("text"):
            self.pos.options = tokens_of(self._model, self.text.value) or self.pos.options
            self.pos.index = len(self.pos.options) - 1
        if self.target.value != before.get("target", self.target.value) and self.target.value in self._targets:
            self.prompt.value = self._targets[self.target.value].prompt
        elif self.prompt.value != before.get("prompt"):
            names = [name for name, target in self._targets.items() if target.prompt == self.prompt.value]
            self.target.value = names[0] if names else OWN
