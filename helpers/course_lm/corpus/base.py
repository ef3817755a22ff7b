"""What every ingredient of the corpus is made of: probes, chats, and tools for writing English."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from helpers.course_lm.world import DATA, Row, World, read_json, read_table

BOS = "<|endoftext|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"


# A text that people wrote has mistakes in it, and the same beginning goes on in several ways. So that the model does not grow surer
# than such a text allows, this share of the facts is told with a wrong object, and of the sentences about number with the wrong one ...
SLIPS = 0.01
# ... and in this share of the tellings something else that is true stands in the object's place: "The capital of France is a big city."
OTHERWISE = 0.03


@dataclass(frozen=True)
class Probe:
    """One held-out question to the model: does ``answer`` follow ``prompt``?

    ``wrong`` is the competing continuation of a contrast (for logit differences), ``group`` the
    task, template or phrasing to which the probe belongs. ``prompt`` ends without a space,
    ``answer`` is written without a leading one.
    """

    prompt: str
    answer: str
    wrong: str | None = None
    group: str = ""


# An ingredient writes one document, or None if it drew something that is held out (it is then asked again).
Ingredient = Callable[[World, Random], str | None]


def chat(*turns: tuple[str, str], system: str | None = None, ask: bool = False) -> str:
    """Writes a conversation in the chat format; ``ask`` leaves it open where the assistant's answer begins.

    >>> chat(("user", "Hello!"), ("assistant", "Hi."))
    '<|user|>Hello!<|end|><|assistant|>Hi.<|end|>'
    >>> chat(("user", "Hello!"), ask=True)
    '<|user|>Hello!<|end|><|assistant|>'
    """
    marks = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    turns = ((("system", system),) if system else ()) + turns
    return "".join(f"{marks[role]}{text}{END}" for role, text in turns) + (ASSISTANT if ask else "")


def slip(rng: Random) -> bool:
    """Is a mistake made here?"""
    return rng.random() < SLIPS


def phrases(name: str) -> dict[str, Any]:
    """The phrases and words of ``data/corpus/<name>.json``, by the names of their lists."""
    return read_json(DATA / "corpus" / f"{name}.json")


def table(name: str) -> list[Row]:
    """The rows of ``data/corpus/<name>.csv``."""
    return read_table(DATA / "corpus" / f"{name}.csv")


def an(noun: str) -> str:
    """Puts the indefinite article before a noun phrase: ``an("apple")`` is ``"an apple"``."""
    first = noun.split()[0]
    odd = phrases("articles")["a_or_an"]  # words whose article does not follow from their first letter
    article = odd.get(first, "an" if first[0].lower() in "aeiou" else "a")
    return f"{article} {noun}"


def sentence(text: str) -> str:
    """Makes the first letter a capital and leaves the rest alone."""
    return text[:1].upper() + text[1:]
