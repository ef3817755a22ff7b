"""How well Patchscopes read: the model's own next token, and attributes of entities, beside other ways to read the same states.

Ghandeharioun et al. 2024 (arXiv 2401.06102, sections 4.1 and 4.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.relations import RelationData
from helpers.inputs import chosen
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import activations_at, check_layers, layer_hook, layer_name, read_lens, read_suffix
from helpers.speak.patchscopes import (
    IDENTITY,
    PATCHED_ROWS,
    SAME,
    Layer,
    Place,
    Readings,
    Source,
    Target,
    matched,
    patchscope,
    share,
    source_place,
    states_at,
    target_place,
)
from helpers.speak.tuned_lens import TunedLens, sample_states
from helpers.stats import Interval, paired_interval, ridge
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

PENALTY = 1e-3  # of a map between layers, as a share of the mean variance of the states
METHODS = ("Patchscope", "with map", "logit lens", "linear map", "tuned lens")
ANSWER = 4  # tokens that are written for an attribute
PROBE_PENALTY = 0.1  # of a probe that has few subjects to learn from

Pair = tuple[int, int]  # source layer, target layer
Map = tuple[Float[Tensor, "d_model d_model"], Float[Tensor, "d_model"]]  # weight and bias


def fit_maps(model: TransformerBridge, pairs: Sequence[Pair], texts: TextsLike) -> dict[Pair, Map]:
    """For each pair of layers weight and bias of the affine map from the states of the one to those of the same tokens in the other.

    Ridge regression on 16 positions drawn from each text, never position 0. This is the paper's linear mapping when the target is the
    last layer (section 4.1). Raises ValueError for an unknown layer.
    """
    check_layers(model, [layer for pair in pairs for layer in pair])
    states = sample_states(model, texts, 16).cpu()  # [layer, state, d_model], from layer -1 on
    found = {}
    for source, target in pairs:
        x = states[source + 1]
        weight, bias = ridge(x, states[target + 1], PENALTY * mean_spread(x))
        found[source, target] = weight.float(), bias.float()
    return found


def mean_spread(x: Float[Tensor, "item d"]) -> float:
    """The mean over the coordinates of the sum of their squared distances from their means: the unit of a penalty."""
    return (x - x.mean(0)).square().sum(0).mean().item()


@dataclass(frozen=True)
class Precision:
    """Precision@1 (section 4.1): which method names the model's own next token from the state of each layer; one token of each text.

    ``constant`` is the share of the most frequent next token. ``position`` is where the states were read.
    """

    layers: tuple[int, ...]
    hits: Mapping[str, Bool[Tensor, "layer text"]]
    constant: float
    position: int

    def of(self, method: str) -> Bool[Tensor, "layer text"]:
        """The hits of one method. Raises ValueError for a method that was not tried."""
        return chosen(self.hits, method, "method")

    def take(self, texts: slice) -> "Precision":
        """Some of the texts only, such as one half to choose a layer on and the other to count on."""
        return replace(self, hits={name: hits[:, texts] for name, hits in self.hits.items()})

    def gain(self, method: str, over: str) -> list[tuple[float, Interval]]:
        """By how much one method is better than another in each layer, text by text, with the 95 % interval (bootstrap)."""
        pairs = zip(self.of(method).float(), self.of(over).float(), strict=True)
        return [((one - other).mean().item(), paired_interval(one, other)) for one, other in pairs]

    def table(self) -> str:
        """One line for each layer: the share of hits of each method with its 95 % interval (Wilson)."""
        rows = zip(map(layer_name, self.layers), *(map(share, hits) for hits in self.hits.values()), strict=True)
        lines = table({"layer": ">5"} | dict.fromkeys(self.hits, "<22"), rows, gap="  ")
        n = next(iter(self.hits.values())).shape[1]
        return f"{lines}\nmost frequent token: {self.constant:.1%}, n = {n} texts, position {self.position}"


@torch.no_grad()
def precision_by_layer(
    model: TransformerBridge,
    texts: TextsLike,
    layers: Sequence[int] | None = None,
    *,
    train: TextsLike | None = None,
    tuned: TunedLens | None = None,
    target: Target = IDENTITY,
) -> Precision:
    """Compares ways to read the next token off the states of each layer: Patchscope, lenses and, with ``train``, affine maps.

    One token of each text is read, at the position of the placeholder; shorter texts are left out. "Patchscope" puts a state into the
    layer from which it comes; "with map" into the layer half way by a map fitted on ``train``; "linear map" goes from there into the last
    layer and unembeds, as the paper's baseline does. Raises ValueError where no text is long enough, and for layers that the model does
    not have.
    """
    layers, place, last = check_layers(model, layers), target_place(model, target), model.cfg.n_layers - 1
    *states, final = _at_position(model, texts, place.at[0], [*layers, last])
    states, own = torch.stack(states), _best(model, final[None])[0]
    found = {"Patchscope": _after_patch(model, place, states, layers), "logit lens": _best(model, states)}
    if train is not None:
        half = (last + 1) // 2
        maps = fit_maps(model, [(layer, into) for layer in layers for into in dict.fromkeys((half, last))], train)
        to_half, to_last = (
            torch.stack([one @ maps[layer, into][0].T + maps[layer, into][1] for layer, one in zip(layers, states, strict=True)])
            for into in (half, last)
        )
        found["with map"] = _after_patch(model, place, to_half, [half] * len(layers))
        found["linear map"] = _best(model, to_last)
    if tuned:
        found["tuned lens"] = _best(model, tuned.mapped(model, layers, states))
    hits = {name: found[name] == own for name in METHODS if name in found}
    constant = own.bincount().max().item() / len(own)
    return Precision(layers, hits, constant, place.at[0])


def _at_position(model: TransformerBridge, texts: TextsLike, position: int, layers: Sequence[int]) -> Float[Tensor, "layer text d_model"]:
    """The states of each layer at one position of all texts that have it."""
    texts = as_texts(model, texts)
    if position >= (longest := int(texts.lengths.max())):
        raise ValueError(f"No text has a token at position {position}: the longest has {longest} tokens.")
    long = (texts.lengths > position).nonzero().flatten()
    cut = Texts(texts.tokens[long, : position + 1], torch.full_like(long, position + 1), ("text",) * len(long))
    return activations_at(model, cut, [layer_hook(layer) for layer in layers])[:, :, 0]


def _best(model: TransformerBridge, states: Float[Tensor, "layer text d_model"]) -> Int[Tensor, "layer text"]:
    """The lens' best token of each state."""
    return read_lens(model, states, lambda logits, _: logits.argmax(-1).cpu())


def _after_patch(
    model: TransformerBridge, place: Place, states: Float[Tensor, "layer text d_model"], into: Sequence[int]
) -> Int[Tensor, "layer text"]:
    """The most likely token after the target with each state in it; only the blocks behind the patch are run."""
    tokens, first = place.tokens, place.at[0]
    suffix = read_suffix(model, tokens[None], first, [layer + 1 for layer in into])
    found = torch.empty(states.shape[:2], dtype=torch.long)
    for number, layer in enumerate(progress(into, desc="Patchscopes")):
        for some in torch.arange(states.shape[1]).split(PATCHED_ROWS):
            stream = suffix.entering[layer + 1].repeat(len(some), 1, 1)
            stream[:, 0] = states[number, some].to(stream)
            rows, ends = torch.zeros_like(some), torch.full_like(some, len(tokens) - 1)
            found[number, some] = suffix.logits(model, layer + 1, rows, ends, stream=stream).argmax(-1).cpu()
    return found


def attribute(data: RelationData) -> Target:
    """The target that asks for an attribute in the words of a relation: ``The capital of x is`` (section 4.2)."""
    return Target(data.template.replace("{s}", "x").rstrip())


@dataclass(frozen=True)
class Attributes:
    """Whether an attribute can be read off the states of subjects, by Patchscope, and by a linear probe that has not learned from them.

    ``probe``: is the right answer the nearest of all answers of the relation? ``readings.others`` is the control with an unrelated
    subject's state.
    """

    relation: str
    readings: Readings
    probe: Bool[Tensor, "layer subject"]

    def table(self) -> str:
        """One line for each layer: shares of right answers of Patchscope and probe with intervals, and of other subjects' states."""
        shares = map(share, self.readings.hits), map(share, self.probe)
        rows = zip(map(layer_name, self.readings.layers), *shares, self.readings.others.mean(1).tolist(), strict=True)
        lines = table({"layer": ">5", "Patchscope": "<22", "probe": "<22", "other subject": "12.1%"}, rows, gap="  ")
        return f"{self.relation}\n{lines}\nalways the same answer: {self.readings.constant:.1%}, n = {self.probe.shape[1]}"


def attribute_extraction(
    model: TransformerBridge, data: RelationData, source_layers: Sequence[int] | None = None, target_layer: Layer = SAME
) -> Attributes:
    """Reads the objects of a relation off states of its subjects with a target such as ``The capital of x is``, and with a probe.

    The probe is ridge regression from the state to the unembedding of the answer's first token; half of the subjects train the one that
    judges the other half, and the other way round. Raises ValueError for fewer than four subjects.
    """
    if len(data) < 4:
        raise ValueError(f"{data.name!r} has {len(data)} subjects; a probe and its test need four: give more.")
    target, asked = attribute(data), [Source(name, name) for name in data.subjects]
    readings = patchscope(model, asked, target, source_layers, target_layer, answers=data.objects, tokens=ANSWER)
    places = [matched(model, source_place(model, one), target_place(model, target))[0] for one in asked]
    states = states_at(model, places, readings.layers)[:, :, 0]
    one, other = torch.tensor(Random(f"0 {data.name}").sample(range(len(data)), len(data))).tensor_split(2)
    probe = torch.empty(len(states), len(data), dtype=torch.bool)
    for train, test in ((one, other), (other, one)):
        probe[:, test] = _probe(model, data, states, train, test)
    return Attributes(data.name, readings, probe)


def _probe(
    model: TransformerBridge,
    data: RelationData,
    states: Float[Tensor, "layer subject d_model"],
    train: Int[Tensor, "known"],
    test: Int[Tensor, "some"],
) -> Bool[Tensor, "layer some"]:
    """Is the right answer nearest to what the probe of each layer predicts? All answers of the relation are candidates."""
    answers = sorted({*data.objects})
    first = first_tokens(model, data.prompts[:1] * len(answers), answers)
    vectors = model.W_U.detach()[:, first.to(model.W_U.device)].T.double().cpu()
    right = torch.tensor([answers.index(answer) for answer in data.objects])
    found = []
    for own in states.double():
        weight, bias = ridge(own[train], vectors[right[train]], PROBE_PENALTY * mean_spread(own[train]))
        found.append(torch.cdist(own[test] @ weight.T + bias, vectors).argmin(-1) == right[test])
    return torch.stack(found)
