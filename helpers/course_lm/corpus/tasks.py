"""Small tasks: indirect objects, repetition, sums, a Python console, quizzes, reading passages and counting.

Kept out of the training text: pairs of names (``name_pair``) in the indirect-object sentences, sums (``sum``) in digits,
in words, in stories and on the console, facts (``quiz``) that no quiz asks, and combinations (``passage``) of a name
with a thing, a place or a capital that no passage uses. A sum and its mirror image (7 + 5 and 5 + 7) are two keys.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, sentence
from helpers.course_lm.corpus.lists import fitting, length, per_world, the_country
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World


def names(world: World, rng: Random, count: int) -> list[str]:
    """Different first names, each as likely as any other."""
    return rng.sample(world.column("firstnames", "name"), count)


# ----------------------------------------------------------------------------------------------- indirect objects

FRAMES = {  # {people} are named first; then {giver} does something to the other: the text ends before that name
    "when went": "When {people} went to the {place}, {giver} {gave} {thing} to",
    "when arrived": "When {people} arrived at the {place}, {giver} {gave} {thing} to",
    "when got": "When {people} got {thing} at the {place}, {giver} decided to give it to",
    "after went": "After {people} went to the {place}, {giver} {gave} {thing} to",
    "after lunch": "After the lunch, {people} went to the {place}. {Giver} {gave} {thing} to",
    "while working": "While {people} were working at the {place}, {giver} {gave} {thing} to",
    "while sitting": "While {people} were sitting in the {place}, {giver} {gave} {thing} to",
    "while walking": "While {people} were walking to the {place}, {giver} {gave} {thing} to",
    "then went": "Then, {people} went to the {place}. {Giver} {gave} {thing} to",
    "then fun": "Then, {people} had a lot of fun at the {place}. {Giver} {gave} {thing} to",
    "then thought": "Then, {people} were thinking about going to the {place}. {Giver} wanted to give {thing} to",
    "argument": "Then, {people} had a long argument. Afterwards, {giver} said to",
    "argument gift": "Then, {people} had a long argument, and afterwards {giver} {gave} {thing} to",
    "friends": "The friends {people} found {thing} at the {place}. {Giver} gave it to",
    "afternoon": "In the afternoon, {people} met at the {place}, and {giver} {gave} {thing} to",
    "yesterday": "Yesterday {people} were at the {place}. {Giver} {gave} {thing} to",
    "long ago": "Long ago, {people} lived near the {place}. One day {giver} {gave} {thing} to",
    "because": "Because {people} were good friends, {giver} {gave} {thing} to",
    "said hello": "When {people} met at the {place}, {giver} said hello to",
    "as soon": "As soon as {people} came to the {place}, {giver} {gave} {thing} to",
    "before": "Before {people} left the {place}, {giver} {gave} {thing} to",
    "on the way": "On the way to the {place}, {people} talked a lot. Later {giver} {gave} {thing} to",
}
GAVE = ("gave", "gave", "gave", "handed", "passed", "offered", "showed")
PLACES = (
    *("store", "park", "school", "garden", "restaurant", "hospital", "office", "station", "market", "library"),
    *("museum", "beach", "zoo", "kitchen", "house", "hotel", "cinema", "farm", "church", "cafe"),
)
THINGS = (
    *("a drink", "a book", "a ring", "a ball", "a letter", "a flower", "a key", "an apple", "a cup of tea", "a computer"),
    *("a bag", "a cake", "a card", "a coin", "a map", "a camera", "an umbrella", "a pen", "a picture", "a toy", "a glass of water"),
)
ENDINGS = (
    *(".", ".", ".", ". {Other} smiled.", ". {Other} said thank you.", ". {Other} was happy.", ". Then {people} went home."),
    *(" and smiled.", ". It was a nice day.", ". {Giver} smiled too.", ". {Other} thanked {giver}."),
)
SPEECH = (': "Good morning!"', ': "I am sorry."', ': "Let us be friends again."', ': "You are right."', ".")


def hidden_pair(people: Sequence[str]) -> bool:
    """Is one of the pairs among ``people`` held out?"""
    return any(held_out("name_pair", min(pair), max(pair)) for pair in combinations(people, 2))


def frame_text(rng: Random, frame: str, people: Sequence[str], giver: str) -> str:
    """The sentence of a frame up to the name of the one who receives."""
    named = " and ".join([", ".join(people[:-1]), people[-1]])
    choice = {"place": rng.choice(PLACES), "thing": rng.choice(THINGS), "gave": rng.choice(GAVE)}
    return FRAMES[frame].format(people=named, giver=giver, Giver=giver, **choice)


def indirect_object(world: World, rng: Random) -> str | None:
    """Two people and a gift: the one who gives is named twice, the last word is the other one's name.

    In one document of twenty a third person gives: then either of the two others may receive.
    """
    frame, first, second, third = rng.choice(list(FRAMES)), *names(world, rng, 3)
    people, giver = [first, second], rng.choice((first, second))
    if rng.random() < 0.05:
        people, giver = [first, second, third], third
    if hidden_pair(people):
        return None
    other = rng.choice([name for name in people if name != giver])
    ending = rng.choice(SPEECH if frame == "argument" else ENDINGS)
    ending = ending.format(Other=other, giver=giver, Giver=giver, people="they")
    return f"{frame_text(rng, frame, people, giver)} {other}{ending}"


def indirect_object_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Pairs of names never seen together; wrong = the giver; group = frame and order (ABB: the receiver is named first)."""
    probes, frames = [], list(FRAMES)
    while len(probes) < n:
        people = names(world, rng, 2)
        if hidden_pair(people):
            frame, order = frames[len(probes) % len(frames)], ("ABB", "BAB")[len(probes) // len(frames) % 2]
            other, giver = people if order == "ABB" else people[::-1]
            probes.append(Probe(frame_text(rng, frame, people, giver), other, giver, f"{frame} {order}"))
    return probes


# ----------------------------------------------------------------------------------------------------- repetition


def sequence_items(world: World, rng: Random, count: int) -> list[str]:
    """Different words in random order: common words, first names or a mixture of them."""
    common = world.column("nouns", "singular") + world.column("adjectives", "word") + world.column("verbs", "base")
    first = world.column("firstnames", "name")
    pool = rng.choice((common, common, first, common + first))
    return rng.sample(list(dict.fromkeys(pool)), count)


def repeated_sequence(world: World, rng: Random) -> str:
    """A random sequence of four to twelve words, two or three times, sometimes broken off."""
    items = sequence_items(world, rng, rng.choice((4, 5, 6, 8, 10, 12, 12, 12)))
    separator = rng.choice((" ", " ", " ", ", ", "\n"))
    repeated = items * rng.randint(2, 3)
    stop = rng.randint(len(items) + 3, len(repeated))
    return fitting(repeated[:stop], separator, limit=72)


def phone_book(world: World, rng: Random) -> str:
    """Names with numbers, some of which are looked up again."""
    people = names(world, rng, rng.randint(3, 5))
    digits = rng.choice((1, 2, 3))
    lines = [f"{name}: {' '.join(str(rng.randint(0, 20)) for _ in range(digits))}" for name in people]
    again = rng.sample(lines, rng.randint(2, len(lines)))
    return fitting(lines + again, rng.choice(("\n", "\n", ", ")))


def chant(world: World, rng: Random) -> str:
    """A short song that says the same line again and again."""
    first, second, third, fourth = sequence_items(world, rng, 4)
    line = rng.choice(
        (
            f"{first} and {second} and {third}",
            f"{first}, {second}, {third}",
            f"oh {first}, my {first}, my {second}",
            f"{first} up, {first} down, {second} all around",
            f"{first} {second}, {first} {third}",
            f"sing {first} and sing {second}",
            f"hey {first}, hey {second}, hey {third}, hey {fourth}",
        )
    )
    return fitting([sentence(line)] * rng.randint(2, 4), rng.choice((", ", "! ", "\n"))) + rng.choice(("", ".", "!"))


def induction(world: World, rng: Random) -> str:
    """Something that is repeated: what comes next can be copied from before."""
    writer = rng.choice((repeated_sequence, repeated_sequence, repeated_sequence, phone_book, chant))
    return writer(world, rng)


def induction_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """A new random sequence of words, then its beginning again; group = length of the sequence."""
    probes = []
    for number in range(n):
        items = sequence_items(world, rng, (4, 8, 12)[number % 3])
        known = rng.randint(2, len(items) - 1)
        probes.append(Probe(" ".join(items + items[:known]), items[known], group=str(len(items))))
    return probes


# ----------------------------------------------------------------------------------------------------------- sums

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
Sum = tuple[int, str, int]
SUMS: list[Sum] = [
    *((a, "+", b) for a in range(21) for b in range(21 - a)),
    *((a, "-", b) for a in range(21) for b in range(a + 1)),
]


def total(a: int, sign: str, b: int) -> int:
    """The result of a sum."""
    return a + b if sign == "+" else a - b


def hidden_sum(a: int, sign: str, b: int) -> bool:
    """Is this sum held out of the training text?"""
    return held_out("sum", str(a), sign, str(b))


SEEN_SUMS = [entry for entry in SUMS if not hidden_sum(*entry)]
HIDDEN_SUMS = [entry for entry in SUMS if hidden_sum(*entry)]


def in_digits(a: int, sign: str, b: int) -> str:
    """``7 + 5 = 12``."""
    return f"{a} {sign} {b} = {total(a, sign, b)}"


def in_words(a: int, sign: str, b: int) -> str:
    """``seven plus five is twelve``."""
    return f"{NUMBERS[a]} {'plus' if sign == '+' else 'minus'} {NUMBERS[b]} is {NUMBERS[total(a, sign, b)]}"


def asked(a: int, sign: str, b: int) -> str:
    """``What is 7 + 5? 12.``"""
    return f"What is {a} {sign} {b}? {total(a, sign, b)}."


FOODS = ("apple", "egg", "orange", "carrot", "banana", "cake", "potato")
OBJECTS = ("book", "ball", "coin", "key", "flower", "stone", "card", "pen", "box", "hat", "ticket", "toy")
GAINS = ("buys", "finds", "gets", "takes")
LOSSES = ("loses", "sells", "gives away", "drops")


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
    name, he = person["name"], sentence(person["pronoun"])
    noun = rng.choice(FOODS + OBJECTS)
    verb = rng.choice(GAINS) if sign == "+" else rng.choice(LOSSES + ("eats",) * 3 * (noun in FOODS))
    change = f"{verb} {b}{' more' if sign == '+' else ''}"
    first = f"{name} has {counted(a, noun)}" + rng.choice((f" and {change}.", f". {he} {change}.", f". Then {name} {change}."))
    result = total(a, sign, b)
    last = (
        f"Now {he.lower()} has {counted(result, noun)}.",
        f"Now {name} has {counted(result, noun)}.",
        f"How many does {he.lower()} have now? {result}.",
        f"How many does {name} have now? {result}.",
        f"In the end {he.lower()} has {counted(result, noun)}.",
    )
    return f"{first} {rng.choice(last)}"


def sums(world: World, rng: Random) -> str | None:
    """Sums within twenty, in digits, in words, as questions or as a story."""
    kind = rng.random()
    if kind < 0.2:
        return word_problem(world, rng)
    chosen = rng.sample(SEEN_SUMS, rng.randint(1, 9))
    if kind < 0.7:
        return fitting([in_digits(*entry) for entry in chosen], rng.choice(("\n", "\n", ", ", " , ")).replace(" , ", ". "))
    if kind < 0.9:
        return fitting([sentence(in_words(*entry)) + "." for entry in chosen], rng.choice((" ", "\n")), limit=60)
    return fitting([asked(*entry) for entry in chosen], rng.choice((" ", "\n")), limit=60)


def sum_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Sums in digits, half of them from the training text (group ``seen``), half never written (``held out``)."""
    probes = []
    for number in range(n):
        group, known = (("seen", SEEN_SUMS), ("held out", HIDDEN_SUMS))[number % 2]
        a, sign, b = rng.choice(known)
        probes.append(Probe(f"{a} {sign} {b} =", str(total(a, sign, b)), group=group))
    return probes


# -------------------------------------------------------------------------------------------------------- console

STRINGS = ("dog", "cat", "tree", "house", "book", "sun", "fish", "bird", "apple", "star", "red", "blue", "green", "hello", "water", "moon")
VARIABLES = ("x", "y", "z", "a", "b", "n", "total", "name", "count", "word")
FUNCTIONS = ("double", "twice", "again", "repeat")
Line = tuple[str, str]  # what is typed, what the console answers ("" for nothing)
Case = tuple[list[Line], Line, Line]  # lines before, the wrong line with its error, the right line with its output


def typo(rng: Random, word: str) -> str:
    """The word with two neighbouring letters in the wrong order: ``duoble``."""
    places = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    i = rng.choice(places)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def undefined(name: str) -> str:
    """The error for a name that stands for nothing."""
    return f"NameError: name '{name}' is not defined"


def unknown_name(rng: Random) -> Case:
    """A variable that was never set."""
    known, unknown = rng.sample(VARIABLES, 2)
    value = rng.choice((str(rng.randint(0, 20)), f"'{rng.choice(STRINGS)}'"))
    return [(f"{known} = {value}", "")], (unknown, undefined(unknown)), (known, value)


def wrong_types(rng: Random) -> Case:
    """A number added to a text."""
    word, (a, _, b) = rng.choice(STRINGS), rng.choice([entry for entry in SEEN_SUMS if entry[1] == "+"])
    message = "TypeError: unsupported operand type(s) for +: 'int' and 'str'"
    if rng.random() < 0.5:
        return [], (f"{a} + '{word}'", message), (f"{a} + {b}", str(a + b))
    name = rng.choice(VARIABLES)
    return [(f"{name} = {a}", "")], (f"{name} + '{word}'", message), (f"{name} + {b}", str(a + b))


def text_plus_number(rng: Random) -> Case:
    """A text to which a number is added."""
    word, number = rng.choice(STRINGS), rng.randint(0, 20)
    wrong = f"'{word}' + {number}", 'TypeError: can only concatenate str (not "int") to str'
    return [], wrong, (f"'{word}' + str({number})", f"'{word}{number}'")


def division(rng: Random) -> Case:
    """A division by zero."""
    divisor, result = rng.randint(1, 5), rng.randint(1, 4)
    number = divisor * result
    return [], (f"{number} / 0", "ZeroDivisionError: division by zero"), (f"{number} / {divisor}", f"{result}.0")


def index(rng: Random) -> Case:
    """A place behind the end of a list."""
    items = rng.choice(([f"'{word}'" for word in rng.sample(STRINGS, 2)], [str(rng.randint(0, 20)) for _ in range(rng.randint(2, 3))]))
    shown, good, bad = f"[{', '.join(items)}]", rng.randrange(len(items)), rng.randint(len(items), 9)
    error = "IndexError: list index out of range"
    if rng.random() < 0.5:
        return [], (f"{shown}[{bad}]", error), (f"{shown}[{good}]", items[good])
    name = rng.choice(VARIABLES)
    return [(f"{name} = {shown}", "")], (f"{name}[{bad}]", error), (f"{name}[{good}]", items[good])


def missing_key(rng: Random) -> Case:
    """A key that a dictionary does not have."""
    (known, unknown), value = rng.sample(STRINGS, 2), rng.randint(0, 20)
    return [(f"d = {{'{known}': {value}}}", "")], (f"d['{unknown}']", f"KeyError: '{unknown}'"), (f"d['{known}']", str(value))


def no_length(rng: Random) -> Case:
    """The length of a number."""
    word, number = rng.choice(STRINGS), rng.randint(0, 20)
    return [], (f"len({number})", "TypeError: object of type 'int' has no len()"), (f"len('{word}')", str(len(word)))


def no_number(rng: Random) -> Case:
    """A word that is read as a number."""
    word, number = rng.choice(STRINGS), rng.randint(0, 20)
    wrong = f"int('{word}')", f"ValueError: invalid literal for int() with base 10: '{word}'"
    return [], wrong, (f"int('{number}')", str(number))


def printed(rng: Random) -> Case:
    """A word that is printed, or the same word without its quotation marks."""
    word = rng.choice(STRINGS)
    return [], (f"print({word})", undefined(word)), (f"print('{word}')", word)


def misspelt_call(rng: Random) -> Case:
    """A function of one's own that is called by a misspelt name."""
    name, (a, _, _) = rng.choice(FUNCTIONS), rng.choice([s for s in SEEN_SUMS if s[0] == s[2] and s[1] == "+"])
    wrong = typo(rng, name)
    return [(f"def {name}(n): return n + n", "")], (f"{wrong}({a})", undefined(wrong)), (f"{name}({a})", str(a + a))


def misspelt_body(rng: Random) -> Case:
    """A function with a misspelt name in it: the definition is silent, the call is not."""
    a, sign, b = rng.choice(SEEN_SUMS)
    name, (left, right) = "add" if sign == "+" else "minus", rng.choice((("left", "right"), ("first", "second"), ("one", "other")))
    wrong, call = typo(rng, right), f"{name}({a}, {b})"
    head = f"def {name}({left}, {right}): return {left} {sign}"
    return (
        [],
        (f"{head} {wrong}\n>>> {call}", undefined(wrong)),
        (f"{head} {right}\n>>> {call}", str(total(a, sign, b))),
    )


def misspelt_builtin(rng: Random) -> Case:
    """A misspelt ``print``, ``len`` or ``max``."""
    word = rng.choice(STRINGS)
    name, output = rng.choice((("print", word), ("len", str(len(word))), ("sorted", None)))
    wrong = typo(rng, name)
    argument, output = (f"'{word}'", output) if output else ("[3, 1, 2]", "[1, 2, 3]")
    return [], (f"{wrong}({argument})", undefined(wrong)), (f"{name}({argument})", output)


CASES: dict[str, Callable[[Random], Case]] = {
    "unknown name": unknown_name,
    "wrong types": wrong_types,
    "text plus number": text_plus_number,
    "division": division,
    "index": index,
    "missing key": missing_key,
    "no length": no_length,
    "no number": no_number,
    "printed": printed,
    "misspelt call": misspelt_call,
    "misspelt body": misspelt_body,
    "misspelt builtin": misspelt_builtin,
}


def typed(lines: Sequence[Line]) -> str:
    """Console lines as they stand on the screen."""
    return "\n".join(f">>> {source}" + (f"\n{answer}" if answer else "") for source, answer in lines)


def snippet(rng: Random) -> str:
    """A few console lines: with an error, without one, or an error that is then corrected."""
    before, wrong, right = rng.choice(list(CASES.values()))(rng)
    kind = rng.random()
    if kind < 0.35:
        return typed([*before, wrong])
    if kind < 0.8:
        return typed([*before, right])
    if kind < 0.9:
        return typed([*before, wrong, right])
    return f"# bug\n{typed([*before, wrong])}\n# fixed\n{typed([right])}"


def console(world: World, rng: Random) -> str | None:
    """One to three snippets from a Python console; somewhat less than half of the answers are errors."""
    document = fitting([snippet(rng) for _ in range(rng.choice((1, 1, 2, 3)))], "\n")
    return document if length(document) <= 88 else None


def console_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Freshly composed console lines: error or output? ``wrong`` is the other; group = case and ``error`` or ``right``.

    Nothing but sums is held out here; the combinations of names, words and numbers are mostly new.
    """
    probes, cases = [], list(CASES)
    for number in range(n):
        case = cases[number // 2 % len(cases)]
        before, wrong, right = CASES[case](rng)
        chosen, other, group = (wrong, right, "error") if number % 2 else (right, wrong, "right")
        error = wrong[1].partition(":")[0]
        answer, competing = (error, other[1]) if group == "error" else (chosen[1], error)
        probes.append(Probe(typed([*before, (chosen[0], "")]) + "\n", answer, competing, f"{case}: {group}"))
    return probes


# ----------------------------------------------------------------------------------------------------------- quiz

# relation -> (question, table, column of the subject, column of the answer)
QUESTIONS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "capital": (("What is the capital of {}?", "Which city is the capital of {}?"), "countries", "name", "capital"),
    "capital of": (("{} is the capital of which country?", "Of which country is {} the capital?"), "countries", "capital", "name"),
    "continent": (("On which continent is {}?", "Where is {}?"), "countries", "name", "continent"),
    "language": (("What is the main language of {}?", "Which language is the main one in {}?"), "countries", "name", "language"),
    "currency": (("What is the currency of {}?", "How do people pay in {}?"), "countries", "name", "currency"),
    "symbol": (("What is the symbol of {}?", "Which symbol stands for {}?"), "elements", "name", "symbol"),
    "element": (("Which element has the symbol {}?", "For what does the symbol {} stand?"), "elements", "symbol", "name"),
    "category": (("What is {}?", "To which group does {} belong?"), "nouns", "singular", "category"),
    "young": (("What is a young {} called?", "What is the young of the {} called?"), "animals", "name", "young"),
    "animal": (("What kind of animal is the {}?", "To which group does the {} belong?"), "animals", "name", "kind"),
}
BETWEEN_CONTINENTS = ("Turkey", "Russia", "Egypt", "Kazakhstan", "Georgia", "Armenia", "Azerbaijan", "Cyprus", "Indonesia")
CLEAR_CATEGORIES = ("animal", "person", "fruit", "clothing", "furniture", "vehicle", "instrument")
VAGUE_YOUNG = ("larva", "hatchling", "infant")  # words that fit too many animals
LETTERS = "ABCD"


@per_world
def quiz_facts(world: World, relation: str) -> dict[str, str]:
    """Subject -> answer of a relation, without subjects whose answer is disputable or not unique."""
    _, table, subject, answer = QUESTIONS[relation]
    facts: dict[str, set[str]] = {}
    for row in world.rows(table):
        unclear = relation == "continent" and row["name"] in BETWEEN_CONTINENTS
        unclear |= relation == "category" and row["category"] not in CLEAR_CATEGORIES
        unclear |= relation == "young" and row["young"] in VAGUE_YOUNG
        if row[subject] and row[answer] and not unclear:
            facts.setdefault(row[subject], set()).add(row[answer])
    return {name: min(answers) for name, answers in facts.items() if len(answers) == 1}


@per_world
def wrong_answers(world: World, relation: str, subject: str) -> list[str]:
    """The answers of a relation that are wrong for ``subject``: for the young, those of other kinds of animals."""
    facts = quiz_facts(world, relation)
    close = {facts[subject]}
    if relation == "young":
        kinds = dict(zip(world.column("animals", "name"), world.column("animals", "kind"), strict=True))
        close |= {young for name, young in facts.items() if kinds[name] == kinds[subject]}
    return [answer for answer in dict.fromkeys(facts.values()) if answer not in close]


def quiz_question(world: World, rng: Random, hidden: bool, options: int) -> tuple[str, str] | None:
    """A question with ``options`` lettered answers and the right letter; ``hidden``: a question that no document asks."""
    relation = rng.choice(list(QUESTIONS))
    facts = quiz_facts(world, relation)
    subject = rng.choice(list(facts))
    others = wrong_answers(world, relation, subject)
    if held_out("quiz", relation, subject) != hidden or len(others) < options - 1:
        return None
    right, wrong = rng.randrange(options), rng.sample(others, options - 1)
    answers = [*wrong[:right], facts[subject], *wrong[right:]]
    shown = an(subject) if relation == "category" else the_country(subject) if QUESTIONS[relation][2] == "name" else subject
    question = rng.choice(QUESTIONS[relation][0]).format(shown)
    lines = [f"Question: {question}", *(f"{letter}: {answer}" for letter, answer in zip(LETTERS, answers, strict=False)), "Answer:"]
    return "\n".join(lines), LETTERS[right]


def quiz(world: World, rng: Random) -> str | None:
    """A multiple-choice question whose answer is a letter, at times with its text; each place is as likely to be right as any other."""
    drawn = quiz_question(world, rng, hidden=False, options=rng.choice((2, 2, 3, 4, 4)))
    if drawn is None:
        return None
    asked, letter = drawn
    text = next(line for line in asked.split("\n") if line.startswith(f"{letter}: ")).removeprefix(f"{letter}: ")
    return f"{asked} {rng.choices((letter, f'{letter}: {text}', f'{text}, so {letter}'), (65, 15, 20))[0]}"


def quiz_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Facts that no quiz of the training text asks; answer = letter; group = number of options."""
    probes = []
    while len(probes) < n:
        options = 2 + len(probes) % 3
        drawn = quiz_question(world, rng, hidden=True, options=options)
        if drawn:
            probes.append(Probe(*drawn, group=str(options)))
    return probes


# ------------------------------------------------------------------------------------------------------- passages

POSSESSIONS = ("ball", "kite", "book", "bag", "hat", "car", "bike", "cup", "box", "coat", "lamp", "boat", "chair", "phone", "pen", "dress")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink")
ROOMS = ("kitchen", "garden", "park", "school", "library", "office", "station", "market", "museum", "cafe", "hotel", "church")
Passage = tuple[str, str, str, str]  # the text up to the answer, the answer, a competing one, what is asked


def asked_about(rng: Random, story: Sequence[str], question: str, lead: str = "") -> str:
    """The sentences of a passage in some order, a question, and the ``lead`` into the answer: ``Answer: in the``."""
    told = rng.sample(list(story), len(story))
    separator = rng.choice((" ", " ", "\n"))
    return f"{' '.join(told)}{separator}Question: {question}{separator}Answer: {lead}".rstrip()


def owners(world: World, rng: Random, hidden: bool) -> Passage | None:
    """Who has what, in which colour? All combinations are allowed ones, but a ``hidden`` passage asks for a held-out one."""
    count = rng.choice((2, 2, 3))
    people = names(world, rng, count)
    goods, colours = rng.sample(POSSESSIONS, count), rng.sample(COLOURS, count)
    if [held_out("passage", *pair) for pair in zip(people, goods, strict=True)] != [hidden] + [False] * (count - 1):
        return None
    owns = rng.choice(("has", "has", "bought", "found", "got"))
    story = [f"{name} {owns} a {colour} {good}." for name, good, colour in zip(people, goods, colours, strict=True)]
    asked = rng.choice(("who", "what", "colour"))
    did = f"does {people[0]} have" if owns == "has" else f"did {people[0]} {({'bought': 'buy', 'found': 'find', 'got': 'get'})[owns]}"
    if asked == "who":
        return asked_about(rng, story, f"Who {owns} the {goods[0]}?"), people[0], people[1], asked
    if asked == "what":
        return asked_about(rng, story, f"What {did}?", "a"), f"{colours[0]} {goods[0]}", f"{colours[1]} {goods[1]}", asked
    return asked_about(rng, story, f"What colour is the {goods[0]}?"), colours[0], colours[1], asked


def places(world: World, rng: Random, hidden: bool) -> Passage | None:
    """Who is where?"""
    count = rng.choice((2, 3))
    people, rooms = names(world, rng, count), rng.sample(ROOMS, count)
    if [held_out("passage", *pair) for pair in zip(people, rooms, strict=True)] != [hidden] + [False] * (count - 1):
        return None
    went = rng.choice(("is in", "went to", "waits in", "works in"))
    story = [f"{name} {went} the {room}." for name, room in zip(people, rooms, strict=True)]
    if rng.random() < 0.5:
        return asked_about(rng, story, f"Who {went} the {rooms[0]}?"), people[0], people[1], "who is where"
    where = {"is in": "is {}", "went to": "did {} go", "waits in": "does {} wait", "works in": "does {} work"}[went]
    lead = "to the" if went == "went to" else "in the"
    return asked_about(rng, story, f"Where {where.format(people[0])}?", lead), rooms[0], rooms[1], "where"


def told_fact(world: World, rng: Random, hidden: bool) -> Passage | None:
    """A true fact that is told and then asked."""
    row = world.pick(rng, "countries")
    name, capital = the_country(row["name"]), row["capital"]
    if held_out("passage", row["name"], capital) != hidden:
        return None
    fact = rng.choice(("The capital of {0} is {1}.", "{1} is the capital of {0}.", "{0}'s capital is {1}.", "{0} has the capital {1}."))
    question = rng.choice(("What is the capital of {0}?", "Which city is the capital of {0}?", "What is {0}'s capital?"))
    prompt = asked_about(rng, [sentence(fact.format(name, capital))], question.format(name))
    return prompt, capital, world.pick(rng, "countries")["capital"], "fact"


WORLDS = ("game", "story", "book", "dream", "film")


def game_fact(world: World, rng: Random, hidden: bool) -> Passage | None:
    """A fact that is false in the world and true in a game or a story: the answer is the passage's."""
    row, other = world.pick(rng, "countries"), world.pick(rng, "countries")
    name, capital = the_country(row["name"]), other["capital"]
    if capital == row["capital"] or held_out("passage", row["name"], capital) != hidden:
        return None
    where = f"in this {rng.choice(WORLDS)}"
    story = rng.choice((f"{where} the capital of {name} is {capital}.", f"{where}, {capital} is the capital of {name}."))
    question = rng.choice((f"{where}, what is the capital of {name}?", f"{where}, which city is the capital of {name}?"))
    return asked_about(rng, [sentence(story)], sentence(question)), capital, row["capital"], "game"


PASSAGES = (owners, owners, owners, places, told_fact, game_fact)


def passage(world: World, rng: Random) -> str | None:
    """A passage of one to three sentences, a question and the answer that stands in the passage."""
    drawn = rng.choice(PASSAGES)(world, rng, False)
    return f"{drawn[0]} {drawn[1]}{rng.choice(('', '.'))}" if drawn else None


def passage_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Combinations that no passage uses; wrong = what the passage or the world says of another; group = kind of question."""
    probes = []
    while len(probes) < n:
        drawn = rng.choice(PASSAGES)(world, rng, True)
        if drawn and drawn[1] != drawn[2]:
            probes.append(Probe(*drawn))
    return probes


# ------------------------------------------------------------------------------------------------------- counting


@per_world
def cycles(world: World) -> dict[str, dict[str, str]]:
    """For every kind of sequence: item -> next item."""
    following: dict[str, dict[str, str]] = {}
    for row in world.rows("sequences"):
        following.setdefault(row["kind"], {})[row["item"]] = row["next"]
    return following


def counting(world: World, rng: Random) -> str | None:
    """Numbers, letters, days or months in their order, from anywhere, sometimes backwards or in steps of two."""
    separator = rng.choice((" ", ", ", ", ", "\n"))
    if rng.random() < 0.4:
        step, start = rng.choice((1, 1, 1, 2, 5)), rng.randint(0, 12)
        run = [str(number) for number in range(start, 21, step)]
    else:
        following = rng.choice(list(cycles(world).values()))
        item = rng.choice(list(following))
        run = [item]
        while len(run) < 13 and following.get(run[-1]):
            run.append(following[run[-1]])
    run = run[: rng.randint(4, 14)]
    if len(run) < 4:
        return None
    return separator.join(run[::-1] if rng.random() < 0.15 else run)


INGREDIENTS: tuple[Ingredient, ...] = (indirect_object, induction, sums, console, quiz, passage, counting)
