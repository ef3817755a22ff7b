"""How fast edges are attributed and pruned: passes are counted, and times taken on the course LM or a model of its shape: `make bench`."""

import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder, seconds
from test_bench_neurons import beside, counted_passes, model, record_ratio

from helpers.circuits import acdc, attribute_edges, curve
from helpers.edges import EdgeGraph, cut_each
from helpers.effects import log_odds
from helpers.models import TransformerBridge
from helpers.patching import Runs, runs

__all__ = ["folder", "model", "one_thread"]  # the fixtures

PROMPTS, PROMPT_TOKENS = 20, 16
ACDC_SECONDS = 60.0  # at most, for all 4,555 edges
CURVE_LIMIT = 1.1  # at most: the time of circuits side by side, as a share of one after the other
TAU = 0.003  # nats; a higher one keeps less and is faster


@pytest.fixture(scope="module")
def both(model: TransformerBridge) -> Runs:
    """Prompts ``... a b ... a`` of random tokens, of which the course LM says that ``b`` comes next, beside others."""
    clean = torch.randint(300, 5000, (PROMPTS, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    clean[:, 0] = model.tokenizer.bos_token_id
    clean[:, -1], corrupted = clean[:, 5], clean.clone()
    corrupted[:, [5, 9]] = clean[:, [9, 5]]
    return runs(model, clean, corrupted, log_odds(clean[:, 6], clean[:, 10]))


@pytest.mark.parametrize("steps", [0, 5])
def test_all_edges_are_attributed_in_one_pass_there_and_back(
    benchmark: BenchmarkFixture, model: TransformerBridge, both: Runs, steps: int
) -> None:
    with counted_passes(model) as counts:
        scores = attribute_edges(model, both, steps)
    assert len(scores.values) == len(EdgeGraph.of(model))
    recorded = 1 if steps == 0 else 2  # the corrupted outputs; and the clean ones, where no gradient is taken at them
    last = model.cfg.n_layers - 1
    assert counts["backward", last] == (steps or 1) and counts["forward", 0] == recorded + (steps or 1)
    benchmark.pedantic(lambda: attribute_edges(model, both, steps), rounds=3)


def test_acdc_of_all_edges(benchmark: BenchmarkFixture, model: TransformerBridge, both: Runs) -> None:
    with counted_passes(model) as counts:
        taken = seconds(lambda: benchmark.pedantic(lambda: acdc(model, both, TAU), rounds=1))
    passes = counts["forward", model.cfg.n_layers - 1]
    record_ratio(benchmark, seconds=taken, passes_to_edges=passes / len(EdgeGraph.of(model)))
    assert taken <= ACDC_SECONDS


def test_circuits_side_by_side(benchmark: BenchmarkFixture, model: TransformerBridge, both: Runs) -> None:
    few = Runs(both.clean.take(range(4)), both.corrupted.take(range(4)), log_odds(5, 6))
    scores = attribute_edges(model, few)
    sizes = [10, 20, 50, 100, 200, 500]
    ratio = beside(
        benchmark, lambda: curve(model, few, scores.top, sizes), lambda: [curve(model, few, scores.top, [n]) for n in sizes], rounds=3
    )
    edges = EdgeGraph.of(model).edges[:48]
    each = beside(
        benchmark, lambda: cut_each(model, few, edges[:16]), lambda: [cut_each(model, few, [edge]) for edge in edges[:16]], rounds=1
    )
    record_ratio(benchmark, ratio_to_one_by_one=ratio, cut_to_one_by_one=each)
    assert ratio <= CURVE_LIMIT and each <= CURVE_LIMIT
