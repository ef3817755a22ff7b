"""The exercises of notebook 02a: each check accepts its solution, and explains what is wrong with typical other answers.

No check reads the course LM here: directions are planted in the unembedding of a tiny model, so that what a vector does is known.
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from exercise_tools import assert_exercise
from tiny_models import write_tiny_model
from torch import Tensor

from helpers.metrics import token_set_log_odds

REFUSE, OTHER = 0, 1  # numbers of two of the orthogonal directions
REFUSAL = 70  # a token
SIZE = 40.0  # of a vector that outweighs whatever else is in the stream of the tiny model


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory):
    """A tiny model that refuses along one direction."""
    from helpers.models import load_model
    from helpers.one_layer.exercises_02a import exercises

    model = load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))
    drawn = torch.randn(model.cfg.d_model, 5, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(drawn - drawn.mean(0)).Q.T  # of mean 0, since LayerNorm takes the mean away
    with torch.no_grad():
        model.W_U[:, REFUSAL] = 4 * basis[REFUSE]
        yield SimpleNamespace(model=model, exercises=exercises, basis=basis)


def projection(how: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A right or a wrong way to take two directions out."""

    def one(values, direction):
        unit = direction if how == "not divided" else direction / direction.norm()
        return values - (values @ unit)[..., None] * unit

    def function(values, directions):
        first, second = directions
        basis = torch.linalg.qr(directions.T).Q
        along = values @ basis @ basis.T
        if how in ("not divided", "each"):
            return one(values, first) + one(values, second) - values
        ways = {"in turn": one(one(values, first), second), "the part": along, "twice": values - 2 * along, "flat": along.flatten(1)}
        return ways.get(how, values - along)

    return function


def test_take_two_directions_out(lesson):
    wrong = [
        ("each", "what lies along both goes twice"),
        ("in turn", "brings back a part of the first"),
        ("not divided", "longer than 1"),
        ("the part", "all the rest"),
        ("twice", "is wrong in"),
        ("flat", "an axis too few"),
    ]
    answers = [(projection(how), words) for how, words in wrong]
    assert_exercise(lesson.exercises, "2.1", projection("right"), answers, stub=lambda values, directions: ...)


def refusal(lesson, tokens=(REFUSAL,)) -> dict:
    """What the check of exercise 2.2 is given: here a prompt is refused if one of some tokens follows it."""
    from helpers.running import score_prompts

    def refused(prompts, *changes):
        return (score_prompts(lesson.model, prompts, token_set_log_odds(tokens), *changes) > 0).tolist()

    own = SIZE * lesson.basis[REFUSE]
    prompts = ["The Tower", "Paris is in Taipei", "San Francisco, and", "a"]
    return {"prompts": prompts, "refused": refused, "chosen": 2, "refusal": own, "words": lesson.basis[OTHER]}


def test_an_earlier_direction(lesson):
    given, refuse = refusal(lesson), lesson.basis[REFUSE]
    assert not any(given["refused"](given["prompts"]))
    wrong = [
        ((0, -SIZE * refuse), "The other way round it does"),
        ((0, 0.01 * refuse), "makes the model refuse 0% of these harmless requests; 80% are wanted. Try other layers"),
        ((0, 0 * refuse), "subtract a mean from itself"),
        ((0, 3 * SIZE * refuse), "3.0 times as long as the chosen direction, and 2.5 times is the most"),
        ((0, SIZE * (refuse + lesson.basis[OTHER])), "a cosine of 0.71 with the words of a refusal"),
        ((2, SIZE * refuse), "has to lie between 0 and 1"),
        ((0, SIZE * refuse[:-1]), "A tensor of shape [32]"),
        (SIZE * refuse, "A pair is needed here"),
    ]
    for layer in (0, 1):
        assert_exercise(lesson.exercises, "2.2", (layer, SIZE * refuse), wrong, stub=(..., ...), **given)
    said = lesson.exercises.exercise("2.2").verdict((1, SIZE * refuse), **given).text
    assert said.startswith("100% of these requests are refused") and "with a random vector 0%" in said


def test_a_vector_whose_length_alone_breaks_the_model_is_no_direction(lesson):
    """Here a random vector of the same length makes the model say something that counts as a refusal, too."""
    from helpers.running import random_like

    vector, other = SIZE * lesson.basis[REFUSE], 90
    drawn = random_like(vector, 1)[0]
    kept = lesson.model.W_U[:, other].clone()
    lesson.model.W_U[:, other] = 4 * (drawn - drawn.mean()) / drawn.norm()
    try:
        said = lesson.exercises.exercise("2.2").verdict((1, vector), **refusal(lesson, (REFUSAL, other)))
    finally:
        lesson.model.W_U[:, other] = kept
    assert not said.solved and "A random vector of this length does the same (100%)" in said.text


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ((0.75, 0.25), "needs is the rest"),
        ((0.0, 0.5), "needs is the words"),
        ((1.0, 1.0), "Neither part alone"),
        ((0.25, 0.25), "Either part alone"),
    ],
)
def test_more_than_the_words(lesson, without: tuple[float, float], told: str):
    words, rest = lesson.basis[REFUSE], lesson.basis[OTHER]

    def refused(prompts, *changes):
        taken = changes[0].change(words[None, None], None).norm() < 1e-3  # are it the words that are projected out?
        return [at < without[0 if taken else 1] * len(prompts) for at in range(len(prompts))]

    given = {"prompts": ["a"] * 40, "refused": refused, "model": lesson.model, "parts": (words, rest)}
    off = (without[0] + 0.25 if without[0] < 1 else 0.75, without[1])
    wrong = [(off, "entries, by up to 0.25"), ((97.0, 25.0), "Two shares between 0 and 1"), (without[0], "A tensor of shape [2]")]
    if without[0] != without[1]:
        wrong.append((without[::-1], "the other way round"))
    assert_exercise(lesson.exercises, "2.3", without, wrong, stub=(..., ...), **given)
    assert told in lesson.exercises.exercise("2.3").verdict(torch.tensor(without), **given).text


def draw(how: str) -> Callable[[Tensor, int], Tensor]:
    """A right or a wrong way to draw random directions."""

    def function(vector, n):
        rng = torch.Generator().manual_seed(1)
        drawn = torch.randn(n, len(vector), generator=rng)
        wrong = {
            "one": drawn[:1].repeat(n, 1),
            "itself": vector.repeat(n, 1),
            "near": vector / vector.norm() + 0.5 * drawn / drawn.norm(dim=-1, keepdim=True),
            "positive": torch.rand(n, len(vector), generator=rng),
            "zero": torch.zeros(n, len(vector)),
        }
        drawn = wrong.get(how, drawn)
        length = 1 if how == "unscaled" else vector.norm() / drawn.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return drawn[0] if how == "single" else length * drawn

    return function


def test_fair_random_directions(lesson):
    wrong = [
        ("unscaled", "times as long as the direction"),
        ("one", "are the same one"),
        ("itself", "almost the way of the direction itself"),
        ("near", "almost the way of the direction itself"),
        ("positive", "have one sign"),
        ("zero", "length 0"),
        ("single", "A tensor of shape [20, 192]"),
    ]
    vector = 5 * torch.randn(192, generator=torch.Generator().manual_seed(3))
    answers = [(draw(how), words) for how, words in wrong]
    assert_exercise(lesson.exercises, "2.4", draw("right"), answers, stub=lambda vector, n: ..., vector=vector)


def test_who_does_not_follow(lesson):
    from helpers.one_layer.directions import Steering

    scales = (-1.0, 0.0, 2.0)
    slopes = torch.tensor([1.0, 2.0, -0.5, 0.1, 3.0, -2.0, 0.7, 0.2])  # two of eight fall
    bend = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 5.0])  # in the middle two lie above the line through their ends
    values = torch.tensor(scales)[:, None] * slopes + torch.tensor([[0.0], [1.0], [0.0]]) * bend + torch.arange(8.0)
    fitted = torch.tensor([(values[:, at] * (torch.tensor(scales) - 1 / 3)).sum() for at in range(8)])  # not through the ends alone
    right = (fitted.min() / fitted.mean()).item()
    steering = Steering(1, scales, values)
    wrong = [
        (steering.slopes.min().item(), "the slope itself"),
        ((fitted.max() / fitted.mean()).item(), "follows most"),
        (1 / right, "one divided by"),
        (0.0, "too large"),
        (slopes, "One number"),
    ]
    assert_exercise(lesson.exercises, "2.5", right, wrong, steering=steering)
