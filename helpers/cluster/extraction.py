"""Is a subject enriched on its way up, and who says the answer? (Geva et al. 2023, arXiv 2304.14767, sections 5 and 6)

A subject is *enriched* as far as the logit lens at its last token finds what is true of it. An *extraction event* is what an attention, an
MLP or a head writes at the last token of the prompt, if the lens of it alone has the answer on top.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.fact_prompts import FactPrompt, subject_span
from helpers.interventions import attn_out, head_out, intervene, mlp_out, pattern, record, resid_post, zero_ablate
from helpers.metrics import first_tokens as answer_starts
from helpers.models import TransformerBridge
from helpers.one_layer.function_vectors import top_heads
from helpers.prediction import LOST, pieces, tokenize
from helpers.progress import progress
from helpers.running import activations_at, check_plain_writes, read_lens
from helpers.tables import table
from helpers.texts import as_texts

Place = Callable[[int], str]  # from a layer to the name of a hook point
FEW_LETTERS = 3  # shorter words, and shorter beginnings of words, say too little to count as an attribute
STOP_WORDS = {"the", "and", "for", "with", "from", "you", "she", "her", "his", "its", "one"}


@torch.no_grad()
def enrichment(
    model: TransformerBridge, facts: Sequence[FactPrompt], off: Place | None = None, layers: Sequence[int] = ()
) -> Float[Tensor, "layer fact"]:
    """After each block: how often the lens at the subject's last token puts a word that is true of the subject ahead of one that is true
    of another subject, among all pairs of such words (AUC: 0.5 is chance; NaN where the other subject has no words of its own).

    ``off`` (``mlp_out`` or ``attn_out``) is zeroed at that token in some ``layers``, as in section 5 of Geva et al.; they count the true
    words among the 50 best, which takes long lists of them. Raises ValueError for a fact without attributes.
    """
    own, other = _word_starts(model, facts)
    texts, ends = as_texts(model, [fact.text for fact in facts]), torch.tensor([subject_span(model, fact)[-1] for fact in facts])
    hooks = [*map(resid_post, range(model.cfg.n_layers))]
    states = torch.empty(len(hooks), len(facts), model.cfg.d_model)
    for end in ends.unique().tolist():  # all subjects that end at the same position together; nothing behind it is read
        rows = (ends == end).nonzero().flatten()
        with intervene(model, *(zero_ablate(off(layer), pos=end) for layer in layers)):
            states[:, rows] = activations_at(model, texts.up_to(torch.stack([rows, ends[rows]], 1)), hooks)[:, :, 0]

    def ahead(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some"]:
        pairs = zip(logits.cpu().unbind(1), own[some], other[some], strict=True)
        return torch.stack([(part[:, left, None] > part[:, None, right]).float().mean((1, 2)) for part, left, right in pairs], 1)

    return read_lens(model, states, ahead)


def _word_starts(model: TransformerBridge, facts: Sequence[FactPrompt]) -> Bool[Tensor, "two fact d_vocab"]:
    """Which tokens begin one of a fact's own words, and one of the others."""
    sides = torch.zeros(2, len(facts), model.cfg.d_vocab, dtype=torch.bool)
    for number, fact in enumerate(facts):
        own, others = (first_tokens(model, words, fact.subject) for words in (fact.attributes, fact.others))
        if not own:
            raise ValueError(f"Nothing is given that is true of {fact.subject!r}: name some words in attributes.")
        sides[0, number, list(own)] = True
        sides[1, number, list(others - own)] = True
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
        """The share of facts with an extraction event in any layer: by attention, by MLP, by either, and that of the control by either."""
        parts = {"attention": self.attention, "MLP": self.mlp, "either": self.attention | self.mlp, "control": self.control}
        return {name: hits.any(0).float().mean().item() for name, hits in parts.items()}

    def head_table(self, n: int = 5) -> str:
        """One line for each of the ``n`` heads that say the most answers: which share of them, and how much it attends to the subject."""
        rows = [(*at, self.head_shares[at].item(), self.to_subject[at].mean().item()) for at in top_heads(self.head_shares, n)]
        return table({"layer": "6", "head": "5", "answers": "8.1%", "to subject": "11.1%"}, rows)


@torch.no_grad()
def extraction(model: TransformerBridge, facts: Sequence[FactPrompt], seed: int = 0) -> Extraction:
    """Who says the answer; best asked about facts that the model knows. A bias that all heads share counts for none of them.

    Raises ValueError for models that normalise once more what their attention writes (Gemma 2).
    """
    check_plain_writes(model, "no head has an output of its own that could say an answer")
    n_layers, n_heads, n = model.cfg.n_layers, model.cfg.n_heads, len(facts)
    prompts, spans = [fact.text for fact in facts], [subject_span(model, fact) for fact in facts]
    texts, answers = as_texts(model, prompts), answer_starts(model, prompts, [fact.answer for fact in facts])
    wrong = _wrong_answers(facts, answers, seed)
    attention, mlp, control = (torch.zeros(n_layers, n, dtype=torch.bool) for _ in range(3))
    by_head, to_subject = torch.zeros(n_layers, n_heads, n, dtype=torch.bool), torch.zeros(n_layers, n_heads, n)
    places = [place(layer) for layer in range(n_layers) for place in (attn_out, mlp_out, head_out, pattern)]
    for rows in progress(list(texts.batches()), desc="batches"):
        part, each = texts.take(rows), torch.arange(len(rows))
        ends, seen = part.lengths - 1, record(model, part.tokens.to(model.cfg.device), *places)
        for layer in range(n_layers):
            outs = [seen[place(layer)][each, ends][:, None] for place in (attn_out, mlp_out)]
            by_each = torch.einsum("nhd,hdm->nhm", seen[head_out(layer)][each, ends], model.blocks[layer].attn.W_O)
            written = torch.cat([*outs, by_each], 1)  # [fact, 2 + head, d_model]
            said = read_lens(model, written, lambda logits, _: logits.argmax(-1)).cpu().T  # [2 + head, fact]
            hits = said == answers[rows]
            attention[layer, rows], mlp[layer, rows], by_head[layer][:, rows] = hits[0], hits[1], hits[2:]
            control[layer, rows] = (said[:2] == wrong[rows]).any(0)
            looked = seen[pattern(layer)][each, :, ends].float().cpu()  # [fact, head, key]
            for at, row in enumerate(rows.tolist()):
                to_subject[layer, :, row] = looked[at, :, spans[row].start : spans[row].stop].sum(-1)
    return Extraction(attention, mlp, by_head, control, to_subject)


def _wrong_answers(facts: Sequence[FactPrompt], answers: Int[Tensor, "fact"], seed: int) -> Int[Tensor, "fact"]:
    """The answer of another fact for each, of the same relation if there is one; -1 where all answers are the same."""
    rng, drawn, asked = Random(seed), [], [(fact.relation, answer) for fact, answer in zip(facts, answers.tolist(), strict=True)]
    for relation, own in asked:
        near = sorted({answer for name, answer in asked if name == relation and answer != own})
        drawn.append(rng.choice(near or sorted({answer for _, answer in asked} - {own}) or [-1]))
    return torch.tensor(drawn)
