"""Sparse feature circuits: what each feature of an autoencoder does for one decision.

Marks et al. 2024 (arXiv 2403.19647). A state of the stream is ``x = sum_k a_k W_dec[k] + b_dec + e``. Its features ``a_k``, and
the error ``e`` that the autoencoder leaves, are the *nodes*, at every position of the prompt: a node is ``(position, feature)``,
and the error has the number ``d_sae``, behind the last feature. The paper has an autoencoder at every place of the model; here it is
one, at ``sae.hook``, so there are no edges.

    pairs = agreement_pairs(model, 40)
    effects = attribute_nodes(model, sae, pairs, steps=10)
    print(effects.table())
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.cluster.patching import PromptPairs, metric_at_ends, prompt_pairs
from helpers.course_lm.corpus.prose import agreement_probes
from helpers.course_lm.world import World
from helpers.interventions import Intervention, record, set_to
from helpers.metrics import log_odds, run_with_gradients
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.prediction import token_id, tokenize
from helpers.progress import progress
from helpers.running import path_gradients
from helpers.stats import Interval, mean_interval
from helpers.tables import table

Node = tuple[int, int]  # position, and feature; the error is feature d_sae


def agreement_pairs(
    model: TransformerBridge, n: int, group: str = "present relative", seed: int = 0, like: PromptPairs | None = None
) -> PromptPairs:
    """``n`` prompts that ask for a verb across an attractor, and the same with the number of the subject changed.

    ``Now the bridge that the farmers like`` (is) beside ``Now the bridges that the farmers like`` (are). The nouns stand in no such
    sentence of the course LM's corpus. All prompts have one length, and the subject at one position (those of ``like``, if there are such
    pairs); ``group`` is that of ``agreement_probes``. Raises ValueError where there are too few.
    """
    shapes: dict[tuple[int, int], list[tuple[str, str, str, str]]] = {}
    wanted = None if like is None else (int(like.clean.lengths[0]), int(like.first_difference[0]))
    rng, world = Random(f"{seed} agreement"), World.load()
    probes = chain.from_iterable(agreement_probes(world, rng, 80) for _ in range(n + 1))
    for probe in (one for one in probes if one.group == group):
        other = _other_number(probe.prompt)
        one, two = (tokenize(model, prompt) for prompt in (probe.prompt, other))
        if len(one) == len(two):
            shape = (len(one), int((one != two).int().argmax()))
            same = shapes.setdefault(shape, [])
            same.append((probe.prompt, other, f" {probe.answer}", f" {probe.wrong}"))
            if len(same) == n and wanted in (None, shape):
                clean, corrupted, right, wrong = map(list, zip(*same, strict=True))
                ids = [torch.tensor([token_id(model, word) for word in words]) for words in (right, wrong)]
                return prompt_pairs(model, clean, corrupted, log_odds(*ids))
    raise ValueError(f"There are not {n} prompts of one length in the group {group!r}: ask for fewer, or for 'present near'.")


def _other_number(prompt: str) -> str:
    """The prompt with its subject, which is its first noun, in the other number."""
    nouns, words = [(row["singular"], row["plural"]) for row in World.load().rows("nouns")], prompt.split(" ")
    others = dict(nouns) | {many: one for one, many in nouns}
    at = next(number for number, word in enumerate(words) if word in others)
    return " ".join([*words[:at], others[words[at]], *words[at + 1 :]])


@dataclass(frozen=True)
class NodeEffects:
    """The estimated indirect effect of every node on the metric of every prompt; of the nodes of a position the error is the last."""

    values: Float[Tensor, "prompt pos node"]

    @property
    def mean(self) -> Float[Tensor, "pos node"]:
        """The mean over the prompts."""
        return self.values.mean(0)

    def top(self, n: int = 10, errors: bool = False) -> list[Node]:
        """The ``n`` nodes with the largest mean effects, of either sign; ``errors``: the error may be among them."""
        size = self.mean.abs() if errors else self.mean[:, :-1].abs()
        best = size.flatten().argsort(descending=True, stable=True)[:n]
        return [divmod(at, size.shape[1]) for at in best.tolist()]

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` nodes with the largest effects, errors among them."""
        last = self.values.shape[2] - 1
        rows = [(pos, "error" if feature == last else feature, self.mean[pos, feature].item()) for pos, feature in self.top(n, errors=True)]
        return table({"position": "8", "feature": "8", "effect": "+8.3f"}, rows)


@torch.no_grad()
def attribute_nodes(model: TransformerBridge, sae: SparseAutoencoder, pairs: PromptPairs, steps: int = 0) -> NodeEffects:
    """Estimates for all nodes what patching them does: gradient of the metric times (corrupted - clean), on the clean prompts.

    The gradient is that of the clean run (attribution patching, equation 2 of the paper), or with ``steps`` above 0 the mean over as
    many states on the way from clean to corrupted (integrated gradients, equation 3; the paper takes 10).
    """
    clean, corrupted = _states(model, sae, pairs)

    def run(fraction: float) -> tuple[Float[Tensor, "prompt"], list[Float[Tensor, "prompt pos d_model"]]]:
        states = torch.lerp(clean, corrupted, fraction).requires_grad_()
        return run_with_gradients(model, pairs.clean, pairs.metric, [], set_to(sae.hook, states))[0], [states]

    [gradient] = path_gradients(run, steps)
    features, error = (after - before for before, after in zip(_split(sae, clean), _split(sae, corrupted), strict=True))
    effects = [(gradient @ sae.W_dec.T) * features, (gradient * error).sum(-1, keepdim=True)]
    return NodeEffects(torch.cat(effects, -1).cpu())


def _states(model: TransformerBridge, sae: SparseAutoencoder, pairs: PromptPairs) -> list[Float[Tensor, "prompt pos d_model"]]:
    """The clean and the corrupted states. Raises ValueError unless all prompts have equally many tokens."""
    lengths = sorted(set(pairs.clean.lengths.tolist()))
    if len(lengths) > 1:
        raise ValueError(f"A node has a position, so all prompts need one length; these have {lengths[0]} to {lengths[-1]} tokens.")
    return [record(model, side.tokens.to(model.cfg.device), sae.hook)[sae.hook].float() for side in (pairs.clean, pairs.corrupted)]


def _split(
    sae: SparseAutoencoder, x: Float[Tensor, "*batch d_model"]
) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_model"]]:
    """The features of states, and the error that these leave."""
    features = sae.encode(x)
    return features, x - sae.decode(features)


@dataclass(frozen=True)
class NodeMeans:
    """The mean of every feature and of the error at every position of some prompts of one length: what ablated nodes are set to."""

    features: Float[Tensor, "pos d_sae"]
    error: Float[Tensor, "pos d_model"]


@dataclass(frozen=True)
class FeatureCircuit:
    """Which features stay, ``[d_sae]`` for all positions or ``[pos, d_sae]``, and whether the error stays; all else is ablated."""

    name: str
    keep: Bool[Tensor, "*pos d_sae"]
    error: bool = False

    @property
    def n(self) -> int:
        """How many features, or nodes, stay."""
        return int(self.keep.sum())


@torch.no_grad()
def node_means(model: TransformerBridge, sae: SparseAutoencoder, pairs: PromptPairs) -> NodeMeans:
    """The means for mean ablation, over the clean and the corrupted prompts, all of one length."""
    return NodeMeans(*(part.mean(0).cpu() for part in _split(sae, torch.cat(_states(model, sae, pairs)))))


def only(sae: SparseAutoencoder, means: NodeMeans, circuit: FeatureCircuit) -> Intervention:
    """Only a circuit stays: all other features are set to their means, and the error too unless it belongs to the circuit."""

    def change(values: Tensor, pick: object) -> Tensor:
        features, error = _split(sae, values.float())
        kept = torch.where(circuit.keep.to(values.device), features, means.features.to(values.device))
        return (sae.decode(kept) + (error if circuit.error else means.error.to(error))).to(values)

    return Intervention(sae.hook, change)


@dataclass(frozen=True)
class NodeFaithfulness:
    """The metric of every prompt when only a circuit is left, in the whole model, and with every node ablated, the error too."""

    circuits: tuple[FeatureCircuit, ...]
    values: Float[Tensor, "circuit prompt"]
    full: Float[Tensor, "prompt"]
    empty: Float[Tensor, "prompt"]

    @property
    def shares(self) -> Float[Tensor, "circuit prompt"]:
        """How far each prompt's metric comes from the empty to the full model, on the scale of the mean distance."""
        return (self.values - self.empty) / (self.full - self.empty).mean()

    @property
    def faithfulness(self) -> Float[Tensor, "circuit"]:
        """``(m(C) - m(empty)) / (m(full) - m(empty))``, means over the prompts (section 3.3); that of the rest tells how complete C is."""
        return self.shares.mean(1)

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each; the prompts are the sample."""
        return [mean_interval(row) for row in self.shares]

    def table(self) -> str:
        """One line for each circuit: its name, what it keeps, its faithfulness and the 95 % interval."""
        width = max(len("circuit"), *(len(circuit.name) for circuit in self.circuits))
        columns = {"circuit": f"<{width}", "nodes": "6", "  faithfulness": "<"}
        rows = []
        for circuit, share, (low, high) in zip(self.circuits, self.faithfulness.tolist(), self.intervals, strict=True):
            rows.append((circuit.name, circuit.n, f"{share:8.2f}   [{low:.2f}, {high:.2f}]"))
        return table(columns, rows)


@torch.no_grad()
def measure_circuits(
    model: TransformerBridge, sae: SparseAutoencoder, pairs: PromptPairs, means: NodeMeans, circuits: Sequence[FeatureCircuit]
) -> NodeFaithfulness:
    """How much of the metric on the clean prompts each circuit keeps; raises ValueError where even the full model has nothing to keep."""
    nothing, full = FeatureCircuit("nothing", torch.zeros(sae.d_sae, dtype=torch.bool)), metric_at_ends(model, pairs)
    empty, *values = (metric_at_ends(model, pairs, only(sae, means, one)) for one in progress([nothing, *circuits], desc="circuits"))
    if not (full - empty).mean().abs() > 1e-6:
        raise ValueError("The metric is the same with every node ablated: at this place the autoencoder is not on its way.")
    return NodeFaithfulness(tuple(circuits), torch.stack(values), full, empty)


def circuit_of(nodes: Sequence[Node], means: NodeMeans, name: str) -> FeatureCircuit:
    """The circuit of some nodes, and of the errors."""
    keep = torch.zeros_like(means.features, dtype=torch.bool)
    for node in nodes:
        keep[node] = True
    return FeatureCircuit(name, keep, error=True)


def circuit_sizes(effects: NodeEffects, means: NodeMeans, sizes: Sequence[int]) -> list[FeatureCircuit]:
    """For each size the top nodes, and as many random ones among those that have an effect at all; the errors are kept in all."""
    able = effects.mean[:, :-1].nonzero()
    drawn = [tuple(node) for node in able[torch.randperm(len(able), generator=torch.Generator().manual_seed(0))].tolist()]
    kinds = {"top": effects.top(max(sizes)), "random": drawn}
    return [circuit_of(nodes[:size], means, name) for size in sizes for name, nodes in kinds.items()]
