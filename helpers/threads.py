"""How many threads PyTorch computes with: as many as there are idle cores, looked up again and again.

A matrix product on two threads is done when the slower one is. Where something else uses a core, that one has to wait for its turn, while
the other burns its own core waiting, and both are several times slower than a single thread would have been. So each time the model runs
(twice a second at most) the course looks at what other programs use, and leaves that to them.

Who sets the variable OMP_NUM_THREADS, or calls ``torch.set_num_threads``, is left alone.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import torch
from threadpoolctl import ThreadpoolController

AGAIN = 0.5  # seconds between two looks
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of computing in each period


def cores(quota: Path = QUOTA) -> int:
    """The cores that this process may use: fewer than the machine has where a container, or its owner, allows no more."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(allowed, round(int(most) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return allowed


def seconds_used() -> tuple[float, float]:
    """Seconds of computing since the machine was started, by all programs, and by this one."""
    every, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = sum(getattr(every, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))  # guests count as users as well
    return sum(every) - idle, own.user + own.system


class Threads:
    """Sets PyTorch's number of threads to that of the cores which other programs leave idle, at least 1."""

    def __init__(self, used: Callable[[], tuple[float, float]] = seconds_used, clock: Callable[[], float] = monotonic) -> None:
        """``used`` and ``clock`` can be replaced in tests."""
        self._used, self._clock = used, clock
        self._pools = ThreadpoolController().select(user_api="openmp")
        self.chosen = torch.get_num_threads()
        self.most = min(self.chosen, cores())
        self._time, self._busy = clock(), used()

    def look(self, *_: Any) -> None:
        """Looks at what others have used since the last time, and sets the number, unless somebody else has set it meanwhile."""
        passed = self._clock() - self._time
        if passed < AGAIN or torch.get_num_threads() != self.chosen:
            return
        before, self._busy, self._time = self._busy, self._used(), self._time + passed
        (all_before, own_before), (all_now, own_now) = before, self._busy
        others = ((all_now - all_before) - (own_now - own_before)) / passed  # cores
        self.chosen = max(1, min(self.most, round((psutil.cpu_count() or 1) - others)))
        self._pools.limit(limits=self.chosen)  # after torch.set_num_threads(2) a batch of inverses hangs (PyTorch 2.13 with MKL)


@cache
def shared() -> Threads:
    """The one that all models of a session share: who has lowered the number has to be the one that raises it again."""
    return Threads()


def share_cores(model: torch.nn.Module) -> None:
    """From now on each run of the model looks whether it should use fewer threads, or more; with OMP_NUM_THREADS set nothing is done."""
    if "OMP_NUM_THREADS" not in os.environ and shared().most > 1:
        model.register_forward_pre_hook(shared().look)
