"""The lens: its last row is the model, parts add up to the stream; ranks, layers, shares by hand; the tuned lens has texts of its own."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import NAMES

from helpers import running
from helpers.course_lm.corpus.languages import ENGLISH, FRENCH, in_lists
from helpers.course_lm.report import EVALUATION_SEED
from helpers.course_lm.world import World
from helpers.interventions import record, resid_post, resid_pre
from helpers.models import ModelNotAvailable
from helpers.prediction import pieces, tokenize
from helpers.running import layer_hook, lens_logits
from helpers.speak import languages, lens, train_lens, tuned_lens
from helpers.speak.languages import (
    LEAST_TOGETHER,
    LanguageProbs,
    at_peak,
    language_probs,
    language_shares,
    log_probs_without,
    translations,
    worth_sharing,
)
from helpers.speak.lens import (
    ByLayer,
    LensScores,
    answer_tokens,
    block_effects,
    input_and_next,
    lens_kl,
    logit_lens,
    stream_parts,
    target_probs,
)
from helpers.speak.tuned_lens import (
    TRAINING_SEED,
    TunedLens,
    load_tuned_lens,
    sample_states,
    save_tuned_lens,
    train_tuned_lens,
    training_texts,
)
from helpers.stats import bootstrap_interval
from helpers.texts import HELD_OUT_SEED, Texts, as_texts

PROMPTS = ["The Eiffel Tower is in Paris.", "Taipei 101 is", "The Golden Gate Bridge"]
FLOWER = dict(en="flower", fr="xleur", de="Blume", zh="花")
CAT = dict(en="cat", fr="zchat", de="Katze", zh="貓")


@pytest.fixture(scope="module", params=[(name, raw) for name in NAMES for raw in (True, False)], ids=lambda p: f"{p[0]}{'-raw' * p[1]}")
def tiny(request, load):
    """A random model of each architecture, as stored and folded."""
    name, raw = request.param
    return load(name, raw=raw)


@pytest.fixture
def planted(monkeypatch, gpt2):
    """Puts logits of one's own into the lens: the states that the model seems to have are the logits."""

    def plant(logits):
        for module in (lens, languages):
            monkeypatch.setattr(module, "activations_at", lambda model, texts, places, positions=1: logits[:, :, None])
        monkeypatch.setattr(running, "lens_logits", lambda model, states: states)

    return plant


def log_odds(n_vocab, **probs):
    """Logits in which the tokens named ``t5`` and so on have these probabilities, and all others share the rest."""
    rest = (1 - sum(probs.values())) / (n_vocab - len(probs))
    logits = torch.full((n_vocab,), math.log(rest))
    for name, prob in probs.items():
        logits[int(name[1:])] = math.log(prob)
    return logits


# ------------------------------------------------------------------------------------------------------------- the stream


def test_the_parts_add_up_to_the_stream(tiny):
    found, last = stream_parts(tiny, PROMPTS), tiny.cfg.n_layers - 1
    assert found.parts.shape == (2 * last + 3, len(PROMPTS), tiny.cfg.d_model)
    assert torch.allclose(found.parts.sum(0), found.stream, atol=1e-4)
    seen = record(tiny, tokenize(tiny, PROMPTS[1])[None], resid_pre(0), resid_post(0), resid_post(last))
    for part, place in {0: resid_pre(0), 2: resid_post(0), -1: resid_post(last)}.items():  # every second row is a layer
        assert torch.allclose(found.parts[: part + 1 or None, 1].sum(0), seen[place][0, -1], atol=1e-4), place
    assert torch.allclose(found.stream[1], seen[resid_post(last)][0, -1], atol=1e-5)
    lines = found.table().splitlines()[1:]
    assert [line[:11].strip() for line in lines] == ["embedding", "attention 0", "MLP 0", "attention 1", "MLP 1"]
    assert f"{found.parts[0].norm(dim=-1).mean():.2f}" in lines[0]


def test_blocks_add_up_to_the_logit_difference(tiny):
    right, wrong = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    if hasattr(tiny.blocks[0], "ln1_post"):
        with pytest.raises(ValueError, match="no head has an output of its own"):
            block_effects(tiny, PROMPTS, right, wrong)
        return
    found = block_effects(tiny, PROMPTS, right, wrong)
    for row, prompt in enumerate(PROMPTS):
        logits = tiny(tokenize(tiny, prompt)[None])[0, -1]
        assert found.effect[:, row].sum().item() == pytest.approx((logits[right[row]] - logits[wrong[row]]).item(), abs=1e-3)
    assert found.names[:3] == ("constant", "embedding", "attention 0")


def test_a_block_is_its_heads_together(gpt2):
    from helpers.cluster.attribution import direct_effects

    right, wrong = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    whole, single = block_effects(gpt2, PROMPTS, right, wrong), direct_effects(gpt2, PROMPTS, right, wrong)
    heads = sum(single.of(name) for name in ("a1.0", "a1.1", "a1.2", "a1.3", "bias 1"))
    assert torch.allclose(whole.effect[whole.names.index("attention 1")], heads, atol=1e-6)
    assert torch.allclose(whole.effect[whole.names.index("MLP 1")], single.of("m1"))


# --------------------------------------------------------------------------------------------------------------- the lens


def test_the_last_layer_of_the_lens_is_the_model(tiny):
    tokens = tokenize(tiny, PROMPTS[0])[None]
    with torch.no_grad():
        logits, last = tiny(tokens), record(tiny, tokens, resid_post(tiny.cfg.n_layers - 1))[resid_post(tiny.cfg.n_layers - 1)]
        assert torch.allclose(lens_logits(tiny, last), logits, atol=1e-4)
        assert torch.allclose(lens_logits(tiny, last[0, -1]), logits[0, -1], atol=1e-4)  # any shape in front
        uncapped = tiny.unembed(tiny.ln_final(last))
        assert torch.allclose(uncapped, logits, atol=1e-4) == (not (tiny.cfg.output_logits_soft_cap or 0) > 0)
    best = logits[0].softmax(-1).topk(3)
    found = logit_lens(tiny, PROMPTS[0], k=3)
    assert found.layers == (-1, 0, 1) and found.top.shape == (3, tokens.shape[1], 3)
    assert torch.equal(found.top[-1], best.indices) and torch.allclose(found.probs[-1], best.values, atol=1e-5)
    scores = target_probs(tiny, PROMPTS[:1], logits[0, -1:].argmax(-1))
    assert scores.rank[-1].tolist() == [0] and scores.prob[-1].item() == pytest.approx(best.values[-1, 0].item(), abs=1e-5)


def test_the_lens_in_the_middle_is_norm_and_unembedding(gpt2):
    found = logit_lens(gpt2, PROMPTS[1], layers=[0, -1], k=2)
    assert found.layers == (0, -1)
    seen = record(gpt2, found.tokens[None], resid_pre(0), resid_post(0))
    for layer, place in ((0, resid_post(0)), (-1, resid_pre(0))):
        with torch.no_grad():
            best = gpt2.unembed(gpt2.ln_final(seen[place]))[0, -1].softmax(-1).topk(2)
        words = pieces(gpt2, best.indices)
        assert [word for word, _ in found.cell(layer)] == words
        assert [prob for _, prob in found.cell(layer)] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_other_number_types_are_read_too(gpt2, load):
    half = load("gpt2", dtype="bfloat16")
    states = torch.randn(3, half.cfg.d_model)
    with torch.no_grad():
        assert torch.allclose(lens_logits(half, states).float(), lens_logits(gpt2, states), atol=0.15)
    assert lens_logits(gpt2, states[:0]).shape == (0, gpt2.cfg.d_vocab)


def test_the_table_shows_the_best_token_of_each_cell(gpt2):
    found = logit_lens(gpt2, PROMPTS[0])
    head, *rows = found.table(last=2).splitlines()
    assert head.split()[0] == "layer" and [row.split()[0] for row in rows] == ["in", "0", "1"]
    (word, prob), *_ = found.cell(1)
    assert rows[-1].endswith(f"{prob:.0%}") and word.strip()[:12] in rows[-1]
    assert len(logit_lens(gpt2, "a").table(last=9).splitlines()) == 4


# ------------------------------------------------------------------------------------------------- answers, layer by layer


def test_probabilities_and_ranks_by_hand(gpt2, planted):
    n = gpt2.cfg.d_vocab
    planted(
        torch.stack(
            [
                torch.stack([log_odds(n, t5=0.4, t6=0.3, t7=0.2), log_odds(n, t5=0.4, t6=0.3, t7=0.2)]),
                torch.stack([log_odds(n, t5=0.1, t6=0.25, t7=0.5), log_odds(n, t9=0.9)]),
            ]
        )
    )
    found = target_probs(gpt2, PROMPTS[:2], [[6, 7, 6], [9]], layers=[0, 1])
    rest = 0.1 / (n - 3)
    assert torch.allclose(found.prob, torch.tensor([[0.5, rest], [0.75, 0.9]]), atol=1e-5)
    assert torch.allclose(found.log_prob.exp(), found.prob) and found.rank.tolist() == [[1, 3], [0, 0]]
    one = target_probs(gpt2, PROMPTS[:2], torch.tensor([6, 7]), layers=[0, 1])
    assert one.rank.tolist() == [[1, 2], [1, 1]]
    assert torch.allclose(one.prob[0], torch.tensor([0.3, 0.2]), atol=1e-5)


def test_the_answer_appears_and_leads():
    rank = torch.tensor([[0, 3, 1, 0], [1, 0, 2, 0], [0, 0, 1, 0], [0, 0, 5, 1]])
    found = LensScores((-1, 0, 1, 2), torch.zeros(4, 4), rank)
    assert found.appears.tolist()[:2] == [-1, 0] and found.appears[2].isnan() and found.appears[3] == -1
    assert found.leads.tolist()[:2] == [1, 0] and found.leads[2:].isnan().all()  # on top, but not to the end, is no lead
    few = LensScores((3, 7), torch.zeros(2, 1), torch.tensor([[4], [0]]))
    assert few.appears.tolist() == few.leads.tolist() == [7]
    assert few.table().splitlines()[2].split() == ["7", "100%", "100.0%", "0"] and "leads at layer 7" in few.table()


def test_a_word_begins_with_or_without_its_space(gpt2):
    ids = {text: gpt2.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Paris", " Paris", "花", " 花")}
    assert set(answer_tokens(gpt2, " Paris ")) == {ids["Paris"][0], ids[" Paris"][0]} and ids["Paris"][0] != ids[" Paris"][0]
    assert gpt2.tokenizer.decode(ids[" 花"][0]) == " "  # a space by itself begins every word
    assert answer_tokens(gpt2, "花") == (ids["花"][0],) and ids["花"][0] == ids[" 花"][1]


# --------------------------------------------------------------------------------------------------------- the tuned lens


def random_texts(model, n, seed):
    return torch.randint(1, model.cfg.d_vocab, (n, 12), generator=torch.Generator().manual_seed(seed))


def read_with(lens, model, layer, states):
    """The logits of a tuned lens."""
    return lens_logits(model, lens.mapped(model, [layer], states[None]))[0]


def test_the_tuned_lens_begins_as_the_logit_lens(tiny):
    found = lens_kl(tiny, PROMPTS, TunedLens.identity(tiny.cfg.n_layers, tiny.cfg.d_model))
    assert torch.allclose(found.values["raw"], found.values["tuned"], atol=1e-4) and found.values["raw"][0].min() > 0.01


def test_each_layer_has_its_own_map(gpt2):
    n, states = gpt2.cfg.d_model, torch.randn(5, gpt2.cfg.d_model)
    made = TunedLens(torch.randn(3, n, n), torch.randn(3, n))
    for layer in (-1, 0, 1):
        expected = torch.stack([made.weights[layer + 1] @ state for state in states]) + made.biases[layer + 1]
        assert torch.allclose(made.mapped(gpt2, [layer], states[None])[0], expected, atol=1e-3)
    seen = record(gpt2, tokenize(gpt2, "a b")[None], resid_post(0))[resid_post(0)][0, -1:]
    best = read_with(made, gpt2, 0, seen).argmax(-1)
    assert logit_lens(gpt2, "a b", layers=[0], k=1, tuned=made).top[0, -1].item() == best.item()
    assert target_probs(gpt2, ["a b"], best, [0], made).rank.tolist() == [[0]] != target_probs(gpt2, ["a b"], best, [0]).rank.tolist()


def test_training_brings_the_lens_nearer_to_the_model(gpt2):
    before = {name: weight.clone() for name, weight in gpt2.named_parameters()}
    with torch.no_grad():  # as in a notebook
        trained = train_tuned_lens(gpt2, random_texts(gpt2, 60, seed=1), steps=60, batch=64, learning_rate=1e-2)
    found = lens_kl(gpt2, random_texts(gpt2, 20, seed=2), trained)
    raw, tuned = found.mean("raw"), found.mean("tuned")
    assert (tuned[:-1] < 0.7 * raw[:-1]).all() and raw[-1].abs() < 1e-5 and tuned[-1].abs() < 1e-5
    assert torch.equal(trained.weights[-1], torch.eye(gpt2.cfg.d_model)) and not trained.biases[-1].any()
    assert all(torch.equal(before[name], weight) and weight.grad is None for name, weight in gpt2.named_parameters())
    assert not trained.weights.requires_grad


def test_training_follows_the_gradient_of_the_divergence(gpt2):
    states = sample_states(gpt2, random_texts(gpt2, 8, seed=1), each=3)
    weights, biases = torch.eye(32).repeat(2, 1, 1).requires_grad_(), torch.zeros(2, 32, requires_grad=True)
    _, found = tuned_lens._gradients(gpt2, states, weights, biases)

    def divergence(shift):
        with torch.no_grad():
            model, own = lens_logits(gpt2, states[-1]).softmax(-1), lens_logits(gpt2, states[1] + shift).log_softmax(-1)
            return (model * (model.log() - own)).sum(-1).mean().double()

    for unit in (0, 9):
        step = torch.zeros(32)
        step[unit] = 1e-2
        assert found[1, unit].item() == pytest.approx(((divergence(step) - divergence(-step)) / 2e-2).item(), abs=2e-3)


def test_states_come_from_all_layers_and_never_from_position_0(gpt2):
    texts = Texts(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2]), ("text",) * 2)
    found = sample_states(gpt2, texts, each=2)
    seen = record(gpt2, texts.tokens, resid_pre(0), resid_post(1))
    allowed = [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert found.shape == (3, 3, gpt2.cfg.d_model)  # two of the first text, one of the second
    for row, place in ((0, resid_pre(0)), (2, resid_post(1))):
        near = torch.cdist(found[row], torch.stack([seen[place][at] for at in allowed])).min(1)
        assert near.values.max() < 1e-3 and len(set(near.indices.tolist())) == 3 and 3 in near.indices
    first, second = (sample_states(gpt2, random_texts(gpt2, 9, 0), each=2, seed=seed) for seed in (1, 2))
    assert first.shape == second.shape and not torch.equal(first, second)


def test_the_lens_is_trained_on_other_texts_than_it_is_judged_on(gpt2, monkeypatch):
    assert len({TRAINING_SEED, HELD_OUT_SEED, EVALUATION_SEED}) == 3
    both = as_texts(gpt2, ["same", "other", "same"])
    texts = {TRAINING_SEED: both, HELD_OUT_SEED: both.take([0])}
    monkeypatch.setattr(tuned_lens, "held_out_texts", lambda model, n=9, seed=HELD_OUT_SEED: texts[seed])
    found = training_texts(gpt2, 3)  # what stands among the evaluation texts by chance is left out
    assert len(found) == 1 and torch.equal(found.tokens[0], both.take([1]).tokens[0])


def test_a_lens_survives_its_file(tmp_path):
    made = TunedLens(torch.randn(3, 4, 4), torch.randn(3, 4))
    read = load_tuned_lens(save_tuned_lens(made, tmp_path, steps=7))
    assert torch.allclose(read.weights, made.weights, rtol=1e-3) and torch.allclose(read.biases, made.biases, rtol=1e-3)
    assert load_file(tmp_path / "tuned_lens.safetensors")["weights"].dtype == torch.float16
    assert '"steps": 7' in (tmp_path / "cfg.json").read_text()


def test_a_lens_that_cannot_be_had_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned_lens, "FOLDER", tmp_path)
    with pytest.raises(ModelNotAvailable, match="There is no tuned lens 'course-lm'"):
        load_tuned_lens()
    save_tuned_lens(TunedLens.identity(2, 4), tmp_path / "course-lm")
    assert load_tuned_lens().biases.shape == (3, 4)
    save_file({"other": torch.ones(1)}, tmp_path / "course-lm" / "tuned_lens.safetensors")
    with pytest.raises(ModelNotAvailable, match="is damaged"):
        load_tuned_lens()


def test_the_command_trains_saves_and_judges(gpt2, monkeypatch, tmp_path, capsys):
    for module in (tuned_lens, train_lens):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(train_lens, "STEPS", 2)
    monkeypatch.setattr(train_lens, "load_model", lambda name, device: gpt2)
    for name in ("held_out_texts", "training_texts"):
        monkeypatch.setattr(train_lens, name, lambda model, n: as_texts(model, PROMPTS))
    train_lens.main()
    assert "tuned" in capsys.readouterr().out and load_tuned_lens("course-lm").biases.shape == (3, 32)


# ------------------------------------------------------------------------------------------------ all positions of texts


def by_hand(model, text, layer):
    """The model's and one layer's logits at all positions of a text but the first."""
    tokens, place = tokenize(model, text), layer_hook(layer)
    with torch.no_grad():
        return tokens[1:], model(tokens[None])[0, 1:], lens_logits(model, record(model, tokens[None], place)[place])[0, 1:]


def test_the_divergence_of_each_layer_by_hand(gpt2):
    found = lens_kl(gpt2, PROMPTS)  # texts of different lengths: the filling counts nothing
    for row, text in enumerate(PROMPTS):
        for at, layer in enumerate(found.layers):
            _, model, own = by_hand(gpt2, text, layer)
            kl = torch.nn.functional.kl_div(own.log_softmax(-1), model.log_softmax(-1), log_target=True, reduction="none").sum(-1)
            assert found.values["raw"][at, row].item() == pytest.approx(kl.mean().item(), abs=1e-4)


def test_the_blind_baseline_says_the_same_everywhere(gpt2):
    usual = torch.rand(gpt2.cfg.d_vocab, generator=torch.Generator().manual_seed(0)) + 0.1
    found = lens_kl(gpt2, PROMPTS, usual=usual / usual.sum())
    assert set(found.values) == {"raw", "blind"} and (found.values["blind"] == found.values["blind"][0]).all()
    for row, text in enumerate(PROMPTS):
        logp = by_hand(gpt2, text, 0)[1].log_softmax(-1)
        kl = (logp.exp() * (logp - (usual / usual.sum()).log())).sum(-1).mean()
        assert found.values["blind"][0, row].item() == pytest.approx(kl.item(), abs=1e-4)


def test_current_and_next_token_by_hand(gpt2):
    found = input_and_next(gpt2, PROMPTS)
    for row, text in enumerate(PROMPTS):
        for at, layer in enumerate(found.layers):
            tokens, model, own = by_hand(gpt2, text, layer)
            assert found.values["current"][at, row].item() == pytest.approx((own.argmax(-1) == tokens).float().mean().item())
            assert found.values["next"][at, row].item() == pytest.approx((own.argmax(-1) == model.argmax(-1)).float().mean().item())
    assert found.values["next"][-1].tolist() == [1, 1, 1] and found.values["current"][0].max() > 0.5  # the embedding is read back


def test_texts_are_the_sample():
    values = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    found = ByLayer((-1, 0), {"share": values})
    low, high = bootstrap_interval(values[0])
    assert found.mean("share").tolist() == [0.5, 1.0]
    assert found.table().splitlines()[1] == f"   in   0.500 [{low:.3f}, {high:.3f}]"


# -------------------------------------------------------------------------------------------------------------- languages


@pytest.mark.parametrize(("source", "target"), [("fr", "zh"), ("zh", "fr")])
def test_translations_ask_what_the_corpus_never_says(source, target):
    found, german = translations(source, target), {row["singular"]: row["de"] for row in World.load().rows("nouns")}
    assert len(found) > 60 and len({one.words["en"] for one in found}) == len(found)
    for one in found:
        *shown, asked = one.prompt.splitlines()
        assert len(shown) == 4 and one.words[source] in asked and one.words[target] not in one.prompt and asked.endswith(":")
        assert set(one.words) == {"en", "fr", "de", "zh"} and one.words["de"] == german[one.words["en"]]
        assert "English" not in one.prompt and "Deutsch" not in one.prompt
        assert source != "fr" or in_lists(FRENCH, ENGLISH, one.words["fr"])


def first(model, words):
    """The one first token of each word with a space in front: the tests' tokenizer has bytes only."""
    return {code: answer_tokens(model, word) for code, word in words.items()}


def test_the_probability_of_each_language_by_hand(gpt2, planted):
    n, ids = gpt2.cfg.d_vocab, first(gpt2, FLOWER)
    right = dict(en=0.2, fr=0.1, de=0.05, zh=0.4)
    given = {f"t{ids[code][0]}": prob for code, prob in right.items()}
    planted(torch.stack([torch.stack([log_odds(n, **given)] * 2)] * 3))
    found = language_probs(gpt2, PROMPTS[:2], [FLOWER, CAT])
    assert found.words == (FLOWER, CAT) and found.layers == (-1, 0, 1) and list(found.probs) == list(right)
    for code, prob in right.items():
        extra = (len(ids[code]) - 1) * (1 - sum(given.values())) / (n - len(given))  # the other way to begin the word
        assert found.probs[code][1, 0].item() == pytest.approx(prob + extra, abs=1e-5)
    head, *rows = found.table().splitlines()
    assert len(rows) == 3 and head.split() == ["layer", "en", "fr", "de", "zh"]


def test_words_that_begin_alike_are_left_out(gpt2):
    alike = FLOWER | dict(fr="fleur")  # two that begin with f
    found = language_probs(gpt2, PROMPTS, [alike, FLOWER, CAT])
    assert found.words == (FLOWER, CAT) and found.probs["en"].shape == (3, 2)
    for words in found.words:
        sets = [set(ids) for ids in first(gpt2, words).values()]
        assert len(set.union(*sets)) == sum(map(len, sets))
    scores = target_probs(gpt2, PROMPTS[1:], [first(gpt2, words)["zh"] for words in found.words])
    assert torch.allclose(found.probs["zh"], scores.prob, atol=1e-6)


def test_an_earlier_token_can_be_read(gpt2):
    zh = list(answer_tokens(gpt2, FLOWER["zh"]))
    for before in (0, 2):
        found = language_probs(gpt2, PROMPTS[:2], [FLOWER, FLOWER], before=before)
        for row, prompt in enumerate(PROMPTS[:2]):
            probs = by_hand(gpt2, prompt, 0)[2].softmax(-1)[-1 - before]
            assert found.probs["zh"][found.layers.index(0), row].item() == pytest.approx(probs[zh].sum().item(), abs=1e-6)


def followed(english, german, rest):
    """Probabilities of three languages at three layers, in all of which every word of the test is followed."""
    probs = {"en": torch.tensor(english), "de": torch.tensor(german), "zh": torch.tensor(rest)}
    return LanguageProbs((-1, 0, 1), (FLOWER,) * probs["en"].shape[1], probs)


def test_shares_are_those_of_what_the_languages_have_together():
    found = followed([[1e-9] * 2, [0.2, 0.1]], [[1e-9] * 2, [0.2, 0.3]], [[0.0] * 2, [0.4, 0.6]])
    assert language_shares(found)["en"][1].tolist() == pytest.approx([0.25, 0.1]) and LEAST_TOGETHER > 1e-9
    assert sum(language_shares(found).values()).flatten().tolist() == pytest.approx([1.0] * 4)
    assert worth_sharing(found).tolist() == [False, True]


def test_a_peak_is_chosen_on_the_other_half_of_the_words():
    english = [[1e-9] * 4, [0.9, 0.1, 0.9, 0.1], [0.1, 0.8, 0.1, 0.8]]  # high at layer 0 in words 0 and 2, at layer 1 in the others
    found = at_peak(followed(english, [[0.0] * 4, [0.1] * 4, [0.1] * 4], [[0.0] * 4, [0.0, 0.8, 0.0, 0.8], [0.8, 0.1, 0.8, 0.1]]))
    assert found.layer.tolist() == [1, 0, 1, 0]  # so no word is judged where it is best itself
    assert found.own.tolist() == pytest.approx([0.1] * 4) and found.other.tolist() == pytest.approx([0.1] * 4)
    with pytest.raises(ValueError, match="nothing to share"):
        at_peak(followed([[1e-9] * 2] * 3, [[1e-9] * 2] * 3, [[1e-9] * 2] * 3))


def test_a_word_that_is_projected_out_cannot_be_read(gpt2):
    prompts, last = PROMPTS[1:], gpt2.cfg.n_layers - 1
    ids = [list(answer_tokens(gpt2, word)) for word in ("cat", "Taipei")]
    with torch.no_grad():
        usual = torch.stack(
            [gpt2(tokenize(gpt2, prompt)[None])[0, -1].log_softmax(-1)[own].logsumexp(0) for prompt, own in zip(prompts, ids, strict=True)]
        )
    assert torch.allclose(log_probs_without(gpt2, prompts, ["cat", "Taipei"], ["dog", "dog"], layers=[]), usual, atol=1e-4)
    assert not torch.allclose(log_probs_without(gpt2, prompts, ["cat", "Taipei"], ["dog", "dog"], layers=[0]), usual, atol=1e-4)
    state, directions = record(gpt2, tokenize(gpt2, prompts[0])[None], resid_post(last))[resid_post(last)][0, -1], gpt2.W_U[:, ids[1]]
    rest = (state - directions @ torch.linalg.lstsq(directions, state[:, None]).solution[:, 0]).detach()
    wanted = lens_logits(gpt2, rest).log_softmax(-1)[ids[0]].logsumexp(0)
    found = log_probs_without(gpt2, prompts[:1], ["cat"], ["Taipei"], layers=[last])
    assert found.item() == pytest.approx(wanted.item(), abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------- errors


def one_token() -> Texts:
    return Texts(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), ("text",) * 2)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda m: logit_lens(m, "a", k=0), "k says how many tokens"),
        (lambda m: logit_lens(m, ""), "has no word in it|no prompts"),
        (lambda m: logit_lens(m, "a", layers=[0]).cell(1), "There is no layer 1; choose one of: 0"),
        (lambda m: target_probs(m, PROMPTS, [[1]]), "3 prompts and 1 sets"),
        (lambda m: target_probs(m, PROMPTS, [[1], [], [2]]), "Prompt 1 has no target"),
        (lambda m: answer_tokens(m, " "), "empty word"),
        (lambda m: TunedLens.identity(4, 8).mapped(m, [0], torch.zeros(1, 1, 32)), "of 4 layers of width 8, and this one has 2 layers of"),
        (lambda m: TunedLens.identity(2, 32).mapped(m, [2], torch.zeros(1, 1, 32)), "no layer 2"),
        (lambda m: sample_states(m, PROMPTS, each=0), "each says how many positions"),
        (lambda m: sample_states(m, torch.tensor([[1]])), "no position but the first"),
        (lambda m: train_tuned_lens(m, PROMPTS, steps=0), "steps and batch must be 1 or more, not 0 and 64"),
        (lambda m: ByLayer((0,), {"share": torch.zeros(1, 2)}).mean("kl"), "There is no measure 'kl'; choose one of: share"),
        (lambda m: lens_kl(m, one_token()), "Text 1 has a single token"),
        (lambda m: input_and_next(m, one_token()), "Text 1 has a single token"),
        (lambda m: translations("fr", "de"), "not fr to de"),
        (lambda m: language_probs(m, PROMPTS[:2], [FLOWER]), "2 prompts and 1 sets of words"),
        (lambda m: language_probs(m, PROMPTS[:2], [FLOWER, dict(en="cat", zh="貓")]), "needs the same languages"),
        (lambda m: language_probs(m, PROMPTS[:1], [FLOWER | dict(fr="fleur")]), "Every word begins with the same token"),
        (lambda m: at_peak(language_probs(m, PROMPTS[:1], [FLOWER])), "follow two words or more"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(gpt2, monkeypatch, wrong, sentence):
    monkeypatch.setattr(gpt2.cfg, "default_prepend_bos", False)
    with pytest.raises(ValueError, match=sentence):
        wrong(gpt2)
