"""The notebooks as they are committed, opened and not run: each widget is a picture with its first setting, in both themes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_page import LabPage
from lab_server import ROOT, Lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def frames(path: Path) -> list[str]:
    """What the pictures of the widgets in a notebook begin with, as text."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if 'class="course-frame"' in output.get("data", {}).get("text/html", "")]
    return [data["text/plain"].removeprefix("[").split(",")[0] for data in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_that_was_not_run_shows_each_widget_as_a_picture(path: Path, browser: "Browser", lab: Lab, shots: Path, note: Callable):
    name = f"notebooks/as-committed-{path.name}"
    shutil.copy(path, lab.course / name)
    folder = shots / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    page = LabPage(browser, lab, name)
    try:
        expected = frames(path)
        pictures = page.page.locator(".jp-OutputArea-output:has(small):has-text('This is a picture')").all()
        assert [picture.inner_text().split(". This is a picture")[0] for picture in pictures] == expected and expected
        for theme in ("Dark", "Light"):
            page.show(theme)
            for number, picture in enumerate(pictures, 1):
                picture.screenshot(path=folder / f"frame-{number}-{theme.lower()}.png")
        assert all(picture.bounding_box()["height"] > 60 for picture in pictures)
        assert "Could not render" not in page.page.inner_text(".jp-NotebookPanel")
    finally:
        page.close()
        lab.stop_kernels()
        (lab.course / name).unlink()
