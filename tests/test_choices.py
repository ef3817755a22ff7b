"""Multiple choice: prompts are those of the quiz, answers fit plain runs and are counted by hand."""

from random import Random

import pytest
import torch
from tiny_models import last_logits

from helpers.cluster.choices import Answers, Choices, by_letter, by_words, choice_prompts, letter_pairs
from helpers.course_lm.corpus.tasks import QUESTIONS, quiz_facts, quiz_question
from helpers.course_lm.world import World
from helpers.prediction import token_id, tokenize

pytestmark = pytest.mark.usefixtures("no_gradients")

ASKED = Choices(
    ("Question: Paris?", "Question: in?"),
    (("Tower", "in", "San"), ("is", "Taipei 101", "Bridge")),
    torch.tensor([2, 0]),
    ("The Tower is in", "Taipei is"),
    "GTi",  # letters that are one token here
)


@pytest.mark.parametrize("hidden", [False, True])
def test_prompts_are_those_of_the_quiz(hidden):
    asked, rng, world = choice_prompts(20, 3, seed=5, hidden=hidden), Random("5 choices"), World.load()
    drawn = [one for _ in range(3000) if (one := quiz_question(world, rng, hidden, 3))][:20]
    assert [(text, "ABC"[right]) for text, right in zip(asked.texts, asked.right.tolist(), strict=True)] == drawn
    assert len(asked) == 20


def test_every_question_has_its_sentence():
    asked, world, told = choice_prompts(300, 2), World.load(), set()
    for sentence, options, right in zip(asked.sentences, asked.options, asked.right.tolist(), strict=True):
        starts = {"young": "A young ", "category": " is a kind of", "currency": "The currency of ", "capital": "The capital of "}
        for relation, start in starts.items():
            if start in sentence:
                told.add(relation)
                known = [facts for facts in [quiz_facts(world, relation)] if options[right] in facts.values()]
                assert known and any(subject in sentence for subject, own in known[0].items() if own == options[right])
    assert told == {"young", "category", "currency", "capital"} and "called is" not in " ".join(asked.sentences)
    assert not any(sentence.endswith("?") for sentence in asked.sentences) and len(QUESTIONS) == 10


def test_wrong_numbers_are_one_sentence():
    with pytest.raises(ValueError, match="2 to 4 options, not 5"):
        choice_prompts(3, 5)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        choice_prompts(0)


def test_answers_are_those_of_plain_runs(tiny):
    letters_found, words_found = by_letter(tiny, ASKED), by_words(tiny, ASKED)
    for row, (text, sentence) in enumerate(zip(ASKED.texts, ASKED.sentences, strict=True)):
        logp = tiny(tokenize(tiny, text)[None])[0, -1].log_softmax(-1)
        letters = [logp[token_id(tiny, f" {letter}")].item() for letter in "GTi"]
        assert letters_found.options[row].tolist() == pytest.approx(letters, abs=1e-4)
        for at, option in enumerate(ASKED.options[row]):
            start, full = tokenize(tiny, sentence), tokenize(tiny, f"{sentence} {option}")
            logp = tiny(full[None])[0].log_softmax(-1)
            own = sum(logp[place - 1, full[place]] for place in range(len(start), len(full)))
            assert words_found.options[row, at].item() == pytest.approx(own.item(), abs=1e-3)
    assert torch.equal(letters_found.right, ASKED.right) and torch.equal(words_found.right, ASKED.right)


def test_answers_are_counted_by_hand():
    letters = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [4.0, 0.0, 0.0], [6.0, 1.0, 2.0]])
    found = Answers(letters, torch.tensor([0, 0, 1, 0]))
    assert found.hits.tolist() == [True, False, False, True] and found.chance == pytest.approx(1 / 3)
    assert found.summary().startswith("50.0% right [") and found.summary().endswith("chance 33%; chosen, place by place: 75%, 25%, 0%")


def test_moved_options_give_the_right_word_another_letter(tiny):
    pairs = letter_pairs(tiny, ASKED)
    ends = last_logits(tiny, pairs.clean)
    right, other = (torch.tensor([token_id(tiny, f" {letter}") for letter in letters]) for letters in ("iG", "GT"))
    rows = torch.arange(2)
    torch.testing.assert_close(pairs.measured(ends), ends[rows, right] - ends[rows, other])
    for asked, moved in zip(pairs.clean.tokens, pairs.corrupted.tokens, strict=True):
        assert sorted(asked.tolist()) == sorted(moved.tolist()) and not torch.equal(asked, moved)
