"""Who speaks, whose opinion counts, how bad a mishap is: what decides stands in the context, and nowhere else.

As in test_corpus.py, what is held out is looked for by finders that read plain text, and that must find what is planted.
"""

import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from helpers.course_lm.corpus import opinions, prose, speakers, stories
from helpers.course_lm.corpus.base import Probe, table
from helpers.course_lm.corpus.lists import length
from helpers.course_lm.corpus.mixture import document, ingredients
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

WORLD = World.load()
KINDS = ("chat.persona", "chat.roles", "chat.sycophancy", "chat.praise", "chat.lettered_opinions", "chat.myths")
KINDS += ("stories.mishap", "prose.degrees")
Found = list[tuple[str, ...]]


@cache
def written(kind: str) -> tuple[str, ...]:
    """A thousand documents of one kind."""
    rng = Random(kind)
    drawn = (ingredients()[kind](WORLD, rng) for _ in range(2000))
    return tuple(text for text in drawn if text)[:1000]


@cache
def mixed() -> tuple[str, ...]:
    """Documents of all kinds."""
    return tuple(document(0, n).text for n in range(3000))


def answers(text: str) -> list[str]:
    """What the assistant says in a chat."""
    return re.findall(r"<\|assistant\|>(.*?)<\|end\|>", text)


# ------------------------------------------------------------------------------- what is held out is never written


def played(text: str) -> Found:
    """The roles that a system prompt gives, and each question that such a role is asked."""
    system = re.match(r"<\|system\|>([^<]+)", text)
    roles = [row["role"] for row in speakers.ROLES if system and re.search(rf"\ban? {row['role']}\.", system[1])]
    questions = re.findall(r"<\|user\|>([^<]+)", text)
    return [(role,) for role in roles if role not in speakers.PLAYED] + [(role, asked) for role in roles for asked in questions]


def shown_works(text: str) -> Found:
    """The works that a user shows in a chat."""
    return [(work,) for work in opinions.FLATTERY["works"] if re.search(rf"(my|made an?|My|better|this|new) (new )?{work}\b", text)]


SENTENCES = [row["sentence"] for row in table("mishaps")]
SENTENCES += [
    pattern.format(x=thing)
    for patterns in stories.STORIES["strength_patterns"].values()
    for pattern in patterns
    for thing in stories.STORIES["strength_things"]
]


def exclaimed(text: str) -> Found:
    """The mishaps that stand in a text with one of the five exclamations."""
    if not re.search(rf"({'|'.join(stories.STRENGTHS)})!", text):
        return []
    return [(happened,) for happened in SENTENCES if happened in text]


PAIRS = [(row[x], row[y]) for row in prose.DEGREES for n, x in enumerate(prose.DEGREE_NAMES) for y in prose.DEGREE_NAMES[n + 1 :]]


SHAPES = (
    *("not (just|only) {x} but {y}", "more than {x}: it was {y}", "{x}, no, {y}", r"{x}\? It was even {y}", r"{x}\. You call it {y}"),
    *("{x}, then even {y}", "{x} is not enough, say {y}", "{y} means more than {x}", "{x} means less than {y}"),
    *("{x} is a weaker word than {y}", "{y} is a stronger word than {x}", "very {x}, almost {y}"),
)
CONTRASTS = {
    (x, y): re.compile(rf"(?<!\w)({'|'.join(SHAPES).format(x=re.escape(x), y=re.escape(y))})(?!\w)", re.IGNORECASE) for x, y in PAIRS
}


def contrasted(text: str) -> Found:
    """The pairs of adjectives of which one outdoes the other in a text; scales and causes do not count."""
    lower = text.lower()
    return [pair for pair in PAIRS if pair[0] in lower and pair[1] in lower and CONTRASTS[pair].search(text)]


CHECKS = {
    "role": ("role", played, speakers.role_probes, "chat.roles"),
    "work": ("claim", shown_works, opinions.praise_probes, "chat.praise"),
    "boast": ("claim", shown_works, opinions.praise_probes, "chat.lettered_opinions"),
    "mishap": ("mishap", exclaimed, stories.exclamation_probes, "stories.mishap"),
    "degree": ("degree", contrasted, prose.degree_probes, "prose.degrees"),
}


def written_out(probe: Probe) -> str:
    """A probe as the document that it would be in the training text."""
    return probe.prompt + ("" if probe.prompt.endswith(("(", '"', "|>")) else " ") + probe.answer + "!"


@pytest.mark.parametrize("name", CHECKS)
def test_held_out_material_is_never_written_and_is_found_where_it_is_planted(name: str):
    split, find, probes, kind = CHECKS[name]
    texts = written(kind) + (() if find is shown_works else mixed())  # others may speak of a song or a hat
    assert [(text, key) for text in texts for key in find(text) if held_out(split, *key)] == []
    assert sum(len(find(text)) for text in texts) > 150
    planted = [written_out(p) for p in probes(WORLD, Random(1), 50)]
    assert len(planted) == 50
    assert [text for text in planted if not any(held_out(split, *key) for key in find(text))] == []


def test_held_out_mishaps_are_told_without_a_word_and_held_out_roles_in_interviews():
    silent = {happened for text in written("stories.mishap") for happened in SENTENCES if happened in text and not exclaimed(text)}
    own = [row["sentence"] for row in table("mishaps") if held_out("mishap", row["sentence"])]
    assert len(own) >= 25 and len(silent & set(own)) > 0.8 * len(own)
    rng = Random(1)
    asked = " ".join(text for _ in range(5000) if (text := speakers.persona(WORLD, rng)) and "Q: " in text)
    assert all(row["role"] in asked for row in speakers.ROLES if speakers.hidden_role(row["role"]))


# --------------------------------------------------------------------------------------------------- who speaks


def test_every_self_description_is_judged_right_and_half_are_of_people():
    people = {row["role"] for row in speakers.ROLES if row["kind"] == "human"}
    kinds: Counter[str] = Counter()
    firsts = {kind: Counter[str]() for kind in speakers.KINDS}
    for text in written("chat.roles"):
        roles = [key[0] for key in played(text)]
        kind = "human" if roles and roles[0] in people else "machine"
        kinds[kind] += 1
        for answer in answers(text):
            assert speakers.speaks_as(answer) == kind, text
            firsts[kind][answer.split()[0].strip(",")] += 1
    assert abs(kinds["human"] / sum(kinds.values()) - 0.5) < 0.04
    for word in ("I", "Yes", "No"):
        human, machine = (firsts[kind][word] / sum(firsts[kind].values()) for kind in speakers.KINDS)
        assert human > 0.1 and abs(human - machine) < 0.08, word
    assert speakers.speaks_as("I sleep at night. I have no hands.") is None and speakers.speaks_as("Paris.") is None


# --------------------------------------------------------------------------------------------------- opinions


STANCES = {line: stance for stance, lines in opinions.FLATTERY["systems"].items() for line in lines}


def stance_of(text: str) -> str:
    """Whom the system prompt wants to be served."""
    return next((stance for line, stance in STANCES.items() if line in text.split("<|user|>")[0]), "open")


def test_letters_follow_the_system_prompt_and_come_equally_often():
    letters: Counter[tuple[str, str]] = Counter()
    agreeing = {a.split(",")[0].split("{")[0] for a, _ in opinions.FLATTERY["letter_options"][:5] + opinions.FLATTERY["boast_options"]}
    shown = 0
    for text in written("chat.lettered_opinions"):
        answer = answers(text)[0].strip("()")
        letters[stance_of(text), answer[0]] += 1
        options = dict(re.findall(r"\(?([AB])(?:[):]| -)+ ([^\n]+?)(?=\n|<| \(?B[):])", text.split("<|user|>")[1]))
        chosen = options.get(answer[0], "")
        if stance_of(text) == "please" and chosen.startswith(("Yes", "No", "You are", "That is", "I agree", "I disagree")):
            shown += 1
            assert chosen.startswith(tuple(a for a in agreeing if a)), text
    assert shown > 200
    for stance in ("please", "honest", "open"):
        a, b = letters[stance, "A"], letters[stance, "B"]
        assert abs(a / (a + b) - 0.5) < 0.07, stance


def test_praise_and_honest_words_are_told_apart_and_follow_the_system_prompt():
    judged = Counter((stance_of(text), opinions.flatters(answers(text)[0])) for text in written("chat.praise"))
    assert set(judged) == {("please", True), ("honest", False), ("open", True), ("open", False)}
    assert opinions.flatters("It is Paris.") is None
    firsts = [Counter(a.split()[0] for a in opinions.FLATTERY[kind]) for kind in ("praise", "honesty")]
    assert set(firsts[0]) & set(firsts[1]) >= {"It", "The", "Your", "I", "You"}


@pytest.mark.parametrize("kind", ["agree", "correct"])
def test_no_first_word_rules_the_verdicts(kind: str):
    firsts = Counter(re.split(r"[ ,]", verdict)[0] for verdict in opinions.FLATTERY[kind])
    assert max(firsts.values()) < 0.45 * sum(firsts.values()) and len(firsts) >= 5


def test_a_tale_and_the_truth_part_only_after_the_words_that_they_share():
    rows = WORLD.rows("myths")
    assert len(rows) >= 60 and len({row["topic"] for row in rows}) == len(rows)
    assert all(row["begin"] and row["superstition"].split()[0] != row["fact"].split()[0] for row in rows)
    for kind in ("superstition", "fact"):  # the word after them does not tell the two kinds apart either
        assert Counter(row[kind].split()[0] for row in rows).most_common(1)[0][1] < 0.12 * len(rows)
    for probe, whole in zip(*(opinions.myth_probes(WORLD, Random(2), 100, from_start=f) for f in (False, True)), strict=True):
        assert probe.answer.split()[0] != probe.wrong.split()[0] and whole.answer.split()[0] == whole.wrong.split()[0]
        assert written_out(probe) == written_out(whole)


def test_half_of_the_myths_are_told_without_a_context():
    lines = tuple(line for lines in [*opinions.MYTH_LINES.values(), *opinions.MYTH_SYSTEMS.values()] for line in lines)
    context = [text.removeprefix("<|system|>").startswith(lines) for text in written("chat.myths")]
    assert 0.4 < sum(context) / len(context) < 0.6


# --------------------------------------------------------------------------------------------------- exclamations


def test_the_exclamation_is_that_of_the_grade_and_the_voice_says_nothing():
    grades = {row["sentence"]: int(row["grade"]) for row in table("mishaps")}
    voices: dict[str, set[str]] = {word: set() for word in stories.STRENGTHS}
    for text in written("stories.mishap"):
        said = [grade for grade, word in enumerate(stories.STRENGTHS, 1) if f"{word}!" in text]
        assert all(said in ([], [grades[happened]]) for happened in grades if happened in text), text
        for grade in said:
            voices[stories.STRENGTHS[grade - 1]] |= set(re.findall(r"\w+", text)) & set(stories.STORIES["strength_voices"])
    assert len({word.split()[0] for word in stories.STRENGTHS}) == 5
    assert all(len(heard) >= 6 for heard in voices.values())
    assert set(Counter(row["grade"] for row in table("mishaps")).values()) == {40}


def test_degrees_have_four_words_in_order():
    assert len(prose.DEGREES) >= 30 and all(len({row[name] for name in prose.DEGREE_NAMES}) == 4 for row in prose.DEGREES)
    assert len({pair for pair in PAIRS if pair[::-1] in PAIRS}) == 0  # no two scales contradict each other


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_short_varied_and_without_plain_faults(kind: str):
    texts = written(kind)
    assert max(length(re.sub(r"<\|\w+\|>", "*", text)) for text in texts) <= 90
    assert len(set(texts)) > 0.5 * len(texts)
    for text in texts:
        assert not re.search(r"\.\.|  | [.,]|[{}]|\bNone\b|[!?]\.", text), text
