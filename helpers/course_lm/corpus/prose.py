"""Everyday prose: number agreement, determiners, relations between words, people, daily life."""

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence, slip, table
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World

AGREEMENT = phrases("agreement")
WORDS = phrases("words")
PEOPLE = phrases("people")
DAILY = phrases("daily")

NEAR: list[str] = AGREEMENT["near"]
NOW: list[str] = AGREEMENT["now"]
THEN: list[str] = AGREEMENT["then"]
LIKINGS: list[str] = AGREEMENT["likings"]
PLURAL_LIKINGS: list[str] = AGREEMENT["plural_likings"]
COUNTS: list[str] = AGREEMENT["counts"]
HOBBIES: list[str] = PEOPLE["hobbies"]
# profession: (share of women, places of work, what one does there, what one needs)
PROFESSIONS: dict[str, tuple[float, list[str], list[str], list[str]]] = {
    name: tuple(about.values()) for name, about in PEOPLE["professions"].items()
}

DEGREES = table("degrees")
DEGREE_NAMES = ("weak", "plain", "strong", "extreme")

NUMBERS = ("singular", "plural")
OTHER = {"singular": "plural", "plural": "singular"}
PRESENT = {"singular": "is", "plural": "are"}
PAST = {"singular": "was", "plural": "were"}
CLOSE = {"singular": "this", "plural": "these"}
DISTANT = {"singular": "that", "plural": "those"}
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "his", "him")}


def is_being(noun: Row) -> bool:
    """Does the noun name a human being or an animal?"""
    return noun["category"] in ("person", "animal")


def countable(noun: Row) -> bool:
    """Can there be two of it, near something else? (Drinks, the sun and so on are left out.)"""
    fits = noun["category"] not in ("drink", "body") and noun["singular"] != noun["plural"]
    return fits and noun["singular"] not in AGREEMENT["not_countable"]


def small(noun: Row) -> bool:
    """Is it a thing that one can hold, lend and put on a table?"""
    fits = noun["category"] in AGREEMENT["small_categories"]
    fits |= noun["singular"] in AGREEMENT["small"]
    return fits and noun["singular"] not in AGREEMENT["not_small"]


def draw(world: World, rng: Random, fits: Callable[[Row], bool], *others: Row) -> Row:
    """Draws a noun that fits and is none of ``others``."""
    taken = {other["singular"] for other in others}
    while True:
        noun = world.pick(rng, "nouns")
        if fits(noun) and noun["singular"] not in taken:
            return noun


def hidden_pair(noun: Row, other: Row) -> bool:
    """Is this pair of nouns held out?"""
    return held_out("agreement", noun["singular"], other["singular"])


# --- Agreement: the verb follows its own subject, whatever stands in between ----------------------


def _subject_phrase(rng: Random, frame: str, head: str, attractor: Row, number: str) -> str:
    """The subject with its attractor: a place ("near") or a relative clause ("relative")."""
    inner = f"the {attractor[number]}"
    if frame == "near":
        return f"the {head} {rng.choice(NEAR)} {inner}"
    return f"the {head} that {inner} {rng.choice(LIKINGS if number == 'singular' else PLURAL_LIKINGS)}"


def _pair(world: World, rng: Random, frame: str) -> tuple[Row, Row]:
    """A subject and an attractor; in a relative clause, somebody who can like things."""
    noun = draw(world, rng, countable)
    fits = (lambda other: other["category"] == "person") if frame == "relative" else countable
    return noun, draw(world, rng, fits, noun)


def _said(rng: Random, number: str) -> str:
    """The number, or now and then by mistake the other one."""
    return OTHER[number] if slip(rng) else number


def _be_sentence(rng: Random, phrase: str, noun: Row, number: str) -> str:
    """A sentence whose verb is a form of "be", with the time at its beginning."""
    times, be = rng.choice(((NOW, PRESENT), (THEN, PAST)))
    states = AGREEMENT["feelings" if is_being(noun) else "states"]
    return f"{rng.choice(times)} {phrase} {be[_said(rng, number)]} {rng.choice(states)}."


def _verb_sentence(rng: Random, phrase: str, noun: Row, number: str) -> str:
    """A sentence with an ordinary verb in the present."""
    sight = noun["category"] in ("nature", "building", "place")
    kind = "beings" if is_being(noun) else "sights" if sight else "things"
    verb = rng.choice(AGREEMENT["verbs"][kind])[NUMBERS.index(_said(rng, number))]
    return sentence(f"{rng.choice(AGREEMENT['verb_openers'])} {phrase} {verb}.".lstrip())


def _agreeing(world: World, rng: Random) -> str | None:
    """One sentence with an attractor between subject and verb; None if the pair is held out."""
    frame = rng.choice(("near", "near", "relative"))
    noun, attractor = _pair(world, rng, frame)
    if hidden_pair(noun, attractor):
        return None
    number = rng.choice(NUMBERS)
    phrase = _subject_phrase(rng, frame, noun[number], attractor, rng.choice(NUMBERS))
    write = _be_sentence if rng.random() < 0.7 else _verb_sentence
    return write(rng, phrase, noun, number)


def _simple(world: World, rng: Random) -> str:
    """One sentence without an attractor, sometimes with an adjective."""
    noun = draw(world, rng, countable)
    number = rng.choice(NUMBERS)
    age = rng.choice(["", "", "", *AGREEMENT["ages"]["beings" if is_being(noun) else "things"]])
    phrase = f"the {age} {noun[number]}" if age else f"the {noun[number]}"
    write = _be_sentence if rng.random() < 0.5 else _verb_sentence
    return write(rng, phrase, noun, number)


def _place_of(world: World, rng: Random) -> str | None:
    """Where something is: "The keys to the cabinet are on the table." and its relatives."""
    noun = draw(world, rng, small)
    place = draw(world, rng, countable)
    if hidden_pair(noun, place):
        return None
    number = rng.choice(NUMBERS)
    whose = rng.choice(AGREEMENT["owners"])
    be = rng.choice((PRESENT, PAST))[_said(rng, number)]
    return f"The {noun[number]} {whose} {be} {rng.choice(NEAR[:4])} the {place['singular']}."


def agreement(world: World, rng: Random) -> str | None:
    """Two or three sentences whose verb agrees with a subject that is not always the next noun."""
    makers = rng.choices((_agreeing, _simple, _place_of), (6, 2, 1), k=rng.choice((2, 2, 3)))
    lines = [line for make in makers if (line := make(world, rng))]
    return " ".join(lines) if len(lines) > 1 else None


def agreement_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Held-out pairs of opposite number, up to the verb: is/are after now, was/were after then."""
    tenses = {"present": (PRESENT, NOW), "past": (PAST, THEN)}
    kinds = [(tense, frame, number) for tense in tenses for frame in ("near", "relative") for number in NUMBERS]
    probes: list[Probe] = []
    while len(probes) < n:
        tense, frame, number = kinds[len(probes) % len(kinds)]
        noun, attractor = _pair(world, rng, frame)
        if not hidden_pair(noun, attractor):
            continue
        other = OTHER[number]
        be, times = tenses[tense]
        prompt = f"{rng.choice(times)} {_subject_phrase(rng, frame, noun[number], attractor, other)}"
        probes.append(Probe(prompt, be[number], be[other], group=f"{tense} {frame}"))
    return probes


# --- Determiners: this, that, these, those --------------------------------------------------------


def _amount(rng: Random, noun: Row, number: str) -> str:
    """The thing in its number: "a book" or "three books"."""
    if number == "singular":
        return an(noun["singular"])
    return f"{rng.choice(COUNTS)} {noun['plural']}"


def _scene(rng: Random, scenes: str, noun: Row, number: str, distractor: Row) -> str:
    """A scene with the thing in its number and a distractor in the other one."""
    scene = rng.choice(AGREEMENT[scenes])
    return scene.format(be=PRESENT[number], some=_amount(rng, noun, number), other=_amount(rng, distractor, OTHER[number]))


def _two_things(world: World, rng: Random) -> tuple[Row, Row]:
    """A small thing and another one."""
    noun = draw(world, rng, small)
    return noun, draw(world, rng, small, noun)


def _remark(rng: Random, noun: Row, number: str) -> str:
    """A last sentence about the thing, with the right pronoun."""
    it = "It" if number == "singular" else "They"
    named = f"{sentence(CLOSE[number])} {noun[number]}"
    remarks = [f"{subject} {PRESENT[number]} {rng.choice(AGREEMENT['qualities'])}." for subject in (it, it, named)]
    return rng.choice(remarks)


def determiners(world: World, rng: Random) -> str | None:
    """A scene decides the number, and the determiner that follows agrees with it."""
    noun, distractor = _two_things(world, rng)
    if hidden_pair(noun, distractor):
        return None
    number = rng.choice(NUMBERS)
    style = rng.random()
    words = {"noun": noun[number], "be": PRESENT[number], "single": noun["singular"]}
    here = CLOSE[_said(rng, number)]
    there = DISTANT[_said(rng, number)]
    if style < 0.55:
        use = rng.choice(AGREEMENT["near_uses"]).format(det=here, **words)
        return f"{_scene(rng, 'scenes', noun, number, distractor)} {use} {_remark(rng, noun, number)}"
    if style < 0.75:
        use = rng.choice(AGREEMENT["near_uses"]).format(det=there, **words)
        remark = f"{sentence(there)} {noun[number]} {PRESENT[number]} {rng.choice(AGREEMENT['qualities'])}."
        return f"{_scene(rng, 'far_scenes', noun, number, distractor)} {use} {remark}"
    shapes = [text for text in AGREEMENT["both"] if number == "singular" or "{single}" not in text]
    both = rng.choice(shapes).format(here=here, there=there, Here=sentence(here), **words)
    remark = _remark(rng, noun, number)
    return f"{both} {remark} {_scene(rng, 'scenes', noun, number, distractor)}"


def determiner_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Held-out pairs of thing and distractor, up to "these" or "this": which one follows?"""
    uses = [text.partition(" {det}")[0] for text in AGREEMENT["near_uses"] if "{be}" not in text]
    probes: list[Probe] = []
    while len(probes) < n:
        noun, distractor = _two_things(world, rng)
        if hidden_pair(noun, distractor):
            number = NUMBERS[len(probes) % 2]
            prompt = f"{_scene(rng, 'scenes', noun, number, distractor)} {rng.choice(uses)}"
            probes.append(Probe(prompt, CLOSE[number], CLOSE[OTHER[number]], group=number))
    return probes


# --- Relations between words, told in prose -------------------------------------------------------

Maker = Callable[[World, Random], str]


def _say(rng: Random, templates: Sequence[str], **words: str) -> str:
    """Fills one template; every word can also be had with a capital letter."""
    capitals = {sentence(key): sentence(value) for key, value in words.items()}
    return sentence(rng.choice(templates).format_map(words | capitals))


def _telling(kind: str, table: str, **columns: str) -> Maker:
    """Tells of a row of a table in one of the ``kind`` of sentences; ``columns`` name its slots."""

    def tell(world: World, rng: Random) -> str:
        row = world.pick_common(rng, table)
        return _say(rng, WORDS[kind], **{slot: row[column] for slot, column in columns.items()})

    return tell


def _synonym(world: World, rng: Random) -> str:
    row = world.pick_common(rng, rng.choice(("synonyms", "adjectives")))
    return _say(rng, WORDS["synonyms"], a=row["word"], b=row["synonym"])


def _graded(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "adjectives")
    templates = WORDS["words_only" if row["word"] in WORDS["absolute"] else "grades"]
    return _say(rng, templates, a=row["word"], er=row["comparative"], est=row["superlative"])


def _capital(world: World, rng: Random) -> str:
    table, column = rng.choice((("nouns", "singular"), ("nouns", "plural"), ("adjectives", "word"), ("verbs", "base")))
    word = world.pick_common(rng, table)[column]
    return _say(rng, WORDS["capitals"], a=word, b=sentence(word))


def _noun(row: Row) -> dict[str, str]:
    return {"a": row["singular"], "an": an(row["singular"]), "b": row["plural"]}


def _category(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "nouns")
    category = row["category"]
    if category in WORDS["category_names"]:
        cat, cats = WORDS["category_names"][category]
        return _say(rng, WORDS["categories"], **_noun(row), cat=cat, cats=cats, bare=category)
    members = WORDS["members"].get(category, WORDS["members"]["other"])
    return _say(rng, members, **_noun(row))


def _colour(world: World, rng: Random) -> str:
    row = rng.choice([row for row in world.common("nouns") if row["colour"]])
    return _say(rng, WORDS["colours"], **_noun(row), c=row["colour"])


VERB = {"base": "base", "third": "third", "past": "past", "ger": "gerund"}


def _tense(world: World, rng: Random) -> str:
    row = world.pick_common(rng, "verbs")
    words = {slot: row[column] for slot, column in VERB.items()} | {"part": row["participle"]}
    templates = WORDS["forms" if row["base"] in WORDS["impersonal"] else "tenses"]
    if row["base"] in WORDS["stative"]:
        templates = [text for text in templates if "{ger}" not in text]
    return _say(rng, templates, **words, o=f" {row['object']}" if row["object"] else "")


def _animal(world: World, rng: Random) -> str:
    """The young, the sound, the home, the food or the kind of an animal."""
    row = world.pick(rng, "animals")
    kind = row["kind"]
    young = row["young"]
    column = rng.choice([column for column in WORDS["animals"] if row[column]])
    words = {"a": row["name"], "an": an(row["name"]), "b": row["plural"], "s": row["sound"]}
    words |= {"h": row["home"], "in": "on" if row["home"] in WORDS["on"] else "in"}
    words |= {"f": row["food"], "young": young, "y": an(young or "child")}
    words |= {"k": an(kind), "ks": "fish" if kind == "fish" else kind + "s"}
    return _say(rng, WORDS["animals"][column], **words)


def _next(world: World, rng: Random) -> str:
    row = world.pick(rng, "sequences")
    lasting = row["kind"] in ("day", "month", "season")
    templates = WORDS["nexts"] + WORDS["passing"] if lasting else WORDS["nexts"]
    return _say(rng, templates, a=row["item"], b=row["next"])


FORMS: tuple[tuple[Maker, float], ...] = (
    (_telling("verb_forms", "verbs", **VERB), 5),
    (_telling("many_capitals", "nouns", a="singular", b="plural"), 3),
    (_telling("superlatives", "adjectives", a="word", er="comparative", est="superlative"), 2),
)
RELATIONS: tuple[tuple[Maker, float], ...] = (
    (_telling("opposites", "adjectives", a="word", b="opposite"), 2),
    (_synonym, 1.5),
    (_graded, 2),
    (_telling("plurals", "nouns", a="singular", b="plural"), 2.5),
    (_category, 2),
    (_colour, 0.7),
    (_tense, 3),
    (_animal, 2),
    (_next, 1.5),
    (_capital, 4),
)


def forms(world: World, rng: Random) -> str:
    """Two to four sentences about the forms of words."""
    makers, weights = zip(*FORMS, strict=True)
    return " ".join(dict.fromkeys(rng.choices(makers, weights)[0](world, rng) for _ in range(rng.choice((2, 3, 3, 4)))))


def relations(world: World, rng: Random) -> str | None:
    """Two to four sentences about words, often of the same kind. None if they are too short."""
    makers, weights = zip(*RELATIONS, strict=True)
    size = rng.choice((2, 3, 3, 4))
    mixed = rng.random() < 0.5
    chosen = rng.choices(makers, weights, k=size) if mixed else rng.choices(makers, weights) * size
    text = " ".join(dict.fromkeys(maker(world, rng) for maker in chosen))
    return text if len(text.split()) >= 8 else None


# --- Degrees: cool, cold, icy, freezing -----------------------------------------------------------


def _contrast(row: Row, x: str, y: str, template: str) -> str:
    """A sentence in which the weaker word ``x`` is outdone by ``y``."""
    return template.format(x=x, y=y, X=sentence(x), Y=sentence(y), s=row["subject"], S=sentence(row["subject"]))


def degrees(world: World, rng: Random) -> str | None:
    """Two or three sentences about adjectives of growing strength. None if they contrast a pair that is held out."""
    lines: list[str] = []
    for row in rng.sample(DEGREES, rng.choice((1, 1, 2))):
        kind = rng.choices(("contrasts", "scales", "causes"), weights=(5, 3, 2))[0]
        if kind == "contrasts":
            x, y = (row[name] for name in sorted(rng.sample(DEGREE_NAMES, 2), key=DEGREE_NAMES.index))
            if held_out("degree", x, y):
                return None
            lines.append(_contrast(row, x, y, rng.choice(WORDS["degree_contrasts"])))
        else:
            words = {short: row[name] for short, name in zip("abcd", DEGREE_NAMES, strict=True)}
            words |= {"s": row["subject"], "k": row["clause"]}
            lines.append(_say(rng, WORDS[f"degree_{kind}"], **words))
    return " ".join(lines)


def degree_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Pairs of adjectives that are never contrasted: "not just cold but" asks for the stronger one; the wrong answer is a weaker one."""
    probes = []
    for row in DEGREES:
        for low, high in combinations(range(1, 4), 2):
            x, y = row[DEGREE_NAMES[low]], row[DEGREE_NAMES[high]]
            if held_out("degree", x, y):
                weaker = row[DEGREE_NAMES[rng.randrange(low)]]
                asked = [_contrast(row, x, "", t.removesuffix(" {y}.")) for t in WORDS["degree_contrasts"][:3]]
                probes += [Probe(text, y, weaker, group=f"{DEGREE_NAMES[low]} to {DEGREE_NAMES[high]}") for text in asked]
    return rng.sample(probes, min(n, len(probes)))


# --- People: a name, a pronoun, a profession ------------------------------------------------------


def person(world: World, rng: Random, share: float) -> Row:
    """A first name whose pronoun is "she" with probability ``share``."""
    pronoun = "she" if rng.random() < share else "he"
    while True:
        row = world.pick(rng, "firstnames")
        if row["pronoun"] == pronoun:
            return row


def people_bios(world: World, rng: Random) -> str:
    """Three sentences about an invented person; some professions prefer one pronoun."""
    profession = rng.choice(tuple(PROFESSIONS))
    share, places, tasks, needs = PROFESSIONS[profession]
    somebody = person(world, rng, share)
    task, task2 = rng.sample(tasks, 2)
    he, his, him = PRONOUNS[somebody["pronoun"]]
    words = {"he": he, "his": his, "him": him, "He": sentence(he), "His": sentence(his)}
    words |= {"name": somebody["name"], "prof": an(profession), "bare": profession}
    words |= {"place": rng.choice(places), "task": task, "task2": task2}
    words |= {"hobby": rng.choice(HOBBIES), "need": rng.choice(needs)}
    words["years"] = rng.choice(PEOPLE["years"])
    return " ".join(rng.choice(PEOPLE[part]).format_map(words) for part in ("starts", "work", "ends"))


# --- Daily life -----------------------------------------------------------------------------------


class Slots(dict[str, str]):
    """Slots for daily life, beside the ``fixed`` ones: each use is a new draw, and no draw comes twice in one text."""

    def __init__(self, rng: Random, fixed: dict[str, str]) -> None:
        super().__init__(fixed)
        self.rng = rng
        self.used: list[str] = []

    def __missing__(self, key: str) -> str:
        words = DAILY["slots"][key.rstrip("2")]
        word = self.rng.choice([word for word in words if word not in self.used] or words)
        self.used.append(word)
        return word


def daily(world: World, rng: Random) -> str:
    """A few sentences of everyday life: a diary, a letter, a sign, a recipe, a game."""
    kind = rng.choice(tuple(DAILY["texts"]))
    names = [world.pick(rng, "firstnames")["name"] for _ in range(2)]
    teams = [team for team in DAILY["slots"]["team"] if team.startswith("the")]
    team, rival = rng.sample(teams, 2)
    fixed = {slot: rng.choice(DAILY["slots"][slot]) for slot in ("vegetable", "dish")}
    fixed |= {"name": names[1], "name2": names[0], "team": team, "Team": sentence(team), "rival": rival}
    slots = Slots(rng, fixed)
    lines = [sentence(rng.choice(step).format_map(slots)) for step in DAILY["texts"][kind]]
    separator = "\n" if kind in ("letter", "sign") and rng.random() < 0.5 else " "
    return separator.join(line for line in lines if line)


INGREDIENTS = (agreement, determiners, relations, forms, degrees, people_bios, daily)
