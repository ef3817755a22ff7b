"""Activation patching: what happens to one run when a part of it is taken from another, place by place.

Two prompts stand beside each other, token by token of equal length: a *clean* one and a *corrupted* one, with another answer. A patch
carries the clean run's value at one place into the corrupted run; where the clean answer comes back, that place carries what makes the
difference (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022, arXiv 2211.00593); this direction is called denoising. Attribution
patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348) estimates all patches at once from gradients.

    pairs = prompt_pairs(model, clean, corrupted, log_odds(right, wrong))
    print(patch_positions(model, pairs, resid_pre).table())
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.interventions import (
    Index,
    Intervention,
    add,
    head_k,
    head_out,
    head_q,
    head_v,
    intervene,
    pattern,
    record,
    resample_ablate,
    resid_pre,
    unembed_only_at,
)
from helpers.metrics import Metric, WordOdds, measure, run_with_gradients
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import path_gradients, read_suffix
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

Place = Callable[[int], str]  # from a layer to the name of a hook point
Positions = Sequence[Int[Tensor, "prompt"]]


# ------------------------------------------------------------------------------------------------------------- two runs


@dataclass(frozen=True)
class PromptPairs:
    """Clean prompts beside corrupted ones, token by token, and a metric that is high for the clean answer and low for the other."""

    clean: Texts
    corrupted: Texts
    metric: Metric

    def __len__(self) -> int:
        """How many pairs of prompts there are."""
        return len(self.clean)

    @property
    def ends(self) -> Int[Tensor, "prompt"]:
        """The last position of each prompt."""
        return self.clean.lengths - 1

    @cached_property
    def first_difference(self) -> Int[Tensor, "prompt"]:
        """The first position at which the two prompts differ: before it, a model that reads from left to right cannot differ either."""
        return (self.clean.tokens != self.corrupted.tokens).float().argmax(1)

    def measured(self, logits: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, "prompt"]:
        """The metric of each prompt, from the logits at its end. Raises ValueError unless the metric gives one number a prompt."""
        return measure(self.metric, logits[:, None], self.clean.last(1))

    def columns(
        self, place: Place, positions: Positions | None, names: Sequence[str] = ()
    ) -> tuple[Int[Tensor, "column prompt"], tuple[str, ...]]:
        """Positions to patch, one of each prompt in a column, and their names; left out, every one, named by its number."""
        if place is pattern:
            raise ValueError("Where a head looks belongs to no single position: use patch_heads.")
        if positions is None:
            if self.clean.lengths.unique().numel() > 1:
                raise ValueError("These prompts are not equally long, so their positions do not correspond: name those of each prompt.")
            positions = torch.arange(int(self.clean.lengths[0]))[:, None]
            names = names or [str(at) for at in range(len(positions))]
        found = torch.stack([torch.as_tensor(at).expand(len(self)) for at in positions]) if len(positions) else torch.empty(0)
        if not len(found) or bool(((found < 0) | (found >= self.clean.lengths)).any()):
            raise ValueError("Positions count from 0 to a prompt's last token, with one for each prompt; at least one is needed.")
        if names and len(names) != len(found):
            raise ValueError(f"There are {len(names)} names and {len(found)} positions: give one name for each position, or none at all.")
        return found, tuple(names) or tuple(f"position {number}" for number in range(len(found)))


def prompt_pairs(model: TransformerBridge, clean: TextsLike, corrupted: TextsLike, metric: Metric) -> PromptPairs:
    """Clean and corrupted prompts with their metric. Raises ValueError unless each pair has equally many tokens, and differs."""
    if isinstance(metric, WordOdds):
        raise ValueError("Patching reads the last position only: use a metric of single tokens, such as log_odds(right, wrong).")
    sides = as_texts(model, clean), as_texts(model, corrupted)
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"There are {len(sides[0])} clean prompts and {len(sides[1])} corrupted ones: each needs its partner.")
    if bool((wrong := sides[0].lengths != sides[1].lengths).any()):
        at = int(wrong.nonzero()[0])
        counts = f"{int(sides[0].lengths[at])} tokens and {int(sides[1].lengths[at])}"
        raise ValueError(f"Pair {at} has {counts}: both prompts need equally many, so that positions correspond; choose other words.")
    sides = tuple(side.take(range(len(side))) for side in sides)  # no more filling on the one side than on the other
    filling = torch.arange(sides[0].tokens.shape[1]) >= sides[0].lengths[:, None]
    if bool((same := ((sides[0].tokens == sides[1].tokens) | filling).all(1)).any()):
        raise ValueError(f"The two prompts of pair {int(same.nonzero()[0])} are the same: there is nothing to patch.")
    return PromptPairs(*sides, metric)


@torch.no_grad()
def metric_at_ends(
    model: TransformerBridge, pairs: PromptPairs, *interventions: Intervention, texts: Texts | None = None
) -> Float[Tensor, "prompt"]:
    """The metric on the clean prompts (or on other ``texts``) with some interventions: one pass that unembeds the last position only."""
    texts = pairs.clean if texts is None else texts
    with intervene(model, *interventions, unembed_only_at(texts.lengths[:, None] - 1)):
        return pairs.measured(model(texts.tokens.to(model.cfg.device))[:, 0]).cpu()


# ------------------------------------------------------------------------------------------------------------ the result


@dataclass(frozen=True)
class PatchMap:
    """The metric of every prompt after each patch: a row for each layer, a column for each position or head.

    ``clean`` and ``corrupted`` are the metric of the two runs without a patch.
    """

    after: Float[Tensor, "layer column prompt"]
    clean: Float[Tensor, "prompt"]
    corrupted: Float[Tensor, "prompt"]
    columns: tuple[str, ...]
    place: str

    @property
    def effect(self) -> Float[Tensor, "layer column"]:
        """What each patch restores: 0 is the corrupted run, 1 the clean one (means over the prompts); infinite where both are the same."""
        return self.change / (self.clean - self.corrupted).mean()

    @property
    def change(self) -> Float[Tensor, "layer column"]:
        """By how much each patch changes the metric, on average over the prompts."""
        return (self.after - self.corrupted).mean(-1)

    def top(self, n: int = 5) -> list[tuple[int, int]]:
        """The ``n`` patches with the largest effects, whatever their sign: layer and column."""
        width = self.effect.shape[1]
        return [divmod(at, width) for at in self.effect.abs().flatten().argsort(descending=True, stable=True)[:n].tolist()]

    def table(self, n: int = 5) -> str:
        """One line for each of the ``n`` largest effects."""
        rows = [(layer, self.columns[at], self.effect[layer, at].item()) for layer, at in self.top(n)]
        return table({"layer": "6", "where": f"<{max(6, *map(len, self.columns))}", "effect": "6.2f"}, rows, gap="  ")


# ------------------------------------------------------------------------------------------------------------- patching


def patch_positions(
    model: TransformerBridge, pairs: PromptPairs, place: Place = resid_pre, positions: Positions | None = None, names: Sequence[str] = ()
) -> PatchMap:
    """Patches a place, such as the stream or what an MLP writes, at one position after the other and in every layer.

    ``positions`` has one position for each prompt in each entry, such as the giver's name wherever it stands; left out, every position of
    prompts that are equally long. Raises ValueError where prompts are not, and for a position that a prompt does not have.
    """
    positions, names = pairs.columns(place, positions, names)
    nowhere = (positions < pairs.first_difference).all(1)  # both runs are the same there: nothing changes
    return _patch_each(model, pairs, place, [None if same else {"pos": at} for at, same in zip(positions, nowhere, strict=True)], names)


def patch_heads(model: TransformerBridge, pairs: PromptPairs, place: Place = head_out) -> PatchMap:
    """Patches one head after the other, at all positions.

    ``place``: what the head puts out (``head_out``), its queries, keys or values (``head_q``, ``head_k``, ``head_v``), or its attention
    (``pattern``, of the axes ``[batch, head, query pos, key pos]``).
    """
    names = _head_names(model, pairs, place)
    axis = "pos" if place is pattern else "head"  # of a pattern the first axis after the batch are its heads
    return _patch_each(model, pairs, place, [{axis: head} for head in range(len(names))], names)


def _head_names(model: TransformerBridge, pairs: PromptPairs, place: Place) -> tuple[str, ...]:
    """The heads of a place. Raises ValueError where it has none."""
    shape = record(model, pairs.clean.tokens[:1, :2].to(model.cfg.device), place(0))[place(0)].shape
    if len(shape) != 4:
        raise ValueError(f"{place(0)} has no heads to patch: choose head_out, head_q, head_k, head_v or pattern, or patch_positions.")
    return tuple(f"head {head}" for head in range(shape[1 if place is pattern else 2]))


@torch.no_grad()
def _patch_each(
    model: TransformerBridge, pairs: PromptPairs, place: Place, columns: Sequence[dict[str, Index] | None], names: tuple[str, ...]
) -> PatchMap:
    """The metric after each patch in each layer; ``columns`` say where, as ``resample_ablate`` takes it. A pass starts at its layer."""
    layers, every = range(model.cfg.n_layers), torch.arange(len(pairs))
    seen = record(model, pairs.clean.tokens.to(model.cfg.device), *map(place, layers))
    run = read_suffix(model, pairs.corrupted.tokens, 0, layers)
    clean, corrupted = (metric_at_ends(model, pairs, texts=side) for side in (pairs.clean, pairs.corrupted))

    def patched(layer: int, where: dict[str, Index] | None) -> Float[Tensor, "prompt"]:
        if where is None:
            return corrupted
        patch = resample_ablate(place(layer), seen[place(layer)], **where)
        return pairs.measured(run.logits(model, layer, every, pairs.ends, patch)).cpu()

    after = [torch.stack([patched(layer, where) for where in columns]) for layer in progress(layers, desc="layers")]
    return PatchMap(torch.stack(after), clean, corrupted, names, place(0).split(".", 2)[-1])


PARTS = {"output": head_out, "queries": head_q, "keys": head_k, "values": head_v}


@torch.no_grad()
def patch_parts(model: TransformerBridge, pairs: PromptPairs, heads: Sequence[tuple[int, int]]) -> str:
    """For some heads a line each: what patching their output at all positions restores, and their queries, keys or values alone."""
    low, high = (metric_at_ends(model, pairs, texts=side) for side in (pairs.corrupted, pairs.clean))
    rows = []
    for layer, head in heads:
        seen = record(model, pairs.clean.tokens.to(model.cfg.device), *(place(layer) for place in PARTS.values()))
        changes = [resample_ablate(place(layer), seen[place(layer)], head=head) for place in PARTS.values()]
        after = [metric_at_ends(model, pairs, change, texts=pairs.corrupted) for change in changes]
        rows.append((f"a{layer}.{head}", *(((one - low).mean() / (high - low).mean()).item() for one in after)))
    return table({"head": "<6", **dict.fromkeys(PARTS, "8.2f")}, rows)


# ------------------------------------------------------------------------------------------------- attribution patching


def attribute_positions(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: Place = resid_pre,
    positions: Positions | None = None,
    names: Sequence[str] = (),
    steps: int = 0,
) -> PatchMap:
    """What ``patch_positions`` would find, estimated at once: gradient at the corrupted run times (clean - corrupted).

    ``steps`` above 0 averages the gradients of as many runs whose embeddings lie between the corrupted ones and the clean ones
    (integrated gradients on the inputs, Hanna et al. 2024, arXiv 2403.17806).
    """
    positions, names = pairs.columns(place, positions, names)
    places = [place(layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        clean, corrupted = (
            record(model, side.tokens.to(model.cfg.device), *places, "hook_embed") for side in (pairs.clean, pairs.corrupted)
        )
    way = clean["hook_embed"] - corrupted["hook_embed"]

    def run(fraction: float) -> tuple[Float[Tensor, "prompt"], list[Tensor]]:
        return run_with_gradients(model, pairs.corrupted, pairs.metric, places, add("hook_embed", fraction * way))

    gradients = path_gradients(run, steps)
    products = [
        ((clean[name] - corrupted[name]) * gradient).flatten(2).sum(2).cpu() for name, gradient in zip(places, gradients, strict=True)
    ]
    found = [product[torch.arange(len(pairs)), positions] for product in products]
    before, after = (metric_at_ends(model, pairs, texts=side) for side in (pairs.corrupted, pairs.clean))
    return PatchMap(before + torch.stack(found).float(), after, before, names, place(0).split(".", 2)[-1])


def correlation(estimated: PatchMap, measured: PatchMap) -> float:
    """The correlation of two maps' changes over all their patches (Pearson). Raises ValueError where one of them is constant."""
    pair = torch.stack([estimated.change.flatten(), measured.change.flatten()])
    if not (pair.std(1) > 0).all():
        raise ValueError("One of the maps has the same value everywhere, so there is no correlation.")
    return torch.corrcoef(pair)[0, 1].item()
