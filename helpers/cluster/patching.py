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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import (
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

PATCHED_TOKENS = 3072  # tokens in one forward pass over patched copies
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
            raise ValueError("Where a head looks belongs to no single position: use patch_heads or attribute_heads.")
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
    return _patch_each(model, pairs, place, {"pos": positions}, positions >= pairs.first_difference, names)


def patch_heads(model: TransformerBridge, pairs: PromptPairs, place: Place = head_out) -> PatchMap:
    """Patches one head after the other, at all positions.

    ``place``: what the head puts out (``head_out``), its queries, keys or values (``head_q``, ``head_k``, ``head_v``), or its attention
    (``pattern``, of the axes ``[batch, head, query pos, key pos]``).
    """
    names = _head_names(model, pairs, place)
    heads = torch.arange(len(names))[:, None].expand(-1, len(pairs))
    alive = torch.ones_like(heads, dtype=torch.bool)
    if place is pattern:  # the first axis after the batch are its heads
        return _patch_each(model, pairs, place, {"pos": heads}, alive, names, text_axis=2)
    return _patch_each(model, pairs, place, {"head": heads[..., None]}, alive, names)


def _head_names(model: TransformerBridge, pairs: PromptPairs, place: Place) -> tuple[str, ...]:
    """The heads of a place. Raises ValueError where it has none."""
    shape = record(model, pairs.clean.tokens[:1, :2].to(model.cfg.device), place(0))[place(0)].shape
    if len(shape) != 4:
        raise ValueError(f"{place(0)} has no heads to patch: choose head_out, head_q, head_k, head_v or pattern, or patch_positions.")
    return tuple(f"head {head}" for head in range(shape[1 if place is pattern else 2]))


@torch.no_grad()
def _patch_each(
    model: TransformerBridge,
    pairs: PromptPairs,
    place: Place,
    where: dict[str, Int[Tensor, "column prompt *one"]],
    alive: Bool[Tensor, "column prompt"],
    names: tuple[str, ...],
    text_axis: int = 1,
) -> PatchMap:
    """The metric after each patch in each layer; ``where`` says what a column patches in each prompt, as ``resample_ablate`` takes it.

    Many patched copies of the corrupted prompts share a pass, which starts at the layer that is patched and behind what all prompts have in
    common. A patch that is not ``alive``, before the first difference of its prompt, changes nothing and is not run. ``text_axis`` is
    the axis of the place that counts the positions of the text.
    """
    layers, every, skip = range(model.cfg.n_layers), torch.arange(len(pairs)), int(pairs.first_difference.min())
    seen = record(model, pairs.clean.tokens.to(model.cfg.device), resid_pre(0), *map(place, layers))
    run = read_suffix(model, pairs.corrupted.tokens, skip, layers)
    clean = run.logits(model, 0, every, pairs.ends, stream=seen[resid_pre(0)][:, skip:])
    corrupted = run.logits(model, 0, every, pairs.ends)
    if text_axis == 1 and "pos" in where:
        where = where | {"pos": where["pos"] - skip}
    after = torch.empty(len(layers), len(alive), len(pairs))
    at_once = max(1, PATCHED_TOKENS // (len(pairs) * (pairs.clean.tokens.shape[1] - skip)))
    for layer in progress(layers, desc="layers"):
        values = seen[place(layer)].tensor_split((skip,), text_axis)[1]
        for columns in torch.arange(len(alive)).split(at_once):
            column, prompt = alive[columns].nonzero().T
            logits = corrupted.repeat(len(columns), 1, 1)  # [column, prompt, d_vocab]
            if len(prompt):
                patch = resample_ablate(place(layer), values[prompt], **{name: at[columns][column, prompt] for name, at in where.items()})
                logits[column, prompt] = run.logits(model, layer, prompt, pairs.ends[prompt], patch)
            after[layer, columns] = torch.stack([pairs.measured(copy).cpu() for copy in logits])
    return PatchMap(after, pairs.measured(clean).cpu(), pairs.measured(corrupted).cpu(), names, place(0).split(".", 2)[-1])


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
    every = torch.arange(len(pairs))
    return _estimate_each(model, pairs, place, lambda products: products.flatten(2).sum(2)[every, positions], names, steps)


def attribute_heads(model: TransformerBridge, pairs: PromptPairs, place: Place = head_out, steps: int = 0) -> PatchMap:
    """What ``patch_heads`` would find, estimated at once (see ``attribute_positions``)."""
    axes = (2, 3) if place is pattern else (1, 3)  # all but prompt and head
    return _estimate_each(model, pairs, place, lambda products: products.sum(axes).T, _head_names(model, pairs, place), steps)


def _estimate_each(
    model: TransformerBridge, pairs: PromptPairs, place: Place, add_up: Callable[[Tensor], Tensor], names: tuple[str, ...], steps: int
) -> PatchMap:
    """Gradient times difference for every number of the place; ``add_up`` makes of a layer's products one number for each patch."""
    places = [place(layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        clean, corrupted = (
            record(model, side.tokens.to(model.cfg.device), *places, "hook_embed") for side in (pairs.clean, pairs.corrupted)
        )
    way = clean["hook_embed"] - corrupted["hook_embed"]

    def run(fraction: float) -> tuple[Float[Tensor, "prompt"], list[Tensor]]:
        return run_with_gradients(model, pairs.corrupted, pairs.metric, places, add("hook_embed", fraction * way))

    gradients = path_gradients(run, steps)
    found = [add_up(((clean[name] - corrupted[name]) * gradient).cpu()) for name, gradient in zip(places, gradients, strict=True)]
    before, after = (metric_at_ends(model, pairs, texts=side) for side in (pairs.corrupted, pairs.clean))
    return PatchMap(before + torch.stack(found).float(), after, before, names, place(0).split(".", 2)[-1])


def correlation(estimated: PatchMap, measured: PatchMap) -> float:
    """The correlation of two maps' changes over all their patches (Pearson). Raises ValueError where one of them is constant."""
    pair = torch.stack([estimated.change.flatten(), measured.change.flatten()])
    if not (pair.std(1) > 0).all():
        raise ValueError("One of the maps has the same value everywhere, so there is no correlation.")
    return torch.corrcoef(pair)[0, 1].item()
