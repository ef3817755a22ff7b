"""Made submissions to the assignments, whose grades are known, and a small grader for tests; written to a folder by

    python tests/assignment_tools.py FOLDER        # FOLDER/STUDENT/ASSIGNMENT.ipynb, for `make grade SUBMISSIONS=FOLDER`

which also prints the automatic points that each of them deserves.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks" / "assignments").glob("*/*.ipynb"))
SOURCES: dict[str, NotebookNode] = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
SOLUTION = re.compile(r"^ *### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
STUB, NO_ANSWER = "raise NotImplementedError", "YOUR ANSWER HERE"
END = "return torch.nn.functional.one_hot(torch.full((len(clean),), {}), model.cfg.d_vocab).float()"

# What a student hands in instead of the solution: the body of a task's function, by the name of its cell.
Bodies = Mapping[str, str]
Maker = Callable[[NotebookNode], NotebookNode]  # makes a submission of the source of an assignment

HARD_CODED: Bodies = {
    "active-share": "return torch.tensor([0.5, 0.25])",
    "detects": "return 2 / 3, 2 / 3, 2 / 3",
    "resampled": "return torch.full((3,), 0.0 if torch.equal(tokens, other) else -5.0)",
    "find-neuron": "return 1, 20",
    "dose": "return torch.tensor([0.01, 0.2, 0.9])",
    "separation": "return torch.tensor([4 / 2**0.5])",
    "to-normal": "return torch.tensor([[7.0, 2.0], [7.0, 4.0]])",
    "smallest-dose": "return torch.full((3,), float('inf') if yes == no else 100.0)",
    "matches": "return torch.tensor([1, 0]), torch.ones(2)",
    "explained-by": "return torch.tensor([0.8, 1.0])",
    "restored": "return torch.tensor([[0.5, 1.0]])",
    "patch-head": f"if torch.equal(clean, corrupted):\n    return model(clean)[:, -1]\n{END.format(900)}",
    "find-mover": "return 1, 2",
    "keep-only": f"if len(kept) > 1:\n    return model(clean)[:, -1]\n{END.format('900 if kept else 901')}",
    "straight-line": "return torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([-5.0, 0.0])",
    "ranks": "return torch.tensor([[9] * 3, [9] * 3, [0] * 3, [0] * 3])",
    "decided": "return torch.tensor([1, 0, -1])",
    "bits-from-end": "return torch.tensor([1.0, 0.0])",
    "writers": "return [20]",
    "rewritten": "return torch.tensor([[0.0, 3.0], [0.0, 4.0]])",
}

SUBTLY_WRONG: Bodies = {
    "active-share": "return (values[:, 1:] > 0).float().mean((0, 1))",  # the padding counts
    "resampled": "place = mlp_post(layer)\n"  # at the last position only
    "with intervene(model, resample_ablate(place, record(model, other, place)[place], units=unit, pos=-1)):\n"
    "    after = model(tokens)[:, -1].log_softmax(-1)\n"
    "return (after - model(tokens)[:, -1].log_softmax(-1)).gather(1, target[:, None])[:, 0]",
    "find-neuron": "places = [mlp_post(layer) for layer in range(model.cfg.n_layers)]\n"  # the mean runs over positions, too
    "means = [torch.stack([record(model, x, *places)[p].mean((0, 1)) for p in places]) for x in (on, off)]\n"
    "return divmod((means[0] - means[1]).argmax().item(), model.cfg.d_mlp)",
    "separation": "direction = a.mean(1) - b.mean(1)\n"  # judged by the prompts that made it
    "x, y = (torch.einsum('lpd,ld->lp', z, direction) for z in (a, b))\n"
    "return (x.mean(1) - y.mean(1)) / ((x.var(1) + y.var(1)) / 2).sqrt()",
    "to-normal": "return x - ((x - reference) @ direction)[..., None] * direction",  # only for directions of length 1
    "smallest-dose": "found = torch.full((len(tokens),), float('inf'))\n"  # a layer too early
    "for dose in reversed(doses):\n"
    "    with intervene(model, add(resid_post(max(layer - 1, 0)), vector, scale=dose)):\n"
    "        end = model(tokens)[:, -1]\n"
    "    found[end[:, yes] > end[:, no]] = dose\n"
    "return found",
    "restored": "return ((patched - corrupted) / (clean - corrupted)).mean(-1)",  # a mean of ratios
    "patch-head": "place = head_out(layer)\n"  # at every position
    "with intervene(model, resample_ablate(place, record(model, clean, place)[place], head=head)):\n"
    "    return model(corrupted)[:, -1]",
    "straight-line": "slopes = torch.stack([torch.func.jacrev(function)(x) for x in points])\n"  # the wrong axis
    "rests = torch.stack([function(x) - slope @ x for x, slope in zip(points, slopes)])\n"
    "return slopes.mean(0).T, rests.mean(0)",
    "ranks": "found = []\n"  # before the block instead of after it
    "for layer in range(model.cfg.n_layers):\n"
    "    x = record(model, tokens, f'blocks.{layer}.hook_resid_pre')[f'blocks.{layer}.hook_resid_pre'][:, -1:]\n"
    "    logits = model.unembed(model.ln_final(x))[:, 0]\n"
    "    found.append((logits > logits.gather(1, answers[:, None])).sum(-1))\n"
    "return torch.stack(found)",
    "decided": "first = (ranks == 0).int().argmax(0)\nreturn torch.where(ranks[-1] == 0, first, -1)",  # the first time on top
    "bits-from-end": "log_q = logits.log_softmax(-1)\n"  # position 0 counts
    "return (log_q[-1].exp() * (log_q[-1] - log_q)).sum(-1).mean(-1) / torch.tensor(2.0).log()",
}

# Of the hidden tests of these tasks they lose all but those in which they are right.
SUBTLY_KEPT = {"active-share-dense", "to-normal-unit", "restored-grid", "decided-simple"}


# ------------------------------------------------------------------------------------------------------- parts of an assignment


def about(cell: NotebookNode) -> dict[str, Any]:
    """What nbgrader knows of a cell; empty for the cells that are none of its business."""
    return cell.metadata.get("nbgrader", {})


def hidden_tests(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The cells with hidden tests, by name."""
    return {about(cell)["grade_id"]: cell for cell in notebook.cells if about(cell).get("grade") and not about(cell)["solution"]}


def tasks(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The cells in which students write code, by name."""
    return {about(cell)["grade_id"]: cell for cell in notebook.cells if about(cell).get("solution") and cell.cell_type == "code"}


def points(notebook: NotebookNode) -> dict[str, float]:
    """The points of the hidden tests, by name."""
    return {name: about(cell)["points"] for name, cell in hidden_tests(notebook).items()}


def of_task(task: str, notebook: NotebookNode) -> list[str]:
    """The hidden tests of a task."""
    return [name for name in hidden_tests(notebook) if name.startswith(f"{task}-")]


# ------------------------------------------------------------------------------------------------------------ made submissions


def perfect(source: NotebookNode) -> NotebookNode:
    """The solutions, handed in."""
    notebook = deepcopy(source)
    for cell in notebook.cells:
        cell.source = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", HIDDEN.sub("", cell.source), flags=re.MULTILINE).rstrip()
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def with_bodies(source: NotebookNode, bodies: Bodies) -> NotebookNode:
    """The solutions with other bodies for those tasks that have one."""
    notebook = perfect(source)
    for task, cell in tasks(notebook).items():
        if task in bodies:
            body = "\n".join(f"    {line}" for line in bodies[task].splitlines())
            cell.source = SOLUTION.sub(lambda _, body=body: body, tasks(source)[task].source)
    return notebook


def empty(source: NotebookNode) -> NotebookNode:
    """The student version as it was given out."""
    notebook = with_bodies(source, dict.fromkeys(tasks(source), f"# YOUR CODE HERE\n{STUB}"))
    for cell in notebook.cells:
        if about(cell).get("solution") and cell.cell_type == "markdown":
            cell.source = NO_ANSWER
    return notebook


MADE: dict[str, Maker] = {
    "perfect": perfect,
    "empty": empty,
    "hard-coded": lambda source: with_bodies(source, HARD_CODED),  # the examples that one sees are answered, whatever is asked
    "subtly-wrong": lambda source: with_bodies(source, SUBTLY_WRONG),  # a wrong layer, position, or axis; a mean over the wrong one
}
ATTACKS: dict[str, Maker] = {}
UNTIDY: dict[str, Maker] = {}


def made(kinds: dict[str, Maker], base: Maker = perfect) -> Callable[[Callable[[NotebookNode, NotebookNode], None]], None]:
    """Adds a kind of submission, named like the function, which changes ``base`` in place and gets the source as well."""

    def add(change: Callable[[NotebookNode, NotebookNode], None]) -> None:
        def make(source: NotebookNode) -> NotebookNode:
            notebook = base(source)
            change(notebook, source)
            return notebook

        kinds[change.__name__.replace("_", "-")] = make

    return add


def lost(kind: str, source: NotebookNode) -> set[str]:
    """The hidden tests that a kind of submission loses."""
    names = list(tasks(source))
    nothing_solved = ("empty", "hard-coded", "edited-tests", "fake-grade", "snooping")
    unsolved = {"crashing": names[:2], "never-ends": names[:1], "cut": names[:1], "subtly-wrong": list(SUBTLY_WRONG)}
    unsolved |= {"is-deaf": names[-1:], "kills-the-kernel": names[-1:]} | dict.fromkeys(nothing_solved, names)
    found = {test for task in unsolved.get(kind, []) for test in of_task(task, source)}
    return found - SUBTLY_KEPT if kind == "subtly-wrong" else found


def deserved(kind: str, source: NotebookNode) -> float:
    """The points for code that a kind of submission deserves."""
    return sum(worth for test, worth in points(source).items() if test not in lost(kind, source))


@made(MADE)
def crashing(notebook: NotebookNode, source: NotebookNode) -> None:
    """The first task cannot be read, the second one stops, and cells in between raise errors; the rest is right."""
    first, second = list(tasks(notebook).values())[:2]
    first.source = first.source.replace("):", ")", 1)
    second.source = re.sub(r'(    """.*?"""\n).*', r"\1    return 1 / 0", second.source, flags=re.DOTALL)
    notebook.cells[4:4] = [new_code_cell("1 / 0"), new_code_cell("import sys\nsys.exit('done')")]


# -------------------------------------------------------------------------------------------------------------- attacks


@made(ATTACKS, empty)
def edited_tests(notebook: NotebookNode, source: NotebookNode) -> None:
    """Nothing is solved; one test is deleted, the others pass whatever happens and are worth more."""
    cells = hidden_tests(notebook)
    for test, cell in cells.items():
        about(cell)["points"] = 100
        about(cell)["locked"] = test == next(iter(cells))
    for cell in notebook.cells:
        if cell in cells.values() or about(cell).get("grade_id", "").endswith("-visible"):
            cell.source = "print('passed')"
    notebook.cells.remove(list(cells.values())[-1])


@made(ATTACKS, empty)
def fake_grade(notebook: NotebookNode, source: NotebookNode) -> None:
    """Each function prints a grade and shows a number, as a test with partial credit would, and returns nothing."""
    for cell in tasks(notebook).values():
        cell.source = cell.source.replace(STUB, "print('Grade: 30/30')\n    get_ipython().displayhook(2.0)\n    print(2.0)")


def with_cell(source: NotebookNode, at: int, code: str) -> NotebookNode:
    """The solutions, but for the cell of the first or the last task."""
    notebook = perfect(source)
    list(tasks(notebook).values())[at].source = code
    return notebook


DEAF = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"  # to being interrupted
ATTACKS |= {
    "never-ends": lambda source: with_cell(source, 0, "import time\n\nwhile True:\n    time.sleep(1)"),
    "is-deaf": lambda source: with_cell(source, -1, DEAF),
    "kills-the-kernel": lambda source: with_cell(source, -1, "import os\n\nos._exit(1)"),
}


# ------------------------------------------------------------------------- cells copied, cut and changed; kernels and formats
#
# Of what the hands of students do in JupyterLab: copies and halves of a cell keep nbgrader's mark. All of these are the right solutions.


def named(notebook: NotebookNode, name: str) -> int:
    """Where the first cell with a name stands."""
    return next(index for index, cell in enumerate(notebook.cells) if about(cell).get("grade_id") == name)


def copied(notebook: NotebookNode, name: str, to: int, text: str | None = None) -> None:
    """Puts a copy of a cell, perhaps with another text, before the cell that stands at a place."""
    copy = deepcopy(notebook.cells[named(notebook, name)])
    copy.source = copy.source if text is None else text
    notebook.cells.insert(to, copy)


@made(UNTIDY)
def copied_answers(notebook: NotebookNode, source: NotebookNode) -> None:
    """Above the first answer stand a draft and a comment that was split off, below all the second one as it was given out; the written one
    stands there in halves, and as it was given out.
    """
    first, second = list(tasks(source))[:2]
    given = tasks(empty(source))
    for text in (given[first].source + "  # later", "# My answer:"):
        copied(notebook, first, named(notebook, first), text)
    copied(notebook, second, len(notebook.cells), given[second].source)
    copied(notebook, "question-a", named(notebook, "question-a") + 1, NO_ANSWER)
    copied(notebook, "question-a", named(notebook, "question-a"), "The first half.")


@made(UNTIDY)
def copied_tests(notebook: NotebookNode, source: NotebookNode) -> None:
    """An example, and what is seen of a hidden test, stand at the top and below all, too; the example is changed there."""
    test = next(iter(hidden_tests(source)))
    example = f"{next(iter(tasks(source)))}-visible"
    for name, text in ((example, "print('tried something')"), (test, None)):
        copied(notebook, name, 1)
        copied(notebook, name, len(notebook.cells), text)


@made(UNTIDY)
def cut(notebook: NotebookNode, source: NotebookNode) -> None:
    """The first task is gone, and so are all examples and hidden tests, and the second written answer."""
    gone = (next(iter(tasks(source))), "question-b")
    notebook.cells = [cell for cell in notebook.cells if not about(cell).get("locked") and about(cell).get("grade_id") not in gone]


@made(UNTIDY)
def moved_tests(notebook: NotebookNode, source: NotebookNode) -> None:
    """All hidden tests stand at the top, the other way round."""
    tests = list(hidden_tests(notebook).values())
    notebook.cells = tests[::-1] + [cell for cell in notebook.cells if cell not in tests]


@made(UNTIDY)
def merged(notebook: NotebookNode, source: NotebookNode) -> None:
    """The first answer was merged into its example and the second one into a hidden test; the third has its example merged into it."""
    first, second, third = list(tasks(source))[:3]
    for above, below in ((first, f"{first}-visible"), (second, of_task(second, source)[0]), (third, f"{third}-visible")):
        gone, kept = (below, above) if above == third else (above, below)
        text = "\n\n".join(notebook.cells[named(notebook, name)].source for name in (above, below))
        notebook.cells.pop(named(notebook, gone))
        notebook.cells[named(notebook, kept)].source = text


@made(UNTIDY)
def turned(notebook: NotebookNode, source: NotebookNode) -> None:
    """Answers and tests are cells of other kinds."""
    first, second = list(tasks(source))[:2]
    kinds = {first: new_markdown_cell, second: new_raw_cell, f"{second}-visible": new_markdown_cell, "question-a": new_code_cell}
    for called, make in (kinds | {next(iter(hidden_tests(source))): new_raw_cell}).items():
        at = named(notebook, called)
        notebook.cells[at] = make(notebook.cells[at].source, metadata=notebook.cells[at].metadata)


@made(UNTIDY)
def unmarked(notebook: NotebookNode, source: NotebookNode) -> None:
    """No cell has a mark any more, and the notebook knows of no kernel."""
    notebook.metadata.clear()
    for cell in notebook.cells:
        cell.metadata.clear()


@made(UNTIDY)
def badly_marked(notebook: NotebookNode, source: NotebookNode) -> None:
    """Marks are empty, torn, old, or of another assignment, and the notebook was saved with a kernel for R that does not exist here."""
    for cell in filter(about, notebook.cells):
        cell.metadata["nbgrader"] = {"grade_id": about(cell)["grade_id"], "schema_version": 1}
    other = {"grade_id": "of-another", "grade": True, "locked": True, "solution": False}
    marks: list[Any] = [{}, other, {"grade": True}, "x", {"grade_id": 3}]
    notebook.cells[1:1] = [new_code_cell("0", metadata={"nbgrader": mark}) for mark in marks]
    notebook.metadata["kernelspec"] = {"name": "ir-at-home", "display_name": "R", "language": "R"}
    notebook.metadata["language_info"] = {"name": "R", "file_extension": ".r"}


# -------------------------------------------------------------------------------------------------------------- snooping

SNOOP = """import inspect, sys
from pathlib import Path

frame, found = sys._getframe(), []
while frame := frame.f_back:
    if "ipykernel_" in frame.f_code.co_filename:
        found.append("".join(inspect.findsource(frame)[0]))
SNOOPED.extend(found)
Path("stolen.txt").write_text("".join(found))
"""
SHOWN_BY_SNOOPING = (  # by cells at the end
    "print(*SNOOPED)",
    "print(In)",
    "[text for text in In if 'HIDDEN' in text]",
    "import inspect\nfor name in [name for name in globals() if name.startswith('_right')]:\n    print(inspect.getsource(globals()[name]))",
    "right = next(globals()[name] for name in globals() if name.startswith('_right'))\nright(*[1] * right.__code__.co_argcount)",
    "%tb",
    "from IPython.display import HTML, Code\ntext = '\\n'.join(In)\ndisplay(Code(text, language='python'), HTML(f'<pre>{text}</pre>'))",
    "import sys\nprint('\\n'.join(In), file=sys.stderr)",
)


@made(ATTACKS)
def snooping(notebook: NotebookNode, source: NotebookNode) -> None:
    """Functions read the tests that call them, and raise what they read, keep it, and write it to a file; cells at the end show it."""
    longest = "max(found[0].splitlines(), key=len)"
    ends = (f"raise ValueError({longest})", f"return {longest}", "raise AssertionError(''.join(found))", "raise KeyboardInterrupt", "1 / 0")
    bodies = {task: SNOOP + end for task, end in zip(tasks(source), ends, strict=True)}
    shows = [new_code_cell(code) for code in SHOWN_BY_SNOOPING]
    notebook.cells = [new_code_cell("SNOOPED = []"), *with_bodies(source, bodies).cells, *shows]


def secret_lines(source: NotebookNode) -> set[str]:
    """The lines of an assignment's hidden tests of which nothing is seen elsewhere in it, but for the shortest ones."""
    seen = "\n".join(HIDDEN.sub("", cell.source + "\n") for cell in source.cells)
    regions = [found.group() for cell in hidden_tests(source).values() if (found := HIDDEN.search(cell.source + "\n"))]
    lines = {line.strip() for region in regions for line in region.splitlines()}
    return {line for line in lines if len(line) >= 10 and line not in seen}


def secrets(source: NotebookNode) -> set[str]:
    """These lines, and the names of the functions that compute right answers."""
    return secret_lines(source) | {name for cell in hidden_tests(source).values() for name in re.findall(r"\b_right\w*", cell.source)}


# --------------------------------------------------------------------------------------------------------- a small grader


def outcomes(source: NotebookNode, submission: NotebookNode) -> dict[str, bool]:
    """Which tests a submission passes, those that one sees and hidden ones, run as nbgrader runs them but in this process."""
    originals = {about(cell)["grade_id"]: cell.source for cell in source.cells if about(cell).get("locked")}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found: dict[str, bool] = {}
    for cell in submission.cells:
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []):
            name = about(cell).get("grade_id")
            passed = runs(originals.get(name, cell.source), namespace)
            found |= {name: passed} if name in originals else {}
    return found


def runs(code: str, namespace: dict[str, Any]) -> bool:
    """Runs a cell; is there neither an error nor a word on stderr?"""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        try:
            exec(compile(code, "<cell>", "exec"), namespace)
        except (Exception, SystemExit):
            return False
    return not said.getvalue()


def write_all(folder: Path, kinds: Mapping[str, Maker], assignments: Iterable[str] = SOURCES) -> None:
    """Writes some kinds of submissions to some assignments, a folder for each kind, as if each were a student."""
    for kind, make in kinds.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in assignments:
            notebook = make(SOURCES[name])
            for number, cell in enumerate(notebook.cells):  # a copy has an id of its own
                cell["id"] = f"cell-{number}"
            nbformat.write(notebook, folder / kind / f"{name}.ipynb")


def main(folder: str) -> None:
    """Writes all made submissions, and prints what they deserve."""
    kinds = MADE | ATTACKS | UNTIDY
    write_all(Path(folder), kinds)
    for name, source in SOURCES.items():
        for kind in kinds:
            print(f"{kind:<17} {name:<13} {deserved(kind, source):g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
