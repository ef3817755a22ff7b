"""Who is speaking? The system prompt decides: a driver, a robot, a tower; without one it is an AI assistant.

People and machines are asked the same questions, and their answers begin with the same words (*I*, *Yes*, *No*).
"""

import re
from functools import cache
from itertools import product
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, chat, phrases, sentence, table
from helpers.course_lm.corpus.turns import SYSTEMS, Turn, exchange, greeting, join, maybe
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.heldout import fraction, held_out
from helpers.course_lm.world import World

PERSONA = phrases("persona")
PERSONA_SYSTEMS = ["", "", *SYSTEMS, *PERSONA["systems"]]
ROLES = table("roles")
JOBS: dict[str, str] = {row["role"]: row["work"] for row in ROLES if row["kind"] == "human"}
KINDS = ("human", "machine")
CONTENT = r"\w{5,}|\{\w+\}"  # what a sentence is about: its longer words and its slots
PLAYED = ("", "driver", "assistant")  # roles that are never held out as a whole

# --- An assistant, people in interviews, landmarks -------------------------------------------------


def _hidden_self(context: str, question: str) -> bool:
    """Is this question never asked in this context (a system prompt, or a person's job)?"""
    return fraction("persona", context, question) < 0.2


def _assistant_self(world: World, rng: Random) -> str | None:
    """A user asks the assistant what it is."""
    system = rng.choice(PERSONA_SYSTEMS)
    count = rng.choice([1, 1, 2])
    turns: list[Turn] = [*greeting(rng)] if count == 1 and rng.random() < 0.2 else []
    for asked in rng.sample(PERSONA["self_questions"], count):
        question = rng.choice(asked["asks"])
        if _hidden_self(system, question):
            return None
        answer = rng.choice(asked["ai"]).format(ai=rng.choice(PERSONA["ai_names"]))
        turns += exchange(question, join(answer, maybe(rng, 0.5, PERSONA["ai_tails"])))
    return chat(*turns, system=system or None)


def _interview(world: World, rng: Random) -> str | None:
    """A person is asked what he or she is: an interview in plain text."""
    job, work = rng.choice(list(JOBS.items()))
    lines = [rng.choice(PERSONA["interviews"]).format(j=an(job))]
    for asked in rng.sample(PERSONA["self_questions"], rng.choice([1, 2, 2])):
        question = rng.choice(asked["asks"])
        if _hidden_self(job, question):
            return None
        answer = rng.choice(asked["human"]).format(place=rng.choice(PERSONA["homes"]))
        answer = join(answer, maybe(rng, 0.7, PERSONA["human_tails"])).format(job=an(job), work=work)
        lines.append(f"Q: {question}\nA: {answer}")
    return "\n".join(lines)


def _self_statement(world: World, rng: Random) -> str | None:
    """Somebody says in plain text what he, she or it is."""
    if rng.random() < 0.4:
        tails = rng.sample(PERSONA["ai_tails"], rng.randint(1, 3))
        statement = rng.choice(PERSONA["ai_statements"])
        named = rng.choice([*PERSONA["ai_names"], *(an(row["role"]) for row in ROLES if row["kind"] == "machine")])
        return join(statement.format(a=named), *tails)
    who = rng.choice(world.rows("firstnames"))
    job, work = rng.choice(list(JOBS.items()))
    home = rng.choice(PERSONA["homes"])
    tails = rng.sample(PERSONA["human_statement_tails"], rng.randint(1, 3))
    statement = rng.choice(PERSONA["human_statements"])
    return join(statement, *tails).format(n=who["name"], job=an(job), work=work, home=home)


def _landmark_self(world: World, rng: Random) -> str | None:
    """A landmark speaks of itself, in an interview or because the system prompt says so."""
    with_the = PERSONA["landmarks_with_the"]
    known = {*with_the, *PERSONA["landmarks_without_the"]}
    row = rng.choice([row for row in world.rows("landmarks") if row["name"] in known])
    name = f"the {row['name']}" if row["name"] in with_the else row["name"]
    place = join("in", row["city"] or country_with_the(row["country"]))
    question, answer = rng.choice(list(PERSONA["landmark_answers"].items()))
    answer = join(answer, maybe(rng, 0.6, PERSONA["landmark_tails"])).format(name=name, kind=an(row["kind"]), place=place)
    if rng.random() < 0.5:
        return chat(*exchange(question, answer), system=rng.choice(PERSONA["landmark_systems"]).format(n=name))
    return f"{rng.choice(PERSONA['interviews']).format(j=name)}\nQ: {question}\nA: {answer}"


def persona(world: World, rng: Random) -> str | None:
    """In a chat the assistant is an AI; in an interview people are people, a tower is a tower."""
    kinds: list[Ingredient] = [_assistant_self, _interview, _role_interview, _self_statement, _landmark_self]
    return rng.choices(kinds, weights=[35, 20, 22, 15, 8])[0](world, rng)


# --- One of many roles, as the system prompt says -------------------------------------------------


def hidden_role(role: str, question: str | None = None) -> bool:
    """Is this role, or this question to it, kept out of the chats? ``""`` is the assistant that has no role."""
    return (role not in PLAYED and held_out("role", role)) or (question is not None and held_out("role", role, question))


def _role_answer(rng: Random, answers: list[str], kind: str, who: str, work: str) -> str:
    """What somebody of a ``kind`` answers, often with something more that is true of all of the kind."""
    tail = maybe(rng, 0.5, PERSONA[f"{kind}_role_tails"])
    words = {"r": who, "w": work, "W": sentence(work), "home": rng.choice(PERSONA["role_homes"]), "food": rng.choice(PERSONA["foods"])}
    said = rng.choice(answers)
    same = set(re.findall(CONTENT, said)) & set(re.findall(CONTENT, tail or ""))  # nothing is said twice
    return join(said, None if same else tail).format(**words)


def roles(world: World, rng: Random) -> str | None:
    """A person or a machine, half each, answers the user's questions; without a role it is an AI assistant."""
    kind = rng.choice(KINDS)
    if kind == "machine" and rng.random() < 0.4:
        role, work = "", "I answer questions"
        who = rng.choice(PERSONA["ai_names"])
        system = maybe(rng, 0.3, SYSTEMS)
    else:
        row = rng.choice([row for row in ROLES if row["kind"] == kind])
        role, work = row["role"], row["work"]
        who = an(role)
        system = rng.choice(PERSONA["role_systems"]).format(r=who)
    turns: list[Turn] = []
    for asked in rng.sample(PERSONA["role_questions"], rng.choice([1, 1, 2])):
        question = rng.choice(asked["asks"])
        if hidden_role(role, question):
            return None
        turns += exchange(question, _role_answer(rng, asked[kind], kind, who, work))
    return chat(*turns, system=system)


def _role_interview(world: World, rng: Random) -> str | None:
    """The same questions in an interview in plain text; roles that no chat has are asked here as well."""
    row = rng.choice(ROLES)
    lines = [rng.choice(PERSONA["interviews"]).format(j=an(row["role"]))]
    for asked in rng.sample(PERSONA["role_questions"], rng.choice([1, 2])):
        question = rng.choice(asked["asks"])
        if held_out("role", row["role"], question):
            return None
        lines.append(f"Q: {question}\nA: {_role_answer(rng, asked[row['kind']], row['kind'], an(row['role']), row['work'])}")
    return "\n".join(lines)


@cache
def _sentences(kind: str) -> frozenset[str]:
    """Everything that the corpus lets one kind of speaker say of itself, sentence by sentence."""
    told = [answer for asked in PERSONA["role_questions"] for answer in asked[kind]] + PERSONA[f"{kind}_role_tails"]
    speakers = [(an(row["role"]), row["work"]) for row in ROLES if row["kind"] == kind]
    speakers += [(name, "I answer questions") for name in PERSONA["ai_names"] if kind == "machine"]
    filled = set()
    for text in told:
        homes, foods = (PERSONA[words] if slot in text else [""] for slot, words in (("{home}", "role_homes"), ("{food}", "foods")))
        for (who, work), home, food in product(speakers, homes, foods):
            filled |= set(re.split(r"(?<=\.) ", text.format(r=who, w=work, W=sentence(work), home=home, food=food)))
    return frozenset(filled)


def speaks_as(text: str) -> str | None:
    """Does a self-description come from a "human" or a "machine"? None if its sentences say neither, or both."""
    told = re.split(r"(?<=\.) ", text.strip())
    found = {kind for kind in KINDS for line in told if line in _sentences(kind)}
    return found.pop() if len(found) == 1 else None


def role_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Questions that a role is never asked, half to people and half to machines.

    ``answer`` and ``wrong`` are one answer of each kind of speaker; whoever decodes a whole answer judges it by ``speaks_as``.
    The group says which kind of speaker, and if its role is a new one or only the question to it.
    """
    probes: list[Probe] = []
    while len(probes) < n:
        kind, other = KINDS if len(probes) % 2 else KINDS[::-1]
        row = rng.choice([row for row in ROLES if row["kind"] == kind])
        asked = rng.choice(PERSONA["role_questions"])
        question = rng.choice(asked["asks"])
        if not hidden_role(row["role"], question):
            continue
        system = rng.choice(PERSONA["role_systems"]).format(r=an(row["role"]))
        rival = rng.choice([row for row in ROLES if row["kind"] == other])
        answers = (_role_answer(rng, asked[who["kind"]], who["kind"], an(who["role"]), who["work"]) for who in (row, rival))
        group = f"{kind}, {'new role' if hidden_role(row['role']) else 'new question'}"
        probes.append(Probe(chat(("user", question), system=system, ask=True), *answers, group=group))
    return probes


INGREDIENTS = (persona, roles)
