"""What every conversation is made of: turns, greetings, and the facts that are asked, claimed and explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from helpers.course_lm.corpus.base import Probe, phrases
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.world import Row, World

TALK = phrases("conversation")
SYSTEMS: list[str] = phrases("requests")["systems"]
Turn = tuple[str, str]


def maybe(rng: Random, share: float, options: Sequence[str]) -> str | None:
    """One of ``options`` in ``share`` of the cases, otherwise nothing."""
    return rng.choice(options) if rng.random() < share else None


def join(*parts: str | None) -> str:
    """Joins the parts that are there with spaces."""
    return " ".join(part for part in parts if part)


def tailed(rng: Random, texts: Sequence[str], share: float, tails: Sequence[str]) -> str:
    """One of ``texts``, in ``share`` of the cases with one of ``tails`` behind it."""
    return join(rng.choice(texts), maybe(rng, share, tails))


def some(rng: Random, n: int, probes: list[Probe]) -> list[Probe]:
    """At most ``n`` of ``probes``, in random order."""
    return rng.sample(probes, min(n, len(probes)))


def exchange(question: str, answer: str) -> tuple[Turn, Turn]:
    """What the user says, and the reply."""
    return ("user", question), ("assistant", answer)


def reply(rng: Random, asks: Sequence[str], replies: Sequence[str]) -> tuple[Turn, Turn]:
    """A drawn exchange of which any reply fits any question."""
    return exchange(rng.choice(asks), rng.choice(replies))


def greeting(rng: Random) -> tuple[Turn, Turn]:
    """A greeting and its reply, as the first two turns of a chat."""
    asks, replies = rng.choice(TALK["greetings"])
    return exchange(rng.choice(asks), tailed(rng, replies, 0.6, TALK["offers"]))


# --- Facts that are asked, claimed and explained --------------------------------------------------

TABLES = {"author": "books", "performer": "songs"} | dict.fromkeys(("capital", "continent", "language", "currency"), "countries")
PAIRS: dict[str, dict[str, str]] = {"colour": TALK["colours"], "opposite": TALK["opposites"]}


@dataclass(frozen=True)
class Fact:
    """A fact that can be asked: about ``subject`` France, "the capital of France" is ``value``."""

    kind: str
    subject: str
    shown: str
    value: str

    @property
    def phrase(self) -> str:
        """What is asked, such as "the capital of France"."""
        main = "main " if self.kind == "language" else ""
        return f"the {main}{self.kind} of {self.shown}"


def fact_of(kind: str, row: Row) -> Fact:
    """The fact of one ``kind`` that stands in a row of its table."""
    if TABLES[kind] == "countries":
        return Fact(kind, row["name"], country_with_the(row["name"]), row[kind])
    return Fact(kind, row["title"], row["title"], row[kind])


def draw_fact(world: World, rng: Random, kinds: Sequence[str]) -> Fact:
    """Draws a fact of one of ``kinds``, more often about what is famous."""
    kind = rng.choice(kinds)
    if kind in TABLES:
        return fact_of(kind, world.pick(rng, TABLES[kind]))
    subject, value = rng.choice(list(PAIRS[kind].items()))
    return Fact(kind, subject, subject, value)
