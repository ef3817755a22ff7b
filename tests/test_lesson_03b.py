"""The exercises of notebook 03b: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: what a circuit keeps, and what a head costs, is planted.
"""

from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise

from helpers.cluster import exercises_03b as lesson
from helpers.cluster.circuits import EdgeScores
from helpers.cluster.edges import EdgeGraph
from helpers.cluster.ioi import IoiSentences
from helpers.cluster.patching import PatchMap, PromptPairs
from helpers.interventions import intervene, record, resample_ablate, resid_pre
from helpers.texts import Texts

NAMES, IDS = ("a", "a"), torch.zeros(2, dtype=torch.long)
TEXTS = Texts(torch.zeros(2, 4, dtype=torch.long), IDS + 4, NAMES)
GIFTS = IoiSentences(NAMES, NAMES, NAMES, (("a", "b", "c"),) * 2, NAMES, TEXTS, IDS, IDS + 1, {"END": IDS + 3})  # words do not matter here
PAIRS = PromptPairs(TEXTS, TEXTS, lambda logits: logits[:, -1, 0])


@pytest.fixture
def model(tiny):
    return tiny


def patching(how: str):
    def function(model, clean, corrupted, layer, pos):
        if how == "turned round":
            clean, corrupted = corrupted, clean
        stream = record(model, clean, resid_pre(layer))[resid_pre(layer)]
        with intervene(model, resample_ablate(resid_pre(layer), stream, pos=None if how == "everywhere" else pos)):
            patched = model(corrupted)
        logits = model(corrupted) if how == "outside" else patched
        return logits if how == "all positions" else logits[:, -1]

    return function


def test_write_a_patch(model):
    wrong = [
        (patching("turned round"), "here it goes the other way"),
        (patching("outside"), "is the patch inside the `with`"),
        (patching("everywhere"), "This patches every position"),
        (patching("all positions"), "an axis too many"),
    ]
    assert_exercise(lesson.exercises, "3.7", patching("right"), wrong, stub=lambda *given: ..., model=model)


def test_predict_then_measure(model, monkeypatch: pytest.MonkeyPatch):
    def knocked_out(model, data, chosen, pos=None):
        return torch.tensor([{1: 8.5, 2: 8.0}[len(chosen)] - 2.0 * (pos is None)])  # together less than one by one

    monkeypatch.setattr("helpers.cluster.ioi.IoiSentences.pairs", lambda self, model: None)
    monkeypatch.setattr(lesson, "metric_at_ends", lambda model, pairs: torch.tensor([10.0]))
    monkeypatch.setattr(lesson, "knocked_out", knocked_out)
    wrong = [
        (-2.0, "with the other sign"),
        (4.0, "at every position"),
        (3.0, "the sum of the single losses"),
        (1.5, "too small"),
        ("a lot", "One number is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.8", 2.0, wrong, stub=..., model=model, data=GIFTS, heads=[(4, 0), (4, 1)])


def test_where_the_straight_line_bends():
    zero, columns = torch.zeros(2), ("S2", "END")
    truth = torch.tensor([[19.0, 0.2], [4.0, 8.0]])[..., None].expand(2, 2, 2)
    guess = torch.tensor([[13.0, 0.9], [3.9, 8.5]])[..., None].expand(2, 2, 2)
    estimated, measured = (PatchMap(values, zero + 9, zero, columns, "hook_resid_pre") for values in (guess, truth))
    wrong = [
        ((1, "S2"), "it is farther off elsewhere"),
        ((0, "END"), "it is farther off elsewhere"),
        ((0, "IO"), "There is no position 'IO': there are S2, END"),
        ((5, "S2"), "There is no layer 5"),
        ((0, 1, 2), "A pair is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.9", (0, "S2"), wrong, stub=..., estimated=estimated, measured=measured)


@pytest.fixture
def planted(model, monkeypatch: pytest.MonkeyPatch):
    """A graph in which a circuit says the same word under resample ablation if it has the first edge, and under zero with three edges."""

    def judge(model, pairs, circuits, kind="resample"):
        same = [bool(circuit.kept[0]) if kind == "resample" else len(circuit) >= 3 for circuit in circuits]
        return SimpleNamespace(faithfulness=torch.ones(len(same)), same=torch.tensor(same)[:, None], alive=(1,) * len(same))

    monkeypatch.setattr(lesson, "judge", judge)
    return EdgeGraph.of(model)


def test_a_circuit_of_your_own(model, planted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lesson, "SHARE", 0.5)
    first, second = planted.circuit(planted.edges[:1]), planted.circuit(planted.edges[1:3])
    wrong = [
        (second, "Your 2 edges (1 of them on a whole path) say the model's word in 0.0% of prompts"),
        (planted.full, "less than 50.0% are wanted"),
        (planted.empty, "has no edge"),
        (90, "A circuit is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.10", first, wrong, stub=..., model=model, pairs=PAIRS)


def test_the_price_of_nothing(model, planted):
    scores = EdgeScores(planted, torch.arange(len(planted)).float())
    wrong = [
        (2, "With 2 edges the word is the model's in 0.0%"),
        (6, "half of them are enough, too"),
        (len(planted) + 1, "Your number of edges is 111"),
        ("all", "One number is needed here"),
    ]
    given = {"model": model, "pairs": PAIRS, "scores": scores}
    assert_exercise(lesson.exercises, "3.11", 3, wrong, stub=..., **given)
    assert lesson.exercises.exercise("3.11").verdict(5, **given).solved


def test_one_head_two_jobs(model, monkeypatch: pytest.MonkeyPatch):
    costs = {"gifts": [6, 5, 4, 3, 2, 1, 0, 0], "capitals": [0, 2, 3, 7, 8, 6, 5, 4]}  # by head, of two layers with four each

    def score_prompts(model, texts, metric, *changes):
        if not changes:
            return torch.tensor([10.0])
        number = int(changes[0].hook.split(".")[1]) * 4 + int(changes[0].head)
        return torch.tensor([10.0 - costs["capitals" if isinstance(texts, list) else "gifts"][number]])

    monkeypatch.setattr(lesson, "score_prompts", score_prompts)
    given = {"model": model, "data": GIFTS, "prompts": ["The Tower"], "right": torch.tensor([5])}
    wrong = [
        ((0, 0), "There is a head with a smaller sum"),
        ((1, 2), "Without 1.2 the gifts lose 0.00 logits and the capitals 5.00 nats: numbers 7 and 4"),
        ((1, 9), "There is no head 9"),
        ("a6.3", "Whole numbers are needed here"),
    ]
    assert_exercise(lesson.exercises, "3.12", (0, 3), wrong, stub=..., **given)
    assert lesson.exercises.exercise("3.12").verdict((1, 0), **given).solved
