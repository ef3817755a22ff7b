"""Facts as prompts: a text up to the answer, and where in it the subject stands.

facts = known_facts(model, course_facts(n=200))
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from helpers.course_lm.facts import Fact, all_facts, relations
from helpers.course_lm.world import World
from helpers.inputs import check_number
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.prediction import token_span
from helpers.running import next_tokens


@dataclass(frozen=True)
class FactPrompt:
    """A prompt about a subject that begins at letter ``start`` of the text, and the answer that should follow.

    ``attributes`` are words that are true of the subject, and ``others`` words of another subject: the control (see ``enrichment``).
    """

    text: str
    answer: str
    subject: str
    start: int
    relation: str = ""
    attributes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def fact_prompt(text: str, answer: str, subject: str, **about: str | tuple[str, ...]) -> FactPrompt:
    """A prompt for any model: ``fact_prompt("The capital of Poland is", "Warsaw", "Poland")``. Capital and small letters are the same.

    Raises ValueError unless the subject stands in the text, and once only.
    """
    found = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", text, re.IGNORECASE)]
    if not subject.strip() or len(found) != 1:
        raise ValueError(f"The subject {subject!r} must stand in {text!r} once, but is there {len(found)} times: write another prompt.")
    return FactPrompt(text, answer, subject, found[0], **about)


def course_facts(names: Sequence[str] | None = None, n: int = 100, seed: int = 0) -> list[FactPrompt]:
    """``n`` facts of the course LM's world, from all relations in turn or from some, each once, with a sentence drawn for each.

    Where a relation has both kinds of sentences, the subject begins every other one ("Poland's capital is") and stands later in the
    rest ("The capital of Poland is"). Raises ValueError for an unknown relation, and where there are too few facts.
    """
    world, rng, every = World.load(), Random(seed), relations()
    if unknown := next((name for name in names or () if name not in every), None):
        raise ValueError(f"There is no relation {unknown!r} in the world; there are: {', '.join(every)}.")
    usable = [fact for fact in all_facts(world) if (not names or fact.relation.name in names) and fit_to_ask(fact)]
    check_number("n says how many facts of these relations to draw", n, high=len(usable))
    pools = [[fact for fact in usable if fact.relation is relation] for relation in every.values()]
    pools = [rng.sample(pool, len(pool)) for pool in pools]
    turns = [(turn, fact) for turn, row in enumerate(zip_longest(*pools)) for fact in row if fact]
    said: dict[str, set[str]] = {}  # the attributes of every subject
    for fact in all_facts(world):
        said.setdefault(fact.subject, set()).update({fact.object, *fact.row.values()} - {"", fact.subject})
    return [_told(world, said, fact, turn % 2 == 0, rng) for turn, fact in turns[:n]]


def fit_to_ask(fact: Fact) -> bool:
    """Is the answer a word of its own, which the prompt does not give away?"""
    subject, answer = fact.subject.lower(), fact.object.lower()
    return fact.answer == fact.object and answer not in subject and subject not in answer and bool(fact.relation.forward)


def _told(world: World, said: dict[str, set[str]], fact: Fact, at_start: bool, rng: Random) -> FactPrompt:
    """The fact up to its answer, in a sentence that begins with the subject or not, if there is one, and attributes of another subject."""
    relation = fact.relation
    fitting = [template for template in relation.forward if template.startswith(("{s}", "The {s}", "A {s}")) == at_start]
    asked = fact.probe(rng.choice(fitting or relation.forward))
    another = rng.choice([name for name in world.column(relation.table, relation.subject) if name != fact.subject])
    own, others = said[fact.subject], said.get(another, set())
    words = {"attributes": tuple(sorted(own)), "others": tuple(sorted(others - own))}
    return fact_prompt(asked.prompt, asked.answer, fact.subject, relation=relation.name, **words)


def known_facts(model: TransformerBridge, facts: Sequence[FactPrompt]) -> list[FactPrompt]:
    """The facts that the model answers right: the answer's first token is its most likely one. Raises ValueError where it knows none."""
    texts = [fact.text for fact in facts]
    right = next_tokens(model, texts) == first_tokens(model, texts, [fact.answer for fact in facts])
    if not right.any():
        raise ValueError("The model answers none of these prompts right: ask for other facts, or write the prompts as it has read them.")
    return [fact for fact, hit in zip(facts, right.tolist(), strict=True) if hit]


def subject_span(model: TransformerBridge, fact: FactPrompt) -> range:
    """The positions of the subject's tokens; a space in front belongs to the subject.

    Raises ValueError where they are not separate from the text around, where nothing follows them, and for a prompt that is too long.
    """
    stop = fact.start + len(fact.subject)
    if not fact.text[stop:].strip():
        raise ValueError(f"{fact.text!r} ends with its subject: something must follow, from where the model looks back at the subject.")
    return token_span(model, fact.text, fact.start, stop)
