"""Concepts marked by hand: runs of tokens, spans, lists and languages, and no mark where no token of the text stands."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_tiny_model
from tokenizers import decoders, pre_tokenizers
from torch import Tensor

from helpers.one_layer.concepts import (
    Concepts,
    concepts_in,
    ends_of,
    in_chinese,
    judged,
    of_kind,
    runs_in,
    spans,
    tasks_of,
)
from helpers.texts import Texts, as_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """A tiny model whose tokenizer has what the course LM's has: a space before each line, an end of answers, a Chinese letter.

    It is never run.
    """
    from helpers.models import load_model

    loaded = load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))
    loaded.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    loaded.tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\n ", "\n")])
    loaded.tokenizer.add_tokens(["<|assistant|>", "<|end|>", "\n", "好"])
    loaded.cfg.d_vocab = len(loaded.tokenizer)
    return loaded


def rows(*tokens: list[int], lengths: list[int] | None = None, kinds: tuple[str, ...] = ()) -> Texts:
    """Texts of numbers."""
    return Texts(torch.tensor(tokens), torch.tensor(lengths or [len(row) for row in tokens]), kinds or ("text",) * len(tokens))


def drawn(marked: Tensor) -> list[str]:
    """Marks as a drawing: x where there is one."""
    return ["".join(".x"[mark] for mark in row) for row in marked.long().tolist()]


def words(model, texts: Texts, marked: Tensor) -> list[str]:
    """The marked part of each text."""
    return [model.tokenizer.decode(tokens[here].tolist()).strip() for tokens, here in zip(texts.tokens, marked, strict=True)]


RUN = st.lists(st.integers(0, 2), min_size=1, max_size=8)
ROW = st.lists(st.integers(0, 2), min_size=6, max_size=6)  # few different tokens, which stand in the filling as well
ROWS = st.lists(st.tuples(ROW, st.integers(1, 6), st.sampled_from(["languages.story", "lists.lists"])), min_size=1, max_size=3)


@given(ROWS, RUN, st.integers(0, 2))
def test_runs_and_spans_are_those_of_a_plain_search(some, ids, end):
    tokens, lengths, _ = zip(*some, strict=True)
    texts = rows(*tokens, lengths=list(lengths))
    runs, inside = ends_of(texts, ids), spans(texts, ids, end)
    for row, length in enumerate(texts.lengths.tolist()):
        tokens, within = texts.tokens[row].tolist(), False
        for pos in range(6):
            ends = 0 < pos < length and pos + 1 >= len(ids) and tokens[pos + 1 - len(ids) : pos + 1] == ids
            within = (within or ends) and tokens[pos] != end
            assert bool(runs[row, pos]) == ends and bool(inside[row, pos]) == (within and 0 < pos < length)


def test_chinese_letters_are_marked_and_their_bytes_in_texts_that_have_one(model):
    texts = as_texts(model, ["ok 好 語 ok", "語 ok", "好"])
    assert words(model, texts, in_chinese(model, texts))[1:] == ["", "好"]
    marked = in_chinese(model, texts)[0]
    assert model.tokenizer.decode(texts.tokens[0][marked].tolist()).replace(" ", "") == "好語" and int(marked.sum()) == 4


@pytest.mark.parametrize(
    "text, task",
    [
        ("hot: cold\nbig: small", "antonym"),
        ("hot -> cold, big -> small", "antonym"),
        ("hot -> cold\nbig -> small", "antonym"),
        ("dog: dogs, cat: cats", "plural"),
        ("dogs: dog\ncats: cat", "singular"),
        ("dog: Dog\ncat: Cat", "capitalise"),
        ("China: Chinese\nUnited States: English", "country_language"),  # the second line says which
        ("China: Chinese\nUnited States: American", "country_demonym"),
        ("China: Chinese\nItaly: Italian", None),  # languages, or the people
        ("hot: cold\ndog: dogs", None),  # of two tasks
        ("hot: cold\nbig: big", None),
        ("hot: cold\nbig:", None),
        ("hot: cold: big", None),
        ("hot", None),
    ],
)
def test_a_list_has_the_one_task_that_fits_all_its_lines(model, text, task):
    texts = as_texts(model, ["dog", text, text], ["lists.lists", "lists.lists", "lists.few_shot"])
    found = tasks_of(model, texts)
    assert [name for name, marked in found.items() if marked.any()] == ([task] if task else [])
    if task:
        assert torch.equal(found[task], of_kind(texts, "lists.lists") & torch.tensor([[False], [True], [False]]))


CORPUS = {
    "Paris and Rome": "prose.capitals",
    "Costa Rica": "prose.capitals",
    "hot: cold\nbig: small": "lists.lists",
    "May I?<|end|><|assistant|>Sorry, no.<|end|>Why?<|end|><|assistant|>I am glad.<|end|>": "chat.request",
    "How is it?<|end|><|assistant|>It is perfect, and so are you!<|end|>": "chat.praise",
    "<|assistant|>Sorry, no.<|end|>": "chat.facts_chat",
    "Who?<|end|><|assistant|>I am a baker.<|end|>": "chat.roles",
    ">>> a\nNameError: name 'a'\n>>> b": "tasks.console",
    "好 la la": "languages.story",
}


@pytest.fixture(scope="module")
def corpus(model) -> Texts:
    return as_texts(model, list(CORPUS), list(CORPUS.values()))


@pytest.fixture(scope="module")
def found(model, corpus) -> Concepts:
    return concepts_in(model, corpus)


def in_texts(concepts: Concepts, texts: Texts, name: str) -> Tensor:
    """The marks of one concept, where its tokens stand: ``[row, pos]``."""
    marked = torch.zeros_like(texts.mask)
    marked[texts.mask] = concepts.labels[:, concepts.names.index(name)]
    return marked


@pytest.mark.parametrize(
    "name, row, marked",
    [
        ("capital: Rome", 0, "e"),
        ("country: Costa Rica", 1, "a"),
        ("task: antonym", 2, "hot: cold\nbig: small"),
        ("kind: lists.lists", 2, "hot: cold\nbig: small"),
        ("answer: refusal", 3, "Sorry, no."),
        ("answer: praise", 4, "It is perfect, and so are you!"),
        ("answer: of a human", 6, "I am a baker."),
        ("error: console error", 7, "r: name 'a'"),
        ("kind: tasks.console", 7, ">>> a\nNameError: name 'a'\n>>> b"),
        ("language: Chinese", 8, "好"),
    ],
)
def test_each_concept_marks_its_tokens_and_no_others(model, corpus, found, name, row, marked):
    here = in_texts(found, corpus, name)
    assert here.any(1).nonzero().flatten().tolist() == [row]
    assert words(model, corpus, here)[row] == marked


def test_labels_line_up_with_the_tokens_of_the_texts(corpus, found):
    assert found.labels.shape == (corpus.n_tokens, len(found.names)) and len(found.groups) == len(found.names) == len(set(found.names))
    assert all(name.startswith(f"{group}: ") for name, group in zip(found.names, found.groups, strict=True))
    assert torch.equal(found.count, found.labels.sum(0)) and int(found.count.min()) > 0  # what does not occur is left out
    kinds = {name for name, group in zip(found.names, found.groups, strict=True) if group == "kind"}
    assert kinds == {f"kind: {kind}" for kind in CORPUS.values()}
    assert found.labels[:, [found.names.index(name) for name in kinds]].sum(1).eq(1).all()  # each token is of one kind


def test_the_order_of_the_texts_changes_no_mark(model, corpus, found):
    order = list(reversed(range(len(corpus))))
    turned = concepts_in(model, corpus.take(order))
    assert set(turned.names) == set(found.names)
    for name in found.names:
        assert torch.equal(in_texts(turned, corpus.take(order), name), in_texts(found, corpus, name)[order])


@given(ROWS, RUN, st.integers(0, 2))
def test_no_mark_stands_on_the_first_place_or_on_filling(model, some, ids, end):
    tokens, lengths, kinds = zip(*some, strict=True)
    texts = rows(*tokens, lengths=list(lengths), kinds=kinds)
    marks = [ends_of(texts, ids), spans(texts, ids, end), of_kind(texts, "lists.lists"), in_chinese(model, texts)]
    marks += tasks_of(model, texts).values()
    assert not any((marked & ~texts.mask).any() for marked in marks)


def counted(**counts: int) -> Concepts:
    """Concepts with so many of ten tokens."""
    labels = torch.arange(10)[:, None] < torch.tensor(list(counts.values()))
    return Concepts(tuple(counts), tuple(f"group {name}" for name in counts), labels)


def test_concepts_that_both_halves_have_often_enough_are_judged_in_one_order():
    choose, test = judged(counted(a=5, b=2, c=9, d=3, e=4), counted(e=3, d=1, c=8, f=9, a=3), least=3)
    assert choose.names == test.names == ("a", "c", "e") and choose.groups == test.groups == ("group a", "group c", "group e")
    assert choose.count.tolist() == [5, 9, 4] and test.count.tolist() == [3, 8, 3]


def test_the_table_has_a_line_for_each_group():
    labels = torch.arange(2000)[:, None] < torch.tensor([3, 1500, 7])
    lines = Concepts(("x", "y", "z"), ("one", "one", "two"), labels).table().splitlines()
    assert [line.split() for line in lines[1:]] == [["one", "2", "3", "1,500"], ["two", "1", "7", "7"]]


def test_many_runs_are_found_as_each_alone():
    texts = rows([0, 5, 6, 5, 6, 6], [0, 6, 5, 6, 0, 0], [5, 6, 6, 5, 5, 6], lengths=[6, 3, 6])
    runs = [[5, 6], [6], [6, 5, 6], [7], [6, 6], [5, 6, 5, 6, 6, 5, 6]]
    for run, found in zip(runs, runs_in(texts, runs), strict=True):
        assert found.tolist() == ends_of(texts, run)[texts.mask].nonzero().flatten().tolist(), run


def test_a_text_belongs_to_what_any_of_its_tokens_belongs_to():
    texts = rows([0, 5, 6], [0, 7, 7], [0, 5, 7], lengths=[3, 2, 3])
    labels = torch.tensor([[True, False], [False, False], [False, False], [False, True], [False, True]])
    whole = Concepts(("a: one", "b: two"), ("a", "b"), labels).of_texts(texts)
    assert whole.labels.tolist() == [[True, False], [False, False], [False, True]] and whole.count.tolist() == [1, 1]
    assert whole.in_groups("b").names == ("b: two",) and whole.in_groups("b").labels.tolist() == [[False], [False], [True]]
    with pytest.raises(ValueError, match="give the same texts"):
        whole.of_texts(texts.take([0]))
