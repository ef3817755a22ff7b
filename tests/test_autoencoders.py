"""Sparse autoencoders: gradients against plain ones, toy data against the truth, files, splicing, and scores counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_neurons import PROMPTS, random_texts, tiny
from torch import Tensor

from helpers import autoencoders
from helpers.autoencoders import (
    CORPUS_SEED,
    SHIPPED,
    ConceptScores,
    FeatureActivations,
    Quality,
    Settings,
    SparseAutoencoder,
    ablate_feature,
    activations_of,
    best_features,
    clamp_feature,
    corpus_activations,
    feature_activations,
    feature_contexts,
    load_sae,
    max_activations,
    mean_max_cosine,
    promoted_by,
    quality,
    save_sae,
    splice,
    sweep,
    toy_data,
    train_sae,
)
from helpers.course_lm.corpus.mixture import Document
from helpers.interventions import intervene, record, resid_post, resid_pre, zero
from helpers.models import ModelNotAvailable
from helpers.texts import HELD_OUT_SEED, Texts, as_texts

__all__ = ["tiny"]  # the fixture

HOOK, WIDTH = resid_post(0), 32
FEW = FeatureActivations(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([0, 1]), n_tokens=4)
TOY = Settings("topk", d_sae=48, k=2, steps=600, batch=128, learning_rate=5e-3, dead_after=3000)


def random_sae(kind: str = "standard", d_model: int = WIDTH, d_sae: int = 50, k: int | None = None, seed: int = 0) -> SparseAutoencoder:
    """An autoencoder with random weights, none of them 0."""
    rng = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, generator=rng) for size in ((d_model, d_sae), (d_sae,), (d_sae, d_model), (d_model,))]
    threshold = torch.rand(d_sae, generator=rng) * 5 if kind == "jumprelu" else None
    return SparseAutoencoder(*parts, kind, 7 if kind == "topk" and k is None else k, threshold, hook=HOOK)


def draw(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


KINDS = ["standard", "topk", "jumprelu"]

# ------------------------------------------------------------------------------------------------------- the autoencoder


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
    jump = SparseAutoencoder(*parts, "jumprelu", threshold=torch.tensor([0.0, 1.0]))
    assert jump.encode(x).tolist() == [[2.0, 3.0], [0.0, 0.0]]  # 1 is not above 1


def test_topk_never_has_more_than_k_features_nor_negative_ones():
    features = random_sae("topk").encode(draw(3, 20, WIDTH))
    assert features.shape == (3, 20, 50) and (features >= 0).all() and (features > 0).sum(-1).max() == 7
    down = random_sae("topk")
    down.b_enc -= 1000.0
    assert (down.encode(draw(5, WIDTH)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_no_reconstruction_and_gives_directions_of_length_1(kind):
    sae, x = random_sae(kind), draw(30, WIDTH)
    if kind == "topk":
        sae.W_dec.data /= sae.W_dec.norm(dim=1, keepdim=True) / 3
    folded = sae.folded(scale=0.25)
    assert torch.allclose(folded.W_dec.norm(dim=1), torch.ones(50), atol=1e-5)
    assert torch.allclose(folded(4 * x), 4 * sae(x), rtol=1e-4, atol=1e-3)
    pieces = [a.encode(y)[..., None] * a.W_dec for a, y in ((folded, 4 * x), (sae, x))]  # what each feature adds
    assert torch.allclose(pieces[0], 4 * pieces[1], rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("rows, n, k", [(9, 12, 3), (1, 5, 5), (40, 6, 1)])
def test_the_sparse_gradient_is_the_plain_one(rows, n, k):
    x, weights = draw(rows, 4), [draw(n, 4, seed=2).requires_grad_(), draw(n, seed=3).requires_grad_()]
    with torch.enable_grad():
        values, chosen = autoencoders._Strongest.apply(x, *weights, k)
        sparse = torch.autograd.grad((values.relu() * torch.arange(1, k + 1)).square().sum(), weights)
        plain_values = (x @ weights[0].T + weights[1]).gather(1, chosen)
        plain = torch.autograd.grad((plain_values.relu() * torch.arange(1, k + 1)).square().sum(), weights)
    assert torch.allclose(plain_values, values, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sparse, plain, strict=True))


@pytest.mark.parametrize("kind", ["topk", "standard"])
def test_the_loss_is_that_of_the_papers(kind):
    settings = Settings(kind, d_sae=20, k=3, sparsity=0.5, steps=100, warm_up=0.0)
    training = autoencoders._Training(draw(6), settings, torch.Generator().manual_seed(0))
    x = draw(40, 6, seed=5)
    sae = training.autoencoder("")
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
    training = autoencoders._Training(draw(4), Settings(steps=100, d_sae=8, k=2, warm_up=0.1, decay=0.5), torch.Generator())
    assert [training.schedule(step) for step in (0, 9, 30, 50, 75, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.02])


def test_dead_features_start_anew_where_much_is_lost():
    training = autoencoders._Training(
        torch.zeros(4), Settings("standard", d_sae=6, steps=4, dead_after=0), torch.Generator().manual_seed(1)
    )
    x = torch.zeros(8, 4)
    x[3] = torch.tensor([0.0, 0.0, -50.0, 0.0])  # all that there is to lose
    training.step(x, 3)
    training.unseen = torch.tensor([1, 0, 1, 0, 0, 0])
    with torch.no_grad():
        training.encoder[1:] = torch.eye(4)[0]  # nothing else reads along the third dimension
        training.encoder[0] = torch.eye(4)[0]
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


def test_a_stream_and_half_precision_are_learned_from_as_well():
    x = toy_data(12, 8, 0.8, 1300).x.half()
    sae, history = train_sae((part for part in x.split(100)), replace(TOY, steps=10), hook=HOOK)
    assert len(history.step) == 10 and sae.hook == HOOK and sae.W_enc.dtype == torch.float32
    with pytest.raises(ValueError, match="ran out after 10 of 11 steps"):
        train_sae(iter(x.split(100)), replace(TOY, steps=11))


def test_a_stream_is_mixed_and_nothing_is_lost_or_doubled(monkeypatch):
    monkeypatch.setattr(autoencoders, "POOL_BATCHES", 3)
    x = torch.arange(100.0)[:, None]
    batches = list(autoencoders._batches(x.split(7), 10, torch.Generator().manual_seed(0)))
    seen = torch.cat(batches).flatten()
    assert len(batches) == 10 and torch.equal(seen.sort().values, x[:, 0]) and not torch.equal(seen, x[:, 0])


def test_a_larger_penalty_leaves_fewer_features_and_a_good_one_finds_the_truth():
    found = sweep(toy_data(24, 16, 0.94, 4000), [0.3, 1.0, 8.0], replace(TOY, sparsity=9.0))
    assert found.l0[0] > found.l0[1] > found.l0[2] and found.unexplained[0] < found.unexplained[1] < found.unexplained[2]
    assert max(found.mmcs) > 0.9 and found.penalties == (0.3, 1.0, 8.0) and len(found.table().splitlines()) == 4


def test_toy_data_are_sums_of_unit_directions():
    data = toy_data(30, 10, 0.9, 4000, seed=3)
    assert torch.allclose(data.features @ data.directions, data.x) and torch.allclose(data.directions.norm(dim=1), torch.ones(30))
    assert (data.features > 0).float().mean().item() == pytest.approx(0.1, abs=0.005) and data.features.max() <= 1
    assert mean_max_cosine(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.eye(2)) == 0.5  # the second only with the wrong sign


# ---------------------------------------------------------------------------------------------- activations of a model


def test_activations_are_those_of_plain_runs_in_the_order_of_the_mask(tiny):
    texts = random_texts(30)
    found = activations_of(tiny, texts, HOOK)
    assert torch.equal(found.places, texts.mask.nonzero()) and len(found) == texts.n_tokens and found.values.shape[1] == WIDTH
    for number in (0, 7, len(found) - 1):
        row, pos = found.places[number].tolist()
        plain = record(tiny, texts.tokens[row : row + 1, : texts.lengths[row]], HOOK)[HOOK][0, pos]
        assert torch.allclose(found.values[number], plain, atol=1e-5)


def test_the_corpus_gives_as_many_activations_as_asked_for(tiny, monkeypatch):
    asked = []

    def written(seed):
        asked.append(seed)
        while True:
            yield Document("in Paris and in Taipei", "prose")

    monkeypatch.setattr(autoencoders, "documents", written)
    parts = list(corpus_activations(tiny, HOOK, 25, documents_at_once=2))
    assert sum(map(len, parts)) == 25 and len(parts) > 1 and asked == [CORPUS_SEED] and CORPUS_SEED not in (HELD_OUT_SEED, 20_260)


# ------------------------------------------------------------------------------------------------ splicing and steering


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_clamped_at_its_own_value_changes_nothing(tiny, kind):
    texts, sae = as_texts(tiny, PROMPTS[:1]), random_sae(kind)
    before = tiny(texts.tokens)
    features = sae.encode(record(tiny, texts.tokens, HOOK)[HOOK].detach())
    feature = int(features[0, 3].argmax())
    with intervene(tiny, clamp_feature(sae, HOOK, feature, features[..., feature])):
        assert torch.allclose(tiny(texts.tokens), before, atol=1e-5)
    with intervene(tiny, clamp_feature(sae, HOOK, feature, 1.5 * float(features[0, 3, feature]), pos=3)):
        after = tiny(texts.tokens)
    assert torch.equal(after[:, :3], before[:, :3]) and not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-3)


def test_clamping_moves_the_activation_along_one_direction(tiny):
    texts, sae = as_texts(tiny, PROMPTS[:1]), random_sae("topk")
    x = record(tiny, texts.tokens, HOOK)[HOOK]
    features = sae.encode(x)
    feature = int((features > 0).sum((0, 1)).argmax())
    for change, value in ((clamp_feature(sae, HOOK, feature, 10.0), 10.0), (ablate_feature(sae, HOOK, feature), 0.0)):
        with intervene(tiny, change):
            changed = record(tiny, texts.tokens, HOOK)[HOOK]
        assert torch.allclose(changed, x + (value - features[..., feature])[..., None] * sae.W_dec[feature], atol=1e-4)
    silent = features[0, :, feature] == 0
    assert torch.equal(changed[0, silent], x[0, silent])  # not active: ablation leaves it alone


def test_splicing_leaves_position_0_alone_and_decodes_the_rest(tiny):
    texts, sae = as_texts(tiny, PROMPTS[:1]), random_sae("topk")
    x = record(tiny, texts.tokens, HOOK)[HOOK]
    with intervene(tiny, splice(sae, HOOK)):
        spliced = record(tiny, texts.tokens, HOOK)[HOOK]
    assert torch.equal(spliced[:, 0], x[:, 0]) and torch.allclose(spliced[:, 1:], sae(x[:, 1:]), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- quality


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
    found, x = quality(tiny, sae, HOOK, texts), activations_of(tiny, texts, HOOK).values
    features = sae.encode(x)
    assert found.n_tokens == texts.n_tokens and found.l0 == pytest.approx((features > 0).sum(1).float().mean().item(), abs=1e-6)
    variance = (x - x.mean(0)).square().sum()
    assert found.variance_explained == pytest.approx(1 - ((x - sae(x)).square().sum() / variance).item(), rel=1e-4)
    assert 0 < found.dead_share < 1 and found.dead_share == pytest.approx((features == 0).all(0).float().mean().item(), abs=1e-6)
    wanted = [plain_loss(tiny, texts), plain_loss(tiny, texts, splice(sae, HOOK)), plain_loss(tiny, texts, zero(HOOK, pos=slice(1, None)))]
    assert [found.loss, found.loss_spliced, found.loss_zeroed] == pytest.approx(wanted, rel=1e-4)


def test_a_perfect_autoencoder_recovers_everything(tiny):
    eye, none = torch.eye(WIDTH), torch.zeros(WIDTH)
    both = SparseAutoencoder(torch.cat([eye, -eye], 1), torch.zeros(2 * WIDTH), torch.cat([eye, -eye]), none)
    found = quality(tiny, both, HOOK, random_texts(8))
    assert found.variance_explained == pytest.approx(1, abs=1e-6) and found.loss_recovered == pytest.approx(1, abs=1e-3)
    assert found.l0 == WIDTH  # one of each pair, whatever the sign


def test_loss_recovered_by_hand():
    found = Quality(20.0, 0.75, 0.125, 2.0, 3.0, 6.0, 1000)
    assert found.loss_recovered == 0.75 and "12.5% (never active on 1,000 tokens)" in found.table()


# ----------------------------------------------------------------------------------------------------- features in a corpus


def test_features_without_their_zeros_are_the_same_features(monkeypatch):
    monkeypatch.setattr(autoencoders, "ENCODED_NUMBERS", 50 * 9)  # nine tokens at a time
    sae, x = random_sae("topk", k=2), draw(40, WIDTH)
    dense, found = sae.encode(x), feature_activations(sae, x)
    assert torch.allclose(found.columns(0, 50), dense) and torch.allclose(found.columns(10, 13), dense[:, 10:13]) and len(found) == 50
    assert torch.allclose(found.column(49), dense[:, 49]) and torch.allclose(found.active_share, (dense > 0).float().mean(0))
    assert torch.allclose(max_activations(found), dense.amax(0)) and torch.equal(max_activations(dense), dense.amax(0))
    assert (max_activations(found) == 0).any()


def test_contexts_are_the_texts_in_which_a_feature_rises_highest(tiny):
    texts, sae = as_texts(tiny, PROMPTS, [f"kind{n}" for n in range(len(PROMPTS))]), random_sae(seed=2)
    found = feature_activations(sae, activations_of(tiny, texts, HOOK).values)
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


def test_promoted_tokens_are_those_of_the_direction(tiny):
    sae = random_sae()
    found, logits = promoted_by(tiny, sae, 4, k=3), sae.W_dec[4] @ tiny.W_U
    assert [value for _, value in found.up] == pytest.approx(logits.topk(3).values.tolist())
    assert [value for _, value in found.down] == pytest.approx(logits.sort().values[:3].tolist()) and (found.layer, found.neuron) == (0, 4)


# --------------------------------------------------------------------------------------------------- features and the truth


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
    assert found.f1_choosing[0].item() == pytest.approx(max(wanted), abs=1e-6)
    assert found.f1[0].item() == pytest.approx(max(wanted), abs=1e-6)  # the threshold is the one that gives it


def test_scores_by_hand_on_the_other_half():
    choose = torch.tensor([[0.0, 5.0], [0.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
    labels = torch.tensor([[False, True], [False, False], [True, False], [True, False]])
    test = torch.tensor([[9.0, 6.0], [2.0, 4.9], [1.0, 5.0], [0.0, 5.0]])
    test_labels = torch.tensor([[True, True], [False, True], [True, True], [False, False]])
    found = best_features(choose, labels, test, test_labels, names=("first", "second"))
    assert found.feature.tolist() == [0, 1] and found.threshold.tolist() == [2.0, 5.0] and found.f1_choosing.tolist() == [1.0, 1.0]
    # "first": yes on tokens 0 and 1, right on 0, and 2 is missed; "second": yes on 0, 2 and 3, right on 0 and 2, and 1 is missed
    assert found.precision.tolist() == pytest.approx([1 / 2, 2 / 3]) and found.recall.tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found.f1.tolist() == pytest.approx([1 / 2, 2 / 3]) and found.share(0.6) == 0.5 and found.n_tokens.tolist() == [2, 3]
    assert found.table(1).splitlines()[1].startswith("second") and len(found) == 2


def test_the_feature_is_the_same_however_many_are_looked_at_at_once(monkeypatch):
    sae, x, other = random_sae("topk", k=5), draw(60, WIDTH), draw(50, WIDTH, seed=9)
    labels, others = draw(60, 6, seed=3) > 0.8, draw(50, 6, seed=4) > 0.5
    whole = best_features(sae.encode(x), labels, sae.encode(other), others)
    monkeypatch.setattr(autoencoders, "ENCODED_NUMBERS", 60 * 7)
    for features in ((sae.encode(x), sae.encode(other)), (feature_activations(sae, x), feature_activations(sae, other))):
        found = best_features(features[0], labels, features[1], others)
        assert torch.equal(found.feature, whole.feature) and torch.equal(found.threshold, whole.threshold)
        assert torch.equal(found.f1, whole.f1)


# ----------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(tmp_path, kind):
    sae, x = random_sae(kind), draw(20, WIDTH)
    sae.about["model_name"] = "tiny"
    loaded = load_sae(save_sae(sae, tmp_path / "one"))
    assert (loaded.kind, loaded.k, loaded.hook, loaded.about) == (kind, sae.k, HOOK, {"model_name": "tiny"})
    assert all(torch.equal(weight, old.half().float()) for weight, old in zip(loaded.parameters(), sae.parameters(), strict=True))
    config, weights = json.loads((tmp_path / "one/cfg.json").read_text()), load_file(tmp_path / "one/sae_weights.safetensors")
    assert (config["architecture"], config["d_in"], config["d_sae"], config["hook_layer"]) == (kind, WIDTH, 50, 0)
    assert config["activation_fn_kwargs"] == ({"k": 7} if kind == "topk" else {}) and config["dtype"] == "float32"
    assert {weight.dtype for weight in weights.values()} == {torch.float16} and ("threshold" in weights) == (kind == "jumprelu")
    assert torch.allclose(loaded(x), sae(x), rtol=0.02, atol=0.5) or kind != "standard"


def test_weights_too_large_for_float16_stay_float32(tmp_path):
    sae = random_sae()
    sae.b_dec[0] = 1e6
    assert torch.equal(load_sae(save_sae(sae, tmp_path)).b_dec, sae.b_dec)


def test_a_saved_autoencoder_of_the_course_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoders, "FOLDER", tmp_path)
    save_sae(random_sae("topk"), tmp_path / "course-lm-topk")
    assert load_sae("course-lm-topk").k == 7
    with pytest.raises(ModelNotAvailable, match=r"There is no autoencoder 'nothing'.*course-lm-topk"):
        load_sae("nothing")


def write_saelens(folder, weights: dict[str, Tensor], **config) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")


def test_older_and_newer_files_of_saelens_are_read(tmp_path):
    sae, x = random_sae(), draw(10, WIDTH)
    weights = {name: weight.data for name, weight in sae.named_parameters()}
    write_saelens(tmp_path / "old", weights | {"scaling_factor": torch.ones(50)}, hook_point="blocks.8.hook_resid_pre", d_in=WIDTH)
    assert load_sae(tmp_path / "old").hook == resid_pre(8) and torch.equal(load_sae(tmp_path / "old")(x), sae(x))
    new = dict(architecture="topk", k=4, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=False, metadata={"hook_name": HOOK})
    write_saelens(tmp_path / "new", weights, **new)
    loaded, lengths = load_sae(tmp_path / "new"), sae.W_dec.norm(dim=1)
    before = (x @ sae.W_enc + sae.b_enc) * lengths
    values, chosen = before.topk(4)
    written = (values.relu()[..., None] * (sae.W_dec / lengths[:, None])[chosen]).sum(1) + sae.b_dec
    assert loaded.hook == HOOK and torch.allclose(loaded(x), written, rtol=1e-3, atol=1e-3)


def test_names_of_the_hub_are_looked_up_in_the_right_repository(tmp_path, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return tmp_path / file.split("/")[-1]

    monkeypatch.setattr(autoencoders, "_download", download)
    save_sae(random_sae(), tmp_path)
    load_sae("gpt2-small-res-jb/blocks.8.hook_resid_pre"), load_sae("somebody/something"), load_sae("somebody/something/in/it")
    assert asked[::2] == [
        ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre/cfg.json"),
        ("somebody/something", "cfg.json"),
        ("somebody/something", "in/it/cfg.json"),
    ]


def test_gemma_scope_is_read_without_pickle(tmp_path, monkeypatch):
    sae, x = random_sae("jumprelu"), draw(10, WIDTH)
    np.savez(tmp_path / "params.npz", **{name: weight.numpy() for name, weight in sae.named_parameters()})
    monkeypatch.setattr(autoencoders, "_download", lambda repository, file: tmp_path / "params.npz")
    loaded = load_sae("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    before = x @ sae.W_enc + sae.b_enc  # nothing is subtracted
    assert torch.allclose(loaded.encode(x), before.relu() * (before > sae.threshold), rtol=1e-3, atol=1e-3)
    assert loaded.kind == "jumprelu" and loaded.hook == resid_post(20) and loaded.about == {"model_name": "gemma-2-2b"}


def test_shipped_ones_are_trained_saved_and_measured(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autoencoders, "load_model", lambda name: tiny)
    monkeypatch.setattr(autoencoders, "SHIPPED_HOOK", HOOK)
    monkeypatch.setattr(autoencoders, "SHIPPED", {name: replace(s, d_sae=64, steps=4, batch=64) for name, s in SHIPPED.items()})
    monkeypatch.setattr(autoencoders, "corpus_activations", lambda model, hook, n: iter(draw(n, WIDTH).split(100)))
    monkeypatch.setattr(autoencoders, "held_out_texts", lambda model, n: random_texts(n))
    autoencoders.train_shipped(n_tokens=500, folder=tmp_path, n_texts=10)
    assert {load_sae(tmp_path / name).kind for name in SHIPPED} == {"topk", "standard"}
    assert load_sae(tmp_path / "course-lm-topk").about["model_name"] == "course-lm" and "loss recovered" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no autoencoder 'nothing' to train"):
        autoencoders.train_shipped(["nothing"])


# ----------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: Settings("jumprelu"), "is 'topk' or 'standard', not 'jumprelu'"),
        (lambda: Settings(k=0), "k is how many features are active"),
        (lambda: Settings(steps=0), "one step"),
        (lambda: Settings(sparsity=-1.0), "must be 0 or more"),
        (lambda: Settings(warm_up=0.7, decay=0.7), "fit together into 1"),
        (lambda: random_sae("gated"), "not 'gated'"),
        (lambda: random_sae("topk", k=51), "from 1 to 50, not 51"),
        (lambda: SparseAutoencoder(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), "jumprelu"), "needs a threshold"),
        (lambda: random_sae().encode(torch.zeros(3, 5)), "of width 32, not 5"),
        (lambda: clamp_feature(random_sae(), HOOK, 50, 1.0), "no feature 50: this autoencoder has 50"),
        (lambda: train_sae(torch.zeros(100, 4), TOY), "nothing to learn"),
        (lambda: train_sae(torch.zeros(0, 4), TOY), "not enough activations"),
        (lambda: train_sae(iter([torch.ones(100, 4)]), TOY), "not enough activations"),
        (lambda: toy_data(4, 2, 1.0, 10), "sparsity"),
        (lambda: sweep(toy_data(4, 2, 0.5, 10), [], TOY), "no penalty"),
        (lambda: best_features(draw(4, 2), draw(4, 1) > 9, draw(4, 2), draw(4, 1) < 9), "concept '0' has no token"),
        (lambda: best_features(draw(4, 2), draw(3, 1) < 9, draw(4, 2), draw(4, 1) < 9), "one row of labels"),
        (lambda: best_features(draw(4, 2), draw(4, 1) < 9, draw(4, 3), draw(4, 1) < 9), "the same features"),
        (lambda: best_features(draw(4, 2), draw(4, 1) < 9, draw(4, 2), draw(4, 1) < 9, names=("a", "b")), "1 concepts and 2 names"),
        (lambda: feature_activations(random_sae(), draw(4, WIDTH)).column(50), "no feature 50: there are 50"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda model: activations_of(model, random_texts(2), "blocks.9.hook_resid_pre"), "layers are 0 to 1"),
        (lambda model: next(corpus_activations(model, HOOK, 0)), "must be 1 or more"),
        (lambda model: quality(model, random_sae(), HOOK, random_texts(3, longest=2)), "too short to measure"),
        (
            lambda model: feature_contexts(model, random_texts(3), FEW, 0),
            "give the same texts",
        ),
        (lambda model: promoted_by(model, random_sae(), 0, k=0), "k says how many tokens"),
        (lambda model: promoted_by(model, random_sae(), -1), "no feature -1"),
    ],
)
def test_what_cannot_be_with_a_model_is_said_in_one_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(tiny)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_used_say_so(tmp_path):
    weights = {name: weight.data for name, weight in random_sae().named_parameters()}
    for config, sentence in [
        (dict(architecture="gated"), "architecture 'gated' is not known"),
        (dict(normalize_activations="layer_norm"), "normalises its activations"),
    ]:
        write_saelens(tmp_path, weights, **config)
        with pytest.raises(ValueError, match=sentence):
            load_sae(tmp_path)
    write_saelens(tmp_path, weights | {"scaling_factor": torch.full((50,), 2.0)})
    with pytest.raises(ValueError, match="scales its features after encoding"):
        load_sae(tmp_path)
    write_saelens(tmp_path, {"W_enc": weights["W_enc"]})
    with pytest.raises(ModelNotAvailable, match="is damaged"):
        load_sae(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(ModelNotAvailable, match="has no sae_weights"):
        load_sae(tmp_path)


def test_without_network_or_in_places_unknown_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("gpt2-small-res-jb/blocks.8.hook_nothing", "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_0"):
        with pytest.raises(ModelNotAvailable, match="connect, or use one of data/sae") as caught:
            load_sae(name)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(autoencoders, "_download", lambda repository, file: tmp_path)
    with pytest.raises(ValueError, match="Of Gemma Scope the residual stream"):
        load_sae("google/gemma-scope-2b-pt-att/layer_20/width_16k/average_l0_71")


@pytest.mark.parametrize(
    "error, sentence",
    [
        ("GatedRepoError", "is gated: accept its licence at https://huggingface.co/google/gemma-scope-2b-pt-res"),
        ("EntryNotFoundError", "There is no 'layer_20/width_16k/params.npz' in google/gemma-scope-2b-pt-res"),
        ("RepositoryNotFoundError", "look for the right name"),
        ("HfHubHTTPError", "could not be fetched"),
    ],
)
def test_what_the_hub_answers_becomes_one_sentence(monkeypatch, error, sentence):
    def fail(repository, file):
        kind = getattr(errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelNotAvailable, match=sentence) as caught:
        load_sae("gemma-scope-2b-pt-res/layer_20/width_16k")
    assert "\n" not in str(caught.value)


def test_one_of_each_kind_is_shipped_and_reads_all_its_activations():
    assert {settings.kind for settings in SHIPPED.values()} == {"topk", "standard"}
    assert all(settings.steps * settings.batch >= autoencoders.SHIPPED_TOKENS for settings in SHIPPED.values())  # all is read once


def test_scores_have_a_table_with_a_line_for_each_concept():
    one = torch.tensor([0.5])
    scores = ConceptScores(("a", "b"), torch.tensor([3, 4]), *(one.expand(2) for _ in range(5)), torch.tensor([7, 8]))
    assert len(scores.table().splitlines()) == 3 and scores.share(0.5) == 1 and scores.share(0.6) == 0
