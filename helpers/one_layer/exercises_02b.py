"""The exercises of notebook 02b, "One layer: tasks as vectors": what each asks for, and what its check says to an answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from helpers.answers import expect, expect_nonzero, expect_number, expect_tensor
from helpers.exercises import Exercises
from helpers.models import TransformerBridge
from helpers.one_layer.in_context import patch_sweep
from helpers.one_layer.tasks import Prompt

exercises = Exercises("02b_one_layer_task_vectors")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

COMPOSED = 0.3  # the share of right answers that exercise 2.6 asks for


@exercises.add("2.6", "A vector for a task that nobody trained", minutes=15)
def composed(
    answer: Any, model: TransformerBridge, prompts: Sequence[Prompt], parents: Mapping[str, Float[Tensor, "layer d_model"]]
) -> str:
    """A layer and a vector ``[d_model]`` that, added after it at the last token, make the model do a composite task.

    It has to do better than each of the ``parents`` alone, at the layer where that one is best.
    """
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the layer's number, and the vector.")
    layer = int(expect_number(answer[0], 0, model.cfg.n_layers - 1, "your layer"))
    vector = expect_tensor(answer[1], model.cfg.d_model, what="your vector")
    expect_nonzero(vector)
    sweep = patch_sweep(model, vector, prompts, how="add")
    right, before = sweep.accuracy[layer].item(), sweep.before.float().mean().item()
    expect(
        right >= max(COMPOSED, 2 * before),
        f"With your vector {right:.0%} of the answers are right, and {before:.0%} without it; {COMPOSED:.0%} are wanted. "
        "Which half of each of your tasks is wanted, and which half is left over in their sum?",
    )
    alone = {name: patch_sweep(model, own, prompts, how="add").accuracy.max().item() for name, own in parents.items()}
    strongest = max(alone, key=alone.__getitem__)
    expect(
        right > alone[strongest],
        f"With your vector {right:.0%} of the answers are right, and {alone[strongest]:.0%} with {strongest} alone, at its best layer: "
        "a sum has to do better than what it was made of.",
    )
    return (
        f"{right:.0%} of the answers are right, {before:.0%} without the vector, and {alone[strongest]:.0%} with {strongest} alone, the "
        "strongest of its parents: a task put together from others."
    )
