"""The whole corpus: all ingredients in their proportions, document by document, fixed by a seed.

Document number ``i`` depends on the seed and on ``i`` alone, so any part of the corpus can be written again by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random

from helpers.course_lm.corpus import chat, knowledge, languages, lists, prose, stories, tasks
from helpers.course_lm.corpus.base import Ingredient
from helpers.course_lm.world import World

# How much of each kind of document the text holds, in percent (shares are made to add up to 100).
BROAD: dict[str, float] = {
    "knowledge.statements": 10, "knowledge.same_relation": 2, "knowledge.portrait": 4, "knowledge.questions": 2.5, "knowledge.two_hop": 10,
    "knowledge.true_or_false": 1, "lists.lists": 21, "lists.item_lists": 2, "lists.few_shot": 5, "lists.described": 4,
    "lists.identity": 1, "tasks.indirect_object": 2.5, "tasks.induction": 2, "tasks.sums": 2.5, "tasks.console": 1, "tasks.quiz": 2,
    "tasks.passage": 2, "tasks.counting": 0.5, "chat.request": 5, "chat.plain_topics": 2, "chat.plain_answers": 1.5,
    "chat.facts_chat": 1, "chat.persona": 1, "chat.sycophancy": 2.5, "chat.myths": 1, "chat.ask_it": 0.5, "prose.agreement": 1.2,
    "prose.determiners": 1.2, "prose.relations": 6, "prose.forms": 0, "prose.people_bios": 0.5, "prose.daily": 0.7, "stories.story": 1.5,
    "stories.mishap": 0.2, "languages.translation": 5, "languages.german_pairs": 0, "languages.glosses": 4,
    "languages.code_switch": 0.8, "languages.bilingual": 0.8, "languages.questions": 0.5, "languages.story": 0.4,
    "languages.dialogue": 0.3,
}  # fmt: skip
# For a last stage of the training: more of what is learned slowly, and enough of the rest to keep it.
SKILLS: dict[str, float] = BROAD | {
    "knowledge.statements": 7, "knowledge.two_hop": 7, "lists.lists": 17, "tasks.indirect_object": 5, "tasks.induction": 2,
    "chat.request": 7, "chat.plain_topics": 3, "chat.sycophancy": 17, "prose.relations": 5, "prose.forms": 4,
    "languages.translation": 10, "languages.glosses": 6,
}  # fmt: skip
# For the very end: everything once more, what the second stage made it forget most of all.
REVIEW: dict[str, float] = BROAD | {
    "lists.lists": 19, "tasks.indirect_object": 3.5, "tasks.sums": 5, "chat.request": 8, "chat.plain_topics": 3.5,
    "chat.sycophancy": 7, "prose.relations": 5, "prose.forms": 2, "languages.translation": 5, "languages.german_pairs": 5,
}  # fmt: skip
MIXTURES = {"broad": BROAD, "skills": SKILLS, "review": REVIEW}


@dataclass(frozen=True)
class Document:
    """One text of the corpus and its kind, such as ``lists.in_context`` or ``stories.mishap``."""

    text: str
    kind: str


@cache
def ingredients() -> dict[str, Ingredient]:
    """Every ingredient by its kind, the name of its module and its own."""
    modules = (knowledge, lists, tasks, chat, prose, stories, languages)
    return {f"{module.__name__.rsplit('.', 1)[-1]}.{write.__name__}": write for module in modules for write in module.INGREDIENTS}


def shares(mixture: str = "broad") -> dict[str, float]:
    """The share of each kind of document in a mixture, ``broad``, ``skills`` or ``review``; together 1."""
    weights = MIXTURES[mixture]
    return {kind: weights[kind] / sum(weights.values()) for kind in ingredients()}


@cache
def _kinds(mixture: str) -> tuple[list[str], list[float]]:
    return list(shares(mixture)), list(accumulate(shares(mixture).values()))


def document(seed: int, index: int, world: World | None = None, mixture: str = "broad") -> Document:
    """Writes document number ``index`` of the corpus with this ``seed``."""
    rng = Random(f"{seed}/{index}")
    names, weights = _kinds(mixture)
    kind = rng.choices(names, cum_weights=weights)[0]
    write, text = ingredients()[kind], None
    while text is None:  # an ingredient that drew something held out is asked again
        text = write(world or World.load(), rng)
    return Document(text, kind)


def documents(seed: int, start: int = 0, mixture: str = "broad") -> Iterator[Document]:
    """The corpus from document ``start`` on, without end."""
    index = start
    while True:
        yield document(seed, index, mixture=mixture)
        index += 1
