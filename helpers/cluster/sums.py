"""How a sum is done: which MLPs and attention outputs carry its result (Stolfo et al. 2023, arXiv 2305.15054).

mediation(model, sum_pairs(model, 30)).shares(range(7, 12))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, permutations
from operator import itemgetter
from random import Random
from statistics import mode

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.cluster.patching import PatchMap, patch_positions, prompt_pairs
from helpers.course_lm.corpus.tasks import SUMS, total
from helpers.inputs import check_number
from helpers.interventions import attn_out, mlp_out
from helpers.metrics import log_odds, log_prob, whole_words
from helpers.models import TransformerBridge
from helpers.prediction import tokenize
from helpers.running import next_tokens


@dataclass(frozen=True)
class SumPair:
    """Two sums with the same operator: ``text`` with its answer, and ``other``, out of which something is put into the first."""

    text: str
    answer: str
    other: str
    other_answer: str


def sum_pairs(model: TransformerBridge, n: int = 50, seed: int = 0, same_result: bool = False) -> list[SumPair]:
    """``n`` pairs of sums such as "3 + 5 =" that the model gets right, all equally long, with answers of one token.

    One operand differs, and so does the result; with ``same_result`` both operands differ and the result does not (3 + 5 and 2 + 6), the
    control. In the course LM's tokenizer each number is one token, its space included. Raises ValueError where there are too few.
    """
    sums = _known_sums(model)
    alike = [lambda entry: (entry[1], total(*entry))] if same_result else [itemgetter(0, 1), itemgetter(1, 2)]
    pairs = [pair for key in alike for _, group in groupby(sorted(sums, key=key), key) for pair in permutations(group, 2)]
    check_number(f"n says how many pairs of the model's {len(sums)} right sums to draw", n, high=len(pairs))
    drawn = Random(seed).sample(pairs, n)
    return [SumPair(_sum_text(*one), str(total(*one)), _sum_text(*other), str(total(*other))) for one, other in drawn]


def _sum_text(a: int, sign: str, b: int) -> str:
    return f"{a} {sign} {b} ="


def _known_sums(model: TransformerBridge) -> list[tuple[int, str, int]]:
    """The sums that are as long as most, have an answer of one token, and are right."""
    rows = [(tokenize(model, _sum_text(*entry)), tokenize(model, f"{_sum_text(*entry)} {total(*entry)}")) for entry in SUMS]
    single = [at for at, (start, full) in enumerate(rows) if full[:-1].tolist() == start.tolist()]
    if not single:
        raise ValueError("This model's tokenizer has no sum whose answer is one token after '=': its sums cannot be patched like this.")
    usual = mode(len(rows[at][0]) for at in single)
    kept = [at for at in single if len(rows[at][0]) == usual]
    right = next_tokens(model, torch.stack([rows[at][0] for at in kept])) == torch.stack([rows[at][1][-1] for at in kept])
    return [SUMS[at] for at, hit in zip(kept, right.tolist(), strict=True) if hit]


@dataclass(frozen=True)
class Mediation:
    """What it does to a sum when one MLP or attention output, at one position, is that of the other sum.

    The maps hold the log-odds (natural) of the other result over the own one, or of pairs with the same result its log-probability.
    """

    mlp: PatchMap
    attention: PatchMap

    def changes(self, kind: str = "mlp") -> Float[Tensor, "layer position pair"]:
        """By how much each patch of the MLPs, or of ``attention``, moves each pair, in nats.

        ``log P*(r') / P*(r) - log P(r') / P(r)`` with ``r`` the own result, ``r'`` the other one, and * after the patch; where both are
        the same ``log P*(r) - log P(r)``.
        """
        found = {"mlp": self.mlp, "attention": self.attention}[kind]
        return found.after - found.corrupted

    def shares(self, layers: Sequence[int], position: int = -1) -> Float[Tensor, "pair"]:
        """For each pair, the share that the MLPs of some layers at one position have of the absolute changes of all MLPs.

        A robust form of the relative importance of Stolfo et al., which is made of ratios of probabilities. A pair that nothing moves
        has no share (NaN).
        """
        size = self.changes().abs()
        return size[list(layers), position].sum(0) / size.sum((0, 1))


SUM_TOKENS = ("first", "sign", "second", "=")


def mediation(model: TransformerBridge, pairs: Sequence[SumPair]) -> Mediation:
    """Patches what each MLP and each attention writes, position by position, from the other sum of each pair into its first one.

    All prompts must be equally long, as those of ``sum_pairs`` are. Raises ValueError where they are not, where pairs with the same
    result are mixed with others, and for an answer of several tokens.
    """
    kinds = {pair.answer == pair.other_answer for pair in pairs}
    if len(kinds) != 1:
        raise ValueError("Give at least one pair, and either pairs with the same result or pairs with different ones, not both.")
    words = [[pair.answer, pair.other_answer] for pair in pairs]
    ids = whole_words(model, [pair.text for pair in pairs], words).ids
    if many := next((word for word, one in zip(chain(*words), ids, strict=True) if len(one) > 1), None):
        raise ValueError(f"{many!r} is several tokens of this model, and a patched sum is read off one: choose other numbers.")
    own, other = torch.tensor(ids).reshape(-1, 2).T
    metric = log_prob(own) if kinds.pop() else log_odds(other, own)
    sums = prompt_pairs(model, clean=[pair.other for pair in pairs], corrupted=[pair.text for pair in pairs], metric=metric)
    if sums.clean.lengths.unique().numel() > 1:
        raise ValueError("The sums are not equally long in this model's tokens, so their positions do not correspond: take others.")
    first, length = int(model.cfg.default_prepend_bos), int(sums.clean.lengths[0])  # the mark of a new document is alike in both
    names = SUM_TOKENS if length - first == len(SUM_TOKENS) else [str(at) for at in range(first, length)]
    positions = [torch.full((len(sums),), at) for at in range(first, length)]
    return Mediation(*(patch_positions(model, sums, place, positions, names) for place in (mlp_out, attn_out)))
