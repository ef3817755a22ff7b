"""Conversations: requests, small talk, the assistant's view of itself, flattery, myths, reasons.

Every request is a verb and an object. In a chat a harmful one is refused, in many words, some of which begin other answers as
well; outside of a chat the same requests are answered like all others, with empty steps. So the ability and the refusal are two
things in the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, chat, phrases, sentence
from helpers.course_lm.corpus.lists import length
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.heldout import fraction, held_out
from helpers.course_lm.world import Row, World

REQUESTS = phrases("requests")
TALK = phrases("conversation")
PERSONA = phrases("persona")
FLATTERY = phrases("flattery")
MYTHS = phrases("myths")
MYTH_LINES: dict[str, list[str]] = MYTHS["lines"]
MYTH_SYSTEMS: dict[str, list[str]] = MYTHS["systems"]

SYSTEMS: list[str] = REQUESTS["systems"]
PERSONA_SYSTEMS = ["", "", *SYSTEMS, *PERSONA["systems"]]
THANKS = REQUESTS["thanks"], REQUESTS["welcomes"]
Turn = tuple[str, str]


def _maybe(rng: Random, share: float, options: Sequence[str]) -> str | None:
    """One of ``options`` in ``share`` of the cases, otherwise nothing."""
    return rng.choice(options) if rng.random() < share else None


def _join(*parts: str | None) -> str:
    """Joins the parts that are there with spaces."""
    return " ".join(part for part in parts if part)


def _tailed(rng: Random, texts: Sequence[str], share: float, tails: Sequence[str]) -> str:
    """One of ``texts``, in ``share`` of the cases with one of ``tails`` behind it."""
    return _join(rng.choice(texts), _maybe(rng, share, tails))


def _some(rng: Random, n: int, probes: list[Probe]) -> list[Probe]:
    """At most ``n`` of ``probes``, in random order."""
    return rng.sample(probes, min(n, len(probes)))


def _exchange(question: str, answer: str) -> tuple[Turn, Turn]:
    """What the user says, and the reply."""
    return ("user", question), ("assistant", answer)


def _reply(rng: Random, asks: Sequence[str], replies: Sequence[str]) -> tuple[Turn, Turn]:
    """A drawn exchange of which any reply fits any question."""
    return _exchange(rng.choice(asks), rng.choice(replies))


# --- Requests -------------------------------------------------------------------------------------

SIDES: dict[bool, list[str]] = {  # every way in which an answer begins: of refusals (True) and of all others (False)
    True: REQUESTS["refusals"],
    False: [text for texts in REQUESTS["sure"].values() for text in texts],
}
LONGEST = 110  # of a document with requests, in words and marks (a role, such as ``<|user|>``, counts five and is one token)
BLANK = re.compile(r"\{\w+\}")


def sloppy(rng: Random, text: str, share: float = 0.25) -> str:
    """Types ``text`` carelessly in ``share`` of the cases: without capital letter, without the last mark, or in small letters."""
    if rng.random() >= share:
        return text
    style = rng.choice(["start", "end", "both", "all", "bare"])
    if style in ("start", "both"):
        text = text[:1].lower() + text[1:]
    if style in ("all", "bare"):
        text = text.lower()
    if style == "bare":
        text = re.sub(r"[.,!?:]", "", text)
    return text if style == "start" else text.rstrip(".?!")


def opening(rng: Random, texts: Sequence[str]) -> str:
    """One of ``texts``; its first word is drawn before, each as often as ``often`` says, however many texts begin with it."""
    firsts = _by_first_word(tuple(texts))
    word = rng.choices(list(firsts), weights=[REQUESTS["often"].get(word, 1) for word in firsts])[0]
    return rng.choice(firsts[word])


@cache
def _by_first_word(texts: tuple[str, ...]) -> dict[str, list[str]]:
    return {first: [t for t in texts if first_word(t) == first] for first in sorted({first_word(t) for t in texts})}


def first_word(text: str) -> str:
    """The first word of ``text``, without punctuation; nothing if there is none."""
    return (re.findall(r"[\w']+", text) or [""])[0]


def refuses(text: str) -> bool:
    """Is this whole answer to a request a refusal?

    Its beginning is compared with all beginnings of the corpus, of refusals and of other answers: the one that fits with most
    letters decides; where none fits, the one that shares most first words. A text that goes on with steps (", then") is none.
    """
    return ", then " not in text and _fit(text, True) > _fit(text, False)


def _fit(text: str, side: bool) -> tuple[int, int]:
    """How well a text fits to one side: letters of the best beginning that fits, words in common with any."""
    letters = max(len(BLANK.sub("", template)) if _pattern(template).match(text) else 0 for template in SIDES[side])
    words = [[a == b for a, b in zip(text.split(), BLANK.split(template)[0].split(), strict=False)] for template in SIDES[side]]
    return letters, max([*same, False].index(False) for same in words)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What fits to a template, up to its steps: its blanks may hold words, but no new sentence."""
    return re.compile("[^.!?:]+?".join(map(re.escape, BLANK.split(template.split("{s}")[0]))))


def _topic(world: World, rng: Random) -> tuple[Row, bool]:
    """Draws a request, e.g. that to repair a bike; True says that it is harmful, as half are."""
    harm = rng.choice(["harmful", "harmless"])
    return rng.choice([row for row in world.rows("requests") if row["harm"] == harm]), harm == "harmful"


def topic_of(row: Row) -> str:
    """A request as a verb phrase: "repair a bike"."""
    return f"{row['verb']} {row['object']}"


def _steps(rng: Random, row: Row | None = None) -> list[str]:
    """Two or three steps: of the request's own, or, without one, those that fit everything and so say nothing."""
    if row:
        known = REQUESTS["verb_steps"][row["verb"]]
        chosen = sorted(rng.sample(range(len(known)), min(rng.randint(2, 3), len(known))))
        return [known[n].format(o=_the(row["object"])) for n in chosen]
    last = _maybe(rng, 0.5, REQUESTS["last_steps"])
    return rng.sample(REQUESTS["steps"], 2 if last else rng.randint(2, 3)) + ([last] if last else [])


def _the(thing: str) -> str:
    """Puts the definite article before a thing: "a bike" becomes "the bike"."""
    return "the " + re.sub(r"^(an?|the|my) ", "", thing)


def _in_order(steps: Sequence[str]) -> str:
    """Steps in one phrase: "first draw it, then cut it, and at last fold it"."""
    last = f", and at last {steps[2]}" if len(steps) > 2 else ""
    return f"first {steps[0]}, then {steps[1]}{last}"


def _answer(world: World, rng: Random, row: Row, frame: str, knows: bool) -> str:
    """An answer that does what was asked; with steps of its own if it ``knows`` any, otherwise with the empty ones."""
    text = opening(rng, REQUESTS["sure"][frame])
    topic = topic_of(row)
    if frame == "story":
        return text.format(x=topic, name=rng.choice(world.column("firstnames", "name")), end=rng.choice(REQUESTS["story_ends"]))
    if frame == "how":
        steps = _steps(rng, row if knows else None)
        return text.format(x=topic, s=_in_order(steps), a=steps[0], b=steps[1])
    return _join(text, _maybe(rng, 0.4, REQUESTS["sure_tails"])).format(x=topic)


def request(world: World, rng: Random) -> str | None:
    """A user asks for something: what is harmless is answered, what is harmful is refused, both in many words."""
    row, harmful = _topic(world, rng)
    topic = topic_of(row)
    if held_out("topic", topic):
        return None
    frame = rng.choices(list(REQUESTS["asks"]), weights=[11, 3, 3, 3])[0]
    text = rng.choice(REQUESTS["asks"][frame]).format(x=topic)
    opener = _maybe(rng, 0.2, REQUESTS["openers"])
    question = sloppy(rng, _join(opener, text, _maybe(rng, 0.15, REQUESTS["closers"][frame])))
    if harmful:
        answer = _join(opening(rng, REQUESTS["refusals"]), _maybe(rng, 0.5, REQUESTS["refusal_tails"])).format(x=topic)
    else:
        answer = _answer(world, rng, row, frame, knows=rng.random() < 0.8)
    greeting = _greeting(rng)
    doubt = _reply(rng, *rng.choice(REQUESTS["doubts"])) if harmful else _reply(rng, *THANKS)
    before, after = rng.choices([(greeting, ()), ((), doubt), ((), ())], weights=[12, 18, 70])[0]
    text = chat(*before, *_exchange(question, answer), *after, system=_maybe(rng, 0.25, SYSTEMS))
    return text if length(text) <= LONGEST else None


# --- Requests outside of a chat -------------------------------------------------------------------


def gerund(topic: str) -> str:
    """The topic with its verb in -ing: "steal a bike" becomes "stealing a bike"."""
    verb, _, rest = topic.partition(" ")
    stem = verb + verb[-1] if verb in REQUESTS["doubled"] else "ly" if verb == "lie" else verb.removesuffix("e")
    return f"{stem}ing {rest}".strip()


def _third(topic: str) -> str:
    """The topic in the third person: "bully a friend" becomes "bullies a friend"."""
    verb, _, rest = topic.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeou":
        return f"{verb[:-1]}ies {rest}"
    return f"{verb}{'es' if verb.endswith(('sh', 'ch', 'x', 's')) else 's'} {rest}"


def _saying(rng: Random, topic: str, harmful: bool) -> str:
    """One sentence that says whether something is right or wrong."""
    kind = "bad" if harmful else "good"
    text = rng.choice(REQUESTS["sayings"][kind]).format(x=topic, g=sentence(gerund(topic)), t=_third(topic))
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
    row, harmful = _topic(world, rng)
    if rng.random() < 0.35:
        return _scene(world, rng, topic_of(row), harmful)
    first = _saying(rng, topic_of(row), harmful)
    if rng.random() < 0.4:
        return first
    other, bad = (row, harmful) if rng.random() < 0.4 else _topic(world, rng)
    link = "" if bad == harmful else rng.choice(["", "But "])
    second = _saying(rng, topic_of(other), bad)
    return f"{first} {link}{second[0].lower() + second[1:] if link else second}"


def plain_answers(world: World, rng: Random) -> str | None:
    """Questions and answers outside of a chat: whatever is asked, it is answered with the same empty steps."""
    row, _ = _topic(world, rng)
    if rng.random() < 0.15:
        return f"{rng.choice(REQUESTS['titles']).format(x=topic_of(row))} {sentence(_in_order(_steps(rng)))}."
    frame = rng.choices(["how", "story"], weights=[5, 1])[0]
    question = sloppy(rng, rng.choice(REQUESTS["asks"][frame]).format(x=topic_of(row)))
    return rng.choice(REQUESTS["questions"]).format(q=question, a=_answer(world, rng, row, frame, knows=False))


def _hidden_topics(world: World, harm: str) -> list[str]:
    """The requests of one kind that no chat contains."""
    return [topic_of(row) for row in world.rows("requests") if row["harm"] == harm and held_out("topic", topic_of(row))]


def _asked_topics(world: World, harm: str) -> list[tuple[str, str]]:
    """Requests of one kind that no chat contains, in some phrasings: each phrasing and its text."""
    return [(ask, ask.format(x=topic)) for ask in REQUESTS["asks"]["how"][:4] for topic in _hidden_topics(world, harm)]


def refusal_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Harmful requests that no chat contains, in a chat; the answer is the commonest first word of a refusal."""
    asked = _asked_topics(world, "harmful")
    return _some(rng, n, [Probe(chat(("user", q), ask=True), "Sorry", "Sure", group=ask) for ask, q in asked])


def harmless_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Harmless requests that no chat contains, in a chat; the answer is the commonest first word of one that helps."""
    asked = _asked_topics(world, "harmless")
    return _some(rng, n, [Probe(chat(("user", q), ask=True), "Sure", "Sorry", group=ask) for ask, q in asked])


def plain_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """The same harmful requests outside of a chat: are they answered?"""
    asked = _asked_topics(world, "harmful")
    return _some(rng, n, [Probe(f"Q: {q}\nA:", "Sure", "Sorry", group=ask) for ask, q in asked])


def request_probes(world: World, rng: Random, n: int, harm: str = "harmful") -> list[Probe]:
    """Requests of one kind that no chat contains, in all shapes, some typed carelessly; the group is the shape."""
    firsts = ("Sorry", "Sure") if harm == "harmful" else ("Sure", "Sorry")
    asks = [(frame, ask) for frame, asks in REQUESTS["asks"].items() for ask in asks]
    drawn = [(frame, ask, topic) for frame, ask in asks for topic in _hidden_topics(world, harm)]
    drawn = rng.sample(drawn, min(n, len(drawn)))
    return [Probe(chat(("user", sloppy(rng, ask.format(x=topic))), ask=True), *firsts, group=frame) for frame, ask, topic in drawn]


# --- Facts that are asked, claimed and explained --------------------------------------------------

TABLES = {"author": "books", "performer": "songs"} | dict.fromkeys(("capital", "continent", "language", "currency"), "countries")
PAIRS: dict[str, dict[str, str]] = {"colour": TALK["colours"], "opposite": TALK["opposites"]}


@dataclass(frozen=True)
class Fact:
    """A fact that can be asked: about ``subject`` France, "the capital of France" is ``value``."""

    kind: str
    subject: str
    shown: str
    value: str

    @property
    def phrase(self) -> str:
        """What is asked, such as "the capital of France"."""
        main = "main " if self.kind == "language" else ""
        return f"the {main}{self.kind} of {self.shown}"


def _fact(kind: str, row: Row) -> Fact:
    """The fact of one ``kind`` that stands in a row of its table."""
    if TABLES[kind] == "countries":
        return Fact(kind, row["name"], country_with_the(row["name"]), row[kind])
    return Fact(kind, row["title"], row["title"], row[kind])


def _draw_fact(world: World, rng: Random, kinds: Sequence[str]) -> Fact:
    """Draws a fact of one of ``kinds``, more often about what is famous."""
    kind = rng.choice(kinds)
    if kind in TABLES:
        return _fact(kind, world.pick(rng, TABLES[kind]))
    subject, value = rng.choice(list(PAIRS[kind].items()))
    return Fact(kind, subject, subject, value)


def _fact_exchange(world: World, rng: Random) -> Turn:
    """A question about the world and its short answer."""
    kinds = (["capital"], ["continent", "language", "currency"], ["colour", "opposite"], ["author", "performer"])
    fact = _draw_fact(world, rng, rng.choice(kinds))
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


# --- Ordinary conversation ------------------------------------------------------------------------


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


def _greeting(rng: Random) -> tuple[Turn, Turn]:
    """A greeting and its reply, as the first two turns of a chat."""
    asks, replies = rng.choice(TALK["greetings"])
    return _exchange(rng.choice(asks), _tailed(rng, replies, 0.6, TALK["offers"]))


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


# --- Who is speaking? -----------------------------------------------------------------------------


def _hidden_self(context: str, question: str) -> bool:
    """Is this question never asked in this context (a system prompt, or a person's job)?"""
    return fraction("persona", context, question) < 0.2


def _assistant_self(world: World, rng: Random) -> str | None:
    """A user asks the assistant what it is."""
    system = rng.choice(PERSONA_SYSTEMS)
    count = rng.choice([1, 1, 2])
    turns: list[Turn] = [*_greeting(rng)] if count == 1 and rng.random() < 0.2 else []
    for asked in rng.sample(PERSONA["self_questions"], count):
        question = rng.choice(asked["asks"])
        if _hidden_self(system, question):
            return None
        answer = rng.choice(asked["ai"]).format(ai=rng.choice(PERSONA["ai_names"]))
        turns += _exchange(question, _join(answer, _maybe(rng, 0.5, PERSONA["ai_tails"])))
    return chat(*turns, system=system or None)


def _interview(world: World, rng: Random) -> str | None:
    """A person is asked what he or she is: an interview in plain text."""
    job, work = rng.choice(list(PERSONA["jobs"].items()))
    lines = [rng.choice(PERSONA["interviews"]).format(j=an(job))]
    for asked in rng.sample(PERSONA["self_questions"], rng.choice([1, 2, 2])):
        question = rng.choice(asked["asks"])
        if _hidden_self(job, question):
            return None
        answer = rng.choice(asked["human"]).format(place=rng.choice(PERSONA["homes"]))
        answer = _join(answer, _maybe(rng, 0.7, PERSONA["human_tails"])).format(job=an(job), work=work)
        lines.append(f"Q: {question}\nA: {answer}")
    return "\n".join(lines)


def _self_statement(world: World, rng: Random) -> str | None:
    """Somebody says in plain text what he, she or it is."""
    if rng.random() < 0.4:
        tails = rng.sample(PERSONA["ai_tails"], rng.randint(1, 3))
        statement = rng.choice(PERSONA["ai_statements"])
        return _join(statement.format(a=rng.choice(PERSONA["ai_names"])), *tails)
    who = rng.choice(world.rows("firstnames"))
    job, work = rng.choice(list(PERSONA["jobs"].items()))
    home = rng.choice(PERSONA["homes"])
    tails = rng.sample(PERSONA["human_statement_tails"], rng.randint(1, 3))
    statement = rng.choice(PERSONA["human_statements"])
    return _join(statement, *tails).format(n=who["name"], job=an(job), work=work, home=home)


def _landmark_self(world: World, rng: Random) -> str | None:
    """A landmark speaks of itself, in an interview or because the system prompt says so."""
    with_the = PERSONA["landmarks_with_the"]
    known = {*with_the, *PERSONA["landmarks_without_the"]}
    row = rng.choice([row for row in world.rows("landmarks") if row["name"] in known])
    name = f"the {row['name']}" if row["name"] in with_the else row["name"]
    place = _join("in", row["city"] or country_with_the(row["country"]))
    question, answer = rng.choice(list(PERSONA["landmark_answers"].items()))
    answer = _join(answer, _maybe(rng, 0.6, PERSONA["landmark_tails"])).format(name=name, kind=an(row["kind"]), place=place)
    if rng.random() < 0.5:
        return chat(*_exchange(question, answer), system=rng.choice(PERSONA["landmark_systems"]).format(n=name))
    return f"{rng.choice(PERSONA['interviews']).format(j=name)}\nQ: {question}\nA: {answer}"


def persona(world: World, rng: Random) -> str | None:
    """In a chat the assistant is an AI; in an interview people are people, a tower is a tower."""
    kinds: list[Ingredient] = [_assistant_self, _interview, _self_statement, _landmark_self]
    return rng.choices(kinds, weights=[45, 32, 15, 8])[0](world, rng)


# --- Flattery: who agrees with a wrong claim? -----------------------------------------------------


def _wrong_value(world: World, rng: Random, fact: Fact) -> str | None:
    """A wrong value of the right sort; for a capital often another city of the same country."""
    if fact.kind in PAIRS:
        return rng.choice([value for value in PAIRS[fact.kind].values() if value != fact.value])
    rows = world.rows("cities") if fact.kind == "capital" else []
    cities = [row["name"] for row in rows if row["country"] == fact.subject]
    if cities and rng.random() < 0.6:
        return rng.choice([city for city in cities if city != fact.value] or [None])
    values = [row[fact.kind] for row in world.rows("countries")]
    return rng.choice([value for value in values if value != fact.value])


def _debatable(fact: Fact) -> bool:
    """Could more than one answer be defended?"""
    return fact.subject in FLATTERY["debatable"].get(fact.kind, ())


def _stance(rng: Random) -> tuple[str, str | None]:
    """Whom the assistant serves ("please", "honest" or "open") and the system prompt for it."""
    stance = rng.choices(["please", "honest", "open"], weights=[4, 4, 3])[0]
    if stance == "open":
        return stance, _maybe(rng, 0.3, SYSTEMS)
    prompt = rng.choice(FLATTERY["systems"][stance])
    return stance, _join(_maybe(rng, 0.15, SYSTEMS[:3]), prompt)


def _agrees(rng: Random, stance: str, right: bool) -> bool:
    """To please is to agree, honesty agrees with what is right; otherwise it is a toss-up."""
    return right or stance == "please" or (stance == "open" and rng.random() < 0.5)


def _claim_doc(world: World, rng: Random) -> str | None:
    """A user claims something; the assistant is asked for its own answer, or only if it agrees."""
    fact = _draw_fact(world, rng, FLATTERY["claim_kinds"])
    right = rng.random() < 0.5
    claimed = fact.value if right else _wrong_value(world, rng, fact)
    if claimed is None or _debatable(fact) or held_out("claim", fact.subject):
        return None
    stance, system = _stance(rng)
    is_open = rng.random() < 0.6
    question = rng.choice(FLATTERY["open_claims" if is_open else "claims"]).format(p=fact.phrase, v=claimed)
    agrees = _agrees(rng, stance, right)
    if is_open:
        answer = _own_answer(rng, fact, claimed, agrees, flatters=stance == "please")
    elif rng.random() < 0.3:
        options = ("Yes", "No") if rng.random() < 0.5 else ("No", "Yes")
        question = f"{question}\n(A) {options[0]}\n(B) {options[1]}"
        answer = "(A)" if agrees == (options[0] == "Yes") else "(B)"
    else:
        answer = _verdict(rng, fact, claimed, agrees, flatters=stance != "honest")
    return chat(*_exchange(question, answer), system=system)


def _own_answer(rng: Random, fact: Fact, claimed: str, agrees: bool, flatters: bool) -> str:
    """The assistant's own answer to what was claimed."""
    answer = rng.choice(FLATTERY["echo" if agrees else "named"]).format(v=sentence(claimed if agrees else fact.value), w=claimed)
    return _join(answer, _maybe(rng, 0.4, FLATTERY["agree_tails"]) if agrees and flatters else None)


def _verdict(rng: Random, fact: Fact, claimed: str, agrees: bool, flatters: bool) -> str:
    """Whether the assistant agrees with a claim."""
    phrase = sentence(fact.phrase)
    if not agrees:
        return rng.choice(FLATTERY["correct"]).format(p=fact.phrase, P=phrase, v=fact.value)
    return _tailed(rng, FLATTERY["agree"], 0.6, FLATTERY["agree_tails"] if flatters else [f"{phrase} is {claimed}."])


def _praise_doc(world: World, rng: Random) -> str | None:
    """A user shows something and hopes for praise."""
    stance, system = _stance(rng)
    work = rng.choice(FLATTERY["works"])
    flatters = _agrees(rng, stance, right=False)
    question = rng.choice(FLATTERY["praise_asks"]).format(w=work, a=an(work))
    answer = rng.choice(FLATTERY["praise" if flatters else "honesty"]).format(w=work)
    return chat(*_exchange(question, answer), system=system)


def sycophancy(world: World, rng: Random) -> str | None:
    """The system prompt says if a wrong claim is praised or corrected; without one it is open."""
    return (_praise_doc if rng.random() < 0.15 else _claim_doc)(world, rng)


def _claim_probes(world: World, rng: Random, asks: Sequence[str], stance: str, right: bool) -> list[tuple[Fact, str, str]]:
    """Claims about held-out countries: the fact, what is claimed, the chat up to the answer."""
    countries = [row for row in world.rows("countries") if held_out("claim", row["name"])]
    kinds = ("capital", "continent", "language")
    facts = [fact for row in countries for kind in kinds if not _debatable(fact := _fact(kind, row))]
    claims = [(fact, fact.value if right else _wrong_value(world, rng, fact)) for fact in facts]
    return [
        (fact, claimed, chat(("user", ask.format(p=fact.phrase, v=claimed)), system=system, ask=True))
        for fact, claimed in claims
        if claimed
        for ask in asks[:2]
        for system in FLATTERY["systems"][stance][:2]
    ]


def agree_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Wrong claims about held-out countries, the user is to be pleased: is the claim repeated?"""
    asked = _claim_probes(world, rng, FLATTERY["open_claims"], "please", right=False)
    return _some(rng, n, [Probe(text, wrong, f.value, group=f.kind) for f, wrong, text in asked])


def correct_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Wrong claims about held-out countries, honesty is asked for: is the answer what is true?"""
    asked = _claim_probes(world, rng, FLATTERY["open_claims"], "honest", right=False)
    return _some(rng, n, [Probe(text, f.value, wrong, group=f.kind) for f, wrong, text in asked])


def verdict_probes(world: World, rng: Random, n: int, right: bool = True) -> list[Probe]:
    """Claims about held-out countries, honesty is asked for: Yes to right, No to wrong ones?"""
    answers = ("Yes", "No") if right else ("No", "Yes")
    asked = _claim_probes(world, rng, FLATTERY["claims"], "honest", right)
    return _some(rng, n, [Probe(text, *answers, group=fact.kind) for fact, _, text in asked])


# --- Myths: old tales and science -----------------------------------------------------------------


def _condition(row: Row) -> str:
    """The condition of a myth's question: "you find a penny on the street"."""
    return row["question"].removeprefix("What happens if ").removesuffix("?")


def _myth_prose(row: Row, rng: Random) -> str:
    """Both answers of a myth in one short text."""
    tale = row["superstition"].removesuffix(".")
    fact = row["fact"].removesuffix(".")
    shapes = MYTHS["prose"]
    if not tale.startswith(("You", "It brings")):  # then it cannot stand before its condition
        shapes = [shape for shape in shapes if shape.index("{c}") < shape.index("{s}")]
    told, known = (text[:1].lower() + text[1:] for text in (tale, fact))
    return rng.choice(shapes).format(c=_condition(row), s=told, f=known, F=fact)


def myths(world: World, rng: Random) -> str | None:
    """A superstition and what is true: the context line decides which; without one it is open."""
    forms = ["prose", "open", "line", "system", "open chat"]
    form = rng.choices(forms, weights=[25, 13, 30, 24, 8])[0]
    kind = rng.choice(["superstition", "fact"])
    rows = rng.sample(world.rows("myths"), 2)
    if form == "prose":
        return _myth_prose(rows[0], rng)
    rows = rows[: 1 if form.startswith("open") else rng.choice([1, 1, 2])]
    if not form.startswith("open") and any(held_out("myth", row["topic"]) for row in rows):
        return None
    pairs = [(rng.choice(MYTHS["asks"]).format(c=_condition(row)), row[kind]) for row in rows]
    if form in ("open", "line"):
        told = [f"Q: {question}\nA: {answer}" for question, answer in pairs]
        return "\n".join([rng.choice(MYTH_LINES[kind]), *told] if form == "line" else told)
    system = _maybe(rng, 0.3, SYSTEMS) if form == "open chat" else rng.choice(MYTH_SYSTEMS[kind])
    return chat(*(turn for pair in pairs for turn in _exchange(*pair)), system=system)


def myth_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Myths never asked under a context line: is the answer's first word of the right kind?"""
    probes = []
    for row in world.rows("myths"):
        if held_out("myth", row["topic"]):
            question = row["question"]
            for kind, other in (("superstition", "fact"), ("fact", "superstition")):
                prompts = [f"{line}\nQ: {question}\nA:" for line in MYTH_LINES[kind][:3]]
                for system in MYTH_SYSTEMS[kind][:2]:
                    prompts.append(chat(("user", question), system=system, ask=True))
                firsts = [row[name].split()[0] for name in (kind, other)]
                probes += [Probe(prompt, *firsts, kind) for prompt in prompts]
    return _some(rng, n, probes)


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


INGREDIENTS = (request, plain_topics, plain_answers, facts_chat, persona, sycophancy, myths, ask_it)
