"""How a fact is recalled, and how a sum is done: which tokens a prediction draws on, in which layers, and who says the answer.

Facts follow Geva et al. 2023 (arXiv 2304.14767): *attention knockout* keeps the last token from looking at the subject, or at the rest, in
a few layers (section 4); the *attributes rate* says how much of a subject its last token has come to hold (section 5); an *extraction
event* is an attention or MLP output that says the answer by itself (section 6). Sums follow Stolfo et al. 2023 (arXiv 2305.15054).

    facts = known(model, course_facts(n=200))
    print(knockout_curves(model, facts, width=3).table())
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, permutations, zip_longest
from operator import itemgetter
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.patching import PatchMap, Place, patch_positions, prompt_pairs
from helpers.course_lm.corpus.tasks import SUMS, total
from helpers.course_lm.facts import Fact, Relation, all_facts, relations
from helpers.course_lm.world import World
from helpers.interventions import (
    Intervention,
    attn_out,
    head_out,
    intervene,
    mean_ablate,
    mlp_out,
    pattern,
    record,
    resid_post,
    resid_pre,
    unembed_only_at,
    watch,
    zero_ablate,
)
from helpers.metrics import Metric, log_prob, whole_words
from helpers.models import TransformerBridge, run_from
from helpers.one_layer.function_vectors import Head, top_heads
from helpers.prediction import LOST, pieces, tokenize
from helpers.progress import progress
from helpers.running import lens_logits, score_prompts
from helpers.stats import Interval, mean_interval
from helpers.texts import BATCH_TOKENS, Texts, as_texts

SOURCES = ("subject", "relation", "last", "first", "random")
LENS_ROWS = 512  # vectors unembedded at once: their logits over the whole vocabulary are kept for a moment
FEW_LETTERS = 3  # shorter words, and shorter beginnings of words, say too little to count as an attribute
STOP_WORDS = {"the", "and", "for", "with", "from", "you", "she", "her", "his", "its", "one"}
Windows = Sequence[Sequence[int]]

# ------------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class FactPrompt:
    """A prompt about a subject that begins at letter ``start`` of the text, and the answer that should follow.

    ``attributes`` are words that are true of the subject, and ``others`` words of another subject: the control (see ``enrichment``).
    """

    text: str
    answer: str
    subject: str
    start: int
    relation: str = ""
    attributes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def before(self) -> str:
        """What stands before the subject, without the space between."""
        return self.text[: self.start].rstrip()

    @property
    def through(self) -> str:
        """The text up to the end of the subject."""
        return self.text[: self.start + len(self.subject)]


def fact_prompt(text: str, answer: str, subject: str, **about: str | tuple[str, ...]) -> FactPrompt:
    """A prompt for any model: ``fact_prompt("The capital of Poland is", "Warsaw", "Poland")``. Capital and small letters are the same.

    Raises ValueError unless the subject stands in the text, and once only.
    """
    found = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", text, re.IGNORECASE)]
    if not subject.strip() or len(found) != 1:
        raise ValueError(f"The subject {subject!r} must stand in {text!r} once, but is there {len(found)} times: write another prompt.")
    return FactPrompt(text, answer, subject, found[0], **about)


def course_facts(names: Sequence[str] | None = None, n: int = 100, seed: int = 0) -> list[FactPrompt]:
    """``n`` facts of the course LM's world, from all relations in turn or from some, each once, with a sentence drawn for each.

    Where a relation has both kinds of sentences, the subject begins every other one ("Poland's capital is") and stands later in the
    rest ("The capital of Poland is"). Raises ValueError for an unknown relation, and where there are too few facts.
    """
    world, rng, every = World.load(), Random(seed), relations()
    if unknown := next((name for name in names or () if name not in every), None):
        raise ValueError(f"There is no relation {unknown!r} in the world; there are: {', '.join(every)}.")
    usable = [fact for fact in all_facts(world) if (not names or fact.relation.name in names) and _fit_to_ask(fact)]
    if not 1 <= n <= len(usable):
        raise ValueError(f"n says how many facts to draw; these relations have {len(usable)}, so it must be from 1 to that, not {n}.")
    pools = [[fact for fact in usable if fact.relation is relation] for relation in every.values()]
    pools = [rng.sample(pool, len(pool)) for pool in pools]
    turns = [(turn, fact) for turn, row in enumerate(zip_longest(*pools)) for fact in row if fact]
    said = _said(world)
    return [_told(world, said, fact, turn % 2 == 0, rng) for turn, fact in turns[:n]]


def _fit_to_ask(fact: Fact) -> bool:
    """Is the answer a word of its own, which the prompt does not give away?"""
    subject, answer = fact.subject.lower(), fact.object.lower()
    return fact.answer == fact.object and answer not in subject and subject not in answer and bool(fact.relation.forward)


def _told(world: World, said: dict[str, tuple[str, ...]], fact: Fact, at_start: bool, rng: Random) -> FactPrompt:
    """The fact up to its answer, with its own attributes and those of another subject."""
    asked = fact.probe(rng.choice(_sentences(fact.relation, at_start)))
    own, other = said[fact.subject], said.get(_another(world, fact, rng), ())
    about = {"relation": fact.relation.name, "attributes": own, "others": tuple(word for word in other if word not in own)}
    return fact_prompt(asked.prompt, asked.answer, fact.subject, **about)


def _sentences(relation: Relation, at_start: bool) -> list[str]:
    """The templates that begin with the subject, or the others; if there are none, whatever there is."""
    fitting = [template for template in relation.forward if template.startswith(("{s}", "The {s}", "A {s}")) == at_start]
    return fitting or list(relation.forward)


def _another(world: World, fact: Fact, rng: Random) -> str:
    """Another subject of the same table."""
    column = world.column(fact.relation.table, fact.relation.subject)
    return rng.choice([name for name in column if name != fact.subject])


def attributes_of(world: World, subject: str) -> tuple[str, ...]:
    """All that the world's tables say about a subject: the objects of all its facts, and the words of its rows.

    Raises ValueError where they say nothing.
    """
    said = _said(world)
    if subject not in said:
        raise ValueError(f"The world's tables say nothing about {subject!r}: name one of their subjects, capital letters included.")
    return said[subject]


def _said(world: World) -> dict[str, tuple[str, ...]]:
    """The attributes of every subject."""
    said: dict[str, set[str]] = {}
    for fact in all_facts(world):
        said.setdefault(fact.subject, set()).update({fact.object, *fact.row.values()} - {"", fact.subject})
    return {subject: tuple(sorted(words)) for subject, words in said.items()}


def known(model: TransformerBridge, facts: Sequence[FactPrompt]) -> list[FactPrompt]:
    """The facts that the model answers right: the answer's first token is its most likely one. Raises ValueError where it knows none."""
    asked = _tokenised(model, facts)
    kept = [fact for fact, hit in zip(facts, _right(model, asked.texts, asked.answers).tolist(), strict=True) if hit]
    if not kept:
        raise ValueError("The model answers none of these prompts right: ask for other facts, or write the prompts as it has read them.")
    return kept


def _right(model: TransformerBridge, texts: Texts, answers: Int[Tensor, "prompt"]) -> Bool[Tensor, "prompt"]:
    return score_prompts(model, texts, lambda logits: logits[:, -1].argmax(-1) == answers.to(logits.device)) > 0


# --------------------------------------------------------------------------------------------------------- where tokens are


@dataclass(frozen=True)
class _Asked:
    """Facts as tokens: where the subject begins, where it has ended, and the first token of each answer."""

    texts: Texts
    start: Int[Tensor, "prompt"]
    stop: Int[Tensor, "prompt"]
    answers: Int[Tensor, "prompt"]

    @property
    def ends(self) -> Int[Tensor, "prompt"]:
        return self.texts.lengths - 1

    @property
    def subject(self) -> Bool[Tensor, "prompt pos"]:
        place = torch.arange(self.texts.tokens.shape[1])
        return (place >= self.start[:, None]) & (place < self.stop[:, None])

    def batches(self, tokens: int) -> Iterator[tuple[Int[Tensor, "batch"], "_Asked"]]:
        """The facts in parts of similar length, with their numbers."""
        for rows in progress(list(self.texts.batches(tokens)), desc="batches"):
            yield rows, _Asked(self.texts.take(rows), self.start[rows], self.stop[rows], self.answers[rows])


def subject_tokens(model: TransformerBridge, fact: FactPrompt) -> tuple[int, int]:
    """Where the subject's tokens begin, and the position after the last of them; a space in front belongs to the subject.

    Raises ValueError where the subject's tokens are not its own, where nothing follows them, and for a prompt that is too long.
    """
    parts = [tokenize(model, part).tolist() for part in (fact.before, fact.through, fact.text)]
    before, through, whole = parts
    if len(whole) > model.cfg.n_ctx:
        raise ValueError(f"{fact.text[:30]!r} has {len(whole)} tokens and this model reads {model.cfg.n_ctx}: write a shorter prompt.")
    if not len(before) < len(through) or any(whole[: len(part)] != part for part in parts):
        raise ValueError(f"In {fact.text!r} this model's tokens do not keep {fact.subject!r} apart from the words around it: rewrite it.")
    if len(through) == len(whole):
        raise ValueError(f"{fact.text!r} ends with its subject: something must follow, from where the model looks back at the subject.")
    return len(before), len(through)


def _tokenised(model: TransformerBridge, facts: Sequence[FactPrompt]) -> _Asked:
    if not facts:
        raise ValueError("There are no facts: give at least one prompt with its subject and answer.")
    spans = torch.tensor([subject_tokens(model, fact) for fact in facts])
    texts = [fact.text for fact in facts]
    answers = [ids[0] for ids in whole_words(model, texts, [[fact.answer] for fact in facts]).ids]
    return _Asked(as_texts(model, texts), spans[:, 0], spans[:, 1], torch.tensor(answers))


# -------------------------------------------------------------------------------------------------------- attention knockout


def attn_scores(layer: int) -> str:
    """What the heads of a block find before the softmax: ``[batch, head, query pos, key pos]``."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def cut_attention(layer: int, queries: Int[Tensor, "row"], keys: Bool[Tensor, "row pos"]) -> Intervention:
    """No head of a block looks from the query position of each row to the positions that ``keys`` marks (Geva et al., section 4).

    Their scores become the lowest number there is, so that their attention is 0 and the rest still sums to 1. Raises ValueError where
    a row would have nothing left to look at.
    """
    place = torch.arange(keys.shape[1])
    if bool((nothing := ~((place <= queries[:, None]) & ~keys).any(1)).any()):
        raise ValueError(f"Row {int(nothing.nonzero()[0])} would have nothing left to look at: leave at least one position.")

    def change(scores: Tensor, pick: object) -> Tensor:
        cut = (place == queries[:, None])[:, None, :, None] & keys[:, None, None, :]  # [row, 1, query, key]
        return scores.masked_fill(cut.to(scores.device), torch.finfo(scores.dtype).min)

    return Intervention(attn_scores(layer), change)


def layer_windows(n_layers: int, width: int) -> list[range]:
    """The ``width`` layers around each layer (an even width reaches one further back), fewer at the ends of the model."""
    if not 1 <= width <= n_layers:
        raise ValueError(f"width says how many layers a window has; this model has {n_layers}, so it must be from 1 to that, not {width}.")
    return [range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2)) for layer in range(n_layers)]


def source_masks(model: TransformerBridge, facts: Sequence[FactPrompt], seed: int = 0) -> dict[str, Bool[Tensor, "prompt pos"]]:
    """The positions of each source of a prompt: its subject; its relation, which is all else between the first and the last position;
    the last; the first (in a model without a mark of a new document, this can be the subject's); and, as a control, as many positions
    of the relation, drawn at random, as the subject has tokens, or none at all where there are not so many.
    """
    return _masks(_tokenised(model, facts), seed)


def _masks(asked: _Asked, seed: int) -> dict[str, Bool[Tensor, "prompt pos"]]:
    place, rng = torch.arange(asked.texts.tokens.shape[1]), torch.Generator().manual_seed(seed)
    subject, last = asked.subject, place == asked.ends[:, None]
    relation = (place > 0) & (place < asked.ends[:, None]) & ~subject
    rank = torch.rand(relation.shape, generator=rng).masked_fill(~relation, 2.0).argsort(1).argsort(1)
    enough = relation.sum(1) >= subject.sum(1)
    random = relation & (rank < subject.sum(1)[:, None]) & enough[:, None]
    first = (place == 0).expand_as(last)
    return dict(zip(SOURCES, (subject, relation, last, first, random), strict=True))


@dataclass(frozen=True)
class Knockout:
    """By how many percent the probability of the predicted token changes when the last token cannot look at a source in a window.

    -100 means that nothing of it is left. A prompt that has no such source is not a number (NaN) there, and counts in no mean.
    """

    names: tuple[str, ...]
    width: int
    change: Float[Tensor, "source window prompt"]
    before: Float[Tensor, "prompt"]

    @property
    def mean(self) -> Float[Tensor, "source window"]:
        """The mean over the prompts that have the source."""
        return self.change.nanmean(-1)

    @property
    def intervals(self) -> list[list[Interval]]:
        """The 95 % interval of each mean, source by source; the prompts are the sample. NaN where fewer than two have the source."""
        return [[_interval(values[~values.isnan()]) for values in source] for source in self.change]

    def of(self, source: str) -> Float[Tensor, "window prompt"]:
        """The changes of one source, for the prompts that have it. Raises ValueError for a source that was not cut."""
        values = self.change[self._at(source)]
        return values[:, ~values.isnan().any(0)]

    def dip(self, source: str) -> int:
        """The layer around which cutting the source costs most: where its curve is lowest. Raises ValueError for an empty source."""
        curve = self.mean[self._at(source)]
        if bool(curve.isnan().any()):
            raise ValueError(f"No prompt has a source {source!r}, so its curve has no lowest point: use longer prompts.")
        return int(curve.argmin())

    def _at(self, source: str) -> int:
        if source not in self.names:
            raise ValueError(f"{source!r} was not cut; there are {', '.join(self.names)}.")
        return self.names.index(source)

    def table(self) -> str:
        """One line for each layer: the mean change in percent of each source, cut in the window around that layer."""
        lines = [" layer" + "".join(f"{name:>10}" for name in self.names)]
        return "\n".join(lines + [f"{at:>6}" + "".join(f"{x:+9.1f}%" for x in row) for at, row in enumerate(self.mean.T.tolist())])


def _interval(values: Float[Tensor, "prompt"]) -> Interval:
    return mean_interval(values) if len(values) > 1 else (float("nan"), float("nan"))


def knockout_curves(
    model: TransformerBridge, facts: Sequence[FactPrompt], width: int = 3, sources: Sequence[str] = SOURCES, seed: int = 0
) -> Knockout:
    """Cuts the last token off from each source in the ``width`` layers around each layer in turn (Geva et al., section 4).

    Only facts that the model knows count. Raises ValueError for an unknown source, a width that does not fit, and where none is known.
    """
    windows = layer_windows(model.cfg.n_layers, width)
    asked = _tokenised(model, known(model, facts))
    change, before = _cut(model, asked, windows, sources, seed)
    return Knockout(tuple(sources), width, change, before)


def knockout(
    model: TransformerBridge, facts: Sequence[FactPrompt], windows: Windows, source: str = "subject", seed: int = 0
) -> Float[Tensor, "window prompt"]:
    """The same for one source and any windows, such as ``[[0, 1, 2], [9]]``, for the facts that the model knows.

    What is returned is (P after - P before) / P before, in percent, of the predicted token's probability P.
    """
    return _cut(model, _tokenised(model, known(model, facts)), windows, [source], seed)[0][0]


@torch.no_grad()
def _cut(
    model: TransformerBridge, asked: _Asked, windows: Windows, sources: Sequence[str], seed: int
) -> tuple[Float[Tensor, "source window prompt"], Float[Tensor, "prompt"]]:
    """All sources of a batch share a pass for each window, which starts at the window's first layer: below it nothing changes."""
    n_layers, every = model.cfg.n_layers, _masks(asked, seed)
    if not sources or (unknown := [name for name in sources if name not in every]):
        raise ValueError(f"{unknown[0] if sources else 'No source'!r} cannot be cut; a source is one of {', '.join(SOURCES)}.")
    if odd := [layer for window in windows for layer in window if not 0 <= layer < n_layers]:
        raise ValueError(f"There is no layer {odd[0]} to put in a window: this model's layers are 0 to {n_layers - 1}.")
    masks = torch.stack([every[name] for name in sources])
    change, before = torch.empty(len(sources), len(windows), len(asked.texts)), torch.empty(len(asked.texts))
    for rows, part in asked.batches(max(1, BATCH_TOKENS // len(sources))):
        cut = masks[:, rows, : part.texts.tokens.shape[1]]
        tokens = part.texts.tokens.to(model.cfg.device)
        streams = record(model, tokens, *map(resid_pre, range(n_layers)))
        with intervene(model, unembed_only_at(part.ends[:, None])):
            before[rows], best = model(tokens)[:, 0].float().softmax(-1).cpu().max(-1)
        for at, window in enumerate(windows):
            after = _without(model, streams, part.ends, cut, window)[:, torch.arange(len(rows)), best]
            change[:, at, rows] = (after - before[rows]) / before[rows] * 100
    return change.masked_fill(~masks.any(-1)[:, None], torch.nan), before


def _without(
    model: TransformerBridge,
    streams: dict[str, Tensor],
    ends: Int[Tensor, "row"],
    cut: Bool[Tensor, "source row pos"],
    window: Sequence[int],
) -> Float[Tensor, "source row d_vocab"]:
    """What follows each prompt with each source cut off in the window."""
    copies, first = len(cut), min(window, default=model.cfg.n_layers - 1)
    queries = ends.repeat(copies)
    cuts = [cut_attention(layer, queries, cut.flatten(0, 1)) for layer in window]
    with intervene(model, *cuts, unembed_only_at(queries[:, None])):
        logits = run_from(model, streams[resid_pre(first)].repeat(copies, 1, 1), first)[:, 0]
    return logits.float().softmax(-1).unflatten(0, (copies, -1)).cpu()


# ---------------------------------------------------------------------------------------------------------------- the lens


@torch.no_grad()
def _said_by(model: TransformerBridge, states: Float[Tensor, "fact out d_model"]) -> Int[Tensor, "fact out"]:
    """The best token of each vector by the lens, on the CPU."""
    best = torch.cat([lens_logits(model, part).argmax(-1).cpu() for part in states.flatten(0, 1).split(LENS_ROWS)])
    return best.reshape(states.shape[:2])


# -------------------------------------------------------------------------------------------------------------- enrichment


@dataclass(frozen=True)
class Enrichment:
    """The attributes rate (Geva et al., section 5): which share of the ``k`` best lens tokens at the subject's last token, after each
    block, begin a word that is true of the subject (``own``), and one that is true of another subject (``other``, the control).

    ``most`` is the highest rate that each fact could reach: its words' different first tokens, divided by ``k``. ``ahead`` looks beyond
    the best tokens: which share of the own words the lens puts ahead of a word of the other subject, wherever both stand (AUC, 0.5 is
    chance; NaN where the other subject has no words of its own).
    """

    own: Float[Tensor, "layer fact"]
    other: Float[Tensor, "layer fact"]
    ahead: Float[Tensor, "layer fact"]
    most: Float[Tensor, "fact"]
    k: int

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each layer's own rate; the facts are the sample."""
        return [mean_interval(layer) for layer in self.own]

    def table(self) -> str:
        """One line for each layer: the mean rate of the subject's own words, of another subject's, and how often the own are ahead."""
        rows = zip(self.own.mean(1).tolist(), self.other.mean(1).tolist(), self.ahead.nanmean(1).tolist(), strict=True)
        head = f"after layer   own rate  control    ahead   (of the best {self.k} tokens; at most {self.most.mean():.1%})"
        return "\n".join([head, *(f"{at:>11} {own:10.1%} {other:8.1%} {ahead:8.1%}" for at, (own, other, ahead) in enumerate(rows))])


@torch.no_grad()
def enrichment(
    model: TransformerBridge,
    facts: Sequence[FactPrompt],
    without: Sequence[int] = (),
    place: Place = mlp_out,
    means: Float[Tensor, "layer d_model"] | None = None,
    k: int = 50,
) -> Enrichment:
    """The attributes rate after every block, with what some layers write at the subject's last token taken away: MLPs, or ``place``.

    Taken away means 0, or ``means`` (one row for each layer of the model). Raises ValueError for a fact without attributes.
    """
    asked, n_layers = _tokenised(model, facts), model.cfg.n_layers
    if not 1 <= k <= model.cfg.d_vocab:
        raise ValueError(f"k says how many tokens of the lens to look at; it must be from 1 to {model.cfg.d_vocab}, not {k}.")
    own, other = _word_starts(model, facts)
    found = torch.empty(3, n_layers, len(facts))
    for rows, part in asked.batches(BATCH_TOKENS):
        at = part.stop - 1
        gone = [
            zero_ablate(place(layer), pos=at) if means is None else mean_ablate(place(layer), means[layer], pos=at) for layer in without
        ]
        with intervene(model, *gone):
            seen = record(model, part.texts.tokens.to(model.cfg.device), *map(resid_post, range(n_layers)))
        for layer in range(n_layers):
            logits = lens_logits(model, seen[resid_post(layer)][torch.arange(len(rows)), at]).float().cpu()
            found[:, layer, rows] = torch.stack([*_rates(logits, own[rows], other[rows], k), _ahead(logits, own[rows], other[rows])])
    return Enrichment(*found, own.sum(1) / k, k)


def _rates(
    logits: Float[Tensor, "fact d_vocab"], own: Bool[Tensor, "fact d_vocab"], other: Bool[Tensor, "fact d_vocab"], k: int
) -> list[Float[Tensor, "fact"]]:
    """Which share of the ``k`` best tokens begins one of the own words, and one of the others."""
    best = logits.topk(k).indices
    return [words.gather(-1, best).float().mean(-1) for words in (own, other)]


def _ahead(
    logits: Float[Tensor, "fact d_vocab"], own: Bool[Tensor, "fact d_vocab"], other: Bool[Tensor, "fact d_vocab"]
) -> Float[Tensor, "fact"]:
    """The share of pairs of an own word and another one in which the own one has the higher logit."""
    sides = [[row[words] for row, words in zip(logits, side, strict=True)] for side in (own, other)]
    return torch.stack([(mine[:, None] > theirs).float().mean() for mine, theirs in zip(*sides, strict=True)])


def _word_starts(model: TransformerBridge, facts: Sequence[FactPrompt]) -> list[Bool[Tensor, "fact d_vocab"]]:
    """Which tokens begin one of a fact's own words, and one of the others."""
    sides = [torch.zeros(len(facts), model.cfg.d_vocab, dtype=torch.bool) for _ in range(2)]
    for number, fact in enumerate(facts):
        own = first_tokens(model, fact.attributes, fact.subject)
        if not own:
            raise ValueError(f"Nothing is given that is true of {fact.subject!r}: name some words in attributes.")
        sides[0][number, sorted(own)] = True
        sides[1][number, sorted(first_tokens(model, fact.others, fact.subject) - own)] = True
    return sides


def first_tokens(model: TransformerBridge, attributes: Sequence[str], subject: str = "") -> set[int]:
    """The first token of each word of some attributes, as it stands after a space.

    Left out are the subject's own words, function words, and words and first tokens of fewer than three letters.
    """
    words = {word for text in attributes for word in re.findall(r"[^\W\d_]+", text) if len(word) >= FEW_LETTERS}
    skipped = STOP_WORDS | {word.lower() for word in re.findall(r"\w+", subject)}
    start = tokenize(model, "is")
    firsts = [tokenize(model, f"is {word}")[len(start)] for word in sorted(words) if word.lower() not in skipped]
    return {int(one) for one in firsts if len(re.sub("(⟨..⟩)+", LOST, pieces(model, one[None])[0]).strip()) >= FEW_LETTERS}


# -------------------------------------------------------------------------------------------------------------- extraction


@dataclass(frozen=True)
class Extraction:
    """Where the lens of what is written at the last token has the answer's first token on top (Geva et al., section 6): what the attention
    of each layer writes, what its MLP writes, and what each head writes through its part of W_O.

    ``control`` is the same for the answer of another fact, for attention and MLP together; ``to_subject`` is how much of its attention
    each head gives from the last token to the subject.
    """

    attention: Bool[Tensor, "layer fact"]
    mlp: Bool[Tensor, "layer fact"]
    heads: Bool[Tensor, "layer head fact"]
    control: Bool[Tensor, "layer fact"]
    to_subject: Float[Tensor, "layer head fact"]

    @property
    def head_shares(self) -> Float[Tensor, "layer head"]:
        """The share of facts that each head says by itself."""
        return self.heads.float().mean(-1)

    @property
    def events(self) -> dict[str, float]:
        """The share of facts with an extraction event in any layer, by attention and by MLP, and that of the control by either."""
        parts = {"attention": self.attention, "MLP": self.mlp, "control": self.control}
        return {name: hits.any(0).float().mean().item() for name, hits in parts.items()}

    def top(self, n: int = 5) -> list[Head]:
        """The ``n`` heads that say the most answers by themselves, the best first."""
        return top_heads(self.head_shares, n)

    def table(self) -> str:
        """One line for each layer: the share of facts whose answer attention, or the MLP, says by itself."""
        shares = [hits.float().mean(1).tolist() for hits in (self.attention, self.mlp, self.control)]
        lines = [f"{layer:>6} {a:10.1%} {m:8.1%} {c:8.1%}" for layer, (a, m, c) in enumerate(zip(*shares, strict=True))]
        return "\n".join([" layer  attention      MLP  control", *lines])

    def head_table(self, n: int = 5) -> str:
        """One line for each of the top heads: which share of the answers it says, and how much it looks at the subject."""
        rows = [(at, self.head_shares[at].item(), self.to_subject[at].mean().item()) for at in self.top(n)]
        lines = [f"{layer:>6} {head:>5} {share:8.1%} {look:11.1%}" for (layer, head), share, look in rows]
        return "\n".join([" layer  head  answers  to subject", *lines])


@torch.no_grad()
def extraction(model: TransformerBridge, facts: Sequence[FactPrompt], seed: int = 0) -> Extraction:
    """Who says the answer; best asked about facts that the model knows (``known``). A bias that all heads share counts for none of them."""
    asked, n_layers, n_heads, n = _tokenised(model, facts), model.cfg.n_layers, model.cfg.n_heads, len(facts)
    wrong = _wrong_answers(facts, asked.answers, seed)
    attention, mlp, control = (torch.zeros(n_layers, n, dtype=torch.bool) for _ in range(3))
    by_head, looks = torch.zeros(n_layers, n_heads, n, dtype=torch.bool), torch.zeros(n_layers, n_heads, n)
    places = [place(layer) for layer in range(n_layers) for place in (attn_out, mlp_out, head_out, pattern, _mixed)]
    for rows, part in asked.batches(BATCH_TOKENS):
        every, seen = torch.arange(len(rows)), {}
        with intervene(model, *(watch(place, partial(seen.__setitem__, place)) for place in places), unembed_only_at(part.ends[:, None])):
            model(part.texts.tokens.to(model.cfg.device))
        for layer in range(n_layers):
            outs = [seen[place(layer)][every, part.ends] for place in (attn_out, mlp_out)]
            written = torch.cat([torch.stack(outs, 1), _written(model, layer, seen, part.ends)], 1)  # [fact, 2 + head, d_model]
            said = _said_by(model, written).T  # [2 + head, fact]
            hits = said == part.answers
            attention[layer, rows], mlp[layer, rows], by_head[layer][:, rows] = hits[0], hits[1], hits[2:]
            control[layer, rows] = (said[:2] == wrong[rows]).any(0)
            looked = seen[pattern(layer)][every, :, part.ends].float().cpu()  # [fact, head, key]
            looks[layer][:, rows] = (looked * part.subject[:, None]).sum(-1).T
    return Extraction(attention, mlp, by_head, control, looks)


def _mixed(layer: int) -> str:
    """What the attention puts out, before a norm that may follow (Gemma 2)."""
    return f"blocks.{layer}.attn.hook_out"


def _written(
    model: TransformerBridge, layer: int, seen: dict[str, Tensor], ends: Int[Tensor, "fact"]
) -> Float[Tensor, "fact head d_model"]:
    """What each head writes at the last token; a norm that follows (Gemma 2) keeps the scale that all heads together gave it."""
    every = torch.arange(len(ends))
    written = torch.einsum("nhd,hdm->nhm", seen[head_out(layer)][every, ends], model.blocks[layer].attn.W_O)
    if not hasattr(model.blocks[layer], "ln1_post"):
        return written
    mixed, out = (seen[place(layer)][every, ends] for place in (_mixed, attn_out))
    return written * torch.where(mixed == 0, 0, out / mixed)[:, None]  # an RMS norm only rescales each dimension


def _wrong_answers(facts: Sequence[FactPrompt], answers: Int[Tensor, "fact"], seed: int) -> Int[Tensor, "fact"]:
    """The answer of another fact for each, of the same relation if there is one; -1 where all answers are the same."""
    rng, drawn, ids = Random(seed), [], answers.tolist()
    for fact, own in zip(facts, ids, strict=True):
        near = sorted({one for one, other in zip(ids, facts, strict=True) if one != own and other.relation == fact.relation})
        drawn.append(rng.choice(near or sorted(set(ids) - {own}) or [-1]))
    return torch.tensor(drawn)


# -------------------------------------------------------------------------------------------------------------------- sums


@dataclass(frozen=True)
class SumPair:
    """Two sums with the same operator: ``text`` with its answer, and ``other``, out of which something is put into the first."""

    text: str
    answer: str
    other: str
    other_answer: str


def sum_pairs(model: TransformerBridge, n: int = 50, seed: int = 0, same_result: bool = False) -> list[SumPair]:
    """``n`` pairs of sums such as "3 + 5 =" that the model gets right, all equally long, with answers of one token.

    One operand differs, and so does the result; with ``same_result`` both operands differ and the result does not (3 + 5 and 2 + 6), the
    control. In the course LM's tokenizer each number is one token, its space included. Raises ValueError where there are too few.
    """
    sums = _known_sums(model)
    alike = [_sign_and_result] if same_result else [itemgetter(0, 1), itemgetter(1, 2)]
    groups = [list(group) for key in alike for _, group in groupby(sorted(sums, key=key), key)]
    pairs = [pair for group in groups for pair in permutations(group, 2)]
    if not 1 <= n <= len(pairs):
        many = f"the model's {len(sums)} right sums make {len(pairs)} such pairs"
        raise ValueError(f"n says how many pairs to draw; {many}, so it must be from 1 to that, not {n}.")
    drawn = Random(seed).sample(pairs, n)
    return [SumPair(_sum_text(one), str(total(*one)), _sum_text(other), str(total(*other))) for one, other in drawn]


Sum = tuple[int, str, int]


def _sum_text(entry: Sum) -> str:
    return f"{entry[0]} {entry[1]} {entry[2]} ="


def _sign_and_result(entry: Sum) -> tuple[str, int]:
    return entry[1], total(*entry)


def _known_sums(model: TransformerBridge) -> list[Sum]:
    """The sums that are as long as most, have an answer of one token, and are right."""
    rows = [(tokenize(model, _sum_text(entry)), tokenize(model, f"{_sum_text(entry)} {total(*entry)}")) for entry in SUMS]
    lengths = [len(start) if len(full) == len(start) + 1 and torch.equal(full[:-1], start) else 0 for start, full in rows]
    usual = max(filter(None, lengths), key=lengths.count, default=0)
    kept = [at for at, length in enumerate(lengths) if length and length == usual]
    if not kept:
        raise ValueError("This model's tokenizer has no sum whose answer is one token after '=': its sums cannot be patched like this.")
    texts = as_texts(model, torch.stack([rows[at][0] for at in kept]))
    right = _right(model, texts, torch.stack([rows[at][1][-1] for at in kept]))
    return [SUMS[at] for at, hit in zip(kept, right.tolist(), strict=True) if hit]


def log_indirect_effect(own: Float[Tensor, "*pairs"], other: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    """``log(1 + IE)`` with the indirect effect of Stolfo et al. (section 3, as we read the paper):

    ``IE = 1/2 [(P*(r') - P(r')) / P(r') + (P(r) - P*(r)) / P*(r)]`` with ``r`` the prompt's own result, ``r'`` the other one, and * after
    the patch. ``own`` and ``other`` are the changes of their log-probabilities, ``log P*(r) / P(r)`` and ``log P*(r') / P(r')``: since
    1 + IE is the mean of ``P*(r') / P(r')`` and ``P(r) / P*(r)``, its logarithm always exists.
    """
    return torch.logaddexp(other, -own) - math.log(2)


@dataclass(frozen=True)
class Mediation:
    """What it does to a sum when one MLP or attention output, at one position, is that of the other sum.

    The maps hold log-probabilities of the prompt's own result (``own``) and of the other's (``other``), for "mlp" and "attention".
    """

    own: dict[str, PatchMap]
    other: dict[str, PatchMap]
    same_result: bool

    @property
    def mlp(self) -> PatchMap:
        """The MLPs: the log-odds of the other result over the own one; where both are the same, the log-probability of it."""
        return self._map("mlp")

    @property
    def attention(self) -> PatchMap:
        """The same for the attention outputs."""
        return self._map("attention")

    def _map(self, kind: str) -> PatchMap:
        own, other = self.own[kind], self.other[kind]
        if self.same_result:
            return own
        parts = {name: getattr(other, name) - getattr(own, name) for name in ("after", "clean", "corrupted")}
        return replace(own, **parts)

    def changes(self, kind: str = "mlp") -> Float[Tensor, "layer position pair"]:
        """By how much each patch moves each pair, in nats: ``log P*(r') / P*(r) - log P(r') / P(r)``.

        It is robust where a probability is nearly 0. Where both results are the same it is ``log P*(r) - log P(r)``.
        """
        found = self._map(self._kind(kind))
        return found.after - found.corrupted

    def log_indirect(self, kind: str = "mlp") -> Float[Tensor, "layer position pair"]:
        """The indirect effect of the paper, as ``log(1 + IE)`` of each pair (see ``log_indirect_effect``)."""
        own, other = self.own[self._kind(kind)], self.other[kind]
        return log_indirect_effect(own.after - own.corrupted, other.after - other.corrupted)

    def importance(self, layers: Sequence[int], position: int = -1, kind: str = "mlp") -> float:
        """The relative importance of Stolfo et al. (as we read the paper): the share that some layers at one position have of all
        ``log(1 + IE)``, with IE the mean over the pairs. Ratios of probabilities: a few pairs may govern it.
        """
        effects = self.log_indirect(kind)
        means = effects.logsumexp(-1) - math.log(effects.shape[-1])  # log of the mean of 1 + IE
        return (self._at(means, layers, position).sum() / means.sum()).item()

    def shares(self, layers: Sequence[int], position: int = -1, kind: str = "mlp") -> Float[Tensor, "pair"]:
        """For each pair, the share that some layers at one position have of the absolute changes at all layers and positions.

        The robust form of ``importance``. A pair that nothing moves has no share (NaN).
        """
        size = self.changes(kind).abs()
        return self._at(size, layers, position).sum(0) / size.sum((0, 1))

    @staticmethod
    def _at(values: Float[Tensor, "layer position *pair"], layers: Sequence[int], position: int) -> Float[Tensor, "some *pair"]:
        """Some layers at one position. Raises ValueError where they are not there."""
        n_layers, n = values.shape[:2]
        if not layers or not all(0 <= layer < n_layers for layer in layers) or not -n <= position < n:
            raise ValueError(f"This map has layers 0 to {n_layers - 1} and positions 0 to {n - 1} (-1 is the last); name some of these.")
        return values[list(layers), position]

    def share(self, layers: Sequence[int], position: int = -1, kind: str = "mlp") -> float:
        """The mean of ``shares`` over the pairs, such as that of the late MLPs at the last token."""
        return self.shares(layers, position, kind).nanmean().item()

    def _kind(self, kind: str) -> str:
        if kind not in self.own:
            raise ValueError(f"kind says what was patched, {' or '.join(self.own)}, not {kind!r}.")
        return kind

    def table(self) -> str:
        """One line for each layer: the mean change in nats at each position, of the MLP and of the attention."""
        changes = torch.cat([self.changes(kind).mean(-1) for kind in self.own], 1).tolist()
        columns = [f"{kind} {name}" for kind in self.own for name in self.mlp.columns]
        width = max(8, *map(len, columns)) + 2
        rows = [f"{layer:>6}" + "".join(f"{x:+{width}.3f}" for x in row) for layer, row in enumerate(changes)]
        return "\n".join([" layer" + "".join(f"{name:>{width}}" for name in columns), *rows])


PATCHED: dict[str, Place] = {"mlp": mlp_out, "attention": attn_out}
SUM_TOKENS = ("first", "sign", "second", "=")


def mediation(model: TransformerBridge, pairs: Sequence[SumPair]) -> Mediation:
    """Patches what each MLP and each attention writes, position by position, from the other sum of each pair into its first one.

    All prompts must be equally long, as those of ``sum_pairs`` are. Raises ValueError where they are not, where pairs with the same
    result are mixed with others, and for an answer of several tokens.
    """
    kinds = {pair.answer == pair.other_answer for pair in pairs}
    if len(kinds) != 1:
        raise ValueError("Give at least one pair, and either pairs with the same result or pairs with different ones, not both.")
    texts = [as_texts(model, [getattr(pair, side) for pair in pairs]) for side in ("text", "other")]
    ids = [_single_tokens(model, [(pair.text, getattr(pair, side)) for pair in pairs]) for side in ("answer", "other_answer")]
    own, other = ({kind: _patch(model, texts, log_prob(one), place) for kind, place in PATCHED.items()} for one in ids)
    return Mediation(own, other, same_result=kinds.pop())


def _patch(model: TransformerBridge, texts: Sequence[Texts], metric: Metric, place: Place) -> PatchMap:
    """The metric after each patch from the second texts into the first; the mark of a new document, alike in both, is left out."""
    both = prompt_pairs(model, clean=texts[1], corrupted=texts[0], metric=metric)
    if both.clean.lengths.unique().numel() > 1:
        raise ValueError("The sums are not equally long in this model's tokens, so their positions do not correspond: take others.")
    first, length = int(model.cfg.default_prepend_bos), int(both.clean.lengths[0])
    names = SUM_TOKENS if length - first == len(SUM_TOKENS) else [str(at) for at in range(first, length)]
    return patch_positions(model, both, place, [torch.full((len(both),), at) for at in range(first, length)], names)


def _single_tokens(model: TransformerBridge, asked: Sequence[tuple[str, str]]) -> Int[Tensor, "prompt"]:
    ids = whole_words(model, [text for text, _ in asked], [[answer] for _, answer in asked]).ids
    if many := next((word for (_, word), one in zip(asked, ids, strict=True) if len(one) > 1), None):
        raise ValueError(f"{many!r} is several tokens of this model, and a patched sum is read off one: choose other numbers.")
    return torch.tensor([one for (one,) in ids])
