"""Findings: what an experiment showed, beside its control, in one row and in one file for each notebook.

    findings = Findings("01_one_neuron")
    findings.add(Finding.of_mean("plural.ablation.logprob_shift", shift, control=random_shift, control_is="20 random neurons", unit="nats"))
    findings.save()

A phenomenon that is absent is a result too, and the row says so. ``python -m helpers.findings`` (``make findings``) writes
all of them into the table of the README.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from math import floor, isfinite, log10
from pathlib import Path
from statistics import mean
from typing import Any

from helpers.html import GREEN, GREY, WARM, boxed, prose, show, side_by_side
from helpers.statistics import Numbers, as_numbers, bootstrap_interval, paired_differences, wilson

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data" / "findings"
START, END = "<!-- findings: this table is written by `make findings` -->", "<!-- /findings -->"
NOTHING_YET = "No lesson has reported a finding yet."
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
OPTIONAL = ("control_low", "control_high")
NUMBERS = ("value", "low", "high", "control", *OPTIONAL)


@dataclass(frozen=True)
class Finding:
    """One measured value with its 95 % interval, beside a control.

    ``name`` is dotted, general to special: ``plural.ablation.logprob_shift``. ``control_is`` says in words what the control
    is; ``control_low`` and ``control_high`` are the control's own 95 % interval, if it has one. ``unit`` is ``share`` (shown
    in percent), ``nats``, ``logits``, ``correlation`` and so on. ``claim`` says on which side of its control the claim puts
    the value, ``above`` or ``below``; left empty, either side counts. ``published`` says what the paper reports and on which
    model, and ``source`` names the paper. Numbers keep four significant digits, since more would differ between machines.

    Raises ValueError, in one sentence, for what cannot be a finding.
    """

    name: str
    _: KW_ONLY
    value: float
    low: float
    high: float
    control: float
    n: int
    published: str = ""
    source: str = ""
    control_is: str
    control_low: float | None = None
    control_high: float | None = None
    unit: str = "share"
    claim: str = ""

    def __post_init__(self) -> None:
        for field in NUMBERS:
            number = getattr(self, field)
            if number is not None or field not in OPTIONAL:
                object.__setattr__(self, field, _rounded(number, f"{self.name}: {field}"))
        if problem := _problem(self):
            raise ValueError(problem)

    @classmethod
    def of_share(cls, name: str, hits: Numbers, *, control: Numbers | float, **about: Any) -> "Finding":
        """The share of ``hits`` that are true, with its Wilson interval; ``control``: other hits, or a number.

        >>> Finding.of_share("demo.share", [True] * 9 + [False], control=0.5, control_is="guessing").value
        0.9
        """
        found = _as_hits(hits)
        low, high = wilson(sum(found), len(found))
        if not isinstance(control, int | float):
            other = _as_hits(control)
            about["control_low"], about["control_high"] = wilson(sum(other), len(other))
            control = mean(other)
        return cls(name, value=mean(found), low=low, high=high, control=control, n=len(found), **about)

    @classmethod
    def of_mean(cls, name: str, values: Numbers, *, control: Numbers | float, unit: str, seed: int = 0, **about: Any) -> "Finding":
        """The mean of ``values``, with its bootstrap interval; ``control``: other values, or a number."""
        low, high = bootstrap_interval(values, seed)
        if not isinstance(control, int | float):
            about["control_low"], about["control_high"] = bootstrap_interval(control, seed)
            control = mean(as_numbers(control))
        return cls(name, value=mean(as_numbers(values)), low=low, high=high, control=control, n=len(values), unit=unit, **about)

    @classmethod
    def of_difference(cls, name: str, values: Numbers, *, control: Numbers, unit: str, control_is: str, **about: Any) -> "Finding":
        """The mean of ``values - control``, item by item; where both were measured on the same items, this sees more than two means."""
        differences = paired_differences(values, control)
        return cls.of_mean(name, differences, control=0.0, unit=unit, control_is=f"no difference from {control_is}", **about)

    @property
    def side(self) -> str:
        """Where the whole interval lies: ``above`` or ``below`` the control (and the control's interval), or neither: empty."""
        if self.low > _first(self.control_high, self.control):
            return "above"
        return "below" if self.high < _first(self.control_low, self.control) else ""

    @property
    def beats_control(self) -> bool:
        """Does the value lie beyond its control, on the side that was claimed?"""
        return bool(self.side) and self.claim in ("", self.side)

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.side:
            return "absent: not beyond its control"
        return f"{self.side} its control" if self.beats_control else f"against the claim: {self.side} its control, not {self.claim}"

    @property
    def decimals(self) -> int:
        """How many decimals mean something: the last one is smaller than a third of the interval (percent for shares)."""
        width = (self.high - self.low) * self.scale
        return min(4, max(0, -floor(log10(width / 3)))) if width > 0 else 2

    @property
    def scale(self) -> int:
        """By how much numbers are multiplied when shown: 100 for shares, which are shown in percent."""
        return 100 if self.unit == "share" else 1

    def number(self, x: float) -> str:
        """A number as it is shown."""
        text = f"{x * self.scale:.{self.decimals}f}"
        return (text.removeprefix("-") if float(text) == 0 else text) + (" %" if self.unit == "share" else "")

    def shown(self) -> dict[str, str]:
        """All parts of the row, as text."""
        unit = "" if self.unit == "share" else f" {self.unit}"
        own = "" if self.control_low is None else f" [{self.number(self.control_low)}, {self.number(self.control_high)}]"
        paper = f"{self.published or 'no number'}{f' ({self.source})' if self.source else ''}"
        return {
            "name": self.name,
            "value": f"{self.number(self.value)}{unit} [{self.number(self.low)}, {self.number(self.high)}]",
            "control": f"{self.number(self.control)}{own} ({self.control_is})",
            "n": f"{self.n:,}",
            "verdict": self.verdict,
            "published": paper,
        }

    def row(self) -> str:
        """The finding as one line of text."""
        row = self.shown()
        return (
            f"{row['name']}: {row['value']} | control: {row['control']} | n = {row['n']} | {row['verdict']} | published: {row['published']}"
        )

    @property
    def mark(self) -> str:
        """The result as one sign: ✓ beyond its control, ✗ against the claim, – absent."""
        return "✓" if self.beats_control else "✗" if self.side else "–"

    def _repr_html_(self) -> str:
        """The finding as a notebook shows it: its mark and name above three cells, value, control and what was published."""
        row, colour = self.shown(), {"✓": GREEN, "✗": WARM, "–": GREY}[self.mark]
        control = row["control"].removesuffix(f" ({self.control_is})")
        source = f"<br><small>{prose(self.source)}</small>" if self.source else ""
        cells = [
            f"<small>value and 95 % interval</small><br>{_strong(row['value'])}<br><small>n = {row['n']}</small>",
            f"<small>control</small><br>{_strong(control)}<br><small>{prose(self.control_is)}</small>",
            f"<small>published</small><br>{prose(self.published or 'no number')}{source}",
        ]
        name = f'<b>{self.mark} <code style="background:none;padding:0">{self.name}</code></b>'
        heading = f'<div style="margin:0 0 4px">{name} · {prose(self.verdict)}</div>'
        return boxed(heading + side_by_side(cells, [colour, GREY, GREY]), colour)

    def show(self) -> None:
        """Shows the finding in a notebook; elsewhere it prints it as one line."""
        show(self._repr_html_(), self.row())


def _strong(number: str) -> str:
    """A number with its interval as HTML: the number in bold, and no line ends within the interval."""
    value, bracket, interval = prose(number).partition(" [")
    return f"<b>{value.replace(' %', '&nbsp;%')}</b>{bracket}{interval.replace(' ', '&nbsp;')}"


def _rounded(number: Any, what: str) -> float:
    """A number with four significant digits."""
    try:
        return float(f"{float(number):.4g}")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what} must be one number, not {number!r}.") from None


def _first(number: float | None, otherwise: float) -> float:
    return otherwise if number is None else number


def _as_hits(hits: Numbers) -> list[bool]:
    numbers = as_numbers(hits)
    if odd := next((number for number in numbers if number not in (0, 1)), None):
        raise ValueError(f"A share counts what is true or false, and {odd} is neither; use Finding.of_mean for numbers.")
    return [bool(number) for number in numbers]


def _problem(finding: Finding) -> str | None:
    """What is wrong with a finding, in a sentence that begins with its name."""
    f = finding
    if not NAME.fullmatch(f.name):
        return f"{f.name!r} is no name for a finding: write small words with dots between them, such as plural.ablation.logprob_shift."
    low, high = _first(f.control_low, f.control), _first(f.control_high, f.control)
    numbers = [number for number in map(f.__getattribute__, NUMBERS) if number is not None]
    checks = [
        (not all(map(isfinite, numbers)), "a number is infinite or not a number (NaN)"),
        (f.n < 1, f"n is {f.n}, and it must be 1 or more"),
        (f.low > f.high, f"its interval runs from {f.low} to {f.high}; the lower end comes first"),
        (not f.low <= f.value <= f.high, f"its value {f.value} lies outside its interval [{f.low}, {f.high}]"),
        ((f.control_low is None) != (f.control_high is None), "a control's interval needs both ends"),
        (not low <= f.control <= high, f"its control {f.control} lies outside the control's interval [{low}, {high}]"),
        (not f.control_is.strip(), "say in control_is what the control is"),
        (not f.unit.strip(), "it has no unit"),
        (f.unit == "share" and not 0 <= f.value <= 1, f"a share lies between 0 and 1, and {f.value} does not"),
        (f.claim not in ("above", "below", ""), f"claim is 'above', 'below' or empty, not {f.claim!r}"),
        (bool(f.published) and not f.source, "name the paper of the published value in source"),
    ]
    return next((f"{f.name}: {sentence}." for wrong, sentence in checks if wrong), None)


# --------------------------------------------------------------------------------------------------- one notebook's findings


class Findings:
    """The findings of one notebook: each is shown when it is added, and ``save`` writes all of them to one file."""

    def __init__(self, notebook: str, folder: Path = FOLDER) -> None:
        """``notebook`` is the notebook's name without its ending."""
        self.path = folder / f"{notebook}.json"
        self.found: dict[str, Finding] = {}

    def add(self, finding: Finding) -> None:
        """Shows the finding and keeps it. The same name again replaces it, so that a cell can be run twice."""
        self.found[finding.name] = finding
        finding.show()

    def save(self) -> None:
        """Writes the file, unless it already says the same, and prints how many findings there are."""
        found = list(self.found.values())
        if _rows_in(self.path) != [finding.row() for finding in found]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False)
            self.path.write_text(text + "\n", encoding="utf-8")
        beyond = sum(finding.beats_control for finding in found)
        print(f"{len(found)} findings, {beyond} of them beyond their control, are in data/findings/{self.path.name}.")


def _rows_in(path: Path) -> list[str] | None:
    """The rows of a file of findings; None where there is no such file, or a damaged one."""
    try:
        return [finding.row() for finding in load_findings(path)]
    except (OSError, ValueError):
        return None


def load_findings(path: Path) -> list[Finding]:
    """The findings of one file, in its order. Raises ValueError, in one sentence, for a file that holds something else."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path.name}, line {problem.lineno}: this is no valid JSON ({problem.msg}).") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path.name} must hold a list of findings.")
    found = [_finding(entry, f"{path.name}, finding {number}") for number, entry in enumerate(entries, 1)]
    names = [finding.name for finding in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path.name} has two findings with the name {double}: give one of them another name.")
    return found


def _finding(entry: Any, where: str) -> Finding:
    known = [field.name for field in fields(Finding)]
    try:
        return Finding(**{key: value for key, value in entry.items() if key in known})
    except (AttributeError, TypeError):
        raise ValueError(f"{where} is not written as a finding: run its notebook again.") from None
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}") from None


# ------------------------------------------------------------------------------------------------------ all of them, for the README


def load_all(folder: Path = FOLDER) -> dict[str, list[Finding]]:
    """The findings of every notebook, by its name, in the order of the notebooks."""
    return {path.stem: load_findings(path) for path in sorted(folder.glob("*.json"))}


def as_table(found: Mapping[str, Sequence[Finding]]) -> str:
    """All findings as a Markdown table, or one line where there are none."""
    rows = [(notebook, finding.shown()) for notebook, findings in found.items() for finding in findings]
    if not rows:
        return NOTHING_YET
    lines = ["| finding | value and 95 % interval | control | n | result | published |", "|---|---|---|---|---|---|"]
    for notebook, row in rows:
        name = f"[{row['name']}](notebooks/{notebook}.ipynb)"
        lines.append(_table_line([name, row["value"], row["control"], row["n"], row["verdict"], row["published"]]))
    return "\n".join(lines)


def _table_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def put_between_marks(text: str, table: str) -> str:
    """The README with a new table between its two marks. Raises ValueError where a mark is missing."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md has no place for the findings: put the lines {START} and {END} where the table belongs.")
    return f"{before}{START}\n\n{table}\n\n{END}{after}"


def main(readme: Path = ROOT / "README.md", folder: Path = FOLDER) -> None:
    """Writes the findings of all notebooks into the README."""
    found = load_all(folder)
    old = readme.read_text(encoding="utf-8")
    new = put_between_marks(old, as_table(found))
    if new != old:
        readme.write_text(new, encoding="utf-8")
    print(f"README.md lists {sum(map(len, found.values()))} findings of {len(found)} notebooks.")


if __name__ == "__main__":
    main()
