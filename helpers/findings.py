"""Findings: what an experiment showed, beside its control, in one row.

Each finding is declared once, in ``data/findings.csv``: what it asks, its unit, what is claimed, the smallest effect that would matter,
what the control is, and what was published. A lesson only says what it measured:

    findings = Findings("02a_one_layer_directions")
    findings.share("refusal.harmless.added", added, control=pushed)
    findings.save()

The outcome comes from the interval of the *difference* between value and control, never from whether two intervals overlap: ``shown``,
``absent`` (the experiment could have seen the smallest effect that matters, and did not), or ``undecided``. That something is absent is a
result, too. ``make findings`` writes all of them to docs/findings.md.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cache
from math import floor, isfinite, log10
from pathlib import Path
from statistics import mean as average
from typing import Any

from helpers.html import AMBER, GREEN, GREY, WARM, boxed, prose, show, side_by_side
from helpers.stats import (
    Interval,
    Numbers,
    as_numbers,
    bootstrap_interval,
    cluster_interval,
    difference_interval,
    paired_differences,
    paired_share_interval,
    wilson,
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data" / "findings"
DECLARED = ROOT / "data" / "findings.csv"
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
SHOWN, ABSENT, UNDECIDED = "shown", "absent", "undecided"
OPTIONAL = ("control_low", "control_high")
NUMBERS = ("value", "low", "high", "control", *OPTIONAL, "difference", "difference_low", "difference_high")


# ------------------------------------------------------------------------------------------------------------- declarations


@dataclass(frozen=True)
class Declared:
    """What a finding is about, whatever comes out: one row of ``data/findings.csv``.

    ``unit`` is ``share`` (shown in percent), ``nats``, ``logits`` and so on. ``claim`` says on which side of its control the value should
    lie: ``above``, ``below``, ``equal``, or empty where either side counts. ``smallest`` is the smallest difference that would matter, in
    the unit. ``paired`` is ``yes`` where value and control were measured on the same items. ``same``: did the paper measure the same thing?
    """

    name: str
    notebook: str = ""
    asks: str = ""
    unit: str = "share"
    claim: str = ""
    smallest: float = 0.1
    paired: str = "no"
    control_is: str = "a control"
    published: str = ""
    same: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            example = "plural.ablation.logprob_shift"
            raise ValueError(f"{self.name!r} is no name for a finding: write small words with dots between them, such as {example}.")
        wrong = [
            (self.claim not in ("above", "below", "equal", ""), f"claim is 'above', 'below', 'equal' or empty, not {self.claim!r}"),
            (not self.smallest > 0, "smallest, the smallest difference that would matter, must be above 0"),
            (not self.control_is.strip(), "say in control_is what the control is"),
            (not self.unit.strip(), "it has no unit"),
            (bool(self.published) and not self.source, "name the paper of the published value in source"),
        ]
        _refuse(self.name, wrong)


def _refuse(name: str, problems: Sequence[tuple[bool, str]]) -> None:
    """Raises ValueError with the first sentence whose condition holds."""
    for found, sentence in problems:
        if found:
            raise ValueError(f"{name}: {sentence}.")


@cache
def declarations(path: Path = DECLARED) -> Mapping[str, Declared]:
    """All declared findings by their names. Raises ValueError, in one sentence, for a row that cannot be one."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        found = {row["name"]: Declared(**row | {"smallest": float(row.get("smallest", 0.1))}) for row in rows}
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path.name}: {problem}") from None
    if len(found) < len(rows):
        raise ValueError(f"{path.name} has two rows with one name: give one of them another name.")
    return found


def declared(name: str) -> Declared:
    """The declaration of a finding. Raises ValueError where there is none."""
    if name not in declarations():
        raise ValueError(f"There is no finding {name!r} in data/findings.csv: give it a row there, with its unit, claim and control.")
    return declarations()[name]


# ----------------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True)
class Finding:
    """One measured value with its 95 % interval, its control, and the difference of the two with its own interval.

    Numbers keep four significant digits, since more would differ between machines. Raises ValueError for what cannot be a finding.
    """

    name: str
    _: KW_ONLY
    value: float
    low: float
    high: float
    control: float
    n: int
    control_low: float | None = None
    control_high: float | None = None
    difference: float
    difference_low: float
    difference_high: float
    about: Declared = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.about is None:
            object.__setattr__(self, "about", declared(self.name))
        for one in NUMBERS:
            if getattr(self, one) is not None or one not in OPTIONAL:
                object.__setattr__(self, one, _rounded(getattr(self, one), f"{self.name}: {one}"))
        low = self.control if self.control_low is None else self.control_low
        high = self.control if self.control_high is None else self.control_high
        numbers = [number for number in (getattr(self, one) for one in NUMBERS) if number is not None]
        wrong = [
            (not all(map(isfinite, numbers)), "a number is infinite or not a number (NaN)"),
            (self.n < 1, f"n is {self.n}, and it must be 1 or more"),
            (self.low > self.high, f"its interval runs from {self.low} to {self.high}; the lower end comes first"),
            (not self.low <= self.value <= self.high, f"its value {self.value} lies outside its interval [{self.low}, {self.high}]"),
            ((self.control_low is None) != (self.control_high is None), "a control's interval needs both ends"),
            (not low <= self.control <= high, f"its control {self.control} lies outside the control's interval [{low}, {high}]"),
            (self.about.unit == "share" and not 0 <= self.value <= 1, f"a share lies between 0 and 1, and {self.value} does not"),
        ]
        _refuse(self.name, wrong)

    @property
    def outcome(self) -> str:
        """``shown``, ``absent`` or ``undecided``: what the interval of the difference says about the claim.

        Shown: it lies wholly on the claimed side of 0 and reaches the smallest effect that matters; where the claim is *equal*, it lies
        wholly within that effect on either side. Absent: it excludes that effect (or equality). Undecided: anything else.
        """
        low, high, least = self.difference_low, self.difference_high, self.about.smallest
        small = -least < low and high < least
        beside_zero = low > 0 or high < 0
        shown, absent = {
            "equal": (small, beside_zero),
            "above": (low > 0, high < least),
            "below": (high < 0, low > -least),
            "": (beside_zero, small),
        }[self.about.claim]
        first = SHOWN if self.about.claim == "equal" else ABSENT  # where both hold: different, and too little to matter
        return first if shown and absent else SHOWN if shown else ABSENT if absent else UNDECIDED

    @property
    def verdict(self) -> str:
        """The outcome in words: an effect that is absent may be there and be too small to matter, or go the other way."""
        low, high = self.difference_low, self.difference_high
        if self.outcome != ABSENT or self.about.claim == "equal" or low <= 0 <= high:
            return self.outcome
        if self.about.claim and (self.about.claim == "above") != (low > 0):
            return f"{ABSENT}, it goes the other way"
        return f"{ABSENT}, too small to matter"

    def number(self, x: float) -> str:
        """A number as it is shown: its last decimal is smaller than a third of the interval, and a share is in percent."""
        share = self.about.unit == "share"
        scale = 100 if share else 1
        width = (self.high - self.low) * scale
        decimals = min(4, max(0, -floor(log10(width / 3)))) if width > 0 else 2
        text = f"{x * scale:.{decimals}f}"
        return (text.removeprefix("-") if float(text) == 0 else text) + (" %" if share else "")

    def between(self, low: float, high: float) -> str:
        """An interval as it is shown."""
        return f"[{self.number(low)}, {self.number(high)}]"

    def shown(self) -> dict[str, str]:
        """All parts of the row, as text."""
        about = self.about
        unit = "" if about.unit == "share" else f" {about.unit}"
        own = "" if self.control_low is None else f" {self.between(self.control_low, self.control_high)}"
        measure = "another measure: " if about.same == "no" else ""
        return {
            "name": self.name,
            "value": f"{self.number(self.value)}{unit} {self.between(self.low, self.high)}",
            "control": f"{self.number(self.control)}{own} ({about.control_is})",
            "n": f"{self.n:,}",
            "difference": f"{self.number(self.difference)} {self.between(self.difference_low, self.difference_high)}",
            "verdict": self.verdict,
            "published": f"{measure}{about.published}" if about.published else "no number",
            "source": about.source,
        }

    def row(self) -> str:
        """The finding as one line of text."""
        row = self.shown()
        paper = row["published"] + (f" ({row['source']})" if row["source"] else "")
        verdict = f"{row['verdict']}: difference {row['difference']}"
        return f"{row['name']}: {row['value']} | control: {row['control']} | n = {row['n']} | {verdict} | published: {paper}"

    @property
    def mark(self) -> str:
        """The outcome as one sign."""
        return {SHOWN: "✓", ABSENT: "✗", UNDECIDED: "?"}[self.outcome]

    def _repr_html_(self) -> str:
        """The finding as a notebook shows it: its mark, what it asks and the outcome above three cells: value, control, published."""
        row, colour = self.shown(), {SHOWN: GREEN, ABSENT: WARM, UNDECIDED: AMBER}[self.outcome]
        control = row["control"].removesuffix(f" ({self.about.control_is})")
        source = f"<br><small>{prose(self.about.source)}</small>" if self.about.source else ""
        cells = [
            f"<small>value and 95 % interval</small><br>{_strong(row['value'])}<br><small>n = {row['n']}</small>",
            f"<small>control</small><br>{_strong(control)}<br><small>{prose(self.about.control_is)}</small>",
            f"<small>published</small><br>{prose(row['published'])}{source}",
        ]
        name = f'<b>{self.mark} <code style="background:none;padding:0">{self.name}</code></b>'
        heading = f'<div style="margin:0 0 4px">{name} · {self.verdict}: difference {_strong(row["difference"])}</div>'
        asks = f"<div>{prose(self.about.asks)}</div>" if self.about.asks else ""
        return boxed(asks + heading + side_by_side(cells, [colour, GREY, GREY]), colour)

    def show(self) -> None:
        """Shows the finding as three cells in a notebook, and as one line of text elsewhere."""
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


# ------------------------------------------------------------------------------------------------------------- measured how


def share(name: str, hits: Numbers, *, control: Numbers | float) -> Finding:
    """The share of ``hits`` that are true, with its Wilson interval, beside other hits, or a number.

    The difference has Newcombe's interval (1998): for pairs where the finding is declared ``paired``, else for independent samples.
    """
    found = _as_hits(hits)
    own, interval = average(found), wilson(sum(found), len(found))
    if isinstance(control, int | float):
        return _beside(name, own, interval, control, None, len(found))
    others = _as_hits(control)
    theirs, their_interval = average(others), wilson(sum(others), len(others))
    difference = paired_share_interval(found, others) if _paired(name, found, others) else None
    return _beside(name, own, interval, theirs, their_interval, len(found), difference)


def mean(
    name: str,
    values: Numbers,
    *,
    control: Numbers | float,
    clusters: Sequence[str] = (),
    control_clusters: Sequence[str] = (),
    seed: int = 0,
) -> Finding:
    """The mean of ``values`` with its bootstrap interval, beside other values, or a number.

    ``clusters``: where several values belong together (to one text, one entity), the name of each one's cluster; then clusters are drawn.
    ``control_clusters``: the same for the values of the control, where they are not the same items.
    """
    own, interval = average(as_numbers(values)), _resampled(values, clusters, seed)
    if isinstance(control, int | float):
        return _beside(name, own, interval, control, None, len(values))
    theirs, their_interval = average(as_numbers(control)), _resampled(control, control_clusters, seed)
    difference = None
    if _paired(name, values, control):
        difference = _resampled(paired_differences(values, control), clusters, seed)
    return _beside(name, own, interval, theirs, their_interval, len(values), difference)


def difference(name: str, values: Numbers, *, control: Numbers, clusters: Sequence[str] = (), seed: int = 0) -> Finding:
    """The mean of ``values - control``, item by item, beside 0: for a finding whose value is itself a difference."""
    differences = paired_differences(values, control)
    interval = _resampled(differences, clusters, seed)
    return _beside(name, average(differences), interval, 0.0, None, len(differences))


def value(
    name: str,
    value: float,
    low: float,
    high: float,
    n: int,
    *,
    control: float,
    control_low: float | None = None,
    control_high: float | None = None,
) -> Finding:
    """A value with an interval of its own kind (a correlation, a median), beside a control with or without one."""
    theirs = None if control_low is None or control_high is None else (control_low, control_high)
    return _beside(name, value, (low, high), control, theirs, n)


def _beside(
    name: str, own: float, interval: Interval, control: float, theirs: Interval | None, n: int, difference: Interval | None = None
) -> Finding:
    """The finding; where the difference has no interval of its own, it is made of those of both sides."""
    low, high = difference or difference_interval(own, interval, control, theirs or (control, control))
    known = {} if theirs is None else {"control_low": theirs[0], "control_high": theirs[1]}
    numbers = {"value": own, "low": interval[0], "high": interval[1], "control": control, "n": n, **known}
    return Finding(name, **numbers, difference=own - control, difference_low=low, difference_high=high)


def _paired(name: str, values: Numbers, others: Numbers) -> bool:
    """Are both sides the same items? Raises ValueError where they are declared to be, and are not equally many."""
    if declared(name).paired != "yes":
        return False
    if len(values) != len(others):
        raise ValueError(f"{name} is declared as paired, and there are {len(values)} values and {len(others)} of the control.")
    return True


def _resampled(values: Numbers, clusters: Sequence[str], seed: int) -> Interval:
    return cluster_interval(values, clusters, seed) if clusters else bootstrap_interval(values, seed)


def _as_hits(hits: Numbers) -> list[bool]:
    numbers = as_numbers(hits)
    if odd := next((number for number in numbers if number not in (0, 1)), None):
        raise ValueError(f"A share counts what is true or false, and {odd} is neither; use mean for numbers.")
    return [bool(number) for number in numbers]


# --------------------------------------------------------------------------------------------------- one notebook's findings


class Findings:
    """The findings of one notebook: each is shown when it is measured, and ``save`` writes all of them to one file."""

    def __init__(self, notebook: str, folder: Path = FOLDER) -> None:
        """``notebook`` is the notebook's name without its ending."""
        self.path = folder / f"{notebook}.json"
        self.found: dict[str, Finding] = {}

    def share(self, name: str, hits: Numbers, **options: Any) -> None:
        """See the function of this name."""
        self.add(share(name, hits, **options))

    def mean(self, name: str, values: Numbers, **options: Any) -> None:
        """See the function of this name."""
        self.add(mean(name, values, **options))

    def difference(self, name: str, values: Numbers, **options: Any) -> None:
        """See the function of this name."""
        self.add(difference(name, values, **options))

    def value(self, name: str, *numbers: Any, **options: Any) -> None:
        """See the function of this name."""
        self.add(value(name, *numbers, **options))

    def add(self, finding: Finding) -> None:
        """Shows the finding and keeps it. The same name again replaces it, so that a cell can be run twice."""
        self.found[finding.name] = finding
        finding.show()

    def save(self) -> None:
        """Writes the file, unless it already says the same, and prints how many findings there are."""
        found = list(self.found.values())
        try:
            known = [finding.row() for finding in load_findings(self.path)]
        except (OSError, ValueError):  # there is no such file, or a damaged one
            known = None
        if known != [finding.row() for finding in found]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps([measured(finding) for finding in found], indent=1, ensure_ascii=False)
            self.path.write_text(text + "\n", encoding="utf-8")
        outcomes = [finding.outcome for finding in found]
        counts = ", ".join(f"{outcomes.count(one)} {one}" for one in (SHOWN, ABSENT, UNDECIDED))
        print(f"{len(found)} findings ({counts}) are in data/findings/{self.path.name}.")


def measured(finding: Finding) -> dict[str, Any]:
    """What a file keeps of a finding: its name and its numbers; the rest is declared."""
    return {key: number for key, number in asdict(finding).items() if key != "about"}


def load_findings(path: Path) -> list[Finding]:
    """The findings of one file, in its order. Raises ValueError, in one sentence, for a file that holds something else."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path.name}, line {problem.lineno}: this is no valid JSON ({problem.msg}).") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path.name} must hold a list of findings.")
    found: dict[str, Finding] = {}
    for number, entry in enumerate(entries, 1):
        try:
            finding = Finding(**entry)
        except TypeError:
            raise ValueError(f"{path.name}, finding {number} is not written as a finding: run its notebook again.") from None
        except ValueError as problem:
            raise ValueError(f"{path.name}, finding {number}: {problem}") from None
        if finding.name in found:
            raise ValueError(f"{path.name} has two findings with the name {finding.name}: give one of them another name.")
        found[finding.name] = finding
    return list(found.values())


def load_all(folder: Path = FOLDER) -> dict[str, list[Finding]]:
    """The findings of every notebook, by its name, in the order of the notebooks."""
    return {path.stem: load_findings(path) for path in sorted(folder.glob("*.json"))}
