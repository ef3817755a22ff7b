"""Facts of the world in prose: statements, portraits of an entity, questions, two-hop questions."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from random import Random

from helpers.course_lm.corpus.base import Probe, phrases, sentence
from helpers.course_lm.corpus.lists import fitting
from helpers.course_lm.facts import Chain, Fact, Relation, all_facts, chains, fact, relations
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

TOLD = phrases("knowledge")


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


def opened(text: str, rng: Random) -> str:
    """The sentence after a random opener, its first letter small again where it is no name."""
    opener = rng.choice(TOLD["openers"])
    if opener and text.split()[0] in _plain_beginnings():
        text = text[0].lower() + text[1:]
    if opener == "Did you know that":
        text = text[:-1] + "?"
    return f"{opener} {text}".strip()


@cache
def _plain_beginnings() -> frozenset[str]:
    """First words of sentences that are no names: they are written small after an opener."""
    templates = [template for r in relations().values() for template in r.statements]
    return frozenset(template.split()[0] for template in templates if template[0] != "{")


def _told(facts: Iterable[Fact | None], rng: Random) -> list[str]:
    """Every fact that there is and that may be told, each in one sentence."""
    return [text for f in facts if f and (text := tell(f, rng))]


def statements(world: World, rng: Random) -> str | None:
    """One to three facts of different relations."""
    told = [draw_fact(world, rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    texts = [opened(text, rng) for f in told if f and (text := tell(f, rng))]
    return " ".join([*texts, rng.choice(TOLD["tails"])]).strip() if texts else None


def same_relation(world: World, rng: Random) -> str | None:
    """The same relation for two to four subjects, each told in a way of its own."""
    relation = draw_relation(world, rng)
    drawn = [fact(relation, world.pick(rng, relation.table)) for _ in range(rng.choice((2, 3, 4)))]
    texts = _told({f.subject: f for f in drawn if f}.values(), rng)
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
    return " ".join(_told(chosen, rng)) or None


def questions(world: World, rng: Random) -> str | None:
    """One or two questions with their short answers."""
    before, between = rng.choice(TOLD["questions"])
    told = [draw_fact(world, rng) for _ in range(rng.choice((1, 1, 2)))]
    end = '"' if before == '"' else ""
    lines = []
    for f in filter(None, told):
        lines.append(f"{before}{f.ask(rng.choice(f.relation.questions))}{between}{sentence(f.answer)}.{end}")
    return "\n".join(lines) or None


@cache
def _trained_chains() -> list[Chain]:
    return [c for c in chains() if not c.held_out]


def two_hop(world: World, rng: Random) -> str | None:
    """A two-hop sentence; the bridge may be named in it, or the two steps are told first."""
    chain = rng.choice(_trained_chains())
    form = rng.choice((0, 1))
    prompt = chain.prompt(form)
    answer = chain.second.answer
    small = f"{prompt[0].lower()}{prompt[1:]}"
    kind = rng.random()
    if kind < 0.2:
        prompt = prompt.replace(chain.inner[form], f"{chain.inner[form]}, {chain.first.answer},")
    elif kind < 0.3:
        return " ".join([*_told((chain.first, chain.second), rng), f"So {small} {answer}."])
    elif kind < 0.45:
        asked = rng.choice(("Question", "Q"))
        question = f"What is {small[: small.rindex(' is')]}?"
        return f"{asked}: {question} {rng.choice(('Answer', 'A'))}: {answer}."
    return opened(f"{prompt} {answer}.", rng)


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
