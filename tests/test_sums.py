"""Sums: pairs of them, and patched sums against one patch at a time."""

from itertools import product

import pytest
import torch
from tiny_models import write_word_model

from helpers.cluster import sums
from helpers.cluster.sums import Mediation, SumPair, mediation, sum_pairs
from helpers.course_lm.corpus.tasks import SUMS
from helpers.interventions import attn_out, mlp_out, record
from helpers.models import load_model
from helpers.prediction import tokenize

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A random GPT-2 with one token for each number up to twenty and for each sign."""
    words = [*map(str, range(21)), "+", "-", "="]
    sizes = dict(n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return load_model(write_word_model(tmp_path_factory.mktemp("counter"), words, seed=1, **sizes))


@pytest.fixture
def all_right(monkeypatch):
    """A random model is right about nothing: here it counts as right about all sums."""
    monkeypatch.setattr(
        sums, "next_tokens", lambda model, texts: sums.first_tokens(model, texts, [str(sums.total(*read(t))) for t in texts])
    )


def read(text):
    a, sign, b, _ = text.split()
    return int(a), sign, int(b)


def test_pairs_of_sums(counter, all_right):
    pairs, same = sum_pairs(counter, n=200, seed=1), sum_pairs(counter, n=200, same_result=True)
    assert pairs == sum_pairs(counter, n=200, seed=1) and len(set(pairs)) == 200
    for pair in (*pairs, *same):
        (a, sign, b), (c, other_sign, d) = read(pair.text), read(pair.other)
        assert sign == other_sign and ((a == c), (b == d)) in ([(False, False)] if pair in same else [(True, False), (False, True)])
        assert (pair.answer == pair.other_answer) == (pair in same)
        assert (pair.answer, pair.other_answer) == tuple(str(x + y if sign == "+" else x - y) for x, y in ((a, b), (c, d)))


def test_only_right_sums_are_used(counter, monkeypatch):
    zero = int(tokenize(counter, "= 0")[-1])
    monkeypatch.setattr(sums, "next_tokens", lambda model, texts: torch.full((len(texts),), zero))
    assert sums._known_sums(counter) == [entry for entry in SUMS if sums.total(*entry) == 0]
    with pytest.raises(ValueError, match="it must be from 1 to"):
        sum_pairs(counter, n=10_000)


PAIRS = [SumPair("3 + 5 =", "8", "3 + 9 =", "12"), SumPair("7 - 2 =", "5", "9 - 2 =", "7")]


@pytest.mark.parametrize("place", [mlp_out, attn_out])
def test_mediation_equals_one_patch_at_a_time(counter, place):
    found, extra = mediation(counter, PAIRS, place), int(counter.cfg.default_prepend_bos)
    for number, pair in enumerate(PAIRS):
        tokens, others = (tokenize(counter, text)[None] for text in (pair.text, pair.other))
        ids = [int(tokenize(counter, f"= {answer}")[-1]) for answer in (pair.answer, pair.other_answer)]
        before = counter(tokens)[0, -1].log_softmax(-1)
        for layer, column in product(range(2), range(4)):
            value, at = record(counter, others, place(layer))[place(layer)], column + extra

            def put(old, hook, value=value, at=at):
                return torch.cat([old[:, :at], value[:, at : at + 1], old[:, at + 1 :]], 1)

            with counter.hooks(fwd_hooks=[(place(layer), put)]):
                after = counter(tokens)[0, -1].log_softmax(-1)
            own, other = (after - before)[ids]
            assert found.moved[:, layer, column, number].tolist() == pytest.approx([own.item(), other.item()], abs=1e-4)
            effect = ((other.exp() - 1) + ((-own).exp() - 1)) / 2  # of the ratios of probabilities, as the paper writes it
            assert found.log_effects[layer, column, number] == pytest.approx((1 + effect).log().item(), abs=1e-4)
    assert found.moved.abs().max() > 0.01


def test_pairs_with_the_same_result_have_one_log_probability(counter):
    found = mediation(counter, [SumPair("3 + 5 =", "8", "2 + 6 =", "8")], mlp_out)
    own, other = found.moved
    assert torch.equal(own, other) and own.abs().max() > 0.01 and (found.log_effects >= -1e-5).all()


def test_relative_importance_by_hand():
    """Two layers, two positions, three pairs; in all but two places the patch changes nothing: there IE is 0, and so its logarithm."""

    def patched(layer: int, position: int, values: list[float]) -> torch.Tensor:
        moved = torch.zeros(2, 2, 3)
        moved[layer, position] = torch.tensor(values).log()
        return moved

    other = patched(1, 1, [3.0, 2.0, 5.0])  # the other result becomes so many times as likely, the own one stays: 1 + IE is 2, 1.5, 3
    found = Mediation(torch.stack([torch.zeros(2, 2, 3), other]))
    assert found.log_effects[1, 1].exp().tolist() == pytest.approx([2, 1.5, 3])
    assert found.importance([1])[0] == pytest.approx(1) and found.importance([0])[0] == pytest.approx(0)
    own = patched(0, 1, [0.5, 0.25, 0.5])  # P(r) / P*(r) is 2, 4 and 2: 1 + IE is 1.5, 2.5 and 1.5
    value, low, high = Mediation(torch.stack([own, other])).importance([1])
    early, late = (torch.tensor(effects).mean().log() for effects in ([1.5, 2.5, 1.5], [2.0, 1.5, 3.0]))
    assert value == pytest.approx((late / (late + early)).item()) and low < value < high
