"""The browser and the JupyterLab that the tests in this folder share, and the lines that they report at the end."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_page import LabPage
from lab_server import Lab, serve
from nbformat.v4 import new_code_cell, new_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = (
    "--no-sandbox",  # root may not have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LINES = pytest.StashKey[list[str]]()


def installed_browser() -> str | None:
    """The path of a browser of Chromium's kind: the one named by COURSE_BROWSER, or else the first that is found."""
    found = [os.environ.get("COURSE_BROWSER"), *map(shutil.which, NAMES), str(MAC) if MAC.exists() else None]
    return next(filter(None, found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A browser without a window. The tests are skipped, with a sentence, where it cannot be had."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("Playwright is missing, so no browser can be driven: make test-browser installs it")
    if not (path := installed_browser()):
        pytest.skip("there is no Chromium or Chrome on this machine: install one (on Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab that serves a copy of the course; it starts only where there is a browser."""
    with serve(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def opened(browser: "Browser", lab: Lab) -> Iterator[Callable[..., LabPage]]:
    """Writes a notebook of the given cells into the served copy, and opens it."""
    pages = []

    def open_notebook(*sources: str) -> LabPage:
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources], metadata=kernel)
        nbformat.write(notebook, lab.course / "notebooks" / "made_up.ipynb")
        pages.append(LabPage(browser, lab, "notebooks/made_up.ipynb"))
        return pages[0]

    yield open_notebook
    for page in pages:
        page.close()
    lab.stop_kernels()


@pytest.fixture(scope="session")
def shots() -> Path:
    """The folder for screenshots: COURSE_SHOTS, or ``shots`` beside this file."""
    return Path(os.environ.get("COURSE_SHOTS") or Path(__file__).with_name("shots"))


@pytest.fixture(scope="session")
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes a line that is to be read at the end of the tests."""
    return pytestconfig.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the lines."""
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("in a real browser")
        for line in lines:
            terminalreporter.write_line(line)
