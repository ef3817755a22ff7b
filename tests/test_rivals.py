"""Rivals of an autoencoder: the mean, principal components, and the best that given directions can do, each against a plain computation."""

from itertools import combinations

import pytest
import torch

from helpers.one_layer.rivals import Pursuit, mean_alone, principal_components, random_directions, supervised

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1]) + 2


def lost(rival, x=X) -> float:
    return (x - rival(x)).square().sum().item()


def test_the_mean_and_principal_components_lose_what_the_spectrum_says():
    sizes = torch.linalg.svdvals((X - X.mean(0)).double()).square()
    assert lost(mean_alone(X)) == pytest.approx(sizes.sum().item(), rel=1e-4)
    for k in (1, 3, 6):
        assert lost(principal_components(X, k)) == pytest.approx(sizes[k:].sum().item(), rel=1e-3, abs=1e-3)
        assert (principal_components(X, k).encode(X) > 0).sum(1).max() <= k


def test_a_pursuit_takes_k_directions_and_fits_them():
    directions = random_directions(6, 9, seed=1)
    assert torch.allclose(directions.norm(dim=1), torch.ones(9)) and not torch.equal(directions, random_directions(6, 9, seed=2))
    for k in (1, 2, 6):
        rival = Pursuit(directions, X.mean(0), k)
        codes = rival.encode(X)
        assert ((codes != 0).sum(1) == k).all()
        for row in range(5):  # no other coefficients of the directions that were taken are better
            basis = directions[codes[row] != 0]
            fitted = torch.linalg.lstsq(basis.T, (X[row] - X.mean(0))[:, None]).solution[:, 0]
            assert torch.allclose(codes[row][codes[row] != 0], fitted, atol=1e-3)
    assert lost(Pursuit(directions, X.mean(0), 6)) < 1e-2 * lost(mean_alone(X))
    centred = X - X.mean(0)
    planes = (torch.linalg.qr(directions[list(pair)].T).Q for pair in combinations(range(9), 2))  # [d_model, 2] each
    best_pair = min((centred - centred @ plane @ plane.T).square().sum().item() for plane in planes)
    assert lost(Pursuit(directions, X.mean(0), 2)) <= best_pair  # each state has a pair of its own


def test_states_of_any_shape_and_numbers_that_do_not_fit():
    rival = Pursuit(random_directions(6, 9), X.mean(0), 2)
    assert torch.allclose(rival(X.reshape(5, 12, 6)), rival(X).reshape(5, 12, 6), atol=1e-5)
    for call in (lambda: Pursuit(random_directions(6, 9), X[0], 7), lambda: principal_components(X, 7)):
        with pytest.raises(ValueError, match="k says how many"):
            call()


def test_the_supervised_direction_finds_what_a_larger_spread_hides():
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(400)[:, None] % torch.tensor([2, 5]) == 0
    x = torch.randn(400, 4, generator=rng) * torch.tensor([10.0, 1.0, 1.0, 1.0])
    x[:, 1] += 6 * labels[:, 0] + x[:, 0]  # along the second axis, beside a spread that is larger
    x[:, 2] += 8 * labels[:, 1]
    found = x @ supervised(x, labels).T
    for concept in (0, 1):
        inside, outside = found[labels[:, concept], concept], found[~labels[:, concept], concept]
        assert (inside[:, None] > outside).float().mean() > 0.99
    plainly = x @ (x[labels[:, 0]].mean(0) - x[~labels[:, 0]].mean(0))
    assert (plainly[labels[:, 0]][:, None] > plainly[~labels[:, 0]]).float().mean() < 0.9
