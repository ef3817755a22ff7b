"""The exercises of notebook 04a: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: what is said, read and edited is planted.
"""

from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise

from helpers.cluster.fact_prompts import FactPrompt
from helpers.speak import exercises_04a
from helpers.speak.exercises_04a import exercises
from helpers.speak.fact_edits import Edit, EditScores
from helpers.speak.lens import BlockEffects, LensScores
from helpers.speak.memories import Agreement, ReadableValues
from helpers.speak.self_explanations import SelfExplanations
from helpers.speak.tuned_lens import TunedLens


def test_an_account_that_changes(tiny, monkeypatch: pytest.MonkeyPatch):
    def self_explanations(model, questions, answers=None, why=""):
        said = answers or ["It is Tokyo."]
        reason = "I saw it." if "sea" in said[0] else "I read it in a book."
        return SelfExplanations(tuple(questions), tuple(said), (reason,))

    monkeypatch.setattr(exercises_04a, "self_explanations", self_explanations)
    question = "What is the capital of Japan?"
    wrong = [
        ((question, "It is Rome.", "It is Paris."), "does not have 'Tokyo' in it"),
        ((question, "It is Tokyo.", "Tokyo, no doubt."), "which is true: put something else there"),
        ((question, "It is Tokyo.", "It is Paris."), "Here both accounts are 'I read it in a book.'"),
        ((question, "It is Tokyo."), "Three texts are needed here"),
        ((question, "", "It is Paris."), "an empty text"),
    ]
    sum_of = ("What is 10 + 6?", "It is 16.", "It is the sea.")
    assert exercises.exercise("4.1").verdict(sum_of, model=tiny).solved, "the model may be wrong; what is true is true"
    digits = ("What is 2 + 3?", "It is 5.", "It is 15, the sea.")
    assert exercises.exercise("4.1").verdict(digits, model=tiny).solved, "15 is not 5"
    wrong.append((("What is 2 + 3?", "It is 15.", "It is the sea."), "your true answer does not have '5' in it"))
    wrong.append((("What is 10 + 6?", "It is Tokyo.", "It is the sea."), "10 + 6 is 16, and your true answer does not have '16' in it"))
    assert_exercise(exercises, "4.1", (question, "It is Tokyo.", "It is the sea."), wrong, stub=(..., ..., ...), model=tiny)


def test_who_is_against_it(tiny, monkeypatch: pytest.MonkeyPatch):
    effects = BlockEffects(("constant", "embedding", "MLP 0"), torch.tensor([[0.1], [-0.2], [-1.5]]))
    monkeypatch.setattr(exercises_04a, "block_effects", lambda *given: effects)
    monkeypatch.setattr(exercises_04a, "token_id", lambda model, word: 3)
    wrong = [("embedding", "another part adds less"), ("MLP 7", "There is no part 'MLP 7'"), (2, "A text in quotes is needed")]
    assert_exercise(exercises, "4.2", "MLP 0", wrong, stub=..., model=tiny)


def lens(how: str):
    def function(model, states):
        axis = {"keepdim": True, "dim": -1}
        centred = states - (states.mean() if how == "one mean" else states.mean(**axis))
        normed = states if how in ("bare", "bare logits") else centred / (centred.square().mean(**axis) + model.cfg.eps).sqrt()
        logits = normed @ model.W_U + model.b_U
        return logits if "logits" in how else logits.softmax(0 if how == "over states" else -1)

    return function


def test_build_the_lens(tiny):
    wrong = [
        (lens("logits"), "These are logits"),
        (lens("over states"), "over the words"),
        (lens("bare"), "The final norm is missing"),
        (lens("bare logits"), "The final norm is missing"),
        (lens("one mean"), "belong to each state by itself"),
        (lambda model, states: lens("right")(model, states)[0], "shape"),
    ]
    assert_exercise(exercises, "4.3", lens("right"), wrong, stub=lambda model, states: ..., model=tiny)


def test_overtaken(tiny, monkeypatch: pytest.MonkeyPatch):
    ranks = {"a": [1, 0, 2, 0], "b": [1, 1, 0, 0], "c": [0, 0, 1, 1]}
    words = {-1: "x", 0: "Rome", 1: "Paris", 2: "Rome"}
    facts = [FactPrompt(text, "Rome", text, 0, "capital", (), ()) for text in ranks]

    def target_probs(model, texts, ids, tuned):
        rank = torch.tensor(ranks[texts[0]])[:, None]
        return LensScores((-1, 0, 1, 2), -rank.float(), rank)

    monkeypatch.setattr(exercises_04a, "target_probs", target_probs)
    monkeypatch.setattr(exercises_04a, "answer_tokens", lambda model, word: (3,))
    monkeypatch.setattr(
        exercises_04a, "logit_lens", lambda model, text, tuned: SimpleNamespace(cell=lambda layer: [(f" {words[layer]}", 0.9)])
    )
    wrong = [
        ((1, "Paris"), "stays there"),
        ((2, "Paris"), "not on top at the end"),
        ((0, "Berlin"), "is overtaken there, and not by 'Berlin'"),
        ((7, "Paris"), "There is no fact 7"),
        (0, "A pair is needed here"),
    ]
    assert_exercise(exercises, "4.4", (0, "Paris"), wrong, stub=(..., ...), model=tiny, facts=facts, tuned=TunedLens.identity(2, 8))


def test_a_drawer_with_a_label():
    found = torch.tensor([[-1, 0], [1, 1]])
    read = ReadableValues((0, 1), ("animal", "city"), found, found, 10, 5)
    best, follows = torch.tensor([[5, 6], [7, 8]]), torch.tensor([[5, 9], [7, 9]])
    agree = Agreement((0, 1), best, follows, best, best)
    wrong = [
        ((0, 0), "is not readable"),
        ((1, 1), "readable (city), but the word"),
        ((0, 5), "There is no neuron 5"),
        (3, "Whole numbers are needed"),
    ]
    assert_exercise(exercises, "4.5", (1, 0), wrong, stub=..., read=read, agree=agree)
    assert not exercises.exercise("4.5").verdict((1, 0), read=read, agree=agree, shown=[(1, 0)]).solved


def test_edit_with_a_light_hand(tiny, monkeypatch: pytest.MonkeyPatch):
    def edit_values(model, asked, found, n=8, plus=1.0):
        hits, groups, said = (*(at < n * plus for at in range(8)), True, plus < 3), ("edited",) * 8 + ("random",) * 2, ("",) * 10
        return EditScores((Edit("Bath", said, groups, said, said, hits, (1.0, 1.0)),))

    monkeypatch.setattr(exercises_04a, "edit_values", edit_values)
    wrong = [
        ((1, 1.0), "your score is 0.22"),
        ((4, 4.0), "random 50%"),
        ((0, 1.0), "has to lie between 1 and 4"),
        ((5, 1.0), "has to lie between 1 and 4"),
        (8, "A pair is needed here"),
    ]
    assert_exercise(exercises, "4.6", (4, 2.0), wrong, stub=..., model=tiny, others=[], found=[])
