"""Multiple choice: a question with lettered options, its answer a letter; which heads write the letter, and where they look.

Lieberum et al. 2023 (arXiv 2307.09458) found in Chinchilla 70B heads that write the letter of the right option and look at its line, and
some 45 nodes that explain most of the answer. A small model may know a fact and still not find its letter; then it can be measured by how
much it fails, which letter it likes, and which heads look at the lines. What it can do is to choose the first or the last item of a list.

    asked = choice_prompts(60, options=4)
    print(answer(model, asked).table())
    print(attribute_letters(model, asked).table())
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.attribution import DirectEffects, Head, direct_effects
from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.corpus.tasks import LETTERS, QUESTIONS, quiz_question
from helpers.course_lm.world import World
from helpers.interventions import intervene, pattern, unembed_only_at, watch
from helpers.metrics import Words, whole_words
from helpers.models import TransformerBridge
from helpers.one_layer.tasks import icl_prompts, item_task
from helpers.prediction import token_id, tokenize
from helpers.stats import wilson
from helpers.texts import as_texts

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

# ------------------------------------------------------------------------------------------------------------- questions


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
    def n_options(self) -> int:
        """How many options each question has."""
        return len(self.options[0])

    @property
    def lines(self) -> list[list[str]]:
        """The lines of each prompt: the question, the options, and ``Answer:``."""
        asked = zip(self.questions, self.options, strict=True)
        return [[question, *(f"{a}: {b}" for a, b in zip(self.letters, own, strict=False)), "Answer:"] for question, own in asked]

    @property
    def texts(self) -> list[str]:
        """What the model reads."""
        return ["\n".join(lines) for lines in self.lines]

    def turned(self, by: int = 1) -> "Choices":
        """The same questions with the options moved down by some places, the last ones to the top; the letters stay in their places."""
        n = self.n_options
        moved = tuple(tuple(own[(at - by) % n] for at in range(n)) for own in self.options)
        return replace(self, options=moved, right=(self.right + by) % n)

    def relabelled(self, letters: str = "WXYZ") -> "Choices":
        """The same questions with other letters. Raises ValueError where there are too few, or one stands twice."""
        if len(set(letters)) < len(letters) or len(letters) < self.n_options:
            raise ValueError(f"{self.n_options} options need as many different letters, not {letters!r}.")
        return replace(self, letters=letters)

    def letter_ids(self, model: TransformerBridge) -> Int[Tensor, "option"]:
        """The tokens of the letters, each with the space before it."""
        return torch.tensor([token_id(model, f" {letter}") for letter in self.letters[: self.n_options]])


def choice_prompts(n: int, options: int = 4, seed: int = 0, hidden: bool = True) -> Choices:
    """``n`` quiz questions of the course LM's corpus; ``hidden``: about facts that no quiz asks there, though sentences tell them.

    Raises ValueError unless there are 2 to 4 options, and one question at least.
    """
    if n < 1:
        raise ValueError(f"n says how many questions to ask; it must be 1 or more, not {n}.")
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


# --------------------------------------------------------------------------------------------------------------- answers


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
    def margin(self) -> Float[Tensor, "prompt"]:
        """The logit of the right letter minus the mean of the others."""
        right = self.letters.gather(1, self.right[:, None])[:, 0]
        return right - (self.letters.sum(1) - right) / (self.letters.shape[1] - 1)

    @property
    def chosen(self) -> Float[Tensor, "option"]:
        """The share of prompts on which each letter is the likeliest; without a bias all have ``chance``."""
        return torch.bincount(self.letters.argmax(1), minlength=self.letters.shape[1]) / len(self.right)

    def table(self) -> str:
        """Right letters and right words with their 95 % intervals, chance, and how often each letter is chosen."""
        lines = []
        for name, hits in (("letters", self.letter_hits), ("words", self.word_hits)):
            low, high = wilson(int(hits.sum()), len(hits))
            lines.append(f"right {name:<8} {hits.float().mean():6.1%}   [{low:.1%}, {high:.1%}]   chance {self.chance:.1%}")
        places = ", ".join(f"{share:.0%}" for share in self.chosen.tolist())
        return "\n".join([*lines, f"chosen, place by place: {places}"])


@torch.no_grad()
def answer(model: TransformerBridge, asked: Choices) -> Answers:
    """What a model answers: the letter, and, as a test of what it knows, the words after the same fact told as a sentence."""
    letters, texts = torch.empty(len(asked), asked.n_options), as_texts(model, asked.texts)
    for rows in texts.batches():
        part = texts.take(rows)
        with intervene(model, unembed_only_at(part.lengths[:, None] - 1)):
            logits = model(part.tokens.to(model.cfg.device))[:, 0]
        letters[rows] = logits.float().log_softmax(-1).cpu()[:, asked.letter_ids(model)]
    words = whole_words(model, asked.sentences, asked.options)
    return Answers(letters, _log_probs(model, words).reshape(letters.shape), asked.right)


def _log_probs(model: TransformerBridge, words: Words) -> Float[Tensor, "row"]:
    """The log-probability of each row's word; only the places where words stand are unembedded."""
    n, lengths = max(map(len, words.ids)), words.texts.lengths
    with intervene(model, unembed_only_at((lengths[:, None] - n + torch.arange(n)).clamp(min=0))):
        return words.log_probs(model(words.texts.tokens.to(model.cfg.device))).float().cpu()


# ----------------------------------------------------------------------------------------------------------------- heads


def attribute_letters(model: TransformerBridge, asked: Choices) -> DirectEffects:
    """What each head and each MLP adds, on the direct way, to the right letter's logit minus the mean of the other letters."""
    ids = asked.letter_ids(model)
    others = torch.stack([torch.cat([ids[:at], ids[at + 1 :]]) for at in asked.right.tolist()])
    return direct_effects(model, asked.texts, ids[asked.right], others)


@dataclass(frozen=True)
class Looks:
    """How much every head attends from the last token of each prompt to each of several parts of it, such as the options' lines.

    ``right`` is the part that answers. A content gatherer looks there more than at the other parts.
    """

    attention: Float[Tensor, "layer head prompt part"]
    right: Int[Tensor, "prompt"]

    @property
    def to_right(self) -> Float[Tensor, "layer head"]:
        """The mean attention to the right part."""
        return self.attention[:, :, torch.arange(len(self.right)), self.right].mean(-1)

    @property
    def to_others(self) -> Float[Tensor, "layer head"]:
        """The mean attention to each of the other parts."""
        n = self.attention.shape[-1]
        return (self.attention.sum(-1).mean(-1) - self.to_right) / (n - 1)

    @property
    def preference(self) -> Float[Tensor, "layer head"]:
        """By how much more a head looks at the right part than at another one."""
        return self.to_right - self.to_others

    def top(self, n: int = 5) -> list[Head]:
        """The ``n`` heads with the largest preference."""
        best = self.preference.flatten().argsort(descending=True, stable=True)[:n].tolist()
        return [divmod(at, self.preference.shape[1]) for at in best]

    def table(self, n: int = 5) -> str:
        """One line for each of the ``n`` heads with the largest preference."""
        rows = [f"a{layer}.{head:<5} {self.to_right[layer, head]:6.3f} {self.to_others[layer, head]:12.3f}" for layer, head in self.top(n)]
        return "\n".join(["head      right   each other", *rows])


def letter_looks(model: TransformerBridge, asked: Choices) -> Looks:
    """Where every head looks from ``Answer:``: at the line of each option, letter and words, without the end of the line."""
    parts = []
    for lines in asked.lines:
        ends = [len("\n".join(lines[: at + 1])) for at in range(len(lines))]
        parts.append([(ends[at - 1] + 1, ends[at]) for at in range(1, len(lines) - 1)])
    return _looks(model, asked.texts, parts, asked.right)


def item_looks(
    model: TransformerBridge, task: str, n: int = 60, shots: int = 5, seed: int = 0, hidden: bool = False
) -> tuple[Looks, DirectEffects]:
    """For an item task such as ``last copy``: where heads look in the list that is asked about, and what they add to the answer.

    The parts are the first and the last item, and the wrong answer is the other one of them. ``hidden`` asks for items that the corpus
    never asks for in this task. Lists whose first and last item begin with the same token are left out. Raises ValueError for a task
    that does not copy.
    """
    position, _, function = task.partition(" ")
    if function != "copy" or position not in ("first", "last"):
        raise ValueError(f"Items are looked for where they are copied: choose 'first copy' or 'last copy', not {task!r}.")
    texts, parts, ids = [], [], []
    for prompt in icl_prompts(item_task(task, "country_capital"), n, shots, seed, dummy=not hidden):
        text, items = prompt.text, prompt.question.split(", ")
        start = len(text) - len(prompt.question) - 1
        ends = [(start, start + len(items[0])), (len(text) - 1 - len(items[-1]), len(text) - 1)]
        firsts = [int(tokenize(model, f"{text} {item}")[len(tokenize(model, text))]) for item in (items[0], items[-1])]
        if firsts[0] != firsts[1]:
            texts.append(text)
            parts.append(ends)
            ids.append(firsts)
    which = 0 if position == "first" else 1
    tokens = torch.tensor(ids)
    found = direct_effects(model, texts, tokens[:, which], tokens[:, 1 - which])
    return _looks(model, texts, parts, torch.full((len(texts),), which)), found


@torch.no_grad()
def _looks(model: TransformerBridge, prompts: Sequence[str], parts: Sequence[Sequence[tuple[int, int]]], right: Tensor) -> Looks:
    """Attention from the last token to parts of each prompt, which are given as their first letter and the one behind their last."""
    texts, places = as_texts(model, list(prompts)), [pattern(layer) for layer in range(model.cfg.n_layers)]
    found = torch.empty(len(places), model.cfg.n_heads, len(texts), len(parts[0]))
    for rows in texts.batches():
        part = texts.take(rows)
        seen: dict[str, Tensor] = {}
        with intervene(
            model, *(watch(place, partial(seen.__setitem__, place)) for place in places), unembed_only_at(part.lengths[:, None] - 1)
        ):
            model(part.tokens.to(model.cfg.device))
        for at, row in enumerate(rows.tolist()):
            ends = torch.stack([seen[place][at, :, int(part.lengths[at]) - 1].float().cpu() for place in places])  # [layer, head, key]
            for number, (start, stop) in enumerate(parts[row]):
                first, last = (len(tokenize(model, prompts[row][:end].rstrip(" "))) for end in (start, stop))
                found[:, :, row, number] = ends[..., first:last].sum(-1)
    return Looks(found, right)
