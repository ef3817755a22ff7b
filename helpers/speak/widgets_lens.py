"""The widget of lesson 4a, "Thoughts": what a lens reads at every layer and position of any text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

from helpers.html import DEEPEST, NUMBER, RIM, SQUARE, TABLE, WARM
from helpers.inputs import chosen
from helpers.models import TransformerBridge
from helpers.prediction import TopTokens, pieces, tokenize, truncate, visible
from helpers.running import check_layers, layer_name
from helpers.speak.lens import LensTable, first_of, logit_lens, to_the_end
from helpers.speak.tuned_lens import TunedLens
from helpers.widgets import KEPT, Demo, as_text, bars_html, choice_slider, cut_note, dropdown, named_layer, text_field

RAW, TUNED = LENSES = ("logit lens", "tuned lens")
LISTED = 10  # tokens of a square
MOST_TOKENS = 16  # columns: the last ones of a long text


def lens_grid(found: LensTable, shown: Iterable[int], heads: Sequence[str], square: Callable[[int, int], str]) -> str:
    """A table with a row for each layer, the last one at the bottom, and a column with a head for each position that is shown."""
    shown = list(shown)
    top = "".join(f"<th style='{SQUARE}' title='token {pos}'>{head}</th>" for pos, head in zip(shown, heads, strict=True))
    rows = (
        f"<tr><th style='{NUMBER}'>{layer_name(layer)}</th>{''.join(square(layer, pos) for pos in shown)}</tr>" for layer in found.layers
    )
    head = f"<tr><th style='{NUMBER}'>layer</th>{top}</tr>"
    return f"<div style='overflow-x:auto'><table style='{TABLE}'>{head}{''.join(rows)}</table></div>"


def hover(found: LensTable, layer: int, pos: int) -> str:
    """What shows when the mouse rests on a square: its place, and a line for each of its best tokens."""
    best = "".join(f"\n{word(token, 24)} {prob:.1%}" for token, prob in found.cell(layer, pos))
    place = f"{named_layer(layer)}, after {word(found.words[int(found.tokens[pos])], 24)}"
    return f'title="{escape(place + best)}"'.replace("\n", "&#10;")


def shown_positions(n: int) -> range:
    """The last positions, as many as there is room for."""
    return range(max(0, n - MOST_TOKENS), n)


@as_text
def lens_html(model: TransformerBridge, tuned: TunedLens | None, text: str, layer: int, pos: int, lens: str = RAW) -> str:
    """What a lens reads in a text at each layer and position as a coloured table, and the ten best tokens of one square, as HTML.

    ``pos`` counts the tokens that the model reads, from 0. Whatever cannot be done is said in a sentence.
    """
    if not text.strip():
        raise ValueError("There is nothing to read: write some words.")
    check_layers(model, [layer])
    maps = chosen({RAW: None, TUNED: tuned}, lens, "lens")
    if lens == TUNED and tuned is None:
        raise ValueError("No tuned lens was given: load one with load_tuned_lens, or use the logit lens.")
    found = logit_lens(model, text, k=LISTED, tuned=maps)
    shown = shown_positions(len(found.tokens))
    if pos not in shown:
        raise ValueError(f"There is no token {pos} to choose: the tokens shown are {shown[0]} to {shown[-1]}.")
    final = {at: int(found.top[-1, at, 0]) for at in shown}  # what the model says in the end

    def square(row: int, at: int) -> str:
        return _square(found, row, at, final[at], framed=(row, at) == (layer, pos))

    table = lens_grid(found, shown, [escape(_token(found, at)) for at in shown], square)
    key = "The deeper the colour, the surer the lens. Bold: what the model says in the end. Rest the mouse on a square for its ten best."
    note = cut_note(len(tokenize(model, text)), len(found.tokens), MOST_TOKENS)
    under = f"<p style='contain:inline-size'><small>{key}{note}</small></p>"  # no wider than the table
    left = f"<div style='max-width:100%;min-width:22em'>{table}{under}</div>"
    return f"{_story(found, pos, lens)}<div style='display:flex;flex-wrap:wrap;gap:0 32px'>{left}{_best(found, layer, pos)}</div>"


def _token(found: LensTable, pos: int) -> str:
    return word(found.words[int(found.tokens[pos])])


def _square(found: LensTable, layer: int, pos: int, final: int, framed: bool) -> str:
    """A square with its best token, the deeper coloured the likelier; bold where it is the model's."""
    row = found.layers.index(layer)
    token, prob = int(found.top[row, pos, 0]), found.probs[row, pos, 0].item()
    weight = ";font-weight:bold" if token == final else ""
    style = f"{SQUARE};background:rgba({WARM},{DEEPEST * prob:.2f}){weight}{RIM if framed else ''}"
    return f'<td style="{style}" {hover(found, layer, pos)}>{escape(word(found.words[token]))}</td>'


def _story(found: LensTable, pos: int, lens: str) -> str:
    """In words: what the model says after a token, and from which layer on it can be read."""
    hits = found.top[:, pos, :1] == found.top[-1, pos, 0]
    appears, leads = (int(first_of(found.layers, some)) for some in (hits, to_the_end(hits)))
    token, prob = found.cell(found.layers[-1], pos)[0]
    before = f"; for the first time it is on top at {named_layer(appears)}" if appears < leads else ""
    says = f"After <b>{escape(_token(found, pos))}</b> (token {pos}) the model says <b>{escape(word(token, 24))}</b> ({prob:.1%})."
    return f"<p>{says} By the {lens} it is the best token from {named_layer(leads)} on{before}.</p>"


def _best(found: LensTable, layer: int, pos: int) -> str:
    """The best tokens of one square as bars."""
    tokens, probs = zip(*found.cell(layer, pos), strict=True)
    place = f"{named_layer(layer)}, after {escape(_token(found, pos))}"
    top = TopTokens("", tuple(word(token, 24) for token in tokens), probs)
    return f"<div><p><b>{place[0].upper()}{place[1:]}</b></p>{bars_html(top)}</div>"


class LensViewer(Demo):
    """Controls for a text, a layer and a position, and a ``panel`` with what the lens reads everywhere, and there.

    With a ``tuned`` lens there is a control to switch to it.
    """

    def __init__(self, model: TransformerBridge, text: str = "The capital of Poland is", tuned: TunedLens | None = None) -> None:
        self._model = model
        layers = [(layer_name(number), number) for number in check_layers(model, None)]
        super().__init__(
            "Read any text through a lens",
            keeping(lambda **values: lens_html(model, tuned, **values)),
            {"text": text_field(text, "Text")},
            {
                "layer": choice_slider(layers, 3 * model.cfg.n_layers // 4, "Layer"),
                "pos": dropdown([("none", 0)], "After the token"),
            }
            | ({"lens": dropdown(LENSES, "Lens")} if tuned else {}),
        )

    def follow(self, before: Mapping[str, Any]) -> None:
        """Offers the positions of a new text, of which the last is chosen; an empty text has none, and leaves those that there are."""
        if before.get("text") == self.text.value:
            return
        written = pieces(self._model, truncate(self._model, tokenize(self._model, self.text.value)))
        shown = shown_positions(len(written)) if self.text.value.strip() else ()
        options = [(f"{at} {word(written[at])}", at) for at in shown]
        self.pos.options = options or self.pos.options
        self.pos.index = len(self.pos.options) - 1


def remembered(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a slow function of a model remember its last results; it keeps no model alive."""
    results: WeakKeyDictionary[TransformerBridge, dict[tuple, Any]] = WeakKeyDictionary()

    @wraps(compute)
    def found(model: TransformerBridge, *arguments: Any) -> Any:
        kept = results.setdefault(model, {})
        if arguments not in kept:
            if len(kept) == KEPT:
                del kept[next(iter(kept))]  # the oldest
            kept[arguments] = compute(model, *arguments)
        return kept[arguments]

    return found


def keeping(write: Callable[..., str]) -> Callable[..., str]:
    """Where nothing but a sentence can be written, the last table that could be stays below it."""
    last = ""

    def written(**values: object) -> str:
        nonlocal last
        html = write(**values)
        if "<table" in html:
            last = html
            return html
        return f"{html}<p><small>Below is still the last answer.</small></p><div style='opacity:0.6'>{last}</div>" if last else html

    return written


def word(piece: str, letters: int = 10) -> str:
    """A piece with its spaces made visible, cut to so many letters; what cannot be printed is a question mark in a diamond."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in visible(piece))
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}…"
