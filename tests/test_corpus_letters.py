"""Letters, lists by position, labels, third persons, repetition and the console: right in what they say, and without what is held out.

Each document is read as plain text, by finders that know only the wordings; they must find what is planted, the probes written out.
"""

import contextlib
import io
import re
from collections import Counter
from functools import cache
from itertools import count, islice
from random import Random

import pytest

from helpers.course_lm.corpus import letters, lists, tasks
from helpers.course_lm.corpus.base import Ingredient, Probe
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

WORLD = World.load()
SIZE = 1500
OPTION = re.compile(r"(?:^|(?<=[ \n>]))\(?([A-D])(?::|\)| =| -) (.+?)(?=[,;]? \(?[A-D](?::|\)| =| -) |\n|(?<=[a-z])\. |<|$)")


@cache
def written(write: Ingredient, n: int = SIZE) -> list[str]:
    """``n`` documents of one kind."""
    rng = Random(5)
    return list(islice((text for _ in count() if (text := write(WORLD, rng)) is not None), n))


def out(probe: Probe) -> str:
    """A probe as a document."""
    return f"{probe.prompt} {probe.answer}".replace("\n ", "\n")


# ----------------------------------------------------------------------------------------------------------------- look-up


def listed(text: str) -> dict[str, str]:
    """Letter -> word of the options of a text."""
    words: dict[str, str] = {}
    for letter, word in OPTION.findall(text):
        words.setdefault(letter, word)
    return words


SHAPES = [shape for way in ("which letter", "which word") for shape in letters.PHRASES[way]]


def test_looked_up_words_and_letters_belong_together():
    told: Counter[str] = Counter()
    for text in written(letters.lookup):
        words = listed(text)
        assert list(words) == list(letters.LETTERS[: len(words)]) and len(words) >= 2, text
        blocks = [letters.options(Random(0), list(words.values()), layout) for layout in letters.LAYOUTS]
        rest = next(text.split(block, 1)[1] for block in blocks if block in text).lstrip(". \n")
        right = {shape.format(letter=letter, word=word): letter for letter, word in words.items() for shape in SHAPES}
        found = []
        while rest:
            fit = [line for line in right if rest == line or rest.startswith((line + " ", line + "\n"))]
            assert fit, (text, rest)
            found.append(max(fit, key=len))
            rest = rest[len(found[-1]) :].lstrip()
        told.update(right[line] for line in found)
        assert 2 <= len(found) <= 4 and len(set(found)) == len(found), text
    assert min(told[letter] for letter in "AB") > 700 and told["D"] > 300


def test_held_out_words_are_never_looked_up_and_probes_have_no_others():
    used = {word for text in written(letters.lookup) for word in listed(text).values()}
    assert len(used) > 800 and not any(held_out("lookup", word) for word in used)
    for probe in letters.lookup_probes(WORLD, Random(2), 300) + letters.word_probes(WORLD, Random(2), 300):
        words = listed(probe.prompt)
        assert len(words) >= 2 and all(held_out("lookup", word) for word in words.values()), probe


# ------------------------------------------------------------------------------------------------------------------- quiz


@cache
def wordings() -> dict[str, tuple[str, str]]:
    """Every question of every relation -> relation and subject."""
    return {
        shape.format(tasks.in_question(relation, subject)): (relation, subject)
        for relation, (shapes, *_) in tasks.ALL_QUESTIONS.items()
        for subject in tasks.quiz_facts(WORLD, relation)
        for shape in shapes
    }


def asked(text: str) -> list[tuple[str, str, str]]:
    """Relation and subject of each question of a text, and what follows it up to the next one."""
    by_end: dict[int, str] = {}
    for wording in wordings():
        place = text.find(wording)
        if place >= 0 and (place == 0 or text[place - 1] in " \n>"):
            end = place + len(wording)
            by_end[end] = max(by_end.get(end, ""), wording, key=len)
    ends = sorted(by_end)
    starts = [end - len(by_end[end]) for end in ends[1:]] + [len(text)]
    return [(*wordings()[by_end[end]], text[end:start]) for end, start in zip(ends, starts, strict=True)]


def test_quizzes_ask_for_known_facts_and_their_letters_are_right():
    questions: Counter[str] = Counter()
    places: Counter[tuple[int, str]] = Counter()
    for text in written(letters.quiz):
        options = listed(text)
        found = asked(text)
        assert found and 2 <= len(options) <= 4, text
        for relation, subject, rest in found:
            assert not held_out("quiz", relation, subject), text
            answer = tasks.quiz_facts(WORLD, relation)[subject]
            [letter] = [letter for letter, option in options.items() if option == answer]
            questions[relation] += 1
            if len(found) == 1:
                places[len(options), letter] += 1
                last = re.findall(r"\b[A-D]\b", text.replace(f": {answer}", "").replace(f", {answer}", ""))[-1]
                assert last == letter, text
            else:
                assert re.match(rf"(?: |\nAnswer: ){letter}\.", rest), text
    assert min(questions.values()) > 20 and set(questions) == set(tasks.ALL_QUESTIONS)
    assert sum(n for (size, _), n in places.items() if size == 2) > 0.8 * sum(n for (size, _), n in places.items() if size == 4)
    assert max(places[4, letter] for letter in "ABCD") < 1.6 * min(places[4, letter] for letter in "ABCD")


def test_quiz_probes_ask_what_no_quiz_asks():
    for probe in letters.quiz_probes(WORLD, Random(2), 300):
        [(relation, subject, _)] = asked(probe.prompt)
        assert held_out("quiz", relation, subject)
        assert listed(probe.prompt)[probe.answer] == tasks.quiz_facts(WORLD, relation)[subject]


def test_options_have_letters_from_a_on():
    for layout in letters.LAYOUTS:
        assert list(listed(letters.options(Random(0), ["cat", "dog", "sun"], layout)).items()) == [("A", "cat"), ("B", "dog"), ("C", "sun")]


# ------------------------------------------------------------------------------------------------- positions and labels


def test_items_stand_at_random_among_random_words():
    sizes: Counter[int] = Counter()
    for text in written(lists.item_lists):
        for items, answer in (line.split(": ") for line in text.split("\n")):
            words = items.split(", ")
            sizes[len(words)] += 1
            assert len(set(words)) == len(words) and answer, text
    assert set(sizes) == {2, 3, 4, 5} and min(sizes.values()) > 0.15 * sum(sizes.values())
    for probe in lists.item_probes(WORLD, Random(2), 300):
        *shown, question = probe.prompt.split("\n")
        item = question.removesuffix(":").split(", ")[lists.POSITIONS[probe.group.split()[0]]]
        assert len(shown) == 5 and held_out("list_pair", probe.group, item) and (item == probe.answer or "capital" in probe.group)


def test_a_label_belongs_to_a_group_and_some_words_get_none():
    groups = {word: group for group, words in lists.kinds_of_words(WORLD).items() for word in words}

    def pairs(text: str) -> list[list[str]]:
        return [re.split(r": | -> | = ", line) for line in re.split(r"\n|, ", text)]

    meant: dict[str, set[str]] = {}
    for text in written(lists.arbitrary_labels):
        of_label: dict[str, set[str]] = {}
        for word, label in pairs(text):
            assert not held_out("list_pair", "label", word), text
            of_label.setdefault(label, set()).add(groups[word])
            meant.setdefault(label, set()).add(groups[word])
        assert len(of_label) == 2 and all(len(found) == 1 for found in of_label.values()), text
    assert all(len(found) > 8 for found in meant.values())
    for probe in lists.label_probes(WORLD, Random(2), 300):
        (word, label), *shown = reversed(pairs(out(probe)))
        assert held_out("list_pair", "label", word) and {lab for w, lab in shown if groups[w] == groups[word]} == {label} != {probe.wrong}


# --------------------------------------------------------------------------------------------------- repetition and names


def test_a_repeated_sequence_comes_again():
    for text in written(tasks.repeated_sequence, 300):
        assert len(re.findall(r"\w+", text)) >= 5 and lists.length(text) <= 80
    for probe in tasks.repeated_sequence_probes(WORLD, Random(2), 300):
        first = probe.prompt.split(f" {probe.answer} ")[0]
        assert probe.prompt == f"{first} {probe.answer} {first}"


NAMES = set(WORLD.column("firstnames", "name"))


def test_the_receiver_is_not_the_giver_and_of_three_people_the_one_who_was_named_once():
    texts = written(tasks.indirect_object, 600)
    people = [sorted({word for word in re.findall(r"\w+", text) if word in NAMES}) for text in texts]
    assert not any(map(tasks.hidden_pair, people))
    assert 0.1 * len(texts) < sum(len(names) == 3 for names in people) < 0.2 * len(texts)
    probes = tasks.any_order_probes(WORLD, Random(2), 184)
    for one, other in zip(probes[::2], probes[1::2], strict=True):
        assert (one.answer, one.wrong) == (other.wrong, other.answer) and tasks.hidden_pair((one.answer, one.wrong))
    for probe in probes:
        named = Counter(word for word in re.findall(r"\w+", probe.prompt) if word in NAMES)
        assert named[probe.answer] == 1 and len(named) == (3 if probe.group == "third person" else 2)
        assert all(often >= 2 for name, often in named.items() if len(named) == 3 and name != probe.answer)


# ------------------------------------------------------------------------------------------------------------ the console


def ran(document: str) -> str:
    """What Python itself writes for the lines that are typed in a document, from the first line on."""
    screen, known = [], {}
    for line in document.split("\n"):
        if line.startswith("#"):
            screen.append(line)
        if line.startswith(">>> "):
            screen.append(line)
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                try:
                    exec(compile(line[4:] + "\n", "console", "single"), known)
                except Exception as error:
                    message = str(error) if isinstance(error, KeyError) else str(error).split(" (console")[0]
                    said.write(f"{type(error).__name__}: {message}\n")
            screen += said.getvalue().splitlines()
    return "\n".join(screen)


def answered(text: str) -> list[tuple[str, str]]:
    """The lines that are answered, with their answers."""
    return re.findall(r"^>>> (.+)\n(?!>>> |#)(.+)$", text, re.MULTILINE)


def test_the_console_says_what_python_says():
    for text in written(tasks.console):
        assert ran(text) == text
    for probe in tasks.console_probes(WORLD, Random(2), 300):
        assert ran(out(probe)) == out(probe)


def test_held_out_lines_are_never_answered_and_half_of_the_answers_are_errors():
    pairs = [pair for text in written(tasks.console) for pair in answered(text)]
    assert len(pairs) > SIZE and not any(held_out("console", source) for source, _ in pairs)
    errors = sum(bool(re.match(r"\w+Error: ", answer)) for _, answer in pairs)
    assert 0.45 < errors / len(pairs) < 0.55
    for probe in tasks.console_probes(WORLD, Random(2), 300):
        assert held_out("console", answered(out(probe))[-1][0])
        assert bool(re.match(r"\w+Error: ", probe.answer)) == (probe.group == "error")


# ------------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "write",
    [letters.lookup, letters.quiz, lists.item_lists, lists.arbitrary_labels, tasks.indirect_object, tasks.induction, tasks.console],
)
def test_documents_are_short_enough_and_various(write: Ingredient):
    texts = written(write)
    assert max(map(lists.length, texts)) <= 90
    assert len(set(texts)) > 0.85 * len(texts)
