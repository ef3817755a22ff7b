"""Attention knockout: from which tokens, and in which layers, the last token fetches the answer to a fact.

Geva et al. 2023 (arXiv 2304.14767, section 4): in a few layers the last token is kept from looking at the subject, or at the rest, and what
is left of the predicted token's probability tells when it needed that.

    facts = known_facts(model, course_facts(n=200))
    print(knockout_curves(model, facts, width=3).table())
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.cluster.fact_prompts import FactPrompt, subject_span
from helpers.inputs import check_number, chosen
from helpers.interventions import Intervention
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import read_suffix
from helpers.tables import table
from helpers.texts import as_texts

SOURCES = ("subject", "relation", "random")


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


@torch.no_grad()
def knockout_curves(model: TransformerBridge, facts: Sequence[FactPrompt], width: int = 3, sources: Sequence[str] = SOURCES) -> Knockout:
    """Cuts the last token off from each source in the ``width`` layers around each layer in turn.

    Give facts that the model knows (``known_facts``). Only the last token is run anew, since nothing before it changes, and only from the
    window's first layer on; all sources share a pass. Raises ValueError for an unknown source, and a width that does not fit.
    """
    n_layers, windows, every = model.cfg.n_layers, layer_windows(model.cfg.n_layers, width), source_masks(model, facts)
    texts, masks = as_texts(model, [fact.text for fact in facts]), torch.stack([chosen(every, name, "source") for name in sources])
    change = torch.empty(len(sources), len(windows), len(facts))
    for length in progress(texts.lengths.unique().tolist(), desc="lengths"):
        rows = (texts.lengths == length).nonzero().flatten()
        run = read_suffix(model, texts.tokens[rows, :length], length - 1, range(n_layers))
        keys = masks[:, rows, :length].flatten(0, 1)  # a copy of the prompts for each source
        copies, ends = torch.arange(len(rows)).repeat(len(sources)), torch.full((len(keys),), length - 1)
        before, best = run.logits(model, n_layers - 1, copies, ends).float().softmax(-1).cpu().max(-1)
        for at, window in enumerate(windows):
            probs = run.logits(model, window[0], copies, ends, *(cut_attention(layer, keys) for layer in window)).float().softmax(-1).cpu()
            after = probs[torch.arange(len(copies)), best]
            change[:, at, rows] = ((after - before) / before * 100).reshape(len(sources), -1)
    return Knockout(tuple(sources), change.masked_fill(~masks.any(-1)[:, None], torch.nan))


def cut_attention(layer: int, keys: Bool[Tensor, "row pos"]) -> Intervention:
    """No head of a block looks from the last position to the positions that ``keys`` marks.

    Their scores become the lowest number there is, so that their attention is 0 and the rest still sums to 1.
    """

    def change(scores: Tensor, pick: object) -> Tensor:  # [row, head, query, key]
        last = scores[:, :, -1:].masked_fill(keys[:, None, None].to(scores.device), torch.finfo(scores.dtype).min)
        return torch.cat([scores[:, :, :-1], last], 2)

    return Intervention(f"blocks.{layer}.attn.hook_attn_scores", change)


def layer_windows(n_layers: int, width: int) -> list[range]:
    """The ``width`` layers around each layer (an even width reaches one further back), fewer at the ends of the model."""
    check_number("width says how many of this model's layers a window has", width, high=n_layers)
    return [range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2)) for layer in range(n_layers)]


def source_masks(model: TransformerBridge, facts: Sequence[FactPrompt], seed: int = 0) -> dict[str, Bool[Tensor, "fact pos"]]:
    """The positions of each source of a prompt: its subject; its relation, which is all else between the first and the last position
    (the first is the mark of a new document); and, as a control, as many positions of the relation, drawn at random, as the subject has
    tokens, or all of them where there are not so many.
    """
    texts, spans = as_texts(model, [fact.text for fact in facts]), [subject_span(model, fact) for fact in facts]
    place, rng = torch.arange(texts.tokens.shape[1]), torch.Generator().manual_seed(seed)
    subject = torch.stack([(place >= span.start) & (place < span.stop) for span in spans])
    relation = (place > 0) & (place < texts.lengths[:, None] - 1) & ~subject
    rank, n = torch.rand(relation.shape, generator=rng).masked_fill(~relation, 2.0).argsort(1).argsort(1), subject.sum(1, keepdim=True)
    return dict(zip(SOURCES, (subject, relation, relation & (rank < n)), strict=True))
