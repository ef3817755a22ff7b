"""How fast directions are found and heads are patched, beside bare passes of the same model in the same run: `make bench`."""

from collections.abc import Iterator

import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder, seconds
from test_bench_neurons import beside, counted_passes, model, record_ratio

from helpers.interventions import add, head_out, resid_post, set_to
from helpers.models import TransformerBridge
from helpers.one_layer.directions import difference_in_means
from helpers.one_layer.function_vectors import causal_indirect_effects, head_means
from helpers.one_layer.in_context import patch_sweep, read_answers, task_differences
from helpers.one_layer.tasks import Prompt, course_tasks, shuffled_prompts, zero_shot_prompts
from helpers.prompts import load_prompts
from helpers.running import chat_prompts
from helpers.texts import as_texts

__all__ = ["folder", "model", "one_thread"]  # the fixtures

N = 128  # prompts on each side
DIRECTIONS_SECONDS = 3.0  # at most, for all layers and two positions
DIRECTIONS_LIMIT = 1.3  # at most: their time as a multiple of a bare pass over the same batches
BATCHED_LIMIT = 1.0  # at most: the time of all heads in few passes, as a share of one pass for each head
FEW_PASSES = 0.3  # at most: the passes themselves, as a share of one for each head; there is one for each layer


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def requests(model: TransformerBridge, kind: str) -> list[str]:
    """128 requests in the chat format, some of them twice."""
    texts = [prompt.text for prompt in load_prompts("02a_one_layer_directions")[kind]]
    return chat_prompts(model, (texts * 2)[:N])


def test_directions_of_all_layers(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    sides = [requests(model, kind) for kind in ("harmful", "harmless")]
    texts = [as_texts(model, side) for side in sides]

    def bare() -> None:
        for some in texts:
            for rows in some.batches():
                model(some.take(rows).tokens)

    ratio = beside(benchmark, lambda: difference_in_means(model, *sides, positions=2), bare, rounds=3)
    taken = seconds(lambda: difference_in_means(model, *sides, positions=2))
    record_ratio(benchmark, ratio_to_bare=ratio, seconds=taken)
    assert ratio <= DIRECTIONS_LIMIT and taken <= DIRECTIONS_SECONDS


def test_indirect_effects_of_all_heads(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    task = course_tasks("antonym")["antonym"]
    means, prompts = head_means(model, task, n=20), shuffled_prompts(task, 8)

    def one_by_one(some: list[Prompt]) -> torch.Tensor:
        base = read_answers(model, some)[1]
        patched = [
            [
                read_answers(model, some, set_to(head_out(layer), means[layer, head], pos=-1, head=head))[1]
                for head in range(model.cfg.n_heads)
            ]
            for layer in range(model.cfg.n_layers)
        ]
        return torch.stack([torch.stack(row) for row in patched]) - base  # [layer, head, prompt]

    assert torch.allclose(causal_indirect_effects(model, means, prompts), one_by_one(prompts), atol=1e-4)
    with counted_passes(model) as counts:
        causal_indirect_effects(model, means, prompts)
    assert counts["forward", 0] <= FEW_PASSES * model.cfg.n_layers * model.cfg.n_heads
    ratio = beside(benchmark, lambda: causal_indirect_effects(model, means, prompts), lambda: one_by_one(prompts), rounds=3)
    record_ratio(benchmark, ratio_to_one_by_one=ratio)
    assert ratio <= BATCHED_LIMIT


def test_a_vector_at_all_layers(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    task = course_tasks("antonym")["antonym"]
    vectors, prompts = task_differences(model, task, n=20), zero_shot_prompts(task, 12)

    def one_by_one() -> list[torch.Tensor]:
        return [read_answers(model, prompts, add(resid_post(layer), vectors[layer], pos=-1))[1] for layer in range(model.cfg.n_layers)]

    ratio = beside(benchmark, lambda: patch_sweep(model, vectors, prompts, how="add"), one_by_one, rounds=3)
    record_ratio(benchmark, ratio_to_one_by_one=ratio)
    assert ratio <= 1.2  # many layers in one pass cost no more, although the prompts without the vector are run as well
