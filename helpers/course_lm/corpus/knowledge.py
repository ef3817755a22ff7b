"""Facts of the world in prose: statements, portraits of an entity, questions, two-hop questions."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from random import Random

from helpers.course_lm.corpus.base import OTHERWISE, Probe, phrases, sentence, slip
from helpers.course_lm.corpus.grammar import Language, draw_language
from helpers.course_lm.corpus.lists import fitting
from helpers.course_lm.corpus.places import foreign_name, untold
from helpers.course_lm.facts import HOPS, Chain, Fact, Relation, all_facts, chains, fact, relations
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

TOLD = phrases("knowledge")
OTHER_ENDS = phrases("otherwise")  # what else is true where a fact's object stands, by relation and sentence
ABROAD = 0.2  # of the facts about countries, sights and cities, the share that is told under a French, German or Chinese name


def draw_relation(world: World, rng: Random) -> Relation:
    """Draws a relation, long tables more often, but less than in proportion to their length."""
    names, weights = _relation_weights()
    return relations()[rng.choices(names, cum_weights=weights)[0]]


@cache
def _relation_weights() -> tuple[list[str], list[float]]:
    sizes = [len(World.load().rows(relation.table)) for relation in relations().values()]
    return list(relations()), list(accumulate(size**0.9 for size in sizes))


def draw_fact(world: World, rng: Random) -> Fact | None:
    """Draws one fact, famous subjects more often; None where the table has an empty cell."""
    relation = draw_relation(world, rng)
    return fact(relation, world.pick(rng, relation.table))


def tell(told: Fact, rng: Random) -> str | None:
    """One sentence that states the fact in one of the ways that are not held out for it."""
    allowed = [t for t in told.relation.statements if not told.held_out(t)]
    return told.tell(rng.choice(allowed)) if allowed else None


def named(told: Fact, language: Language, rng: Random) -> Fact:
    """The fact, now and then under its place's name in this language, if it may be told under that name."""
    name = foreign_name(told, language.code)
    return replace(told, subject=name) if name and not untold(told, language.code) and rng.random() < ABROAD else told


def mistaken(told: Fact, rng: Random) -> Fact:
    """The fact, now and then by mistake with the object of another one."""
    if not slip(rng):
        return told
    others = {row[told.relation.object] for row in World.load().rows(told.relation.table)} - {told.object, ""}
    return replace(told, object=rng.choice(sorted(others)))


def say(told: Fact, language: Language, rng: Random) -> str | None:
    """One sentence about the fact as people say it: it may have a mistake, a foreign name, or something else in the object's place."""
    ends = OTHER_ENDS.get(told.relation.name, {})
    other = [text for text in ends if not told.held_out(text)] if rng.random() < OTHERWISE else []
    allowed = other or [text for text in told.relation.statements if not told.held_out(text)]
    if not allowed:
        return None
    template = rng.choice(allowed)
    shown = named(told, language, rng)
    return replace(shown, object=rng.choice(ends[template])).tell(template) if other else mistaken(shown, rng).tell(template)


def opened(text: str, rng: Random) -> str:
    """The sentence after a random opener, its first letter small again where it is no name."""
    opener = rng.choice(TOLD["openers"])
    if opener and text.split()[0] in _plain_beginnings() and not text.startswith(_names_like_beginnings()):
        text = text[0].lower() + text[1:]
    if opener == "Did you know that":
        text = text[:-1] + "?"
    return f"{opener} {text}".strip()


@cache
def _plain_beginnings() -> frozenset[str]:
    """First words of sentences that are no names: they are written small after an opener."""
    templates = [template for r in relations().values() for template in r.statements]
    return frozenset(template.split()[0] for template in templates if template[0] != "{")


@cache
def _names_like_beginnings() -> tuple[str, ...]:
    """Names that begin with such a word all the same: The Birth of Venus."""
    return tuple({f.subject for f in all_facts(World.load()) if f.subject.split()[0] in _plain_beginnings()})


def _said(facts: Iterable[Fact | None], rng: Random) -> list[str]:
    """Every fact that there is and that may be told, each in one sentence; foreign names are those of one language."""
    language = draw_language(rng)
    return [text for f in facts if f and (text := say(f, language, rng))]


def statements(world: World, rng: Random) -> str | None:
    """One to three facts of different relations."""
    told = [draw_fact(world, rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    texts = [opened(text, rng) for text in _said(told, rng)]
    return " ".join([*texts, rng.choice(TOLD["tails"])]).strip() if texts else None


def same_relation(world: World, rng: Random) -> str | None:
    """The same relation for two to four subjects, each told in a way of its own."""
    relation = draw_relation(world, rng)
    drawn = [fact(relation, world.pick(rng, relation.table)) for _ in range(rng.choice((2, 3, 4)))]
    texts = _said({f.subject: f for f in drawn if f}.values(), rng)
    return " ".join(texts) if len(texts) > 1 else None


@cache
def _facts_by_subject() -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for f in all_facts(World.load()):
        found.setdefault(f.subject, []).append(f)
    return found


def portrait(world: World, rng: Random) -> str | None:
    """Two to four facts about one entity."""
    first = draw_fact(world, rng)
    known = _facts_by_subject()[first.subject] if first else []
    if len(known) < 2:
        return None
    chosen = rng.sample(known, min(len(known), rng.choice((2, 3, 4))))
    return " ".join(_said(chosen, rng)) or None


def questions(world: World, rng: Random) -> str | None:
    """One or two questions with their short answers."""
    before, between = rng.choice(TOLD["questions"])
    told = [draw_fact(world, rng) for _ in range(rng.choice((1, 1, 2)))]
    end = '"' if before == '"' else ""
    lines = []
    language = draw_language(rng)
    for f in (mistaken(named(f, language, rng), rng) for f in told if f):
        lines.append(f"{before}{f.ask(rng.choice(f.relation.questions))}{between}{sentence(f.answer)}.{end}")
    return "\n".join(lines) or None


@cache
def _trained_chains() -> list[Chain]:
    return [c for c in chains() if not c.held_out]


@cache
def _chains_by(what: str) -> dict[str, list[Chain]]:
    """The trained chains by their ``first`` entity, by their ``bridge`` or by their ``relations``."""
    found: dict[str, list[Chain]] = {}
    for chain in _trained_chains():
        key = {"first": chain.first.subject, "bridge": chain.first.object, "relations": chain.name}[what]
        found.setdefault(key, []).append(chain)
    return found


def _told_chain(chain: Chain, rng: Random) -> str:
    """A sentence that tells the chain, with a small first letter and without a full stop; the two plainest forms come more often."""
    forms = chain.phrasings
    return rng.choice(forms[:2] if rng.random() < 0.3 else forms).format(y=chain.second.answer)


def _after_opener(small: str, rng: Random) -> str:
    """The sentence, now and then after an opener."""
    opener = rng.choice(TOLD["openers"])
    end = "?" if opener == "Did you know that" else "."
    return sentence(f"{opener} {small}{end}".lstrip())


def _with_its_steps(chain: Chain, rng: Random) -> str:
    """The chain with its bridge named, or after the two facts of which it is made."""
    form = rng.choice((0, 1))
    if rng.random() < 0.5:
        told = [text for step in (chain.first, chain.second) if (text := tell(step, rng))]
        return " ".join([*told, f"So {chain.phrasings[form].format(y=chain.second.answer)}."])
    inner = chain.inner[form]
    small = chain.phrasings[form].replace(inner, f"{inner}, {chain.first.answer},")
    return _after_opener(small.format(y=chain.second.answer), rng)


def _asked_chains(chain: Chain, rng: Random) -> str:
    """The chain, and now and then others of its first entity, as questions with short answers."""
    before, between = rng.choice(TOLD["questions"])
    others = [other for other in _chains_by("first")[chain.first.subject] if other != chain]
    lines = []
    for one in (chain, *rng.sample(others, min(len(others), rng.choice((0, 1, 2))))):
        question = rng.choice(HOPS["questions"][one.second.relation.name]).format(x=rng.choice(one.inners))
        lines.append(f"{before}{sentence(question)}{between}{sentence(one.second.answer)}.{before[0] if before == chr(34) else ''}")
    return fitting(lines, "\n")


def _judged_chains(chain: Chain, rng: Random) -> str | None:
    """Three or four chains of one relation, half of them with another answer, and whether they are true."""
    same = [other for other in _chains_by("relations")[chain.name] if not held_out("claim", other.first.object)]
    lines = ["True or false?"]
    for one in rng.sample(same, min(len(same), rng.choice((3, 4)))):
        other = rng.choice(same).second
        right = other.object == one.second.object or rng.random() < 0.5
        said = _told_chain(one if right else replace(one, second=replace(one.second, object=other.object)), rng)
        lines.append(f"{sentence(said)}. {right}.")
    return fitting(lines, rng.choice((" ", "\n"))) if len(lines) > 1 else None


def _several_chains(chain: Chain, rng: Random) -> str:
    """Three to five chains one after the other, of one bridge, of one pair of relations, or as they come."""
    pool = rng.choice((_chains_by("bridge")[chain.first.object], _chains_by("relations")[chain.name], _trained_chains()))
    others = rng.sample(pool, min(len(pool), rng.choice((2, 3, 3, 4))))
    drawn = [chain, *(other for other in others if other != chain)]
    return fitting([sentence(f"{_told_chain(one, rng)}.") for one in drawn], rng.choice((" ", "\n")))


def _all_of_one(chain: Chain, rng: Random) -> str:
    """All that follows from one first hop: "In the country where the Louvre stands people speak French; its capital is Paris ..."."""
    followed = [c for c in _chains_by("first")[chain.first.subject] if c.first == chain.first and c.second.relation.name in HOPS["also"]]
    also = [HOPS["also"][c.second.relation.name].format(y=c.second.answer) for c in followed if c != chain]
    rng.shuffle(also)
    also = also[: rng.choice((2, 3, 3))]
    listed = f"{', '.join(also[:-1])} and {also[-1]}" if len(also) > 1 else "".join(also)
    return _after_opener(f"{_told_chain(chain, rng)}; {listed}" if listed else _told_chain(chain, rng), rng)


def two_hop(world: World, rng: Random) -> str | None:
    """Trained two-hop chains in many forms: told, asked, judged, several at a time, everything that follows from one first hop.

    A document has about three chains. With the shares of the mixtures, for one mention of a fact that is a first step of trained
    chains there are about five two-hop statements that take this step, for one of a second step more than four: from such a ratio on,
    models learn to take unseen steps as well (Wang et al. 2024, arXiv 2405.15071, "Grokked Transformers are Implicit Reasoners").
    """
    chain = rng.choice(_trained_chains())
    one = (lambda chain, rng: _after_opener(_told_chain(chain, rng), rng), _with_its_steps, _asked_chains, _judged_chains)
    write = rng.choices((*one, _several_chains, _all_of_one), (12, 6, 12, 8, 38, 24))[0]
    return write(chain, rng)


def true_or_false(world: World, rng: Random) -> str | None:
    """Three to five statements with verdicts; half are false, with another subject's object."""
    lines = ["True or false?"]
    for _ in range(rng.choice((3, 4, 5))):
        relation = relations()[rng.choice(TOLD["judged"])]
        told, other = (fact(relation, world.pick(rng, relation.table)) for _ in range(2))
        if told is None or other is None or held_out("claim", told.subject):
            continue
        right = told.object == other.object or rng.random() < 0.5
        if text := tell(told if right else replace(told, object=other.object), rng):
            lines.append(f"{text} {right}.")
    return fitting(lines, rng.choice((" ", "\n"))) if len(lines) > 1 else None


def fact_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Facts in a held-out paraphrase, drawn evenly; no subject contains its answer."""
    asked = [
        (f, template)
        for f in all_facts(world)
        for template in f.relation.forward
        if f.object not in f.subject and f.held_out(template) and template.endswith("{o}.") and template not in TOLD["told_elsewhere"]
    ]
    return [f.probe(template) for f, template in rng.sample(asked, min(n, len(asked)))]


def chain_probes(world: World, rng: Random, n: int, heldout: bool) -> list[tuple[Chain, Probe]]:
    """Two-hop questions in both forms, from trained or from held-out first entities."""
    found = [c for c in chains() if c.held_out == heldout and c.second.object not in c.first.subject]
    drawn = rng.sample(found, min(n, len(found)))
    return [(c, Probe(c.prompt(form), c.second.answer, group=c.name)) for c in drawn for form in (0, 1)]


INGREDIENTS = (statements, same_relation, portrait, questions, two_hop, true_or_false)
