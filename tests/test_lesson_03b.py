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
    monkeypatch.setattr("helpers.cluster.ioi.IoiSentences.pairs", lambda self, model: None)
    monkeypatch.setattr(lesson, "metric_at_ends", lambda model, pairs: torch.tensor([9.0]))
    monkeypatch.setattr(lesson, "knocked_out", lambda model, data, chosen, pos=None: torch.tensor([6.0 if pos is None else 8.0]))
    monkeypatch.setattr(lesson, "direct_effects", lambda *given: SimpleNamespace(of=lambda name: torch.tensor([0.7])))
    wrong = [(-1.0, "with the other sign"), (3.0, "at every position"), (0.7, "too small"), ("a lot", "One number is needed here")]
    assert_exercise(lesson.exercises, "3.8", 1.0, wrong, stub=..., model=model, data=GIFTS)


def test_where_the_straight_line_bends():
    zero, columns = torch.zeros(2), ("S2", "END")
    truth = torch.tensor([[19.0, 0.2], [4.0, 8.0]])[..., None].expand(2, 2, 2)
    guess = torch.tensor([[13.0, 0.9], [3.9, 8.5]])[..., None].expand(2, 2, 2)
    estimated, measured = (PatchMap(values, zero + 9, zero, columns, "hook_resid_pre") for values in (guess, truth))
    wrong = [
        ((1, "S2"), "off by 2%"),
        ((0, "END"), "take one that matters"),
        ((0, "IO"), "There is no position 'IO': there are S2, END"),
        ((5, "S2"), "There is no layer 5"),
        ((0, 1, 2), "A pair is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.9", (0, "S2"), wrong, stub=..., estimated=estimated, measured=measured)


@pytest.fixture
def planted(model, monkeypatch: pytest.MonkeyPatch):
    """A graph in which a circuit is faithful under resample ablation if it has the first edge, and under no other."""

    def judge(model, pairs, circuits, kind="resample"):
        kept = [0.9 if bool(circuit.kept[0]) and kind == "resample" else 0.1 for circuit in circuits]
        return SimpleNamespace(faithfulness=torch.tensor(kept))

    monkeypatch.setattr(lesson, "judge", judge)
    monkeypatch.setattr(lesson, "ioi_sentences", lambda *given, **more: SimpleNamespace(pairs=lambda model: None))
    return EdgeGraph.of(model)


def test_a_circuit_of_your_own(model, planted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lesson, "SHARE", 0.5)
    first, second = planted.circuit(planted.edges[:1]), planted.circuit(planted.edges[1:3])
    wrong = [
        (second, "your 2 edges keep 10% of the logit difference; 80% are wanted"),
        (planted.full, "less than 50% are wanted"),
        (planted.empty, "has no edge"),
        (90, "A circuit is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.10", first, wrong, stub=..., model=model, pairs=PAIRS)


def test_break_the_number(model, planted):
    values = torch.zeros(len(planted))
    values[:3] = torch.tensor([2.0, 3.0, 1.0])  # the planted edge is the second
    scores = EdgeScores(planted, values)
    wrong = [
        ((3, "zero", "resample"), "under zero is 0.10; 0.8 or more is wanted"),
        ((3, "resample", "resample"), "is not below 0.3"),
        ((1, "resample", "zero"), "under resample is 0.10"),
        ((3, "resample"), "A triple is needed here"),
        ((3, "resample", "noise"), "A triple is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.11", (3, "resample", "zero"), wrong, stub=..., model=model, pairs=PAIRS, scores=scores)


def test_one_head_two_jobs(model, monkeypatch: pytest.MonkeyPatch):
    costs = {"gifts": [6, 5, 4, 3, 2, 1, 0, 0], "capitals": [0, 0, 0, 7, 6, 5, 8, 0]}  # by head, of two layers with four each

    def score_prompts(model, texts, metric, *changes):
        if not changes:
            return torch.tensor([10.0])
        number = int(changes[0].hook.split(".")[1]) * 4 + int(changes[0].head)
        return torch.tensor([10.0 - costs["capitals" if isinstance(texts, list) else "gifts"][number]])

    monkeypatch.setattr(lesson, "score_prompts", score_prompts)
    given = {"model": model, "data": GIFTS, "prompts": ["The Tower"], "right": torch.tensor([5])}
    wrong = [
        ((0, 0), "Without 0.0 the capitals lose 0.00 nats: number"),
        ((1, 2), "Without 1.2 the gifts lose 0.00 logits: it is number 7"),
        ((1, 9), "There is no head 9"),
        ("a6.3", "Whole numbers are needed here"),
    ]
    assert_exercise(lesson.exercises, "3.12", (0, 3), wrong, stub=..., **given)
    assert lesson.exercises.exercise("3.12").verdict((1, 0), **given).solved
