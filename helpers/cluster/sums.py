"""How a sum is done: which MLPs and attention outputs carry its result (Stolfo et al. 2023, arXiv 2305.15054).

mediation(model, sum_pairs(model, 30)).importance(range(6, 12))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, permutations
from math import log
from operator import itemgetter
from random import Random
from statistics import mode

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.cluster.patching import PatchMap, patch_positions, prompt_pairs
from helpers.course_lm.corpus.tasks import SUMS, total
from helpers.inputs import check_number
from helpers.interventions import attn_out, mlp_out
from helpers.metrics import log_prob, whole_words
from helpers.models import TransformerBridge
from helpers.prediction import tokenize
from helpers.running import next_tokens
from helpers.stats import Numbers, cluster_interval


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

    For "mlp" and "attention", the log-probability (natural) of the sum's ``own`` result and of the ``other`` sum's.
    """

    own: Mapping[str, PatchMap]
    other: Mapping[str, PatchMap]

    def changes(self, kind: str = "mlp") -> Float[Tensor, "layer position pair"]:
        """By how much each patch moves the own result, in nats: ``log P*(r) - log P(r)``, with * after the patch."""
        return self.own[kind].after - self.own[kind].corrupted

    def log_effects(self, kind: str = "mlp") -> Float[Tensor, "layer position pair"]:
        """``log(1 + IE)`` with the indirect effect of Stolfo et al. (section 3; ``compute_effects`` in the authors' code):

        ``IE = 1/2 [(P*(r') - P(r')) / P(r') + (P(r) - P*(r)) / P*(r)]`` with ``r`` the own result and ``r'`` the other one. Since 1 + IE
        is the mean of ``P*(r') / P(r')`` and ``P(r) / P*(r)``, its logarithm always exists.
        """
        other = self.other[kind].after - self.other[kind].corrupted
        return torch.logaddexp(other, -self.changes(kind)) - log(2)

    def importance(self, layers: Sequence[int], position: int = -1) -> tuple[float, float, float]:
        """The relative importance of Stolfo et al.: which share the MLPs of some layers at one position have of all MLPs' ``log(1 + IE)``,
        with IE the mean over the pairs; and its 95 % interval (pairs are drawn).
        """
        effects = self.log_effects()

        def share(pairs: Numbers) -> float:
            means = effects[..., torch.tensor(pairs).long()].logsumexp(-1) - log(len(pairs))
            return (means[list(layers), position].sum() / means.sum()).item()

        every = list(range(effects.shape[-1]))
        return share(every), *cluster_interval(every, [*map(str, every)], statistic=share)


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
    results = torch.tensor(ids).reshape(-1, 2).T  # the own one and the other one
    sums = prompt_pairs(model, [pair.other for pair in pairs], [pair.text for pair in pairs], log_prob(results[0]))
    if sums.clean.lengths.unique().numel() > 1:
        raise ValueError("The sums are not equally long in this model's tokens, so their positions do not correspond: take others.")
    first, length = int(model.cfg.default_prepend_bos), int(sums.clean.lengths[0])  # the mark of a new document is alike in both
    names = SUM_TOKENS if length - first == len(SUM_TOKENS) else [str(at) for at in range(first, length)]
    positions = [torch.full((len(sums),), at) for at in range(first, length)]
    places = {"mlp": mlp_out, "attention": attn_out}

    def patched(result: Int[Tensor, "pair"]) -> dict[str, PatchMap]:
        asked = replace(sums, metric=log_prob(result))
        return {kind: patch_positions(model, asked, place, positions, names) for kind, place in places.items()}

    own = patched(results[0])
    return Mediation(own, own if kinds.pop() else patched(results[1]))
