"""Linear probes: what is fitted is the minimum of the penalised loss, at every place by itself, and errors are one sentence."""

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


def test_log_odds_and_accuracy_by_hand():
    probes = Probes(torch.tensor([[1.0, -2.0], [0.0, 1.0]]), torch.tensor([0.5, -1.0]))
    states = torch.tensor([[[1.0, 1.0], [3.0, 1.0]], [[9.0, 0.0], [9.0, 4.0]]])
    assert probes.log_odds(states).tolist() == [[-0.5, 1.5], [-1, 3]]
    assert probes.accuracy(states, torch.tensor([False, False])).tolist() == [0.5, 0.5]
    assert probes.accuracy(states, torch.tensor([False, True])).tolist() == [1, 1]


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


@pytest.mark.parametrize(
    "shape, labels, said",
    [
        ((2, 4, 3), [True, False, True], r"\[2, 4, 3\] and 3 labels"),
        ((3, 3), [True, False, True], r"\[3, 3\] and 3 labels"),
        ((2, 3, 3), [True] * 3, "examples with the label and examples without it"),
        ((2, 3, 3), [False] * 3, "examples with the label and examples without it"),
    ],
)
def test_states_and_labels_must_fit(shape, labels, said):
    with pytest.raises(ValueError, match=said):
        unwrap(fit_probes)(torch.randn(shape), torch.tensor(labels))  # without the check of its shapes, which notebooks do not have either
