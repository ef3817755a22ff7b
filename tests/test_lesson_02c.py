"""The exercises of notebook 02c: each check accepts its solution, and explains what is wrong with typical other answers."""

import torch
from exercise_tools import assert_exercise
from layer_tools import D_MODEL, draw, random_sae

from helpers.interventions import resid_post
from helpers.one_layer.exercises_02c import exercises
from helpers.one_layer.features import FeatureActivations


def test_encode_by_hand():
    sae, x = random_sae("topk", k=3), draw(20, D_MODEL)
    before = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    wrong = [
        (before.relu(), "only the 3 largest"),
        ((x @ sae.W_enc + sae.b_enc).relu(), "x - b_dec"),
        (before, "the ReLU missing"),
        (sae.encode(x).T, "shape"),
        (2 * sae.encode(x), "name by name"),
    ]
    assert_exercise(exercises, "2.7", sae.encode(x), wrong, sae=sae, x=x)


def test_which_state_a_hook_names():
    wrong = [
        ((5, 11), "enters the block"),
        ((7, 11), "another state"),
        ((6, 12), "no block 12"),
        ((6, 0), "as it leaves the block"),
        (6, "Whole numbers"),
    ]
    assert_exercise(exercises, "2.8", (6, 11), wrong, stub=(..., ...), hook=resid_post(5), n_layers=12)


def exam() -> tuple[FeatureActivations, torch.Tensor]:
    """Feature 0 knows the concept, feature 1 is active everywhere, feature 2 never, feature 3 on half of the concept."""
    labels = torch.zeros(40, dtype=torch.bool)
    labels[:10] = True
    columns = torch.stack([labels * 2.0, torch.ones(40), torch.zeros(40), (torch.arange(40) < 5) * 1.0], 1)
    values, tokens, starts = [], [], [0]
    for column in columns.T:
        here = column.nonzero().flatten()
        values.append(column[here])
        tokens.append(here)
        starts.append(starts[-1] + len(here))
    return FeatureActivations(torch.cat(values), torch.cat(tokens), torch.tensor(starts), 40), labels


def test_the_feature_for_a_concept():
    features, labels = exam()
    wrong = [
        ((1, 0.5), "raise the threshold"),
        ((3, 0.5), "misses many"),
        ((0, 9.0), "threshold too high"),
        ((2, 0.5), "or the feature dead"),
        ((7, 0.5), "from 0 to 3"),
        (0, "A pair is needed here"),
    ]
    assert_exercise(exercises, "2.9", (0, 1.0), wrong, stub=(..., ...), features=features, labels=labels)
    said = exercises.exercise("2.9").verdict((0, 1.0), features=features, labels=labels).text
    assert said.startswith("Precision 1.00, recall 1.00, F1 1.00")


def test_a_control_as_strong():
    def push(x, own, value, other):
        return x + (value - own)[:, None] * other

    wrong = [
        (lambda x, own, value, other: x + value * other, "as long as the value"),
        (lambda x, own, value, other: x - (value - own)[:, None] * other, "the other way"),
        (lambda x, own, value, other: (value - own)[:, None] * other, "states themselves are gone"),
        (lambda x, own, value, other: x + ((value - (x @ other)).clamp(min=0))[:, None] * other, "how long is the push"),
    ]
    assert_exercise(exercises, "2.10", push, wrong, stub=lambda *parts: ...)


def test_why_a_feature_is_dead():
    sae, x = random_sae("topk", k=2, seed=3), draw(30, D_MODEL)
    share = (sae.encode(x) > 0).float().mean(0)
    highest = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).amax(0)
    silent = (share == 0).nonzero().flatten().tolist()
    blind = next((k for k in silent if highest[k] <= 0), None)
    crowded = next(k for k in silent if highest[k] > 0)
    alive = int(share.argmax())
    wrong = [
        ((alive, highest[alive].item()), "it is alive"),
        ((crowded, highest[crowded].item() + 1), "on the token where it says most"),
        ((crowded, 0.0), "on the token where it says most"),
        (crowded, "A pair is needed here"),
        ((sae.d_sae, 0.0), "50"),
    ]
    assert_exercise(exercises, "2.11", (crowded, highest[crowded].item()), wrong, stub=(..., ...), sae=sae, x=x)
    assert "crowded out" in exercises.exercise("2.11").verdict((crowded, highest[crowded].item()), sae=sae, x=x).text
    if blind is not None:
        assert "below zero" in exercises.exercise("2.11").verdict((blind, highest[blind].item()), sae=sae, x=x).text
