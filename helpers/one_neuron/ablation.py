"""What neurons do: the effect of ablating them, an estimate of it for all of them at once, and the answer to a dose.

All effects are changes of one number for each prompt, the *metric*: a function from logits to that number. It is given the logits that
follow each prompt, as ``logits[:, -1]``.

*Ablating* means: setting to a *baseline*. Zero ablation has the baseline 0, mean ablation the neurons' means over a corpus, resample
ablation the values that they had on tokens of other texts. Position 0 is left alone unless ``pos`` says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.activations import Neuron, check_neuron, name, scan
from helpers.interventions import (
    Index,
    Intervention,
    clamp,
    intervene,
    mean_ablate,
    mlp_post,
    record,
    resid_pre,
    unembed_only_at,
    watch,
)
from helpers.metrics import AFTER_FIRST, Metric, _position, measure, run_with_gradients, selected, tokens_read
from helpers.models import TransformerBridge, run_from
from helpers.progress import progress
from helpers.stats import Interval, mean_interval
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

Baseline = float | Float[Tensor, "layer d_mlp"] | Float[Tensor, "layer row pos d_mlp"]


def baselines(model: TransformerBridge, prompts: TextsLike, others: Texts, means: Float[Tensor, "layer d_mlp"]) -> dict[str, Baseline]:
    """The three ways to ablate a neuron, by name: zero, mean and resample ablation."""
    return {"zero": 0.0, "mean": means, "resample": resampled(model, prompts, others)}


def resampled(model: TransformerBridge, prompts: TextsLike, others: Texts, seed: int = 0) -> Float[Tensor, "layer row pos d_mlp"]:
    """A baseline for resample ablation: what all neurons did together at a token of another text, drawn anew for each position.

    Each prompt gets a text of its own, and the tokens are drawn from it with replacement; position 0 stays 0 and is not used.
    Raises ValueError if no text has a token after position 0.
    """
    texts, rng = as_texts(model, prompts), torch.Generator().manual_seed(seed)
    usable = (others.lengths > 1).nonzero().flatten()
    if not len(usable):
        raise ValueError("The other texts have no token from which to resample: give at least one with a word in it.")
    source = others.take(usable[torch.randint(len(usable), (len(texts),), generator=rng)])
    shares = torch.rand(texts.tokens.shape, generator=rng)
    places = (1 + shares * (source.lengths[:, None] - 1)).long()  # [row, pos], from 1 to the text's last token
    values = torch.zeros(model.cfg.n_layers, *texts.tokens.shape, model.cfg.d_mlp, device=model.cfg.device)
    for batch in scan(model, source):
        each = torch.arange(len(batch.rows))[:, None]
        for layer, activations in batch.activations.items():
            values[layer, batch.rows] = activations[each, places[batch.rows]].to(values)
    values[:, :, 0] = 0
    return values


def _at(baseline: Baseline, layer: int) -> Float[Tensor, "*any"]:
    """The baseline of one layer: a number, ``[d_mlp]``, or ``[prompt, pos, d_mlp]``."""
    return baseline[layer] if torch.is_tensor(baseline) else torch.tensor(float(baseline))


def _check_baseline(model: TransformerBridge, texts: Texts, baseline: Baseline) -> None:
    """Raises ValueError if a baseline has no value for some layer, neuron, or position of a prompt."""
    one, each = [model.cfg.n_layers, model.cfg.d_mlp], [model.cfg.n_layers, *texts.tokens.shape, model.cfg.d_mlp]
    if torch.is_tensor(baseline) and list(baseline.shape) not in (one, each):
        got = list(baseline.shape)
        raise ValueError(f"A baseline needs a value for each neuron of every layer, {one} or for these prompts {each}; it has {got}.")


@dataclass(frozen=True)
class Attribution:
    """An estimate for every neuron: by how much the metric would change, on average over the prompts, if it were ablated."""

    effect: Float[Tensor, "layer d_mlp"]
    before: Float[Tensor, "prompt"]

    def top(self, n: int = 20, sign: int = 0) -> list[Neuron]:
        """The ``n`` neurons with the largest effects; ``sign`` -1 only those that hold the metric up, 1 only those that hold it down."""
        size = self.effect.abs() if sign == 0 else sign * self.effect
        most = n if sign == 0 else min(n, int((size > 0).sum()))
        return [divmod(at, size.shape[1]) for at in size.flatten().argsort(descending=True, stable=True)[:most].tolist()]

    def of(self, neurons: Sequence[Neuron]) -> Float[Tensor, "neuron"]:
        """The estimates of some neurons, in their order."""
        return torch.stack([self.effect[neuron] for neuron in neurons])

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` neurons with the largest effects: its name and the estimated change."""
        return table({"neuron": "<10", "estimate": "+8.3f"}, [(name(one), self.effect[one].item()) for one in self.top(n)])


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
    with torch.enable_grad():
        values, seen = run_with_gradients(model, texts, metric, [*map(mlp_post, range(model.cfg.n_layers))])
        gradients = torch.autograd.grad(values.sum(), seen)
    where = selected(pos, texts).to(values.device)
    effects = [
        ((_at(baseline, layer).to(activation) - activation.detach()) * gradient)[where].sum(0) / len(values)
        for layer, (activation, gradient) in enumerate(zip(seen, gradients, strict=True))
    ]
    return Attribution(torch.stack(effects).float().cpu(), values.detach().cpu())


@dataclass(frozen=True)
class AblationEffects:
    """The metric of every prompt before, and after each group of neurons was ablated; a group may be a single neuron."""

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
        """One line for each of the first ``n`` groups: who was ablated, the change, the share of decisions that changed."""
        names = [name(group[0]) if len(group) == 1 else f"{len(group)} neurons" for group in self.groups[:n]]
        rows = zip(names, self.effect.tolist(), self.flips.tolist(), strict=False)
        return table({"taken away": "<12", "change": "+8.3f", "decisions": "10.1%"}, rows)


def ablate_each(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    neurons: Sequence[Neuron],
    baseline: Baseline = 0.0,
    pos: Index = AFTER_FIRST,
) -> AblationEffects:
    """Ablates each of the neurons by itself and measures the metric again: ``ablate_groups`` of one neuron each."""
    return ablate_groups(model, prompts, metric, [[neuron] for neuron in neurons], baseline, pos)


@torch.no_grad()
def ablate_groups(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    groups: Sequence[Sequence[Neuron]],
    baseline: Baseline = 0.0,
    pos: Index = AFTER_FIRST,
) -> AblationEffects:
    """Ablates all neurons of a group together, one group after the other, and measures the metric again.

    ``baseline`` is what the neurons are set to (see ``baselines``). Raises ValueError for an unknown neuron, an empty prompt, and a
    metric that does not give one number a prompt.
    """
    if not groups or not all(groups):
        raise ValueError("There is no neuron to ablate: name at least one, such as (5, 185) for neuron 185 of layer 5.")
    for layer, neuron in {neuron for group in groups for neuron in group}:
        check_neuron(model, layer, neuron)
    texts = as_texts(model, prompts)
    _check_baseline(model, texts, baseline)
    pos = _position(pos, texts)
    n = tokens_read(metric)
    ends = unembed_only_at(texts.last_positions(n))
    starts = [min(layer for layer, _ in group) for group in groups]  # what comes before the first neuron of a group stays as it is
    entering: dict[int, Tensor] = {}
    with intervene(model, *(watch(resid_pre(layer), partial(entering.__setitem__, layer)) for layer in set(starts)), ends):
        before = measure(metric, model(texts.tokens.to(model.cfg.device)), texts.last(n)).cpu()
    after = []
    for group, start in progress(list(zip(groups, starts, strict=True)), desc="groups"):
        with intervene(model, *ablate_neurons(group, baseline, pos), ends):
            after.append(measure(metric, run_from(model, entering[start], start), texts.last(n)).cpu())
    return AblationEffects(tuple(map(tuple, groups)), before, torch.stack(after))


def ablate_neurons(group: Sequence[Neuron], baseline: Baseline = 0.0, pos: Index = AFTER_FIRST) -> list[Intervention]:
    """The interventions that ablate all neurons of a group together: each is set to its baseline."""
    units = {layer: sorted({neuron for at, neuron in group if at == layer}) for layer in sorted({layer for layer, _ in group})}
    return [mean_ablate(mlp_post(layer), _at(baseline, layer), pos=pos, units=some) for layer, some in units.items()]


def by_kind(effects: Mapping[str, AblationEffects]) -> str:
    """Ablations of the same single group with several baselines, one line each: kind, mean change of the metric, 95 % interval."""
    rows = [(kind, one.effect[0].item(), "[{:+.3f}, {:+.3f}]".format(*one.intervals[0])) for kind, one in effects.items()]
    return table({"ablation": "<10", "change": "+8.3f", "95 % interval": ">20"}, rows)


@torch.no_grad()
def held_at(
    model: TransformerBridge, prompts: TextsLike, neuron: Neuron, doses: Sequence[float], pos: Index = AFTER_FIRST
) -> Float[Tensor, "dose prompt d_vocab"]:
    """The probability of every token after each prompt while a neuron is held at each of the doses, one after the other; on the CPU."""
    check_neuron(model, *neuron)
    texts = as_texts(model, prompts)
    pos, start, ends = _position(pos, texts), resid_pre(neuron[0]), unembed_only_at(texts.last_positions(1))
    entering = record(model, texts.tokens.to(model.cfg.device), start)[start]  # the same at every dose
    probs = []
    for dose in doses:
        with intervene(model, clamp(mlp_post(neuron[0]), dose, units=neuron[1], pos=pos), ends):
            probs.append(run_from(model, entering, neuron[0])[:, 0].softmax(-1).cpu())
    return torch.stack(probs)
