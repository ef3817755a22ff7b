"""How long models take, each time beside plain Hugging Face in the same run: `make bench`.

``extra_info["ratio_to_hf"]`` is the median time of the bridge divided by that of plain Hugging Face, both on one thread;
their rounds alternate, so that a machine busy with other things slows both. Measured on the course LM, or on a random
model of the same shape where it has not been trained yet.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import torch
from bench_tools import one_thread
from jaxtyping import Float, Int
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

sys.path.append(str(Path(__file__).parents[1]))
from tiny_models import write_tiny_model

from helpers.models import COURSE_LM_FOLDER, TransformerBridge, load_model

__all__ = ["one_thread"]  # the fixture

ROOT = Path(__file__).parents[2]
PROMPT_TOKENS, BATCH, NEW_TOKENS = 20, 32, 20

Job = Callable[[], object]
Tokens = Int[torch.Tensor, "batch pos"]


@pytest.fixture(scope="module", autouse=True)
def inference(one_thread: None) -> Iterator[None]:
    """Runs everything without gradients and progress bars."""
    disable_progress_bar()
    with torch.inference_mode():
        yield
    enable_progress_bar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course LM, or a random model of its shape."""
    trained = (COURSE_LM_FOLDER / "model.safetensors").exists()
    return COURSE_LM_FOLDER if trained else write_tiny_model("course-like", tmp_path_factory.mktemp("bench") / "course_like")


@pytest.fixture(scope="module")
def bridge(folder: Path) -> TransformerBridge:
    """The model as the course uses it."""
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    """The same model in plain Hugging Face."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(bridge: TransformerBridge) -> Tokens:
    """A prompt of 20 tokens, 32 times."""
    text = "The Golden Gate Bridge is in San Francisco, and Taipei 101 is in Taipei. " * 3
    return bridge.to_tokens(text, prepend_bos=True)[:, :PROMPT_TOKENS].repeat(BATCH, 1)


def seconds(job: Job) -> float:
    """The time that one call takes."""
    start = perf_counter()
    job()
    return perf_counter() - start


def compare(benchmark: BenchmarkFixture, ours: Job, theirs: Job, rounds: int = 10) -> None:
    """Times ``ours`` and records how it compares with ``theirs``, the rounds alternating after one for warming up."""
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    our_time, their_time = (median(times) for times in zip(*pairs, strict=True))
    benchmark.extra_info |= {"ratio_to_hf": round(our_time / their_time, 2), "hf_ms": round(their_time * 1e3, 2)}
    print(f"\n{benchmark.name}: {our_time * 1e3:.1f} ms, Hugging Face {their_time * 1e3:.1f} ms, ratio {our_time / their_time:.2f}")


def python(code: str) -> Job:
    """A job that runs code in a fresh Python."""
    return lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_import(benchmark: BenchmarkFixture) -> None:
    ours = python("from helpers.models import TransformerBridge")
    compare(benchmark, ours, python("from transformers import GPT2LMHeadModel"), rounds=3)


def test_import_of_the_door_alone(benchmark: BenchmarkFixture) -> None:
    compare(benchmark, python("import helpers.models"), python("from transformers import GPT2LMHeadModel"), rounds=3)


def test_load_model(benchmark: BenchmarkFixture, folder: Path) -> None:
    def theirs() -> None:
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        AutoTokenizer.from_pretrained(folder)

    compare(benchmark, lambda: load_model(folder, device="cpu"), theirs)


@pytest.mark.parametrize("batch", [1, BATCH])
def test_forward(benchmark: BenchmarkFixture, bridge: TransformerBridge, plain: PreTrainedModel, tokens: Tokens, batch: int) -> None:
    prompts = tokens[:batch]
    compare(benchmark, lambda: bridge(prompts), lambda: plain(prompts, use_cache=False), rounds=10 if batch > 1 else 50)


def unchanged(value: Float[torch.Tensor, "batch pos d_model"], hook: object) -> Float[torch.Tensor, "batch pos d_model"]:
    """A hook that works but changes nothing, so that the same tokens are generated."""
    return value + 0.0


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_generate(benchmark: BenchmarkFixture, bridge: TransformerBridge, plain: PreTrainedModel, tokens: Tokens, hooked: bool) -> None:
    prompt, hooks = tokens[:1], [("blocks.6.hook_resid_post", unchanged)] * hooked
    exactly = dict(max_new_tokens=NEW_TOKENS, do_sample=False)

    def ours() -> torch.Tensor:
        with bridge.hooks(fwd_hooks=hooks):
            return bridge.generate(prompt, stop_at_eos=False, verbose=False, return_type="tokens", **exactly)

    def theirs() -> torch.Tensor:
        mask = torch.ones_like(prompt)
        return plain.generate(prompt, attention_mask=mask, min_new_tokens=NEW_TOKENS, pad_token_id=0, **exactly)

    assert ours().shape == theirs().shape == (1, PROMPT_TOKENS + NEW_TOKENS)
    compare(benchmark, ours, theirs)
