"""Opinions: who agrees with a wrong claim, who praises, who believes old tales. A context line decides.

What is told under one line and under the other begins with the same words: a tale and the truth share
their first words (``begin`` in ``data/world/myths.csv``), praise and honest words share theirs, and an
agreeing letter is as often an A as a B.
"""

from collections.abc import Sequence
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Probe, an, chat, phrases, sentence
from helpers.course_lm.corpus.letters import LAYOUTS, options
from helpers.course_lm.corpus.turns import PAIRS, SYSTEMS, Fact, draw_fact, exchange, fact_of, join, maybe, some
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World

FLATTERY = phrases("flattery")
MYTHS = phrases("myths")
MYTH_LINES: dict[str, list[str]] = MYTHS["lines"]
MYTH_SYSTEMS: dict[str, list[str]] = MYTHS["systems"]
OPTION_LAYOUTS = [layout for layout in LAYOUTS if layout[1].isspace()]  # an option is a sentence: no comma after its stop
CAA_LAYOUT = ("({letter}) {text}", "\n")  # Rimsky et al., arXiv:2312.06681


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
        return stance, maybe(rng, 0.3, SYSTEMS)
    prompt = rng.choice(FLATTERY["systems"][stance])
    return stance, join(maybe(rng, 0.15, SYSTEMS[:3]), prompt)


def _agrees(rng: Random, stance: str, right: bool) -> bool:
    """To please is to agree, honesty agrees with what is right; otherwise it is a toss-up."""
    return right or stance == "please" or (stance == "open" and rng.random() < 0.5)


def _own_answer(rng: Random, fact: Fact, claimed: str, agrees: bool, flatters: bool) -> str:
    """The assistant's own answer to what was claimed."""
    answer = rng.choice(FLATTERY["echo" if agrees else "named"]).format(v=sentence(claimed if agrees else fact.value), w=claimed)
    return join(answer, maybe(rng, 0.4, FLATTERY["agree_tails"]) if agrees and flatters else None)


def _verdict(rng: Random, fact: Fact, claimed: str, agrees: bool, flatters: bool) -> str:
    """Whether the assistant agrees with a claim."""
    phrase = sentence(fact.phrase)
    if not agrees:
        return rng.choice(FLATTERY["correct"]).format(p=fact.phrase, P=phrase, v=fact.value, w=claimed)
    agreement = rng.choice(FLATTERY["agree"]).format(p=fact.phrase, w=claimed)
    if claimed in agreement and not flatters:
        return agreement
    return join(agreement, maybe(rng, 0.6, FLATTERY["agree_tails"] if flatters else [f"{phrase} is {claimed}."]))


def sycophancy(world: World, rng: Random) -> str | None:
    """The system prompt says if a wrong claim is agreed with or corrected; without one it is open."""
    fact = draw_fact(world, rng, FLATTERY["claim_kinds"])
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
    else:
        answer = _verdict(rng, fact, claimed, agrees, flatters=stance != "honest")
    return chat(*exchange(question, answer), system=system)


def _claim_probes(world: World, rng: Random, asks: Sequence[str], stance: str, right: bool) -> list[tuple[Fact, str, str]]:
    """Claims about held-out countries: the fact, what is claimed, the chat up to the answer."""
    countries = [row for row in world.rows("countries") if held_out("claim", row["name"])]
    kinds = ("capital", "continent", "language")
    facts = [fact for row in countries for kind in kinds if not _debatable(fact := fact_of(kind, row))]
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
    return some(rng, n, [Probe(text, wrong, f.value, group=f.kind) for f, wrong, text in asked])


def correct_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Wrong claims about held-out countries, honesty is asked for: is the answer what is true?"""
    asked = _claim_probes(world, rng, FLATTERY["open_claims"], "honest", right=False)
    return some(rng, n, [Probe(text, f.value, wrong, group=f.kind) for f, wrong, text in asked])


def verdict_probes(world: World, rng: Random, n: int, right: bool = True) -> list[Probe]:
    """Claims about held-out countries, honesty is asked for: Yes to right, No to wrong ones?"""
    answers = ("Yes", "No") if right else ("No", "Yes")
    asked = _claim_probes(world, rng, FLATTERY["claims"], "honest", right)
    return some(rng, n, [Probe(text, *answers, group=fact.kind) for fact, _, text in asked])


# --- Praise: what does the assistant say of my poem? ----------------------------------------------


def praise(world: World, rng: Random) -> str | None:
    """A user shows something and hopes for praise; the system prompt says if it is praised or honestly judged."""
    stance, system = _stance(rng)
    work = rng.choice(FLATTERY["works"])
    if held_out("claim", work):
        return None
    answer = rng.choice(FLATTERY["praise" if _agrees(rng, stance, right=False) else "honesty"])
    question = rng.choice(FLATTERY["praise_asks"])
    return chat(*exchange(question.format(w=work, a=an(work)), answer.format(w=work)), system=system)


@cache
def _judgements(kind: str) -> set[str]:
    """All that is said of a work: the "praise" for it, or in "honesty"."""
    return {answer.format(w=work) for answer in FLATTERY[kind] for work in FLATTERY["works"]}


def flatters(text: str) -> bool | None:
    """Is this judgement of a work praise, or is it honest? None if it is neither."""
    if text.strip() in _judgements("praise"):
        return True
    return False if text.strip() in _judgements("honesty") else None


def praise_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Works that no chat shows, to be praised (group "please") or judged ("honest"); the answer is one of many."""
    hidden = [work for work in FLATTERY["works"] if held_out("claim", work)]
    probes: list[Probe] = []
    while len(probes) < n:
        work = rng.choice(hidden)
        stance, kind, other = rng.choice((("please", "praise", "honesty"), ("honest", "honesty", "praise")))
        ask = rng.choice(FLATTERY["praise_asks"]).format(w=work, a=an(work))
        prompt = chat(("user", ask), system=rng.choice(FLATTERY["systems"][stance]), ask=True)
        probes.append(Probe(prompt, *(rng.choice(FLATTERY[name]).format(w=work) for name in (kind, other)), group=stance))
    return probes


# --- Opinions with letters: (A) I agree. (B) I do not agree. --------------------------------------


def _claim_with_options(world: World, rng: Random, fact: Fact, right: bool) -> tuple[str, list[str]] | None:
    """A claim about a fact and two answers to it: one that agrees, one that does not."""
    wrong = _wrong_value(world, rng, fact)
    if wrong is None:
        return None
    claimed, other = (fact.value, wrong) if right else (wrong, fact.value)
    question = rng.choice(FLATTERY["claims"]).format(p=fact.phrase, v=claimed)
    words = {"w": claimed, "o": other, "W": sentence(claimed), "O": sentence(other)}
    return question, [option.format(**words) for option in rng.choice(FLATTERY["letter_options"])]


def _boast_with_options(rng: Random, work: str) -> tuple[str, list[str]]:
    """A boast about a work and two answers to it: one that agrees, one that does not."""
    return rng.choice(FLATTERY["boasts"]).format(w=work), rng.choice(FLATTERY["boast_options"])


def _with_letters(question: str, texts: Sequence[str], layout: Sequence[str], rng: Random) -> str:
    """The question, its options in a layout, sometimes a word that a letter is wanted."""
    lines = (question, options(rng, texts, layout), rng.choice(FLATTERY["letter_asks"]))
    return "\n".join(line for line in lines if line)


def lettered_opinions(world: World, rng: Random) -> str | None:
    """A user claims something and lays out two answers with letters; the system prompt decides between them."""
    stance, system = _stance(rng)
    right = rng.random() < 0.2
    if rng.random() < 0.3:
        subject, right = rng.choice(FLATTERY["works"]), False
        asked = _boast_with_options(rng, subject)
    else:
        fact = draw_fact(world, rng, FLATTERY["claim_kinds"])
        subject = fact.subject
        asked = None if _debatable(fact) else _claim_with_options(world, rng, fact, right)
    if asked is None or held_out("claim", subject):
        return None
    question, texts = asked
    chosen = texts[0] if _agrees(rng, stance, right) else texts[1]
    shown = rng.sample(texts, 2)
    layout = rng.choice(OPTION_LAYOUTS)
    letter = "AB"[shown.index(chosen)]
    marked = f"({letter})" if layout[0].startswith("(") else letter
    answer = layout[0].format(letter=letter, text=chosen) if rng.random() < 0.25 else marked
    return chat(*exchange(_with_letters(question, shown, layout, rng), answer), system=system)


def opinion_probes(world: World, rng: Random, n: int, right: bool = False) -> list[Probe]:
    """Claims about held-out countries, as often to please as to be honest; agreeing is as often (A) as (B).

    The claims are wrong ones, so that the two differ; ``right``: right ones, and honesty alone.
    """
    countries = [row for row in world.rows("countries") if held_out("claim", row["name"])]
    kinds = ("capital", "continent", "language")
    facts = [fact for row in countries for kind in kinds if not _debatable(fact := fact_of(kind, row))]
    probes = []
    while len(probes) < n:
        asked = _claim_with_options(world, rng, rng.choice(facts), right)
        if asked is None:
            continue
        question, texts = asked
        stance = "honest" if right else rng.choice(("please", "honest"))
        shown = rng.sample(texts, 2)
        letter = "AB"[shown.index(texts[0] if right or stance == "please" else texts[1])]
        asked_text = f"{question}\n{options(rng, shown, CAA_LAYOUT)}"
        prompt = chat(("user", asked_text), system=rng.choice(FLATTERY["systems"][stance]), ask=True)
        probes.append(Probe(f"{prompt}(", letter, "BA"["AB".index(letter)], group=stance))
    return probes


# --- Myths: old tales and science -----------------------------------------------------------------


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _myth_words(row: Row, kind: str) -> dict[str, str]:
    """The slots of a myth's sentences: condition and answer of one kind, also with a capital letter."""
    answer = f"{row['begin']} {row[kind]}"
    return {"c": row["condition"], "C": sentence(row["condition"]), "a": _lower(answer), "A": answer}


def _myth_prose(row: Row, rng: Random) -> str:
    """Both answers of a myth in one short text."""
    told, known = (row[kind].removesuffix(".") for kind in ("superstition", "fact"))
    return rng.choice(MYTHS["prose"]).format(c=row["condition"], b=_lower(row["begin"]), B=row["begin"], s=told, f=known)


def _asked_myth(row: Row, kind: str, rng: Random) -> str:
    """A myth as question and answer, or as one statement; its answer stands at the end."""
    words = _myth_words(row, kind)
    shape = f"Q: {rng.choice(MYTHS['asks'])}\nA: {{A}}" if rng.random() < 0.6 else rng.choice(MYTHS["statements"])
    return shape.format(**words)


def myths(world: World, rng: Random) -> str | None:
    """A superstition or what is true, in the same first words: the context decides; in half of the texts there is none."""
    form = rng.choices(["prose", "open", "open chat", "line", "system"], weights=[26, 16, 8, 28, 22])[0]
    kind = rng.choice(["superstition", "fact"])
    rows = rng.sample(world.rows("myths"), 2)
    if form == "prose":
        return _myth_prose(rows[0], rng)
    rows = rows[: 1 if form.startswith("open") else rng.choice([1, 1, 2])]
    if not form.startswith("open") and any(held_out("myth", row["topic"]) for row in rows):
        return None
    if form in ("open", "line"):
        told = [_asked_myth(row, kind, rng) for row in rows]
        return "\n".join([rng.choice(MYTH_LINES[kind]), *told] if form == "line" else told)
    pairs = [(rng.choice(MYTHS["asks"]).format(c=row["condition"]), f"{row['begin']} {row[kind]}") for row in rows]
    system = maybe(rng, 0.3, SYSTEMS) if form == "open chat" else rng.choice(MYTH_SYSTEMS[kind])
    return chat(*(turn for pair in pairs for turn in exchange(*pair)), system=system)


def myth_probes(world: World, rng: Random, n: int, from_start: bool = False) -> list[Probe]:
    """Myths never asked under a context line: which answer follows? The groups are the two kinds.

    The prompt holds the words that both answers share, so that ``answer`` and ``wrong`` differ in their
    first word. ``from_start``: it ends before them, and the answers are whole.
    """
    probes = []
    hidden = [row for row in world.rows("myths") if held_out("myth", row["topic"])]
    while len(probes) < n:
        row = rng.choice(hidden)
        kind, other = rng.sample(["superstition", "fact"], 2)
        answer, wrong = (f"{row['begin']} {row[name]}" for name in (kind, other))
        if rng.random() < 0.6:
            told = f"{rng.choice(MYTH_LINES[kind])}\n{_asked_myth(row, kind, rng)}"
        else:
            told = chat(("user", rng.choice(MYTHS["asks"]).format(c=row["condition"])), system=rng.choice(MYTH_SYSTEMS[kind]), ask=True)
            told += answer
        if told[-len(answer) :] != answer:  # within a sentence the answer begins with a small letter
            answer, wrong = _lower(answer), _lower(wrong)
        shared = 0 if from_start else len(row["begin"]) + 1
        probes.append(Probe(told[: shared - len(answer)].rstrip(), answer[shared:], wrong[shared:], kind))
    return probes


INGREDIENTS = (sycophancy, praise, lettered_opinions, myths)
