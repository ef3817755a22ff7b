"""What neurons do: the effect of taking them away, an estimate of it for all of them at once, and the answer to a dose.

All effects are changes of one number for each prompt, the *metric*: a function from logits to that number. The logits that it
gets are shifted so that each prompt ends at the last place, whatever its length: ``logits[:, -1]`` is what follows the prompt.

*Taking away* means: set to a *baseline*. Zero ablation has the baseline 0, mean ablation the neurons' means over a corpus,
resample ablation the values that they had on tokens of other texts. Position 0 is left alone unless ``pos`` says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.activations import Neuron, check_neuron, name, scan
from helpers.interventions import Index, Intervention, intervene, mlp_post, record, set_to
from helpers.metrics import (
    AFTER_FIRST,
    COPIED_TOKENS,
    Metric,
    Words,
    _ends_aligned,
    _position,
    measure,
    run_with_gradients,
    selected,
    whole_words,
)
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.stats import Interval, mean_interval
from helpers.texts import Texts, TextsLike, as_texts

Baseline = float | Float[Tensor, "layer d_mlp"] | Float[Tensor, "layer row pos d_mlp"]
# --------------------------------------------------------------------------------------------------------------- metrics


# ------------------------------------------------------------------------------------------------ where, and to what


def _at(baseline: Baseline, layer: int) -> Float[Tensor, "*any"]:
    """The baseline of one layer: a number, ``[d_mlp]``, or ``[prompt, pos, d_mlp]``."""
    return baseline[layer] if torch.is_tensor(baseline) else torch.tensor(float(baseline))


def _check_baseline(model: TransformerBridge, texts: Texts, baseline: Baseline) -> None:
    """Raises ValueError where a baseline has no value for some layer, neuron, or position of a prompt."""
    if not torch.is_tensor(baseline):
        return
    one, each = [model.cfg.n_layers, model.cfg.d_mlp], [model.cfg.n_layers, *texts.tokens.shape, model.cfg.d_mlp]
    if list(baseline.shape) not in (one, each):
        got = list(baseline.shape)
        raise ValueError(f"A baseline needs a value for each neuron of every layer, {one} or for these prompts {each}; it has {got}.")


def resampled(
    model: TransformerBridge, prompts: TextsLike, others: Texts, seed: int = 0, item: Int[Tensor, "row"] | None = None
) -> Float[Tensor, "layer row pos d_mlp"]:
    """A baseline for resample ablation: what all neurons did together at a token of another text, drawn anew for each position.

    Each prompt gets a text of its own, and the tokens are drawn from it with putting back; position 0 stays 0 and is not used.
    Rows with the same number in ``item`` (that of ``Words``) are one prompt and get the same.
    """
    texts, rng = as_texts(model, prompts), torch.Generator().manual_seed(seed)
    item = torch.arange(len(texts)) if item is None else item
    usable = (others.lengths > 1).nonzero().flatten()
    if not len(usable):
        raise ValueError("The other texts have no token from which to resample: give at least one with a word in it.")
    source = others.take(usable[torch.randint(len(usable), (len(texts),), generator=rng)][: int(item.max()) + 1])  # one an item
    shares = torch.rand(texts.tokens.shape, generator=rng)[item]
    places = (1 + shares * (source.lengths[item, None] - 1)).long()  # [row, pos], from 1 to the text's last token
    values = torch.zeros(model.cfg.n_layers, *texts.tokens.shape, model.cfg.d_mlp, device=model.cfg.device)
    for batch in scan(model, source):
        for at, number in enumerate(batch.rows.tolist()):
            rows = (item == number).nonzero().flatten()
            for layer, activations in batch.activations.items():
                values[layer, rows] = activations[at][places[rows]].to(values)
    values[:, :, 0] = 0
    return values


def baselines(
    model: TransformerBridge, prompts: TextsLike, others: Texts, means: Float[Tensor, "layer d_mlp"], item: Int[Tensor, "row"] | None = None
) -> dict[str, Baseline]:
    """The three ways of taking a neuron away, by name: zero, mean and resample ablation (see ``resampled`` for ``item``)."""
    return {"zero": 0.0, "mean": means, "resample": resampled(model, prompts, others, item=item)}


def _all_places(model: TransformerBridge) -> list[str]:
    return [mlp_post(layer) for layer in range(model.cfg.n_layers)]


# ------------------------------------------------------------------------------------------- an estimate for all neurons


@dataclass(frozen=True)
class Attribution:
    """An estimate for every neuron: by how much the metric would change, on average over the prompts, if it were taken away."""

    effect: Float[Tensor, "layer d_mlp"]
    before: Float[Tensor, "prompt"]

    def top(self, n: int = 20, sign: int = 0) -> list[Neuron]:
        """The ``n`` neurons with the largest effects; ``sign`` -1 only those that hold the metric up, 1 only those that hold it down."""
        size = self.effect.abs() if sign == 0 else sign * self.effect
        width, most = size.shape[1], n if sign == 0 else min(n, int((size > 0).sum()))
        return [(at // width, at % width) for at in size.flatten().argsort(descending=True, stable=True)[:most].tolist()]

    def of(self, neurons: Sequence[Neuron]) -> Float[Tensor, "neuron"]:
        """The estimates of some neurons, in their order."""
        return torch.stack([self.effect[layer, neuron] for layer, neuron in neurons])

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` neurons with the largest effects: its name and the estimated change."""
        return "\n".join(["neuron     estimate", *(f"{name(one):<10} {self.effect[one]:+8.3f}" for one in self.top(n))])


def attribute_neurons(
    model: TransformerBridge, prompts: TextsLike, metric: Metric, baseline: Baseline = 0.0, pos: Index = AFTER_FIRST
) -> Attribution:
    """Gradient times (baseline - activation) for all neurons of all layers: one pass forward and one backward.

    This is the first-order estimate of what setting a neuron to its baseline does to the metric (attribution patching, Nanda
    2023; for neurons already in Dai et al. 2022, there along a path). It is summed over the positions of ``pos`` (an int that is
    negative counts from each prompt's end) and averaged over the prompts. ``metric`` must be differentiable.
    """
    texts = as_texts(model, prompts)
    _check_baseline(model, texts, baseline)
    where = selected(pos, texts)
    with torch.enable_grad():
        values, seen = run_with_gradients(model, texts, metric, _all_places(model))
        slopes = torch.autograd.grad(values.sum(), seen)
    effects = [
        ((_at(baseline, layer).to(value) - value.detach()) * slope)[where.to(value.device)].sum(0) / len(values)
        for layer, (value, slope) in enumerate(zip(seen, slopes, strict=True))
    ]
    return Attribution(torch.stack(effects).float().cpu(), values.detach().cpu())


# -------------------------------------------------------------------------------------------------------- taking away


@dataclass(frozen=True)
class AblationEffects:
    """The metric of every prompt before, and after each group of neurons was taken away; a group may be a single neuron."""

    groups: tuple[tuple[Neuron, ...], ...]
    before: Float[Tensor, "prompt"]
    after: Float[Tensor, "group prompt"]

    @property
    def effect(self) -> Float[Tensor, "group"]:
        """The mean change of the metric over the prompts."""
        return (self.after - self.before).mean(1)

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each effect; the prompts are the sample."""
        return [mean_interval(row) for row in self.after - self.before]

    @property
    def flips(self) -> Float[Tensor, "group"]:
        """The share of prompts whose metric changes its sign: where the *decision* is another one."""
        return ((self.after > 0) != (self.before > 0)).float().mean(1)

    def table(self, n: int = 10) -> str:
        """One line for each of the first ``n`` groups: who was taken away, the change, the share of decisions that changed."""
        names = [name(group[0]) if len(group) == 1 else f"{len(group)} neurons" for group in self.groups[:n]]
        rows = zip(names, self.effect.tolist(), self.flips.tolist(), strict=False)
        lines = [f"{label:<12} {effect:+8.3f} {flips:10.1%}" for label, effect, flips in rows]
        return "\n".join(["taken away     change  decisions", *lines])


@torch.no_grad()
def ablate_each(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    neurons: Sequence[Neuron],
    baseline: Baseline = 0.0,
    pos: Index = AFTER_FIRST,
) -> AblationEffects:
    """Takes each of the neurons away by itself and measures the metric again: many copies of the prompts in one forward pass.

    ``baseline`` is what the neurons are set to (see ``baselines``). The groups of the result are single neurons in the order given.
    Raises ValueError for an unknown neuron, an empty prompt, and a metric that does not give one number a prompt.
    """
    texts = _ready(model, prompts, [neurons], baseline)
    pos, copies = _position(pos, texts), max(1, COPIED_TOKENS // texts.tokens.numel())
    after: dict[Neuron, Tensor] = {}
    with progress(total=len(set(neurons)), desc="neurons") as bar:
        for part in _by_layer(neurons, copies):
            change = _set_each(part, _at(baseline, part[0][0]), pos, len(texts))
            with intervene(model, change):
                logits = model(texts.tokens.repeat(len(part), 1).to(model.cfg.device))
            after |= {one: measure(metric, own, texts).cpu() for one, own in zip(part, logits.chunk(len(part)), strict=True)}
            bar.update(len(part))
    return AblationEffects(tuple((one,) for one in neurons), _untouched(model, texts, metric), torch.stack([after[one] for one in neurons]))


@torch.no_grad()
def ablate_groups(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    groups: Sequence[Sequence[Neuron]],
    baseline: Baseline = 0.0,
    pos: Index = AFTER_FIRST,
) -> AblationEffects:
    """Takes away all neurons of a group together, one group after the other, and measures the metric again."""
    texts = _ready(model, prompts, groups, baseline)
    pos, after = _position(pos, texts), []
    for group in progress(groups, desc="groups"):
        with intervene(model, *ablate_neurons(group, baseline, pos)):
            after.append(measure(metric, model(texts.tokens.to(model.cfg.device)), texts).cpu())
    return AblationEffects(tuple(map(tuple, groups)), _untouched(model, texts, metric), torch.stack(after))


def ablate_neurons(group: Sequence[Neuron], baseline: Baseline = 0.0, pos: Index = AFTER_FIRST) -> list[Intervention]:
    """The interventions that take all neurons of a group away together: each is set to its baseline."""
    layers = sorted({layer for layer, _ in group})
    units = {layer: sorted({neuron for at, neuron in group if at == layer}) for layer in layers}
    return [_set(layer, units[layer], _at(baseline, layer), pos) for layer in layers]


def _ready(model: TransformerBridge, prompts: TextsLike, groups: Sequence[Sequence[Neuron]], baseline: Baseline) -> Texts:
    """The prompts in their final form, after a look for neurons that the model does not have, and at the baseline."""
    if not groups or not all(groups):
        raise ValueError("There is no neuron to take away: name at least one, such as (5, 185) for neuron 185 of layer 5.")
    for group in groups:
        for layer, neuron in group:
            check_neuron(model, layer, neuron)
    texts = as_texts(model, prompts)
    _check_baseline(model, texts, baseline)
    return texts


def _untouched(model: TransformerBridge, texts: Texts, metric: Metric) -> Float[Tensor, "prompt"]:
    return measure(metric, model(texts.tokens.to(model.cfg.device)), texts).cpu()


def _by_layer(neurons: Sequence[Neuron], most: int) -> list[list[Neuron]]:
    """The neurons in parts of one layer each, at most ``most`` in a part."""
    ordered = sorted(set(neurons))
    layers = [[one for one in ordered if one[0] == layer] for layer in sorted({layer for layer, _ in ordered})]
    return [group[at : at + most] for group in layers for at in range(0, len(group), most)]


def _set(layer: int, units: Index, value: Float[Tensor, "*any"], pos: Index) -> Intervention:
    """Sets some neurons of a layer to a number, to their values in ``[d_mlp]``, or to those in ``[row, pos, d_mlp]``."""
    return Intervention(mlp_post(layer), lambda old, pick: pick(value), pos=pos, units=units)


def _set_each(part: Sequence[Neuron], value: Float[Tensor, "*any"], pos: Index, n_prompts: int) -> Intervention:
    """For as many copies of the prompts as there are neurons: sets another neuron in each copy."""
    copies = len(part)
    units = torch.tensor([neuron for _, neuron in part]).repeat_interleave(n_prompts)[:, None]  # [copy x prompt, 1]
    value = value.repeat(copies, 1, 1) if value.ndim == 3 else value
    return _set(part[0][0], units, value, pos.repeat(copies) if torch.is_tensor(pos) else pos)


# ----------------------------------------------------------------------------------------------------------------- doses


@dataclass(frozen=True)
class DoseResponse:
    """The probability of each target word after each prompt, while one neuron is held at each dose.

    ``usual`` is the range, lowest to highest prompt, of the neuron's own highest activation on these prompts.
    """

    neuron: Neuron
    doses: tuple[float, ...]
    targets: tuple[str, ...]
    probs: Float[Tensor, "dose prompt target"]
    usual: tuple[float, float]

    @property
    def mean(self) -> Float[Tensor, "dose target"]:
        """The mean over the prompts."""
        return self.probs.mean(1)

    def table(self) -> str:
        """One line for each dose: the mean probability of each target."""
        width = max(8, *(len(target) + 2 for target in self.targets))
        head = "    dose" + "".join(f"{target.strip():>{width}}" for target in self.targets)
        rows = zip(self.doses, self.mean.tolist(), strict=True)
        return "\n".join([head, *(f"{dose:8.2f}" + "".join(f"{prob:{width}.1%}" for prob in probs) for dose, probs in rows)])


@torch.no_grad()
def dose_response(
    model: TransformerBridge,
    prompts: Sequence[str],
    layer: int,
    neuron: int,
    doses: Sequence[float],
    targets: Sequence[str],
    pos: Index = AFTER_FIRST,
) -> DoseResponse:
    """Holds a neuron at each of the doses, all of them in one batch, and reads the probabilities of whole words after the prompts.

    Raises ValueError for an unknown neuron, an empty prompt, and where there is no dose or no target.
    """
    if not len(doses) or not targets:
        raise ValueError("A dose-response curve needs at least one dose and one target word.")
    words = whole_words(model, prompts, [targets] * len(prompts))
    texts = _ready(model, words.texts, [[(layer, neuron)]], 0.0)
    own = Texts(texts.tokens, texts.lengths - torch.tensor([len(ids) - 1 for ids in words.ids]), texts.kinds)  # no part of a word
    pos, most = _position(pos, own), max(1, COPIED_TOKENS // texts.tokens.numel())
    values = record(model, texts.tokens.to(model.cfg.device), mlp_post(layer))[mlp_post(layer)][..., neuron].cpu()
    peaks = values.masked_fill(~selected(pos, own), -torch.inf).amax(1)
    parts = [_dosed(model, words, (layer, neuron), doses[at : at + most], pos) for at in range(0, len(doses), most)]
    probs = torch.cat(parts).reshape(len(doses), len(prompts), len(targets))
    return DoseResponse((layer, neuron), tuple(map(float, doses)), tuple(targets), probs, (peaks.min().item(), peaks.max().item()))


@torch.no_grad()
def held_at(
    model: TransformerBridge, prompts: TextsLike, neuron: Neuron, doses: Sequence[float], pos: Index = AFTER_FIRST
) -> Float[Tensor, "dose prompt d_vocab"]:
    """The probability of every token after each prompt while a neuron is held at each of the doses, all of them in one batch."""
    if not len(doses):
        raise ValueError("There is no dose at which to hold the neuron: give at least one.")
    texts = _ready(model, prompts, [[neuron]], 0.0)
    pos, most, last = _position(pos, texts), max(1, COPIED_TOKENS // texts.tokens.numel()), torch.arange(len(texts))
    parts = [_held(model, texts, neuron, doses[at : at + most], pos) for at in range(0, len(doses), most)]
    return torch.stack([logits[last, texts.lengths - 1].softmax(-1).float().cpu() for part in parts for logits in part])


def _dosed(model: TransformerBridge, words: Words, neuron: Neuron, doses: Sequence[float], pos: Index) -> Float[Tensor, "dose row"]:
    """The probability of each row's word, dose by dose, with the neuron held there."""
    logits = _held(model, words.texts, neuron, doses, pos)
    return torch.stack([words.log_probs(_ends_aligned(part, words.texts.lengths)).exp().float().cpu() for part in logits])


def _held(
    model: TransformerBridge, texts: Texts, neuron: Neuron, doses: Sequence[float], pos: Index
) -> tuple[Float[Tensor, "row pos d_vocab"], ...]:
    """The logits of the texts with the neuron held at each dose: as many copies of the texts in one forward pass as there are doses."""
    copies = len(doses)
    held = torch.tensor([float(dose) for dose in doses]).repeat_interleave(len(texts))[:, None, None]
    pos = pos.repeat(copies) if torch.is_tensor(pos) else pos
    with intervene(model, set_to(mlp_post(neuron[0]), held, units=neuron[1], pos=pos)):
        logits = model(texts.tokens.repeat(copies, 1).to(model.cfg.device))
    return logits.chunk(copies)


def by_kind(removals: Mapping[str, AblationEffects]) -> str:
    """Removals of the same single group under several kinds of ablation, one line each: kind, change, 95 % interval, decisions."""
    lines = [
        f"{kind:<10} {removal.effect[0]:+7.3f}   [{removal.intervals[0][0]:+.3f}, {removal.intervals[0][1]:+.3f}] {removal.flips[0]:8.1%}"
        for kind, removal in removals.items()
    ]
    return "\n".join(["ablation     change   95 % interval     decisions", *lines])
