"""Two hops in one sentence: which layer knows the entity in between, and whether a second pass helps where the first came too late.

Biran et al. 2024 (arXiv 2406.12775, "Hopping Too Late"): in "The spouse of the performer of Imagine is", e1 is *Imagine*, the bridge e2 is
John Lennon and the answer e3 is Yoko Ono. At ``t1``, the last token of the first hop's phrase, e2 can be read off in some layer; at ``t2``,
the last token of the prompt, e3. *Back-patching* (their section 5) carries the state of a late layer back to an early one, at the same
position of the same prompt, and runs the layers in between a second time.

    parts = answered(model, course_chains(model))
    print(rescue(model, parts.wrong, at="t1").table())

Layer ``l`` is the stream *after* block ``l``. The paper's rate is that of an *oracle*: some pair of layers brings the answer. With 66 pairs
and a few plausible answers luck does that too, so every rate stands beside controls with equally many tries. Questions about the same e1
are no independent cases: all intervals are over distinct e1.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm import facts
from helpers.course_lm.corpus.base import sentence
from helpers.interventions import intervene, record, resid_post, unembed_only_at
from helpers.metrics import whole_words
from helpers.models import TransformerBridge, read_prefix, run_from
from helpers.prediction import tokenize
from helpers.progress import progress
from helpers.running import lens_logits
from helpers.stats import Interval, as_numbers, cluster_interval
from helpers.texts import Texts, as_texts

FORMS = ("of", "possessive")
PLACES = ("t1", "t2")
SOURCES = ("own", "other prompt", "unknowing prompt", "previous token", "random")  # whose state is put in (see `back_patch`)
READ = (("e2", "t1"), ("e2", "t2"), ("e3", "t2"))  # what is looked for, and where
PATCHED_TOKENS = 2048  # tokens in one forward pass over patched copies
LENS_ROWS = SAID_ROWS = 256  # states unembedded, or prompts read, at once
PENALTY = 0.1  # of the probe, as a share of the mean variance of the states
SPLITS = 20  # of the first entities into two halves
Pair = tuple[int, int]  # source layer, target layer

# ------------------------------------------------------------------------------------------------------------ intervals


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
    form: str = "of"
    hops: tuple[str, str] = ("", "")
    direct: str = ""

    def __post_init__(self) -> None:
        if not self.phrase or not self.text.startswith(self.phrase) or self.text == self.phrase:
            raise ValueError(f"The phrase {self.phrase!r} must be the beginning of {self.text!r}, up to the end of the first hop.")

    @property
    def group(self) -> str:
        """Kind and form: the questions that differ in their entities only."""
        return f"{self.kind} ({self.form})"


def course_questions(held_out: bool = True, forms: Sequence[str] = FORMS) -> list[TwoHop]:
    """All two-hop questions of the course LM's world about first entities that are held out of its two-hop sentences, or are not.

    Left out are questions that name their answer or bridge, whose answer has an article, and e1 with several bridges of one kind.
    """
    if unknown := next((form for form in forms if form not in FORMS), None):
        raise ValueError(f"There is no form {unknown!r}; a question has the form {' or '.join(FORMS)}.")
    every = [chain for chain in facts.chains() if chain.held_out == held_out]
    bridges: dict[tuple[str, str], set[str]] = defaultdict(set)
    for chain in every:
        bridges[chain.name, chain.first.subject].add(chain.first.object)
    kept = [chain for chain in every if len(bridges[chain.name, chain.first.subject]) == 1 and _tells_nothing(chain)]
    return [_question(chain, FORMS.index(form)) for chain in kept for form in forms]


def _tells_nothing(chain: facts.Chain) -> bool:
    e1, e2, e3 = (name.lower() for name in (chain.first.subject, chain.first.object, chain.second.object))
    return chain.second.answer == chain.second.object and not any(one in e1 for one in (e2, e3)) and e2 not in e3 and e3 not in e2


def _question(chain: facts.Chain, form: int) -> TwoHop:
    first, second, text = chain.first, chain.second, chain.prompt(form)
    phrase = text[: text.rindex(chain.inner[form]) + len(chain.inner[form])]
    hops = _hop(first), _hop(second)
    direct = sentence(text.replace(chain.inner[form], first.phrase))
    return TwoHop(text, phrase, first.subject, first.object, second.answer, chain.name, FORMS[form], hops, direct)


def _hop(fact: facts.Fact) -> str:
    """The plainest sentence of a fact up to its object; an article stands before it."""
    told = fact.tell(next(template for template in fact.relation.forward if template.endswith("{o}.")))
    return told[: told.rindex(fact.object)].rstrip()


def course_chains(
    model: TransformerBridge,
    n: int | None = None,
    seed: int = 0,
    held_out: bool = True,
    shortcuts: bool = False,
    forms: Sequence[str] = FORMS,
    among: Sequence[TwoHop] = (),
) -> list[TwoHop]:
    """Questions of which the model knows both hops, and whose answer it does not say without the way over e2: ``n``, or all of them.

    ``shortcuts`` keeps the latter too: where a question was failed all the same, there was no shortcut that helped. They are taken from
    ``among``, or from all ``course_questions`` of these ``forms``. Raises ValueError where there are not so many.
    """
    asked = list(among) or course_questions(held_out, forms)
    fitting = hops_known(model, asked) if shortcuts else hops_known(model, asked) & ~has_shortcut(model, asked)
    rows = fitting.nonzero().flatten().tolist()
    if not 1 <= (len(rows) if n is None else n) <= len(rows):
        raise ValueError(f"n says how many questions to draw; {len(rows)} pass the filters, so it must be from 1 to that, not {n}.")
    return [asked[row] for row in (rows if n is None else sorted(Random(seed).sample(rows, n)))]


# -------------------------------------------------------------------------------------------------------------- filters


@torch.no_grad()
def predictions(model: TransformerBridge, prompts: Sequence[str]) -> Float[Tensor, "prompt d_vocab"]:
    """The probability of every token after each prompt; on the CPU."""
    texts, found = as_texts(model, prompts), torch.empty(len(prompts), model.cfg.d_vocab)
    for rows in texts.batches():
        part = texts.take(rows)
        with intervene(model, unembed_only_at(part.lengths[:, None] - 1)):
            found[rows] = model(part.tokens.to(model.cfg.device))[:, 0].softmax(-1).float().cpu()
    return found


@torch.no_grad()
def said(model: TransformerBridge, prompts: Sequence[str]) -> Int[Tensor, "prompt"]:
    """The most likely token after each prompt, as `predictions` finds it."""
    parts = [prompts[at : at + SAID_ROWS] for at in range(0, len(prompts), SAID_ROWS)]
    return torch.cat([predictions(model, part).argmax(-1) for part in progress(parts, desc="prompts")])


def first_tokens(model: TransformerBridge, prompts: Sequence[str], words: Sequence[str]) -> Int[Tensor, "prompt"]:
    """The first token of each word as it stands after its prompt."""
    return torch.tensor([ids[0] for ids in whole_words(model, prompts, [[word] for word in words]).ids])


def hops_known(model: TransformerBridge, questions: Sequence[TwoHop]) -> Bool[Tensor, "question"]:
    """Does the model answer each of the two hops by itself: is the first token of e2, and that of e3, its most likely one?"""
    _check(questions)
    if any(not all(one.hops) for one in questions):
        raise ValueError("A question needs both its hops as prompts, for e2 and for e3: fill in `hops`.")
    asked = sorted({pair for one in questions for pair in zip(one.hops, (one.e2, one.e3), strict=True)})
    prompts, words = [prompt for prompt, _ in asked], [word for _, word in asked]
    known = dict(zip(asked, (said(model, prompts) == first_tokens(model, prompts, words)).tolist(), strict=True))
    return torch.tensor([known[one.hops[0], one.e2] and known[one.hops[1], one.e3] for one in questions])


def has_shortcut(model: TransformerBridge, questions: Sequence[TwoHop]) -> Bool[Tensor, "question"]:
    """Is e3 said without the way over e2 (Biran et al., section 3)? Either the second relation asked of e1 itself brings it, or the two
    relations alone do: it is the favourite of the mean prediction over all other e1 of the same kind and form, if there are any.
    """
    _check(questions)
    answers = first_tokens(model, [one.text for one in questions], [one.e3 for one in questions])
    prompts = list(dict.fromkeys(one.direct for one in questions if one.direct))
    direct = dict(zip(prompts, said(model, prompts).tolist() if prompts else [], strict=True))
    found = torch.tensor([direct.get(one.direct, -1) for one in questions]) == answers
    for rows in progress(_groups(questions), desc="kinds"):
        some = [questions[row] for row in rows]
        found[rows] |= _without_own(predictions(model, [one.text for one in some]), [one.e1 for one in some]) == answers[rows]
    return found


def _without_own(probs: Float[Tensor, "question d_vocab"], e1: Sequence[str]) -> Int[Tensor, "question"]:
    """The favourite of the mean prediction over all questions about another e1; -1 where there is none."""
    other = torch.tensor([[one != another for another in e1] for one in e1])
    return torch.where(other.any(1), (other.float() @ probs).argmax(-1), -1)


def _groups(questions: Sequence[TwoHop]) -> list[list[int]]:
    """The rows of each kind and form."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(questions):
        found[one.group].append(row)
    return list(found.values())


def _check(questions: Sequence[TwoHop]) -> None:
    if not questions:
        raise ValueError("There are no questions: give at least one, such as those of course_chains(model).")


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answered:
    """Questions that the model answers right, and those it does not: the first token of e3 is its most likely one, or is not."""

    right: tuple[TwoHop, ...]
    wrong: tuple[TwoHop, ...]

    def table(self) -> str:
        """One line for each kind and form, and one for all: how many questions and e1, and the share of right answers with its interval."""
        every = [(one, True) for one in self.right] + [(one, False) for one in self.wrong]
        width = max(len(one.group) for one, _ in every)
        groups = {name: [pair for pair in every if pair[0].group == name] for name in sorted({one.group for one, _ in every})}
        rows = [f"{name:<{width}} {_counted(pairs)}" for name, pairs in (groups | {"all": every}).items()]
        return "\n".join([f"{'kind':<{width}}      n     e1   right", *rows])


def _counted(pairs: Sequence[tuple[TwoHop, bool]]) -> str:
    """Questions, different e1, and the share of right answers, with an interval if there are two e1 at least."""
    e1, hits = [one.e1 for one, _ in pairs], [hit for _, hit in pairs]
    interval = " [{:.1%}, {:.1%}]".format(*cluster_interval(hits, e1)) if len(set(e1)) > 1 else ""
    return f"{len(hits):>6} {len(set(e1)):>6} {np.mean(hits):>7.1%}{interval}"


def answered(model: TransformerBridge, questions: Sequence[TwoHop]) -> Answered:
    """Asks the questions and sorts them by whether the model's most likely next token is the first one of e3."""
    _check(questions)
    prompts = [one.text for one in questions]
    hits = said(model, prompts) == first_tokens(model, prompts, [one.e3 for one in questions])
    pairs = list(zip(questions, hits.tolist(), strict=True))
    return Answered(tuple(one for one, hit in pairs if hit), tuple(one for one, hit in pairs if not hit))


# ----------------------------------------------------------------------------------------------------- where tokens are


@dataclass(frozen=True)
class _Asked:
    """Questions as tokens: where ``t1`` is, and the first tokens of e2, as it follows the phrase, and of e3."""

    questions: tuple[TwoHop, ...]
    texts: Texts
    t1: Int[Tensor, "question"]
    e2: Int[Tensor, "question"]
    e3: Int[Tensor, "question"]

    @property
    def both(self) -> Int[Tensor, "place question"]:
        return torch.stack([self.place(at) for at in PLACES])

    def place(self, at: str) -> Int[Tensor, "question"]:
        if at not in PLACES:
            raise ValueError(f"There is no position {at!r}: t1 is the end of the first hop's phrase, t2 the last token.")
        return self.t1 if at == "t1" else self.texts.lengths - 1


def _located(model: TransformerBridge, questions: Sequence[TwoHop]) -> _Asked:
    """Raises ValueError where a phrase's tokens run on into what follows, and for a prompt that is too long."""
    _check(questions)
    texts, t1 = as_texts(model, [one.text for one in questions]), []
    for row, one in enumerate(questions):
        start = tokenize(model, one.phrase).tolist()
        if texts.tokens[row, : len(start)].tolist() != start or len(tokenize(model, one.text)) > model.cfg.n_ctx:
            raise ValueError(f"In {one.text!r} the tokens of {one.phrase!r} are no beginning of their own, or it is too long: rewrite it.")
        t1.append(len(start) - 1)
    e2 = first_tokens(model, [one.phrase for one in questions], [one.e2 for one in questions])
    e3 = first_tokens(model, [one.text for one in questions], [one.e3 for one in questions])
    return _Asked(tuple(questions), texts, torch.tensor(t1), e2, e3)


@torch.no_grad()
def states(model: TransformerBridge, texts: Texts, places: Int[Tensor, "place question"]) -> Float[Tensor, "place layer question d_model"]:
    """The stream after every block at some positions of each text; on the CPU."""
    layers = range(model.cfg.n_layers)
    found = torch.empty(len(places), len(layers), len(texts), model.cfg.d_model)
    for rows in progress(list(texts.batches()), desc="states"):
        part, each = texts.take(rows), torch.arange(len(rows))
        seen = record(model, part.tokens.to(model.cfg.device), *map(resid_post, layers))
        for layer in layers:
            found[:, layer, rows] = seen[resid_post(layer)][each, places[:, rows]].float().cpu()
    return found


def partners(questions: Sequence[TwoHop], seed: int = 0, barred: Bool[Tensor, "question other"] | None = None) -> Int[Tensor, "question"]:
    """For each question another one, drawn at random, with another e1, e2 and e3: of the same kind and form if there is one, else of the
    same form, else any. ``barred`` marks further pairs that must not meet. Raises ValueError where there is none.
    """
    rng, found = Random(seed), []
    free = torch.ones(len(questions), len(questions), dtype=torch.bool) if barred is None else ~barred
    for one, allowed in zip(questions, free.tolist(), strict=True):
        others = [row for row, other in enumerate(questions) if allowed[row] and _strangers(one, other)]
        groups = [[row for row in others if near(one, questions[row])] for near in (_same_group, _same_form)]
        pool = next((rows for rows in (*groups, others) if rows), None)
        if pool is None:
            raise ValueError(f"There is no fitting question with another e1, e2 and e3 than {one.text!r}: give more questions.")
        found.append(rng.choice(pool))
    return torch.tensor(found)


def _strangers(one: TwoHop, other: TwoHop) -> bool:
    return other.e1 != one.e1 and other.e2 != one.e2 and other.e3 != one.e3


def _same_group(one: TwoHop, other: TwoHop) -> bool:
    return one.group == other.group


def _same_form(one: TwoHop, other: TwoHop) -> bool:
    return one.form == other.form


# ---------------------------------------------------------------------------------------------------- when it can be read


@dataclass(frozen=True)
class Readable:
    """At which place among all tokens, or among all bridges of a probe, something stands after each block: 0 is the first; -1 is unknown.

    ``ranks`` has "e2 at t1", "e2 at t2" and "e3 at t2" by the logit lens, the e2 also by a probe where one was trained ("e2 at t1, probe"),
    and for each a control: the same for the e2 or e3 of another question ("another e2 at t1").
    """

    questions: tuple[TwoHop, ...]
    ranks: Mapping[str, Int[Tensor, "layer question"]]

    def earliest(self, what: str, top: int = 1) -> Int[Tensor, "question"]:
        """The first layer in which each is among the ``top`` best; ``n_layers`` where it never is, -1 where it is unknown."""
        ranks = self._of(what)
        hits = torch.cat([(ranks < top) & (ranks >= 0), torch.ones(1, ranks.shape[1], dtype=torch.bool)])
        return torch.where(ranks[0] < 0, -1, hits.int().argmax(0))

    def share(self, what: str, top: int = 1) -> Float[Tensor, "layer"]:
        """The share of questions where it is among the ``top`` best, layer by layer."""
        ranks = self._of(what)
        return (ranks[:, ranks[0] >= 0] < top).float().mean(1)

    def median(self, what: str, top: int = 1) -> tuple[float, Interval]:
        """The median of the earliest layers and its 95 % interval over distinct e1; ``n_layers`` counts as never."""
        first = self.earliest(what, top)
        kept = (first >= 0).nonzero().flatten().tolist()
        values, clusters = first[kept].tolist(), [self.questions[row].e1 for row in kept]
        return float(np.median(as_numbers(values))), cluster_interval(values, clusters, statistic=np.median)

    def _of(self, what: str) -> Int[Tensor, "layer question"]:
        if what not in self.ranks:
            raise ValueError(f"{what!r} was not looked for, only {', '.join(map(repr, self.ranks))}.")
        return self.ranks[what]

    def table(self, top: int = 1) -> str:
        """One line for each: the median earliest layer with its interval, and in which share of the questions it can ever be read."""
        lines = []
        for what, ranks in self.ranks.items():
            first, (middle, (low, high)) = self.earliest(what, top), self.median(what, top)
            ever = (first[first >= 0] < len(ranks)).float().mean()
            lines.append(f"{what:<28} {middle:>6.1f} [{low:.1f}, {high:.1f}] {ever:>8.1%} {(first >= 0).sum():>6}")
        return "\n".join([f"{'':<28} median earliest layer   ever      n", *lines])


@torch.no_grad()
def readable(model: TransformerBridge, questions: Sequence[TwoHop], train: Sequence[TwoHop] = (), seed: int = 0) -> Readable:
    """After which blocks e2 can be read at t1 and t2, and e3 at t2, by the logit lens; with questions to ``train`` on, e2 also by a probe.

    Controls read for the entities of another question (see ``partners``). Raises ValueError where an e1 stands on both sides.
    """
    asked, other = _located(model, questions), partners(questions, seed)
    seen = dict(zip(PLACES, states(model, asked.texts, asked.both), strict=True))
    ranks = {}
    for what, at in READ:
        ids = asked.e2 if what == "e2" else asked.e3
        ranks[f"{what} at {at}"], ranks[f"another {what} at {at}"] = _lens_ranks(model, seen[at], torch.stack([ids, ids[other]]))
    if train:
        own, known = [one.e2 for one in questions], _located(model, train)
        for at, shown in zip(PLACES, states(model, known.texts, known.both), strict=True):
            probe = fit_bridges(known.questions, shown)
            ranks[f"e2 at {at}, probe"] = probe.ranks(asked.questions, seen[at], own)
            ranks[f"another e2 at {at}, probe"] = probe.ranks(asked.questions, seen[at], [own[row] for row in other.tolist()])
    return Readable(asked.questions, ranks)


def _lens_ranks(
    model: TransformerBridge, seen: Float[Tensor, "layer question d_model"], ids: Int[Tensor, "which question"]
) -> Int[Tensor, "which layer question"]:
    """How many tokens the logit lens puts before each of the given ones."""
    found = torch.empty(len(ids), *seen.shape[:2], dtype=torch.long)
    for layer, stream in enumerate(seen):
        for rows in torch.arange(seen.shape[1]).split(LENS_ROWS):
            logits = lens_logits(model, stream[rows].to(model.cfg.device)).float().cpu()
            for which, tokens in enumerate(ids):
                found[which, layer, rows] = (logits > logits.gather(1, tokens[rows, None])).sum(1)
    return found


@dataclass(frozen=True)
class Bridges:
    """A linear probe for e2: the nearest of the bridges' mean states, where differences within a bridge are scaled to be alike (LDA).

    Every state is taken relative to the ``means`` of its kind and form. ``scale`` is the inverse covariance within bridges.
    """

    groups: tuple[str, ...]
    names: tuple[str, ...]
    e1: frozenset[str]
    means: Float[Tensor, "layer group d_model"]
    centroids: Float[Tensor, "layer bridge d_model"]
    scale: Float[Tensor, "layer d_model d_model"]

    def ranks(
        self, questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], bridges: Sequence[str]
    ) -> Int[Tensor, "layer question"]:
        """How many bridges are nearer to each state than the named one; -1 where the probe knows the bridge or the kind not.

        Raises ValueError for an e1 that the probe was trained on.
        """
        if both := sorted({one.e1 for one in questions} & self.e1):
            raise ValueError(f"{both[0]!r} is a first entity of both sets: a probe must be trained on questions about other e1.")
        group = torch.tensor([self.groups.index(one.group) if one.group in self.groups else -1 for one in questions])
        at = torch.tensor([self.names.index(name) if name in self.names else -1 for name in bridges])
        states = seen - self.means[:, group]
        size = ((self.centroids @ self.scale) * self.centroids).sum(-1)
        distance = size[:, None] - 2 * states @ self.scale @ self.centroids.mT  # up to a term that all bridges share
        own = distance.gather(2, at.clamp(min=0).expand(len(seen), -1)[..., None])
        return torch.where((at < 0) | (group < 0), -1, (distance < own).sum(-1))


def fit_bridges(questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], penalty: float = PENALTY) -> Bridges:
    """Fits the probe; ``penalty`` times the states' mean variance is added to the variances within bridges."""
    groups, names = sorted({one.group for one in questions}), sorted({one.e2 for one in questions})
    group = torch.tensor([groups.index(one.group) for one in questions])
    name = torch.tensor([names.index(one.e2) for one in questions])
    means = _means(seen, group)
    inputs = seen - means[:, group]
    centroids = _means(inputs, name)
    rest = inputs - centroids[:, name]
    ridge = penalty * inputs.square().mean((1, 2))[:, None, None] * torch.eye(seen.shape[-1])
    scale = torch.linalg.inv(rest.mT @ rest / len(questions) + ridge)
    return Bridges(tuple(groups), tuple(names), frozenset(one.e1 for one in questions), means, centroids, scale)


def _means(seen: Float[Tensor, "layer question d_model"], number: Int[Tensor, "question"]) -> Float[Tensor, "layer number d_model"]:
    """The mean state of the questions with each number."""
    member = torch.nn.functional.one_hot(number).float()
    return (member / member.sum(0)).T @ seen


# -------------------------------------------------------------------------------------------------------- back-patching


@dataclass(frozen=True)
class BackPatch:
    """What the model says after each patch: at the position ``at``, the state of a source layer in the place of a target layer's.

    ``source`` says whose state it was. ``before`` and ``answers`` are the tokens that the model said without a patch, and should say;
    ``rivals`` are the tokens that were about as likely as the answers without a patch.
    """

    questions: tuple[TwoHop, ...]
    pairs: tuple[Pair, ...]
    tokens: Int[Tensor, "pair question"]
    before: Int[Tensor, "question"]
    answers: Int[Tensor, "question"]
    rivals: Int[Tensor, "question"]
    at: str
    source: str
    n_layers: int

    def take(self, rows: Sequence[int]) -> "BackPatch":
        """Some of the questions only."""
        few = {name: getattr(self, name)[list(rows)] for name in ("before", "answers", "rivals")}
        return replace(self, questions=tuple(self.questions[row] for row in rows), tokens=self.tokens[:, list(rows)], **few)

    @property
    def e1(self) -> list[str]:
        """The first entity of each question: the cluster to which it belongs."""
        return [one.e1 for one in self.questions]

    @cached_property
    def hits(self) -> Bool[Tensor, "pair question"]:
        """Is the answer right after each patch?"""
        return self.tokens == self.answers

    @property
    def oracle(self) -> Bool[Tensor, "question"]:
        """Is there any pair of layers that brings the right answer? Whoever reports this has looked at the answer."""
        return self.hits.any(0)

    @property
    def map(self) -> Float[Tensor, "source target"]:
        """The share of right answers for each source layer (row) and target layer (column); NaN where nothing was tried."""
        found = torch.full((self.n_layers, self.n_layers), torch.nan)
        sources, targets = torch.tensor(self.pairs).T
        found[sources, targets] = self.hits.float().mean(1)
        return found

    @property
    def luck(self) -> Float[Tensor, "question"]:
        """How often the oracle would find *another* answer of the same kind, one that is wrong and was not said before: the share of the
        kind's other answers that some patch of the question brings. NaN where the kind has no other answer.
        """
        answers: dict[str, set[int]] = defaultdict(set)
        for one, token in zip(self.questions, self.answers.tolist(), strict=True):
            answers[one.kind].add(token)
        found = []
        for row, one in enumerate(self.questions):
            others = answers[one.kind] - {int(self.answers[row]), int(self.before[row])}
            seen = others & set(self.tokens[:, row].tolist())
            found.append(len(seen) / len(others) if others else torch.nan)
        return torch.tensor(found)

    @property
    def rival(self) -> Bool[Tensor, "question"]:
        """Would the oracle find a wrong token that was about as likely as the answer before? Any disturbance lifts the runners-up."""
        return (self.tokens == self.rivals).any(0)


def back_pairs(n_layers: int) -> tuple[Pair, ...]:
    """Every pair of a source layer and an earlier target layer."""
    return tuple((source, target) for target in range(n_layers) for source in range(target + 1, n_layers))


@torch.no_grad()
def back_patch(
    model: TransformerBridge,
    questions: Sequence[TwoHop],
    at: str = "t1",
    source: str = "own",
    pairs: Sequence[Pair] | None = None,
    seed: int = 0,
) -> BackPatch:
    """Runs every question again for each pair of layers, with the state of the source layer in the place of the target layer's.

    ``source`` is whose state: the question's ``own``, or, as controls with equally many tries, that of an ``other prompt`` (see
    ``partners``), of an ``unknowing prompt``, which moreover does not say this question's answer by mistake, as a failed question does not
    either; of the ``previous token``; or a ``random`` one of equal norm. Only what stands from the position on is run, from the target
    layer on. Raises ValueError for an unknown layer, position or source.
    """
    asked, layers = _located(model, questions), model.cfg.n_layers
    pairs = back_pairs(layers) if pairs is None else tuple(pairs)
    if not pairs or not all(0 <= layer < layers for pair in pairs for layer in pair):
        raise ValueError(f"A pair is (source layer, target layer), each from 0 to {layers - 1}; give at least one such pair.")
    places, (before, rivals) = asked.place(at), _before(model, asked)
    given = _given(model, asked, places, source, before, seed)
    tokens = torch.empty(len(pairs), len(questions), dtype=torch.long)
    with progress(total=len(questions) * len(pairs), desc=f"{at}, {source}") as bar:
        for place in places.unique().tolist():
            rows = (places == place).nonzero().flatten()
            tokens[:, rows] = _patched(model, asked.texts.take(rows), place, given[:, rows], pairs, bar.update)
    return BackPatch(asked.questions, pairs, tokens, before, asked.e3, rivals, at, source, layers)


def _before(model: TransformerBridge, asked: _Asked) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
    """What the model says without a patch, and the token next to the answer in log-probability that is neither this nor the answer."""
    found = []
    for some in torch.arange(len(asked.questions)).split(LENS_ROWS):
        logp = predictions(model, [asked.questions[row].text for row in some.tolist()]).log()
        best, answers = logp.argmax(-1, keepdim=True), asked.e3[some, None]
        gap = (logp - logp.gather(1, answers)).abs().scatter(1, best, torch.inf).scatter(1, answers, torch.inf)
        found.append(torch.stack([best[:, 0], gap.argmin(-1)]))
    return tuple(torch.cat(found, 1))


def _given(
    model: TransformerBridge, asked: _Asked, places: Int[Tensor, "question"], source: str, before: Int[Tensor, "question"], seed: int
) -> Float[Tensor, "layer question d_model"]:
    """The states that are put in, for each source layer."""
    if source not in SOURCES:
        raise ValueError(f"There is no source {source!r}: a state is taken from {', '.join(SOURCES)}.")
    if source == "previous token":
        if int(places.min()) == 0:
            raise ValueError("A first hop ends at the first token, so there is no previous one: begin the prompt with another word.")
        return states(model, asked.texts, places[None] - 1)[0]
    own = states(model, asked.texts, places[None])[0]
    if source == "other prompt":
        return own[:, partners(asked.questions, seed)]
    if source == "unknowing prompt":
        return own[:, partners(asked.questions, seed, barred=asked.e3[:, None] == before)]
    if source == "random":
        drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(seed))
        return drawn / drawn.norm(dim=-1, keepdim=True) * own.norm(dim=-1, keepdim=True)
    return own


def _patched(
    model: TransformerBridge,
    texts: Texts,
    place: int,
    given: Float[Tensor, "layer question d_model"],
    pairs: Sequence[Pair],
    done: Callable[[int], object],
) -> Int[Tensor, "pair question"]:
    """What the model says after each patch at one position: all that stands before it is read once for all patches."""
    tokens, ends = texts.tokens.to(model.cfg.device), texts.lengths - 1 - place
    prefix = read_prefix(model, tokens[:, :place]) if place else None
    targets = sorted({target for _, target in pairs})
    seen = record(model, tokens, *map(resid_post, targets))
    found = torch.empty(len(pairs), len(texts), dtype=torch.long)
    for target in targets:
        stream = seen[resid_post(target)][:, place:]
        mine = torch.tensor([(number, layer) for number, (layer, at) in enumerate(pairs) if at == target])
        which = torch.cartesian_prod(torch.arange(len(mine)), torch.arange(len(texts)))
        for part in which.split(max(1, PATCHED_TOKENS // stream.shape[1])):
            (number, layer), rows = mine[part[:, 0]].T, part[:, 1]
            entering = stream[rows].clone()
            entering[:, 0] = given[layer, rows].to(stream)
            with intervene(model, unembed_only_at(ends[rows, None])):
                found[number, rows] = run_from(model, entering, target + 1, prefix, rows)[:, 0].argmax(-1).cpu()
            done(len(part))
    return found


# ----------------------------------------------------------------------------------------------------- beside its controls


@dataclass(frozen=True)
class Rescue:
    """Back-patching of the same questions with their own states and with those of each control, equally many tries each."""

    runs: Mapping[str, BackPatch]

    def run(self, source: str = "own") -> BackPatch:
        """The patches with the states of one source. Raises ValueError where it was left out."""
        if source not in self.runs:
            raise ValueError(f"There are no patches from {source!r}, only from {', '.join(map(repr, self.runs))}.")
        return self.runs[source]

    def oracle(self, source: str = "own") -> Float[Tensor, "question"]:
        """1 where some pair of layers brings the right answer, else 0."""
        return self.run(source).oracle.float()

    def fixed(self, source: str = "own", chosen: str = "", splits: int = SPLITS, seed: int = 0) -> Float[Tensor, "question"]:
        """How often each question is right under a single pair of layers that was chosen without any question about its e1.

        The e1 are split in halves; the pair with most right answers on one half is judged on the other one, and the other way round; means
        over the splits. ``chosen`` says for whose states the pair was chosen, by default for those of ``source`` itself.
        """
        judged, chooser = self.run(source).hits.float(), self.run(chosen or source).hits.float()
        found = torch.zeros(judged.shape[1])
        for one, other in e1_halves(self.run(source).questions, splits, seed):
            for choose, report in ((one, other), (other, one)):
                found[report] += judged[chooser[:, choose].mean(1).argmax(), report]
        return found / splits

    def best_pair(self, source: str = "own") -> Pair:
        """The pair with most right answers on all questions, to be judged on other ones (see ``kept``)."""
        run = self.run(source)
        return run.pairs[int(run.hits.float().mean(1).argmax())]

    def interval(self, values: Float[Tensor, "question"], minus: Float[Tensor, "question"] | None = None) -> tuple[float, Interval]:
        """The mean of some values of the questions, or of their differences, and its 95 % interval over distinct e1."""
        run = next(iter(self.runs.values()))
        values = values if minus is None else values - minus
        rows = (~values.isnan()).nonzero().flatten().tolist()
        kept = values[rows]
        return kept.mean().item(), cluster_interval(kept, [run.e1[row] for row in rows])

    def take(self, rows: Sequence[int]) -> "Rescue":
        """Some of the questions only, such as those whose bridge can be read late."""
        return Rescue({source: run.take(rows) for source, run in self.runs.items()})

    def table(self, only: Sequence[str] = ()) -> str:
        """For the oracle, for each source's own best pair and for the best pair of the own states: the rate with each source's states, and
        by how much the own states surpass it. Below: how often the oracle finds other answers (``luck``, ``rival``).

        ``only``: the beginnings of the lines to keep, such as "any pair".
        """
        measures = {
            "any pair (oracle)": self.oracle,
            "its own best pair": self.fixed,
            "the pair best for own": lambda source="own": self.fixed(source, "own"),
        }
        lines = [f"{'judged by':<23}{'states from':<18}{'right':<23}own minus it"]
        for name, measure in measures.items():
            for source in self.runs:
                difference = "" if source == "own" else self._cell(measure(), measure(source), sign="+")
                lines.append(f"{name:<23}{source:<18}{self._cell(measure(source)):<23}{difference}".rstrip())
        for name, found in (("oracle, other answers", "luck"), ("oracle, rival tokens", "rival")):
            shares = {source: getattr(run, found).float() for source, run in self.runs.items()}
            lines += [f"{name:<23}{source:<18}{self._cell(share)}" for source, share in shares.items()]
        kept = [line for line in lines[1:] if not only or line.startswith(tuple(only))]
        return "\n".join([lines[0], *kept])

    def _cell(self, values: Float[Tensor, "question"], minus: Float[Tensor, "question"] | None = None, sign: str = "") -> str:
        if bool(values.isnan().all()):
            return "none"
        mean, (low, high) = self.interval(values, minus)
        return f"{mean:{sign}.1%} [{low:{sign}.1%}, {high:{sign}.1%}]"


def e1_halves(questions: Sequence[TwoHop], splits: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """The rows in two halves that share no e1, split after split. Raises ValueError where there is only one e1, or no split."""
    names, rng, found = sorted({one.e1 for one in questions}), Random(seed), []
    if len(names) < 2 or splits < 1:
        raise ValueError(f"Splitting needs two first entities at least, and one split; here are {len(names)} entities and {splits} splits.")
    for _ in range(splits):
        half = set(rng.sample(names, len(names) // 2))
        sides = [[row for row, one in enumerate(questions) if (one.e1 in half) == side] for side in (True, False)]
        found.append((sides[0], sides[1]))
    return found


def rescue(
    model: TransformerBridge,
    wrong: Sequence[TwoHop],
    at: str = "t1",
    sources: Sequence[str] = SOURCES,
    seed: int = 0,
    pairs: Sequence[Pair] | None = None,
) -> Rescue:
    """Back-patches questions that were answered wrong, for every pair of layers or for some, with their own states and the controls'."""
    return Rescue({source: back_patch(model, wrong, at, source, pairs, seed) for source in sources})


def kept(
    model: TransformerBridge, right: Sequence[TwoHop], pair: Pair, at: str = "t1", source: str = "own", seed: int = 0
) -> Bool[Tensor, "question"]:
    """Which questions that were right before are still right after the patch of one pair of layers."""
    return back_patch(model, right, at, source, [pair], seed).hits[0]
