"""Asking a model how it came to an answer, and holding what it says against what can be measured.

A stated reason is one more output. Turpin et al. 2023 (arXiv 2305.04388) bias a model towards an answer and get reasons that do not mention
the bias; Lindsey et al. 2025 ("On the Biology of a Large Language Model", section "Addition") find a model that tells of carrying the one
while its circuit does something else. Here an answer that the model never gave is put into its mouth, and it is asked how it found it: an
account that is the same then cannot be a report of how *that* answer came about.

    self_explanations(model, ["What is 7 + 5?"]).table()
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.course_lm.corpus.tasks import HIDDEN_SUMS, SEEN_SUMS
from helpers.models import TransformerBridge
from helpers.running import conversations, generate

WHY = "How did you find that?"


@dataclass(frozen=True)
class SelfExplanations:
    """Questions, the answers that stand after them, and the reasons that the model gives when it is asked for them."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    reasons: tuple[str, ...]

    def same(self, other: "SelfExplanations") -> list[bool]:
        """Whether each reason is word for word the other's. Raises ValueError where there are not equally many."""
        if len(self.reasons) != len(other.reasons):
            raise ValueError(f"Reasons are compared in pairs; here are {len(self.reasons)} and {len(other.reasons)}.")
        return [one == two for one, two in zip(self.reasons, other.reasons, strict=True)]

    def table(self, n: int = 6) -> str:
        """The first ``n`` conversations, a line each."""
        rows = list(zip(self.questions, self.answers, self.reasons, strict=True))[:n]
        wide, width = (max(len(row[at]) for row in rows) for at in (0, 1))
        return "\n".join(f"{question:<{wide}}  {answer:<{width}}  {reason}" for question, answer, reason in rows)


def self_explanations(
    model: TransformerBridge, questions: Sequence[str], answers: Sequence[str] | None = None, why: str = WHY, tokens: int = 16
) -> SelfExplanations:
    """Asks the questions, and then ``why``; ``answers`` are put into the model's mouth in place of its own.

    Raises ValueError for a model that does not chat, and unless each question has its answer.
    """
    if not questions:
        raise ValueError("There is no question: ask at least one.")
    if answers is not None and len(answers) != len(questions):
        raise ValueError(f"Each question needs its answer: there are {len(questions)} questions and {len(answers)} answers.")
    answers = answers or generate(model, conversations(model, [[question] for question in questions]), tokens)
    turns = [[question, answer, why] for question, answer in zip(questions, answers, strict=True)]
    return SelfExplanations(tuple(questions), tuple(answers), tuple(generate(model, conversations(model, turns), tokens)))


def additions(written: bool = True) -> list[tuple[int, int]]:
    """The pairs of numbers within twenty whose sum stands in the course LM's corpus, or (``written=False``) nowhere in it."""
    return [(a, b) for a, sign, b in (SEEN_SUMS if written else HIDDEN_SUMS) if sign == "+"]
