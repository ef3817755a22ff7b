"""The exercises of notebook 04b: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: which questions are right, and what is read, is planted.
"""

from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise

from helpers.interventions import add, intervene, record, resid_post, set_to
from helpers.speak import exercises_04b
from helpers.speak.exercises_04b import exercises
from helpers.speak.patchscopes import Source, Target
from helpers.speak.two_hops import Answered, TwoHop


def scope(how: str):
    def function(model, source, at, layer, target, into, target_layer):
        hook = resid_post(target_layer if how == "target's layer" else layer)
        state = record(model, source, hook)[hook][0, into if how == "target's position" else at]
        change = add if how == "add" else set_to
        with intervene(model, change(resid_post(layer if how == "source's layer" else target_layer), state, pos=into)):
            logits = model(target)
        if how == "outside":
            logits = model(target)
        return logits if how == "everything" else logits[0, -1]

    return function


def test_a_patchscope_by_hand(tiny):
    wrong = [
        (scope("add"), "a Patchscope replaces"),
        (scope("target's layer"), "take it after the source's"),
        (scope("target's position"), "at the target's position"),
        (scope("outside"), "the model run inside the `with`"),
        (scope("source's layer"), "must be after `target_layer`"),
        (scope("everything"), "an axis too many"),
    ]
    assert_exercise(exercises, "4.7", scope("right"), wrong, stub=lambda *given: ..., model=tiny)


def fitted(how: str):
    def function(inputs, outputs):
        ones = torch.ones(len(inputs), 0 if how == "no vector" else 1)
        solution = torch.linalg.lstsq(torch.cat([inputs, ones], 1), outputs).solution
        matrix, vector = (solution, torch.zeros(7)) if how == "no vector" else (solution[:-1], solution[-1])
        return (matrix if how == "turned" else matrix.T, vector) if how != "alone" else matrix.T

    return function


def test_the_map_between_two_layers():
    wrong = [
        (fitted("turned"), "the other way round"),
        (fitted("no vector"), "our matrix"),
        (fitted("alone"), "Return two things"),
    ]
    assert_exercise(exercises, "4.8", fitted("right"), wrong, stub=lambda *given: ...)


def test_a_better_question(tiny, monkeypatch: pytest.MonkeyPatch):
    def patchscope(model, sources, target, layers, into, answers):
        return SimpleNamespace(hits=torch.tensor([["city" in target.prompt, False]]))

    monkeypatch.setattr(exercises_04b, "patchscope", patchscope)
    given = {
        "model": tiny,
        "sources": [Source("Lyon"), Source("Turin")],
        "answers": ["France", "Italy"],
        "layers": (1, 0),
        "given": Target("Where is x?"),
    }
    wrong = [
        ("x is near", "By your prompt 0% of the 2 entities are read"),
        ("In Lyon, a city, x is", "Your prompt names Lyon"),
        ("A city without a placeholder", "does not occur"),
        ("", "an empty text"),
    ]
    assert_exercise(exercises, "4.9", "x is a city in", wrong, stub=..., **given)


def test_a_shortcut_and_none(tiny, monkeypatch: pytest.MonkeyPatch):
    questions = [
        TwoHop(f"The a of b of {name} is", f"The a of b of {name}", name, "two", "three", kind, direct=f"The a of {name} is")
        for name, kind in (("one", "x+y"), ("uno", "x+y"), ("eins", "x+z"), ("un", "x+y"))
    ]
    monkeypatch.setattr(
        exercises_04b,
        "answered",
        lambda model, asked: Answered(tuple(q for q in asked if q.e1 != "un"), tuple(q for q in asked if q.e1 == "un")),
    )
    monkeypatch.setattr(exercises_04b, "has_shortcut", lambda model, asked: torch.tensor([True, False, False, False]))
    wrong = [
        ((1, 0), "Your first question has no shortcut"),
        ((0, 0), "Your second question has a shortcut"),
        ((0, 2), "take two of one kind"),
        ((0, 3), "The second is not answered right"),
        ((0, 9), "There is no second 9"),
    ]
    assert_exercise(exercises, "4.10", (0, 1), wrong, stub=..., model=tiny, questions=questions)


def rate(how: str):
    def function(hits, choose, report):
        chosen = {"peeks": report, "everything": list(range(hits.shape[1]))}.get(how, choose)
        judged = {"the same": choose, "everything": list(range(hits.shape[1]))}.get(how, report)
        if how == "oracle":
            return hits[:, report].any(0).float().mean()
        return hits[hits[:, chosen].float().mean(1).argmax()][judged].float().mean()

    return function


def test_measured_honestly():
    wrong = [
        (rate("peeks"), "without looking at them"),
        (rate("the same"), "look at the others"),
        (rate("everything"), "on all questions together"),
        (rate("oracle"), "This is the oracle"),
        (lambda *given: 7, "has to lie between 0 and 1"),
    ]
    assert_exercise(exercises, "4.11", rate("right"), wrong, stub=lambda *given: ...)
