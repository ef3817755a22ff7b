"""How fast edges are attributed and pruned: passes are counted, and times taken on the course LM or a model of its shape: `make bench`."""

from pathlib import Path

import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder, seconds
from test_bench_neurons import beside, counted_passes, model, record_ratio

from helpers.cluster.circuits import acdc, attribute_edges
from helpers.cluster.edges import EdgeGraph, cut_each
from helpers.cluster.ioi import ioi_sentences
from helpers.cluster.patching import PromptPairs, prompt_pairs
from helpers.metrics import log_odds
from helpers.models import COURSE_LM_FOLDER, TransformerBridge

__all__ = ["folder", "model", "one_thread"]  # the fixtures

PROMPTS = 20  # of some 16 tokens
ACDC_SECONDS = 60.0  # at most, for all 4,555 edges
SIDE_BY_SIDE_LIMIT = 0.7  # at most: the time of circuits that share passes, as a share of one after the other
TAU = 0.003  # nats; a higher one keeps less and is faster


@pytest.fixture(scope="module")
def both(model: TransformerBridge, folder: Path) -> PromptPairs:
    """Sentences that end where the indirect object comes, beside such with other names; random tokens for a model that was not trained."""
    if folder == COURSE_LM_FOLDER:
        return ioi_sentences(model, PROMPTS, frames=["when went"]).pairs(model)
    clean = torch.randint(300, 5000, (PROMPTS, 16), generator=torch.Generator().manual_seed(0))
    corrupted = clean.index_copy(1, torch.tensor([5, 9]), clean[:, [9, 5]])
    return prompt_pairs(model, clean, corrupted, log_odds(clean[:, 6], clean[:, 10]))


@pytest.mark.parametrize("steps", [0, 5])
def test_all_edges_are_attributed_in_one_pass_there_and_back(
    benchmark: BenchmarkFixture, model: TransformerBridge, both: PromptPairs, steps: int
) -> None:
    with counted_passes(model) as counts:
        scores = attribute_edges(model, both, steps)
    assert len(scores.values) == len(EdgeGraph.of(model))
    recorded = 1 if steps == 0 else 2  # the corrupted outputs; and the clean ones, where no gradient is taken at them
    last = model.cfg.n_layers - 1
    assert counts["backward", last] == (steps or 1) and counts["forward", 0] == recorded + (steps or 1)
    benchmark.pedantic(lambda: attribute_edges(model, both, steps), rounds=3)


def test_acdc_of_all_edges(benchmark: BenchmarkFixture, model: TransformerBridge, both: PromptPairs) -> None:
    with counted_passes(model) as counts:
        taken = seconds(lambda: benchmark.pedantic(lambda: acdc(model, both, TAU), rounds=1))
    passes = counts["forward", model.cfg.n_layers - 1]
    record_ratio(benchmark, seconds=taken, passes_to_edges=passes / len(EdgeGraph.of(model)))
    assert taken <= ACDC_SECONDS


def test_circuits_side_by_side(benchmark: BenchmarkFixture, model: TransformerBridge, both: PromptPairs) -> None:
    few = PromptPairs(both.clean.take(range(4)), both.corrupted.take(range(4)), log_odds(5, 6))
    edges = EdgeGraph.of(model).edges[-48:]
    ratio = beside(benchmark, lambda: cut_each(model, few, edges), lambda: [cut_each(model, few, [edge]) for edge in edges], rounds=2)
    record_ratio(benchmark, ratio_to_one_by_one=ratio)
    assert ratio <= SIDE_BY_SIDE_LIMIT
