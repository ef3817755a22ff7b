"""The exercises of notebook 03a: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: what a tiny model says is planted in its unembedding.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise, printed_by_solutions
from tiny_models import write_tiny_model

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "03a_cluster_model_of_a_model.ipynb"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory):
    """The exercises, and a tiny model."""
    from helpers.cluster.exercises_03a import exercises
    from helpers.models import load_model

    return SimpleNamespace(exercises=exercises, model=load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny"))))


def knock_out(how: str):
    def function(scores, query, keys):
        new = scores if how == "in place" else scores.clone()
        if how == "every query":
            new[:, :, keys] = -1e9
        elif how == "zero":
            new[:, query, keys] = 0
        elif how == "one key":
            new[:, query, keys[0]] = -1e9
        else:
            new[:, query, keys] = -1e9
        return new

    return function


def test_cut_the_wire(lesson):
    wrong = [
        (knock_out("zero"), "A score of 0 is no attention of 0"),
        (knock_out("one key"), "still sees these keys"),
        (knock_out("every query"), "Other queries lost something"),
        (knock_out("in place"), "changed the scores that it was given"),
    ]
    assert_exercise(lesson.exercises, "3.1", knock_out("right"), wrong, stub=lambda scores, query, keys: ...)


def test_a_slope_without_calculus(lesson):
    jacobian = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def slope(eps: float, half: float = 2, both: bool = True):
        return lambda F, s, v: (F(s + eps * v) - (F(s - eps * v) if both else F(s))) / (half * eps)

    wrong = [
        (slope(0.01, 1), "twice the slope"),
        (slope(0.5, 1, both=False), "Both sides of the point"),
        (slope(1e-9), "Your slope is wrong in 3"),
    ]
    assert_exercise(lesson.exercises, "3.2", slope(0.01), wrong, stub=lambda F, s, v: ..., jacobian=jacobian)


def test_right_for_a_poor_reason(lesson):
    agreement = {
        "capital": {"LRE": 1.0, "most frequent in test": 0.1},
        "nationality": {"LRE": 0.9, "most frequent in test": 0.7},
        "genre": {"LRE": 0.5, "most frequent in test": 0.4},
    }
    wrong = [
        ("genre", "40% of the subjects of 'genre'; another has 70%"),
        ("weather", "There is no relation 'weather' here: there are capital, nationality, genre"),
        (0.7, "A name is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.3", "nationality", wrong, stub=..., agreement=agreement)


def low_rank(how: str):
    def function(W, difference, rank):
        left, sizes, right = torch.linalg.svd(W, full_matrices=False)
        if how == "full":
            return torch.linalg.pinv(W) @ difference
        if how == "multiplied":
            return right[:rank].T @ ((left[:, :rank].T @ difference) * sizes[:rank])
        if how == "exchanged":
            return left[:, :rank] @ ((right[:rank] @ difference) / sizes[:rank])
        return right[:rank].T @ ((left[:, :rank].T @ difference) / sizes[:rank])

    return function


def test_back_through_the_strongest_directions(lesson):
    wrong = [
        (low_rank("full"), "the inverse of full rank"),
        (low_rank("multiplied"), "that is W again: divide"),
        (low_rank("exchanged"), "Left and right are exchanged"),
        (lambda W, difference, rank: difference, "is wrong in"),
    ]
    assert_exercise(lesson.exercises, "3.4", low_rank("right"), wrong, stub=lambda W, difference, rank: ...)


def test_move_a_capital(lesson, monkeypatch: pytest.MonkeyPatch):
    """Whoever adds enough of a planted direction makes the tiny model say the wished token; random pushes do not."""
    from helpers.cluster import exercises_03a
    from helpers.interventions import record, resid_post
    from helpers.prediction import tokenize

    monkeypatch.setattr(exercises_03a, "PROMPT", "The Tower is in")
    monkeypatch.setattr(exercises_03a, "SUBJECT", " Tow")
    monkeypatch.setattr(exercises_03a, "WISHED", " Taipei")
    monkeypatch.setattr(exercises_03a, "_said", lambda model, layer, delta, at: wished if delta[0] > 0.9 * delta.norm() else other)
    wished, other = (exercises_03a.token_id(lesson.model, word) for word in (" Taipei", " San"))
    tokens = tokenize(lesson.model, "The Tower is in")
    at = tokens.tolist().index(exercises_03a.token_id(lesson.model, " Tow"))
    size = record(lesson.model, tokens[None], resid_post(1))[resid_post(1)][0, at].norm()
    direction = torch.eye(lesson.model.cfg.d_model)[0]
    wrong = [
        ((1, 3 * size * direction), "so long a push breaks more than it edits"),
        ((1, 0.5 * size * direction.flip(0)), "With your delta the model says 'San'"),
        ((1, 0 * direction), "has norm 0"),
        ((7, direction), "has to lie between 0 and 1"),
        (direction, "A pair is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.5", (1, 0.5 * size * direction), wrong, stub=..., model=lesson.model)


def test_where_the_line_ends(lesson):
    from helpers.cluster.linear_relations import fit_lre, most_likely, relation_states
    from helpers.cluster.relations import relation_data

    data = relation_data("is in", "The {s} is in", [("Tower", "Paris"), ("Bridge", "San"), ("Gate", "Taipei")])
    surrogate = fit_lre(lesson.model, data.take([0]), 0)
    states = relation_states(lesson.model, data, [0])
    same = most_likely(lesson.model, surrogate(states.s[0])) == states.token
    assert same[0]  # at its own point a map is exact
    apart = next((at for at in range(3) if not same[at]), None)
    if apart is None:  # make the map wrong
        surrogate = type(surrogate)(surrogate.relation, surrogate.kind, 0, -surrogate.weight, -surrogate.bias)
        same, apart = most_likely(lesson.model, surrogate(states.s[0])) == states.token, 0
    wrong = [("Nowhere", "'Nowhere' is no subject of this relation"), (3, "The name of a country is needed here")]
    wrong += [(data.subjects[at], "both say") for at in range(3) if same[at]]
    given = {"model": lesson.model, "surrogate": surrogate, "data": data}
    assert_exercise(lesson.exercises, "3.6", data.subjects[apart], wrong, stub=..., **given)


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_the_folded_solutions_solve_the_exercises():
    said = printed_by_solutions(NOTEBOOK)
    assert sorted(said) == ["3.1", "3.2", "3.3", "3.4", "3.5", "3.6"]
    assert [text for text in said.values() if not text.startswith("Solved. ")] == []
