"""What was found: kept in a file for each model, so that a run that was cut off goes on, and shown beside the course LM and the papers."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import add
from pathlib import Path
from typing import Any

from helpers.course_lm.world import Row, read_table
from helpers.findings import Finding, load_all, measured
from helpers.models import DATA
from helpers.reproduce.lab import Experiment

RUNS = DATA.parent / "runs" / "reproduce"
FROM_MEMORY = "from memory"
CHECKED = ("paper", "authors' code", "authors' page", "second hand", "second run", "lecture", FROM_MEMORY)


def read_published(path: Path = DATA / "published.csv") -> list[Row]:
    """Published values: finding, model, value, n (empty where the paper does not say), source, where it stands, and how it was checked.

    ``from memory`` means against nothing, so nothing may be concluded from it. Raises ValueError for a line without a source or with an
    unknown check.
    """
    rows = read_table(path)
    for number, row in enumerate(rows, 2):
        if not (row["value"] and row["model"] and row["source"] and row["where"]):
            raise ValueError(f"{path.name}, line {number}: a published value needs its model, its source, and where it stands there.")
        if row["checked"] not in CHECKED:
            raise ValueError(f"{path.name}, line {number}: 'checked' is one of {', '.join(CHECKED)}, not {row['checked']!r}.")
    return rows


def published_for(rows: Iterable[Row], finding: str, model: str) -> list[str]:
    """What was published of a finding, as text: of this model, or where nothing was, of others."""
    every = [row for row in rows if row["finding"] == finding]
    return [_published(row) for row in [row for row in every if row["model"] == model] or every]


def _published(row: Row) -> str:
    """A published value with all that belongs to it, as one line of text."""
    cases = f", n = {int(row['n']):,}" if row["n"] else ""
    doubt = f"; {row['checked']}" if row["checked"] in (FROM_MEMORY, "second hand") else ""
    return f"{row['value']} ({row['model']}{cases}; {row['source']}, {row['where']}{doubt})"


@dataclass(frozen=True)
class Done:
    """One experiment that has run: its findings, why the others are absent, what it took, and the options that change results."""

    experiment: str
    findings: tuple[Finding, ...]
    reason: str
    seconds: float
    gigabytes: float
    about: dict[str, Any]

    def outcome(self, name: str) -> Finding | str:
        """The finding of this name, or why it is absent."""
        return next((one for one in self.findings if one.name == name), self.reason or "it was not measured")


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
                for name, entry in raw.items():
                    self.done[name] = Done(**entry | {"findings": tuple(Finding(**one) for one in entry["findings"])})
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
        fresh.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        fresh.replace(self.path)


Line = tuple[str, str, str, str, str]  # section and name of a finding; in the course LM, in this model, and as published


def rows(experiments: Sequence[Experiment], done: dict[str, Done], published: Sequence[Row], model: str) -> list[Line]:
    """A line for each finding of the experiments that have run."""
    course = {finding.name: finding for found in load_all().values() for finding in found}
    table = []
    for one in experiments:
        for name in one.findings if one.name in done else ():
            theirs = "; ".join(published_for(published, name, model)) or "no number"
            first = cell(course[name]) if name in course else "not measured"
            table.append((one.section, name, first, cell(done[one.name].outcome(name)), theirs))
    return table


def cell(one: Finding | str) -> str:
    """A finding with n, interval and control, or why there is none."""
    if isinstance(one, str):
        return f"not for this model: {one}"
    row = one.shown()
    return f"{row['value']}, n = {row['n']}; control {row['control']}; {row['verdict']}: difference {row['difference']}"


def as_text(table: Sequence[Line], model: str) -> str:
    """The table for a screen: a line with the name of each finding, and below it the three columns, a line each."""
    width = max(len(model), len("course LM"))
    heads = [f"    {head:<{width}}  " for head in ("course LM", model, "published")]
    return "\n".join(f"{section}  {name}\n" + "\n".join(map(add, heads, cells)) for section, name, *cells in table)


def as_markdown(table: Sequence[Line], model: str) -> str:
    """The same table as Markdown."""
    lines = [f"| section | finding | course LM | {model} | published |", "|---|---|---|---|---|"]
    for row in table:
        cells = [cell.replace("|", r"\|").replace("\n", " ") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
