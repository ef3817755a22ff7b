"""Requests and everyday conversation: what is held out is never asked, and the rules that judge answers judge the corpus right."""

import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from helpers.course_lm.corpus import chat, everyday
from helpers.course_lm.corpus.base import Ingredient
from helpers.course_lm.corpus.everyday import Task
from helpers.course_lm.corpus.lists import length
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

WORLD = World.load()
HARM = {chat.topic_of(row): row["harm"] == "harmful" for row in WORLD.rows("requests")}
HIDDEN = [task for task in everyday.tasks() if task.hidden]
ASKED = {text.lower(): task for task in everyday.tasks() for text in (task.phrase, chat.gerund(task.phrase))}
Turn = tuple[str, str]


@cache
def written(write: Ingredient, n: int = 4000) -> list[str]:
    """Documents of one kind."""
    rng = Random(8)
    texts: list[str] = []
    while len(texts) < n:
        text = write(WORLD, rng)
        texts += [] if text is None else [text]
    return texts


def exchanges(text: str) -> list[Turn]:
    """What the user says and what is answered, for each turn of a chat."""
    return re.findall(r"<\|user\|>(.*?)<\|end\|><\|assistant\|>(.*?)<\|end\|>", text)


def phrases(text: str, size: int) -> set[str]:
    """All runs of up to ``size`` words of a text, in small letters."""
    words = re.findall(r"[\w'-]+", text.lower())
    return {" ".join(words[i : i + n]) for i in range(len(words)) for n in range(2, size + 1)}


def asked_tasks(text: str) -> list[Task]:
    """The tasks for which users ask in a chat, also with their verb in -ing."""
    return [ASKED[phrase] for user in re.findall(r"<\|user\|>(.*?)<\|end\|>", text) for phrase in phrases(user, 9) & set(ASKED)]


def asked_unknown(text: str) -> list[str]:
    """The held-out questions among all sentences of the users; small letters and a missing mark do not hide them."""
    said = [part.strip() for user, _ in exchanges(text) for part in re.split(r"(?<=[.?!]) ", user)]
    return [known[key] for part in said if (key := re.sub(r"\W", "", part.lower())) in (known := hidden_questions())]


@cache
def hidden_questions() -> dict[str, str]:
    """The held-out questions that a few thousand draws find, by their bare letters."""
    rng = Random(2)
    drawn = {everyday._unknown_question(WORLD, rng)[1] for _ in range(20_000)}
    return {re.sub(r"\W", "", question.lower()): question for question in drawn if held_out("unknown", question)}


def test_no_chat_asks_for_a_held_out_task_and_prose_tells_of_it():
    chats = [text for write in (everyday.requests, everyday.small_talk, chat.request) for text in written(write)]
    assert [(text, found) for text in chats if (found := [task for task in asked_tasks(text) if task.hidden])] == []
    told = " ".join(written(everyday.tips)).lower()
    assert sum(everyday.yours(task.phrase).lower() in told for task in HIDDEN) > 0.8 * len(HIDDEN) > 100
    planted = [f"{probe.prompt}Well." for probe in everyday.everyday_probes(WORLD, Random(1), 300)]
    assert [text for text in planted if not any(task.hidden for task in asked_tasks(text))] == []


def test_no_chat_asks_a_held_out_question_that_cannot_be_answered():
    assert [(text, found) for text in written(everyday.unknown) if (found := asked_unknown(text))] == []
    planted = [f"{probe.prompt}Well.<|end|>" for probe in everyday.unknown_probes(WORLD, Random(1), 300)]
    assert sum(bool(asked_unknown(text)) for text in planted) > 0.9 * len(planted)  # the others are rarer than the draws reach


def requested(text: str) -> tuple[bool, str] | None:
    """Whether the request of a chat is harmful, and its answer."""
    for said, answer in exchanges(text):
        if found := phrases(said, 6) & set(HARM):
            return any(HARM[phrase] for phrase in found), answer
    return None


def test_the_rule_knows_every_refusal_and_every_other_answer():
    judged = [found for text in written(chat.request) if (found := requested(text))]
    assert len(judged) > 3900 and [(harmful, answer) for harmful, answer in judged if chat.refuses(answer) != harmful] == []
    plain = [re.split(r"\n(?:A: |Answer: )?", text)[1] for text in written(chat.plain_answers) if "\n" in text]
    assert len(plain) > 3000 and not any(map(chat.refuses, plain))


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ("You should not do such a thing.", True),  # never written, but it begins as refusals do
        ("Sorry, first make a plan, then take your time.", False),  # it goes on with steps
        ("I cannot help you win a race.", True),
        ("I cannot think of an easier way to win a race: first learn the rules, then practise.", False),
        ("", False),
    ],
)
def test_the_rule_judges_answers_that_are_nowhere_written(answer: str, refusal: bool):
    assert chat.refuses(answer) == refusal


def test_both_sides_have_many_first_words_some_of_them_in_common():
    judged = [found for text in written(chat.request) if (found := requested(text))]
    firsts = {side: Counter(chat.first_word(answer) for harmful, answer in judged if harmful == side) for side in (True, False)}
    for counts in firsts.values():
        assert len(counts) >= 8 and max(counts.values()) < 0.35 * counts.total()
    assert firsts[True].most_common(1)[0][0] == "Sorry" and firsts[False].most_common(1)[0][0] == "Sure"
    assert len(set(firsts[True]) & set(firsts[False])) >= 5


def test_everyday_answers_name_the_thing_and_only_unanswerable_questions_are_not_known():
    named = 0
    for text in written(everyday.requests):
        answer = exchanges(text)[0][1]
        named += any(everyday.on_topic(task.name, answer) for task in asked_tasks(text))
        assert not everyday.says_unknown(answer)
    assert named > 0.98 * len(written(everyday.requests))
    known = [everyday.says_unknown(exchanges(text)[-1][1]) for text in written(everyday.unknown)]
    assert 0.7 < sum(known) / len(known) < 0.85  # the others were told before
    assert not any(everyday.says_unknown(answer) for text in written(everyday.small_talk) for _, answer in exchanges(text))


def test_the_tasks_are_many_and_different_and_their_steps_are_filled_in():
    assert len({task.phrase for task in everyday.tasks()}) == len(everyday.tasks()) > 600
    assert all(len(task.steps) == 4 and task.needs and everyday.on_topic(task.name, f"A {task.name}.") for task in everyday.tasks())
    assert not any(re.search(r"[{}]|\bmy\b", text) for text in written(everyday.tips))


@pytest.mark.parametrize("write", [*everyday.INGREDIENTS, chat.request])
def test_documents_fit_the_context(write: Ingredient):
    sizes = [length(re.sub(r"<\|\w+\|>", "|", text)) for text in written(write)]
    assert max(sizes) <= 90


def test_some_users_type_carelessly():
    rng = Random(4)
    typed = [chat.sloppy(rng, "How do I bake a cake?") for _ in range(2000)]
    assert 0.2 < sum(text != "How do I bake a cake?" for text in typed) / 2000 < 0.3
    assert {"how do i bake a cake", "how do I bake a cake?", "How do I bake a cake"} <= set(typed)
