"""Where the model runs: one device or several, checked where that is called for; and what an experiment took in memory and time."""

import os
import threading
import time
from functools import partial
from types import TracebackType
from typing import Any

import psutil
import torch

from helpers import models
from helpers.check import ANSWER, QUESTION
from helpers.models import COURSE_LM, ModelNotAvailable, TransformerBridge, load_model
from helpers.prediction import last_logits, tokenize

CHECKED = "mps"  # a kind of device that is checked before it is used: Apple's has given wrong numbers in some versions of PyTorch
TOLERANCE = 0.05  # in logits: what another device may change in float32
EVERY = 0.02  # seconds between two looks at the memory


def open_model(
    name: str, device: str | None = None, dtype: str = "float32", device_map: str | dict[str, Any] | None = None
) -> TransformerBridge:
    """A model on one device, or spread over all GPUs with ``device_map="auto"``; on Apple's only if asked for, after ``check_device``.

    With one GPU or none ``"auto"`` means that one, or the processor. Raises ModelNotAvailable, with one sentence.
    """
    if device_map is None or (device_map == "auto" and torch.cuda.device_count() < 2):
        if device and device.startswith(CHECKED):
            check_device(device)
        return load_model(name, device=device, dtype=dtype)
    if device is not None:
        raise ModelNotAvailable(f"--device {device} means one device and --device-map several: give one of the two.")
    return _spread(name, models.choose_dtype(dtype), device_map)


def _spread(name: str, dtype: torch.dtype, device_map: str | dict[str, Any]) -> TransformerBridge:
    """Loads a model in parts on several devices; the checks are those of ``load_model``, with the free memory of all of them together."""
    boot = partial(_boot_spread, dtype=dtype, device_map=device_map)
    check = partial(check_total, bytes_each=dtype.itemsize)
    folder = models.find_folder(name)
    with models.quiet():
        return models._load_folder(folder, boot, check) if folder else models._load_from_hub(name, boot, check)


def _boot_spread(source: str, dtype: torch.dtype, device_map: str | dict[str, Any]) -> TransformerBridge:
    from helpers.models import TransformerBridge

    try:
        bridge = TransformerBridge.boot_transformers(source, dtype=dtype, device_map=device_map)
        bridge.enable_compatibility_mode(disable_warnings=True)
        bridge.blocks_give_tuples = models._gives_tuples(bridge)
        return bridge
    except torch.OutOfMemoryError:
        reason = "the memory of all GPUs together is too small; choose a smaller model, or --dtype bfloat16"
    except Exception as error:
        reason = models.summary(error)
    raise ModelNotAvailable(f"{source} could not be spread over several devices: {reason}.")


def check_total(name: str, params: int, bytes_each: int) -> None:
    """Raises ModelNotAvailable if loading would need more memory than is free on all GPUs together."""
    needed = models.memory_needed(params, bytes_each, raw=False)
    free = sum(models.free_memory(f"cuda:{number}") for number in range(torch.cuda.device_count())) or models.free_memory("cpu")
    if needed > free:
        remedy = "choose a smaller model, or --dtype bfloat16"
        raise ModelNotAvailable(f"{name} needs {needed:.1f} GB to load and {free:.1f} GB are free on all devices together: {remedy}.")


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
