"""Exercises: cards, checks that explain, and a score. The exercises of a notebook stand in a module of their own beside this one:

    exercises = Exercises("01_one_neuron")                   # helpers/exercises/lesson_01.py
    exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

    @exercises.add("1.2", "Write mean ablation", minutes=8)
    def mean_ablation(answer: Any) -> str:
        average = expect_tensor(answer, 768, what="your average")
        expect_nonzero(average, "your average")
        ...
        return "The average is right, and it is not 0: so 0 is no neutral value."

A check is a plain function: it returns a sentence for a right answer and raises ``NotYet`` with an explanation for any other
(``helpers.exercises.answers`` has tools for that). In the notebook ``exercise("1.2")`` shows the card, and the reader's cell ends
in ``check("1.2", answer)``. Whatever the answer is, the reader gets a sentence and never a traceback.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from helpers.exercises.answers import NotYet, untouched

NUMBER = re.compile(r"\d+[a-z]?\.\d+")
RESULTS = "results.json"
CARD = "border:1px solid #8c8c8c;border-left:5px solid #0072B2;border-radius:4px;padding:6px 12px;max-width:44em"


@dataclass(frozen=True)
class Verdict:
    """What a check says about an answer. ``puzzled``: the answer stopped the check in a way that it did not foresee."""

    solved: bool
    text: str
    puzzled: bool = False

    def __str__(self) -> str:
        """The verdict as the reader sees it."""
        return f"{'Solved' if self.solved else 'Not yet'}. {self.text}"


@dataclass(frozen=True, repr=False)
class Exercise:
    """One exercise; shown in a notebook, it is a card."""

    number: str
    title: str
    minutes: int
    core: bool
    check: Callable[..., str]

    @property
    def kind(self) -> str:
        """``core`` or ``optional``."""
        return "core" if self.core else "optional"

    def __repr__(self) -> str:
        """The card as text."""
        return f"Exercise {self.number}: {self.title} ({self.kind}, about {self.minutes} minutes)"

    def _repr_html_(self) -> str:
        """The card as a notebook shows it."""
        return f'<div style="{CARD}"><b>Exercise {self.number}: {escape(self.title)}</b><br>{self.kind}, about {self.minutes} minutes</div>'

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
        (core, of_core), (more, of_more) = self.count(core=True), self.count(core=False)
        return "\n".join([*lines, f"Solved: {core} of {of_core} core exercises, {more} of {of_more} optional ones."])

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
            raise ValueError(
                f"An exercise needs a number of its own such as 1.2, and {number!r} is {'taken' if number in self.known else 'none'}."
            )

        def register(check: Callable[..., str]) -> Callable[..., str]:
            self.known[number] = Exercise(number, title, minutes, core, check)
            return check

        return register

    def exercise(self, number: str) -> Exercise:
        """The exercise of this number, whose card a notebook shows. Raises ValueError where there is none."""
        if number not in self.known:
            raise ValueError(f"There is no exercise {number!r} in {self.notebook}; there are: {', '.join(self.known) or 'none'}.")
        return self.known[number]

    def check(self, number: str, answer: Any, **given: Any) -> None:
        """Prints what the check says about ``answer``, and remembers what is solved."""
        verdict = self.exercise(number).verdict(answer, **given)
        if verdict.solved:
            self.solved.add(number)
        print(verdict)

    def score(self) -> Score:
        """Which exercises this session has solved."""
        return Score(self.notebook, tuple(self.known.values()), frozenset(self.solved))

    def score_table(self, folder: Path = Path()) -> None:
        """Prints the score and writes it to ``results.json`` in ``folder``, which is the notebook's own."""
        score = self.score()
        score.write(folder / RESULTS)
        print(f"{score.table()} The same is in {RESULTS}.")
