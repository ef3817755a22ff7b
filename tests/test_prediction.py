"""Tokens, next-token probabilities and sampling: checked against Hugging Face on a small random model and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from helpers.prediction import (
    adjust,
    draw,
    lost_bytes,
    next_token_probs,
    pieces,
    sample,
    token_span,
    tokenize,
    top_tokens,
    truncate,
)


def test_tokens_begin_with_the_mark_of_a_document_once(small):
    assert pieces(small, tokenize(small, "a b")) == ["<|endoftext|>", "a", " ", "b"]
    assert tokenize(small, "<|endoftext|>a").tolist() == tokenize(small, "a").tolist()
    assert tokenize(small, "").tolist() == [small.tokenizer.bos_token_id]


def test_a_long_text_keeps_its_mark_and_its_end(small):
    kept = pieces(small, truncate(small, tokenize(small, "x" * 500 + "end")))
    assert len(kept) == small.cfg.n_ctx and kept[0] == "<|endoftext|>" and kept[-3:] == list("end")
    assert torch.equal(next_token_probs(small, "x" * 500 + "end"), next_token_probs(small, "x" * 20 + "end"))


def test_probabilities_equal_those_of_hugging_face(small):
    plain = GPT2LMHeadModel.from_pretrained(small.folder).eval()
    with torch.no_grad():
        expected = plain(tokenize(small, "hello")[None]).logits[0, -1].softmax(-1)
    assert torch.allclose(next_token_probs(small, "hello"), expected, atol=1e-5)


def test_top_tokens_are_the_largest_probabilities_in_order(small):
    top = top_tokens(small, "hello", k=4)
    assert list(top.probs) == next_token_probs(small, "hello").sort(descending=True).values[:4].tolist()
    assert len(top.table().splitlines()) == 4 and top.table().startswith(" 1  ")
    with pytest.raises(ValueError, match="1 or more"):
        top_tokens(small, "hello", k=0)


def test_temperature_0_is_greedy_and_the_seed_decides_the_rest(small):
    best = int(next_token_probs(small, "hello").argmax())
    assert sample(small, "hello", tokens=1, temperature=0) == small.tokenizer.decode([best])
    assert sample(small, "hello", temperature=0, seed=1) == sample(small, "hello", temperature=0, seed=2)
    assert sample(small, "hello", top_k=1, seed=3) == sample(small, "hello", temperature=0)
    assert sample(small, "hello", seed=1) == sample(small, "hello", seed=1) != sample(small, "hello", seed=2)
    assert sample(small, "hello", tokens=0) == ""


def test_sampling_beyond_the_context_goes_on(small):
    text = sample(small, "x" * 100, tokens=40, temperature=1.5, seed=4)
    assert 0 < len(tokenize(small, text)) <= 41


def test_adjust_keeps_k_tokens_and_their_proportions():
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    probs = adjust(logits, temperature=0.5, top_k=2)
    assert probs[0] == probs[2] == 0 and probs.sum() == pytest.approx(1)
    assert (probs[1] / probs[3]).log().item() == pytest.approx((3.0 - 2.0) / 0.5, rel=1e-5)
    assert torch.allclose(adjust(logits), logits.softmax(-1))
    assert torch.allclose(adjust(logits, temperature=1e-6), adjust(logits, temperature=0))


@pytest.mark.parametrize("setting", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}], ids=str)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(setting: dict):
    with pytest.raises(ValueError, match=r"must be .*\.$"):
        adjust(torch.zeros(3), **setting)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_dart_never_hits_a_token_of_probability_zero(weights: list[int], dart: float):
    probs = torch.tensor(weights).float() / sum(weights)
    assert probs[draw(probs, dart)] > 0


def test_darts_hit_each_token_as_often_as_its_probability_says():
    probs = torch.tensor([0.2, 0.5, 0.3])
    hits = [draw(probs, (i + 0.5) / 1000) for i in range(1000)]
    assert [hits.count(token) for token in range(3)] == [200, 500, 300]


def test_a_model_without_a_mark_says_that_it_needs_text(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small.cfg, "default_prepend_bos", False)
    for ask in (next_token_probs, sample):
        with pytest.raises(ValueError, match="at least one token"):
            ask(small, "")
    assert next_token_probs(small, "x" * 100).sum() == pytest.approx(1, abs=1e-5)


def test_the_course_lm_knows_a_word_in_three_places_as_one_token(course_lm):
    start, space, line = (tokenize(course_lm, text).tolist()[-1] for text in ("capital", "a capital", "\ncapital"))
    assert start == space == line
    assert top_tokens(course_lm, "The capital of Poland is", k=1).tokens == (" Warsaw",)


def test_a_byte_that_is_no_letter_is_shown_by_its_number(small):
    assert pieces(small, tokenize(small, "a🙂é")[1:]) == ["a", "⟨F0⟩", "⟨9F⟩", "⟨99⟩", "⟨82⟩", "⟨C3⟩", "⟨A9⟩"]


@pytest.mark.parametrize(
    ("stored", "text", "shown"),
    [("æĪĳæ", "我�", "我⟨E6⟩"), ("Ġæ", " �", " ⟨E6⟩"), ("<0x0A>", "�", "⟨0A⟩"), ("▁我�", "▁我�", "▁我�"), ("\\xÃ", "\\x�", "\\x⟨C3⟩")],
)
def test_letters_stay_letters_beside_bytes(stored: str, text: str, shown: str):
    assert lost_bytes(stored, text) == shown


@given(st.data())
def test_the_span_of_a_stretch_is_that_of_the_tokenizers_own_offsets(gpt2, data: st.DataObject):
    words = data.draw(st.lists(st.sampled_from(["The", "Golden", "Gate", "Paris", "Paris,", "é🙂", "in", "Tower"]), min_size=1, max_size=6))
    text = data.draw(st.sampled_from([" ", "  "])).join(words)
    start, end = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    offsets = gpt2.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    begin, stop = len(text[:start].rstrip(" ")), len(text[:end].rstrip(" "))
    inside = [at for at, (first, last) in enumerate(offsets, 1) if begin <= first and last <= stop]  # position 0 is the BOS token
    cut = [at for at, (first, last) in enumerate(offsets, 1) if first < begin < last or first < stop < last]
    if cut or not inside:
        with pytest.raises(ValueError, match="not separate"):
            token_span(gpt2, text, start, end)
    else:
        assert list(token_span(gpt2, text, start, end)) == inside
    with pytest.raises(ValueError, match=r"this model reads 64: shorten it\.$"):
        token_span(gpt2, "The Tower " * 64, 0, 3)
