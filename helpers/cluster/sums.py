"""How a sum is done: which MLPs and attention outputs carry its result (Stolfo et al. 2023, arXiv 2305.15054).

mediation(model, sum_pairs(model, 30), mlp_out).importance(range(6, 12))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations
from math import log
from operator import itemgetter
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.course_lm.corpus.tasks import SUMS, total
from helpers.inputs import check_number
from helpers.interventions import Intervention, record, resample_ablate
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.running import Suffix, next_tokens, read_suffix
from helpers.stats import Numbers, cluster_interval
from helpers.texts import as_texts

SUM_TOKENS = ("first", "sign", "second", "=")


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
    """The sums that the model gets right."""
    texts = [_sum_text(*entry) for entry in SUMS]
    right = next_tokens(model, texts) == first_tokens(model, texts, [str(total(*entry)) for entry in SUMS])
    return [entry for entry, hit in zip(SUMS, right.tolist(), strict=True) if hit]


@dataclass(frozen=True)
class Mediation:
    """What it does to a sum when what an MLP (or an attention) writes at one position is that of the other sum.

    By how much each patch ``moved`` the log-probability of the sum's own result and of the other sum's, in nats: ``log P* - log P``, with *
    after the patch.
    """

    moved: Float[Tensor, "result layer position pair"]

    @property
    def log_effects(self) -> Float[Tensor, "layer position pair"]:
        """``log(1 + IE)`` with the indirect effect of Stolfo et al. (section 3; ``compute_effects`` in the authors' code):

        ``IE = 1/2 [(P*(r') - P(r')) / P(r') + (P(r) - P*(r)) / P*(r)]`` with ``r`` the own result and ``r'`` the other one. Since 1 + IE
        is the mean of ``P*(r') / P(r')`` and ``P(r) / P*(r)``, its logarithm always exists.
        """
        own, other = self.moved
        return torch.logaddexp(other, -own) - log(2)

    def importance(self, layers: Sequence[int], position: int = -1) -> tuple[float, float, float]:
        """The relative importance of Stolfo et al.: which share some layers at one position have of all ``log(1 + IE)``, with IE the mean
        over the pairs; and its 95 % interval (pairs are drawn).
        """
        effects = self.log_effects

        def share(pairs: Numbers) -> float:
            means = effects[..., torch.tensor(pairs).long()].logsumexp(-1) - log(len(pairs))
            return (means[list(layers), position].sum() / means.sum()).item()

        every = list(range(effects.shape[-1]))
        return share(every), *cluster_interval(every, [*map(str, every)], statistic=share)


@torch.no_grad()
def mediation(model: TransformerBridge, pairs: Sequence[SumPair], place: Callable[[int], str]) -> Mediation:
    """Patches what each layer writes at a ``place`` (``mlp_out``, ``attn_out``), position by position, from each pair's other sum into its
    first one.

    The pairs are those of ``sum_pairs``, of one length. Tokens before the patched one are not run anew.
    """
    mine, others = ([getattr(pair, side) for pair in pairs] for side in ("text", "other"))
    results = torch.stack([first_tokens(model, mine, [getattr(pair, side) for pair in pairs]) for side in ("answer", "other_answer")])
    texts, layers, every = as_texts(model, mine), range(model.cfg.n_layers), torch.arange(len(pairs))
    seen = record(model, as_texts(model, others).tokens.to(model.cfg.device), *map(place, layers))
    moved = torch.empty(2, len(layers), len(SUM_TOKENS), len(pairs))
    for column, start in enumerate(range(texts.tokens.shape[1] - len(SUM_TOKENS), texts.tokens.shape[1])):
        run = read_suffix(model, texts.tokens, start, layers)

        def log_probs(layer: int, *patch: Intervention, run: Suffix = run) -> Float[Tensor, "result pair"]:
            return run.logits(model, layer, every, texts.lengths - 1, *patch).float().log_softmax(-1).cpu()[every, results]

        before = log_probs(layers[-1])
        for layer in layers:
            patch = resample_ablate(place(layer), seen[place(layer)][:, start:], pos=0)
            moved[:, layer, column] = log_probs(layer, patch) - before
    return Mediation(moved)
