"""Circuits: which edges of a model carry an answer, and whether those that were found do.

*Edge attribution patching* (Syed et al. 2023, arXiv 2310.10348, equation 2) estimates from gradients what every edge does, all at once;
with integrated gradients it is EAP-IG (Hanna et al. 2024, arXiv 2403.17806, equation 3). It shows the wrong circuit at times, so judge:
*faithfulness* is how much of the metric a circuit keeps, beside random circuits of its size, and *completeness* how little is left
without it (Marks et al. 2024, arXiv 2403.19647, section 3.2). The answers depend on the ablation: look at more than one.

    scores = attribute_edges(model, pairs, steps=5)
    print(judge(model, pairs, [scores.top(200)]).table())
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.edges import Circuit, EdgeGraph, logits_of, most_tokens, open_edges, outputs, senders_first
from helpers.cluster.patching import PromptPairs
from helpers.interventions import Intervention, add, intervene, resid_pre, unembed_only_at
from helpers.metrics import Metric
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import logits_at_end, path_gradients
from helpers.stats import DRAWS, Interval
from helpers.tables import table


@dataclass(frozen=True)
class EdgeScores:
    """A score for every edge: by how much the metric would change if the edge were cut, so negative where the edge helps the answer."""

    graph: EdgeGraph
    values: Float[Tensor, "edge"]

    @cached_property
    def order(self) -> Int[Tensor, "edge"]:
        """The edges from the largest score to the smallest, whatever the sign."""
        return self.values.abs().argsort(descending=True, stable=True)

    def top(self, n: int) -> Circuit:
        """The circuit of the ``n`` edges with the largest scores, whatever their sign."""
        return self.graph.take(self.order, n)

    def greedy(self, n: int) -> Circuit:
        """A circuit of ``n`` edges grown from the logits: always the largest score among the edges into what is on it (Hanna et al.)."""
        sizes, left = self.graph.matrix(self.values.abs()), self.graph.exists.clone()
        reached = torch.zeros(len(self.graph.receivers), dtype=torch.bool)
        reached[-1] = True
        for _ in range(n):
            best = sizes.masked_fill(~(left & reached[:, None]), -1).argmax()
            receiver, sender = divmod(int(best), len(self.graph.senders))
            left[receiver, sender] = False
            reached |= self.graph.hangs[:, sender] > 0
        return Circuit(self.graph, ~left[self.graph.exists])

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` edges with the largest scores: its name and the estimated change."""
        rows = [(self.graph.edges[at], self.values[at].item()) for at in self.order[:n].tolist()]
        return table({"edge": "<20", "estimate": "+9.4f"}, rows)


def attribute_edges(model: TransformerBridge, pairs: PromptPairs, steps: int = 0) -> EdgeScores:
    """What cutting each edge would do to the metric: (corrupted - clean output of the sender) times the gradient at the receiver.

    Summed over positions, averaged over prompts; one pass forward and one backward for all edges of a batch of prompts, after those that
    record the outputs. ``steps`` above 0 averages the gradients of as many runs whose embeddings lie between the clean and the corrupted
    ones, at the middles of equal steps (the paper takes their ends): so a metric that saturates does not hide an edge. Raises ValueError
    for a metric without a gradient.
    """
    graph, total = EdgeGraph.of(model), 0.0
    for rows in progress(list(pairs.clean.batches(most_tokens(model))), desc="batches"):
        clean, corrupted = (outputs(model, side.take(rows).tokens) for side in (pairs.clean, pairs.corrupted))
        run = partial(_received, model, pairs, rows, corrupted[0] - clean[0])
        gradients = torch.cat([senders_first(gradient) for gradient in path_gradients(run, steps)])
        total = total + gradients.flatten(1) @ (corrupted - clean).flatten(1).T  # [receiver, sender]
    return EdgeScores(graph, (total / len(pairs)).float().cpu()[graph.exists])


@torch.no_grad()
def difference_scores(model: TransformerBridge, pairs: PromptPairs) -> EdgeScores:
    """A rival of ``attribute_edges`` without a gradient: how large the difference is between what the sender writes in both runs."""
    graph, (clean, corrupted) = EdgeGraph.of(model), (outputs(model, side.tokens) for side in (pairs.clean, pairs.corrupted))
    size = (corrupted - clean).norm(dim=-1).sum(-1).mean(1).cpu()  # [sender]
    return EdgeScores(graph, size.expand(graph.exists.shape)[graph.exists])


def _received(
    model: TransformerBridge, pairs: PromptPairs, rows: Int[Tensor, "row"], way: Float[Tensor, "row pos d_model"], fraction: float
) -> tuple[Float[Tensor, "prompt"], list[Float[Tensor, "row pos *receiver d_model"]]]:
    """The metric, and what the receivers read, on some clean prompts whose embeddings are shifted by a fraction of the way."""
    seen: dict[str, Tensor] = {}
    received = [name for name, _ in EdgeGraph.of(model).places()[1]]
    watches = [  # a view of its own for each: what an MLP reads is the very tensor that also stays in the stream
        Intervention(name, lambda values, pick, name=name: seen.setdefault(name, values.view_as(values))) for name in received
    ]
    texts, shift = pairs.clean.take(rows), add(resid_pre(0), (fraction * way).requires_grad_())
    with open_edges(model), intervene(model, shift, *watches, unembed_only_at(texts.lengths[:, None] - 1)):
        logits = model(texts.tokens.to(model.cfg.device))[:, 0]
    every = logits.new_zeros(len(pairs), logits.shape[-1]).index_copy(0, rows.to(logits.device), logits)  # a metric wants all prompts
    values = pairs.measured(every)
    if not values.requires_grad:
        raise ValueError("The metric has no gradient: it must be computed from the logits by differentiable steps, so without argmax.")
    return values, [seen[name] for name in received]


@dataclass(frozen=True)
class Curve:
    """The metric of several circuits on every prompt, and that of the empty circuit and of the model.

    ``edges`` is how many edges each has, ``alive`` how many of them lie on a path from the embedding to the logits; ``same``: is the
    likeliest next word that of the model?
    """

    edges: tuple[int, ...]
    alive: tuple[int, ...]
    n_edges: int
    values: Float[Tensor, "circuit prompt"]
    empty: Float[Tensor, "prompt"]
    model: Float[Tensor, "prompt"]
    same: Bool[Tensor, "circuit prompt"]
    ablation: str

    @property
    def faithfulness(self) -> Float[Tensor, "circuit"]:
        """(m(circuit) - m(empty)) / (m(model) - m(empty)), a ratio of means over the prompts (Marks et al., section 3.2)."""
        return (self.values - self.empty).mean(1) / (self.model - self.empty).mean()

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each, by resampling the prompts (bootstrap of the ratio)."""
        return [ratio_interval(values - self.empty, self.model - self.empty) for values in self.values]

    def table(self) -> str:
        """One line for each circuit: its edges, those alive, the share of all, how often its answer is the model's, faithfulness."""
        rows = zip(self.edges, self.alive, self.same.float().mean(1).tolist(), self.faithfulness.tolist(), self.intervals, strict=True)
        columns = {"edges": "6,", "alive": "6,", "share": "7.1%", "same word": "10.0%", "faithfulness": "13.3f", "  95 % interval": "<"}
        lines = [(n, alive, n / self.n_edges, same, value, f"  [{low:.3f}, {high:.3f}]") for n, alive, same, value, (low, high) in rows]
        head, rest = table(columns, lines).split("\n", 1)
        return f"{head}   ({self.ablation})\n{rest}"


def ratio_interval(over: Float[Tensor, "prompt"], under: Float[Tensor, "prompt"], seed: int = 0, draws: int = DRAWS) -> Interval:
    """The 95 % interval of mean(over) / mean(under) by resampling the prompts, both together (Efron 1979, percentiles)."""
    if len(over) < 2:
        raise ValueError("A single prompt has no interval: measure at least two.")
    rows = np.random.RandomState(seed).randint(len(over), size=(draws, len(over)))
    above, below = over.double().numpy()[rows].mean(1), under.double().numpy()[rows].mean(1)
    value = float(over.double().mean() / under.double().mean())
    kept = below != 0  # of few prompts a draw may have nothing to divide by
    low, high = np.percentile(above[kept] / below[kept], [2.5, 97.5])
    return min(float(low), value), max(float(high), value)


def judge(model: TransformerBridge, pairs: PromptPairs, circuits: Sequence[Circuit], ablation: str = "resample") -> Curve:
    """The faithfulness of several circuits: how much of the metric each keeps, between the empty circuit (0) and the model (1).

    All under the same ablation; values below 0 and above 1 are possible. A circuit is complete if its complement keeps nothing. Raises
    ValueError where there is nothing to keep.
    """
    graph = EdgeGraph.of(model)
    whole, runs = logits_at_end(model, pairs.clean).cpu(), logits_of(model, pairs, [graph.empty, *circuits], ablation)
    full, empty, *values = map(pairs.measured, (whole, *runs))
    if (full - empty).mean().abs() < 1e-6:
        raise ValueError("The metric is the same with all edges and with none, so there is nothing that a circuit could keep.")
    alive = tuple(len(prune_dead(circuit)) for circuit in circuits)
    same = runs[1:].argmax(-1) == whole.argmax(-1)
    return Curve(tuple(map(len, circuits)), alive, len(graph), torch.stack(values), empty, full, same, ablation)


def curve(
    model: TransformerBridge, pairs: PromptPairs, pick: Callable[[int], Circuit], sizes: Sequence[int], ablation: str = "resample"
) -> Curve:
    """Faithfulness against size; ``pick`` gives a circuit of a size, such as ``scores.top`` or ``partial(random_circuit, graph)``."""
    return judge(model, pairs, [pick(size) for size in sizes], ablation)


def prune_dead(circuit: Circuit) -> Circuit:
    """The circuit without edges that lie on no path from the embedding to the logits; under resample ablation they change nothing."""
    graph, matrix = circuit.graph, circuit.graph.matrix(circuit.kept)
    reached = torch.zeros(len(graph.senders), dtype=torch.bool)
    reached[0] = True
    for number, receiver in enumerate(graph.receivers):  # senders in front of a receiver are settled when it is its turn
        reached[graph.owners(receiver)] |= (matrix[number] & reached).any()
    matrix &= reached
    for number, receiver in reversed(list(enumerate(graph.receivers))):
        matrix[number] &= receiver == "logits" or bool(matrix[:, graph.owners(receiver)].any())
    return Circuit(graph, matrix[graph.exists])


def random_circuit(graph: EdgeGraph, n: int, seed: int = 0) -> Circuit:
    """``n`` edges drawn at random, each with the same chance: the control of every circuit. Raises ValueError for too many."""
    return graph.take(torch.randperm(len(graph), generator=torch.Generator().manual_seed(seed)), n)


def in_top(tokens: Int[Tensor, "prompt"], k: int = 10) -> Metric:
    """A metric that is 1 where each prompt's right token is among the ``k`` likeliest next ones, else 0 (Hit@k)."""

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        right = logits[torch.arange(len(logits)), -1, tokens.to(logits.device)]
        return ((logits[:, -1] > right[:, None]).sum(-1) < k).float()

    return metric
