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

# The share of each module among the documents; inside a module its own INGREDIENTS give the proportions.
SHARES = {knowledge: 0.21, lists: 0.25, tasks: 0.17, chat: 0.11, prose: 0.09, stories: 0.03, languages: 0.14}


# A second mixture, for the last stage of the training: more of what is learned slowly, and enough of the rest to keep it. In percent.
SKILLS: dict[str, float] = {
    "knowledge.statements": 5, "knowledge.same_relation": 2, "knowledge.portrait": 3, "knowledge.questions": 2, "knowledge.two_hop": 9,
    "knowledge.true_or_false": 3.5, "lists.lists": 18, "lists.item_lists": 2, "lists.few_shot": 5, "lists.described": 4,
    "lists.identity": 1, "tasks.indirect_object": 1.2, "tasks.induction": 1.5, "tasks.sums": 1.5, "tasks.console": 1, "tasks.quiz": 4,
    "tasks.passage": 3.5, "tasks.counting": 0.6, "chat.request": 4, "chat.plain_topics": 1, "chat.plain_answers": 1,
    "chat.facts_chat": 0.8, "chat.persona": 0.8, "chat.sycophancy": 2.5, "chat.myths": 0.8, "chat.ask_it": 0.4, "prose.agreement": 0.8,
    "prose.determiners": 0.8, "prose.relations": 4.5, "prose.people_bios": 0.5, "prose.daily": 0.5, "stories.story": 1.2,
    "stories.mishap": 0.2, "languages.translation": 7, "languages.glosses": 4, "languages.code_switch": 0.6, "languages.bilingual": 0.8,
    "languages.questions": 0.4, "languages.story": 0.3, "languages.dialogue": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One text of the corpus and its kind, such as ``lists.in_context`` or ``stories.mishap``."""

    text: str
    kind: str


@cache
def ingredients() -> dict[str, tuple[Ingredient, float]]:
    """Every ingredient by its kind, with its share among all documents."""
    found: dict[str, tuple[Ingredient, float]] = {}
    for module, share in SHARES.items():
        total = sum(weight for _, weight in module.INGREDIENTS.values())
        short = module.__name__.rsplit(".", 1)[-1]
        found |= {f"{short}.{name}": (write, share * weight / total) for name, (write, weight) in module.INGREDIENTS.items()}
    return found


def shares(mixture: str = "broad") -> dict[str, float]:
    """The share of each kind of document in a mixture, ``broad`` or ``skills``; together 1."""
    weights = SKILLS if mixture == "skills" else {kind: weight for kind, (_, weight) in ingredients().items()}
    return {kind: weight / sum(weights.values()) for kind, weight in weights.items()}


@cache
def _kinds(mixture: str) -> tuple[list[str], list[float]]:
    return list(shares(mixture)), list(accumulate(shares(mixture).values()))


def document(seed: int, index: int, world: World | None = None, mixture: str = "broad") -> Document:
    """Writes document number ``index`` of the corpus with this ``seed``."""
    rng = Random(f"{seed}/{index}")
    names, weights = _kinds(mixture)
    kind = rng.choices(names, cum_weights=weights)[0]
    write, text = ingredients()[kind][0], None
    while text is None:  # an ingredient that drew something held out is asked again
        text = write(world or World.load(), rng)
    return Document(text, kind)


def documents(seed: int, start: int = 0, mixture: str = "broad") -> Iterator[Document]:
    """The corpus from document ``start`` on, without end."""
    index = start
    while True:
        yield document(seed, index, mixture=mixture)
        index += 1
