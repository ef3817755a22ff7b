"""What was found: kept in a file for each model, so that a run that was cut off goes on, and shown beside the course LM and the papers."""

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from textwrap import wrap
from typing import Any

from helpers.findings import FOLDER as COURSE_FINDINGS
from helpers.findings import Finding, load_all, measured
from helpers.models import DATA
from helpers.reproduce.lab import Absent, Experiment, Outcome

RUNS = DATA.parent / "runs" / "reproduce"
FROM_MEMORY = "from memory"
CHECKED = ("paper", "authors' code", "authors' page", "second hand", "second run", "lecture", FROM_MEMORY)
WIDTH = 42  # letters of a column


# ----------------------------------------------------------------------------------------------------- published values


@dataclass(frozen=True)
class Published:
    """A value that was published: of which model, how many cases (empty where the paper does not say), where it stands.

    ``checked`` says against what it was checked; ``from memory`` means against nothing, so nothing may be concluded from it.
    """

    finding: str
    model: str
    value: str
    n: str
    source: str
    where: str
    checked: str

    def shown(self) -> str:
        """The value with all that belongs to it, as one line of text."""
        cases = f", n = {int(self.n):,}" if self.n else ""
        doubt = f"; {self.checked}" if self.checked in (FROM_MEMORY, "second hand") else ""
        return f"{self.value} ({self.model}{cases}; {self.source}, {self.where}{doubt})"


def read_published(path: Path = DATA / "published.csv") -> list[Published]:
    """The published values of a file. Raises ValueError, in one sentence, for a line without a source or with an unknown check."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [Published(**row) for row in csv.DictReader(file)]
    for number, row in enumerate(rows, 2):
        if not (row.value and row.model and row.source and row.where):
            raise ValueError(f"{path.name}, line {number}: a published value needs its model, its source, and where it stands there.")
        if row.checked not in CHECKED:
            raise ValueError(f"{path.name}, line {number}: 'checked' is one of {', '.join(CHECKED)}, not {row.checked!r}.")
    return rows


def published_for(rows: Iterable[Published], finding: str, model: str) -> list[Published]:
    """What was published of a finding: of this model, or where nothing was, of others."""
    every = [row for row in rows if row.finding == finding]
    return [row for row in every if row.model == model] or every


# -------------------------------------------------------------------------------------------------------- the results file


@dataclass(frozen=True)
class Done:
    """One experiment that has run: its findings, what is absent and why, what it took, and with which options.

    ``reason`` says why nothing at all could be shown. ``about`` holds the options that change results.
    """

    experiment: str
    findings: tuple[Finding, ...]
    absent: tuple[Absent, ...]
    reason: str
    seconds: float
    gigabytes: float
    about: dict[str, Any]

    def outcome(self, name: str) -> Outcome:
        """The finding of this name, or why it is absent."""
        for one in (*self.findings, *self.absent):
            if one.name == name:
                return one
        return Absent(name, self.reason or "it was not measured")


def folder_of(model: str, root: Path = RUNS) -> Path:
    """The folder of a model's results."""
    return root / re.sub(r"[^\w.-]+", "--", model).strip("-.")


class Results:
    """The results of one model in ``results.json``: read at the start, written after each experiment."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError, in one sentence, where there is a file that cannot be read."""
        self.path = folder / "results.json"
        self.done: dict[str, Done] = {}
        if self.path.exists():
            try:
                raw = json.loads(self.path.read_text(encoding="utf-8"))
                self.done = {name: _as_done(entry) for name, entry in raw.items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"{self.path} is damaged: delete it, and run again.") from None

    def has(self, name: str, about: dict[str, Any]) -> bool:
        """Has the experiment run with the same options?"""
        return name in self.done and self.done[name].about == about

    def add(self, done: Done) -> None:
        """Keeps an experiment and writes the file, so that it is whole whenever the run is cut off."""
        self.done[done.experiment] = done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        kept = {name: asdict(one) | {"findings": [measured(found) for found in one.findings]} for name, one in self.done.items()}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        fresh.write_text(text + "\n", encoding="utf-8")
        os.replace(fresh, self.path)


def _as_done(raw: dict[str, Any]) -> Done:
    known = {field.name for field in fields(Done)}
    entry = {key: raw[key] for key in known}
    entry["findings"] = tuple(Finding(**finding) for finding in raw["findings"])
    entry["absent"] = tuple(Absent(**one) for one in raw["absent"])
    return Done(**entry)


# ---------------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One finding: in the course LM, in this model, and as published."""

    section: str
    name: str
    course: str
    own: str
    published: str


def rows(experiments: Sequence[Experiment], done: dict[str, Done], published: Sequence[Published], model: str) -> list[Row]:
    """A row for each finding of the experiments that have run."""
    course = {finding.name: finding for found in load_all(COURSE_FINDINGS).values() for finding in found}
    table = []
    for one in experiments:
        if one.name not in done:
            continue
        for name in one.findings:
            theirs = "; ".join(row.shown() for row in published_for(published, name, model)) or "no number"
            first = cell(course[name]) if name in course else "not measured"
            table.append(Row(one.section, name, first, cell(done[one.name].outcome(name)), theirs))
    return table


def cell(one: Outcome) -> str:
    """A finding with n, interval and control, or why there is none."""
    if isinstance(one, Absent):
        return f"not for this model: {one.reason}"
    row = one.shown()
    return f"{row['value']}, n = {row['n']}; control {row['control']}; {row['verdict']}: difference {row['difference']}"


def as_text(table: Sequence[Row], model: str) -> str:
    """The table for a screen: a line with the name, and three columns below it."""
    bar = "-" * (3 * WIDTH + 6)
    lines = [_columns("course LM", model, "published"), bar]
    for row in table:
        columns = [wrap(cell, WIDTH) or [""] for cell in (row.course, row.own, row.published)]
        height = max(map(len, columns))
        lines.append(f"{row.section}  {row.name}")
        lines += [_columns(*(column[at] if at < len(column) else "" for column in columns)) for at in range(height)]
        lines.append(bar)
    return "\n".join(lines)


def _columns(*cells: str) -> str:
    return " | ".join(f"{cell:<{WIDTH}}" for cell in cells).rstrip()


def as_markdown(table: Sequence[Row], model: str) -> str:
    """The same table as Markdown."""
    lines = [f"| section | finding | course LM | {model} | published |", "|---|---|---|---|---|"]
    for row in table:
        cells = (cell.replace("|", r"\|").replace("\n", " ") for cell in (row.section, row.name, row.course, row.own, row.published))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fits(pattern: str, one: Experiment) -> bool:
    """Is the experiment asked for, by its section (``03b``) or its name?"""
    return fnmatch(one.section, pattern) or one.name == pattern
