"""What tests of exercises share: the solutions that are folded away in a notebook, run in place of the stubs, and the test of a check.

In a notebook a solution stands in a Markdown cell, folded, and the stub is the code cell that ends in the check:

    <details><summary>Solution 1.2</summary>

    ```python
    average = activations.mean(dim=(0, 1))
    ```
    </details>
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from symtable import SymbolTable, symtable
from typing import TYPE_CHECKING, Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

if TYPE_CHECKING:
    from helpers.exercises import Exercises

NUMBER = r"(?P<number>\d+[a-z]?\.\d+)"
SOLUTION = re.compile(rf"<details>\s*<summary>\s*Solution {NUMBER}[^<]*</summary>(?P<body>.*?)</details>", re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
CHECK = re.compile(rf"^check\(\s*[\"']{NUMBER}[\"']", re.MULTILINE)
ODD_ANSWERS = (None, ..., float("nan"), -1, 10**9, "", "🙂", [], {}, [..., 3], (1, "a"), object(), int, lambda *_: 1 / 0, lambda *_: None)


def solutions(path: Path) -> dict[str, str]:
    """The code of each folded solution of a notebook, by the number of its exercise."""
    found: dict[str, str] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for folded in SOLUTION.finditer(cell.source if cell.cell_type == "markdown" else ""):
            number, code = folded["number"], CODE.search(folded["body"])
            assert code, f"solution {number} of {path.name} has no block that begins with ```python"
            assert number not in found, f"{path.name} has two solutions {number}"
            found[number] = code[1]
    return found


def stubs(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The code cell of each exercise: the one that calls its check."""
    found: dict[str, NotebookNode] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and (check := CHECK.search(cell.source)):
            assert check["number"] not in found, f"two cells check exercise {check['number']}"
            found[check["number"]] = cell
    return found


def solved_cell(stub: str, solution: str) -> str:
    """The stub's cell with the solution in place: all that stands above the check gives way to it."""
    check = CHECK.search(stub)
    assert check, "the cell of an exercise ends in check(number, answer)"
    return f"{solution.rstrip()}\n{stub[check.start() :]}"


def with_solutions(path: Path) -> NotebookNode:
    """A notebook with every solution in its stub's place."""
    notebook = nbformat.read(path, as_version=4)
    code, cells = solutions(path), stubs(notebook)
    assert code.keys() == cells.keys(), f"{path.name} has solutions {sorted(code)} and stubs {sorted(cells)}"
    for number, cell in cells.items():
        cell.source = solved_cell(cell.source, code[number])
    return notebook


@dataclass(frozen=True)
class Names:
    """The names that a cell uses and those that it gives a new value."""

    used: frozenset[str]
    made: frozenset[str]


def names_of(source: str) -> Names:
    """The names of a cell, magics included."""
    code = TransformerManager().transform_cell(source)
    table = symtable(code, "<cell>", "exec")
    grown = {node.target.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)}
    made = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported() or one.is_namespace()}
    return Names(frozenset({*_used(table), *grown}), frozenset(made))


def _used(table: SymbolTable) -> Iterator[str]:
    """The names of the notebook that are read in a cell, its functions and comprehensions included."""
    for one in table.get_symbols():
        if one.is_referenced() and (table.get_type() == "module" or one.is_global()):
            yield one.get_name()
    for inner in table.get_children():
        yield from _used(inner)


def overwritten_by_solutions(path: Path) -> list[str]:
    """Names to which a solution gives another value, although cells after it use the value from before: ``"2.2: layers"``."""
    notebook = with_solutions(path)
    exercises = {id(cell): number for number, cell in stubs(notebook).items()}
    cells = [(exercises.get(id(cell)), names_of(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    for at, (number, names) in enumerate(cells):
        before = frozenset().union(*(other.made for own, other in cells[:at] if own is None))
        for name in sorted(names.made & before) if number else ():
            after = next((other for _, other in cells[at + 1 :] if name in other.used | other.made), None)
            if after and name in after.used - after.made:
                found.append(f"{number}: {name}")
    return found


def assert_exercise(
    exercises: "Exercises", number: str, solution: Any, wrong: Sequence[tuple[Any, str]], stub: Any = ..., **given: Any
) -> None:
    """A check passes on the solution, and says what is wrong with the stub, with typical wrong answers and with odd ones.

    ``wrong``: two or more answers, each with words that the explanation has to contain. ``given`` goes to the check.
    """
    assert len(wrong) >= 2, f"name two or more typical wrong answers to exercise {number}"
    verdict = exercises.exercise(number).verdict
    right = verdict(solution, **given)
    assert right.solved, f"exercise {number} rejects its own solution: {right.text}"
    for answer, words in [(stub, ""), *wrong]:
        said = verdict(answer, **given)
        assert not said.solved, f"exercise {number} accepts {answer!r}"
        assert not said.puzzled, f"exercise {number} did not foresee {answer!r}: {said.text}"
        assert words in said.text, f"exercise {number} says nothing of {words!r}, but: {said.text}"
    for answer in ODD_ANSWERS:
        said = verdict(answer, **given)
        assert not said.solved and said.text.strip(), f"exercise {number} accepts {answer!r}"
