"""Two-hop questions, such as "The spouse of the performer of Imagine is" (Biran et al. 2024, arXiv 2406.12775, "Hopping Too Late").

e1 is *Imagine*, the bridge e2 is John Lennon and the answer e3 is Yoko Ono. ``t1`` is the last token of the first hop's phrase, ``t2`` that
of the prompt. Questions count whose hops the model knows and whose answer it does not say without the way over e2 (their section 3).

    questions = course_chains(model)
    print(answered(model, questions).table())

Questions about the same e1 are no independent cases: all intervals are over distinct e1.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm import facts
from helpers.course_lm.corpus.base import sentence
from helpers.inputs import chosen
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.prediction import token_span
from helpers.progress import progress
from helpers.running import logits_at_end, next_tokens
from helpers.stats import cluster_interval, wilson
from helpers.tables import table
from helpers.texts import Texts, as_texts

PLACES = ("t1", "t2")

# ------------------------------------------------------------------------------------------------------------ questions


@dataclass(frozen=True)
class TwoHop:
    """A two-hop question: ``text`` up to the answer ``e3``; ``phrase`` is its beginning up to the end of the first hop's phrase.

    ``hops`` asks for e2 and for e3 by themselves, and ``direct`` asks the second relation of e1 itself. ``kind`` names the two relations.
    Raises ValueError where the phrase does not begin the text.
    """

    text: str
    phrase: str
    e1: str
    e2: str
    e3: str
    kind: str = "two hops"
    hops: tuple[str, str] = ("", "")
    direct: str = ""

    def __post_init__(self) -> None:
        if not self.phrase or not self.text.startswith(self.phrase) or self.text == self.phrase:
            raise ValueError(f"The phrase {self.phrase!r} must be the beginning of {self.text!r}, up to the end of the first hop.")

    @property
    def second(self) -> str:
        """The second relation, which the answer is about: ``capital``."""
        return self.kind.split("+")[-1]

    def shares_nothing(self, other: "TwoHop") -> bool:
        """Whether another question has another e1, e2 and e3."""
        return other.e1 != self.e1 and other.e2 != self.e2 and other.e3 != self.e3


def course_questions(held_out: bool = True) -> list[TwoHop]:
    """All two-hop questions of the course LM's world about first entities that are held out of its two-hop sentences, or are not.

    Left out are questions that name their answer or bridge, whose answer has an article, and e1 with several bridges of one kind.
    """
    every = [chain for chain in facts.chains() if chain.held_out == held_out]
    bridges: dict[tuple[str, str], set[str]] = defaultdict(set)
    for chain in every:
        bridges[chain.name, chain.first.subject].add(chain.first.object)
    return [_question(chain) for chain in every if len(bridges[chain.name, chain.first.subject]) == 1 and _tells_nothing(chain)]


def _tells_nothing(chain: facts.Chain) -> bool:
    e1, e2, e3 = (name.lower() for name in (chain.first.subject, chain.first.object, chain.second.object))
    return chain.second.answer == chain.second.object and not any(one in e1 for one in (e2, e3)) and e2 not in e3 and e3 not in e2


def _question(chain: facts.Chain) -> TwoHop:
    first, second, text, inner = chain.first, chain.second, chain.prompt(0), chain.inner[0]
    phrase = text[: text.rindex(inner) + len(inner)]
    direct = sentence(text.replace(inner, first.phrase))
    return TwoHop(text, phrase, first.subject, first.object, second.answer, chain.name, (_hop(first), _hop(second)), direct)


def _hop(fact: facts.Fact) -> str:
    """The plainest sentence of a fact up to its object; an article stands before it."""
    told = fact.tell(next(template for template in fact.relation.forward if template.endswith("{o}.")))
    return told[: told.rindex(fact.object)].rstrip()


def course_chains(model: TransformerBridge, among: Sequence[TwoHop] = ()) -> list[TwoHop]:
    """Questions of which the model knows both hops, and whose answer it does not say without the way over e2.

    They are taken from ``among``, or from all ``course_questions``. Raises ValueError where there is none.
    """
    asked = list(among) or course_questions()
    fitting = hops_known(model, asked) & ~has_shortcut(model, asked)
    if not fitting.any():
        raise ValueError("None of these questions passes the filters: the model knows no two hops, or takes shortcuts. Give others.")
    return [asked[row] for row in fitting.nonzero().flatten().tolist()]


# -------------------------------------------------------------------------------------------------------------- filters


def hops_known(model: TransformerBridge, questions: Sequence[TwoHop]) -> Bool[Tensor, "question"]:
    """Does the model answer each of the two hops by itself: is the first token of e2, and that of e3, its most likely one?"""
    if any(not all(one.hops) for one in questions):
        raise ValueError("A question needs both its hops as prompts, for e2 and for e3: fill in `hops`.")
    asked = sorted({pair for one in questions for pair in zip(one.hops, (one.e2, one.e3), strict=True)})
    prompts, words = [prompt for prompt, _ in asked], [word for _, word in asked]
    known = dict(zip(asked, (next_tokens(model, prompts) == first_tokens(model, prompts, words)).tolist(), strict=True))
    return torch.tensor([known[one.hops[0], one.e2] and known[one.hops[1], one.e3] for one in questions])


def has_shortcut(model: TransformerBridge, questions: Sequence[TwoHop]) -> Bool[Tensor, "question"]:
    """Is e3 said without the way over e2 (Biran et al., section 3)? Either the second relation asked of e1 itself brings it, or the two
    relations alone do: it is the favourite of the mean prediction over all other e1 of the same kind, if there are any.
    """
    answers = first_tokens(model, [one.text for one in questions], [one.e3 for one in questions])
    prompts = list(dict.fromkeys(one.direct for one in questions if one.direct))
    direct = dict(zip(prompts, next_tokens(model, prompts).tolist() if prompts else [], strict=True))
    found = torch.tensor([direct.get(one.direct, -1) for one in questions]) == answers
    kinds = [[row for row, one in enumerate(questions) if one.kind == name] for name in dict.fromkeys(one.kind for one in questions)]
    for rows in progress(kinds, desc="kinds"):
        some = [questions[row] for row in rows]
        probs = logits_at_end(model, [one.text for one in some]).softmax(-1).cpu()
        found[rows] |= _without_own(probs, [one.e1 for one in some]) == answers[rows]
    return found


def _without_own(probs: Float[Tensor, "question d_vocab"], e1: Sequence[str]) -> Int[Tensor, "question"]:
    """The favourite of the mean prediction over all questions about another e1; -1 where there is none."""
    other = torch.tensor([[one != another for another in e1] for one in e1])
    return torch.where(other.any(1), (other.float() @ probs).argmax(-1), -1)


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answered:
    """Questions that the model answers right, and those it does not: the first token of e3 is its most likely one, or is not."""

    right: tuple[TwoHop, ...]
    wrong: tuple[TwoHop, ...]

    def table(self) -> str:
        """One line for each second relation, and one for all: how many questions and e1, and the share of right answers with its interval;
        where all are right, or none, it is Wilson's for as many cases as there are e1.
        """
        every = [(one, True) for one in self.right] + [(one, False) for one in self.wrong]
        asked = {name: [pair for pair in every if pair[0].second == name] for name in sorted({one.second for one, _ in every})}
        rows = []
        for name, pairs in (asked | {"all": every}).items():
            e1, hits = [one.e1 for one, _ in pairs], [hit for _, hit in pairs]
            n = len(set(e1))
            limits = cluster_interval(hits, e1) if n > 1 and 0 < sum(hits) < len(hits) else wilson(n * hits[0], n)
            interval = " [{:.1%}, {:.1%}]".format(*limits) if n > 1 else ""
            rows.append((name, len(hits), n, f"{np.mean(hits):>7.1%}{interval}"))
        return table({"asked for": f"<{max(9, *map(len, asked))}", "n": "6", "e1": "6", "  right": "<"}, rows)

    def matched(self, seed: int = 0) -> "Answered":
        """As many right as wrong questions of each kind, drawn at random, so that what tells them apart is not the kind."""
        rng, kept = Random(seed), ([], [])
        for name in sorted({one.kind for one in self.right} & {one.kind for one in self.wrong}):
            pools = [[one for one in side if one.kind == name] for side in (self.right, self.wrong)]
            for side, pool in zip(kept, pools, strict=True):
                side += rng.sample(pool, min(map(len, pools)))
        return Answered(tuple(kept[0]), tuple(kept[1]))


def answered(model: TransformerBridge, questions: Sequence[TwoHop]) -> Answered:
    """Asks the questions and sorts them by whether the model's most likely next token is the first one of e3."""
    prompts = [one.text for one in questions]
    hits = next_tokens(model, prompts) == first_tokens(model, prompts, [one.e3 for one in questions])
    pairs = list(zip(questions, hits.tolist(), strict=True))
    return Answered(tuple(one for one, hit in pairs if hit), tuple(one for one, hit in pairs if not hit))


# ---------------------------------------------------------------------------------------- positions and other questions


@dataclass(frozen=True)
class Located:
    """Questions as tokens: where ``t1`` is, and the first tokens of e2, as it follows the phrase, and of e3."""

    questions: tuple[TwoHop, ...]
    texts: Texts
    t1: Int[Tensor, "question"]
    e2: Int[Tensor, "question"]
    e3: Int[Tensor, "question"]

    def place(self, at: str) -> Int[Tensor, "question"]:
        """The position of t1, or of t2, in each question. Raises ValueError for another name."""
        return self.t1 if chosen(PLACES, at, "position") == "t1" else self.texts.lengths - 1


def located(model: TransformerBridge, questions: Sequence[TwoHop]) -> Located:
    """Raises ValueError if the tokens of a phrase run on into what follows, and for a prompt that is too long."""
    t1 = torch.tensor([token_span(model, one.text, 0, len(one.phrase))[-1] for one in questions])
    e2 = first_tokens(model, [one.phrase for one in questions], [one.e2 for one in questions])
    e3 = first_tokens(model, [one.text for one in questions], [one.e3 for one in questions])
    return Located(tuple(questions), as_texts(model, [one.text for one in questions]), t1, e2, e3)


def partners(questions: Sequence[TwoHop], seed: int = 0, barred: Bool[Tensor, "question other"] | None = None) -> Int[Tensor, "question"]:
    """For each question another one, drawn at random, with another e1, e2 and e3: of the same kind if there is one, else any.

    ``barred`` marks further pairs that must not meet. Raises ValueError where there is none.
    """
    rng, found = Random(seed), []
    free = torch.ones(len(questions), len(questions), dtype=torch.bool) if barred is None else ~barred
    for one, allowed in zip(questions, free.tolist(), strict=True):
        others = [row for row, other in enumerate(questions) if allowed[row] and one.shares_nothing(other)]
        if not others:
            raise ValueError(f"There is no fitting question with another e1, e2 and e3 than {one.text!r}: give more questions.")
        found.append(rng.choice([row for row in others if questions[row].kind == one.kind] or others))
    return torch.tensor(found)
