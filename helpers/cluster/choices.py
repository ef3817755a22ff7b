"""Multiple choice: a question with lettered options, its answer a letter.

Lieberum et al. 2023 (arXiv 2307.09458) found in Chinchilla 70B heads that write the letter of the right option and look at its line, and
some 45 nodes that explain most of the answer. A small model may know a fact and still not find its letter.

    asked = choice_prompts(60, options=4)
    print(answer(model, asked).table())
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
    """Log-probabilities after each prompt: of the letters, and of the options' own words after the sentence that tells the fact."""

    letters: Float[Tensor, "prompt option"]
    words: Float[Tensor, "prompt option"]
    right: Int[Tensor, "prompt"]

    @property
    def letter_hits(self) -> Bool[Tensor, "prompt"]:
        """Where the right letter is the likeliest of the letters."""
        return self.letters.argmax(1) == self.right

    @property
    def word_hits(self) -> Bool[Tensor, "prompt"]:
        """Where the right option's words are the likeliest of the options after the sentence."""
        return self.words.argmax(1) == self.right

    @property
    def chance(self) -> float:
        """What guessing reaches."""
        return 1 / self.letters.shape[1]

    @property
    def chosen(self) -> Float[Tensor, "option"]:
        """The share of prompts on which each letter is the likeliest; without a bias all have ``chance``."""
        return torch.bincount(self.letters.argmax(1), minlength=self.letters.shape[1]) / len(self.right)

    def table(self) -> str:
        """Right letters and right words with their 95 % intervals, chance, and how often each letter is chosen."""
        lines = []
        for name, hits in {"letters": self.letter_hits, "words": self.word_hits}.items():
            low, high = wilson(int(hits.sum()), len(hits))
            lines.append(f"right {name:<8} {hits.float().mean():6.1%}   [{low:.1%}, {high:.1%}]   chance {self.chance:.1%}")
        places = ", ".join(f"{share:.0%}" for share in self.chosen.tolist())
        return "\n".join([*lines, f"chosen, place by place: {places}"])


@torch.no_grad()
def answer(model: TransformerBridge, asked: Choices) -> Answers:
    """What a model answers: the letter, and, as a test of what it knows, the words after the same fact told as a sentence."""
    ids = [token_id(model, f" {letter}") for letter in asked.letters[: len(asked.options[0])]]
    letters = logits_at_end(model, asked.texts).log_softmax(-1)[:, ids].cpu()
    words = whole_words(model, asked.sentences, asked.options).read(model)
    return Answers(letters, words.reshape(letters.shape), asked.right)
