"""Circuits: which edges of a model carry an answer, and whether those that were found do.

Two ways to find them. *Edge attribution patching* (Syed et al. 2023, arXiv 2310.10348, equation 2) estimates from gradients what every
edge does, all at once; with integrated gradients it is EAP-IG (Hanna et al. 2024, arXiv 2403.17806, equation 3). *ACDC* (Conmy et al.
2023, arXiv 2304.14997, algorithm 1) tries every edge and keeps those that are missed. Both show the wrong circuit at times, so judge:
*faithfulness* is how much of the metric a circuit keeps, beside random circuits of its size, and *completeness* how little is left
without it (Marks et al. 2024, arXiv 2403.19647, section 3.2). The answers depend on the ablation: look at more than one.

    scores = attribute_edges(model, both, steps=5)
    print(faithfulness(model, both, scores.top(200)).table())
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.cluster.edges import (
    Ablated,
    Ablation,
    Circuit,
    EdgeGraph,
    Wires,
    ablations,
    attention_biases,
    batches,
    measured,
    most_tokens,
    open_edges,
    outputs,
    run_wires,
    senders_first,
    values_of,
)
from helpers.cluster.patching import PromptPairs
from helpers.interventions import Intervention, add, intervene, record, resid_pre, unembed_only_at
from helpers.metrics import Metric
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.stats import DRAWS, Interval

# ------------------------------------------------------------------------------------------------------------- estimates


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
        _check_size(self.graph, n)
        return Circuit(self.graph, torch.zeros(len(self.graph), dtype=torch.bool).index_fill(0, self.order[:n], True))

    def greedy(self, n: int) -> Circuit:
        """A circuit of ``n`` edges grown from the logits: always the largest score among the edges into what is on it (Hanna et al.)."""
        _check_size(self.graph, n)
        kept, open_ended, reached = torch.zeros(len(self.graph), dtype=torch.bool), [], set()
        into: dict[int, list[tuple[float, int, int]]] = {}
        for number, (receiver, sender) in enumerate(self.graph.exists.nonzero().tolist()):
            into.setdefault(receiver, []).append((-abs(float(self.values[number])), number, sender))

        def reach(receiver: int) -> None:
            if receiver not in reached:
                reached.add(receiver)
                for edge in into[receiver]:
                    heappush(open_ended, edge)

        reach(len(self.graph.receivers) - 1)
        for _ in range(n):
            _, number, sender = heappop(open_ended)
            kept[number] = True
            for receiver in self.graph.inputs[sender]:
                reach(receiver)
        return Circuit(self.graph, kept)

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` edges with the largest scores: its name and the estimated change."""
        lines = [f"{self.graph.edges[at]:<20} {self.values[at]:+9.4f}" for at in self.order[:n].tolist()]
        return "\n".join(["edge                  estimate", *lines])


def _check_size(graph: EdgeGraph, n: int) -> None:
    """Raises ValueError for a number of edges that the graph does not have."""
    if not 0 <= n <= len(graph):
        raise ValueError(f"This graph has {len(graph):,} edges: a circuit cannot have {n:,} of them.")


def attribute_edges(model: TransformerBridge, both: PromptPairs, steps: int = 0) -> EdgeScores:
    """What cutting each edge would do to the metric: (corrupted - clean output of the sender) times the gradient at the receiver.

    Summed over positions, averaged over prompts; one pass forward and one backward for all edges of a batch of prompts, after one that
    records the corrupted outputs. ``steps`` above 0 averages the gradients of as many runs whose embeddings lie between the clean and the
    corrupted ones, at the middles of equal steps (the paper takes their ends): so a metric that saturates does not hide an edge.
    Raises ValueError for a metric without a gradient.
    """
    graph, total = EdgeGraph.of(model), 0.0
    shares = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    for rows in progress(list(batches(model, both.clean, share=0.25)), desc="batches"):
        corrupted = outputs(model, both.corrupted.take(rows).tokens)
        clean = outputs(model, both.clean.take(rows).tokens) if steps else None
        slopes = 0.0
        for share in shares:
            shift = torch.zeros_like(corrupted[0]) if clean is None else share * (corrupted[0] - clean[0])
            written, found = _slopes(model, both, rows, shift)
            slopes = slopes + found / len(shares)
        clean = written if clean is None else clean
        total = total + slopes.flatten(1) @ (corrupted - clean).flatten(1).T  # [receiver, sender]
    return EdgeScores(graph, (total / len(both)).float().cpu()[graph.exists])


def _slopes(
    model: TransformerBridge, both: PromptPairs, rows: Int[Tensor, "row"], shift: Float[Tensor, "row pos d_model"]
) -> tuple[Float[Tensor, "sender row pos d_model"], Float[Tensor, "receiver row pos d_model"]]:
    """What the senders write on some clean prompts, their embeddings shifted, and the metric's gradient at what each receiver reads."""
    seen: dict[str, Tensor] = {}
    sent, received = ([name for name, _ in places] for places in EdgeGraph.of(model).places())
    texts = both.clean.take(rows)
    watches = [  # a view of its own for each: what an MLP reads is the very tensor that also stays in the stream
        Intervention(name, lambda values, pick, name=name: seen.setdefault(name, values.view_as(values))) for name in (*sent, *received)
    ]
    with torch.enable_grad(), open_edges(model):
        with intervene(model, add(resid_pre(0), shift.requires_grad_()), *watches, unembed_only_at(texts.lengths[:, None] - 1)):
            logits = model(texts.tokens.to(model.cfg.device))[:, 0]
        every = logits.new_zeros(len(both), logits.shape[-1]).index_copy(0, rows.to(logits.device), logits)  # a metric wants all prompts
        values = measured(both.metric, every, both.clean)
        if not values.requires_grad:
            raise ValueError("The metric has no gradient: it must be computed from the logits by differentiable steps, so without argmax.")
        slopes = torch.autograd.grad(values.sum(), [seen[name] for name in received])
    return torch.cat([senders_first(seen[name].detach()) for name in sent]), torch.cat([senders_first(slope) for slope in slopes])


# ------------------------------------------------------------------------------------------------------------------ ACDC


@dataclass(frozen=True)
class Pruning:
    """What ACDC kept, and what it removed in this order, with the rise of the distance that each removal cost.

    ``distance`` is that of the circuit from the model: KL divergence in nats, or the drop of the metric.
    """

    circuit: Circuit
    removed: tuple[str, ...]
    rises: Float[Tensor, "removed"]
    distance: float
    tau: float

    def table(self, n: int = 10) -> str:
        """The size of the circuit, its distance from the model, and the ``n`` removals that cost most."""
        costly = self.rises.argsort(descending=True, stable=True)[:n].tolist()
        lines = [f"{self.removed[at]:<20} {self.rises[at]:+9.4f}" for at in costly]
        head = [self.circuit.table(n=0), f"distance from the model: {self.distance:.4f} (tau {self.tau:g})", "removed edge          rise"]
        return "\n".join([*head, *lines])


def acdc(
    model: TransformerBridge, both: PromptPairs, tau: float, ablation: Ablation = "resample", by: str = "kl", tokens: int | None = None
) -> Pruning:
    """Removes every edge whose removal makes the circuit's distance from the model rise by less than ``tau`` (Conmy et al., algorithm 1).

    Receivers are visited from the logits back to the first block, and in each its senders from the last to the embedding. The distance is
    the KL divergence (model || circuit) of the next token, in nats, or for ``by="metric"`` the drop of the metric; a mean over the prompts.
    The result is that of the one-by-one algorithm, and three things make it fast: a pass starts at the receiver's block, since before it
    nothing is removed yet; several removals in a row are tried in one pass of at most ``tokens`` tokens, and hold up to the first that is
    refused; and edges into what no kept edge leaves are removed without a run. All prompts go through the model together.
    """
    if not tau > 0:
        raise ValueError(f"tau says by how much the distance may rise for each removed edge; it must be above 0, not {tau}.")
    if by not in ("kl", "metric"):
        raise ValueError(f"The distance is by 'kl' or by 'metric', not {by!r}.")
    search = _Search(model, both, tau, ablation, by, tokens or most_tokens(model))
    with torch.no_grad(), progress(total=len(search.graph), desc="edges") as bar:
        for receiver in reversed(range(len(search.graph.receivers))):
            search.prune(receiver)
            bar.update(int(search.graph.seen[receiver]))
    circuit = Circuit(search.graph, search.kept[search.graph.exists])
    return Pruning(circuit, tuple(search.removed), torch.tensor(search.rises), search.distance, tau)


class _Search:
    """The state of ACDC: which edges are still there, and how far the circuit is from the model."""

    @torch.no_grad()
    def __init__(self, model: TransformerBridge, both: PromptPairs, tau: float, ablation: Ablation, by: str, tokens: int) -> None:
        self.model, self.both, self.tau, self.by = model, both, tau, by
        self.graph, everyone = EdgeGraph.of(model), torch.arange(len(both))
        self.texts = texts = both.clean.take(everyone)
        self.kept, self.removed, self.rises, self.distance = self.graph.exists.clone(), [], [], 0.0
        self.most = self.at_once = max(1, tokens // texts.tokens.numel())
        self.ablated = Ablated(ablations(model, both, ablation)(everyone), attention_biases(model))
        self.beyond = outputs(model, texts.tokens) - self.ablated.outputs
        places = [resid_pre(layer) for layer in range(self.graph.n_layers)]
        with open_edges(model):
            streams = record(model, texts.tokens.to(model.cfg.device), *places)
        self.streams = [streams[place] for place in places]
        self.model_logits = run_wires(model, texts, Wires(self.graph, self.kept[None], self.ablated))[0]

    def prune(self, receiver: int) -> None:
        """Visits one receiver: removes all its edges that are not missed."""
        todo = list(reversed(range(int(self.graph.seen[receiver]))))
        if not self.graph.live(self.kept)[receiver]:
            self.remove(receiver, todo, [self.distance] * len(todo))
            return
        while todo:
            some = todo[: self.at_once]
            distances = self.distances(receiver, some).tolist()
            before = [self.distance, *distances]
            refused = (at for at, (new, old) in enumerate(zip(distances, before, strict=False)) if new - old >= self.tau)
            taken = next(refused, len(some))
            self.remove(receiver, some[:taken], distances[:taken])
            self.at_once = min(self.most, 2 * len(some)) if taken == len(some) else taken + 1
            todo = todo[taken + 1 if taken < len(some) else taken :]

    def remove(self, receiver: int, senders: list[int], distances: list[float]) -> None:
        """Removes some edges for good; ``distances`` is where the circuit is after each."""
        for sender, distance in zip(senders, distances, strict=True):
            self.kept[receiver, sender] = False
            self.removed.append(f"{self.graph.senders[sender]} -> {self.graph.receivers[receiver]}")
            self.rises.append(distance - self.distance)
            self.distance = distance

    def distances(self, receiver: int, senders: list[int]) -> Float[Tensor, "copy"]:
        """How far the circuit is from the model without the first sender, without the first two, and so on."""
        kept = self.kept.repeat(len(senders), 1, 1)
        for number, sender in enumerate(senders):
            kept[number:, receiver, sender] = False
        layer = min(self.graph.layer(self.graph.receivers[receiver]), self.graph.n_layers - 1)
        fixed = self.beyond[: 1 + (self.graph.n_heads + 1) * layer]
        logits = run_wires(self.model, self.texts, Wires(self.graph, kept, self.ablated, fixed), self.streams[layer], layer)
        if self.by == "metric":
            values = [measured(self.both.metric, copy, self.both.clean).mean() for copy in (self.model_logits, *logits)]
            return values[0] - torch.stack(values[1:])
        right, own = self.model_logits.log_softmax(-1), logits.log_softmax(-1)
        return (right.exp() * (right - own)).sum(-1).mean(-1)


# --------------------------------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class Curve:
    """The metric of several circuits on every prompt, and that of the empty circuit and of the model.

    ``edges`` is how many edges each has, ``alive`` how many of them lie on a path from the embedding to the logits.
    """

    edges: tuple[int, ...]
    alive: tuple[int, ...]
    n_edges: int
    values: Float[Tensor, "circuit prompt"]
    empty: Float[Tensor, "prompt"]
    model: Float[Tensor, "prompt"]
    ablation: str

    @property
    def shares(self) -> Float[Tensor, "circuit prompt"]:
        """What each circuit keeps on each prompt, as a share of the mean that there is to keep; its means are the faithfulness."""
        return (self.values - self.empty) / _gap(self.model, self.empty)

    @property
    def faithfulness(self) -> Float[Tensor, "circuit"]:
        """(m(circuit) - m(empty)) / (m(model) - m(empty)), a ratio of means over the prompts (Marks et al., section 3.2)."""
        return self.shares.mean(1)

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each, by resampling the prompts (bootstrap of the ratio). Raises ValueError if nothing could be kept."""
        _gap(self.model, self.empty)
        return [ratio_interval(values - self.empty, self.model - self.empty) for values in self.values]

    def smallest(self, wanted: float = 0.85) -> int:
        """How many edges the smallest circuit has that is at least so faithful. Raises ValueError where none is."""
        sizes = [size for size, value in zip(self.edges, self.faithfulness.tolist(), strict=True) if value >= wanted]
        if not sizes:
            raise ValueError(f"None of these circuits reaches a faithfulness of {wanted:g}: the best has {self.faithfulness.max():.2f}.")
        return min(sizes)

    def table(self) -> str:
        """One line for each circuit: its edges, those alive, the share of all, faithfulness with its interval."""
        rows = zip(self.edges, self.alive, self.faithfulness.tolist(), self.intervals, strict=True)
        lines = [
            f"{n:6,} {alive:6,} {n / self.n_edges:7.1%} {value:13.3f}   [{low:.3f}, {high:.3f}]" for n, alive, value, (low, high) in rows
        ]
        return "\n".join([f" edges  alive   share  faithfulness   95 % interval   ({self.ablation})", *lines])


def _gap(model: Float[Tensor, "prompt"], empty: Float[Tensor, "prompt"]) -> Float[Tensor, ""]:
    """How much of the metric there is to explain. Raises ValueError where there is nothing."""
    gap = (model - empty).mean()
    if gap.abs() < 1e-6:
        raise ValueError("The metric is the same with all edges and with none, so there is nothing that a circuit could keep.")
    return gap


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


def judge(model: TransformerBridge, both: PromptPairs, circuits: Sequence[Circuit], ablation: Ablation = "resample") -> Curve:
    """The faithfulness of several circuits, measured beside the empty one and the model under the same ablation."""
    graph = EdgeGraph.of(model)
    values = values_of(model, both, [graph.empty, graph.full, *circuits], ablation)
    alive = tuple(len(prune_dead(circuit)) for circuit in circuits)
    kind = ablation if isinstance(ablation, str) else "mean"
    return Curve(tuple(map(len, circuits)), alive, len(graph), values[2:], values[0], values[1], kind)


def faithfulness(model: TransformerBridge, both: PromptPairs, circuit: Circuit, ablation: Ablation = "resample") -> Curve:
    """How much of the metric a circuit keeps: 0 like the empty circuit, 1 like the model; below and above both are possible."""
    return judge(model, both, [circuit], ablation)


def completeness(model: TransformerBridge, both: PromptPairs, circuit: Circuit, ablation: Ablation = "resample") -> Curve:
    """The faithfulness of all the other edges: near 0 where the circuit has everything that matters (Marks et al., section 3.2)."""
    return judge(model, both, [circuit.complement], ablation)


def curve(
    model: TransformerBridge, both: PromptPairs, pick: Callable[[int], Circuit], sizes: Sequence[int], ablation: Ablation = "resample"
) -> Curve:
    """Faithfulness against size; ``pick`` gives a circuit of a size, such as ``scores.top`` or ``partial(random_circuit, graph)``."""
    return judge(model, both, [pick(size) for size in sizes], ablation)


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
    """``n`` edges drawn at random, each with the same chance: the first control of every circuit. Raises ValueError for too many."""
    if not 0 <= n <= len(graph):
        raise ValueError(f"This graph has {len(graph):,} edges, and {n:,} cannot be drawn from them.")
    drawn = torch.randperm(len(graph), generator=torch.Generator().manual_seed(seed))[:n]
    return Circuit(graph, torch.zeros(len(graph), dtype=torch.bool).index_fill(0, drawn, True))


def random_like(circuit: Circuit, seed: int = 0) -> Circuit:
    """Edges drawn at random, as many as a circuit has into each kind of receiver (q, k, v, MLPs, logits): a stricter control."""
    graph, rng = circuit.graph, torch.Generator().manual_seed(seed)
    kinds = torch.tensor(["qkvml".index(name[-1] if name[0] == "a" else name[0]) for name in graph.receivers])
    kinds = kinds[graph.exists.nonzero()[:, 0]]
    kept = torch.zeros(len(graph), dtype=torch.bool)
    for kind in range(5):
        own = (kinds == kind).nonzero().flatten()
        kept[own[torch.randperm(len(own), generator=rng)[: int(circuit.kept[own].sum())]]] = True
    return Circuit(graph, kept)


def in_top(tokens: Int[Tensor, "prompt"], k: int = 10) -> Metric:
    """A metric that is 1 where each prompt's right token is among the ``k`` likeliest next ones, else 0 (Hit@k)."""

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        right = logits[torch.arange(len(logits)), -1, tokens.to(logits.device)]
        return ((logits[:, -1] > right[:, None]).sum(-1) < k).float()

    return metric
