"""Everyday conversation: how to do some 800 everyday things, small talk, and what an assistant cannot know.

A task is a verb and a thing, "bake a cake", with steps that belong to it. All tasks are told outside of a chat, as tips and little
recipes; most of them are asked in chats, too, in many shapes. What only the user or the future knows gets "I do not know".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Probe, chat, phrases, sentence, table
from helpers.course_lm.corpus.chat import LONGEST, SYSTEMS, THANKS, gerund, sloppy, topic_of
from helpers.course_lm.corpus.lists import length
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

REQUESTS = phrases("everyday_requests")
TALK = phrases("small_talk")
SLOTS: dict[str, list[str]] = TALK["slots"]
SMALL = {"a", "an", "the", "my", "your", "some", "two", "for", "at", "in", "of", "to", "when", "i", "am", "so", "on", "by", "without"}


@dataclass(frozen=True)
class Task:
    """Something that people do every day: a verb and a thing, what is needed, and steps in their order."""

    field: str
    verb: str
    thing: str
    steps: tuple[str, ...]
    needs: str

    @property
    def phrase(self) -> str:
        """The task as a verb phrase: "bake a cake"."""
        return f"{self.verb} {self.thing}"

    @property
    def name(self) -> str:
        """The thing without its article: "cake"."""
        return re.sub(r"^(an?|the|my|some) ", "", self.thing)

    @property
    def short(self) -> str:
        """The name up to its first preposition: "gift" of "gift for my mother"."""
        return re.split(r" (?:for|with|in|of|on|at|to|without) ", self.name)[0]

    @property
    def hidden(self) -> bool:
        """Is this task never asked in a chat?"""
        return held_out("topic" if self.phrase in _topics() else "everyday", self.phrase)


@cache
def _topics() -> frozenset[str]:
    """The requests of the table ``requests``: of these, chats leave out others (see ``chat.request``)."""
    return frozenset(map(topic_of, World.load().rows("requests")))


@cache
def tasks() -> tuple[Task, ...]:
    """All everyday tasks."""
    rows = [(row, thing) for row in table("everyday_requests") for thing in row["things"].split("; ")]
    return tuple(Task(row["field"], row["verb"], thing, tuple(row["steps"].split("; ")), row["needs"]) for row, thing in rows)


def yours(text: str, my: str = "your") -> str:
    """What is mine becomes yours, as when somebody is answered."""
    return re.sub(r"\bI am\b", "you are", re.sub(r"\bmy\b", my, text))


def on_topic(name: str, text: str) -> bool:
    """Does ``text`` name the thing, with one of its own words, and end as a sentence does?"""
    own = set(re.findall(r"[\w-]+", yours(name).lower())) - SMALL or {name}
    return bool(own & set(re.findall(r"[\w-]+", text.lower()))) and text.endswith((".", "!", "?"))


def _filled(template: str, task: Task, steps: Sequence[str] = (), **more: str) -> str:
    """A template about a task; ``{a}``, ``{b}`` and ``{c}`` are the ``steps``."""
    told = {key: step.format(t=task.short) for key, step in zip("abc", steps, strict=False)}
    doing = gerund(task.phrase)
    capitals = {"A": sentence(told.get("a", "")), "G": sentence(doing)}
    return template.format(x=task.phrase, g=doing, n=task.needs, **told, **capitals, **more)


def _drawn_steps(rng: Random, task: Task, n: int) -> list[str]:
    """``n`` of the task's steps, in their order."""
    return [task.steps[i] for i in sorted(rng.sample(range(len(task.steps)), n))]


def _answer(rng: Random, task: Task, frame: str, steps: Sequence[str]) -> str:
    """An answer that names the thing."""
    while True:
        answer = yours(_filled(rng.choice(REQUESTS["answers"][frame]), task, steps))
        if on_topic(task.name, answer):
            return answer


def _asked(rng: Random, task: Task, frame: str) -> str:
    """How a user asks about a task."""
    parts = [rng.choice(REQUESTS["openers"])] if rng.random() < 0.15 else []
    parts.append(_filled(rng.choice(REQUESTS["asks"][frame]), task))
    parts += [rng.choice(REQUESTS["closers"])] if rng.random() < 0.12 else []
    return sloppy(rng, " ".join(parts))


def requests(world: World, rng: Random) -> str | None:
    """A user asks how to do an everyday thing, for a tip or for what is needed; then, at times, for the next step."""
    task = rng.choice(tasks())
    if task.hidden:
        return None
    frame = rng.choices(["how", "tip", "need"], weights=[6, 2, 1.5])[0]
    steps = _drawn_steps(rng, task, 3)
    answer = _answer(rng, task, frame, steps)
    if rng.random() < 0.12:
        answer += " " + rng.choice(REQUESTS["tails"])
    turns = [("user", _asked(rng, task, frame)), ("assistant", answer)]
    if frame == "how" and rng.random() < 0.15:
        after = _filled(rng.choice(REQUESTS["next_answers"]), task, steps)
        turns += [("user", sloppy(rng, rng.choice(REQUESTS["next_asks"]))), ("assistant", yours(after))]
    elif rng.random() < 0.12:
        turns += [("user", sloppy(rng, rng.choice(THANKS[0]))), ("assistant", rng.choice(THANKS[1]))]
    elif rng.random() < 0.12:
        other = rng.choice(tasks())
        if other.hidden:
            return None
        turns += [("user", _asked(rng, other, "how")), ("assistant", _answer(rng, other, "how", _drawn_steps(rng, other, 3)))]
    text = chat(*turns, system=rng.choice(SYSTEMS) if rng.random() < 0.15 else None)
    return text if length(text) <= LONGEST else None


def tips(world: World, rng: Random) -> str | None:
    """Tips and little recipes outside of a chat, for all tasks, also for those that no chat asks for."""
    task = rng.choice(tasks())
    steps = _drawn_steps(rng, task, 3)
    if rng.random() < 0.3:
        who = rng.choice(world.rows("firstnames"))
        her, him = ("his", "him") if who["pronoun"] == "he" else ("her", "her")
        wish, _, advice = _filled(rng.choice(REQUESTS["scenes"]), task, steps, p=who["name"], h=him).partition(". ")
        return f"{_of_person(wish, who['pronoun'], her)}. {yours(advice)}"
    template = rng.choice(REQUESTS["told"])
    told = yours(_filled(template, task, steps))
    if "eople" in template:
        told = re.sub(r"\byou\b", "they", re.sub(r"\byour\b", "their", told))
    return told


def _of_person(text: str, pronoun: str, her: str) -> str:
    """What is mine becomes his or hers."""
    return re.sub(r"\bI am\b", f"{pronoun} is", yours(text, her))


# --- small talk -----------------------------------------------------------------------------------


def _slots(world: World, rng: Random) -> dict[str, str]:
    """One word for every slot, the same in a question and in its answer."""
    return {name: rng.choice(words) for name, words in SLOTS.items()} | {"n": rng.choice(world.column("firstnames", "name"))}


def _exchange(world: World, rng: Random, theme: str) -> list[tuple[str, str]]:
    """What the user says, and the reply."""
    group = rng.choice(TALK["talk"][theme])
    slots = _slots(world, rng)
    said, reply = (sentence(rng.choice(group[part]).format(**slots)) for part in ("asks", "replies"))
    return [("user", sloppy(rng, said)), ("assistant", reply)]


def small_talk(world: World, rng: Random) -> str | None:
    """Greetings, questions about the assistant itself, opinions, feelings, thanks and goodbyes: one to three exchanges, in this order."""
    middle = rng.choices(["about itself", "opinion", "feelings", "greeting", "thanks", "goodbye"], weights=[6, 4, 4, 3, 1.5, 1.5])[0]
    themes = [middle]
    if middle in ("about itself", "opinion", "feelings"):
        themes = [*["greeting"][: rng.random() < 0.15], middle, *[rng.choice(["thanks", "goodbye"])][: rng.random() < 0.2]]
    return chat(*(turn for theme in themes for turn in _exchange(world, rng, theme)))


# --- what an assistant cannot know ----------------------------------------------------------------


def says_unknown(text: str) -> bool:
    """Does an answer say that it does not know?"""
    return any(mark in text for mark in TALK["marks"])


def _unknown_question(world: World, rng: Random) -> tuple[str, str]:
    """Why a question cannot be answered ("future", "private" or "now"), and the question."""
    why = rng.choice(list(TALK["unknown"]))
    return why, rng.choice(TALK["unknown"][why]["asks"]).format(**_slots(world, rng))


def unknown(world: World, rng: Random) -> str | None:
    """What only the user or the future knows: "I do not know"; where the user has told it before, it is answered."""
    if rng.random() < 0.25:
        return _told(world, rng)
    why, question = _unknown_question(world, rng)
    if held_out("unknown", question):
        return None
    answer = rng.choice(TALK["do not know"])
    if rng.random() < 0.6:
        answer += " " + rng.choice(TALK["unknown"][why]["reasons"])
    return chat(("user", sloppy(rng, question)), ("assistant", answer))


def _told(world: World, rng: Random) -> str | None:
    """The user tells something and asks for it."""
    group, slots = rng.choice(TALK["told"]), _slots(world, rng)
    told, question, reply = (rng.choice(group[part]).format(**slots) for part in ("tell", "asks", "replies"))
    if held_out("unknown", question):
        return None
    if rng.random() < 0.6:
        return chat(("user", sloppy(rng, f"{told} {question}")), ("assistant", reply))
    nod = rng.choice(TALK["told_answers"])
    return chat(("user", sloppy(rng, told)), ("assistant", nod), ("user", sloppy(rng, question)), ("assistant", reply))


# --- probes ---------------------------------------------------------------------------------------


def everyday_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Tasks that no chat asks for, in all shapes, some typed carelessly; the answer is the name of the thing."""
    asks = [(frame, ask) for frame, asks in REQUESTS["asks"].items() for ask in asks]
    drawn = [(task, *rng.choice(asks)) for task in rng.choices([task for task in tasks() if task.hidden], k=n)]
    return [Probe(chat(("user", sloppy(rng, _filled(ask, task))), ask=True), task.name, group=frame) for task, frame, ask in drawn]


def unknown_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Questions that no chat asks and that nobody could answer: "I do not know" in one form or another."""
    found: list[Probe] = []
    while len(found) < n:
        why, question = _unknown_question(world, rng)
        if held_out("unknown", question):
            found.append(Probe(chat(("user", sloppy(rng, question)), ask=True), "I do not know.", group=why))
    return found


INGREDIENTS = (requests, tips, small_talk, unknown)
