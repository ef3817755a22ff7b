"""A student's notebook on its way through grading: it is read whatever its state is, its cells are put in order before the tests run, and a
copy for the student has nothing of the hidden tests. nbgrader_config.py makes these the steps of nbgrader; nothing here needs nbgrader.
"""

import html
import json
import re
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

MAKE: dict[str, Callable[..., NotebookNode]] = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
COPIED, MISSING, CHANGED, TURNED = (
    "more than once in the notebook (of answers the last one that was written in counts)",
    "missing (tests are put back)",
    "test cells changed or moved (they are put back, and what was written there stays above)",
    "changed into another kind of cell (turned back)",
)
NO_CELL = "The cell of this answer was missing from the notebook. A person looks whether the answer stands in another cell."
HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?(?:END HIDDEN TESTS[^\n]*\n?|\Z)", re.MULTILINE | re.DOTALL)
TEXT = re.compile(r"""f?(?:"[^"\n]*"|'[^'\n]*')""")  # in quotes
LEFT_OUT = "[Left out here: this output repeats a part of the hidden tests.]"
STOPPED = {
    "KeyboardInterrupt": "The test was stopped: it took longer than a cell may.",
    "CellTimeoutError": "The test was stopped: it took longer than a cell may.",
    "DeadKernelError": "The kernel died, or did not stop when it was told to, before this test had run.",
}
PIECE, SHORT, LONG = 5, 4, 7  # hidden tests are known by 5 words in a row and by lines of 4, with 10 letters; and by lines of 7 words
LETTER = re.compile("[A-Za-z]")


# ----------------------------------------------------------------------------------------------------------------- to read


def read(text: str) -> NotebookNode:
    """A notebook of any age and in any state, without outputs. ValueError says in a few words why a file is none."""
    try:
        content = json.loads(text.removeprefix("\ufeff"))
    except ValueError:
        raise ValueError("it is no notebook") from None
    if isinstance(content, dict) and "worksheets" in content:
        content = modern(text)
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError("it has no cells" if isinstance(content, dict) else "it is no notebook")
    metadata = content.get("metadata")
    cells = [as_cell(cell) for cell in content["cells"] if isinstance(cell, dict)]
    return new_notebook(cells=cells, metadata=nbformat.from_dict(metadata if isinstance(metadata, dict) else {}))


def modern(text: str) -> NotebookNode:
    """A notebook of format 2 or 3 as one of format 4."""
    try:
        return nbformat.reads(text, as_version=4)
    except Exception:  # whatever is wrong in it
        raise ValueError("it is a notebook of an old format that cannot be read: open it in JupyterLab and save it again") from None


def as_cell(cell: dict[str, Any]) -> NotebookNode:
    """A cell with its text and with nbgrader's mark, if it has one; pictures that were pasted into text stay, too."""
    source, metadata, attached = cell.get("source", ""), cell.get("metadata"), cell.get("attachments")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    mark = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    kept: dict[str, Any] = {"metadata": nbformat.from_dict({"nbgrader": mark} if isinstance(mark, dict) else {})}
    if cell.get("cell_type") == "markdown" and isinstance(attached, dict):
        kept["attachments"] = nbformat.from_dict(attached)
    return MAKE.get(str(cell.get("cell_type")), new_raw_cell)(text, **kept)


# ---------------------------------------------------------------------------------------------------------- to put in order


def name(cell: NotebookNode) -> str:
    """The name by which nbgrader knows a cell; empty for all others."""
    found = cell.metadata.get("nbgrader", {}).get("grade_id")
    return found if isinstance(found, str) else ""


def is_as(cell: NotebookNode, original: NotebookNode) -> bool:
    """Is a cell just as it was given out?"""
    return (cell.cell_type, cell.source.strip()) == (original.cell_type, original.source.strip())


def mended(notebook: NotebookNode, given: NotebookNode) -> tuple[NotebookNode, dict[str, list[str]]]:
    """A submission whose cells are in order, beside what was given out: each marked cell is there once, is of its kind, and tests stand
    behind their task. Nothing that was written is lost: what does not count stays as a cell without a mark. And what was not in order.
    """
    originals = {name(cell): cell for cell in given.cells if name(cell)}
    cells = recognized(deepcopy(notebook.cells), originals)
    found: dict[str, list[str]] = {kind: [] for kind in (COPIED, MISSING, CHANGED, TURNED)}
    last: NotebookNode | None = None
    for called, original in originals.items():
        locked = original.metadata.nbgrader.get("locked")
        copies = [cell for cell in cells if name(cell) == called]
        kept = test_of(copies, original, cells, last) if locked else answer_of(copies, original)
        found[COPIED] += [called] * (len(copies) > 1)
        found[MISSING] += [called] * (not copies)
        found[CHANGED] += [called] * (kept is None and len(copies) == 1)
        found[TURNED] += [called] * (kept is not None and kept.cell_type != original.cell_type)
        cells = without_copies(cells, copies, kept, original)
        if kept is not None:
            last = as_given(original, kept.source)
            if last.cell_type == "markdown" and "attachments" in kept:
                last["attachments"] = kept.attachments
            cells[place(kept, cells)] = last
        elif locked:
            cells.insert(end_of(last, cells), last := as_given(original, original.source))
        elif original.cell_type == "markdown":
            cells.append(last := as_given(original, NO_CELL))
    metadata = {key: given.metadata[key] for key in ("kernelspec", "language_info") if key in given.metadata}
    return new_notebook(cells=cells, metadata=nbformat.from_dict(metadata)), {kind: names for kind, names in found.items() if names}


def as_given(original: NotebookNode, text: str) -> NotebookNode:
    """A cell of the kind and with the mark of the one that was given out, with some text."""
    return MAKE[original.cell_type](text, metadata=nbformat.from_dict({"nbgrader": deepcopy(original.metadata.nbgrader)}))


def without_copies(
    cells: Sequence[NotebookNode], copies: Sequence[NotebookNode], kept: NotebookNode | None, original: NotebookNode
) -> list[NotebookNode]:
    """Cells in which only the kept copy has a mark; other copies lose it, and those with the text that was given out are gone."""
    others = [copy for copy in copies if copy is not kept]
    for copy in others:
        del copy.metadata["nbgrader"]
    gone = [copy for copy in others if copy.source.strip() == original.source.strip()]
    return [cell for cell in cells if not any(cell is copy for copy in gone)]


def recognized(cells: list[NotebookNode], originals: dict[str, NotebookNode]) -> list[NotebookNode]:
    """Takes marks away that are none of this assignment, and gives tests that lost their mark, but not their text, their mark again."""
    marked = {name(cell) for cell in cells}
    for cell in cells:
        if name(cell) not in originals:
            cell.metadata.pop("nbgrader", None)
            for called, original in originals.items():
                if called not in marked and original.metadata.nbgrader.get("locked") and is_as(cell, original):
                    cell.metadata["nbgrader"] = {"grade_id": called}
                    marked.add(called)
                    break
    return cells


def answer_of(copies: Sequence[NotebookNode], original: NotebookNode) -> NotebookNode | None:
    """The copy of an answer that counts: the last one that somebody wrote in."""
    written = [copy for copy in copies if not is_as(copy, original)]
    return next(reversed(written or copies), None)


def test_of(
    copies: Sequence[NotebookNode], original: NotebookNode, cells: Sequence[NotebookNode], last: NotebookNode | None
) -> NotebookNode | None:
    """The copy of a test that stays: the first one that was not changed and stands behind what it has to stand behind."""
    start = 0 if last is None else place(last, cells)
    return next((copy for copy in copies if is_as(copy, original) and place(copy, cells) >= start), None)


def place(cell: NotebookNode, cells: Sequence[NotebookNode]) -> int:
    """Where a cell stands; cells with the same text are not the same."""
    return next(index for index, other in enumerate(cells) if other is cell)


def end_of(last: NotebookNode | None, cells: Sequence[NotebookNode]) -> int:
    """Where a test belongs: behind the cell before it and behind code that follows there; else before the first cell with a mark."""
    if last is None:
        return next((index for index, cell in enumerate(cells) if name(cell)), len(cells))
    at = place(last, cells) + 1
    while at < len(cells) and cells[at].cell_type == "code" and not name(cells[at]):
        at += 1
    return at


def told(found: dict[str, list[str]]) -> str:
    """What was not in order, in one line."""
    return "; ".join(f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' * (len(names) > 4)}" for kind, names in found.items())


def announced(notebook: NotebookNode, found: dict[str, list[str]]) -> NotebookNode:
    """A notebook that says at its top which of its cells were not in order."""
    if found:
        lines = "\n".join(f"- {kind}: {', '.join(f'`{called}`' for called in names)}" for kind, names in found.items())
        notebook.cells.insert(0, new_markdown_cell(f"**Before grading, some cells of this notebook were put in order:**\n\n{lines}"))
    return notebook


# ------------------------------------------------------------------------------------------------------------ to give back


def is_test(cell: NotebookNode) -> bool:
    """Is it a cell with hidden tests?"""
    mark = cell.metadata.get("nbgrader", {})
    return bool(mark.get("grade") and not mark.get("solution"))


def words(text: str) -> str:
    """The words and numbers of a text, with a space before and after each."""
    return f" {' '.join(re.findall('[A-Za-z0-9]+', text.replace(chr(92) + 'n', ' ')))} "


def pieces(notebook: NotebookNode) -> set[str]:
    """What only hidden tests have: runs of some words of their lines, shorter lines, and long ones. Numbers alone are no piece, and neither
    is what stands in quotes alone: tests say such texts to students.
    """
    regions = [found.group() for cell in notebook.cells if is_test(cell) for found in HIDDEN.finditer(cell.source + "\n")]
    parts = [words(line).split() for region in regions for line in region.splitlines()]
    texts = [words(text) for region in regions for text in TEXT.findall(region)]
    runs = {f" {' '.join(part[at : at + PIECE])} " for part in parts if len(part) >= SHORT for at in range(max(1, len(part) - PIECE + 1))}
    long = {f" {' '.join(part)} " for part in parts if len(part) >= LONG}
    known = words(" ".join(HIDDEN.sub("", cell.source + "\n") if is_test(cell) else cell.source for cell in notebook.cells))
    told = {run for run in runs if len(LETTER.findall(run)) >= 10} | {line for line in long if LETTER.search(line)}
    return {piece for piece in told if piece not in known and not any(piece in text for text in texts)}


def text_of(output: NotebookNode) -> str:
    """All that an output says, in every form that it has."""
    data = [value if isinstance(value, str) else json.dumps(value) for value in output.get("data", {}).values()]
    return "\n".join([output.get("text", ""), output.get("ename", ""), output.get("evalue", ""), *output.get("traceback", []), *data])


def tells(text: str, secrets: Collection[str]) -> bool:
    """Does a text repeat a piece of the hidden tests, or a name of their right answers, whatever its colours and tags are?"""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    forms = {bare, html.unescape(bare), html.unescape(re.sub(r"<[^>]*>", "", bare))}
    read = [words(form) for form in forms]
    return any(re.search(r"\b_right", form) for form in forms) or any(secret in said for said in read for secret in secrets)


def sentence(error: NotebookNode) -> str:
    """An error in one sentence, without the lines of code where it arose."""
    if error.ename == "Wrong":  # of teaching.graded, which made it a sentence
        return f"Not yet. {error.evalue}"
    return f"Not yet. {STOPPED.get(error.ename) or f'The test stopped with {brief(error)}'}"


def brief(error: NotebookNode) -> str:
    """The kind of an error and its message."""
    return f"{error.ename}: {(error.evalue.splitlines() or [''])[0][:160]}".removesuffix(": ")


def shown(output: NotebookNode, secrets: Collection[str], test: bool) -> NotebookNode:
    """An output as a student may see it: errors of tests are a sentence, and nothing repeats hidden tests."""
    error, telling = output.output_type == "error", tells(text_of(output), secrets)
    if not (telling or (error and test)):
        return output
    said = (sentence(output) if test else brief(output)) if error else LEFT_OUT
    said = LEFT_OUT if tells(said, secrets) else said
    if error:
        return new_output("error", ename=output.ename if said != LEFT_OUT else "Error", evalue="", traceback=[said])
    return new_output("stream", name="stdout", text=said)


def title(cell: NotebookNode) -> str:
    """What a graded cell is about: what the first line of a test says, or the name of the cell."""
    first = re.match(r"#[^\n:]*: ?(.+?)\.?(?:\n|\Z)", cell.source) if is_test(cell) else None
    called = cell.metadata.nbgrader["grade_id"]
    return f"{called}: {first[1]}" if first else called


def for_student(notebook: NotebookNode, unread: Collection[str] = ()) -> NotebookNode:
    """A graded notebook without hidden tests, in sources and in outputs; graded cells get a title, and say if nobody has read them yet."""
    secrets, notebook = pieces(notebook), deepcopy(notebook)
    for cell in notebook.cells:
        test = is_test(cell)
        if cell.cell_type == "code":
            cell.outputs = [shown(output, secrets, test) for output in cell.outputs]
        if test:
            cell.source = HIDDEN.sub("", cell.source + "\n").rstrip()
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.metadata.nbgrader |= {"title": title(cell), "unread": name(cell) in unread}
    return notebook
