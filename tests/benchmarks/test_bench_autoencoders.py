"""How fast an autoencoder is trained and features are scored, beside the plain way of doing the same in the same run.

The plain step writes all features out, zeros included, and leaves the gradients to autograd; both take turns on the same batches.
"""

import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_neurons import beside, record_ratio

from helpers.one_layer.features import best_features
from helpers.one_layer.sae_training import Settings, _Training

__all__ = ["one_thread"]  # the fixture

D_MODEL, STEPS = 192, 3
STEP_LIMIT = 0.6  # at most: time of a topk step, as a share of that of a plain one (measured 0.33 to 0.39)
SCORE_LIMIT = 0.5  # at most: time of scoring concepts, as a share of that of one cumulative sum for each (measured 0.12)


class Plain(torch.nn.Module):
    """A topk autoencoder as it is usually written down."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.k, self.W_dec = settings.k, torch.nn.Parameter(torch.randn(settings.d_sae, D_MODEL, generator=rng))
        self.W_enc, self.b_enc = torch.nn.Parameter(self.W_dec.data.T.clone()), torch.nn.Parameter(torch.zeros(settings.d_sae))
        self.b_dec = torch.nn.Parameter(torch.zeros(D_MODEL))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=settings.learning_rate)

    def step(self, x: torch.Tensor) -> None:
        """One step of the training."""
        before = (x - self.b_dec) @ self.W_enc + self.b_enc
        values, chosen = before.topk(self.k, dim=-1)
        features = torch.zeros_like(before).scatter(-1, chosen, values.relu())
        loss = (features @ self.W_dec + self.b_dec - x).square().sum(-1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("d_sae, batch, k", [(1536, 1024, 20), (2048, 2048, 24), (3072, 1024, 32)])
def test_a_topk_step(benchmark: BenchmarkFixture, d_sae: int, batch: int, k: int) -> None:
    settings = Settings("topk", d_sae=d_sae, k=k, steps=1000, batch=batch)
    rng = torch.Generator().manual_seed(0)
    ours, plain, x = _Training(torch.zeros(D_MODEL), settings, rng), Plain(settings), torch.randn(batch, D_MODEL, generator=rng)
    ratio = beside(benchmark, lambda: [ours.step(x, 1) for _ in range(STEPS)], lambda: [plain.step(x) for _ in range(STEPS)], rounds=5)
    record_ratio(benchmark, ratio_to_plain=ratio)
    assert ratio <= STEP_LIMIT


def plain_scores(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The best F1 of each concept: all tokens in the order of each feature, and one cumulative sum for each concept."""
    order = features.argsort(dim=0, descending=True)
    answered = torch.arange(1, len(features) + 1)[:, None]
    scores = [2 * inside[order].cumsum(0) / (answered + inside.sum()) for inside in labels.T]
    return torch.stack([score.max() for score in scores])


def test_scoring_concepts(benchmark: BenchmarkFixture) -> None:
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(4000, 128, generator=rng), torch.rand(4000, 60, generator=rng) < 0.01
    found = best_features(features, labels, features, labels)
    assert torch.allclose(found.f1_validation, plain_scores(features, labels))
    ratio = beside(benchmark, lambda: best_features(features, labels, features, labels), lambda: plain_scores(features, labels), rounds=3)
    record_ratio(benchmark, ratio_to_plain=ratio)
    assert ratio <= SCORE_LIMIT
