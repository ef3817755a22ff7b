"""Where the model runs: one device or several, checked where that is called for; and what an experiment took in memory and time."""

import os
import threading
import time
from types import TracebackType
from typing import Any

import psutil
import torch

from helpers.check import ANSWER, QUESTION
from helpers.models import COURSE_LM, ModelNotAvailable, TransformerBridge, load_model
from helpers.prediction import last_logits, tokenize

CHECKED = "mps"  # a kind of device that is checked before it is used: Apple's has given wrong numbers in some versions of PyTorch
TOLERANCE = 0.05  # in logits: what another device may change in float32
EVERY = 0.02  # seconds between two looks at the memory


def open_model(
    name: str, device: str | None = None, dtype: str = "float32", device_map: str | dict[str, Any] | None = None
) -> TransformerBridge:
    """``load_model``, and on Apple's device a check against a known answer first. Raises ModelNotAvailable, with one sentence."""
    if device and device.startswith(CHECKED):
        check_device(device)
    return load_model(name, device, dtype, device_map=device_map)


def check_device(device: str) -> float:
    """Asks the course LM on a device for an answer that it knows, and returns how far its logits are from the processor's.

    Raises ModelNotAvailable where the answer is another one, or the logits are more than ``TOLERANCE`` apart.
    """
    logits = [last_logits(one, tokenize(one, QUESTION)) for one in (load_model(COURSE_LM, device=where) for where in ("cpu", device))]
    said = load_model(COURSE_LM, device="cpu").tokenizer.decode([int(logits[1].argmax())])
    gap = (logits[0] - logits[1]).abs().max().item()
    if said != ANSWER or not gap <= TOLERANCE:
        wrong = f"the course LM continues {QUESTION!r} with {said!r} there, {gap:.2f} logits off"
        raise ModelNotAvailable(f"The device {device!r} computes wrong: {wrong}; leave --device out, or update PyTorch.")
    return gap


class Gauge:
    """Measures a block: ``seconds``, and ``gigabytes`` at its highest point, of the GPUs if the model is there, else of this process."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.seconds, self.gigabytes = str(device).startswith("cuda"), 0.0, 0.0
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Gauge":
        if self.on_gpu:
            torch.cuda.init()  # before a first tensor there is nothing to reset
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
        else:
            self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._start
        if self.on_gpu:
            self.gigabytes = sum(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count())) / 1e9
        else:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process(os.getpid())
        while True:
            self.gigabytes = max(self.gigabytes, process.memory_info().rss / 1e9)
            if self._stop.wait(EVERY):
                return
