"""The driver finds what is wrong: a small notebook with every kind of control, and one that is broken on purpose."""

from collections.abc import Callable

import pytest
from lab_page import KEYS, LabPage

pytestmark = pytest.mark.browser

EVERY_KIND = """
import ipywidgets as w

panel = w.HTML()
controls = [
    w.IntSlider(0, min=0, max=9, description="Slider", continuous_update=False),
    w.Dropdown(options=["a", "b", "c"], description="Dropdown"),
    w.Select(options=["a", "b", "c"], description="List"),
    w.BoundedIntText(3, min=0, max=9, description="Number"),
    w.Text("x", description="Text", continuous_update=False),
    w.Checkbox(False, description="Checkbox"),
    w.ToggleButtons(options=["a", "b"], description="Choice"),
]
button = w.Button(description="Button")
pressed = []


def update(_=None):
    panel.value = f"{len(pressed)} {[control.value for control in controls]}"


for control in controls:
    control.observe(update, names="value")
button.on_click(lambda _: (pressed.append(1), update()))
w.VBox([*controls, button, panel])
"""

BROKEN = """
import ipywidgets as w

panel, dead, bad = w.HTML("<img alt=''>"), w.IntSlider(description="Dead"), w.Text(description="Bad", continuous_update=False)
follower, leader = w.IntSlider(max=9, description="Follower"), w.Checkbox(False, description="Leader")


def update(_):
    panel.value = f"<img alt=''>{leader.value} {follower.value * leader.value} {len(bad.value)}"
    if "🙂" in bad.value:
        raise ValueError("no smiling")


for control in (follower, leader, bad):
    control.observe(update, names="value")
w.VBox([dead, bad, follower, leader, panel])
"""


def test_controls_of_every_kind_are_moved_by_keyboard_and_mouse(opened: Callable[..., LabPage]):
    page = opened(EVERY_KIND)
    page.restart_and_run_all()
    moves = page.drive(page.widgets()[0])
    assert {(move.control.kind, move.way) for move in moves if move.ms} == {(k, w) for k in [*KEYS, "text"] for w in ("keyboard", "mouse")}
    assert [move.control.label.lower() for move in moves] == [move.control.kind for move in moves]
    assert page.problems() == page.trouble() == []


def test_a_dead_control_and_a_traceback_that_nobody_sees_are_found(opened: Callable[..., LabPage]):
    page = opened(BROKEN)
    page.restart_and_run_all()
    root = page.widgets()[0]
    silent = {move.control.label for move in page.drive(root) if move.ms is None}
    assert silent == {"Dead"}, "Follower moves nothing until Leader has been moved"
    assert root.evaluate("root => course.mute(root)") == 1
    assert page.trouble() == []
    page.type_odd_texts(root)
    assert any("no smiling" in text for text in page.trouble())


def test_a_cell_that_fails_and_one_that_warns_are_found(opened: Callable[..., LabPage]):
    page = opened("import sys; print('careful', file=sys.stderr)", "1 / 0", "print('never')")
    page.restart_and_run_all()
    problems = page.problems()
    assert "code cell 1 writes to stderr: 'careful\\n'" in problems
    assert "code cell 2 ends in ZeroDivisionError: division by zero" in problems
    assert "code cell 3 was not run" in problems
