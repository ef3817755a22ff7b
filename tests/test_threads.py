"""The number of threads follows what other programs leave idle, and whoever set it himself keeps his."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine of four cores, whose clock and programs are moved by hand; PyTorch takes all four to begin with."""
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: it.number)

    class Machine:
        now, every, own, number = 100.0, 500.0, 50.0, 4

        def pass_time(self, seconds: float, others: float, own: float = 0.0) -> int:
            """Others use so many cores for some seconds, and this program others; the threads after the next look."""
            self.now += seconds
            self.every += seconds * (others + own)
            self.own += seconds * own
            self.threads.look()
            return self.number

    it = Machine()
    it.threads = threads.Threads(used=lambda: (it.every, it.own), clock=lambda: it.now)
    monkeypatch.setattr(it.threads._pools, "limit", lambda limits: setattr(it, "number", limits))
    return it


ONE_LOOK = [(0.0, 4), (0.4, 4), (0.6, 3), (1.0, 3), (2.1, 2), (3.0, 1), (4.0, 1), (9.0, 1)]
CASES = {  # seconds that pass each time, cores that others and this program use meanwhile, and the threads that are left
    **{f"others use {others}, one thread stays at least": [(1.0, others, 0.0, left)] for others, left in ONE_LOOK},
    "what the program uses itself does not count": [(1.0, 0.0, 4.0, 4), (1.0, 2.0, 2.0, 2)],
    "they come back": [(1.0, others, 0.0, left) for others, left in zip((3.0, 3.0, 0.0, 1.0, 0.0), (1, 1, 4, 3, 4), strict=True)],
    "it looks twice a second at most": [(0.2, 4.0, 0.0, 4), (0.2, 4.0, 0.0, 4), (0.2, 4.0, 0.0, 1)],
}


@pytest.mark.parametrize("case", CASES)
def test_what_others_use_is_left_to_them(machine, case: str):
    assert [machine.pass_time(*asked) for *asked, _ in CASES[case]] == [left for *_, left in CASES[case]]


def test_who_sets_the_number_keeps_it(machine):
    machine.number = 3
    assert [machine.pass_time(1.0, others) for others in (4.0, 0.0)] == [3, 3]


@pytest.mark.parametrize(
    ("content", "most"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None), ("", None), (None, None)]
)
def test_a_container_that_allows_fewer_cores_is_believed(tmp_path: Path, content: str | None, most: int | None):
    quota, every = tmp_path / "cpu.max", threads.cores(tmp_path / "nothing")
    if content is not None:
        quota.write_text(content)
    assert threads.cores(quota) == (every if most is None else min(every, most))


def test_what_is_used_is_counted_in_seconds():
    before = threads.seconds_used()
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    every, own = (now - then for now, then in zip(threads.seconds_used(), before, strict=True))
    assert every >= 0.25 and own < every


def printed(code: str) -> str:
    """What a fresh Python prints, in an environment in which OMP_NUM_THREADS is not set."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
    return done.stdout.strip()


CHANGING = """
import torch
from helpers import threads

pools = threads.Threads()._pools
batch = torch.randn(12, 500, 192)
matrices = batch.mT @ batch + torch.eye(192)
seen = []
for number in (2, 1, 2):
    pools.limit(limits=number)
    seen.append(torch.get_num_threads())
    assert torch.dist(torch.linalg.inv(matrices) @ matrices, torch.eye(192).expand(12, -1, -1)) < 0.1
print(seen)
"""


def test_pytorch_follows_and_still_inverts_batches():
    """With torch.set_num_threads the inverses would hang, or be wrong."""
    assert printed(CHANGING) == "[2, 1, 2]"


RELOADED = """
import torch
from helpers import threads

first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
threads.share_cores(first)
it = threads.shared()
it._used, it._clock = (lambda: busy), (lambda: now)
it._busy, it._time = (0.0, 0.0), 0.0
seen = []
busy, now = (9.0, 0.0), 1.0  # others use all cores
first(torch.zeros(1))
seen.append(torch.get_num_threads())
threads.share_cores(second)  # loaded while others are busy
del first
now = 2.0  # and now nobody is
second(torch.zeros(1))
print([*seen, torch.get_num_threads() == it.most > 1])
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one core there is nothing to share")
def test_a_model_that_is_loaded_beside_a_busy_program_gets_its_threads_back():
    assert printed(RELOADED) == "[1, True]"


@pytest.mark.parametrize(("number", "cores", "hooks"), [("1", 2, 0), ("2", 2, 0), (None, 2, 1), (None, 1, 0)])
def test_a_model_looks_unless_the_environment_names_a_number(monkeypatch, number: str | None, cores: int, hooks: int):
    monkeypatch.setattr(threads, "shared", lambda: SimpleNamespace(most=cores, look=lambda *_: None))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if number:
        monkeypatch.setenv("OMP_NUM_THREADS", number)
    model = torch.nn.Linear(1, 1)
    threads.share_cores(model)
    model(torch.zeros(1))
    assert len(model._forward_pre_hooks) == hooks
