"""The exercises of notebook 03b: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: what a circuit keeps, and what a head costs, is planted.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise, printed_by_solutions
from tiny_models import write_tiny_model

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "03b_cluster_circuits.ipynb"


def gifts(n: int = 2):
    """Sentences as an exercise is given them; their words do not matter here."""
    from helpers.cluster.ioi import IoiSentences
    from helpers.texts import Texts

    names, ids = ("a",) * n, torch.zeros(n, dtype=torch.long)
    texts = Texts(torch.zeros(n, 4, dtype=torch.long), torch.full((n,), 4), names)
    return IoiSentences(names, names, names, (("a", "b", "c"),) * n, names, texts, ids, ids + 1, {"END": ids + 3})


def made_pairs():
    """Clean and corrupted prompts, which do not matter here."""
    from helpers.cluster.patching import PromptPairs

    texts = gifts().tokens
    return PromptPairs(texts, texts, lambda logits: logits[:, -1, 0])


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory):
    """The exercises, and a tiny model."""
    from helpers.cluster.exercises_03b import exercises
    from helpers.models import load_model

    return SimpleNamespace(exercises=exercises, model=load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny"))))


def patching(how: str):
    from helpers.interventions import intervene, record, resample_ablate, resid_pre

    def function(model, clean, corrupted, layer, pos):
        if how == "turned round":
            clean, corrupted = corrupted, clean
        stream = record(model, clean, resid_pre(layer))[resid_pre(layer)]
        with intervene(model, resample_ablate(resid_pre(layer), stream, pos=None if how == "everywhere" else pos)):
            patched = model(corrupted)
        logits = model(corrupted) if how == "outside" else patched
        return logits if how == "all positions" else logits[:, -1]

    return function


def test_write_a_patch(lesson):
    wrong = [
        (patching("turned round"), "here it goes the other way"),
        (patching("outside"), "is the patch inside the `with`"),
        (patching("everywhere"), "This patches every position"),
        (patching("all positions"), "an axis too many"),
    ]
    assert_exercise(lesson.exercises, "3.7", patching("right"), wrong, stub=lambda *given: ..., model=lesson.model)


def test_predict_then_measure(lesson, monkeypatch: pytest.MonkeyPatch):
    from helpers.cluster import exercises_03b

    monkeypatch.setattr("helpers.cluster.ioi.IoiSentences.pairs", lambda self, model: None)
    monkeypatch.setattr(exercises_03b, "metric_at_ends", lambda model, pairs: torch.tensor([9.0]))
    monkeypatch.setattr(exercises_03b, "knocked_out", lambda model, data, chosen, pos=None: torch.tensor([6.0 if pos is None else 8.0]))
    monkeypatch.setattr(exercises_03b, "direct_effects", lambda *given: SimpleNamespace(of=lambda name: torch.tensor([0.7])))
    wrong = [(-1.0, "with the other sign"), (3.0, "at every position"), (0.7, "too small"), ("a lot", "One number is needed here")]
    assert_exercise(lesson.exercises, "3.8", 1.0, wrong, stub=..., model=lesson.model, data=gifts())


def test_where_the_straight_line_bends(lesson):
    from helpers.cluster.patching import PatchMap

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
def planted(lesson, monkeypatch: pytest.MonkeyPatch):
    """A graph in which a circuit is faithful under resample ablation if it has the first edge, and under no other."""
    from helpers.cluster import exercises_03b
    from helpers.cluster.edges import EdgeGraph

    def judge(model, pairs, circuits, kind="resample"):
        kept = [0.9 if bool(circuit.kept[0]) and kind == "resample" else 0.1 for circuit in circuits]
        return SimpleNamespace(faithfulness=torch.tensor(kept))

    monkeypatch.setattr(exercises_03b, "judge", judge)
    monkeypatch.setattr(exercises_03b, "ioi_sentences", lambda *given, **more: SimpleNamespace(pairs=lambda model: None))
    return EdgeGraph.of(lesson.model)


def test_a_circuit_of_your_own(lesson, planted, monkeypatch: pytest.MonkeyPatch):
    from helpers.cluster import exercises_03b

    monkeypatch.setattr(exercises_03b, "SHARE", 0.5)
    first, second = planted.circuit(planted.edges[:1]), planted.circuit(planted.edges[1:3])
    wrong = [
        (second, "your 2 edges keep 10% of the logit difference; 80% are wanted"),
        (planted.full, "less than 50% are wanted"),
        (planted.empty, "has no edge"),
        (90, "A circuit is needed here"),
    ]
    assert_exercise(lesson.exercises, "3.10", first, wrong, stub=..., model=lesson.model, pairs=made_pairs())


def test_break_the_number(lesson, planted):
    from helpers.cluster.circuits import EdgeScores

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
    assert_exercise(
        lesson.exercises, "3.11", (3, "resample", "zero"), wrong, stub=..., model=lesson.model, pairs=made_pairs(), scores=scores
    )


def test_one_head_two_jobs(lesson, monkeypatch: pytest.MonkeyPatch):
    from helpers.cluster import exercises_03b

    costs = {"gifts": [6, 5, 4, 3, 2, 1, 0, 0], "capitals": [0, 0, 0, 7, 6, 5, 8, 0]}  # by head, of two layers with four each

    def score_prompts(model, texts, metric, *changes):
        if not changes:
            return torch.tensor([10.0])
        number = int(changes[0].hook.split(".")[1]) * 4 + int(changes[0].head)
        return torch.tensor([10.0 - costs["capitals" if isinstance(texts, list) else "gifts"][number]])

    monkeypatch.setattr(exercises_03b, "score_prompts", score_prompts)
    given = {"model": lesson.model, "data": gifts(), "prompts": ["The Tower"], "right": torch.tensor([5])}
    wrong = [
        ((0, 0), "Without 0.0 the capitals lose 0.00 nats: it is number"),
        ((1, 2), "Without 1.2 the gifts lose 0.00 logits: it is number 7"),
        ((1, 9), "There is no head 9"),
        ("a6.3", "Whole numbers are needed here"),
    ]
    assert_exercise(lesson.exercises, "3.12", (0, 3), wrong, stub=..., **given)
    assert lesson.exercises.exercise("3.12").verdict((1, 0), **given).solved


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_the_folded_solutions_solve_the_exercises():
    said = printed_by_solutions(NOTEBOOK)
    assert sorted(said) == ["3.10", "3.11", "3.12", "3.7", "3.8", "3.9"]
    assert [text for text in said.values() if not text.startswith("Solved. ")] == []
