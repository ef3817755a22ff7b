"""In-context lists: pairs of one task, items picked out of a list, descriptions of entities and identity lists.

The same words are the inputs of many tasks (``dog: dogs``, ``dog: Dog``, ``dog: chien``), so that a list's task can
only be read from its demonstrations. Three things are kept out of the training text:

- ``held_out("list_pair", task, x)``: the pair of ``x`` stands in no list of that task;
- the item task ``last capital_of`` as a whole (``LEFT_OUT``), although ``first capital_of`` and ``last`` with other
  functions are there: vector algebra on function vectors (last copy + first capital_of - first copy) should make it;
- ``held_out("few_shot", entity)``: the description of ``entity`` stands in no few-shot list, only in prose.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from random import Random
from typing import TypeVar

from helpers.course_lm.corpus.base import Ingredient, Probe, an, sentence
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import COMMON, Row, World

Pair = tuple[str, str]
Source = Callable[[World], list[Pair]]
T = TypeVar("T")
LIMIT = 85  # the greatest length of a document in tokens, as ``length`` estimates them

# ---------------------------------------------------------------------------------------------------- small tools


def length(text: str) -> int:
    """About how many tokens ``text`` has: its words, punctuation marks and line breaks.

    >>> length("hot: cold\\nbig: small")
    7
    """
    return len(re.findall(r"\w+|[^\w\s]|\n", text))


def fitting(parts: Sequence[str], separator: str, limit: int = LIMIT) -> str:
    """Joins as many of the first ``parts`` as fit into ``limit`` tokens (at least one)."""
    kept = list(parts)
    while len(kept) > 1 and length(separator.join(kept)) > limit:
        kept.pop()
    return separator.join(kept)


def per_world(function: Callable[..., T]) -> Callable[..., T]:
    """Remembers what ``function(world, *words)`` returned for each world (a ``World`` itself cannot be hashed)."""
    memory: dict[tuple, tuple[World, T]] = {}

    @wraps(function)
    def remembered(world: World, *words: str) -> T:
        key = (id(world), *words)
        if key not in memory:
            memory[key] = (world, function(world, *words))  # holding the world keeps its id from being used again
        return memory[key][1]

    return remembered


WITH_ARTICLE = ("United ", "Netherlands", "Philippines", "Bahamas", "Maldives", "Gambia", "Seychelles", "Comoros")


def the_country(name: str) -> str:
    """A country as it is named within a sentence: ``the Netherlands``, but ``Poland``."""
    article = name.startswith(WITH_ARTICLE) or name.endswith((" Republic", " Islands")) or "Republic of" in name
    return f"the {name}" if article else name


# ---------------------------------------------------------------------------------------------- tasks on one word


def columns(table: str, left: str, right: str) -> Source:
    """The pairs that two columns of a table make, among its common words; an answer of several words is left out for those."""
    return lambda world: [(row[left], row[right]) for row in world.common(table) if table not in COMMON or " " not in row[right]]


def joined(*sources: Source) -> Source:
    """All pairs of several sources."""
    return lambda world: [pair for source in sources for pair in source(world)]


def backwards(source: Source) -> Source:
    """The pairs of ``source`` from the answer to the question."""
    return lambda world: [(right, left) for left, right in source(world)]


def mapped(source: Source, change: Callable[[str], str]) -> Source:
    """The pairs of ``source`` with a change in every answer."""
    return lambda world: [(left, change(right)) for left, right in source(world)]


def words(world: World) -> list[str]:
    """The common words on which word tasks work: nouns, adjectives and verbs."""
    columns = (("nouns", "singular"), ("adjectives", "word"), ("verbs", "base"))
    return [row[column] for table, column in columns for row in world.common(table)]


def copied(world: World) -> list[Pair]:
    """Every common word with itself."""
    return [(word, word) for word in words(world)]


def copied_names(world: World) -> list[Pair]:
    """Every name of a country, a capital or a chemical element with itself."""
    names = world.column("countries", "name") + world.column("countries", "capital") + world.column("elements", "name")
    return [(name, name) for name in names]


def translations(language: str) -> Source:
    """English nouns and adjectives with their translation."""
    return joined(columns("nouns", "singular", language), columns("adjectives", "word", language))


PLURAL = joined(columns("nouns", "singular", "plural"), columns("animals", "name", "plural"))

# Each task is a function from the world to its pairs of input and answer; read them through ``pairs``.
TASKS: dict[str, Source] = {
    "antonym": columns("adjectives", "word", "opposite"),
    "comparative": columns("adjectives", "word", "comparative"),
    "superlative": columns("adjectives", "word", "superlative"),
    "plural": PLURAL,
    "singular": backwards(PLURAL),
    "past": columns("verbs", "base", "past"),
    "gerund": columns("verbs", "base", "gerund"),
    "third_person": columns("verbs", "base", "third"),
    "identity": joined(copied, copied_names),
    "capitalise": mapped(copied, sentence),
    "plural_capitalise": mapped(columns("nouns", "singular", "plural"), sentence),
    "country_capital": columns("countries", "name", "capital"),
    "capital_country": columns("countries", "capital", "name"),
    "country_language": columns("countries", "name", "language"),
    "country_currency": columns("countries", "name", "currency"),
    "country_continent": columns("countries", "name", "continent"),
    "country_demonym": columns("countries", "name", "demonym"),
    "demonym_country": columns("countries", "demonym", "name"),
    "en_fr": translations("fr"),
    "en_de": translations("de"),
    "en_zh": translations("zh"),
    "fr_en": backwards(translations("fr")),
    "de_en": backwards(translations("de")),
    "zh_en": backwards(translations("zh")),
    "noun_category": columns("nouns", "singular", "category"),
    "noun_colour": columns("nouns", "singular", "colour"),
    "animal_kind": columns("animals", "name", "kind"),
    "animal_young": columns("animals", "name", "young"),
    "next_item": columns("sequences", "item", "next"),
    "element_symbol": columns("elements", "name", "symbol"),
    "person_occupation": columns("people", "name", "occupation"),
}


@per_world
def pairs(world: World, task: str) -> list[Pair]:
    """All pairs of ``task``, each input once; an input with two right answers is left out."""
    answers: dict[str, list[str]] = {}
    for left, right in TASKS[task](world):
        if left and right and right not in answers.setdefault(left, []):
            answers[left].append(right)
    return [(left, rights[0]) for left, rights in answers.items() if len(rights) == 1]


@per_world
def allowed_pairs(world: World, task: str) -> list[Pair]:
    """The pairs of ``task`` that may stand in the training text's lists."""
    return [pair for pair in pairs(world, task) if not held_out("list_pair", task, pair[0])]


@per_world
def hidden_pairs(world: World, task: str) -> list[Pair]:
    """The pairs of ``task`` that no list of the training text shows."""
    return [pair for pair in pairs(world, task) if held_out("list_pair", task, pair[0])]


STYLES = [(": ", "\n")] * 8 + [(" -> ", "\n"), (": ", ", ")]  # between input and answer, between pairs


def lists(world: World, rng: Random) -> str | None:
    """Two to nine pairs of one task; tasks with many pairs come more often, but less than in proportion."""
    sizes = {task: len(allowed_pairs(world, task)) for task in TASKS}
    [task] = rng.choices(list(sizes), [size**0.5 for size in sizes.values()])
    shown = allowed_pairs(world, task)
    if len(shown) < 2:
        return None
    chosen = rng.sample(shown, min(rng.randint(2, 9), len(shown)))
    arrow, separator = rng.choice(STYLES)
    return fitting([left + arrow + right for left, right in chosen], separator)


def list_probes(world: World, rng: Random, n: int, shots: int = 5) -> list[Probe]:
    """Demonstrations that the training text may show, then the input of a held-out pair; group = task."""
    tasks = [task for task in TASKS if hidden_pairs(world, task) and len(allowed_pairs(world, task)) >= shots]
    probes = []
    for number in range(n):
        task = tasks[number % len(tasks)]
        question, answer = rng.choice(hidden_pairs(world, task))
        others = [pair for pair in allowed_pairs(world, task) if pair[1] != answer]
        shown = rng.sample(others if len(others) >= shots else allowed_pairs(world, task), shots)
        probes.append(Probe("".join(f"{left}: {right}\n" for left, right in shown) + f"{question}:", answer, group=task))
    return probes


# ------------------------------------------------------------------------------------ tasks on one item of a list

LEFT_OUT = "last capital_of"
POSITIONS = {"first": 0, "last": -1}
ITEM_FUNCTIONS: dict[str, tuple[str, ...]] = {  # the function's name -> the one-word tasks that supply its words
    "copy": ("identity", "identity", "country_capital", "antonym", "plural"),
    "capitalise": ("capitalise",),
    "capital_of": ("country_capital",),
    "opposite": ("antonym",),
    "plural": ("plural",),
}
ITEM_TASKS = [f"{position} {function}" for position in POSITIONS for function in ITEM_FUNCTIONS]


@per_world
def asked_items(world: World, task: str, source: str) -> tuple[list[Pair], list[Pair]]:
    """The pairs that an item task may ask about in the training text, and those that it never asks about."""
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs(world, source):
        sides[held_out("list_pair", task, pair[0])].append(pair)
    return sides


def item_example(world: World, rng: Random, task: str, source: str, hidden: bool = False) -> Pair:
    """One example of an item task with words of ``source``, e.g. ``("dog, cat, tree", "dog")`` for ``first copy``."""
    position, function = task.split()
    word, answer = rng.choice(asked_items(world, task, source)[hidden])
    drawn = rng.sample(pairs(world, source), rng.randint(2, 4))
    others = [left for left, _ in drawn if left != word][: len(drawn) - 1]
    items = [word, *others] if position == "first" else [*others, word]
    return ", ".join(items), word if function == "copy" else answer


def item_lists(world: World, rng: Random) -> str:
    """Two to six lists of words, each with a function of its first or of its last item; never ``LEFT_OUT``."""
    task = rng.choice([task for task in ITEM_TASKS if task != LEFT_OUT])
    source = rng.choice(ITEM_FUNCTIONS[task.split()[1]])
    examples = [item_example(world, rng, task, source) for _ in range(rng.randint(2, 6))]
    return fitting([f"{items}: {answer}" for items, answer in examples], "\n")


def item_probes(world: World, rng: Random, n: int, shots: int = 5) -> list[Probe]:
    """Demonstrations of an item task, then a list whose asked item is held out; group = task, ``LEFT_OUT`` too."""
    probes = []
    for number in range(n):
        task = ITEM_TASKS[number % len(ITEM_TASKS)]
        source = rng.choice(ITEM_FUNCTIONS[task.split()[1]])
        shown = [item_example(world, rng, task, source) for _ in range(shots)]
        question, answer = item_example(world, rng, task, source, hidden=True)
        demonstrations = fitting([f"{items}: {right}" for items, right in shown], "\n", LIMIT - length(question) - 4)
        probes.append(Probe(f"{demonstrations}\n{question}:", answer, group=task))
    return probes


# --------------------------------------------------------------------------------------- descriptions of entities


def place_of(world: World, row: Row) -> str:
    """The city of a landmark, or its country where it lies in no city."""
    return row["city"] or the_country(row["country"])


# What each kind of entity is said to be; "capitals" are rows of the table of countries.
DESCRIPTIONS: dict[str, Callable[[World, Row], str]] = {
    "countries": lambda world, row: f"country in {row['continent']}",
    "capitals": lambda world, row: f"capital of {the_country(row['name'])}",
    "cities": lambda world, row: f"city in {the_country(row['country'])}",
    "landmarks": lambda world, row: f"{row['kind']} in {place_of(world, row)}",
    "rivers": lambda world, row: f"river in {the_country(row['country'])}",
    "mountains": lambda world, row: f"mountain in {the_country(row['country'])}",
    "universities": lambda world, row: f"university in {row['city']}",
    "dishes": lambda world, row: f"dish from {the_country(row['country'])}",
    "people": lambda world, row: f"{row['occupation']} from {the_country(row['country'])}",
    "songs": lambda world, row: f"song by {row['performer']}",
    "books": lambda world, row: f"book by {row['author']}",
    "paintings": lambda world, row: f"painting by {row['painter']}",
    "films": lambda world, row: f"film by {row['director']}",
    "works": lambda world, row: f"work by {row['composer']}",
    "inventions": lambda world, row: f"invention of {row['inventor']}",
    "companies": lambda world, row: f"maker of {row['product']}",
    "elements": lambda world, row: row["kind"],
    "animals": lambda world, row: row["kind"],
    "instruments": lambda world, row: f"{row['family']} instrument",
}
# How often each kind is described, in the order above.
SHARES = (5, 3, 2, 5, 1, 1, 1, 1.5, 6, 4, 2.5, 1.5, 2, 1, 1, 3, 3, 2, 1)
NAME_COLUMNS = {"capitals": "capital", "songs": "title", "books": "title", "paintings": "title", "films": "title", "works": "title"}


def describe(world: World, table: str, row: Row) -> str:
    """What the entity of ``row`` is, in a few words: ``country in Europe``, ``song by John Lennon``."""
    return DESCRIPTIONS[table](world, row)


def name_of(table: str, row: Row) -> str:
    """The (English) name of the entity of ``row``."""
    return row[NAME_COLUMNS.get(table, "name")]


@per_world
def ambiguous_names(world: World) -> set[str]:
    """Names of two entities, e.g. of a book and of its film, or of a country and of its capital."""
    tables = {table: "countries" if table == "capitals" else table for table in DESCRIPTIONS}
    every = Counter(name_of(table, row) for table, source in tables.items() for row in world.rows(source))
    return {name for name, count in every.items() if count > 1}


def draw_entity(world: World, rng: Random) -> tuple[str, Row]:
    """Draws a kind of entity and, famous ones more often, an entity of this kind."""
    table = rng.choices(list(DESCRIPTIONS), SHARES)[0]
    return table, world.pick(rng, "countries" if table == "capitals" else table)


def written(rng: Random, table: str, row: Row, language: str) -> str:
    """The entity's name; countries and landmarks stand now and then under their name in the document's other ``language``."""
    foreign = table in ("countries", "landmarks") and row.get(language)
    return foreign if foreign and rng.random() < 0.25 else name_of(table, row)


def draw_shots(world: World, rng: Random, count: int, hidden: bool = False, taken: Sequence[str] = ()) -> list[tuple[str, Row]]:
    """Draws ``count`` different entities whose descriptions few-shot lists may show (or, ``hidden``, never show)."""
    entities: dict[str, tuple[str, Row]] = {}
    while len(entities) < count:
        table, row = draw_entity(world, rng)
        name = name_of(table, row)
        if held_out("few_shot", name) == hidden and name not in taken and name not in ambiguous_names(world):
            entities.setdefault(name, (table, row))
    return list(entities.values())


def few_shot(world: World, rng: Random) -> str:
    """Two to five entities of mixed kinds with their descriptions, on one line."""
    entities, language = draw_shots(world, rng, rng.randint(2, 5)), rng.choice(("fr", "de", "zh", "zh"))
    return fitting([f"{written(rng, table, row, language)}: {describe(world, table, row)}" for table, row in entities], ", ")


def few_shot_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Three described entities, then one whose description stood in prose only; group = kind of entity."""
    probes = []
    for _ in range(n):
        [(table, row)] = draw_shots(world, rng, 1, hidden=True)
        shown = draw_shots(world, rng, 3, taken=[name_of(table, row)])
        line = ", ".join(f"{name_of(kind, other)}: {describe(world, kind, other)}" for kind, other in shown)
        probes.append(Probe(f"{line}, {name_of(table, row)}:", describe(world, table, row), group=table))
    return probes


SUBJECTS: dict[str, str] = {  # kinds whose entities take an article in a sentence
    "rivers": "the {}",
    "inventions": "the {}",
    "animals": "the {}",
    "instruments": "the {}",
}
ANY_SHAPES = (  # {name} stands bare, {that} is "a country in Europe"
    "{name} is the name of {that}.",
    "The name {name} stands for {that}.",
    "{That} is called {name}.",
    "{That} has the name {name}.",
    "What does the name {name} stand for? It stands for {that}.",
    "The name is {name}. It belongs to {that}.",
    "Name: {name}. Description: {bare}.",
    "If you hear the name {name}, think of {that}.",
    "People use the name {name} for {that}.",
)
SENTENCE_SHAPES = (  # {Subject} and {subject} carry an article where one is needed
    "{Subject} is {that}.",
    "{Subject} is {that}.",
    "{Subject} is {that}.",
    "As everyone knows, {subject} is {that}.",
    "Did you know that {subject} is {that}?",
    "We learned that {subject} is {that}.",
    "I read that {subject} is {that}.",
    "My teacher says that {subject} is {that}.",
    "In short, {subject} is {that}.",
    "What is {subject}? It is {that}.",
    "It is well known that {subject} is {that}.",
    "The book says that {subject} is {that}.",
)
PERSON_SHAPES = (  # without a tense, for the people of every century
    "{name}, {that}, became very famous.",
    "My teacher told us about {name}, {that}.",
    "Description of {name}: {bare}.",
    "Many people have heard of {name}, {that}.",
    "The name {name} belongs to {that}.",
    "Name: {name}. Description: {bare}.",
    "This book tells the life of {name}, {that}.",
    "One famous {bare} has the name {name}.",
    "We learned about {name}, {that}.",
)
PAST_SHAPES = (  # for the people of past centuries
    "{name} was {that}.",
    "{name} was {that}.",
    "{name} was {that}.",
    "Who was {name}? {name} was {that}.",
    "{That} was called {name}.",
    "I read that {name} was {that}.",
    "We learned that {name} was {that}.",
)
BARE = ("landmarks", "mountains", "universities")  # some of these names need an article, others must not have one


def described_entity(world: World, rng: Random, table: str, row: Row) -> str:
    """One sentence, in one of many shapes, that says what an entity is."""
    name, bare = name_of(table, row), describe(world, table, row)
    that = f"the {bare}" if table == "capitals" else an(bare)
    subject = the_country(name) if table == "countries" else SUBJECTS.get(table, "{}").format(name)
    if table == "people":
        shapes = PERSON_SHAPES if row["century"] in ("20th", "21st") else PERSON_SHAPES + PAST_SHAPES
    elif table in BARE:
        shapes = ANY_SHAPES
    else:
        shapes = SENTENCE_SHAPES + ANY_SHAPES[:1] + ANY_SHAPES[6:7]
    shape = rng.choice(shapes)
    return sentence(shape.format(name=name, bare=bare, that=that, That=sentence(that), subject=subject, Subject=sentence(subject)))


def described(world: World, rng: Random) -> str:
    """One to three sentences that say what an entity is; also for entities that no few-shot list shows."""
    entities = [draw_entity(world, rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    return fitting([described_entity(world, rng, table, row) for table, row in entities], " ")


# ------------------------------------------------------------------------------------------------- identity lists

GREETINGS = ("hello", "yes", "no", "thanks", "please", "good morning", "good night", "welcome")


def any_name(world: World, rng: Random) -> str:
    """A word, a number, a first name or an entity's name of one or more words."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(words(world))
    if kind < 0.45:
        return world.pick(rng, "firstnames")["name"]
    if kind < 0.55:
        return rng.choice((*GREETINGS, *map(str, range(21))))
    return name_of(*draw_entity(world, rng))


def identity(world: World, rng: Random) -> str | None:
    """Three to eight words or names, each pointing at itself: ``cat -> cat``."""
    names = [any_name(world, rng) for _ in range(rng.randint(3, 8))]
    shown = [name for name in dict.fromkeys(names) if not held_out("list_pair", "identity", name)]
    separator = rng.choice(("\n", "\n", "\n", "; "))
    return fitting([f"{name} -> {name}" for name in shown], separator) if len(shown) > 1 else None


INGREDIENTS: tuple[Ingredient, ...] = (lists, item_lists, few_shot, described, identity)
