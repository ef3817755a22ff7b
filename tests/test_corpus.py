"""The corpus is fixed by its seed, correct in its English, rich in its forms, and never shows what is held out.

Every kind of held-out material has a finder that reads plain text and knows nothing of how it was written. It must find
nothing in 40,000 documents, and it must find what is planted: the held-out probes, written out as documents.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from itertools import accumulate, combinations, islice, product
from random import Random

import pytest

from helpers.course_lm.corpus import chat, knowledge, languages, lists, prose, stories, tasks
from helpers.course_lm.corpus.base import Probe, an
from helpers.course_lm.corpus.mixture import MIXTURES, Document, document, documents, ingredients, shares
from helpers.course_lm.corpus.places import foreign_name
from helpers.course_lm.facts import all_facts, chains, country_with_the, relations
from helpers.course_lm.heldout import SHARES, fraction, held_out
from helpers.course_lm.train import PRESETS
from helpers.course_lm.world import World

SIZE, LATER = 50_000, (10_000, 5_000, 5_000, 5_000)  # documents, and those of the later stages
BROAD = SIZE - sum(LATER)
WORLD = World.load()


@dataclass(frozen=True)
class Texts:
    """Documents with an index of their words, so that thousands of phrases are looked up in no time."""

    documents: list[Document]
    lower: list[str]
    where: dict[str, set[int]]

    @staticmethod
    def of(written: list[Document]) -> "Texts":
        where: dict[str, set[int]] = defaultdict(set)
        lower = [d.text.lower() for d in written]
        for number, text in enumerate(lower):
            for word in re.findall(r"\w+", text):
                where[word].add(number)
        return Texts(written, lower, where)

    def containing(self, phrase: str, before: str = r"(?<!\w)") -> list[Document]:
        """The documents in which ``phrase`` stands as whole words, in capital or small letters."""
        found = [self.where.get(word, set()) for word in re.findall(r"\w+", phrase.lower())]
        numbers = set.intersection(*sorted(found, key=len)) if found else set()
        exact = re.compile(before + re.escape(phrase.lower()) + r"(?!\w)", re.MULTILINE)
        return [self.documents[n] for n in sorted(numbers) if exact.search(self.lower[n])]


@pytest.fixture(scope="session")
def corpus() -> Texts:
    """The first documents of each stage of the training text."""
    parts = zip(PRESETS["full"], (BROAD, *LATER), strict=True)
    return Texts.of([d for stage, n in parts for d in islice(documents(stage.seed, mixture=stage.mixture), n)])


# The digest of the first 5,000 documents of each stage: the weights that ship have read this text.
DIGESTS = {
    "broad": "c40d2013a810cecfd15e63c52b08cf6d7a8b3c1b519d03743b577f707e47246c",
    "skills": "9791d43d4e4d5a0c1b39a9079b43724137a25a8b37f3e7a65d38be6a864246e3",
    "review": "93e57730f9a4a22144d5145a16c012bfe8f767e6318bc08a9d2f95b37061b99f",
    "letters": "53299f9facc13b114dc302a876d974dac6cb485fc90bbcb926861302e4612cfa",
    "whole": "63807593b26bbd2decd7ed3a3ce5a2e9875bcde0b18f9c676a7b4b66e587b72f",
}


def test_the_corpus_changes_only_on_purpose(corpus: Texts):
    for mixture, start in zip(DIGESTS, accumulate((BROAD, *LATER[:-1]), initial=0), strict=True):
        first = [f"{d.kind}\n{d.text}\n" for d in corpus.documents[start : start + 5000]]
        assert sha256("".join(first).encode()).hexdigest() == DIGESTS[mixture], mixture


def test_a_document_is_fixed_by_seed_and_number(corpus: Texts):
    numbers = [7, 3, 1234, 3, BROAD - 1]
    assert [document(0, n) for n in numbers] == [corpus.documents[n] for n in numbers]  # in any order, asked twice
    assert list(islice(documents(0, start=500), 20)) == corpus.documents[500:520]
    assert list(islice(documents(1), 20)) != corpus.documents[:20]


def test_every_mixture_has_every_kind_of_document():
    for mixture in MIXTURES:
        assert set(shares(mixture)) == set(MIXTURES[mixture]) == set(ingredients())
        assert sum(shares(mixture).values()) == pytest.approx(1)
    assert shares("skills")["prose.forms"] > shares("broad")["prose.forms"]


def test_nobody_judges_a_statement_about_a_country_whose_claims_are_held_out(corpus: Texts):
    judged = [d.text for d in corpus.documents if d.kind == "knowledge.true_or_false"]
    told = [t for name in ("capital", "continent", "language", "currency") for t in relations()[name].statements]
    found = {True: 0, False: 0}
    for row in WORLD.rows("countries"):
        hidden = held_out("claim", row["name"])
        patterns = [re.escape(t).replace(r"\{s\}", re.escape(row["name"])).replace(r"\{o\}", r"[\w ]+") for t in told]
        found[hidden] += sum(len(re.findall("|".join(patterns), text)) for text in judged if row["name"] in text)
    assert found[True] == 0 and found[False] > 100


def test_half_of_the_judged_statements_are_true_and_the_verdicts_are_right():
    capitals = {row["name"]: row["capital"] for row in WORLD.rows("countries")}
    verdicts: list[bool] = []
    rng = Random(3)
    for text in (knowledge.true_or_false(WORLD, rng) or "" for _ in range(3000)):
        for country, capital, verdict in re.findall(r"[Tt]he capital of ([\w ]+) is ([A-Z][\w ]+)\. (True|False)\.", text):
            verdicts.append(verdict == "True")
            assert (capitals[country.removeprefix("the ")] == capital) == verdicts[-1]
    assert len(verdicts) > 30 and 0.3 < sum(verdicts) / len(verdicts) < 0.7


def test_the_rule_depends_on_the_words_alone():
    assert held_out("sum", "7", "+", "5") == (fraction("sum", "7", "+", "5") < SHARES["sum"])
    for split, share in SHARES.items():
        kept = sum(held_out(split, str(n)) for n in range(5000)) / 5000
        assert abs(kept - share) < 0.03
    with pytest.raises(ValueError, match="no held-out split called 'sums'"):
        held_out("sums", "7")


# ------------------------------------------------------------------------------- finders: what a text shows of a split

NAMES = frozenset(WORLD.column("firstnames", "name"))
SINGULAR = {row["plural"]: row["singular"] for row in WORLD.rows("nouns")} | {n: n for n in WORLD.column("nouns", "singular")}
COUNTRIES = WORLD.column("countries", "name")
BY_SPOKEN_NAME = {variant: name for name in COUNTRIES for variant in (name, country_with_the(name))}
NUMBER = {word: str(n) for n, word in enumerate(tasks.NUMBERS)}
Found = list[tuple[str, ...]]


def pairs_of_names(text: str) -> Found:
    """All pairs of first names of a text."""
    people = sorted({word for word in re.findall(r"\w+", text) if word in NAMES})
    return list(combinations(people, 2))


def sums(text: str) -> Found:
    """All sums of a text: in digits, in words, in a story, in two console lines, in a function of the console."""
    found = re.findall(r"(?<![\w.])(\d+) ([+-]) (\d+)(?!\w)", text)
    found += [(a, "+", b) for a, b in re.findall(r"(?<!\w)(\d+) plus (\d+)", text) + re.findall(r"Add (\d+) and (\d+)", text)]
    words = "|".join(NUMBER)
    for a, sign, b in re.findall(rf"\b({words}) (plus|minus) ({words})\b", text.lower()):
        found.append((NUMBER[a], "+" if sign == "plus" else "-", NUMBER[b]))
    for a, verb, b in re.findall(rf"\bhas (\d+) [^.]*?(?: and|\.[\w ]*?) ({'|'.join(tasks.GAINS + tasks.LOSSES)}|eats) (\d+)", text):
        found.append((a, "+" if verb in tasks.GAINS else "-", b))
    for _, a, b in re.findall(r">>> (\w+) = (\d+)\n>>> \1 \+ (\d+)", text):
        found.append((a, "+", b))
    found += [(a, "+" if name == "add" else "-", b) for name, a, b in re.findall(r">>> (add|minus)\((\d+), (\d+)\)", text)]
    return found


def neighbours(text: str) -> Found:
    """Subject and attractor of every sentence about agreement, as singulars."""
    near = "|".join(prose.NEAR)
    found = re.findall(rf"\b[Tt]he (?:\w+ )??(\w+) (?:{near}) the (\w+)", text)
    found += re.findall(rf"\b[Tt]he (\w+) that the (\w+) (?:{'|'.join(prose.LIKINGS + prose.PLURAL_LIKINGS)})\b", text)
    found += re.findall(rf"^The (\w+) (?:of|for|from) [\w ]+? (?:is|are|was|were) (?:{near}) the (\w+)", text)
    return [(SINGULAR[a], SINGULAR[b]) for a, b in found if a in SINGULAR and b in SINGULAR]


def amounts(text: str) -> Found:
    """Thing and distractor of a scene: "some coins next to a key", as singulars."""
    nouns = re.findall(rf"\b(?:{'|'.join(prose.COUNTS)}|[Aa]n?) (\w+)", text.replace(" a lot for ", " "))
    return [tuple(SINGULAR[n] for n in nouns if n in SINGULAR)]


def agreement(text: str) -> Found:
    """The pairs of nouns of a text, sentence by sentence."""
    return [pair for line in re.split(r"(?<=[.!?]) ", text) for pair in neighbours(line)]


def story_openings(text: str) -> Found:
    """The hero and the opening of a story: the first name or animal after the opening. Short notes have none."""
    opening = next((o for o in stories.OPENINGS if text.startswith(o)), None)
    if opening is None:
        return []
    rest = re.findall(r"\w+", text[len(opening) :])
    hero = next(word for word in rest if word in NAMES or word in stories.ANIMALS)
    return [(hero, opening)]


def claimed_countries(text: str) -> Found:
    """The countries about which a chat makes a claim."""
    spoken = sorted(BY_SPOKEN_NAME, key=len, reverse=True)
    return [(BY_SPOKEN_NAME[name],) for name in re.findall(rf"\bof ({'|'.join(map(re.escape, spoken))}) is\b", text)]


REQUESTS = frozenset(f"{row['verb']} {row['object']}" for row in WORLD.rows("requests"))


def topics(text: str) -> Found:
    """The requests that stand in a chat."""
    words = re.findall(r"\w+", text.lower()) if "<|user|>" in text else []
    runs = (" ".join(words[start : start + size]) for start in range(len(words)) for size in range(2, 7))
    return [(run,) for run in runs if run in REQUESTS]


MYTHS = {row["condition"]: row["topic"] for row in WORLD.rows("myths")}
CONTEXTS = [line for lines in [*chat.MYTH_LINES.values(), *chat.MYTH_SYSTEMS.values()] for line in lines]


def myths_in_context(text: str) -> Found:
    """The myths that are told after a context line or a system prompt of one kind."""
    begins = text.removeprefix("<|system|>")
    if not begins.startswith(tuple(CONTEXTS)):
        return []
    return [
        (topic,) for condition, topic in MYTHS.items() if condition in text.lower().replace("friday", "Friday").replace("sunday", "Sunday")
    ]


def quiz_questions(text: str) -> Found:
    """What a multiple-choice question asks, as relation and subject."""
    found = re.search(r"Question: (.+)\nA: ", text)
    return list(quiz_subjects().get(found[1], ())) if found else []


@cache
def quiz_subjects() -> dict[str, list[tuple[str, str]]]:
    """Relation and subject behind every wording of every question."""
    wordings: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for relation, (shapes, table, subject, _) in tasks.QUESTIONS.items():
        for name, shape in product(dict.fromkeys(WORLD.column(table, subject)), shapes):
            for shown in {name, an(name), country_with_the(name)}:
                wordings[shape.format(shown)].append((relation, name))
    return wordings


def passages(text: str) -> Found:
    """Who has what and who is where, and which capital a passage gives to which country."""
    found = re.findall(r"\b([A-Z]\w+) (?:has|bought|found|got) an? \w+ (\w+)\.", text)
    found += re.findall(r"\b([A-Z]\w+) (?:is in|went to|waits in|works in) the (\w+)\.", text)
    told = re.split(r"[ \n]Question:", text)[0]
    for shape in (r"capital of ([^,]+) is ([^,.]+)\.", r"^(.+)'s capital is ([^,.]+)\.", r"^(.+) has the capital ([^,.]+)\."):
        found += re.findall(shape, told)
    found += [(country, city) for city, country in re.findall(r"(?:^|, )([^,]+) is the capital of ([^,.]+)\.", told)]
    return [(BY_SPOKEN_NAME.get(who, BY_SPOKEN_NAME.get(who.replace("The ", "the "), who)), what) for who, what in found]


NAMED = [row for table in ("countries", "landmarks") for row in WORLD.rows(table)]
ENGLISH_NAMES = {row[code]: row["name"] for row in NAMED for code in ("fr", "de", "zh") if row[code]}


def described(text: str) -> Found:
    """The entities whose descriptions stand in a list, under their English names."""
    names = re.findall(r"(?:^|, )([^:,]+): ", text)
    return [(ENGLISH_NAMES.get(shown, shown),) for shown in names]


def translated(text: str) -> Found:
    """Task and input of every line of a list of translations."""
    code = {language.label: language.code for language in languages.LANGUAGES.values()}
    found = re.findall(r"(Français|Deutsch|English|中文): ([^\n]+?) - (Français|Deutsch|English|中文):", text)
    return [(f"{code[source]}_{code[target]}", word) for source, word, target in found]


@cache
def answers_of(task: str) -> dict[str, str]:
    """Input -> answer of a list task."""
    return dict(lists.pairs(WORLD, task))


def list_pairs(text: str) -> Found:
    """Task and inputs of a list; of the tasks that explain all of it, the one with the least held-out material counts."""
    separator = "\n" if "\n" in text else ", "
    pairs = [re.split(r": | -> ", line, maxsplit=1) for line in text.split(separator)]
    readings = [[(task, left) for left, _ in pairs] for task in lists.TASKS if all(answers_of(task).get(a) == b for a, b in pairs)]
    assert readings, f"no task explains {text!r}"
    return min(readings, key=lambda reading: sum(held_out("list_pair", *key) for key in reading))


def item_tasks(text: str) -> Found:
    """Task and asked item of a list of lists; of the tasks that explain all of it, the most innocent one counts."""
    lines = [(items.split(", "), answer) for items, answer in (line.split(": ") for line in text.split("\n"))]
    readings = []
    for position, function in (task.split() for task in lists.ITEM_TASKS):
        asked = [items[lists.POSITIONS[position]] for items, _ in lines]
        makes = [{word: word} if function == "copy" else answers_of(lists.ITEM_FUNCTIONS[function][0]) for word in asked]
        if all(known.get(word) == answer for word, known, (_, answer) in zip(asked, makes, lines, strict=True)):
            readings.append([(f"{position} {function}", word) for word in asked])
    assert readings, f"no task explains {text!r}"
    return min(readings, key=lambda reading: sum(hidden_item(*key) for key in reading))


def hidden_item(task: str, word: str) -> bool:
    """Is this item task, or this item in it, kept out of the corpus?"""
    return task == lists.LEFT_OUT or held_out("list_pair", task, word)


def identities(text: str) -> Found:
    """The words that point at themselves."""
    return [("identity", left) for left, right in re.findall(r"^(.+?) -> (.+?)$", text.replace("; ", "\n"), re.MULTILINE) if left == right]


BY_PHRASE = {c.first.phrase: c.first.subject for c in chains()}
NOUNS = ("|".join(sorted({c.second.relation.noun for c in chains()})), "|".join(sorted({c.first.relation.noun for c in chains()})))
TWO_HOPS = re.compile(rf"(?:{NOUNS[0]}) of (?:the (?:{NOUNS[1]}) of (.+?)|(.+?)'s (?:{NOUNS[1]}))(?:, [^,]+, is|\?| is)\b")


def two_hops(text: str) -> Found:
    """The first entities of the two-hop phrases of a text: "the capital of the country of Warsaw is"."""
    return [(BY_PHRASE[phrase],) for of, own in TWO_HOPS.findall(text.replace("?", "? ")) if (phrase := of or own) in BY_PHRASE]


def written_out(probe: Probe) -> str:
    """A probe as the document that it would be in the training text."""
    return probe.prompt + ("" if probe.prompt.endswith(("\n", "(", "|>")) else " ") + probe.answer


# ------------------------------------------------------------------------------------- what the finders have to find

Planted = Callable[[Random], list[str]]


def probed(probes: Callable[..., list[Probe]], group: str | None = None) -> Planted:
    """Held-out probes, written out as documents."""
    return lambda rng: [written_out(p) for p in probes(WORLD, rng, 200) if group in (None, p.group)]


def held_out_chain_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Two-hop questions that start from a held-out entity."""
    return [probe for _, probe in knowledge.chain_probes(world, rng, n, heldout=True)]


def planted_sums(rng: Random) -> list[str]:
    """Every held-out sum in every form in which the corpus writes sums."""
    texts = [write(*entry) for entry in tasks.HIDDEN_SUMS for write in (tasks.in_digits, tasks.in_words, tasks.asked)]
    adding = [(a, b) for a, sign, b in tasks.HIDDEN_SUMS if sign == "+"]
    shapes = [f">>> {lines}\n9" for lines in ("x = {}\n>>> x + {}", "add({}, {})")]
    shapes += ["Ann has {} eggs. Then Ann buys {} more.", "Ann has {} eggs and finds {} more."]
    return texts + [shape.format(a, b) for a, b in adding for shape in shapes]


def planted_translations(rng: Random) -> list[str]:
    """A held-out word among allowed ones."""
    hidden, allowed = lists.hidden_pairs(WORLD, "fr_en"), lists.allowed_pairs(WORLD, "fr_en")
    return ["\n".join(f"Français: {a} - English: {b}" for a, b in (rng.choice(allowed), rng.choice(hidden))) for _ in range(50)]


def planted_identities(rng: Random) -> list[str]:
    """A word that points at itself although it must not."""
    return [f"dog -> dog; {word} -> {word}" for word, _ in lists.hidden_pairs(WORLD, "identity")]


def planted_item(rng: Random) -> list[str]:
    """Capitals of the last country: the one task that no list of lists may show."""
    rows = [rng.sample(lists.pairs(WORLD, "country_capital"), 4) for _ in range(50)]
    return ["\n".join(f"{a}, {b}: {capital}" for (a, _), (b, capital) in (drawn[:2], drawn[2:])) for drawn in rows]


def planted_items(rng: Random) -> list[str]:
    """Lists that ask for a held-out item."""
    draw = partial(lists.item_example, WORLD, rng, "first opposite", "antonym")
    return ["\n".join(": ".join(draw(hidden=hidden)) for hidden in (False, True)) for _ in range(50)]


# -------------------------------------------------------------------------- nothing that is held out is ever written


@dataclass(frozen=True)
class Check:
    """One finder: in which documents it looks, for which split, and documents in which it has to find something."""

    kinds: str
    split: str
    find: Callable[[str], Found]
    planted: tuple[Planted, ...]

    def hidden(self, text: str) -> Found:
        """The held-out material of a text."""
        if self.find is item_tasks:
            return [key for key in self.find(text) if hidden_item(*key)]
        return [key for key in self.find(text) if held_out(self.split, *key)]


REQUEST_PROBES = tuple(map(probed, (chat.refusal_probes, chat.harmless_probes)))
CLAIM_PROBES = tuple(map(probed, (chat.agree_probes, chat.correct_probes, chat.verdict_probes, chat.opinion_probes)))
CHECKS = {
    "name_pair": Check(r"tasks\.indirect_object", "name_pair", pairs_of_names, (probed(tasks.indirect_object_probes),)),
    "agreement": Check(r"prose\.agreement", "agreement", agreement, (probed(prose.agreement_probes),)),
    "determiners": Check(r"prose\.determiners", "agreement", amounts, (probed(prose.determiner_probes),)),
    "lists": Check(r"lists\.lists", "list_pair", list_pairs, (probed(lists.list_probes),)),
    "item lists": Check(r"lists\.item_lists", "list_pair", item_tasks, (planted_item, planted_items)),
    "identity": Check(r"lists\.identity", "list_pair", identities, (planted_identities,)),
    "translation": Check(r".*", "list_pair", translated, (planted_translations,)),
    "topic": Check(r".*", "topic", topics, REQUEST_PROBES),
    "claim": Check(r"chat\.(sycophancy|lettered_opinions)", "claim", claimed_countries, CLAIM_PROBES),
    "myth": Check(r".*", "myth", myths_in_context, (probed(chat.myth_probes),)),
    "sum": Check(r".*", "sum", sums, (probed(tasks.sum_probes, "held out"), planted_sums)),
    "few_shot": Check(r"lists\.few_shot", "few_shot", described, (probed(lists.few_shot_probes),)),
    "story": Check(r"stories\..*", "story", story_openings, (probed(stories.story_probes),)),
    "quiz": Check(r".*", "quiz", quiz_questions, (probed(tasks.quiz_probes),)),
    "passage": Check(r"tasks\.passage", "passage", passages, (probed(tasks.passage_probes),)),
    "two_hop": Check(r".*", "two_hop", two_hops, (probed(held_out_chain_probes),)),
}


# What test_corpus_letters.py, test_corpus_everyday.py, test_corpus_opinions.py and test_corpus_languages.py look for.
CHECKED_ELSEWHERE = {"lookup", "console", "everyday", "unknown", "role", "mishap", "degree", "foreign", "sentence"}


def test_every_split_is_checked():
    assert {check.split for check in CHECKS.values()} | {"paraphrase"} | CHECKED_ELSEWHERE == set(SHARES)


@pytest.mark.parametrize("name", CHECKS)
def test_held_out_material_is_never_written(corpus: Texts, name: str):
    check = CHECKS[name]
    looked_at = [d for d in corpus.documents if re.fullmatch(check.kinds, d.kind)]
    assert [(d, hidden) for d in looked_at if (hidden := check.hidden(d.text))] == []
    assert sum(len(check.find(d.text)) for d in looked_at) > 150  # a finder that reads nothing proves nothing


@pytest.mark.parametrize("name", CHECKS)
def test_the_finder_finds_what_is_planted_and_probes_are_held_out(name: str):
    check = CHECKS[name]
    for plant in check.planted:
        texts = plant(Random(1))
        assert len(texts) >= 30
        assert [text for text in texts if not check.hidden(text)] == []


# ------------------------------------------------------------------------------------------------------- paraphrases

SENTENCE_BEGINS = r"(?:^|[.!?:,\"\n>]\s?|\bthat )"


@cache
def held_out_sentences() -> list[str]:
    """Every way of telling a fact that is held out, without its full stop; also under French, German and Chinese names."""
    sentences = []
    for f in all_facts(WORLD):
        for named in (f, *(replace(f, subject=name) for code in ("fr", "de", "zh") if (name := foreign_name(f, code)))):
            sentences += [named.tell(t).removesuffix(".") for t in f.relation.statements if f.held_out(t)]
    return sentences


def paraphrases(texts: Texts) -> list[tuple[str, Document]]:
    """The held-out sentences that stand in some document."""
    return [(told, d) for told in held_out_sentences() for d in texts.containing(told, SENTENCE_BEGINS)]


def test_facts_are_never_told_in_a_held_out_way_and_those_that_probes_ask_nowhere(corpus: Texts):
    asked = {f"{p.prompt} {p.answer}" for p in knowledge.fact_probes(WORLD, Random(3), 10_000)}
    assert len(held_out_sentences()) > 5000 and len(asked) > 3000 and asked <= set(held_out_sentences())
    written = paraphrases(corpus)
    assert [found for found in written if found[1].kind.startswith(("knowledge.", "languages.")) or found[0].rstrip(".") in asked] == []


def test_a_planted_paraphrase_is_found():
    some = held_out_sentences()[::50]
    planted = Texts.of([Document(f"As everybody knows, {told[0].lower()}{told[1:]}. So it is.", "planted") for told in some])
    assert {told for told, _ in paraphrases(planted)} >= set(some)


# ----------------------------------------------------------------------------------------------------- all the probes


MODULES = (chat, knowledge, languages, lists, prose, stories, tasks)
PROBES = {name: make for m in MODULES for name, make in vars(m).items() if name.endswith("_probes") and name[0] != "_"}
PROBES["chain_probes"] = held_out_chain_probes


@cache
def probes_of(name: str) -> list[Probe]:
    """Some probes of one function."""
    return PROBES[name](WORLD, Random(3), 300)


# The answer is copied from the prompt, or is one of two letters or short words that stand in it anyway.
COPIED = ("agree", "any_order", "console", "indirect_object", "item", "label", "opinion", "passage", "quiz", "repeated_sequence", "sum")


@pytest.mark.parametrize("name", PROBES)
def test_probes_are_well_formed(name: str):
    probes = probes_of(name)
    assert len(probes) >= 50
    for p in probes:
        assert p.prompt and not p.prompt.endswith(" ") and p.answer == p.answer.strip() and p.wrong != p.answer
        assert p.answer or name == "story_probes"
    if name.removesuffix("_probes") not in (*COPIED, "story"):
        easy = [p for p in probes if p.group != "identity" and re.search(rf"(?<!\w){re.escape(p.answer)}(?!\w)", p.prompt)]
        assert len(easy) <= 0.07 * len(probes), easy


@pytest.mark.parametrize("name", [n for n in PROBES if n != "plain_probes"])  # outside a chat these prompts are known ones
def test_probes_are_not_in_the_training_text(corpus: Texts, name: str):
    for p in probes_of(name):
        if p.group != "seen":
            whole = [d for d in corpus.containing(p.prompt, "^") if d.text.startswith(f"{p.prompt} {p.answer}".strip())]
            assert not whole or name == "fact_probes", (p, whole)  # facts: see the tests of paraphrases


# ------------------------------------------------------------------------------------- languages, English and variety


def own_words(code: str, english: set[str]) -> set[str]:
    """Words of one language that the others of the course do not have."""
    texts = {c: " ".join(WORLD.column("nouns", c) + WORLD.column("adjectives", c)).lower() for c in ("fr", "de")}
    words = {c: set(re.findall(r"\w+", text)) for c, text in texts.items()}
    return words[code] - words["de" if code == "fr" else "fr"] - english


@pytest.fixture(scope="session")
def signs(corpus: Texts) -> dict[str, re.Pattern[str]]:
    """How each language is recognised: by words that no English document has, or by its letters."""
    english = {w for d in corpus.documents if not d.kind.startswith(("languages", "lists")) for w in re.findall(r"\w+", d.text.lower())}
    latin = {code: rf"\b(?:{'|'.join(sorted(own_words(code, english)))})\b" for code in ("fr", "de")}
    return {code: re.compile(sign, re.IGNORECASE) for code, sign in {**latin, "zh": r"[\u4e00-\u9fff]"}.items()}


def foreign_languages(text: str, signs: dict[str, re.Pattern[str]]) -> set[str]:
    """The languages besides English of which a text has words."""
    return {code for code, sign in signs.items() if sign.search(text)}


def test_french_german_and_chinese_never_meet(corpus: Texts, signs: dict[str, re.Pattern[str]]):
    speaking: Counter[str] = Counter()
    for d in corpus.documents:
        if not d.text.isascii() or d.kind.startswith("languages"):
            spoken = foreign_languages(d.text, signs)
            assert len(spoken) <= 1, d
            speaking.update(spoken)
    assert min(speaking[code] for code in ("fr", "de", "zh")) > 300
    assert foreign_languages("The word for 雲 is nuage.", signs) == {"zh", "fr"}
    assert foreign_languages('Français: "nuage" - Deutsch: "Wolke"', signs) == {"fr", "de"}


AN_EXCEPTIONS = ("is", "university", "uniform", "unicorn", "one", "European", "useful", "used", "unit", "united")
A_EXCEPTIONS = ("hour", "honest", "heir", "honour")


def faults(text: str, kind: str) -> list[str]:
    """What a careful reader would mark in a text."""
    found = [p for p in (r"[^.]\.\.(?!\.)", r"  ", r" [.,]", r"^\s", r"\s$", r" \n", r"\bNone\b") if re.search(p, text)]
    found += ["braces"] if re.search(r"[{}]", text) and kind != "tasks.console" else []
    if not kind.startswith("languages"):
        found += [f"a {w}" for w in re.findall(r"\b[Aa] ([aeiouAEIOU]\w+)", text) if w not in AN_EXCEPTIONS]
        found += [f"an {w}" for w in re.findall(r"\b[Aa]n ([^aeiouAEIOU\W]\w+)", text) if w not in A_EXCEPTIONS]
    return found


def test_the_english_has_no_plain_faults(corpus: Texts):
    marked = [(f, d) for d in corpus.documents if (f := faults(d.text, d.kind))]
    assert marked == []


PLANTED_FAULTS = (
    *("I eat a apple.", "It is an dog.", "Two  spaces.", "A {noun}.", " Begins."),
    *("Ends. ", "Two stops..", "Not so , please.", "He is None."),
)


@pytest.mark.parametrize("text", PLANTED_FAULTS)
def test_a_planted_fault_is_marked(text: str):
    assert faults(text, "planted")


def shape(line: str) -> str:
    """A sentence without its content: names, nouns and numbers are blanks."""
    words = [SINGULAR.get(w, w) for w in re.findall(r"\w+|[^\w\s]", line)]
    nouns = set(SINGULAR.values())
    return re.sub(r"X(?: X)+", "X", " ".join("X" if w[0].isupper() or w.isdigit() else "N" if w in nouns else w for w in words))


def test_the_corpus_is_rich(corpus: Texts):
    prosaic = [d for d in corpus.documents if d.kind.split(".")[0] in ("knowledge", "prose", "stories", "chat", "tasks")]
    shapes = {shape(line) for d in prosaic for line in re.split(r"(?<=[.!?])\s|<\|\w+\|>", d.text) if line}
    words = {w for d in corpus.documents for w in re.findall(r"[a-z]+", d.text.lower())}
    assert len(shapes) > 5000
    assert len(words) > 4000
    assert len({d.text for d in corpus.documents}) > 0.9 * SIZE
    assert shape("Then Anna bought 3 apples.") == shape("Then Boris Becker bought 12 dogs.") != shape("Then Anna sold 3 apples.")


def test_documents_fit_the_context(corpus: Texts):
    lengths = sorted(lists.length(d.text) for d in corpus.documents)
    assert lengths[0] >= 2 and lengths[len(lengths) // 2] in range(15, 60)
    assert sum(size > 95 for size in lengths) < 0.01 * len(lengths)  # too long ones are cut in training


def test_relations_have_held_out_and_allowed_ways():
    ways = {(f.relation.name, f.held_out(t)) for f in all_facts(WORLD) for t in f.relation.statements}
    assert ways == set(product(relations(), (True, False)))
