"""Multiple choice: a question with lettered options, its answer a letter.

Lieberum et al. 2023 (arXiv 2307.09458) found in Chinchilla 70B heads that write the letter of the right option and look at its line, and
some 45 nodes that explain most of the answer. A small model may know a fact and still not find its letter.

    asked = choice_prompts(60, options=4)
    print(by_letter(model, asked).summary())
"""

import re
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.patching import PromptPairs, prompt_pairs
from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.corpus.tasks import LETTERS, QUESTIONS, quiz_question
from helpers.course_lm.world import World
from helpers.inputs import check_number
from helpers.metrics import log_odds, whole_words
from helpers.models import TransformerBridge
from helpers.prediction import token_id
from helpers.running import logits_at_end
from helpers.stats import wilson

SENTENCES = {  # relation of a quiz -> the fact as a sentence, up to the answer
    "capital": "The capital of {} is",
    "capital of": "{} is the capital of",
    "continent": "{} is a country in",
    "language": "The main language of {} is",
    "currency": "The currency of {} is the",
    "symbol": "The symbol of {} is",
    "element": "{} is the symbol of",
    "category": "{} is a kind of",
    "young": "A young {} is called a",
    "animal": "The {} is a",
}


@dataclass(frozen=True)
class Choices:
    """Questions with equally many lettered options; ``right`` is the place of the right one, ``sentences`` tell the same facts."""

    questions: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    right: Int[Tensor, "prompt"]
    sentences: tuple[str, ...]
    letters: str = LETTERS

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self.questions)

    @property
    def texts(self) -> list[str]:
        """What the model reads, line by line: the question, the options, and ``Answer:``."""
        lettered = ["\n".join(f"{a}: {b}" for a, b in zip(self.letters, own, strict=False)) for own in self.options]
        return [f"{question}\n{lines}\nAnswer:" for question, lines in zip(self.questions, lettered, strict=True)]


def choice_prompts(n: int, options: int = 4, seed: int = 0, hidden: bool = True) -> Choices:
    """``n`` quiz questions of the course LM's corpus; ``hidden``: about facts that no quiz asks there, though sentences tell them.

    Raises ValueError unless there are 2 to 4 options, and one question at least.
    """
    check_number("n says how many questions to ask", n)
    if not 2 <= options <= len(LETTERS):
        raise ValueError(f"A question has 2 to {len(LETTERS)} options, not {options}.")
    rng, rows = Random(f"{seed} choices"), []
    while len(rows) < n:
        if drawn := quiz_question(World.load(), rng, hidden, options):
            question, *lines, _ = drawn[0].split("\n")
            rows.append((question, tuple(line[3:] for line in lines), LETTERS.index(drawn[1]), _sentence(question)))
    questions, answers, right, sentences = zip(*rows, strict=True)
    return Choices(questions, answers, torch.tensor(right), sentences)


def _sentence(question: str) -> str:
    """The sentence that the right option ends; of several questions that fit, the one with the most words of its own counts."""
    asked = [(template, relation) for relation, (templates, *_) in QUESTIONS.items() for template in templates]
    for template, relation in sorted(asked, key=lambda pair: len(pair[0]), reverse=True):
        before, after = map(re.escape, template.split("{}"))
        if found := re.fullmatch(f"Question: {before}(.+){after}", question):
            return sentence(SENTENCES[relation].format(found[1]))
    raise ValueError(f"There is no sentence for {question!r}: it is no question of the quiz.")


def letter_pairs(model: TransformerBridge, asked: Choices) -> PromptPairs:
    """Questions beside the same ones whose options have moved on by one place: the right word stays, and has another letter."""
    n = len(asked.options[0])
    moved = replace(asked, options=tuple((*own[-1:], *own[:-1]) for own in asked.options), right=(asked.right + 1) % n)
    ids = torch.tensor([token_id(model, f" {letter}") for letter in asked.letters[:n]])
    return prompt_pairs(model, asked.texts, moved.texts, log_odds(ids[asked.right], ids[moved.right]))


@dataclass(frozen=True)
class Answers:
    """The log-probability of each option after its prompt: of its letter, or of its words."""

    options: Float[Tensor, "prompt option"]
    right: Int[Tensor, "prompt"]

    @property
    def hits(self) -> Bool[Tensor, "prompt"]:
        """Where the right option is the likeliest."""
        return self.options.argmax(1) == self.right

    @property
    def chance(self) -> float:
        """What guessing reaches."""
        return 1 / self.options.shape[1]

    def summary(self) -> str:
        """The share of right answers with its 95 % interval, and how often each place is chosen; without a bias all have ``chance``."""
        low, high = wilson(int(self.hits.sum()), len(self.hits))
        chosen = torch.bincount(self.options.argmax(1), minlength=self.options.shape[1]) / len(self.right)
        places = ", ".join(f"{share:.0%}" for share in chosen.tolist())
        return f"{self.hits.float().mean():.1%} right [{low:.1%}, {high:.1%}], chance {self.chance:.0%}; chosen, place by place: {places}"


@torch.no_grad()
def by_letter(model: TransformerBridge, asked: Choices) -> Answers:
    """What a model answers: the letter of an option."""
    ids = [token_id(model, f" {letter}") for letter in asked.letters[: len(asked.options[0])]]
    return Answers(logits_at_end(model, asked.texts).log_softmax(-1)[:, ids].cpu(), asked.right)


@torch.no_grad()
def by_words(model: TransformerBridge, asked: Choices) -> Answers:
    """As a test of what it knows: the options' own words after the same fact told as a sentence."""
    words = whole_words(model, asked.sentences, asked.options).read(model)
    return Answers(words.reshape(len(asked), -1), asked.right)
