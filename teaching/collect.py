"""A class table from the ``results.json`` files of the lessons' own exercises: ``python -m teaching.collect FOLDER`` prints it as CSV.

Each student has a folder, or a file of their own, in one folder; the name of it is the student's. A student may hand in several
files, one for each notebook say: what is solved in any of them is solved.
"""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.exercises import RESULTS

KINDS = ("core", "optional")


@dataclass(frozen=True)
class ClassTable:
    """What a class has solved: student -> notebook -> exercise -> (is it core, is it solved); and what could not be read."""

    solved: Mapping[str, Mapping[str, Mapping[str, tuple[bool, bool]]]]
    problems: tuple[str, ...] = ()

    @property
    def notebooks(self) -> list[str]:
        """The notebooks that anybody has worked on."""
        return sorted({notebook for found in self.solved.values() for notebook in found})

    def count(self, student: str, notebook: str, core: bool) -> int:
        """How many core (or optional) exercises of a notebook a student has solved."""
        return sum(solved for is_core, solved in self.solved[student].get(notebook, {}).values() if is_core == core)

    def most(self, notebook: str, core: bool) -> int:
        """How many core (or optional) exercises of a notebook there are in all files together."""
        numbers = {number: is_core for found in self.solved.values() for number, (is_core, _) in found.get(notebook, {}).items()}
        return sum(is_core == core for is_core in numbers.values())

    def rows(self) -> list[list[str | int]]:
        """A head, one row for each student, and a last row with the numbers that can be reached."""
        columns = [(notebook, core) for notebook in self.notebooks for core in (True, False)]
        head = ["student", *(f"{notebook} {KINDS[not core]}" for notebook, core in columns), "core", "optional"]
        rows = [(student, [self.count(student, *column) for column in columns]) for student in sorted(self.solved)]
        rows.append(("(of)", [self.most(*column) for column in columns]))
        return [head, *([name, *counts, sum(counts[::2]), sum(counts[1::2])] for name, counts in rows)]

    def csv(self) -> str:
        """The table as comma-separated values."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([[_plain(cell) for cell in row] for row in self.rows()])
        return text.getvalue()


def _plain(cell: str | int) -> str | int:
    """A cell that no spreadsheet takes for a formula, whatever a student calls a folder."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t")) else cell


def collect(folder: str | Path) -> ClassTable:
    """Reads all results in a folder: ``FOLDER/STUDENT/**/results.json`` or ``FOLDER/STUDENT.json``.

    A file that cannot be read is named in ``problems`` and holds nobody else up. Raises ValueError, in one sentence, where there is no
    such folder or nothing in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: give one that holds a folder for each student, with {RESULTS} in it.")
    files = [(path.relative_to(folder).parts[0], path) for path in sorted(folder.rglob(RESULTS)) if path.parent != folder]
    files += [(path.stem, path) for path in sorted(folder.glob("*.json")) if path.name != RESULTS]
    if not files:
        raise ValueError(f"There are no results in {folder}: it needs a folder for each student, with {RESULTS} in it.")
    solved: dict[str, dict[str, dict[str, tuple[bool, bool]]]] = {}
    problems = []
    for student, path in files:
        own = solved.setdefault(student, {})
        try:
            found = read_results(path)
        except ValueError as problem:
            problems.append(f"{path.relative_to(folder)}: {problem}")
            continue
        for notebook, exercises in found.items():
            before = own.setdefault(notebook, {})
            for number, (core, done) in exercises.items():
                before[number] = core, done or before.get(number, (core, False))[1]
    return ClassTable(solved, tuple(problems))


def read_results(path: Path) -> dict[str, dict[str, tuple[bool, bool]]]:
    """What one file says: notebook -> exercise -> (is it core, is it solved). Raises ValueError for what no notebook has written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(notebook): {str(row["number"]): _pair(row) for row in facts["exercises"]} for notebook, facts in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("this is not what a notebook writes; run its last cell again, and hand in the file as it is.") from None


def _pair(row: Mapping[str, Any]) -> tuple[bool, bool]:
    if not (isinstance(row["core"], bool) and isinstance(row["solved"], bool)):
        raise TypeError
    return row["core"], row["solved"]


def main(arguments: Sequence[str]) -> int:
    """Prints the table to stdout and problems to stderr; returns 0, 1 where a file could not be read, 2 where nothing could be done."""
    if len(arguments) != 1:
        print("Write: python -m teaching.collect FOLDER", file=sys.stderr)
        return 2
    try:
        table = collect(arguments[0])
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(table.csv(), end="")
    for problem in table.problems:
        print(problem, file=sys.stderr)
    return 1 if table.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
