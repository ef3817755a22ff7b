"""Feed-forward layers as key-value memories (Geva et al. 2021, "Transformer feed-forward layers are key-value memories", 2012.14913).

A feed-forward layer computes ``FF(x) = f(x K^T) V`` (section 2), which is a sum over its neurons: ``sum of m_i v_i``, and a bias. Each
neuron is one memory. Its *key* ``k_i`` says when it answers: the *triggers* are the texts in which it rises highest. Its *memory
coefficient* ``m_i = f(x . k_i)`` is the activation, another one for every token. Its *value* ``v_i`` is a row of ``W_out`` and always the
same. So the coefficients are the weights of the sum, and the values are the vectors that are summed: it is these that are unembedded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Context, Promoted, TopContexts, check_neuron, name, promoted
from helpers.inputs import check_number
from helpers.interventions import mlp_out, mlp_post, record
from helpers.models import TransformerBridge
from helpers.prediction import pieces, visible
from helpers.progress import progress
from helpers.running import check_layers
from helpers.speak.word_categories import Categories, word_categories
from helpers.stats import wilson
from helpers.tables import table
from helpers.texts import as_texts

TOLERANCE = 1e-4  # what the sum of a layer's memories may miss by rounding, where its output has length 1 or less; else in proportion
LOGITS = 2**23  # numbers held at once while values are unembedded


# --------------------------------------------------------------------------------------------------- a sum of memories


@dataclass(frozen=True)
class MemorySum:
    """What one feed-forward layer wrote at one token, taken apart: ``output = bias + sum of coefficients x values``.

    The memories stand in the order of the length that each adds, ``|m_i| |v_i|``, the longest first; ``neurons`` are their numbers.
    """

    layer: int
    neurons: Int[Tensor, "d_mlp"]
    coefficients: Float[Tensor, "d_mlp"]
    values: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, "d_model"]
    output: Float[Tensor, "d_model"]
    words: tuple[tuple[str, ...], ...]  # what the longest parts promote

    @property
    def parts(self) -> Float[Tensor, "d_mlp d_model"]:
        """What each memory adds, ``m_i v_i``."""
        return self.coefficients[:, None] * self.values

    @property
    def lengths(self) -> Float[Tensor, "d_mlp"]:
        """The length of each part, ``|m_i| |v_i|``, falling."""
        return self.coefficients.abs() * self.values.norm(dim=-1)

    @property
    def active(self) -> int:
        """How many memories have a coefficient other than 0."""
        return int((self.coefficients != 0).sum())

    @property
    def error(self) -> float:
        """The largest difference of any number of the output from the sum of the parts and the bias."""
        return (self.parts.sum(0) + self.bias - self.output).abs().max().item()

    def alike(self, n: int) -> float:
        """The cosine of the sum of the ``n`` longest parts with the sum of all parts."""
        return torch.cosine_similarity(self.parts[:n].sum(0), self.parts.sum(0), dim=0).item()

    def table(self) -> str:
        """One line for each of the longest parts: neuron, coefficient, length of value and of part, the tokens that the part promotes."""
        n = len(self.words)
        names = [name((self.layer, neuron)) for neuron in self.neurons[:n].tolist()]
        numbers = [column[:n].tolist() for column in (self.coefficients, self.values.norm(dim=-1), self.lengths)]
        rows = zip(names, *numbers, ("  " + " ".join(map(visible, words)) for words in self.words), strict=True)
        columns = {"neuron": "<10", "m_i": "8.2f", "|v_i|": "8.2f", "length": "8.2f", "  promotes": "<"}
        active = f"{self.active} of {len(self.neurons)} memories are active"
        return f"{table(columns, rows)}\n{active}; the sum of the longest {n} has cosine {self.alike(n):.2f} with that of all."


@torch.no_grad()
def memory_sum(model: TransformerBridge, text: str, layer: int, pos: int = -1, shown: int = 10, k: int = 5) -> MemorySum:
    """What the feed-forward layer writes at one token of a text, as a sum of memories (2012.14913, section 5.1).

    Of the ``shown`` longest parts the ``k`` tokens that they promote are read off; a negative coefficient turns them round. Raises
    ValueError where there is no such layer or position, and where the sum is not the output, as in models that normalise it.
    """
    check_layers(model, [layer], first=0)
    check_number("shown says of how many parts the tokens are read off", shown, high=model.cfg.d_mlp)
    tokens = as_texts(model, [text]).tokens
    if not -tokens.shape[1] <= pos < tokens.shape[1]:
        raise ValueError(f"There is no position {pos} in this text: it has {tokens.shape[1]} tokens, counted from 0.")
    seen = record(model, tokens.to(model.cfg.device), mlp_post(layer), mlp_out(layer))
    m, output = (activation[0, pos].float().cpu() for activation in seen.values())
    values = value_vectors(model, layer).float().cpu()
    bias = getattr(model.blocks[layer].mlp, "b_out", None)  # some families have none
    bias = torch.zeros(model.cfg.d_model) if bias is None else bias.detach().float().cpu()
    order = (m.abs() * values.norm(dim=-1)).argsort(descending=True, stable=True)
    turned = values[order[:shown]] * torch.where(m[order[:shown]] < 0, -1.0, 1.0)[:, None]
    words = tuple(tuple(pieces(model, ids)) for ids in _tops(model, turned, k))
    found = MemorySum(layer, order, m[order], values[order], bias, output, words)
    if found.error > TOLERANCE * max(1.0, output.norm().item()):
        why = "this model changes what they write, or its numbers have too few digits (load it in float32)"
        raise ValueError(f"The sum of the memories of layer {layer} misses its output by {found.error:.2g}: {why}.")
    return found


def value_vectors(model: TransformerBridge, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The value vectors of a layer, one for each neuron, weights folded; what is written into them, the model uses.

    Raises ValueError for an unknown layer.
    """
    check_layers(model, [layer], first=0)
    inner = model.blocks[layer].mlp.out.original_component
    weight = inner.weight.detach()
    return weight.T if isinstance(inner, torch.nn.Linear) else weight


# ------------------------------------------------------------------------------------------------ are values readable?


@dataclass(frozen=True)
class ReadableValues:
    """Which value vectors are readable: the number of the category that ``least`` of their ``k`` top tokens share, or -1.

    ``shuffled`` says the same of as many vectors of which each coordinate is another value vector's of the layer: the control.
    """

    layers: tuple[int, ...]
    names: tuple[str, ...]
    found: Int[Tensor, "layer d_mlp"]
    shuffled: Int[Tensor, "layer d_mlp"]
    k: int
    least: int

    @property
    def hits(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether each value is readable."""
        return self.found >= 0

    @property
    def control(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether each shuffled vector is readable."""
        return self.shuffled >= 0

    def category(self, layer: int, neuron: int) -> str | None:
        """The category of one value; None where it is not readable. Raises ValueError for one that was not judged."""
        if layer not in self.layers or not 0 <= neuron < self.found.shape[1]:
            judged = f"layers {', '.join(map(str, self.layers))}, neurons 0 to {self.found.shape[1] - 1}"
            raise ValueError(f"{name((layer, neuron))} was not judged: look at {judged}.")
        number = int(self.found[self.layers.index(layer), neuron])
        return self.names[number] if number >= 0 else None

    def commonest(self, layer: int, n: int = 3) -> list[tuple[str, int]]:
        """The categories that most values of a layer have, each with their number."""
        row = self.found[self.layers.index(layer)]
        counts = torch.bincount(row[row >= 0], minlength=len(self.names))
        best = counts.argsort(descending=True, stable=True)[:n].tolist()
        return [(self.names[number], int(counts[number])) for number in best if counts[number]]

    def table(self) -> str:
        """One line for each layer: the share of readable values, that of the shuffled vectors, and the commonest categories."""
        common = [", ".join(f"{category} {count}" for category, count in self.commonest(layer)) for layer in self.layers]
        rows = list(zip(map(str, self.layers), map(_share, self.hits), map(_share, self.control), common, strict=True))
        rows.append(("all", _share(self.hits), _share(self.control), ""))
        return table({"layer": ">5", "readable": "<22", "shuffled": "<22", "commonest": "<"}, rows, gap="  ")


@torch.no_grad()
def readable_values(
    model: TransformerBridge,
    categories: Categories | None = None,
    layers: Sequence[int] | None = None,
    k: int = 10,
    least: int = 5,
    seed: int = 0,
) -> ReadableValues:
    """Judges the value vectors of some layers (``None``: all) by the words that they promote: no person looks at them.

    A value is readable if ``least`` of its ``k`` top tokens belong to one category (``None``: those of ``word_categories``). The
    control permutes each coordinate among the vectors of the layer, which keeps all of its numbers but not which stand together.
    Raises ValueError for a ``k`` or a ``least`` that cannot be.
    """
    chosen = check_layers(model, layers, first=0)
    categories, rng = categories or word_categories(model), torch.Generator().manual_seed(seed)
    judged = []
    for layer in progress(chosen, desc="layers"):
        values = value_vectors(model, layer).float().cpu()
        judged.append([categories.judge(_tops(model, vectors, k), least) for vectors in (values, shuffled(values, rng))])
    found, mixed = (torch.stack(column) for column in zip(*judged, strict=True))
    return ReadableValues(chosen, categories.names, found, mixed, k, least)


def shuffled(values: Float[Tensor, "d_mlp d_model"], rng: torch.Generator) -> Float[Tensor, "d_mlp d_model"]:
    """Each coordinate permuted among the vectors, by itself."""
    return values.gather(0, torch.rand(values.shape, generator=rng).argsort(0))


def _unembedded(model: TransformerBridge, vectors: Float[Tensor, "value d_model"]) -> Iterator[Float[Tensor, "some d_vocab"]]:
    """What the vectors add to the logits on the direct path, as many at a time as memory likes."""
    for some in vectors.split(max(1, LOGITS // model.cfg.d_vocab)):
        yield some.to(model.W_U) @ model.W_U


def _tops(model: TransformerBridge, vectors: Float[Tensor, "value d_model"], k: int) -> Int[Tensor, "value k"]:
    """The ``k`` tokens that each vector promotes most, best first. Raises ValueError for a ``k`` that cannot be."""
    check_number("k says how many tokens to list", k, high=model.cfg.d_vocab)
    return torch.cat([logits.topk(k).indices.cpu() for logits in _unembedded(model, vectors)])


def _share(hits: Bool[Tensor, "*value"]) -> str:
    """A share with its interval, in percent: 22 letters."""
    n_hits, n = int(hits.sum()), hits.numel()
    low, high = wilson(n_hits, n)
    return f"{n_hits / max(1, n):6.1%} [{low:5.1%}, {high:6.1%}]"


# -------------------------------------------------------------------------------------- does the value say what follows?


@dataclass(frozen=True)
class Agreement:
    """For every neuron the top token of its value, and the token that follows in the text where it rises highest (-1: none).

    ``ranks`` says how high that next token stands among all that the value promotes: 1 is the top (0 where there is none).
    ``shuffled_ranks`` is the control: the same with the next token of another neuron of the layer.
    """

    layers: tuple[int, ...]
    best: Int[Tensor, "layer d_mlp"]
    follows: Int[Tensor, "layer d_mlp"]
    ranks: Int[Tensor, "layer d_mlp"]
    shuffled_ranks: Int[Tensor, "layer d_mlp"]

    @property
    def has_next(self) -> Bool[Tensor, "layer d_mlp"]:
        """Which neurons have a trigger that something follows: the others do not count."""
        return self.follows >= 0

    @property
    def hits(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether the value's top token is the one that follows the trigger."""
        return self.has_next & (self.best == self.follows)

    @property
    def control(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether it is the one that follows the trigger of another neuron."""
        return self.shuffled_ranks == 1

    def table(self) -> str:
        """One line for each layer: the agreement, that with another neuron's trigger, and the median ranks of both next tokens."""

        def line(label: str, kept: Tensor, hits: Tensor, others: Tensor, *ranks: Tensor) -> tuple[object, ...]:
            medians = [f"{int(one[kept].median()):,}" if kept.any() else "-" for one in ranks]
            return label, _share(hits[kept]), _share(others[kept]), *medians, int(kept.sum())

        columns = (self.has_next, self.hits, self.control, self.ranks, self.shuffled_ranks)
        rows = [line(str(layer), *row) for layer, *row in zip(self.layers, *columns, strict=True)]
        heads = {"layer": ">5", "agreement": "<22", "with another's": "<22", "median rank": "12,", "another's": "9,", "neurons": "7,"}
        return table(heads, [*rows, line("all", *columns)], gap="  ")


@torch.no_grad()
def agreement(model: TransformerBridge, top: TopContexts, seed: int = 0) -> Agreement:
    """Compares the top token of each value with the token that follows the neuron's top trigger (2012.14913, section 4).

    The trigger is the highest of the contexts in ``top`` (``helpers.activations.top_contexts``) behind which the text goes on.
    Raises ValueError where the contexts are those of another model.
    """
    _check_same(model, top)
    follows, rng = tokens_after_peaks(top), torch.Generator().manual_seed(seed)
    found = [
        _judged(model, value_vectors(model, layer).float().cpu(), torch.stack([own, of_another(own, rng)], 1))
        for layer, own in zip(progress(top.stats.layers, desc="layers"), follows, strict=True)
    ]
    best, ranks = (torch.stack(column) for column in zip(*found, strict=True))
    return Agreement(top.stats.layers, best, follows, *ranks.unbind(-1))


def tokens_after_peaks(top: TopContexts) -> Int[Tensor, "layer d_mlp"]:
    """The token behind the highest peak of each neuron that does not end its text; -1 for a neuron without one."""
    texts, behind = top.texts, top.positions + 1
    usable = (top.values > 0) & (behind < texts.lengths[top.rows])
    first = usable.int().argmax(-1, keepdim=True)
    rows, places = (column.gather(-1, first)[..., 0] for column in (top.rows, behind.clamp(max=texts.tokens.shape[1] - 1)))
    return torch.where(usable.any(-1), texts.tokens[rows, places], -1)


def of_another(follows: Int[Tensor, "neuron"], rng: torch.Generator) -> Int[Tensor, "neuron"]:
    """For each neuron with a next token that of another one, all of them once: a random ring of neurons; -1 stays -1."""
    known = (follows >= 0).nonzero().flatten()
    ring = known[torch.randperm(len(known), generator=rng)]
    found = follows.clone()
    found[ring] = follows[ring.roll(1)]
    return found


def _judged(
    model: TransformerBridge, values: Float[Tensor, "d_mlp d_model"], asked: Int[Tensor, "d_mlp two"]
) -> tuple[Int[Tensor, "d_mlp"], Int[Tensor, "d_mlp two"]]:
    """The top token of each value, and the ranks of two tokens in what it promotes; 0 for the token -1."""
    best, ranks, start = [], [], 0
    for logits in _unembedded(model, values):
        some = asked[start : start + len(logits)].to(logits.device)
        own = logits.gather(1, some.clamp(min=0))
        above = torch.stack([(logits > one[:, None]).sum(1) for one in own.T], 1)
        best.append(logits.argmax(1).cpu())
        ranks.append(torch.where(some >= 0, above + 1, 0).cpu())
        start += len(logits)
    return torch.cat(best), torch.cat(ranks)


def _check_same(model: TransformerBridge, top: TopContexts) -> None:
    """Raises ValueError where the contexts cannot be those of this model."""
    if top.values.shape[1] != model.cfg.d_mlp or max(top.stats.layers) >= model.cfg.n_layers:
        raise ValueError(f"These contexts are of layers of {top.values.shape[1]} neurons, not of this model: scan the texts with it.")


# ------------------------------------------------------------------------------------------------------------ one memory


@dataclass(frozen=True)
class Memory:
    """One memory: the contexts that trigger its key, the tokens that its value promotes, and their category if it is readable."""

    layer: int
    neuron: int
    triggers: tuple[Context, ...]
    promoted: Promoted
    category: str | None

    def table(self) -> str:
        """The triggers, a line each with the peak in brackets, and the promoted tokens beside the suppressed ones."""
        key = [f"  {trigger.around()}" for trigger in self.triggers] or ["  never active in these texts"]
        value = [f"  {line}" for line in self.promoted.table().splitlines()]
        judged = f"readable: {self.category}" if self.category else "in no category"
        return "\n".join([f"{name((self.layer, self.neuron))}, key: triggers", *key, f"value: promoted, suppressed ({judged})", *value])


@torch.no_grad()
def memory(
    model: TransformerBridge, layer: int, neuron: int, top: TopContexts, categories: Categories, n: int = 5, k: int = 10, least: int = 5
) -> Memory:
    """One neuron as a memory: its ``n`` top triggers beside the ``k`` tokens that its value promotes, by which it is judged.

    ``top`` and ``categories`` are made once, by ``top_contexts`` and ``word_categories``; then each neuron is a matter of milliseconds.
    Raises ValueError for a neuron that does not exist or a layer that was not scanned.
    """
    check_neuron(model, layer, neuron)
    _check_same(model, top)
    triggers = top.contexts(model, layer, neuron, n)
    number = int(categories.judge(_tops(model, value_vectors(model, layer)[[neuron]].float(), k), least)[0])
    return Memory(layer, neuron, tuple(triggers), promoted(model, layer, neuron, k), categories.names[number] if number >= 0 else None)
