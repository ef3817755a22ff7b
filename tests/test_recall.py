"""Recall and sums: knockout against one pass at a time, the lens at the last layer, attributes and extraction by hand, patched sums."""

from dataclasses import replace

import pytest
import torch
from tiny_models import ARCHITECTURES, END, draw_weights, write_tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from helpers.cluster import recall
from helpers.cluster.patching import PatchMap
from helpers.cluster.recall import (
    SOURCES,
    Enrichment,
    FactPrompt,
    Knockout,
    Mediation,
    SumPair,
    attn_scores,
    attributes_of,
    course_facts,
    cut_attention,
    enrichment,
    extraction,
    fact_prompt,
    first_tokens,
    knockout,
    knockout_curves,
    known,
    layer_windows,
    log_indirect_effect,
    mediation,
    source_masks,
    subject_tokens,
    sum_pairs,
)
from helpers.course_lm.corpus.tasks import SUMS
from helpers.course_lm.world import World
from helpers.interventions import Intervention, add, attn_out, head_out, intervene, mlp_out, pattern, record, resid_post, watch, zero_ablate
from helpers.models import load_model
from helpers.prediction import pieces, tokenize
from helpers.running import lens_logits

NAMES = [name for name in ARCHITECTURES if name not in ("course-like", "gpt2-relu")]
ABOUT = dict(attributes=("Paris", "San Francisco"), others=("Bridge", "Taipei"))
FACTS = [
    fact_prompt("The Eiffel Tower is in", "Paris", "Eiffel Tower", **ABOUT),
    fact_prompt("Taipei 101 is in the city of", "Taipei", "Taipei 101", **ABOUT),
    fact_prompt("And the Golden Gate Bridge is in the Bay of", "San Francisco", "golden gate bridge", **ABOUT),
    fact_prompt("The Tower is in", "Paris", "Tower", **ABOUT),
]
WORDS = ("The", "Eiffel", "Tower", "is", "in", "Paris", "San", "Francisco", "Bridge", "it", "the")


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory):
    """A random model of each architecture."""
    return load_model(write_tiny_model(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return load_model(write_tiny_model("gpt2", tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A random GPT-2 whose tokenizer has one token for each number up to twenty, for each sign, and for a few words."""
    words = [END, *map(str, range(21)), *("+", "-", "="), *WORDS]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        draw_weights(model)
    folder = tmp_path_factory.mktemp("counter")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END).save_pretrained(folder)
    return load_model(folder)


@pytest.fixture
def all_known(monkeypatch):
    """A random model knows nothing: here it counts as knowing all."""
    monkeypatch.setattr(recall, "known", lambda model, facts: list(facts))
    monkeypatch.setattr(recall, "_right", lambda model, texts, answers: torch.ones(len(texts), dtype=torch.bool))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------------------------------- prompts


def test_a_subject_is_found_whatever_its_capitals_and_its_marks():
    assert fact_prompt("Sushi comes from", "Japan", "sushi").start == 0
    found = fact_prompt("The firm Yahoo! is from", "America", "Yahoo!", relation="home")
    assert (found.before, found.through, found.relation) == ("The firm", "The firm Yahoo!", "home")
    assert fact_prompt("Parisians love Paris for", "art", "Paris").start == len("Parisians love ")
    for text in ("Parisians are from", "Paris is not Paris but"):
        with pytest.raises(ValueError, match="must stand in"):
            fact_prompt(text, "France", "Paris")


def test_subject_tokens_at_the_start_and_in_the_middle(tiny):
    for fact, words in zip(FACTS, (" Eiffel Tower", "Taipei 101", " Golden Gate Bridge", " Tower"), strict=True):
        start, stop = subject_tokens(tiny, fact)
        tokens = tokenize(tiny, fact.text)
        assert stop - start > 1 and "".join(pieces(tiny, tokens[start:stop])).strip() == words.strip(), fact
        assert "".join(pieces(tiny, tokens[:start])).removeprefix(END) == fact.before


def test_a_subject_that_is_not_a_stretch_of_tokens_is_refused(gpt2):
    with pytest.raises(ValueError, match="do not keep 'Eif' apart"):
        subject_tokens(gpt2, FactPrompt("The Eiffel Tower is in", "Paris", "Eif", 4))
    with pytest.raises(ValueError, match="ends with its subject"):
        subject_tokens(gpt2, fact_prompt("In Paris", "we", "Paris"))
    with pytest.raises(ValueError, match="this model reads 64: write a shorter"):
        subject_tokens(gpt2, fact_prompt("Paris is" + " so very old" * 20, "x", "Paris"))
    with pytest.raises(ValueError, match="There are no facts"):
        source_masks(gpt2, [])


def test_only_known_facts_are_kept(gpt2):
    first = int(tokenize(gpt2, "in Paris")[len(tokenize(gpt2, "in"))])
    push = torch.zeros(gpt2.cfg.d_vocab).index_fill(0, torch.tensor([first]), 1000.0)
    with intervene(gpt2, add("unembed.hook_out", push)):
        assert known(gpt2, [*FACTS, replace(FACTS[0], answer="San Francisco")]) == [FACTS[0], FACTS[3]]
        with pytest.raises(ValueError, match="answers none of these prompts right"):
            known(gpt2, FACTS[1:3])


def test_facts_of_the_world():
    facts = course_facts(n=90, seed=3)
    assert facts == course_facts(n=90, seed=3) != course_facts(n=90, seed=4)
    assert len({(fact.relation, fact.subject) for fact in facts}) == 90 and len({fact.relation for fact in facts}) > 30
    at_start = [fact.before in ("", "The", "the", "A") for fact in facts]
    assert 20 < sum(at_start) < 70
    for fact in facts:
        assert fact.through.lower().endswith(fact.subject.lower()) and fact.text != fact.through
        assert fact.answer in fact.attributes and fact.subject not in fact.attributes and not {*fact.attributes} & {*fact.others}
    capitals = course_facts(["capital"], n=20)
    assert {fact.relation for fact in capitals} == {"capital"} and sum(fact.before in ("", "The") for fact in capitals) == 10


def test_what_the_world_says_about_a_subject():
    said = attributes_of(World.load(), "France")
    assert {"Paris", "French", "euro", "Europe", "Frankreich"} <= set(said) and "France" not in said
    assert {"Ulm", "Germany", "physicist"} <= set(attributes_of(World.load(), "Albert Einstein"))
    with pytest.raises(ValueError, match="say nothing about 'france'"):
        attributes_of(World.load(), "france")


@pytest.mark.parametrize(
    "names, n, sentence", [(["shoe size"], 1, "no relation 'shoe size'"), (None, 0, "from 1 to"), (["genre"], 9999, "have")]
)
def test_facts_that_are_not_there(names, n, sentence):
    with pytest.raises(ValueError, match=sentence):
        course_facts(names, n=n)


# ------------------------------------------------------------------------------------------------------------- knockout


def test_cut_attention_is_zero_and_the_rest_sums_to_one(tiny):
    tokens = torch.randint(5, 250, (3, 7), generator=torch.Generator().manual_seed(0))
    queries, keys = torch.tensor([6, 4, 6]), torch.zeros(3, 7, dtype=torch.bool)
    keys[0, [1, 2]], keys[1, [3, 4]] = True, True  # nothing in the third row
    seen = []
    with intervene(tiny, watch(pattern(1), seen.append)):
        tiny(tokens)
        with intervene(tiny, cut_attention(1, queries, keys)):
            tiny(tokens)
    usual, looks = seen
    assert (looks[0, :, 6, [1, 2]] == 0).all() and (looks[1, :, 4, [3, 4]] == 0).all()
    rest = usual.clone()
    rest[0, :, 6, [1, 2]], rest[1, :, 4, [3, 4]] = 0, 0
    assert torch.allclose(looks, rest / rest.sum(-1, keepdim=True), atol=1e-6)
    assert torch.equal(looks[2], usual[2]) and not torch.allclose(looks[0], usual[0])


def test_a_row_cannot_lose_everything():
    keys = torch.tensor([[True, False, False], [True, True, False]])
    cut_attention(0, torch.tensor([1, 2]), keys)
    with pytest.raises(ValueError, match="Row 1 would have nothing left"):
        cut_attention(0, torch.tensor([1, 1]), keys)


def test_sources_share_out_the_prompt(gpt2):
    masks = source_masks(gpt2, FACTS)
    assert tuple(masks) == SOURCES
    for row, fact in enumerate(FACTS):
        length, (start, stop) = len(tokenize(gpt2, fact.text)), subject_tokens(gpt2, fact)
        parts = {name: set(mask[row].nonzero().flatten().tolist()) for name, mask in masks.items()}
        assert parts["subject"] == set(range(start, stop)) and parts["last"] == {length - 1} and parts["first"] == {0}
        assert parts["relation"] == set(range(1, length - 1)) - parts["subject"]
        enough = len(parts["relation"]) >= stop - start
        assert parts["random"] <= parts["relation"] and len(parts["random"]) == (stop - start if enough else 0)
    assert masks["random"][2].any() and not masks["random"][0].any()  # a prompt with enough other tokens, and one without
    others = [source_masks(gpt2, FACTS, seed)["random"] for seed in range(5)]
    assert any(not torch.equal(other, masks["random"]) for other in others)


def one_by_one(model, fact, window, positions):
    """The probability of the predicted token in a pass of its own, with scores of minus infinity."""

    def cut(scores, hook):
        scores = scores.clone()
        scores[0, :, -1, positions] = -torch.inf
        return scores

    tokens = tokenize(model, fact.text)[None]
    before = model(tokens)[0, -1].softmax(-1)
    with model.hooks(fwd_hooks=[(attn_scores(layer), cut) for layer in window]):
        after = model(tokens)[0, -1].softmax(-1)
    return ((after - before) / before)[before.argmax()] * 100


def test_batched_windows_equal_one_pass_each(tiny, all_known, monkeypatch):
    windows, masks = [[], [1], [0, 1]], source_masks(tiny, FACTS)
    monkeypatch.setattr(recall, "BATCH_TOKENS", 80)  # several batches
    for source in ("subject", "relation", "last"):
        found = knockout(tiny, FACTS, windows, source)
        assert found.shape == (3, 4) and found[0].abs().max() < 1e-3
        for at in (1, 2):
            for row, fact in enumerate(FACTS):
                positions = masks[source][row].nonzero().flatten()
                assert found[at, row] == pytest.approx(one_by_one(tiny, fact, windows[at], positions).item(), abs=2e-3)
    assert found[1:].abs().min() > 1e-3  # the last source


def test_curves_hold_every_source_and_leave_out_prompts_without_it(gpt2, all_known):
    curves = knockout_curves(gpt2, FACTS, width=1, seed=0)
    masks = source_masks(gpt2, FACTS)
    assert curves.change.shape == (5, 2, 4) and torch.allclose(curves.change[0], knockout(gpt2, FACTS, [[0], [1]]), atol=1e-3)
    assert torch.equal(curves.change.isnan().all(1), torch.stack([~masks[name].any(1) for name in SOURCES]))
    for row, fact in enumerate(FACTS):
        if masks["random"][row].any():
            cut = one_by_one(gpt2, fact, [1], masks["random"][row].nonzero().flatten())
            assert curves.change[4, 1, row] == pytest.approx(cut.item(), abs=2e-3)
    assert curves.before.shape == (4,) and curves.table().count("\n") == 2


def test_attention_that_only_looks_at_the_subject(gpt2, all_known):
    """Where the last token looks at nothing but the subject, the relation can be cut and the subject cannot."""
    fact = FACTS[1]
    subject = source_masks(gpt2, [fact])["subject"][0]
    look = [Intervention(attn_scores(layer), lambda scores, pick: scores + 1e4 * subject) for layer in range(2)]
    with intervene(gpt2, *look):
        curves = knockout_curves(gpt2, [fact], width=2, sources=("subject", "relation", "last"))
    assert curves.of("relation").abs().max() < 1e-3 and curves.of("last").abs().max() < 1e-3
    assert curves.of("subject").abs().min() > 0.1


def test_means_intervals_and_dips_by_hand():
    nan = torch.nan
    change = torch.tensor(
        [[[-10.0, -20.0, -30.0], [0.0, 0.0, 3.0]], [[nan, 2.0, 4.0], [nan, -6.0, -2.0]], [[nan, nan, 1.0], [nan, nan, 1.0]]]
    )
    curves = Knockout(("subject", "relation", "random"), 1, change, torch.ones(3))
    assert torch.equal(curves.mean, torch.tensor([[-20.0, 1.0], [3.0, -4.0], [1.0, 1.0]]))
    assert (curves.dip("subject"), curves.dip("relation")) == (0, 1)
    assert torch.equal(curves.of("relation"), torch.tensor([[2.0, 4.0], [-6.0, -2.0]]))
    low, high = curves.intervals[0][0]
    assert low == pytest.approx(-20 - 1.96 * 10 / 3**0.5, abs=1e-4) and high == pytest.approx(-20 + 1.96 * 10 / 3**0.5, abs=1e-4)
    assert curves.intervals[2][0] != curves.intervals[2][0]  # a single prompt has no interval
    assert curves.table().split("\n")[1].split() == ["0", "-20.0%", "+3.0%", "+1.0%"]
    with pytest.raises(ValueError, match="'first' was not cut; there are subject"):
        curves.dip("first")
    with pytest.raises(ValueError, match="No prompt has a source"):
        replace(curves, change=torch.full_like(change, nan)).dip("subject")


def test_windows():
    assert [list(window) for window in layer_windows(4, 3)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert [list(window) for window in layer_windows(3, 2)] == [[0], [0, 1], [1, 2]]
    assert all(len(window) == 1 for window in layer_windows(5, 1))
    for width in (0, 4):
        with pytest.raises(ValueError, match="from 1 to that"):
            layer_windows(3, width)


@pytest.mark.parametrize(
    "settings, sentence",
    [(dict(source="verb"), "'verb' cannot be cut"), (dict(windows=[[0, 7]]), "no layer 7"), (dict(facts=[]), "There are no facts")],
)
def test_what_cannot_be_cut(gpt2, all_known, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        knockout(gpt2, **dict(facts=FACTS, windows=[[0]]) | settings)


# ---------------------------------------------------------------------------------------------- the lens, and enrichment


def test_the_lens_at_the_last_layer_is_the_model(tiny):
    tokens = torch.randint(5, 250, (2, 6), generator=torch.Generator().manual_seed(1))
    last = resid_post(tiny.cfg.n_layers - 1)
    logits = lens_logits(tiny, record(tiny, tokens, last)[last].flatten(0, 1))
    assert torch.allclose(logits, tiny(tokens).flatten(0, 1), atol=1e-4)


def test_first_tokens_of_words(counter, gpt2):
    ids = first_tokens(counter, ["Paris", "the San Francisco", "in it", "Tower, 20"], subject="Eiffel Tower")
    assert sorted(pieces(counter, torch.tensor(sorted(ids)))) == ["Francisco", "Paris", "San"]
    assert first_tokens(counter, ["Paris"]) < first_tokens(counter, ["Paris", "Tower"])
    assert first_tokens(gpt2, ["Zyx"]) == set()  # which begins with " Z" there


def planted(monkeypatch, model, best):
    """The lens puts some tokens first whatever it sees, and keeps what it saw."""
    seen, logits = [], torch.zeros(model.cfg.d_vocab)
    logits[best] = torch.arange(len(best), 0, -1.0)
    monkeypatch.setattr(recall, "lens_logits", lambda model, states: seen.append(states) or logits.expand(len(states), -1))
    return seen


def test_the_attributes_rate_by_hand(counter, monkeypatch):
    words = [int(tokenize(counter, word)[-1]) for word in ("Paris", "San", "Bridge")]
    fact = fact_prompt("The Eiffel Tower is in", "Paris", "Eiffel Tower", attributes=("Paris", "San Francisco"), others=("Bridge", "Paris"))
    seen = planted(monkeypatch, counter, [words[0], 3, words[2], 4, words[1]])
    found = enrichment(counter, [fact], k=4)
    assert found.own.flatten().tolist() == [0.25, 0.25] and found.other.flatten().tolist() == [0.25, 0.25]  # Paris is shared: not other
    assert found.ahead.flatten().tolist() == pytest.approx([1 / 3, 1 / 3])  # of Paris, San and Francisco only Paris is ahead of Bridge
    assert found.most.tolist() == [0.75] and len(seen) == 2
    assert "after layer" in found.table() and "25.0%" in found.table()


def test_enrichment_looks_at_the_last_token_of_the_subject(tiny, monkeypatch):
    seen = planted(monkeypatch, tiny, [1])
    monkeypatch.setattr(recall, "BATCH_TOKENS", 1)  # each prompt by itself
    enrichment(tiny, FACTS, without=[0])
    for number, fact in enumerate(sorted(FACTS, key=lambda fact: len(tokenize(tiny, fact.text)))):
        tokens, at = tokenize(tiny, fact.text)[None], subject_tokens(tiny, fact)[1] - 1

        def off(value, hook, at=at):
            return value.index_fill(1, torch.tensor([at]), 0)

        with tiny.hooks(fwd_hooks=[(mlp_out(0), off)]):
            kept = record(tiny, tokens, resid_post(0), resid_post(1))
        for layer in range(2):
            assert torch.allclose(seen[2 * number + layer][0], kept[resid_post(layer)][0, at], atol=1e-4)


def test_what_is_taken_away_can_be_a_mean_or_the_attention(gpt2, monkeypatch):
    seen = planted(monkeypatch, gpt2, [1])
    means = torch.randn(2, gpt2.cfg.d_model)
    at = subject_tokens(gpt2, FACTS[0])[1] - 1
    tokens = tokenize(gpt2, FACTS[0].text)[None]
    enrichment(gpt2, FACTS[:1], without=[1], means=means)
    usual = record(gpt2, tokens, "blocks.1.hook_resid_mid")["blocks.1.hook_resid_mid"][0, at]
    assert torch.allclose(seen[1][0], usual + means[1], atol=1e-5)
    enrichment(gpt2, FACTS[:1], without=[0], place=attn_out)
    with intervene(gpt2, zero_ablate(attn_out(0), pos=at)):
        assert torch.allclose(seen[2][0], record(gpt2, tokens, resid_post(0))[resid_post(0)][0, at], atol=1e-5)


def test_enrichment_needs_words_and_layers_that_exist(gpt2):
    with pytest.raises(ValueError, match="Nothing is given that is true of 'Tower'"):
        enrichment(gpt2, [replace(FACTS[3], attributes=("Tower", "of"))])
    with pytest.raises(ValueError, match="k says how many tokens"):
        enrichment(gpt2, FACTS, k=0)
    with pytest.raises(ValueError, match="layers are 0 to 1"):
        enrichment(gpt2, FACTS, without=[2])
    assert enrichment(gpt2, [replace(FACTS[0], others=())]).ahead.isnan().all()


def test_the_interval_of_a_rate():
    rate = torch.tensor([[0.1, 0.3], [0.2, 0.2]])
    assert Enrichment(rate, rate, rate, rate[0], 50).intervals[1] == pytest.approx((0.2, 0.2))


# -------------------------------------------------------------------------------------------------------------- extraction


def test_the_heads_together_write_what_the_attention_writes(tiny):
    tokens, ends = torch.randint(5, 250, (3, 7), generator=torch.Generator().manual_seed(2)), torch.tensor([6, 3, 5])
    for layer in range(2):
        places = [head_out(layer), attn_out(layer), f"blocks.{layer}.attn.hook_out"]
        seen = record(tiny, tokens, *places)
        written = recall._written(tiny, layer, seen, ends)
        whole = seen[attn_out(layer)][torch.arange(3), ends]
        with intervene(tiny, zero_ablate(head_out(layer))):
            bias = record(tiny, tokens, attn_out(layer))[attn_out(layer)][0, 0]
        assert torch.allclose(written.sum(1), whole - bias, atol=1e-5) and written.shape == (3, tiny.cfg.n_heads, tiny.cfg.d_model)


def test_extraction_equals_one_fact_at_a_time(tiny, monkeypatch):
    facts = [*FACTS[:2], FACTS[3]]
    answers = [int(tokenize(tiny, f"in {fact.answer}")[len(tokenize(tiny, "in"))]) for fact in facts]

    def two_way(model, states):  # only the two answers compete, so that a random model says some of them
        logits = lens_logits(model, states)
        return torch.full_like(logits, -torch.inf).index_copy(1, torch.tensor(answers[:2]), logits[:, answers[:2]])

    monkeypatch.setattr(recall, "lens_logits", two_way)
    found = extraction(tiny, facts)
    expected, looks = torch.zeros(2, 2, 3, dtype=torch.bool), torch.zeros_like(found.to_subject)
    by_head = torch.zeros_like(found.heads)
    for number, fact in enumerate(facts):
        tokens, span = tokenize(tiny, fact.text)[None], subject_tokens(tiny, fact)
        for layer in range(2):
            looked, places = [], (attn_out(layer), mlp_out(layer), head_out(layer), f"blocks.{layer}.attn.hook_out")
            with intervene(tiny, watch(pattern(layer), looked.append)):
                seen = record(tiny, tokens, *places)
            for kind, place in enumerate((attn_out, mlp_out)):
                expected[kind, layer, number] = two_way(tiny, seen[place(layer)][:, -1]).argmax() == answers[number]
            looks[layer, :, number] = looked[0][0, :, -1, slice(*span)].sum(-1)
            own = recall._written(tiny, layer, seen, torch.tensor([tokens.shape[1] - 1]))[0]
            by_head[layer, :, number] = two_way(tiny, own).argmax(-1) == answers[number]
    assert torch.equal(found.attention, expected[0]) and torch.equal(found.mlp, expected[1]) and torch.equal(found.heads, by_head)
    assert torch.allclose(found.to_subject, looks, atol=1e-5)
    assert torch.equal(found.control, ~(found.attention & found.mlp))  # of two answers, what is not the one is the other
    assert found.events["attention"] == pytest.approx(expected[0].any(0).float().mean().item())
    best = found.top(1)[0]
    assert found.head_shares[best] == found.head_shares.max() and found.head_table(2).count("\n") == 2 and found.table().count("\n") == 2


def test_wrong_answers_come_from_the_same_relation_if_they_can():
    facts = [replace(FACTS[0], relation=name) for name in ("a", "a", "b", "b", "c")]
    drawn = recall._wrong_answers(facts, torch.tensor([1, 2, 3, 3, 4]), seed=0).tolist()
    assert drawn[:2] == [2, 1] and drawn[2] in (1, 2, 4) and drawn[4] in (1, 2, 3)
    assert recall._wrong_answers(facts[:2], torch.tensor([1, 1]), seed=0).tolist() == [-1, -1]


# -------------------------------------------------------------------------------------------------------------------- sums


def read(text):
    a, sign, b, _ = text.split()
    return int(a), sign, int(b)


def test_pairs_of_sums(counter, all_known):
    pairs = sum_pairs(counter, n=200, seed=1)
    assert pairs == sum_pairs(counter, n=200, seed=1) and len(set(pairs)) == 200
    for pair in pairs:
        (a, sign, b), (c, other_sign, d) = read(pair.text), read(pair.other)
        assert sign == other_sign and ((a == c) != (b == d)) and pair.answer != pair.other_answer
        assert pair.answer == str(a + b if sign == "+" else a - b)
    for pair in sum_pairs(counter, n=200, same_result=True):
        (a, sign, b), (c, other_sign, d) = read(pair.text), read(pair.other)
        assert sign == other_sign and a != c and b != d and pair.answer == pair.other_answer
        assert pair.other_answer == str(c + d if sign == "+" else c - d)


def test_only_right_sums_of_single_tokens_are_used(counter, gpt2, monkeypatch):
    monkeypatch.setattr(recall, "_right", lambda model, texts, answers: texts.tokens[:, -4] == texts.tokens[:, -2])  # 3 + 3, 8 - 8
    assert recall._known_sums(counter) == [entry for entry in SUMS if entry[0] == entry[2]]
    with pytest.raises(ValueError, match="make 0 such pairs, so it must be"):
        sum_pairs(counter, n=1)
    with pytest.raises(ValueError, match="has no sum whose answer is one token"):
        sum_pairs(gpt2)


def test_sums_are_equally_long_and_answers_one_token(counter, all_known, monkeypatch):
    monkeypatch.setattr(recall, "tokenize", lambda model, text: tokenize(model, text.replace("20", "2 0")))  # twenty is two tokens
    kept = recall._known_sums(counter)
    assert kept == [(a, sign, b) for a, sign, b in SUMS if 20 not in (a, b, a + b if sign == "+" else a - b)] and len(kept) > 300


def test_the_indirect_effect_by_hand():
    own, other = torch.tensor([0.3 / 0.6]).log(), torch.tensor([0.5 / 0.2]).log()  # P(r) from .6 to .3, P(r') from .2 to .5
    effect = ((0.5 - 0.2) / 0.2 + (0.6 - 0.3) / 0.3) / 2
    assert log_indirect_effect(own, other).item() == pytest.approx(torch.tensor(1 + effect).log().item(), abs=1e-6)
    assert log_indirect_effect(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0, abs=1e-6)


PAIRS = [SumPair("3 + 5 =", "8", "3 + 9 =", "12"), SumPair("7 - 2 =", "5", "9 - 2 =", "7")]


def test_mediation_equals_one_patch_at_a_time(counter):
    found = mediation(counter, PAIRS)
    assert found.mlp.columns == ("first", "sign", "second", "=")[-found.mlp.after.shape[1] :] and not found.same_result
    extra = int(counter.cfg.default_prepend_bos)
    for kind, place in (("mlp", mlp_out), ("attention", attn_out)):
        for number, pair in enumerate(PAIRS):
            tokens, others = (tokenize(counter, text)[None] for text in (pair.text, pair.other))
            ids = [int(tokenize(counter, f"= {answer}")[-1]) for answer in (pair.answer, pair.other_answer)]
            for layer in range(2):
                value = record(counter, others, place(layer))[place(layer)]
                for column in range(4):
                    at = column + extra

                    def put(old, hook, value=value, at=at):
                        return torch.cat([old[:, :at], value[:, at : at + 1], old[:, at + 1 :]], 1)

                    with counter.hooks(fwd_hooks=[(place(layer), put)]):
                        after = counter(tokens)[0, -1].log_softmax(-1)
                    before = counter(tokens)[0, -1].log_softmax(-1)
                    own, other = (after - before)[ids]
                    assert found.changes(kind)[layer, column, number] == pytest.approx((other - own).item(), abs=1e-4)
                    paper = ((other.exp() - 1) + ((-own).exp() - 1)) / 2
                    assert found.log_indirect(kind)[layer, column, number] == pytest.approx(paper.log1p().item(), abs=1e-4)
    assert found.changes().abs().max() > 0.01 and torch.allclose(found.mlp.change, found.changes().mean(-1), atol=1e-5)
    assert found.table().count("\n") == 2


def test_pairs_with_the_same_result_change_one_log_probability(counter):
    found = mediation(counter, [SumPair("3 + 5 =", "8", "2 + 6 =", "8")])
    assert found.same_result and torch.equal(found.changes(), found.own["mlp"].after - found.own["mlp"].corrupted)
    assert found.changes().abs().max() > 0.01
    assert torch.allclose(found.log_indirect(), found.changes().cosh().log(), atol=1e-5)  # and so never below 0


def mapped(after):
    n = after.shape[-1]
    return PatchMap(after, torch.zeros(n), torch.zeros(n), ("first", "="), "hook_mlp_out")


def test_shares_by_hand():
    own = torch.zeros(2, 2, 2)
    other = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, 2.0], [2.0, 6.0]]])  # [layer, position, pair]
    found = Mediation({"mlp": mapped(own), "attention": mapped(own)}, {"mlp": mapped(other), "attention": mapped(own)}, False)
    assert found.shares([1]).tolist() == [0.5, 0.75] and found.share([1]) == pytest.approx(0.625)
    assert found.shares([0, 1], position=0).tolist() == [0.5, 0.25]
    assert found.shares([0], kind="attention").isnan().all()
    raw = ((other.exp() + 1) / 2).mean(-1).log()  # own changes nothing: 1 + IE = (P*(r')/P(r') + 1) / 2, averaged over the pairs
    assert found.importance([1]) == pytest.approx((raw[1, 1] / raw.sum()).item(), abs=1e-5)
    for wrong, sentence in (
        (dict(layers=[2]), "layers 0 to 1"),
        (dict(layers=[0], position=2), "positions 0 to 1"),
        (dict(layers=[]), "name some"),
    ):
        with pytest.raises(ValueError, match=sentence):
            found.share(**wrong)
    with pytest.raises(ValueError, match="mlp or attention, not 'heads'"):
        found.changes("heads")


@pytest.mark.parametrize(
    "pairs, sentence",
    [
        ([], "at least one pair"),
        ([PAIRS[0], SumPair("3 + 5 =", "8", "2 + 6 =", "8")], "not both"),
        ([PAIRS[0], SumPair("3 + 5 + 1 =", "9", "3 + 7 + 1 =", "11")], "not equally long"),
        ([SumPair("3 + 5 =", "8", "3 + 5 + 1 =", "9")], "equally many"),
        ([SumPair("3 + 5 =", "8", "3 + 6 =", "9 0")], "is several tokens"),
    ],
)
def test_pairs_that_cannot_be_patched(counter, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        mediation(counter, pairs)
