"""The exercises of notebook 02c: each check accepts its solution, and explains what is wrong with typical other answers."""

import torch
from exercise_tools import assert_exercise
from layer_tools import D_MODEL, draw, random_sae

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
        (2 * sae.encode(x), "add b_enc"),
    ]
    assert_exercise(exercises, "2.7", sae.encode(x), wrong, sae=sae, x=x)


def test_how_much_is_explained():
    def share(x, written):
        return 1 - (x - written).square().sum() / (x - x.mean(0)).square().sum()

    wrong = [
        (lambda x, written: 1 - (x - written).square().sum() / x.square().sum(), "whole length"),
        (lambda x, written: 1 - (x - written).square().sum() / (x - x.mean()).square().sum(), "x.mean(0)"),
        (lambda x, written: 1 - share(x, written), "the rest"),
        (lambda x, written: (x - written).norm(), "Two sums of squares"),
    ]
    assert_exercise(exercises, "2.8", share, wrong, stub=lambda x, written: ...)


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


def test_hold_a_feature_and_keep_the_rest():
    def hold(x, own, value, direction):
        return x + (value - own)[:, None] * direction

    wrong = [
        (lambda x, own, value, direction: x + value * direction, "not 2 more"),
        (lambda x, own, value, direction: (value * direction).expand_as(x), "Everything else is gone"),
        (lambda x, own, value, direction: x - (value - own)[:, None] * direction, "Take away what the feature has"),
    ]
    assert_exercise(exercises, "2.10", hold, wrong, stub=lambda *parts: ...)


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
        ((crowded, highest[crowded].item() + 1), "then the maximum"),
        ((crowded, 0.0), "then the maximum"),
        (crowded, "A pair is needed here"),
        ((sae.d_sae, 0.0), "50"),
    ]
    assert_exercise(exercises, "2.11", (crowded, highest[crowded].item()), wrong, stub=(..., ...), sae=sae, x=x)
    assert "crowded out" in exercises.exercise("2.11").verdict((crowded, highest[crowded].item()), sae=sae, x=x).text
    if blind is not None:
        assert "below zero" in exercises.exercise("2.11").verdict((blind, highest[blind].item()), sae=sae, x=x).text
