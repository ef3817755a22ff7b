"""Ridge regression beside least squares by a library. The intervals are tested with the findings (tests/test_findings.py)."""

import pytest
import torch

from helpers.stats import ridge


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)], ids=str)
@pytest.mark.parametrize("penalty", [1e-6, 0.5, 100.0])
def test_ridge_is_least_squares_with_the_penalty_as_further_rows(shape: tuple[int, int], penalty: float):
    """The library solves ``[x 1; sqrt(penalty) 0] [weight bias]^T = [y; 0]``, without any centring."""
    n, d_in = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d_in, generator=generator) + 3
    y = torch.randn(n, 2, generator=generator) - 1
    data = torch.cat([x.double(), torch.ones(n, 1, dtype=torch.float64)], 1)
    costs = torch.cat([penalty**0.5 * torch.eye(d_in, dtype=torch.float64), torch.zeros(d_in, 1, dtype=torch.float64)], 1)
    outputs = torch.cat([y.double(), torch.zeros(d_in, 2, dtype=torch.float64)])
    expected = torch.linalg.lstsq(torch.cat([data, costs]), outputs).solution
    weight, bias = ridge(x, y, penalty)
    assert torch.allclose(weight, expected[:-1].T, atol=1e-6, rtol=1e-6)
    assert torch.allclose(bias, expected[-1], atol=1e-6, rtol=1e-6)
