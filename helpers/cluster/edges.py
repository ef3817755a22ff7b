"""The model as a graph of edges, and what it does when some of them are cut.

The residual stream is a sum, so whatever reads it, reads every earlier writer through a wire of its own (Elhage et al. 2021). *Senders*
write: the embedding (token and position, ``embed``), every head (``a3.2``) and every MLP (``m3``). *Receivers* read: the query, key and
value of every head (``a7.1.q``, ``.k``, ``.v``), every MLP, and the final norm (``logits``). An *edge* such as ``a3.2 -> a7.1.q`` runs
from a sender to a later receiver; a *circuit* is a set of edges that are kept. Biases of attention are no senders and always stay.

To cut an edge, the receiver gets the sender's *ablated* output in place of its current one, position by position: the output on the
corrupted prompt (``"resample"``), its mean over the corrupted prompts (``"mean"``), or ``"zero"``.
A single edge cut with resample is path patching (Wang et al. 2022, arXiv 2211.00593, section 3.1).

    pairs = prompt_pairs(model, clean, corrupted, log_odds(right, wrong))
    graph = EdgeGraph.of(model)
    values = circuit_metrics(model, pairs, [graph.circuit(["embed -> m0", "m0 -> logits"])])
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate, chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.patching import PromptPairs, metric_at_ends
from helpers.inputs import chosen
from helpers.interventions import Intervention, add, intervene, mlp_out, record, resid_post, resid_pre, unembed_only_at
from helpers.metrics import Metric
from helpers.models import TransformerBridge, run_from
from helpers.progress import progress
from helpers.texts import Texts

RUN_TOKENS = 2048  # tokens in one forward pass of a circuit
RUN_BYTES = 2**26  # what the senders of such a pass may hold
ABLATIONS = ("resample", "mean", "zero")

# -------------------------------------------------------------------------------------------------------------- the graph


@dataclass(frozen=True)
class EdgeGraph:
    """All edges of a model, in the order of their receivers, and of the senders to each.

    ``n_kv_heads``: heads that share a key and a value have one receiver for it. ``parallel``: the MLP of a block does not read its heads.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool

    @classmethod
    def of(cls, model: TransformerBridge) -> "EdgeGraph":
        """The graph of a model. Raises ValueError for a family whose stream is no plain sum of senders, or has no place to cut edges."""
        needed = ["blocks.0.hook_q_input", "blocks.0.hook_mlp_in", "blocks.0.attn.hook_result"]
        block, cfg = model.blocks[0], model.cfg
        if hasattr(block, "ln1_post") or not hasattr(block, "ln2") or not all(hook in model.hook_dict for hook in needed):
            why = "its blocks norm what they write, or have no norm of their own for the MLP"
            raise ValueError(f"Edges cannot be cut in this model: {why}.")
        n_kv_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
        return cls(cfg.n_layers, cfg.n_heads, n_kv_heads, bool(getattr(cfg, "parallel_attn_mlp", False)))

    @property
    def parts(self) -> dict[str, int]:
        """How many queries, keys and values each block has."""
        return {"q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads}

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """The names of the senders, from the embedding to the last MLP."""
        blocks = [[*(f"a{layer}.{head}" for head in range(self.n_heads)), f"m{layer}"] for layer in range(self.n_layers)]
        return ("embed", *chain.from_iterable(blocks))

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """The names of the receivers, from the queries of the first block to the logits."""
        parts = [(head, part) for part, n in self.parts.items() for head in range(n)]
        blocks = [[*(f"a{layer}.{head}.{part}" for head, part in parts), f"m{layer}"] for layer in range(self.n_layers)]
        return (*chain.from_iterable(blocks), "logits")

    @cached_property
    def seen(self) -> Int[Tensor, "receiver"]:
        """How many senders each receiver reads: always the first so many."""
        inside = [self.n_heads if name.startswith("m") and not self.parallel else 0 for name in self.receivers]
        return torch.tensor([self.before(self.layer(name)) + own for name, own in zip(self.receivers, inside, strict=True)])

    @cached_property
    def exists(self) -> Bool[Tensor, "receiver sender"]:
        """Which sender each receiver reads; row by row, these are the edges."""
        return torch.arange(len(self.senders)) < self.seen[:, None]

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """The names of all edges."""
        return tuple(f"{self.senders[sender]} -> {self.receivers[receiver]}" for receiver, sender in self.exists.nonzero().tolist())

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each edge by its name."""
        return {name: number for number, name in enumerate(self.edges)}

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.seen.sum())

    def layer(self, name: str) -> int:
        """The layer of a sender or receiver: -1 for the embedding, the number of layers for the logits."""
        return {"embed": -1, "logits": self.n_layers}[name] if name in ("embed", "logits") else int(name[1:].split(".")[0])

    def before(self, layer: int) -> int:
        """How many senders stand before a layer."""
        return 1 + (self.n_heads + 1) * layer

    def owners(self, receiver: str) -> slice:
        """The senders that hang on a receiver: a head on its query, several where they share a key; none on the logits."""
        if receiver == "logits":
            return slice(0, 0)
        start = self.before(self.layer(receiver))
        if receiver.startswith("m"):
            return slice(start + self.n_heads, start + self.n_heads + 1)
        _, head, part = receiver.split(".")
        share = self.n_heads // self.parts[part]
        return slice(start + int(head) * share, start + (int(head) + 1) * share)

    @cached_property
    def hangs(self) -> Float[Tensor, "receiver sender"]:
        """1 where a sender hangs on a receiver (a head on its query, key and value, an MLP on its input), else 0."""
        hangs = torch.zeros(self.exists.shape)
        for row, receiver in zip(hangs, self.receivers, strict=True):
            row[self.owners(receiver)] = 1
        return hangs

    def matrix(self, edges: Tensor) -> Tensor:
        """Values of the edges ``[..., edge]`` as ``[..., receiver, sender]``, 0 where there is no edge."""
        full = edges.new_zeros(*edges.shape[:-1], *self.exists.shape)
        full[..., self.exists] = edges
        return full

    @property
    def full(self) -> "Circuit":
        """The circuit of all edges: the model itself."""
        return Circuit(self, torch.ones(len(self), dtype=torch.bool))

    @property
    def empty(self) -> "Circuit":
        """The circuit without edges."""
        return Circuit(self, torch.zeros(len(self), dtype=torch.bool))

    def take(self, order: Int[Tensor, "edge"], n: int) -> "Circuit":
        """The circuit of the first ``n`` edges of an order. Raises ValueError for a number of edges that the graph does not have."""
        if not 0 <= n <= len(self):
            raise ValueError(f"This graph has {len(self):,} edges: a circuit cannot have {n:,} of them.")
        return Circuit(self, torch.zeros(len(self), dtype=torch.bool).index_fill(0, order[:n], True))

    def circuit(self, names: Iterable[str]) -> "Circuit":
        """The circuit of the edges with these names. Raises ValueError for a name that no edge has."""
        kept = torch.zeros(len(self), dtype=torch.bool)
        for name in [names] if isinstance(names, str) else names:
            if name not in self.numbers:
                raise ValueError(f"There is no edge {name!r}: edges run to later places and are named like {self.edges[-1]!r}.")
            kept[self.numbers[name]] = True
        return Circuit(self, kept)

    def places(self) -> tuple[list[tuple[str, slice]], list[tuple[str, slice]]]:
        """Where senders and receivers are found: hook points, and which of the senders or receivers pass there."""
        sent, received = [(resid_pre(0), 1)], []  # each place with the number of those that pass there
        for layer in range(self.n_layers):
            sent += [(f"blocks.{layer}.attn.hook_result", self.n_heads), (mlp_out(layer), 1)]
            received += [(f"blocks.{layer}.hook_{part}_input", n) for part, n in self.parts.items()]
            received += [(f"blocks.{layer}.hook_mlp_in", 1)]
        return _numbered(sent), _numbered([*received, (resid_post(self.n_layers - 1), 1)])


def _numbered(places: Sequence[tuple[str, int]]) -> list[tuple[str, slice]]:
    """Each place with the numbers of those that pass there, one after the other."""
    ends = accumulate(n for _, n in places)
    return [(hook, slice(end - n, end)) for (hook, n), end in zip(places, ends, strict=True)]


# ------------------------------------------------------------------------------------------------------------- circuits


@dataclass(frozen=True)
class Circuit:
    """A set of edges: those that are kept."""

    graph: EdgeGraph
    kept: Bool[Tensor, "edge"]

    def __len__(self) -> int:
        """How many edges are kept."""
        return int(self.kept.sum())

    @property
    def share(self) -> float:
        """The share of the graph's edges that are kept."""
        return len(self) / len(self.graph)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the kept edges."""
        return tuple(self.graph.edges[number] for number in self.kept.nonzero().flatten().tolist())

    @property
    def complement(self) -> "Circuit":
        """The circuit of all the other edges."""
        return Circuit(self.graph, ~self.kept)


# ------------------------------------------------------------------------------------------------------ what senders write


@contextmanager
def open_edges(model: TransformerBridge) -> Iterator[TransformerBridge]:
    """Inside, the model has separate inputs for the query, key and value of each head, and separate outputs of heads; then as before."""
    switches = ("use_split_qkv_input", "use_hook_mlp_in", "use_attn_result")
    before = {name: bool(getattr(model.cfg, name, False)) for name in switches}
    try:
        for name in switches:
            getattr(model, f"set_{name}")(True)
        yield model
    finally:
        for name, value in before.items():
            getattr(model, f"set_{name}")(value)


def senders_first(values: Float[Tensor, "row pos *rest"]) -> Float[Tensor, "sender row pos d_model"]:
    """What passes one place, with one axis in front: its senders or receivers."""
    return values[None] if values.ndim == 3 else values.permute(2, 0, 1, 3)


@torch.no_grad()
def outputs(model: TransformerBridge, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "sender row pos d_model"]:
    """What every sender writes; with the biases of attention, the stream is their sum."""
    names = [name for name, _ in EdgeGraph.of(model).places()[0]]
    with open_edges(model):
        seen = record(model, tokens.to(model.cfg.device), *names)
    return torch.cat([senders_first(seen[name]) for name in names])


def sender_means(model: TransformerBridge, texts: Texts) -> Float[Tensor, "sender pos d_model"]:
    """The mean output of every sender at each position over some prompts, best of one template, so that positions correspond.

    A position counts the prompts that reach it.
    """
    total, count = torch.zeros(1, device=model.cfg.device), torch.zeros(texts.tokens.shape[1])
    for rows in texts.batches(most_tokens(model)):
        real = (torch.arange(texts.tokens.shape[1]) < texts.lengths[rows, None]).float()
        written = outputs(model, texts.tokens[rows])
        total = total + torch.einsum("srpd,rp->spd", written, real.to(written))
        count += real.sum(0)
    return total / count.to(total.device)[:, None]


def most_tokens(model: TransformerBridge) -> int:
    """How many tokens one pass may have."""
    return min(RUN_TOKENS, max(1, RUN_BYTES // (4 * model.cfg.d_model * len(EdgeGraph.of(model).senders))))


def ablations(model: TransformerBridge, pairs: PromptPairs, kind: str) -> Callable[[Tensor], Float[Tensor, "sender row pos d_model"]]:
    """What cut edges carry, as a function of some rows of the prompts. Raises ValueError for an unknown kind."""
    chosen(ABLATIONS, kind, "ablation")
    if kind == "resample":
        return lambda rows: outputs(model, pairs.corrupted.take(rows).tokens)
    means = sender_means(model, pairs.corrupted) * (kind == "mean")
    return lambda rows: means[:, None, : int(pairs.clean.lengths[rows].max())].expand(-1, len(rows), -1, -1)


# --------------------------------------------------------------------------------------------------- running circuits


@torch.no_grad()
def logits_of(
    model: TransformerBridge, pairs: PromptPairs, circuits: Sequence[Circuit], ablation: str = "resample"
) -> Float[Tensor, "circuit prompt d_vocab"]:
    """The logits after each clean prompt in each circuit; on the CPU."""
    graph, ablated = EdgeGraph.of(model), ablations(model, pairs, ablation)
    if not circuits:
        raise ValueError("There is no circuit to run: give at least one, such as EdgeGraph.of(model).full.")
    if any(circuit.graph != graph for circuit in circuits):
        raise ValueError("This circuit belongs to a model of another shape: build it from EdgeGraph.of(model).")
    found = torch.empty(len(circuits), len(pairs), model.cfg.d_vocab)
    for rows in progress(list(pairs.clean.batches(most_tokens(model))), desc="batches"):
        values = ablated(rows)
        for at, circuit in enumerate(circuits):
            found[at, rows] = run_wires(model, pairs.clean.take(rows), circuit, values)
    return found


def run_wires(
    model: TransformerBridge, texts: Texts, circuit: Circuit, ablated: Float[Tensor, "sender row pos d_model"]
) -> Float[Tensor, "row d_vocab"]:
    """The logits after each text when all edges outside a circuit are cut.

    Senders leave in ``beyond`` what they write beyond their ablated output, and in ``totals`` the sum of the first so many; a receiver
    loses that sum, and gets back what comes to it by the edges that are kept.
    """
    graph, kept = circuit.graph, circuit.graph.matrix(circuit.kept)
    beyond, totals = torch.empty_like(ablated), {0: ablated.new_zeros(ablated.shape[1:])}

    def leave(which: slice, values: Tensor, pick: object) -> Tensor:
        beyond[which] = senders_first(values) - ablated[which]
        totals[which.stop] = totals[which.start] + beyond[which].sum(0)
        return values

    def read(which: slice, values: Tensor, pick: object) -> Tensor:
        n = int(graph.seen[which.start])
        own = kept[which, :n]
        some = own.any(0)
        back = own[:, some].to(beyond) @ beyond[:n][some.to(beyond.device)].flatten(1)
        lost = totals[n] - back.unflatten(1, totals[n].shape)  # [receiver, row, pos, d_model]
        return values - (lost[0] if values.ndim == 3 else lost.permute(1, 2, 0, 3))

    sent, received = graph.places()
    changes = [Intervention(hook, partial(do, which)) for places, do in ((sent, leave), (received, read)) for hook, which in places]
    with open_edges(model), intervene(model, *changes, unembed_only_at(texts.lengths[:, None] - 1)):
        return model(texts.tokens.to(model.cfg.device))[:, 0].float().cpu()


def circuit_metrics(
    model: TransformerBridge, pairs: PromptPairs, circuits: Sequence[Circuit], ablation: str = "resample", metric: Metric | None = None
) -> Float[Tensor, "circuit prompt"]:
    """The metric of each circuit on each clean prompt; that of the runs, or another one."""
    asked = replace(pairs, metric=metric or pairs.metric)
    return torch.stack([asked.measured(logits) for logits in logits_of(model, pairs, circuits, ablation)])


@torch.no_grad()
def cut_each(model: TransformerBridge, pairs: PromptPairs, edges: Sequence[str]) -> Float[Tensor, "edge prompt"]:
    """By how much the metric changes when each edge by itself is cut, exactly: a run for each, from the receiver's layer on.

    The receiver reads the sender's corrupted output in place of the clean one (path patching). Raises ValueError for an unknown edge.
    """
    graph, layers, found = EdgeGraph.of(model), range(model.cfg.n_layers), []
    graph.circuit(edges)  # a look at the names
    clean, corrupted = (outputs(model, side.tokens) for side in (pairs.clean, pairs.corrupted))
    streams = record(model, pairs.clean.tokens.to(model.cfg.device), *map(resid_pre, layers))
    places = {graph.receivers[at]: (hook, at - which.start) for hook, which in graph.places()[1] for at in range(which.start, which.stop)}
    for sender, receiver in (edge.split(" -> ") for edge in progress(edges, desc="edges")):
        (hook, head), at = places[receiver], graph.senders.index(sender)
        lost, layer = corrupted[at] - clean[at], min(graph.layer(receiver), layers[-1])
        change = add(hook, lost[:, :, None], head=head) if receiver.count(".") == 2 else add(hook, lost)
        with open_edges(model), intervene(model, change, unembed_only_at(pairs.ends[:, None])):
            found.append(pairs.measured(run_from(model, streams[resid_pre(layer)], layer)[:, 0]).cpu())
    return torch.stack(found) - metric_at_ends(model, pairs)
