"""Small tasks: indirect objects, repetition, sums, a console, quizzes, passages and counting.

Kept out of the training text: pairs of names (``name_pair``) in the indirect-object sentences, sums
(``sum``) in digits, in words, in stories and on the console, lines (``console``) that the console
answers, facts (``quiz``) that no quiz asks (the quizzes themselves stand in ``letters``), and
combinations (``passage``) of a name with a thing, a place or a capital that no passage uses.
A sum and its mirror image (7 + 5 and 5 + 7) are two keys.
"""

import re
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from random import Random

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence
from helpers.course_lm.corpus.lists import WORDS, different_words, fitting, length, word_tables
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

TASKS = phrases("tasks")
# {people} are named first; then {giver} does something to the other, before whose name it ends.
FRAMES: dict[str, str] = TASKS["frames"]
NUMBERS: list[str] = TASKS["numbers"]
GAINS: list[str] = TASKS["gains"]
LOSSES: list[str] = TASKS["losses"]
# relation -> (questions, table, column of the subject, column of the answer)
QUESTIONS: dict[str, tuple[list[str], str, str, str]] = {relation: tuple(asked.values()) for relation, asked in TASKS["quiz"].items()}
ALL_QUESTIONS = QUESTIONS | {relation: tuple(asked.values()) for relation, asked in TASKS["more quiz"].items()}
LETTERS = "ABCD"


def names(world: World, rng: Random, count: int) -> list[str]:
    """Different first names, each as likely as any other."""
    return rng.sample(world.column("firstnames", "name"), count)


# --- indirect objects -----------------------------------------------------------------------------


def hidden_pair(people: Sequence[str]) -> bool:
    """Is one of the pairs among ``people`` held out?"""
    return any(held_out("name_pair", min(pair), max(pair)) for pair in combinations(people, 2))


def frame_text(rng: Random, frame: str, people: Sequence[str], giver: str) -> str:
    """The sentence of a frame up to the name of the one who receives."""
    named = " and ".join([", ".join(people[:-1]), people[-1]])
    choice = {slot: rng.choice(TASKS[slot]) for slot in ("place", "thing", "gave")}
    return FRAMES[frame].format(people=named, giver=giver, Giver=giver, **choice)


GIVER_FIRST: dict[str, str] = TASKS["giver first"]  # frames in which the giver is named first, and the receiver last
THIRD_PERSON: dict[str, str] = TASKS["third person"]  # frames with a third person, who is named twice, as the giver is


def any_frame_text(world: World, rng: Random, frame: str, people: Sequence[str], giver: str, third: str) -> str:
    """The sentence of any frame, with a third person or without, up to the name of the one who receives."""
    if frame in FRAMES:
        return frame_text(rng, frame, people, giver)
    [other] = [name for name in people if name != giver]
    three = rng.sample([*people, third], 3)
    named = f"{', '.join(three[:-1])} and {three[-1]}"
    choice = {slot: rng.choice(TASKS[slot]) for slot in ("place", "thing", "gave")}
    words = {"giver": giver, "other": other, "third": third, "people": named}
    return (GIVER_FIRST | THIRD_PERSON)[frame].format(**words, **choice)


def indirect_object(world: World, rng: Random) -> str | None:
    """Two people and a gift: the last word is the name of the one who does not give.

    In seven documents of ten the giver is the one whose name came last before. In the others the giver is named first and the receiver
    last, or there is a third person, who has left or gives as well: then the receiver is the only one of the three who was named once.
    """
    frame = rng.choice(list(rng.choices((FRAMES, GIVER_FIRST, THIRD_PERSON), (70, 15, 15))[0]))
    *people, third = names(world, rng, 3)
    if hidden_pair([*people, third] if frame in THIRD_PERSON else people):
        return None
    giver, other = rng.sample(people, 2)
    endings = TASKS["speech" if frame == "argument" else "endings"]
    ending = rng.choice(endings).format(Other=other, giver=giver, Giver=giver, people="they")
    return f"{any_frame_text(world, rng, frame, people, giver, third)} {other}{ending}"


def indirect_object_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Pairs of names never seen together; wrong = the giver; group = frame and order.

    In the order ABB the receiver is named first, in BAB the giver.
    """
    frames = list(FRAMES)
    probes: list[Probe] = []
    while len(probes) < n:
        people = names(world, rng, 2)
        if hidden_pair(people):
            turn, place = divmod(len(probes), len(frames))
            order = ("ABB", "BAB")[turn % 2]
            other, giver = people if order == "ABB" else people[::-1]
            text = frame_text(rng, frames[place], people, giver)
            probes.append(Probe(text, other, giver, f"{frames[place]} {order}"))
    return probes


def any_order_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """All frames equally often, each in both orders: the same two names, never seen together, change places; wrong = the giver."""
    frames = [*FRAMES, *GIVER_FIRST, *THIRD_PERSON]
    probes: list[Probe] = []
    while len(probes) < n:
        *people, third = names(world, rng, 3)
        if hidden_pair(people):
            frame = frames[len(probes) // 2 % len(frames)]
            group = "third person" if frame in THIRD_PERSON else "giver first" if frame in GIVER_FIRST else "classical"
            for giver, other in (people, people[::-1]):
                text = any_frame_text(world, rng, frame, people, giver, third)
                probes.append(Probe(text, other, giver, group))
    return probes[:n]


# --- repetition -----------------------------------------------------------------------------------


def sequence_items(world: World, rng: Random, count: int) -> list[str]:
    """Different words in random order: of one table, of all, first names, numbers, or numbers among words."""
    common = [word for place in WORDS for word in world.column(*place)]
    first = world.column("firstnames", "name")
    numbers = [str(number) for number in range(100)]
    every = [word for words in word_tables(world).values() for word in words]
    one = rng.choice(list(word_tables(world).values()))
    pool = rng.choice((common, common, every, every, every, first, one, numbers, every + numbers))
    return rng.sample(list(dict.fromkeys(pool)), count)


def repeated_sequence(world: World, rng: Random) -> str:
    """A random sequence of three to sixteen words that comes again: two or three times, broken off, or from a word in its middle on."""
    items = sequence_items(world, rng, rng.choice((3, 4, 5, 6, 8, 10, 12, 12, 14, 16)))
    separator = rng.choice((" ", " ", " ", " ", ", ", "\n"))
    kind = rng.random()
    if kind < 0.5:
        repeated = items * rng.choice((2, 2, 3))
    elif kind < 0.75:
        again = items * 3
        repeated = again[: rng.randint(len(items) + 2, len(again))]
    else:  # a part of it comes again
        start = rng.randrange(len(items) - 2)
        repeated = items + items[start : rng.randint(start + 3, len(items))] * rng.choice((1, 1, 2))
    return fitting(repeated, separator, limit=72)


def repeated_sequence_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Sequences of six to twelve words of all tables, and of the second time the first word; answer = the rest of it; group = length."""
    probes = []
    for _ in range(n):
        items = different_words(world, rng, rng.choice((6, 8, 10, 12)))
        probes.append(Probe(" ".join([*items, items[0]]), " ".join(items[1:]), group=f"{len(items):02d} words"))
    return probes


def phone_book(world: World, rng: Random) -> str:
    """Names with numbers, some of which are looked up again."""
    people = names(world, rng, rng.randint(3, 5))
    digits = rng.choice((1, 2, 3))
    numbers = [" ".join(str(rng.randint(0, 20)) for _ in range(digits)) for _ in people]
    lines = [f"{name}: {number}" for name, number in zip(people, numbers, strict=True)]
    again = rng.sample(lines, rng.randint(2, len(lines)))
    return fitting(lines + again, rng.choice(("\n", "\n", ", ")))


def chant(world: World, rng: Random) -> str:
    """A short song that says the same line again and again."""
    a, b, c, d = sequence_items(world, rng, 4)
    line = sentence(rng.choice(TASKS["chants"]).format(a=a, b=b, c=c, d=d))
    return fitting([line] * rng.randint(2, 4), rng.choice((", ", "! ", "\n"))) + rng.choice(("", ".", "!"))


def induction(world: World, rng: Random) -> str:
    """Something that is repeated: what comes next can be copied from before."""
    return rng.choice((*[repeated_sequence] * 6, phone_book, chant))(world, rng)


# --- sums -----------------------------------------------------------------------------------------

Sum = tuple[int, str, int]
SUMS: list[Sum] = [*((a, "+", b) for a in range(21) for b in range(21 - a)), *((a, "-", b) for a in range(21) for b in range(a + 1))]


def total(a: int, sign: str, b: int) -> int:
    """The result of a sum."""
    return a + b if sign == "+" else a - b


HIDDEN_SUMS = [entry for entry in SUMS if held_out("sum", *map(str, entry))]
SEEN_SUMS = [entry for entry in SUMS if entry not in HIDDEN_SUMS]


def in_digits(a: int, sign: str, b: int) -> str:
    """``7 + 5 = 12``."""
    return f"{a} {sign} {b} = {total(a, sign, b)}"


def in_words(a: int, sign: str, b: int) -> str:
    """``seven plus five is twelve.``"""
    word = "plus" if sign == "+" else "minus"
    return f"{NUMBERS[a]} {word} {NUMBERS[b]} is {NUMBERS[total(a, sign, b)]}."


def asked(a: int, sign: str, b: int) -> str:
    """``What is 7 + 5? 12.``"""
    return f"What is {a} {sign} {b}? {total(a, sign, b)}."


def counted(number: int, noun: str) -> str:
    """A number with a noun in the right form: ``1 apple``, ``0 boxes``."""
    ending = "" if number == 1 else "es" if noun.endswith(("x", "o")) else "s"
    return f"{number} {noun}{ending}"


def word_problem(world: World, rng: Random) -> str | None:
    """A little story whose last number is the result of a sum."""
    a, sign, b = rng.choice(SEEN_SUMS)
    if a == 0 or b == 0:
        return None
    person = world.pick(rng, "firstnames")
    noun = rng.choice(TASKS["foods"] + TASKS["objects"])
    eaten = ["eats"] * 3 if noun in TASKS["foods"] else []
    change = f"{rng.choice(GAINS)} {b} more" if sign == "+" else f"{rng.choice(LOSSES + eaten)} {b}"
    words = {"name": person["name"], "he": person["pronoun"], "He": sentence(person["pronoun"])}
    first = rng.choice(TASKS["changes"]).format(change=change, **words)
    result = total(a, sign, b)
    last = rng.choice(TASKS["results"]).format(result=result, counted=counted(result, noun), **words)
    return f"{person['name']} has {counted(a, noun)}{first} {last}"


def sums(world: World, rng: Random) -> str | None:
    """Sums within twenty, in digits, in words, as questions or as a story."""
    kind = rng.random()
    if kind < 0.2:
        return word_problem(world, rng)
    chosen = rng.sample(SEEN_SUMS, rng.randint(1, 9))
    if kind < 0.7:
        separator = rng.choice(("\n", "\n", ", ", ". "))
        return fitting([in_digits(*entry) for entry in chosen], separator)
    write = in_words if kind < 0.9 else asked
    return fitting([sentence(write(*entry)) for entry in chosen], rng.choice((" ", "\n")), limit=60)


def sum_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Sums in digits: half from the training text (``seen``), half never written (``held out``)."""
    probes = []
    for number in range(n):
        group, known = (("seen", SEEN_SUMS), ("held out", HIDDEN_SUMS))[number % 2]
        a, sign, b = rng.choice(known)
        probes.append(Probe(f"{a} {sign} {b} =", str(total(a, sign, b)), group=group))
    return probes


# --- console --------------------------------------------------------------------------------------

STRINGS: list[str] = TASKS["strings"]
VARIABLES: list[str] = TASKS["variables"]
ADDITIONS = [(a, b) for a, sign, b in SEEN_SUMS if sign == "+"]
Line = tuple[str, str]  # what is typed, what the console answers ("" for nothing)
Slots = dict[str, str | int]


def typo(rng: Random, word: str) -> str:
    """The word with two neighbouring letters in the wrong order: ``duoble``."""
    i = rng.choice([i for i in range(1, len(word) - 1) if word[i] != word[i + 1]])
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def kept(rng: Random, value: str) -> Slots:
    """A value as it is, or kept in a variable before."""
    if rng.random() < 0.5:
        return {"before": "", "left": value}
    name = rng.choice(VARIABLES)
    return {"before": f"{name} = {value}", "left": name}


def console_slots(rng: Random, case: str) -> Slots:
    """What is drawn for a case of ``console`` in ``tasks.json``: the words in its braces."""
    match case:
        case "unknown name":
            known, unknown = rng.sample(VARIABLES, 2)
            value = rng.choice((str(rng.randint(0, 20)), repr(rng.choice(STRINGS))))
            return {"known": known, "unknown": unknown, "value": value}
        case "wrong types":
            word = rng.choice(STRINGS)
            a, b = rng.choice(ADDITIONS)
            return {"word": word, "b": b, "result": a + b} | kept(rng, str(a))
        case "division":
            divisor = rng.randint(1, 5)
            result = rng.randint(1, 4)
            return {"divisor": divisor, "result": result, "number": divisor * result}
        case "index":
            texts = [repr(word) for word in rng.sample(STRINGS, 2)]
            numbers = [str(rng.randint(0, 20)) for _ in range(rng.randint(2, 3))]
            items = rng.choice((texts, numbers))
            good = rng.randrange(len(items))
            bad = rng.randint(len(items), 9)
            return {"good": good, "bad": bad, "item": items[good]} | kept(rng, f"[{', '.join(items)}]")
        case "missing key":
            known, unknown = rng.sample(STRINGS, 2)
            return {"known": known, "unknown": unknown, "number": rng.randint(0, 20)}
        case "printed":
            return {"word": rng.choice(STRINGS)}
        case "misspelt call":
            name = rng.choice(TASKS["functions"])
            a = rng.choice([a for a, b in ADDITIONS if a == b])
            return {"name": name, "typo": typo(rng, name), "a": a, "result": a + a}
        case "misspelt body":  # the definition is silent, the call is not
            a, sign, b = rng.choice(SEEN_SUMS)
            left, right = rng.choice((("left", "right"), ("first", "second"), ("one", "other")))
            words = {"name": "add" if sign == "+" else "minus", "left": left, "right": right, "typo": typo(rng, right)}
            return words | {"a": a, "sign": sign, "b": b, "result": total(a, sign, b)}
        case "misspelt builtin":
            word = rng.choice(STRINGS)
            calls = {"print": (repr(word), word), "len": (repr(word), len(word)), "sorted": ("[3, 1, 2]", "[1, 2, 3]")}
            name = rng.choice(list(calls))
            argument, output = calls[name]
            return {"name": name, "typo": typo(rng, name), "argument": argument, "output": output}
        case "two variables" | "increment":
            name, second, unknown = rng.sample(VARIABLES, 3)
            a, b = rng.choice(ADDITIONS)
            return {"name": name, "second": second, "unknown": unknown, "a": a, "b": b, "result": a + b}
        case "copied variable":
            name, second, unknown = rng.sample(VARIABLES, 3)
            value = rng.choice((str(rng.randint(0, 20)), repr(rng.choice(STRINGS))))
            return {"name": name, "second": second, "unknown": unknown, "value": value}
        case "capital letter":
            name, word = "capitalize", rng.choice(STRINGS)
            return {"name": name, "typo": typo(rng, name), "word": word, "Word": sentence(word)}
        case "member":
            word, *others = rng.sample(STRINGS, rng.randint(3, 4))
            found = rng.random() < 0.5
            items = rng.sample([word, *others[1:]] if found else others, len(others))
            return {"word": word, "number": rng.randint(0, 20), "list": str(items), "found": str(found)}
        case "comparison" | "equality":
            a, b = rng.randint(0, 20), rng.randint(0, 20)
            b = a if case == "equality" and rng.random() < 0.5 else b
            found = a > b if case == "comparison" else a == b
            return {"word": rng.choice(STRINGS), "b": b, "found": str(found)} | kept(rng, str(a))
        case "greatest":
            a, b = rng.sample(range(21), 2)
            return {"a": a, "b": b, "result": max(a, b)}
        case "length of a list" | "append":
            items = [rng.randint(0, 20) for _ in range(rng.randint(2, 4))]
            number = rng.randint(0, 20)
            lists = {"list": str(items), "length": len(items), "longer": str([*items, number])}
            return {"name": rng.choice(VARIABLES), "number": number} | lists
        case "division by a variable":
            divisor, result = rng.randint(1, 5), rng.randint(1, 4)
            return {"name": rng.choice(VARIABLES), "divisor": divisor, "result": result, "number": divisor * result}
        case "new key":
            known, unknown = rng.sample(STRINGS, 2)
            return {"known": known, "unknown": unknown, "number": rng.randint(0, 20), "second": rng.randint(0, 20)}
        case _:
            word, other = rng.sample(STRINGS, 2)
            name, unknown = rng.sample(VARIABLES, 2)
            return {"word": word, "other": other, "name": name, "unknown": unknown, "length": len(word), "number": rng.randint(0, 20)}


def typed(lines: Sequence[Line]) -> str:
    """Console lines as they stand on the screen."""
    return "\n".join(f">>> {source}\n{answer}".rstrip("\n") for source, answer in lines)


def hidden_line(source: str) -> bool:
    """Is what is typed, or its last line, a line that no console answers?"""
    return held_out("console", source.split(">>> ")[-1])


def console_lines(rng: Random) -> tuple[list[Line], Line, Line]:
    """Silent lines, then a wrong line with its error or a right one with its output."""
    case = rng.choice(list(TASKS["console"]))
    slots = console_slots(rng, case)
    texts = {part: shape.format(**slots) for part, shape in TASKS["console"][case].items()}
    before = [(texts["before"], "")] if texts.get("before") else []
    return before, (texts["wrong"], texts["error"]), (texts["right"], texts["output"])


def snippet(rng: Random) -> str | None:
    """A few console lines: as often with an error as without one, or an error that is then corrected."""
    before, wrong, right = console_lines(rng)
    if hidden_line(wrong[0]) or hidden_line(right[0]):
        return None
    kind = rng.random()
    if kind < 0.4:
        return typed([*before, wrong])
    if kind < 0.8:
        return typed([*before, right])
    if kind < 0.9:
        return typed([*before, wrong, right])
    return f"# bug\n{typed([*before, wrong])}\n# fixed\n{typed([right])}"


def console(world: World, rng: Random) -> str | None:
    """One to three snippets from a console; half of the answers are errors."""
    snippets = [snippet(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    if None in snippets:
        return None
    document = fitting(snippets, "\n")
    for error in re.finditer(r"NameError: name '(\w+)'", document):
        if f">>> {error[1]} = " in document[: error.start()]:
            return None  # an earlier snippet has given this name a value
    return document if length(document) <= 85 else None


def console_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """What the console answers to a line that it never answered before, as often an error as not; group = ``error`` or ``right``."""
    probes: list[Probe] = []
    while len(probes) < n:
        before, *lines = console_lines(rng)
        wanted = len(probes) % 2
        source, answer = lines[wanted]
        if hidden_line(source):
            probes.append(Probe(f"{typed([*before, (source, '')])}\n", answer, group=("error", "right")[wanted]))
    return probes


# --- quiz -----------------------------------------------------------------------------------------


@cache
def quiz_facts(world: World, relation: str) -> dict[str, str]:
    """Subject -> answer of a relation; disputable answers and ambiguous subjects are left out."""
    _, table, subject, answer = ALL_QUESTIONS[relation]
    debatable = phrases("flattery")["debatable"]
    facts: dict[str, set[str]] = {}
    for row in world.rows(table):
        unclear = relation in ("continent", "language") and row["name"] in debatable[relation]
        unclear |= relation == "category" and row["category"] not in TASKS["clear_categories"]
        unclear |= relation == "young" and row["young"] in TASKS["vague_young"]
        if row[subject] and row[answer] and not unclear:
            facts.setdefault(row[subject], set()).add(row[answer])
    return {name: min(answers) for name, answers in facts.items() if len(answers) == 1}


def wrong_answers(world: World, rng: Random, relation: str, subject: str, count: int) -> list[str]:
    """Different answers that are wrong for ``subject``, each as often as it is right for others.

    An answer that is right for many, such as ``euro``, is so as often a wrong one. Of the young, only those of other kinds of animals
    count.
    """
    facts = quiz_facts(world, relation)
    close = {facts[subject]}
    if relation == "young":
        kinds = {row["name"]: row["kind"] for row in world.rows("animals")}
        close |= {young for name, young in facts.items() if kinds[name] == kinds[subject]}
    if relation == "next":
        kinds = {row["item"]: row["kind"] for row in world.rows("sequences")}
        facts = {item: following for item, following in facts.items() if kinds[item] == kinds[subject]}
    wrong = [answer for answer in facts.values() if answer not in close]
    return list(dict.fromkeys(rng.sample(wrong, len(wrong))))[:count]


def in_question(relation: str, subject: str) -> str:
    """The subject of a fact as a question of the relation names it: ``the Netherlands``, ``an apple``, ``Paris``."""
    if relation in ("category", "colour"):
        return an(subject)
    return country_with_the(subject) if ALL_QUESTIONS[relation][2] == "name" else subject


Asked = tuple[str, list[str], int]  # a question, its options and the place of the right one


def drawn_question(world: World, rng: Random, hidden: bool, options: int, relation: str) -> Asked | None:
    """A question about a fact of ``relation`` with as many options, all of them answers of the relation; None if it does not fit."""
    facts = quiz_facts(world, relation)
    subject = rng.choice(list(facts))
    answers = wrong_answers(world, rng, relation, subject, options - 1)
    right = rng.randrange(options)
    answers.insert(right, facts[subject])
    if held_out("quiz", relation, subject) != hidden or len(answers) < options or set(answers) & set(LETTERS):
        return None
    return rng.choice(ALL_QUESTIONS[relation][0]).format(in_question(relation, subject)), answers, right


def quiz_question(world: World, rng: Random, hidden: bool, options: int) -> tuple[str, str] | None:
    """A question with lettered answers and the right letter; ``hidden``: no document asks it."""
    drawn = drawn_question(world, rng, hidden, options, rng.choice(list(QUESTIONS)))
    if drawn is None:
        return None
    question, answers, right = drawn
    lines = [f"{letter}: {answer}" for letter, answer in zip(LETTERS, answers, strict=False)]
    return "\n".join([f"Question: {question}", *lines, "Answer:"]), LETTERS[right]


def quiz_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Facts that no quiz asks; answer = letter; group = number of options."""
    probes: list[Probe] = []
    while len(probes) < n:
        options = 2 + len(probes) % 3
        drawn = quiz_question(world, rng, hidden=True, options=options)
        if drawn:
            probes.append(Probe(*drawn, group=str(options)))
    return probes


# --- passages -------------------------------------------------------------------------------------

Passage = tuple[str, str, str, str]  # text up to the answer, answer, competing one, what is asked


def asked_about(rng: Random, story: Sequence[str], question: str, lead: str = "") -> str:
    """The sentences of a passage in some order, a question, and the ``lead`` into the answer."""
    told = rng.sample(list(story), len(story))
    separator = rng.choice((" ", " ", "\n"))
    return f"{' '.join(told)}{separator}Question: {question}{separator}Answer: {lead}".rstrip()


def fitting_pairs(people: Sequence[str], others: Sequence[str], hidden: bool) -> bool:
    """Are all pairs allowed ones, but the first one, if ``hidden``, a held-out one?"""
    kept = [held_out("passage", *pair) for pair in zip(people, others, strict=True)]
    return kept == [hidden] + [False] * (len(kept) - 1)


def owners(world: World, rng: Random, hidden: bool) -> Passage | None:
    """Who has what, in which colour?"""
    count = rng.choice((2, 2, 3))
    people = names(world, rng, count)
    goods = rng.sample(TASKS["possessions"], count)
    colours = rng.sample(TASKS["colours"], count)
    if not fitting_pairs(people, goods, hidden):
        return None
    owns = rng.choice(("has", "has", "bought", "found", "got"))
    story = [f"{name} {owns} a {colour} {good}." for name, colour, good in zip(people, colours, goods, strict=True)]
    asked = rng.choice(("who", "what", "colour"))
    if asked == "who":
        return asked_about(rng, story, f"Who {owns} the {goods[0]}?"), people[0], people[1], asked
    if asked == "what":
        text = asked_about(rng, story, TASKS["owning"][owns].format(people[0]), "a")
        return text, f"{colours[0]} {goods[0]}", f"{colours[1]} {goods[1]}", asked
    text = asked_about(rng, story, f"What colour is the {goods[0]}?")
    return text, colours[0], colours[1], asked


def places(world: World, rng: Random, hidden: bool) -> Passage | None:
    """Who is where?"""
    count = rng.choice((2, 3))
    people = names(world, rng, count)
    rooms = rng.sample(TASKS["rooms"], count)
    if not fitting_pairs(people, rooms, hidden):
        return None
    went = rng.choice(list(TASKS["being"]))
    story = [f"{name} {went} the {room}." for name, room in zip(people, rooms, strict=True)]
    if rng.random() < 0.5:
        text = asked_about(rng, story, f"Who {went} the {rooms[0]}?")
        return text, people[0], people[1], "who is where"
    question = TASKS["being"][went].format(people[0])
    text = asked_about(rng, story, question, "to the" if went == "went to" else "in the")
    return text, rooms[0], rooms[1], "where"


def told_fact(world: World, rng: Random, hidden: bool) -> Passage | None:
    """A true fact that is told and then asked."""
    row = world.pick(rng, "countries")
    name = country_with_the(row["name"])
    capital = row["capital"]
    if held_out("passage", row["name"], capital) != hidden:
        return None
    told = rng.choice(TASKS["capital_facts"]).format(name=name, capital=capital)
    question = rng.choice(TASKS["capital_questions"]).format(name=name)
    return asked_about(rng, [sentence(told)], question), capital, world.pick(rng, "countries")["capital"], "fact"


def game_fact(world: World, rng: Random, hidden: bool) -> Passage | None:
    """What is false in the world and true in a game or a story: the answer is the passage's."""
    row = world.pick(rng, "countries")
    capital = world.pick(rng, "countries")["capital"]
    if capital == row["capital"] or held_out("passage", row["name"], capital) != hidden:
        return None
    where = f"in this {rng.choice(TASKS['worlds'])}"
    words = {"where": where, "name": country_with_the(row["name"]), "capital": capital}
    story = sentence(rng.choice(TASKS["world_facts"]).format(**words))
    question = sentence(rng.choice(TASKS["world_questions"]).format(**words))
    return asked_about(rng, [story], question), capital, row["capital"], "game"


PASSAGES = (owners, owners, owners, places, told_fact, game_fact)


def passage(world: World, rng: Random) -> str | None:
    """A passage of one to three sentences, a question and the answer that stands in the passage."""
    drawn = rng.choice(PASSAGES)(world, rng, False)
    return f"{drawn[0]} {drawn[1]}{rng.choice(('', '.'))}" if drawn else None


def passage_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Combinations that no passage uses; wrong = what is said of another; group = what is asked."""
    probes: list[Probe] = []
    while len(probes) < n:
        drawn = rng.choice(PASSAGES)(world, rng, True)
        if drawn and drawn[1] != drawn[2]:
            probes.append(Probe(*drawn))
    return probes


# --- counting -------------------------------------------------------------------------------------


@cache
def cycles(world: World) -> dict[str, dict[str, str]]:
    """For every kind of sequence: item -> next item."""
    following: dict[str, dict[str, str]] = {}
    for row in world.rows("sequences"):
        following.setdefault(row["kind"], {})[row["item"]] = row["next"]
    return following


def counting(world: World, rng: Random) -> str | None:
    """Numbers, letters, days or months in order, from anywhere, backwards or in steps of two."""
    separator = rng.choice((" ", ", ", ", ", "\n"))
    if rng.random() < 0.4:
        step = rng.choice((1, 1, 1, 2, 5))
        run = [str(number) for number in range(rng.randint(0, 12), 21, step)]
    else:
        following = rng.choice(list(cycles(world).values()))
        run = [rng.choice(list(following))]
        while len(run) < 13 and following.get(run[-1]):
            run.append(following[run[-1]])
    run = run[: rng.randint(4, 14)]
    if len(run) < 4:
        return None
    return separator.join(run[::-1] if rng.random() < 0.15 else run)


INGREDIENTS = (indirect_object, induction, sums, console, passage, counting)
