"""The exercises of notebook 03a, "A cluster of neurons: a model of the model": what each asks for, and what its check says."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_nonzero, expect_number, expect_tensor, expect_unlike
from helpers.cluster.linear_relations import LinearRelation, most_likely, relation_states
from helpers.cluster.relations import RelationData
from helpers.exercises import Exercises
from helpers.interventions import add, intervene, record, resid_post
from helpers.models import TransformerBridge
from helpers.prediction import next_token_probs, pieces, token_id, tokenize
from helpers.running import random_like

exercises = Exercises("03a_cluster_model_of_a_model")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

PROMPT, SUBJECT, OTHER, WISHED = "The capital of Poland is", " Poland", "Japan", " Tokyo"


@exercises.add("3.1", "Cut the wires", minutes=10)
def cut_the_wires(answer: Any) -> str:
    """A function from scores ``[row, head, query, key]``, a query and a mask of keys for each row to scores in which it cannot see them."""
    function = expect_callable(answer)
    scores, queries = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([4, 2, 3])
    hidden = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()  # [row, key]
    given, row = scores.clone(), torch.arange(3)
    made = function(given, queries.clone(), hidden.clone())
    made = made.clamp(min=-1e9) if torch.is_tensor(made) else made  # minus infinity is a right score, too
    result = expect_tensor(made, 3, 2, 5, 5, what="what your function returns")
    cut = torch.zeros_like(scores, dtype=torch.bool)
    cut[row, :, queries] = hidden[:, None].expand(-1, 2, -1)
    weights, plain = result.softmax(-1), scores.softmax(-1)
    expect(not bool(result[cut].eq(0).all()), "A score of 0 is no attention of 0: the softmax makes e⁰ = 1 of it.")
    seen = "A query still sees a key that it should not: after the softmax its attention is above 0. Is each row cut at its own keys?"
    expect(bool((weights[cut] < 1e-6).all()), seen)
    expect(bool((weights[~cut] > 1e-6).all()), "Too much is cut: each row has one query of its own, and keys of its own.")
    others = torch.ones(3, 5, dtype=torch.bool)
    others[row, queries] = False
    same = torch.allclose(weights.transpose(1, 2)[others], plain.transpose(1, 2)[others], atol=1e-5)
    expect(same, "Other queries lost something as well: change only the scores of each row's own query.")
    left = plain.masked_fill(cut, 0)
    expect_close(weights, left / left.sum(-1, keepdim=True), "the attention that is left", "It keeps its proportions.", tolerance=1e-3)
    expect(torch.equal(given, scores), "Your function changed the scores that it was given: work on a copy (scores.clone()).")
    return "Each query is blind for its own keys, and what it still sees sums to 1: the softmax has shared out the rest."


@exercises.add("3.2", "A slope without calculus", minutes=8)
def finite_differences(answer: Any, jacobian: Float[Tensor, "d_out d_in"]) -> str:
    """A function from ``F``, a point and a direction to the central difference of ``F`` along the direction."""
    function = expect_callable(answer)
    point, direction = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.1, -0.2])

    sides = set()

    def curved(x: Tensor) -> Tensor:
        sides.add(((x - point) @ direction).sign().item())
        return torch.stack([x[0] ** 2, x[0] * x[1], x[2] ** 3])

    right = torch.stack([2 * point[0] * direction[0], point[1] * direction[0] + point[0] * direction[1], 3 * point[2] ** 2 * direction[2]])
    result = expect_tensor(function(curved, point, direction), 3, what="what your function returns")
    expect(not torch.allclose(result, 2 * right, rtol=0.02), "This is twice the slope: the two points lie 2 eps apart.")
    expect(
        len({-1.0, 1.0} & sides) != 1,
        "You look at one side of the point only: its slope is off by half of eps times the curvature. Take a point on either side.",
    )
    hint = "Both sides of the point, divided by the distance between them; and in float32 a tiny eps drowns in rounding."
    expect_close(result, right, "your slope", hint, tolerance=2e-3)
    across = torch.randn(jacobian.shape[1], generator=torch.Generator().manual_seed(2))
    line = expect_tensor(function(lambda x: jacobian @ x, torch.ones_like(across), across), jacobian.shape[0], what="what it returns")
    expect_close(line, jacobian @ across, "the slope of the model's Jacobian as a map", "In float32 eps must not be tiny: try 0.01.", 2e-2)
    return "One call of F on either side, and no derivative was ever written down: whoever has this can check every Jacobian."


@exercises.add("3.3", "Right by chance", minutes=10)
def right_by_chance(answer: Any) -> str:
    """A function from what a map and what the model says of each subject (tokens) to the agreement beyond chance: Cohen's kappa."""
    function = expect_callable(answer)

    def made(by_map: list[int], by_model: list[int]) -> float:
        return expect_number(function(torch.tensor(by_map), torch.tensor(by_model)), what="what your function returns")

    raw, chance, most, right = 5 / 6, 13 / 36, 1 / 2, 17 / 23
    got = made([7, 7, 9, 9, 8, 7], [7, 9, 9, 9, 8, 7])
    wrong = {
        "This is the plain agreement: take off what the same answers, dealt out to the subjects by chance, would agree.": raw,
        "What is left over chance has to be measured by what was possible beyond it, so that a perfect map gets 1.": raw - chance,
        "Always the model's most frequent answer is one way to guess; here the map's own answers are dealt out.": (raw - most) / (1 - most),
    }
    expect_unlike(got, wrong, 1e-3)
    drawn = "Chance: how often do two answers agree if one is drawn from the map's and one from the model's?"
    expect_close(got, right, "the agreement beyond chance", drawn, tolerance=1e-3)
    perfect, blind = made([4, 4, 5, 6, 6], [4, 4, 5, 6, 6]), made([3] * 10, [3] * 7 + [1, 2, 4])
    expect(abs(perfect - 1) < 1e-3, f"A map that always agrees gets 1, not {perfect:.2f}.")
    expect(abs(blind) < 1e-3, f"A map that always says the same knows nothing of the subject: it gets 0, not {blind:.2f}.")
    return "A map that says Japan to everything now gets 0, however many subjects are Japanese; only what depends on the subject counts."


@exercises.add("3.4", "Back through the strongest directions", minutes=10)
def low_rank(answer: Any) -> str:
    """A function from a matrix, a difference and a rank to the pseudo-inverse of that rank times the difference."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=rng))[0] for _ in range(2))
    sizes = torch.tensor([5.0, 3.0, 2.0, 0.5, 0.1, 0.001])
    matrix, difference = left @ torch.diag(sizes) @ right.T, torch.randn(6, generator=rng)
    wanted = right[:, :3] @ ((left[:, :3].T @ difference) / sizes[:3])
    result = expect_tensor(function(matrix.clone(), difference.clone(), 3), 6, what="what your function returns")
    whole = torch.linalg.pinv(matrix) @ difference
    expect(not torch.allclose(result, whole, rtol=0.01), "This is the inverse of full rank: the tiny singular values blow it up. Cut them.")
    times = right[:, :3] @ ((left[:, :3].T @ difference) * sizes[:3])
    turned = left[:, :3] @ ((right[:, :3].T @ difference) / sizes[:3])
    exchanged = "Left and right are exchanged: the difference lives on the left, delta on the right."
    expect_unlike(result, {"You multiplied by the singular values, and that is W again: divide.": times, exchanged: turned}, 1e-3)
    hint = "The left directions take the difference apart, the sizes scale it back, the right ones write it: which of them, and how many?"
    expect_close(result, wanted, "your delta", hint, tolerance=1e-2)
    return "Of the difference, what the strong directions can reach is reached, and no noise is blown up."


@exercises.add("3.5", "Move a capital", minutes=12)
def move_a_capital(answer: Any, model: TransformerBridge) -> str:
    """A layer and a vector ``[d_model]`` that, added after the layer at Poland, make the model name another capital."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the layer's number, and the vector.")
    layer = int(expect_number(answer[0], 0, model.cfg.n_layers - 1, "your layer"))
    delta = expect_tensor(answer[1], model.cfg.d_model, what="your delta")
    expect_nonzero(delta, "your delta")
    tokens, place = tokenize(model, PROMPT), resid_post(layer)
    at = tokens.tolist().index(token_id(model, SUBJECT))
    size = record(model, tokens[None], place)[place][0, at].norm().item()
    expect(
        delta.norm().item() <= size * 1.001,
        f"Your delta is {delta.norm():.1f} long and the state {size:.1f}: so long a push breaks more than it edits. Use a lower rank.",
    )
    other = record(model, tokenize(model, PROMPT.replace(SUBJECT.strip(), OTHER))[None], place)[place][0, at].cpu()
    swap = other - record(model, tokens[None], place)[place][0, at].cpu()
    expect(
        not torch.allclose(delta, swap, atol=1e-3 * size),
        f"This swaps the whole state of {OTHER} in, with whatever the model knows of it. Change the answer only: go through the map.",
    )
    said, random = (_said(model, layer, push, at) for push in (delta, random_like(delta, 1, seed=3)[0]))
    expect(
        said == token_id(model, WISHED),
        f"With your delta the model says {pieces(model, torch.tensor([said]))[0].strip()!r}. "
        "Is o' the state for Japan and o that for Poland, in this order? Is the layer the map's own? Does the rank keep enough directions?",
    )
    expect(random != said, "A random vector of this length does the same: then it is not your edit.")
    return (
        f"The capital of Poland is Tokyo, with a push of {delta.norm().item() / size:.0%} of the state's length; a random push "
        f"of this length leaves {pieces(model, torch.tensor([random]))[0].strip()}."
    )


def _said(model: TransformerBridge, layer: int, delta: Float[Tensor, "d_model"], at: int) -> int:
    with intervene(model, add(resid_post(layer), delta, pos=at)):
        return int(next_token_probs(model, PROMPT).argmax())


@exercises.add("3.6", "Where the line ends", minutes=8, core=False)
def where_the_line_ends(answer: Any, model: TransformerBridge, surrogate: LinearRelation, data: RelationData) -> str:
    """A subject of the relation on which the map and the model give different first tokens."""
    expect(isinstance(answer, str), "The name of a country is needed here, such as 'Poland'.")
    expect(answer in data.subjects, f"{answer!r} is no subject of this relation: take one such as {data.subjects[0]!r}.")
    states = relation_states(model, data.take([data.subjects.index(answer)]), [surrogate.layer])
    by_map = int(most_likely(model, surrogate(states.s[0]))[0])
    by_model = int(states.token[0])
    words = [word.strip() for word in pieces(model, torch.tensor([by_map, by_model]))]
    expect(by_map != by_model, f"For {answer} both say {words[0]!r}: look on.")
    return f"{answer}: the map says {words[0]!r}, the model {words[1]!r}. Here the way to the answer is not the others' straight line."
