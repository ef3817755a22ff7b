"""Directions of the residual stream, which the lecture calls function vectors: found as a difference of means, added, taken away.

Arditi et al. 2024 (arXiv 2406.11717) found with them how chat models refuse; Rimsky et al. 2024 (arXiv 2312.06681) steer with them.
The stream is looked at *before* each block, as in the first paper: layer ``l`` is ``resid_pre(l)``. Positions are counted from the
end of the prompt: -1 is its last token.

    found = difference_in_means(model, harmful, harmless, positions=2)
    with intervene(model, *project_out_everywhere(model, found.vector(layer=5))):
        print(continue_all(model, harmful[:3]))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.effects import Metric, WordOdds, measure
from helpers.interventions import (
    Index,
    Intervention,
    add,
    attn_out,
    heads,
    intervene,
    mlp_out,
    project_out,
    read_at,
    record,
    resid_post,
    resid_pre,
)
from helpers.models import TransformerBridge, empty_cache
from helpers.prediction import fit, pad, tokenize
from helpers.progress import progress
from helpers.statistics import Interval, mean_interval
from helpers.texts import Texts, TextsLike, as_texts

KL_LIMIT = 0.1  # nats: what a projection may change on harmless prompts (Arditi et al., section 2.3 and their code)
DEPTH_LIMIT = 0.8  # of the layers: behind them a direction is near the words of the answer itself (same place)

# ------------------------------------------------------------------------------------------------------------- prompts


def chat_prompts(model: TransformerBridge, requests: Sequence[str], system: str | None = None) -> list[str]:
    """Each request as a conversation in the model's own chat template, open where the assistant's answer begins.

    Raises ValueError for a model without a chat template.
    """
    return conversations(model, [[request] for request in requests], system)


def conversations(model: TransformerBridge, turns: Sequence[Sequence[str]], system: str | None = None) -> list[str]:
    """Several conversations, each what the user and the assistant said in turn, open where the assistant speaks next.

    Raises ValueError for a model without a chat template.
    """
    if not model.tokenizer.chat_template:
        raise ValueError("This model has no chat template: it was never trained to chat, so choose an instruction-tuned one.")
    first = [{"role": "system", "content": system}] if system else []
    who = ("user", "assistant")
    chats = [[*first, *({"role": who[at % 2], "content": said} for at, said in enumerate(turn))] for turn in turns]
    return [model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]


def post_instruction(model: TransformerBridge) -> int:
    """How many tokens the chat template writes after the instruction; there a model already knows what was asked."""
    one, other = (tokenize(model, prompt).tolist() for prompt in chat_prompts(model, ["Sing a song", "Draw two maps"]))
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return max(1, count)


# ------------------------------------------------------------------------------------------------------ finding directions


def last_states(model: TransformerBridge, prompts: TextsLike, positions: int = 1) -> Float[Tensor, "layer prompt pos d_model"]:
    """The stream before every block, and after the last one, at the last ``positions`` tokens of each prompt; on the CPU.

    Layer ``l`` is the stream before block ``l``; layer ``n_layers`` is what is unembedded. Raises ValueError where a prompt is too short.
    """
    return last_values(model, prompts, [*map(resid_pre, range(model.cfg.n_layers)), resid_post(model.cfg.n_layers - 1)], positions)


def last_heads(model: TransformerBridge, prompts: TextsLike) -> Float[Tensor, "layer prompt head d_head"]:
    """What every head puts out at the last token of each prompt, before the heads are mixed; on the CPU."""
    return last_values(model, prompts, [*map(heads, range(model.cfg.n_layers))])[:, :, 0]


@torch.no_grad()
def last_values(
    model: TransformerBridge, prompts: TextsLike, places: Sequence[str], positions: int = 1
) -> Float[Tensor, "place prompt pos *rest"]:
    """What passes some places, all of one shape, at the last ``positions`` tokens of each prompt; on the CPU."""
    texts = as_texts(model, prompts)
    if not 1 <= positions <= int(texts.lengths.min()):
        raise ValueError(
            f"positions says how many tokens to look at from the end: 1 to {int(texts.lengths.min())} for these prompts, not {positions}."
        )
    kept: list[Tensor] = [torch.empty(0)] * len(texts)
    back = torch.arange(-positions, 0)
    for rows in texts.batches():
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), *places)
        at = part.lengths[:, None] + back  # [batch, pos]
        found = torch.stack([seen[place][torch.arange(len(rows))[:, None], at].float().cpu() for place in places], 1)
        for row, values in zip(rows.tolist(), found, strict=True):
            kept[row] = values
    return torch.stack(kept, 1)


@dataclass(frozen=True)
class Directions:
    """Differences of two means of the stream, for every layer and for each of the last positions."""

    positive: Float[Tensor, "layer pos d_model"]
    negative: Float[Tensor, "layer pos d_model"]
    n: tuple[int, int]

    @property
    def vectors(self) -> Float[Tensor, "layer pos d_model"]:
        """Mean of the positive prompts minus mean of the negative ones."""
        return self.positive - self.negative

    def vector(self, layer: int, pos: int = -1) -> Float[Tensor, "d_model"]:
        """The difference at one layer and position. Raises ValueError where there is none."""
        layers, positions, _ = self.vectors.shape
        if not 0 <= layer < layers or not -positions <= pos < 0:
            raise ValueError(f"There are directions for layers 0 to {layers - 1} and positions {-positions} to -1, not ({layer}, {pos}).")
        return self.vectors[layer, pos]

    def cosines(self, pos: int = -1) -> Float[Tensor, "layer layer"]:
        """How alike the directions of the layers are: the cosine between each two of them."""
        units = torch.nn.functional.normalize(self.vectors[:, pos], dim=-1)
        return units @ units.T


def difference_in_means(model: TransformerBridge, positive: TextsLike, negative: TextsLike, positions: int = 1) -> Directions:
    """The directions from the negative prompts to the positive ones (Arditi et al., section 2.3; means in float64)."""
    sides = [last_states(model, prompts, positions) for prompts in (positive, negative)]
    means = [states.double().mean(1).float() for states in sides]
    return Directions(*means, n=(sides[0].shape[1], sides[1].shape[1]))


def random_directions(like: Float[Tensor, "d_model"], n: int, seed: int = 0) -> Float[Tensor, "n d_model"]:
    """``n`` directions drawn at random, each as long as ``like``: the control of every direction."""
    drawn = torch.randn(n, len(like), generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * like.norm().cpu()


@dataclass(frozen=True)
class Plane:
    """Points of a space in the two directions in which they spread most (principal components)."""

    points: Float[Tensor, "point 2"]
    explained: tuple[float, float]


def principal_plane(states: Float[Tensor, "point d_model"]) -> Plane:
    """The two principal components of some states, and which share of their variance each explains."""
    centred = states.float() - states.float().mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    share = sizes.square() / sizes.square().sum()
    return Plane(centred @ axes[:2].T, (share[0].item(), share[1].item()))


# ----------------------------------------------------------------------------------------------- adding and taking away


def add_at(layer: int, vector: Float[Tensor, "d_model"], scale: float = 1.0, pos: Index = None) -> Intervention:
    """Sufficiency: ``x + scale * vector`` before one block, at all positions or at some (Arditi et al., equation 3)."""
    return add(resid_pre(layer), vector, scale, pos=pos)


def project_out_everywhere(model: TransformerBridge, direction: Float[Tensor, "d_model"], pos: Index = None) -> list[Intervention]:
    """Necessity: no block reads the direction and none writes it (Arditi et al., equation 4): ``x - (x . d) d`` in every layer."""
    places = [place(layer) for layer in range(model.cfg.n_layers) for place in (resid_pre, attn_out, mlp_out)]
    return [project_out(place, direction, pos=pos) for place in places]


@contextmanager
def orthogonalised(model: TransformerBridge, direction: Float[Tensor, "d_model"]) -> Iterator[TransformerBridge]:
    """Inside the block no weight writes the direction: ``W - (W d) d`` for embeddings, attention and MLP outputs, and their biases.

    The same as ``project_out_everywhere``, but in the weights (Arditi et al., section 4.1); afterwards the weights are as before.
    Raises ValueError where embedding and unembedding are one matrix (load the model with ``raw=False``), and for models that
    normalise once more what their blocks write (Gemma 2).
    """
    if not direction.norm() > 0:
        raise ValueError("A direction of length 0 points nowhere: was a mean subtracted from itself?")
    unit = (direction / direction.norm()).to(model.W_E)
    written = [(weights, weights.detach().clone(), axis) for weights, axis in _writers(model)]
    try:
        with torch.no_grad():
            for weights, old, axis in written:
                weights.copy_(old - unit[:, None] * (unit @ old) if axis == 0 else old - (old @ unit)[..., None] * unit)
        yield model
    finally:
        with torch.no_grad():
            for weights, old, _ in written:
                weights.copy_(old)


def _writers(model: TransformerBridge) -> Iterator[tuple[Tensor, int]]:
    """The weights and biases that write to the residual stream, each with its axis d_model: its first (0) or its last one (-1)."""
    if model.W_U.data_ptr() == model.W_E.data_ptr() or torch.equal(model.W_U.T, model.W_E):
        raise ValueError("Embedding and unembedding are one matrix in this model: load it with raw=False, which makes them two.")
    if hasattr(model.blocks[0], "ln1_post"):
        raise ValueError(
            "This model rescales what its blocks write, so its weights cannot hold a direction back: use project_out_everywhere."
        )
    modules = [model.embed, *([model.pos_embed] if hasattr(model, "pos_embed") else [])]
    for block in model.blocks:
        modules += [block.attn.o, block.mlp.out]
    for module in modules:
        inner = module.original_component
        yield inner.weight, 0 if isinstance(inner, torch.nn.Linear) else -1  # GPT-2 and embeddings have the output last
        if getattr(inner, "bias", None) is not None:
            yield inner.bias, -1


# ------------------------------------------------------------------------------------------------------- what it does


def any_of(ids: Sequence[int]) -> Metric:
    """The log-odds that one of some tokens comes next: ``log P - log(1 - P)`` with ``P`` their probability together.

    With the first tokens of refusals this is the refusal score of Arditi et al. (section 2.3).
    """

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        logp = logits[:, -1].double().log_softmax(-1)
        inside = torch.zeros(logp.shape[-1], dtype=torch.bool, device=logp.device)
        inside[list(ids)] = True
        return (logp[:, inside].logsumexp(-1) - logp[:, ~inside].logsumexp(-1)).float()

    return metric


@torch.no_grad()
def metric_of(model: TransformerBridge, prompts: TextsLike, metric: Metric, *interventions: Intervention) -> Float[Tensor, "prompt"]:
    """The metric after each prompt, with some interventions or none."""
    texts = as_texts(model, prompts)
    if isinstance(metric, WordOdds):  # which has to see all its rows at once
        every = torch.arange(len(texts))
        return _read_off(model, texts, metric, *(of_rows(intervention, every, texts.lengths) for intervention in interventions))
    ends = _end_logits(model, texts, *interventions)[:, None]  # together, since a metric may have one token for each prompt
    return measure(metric, ends, replace(texts, tokens=texts.tokens[:, :1], lengths=torch.ones_like(texts.lengths))).cpu()


def _read_off(
    model: TransformerBridge, texts: Texts, metric: Metric, *interventions: Intervention, row: Int[Tensor, "row"] | None = None
) -> Float[Tensor, "prompt"]:
    """The metric in one pass, in which only the ends are unembedded: as many tokens as the longest word of the metric has.

    ``row``: which of the texts each row of the metric is, where texts that are alike are run once.
    """
    n = max(map(len, metric.ids)) if isinstance(metric, WordOdds) else 1
    places = (texts.lengths[:, None] - n + torch.arange(n)).clamp(min=0)
    with intervene(model, *interventions, read_at(places)):
        logits = model(texts.tokens.to(model.cfg.device))
    ends = texts if row is None else texts.take(row)
    ends = replace(ends, tokens=ends.tokens[:, :n], lengths=torch.full_like(ends.lengths, n))
    return measure(metric, logits if row is None else logits[row.to(logits.device)], ends).cpu()


def _distinct(texts: Texts) -> tuple[Texts, Int[Tensor, "row"]]:
    """The texts without repetitions (the right and the wrong word of a prompt often stand after the same tokens), and which is which."""
    first: dict[tuple[int, ...], int] = {}
    same = [
        first.setdefault(tuple(ids[:n]), at) for at, (ids, n) in enumerate(zip(texts.tokens.tolist(), texts.lengths.tolist(), strict=True))
    ]
    kept = sorted(set(same))
    return texts.take(kept), torch.tensor([kept.index(at) for at in same])


def _runs(
    model: TransformerBridge, texts: Texts, *interventions: Intervention, ends: bool = False
) -> Iterator[tuple[Int[Tensor, "batch"], Texts, Float[Tensor, "batch pos d_vocab"]]]:
    """The logits of the texts, or of their ends only, batch by batch, with the numbers of their rows and these texts."""
    for batch in texts.batches():
        rows = batch.sort().values
        part = texts.take(rows)
        cut = [read_at(part.lengths[:, None] - 1)] if ends else []
        with intervene(model, *(of_rows(intervention, rows, part.lengths) for intervention in interventions), *cut):
            logits = model(part.tokens.to(model.cfg.device))
        yield rows, part, logits


def of_rows(intervention: Intervention, rows: Int[Tensor, "batch"], lengths: Int[Tensor, "batch"]) -> Intervention:
    """An intervention on some rows: what it has for each row goes with the rows, and position -1 is the last token of each.

    Raises ValueError where a row is too short for a position counted from the end.
    """
    pos, units = intervention.pos, intervention.units
    if torch.is_tensor(units) and units.ndim == 2:
        units = units[rows]
    if isinstance(pos, int) or (torch.is_tensor(pos) and pos.ndim == 1):
        asked = pos[rows] if torch.is_tensor(pos) else torch.full_like(lengths, pos)
        pos = torch.where(asked < 0, lengths + asked, asked)
        if int(pos.min()) < 0:
            raise ValueError(
                f"There is no position {int(asked[pos.argmin()])} in every prompt: the shortest has {int(lengths.min())} tokens."
            )
    return replace(intervention, pos=pos, units=units)


def _end_logits(model: TransformerBridge, texts: Texts, *interventions: Intervention) -> Float[Tensor, "prompt d_vocab"]:
    """The logits of what follows each text."""
    kept = torch.empty(len(texts), model.cfg.d_vocab, device=model.cfg.device)
    for rows, _, logits in _runs(model, texts, *interventions, ends=True):
        kept[rows] = logits[:, 0].float()
    return kept


@torch.no_grad()
def continue_all(model: TransformerBridge, prompts: Sequence[str], tokens: int = 8, *interventions: Intervention) -> list[str]:
    """The most likely continuation of each prompt, all of them at once; interventions act on every token, the new ones too.

    A text stops where the model ends the document or an answer. Raises ValueError where there is no prompt.
    """
    as_texts(model, prompts)
    rows = [fit(model, tokenize(model, prompt)) for prompt in prompts]
    fits = max(map(len, rows)) + tokens <= model.cfg.n_ctx
    write = _with_memory if tokens > 1 and fits and all(_stays(intervention) for intervention in interventions) else _afresh
    stops = _ends(model)
    written = write(model, rows, tokens, interventions, stops)
    cut = [ids[: next((at for at, token in enumerate(ids) if token in stops), len(ids))] for ids in written]
    return [model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() for ids in cut]


def _stays(intervention: Intervention) -> bool:
    """Does an intervention do the same to the old tokens each time a new one is written? One that counts from the end does not."""
    pos = intervention.pos
    if isinstance(pos, slice):
        return (pos.start or 0) >= 0 and pos.stop is None and pos.step in (None, 1)
    return pos is None or bool((torch.as_tensor(pos) >= 0).all())


def _afresh(
    model: TransformerBridge, rows: Sequence[Int[Tensor, "_"]], tokens: int, interventions: Sequence[Intervention], stops: set[int]
) -> list[list[int]]:
    """New tokens, each from a run over the whole text."""
    rows, starts, going = list(rows), [len(row) for row in rows], list(range(len(rows)))
    for _ in range(tokens):
        batch, lengths = pad(model, [fit(model, rows[i]) for i in going])
        changes = [of_rows(intervention, torch.tensor(going), lengths) for intervention in interventions]
        with intervene(model, *changes, read_at(lengths[:, None] - 1)):
            best = model(batch.to(model.cfg.device))[:, 0].argmax(-1).cpu()
        for i, token in zip(going, best, strict=True):
            rows[i] = torch.cat([rows[i], token[None]])
        going = [i for i in going if int(rows[i][-1]) not in stops]
        if not going:
            break
    return [row[start:].tolist() for row, start in zip(rows, starts, strict=True)]


def _with_memory(
    model: TransformerBridge, rows: Sequence[Int[Tensor, "_"]], tokens: int, interventions: Sequence[Intervention], stops: set[int]
) -> list[list[int]]:
    """The same tokens, each from a run over the last one only: keys and values of the text are remembered."""
    batch, lengths = pad(model, rows)
    every, cache = torch.arange(len(rows)), empty_cache()
    mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
    changes = [of_rows(intervention, every, lengths) for intervention in interventions]
    ends, written = lengths[:, None] - 1, []
    for _ in range(tokens):
        with intervene(model, *changes, read_at(ends)):
            options = dict(attention_mask=mask.to(model.cfg.device), past_key_values=cache, use_cache=True)
            batch = model(batch.to(model.cfg.device), **options)[:, 0].argmax(-1).cpu()[:, None]
        written.append(batch[:, 0])
        if all(bool(set(column) & stops) for column in torch.stack(written, 1).tolist()):
            break
        mask = torch.cat([mask, torch.ones_like(batch)], 1)
        ends = torch.zeros_like(ends)
        changes = [
            replace(of_rows(one, every, lengths), pos=None) for one in interventions if one.pos is None or isinstance(one.pos, slice)
        ]
    return torch.stack(written, 1).tolist() if written else [[] for _ in rows]


def _ends(model: TransformerBridge) -> set[int]:
    """Tokens after which nothing more is said: the end of a document, and whatever the chat template writes after an answer."""
    ends = {model.tokenizer.eos_token_id}
    if model.tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
        text = model.tokenizer.apply_chat_template(turns, tokenize=False)
        after = model.tokenizer(text.rsplit("Hello", 1)[1], add_special_tokens=False)["input_ids"]
        ends |= {after[0]} if after and after[0] in model.tokenizer.all_special_ids else set()
    return ends - {None}


def starts_with(texts: Sequence[str], beginnings: Sequence[str]) -> list[bool]:
    """Which texts begin with one of the beginnings, capital or small: refusals are counted like this (Arditi et al., section 2.4)."""
    return [text.strip().lower().startswith(tuple(word.lower() for word in beginnings)) for text in texts]


@torch.no_grad()
def losses(model: TransformerBridge, texts: TextsLike, *interventions: Intervention) -> Float[Tensor, "text"]:
    """The mean loss of each text in nats a token, position 0 not predicted, with some interventions or none.

    Raises ValueError where a text has nothing but position 0.
    """
    texts = as_texts(model, texts)
    if int(texts.lengths.min()) < 2:
        raise ValueError(f"Text {int(texts.lengths.argmin())} has a single token, which nothing comes before: give it two or more.")
    values = torch.empty(len(texts))
    for rows, part, logits in _runs(model, texts, *interventions):
        before = logits[:, :-1]
        right = before.gather(-1, part.tokens[:, 1:, None].to(logits.device))[..., 0]
        nats = (before.logsumexp(-1) - right).cpu() * part.mask[:, 1:]
        values[rows] = nats.sum(1) / part.mask.sum(1)
    return values


def perplexity(model: TransformerBridge, texts: TextsLike, *interventions: Intervention) -> float:
    """``exp`` of the mean loss over all tokens of the texts."""
    texts = as_texts(model, texts)
    weights = texts.mask.sum(1)
    return ((losses(model, texts, *interventions) * weights).sum() / weights.sum()).exp().item()


# ------------------------------------------------------------------------------------------------- choosing a direction


@dataclass(frozen=True)
class Candidate:
    """A direction that might be chosen, and how it does on the validation prompts: mean scores in log-odds, divergence in nats."""

    layer: int
    pos: int
    projected: float  # refusal score on harmful prompts with the direction projected out everywhere: low is good
    added: float  # refusal score on harmless prompts with the direction added at its layer: above 0 is needed
    kl: float  # how far the projection changes what follows harmless prompts: below KL_LIMIT is needed
    allowed: bool


@dataclass(frozen=True)
class Selection:
    """All candidates, in the order of their layers and positions."""

    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The allowed candidate whose projection leaves the least refusal. Raises ValueError where none is allowed."""
        allowed = [candidate for candidate in self.candidates if candidate.allowed]
        if not allowed:
            raise ValueError("No direction passes: none makes harmless prompts refused without changing much else. Are the two sets apart?")
        return min(allowed, key=lambda candidate: candidate.projected)

    def table(self, n: int = 6) -> str:
        """The ``n`` candidates that leave the least refusal, allowed or not."""
        lines = ["layer  pos   projected     added   KL (nats)"]
        for c in sorted(self.candidates, key=lambda c: (not c.allowed, c.projected))[:n]:
            lines.append(f"{c.layer:5} {c.pos:4} {c.projected:11.2f} {c.added:9.2f} {c.kl:11.4f}{'' if c.allowed else '   not allowed'}")
        return "\n".join(lines)


@torch.no_grad()
def select_direction(
    model: TransformerBridge, found: Directions, positive: TextsLike, negative: TextsLike, metric: Metric, depth: float = DEPTH_LIMIT
) -> Selection:
    """Tries every layer and position by the rule of Arditi et al. (section 2.3) on validation prompts, harmful and harmless.

    Chosen is what, projected out, leaves the lowest score on the positive prompts, among those that, added, bring the negative
    ones above 0, change little (KL below 0.1) when projected out, and lie in the first 80 % of the layers.
    """
    positive, negative = as_texts(model, positive), as_texts(model, negative)
    clean = _log_probs(model, negative)
    candidates = []
    n_layers, positions = found.vectors.shape[0] - 1, found.vectors.shape[1]
    places = [(layer, pos) for layer in range(n_layers) for pos in range(-positions, 0)]
    for layer, pos in progress(places, desc="candidates"):
        vector = found.vector(layer, pos)
        if not vector.norm() > 0:  # at a place that the two sets share, such as the first token
            continue
        removed = project_out_everywhere(model, vector)
        projected = metric_of(model, positive, metric, *removed).mean().item()
        added = metric_of(model, negative, metric, add_at(layer, vector)).mean().item()
        kl = (clean.exp() * (clean - _log_probs(model, negative, *removed))).sum(-1).mean().item()
        allowed = added > 0 and kl < KL_LIMIT and layer < depth * n_layers
        candidates.append(Candidate(layer, pos, projected, added, kl, allowed))
    return Selection(tuple(candidates))


def _log_probs(model: TransformerBridge, texts: Texts, *interventions: Intervention) -> Float[Tensor, "prompt d_vocab"]:
    """The log-probabilities of what follows each text."""
    return _end_logits(model, texts, *interventions).log_softmax(-1)


# ------------------------------------------------------------------------------------------------------------- steering


@dataclass(frozen=True)
class Steering:
    """A metric after each prompt, for each multiple of a vector that was added."""

    layer: int
    scales: tuple[float, ...]
    values: Float[Tensor, "scale prompt"]

    @property
    def mean(self) -> Float[Tensor, "scale"]:
        """The mean over the prompts."""
        return self.values.mean(1)

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each mean."""
        return [mean_interval(row) for row in self.values]

    @property
    def slopes(self) -> Float[Tensor, "prompt"]:
        """How much each prompt's metric rises with one more multiple: the slope of the line through its points (steerability).

        Raises ValueError where all multiples are the same.
        """
        if len(set(self.scales)) < 2:
            raise ValueError("A slope needs two different multiples at least: give more scales to steer.")
        x = torch.tensor(self.scales) - torch.tensor(self.scales).mean()
        return (x[:, None] * self.values).sum(0) / x.square().sum()

    @property
    def monotone(self) -> bool:
        """Does the mean rise from each multiple to the next?"""
        return bool((self.mean.diff() > 0).all())

    def table(self, as_share: bool = False) -> str:
        """One line for each multiple: the mean and its interval."""
        show = (lambda v: f"{v:8.1%}") if as_share else (lambda v: f"{v:8.3f}")
        rows = [
            (scale, *map(show, (mean, *ends))) for scale, mean, ends in zip(self.scales, self.mean.tolist(), self.intervals, strict=True)
        ]
        return "\n".join(["multiple      mean   95 % interval", *(f"{s:8.1f}  {mean}   [{low}, {high}]" for s, mean, low, high in rows)])


@torch.no_grad()
def steer(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    layer: int,
    vector: Float[Tensor, "d_model"],
    scales: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    last_only: bool = False,
) -> Steering:
    """Adds multiples of a vector before one block, at all positions or at the last one only, and reads the metric of each prompt."""
    texts = as_texts(model, prompts)
    if not len(scales):
        raise ValueError("There is no multiple of the vector to add: give at least one, such as 1.0.")
    texts, row = _distinct(texts)
    pos = texts.lengths - 1 if last_only else None
    values = []
    for scale in progress(scales, desc="multiples"):
        values.append(_read_off(model, texts, metric, add_at(layer, vector, scale, pos=pos), row=row))
    return Steering(layer, tuple(map(float, scales)), torch.stack(values))
