"""The world of the course LM: tables of true facts and of words, read from ``data/world``.

Rows stand in order of fame. How often an entity is written about follows from its place in the
table alone, by one known schedule, so that frequency can be used later as an explanation of what
the model knows.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).parents[2] / "data"
Row = dict[str, str]

# The first words of these tables are the common ones: lists, translations and sentences about words
# use them alone, so that each of them is met often enough to be learned. The others are met in
# stories and in everyday prose.
COMMON = {"nouns": 160, "adjectives": 60, "verbs": 80}


def fame(rank: int, size: int) -> float:
    """The relative frequency of the entity at ``rank`` (0 is the most famous) in a table of ``size`` rows.

    A power law: the last entity of a table is about five times rarer than the first.
    """
    return (1 + 14 * rank / size) ** -0.6


@dataclass(frozen=True, eq=False)  # so that what is found in a world can be kept with ``cache``
class World:
    """All tables by name; each table is a list of rows, each row a mapping from column to text."""

    tables: Mapping[str, list[Row]]

    @staticmethod
    @cache
    def load(folder: Path = DATA / "world") -> "World":
        """Reads every ``*.csv`` of ``folder``; a table's name is its file's, without the ending."""
        paths = sorted(folder.glob("*.csv"))
        if not paths:
            raise FileNotFoundError(f"There are no tables in {folder}: is the repository complete?")
        return World({path.stem: read_table(path) for path in paths})

    def rows(self, table: str) -> list[Row]:
        """All rows of ``table``, the most famous first."""
        if table not in self.tables:
            raise KeyError(f"There is no table {table!r}; there are: {', '.join(self.tables)}.")
        return self.tables[table]

    def column(self, table: str, column: str) -> list[str]:
        """All values of one column that are not empty, in the table's order."""
        return [row[column] for row in self.rows(table) if row[column]]

    def common(self, table: str) -> list[Row]:
        """The rows of ``table`` with which word tasks work: the first ones, or all where ``COMMON`` sets no limit."""
        return self.rows(table)[: COMMON.get(table)]

    def pick(self, rng: Random, table: str) -> Row:
        """Draws a row of ``table``, famous ones more often (see ``fame``)."""
        return _pick(rng, self.rows(table))

    def pick_common(self, rng: Random, table: str) -> Row:
        """Draws one of the common rows of ``table``, famous ones more often."""
        return _pick(rng, self.common(table))


@cache
def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file whose first line names the columns."""
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: a row needs {len(reader.fieldnames)} cells.")
            rows.append(row)
    return rows


@cache
def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file: an object whose keys name its parts."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}.") from None


def _pick(rng: Random, rows: list[Row]) -> Row:
    return rng.choices(rows, cum_weights=_cumulative(len(rows)))[0]


@cache
def _cumulative(size: int) -> list[float]:
    return list(accumulate(fame(rank, size) for rank in range(size)))
