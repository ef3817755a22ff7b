"""Runs notebooks from top to bottom and saves them with their outputs, clean of everything that belongs to one machine."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
CELL_TIMEOUT = 300  # seconds


VIEW = "application/vnd.jupyter.widget-view+json"


def clean(notebook: NotebookNode) -> None:
    """Keeps of the metadata only what every machine has in common, and of a widget only its picture.

    Saved widget state would keep GitHub from showing the file; a view without that state is shown as an error by some pages.
    """
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of the run
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)


def machine_paths(notebook: NotebookNode) -> list[str]:
    """The lines of output that name a folder of this machine."""
    outputs = [str(output) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [text[:200] for text in outputs if str(ROOT) in text or str(Path.home()) + "/" in text]


def run(path: Path) -> None:
    """Executes one notebook in its own folder and writes it back, unless it fails or shows a path of this machine."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=CELL_TIMEOUT, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
    clean(notebook)
    if lines := machine_paths(notebook):
        sys.exit(f"{path} prints a path of this machine and was not saved:\n" + "\n".join(lines))
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    """Runs the notebooks that are named, or all of them."""
    paths = [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        if ".ipynb_checkpoints" not in path.parts:
            print(f"running {path.resolve().relative_to(ROOT)}", flush=True)
            run(path)


if __name__ == "__main__":
    main(sys.argv[1:])
