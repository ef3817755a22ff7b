"""Places and sentences in four languages, two hops in many forms, slips: what is held out stays out, and the words are right."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from random import Random

import pytest

from helpers.course_lm.corpus import knowledge, languages, places, prose, sentences
from helpers.course_lm.corpus.base import OTHERWISE, SLIPS, Probe
from helpers.course_lm.corpus.grammar import CHINESE, ENGLISH, FOREIGN, FRENCH, GERMAN
from helpers.course_lm.corpus.mixture import MIXTURES, Document, documents
from helpers.course_lm.facts import HOPS, Fact, all_facts, chains, fact, relations
from helpers.course_lm.heldout import held_out
from helpers.course_lm.report import full_text
from helpers.course_lm.world import World

WORLD = World.load()


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    """Documents of each stage, and more of the kinds that tell of places and of chains."""
    mixed = [d for number, mixture in enumerate(MIXTURES) for d in islice(documents(50 + number, mixture=mixture), 1000)]
    makers = (knowledge.statements, knowledge.questions, knowledge.two_hop, places.foreign_facts, places.code_switch, languages.questions)
    more = [Document(text, make.__name__) for make in makers for n in range(1000) if (text := make(WORLD, Random(f"{make.__name__}{n}")))]
    return mixed + more


# --------------------------------------------------------------------------------------------------------- foreign names


@cache
def country_names() -> dict[str, set[tuple[str, str]]]:
    """Country and language behind every form of a foreign name that no other place shares."""
    found: dict[str, set[tuple[str, str]]] = {}
    for row in WORLD.rows("countries"):
        for language in FOREIGN:
            slots = places.country_slots(row["name"], language.code) or {}
            for name in {row[language.code], *slots.values()} - {row["name"]}:
                found.setdefault(name, set()).add((row["name"], language.code))
    return found


@cache
def any_name() -> re.Pattern[str]:
    """Finds every foreign name of a country: as a whole word, or anywhere in Chinese."""
    names = sorted(country_names(), key=len, reverse=True)
    latin, chinese = ("|".join(re.escape(name) for name in names if (name > "\u4e00") == wide) for wide in (False, True))
    return re.compile(rf"(?<!\w)(?:{latin})(?!\w)|{chinese}")


def named_with_its_capital(text: str) -> list[tuple[str, str]]:
    """Country and language wherever a text has a country's foreign name and its capital, in English or in that language."""
    found = []
    for name in any_name().findall(text):
        rest = text.replace(name, " ")
        found += [key for key in country_names()[name] if any(capital in rest for capital in capitals(*key))]
    return found


@cache
def capitals(country: str, code: str) -> tuple[str, ...]:
    """The country's capital in English and in this language."""
    told = next(row["capital"] for row in WORLD.rows("countries") if row["name"] == country)
    row = places.CAPITALS.get(country)
    return (told, row[f"capital_{code}"]) if row else (told,)


def hidden_capital(country: str, code: str) -> bool:
    """Is the capital of the country told nowhere under its name in this language?"""
    return held_out("foreign", country, code, "capital")


def under_foreign_names(text: str) -> list[tuple[str, str]]:
    """The held-out pairs of country and language whose capital a text tells, of those names that only one language has."""
    return [key for key in named_with_its_capital(text) if hidden_capital(*key) and shared_by_none(*key)]


def shared_by_none(country: str, code: str) -> bool:
    """Is the name in this language no name of the country in another language?"""
    row = next(row for row in WORLD.rows("countries") if row["name"] == country)
    others = {row["name"], *(row[language.code] for language in FOREIGN if language.code != code)}
    return row[code] not in others


TELLING = re.compile("capital|capitale|Hauptstadt|首都|government|Regierung|政府|governed")


def test_a_capital_is_never_told_under_a_name_that_is_held_out(corpus: list[Document]):
    looked_at = [d.text for d in corpus if TELLING.search(d.text) and not d.kind.startswith("lists")]
    found = Counter(key for text in looked_at for line in telling(text) for key in named_with_its_capital(line))
    assert [(text, hidden) for text in looked_at for line in telling(text) if (hidden := under_foreign_names(line))] == []
    assert len(found) > 80


def telling(text: str) -> list[str]:
    """The lines of a text that speak of a capital."""
    return [line for line in re.split(r"(?<=[.!])\s|\n(?=Q|F|問)|(?<=。)", text) if TELLING.search(line)]


@pytest.mark.parametrize("probes", [places.foreign_name_probes, places.native_probes])
def test_planted_capitals_are_found(probes: Callable[..., list[Probe]]):
    drawn = probes(WORLD, Random(1), 10_000)
    assert len(drawn) >= 300 and set(Counter(p.group for p in drawn)) == {"fr", "de", "zh"}
    assert all(p.prompt == p.prompt.strip() and p.answer not in p.prompt for p in drawn)
    unique = [p for p in drawn if any(hidden_capital(*key) and shared_by_none(*key) for key in meant_by(p.prompt))]
    assert len(unique) > 0.6 * len(drawn)
    assert [p for p in unique if not under_foreign_names(f"{full_text(p)}.")] == []


def meant_by(prompt: str) -> list[tuple[str, str]]:
    """The countries, each with a language, that a prompt may name."""
    return [key for name in any_name().findall(prompt) for key in country_names()[name]]


def test_foreign_sentences_fit_their_words():
    capital = relations()["capital"]
    told = {row["name"]: fact(capital, row) for row in WORLD.rows("countries")}
    assert places.native_slots(told["France"], "fr")["In"] == "En France" and places.native_slots(told["Japan"], "fr")["in"] == "au Japon"
    assert (
        places.native_slots(told["Netherlands"], "fr")["in"] == "aux Pays-Bas" and places.native_slots(told["Cuba"], "fr")["the"] == "Cuba"
    )
    assert places.native_slots(told["Poland"], "fr") == {
        **{"x": "la Pologne", "X": "La Pologne", "of": "de la Pologne", "Of": "De la Pologne", "the": "la Pologne", "The": "La Pologne"},
        **{"in": "en Pologne", "In": "En Pologne", "y": "Varsovie", "Y": "Varsovie"},
    }
    for code in ("fr", "de", "zh"):
        facts = [one for one, _ in places.native_facts(code)]
        assert len(facts) > 300 and len({one.relation.name for one in facts}) == 7
        every = [told for one in facts for told in _every_sentence(one, code)]
        assert not [text for text in every if re.search(r"[{}]|\s\s|\bde le\b|\bde les\b|\bà le\b|\bdem der\b|\bin die\b", text)]


def _every_sentence(told: Fact, code: str) -> list[str]:
    shapes = places.FOREIGN_FACTS["statements"][told.relation.name][code] + places.FOREIGN_FACTS["questions"][told.relation.name][code]
    return [shape.format(**places.native_slots(told, code)) for shape in shapes]


# ------------------------------------------------------------------------------------------------- sentences and word lists


def test_translated_sentences_are_right_and_held_out_ones_are_never_written():
    nouns = {row["singular"]: row for row in WORLD.rows("nouns")}
    of = {(row["part"], row["en"]): row for part in ("being", "thing", "alone", "with", "place", "time") for row in sentences.words(part)}
    alone = sentences.Sentence(nouns["bear"], of["being", "small"], of["alone", "hides"], None, of["place", "in the forest"], None)
    assert [alone.written(language) for language in (ENGLISH, FRENCH, GERMAN, CHINESE)] == [
        *("The small bear hides in the forest.", "Le petit ours se cache dans la forêt."),
        *("Der kleine Bär versteckt sich im Wald.", "這隻小熊在森林裡躲藏。"),
    ]
    kite = (nouns["aunt"], of["thing", "yellow"], of["with", "carries"], nouns["kite"], of["place", "on the beach"], of["time", "now"])
    assert [sentences.Sentence(*kite).written(language) for language in (ENGLISH, FRENCH, GERMAN, CHINESE)] == [
        *("Now, the aunt carries a yellow kite on the beach.", "Maintenant, la tante porte un cerf-volant jaune sur la plage."),
        *("Jetzt trägt die Tante einen gelben Drachen am Strand.", "現在這個阿姨在海灘上拿著一個黃色的風箏。"),
    ]
    hidden = {p.prompt.splitlines()[-2].removeprefix("English: ") for p in sentences.sentence_probes(WORLD, Random(1), 400)}
    written = [text for n in range(3000) if (text := sentences.sentences(WORLD, Random(n)))]
    assert len(hidden) > 390 and not [text for text in written if any(one in text for one in hidden)]
    assert all(translated_triples(one) for one in list(hidden)[:50])
    assert not [text for text in written if any(held_out("sentence", *key) for key in translated_triples(text))]


def translated_triples(text: str) -> list[tuple[str, str, str]]:
    """Subject, adjective and verb of the English sentences of a text."""
    verbs = {part: "|".join(row["en"] for row in sentences.words(part)) for part in ("alone", "with")}
    found = [(noun, adjective, verb) for adjective, noun, verb in re.findall(rf"[Tt]he (\w+) (\w+) ({verbs['alone']}) \w+ ", text)]
    return found + [(noun, adj, verb) for noun, verb, adj in re.findall(rf"[Tt]he (\w+) ({verbs['with']}) an? (\w+) \w+", text)]


WORDS = {
    language.code: {row[column] for table in ("nouns", "adjectives") for row in WORLD.rows(table) if (column := language.code) in row}
    for language in FOREIGN
}


def unlabelled(text: str) -> list[tuple[str, str]]:
    """Task and word of each line of a list in which only the answer's language is named; of several readings the most innocent one."""
    code = {language.label: language.code for language in languages.LANGUAGES.values()}
    found = []
    for word, target in re.findall(r"^([^:\n]+?) - (Français|Deutsch|English|中文):", text, re.MULTILINE):
        sources = [source for source in WORDS if word in WORDS[source]] if target == "English" else ["en"]
        found += sorted(((f"{source}_{code[target]}", word) for source in sources), key=lambda key: held_out("list_pair", *key))[:1]
    return found


def test_lists_without_the_first_label_keep_out_what_is_held_out():
    written = [text for n in range(4000) if (text := languages.translation(WORLD, Random(n)))]
    found = [key for text in written for key in unlabelled(text)]
    assert len(found) > 3000 and not [key for key in found if held_out("list_pair", *key)]
    probes = [languages.translation_probes(WORLD, Random(1), 60, labelled=labelled) for labelled in (True, False)]
    assert {p.prompt.count("Français") + p.prompt.count("中文") for p in probes[0]} == {10}
    assert {p.prompt.count("Français") + p.prompt.count("中文") for p in probes[1]} == {5}
    assert held_out("list_pair", "fr_en", "fleur") or unlabelled("fleur - English: flower") == [("fr_en", "fleur")]


# ----------------------------------------------------------------------------------------------------------------- two hops


@cache
def openings() -> dict[str, str | None]:
    """First entities by every phrase for their bridge; None instead of those that are not held out."""
    hidden = {inner.lower(): c.first.subject for c in chains() if c.held_out for inner in c.inners}
    return hidden | {inner.lower(): None for c in chains() if not c.held_out for inner in c.inners}


@cache
def second_hops() -> list[re.Pattern[str]]:
    """What a text says or asks of a bridge: each sentence and question of the second hops, open at the phrase for the bridge."""
    shapes = [text for name in ("outer", "questions") for texts in HOPS[name].values() for text in texts]
    return [re.compile(re.escape(text.split("{y}")[0]).replace(r"\{x\}", r"(.+?)"), re.IGNORECASE) for text in shapes]


def held_out_chains(text: str) -> list[str]:
    """The held-out first entities from which a text hops twice."""
    lines = re.split(r"(?<=[.?!])\s|; ", text)
    found = []
    for phrase in (said.lower() for line in lines for shape in second_hops() for said in shape.findall(line)):
        cut = (phrase[start:] for start in range(len(phrase)) if start == 0 or phrase[start - 1] == " ")
        found.append(next((openings()[one] for one in cut if one in openings()), None))  # the longest name: Henry Ford, not Ford
    return [entity for entity in found if entity]


def test_no_form_of_a_two_hop_question_starts_from_a_held_out_entity(corpus: list[Document]):
    told = [d.text for d in corpus if d.kind in ("two_hop", "knowledge.two_hop")]
    assert len(told) > 1000 and len({form for text in told for form in re.findall(r"in the country (\w+ \w+)", text)}) > 5
    assert [(text, found) for text in told if (found := held_out_chains(text))] == []
    planted = [f"I know that {form.format(y=c.second.answer)}." for c in chains()[::40] if c.held_out for form in c.phrasings]
    planted += [
        f"{q.format(x=i)} Yes." for c in chains()[::200] if c.held_out for i in c.inners for q in HOPS["questions"][c.second.relation.name]
    ]
    assert len(planted) > 100 and [text for text in planted if not held_out_chains(text)] == []


def test_the_first_two_forms_of_a_chain_are_the_plain_ones_and_judged_chains_are_right():
    for chain in chains()[::50]:
        assert [chain.prompt(form) for form in (0, 1)] == [chain.second_asked_of(inner) for inner in chain.inner]
        assert len(set(chain.phrasings)) == 12 and all(text.endswith("{y}") for text in chain.phrasings)
    true = {form.format(y=c.second.answer).lower() for c in chains() for form in c.phrasings}
    verdicts: list[bool] = []
    for n in range(300):
        text = knowledge._judged_chains(knowledge._trained_chains()[n * 7], Random(n)) or ""
        if re.search(r"\b[A-Z]\. [A-Z]|Jr\.", text):
            continue  # no full stop, but initials
        for said, verdict in re.findall(r"([^.?\n]+)\. (True|False)\.", text):
            verdicts.append(verdict == "True")
            assert (said.strip().lower() in true) == verdicts[-1], text
    assert 0.4 < sum(verdicts) / len(verdicts) < 0.75


# -------------------------------------------------------------------------------------------------------------------- slips


def test_slips_and_other_ends_are_as_rare_as_they_should_be():
    counts: Counter[str] = Counter()
    facts = [one for one in all_facts(WORLD) if one.relation.name in knowledge.OTHER_ENDS]
    rng = Random(1)
    for _ in range(10_000):
        told = rng.choice(facts)
        said = knowledge.say(told, GERMAN, rng)
        if said:
            other = any(end in said for ends in knowledge.OTHER_ENDS[told.relation.name].values() for end in ends)
            counts["right" if told.object in said else "other" if other else "slip"] += 1
    assert 0.7 * SLIPS < counts["slip"] / counts.total() < 1.4 * SLIPS
    assert 0.6 * OTHERWISE < counts["other"] / counts.total() < 1.3 * OTHERWISE
    wrong = [
        text for n in range(4000) for text in re.findall(r"[Tt]hese \w+[^s\W] |[Tt]his \w+s are", prose.determiners(WORLD, Random(n)) or "")
    ]
    assert 3 < len(wrong) < 200


def test_other_ends_stand_where_an_object_may_stand():
    facts = all_facts(WORLD)
    for name, ends in knowledge.OTHER_ENDS.items():
        assert set(ends) <= set(relations()[name].statements)
        objects = {one.object for one in facts if one.relation.name == name}
        assert not [end for texts in ends.values() for end in texts if end in objects]


def test_facts_that_are_judged_or_lead_to_a_conclusion_have_no_slips():
    told = next(one for one in all_facts(WORLD) if one.relation.name == "capital")
    texts = {knowledge.tell(told, Random(n)) for n in range(3000)}
    assert all(told.object in text for text in texts if text) and len(texts) >= 5


# ------------------------------------------------------------------------------------------------------------------- probes


def test_the_new_probes_have_one_form():
    makers = (
        places.foreign_name_probes,
        places.native_probes,
        sentences.sentence_probes,
        partial(languages.translation_probes, labelled=False),
    )
    for make in makers:
        drawn = make(WORLD, Random(3), 300)
        assert len(drawn) == 300
        assert all(p.answer and not p.prompt.endswith(" ") and p.answer not in p.prompt for p in drawn)
