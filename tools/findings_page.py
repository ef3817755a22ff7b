"""Writes docs/findings.md from data/findings.csv and data/findings: all findings by lesson, and which were not shown; `make findings`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from helpers.findings import ABSENT, SHOWN, UNDECIDED, Finding, load_all  # noqa: E402

PAGE, README = ROOT / "docs" / "findings.md", ROOT / "README.md"
START, END = "<!-- headlines: these rows are written by `make findings` -->", "<!-- /headlines -->"
HEADLINES = (  # what makes one want to see more
    "refusal.harmful.projected",
    "lre.editing.success",
    "choices.letter_before",
    "sae.names_f1_08",
    "backpatch.fixed_pair",
)
HEAD = """# What the course found

Every experiment of a lesson ends in a finding: a value with its 95 % interval beside a control, and beside what the paper reported on its
own model. All are measured on the course LM. The outcome comes from the interval of the *difference* between value and control:
**{shown}** ✓ shown, **{absent}** ✗ absent (a difference that would matter is ruled out), **{undecided}** ? undecided (the interval allows
both). *Another measure* marks published values that were measured in another way, and cannot be compared number by number.

Declared in `data/findings.csv`, measured by the lessons, written by `make findings`.
"""


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def row(finding: Finding) -> str:
    """One finding."""
    shown = finding.shown()
    paper = shown["published"] + (f" ({shown['source']})" if shown["source"] else "")
    what = f"{finding.about.asks}<br>`{finding.name}`"
    return line([f"{finding.mark} {finding.verdict}", what, shown["value"], shown["control"], shown["difference"], shown["n"], paper])


def page(found: Mapping[str, Sequence[Finding]]) -> str:
    """The whole page."""
    every = [finding for findings in found.values() for finding in findings]
    counts = {outcome: sum(finding.outcome == outcome for finding in every) for outcome in (SHOWN, ABSENT, UNDECIDED)}
    parts = [HEAD.format(**counts)]
    for notebook, findings in found.items():
        head = ["outcome", "question", "value and 95 % interval", "control", "difference", "n", "published"]
        table = [line(head), "|" + "---|" * len(head), *map(row, findings)]
        parts.append(f"## [{notebook}](../notebooks/{notebook}.ipynb)\n\n" + "\n".join(table))
    parts.append("## What was not shown")
    for outcome in (ABSENT, UNDECIDED):
        names = ", ".join(f"`{finding.name}`" for finding in every if finding.outcome == outcome)
        parts.append(f"**{outcome.capitalize()}** ({counts[outcome]}): {names or 'none'}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def headlines(found: Mapping[str, Sequence[Finding]]) -> str:
    """A few findings as a short table for the README."""
    named = {finding.name: (notebook, finding) for notebook, findings in found.items() for finding in findings}
    rows = []
    for name in HEADLINES:
        notebook, finding = named[name]
        shown = finding.shown()
        asks = f"[{finding.about.asks}](notebooks/{notebook}.ipynb)"
        rows.append(line([f"{finding.mark} {finding.verdict}", asks, shown["value"], shown["control"]]))
    return "\n".join([line(["outcome", "question", "value and 95 % interval", "control"]), "|---|---|---|---|", *rows])


def with_headlines(readme: str, table: str) -> str:
    """The README with new rows between its two marks. Raises ValueError if a mark is missing."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md has no place for the findings: put the lines {START} and {END} where the rows belong.")
    return f"{before}{START}\n\n{table}\n\n{END}{after}"


def main() -> None:
    """Writes the page, and the rows of the README."""
    found = load_all()
    PAGE.write_text(page(found), encoding="utf-8")
    README.write_text(with_headlines(README.read_text(encoding="utf-8"), headlines(found)), encoding="utf-8")
    print(f"docs/findings.md lists {sum(map(len, found.values()))} findings of {len(found)} notebooks.")


if __name__ == "__main__":
    main()
