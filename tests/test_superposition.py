"""Superposition: what a toy model keeps, measured by hand; and how many directions fit into a space."""

from functools import cache

import pytest
import torch

from helpers.one_neuron import superposition
from helpers.one_neuron.superposition import ToyModels, draw_features, nearly_orthogonal, read_out, train_toys, unit_directions


def reconstruct(weights: torch.Tensor, biases: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``ReLU(W^T W x + b)`` of each model."""
    return (torch.einsum("mhf,mhg,mbg->mbf", weights, weights, x) + biases[:, None]).relu()


@cache
def small_toys() -> ToyModels:
    """Dense and sparse features, eight of them in two dimensions."""
    return train_toys(8, 2, sparsities=(0.0, 0.95), decay=0.7, steps=400, starts=3)


def by_hand(*columns: tuple[float, float]) -> ToyModels:
    """One model whose columns W_i are given."""
    weights = torch.tensor(columns).T[None]
    n = len(columns)
    return ToyModels((0.5,), weights, torch.zeros(1, n), torch.ones(n), torch.tensor([0.125]), torch.tensor([0.25]))


def test_dense_features_get_a_dimension_each_and_sparse_ones_are_crowded_which_pays():
    toys = small_toys()
    assert toys.represented[0] == 2 and toys.represented[1] >= 4
    assert toys.norms[0, :2].min() > 0.9 and toys.norms[0, 2:].max() < 0.3
    assert abs(toys.overlaps[0, 0, 1].item()) < 0.1
    assert toys.loss[0].item() == pytest.approx(toys.dedicated_loss[0].item(), rel=0.05)
    assert toys.loss[1] < 0.8 * toys.dedicated_loss[1]
    assert toys.interference[1, :4].min() > 0.5 > 0.1 > toys.interference[0, :2].max()


def test_norms_overlaps_and_interference_by_hand():
    toys = by_hand((3.0, 4.0), (0.0, 2.0), (0.0, 0.0))
    assert toys.norms.tolist() == [[5.0, 2.0, 0.0]]
    assert toys.overlaps.tolist() == [[[25.0, 8.0, 0.0], [8.0, 4.0, 0.0], [0.0, 0.0, 0.0]]]
    # u_0 = (0.6, 0.8) meets W_1 with 1.6; u_1 = (0, 1) meets W_0 with 4
    assert toys.interference[0].tolist() == pytest.approx([1.6**2, 4.0**2, 0.0], rel=1e-5)
    assert toys.represented == (2,)


def test_the_table_says_the_numbers_and_copes_with_a_model_that_keeps_nothing():
    line = by_hand((3.0, 4.0), (0.0, 2.0), (0.0, 0.0)).table().splitlines()[1].split()
    assert line == ["0.50", "2", "1.00", f"{(1.6**2 + 16) / 2:.2f}", "0.1250", "0.2500"]
    assert by_hand((0.0, 0.1)).table().splitlines()[1].split()[1:4] == ["0", "-", "0.00"]


def test_features_are_absent_as_often_as_they_should_and_else_evenly_spread():
    drawn = draw_features(torch.tensor([0.0, 0.9]), 10, 5000, torch.Generator().manual_seed(0))
    there = drawn > 0
    assert there[0].all() and there[1].float().mean().item() == pytest.approx(0.1, abs=0.01)
    for model in (0, 1):
        values = drawn[model][there[model]]
        assert values.max() <= 1 and values.mean().item() == pytest.approx(0.5, abs=0.02)
        assert values.var().item() == pytest.approx(1 / 12, abs=0.005)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_the_dedicated_loss_is_that_of_a_model_with_a_dimension_for_each(sparsity: float):
    toys = train_toys(4, 2, sparsities=(sparsity,), decay=0.5, steps=1, starts=1)
    x = draw_features(torch.tensor([sparsity]), 4, 100_000, torch.Generator().manual_seed(1))
    kept = torch.eye(2, 4)[None]
    mean = (1 - sparsity) / 2
    error = (x - reconstruct(kept, torch.tensor([[0.0, 0.0, mean, mean]]), x)).square() * torch.tensor([1, 0.5, 0.25, 0.125])
    assert toys.dedicated_loss[0].item() == pytest.approx(error.sum(2).mean().item(), rel=0.02)


def test_importance_falls_by_the_decay_and_a_dimension_for_each_costs_nothing():
    toys = train_toys(3, 3, sparsities=(0.0,), decay=0.5, steps=400, starts=2)
    assert toys.importance.tolist() == [1.0, 0.5, 0.25] and toys.dedicated_loss.tolist() == [0.0]
    assert toys.represented == (3,) and toys.loss[0] < 0.01


def test_the_loss_is_that_of_the_weights_that_are_kept():
    toys = small_toys()
    x = draw_features(torch.tensor(toys.sparsities), 8, 50_000, torch.Generator().manual_seed(9))
    errors = ((x - reconstruct(toys.weights, toys.biases, x)).square() * toys.importance).sum(2).mean(1)
    assert toys.loss.tolist() == pytest.approx(errors.tolist(), rel=0.15)  # both are estimates


def test_of_several_starts_the_best_is_kept_for_each_sparsity(monkeypatch: pytest.MonkeyPatch):
    good, bad = torch.eye(2), torch.zeros(2, 2)
    starts = torch.stack([bad, good, good, bad, bad, bad])  # three starts of two models
    monkeypatch.setattr(superposition, "_train", lambda *arguments: (starts, torch.zeros(6, 2)))
    toys = train_toys(2, 2, sparsities=(0.0, 0.5), starts=3)
    assert torch.equal(toys.weights, torch.stack([good, good])) and toys.loss.tolist() == [0.0, 0.0]


SIZES = r"A toy model needs one feature and one hidden dimension at least, not {} and {}\.$"
SPARSITIES = r"A sparsity is the share of the time that a feature is absent, from 0 to below 1; not \[{}\]\.$"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: train_toys(features=0), SIZES.format(0, 5)),
        (lambda: train_toys(hidden=-1), SIZES.format(20, -1)),
        (lambda: train_toys(sparsities=(0.5, 1.0)), SPARSITIES.format("0.5, 1.0")),
        (lambda: train_toys(sparsities=(float("nan"),)), SPARSITIES.format("nan")),
        (lambda: train_toys(sparsities=()), SPARSITIES.format("")),
        *(
            (lambda limit=limit: nearly_orthogonal(4, limit), rf"between two directions, between 0 and 1; not {limit}\.$")
            for limit in (0.0, 1.0, float("nan"))
        ),
        *((lambda k=k: read_out(4, 10, [1, k]), rf"From 1 to all 10 features can be active at once, not {k}\.$") for k in (0, 11)),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(wrong, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_random_directions_have_length_1_and_point_anywhere():
    drawn = unit_directions(4000, 6)
    assert torch.allclose(drawn.norm(dim=1), torch.ones(4000), atol=1e-5) and drawn.shape == (4000, 6)
    assert drawn.mean(0).abs().max() < 0.05  # no side is preferred
    assert torch.equal(drawn, unit_directions(4000, 6)) and not torch.equal(drawn, unit_directions(4000, 6, seed=1))


def kept_by_hand(dims: int, limit: float, tries: int) -> list[torch.Tensor]:
    """Directions kept one after the other, each compared with all those before."""
    kept: list[torch.Tensor] = []
    for direction in unit_directions(tries, dims):
        if all(abs(float(direction @ other)) <= limit for other in kept):
            kept.append(direction)
    return kept


@pytest.mark.parametrize(("dims", "limit"), [(2, 0.5), (8, 0.3), (30, 0.3)])
def test_directions_are_kept_as_long_as_none_comes_too_near_to_another(dims: int, limit: float):
    assert nearly_orthogonal(dims, limit, tries=300) == len(kept_by_hand(dims, limit, 300))


def test_more_fits_with_a_wider_limit_and_more_dimensions_and_far_more_than_dimensions():
    counts = [[nearly_orthogonal(dims, limit, tries=1000) for limit in (0.2, 0.4, 0.6)] for dims in (8, 16, 32)]
    assert all(row == sorted(set(row)) for row in counts)
    assert [row[1] for row in counts] == sorted({row[1] for row in counts})
    assert counts[2][2] > 10 * 32
    assert nearly_orthogonal(1, 0.9, tries=50) == 1


def test_reading_out_gets_worse_the_more_features_are_active_and_better_with_room():
    few, some, many = read_out(32, 300, [1, 6, 60])
    assert few == 1.0 > some > many > 60 / 300  # chance
    assert read_out(256, 300, [6])[0] > some


def test_reading_out_by_hand():
    basis = unit_directions(12, 3, seed=5)
    rng = torch.Generator().manual_seed(6)
    shares = []
    for on in torch.rand(7, 12, generator=rng).argsort(1)[:, :4].tolist():
        mixture = sum(basis[at] for at in on)
        strongest = sorted(range(12), key=lambda at: -float(mixture @ basis[at]))[:4]
        shares.append(len(set(strongest) & set(on)) / 4)
    assert read_out(3, 12, [4], trials=7, seed=5)[0] == pytest.approx(sum(shares) / 7)
