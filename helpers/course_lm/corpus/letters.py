"""Options with letters: words that are looked up by their letter, letters by their word, and multiple choice.

Kept out of the training text: words (``lookup``) that stand in no list from which a word is looked up, and facts (``quiz``) that no
question with letters asks.
"""

from collections.abc import Sequence
from random import Random

from helpers.course_lm.corpus.base import Probe, chat, phrases
from helpers.course_lm.corpus.lists import length, word_tables
from helpers.course_lm.corpus.tasks import ALL_QUESTIONS, LETTERS, Asked, drawn_question, in_question, quiz_facts
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

PHRASES = phrases("letters")
LAYOUTS: list[list[str]] = PHRASES["layouts"]  # how an option is written, and what stands between two
CLASSIC = ["{letter}: {text}", "\n"]
LIMIT = 85


def options(rng: Random, texts: Sequence[str], layout: Sequence[str] | None = None) -> str:
    """Lays out two to four texts as options with the letters from A on, in some layout or in the one given.

    >>> options(Random(0), ["cat", "dog"], ("({letter}) {text}", " "))
    '(A) cat (B) dog'
    """
    shape, separator = layout or rng.choice(LAYOUTS)
    return separator.join(shape.format(letter=letter, text=text) for letter, text in zip(LETTERS, texts, strict=False))


# --- looking up -----------------------------------------------------------------------------------


def lookup_words(world: World, rng: Random, count: int, hidden: bool = False) -> list[str]:
    """Different words, of one table or of all, none of which stands inside another one; ``hidden``: those that are never looked up."""
    tables = list(word_tables(world).values())
    if rng.random() < 0.4:
        tables = [rng.choice(tables)]
    words: list[str] = []
    while len(words) < count:
        word = rng.choice(rng.choice(tables))
        if held_out("lookup", word) == hidden and not any(word in other or other in word for other in words):
            words.append(word)
    return words


def lookup(world: World, rng: Random) -> str | None:
    """Two to four words with letters, and two to four questions: the letter of a word, or the word of a letter."""
    words = lookup_words(world, rng, rng.choice((2, 3, 4, 4)))
    places = range(len(words))
    letters = rng.randint(1, min(3, len(words)))
    asked = [("which letter", place) for place in rng.sample(places, letters)]
    asked += [("which word", place) for place in rng.sample(places, rng.randint(letters == 1, min(2, 4 - letters)))]
    shapes = {way: rng.choice(PHRASES[way]) for way in ("which letter", "which word")}
    changing = rng.random() < 0.2  # the wording, from question to question
    told = [
        (rng.choice(PHRASES[way]) if changing else shapes[way]).format(word=words[place], letter=LETTERS[place])
        for way, place in rng.sample(asked, len(asked))
    ]
    block = options(rng, words)
    end = "\n" if "\n" in block else rng.choice(("\n", ". "))
    separator = rng.choice((" ", "\n")) if all(line.endswith(".") for line in told) else "\n"
    document = rng.choice(PHRASES["blocks"]).format(options=block) + end + separator.join(told)
    return document if length(document) <= LIMIT else None


def lookup_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """The letter of a word, in lists of words that are never looked up; group = number of options."""
    probes = []
    for number in range(n):
        words = lookup_words(world, rng, 2 + number % 3, hidden=True)
        place = rng.randrange(len(words))
        asked = rng.choice(PHRASES["which letter"]).split("{letter}")[0].format(word=words[place]).rstrip()
        probes.append(Probe(f"{options(rng, words)}\n{asked}", LETTERS[place], group=f"{len(words)} options"))
    return probes


def word_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """The word beside a letter, in lists of words that are never looked up; group = number of options."""
    probes = []
    for number in range(n):
        words = lookup_words(world, rng, 2 + number % 3, hidden=True)
        place = rng.randrange(len(words))
        asked = rng.choice(PHRASES["which word"]).split("{word}")[0].format(letter=LETTERS[place]).rstrip()
        probes.append(Probe(f"{options(rng, words)}\n{asked}", words[place], group=f"{len(words)} options"))
    return probes


# --- multiple choice ------------------------------------------------------------------------------


def relation_of_quiz(world: World, rng: Random) -> str:
    """A relation about which the quiz asks; those of many facts come more often."""
    [relation] = rng.choices(list(ALL_QUESTIONS), [len(quiz_facts(world, relation)) ** 0.5 for relation in ALL_QUESTIONS])
    return relation


def question(world: World, rng: Random, hidden: bool, count: int) -> Asked | None:
    """A question with ``count`` options; in one of four the wrong ones are answers of other relations, which is easy."""
    relation = relation_of_quiz(world, rng)
    drawn = drawn_question(world, rng, hidden, count, relation)
    if drawn is None or hidden or rng.random() < 0.75:
        return drawn
    text, answers, right = drawn
    others = [relation_of_quiz(world, rng) for _ in range(count)]
    for place, other in enumerate(others):
        if place != right:
            answers[place] = rng.choice(list(quiz_facts(world, other).values()))
    known = {*quiz_facts(world, relation).values(), "animal", *LETTERS}  # a mammal is an animal as well
    wrong = set(answers) - {answers[right]}
    return (text, answers, right) if len(wrong) == count - 1 and not known & wrong else None


def two_questions(world: World, rng: Random) -> str | None:
    """Two facts of one relation, asked about one list of options."""
    relation = relation_of_quiz(world, rng)
    facts = quiz_facts(world, relation)
    subjects = rng.sample(list(facts), rng.randint(2, 4))
    answers = [facts[subject] for subject in subjects]
    if relation == "young" or len(set(answers)) < len(answers) or any(held_out("quiz", relation, subject) for subject in subjects[:2]):
        return None
    order = rng.sample(range(len(subjects)), len(subjects))
    shape = rng.choice(("{question} {answer}", "{question} {answer}", "Question: {question}\nAnswer: {answer}"))
    told = []
    for asked in (0, 1):
        wording = rng.choice(ALL_QUESTIONS[relation][0]).format(in_question(relation, subjects[asked]))
        told.append(shape.format(question=wording, answer=f"{LETTERS[order.index(asked)]}."))
    return "\n".join([options(rng, [answers[place] for place in order]), *told])


def looked_up_first(world: World, rng: Random, drawn: Asked) -> str | None:
    """Options of which one is looked up before the fact is asked."""
    asked, answers, right = drawn
    place = rng.randrange(len(answers))
    if any(held_out("lookup", answer) for answer in answers):
        return None
    found = rng.choice(PHRASES["which letter"][:5]).format(word=answers[place], letter=LETTERS[place])
    return f"{options(rng, answers)}\n{found}\n{asked} {LETTERS[right]}."


def quiz(world: World, rng: Random) -> str | None:
    """A multiple-choice question whose answer is a letter, at times with its text; in a chat, after a look-up or with a second question."""
    kind = rng.random()
    if kind < 0.1:
        return two_questions(world, rng)
    drawn = question(world, rng, hidden=False, count=rng.choice((2, 2, 3, 4, 4)))
    if drawn is None:
        return None
    if kind < 0.2:
        return looked_up_first(world, rng, drawn)
    asked, answers, right = drawn
    words = {"question": asked, "letter": LETTERS[right], "text": answers[right]}
    layout = CLASSIC if kind < 0.6 else None
    words["options"] = options(rng, answers, layout)
    words["answer"] = rng.choice(PHRASES["answers"]).format(**words)
    if kind < 0.5:
        document = "Question: {question}\n{options}\nAnswer: {answer}".format(**words)
    elif kind < 0.75:
        document = rng.choice(PHRASES["quiz"]).format(**words)
    elif kind < 0.85:
        document = rng.choice(PHRASES["word first"]).format(**words)
    else:
        told = rng.choice(PHRASES["told in a chat"])
        document = chat(("user", rng.choice(PHRASES["asked in a chat"]).format(**words)), ("assistant", told.format(**words)))
    return document if length(document) <= LIMIT else None


def quiz_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Facts that no quiz asks, two thirds of them in the classical layout; answer = letter; group = number of options."""
    probes: list[Probe] = []
    while len(probes) < n:
        count = 2 + len(probes) % 3
        drawn = question(world, rng, hidden=True, count=count)
        if drawn:
            asked, answers, right = drawn
            classical = rng.random() < 2 / 3
            shape = "Question: {question}\n{options}\nAnswer: {answer}" if classical else rng.choice(PHRASES["quiz"])
            block = options(rng, answers, CLASSIC if classical else None)
            prompt = shape.split("{answer}")[0].format(question=asked, options=block).rstrip()
            probes.append(Probe(prompt, LETTERS[right], group=f"{count} options"))
    return probes


INGREDIENTS = (lookup, quiz)
