"""Neurons, looked at: what each of them answers to in a corpus, what it writes, and how many jobs it has.

A neuron is named ``(layer, neuron)``. Its activation is the number after the activation function, one for each token; it is
called *active* where that number is above 0. All neurons are measured together, in one pass over the corpus that keeps no
more than sums and the highest values. Position 0 of every text is left out (see ``helpers.texts``).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import neurons as place_of
from helpers.interventions import record
from helpers.models import TransformerBridge
from helpers.prediction import pieces, visible
from helpers.progress import progress
from helpers.texts import BATCH_TOKENS, Texts

Neuron = tuple[int, int]


def check_neuron(model: TransformerBridge, layer: int, neuron: int) -> None:
    """Raises ValueError, with one sentence, where the model has no such neuron."""
    check_layers(model, [layer])
    if not 0 <= neuron < model.cfg.d_mlp:
        raise ValueError(f"There is no neuron {neuron} in layer {layer}: it has {model.cfg.d_mlp}, numbered 0 to {model.cfg.d_mlp - 1}.")


def check_layers(model: TransformerBridge, layers: Sequence[int] | None) -> list[int]:
    """The layers asked for, all of them for ``None``. Raises ValueError for one that the model does not have."""
    chosen = list(range(model.cfg.n_layers)) if layers is None else sorted(set(layers))
    wrong = [layer for layer in chosen if not 0 <= layer < model.cfg.n_layers]
    if wrong or not chosen:
        what = f"no layer {wrong[0]}" if wrong else "nothing to do without a layer"
        raise ValueError(f"There is {what}: this model's layers are 0 to {model.cfg.n_layers - 1}.")
    return chosen


# ------------------------------------------------------------------------------------------------ one pass over a corpus


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
    chosen = check_layers(model, layers)
    batches = list(texts.batches(batch_tokens))
    device, mask = model.cfg.device, texts.mask
    with progress(total=len(texts), desc="texts") as bar:
        for rows in batches:
            width = int(texts.lengths[rows].max())
            seen = record(model, texts.tokens[rows, :width].to(device), *map(place_of, chosen))
            yield Batch(rows, mask[rows, :width].to(device), {layer: seen[place_of(layer)] for layer in chosen})
            bar.update(len(rows))


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


# ----------------------------------------------------------------------------------------------------------- statistics


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
        if layer not in self.layers:
            raise ValueError(f"Layer {layer} was not scanned; these were: {', '.join(map(str, self.layers))}.")
        return self.layers.index(layer)


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
    if k < 1:
        raise ValueError(f"k says how many contexts to keep of each neuron; it must be 1 or more, not {k}.")
    chosen = check_layers(model, layers)
    size, k = (len(chosen), model.cfg.d_mlp), min(k, len(texts))
    total, active, best = torch.zeros(size), torch.zeros(size), [_no_peaks(size[1], k) for _ in chosen]
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


Peaks = tuple[Float[Tensor, "d_mlp k"], Int[Tensor, "d_mlp k"], Int[Tensor, "d_mlp k"]]


def _no_peaks(d_mlp: int, k: int) -> Peaks:
    """The highest values before anything was seen."""
    return torch.full((d_mlp, k), -torch.inf), torch.zeros(d_mlp, k, dtype=torch.long), torch.zeros(d_mlp, k, dtype=torch.long)


def _merge(best: Peaks, values: Float[Tensor, "batch d_mlp"], where: Int[Tensor, "batch d_mlp"], rows: Int[Tensor, "batch"]) -> Peaks:
    """The highest of what was kept and of a new batch; each of its rows brings one value for each neuron."""
    known, known_rows, known_places = best
    highest, chosen = torch.cat([known, values.T], 1).topk(known.shape[1])
    rows, places = torch.cat([known_rows, rows.expand(len(known), -1)], 1), torch.cat([known_places, where.T], 1)
    return highest, rows.gather(1, chosen), places.gather(1, chosen)


def neuron_stats(model: TransformerBridge, texts: Texts, layers: Sequence[int] | None = None) -> NeuronStats:
    """Mean, share of active tokens and highest activation of every neuron of some layers (``None``: all)."""
    return top_contexts(model, texts, k=1, layers=layers).stats


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


# -------------------------------------------------------------------------------------------------- what a neuron writes

Ranked = tuple[tuple[str, float], ...]  # tokens, each with what is added to its logit


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
    if not 1 <= k <= model.cfg.d_vocab:
        raise ValueError(f"k says how many tokens to list; it must be from 1 to {model.cfg.d_vocab}, not {k}.")
    up, down = (
        tuple(zip(pieces(model, ids), logits[ids].tolist(), strict=True)) for ids in (logits.topk(k).indices, (-logits).topk(k).indices)
    )
    return up, down


# -------------------------------------------------------------------------------------------------------------- controls


def matched_controls(
    stats: NeuronStats, layer: int, neuron: int, n: int = 20, factor: float = 1.5, seed: int = 0, exclude: Collection[Neuron] = ()
) -> list[Neuron]:
    """``n`` random neurons of the same layer whose mean activation lies within ``factor`` of the neuron's; never itself.

    Raises ValueError where there are too few of them.
    """
    mean = stats.mean[stats.row(layer)]
    if not 0 <= neuron < len(mean):
        raise ValueError(f"There is no neuron {neuron} in layer {layer}: it has {len(mean)}, numbered 0 to {len(mean) - 1}.")
    if mean[neuron] == 0:
        raise ValueError(f"Neuron {neuron} of layer {layer} is never active in these texts, so there is nothing to match; choose another.")
    ratio = mean / mean[neuron]
    alike = ((ratio >= 1 / factor) & (ratio <= factor)).nonzero().flatten().tolist()
    alike = [other for other in alike if other != neuron and (layer, other) not in exclude]
    if len(alike) < n:
        advice = "ask for fewer, or let the mean differ by a larger factor"
        raise ValueError(f"Only {len(alike)} neurons of layer {layer} have a mean within a factor of {factor:g}, not {n}: {advice}.")
    return [(layer, other) for other in sorted(Random(seed).sample(alike, n))]


def random_neurons(top: TopContexts, n: int, seed: int = 0) -> list[Neuron]:
    """``n`` neurons drawn from all that are active in at least k texts, so that their contexts can be compared."""
    alive = (top.values[..., -1] > 0).nonzero().tolist()
    if len(alive) < n:
        advice = "scan more texts, or ask for fewer"
        raise ValueError(f"Only {len(alive)} neurons are active in {top.values.shape[-1]} of these texts or more, not {n}: {advice}.")
    return sorted((top.stats.layers[at], neuron) for at, neuron in Random(seed).sample(alive, n))


# ---------------------------------------------------------------------------------------------- neurons that know a class


@dataclass(frozen=True)
class Selectivity:
    """How well each neuron tells a class of positions from the rest: AUC on one half of the texts, and on the other.

    AUC is the chance that the neuron is higher on a position of the class than on another one, a draw counting half
    (Mann and Whitney 1947): 0.5 is chance, 1 a perfect detector, 0 a perfect detector of the rest.
    """

    layers: tuple[int, ...]
    choosing: Float[Tensor, "layer d_mlp"]
    held_out: Float[Tensor, "layer d_mlp"]
    n_class: tuple[int, int]
    n_rest: tuple[int, int]

    def best(self, n: int = 10) -> list[tuple[Neuron, float, float]]:
        """The best neurons by the half for choosing, each with its AUC there and on the half that was held out."""
        order = self.choosing.flatten().argsort(descending=True, stable=True)[:n].tolist()
        width = self.choosing.shape[1]
        found = [(at // width, at % width) for at in order]
        return [((self.layers[a], b), self.choosing[a, b].item(), self.held_out[a, b].item()) for a, b in found]

    def table(self, n: int = 10) -> str:
        """One line for each of the best neurons: its name, and its AUC on both halves."""
        lines = [f"{name(neuron):<10} {chosen:8.3f} {held_out:9.3f}" for neuron, chosen, held_out in self.best(n)]
        return "\n".join(["neuron     choosing  held out", *lines])


def name(neuron: Neuron) -> str:
    """A neuron's name as the course writes it: layer 5, neuron 185 is ``L5 N185``."""
    return f"L{neuron[0]} N{neuron[1]}"


def this_token(texts: Texts, ids: Collection[int]) -> Bool[Tensor, "row pos"]:
    """Where the token is one of ``ids``."""
    return torch.isin(texts.tokens, torch.tensor(sorted(ids), dtype=torch.long)) & texts.mask


def next_token(texts: Texts, ids: Collection[int]) -> Bool[Tensor, "row pos"]:
    """Where the next token of the text is one of ``ids``: a class of outputs."""
    follows = torch.zeros_like(texts.mask)
    follows[:, :-1] = this_token(texts, ids)[:, 1:]
    return follows & texts.mask


def class_selectivity(
    model: TransformerBridge,
    texts: Texts,
    labels: Bool[Tensor, "row pos"],
    layers: Sequence[int] | None = None,
    limit: int = 500,
    seed: int = 0,
) -> Selectivity:
    """The AUC of every neuron of some layers (``None``: all) for the positions where ``labels`` is true, in one scan.

    The texts are halved at random. In each half at most ``limit`` positions of the class and twice as many others are drawn.
    Raises ValueError where a half has no position of the class, or nothing but such positions.
    """
    return class_selectivities(model, texts, [labels], layers, limit, seed)[0]


def class_selectivities(
    model: TransformerBridge,
    texts: Texts,
    classes: Sequence[Bool[Tensor, "row pos"]],
    layers: Sequence[int] | None = None,
    limit: int = 500,
    seed: int = 0,
) -> list[Selectivity]:
    """The same for several classes, all of them in one scan, such as a class and its control (``random_class``)."""
    chosen = check_layers(model, layers)
    drawn = [_draw_halves(texts, labels, limit, seed) for labels in classes]
    sizes = [len(positions) for four in drawn for positions in four]
    values = _pick(model, texts, torch.cat([positions for four in drawn for positions in four]), chosen).split(sizes)
    return [_selectivity(chosen, values[at : at + 4]) for at in range(0, len(values), 4)]


def random_class(texts: Texts, labels: Bool[Tensor, "row pos"], seed: int = 0) -> Bool[Tensor, "row pos"]:
    """A control for a class of positions: as many positions, drawn at random from all of the texts."""
    drawn = _draw(texts.mask, int((labels & texts.mask).sum()), torch.Generator().manual_seed(seed))
    mixed = torch.zeros_like(texts.mask)
    mixed[drawn[:, 0], drawn[:, 1]] = True
    return mixed


def _draw_halves(texts: Texts, labels: Bool[Tensor, "row pos"], limit: int, seed: int) -> list[Int[Tensor, "item two"]]:
    """Positions inside the class and outside, from the half that chooses, then from the one that judges."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.rand(len(texts), generator=rng).argsort() < len(texts) // 2  # [row]
    groups = [half[:, None] & side for half in (first, ~first) for side in (labels & texts.mask, ~labels & texts.mask)]
    drawn = [_draw(group, limit * (1 + number % 2), rng) for number, group in enumerate(groups)]
    if not all(len(positions) for positions in drawn):
        raise ValueError("A half of the texts has no position inside the class, or none outside: label more positions, or scan more texts.")
    return drawn


def _selectivity(layers: Sequence[int], values: Sequence[Float[Tensor, "_ unit"]]) -> Selectivity:
    """The AUC of every neuron on both halves; the values stand in the order of ``_draw_halves``."""
    halves = [auc(values[at], values[at + 1]).reshape(len(layers), -1) for at in (0, 2)]
    counts = list(map(len, values))
    return Selectivity(tuple(layers), *halves, n_class=(counts[0], counts[2]), n_rest=(counts[1], counts[3]))


def _draw(where: Bool[Tensor, "row pos"], limit: int, rng: torch.Generator) -> Int[Tensor, "item two"]:
    """At most ``limit`` of the positions that are true, as ``(row, pos)``, drawn without putting back."""
    found = where.nonzero()
    return found[torch.randperm(len(found), generator=rng)[:limit]]


def _pick(model: TransformerBridge, texts: Texts, positions: Int[Tensor, "item two"], layers: Sequence[int]) -> Float[Tensor, "item unit"]:
    """The activations of all neurons of the layers, side by side, at some positions of the texts."""
    rows, row_of = positions[:, 0].unique(return_inverse=True)  # texts without such a position are not run
    positions, place_of_item = torch.stack([row_of, positions[:, 1]], 1).unique(dim=0, return_inverse=True)
    number = torch.full((len(rows), texts.tokens.shape[1]), -1)
    number[positions[:, 0], positions[:, 1]] = torch.arange(len(positions))
    kept = torch.zeros(len(positions), len(layers), model.cfg.d_mlp)
    for batch in scan(model, texts.take(rows), layers):
        wanted = number[batch.rows, : batch.mask.shape[1]]
        here = (wanted >= 0).to(batch.mask.device)
        for at, layer in enumerate(layers):
            kept[wanted[wanted >= 0], at] = batch.activations[layer][here].float().cpu()
    return kept.flatten(1)[place_of_item]


def auc(inside: Float[Tensor, "n_inside unit"], outside: Float[Tensor, "n_outside unit"]) -> Float[Tensor, "unit"]:
    """For each unit the chance that a value inside is above a value outside, draws counting half."""
    ordered, asked = outside.T.contiguous().sort().values, inside.T.contiguous()
    below = torch.searchsorted(ordered, asked) + torch.searchsorted(ordered, asked, right=True)
    return below.double().mean(1).div(2 * len(outside)).float()


# --------------------------------------------------------------------------------------------- many jobs for one neuron


@dataclass(frozen=True)
class Polysemanticity:
    """How varied the top contexts of neurons are, in bits of entropy: over kinds of text, and over the tokens at the peaks.

    ``corpus`` is the entropy of the whole corpus, which no small sample reaches; ``chance`` holds what as many texts (and
    tokens) give that are drawn at random, once for each draw. 0 bits: always the same kind; n bits: as varied as 2^n kinds.
    """

    neurons: tuple[Neuron, ...]
    kinds: tuple[float, ...]
    tokens: tuple[float, ...]
    chance_kinds: tuple[float, ...]
    chance_tokens: tuple[float, ...]
    corpus_kinds: float
    corpus_tokens: float


def entropy(labels: Sequence[object]) -> float:
    """The entropy in bits of the shares of the labels (Shannon 1948); 0 for no label or only one kind.

    >>> entropy(["a", "a", "b", "b"]), entropy(["a"])
    (1.0, 0.0)
    """
    counts = Counter(labels).values()
    total = sum(counts)
    return sum(count / total * log2(total / count) for count in counts)


def polysemanticity(top: TopContexts, neurons: Sequence[Neuron], draws: int = 200, seed: int = 0) -> Polysemanticity:
    """The entropy of each neuron's top contexts beside that of the corpus and of random contexts, as many as there are of k.

    Random contexts are drawn as a neuron would find them that is active anywhere: a token of the corpus by chance, one a text.
    Raises ValueError for a neuron that is never active in these texts.
    """
    found = [top.where(layer, neuron) for layer, neuron in neurons]
    if silent := [name(neuron) for neuron, (rows, _) in zip(neurons, found, strict=True) if not rows]:
        raise ValueError(f"{silent[0]} is never active in these texts, so it has no contexts; choose another neuron.")
    measured = [_entropies(top.texts, rows, places) for rows, places in found]
    everything = top.texts.mask.nonzero()  # [token, (row, pos)]
    rng = torch.Generator().manual_seed(seed)
    chance = [_entropies(top.texts, *_random_places(everything, top.values.shape[-1], rng)) for _ in range(draws)]
    whole = _entropies(top.texts, *everything.T.tolist())
    columns = [tuple(column) for part in (measured, chance) for column in zip(*part, strict=True)]
    return Polysemanticity(tuple(neurons), *columns, *whole)


def _entropies(texts: Texts, rows: Sequence[int], places: Sequence[int]) -> tuple[float, float]:
    """The entropy of the kinds of some texts, and of the tokens at some places in them."""
    return entropy([texts.kinds[row] for row in rows]), entropy(texts.tokens[list(rows), list(places)].tolist())


def _random_places(everything: Int[Tensor, "token two"], k: int, rng: torch.Generator) -> tuple[list[int], list[int]]:
    """``k`` tokens drawn at random, each in another text."""
    mixed = everything[torch.randperm(len(everything), generator=rng)]
    first: dict[int, int] = {}
    for part in mixed.split(4 * k):
        for row, place in part.tolist():
            if len(first) < k:
                first.setdefault(row, place)
        if len(first) == k:
            break
    return list(first), list(first.values())
