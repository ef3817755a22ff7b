"""Options with letters: words that are looked up by their letter, letters by their word, and multiple choice.

Kept out of the training text: words (``lookup``) that never stand beside a letter that is looked up, and facts (``quiz``) that no
question with letters asks.
"""

from collections.abc import Sequence
from random import Random

from helpers.course_lm.corpus.base import phrases

LETTERS = "ABCD"
DATA = phrases("letters")
LAYOUTS: list[list[str]] = DATA["layouts"]  # how an option is written, and what stands between two


def options(rng: Random, texts: Sequence[str], layout: Sequence[str] | None = None) -> str:
    """Lays out two to four texts as options with the letters from A on, in some layout or in the one given.

    >>> options(Random(0), ["cat", "dog"], ("({letter}) {text}", " "))
    '(A) cat (B) dog'
    """
    shape, separator = layout or rng.choice(LAYOUTS)
    return separator.join(shape.format(letter=letter, text=text) for letter, text in zip(LETTERS, texts, strict=False))
