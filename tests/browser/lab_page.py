"""A notebook in JupyterLab as a reader has it: opened, run from top to bottom, its widgets moved by keyboard and mouse.

The driver works on every widget that is made of ipywidgets' own controls and shows its answer in an HTML or an Image.
What has to be known inside the page (``watch.js``) is asked through ``window.course``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from lab_server import Lab
    from playwright.sync_api import Browser, Locator, Page

WATCH = Path(__file__).with_name("watch.js")
SIZE = {"width": 1200, "height": 1600}
WIDGETS = ".jp-OutputArea-output:has(> .jupyter-widgets)"
SCROLLER = ".jp-NotebookPanel .jp-WindowedPanel-outer"
OPENING, ANSWERING, RUNNING = 120, 60, 600  # seconds to wait at most
ROUNDS = 3  # a control that changes nothing gets other chances, after the others have been moved

Way = Literal["keyboard", "mouse"]
WAYS: tuple[Way, ...] = ("keyboard", "mouse")
TEXTS = ("The keys to the cabinet", "Anna and Ben live in Paris.")
NUMBERS = ("2", "7")
ODD_TEXTS = ("", "   ", "🙂 مرحبا 語言", "word " * 2000, "<b>&amp;</b> NaN")


@dataclass(frozen=True)
class Control:
    """One control of a widget: its place among them, its kind (a key of ``KEYS``), and the words beside it."""

    number: int
    kind: str
    label: str

    def __str__(self) -> str:
        return f"{self.kind} {self.label!r}"


@dataclass(frozen=True)
class Move:
    """A control that was moved, and how many milliseconds later the panel showed something new (None: it never did)."""

    control: Control
    way: Way
    ms: float | None


# ---------------------------------------------------------------------------------------------- how controls are moved

# Keys that move a control of each kind. JupyterLab takes the plain up and down arrows for itself, so a list opens by Space.
KEYS: dict[str, Sequence[Sequence[str]]] = {
    "slider": (["ArrowRight"], ["ArrowLeft"], ["End"], ["Home"]),
    "dropdown": (["Space", "ArrowDown", "Enter"], ["Space", "ArrowUp", "Enter"]),
    "number": (["ArrowUp"], ["ArrowDown"]),
    "checkbox": (["Space"],),
}

Act = Callable[["Page", "Locator"], None]


def press(keys: Sequence[str]) -> Act:
    """Puts the focus on the control and presses the keys."""

    def act(page: "Page", element: "Locator") -> None:
        element.focus()
        for key in keys:
            page.keyboard.press(key)

    return act


def write(text: str, way: Way) -> Act:
    """Replaces the text of a field, and leaves it by Tab, or as a click elsewhere does (to the left of an output it would fold it)."""

    def act(page: "Page", element: "Locator") -> None:
        element.focus() if way == "keyboard" else element.click()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.type(text)
        if way == "keyboard":
            page.keyboard.press("Tab")
        else:
            element.blur()

    return act


def paste(text: str) -> Act:
    """Puts a text into a field at once, however long it is, and leaves the field by Tab."""

    def act(page: "Page", element: "Locator") -> None:
        element.fill(text)
        page.keyboard.press("Tab")

    return act


def drag(share: float) -> Act:
    """Drags a slider's handle to a place on its track, 0 at the left and 1 at the right."""

    def act(page: "Page", element: "Locator") -> None:
        handle = element.bounding_box()
        track = element.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
        height = handle["y"] + handle["height"] / 2
        page.mouse.move(handle["x"] + handle["width"] / 2, height)
        page.mouse.down()
        page.mouse.move(track["x"] + share * track["width"], height, steps=5)
        page.mouse.up()

    return act


def pick(key: str) -> Act:
    """Opens a list by a click and chooses its next or its previous entry."""

    def act(page: "Page", element: "Locator") -> None:
        element.click()
        page.keyboard.press(key)
        page.keyboard.press("Enter")

    return act


def click(page: "Page", element: "Locator") -> None:
    element.click()


def acts(kind: str, way: Way) -> list[Act]:
    """All that is tried to move a control of one kind, one after the other until the panel changes."""
    if kind == "text" or (kind == "number" and way == "mouse"):
        return [write(text, way) for text in (TEXTS if kind == "text" else NUMBERS)]
    if way == "keyboard":
        return [press(keys) for keys in KEYS[kind]]
    if kind == "slider":
        return [drag(share) for share in (0.75, 0.25)]
    if kind == "dropdown":
        return [pick(key) for key in ("ArrowDown", "ArrowUp")]
    return [click]


# -------------------------------------------------------------------------------------------------------- the notebook


class LabPage:
    """A notebook of a running ``lab``, open in the ``browser``; ``name`` is its path in the course."""

    def __init__(self, browser: "Browser", lab: "Lab", name: str) -> None:
        self.page = browser.new_page(viewport=SIZE)
        self.page.add_init_script(path=WATCH)
        self.hosts: set[str] = set()  # whom the page asked, beside the server
        self.page.on("request", lambda request: self._note(request.url, lab.url))
        self.page.goto(f"{lab.url}/lab/tree/{quote(name)}?token={lab.token}&reset", timeout=1000 * OPENING)
        self._wait("() => course.kernel()?.status === 'idle'", OPENING)
        self.command("application:toggle-left-area")

    def close(self) -> None:
        self.page.close()

    def _note(self, url: str, own: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != urlsplit(own).netloc:
            self.hosts.add(urlsplit(url).netloc)

    def _wait(self, condition: str, seconds: float) -> None:
        self.page.wait_for_function(condition, timeout=1000 * seconds, polling=50)

    def command(self, name: str, **arguments: str) -> None:
        """Calls a command of JupyterLab and waits for its end."""
        self.page.evaluate("([name, args]) => jupyterapp.commands.execute(name, args).then(() => null)", [name, arguments])

    def restart_and_run_all(self) -> float:
        """Chooses *Restart Kernel and Run All Cells* in the menu; the seconds until the last cell, or the first error."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        start = time.monotonic()
        self._wait("() => course.finished()", RUNNING)
        seconds = time.monotonic() - start
        self._wait("() => course.kernel().status === 'idle'", ANSWERING)
        self.page.evaluate("course.listen()")
        return seconds

    def problems(self) -> list[str]:
        """What went wrong while the cells ran, each in a sentence."""
        found = []
        for number, cell in enumerate(self.page.evaluate("course.cells()"), 1):
            if not cell["done"]:
                found.append(f"code cell {number} was not run")
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    found.append(f"code cell {number} ends in {output['ename']}: {output['evalue']}")
                if output.get("name") == "stderr":
                    found.append(f"code cell {number} writes to stderr: {output['text'][:200]!r}")
        return found

    def trouble(self) -> list[str]:
        """What the kernel raised or wrote to stderr since the cells have run: the tracebacks that a reader never sees."""
        return self.page.evaluate("course.trouble")

    # ------------------------------------------------------------------------------------------------------- widgets

    def widgets(self) -> list["Locator"]:
        """The widgets of the page from top to bottom, all of them drawn."""
        self._wait("() => course.drawn()", ANSWERING)
        return self.page.locator(WIDGETS).all()

    def controls(self, root: "Locator") -> list[Control]:
        """The controls of a widget that can be seen."""
        return [Control(number, **found) for number, found in enumerate(root.evaluate("root => course.controls(root)"))]

    def drive(self, root: "Locator") -> list[Move]:
        """Moves every control of a widget, by keyboard and by mouse, until each has changed the panel or had its chances."""
        controls = self.controls(root)
        moves = {(control, way): self.move(root, control, way) for control, way in product(controls, WAYS)}
        for _ in range(ROUNDS - 1):
            for other in controls if any(move.ms is None for move in moves.values()) else []:
                if moves[other, "keyboard"].ms is not None:  # moved again, so that the silent ones meet another state
                    self.move(root, other, "keyboard")
                moves |= {key: self.move(root, *key) for key, move in moves.items() if move.ms is None}
        return list(moves.values())

    def move(self, root: "Locator", control: Control, way: Way) -> Move:
        """Moves one control in one way until the panel changes."""
        for act in acts(control.kind, way):
            if (ms := self.answer(root, control, act)) is not None:
                return Move(control, way, ms)
        return Move(control, way, None)

    def answer(self, root: "Locator", control: Control, act: Act) -> float | None:
        """The milliseconds from the last key or click of ``act`` to a new panel. Raises TimeoutError for a kernel that never answers."""
        self.controls(root)  # numbers them again: a widget may have drawn them anew
        element = root.locator(f'[data-control="{control.number}"]')
        element.scroll_into_view_if_needed()
        root.evaluate("root => course.watch(root)")
        act(self.page, element)
        outcome = self.page.evaluate("limit => course.outcome(limit)", 1000 * ANSWERING)
        if not outcome["timely"]:
            raise TimeoutError(f"The {control} got no answer within {ANSWERING} s.")
        return outcome["ms"]

    def type_odd_texts(self, root: "Locator") -> None:
        """Writes into every text field what nobody expects; ``trouble`` says whether that went well."""
        for control, text in product(self.controls(root), ODD_TEXTS):
            if control.kind == "text":
                self.answer(root, control, paste(text))

    # ---------------------------------------------------------------------------------------------------- screenshots

    def resize(self, width: int, side_bar: bool) -> None:
        """Makes the window so wide, with JupyterLab's list of files beside the notebook or without."""
        self.page.set_viewport_size({"width": width, "height": SIZE["height"]})
        shown = self.page.evaluate("() => !jupyterapp.shell.leftCollapsed")
        if shown != side_bar:
            self.command("application:toggle-left-area")
        self.page.wait_for_timeout(500)  # the page is laid out anew

    def show(self, theme: Literal["Light", "Dark"]) -> None:
        """Puts on JupyterLab's light or dark theme."""
        self.command("apputils:change-theme", theme=f"JupyterLab {theme}")
        self._wait(f"() => document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'", ANSWERING)

    def shoot_page(self, folder: Path, name: str, most: int | None = None) -> None:
        """Pictures of the whole notebook, or of its first screens, screen after screen, as ``name-01.png`` and so on."""
        view = self.page.locator(SCROLLER)
        height, screen = view.evaluate("view => [view.scrollHeight, view.clientHeight]")
        for number in range(-(-height // screen))[:most]:
            view.evaluate("(view, top) => view.scrollTo(0, top)", number * screen)
            self.page.wait_for_timeout(100)
            self.page.screenshot(path=folder / f"{name}-{number + 1:02}.png")
