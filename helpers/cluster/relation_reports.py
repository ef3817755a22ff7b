"""How faithful a linear relation is, relation by relation, and whether it can be used to edit the model.

Hernandez et al. 2024 (arXiv 2308.09124): a map is judged by the MODEL's own first token, never by the truth (section 4.1), on subjects
that were neither used to fit it nor to choose its layer and its factor ``beta``. Turned round, it says what to add to ``s`` so that the
model gives another answer (section 4.2).

    print(compare_to_baselines(model, parts, fit_lre(model, parts.train, layer=3, beta=2.0)).table())
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import mode

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.linear_relations import (
    LinearRelation,
    RelationStates,
    fit_lre_layers,
    identity,
    most_likely,
    regression,
    relation_states,
    translation,
)
from helpers.cluster.relations import N_TRAIN, Parts, RelationData, known_rows, split
from helpers.inputs import chosen
from helpers.interventions import add
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import layer_hook, next_tokens, random_like, read_lens
from helpers.stats import wilson
from helpers.tables import table

BETAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # the authors' own choices lie between 2.25 and 8
RANKS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class BaselineComparison:
    """The agreement of several methods with the model, subject by subject."""

    relation: str
    layer: int
    beta: float
    methods: tuple[str, ...]
    hits: Bool[Tensor, "method subject"]

    def of(self, method: str) -> Bool[Tensor, "subject"]:
        """The hits of one method. Raises ValueError for one that was not compared."""
        return self.hits[self.methods.index(chosen(self.methods, method, "method"))]

    @property
    def shares(self) -> dict[str, float]:
        """The share of subjects on which each method agrees with the model."""
        return dict(zip(self.methods, self.hits.float().mean(1).tolist(), strict=True))

    def table(self) -> str:
        """One line for each method: the share and its 95 % interval (Wilson)."""
        lines = [f"{self.relation}, layer {self.layer}, beta {self.beta:g}, {self.hits.shape[1]} subjects"]
        for method, row in zip(self.methods, self.hits, strict=True):
            low, high = wilson(int(row.sum()), len(row))
            lines.append(f"{method:<{max(map(len, self.methods))}}  {row.float().mean():6.1%}  [{low:.1%}, {high:.1%}]")
        return "\n".join(lines)


def compare_to_baselines(model: TransformerBridge, parts: Parts, lre: LinearRelation) -> BaselineComparison:
    """A map that was fitted on the training subjects beside its baselines, all judged on the test subjects.

    Baselines are the identity, a translation, a regression on the same subjects and one on those for choosing too, and two constant
    answers: the model's most frequent one among the training subjects, and even among the test subjects.
    """
    more = replace(parts.train, subjects=parts.train.subjects + parts.choose.subjects, objects=parts.train.objects + parts.choose.objects)
    train, larger, test = (relation_states(model, data, [lre.layer]) for data in (parts.train, more, parts.test))
    fitted = {one.kind: one for one in (lre, *(method(train, lre.layer) for method in (identity, translation, regression)))}
    fitted[f"regression ({len(more)})"] = regression(larger, lre.layer)
    hits = {kind: most_likely(model, one(test.s[0])) == test.token for kind, one in fitted.items()}
    constant = {"most frequent": train, "most frequent in test": test}
    hits |= {kind: test.token == mode(states.token.tolist()) for kind, states in constant.items()}
    return BaselineComparison(lre.relation, lre.layer, lre.beta, tuple(hits), torch.stack([*hits.values()]))


@dataclass(frozen=True)
class LreSweep:
    """Agreement with the model for each layer and factor, and the log-probability of the model's token (nats), which breaks ties."""

    maps: tuple[LinearRelation, ...]
    betas: tuple[float, ...]
    hits: Bool[Tensor, "layer beta subject"]
    log_prob: Float[Tensor, "layer beta"]

    @property
    def share(self) -> Float[Tensor, "layer beta"]:
        """The share of subjects on which the map agrees with the model."""
        return self.hits.float().mean(-1)

    @property
    def best(self) -> LinearRelation:
        """The map of the layer and factor with the highest agreement; of several, the one that is surest of the model's token.

        Differences below a hundredth of a nat are none: then the first layer and factor is taken, on every machine the same.
        """
        top = self.log_prob.mul(100).round().masked_fill(self.share < self.share.max(), -torch.inf)
        layer, beta = divmod(int(top.argmax()), len(self.betas))
        return replace(self.maps[layer], beta=self.betas[beta])

    def table(self) -> str:
        """One line for each layer, a column for each factor."""
        rows = [(one.layer, *row) for one, row in zip(self.maps, self.share.tolist(), strict=True)]
        return table({"layer": "5"} | {f"{beta:g}": "6.0%" for beta in self.betas}, rows)


def sweep_lre(model: TransformerBridge, parts: Parts, layers: Sequence[int] | None = None, betas: Sequence[float] = BETAS) -> LreSweep:
    """Fits every layer on the training subjects, and tries each with every factor on those for choosing.

    Raises ValueError where there is no layer or no factor.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    if not len(layers) or not len(betas):
        raise ValueError("There is nothing to try: give at least one layer and one beta.")
    maps, states = fit_lre_layers(model, parts.train, layers), relation_states(model, parts.choose, layers)
    tried = torch.stack([replace(one, beta=float(beta))(states.at(one.layer)) for one in maps for beta in betas])  # [map, subject, d_model]

    def judge(logits: Float[Tensor, "map some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "map some two"]:
        right = states.token[some].to(logits.device)
        log_prob = logits[:, torch.arange(len(some)), right] - logits.logsumexp(-1)
        return torch.stack([(logits.argmax(-1) == right).float(), log_prob], -1)

    hits, log_prob = read_lens(model, tried, judge).cpu().unflatten(0, (len(layers), len(betas))).unbind(-1)
    return LreSweep(tuple(maps), tuple(map(float, betas)), hits.bool(), log_prob.mean(-1))


@dataclass(frozen=True)
class RelationEntry:
    """One relation: what was tried on the subjects for choosing, and how the chosen map does on those for testing.

    ``known`` is the share of the relation's subjects that the model knows.
    """

    known: float
    parts: Parts
    sweep: LreSweep
    comparison: BaselineComparison


def relation_entry(
    model: TransformerBridge, parts: Parts, layers: Sequence[int] | None, betas: Sequence[float], known: float
) -> RelationEntry:
    """One relation: layer and factor are chosen, and the map is judged on the test subjects beside its baselines."""
    tried = sweep_lre(model, parts, layers, betas)
    return RelationEntry(known, parts, tried, compare_to_baselines(model, parts, tried.best))


@dataclass(frozen=True)
class RelationReport:
    """Many relations, the best first; ``skipped`` had too few subjects that the model knows."""

    entries: tuple[RelationEntry, ...]
    skipped: tuple[str, ...]

    def table(self) -> str:
        """One line for each relation: chosen layer and factor, the map's agreement with the model, and that of each baseline."""
        if not self.entries:
            return f"No relation has enough subjects that the model knows; skipped: {', '.join(self.skipped)}."
        columns = ["LRE", "identity", "translation", "regression", "most frequent", "most frequent in test"]
        lines = ["relation            known  test  layer  beta  " + "  ".join(columns)]
        for entry in self.entries:
            found = entry.comparison
            shares = "  ".join(f"{found.shares[name]:>{max(len(name), 4)}.0%}" for name in columns)
            lines.append(f"{found.relation:<20}{entry.known:5.0%}  {len(entry.parts.test):4}  {found.layer:5}  {found.beta:4g}  {shares}")
        return "\n".join([*lines, *([f"too few known subjects: {', '.join(self.skipped)}"] if self.skipped else [])])


def relation_report(
    model: TransformerBridge,
    datas: Mapping[str, RelationData] | Sequence[RelationData],
    layers: Sequence[int] | None = None,
    betas: Sequence[float] = BETAS,
    n_train: int = N_TRAIN,
    most: int = 40,
    least: int = 16,
    seed: int = 0,
) -> RelationReport:
    """Every relation: known subjects (``most`` of them, drawn), fitted, layer and factor chosen, judged on the test subjects.

    Relations with fewer than ``least`` known subjects are skipped. Raises ValueError where there is no relation.
    """
    datas, entries, skipped = list(datas.values() if isinstance(datas, Mapping) else datas), [], []
    if not datas:
        raise ValueError("There is no relation to report on: give at least one.")
    for data in progress(datas, desc="relations"):
        some = data.take(Random(f"{seed} report").sample(range(len(data)), min(len(data), 2 * most)))
        kept = known_rows(model, some)
        if len(kept) < max(least, n_train + 2):
            skipped.append(data.name)
            continue
        entries.append(relation_entry(model, split(some.take(kept[:most]), n_train, seed), layers, betas, len(kept) / len(some)))
    entries.sort(key=lambda entry: -entry.comparison.shares["LRE"])
    return RelationReport(tuple(entries), tuple(skipped))


Pair = tuple[str, str]  # the subject to be edited, and the one whose answer is wished for


def low_rank_inverse(weight: Float[Tensor, "d_out d_in"], rank: int) -> Float[Tensor, "d_in d_out"]:
    """The pseudo-inverse made of the ``rank`` largest singular values; all of them give the true inverse of an invertible matrix.

    Raises ValueError for a rank that the matrix cannot have.
    """
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"The rank must lie between 1 and {min(weight.shape)}, the size of the matrix, not {rank}.")
    left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
    used = sizes[:rank] > 1e-12 * sizes[0]  # what the matrix sends to nothing cannot be brought back
    left, sizes, right = left[:, :rank][:, used], sizes[:rank][used], right[:rank][used]
    return ((right.T / sizes) @ left.T).to(weight)


def edit_delta(
    lre: LinearRelation, o_now: Float[Tensor, "*pair d_out"], o_wanted: Float[Tensor, "*pair d_out"], rank: int
) -> Float[Tensor, "*pair d_in"]:
    """What to add to ``s`` so that ``o`` becomes another: ``W^+ (o' - o)`` with a pseudo-inverse of low rank.

    Hernandez et al., section 4.2; as in the authors' code ``beta`` does not enter.
    """
    return (o_wanted - o_now).to(lre.weight) @ low_rank_inverse(lre.weight, rank).T


def edit_pairs(model: TransformerBridge, data: RelationData, n: int = 32, seed: int = 0) -> list[Pair]:
    """At most ``n`` pairs of subjects with different answers of the model, drawn at random. Raises ValueError where there is none."""
    if n < 1 or not (every := _different(model, data)):
        raise ValueError(f"No edit can be tried with {data.name!r}: it takes n = 1 or more, and two subjects with different answers.")
    return Random(f"{seed} pairs").sample(every, min(n, len(every)))


def _different(model: TransformerBridge, data: RelationData) -> list[Pair]:
    """All pairs of subjects of which the model does not say the same."""
    said = list(zip(data.subjects, next_tokens(model, data.prompts).tolist(), strict=True))
    return [(one, other) for one, token in said for other, another in said if token != another]


@dataclass(frozen=True)
class RelationEdits:
    """For each pair of subjects: does the model, edited at the first, say what it says of the second?

    ``random`` are vectors drawn at random, each as long as the edit; ``swapped`` puts the second subject's own state in the place
    of the first. Where a subject has several tokens, the model reads the others too, and an edit may do more than a swap.
    """

    relation: str
    layer: int
    rank: int
    pairs: tuple[Pair, ...]
    hits: Bool[Tensor, "pair"]
    random: Bool[Tensor, "draw pair"]
    swapped: Bool[Tensor, "pair"]

    @property
    def shares(self) -> dict[str, float]:
        """The share of successful edits, and those of both controls."""
        kinds = {"edited": self.hits, "random": self.random, "swapped": self.swapped}
        return {name: hits.float().mean().item() for name, hits in kinds.items()}


def edit_subjects(
    model: TransformerBridge, data: RelationData, lre: LinearRelation, pairs: Sequence[Pair], rank: int, draws: int = 5, seed: int = 0
) -> RelationEdits:
    """Adds the map's edit to the MODEL's own state of the first subject of each pair, and reads the model's answer.

    ``o`` and ``o'`` are what the model computes for the two subjects, as in the authors' code. Raises ValueError for an unknown
    subject, and where there is no pair.
    """
    states, (now, wanted) = relation_states(model, data, [lre.layer]), _rows_of(data, pairs)
    [s], o = states.s, states.o
    delta = edit_delta(lre, o[now], o[wanted], rank)
    deltas = torch.cat([delta[None], random_like(delta, draws, seed).to(delta), (s[wanted] - s[now])[None]])
    hits = _edited(model, states, lre.layer, now, deltas) == states.token[wanted]
    return RelationEdits(data.name, lre.layer, rank, tuple(pairs), hits[0], hits[1:-1], hits[-1])


def _rows_of(data: RelationData, pairs: Sequence[Pair]) -> Int[Tensor, "side pair"]:
    """The numbers of the subjects of each pair."""
    if not pairs:
        raise ValueError("There is no pair of subjects to edit: give at least one, or draw some with edit_pairs.")
    return torch.tensor([data.rows(side) for side in zip(*pairs, strict=True)])


def _edited(
    model: TransformerBridge, states: RelationStates, layer: int, rows: Int[Tensor, "pair"], deltas: Float[Tensor, "copy pair d_model"]
) -> Int[Tensor, "copy pair"]:
    """The model's most likely next token with vectors added to its own state at the subject, all copies together."""
    every, vectors = rows.repeat(len(deltas)), deltas.flatten(0, 1)[:, None]
    at = states.subject[every]
    found = next_tokens(model, states.texts.take(every), each=lambda some: [add(layer_hook(layer), vectors[some], pos=at[some])])
    return found.unflatten(0, (len(deltas), -1))


def choose_edit(
    model: TransformerBridge, maps: Sequence[LinearRelation], data: RelationData, ranks: Sequence[int] | None, n: int = 16, seed: int = 0
) -> tuple[LinearRelation, int]:
    """The map and the rank with which most edits of ``n`` pairs of subjects succeed; of several, the first map and the lowest rank."""
    ranks = [rank for rank in RANKS if rank <= model.cfg.d_model] if ranks is None else ranks
    now, wanted = _rows_of(data, edit_pairs(model, data, n, seed))
    states, hits = relation_states(model, data, [one.layer for one in maps]), []
    for one in maps:
        deltas = torch.stack([edit_delta(one, states.o[now], states.o[wanted], rank) for rank in ranks])
        hits.append((_edited(model, states, one.layer, now, deltas) == states.token[wanted]).sum(-1))  # [rank]
    best, rank = divmod(int(torch.stack(hits).argmax()), len(ranks))
    return maps[best], ranks[rank]


@dataclass(frozen=True)
class EditReport:
    """The edits of many relations, on their test subjects, beside the agreement of the map that was chosen to predict."""

    edits: tuple[RelationEdits, ...]
    agreement: tuple[float, ...]

    def table(self) -> str:
        """One line for each relation: layer, rank, the share of successes, both controls, and the agreement."""
        columns = {"relation": "<18", "pairs": "5", "layer": "5", "rank": "4"}
        columns |= {"edited": "6.0%", "random": "6.0%", "swapped": "7.0%", "agreement": "9.0%"}
        found = zip(self.edits, self.agreement, strict=True)
        rows = [(one.relation, len(one.pairs), one.layer, one.rank, *one.shares.values(), agreement) for one, agreement in found]
        return table(columns, rows, gap="  ")


def edit_report(
    model: TransformerBridge, found: RelationReport, ranks: Sequence[int] | None = None, n: int = 32, draws: int = 5, seed: int = 0
) -> EditReport:
    """Edits in every relation of a report: layer and rank chosen on the subjects for choosing, successes counted on the test subjects.

    A relation in which all test subjects have the same answer is left out, and so is one where those for choosing have.
    """
    edits, agreement = [], []
    for entry in progress(found.entries, desc="relations"):
        choose, test = entry.parts.choose, entry.parts.test
        if _different(model, choose) and _different(model, test):
            lre, rank = choose_edit(model, entry.sweep.maps, choose, ranks, seed=seed)
            edits.append(edit_subjects(model, test, lre, edit_pairs(model, test, n, seed), rank, draws, seed))
            agreement.append(entry.comparison.shares["LRE"])
    return EditReport(tuple(edits), tuple(agreement))
