"""Sparse autoencoders: gradients against plain ones, toy data against the truth, splicing and quality against plain runs."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from layer_tools import D_MODEL, HOOK, KINDS, PROMPTS, draw, random_sae, random_texts

from helpers.course_lm.corpus.mixture import Document
from helpers.interventions import Intervention, intervene, mlp_post, record, resid_post, zero_ablate
from helpers.one_layer import autoencoders, sae_training
from helpers.one_layer.autoencoders import (
    CORPUS_SEED,
    Quality,
    SparseAutoencoder,
    activations_of,
    clamp_feature,
    corpus_activations,
    quality,
)
from helpers.one_layer.sae_training import Settings, mean_max_cosine, toy_data, train_sae
from helpers.texts import HELD_OUT_SEED, Texts, as_texts

TOY = Settings("topk", d_sae=48, k=2, steps=600, batch=128, learning_rate=5e-3, dead_after=3000)


def test_two_features_by_hand():
    parts = (
        torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        torch.tensor([0.0, -1.0]),
        torch.tensor([[1.0, 0.0], [0.0, 3.0]]),
        torch.tensor([1.0, 0.0]),
    )
    x = torch.tensor([[3.0, 2.0], [0.0, 1.0]])  # minus b_dec: (2, 2) and (-1, 1); before ReLU: (2, 3) and (-1, 1)
    assert SparseAutoencoder(*parts).encode(x).tolist() == [[2.0, 3.0], [0.0, 1.0]]
    assert SparseAutoencoder(*parts)(x).tolist() == [[3.0, 9.0], [1.0, 3.0]]
    assert SparseAutoencoder(*parts, "topk", k=1).encode(x).tolist() == [[0.0, 3.0], [0.0, 1.0]]
    assert SparseAutoencoder(*parts, "topk", k=2).encode(x).tolist() == [[2.0, 3.0], [0.0, 1.0]]  # none is negative


@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_no_reconstruction_and_gives_directions_of_length_1(kind):
    sae, x = random_sae(kind), draw(30, D_MODEL)
    if kind == "topk":
        sae.W_dec.data /= sae.W_dec.norm(dim=1, keepdim=True) / 3
    folded = sae.folded(scale=0.25)
    assert torch.allclose(folded.W_dec.norm(dim=1), torch.ones(50), atol=1e-5)
    assert torch.allclose(folded(4 * x), 4 * sae(x), rtol=1e-4, atol=1e-3)
    pieces = [a.encode(y)[..., None] * a.W_dec for a, y in ((folded, 4 * x), (sae, x))]  # what each feature adds
    assert torch.allclose(pieces[0], 4 * pieces[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows, n, k", [(9, 12, 3), (1, 5, 5), (40, 6, 1)])
def test_the_sparse_gradient_is_the_plain_one(rows, n, k):
    x, weights = draw(rows, 4), [draw(n, 4, seed=2).requires_grad_(), draw(n, seed=3).requires_grad_()]
    with torch.enable_grad():
        values, chosen = sae_training._Strongest.apply(x, *weights, k)
        sparse = torch.autograd.grad((values.relu() * torch.arange(1, k + 1)).square().sum(), weights)
        plain_values = (x @ weights[0].T + weights[1]).gather(1, chosen)
        plain = torch.autograd.grad((plain_values.relu() * torch.arange(1, k + 1)).square().sum(), weights)
    assert torch.allclose(plain_values, values, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sparse, plain, strict=True))


@pytest.mark.parametrize("kind", ["topk", "standard"])
def test_the_loss_is_that_of_the_papers(kind):
    settings = Settings(kind, d_sae=20, k=3, sparsity=0.5, steps=100, warm_up=0.0)
    training = sae_training._Training(draw(6), settings, torch.Generator().manual_seed(0))
    x = draw(40, 6, seed=5)
    sae = SparseAutoencoder(training.encoder.T, training.b_enc, training.W_dec, training.b_dec, kind, settings.k)
    features = sae.encode(x)
    squared = (x - sae.decode(features)).square().sum(1).mean()
    penalty = 0.5 * (features * sae.W_dec.norm(dim=1)).sum(1).mean() if kind == "standard" else 0.0
    with torch.enable_grad():
        error, loss, active = training.topk_loss(x) if kind == "topk" else training.standard_loss(x, step=50)
    assert error.item() == pytest.approx(squared.item(), rel=1e-4) and int(active) == int((features > 0).sum())
    assert loss.item() == pytest.approx(float(squared + penalty), rel=1e-4)
    if kind == "topk":
        training.unseen[:5] = settings.dead_after + 1
        before = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        values, chosen = before[:, :5].topk(3)  # as many as half the dimensions
        written = (values.relu()[..., None] * sae.W_dec[chosen]).sum(1)
        rest = x - sae.decode(features)
        with torch.enable_grad():
            found = training.loss_of_the_dead(x, rest)
        assert found.item() == pytest.approx((rest - written).square().sum(1).mean().item(), rel=1e-4)


def test_the_learning_rate_rises_and_falls():
    training = sae_training._Training(draw(4), Settings(steps=100, d_sae=8, k=2, warm_up=0.1, decay=0.5), torch.Generator())
    assert [training.schedule(step) for step in (0, 9, 30, 50, 75, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.02])


def test_dead_features_start_anew_where_much_is_lost():
    settings = Settings("standard", d_sae=6, steps=4, dead_after=0)
    training = sae_training._Training(torch.zeros(4), settings, torch.Generator().manual_seed(1))
    x = torch.zeros(8, 4)
    x[3, 2] = -50.0  # all that there is to lose
    training.step(x, 3)
    training.unseen = torch.tensor([1, 0, 1, 0, 0, 0])
    with torch.no_grad():
        training.encoder[:] = torch.eye(4)[0]  # nothing reads along the third dimension
        kept = training.W_dec[1].clone()
    training.resample(x)
    new = training.W_dec[[0, 2]]
    assert torch.allclose(new / new.norm(dim=1, keepdim=True), torch.tensor([0.0, 0, -1, 0]), atol=0.1)
    assert torch.equal(training.W_dec[1], kept) and not training.unseen.any()
    assert not training.optimiser.state[training.encoder]["exp_avg"][[0, 2]].any()


def test_topk_finds_the_directions_of_toy_data_and_reads_raw_activations():
    data = toy_data(24, 16, 0.94, 6000)
    x = 30 * data.x + 5
    sae, history = train_sae(x, TOY)
    assert mean_max_cosine(sae.W_dec, data.directions) > 0.9 > 0.8 > mean_max_cosine(draw(48, 16, seed=7), data.directions)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-4)
    lost = (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert lost < 0.25 and lost.item() == pytest.approx(history.unexplained[-1].item(), abs=0.08)
    assert history.step[-1] == 599 and history.l0[-1] <= 2 and history.loss[-1] < history.loss[0] / 2
    assert len(history.table(5).splitlines()) == 6


def test_a_seed_gives_the_same_autoencoder_and_another_seed_another():
    x, short = toy_data(12, 8, 0.8, 500).x, replace(TOY, steps=20)
    for settings in (short, replace(short, kind="standard", sparsity=0.2)):
        one, same, other = (train_sae(x, settings, seed)[0] for seed in (0, 0, 1))
        assert torch.equal(one.W_enc, same.W_enc) and torch.equal(one.b_dec, same.b_dec) and not torch.allclose(one.W_dec, other.W_dec)


def test_half_precision_is_learned_from_in_full_batches_and_nothing_is_doubled():
    x = toy_data(12, 8, 0.8, 1300).x.half()
    sae, history = train_sae(x, replace(TOY, steps=10), hook=HOOK)
    assert len(history.step) == 10 and sae.hook == HOOK and sae.W_enc.dtype == torch.float32
    batches = list(islice(sae_training._batches(torch.arange(103.0)[:, None], 10, torch.Generator().manual_seed(0)), 20))
    for once in (torch.cat(batches[:10]), torch.cat(batches[10:])):  # the last three are left out, others each time
        assert len(once) == 100 == len(once.unique()) and not torch.equal(once, once.sort(0).values)


def test_a_larger_penalty_leaves_fewer_features_and_a_good_one_finds_the_truth():
    data = toy_data(24, 16, 0.94, 4000)
    found = [train_sae(data.x, replace(TOY, kind="standard", sparsity=penalty))[0] for penalty in (0.3, 1.0, 8.0)]
    active = [(sae.encode(data.x) > 0).sum(1).float().mean() for sae in found]
    lost = [(data.x - sae(data.x)).square().sum() for sae in found]
    assert active[0] > active[1] > active[2] and lost[0] < lost[1] < lost[2]
    assert max(mean_max_cosine(sae.W_dec, data.directions) for sae in found) > 0.9


def test_toy_data_are_sums_of_unit_directions():
    data = toy_data(30, 10, 0.9, 4000, seed=3)
    assert torch.allclose(data.features @ data.directions, data.x) and torch.allclose(data.directions.norm(dim=1), torch.ones(30))
    assert (data.features > 0).float().mean().item() == pytest.approx(0.1, abs=0.005) and data.features.max() <= 1
    assert mean_max_cosine(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.eye(2)) == 0.5  # the second only with the wrong sign


def test_activations_are_those_of_plain_runs_in_the_order_of_the_mask(tiny):
    texts = random_texts(30)
    found = activations_of(tiny, texts, HOOK)
    assert found.shape == (texts.n_tokens, D_MODEL)
    for number in (0, 7, len(found) - 1):
        row, pos = texts.mask.nonzero()[number].tolist()
        plain = record(tiny, texts.tokens[row : row + 1, : texts.lengths[row]], HOOK)[HOOK][0, pos]
        assert torch.allclose(found[number], plain, atol=1e-5)
    both = activations_of(tiny, texts, [resid_post(0), mlp_post(0)], dtype=torch.float16)
    assert both.dtype == torch.float16 and both.shape[1] == D_MODEL + tiny.cfg.d_mlp
    assert torch.allclose(both[:, D_MODEL:].float(), activations_of(tiny, texts, mlp_post(0)), atol=1e-2)


def test_the_corpus_gives_as_many_activations_as_asked_for(tiny, monkeypatch):
    asked = []

    def written(seed):
        asked.append(seed)
        while True:
            yield Document("in Paris and in Taipei", "prose")

    monkeypatch.setattr(autoencoders, "documents", written)
    parts = list(corpus_activations(tiny, HOOK, 25, documents_at_once=2))
    assert sum(map(len, parts)) == 25 and len(parts) > 1 and asked == [CORPUS_SEED] and CORPUS_SEED not in (HELD_OUT_SEED, 20_260)


@pytest.mark.parametrize("kind", KINDS)
def test_clamping_moves_the_activation_along_one_direction(tiny, kind):
    texts, sae = as_texts(tiny, PROMPTS[:1]), random_sae(kind)
    x = record(tiny, texts.tokens, HOOK)[HOOK]
    features = sae.encode(x)
    feature = int((features > 0).sum((0, 1)).argmax())
    own = features[..., feature]
    for value, pos in ((10.0, None), (0.0, None), (own, None), (5.0, 3)):
        with intervene(tiny, clamp_feature(sae, HOOK, feature, value, pos=pos)):
            changed = record(tiny, texts.tokens, HOOK)[HOOK]
        expected = x + (value - own)[..., None] * sae.W_dec[feature]
        here = torch.tensor([pos in (None, place) for place in range(x.shape[1])])
        assert torch.allclose(changed[:, here], expected[:, here], atol=1e-4) and torch.equal(changed[:, ~here], x[:, ~here])


def test_the_same_push_goes_along_another_feature_or_along_one_for_each_row(tiny):
    texts, sae = as_texts(tiny, PROMPTS[:2]), random_sae()
    tokens = texts.tokens[:, : int(texts.lengths.min())]
    x = record(tiny, tokens, HOOK)[HOOK]
    push = (10.0 - sae.encode(x)[..., 4])[..., None]
    for along, towards in ((7, sae.W_dec[7]), (torch.tensor([7, 9]), sae.W_dec[[7, 9]][:, None])):
        with intervene(tiny, clamp_feature(sae, HOOK, 4, 10.0, along=along)):
            assert torch.allclose(record(tiny, tokens, HOOK)[HOOK], x + push * towards, atol=1e-4)


def plain_loss(model, texts: Texts, change=None) -> float:
    """The mean cross-entropy of each next token, text by text, without what follows position 0."""
    losses = []
    for row, length in enumerate(texts.lengths.tolist()):
        tokens = texts.tokens[row : row + 1, :length]
        with intervene(model, *[change] if change else []):
            logp = model(tokens)[0].log_softmax(-1)
        losses += [-logp[pos, tokens[0, pos + 1]].item() for pos in range(1, length - 1)]
    return sum(losses) / len(losses)


def test_quality_is_what_plain_runs_and_counting_give(tiny):
    texts, sae = random_texts(12), random_sae("topk", d_sae=400, k=3)
    found, x = quality(tiny, sae, HOOK, texts), activations_of(tiny, texts, HOOK)
    features = sae.encode(x)
    assert found.n_tokens == texts.n_tokens and found.l0 == pytest.approx((features > 0).sum(1).float().mean().item(), abs=1e-6)
    variance = (x - x.mean(0)).square().sum()
    assert found.variance_explained == pytest.approx(1 - ((x - sae(x)).square().sum() / variance).item(), rel=1e-4)
    assert 0 < found.dead_share < 1 and found.dead_share == pytest.approx((features == 0).all(0).float().mean().item(), abs=1e-6)
    wanted = [
        plain_loss(tiny, texts),
        plain_loss(tiny, texts, Intervention(HOOK, lambda values, pick: sae(values), pos=slice(1, None))),
        plain_loss(tiny, texts, zero_ablate(HOOK, pos=slice(1, None))),
    ]
    assert [found.loss, found.loss_spliced, found.loss_zeroed] == pytest.approx(wanted, rel=1e-4)


def test_a_perfect_autoencoder_recovers_everything(tiny):
    eye, none = torch.eye(D_MODEL), torch.zeros(D_MODEL)
    both = SparseAutoencoder(torch.cat([eye, -eye], 1), torch.zeros(2 * D_MODEL), torch.cat([eye, -eye]), none)
    found = quality(tiny, both, HOOK, random_texts(8))
    assert found.variance_explained == pytest.approx(1, abs=1e-6) and found.loss_recovered == pytest.approx(1, abs=1e-3)
    assert found.l0 == D_MODEL  # one of each pair, whatever the sign


def test_loss_recovered_by_hand():
    found = Quality(20.0, 0.75, 0.125, 2.0, 3.0, 6.0, 1000)
    assert found.loss_recovered == 0.75 and "12.5% (never active on 1,000 tokens)" in found.table()


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: Settings("jumprelu"), "no kind of autoencoder to train 'jumprelu'; choose one of: standard, topk"),
        (lambda m: Settings(k=0), "k is how many features are active"),
        (lambda m: Settings(steps=0), "one step"),
        (lambda m: random_sae("gated"), "no kind of autoencoder 'gated'; choose one of: standard, topk"),
        (lambda m: random_sae("topk", k=51), "from 1 to 50, not 51"),
        (lambda m: random_sae().encode(torch.zeros(3, 5)), "of width 32, not 5"),
        (lambda m: clamp_feature(random_sae(), HOOK, 50, 1.0), "no feature 50: this autoencoder has 50"),
        (lambda m: train_sae(torch.zeros(100, 4), TOY), "nothing to learn"),
        (lambda m: train_sae(torch.zeros(0, 4), TOY), "not enough activations"),
        (lambda m: toy_data(4, 2, 1.0, 10), "sparsity"),
        (lambda m: activations_of(m, random_texts(2), "blocks.9.hook_resid_pre"), "layers are 0 to 1"),
        (lambda m: next(corpus_activations(m, HOOK, 0)), "must be 1 or more"),
        (lambda m: quality(m, random_sae(), HOOK, random_texts(3, longest=2)), "too short to measure"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(tiny)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
