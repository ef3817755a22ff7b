"""Explanations: the toy language says what it reads and reads what it says, planted rules are found, and scores are correlations."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.activations import Context, TopContexts, contexts, top_contexts
from helpers.models import ModelNotAvailable
from helpers.one_neuron import explanations
from helpers.one_neuron.explanations import (
    CLASSES,
    NOTHING,
    PLACES,
    SPOKEN,
    STRONG,
    WEAK,
    Clause,
    Condition,
    Explanations,
    chat_explainer,
    correlation,
    explain,
    explain_simply,
    instruction,
    mixed_contexts,
    read,
    score,
    simulate,
    write,
)
from helpers.texts import as_texts


def cut(text: str) -> list[str]:
    """A text in pieces: each word with the space before it, and marks by themselves."""
    return re.findall(r"<\|\w+\|>|\n| ?\w+| ?[^\w\s]", text)


def on(sentence: str, text: str) -> list[str]:
    """The tokens of a text on which a sentence guesses anything."""
    pieces = cut(text)
    return [piece.strip(" ") for piece, guess in zip(pieces, simulate(sentence, pieces), strict=True) if guess > 0]


@pytest.mark.parametrize(
    ("sentence", "text", "expected"),
    [
        ('Active on "is".', "This is it; IS it?", ["is", "IS"]),
        ('on "is" and "are", after "capital" or "city"', "The capital is, the cities are, a city are", ["is", "are"]),
        ('on "is" or "was", after "of" or "in"', "of is in is at was of was", ["is", "is", "was"]),
        ('on "was"; after "in"', "of is in is at was of was", ["is", "was", "was"]),
        ('on "New York"', "York is not New York.", ["York"]),
        ('on "art"', "art starts part", ["art"]),
        ('words ending in "s"', "cats and dog s runs", ["cats", "runs"]),
        ('words starting with "un"', "unable under sun Unkind", ["unable", "under", "Unkind"]),
        ("numbers", "In 1989 there were 12 of 3a", ["1989", "12"]),
        ("capitalised words", "The Tower of london Bridge", ["The", "Tower", "Bridge"]),
        ("punctuation", "Well, yes. No!", [",", ".", "!"]),
        ("line breaks", "one\ntwo", ["\n"]),
        ("Chinese characters", "He said 巴黎 twice", ["巴黎"]),
        ("accented letters", "the café of Zürich and Rome", ["café", "Zürich"]),
        ("chat marks", "<|user|>Hi<|assistant|>Hello", ["<|user|>", "<|assistant|>"]),
        ('after "of"', "the end of all of it", ["all", "it"]),
        ('before "is"', "what is this is", ["what", "this"]),
        ("before Chinese characters", "He said 巴黎 twice", ["said"]),
        ("after numbers, before punctuation", "In 12 left, 3 more", ["left"]),
        ('before "new york"', "In New York, new Paris", ["In"]),
        ('in texts with "Poland"', "Ask Poland now please", ["now", "please"]),
        ("at the start of a sentence", "One two. Three! four five", ["One", "Three", "four"]),
        ("at the start of a line", "One two\nThree. Four", ["One", "Three"]),
        ("at the start of the text", "One two three four", ["One", "two"]),
        ("inside quotation marks", 'She said "come in" to me', ["come", "in", '"']),
        ("in an answer of the assistant", "<|user|>What is it<|assistant|>A cat<|user|>Why", ["A", "cat", "<|user|>"]),
        ('numbers in texts with "euro"', "12 times a euro is 12", ["12"]),
        ('It likes "Paris", I think, and also numbers!', "Paris has 3 in Rome", ["Paris", "3"]),
        ("“is” – ACTIVE AFTER “of”, AT THE START OF THE TEXT", "Of is of is", ["is"]),
        (NOTHING, "One two three", []),
        ("I have no idea", "One two three", []),
        ('on "" or "  "', "One two three", []),
        ("", "One two three", []),
    ],
)
def test_what_a_sentence_says_is_guessed(sentence: str, text: str, expected: list[str]):
    assert on(sentence, text) == expected


@pytest.mark.parametrize("sentence", ['weakly on numbers; on "3"', 'on "3"; weakly on numbers'])
def test_weakly_halves_the_guess_and_the_stronger_of_two_clauses_counts(sentence: str):
    assert simulate(sentence, cut("3 and 4")) == [STRONG, 0.0, WEAK]


def test_later_pieces_of_a_word_are_those_that_go_on_with_letters():
    pieces = ["un", "believ", "able", " and", "42", "nd", "."]
    assert [at for at, guess in enumerate(simulate("later pieces of a word", pieces)) if guess] == [1, 2]
    assert simulate('on "unbelievable"', pieces) == [0, 0, STRONG, 0, 0, 0, 0]  # the word ends with its last piece


def test_a_clause_is_read_into_its_conditions():
    assert read('Active on "Is" and "are", after "capital"; weakly on numbers, in texts with "euro".') == [
        Clause((Condition("on", "is"), Condition("on", "are"), Condition("after", "capital")), STRONG),
        Clause((Condition("numbers"), Condition("with", "euro")), WEAK),
    ]
    assert read('weakly after "of"; "is"') == [Clause((Condition("after", "of"),), WEAK), Clause((Condition("on", "is"),), STRONG)]


def test_a_clause_is_written_as_a_sentence():
    clauses = [
        Clause((Condition("after", "capital"), Condition("on", "is"), Condition("on", "are"), Condition("numbers"), Condition("on", "x"))),
        Clause((Condition("at the start of a line"), Condition("ending", "s"), Condition("with", "euro")), WEAK),
    ]
    assert write(clauses) == (
        'Active on "is", "are", "x" or numbers, after "capital"; '
        'weakly on words ending in "s", at the start of a line, in texts with "euro".'
    )
    assert write([]) == NOTHING and read(NOTHING) == []


WORD = st.text(st.characters(exclude_characters='"“”', exclude_categories=["Cs"]), min_size=1, max_size=12)
SPOKEN_CONDITION = st.tuples(st.sampled_from(SPOKEN), WORD.map(lambda word: word.casefold().strip()).filter(bool))
FIXED_CONDITION = st.tuples(st.sampled_from([*CLASSES, *PLACES]), st.just(""))
CLAUSE = st.tuples(st.lists(SPOKEN_CONDITION | FIXED_CONDITION, min_size=1, max_size=6, unique=True), st.sampled_from([STRONG, WEAK]))
PIECES = st.lists(st.sampled_from(["a", " is", " 3", "\n", '"', " Un", "s"]), min_size=1, max_size=9)


def built(drawn: list[tuple[list[tuple[str, str]], float]]) -> list[Clause]:
    """Clauses out of what was drawn for them; their words are casefolded once more where that changes them again."""
    return [Clause(tuple(Condition(kind, word.casefold()) for kind, word in conditions), level) for conditions, level in drawn]


def said(clauses: list[Clause]) -> list[tuple[frozenset[Condition], float]]:
    """What clauses mean, whatever the order of their conditions."""
    return [(frozenset(clause.conditions), clause.level) for clause in clauses]


@settings(max_examples=300)
@given(st.lists(CLAUSE, max_size=4))
def test_whatever_is_written_is_read_again(drawn: list):
    clauses = built(drawn)
    sentence = write(clauses)
    assert said(read(sentence)) == said(clauses) and write(read(sentence)) == sentence


@settings(max_examples=200)
@given(st.text(max_size=80), st.lists(st.text(max_size=6), max_size=12))
def test_any_sentence_gets_a_guess_from_0_to_10_for_every_token(sentence: str, pieces: list[str]):
    guesses = simulate(sentence, pieces)
    assert len(guesses) == len(pieces) and set(guesses) <= {0.0, WEAK, STRONG}


@settings(max_examples=200)
@given(st.lists(CLAUSE, min_size=1, max_size=3), PIECES)
def test_a_guess_is_the_highest_level_of_the_clauses_that_hold(drawn: list, pieces: list[str]):
    clauses = built(drawn)
    one_by_one = [simulate(write([clause]), pieces) for clause in clauses]
    assert simulate(write(clauses), pieces) == [max(levels) for levels in zip(*one_by_one, strict=True)]


TEXTS = [
    "The capital of Poland is Warsaw. The city of Gdansk is old.",
    "Where is the capital of Peru? The capital of Peru is Lima.",
    "Cats and dogs are animals, and a cat is 12 years old.",
    "In 1989 she paid 30 euro for the ticket to Paris.",
    "What is new? The river is long and the hills are high.",
    "My friends have 3 books; the books are new.",
    "The capital of Chile is Santiago and the trains are late.",
    'He said "the sea is blue" and left at 7.',
]


def contexts_for(rule: str, texts: list[str] = TEXTS, gain: float = 0.7) -> list[Context]:
    """Texts on which a made-up neuron follows a rule of the toy language exactly."""
    return [
        Context(tuple(pieces), tuple(gain * guess for guess in simulate(rule, pieces)), "made", row)
        for row, pieces in enumerate(map(cut, texts))
    ]


@pytest.mark.parametrize(
    "rule",
    [
        'Active on "is".',
        "Active on numbers.",
        "Active on punctuation.",
        'Active on words ending in "s".',
        'Active after "of".',
        'Active on "is" or numbers.',
        'Active on "is"; weakly on numbers.',
        "Active at the start of a sentence.",
        "Active inside quotation marks.",
        'Active on "is", in texts with "capital".',
    ],
)
def test_a_planted_rule_is_found_and_holds_on_other_texts(rule: str):
    sentence = explain_simply(contexts_for(rule))
    assert score(sentence, contexts_for(rule)) == pytest.approx(1, abs=0.02)
    unseen = ["The capital of Kenya is Nairobi. The books of 1990 are 5, and it is late.", 'She said "the capital of Mali is hot" 8 times.']
    assert score(sentence, contexts_for(rule, unseen)) > 0.6


def test_a_silent_neuron_and_one_that_never_changes_are_active_on_nothing_in_particular():
    silent = [Context(tuple(cut(text)), (0.0,) * len(cut(text)), "made", 0) for text in TEXTS]
    assert explain_simply(silent) == NOTHING
    assert explain_simply([Context(context.pieces, (2.0,) * len(context.pieces), "made", 0) for context in silent]) == NOTHING


def test_what_is_found_can_be_read_even_where_the_neuron_likes_quotation_marks():
    quoted = ['He said "yes" and "no".', "“Yes” or no, 12 times.", 'x "y" “z”\n\n“No”, he said.']
    marks = [Context(tuple(cut(text)), tuple(float(piece.strip() in '"“”') for piece in cut(text)), "made", 0) for text in quoted]
    for seen in (marks, contexts_for('after "said"', [*TEXTS, *quoted])):
        sentence = explain_simply(seen)
        assert read(sentence) and write(read(sentence)) == sentence


def test_a_sentence_stays_short_enough_to_be_read():
    rng = np.random.default_rng(0)
    noise = [Context(tuple(cut(text)), tuple(rng.random(len(cut(text))).tolist()), "made", 0) for text in TEXTS]
    assert sum(len(clause.conditions) for clause in read(explain_simply(noise))) <= 8


def test_correlation_is_pearsons():
    x, y = [1.0, 2.0, 4.0, 0.0], [0.5, 3.0, 2.0, 1.0]
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, [-3 * value + 2 for value in x]) == pytest.approx(-1)
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0 == correlation([1.0, 2.0], [0.0, 0.0])


def test_a_score_is_the_correlation_over_all_tokens_of_all_contexts():
    unseen = [Context(("a", " is"), (0.5, 3.0), "made", 0), Context((" is", " 3", " b"), (2.0, 1.0, 0.0), "made", 1)]
    expected = np.corrcoef([0, 10, 10, 0, 0], [0.5, 3.0, 2.0, 1.0, 0.0])[0, 1]
    assert score('on "is"', unseen) == pytest.approx(expected)


def test_without_contexts_nothing_is_explained_or_scored():
    with pytest.raises(ValueError, match=r"There is nothing to explain: give at least one context\.$"):
        explain_simply([])
    with pytest.raises(ValueError, match=r"A sentence can only be scored on contexts: give at least one\.$"):
        score("on numbers", [])


@pytest.fixture(scope="module")
def tops(small) -> tuple[TopContexts, TopContexts]:
    """Twelve short texts scanned in two halves."""
    texts = [f"{word} {number} is{mark}" for number, word in enumerate(("cat", "a dog", "Paris")) for mark in ("", ".", "\n", "!")]
    return top_contexts(small, as_texts(small, texts[::2]), k=4), top_contexts(small, as_texts(small, texts[1::2]), k=4)


def busy(top: TopContexts, n: int) -> list[tuple[int, int]]:
    """Neurons that are active in at least k texts."""
    return [tuple(found) for found in (top.values[..., -1] > 0).nonzero().tolist()[:n]]


def test_contexts_are_the_best_texts_then_others_drawn_by_the_seed(small, tops):
    top, neurons = tops[0], busy(tops[0], 3)
    found = mixed_contexts(small, top, neurons, n_top=2, n_random=3)
    assert list(found) == neurons
    for neuron in neurons:
        rows = [context.row for context in found[neuron]]
        assert rows[:2] == top.where(*neuron)[0][:2] and len(set(rows)) == 5
        assert found[neuron] == contexts(small, top.texts, {neuron: rows})[neuron]
    everything = mixed_contexts(small, top, neurons[:1], n_top=4, n_random=100)[neurons[0]]
    assert sorted(context.row for context in everything) == list(range(len(top.texts)))
    again, other = (mixed_contexts(small, top, neurons, n_top=2, n_random=3, seed=seed) for seed in (0, 1))
    assert again == found != other


def test_neurons_are_explained_from_one_set_of_texts_and_scored_on_another(small, tops):
    seen, unseen = tops
    neurons, given_to = busy(seen, 4), []

    def explainer(some) -> str:
        given_to.append(some)
        return f'on "{len(given_to)}" or numbers; on "i"'

    found = explain(small, seen, unseen, neurons, explainer, n_controls=2)
    assert found.neurons == tuple(neurons) and given_to == list(mixed_contexts(small, seen, neurons).values())
    assert found.sentences == tuple(f'on "{number}" or numbers; on "i"' for number in range(1, 5))
    new = mixed_contexts(small, unseen, neurons, seed=1)
    assert found.scores == tuple(score(sentence, new[neuron]) for sentence, neuron in zip(found.sentences, neurons, strict=True))
    for own, neuron, controls in zip(found.sentences, neurons, found.controls, strict=True):
        others = sorted(score(other, new[neuron]) for other in found.sentences if other != own)
        assert len(controls) == 2 and all(value in others for value in controls)
    every = explain(small, seen, unseen, neurons, lambda some: f'on "{len(some)}"', n_controls=50)
    assert all(len(controls) == 3 for controls in every.controls)


def test_the_table_lists_the_best_explained_neurons_first():
    found = Explanations(((0, 1), (1, 22)), ("on numbers.", "on Paris."), (0.25, 0.5), ((0.1, 0.3), ()))
    assert found.table().splitlines() == [
        "neuron     score  control",
        "L1 N22     +0.50  +0.00   on Paris.",
        "L0 N1      +0.25  +0.20   on numbers.",
    ]
    assert len(found.table(1).splitlines()) == 2


def test_a_chat_model_sees_the_texts_with_activations_from_1_to_10():
    seen = [Context(("The", " cat", "\n"), (0.0, 4.0, -1.0), "made", 0), Context((" is", " so"), (2.0, 0.1), "made", 1)]
    question = instruction(seen)
    assert "- The cat [10]⏎\n-  is [5] so\n" in question and question.endswith("The sentence:")
    assert all(phrase in question for phrase in (*CLASSES, *PLACES))
    assert all(phrase in question for phrase in (*(f'{way} "..."' for way in ("before", "in texts with")), "starting with", "ending in"))
    assert "- a b\n" in instruction([Context(("a", " b"), (0.0, 0.0), "made", 0)])


def test_a_chat_model_explains_greedily_in_one_line(gpt2):
    seen = contexts_for("on numbers", TEXTS[:2])
    explainer = chat_explainer(str(gpt2.folder), tokens=8)
    sentence = explainer(seen)
    assert sentence and "\n" not in sentence and sentence == explainer(seen)
    assert isinstance(score(sentence, seen), float)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("\n  Active on numbers. \nAnd so on", "Active on numbers."), ("on 3", "on 3"), ("", NOTHING), (" \n\n ", NOTHING)],
)
def test_the_first_line_of_an_answer_counts(gpt2, monkeypatch, answer: str, expected: str):
    asked = []
    monkeypatch.setattr(explanations, "generate", lambda chat, prompts, tokens: asked.append((prompts, tokens)) or [answer])
    seen = contexts_for("on numbers", TEXTS[:2])
    assert chat_explainer(str(gpt2.folder), 20)(seen) == expected
    assert asked == [([f"user: {instruction(seen)}\n"], 20)]


def test_a_model_that_does_not_chat_is_refused_in_a_sentence(small):
    with pytest.raises(ModelNotAvailable, match=r"is no chat model, since its tokenizer has no chat template: take one whose name ends in"):
        chat_explainer(str(small.folder))
