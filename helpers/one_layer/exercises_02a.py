"""The exercises of notebook 02a, "One layer: directions": what each asks for, and what its check says to an answer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from helpers.answers import expect, expect_callable, expect_close, expect_nonzero, expect_number, expect_tensor, expect_unlike
from helpers.exercises import Exercises
from helpers.models import TransformerBridge
from helpers.one_layer.directions import Steering, ablate_direction, add_at
from helpers.running import random_like

exercises = Exercises("02a_one_layer_directions")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

Refused = Callable[..., list[bool]]  # which of some prompts are refused, with some interventions or none

WANTED = 0.8  # the share of refusals that exercise 2.2 asks for
LONGEST, WORDS = 2.5, 0.5  # and the most it allows: of the chosen direction's length, and of the cosine with the plain words


@exercises.add("2.1", "Take two directions out", minutes=10)
def projection(answer: Any) -> str:
    """A function from values ``[batch, pos, d_model]`` and directions ``[2, d_model]`` to values without either of them."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    values, directions = torch.randn(2, 3, 8, generator=rng), 3 * torch.randn(2, 8, generator=rng)
    directions[1] += 0.8 * directions[0]
    result = expect_tensor(function(values.clone(), directions.clone()), 2, 3, 8, what="what your function returns")
    basis = torch.linalg.qr(directions.T).Q
    right, units = values - values @ basis @ basis.T, normalize(directions, dim=-1)
    both = values @ units.T @ units
    in_turn = values - (values @ units[0])[..., None] * units[0]
    in_turn = in_turn - (in_turn @ units[1])[..., None] * units[1]
    left = "Each direction is taken out by itself, and what lies along both goes twice: the two are not at right angles."
    again = "The second step brings back a part of the first direction, since the two are not at right angles."
    mistakes = {
        left: values - both,
        again: in_turn,
        "Your directions are longer than 1, so too much is taken away.": values - values @ directions.T @ directions,
        "This is the part along the two directions; what is wanted is all the rest.": values - right,
    }
    expect_unlike(result, mistakes, 1e-3)
    expect_close(result, right, "what your function returns", "Is nothing left along either direction, and all else as before?", 1e-3)
    return "Nothing is left along either direction, and everything else is as it was."


@exercises.add("2.2", "An earlier direction", minutes=12)
def own_direction(
    answer: Any,
    prompts: Sequence[str],
    refused: Refused,
    chosen: int,
    refusal: Float[Tensor, "d_model"],
    words: Float[Tensor, "d_model"],
) -> str:
    """A layer before the ``chosen`` one, and a vector ``[d_model]`` that, added there, makes the model refuse harmless requests.

    It may not be much longer than ``refusal``, nor point to the plain ``words``.
    """
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the layer's number, and the vector.")
    layer = int(expect_number(answer[0], 0, chosen - 1, "your layer"))
    vector = expect_tensor(answer[1], len(refusal), what="your vector")
    expect_nonzero(vector)
    ratio = (vector.norm() / refusal.cpu().norm()).item()
    expect(ratio <= LONGEST, f"Your vector is {ratio:.1f} times as long as the chosen direction, and {LONGEST:g} times is the most here.")
    cosine = cosine_similarity(vector, words.cpu(), dim=0).item()
    expect(
        cosine < WORDS, f"Your vector has a cosine of {cosine:.2f} with the words of a refusal: it says them itself, wherever it stands."
    )
    by_model, opposite = (sum(hits) / len(hits) for hits in (refused(prompts, add_at(layer, one)) for one in (vector, -vector)))
    turned = "The other way round it does: you subtracted the harmful mean from the harmless one. " if opposite >= WANTED else ""
    expect(
        by_model >= WANTED,
        f"Added at layer {layer}, your vector makes the model refuse {by_model:.0%} of these harmless requests; {WANTED:.0%} are wanted. "
        f"{turned}Try other layers and lengths, and look at many requests, not at a few.",
    )
    hits = refused(prompts, add_at(layer, random_like(vector, 1)[0]))
    control = sum(hits) / len(hits)
    expect(control < 0.5, f"A random vector of this length does the same ({control:.0%}): yours is so long that anything breaks the model.")
    return (
        f"{by_model:.0%} of these requests are refused, on topics that your vector has never seen, with a random vector {control:.0%}; and "
        f"its cosine with the plain words is {cosine:.2f}."
    )


@exercises.add("2.3", "More than the words?", minutes=10)
def not_the_words(
    answer: Any, prompts: Sequence[str], refused: Refused, model: TransformerBridge, parts: Sequence[Float[Tensor, "d_model"]]
) -> str:
    """The share of harmful requests that is still refused without the words in the direction, and without the rest of it."""
    shares = expect_tensor(answer, 2, what="your pair of shares")
    expect(bool((shares >= 0).all() and (shares <= 1).all()), "Two shares between 0 and 1 are needed here: hits divided by prompts.")
    hits = [refused(prompts, *ablate_direction(model, part)) for part in parts]
    right = torch.tensor([sum(some) / len(some) for some in hits])
    mistakes = {
        "The two stand the other way round: first the words, then the rest.": right.flip(0),
        "That is the share that is no longer refused.": 1 - right,
    }
    expect_unlike(shares, {words: value for words, value in mistakes.items() if not torch.allclose(value, right, atol=1e-3)}, 1e-3)
    hint = "Is each part projected out everywhere, and are all of these prompts asked?"
    expect_close(shares, right, "your pair of shares", hint, tolerance=0.4 / len(prompts) / max(right.max().item(), 0.01))
    words, rest = right.tolist()
    told = "Neither part alone is what the refusal needs" if min(words, rest) > 0.5 else "Either part alone is needed"
    if abs(words - rest) > 0.2:
        told = f"What the refusal needs is {'the rest' if words > rest else 'the words'}"
    return f"Still refused are {words:.0%} without the words and {rest:.0%} without the rest. {told}; what is enough is another question."


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
        "whatever its direction.",
    )
    cosines = cosine_similarity(drawn, vector[None], dim=-1).abs()
    expect(bool((cosines < 0.6).all()), "One of your vectors points almost the way of the direction itself: draw every entry anew.")
    between = normalize(drawn, dim=-1) @ normalize(drawn, dim=-1).T
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
    expect_close(number, (least / average).item(), "your ratio", "Which claim is it, and what is it compared with?", tolerance=1e-3)
    against = int((slopes < 0).sum())
    said = f"{against} of {len(slopes)} even go the other way" if against else "and yet none goes the other way"
    return f"The one that follows least does {least / average:.0%} of what the mean says; {said}. A mean hides its members."
