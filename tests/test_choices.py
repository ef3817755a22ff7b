"""Multiple choice: prompts are those of the quiz, answers are counted by hand, and attention and shares fit plain runs."""

from random import Random

import pytest
import torch
from test_neurons import as_before, tiny

from helpers.cluster.choices import Answers, Choices, Looks, answer, attribute_letters, choice_prompts, item_looks, letter_looks
from helpers.course_lm.corpus.tasks import QUESTIONS, quiz_facts, quiz_question
from helpers.course_lm.world import World
from helpers.interventions import pattern
from helpers.one_layer.tasks import icl_prompts, item_task
from helpers.prediction import token_id, tokenize

__all__ = ["as_before", "tiny"]  # fixtures

ASKED = Choices(
    ("Question: Paris?", "Question: in?"),
    (("Tower", "in", "San"), ("is", "Taipei 101", "Bridge")),
    torch.tensor([2, 0]),
    ("The Tower is in", "Taipei is"),
    "GTi",  # letters that are one token here
)


def patterns(model, ids: torch.Tensor) -> list[torch.Tensor]:
    """Where all heads look from the last token: for each layer ``[head, key]``."""
    seen = []
    with model.hooks(fwd_hooks=[(pattern(layer), lambda value, hook: seen.append(value[0, :, -1])) for layer in range(model.cfg.n_layers)]):
        model(ids[None])
    return seen


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("hidden", [False, True])
def test_prompts_are_those_of_the_quiz(hidden):
    asked, rng, world = choice_prompts(20, 3, seed=5, hidden=hidden), Random("5 choices"), World.load()
    drawn = [one for _ in range(3000) if (one := quiz_question(world, rng, hidden, 3))][:20]
    assert [(text, "ABC"[right]) for text, right in zip(asked.texts, asked.right.tolist(), strict=True)] == drawn
    assert len(asked) == 20 and asked.n_options == 3


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


def test_options_are_turned_and_letters_changed():
    turned, other = ASKED.turned(), ASKED.relabelled("XYZ")
    assert turned.options[0] == ("San", "Tower", "in") and turned.right.tolist() == [0, 1]
    assert ASKED.turned(3).options == ASKED.options and torch.equal(ASKED.turned(3).right, ASKED.right)
    for changed in (turned, other):  # the right words stay the right ones
        assert [own[at] for own, at in zip(changed.options, changed.right, strict=True)] == ["San", "is"]
    assert other.texts[0] == "Question: Paris?\nX: Tower\nY: in\nZ: San\nAnswer:"


def test_wrong_numbers_and_letters_are_one_sentence():
    with pytest.raises(ValueError, match="2 to 4 options, not 5"):
        choice_prompts(3, 5)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        choice_prompts(0)
    for letters in ("XY", "XXY"):
        with pytest.raises(ValueError, match="3 options need as many different letters"):
            ASKED.relabelled(letters)


# --------------------------------------------------------------------------------------------------------------- answers


def test_answers_are_those_of_plain_runs(tiny):
    found = answer(tiny, ASKED)
    for row, (text, sentence) in enumerate(zip(ASKED.texts, ASKED.sentences, strict=True)):
        logp = tiny(tokenize(tiny, text)[None])[0, -1].log_softmax(-1)
        letters = [logp[token_id(tiny, f" {letter}")].item() for letter in "GTi"]
        assert found.letters[row].tolist() == pytest.approx(letters, abs=1e-4)
        for at, option in enumerate(ASKED.options[row]):
            start, full = tokenize(tiny, sentence), tokenize(tiny, f"{sentence} {option}")
            logp = tiny(full[None])[0].log_softmax(-1)
            own = sum(logp[place - 1, full[place]] for place in range(len(start), len(full)))
            assert found.words[row, at].item() == pytest.approx(own.item(), abs=1e-3)
    assert torch.equal(found.right, ASKED.right)


def test_answers_are_counted_by_hand():
    letters = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [4.0, 0.0, 0.0], [6.0, 1.0, 2.0]])
    found = Answers(letters, -letters, torch.tensor([0, 0, 1, 0]))
    assert found.letter_hits.tolist() == [True, False, False, True] and found.word_hits.tolist() == [False, True, True, False]
    assert found.margin.tolist() == [1.5, -3.0, -2.0, 4.5] and found.chosen.tolist() == [0.75, 0.25, 0.0]
    assert found.chance == pytest.approx(1 / 3)
    assert "50.0%" in found.table() and found.table().endswith("75%, 25%, 0%")


# ----------------------------------------------------------------------------------------------------------------- heads


def test_the_shares_of_all_components_are_the_margin(tiny):
    found = attribute_letters(tiny, ASKED)
    assert found.effect.shape[1] == 2 and found.effect.abs().amax() > 0.01
    ids = ASKED.letter_ids(tiny)
    logits = torch.stack([tiny(tokenize(tiny, text)[None])[0, -1, ids] for text in ASKED.texts])
    right = logits.gather(1, ASKED.right[:, None])[:, 0]
    margin = right - (logits.sum(1) - right) / 2
    assert torch.allclose(margin, answer(tiny, ASKED).margin, atol=1e-3)
    assert torch.allclose(found.total, margin, atol=1e-3)


def test_attention_goes_to_the_tokens_of_the_lines(tiny):
    found = letter_looks(tiny, ASKED)
    for row, text in enumerate(ASKED.texts):
        ids = tokenize(tiny, text)
        seen = patterns(tiny, ids)
        for part, line in enumerate(text.split("\n")[1:-1]):
            before = text.split(f"\n{line}\n")[0] + "\n"
            own = slice(len(tokenize(tiny, before)), len(tokenize(tiny, before + line)))
            assert tiny.tokenizer.decode(ids[own].tolist()) == line
            for layer in range(2):
                plain = seen[layer][:, own].sum(-1)
                assert torch.allclose(found.attention[layer, :, row, part], plain, atol=1e-5)


def test_looks_are_averaged_by_hand():
    attention = torch.zeros(1, 2, 2, 3)
    attention[0, 0] = torch.tensor([[0.5, 0.1, 0.3], [0.0, 0.2, 0.6]])
    found = Looks(attention, torch.tensor([0, 2]))
    assert found.to_right[0].tolist() == pytest.approx([0.55, 0]) and found.to_others[0].tolist() == pytest.approx([0.15, 0])
    assert found.preference[0, 0].item() == pytest.approx(0.4) and found.top(1) == [(0, 0)]
    assert found.table(1).split("\n")[1].split() == ["a0.0", "0.550", "0.150"]


@pytest.mark.parametrize("task, which", [("first copy", 0), ("last copy", 1)])
def test_items_are_found_at_both_ends_of_the_list(course_lm, task, which):
    looks, effects = item_looks(course_lm, task, n=4, shots=1)
    assert looks.attention.shape[-1] == 2 and (looks.right == which).all() and effects.effect.shape[1] == len(looks.right)
    other = item_looks(course_lm, task, n=4, shots=1, seed=1)[0]
    assert looks.attention.sum(-1).max() <= 1.0001 and not torch.equal(other.attention, looks.attention)
    text = icl_prompts(item_task(task, "country_capital"), 4, 1, dummy=True)[0].text
    items = text.rsplit("\n", 1)[1].rstrip(":").split(", ")
    before = text[: len(text) - 1 - len(", ".join(items))]
    ids = tokenize(course_lm, text)
    first = slice(len(tokenize(course_lm, before)), len(tokenize(course_lm, before + items[0])))
    last = slice(len(tokenize(course_lm, text[: -1 - len(items[-1])].rstrip())), len(ids) - 1)
    seen = patterns(course_lm, ids)[6]
    for part, own in enumerate((first, last)):
        assert course_lm.tokenizer.decode(ids[own].tolist()).strip() == items[-part]
        assert torch.allclose(looks.attention[6, :, 0, part], seen[:, own].sum(-1), atol=1e-5)


def test_only_copies_are_looked_for(tiny):
    for task in ("last plural", "middle copy"):
        with pytest.raises(ValueError, match="'first copy' or 'last copy'"):
            item_looks(tiny, task)
