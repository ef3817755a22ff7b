"""The class table from the results of the lessons' own exercises."""

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def results(**solved: bool) -> dict:
    """The facts of a notebook in which these exercises, called a, b (core) or with a later letter (optional), are solved or not."""
    rows = [{"number": number, "title": number, "core": number < "c", "minutes": 5, "solved": done} for number, done in solved.items()]
    return {"core_solved": 99, "optional_solved": 99, "exercises": rows}


def hand_in(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def classroom(tmp_path: Path) -> Path:
    """Three students: two notebooks in two files, a nested file, and a file of one's own."""
    hand_in(tmp_path / "ann" / "results.json", {"01": results(a=True, b=False, c=True)})
    hand_in(tmp_path / "ann" / "later" / "results.json", {"01": results(a=False, b=True, c=False), "02": results(a=True)})
    hand_in(tmp_path / "bob" / "notebooks" / "results.json", {"01": results(a=True, b=False, c=False)})
    hand_in(tmp_path / "eve.json", {"02": results(a=False)})
    return tmp_path


def table(folder: Path) -> list[list[str]]:
    from teaching.collect import collect

    return list(csv.reader(StringIO(collect(folder).csv())))


def test_the_table_counts_what_is_solved_and_what_could_be(classroom: Path):
    assert table(classroom) == [
        ["student", "01 core", "01 optional", "02 core", "02 optional", "core", "optional"],
        ["ann", "2", "1", "1", "0", "3", "1"],
        ["bob", "1", "0", "0", "0", "1", "0"],
        ["eve", "0", "0", "0", "0", "0", "0"],
        ["(of)", "2", "1", "1", "0", "3", "1"],
    ]


def test_it_reads_what_a_score_writes(tmp_path: Path):
    from helpers.exercises import Exercise, Score

    exercises = (Exercise("1.1", "one", 5, True, str), Exercise("1.2", "two", 5, False, str))
    (tmp_path / "ann").mkdir()
    Score("01", exercises, frozenset({"1.2"})).write(tmp_path / "ann" / "results.json")
    assert table(tmp_path)[1:] == [["ann", "0", "1", "0", "1"], ["(of)", "1", "1", "1", "1"]]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[]",
        "3",
        '{"01": 3}',
        '{"01": {"exercises": [{"number": "1"}]}}',
        '{"01": {"exercises": {"a": 1}}}',
        '{"01": {"exercises": [{"number": "a", "core": true, "solved": "yes"}]}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_no_notebook_wrote_is_named_and_holds_nobody_up(content: str, classroom: Path):
    from teaching.collect import collect

    hand_in(classroom / "zoe" / "results.json", content)
    found = collect(classroom)
    assert [problem.split(":")[0] for problem in found.problems] == [str(Path("zoe") / "results.json")]
    assert "run its last cell again" in found.problems[0]
    assert (found.count("ann", "01", core=True), found.count("zoe", "01", core=True)) == (2, 0)


def test_a_name_is_never_a_formula(tmp_path: Path):
    hand_in(tmp_path / "=1+1" / "results.json", {"01": results(a=True)})
    assert table(tmp_path)[1][0] == "'=1+1"


@pytest.mark.parametrize(("folder", "sentence"), [("nowhere", "There is no folder"), ("empty", "There are no results in")])
def test_where_there_is_nothing_to_collect_a_sentence_says_so(folder: str, sentence: str, tmp_path: Path):
    from teaching.collect import collect

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        collect(tmp_path / folder)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "teaching.collect", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_the_command_prints_the_table_and_says_what_it_could_not_read(classroom: Path):
    hand_in(classroom / "zoe" / "results.json", "no json")
    done = command(classroom)
    assert done.returncode == 1
    assert done.stdout.startswith("student,01 core") and "\nzoe,0,0,0,0,0,0\n" in done.stdout
    assert done.stderr.startswith("zoe") and len(done.stderr.splitlines()) == 1


def test_the_command_explains_itself_in_one_line():
    for arguments in ((), ("one", "two")):
        done = command(*arguments)
        assert (done.returncode, done.stderr) == (2, "Write: python -m teaching.collect FOLDER\n")
