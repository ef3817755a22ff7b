"""The engine: what every lesson needs to run a model.

Texts run in batches of similar length. Logits are made only for the positions that are read: with a vocabulary of 262,144 words those of
a single text of 100 tokens would take 100 MB. Reading activations makes none at all.

    logits_at_end(model, prompts, *interventions)        what follows each prompt
    activations_at(model, prompts, hooks, positions)     what passes some hooks, at some positions of each prompt
    generate(model, prompts, tokens, *interventions)     greedy continuations
    read_suffix(model, tokens, start, layers).logits(...)   many patched copies of one text: what stands before the patch is run once
    losses(model, texts, *interventions)                 nats a token

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.interventions import Intervention, intervene, record, resid_post, resid_pre, unembed_only_at
from helpers.metrics import Metric, measure, tokens_read
from helpers.models import Prefix, TransformerBridge, empty_cache, read_prefix, run_from
from helpers.prediction import pad, tokenize, truncate
from helpers.texts import BATCH_TOKENS, Texts, TextsLike, as_texts

Changes = Callable[[Int[Tensor, "batch"]], list[Intervention]]  # interventions of their own for the rows of a batch
ENTRY = -1  # the layer before block 0
LOGITS = 2**27  # at most so many in a batch: 512 MB in float32
LENS_NUMBERS = 2**21  # logits in memory at a time: 8 MB, which a processor keeps close by


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


def last_states(model: TransformerBridge, prompts: TextsLike, positions: int = 1) -> Float[Tensor, "layer prompt pos d_model"]:
    """The stream before every block, and after the last one, at the last ``positions`` tokens of each prompt; on the CPU.

    Layer ``l`` is the stream before block ``l``; layer ``n_layers`` is what is unembedded. Raises ValueError where a prompt is too short.
    """
    return activations_at(model, prompts, [*map(resid_pre, range(model.cfg.n_layers)), resid_post(model.cfg.n_layers - 1)], positions)


@torch.no_grad()
def activations_at(
    model: TransformerBridge, prompts: TextsLike, hooks: Sequence[str], positions: int | Int[Tensor, "prompt pos"] = 1
) -> Float[Tensor, "hook prompt pos *rest"]:
    """What passes some hooks, all of one shape, at some positions of each prompt; on the CPU. No logits are made.

    ``positions`` are those of each prompt, or a number of tokens at the end of each. Raises ValueError if a prompt is too short.
    """
    texts = as_texts(model, prompts)
    shortest = int(texts.lengths.min())
    if isinstance(positions, int) and not 1 <= positions <= shortest:
        raise ValueError(f"positions says how many tokens to look at from the end: 1 to {shortest} for these prompts, not {positions}.")
    at = texts.last_positions(positions) if isinstance(positions, int) else positions
    kept: Tensor | None = None
    for rows in texts.batches():
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), *dict.fromkeys(hooks))
        each = torch.arange(len(rows))[:, None]
        found = torch.stack([seen[hook][each, at[rows]].float().cpu() for hook in hooks])
        kept = found.new_empty(len(hooks), len(texts), *found.shape[2:]) if kept is None else kept
        kept[:, rows] = found
    return kept


@torch.no_grad()
def score_prompts(model: TransformerBridge, prompts: TextsLike, metric: Metric, *interventions: Intervention) -> Float[Tensor, "prompt"]:
    """The metric after each prompt, with some interventions or none."""
    texts = as_texts(model, prompts)
    n = tokens_read(metric)
    ends = _last_logits(model, texts, n, *interventions)  # of all prompts, since a metric may have one token for each of them
    return measure(metric, ends, texts.last(n)).cpu()


@torch.no_grad()
def logits_at_end(
    model: TransformerBridge, prompts: TextsLike, *interventions: Intervention, each: Changes | None = None
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits of what follows each prompt, on the model's device; ``each`` makes further interventions for the rows of a batch."""
    return _last_logits(model, as_texts(model, prompts), 1, *interventions, each=each)[:, 0]


def _last_logits(
    model: TransformerBridge, texts: Texts, n: int, *interventions: Intervention, each: Changes | None = None
) -> Float[Tensor, "text n d_vocab"]:
    """The logits at the last ``n`` positions of each text."""
    kept = torch.empty(len(texts), n, model.cfg.d_vocab, device=model.cfg.device)
    for rows, _, logits in batched_logits(model, texts, *interventions, ends=n, each=each):
        kept[rows] = logits.float()
    return kept


def batched_logits(
    model: TransformerBridge, texts: Texts, *interventions: Intervention, ends: int = 0, each: Changes | None = None
) -> Iterator[tuple[Int[Tensor, "batch"], Texts, Float[Tensor, "batch pos d_vocab"]]]:
    """The logits of the texts, or of their last ``ends`` positions only, batch by batch, with the numbers of their rows and these texts.

    ``each`` makes further interventions for the rows of a batch. No batch has more than ``LOGITS`` logits, unless a single text has.
    """
    unembedded = LOGITS // model.cfg.d_vocab  # positions in a batch
    fitting = unembedded // ends * int(texts.lengths.min()) if ends else unembedded
    for batch in texts.batches(min(BATCH_TOKENS, fitting)):
        rows = batch.sort().values
        part = texts.take(rows)
        changes = [of_rows(intervention, rows, part.lengths) for intervention in interventions]
        changes += each(rows) if each else []
        changes += [unembed_only_at(part.last_positions(ends))] if ends else []
        with intervene(model, *changes):
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


@torch.no_grad()
def next_tokens(
    model: TransformerBridge, prompts: TextsLike, *interventions: Intervention, each: Changes | None = None
) -> Int[Tensor, "prompt"]:
    """The most likely next token after each prompt, on the CPU; the logits of one batch are held at a time (see ``logits_at_end``)."""
    texts = as_texts(model, prompts)
    found = torch.empty(len(texts), dtype=torch.long)
    for rows, _, logits in batched_logits(model, texts, *interventions, ends=1, each=each):
        found[rows] = logits[:, 0].argmax(-1).cpu()
    return found


@dataclass(frozen=True)
class Suffix:
    """Texts from position ``start`` on: the KV cache of the tokens before it, and the stream that enters some blocks from there on.

    Any number of copies of the texts, each changed in its own way behind ``start``, run on it without reading the beginning again.
    """

    prefix: Prefix | None
    start: int
    entering: dict[int, Float[Tensor, "row pos d_model"]]

    def logits(
        self,
        model: TransformerBridge,
        layer: int,
        rows: Int[Tensor, "copy"],
        ends: Int[Tensor, "copy"],
        *interventions: Intervention,
        stream: Float[Tensor, "copy pos d_model"] | None = None,
    ) -> Float[Tensor, "copy d_vocab"]:
        """The logits at position ``ends`` of each copy, counted in the whole text; blocks before ``layer`` are not run.

        ``rows`` says which text each copy is of; ``stream`` enters the block in place of the text's own. Positions of interventions
        count from ``start``.
        """
        stream = self.entering[layer][rows.to(model.cfg.device)] if stream is None else stream
        with intervene(model, *interventions, unembed_only_at(ends[:, None] - self.start)):
            return run_from(model, stream, layer, self.prefix, rows)[:, 0]


@torch.no_grad()
def read_suffix(model: TransformerBridge, tokens: Int[Tensor, "row pos"], start: int, layers: Sequence[int]) -> Suffix:
    """Runs texts once and keeps what copies need that differ from position ``start`` on; ``layers`` are the blocks to begin at."""
    hooks = {layer: layer_hook(layer - 1) for layer in layers}
    seen = record(model, tokens.to(model.cfg.device), *dict.fromkeys(hooks.values()))
    prefix = read_prefix(model, tokens[:, :start]) if start else None
    return Suffix(prefix, start, {layer: seen[hook][:, start:] for layer, hook in hooks.items()})


def generate(model: TransformerBridge, prompts: Sequence[str], tokens: int = 8, *interventions: Intervention) -> list[str]:
    """The most likely continuation of each prompt, all of them at once; interventions act on every token, the new ones too.

    A text stops where the model ends the document or an answer. Raises ValueError if there is no prompt.
    """
    written = generate_tokens(model, prompts, tokens, *interventions)
    return [model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() for ids in written]


@torch.no_grad()
def generate_tokens(model: TransformerBridge, prompts: TextsLike, tokens: int, *interventions: Intervention) -> list[list[int]]:
    """The same as tokens, without the one at which a text stops."""
    texts = as_texts(model, prompts)
    rows = [ids[:length] for ids, length in zip(texts.tokens, texts.lengths.tolist(), strict=True)]
    fits = max(map(len, rows)) + tokens <= model.cfg.n_ctx
    write = _write_cached if tokens > 1 and fits and all(map(_stays, interventions)) else _write
    stops = _stop_tokens(model)
    written = write(model, rows, tokens, interventions, stops)
    return [ids[: next((at for at, token in enumerate(ids) if token in stops), len(ids))] for ids in written]


def _stop_tokens(model: TransformerBridge) -> set[int]:
    """Tokens after which nothing more is said: the end of a document, and whatever the chat template writes after an answer."""
    stops = {model.tokenizer.eos_token_id}
    if model.tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
        text = model.tokenizer.apply_chat_template(turns, tokenize=False)
        after = model.tokenizer(text.rsplit("Hello", 1)[1], add_special_tokens=False)["input_ids"]
        stops |= {after[0]} if after and after[0] in model.tokenizer.all_special_ids else set()
    return stops - {None}


def _stays(intervention: Intervention) -> bool:
    """Whether an intervention does the same to the old tokens each time a new one is written; one that counts from the end does not."""
    pos = intervention.pos
    if isinstance(pos, slice):
        return (pos.start or 0) >= 0 and pos.stop is None and pos.step in (None, 1)
    return pos is None or bool((torch.as_tensor(pos) >= 0).all())


def _write(
    model: TransformerBridge, rows: Sequence[Int[Tensor, "_"]], tokens: int, interventions: Sequence[Intervention], stops: set[int]
) -> list[list[int]]:
    """New tokens for each row, every one from a run over the whole text."""
    texts = list(rows)
    going = list(range(len(rows)))
    for _ in range(tokens):
        batch, lengths = pad(model, [truncate(model, texts[row]) for row in going])
        best = _best(model, batch, lengths, [of_rows(one, torch.tensor(going), lengths) for one in interventions])
        for row, token in zip(going, best, strict=True):
            texts[row] = torch.cat([texts[row], token[None]])
        going = [row for row in going if int(texts[row][-1]) not in stops]
        if not going:
            break
    return [text[len(row) :].tolist() for text, row in zip(texts, rows, strict=True)]


def _write_cached(
    model: TransformerBridge, rows: Sequence[Int[Tensor, "_"]], tokens: int, interventions: Sequence[Intervention], stops: set[int]
) -> list[list[int]]:
    """The same tokens, each from a run over the last one only: keys and values of the earlier ones are cached.

    A beginning that all texts share is read once.
    """
    batch, lengths = pad(model, rows)
    start = _shared(batch, lengths, interventions)
    cache = read_prefix(model, batch[:1, :start]).cache(torch.zeros(len(rows), dtype=torch.long)) if start else empty_cache()
    mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
    changes = [of_rows(_moved(one, start), torch.arange(len(rows)), lengths) for one in interventions]
    batch, lengths = batch[:, start:], lengths - start
    later = [replace(one, pos=None) for one in changes if one.pos is None or isinstance(one.pos, slice)]
    written = torch.empty(len(rows), 0, dtype=torch.long)
    while written.shape[1] < tokens:
        options = dict(attention_mask=mask.to(model.cfg.device), past_key_values=cache, use_cache=True)
        batch = _best(model, batch, lengths, changes, **options)[:, None]
        written = torch.cat([written, batch], 1)
        if all(set(row) & stops for row in written.tolist()):
            break
        mask = torch.cat([mask, torch.ones_like(batch)], 1)
        lengths = torch.ones_like(lengths)
        changes = later
    return written.tolist()


def _shared(batch: Int[Tensor, "row pos"], lengths: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> int:
    """How many tokens at the beginning are the same in all rows of several, and stand before all that is changed."""
    if len(batch) == 1 or any(one.pos is None or isinstance(one.pos, slice) or one.hook.endswith("pattern") for one in interventions):
        return 0
    same = int((batch == batch[0]).all(0).int().cumprod(0).sum())
    return min([same, int(lengths.min()) - 1, *(int(torch.as_tensor(one.pos).min()) for one in interventions)])


def _moved(intervention: Intervention, start: int) -> Intervention:
    """An intervention whose positions count from ``start``."""
    if not start:
        return intervention
    pos = intervention.pos
    return replace(intervention, pos=[at - start for at in pos] if isinstance(pos, Sequence) else pos - start)


def _best(
    model: TransformerBridge, batch: Int[Tensor, "row pos"], lengths: Int[Tensor, "row"], changes: Sequence[Intervention], **options: Any
) -> Int[Tensor, "row"]:
    """The most likely next token after each row, on the CPU."""
    with intervene(model, *changes, unembed_only_at(lengths[:, None] - 1)):
        return model(batch.to(model.cfg.device), **options)[:, 0].argmax(-1).cpu()


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
    for rows, part, logits in batched_logits(model, texts, *interventions):
        before = logits[:, :-1]
        right = before.gather(-1, part.tokens[:, 1:, None].to(logits.device))[..., 0]
        total = torch.stack([row.logsumexp(-1) for row in before])  # row by row, since each needs a copy of its logits
        nats = (total - right).cpu() * part.mask[:, 1:]
        values[rows] = nats.sum(1) / part.mask.sum(1)
    return values


def perplexity(model: TransformerBridge, texts: TextsLike, *interventions: Intervention) -> float:
    """``exp`` of the mean loss over all tokens of the texts."""
    texts = as_texts(model, texts)
    weights = texts.mask.sum(1)
    return ((losses(model, texts, *interventions) * weights).sum() / weights.sum()).exp().item()


def random_like(like: Float[Tensor, "*rest d"], n: int, seed: int = 0) -> Float[Tensor, "n *rest d"]:
    """``n`` random vectors for each vector of ``like``, as long as it is: the control of every direction; on the CPU."""
    drawn = torch.randn(n, *like.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * like.norm(dim=-1, keepdim=True).cpu()


def output_direction(
    model: TransformerBridge, towards: Sequence[int], away: Sequence[int], like: Float[Tensor, "d_model"]
) -> Float[Tensor, "d_model"]:
    """The direction that says some tokens and not others, and nothing else, as long as ``like``; on the CPU.

    It is the mean column of W_U of the ones minus that of the others: the control of a direction that is said to hold more than words.
    Raises ValueError where the two are the same.
    """
    plain = (model.W_U[:, list(towards)].mean(1) - model.W_U[:, list(away)].mean(1)).detach().float().cpu()
    if not plain.norm() > 0:
        raise ValueError("The tokens to say and those not to say are the same: name different ones.")
    return plain / plain.norm() * like.norm().cpu()


def parts_along(vector: Float[Tensor, "d"], other: Float[Tensor, "d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """A vector in two parts: the one along another vector, and the rest, at right angles to it."""
    unit = other / other.norm()
    along = (vector @ unit) * unit
    return along, vector - along


def path_gradients(run: Callable[[float], tuple[Float[Tensor, "prompt"], list[Tensor]]], steps: int) -> list[Tensor]:
    """The mean gradient along a path: ``run`` gives the metric, and what to take its gradient by, at a fraction of the path.

    The fractions are the middles of ``steps`` equal parts (integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365); with 0
    steps it is the gradient at the beginning.
    """
    fractions = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    total: list[Tensor] = []
    for fraction in fractions:
        with torch.enable_grad():
            values, seen = run(fraction)
            found = torch.autograd.grad(values.sum(), seen)
        total = [gradient / len(fractions) + (total[at] if total else 0) for at, gradient in enumerate(found)]
    return total


def layer_name(layer: int) -> str:
    """How a layer is called in tables: "in", or the number of the block behind which it is."""
    return "in" if layer == ENTRY else str(layer)


def layer_hook(layer: int) -> str:
    """The hook point of a layer: what block ``layer`` leaves in the stream, or what enters the first one."""
    return resid_pre(0) if layer == ENTRY else resid_post(layer)


def check_layers(model: TransformerBridge, layers: Sequence[int] | None, first: int = ENTRY) -> tuple[int, ...]:
    """The layers, or all of them for None. Raises ValueError if there is none, or one that the model does not have.

    ``first`` is -1 where the state that enters block 0 counts as a layer, else 0.
    """
    every = range(first, model.cfg.n_layers)
    chosen = tuple(every if layers is None else layers)
    if not chosen:
        raise ValueError("There is no layer to look at: give at least one, or leave layers out for all.")
    if odd := [layer for layer in chosen if layer not in every]:
        start = "-1 (what enters block 0) and 0" if first == ENTRY else "0"
        raise ValueError(f"There is no layer {odd[0]}: this model's layers are {start} to {model.cfg.n_layers - 1}.")
    return chosen


def check_plain_writes(model: TransformerBridge, what: str) -> None:
    """Raises ValueError for a model that normalises once more what its blocks write into the stream, as Gemma 2 does."""
    if hasattr(model.blocks[0], "ln1_post"):
        raise ValueError(f"This model normalises what its blocks write into the stream (as Gemma 2 does), so {what}.")


def lens_logits(model: TransformerBridge, states: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state d_vocab"]:
    """The logits of any states of the stream: the model's own final norm, unembedding and soft cap, and nothing else."""
    flat = states.reshape(-1, 1, states.shape[-1]).to(model.cfg.device, model.cfg.dtype)
    if not len(flat):
        return flat.new_empty(*states.shape[:-1], model.cfg.d_vocab)
    return run_from(model, flat, model.cfg.n_layers).reshape(*states.shape[:-1], -1)


def read_lens(
    model: TransformerBridge,
    states: Float[Tensor, "*any state d_model"],
    read: Callable[[Float[Tensor, "*any some d_vocab"], Int[Tensor, "some"]], Tensor],
) -> Tensor:
    """What ``read`` takes from the lens' logits of all states, ``LENS_NUMBERS`` logits at a time; it is told which states they are of."""
    at_once = max(1, LENS_NUMBERS // (model.cfg.d_vocab * (states[..., 0].numel() // max(1, states.shape[-2]))))
    parts = torch.arange(states.shape[-2]).split(at_once)
    return torch.cat([read(lens_logits(model, states[..., some.to(states.device), :]).float(), some) for some in parts], states.ndim - 2)
