"""What a language model does: text to tokens, tokens to a distribution over the next token, and sampling from it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.inputs import check_number
from helpers.interventions import intervene, unembed_only_at
from helpers.models import TransformerBridge

LOST = "�"  # what a tokenizer writes for bytes that are no letter


def tokenize(model: TransformerBridge, text: str) -> Int[Tensor, "pos"]:
    """The token ids of ``text``, all of them; first the mark of a new document where the model expects one."""
    clean = text.encode("utf-8", errors="replace").decode("utf-8")  # half of a surrogate pair is no letter
    ids = model.tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"]
    bos = model.tokenizer.bos_token_id
    start = [bos] if model.cfg.default_prepend_bos and bos is not None and ids[:1] != [bos] else []
    return torch.tensor(start + ids, dtype=torch.long)


def truncate(model: TransformerBridge, tokens: Int[Tensor, "pos"]) -> Int[Tensor, "kept"]:
    """The last tokens, as many as the model can read at once; a mark of a new document stays in front of them."""
    context = model.cfg.n_ctx
    if len(tokens) <= context:
        return tokens
    marked = model.cfg.default_prepend_bos and int(tokens[0]) == model.tokenizer.bos_token_id
    return torch.cat([tokens[:1], tokens[len(tokens) - context + 1 :]]) if marked else tokens[-context:]


def pad(model: TransformerBridge, rows: Sequence[Int[Tensor, "_"]]) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row"]]:
    """Rows of tokens as one batch, and how many tokens each row has.

    Shorter rows are filled up on the right, where a model that reads from left to right does not see it.
    """
    filler = model.tokenizer.pad_token_id or model.tokenizer.eos_token_id or 0
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return pad_sequence(list(rows), batch_first=True, padding_value=filler), lengths


def tokenize_all(model: TransformerBridge, texts: Sequence[str]) -> tuple[Int[Tensor, "text pos"], Int[Tensor, "text"]]:
    """The tokens of several texts as one batch, and how many tokens each text has; of a text that is too long the end counts."""
    return pad(model, [truncate(model, tokenize(model, text)) for text in texts])


def token_span(model: TransformerBridge, text: str, start: int, end: int) -> range:
    """The positions of the tokens that spell ``text[start:end]``; a space in front of them belongs to the span.

    Raises ValueError if these tokens also hold letters of what stands around, if there are none, and if the text is longer
    than the model's context.
    """
    whole = tokenize(model, text).tolist()
    if len(whole) > model.cfg.n_ctx:
        raise ValueError(f"{text[:40]!r} has {len(whole)} tokens and this model reads {model.cfg.n_ctx}: shorten it.")
    before, through = (tokenize(model, text[:cut].rstrip(" ")).tolist() for cut in (start, end))
    if len(through) <= len(before) or any(whole[: len(part)] != part for part in (before, through)):
        raise ValueError(f"In {text!r} the tokens of {text[start:end]!r} are not separate from the text around: put spaces around it.")
    return range(len(before), len(through))


def token_id(model: TransformerBridge, text: str) -> int:
    """The token that ``text`` is. Raises ValueError where the model cuts it into several, or into none."""
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) != 1:
        cut = " + ".join(repr(piece) for piece in pieces(model, torch.tensor(ids, dtype=torch.long))) or "nothing"
        raise ValueError(f"{text!r} is not one token of this model but {cut}: choose a word that is one (a space in front may matter).")
    return ids[0]


def pieces(model: TransformerBridge, tokens: Int[Tensor, "pos"]) -> list[str]:
    """The text of each token by itself. A byte that is no letter alone, as in emoji, is shown by its number: ``⟨F0⟩``."""
    return [_piece(model.tokenizer, token) for token in tokens.tolist()]


def _piece(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text if LOST not in text else lost_bytes(tokenizer.convert_ids_to_tokens(token), text)


def lost_bytes(stored: str, text: str) -> str:
    """The text of a token as the tokenizer stores it, with each byte that is no letter as its number; ``text`` where that cannot be told.

    >>> lost_bytes("ðŁ", "�"), lost_bytes("<0xE6>", "�")
    ('⟨F0⟩⟨9F⟩', '⟨E6⟩')
    """
    if re.fullmatch("<0x[0-9A-F]{2}>", stored):  # as SentencePiece writes a byte
        return f"⟨{stored[3:5]}⟩"
    values = {letter: value for value, letter in bytes_to_unicode().items()}  # as GPT-2 does
    if not all(letter in values for letter in stored):
        return text
    letters = bytes(map(values.get, stored)).decode("utf-8", "surrogateescape")  # which hides a lost byte in a letter of its own
    return re.sub("[\udc80-\udcff]", lambda lost: f"⟨{ord(lost[0]) - 0xDC00:02X}⟩", letters)


def visible(piece: str) -> str:
    """A piece with its spaces and line breaks made visible.

    >>> visible(" Warsaw"), visible("\\n")
    ('·Warsaw', '⏎')
    """
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "⏎")


@torch.no_grad()
def last_logits(model: TransformerBridge, tokens: Int[Tensor, "pos"]) -> Float[Tensor, "d_vocab"]:
    """The logits for the token after ``tokens``, on the CPU in float32. Raises ValueError where there is no token."""
    if len(tokens) == 0:
        raise ValueError("There is nothing to continue: this model needs at least one token, so give it some text.")
    kept = truncate(model, tokens).to(model.cfg.device)
    with intervene(model, unembed_only_at(torch.tensor([[len(kept) - 1]]))):
        return model(kept[None])[0, 0].float().cpu()


def next_token_probs(model: TransformerBridge, text: str) -> Float[Tensor, "d_vocab"]:
    """The probability of every token of the vocabulary to come next after ``text``; they sum to 1.

    Of a text longer than the model's context the end counts. Raises ValueError where there is nothing to continue.
    """
    return last_logits(model, tokenize(model, text)).softmax(-1)


@dataclass(frozen=True)
class TopTokens:
    """The most likely next tokens after ``prompt``, best first, each with its probability between 0 and 1."""

    prompt: str
    tokens: tuple[str, ...]
    probs: tuple[float, ...]

    def table(self) -> str:
        """One line for each token: rank, token (a dot stands for a space) and probability in percent."""
        width = max((len(visible(token)) for token in self.tokens), default=0)
        ranked = enumerate(zip(self.tokens, self.probs, strict=True), 1)
        return "\n".join(f"{rank:>2}  {visible(token):<{width}}  {prob:6.1%}" for rank, (token, prob) in ranked)


def top_tokens(model: TransformerBridge, text: str, k: int = 10) -> TopTokens:
    """The ``k`` most likely next tokens after ``text``. Raises ValueError unless ``k`` is 1 or more."""
    check_number("k says how many tokens to list", k)
    probs, ids = next_token_probs(model, text).topk(min(k, model.cfg.d_vocab))
    return TopTokens(text, tuple(pieces(model, ids)), tuple(probs.tolist()))


def adjust(logits: Float[Tensor, "d_vocab"], temperature: float = 1.0, top_k: int | None = None) -> Float[Tensor, "d_vocab"]:
    """Probabilities after temperature and top-k; temperature 0 puts everything on the best token, ``None`` keeps all.

    Raises ValueError for a temperature that is negative or no number, and for a ``top_k`` below 1.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"The temperature must be a number of 0 or more, not {temperature}.")
    check_number("top_k says how many tokens may be drawn", 1 if top_k is None else top_k)
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).float()
    if top_k is not None and top_k < len(logits):
        kept = logits.topk(top_k).indices
        logits = torch.full_like(logits, -torch.inf).index_copy(0, kept, logits[kept])
    return ((logits - logits.max()) / temperature).softmax(-1)


def draw(probs: Float[Tensor, "d_vocab"], dart: float) -> int:
    """The token on whose piece of the line from 0 to 1 the ``dart`` lands, the most likely tokens lying first."""
    lengths, ids = probs.sort(descending=True, stable=True)
    place = int((lengths.cumsum(0) <= dart).sum())
    return int(ids[min(place, int((lengths > 0).sum()) - 1)])


def sample(model: TransformerBridge, text: str, tokens: int = 20, temperature: float = 1.0, top_k: int | None = None, seed: int = 0) -> str:
    """A continuation of ``text`` by at most ``tokens`` tokens; it stops where the model ends the document.

    The same seed gives the same text; temperature 0 takes the most likely token each time. Only the last tokens that fit
    the model's context count. Raises ValueError for a setting that makes no sense and where there is nothing to continue.
    """
    darts, ids = Random(seed), tokenize(model, text)
    start = len(ids)
    for _ in range(tokens):
        token = draw(adjust(last_logits(model, ids), temperature, top_k), darts.random())
        if token == model.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([token])])
    return model.tokenizer.decode(ids[start:].tolist(), clean_up_tokenization_spaces=False)
