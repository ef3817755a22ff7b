"""Attention knockout: from which tokens, and in which layers, the last token fetches the answer to a fact.

Geva et al. 2023 (arXiv 2304.14767, section 4): in a few layers the last token is kept from looking at the subject, or at the rest, and what
is left of the predicted token's probability tells when it needed that.

    facts = known_facts(model, course_facts(n=200))
    print(knockout_curves(model, facts, width=3).table())
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.fact_prompts import FactPrompt, subject_span
from helpers.inputs import check_number
from helpers.interventions import Intervention
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import read_suffix
from helpers.tables import table
from helpers.texts import BATCH_TOKENS, as_texts

SOURCES = ("subject", "relation", "last", "first", "random")
Windows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Knockout:
    """By how many percent the probability of the predicted token changes when the last token cannot look at a source in a window.

    -100 means that nothing of it is left. A prompt that has no such source is not a number (NaN) there, and counts in no mean.
    """

    names: tuple[str, ...]
    change: Float[Tensor, "source window fact"]

    @property
    def mean(self) -> Float[Tensor, "source window"]:
        """The mean over the prompts that have the source."""
        return self.change.nanmean(-1)

    def table(self) -> str:
        """One line for each layer: the mean change in percent of each source, cut in the window around that layer."""
        rows = [(at, *(f"{x:+.1f}%" for x in row)) for at, row in enumerate(self.mean.T.tolist())]
        return table({"layer": "6"} | dict.fromkeys(self.names, "10"), rows, gap="")


def knockout(model: TransformerBridge, facts: Sequence[FactPrompt], windows: Windows) -> Float[Tensor, "window fact"]:
    """``knockout_curves`` for the subject and any windows, such as ``[[0, 1, 2], [9]]``.

    What is returned is (P after - P before) / P before, in percent, of the predicted token's probability P.
    """
    return _knockout(model, facts, windows, ["subject"])[0]


def knockout_curves(model: TransformerBridge, facts: Sequence[FactPrompt], width: int = 3, sources: Sequence[str] = SOURCES) -> Knockout:
    """Cuts the last token off from each source in the ``width`` layers around each layer in turn.

    Give facts that the model knows (``known_facts``). Raises ValueError for an unknown source, and a width that does not fit.
    """
    return Knockout(tuple(sources), _knockout(model, facts, layer_windows(model.cfg.n_layers, width), sources))


@torch.no_grad()
def _knockout(
    model: TransformerBridge, facts: Sequence[FactPrompt], windows: Windows, sources: Sequence[str]
) -> Float[Tensor, "source window fact"]:
    """All sources of a batch share a pass for each window, which starts at the window's first layer: below it nothing changes."""
    n_layers, every = model.cfg.n_layers, source_masks(model, facts)
    if unknown := [name for name in sources if name not in every]:
        raise ValueError(f"{unknown[0]!r} cannot be cut; a source is one of {', '.join(SOURCES)}.")
    if odd := [layer for window in windows for layer in window if not 0 <= layer < n_layers]:
        raise ValueError(f"There is no layer {odd[0]} to put in a window: this model's layers are 0 to {n_layers - 1}.")
    texts, masks = as_texts(model, [fact.text for fact in facts]), torch.stack([every[name] for name in sources])
    change = torch.empty(len(sources), len(windows), len(facts))
    for rows in progress(list(texts.batches(max(1, BATCH_TOKENS // len(sources)))), desc="batches"):
        part = texts.take(rows)
        run = read_suffix(model, part.tokens, 0, range(n_layers))
        before, best = run.logits(model, n_layers - 1, torch.arange(len(rows)), part.lengths - 1).float().softmax(-1).cpu().max(-1)
        keys = masks[:, rows, : part.tokens.shape[1]].flatten(0, 1)  # a copy of the prompts for each source
        copies = torch.arange(len(rows)).repeat(len(sources))
        queries = part.lengths[copies] - 1
        for at, window in enumerate(windows):
            cuts = [cut_attention(layer, queries, keys) for layer in window]
            probs = run.logits(model, min(window, default=n_layers - 1), copies, queries, *cuts).float().softmax(-1).cpu()
            after = probs[torch.arange(len(copies)), best[copies]].reshape(len(sources), -1)
            change[:, at, rows] = (after - before) / before * 100
    return change.masked_fill(~masks.any(-1)[:, None], torch.nan)


def cut_attention(layer: int, queries: Int[Tensor, "row"], keys: Bool[Tensor, "row pos"]) -> Intervention:
    """No head of a block looks from the query position of each row to the positions that ``keys`` marks.

    Their scores become the lowest number there is, so that their attention is 0 and the rest still sums to 1. Raises ValueError where
    a row would have nothing left to look at.
    """
    place = torch.arange(keys.shape[1])
    if bool((nothing := ~((place <= queries[:, None]) & ~keys).any(1)).any()):
        raise ValueError(f"Row {int(nothing.nonzero()[0])} would have nothing left to look at: leave at least one position.")

    def change(scores: Tensor, pick: object) -> Tensor:
        cut = (place == queries[:, None])[:, None, :, None] & keys[:, None, None, :]  # [row, 1, query, key]
        return scores.masked_fill(cut.to(scores.device), torch.finfo(scores.dtype).min)

    return Intervention(f"blocks.{layer}.attn.hook_attn_scores", change)


def layer_windows(n_layers: int, width: int) -> list[range]:
    """The ``width`` layers around each layer (an even width reaches one further back), fewer at the ends of the model."""
    check_number("width says how many of this model's layers a window has", width, high=n_layers)
    return [range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2)) for layer in range(n_layers)]


def source_masks(model: TransformerBridge, facts: Sequence[FactPrompt], seed: int = 0) -> dict[str, Bool[Tensor, "fact pos"]]:
    """The positions of each source of a prompt: its subject; its relation, which is all else between the first and the last position;
    the last; the first (in a model without a mark of a new document, this can be the subject's); and, as a control, as many positions
    of the relation, drawn at random, as the subject has tokens, or all of them where there are not so many.
    """
    texts, spans = as_texts(model, [fact.text for fact in facts]), [subject_span(model, fact) for fact in facts]
    place, rng = torch.arange(texts.tokens.shape[1]), torch.Generator().manual_seed(seed)
    last, first = place == texts.lengths[:, None] - 1, (place == 0).expand(len(facts), -1)
    subject = torch.stack([(place >= span.start) & (place < span.stop) for span in spans])
    relation = (place < texts.lengths[:, None] - 1) & ~first & ~subject
    rank, n = torch.rand(relation.shape, generator=rng).masked_fill(~relation, 2.0).argsort(1).argsort(1), subject.sum(1, keepdim=True)
    return dict(zip(SOURCES, (subject, relation, last, first, relation & (rank < n)), strict=True))
