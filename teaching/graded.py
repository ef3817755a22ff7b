"""What graded assignments need: tests that speak in sentences, and small models whose answers are known by construction.

    with graded.test():
        rate = graded.run(firing_rate, values, mask)
        graded.same(rate, right, "your rate")

Inside ``test`` nothing is printed, and whatever goes wrong becomes one sentence. A grading tool takes any text on stderr, and any
value that a cell ends on, for a grade; therefore a test keeps both to itself. The right answers stand in the hidden part of the
assignments and not here, where everybody can read them: in functions whose names begin with ``_right``, which are out of reach while
a student's function runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import copy
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.answers import NotYet, described, expect, expect_callable, expect_close, expect_tensor
from helpers.models import COURSE_LM_FOLDER, TransformerBridge, load_model, quiet

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

WIDTH, HEADS, NEURONS = 64, 4, 48  # of the small models: d_model, heads in a layer, neurons in a layer


class Wrong(NotYet):
    """A test that did not pass; a notebook shows its sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


# ------------------------------------------------------------------------------------------------------------- tests


@contextmanager
def test() -> Iterator[None]:
    """Inside nothing is printed; every error leaves as ``Wrong``, with one sentence."""
    said: str | None = None
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            yield
        except (NotYet, AssertionError) as problem:
            said = str(problem) or "This test did not pass."
        except (Exception, SystemExit) as problem:
            said = f"The test stopped with {type(problem).__name__}: {(str(problem).splitlines() or ['no message'])[0][:160]}"
    if said is not None:
        raise Wrong(said) from None


def hidden(tests: Callable[[], None]) -> None:
    """Runs hidden tests at once, as in ``test``: they stand in a function, so that no name of theirs replaces one of the student's."""
    with test(), torch.no_grad():
        tests()


@contextmanager
def _right_answers_away(function: Any) -> Iterator[None]:
    """Inside, the function does not find what hidden tests call ``_right...``."""
    names = getattr(function, "__globals__", {})
    away = {name: names.pop(name) for name in list(names) if name.startswith("_right")}
    try:
        yield
    finally:
        names.update(away)


def run(function: Any, *given: Any) -> Any:
    """What a student's function returns for copies of some inputs.

    Raises ``NotYet`` where it stops, returns nothing, changes a tensor that it was given, or leaves a hook in the model.
    """
    copies = [value.clone() if isinstance(value, Tensor) else copy(value) if isinstance(value, list) else value for value in given]
    with _right_answers_away(function):
        result = expect_callable(function)(*copies)
    for used, value in zip(copies, given, strict=True):
        if isinstance(value, Tensor):
            expect(torch.equal(used, value), "Your function changes a tensor that it was given: work on a .clone().")
        if isinstance(value, TransformerBridge):
            left = [name for name, point in value.hook_dict.items() if point.fwd_hooks]
            value.reset_hooks()
            expect(not left, f"Your function leaves a hook at {left[0] if left else ''}: interventions belong in a `with`.")
    return result


def same(answer: Any, right: Tensor | float, what: str = "your answer", hint: str = "", tolerance: float = 1e-3) -> None:
    """Raises ``NotYet`` unless the answer has the right shape and the right numbers."""
    truth = torch.as_tensor(right)
    expect_close(expect_tensor(answer, *truth.shape, what=what), truth, what, hint, tolerance)


def mostly(answer: Any, right: Tensor, what: str = "your answer", share: float = 0.02) -> None:
    """Raises ``NotYet`` unless the answer has the right shape and the right entries, but for a ``share`` of them that rounding may cost."""
    got, name = torch.as_tensor(answer).to(right.dtype), what[:1].upper() + what[1:]
    expect(got.shape == right.shape, f"{name} has the shape {list(got.shape)}; {list(right.shape)} is wanted.")
    wrong = (got != right).float().mean().item()
    expect(wrong <= share, f"{name} is not the right one in {wrong:.0%} of its entries; it begins with {got.flatten()[:6].tolist()}.")


def equal(answer: Any, right: Any, what: str = "your answer") -> None:
    """Raises ``NotYet`` unless the answer is just this: a whole number, None, a text, or a row of such."""
    plain = answer.tolist() if isinstance(answer, Tensor) else answer
    plain = tuple(plain) if isinstance(plain, list | tuple) else plain
    wanted = tuple(right) if isinstance(right, list | tuple) else right
    if isinstance(plain, tuple):
        plain = tuple(entry.item() if isinstance(entry, Tensor) and entry.numel() == 1 else entry for entry in plain)
    fits = type(plain) is not bool and plain == wanted
    expect(
        fits, f"{what[:1].upper() + what[1:]} is {plain if not isinstance(plain, Tensor) else described(plain)!s:.80}: not the right one."
    )


# ------------------------------------------------------------------------------------------------------------ models


def draw(n: int, length: int, seed: int, vocabulary: int = 10_000) -> Int[Tensor, "prompt pos"]:
    """Prompts of random tokens, without the token that begins a document."""
    return torch.randint(1, vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))


@cache
def course_lm() -> TransformerBridge:
    """The course LM, loaded afresh: whatever a student did to ``model`` is not in it."""
    return load_model(device="cpu")


@cache
def random_model(seed: int = 0, n_layers: int = 3) -> TransformerBridge:
    """A small model with random weights and the course LM's tokenizer: it knows nothing, and every part of it matters."""
    rng = torch.Generator().manual_seed(seed)

    def fill(model: "GPT2LMHeadModel") -> None:
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:  # embeddings are rows of [d_vocab, d_model], all else is [d_in, d_out]
                parameter.copy_(noise * (2 * WIDTH**-0.5 if "wte" in name else parameter.shape[0] ** -0.5))

    return _built(n_layers, fill)


@cache
def model_with_neuron(layer: int, unit: int, reads: int, writes: int, n_layers: int = 4) -> TransformerBridge:
    """A small model in which one neuron is all that matters: it is active on the token ``reads``, and then ``writes`` comes next."""

    def fill(model: "GPT2LMHeadModel") -> None:
        token = _embedded(model)
        mlp = model.transformer.h[layer].mlp
        mlp.c_fc.weight[:, unit] = token[reads]
        mlp.c_fc.bias[unit] = -0.5 * WIDTH**0.5
        mlp.c_proj.weight[unit] = 4 * token[writes]

    return _built(n_layers, fill)


@cache
def model_with_mover(layer: int, head: int, pairs: tuple[tuple[int, int], ...], n_layers: int = 4) -> TransformerBridge:
    """A small model in which one head is all that matters: where the first token of a pair was read, the second one comes next."""

    def fill(model: "GPT2LMHeadModel") -> None:
        token = _embedded(model)
        attention, size = model.transformer.h[layer].attn, WIDTH // HEADS
        for slot, (reads, writes) in enumerate(pairs):
            attention.c_attn.weight[:, 2 * WIDTH + head * size + slot] = token[reads]
            attention.c_proj.weight[head * size + slot] = 6 * token[writes]

    return _built(n_layers, fill)


def _embedded(model: "GPT2LMHeadModel") -> Float[Tensor, "d_vocab d_model"]:
    """Draws embeddings of length 1, makes all else faint, and returns the embeddings."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.01)
    token = torch.randn(model.config.vocab_size, WIDTH, generator=rng)
    token -= token.mean(-1, keepdim=True)  # as the norm of a layer sees it
    model.transformer.wte.weight.copy_(token / token.norm(dim=-1, keepdim=True))
    return model.transformer.wte.weight


def _built(n_layers: int, fill: Callable[["GPT2LMHeadModel"], None]) -> TransformerBridge:
    """A checkpoint with these weights, written and loaded like any other model."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(COURSE_LM_FOLDER, local_files_only=True)
    shape = dict(n_embd=WIDTH, n_layer=n_layers, n_head=HEADS, n_inner=NEURONS, n_positions=64, activation_function="relu")
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    config = GPT2Config(vocab_size=len(tokenizer), **shape, **ends)
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), torch.no_grad(), quiet():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        fill(model)
        model.save_pretrained(Path(folder))
        tokenizer.save_pretrained(Path(folder))
        bridge = load_model(Path(folder), device="cpu")
    bridge.cfg.default_prepend_bos = True
    return bridge
