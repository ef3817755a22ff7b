"""Every notebook as it is committed: run in order, without errors, free of one machine's traces, and really compared by nbval."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
PATHS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
AT_LEAST = 0.6  # of the code cells have an output that nbval compares
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = 'class="course-frame"'  # of the picture of a widget
PICTURES = {"image/png", "image/jpeg", "image/svg+xml", "image/gif"}
NOT_COMPARED = re.compile(r"^\s*#\s*(NBVAL_(IGNORE_OUTPUT|SKIP)|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", flags=re.MULTILINE)
MACHINE_PATH = re.compile(
    r"(/(home|root|Users|tmp|work|private|var|mnt|opt|srv|content)/\w|/usr/(local/)?lib/|site-packages|[A-Z]:\\+Users)"
)
MACHINE_PATH_IN_SOURCE = re.compile(r"/(home|root|Users|tmp|work)/\w")  # the setup cell names Colab's /content
WARNING = re.compile(r"\b(\w*Warning|WARNING)\b *:")
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)")
TAG = re.compile(r"<[^>]*>")  # its styles have digits and say nothing
IMG = re.compile(r"<img\b[^>]*>", flags=re.IGNORECASE)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def shows_result(output: NotebookNode) -> bool:
    """Is the output a picture or a widget?"""
    return bool((PICTURES | {WIDGET}) & set(output.get("data", {}))) or frame(output) != ""


def frame(output: NotebookNode) -> str:
    """The picture of a widget, for pages without a kernel; empty for other outputs. nbval does not compare it (tests/nbval.cfg)."""
    html = str(output.get("data", {}).get("text/html", ""))
    return html if FRAME in html else ""


def texts(output: NotebookNode) -> list[str]:
    """What an output says in words or HTML; of a picture or a widget this is what stands in for it."""
    data = {kind: text for kind, text in output.get("data", {}).items() if kind not in PICTURES | {WIDGET}}
    return [output.get("text", ""), *map(str, data.values()), *output.get("traceback", [])]


def compared_text(cell: NotebookNode) -> str:
    """What nbval compares of a cell's outputs; what stands in for a picture, the name of its type, says nothing and is left out."""
    if cell.execution_count is None or {"nbval-ignore-output", "nbval-skip"} & set(tags(cell)) or NOT_COMPARED.search(cell.source):
        return ""
    return "\n".join(text for output in cell.outputs if not shows_result(output) for text in texts(output)).strip()


def share_compared(notebook: NotebookNode) -> float:
    """The share of the code cells of which nbval compares an output."""
    cells = code_cells(notebook)
    return sum(bool(compared_text(cell)) for cell in cells) / max(len(cells), 1)


def lacks_headline(cell: NotebookNode) -> bool:
    """Does the cell show a picture and yet print no number that nbval compares?"""
    pictures = [output for output in cell.outputs if shows_result(output) and not frame(output)]
    return bool(pictures) and not re.search(r"\d", TAG.sub("", compared_text(cell)))


def problems(notebook: NotebookNode, folder: Path) -> list[str]:
    """All that is wrong with a notebook, each in a sentence."""
    return [*problems_of_outputs(notebook), *problems_of_cells(notebook), *problems_of_pictures(notebook, folder)]


def problems_of_outputs(notebook: NotebookNode) -> list[str]:
    found = []
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("it was not run from top to bottom on a fresh kernel")
    for number, cell in enumerate(cells, 1):
        found += [f"code cell {number} {problem}" for output in cell.outputs for problem in problems_of_output(output)]
        if lacks_headline(cell):
            found.append(f"code cell {number} shows a picture and prints no number beside it that nbval compares")
    if share_compared(notebook) < AT_LEAST:
        found.append(f"nbval compares outputs of only {share_compared(notebook):.0%} of the code cells")
    return found


def problems_of_output(output: NotebookNode) -> list[str]:
    said = "\n".join(texts(output))
    images = IMG.findall(str(output.get("data", {}).get("text/html", "")))
    checks = {
        "ends in an error": output.output_type == "error",
        f"writes to stderr: {said[:80]!r}": output.get("name") == "stderr",
        "has a widget's view, which pages without its kernel show as an error": WIDGET in output.get("data", {}),
        "has a widget's picture without a number, or with a failure": frame(output)
        and (not re.search(r"\d", TAG.sub("", frame(output))) or "This cannot be shown" in frame(output)),
        "shows a warning": WARNING.search(said),
        "shows a path of one machine": MACHINE_PATH.search(said),
        "has a picture in its HTML without text for those who cannot see it": any(not re.search(r'alt=["\'][^"\']', i) for i in images),
        "has HTML that loads something from elsewhere": re.search(r"<(script|iframe|link)\b|src=[\"']?(https?:)?//", said, re.IGNORECASE),
    }
    return [problem for problem, wrong in checks.items() if wrong]


def problems_of_cells(notebook: NotebookNode) -> list[str]:
    cells = code_cells(notebook)
    checks = {
        "saved widget state keeps GitHub from showing it": "widgets" in notebook.metadata,
        "its kernel is not python3": notebook.metadata.get("kernelspec", {}).get("name") != "python3",
        "its first code cell, and no other, must be the one tagged setup": [c for c in cells if "setup" in tags(c)] != cells[:1],
        "a cell names a path of one machine": any(MACHINE_PATH_IN_SOURCE.search(cell.source) for cell in notebook.cells),
    }
    found = [f"code cell {n} has more than 30 lines" for n, cell in enumerate(cells, 1) if len(cell.source.splitlines()) > 30]
    return found + [problem for problem, wrong in checks.items() if wrong]


def problems_of_pictures(notebook: NotebookNode, folder: Path) -> list[str]:
    found = []
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for picture in PICTURE.finditer(text):
        if not picture["alt"].strip():
            found.append(f"{picture['target']} has no text for those who cannot see it")
        if not (folder / picture["target"]).is_file():
            found.append(f"{picture['target']} is not a file of this repository")
    if "<img" in text or "](attachment:" in text:
        found.append("it has a picture that is not written as ![text](file)")
    return found


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_notebook_has_no_problems(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook, path.parent) == []


def test_the_setup_cell_is_the_same_everywhere_and_each_badge_opens_its_own_notebook():
    """That their address is the course's, tests/test_address.py sees to."""
    notebooks = {path.relative_to(ROOT).as_posix(): nbformat.read(path, as_version=4) for path in PATHS}
    assert len({code_cells(notebook)[0].source for notebook in notebooks.values()}) == 1
    assert [path for path, notebook in notebooks.items() if f"/blob/main/{path})" not in notebook.cells[0].source] == []


def good_notebook() -> NotebookNode:
    """A notebook of two cells in which nothing is wrong."""
    outputs = [new_output("stream", name="stdout", text="3\n")]
    cells = [
        new_markdown_cell("# A question?"),
        new_code_cell("print(3)", execution_count=1, outputs=outputs, metadata={"tags": ["setup"]}),
        new_code_cell("print(3)", execution_count=2, outputs=outputs),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def showing(kind: str, stands_for: str = "<Figure size 640x480 with 1 Axes>") -> NotebookNode:
    """An output that shows a picture or a widget."""
    return new_output("display_data", data={kind: "AAAA", "text/plain": stands_for})


def says(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def html(text: str, plain: str = "3") -> NotebookNode:
    return new_output("display_data", data={"text/html": text, "text/plain": plain})


def ends_on(*outputs: NotebookNode, **changes: object) -> Callable[[NotebookNode], None]:
    """Gives the last cell other outputs, and changes more of it."""
    return lambda notebook: notebook.cells[2].update(outputs=list(outputs), **changes)


BROKEN = {
    "not run from top": lambda notebook: notebook.cells[2].update(execution_count=5),
    "not run from top to": lambda notebook: notebook.cells[2].update(execution_count=None),
    "a cell names a path of one machine": lambda notebook: notebook.cells[2].update(source="open('/home/ada/x')"),
    "cell 2 ends in an error": ends_on(says("3"), new_output("error", ename="E", evalue="", traceback=[])),
    "cell 2 writes to stderr: '50%'": ends_on(says("3"), says("50%", name="stderr")),
    "cell 2 shows a warning": ends_on(says("UserWarning: it is 3")),
    "cell 2 shows a path of one machine": ends_on(says("3 in /home/ada/x")),
    "shows a path of": ends_on(html("3 in /usr/lib/python3")),
    "only 50%": ends_on(showing("image/png")),
    "only 50% of": ends_on(says("3"), metadata={"tags": ["nbval-ignore-output"]}),
    "cell 2 shows a picture and prints no number": ends_on(says("a fine picture:"), showing("image/png")),
    "has a widget's view": ends_on(says("3"), showing(WIDGET, "a slider from 1 to 3")),
    "has a widget's picture without a number": ends_on(says("3"), html(f"<div {FRAME}><p style='margin:3px'>A slider</p></div>")),
    "or with a failure": ends_on(says("3"), html(f"<div {FRAME}>This cannot be shown (3)</div>")),
    "prints no number beside it": ends_on(says("3"), showing("image/png"), metadata={"tags": ["nbval-ignore-output"]}),
    "without text for those": ends_on(html("3 <img src='data:image/png;base64,AAAA' alt=''>")),
    "loads something from elsewhere": ends_on(html("3 <img alt='A road' src='https://example.org/road.png'>")),
    "more than 30 lines": lambda notebook: notebook.cells[2].update(source="1\n" * 31),
    "widget state": lambda notebook: notebook.metadata.update(widgets={}),
    "kernel is not python3": lambda notebook: notebook.metadata.update(kernelspec={"name": "ada", "display_name": "Ada's"}),
    "tagged setup": lambda notebook: notebook.cells[1].metadata.update(tags=[]),
    "other, must be the one tagged setup": lambda notebook: notebook.cells[2].metadata.update(tags=["setup"]),
    "no text for those": lambda notebook: notebook.cells[0].update(source="![](x.png)"),
    "not a file": lambda notebook: notebook.cells[0].update(source="![A road](https://example.org/road.png)"),
    "not written as": lambda notebook: notebook.cells[0].update(source="<img src='road.png' alt='A road'>"),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_notebook_that_is_broken_on_purpose_is_reported(sentence: str, tmp_path: Path):
    assert problems(good_notebook(), tmp_path) == []
    broken = good_notebook()
    BROKEN[sentence](broken)
    assert any(sentence in problem for problem in problems(broken, tmp_path))


GOOD = [
    ends_on(says("3 of 4"), showing("image/png")),
    ends_on(says("three"), html(f"<div {FRAME}>Layer: 3</div>")),
    ends_on(html("<table><tr><td>3</td></tr></table>"), showing("image/png")),
    ends_on(html("3 <img src='data:image/png;base64,AAAA' alt='A road'>")),
    ends_on(says("3"), new_output("display_data", data={"image/png": "A/tmp/A"})),  # which spells a path
]


@pytest.mark.parametrize("change", GOOD)
def test_what_is_allowed_is_not_reported(change: Callable[[NotebookNode], None], tmp_path: Path):
    notebook = good_notebook()
    change(notebook)
    assert problems(notebook, tmp_path) == []


def test_of_a_widget_its_picture_is_saved_and_of_the_metadata_what_every_machine_has():
    sys.path.insert(0, str(ROOT / "tools"))
    import run_notebooks

    notebook = good_notebook()
    frame_only = {"text/html": f"<div {FRAME}>3</div>", "text/plain": "[A slider]"}
    notebook.cells[2].outputs = [new_output("display_data", data=frame_only | {WIDGET: {"model_id": "5"}})]
    notebook.metadata.update(widgets={"state": {}}, language_info={"name": "python", "version": "3.11.7"})
    run_notebooks.clean(notebook)
    assert notebook.cells[2].outputs[0].data == frame_only
    assert notebook.metadata == {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
