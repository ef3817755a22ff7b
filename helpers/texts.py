"""Texts as a model reads them: rows of tokens with their lengths, for prompts and for a whole held-out corpus.

Position 0 of a row is left out of all statistics and experiments on neurons: there stands the mark of a new document (or, in
models without one, a first token on which every head may park its attention), and neurons answer to it as to nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.course_lm.corpus.mixture import documents
from helpers.inputs import check_number
from helpers.models import TransformerBridge
from helpers.prediction import tokenize_all

HELD_OUT_SEED = 20_261  # training uses small seeds, the report card 20_260
BATCH_TOKENS = 2048  # tokens in one forward pass: enough to keep the processor busy, few enough to stay out of swap


@dataclass(frozen=True)
class Texts:
    """Rows of tokens, filled up on the right; ``lengths`` says how many of a row belong to the text, ``kinds`` what text it is."""

    tokens: Int[Tensor, "row pos"]
    lengths: Int[Tensor, "row"]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.lengths)

    @property
    def mask(self) -> Bool[Tensor, "row pos"]:
        """Where a token of the text stands, position 0 left out."""
        place = torch.arange(self.tokens.shape[1])
        return (place > 0) & (place < self.lengths[:, None])

    @property
    def n_tokens(self) -> int:
        """How many tokens the texts have together, position 0 left out."""
        return int(self.mask.sum())

    def take(self, rows: Sequence[int] | Int[Tensor, "kept"]) -> "Texts":
        """Some of the texts, in the order of ``rows``, with no more filling than they need. Raises ValueError for an unknown row."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        if len(chosen) and not (-len(self) <= int(chosen.min()) and int(chosen.max()) < len(self)):
            raise ValueError(f"There is no text {int(chosen.max())}: there are {len(self)}, counted from 0.")
        lengths = self.lengths[chosen]
        width = int(lengths.max()) if len(lengths) else 0
        return Texts(self.tokens[chosen, :width], lengths, tuple(self.kinds[row] for row in chosen.tolist()))

    def up_to(self, places: Int[Tensor, "prompt two"]) -> "Texts":
        """Prompts: for each ``(row, pos)`` the row's text up to and with that position."""
        cut = self.take(places[:, 0])
        lengths = places[:, 1] + 1
        return Texts(cut.tokens[:, : int(lengths.max())], lengths, cut.kinds)

    def last_positions(self, n: int) -> Int[Tensor, "row n"]:
        """The last ``n`` positions of each text, position 0 again and again where a text is shorter."""
        return (self.lengths[:, None] + torch.arange(-n, 0)).clamp(min=0)

    def last(self, n: int) -> "Texts":
        """The texts as they are when only the last ``n`` positions of each are unembedded: of ``n`` tokens each."""
        return replace(self, tokens=self.tokens.gather(1, self.last_positions(n)), lengths=torch.full_like(self.lengths, n))

    def halves(self, seed: int = 0) -> tuple["Texts", "Texts"]:
        """Two halves that share no text, drawn at random: choose with the one, report with the other."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[: len(self) // 2]), self.take(order[len(self) // 2 :])

    def batches(self, tokens: int = BATCH_TOKENS) -> Iterator[Int[Tensor, "batch"]]:
        """Row numbers, batch by batch: rows of similar length together, so that little filling is computed."""
        lengths, order = self.lengths.sort(stable=True)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * int(lengths[stop]) <= tokens:
                stop += 1
            yield order[start:stop]
            start = stop


TextsLike = Texts | Sequence[str] | Int[Tensor, "row pos"]


def as_texts(model: TransformerBridge, prompts: TextsLike, kinds: Sequence[str] = ()) -> Texts:
    """Prompts in any form as ``Texts``: strings, tokens ``[row, pos]`` without filling, or ``Texts`` as they are.

    Of a string longer than the model's context the end counts. Raises ValueError where there is no prompt, or an empty one.
    """
    if isinstance(prompts, str):
        raise ValueError(f"Prompts come as a list of texts; write [{prompts[:20]!r}] for a single one.")
    if len(prompts) == 0:
        raise ValueError("There are no prompts: give at least one text.")
    if kinds and len(kinds) != len(prompts):
        raise ValueError(f"There are {len(prompts)} texts and {len(kinds)} kinds: give one kind for each text, or none at all.")
    kinds = tuple(kinds) or ("text",) * len(prompts)
    if isinstance(prompts, Texts):
        texts = prompts
    elif torch.is_tensor(prompts):
        texts = Texts(prompts.cpu(), torch.full((len(prompts),), prompts.shape[1]), kinds)
    else:
        texts = Texts(*tokenize_all(model, prompts), kinds)
    if int(texts.lengths.min()) < (2 if model.cfg.default_prepend_bos else 1):
        raise ValueError(f"Prompt {int(texts.lengths.argmin())} has no word in it (prompts are counted from 0): write something there.")
    if (longest := int(texts.lengths.max())) > (most := model.cfg.n_ctx):
        raise ValueError(f"A prompt has {longest} tokens and this model reads {most}: cut it, or give it as text, of which the end counts.")
    return texts


def held_out_texts(model: TransformerBridge, n: int = 2000, seed: int = HELD_OUT_SEED) -> Texts:
    """``n`` documents of the course LM's corpus that it was not trained on, with their kinds such as ``lists.few_shot``.

    They are written anew, with a seed that training never uses; about 30 tokens each. What is short and has few fillings,
    such as a sum, can still happen to stand in the training text as well.
    """
    check_number("n says how many documents to write", n)
    written = list(islice(documents(seed), n))
    return as_texts(model, [document.text for document in written], [document.kind for document in written])
