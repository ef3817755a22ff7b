"""The widgets of lesson 3b, "Circuits": a map of patches, a circuit that is cut down, and the attention of any head."""

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from math import isfinite
from typing import Any

from jaxtyping import Float
from torch import Tensor

from helpers.cluster.circuits import EdgeScores, judge, random_circuit
from helpers.cluster.edges import ABLATIONS
from helpers.cluster.graph_plots import circuit_graph
from helpers.cluster.ioi import IoiSentences
from helpers.cluster.patching import PatchMap, PromptPairs
from helpers.html import COLD, DEEPEST, RIM, TABLE, WARM
from helpers.inputs import chosen
from helpers.interventions import intervene, pattern, record, resample_ablate
from helpers.models import TransformerBridge
from helpers.prediction import TopTokens, last_logits, pieces, tokenize, truncate, visible
from helpers.widgets import Demo, as_text, choice_slider, columns_html, cut_note, dropdown, slider, text_field

SHARE, CHANGE = SHOWN_AS = ("share restored", "change in logits")
SIZES = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 800, 1500, 3000)  # edges
MOST_DRAWN = 40  # edges
MOST_TOKENS = 24  # rows and columns of an attention pattern
CELL = "padding:1px 6px;text-align:right;font-size:90%"
TURNED = "writing-mode:vertical-rl;font-weight:normal;font-size:85%"
LOOK, SEEN = "min-width:15px;padding:0 2px;text-align:center;font-size:70%", 0.1  # a square, and the least share that is written into it
UPRIGHT = "text-align:right;font-weight:normal;font-size:85%;padding-right:4px"


def cell(value: float, scale: float, where: str, framed: bool = False) -> str:
    """A square of a map: orange above zero, blue below, with its value; place and value show when the mouse rests on it."""
    depth = DEEPEST * min(abs(value) / scale, 1) if isfinite(value) else 0
    frame = RIM if framed else ""
    colour = f"background:rgba({WARM if value > 0 else COLD},{depth:.2f})"
    return f'<td style="{CELL};{colour}{frame}" title="{escape(where)}: {value:z.2f}">{value:z.2f}</td>'


def map_html(values: Float[Tensor, "layer column"], columns: tuple[str, ...], layer: int, column: int) -> str:
    """A map of patches as a table with one framed square."""
    scale = max((abs(value) for value in values.flatten().tolist() if isfinite(value)), default=0) or 1.0
    head = "".join(f"<th style='{CELL}'>{escape(name)}</th>" for name in columns)
    rows = ""
    for at, row in enumerate(values.tolist()):
        cells = (cell(value, scale, f"layer {at}, {columns[place]}", (at, place) == (layer, column)) for place, value in enumerate(row))
        rows += f"<tr><th style='{CELL}'>{at}</th>{''.join(cells)}</tr>"
    return f"<table><tr><th style='{CELL}'>layer</th>{head}</tr>{rows}</table>"


@as_text
def patching_html(
    model: TransformerBridge, data: IoiSentences, maps: Mapping[str, PatchMap], component: str, shown: str, layer: int, column: str
) -> str:
    """A map of patches, and what the first pair of sentences says with the chosen patch, as HTML."""
    found = chosen(maps, component, "map of")
    values = chosen({SHARE: found.effect, CHANGE: found.change}, shown, "map that shows the")
    chosen(dict(enumerate(values)), layer, "layer")
    at = chosen({name: number for number, name in enumerate(found.columns)}, column, "column")
    value = f"<p>{escape(component)}, layer {layer}, {escape(column)}: <b>{values[layer, at]:z.2f}</b> ({shown}).</p>"
    return map_html(values, found.columns, layer, at) + value + _one_patch(model, data, f"blocks.{layer}.{found.place}", column, at)


def _one_patch(model: TransformerBridge, data: IoiSentences, hook: str, column: str, at: int) -> str:
    """The first pair of sentences, and what follows the corrupted one before and after a patch."""
    clean, corrupted, names = data.texts[0], data.swapped()[0], (int(data.io[0]), int(data.s[0]))
    values = record(model, tokenize(model, clean)[None].to(model.cfg.device), hook)[hook]
    with intervene(model, resample_ablate(hook, values, **_where(data, hook, column, at))):
        after, patched = answer(model, corrupted, *names)
    before, low = answer(model, corrupted, *names)
    _, high = answer(model, clean, *names)
    told = f"by so many logits {escape(data.receivers[0])} is ahead of {escape(data.givers[0])}"
    texts = f"<p>clean: {escape(clean)} … <b>{high:z.2f}</b><br>corrupted: {escape(corrupted)} … <b>{low:z.2f}</b><br>"
    metric = f"with the patch: <b>{patched:z.2f}</b> ({told})</p>"
    return texts + metric + columns_html({"the corrupted sentence": before, "with the patch": after})


def _where(data: IoiSentences, hook: str, column: str, at: int) -> dict[str, int]:
    """Where a column of a map is patched in the first sentence: in one head, or at one position."""
    if column == f"head {at}":
        return {"pos": at} if hook.endswith("hook_pattern") else {"head": at}  # a pattern's first axis after the batch are its heads
    return {"pos": int(chosen(data.positions, column, "position")[0])}


def answer(model: TransformerBridge, text: str, right: int, wrong: int) -> tuple[TopTokens, float]:
    """The three likeliest next tokens, and by how many logits one token is ahead of another."""
    logits = last_logits(model, tokenize(model, text))
    return top_of(model, logits.softmax(-1), 3), (logits[right] - logits[wrong]).item()


class PatchingMap(Demo):
    """Controls for a component, what is shown, a layer and a column, and a ``panel`` with the map and one pair of sentences.

    ``maps``: by name, from ``patch_positions`` with the positions of ``data``, or from ``patch_heads`` at all positions. Only the chosen
    patch is run anew. Raises ValueError where there is no map.
    """

    def __init__(self, model: TransformerBridge, data: IoiSentences, maps: Mapping[str, PatchMap]) -> None:
        self._maps, component = maps, dropdown(list(maps), "Component")
        first = maps[component.value]
        sizes = first.effect[:, -1].abs().nan_to_num()
        start = int((sizes >= sizes.max() / 2).int().argmax())  # the first layer with half of the largest effect in the last column
        super().__init__(
            "A map of patches",
            lambda **values: patching_html(model, data, maps, **values),
            {"component": component, "shown": dropdown(SHOWN_AS, "Shown")},
            {"layer": slider(start, 0, model.cfg.n_layers - 1, "Layer"), "column": dropdown(first.columns, "Where", first.columns[-1])},
        )

    def follow(self, before: Mapping[str, Any]) -> None:
        """Other components have other columns: heads in place of positions."""
        columns = self._maps[self.component.value].columns
        if self.column.options != columns:
            self.column.options = columns
            self.column.value = columns[-1]


@as_text
def pruner_html(model: TransformerBridge, scores: EdgeScores, pairs: PromptPairs, size: int, ablation: str) -> str:
    """A circuit of a size: how faithful it is, beside a random one, and its drawing, as HTML."""
    chosen(dict.fromkeys(ABLATIONS), ablation, "ablation")
    if not 1 <= size <= len(scores.graph):
        raise ValueError(f"A circuit has 1 to {len(scores.graph):,} edges, not {size:,}.")
    circuit = scores.top(size)
    found = judge(model, pairs, [circuit, random_circuit(scores.graph, size)], ablation)
    value, chance = found.faithfulness.tolist()
    low, high = found.intervals[0]
    words = f"<b>{size:,} edges</b> of {len(scores.graph):,} ({circuit.share:.1%}); {found.alive[0]:,} of them lie on a whole path."
    kept = f"<b>{value:z.2f}</b> [{low:z.2f}, {high:z.2f}]; as many random edges: {chance:z.2f}. "
    kept += f"The likeliest word is the model's in {found.same[0].float().mean():.0%} of {len(pairs)} sentences."
    note = f"<p><small>Drawn are the {MOST_DRAWN} with the largest scores.</small></p>" if size > MOST_DRAWN else ""
    return f"<p>{words}<br>Faithfulness ({ablation}): {kept}</p>{note}{_picture(scores, min(size, MOST_DRAWN))}"


def _picture(scores: EdgeScores, size: int) -> str:
    """A small circuit as a picture with its words."""
    image = BytesIO()
    circuit_graph(scores.top(size), scores.values, max_edges=size).savefig(image, format="png", dpi=72)
    alt = f"The {size} edges with the largest scores, from the embedding at the bottom to the logits at the top."
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


class CircuitPruner(Demo):
    """Controls for the number of edges and the kind of ablation, and a ``panel`` with the circuit and its faithfulness.

    It is judged on ``pairs`` with each move, so take few, and others than those that the scores come from.
    """

    def __init__(self, model: TransformerBridge, scores: EdgeScores, pairs: PromptPairs, size: int = 30) -> None:
        sizes = [some for some in SIZES if some <= len(scores.graph)]
        nearest = min(sizes, key=lambda some: abs(some - size))
        controls = {"size": choice_slider(sizes, nearest, "Edges kept"), "ablation": dropdown(ABLATIONS, "Ablation")}
        super().__init__("A circuit to be cut down", lambda **values: pruner_html(model, scores, pairs, **values), controls)


@as_text
def head_html(model: TransformerBridge, text: str, layer: int, head: int) -> str:
    """Where a head looks in a text, token by token, as HTML: a row for each token that looks, a column for each that is looked at."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise ValueError(f"There is no head {layer}.{head}: layers are 0 to {n_layers - 1}, and heads 0 to {n_heads - 1}.")
    if not text.strip():
        raise ValueError("There is nothing to look at: write some words.")
    tokens = truncate(model, whole := tokenize(model, text))
    looks = record(model, tokens[None].to(model.cfg.device), pattern(layer))[pattern(layer)][0, head].float().cpu()
    named = [visible(piece) for piece in pieces(model, tokens)]
    best = looks[-1].topk(min(3, len(tokens)))
    words = ", ".join(f"{escape(named[at])} (token {at}, {looks[-1, at]:.0%})" for at in best.indices.tolist())
    note = cut_note(len(whole), len(tokens), MOST_TOKENS)
    return f"<p>From the last token, {escape(named[-1])}, head {layer}.{head} looks at {words}.{note}</p>{_pattern(looks, named)}"


def _pattern(looks: Float[Tensor, "query key"], named: list[str]) -> str:
    """The last tokens' attention as a table, the deeper the more; nothing stands where a token would look ahead."""
    shown = range(max(0, len(named) - MOST_TOKENS), len(named))
    head = "".join(f"<th style='{TURNED}' title='token {at}'>{escape(named[at])}</th>" for at in shown)
    rows = ""
    for query in shown:
        rows += f"<tr><th style='{UPRIGHT}'>{escape(named[query])}</th>"
        for key in range(shown.start, query + 1):
            share, title = looks[query, key].item(), escape(f"{named[query]} → {named[key]}")
            style = f"{LOOK};background:rgba({WARM},{DEEPEST * share:.2f})"
            rows += f'<td style="{style}" title="{title}: {share:.2f}">{f"{share:.0%}" if share >= SEEN else ""}</td>'
        rows += "</tr>"
    return f"<table style='{TABLE}'><tr><th></th>{head}</tr>{rows}</table>"


class HeadViewer(Demo):
    """Controls for a text, a layer and a head, and a ``panel`` with the head's attention."""

    def __init__(self, model: TransformerBridge, text: str, layer: int = 0, head: int = 0) -> None:
        super().__init__(
            "The attention of any head",
            lambda **values: head_html(model, **values),
            {"text": text_field(text, "Text")},
            {"layer": slider(layer, 0, model.cfg.n_layers - 1, "Layer"), "head": slider(head, 0, model.cfg.n_heads - 1, "Head")},
        )


def top_of(model: TransformerBridge, probs: Float[Tensor, "d_vocab"], k: int) -> TopTokens:
    """The ``k`` most likely tokens of a distribution."""
    best, ids = probs.topk(min(k, len(probs)))
    return TopTokens("", tuple(pieces(model, ids)), tuple(best.tolist()))
