"""The exercises of notebook 02b, "One layer: tasks as vectors": what each asks for, and what its check says to an answer."""

from collections.abc import Sequence
from typing import Any

from helpers.answers import expect, expect_nonzero, expect_number, expect_tensor
from helpers.exercises import Exercises
from helpers.models import TransformerBridge
from helpers.one_layer.in_context import patch_sweep
from helpers.one_layer.tasks import Prompt

exercises = Exercises("02b_one_layer_task_vectors")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

COMPOSED = 0.3  # the share of right answers that exercise 2.6 asks for


@exercises.add("2.6", "A vector for a task that nobody trained", minutes=15)
def composed(answer: Any, model: TransformerBridge, prompts: Sequence[Prompt]) -> str:
    """A layer and a vector ``[d_model]`` that, added after it at the last token, make the model do a composite task."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the layer's number, and the vector.")
    layer = int(expect_number(answer[0], 0, model.cfg.n_layers - 1, "your layer"))
    vector = expect_tensor(answer[1], model.cfg.d_model, what="your vector")
    expect_nonzero(vector)
    sweep = patch_sweep(model, vector, prompts, how="add")
    right, before = sweep.accuracy[layer].item(), sweep.before.float().mean().item()
    expect(
        right >= max(COMPOSED, 2 * before),
        f"With your vector {right:.0%} of the answers are right, and {before:.0%} without it; {COMPOSED:.0%} are wanted. "
        "Two are added and one is subtracted: to the new language, plus from the old one, minus the task that changes nothing.",
    )
    return f"{right:.0%} of the answers are right, and {before:.0%} without the vector: a task put together from three others."
