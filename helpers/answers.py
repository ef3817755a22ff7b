"""Tools for checks: each looks at one thing in an answer, and where it is wrong says what, why, and what to try next.

All of them raise ``NotYet``; its message is what the reader sees. They accept any object at all, since a reader may hand in
anything. ``what`` names the thing in the sentence: "your vector", "what your function returns".
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

YOURS = "your answer"


class NotYet(Exception):
    """An answer that is not right yet: what is wrong with it, why, and what to try next."""


def expect(condition: bool, sentence: str) -> None:
    """Says ``sentence`` unless the condition holds."""
    if not condition:
        raise NotYet(sentence)


def untouched(answer: Any) -> bool:
    """Is this, or any part of it, still the ``...`` of the exercise, or nothing at all?

    >>> untouched(...), untouched([(3, ...)]), untouched([(3, 7)])
    (True, True, False)
    """
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list | tuple) else ()
    return answer is None or answer is ... or any(map(untouched, parts))


def described(answer: Any) -> str:
    """An answer in a few words: ``a tensor of shape [3, 4]``, ``the text 'five'``, ``a list with 2 entries``."""
    kind = type(answer).__name__
    if hasattr(answer, "shape") and hasattr(answer, "dtype"):
        return f"{'a tensor' if isinstance(answer, Tensor) else f'a {kind}'} of shape {list(answer.shape)}"
    if isinstance(answer, bool | int | float | complex):
        return f"the number {answer}" if kind != "bool" else f"the truth value {answer}"
    if isinstance(answer, str):
        return f"the text {answer[:40]!r}{' …' if len(answer) > 40 else ''}"
    if isinstance(answer, list | tuple | set | dict):
        return f"a {kind} with {len(answer)} {'entry' if len(answer) == 1 else 'entries'}"
    return "a function" if callable(answer) else f"an object of the kind {kind}"


def expect_text(answer: Any, what: str = YOURS) -> str:
    """The answer as a text that is not blank."""
    expect(isinstance(answer, str), f"A text in quotes is needed here, and {what} is {described(answer)}.")
    expect(bool(answer.strip()), f"There is nothing in {what} but an empty text: write a word or two.")
    return answer.strip()


def expect_number(answer: Any, low: float = -torch.inf, high: float = torch.inf, what: str = YOURS) -> float:
    """The answer as one number, between ``low`` and ``high``."""
    number = expect_tensor(answer, what=what).item()
    expect(low <= number <= high, f"{_capital(what)} is {number:.4g}, and it has to lie between {low:g} and {high:g}.")
    return number


def expect_indices(answer: Any, what: str = YOURS, **sizes: int) -> tuple[int, ...]:
    """The answer as whole numbers that count from 0, e.g. ``layer=12, neuron=768`` for ``(5, 185)``; one for each of ``sizes``."""
    sentence = f"Whole numbers are needed here ({', '.join(sizes)}), and {what} is {described(answer)}."
    try:
        parts = list(answer) if len(sizes) > 1 else [answer]
        indices = [int(part) for part in parts]
        expect(indices == parts and len(parts) == len(sizes), sentence)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotYet(sentence) from None
    for index, (name, size) in zip(indices, sizes.items(), strict=True):
        expect(0 <= index < size, f"There is no {name} {index}: each {name} has a number from 0 to {size - 1}.")
    return tuple(indices)


def expect_tensor(answer: Any, *shape: int | str, what: str = YOURS) -> Float[Tensor, "..."]:
    """The answer as a tensor of floats of this shape, all of them finite; an axis given by a name may have any size.

    Without a shape it is a single number.
    """
    wanted = f"A tensor of shape [{', '.join(map(str, shape))}]" if shape else "One number"
    try:
        tensor = torch.as_tensor(answer).detach().cpu()
        expect(not tensor.is_complex(), f"{wanted} is needed here, and {what} holds complex numbers.")
        tensor = tensor.float()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotYet(f"{wanted} is needed here, and {what} is {described(answer)}.") from None
    fits = tensor.ndim == len(shape) and all(isinstance(want, str) or want == got for want, got in zip(shape, tensor.shape, strict=True))
    expect(fits, f"{wanted} is needed here, and {what} is {described(answer)}. {_shape_hint(list(tensor.shape), list(shape))}".strip())
    expect(tensor.numel() > 0, f"{_capital(what)} is empty: was everything filtered out?")
    sentence = f"{_capital(what)} holds numbers that are infinite or no numbers (NaN): look for a division by zero or a mean over nothing."
    expect(bool(tensor.isfinite().all()), sentence)
    return tensor


def _shape_hint(got: list[int], wanted: list[int | str]) -> str:
    """What may have gone wrong with a shape."""
    if [size for size in got if size != 1] == [size for size in wanted if size != 1]:
        return "Only axes of length 1 differ: see squeeze() and [None]."
    if len(got) > 1 and got[::-1] == wanted:
        return "The axes stand the other way round: see .T."
    if len(got) > len(wanted):
        return "That is an axis too many: is there one to average over, or to choose from?"
    return "That is an axis too few: was one lost in a mean or a choice?" if len(got) < len(wanted) else ""


def expect_callable(answer: Any, what: str = "your function") -> Callable[..., Any]:
    """The answer as a function; called, it hands on what it returns, or says in a sentence why it stopped."""
    expect(callable(answer), f"A function is needed here, and your answer is {described(answer)}: hand over its name, without parentheses.")

    def call(*args: Any, **options: Any) -> Any:
        try:
            result = answer(*args, **options)
        except (Exception, SystemExit) as problem:
            raise NotYet(_stopped(problem, what)) from None
        expect(not untouched(result), f"{_capital(what)} returns nothing, or a `...`: does its last line say return?")
        return result

    return call


def _stopped(problem: BaseException, what: str) -> str:
    """Why a reader's function stopped, in a sentence."""
    message = (str(problem).strip() or "no message").splitlines()[0][:160]
    if isinstance(problem, NotYet):
        return str(problem)
    if isinstance(problem, NotImplementedError):
        return f"There is still a `raise NotImplementedError` to replace with your own code: {what} stopped there."
    if "ellipsis" in message.lower():
        return f"There is still a `...` to fill in: {what} stopped there."
    return f"{_capital(what)} stopped with an error before it had an answer: {type(problem).__name__}, {message}"


def expect_nonzero(vector: Tensor, what: str = "your vector") -> None:
    """A vector that points somewhere."""
    expect(bool(vector.norm() > 0), f"{_capital(what)} has norm 0: did you subtract a mean from itself?")


def expect_close(answer: Tensor | float, right: Tensor | float, what: str = YOURS, hint: str = "", tolerance: float = 1e-4) -> None:
    """Is it the right value, up to ``tolerance`` (of the largest right entry)? Names a wrong sign and a wrong length."""
    got, want = (torch.as_tensor(value).detach().cpu().double() for value in (answer, right))
    expect(bool(got.isfinite().all()), f"{_capital(what)} is infinite or not a number (NaN): look for a division by zero.")
    size = max(want.abs().max().item(), 1e-12)
    if (got - want).abs().max().item() <= tolerance * size:
        return
    if (got + want).abs().max().item() <= tolerance * size:
        raise NotYet(f"{_capital(what)} has the right size and the wrong sign: did you subtract the other way round? {hint}".strip())
    factor = ((got * want).sum() / (want * want).sum().clamp(min=1e-30)).item()
    if got.numel() > 1 and factor > 0 and (got - factor * want).abs().max().item() <= tolerance * factor * size:
        sentence = f"points the right way, but is {factor:.3g} times as long as it should be: was it divided by the wrong number?"
        raise NotYet(f"{_capital(what)} {sentence} {hint}".strip())
    raise NotYet(f"{_capital(what)} {_difference(got, want, tolerance * size)}. {hint}".strip())


def expect_unlike(answer: Tensor | float, mistakes: Mapping[str, Tensor | float], tolerance: float = 1e-4) -> None:
    """Is it what a typical mistake gives? ``mistakes`` have what to say to each: the first that the answer is like is named."""
    got = torch.as_tensor(answer).double()
    for sentence, wrong in mistakes.items():
        expect(not torch.allclose(got, torch.as_tensor(wrong).double().expand_as(got), rtol=0, atol=tolerance), sentence)


def _difference(got: Tensor, want: Tensor, bound: float) -> str:
    if want.numel() == 1:
        return f"is {got.item():.4g}, and that is {'too large' if got.item() > want.item() else 'too small'}"
    off = ((got - want).abs() > bound).expand_as(want)
    return f"is wrong in {int(off.sum()):,} of its {want.numel():,} entries, by up to {(got - want).abs().max().item():.3g}"


def _capital(what: str) -> str:
    return what[:1].upper() + what[1:]
