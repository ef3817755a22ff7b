"""The whole corpus: all ingredients in their proportions, document by document, fixed by a seed.

Document number ``i`` depends on the seed and on ``i`` alone, so any part of the corpus can be
written again by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count
from random import Random

from helpers.course_lm.corpus import chat, everyday, knowledge, languages, letters, lists, prose, stories, tasks
from helpers.course_lm.corpus.base import Ingredient, table
from helpers.course_lm.world import World

# How much of each kind of document each stage of the training reads, in percent (shares are made to add up to 100). "broad" comes
# first; "skills" has more of what is learned slowly, and enough of the rest to keep it; "review" has everything once more, most of
# all what "skills" made the model forget; "letters" asks for many facts by letter, once
# letters can be looked up; "whole" has everything, and more of what was still missing.
MIXTURES: dict[str, dict[str, float]] = {
    mixture: {row["kind"]: float(row[mixture]) for row in table("mixtures")}
    for mixture in ("broad", "skills", "review", "letters", "whole")
}


@dataclass(frozen=True)
class Document:
    """One text of the corpus and its kind, such as ``lists.in_context`` or ``stories.mishap``."""

    text: str
    kind: str


@cache
def ingredients() -> dict[str, Ingredient]:
    """Every ingredient by its kind, the name of its module and its own."""
    modules = (knowledge, lists, letters, tasks, chat, prose, stories, languages, everyday)
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
    while (text := ingredients()[kind](world or World.load(), rng)) is None:
        pass  # an ingredient that drew something held out is asked again
    return Document(text, kind)


def documents(seed: int, start: int = 0, mixture: str = "broad") -> Iterator[Document]:
    """The corpus from document ``start`` on, without end."""
    return (document(seed, index, mixture=mixture) for index in count(start))
