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
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm import facts
from helpers.course_lm.corpus.base import sentence
from helpers.effects import whole_words
from helpers.interventions import intervene, read_at, record, resid_post
from helpers.models import TransformerBridge, read_prefix, run_from
from helpers.prediction import tokenize
from helpers.progress import progress
from helpers.recall import lens
from helpers.statistics import DRAWS, Interval, Numbers, as_numbers
from helpers.texts import Texts, as_texts

FORMS = ("of", "possessive")
PLACES = ("t1", "t2")
SOURCES = ("own", "other prompt", "previous token", "random")  # whose state is put in: the question's own, or that of a control
PATCHED_TOKENS = 2048  # tokens in one forward pass over patched copies
LENS_ROWS = SAID_ROWS = 256  # states unembedded, or prompts read, at once
Pair = tuple[int, int]  # source layer, target layer

# ------------------------------------------------------------------------------------------------------------ intervals


def cluster_interval(
    values: Numbers, clusters: Sequence[str], seed: int = 0, statistic: Callable = np.mean, draws: int = DRAWS
) -> Interval:
    """The 95 % interval of a mean (or another ``statistic``) by resampling whole clusters, such as all questions about one entity.

    Raises ValueError unless each value has its cluster, and there are two clusters at least.
    """
    numbers, names = np.array(as_numbers(values)), sorted(set(clusters))
    if len(numbers) != len(clusters):
        raise ValueError(f"Each value needs its cluster: there are {len(numbers)} values and {len(clusters)} clusters.")
    if len(names) < 2:
        raise ValueError("An interval over clusters needs two of them at least: ask about more first entities.")
    own = np.searchsorted(np.array(names), np.array(clusters))
    rng = np.random.RandomState(seed)  # numpy promises that this generator never changes
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)  # how often each cluster was drawn
    found = [statistic(np.repeat(numbers, count[own])) for count in counts]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(min(low, statistic(numbers))), float(max(high, statistic(numbers)))


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


def course_chains(model: TransformerBridge, n: int | None = None, seed: int = 0, held_out: bool = True) -> list[TwoHop]:
    """Questions of which the model knows both hops, and whose answer it does not say without the way over e2: ``n``, or all of them.

    Raises ValueError where there are not so many.
    """
    asked = course_questions(held_out)
    kept = (hops_known(model, asked) & ~has_shortcut(model, asked)).nonzero().flatten().tolist()
    if not 1 <= (n or len(kept)) <= len(kept):
        raise ValueError(f"n says how many questions to draw; {len(kept)} pass the filters, so it must be from 1 to that, not {n}.")
    rows = kept if n is None else sorted(Random(seed).sample(kept, n))
    return [asked[row] for row in rows]


# -------------------------------------------------------------------------------------------------------------- filters


@torch.no_grad()
def predictions(model: TransformerBridge, prompts: Sequence[str]) -> Float[Tensor, "prompt d_vocab"]:
    """The probability of every token after each prompt; on the CPU."""
    texts, found = as_texts(model, prompts), torch.empty(len(prompts), model.cfg.d_vocab)
    for rows in texts.batches():
        part = texts.take(rows)
        with intervene(model, read_at(part.lengths[:, None] - 1)):
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
    found = torch.zeros(len(questions), dtype=torch.bool)
    for rows in progress(list(_groups(questions).values()), desc="kinds"):
        some = [questions[row] for row in rows]
        answers = first_tokens(model, [one.text for one in some], [one.e3 for one in some])
        direct = [at for at, one in enumerate(some) if one.direct]
        guessed = _without_own(predictions(model, [one.text for one in some]), [one.e1 for one in some]) == answers
        if direct:
            guessed[direct] |= said(model, [some[at].direct for at in direct]) == answers[direct]
        found[rows] = guessed
    return found


def _without_own(probs: Float[Tensor, "question d_vocab"], e1: Sequence[str]) -> Int[Tensor, "question"]:
    """The favourite of the mean prediction over all questions about another e1; -1 where there is none."""
    other = torch.tensor([[one != another for another in e1] for one in e1])
    return torch.where(other.any(1), (other.float() @ probs).argmax(-1), -1)


def _groups(questions: Sequence[TwoHop]) -> dict[str, list[int]]:
    """The rows of each kind and form."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(questions):
        found[one.group].append(row)
    return found


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
        """One line for each kind and form, and one for all: how many questions, about how many e1, and the share of right answers."""
        every = [*self.right, *self.wrong]
        width = max(len(one.group) for one in every)
        names = sorted({one.group for one in every}) if every else []
        return "\n".join([f"{'kind':<{width}}      n     e1   right", *(self._line(name, width) for name in (*names, "all"))])

    def _line(self, name: str, width: int) -> str:
        right, wrong = ([one for one in side if name in (one.group, "all")] for side in (self.right, self.wrong))
        n, e1 = len(right) + len(wrong), len({one.e1 for one in (*right, *wrong)})
        return f"{name:<{width}} {n:>6} {e1:>6} {len(right) / n:>7.1%}"


def answered(model: TransformerBridge, questions: Sequence[TwoHop]) -> Answered:
    """Asks the questions and sorts them by whether the model's most likely next token is the first one of e3."""
    _check(questions)
    hits = said(model, [one.text for one in questions]) == first_tokens(
        model, [one.text for one in questions], [one.e3 for one in questions]
    )
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
def states(model: TransformerBridge, texts: Texts, places: Int[Tensor, "question"]) -> Float[Tensor, "layer question d_model"]:
    """The stream after every block at one position of each text; on the CPU."""
    layers = range(model.cfg.n_layers)
    found = torch.empty(len(layers), len(texts), model.cfg.d_model)
    for rows in texts.batches():
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), *map(resid_post, layers))
        for layer in layers:
            found[layer, rows] = seen[resid_post(layer)][torch.arange(len(rows)), places[rows]].float().cpu()
    return found


def partners(questions: Sequence[TwoHop], seed: int = 0) -> Int[Tensor, "question"]:
    """For each question another one, drawn at random, with another e1, e2 and e3: of the same kind and form if there is one, else of the
    same form, else any. It knows nothing of the question's entities. Raises ValueError where there is none.
    """
    rng, found = Random(seed), []
    for one in questions:
        others = [row for row, other in enumerate(questions) if other.e1 != one.e1 and other.e2 != one.e2 and other.e3 != one.e3]
        groups = [[row for row in others if near(one, questions[row])] for near in (_same_group, _same_form)]
        pool = next((rows for rows in (*groups, others) if rows), None)
        if pool is None:
            raise ValueError(f"There is no other question with another e1, e2 and e3 than {one.text!r}: give more questions.")
        found.append(rng.choice(pool))
    return torch.tensor(found)


def _same_group(one: TwoHop, other: TwoHop) -> bool:
    return one.group == other.group


def _same_form(one: TwoHop, other: TwoHop) -> bool:
    return one.form == other.form


# ---------------------------------------------------------------------------------------------------- when it can be read


@dataclass(frozen=True)
class Readable:
    """At which place among all tokens (or all centroids) something stands, layer by layer: 0 is the first; -1 where it is unknown.

    ``ranks``: by the logit lens "e2 at t1", "e3 at t2", and their controls "another e2 at t1", "another e3 at t2"; by nearest centroids,
    where these were asked for, "e2 at t1, centroids" and its control.
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
    """In which layer e2 can be read at t1, and e3 at t2, by the logit lens; with ``train``, e2 also by nearest centroids.

    Controls read for the e2 or e3 of another question (see ``partners``). The centroids are the mean states, centred layer by layer, of the
    questions in ``train`` with the same e2; raises ValueError where one of these has an e1 of ``questions``.
    """
    asked, other = _located(model, questions), partners(questions, seed)
    ranks = {}
    for what, at, ids in (("e2", "t1", asked.e2), ("e3", "t2", asked.e3)):
        seen = states(model, asked.texts, asked.place(at))
        ranks[f"{what} at {at}"], ranks[f"another {what} at {at}"] = _lens_ranks(model, seen, torch.stack([ids, ids[other]]))
        if train and at == "t1":
            found = _centroid_ranks(model, asked.questions, seen, train)
            own = [[one.e2 for one in questions], [questions[row].e2 for row in other.tolist()]]
            ranks["e2 at t1, centroids"], ranks["another e2 at t1, centroids"] = (found(names) for names in own)
    return Readable(asked.questions, ranks)


def _lens_ranks(
    model: TransformerBridge, seen: Float[Tensor, "layer question d_model"], ids: Int[Tensor, "which question"]
) -> Int[Tensor, "which layer question"]:
    """How many tokens the logit lens puts before each of the given ones."""
    found = torch.empty(len(ids), *seen.shape[:2], dtype=torch.long)
    for layer, stream in enumerate(seen):
        for rows in torch.arange(seen.shape[1]).split(LENS_ROWS):
            logits = lens(model, stream[rows].to(model.cfg.device)).float().cpu()
            for which, tokens in enumerate(ids):
                found[which, layer, rows] = (logits > logits.gather(1, tokens[rows, None])).sum(1)
    return found


def _centroid_ranks(
    model: TransformerBridge, questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], train: Sequence[TwoHop]
) -> Callable[[Sequence[str]], Int[Tensor, "layer question"]]:
    """Ranks of named bridges by the distance of each question's state from the centroids of ``train``; -1 for one without a centroid."""
    if both := sorted({one.e1 for one in train} & {one.e1 for one in questions}):
        raise ValueError(f"{both[0]!r} is a first entity of both sets: centroids must come from questions about other e1.")
    known = _located(model, train)
    names = sorted({one.e2 for one in train})
    member = torch.tensor([[one.e2 == name for one in train] for name in names]).float()
    shown = states(model, known.texts, known.t1)
    centroids = (member / member.sum(1, keepdim=True)) @ shown  # [layer, bridge, d_model]
    distances = torch.cdist(seen, centroids)

    def ranks(wanted: Sequence[str]) -> Int[Tensor, "layer question"]:
        at = torch.tensor([names.index(name) if name in names else -1 for name in wanted])
        own = distances.gather(2, at.clamp(min=0).expand(len(seen), -1)[..., None])
        return torch.where(at < 0, -1, (distances < own).sum(-1))

    return ranks


# -------------------------------------------------------------------------------------------------------- back-patching


@dataclass(frozen=True)
class BackPatch:
    """What the model says after each patch: at the position ``at``, the state of a source layer in the place of a target layer's.

    ``source`` says whose state it was. ``before`` and ``answers`` are the tokens that the model said without a patch, and should say.
    """

    questions: tuple[TwoHop, ...]
    pairs: tuple[Pair, ...]
    tokens: Int[Tensor, "pair question"]
    before: Int[Tensor, "question"]
    answers: Int[Tensor, "question"]
    at: str
    source: str
    n_layers: int

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
    def n_answers(self) -> Int[Tensor, "question"]:
        """How many different tokens the patches of each question bring: what the oracle may choose from."""
        return torch.tensor([column.unique().numel() for column in self.tokens.T])


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

    ``source`` is whose state: the question's ``own``, or, as controls with equally many tries, that of ``other prompt`` (see ``partners``),
    of the ``previous token``, or a ``random`` one of equal norm. Only what stands from the position on is run, from the target layer on.
    Raises ValueError for an unknown layer, position or source.
    """
    asked, layers = _located(model, questions), model.cfg.n_layers
    pairs = back_pairs(layers) if pairs is None else tuple(pairs)
    if not pairs or not all(0 <= layer < layers for pair in pairs for layer in pair):
        raise ValueError(f"A pair is (source layer, target layer), each from 0 to {layers - 1}; give at least one such pair.")
    places = asked.place(at)
    given = _given(model, asked, places, source, seed)
    before, tokens = said(model, [one.text for one in questions]), torch.empty(len(pairs), len(questions), dtype=torch.long)
    with progress(total=len(questions) * len(pairs), desc=f"{at}, {source}") as bar:
        for place in places.unique().tolist():
            rows = (places == place).nonzero().flatten()
            tokens[:, rows] = _patched(model, asked.texts.take(rows), place, given[:, rows], pairs, bar.update)
    return BackPatch(asked.questions, pairs, tokens, before, asked.e3, at, source, layers)


def _given(
    model: TransformerBridge, asked: _Asked, places: Int[Tensor, "question"], source: str, seed: int
) -> Float[Tensor, "layer question d_model"]:
    """The states that are put in, for each source layer."""
    if source not in SOURCES:
        raise ValueError(f"There is no source {source!r}: a state is taken from {', '.join(SOURCES)}.")
    if source == "previous token":
        if int(places.min()) == 0:
            raise ValueError("A first hop ends at the first token, so there is no previous one: begin the prompt with another word.")
        return states(model, asked.texts, places - 1)
    own = states(model, asked.texts, places)
    if source == "other prompt":
        return own[:, partners(asked.questions, seed)]
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
            with intervene(model, read_at(ends[rows, None])):
                found[number, rows] = run_from(model, entering, target + 1, prefix, rows)[:, 0].argmax(-1).cpu()
            done(len(part))
    return found
