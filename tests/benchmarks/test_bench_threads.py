"""What another busy program costs the course, and what sharing costs it on an idle machine: `make bench`.

The same work is timed in processes of its own: on one thread, on all (both without looking at other programs), and as the course does it.
The competitor is a process that keeps one core busy.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
IDLE_LOSS, BUSY_COST = 1.1, 2.0  # of the quickest number of threads on an idle machine
WORK = """
import json, time
from statistics import mean
import torch
from helpers.models import load_model

torch.set_grad_enabled(False)
model = load_model()
prompt, batch = model.to_tokens("The capital of Poland is"), torch.randint(5, 5000, (64, 24))

def seconds(work, least):
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        work()
    times, end = [], time.perf_counter() + least
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return mean(times)

found = {"prompt": seconds(lambda: model(prompt), 1), "batch": seconds(lambda: model(batch), 2)}
print(json.dumps(found))
"""


@contextmanager
def competitor(busy: bool) -> Iterator[None]:
    """Another process that uses one core; or none."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def quickest(cases: list[tuple[str, bool]]) -> dict[tuple[str, bool], dict[str, float]]:
    """What is measured of each case, the least of three rounds over all of them."""
    rounds = [{case: measured(*case) for case in cases} for _ in range(3)]
    return {case: {work: min(one[case][work] for one in rounds) for work in rounds[0][case]} for case in cases}


def measured(threads: str, busy: bool) -> dict[str, float]:
    """Seconds of a short prompt and of a batch."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)}
    environment |= {} if threads == "shared" else {"OMP_NUM_THREADS": threads}  # which switches sharing off
    with competitor(busy):
        done = subprocess.run([sys.executable, "-c", WORK], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_busy_program_costs_at_most_twice_the_time_and_an_idle_machine_loses_little(benchmark):
    if psutil.cpu_count() < 2:
        pytest.skip("with one core there is nothing to share")
    everything = str(psutil.cpu_count(logical=False) or psutil.cpu_count())
    cases = [(threads, busy) for busy in (False, True) for threads in ("1", everything, "shared")]
    found = benchmark.pedantic(lambda: quickest(cases), rounds=1)
    best = {work: min(found["1", False][work], found[everything, False][work]) for work in ("prompt", "batch")}
    ratios = {
        f"{work}, {threads} thread(s), {'busy' if busy else 'idle'}": round(times[work] / best[work], 2)
        for (threads, busy), times in found.items()
        for work in best
    }
    benchmark.extra_info.update(ratios | {"best": best})
    for work in best:
        assert ratios[f"{work}, shared thread(s), idle"] <= IDLE_LOSS
        assert ratios[f"{work}, shared thread(s), busy"] <= BUSY_COST
