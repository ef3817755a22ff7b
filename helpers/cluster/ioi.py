"""Indirect objects: who receives the gift? The sentences of Wang et al. 2022 (arXiv 2211.00593), and what its heads look at.

*When Mary and John went to the store, John gave a drink to* ends on the name that stands only once. S is the giver, named at S1 and again
at S2; IO is the receiver. Half of the sentences name the receiver first, half the giver, so that no position gives the answer away.

    data = ioi_sentences(model, 44)
    pairs = data.pairs(model)  # the giver swapped at S2: the other name becomes the answer
    print(patch_heads(model, pairs).table())
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.attribution import DirectEffects
from helpers.cluster.patching import PromptPairs, metric_at_ends, prompt_pairs
from helpers.course_lm.corpus import tasks
from helpers.course_lm.world import World
from helpers.inputs import check_number, chosen
from helpers.interventions import head_out, pattern, record, resample_ablate, resid_post
from helpers.metrics import Metric, log_odds
from helpers.models import TransformerBridge
from helpers.one_layer.function_vectors import Head, top_heads
from helpers.prediction import token_id
from helpers.running import read_suffix
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

ORDERS = ("ABB", "BAB")  # the receiver is named first, or the giver is


@dataclass(frozen=True)
class IoiSentences:
    """Sentences up to the receiver's name. ``others`` are three unrelated names for each, for corrupted copies."""

    texts: tuple[str, ...]
    receivers: tuple[str, ...]
    givers: tuple[str, ...]
    others: tuple[tuple[str, str, str], ...]
    orders: tuple[str, ...]
    tokens: Texts
    io: Int[Tensor, "prompt"]
    s: Int[Tensor, "prompt"]
    positions: dict[str, Int[Tensor, "prompt"]]

    def __len__(self) -> int:
        """How many sentences there are."""
        return len(self.texts)

    @property
    def metric(self) -> Metric:
        """The logit difference of receiver and giver, which is also their log-odds."""
        return log_odds(self.io, self.s)

    def swapped(self) -> list[str]:
        """The same sentences in which the other one gives: the giver's second name is the receiver's, and so the answer is turned round."""
        return [_renamed(text, io, s, (io, s, io)) for text, io, s in zip(self.texts, self.receivers, self.givers, strict=True)]

    def unrelated(self) -> list[str]:
        """The same sentences with three unrelated names (p_ABC of the paper, section 2): the frame stays, the answer is gone."""
        rows = zip(self.texts, self.receivers, self.givers, self.others, strict=True)
        return [_renamed(text, io, s, names) for text, io, s, names in rows]

    def pairs(self, model: TransformerBridge, corrupted: str = "swapped") -> PromptPairs:
        """The sentences beside corrupted ones: ``swapped`` or ``unrelated``. Raises ValueError for another kind."""
        kind = chosen({"swapped": self.swapped, "unrelated": self.unrelated}, corrupted, "corruption")
        return prompt_pairs(model, list(self.texts), kind(), self.metric)


def _renamed(text: str, io: str, s: str, names: Sequence[str]) -> str:
    """Other names for the receiver, the giver, and the giver the second time."""
    before, _, after = text.rpartition(f" {s} ")
    words = {io: names[0], s: names[1]}
    before = re.sub(rf"\b({io}|{s})\b", lambda found: words[found[0]], before)
    return f"{before} {names[2]} {after}"


def ioi_sentences(model: TransformerBridge, n: int, seed: int = 0, frames: Sequence[str] = ()) -> IoiSentences:
    """``n`` sentences in which frames and orders take turns; the pairs of names stand in no such sentence of the course LM's corpus.

    Orders are balanced where ``n`` is a multiple of twice the number of frames. ``frames`` are some of the corpus's (all of them if none
    is named). Raises ValueError for an unknown frame, and for a model in which fewer than five first names are one token.
    """
    check_number("n says how many sentences to write", n)
    frames, usable = tuple(frames or tasks.FRAMES), single_names(model)
    for frame in frames:
        chosen(tasks.FRAMES, frame, "frame")
    if len(usable) < 5:
        raise ValueError(f"Five first names must be one token of this model, and only {len(usable)} are.")
    rows = [_draw(Random(f"{seed} {number}"), usable, frames, number) for number in range(n)]
    texts, receivers, givers, others, orders = map(tuple, zip(*rows, strict=True))
    tokens = as_texts(model, texts)
    io, s = (torch.tensor([token_id(model, f" {name}") for name in side]) for side in (receivers, givers))
    is_io, is_s = tokens.tokens == io[:, None], tokens.tokens == s[:, None]
    first, last = is_s.int().argmax(1), tokens.tokens.shape[1] - 1 - is_s.flip(1).int().argmax(1)
    positions = {"IO": is_io.int().argmax(1), "S1": first, "S1+1": first + 1, "S2": last, "END": tokens.lengths - 1}
    return IoiSentences(texts, receivers, givers, others, orders, tokens, io, s, positions)


def single_names(model: TransformerBridge) -> list[str]:
    """The first names of the world that are one token of this model, after a space."""
    names = World.load().column("firstnames", "name")
    ids = model.tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
    return [name for name, own in zip(names, ids, strict=True) if len(own) == 1]


def _draw(rng: Random, names: Sequence[str], frames: Sequence[str], number: int) -> tuple[str, str, str, tuple[str, str, str], str]:
    frame, order = frames[number % len(frames)], ORDERS[number // len(frames) % 2]
    people = rng.sample(names, 2)
    while not tasks.hidden_pair(people):
        people = rng.sample(names, 2)
    io, s = people if order == "ABB" else people[::-1]
    others = rng.sample([name for name in names if name not in people], 3)
    return tasks.frame_text(rng, frame, people, s), io, s, tuple(others), order


ROLES = {  # role of a head in the paper: from where to where it attends
    "name mover": ("END", "IO"),
    "S-inhibition": ("END", "S2"),
    "duplicate token": ("S2", "S1"),
    "induction": ("S2", "S1+1"),
    "previous token": ("S1+1", "S1"),
}


@torch.no_grad()
def role_attention(model: TransformerBridge, data: IoiSentences) -> dict[str, Float[Tensor, "layer head"]]:
    """The mean attention of every head on the way that each role of the paper takes, between 0 and 1."""
    places, rows = [pattern(layer) for layer in range(model.cfg.n_layers)], torch.arange(len(data))
    seen = record(model, data.tokens.tokens.to(model.cfg.device), *places)
    looks = torch.stack([seen[place].float().cpu() for place in places])  # [layer, prompt, head, query, key]
    ways = {role: [data.positions[name] for name in way] for role, way in ROLES.items()}
    return {role: looks[:, rows, :, query, key].mean(0) for role, (query, key) in ways.items()}


@torch.no_grad()
def attention_to(
    model: TransformerBridge, prompts: TextsLike, tokens: Int[Tensor, "word prompt"]
) -> Float[Tensor, "word layer head prompt"]:
    """Every head's attention from the last token of each prompt to some tokens of that prompt, each at all places where it stands."""
    texts, places = as_texts(model, prompts), [pattern(layer) for layer in range(model.cfg.n_layers)]
    seen, rows = record(model, texts.tokens.to(model.cfg.device), *places), torch.arange(len(texts))
    looks = torch.stack([seen[place][rows, :, texts.lengths - 1].float().cpu() for place in places])  # [layer, prompt, head, key]
    return torch.stack([(looks * (texts.tokens == one[:, None])[:, None]).sum(-1).transpose(1, 2) for one in tokens])


def head_table(
    model: TransformerBridge,
    data: IoiSentences,
    direct: DirectEffects,
    looks: Float[Tensor, "two layer head prompt"],
    heads: Sequence[Head],
) -> str:
    """For each head and each order of the names: its share of the logit difference, and its attention from the end to each name.

    ``copies`` and ``lowers``: how often the name of the one who receives, or gives, would be among its five highest, or lowest, tokens.
    """
    writes = copies(model, heads, data), copies(model, heads, data, "S2", lowest=True)
    rows = []
    for (layer, head), *rates in zip(heads, *(found.float().mean(1).tolist() for found in writes), strict=True):
        for order in ORDERS:
            of = torch.tensor([one == order for one in data.orders])
            values = (direct.of(f"a{layer}.{head}"), *looks[:, layer, head])
            rows.append((f"a{layer}.{head}", order, *(value[of].mean().item() for value in values), *rates))
    return table({"head": "<6", "order": "<5", "share": "+6.2f", "to IO": "6.2f", "to S": "6.2f", "copies": "7.0%", "lowers": "7.0%"}, rows)


def role_table(scores: dict[str, Float[Tensor, "layer head"]], n: int = 2) -> str:
    """For each role the ``n`` heads that attend its way most."""
    named = {role: [f"a{layer}.{head} ({at[layer, head]:.2f})" for layer, head in top_heads(at, n)] for role, at in scores.items()}
    return "\n".join(f"{role:<16} {', '.join(heads)}" for role, heads in named.items())


@torch.no_grad()
def repeated_scores(model: TransformerBridge, n: int = 50, length: int = 20, seed: int = 0) -> dict[str, Float[Tensor, "layer head"]]:
    """What heads do on random tokens that come twice: attention to the token before, to the same one, and to the one after it.

    Nothing in such a text has a meaning, so a head that attends to the token before, finds its token again, or finds what followed it,
    does so by rule (Olsson et al. 2022, arXiv 2209.11895).
    """
    rng = torch.Generator().manual_seed(seed)
    once = torch.randint(0, model.cfg.d_vocab, (n, length), generator=rng)
    start = [torch.full((n, 1), model.tokenizer.bos_token_id)] if model.cfg.default_prepend_bos else []
    tokens = torch.cat([*start, once, once], 1)
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(f"{length} tokens twice are too long for this model, which reads {model.cfg.n_ctx}: take fewer.")
    places = [pattern(layer) for layer in range(model.cfg.n_layers)]
    seen = record(model, tokens.to(model.cfg.device), *places)
    means = torch.stack([seen[place].mean(0).float().cpu() for place in places])  # [layer, head, query, key]
    second = torch.arange(len(start) + length, tokens.shape[1])
    steps = {"previous token": 1, "duplicate token": length, "induction": length - 1}
    return {role: means[:, :, second, second - step].mean(-1) for role, step in steps.items()}


@torch.no_grad()
def copies(
    model: TransformerBridge, heads: Sequence[Head], data: IoiSentences, place: str = "IO", k: int = 5, lowest: bool = False
) -> Bool[Tensor, "head prompt"]:
    """Which names a head would write among its top ``k`` tokens (or its ``lowest``) if it looked at them, at a place, and nowhere else.

    The state at the name after the first block goes through the head's values and outputs, the final norm and the unembedding
    (Wang et al., section 3.1: above 95 % for name movers, below 20 % for average heads of GPT-2). Heads that lower the name that they see
    are negative name movers there.
    """
    rows = torch.arange(len(data))
    states = record(model, data.tokens.tokens.to(model.cfg.device), resid_post(0))[resid_post(0)][rows, data.positions[place]]
    ids = data.tokens.tokens[rows, data.positions[place]]
    found = []
    for layer, head in heads:
        block = model.blocks[layer]
        normed = block.ln1(states[:, None])[:, 0]
        shared = head * len(block.attn.W_V) // model.cfg.n_heads  # in some models several heads have the same values
        bias = 0 if block.attn.b_V is None else block.attn.b_V[shared]
        written = (normed @ block.attn.W_V[shared] + bias) @ block.attn.W_O[head]
        best = model.unembed(model.ln_final(written[:, None]))[:, 0].topk(k, largest=not lowest).indices.cpu()
        found.append((best == ids[:, None]).any(1))
    return torch.stack(found)


@dataclass(frozen=True)
class SelfRepair:
    """A head is taken away at the end of each sentence: the logit difference before and after, and the ``direct`` share that is lost."""

    before: Float[Tensor, "prompt"]
    after: Float[Tensor, "prompt"]
    direct: Float[Tensor, "prompt"]

    @property
    def expected(self) -> Float[Tensor, "prompt"]:
        """The logit difference of each prompt if nothing else changed."""
        return self.before - self.direct


@torch.no_grad()
def self_repair(model: TransformerBridge, data: IoiSentences, heads: Sequence[Head], direct: DirectEffects) -> list[SelfRepair]:
    """Takes each head away by itself at the last token: its output on the sentence with unrelated names takes its place.

    ``direct`` are the shares with all heads; by so much a head's share falls, the scale of the final norm held. Wang et al. (section 3.4)
    found that later heads make up for most of it; McGrath et al. 2023 (arXiv 2307.15771) call it self-repair. A run starts at the head's
    layer.
    """
    end, rows = data.positions["END"], torch.arange(len(data))
    hooks = [head_out(layer) for layer, _ in heads]
    sides = [as_texts(model, side).tokens.to(model.cfg.device) for side in (list(data.texts), data.unrelated())]
    own, other = (record(model, tokens, *dict.fromkeys(hooks)) for tokens in sides)
    start = int(end.min())  # what stands before it is run once
    run = read_suffix(model, sides[0], start, sorted({layer for layer, _ in heads}))
    found = []
    for hook, (layer, head) in zip(hooks, heads, strict=True):
        gone = resample_ablate(hook, other[hook][:, start:], head=head, pos=end - start)
        after = data.metric(run.logits(model, layer, rows, end, gone)[:, None]).cpu()
        written = (own[hook] - other[hook])[rows, end, head] @ model.blocks[layer].attn.W_O[head]
        found.append(SelfRepair(direct.total, after, (written.float().cpu() * direct.readout).sum(-1)))
    return found


@torch.no_grad()
def knocked_out(
    model: TransformerBridge, data: IoiSentences, heads: Sequence[Head], pos: Int[Tensor, "prompt"] | None = None
) -> Float[Tensor, "prompt"]:
    """The logit difference of each sentence with some heads' outputs taken from the sentence with unrelated names, all at once."""
    layers = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
    values = record(model, as_texts(model, data.unrelated()).tokens.to(model.cfg.device), *map(head_out, layers))
    gone = [resample_ablate(head_out(layer), values[head_out(layer)], head=own, pos=pos) for layer, own in layers.items()]
    return metric_at_ends(model, data.pairs(model), *gone)
