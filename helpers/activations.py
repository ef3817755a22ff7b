"""Activations of neurons over a corpus: scans, the contexts in which a unit is highest, and the tokens that it promotes.

A neuron is named ``(layer, neuron)``. Position 0 of every text is left out (see ``helpers.texts``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.inputs import check_number, chosen
from helpers.interventions import mlp_post, record
from helpers.models import TransformerBridge
from helpers.prediction import pieces, visible
from helpers.progress import progress
from helpers.running import check_layers
from helpers.texts import BATCH_TOKENS, Texts

Neuron = tuple[int, int]
Peaks = tuple[Float[Tensor, "d_mlp k"], Int[Tensor, "d_mlp k"], Int[Tensor, "d_mlp k"]]  # values, rows, positions
Ranked = tuple[tuple[str, float], ...]  # tokens, each with what is added to its logit


def check_neuron(model: TransformerBridge, layer: int, neuron: int) -> None:
    """Raises ValueError, with one sentence, where the model has no such neuron."""
    check_layers(model, [layer], first=0)
    if not 0 <= neuron < model.cfg.d_mlp:
        raise ValueError(f"There is no neuron {neuron} in layer {layer}: it has {model.cfg.d_mlp}, numbered 0 to {model.cfg.d_mlp - 1}.")


@dataclass(frozen=True)
class Batch:
    """Some rows of the texts while they are scanned: their numbers, where their tokens stand, and each layer's activations."""

    rows: Int[Tensor, "batch"]
    mask: Bool[Tensor, "batch pos"]
    activations: dict[int, Float[Tensor, "batch pos d_mlp"]]


@torch.no_grad()
def scan(model: TransformerBridge, texts: Texts, layers: Sequence[int] | None = None, batch_tokens: int = BATCH_TOKENS) -> Iterator[Batch]:
    """The activations of some layers (``None``: all) over the texts, batch by batch; no layer behind the last of them is run.

    Whoever reads the batches keeps what is needed of them. A progress bar appears if it takes longer than two seconds.
    """
    chosen = sorted(set(check_layers(model, layers, first=0)))
    batches = list(texts.batches(batch_tokens))
    device, mask = model.cfg.device, texts.mask
    with progress(total=len(texts), desc="texts") as bar:
        for rows in batches:
            width = int(texts.lengths[rows].max())
            seen = record(model, texts.tokens[rows, :width].to(device), *map(mlp_post, chosen))
            yield Batch(rows, mask[rows, :width].to(device), {layer: seen[mlp_post(layer)] for layer in chosen})
            bar.update(len(rows))


@dataclass(frozen=True)
class NeuronStats:
    """Every neuron of some layers over a corpus: mean activation, share of tokens on which it is active, highest activation."""

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_mlp"]
    active: Float[Tensor, "layer d_mlp"]
    peak: Float[Tensor, "layer d_mlp"]
    n_tokens: int

    def row(self, layer: int) -> int:
        """Where a layer stands on the first axis. Raises ValueError for one that was not scanned."""
        return self.layers.index(chosen(self.layers, layer, "scanned layer"))


def activations(model: TransformerBridge, texts: Texts, neurons: Sequence[Neuron]) -> Float[Tensor, "neuron row pos"]:
    """The activations of a few named neurons on every token; 0 at position 0 and where a row is filled up."""
    for layer, neuron in neurons:
        check_neuron(model, layer, neuron)
    kept = torch.zeros(len(neurons), *texts.tokens.shape)
    for batch in scan(model, texts, [layer for layer, _ in neurons]):
        for place, (layer, neuron) in enumerate(neurons):
            values = batch.activations[layer][..., neuron] * batch.mask
            kept[place, batch.rows, : values.shape[1]] = values.float().cpu()
    return kept


@dataclass(frozen=True)
class Context:
    """One text and what one neuron does on each of its tokens, with the kind of the text and its row in the corpus."""

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    kind: str
    row: int

    @property
    def peak(self) -> int:
        """The position of the highest activation."""
        return max(range(len(self.values)), key=self.values.__getitem__)

    def around(self, before: int = 10, after: int = 4) -> "Context":
        """The same context cut down to some tokens before and after its peak."""
        window = slice(max(0, self.peak - before), self.peak + after + 1)
        return replace(self, pieces=self.pieces[window], values=self.values[window])

    def __str__(self) -> str:
        """The text on one line, its peak in brackets with the activation: ``the capital of [·Poland 3.1] is``."""
        marked = list(self.pieces)
        marked[self.peak] = f" [{visible(self.pieces[self.peak])} {self.values[self.peak]:.1f}]"
        return "".join(marked).replace("\n", "⏎").strip()


@dataclass(frozen=True)
class TopContexts:
    """For every neuron the texts in which it rises highest, one place a text: ``values``, ``rows`` and ``positions``."""

    texts: Texts
    stats: NeuronStats
    values: Float[Tensor, "layer d_mlp k"]
    rows: Int[Tensor, "layer d_mlp k"]
    positions: Int[Tensor, "layer d_mlp k"]

    def where(self, layer: int, neuron: int) -> tuple[list[int], list[int]]:
        """Rows and positions of a neuron's peaks, highest first; fewer than k where it is active in fewer texts."""
        at = self.stats.row(layer)
        if not 0 <= neuron < self.values.shape[1]:
            raise ValueError(f"There is no neuron {neuron} in layer {layer}: it has {self.values.shape[1]}, numbered from 0.")
        alive = self.values[at, neuron] > 0
        return self.rows[at, neuron][alive].tolist(), self.positions[at, neuron][alive].tolist()

    def contexts(self, model: TransformerBridge, layer: int, neuron: int, n: int | None = None) -> list[Context]:
        """The ``n`` texts (all k for ``None``) in which the neuron rises highest, with its activation on every token."""
        return contexts(model, self.texts, {(layer, neuron): self.where(layer, neuron)[0][:n]})[layer, neuron]


def top_contexts(model: TransformerBridge, texts: Texts, k: int = 20, layers: Sequence[int] | None = None) -> TopContexts:
    """The ``k`` highest activations of every neuron of some layers (``None``: all), one a text, and its statistics: one scan."""
    check_number("k says how many contexts to keep of each neuron", k)
    chosen = sorted(set(check_layers(model, layers, first=0)))
    total = torch.zeros(len(chosen), model.cfg.d_mlp)
    active = torch.zeros_like(total)
    nowhere = torch.zeros(model.cfg.d_mlp, min(k, len(texts)), dtype=torch.long)
    best: list[Peaks] = [(torch.full(nowhere.shape, -torch.inf), nowhere, nowhere) for _ in chosen]
    for batch in scan(model, texts, chosen):
        for at, layer in enumerate(chosen):
            values = batch.activations[layer].float() * batch.mask[..., None]  # [batch, pos, d_mlp]
            total[at] += values.sum((0, 1)).cpu()
            active[at] += (values > 0).sum((0, 1)).cpu()
            best[at] = _merge(best[at], *(found.cpu() for found in values.max(1)), batch.rows)
    values, rows, positions = (torch.stack(parts) for parts in zip(*best, strict=True))
    count = texts.n_tokens
    stats = NeuronStats(tuple(chosen), total / count, active / count, values[..., 0].clamp(min=0), count)
    return TopContexts(texts, stats, values, rows, positions)


def _merge(best: Peaks, values: Float[Tensor, "batch d_mlp"], where: Int[Tensor, "batch d_mlp"], rows: Int[Tensor, "batch"]) -> Peaks:
    """The highest of what was kept and of a new batch; each of its rows brings one value for each neuron."""
    known, known_rows, known_places = best
    highest, chosen = torch.cat([known, values.T], 1).topk(known.shape[1])
    rows = torch.cat([known_rows, rows.expand(len(known), -1)], 1)
    places = torch.cat([known_places, where.T], 1)
    return highest, rows.gather(1, chosen), places.gather(1, chosen)


def contexts(model: TransformerBridge, texts: Texts, wanted: Mapping[Neuron, Sequence[int]]) -> dict[Neuron, list[Context]]:
    """For each neuron its activation on every token of the rows wanted for it, all of them in one scan; the mark is cut off."""
    rows = sorted({row for chosen in wanted.values() for row in chosen})
    place = {row: at for at, row in enumerate(rows)}
    values = activations(model, texts.take(rows), list(wanted))
    return {
        neuron: contexts_of(model, texts, chosen, values[number, [place[row] for row in chosen]])
        for number, (neuron, chosen) in enumerate(wanted.items())
    }


def contexts_of(model: TransformerBridge, texts: Texts, rows: Sequence[int], values: Float[Tensor, "kept width"]) -> list[Context]:
    """Some rows of the texts, each with its row of ``values``: one number for every token; the mark is cut off."""
    start, found = int(model.cfg.default_prepend_bos), []
    for row, line in zip(rows, values, strict=True):
        here = slice(start, int(texts.lengths[row]))
        found.append(Context(tuple(pieces(model, texts.tokens[row, here])), tuple(line[here].tolist()), texts.kinds[row], row))
    return found


@dataclass(frozen=True)
class Promoted:
    """The tokens that a neuron's output vector promotes most and suppresses most, each with what it adds to their logit."""

    layer: int
    neuron: int
    up: Ranked
    down: Ranked

    def table(self) -> str:
        """One line for each rank: a promoted token and a suppressed one; a dot stands for a space."""
        width = max(len(visible(piece)) for piece, _ in (*self.up, *self.down))
        both = zip(self.up, self.down, strict=True)
        return "\n".join(f"{visible(a):<{width}} {x:+6.2f}   {visible(b):<{width}} {y:+6.2f}" for (a, x), (b, y) in both)


def output_logits(model: TransformerBridge, layer: int, neuron: int) -> Float[Tensor, "d_vocab"]:
    """What one unit of activation adds to each logit on the direct path: ``W_out[layer][neuron] @ W_U``, weights folded.

    The division by the length of the final residual stream, and all layers in between, are left out: a direction, not a size.
    """
    check_neuron(model, layer, neuron)
    return (model.blocks[layer].mlp.W_out[neuron] @ model.W_U).detach().float().cpu()


def promoted(model: TransformerBridge, layer: int, neuron: int, k: int = 10) -> Promoted:
    """The ``k`` tokens that the neuron's output vector promotes most, and the ``k`` that it suppresses most."""
    return Promoted(layer, neuron, *promoted_tokens(model, output_logits(model, layer, neuron), k))


def promoted_tokens(model: TransformerBridge, logits: Float[Tensor, "d_vocab"], k: int) -> tuple[Ranked, Ranked]:
    """The ``k`` tokens to whose logits most is added, and the ``k`` from which most is taken; ValueError for a ``k`` that cannot be."""
    check_number("k says how many tokens to list", k, high=model.cfg.d_vocab)
    up, down = (
        tuple(zip(pieces(model, ids), logits[ids].tolist(), strict=True)) for ids in (logits.topk(k).indices, (-logits).topk(k).indices)
    )
    return up, down


def name(neuron: Neuron) -> str:
    """A neuron's name as the course writes it: layer 5, neuron 185 is ``L5 N185``."""
    return f"L{neuron[0]} N{neuron[1]}"
