"""Facts of the world in prose: single statements, portraits of an entity, questions, and two-hop questions."""

from dataclasses import replace
from functools import cache
from itertools import accumulate
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, sentence
from helpers.course_lm.corpus.lists import fitting
from helpers.course_lm.facts import Chain, Fact, Relation, all_facts, chains, fact, relations
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

OPENERS = [
    "", "", "", "", "", "", "", "As everybody knows,", "In fact,", "Remember that", "My teacher says that", "I learned that",
    "It is true that", "The book says that", "Did you know that", "We read today that", "My aunt told me that",
    "In class we heard that", "It is well known that", "The guide told us that", "Nobody doubts that", "As you may know,",
    "People often forget that", "Today I learned that", "The quiz said that", "In the newspaper I read that", "I am sure that",
    "Our neighbour knows that", "Write this down:", "Here is a fact:", "The answer is easy:", "On the radio they said that",
    "Let me tell you that", "The map shows that", "My friend is right:", "One more thing:", "Please note that",
]  # fmt: skip
TAILS = [
    "", "", "", "", "", "", "", "", "That is easy to remember.", "I did not know that before.", "It was in the test.",
    "Everybody in my class knew it.", "My brother wrote it down.", "That is what the book says.", "We talked about it at dinner.",
    "It is a nice fact.", "I will not forget it.", "She was surprised to hear it.", "That surprised me.", "He said it twice.",
    "The children repeated it.", "You can look it up.", "So it is.",
]  # fmt: skip
ASKS = [("Question: ", " Answer: "), ("Q: ", " A: "), ("Q: ", "\nA: "), ("", " "), ('"', '" "'), ("She asked: ", " He said: ")]


def draw_relation(world: World, rng: Random) -> Relation:
    """Draws a relation, long tables more often, but less than in proportion to their length."""
    names, weights = _relation_weights()
    return relations()[rng.choices(names, cum_weights=weights)[0]]


@cache
def _relation_weights() -> tuple[list[str], list[float]]:
    world = World.load()
    return list(relations()), list(accumulate(len(world.rows(r.table)) ** 0.9 for r in relations().values()))


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
    opener = rng.choice(OPENERS)
    if opener and text.split()[0] in _plain_beginnings():
        text = text[0].lower() + text[1:]
    if opener == "Did you know that":
        text = text[:-1] + "?"
    return f"{opener} {text}".strip()


@cache
def _plain_beginnings() -> frozenset[str]:
    """First words of sentences that are no names: they are written small after an opener."""
    return frozenset(t.split()[0] for r in relations().values() for t in r.statements if t[0] != "{")


def statements(world: World, rng: Random) -> str | None:
    """One to three facts of different relations."""
    told = [draw_fact(world, rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    texts = [opened(text, rng) for f in told if f and (text := tell(f, rng))]
    return " ".join([*texts, rng.choice(TAILS)]).strip() if texts else None


def same_relation(world: World, rng: Random) -> str | None:
    """The same relation for two to four subjects, each told in a way of its own."""
    relation = draw_relation(world, rng)
    told = [fact(relation, world.pick(rng, relation.table)) for _ in range(rng.choice((2, 3, 4)))]
    by_subject = {f.subject: f for f in told if f}
    texts = [text for f in by_subject.values() if (text := tell(f, rng))]
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
    if first is None:
        return None
    known = _facts_by_subject()[first.subject]
    if len(known) < 2:
        return None
    texts = [text for f in rng.sample(known, min(len(known), rng.choice((2, 3, 4)))) if (text := tell(f, rng))]
    return " ".join(texts) or None


def questions(world: World, rng: Random) -> str | None:
    """One or two questions with their short answers."""
    before, between = rng.choice(ASKS)
    told = [f for _ in range(rng.choice((1, 1, 2))) if (f := draw_fact(world, rng))]
    end = '"' if before == '"' else ""
    return "\n".join(f"{before}{f.ask(rng.choice(f.relation.questions))}{between}{sentence(f.answer)}.{end}" for f in told) or None


@cache
def _trained_chains() -> list[Chain]:
    return [c for c in chains() if not c.held_out]


def two_hop(world: World, rng: Random) -> str | None:
    """A two-hop sentence; sometimes the bridge is named in an apposition or the two steps are told first."""
    chain = rng.choice(_trained_chains())
    first, second, form = chain.first, chain.second, rng.choice((0, 1))
    prompt = chain.prompt(form)
    kind = rng.random()
    if kind < 0.2:
        inner = chain.inner[form]
        prompt = prompt.replace(inner, f"{inner}, {first.answer},")
    elif kind < 0.3:
        steps = [t for f in (first, second) if (t := tell(f, rng))]
        return " ".join([*steps, f"So {prompt[0].lower()}{prompt[1:]} {second.answer}."])
    elif kind < 0.45:
        asked = prompt[: prompt.rindex(" is")]
        return f"{rng.choice(('Question', 'Q'))}: What is {asked[0].lower()}{asked[1:]}? {rng.choice(('Answer', 'A'))}: {second.answer}."
    return opened(f"{prompt} {second.answer}.", rng)


JUDGED = (
    "capital", "continent", "language", "currency", "landmark_country", "city_country", "nationality", "occupation", "symbol",
    "animal_kind", "company_country", "performer",
)  # fmt: skip


def true_or_false(world: World, rng: Random) -> str | None:
    """Three to five statements, each followed by the verdict; half of them are false, with the object of another subject."""
    lines = ["True or false?"]
    for _ in range(rng.choice((3, 4, 5))):
        relation = relations()[rng.choice(JUDGED)]
        told, other = (fact(relation, world.pick(rng, relation.table)) for _ in range(2))
        if told is None or other is None or held_out("claim", told.subject):
            continue
        right = told.object == other.object or rng.random() < 0.5
        text = tell(told if right else replace(told, object=other.object), rng)
        if text:
            lines.append(f"{text} {'True' if right else 'False'}.")
    return fitting(lines, rng.choice((" ", "\n"))) if len(lines) > 1 else None


# Ways of telling that other ingredients use too, in lists of descriptions or chats, so that they are held out for nobody.
TOLD_ELSEWHERE = {
    "The capital of {s} is {o}.", "{s}'s capital is {o}.", "{s} is a city in {o}.", "{s} is a country in {o}.",
    "The continent of {s} is {o}.", "The main language of {s} is {o}.", "The language of {s} is {o}.",
    "The currency of {s} is the {o}.", "{s} is a song by {o}.", "The performer of {s} is {o}.", "{s} is a book by {o}.",
    "The author of {s} is {o}.", "{s} is a film by {o}.", "The director of {s} is {o}.", "{s} is a work by {o}.",
    "The composer of {s} is {o}.", "{s} is a painting by {o}.", "The painter of {s} is {o}.", "The {s} is a river in {o}.",
    "{s} is a mountain in {o}.", "A young {s} is called a {o}.", "The young of a {s} is a {o}.",
}  # fmt: skip


def fact_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Facts in a paraphrase that is held out for their subject, drawn evenly; none whose subject contains its answer."""
    facts = [f for f in all_facts(world) if f.object not in f.subject]
    asked = [(f, t) for f in facts for t in f.relation.forward if f.held_out(t) and t.endswith("{o}.") and t not in TOLD_ELSEWHERE]
    return [f.probe(t) for f, t in rng.sample(asked, min(n, len(asked)))]


def chain_probes(world: World, rng: Random, n: int, heldout: bool) -> list[tuple[Chain, Probe]]:
    """Two-hop questions in both forms, from trained or from held-out first entities."""
    found = [c for c in chains() if c.held_out == heldout and c.second.object not in c.first.subject]
    drawn = rng.sample(found, min(n, len(found)))
    return [(c, Probe(c.prompt(form), c.second.answer, group=c.name)) for c in drawn for form in (0, 1)]


INGREDIENTS: tuple[Ingredient, ...] = (statements, same_relation, portrait, questions, two_hop, true_or_false)
