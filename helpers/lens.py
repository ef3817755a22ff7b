"""The residual stream and the logit lens: what the model would say if its stream ended after an earlier block.

Every block adds to the stream and takes nothing away (He et al. 2015, arXiv 1512.03385), so each of its states is as wide as the last one
and can be given to the final norm and the unembedding: ``p = softmax(W_U LN_f(x))``. Kao et al. 2020 (arXiv 2001.09309) did so with BERT,
Merullo et al. 2023 (arXiv 2305.16130) with facts, Wendler et al. 2024 (arXiv 2402.10588) with words of several languages.

    print(logit_lens(model, "The capital of Poland is").table())

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0. A tensor's axis ``layer`` begins with "in"
and has all of them, unless ``layers`` says which. ``python -m helpers.lens`` (``make lens``) trains the tuned lens of the course LM.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers.attribution import DirectEffects, direct_effects
from helpers.course_lm.corpus import languages as corpus
from helpers.course_lm.world import World
from helpers.directions import last_values
from helpers.interventions import attn_out, mlp_out, record, resid_post, resid_pre
from helpers.models import COURSE_LM, DATA, ModelNotAvailable, TransformerBridge, load_model, run_from
from helpers.prediction import fit, pieces, tokenize, visible
from helpers.progress import progress
from helpers.statistics import DRAWS, Interval, bootstrap_interval
from helpers.texts import Texts, TextsLike, as_texts, held_out_texts

ENTRY = -1  # the number of the layer before block 0
LENS_NUMBERS = 2**21  # logits in memory at a time: 8 MB, which a processor keeps close by
FOLDER = DATA / "lens"
LEAST_TOGETHER = 0.001  # what the languages of a word must have together for a share of it to count
WEIGHTS, CONFIG = "tuned_lens.safetensors", "cfg.json"
TRAINING_SEED = 20_262  # evaluation uses helpers.texts.HELD_OUT_SEED, the report card 20_260, the course LM small seeds


def layer_name(layer: int) -> str:
    """How a layer is called in tables: "in", or the number of the block behind which it is."""
    return "in" if layer == ENTRY else str(layer)


def place_of(layer: int) -> str:
    """The hook point of a layer: what block ``layer`` leaves in the stream, or what enters the first one."""
    return resid_pre(0) if layer == ENTRY else resid_post(layer)


def check_layers(model: TransformerBridge, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers, or all of them. Raises ValueError where there is none, or one that the model does not have."""
    every = range(ENTRY, model.cfg.n_layers)
    chosen = tuple(every if layers is None else layers)
    if not chosen:
        raise ValueError("There is no layer to look at: give at least one, or leave layers out for all.")
    if odd := [layer for layer in chosen if layer not in every]:
        raise ValueError(
            f"There is no layer {odd[0]}: they are -1 (what enters block 0) and 0 to {model.cfg.n_layers - 1} (after each block)."
        )
    return chosen


# ------------------------------------------------------------------------------------------------------------- the stream


@dataclass(frozen=True)
class StreamParts:
    """What was written into the stream at the last token of each prompt: the embedding, then each block's attention and MLP.

    ``stream`` is the state after the last block, as the model computes it; it is the sum of the parts.
    """

    names: tuple[str, ...]
    parts: Float[Tensor, "part prompt d_model"]
    stream: Float[Tensor, "prompt d_model"]

    @property
    def running_sum(self) -> Float[Tensor, "part prompt d_model"]:
        """The stream as it grows: after each part. Every second row from the first on is a layer's state."""
        return self.parts.cumsum(0)

    @property
    def error(self) -> float:
        """The largest difference of any number of the stream from the sum of the parts."""
        return (self.parts.sum(0) - self.stream).abs().max().item()

    def table(self) -> str:
        """One line for each part: its mean length, and that of the stream with it."""
        lengths = zip(self.parts.norm(dim=-1).mean(1).tolist(), self.running_sum.norm(dim=-1).mean(1).tolist(), strict=True)
        lines = [f"{name:<13} {own:8.2f} {so_far:12.2f}" for name, (own, so_far) in zip(self.names, lengths, strict=True)]
        return "\n".join(["part            length   stream then", *lines])


def stream_parts(model: TransformerBridge, prompts: TextsLike) -> StreamParts:
    """Takes the last state of each prompt apart: ``x_L = x_0 + sum of attention(l) + sum of MLP(l)`` (1512.03385, equation 1, unrolled)."""
    blocks = range(model.cfg.n_layers)
    places = [place_of(ENTRY), *(place(layer) for layer in blocks for place in (attn_out, mlp_out)), place_of(blocks[-1])]
    seen = last_values(model, prompts, places)[:, :, 0]
    names = ("embedding", *(f"{what} {layer}" for layer in blocks for what in ("attention", "MLP")))
    return StreamParts(names, seen[:-1], seen[-1])


@dataclass(frozen=True)
class BlockEffects:
    """What each part of the stream adds to a logit difference, in logits; all parts and the constant add up to what the model says."""

    names: tuple[str, ...]
    effect: Float[Tensor, "part prompt"]

    @property
    def running_sum(self) -> Float[Tensor, "part prompt"]:
        """The logit difference as it grows, each part with the final norm's scale as it is at the end."""
        return self.effect.cumsum(0)

    def table(self) -> str:
        """One line for each part: the mean of what it adds, and the sum up to there."""
        means = zip(self.effect.mean(1).tolist(), self.running_sum.mean(1).tolist(), strict=True)
        lines = [f"{name:<13} {own:+8.2f} {so_far:+8.2f}" for name, (own, so_far) in zip(self.names, means, strict=True)]
        return "\n".join(["part           logits   so far", *lines])


def block_effects(
    model: TransformerBridge, prompts: TextsLike, right: Int[Tensor, "prompt"], wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt several"]
) -> BlockEffects:
    """Direct effects of whole attention layers and MLPs on the logit of ``right`` minus that of ``wrong`` (or of several, their mean).

    It is a difference because a softmax sees nothing else. Raises ValueError for models whose heads have no output of their own.
    """
    found = direct_effects(model, prompts, right, wrong)
    blocks = range(model.cfg.n_layers)
    parts = {"embedding": [found.of("embed")], "constant": [found.of("constant")]}
    for layer in blocks:
        parts[f"attention {layer}"] = [*_heads_of(found, layer), found.of(f"bias {layer}")]
        parts[f"MLP {layer}"] = [found.of(f"m{layer}")]
    names = ("constant", "embedding", *(f"{what} {layer}" for layer in blocks for what in ("attention", "MLP")))
    return BlockEffects(names, torch.stack([torch.stack(parts[name]).sum(0) for name in names]))


def _heads_of(found: DirectEffects, layer: int) -> list[Float[Tensor, "prompt"]]:
    return [found.of(f"a{layer}.{head}") for head in range(found.n_heads)]


# --------------------------------------------------------------------------------------------------------------- the lens


def lens_logits(model: TransformerBridge, states: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state d_vocab"]:
    """The logits of any states of the stream: the model's own final norm, unembedding and soft cap, and nothing else."""
    flat = states.reshape(-1, 1, states.shape[-1]).to(model.cfg.device, model.cfg.dtype)
    if not len(flat):
        return flat.new_empty(*states.shape[:-1], model.cfg.d_vocab)
    return run_from(model, flat, model.cfg.n_layers).reshape(*states.shape[:-1], -1)


# What a reader gets: the logits of some states, its own to change, and the numbers of these states.
Read = Callable[[Float[Tensor, "layer some d_vocab"], Int[Tensor, "some"]], Tensor]


@torch.no_grad()
def _read(
    model: TransformerBridge,
    states: Float[Tensor, "layer state d_model"],
    read: Read,
    layers: Sequence[int],
    tuned: "TunedLens | None" = None,
) -> Shaped[Tensor, "layer state *found"]:
    """What is read off the lens' logits of all states. Those of all layers are read together, ``LENS_NUMBERS`` logits at a time."""
    found = []
    for some in torch.arange(states.shape[1]).split(max(1, LENS_NUMBERS // (model.cfg.d_vocab * len(layers)))):
        part = states[:, some.to(states.device)]
        found.append(read(lens_logits(model, tuned.mapped(model, layers, part) if tuned else part).float(), some))
    return torch.cat(found, 1)


def _streams(
    model: TransformerBridge, texts: Texts, layers: Sequence[int]
) -> Iterator[tuple[Int[Tensor, "batch"], Texts, Float[Tensor, "layer state d_model"]]]:
    """The texts batch by batch, with their rows, and the states of the layers at all positions but 0, text by text."""
    for rows in progress(list(texts.batches()), desc="texts"):
        part = texts.take(rows)
        with torch.no_grad():
            seen = record(model, part.tokens.to(model.cfg.device), *{place_of(layer) for layer in layers})
        yield rows, part, torch.stack([seen[place_of(layer)][part.mask.to(model.cfg.device)] for layer in layers])


@dataclass(frozen=True)
class LensTable:
    """The ``k`` best tokens of the lens at each layer and position of one text, best first, with their probabilities."""

    tokens: Int[Tensor, "pos"]
    layers: tuple[int, ...]
    top: Int[Tensor, "layer pos k"]
    probs: Float[Tensor, "layer pos k"]
    words: Mapping[int, str]  # the text of each token that occurs

    def cell(self, layer: int, pos: int = -1) -> list[tuple[str, float]]:
        """The best tokens at one layer and position with their probabilities. Raises ValueError for a layer that was not read."""
        if layer not in self.layers:
            raise ValueError(f"Layer {layer} was not read, only {', '.join(map(str, self.layers))}.")
        row = self.layers.index(layer)
        return [(self.words[token], prob) for token, prob in zip(self.top[row, pos].tolist(), self.probs[row, pos].tolist(), strict=True)]

    def table(self, last: int = 6, width: int = 12) -> str:
        """A line for each layer, the last one at the bottom, and a column for each of the ``last`` positions: best token, percent."""
        shown = range(max(0, len(self.tokens) - last), len(self.tokens))
        head = "layer  " + " ".join(f"{_shown(self.words[int(self.tokens[pos])], width + 5):<{width + 5}}" for pos in shown)
        lines = []
        for layer in self.layers:
            best = [self.cell(layer, pos)[0] for pos in shown]
            lines.append(f"{layer_name(layer):>5}  " + " ".join(f"{_shown(word, width):<{width}} {prob:4.0%}" for word, prob in best))
        return "\n".join(line.rstrip() for line in [head, *lines])


def top_k(logits: Float[Tensor, "*state d_vocab"], k: int, block: int = 128) -> tuple[Float[Tensor, "*state k"], Int[Tensor, "*state k"]]:
    """``logits.topk(k)``, several times as fast: the ``k`` best tokens stand in the ``k`` blocks with the highest tops, nowhere else."""
    blocks = torch.nn.functional.pad(logits, (0, -logits.shape[-1] % block), value=-torch.inf).unflatten(-1, (-1, block))
    chosen = blocks.amax(-1).topk(min(k, blocks.shape[-2])).indices
    found = blocks.gather(-2, chosen[..., None].expand(*chosen.shape, block)).flatten(-2).topk(k)
    return found.values, chosen.gather(-1, found.indices // block) * block + found.indices % block


def _shown(word: str, width: int) -> str:
    """A piece that fits into a table, whatever letters it has."""
    return "".join(letter if letter.isprintable() else "�" for letter in visible(word))[:width]


@torch.no_grad()
def logit_lens(
    model: TransformerBridge,
    text: str | Int[Tensor, "pos"],
    layers: Sequence[int] | None = None,
    k: int = 5,
    tuned: "TunedLens | None" = None,
) -> LensTable:
    """The best tokens of the lens after each token of a text, at every layer; with ``tuned`` they are the tuned lens'.

    Of a text longer than the model's context the end counts. Raises ValueError for an empty text, an unknown layer, and ``k`` below 1.
    """
    if k < 1:
        raise ValueError(f"k says how many tokens to list; it must be 1 or more, not {k}.")
    tokens, layers = fit(model, tokenize(model, text) if isinstance(text, str) else text.cpu()), check_layers(model, layers)
    if not len(tokens):
        raise ValueError("There is no token to read: give the lens some text.")
    seen, k = record(model, tokens[None].to(model.cfg.device), *{place_of(layer) for layer in layers}), min(k, model.cfg.d_vocab)

    def best(logits: Float[Tensor, "layer some d_vocab"], _: Int[Tensor, "some"]) -> Float[Tensor, "layer some 2 k"]:
        values, ids = top_k(logits, k)
        total = logits.sub_(values[..., :1]).exp_().sum(-1, keepdim=True)
        return torch.stack([ids.double(), ((values - values[..., :1]).exp() / total).double()], 2).cpu()

    found = _read(model, torch.stack([seen[place_of(layer)][0] for layer in layers]), best, layers, tuned)
    top = found[:, :, 0].long()
    ids = torch.cat([top.flatten(), tokens]).unique()
    return LensTable(tokens, layers, top, found[:, :, 1].float(), dict(zip(ids.tolist(), pieces(model, ids), strict=True)))


# ------------------------------------------------------------------------------------------------- answers, layer by layer


def first_of(layers: Sequence[int], hits: Bool[Tensor, "layer prompt"]) -> Float[Tensor, "prompt"]:
    """The first layer at which something is true; NaN where it never is."""
    return torch.tensor(layers, dtype=torch.float)[hits.int().argmax(0)].where(hits.any(0), torch.nan)


def to_the_end(hits: Bool[Tensor, "layer prompt"]) -> Bool[Tensor, "layer prompt"]:
    """Is it true at this layer and at all later ones?"""
    return hits.int().flip(0).cummin(0).values.flip(0).bool()


@dataclass(frozen=True)
class LensScores:
    """How the lens judges an answer after each prompt: the log-probability (natural) of its tokens together, and their best place.

    ``rank`` counts the tokens that stand before the best of the answer's: 0 is on top.
    """

    layers: tuple[int, ...]
    log_prob: Float[Tensor, "layer prompt"]
    rank: Int[Tensor, "layer prompt"]

    @property
    def prob(self) -> Float[Tensor, "layer prompt"]:
        """The probability of the answer's tokens together."""
        return self.log_prob.exp()

    @property
    def on_top(self) -> Bool[Tensor, "layer prompt"]:
        """Is a token of the answer the lens' best?"""
        return self.rank == 0

    @property
    def appears(self) -> Float[Tensor, "prompt"]:
        """The first layer at which the answer is on top at all; NaN where it never is."""
        return first_of(self.layers, self.on_top)

    @property
    def leads(self) -> Float[Tensor, "prompt"]:
        """The first layer from which the answer stays on top to the last one; NaN where it is not on top there."""
        return first_of(self.layers, to_the_end(self.on_top))

    def table(self) -> str:
        """One line for each layer: the share of prompts with the answer on top, its mean probability and median rank; then both layers."""
        rows = zip(
            self.layers, self.on_top.float().mean(1).tolist(), self.prob.mean(1).tolist(), self.rank.median(1).values.tolist(), strict=True
        )
        lines = [f"{layer_name(layer):>5}  {top:6.0%}  {prob:11.1%}  {rank:11,}" for layer, top, prob, rank in rows]
        firsts = {"appears": self.appears, "leads": self.leads}
        ends = [f"{what} at layer {first.nanquantile(0.5):g} (median)" for what, first in firsts.items()]
        return "\n".join(["layer  on top  probability  median rank", *lines, ", ".join(ends)])


Targets = Sequence[Sequence[int]] | Int[Tensor, "prompt"]


def target_probs(
    model: TransformerBridge, prompts: TextsLike, targets: Targets, layers: Sequence[int] | None = None, tuned: "TunedLens | None" = None
) -> LensScores:
    """What the lens gives to the answer of each prompt at its last token; an answer is one token, or a set whose probabilities are summed.

    Raises ValueError unless each prompt has a target, none of them empty.
    """
    texts, layers = as_texts(model, prompts), check_layers(model, layers)
    ids = _padded(model, targets, len(texts))
    states = last_values(model, texts, [place_of(layer) for layer in layers])[:, :, 0]

    def score(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some 2"]:
        logits, own = logits.cpu().double(), ids[some].expand(len(logits), -1, -1)
        values = logits.gather(-1, own.clamp(min=0)).masked_fill(own < 0, -torch.inf)
        before = (logits > values.amax(-1, keepdim=True)).sum(-1)
        return torch.stack([values.logsumexp(-1) - logits.logsumexp(-1), before.double()], -1)

    found = _read(model, states, score, layers, tuned)
    return LensScores(layers, found[:, :, 0].clamp(max=0).float(), found[:, :, 1].long())


def _padded(model: TransformerBridge, targets: Targets, n: int) -> Int[Tensor, "prompt most"]:
    """The tokens of each prompt's set, filled up with -1. Raises ValueError where they do not fit the prompts, or the model."""
    sets = [[token] for token in targets.tolist()] if torch.is_tensor(targets) else [sorted(set(ids)) for ids in targets]
    if len(sets) != n:
        raise ValueError(f"Each prompt needs its targets: there are {n} prompts and {len(sets)} sets of tokens.")
    if empty := [at for at, ids in enumerate(sets) if not ids]:
        raise ValueError(f"Prompt {empty[0]} has no target (prompts are counted from 0): give it one token at least.")
    if odd := [token for ids in sets for token in ids if not 0 <= token < model.cfg.d_vocab]:
        raise ValueError(f"There is no token {odd[0]}: this model's are numbered 0 to {model.cfg.d_vocab - 1}.")
    return pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in sets], batch_first=True, padding_value=-1)


def _summed(probs: Float[Tensor, "layer some d_vocab"], ids: Int[Tensor, "some most"]) -> Float[Tensor, "layer some"]:
    """The probability of the tokens of each row together."""
    every = ids.expand(len(probs), -1, -1)
    return (probs.gather(-1, every.clamp(min=0)) * (every >= 0)).sum(-1)


def answer_tokens(model: TransformerBridge, word: str) -> tuple[int, ...]:
    """The first tokens of a word, with a space in front of it and without: with any of them the model may begin to write it.

    Wendler et al. count all beginnings of the word that are tokens; a space by itself is none here. Raises ValueError for an empty word.
    """
    if not word.strip():
        raise ValueError("An empty word has no first token: write the answer.")
    found = set()
    for text in (word.strip(), f" {word.strip()}"):
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        found |= {next(token for token in ids if model.tokenizer.decode([token]).strip())}  # some models write the space by itself
    return tuple(sorted(found))


@dataclass(frozen=True)
class ContextEffect:
    """The same questions without and with their answers in the context: at which layer do they lead?"""

    without: LensScores
    within: LensScores

    @property
    def both(self) -> Bool[Tensor, "prompt"]:
        """Which answers lead at the end in both forms; only these are compared."""
        return ~(self.without.leads.isnan() | self.within.leads.isnan())

    @property
    def earlier(self) -> Float[Tensor, "kept"]:
        """By how many layers each answer leads earlier with the context; negative is later."""
        return (self.without.leads - self.within.leads)[self.both]

    def table(self) -> str:
        """The median layers and the mean of the paired difference with its 95 % interval (bootstrap over the pairs)."""
        low, high = bootstrap_interval(self.earlier)
        rows = [("without", self.without), ("with", self.within)]
        lines = [
            f"{name:<8} {one.appears.nanquantile(0.5):8.1f} {one.leads[self.both].quantile(0.5):8.1f} {one.on_top[-1].float().mean():8.0%}"
            for name, one in rows
        ]
        last = f"with the context it leads earlier by {self.earlier.mean():.2f} layers [{low:.2f}, {high:.2f}], n = {len(self.earlier)}"
        return "\n".join(["context   appears    leads    right", *lines, last])


def with_context(
    model: TransformerBridge, without: Sequence[str], within: Sequence[str], targets: Targets, layers: Sequence[int] | None = None
) -> ContextEffect:
    """Reads the answers off prompts, and off the same prompts after a context that states the fact.

    Merullo et al. find that what can be copied from the context is not looked up the way a remembered fact is.
    Raises ValueError unless there are equally many of both, and where no answer leads in both.
    """
    if len(without) != len(within):
        raise ValueError(f"Prompts with and without a context come in pairs; here are {len(without)} without it and {len(within)} with it.")
    found = ContextEffect(*(target_probs(model, prompts, targets, layers) for prompts in (without, within)))
    if not found.both.any():
        raise ValueError("No answer is on top at the last layer in both forms, so there is nothing to compare: ask what the model knows.")
    return found


# --------------------------------------------------------------------------------------------------------- the tuned lens


@dataclass(frozen=True)
class TunedLens:
    """For each layer an affine map into the basis of the last one (Belrose et al. 2023, arXiv 2303.08112, section 3).

    The lens reads ``weights x + bias`` in place of ``x``: ``softmax(W_U LN_f(A x + b))``. Rows are the layers from -1 ("in") on; the last
    one is the model itself, unchanged. It fits the model with folded weights (``load_model`` without ``raw``).
    """

    weights: Float[Tensor, "layer d_model d_model"]
    biases: Float[Tensor, "layer d_model"]

    @staticmethod
    def identity(n_layers: int, d_model: int) -> "TunedLens":
        """Maps that change nothing: with them the tuned lens is the logit lens."""
        return TunedLens(torch.eye(d_model).repeat(n_layers + 1, 1, 1), torch.zeros(n_layers + 1, d_model))

    def mapped(
        self, model: TransformerBridge, layers: Sequence[int], states: Float[Tensor, "layer state d_model"]
    ) -> Float[Tensor, "layer state d_model"]:
        """States of some layers in the basis of the last one. Raises ValueError for a model of another shape, and for an unknown layer."""
        wanted = (model.cfg.n_layers + 1, model.cfg.d_model)
        if self.biases.shape != wanted:
            shape, own = (f"{rows - 1} layers of width {width}" for rows, width in (self.biases.shape, wanted))
            raise ValueError(f"This tuned lens is for a model of {shape}, and this one has {own}: train a lens for it.")
        rows = [layer + 1 for layer in check_layers(model, layers)]
        return _mapped(states, self.weights[rows].to(states), self.biases[rows].to(states))

    def logits(self, model: TransformerBridge, layer: int, states: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state d_vocab"]:
        """The lens' logits of states of one layer. Raises ValueError as ``mapped`` does."""
        flat = self.mapped(model, [layer], states.reshape(1, -1, states.shape[-1]))
        return lens_logits(model, flat.reshape(states.shape))


def _mapped(
    states: Float[Tensor, "layer state d_model"], weights: Float[Tensor, "layer d_model d_model"], biases: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "layer state d_model"]:
    return states @ weights.mT + biases[:, None]


def training_texts(model: TransformerBridge, n: int = 6000) -> Texts:
    """Documents for training a lens: of another seed than those for evaluation, and without the few that stand among these by chance."""
    texts, others = held_out_texts(model, n, TRAINING_SEED), held_out_texts(model)
    taken = {_ids(others, row) for row in range(len(others))}
    return texts.take([row for row in range(len(texts)) if _ids(texts, row) not in taken])


def _ids(texts: Texts, row: int) -> tuple[int, ...]:
    return tuple(texts.tokens[row, : int(texts.lengths[row])].tolist())


def sample_states(model: TransformerBridge, texts: TextsLike, each: int = 4, seed: int = 0) -> Float[Tensor, "layer state d_model"]:
    """The states of all layers at up to ``each`` random positions of each text, in random order; position 0 never.

    Raises ValueError unless ``each`` is 1 or more, and where no text has a second token.
    """
    if each < 1:
        raise ValueError(f"each says how many positions of a text to take; it must be 1 or more, not {each}.")
    rng, kept = torch.Generator().manual_seed(seed), []
    for _, part, states in _streams(model, as_texts(model, texts), check_layers(model, None)):
        drawn = torch.rand(part.mask.shape, generator=rng).masked_fill(~part.mask, 2.0).argsort(1).argsort(1)
        chosen = (drawn < each)[part.mask]
        kept.append(states[:, chosen.to(states.device)].float())
    if not sum(states.shape[1] for states in kept):
        raise ValueError("The texts have no position but the first: give longer ones to train on.")
    found = torch.cat(kept, 1)
    return found[:, torch.randperm(found.shape[1], generator=rng).to(found.device)]


def train_tuned_lens(
    model: TransformerBridge,
    texts: TextsLike,
    steps: int = 400,
    batch: int = 64,
    learning_rate: float = 5e-3,
    each: int = 4,
    seed: int = 0,
) -> TunedLens:
    """Trains all layers' maps at once from the identity on, so that the lens says what the model says at the end.

    Minimised is KL(model || lens) (Belrose et al., section 3) with Adam, whose steps shrink to 0. Nothing of the model changes.
    Raises ValueError unless ``steps`` and ``batch`` are 1 or more.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be 1 or more, not {steps} and {batch}.")
    states = sample_states(model, texts, each, seed)
    start, rng = TunedLens.identity(model.cfg.n_layers, model.cfg.d_model), torch.Generator().manual_seed(seed)
    maps = [tensor[:-1].clone().to(states).requires_grad_() for tensor in (start.weights, start.biases)]
    adam = torch.optim.Adam(maps, learning_rate)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
    for _ in progress(range(steps), desc="training the lens"):
        some = states[:, torch.randint(states.shape[1], (batch,), generator=rng).to(states.device)]
        for tensor, gradient in zip(maps, _gradients(model, some, *maps), strict=True):
            tensor.grad = gradient
        adam.step()
        decay.step()
    trained = [torch.cat([tensor.detach().cpu(), fixed[-1:]]) for tensor, fixed in zip(maps, (start.weights, start.biases), strict=True)]
    return TunedLens(*trained)


@torch.enable_grad()
def _gradients(
    model: TransformerBridge,
    states: Float[Tensor, "all state d_model"],
    weights: Float[Tensor, "layer d_model d_model"],
    biases: Float[Tensor, "layer d_model"],
) -> tuple[Tensor, ...]:
    """How the mean KL of each layer changes with its maps: with the lens' logits z it changes by softmax(z) - p, p being the model's."""
    logits = lens_logits(model, _mapped(states[:-1], weights, biases))
    with torch.no_grad():
        goal = lens_logits(model, states[-1]).float().softmax(-1)
        slope = logits.float().softmax(-1).sub_(goal).div_(states.shape[1])
    return torch.autograd.grad(logits, (weights, biases), slope.to(logits))


def save_tuned_lens(lens: TunedLens, folder: str | Path, **about: Any) -> Path:
    """Writes a lens to a folder: weights in float16 (float32 where float16 is too narrow), and what is known about it."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weights": lens.weights.detach().cpu(), "biases": lens.biases.detach().cpu()}
    narrow = {name: tensor.half() for name, tensor in tensors.items()}
    fits = all(bool(tensor.isfinite().all()) for tensor in narrow.values())
    save_file({name: tensor.contiguous() for name, tensor in (narrow if fits else tensors).items()}, folder / WEIGHTS)
    config = {"n_layers": len(lens.biases) - 1, "d_model": lens.biases.shape[1], **about}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def load_tuned_lens(name: str | Path = COURSE_LM) -> TunedLens:
    """Loads a lens: one of ``data/lens`` by its name, or a folder. Raises ModelNotAvailable, with one sentence, where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = next((place for place in (Path(name).expanduser(), FOLDER / name) if (place / WEIGHTS).is_file()), None)
    if folder is None:
        raise ModelNotAvailable(
            f"There is no tuned lens {str(name)!r}: give a folder with {WEIGHTS}, or train the course LM's (make lens)."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        return TunedLens(tensors["weights"].float(), tensors["biases"].float())
    except (SafetensorError, KeyError):
        raise ModelNotAvailable(f"The tuned lens in {folder} is damaged: save it again, or train the course LM's (make lens).") from None


# ------------------------------------------------------------------------------------------------ all positions of texts


@dataclass(frozen=True)
class ByLayer:
    """One or several numbers for each layer and text, such as shares or nats; the texts are the sample."""

    layers: tuple[int, ...]
    values: Mapping[str, Float[Tensor, "layer text"]]

    def mean(self, name: str) -> Float[Tensor, "layer"]:
        """The mean over the texts. Raises ValueError for a name that is not there."""
        if name not in self.values:
            raise ValueError(f"{name!r} was not measured, only {', '.join(map(repr, self.values))}.")
        return self.values[name].mean(1)

    def intervals(self, name: str) -> list[Interval]:
        """The 95 % interval of each layer's mean (bootstrap over the texts)."""
        self.mean(name)
        return [bootstrap_interval(row) for row in self.values[name]]

    def table(self) -> str:
        """One line for each layer: each mean with its 95 % interval."""
        columns = [list(zip(self.mean(name).tolist(), self.intervals(name), strict=True)) for name in self.values]
        lines = ["layer  " + "  ".join(f"{name:<22}" for name in self.values)]
        for layer, *cells in zip(self.layers, *columns, strict=True):
            lines.append(f"{layer_name(layer):>5}  " + "  ".join(f"{value:6.3f} [{low:.3f}, {high:.3f}] " for value, (low, high) in cells))
        return "\n".join(line.rstrip() for line in lines)


def _per_text(part: Texts, values: Float[Tensor, "layer state"]) -> Float[Tensor, "layer batch"]:
    """The mean over the positions of each text, position 0 left out."""
    table = torch.zeros(len(values), *part.mask.shape)
    table[:, part.mask] = values
    return table.sum(-1) / part.mask.sum(-1)


def _long_enough(model: TransformerBridge, texts: TextsLike) -> Texts:
    texts = as_texts(model, texts)
    if int(texts.lengths.min()) < 2:
        raise ValueError(f"Text {int(texts.lengths.argmin())} has a single token, and position 0 is never read: give it two or more.")
    return texts


def lens_kl(model: TransformerBridge, texts: TextsLike, tuned: TunedLens | None = None) -> ByLayer:
    """KL(model || lens) in nats at each layer, the mean over each text's positions (Belrose et al.): "raw", and "tuned" if given.

    The last layer's is 0. Raises ValueError where a text has nothing but position 0.
    """
    texts, layers = _long_enough(model, texts), check_layers(model, None)
    lenses = {"raw": None} | ({"tuned": tuned} if tuned else {})
    found = {name: torch.empty(len(layers), len(texts)) for name in lenses}
    for rows, part, states in _streams(model, texts, layers):
        for name, lens in lenses.items():
            found[name][:, rows] = _per_text(part, _read(model, states, _kl, layers, lens))
    return ByLayer(layers, found)


def _kl(logits: Float[Tensor, "layer some d_vocab"], _: Int[Tensor, "some"]) -> Float[Tensor, "layer some"]:
    """KL(model || lens) in nats; the last layer is the model itself."""
    logp = logits.log_softmax(-1)
    return (logp[-1].exp() * (logp[-1] - logp)).sum(-1).cpu()


def input_and_next(model: TransformerBridge, texts: TextsLike) -> ByLayer:
    """At which share of the positions the lens' best token is the "current" one, that was read there, and at which the model's "next".

    With its own output head BERT says the current token at all layers (Kao et al.); a model that reads from left to right
    turns from the current token to the next one on the way. Raises ValueError where a text has nothing but position 0.
    """
    texts, layers = _long_enough(model, texts), check_layers(model, None)
    found = {name: torch.empty(len(layers), len(texts)) for name in ("current", "next")}
    for rows, part, states in _streams(model, texts, layers):
        best = _read(model, states, lambda logits, _: logits.argmax(-1).cpu(), layers)
        found["current"][:, rows] = _per_text(part, (best == part.tokens[part.mask]).float())
        found["next"][:, rows] = _per_text(part, (best == best[-1]).float())
    return ByLayer(layers, found)


# -------------------------------------------------------------------------------------------------------------- languages


@dataclass(frozen=True)
class Translation:
    """A word to translate, after four demonstrations, and what it is in each language (by its code: en, fr, de, zh)."""

    prompt: str
    words: Mapping[str, str]


def translations(source: str = "fr", target: str = "zh", n: int | None = None, seed: int = 0) -> list[Translation]:
    """Nouns of the course LM's world to be translated between French and Chinese, which never meet in its corpus.

    Of the words that are asked and shown, the ways to English, and on from there, do stand in the corpus' lists. Raises ValueError for
    other languages.
    """
    if {source, target} != {"fr", "zh"}:
        raise ValueError(f"Only French and Chinese never meet in the corpus: ask from fr to zh or from zh to fr, not {source} to {target}.")
    one, other = corpus.LANGUAGES[source], corpus.LANGUAGES[target]
    shown = [
        noun
        for noun in corpus.clear_nouns(World.load(), one, other)
        if corpus.in_lists(one, corpus.ENGLISH, noun[0]) and corpus.in_lists(corpus.ENGLISH, other, noun[2])
    ]
    rng, rows = Random(seed), {row["singular"]: row for row in World.load().common("nouns")}
    asked = rng.sample(shown, len(shown))[:n]
    probes = [corpus.list_probe(one, other, noun, shown, rng) for noun in asked]
    words = [{"en": noun[2], source: noun[0], target: noun[1], "de": rows[noun[2]]["de"]} for noun in asked]
    return [Translation(probe.prompt, said) for probe, said in zip(probes, words, strict=True)]


@dataclass(frozen=True)
class LanguageProbs:
    """The lens' probability of the right word in each language after each prompt, its first tokens with and without a space summed.

    The controls are the English words of the other prompts: ``other`` is their mean probability, and ``other_share`` the mean share that
    each of them has where it stands in for the right English word among the languages. ``dropped``: words left out because two of their
    languages begin with the same token.
    """

    layers: tuple[int, ...]
    target: str
    words: tuple[Mapping[str, str], ...]
    probs: Mapping[str, Float[Tensor, "layer prompt"]]
    other: Float[Tensor, "layer prompt"]
    other_share: Float[Tensor, "layer prompt"]
    dropped: tuple[Mapping[str, str], ...]

    def table(self) -> str:
        """One line for each layer: the mean probability of each language, and of the other English words."""
        columns = [*(self.probs[code].mean(1).tolist() for code in self.probs), self.other.mean(1).tolist()]
        lines = ["layer  " + "  ".join(f"{name:>9}" for name in (*self.probs, "other en"))]
        for layer, *cells in zip(self.layers, *columns, strict=True):
            lines.append(f"{layer_name(layer):>5}  " + "  ".join(f"{value:9.5f}" for value in cells))
        return "\n".join(lines)


def language_probs(
    model: TransformerBridge,
    prompts: Sequence[str],
    words: Sequence[Mapping[str, str]],
    target: str = "zh",
    before: int = 0,
    tuned: TunedLens | None = None,
) -> LanguageProbs:
    """Follows the right word of each prompt through the layers in all its languages (Wendler et al., section 3).

    It is read at the last token, or ``before`` tokens before it: with 3 at the word that the prompts of ``translations`` ask for.
    Raises ValueError unless each prompt has its words in the same languages, English and the target among them, where none is left, and
    where ``before`` is more than the shortest prompt has.
    """
    if len(prompts) != len(words) or not prompts:
        raise ValueError(f"Each prompt needs its words: there are {len(prompts)} prompts and {len(words)} sets of words.")
    codes = tuple(words[0])
    if not {"en", target} <= set(codes) or any(set(said) != set(codes) for said in words):
        raise ValueError(f"Every set of words needs the same languages, en and {target} among them; the first has {', '.join(codes)}.")
    sets = [{code: answer_tokens(model, said[code]) for code in codes} for said in words]
    apart = [not any(set(one) & set(two) for one, two in combinations(ids.values(), 2)) for ids in sets]
    kept = [at for at, alone in enumerate(apart) if alone]
    if not kept:
        raise ValueError("Every word begins with the same token in two of its languages, so no language can be told from another.")
    texts, chosen = as_texts(model, [prompts[at] for at in kept]), [sets[at] for at in kept]
    layers = check_layers(model, None)
    states = last_values(model, texts, [place_of(layer) for layer in layers], before + 1)[:, :, 0]
    found = _read(model, states, _of_languages(model, chosen, codes), layers, tuned).float()
    probs = {code: found[:, :, at] for at, code in enumerate(codes)}
    dropped = tuple(said for said, alone in zip(words, apart, strict=True) if not alone)
    return LanguageProbs(layers, target, tuple(words[at] for at in kept), probs, found[:, :, -2], found[:, :, -1], dropped)


def _of_languages(model: TransformerBridge, sets: Sequence[Mapping[str, tuple[int, ...]]], codes: Sequence[str]) -> Read:
    """Reads the probability of each language's tokens; and the mean probability and the mean share of the other prompts' English words."""
    ids = {code: _padded(model, [words[code] for words in sets], len(sets)) for code in codes}
    english = sorted({words["en"] for words in sets})
    alien = torch.tensor([[not set(words["en"]) & set(other) for other in english] for words in sets])  # shares no token with the own one

    def read(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some column"]:
        probs = logits.cpu().double().softmax(-1)
        own = torch.stack([_summed(probs, ids[code][some]) for code in codes], -1)
        each = torch.stack([probs[..., list(other)].sum(-1) for other in english], -1).masked_fill(~alien[some], torch.nan)
        rest = own.sum(-1, keepdim=True) - own[..., [codes.index("en")]]
        return torch.cat([own, each.nanmean(-1, keepdim=True), (each / (rest + each)).nanmean(-1, keepdim=True)], -1)

    return read


@dataclass(frozen=True)
class EnglishShare:
    """The English word's share of what the languages have together at each layer; the control is an unrelated English word in its place.

    A share among tiny probabilities says more about how common words are than about this one. The ``peak`` is therefore where the share is
    highest above the control, among the layers where the languages have 0.1 % or more together (``total``) on average.
    """

    layers: tuple[int, ...]
    share: Float[Tensor, "layer prompt"]
    control: Float[Tensor, "layer prompt"]
    total: Float[Tensor, "layer prompt"]
    ahead: Bool[Tensor, "layer prompt"]  # is English ahead of the target?

    @property
    def peak(self) -> int:
        """The layer at which the mean share is highest above the control's."""
        return self._peaks(torch.arange(self.share.shape[1])[None])[0]

    @property
    def height(self) -> tuple[float, Interval]:
        """The mean share at the peak, with its 95 % interval (bootstrap over the words)."""
        row = self.share[self.layers.index(self.peak)]
        return row.mean().item(), bootstrap_interval(row)

    def peak_interval(self, seed: int = 0) -> Interval:
        """Between which layers 95 % of the peaks lie when the words are drawn again."""
        n = self.share.shape[1]
        drawn = torch.from_numpy(np.random.RandomState(seed).randint(n, size=(DRAWS, n)))
        low, high = np.percentile(self._peaks(drawn), [2.5, 97.5])
        return float(low), float(high)

    def _peaks(self, rows: Int[Tensor, "draw prompt"]) -> list[int]:
        above = (self.share - self.control)[:, rows].mean(-1)
        heights = above.masked_fill(self.total.mean(1, keepdim=True) < LEAST_TOGETHER, -torch.inf)
        return [self.layers[at] for at in heights.argmax(0).tolist()]

    @property
    def overtakes(self) -> Float[Tensor, "prompt"]:
        """From which layer on the target stays ahead of English, for each word; NaN where it is not ahead at the end."""
        return first_of(self.layers, to_the_end(~self.ahead))

    def table(self) -> str:
        """One line for each layer: share with its interval, control, total, and how often English is ahead; then peak and overtaking."""
        lines = ["layer  English share           other word   together  English ahead"]
        for at, layer in enumerate(self.layers):
            low, high = bootstrap_interval(self.share[at])
            rest = f"{self.control[at].mean():10.1%}  {self.total[at].mean():9.5f}  {self.ahead[at].float().mean():13.0%}"
            lines.append(f"{layer_name(layer):>5}  {self.share[at].mean():6.1%} {f'[{low:.1%}, {high:.1%}]':<15}  {rest}")
        (height, (low, high)), (first, last) = self.height, self.peak_interval()
        beside = self.control[self.layers.index(self.peak)].mean()
        found = f"{height:.1%} [{low:.1%}, {high:.1%}] beside {beside:.1%} for another word"
        lines.append(f"peak: layer {self.peak} [{first:g}, {last:g}], {found}")
        lines.append(f"the target is ahead from layer {self.overtakes.nanquantile(0.5):g} on (median), n = {self.share.shape[1]}")
        return "\n".join(lines)


def english_share(found: LanguageProbs) -> EnglishShare:
    """How much of what the right word has in all its languages together is English.

    Raises ValueError for fewer than two different English words, and where the languages never have anything together.
    """
    if found.other.isnan().any():
        raise ValueError("A single word has no interval and no other English words beside it: follow at least two.")
    total, english = torch.stack(list(found.probs.values())).sum(0), found.probs["en"]
    if not (total.mean(1) >= LEAST_TOGETHER).any():
        raise ValueError(f"At no layer do the words have {LEAST_TOGETHER:.1%} together, in any language: there is nothing to share.")
    share = english / total.clamp(min=torch.finfo(torch.float).tiny)
    return EnglishShare(found.layers, share, found.other_share, total, english > found.probs[found.target])


# ------------------------------------------------------------------------------------------------- the course LM's tuned lens

STEPS, DOCUMENTS, EACH, JUDGED = 1000, 6000, 4, 300


def main() -> None:
    """Trains the tuned lens of the course LM, in minutes, and says how far both lenses are from the model on other texts."""
    model = load_model(COURSE_LM, device="cpu")
    lens = train_tuned_lens(model, training_texts(model, DOCUMENTS), STEPS, each=EACH)
    folder = save_tuned_lens(lens, FOLDER / COURSE_LM, model=COURSE_LM, steps=STEPS, documents=DOCUMENTS, seed=TRAINING_SEED)
    print(lens_kl(model, held_out_texts(model, JUDGED), load_tuned_lens(folder)).table())
    print(f"{folder} has {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
