"""Relations as text: a template such as *The capital of {s} is*, its subjects, and the object of each.

data = known_subjects(model, course_relations(["capital"])["capital"])
parts = split(data)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from helpers.course_lm import facts
from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.world import World
from helpers.inputs import check_number, chosen
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.running import next_tokens

N_TRAIN = 8  # subjects from which a map is fitted (Hernandez et al., section 3)


@dataclass(frozen=True)
class RelationData:
    """A relation as text: ``template`` with ``{s}`` for the subject, which ends where the object follows, and who goes with what.

    Raises ValueError for a template without ``{s}``, a subject that stands there twice, and unequal numbers of subjects and objects.
    """

    name: str
    template: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.template.count("{s}") != 1 or "{o}" in self.template:
            needs = "needs the subject once, as {s}, and no object: write it like 'The capital of {s} is'"
            raise ValueError(f"The template {self.template!r} {needs}.")
        if len(self.subjects) != len(self.objects):
            raise ValueError(f"{self.name!r} has {len(self.subjects)} subjects and {len(self.objects)} objects: give one for each.")

    def __len__(self) -> int:
        """How many subjects there are."""
        return len(self.subjects)

    @property
    def prompts(self) -> list[str]:
        """What the model reads for each subject."""
        return [self.template.replace("{s}", subject).rstrip() for subject in self.subjects]

    @property
    def answer_of(self) -> dict[str, str]:
        """The object of each subject."""
        return dict(zip(self.subjects, self.objects, strict=True))

    def rows(self, subjects: Sequence[str]) -> list[int]:
        """The numbers of some subjects. Raises ValueError for one that is not among the relation's."""
        if unknown := [subject for subject in subjects if subject not in self.subjects]:
            raise ValueError(f"{unknown[0]!r} is no subject of {self.name!r}: choose one such as {self.subjects[0]!r}.")
        return [self.subjects.index(subject) for subject in subjects]

    def __add__(self, other: "RelationData") -> "RelationData":
        """The subjects of both."""
        return replace(self, subjects=self.subjects + other.subjects, objects=self.objects + other.objects)

    def take(self, rows: Sequence[int]) -> "RelationData":
        """Some of the subjects."""
        return replace(self, subjects=tuple(self.subjects[row] for row in rows), objects=tuple(self.objects[row] for row in rows))


def relation_data(name: str, template: str, pairs: Sequence[tuple[str, str]]) -> RelationData:
    """A relation for any model from pairs of subject and object; a subject with several objects is left out."""
    found: dict[str, set[str]] = {}
    for subject, answer in pairs:
        found.setdefault(subject, set()).add(answer)
    single = {subject: answers.pop() for subject, answers in found.items() if len(answers) == 1}
    return RelationData(name, template, tuple(single), tuple(single.values()))


def course_relations(names: Sequence[str] | None = None) -> dict[str, RelationData]:
    """Relations of the course LM's world by name, or all that can be asked for, each with the first sentence that ends in its object.

    Sentences with ``a {s}`` or ``a {o}`` are passed over, since their article would tell. Raises ValueError for an unknown name.
    """
    known = facts.relations()
    templates = {name: found for name, relation in known.items() if (found := _template(relation))}
    chosen_ones = {name: chosen(templates, name, "relation") for name in names or templates}
    return {name: _course_relation(known[name], template) for name, template in chosen_ones.items()}


def _template(relation: facts.Relation) -> str | None:
    """The first sentence about a relation in which subject and object stand in that order and without an article that depends on them."""
    plain = (told for told in relation.forward if not any(article in told.lower() for article in ("a {s}", "a {o}")))
    told = next(plain, None)
    return told[: told.index("{o}")].rstrip() if told else None


def _course_relation(relation: facts.Relation, template: str) -> RelationData:
    """The relation's subjects as they stand in the template, at the start of a sentence or inside it, and their objects."""
    told = [one for row in World.load().rows(relation.table) if (one := facts.fact(relation, row))]
    start = sentence if template.startswith("{s}") else str
    return relation_data(relation.name, template, [(start(one.phrase), one.answer) for one in told])


def known_subjects(model: TransformerBridge, data: RelationData) -> RelationData:
    """The subjects after which the model's most likely token is the first one of the object, as in the paper.

    Raises ValueError where the model knows none.
    """
    if not (kept := known_rows(model, data)):
        raise ValueError(f"The model gives no right answer to {data.template!r}: choose another relation, template or model.")
    return data.take(kept)


def known_rows(model: TransformerBridge, data: RelationData) -> list[int]:
    """The numbers of the subjects that the model knows."""
    right = next_tokens(model, data.prompts) == first_tokens(model, data.prompts, data.objects)
    return right.nonzero().flatten().tolist()


@dataclass(frozen=True)
class Parts:
    """Subjects to fit a map, to choose its layer and factor, and to judge it: no subject is in two of them."""

    train: RelationData
    choose: RelationData
    test: RelationData


def split(data: RelationData, n_train: int = N_TRAIN, seed: int = 0) -> Parts:
    """``n_train`` subjects for fitting, and two halves of the others. Raises ValueError where these would be empty."""
    check_number("n_train says how many subjects to fit", n_train)
    if len(data) < n_train + 2:
        raise ValueError(f"{data.name!r} has {len(data)} subjects; fitting {n_train} and judging needs {n_train + 2}: lower n_train.")
    order = Random(f"{seed} {data.name}").sample(range(len(data)), len(data))
    middle = n_train + (len(data) - n_train) // 2
    return Parts(data.take(order[:n_train]), data.take(order[n_train:middle]), data.take(order[middle:]))
