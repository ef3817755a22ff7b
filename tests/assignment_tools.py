"""Made submissions to the assignments, whose grades are known, and a small grader for tests; written to a folder by

    python tests/assignment_tools.py FOLDER        # FOLDER/STUDENT/ASSIGNMENT.ipynb, for `make grade SUBMISSIONS=FOLDER`

which also prints the automatic points that each of them deserves.
"""

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks" / "assignments").glob("*/*.ipynb"))
SOLUTION = re.compile(r"^ *### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
STUB, NO_ANSWER = "raise NotImplementedError", "YOUR ANSWER HERE"
END = "return torch.nn.functional.one_hot(torch.full((len(clean),), {}), model.cfg.d_vocab).float()"

# What a student hands in instead of the solution: the body of a task's function, by the name of its cell.
Bodies = Mapping[str, str]

HARD_CODED: dict[str, Bodies] = {
    "1_one_neuron": {
        "active-share": "return torch.tensor([0.5, 0.25])",
        "detects": "return 2 / 3, 2 / 3, 2 / 3",
        "resampled": "return torch.full((3,), 0.0 if torch.equal(tokens, other) else -5.0)",
        "find-neuron": "return 1, 20",
        "dose": "return torch.tensor([0.01, 0.2, 0.9])",
    },
    "2_one_layer": {
        "separation": "return torch.tensor([4 / 2**0.5])",
        "to-normal": "return torch.tensor([[7.0, 2.0], [7.0, 4.0]])",
        "smallest-dose": "return torch.full((3,), float('inf') if yes == no else 100.0)",
        "matches": "return torch.tensor([1, 0]), torch.ones(2)",
        "explained-by": "return torch.tensor([0.8, 1.0])",
    },
    "3_a_cluster": {
        "restored": "return torch.tensor([[0.5, 1.0]])",
        "patch-head": f"if torch.equal(clean, corrupted):\n    return model(clean)[:, -1]\n{END.format(900)}",
        "find-mover": "return 1, 2",
        "keep-only": f"if len(kept) > 1:\n    return model(clean)[:, -1]\n{END.format('900 if kept else 901')}",
        "straight-line": "return torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([-5.0, 0.0])",
    },
    "4_thoughts": {
        "ranks": "return torch.tensor([[9] * 3, [9] * 3, [0] * 3, [0] * 3])",
        "decided": "return torch.tensor([1, 0, -1])",
        "bits-from-end": "return torch.tensor([1.0, 0.0])",
        "writers": "return [20]",
        "rewritten": "return torch.tensor([[0.0, 3.0], [0.0, 4.0]])",
    },
}

SUBTLY_WRONG: dict[str, Bodies] = {
    "1_one_neuron": {
        "active-share": "return (values[:, 1:] > 0).float().mean((0, 1))",  # the padding counts
        "resampled": "place = neurons(layer)\n"  # at the last position only
        "with intervene(model, resample(place, record(model, other, place)[place], units=unit, pos=-1)):\n"
        "    after = model(tokens)[:, -1].log_softmax(-1)\n"
        "return (after - model(tokens)[:, -1].log_softmax(-1)).gather(1, target[:, None])[:, 0]",
        "find-neuron": "places = [neurons(layer) for layer in range(model.cfg.n_layers)]\n"  # the mean runs over positions, too
        "means = [torch.stack([record(model, x, *places)[p].mean((0, 1)) for p in places]) for x in (on, off)]\n"
        "return divmod((means[0] - means[1]).argmax().item(), model.cfg.d_mlp)",
    },
    "2_one_layer": {
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
    },
    "3_a_cluster": {
        "restored": "return ((patched - corrupted) / (clean - corrupted)).mean(-1)",  # a mean of ratios
        "patch-head": "place = heads(layer)\n"  # at every position
        "with intervene(model, resample(place, record(model, clean, place)[place], head=head)):\n"
        "    return model(corrupted)[:, -1]",
        "straight-line": "slopes = torch.stack([torch.func.jacrev(function)(x) for x in points])\n"  # the wrong axis
        "rests = torch.stack([function(x) - slope @ x for x, slope in zip(points, slopes)])\n"
        "return slopes.mean(0).T, rests.mean(0)",
    },
    "4_thoughts": {
        "ranks": "found = []\n"  # before the block instead of after it
        "for layer in range(model.cfg.n_layers):\n"
        "    x = record(model, tokens, f'blocks.{layer}.hook_resid_pre')[f'blocks.{layer}.hook_resid_pre'][:, -1:]\n"
        "    logits = model.unembed(model.ln_final(x))[:, 0]\n"
        "    found.append((logits > logits.gather(1, answers[:, None])).sum(-1))\n"
        "return torch.stack(found)",
        "decided": "first = (ranks == 0).int().argmax(0)\nreturn torch.where(ranks[-1] == 0, first, -1)",  # the first time on top
        "bits-from-end": "log_q = logits.log_softmax(-1)\n"  # position 0 counts
        "return (log_q[-1].exp() * (log_q[-1] - log_q)).sum(-1).mean(-1) / torch.tensor(2.0).log()",
    },
}

# The graded cells that these lose; what they keep, they keep because it is right.
SUBTLY_LOST = {
    "1_one_neuron": ["active-share-padded", "resampled-course", "resampled-small", "find-neuron-small", "find-neuron-course"],
    "2_one_layer": ["separation-random", "separation-models", "to-normal-long", "smallest-dose-small", "smallest-dose-course"],
    "3_a_cluster": ["restored-uneven", "patch-head-course", "patch-head-small", "straight-line-exact", "straight-line-bent"],
    "4_thoughts": ["ranks-course", "ranks-small", "decided-again", "bits-from-end-random", "bits-from-end-edges"],
}


# ------------------------------------------------------------------------------------------------------- parts of an assignment


@dataclass(frozen=True)
class Case:
    """One task solved in some way, the rest right, and the hidden tests that this loses; ``before`` stands above the function."""

    assignment: str
    task: str
    body: str
    lost: tuple[str, ...]
    before: str = ""


CASES = {
    "ranks from 1": Case(
        "4_thoughts",
        "ranks",
        "places = [resid_post(layer) for layer in range(model.cfg.n_layers)]\n"
        "stream = record(model, tokens, *places)\n"
        "logits = torch.stack([model.unembed(model.ln_final(stream[place][:, -1:]))[:, 0] for place in places])\n"
        "return (logits >= logits.gather(-1, answers[None, :, None].expand(len(places), -1, 1))).sum(-1)",
        ("ranks-course", "ranks-small"),
    ),
    "probabilities clipped": Case(
        "4_thoughts",
        "bits-from-end",
        "p, q = logits[-1, 1:].softmax(-1).clamp(min=1e-9), logits[:, 1:].softmax(-1).clamp(min=1e-9)\n"
        "return (p * (p / q).log2()).sum(-1).mean(-1)",
        ("bits-from-end-edges",),
    ),
    "the test's own answer": Case("2_one_layer", "separation", "return _right_d(a, b)", ("separation-random", "separation-models")),
    "a tensor changed in place": Case(
        "2_one_layer",
        "to-normal",
        "unit = direction / direction.norm()\nx -= ((x - reference) @ unit)[..., None] * unit\nreturn x",
        ("to-normal-unit", "to-normal-long"),
    ),
    "right, a list turned round in place": Case(
        "2_one_layer",
        "smallest-dose",
        "found = torch.full((len(tokens),), float('inf'))\n"
        "doses.reverse()\n"
        "for dose in doses:\n"
        "    with intervene(model, add(resid_post(layer), vector, scale=dose)):\n"
        "        end = model(tokens)[:, -1]\n"
        "    found[end[:, yes] > end[:, no]] = dose\n"
        "return found",
        (),
    ),
    "right, names that a test uses, too": Case(
        "4_thoughts",
        "bits-from-end",
        "return drawn(logits[:, 1:])",
        (),
        before="def drawn(logits):\n"
        "    log_q = logits.log_softmax(-1)\n"
        "    return (log_q[-1].exp() * (log_q[-1] - log_q)).sum(-1).mean(-1) / torch.tensor(2.0).log()\n\n\n",
    ),
}


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


def with_body(cell: NotebookNode, body: str) -> None:
    """Puts a body into a task's function."""
    cell.source = SOLUTION.sub(lambda _: "\n".join(f"    {line}" for line in body.splitlines()), cell.source)


# ------------------------------------------------------------------------------------------------------------ made submissions


def perfect(source: NotebookNode, name: str) -> NotebookNode:
    """The solutions, handed in."""
    notebook = deepcopy(source)
    for cell in notebook.cells:
        cell.source = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", HIDDEN.sub("", cell.source), flags=re.MULTILINE).rstrip()
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def empty(source: NotebookNode, name: str) -> NotebookNode:
    """The student version as it was given out."""
    notebook = perfect(source, name)
    for cell, original in zip(notebook.cells, source.cells, strict=True):
        if about(original).get("solution") and cell.cell_type == "markdown":
            cell.source = NO_ANSWER
    for task, cell in tasks(notebook).items():
        cell.source = tasks(source)[task].source
        with_body(cell, f"# YOUR CODE HERE\n{STUB}")
    return notebook


def crashing(source: NotebookNode, name: str) -> NotebookNode:
    """The first task cannot be read, the second one stops, and cells in between raise errors; the rest is right."""
    notebook = perfect(source, name)
    first, second = list(tasks(notebook).values())[:2]
    first.source = first.source.replace("):", ")", 1)
    with_body(second, "")
    second.source = re.sub(r'(    """.*?"""\n).*', r"\1    return 1 / 0", second.source, flags=re.DOTALL)
    notebook.cells.insert(4, new_code_cell("1 / 0"))
    notebook.cells.insert(5, new_code_cell("import sys\nsys.exit('done')"))
    return notebook


def crash_lost(source: NotebookNode) -> list[str]:
    """The hidden tests that a crashing submission loses."""
    return [test for task in list(tasks(source))[:2] for test in of_task(task, source)]


def with_bodies(source: NotebookNode, name: str, bodies: Bodies) -> NotebookNode:
    """The solutions with other bodies for some tasks."""
    notebook = perfect(source, name)
    for task, body in bodies.items():
        cell = tasks(notebook)[task]
        cell.source = tasks(source)[task].source
        with_body(cell, body)
    return notebook


def hard_coded(source: NotebookNode, name: str) -> NotebookNode:
    """The examples that one sees are answered, whatever is asked."""
    return with_bodies(source, name, HARD_CODED[name])


def subtly_wrong(source: NotebookNode, name: str) -> NotebookNode:
    """Three mistakes that people make: a wrong layer or position, a wrong axis, a mean over the wrong dimension; the rest is right."""
    return with_bodies(source, name, SUBTLY_WRONG[name])


def of_case(case: Case, source: NotebookNode) -> NotebookNode:
    """The submission of a case."""
    notebook = with_bodies(source, case.assignment, {case.task: case.body})
    cell = tasks(notebook)[case.task]
    cell.source = case.before + cell.source
    return notebook


MADE = {"perfect": perfect, "empty": empty, "crashing": crashing, "hard-coded": hard_coded, "subtly-wrong": subtly_wrong}


def deserved(kind: str, source: NotebookNode, name: str) -> dict[str, float]:
    """The points that a made submission deserves, by hidden test."""
    everything = list(hidden_tests(source))
    lost = {"perfect": [], "empty": everything, "hard-coded": everything, "subtly-wrong": SUBTLY_LOST[name]}
    gone = crash_lost(source) if kind == "crashing" else lost[kind]
    return {test: 0 if test in gone else worth for test, worth in points(source).items()}


# -------------------------------------------------------------------------------------------------------------- attacks


def edited_tests(source: NotebookNode, name: str) -> NotebookNode:
    """Nothing is solved; one test is deleted, the others pass whatever happens and are worth more."""
    notebook = empty(source, name)
    cells = hidden_tests(notebook)
    for test, cell in cells.items():
        cell.source = "print('passed')"
        about(cell)["points"] = 100
        about(cell)["locked"] = test == next(iter(cells))
    for cell in notebook.cells:
        if about(cell).get("grade_id", "").endswith("-visible"):
            cell.source = "print('passed')"
    notebook.cells.remove(list(cells.values())[-1])
    return notebook


def fake_grade(source: NotebookNode, name: str) -> NotebookNode:
    """Each function prints a grade and shows a number, as a test with partial credit would, and returns nothing."""
    notebook = empty(source, name)
    for cell in tasks(notebook).values():
        cell.source = cell.source.replace(STUB, "print('Grade: 30/30')\n    get_ipython().displayhook(2.0)\n    print(2.0)")
    return notebook


def never_ends(source: NotebookNode, name: str) -> NotebookNode:
    """The first task's cell runs forever; the rest is right."""
    notebook = perfect(source, name)
    first = next(iter(tasks(notebook).values()))
    first.source = "import time\n\nwhile True:\n    time.sleep(1)"
    return notebook


def is_deaf(source: NotebookNode, name: str) -> NotebookNode:
    """The last task's cell runs forever, and does not stop when it is interrupted; the rest is right."""
    notebook = perfect(source, name)
    last = list(tasks(notebook).values())[-1]
    last.source = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
    return notebook


def kills_the_kernel(source: NotebookNode, name: str) -> NotebookNode:
    """The last task's cell ends the whole process; the rest is right."""
    notebook = perfect(source, name)
    list(tasks(notebook).values())[-1].source = "import os\n\nos._exit(1)"
    return notebook


ATTACKS = {
    "edited-tests": edited_tests,
    "fake-grade": fake_grade,
    "never-ends": never_ends,
    "is-deaf": is_deaf,
    "kills-the-kernel": kills_the_kernel,
}


def gained(kind: str, source: NotebookNode) -> float:
    """The points that an attack deserves: those of the tasks that it solves."""
    names = list(tasks(source))
    unsolved = {"never-ends": names[:1], "is-deaf": names[-1:], "kills-the-kernel": names[-1:]}.get(kind, names)
    return sum(points(source)[test] for task in names if task not in unsolved for test in of_task(task, source))


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


def copied_answer(source: NotebookNode, name: str) -> NotebookNode:
    """A draft of the first task stands above its answer, and a copy of the second one, as it was given out, below all."""
    notebook = perfect(source, name)
    first, second = list(tasks(source))[:2]
    copied(notebook, first, named(notebook, first), tasks(empty(source, name))[first].source + "  # later")
    copied(notebook, second, len(notebook.cells), tasks(empty(source, name))[second].source)
    return notebook


def copied_example(source: NotebookNode, name: str) -> NotebookNode:
    """An example stands at the top, too, and a changed copy of it below all."""
    notebook = perfect(source, name)
    example = f"{next(iter(tasks(source)))}-visible"
    copied(notebook, example, 1)
    copied(notebook, example, len(notebook.cells), "print('tried something')")
    return notebook


def copied_test(source: NotebookNode, name: str) -> NotebookNode:
    """What is seen of a hidden test stands at the top and below all, too."""
    notebook = perfect(source, name)
    test = next(iter(hidden_tests(source)))
    copied(notebook, test, 1)
    copied(notebook, test, len(notebook.cells))
    return notebook


def copied_text(source: NotebookNode, name: str) -> NotebookNode:
    """The first written answer stands there twice; below, as it was given out."""
    notebook = perfect(source, name)
    copied(notebook, "question-a", named(notebook, "question-a") + 1, NO_ANSWER)
    return notebook


def copied_often(source: NotebookNode, name: str) -> NotebookNode:
    """Five copies of each cell with a mark, one below the other."""
    notebook = perfect(source, name)
    notebook.cells = [deepcopy(cell) for cell in notebook.cells for _ in range(5 if about(cell) else 1)]
    return notebook


def cut_tests(source: NotebookNode, name: str) -> NotebookNode:
    """Examples, hidden tests and the second written answer are gone."""
    notebook = perfect(source, name)
    notebook.cells = [cell for cell in notebook.cells if not about(cell).get("locked") and about(cell).get("grade_id") != "question-b"]
    return notebook


def cut_task(source: NotebookNode, name: str) -> NotebookNode:
    """The first task is gone with its answer and its tests."""
    notebook = perfect(source, name)
    first = next(iter(tasks(source)))
    notebook.cells = [cell for cell in notebook.cells if not re.match(rf"{first}($|-)", about(cell).get("grade_id", ""))]
    return notebook


def moved_tests(source: NotebookNode, name: str) -> NotebookNode:
    """All hidden tests stand at the top, the other way round."""
    notebook = perfect(source, name)
    tests = [cell for cell in notebook.cells if about(cell).get("grade") and cell.cell_type == "code"]
    notebook.cells = tests[::-1] + [cell for cell in notebook.cells if cell not in tests]
    return notebook


def merged(source: NotebookNode, name: str) -> NotebookNode:
    """The first answer was merged into its example and the second one into a hidden test; the third has its example merged into it."""
    notebook = perfect(source, name)
    first, second, third = list(tasks(source))[:3]
    for answer, into in ((first, f"{first}-visible"), (second, of_task(second, source)[0]), (f"{third}-visible", third)):
        gone = notebook.cells.pop(named(notebook, answer))
        cell = notebook.cells[named(notebook, into)]
        cell.source = "\n\n".join([cell.source, gone.source][:: -1 if answer != f"{third}-visible" else 1])
    return notebook


def split(source: NotebookNode, name: str) -> NotebookNode:
    """A comment was split off below the first answer; the written one is in two halves."""
    notebook = perfect(source, name)
    first = next(iter(tasks(source)))
    copied(notebook, first, named(notebook, first), "# My answer:")
    copied(notebook, "question-a", named(notebook, "question-a"), "The first half.")
    return notebook


def turned(source: NotebookNode, name: str) -> NotebookNode:
    """Answers and tests are cells of other kinds."""
    notebook = perfect(source, name)
    first, second = list(tasks(source))[:2]
    kinds = {first: new_markdown_cell, second: new_raw_cell, f"{second}-visible": new_markdown_cell, "question-a": new_code_cell}
    for called, make in (kinds | {next(iter(hidden_tests(source))): new_raw_cell}).items():
        at = named(notebook, called)
        notebook.cells[at] = make(notebook.cells[at].source, metadata=notebook.cells[at].metadata)
    return notebook


def unmarked(source: NotebookNode, name: str) -> NotebookNode:
    """No cell has a mark any more, and the notebook knows of no kernel."""
    notebook = perfect(source, name)
    notebook.metadata.clear()
    for cell in notebook.cells:
        cell.metadata.clear()
    return notebook


def badly_marked(source: NotebookNode, name: str) -> NotebookNode:
    """Marks are empty, torn, old, or of another assignment."""
    notebook = perfect(source, name)
    other = {"grade_id": "of-another", "grade": True, "locked": True, "solution": False}
    marks: list[Any] = [{}, other, {"grade": True}, "x", {"grade_id": 3}]
    notebook.cells[1:1] = [new_code_cell("0", metadata={"nbgrader": mark}) for mark in marks]
    for cell in notebook.cells[len(marks) + 1 :]:
        if about(cell):
            cell.metadata["nbgrader"] = {"grade_id": about(cell)["grade_id"], "schema_version": 1}
    return notebook


def other_kernel(source: NotebookNode, name: str) -> NotebookNode:
    """Saved with a kernel for R that does not exist here."""
    notebook = perfect(source, name)
    notebook.metadata["kernelspec"] = {"name": "ir-at-home", "display_name": "R", "language": "R"}
    notebook.metadata["language_info"] = {"name": "R", "file_extension": ".r"}
    return notebook


UNTIDY = {
    "copied-answer": copied_answer,
    "copied-example": copied_example,
    "copied-test": copied_test,
    "copied-text": copied_text,
    "copied-often": copied_often,
    "cut-tests": cut_tests,
    "cut-task": cut_task,
    "moved-tests": moved_tests,
    "merged": merged,
    "split": split,
    "turned": turned,
    "unmarked": unmarked,
    "badly-marked": badly_marked,
    "other-kernel": other_kernel,
}


def of_untidy(kind: str, source: NotebookNode) -> float:
    """The points that an untidy notebook deserves: all, but for a task that is gone."""
    gone = of_task(next(iter(tasks(source))), source) if kind == "cut-task" else []
    return sum(worth for test, worth in points(source).items() if test not in gone)


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


def snooping(source: NotebookNode, name: str) -> NotebookNode:
    """Functions read the tests that call them, and raise what they read, keep it, and write it to a file; cells at the end show it."""
    longest = "max(found[0].splitlines(), key=len)"
    ends = (f"raise ValueError({longest})", f"return {longest}", "raise AssertionError(''.join(found))", "raise KeyboardInterrupt", "1 / 0")
    bodies = {task: SNOOP + end for task, end in zip(tasks(source), ends, strict=True)}
    notebook = with_bodies(source, name, bodies)
    notebook.cells.insert(1, new_code_cell("SNOOPED = []"))
    notebook.cells += [new_code_cell(code) for code in SHOWN_BY_SNOOPING]
    return notebook


def secret_lines(source: NotebookNode) -> set[str]:
    """The lines of an assignment's hidden tests of which nothing is seen elsewhere in it, but for the shortest ones."""
    seen = "\n".join(HIDDEN.sub("", cell.source + "\n") for cell in source.cells)
    regions = [found.group() for cell in hidden_tests(source).values() if (found := HIDDEN.search(cell.source + "\n"))]
    lines = {line.strip() for region in regions for line in region.splitlines()}
    return {line for line in lines if len(line) >= 10 and line not in seen}


def secret_names(source: NotebookNode) -> set[str]:
    """The names of the functions that compute right answers."""
    return {name for cell in hidden_tests(source).values() for name in re.findall(r"\b_right\w*", cell.source)}


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


def grades(source: NotebookNode, submission: NotebookNode) -> dict[str, float]:
    """The points of a submission, by hidden test: all of a test's, or none."""
    passed = outcomes(source, submission)
    return {name: worth * passed[name] for name, worth in points(source).items()}


def runs(code: str, namespace: dict[str, Any]) -> bool:
    """Runs a cell; is there neither an error nor a word on stderr?"""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        try:
            exec(compile(code, "<cell>", "exec"), namespace)
        except (Exception, SystemExit):
            return False
    return not said.getvalue()


def write_all(folder: Path, kinds: Mapping[str, Any], paths: list[Path]) -> None:
    """Writes some kinds of submissions to some assignments, a folder for each kind, as if each were a student."""
    for path in paths:
        source = nbformat.read(path, as_version=4)
        for kind, make in kinds.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            notebook = make(source, path.stem)
            for number, cell in enumerate(notebook.cells):  # a copy has an id of its own
                cell["id"] = f"cell-{number}"
            nbformat.write(notebook, folder / kind / path.name)


def main(folder: str) -> None:
    """Writes all made submissions, and prints what they deserve."""
    write_all(Path(folder), MADE | ATTACKS | UNTIDY | {"snooping": snooping}, PATHS)
    for path in PATHS:
        source = nbformat.read(path, as_version=4)
        for kind in MADE:
            print(f"{kind:<17} {path.stem:<13} {sum(deserved(kind, source, path.stem).values()):g}")
        for kind in ATTACKS:
            print(f"{kind:<17} {path.stem:<13} {gained(kind, source):g}")
        for kind in UNTIDY:
            print(f"{kind:<17} {path.stem:<13} {of_untidy(kind, source):g}")
        print(f"{'snooping':<17} {path.stem:<13} 0")


if __name__ == "__main__":
    main(*sys.argv[1:])
