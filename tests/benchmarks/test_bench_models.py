"""How long the model takes, beside plain Hugging Face in the same run: `make bench`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench_tools import Job, beside
from jaxtyping import Float, Int
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from helpers.models import COURSE_LM_FOLDER, TransformerBridge, load_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
PROMPT_TOKENS, BATCH, NEW_TOKENS = 20, 32, 20
Tokens = Int[torch.Tensor, "batch pos"]


@pytest.fixture(scope="module", autouse=True)
def without_progress_bars(one_thread: None) -> Iterator[None]:
    disable_progress_bar()
    yield
    enable_progress_bar()


@pytest.fixture(scope="module")
def plain() -> PreTrainedModel:
    """The same model in plain Hugging Face."""
    return AutoModelForCausalLM.from_pretrained(COURSE_LM_FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(course_lm: TransformerBridge) -> Tokens:
    """A prompt of 20 tokens, 32 times."""
    text = "The Golden Gate Bridge is in San Francisco, and Taipei 101 is in Taipei. " * 3
    return course_lm.to_tokens(text, prepend_bos=True)[:, :PROMPT_TOKENS].repeat(BATCH, 1)


def python(code: str) -> Job:
    """A job that runs code in a fresh Python."""
    return lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("code", ["from helpers.models import TransformerBridge", "import helpers.models"], ids=["library", "door"])
def test_import(benchmark: BenchmarkFixture, code: str) -> None:
    beside(benchmark, python(code), python("from transformers import GPT2LMHeadModel"), rounds=3)


def test_load_model(benchmark: BenchmarkFixture) -> None:
    def theirs() -> None:
        AutoModelForCausalLM.from_pretrained(COURSE_LM_FOLDER, dtype=torch.float32)
        AutoTokenizer.from_pretrained(COURSE_LM_FOLDER)

    beside(benchmark, lambda: load_model(COURSE_LM_FOLDER, device="cpu"), theirs)


@pytest.mark.parametrize("batch", [1, BATCH])
def test_forward(benchmark: BenchmarkFixture, course_lm: TransformerBridge, plain: PreTrainedModel, tokens: Tokens, batch: int) -> None:
    prompts = tokens[:batch]
    beside(benchmark, lambda: course_lm(prompts), lambda: plain(prompts, use_cache=False), rounds=10 if batch > 1 else 50)


def unchanged(value: Float[torch.Tensor, "batch pos d_model"], hook: object) -> Float[torch.Tensor, "batch pos d_model"]:
    """A hook that works but changes nothing, so that the same tokens are generated."""
    return value + 0.0


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_generate(benchmark: BenchmarkFixture, course_lm: TransformerBridge, plain: PreTrainedModel, tokens: Tokens, hooked: bool) -> None:
    prompt, hooks = tokens[:1], [("blocks.6.hook_resid_post", unchanged)] * hooked
    exactly = dict(max_new_tokens=NEW_TOKENS, do_sample=False)

    def ours() -> torch.Tensor:
        with course_lm.hooks(fwd_hooks=hooks):
            return course_lm.generate(prompt, stop_at_eos=False, verbose=False, return_type="tokens", **exactly)

    def theirs() -> torch.Tensor:
        mask = torch.ones_like(prompt)
        return plain.generate(prompt, attention_mask=mask, min_new_tokens=NEW_TOKENS, pad_token_id=0, **exactly)

    assert ours().shape == theirs().shape == (1, PROMPT_TOKENS + NEW_TOKENS)
    beside(benchmark, ours, theirs)
