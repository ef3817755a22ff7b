"""Tables as plain text: a line of heads and a line for each row, in columns of fixed width."""

import re
from collections.abc import Iterable, Mapping, Sequence


def table(columns: Mapping[str, str], rows: Iterable[Sequence[object]], gap: str = " ") -> str:
    """The rows as lines of text below the names of their columns.

    ``columns`` maps the head of each column to the format of its cells, such as ``"<12"`` for text to the left, ``"8.3f"`` or
    ``"6.1%"`` for numbers; a head stands to the side of its cells. Text in a column of numbers is set to the column's width.
    Spaces at the ends of lines are removed. Raises ValueError if a row has more or fewer cells than there are columns.

    >>> print(table({"layer": "<5", "effect": "+7.2f"}, [(0, 0.5), ("all", -1)]))
    layer  effect
    0       +0.50
    all     -1.00
    """
    lines = [gap.join(_cell(name, spec) for name, spec in columns.items())]
    lines += [gap.join(_cell(value, spec) for value, spec in zip(row, columns.values(), strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object, spec: str) -> str:
    """A value in its format; text in a column of numbers keeps only the width."""
    if not isinstance(value, str):
        return format(value, spec)
    width = re.search(r"\d+", spec.partition(".")[0])
    side = "<" if spec.startswith("<") else ">"
    return format(value, f"{side}{width.group() if width else ''}")
