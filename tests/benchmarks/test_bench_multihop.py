"""How fast one question is patched for every pair of a source and a target layer, beside a loop of full runs: `make bench`."""

import torch
from bench_tools import one_thread
from jaxtyping import Int
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder
from test_bench_neurons import beside, model, record_ratio

from helpers.interventions import intervene, record, resid_post, set_to
from helpers.models import TransformerBridge
from helpers.prediction import tokenize
from helpers.speak.back_patching import Pair, back_patch
from helpers.speak.two_hops import TwoHop, course_questions

__all__ = ["folder", "model", "one_thread"]  # the fixtures

NAIVE_LIMIT = 0.2  # at most: our time as a share of the naive loop's
MAP_SECONDS = 1.0  # at most, for the whole map


def naive(model: TransformerBridge, question: TwoHop, pairs: list[Pair]) -> Int[torch.Tensor, "pair"]:
    """What the model says after each patch at t1: for each of them one full run."""
    tokens, pos = tokenize(model, question.text)[None], len(tokenize(model, question.phrase)) - 1
    seen, found = record(model, tokens, *map(resid_post, range(model.cfg.n_layers))), []
    for source, target in pairs:
        with intervene(model, set_to(resid_post(target), seen[resid_post(source)][:, pos : pos + 1], pos=pos)):
            found.append(model(tokens)[0, -1].argmax())
    return torch.stack(found)


@torch.no_grad()
def test_one_map_beside_a_naive_loop(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    question, layers = course_questions()[0], range(model.cfg.n_layers)
    pairs = [(source, target) for source in layers for target in layers]
    assert back_patch(model, [question], pairs=pairs).tokens[:, 0].tolist() == naive(model, question, pairs).tolist()
    ratio = beside(benchmark, lambda: back_patch(model, [question], pairs=pairs), lambda: naive(model, question, pairs), rounds=3)
    record_ratio(benchmark, ratio_to_naive=ratio, seconds=benchmark.stats["median"])
    assert ratio <= NAIVE_LIMIT and benchmark.stats["median"] <= MAP_SECONDS
