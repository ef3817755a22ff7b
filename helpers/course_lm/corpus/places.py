"""Places under their French, German and Chinese names, in English sentences and in sentences of those languages.

Kept out is ``held_out("foreign", place, language, relation)``: no sentence tells this fact of the place under its name
in that language, neither in English nor in the language itself. (The place's other facts are told under the name, and
the fact under the place's other names; so a name has to lead to the place before it can lead to the fact.)
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence, table
from helpers.course_lm.corpus.grammar import CHINESE, FOREIGN, FRENCH, GERMAN, Language, draw_language
from helpers.course_lm.facts import Fact, country_with_the, fact, relations, with_the
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World, fame

SHAPES = phrases("languages")
FOREIGN_FACTS = phrases("foreign_facts")
CAPITALS: dict[str, Row] = {row["country_en"]: row for row in table("capitals")}
SIGHTS: dict[str, Row] = {row["name"]: row for row in table("sights")}
CITIES: dict[str, Row] = {row["name"]: row for row in table("cities")}
CAPITAL_CITIES: dict[str, Row] = {row["capital_en"]: row for row in CAPITALS.values()}
TERMS: dict[tuple[str, str], Row] = {(row["kind"], row["en"]): row for row in table("terms")}
# "of the country" in French -> how "the" and "in" begin: de la France, la France, en France.
FRENCH_FORMS = {"de la ": ("la ", "en "), "de l'": ("l'", "en "), "du ": ("le ", "au "), "des ": ("les ", "aux "), "de ": ("", "à ")}


# --- a place's names ------------------------------------------------------------------------------


def untold(told: Fact, code: str) -> bool:
    """Does no sentence tell this fact under the place's name in this language?"""
    return held_out("foreign", told.subject, code, told.relation.name)


def foreign_name(told: Fact, code: str) -> str | None:
    """The name in this language of the place that the fact is about, if there is one and it is not the English one."""
    names = {"countries": told.row, "landmarks": told.row, "cities": CITIES.get(told.subject, {})}
    name = names.get(told.relation.table, {}).get(code)
    return name if name and name != told.subject else None


def city_name(city: str, code: str) -> str | None:
    """A city's name in this language, if the tables have it."""
    if city in CITIES:
        return CITIES[city][code]
    return CAPITAL_CITIES[city][f"capital_{code}"] if city in CAPITAL_CITIES else None


# --- facts in their own language ------------------------------------------------------------------


def country_slots(country: str, code: str) -> dict[str, str] | None:
    """A country as the sentences of this language need it: French has *of*, *the* and *in*, German the dative."""
    if country not in CAPITALS:
        return None
    name = CAPITALS[country][f"country_{code}"]
    if code != FRENCH.code:
        return {"x": name, "in": name}
    start = next(start for start in FRENCH_FORMS if name.startswith(start))
    bare = name.removeprefix(start)
    the, inside = FRENCH_FORMS[start]
    return {"x": the + bare, "of": name, "the": the + bare, "in": inside + bare}


def place_slots(told: Fact, code: str) -> dict[str, str] | None:
    """The place that the fact is about, as the sentences of this language need it."""
    if told.relation.table == "countries":
        return country_slots(told.subject, code)
    names = SIGHTS if told.relation.table == "landmarks" else CITIES
    if told.subject not in names:
        return None
    name = told.row["zh"] if code == CHINESE.code and names is SIGHTS else names[told.subject][code]
    country = country_slots(told.object, code) if names is CITIES else None
    return {"x": name, "the": name} | ({"of": country["of"]} if country and "of" in country else {})


def object_words(told: Fact, code: str) -> str | None:
    """The fact's object as the sentences of this language end with it: ``Varsovie``, ``en Europe``, ``mit dem Euro``."""
    relation = told.relation.name
    if relation == "capital":
        return CAPITALS[told.subject][f"capital_{code}"] if told.subject in CAPITALS else None
    if relation == "landmark_city":
        city = city_name(told.object, code)
        return f"à {city}" if city and code == FRENCH.code else city
    if relation in ("landmark_country", "city_country"):
        country = country_slots(told.object, code)
        return None if country is None else f"in {country['in']}" if code == GERMAN.code else country["in"]
    term = TERMS.get((relation, told.object))
    return term[code] if term else None


def native_slots(told: Fact, code: str) -> dict[str, str] | None:
    """The fillings of a sentence that tells the fact in this language; None where a table lacks a word."""
    place = place_slots(told, code)
    words = object_words(told, code)
    if not place or not words:
        return None
    filled = place | {"y": words}
    return filled | {sentence(key): sentence(word) for key, word in filled.items()}


@cache
def native_facts(code: str) -> list[tuple[Fact, float]]:
    """Every fact that can be told in this language, with the fame of its place."""
    world = World.load()
    found = []
    for relation in (relations()[name] for name in FOREIGN_FACTS["statements"]):
        rows = world.rows(relation.table)
        known = [(fact(relation, row), fame(rank, len(rows))) for rank, row in enumerate(rows)]
        found += [(told, weight) for told, weight in known if told and native_slots(told, code)]
    return found


@cache
def _told_natively(code: str, of: str = "") -> tuple[list[Fact], list[float]]:
    """The facts that may be told in this language and their weights: all of them, or those of one place or one relation."""
    facts = [one for one in native_facts(code) if not untold(one[0], code) and of in ("", one[0].subject, one[0].relation.name)]
    return [told for told, _ in facts], [weight for _, weight in facts]


def draw_native(rng: Random, code: str) -> list[Fact]:
    """One to three facts that may be told in this language: of one place, of one relation, or as they come."""
    facts, weights = _told_natively(code)
    [first] = rng.choices(facts, weights)
    others, weights = _told_natively(code, rng.choice((first.subject, first.subject, first.relation.name, "")))
    drawn = [first, *rng.choices(others, weights, k=rng.choice((0, 1, 2, 2)))]
    return list({(told.subject, told.relation.name): told for told in drawn}.values())


def native_statement(told: Fact, code: str, rng: Random) -> str:
    """One sentence that tells the fact in this language."""
    return rng.choice(FOREIGN_FACTS["statements"][told.relation.name][code]).format(**native_slots(told, code))


def native_question(told: Fact, code: str, shape: str, rng: Random) -> str:
    """A question and its answer in this language."""
    filled = native_slots(told, code)
    question = rng.choice(FOREIGN_FACTS["questions"][told.relation.name][code]).format(**filled)
    return shape.format(q=question, y=filled["y"], Y=filled["Y"])


def _in_both(told: Fact, language: Language, rng: Random) -> str | None:
    """The fact in a plain English sentence and the same in this language; None if it is not to be told in this way."""
    plain = FOREIGN_FACTS["plain"][told.relation.name]
    if told.held_out(plain["en"]):
        return None
    both = {"e": told.tell(plain["en"]), "f": plain[language.code].format(**native_slots(told, language.code))}
    return rng.choice(SHAPES["bilingual_shapes"]).format(**both, L=language.name, l=language.label)


def foreign_facts(world: World, rng: Random) -> str | None:
    """Facts about places in French, German or Chinese: sentences, questions, a sentence with its English one."""
    language = draw_language(rng)
    facts = draw_native(rng, language.code)
    style = rng.random()
    if style < 0.25:
        return code_switch(world, rng)
    if style < 0.4:
        return _in_both(facts[0], language, rng)
    if style < 0.65:
        shape = rng.choice(SHAPES["answer_shapes"][language.code])
        return "\n".join(native_question(told, language.code, shape, rng) for told in facts)
    return ("" if language is CHINESE else " ").join(native_statement(told, language.code, rng) for told in facts)


# --- foreign names in English sentences -----------------------------------------------------------


def named_facts(known: Iterable[Fact | None], language: Language, rng: Random) -> list[str]:
    """English sentences and questions that tell facts under the place's name in a language, those that may be told."""
    told = []
    for one in known:
        name = foreign_name(one, language.code) if one else None
        if not name or untold(one, language.code):
            continue
        foreign = replace(one, subject=name)
        statements = [text for text in one.relation.statements if not one.held_out(text)]
        told += [foreign.tell(template) for template in rng.sample(statements, min(2, len(statements)))]
        if one.relation.questions:
            told.append(f"{foreign.ask(rng.choice(one.relation.questions))} {sentence(one.answer)}.")
    return told


def _city(rng: Random, language: Language) -> tuple[str, str, list[str]]:
    """A city with a name of its own in the language: its English name, that name, and sentences that tell where it is."""
    while True:
        row = rng.choice(list(CAPITALS.values()))
        english, name = row["capital_en"], row[f"capital_{language.code}"]
        capital = next(one for one, _ in native_facts(language.code) if one.subject == row["country_en"] and one.relation.name == "capital")
        shapes = [text for text in capital.relation.statements if text.startswith("{o}") and not capital.held_out(text)]
        told = [replace(capital, object=name).tell(text) for text in shapes]
        if rng.random() < 0.5:
            known = rng.choice([one for one, _ in native_facts(language.code) if one.relation.name == "city_country"])
            english, name = known.subject, CITIES[known.subject][language.code]
            told = named_facts([known], language, rng)
        if name != english:
            return english, name, told


def code_switch(world: World, rng: Random) -> str | None:
    """The foreign name of a country, a city or a sight in English sentences that tell what it is."""
    kind = rng.choice(("countries", "landmarks", "landmarks", "cities"))
    language = draw_language(rng)
    if kind == "cities":
        english, name, sayings = _city(rng, language)
        told = rng.sample(sayings, 1) if sayings and rng.random() < 0.7 else []
    else:
        row = world.pick(rng, kind)
        name = row[language.code]
        if not name or name == row["name"]:
            return None
        english = with_the(row["name"]) if kind == "landmarks" else country_with_the(row["name"])
        known = [fact(relation, row) for relation in relations().values() if (relation.table, relation.subject) == (kind, "name")]
        facts = named_facts(known, language, rng)
        told = rng.sample(facts, min(rng.choice((1, 1, 2)), len(facts)))
        place = (row.get("city") and "landmark_city") or "landmark_country"
        if kind == "landmarks" and rng.random() < 0.4 and not untold(fact(relations()[place], row), language.code):
            where = country_with_the(row[place.removeprefix("landmark_")])
            told[:1] = [rng.choice(SHAPES["sight_shapes"]).format(f=name, k=an(row["kind"]), p=where)]
    for shapes, chance in (("name_shapes", 0.6), ("name_scenes", 0.3)):
        if rng.random() < chance or (shapes == "name_shapes" and len(told) < 2):
            where = rng.randint(0, len(told))
            told.insert(where, rng.choice(SHAPES[shapes]).format(f=name, e=english, L=language.name))
    return " ".join(map(sentence, told))


# --- probes ---------------------------------------------------------------------------------------


def _untold_capitals() -> list[tuple[Fact, Language]]:
    """The countries whose capital is told nowhere under the country's name in a language."""
    capitals = [fact(relations()["capital"], row) for row in World.load().rows("countries") if row["name"] in CAPITALS]
    pairs = [(told, language) for told in capitals for language in FOREIGN if foreign_name(told, language.code)]
    return [(told, language) for told, language in pairs if untold(told, language.code)]


def _distinct(probes: list[Probe], rng: Random, n: int) -> list[Probe]:
    """Some of the probes, none of which has its answer in its prompt."""
    fitting = [probe for probe in probes if probe.answer.lower() not in probe.prompt.lower()]
    return rng.sample(fitting, min(n, len(fitting)))


def foreign_name_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Capitals asked in English under a foreign name of the country, never told under that name; group = language."""
    probes = []
    for told, language in _untold_capitals():
        asked = replace(told, subject=foreign_name(told, language.code))
        shapes = [text for text in told.relation.forward if text.endswith("{o}.")]
        probes += [Probe(asked.probe(text).prompt, told.answer, group=language.code) for text in shapes]
        probes += [Probe(f"Question: {asked.ask(text)} Answer:", told.answer, group=language.code) for text in told.relation.questions]
    return _distinct(probes, rng, n)


def native_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Capitals asked in French, German and Chinese, never told there; group = language.

    In Chinese a mark stands before the answer, so that it begins with a token of its own.
    """
    probes = []
    for told, language in _untold_capitals():
        code = language.code
        filled = native_slots(told, code) | {"y": "\0", "Y": "\0"}
        shapes = [text.format(**filled) for text in FOREIGN_FACTS["statements"]["capital"][code]]
        for question in FOREIGN_FACTS["questions"]["capital"][code]:
            shapes += [shape.format(q=question.format(**filled), y="\0", Y="\0") for shape in SHAPES["answer_shapes"][code]]
        prompts = [text.split("\0")[0].rstrip(" ") for text in shapes if not text.startswith("\0")]
        marked = [prompt for prompt in prompts if code != CHINESE.code or prompt.endswith(("：", "「", "，", "？"))]
        probes += [Probe(prompt, native_slots(told, code)["y"], group=code) for prompt in marked]
    return _distinct(probes, rng, n)
