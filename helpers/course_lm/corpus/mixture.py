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


@cache
def _kinds() -> tuple[list[str], list[float]]:
    return list(ingredients()), list(accumulate(weight for _, weight in ingredients().values()))


def document(seed: int, index: int, world: World | None = None) -> Document:
    """Writes document number ``index`` of the corpus with this ``seed``."""
    rng = Random(f"{seed}/{index}")
    names, weights = _kinds()
    kind = rng.choices(names, cum_weights=weights)[0]
    write, text = ingredients()[kind][0], None
    while text is None:  # an ingredient that drew something held out is asked again
        text = write(world or World.load(), rng)
    return Document(text, kind)


def documents(seed: int, start: int = 0) -> Iterator[Document]:
    """The corpus from document ``start`` on, without end."""
    index = start
    while True:
        yield document(seed, index)
        index += 1
