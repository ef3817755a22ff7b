"""The one door to language models: every model of the course comes through ``load_model``, and from no other place.

It returns a TransformerLens bridge. Its weights are folded as in published TransformerLens figures: the weights of the
normalisation layers move into the matrices that follow, and what a softmax cannot see is centred away, so that
log-probabilities stay as they were. No other file imports ``transformer_lens``; a new version of it changes this file only.
"""

import csv
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import pandas
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge

COURSE_LM = "course-lm"
DATA = Path(__file__).parents[1] / "data"
COURSE_LM_FOLDER = DATA / "course_lm"

# Memory at the highest point of loading, as a multiple of the weights' own size: measured 1.2 as stored, and folded 3.6
# (GPT-2) to 4.6 (a Llama whose embedding is large and tied), since folding keeps the old matrices beside the new ones.
RAW_PEAK, FOLDED_PEAK = 1.3, 4.7


def __getattr__(name: str) -> Any:
    """Lets other modules write ``from helpers.models import TransformerBridge``; the library is imported only then."""
    if name in ("TransformerBridge", "ActivationCache"):
        return getattr(import_module("transformer_lens.model_bridge" if name == "TransformerBridge" else "transformer_lens"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ModelNotAvailable(RuntimeError):
    """A model that cannot be had; its message is one sentence that says what to do. Notebooks show it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"ModelNotAvailable: {self}"]


# ------------------------------------------------------------------------------------------------ the catalogue


@dataclass(frozen=True)
class ModelCard:
    """What to know about a public model before loading it; ``params`` counts its weights, tied ones once."""

    name: str
    params: int
    gated: bool
    licence: str
    used_for: str

    @property
    def memory_gb(self) -> float:
        """Memory in GB that ``load_model`` needs for it in float32, at the highest point."""
        return memory_needed(self.params, bytes_each=4, raw=False)


def read_catalogue(path: Path = DATA / "models.csv") -> dict[str, ModelCard]:
    """All cards of the table at ``path`` by name."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row | {"params": int(row["params"]), "gated": row["gated"] == "yes"} for row in csv.DictReader(file)]
    return {row["name"]: ModelCard(**row) for row in rows}


CATALOGUE: dict[str, ModelCard] = read_catalogue()


def catalogue() -> "pandas.DataFrame":
    """The public models of the course as a table, one row each: size, memory to load in float32, licence, use."""
    import pandas

    columns = ["model", "parameters", "memory", "gated", "licence", "used for"]
    rows = [
        (c.name, f"{c.params / 1e6:,.0f} M", f"{c.memory_gb:.1f} GB", "yes" if c.gated else "no", c.licence, c.used_for)
        for c in CATALOGUE.values()
    ]
    return pandas.DataFrame(rows, columns=columns).set_index("model")


# -------------------------------------------------------------------------------------------------- loading


def load_model(
    name: str | Path = COURSE_LM,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype" = "float32",
    raw: bool = False,
    device_map: "str | dict[str, Any] | None" = None,
) -> "TransformerBridge":
    """Loads a model by name: ``"course-lm"``, a local folder, or any Hugging Face id such as ``"gpt2"``.

    The course LM, a folder and what was downloaded before need no network. ``device=None`` takes the GPU (CUDA) if there
    is one, else the CPU; ``"mps"`` only when asked for. ``device_map="auto"`` spreads a large model over all GPUs, and with
    one GPU or none means that one, or the CPU. ``raw=True`` leaves the weights as stored, so that logits equal Hugging
    Face's. Raises ``ModelNotAvailable`` with one sentence that says what to do.
    """
    place = choose_place(device, device_map)
    number_type = choose_dtype(dtype)
    folder = find_folder(name)
    if folder:
        check_folder(folder)
    with quiet():
        stored = folder or cached_folder(str(name))
        params = stored_params(stored) if stored else ask_hub(str(name))
        check_memory(folder.name if folder else str(name), params, _devices(place), number_type.itemsize, raw)
        with offline() if stored else nullcontext():
            bridge = _boot(str(folder or name), place, number_type, raw)
    if name == COURSE_LM:
        bridge.cfg.default_prepend_bos = True  # it was trained with <|endoftext|> before every document
    from helpers.threads import share_cores  # PyTorch is imported no earlier than it is needed

    share_cores(bridge)
    return bridge


def _boot(source: str, place: dict[str, Any], dtype: "torch.dtype", raw: bool) -> "TransformerBridge":
    """Boots the bridge on one device or several and folds its weights unless ``raw``; whatever goes wrong becomes one sentence."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    try:
        bridge = TransformerBridge.boot_transformers(source, dtype=dtype, **place)
        if not raw:
            bridge.enable_compatibility_mode(disable_warnings=True)
        bridge.blocks_give_tuples = _gives_tuples(bridge)
        return bridge
    except torch.OutOfMemoryError:
        reason = (
            f"the memory of {' and '.join(_devices(place))} is too small; choose a smaller model (see catalogue()) or restart the kernel"
        )
    except Exception as error:
        reason = f"its files are damaged (fetch them again) or of a kind that TransformerLens does not know ({summary(error)})"
    raise ModelNotAvailable(f"{source} could not be loaded: {reason}.")


def summary(error: Exception) -> str:
    """The kind of an error and the first line of its message, at most 120 letters and without a full stop."""
    message = next(iter(str(error).splitlines()), "").split(". ")[0]
    return f"{type(error).__name__}: {message[:120].strip().rstrip('.')}"


# ---------------------------------------------------------------------------------------------- running a part of it


@dataclass(frozen=True)
class Prefix:
    """What the blocks remember of some first tokens: the keys and values of every layer, a row for each text."""

    layers: "tuple[tuple[Tensor, Tensor], ...]"
    length: int

    def cache(self, rows: "Int[Tensor, 'batch'] | None" = None) -> Any:
        """A fresh cache for one run, with some of the rows, any of them several times."""
        cache = empty_cache()
        for layer, (keys, values) in enumerate(self.layers):
            own = (keys, values) if rows is None else (keys[rows.to(keys.device)], values[rows.to(keys.device)])
            cache.update(*own, layer)
        return cache


def empty_cache() -> Any:
    """A memory for keys and values, to be filled by a run: ``model(tokens, past_key_values=cache, use_cache=True)``."""
    from transformers import DynamicCache

    return DynamicCache()


def read_prefix(model: "TransformerBridge", tokens: "Int[Tensor, 'row pos']") -> Prefix:
    """Reads the first tokens of some texts once, so that many continuations need not read them again (see ``run_from``)."""
    cache = empty_cache()
    model(tokens.to(model.cfg.device), past_key_values=cache, use_cache=True)
    return Prefix(tuple((layer.keys, layer.values) for layer in cache.layers), tokens.shape[1])


def run_from(
    model: "TransformerBridge",
    stream: "Float[Tensor, 'batch pos d_model']",
    layer: int,
    prefix: Prefix | None = None,
    rows: "Int[Tensor, 'batch'] | None" = None,
) -> "Float[Tensor, 'batch pos d_vocab']":
    """The logits that follow from a residual stream which enters block ``layer``; the blocks before it are not run.

    The bridge's own ``start_at_layer`` gives the same numbers, but runs all blocks and throws away what the first of them made.
    ``layer`` may be the number of blocks: then only the last norm and the unembedding are left. With a ``prefix`` the stream is that of
    the tokens behind it, and ``rows`` says which of its rows goes with each row of the stream. Raises ValueError for other layers.
    """
    last = len(model.blocks)
    if not 0 <= layer <= last:
        raise ValueError(f"There is no layer {layer} to start from: the blocks are 0 to {last - 1}, and {last} is behind them.")
    options = dict(past_key_values=prefix.cache(rows), use_cache=True) if prefix else {}
    with _passed_over(model, range(layer)):
        return model(stream, start_at_layer=layer % last, **options)


@contextmanager
def _passed_over(model: "TransformerBridge", layers: range) -> Iterator[None]:
    """Some blocks hand on what they get, in the form that their own output has."""
    as_tuple = getattr(model, "blocks_give_tuples", False)
    components = [model.blocks[layer].original_component for layer in layers]

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    for component in components:
        component.forward = hand_on
    try:
        yield
    finally:
        for component in components:
            del component.forward


def _gives_tuples(model: "TransformerBridge") -> bool:
    """Whether a block of this model returns a tuple: families differ, and so do versions of transformers."""
    import torch

    seen: list[bool] = []
    handle = model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(isinstance(output, tuple)))
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device))
    handle.remove()
    return seen[0]


# -------------------------------------------------------------------------------- where the model is to be found


def find_folder(name: str | Path) -> Path | None:
    """The local folder that ``name`` means, or None where it is the name of a Hugging Face model."""
    if name == COURSE_LM:
        return COURSE_LM_FOLDER
    folder = Path(name).expanduser()
    looks_local = isinstance(name, Path) or folder.is_absolute() or str(name).startswith((".", "~")) or len(folder.parts) > 2
    if not folder.is_dir() and looks_local:
        raise ModelNotAvailable(f"There is no folder {str(name)!r}: check the path, or give the name of a Hugging Face model.")
    return folder if folder.is_dir() else None


def check_folder(folder: Path) -> None:
    """Raises ``ModelNotAvailable`` unless ``folder`` holds a configuration, weights and a tokenizer."""
    wanted = {"config.json": "config.json", "weights": "*.safetensors", "a tokenizer": "tokenizer*"}
    if any(folder.glob("*.bin")):
        wanted["weights"] = "*.bin"
    missing = [what for what, pattern in wanted.items() if not any(folder.glob(pattern))]
    if not missing:
        return
    if folder == COURSE_LM_FOLDER:
        remedy = "restore data/course_lm with `git checkout data/course_lm`, or train the model with `make model`"
        raise ModelNotAvailable(f"The course LM is not complete ({' and '.join(missing)} missing): {remedy}.")
    raise ModelNotAvailable(f"There is no model in {folder} ({' and '.join(missing)} missing): save it with save_pretrained.")


def cached_folder(name: str) -> Path | None:
    """The folder of an earlier download of ``name`` if it holds weights and a tokenizer, else None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise ModelNotAvailable(f"{name!r} cannot be the name of a model: {names_like(name)}.") from None
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and complete_weights(folder) and any(folder.glob("tokenizer*")) else None


def complete_weights(folder: Path) -> bool:
    """Whether all weight files that the index of a checkpoint names (or the single one) are there."""
    for index in folder.glob("*.index.json"):
        files = set(json.loads(index.read_text())["weight_map"].values())
        return all((folder / file).exists() for file in files)
    return any((folder / file).exists() for file in ("model.safetensors", "pytorch_model.bin"))


def ask_hub(name: str) -> int:
    """Asks the Hugging Face Hub whether ``name`` may be downloaded; returns its parameter count, 0 where it does not say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/{name}"
    try:
        info = HfApi().model_info(name, timeout=10)
        HfApi().auth_check(name)
    except GatedRepoError:
        problem = f"{name} is gated: accept its licence at {page}, then run `hf auth login` (or set HF_TOKEN) and try again"
    except RepositoryNotFoundError:
        problem = f"There is no public model {name!r} on the Hugging Face Hub: {names_like(name)}"
    except Exception:
        problem = f"{name} is not on this machine and the Hugging Face Hub cannot be reached: connect, or use load_model() without a name"
    else:
        known = CATALOGUE.get(name)
        return info.safetensors.total if info.safetensors else known.params if known else 0
    raise ModelNotAvailable(f"{problem}.")


def names_like(name: str) -> str:
    """Advice for a name that does not exist: the most similar ones of the catalogue."""
    near = get_close_matches(name, [*CATALOGUE, COURSE_LM], n=2, cutoff=0.5)
    return f"perhaps {' or '.join(map(repr, near))} was meant" if near else "catalogue() shows the models of the course"


# ------------------------------------------------------------------------------------ devices, numbers, memory


def choose_device(device: "str | torch.device | None" = None) -> str:
    """The device to use, such as ``"cuda:0"``; raises ``ModelNotAvailable`` where this machine has none of that name."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    usable = ["cpu"] + ["mps"] * torch.backends.mps.is_available()
    usable += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    if str(device) not in usable:
        raise ModelNotAvailable(f"This machine has no device {str(device)!r}: use {' or '.join(map(repr, usable))}, or leave it out.")
    return str(device)


def choose_place(device: "str | torch.device | None", device_map: "str | dict[str, Any] | None") -> dict[str, Any]:
    """Where the parts of a model go, as TransformerLens and Hugging Face want it: ``{"device": ...}`` or ``{"device_map": ...}``."""
    import torch

    if device_map is None or (device_map == "auto" and torch.cuda.device_count() < 2):
        return {"device": choose_device(device)}
    if device is not None:
        raise ModelNotAvailable(f"device={device!r} means one device and device_map={device_map!r} several: give one of the two.")
    return {"device_map": device_map}


def _devices(place: dict[str, Any]) -> list[str]:
    """The devices that a place of ``choose_place`` means: the one, or all GPUs, or the CPU where there is none."""
    import torch

    return [place["device"]] if "device" in place else [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def choose_dtype(dtype: "str | torch.dtype") -> "torch.dtype":
    """The number type of that name; raises ``ModelNotAvailable`` for one in which models cannot be held."""
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ModelNotAvailable(f"A model cannot be held in {dtype}: use 'float32', 'bfloat16' or 'float16'.")
    return found


def memory_needed(params: int, bytes_each: int, raw: bool) -> float:
    """Memory in GB at the highest point of loading ``params`` weights of ``bytes_each`` bytes."""
    return params * bytes_each * (RAW_PEAK if raw else FOLDED_PEAK) / 1e9


def free_memory(device: str) -> float:
    """Free memory of ``device`` in GB."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / 1e9
    import psutil

    return psutil.virtual_memory().available / 1e9


def check_memory(name: str, params: int, devices: Sequence[str], bytes_each: int, raw: bool) -> None:
    """Raises ``ModelNotAvailable`` if loading would need more memory than is free on these devices together."""
    needed, free = memory_needed(params, bytes_each, raw), sum(map(free_memory, devices))
    if needed > free:
        smaller = "choose a smaller model (see catalogue()), dtype='bfloat16', or raw=True"
        raise ModelNotAvailable(f"{name} needs {needed:.1f} GB to load and {free:.1f} GB are free on {' and '.join(devices)}: {smaller}.")


def stored_params(folder: Path) -> int:
    """How many weights the files of ``folder`` hold, read from their headers; damaged files count nothing here."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                count += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (no dict: it has only keys)
        except SafetensorError:
            return 0
    return count or sum(path.stat().st_size // 4 for path in folder.glob("*.bin"))


# ------------------------------------------------------------------------------------------ quiet and offline


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the screen inside: no progress bars, no log lines up to warnings, no warnings; as before afterwards."""
    import transformer_lens  # noqa: F401  (imported first, since it sets warning filters of its own)
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), logging.root.manager.disable
    hf_logging.disable_progress_bar()
    logging.disable(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            hf_logging.enable_progress_bar()


def offline() -> Any:
    """A context in which Hugging Face's libraries make no network call, whatever HF_HUB_OFFLINE says; as before afterwards."""
    from huggingface_hub import constants

    return patch.object(constants, "HF_HUB_OFFLINE", True)
