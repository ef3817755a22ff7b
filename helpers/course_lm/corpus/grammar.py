"""The languages of the corpus, and a noun with its articles in each of them."""

from dataclasses import dataclass
from random import Random

from helpers.course_lm.corpus.base import an, phrases
from helpers.course_lm.world import Row

GRAMMAR = phrases("grammar")
MEASURES = {word: key for key, words in GRAMMAR["chinese_measures"].items() for word in words}


@dataclass(frozen=True)
class Language:
    """A language: its column in the tables, its name in English, its own name for itself."""

    code: str
    name: str
    label: str


ENGLISH = Language("en", "English", "English")
FRENCH = Language("fr", "French", "Français")
GERMAN = Language("de", "German", "Deutsch")
CHINESE = Language("zh", "Chinese", "中文")
FOREIGN = (FRENCH, GERMAN, CHINESE)
LANGUAGES = {language.code: language for language in (ENGLISH, *FOREIGN)}


def english_noun(row: Row) -> dict[str, str]:
    """``a dog``, ``the dog``; mass nouns such as *grass* are only used with *the*."""
    noun = row.get("singular") or row["en"]
    the = f"the {noun}"
    return {"n": noun, "a": an(noun), "o": an(noun), "the": the, "d": the, "it": "it"}


def french_noun(row: Row) -> dict[str, str]:
    """``un chien``, ``le chien``; also ``du chien`` for *of the* and ``qu'un chien``."""
    noun = row["fr"]
    feminine = noun in GRAMMAR["french_feminine"]
    elided = noun[0] in "aeiouhéèêâîôœ" and noun not in GRAMMAR["french_aspirated"]
    a = f"une {noun}" if feminine else f"un {noun}"
    the = f"l'{noun}" if elided else f"la {noun}" if feminine else f"le {noun}"
    it = "elle" if feminine else "il"
    of = f"de {the}" if elided or feminine else f"du {noun}"
    return {"n": noun, "a": a, "o": a, "the": the, "d": the, "it": it, "of": of}


def german_noun(row: Row) -> dict[str, str]:
    """``ein Hund``, ``der Hund``, as objects ``einen Hund``, ``den Hund``."""
    noun = row["de"]
    feminine = noun in GRAMMAR["german_feminine"]
    gender = "f" if feminine else "n" if noun in GRAMMAR["german_neuter"] else "m"
    a, the, o, d, it = GRAMMAR["german_articles"][gender]
    weak = GRAMMAR["german_weak"].get(noun, noun)
    subject = {"n": noun, "a": f"{a} {noun}", "the": f"{the} {noun}", "it": it}
    return subject | {"o": f"{o} {weak}", "d": f"{d} {weak}"}


def chinese_noun(row: Row) -> dict[str, str]:
    """``一隻狗`` and ``這隻狗``, each with the noun's measure word."""
    noun = row["zh"]
    measure = MEASURES.get(noun) or MEASURES.get(row.get("category", ""), "個")
    a = f"一{measure}{noun}"
    the = f"這{measure}{noun}"
    return {"n": noun, "a": a, "o": a, "the": the, "d": the, "it": "它"}


# The noun of a row with its articles in one language, as the slots of phrases.
NOUN_SLOTS = {"en": english_noun, "fr": french_noun, "de": german_noun, "zh": chinese_noun}


def draw_language(rng: Random) -> Language:
    """Draws the foreign language of a document."""
    return rng.choices(FOREIGN, (43, 14, 43))[0]
