"""The class table from the results of the lessons' own exercises."""

import csv
import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from runpy import run_module

import pytest

from helpers.exercises import Exercise, Score
from teaching.collect import collect

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
    return list(csv.reader(StringIO(collect(folder).csv())))


def test_the_table_counts_what_is_solved_and_what_could_be(classroom: Path):
    assert table(classroom) == [
        ["student", "01 core", "01 optional", "02 core", "02 optional", "core", "optional"],
        ["ann", "2", "1", "1", "0", "3", "1"],
        ["bob", "1", "0", "0", "0", "1", "0"],
        ["eve", "0", "0", "0", "0", "0", "0"],
        ["(of)", "2", "1", "1", "0", "3", "1"],
    ]


def test_it_reads_what_a_score_writes_and_a_name_is_never_a_formula(tmp_path: Path):
    exercises = (Exercise("1.1", "one", 5, True, str), Exercise("1.2", "two", 5, False, str))
    (tmp_path / "=1+1").mkdir()
    Score("01", exercises, frozenset({"1.2"})).write(tmp_path / "=1+1" / "results.json")
    assert table(tmp_path)[1:] == [["'=1+1", "0", "1", "0", "1"], ["(of)", "1", "1", "1", "1"]]


NO_RESULTS = ["", "no json", "[]", "3", "[" * 100_000, '{"01": 3}', '{"01": {"exercises": {"a": 1}}}']
NO_RESULTS += ['{"01": {"exercises": [{"number": "1"}]}}', '{"01": {"exercises": [{"number": "a", "core": true, "solved": "yes"}]}}']


@pytest.mark.parametrize("content", NO_RESULTS, ids=range(len(NO_RESULTS)))
def test_a_file_that_no_notebook_wrote_is_named_and_holds_nobody_up(content: str, classroom: Path):
    hand_in(classroom / "zoe" / "results.json", content)
    found = collect(classroom)
    assert [problem.split(":")[0] for problem in found.problems] == [str(Path("zoe") / "results.json")]
    assert "run its last cell again" in found.problems[0]
    assert (found.count("ann", "01", core=True), found.count("zoe", "01", core=True)) == (2, 0)


@pytest.mark.parametrize(("folder", "sentence"), [("nowhere", "There is no folder"), ("empty", "There are no results in")])
def test_where_there_is_nothing_to_collect_a_sentence_says_so(folder: str, sentence: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        collect(tmp_path / folder)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``python -m teaching.collect`` with arguments: the status, and what it writes to stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["teaching.collect", *map(str, arguments)])
        sys.modules.pop("teaching.collect", None)
        with pytest.raises(SystemExit) as ended:
            run_module("teaching.collect", run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_prints_the_table_and_says_what_it_could_not_read(classroom: Path, command: Callable[..., tuple[int, str, str]]):
    hand_in(classroom / "zoe" / "results.json", "no json")
    status, out, problems = command(classroom)
    assert status == 1
    assert out.startswith("student,01 core") and "\nzoe,0,0,0,0,0,0\n" in out
    assert problems.startswith("zoe") and len(problems.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("one", "two")])
def test_the_command_explains_itself_in_one_line(arguments: tuple[str, ...], command: Callable[..., tuple[int, str, str]]):
    assert command(*arguments) == (2, "", "Write: python -m teaching.collect FOLDER\n")
