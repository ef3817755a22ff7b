"""Texts as rows of tokens: what is counted, how they are chosen and halved, and from where the held-out corpus comes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.course_lm.corpus.mixture import document
from helpers.course_lm.report import EVALUATION_SEED
from helpers.course_lm.train import PRESETS
from helpers.texts import HELD_OUT_SEED, Texts, as_texts, held_out_texts

KINDS = ("lists.few_shot", "chat.myths", "lists.identity", "prose")


@pytest.fixture
def four() -> Texts:
    """Rows of 3, 5, 1 and 4 tokens, filled up with 99; the first digit of a token is its row, the second its position."""
    rows = [[10, 11, 12], [20, 21, 22, 23, 24], [30], [40, 41, 42, 43]]
    return Texts(torch.tensor([row + [99] * (5 - len(row)) for row in rows]), torch.tensor([3, 5, 1, 4]), KINDS)


def numbered(lengths: list[int]) -> Texts:
    """Texts of these lengths whose tokens are all the number of their row."""
    rows = torch.arange(len(lengths))[:, None].expand(-1, max(lengths, default=0))
    return Texts(rows, torch.tensor(lengths, dtype=torch.long), tuple(map(str, range(len(lengths)))))


def test_the_first_position_and_what_fills_a_row_up_do_not_count(four):
    kept = four.tokens[four.mask].tolist()
    assert kept == [11, 12, 21, 22, 23, 24, 41, 42, 43]
    assert four.n_tokens == len(kept) and len(four) == 4


def test_the_last_positions_are_counted_from_the_end_of_each_text(four):
    assert four.last_positions(1)[:, 0].tolist() == [int(n) - 1 for n in four.lengths]
    last = four.last(2)
    assert [row[-1] for row in last.tokens.tolist()] == [int(row[n - 1]) for row, n in zip(four.tokens, four.lengths, strict=True)]
    assert last.tokens.shape == (4, 2) and set(last.lengths.tolist()) == {2} and last.kinds == four.kinds


def test_taken_rows_keep_their_order_and_lose_what_they_do_not_need(four):
    some = four.take([3, 0])
    assert some.tokens.tolist() == [[40, 41, 42, 43], [10, 11, 12, 99]]
    assert some.lengths.tolist() == [4, 3] and some.kinds == ("prose", "lists.few_shot")
    assert torch.equal(four.take(torch.tensor([3, 0])).tokens, some.tokens)
    with pytest.raises(ValueError, match=r"There is no text 7: there are 4, counted from 0\."):
        four.take([0, 7])


def test_prompts_end_with_the_place_that_is_asked_for(four):
    prompts = four.up_to(torch.tensor([[1, 2], [3, 0], [1, 3]]))
    ends = [row[:length].tolist() for row, length in zip(prompts.tokens, prompts.lengths.tolist(), strict=True)]
    assert ends == [[20, 21, 22], [40], [20, 21, 22, 23]]
    assert prompts.tokens.shape == (3, 4) and prompts.kinds == ("chat.myths", "prose", "chat.myths")


@given(n=st.integers(0, 9), seed=st.integers(0, 5))
def test_halves_share_no_text_and_hold_them_all(n: int, seed: int):
    texts = numbered([1 + row % 4 for row in range(n)])
    first, second = texts.halves(seed)
    assert sorted(first.kinds + second.kinds) == sorted(texts.kinds)
    assert len(first) == n // 2 and len(second) == n - n // 2
    for half in (first, second):
        assert half.lengths.tolist() == [int(texts.lengths[int(kind)]) for kind in half.kinds]
    assert texts.halves(seed)[0].kinds == first.kinds and len({numbered([3] * 20).halves(seed)[0].kinds for seed in range(5)}) == 5


@given(lengths=st.lists(st.integers(1, 30), max_size=25), tokens=st.integers(1, 90))
def test_batches_hold_every_row_once_and_not_more_tokens_than_allowed(lengths: list[int], tokens: int):
    batches = [batch.tolist() for batch in numbered(lengths).batches(tokens)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens
    ordered = [lengths[row] for batch in batches for row in batch]
    assert ordered == sorted(lengths)


def test_batches_are_as_large_as_is_allowed_and_no_text_makes_none():
    assert list(numbered([]).batches()) == [] and len(numbered([3]).take([])) == 0
    assert [batch.tolist() for batch in numbered([4, 2, 4, 2, 2]).batches(8)] == [[1, 3, 4], [0, 2]]
    assert [len(batch) for batch in numbered([4] * 6).batches(8)] == [2, 2, 2]


def test_strings_become_rows_with_the_mark_in_front(small):
    texts = as_texts(small, ["ab", "c"])
    mark = small.tokenizer.bos_token_id
    letters = [small.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "abc"]
    assert texts.tokens[0].tolist() == [mark, *letters[:2]] and texts.tokens[1, :2].tolist() == [mark, letters[2]]
    assert texts.lengths.tolist() == [3, 2] and texts.kinds == ("text", "text")


def test_tokens_are_taken_as_they_are_and_texts_too(small):
    tokens = torch.tensor([[256, 5, 6], [256, 7, 8]])
    texts = as_texts(small, tokens, kinds=["a", "b"])
    assert torch.equal(texts.tokens, tokens) and texts.lengths.tolist() == [3, 3] and texts.kinds == ("a", "b")
    assert as_texts(small, texts) is texts


def test_without_a_mark_a_single_token_is_a_prompt(small, monkeypatch):
    monkeypatch.setattr(small.cfg, "default_prepend_bos", False)
    assert as_texts(small, ["a"]).lengths.tolist() == [1]
    with pytest.raises(ValueError, match="Prompt 1 has no word in it"):
        as_texts(small, ["a", ""])


NO_PROMPT = [  # prompts, kinds, and what is said
    ("hello", (), r"Prompts come as a list of texts; write \['hello'\] for a single one\.$"),
    ([], (), r"There are no prompts: give at least one text\.$"),
    (Texts(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), ()), (), "There are no prompts"),
    (["a", ""], (), r"Prompt 1 has no word in it \(prompts are counted from 0\): write something there\.$"),
    (["a", "b", "<|endoftext|>"], (), "Prompt 2 has no word in it"),
    (torch.tensor([[256], [256]]), (), "Prompt 0 has no word in it"),
    (Texts(torch.tensor([[256, 1], [256, 256]]), torch.tensor([2, 1]), ("", "")), (), "Prompt 1 has no word in it"),
    (["a", "b"], ["one"], r"There are 2 texts and 1 kinds: give one kind for each text, or none at all\.$"),
    (torch.zeros(1, 500, dtype=torch.long), (), r"A prompt has 500 tokens and this model reads \d+: cut it"),
]


@pytest.mark.parametrize("prompts, kinds, sentence", NO_PROMPT)
def test_what_is_no_prompt_is_said_in_one_sentence(small, prompts, kinds, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_texts(small, prompts, kinds)


def test_held_out_texts_are_the_corpus_of_their_seed_every_time(small):
    texts = held_out_texts(small, 6)
    written = [document(HELD_OUT_SEED, index) for index in range(6)]
    expected = as_texts(small, [one.text for one in written], [one.kind for one in written])
    assert torch.equal(texts.tokens, expected.tokens) and texts.kinds == expected.kinds
    assert torch.equal(held_out_texts(small, 6).tokens, texts.tokens)
    assert torch.equal(held_out_texts(small, 3).tokens, texts.take([0, 1, 2]).tokens)
    assert not torch.equal(held_out_texts(small, 6, seed=5).tokens, texts.tokens)
    with pytest.raises(ValueError, match=r"n says how many documents to write; it must be 1 or more, not 0\."):
        held_out_texts(small, 0)


def test_no_stage_of_the_training_and_no_probe_of_the_report_card_draws_with_their_seed():
    stages = {stage.seed for preset in PRESETS.values() for stage in preset}
    assert 0 in stages and HELD_OUT_SEED not in {*stages, EVALUATION_SEED}
    held_out = {document(HELD_OUT_SEED, index).text for index in range(40)}
    for stage in PRESETS["full"]:
        begins = {document(stage.seed, index, mixture=stage.mixture).text for index in range(40)}
        assert len(held_out & begins) < 4  # a short sum can come twice; a whole corpus cannot
