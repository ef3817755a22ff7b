"""Features looked at: without their zeros they are the same, contexts are those of all tokens, and scores are counted by hand."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_tools import D_MODEL, HOOK, PROMPTS, draw, random_sae, random_texts

from helpers.interventions import Intervention, add, record
from helpers.metrics import AFTER_FIRST, log_prob
from helpers.one_layer import features as looking
from helpers.one_layer.autoencoders import activations_of
from helpers.one_layer.features import (
    FeatureActivations,
    attribute_features,
    best_features,
    feature_activations,
    feature_contexts,
    max_activations,
    mean_over_texts,
    promoted_by,
    with_pushes,
)
from helpers.running import logits_at_end, score_prompts
from helpers.texts import as_texts

FEW = FeatureActivations(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([0, 1]), n_tokens=4)


def test_features_without_their_zeros_are_the_same_features(monkeypatch):
    monkeypatch.setattr(looking, "ENCODED_NUMBERS", 50 * 9)  # nine tokens at a time
    sae, x = random_sae("topk", k=2), draw(40, D_MODEL)
    dense, found = sae.encode(x), feature_activations(sae, x)
    assert torch.allclose(found.columns(0, 50), dense) and torch.allclose(found.columns(10, 13), dense[:, 10:13]) and len(found) == 50
    assert torch.allclose(found.column(49), dense[:, 49]) and torch.allclose(found.active_share, (dense > 0).float().mean(0))
    assert torch.allclose(max_activations(found), dense.amax(0)) and (max_activations(found) == 0).any()


def test_contexts_are_the_texts_in_which_a_feature_rises_highest(tiny):
    texts, sae = as_texts(tiny, PROMPTS, [f"kind{n}" for n in range(len(PROMPTS))]), random_sae(seed=2)
    found = feature_activations(sae, activations_of(tiny, texts, HOOK))
    feature = int(found.active_share.argmax())
    contexts = feature_contexts(tiny, texts, found, feature, n=3)
    grid = torch.zeros(texts.tokens.shape)
    grid[texts.mask] = found.column(feature)
    assert [context.row for context in contexts] == grid.amax(1).topk(3).indices.tolist()
    start = int(tiny.cfg.default_prepend_bos)
    assert "".join(contexts[0].pieces) == PROMPTS[contexts[0].row] and contexts[0].kind == f"kind{contexts[0].row}"
    assert contexts[0].values == tuple(grid[contexts[0].row, start : int(texts.lengths[contexts[0].row])].tolist())
    silent = FeatureActivations(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([0, 0, 1]), texts.n_tokens)
    assert feature_contexts(tiny, texts, silent, 0) == [] and len(feature_contexts(tiny, texts, silent, 1)) == 1


def test_a_text_has_the_mean_of_its_tokens(tiny):
    texts, sae = as_texts(tiny, PROMPTS), random_sae("topk", k=3)
    x = activations_of(tiny, texts, HOOK)
    found, dense = feature_activations(sae, x), sae.encode(x)
    starts = [0, *texts.mask.sum(1).cumsum(0).tolist()]
    by_hand = torch.stack([dense[a:b].mean(0) for a, b in pairwise(starts)])
    assert torch.allclose(mean_over_texts(found, texts), by_hand, atol=1e-5)
    assert torch.allclose(mean_over_texts(dense.half(), texts), by_hand, atol=1e-2)
    with pytest.raises(ValueError, match="give the same texts"):
        mean_over_texts(found, texts.take([0]))


def test_promoted_tokens_are_those_of_the_direction(tiny):
    sae = random_sae()
    found, logits = promoted_by(tiny, sae, 4, k=3), sae.W_dec[4] @ tiny.W_U
    assert [value for _, value in found.up] == pytest.approx(logits.topk(3).values.tolist())
    assert [value for _, value in found.down] == pytest.approx(logits.sort().values[:3].tolist()) and (found.layer, found.neuron) == (0, 4)


def test_attribution_estimates_what_taking_a_feature_away_does(tiny):
    sae = random_sae("topk", k=2)
    texts, metric = as_texts(tiny, PROMPTS), log_prob(5)
    estimated = attribute_features(tiny, sae, PROMPTS, metric)
    active = {(row, k) for row, k in estimated.abs().gt(1e-6).nonzero().tolist()}
    assert estimated.shape == (len(PROMPTS), sae.d_sae) and active
    before = score_prompts(tiny, texts, metric)
    pairs = []
    for row, k in sorted(active)[:20]:
        # a thousandth of the feature is taken away, so that the estimate of first order is exact
        def nearly(values, pick, k=k):
            return values - 0.001 * sae.encode(values)[..., k, None] * sae.W_dec[k]

        after = score_prompts(tiny, texts, metric, Intervention(HOOK, nearly, pos=AFTER_FIRST))
        pairs.append((1000 * (after - before)[row].item(), estimated[row, k].item()))
    right = [estimate == pytest.approx(change, rel=0.1, abs=0.02) for change, estimate in pairs]
    assert sum(right) >= len(right) - 2  # where a ReLU turns on or off at this very point, the slope is another on each side
    last = attribute_features(tiny, sae, PROMPTS, metric, pos=-1)
    assert last.abs().gt(0).sum(1).max() <= 2  # two features are active at one position


@pytest.mark.parametrize("back", [1, 2])
def test_copies_with_pushes_are_what_plain_runs_with_them_give(tiny, back, monkeypatch):
    monkeypatch.setattr(looking, "COPIES", 3)
    prompts = [prompt for prompt in PROMPTS if len(prompt) > 2]
    vectors, seen = draw(2, 3, D_MODEL), {}

    def pushes(state, row):
        seen[row] = state
        return vectors[row % 2, : 2 + row % 2]  # two copies of some prompts, three of others

    found = with_pushes(tiny, prompts, 0, pushes, lambda logits: logits, back)
    for row, prompt in enumerate(prompts):
        x = record(tiny, as_texts(tiny, [prompt]).tokens, HOOK)[HOOK][0, -back]
        assert torch.allclose(seen[row], x, atol=1e-5) and len(found[row]) == 2 + row % 2
        for vector, logits in zip(vectors[row % 2], found[row], strict=False):
            assert torch.allclose(logits, logits_at_end(tiny, [prompt], add(HOOK, vector, pos=-back))[0], atol=1e-4)


def by_counting(column: list[float], labels: list[bool]) -> float:
    """The best F1 that any threshold on this column reaches."""
    scores = []
    for threshold in set(column):
        yes = [value >= threshold for value in column]
        right = sum(a and b for a, b in zip(yes, labels, strict=True))
        scores.append(2 * right / (sum(yes) + sum(labels)))
    return max(scores)


TOKENS = st.tuples(st.integers(-2, 3), st.integers(0, 2), st.booleans())


@given(st.lists(TOKENS, min_size=1, max_size=12).filter(lambda rows: any(row[2] for row in rows)))
def test_the_best_f1_is_that_of_all_thresholds(rows):
    features, labels = torch.tensor([row[:2] for row in rows]).float(), torch.tensor([[row[2]] for row in rows])
    found = best_features(features, labels, features, labels)
    wanted = [by_counting(features[:, k].tolist(), labels[:, 0].tolist()) for k in (0, 1)]
    assert found.f1_validation[0].item() == pytest.approx(max(wanted), abs=1e-6)
    assert found.f1[0].item() == pytest.approx(max(wanted), abs=1e-6)  # the threshold is the one that gives it


def test_a_value_that_more_tokens_have_than_are_sorted_is_no_threshold():
    column = torch.tensor([9.0, 8.0, 7.0, *[5.0] * 40, *range(-100, 0)])[:, None]
    labels = torch.zeros(len(column), 1, dtype=torch.bool)
    labels[[0, 2, 3]] = True  # 30 tokens are sorted, and 43 are as high as 5.0
    found = best_features(column, labels, column, labels)
    assert found.threshold.tolist() == [7.0] and found.f1.tolist() == pytest.approx([2 * 2 / (3 + 3)])


def test_scores_by_hand_on_the_other_half():
    choose = torch.tensor([[0.0, 5.0], [0.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
    labels = torch.tensor([[False, True], [False, False], [True, False], [True, False]])
    test = torch.tensor([[9.0, 6.0], [2.0, 4.9], [1.0, 5.0], [0.0, 5.0]])
    test_labels = torch.tensor([[True, True], [False, True], [True, True], [False, False]])
    found = best_features(choose, labels, test, test_labels, names=("first", "second"))
    assert found.feature.tolist() == [0, 1] and found.threshold.tolist() == [2.0, 5.0] and found.f1_validation.tolist() == [1.0, 1.0]
    # "first": yes on tokens 0 and 1, right on 0, and 2 is missed; "second": yes on 0, 2 and 3, right on 0 and 2, and 1 is missed
    assert found.precision.tolist() == pytest.approx([1 / 2, 2 / 3]) and found.recall.tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found.f1.tolist() == pytest.approx([1 / 2, 2 / 3]) and found.share(0.6) == 0.5 and found.n_tokens.tolist() == [2, 3]
    assert found.table(1).splitlines()[1].startswith("second") and len(found.table().splitlines()) == 3 and len(found) == 2


def test_the_feature_is_the_same_however_many_are_looked_at_at_once(monkeypatch):
    sae, x, other = random_sae("topk", k=5), draw(60, D_MODEL), draw(50, D_MODEL, seed=9)
    labels, others = draw(60, 6, seed=3) > 0.8, draw(50, 6, seed=4) > 0.5
    whole = best_features(sae.encode(x), labels, sae.encode(other), others)
    monkeypatch.setattr(looking, "SORTED_NUMBERS", 60 * 7)
    for features in ((sae.encode(x), sae.encode(other)), (feature_activations(sae, x), feature_activations(sae, other))):
        found = best_features(features[0], labels, features[1], others)
        assert torch.equal(found.feature, whole.feature) and torch.equal(found.threshold, whole.threshold)
        assert torch.equal(found.f1, whole.f1)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: best_features(draw(4, 2), draw(4, 1) > 9, draw(4, 2), draw(4, 1) < 9), "concept '0' has no token"),
        (lambda m: best_features(draw(4, 2), draw(3, 1) < 9, draw(4, 2), draw(4, 1) < 9), "one row of labels"),
        (lambda m: best_features(draw(4, 2), draw(4, 1) < 9, draw(4, 3), draw(4, 1) < 9), "the same features"),
        (lambda m: best_features(draw(4, 2), draw(4, 1) < 9, draw(4, 2), draw(4, 1) < 9, names=("a", "b")), "1 concepts and 2 names"),
        (lambda m: feature_activations(random_sae(), draw(4, D_MODEL)).column(50), "no feature 50: there are 50"),
        (lambda m: feature_contexts(m, random_texts(3), FEW, 0), "give the same texts"),
        (lambda m: promoted_by(m, random_sae(), 0, k=0), "k says how many tokens"),
        (lambda m: promoted_by(m, random_sae(), -1), "no feature -1"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(tiny)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
