"""The exercises of notebook 03a: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: what a tiny model says is planted in its unembedding.
"""

from functools import partial

import pytest
import torch
from exercise_tools import assert_exercise

from helpers.cluster import exercises_03a as lesson
from helpers.cluster.linear_relations import LinearRelation, relation_states
from helpers.cluster.relations import relation_data
from helpers.interventions import record, resid_post
from helpers.prediction import token_id, tokenize


def knock_out(how: str):
    def function(scores, queries, hidden):
        new = scores if how == "in place" else scores.clone()
        for row, (query, keys) in enumerate(zip(queries, hidden[[0, 0, 0]] if how == "one mask" else hidden, strict=True)):
            at = slice(None) if how == "every query" else -1 if how == "last query" else query
            new[row, :, at, keys] = {"zero": 0.0, "minus infinity": float("-inf"), "lowest": torch.finfo(scores.dtype).min}.get(how, -1e9)
        return new

    return function


def test_cut_the_wires():
    wrong = [
        (knock_out("zero"), "A score of 0 is no attention of 0"),
        (knock_out("one mask"), "still sees a key"),
        (knock_out("last query"), "still sees a key"),
        (knock_out("every query"), "Too much is cut"),
        (knock_out("in place"), "changed the scores that it was given"),
        (lambda scores, queries, hidden: scores.masked_fill(hidden[:, None, None], -1e9), "Too much is cut"),
        (lambda scores, queries, hidden: knock_out("right")(2 * scores, queries, hidden), "Other queries lost something"),
    ]
    for right in ("right", "minus infinity", "lowest"):
        assert_exercise(lesson.exercises, "3.1", knock_out(right), wrong, stub=lambda scores, queries, hidden: ...)


def test_a_slope_without_calculus():
    jacobian = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def slope(eps: float, half: float = 2, both: bool = True):
        return lambda F, s, v: (F(s + eps * v) - (F(s - eps * v) if both else F(s))) / (half * eps)

    wrong = [
        (slope(0.01, 1), "twice the slope"),
        (slope(0.5, 1, both=False), "one side of the point only"),
        (slope(0.001, 1, both=False), "one side of the point only"),
        (slope(0.5), "Both sides of the point"),
        (slope(1e-9), "Your slope is wrong in 3"),
    ]
    assert_exercise(lesson.exercises, "3.2", slope(0.01), wrong, stub=lambda F, s, v: ..., jacobian=jacobian)


def test_right_by_chance():
    def agreement(by_map, by_model, how: str = "right"):
        raw = (by_map == by_model).float().mean()
        chance = sum((by_map == token).float().mean() * (by_model == token).float().mean() for token in by_map.unique())
        if how == "most":
            chance = by_model.bincount().max() / len(by_model)
        if how == "each":
            chance = 1 / len(by_model.unique())
        return raw if how == "raw" else raw - chance if how == "left" else (raw - chance) / (1 - chance)

    wrong = [
        (partial(agreement, how="raw"), "This is the plain agreement"),
        (partial(agreement, how="left"), "measured by what was possible beyond it"),
        (partial(agreement, how="most"), "one way to guess"),
        (partial(agreement, how="each"), "The agreement beyond chance is"),
        (lambda by_map, by_model: 17 / 23, "A map that always agrees gets 1"),
    ]
    for right in (agreement, lambda by_map, by_model: agreement(by_map, by_model).item()):
        assert_exercise(lesson.exercises, "3.3", right, wrong, stub=lambda by_map, by_model: ...)


def test_back_through_the_strongest_directions():
    def strongest(read):
        def function(W, difference, rank):
            left, sizes, right = torch.linalg.svd(W)
            return read(left[:, :rank], sizes[:rank], right[:rank], difference)

        return function

    wrong = [
        (lambda W, difference, rank: torch.linalg.pinv(W) @ difference, "the inverse of full rank"),
        (strongest(lambda left, sizes, right, difference: right.T @ ((left.T @ difference) * sizes)), "that is W again: divide"),
        (strongest(lambda left, sizes, right, difference: left @ ((right @ difference) / sizes)), "Left and right are exchanged"),
        (lambda W, difference, rank: difference, "is wrong in"),
    ]
    right = strongest(lambda left, sizes, right, difference: right.T @ ((left.T @ difference) / sizes))
    assert_exercise(lesson.exercises, "3.4", right, wrong, stub=lambda W, difference, rank: ...)


def test_move_a_capital(tiny, monkeypatch: pytest.MonkeyPatch):
    """Whoever adds enough of a planted direction makes the tiny model say the wished token; random pushes do not."""
    wished, other, subject = (token_id(tiny, word) for word in (" Taipei", " San", " Tow"))
    said = {"PROMPT": "The Tower is in", "SUBJECT": " Tow", "OTHER": "Gate", "WISHED": " Taipei"}
    said["_said"] = lambda model, layer, delta, at: wished if delta[0] > 0.9 * delta.norm() else other
    for name, value in said.items():
        monkeypatch.setattr(lesson, name, value)
    tokens = tokenize(tiny, "The Tower is in")
    size = record(tiny, tokens[None], resid_post(1))[resid_post(1)][0, tokens.tolist().index(subject)].norm()
    direction = torch.eye(tiny.cfg.d_model)[0]
    wrong = [
        ((1, 3 * size * direction), "so long a push breaks more than it edits"),
        ((1, 0.5 * size * direction.flip(0)), "With your delta the model says 'San'"),
        ((1, 0 * direction), "has norm 0"),
        ((7, direction), "has to lie between 0 and 1"),
        (direction, "A pair is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.5", (1, 0.5 * size * direction), wrong, stub=..., model=tiny)


def test_where_the_line_ends(tiny):
    data = relation_data("is in", "The {s} is in", [("Tower", "Paris"), ("Bridge", "San"), ("Gate", "Taipei")])
    states = relation_states(tiny, data, [0])
    surrogate = LinearRelation("is in", "constant", 0, torch.zeros(32, 32), states.o[0])  # which is right about the first
    wrong = [
        ("Tower", "both say"),
        ("Nowhere", "'Nowhere' is no subject of this relation"),
        (3, "The name of a country is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.6", "Bridge", wrong, stub=..., model=tiny, surrogate=surrogate, data=data)
