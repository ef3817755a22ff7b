"""The model as a graph of edges, and what it does when some of them are cut.

The residual stream is a sum, so whatever reads it, reads every earlier writer through a wire of its own (Elhage et al. 2021). *Senders*
write: the embedding (token and position, ``embed``), every head (``a3.2``) and every MLP (``m3``). *Receivers* read: the query, key and
value of every head (``a7.1.q``, ``.k``, ``.v``), every MLP, and the final norm (``logits``). An *edge* such as ``a3.2 -> a7.1.q`` runs
from a sender to a later receiver; a *circuit* is a set of edges that are kept. Biases of attention are no senders and always stay.

To cut an edge, the receiver gets the sender's *ablated* output in place of its current one, position by position: the output on the
corrupted prompt (``"resample"``), its mean over other prompts (``"mean"``, or means of your own from ``sender_means``), or ``"zero"``.
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

from helpers.cluster.patching import PromptPairs
from helpers.interventions import Intervention, intervene, mlp_out, record, resid_post, resid_pre, unembed_only_at
from helpers.metrics import Metric
from helpers.models import TransformerBridge, run_from
from helpers.progress import progress
from helpers.texts import Texts, TextsLike, as_texts

RUN_TOKENS = 2048  # tokens in one forward pass over circuits side by side
RUN_BYTES = 2**28  # what the senders of such a pass may hold
ABLATIONS = ("resample", "mean", "zero")
Ablation = str | Float[Tensor, "sender pos d_model"]

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

    def live(self, kept: Bool[Tensor, "*copy receiver sender"]) -> Bool[Tensor, "*copy receiver"]:
        """Which receivers matter: those on whose node a kept edge begins, and the logits."""
        sends = kept.any(-2).float() @ self.hangs.T > 0
        sends[..., -1] = True
        return sends

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


def sender_means(model: TransformerBridge, prompts: TextsLike) -> Float[Tensor, "sender pos d_model"]:
    """The mean output of every sender at each position over some prompts, best of one template, so that positions correspond.

    A position counts the prompts that reach it.
    """
    texts = as_texts(model, prompts)
    total, count = torch.zeros(1, device=model.cfg.device), torch.zeros(texts.tokens.shape[1])
    for rows in texts.batches(most_tokens(model)):
        real = (torch.arange(texts.tokens.shape[1]) < texts.lengths[rows, None]).float()
        written = outputs(model, texts.tokens[rows])
        total = total + torch.einsum("srpd,rp->spd", written, real.to(written))
        count += real.sum(0)
    return total / count.to(total.device)[:, None]


def most_tokens(model: TransformerBridge) -> int:
    """How many tokens one pass may have, all copies of the prompts together."""
    return min(RUN_TOKENS, max(1, RUN_BYTES // (4 * model.cfg.d_model * len(EdgeGraph.of(model).senders))))


def ablations(
    model: TransformerBridge, pairs: PromptPairs, ablation: Ablation
) -> Callable[[Tensor], Float[Tensor, "sender row pos d_model"]]:
    """What cut edges carry, as a function of some rows of the prompts. Raises ValueError for an unknown kind, or means too short."""
    n_senders, width = len(EdgeGraph.of(model).senders), model.cfg.d_model
    if ablation == "resample":
        return lambda rows: outputs(model, pairs.corrupted.take(rows).tokens)
    if ablation == "zero":
        return lambda rows: torch.zeros(n_senders, len(rows), int(pairs.clean.lengths[rows].max()), width, device=model.cfg.device)
    if ablation == "mean":
        ablation = sender_means(model, pairs.corrupted)
    if isinstance(ablation, str):
        raise ValueError(f"There is no ablation {ablation!r}: it is 'resample', 'mean' or 'zero', or means from sender_means.")
    longest = int(pairs.clean.lengths.max())
    if ablation.shape[0] != n_senders or ablation.shape[2] != width or ablation.shape[1] < longest:
        needed, got = [n_senders, longest, width], list(ablation.shape)
        raise ValueError(f"Means must be [sender, pos, d_model], {needed} for these prompts, and these are {got}: see sender_means.")
    means = ablation.to(model.cfg.device)
    return lambda rows: means[:, None, : int(pairs.clean.lengths[rows].max())].expand(-1, len(rows), -1, -1)


# --------------------------------------------------------------------------------------------------- running circuits


@torch.no_grad()
def logits_of(
    model: TransformerBridge, pairs: PromptPairs, circuits: Sequence[Circuit], ablation: Ablation = "resample"
) -> Iterator[Float[Tensor, "prompt d_vocab"]]:
    """The logits after each clean prompt, circuit by circuit, on the CPU; many circuits share a forward pass."""
    graph = EdgeGraph.of(model)
    if not circuits:
        raise ValueError("There is no circuit to run: give at least one, such as EdgeGraph.of(model).full.")
    if any(circuit.graph != graph for circuit in circuits):
        raise ValueError("This circuit belongs to a model of another shape: build it from EdgeGraph.of(model).")
    ablated, parts = ablations(model, pairs, ablation), list(pairs.clean.batches(most_tokens(model)))
    held = [ablated(rows) for rows in parts]
    copies = max(1, most_tokens(model) // max(len(rows) * int(pairs.clean.lengths[rows].max()) for rows in parts))
    for start in progress(range(0, len(circuits), copies), desc="circuits"):
        some = torch.stack([circuit.kept for circuit in circuits[start : start + copies]])
        found = torch.empty(len(some), len(pairs), model.cfg.d_vocab)
        for rows, values in zip(parts, held, strict=True):
            found[:, rows] = run_wires(model, graph, pairs.clean.take(rows), graph.matrix(some), values)
        yield from found


def run_wires(
    model: TransformerBridge,
    graph: EdgeGraph,
    texts: Texts,
    kept: Bool[Tensor, "copy receiver sender"],
    ablated: Float[Tensor, "sender row pos d_model"],
    layer: int = 0,
    stream: Float[Tensor, "row pos d_model"] | None = None,
    before: Float[Tensor, "early row pos d_model"] | None = None,
) -> Float[Tensor, "copy row d_vocab"]:
    """The logits after each text in each copy of them, side by side in one forward pass; each copy has edges of its own kept.

    Senders leave in ``beyond`` what they write beyond their ablated output; a receiver loses that of the cut edges. What enters a node that
    no kept edge leaves is left alone, since it does not matter. A pass from a later ``layer`` needs the stream that enters it, and what the
    senders before it write beyond.
    """
    copies = len(kept)
    beyond = ablated.new_zeros(copies, *ablated.shape)
    if before is not None:
        beyond[:, : len(before)] = before
    cut = graph.exists & ~kept & graph.live(kept)[..., None]

    def leave(which: slice, values: Tensor, pick: object) -> Tensor:
        written = senders_first(values).unflatten(1, (copies, -1)).transpose(0, 1)  # [copy, sender, row, pos, d_model]
        beyond[:, which] = written - ablated[which]
        return values

    def read(which: slice, values: Tensor, pick: object) -> Tensor:
        edges = cut[:, which, : int(graph.seen[which.start])].to(beyond)
        lost = torch.bmm(edges, beyond[:, : edges.shape[2]].flatten(2)).unflatten(2, beyond.shape[2:])
        lost = lost.transpose(1, 2).flatten(0, 1)  # [batch, receiver, pos, d_model]
        return values - (lost[:, 0] if values.ndim == 3 else lost.transpose(1, 2))

    sent, received = graph.places()
    late = [(hook, which) for hook, which in sent if stream is None or graph.layer(graph.senders[which.start]) >= layer]
    changes = [Intervention(hook, partial(leave, which)) for hook, which in late]
    changes += [Intervention(hook, partial(read, which)) for hook, which in received if bool(cut[:, which].any())]
    with open_edges(model), intervene(model, *changes, unembed_only_at((texts.lengths[:, None] - 1).repeat(copies, 1))):
        if stream is None:
            logits = model(texts.tokens.repeat(copies, 1).to(model.cfg.device))
        else:
            logits = run_from(model, stream.repeat(copies, 1, 1), layer)
    return logits[:, 0].unflatten(0, (copies, -1)).float().cpu()


def circuit_metrics(
    model: TransformerBridge, pairs: PromptPairs, circuits: Sequence[Circuit], ablation: Ablation = "resample", metric: Metric | None = None
) -> Float[Tensor, "circuit prompt"]:
    """The metric of each circuit on each clean prompt; that of the runs, or another one."""
    asked = replace(pairs, metric=metric or pairs.metric)
    return torch.stack([asked.measured(logits) for logits in logits_of(model, pairs, circuits, ablation)])


def cut_each(model: TransformerBridge, pairs: PromptPairs, edges: Sequence[str]) -> Float[Tensor, "edge prompt"]:
    """By how much the metric changes when each edge by itself is cut: exact, and one run for each, many of them in a pass."""
    graph = EdgeGraph.of(model)
    values = circuit_metrics(model, pairs, [graph.full, *(graph.circuit([edge]).complement for edge in edges)])
    return values[1:] - values[0]
