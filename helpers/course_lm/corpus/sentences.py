"""Short sentences in English and in one other language, composed of a noun, an adjective, a verb, a place and a time.

There are millions of them, so that translating one means to compose it. Kept out is ``held_out("sentence", subject,
adjective, verb)``: no text translates a sentence with these three.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence, table
from helpers.course_lm.corpus.grammar import CHINESE, ENGLISH, FOREIGN, FRENCH, GERMAN, GRAMMAR, NOUN_SLOTS, Language, draw_language
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World

SHAPES = phrases("languages")["sentence_shapes"]
FRENCH_BEFORE = ("petit", "grand", "jeune", "joli")  # adjectives that stand before the noun
# Without and with a time at the beginning; {s} is the subject, {v} the verb with its object, {at} the place, {t} the time.
ORDERS = {
    "en": ("{s} {v} {at}.", "{t}, {s} {v} {at}."),
    "fr": ("{s} {v} {at}.", "{t}, {s} {v} {at}."),
    "de": ("{s} {v} {at}.", "{t} {verb} {s} {rest} {at}."),
    "zh": ("{s}{at}{v}。", "{t}{s}{at}{v}。"),
}


@cache
def words(part: str) -> list[Row]:
    """The words of one part of a sentence: ``being`` and ``thing`` (their adjectives), ``alone``, ``with`` (verbs), ``place``, ``time``."""
    return [row for row in table("sentence_words") if row["part"] == part]


@dataclass(frozen=True)
class Sentence:
    """What a sentence says: who does what where, and when; the adjective belongs to the object or, without one, to the subject."""

    subject: Row
    adjective: Row
    verb: Row
    thing: Row | None
    place: Row
    time: Row | None

    @property
    def held_out(self) -> bool:
        """Does no text of the corpus translate it?"""
        return held_out("sentence", self.subject["singular"], self.adjective["en"], self.verb["en"])

    def written(self, language: Language) -> str:
        """The sentence in one language."""
        code = language.code
        subject = NOUN_SLOTS[code](self.subject)["the"] if self.thing else described(self.subject, self.adjective, code, "the")
        rest = described(self.thing, self.adjective, code, "object") if self.thing else ""
        verb = self.verb[code]
        gap = "" if language is CHINESE else " "
        filled = {"s": subject, "v": f"{verb}{gap}{rest}".rstrip(), "verb": verb, "rest": rest, "at": self.place[code]}
        text = ORDERS[code][self.time is not None].format(**filled, t=self.time[code] if self.time else "")
        return sentence(text.replace("  ", " "))


def described(noun: Row, adjective: Row, code: str, use: str) -> str:
    """A noun with its adjective: the subject with *the*, or an object with *a*."""
    slots = NOUN_SLOTS[code](noun)
    if code == ENGLISH.code:
        phrase = f"{adjective['en']} {slots['n']}"
        return f"the {phrase}" if use == "the" else an(phrase)
    if code == FRENCH.code:
        feminine = slots["it"] == "elle"
        word = adjective["fr_feminine" if feminine else "fr"]
        if adjective["fr"] not in FRENCH_BEFORE:
            return f"{slots['the' if use == 'the' else 'a']} {word}"
        return f"{('la' if feminine else 'le') if use == 'the' else ('une' if feminine else 'un')} {word} {slots['n']}"
    if code == GERMAN.code:
        article, name = slots["the" if use == "the" else "o"].split(" ", 1)
        ending = {"einen": "n", "ein": "s"}.get(article, "")
        return f"{article} {adjective['de']}{ending} {name}"
    phrase = slots["the" if use == "the" else "a"]
    return f"{phrase.removesuffix(slots['n'])}{adjective['zh']}{slots['n']}"


@cache
def _nouns(world: World) -> tuple[list[Row], list[Row]]:
    """Those who can be the subject, and what can be bought, carried and lost; every language has a word for each."""
    known = [row for row in world.rows("nouns") if all(row[language.code] for language in FOREIGN)]
    beings = [row for row in known if row["category"] in ("person", "animal")]
    small = [row for row in known if row["category"] in GRAMMAR["small"] or row["singular"] in GRAMMAR["small_too"]]
    unfit = {word for words in ("no_story", "no_object", "parts", "fixed") for word in GRAMMAR[words]}
    return beings, [row for row in small if row["singular"] not in unfit]


def draw_sentence(world: World, rng: Random) -> Sentence:
    """Draws what a sentence says."""
    beings, things = _nouns(world)
    alone = rng.random() < 0.5
    subject = rng.choice(beings if alone else [row for row in beings if row["category"] == "person"])
    adjective, verb = rng.choice(words("being" if alone else "thing")), rng.choice(words("alone" if alone else "with"))
    time = rng.choice(words("time")) if rng.random() < 0.3 else None
    return Sentence(subject, adjective, verb, None if alone else rng.choice(things), rng.choice(words("place")), time)


def sentences(world: World, rng: Random) -> str | None:
    """One or two English sentences, each with its translation, or translated into English."""
    language = draw_language(rng)
    shape = rng.choice(SHAPES)
    drawn = [draw_sentence(world, rng) for _ in range(rng.choice((1, 1, 2)) if "{l}" in shape else 1)]
    if any(one.held_out for one in drawn):
        return None
    told = [shape.format(e=one.written(ENGLISH), f=one.written(language), L=language.name, l=language.label) for one in drawn]
    return "\n".join(told)


def sentence_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """A translated sentence, then a held-out one in English; group = the language asked for, French or Chinese."""
    probes: list[Probe] = []
    while len(probes) < n:
        language = (FRENCH, CHINESE)[len(probes) % 2]
        shown, asked = draw_sentence(world, rng), draw_sentence(world, rng)
        if asked.held_out and not shown.held_out:
            told = f"English: {shown.written(ENGLISH)}\n{language.label}: {shown.written(language)}\n"
            prompt = f"{told}English: {asked.written(ENGLISH)}\n{language.label}:"
            probes.append(Probe(prompt, asked.written(language), group=language.code))
    return probes
