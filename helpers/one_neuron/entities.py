"""Has an entity a neuron of its own? Peaks of all neurons on prompts of several kinds about many entities, and a rule that counts.

Goh et al. (2021, "Multimodal neurons") found a neuron of CLIP for one person, active on photos, drawings and the written name,
and less on people around them. Here the kinds of prompt are the entity's name, its names in other languages, descriptions that
lead to it without naming it, and prompts about what is related to it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.activations import Neuron, name, scan
from helpers.course_lm.facts import Fact, Relation, all_facts, fact, relations
from helpers.course_lm.world import World
from helpers.models import TransformerBridge
from helpers.prompts import LabelledPrompt
from helpers.stats import auc
from helpers.tables import table
from helpers.texts import as_texts

NAME, DESCRIPTION, RELATED = "name", "description", "related"
LANGUAGES = {"fr": "French", "de": "German", "zh": "Chinese"}


def country_prompts(n: int, each: int = 10, seed: int = 0) -> list[LabelledPrompt]:
    """Prompts about the first ``n`` countries of the world, from its facts; the label is the kind, the group is the country.

    ``name``: facts about the country up to their answer, in ``each`` wordings, the same for every country. ``French``, ``German``,
    ``Chinese``: half as many with its name in that language. ``description``: facts whose answer the country is. ``related``:
    facts about things that share a fact with it, with other answers. At most ``each`` of a kind.
    """
    wordings, rng, prompts = name_wordings()[:each], Random(seed), []
    for row in World.load().rows("countries")[:n]:
        facts = [(fact(relation, row), wording) for relation, wording in wordings]
        if all(known for known, _ in facts):
            prompts += _about(row, facts, each, rng)
    return prompts


def name_wordings() -> list[tuple[Relation, str]]:
    """The ways of telling facts about countries with the answer last, the relations taking turns."""
    about = [relation for relation in relations().values() if relation.table == "countries" and relation.subject == "name"]
    turns = zip_longest(*([(relation, wording) for wording in relation.forward] for relation in about))
    return [told for turn in turns for told in turn if told]


def _about(row: dict[str, str], facts: Sequence[tuple[Fact, str]], each: int, rng: Random) -> Iterator[LabelledPrompt]:
    """All prompts about the country of a row."""
    entity = row["name"]
    for known, wording in facts:
        yield LabelledPrompt(known.probe(wording).prompt, NAME, entity)
    for code, language in LANGUAGES.items():
        if row.get(code) and row[code] != entity:
            for known, wording in facts[: each // 2]:
                yield LabelledPrompt(replace(known, subject=row[code]).probe(wording).prompt, language, entity)
    leading = [known for known in _facts("object").get(entity, ()) if known.relation.forward]
    near = {known.subject for known in leading} | {known.object for known in _facts("subject").get(entity, ())} - {entity}
    related = [known for other in sorted(near) for known in _facts("subject").get(other, ()) if known.object != entity]
    for label, told in ((DESCRIPTION, leading), (RELATED, related)):
        texts = {known.probe(rng.choice(known.relation.forward)).prompt for known in told if known.relation.forward}
        unnamed = sorted(text for text in texts if entity not in text)
        yield from (LabelledPrompt(text, label, entity) for text in rng.sample(unnamed, min(each, len(unnamed))))


@cache
def _facts(by: str) -> dict[str, list[Fact]]:
    """All facts of the world by their ``subject`` or ``object``."""
    found: dict[str, list[Fact]] = {}
    for known in all_facts(World.load()):
        found.setdefault(getattr(known, by), []).append(known)
    return found


@dataclass(frozen=True)
class EntityPeaks:
    """The highest activation of every neuron on each prompt, position 0 left out."""

    prompts: tuple[LabelledPrompt, ...]
    peaks: Float[Tensor, "prompt layer d_mlp"]

    @property
    def entities(self) -> tuple[str, ...]:
        """The entities that the prompts are about, each once, in their order."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))

    def by_kind(self, entity: str, neuron: Neuron, others: bool = False) -> dict[str, list[float]]:
        """A neuron's peaks on the prompts about one entity, kind by kind; ``others``: on the same kinds of prompts about all others.

        Raises ValueError for an entity without prompts.
        """
        if entity not in self.entities:
            raise ValueError(f"There are no prompts about {entity!r}; there are some about {', '.join(self.entities[:5])} and others.")
        found: dict[str, list[float]] = {prompt.label: [] for prompt in self.prompts if prompt.group == entity}
        for prompt, peak in zip(self.prompts, self.peaks[:, neuron[0], neuron[1]].tolist(), strict=True):
            if (prompt.group != entity) == others and prompt.label in found:
                found[prompt.label].append(peak)
        return found

    def halves(self) -> tuple["EntityPeaks", "EntityPeaks"]:
        """Two halves, one to choose and one to judge: the prompts of each kind about each entity in turns."""
        seen: Counter[tuple[str, str]] = Counter()
        sides: tuple[list[int], list[int]] = ([], [])
        for at, prompt in enumerate(self.prompts):
            sides[seen[prompt.group, prompt.label] % 2].append(at)
            seen[prompt.group, prompt.label] += 1
        return tuple(EntityPeaks(tuple(self.prompts[at] for at in rows), self.peaks[rows]) for rows in sides)

    def rows(self, kind: str) -> list[list[int]]:
        """For each entity the numbers of its prompts of a kind."""
        return [[at for at, p in enumerate(self.prompts) if (p.group, p.label) == (entity, kind)] for entity in self.entities]

    def all_aucs(self, kind: str) -> Float[Tensor, "entity unit"]:
        """For every entity and neuron what ``aucs`` says of one kind of prompt; 1 where there is no such prompt about the entity."""
        own = self.rows(kind)
        order = torch.tensor([at for rows in own for at in rows], dtype=torch.long)
        values = self.peaks[order].flatten(1).T.contiguous()  # [unit, prompt], entity by entity
        ordered = values.sort(1).values
        ranks = (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True) + 1).double() / 2  # draws share one
        found = []
        for part in ranks.split([len(rows) for rows in own], 1):
            n = part.shape[1]
            found.append((part.sum(1) - n * (n + 1) / 2) / max(1, n * (len(order) - n)) if n else torch.ones(len(values)))
        return torch.stack(found).float()

    def aucs(self, entity: str, neuron: Neuron) -> dict[str, float]:
        """For each kind of prompt the chance that the neuron is higher on one about the entity than on one about another."""
        own, others = (self.by_kind(entity, neuron, side) for side in (False, True))
        return {kind: auc(torch.tensor(own[kind])[:, None], torch.tensor(others[kind])[:, None]).item() for kind in own if others[kind]}

    def shuffled(self, seed: int = 0) -> "EntityPeaks":
        """The control: the same peaks, but which name prompt belongs to which entity is drawn at random."""
        named = [at for at, prompt in enumerate(self.prompts) if prompt.label == NAME]
        groups = [self.prompts[at].group for at in named]
        Random(seed).shuffle(groups)
        mixed = list(self.prompts)
        for at, group in zip(named, groups, strict=True):
            mixed[at] = replace(mixed[at], group=group)
        return replace(self, prompts=tuple(mixed))


def entity_peaks(model: TransformerBridge, prompts: Iterable[LabelledPrompt]) -> EntityPeaks:
    """Runs the model once over all prompts. Raises ValueError where there is none, or an empty one."""
    known = tuple(prompts)
    texts = as_texts(model, [prompt.text for prompt in known])
    peaks = torch.zeros(len(known), model.cfg.n_layers, model.cfg.d_mlp)
    for batch in scan(model, texts):
        for layer, values in batch.activations.items():
            peaks[batch.rows, layer] = values.masked_fill(~batch.mask[..., None], -torch.inf).amax(1).float().cpu()
    return EntityPeaks(known, peaks)


@dataclass(frozen=True)
class OwnNeuron:
    """The best neuron of an entity, chosen on some prompts, and what it does on others.

    ``own`` is its mean peak on the entity's held-out name prompts, ``second`` the highest such mean of any other entity, and
    ``auc`` the chance that it is higher on a name prompt of the entity than on another one. ``found`` says whether the rule holds.
    """

    entity: str
    neuron: Neuron
    own: float
    second: float
    auc: float
    found: bool


@dataclass(frozen=True)
class EntityNeurons:
    """For each entity its best neuron, and whether it passes as a neuron of the entity's own."""

    entries: tuple[OwnNeuron, ...]

    @property
    def found(self) -> tuple[OwnNeuron, ...]:
        """The entities that have a neuron of their own, the one that rises highest first."""
        return tuple(sorted((entry for entry in self.entries if entry.found), key=lambda entry: -entry.own))

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` highest: the entity, its neuron, its mean peak, that of the next entity, and the AUC."""
        best = self.found[:n]
        width = max((len(entry.entity) for entry in best), default=6)
        rows = [(e.entity, name(e.neuron), e.own, e.second, e.auc) for e in best]
        return table({"entity": f"<{width + 1}", "neuron": "<9", "own": "6.2f", "second": "6.2f", "AUC": "6.3f"}, rows)


def own_neurons(peaks: EntityPeaks, margin: float = 1.5, least_auc: float = 0.95) -> EntityNeurons:
    """For each entity: the neuron that stands out most on half of its name prompts, judged on the other half.

    Chosen is the neuron whose mean peak lies farthest above that of every other entity, in its own standard deviations. It
    passes if, on held-out wordings, its mean peak is ``margin`` times that of every other entity and its AUC ``least_auc``.
    Raises ValueError for fewer than two entities, or one with fewer than two name prompts.
    """
    if len(peaks.entities) < 2 or min(map(len, peaks.rows(NAME))) < 2:
        raise ValueError(f"To compare entities there must be two or more, each with two or more prompts with the label {NAME!r}.")
    choose, judge = peaks.halves()
    first, second = (torch.stack([half.peaks[rows].flatten(1).mean(0) for rows in half.rows(NAME)]) for half in (choose, judge))
    named = [at for rows in choose.rows(NAME) for at in rows]
    spread = choose.peaks[named].flatten(1).std(0).clamp(min=1e-6)
    best = ((first - _next_best(first)) / spread).argmax(1).tolist()
    rivals, entries = _next_best(second), []
    for at, (entity, unit) in enumerate(zip(peaks.entities, best, strict=True)):
        neuron = divmod(unit, peaks.peaks.shape[2])
        own, rival, chance = second[at, unit].item(), rivals[at, unit].item(), judge.aucs(entity, neuron)[NAME]
        passes = own > 0 and own >= margin * rival and chance >= least_auc
        entries.append(OwnNeuron(entity, neuron, own, rival, chance, passes))
    return EntityNeurons(tuple(entries))


def neurons_in_any_words(peaks: EntityPeaks, kinds: Sequence[str]) -> dict[str, tuple[Neuron, float]]:
    """For each entity the neuron that tells it from the others in whatever kind of prompt, and the lowest of its AUCs, held out.

    Half of the prompts choose among all neurons the one whose lowest AUC is highest; the other half says what that lowest AUC is.
    Kinds of which there is no prompt about an entity are not asked.
    """
    choose, judge = peaks.halves()
    lowest = torch.stack([choose.all_aucs(kind) for kind in kinds]).amin(0)  # [entity, unit]
    best = [divmod(unit, peaks.peaks.shape[2]) for unit in lowest.argmax(1).tolist()]
    told = [judge.aucs(entity, neuron) for entity, neuron in zip(peaks.entities, best, strict=True)]
    worst = [min(value for kind, value in each.items() if kind in kinds) for each in told]
    return dict(zip(peaks.entities, zip(best, worst, strict=True), strict=True))


def _next_best(means: Float[Tensor, "entity unit"]) -> Float[Tensor, "entity unit"]:
    """For each entity the highest mean among all the others."""
    (highest, second), who = means.topk(2, 0).values, means.argmax(0)
    return torch.where(torch.arange(len(means))[:, None] == who, second, highest)
