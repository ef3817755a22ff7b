"""Everyday prose: number agreement, determiners, relations between words, short lives of invented people, daily life."""

from collections.abc import Callable
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, sentence
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World

Words = tuple[str, ...]


def is_person(noun: Row) -> bool:
    """Does the noun name a human being?"""
    return noun["category"] == "person"


def is_animal(noun: Row) -> bool:
    """Does the noun name an animal?"""
    return noun["category"] == "animal"


def countable(noun: Row) -> bool:
    """Can there be two of it, near something else? (Drinks, the sun and so on are left out.)"""
    unfit = ("sun", "moon", "soup", "cheese", "salad", "storm", "wave", "lesson", "desert", "planet")
    return noun["category"] not in ("drink", "body") and noun["singular"] not in unfit and noun["singular"] != noun["plural"]


def small(noun: Row) -> bool:
    """Is it a thing that one can hold, lend and put on a table?"""
    fits = ("book", "coin", "stone", "leaf", "rose", "flower", "seed", "bottle", "wheel")
    holders = ("fruit", "vegetable", "clothing", "kitchen", "toy", "school", "jewel", "container", "tool", "device")
    unfit = ("oven", "machine", "engine", "screen", "lesson", "robot", "ladder", "pocket", "game", "station")
    return noun["singular"] not in unfit and (noun["category"] in holders or noun["singular"] in fits)


def draw(world: World, rng: Random, fits: Callable[[Row], bool], *others: Row) -> Row:
    """Draws a noun that fits and is none of ``others``."""
    taken = {other["singular"] for other in others}
    while True:
        noun = world.pick(rng, "nouns")
        if fits(noun) and noun["singular"] not in taken:
            return noun


# --- Agreement: the verb follows its own subject, whatever stands in between -----------------------------------------

NEAR: Words = ("near", "behind", "next to", "in front of", "beside", "far from", "close to", "opposite")
FEELINGS: Words = ("tired", "happy", "hungry", "here", "quiet", "busy", "ready", "late", "cold", "angry", "alone", "ill", "nervous",
    "proud", "well", "sad")
STATES: Words = ("new", "old", "clean", "dirty", "wet", "beautiful", "very small", "blue", "red", "ready", "gone", "here", "expensive",
    "broken", "green", "dry")
NOW: Words = ("Today", "Now", "At the moment", "This morning", "Right now", "These days")
THEN: Words = ("Yesterday", "Last week", "Last year", "In the past", "Long ago", "Two days ago", "Last night")
LIKINGS: Words = ("likes", "sees", "knows", "needs", "loves", "remembers", "watches", "describes")
PLURAL_LIKINGS: Words = ("like", "see", "know", "need", "love", "remember", "watch", "describe")
BEINGS: dict[str, Words] = {
    "runs": ("runs", "run"), "sleeps": ("sleeps", "sleep"), "waits": ("waits", "wait"), "laughs": ("laughs", "laugh"),
        "eats": ("eats a lot", "eat a lot"),
    "looks": ("looks tired", "look tired"), "seems": ("seems happy", "seem happy"), "comes": ("comes every day", "come every day"),
    "has": ("has big eyes", "have big eyes"), "needs": ("needs help", "need help"), "likes": ("likes the sun", "like the sun"),
        "plays": ("plays all day", "play all day"),
    "stays": ("stays there", "stay there"), "moves": ("moves slowly", "move slowly"), "goes": ("goes home", "go home"),
        "makes": ("makes a noise", "make a noise"),
}  # fmt: skip
THINGS: dict[str, Words] = {
    "looks": ("looks old", "look old"), "seems": ("seems heavy", "seem heavy"), "has": ("has a nice colour", "have a nice colour"),
    "costs": ("costs too much", "cost too much"), "belongs": ("belongs to my aunt", "belong to my aunt"), "needs": ("needs repair",
        "need repair"),
    "stands": ("stands in the sun", "stand in the sun"), "comes": ("comes from Italy", "come from Italy"), "lies": ("lies in the shade",
        "lie in the shade"),
    "goes": ("goes to the museum", "go to the museum"), "makes": ("makes me happy", "make me happy"), "remains": ("remains here",
        "remain here"),
}  # fmt: skip
SIGHTS: dict[str, Words] = {
    "looks": ("looks old", "look old"), "seems": ("seems strange", "seem strange"), "has": ("has a nice colour", "have a nice colour"),
    "stands": ("stands in the sun", "stand in the sun"), "lies": ("lies in the shade", "lie in the shade"), "remains": ("remains the same",
        "remain the same"),
    "pleases": ("pleases everybody", "please everybody"), "appears": ("appears in the picture", "appear in the picture"),
        "makes": ("makes me happy", "make me happy"),
    "reminds": ("reminds me of home", "remind me of home"),
}  # fmt: skip
NUMBERS: Words = ("singular", "plural")
PRESENT = {"singular": "is", "plural": "are"}
PAST = {"singular": "was", "plural": "were"}


def _subject_phrase(rng: Random, frame: str, noun: Row, number: str, attractor: Row, other: str) -> str:
    """The subject with its attractor: a place ("near") or a relative clause ("relative")."""
    head, inner = f"the {noun[number]}", f"the {attractor[other]}"
    if frame == "near":
        return f"{head} {rng.choice(NEAR)} {inner}"
    verb = rng.choice(LIKINGS if other == "singular" else PLURAL_LIKINGS)
    return f"{head} that {inner} {verb}"


def _pair(world: World, rng: Random, frame: str) -> tuple[Row, Row]:
    """A subject and an attractor; in a relative clause the attractor is somebody who can like things."""
    noun = draw(world, rng, countable)
    return noun, draw(world, rng, is_person if frame == "relative" else countable, noun)


def _be_sentence(rng: Random, phrase: str, noun: Row, number: str, tense: str) -> str:
    """A sentence whose verb is a form of "be", with the time at its beginning, and its complement."""
    when, be = (rng.choice(NOW), PRESENT) if tense == "present" else (rng.choice(THEN), PAST)
    state = rng.choice(FEELINGS if is_person(noun) or is_animal(noun) else STATES)
    return f"{when} {phrase} {be[number]} {state}."


def _verb_sentence(rng: Random, phrase: str, noun: Row, number: str) -> str:
    """A sentence with an ordinary verb in the present."""
    verbs = BEINGS if is_person(noun) or is_animal(noun) else SIGHTS if noun["category"] in ("nature", "building", "place") else THINGS
    verb = verbs[rng.choice(tuple(verbs))][NUMBERS.index(number)]
    opener = rng.choice(("", "", "Every day ", "I think that ", "You can see that ", "Of course ", "Sometimes ", "It is true that ",
        "He says that "))
    return sentence(f"{opener}{phrase} {verb}.")


def _agreeing(world: World, rng: Random) -> str | None:
    """One sentence with an attractor between subject and verb; None if the pair is held out."""
    frame = rng.choice(("near", "near", "relative"))
    noun, attractor = _pair(world, rng, frame)
    if held_out("agreement", noun["singular"], attractor["singular"]):
        return None
    number, other = rng.choice(NUMBERS), rng.choice(NUMBERS)
    phrase = _subject_phrase(rng, frame, noun, number, attractor, other)
    if rng.random() < 0.7:
        return _be_sentence(rng, phrase, noun, number, rng.choice(("present", "past")))
    return _verb_sentence(rng, phrase, noun, number)


def _simple(world: World, rng: Random) -> str:
    """One sentence without an attractor, sometimes with an adjective."""
    noun, number = draw(world, rng, countable), rng.choice(NUMBERS)
    ages = ("young ", "old ", "little ", "big ") if is_person(noun) or is_animal(noun) else ("new ", "old ", "big ", "small ")
    phrase = f"the {rng.choice(('', '', '', *ages))}{noun[number]}"
    if rng.random() < 0.5:
        return _be_sentence(rng, phrase, noun, number, rng.choice(("present", "past")))
    return _verb_sentence(rng, phrase, noun, number)


def _place_of(world: World, rng: Random) -> str | None:
    """Where something is: "The keys to the cabinet are on the table." and its relatives."""
    noun, place = draw(world, rng, small), draw(world, rng, countable)
    if held_out("agreement", noun["singular"], place["singular"]):
        return None
    number, whose = rng.choice(NUMBERS), rng.choice(("of my sister", "of the boys", "for the teachers", "for the school", "from the shop",
        "from the farms"))
    tense = rng.choice((PRESENT, PAST))
    return f"The {noun[number]} {whose} {tense[number]} {rng.choice(('near', 'behind', 'next to', 'in front of'))} the {place['singular']}."


def agreement(world: World, rng: Random) -> str | None:
    """Two or three sentences in which the verb has to agree with a subject that is not always the nearest noun."""
    makers = rng.choices((_agreeing, _simple, _place_of), (6, 2, 1), k=rng.choice((2, 2, 3)))
    lines = [make(world, rng) for make in makers]
    return None if sum(map(bool, lines)) < 2 else " ".join(line for line in lines if line)


def agreement_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Held-out pairs of subject and attractor, of opposite number, up to the verb: is/are after now, was/were after then."""
    kinds = [(tense, frame, number) for tense in ("present", "past") for frame in ("near", "relative") for number in NUMBERS]
    probes: list[Probe] = []
    while len(probes) < n:
        tense, frame, number = kinds[len(probes) % len(kinds)]
        noun, attractor = _pair(world, rng, frame)
        if not held_out("agreement", noun["singular"], attractor["singular"]):
            continue
        other = NUMBERS[1 - NUMBERS.index(number)]
        be, when = (PRESENT, rng.choice(NOW)) if tense == "present" else (PAST, rng.choice(THEN))
        prompt = f"{when} {_subject_phrase(rng, frame, noun, number, attractor, other)}"
        probes.append(Probe(prompt, be[number], be[other], group=f"{tense} {frame}"))
    return probes


# --- Determiners: this, that, these, those -------------------------------------------------------------------------------

CLOSE = {"singular": "this", "plural": "these"}
DISTANT = {"singular": "that", "plural": "those"}
COUNTS: Words = ("two", "three", "four", "five", "six", "some", "many", "several", "a few")
# A scene names the thing in its number and, with another number, something that only distracts.
SCENES: Words = (
    "There {be} {some} on the table, next to {other}.", "Here {be} {some} and {other}.", "I have {some} here, but not {other}.",
    "Look at {some} behind {other}!",
    "My friend gave me {some} instead of {other}.", "She found {some} near {other}.", "He bought {some} and sold {other}.",
    "In the box there {be} {some} under {other}.",
    "We need {some}. We do not need {other}.", "They saw {some} in front of {other}.", "On the floor there {be} {some} beside {other}.",
)  # fmt: skip
NEAR_USES: Words = (
    "Take {det} {noun}!", "I like {det} {noun}.", "May I have {det} {noun}?", "Whose {be} {det} {noun}?", "Please carry {det} {noun}.",
    "She wants {det} {noun}.",
    "Do you know {det} {noun}?", "We will keep {det} {noun}.", "Everybody needs {det} {noun}.", "Nobody uses {det} {noun}.",
    "He paid a lot for {det} {noun}.",
)  # fmt: skip
FAR_SCENES: Words = ("Over there {be} {some}, behind {other}.", "Far away you can see {some} near {other}.",
    "On the other side there {be} {some} next to {other}.")
BOTH: Words = (
    "I want {here} {noun}, not {there} {noun}.", "Is {here} {single} better than {there} one?",
    "{Here} {noun} {be} new, but {there} {noun} {be} old.",
    "Do not take {there} {noun}; take {here} {noun}.", "{Here} {noun} {be} mine and {there} {noun} {be} yours.",
    "I prefer {here} {noun} to {there} {noun}.",
    "{Here} {be} my {noun}, and {there} {be} your {noun}.", "Give me {here} {noun} and keep {there} {noun}.",
)  # fmt: skip
QUALITIES: Words = ("new", "old", "nice", "cheap", "heavy", "light", "clean", "very good", "too small", "quite big", "beautiful")


def _amount(rng: Random, noun: Row, number: str) -> str:
    """The thing in its number: "a book" or "three books"."""
    return an(noun["singular"]) if number == "singular" else f"{rng.choice(COUNTS)} {noun['plural']}"


def _scene(rng: Random, scenes: Words, noun: Row, number: str, distractor: Row) -> str:
    """A scene with the thing in its number and a distractor in the other one."""
    other = NUMBERS[1 - NUMBERS.index(number)]
    return rng.choice(scenes).format(be=PRESENT[number], some=_amount(rng, noun, number), other=_amount(rng, distractor, other))


def _two_things(world: World, rng: Random) -> tuple[Row, Row]:
    """A small thing and another one."""
    noun = draw(world, rng, small)
    return noun, draw(world, rng, small, noun)


def _remark(rng: Random, noun: Row, number: str) -> str:
    """A last sentence about the thing, with the right pronoun."""
    it, be = ("It", "is") if number == "singular" else ("They", "are")
    return rng.choice((f"{it} {be} {rng.choice(QUALITIES)}.", f"{it} {be} {rng.choice(QUALITIES)}.",
        f"{sentence(CLOSE[number])} {noun[number]} {be} {rng.choice(QUALITIES)}."))


def determiners(world: World, rng: Random) -> str | None:
    """A scene decides the number, and the determiner that follows agrees with it."""
    noun, distractor = _two_things(world, rng)
    if held_out("agreement", noun["singular"], distractor["singular"]):
        return None
    number, style = rng.choice(NUMBERS), rng.random()
    if style < 0.55:
        use = rng.choice(NEAR_USES).format(det=CLOSE[number], noun=noun[number], be=PRESENT[number])
        return f"{_scene(rng, SCENES, noun, number, distractor)} {use} {_remark(rng, noun, number)}"
    if style < 0.75:
        use = rng.choice(NEAR_USES).format(det=DISTANT[number], noun=noun[number], be=PRESENT[number])
        remark = f"{sentence(DISTANT[number])} {noun[number]} {PRESENT[number]} {rng.choice(QUALITIES)}."
        return f"{_scene(rng, FAR_SCENES, noun, number, distractor)} {use} {remark}"
    here, there = CLOSE[number], DISTANT[number]
    words = {"here": here, "there": there, "Here": sentence(here), "noun": noun[number], "be": PRESENT[number], "single": noun["singular"]}
    both = BOTH if number == "singular" else tuple(text for text in BOTH if "{single}" not in text)
    return f"{rng.choice(both).format(**words)} {_remark(rng, noun, number)} {_scene(rng, SCENES, noun, number, distractor)}"


def determiner_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Held-out pairs of thing and distractor, up to the determiner: does "these" or "this" follow?"""
    uses = tuple(text[: text.index(" {det}")] for text in NEAR_USES if "{be}" not in text)
    probes: list[Probe] = []
    while len(probes) < n:
        noun, distractor = _two_things(world, rng)
        if held_out("agreement", noun["singular"], distractor["singular"]):
            number = NUMBERS[len(probes) % 2]
            other = NUMBERS[1 - NUMBERS.index(number)]
            prompt = f"{_scene(rng, SCENES, noun, number, distractor)} {rng.choice(uses)}"
            probes.append(Probe(prompt, CLOSE[number], CLOSE[other], group=number))
    return probes


# --- Relations between words, told in prose ------------------------------------------------------------------------------

OPPOSITES: Words = (
    "The opposite of {a} is {b}.", "What is {a} is not {b}.", "{A} and {b} are opposites.", "{A} is the opposite of {b}.",
    "If something is not {a}, it may be {b}.",
    "It is {a}, not {b}.", "Is it {a} or {b}?", "It was {a} before, but now it is {b}.", "One of them is {a}, the other one is {b}.",
    "When we say the opposite of {a}, we say {b}.", "Nothing can be {a} and {b} at the same time.", "{A} means that it is not {b}.",
)  # fmt: skip
SYNONYMS: Words = (
    "{A} means the same as {b}.", "Another word for {a} is {b}.", "{A} is another word for {b}.", "Instead of {a} we can also say {b}.",
    "{A} and {b} mean the same.",
    "The words {a} and {b} are close in meaning.", "A synonym of {a} is {b}.", "Some people say {a}, others say {b}.",
    "You may say {a} or {b}.",
)  # fmt: skip
PLURALS: Words = (
    "One {a}, two {b}.", "One {a}, many {b}.", "The plural of {a} is {b}.", "There is one {a} here, and there are five {b} there.",
    "More than one {a}: that means {b}.",
    "I had one {a}; now I have three {b}.", "A single {a} is not enough: we need many {b}.",
    "First I saw one {a}, and then I saw a lot of {b}.", "If you have two of them, you say {b}, not {a}.",
    "The word {b} is the plural of {a}.", "The singular of {b} is {a}.", "Not one {a}, but ten {b}!",
)  # fmt: skip
CATEGORIES: Words = (
    "{An} is {cat}.", "{An} is a kind of {bare}.", "Every {a} is {cat}.", "{B} belong to the {cats}.", "Is {an} {cat}? Yes, it is.",
    "We call {an} {cat}.",
    "Among the {cats} there are {b}.", "{B} are {cats}.", "{Cats} such as {b} are well known.", "The {a} is {cat}.",
)  # fmt: skip
CATEGORY_NAMES: dict[str, Words] = {
    "animal": ("an animal", "animals"), "fruit": ("a fruit", "fruits"), "vegetable": ("a vegetable", "vegetables"), "tool": ("a tool",
        "tools"),
    "vehicle": ("a vehicle", "vehicles"), "building": ("a building", "buildings"), "toy": ("a toy", "toys"), "instrument": ("an instrument",
        "instruments"),
    "person": ("a person", "people"), "drink": ("a drink", "drinks"), "food": ("a food", "foods"), "container": ("a container",
        "containers"), "device": ("a device", "devices"),
    "jewel": ("a jewel", "jewels"), "place": ("a place", "places"),
}  # fmt: skip
MEMBERS: dict[str, Words] = {
    "clothing": ("{An} is something to wear.", "{An} is a piece of clothing.", "People wear {b}."),
        "body": ("The {a} is a part of the body.", "{B} are parts of the body."),
    "furniture": ("{An} is a piece of furniture.", "In a room you may find {b} and other furniture."),
        "kitchen": ("{An} belongs in the kitchen.", "In a kitchen there are {b}."),
    "nature": ("{An} is a part of nature.", "In nature you can see {b}."), "school": ("At school you may need {an}.",
        "{An} is something for school."),
    "home": ("At home you may have {an}.", "{An} is something for the home."), "money": ("{An} is money.", "{B} are money."),
}  # fmt: skip
COLOURS: Words = (
    "{B} are usually {c}.", "{An} is usually {c}.", "The typical colour of {an} is {c}.", "What colour is {an}? It is {c}.",
    "It is as {c} as {an}.",
    "I painted {an}, so I needed the colour {c}.", "Most {b} are {c}.", "A typical {a} is {c}.",
)  # fmt: skip
WORDS_ONLY: Words = ("The comparative of {a} is {er}, and the superlative is {est}.", "{A}, {er}, {est}.",
    "From {a} we make {er} and {est}.")
CAPITALS: Words = (
    "At the beginning of a sentence, {a} is written {b}.", "{B} is {a} with a capital letter.", "With a capital letter, {a} becomes {b}.",
    "In the middle of a sentence we write {a}, at its beginning {b}.", "Write {a} with a capital: {b}.", "{B} and {a} are the same word.",
    "The title was only one word: {b}. It means {a}.", "Without its capital letter, {b} is {a}.",
)  # fmt: skip
GRADES: Words = (
    "{A}, {er}, {est}.", "This one is {a}, that one is {er}, but mine is the {est}.", "It is {er} than before.",
    "Nothing is {er} than this.", "It was {a} yesterday, but today it is even {er}.",
    "Of all of them it is the {est}.", "The comparative of {a} is {er}, and the superlative is {est}.", "You are {a}, but she is {er}.",
    "He is {a}, his brother is {er}, and his sister is the {est}.",
    "The {est} one wins.",
)  # fmt: skip
ABSOLUTE: Words = (
    "male", "female", "open", "closed", "dead", "alive", "awake", "asleep", "true", "false", "public", "private", "visible", "invisible",
    "possible", "impossible",
)  # fmt: skip
FORMS: Words = (
    "The past of {base} is {past}.", "{Base}, {past}, {part}.", "The participle of {base} is {part}.",
    "From {base} we make {past} and {part}.",
    "Today we say {base}; about yesterday we say {past}.",
)  # fmt: skip
STATIVE: Words = ("know", "feel", "love", "like", "hate", "need", "want", "understand", "remember", "forget", "see", "hear", "agree",
    "think", "smell", "taste", "hope")
IMPERSONAL: Words = ("die", "bark", "freeze", "melt", "shine", "rise", "grow", "breathe", "bite", "burn", "fall")
TENSES: Words = (
    "Today I {base}{o}; yesterday I {past}{o}.", "Today they {base}{o}. Yesterday they {past}{o}.",
    "She {third}{o} every day, and she {past}{o} yesterday too.",
    "I have never {part}{o} before.", "He is {ger}{o} now.", "She will {base}{o} tomorrow, as she {past}{o} last week.",
    "The past of {base} is {past}.", "We were {ger}{o} when the telephone rang.",
    "I {base}{o}, he {third}{o}, and yesterday we all {past}{o}.", "They have already {part}{o}.",
    "Do you want to {base}{o}? I {past}{o} an hour ago.", "{Base}, {past}, {part}.",
    "She likes {ger}{o}, so she {third}{o} often.", "By tomorrow you will have {part}{o}.",
    "He {third}{o} today. He did not {base}{o} yesterday.",
)  # fmt: skip
YOUNG: Words = (
    "A young {a} is called {y}.", "{Y} is a young {a}.", "The young of {an} is {y}.", "When {an} is born, it is {y}.",
    "{Y} grows up and becomes {an}.", "The mother {a} takes care of her {young}.",
)  # fmt: skip
SOUNDS: Words = ("{B} {s}.", "You can hear {an} {s}.", "When {b} are excited, they {s}.", "Listen how the {b} {s}!",
    "What do {b} do? They {s}.")
HOMES: Words = ("{B} live {in} the {h}.", "The home of {an} is the {h}.", "Where do {b} live? {In} the {h}.",
    "If you want to see {an}, look {in} the {h}.", "You may find {an} {in} the {h}.")
ON: Words = ("ice", "beach", "coast", "farm", "hill", "savanna", "tundra", "wall", "roof", "reef", "grassland")
FOODS: Words = ("{B} eat {f}.", "{An} likes to eat {f}.", "What do {b} eat? They eat {f}.", "{B} feed on {f}.", "The food of {an} is {f}.",
    "Without {f}, {an} is hungry.")
KINDS: Words = ("{An} is {k}.", "{B} are {ks}.", "Every {a} is {k}.", "Among the {ks} there are {b}.", "The {a} belongs to the {ks}.")
NEXTS: Words = (
    "After {a} comes {b}.", "{A} is followed by {b}.", "{B} comes after {a}.", "{A} comes before {b}.", "First {a}, then {b}.",
    "What comes after {a}? {B}.", "Before {b} there is {a}.",
)  # fmt: skip
PASSING: Words = ("When {a} is over, {b} comes.", "It is still {a}, but soon it will be {b}.", "We waited all {a}, until {b} came.")


def _say(rng: Random, templates: Words, **words: str) -> str:
    """Fills one template; every word can also be had with a capital letter."""
    capitals = {sentence(key): sentence(value) for key, value in words.items()}
    return sentence(rng.choice(templates).format_map(words | capitals))


def _opposite(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "adjectives")
    return _say(rng, OPPOSITES, a=row["word"], b=row["opposite"])


def _synonym(world: World, rng: Random) -> str:
    row = world.pick_common(rng, rng.choice(("synonyms", "adjectives")))
    return _say(rng, SYNONYMS, a=row["word"], b=row["synonym"])


def _graded(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "adjectives")
    return _say(rng, WORDS_ONLY if row["word"] in ABSOLUTE else GRADES, a=row["word"], er=row["comparative"], est=row["superlative"])


def _plural(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "nouns")
    return _say(rng, PLURALS, a=row["singular"], b=row["plural"])


def _capital(world: World, rng: Random) -> str:
    table, column = rng.choice((("nouns", "singular"), ("nouns", "plural"), ("adjectives", "word"), ("verbs", "base")))
    word = world.pick_common(rng, table)[column]
    return _say(rng, CAPITALS, a=word, b=sentence(word))


def _category(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "nouns")
    words = {"a": row["singular"], "an": an(row["singular"]), "b": row["plural"]}
    if row["category"] in CATEGORY_NAMES:
        cat, cats = CATEGORY_NAMES[row["category"]]
        return _say(rng, CATEGORIES, **words, cat=cat, cats=cats, bare=row["category"])
    return _say(rng, MEMBERS.get(row["category"], ("Everybody knows what {an} is.",)), **words)


def _colour(world: World, rng: Random) -> str:
    row = rng.choice([row for row in world.common("nouns") if row["colour"]] or [None])
    if row is None:
        return _category(world, rng)
    return _say(rng, COLOURS, a=row["singular"], an=an(row["singular"]), b=row["plural"], c=row["colour"])


def _tense(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "verbs")
    words = {"base": row["base"], "third": row["third"], "past": row["past"], "part": row["participle"], "ger": row["gerund"]}
    habitual = tuple(text for text in TENSES if "{ger}" not in text)
    templates = FORMS if row["base"] in IMPERSONAL else habitual if row["base"] in STATIVE else TENSES
    return _say(rng, templates, **words, o=f" {row['object']}" if row["object"] else "")


def _animal(world: World, rng: Random) -> str:
    """The young, the sound, the home, the food or the kind of an animal."""
    row = world.pick(rng, "animals")
    kind = row["kind"]
    told = {"young": YOUNG, "sound": SOUNDS, "home": HOMES, "food": FOODS, "kind": KINDS}
    column = rng.choice([column for column in told if row[column]])
    words = {"a": row["name"], "an": an(row["name"]), "b": row["plural"], "s": row["sound"], "h": row["home"], "f": row["food"]}
    words["in"] = "on" if row["home"] in ON else "in"
    return _say(rng, told[column], **words, young=row["young"], y=an(row["young"] or "child"), k=an(kind),
        ks="fish" if kind == "fish" else kind + "s")


def _next(world: World, rng: Random) -> str:
    row = world.pick(rng, "sequences")
    lasting = row["kind"] in ("day", "month", "season")
    return _say(rng, NEXTS + PASSING if lasting else NEXTS, a=row["item"], b=row["next"])


VERB_FORMS: Words = (
    "The forms of {base} are {third}, {past} and {ger}.", "{Base}, {third}, {past}, {ger}.", "From {base} we make {ger}.",
    "The word {ger} comes from {base}.", "{Ger} comes from the verb {base}.", "With he or she, {base} becomes {third}.",
    "I {base}, she {third}.", "The word {third} comes from {base}.", "Not {base}, but {third}: so we say with he or she.",
    "Who learns to {base} must know {third} and {ger}.",
)  # fmt: skip
MANY_CAPITALS: Words = (
    "{B} means more than one {a}.", "{B} is the plural of {a}.", "{B}: more than one {a}.", "One {a}, but the title says {B}.",
    "{B} and {a} differ in number.", "Write {a} in the plural and with a capital letter: {B}.",
)  # fmt: skip
SUPERLATIVES: Words = (
    "The superlative of {a} is {est}.", "{Est} comes from {a}.", "{Est} is the superlative of {a}.", "Nothing is as {a} as the {est} one.",
    "The comparative of {a} is {er}.", "{Er} comes from {a}.",
)  # fmt: skip


def _form(world: World, rng: Random) -> str:
    """A form of a verb, a noun or an adjective beside the word itself."""
    kind = rng.choices(("verb", "noun", "adjective"), (5, 3, 2))[0]
    if kind == "verb":
        row = world.pick_common(rng, "verbs")
        return _say(rng, VERB_FORMS, base=row["base"], third=row["third"], past=row["past"], ger=row["gerund"])
    if kind == "noun":
        row = world.pick_common(rng, "nouns")
        return _say(rng, MANY_CAPITALS, a=row["singular"], b=row["plural"])
    row = world.pick_common(rng, "adjectives")
    return _say(rng, SUPERLATIVES, a=row["word"], er=row["comparative"], est=row["superlative"])


def forms(world: World, rng: Random) -> str:
    """Two to four sentences about the forms of words."""
    return " ".join(dict.fromkeys(_form(world, rng) for _ in range(rng.choice((2, 3, 3, 4)))))


RELATIONS: tuple[tuple[Callable[[World, Random], str], float], ...] = (
    (_opposite, 2), (_synonym, 1.5), (_graded, 2), (_plural, 2.5), (_category, 2), (_colour, 0.7), (_tense, 3), (_animal, 2), (_next, 1.5),
    (_capital, 4),
)  # fmt: skip


def relations(world: World, rng: Random) -> str | None:
    """Two to four sentences about words; often several of the same kind. None if they came out too short."""
    makers, weights = zip(*RELATIONS, strict=True)
    size = rng.choice((2, 3, 3, 4))
    chosen = rng.choices(makers, weights, k=size) if rng.random() < 0.5 else rng.choices(makers, weights) * size
    text = " ".join(dict.fromkeys(maker(world, rng) for maker in chosen))
    return text if len(text.split()) >= 8 else None


# --- People: a name, a pronoun, a profession ------------------------------------------------------------------------------

# profession: (share of women, places of work, what one does there, what one needs)
PROFESSIONS: dict[str, tuple[float, Words, Words, Words]] = {
    "nurse": (0.85, ("in a hospital", "at a small clinic"), ("helps sick people", "takes care of the patients",
        "gives people their medicine"), ("patience", "a white coat")),
    "teacher": (0.85, ("at a school", "at a village school"), ("teaches children to read", "explains everything twice", "corrects tests"),
        ("books", "patience")),
    "dancer": (0.85, ("at a theatre", "at the opera"), ("dances on the stage", "practises for hours", "learns new steps"), ("good shoes",
        "music")),
    "secretary": (0.85, ("in an office", "in the office of a company"), ("writes letters", "answers the telephone", "plans the meetings"),
        ("a calendar", "a computer")),
    "professor": (0.15, ("at a university", "at the university of the city"), ("gives lectures", "writes long books",
        "studies old languages"), ("quiet", "many books")),
    "engineer": (0.15, ("at a factory", "for a big company"), ("builds machines", "plans new bridges", "repairs engines"), ("a computer",
        "good tools")),
    "farmer": (0.15, ("on a farm", "in the fields"), ("grows potatoes", "feeds the cows", "sells milk and eggs"), ("a tractor",
        "good weather")),
    "pilot": (0.15, ("at the airport", "for an airline"), ("flies big planes", "sees the world from above",
        "brings people to other countries"), ("good eyes", "a map")),
    "doctor": (0.5, ("in a hospital", "in a small town"), ("examines the patients", "treats sick people", "listens to their hearts"),
        ("medicine", "time")),
    "cook": (0.5, ("in a restaurant", "in the kitchen of a hotel"), ("makes soup", "prepares dinner for the guests", "tries new recipes"),
        ("sharp knives", "fresh vegetables")),
    "baker": (0.5, ("in a bakery", "at the corner of our street"), ("bakes bread", "prepares the dough", "makes the best cakes"), ("flour",
        "a hot oven")),
    "lawyer": (0.5, ("at a court", "in a law office"), ("knows all the laws", "speaks before the judge", "gives people advice"),
        ("good arguments", "many papers")),
    "writer": (0.5, ("at home", "in a quiet room"), ("writes stories", "invents people", "thinks about every word"), ("ideas",
        "a good pen")),
    "painter": (0.5, ("in a studio", "in an old house"), ("paints pictures", "mixes bright colours", "shows the pictures in a gallery"),
        ("good light", "brushes")),
    "singer": (0.5, ("at the opera", "at a small theatre"), ("sings old songs", "travels from city to city",
        "learns songs in four languages"), ("a microphone", "tea with honey")),
    "journalist": (0.5, ("for a newspaper", "at a radio station"), ("writes articles", "asks many questions", "reports the news"),
        ("a notebook", "the truth")),
    "gardener": (0.5, ("in a park", "in the botanical garden"), ("plants flowers", "cuts the trees", "waters the roses"), ("rain",
        "a shovel")),
    "scientist": (0.5, ("in a laboratory", "at an institute"), ("does experiments", "studies the stars", "writes down the results"),
        ("a microscope", "curiosity")),
    "driver": (0.5, ("for a bus company", "in the city"), ("drives a bus", "knows every street", "brings people to work"), ("a good car",
        "patience")),
    "librarian": (0.5, ("in a library", "at the library of the town"), ("finds every book", "puts the books on the shelves",
        "reads to the children"), ("order", "silence")),
    "waiter": (0.5, ("in a coffee house", "in a restaurant"), ("brings the food", "writes down the orders", "is friendly to the guests"),
        ("good shoes", "a good memory")),
    "photographer": (0.5, ("in a studio", "for a magazine"), ("takes pictures", "waits for the right moment", "photographs weddings"),
        ("a camera", "light")),
    "judge": (0.5, ("at a court", "in the capital"), ("listens to both sides", "decides what is right", "reads many papers"),
        ("time to think", "justice")),
    "dentist": (0.5, ("in a dental practice", "in the centre of the town"), ("looks after teeth", "repairs teeth",
        "tells children to brush their teeth"), ("a bright lamp", "calm hands")),
}  # fmt: skip
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "his", "him")}
HOBBIES: Words = (
    "plays chess", "reads long books", "goes swimming", "sings in a choir", "rides a bicycle", "works in the garden", "collects stamps",
    "learns French",
    "plays the piano", "cooks for friends", "climbs mountains", "watches old films", "runs in the park", "paints", "plays football",
    "goes fishing",
)  # fmt: skip
BIO_STARTS: Words = (
    "{name} is {prof}.", "{name} works as {prof}.", "This is {name}. {He} is {prof}.", "{name} has been {prof} for {years} years.",
    "My neighbour {name} is {prof}.",
    "{name} wanted to be {prof} as a child, and now {he} is one.", "{name} became {prof} {years} years ago.",
    "Do you know {name}? {He} is {prof}.", "{name} is a good {bare}.",
)  # fmt: skip
BIO_WORK: Words = (
    "{He} works {place} and {task}.", "{He} works {place}, where {he} {task}.", "{He} {task}.", "Every day {he} {task}.",
    "Every morning {he} goes to work and {task}.", "As {prof}, {he} {task}.",
    "{He} {task} and {task2}.", "In {his} job {he} {task}.", "{He} works {place}.", "People like {him}, because {he} {task} with a smile.",
)  # fmt: skip
BIO_ENDS: Words = (
    "In {his} free time {he} {hobby}.", "For {his} work {he} needs {need}.", "{He} loves {his} job.", "On Sundays {he} {hobby}.",
    "In the evening {he} is tired, but happy.", "{He} lives with {his} family in a small house.",
    "At the weekend {he} {hobby} with {his} friends.", "{He} says that a {bare} needs {need}.", "{He} has two children and a dog.",
    "{His} friends often ask {him} for advice.", "{He} would not like to do anything else.",
)  # fmt: skip


def person(world: World, rng: Random, share: float) -> Row:
    """A first name whose pronoun is "she" with probability ``share``."""
    pronoun = "she" if rng.random() < share else "he"
    while True:
        row = world.pick(rng, "firstnames")
        if row["pronoun"] == pronoun:
            return row


def people_bios(world: World, rng: Random) -> str:
    """Three sentences about an invented person; some professions go with one pronoun more often than with the other."""
    profession = rng.choice(tuple(PROFESSIONS))
    share, places, tasks, needs = PROFESSIONS[profession]
    somebody = person(world, rng, share)
    task, task2 = rng.sample(tasks, 2)
    he, his, him = PRONOUNS[somebody["pronoun"]]
    words = {"name": somebody["name"], "prof": an(profession), "bare": profession, "place": rng.choice(places), "task": task,
        "task2": task2}
    words |= {"he": he, "his": his, "him": him, "He": sentence(he), "His": sentence(his), "hobby": rng.choice(HOBBIES),
        "need": rng.choice(needs)}
    words["years"] = rng.choice(("two", "three", "five", "seven", "ten", "twelve", "twenty"))
    lines = [rng.choice(part).format_map(words) for part in (BIO_STARTS, BIO_WORK, BIO_ENDS)]
    return " ".join(lines)


# --- Daily life ------------------------------------------------------------------------------------------------------------

SLOTS: dict[str, Words] = {
    "weather": ("sunny", "cloudy", "rainy", "windy", "foggy", "cold", "warm", "stormy", "mild"),
    "sky": ("The sun is shining", "It is raining", "Snow is falling", "A cold wind is blowing", "Dark clouds are coming",
        "The fog is thick", "The sky is clear"),
    "clothes": ("a warm coat", "an umbrella", "sunglasses", "a hat and gloves", "rain boots", "a light shirt", "a scarf"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "hour": ("seven", "eight", "nine", "ten", "eleven", "two", "three", "four", "five", "six"),
    "part": ("morning", "afternoon", "evening"),
    "region": ("north", "south", "east", "west", "mountains", "valleys"),
    "shop": ("supermarket", "market", "village shop", "little shop", "corner shop"),
    "goods": ("bread", "milk", "apples", "eggs", "cheese", "rice", "tomatoes", "coffee", "butter", "fish", "potatoes", "bananas", "tea",
        "sugar"),
    "price": ("two", "three", "five", "eight", "ten", "fifteen", "twenty"),
    "subject": ("mathematics", "history", "music", "physics", "geography", "biology", "art", "French", "German", "chemistry"),
    "place": ("station", "library", "park", "museum", "swimming pool", "theatre", "beach", "zoo", "lake", "old town", "cinema", "airport"),
    "activity": ("went for a walk", "read a book", "watched a film", "played cards", "visited my aunt", "cleaned the house",
        "wrote letters", "listened to music",
                 "worked in the garden", "baked a cake", "met some friends", "went swimming", "repaired my bicycle", "learned new words",
                 "cooked soup"),
    "plan": ("visit my grandmother", "go to the lake", "learn to swim", "buy a new lamp", "travel by train", "paint the kitchen",
        "read more", "invite our neighbours", "climb a mountain"),
    "reason": ("I was tired", "the bus was late", "it was raining", "I had no time", "the shop was closed", "I had forgotten my key",
        "nobody was at home"),
    "mood": ("happy", "tired", "bored", "surprised", "angry", "proud", "calm", "nervous", "sad", "glad"),
    "glad": ("happy", "proud", "glad", "surprised", "very pleased"),
    "early": ("seven", "eight", "nine", "half past seven", "half past eight"),
    "adverb": ("Luckily", "Unfortunately", "Suddenly", "Fortunately", "Later", "Finally", "However", "Meanwhile", "Of course", "Still"),
    "event": ("the rain stopped", "my sister called", "we missed the bus", "I found my key again", "the light went out",
        "a neighbour helped us", "it was only a dream", "the train came", "everybody laughed"),
    "meal": ("breakfast", "lunch", "dinner"),
    "dish": ("soup", "rice with vegetables", "pancakes", "fish and potatoes", "noodles", "an omelette", "a salad", "pizza"),
    "vegetable": ("onions", "carrots", "potatoes", "tomatoes", "mushrooms", "cabbage", "beans"),
    "extra": ("salt and pepper", "a little butter", "some lemon juice", "fresh herbs", "two eggs", "grated cheese", "a cup of water",
        "some garlic"),
    "minutes": ("five", "ten", "fifteen", "twenty", "thirty"),
    "sport": ("football", "basketball", "tennis", "handball", "volleyball", "hockey"),
    "team": ("the Lions", "the Eagles", "the Bears", "the Wolves", "the Sharks", "the Tigers", "our school", "the visitors"),
    "score": ("two to one", "three to two", "one to nothing", "four to three", "five to two", "three to nothing"),
    "thing": ("umbrella", "bag", "watch", "book", "phone", "scarf", "camera", "ticket", "coat"),
    "family": ("mother", "father", "sister", "brother", "uncle", "aunt", "cousin", "grandmother", "grandfather"),
    "animal": ("dog", "cat", "horse", "bird", "rabbit", "duck"),
    "season": ("spring", "summer", "autumn", "winter"),
}  # fmt: skip

# A text is a chain of steps; at each step one alternative is chosen, and an empty one is left out.
TEXTS: dict[str, tuple[Words, ...]] = {
    "diary": (
        ("Dear diary, today was a {weather} day.", "Today I got up at {early}.", "It is {day} evening.", "What a day!",
            "I woke up early and felt {mood}.", "On {day} I stayed at home."),
        ("In the {part} I {activity}.", "I {activity} and then I {activity}.", "First I {activity}, although {reason}.",
            "I wanted to {plan}, but {reason}.", "My {family} and I {activity}.", "My {family} came, and we {activity2}."),
        ("{adverb}, {event}.", "After that, {event}.", "While I was eating {meal}, {event}.", "We had {dish} for {meal}.",
            "Although {reason}, it was a good day.", ""),
        ("Now I am {mood} and go to bed.", "Tomorrow I want to {plan}.", "I hope that tomorrow will be better.", "I was {mood} in the end.",
            "I will remember it for a long time.", "Good night!"),
    ),
    "weather": (
        ("{sky} today.", "The weather report for {day}: it will be {weather}.", "In the {region} it is {weather} today.",
            "This {part} it is {weather}.", "{sky}, and I am still in bed.", "It is {season}."),
        ("In the {part} it will be {weather}, and later it will be {weather}.", "Tomorrow it will be {weather} in the {region}.",
            "The {season} has been {weather} this year.", "Do not forget {clothes}!", "It was {weather} yesterday too.",
         "It is colder than on {day}."),
        ("You should take {clothes} with you.", "So we cannot {plan}.", "On {day} the sun will come back.",
            "The children want to play outside anyway.", "I hope that it will be better on {day}.", "My {family} likes such weather.",
            "The streets are almost empty."),
    ),
    "shopping": (
        ("I went to the {shop} to buy {goods}.", "We need {goods}, {goods} and {goods}.", "My {family} sent me to the {shop}.",
            "I had no {goods} at home, so I went to the {shop}.", "The {shop} opens at {early}.",
            "\"Can I help you?\" asked the woman in the {shop}."),
        ("I also bought {goods} and {goods}.", "\"I would like some {goods}, please,\" I said.", "The {goods} cost {price} euros.",
            "I had forgotten my {thing}, so I had to go back.", "There was a long line, and {reason}.", "Everything was quite expensive."),
        ("In the end I paid {price} euros.", "Then I carried everything home.", "At home I made {dish}.", "{adverb}, {event}.",
            "\"Thank you and goodbye!\" I said.", "I met my {family} there, and we talked for a while.", "Next time I will make a list."),
    ),
    "school": (
        ("Our first lesson on {day} is {subject}.", "I like {subject}, but I do not like {subject}.", "We had a test in {subject} today.",
            "The school begins at {early}.", "The new teacher teaches {subject} and {subject}.",
            "Today I was late for school, because {reason}."),
        ("The teacher asked a difficult question, and nobody knew the answer.", "My friend sits next to me and helps me.",
            "For homework we have to read ten pages.", "We wrote everything on the board.", "I learned a lot, although I was {mood}.",
            "In the break we played {sport}."),
        ("{adverb}, {event}.", "After school I {activity}.", "I got a good mark and was {glad}.", "Next week we will visit the {place}.",
            "Tomorrow we will talk about it again.", "The lesson was over too soon."),
    ),
    "plans": (
        ("Next {day} we want to {plan}.", "In {season} I would like to {plan}.", "What are you doing on {day}?",
            "Let us go to the {place} this {part}!", "Shall we meet at the {place} at {hour}?", "My {family} plans to {plan}."),
        ("If it is {weather}, we will go to the {place} instead.", "I will bring {goods} and {goods}.",
            "We have to leave at {hour}, or we will miss the train.", "Perhaps my {family} will come too.",
            "I cannot come earlier, because I have to {plan}.", "We will need {clothes}."),
        ("It will be fun.", "I am looking forward to it.", "Please tell me soon if you can come.", "See you then!",
            "Afterwards we can eat {dish}.", "I hope nothing goes wrong.", "Everybody is {mood} about it."),
    ),
    "letter": (
        ("Dear {name}, thank you for your letter.", "Dear {name}, how are you?", "Dear {family}, I am writing to you from the {place}.",
            "Hello {name}! I have not heard from you for a long time.", "Dear {name}, I have good news."),
        ("I am well, but yesterday {reason}.", "Last {day} I {activity}.", "The weather here is {weather}.",
            "We are having a wonderful {season} here.", "I miss you and our {animal}.", "Yesterday my {family} and I {activity}.",
            "I want to {plan} soon."),
        ("When will you visit us?", "Please write soon.", "Could you send me my {thing}?", "Give my love to your {family}.",
            "I hope to see you on {day}.", "{adverb}, {event}."),
        ("Yours, {name2}", "Best wishes, {name2}", "Love, {name2}", "Your friend {name2}", "See you soon, {name2}"),
    ),
    "sign": (
        ("Please do not feed the {animal}s.", "The {place} is closed on {day}.", "Keep the door closed!", "No smoking in the {place}.",
            "Please be quiet in the {place}.", "Lost: a black {thing}, near the {place}.", "Found: a {animal}, very friendly.",
            "For sale: an old bicycle, {price} euros.",
         "Attention! The floor is wet.", "Wanted: a room near the {place}."),
        ("Open from {early} in the morning.", "Please ask at the {shop}.", "Call us on {day}, please.", "Children pay only {price} euros.",
            "Thank you for your help.", "The entrance is on the left, behind the {place}.", "Please leave your {thing} at the door.",
            "We are sorry for the trouble."),
        ("", "Welcome!", "Have a nice day!", "Dogs must stay outside.", "We wish you a good {season}."),
    ),
    "recipe": (
        ("For {dish} you need {vegetable} and {goods}.", "How to make {dish}: take some {vegetable}.",
            "This is my {family}'s recipe for {dish}.", "It is easy to make {dish}.",
            "First wash the {vegetable} and cut them into small pieces."),
        ("Cut the {vegetable} and put them into a pot.", "Heat some oil and add the {vegetable}.", "Mix everything in a bowl.",
            "Add {extra}.", "Boil some water and wait."),
        ("Then add {extra} and stir well.", "Cook it for {minutes} minutes.", "After {minutes} minutes add {extra}.",
            "Let it stand for {minutes} minutes."),
        ("Serve it hot.", "Enjoy your {meal}!", "It tastes best with {goods}.", "It is enough for four people.",
            "Do not use too much salt.", "My {family} loves it."),
    ),
    "sports": (
        ("On {day} {team} played against {rival}.", "{Team} won the {sport} game {score}.", "It was an exciting {sport} game.",
            "{Team} lost to {rival} {score}.", "More than two thousand people watched the {sport} game."),
        ("At first {rival} were better, but then everything changed.", "After {minutes} minutes the first goal was scored.",
            "The weather was {weather}, and the players were soon tired.", "The goalkeeper was the best player.", "Nobody had expected it.",
            "The second half was much faster."),
        ("In the end the score was {score}.", "The fans sang and danced all night.", "The coach was {mood} after the game.",
            "{adverb}, nobody was hurt.", "The next game is on {day}.", "\"We never gave up,\" said the captain."),
    ),
    "travel": (
        ("The train to the {region} leaves at {hour}.", "Excuse me, where is the {place}?", "How do I get to the {place}?",
            "We arrived late, because {reason}.", "My {family} drove us to the {place}.", "The bus stops near the {place}."),
        ("Go straight on and then turn left at the {shop}.", "It takes {minutes} minutes on foot.", "The ticket costs {price} euros.",
            "You have to change at the {place}.", "On the way we saw a {animal} and many old houses.", "The room was small, but clean."),
        ("Have a good trip!", "{adverb}, {event}.", "Thank you, that is very kind.", "We stayed until {day}.", "It was worth it.",
            "We took pictures of everything.", "Next {season} we will come back."),
    ),
    "home": (
        ("Our {animal} sleeps on the sofa.", "My {family} lives in a house near the {place}.", "There is a noise in the kitchen.",
            "We have moved to a new flat.", "Every {part} my {family} reads the newspaper.", "The telephone rang at {hour}."),
        ("It was only the {animal}.", "The rooms are bright and warm.", "\"Who is there?\" my {family} asked.",
            "I was just making {meal}, so I did not answer.", "On {day} we clean everything together.",
            "In {season} we sit in the garden for hours."),
        ("{adverb}, {event}.", "Then I {activity}.", "We had to laugh.", "Nobody said a word.", "I have never been so {mood}.",
            "That is why I like it here.", "Afterwards we ate {dish} and went to bed."),
    ),
    "opinion": (
        ("I think that {subject} is more interesting than {subject2}.", "Some people like {season}, but I prefer {season}.",
            "In my opinion, {sport} is a wonderful sport.", "Nothing is better than {dish} after a long day.", "Do you like {goods}?",
            "I would rather {plan} than stay at home."),
        ("My {family} does not agree with me.", "That is because I grew up near the {place}.", "Of course, everybody is different.",
            "However, it depends on the weather.", "I used to think differently.", "Not everybody understands this."),
        ("What do you think?", "But perhaps I am wrong.", "We often talk about it at {meal}.", "Still, we are good friends.",
            "I will probably never change my mind.", "Maybe you are right."),
    ),
}  # fmt: skip


class Slots(dict[str, str]):
    """Slots for daily life: each use is a new draw, and no draw comes twice in one text."""

    def __init__(self, rng: Random, fixed: dict[str, str]) -> None:
        """Begins with the slots that stay the same throughout the text."""
        super().__init__(fixed)
        self.rng = rng
        self.used: list[str] = []

    def __missing__(self, key: str) -> str:
        """Draws a word that this text has not used yet."""
        kind = key.rstrip("2")
        word = self.rng.choice([word for word in SLOTS[kind] if word not in self.used] or SLOTS[kind])
        self.used.append(word)
        return word


def daily(world: World, rng: Random) -> str:
    """A few sentences of everyday life: a diary, a letter, a sign, a recipe, the weather, a game."""
    kind = rng.choice(tuple(TEXTS))
    writer, reader = world.pick(rng, "firstnames"), world.pick(rng, "firstnames")
    team, rival = rng.sample([team for team in SLOTS["team"] if team.startswith("the")], 2)
    fixed = {slot: rng.choice(SLOTS[slot]) for slot in ("vegetable", "dish")}
    slots = Slots(rng, fixed | {"name": reader["name"], "name2": writer["name"], "team": team, "Team": sentence(team), "rival": rival})
    lines = [sentence(rng.choice(step).format_map(slots)) for step in TEXTS[kind]]
    return ("\n" if kind in ("letter", "sign") and rng.random() < 0.5 else " ").join(line for line in lines if line)


INGREDIENTS: tuple[Ingredient, ...] = (agreement, determiners, relations, forms, people_bios, daily)
