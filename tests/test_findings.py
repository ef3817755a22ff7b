"""Findings and their intervals: numbers against other ways of getting them, files that stay the same, and a README that agrees."""

import json
import re
from math import comb
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from exercise_tools import said

from helpers import findings, statistics
from helpers.findings import Finding, Findings, load_all, load_findings
from helpers.html import GREEN, GREY, WARM
from helpers.widgets import readable

ROOT = Path(__file__).parents[1]
RNG = np.random.RandomState(5)
VALUES = RNG.normal(2.0, 3.0, 300).tolist()
ABOUT = {"value": 0.5, "low": 0.4, "high": 0.6, "control": 0.1, "n": 30, "control_is": "chance"}


# ------------------------------------------------------------------------------------------------------------ intervals


def test_wilsons_interval_holds_the_shares_at_which_the_count_is_not_surprising():
    """At both ends the observed count stands 1.96 standard deviations off: that is Wilson's definition."""
    for hits, n in ((7, 20), (199, 400), (1, 30)):
        for end in statistics.wilson(hits, n):
            assert abs(hits - n * end) == pytest.approx(1.96 * (n * end * (1 - end)) ** 0.5, rel=1e-9)
    assert statistics.wilson(0, 0) == (0, 1) and statistics.wilson(0, 9)[0] == 0 and statistics.wilson(9, 9)[1] == 1


def test_wilsons_interval_covers_the_truth_about_as_often_as_it_says():
    n, p = 60, 0.3
    covered = sum(
        comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if statistics.wilson(k, n)[0] <= p <= statistics.wilson(k, n)[1]
    )
    assert covered == pytest.approx(0.95, abs=0.02)


def test_both_intervals_of_a_mean_agree_on_a_plain_sample_and_cover_the_truth():
    normal, resampled = statistics.mean_interval(VALUES), statistics.bootstrap_interval(VALUES)
    assert normal[1] - normal[0] == pytest.approx(2 * 1.96 * np.std(VALUES, ddof=1) / 300**0.5)
    assert resampled == pytest.approx(normal, abs=0.1)
    samples = RNG.normal(2.0, 3.0, (200, 40))
    covered = [low <= 2.0 <= high for low, high in (statistics.bootstrap_interval(sample, draws=300) for sample in samples)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_same_numbers_give_the_same_interval_and_another_seed_another_one():
    first = statistics.bootstrap_interval(VALUES)
    assert (
        first == statistics.bootstrap_interval(torch.tensor(VALUES, dtype=torch.float64)) == statistics.bootstrap_interval(np.array(VALUES))
    )
    assert first != statistics.bootstrap_interval(VALUES, seed=1)


def test_pairs_see_what_two_means_do_not():
    before = np.array(VALUES)
    after = before + 0.2 + RNG.normal(0, 0.1, len(before))  # the same items, a little higher
    low, high = statistics.paired_interval(after, before)
    assert 0.15 < low < 0.2 < high < 0.25
    assert statistics.bootstrap_interval(after)[0] < statistics.bootstrap_interval(before)[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.mean_interval([1.0]), "A single value has no interval"),
        (lambda: statistics.bootstrap_interval([]), "There are no values"),
        (lambda: statistics.bootstrap_interval([1.0, float("nan")]), "not a number"),
        (lambda: statistics.paired_interval([1.0, 2.0], [1.0]), "equally many values on both sides; here are 2 and 1"),
    ],
)
def test_what_has_no_interval_is_said_in_a_sentence(call, words: str):
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------------------------------------------------- one finding


def test_a_share_is_counted_and_its_control_has_an_interval_of_its_own():
    found = Finding.of_share("a.share", [True] * 30 + [False] * 10, control=torch.tensor([1, 0, 0, 0]) > 0, control_is="random neurons")
    assert (found.value, found.n, found.control) == (0.75, 40, 0.25)
    assert (found.low, found.high) == pytest.approx(statistics.wilson(30, 40), abs=1e-4)
    assert (found.control_low, found.control_high) == pytest.approx(statistics.wilson(1, 4), abs=1e-4)
    assert not found.beats_control, "four cases of a control say too little"


def test_means_and_differences():
    shifted = [value + 1 for value in VALUES]
    mean = Finding.of_mean("a.mean", shifted, control=VALUES, unit="nats", control_is="no change")
    assert mean.value == pytest.approx(np.mean(VALUES) + 1, rel=1e-3) and mean.control == pytest.approx(np.mean(VALUES), rel=1e-3)
    difference = Finding.of_difference("a.difference", shifted, control=VALUES, unit="nats", control_is="no change")
    assert (difference.value, difference.low, difference.high, difference.control) == (1, 1, 1, 0) and difference.beats_control
    assert difference.control_is == "no difference from no change"


@pytest.mark.parametrize(
    ("changes", "beats", "verdict"),
    [
        ({}, True, "above its control"),
        ({"control": 0.9}, True, "below its control"),
        ({"control": 0.55}, False, "absent: not beyond its control"),
        ({"control": 0.6}, False, "absent: not beyond its control"),
        ({"control_low": 0.05, "control_high": 0.45}, False, "absent: not beyond its control"),
        ({"control_low": 0.05, "control_high": 0.35}, True, "above its control"),
        ({"control": 0.9, "control_low": 0.55, "control_high": 0.95}, False, "absent: not beyond its control"),
        ({"claim": "above"}, True, "above its control"),
        ({"claim": "below"}, False, "against the claim: above its control, not below"),
        ({"claim": "below", "control": 0.5}, False, "absent: not beyond its control"),
    ],
)
def test_the_verdict_is_about_the_whole_interval(changes: dict, beats: bool, verdict: str):
    found = Finding("a.b", **ABOUT | changes)
    assert (found.beats_control, found.verdict) == (beats, verdict) and verdict in found.row()


def test_the_row_shows_no_more_digits_than_the_interval_allows(capsys: pytest.CaptureFixture):
    Finding.of_share("a.b", [True] * 9 + [False] * 91, control=0.0, control_is="random", published="4 %, GPT-2", source="2405.02421").show()
    wide, narrow = ({"value": 3.14159, "low": 3.14159 - half, "high": 3.14159 + half, "unit": "nats"} for half in (0.5, 0.004))
    Finding("a.b", **ABOUT | wide).show()
    Finding("a.b", **ABOUT | narrow | {"n": 12345, "control": -0.0001}).show()
    assert capsys.readouterr().out.splitlines() == [
        "a.b: 9 % [5 %, 16 %] | control: 0 % (random) | n = 100 | above its control | published: 4 %, GPT-2 (2405.02421)",
        "a.b: 3.1 nats [2.6, 3.6] | control: 0.1 (chance) | n = 30 | above its control | published: no number",
        "a.b: 3.142 nats [3.138, 3.146] | control: 0.000 (chance) | n = 12,345 | above its control | published: no number",
    ]


SIDES = [
    ({"control_high": 0.3, "published": "4 of 5", "source": "Ada 2024"}, "✓", GREEN),
    ({"published": "4 of 5", "source": "Ada 2024"}, "–", GREY),
    ({"control_high": 0.3, "claim": "below"}, "✗", WARM),
]


@pytest.mark.parametrize(("changes", "mark", "colour"), SIDES, ids=["beyond its control", "absent", "against the claim"])
def test_a_notebook_shows_mark_and_name_above_three_cells_that_say_what_the_row_says(changes: dict, mark: str, colour: str):
    found = Finding("a.b", **ABOUT | {"control_low": 0.05, "control_high": 0.95} | changes)
    html, row = found._repr_html_(), found.shown()
    assert found.mark == mark and f"rgb({colour})" in html
    assert readable(html.partition("<table")[0]) == f"{mark} a.b · {found.verdict}"
    assert [readable(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)] == [
        f"value and 95 % interval\n{row['value']}\nn = 30",
        f"control\n{row['control'].removesuffix(' (chance)')}\nchance",
        "published\n4 of 5\nAda 2024" if found.source else "published\nno number",
    ]


def test_what_words_of_a_finding_say_is_shown_and_not_obeyed():
    html = Finding("a.b", **ABOUT | {"control_is": "<b>x</b>", "unit": "<i>", "published": "$5 < $6", "source": "A & B"})._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html and "&lt;i&gt;" in html and "A &amp; B" in html and "$5" not in html


def test_a_finding_looks_the_same_on_another_machine_and_fits_light_and_dark_pages():
    here, there = (Finding("a.b", **ABOUT | {"value": 0.5123 * (1 + noise), "unit": "nats"})._repr_html_() for noise in (0, 1e-6))
    assert here == there and not re.search(r"[;\"]color:|black|white[^-]|#[0-9a-f]{3}", here)


def test_noise_of_another_machine_changes_nothing():
    here, there = (Finding("a.b", **ABOUT | {"value": 0.5123 * (1 + noise), "unit": "nats"}) for noise in (0, 1e-6))
    assert here == there


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("plural", {}, "'plural' is no name for a finding"),
        ("Plural.x", {}, "is no name for a finding"),
        ("a..b", {}, "is no name for a finding"),
        ("a.b", {"n": 0}, "a.b: n is 0, and it must be 1 or more."),
        ("a.b", {"low": 0.7}, "a.b: its interval runs from 0.7 to 0.6"),
        ("a.b", {"value": 0.9}, "its value 0.9 lies outside its interval [0.4, 0.6]"),
        ("a.b", {"value": float("nan")}, "infinite or not a number"),
        ("a.b", {"control": float("inf")}, "infinite or not a number"),
        ("a.b", {"control_is": " "}, "say in control_is what the control is"),
        ("a.b", {"control_low": 0.0}, "a control's interval needs both ends"),
        ("a.b", {"control_low": 0.2, "control_high": 0.3}, "its control 0.1 lies outside the control's interval"),
        ("a.b", {"unit": ""}, "it has no unit"),
        ("a.b", {"value": 3.0, "high": 4.0}, "a share lies between 0 and 1, and 3.0 does not"),
        ("a.b", {"claim": "up"}, "claim is 'above', 'below' or empty, not 'up'"),
        ("a.b", {"published": "4 of 5"}, "name the paper of the published value in source"),
    ],
)
def test_what_is_no_finding_is_said_in_a_sentence(name: str, changes: dict, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        Finding(name, **ABOUT | changes)


def test_what_is_no_number_is_said_in_a_sentence():
    for value in ("much", torch.ones(2), [1.0], None):
        with pytest.raises(ValueError, match=r"a\.b: value must be one number, not "):
            findings._rounded(value, "a.b: value")


def test_a_share_is_made_of_true_and_false():
    with pytest.raises(ValueError, match=r"0\.5 is neither"):
        Finding.of_share("a.b", [1, 0.5], control=0.0, control_is="chance")


# ---------------------------------------------------------------------------------------------------- a notebook's file


def collect(folder: Path, names: str = "a.b a.c") -> Findings:
    """Two findings of a notebook, saved."""
    found = Findings("01_demo", folder)
    for name in names.split():
        found.add(Finding(name, **ABOUT))
    found.save()
    return found


def test_a_notebook_prints_its_findings_and_writes_them_down(tmp_path: Path, capsys: pytest.CaptureFixture):
    found = collect(tmp_path / "findings")
    *rows, end = capsys.readouterr().out.splitlines()
    assert end == "2 findings, 2 of them beyond their control, are in data/findings/01_demo.json."
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert {"name", "value", "low", "high", "control", "n", "published", "source"} <= written[0].keys()
    assert [finding.row() for finding in load_findings(found.path)] == rows and len(rows) == 2


def test_a_finding_is_shown_as_html_beside_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = []
    monkeypatch.setattr(findings, "show", lambda html, text: shown.append((html, text)))
    found = collect(tmp_path)
    assert shown == [(finding._repr_html_(), finding.row()) for finding in found.found.values()] and len(shown) == 2


def test_a_second_run_leaves_the_file_as_it_is_and_a_changed_row_rewrites_it(tmp_path: Path):
    path = collect(tmp_path).path
    first = path.read_bytes()
    path.write_bytes(first.replace(b"0.4", b"0.4001"))  # less than a row shows
    collect(tmp_path)
    assert b"0.4001" in path.read_bytes()
    collect(tmp_path, "a.b")
    assert len(load_findings(path)) == 1
    collect(tmp_path)
    assert path.read_bytes() == first


def test_a_cell_that_runs_twice_replaces_its_finding(tmp_path: Path):
    found = Findings("01_demo", tmp_path)
    for value in (0.5, 0.45):
        found.add(Finding("a.b", **ABOUT | {"value": value}))
    found.add(Finding("a.c", **ABOUT))
    found.save()
    assert [(finding.name, finding.value) for finding in load_findings(found.path)] == [("a.b", 0.45), ("a.c", 0.5)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[\n{", "01_demo.json, line 2: this is no valid JSON"),
        ("{}", "01_demo.json must hold a list of findings"),
        ("[3]", "01_demo.json, finding 1 is not written as a finding"),
        ('[{"name": "a.b"}]', "01_demo.json, finding 1 is not written as a finding"),
        (json.dumps([{"name": "a.b", **ABOUT}] * 2), "01_demo.json has two findings with the name a.b"),
        (json.dumps([{"name": "a.b", **ABOUT, "value": float("nan")}]), "01_demo.json, finding 1: a.b: a number is infinite or not"),
    ],
)
def test_a_damaged_file_is_said_in_a_sentence_and_the_next_run_mends_it(content: str, words: str, tmp_path: Path):
    (tmp_path / "01_demo.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)):
        load_all(tmp_path)
    collect(tmp_path)
    assert len(load_all(tmp_path)["01_demo"]) == 2


# ---------------------------------------------------------------------------------------------------------- the README


def test_the_readme_gets_a_table_between_its_marks_and_keeps_the_rest(tmp_path: Path):
    readme, folder = tmp_path / "README.md", tmp_path / "findings"
    readme.write_text(f"before\n\n{findings.START}\nold\n{findings.END}\n\nafter\n", encoding="utf-8")
    findings.main(readme, folder)
    assert readme.read_text(encoding="utf-8") == f"before\n\n{findings.START}\n\n{findings.NOTHING_YET}\n\n{findings.END}\n\nafter\n"
    found = collect(folder, "a.b")
    found.add(Finding("a.c", **ABOUT | {"control_is": "neurons | layer"}))
    found.save()
    findings.main(readme, folder)
    text = readme.read_text(encoding="utf-8")
    assert "| [a.b](notebooks/01_demo.ipynb) | 50 % [40 %, 60 %] | 10 % (chance) | 30 | above its control | no number |" in text
    assert r"neurons \| layer" in text and findings.NOTHING_YET not in text and text.startswith("before\n") and text.endswith("\nafter\n")
    findings.main(readme, folder)
    assert readme.read_text(encoding="utf-8") == text


def test_a_readme_without_marks_says_what_is_missing():
    with pytest.raises(ValueError, match=r"README\.md has no place for the findings"):
        findings.put_between_marks("text", "table")


def test_the_courses_readme_lists_the_courses_findings():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert findings.put_between_marks(text, findings.as_table(load_all())) == text, "make findings"


NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_file_of_a_notebook_says_what_the_notebook_printed(path: Path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    lines = [line for output in outputs for line in said(output).splitlines()]
    printed = [line for line in lines if re.match(rf"{findings.NAME.pattern}: .* \| control: ", line)]
    assert printed == [finding.row() for finding in load_all().get(path.stem, [])], (
        "run the notebook again, and give each finding its own name"
    )
