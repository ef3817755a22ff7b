"""Where the model runs: one device or several, checked where that is called for; and what an experiment took in memory and time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from helpers.check import ANSWER, QUESTION
from helpers.models import COURSE_LM, ModelNotAvailable, TransformerBridge, load_model
from helpers.prediction import last_logits, tokenize

CHECKED = "mps"  # a kind of device that is checked before it is used: Apple's has given wrong numbers in some versions of PyTorch
TOLERANCE = 0.05  # in logits: what another device may change in float32
EVERY = 0.02  # seconds between two looks at the memory


def open_model(name: str, device: str | None = None, dtype: str = "float32", device_map: str | dict | None = None) -> TransformerBridge:
    """``load_model``, and on Apple's device a check against a known answer first. Raises ModelNotAvailable, with one sentence."""
    if device and device.startswith(CHECKED):
        check_device(device)
    return load_model(name, device, dtype, device_map=device_map)


def check_device(device: str) -> float:
    """Asks the course LM on a device for an answer that it knows, and returns how far its logits are from the processor's.

    Raises ModelNotAvailable where the answer is another one, or the logits are more than ``TOLERANCE`` apart.
    """
    models = [load_model(COURSE_LM, device=where) for where in ("cpu", device)]
    right, there = (last_logits(one, tokenize(one, QUESTION)) for one in models)
    said = models[0].tokenizer.decode([int(there.argmax())])
    gap = (right - there).abs().max().item()
    if said != ANSWER or not gap <= TOLERANCE:
        wrong = f"the course LM continues {QUESTION!r} with {said!r} there, {gap:.2f} logits off"
        raise ModelNotAvailable(f"The device {device!r} computes wrong: {wrong}; leave --device out, or update PyTorch.")
    return gap


@dataclass
class Cost:
    """What a block took: seconds, and gigabytes at its highest point."""

    seconds: float = 0.0
    gigabytes: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.gigabytes:.2f} GB at the highest point"


@contextmanager
def measured_cost(device: str) -> Iterator[Cost]:
    """Measures a block; the memory is that of the GPUs if the model is there, else of this process."""
    cost = Cost()
    start = time.perf_counter()
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.init()  # before a first tensor there is nothing to reset
        gpus = range(torch.cuda.device_count())
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        yield cost
        cost.gigabytes = sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus) / 1e9
    else:
        done = threading.Event()
        watching = threading.Thread(target=_watch, args=(cost, done), daemon=True)
        watching.start()
        try:
            yield cost
        finally:
            done.set()
            watching.join()
    cost.seconds = time.perf_counter() - start


def _watch(cost: Cost, done: threading.Event) -> None:
    stopped = False
    while not stopped:
        cost.gigabytes = max(cost.gigabytes, psutil.Process().memory_info().rss / 1e9)
        stopped = done.wait(EVERY)
