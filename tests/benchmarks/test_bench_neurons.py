"""How fast neurons are scanned and attributed, beside bare passes of the same model in the same run: `make bench`.

A bare pass has no hooks and keeps nothing; it gets the same batches, and takes turns with ours batch by batch, so that a machine
busy with other things slows both. Measured on the course LM, or on a random model of the same shape where it has not been trained.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import torch
from bench_tools import one_thread
from jaxtyping import Float
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import Job, folder, seconds

from helpers.activations import scan, top_contexts
from helpers.interventions import add, intervene
from helpers.metrics import Metric, log_odds
from helpers.models import COURSE_LM_FOLDER, TransformerBridge, load_model
from helpers.one_neuron.ablation import attribute_neurons
from helpers.texts import Texts, held_out_texts

__all__ = ["folder", "one_thread"]  # the fixtures

SCANNED_TOKENS = 200_000
SCAN_LIMIT = 0.85  # at least: tokens a second of a scan, as a share of those of a bare pass up to the same layer
ATTRIBUTION_LIMIT = 1.3  # at most: time of an attribution, as a multiple of one bare pass forward and one backward
PROMPTS, PROMPT_TOKENS = 32, 20


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformerBridge:
    """The model as the course uses it, able to take gradients."""
    return load_model("course-lm" if folder == COURSE_LM_FOLDER else folder, device="cpu")


@pytest.fixture(scope="module")
def corpus(model: TransformerBridge) -> Texts:
    """Held-out documents with some 200,000 tokens together."""
    texts = held_out_texts(model, 10_000)
    enough = int((texts.lengths.cumsum(0) < SCANNED_TOKENS).sum()) + 1
    return texts.take(range(min(enough, len(texts))))


def record_ratio(benchmark: BenchmarkFixture, **ratios: float) -> None:
    """Keeps ratios beside the times of a benchmark, and prints them."""
    benchmark.extra_info |= {name: round(ratio, 3) for name, ratio in ratios.items()}
    print(f"\n{benchmark.name}: {', '.join(f'{name} {ratio:.3f}' for name, ratio in ratios.items())}")


# ------------------------------------------------------------------------------------------------------------- scanning


def in_turns(model: TransformerBridge, texts: Texts, layer: int) -> dict[str, float]:
    """Seconds for scanning a layer, for a bare pass up to it, and for a bare pass through the whole model; batch by batch in turns."""
    times, scanned = Counter(), scan(model, texts, [layer])
    for rows in texts.batches():
        tokens = texts.tokens[rows, : int(texts.lengths[rows].max())]
        jobs = {"scan": partial(next, scanned), "to_layer": partial(model, tokens, stop_at_layer=layer + 1), "full": partial(model, tokens)}
        for name, job in jobs.items():
            times[name] += seconds(job)
    assert next(scanned, None) is None  # both went through the same batches
    return times


@torch.no_grad()
def test_scanning_one_layer(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    layer = model.cfg.n_layers // 2
    in_turns(model, corpus.take(range(100)), layer)  # to warm up
    read = benchmark.pedantic(lambda: sum(int(batch.mask.sum()) for batch in scan(model, corpus, [layer])), rounds=1)
    assert read == corpus.n_tokens and int(corpus.lengths.sum()) >= SCANNED_TOKENS
    times = in_turns(model, corpus, layer)
    speeds = {f"speed_beside_{name}": times[name] / times["scan"] for name in ("to_layer", "full")}
    record_ratio(benchmark, tokens_a_second=corpus.n_tokens / times["scan"], **speeds)
    assert speeds["speed_beside_to_layer"] >= SCAN_LIMIT


@torch.no_grad()
def test_top_contexts_of_all_neurons(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    """No limit is set here: it says how much longer a pass takes if the best places of all neurons are kept."""
    texts = corpus.take(range(500))

    def bare() -> None:
        for rows in texts.batches():
            model(texts.tokens[rows, : int(texts.lengths[rows].max())])

    ratio = beside(benchmark, lambda: top_contexts(model, texts), bare, rounds=3)
    record_ratio(benchmark, ratio_to_full=ratio)


# ---------------------------------------------------------------------------------------------------------- attribution


def beside(benchmark: BenchmarkFixture, ours: Job, theirs: Job, rounds: int = 10) -> float:
    """Times ``ours``; returns how many times as long as ``theirs`` it takes, the rounds alternating after one for warming up."""
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    our_time, their_time = (median(times) for times in zip(*pairs, strict=True))
    return our_time / their_time


@contextmanager
def counted_passes(model: TransformerBridge) -> Iterator[Counter]:
    """Counts how often each block is run forward, and how often a gradient comes back to it."""
    counts = Counter()

    def count(layer: int, _block: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        counts["forward", layer] += 1
        if output.requires_grad:
            output.register_hook(lambda _: counts.update([("backward", layer)]))

    handles = [block.register_forward_hook(partial(count, layer)) for layer, block in enumerate(model.blocks)]
    yield counts
    for handle in handles:
        handle.remove()


def there_and_back(model: TransformerBridge, texts: Texts, metric: Metric) -> Float[torch.Tensor, "d_model"]:
    """One bare pass forward and one backward, from the metric to the embedding and to no weight."""
    start = torch.zeros(model.cfg.d_model, requires_grad=True)
    with torch.enable_grad(), intervene(model, add("hook_embed", start)):
        return torch.autograd.grad(metric(model(texts.tokens)).sum(), start)[0]


def test_attribution_of_all_neurons(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    rows = (corpus.lengths >= PROMPT_TOKENS).nonzero().flatten()[:PROMPTS]
    texts, metric = Texts(corpus.tokens[rows, :PROMPT_TOKENS], torch.full((PROMPTS,), PROMPT_TOKENS), ("prompt",) * PROMPTS), log_odds(5, 6)
    with counted_passes(model) as counts:
        effect = attribute_neurons(model, texts, metric).effect
    assert counts == {(way, layer): 1 for way in ("forward", "backward") for layer in range(model.cfg.n_layers)}
    assert effect.shape == (model.cfg.n_layers, model.cfg.d_mlp)
    ratio = beside(benchmark, lambda: attribute_neurons(model, texts, metric), lambda: there_and_back(model, texts, metric))
    record_ratio(benchmark, ratio_to_bare=ratio)
    assert ratio <= ATTRIBUTION_LIMIT
