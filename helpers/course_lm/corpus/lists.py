"""In-context lists: pairs of one task, items picked out of a list, descriptions, identity lists.

The same words are the inputs of many tasks (``dog: dogs``, ``dog: Dog``, ``dog: chien``), so that a
list's task can only be read from its demonstrations. Kept out of the training text are:

- ``held_out("list_pair", task, x)``: the pair of ``x`` stands in no list of that task;
- ``held_out("list_pair", "label", x)``: ``x`` gets no label in a list of labels that mean nothing;
- the item task ``last capital_of`` as a whole (``LEFT_OUT``), although ``first capital_of`` and
  ``last`` with other functions are there: vector algebra on function vectors (last copy +
  first capital_of - first copy) should make it;
- ``held_out("few_shot", entity)``: its description stands in no few-shot list, only in prose.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence, table
from helpers.course_lm.facts import country_with_the
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import COMMON, Row, World

SHAPES = phrases("knowledge")["descriptions"]
ENTITIES: dict[str, Row] = {row["kind"]: row for row in table("entities")}
WORDS = (("nouns", "singular"), ("adjectives", "word"), ("verbs", "base"))  # tables of words, and where a word stands
NAMES = (("firstnames", "name"), ("cities", "name"), ("countries", "name"), ("countries", "capital"), ("animals", "name"))
Pair = tuple[str, str]
LIMIT = 85  # the greatest length of a document in tokens, as ``length`` estimates them

# --- small tools ----------------------------------------------------------------------------------


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


@cache
def word_tables(world: World) -> dict[str, list[str]]:
    """The words and names of all tables from which random ones are drawn, by the table."""
    words: dict[str, dict[str, None]] = {}
    for name, column in (*WORDS, *NAMES):
        words.setdefault(name, {}).update(dict.fromkeys(world.column(name, column)))
    return {name: list(known) for name, known in words.items()}


def any_word(world: World, rng: Random) -> str:
    """A word or a name; each table is as likely as another."""
    return rng.choice(rng.choice(list(word_tables(world).values())))


def different_words(world: World, rng: Random, count: int, taken: Sequence[str] = ()) -> list[str]:
    """Different words from all tables, none of which stands inside another one or among the ``taken``."""
    words: list[str] = []
    while len(words) < count:
        word = any_word(world, rng)
        if not any(word in other or other in word for other in (*words, *taken)):
            words.append(word)
    return words


# --- tasks on one word ----------------------------------------------------------------------------


# Each task and where its pairs of input and answer stand; read them through ``pairs``.
TASKS: dict[str, list[Row]] = {}
for place in table("list_tasks"):
    TASKS.setdefault(place["task"], []).append(place)


@cache
def pairs(world: World, task: str) -> list[Pair]:
    """All pairs of ``task``, each input once; an input with two right answers is left out.

    Of common words only those of a single word count.
    """
    answers: dict[str, dict[str, None]] = {}
    for place in TASKS[task]:
        for row in world.common(place["table"]):
            left = row[place["input"]]
            right = row[place["answer"]]
            several = place["table"] in COMMON and " " in left + right
            if left and right and not several:
                answers.setdefault(left, {})[sentence(right) if place["capital"] else right] = None
    return [(left, *rights) for left, rights in answers.items() if len(rights) == 1]


@cache
def allowed_pairs(world: World, task: str, source: str = "") -> list[Pair]:
    """The pairs of ``task`` (or of ``source``, in lists of ``task``) that may stand in the training text's lists."""
    return [pair for pair in pairs(world, source or task) if not held_out("list_pair", task, pair[0])]


@cache
def hidden_pairs(world: World, task: str, source: str = "") -> list[Pair]:
    """The pairs of ``task`` (or of ``source``, in lists of ``task``) that no list of the training text shows."""
    return [pair for pair in pairs(world, source or task) if held_out("list_pair", task, pair[0])]


# What stands between input and answer, and between pairs.
STYLES = [(": ", "\n")] * 8 + [(" -> ", "\n"), (": ", ", ")]


def lists(world: World, rng: Random) -> str | None:
    """Two to nine pairs of one task; tasks with many pairs come somewhat more often."""
    sizes = {task: len(allowed_pairs(world, task)) for task in TASKS}
    [task] = rng.choices(list(sizes), [size**0.5 for size in sizes.values()])
    shown = allowed_pairs(world, task)
    if len(shown) < 2:
        return None
    chosen = rng.sample(shown, min(rng.randint(2, 9), len(shown)))
    arrow, separator = rng.choice(STYLES)
    return fitting([left + arrow + right for left, right in chosen], separator)


def list_probes(world: World, rng: Random, n: int, shots: int = 5) -> list[Probe]:
    """Demonstrations that may be shown, then the input of a held-out pair; group = task."""
    known = {task: allowed_pairs(world, task) for task in TASKS if hidden_pairs(world, task)}
    tasks = [task for task, allowed in known.items() if len(allowed) >= shots]
    probes = []
    for number in range(n):
        task = tasks[number % len(tasks)]
        question, answer = rng.choice(hidden_pairs(world, task))
        others = [pair for pair in known[task] if pair[1] != answer]
        shown = rng.sample(others if len(others) >= shots else known[task], shots)
        lines = "".join(f"{left}: {right}\n" for left, right in shown)
        probes.append(Probe(f"{lines}{question}:", answer, group=task))
    return probes


# --- tasks on one item of a list ------------------------------------------------------------------

LEFT_OUT = "last capital_of"
POSITIONS = {"first": 0, "last": -1}
ANY_WORD = "any word"  # in place of a one-word task: words and names of all tables
# The function's name -> the one-word tasks that supply its words.
ITEM_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "copy": ("identity", "identity", "country_capital", "antonym", "plural", ANY_WORD),
    "capitalise": ("capitalise",),
    "capital_of": ("country_capital",),
    "opposite": ("antonym",),
    "plural": ("plural",),
}
ITEM_TASKS = [f"{position} {function}" for position in POSITIONS for function in ITEM_FUNCTIONS]


def item_example(world: World, rng: Random, task: str, source: str, hidden: bool = False, mixed: bool = False) -> Pair:
    """One example with words of ``source``: ``("dog, cat", "dog")`` for ``first copy``.

    The items that are not asked for are words of the same ``source`` too or, if ``mixed``, words and names of all tables.
    """
    position, function = task.split()
    if source == ANY_WORD:
        word = answer = any_word(world, rng)
        while held_out("list_pair", task, word) != hidden:
            word = answer = any_word(world, rng)
    else:
        word, answer = rng.choice((hidden_pairs if hidden else allowed_pairs)(world, task, source))
    count = rng.randint(1, 4)
    if mixed or source == ANY_WORD:
        others = different_words(world, rng, count, [word])
    else:
        others = [left for left, _ in rng.sample(pairs(world, source), count + 1) if left != word][:count]
    items = [word, *others] if position == "first" else [*others, word]
    return ", ".join(items), word if function == "copy" else answer


def item_lists(world: World, rng: Random) -> str:
    """Two to six lists of two to five items, each with a function of its first or of its last item."""
    task = rng.choice([task for task in ITEM_TASKS if task != LEFT_OUT])
    source = rng.choice(ITEM_FUNCTIONS[task.split()[1]])
    mixing = rng.choice((0, 0.5, 1))
    examples = [item_example(world, rng, task, source, mixed=rng.random() < mixing) for _ in range(rng.choice((2, 3, 4, 5, 6, 6)))]
    return fitting([": ".join(example) for example in examples], "\n")


ASKED_ITEMS = ("first copy", "last copy", "first capital_of")


def item_probes(world: World, rng: Random, n: int, shots: int = 5) -> list[Probe]:
    """``shots`` lists with their answers, then one that asks for a held-out item of mixed words; group = task."""
    probes: list[Probe] = []
    while len(probes) < n:
        task = ASKED_ITEMS[len(probes) % len(ASKED_ITEMS)]
        source = rng.choice(ITEM_FUNCTIONS[task.split()[1]])
        shown = [item_example(world, rng, task, source, mixed=rng.random() < 0.5) for _ in range(shots)]
        items, answer = item_example(world, rng, task, source, hidden=True, mixed=rng.random() < 0.5)
        prompt = "\n".join([*map(": ".join, shown), f"{items}:"])
        if length(prompt) < LIMIT - 10 and answer not in [known for _, known in shown]:
            probes.append(Probe(prompt, answer, group=task))
    return probes


# --- tasks whose labels mean nothing ----------------------------------------------------------------

LABELS: list[str] = phrases("labels")["labels"]
# group -> table, column of the word, and the column and value that make a row belong to the group (empty: all rows)
GROUPS: dict[str, list[str]] = phrases("labels")["groups"]


@cache
def kinds_of_words(world: World) -> dict[str, list[str]]:
    """The words of each group that gets a label; a word of two groups belongs to none."""
    groups: dict[str, list[str]] = {}
    for group, (name, column, key, value) in GROUPS.items():
        groups[group] = list(dict.fromkeys(row[column] for row in world.common(name) if not key or row[key] == value))
    counts = Counter(word for words in groups.values() for word in words)
    return {group: [word for word in words if counts[word] == 1] for group, words in groups.items()}


@cache
def label_words(world: World, hidden: bool) -> dict[str, list[str]]:
    """The words of each group that may get a label in the training text or, ``hidden``, that never do."""
    kept = {group: [w for w in words if held_out("list_pair", "label", w) == hidden] for group, words in kinds_of_words(world).items()}
    return {group: words for group, words in kept.items() if words}


def labelled(world: World, rng: Random, count: int, hidden: bool = False) -> list[Pair]:
    """Words of two groups, each with the label of its group: groups and labels are drawn anew.

    Both groups come at least once; if ``hidden``, the last word is one that gets no label in the training text.
    """
    allowed, unseen = label_words(world, hidden=False), label_words(world, hidden=True)
    chosen = rng.sample([group for group in allowed if group in unseen], 2)
    labels = rng.sample(LABELS, 2)
    left = {group: rng.sample(allowed[group], len(allowed[group])) for group in chosen}
    sides = [0, 1] + [rng.randrange(2) for _ in range(count - 2)]
    rng.shuffle(sides)
    shown = [(left[chosen[side]].pop(), labels[side]) for side in sides if left[chosen[side]]]
    if hidden:
        shown[-1] = rng.choice(unseen[chosen[sides[-1]]]), labels[sides[-1]]
    return shown


def arbitrary_labels(world: World, rng: Random) -> str:
    """Five to twelve words of two groups, such as animals and vehicles, each with its group's label, which means nothing by itself."""
    arrow, separator = rng.choice(((": ", "\n"), (" -> ", "\n"), (": ", ", "), (" = ", ", ")))
    pairs = labelled(world, rng, rng.choice((5, 6, 7, 8, 9, 10, 12)))
    return fitting([left + arrow + right for left, right in pairs], separator)


def label_probes(world: World, rng: Random, n: int, shots: int = 8) -> list[Probe]:
    """``shots`` labelled words, at least two of each group, then a held-out one; wrong = the other label; group = the label's places."""
    probes: list[Probe] = []
    while len(probes) < n:
        *shown, (asked, label) = labelled(world, rng, shots + 1, hidden=True)
        labels = [right for _, right in shown]
        wrong = next((other for other in labels if other != label), "")
        if min(labels.count(label), labels.count(wrong)) >= 2:
            lines = "".join(f"{left}: {right}\n" for left, right in shown)
            probes.append(Probe(f"{lines}{asked}:", label, wrong, "as the last one" if labels[-1] == label else "not as the last one"))
    return probes


# --- descriptions of entities ---------------------------------------------------------------------


@dataclass(frozen=True)
class Entity:
    """A row of a table as the kind of entity that ``data/corpus/entities.csv`` describes."""

    kind: str
    row: Row

    @property
    def name(self) -> str:
        """Its (English) name."""
        return self.row[ENTITIES[self.kind]["name"]]

    @property
    def text(self) -> str:
        """What it is, in a few words: ``country in Europe``, ``song by John Lennon``."""
        country = country_with_the(self.row.get("country", ""))
        slots = {"the_country": country, "place": self.row.get("city") or country, "the_name": country_with_the(self.row.get("name", ""))}
        return ENTITIES[self.kind]["description"].format(**self.row, **slots)

    def written(self, rng: Random, language: str) -> str:
        """Its name; of countries and landmarks now and then the one in another ``language``."""
        foreign = self.kind in ("countries", "landmarks") and self.row.get(language)
        return foreign if foreign and rng.random() < 0.25 else self.name


@cache
def ambiguous_names(world: World) -> set[str]:
    """Names of two entities, such as a book and its film, or a country and its capital."""
    rows = [(kind, row) for kind, about in ENTITIES.items() for row in world.rows(about["table"])]
    every = Counter(Entity(kind, row).name for kind, row in rows)
    return {name for name, count in every.items() if count > 1}


def draw_entity(world: World, rng: Random) -> Entity:
    """Draws a kind of entity and, famous ones more often, an entity of this kind."""
    shares = [float(about["share"]) for about in ENTITIES.values()]
    kind = rng.choices(list(ENTITIES), shares)[0]
    return Entity(kind, world.pick(rng, ENTITIES[kind]["table"]))


def draw_shots(world: World, rng: Random, count: int, hidden: bool = False, taken: str = "") -> list[Entity]:
    """Draws different entities whose descriptions may stand in lists (or, ``hidden``, never)."""
    entities: dict[str, Entity] = {}
    while len(entities) < count:
        entity = draw_entity(world, rng)
        unfit = entity.name == taken or entity.name in ambiguous_names(world)
        if held_out("few_shot", entity.name) == hidden and not unfit:
            entities.setdefault(entity.name, entity)
    return list(entities.values())


def few_shot(world: World, rng: Random) -> str:
    """Two to five entities of mixed kinds with their descriptions, on one line."""
    entities = draw_shots(world, rng, rng.randint(2, 5))
    language = rng.choice(("fr", "de", "zh", "zh"))
    return fitting([f"{e.written(rng, language)}: {e.text}" for e in entities], ", ")


def few_shot_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Three described entities, then one whose description stood in prose only; group = kind."""
    probes = []
    for _ in range(n):
        [asked] = draw_shots(world, rng, 1, hidden=True)
        shown = draw_shots(world, rng, 3, taken=asked.name)
        line = ", ".join(f"{other.name}: {other.text}" for other in shown)
        probes.append(Probe(f"{line}, {asked.name}:", asked.text, group=asked.kind))
    return probes


def described_entity(rng: Random, entity: Entity) -> str:
    """One sentence, in one of many shapes, that says what an entity is."""
    name = entity.name
    bare = entity.text
    that = f"the {bare}" if entity.kind == "capitals" else an(bare)
    article = ENTITIES[entity.kind]["article"]
    subject = f"the {name}" if article == "yes" else name
    shapes = SHAPES["any" if article == "unclear" else "sentence"]
    if entity.kind == "countries":
        subject = country_with_the(name)
    elif entity.kind == "people":
        recent = entity.row["century"] in ("20th", "21st")
        shapes = SHAPES["person"] + ([] if recent else SHAPES["past_person"])
    words = {"name": name, "bare": bare, "that": that, "That": sentence(that), "subject": subject, "Subject": sentence(subject)}
    return sentence(rng.choice(shapes).format(**words))


def described(world: World, rng: Random) -> str:
    """One to three sentences that say what an entity is; also of those in no few-shot list."""
    entities = [draw_entity(world, rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    return fitting([described_entity(rng, entity) for entity in entities], " ")


# --- identity lists -------------------------------------------------------------------------------


def any_name(world: World, rng: Random) -> str:
    """A word, a number, a first name or an entity's name of one or more words."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice([row[column] for table, column in WORDS for row in world.common(table)])
    if kind < 0.45:
        return world.pick(rng, "firstnames")["name"]
    if kind < 0.55:
        return rng.choice((*SHAPES["greetings"], *map(str, range(21))))
    return draw_entity(world, rng).name


def identity(world: World, rng: Random) -> str | None:
    """Three to eight words or names, each pointing at itself: ``cat -> cat``."""
    names = [any_name(world, rng) for _ in range(rng.randint(3, 8))]
    shown = [name for name in dict.fromkeys(names) if not held_out("list_pair", "identity", name)]
    separator = rng.choice(("\n", "\n", "\n", "; "))
    return fitting([f"{name} -> {name}" for name in shown], separator) if len(shown) > 1 else None


INGREDIENTS = (lists, item_lists, arbitrary_labels, few_shot, described, identity)
