"""How fast activations are patched, beside TransformerLens's own sweeps with the same numbers, in the same run: `make bench`.

The library runs the whole model once for each patch. Measured on the course LM, or on a random model of its shape, with eight prompts of
15 tokens: four pairs of names in both orders.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder
from test_bench_neurons import beside, counted_passes, model, record_ratio
from test_patching import sweep_of_library

from helpers.cluster.patching import PatchMap, PromptPairs, attribute_positions, patch_heads, patch_positions, prompt_pairs
from helpers.interventions import attn_out, head_out, mlp_out, resid_pre
from helpers.metrics import log_odds
from helpers.models import COURSE_LM_FOLDER, TransformerBridge
from helpers.prediction import token_id

__all__ = ["folder", "model", "one_thread"]  # the fixtures

NAMES = (("John", "Mary"), ("Tom", "Anna"), ("Peter", "Lucy"), ("Paul", "Emma"))
FRAME = "When {} and {} went to the park, {} gave a book to"
POSITIONS, HEADS = 4.0, 3.0  # at least: how many times as fast as the library
ESTIMATE_PASSES = 3  # at most: clean and corrupted together, then there and back


@pytest.fixture(scope="module")
def both(model: TransformerBridge, folder: object) -> PromptPairs:
    """Sentences in which the first or the second one gives, beside the same with the other giver."""
    if folder != COURSE_LM_FOLDER:
        clean = torch.randint(300, 5000, (8, 15), generator=torch.Generator().manual_seed(0))
        corrupted = clean.clone()
        corrupted[:, 10] = clean[:, 2]
        return prompt_pairs(model, clean, corrupted, log_odds(clean[:, 2], clean[:, 4]))
    givers = [(pair, giver) for pair in NAMES for giver in pair]
    clean = [FRAME.format(*pair, giver) for pair, giver in givers]
    corrupted = [FRAME.format(*pair, pair[giver == pair[0]]) for pair, giver in givers]
    wrong = torch.tensor([token_id(model, f" {giver}") for _, giver in givers])
    right = torch.tensor([token_id(model, f" {pair[giver == pair[0]]}") for pair, giver in givers])
    found = prompt_pairs(model, clean, corrupted, log_odds(right, wrong))
    assert found.clean.tokens.shape == (8, 15)
    return found


def by_library(model: TransformerBridge, both: PromptPairs, name: str) -> torch.Tensor:
    """A sweep of the library: it keeps the clean run and patches the corrupted one."""
    _, cache = model.run_with_cache(both.clean.tokens)
    return sweep_of_library(name)(model, both.corrupted.tokens, cache, lambda logits: both.metric(logits).mean())


@torch.no_grad()
@pytest.mark.parametrize(
    ("sweep", "name", "limit"),
    [
        (partial(patch_positions, place=resid_pre), "resid_pre", POSITIONS),
        (partial(patch_positions, place=mlp_out), "mlp_out", POSITIONS),
        (partial(patch_positions, place=attn_out), "attn_out", POSITIONS),
        (partial(patch_heads, place=head_out), "attn_head_out_all_pos", HEADS),
    ],
    ids=["resid_pre", "mlp_out", "attn_out", "heads"],
)
def test_sweeps(
    benchmark: BenchmarkFixture, model: TransformerBridge, both: PromptPairs, sweep: Callable[..., PatchMap], name: str, limit: float
) -> None:
    torch.testing.assert_close(sweep(model, both).after.mean(-1), by_library(model, both, name), atol=1e-4, rtol=0)
    with counted_passes(model) as counts:
        sweep(model, both)
    assert counts["forward", model.cfg.n_layers - 1] <= model.cfg.n_layers + 5  # one a layer, both runs, the prefix
    ratio = beside(benchmark, lambda: sweep(model, both), lambda: by_library(model, both, name), rounds=2)
    record_ratio(benchmark, times_as_fast_as_library=1 / ratio)
    assert 1 / ratio >= limit


def test_estimates(benchmark: BenchmarkFixture, model: TransformerBridge, both: PromptPairs) -> None:
    with counted_passes(model) as counts:
        attribute_positions(model, both)
    assert sum(counts[way, 0] for way in ("forward", "backward")) <= ESTIMATE_PASSES
    ratio = beside(benchmark, lambda: attribute_positions(model, both), lambda: patch_positions(model, both))
    record_ratio(benchmark, ratio_to_patching=ratio)
    assert ratio < 1
