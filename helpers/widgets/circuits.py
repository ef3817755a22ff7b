"""The widgets of lesson 3b, "Circuits": a map of patches, a circuit that is cut down, and the attention of any head."""

import base64
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from io import BytesIO

import ipywidgets
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import EdgeScores, judge, random_circuit
from helpers.edges import ABLATIONS
from helpers.graph_plots import circuit_graph
from helpers.html import COLD, DEEPEST, WARM
from helpers.indirect_objects import IndirectObjects
from helpers.interventions import Intervention, attn_out, heads, intervene, mlp_out, pattern, record, resample, resid_pre
from helpers.models import TransformerBridge
from helpers.patching import PatchMap, Place, Runs
from helpers.prediction import fit, pieces, tokenize, top_tokens, visible
from helpers.widgets import LABELS, bars_html, connect, said

COMPONENTS: dict[str, Place] = {
    "stream before the block": resid_pre,
    "attention": attn_out,
    "MLP": mlp_out,
    "heads": heads,
}
SHOWN_AS = ("share restored", "change in logits")
SIZES = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400)  # edges
MOST_DRAWN = 40
MOST_TOKENS = 24  # rows and columns of an attention pattern
CELL = "padding:1px 6px;text-align:right;font-size:90%"

# -------------------------------------------------------------------------------------------------- the map of patches


def cell(value: float, scale: float, title: str, framed: bool = False) -> str:
    """A square of a map: orange above zero, blue below, with its value, which the mouse names."""
    depth = DEEPEST * min(abs(value) / scale, 1)
    frame = ";outline:2px solid #222" if framed else ""
    colour = f"background:rgba({WARM if value > 0 else COLD},{depth:.2f})"
    return f'<td style="{CELL};{colour}{frame}" title="{escape(title)}">{value:.2f}</td>'


def map_html(values: Float[Tensor, "layer column"], columns: tuple[str, ...], layer: int, column: int) -> str:
    """A map of patches as a table with one framed square."""
    scale = values.abs().max().item() or 1.0
    head = "".join(f"<th style='{CELL}'>{escape(name)}</th>" for name in columns)
    rows = []
    for at, row in enumerate(values.tolist()):
        cells = (
            cell(value, scale, f"layer {at}, {name}: {value:.2f}", (at, place) == (layer, column))
            for place, (name, value) in enumerate(zip(columns, row, strict=True))
        )
        rows.append(f"<tr><th style='{CELL}'>{at}</th>{''.join(cells)}</tr>")
    return f"<table><tr><th style='{CELL}'>layer</th>{head}</tr>{''.join(rows)}</table>"


@said
def patching_html(
    model: TransformerBridge, data: IndirectObjects, maps: Mapping[str, PatchMap], component: str, shown: str, layer: int, column: str
) -> str:
    """A map of patches, and what one sentence says with the chosen patch, as HTML."""
    if component not in maps or component not in COMPONENTS:
        raise ValueError(f"There is no component {component!r}; choose one of: {', '.join(maps)}.")
    if shown not in SHOWN_AS:
        raise ValueError(f"A map shows the {' or the '.join(SHOWN_AS)}, not {shown!r}.")
    found = maps[component]
    if column not in found.columns or not 0 <= layer < len(found.effect):
        raise ValueError(f"This map has layers 0 to {len(found.effect) - 1} and the columns {', '.join(found.columns)}.")
    at = found.columns.index(column)
    values = found.effect if shown == SHOWN_AS[0] else found.change
    said_there = f"<p>{escape(component)}, layer {layer}, {escape(column)}: <b>{values[layer, at]:.2f}</b> ({escape(shown)}).</p>"
    return map_html(values, found.columns, layer, at) + said_there + _one_patch(model, data, component, layer, column, at)


def _one_patch(model: TransformerBridge, data: IndirectObjects, component: str, layer: int, column: str, at: int) -> str:
    """The first pair of sentences, and the next tokens of the corrupted one before and after the patch."""
    clean, corrupted = data.texts[0], data.swapped()[0]
    hook = COMPONENTS[component](layer)
    where = {"head": at} if component == "heads" else {"pos": int(data.positions[column][0])}
    patch = resample(hook, _clean_values(model, clean, hook), **where)
    before, after = _top(model, corrupted), _top(model, corrupted, patch)
    columns = zip(("the corrupted sentence", "with the patch"), (before, after), strict=True)
    cells = "".join(f"<td style='vertical-align:top;padding-right:24px'><b>{head}</b>{bars_html(top)}</td>" for head, top in columns)
    return f"<p>clean: {escape(clean)} …<br>corrupted: {escape(corrupted)} …</p><table><tr>{cells}</tr></table>"


@lru_cache(maxsize=256)
def _clean_values(model: TransformerBridge, text: str, hook: str) -> Float[Tensor, "1 pos *rest"]:
    return record(model, tokenize(model, text)[None].to(model.cfg.device), hook)[hook]


def _top(model: TransformerBridge, text: str, *patch: Intervention):
    with intervene(model, *patch):
        return top_tokens(model, text, 3)


class PatchingMap(ipywidgets.VBox):
    """Controls for a component, a layer and a column, and a ``panel`` with the map and one pair of sentences.

    ``maps``: by the names of ``COMPONENTS``. Raises ValueError where there is none.
    """

    def __init__(self, model: TransformerBridge, data: IndirectObjects, maps: Mapping[str, PatchMap]) -> None:
        known = [name for name in COMPONENTS if name in maps]
        if not known:
            raise ValueError(f"There is no map: give at least one of {', '.join(COMPONENTS)}.")
        self.component = ipywidgets.Dropdown(options=known, value=known[0], description="Component", style=LABELS)
        self.shown = ipywidgets.Dropdown(options=SHOWN_AS, description="Shown", style=LABELS)
        self.layer = ipywidgets.IntSlider(
            model.cfg.n_layers // 3, min=0, max=model.cfg.n_layers - 1, description="Layer", continuous_update=False, style=LABELS
        )
        columns = maps[known[0]].columns
        self.column = ipywidgets.Dropdown(options=columns, value=columns[-1], description="Where", style=LABELS)
        self.panel = ipywidgets.HTML()
        self.component.observe(lambda change: self._offer(maps[change["new"]].columns), names="value")
        controls = {"component": self.component, "shown": self.shown, "layer": self.layer, "column": self.column}
        connect(controls, self.panel, lambda **values: patching_html(model, data, maps, **values))
        super().__init__([ipywidgets.HBox([self.component, self.shown]), ipywidgets.HBox([self.layer, self.column]), self.panel])

    def _offer(self, columns: tuple[str, ...]) -> None:
        """Other components have other columns: heads in place of positions."""
        if self.column.options != columns:
            self.column.options = columns

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[A map of patches, once the notebook runs.]"


# --------------------------------------------------------------------------------------------------- the circuit pruner


@said
def pruner_html(model: TransformerBridge, scores: EdgeScores, both: Runs, size: int, ablation: str) -> str:
    """A circuit of a size: how faithful it is, beside a random one, and its drawing, as HTML."""
    if ablation not in ABLATIONS:
        raise ValueError(f"There is no ablation {ablation!r}; choose one of: {', '.join(ABLATIONS)}.")
    if not 1 <= size <= len(scores.graph):
        raise ValueError(f"A circuit has 1 to {len(scores.graph):,} edges, not {size}.")
    circuit = scores.top(size)
    pair = [circuit, random_circuit(scores.graph, size)]
    found = judge(model, both, pair, ablation)
    (low, high), value, chance = found.intervals[0], *found.faithfulness.tolist()
    words = [
        f"<p><b>{size:,} edges</b> of {len(scores.graph):,} ({circuit.share:.1%}); {found.alive[0]} of them lie on a whole path.<br>",
        f"Faithfulness ({escape(ablation)}): <b>{value:.2f}</b> [{low:.2f}, {high:.2f}]; as many random edges: {chance:.2f}. ",
        f"{len(both)} sentences.</p>",
    ]
    return "".join(words) + _drawn(scores, size)


def _drawn(scores: EdgeScores, size: int) -> str:
    shown = min(size, MOST_DRAWN)
    image = BytesIO()
    circuit_graph(scores.top(size), scores.values, max_edges=MOST_DRAWN).savefig(image, format="png", dpi=72)
    alt = f"The {shown} edges with the largest scores, from the embedding at the bottom to the logits at the top."
    note = f"<p><small>Drawn are the {shown} with the largest scores.</small></p>" if size > shown else ""
    return f'{note}<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


class CircuitPruner(ipywidgets.VBox):
    """Controls for the number of edges and the kind of ablation, and a ``panel`` with the circuit and its faithfulness."""

    def __init__(self, model: TransformerBridge, scores: EdgeScores, both: Runs, size: int = 30) -> None:
        sizes = [some for some in SIZES if some <= len(scores.graph)] or [len(scores.graph)]
        self.size = ipywidgets.SelectionSlider(
            options=sizes, value=min(sizes, key=lambda some: abs(some - size)), description="Edges", continuous_update=False, style=LABELS
        )
        self.ablation = ipywidgets.Dropdown(options=ABLATIONS, value=ABLATIONS[0], description="Ablation", style=LABELS)
        self.panel = ipywidgets.HTML()
        remembered = lru_cache(maxsize=64)(lambda size, ablation: pruner_html(model, scores, both, size, ablation))
        connect({"size": self.size, "ablation": self.ablation}, self.panel, remembered)
        super().__init__([ipywidgets.HBox([self.size, self.ablation]), self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[A circuit to be cut down, once the notebook runs.]"


# ------------------------------------------------------------------------------------------------------ the head viewer


@said
def head_html(model: TransformerBridge, text: str, layer: int, head: int) -> str:
    """Where a head looks in a text, token by token, as HTML: a row for each token that looks, a column for each that is looked at."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise ValueError(f"There is no head {layer}.{head}: layers are 0 to {n_layers - 1}, and heads 0 to {n_heads - 1}.")
    if not text.strip():
        raise ValueError("There is nothing to look at: write some words.")
    tokens = fit(model, tokenize(model, text))
    looks = record(model, tokens[None].to(model.cfg.device), pattern(layer))[pattern(layer)][0, head].float().cpu()
    named = [visible(piece) for piece in pieces(model, tokens)]
    best = looks[-1].topk(min(3, len(tokens)))
    words = ", ".join(f"{escape(named[at])} ({share:.0%})" for share, at in zip(best.values.tolist(), best.indices.tolist(), strict=True))
    hidden = max(0, len(tokens) - MOST_TOKENS)
    note = f" Of {len(tokens)} tokens the last {MOST_TOKENS} are shown." if hidden else ""
    return f"<p>From the last token, head {layer}.{head} looks at {words}.{note}</p>{_pattern(looks[hidden:, hidden:], named[hidden:])}"


def _pattern(looks: Float[Tensor, "query key"], named: list[str]) -> str:
    turned = "writing-mode:vertical-rl;font-weight:normal;font-size:85%"
    head = "".join(f"<th style='{turned}'>{escape(name)}</th>" for name in named)
    rows = []
    for name, row in zip(named, looks.tolist(), strict=True):
        cells = "".join(
            f'<td style="width:15px;background:rgba({WARM},{DEEPEST * share:.2f})" title="{escape(f"{name} → {key}: {share:.2f}")}"></td>'
            for key, share in zip(named, row, strict=True)
        )
        rows.append(f"<tr><th style='text-align:right;font-weight:normal;font-size:85%;padding-right:4px'>{escape(name)}</th>{cells}</tr>")
    return f"<table style='border-collapse:collapse'><tr><th></th>{head}</tr>{''.join(rows)}</table>"


class HeadViewer(ipywidgets.VBox):
    """Controls for a text, a layer and a head, and a ``panel`` with the head's attention."""

    def __init__(self, model: TransformerBridge, text: str, layer: int = 0, head: int = 0) -> None:
        self.text = ipywidgets.Textarea(text, description="Text", continuous_update=False, layout={"width": "95%", "height": "3.5em"})
        self.layer = ipywidgets.IntSlider(
            layer, min=0, max=model.cfg.n_layers - 1, description="Layer", continuous_update=False, style=LABELS
        )
        self.head = ipywidgets.IntSlider(head, min=0, max=model.cfg.n_heads - 1, description="Head", continuous_update=False, style=LABELS)
        self.panel = ipywidgets.HTML()
        connect({"text": self.text, "layer": self.layer, "head": self.head}, self.panel, lambda **values: head_html(model, **values))
        super().__init__([self.text, ipywidgets.HBox([self.layer, self.head]), self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[The attention of any head, once the notebook runs.]"
