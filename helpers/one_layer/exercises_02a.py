"""The exercises of notebook 02a, "One layer: directions": what each asks for, and what its check says to an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_nonzero, expect_number, expect_tensor, expect_unlike
from helpers.exercises import Exercises
from helpers.metrics import Metric
from helpers.models import TransformerBridge
from helpers.one_layer.directions import Steering, add_at
from helpers.running import random_like, score_prompts

exercises = Exercises("02a_one_layer_directions")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

REFUSED = 0.95  # the rate that exercise 2.2 asks for


@exercises.add("2.1", "Take a direction out", minutes=8)
def projection(answer: Any) -> str:
    """A function from values ``[batch, pos, d_model]`` and a direction ``[d_model]`` to values without it."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    values, direction = torch.randn(2, 3, 8, generator=rng), 3 * torch.randn(8, generator=rng)
    unit = direction / direction.norm()
    result = expect_tensor(function(values.clone(), direction.clone()), 2, 3, 8, what="what your function returns")
    right = values - (values @ unit)[..., None] * unit
    whole = "This subtracts the whole direction from every token, however much of it the token has: take away x · d times d."
    too_long = values - (values @ direction)[..., None] * direction
    mistakes = {
        whole: values - direction,
        "Your direction is longer than 1, so too much is taken away: divide it by its norm first.": too_long,
        "This is the part along the direction; what is wanted is all the rest.": values - right,
    }
    expect_unlike(result, mistakes, 1e-3)
    expect_close(result, right, "what your function returns", "x - (x · d) d with d of length 1, for every token.", tolerance=1e-3)
    return "Nothing is left along the direction, and everything else is as it was."


@exercises.add("2.2", "A direction of your own", minutes=12)
def own_direction(answer: Any, model: TransformerBridge, prompts: Sequence[str], refuse: Metric) -> str:
    """A layer and a vector ``[d_model]`` that, added there, make the model refuse harmless requests."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the layer's number, and the vector.")
    layer = int(expect_number(answer[0], 0, model.cfg.n_layers - 1, "your layer"))
    vector = expect_tensor(answer[1], model.cfg.d_model, what="your vector")
    expect_nonzero(vector)

    def rate(added: Tensor) -> float:
        return (score_prompts(model, prompts, refuse, add_at(layer, added)) > 0).float().mean().item()

    refused, opposite = rate(vector), rate(-vector)
    turned = "The other way round it does: you subtracted the harmful mean from the harmless one. " if opposite >= REFUSED else ""
    expect(
        refused >= REFUSED,
        f"Added at layer {layer}, your vector makes the model refuse {refused:.0%} of these harmless requests; {REFUSED:.0%} are wanted. "
        f"{turned}Try other layers, and look at many requests, not at a few.",
    )
    control = rate(random_like(vector, 1)[0])
    expect(control < 0.5, f"A random vector of this length does the same ({control:.0%}): yours is so long that anything breaks the model.")
    return f"{refused:.0%} of these requests are refused, on topics that your vector has never seen; with a random vector {control:.0%}."


@exercises.add("2.3", "More than the first word?", minutes=10)
def not_the_word(answer: Any, model: TransformerBridge, vector: Float[Tensor, "d_model"], yes: int, no: int) -> str:
    """The cosine between the direction and the difference of two tokens' unembeddings."""
    number = expect_number(answer, -1.0001, 1.0001, "your cosine")
    word = (model.W_U[:, yes] - model.W_U[:, no]).cpu()
    right = torch.nn.functional.cosine_similarity(vector.cpu(), word, dim=0).item()
    single = torch.nn.functional.cosine_similarity(vector.cpu(), model.W_U[:, yes].cpu(), dim=0).item()
    if abs(single - right) > 2e-4:
        expect_unlike(number, {"This is the cosine with the first word alone: subtract the other's.": single})
    expect_close(number, right, "your cosine", "Both vectors divided by their norms, then the dot product.", tolerance=1e-3)
    return (
        f"{right:.2f}: of the direction's squared length, {right**2:.0%} writes the word on the direct way. "
        "The rest is read by later blocks; else the direction could not have been found in the middle of the model."
    )


@exercises.add("2.4", "Fair random directions", minutes=6)
def fair_directions(answer: Any, vector: Float[Tensor, "d_model"]) -> str:
    """A function from a vector ``[d_model]`` and a number ``n`` to ``n`` random vectors ``[n, d_model]`` as long as it."""
    function = expect_callable(answer)
    drawn = expect_tensor(function(vector.clone(), 20), 20, len(vector), what="what your function returns")
    ratios = drawn.norm(dim=-1) / vector.norm()
    expect(bool((ratios > 0.01).all()), "One of your vectors has length 0.")
    expect(
        bool(((ratios - 1).abs() < 0.01).all()),
        f"Your vectors are {ratios.min().item():.2g} to {ratios.max().item():.2g} times as long as the direction: a longer push does more, "
        "whatever its direction. Give them its norm.",
    )
    cosines = torch.nn.functional.cosine_similarity(drawn, vector[None], dim=-1).abs()
    expect(bool((cosines < 0.6).all()), "One of your vectors points almost the way of the direction itself: draw every entry anew.")
    between = torch.nn.functional.normalize(drawn, dim=-1) @ torch.nn.functional.normalize(drawn, dim=-1).T
    expect(bool((between - torch.eye(20) < 0.9).all()), "Some of your vectors are the same one: draw each anew.")
    expect(bool((drawn > 0).any() and (drawn < 0).any()), "All your entries have one sign: draw from a normal distribution (torch.randn).")
    return "Equally long, and pointing anywhere: what they do is what any push of this size does."


@exercises.add("2.5", "Who does not follow?", minutes=8)
def least_steerable(answer: Any, steering: Steering) -> str:
    """The slope of the prompt that follows least, as a share of the mean slope."""
    number = expect_number(answer, -100, 100, "your ratio")
    slopes = steering.slopes
    least, average = slopes.min(), slopes.mean()
    wrong = {
        "That is the slope itself: divide it by the mean of all.": least,
        "That is the one that follows most: take the smallest slope.": slopes.max() / average,
        "That is one divided by your ratio: the mean stands below.": average / least,
    }
    expect_unlike(number, {words: value for words, value in wrong.items() if abs(value - least / average) > 1e-3})
    expect_close(number, (least / average).item(), "your ratio", "The smallest of the slopes, divided by their mean.", tolerance=1e-3)
    against = int((slopes < 0).sum())
    said = f"{against} of {len(slopes)} even go the other way" if against else "and yet none goes the other way"
    return f"The one that follows least does {least / average:.0%} of what the mean says; {said}. A mean hides its members."
