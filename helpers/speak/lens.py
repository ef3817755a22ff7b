"""The residual stream and the logit lens: what the model would say if its stream ended after an earlier block.

Every block adds to the stream and takes nothing away (He et al. 2015, arXiv 1512.03385), so each of its states is as wide as the last one
and can be given to the final norm and the unembedding: ``p = softmax(W_U LN_f(x))``. Kao et al. 2020 (arXiv 2001.09309) did so with BERT,
Merullo et al. 2023 (arXiv 2305.16130) with facts, Wendler et al. 2024 (arXiv 2402.10588) with words of several languages.

    print(logit_lens(model, "The capital of Poland is").table())

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0. A tensor's axis ``layer`` begins with "in"
and has all of them, unless ``layers`` says which. ``make lens`` trains the tuned lens of the course LM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers.cluster.attribution import direct_effects
from helpers.inputs import check_number, chosen
from helpers.interventions import attn_out, mlp_out, record
from helpers.models import TransformerBridge
from helpers.prediction import pieces, visible
from helpers.running import ENTRY, activations_at, check_layers, layer_hook, layer_name, read_lens
from helpers.speak.tuned_lens import TunedLens, layer_states
from helpers.stats import bootstrap_interval
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

# ------------------------------------------------------------------------------------------------------------- the stream


@dataclass(frozen=True)
class StreamParts:
    """What was written into the stream at the last token of each prompt: the embedding, then each block's attention and MLP.

    ``stream`` is the state after the last block, as the model computes it; it is the sum of the parts.
    """

    names: tuple[str, ...]
    parts: Float[Tensor, "part prompt d_model"]
    stream: Float[Tensor, "prompt d_model"]

    def table(self) -> str:
        """One line for each part: its mean length, and that of the stream with it."""
        lengths = [parts.norm(dim=-1).mean(1).tolist() for parts in (self.parts, self.parts.cumsum(0))]
        return table({"part": "<13", "length": "8.2f", "  stream then": "12.2f"}, zip(self.names, *lengths, strict=True))


def stream_parts(model: TransformerBridge, prompts: TextsLike) -> StreamParts:
    """Takes the last state of each prompt apart: ``x_L = x_0 + sum of attention(l) + sum of MLP(l)`` (1512.03385, equation 1, unrolled)."""
    blocks = range(model.cfg.n_layers)
    hooks = [layer_hook(ENTRY), *(hook(layer) for layer in blocks for hook in (attn_out, mlp_out)), layer_hook(blocks[-1])]
    seen = activations_at(model, prompts, hooks)[:, :, 0]
    names = ("embedding", *(f"{what} {layer}" for layer in blocks for what in ("attention", "MLP")))
    return StreamParts(names, seen[:-1], seen[-1])


@dataclass(frozen=True)
class BlockEffects:
    """What each part of the stream adds to a logit difference, in logits; all parts and the constant add up to what the model says."""

    names: tuple[str, ...]
    effect: Float[Tensor, "part prompt"]


def block_effects(
    model: TransformerBridge, prompts: TextsLike, right: Int[Tensor, "prompt"], wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt several"]
) -> BlockEffects:
    """Direct effects of whole attention layers and MLPs on the logit of ``right`` minus that of ``wrong`` (or of several, their mean).

    It is a difference because a softmax sees nothing else. Raises ValueError for models whose heads have no output of their own.
    """
    found = direct_effects(model, prompts, right, wrong)
    parts = {"constant": [found.of("constant")], "embedding": [found.of("embed")]}
    for layer in range(model.cfg.n_layers):
        heads = [found.of(f"a{layer}.{head}") for head in range(found.n_heads)]
        parts[f"attention {layer}"] = [*heads, found.of(f"bias {layer}")]
        parts[f"MLP {layer}"] = [found.of(f"m{layer}")]
    return BlockEffects(tuple(parts), torch.stack([torch.stack(part).sum(0) for part in parts.values()]))


# --------------------------------------------------------------------------------------------------------------- the lens


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
        row = self.layers.index(chosen(self.layers, layer, "layer"))
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


def _shown(word: str, width: int) -> str:
    """A piece that fits into a table, whatever letters it has."""
    return "".join(letter if letter.isprintable() else "�" for letter in visible(word))[:width]


@torch.no_grad()
def logit_lens(
    model: TransformerBridge, text: str, layers: Sequence[int] | None = None, k: int = 5, tuned: TunedLens | None = None
) -> LensTable:
    """The best tokens of the lens after each token of a text, at every layer; with ``tuned`` they are the tuned lens'.

    Longer text is truncated on the left. Raises ValueError for an empty text, an unknown layer, and a ``k`` that cannot be.
    """
    check_number("k says how many tokens to list", k, high=model.cfg.d_vocab)
    layers, tokens = check_layers(model, layers), as_texts(model, [text]).tokens
    seen = record(model, tokens.to(model.cfg.device), *map(layer_hook, dict.fromkeys(layers)))
    states = torch.cat([seen[layer_hook(layer)] for layer in layers])  # [layer, pos, d_model]
    states = tuned.mapped(model, layers, states) if tuned else states
    best = read_lens(model, states, lambda logits, _: torch.stack([part.double() for part in logits.softmax(-1).topk(k)], 2))
    ids = torch.cat([best[:, :, 1].long().flatten().cpu(), tokens[0]]).unique()
    words = dict(zip(ids.tolist(), pieces(model, ids), strict=True))
    return LensTable(tokens[0], layers, best[:, :, 1].long().cpu(), best[:, :, 0].float().cpu(), words)


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
        columns = [self.on_top.float().mean(1).tolist(), self.prob.mean(1).tolist(), self.rank.median(1).values.tolist()]
        rows = zip(map(layer_name, self.layers), *columns, strict=True)
        lines = table({"layer": ">5", "on top": "6.0%", "probability": "11.1%", "median rank": "11,"}, rows, gap="  ")
        firsts = {"appears": self.appears, "leads": self.leads}
        return f"{lines}\n" + ", ".join(f"{what} at layer {first.nanquantile(0.5):g} (median)" for what, first in firsts.items())


Targets = Sequence[Sequence[int]] | Int[Tensor, "prompt"]


@torch.no_grad()
def target_probs(
    model: TransformerBridge, prompts: TextsLike, targets: Targets, layers: Sequence[int] | None = None, tuned: TunedLens | None = None
) -> LensScores:
    """What the lens gives to the answer of each prompt at its last token; an answer is one token, or a set whose probabilities are summed.

    Raises ValueError unless each prompt has a target, none of them empty.
    """
    texts = as_texts(model, prompts)
    layers = check_layers(model, layers)
    ids = padded_sets(targets, len(texts))
    states = activations_at(model, texts, [layer_hook(layer) for layer in layers])[:, :, 0]

    def score(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some 2"]:
        logits = logits.cpu().double()
        own = ids[some].expand(len(logits), -1, -1)
        values = logits.gather(-1, own.clamp(min=0)).masked_fill(own < 0, -torch.inf)
        before = (logits > values.amax(-1, keepdim=True)).sum(-1)
        return torch.stack([values.logsumexp(-1) - logits.logsumexp(-1), before.double()], -1)

    log_prob, rank = read_lens(model, tuned.mapped(model, layers, states) if tuned else states, score).unbind(-1)
    return LensScores(layers, log_prob.clamp(max=0).float(), rank.long())


def padded_sets(targets: Targets, n: int) -> Int[Tensor, "prompt most"]:
    """The tokens of each prompt's set, filled up with -1. Raises ValueError where they do not fit the prompts."""
    sets = [[token] for token in targets.tolist()] if torch.is_tensor(targets) else [sorted(set(ids)) for ids in targets]
    if len(sets) != n:
        raise ValueError(f"Each prompt needs its targets: there are {n} prompts and {len(sets)} sets of tokens.")
    if empty := [at for at, ids in enumerate(sets) if not ids]:
        raise ValueError(f"Prompt {empty[0]} has no target (prompts are counted from 0): give it one token at least.")
    return pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in sets], batch_first=True, padding_value=-1)


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


# ------------------------------------------------------------------------------------------------ all positions of texts


@dataclass(frozen=True)
class ByLayer:
    """One or several numbers for each layer and text, such as shares or nats; the texts are the sample."""

    layers: tuple[int, ...]
    values: Mapping[str, Float[Tensor, "layer text"]]

    def mean(self, name: str) -> Float[Tensor, "layer"]:
        """The mean over the texts. Raises ValueError for a name that is not there."""
        return chosen(self.values, name, "measure").mean(1)

    def table(self) -> str:
        """One line for each layer: each mean with its 95 % interval."""
        rows = []
        for layer, *found in zip(self.layers, *self.values.values(), strict=True):
            rows.append((layer_name(layer), *("{:6.3f} [{:.3f}, {:.3f}] ".format(one.mean(), *bootstrap_interval(one)) for one in found)))
        return table({"layer": ">5"} | dict.fromkeys(self.values, "<22"), rows, gap="  ")


@torch.no_grad()
def lens_kl(
    model: TransformerBridge, texts: TextsLike, tuned: TunedLens | None = None, usual: Float[Tensor, "d_vocab"] | None = None
) -> ByLayer:
    """KL(model || lens) in nats at each layer, the mean over each text's positions (Belrose et al.): "raw", and "tuned" if given.

    The last layer's is 0. The baseline "blind" is one and the same distribution at every place, such as how often words occur (``usual``):
    a lens that sees nothing. Raises ValueError where a text has nothing but position 0.
    """

    def blind(logits: Float[Tensor, "one some d_vocab"], _: Int[Tensor, "some"]) -> Float[Tensor, "one some"]:
        logp = logits.log_softmax(-1)
        return (logp.exp() * (logp - usual.to(logp).log())).sum(-1).cpu()

    def kl(logits: Float[Tensor, "layer some d_vocab"], _: Int[Tensor, "some"]) -> Float[Tensor, "layer some"]:
        logp = logits.log_softmax(-1)
        return (logp[-1].exp() * (logp[-1] - logp)).sum(-1).cpu()

    texts = _long_enough(model, texts)
    layers = check_layers(model, None)
    names = ["raw"] + ["tuned"] * (tuned is not None) + ["blind"] * (usual is not None)
    found = {name: torch.empty(len(layers), len(texts)) for name in names}
    for rows, part, states in layer_states(model, texts, layers):
        found["raw"][:, rows] = _per_text(part, read_lens(model, states, kl))
        if tuned:
            found["tuned"][:, rows] = _per_text(part, read_lens(model, tuned.mapped(model, layers, states), kl))
        if usual is not None:
            found["blind"][:, rows] = _per_text(part, read_lens(model, states[-1:], blind))
    return ByLayer(layers, found)


@torch.no_grad()
def input_and_next(model: TransformerBridge, texts: TextsLike) -> ByLayer:
    """At which share of the positions the lens' best token is the "current" one, that was read there, and at which the model's "next".

    With its own output head BERT says the current token at all layers (Kao et al.); a model that reads from left to right
    turns from the current token to the next one on the way. Raises ValueError where a text has nothing but position 0.
    """
    texts = _long_enough(model, texts)
    layers = check_layers(model, None)
    found = {name: torch.empty(len(layers), len(texts)) for name in ("current", "next")}
    for rows, part, states in layer_states(model, texts, layers):
        best = read_lens(model, states, lambda logits, _: logits.argmax(-1).cpu())
        found["current"][:, rows] = _per_text(part, (best == part.tokens[part.mask]).float())
        found["next"][:, rows] = _per_text(part, (best == best[-1]).float())
    return ByLayer(layers, found)


def _long_enough(model: TransformerBridge, texts: TextsLike) -> Texts:
    texts = as_texts(model, texts)
    if int(texts.lengths.min()) < 2:
        raise ValueError(f"Text {int(texts.lengths.argmin())} has a single token, and position 0 is never read: give it two or more.")
    return texts


def _per_text(part: Texts, values: Float[Tensor, "layer state"]) -> Float[Tensor, "layer batch"]:
    """The mean over the positions of each text, position 0 left out."""
    spread = torch.zeros(len(values), *part.mask.shape)
    spread[:, part.mask] = values
    return spread.sum(-1) / part.mask.sum(-1)
