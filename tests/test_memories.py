"""Memories of feed-forward layers: the sum, words that values promote, and what follows a trigger, against counting by hand."""

import pytest
import torch
from layer_tools import as_before, random_texts
from tiny_models import write_tiny_model

from helpers.activations import NeuronStats, TopContexts, output_logits, top_contexts
from helpers.course_lm.world import World
from helpers.interventions import mlp_out, mlp_post, record
from helpers.models import load_model
from helpers.prediction import pieces
from helpers.speak import memories
from helpers.speak.memories import (
    Agreement,
    MemorySum,
    ReadableValues,
    agreement,
    memory,
    memory_sum,
    of_another,
    readable_values,
    shuffled,
    tokens_after_peaks,
    value_vectors,
)
from helpers.speak.word_categories import Categories, category_words, word_categories
from helpers.stats import wilson
from helpers.texts import Texts, as_texts

__all__ = ["as_before"]  # a fixture

LAYERS, WIDTH, VOCAB = 2, 128, 300
TEXT = "The Eiffel Tower is in Paris."
PLANTED = list(range(40, 60))  # the tokens of a category that no other has
ALIKE = (1, 7)  # the neuron whose value promotes these tokens


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory):
    """The same with an unembedding made by hand: one direction stands for the planted tokens alone, and one value points along it."""
    model = load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("planted")))
    direction = torch.tensor([1.0, -1.0] * 16) / 32**0.5  # of length 1, and spread over all coordinates
    with torch.no_grad():
        model.W_U[:] -= direction[:, None] * (direction @ model.W_U)
        model.W_U[:, PLANTED] = torch.linspace(0.3, 0.31, len(PLANTED)) * direction[:, None]  # a little apart: ties would fall anyhow
        model.blocks[ALIKE[0]].mlp.W_out[ALIKE[1]] = 3 * direction
    return model


def hand_made(texts: Texts, values: list, rows: list, positions: list) -> TopContexts:
    """Top contexts written by hand for layer 0: a list for each neuron."""
    kept = torch.tensor([values], dtype=torch.float32)
    stats = NeuronStats((0,), kept.mean(-1), kept.gt(0).float().mean(-1), kept[..., 0], texts.n_tokens)
    return TopContexts(texts, stats, kept, torch.tensor([rows]), torch.tensor([positions]))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt2-relu", "neox-parallel", "llama"])
def test_the_memories_and_the_bias_add_up_to_what_the_layer_writes(architecture, load):
    model, n = load(architecture), as_texts(load(architecture), [TEXT]).tokens.shape[1]
    found = memory_sum(model, TEXT, layer=1, pos=3, k=2)
    with torch.no_grad():
        seen = record(model, as_texts(model, [TEXT]).tokens, mlp_post(1), mlp_out(1))
    assert torch.allclose(found.output, seen[mlp_out(1)][0, 3], atol=1e-6) and found.output.norm() > 0.1
    assert torch.allclose(found.coefficients, seen[mlp_post(1)][0, 3][found.neurons], atol=1e-6)
    assert torch.equal(found.values, value_vectors(model, 1)[found.neurons])
    total = sum(m * v for m, v in zip(found.coefficients, found.values, strict=True)) + found.bias
    assert torch.allclose(total, found.output, atol=1e-4) and found.error < 1e-4
    assert bool(found.bias.any()) == (architecture != "llama")  # which has none
    assert torch.equal(memory_sum(model, TEXT, 1, pos=3 - n).output, found.output)  # positions count from both ends


def test_the_longest_parts_come_first(tiny):
    found = memory_sum(tiny, TEXT, 1)
    by_hand = found.parts.norm(dim=-1)
    assert torch.allclose(found.lengths, by_hand, atol=1e-6)
    assert (found.lengths.diff() <= 0).all() and found.lengths[0] > 0
    assert sorted(found.neurons.tolist()) == list(range(WIDTH))
    assert found.active == int((by_hand > 0).sum()) < WIDTH


def test_the_words_of_a_part_are_turned_round_where_the_coefficient_is_negative(gpt2):
    """The activation function of GPT-2, GELU, goes below 0."""
    found = memory_sum(gpt2, TEXT, 1, shown=WIDTH, k=3)
    assert (found.coefficients < 0).any() and (found.coefficients > 0).any()
    for m, neuron, words in list(zip(found.coefficients.tolist(), found.neurons.tolist(), found.words, strict=True))[::8]:
        logits = output_logits(gpt2, 1, neuron) * (-1 if m < 0 else 1)
        assert words == tuple(pieces(gpt2, logits.topk(3).indices))


def test_a_sum_by_hand_and_its_table():
    values = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    parts = dict(neurons=torch.tensor([8, 0, 5]), coefficients=torch.tensor([2.0, -1.0, 0.0]), values=values)
    found = MemorySum(3, **parts, bias=torch.tensor([0.5, 0.0]), output=torch.tensor([5.5, 8.25]), words=((" a", "b"), ("c", "\n")))
    assert found.parts.tolist() == [[6, 8], [-1, 0], [0, 0]] and found.lengths.tolist() == [10, 1, 0]
    assert found.error == 0.25 and found.active == 2
    assert found.alike(1) == pytest.approx((6 * 5 + 8 * 8) / (10 * 89**0.5), abs=1e-6) and found.alike(3) == pytest.approx(1)
    assert found.table().splitlines() == [
        "neuron          m_i    |v_i|   length   promotes",
        "L3 N8          2.00     5.00    10.00   ·a b",
        "L3 N0         -1.00     1.00     1.00   c ⏎",
        "2 of 3 memories are active; the sum of the longest 2 has cosine 1.00 with that of all.",
    ]


def ids(model, *words: str) -> list[int]:
    """Tokens that are whole words."""
    found = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert all(len(one) == 1 for one in found)
    return sorted(one[0] for one in found)


def tokens_in(categories: Categories, category: str) -> list[int]:
    return categories.members[categories.names.index(category)].nonzero().flatten().tolist()


def test_tokens_that_begin_a_word_are_in_its_category(tiny):
    found = word_categories(tiny, {"city": ["Taipei", "San Francisco"], "small": ["in"], "article": ["The"]})
    assert tokens_in(found, "city") == ids(tiny, " Taipei", " San", "San")  # "Taipei" without a space is cut: "T" is too short
    assert tokens_in(found, "small") == ids(tiny, " in")
    assert tokens_in(found, "article") == ids(tiny, "The", " The")


WORDS = {
    "Taiwan": [" Tai"],
    "Gate": [],
    "Brown": [],
    "olden": ["olde"],
    "is it": [" is", "is"],
    "the": ["The", " The"],
    "The Tower": [" Tow"],
}


@pytest.mark.parametrize("word, counts", WORDS.items())
def test_a_word_counts_in_all_spellings_and_one_that_is_cut_with_a_long_first_token(tiny, word, counts):
    found = word_categories(tiny, {"word": [word], "other": ["in"]})
    assert (tokens_in(found, "word") if "word" in found.names else []) == ids(tiny, *counts)


def test_small_categories_come_first_and_those_without_tokens_not_at_all(tiny):
    found = word_categories(tiny, {"large": ["The", "San", "is"], "none": ["Gg"], "small": ["in"]})
    assert found.names == ("small", "large") and found.members.sum(1).tolist() == [1, 6]


def test_without_words_the_shape_of_a_token_counts_as_well(tiny):
    found = word_categories(tiny)
    assert {*ids(tiny, "01", "101", " 101", "7")} <= {*tokens_in(found, "number")}
    assert {*ids(tiny, ",", ".", "(")} <= {*tokens_in(found, "punctuation")}
    assert not {*ids(tiny, "a", "7", "an")} & {*tokens_in(found, "punctuation")}
    assert ids(tiny, " Taipei")[0] in tokens_in(found, "city")
    assert "Chinese" not in found.names  # no token of this tokenizer is a whole character
    assert found.members.sum(1).min() > 0 and found.members.sum(1).diff().min() >= 0


def test_the_words_of_the_world_are_where_they_belong():
    words = category_words()
    for category, some in {
        "country": ["Poland", "United States"],
        "city": ["Warsaw", "Los Angeles"],
        "family name": ["Einstein", "Lennon"],
        "animal": ["dog", "dogs"],
        "food": ["pizza", "apple", "apples"],
        "day, month, season": ["Monday", "winter"],
        "verb, past": ["ate", "eaten"],
        "French": ["fleur", "manger", "est"],
        "German": ["Blume", "ist"],
    }.items():
        assert {*some} <= {*words[category]}, category
    assert "Madonna" not in words["family name"] and all(words.values())
    english = {word for category in ("noun, singular", "adjective", "verb, base") for word in words[category]}
    assert not english & {*words["French"], *words["German"]}
    assert "table" in World.load().column("nouns", "fr") and "table" not in words["French"]  # it is no foreign word in English


def by_hand(*members: list[int]) -> Categories:
    """Categories ``a``, ``b``, ... with these tokens."""
    marked = torch.zeros(len(members), VOCAB, dtype=torch.bool)
    for row, tokens in enumerate(members):
        marked[row, tokens] = True
    return Categories(tuple("abcd"[: len(members)]), marked)


OVERLAPPING = by_hand(list(range(90)), list(range(60, 200)))


def test_a_list_of_tokens_has_the_category_that_most_of_them_share():
    found = by_hand([1, 2, 3, 4], [3, 4, 5, 6, 7, 8])
    lists = torch.tensor([[[1, 2, 3, 20], [5, 6, 7, 8]], [[3, 4, 5, 30], [3, 4, 1, 5]], [[1, 2, 30, 31], [40, 41, 42, 43]]])
    assert found.judge(lists, least=3).tolist() == [[0, 1], [1, 0], [-1, -1]]  # of two that share three the first is smaller
    assert found.judge(lists, least=2)[2].tolist() == [0, -1]


def test_a_value_that_promotes_a_category_is_readable(planted):
    found = readable_values(planted, by_hand(PLANTED), layers=[1], least=10)
    assert found.category(*ALIKE) == "a"
    assert found.hits.shape == (1, WIDTH) and int(found.hits.sum()) == 1
    assert not found.control.any()  # its coordinates were dealt out to others


def test_values_are_judged_by_their_top_tokens(tiny):
    """And so is a memory by itself."""
    found, top = readable_values(tiny, OVERLAPPING, k=6, least=4), top_contexts(tiny, random_texts(20), k=3)
    for layer, neuron in [(0, 0), (0, 77), (1, 5), (1, 127)]:
        best = output_logits(tiny, layer, neuron).topk(6).indices
        counts = [int(member[best].sum()) for member in OVERLAPPING.members]
        assert found.category(layer, neuron) == ("ab"[counts.index(max(counts))] if max(counts) >= 4 else None)
        assert memory(tiny, layer, neuron, top, OVERLAPPING, k=6, least=4).category == found.category(layer, neuron)
    assert 0 < int(found.hits.sum()) < 2 * WIDTH


def test_small_blocks_give_the_same(tiny, monkeypatch):
    top = top_contexts(tiny, random_texts(20), k=3)
    whole, agreed = readable_values(tiny, OVERLAPPING), agreement(tiny, top)
    monkeypatch.setattr(memories, "LOGITS", 50 * VOCAB)
    in_parts, again = readable_values(tiny, OVERLAPPING), agreement(tiny, top)
    assert torch.equal(whole.found, in_parts.found) and torch.equal(whole.shuffled, in_parts.shuffled)
    assert torch.equal(agreed.best, again.best) and torch.equal(agreed.ranks, again.ranks)


def test_shuffling_deals_each_coordinate_anew_and_by_itself():
    values = torch.arange(60.0).reshape(20, 3)
    mixed = shuffled(values, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sort(0).values, values) and not torch.equal(mixed, values)
    together = mixed // 3  # from which vector each number came
    assert not torch.equal(together[:, 0], together[:, 1]) and not torch.equal(together[:, 1], together[:, 2])


def test_the_control_is_judged_like_the_values_and_follows_the_seed(tiny, monkeypatch):
    first, other = (readable_values(tiny, OVERLAPPING, least=4, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.shuffled, other.shuffled) and torch.equal(first.found, other.found)
    monkeypatch.setattr(memories, "shuffled", lambda values, rng: values)
    unmixed = readable_values(tiny, OVERLAPPING, least=4)
    assert torch.equal(unmixed.shuffled, unmixed.found)


def test_shares_have_their_intervals_and_the_table_says_all():
    found = ReadableValues(
        (4, 6), ("a", "b"), torch.tensor([[0, 1, 1, -1], [-1, -1, -1, -1]]), torch.tensor([[-1, -1, -1, 0], [-1] * 4]), 10, 5
    )
    assert found.commonest(4) == [("b", 2), ("a", 1)] and found.commonest(4, 1) == [("b", 2)] and found.commonest(6) == []
    assert found.category(4, 1) == "b" and found.category(6, 0) is None
    assert found.table().splitlines() == [
        "layer  readable                shuffled                commonest",
        "    4   75.0% [30.1%,  95.4%]   25.0% [ 4.6%,  69.9%]  b 2, a 1",
        "    6    0.0% [ 0.0%,  49.0%]    0.0% [ 0.0%,  49.0%]",
        "  all   37.5% [13.7%,  69.4%]   12.5% [ 2.2%,  47.1%]",
    ]


def test_the_token_behind_the_highest_peak_that_does_not_end_its_text():
    texts = Texts(torch.tensor([[0, 11, 12, 13], [0, 21, 22, 0], [0, 31, 0, 0]]), torch.tensor([4, 3, 2]), ("a", "b", "c"))
    values = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    rows = [[0, 1, 2], [1, 2, 0], [1, 0, 2], [0, 0, 0]]
    places = [[2, 1, 1], [2, 1, 1], [2, 1, 1], [0, 0, 0]]
    # before the end; two at the end of theirs, then one that is not; at the end and in no other; silent
    assert tokens_after_peaks(hand_made(texts, values, rows, places)).tolist() == [[13, 12, -1, -1]]


def agreed(best: list[list[int]], follows: list[list[int]], ranks: list[list[int]], other: list[list[int]]) -> Agreement:
    return Agreement(tuple(range(len(best))), *map(torch.tensor, (best, follows, ranks, other)))


def test_agreement_is_counted_over_neurons_with_a_trigger():
    found = agreed([[5, 5, 6, 7], [1, 2, 3, 4]], [[5, 6, 6, -1], [-1] * 4], [[1, 9, 1, 0], [0] * 4], [[40, 7, 1, 0], [0] * 4])
    assert found.hits.tolist() == [[True, False, True, False], [False] * 4]
    assert found.control.tolist() == [[False, False, True, False], [False] * 4]
    (low, high), (other_low, other_high) = wilson(2, 3), wilson(1, 3)
    share, other = f"66.7% [{low:5.1%}, {high:6.1%}]", f"33.3% [{other_low:5.1%}, {other_high:6.1%}]"
    assert found.table().splitlines() == [
        "layer  agreement               with another's           median rank  another's  neurons",
        f"    0   {share}   {other}             1          7        3",
        "    1    0.0% [ 0.0%, 100.0%]    0.0% [ 0.0%, 100.0%]             -          -        0",
        f"  all   {share}   {other}             1          7        3",
    ]


def test_agreement_finds_the_rank_of_the_next_token_and_of_that_of_another_neuron(tiny):
    top = top_contexts(tiny, random_texts(40), k=4)
    found, rng = agreement(tiny, top, seed=3), torch.Generator().manual_seed(3)
    assert found.layers == (0, 1) and found.best.shape == (LAYERS, WIDTH)
    assert torch.equal(found.follows, tokens_after_peaks(top)) and found.has_next.sum() > WIDTH
    others = torch.stack([of_another(follows, rng) for follows in found.follows])
    for layer, neuron in [(0, 3), (0, 90), (1, 0), (1, 64), (1, 127)]:
        order = output_logits(tiny, layer, neuron).argsort(descending=True).tolist()
        assert int(found.best[layer, neuron]) == order[0]
        for ranks, tokens in ((found.ranks, found.follows), (found.shuffled_ranks, others)):
            token = int(tokens[layer, neuron])
            assert int(ranks[layer, neuron]) == (order.index(token) + 1 if token >= 0 else 0)
    assert torch.equal(found.hits, found.ranks == 1)


def test_the_control_gives_each_neuron_the_next_token_of_another_one():
    follows = torch.tensor([10, 11, -1, 13, 14, -1, 16])
    found = [of_another(follows, torch.Generator().manual_seed(seed)) for seed in range(20)]
    for one in found:
        assert sorted(one.tolist()) == sorted(follows.tolist()) and one[[2, 5]].tolist() == [-1, -1]
        assert not (one == follows)[follows >= 0].any()
    assert len({tuple(one.tolist()) for one in found}) > 5
    assert of_another(torch.tensor([-1, -1]), torch.Generator()).tolist() == [-1, -1]


def test_a_memory_is_its_triggers_beside_what_it_promotes(planted):
    top = top_contexts(planted, random_texts(30), k=6)
    found = memory(planted, *ALIKE, top, by_hand(PLANTED), n=3, k=4, least=4)
    rows, places = top.where(*ALIKE)
    assert [trigger.row for trigger in found.triggers] == rows[:3]
    assert [trigger.peak + int(planted.cfg.default_prepend_bos) for trigger in found.triggers] == places[:3]
    assert found.category == "a"
    assert {piece for piece, _ in found.promoted.up} <= {planted.tokenizer.decode([token]) for token in PLANTED}
    lines = found.table().splitlines()
    assert lines[0] == "L1 N7, key: triggers" and lines[4] == "value: promoted, suppressed (readable: a)"
    assert len(lines) == 1 + 3 + 1 + 4 and "[" in lines[1]


def test_a_memory_in_no_category_and_one_without_triggers_say_so(tiny):
    texts = random_texts(3)
    silent = hand_made(texts, [[0.0]] * WIDTH, [[0]] * WIDTH, [[0]] * WIDTH)
    found = memory(tiny, 0, 5, silent, by_hand([1]))
    assert found.triggers == () and found.category is None
    assert "  never active in these texts" in found.table() and "(in no category)" in found.table()


READABLE = ReadableValues((4, 6), ("a", "b"), *torch.zeros(2, 2, 4, dtype=torch.long), 10, 5)


def other_model(n: int = 4) -> TopContexts:
    return hand_made(random_texts(3), [[1.0]] * n, [[0]] * n, [[1]] * n)


def one(model) -> tuple[TopContexts, Categories]:
    return hand_made(random_texts(3), [[1.0]] * WIDTH, [[0]] * WIDTH, [[1]] * WIDTH), by_hand([1])


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: memory_sum(m, TEXT, 2), r"There is no layer 2: this model's layers are 0 to 1\.$"),
        (lambda m: memory_sum(load_model(write_tiny_model("gemma2", m.folder / "gemma2")), TEXT, 1), "misses its output by .*: this model"),
        (lambda m: memory_sum(m, "in", 0, pos=9), r"There is no position 9 in this text: it has \d tokens, counted from 0\.$"),
        (lambda m: memory_sum(m, TEXT, 0, pos=-99), "There is no position -99"),
        (lambda m: memory_sum(m, "", 0), "has no word in it|no prompts"),
        (lambda m: memory_sum(m, TEXT, 0, shown=0), r"of how many parts the tokens are read off; it must be from 1 to 128, not 0\.$"),
        (lambda m: memory_sum(m, TEXT, 0, k=0), r"k says how many tokens to list; it must be from 1 to 300, not 0\.$"),
        (
            lambda m: word_categories(m, {"none": ["Gg"], "nothing": [], "blank": [" "]}),
            "None of the categories has a token of this",
        ),
        (lambda m: readable_values(m, by_hand([1]), k=301), "from 1 to 300, not 301"),
        (lambda m: readable_values(m, by_hand([1]), least=0), r"of the 10 top tokens .*; it must be from 1 to 10, not 0\.$"),
        (lambda m: readable_values(m, by_hand([1]), least=11), "must be from 1 to 10, not 11"),
        (lambda m: readable_values(m, by_hand([1]), layers=[5]), "There is no layer 5"),
        (lambda m: READABLE.category(5, 0), r"L5 N0 was not judged: look at layers 4, 6, neurons 0 to 3\.$"),
        (lambda m: READABLE.category(4, 4), "L4 N4 was not judged"),
        (lambda m: agreement(m, other_model()), r"are of layers of 4 neurons, not of this model: scan the texts with it\.$"),
        (lambda m: memory(m, 0, 1, other_model(), by_hand([1])), "not of this model: scan the texts with it"),
        (lambda m: memory(m, 0, 500, *one(m)), "There is no neuron 500 in layer 0"),
        (lambda m: memory(m, 1, 0, *one(m)), r"There is no scanned layer 1; choose one of: 0\.$"),
        (lambda m: memory(m, 0, 0, *one(m), k=4), "of the 4 top tokens must share a category; it must be from 1 to 4, not 5"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(tiny)
