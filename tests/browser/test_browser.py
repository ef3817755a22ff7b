"""Every notebook in a real browser: run from top to bottom as a reader runs it, and each of its widgets moved by keyboard and mouse.

``make test-browser`` runs these tests; where there is no browser they are skipped with a sentence. Screenshots of every
widget and of the whole page, in a light and a dark theme, are written to tests/browser/shots (or COURSE_SHOTS).
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil
import pytest
from lab_page import SIZE, LabPage, Move
from lab_server import ROOT, Lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
SECONDS = 45  # that *Restart and run all* should take at most
PATIENCE = float(os.environ.get("COURSE_PATIENCE", 3))  # machines differ: a test fails only at that many times the seconds
MEMORY = 1.5  # GB
NARROW = 800  # pixels of half a screen
TRACK = 120  # pixels that a slider has at least, so that a hand can set it
SCREENS = int(os.environ["COURSE_SCREENS"]) if os.environ.get("COURSE_SCREENS") else None  # of each page that are pictured; None: all


@dataclass(frozen=True)
class Lesson:
    """A notebook that has run in the browser: its page, the seconds that took, the kernel's memory, and a place for screenshots."""

    name: str
    page: LabPage
    seconds: float
    memory: float
    shots: Path


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest, browser: "Browser", lab: Lab, shots: Path, note: Callable[[str], None]) -> Iterator[Lesson]:
    """Each notebook in turn, opened and run once for all tests."""
    name = request.param.relative_to(ROOT).as_posix()
    folder = shots / request.param.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    page = LabPage(browser, lab, name)
    lesson = Lesson(request.param.stem, page, page.restart_and_run_all(), peak_memory(lab), folder)
    note(f"{name}: restart and run all took {lesson.seconds:.1f} s (goal: {SECONDS} s) and {lesson.memory:.2f} GB; shots in {folder}")
    yield lesson
    page.close()
    lab.stop_kernels()


def peak_memory(lab: Lab) -> float:
    """The most memory that the kernel has held, in GB; what it holds now where the system keeps no record."""
    kernels = psutil.Process(lab.pid).children(recursive=True)
    return max((peak(kernel) for kernel in kernels), default=0.0) / 1e9


def peak(process: psutil.Process) -> int:
    """The most memory that one process has held, in bytes."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), process.memory_info().rss)


def test_every_cell_runs_without_errors_and_without_the_network(lesson: Lesson):
    assert lesson.page.problems() == []
    assert lesson.page.hosts == set()


def test_the_notebook_is_quick_and_modest(lesson: Lesson):
    assert lesson.seconds < SECONDS * PATIENCE
    assert lesson.memory < MEMORY


def test_the_page_is_pictured_in_both_themes(lesson: Lesson):
    for theme in ("Dark", "Light"):
        lesson.page.show(theme)
        lesson.page.shoot_page(lesson.shots, f"page-{theme.lower()}", SCREENS)
        for number, root in enumerate(lesson.page.widgets(), 1):
            root.screenshot(path=lesson.shots / f"widget-{number}-{theme.lower()}.png")
    assert len(list(lesson.shots.glob("page-light-*.png"))) == len(list(lesson.shots.glob("page-dark-*.png"))) > 0


def test_controls_have_room_on_half_a_screen_beside_the_list_of_files(lesson: Lesson):
    lesson.page.resize(NARROW, side_bar=True)
    try:
        for number, root in enumerate(lesson.page.widgets(), 1):
            root.screenshot(path=lesson.shots / f"widget-{number}-narrow.png")
            assert all(width >= TRACK for width in root.evaluate("root => course.tracks(root)")), f"widget {number} has a short slider"
            assert root.evaluate("root => course.overhang(root)") == 0, f"a control of widget {number} is cut off"
    finally:
        lesson.page.resize(SIZE["width"], side_bar=False)


def test_the_first_touch_of_a_widget_changes_its_picture(lesson: Lesson):
    for number, root in enumerate(lesson.page.widgets(), 1):
        for control in lesson.page.controls(root):
            if control.kind in ("slider", "dropdown"):
                assert lesson.page.move(root, control, "keyboard").ms is not None, f"widget {number}: {control}"
                break


def test_every_control_of_every_widget_changes_its_panel(lesson: Lesson, note: Callable[[str], None]):
    for number, root in enumerate(lesson.page.widgets(), 1):
        moves = lesson.page.drive(root)
        root.screenshot(path=lesson.shots / f"widget-{number}-moved.png")
        note(summary(f"{lesson.name}, widget {number}", moves))
        assert all(move.control.label for move in moves), "a control has no words beside it"
        assert root.evaluate("root => course.mute(root)") == 0, "a picture has no text for those who cannot see it"
        assert [f"{move.control} by {move.way}" for move in moves if move.ms is None] == [], "they change nothing that one can see"
        lesson.page.type_odd_texts(root)
    assert lesson.page.trouble() == []


def summary(title: str, moves: list[Move]) -> str:
    """One line about a widget: how long it took from a key or click to the new picture, and the slowest of its controls."""
    answered = [move for move in moves if move.ms is not None]
    if not answered:
        return f"{title}: nothing changed"
    slowest = max(answered, key=lambda move: move.ms)
    times = [move.ms for move in answered]
    middle = f"first {times[0]:.0f} ms, median {median(times):.0f} ms, slowest {slowest.ms:.0f} ms"
    return f"{title}: {len(answered)} of {len(moves)} moves answered; {middle} ({slowest.control} by {slowest.way})"
