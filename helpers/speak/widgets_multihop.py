"""The widgets of lesson 4b, "Thoughts": where bridge and answer of a two-hop question can be read, and what a second pass changes."""

from collections.abc import Mapping, Sequence
from html import escape
from random import Random

import torch

from helpers.html import COLD, DEEPEST, GREEN, NUMBER, RIM, SIDES, SQUARE, TABLE, WARM
from helpers.inputs import chosen
from helpers.models import TransformerBridge
from helpers.prediction import pieces
from helpers.running import next_tokens
from helpers.speak.back_patching import BackPatch, back_patch_with_controls
from helpers.speak.lens import LensTable, first_of, logit_lens
from helpers.speak.tuned_lens import TunedLens
from helpers.speak.two_hops import Located, TwoHop, answered, located
from helpers.speak.widgets_lens import hover, lens_grid, remembered, word
from helpers.widgets import Demo, as_text, dropdown, slider

LEFT = f"{NUMBER};text-align:left"
LISTED = 10  # tokens of a square among which bridge and answer are looked for
RANKS = ("1st", "2nd", "3rd", *(f"{rank}th" for rank in range(4, LISTED + 1)))
CONTROLS = {"another question": "another failed question", "random": "random numbers, as long"}
SEED = 0  # of the other questions that are drawn
PATCH = "width:1.5em;height:1.5em;line-height:1.5em;padding:0;text-align:center;font-size:85%;border:1px solid rgba(140,140,140,0.35)"
MARKS = {"right": ("✓", GREEN, DEEPEST), "changed": ("~", COLD, 0.25), "the same": ("", COLD, 0.0)}  # sign, colour, opacity


def _asked(model: TransformerBridge, questions: Mapping[str, TwoHop], question: str) -> tuple[TwoHop, Located]:
    """The question with this text, and the same as tokens. Raises ValueError where there is none, and for one that is too long."""
    if question not in questions:
        raise ValueError(f"There is no question {question[:60]!r} here: choose one of the {len(questions)} in the list.")
    return questions[question], located(model, [questions[question]])


def stranger(model: TransformerBridge, one: TwoHop, others: Sequence[TwoHop], unknowing: bool = False) -> TwoHop | None:
    """A question with another e1, e2 and e3, drawn at random, if there is any: of the same kind before others.

    ``unknowing``: the model must not say the answer of either by mistake when it is asked the other one.
    """

    def betrays(other: TwoHop) -> bool:
        return bool((located(model, [one, other]).e3.flip(0) == next_tokens(model, [one.text, other.text])).any())

    drawn = Random(SEED).sample(list(others), len(others))
    fitting = sorted(filter(one.shares_nothing, drawn), key=lambda two: two.kind != one.kind)
    return next((other for other in fitting if not (unknowing and betrays(other))), None)


def _token(model: TransformerBridge, token: int, mark: str = "") -> str:
    """A token in a sentence, and the punctuation mark behind it."""
    return f"<b>{escape(word(pieces(model, torch.tensor([token]))[0], 24))}{mark}</b>"


def _chain(one: TwoHop) -> str:
    return f"{escape(one.e1)} → {escape(one.e2)} → {escape(one.e3)}"


def first_layer(found: LensTable, token: int, pos: int, top: int) -> int | None:
    """The first layer after which a token is among the ``top`` best at a position, if it ever is."""
    hits = (found.top[:, pos, :top] == token).any(-1)
    return int(first_of(found.layers, hits[:, None])) if hits.any() else None


@as_text
def timeline_html(model: TransformerBridge, questions: Mapping[str, TwoHop], question: str, tuned: TunedLens | None = None) -> str:
    """What a lens reads of a two-hop question at each layer and position, as HTML, with bridge and answer coloured.

    The lens is the logit lens, or the ``tuned`` one where it is given. Whatever cannot be done is said in a sentence.
    """
    one, asked = _asked(model, questions, question)
    found = lens_of(model, one, tuned)
    model_says, prob = int(found.top[-1, -1, 0]), found.probs[-1, -1, 0].item()
    verdict = "right ✓" if model_says == int(asked.e3) else "wrong ✗"
    answer = f"which is {verdict}: the answer is {_token(model, int(asked.e3), '.')}"
    story = f"<p><b>{_chain(one)}.</b> The model says {_token(model, model_says)} ({prob:.1%}), {answer}</p>"
    return f"{story}{_firsts(model, found, asked, list(questions.values()))}{_timeline(found, asked)}"


def lens_of(model: TransformerBridge, one: TwoHop, tuned: TunedLens | None = None) -> LensTable:
    """What a lens reads in a question after each block."""
    return logit_lens(model, one.text, range(model.cfg.n_layers), LISTED, tuned)


def _firsts(model: TransformerBridge, found: LensTable, asked: Located, others: Sequence[TwoHop]) -> str:
    """From which layer on bridge and answer can be read, and as controls those of another question, a line for each."""
    [one] = asked.questions
    lines = [(f"bridge, {one.e2}", "t1", asked.e2), (f"bridge, {one.e2}", "t2", asked.e2), (f"answer, {one.e3}", "t2", asked.e3)]
    if other := stranger(model, one, others):
        theirs = located(model, [other])
        lines += [(f"another bridge, {other.e2}", "t1", theirs.e2), (f"another answer, {other.e3}", "t2", theirs.e3)]
    rows = []
    for name, at, token in lines:
        firsts = (first_layer(found, int(token), int(asked.place(at)), top) for top in (1, 5))
        cells = "".join(f"<td style='{SQUARE}'>{'never' if first is None else f'layer {first}'}</td>" for first in firsts)
        rows.append(f"<tr><th style='{LEFT}'>{escape(name)}, at {at}</th>{cells}</tr>")
    heads = "".join(f"<th style='{SQUARE}'>{head}</th>" for head in ("as the best token", "among the five best"))
    head = f"<tr><th style='{LEFT}'>first readable</th>{heads}</tr>"
    return f"<table style='{TABLE};margin-bottom:12px'>{head}{''.join(rows)}</table>"


def _timeline(found: LensTable, asked: Located) -> str:
    """The table of layers and positions, and what its colours mean."""
    end = len(found.tokens) - 1
    named = {int(asked.t1): "t1", end: "t2"}
    words = [escape(word(found.words[token])) for token in found.tokens.tolist()]
    heads = [f"{name}<br><small>{named.get(at, '')}</small>" for at, name in enumerate(words)]
    table = lens_grid(found, range(end + 1), heads, lambda layer, pos: _cell(found, asked, layer, pos))
    note = "Each square has the lens' best token. Coloured: among the ten best is the first token of the "
    note += f"{_swatch('bridge', COLD)} or of the {_swatch('answer', WARM)}; the deeper, the better."
    return f"{table}<p><small>{note}</small></p>"


def _swatch(name: str, colour: str) -> str:
    return f"<span style='background:rgba({colour},{DEEPEST});padding:0 4px'>{name}</span>"


def _cell(found: LensTable, asked: Located, layer: int, pos: int) -> str:
    """A square with its best token; where bridge or answer are among the ten best, coloured, and with their ranks in words."""
    best = found.top[found.layers.index(layer), pos].tolist()
    wanted = (("bridge", int(asked.e2), COLD), ("answer", int(asked.e3), WARM))
    seen = sorted((best.index(token), name, colour) for name, token, colour in wanted if token in best)
    notes = "".join(f"<br><small>{name} {RANKS[rank]}</small>" for rank, name, _ in seen)
    depth = DEEPEST * (1.0 if seen[0][0] == 0 else 0.6 if seen[0][0] < 5 else 0.3) if seen else 0  # the best, of the five, of the ten best
    colour = f";background:rgba({seen[0][2]},{depth:.2f})" if seen else ""
    return f'<td style="{SQUARE}{colour}" {hover(found, layer, pos)}>{escape(word(found.words[best[0]]))}{notes}</td>'


class TwoHopTimeline(Demo):
    """A list of two-hop questions, marked as answered right or wrong, and a ``panel`` with what can be read where of the chosen one.

    It begins with the question of which most can be read. Raises ValueError where there is no question.
    """

    def __init__(self, model: TransformerBridge, questions: Sequence[TwoHop], tuned: TunedLens | None = None) -> None:
        right, named = set(answered(model, questions).right), {one.text: one for one in questions}
        options = [(f"{'✓' if one in right else '✗'} {text}", text) for text, one in named.items()]
        start = max(named, key=lambda text: readable_marks(model, named[text], tuned), default=None)
        super().__init__(
            "Where bridge and answer can be read",
            lambda question: timeline_html(model, named, question, tuned),
            {"question": dropdown(options, "Question", start)},
        )


def readable_marks(model: TransformerBridge, one: TwoHop, tuned: TunedLens | None = None) -> int:
    """How many of bridge, at t1 and t2, and answer are at some layer among the lens' five best tokens; -1 for what cannot be read."""
    try:
        asked = located(model, [one])
    except ValueError:
        return -1
    found, end = lens_of(model, one, tuned), asked.place("t2")
    marks = ((asked.e2, asked.t1), (asked.e2, end), (asked.e3, end))
    return sum(first_layer(found, int(token), int(pos), 5) is not None for token, pos in marks)


@remembered
def patched(model: TransformerBridge, one: TwoHop, other: TwoHop | None, at: str, source: str) -> BackPatch:
    """What the model says to one question for every pair of layers, with its own states or with those of a control.

    The full map: patches forward as well, and those from a layer to itself.
    """
    layers = range(model.cfg.n_layers)
    pairs = [(source, target) for source in layers for target in layers]
    return back_patch_with_controls(model, [one, other] if other else [one], at, [source], pairs, seed=SEED).run(source).take([0])


def verdict(run: BackPatch, source: int, target: int) -> str:
    """Is the answer right after the patch of a pair of layers, has it changed, or is it the same as before?"""
    token = int(run.tokens[run.pairs.index((source, target)), 0])
    return "right" if token == int(run.answers[0]) else "changed" if token != int(run.before[0]) else "the same"


@as_text
def back_patch_html(
    model: TransformerBridge, questions: Mapping[str, TwoHop], question: str, at: str, control: str, source: int, target: int
) -> str:
    """What a question is answered with for every pair of layers, the state of the one in the place of the other's, beside a control.

    ``questions`` are failed ones. Whatever cannot be done is said in a sentence.
    """
    one, _ = _asked(model, questions, question)
    chosen(CONTROLS, control, "control")
    layers = model.cfg.n_layers
    if not (0 <= source < layers and 0 <= target < layers):
        raise ValueError(f"There is no pair of layers {source} and {target}: this model's layers are 0 to {layers - 1}.")
    own = patched(model, one, None, at, "own")
    before, answer = int(own.before[0]), int(own.answers[0])
    unpatched = f"Unpatched the model says {_token(model, before, ';')} right would be {_token(model, answer, '.')}"
    maps = _map(model, own, "The question's own states", source, target) + _control(model, questions, one, at, control, source, target)
    return f"<p><b>{_chain(one)}.</b> {unpatched}</p><div style='{SIDES}'>{maps}</div>{_key()}"


@as_text
def _control(
    model: TransformerBridge, questions: Mapping[str, TwoHop], one: TwoHop, at: str, control: str, source: int, target: int
) -> str:
    """The map of a control, or a sentence where there is none for this question."""
    other = stranger(model, one, list(questions.values()), unknowing=True) if control == "another question" else None
    if control == "another question" and other is None:
        raise ValueError("For this question there is no other one with another chain that could lend its states: give more questions.")
    head = f"Control: states of {CONTROLS[control]}" + (f", “{other.text}”" if other else "")
    return _map(model, patched(model, one, other, at, control), head, source, target)


def _map(model: TransformerBridge, run: BackPatch, head: str, source: int, target: int) -> str:
    """The counts, the squares and the chosen patch of one map."""
    rows = []
    for row in range(run.n_layers):
        cells = "".join(_patch(model, run, row, column, (row, column) == (source, target)) for column in range(run.n_layers))
        rows.append(f"<tr><th style='{NUMBER}'>{row}</th>{cells}</tr>")
    columns = "".join(f"<th style='{PATCH};font-weight:normal'>{column}</th>" for column in range(run.n_layers))
    top = f"<tr><th style='{NUMBER}'>from ↓ to →</th>{columns}</tr>"
    table = f"<table style='{TABLE}'>{top}{''.join(rows)}</table>"
    return f"<div style='max-width:30em'><p><b>{escape(head)}</b><br>{_counts(run)}</p>{table}{_chosen(model, run, source, target)}</div>"


def _counts(run: BackPatch) -> str:
    """How many pairs bring the right answer, and how many another one: back, and, for comparison, forward."""
    lines = []
    for name, some in (("Back", [(s, t) for s, t in run.pairs if s > t]), ("Forward", [(s, t) for s, t in run.pairs if s < t])):
        found = [verdict(run, *pair) for pair in some]
        lines.append(f"{name}: right with <b>{found.count('right')}</b> of {len(found)} pairs, changed with {found.count('changed')}.")
    return "<br>".join(lines)


def _patch(model: TransformerBridge, run: BackPatch, source: int, target: int, framed: bool) -> str:
    """A square of the map; place and answer show when the mouse rests on it."""
    sign, colour, depth = MARKS[verdict(run, source, target)]
    diagonal = ";border:2px solid rgba(110,110,110,0.8)" if source == target else ""
    style = f"{PATCH};background:rgba({colour},{depth}){diagonal}{RIM if framed else ''}"
    token = pieces(model, run.tokens[run.pairs.index((source, target)), :1])[0]
    return f'<td style="{style}" title="from layer {source} to layer {target}: {escape(word(token, 24))}">{sign}</td>'


def _chosen(model: TransformerBridge, run: BackPatch, source: int, target: int) -> str:
    """What the model says after the chosen patch."""
    token, found = int(run.tokens[run.pairs.index((source, target)), 0]), verdict(run, source, target)
    words = {"right": "right now ✓", "changed": "another answer than before, and wrong", "the same": "the same as before"}[found]
    return f"<p>From layer {source} to layer {target}: the model says {_token(model, token, ',')} {words}.</p>"


def _key() -> str:
    """What the signs of the maps mean."""
    words = {"right": "right now", "changed": "another wrong answer", "the same": "the same as before"}
    squares = [
        f"<span style='display:inline-block;vertical-align:middle;{PATCH};background:rgba({colour},{depth})'>{sign}</span> {words[name]}"
        for name, (sign, colour, depth) in MARKS.items()
    ]
    note = "Below the framed diagonal a later state goes back, above it an earlier one goes forward."
    return f"<p><small>{' &nbsp; '.join(squares)}<br>{note}</small></p>"


class BackPatchMap(Demo):
    """A list of failed questions, and controls for the position, the control and a pair of layers, and a ``panel`` with both maps.

    Of ``questions`` those are offered that the model answers wrong. Raises ValueError where there is none.
    """

    def __init__(self, model: TransformerBridge, questions: Sequence[TwoHop]) -> None:
        named, last = {one.text: one for one in answered(model, questions).wrong}, model.cfg.n_layers - 1
        if not named:
            raise ValueError("The model answers all of these questions right, so none needs a second pass: give some that it fails.")
        source, target = first_change(patched(model, next(iter(named.values())), None, "t1", "own"))
        super().__init__(
            "A second pass through the layers",
            lambda **values: back_patch_html(model, named, **values),
            {"question": dropdown(list(named), "Failed question")},
            {
                "at": dropdown([("t1, the end of the first hop", "t1"), ("t2, the last token", "t2")], "Position"),
                "control": dropdown([(name, source) for source, name in CONTROLS.items()], "Control: states of"),
            },
            {"source": slider(source, 0, last, "From layer"), "target": slider(target, 0, last, "to layer")},
        )


def first_change(run: BackPatch) -> tuple[int, int]:
    """The first pair of layers, back, that brings the right answer, else one that changes it, else any."""
    back = [pair for pair in run.pairs if pair[0] > pair[1]]
    found = {verdict(run, *pair): pair for pair in reversed(back)}
    return found.get("right") or found.get("changed") or (back or run.pairs)[0]
