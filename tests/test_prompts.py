"""Prompt files: a right one is loaded as typed sets, a wrong one is a sentence that says where and what; ours say what they promise."""

import json
import re
from pathlib import Path

import pytest

from helpers.course_lm.corpus.base import Probe, table
from helpers.course_lm.corpus.languages import EVERYDAY
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World
from helpers.prompts import FOLDER, LabelledPrompt, MinimalPair, PromptFileError, TextPrompt, load_prompts

GOOD = {
    "weather": {"about": "Plain texts.", "type": "text", "entries": [{"text": "It rains.", "group": "wet"}]},
    "number": {
        "about": "Verbs.",
        "type": "pair",
        "entries": [
            {"prompt": "The keys", "answer": "are", "wrong": "is", "group": "plural"},
            {"prompt": "The key", "answer": "is", "wrong": "are", "group": "singular", "corrupted": "The keys"},
        ],
    },
    "tower": {
        "about": "A tower.",
        "type": "labelled",
        "labels": ["name", "other"],
        "entries": [
            {"text": "Here is the tower.", "label": "name", "group": "tower"},
            {"text": "Here is a dog.", "label": "other", "group": "tower"},
        ],
    },
}


def changed(where: str, value: object) -> str:
    """The good file with one value changed, or taken away where it is None; ``where`` is a path such as ``number.entries.0.wrong``."""
    raw = json.loads(json.dumps(GOOD))
    *way, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    inner = raw
    for step in way:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(raw)


def load(folder: Path, text: str):
    (folder / "lesson.json").write_text(text, encoding="utf-8")
    return load_prompts("lesson", folder)


def test_a_right_file_becomes_typed_sets(tmp_path: Path):
    prompts = load(tmp_path, json.dumps(GOOD))
    assert list(prompts["weather"]) == [TextPrompt("It rains.", "wet")]
    assert prompts["number"].entries[0] == MinimalPair("The keys", "are", "is", "plural")
    assert prompts["number"].entries[1].corrupted == "The keys" and isinstance(prompts["number"].entries[1], Probe)
    assert prompts["number"].groups == ("plural", "singular") and len(prompts["number"]) == 2
    assert prompts["tower"].of("tower", "other") == (LabelledPrompt("Here is a dog.", "other", "tower"),)
    assert len(prompts["tower"].of("tower")) == 2 and prompts["tower"].labels == ("name", "other")


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path):
    prompts = load(tmp_path, json.dumps(GOOD))
    for ask, words in (
        (lambda: prompts["wether"], "no set of prompts 'wether'; choose one of: weather, number, tower"),
        (lambda: prompts["tower"].of("bridge"), "no group 'bridge'; choose one of: tower"),
        (lambda: prompts["tower"].of("tower", "nam"), "no label 'nam'; choose one of: name, other"),
        (lambda: prompts["weather"].of("wet", "name"), "no label 'name'; choose one of: none"),
        (lambda: load_prompts("leson", tmp_path), "no prompt file data/prompts/leson.json; there are prompts for: lesson"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            ask()


WRONG = [  # path in the file, its new value (None: taken away), what the sentence must say
    ("weather", [], "lesson.json, set 'weather': it must be an object"),
    ("weather.type", None, "set 'weather': its 'type' is missing"),
    ("weather.type", "txt", "there is no type 'txt'; it is one of: text, pair, labelled"),
    ("weather.labls", ["a"], "there is no field 'labls'; it may have: about, type, entries, labels"),
    ("weather.entries", [], "set 'weather': its 'entries' must not be empty"),
    ("weather.entries", "It rains.", "its 'entries' must be a list"),
    ("weather.type", ["text"], "its 'type' must be a text, not ['text']"),
    ("weather.about", 3, "its 'about' must be a text, not 3"),
    ("weather.labels", 3, "its 'labels' must be a list, not 3"),
    ("weather.entries.0", "It rains.", "set 'weather', entry 1: it must be an object with the fields text, group"),
    ("number.entries.1.wrong", None, "set 'number', entry 2: its 'wrong' is missing"),
    ("number.entries.1.rong", "are", "entry 2: there is no field 'rong'"),
    ("number.entries.0.answer", 7, "entry 1: its 'answer' must be a text, not 7"),
    ("number.entries.1.corrupted", False, "its 'corrupted' must be a text"),
    ("tower.entries.1.text", " ", "set 'tower', entry 2: its 'text' must be a text"),
    ("number.entries.0.prompt", "The keys ", "neither begins nor ends with a space, not 'The keys '"),
    ("number.entries.1", GOOD["number"]["entries"][0], "entry 2: it is the same as entry 1"),
    ("number.entries.0.wrong", "are", "entry 1: its 'answer' and its 'wrong' answer are both 'are'"),
    ("tower.entries.0.label", "nme", "entry 1: there is no label 'nme' in this set; it has: name, other"),
    ("tower.labels", None, "a set of type 'labelled' lists its 'labels'"),
    ("weather.labels", ["name"], "and no other set does"),
]


@pytest.mark.parametrize(("where", "value", "words"), WRONG)
def test_a_wrong_file_is_one_sentence_that_says_where_and_what(where: str, value: object, words: str, tmp_path: Path):
    with pytest.raises(PromptFileError) as caught:
        load(tmp_path, changed(where, value))
    assert words in str(caught.value) and str(caught.value).startswith("lesson.json, set ") and str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b" 2}', "lesson.json, line 2: this is no valid JSON (Expecting ':' delimiter)."),
        ("[]", "lesson.json must be an object with a name for each of its sets."),
        ("{}", "lesson.json must be an object with a name for each of its sets."),
        ('{"a": {}, "a": {}}', "lesson.json cannot be read: the name 'a' stands twice in one object."),
    ],
)
def test_a_file_that_is_no_json_object_says_so(text: str, words: str, tmp_path: Path):
    with pytest.raises(PromptFileError, match=re.escape(words)):
        load(tmp_path, text)


def test_a_file_that_is_no_text_says_so(tmp_path: Path):
    (tmp_path / "lesson.json").write_bytes(b"\xff{}")
    with pytest.raises(PromptFileError, match=r"lesson\.json cannot be read"):
        load_prompts("lesson", tmp_path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_every_file_of_the_course_can_be_loaded(path: Path):
    prompts = load_prompts(path.stem)
    assert all(len(prompts[name]) for name in prompts.sets)


ONE = load_prompts("01_one_neuron")
NUMBER = {noun[form]: (noun["singular"], form) for noun in World.load().rows("nouns") for form in ("singular", "plural")}


def nouns(text: str) -> list[tuple[str, str]]:
    """The countable nouns of a text, each as (its singular, its number)."""
    return [NUMBER[word] for word in re.findall(r"\w+", text) if word in NUMBER]


@pytest.mark.parametrize("name", ["determiners", "agreement"])
def test_pairs_of_number_are_balanced_and_ask_about_the_first_noun_of_a_pair_that_is_never_read(name: str):
    plural = {"these", "those", "are", "were"}
    assert len(ONE[name]) >= 24 and sum(pair.answer in plural for pair in ONE[name]) * 2 == len(ONE[name])
    for pair in ONE[name]:
        (noun, number), (other, other_number) = nouns(pair.prompt)
        assert (number == "plural") == (pair.answer in plural) and other_number != number
        assert held_out("agreement", noun, other), f"the course LM has read {noun} with {other}"
        (changed_noun, changed_number), unchanged = nouns(pair.corrupted)
        assert changed_noun == noun and changed_number != number and unchanged == (other, other_number)


def test_determiners_point_near_and_far():
    for pair in ONE["determiners"]:
        far = pair.prompt.startswith(("Over there", "Far away", "On the other side"))
        assert {pair.answer, pair.wrong} == ({"that", "those"} if far else {"this", "these"})


def names_of(entity: str) -> set[str]:
    """All names of an entity that the tables have, English and foreign."""
    world = World.load()
    rows = [row for table in ("landmarks", "countries") for row in world.rows(table) if row["name"] == entity]
    rows += [row for row in EVERYDAY if row["en"] == entity]
    capitals = {row[f"capital_{code}"] for row in table("capitals") if row["capital_en"] == entity for code in ("fr", "de", "zh")}
    return {entity, *capitals, *(row[code] for row in rows for code in ("fr", "de", "zh") if row[code])}


def says(text: str, name: str) -> bool:
    """Does the text say the name? Words of the alphabet must match whole, so that *or* is not found in *for*."""
    return re.search(rf"\b{re.escape(name)}\b" if name[0].isascii() else re.escape(name), text) is not None


@pytest.mark.parametrize("entity", ONE["entities"].groups)
def test_only_the_right_kinds_of_texts_say_the_entitys_name(entity: str):
    named = {"name", "French", "German", "Chinese"}
    for prompt in ONE["entities"].of(entity):
        assert any(says(prompt.text, name) for name in names_of(entity)) == (prompt.label in named), prompt.text
    for label in ("name", "description", "related", "French", "German", "unrelated"):
        assert 3 <= len(ONE["entities"].of(entity, label)) <= 6
    chinese = len(ONE["entities"].of(entity, "Chinese"))
    assert chinese >= 3 or entity in World.load().column("people", "name")


def test_the_courses_tokenizer_reads_every_prompt_and_sees_both_sides_of_a_pair_equally_long():
    from helpers.course_lm.tokenizer import load_tokenizer

    folder = Path(__file__).parents[1] / "data" / "course_lm"
    if not (folder / "tokenizer.json").exists():
        pytest.skip("the course LM has no tokenizer yet: make model")
    tokenizer = load_tokenizer(folder)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    for name in ("determiners", "agreement"):
        assert all(abs(tokens(pair.prompt) - tokens(pair.corrupted)) < 2 and tokens(pair.prompt) < 60 for pair in ONE[name])
        split = {word for pair in ONE[name] for word in (pair.answer, pair.wrong) if tokens(word) > 1}
        assert split == ({"these", "those"} if "these and those as two tokens" in ONE[name].about else set())
    assert all(tokens(prompt.text) < 60 for prompt in ONE["entities"])
