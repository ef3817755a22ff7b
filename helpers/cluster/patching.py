"""Activation patching: what happens to one run when a part of it is taken from another, place by place.

Two prompts stand beside each other, token by token of equal length: a *clean* one and a *corrupted* one, with another answer. A patch
carries the clean run's value at one place into the corrupted run; where the clean answer comes back, that place carries what makes the
difference (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022, arXiv 2211.00593). This direction is called denoising; ``swapped`` turns
it round. Attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348) estimates all patches at once from gradients.

    both = runs(model, clean, corrupted, log_odds(right, wrong))
    print(patch_positions(model, both, resid_pre).table())
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import Intervention, add, head_out, intervene, record, resample_ablate, resid_pre, unembed_only_at, watch
from helpers.metrics import Metric, WordOdds, measure, run_with_gradients
from helpers.models import Prefix, TransformerBridge, read_prefix, run_from
from helpers.prediction import pieces, visible
from helpers.progress import progress
from helpers.stats import Interval, mean_interval
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
    def swapped(self) -> "Runs":
        """The same pairs the other way round: what of the corrupted run spoils the clean one (noising)."""
        return replace(self, clean=self.corrupted, corrupted=self.clean)

    @property
    def ends(self) -> Int[Tensor, "prompt"]:
        """The last position of each prompt."""
        return self.clean.lengths - 1

    @cached_property
    def first_difference(self) -> Int[Tensor, "prompt"]:
        """The first position at which the two prompts differ: before it, a model that reads from left to right cannot differ either."""
        return (self.clean.tokens != self.corrupted.tokens).float().argmax(1)


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
    model: TransformerBridge, both: PromptPairs, *interventions: Intervention, texts: Texts | None = None
) -> Float[Tensor, "prompt"]:
    """The metric on the clean prompts (or on other ``texts``) with some interventions: one pass that unembeds the last position only."""
    texts = both.clean if texts is None else texts
    with intervene(model, *interventions, unembed_only_at(texts.lengths[:, None] - 1)):
        return _measured(both.metric, model(texts.tokens.to(model.cfg.device)), texts)


def _measured(metric: Metric, logits: Float[Tensor, "row 1 d_vocab"], texts: Texts) -> Float[Tensor, "prompt"]:
    """The metric from the logits of the last positions."""
    return measure(metric, logits, replace(texts, tokens=texts.tokens[:, :1], lengths=torch.ones_like(texts.lengths))).cpu()


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

    def interval(self, layer: int, column: int) -> Interval:
        """The 95 % interval of one effect; the prompts are the sample. Raises ValueError where the runs do not differ."""
        return mean_interval((self.after[layer, column] - self.corrupted) / self._gap())

    def _gap(self) -> Float[Tensor, ""]:
        """By how much the clean run's metric surpasses the corrupted run's."""
        gap = (self.clean - self.corrupted).mean()
        if gap.abs() < 1e-6:
            raise ValueError(
                "The metric is the same in the clean and in the corrupted runs, so no patch can restore it: change the prompts."
            )
        return gap

    def top(self, n: int = 5) -> list[tuple[int, int]]:
        """The ``n`` patches with the largest effects, whatever their sign: layer and column."""
        width = self.effect.shape[1]
        return [divmod(at, width) for at in self.effect.abs().flatten().argsort(descending=True, stable=True)[:n].tolist()]

    def table(self, n: int = 5) -> str:
        """One line for each of the ``n`` largest effects."""
        width = max(6, *map(len, self.columns))
        lines = [f"{layer:>6}  {self.columns[at]:<{width}} {self.effect[layer, at]:7.2f}" for layer, at in self.top(n)]
        return "\n".join([f" layer  {'where':<{width}}  effect", *lines])


# ------------------------------------------------------------------------------------------------------------- patching


def patch_positions(
    model: TransformerBridge, both: PromptPairs, place: Place = resid_pre, positions: Positions | None = None, names: Sequence[str] = ()
) -> PatchMap:
    """Patches a place, such as the stream or what an MLP writes, at one position after the other and in every layer.

    ``positions`` has one position for each prompt in each entry, such as the giver's name wherever it stands; left out, every position of
    prompts that are equally long. Raises ValueError where prompts are not, and for a position that a prompt does not have.
    """
    positions, names = _positions(model, both, positions, names, place)
    candidates = [lambda clean, rows, at=at: dict(pos=at[rows]) for at in positions]
    alive = torch.stack([at >= both.first_difference for at in positions])
    return _sweep(model, both, place, candidates, alive, names)


def patch_heads(model: TransformerBridge, both: PromptPairs, place: Place = head_out, pos: Int[Tensor, "prompt"] | None = None) -> PatchMap:
    """Patches one head after the other, at all positions or at one position of each prompt.

    ``place``: what the head puts out (``heads``), what it asks (``queries``), by what it finds (``keys``), what it carries (``values``),
    or where it looks (``pattern``, for all positions only).
    """
    looks, (n_heads, pos) = _looks(place), _heads_at(model, both, place, pos)

    def of_head(head: int) -> Callable[[Tensor, Tensor], dict]:
        own = (lambda rows: dict(pos=torch.full_like(rows, head))) if looks else lambda rows: dict(head=torch.full((len(rows), 1), head))
        return lambda clean, rows: own(rows) | ({} if pos is None else dict(pos=pos[rows]))

    alive = ((both.ends if pos is None else pos) >= both.first_difference).expand(n_heads, -1)
    return _sweep(model, both, place, [of_head(head) for head in range(n_heads)], alive, [f"head {head}" for head in range(n_heads)])


def _heads_at(
    model: TransformerBridge, both: PromptPairs, place: Place, pos: Int[Tensor, "prompt"] | None
) -> tuple[int, Int[Tensor, "prompt"] | None]:
    """How many heads a place has, and the positions, after a look at both."""
    if _looks(place) and pos is not None:
        raise ValueError("Where a head looks is patched for all positions at once: leave pos out.")
    shape = record(model, both.clean.tokens[:1, :2].to(model.cfg.device), place(0))[place(0)].shape
    if len(shape) != 4:
        raise ValueError(f"{place(0)} has no heads to patch: choose heads, queries, keys, values or pattern, or patch_positions.")
    return shape[1 if _looks(place) else 2], pos if pos is None else _positions(model, both, [pos], ())[0][0]


def _positions(
    model: TransformerBridge, both: PromptPairs, positions: Positions | None, names: Sequence[str], place: Place = resid_pre
) -> tuple[list[Int[Tensor, "prompt"]], list[str]]:
    """The positions and their names; left out, every one, named by the tokens of the first clean prompt."""
    if _looks(place):
        raise ValueError("Where a head looks belongs to no single position: use patch_heads or attribute_heads.")
    if positions is None:
        if both.clean.lengths.unique().numel() > 1:
            raise ValueError("These prompts are not equally long, so their positions do not correspond: name positions for each prompt.")
        length = int(both.clean.lengths[0])
        _check_names(names, length)
        named = [f"{at} {visible(piece)}" for at, piece in enumerate(pieces(model, both.clean.tokens[0, :length]))]
        return [torch.full((len(both),), at) for at in range(length)], list(names) or named
    found = [torch.as_tensor(at).expand(len(both)) for at in positions]
    if not found or any(bool(((at < 0) | (at >= both.clean.lengths)).any()) for at in found):
        raise ValueError("Positions count from 0 to a prompt's last token, with one for each prompt; at least one is needed.")
    _check_names(names, len(found))
    return found, list(names) or [f"position {number}" for number in range(len(found))]


def _check_names(names: Sequence[str], n: int) -> None:
    if names and len(names) != n:
        raise ValueError(f"There are {len(names)} names and {n} positions: give one name for each position, or none at all.")


@torch.no_grad()
def _sweep(
    model: TransformerBridge,
    both: PromptPairs,
    place: Place,
    candidates: Sequence[Callable[[Tensor, Tensor], dict]],
    alive: Bool[Tensor, "column prompt"],
    names: Sequence[str],
) -> PatchMap:
    """The metric after each patch in each layer.

    Many copies of the prompts, each with a patch of its own, share a pass; it starts at the layer that is patched, from the corrupted
    run's stream; only the last position is unembedded; and what stands before the first difference is read once for all.
    """
    layers, n = range(model.cfg.n_layers), len(both)
    seen, (clean, corrupted) = _both_runs(model, both, [*map(resid_pre, layers), *map(place, layers)])
    after = corrupted.repeat(len(layers), len(candidates), 1)
    which = alive.nonzero()  # [patch, (column, prompt)]
    if not len(which):  # nothing differs at any of these positions
        return PatchMap(after, clean, corrupted, tuple(names), _kind(place))
    prefix = read_prefix(model, both.clean.tokens[:, :skip]) if (skip := int(both.first_difference.min())) else None
    at_once = max(1, PATCHED_TOKENS // (both.clean.tokens.shape[1] - skip))
    for layer in progress(layers, desc="layers"):
        stream, values = seen[resid_pre(layer)][n:, skip:], _behind(place, seen[place(layer)][:n], skip)
        parts = [_patched(model, both, place(layer), layer, stream, values, candidates, part, prefix) for part in which.split(at_once)]
        after[layer, which[:, 0], which[:, 1]] = _regrouped(both, torch.cat(parts), which)
    return PatchMap(after, clean, corrupted, tuple(names), _kind(place))


def _behind(place: Place, values: Float[Tensor, "prompt *rest"], skip: int) -> Float[Tensor, "prompt *kept"]:
    """What passed a place at the positions behind the first ones."""
    return values[:, :, skip:] if _looks(place) else values[:, skip:]


def _kind(place: Place) -> str:
    return place(0).split(".", 2)[-1]


def _both_runs(model: TransformerBridge, both: PromptPairs, places: Sequence[str]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Clean and corrupted prompts in one pass, clean ones first: what passes the places ``[2 x prompt, ...]``, and the two metrics."""
    tokens, ends = torch.cat([both.clean.tokens, both.corrupted.tokens]), both.ends.repeat(2)[:, None]
    seen: dict[str, Tensor] = {}
    with intervene(model, *(watch(name, partial(seen.__setitem__, name)) for name in dict.fromkeys(places)), unembed_only_at(ends)):
        logits = model(tokens.to(model.cfg.device))
    clean, corrupted = (_measured(both.metric, half, both.clean) for half in logits.chunk(2))
    return seen, (clean, corrupted)


def _patched(
    model: TransformerBridge,
    both: PromptPairs,
    hook: str,
    layer: int,
    stream: Float[Tensor, "prompt pos d_model"],
    clean: Float[Tensor, "prompt *rest"],
    candidates: Sequence[Callable[[Tensor, Tensor], dict]],
    which: Int[Tensor, "patch 2"],
    prefix: Prefix | None,
) -> Float[Tensor, "patch d_vocab"]:
    """The logits at the last position for some patches of one layer; stream and values begin behind the prefix."""
    columns, prompts = which.T
    where: dict[str, list[Tensor]] = {}
    for column in columns.unique_consecutive().tolist():
        for name, index in candidates[column](clean, prompts[columns == column]).items():
            where.setdefault(name, []).append(index)
    skip = prefix.length if prefix else 0
    if "pos" in where and not hook.endswith("hook_pattern"):  # of a pattern the first axis after the batch are its heads
        where["pos"] = [index - skip for index in where["pos"]]
    patch = resample_ablate(hook, clean[prompts], **{name: torch.cat(parts) for name, parts in where.items()})
    with intervene(model, patch, unembed_only_at(both.ends[prompts][:, None] - skip)):
        return run_from(model, stream[prompts], layer, prefix, prompts)[:, 0]


def _regrouped(both: PromptPairs, logits: Float[Tensor, "patch d_vocab"], which: Int[Tensor, "patch 2"]) -> Float[Tensor, "patch"]:
    """The metric of each patch; a metric wants all prompts side by side, so the patches of one column are laid on them."""
    values = torch.empty(len(which))
    for column in which[:, 0].unique_consecutive().tolist():
        mine = which[:, 0] == column
        full = logits[mine][:1].expand(len(both), -1).clone()
        full[which[mine, 1].to(full.device)] = logits[mine]
        values[mine] = _measured(both.metric, full[:, None], both.clean)[which[mine, 1]]
    return values


# ------------------------------------------------------------------------------------------------- attribution patching


def attribute_positions(
    model: TransformerBridge,
    both: PromptPairs,
    place: Place = resid_pre,
    positions: Positions | None = None,
    names: Sequence[str] = (),
    steps: int = 0,
) -> PatchMap:
    """What ``patch_positions`` would find, estimated at once: gradient at the corrupted run times (clean - corrupted).

    ``steps`` above 0 averages the gradients of as many runs whose embeddings lie between the corrupted ones and the clean ones
    (integrated gradients on the inputs, Hanna et al. 2024, arXiv 2403.17806).
    """
    positions, names = _positions(model, both, positions, names, place)
    estimates, (clean, corrupted) = _estimates(model, both, place, steps)
    rows = torch.arange(len(both))
    found = torch.stack([torch.stack([layer.flatten(2).sum(2)[rows, at] for at in positions]) for layer in estimates])
    return PatchMap(corrupted + found.float(), clean, corrupted, tuple(names), _kind(place))


def attribute_heads(
    model: TransformerBridge, both: PromptPairs, place: Place = head_out, pos: Int[Tensor, "prompt"] | None = None, steps: int = 0
) -> PatchMap:
    """What ``patch_heads`` would find, estimated at once (see ``attribute_positions``)."""
    _, pos = _heads_at(model, both, place, pos)
    estimates, (clean, corrupted) = _estimates(model, both, place, steps)
    rows = torch.arange(len(both))
    if _looks(place):
        found = [layer.flatten(2).sum(2).T for layer in estimates]
    elif pos is None:
        found = [layer.sum(-1).sum(1).T for layer in estimates]
    else:
        found = [layer.sum(-1)[rows, pos].T for layer in estimates]
    names = [f"head {head}" for head in range(found[0].shape[0])]
    return PatchMap(corrupted + torch.stack(found).float(), clean, corrupted, tuple(names), _kind(place))


def _estimates(
    model: TransformerBridge, both: PromptPairs, place: Place, steps: int
) -> tuple[list[Float[Tensor, "prompt *rest"]], tuple[Tensor, Tensor]]:
    """Gradient times difference for every number of the place, layer by layer, and the metrics of the two runs."""
    n, places = len(both), [place(layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        seen, metrics = _both_runs(model, both, [*places, "hook_embed"])
    differences = [seen[name][:n] - seen[name][n:] for name in (*places, "hook_embed")]
    slopes: list[Tensor] = []
    shares = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    for share in shares:
        between = add("hook_embed", share * differences[-1])
        with torch.enable_grad():
            values, seen = run_with_gradients(model, both.corrupted, both.metric, places, between)
            found = torch.autograd.grad(values.sum(), seen)
        slopes = [slope / len(shares) + (slopes[at] if slopes else 0) for at, slope in enumerate(found)]
    real = torch.arange(both.clean.tokens.shape[1]) < both.clean.lengths[:, None]
    products = [(difference * slope).cpu() for difference, slope in zip(differences, slopes, strict=False)]
    if not _looks(place):  # what stands behind a prompt's end is filling
        products = [product * real.reshape(*real.shape, *[1] * (product.ndim - 2)) for product in products]
    return products, metrics


def _looks(place: Place) -> bool:
    """Is the place an attention pattern, whose axes are ``[batch, head, query pos, key pos]``?"""
    return "hook_pattern" in place(0)


def correlation(estimated: PatchMap, measured: PatchMap) -> float:
    """The correlation of two maps' changes over all their patches (Pearson). Raises ValueError where one of them is constant."""
    pair = torch.stack([estimated.change.flatten(), measured.change.flatten()])
    if not (pair.std(1) > 0).all():
        raise ValueError("One of the maps has the same value everywhere, so there is no correlation.")
    return torch.corrcoef(pair)[0, 1].item()
