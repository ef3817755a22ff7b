"""The other languages of the corpus: French, German and Chinese, next to English or alone.

No two of them ever stand in one document. What links French and Chinese in the model is therefore
English (or the meaning behind the words), because no text ever puts them side by side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, chat, phrases, sentence, table
from helpers.course_lm.corpus.grammar import (
    CHINESE,
    ENGLISH,
    FOREIGN,
    FRENCH,
    GRAMMAR,
    LANGUAGES,
    NOUN_SLOTS,
    Language,
    draw_language,
    english_noun,
)
from helpers.course_lm.corpus.places import code_switch, foreign_facts
from helpers.course_lm.corpus.sentences import sentences
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World

SHAPES = phrases("languages")
EVERYDAY: list[Row] = table("everyday")
CATEGORIES: dict[str, Row] = {row["category"]: row for row in table("categories")}
QUALITIES = [row for row in table("adjectives") if row["kind"] == "quality"]
COLOURS = {row["en"]: row for row in table("adjectives") if row["kind"] == "colour"}
NAMES: list[Row] = table("names")


def parts(part: str, size: str = "any") -> list[Row]:
    """The phrases of one part of a text, for things of one size; each row has all languages.

    {N} is a first name and {s} its pronoun; {a} and {the} are the noun with its article, {o} and
    {d} the same as objects; {it} is the noun's pronoun, {adj} a quality, {at} a place. A capital
    letter in a slot's name makes a capital: {A}, {The}, {S}, {It}, {At}.
    """
    return [row for row in table("phrases") if (row["part"], row["size"]) == (part, size)]


# --- lists of word pairs --------------------------------------------------------------------------


def draw_word(world: World, rng: Random, code: str) -> tuple[str, str, Row]:
    """Draws an English word, its translation and its row: mostly a noun, but not always."""
    kinds = {
        "singular": lambda: world.pick_common(rng, "nouns"),
        "word": lambda: world.pick_common(rng, "adjectives"),
        "en": lambda: rng.choice(EVERYDAY),
        "name": lambda: world.pick(rng, "countries"),
    }
    while True:
        english = rng.choices(list(kinds), cum_weights=(0.7, 0.82, 0.93, 1))[0]
        row = kinds[english]()
        if row[code]:
            return row[english], row[code], row


def in_lists(source: Language, target: Language, word: str) -> bool:
    """May a list of the corpus show the translation of ``word`` (a word of the source language)?"""
    return not held_out("list_pair", f"{source.code}_{target.code}", word)


def pair_line(source: Language, target: Language, word: str, answer: str, labelled: bool = True) -> str:
    """One line of a list of translations, each language under its own name, or the language of the answer alone."""
    before = f"{source.label}: " if labelled else ""
    return f"{before}{word} - {target.label}: {answer}".rstrip()


def pair_list(drawn: Iterable[tuple[Language, Language, str, str]], labelled: bool = True) -> str | None:
    """A list of the drawn translations that there are and that are not held out, each word once."""
    shown: dict[str, str] = {}
    for source, target, word, answer in drawn:
        if word and answer and in_lists(source, target, word):
            shown.setdefault(word, pair_line(source, target, word, answer, labelled))
    return "\n".join(shown.values()) or None


def translation(world: World, rng: Random) -> str | None:
    """One to five word pairs from English to another language or back; without the first label, the word alone tells its language."""
    foreign = draw_language(rng)
    labelled = rng.random() < 0.6
    mixed = not labelled and rng.random() < 0.4
    back = rng.random() < 0.5
    drawn = []
    for _ in range(rng.choice((1, 2, 3, 4, 5, 5))):
        english, word, _ = draw_word(world, rng, foreign.code)
        turned = rng.random() < 0.5 if mixed else back
        if len(english + word) <= 24:
            drawn.append((foreign, ENGLISH, word, english) if turned else (ENGLISH, foreign, english, word))
    return pair_list(drawn, labelled)


# --- words told in prose --------------------------------------------------------------------------


def word_note(row: Row) -> list[str]:
    """What else can be said in English about the thing: its category or its colour, if any."""
    if has_kind(row) and row["category"] != "drink":
        return [f"{sentence(an(row['singular']))} is {CATEGORIES[row['category']]['en']}."]
    if row.get("colour"):
        return [f"The colour of {english_noun(row)['the']} is {row['colour']}."]
    return []


def glosses(world: World, rng: Random) -> str | None:
    """A few words of one language, explained in English sentences."""
    language = draw_language(rng)
    size = rng.choice((1, 2, 2, 3))
    words = [draw_word(world, rng, language.code) for _ in range(size)]
    told = [rng.choice(SHAPES["word_openers"]).format(L=language.name)]
    for english, foreign, row in words:
        noun = "singular" in row and row["category"] != "drink"
        shape = rng.choice(SHAPES["noun_shapes" if noun and rng.random() < 0.35 else "word_shapes"])
        told.append(sentence(shape.format(e=english, f=foreign, L=language.name, ae=an(english))))
        if rng.random() < 0.2:
            told += word_note(row)
    if size < 3:
        told.append(sentence(rng.choice(SHAPES["word_tails"]).format(e=english, f=foreign)))
    return " ".join(filter(None, told))


# --- stories and dialogues ------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What a little text is about: a noun's thing, somebody, what it is like, and where it is."""

    row: Row
    name: Row
    quality: Row
    place: Row


def size_of(row: Row) -> str:
    """Is the thing small enough to own, does it move about, or does it stay where it is?"""
    noun = row["singular"]
    if noun in GRAMMAR["fixed"]:
        return "fixed"
    if row["category"] in GRAMMAR["small"] or noun in GRAMMAR["small_too"]:
        return "small"
    return "moving" if row["category"] in GRAMMAR["moving"] else "fixed"


def has_kind(row: Row) -> bool:
    """Is the noun a plain example of a category that all languages name?"""
    return row.get("category") in CATEGORIES and row["singular"] not in GRAMMAR["parts"]


def draw_scene(world: World, rng: Random) -> Scene:
    """Draws a noun that all languages have, a person, a quality and a place."""
    while True:
        row = world.pick(rng, "nouns")
        known = all(row[language.code] for language in FOREIGN)
        if known and row["singular"] not in GRAMMAR["no_story"]:
            places = parts("place", "small" if size_of(row) == "small" else "open")
            return Scene(row, rng.choice(NAMES), rng.choice(QUALITIES), rng.choice(places))


def slots(scene: Scene, code: str) -> dict[str, str]:
    """The fillings of a phrase's slots in one language, also with capital letters."""
    row = scene.row
    filled = NOUN_SLOTS[code](row)
    adjective = "fr_feminine" if filled["it"] == "elle" else code
    filled["adj"] = scene.quality[adjective]
    filled |= {"N": scene.name[code], "at": scene.place[code]}
    filled["s"] = GRAMMAR["pronouns"][scene.name["pronoun"]][code]
    filled["kind"] = CATEGORIES[row["category"]][code] if has_kind(row) else ""
    filled["col"] = COLOURS[row["colour"]][adjective] if row["colour"] else ""
    return filled | {sentence(key): sentence(filled[key]) for key in ("a", "the", "s", "it", "at")}


def write(told: Sequence[Row], scene: Scene, language: Language) -> str:
    """The phrases about the scene in one language, one after the other."""
    filled = slots(scene, language.code)
    return ("" if language is CHINESE else " ").join(phrase[language.code].format(**filled) for phrase in told)


def draw_story(scene: Scene, rng: Random) -> list[Row]:
    """Draws a story: somebody meets the thing, something is said about it, and an end."""
    size = size_of(scene.row)
    opening = rng.choice(parts("opening", size))
    said = parts("middle") + (parts("colour") * 2 if scene.row["colour"] else [])
    said += parts("kind") if has_kind(scene.row) else []
    placed = mentions(opening, "at")
    done = [row for row in parts("middle", size) if not (placed and "{at}" in row["en"])]
    middle = rng.choice(([said], [said, done], [said, done], [done]))
    chosen = [rng.choice(choices) for choices in middle if choices]
    told = [opening, *rng.sample(chosen, len(chosen)), rng.choice(parts("ending"))]
    return told if mentions(opening, "n") else with_name(told)


def mentions(phrase: Row, slot: str) -> bool:
    """Has the phrase this slot, small or with a capital letter?"""
    return any("{" + form + "}" in phrase["en"] for form in (slot, slot.upper(), sentence(slot)))


def with_name(told: list[Row]) -> list[Row]:
    """The same phrases with the person's name where the first pronoun stood."""
    for place, phrase in enumerate(told):
        if mentions(phrase, "s"):
            named = {code: phrase[code].replace("{S}", "{N}").replace("{s}", "{N}") for code in LANGUAGES}
            return [*told[:place], named, *told[place + 1 :]]
    return told


def story(world: World, rng: Random) -> str | None:
    """A story of a few sentences in French, German or Chinese."""
    scene = draw_scene(world, rng)
    return write(draw_story(scene, rng), scene, draw_language(rng))


def exchanges(size: str) -> list[tuple[Row, Row]]:
    """Questions about things of one size, each with its answer."""
    return list(zip(parts("question", size), parts("answer", size), strict=True))


def dialogue(world: World, rng: Random) -> str | None:
    """Two people talk about a thing in French, German or Chinese."""
    scene = draw_scene(world, rng)
    language = draw_language(rng)
    drawn = rng.sample(exchanges("any") + exchanges(size_of(scene.row)), 2)
    colon = {"fr": " : ", "de": ": ", "zh": "："}[language.code]
    speakers = [name[language.code] + colon for name in rng.sample(NAMES, 2)]
    before = rng.choice((("- ", "- "), speakers, speakers))
    lines = [pair for exchange in drawn for pair in zip(before, exchange, strict=True)]
    return "\n".join(speaker + write([phrase], scene, language) for speaker, phrase in lines)


def bilingual(world: World, rng: Random) -> str | None:
    """English sentences and the same in one other language."""
    scene = draw_scene(world, rng)
    language = draw_language(rng)
    told = draw_story(scene, rng)
    told = told[: rng.choice((1, 2, 2))] if rng.random() < 0.8 else rng.choice(exchanges("any"))
    both = {"e": write(told, scene, ENGLISH), "f": write(told, scene, language)}
    return rng.choice(SHAPES["bilingual_shapes"]).format(**both, L=language.name, l=language.label)


# --- questions in their own language --------------------------------------------------------------


def asked_capital(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A country and its capital."""
    row = rng.choice([row for row in table("capitals") if not held_out("foreign", row["country_en"], code, "capital")])
    return country_with_the(row[f"country_{code}"]), row[f"capital_{code}"]


def asked_opposite(world: World, rng: Random, code: str) -> tuple[str, str]:
    """An adjective and its opposite, both of them words that the language has."""
    column = "word" if code == "en" else code
    rows = {row["word"]: row for row in world.rows("adjectives")}
    while True:
        row = world.pick(rng, "adjectives")
        word = row[column]
        opposite = rows[row["opposite"]][column]
        if word and opposite and word != opposite:
            return word, opposite


def asked_colour(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A thing, as the question about its colour names it, and the colour."""
    rows = [(row, row.get("colour") or GRAMMAR["coloured"].get(row.get("en"))) for row in (*world.rows("nouns"), *EVERYDAY)]
    row, colour = rng.choice([(row, colour) for row, colour in rows if colour in COLOURS])
    slot = {"en": "the", "fr": "of", "de": "the", "zh": "n"}[code]
    return NOUN_SLOTS[code](row)[slot], COLOURS[colour][code]


def asked_kind(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A thing and what kind of thing it is."""
    rows = [row for row in world.rows("nouns") if has_kind(row) and row["category"] != "drink"]
    row = rng.choice(rows)
    return NOUN_SLOTS[code](row)["n" if code == "zh" else "a"], CATEGORIES[row["category"]][code]


ASKED = {"capital": asked_capital, "opposite": asked_opposite, "colour": asked_colour, "kind": asked_kind}


def questions(world: World, rng: Random) -> str | None:
    """Questions and answers, or statements, in one language: English or another."""
    code = rng.choices(list(LANGUAGES), (25, 30, 17, 28))[0]
    shape = rng.choice(SHAPES["answer_shapes"][code])
    style = rng.random()
    texts: list[str] = []
    for _ in range(1 if style < 0.15 else rng.choice((2, 2, 3, 3))):
        kind = rng.choice(list(ASKED))
        x, y = ASKED[kind](world, rng, code)
        question = rng.choice(SHAPES["questions"][kind][code]).format(x=x)
        statements = SHAPES["statements"][kind][code]
        if style < 0.15:
            answer = sentence(y) + ("。" if code == "zh" else ".")
            return chat(("user", question), ("assistant", answer))
        if style < 0.5 and statements:
            text = rng.choice(statements).format(x=x, y=y, X=sentence(x), Y=sentence(y))
        else:
            text = shape.format(q=question, y=y, Y=sentence(y))
        texts.append(text)
    return "\n".join(dict.fromkeys(texts))


# --- probes ---------------------------------------------------------------------------------------

SHOTS = 4
Noun = tuple[str, str, str]  # source word, target word, English word


def clear_nouns(world: World, source: Language, target: Language) -> list[Noun]:
    """Nouns that no two of the languages write alike."""
    columns = ["singular" if lang is ENGLISH else lang.code for lang in (source, target, ENGLISH)]
    found = [tuple(row[column] for column in columns) for row in world.common("nouns")]
    size = 2 if ENGLISH in (source, target) else 3
    return [noun for noun in found if all(noun) and len({word.lower() for word in noun}) == size]


def list_probe(source: Language, target: Language, asked: Noun, pool: Sequence[Noun], rng: Random, labelled: bool = True) -> Probe:
    """Four demonstrations, then the question, open where the answer stands."""
    word, answer, english = asked
    others = [other for other in pool if other[0] != word and other[1] != answer]
    lines = [pair_line(source, target, *other[:2], labelled) for other in rng.sample(others, SHOTS)]
    lines.append(pair_line(source, target, word, "", labelled))
    wrong = None if ENGLISH in (source, target) else english
    return Probe("\n".join(lines), answer, wrong, group=f"{source.code}-{target.code}")


def translation_probes(world: World, rng: Random, n: int, labelled: bool = True) -> list[Probe]:
    """From French to Chinese and back, which never meet; ``wrong`` is the English word. The language of the word asked is named, or not.

    Both halves of the way, to English and on from there, do stand in the training text's lists.
    """
    ways = [(FRENCH, CHINESE), (CHINESE, FRENCH)]
    pools = []
    for source, target in ways:
        nouns = [noun for noun in clear_nouns(world, source, target) if in_lists(source, ENGLISH, noun[0])]
        pools.append([noun for noun in nouns if in_lists(ENGLISH, target, noun[2])])
    orders = [rng.sample(pool, len(pool)) for pool in pools]  # all words are asked before one comes again
    probes = []
    for number in range(n):
        turn, way = divmod(number, len(ways))
        asked = orders[way][turn % len(orders[way])]
        probes.append(list_probe(*ways[way], asked, pools[way], rng, labelled))
    return probes


INGREDIENTS: tuple[Ingredient, ...] = (translation, glosses, code_switch, bilingual, questions, story, dialogue, foreign_facts, sentences)
