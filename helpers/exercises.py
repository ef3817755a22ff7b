"""Exercises: cards, checks that explain, and a score. The exercises of a notebook stand in a module of their own beside this one:

    exercises = Exercises("01_one_neuron")                   # helpers/one_neuron/exercises_01.py
    exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

    @exercises.add("1.2", "Write mean ablation", minutes=8)
    def mean_ablation(answer: Any) -> str:
        average = expect_tensor(answer, 1024, what="your average")
        expect_nonzero(average, "your average")
        ...
        return "The average is right, and it is not 0: so 0 is no neutral value."

A check is a plain function: it returns a sentence for a right answer and raises ``NotYet`` with an explanation for any other
(``helpers.answers`` has tools for that). In the notebook ``exercise("1.2")`` shows the card, and the reader's cell ends
in ``check("1.2", answer)``. Whatever the answer is, the reader gets a sentence and never a traceback.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.answers import NotYet, untouched
from helpers.html import AMBER, COLD, GREEN, boxed, prose, show
from helpers.inputs import chosen

NUMBER = re.compile(r"\d+[a-z]?\.\d+")
RESULTS = "results.json"
CELL = "text-align:left;vertical-align:top;padding:2px 10px"  # of the score


@dataclass(frozen=True)
class Verdict:
    """What a check says about an answer. ``puzzled``: the answer stopped the check in a way that it did not foresee."""

    solved: bool
    text: str
    puzzled: bool = False

    def __str__(self) -> str:
        """The verdict as text."""
        return f"{'Solved' if self.solved else 'Not yet'}. {self.text}"

    def html(self, name: str) -> str:
        """The verdict as a notebook shows it; ``name`` is the exercise's own."""
        sign, colour = ("✓ Solved", GREEN) if self.solved else ("… Not yet", AMBER)
        return boxed(f"<b>{sign}</b> · {prose(name)}<br>{prose(self.text)}", colour)


@dataclass(frozen=True, repr=False)
class Exercise:
    """One exercise; shown in a notebook, it is a card. ``solved``: has this session solved it?"""

    number: str
    title: str
    minutes: int
    core: bool
    check: Callable[..., str]
    solved: bool = False

    @property
    def name(self) -> str:
        """Its number and its title."""
        return f"Exercise {self.number}: {self.title}"

    @property
    def kind(self) -> str:
        """``core`` or ``optional``."""
        return "core" if self.core else "optional"

    def __repr__(self) -> str:
        """The card as text."""
        return f"{self.name} ({self.kind}, about {self.minutes} minutes{', solved' if self.solved else ''})"

    def _repr_html_(self) -> str:
        """The card as a notebook shows it."""
        solved, colour = (" · <b>✓ solved</b>", GREEN) if self.solved else ("", COLD)
        return boxed(f"<b>{prose(self.name)}</b><br>{self.kind}, about {self.minutes} minutes{solved}", colour)

    def verdict(self, answer: Any, **given: Any) -> Verdict:
        """Checks an answer of whatever kind; ``given`` is what the check needs besides, such as the model. Never raises."""
        try:
            if untouched(answer):
                raise NotYet("There is still a `...` to fill in: put your own answer there, then run the cell again.")
            return Verdict(True, self.check(answer, **given))
        except NotYet as problem:
            return Verdict(False, str(problem))
        except (Exception, SystemExit) as problem:
            reason = f"{type(problem).__name__}, {(str(problem).splitlines() or ['no message'])[0][:160]}"
            return Verdict(False, f"This answer puzzles the check ({reason}): is it of the kind that the exercise asks for?", puzzled=True)


@dataclass(frozen=True)
class Score:
    """Which exercises of a notebook are solved."""

    notebook: str
    exercises: tuple[Exercise, ...]
    solved: frozenset[str]

    def count(self, core: bool) -> tuple[int, int]:
        """How many core (or optional) exercises are solved, and how many there are."""
        numbers = [exercise.number for exercise in self.exercises if exercise.core == core]
        return sum(number in self.solved for number in numbers), len(numbers)

    def table(self) -> str:
        """One line for each exercise, and the sum."""
        width = max((len(exercise.title) for exercise in self.exercises), default=0)
        lines = [
            f"{e.number:>5}  {e.title:<{width}}  {e.kind:<8}  {e.minutes:>3} min  {'solved' if e.number in self.solved else 'not yet'}"
            for e in self.exercises
        ]
        return "\n".join([*lines, self.total()])

    def total(self) -> str:
        """How many exercises are solved, in a sentence."""
        (core, of_core), (more, of_more) = self.count(core=True), self.count(core=False)
        return f"Solved: {core} of {of_core} core exercises, {more} of {of_more} optional ones."

    def html(self) -> str:
        """The table as a notebook shows it, with ✓ for what is solved."""
        rows = []
        for e in self.exercises:
            result, tint = ("✓&nbsp;solved", f"rgba({GREEN},0.15)") if e.number in self.solved else ("…&nbsp;not&nbsp;yet", "none")
            cells = (e.number, prose(e.title), e.kind, f"{e.minutes}&nbsp;min", result)
            rows.append(f'<tr style="background:{tint}">' + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>")
        return f'<table style="border-collapse:collapse;margin:4px 0"><tbody>{"".join(rows)}</tbody></table>'

    def facts(self) -> dict[str, Any]:
        """The same for a file."""
        rows = [
            {"number": e.number, "title": e.title, "core": e.core, "minutes": e.minutes, "solved": e.number in self.solved}
            for e in self.exercises
        ]
        return {"core_solved": self.count(core=True)[0], "optional_solved": self.count(core=False)[0], "exercises": rows}

    def write(self, path: Path) -> None:
        """Writes the facts under the notebook's name, and leaves what the file says of other notebooks."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        results = (known if isinstance(known, dict) else {}) | {self.notebook: self.facts()}
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


class Exercises:
    """The exercises of one notebook, and which of them this session has solved."""

    def __init__(self, notebook: str) -> None:
        """``notebook`` is the notebook's name without its ending."""
        self.notebook = notebook
        self.known: dict[str, Exercise] = {}
        self.solved: set[str] = set()

    def add(self, number: str, title: str, minutes: int, core: bool = True) -> Callable[[Callable[..., str]], Callable[..., str]]:
        """Makes the decorated check an exercise. Raises ValueError for a number that is taken or is none."""
        if not NUMBER.fullmatch(number) or number in self.known:
            what = "taken" if number in self.known else "none"
            raise ValueError(f"An exercise needs a number of its own such as 1.2, and {number!r} is {what}.")

        def register(check: Callable[..., str]) -> Callable[..., str]:
            self.known[number] = Exercise(number, title, minutes, core, check)
            return check

        return register

    def exercise(self, number: str) -> Exercise:
        """The exercise of this number, whose card a notebook shows. Raises ValueError where there is none."""
        return replace(chosen(self.known, number, "exercise"), solved=number in self.solved)

    def check(self, number: str, answer: Any, **given: Any) -> None:
        """Shows what the check says about ``answer``, and remembers what is solved."""
        exercise = self.exercise(number)
        verdict = exercise.verdict(answer, **given)
        if verdict.solved:
            self.solved.add(number)
        show(verdict.html(exercise.name), str(verdict))

    def score(self) -> Score:
        """Which exercises this session has solved."""
        return Score(self.notebook, tuple(self.known.values()), frozenset(self.solved))

    def score_table(self, folder: Path = Path()) -> None:
        """Shows the score and writes it to ``results.json`` in ``folder``, which is the notebook's own."""
        score = self.score()
        score.write(folder / RESULTS)
        same = f"The same is in {RESULTS}."
        show(f"{score.html()}<p>{score.total()} {same}</p>", f"{score.table()} {same}")
