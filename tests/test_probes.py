"""Linear probes: what is fitted is the minimum of the penalised loss, at every place by itself, and errors are one sentence."""

import re
from inspect import unwrap

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.one_layer.probes import Probes, fit_probes


def examples(places: int = 3, items: int = 60, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States that say something of the labels, at places and in dimensions of very different size and centre."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.rand(items, generator=rng) < 0.4
    states = torch.randn(places, items, width, generator=rng)
    states[:, :, 0] += labels * 1.5
    sizes = torch.logspace(-1, 1, width) * torch.arange(1, places + 1)[:, None, None]
    return states * sizes + torch.arange(width) - 2, labels


def standardised(states: Tensor, probes: Probes, place: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The inputs of one place with mean 0 and standard deviation 1, and the probe in their terms."""
    x = states[place].double().numpy()
    centre, scale = x.mean(0), x.std(0, ddof=1)
    own = probes.weights[place].double().numpy()
    return (x - centre) / scale, own * scale, probes.bias[place].item() + own @ centre


def newton(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """The logistic fit by Newton's method: mean cross-entropy plus ``penalty`` times the squared weights, but not the bias."""
    ones = np.c_[x, np.ones(len(x))]
    penalties = np.r_[np.full(x.shape[1], 2 * penalty), 0]
    beta = np.zeros(ones.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-ones @ beta))
        gradient = ones.T @ (p - y) / len(y) + penalties * beta
        beta -= np.linalg.solve((ones.T * (p * (1 - p))) @ ones / len(y) + np.diag(penalties), gradient)
    return beta[:-1], beta[-1]


@pytest.mark.parametrize("penalty", [1e-2, 0.3])
def test_the_fit_is_that_of_newton(penalty):
    states, labels = examples()
    probes = fit_probes(states, labels, penalty)
    for place in range(3):
        inputs, weights, bias = standardised(states, probes, place)
        expected, expected_bias = newton(inputs, labels.numpy(), penalty)
        assert np.allclose(weights, expected, atol=1e-3) and bias == pytest.approx(expected_bias, abs=1e-3)


def test_the_gradient_at_the_solution_is_zero():
    states, labels = examples(places=8, items=90, width=12)
    probes = fit_probes(states, labels, penalty=0.05)
    for place in range(8):
        inputs, weights, bias = standardised(states, probes, place)
        wrong = 1 / (1 + np.exp(-(inputs @ weights + bias))) - labels.numpy()
        assert np.abs(inputs.T @ wrong / 90 + 2 * 0.05 * weights).max() < 1e-4 and abs(wrong.mean()) < 1e-4


def test_separable_data_are_told_apart():
    states, labels = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2 == 0
    states[0, :, 1] = torch.where(labels, 1.0, -1.0) * (1 + states[0, :, 1].abs())
    states[1, :, 3] = torch.where(labels, 5.0, 5.5)  # a small difference far from 0
    assert fit_probes(states, labels).accuracy(states, labels).tolist() == [1, 1]


def test_labels_at_random_are_not_told_apart():
    rng = torch.Generator().manual_seed(0)
    states, labels = torch.randn(2, 400, 3, generator=rng), torch.rand(400, generator=rng) < 0.5
    held_out, others = torch.randn(2, 400, 3, generator=rng), torch.rand(400, generator=rng) < 0.5
    assert (fit_probes(states, labels).accuracy(held_out, others) - 0.5).abs().max() < 0.1


def test_log_odds_and_accuracy_by_hand():
    probes = Probes(torch.tensor([[1.0, -2.0], [0.0, 1.0]]), torch.tensor([0.5, -1.0]))
    states = torch.tensor([[[1.0, 1.0], [3.0, 1.0]], [[9.0, 0.0], [9.0, 4.0]]])
    assert probes.log_odds(states).tolist() == [[-0.5, 1.5], [-1, 3]]
    assert probes.accuracy(states, torch.tensor([False, False])).tolist() == [0.5, 0.5]
    assert probes.accuracy(states, torch.tensor([False, True])).tolist() == [1, 1]


def test_places_do_not_influence_each_other():
    states, labels = examples(places=4)
    together = fit_probes(states, labels)
    loud = states.clone()
    loud[1:] = states[1:].flip(1) * 1000
    for other in (fit_probes(states[:1], labels), fit_probes(loud, labels)):
        assert torch.allclose(together.weights[0], other.weights[0], atol=1e-3)
        assert together.bias[0].item() == pytest.approx(other.bias[0].item(), abs=1e-3)
    assert not torch.allclose(together.weights[1], fit_probes(loud, labels).weights[1], atol=1e-3)


def test_a_dimension_that_never_changes_says_nothing():
    states, labels = examples(places=1)
    still = torch.cat([states, torch.full((1, 60, 1), 4.0)], dim=-1)
    probes = fit_probes(still, labels)
    assert torch.isfinite(probes.weights).all() and probes.weights[0, -1] == 0
    assert torch.allclose(probes.weights[:, :-1], fit_probes(states, labels).weights, atol=1e-3)


def test_fitting_changes_nothing_and_needs_no_gradients_outside():
    states, labels = examples()
    before = states.clone()
    with torch.no_grad():
        probes = fit_probes(states.requires_grad_(), labels)
        assert not torch.is_grad_enabled()
    assert torch.equal(states, before) and states.grad is None and not probes.weights.requires_grad and not probes.bias.requires_grad
    again = fit_probes(before, labels)
    assert torch.equal(probes.weights, again.weights) and torch.equal(probes.bias, again.bias)


@pytest.mark.parametrize("label", [True, False])
def test_one_label_only_is_refused(label):
    with pytest.raises(ValueError, match="examples with the label and examples without it"):
        fit_probes(torch.randn(2, 6, 3), torch.full((6,), label))


def wrongly_shaped() -> list[tuple[Tensor, Tensor, str]]:
    labels = torch.tensor([True, False, True])
    return [(torch.randn(2, 4, 3), labels, "[2, 4, 3] and 3 labels"), (torch.randn(3, 3), labels, "[3, 3] and 3 labels")]


@pytest.mark.parametrize("states, labels, said", wrongly_shaped(), ids=["items", "axes"])
def test_states_and_labels_must_fit(states, labels, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        unwrap(fit_probes)(states, labels)  # without the check of its shapes, which notebooks do not have either
