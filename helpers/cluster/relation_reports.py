"""How faithful a linear relation is, relation by relation, and whether it can be used to edit the model.

Hernandez et al. 2024 (arXiv 2308.09124): a map is judged by the MODEL's own first token, never by the truth (section 4.1), on subjects
that were neither used to fit it nor to choose its layer and its factor ``beta``. Turned round, it says what to add to ``s`` so that the
model gives another answer (section 4.2).

    print(compare_to_baselines(model, parts, fit_lre(model, parts.train, layer=3, beta=2.0)).table())
"""

from collections.abc import Iterable, Mapping, Sequence
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
MORE = "regression, all"  # the one that may use all subjects that are not in the test


@dataclass(frozen=True)
class BaselineComparison:
    """The agreement of several methods with the model, subject by subject: 1 or 0, and a mean where a method has several maps."""

    lre: LinearRelation
    methods: tuple[str, ...]
    hits: Float[Tensor, "method subject"]

    def of(self, method: str) -> Float[Tensor, "subject"]:
        """The hits of one method. Raises ValueError for one that was not compared."""
        return self.hits[self.methods.index(chosen(self.methods, method, "method"))]

    @property
    def shares(self) -> dict[str, float]:
        """The share of subjects on which each method agrees with the model."""
        return dict(zip(self.methods, self.hits.mean(1).tolist(), strict=True))

    @property
    def rival(self) -> str:
        """The simpler method that does best, which is chosen in its favour: on the test subjects themselves."""
        shares = self.shares
        return max((name for name in self.methods[1:] if name not in (MORE, "other maps")), key=shares.get)

    def table(self) -> str:
        """One line for each method: the share and its 95 % interval (Wilson)."""
        lines = [f"{self.lre.relation}, layer {self.lre.layer}, beta {self.lre.beta:g}, {self.hits.shape[1]} subjects"]
        for method, row in zip(self.methods, self.hits, strict=True):
            low, high = wilson(round(row.sum().item()), len(row))
            lines.append(f"{method:<{max(map(len, self.methods))}}  {row.mean():6.1%}  [{low:.1%}, {high:.1%}]")
        return "\n".join(lines)


def compare_to_baselines(
    model: TransformerBridge, parts: Parts, lre: LinearRelation, others: Sequence[LinearRelation] = ()
) -> BaselineComparison:
    """A map that was fitted on the training subjects beside its baselines, all judged on the test subjects.

    Baselines are the identity, a translation, a regression on the same subjects and one on those for choosing too, two constant answers
    (the model's most frequent one among the training subjects, and even among the test subjects), and the mean of ``others``, the maps
    of other relations for the same layer.
    """
    train, larger, test = (relation_states(model, data, [lre.layer]) for data in (parts.train, parts.train + parts.choose, parts.test))
    fitted = {one.kind: [one] for one in (lre, *(method(train, lre.layer) for method in (identity, translation, regression)))}
    fitted |= {MORE: [regression(larger, lre.layer)]} | ({"other maps": others} if others else {})
    said = {kind: most_likely(model, torch.stack([one(test.s[0]) for one in maps])) for kind, maps in fitted.items()}  # [map, subject]
    hits = {kind: (tokens == test.token).float().mean(0) for kind, tokens in said.items()}
    constant = {"most frequent": train, "most frequent in test": test}
    hits |= {kind: (test.token == mode(states.token.tolist())).float() for kind, states in constant.items()}
    return BaselineComparison(lre, tuple(hits), torch.stack([*hits.values()]))


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


def sweep_lre(model: TransformerBridge, parts: Parts, layers: Sequence[int], betas: Sequence[float] = BETAS) -> LreSweep:
    """Fits every layer on the training subjects, and tries each with every factor on those for choosing.

    Raises ValueError where there is no layer or no factor.
    """
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

    @property
    def name(self) -> str:
        """The relation's name."""
        return self.parts.test.name

    @property
    def subjects(self) -> RelationData:
        """All its subjects that were used, those of the test first."""
        return self.parts.test + self.parts.choose + self.parts.train


def relation_entry(model: TransformerBridge, parts: Parts, tried: LreSweep, known: float, others: Sequence[LreSweep] = ()) -> RelationEntry:
    """One relation: the map that was chosen, judged on the test subjects beside the maps of ``others``, other relations."""
    there = [replace(one, beta=sweep.best.beta) for sweep in others for one in sweep.maps if one.layer == tried.best.layer]
    return RelationEntry(known, parts, tried, compare_to_baselines(model, parts, tried.best, there))


@dataclass(frozen=True)
class RelationReport:
    """Many relations, the best first; ``skipped`` had too few subjects that the model knows."""

    entries: tuple[RelationEntry, ...]
    skipped: tuple[str, ...]

    def table(self) -> str:
        """One line for each relation: chosen layer and factor, the map's agreement with the model, and that of each baseline."""
        columns = {"relation": "<18", "known": "5.0%", "test": "4", "layer": "5", "beta": "4g"}
        columns |= {name: f"{max(len(name), 4)}.0%" for one in self.entries[:1] for name in one.comparison.methods}
        found = [(entry, entry.comparison.lre, entry.comparison.shares.values()) for entry in self.entries]
        rows = [(entry.name, entry.known, len(entry.parts.test), lre.layer, lre.beta, *shares) for entry, lre, shares in found]
        few = f"\ntoo few known subjects: {', '.join(self.skipped)}" if self.skipped else ""
        return table(columns, rows, gap="  ") + few


def relation_report(
    model: TransformerBridge,
    datas: Iterable[RelationData],
    layers: Sequence[int],
    betas: Sequence[float],
    n_train: int = N_TRAIN,
    most: int = 40,
    least: int = 16,
) -> RelationReport:
    """Every relation: known subjects (``most`` of them, drawn), fitted, layer and factor chosen, judged on the test subjects.

    Relations with fewer than ``least`` known subjects are skipped.
    """
    datas, tried, skipped = list(datas), [], []
    for data in progress(datas, desc="relations"):
        some = data.take(Random("0 report").sample(range(len(data)), min(len(data), 2 * most)))
        kept = known_rows(model, some)
        if len(kept) < max(least, n_train + 2):
            skipped.append(data.name)
            continue
        parts = split(some.take(kept[:most]), n_train)
        tried.append((parts, sweep_lre(model, parts, layers, betas), len(kept) / len(some)))
    sweeps = [sweep for _, sweep, _ in tried]
    entries = [relation_entry(model, *one, [sweep for sweep in sweeps if sweep is not one[1]]) for one in tried]
    entries.sort(key=lambda entry: -entry.comparison.shares["LRE"])
    return RelationReport(tuple(entries), tuple(skipped))


Pair = tuple[str, str]  # the subject to be edited, and the one whose answer is wished for


def edit_delta(
    lre: LinearRelation, o_now: Float[Tensor, "*pair d_out"], o_wanted: Float[Tensor, "*pair d_out"], rank: int
) -> Float[Tensor, "*pair d_in"]:
    """What to add to ``s`` so that ``o`` becomes another: ``W^+ (o' - o)`` with a pseudo-inverse of low rank.

    Hernandez et al., section 4.2; as in the authors' code ``beta`` does not enter.
    """
    return (o_wanted - o_now).to(lre.weight) @ lre.inverse(rank).T


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

    ``done`` has the edit and what it is compared with, each a hit or a miss for every pair and draw: ``capped``, the same edit no longer
    than the state that it changes; three others as long as the edit: that of ``other maps``, the ``output`` direction (the unembedding
    of the wished token minus that of the old one) and ``random`` vectors; and the authors' baselines, put in the place of the state: the
    second subject's own state (``subject``, their InsertSubjectH), its final state (``end``, InsertObjectZ), and its answer's unembedding
    as long as the state (``word``, InsertObjectEmbedding). Where a subject has several tokens, the model reads the others too.

    ``length`` is that of the edit, as a multiple of the state's.
    """

    lre: LinearRelation
    rank: int
    pairs: tuple[Pair, ...]
    done: Mapping[str, Bool[Tensor, "draw pair"]]
    length: Float[Tensor, "pair"]

    def of(self, kind: str) -> Float[Tensor, "pair"]:
        """How often the wished answer comes for each pair: the mean over the draws. Raises ValueError for an unknown kind."""
        return chosen(self.done, kind, "kind of edit").float().mean(0)

    @property
    def shares(self) -> dict[str, float]:
        """The share of successes of each kind."""
        return {kind: self.of(kind).mean().item() for kind in self.done}


def edit_subjects(
    model: TransformerBridge,
    data: RelationData,
    lre: LinearRelation,
    pairs: Sequence[Pair],
    rank: int,
    draws: int = 5,
    seed: int = 0,
    others: Sequence[LinearRelation] = (),
) -> RelationEdits:
    """Adds the map's edit to the MODEL's own state of the first subject of each pair, and reads the model's answer.

    ``o`` and ``o'`` are what the model computes for the two subjects, as in the authors' code; ``others`` are maps of other relations.
    Raises ValueError for an unknown subject, and where there is no pair.
    """
    states, (now, wanted) = relation_states(model, data, [lre.layer]), _rows_of(data, pairs)
    [s], o, word = states.s, states.o, model.W_U.detach().float().cpu().T[states.token]  # each [subject, d_model]
    delta, length = edit_delta(lre, o[now], o[wanted], rank), s[now].norm(dim=-1, keepdim=True)

    def as_long(vectors: Float[Tensor, "pair d_model"], like: Float[Tensor, "pair one"]) -> Float[Tensor, "pair d_model"]:
        return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12) * like

    size = delta.norm(dim=-1, keepdim=True)
    kinds = {
        "edited": [delta],
        "capped": [as_long(delta, torch.minimum(size, length))],
        "other maps": [as_long(edit_delta(one, o[now], o[wanted], rank), size) for one in others],
        "output": [as_long(word[wanted] - word[now], size)],
        "random": [*random_like(delta, draws, seed).to(delta)],
        "subject": [s[wanted] - s[now]],
        "end": [o[wanted] - s[now]],
        "word": [as_long(word[wanted], length) - s[now]],
    }
    vectors = torch.stack([vector for one in kinds.values() for vector in one])
    hits = (_edited(model, states, lre.layer, now, vectors) == states.token[wanted]).split([len(one) for one in kinds.values()])
    done = {kind: some for kind, some in zip(kinds, hits, strict=True) if len(some)}
    return RelationEdits(lre, rank, tuple(pairs), done, (size / length)[:, 0])


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
    model: TransformerBridge, maps: Sequence[LinearRelation], data: RelationData, ranks: Sequence[int], n: int = 16
) -> tuple[LinearRelation, int]:
    """The map and the rank with which most edits of ``n`` pairs of subjects succeed; of several, the first map and the lowest rank."""
    now, wanted = _rows_of(data, edit_pairs(model, data, n))
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
        """One line for each relation: layer, rank, the mean length of the edits beside the state's, successes, and the agreement."""
        columns = {"relation": "<18", "layer": "5", "rank": "4", "length": "6.2f"}
        columns |= {kind: f"{max(len(kind), 4)}.0%" for one in self.edits[:1] for kind in one.done} | {"agreement": "9.0%"}
        found = [(one, one.lre, one.shares.values(), agreement) for one, agreement in zip(self.edits, self.agreement, strict=True)]
        rows = [(lre.relation, lre.layer, one.rank, one.length.mean(), *shares, agreement) for one, lre, shares, agreement in found]
        return table(columns, rows, gap="  ")


def edit_report(model: TransformerBridge, found: RelationReport, ranks: Sequence[int], n: int = 32, draws: int = 5) -> EditReport:
    """Edits in every relation of a report: layer and rank chosen on the subjects for choosing, successes counted on the test subjects.

    Beside each edit are ``draws`` random vectors and the maps of as many other relations, drawn. A relation in which all test subjects
    have the same answer is left out, and so is one where those for choosing have.
    """
    edits, agreement = [], []
    for entry in progress(found.entries, desc="relations"):
        choose, test = entry.parts.choose, entry.parts.test
        if _different(model, choose) and _different(model, test):
            lre, rank = choose_edit(model, entry.sweep.maps, choose, ranks)
            there = [one for other in found.entries if other is not entry for one in other.sweep.maps if one.layer == lre.layer]
            others = Random(f"0 {entry.name}").sample(there, min(draws, len(there)))
            edits.append(edit_subjects(model, test, lre, edit_pairs(model, test, n), rank, draws, others=others))
            agreement.append(entry.comparison.shares["LRE"])
    return EditReport(tuple(edits), tuple(agreement))
