"""The widgets of lesson 1, "One neuron": look at a neuron, take it away, give it a dose, and crowd many features into few dimensions."""

from functools import cache
from html import escape
from itertools import product

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from helpers.activations import Context, Neuron, TopContexts, check_neuron, contexts, name, promoted
from helpers.html import COLD, TABLE, WARM, activation_html
from helpers.inputs import chosen
from helpers.interventions import clamp, intervene, mlp_post, record
from helpers.metrics import AFTER_FIRST
from helpers.models import TransformerBridge
from helpers.one_neuron.ablation import ablate_neurons, resampled
from helpers.one_neuron.superposition import SPARSITIES, ToyModels, train_toys
from helpers.prediction import pieces, sample, top_tokens
from helpers.progress import progress
from helpers.texts import Texts, as_texts
from helpers.widgets import (
    Demo,
    as_text,
    choice_slider,
    columns_html,
    dropdown,
    number_field,
    promoted_html,
    slider,
    text_field,
    tick_box,
    within,
)

KINDS = ("zero", "mean", "resample")
NOTHING = "<p><small>Nothing changes that one can see: try a prompt in which this neuron is active, or another one.</small></p>"
LARGEST_DOSE = 10_000.0  # far beyond what neurons do, and small enough for every type of number


@as_text
def microscope_html(model: TransformerBridge, top: TopContexts, text: str, layer: int, neuron: int, most_active: bool = False) -> str:
    """One neuron as HTML: its activation on every token of ``text``, its top contexts, and the tokens that it promotes.

    ``most_active``: instead of the neuron named, the one that is nearest to its own highest activation at the last token.
    """
    texts = as_texts(model, [text])
    if not most_active:
        check_neuron(model, layer, neuron)
    layers = top.stats.layers if most_active else [layer]
    seen = record(model, texts.tokens.to(model.cfg.device), *map(mlp_post, layers))
    if most_active:
        layer, neuron = loudest(top, torch.stack([seen[mlp_post(at)][0, -1].cpu() for at in layers]))
    values = seen[mlp_post(layer)][0, :, neuron].tolist()
    stats, at = top.stats, top.stats.row(layer)
    peak = stats.peak[at, neuron].item()
    facts = f"active on {stats.active[at, neuron]:.1%} of the tokens of the corpus, highest {peak:.1f}"
    own = activation_html(pieces(model, texts.tokens[0])[1:], values[1:], scale=max(peak, max(values[1:], default=0)) or None)
    best = "".join(activation_html(found.pieces, found.values, n_words=1) for found in _best_contexts(model, top, layer, neuron))
    best = best or "<p>It is never active.</p>"
    return (
        f"<p><b>{name((layer, neuron))}</b>: {facts}</p><p><b>Your text</b></p>{own}"
        f"<p><b>The texts in which it rises highest</b></p>{best}{promoted_html(promoted(model, layer, neuron, 8))}"
    )


def _best_contexts(model: TransformerBridge, top: TopContexts, layer: int, neuron: int, n: int = 5, after: int = 4) -> list[Context]:
    """The top contexts, cut around their peaks; what comes later than is shown is not computed."""
    rows, places = (torch.tensor(found[:n], dtype=torch.long) for found in top.where(layer, neuron))
    if not len(rows):
        return []
    ends = torch.minimum(places + after, top.texts.lengths[rows] - 1)
    some = top.texts.up_to(torch.stack([rows, ends], 1))
    return [found.around(after=after) for found in contexts(model, some, {(layer, neuron): range(len(rows))})[layer, neuron]]


def loudest(top: TopContexts, last: Float[Tensor, "layer d_mlp"]) -> Neuron:
    """The neuron that is nearest to its own highest activation at a token; those that never rise high are left out."""
    share = torch.where(top.stats.peak > top.stats.peak.median(), last / top.stats.peak.clamp(min=1e-6), 0.0)
    at, neuron = divmod(int(share.argmax()), share.shape[1])
    return top.stats.layers[at], neuron


class NeuronMicroscope(Demo):
    """Controls for a layer, a neuron and a text, and a ``panel`` that shows what the neuron does there and elsewhere."""

    def __init__(self, model: TransformerBridge, top: TopContexts, neuron: Neuron, text: str) -> None:
        super().__init__(
            "A microscope for neurons",
            lambda **values: microscope_html(model, top, **values),
            {"text": text_field(text, "Text")},
            _neuron_controls(model, neuron) | {"most_active": tick_box(False, "the most active one at the last token")},
        )


@as_text
def removal_html(
    model: TransformerBridge, texts: Texts, means: Float[Tensor, "layer d_mlp"], prompt: str, layer: int, neuron: int, kind: str
) -> str:
    """The next tokens after ``prompt`` as they are, and with one neuron taken away by zero, mean or resample ablation, as HTML."""
    check_neuron(model, layer, neuron)
    before = top_tokens(model, prompt, 8)
    ways = {"zero": lambda: 0.0, "mean": lambda: means, "resample": lambda: resampled(model, [prompt], texts)}
    baseline = chosen(ways, kind, "kind of ablation")()
    with intervene(model, *ablate_neurons([(layer, neuron)], baseline)):
        after = top_tokens(model, prompt, 8)
    bars = columns_html({"as it is": before, f"{name((layer, neuron))} taken away ({kind})": after})
    return bars if before.table() != after.table() else bars + NOTHING


class RemoveIt(Demo):
    """Controls for a prompt, a neuron and a kind of ablation, and a ``panel`` with the next tokens before and after."""

    def __init__(self, model: TransformerBridge, texts: Texts, means: Float[Tensor, "layer d_mlp"], neuron: Neuron, prompt: str) -> None:
        super().__init__(
            "Take a neuron away here",
            lambda **values: removal_html(model, texts, means, **values),
            {"prompt": text_field(prompt, "Prompt")},
            _neuron_controls(model, neuron) | {"kind": dropdown(KINDS, "Ablation", "mean")},
        )


@as_text
def dose_html(model: TransformerBridge, prompt: str, layer: int, neuron: int, dose: float, length: int = 10) -> str:
    """What follows ``prompt`` while a neuron is held at ``dose`` on every token: the next tokens and the likeliest continuation."""
    check_neuron(model, layer, neuron)
    dose = within(dose, LARGEST_DOSE, "dose")
    before = top_tokens(model, prompt, 5)
    with intervene(model, clamp(mlp_post(layer), dose, units=neuron, pos=AFTER_FIRST)):
        after = top_tokens(model, prompt, 5)
        text = sample(model, prompt, length, temperature=0)
    written = f"<span style='white-space:pre-wrap'>{escape(text) or 'nothing; the text ends here'}</span>"
    bars = columns_html({"as it is": before, f"{name((layer, neuron))} held at {dose:.1f}": after})
    return f"{bars}<p><b>It goes on:</b> {written}</p>"


class DoseLab(Demo):
    """A slider that holds a neuron at a dose, and a ``panel`` with what the model then writes."""

    def __init__(self, model: TransformerBridge, neuron: Neuron, prompt: str, highest: float = 10.0) -> None:
        super().__init__(
            "Give a neuron a dose here",
            lambda **values: dose_html(model, **values),
            {"prompt": text_field(prompt, "Prompt")},
            _neuron_controls(model, neuron) | {"dose": slider(highest, 0, highest, "Dose", step=highest / 20)},
        )


FEATURES, HIDDEN = (5, 10, 20), (2, 5)
SQUARE = "width:15px;height:15px;padding:0;text-align:center;font-size:9px;border:1px solid #8c8c8c40"


@cache
def toys_for(features: int, hidden: int) -> ToyModels:
    """The toy models of the widget for all sparsities; trained once, in about half a second."""
    return train_toys(features, hidden, steps=300, starts=2)


@as_text
def superposition_html(features: int, hidden: int, sparsity: float) -> str:
    """How a toy model puts ``features`` into ``hidden`` neurons at a sparsity: ``W^T W`` as a coloured grid, and counts in words."""
    toys = toys_for(features, hidden)
    at = chosen({one: number for number, one in enumerate(toys.sparsities)}, sparsity, "toy model for a sparsity of")
    count = toys.represented[at]
    shared = toys.interference[at][toys.norms[at] > 0.5].mean().item() if count else 0.0
    words = f"{count} of {features} features in {hidden} neurons; mean interference {shared:.2f}; loss {toys.loss[at]:.4f}"
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in toys.overlaps[at].tolist())
    return (
        f"<p><b>{words}</b> (one dimension for each of the {min(hidden, features)} most important: {toys.dedicated_loss[at]:.4f})</p>"
        f"<table style='{TABLE}' aria-label='how much of each feature comes out as each other feature'>{rows}</table>"
    )


def _cell(value: float) -> str:
    """A coloured cell: orange above zero, blue below, white at zero."""
    depth = min(abs(value), 1.0)
    sign = ("+" if value > 0 else "−") if depth >= 0.1 else ""  # for who sees no colour
    return f"<td title='{value:.2f}' style='{SQUARE};background:rgba({WARM if value > 0 else COLD},{depth:.2f})'>{sign}</td>"


class SuperpositionLab(Demo):
    """Controls for the number of features, the number of neurons and the sparsity, and a ``panel`` with what is kept of them.

    All toy models are trained at the start, so that the controls answer at once.
    """

    def __init__(self) -> None:
        for size in progress(list(product(FEATURES, HIDDEN)), desc="toy models"):
            toys_for(*size)
        super().__init__(
            "Crowd features into neurons here",
            superposition_html,
            {
                "features": dropdown(FEATURES, "Features", FEATURES[-1]),
                "hidden": dropdown(HIDDEN, "Neurons", HIDDEN[-1]),
                "sparsity": choice_slider(SPARSITIES, SPARSITIES[2], "Sparsity"),
            },
        )


def _neuron_controls(model: TransformerBridge, neuron: Neuron) -> dict[str, ipywidgets.Widget]:
    """A slider for the layer and a field for the neuron's number."""
    return {
        "layer": slider(neuron[0], 0, model.cfg.n_layers - 1, "Layer"),
        "neuron": number_field(neuron[1], 0, model.cfg.d_mlp - 1, "Neuron"),
    }
