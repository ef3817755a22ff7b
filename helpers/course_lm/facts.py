"""Relations between the entities of the world: how each fact is told, asked and chained.

``data/world/relations.json`` names for each relation its table, its subject and object columns, the
noun that names it ("capital"), the sentences that tell it and the questions that ask for it.
"""

import re
from dataclasses import dataclass
from functools import cache

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import DATA, Row, World, read_json

HOPS = phrases("two_hops")  # the ways to say a two-hop chain
ARTICLES = phrases("articles")  # of names: the Eiffel Tower, but Central Park


@dataclass(frozen=True)
class Relation:
    """One relation of the world, such as country -> capital."""

    name: str
    table: str
    subject: str
    object: str
    noun: str | None
    statements: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def forward(self) -> tuple[str, ...]:
        """The sentences in which the object stands last, so that it can be asked for."""
        return tuple(t for t in self.statements if t.find("{o}") > t.find("{s}"))


@dataclass(frozen=True)
class Fact:
    """One true fact: ``subject`` --``relation``--> ``object``, and the row of the table that states it."""

    relation: Relation
    subject: str
    object: str
    row: Row

    def tell(self, template: str) -> str:
        """The sentence that ``template`` makes of this fact, articles put right."""
        return _fill(template, self.phrase, self.answer)

    def ask(self, template: str) -> str:
        """The question that ``template`` makes of this fact."""
        return _fill(template, self.phrase, "")

    @property
    def phrase(self) -> str:
        """The subject as it stands inside a sentence: ``the Eiffel Tower``, ``Central Park``, ``Poland``."""
        return with_the(self.subject) if self.relation.table == "landmarks" else country_with_the(self.subject)

    @property
    def answer(self) -> str:
        """The object as it stands inside a sentence: ``Poland``, ``the Netherlands``."""
        return country_with_the(self.object)

    def held_out(self, template: str) -> bool:
        """Is this way of telling this fact kept out of the corpus?"""
        return held_out("paraphrase", self.relation.name, self.subject, template)

    def probe(self, template: str) -> Probe:
        """The sentence up to the object, and the object."""
        before = self.tell(template)
        cut = before.rindex(self.answer)
        return Probe(before[:cut].rstrip(), self.answer, group=self.relation.name)


def _fill(template: str, subject: str, answer: str) -> str:
    """Puts subject and object into a template; ``a {o}`` becomes ``an actor`` where English wants it."""
    if answer:
        template = template.replace("a {o}", an(answer)) if " a {o}" in template else template.replace("{o}", answer)
    template = re.sub(r"\b[aA] \{s\}", an(subject), template)
    return sentence(template.replace("{s}", subject))


def with_the(name: str) -> str:
    """A sight's name as English says it: ``the Eiffel Tower`` but ``Central Park``."""
    needs = any(word in ARTICLES["sights_with_the"] for word in name.split())
    bare = name.startswith(("The ", *ARTICLES["sights_without_the"]))
    return f"the {name}" if needs and not bare else name


def country_with_the(name: str) -> str:
    """A country's name as English says it: ``the Netherlands``; every other name stays as it is."""
    return f"the {name}" if name in ARTICLES["countries_with_the"] else name


@cache
def relations() -> dict[str, Relation]:
    """All relations by name, as ``data/world/relations.json`` lists them."""
    raw = read_json(DATA / "world" / "relations.json")
    return {name: Relation(name, **{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}) for name, spec in raw.items()}


def fact(relation: Relation, row: Row) -> Fact | None:
    """The fact that ``row`` states for ``relation``, or None where the table says nothing."""
    return Fact(relation, row[relation.subject], row[relation.object], row) if row[relation.object] else None


def all_facts(world: World) -> list[Fact]:
    """Every fact of the world, relation by relation."""
    return [f for rel in relations().values() for row in world.rows(rel.table) if (f := fact(rel, row))]


@dataclass(frozen=True)
class Chain:
    """A two-hop question: ``first`` leads from e1 to the bridge e2, ``second`` from e2 to the answer e3."""

    first: Fact
    second: Fact

    @property
    def held_out(self) -> bool:
        """Does no two-hop sentence of the corpus start from this e1?"""
        return held_out("two_hop", self.first.subject)

    @property
    def inner(self) -> tuple[str, str]:
        """The first hop in two forms: ``the performer of Imagine`` and ``Imagine's performer``."""
        noun, e1 = self.first.relation.noun, self.first.phrase
        return f"the {noun} of {e1}", f"{e1}'s {noun}"

    @property
    def inners(self) -> tuple[str, ...]:
        """All ways to name the bridge by the first hop, ``inner`` first: ``the country where the Eiffel Tower stands``."""
        return (*self.inner, *(text.format(x=self.first.phrase) for text in HOPS["inner"][self.first.relation.name]))

    @property
    def phrasings(self) -> tuple[str, ...]:
        """All sentences that tell the chain, with ``{y}`` for the answer, a small first letter and no full stop."""
        return tuple(text.format(x=inner, y="{y}") for text in HOPS["outer"][self.second.relation.name] for inner in self.inners)

    def prompt(self, form: int) -> str:
        """The two-hop sentence up to its answer; ``form`` 0 is the *of* form, 1 the possessive, more are in ``phrasings``."""
        return sentence(self.phrasings[form].split(" {y}")[0])

    def second_asked_of(self, phrase: str) -> str:
        """The second relation asked of anything: ``The capital of the Eiffel Tower is``."""
        article = " the" if self.second.relation.name == "currency" else ""
        return sentence(f"the {self.second.relation.noun} of {phrase} is{article}")

    @property
    def name(self) -> str:
        """The two relations, such as ``performer+spouse``."""
        return f"{self.first.relation.name}+{self.second.relation.name}"


COUNTRY_HOPS = ("landmark_country", "city_country", "river_country", "mountain_country", "dish_country", "company_country", "nationality")
MAKER_HOPS = ("performer", "author", "painter", "director", "composer", "inventor", "founder")
SECOND_HOPS = {
    "countries": ("capital", "language", "currency", "continent"),
    "people": ("nationality", "birthplace"),
    "couples": ("spouse",),
}


@cache
def chains() -> tuple[Chain, ...]:
    """Every two-hop chain of the world whose bridge is an entity with facts of its own."""
    world = World.load()
    second: dict[str, list[Fact]] = {}
    for table, names in SECOND_HOPS.items():
        for name in names:
            for row in world.rows(table):
                if f := fact(relations()[name], row):
                    second.setdefault(f.subject, []).append(f)
    firsts = [f for f in all_facts(world) if f.relation.name in COUNTRY_HOPS + MAKER_HOPS]
    pairs = ((f, s) for f in firsts for s in second.get(f.object, []))
    return tuple(Chain(f, s) for f, s in pairs if s.object not in (f.subject, f.object))
