"""The exercises of notebook 02b: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: a tiny model says a token of its own for the vector of each task, so that what a sum does is known.
"""

from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise
from tiny_models import write_tiny_model

FIRST, LAST, COPY, CAPITAL = range(4)  # numbers of orthogonal directions
SIZE = 40.0  # of a vector that outweighs whatever else is in the stream of the tiny model
TASKS = {"first copy": (FIRST, COPY), "last copy": (LAST, COPY), "first capital": (FIRST, CAPITAL), "last capital": (LAST, CAPITAL)}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory):
    """The tiny model, the vectors of the tasks, and the token that each of them brings."""
    from helpers.models import load_model
    from helpers.one_layer.exercises_02b import exercises

    model = load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))
    drawn = torch.randn(model.cfg.d_model, 4, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(drawn - drawn.mean(0)).Q.T  # of mean 0, since LayerNorm takes the mean away
    vectors = {name: SIZE * (basis[position] + basis[function]) for name, (position, function) in TASKS.items()}
    answers = {name: token for token, name in enumerate(TASKS, start=65)}
    with torch.no_grad():
        for name, vector in vectors.items():
            model.W_U[:, answers[name]] = 4 * vector / vector.norm()
        yield SimpleNamespace(model=model, exercises=exercises, vectors=vectors, answers=answers)


def test_a_vector_for_a_task_that_nobody_trained(lesson):
    from helpers.one_layer.tasks import Prompt

    said = {name: lesson.model.tokenizer.decode([token]) for name, token in lesson.answers.items()}
    assert all(word.isalpha() for word in said.values())
    asked = {"hot": "last capital", "big": "last capital", "in Paris": "last capital", "cat": "last copy"}
    prompts = [Prompt(word, said[task], arrow=":") for word, task in asked.items()]
    copy, last, first, composite = (lesson.vectors[name] for name in ("first copy", "last copy", "first capital", "last capital"))
    wrong = [
        ((1, first + last + copy), "which half is left over in their sum"),
        ((1, first), "0% of the answers are right, and 0% without it; 30% are wanted"),
        ((1, last), "25% of the answers are right"),
        ((1, first - first), "subtract a mean from itself"),
        ((2, composite), "has to lie between 0 and 1"),
        (composite, "A pair is needed here"),
        ((1, composite.repeat(2, 1)), "an axis too many"),
    ]
    given = {"model": lesson.model, "prompts": prompts, "parents": {"to": last.expand(2, -1), "from": first.expand(2, -1)}}
    for layer in (0, 1):
        assert_exercise(lesson.exercises, "2.6", (layer, first + last - copy), wrong, stub=(..., ...), **given)
    text = lesson.exercises.exercise("2.6").verdict((1, composite), **given).text
    assert text.startswith("75% of the answers are right, 0% without the vector, and 25% with to alone, the strongest of its parents")
    as_good = given | {"parents": {"itself": composite.expand(2, -1)}}
    text = lesson.exercises.exercise("2.6").verdict((1, composite), **as_good).text
    assert "75% with itself alone, at its best layer: a sum has to do better than what it was made of" in text


def test_the_layer_of_a_task_vector_is_the_one_that_was_named(lesson, monkeypatch: pytest.MonkeyPatch):
    """Of a sweep over all layers the answer's own counts, and one that does no better than twice what there was is not enough."""
    from helpers.one_layer import exercises_02b
    from helpers.one_layer.in_context import LayerSweep
    from helpers.one_layer.tasks import Prompt

    hits = torch.tensor([[True, True, False, False, False], [True, True, True, True, False]])
    before = torch.tensor([True, True, False, False, False])

    def sweep(model, vector, prompts, how):
        return LayerSweep(hits & vector.any(), before if how == "add" else ~before)

    monkeypatch.setattr(exercises_02b, "patch_sweep", sweep)
    given = {"model": lesson.model, "prompts": [Prompt("hot", "a")], "parents": {"nothing": torch.zeros(2, 32)}}
    first, second = (lesson.exercises.exercise("2.6").verdict((layer, torch.ones(32)), **given) for layer in (0, 1))
    assert not first.solved and "With your vector 40% of the answers are right, and 40% without it" in first.text
    assert second.solved and second.text.startswith("80% of the answers are right, 40% without the vector")
