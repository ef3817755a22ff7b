"""A widget that is moved while a cell runs: the cell's numbers stay right, and the panel ends up at the widget's last setting.

JupyterLab sends what a widget says to a second thread of the kernel, so that a running cell does not hold it up, and there is one model.
ipykernel 7.0 to 7.3 answers there; from 7.4 on a change waits for the cell. `test_widgets.py` has the same with any ipykernel.
"""

import re
from collections.abc import Callable

import pytest
from lab_page import LabPage, press

pytestmark = pytest.mark.browser

WIDGET = """
import torch
from helpers.models import load_model
from helpers.one_neuron.widgets import DoseLab, dose_html

torch.set_grad_enabled(False)
model = load_model()
lab = DoseLab(model, (10, 734), "The name of the city is", highest=20.0)
lab.dose.value = 0
lab
"""

# A bare call of the model, as lessons make it, again and again while the widget is moved.
CELL = """
import time

tokens, wrong, failed, runs, end = model.to_tokens("The capital of Poland is"), 0, 0, 0, time.monotonic() + 10
reference = model(tokens)
while runs < 100 or time.monotonic() < end:
    runs += 1
    try:
        wrong += not torch.equal(model(tokens), reference)
        time.sleep(0.02)
    except Exception:
        failed += 1
print(f"{runs} runs, {wrong} wrong, {failed} failed")
"""

PANEL = """
right = dose_html(model, **lab.values())
print("right" if lab.panel.value == right else "an answer to another question", lab.dose.value, lab._awaited)
"""


def printed(page: LabPage, number: int) -> str:
    """What a cell has printed."""
    return "".join(output["text"] for output in page.page.evaluate("number => course.cells()[number].outputs", number))


def test_a_widget_that_is_moved_while_a_cell_runs_does_not_change_its_numbers(opened: Callable[..., LabPage], note: Callable[[str], None]):
    page = opened(WIDGET, CELL, PANEL)
    page.run_cell(0)
    [root] = page.widgets()
    slider = root.locator(".noUi-handle").last  # the dose
    page.run_cell(1, wait=False)
    waited = []
    for _ in range(30):
        press(["ArrowRight"])(page.page, slider)
        page.page.wait_for_timeout(60)
        waited.append("A cell is running" in root.inner_text())
        press(["ArrowLeft"])(page.page, slider)
        page.page.wait_for_timeout(60)
    press(["ArrowRight"] * 5)(page.page, slider)
    page._wait("() => course.cells()[1].count > 0 && course.kernel().status === 'idle'", 180)
    page.run_cell(2)
    note(f"a widget moved while a cell ran: {printed(page, 1).strip()}; it said that it waits at {sum(waited)} of 30 moves")
    counted = re.fullmatch(r"(\d+) runs, (\d+) wrong, (\d+) failed\n", printed(page, 1))
    assert counted and int(counted[1]) >= 100 and (counted[2], counted[3]) == ("0", "0")
    assert printed(page, 2) == "right 5.0 False\n"
    assert "A cell is running" not in root.inner_text() and "held at 5.0" in root.inner_text()
