"""Neurons, looked at: what each of them answers to in a corpus, what it writes, and how many jobs it has.

A neuron is named ``(layer, neuron)``. Its activation is the number after the activation function, one for each token; it is
called *active* where that number is above 0. All neurons are measured together, in one pass over the corpus that keeps no
more than sums and the highest values. Position 0 of every text is left out (see ``helpers.texts``).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Neuron, TopContexts, name, scan
from helpers.models import TransformerBridge
from helpers.running import check_layers
from helpers.stats import auc
from helpers.tables import table
from helpers.texts import Texts


def controls_at(
    there: Float[Tensor, "layer d_mlp"],
    trait: Float[Tensor, "layer d_mlp"],
    neuron: Neuron,
    n: int = 8,
    most: float = 0.25,
    exclude: Collection[Neuron] = (),
) -> list[Neuron]:
    """The ``n`` neurons of the same layer that are most alike to one in how active they are at some places, and without its trait.

    ``there`` is the mean activation at the places where the neuron will be changed: what is silent there can be removed without a
    trace. ``trait`` says how far each neuron has what this one was chosen for, such as a correlation; controls have at most the
    share ``most`` of its size. None of ``exclude`` is taken. Raises ValueError where there are too few, or the neuron is silent there.
    """
    layer, unit = neuron
    if not there[neuron] > 0:
        raise ValueError(f"{name(neuron)} is silent at these places, so there is nothing to match; take other places.")
    fair = (there[layer] > 0) & (trait[layer].abs() <= most * trait[neuron].abs())
    fair[[unit, *(other for at, other in exclude if at == layer)]] = False
    if int(fair.sum()) < n:
        raise ValueError(f"Only {int(fair.sum())} neurons of layer {layer} are active there without the trait, not {n}: ask for fewer.")
    far = torch.where(fair, (there[layer] / there[neuron]).log().abs(), torch.inf)
    return [(layer, other) for other in far.argsort(stable=True)[:n].tolist()]


def random_neurons(top: TopContexts, n: int, seed: int = 0) -> list[Neuron]:
    """``n`` neurons drawn from all that are active in at least k texts, so that their contexts can be compared."""
    alive = (top.values[..., -1] > 0).nonzero().tolist()
    if len(alive) < n:
        advice = "scan more texts, or ask for fewer"
        raise ValueError(f"Only {len(alive)} neurons are active in {top.values.shape[-1]} of these texts or more, not {n}: {advice}.")
    return sorted((top.stats.layers[at], neuron) for at, neuron in Random(seed).sample(alive, n))


@dataclass(frozen=True)
class Selectivity:
    """How well each neuron tells a class of positions from the rest: AUC on one half of the texts (validation), and on the other (test).

    AUC is the chance that the neuron is higher on a position of the class than on another one, a draw counting half
    (Mann and Whitney 1947): 0.5 is chance, 1 a perfect detector, 0 a perfect detector of the rest.
    """

    layers: tuple[int, ...]
    validation: Float[Tensor, "layer d_mlp"]
    test: Float[Tensor, "layer d_mlp"]
    n_class: tuple[int, int]
    n_rest: tuple[int, int]

    def best(self, n: int = 10) -> list[tuple[Neuron, float, float]]:
        """The best neurons by the validation half, each with its AUC there and on the test half."""
        order = self.validation.flatten().argsort(descending=True, stable=True)[:n].tolist()
        found = [divmod(at, self.validation.shape[1]) for at in order]
        return [((self.layers[at], unit), self.validation[at, unit].item(), self.test[at, unit].item()) for at, unit in found]

    def table(self, n: int = 10) -> str:
        """One line for each of the best neurons: its name, and its AUC on both halves."""
        rows = [(name(neuron), *scores) for neuron, *scores in self.best(n)]
        return table({"neuron": "<10", "choosing": "8.3f", "held out": "9.3f"}, rows)


def this_token(texts: Texts, ids: Collection[int]) -> Bool[Tensor, "row pos"]:
    """Where the token is one of ``ids``."""
    return torch.isin(texts.tokens, torch.tensor(sorted(ids), dtype=torch.long)) & texts.mask


def next_token(texts: Texts, ids: Collection[int]) -> Bool[Tensor, "row pos"]:
    """Where the next token of the text is one of ``ids``: a class of outputs."""
    follows = torch.zeros_like(texts.mask)
    follows[:, :-1] = this_token(texts, ids)[:, 1:]
    return follows & texts.mask


def class_selectivities(
    model: TransformerBridge,
    texts: Texts,
    classes: Sequence[Bool[Tensor, "row pos"]],
    layers: Sequence[int] | None = None,
    limit: int = 500,
    seed: int = 0,
) -> list[Selectivity]:
    """The AUC of every neuron of some layers (``None``: all) for several classes of positions, such as one and its ``random_class``.

    The texts are halved at random. In each half at most ``limit`` positions of a class and twice as many others are drawn; one scan
    serves all classes. Raises ValueError if a half has no position of a class, or nothing but such positions.
    """
    chosen = check_layers(model, layers, first=0)
    drawn = [_draw_halves(texts, labels, limit, seed) for labels in classes]
    sizes = [len(positions) for four in drawn for positions in four]
    values = _pick(model, texts, torch.cat([positions for four in drawn for positions in four]), chosen).split(sizes)
    found = []
    for at in range(0, len(values), 4):
        inside, outside, test_inside, test_outside = values[at : at + 4]
        validation = auc(inside, outside).reshape(len(chosen), -1)
        test = auc(test_inside, test_outside).reshape(len(chosen), -1)
        found.append(Selectivity(chosen, validation, test, (len(inside), len(test_inside)), (len(outside), len(test_outside))))
    return found


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


def _draw(where: Bool[Tensor, "row pos"], limit: int, rng: torch.Generator) -> Int[Tensor, "item two"]:
    """At most ``limit`` of the positions that are true, as ``(row, pos)``, drawn without putting back."""
    found = where.nonzero()
    return found[torch.randperm(len(found), generator=rng)[:limit]]


def _pick(model: TransformerBridge, texts: Texts, positions: Int[Tensor, "item two"], layers: Sequence[int]) -> Float[Tensor, "item unit"]:
    """The activations of all neurons of the layers, side by side, at some positions of the texts."""
    rows, row_of = positions[:, 0].unique(return_inverse=True)  # texts without such a position are not run
    kept = torch.zeros(len(positions), len(layers), model.cfg.d_mlp)
    for batch in scan(model, texts.take(rows), layers):
        item, place = (row_of[:, None] == batch.rows).nonzero().T  # of the items in this batch the text's place in it
        for at, layer in enumerate(layers):
            kept[item, at] = batch.activations[layer][place, positions[item, 1]].float().cpu()
    return kept.flatten(1)


def auc_within(values: Float[Tensor, "row pos"], labels: Bool[Tensor, "row pos"], mask: Bool[Tensor, "row pos"]) -> list[float]:
    """For each text with places of both kinds the AUC of a neuron within it: what kind of text it is can be of no help."""
    sides = [(row[at & there], row[~at & there]) for row, at, there in zip(values, labels, mask, strict=True)]
    return [auc(inside[:, None], outside[:, None]).item() for inside, outside in sides if len(inside) and len(outside)]


def grade_correlations(values: Float[Tensor, "layer prompt d_mlp"], grades: Float[Tensor, "prompt"]) -> Float[Tensor, "layer d_mlp"]:
    """Pearson's correlation of every neuron with the grades of the prompts; 0 for a neuron that never changes."""
    centred, wanted = values - values.mean(1, keepdim=True), (grades - grades.mean())[:, None]
    lengths = centred.norm(dim=1) * wanted.norm()
    return (centred * wanted).sum(1) / lengths.clamp(min=1e-9)


def number_of_jobs(effects: Float[Tensor, "job unit"]) -> Float[Tensor, "unit"]:
    """On how many jobs each unit has an effect, those with larger effects counting more: from 1 to the number of jobs.

    The participation ratio of the sizes, ``(sum of e)^2 / sum of e^2``. The effects on a job are first divided by their root
    mean square over the units, so that a job is no heavier because its ruler has larger numbers. 0 for a unit without any effect.
    """
    sizes = effects.abs() / effects.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    return sizes.sum(0) ** 2 / sizes.square().sum(0).clamp(min=1e-12)
