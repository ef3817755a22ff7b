"""Tasks by example: pairs of a question and its answer, and the prompts that are made of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from helpers.course_lm.corpus import lists
from helpers.course_lm.world import World
from helpers.inputs import check_number, chosen

Example = tuple[str, str]  # an input and its answer


@dataclass(frozen=True)
class Task:
    """Pairs of input and answer to demonstrate, others to ask about, and how a pair is written.

    ``arrow`` stands between input and answer, ``separator`` between pairs. Raises ValueError where a pair is empty, and where
    the input of a question stands among the demonstrations.
    """

    name: str
    demonstrations: tuple[Example, ...]
    questions: tuple[Example, ...]
    arrow: str = ": "
    separator: str = "\n"

    def __post_init__(self) -> None:
        if not all(left.strip() and right.strip() for left, right in (*self.demonstrations, *self.questions)):
            raise ValueError(f"A pair of the task {self.name!r} has an empty side: give every input and every answer a word.")
        if not self.arrow.strip() or not self.separator:
            raise ValueError(f"The task {self.name!r} needs a mark between input and answer, such as ': ', and one between pairs.")
        if both := {left for left, _ in self.demonstrations} & {left for left, _ in self.questions}:
            raise ValueError(f"{min(both)!r} is asked about and demonstrated in the task {self.name!r}: keep it on one side only.")

    def halves(self, seed: int = 0) -> tuple["Task", "Task"]:
        """The same task twice, each with half of the questions: choose a layer with the one, report with the other."""
        if len(self.questions) < 2:
            raise ValueError(f"The task {self.name!r} has {len(self.questions)} questions, and two halves need two at least.")
        drawn = Random(f"{seed} halves").sample(self.questions, len(self.questions))
        middle = len(drawn) // 2
        return replace(self, questions=tuple(drawn[:middle])), replace(self, questions=tuple(drawn[middle:]))


def split_task(name: str, pairs: Sequence[Example], share: float = 0.3, seed: int = 0, arrow: str = ": ", separator: str = "\n") -> Task:
    """A task for any model from any pairs, of which a ``share``, drawn at random, becomes questions."""
    asked = round(share * len(pairs))
    if not 0 < asked < len(pairs):
        raise ValueError(f"{len(pairs)} pairs with a share of {share:g} leave no question or no demonstration: change one of the two.")
    drawn = Random(f"{seed} split").sample(list(pairs), len(pairs))
    return Task(name, tuple(drawn[asked:]), tuple(drawn[:asked]), arrow, separator)


def course_tasks(*names: str) -> dict[str, Task]:
    """Tasks of the course LM by name, such as ``antonym``. Raises ValueError for an unknown name.

    Demonstrations are pairs that its training lists show; questions are pairs that stand in none of them.
    """
    world = World.load()
    known = [chosen([*lists.TASKS], name, "task of one word") for name in names]
    return {name: Task(name, tuple(lists.allowed_pairs(world, name)), tuple(lists.hidden_pairs(world, name))) for name in known}


def item_task(name: str, source: str, n: int = 200) -> Task:
    """An item task of the course LM, such as ``last copy``: ``n`` lists to show and ``n`` whose asked item is held out.

    ``source`` is the one-word task that supplies the words: with ``country_capital`` the lists of ``copy`` and of ``capital_of`` have the
    same words. The task ``last capital_of`` was left out of the training as a whole. Raises ValueError for an unknown name or source.
    """
    chosen(lists.ITEM_TASKS, name, "item task")
    chosen(tuple(dict.fromkeys(lists.ITEM_FUNCTIONS[name.split()[1]])), source, "source of words")
    draw = partial(lists.item_example, World.load(), Random(name), name, source)
    shown, asked = (dict(draw(hidden=hidden) for _ in range(n)) for hidden in (False, True))
    return Task(name, tuple(shown.items()), tuple(pair for pair in asked.items() if pair[0] not in shown))


@dataclass(frozen=True)
class Prompt:
    """Some pairs that are shown, a question, and the answer that counts as right. ``text`` ends where the answer begins."""

    question: str
    answer: str
    shown: tuple[Example, ...] = ()
    arrow: str = ": "
    separator: str = "\n"

    @property
    def text(self) -> str:
        """What the model reads: ``hot: cold⏎dark:``."""
        pairs = "".join(f"{left}{self.arrow}{right}{self.separator}" for left, right in self.shown)
        return f"{pairs}{self.question}{self.arrow.rstrip()}"

    @property
    def full(self) -> str:
        """The text with its answer."""
        return self.text + self.arrow[len(self.arrow.rstrip()) :] + self.answer


def icl_prompts(task: Task, n: int, shots: int = 5, seed: int = 0, dummy: bool = False, shuffled: bool = False) -> list[Prompt]:
    """``n`` questions, each after ``shots`` demonstrations; the answer stands among these only if the task has few others.

    No question is asked twice before all were asked; the same seed asks the same ones with any number of shots. ``dummy`` asks about
    pairs for demonstrations instead, none of which is shown in its own prompt. ``shuffled``: see ``shuffled_prompts``. Raises
    ValueError if the task has too few pairs.
    """
    check_number("n says how many prompts to write", n)
    pool = task.demonstrations if dummy else task.questions
    if not pool:
        raise ValueError(f"The task {task.name!r} has no pair to {'show' if dummy else 'ask about'}: give it some.")
    order = Random(f"{seed} {task.name}")
    left: list[Example] = []
    prompts = []
    for number in range(n):
        left = left or order.sample(pool, len(pool))
        asked = left.pop()
        shown = _demonstrations(task, asked, shots, Random(f"{seed} {task.name} {number}"), shuffled)
        prompts.append(Prompt(*asked, tuple(shown), task.arrow, task.separator))
    return prompts


def zero_shot_prompts(task: Task, n: int, seed: int = 0, dummy: bool = False) -> list[Prompt]:
    """The questions of ``icl_prompts`` without a demonstration: ``dark:``."""
    return icl_prompts(task, n, 0, seed, dummy)


def shuffled_prompts(task: Task, n: int, shots: int = 5, seed: int = 0, dummy: bool = False) -> list[Prompt]:
    """The prompts of ``icl_prompts`` with their answers permuted among the demonstrations, so that no pair is right.

    Where one answer fills more than half of a prompt, other pairs are shown. Raises ValueError if the answers are too alike.
    """
    return icl_prompts(task, n, shots, seed, dummy, shuffled=True)


def _demonstrations(task: Task, asked: Example, shots: int, rng: Random, shuffled: bool) -> list[Example]:
    """The pairs to show before a question, with another answer than its own if there are enough."""
    least = 2 if shuffled else 0
    if shots < least:
        raise ValueError(f"shots says how many pairs to show; it must be {least} or more, not {shots}.")
    rest = [pair for pair in task.demonstrations if pair[0] != asked[0]]
    if len(rest) < shots:
        raise ValueError(f"The task {task.name!r} has {len(rest)} pairs to show before a question, not {shots}: ask for fewer shots.")
    others = [pair for pair in rest if pair[1] != asked[1]]
    others = others if len(others) >= shots else rest
    shown = rng.sample(others, shots)
    if not shuffled:
        return shown
    if max(Counter(right for _, right in shown).values()) > shots // 2:
        shown = []
        for pair in rng.sample(others, len(others)):
            if len(shown) < shots and sum(right == pair[1] for _, right in shown) < shots // 2:
                shown.append(pair)
        if len(shown) < shots:
            few = f"The task {task.name!r} has too few different answers"
            raise ValueError(f"{few} to make all of {shots} wrong: show more or fewer pairs.")
    answers = deranged([right for _, right in shown], rng)
    return [(left, right) for (left, _), right in zip(shown, answers, strict=True)]


def deranged(answers: Sequence[str], rng: Random) -> list[str]:
    """The answers in an order in which none equals the one that stood in its place; none may fill more than half of the places."""
    shift = max(Counter(answers).values())
    if shift > len(answers) // 2:
        raise ValueError("These answers cannot be shuffled so that all are wrong: one of them fills more than half of the places.")
    ranks = {answer: rng.random() for answer in dict.fromkeys(answers)}
    order = sorted(range(len(answers)), key=lambda at: (ranks[answers[at]], rng.random()))  # equal answers side by side
    new = list(answers)
    for at, place in enumerate(order):
        new[place] = answers[order[(at + shift) % len(order)]]  # a step of the largest group leaves every group
    return new
