"""Findings: declared once, measured in a line, judged by the interval of the difference; and a page that agrees."""

import json
import re
import sys
from collections.abc import Callable
from math import comb
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat import NotebookNode

from helpers import findings, stats
from helpers.findings import ABSENT, SHOWN, UNDECIDED, Declared, Finding, Findings, load_all, load_findings
from helpers.html import AMBER, GREEN, WARM
from helpers.widgets import html_to_text

ROOT = Path(__file__).parents[1]
RNG = np.random.RandomState(5)
VALUES = RNG.normal(2.0, 3.0, 300).tolist()
NUMBERS = {"value": 0.5, "low": 0.4, "high": 0.6, "control": 0.1, "n": 30}
DIFFERENCE = {"difference": 0.4, "difference_low": 0.3, "difference_high": 0.5}


@pytest.fixture(autouse=True)
def declare(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Declares ``a.b`` and ``a.c`` in place of the course's findings; a call declares them anew."""
    if "course" in request.keywords:
        return lambda **changes: None
    table = {}

    def again(**changes: object) -> None:
        table.update({name: Declared(name, **{"control_is": "chance"} | changes) for name in ("a.b", "a.c")})

    again()
    monkeypatch.setattr(findings, "declarations", lambda: table)
    return again


def made(**changes: float) -> Finding:
    return Finding("a.b", **NUMBERS | DIFFERENCE | changes)


# ------------------------------------------------------------------------------------------------------------ intervals


def test_wilsons_interval_holds_the_shares_at_which_the_count_is_not_surprising():
    """At both ends the observed count stands 1.96 standard deviations off: that is Wilson's definition."""
    for hits, n in ((7, 20), (199, 400), (1, 30)):
        for end in stats.wilson(hits, n):
            assert abs(hits - n * end) == pytest.approx(1.96 * (n * end * (1 - end)) ** 0.5, rel=1e-9)
    assert stats.wilson(0, 0) == (0, 1) and stats.wilson(0, 9)[0] == 0 and stats.wilson(9, 9)[1] == 1


def test_wilsons_interval_covers_the_truth_about_as_often_as_it_says():
    n, p = 60, 0.3
    covered = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if stats.wilson(k, n)[0] <= p <= stats.wilson(k, n)[1])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_both_intervals_of_a_mean_agree_on_a_plain_sample_and_cover_the_truth():
    normal, resampled = stats.mean_interval(VALUES), stats.bootstrap_interval(VALUES)
    assert normal[1] - normal[0] == pytest.approx(2 * 1.96 * np.std(VALUES, ddof=1) / 300**0.5)
    assert resampled == pytest.approx(normal, abs=0.1)
    samples = RNG.normal(2.0, 3.0, (200, 40))
    covered = [low <= 2.0 <= high for low, high in (stats.bootstrap_interval(sample, draws=300) for sample in samples)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_same_numbers_give_the_same_interval_and_another_seed_another_one():
    first = stats.bootstrap_interval(VALUES)
    assert first == stats.bootstrap_interval(torch.tensor(VALUES, dtype=torch.float64)) != stats.bootstrap_interval(VALUES, seed=1)


def test_pairs_see_what_two_means_do_not():
    before = np.array(VALUES)
    after = before + 0.2 + RNG.normal(0, 0.1, len(before))  # the same items, a little higher
    low, high = stats.paired_interval(after, before)
    assert 0.15 < low < 0.2 < high < 0.25
    assert stats.bootstrap_interval(after)[0] < stats.bootstrap_interval(before)[1]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292), ((0, 0, 0, 52), -0.0688, 0.0688), ((0, 52, 0, 0), 0.9027, 1.0)],
)
def test_paired_shares_have_newcombes_interval(counts: tuple[int, ...], low: float, high: float):
    """The first two as published (both, only the first, only the second, neither); the others by hand: nobody, and everybody, changed."""
    pairs = [pair for pair, count in zip(((1, 1), (1, 0), (0, 1), (0, 0)), counts, strict=True) for _ in range(count)]
    assert stats.paired_share_interval(*zip(*pairs, strict=True)) == pytest.approx((low, high), abs=1e-4)


def test_independent_shares_have_newcombes_interval_as_well():
    """56 of 70 beside 48 of 80: .0524 to .3339 (Newcombe 1998, Statistics in Medicine 17, 873, method 10)."""
    own, other = stats.wilson(56, 70), stats.wilson(48, 80)
    assert stats.difference_interval(56 / 70, own, 48 / 80, other) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_clusters_are_drawn_whole():
    values, names = np.repeat(RNG.normal(0, 1, 20), 10), np.repeat([f"text {number}" for number in range(20)], 10).tolist()
    low, high = stats.cluster_interval(values, names)
    assert high - low == pytest.approx(2 * 1.96 * values.reshape(20, 10)[:, 0].std() / 20**0.5, rel=0.2)
    assert high - low > 2 * np.diff(stats.bootstrap_interval(values))[0], "ten copies say no more than one"


# ---------------------------------------------------------------------------------------------------------- the outcome

SMALL, OPPOSITE = f"{ABSENT}, too small to matter", f"{ABSENT}, it goes the other way"
VERDICTS = [  # claim, interval of the difference, what is said; a difference of .1 matters
    ("above", (0.02, 0.3), SHOWN),
    ("above", (-0.02, 0.3), UNDECIDED),
    ("above", (-0.02, 0.08), ABSENT),
    ("above", (0.02, 0.08), SMALL),
    ("above", (-0.3, -0.2), OPPOSITE),
    ("below", (-0.3, -0.02), SHOWN),
    ("below", (-0.3, 0.02), UNDECIDED),
    ("below", (-0.08, 0.3), ABSENT),
    ("below", (-0.08, -0.02), SMALL),
    ("below", (0.02, 0.08), OPPOSITE),
    ("", (0.02, 0.3), SHOWN),
    ("", (-0.3, -0.02), SHOWN),
    ("", (-0.3, 0.02), UNDECIDED),
    ("", (-0.09, 0.09), ABSENT),
    ("", (-0.08, -0.02), SMALL),
    ("equal", (-0.09, 0.09), SHOWN),
    ("equal", (0.02, 0.09), SHOWN),  # different, and too little to matter
    ("equal", (-0.11, 0.09), UNDECIDED),
    ("equal", (0.02, 0.2), ABSENT),
    ("equal", (-0.3, -0.2), ABSENT),
]


@pytest.mark.parametrize(("claim", "interval", "verdict"), VERDICTS)
def test_the_outcome_is_about_the_interval_of_the_difference(claim: str, interval: tuple[float, float], verdict: str, declare):
    declare(claim=claim)
    found = made(difference_low=interval[0], difference_high=interval[1])
    assert found.outcome == verdict.partition(",")[0] and found.verdict == verdict
    assert f"| {verdict}: difference" in found.row() and f"{verdict}: difference" in html_to_text(found._repr_html_())


DRAWN = [  # claim, both true shares, cases, paired?, what matters; an outcome, and how often it comes, at least and at most
    ("", 0.3, 0.3, 100, "yes", 0.01, SHOWN, 0.02, 0.08),  # what is not there is shown in one case of twenty
    ("", 0.3, 0.3, 100, "no", 0.01, SHOWN, 0.02, 0.08),
    ("above", 0.3, 0.3, 100, "no", 0.01, SHOWN, 0.005, 0.045),  # or in half of that, where one side counts
    ("above", 0.5, 0.3, 100, "no", 0.1, SHOWN, 0.78, 0.90),  # by hand: the standard error is .0678, and Phi(.2 / .0678 - 1.96) = .84
    ("above", 0.5, 0.38, 100, "no", 0.1, SHOWN, 0.30, 0.50),  # by hand: Phi(.12 / .0697 - 1.96) = .41
    ("above", 0.5, 0.38, 100, "yes", 0.1, SHOWN, 0.55, 1.00),  # pairs see what independent samples do not
    ("above", 0.3, 0.3, 30, "no", 0.1, ABSENT, 0.0, 0.25),  # absence is claimed only where the effect would have been seen
    ("above", 0.3, 0.3, 1000, "no", 0.1, ABSENT, 0.95, 1.0),
    ("above", 0.4, 0.3, 300, "no", 0.1, ABSENT, 0.0, 0.05),
    ("equal", 0.3, 0.3, 1000, "no", 0.1, SHOWN, 0.95, 1.0),
    ("equal", 0.4, 0.3, 300, "no", 0.1, SHOWN, 0.0, 0.05),
]


@pytest.mark.parametrize(("claim", "own", "other", "n", "paired", "smallest", "outcome", "least", "most"), DRAWN)
def test_outcomes_come_as_often_as_they_should(claim, own, other, n, paired, smallest, outcome, least, most, declare):
    """Shares of so many cases are drawn 400 times; paired ones share half of their noise."""
    declare(claim=claim, paired=paired, smallest=smallest)
    rng, found = np.random.RandomState(1), []
    for _ in range(400):
        ease = rng.rand(2, n)
        if paired == "yes":
            ease[1] = np.where(rng.rand(n) < 0.5, ease[0], ease[1])
        found.append(findings.share("a.b", ease[0] < own, control=ease[1] < other).outcome)
    assert least <= found.count(outcome) / 400 <= most


# ---------------------------------------------------------------------------------------------------------- one finding


def test_a_share_is_counted_and_its_control_has_an_interval_of_its_own():
    found = findings.share("a.b", [True] * 30 + [False] * 10, control=torch.tensor([1, 0, 0, 0]) > 0)
    assert (found.value, found.n, found.control, found.difference) == (0.75, 40, 0.25, 0.5)
    assert (found.low, found.high) == pytest.approx(stats.wilson(30, 40), abs=1e-4)
    assert (found.control_low, found.control_high) == pytest.approx(stats.wilson(1, 4), abs=1e-4)
    assert found.outcome == SHOWN and findings.share("a.b", [True] * 3 + [False], control=[1, 0, 0, 0]).outcome == UNDECIDED
    found = findings.share("a.b", [True] * 30 + [False] * 10, control=0.25)  # a number shifts the interval
    assert (found.difference_low, found.difference_high) == pytest.approx([end - 0.25 for end in stats.wilson(30, 40)], abs=1e-3)
    assert found.control_low is None


def test_means_and_differences(declare):
    declare(unit="nats", paired="yes")
    shifted = [value + 1 for value in VALUES]
    found = findings.mean("a.b", shifted, control=VALUES)
    assert found.value == pytest.approx(np.mean(VALUES) + 1, rel=1e-3) and found.control == pytest.approx(np.mean(VALUES), rel=1e-3)
    assert (found.difference, found.difference_low, found.difference_high) == (1, 1, 1), "each pair says the same"
    own = findings.difference("a.b", shifted, control=VALUES)
    assert (own.value, own.low, own.high, own.control, own.outcome) == (1, 1, 1, 0, SHOWN)
    declare(unit="nats", paired="no")
    apart = findings.mean("a.b", shifted, control=VALUES)
    assert apart.difference_high - apart.difference_low == pytest.approx(2 * 1.96 * np.std(VALUES) * (2 / 300) ** 0.5, rel=0.1)


def test_clusters_widen_the_interval(declare):
    declare(unit="nats")
    names = [f"text {number // 10}" for number in range(300)]
    copies = np.repeat(VALUES[:30], 10)
    one, many = (findings.mean("a.b", copies, control=0.0, clusters=clusters) for clusters in ((), names))
    assert many.value == one.value and many.high - many.low > 2 * (one.high - one.low)
    one, many = (findings.mean("a.b", VALUES, control=copies, control_clusters=clusters) for clusters in ((), names))
    assert many.control_high - many.control_low > 2 * (one.control_high - one.control_low)
    assert many.difference_high - many.difference_low > 1.5 * (one.difference_high - one.difference_low)


def test_ready_made_numbers_are_taken_as_they_are(declare):
    declare(unit="correlation")
    found = findings.value("a.b", 0.5, 0.4, 0.6, 30, control=0.1, control_low=0.0, control_high=0.2)
    assert (found.difference_low, found.difference_high) == pytest.approx((0.4 - 0.1 * 2**0.5, 0.4 + 0.1 * 2**0.5), abs=1e-4)


def test_the_row_shows_no_more_digits_than_the_interval_allows(capsys: pytest.CaptureFixture, declare):
    declare(published="4 %, GPT-2", source="2405.02421", control_is="random")
    findings.share("a.b", [True] * 9 + [False] * 91, control=0.0).show()
    declare(unit="nats", published="1", source="Ada 2024", same="no")
    for half in (0.5, 0.004):
        findings.value("a.b", 3.14159, 3.14159 - half, 3.14159 + half, 12345, control=-0.0001).show()
    assert capsys.readouterr().out.splitlines() == [
        "a.b: 9 % [5 %, 16 %] | control: 0 % (random) | n = 100 | shown: difference 9 % [5 %, 16 %] | published: 4 %, GPT-2 (2405.02421)",
        "a.b: 3.1 nats [2.6, 3.6] | control: 0.0 (chance) | n = 12,345 | shown: difference 3.1 [2.6, 3.6]"
        " | published: another measure: 1 (Ada 2024)",
        "a.b: 3.142 nats [3.138, 3.146] | control: 0.000 (chance) | n = 12,345 | shown: difference 3.142 [3.138, 3.146]"
        " | published: another measure: 1 (Ada 2024)",
    ]


@pytest.mark.parametrize(
    ("interval", "mark", "colour"), [((0.3, 0.5), "✓", GREEN), ((-0.05, 0.05), "✗", WARM), ((-0.1, 0.5), "?", AMBER)], ids=str
)
def test_a_notebook_shows_question_mark_and_name_above_three_cells(interval: tuple[float, float], mark: str, colour: str, declare):
    declare(asks="Does it refuse?", published="4 of 5", source="Ada 2024")
    found = made(difference_low=interval[0], difference_high=interval[1], difference=sum(interval) / 2)
    html, row = found._repr_html_(), found.shown()
    heading = " ".join(html_to_text(html.partition("<table")[0]).split())
    assert heading == f"Does it refuse? {mark} a.b · {found.outcome}: difference {row['difference']}" and f"rgb({colour})" in html
    assert [html_to_text(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)] == [
        f"value and 95 % interval\n{row['value']}\nn = 30",
        f"control\n{row['control'].removesuffix(' (chance)')}\nchance",
        "published\n4 of 5\nAda 2024",
    ]


def test_what_words_of_a_finding_say_is_shown_and_not_obeyed(declare):
    declare(control_is="<b>x</b>", unit="<i>", published="$5 < $6", source="A & B", asks="<u>")
    html = made()._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html and "&lt;i&gt;" in html and "A &amp; B" in html and "$5" not in html and "<u>" not in html


def test_a_finding_looks_the_same_on_another_machine_and_fits_light_and_dark_pages():
    here, there = (made(value=0.5123 * (1 + noise)) for noise in (0, 1e-6))
    assert here == there and here._repr_html_() == there._repr_html_()
    assert not re.search(r"[;\"]color:|black|white[^-]|#[0-9a-f]{3}", here._repr_html_())


WRONG = [
    (lambda: made(n=0), "a.b: n is 0, and it must be 1 or more."),
    (lambda: made(low=0.7), "a.b: its interval runs from 0.7 to 0.6"),
    (lambda: made(value=0.9), "its value 0.9 lies outside its interval [0.4, 0.6]"),
    (lambda: made(value=float("nan")), "infinite or not a number"),
    (lambda: made(control=float("inf")), "infinite or not a number"),
    (lambda: made(control_low=0.0), "a control's interval needs both ends"),
    (lambda: made(control_low=0.2, control_high=0.3), "its control 0.1 lies outside the control's interval"),
    (lambda: made(value=3.0, high=4.0), "a share lies between 0 and 1, and 3.0 does not"),
    (lambda: findings._rounded(torch.ones(2), "a.b: value"), "a.b: value must be one number, not "),
    (lambda: findings.share("a.b", [1, 0.5], control=0.0), "0.5 is neither"),
    (lambda: findings.share("a.c", [1, 0, 1], control=[1, 0]), "a.c is declared as paired"),
    (lambda: findings.mean("a.c", [1, 0, 1], control=[1, 0]), "there are 3 values and 2 of the control"),
    (lambda: Declared("plural"), "'plural' is no name for a finding: write small words"),
    (lambda: Declared("Plural.x"), "'Plural.x' is no name for a finding"),
    (lambda: Declared("a.b", claim="up"), "a.b: claim is 'above', 'below', 'equal' or empty, not 'up'"),
    (lambda: Declared("a.b", smallest=0), "must be above 0"),
    (lambda: Declared("a.b", control_is=" "), "say in control_is what the control is"),
    (lambda: Declared("a.b", unit=""), "it has no unit"),
    (lambda: Declared("a.b", published="4 of 5"), "name the paper of the published value in source"),
    (lambda: stats.mean_interval([1.0]), "A single value has no interval"),
    (lambda: stats.bootstrap_interval([]), "There are no values"),
    (lambda: stats.bootstrap_interval([1.0, float("nan")]), "not a number"),
    (lambda: stats.paired_interval([1.0, 2.0], [1.0]), "equally many values on both sides; here are 2 and 1"),
]


@pytest.mark.parametrize(("call", "words"), WRONG)
def test_what_is_wrong_is_said_in_a_sentence(call: Callable[[], object], words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(findings.declarations(), "a.c", Declared("a.c", paired="yes"))
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


# ---------------------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("name,unit\na.b,share\na.b,share\n", "rows.csv has two rows with one name"),
        ("name,colour\na.b,red\n", "rows.csv: "),
        ("name,smallest\na.b,-1\n", "rows.csv: a.b: smallest, the smallest difference that would matter, must be above 0."),
    ],
)
@pytest.mark.course
def test_a_file_of_declarations_that_is_damaged_is_said_in_a_sentence(rows: str, words: str, tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)):
        findings.declarations(path)


@pytest.mark.course
def test_each_declared_finding_asks_something_and_was_measured_by_its_notebook():
    measured = {name: [finding.name for finding in found] for name, found in load_all().items()}
    declared: dict[str, list[str]] = {}
    for one in (one for one in findings.declarations().values() if one.notebook):  # others are measured by helpers.reproduce alone
        assert one.asks.endswith("?") and len(one.asks) <= 120 and one.paired in ("yes", "no", "number") and one.same in ("yes", "no", "")
        declared.setdefault(one.notebook, []).append(one.name)
    assert {name: sorted(found) for name, found in declared.items()} == {name: sorted(found) for name, found in measured.items()}


@pytest.mark.course
def test_rows_that_were_called_absent_for_overlapping_intervals_are_shown():
    """McNemar, Fisher and a bootstrap over pairs see these differences in the same data."""
    retested = ("patchscope.precision_over_linear", "sae.error.removed")
    found = {finding.name: finding.outcome for every in load_all().values() for finding in every}
    assert {name: found[name] for name in retested} == dict.fromkeys(retested, SHOWN)


@pytest.mark.course
def test_what_is_declared_is_typed_nowhere_else():
    published = [one.published for one in findings.declarations().values() if len(one.published) > 20]
    code = "\n".join(cell.source for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    code += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "helpers").rglob("*.py"))
    assert [text for text in published if text in code] == [] and "published=" not in code.replace("published=course", "")


# ---------------------------------------------------------------------------------------------------- a notebook's file


def collect(folder: Path, names: str = "a.b a.c") -> Findings:
    """Two findings of a notebook, saved."""
    found = Findings("01_demo", folder)
    for name in names.split():
        found.add(Finding(name, **NUMBERS | DIFFERENCE))
    found.save()
    return found


def test_a_notebook_shows_its_findings_and_writes_their_numbers_down(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    shown = []
    monkeypatch.setattr(findings, "show", lambda html, text: shown.append((html, text)))
    found = collect(tmp_path / "findings")
    assert capsys.readouterr().out == "2 findings (2 shown, 0 absent, 0 undecided) are in data/findings/01_demo.json.\n"
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert written[0].keys() == {"name", "value", "low", "high", "control", "n", "control_low", "control_high", *DIFFERENCE}
    assert [(finding._repr_html_(), finding.row()) for finding in load_findings(found.path)] == shown and len(shown) == 2


def test_each_way_of_measuring_is_one_line_in_a_notebook(tmp_path: Path, declare):
    declare(paired="yes", unit="nats")
    found = Findings("01_demo", tmp_path)
    for measure, values in ((found.mean, VALUES), (found.difference, VALUES), (found.share, [True] * 300)):
        measure("a.b", values, control=[0] * 300)
        assert found.found["a.b"] == getattr(findings, measure.__name__)("a.b", values, control=[0] * 300)
    found.value("a.c", 0.5, 0.4, 0.6, 30, control=0.1)
    assert list(found.found) == ["a.b", "a.c"]


def test_a_second_run_leaves_the_file_as_it_is_and_a_changed_row_rewrites_it(tmp_path: Path):
    path = collect(tmp_path).path
    first = path.read_bytes()
    path.write_bytes(first.replace(b"0.4,", b"0.4001,"))  # less than a row shows
    collect(tmp_path)
    assert b"0.4001" in path.read_bytes()
    collect(tmp_path, "a.b")
    assert len(load_findings(path)) == 1
    collect(tmp_path)
    assert path.read_bytes() == first


def test_a_cell_that_runs_twice_replaces_its_finding(tmp_path: Path):
    found = Findings("01_demo", tmp_path)
    for value in (0.5, 0.45):
        found.add(made(value=value))
    found.add(Finding("a.c", **NUMBERS | DIFFERENCE))
    found.save()
    assert [(finding.name, finding.value) for finding in load_findings(found.path)] == [("a.b", 0.45), ("a.c", 0.5)]


WHOLE = {"name": "a.b", **NUMBERS, **DIFFERENCE}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[\n{", "01_demo.json, line 2: this is no valid JSON"),
        ("{}", "01_demo.json must hold a list of findings"),
        ("[3]", "01_demo.json, finding 1 is not written as a finding"),
        ('[{"name": "a.b"}]', "01_demo.json, finding 1 is not written as a finding"),
        (json.dumps([WHOLE] * 2), "01_demo.json has two findings with the name a.b"),
        (json.dumps([WHOLE | {"value": float("nan")}]), "01_demo.json, finding 1: a.b: a number is infinite or not"),
        (json.dumps([WHOLE | {"name": "a.d"}]), "01_demo.json, finding 1: There is no finding 'a.d'"),
    ],
)
def test_a_damaged_file_is_said_in_a_sentence_and_the_next_run_mends_it(content: str, words: str, tmp_path: Path):
    (tmp_path / "01_demo.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)):
        load_all(tmp_path)
    collect(tmp_path)
    assert len(load_all(tmp_path)["01_demo"]) == 2


# ---------------------------------------------------------------------------------------------------------- the page

sys.path.insert(0, str(ROOT / "tools"))
import findings_page  # noqa: E402


def test_the_page_has_a_line_for_each_finding_and_lists_them_by_outcome(declare):
    declare(asks="Is it so?", control_is="neurons | layer")
    absent = made(difference_low=-0.05, difference_high=0.05)
    page = findings_page.page({"01_demo": [made(), absent]})
    assert "**1** ✓ shown" in page and "## [01_demo](../notebooks/01_demo.ipynb)" in page
    line = r"| ✓ shown | Is it so?<br>`a.b` | 50 % [40 %, 60 %] | 10 % (neurons \| layer) | 40 % [30 %, 50 %] | 30 | no number |"
    assert line in page.splitlines() and "**Absent** (1): `a.b`" in page and "**Undecided** (0): none" in page


@pytest.mark.course
def test_the_courses_page_and_the_rows_of_the_readme_are_up_to_date():
    found, readme = load_all(), findings_page.README.read_text(encoding="utf-8")
    assert findings_page.PAGE.read_text(encoding="utf-8") == findings_page.page(found), "make findings"
    assert readme == findings_page.with_headlines(readme, findings_page.headlines(found)), "make findings"
    assert readme.count("notebooks/") > len(findings_page.HEADLINES) == 5


def test_a_readme_without_marks_says_what_is_missing():
    with pytest.raises(ValueError, match=r"README\.md has no place for the findings"):
        findings_page.with_headlines("text", "table")


NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def said(output: NotebookNode) -> str:
    """What an output says in plain text: what was printed, or the line beside HTML (``helpers.html.show``)."""
    data = output.get("data", {})
    return output.get("text", "") or (data.get("text/plain", "") + "\n" if "text/html" in data else "")


@pytest.mark.course
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_file_of_a_notebook_says_what_the_notebook_printed(path: Path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    lines = [line for output in outputs for line in said(output).splitlines()]
    printed = [line for line in lines if re.match(rf"{findings.NAME.pattern}: .* \| control: ", line)]
    assert printed == [finding.row() for finding in load_all().get(path.stem, [])], (
        "run the notebook again, and give each finding its own name"
    )
