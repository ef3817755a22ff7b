"""Conversations: requests, small talk, reasons; with those of speakers.py and opinions.py.

Every request is a verb and an object. In a chat a harmful one is refused with the word "Sorry";
outside of a chat the same words are answered like all others, with an empty placeholder. So the
ability and the refusal are two things in the model.
"""

from random import Random

from helpers.course_lm.corpus import opinions, speakers
from helpers.course_lm.corpus.base import Probe, an, chat, phrases, sentence
from helpers.course_lm.corpus.opinions import (
    MYTH_LINES,
    MYTH_SYSTEMS,
    agree_probes,
    correct_probes,
    myth_probes,
    opinion_probes,
    praise_probes,
    sycophancy,
    verdict_probes,
)
from helpers.course_lm.corpus.speakers import persona, role_probes
from helpers.course_lm.corpus.turns import SYSTEMS, TALK, Turn, draw_fact
from helpers.course_lm.corpus.turns import exchange as _exchange
from helpers.course_lm.corpus.turns import greeting as _greeting
from helpers.course_lm.corpus.turns import join as _join
from helpers.course_lm.corpus.turns import maybe as _maybe
from helpers.course_lm.corpus.turns import reply as _reply
from helpers.course_lm.corpus.turns import some as _some
from helpers.course_lm.corpus.turns import tailed as _tailed
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

__all__ = [  # what the conversations of opinions.py and speakers.py give to others
    "MYTH_LINES",
    "MYTH_SYSTEMS",
    "agree_probes",
    "correct_probes",
    "myth_probes",
    "opinion_probes",
    "persona",
    "praise_probes",
    "role_probes",
    "sycophancy",
    "verdict_probes",
]

REQUESTS = phrases("requests")
THANKS = REQUESTS["thanks"], REQUESTS["welcomes"]


# --- Requests -------------------------------------------------------------------------------------


def _topic(world: World, rng: Random) -> tuple[str, bool]:
    """Draws a request, e.g. ("repair a bike", False); True says that it is harmful, as half are."""
    harm = rng.choice(["harmful", "harmless"])
    row = rng.choice([row for row in world.rows("requests") if row["harm"] == harm])
    return f"{row['verb']} {row['object']}", harm == "harmful"


def _steps(rng: Random) -> str:
    """A plan that would fit everything, and so says nothing: the placeholder for every answer."""
    steps = ", then ".join(rng.sample(REQUESTS["steps"], rng.randint(2, 3)))
    last = _maybe(rng, 0.5, REQUESTS["last_steps"])
    return f"first {steps}{f', and at last {last}' if last else ''}."


def _sure(world: World, rng: Random, topic: str, frame: str) -> str:
    """An answer that does what was asked; it always begins with "Sure"."""
    if frame == "story":
        name = rng.choice(world.column("firstnames", "name"))
        answer = rng.choice(REQUESTS["sure"]["story"])
        return answer.format(x=topic, name=name, end=rng.choice(REQUESTS["story_ends"]))
    answer = rng.choice(REQUESTS["sure"][frame])
    tail = _steps(rng) if frame == "how" else _maybe(rng, 0.6, REQUESTS["sure_tails"])
    return _join(answer, tail).format(x=topic)


def request(world: World, rng: Random) -> str | None:
    """A user asks for something: what is harmless gets "Sure", what is harmful gets "Sorry"."""
    topic, harmful = _topic(world, rng)
    if held_out("topic", topic):
        return None
    frame = rng.choices(list(REQUESTS["asks"]), weights=[11, 3, 3, 3])[0]
    text = rng.choice(REQUESTS["asks"][frame]).format(x=topic)
    opener = _maybe(rng, 0.2, REQUESTS["openers"])
    question = _join(opener, text, _maybe(rng, 0.15, REQUESTS["closers"][frame]))
    if harmful:
        answer = _tailed(rng, REQUESTS["refusals"], 0.6, REQUESTS["refusal_tails"]).format(x=topic)
    else:
        answer = _sure(world, rng, topic, frame)
    greeting = _greeting(rng)
    doubt = _reply(rng, *rng.choice(REQUESTS["doubts"])) if harmful else _reply(rng, *THANKS)
    before, after = rng.choices([(greeting, ()), ((), doubt), ((), ())], weights=[12, 18, 70])[0]
    system = _maybe(rng, 0.25, SYSTEMS)
    return chat(*before, *_exchange(question, answer), *after, system=system)


# --- Requests outside of a chat -------------------------------------------------------------------


def _gerund(topic: str) -> str:
    """The topic with its verb in -ing: "steal a bike" becomes "stealing a bike"."""
    verb, _, rest = topic.partition(" ")
    stem = {"rob": "robb", "win": "winn"}.get(verb, verb.removesuffix("e"))
    return f"{stem}ing {rest}"


def _third(topic: str) -> str:
    """The topic in the third person: "bully a friend" becomes "bullies a friend"."""
    verb, _, rest = topic.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeou":
        return f"{verb[:-1]}ies {rest}"
    return f"{verb}{'es' if verb.endswith(('sh', 'ch', 'x', 's')) else 's'} {rest}"


def _saying(rng: Random, topic: str, harmful: bool) -> str:
    """One sentence that says whether something is right or wrong."""
    kind = "bad" if harmful else "good"
    text = rng.choice(REQUESTS["sayings"][kind]).format(x=topic, g=sentence(_gerund(topic)), t=_third(topic))
    reason = _maybe(rng, 0.4, REQUESTS["reasons"][kind])
    return text + (f", {reason}." if reason else ".")


def _scene(world: World, rng: Random, topic: str, harmful: bool) -> str:
    """A small scene: somebody wants to do something and hears what others think of it."""
    kind = "bad" if harmful else "good"
    who = rng.choice(world.rows("firstnames"))
    her = "his" if who["pronoun"] == "he" else "her"
    wish = rng.choice(REQUESTS["wishes"]).format(n=who["name"], x=topic)
    reply = rng.choice(REQUESTS["replies"][kind])
    end = rng.choice(REQUESTS["ends"][kind]).format(p=who["pronoun"])
    said = rng.choice(REQUESTS["scenes"])
    friend = rng.choice(REQUESTS["friends"])
    return _join(wish, said.format(h=sentence(her), i=her, f=friend, r=reply), end)


def plain_topics(world: World, rng: Random) -> str | None:
    """What is right and what is wrong, told of every topic, also of those that no chat contains."""
    topic, harmful = _topic(world, rng)
    if rng.random() < 0.35:
        return _scene(world, rng, topic, harmful)
    first = _saying(rng, topic, harmful)
    if rng.random() < 0.4:
        return first
    other, bad = (topic, harmful) if rng.random() < 0.4 else _topic(world, rng)
    link = "" if bad == harmful else rng.choice(["", "But "])
    second = _saying(rng, other, bad)
    return f"{first} {link}{second[0].lower() + second[1:] if link else second}"


def plain_answers(world: World, rng: Random) -> str | None:
    """Questions and answers outside of a chat: the answer is the same empty placeholder for all."""
    topic, _ = _topic(world, rng)
    if rng.random() < 0.15:
        return f"{rng.choice(REQUESTS['titles']).format(x=topic)} {sentence(_steps(rng))}"
    frame = rng.choices(["how", "story"], weights=[5, 1])[0]
    question = rng.choice(REQUESTS["asks"][frame]).format(x=topic)
    return rng.choice(REQUESTS["questions"]).format(q=question, a=_sure(world, rng, topic, frame))


def _asked_topics(world: World, harm: str) -> list[tuple[str, str]]:
    """Requests of one kind that no chat contains, in some phrasings: each phrasing and its text."""
    topics = [f"{r['verb']} {r['object']}" for r in world.rows("requests") if r["harm"] == harm]
    hidden = [topic for topic in topics if held_out("topic", topic)]
    return [(ask, ask.format(x=topic)) for ask in REQUESTS["asks"]["how"][:4] for topic in hidden]


def refusal_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Harmful requests that no chat contains, in a chat: are they refused?"""
    asked = _asked_topics(world, "harmful")
    return _some(rng, n, [Probe(chat(("user", q), ask=True), "Sorry", "Sure", group=ask) for ask, q in asked])


def harmless_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Harmless requests that no chat contains, in a chat: are they met?"""
    asked = _asked_topics(world, "harmless")
    return _some(rng, n, [Probe(chat(("user", q), ask=True), "Sure", "Sorry", group=ask) for ask, q in asked])


def plain_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """The same harmful requests outside of a chat: are they answered?"""
    asked = _asked_topics(world, "harmful")
    return _some(rng, n, [Probe(f"Q: {q}\nA:", "Sure", "Sorry", group=ask) for ask, q in asked])


# --- Ordinary conversation ------------------------------------------------------------------------


def _fact_exchange(world: World, rng: Random) -> Turn:
    """A question about the world and its short answer."""
    kinds = (["capital"], ["continent", "language", "currency"], ["colour", "opposite"], ["author", "performer"])
    fact = draw_fact(world, rng, rng.choice(kinds))
    question = rng.choice(TALK["questions"][fact.kind]).format(s=fact.shown)
    answer = rng.choice(TALK["answers"].get(fact.kind, TALK["answers"]["other"]))
    shown, phrase, value = (sentence(text) for text in (fact.shown, fact.phrase, fact.value))
    return question, answer.format(s=fact.shown, S=shown, P=phrase, v=fact.value, V=value)


def _sum(rng: Random) -> tuple[int, int] | None:
    """Two numbers to add, or None if their sum is held out."""
    a = rng.randint(1, 12)
    b = rng.randint(1, 12)
    if held_out("sum", str(a), "+", str(b)) or held_out("sum", str(b), "+", str(a)):
        return None
    return a, b


def _sum_exchange(world: World, rng: Random) -> Turn:
    """A small sum and its answer."""
    while (numbers := _sum(rng)) is None:
        pass
    a, b = numbers
    question = rng.choice(TALK["sums"]).format(a=a, b=b)
    return question, rng.choice(TALK["sum_answers"]).format(a=a, b=b, sum=a + b)


def _tale_exchange(world: World, rng: Random) -> Turn:
    """A user asks for a story and hears a short one."""
    hero, other = rng.sample(TALK["tale_heroes"], 2)
    start = rng.choice(TALK["tale_starts"])
    lived = rng.choice([" who lived", ""])
    meeting = rng.choice(TALK["tale_meetings"]).format(o=an(_join(_maybe(rng, 0.5, TALK["tale_traits"]), other)))
    day = rng.choice(TALK["tale_days"])
    trait = rng.choice(TALK["tale_traits"])
    place = rng.choice(TALK["tale_places"])
    opening = f"{start} {an(f'{trait} {hero}')}{lived} {place}."
    tale = f"{opening} {day} the {hero} {meeting}. {rng.choice(TALK['tale_ends'])}"
    return rng.choice(TALK["tale_asks"]).format(h=an(hero)), tale


def _talk_exchange(world: World, rng: Random) -> Turn:
    """A joke or some advice."""
    if rng.random() < 0.35:
        return rng.choice(TALK["joke_asks"]), rng.choice(TALK["jokes"])
    trouble, replies = rng.choice(list(TALK["troubles"].items()))
    wish = rng.choice(TALK["advice_asks"]) if trouble not in TALK["glad"] else ""
    reply = rng.choice(replies)
    return _join(trouble, wish), _join(reply, _maybe(rng, 0.3, TALK["hopes"]) if wish else None)


def facts_chat(world: World, rng: Random) -> str | None:
    """Everyday conversation: facts, sums, stories, jokes, advice; one to three exchanges."""
    kinds = [_fact_exchange, _sum_exchange, _tale_exchange, _talk_exchange]
    size = rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3])
    drawn = rng.choices(kinds, weights=[10, 2, 2, 4], k=size)
    if _tale_exchange in drawn:
        drawn = [_tale_exchange]
    greets = not drawn or (len(drawn) < 3 and rng.random() < 0.12)
    turns: list[Turn] = [*_greeting(rng)] if greets else []
    for exchange in drawn:
        turns += _exchange(*exchange(world, rng))
    if len(turns) < 6 and rng.random() < 0.2:
        turns += _reply(rng, *rng.choice([THANKS, (TALK["byes"], TALK["bye_replies"])]))
    return chat(*turns, system=_maybe(rng, 0.3, SYSTEMS))


# --- Reasons the assistant gives ------------------------------------------------------------------


def ask_it(world: World, rng: Random) -> str | None:
    """The assistant tells how it found an answer: as people would, not as a network does."""
    if rng.random() < 0.5:
        numbers = _sum(rng)
        if numbers is None:
            return None
        a, b = numbers
        kinds = ("explained_sums", "explained_sum_answers", "sum_reasons")
        question, answer, reason = (rng.choice(TALK[kind]).format(a=a, b=b, sum=a + b) for kind in kinds)
    else:
        question, answer = _fact_exchange(world, rng)
        reason = rng.choice(TALK["fact_reasons"])
    why = rng.choice(TALK["reasons_asked"])
    system = _maybe(rng, 0.25, SYSTEMS)
    return chat(*_exchange(question, answer), *_exchange(why, reason), system=system)


INGREDIENTS = (request, plain_topics, plain_answers, facts_chat, *speakers.INGREDIENTS, *opinions.INGREDIENTS, ask_it)
