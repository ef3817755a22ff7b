"""The sentences that two kinds of wrong input get everywhere: a name that there is not, and a number out of bounds."""

from collections.abc import Collection, Mapping
from math import inf
from typing import Any


def chosen(options: Collection[Any], name: Any, what: str) -> Any:
    """The option with this name: a mapping's value, or else the name itself. Raises ValueError where there is none."""
    if name not in options:
        raise ValueError(f"There is no {what} {name!r}; choose one of: {', '.join(map(str, options)) or 'none'}.")
    return options[name] if isinstance(options, Mapping) else name


def check_number(means: str, number: float, low: float = 1, high: float = inf) -> None:
    """Raises ValueError for a number out of bounds; ``means`` says what it means: ``"k says how many tokens to list"``."""
    if not low <= number <= high:
        raise ValueError(f"{means}; it must be {f'from {low} to {high}' if high < inf else f'{low} or more'}, not {number}.")
