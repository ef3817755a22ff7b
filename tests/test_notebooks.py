"""Every notebook as it is committed: run in order, without errors, free of one machine's traces, and really compared by nbval."""

import re
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
PATHS = [path for path in sorted((ROOT / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
SKIPPED_BY_NBVAL = {"image/png", "image/jpeg", "image/svg+xml", "application/vnd.jupyter.widget-view+json"}
MACHINE_PATH = re.compile(r"(/(home|root|Users|tmp|work|private|var)/\w|[A-Z]:\\\\?Users)")
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def compared(cell: NotebookNode) -> bool:
    """Does nbval compare any output of this cell?"""
    if cell.execution_count is None or {"nbval-ignore-output", "nbval-skip"} & set(tags(cell)):
        return False
    data = (set(output.get("data", {})) for output in cell.outputs)
    texts = any(output.output_type == "stream" and output.text.strip() for output in cell.outputs)
    return texts or any(kinds - SKIPPED_BY_NBVAL and "application/vnd.jupyter.widget-view+json" not in kinds for kinds in data)


def share_compared(notebook: NotebookNode) -> float:
    """The share of the code cells of which nbval compares an output."""
    cells = code_cells(notebook)
    return sum(map(compared, cells)) / max(len(cells), 1)


def problems(notebook: NotebookNode, folder: Path) -> list[str]:
    """All that is wrong with a notebook, each in a sentence."""
    return [*problems_of_outputs(notebook), *problems_of_cells(notebook), *problems_of_pictures(notebook, folder)]


def problems_of_outputs(notebook: NotebookNode) -> list[str]:
    found = []
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("it was not run from top to bottom on a fresh kernel")
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {number} ends in an error")
            if output.get("name") == "stderr":
                found.append(f"code cell {number} writes to stderr: {output.text[:80]!r}")
            if MACHINE_PATH.search(str(output)):
                found.append(f"code cell {number} shows a path of one machine")
    if share_compared(notebook) < 0.6:
        found.append(f"nbval compares outputs of only {share_compared(notebook):.0%} of the code cells")
    return found


def problems_of_cells(notebook: NotebookNode) -> list[str]:
    found = [f"code cell {n} has more than 30 lines" for n, c in enumerate(code_cells(notebook), 1) if len(c.source.splitlines()) > 30]
    if "widgets" in notebook.metadata:
        found.append("saved widget state keeps GitHub from showing it")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    setups = [number for number, cell in enumerate(code_cells(notebook), 1) if "setup" in tags(cell)]
    if setups != [1]:
        found.append("its first code cell, and no other, must be the one tagged setup")
    return found


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
    print(f"{path.name}: nbval compares outputs of {share_compared(notebook):.0%} of {len(code_cells(notebook))} code cells")
    assert problems(notebook, path.parent) == []


def test_the_setup_cell_is_the_same_everywhere_and_its_address_is_the_badges():
    notebooks = [nbformat.read(path, as_version=4) for path in PATHS]
    assert len({code_cells(notebook)[0].source for notebook in notebooks}) <= 1
    for path, notebook in zip(PATHS, notebooks, strict=True):
        repository = re.search(r'REPOSITORY = "https://github.com/([^"]+)"', code_cells(notebook)[0].source)
        name = path.relative_to(ROOT).as_posix()
        assert repository and f"https://colab.research.google.com/github/{repository[1]}/blob/main/{name}" in notebook.cells[0].source


# ------------------------------------------------------------------------------------- the checks find what is wrong


def good_notebook() -> NotebookNode:
    """A notebook of two cells in which nothing is wrong."""
    outputs = [new_output("stream", name="stdout", text="3\n")]
    cells = [
        new_markdown_cell("# A question?"),
        new_code_cell("print(3)", execution_count=1, outputs=outputs, metadata={"tags": ["setup"]}),
        new_code_cell("print(3)", execution_count=2, outputs=outputs),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def png_only(notebook: NotebookNode) -> None:
    notebook.cells[2].outputs = [new_output("display_data", data={"image/png": "AAAA"})]


BROKEN = {
    "not run from top": lambda notebook: notebook.cells[2].update(execution_count=5),
    "ends in an error": lambda notebook: notebook.cells[2].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
    "writes to stderr": lambda notebook: notebook.cells[2].outputs.append(new_output("stream", name="stderr", text="50%")),
    "path of one machine": lambda notebook: notebook.cells[2].outputs.append(new_output("stream", name="stdout", text="/home/ada/x")),
    "only 50%": png_only,
    "more than 30 lines": lambda notebook: notebook.cells[2].update(source="1\n" * 31),
    "widget state": lambda notebook: notebook.metadata.update(widgets={}),
    "tagged setup": lambda notebook: notebook.cells[1].metadata.update(tags=[]),
    "no text for those": lambda notebook: notebook.cells[0].update(source="![](x.png)"),
    "not a file": lambda notebook: notebook.cells[0].update(source="![A road](https://example.org/road.png)"),
    "not written as": lambda notebook: notebook.cells[0].update(source="<img src='road.png' alt='A road'>"),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_notebook_that_is_broken_on_purpose_is_reported(sentence: str, tmp_path: Path):
    assert problems(good_notebook(), tmp_path) == []
    broken = deepcopy(good_notebook())
    BROKEN[sentence](broken)
    assert any(sentence in problem for problem in problems(broken, tmp_path))
