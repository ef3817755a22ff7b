"""Times that can be compared on any machine: two jobs take turns, so that a machine busy with other things slows both."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter

import torch
from pytest_benchmark.fixture import BenchmarkFixture

Job = Callable[[], object]


def seconds(job: Job) -> float:
    """The time that one call takes."""
    start = perf_counter()
    job()
    return perf_counter() - start


def beside(benchmark: BenchmarkFixture, ours: Job, theirs: Job, limit: float | None = None, rounds: int = 10) -> None:
    """Times both jobs in turns, after one round for warming up. Ours may take ``limit`` times as long as theirs; the ratio is kept."""
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    our_time, their_time = (median(times) for times in zip(*pairs, strict=True))
    ratio = our_time / their_time
    benchmark.extra_info |= {"ratio": round(ratio, 3), "theirs_ms": round(their_time * 1e3, 2), "limit": limit}
    print(f"\n{benchmark.name}: {our_time * 1e3:.1f} ms, the other {their_time * 1e3:.1f} ms, ratio {ratio:.3f} (limit: {limit})")
    assert limit is None or ratio <= limit


@contextmanager
def counted_passes(model: torch.nn.Module) -> Iterator[Counter]:
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
