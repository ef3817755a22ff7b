"""Neurons looked at: one pass over a corpus finds what plain runs, text by text, and counting by hand find."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_tools import PROMPTS, WIDTH, as_before, plain, random_texts
from torch import Tensor

from helpers.activations import (
    Context,
    NeuronStats,
    Promoted,
    TopContexts,
    activations,
    check_neuron,
    contexts,
    name,
    output_logits,
    promoted,
    scan,
    top_contexts,
)
from helpers.interventions import add, intervene, mlp_post
from helpers.one_neuron.neurons import (
    Selectivity,
    auc_within,
    class_selectivities,
    controls_at,
    grade_correlations,
    next_token,
    number_of_jobs,
    random_class,
    random_neurons,
    this_token,
)
from helpers.prediction import pieces
from helpers.stats import auc
from helpers.texts import Texts, as_texts

__all__ = ["as_before"]  # a fixture


def test_a_scan_finds_what_each_text_by_itself_gives(tiny):
    texts = random_texts(9)
    expected, rows = plain(tiny, texts), []
    for batch in scan(tiny, texts, [1, 0, 1], batch_tokens=24):
        assert list(batch.activations) == [0, 1] and batch.mask.shape == batch.activations[0].shape[:2]
        assert torch.equal(batch.mask, texts.mask[batch.rows, : batch.mask.shape[1]])
        for layer, values in batch.activations.items():
            wanted = expected[layer][:, batch.rows, : values.shape[1]].permute(1, 2, 0)
            assert torch.allclose(values[batch.mask], wanted[batch.mask], atol=1e-5)
        rows += batch.rows.tolist()
    assert sorted(rows) == list(range(9))


def test_a_scan_runs_no_layer_behind_the_last_one_asked_for(tiny):
    ran = []
    with tiny.hooks(fwd_hooks=[(mlp_post(1), lambda value, hook: ran.append(1))]):
        assert [set(batch.activations) for batch in scan(tiny, random_texts(3), [0])] == [{0}] and not ran
        assert [set(batch.activations) for batch in scan(tiny, random_texts(3))] == [{0, 1}] and ran


def test_named_neurons_have_their_activation_on_every_token(tiny):
    texts, chosen = random_texts(9), [(1, 5), (0, 127), (1, 0), (1, 5)]
    found = activations(tiny, texts, chosen)
    expected = plain(tiny, texts)
    assert torch.allclose(found, torch.stack([expected[one] for one in chosen]), atol=1e-5)
    assert (found[:, ~texts.mask] == 0).all() and (found > 0).any()


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: check_neuron(m, 2, 0), r"There is no layer 2: this model's layers are 0 to 1\.$"),
        (lambda m: check_neuron(m, 1, 128), r"There is no neuron 128 in layer 1: it has 128, numbered 0 to 127\.$"),
        (lambda m: check_neuron(m, 0, -1), "There is no neuron -1 in layer 0"),
        (lambda m: next(scan(m, random_texts(2), [0, -1])), "There is no layer -1"),
        (lambda m: next(scan(m, random_texts(2), [])), "There is no layer to look at: give at least one"),
        (lambda m: next(scan(m, random_texts(2), [7])), "There is no layer 7"),
        (lambda m: activations(m, random_texts(2), [(0, 3), (0, 500)]), "There is no neuron 500 in layer 0"),
        (lambda m: output_logits(m, 0, 500), "There is no neuron 500 in layer 0"),
        (lambda m: contexts(m, random_texts(2), {(5, 0): [1]}), "There is no layer 5"),
        (lambda m: top_contexts(m, random_texts(2), k=0), "how many contexts to keep of each neuron; it must be 1 or more, not 0"),
        (lambda m: top_contexts(m, random_texts(2), layers=[3]), "There is no layer 3"),
        (lambda m: promoted(m, 0, 0, k=0), r"k says how many tokens to list; it must be from 1 to 300, not 0\.$"),
        (lambda m: promoted(m, 0, 0, k=301), "from 1 to 300, not 301"),
    ],
)
def test_what_the_model_does_not_have_is_said_in_one_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(tiny)


@pytest.fixture(scope="module")
def corpus() -> Texts:
    """Texts of so many tokens that a scan needs several batches."""
    return random_texts(420, longest=24, seed=3)


@pytest.fixture(scope="module")
def every(tiny, corpus) -> Tensor:
    """All activations of the corpus."""
    with torch.no_grad():
        return plain(tiny, corpus)


@pytest.fixture(scope="module")
def top(tiny, corpus) -> TopContexts:
    """The five top contexts of all neurons."""
    assert len(list(corpus.batches())) > 1
    return top_contexts(tiny, corpus, k=5)


def test_statistics_equal_those_of_all_activations_at_once(top, corpus, every):
    values = every[:, :, corpus.mask]
    stats = top.stats
    assert stats.layers == (0, 1) and stats.n_tokens == corpus.n_tokens == values.shape[2]
    assert torch.allclose(stats.mean, values.mean(2), atol=1e-5)
    assert torch.allclose(stats.active, (values > 0).float().mean(2), atol=1e-3)
    assert torch.allclose(stats.peak, values.amax(2), atol=1e-5)


def test_top_contexts_are_the_highest_texts_with_their_peaks(top, every):
    highest, places = every.max(-1)  # one place a text: [layer, neuron, row]
    values, rows = highest.topk(6, dim=2)
    clear = (values[..., :-1] - values[..., 1:]).amin(2) > 1e-4  # a draw may come in any order, also with the one left out
    values, rows = values[..., :5], rows[..., :5]
    assert torch.allclose(top.values, values, atol=1e-5)
    assert clear.sum() > 150
    assert torch.equal(top.rows[clear], rows[clear])
    assert torch.equal(top.positions[clear], places.gather(2, rows)[clear])


def test_only_some_layers_can_be_scanned(tiny, corpus, top):
    some = corpus.take(range(40))
    upper = top_contexts(tiny, some, k=3, layers=[1])
    assert upper.stats.layers == (1,) and upper.values.shape == (1, WIDTH, 3) and upper.stats.row(1) == 0
    assert torch.allclose(upper.values[0], top_contexts(tiny, some, k=3).values[1], atol=1e-5)
    with pytest.raises(ValueError, match=r"There is no scanned layer 0; choose one of: 1\."):
        upper.where(0, 3)


def hand_made(values: Tensor, rows: Tensor, positions: Tensor, texts: Texts) -> TopContexts:
    """Top contexts written by hand for one layer, number 3."""
    stats = NeuronStats((3,), values.mean(-1), values.gt(0).float().mean(-1), values[..., 0], texts.n_tokens)
    return TopContexts(texts, stats, values, rows, positions)


def test_texts_in_which_a_neuron_is_silent_are_no_contexts():
    texts = random_texts(4, shortest=12)
    rows = torch.tensor([[[2, 0, 1], [3, 1, 0]]])
    top = hand_made(torch.tensor([[[4.0, 1.0, 0.0], [3.0, 2.0, 1.0]]]), rows, rows + 1, texts)
    assert top.where(3, 0) == ([2, 0], [3, 1])
    assert top.where(3, 1) == ([3, 1, 0], [4, 2, 1])
    with pytest.raises(ValueError, match=r"There is no neuron 2 in layer 3: it has 2, numbered from 0\."):
        top.where(3, 2)


def test_contexts_hold_the_words_the_activations_and_where_they_are_from(tiny):
    texts = as_texts(tiny, PROMPTS, kinds=list("abcde"))
    values = plain(tiny, texts)
    found = contexts(tiny, texts, {(1, 4): [2, 0], (0, 9): [2], (1, 7): []})
    assert list(found) == [(1, 4), (0, 9), (1, 7)] and found[1, 7] == []
    for neuron, row, context in [((1, 4), 2, found[1, 4][0]), ((1, 4), 0, found[1, 4][1]), ((0, 9), 2, found[0, 9][0])]:
        assert "".join(context.pieces) == PROMPTS[row] and len(context.values) == int(texts.lengths[row]) - 1
        assert context.row == row and context.kind == "abcde"[row]
        assert torch.allclose(torch.tensor(context.values), values[neuron][row, 1 : int(texts.lengths[row])], atol=1e-5)


def test_a_model_without_a_mark_loses_no_word_of_its_contexts(tiny, monkeypatch):
    monkeypatch.setattr(tiny.cfg, "default_prepend_bos", False)
    texts = as_texts(tiny, PROMPTS)
    (context,) = contexts(tiny, texts, {(0, 2): [0]})[0, 2]
    assert "".join(context.pieces) == PROMPTS[0] and context.values[0] == 0


def test_top_contexts_are_shown_highest_first_and_at_their_peak(tiny, top):
    layer, neuron = random_neurons(top, 1)[0]
    shown = top.contexts(tiny, layer, neuron)
    assert [context.row for context in shown] == top.rows[layer, neuron].tolist()
    assert [context.peak + 1 for context in shown] == top.positions[layer, neuron].tolist()
    assert max(shown[0].values) == pytest.approx(top.stats.peak[layer, neuron].item(), abs=1e-5)
    assert top.contexts(tiny, layer, neuron, n=2) == shown[:2]


def test_a_context_is_written_on_one_line_with_its_peak_in_brackets():
    context = Context(("the", " capital", " of", " Poland", "\n", "is"), (0.0, 0.4, 0.0, 3.14, 1.0, 0.0), "prose", 7)
    assert context.peak == 3
    assert str(context) == "the capital of [·Poland 3.1]⏎is"


def test_a_context_is_cut_around_its_peak():
    context = Context(tuple("abcdefgh"), (0.0, 1.0, 2.0, 3.0, 9.0, 2.0, 1.0, 0.0), "prose", 7)
    cut = context.around(before=2, after=1)
    assert cut == Context(("c", "d", "e", "f"), (2.0, 3.0, 9.0, 2.0), "prose", 7) and cut.peak == 2
    assert context.around() == context and context.around(0, 0).pieces == ("e",)
    early = Context(tuple("abc"), (5.0, 1.0, 1.0), "prose", 7)
    assert early.around(before=4, after=1).pieces == ("a", "b")


def test_output_logits_are_what_one_more_unit_of_activation_adds(tiny):
    """With the final length held fast, the last layer is linear: adding 1 to a neuron adds its output logits."""
    tokens = torch.tensor([[0, 5, 6]])
    with tiny.hooks(fwd_hooks=[("ln_final.hook_scale", lambda scale, hook: torch.ones_like(scale))]):
        with intervene(tiny, add(mlp_post(1), torch.ones(1), units=40)):
            after = tiny(tokens)
        assert torch.allclose(after - tiny(tokens), output_logits(tiny, 1, 40).expand_as(after), atol=1e-4)


def test_promoted_tokens_are_the_ends_of_the_output_logits(tiny):
    logits, found = output_logits(tiny, 1, 9), promoted(tiny, 1, 9, k=4)
    order = sorted(range(300), key=logits.tolist().__getitem__)
    assert (found.layer, found.neuron) == (1, 9)
    assert [piece for piece, _ in found.up] == pieces(tiny, torch.tensor(order[:-5:-1]))
    assert [piece for piece, _ in found.down] == pieces(tiny, torch.tensor(order[:4]))
    assert [size for _, size in found.up + found.down] == pytest.approx(logits[order[:-5:-1] + order[:4]].tolist())
    assert len(promoted(tiny, 1, 9).up) == 10 and len(promoted(tiny, 1, 9, k=300).down) == 300


def test_promoted_tokens_are_written_side_by_side():
    table = Promoted(0, 0, ((" Paris", 1.5), ("a", 0.25)), (("\n", -2.0), (" is", -0.125))).table()
    assert table.splitlines() == ["·Paris  +1.50   ⏎       -2.00", "a       +0.25   ·is     -0.12"]


def test_random_neurons_are_active_in_k_texts():
    texts = random_texts(4, shortest=12)
    values = torch.tensor([[[4.0, 1.0], [3.0, 0.0], [2.0, 0.5], [0.0, 0.0], [9.0, 8.0]]])
    top = hand_made(values, torch.zeros(1, 5, 2, dtype=torch.long), torch.ones(1, 5, 2, dtype=torch.long), texts)
    assert random_neurons(top, 3) == [(3, 0), (3, 2), (3, 4)]
    assert {random_neurons(top, 1, seed)[0] for seed in range(30)} == {(3, 0), (3, 2), (3, 4)}
    assert random_neurons(top, 2, seed=5) == random_neurons(top, 2, seed=5)
    with pytest.raises(ValueError, match="Only 3 neurons are active in 2 of these texts or more, not 4: scan more texts"):
        random_neurons(top, 4)


def pairs(inside: list[float], outside: list[float]) -> float:
    """AUC by its definition: the share of pairs that are in the right order, draws counting half."""
    return sum((a > b) + 0.5 * (a == b) for a in inside for b in outside) / (len(inside) * len(outside))


@given(data=st.data(), units=st.integers(1, 3), n_inside=st.integers(1, 9), n_outside=st.integers(1, 9))
def test_auc_is_the_share_of_pairs_in_the_right_order(data: st.DataObject, units: int, n_inside: int, n_outside: int):
    values = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]), min_size=units, max_size=units)
    inside = torch.tensor(data.draw(st.lists(values, min_size=n_inside, max_size=n_inside)))
    outside = torch.tensor(data.draw(st.lists(values, min_size=n_outside, max_size=n_outside)))
    expected = [pairs(a, b) for a, b in zip(inside.T.tolist(), outside.T.tolist(), strict=True)]
    assert auc(inside, outside).tolist() == pytest.approx(expected, abs=1e-6)


def test_this_and_the_next_token_are_classes_of_positions():
    texts = Texts(torch.tensor([[7, 5, 7, 6, 7], [0, 7, 5, 7, 7]]), torch.tensor([5, 3]), ("a", "b"))
    found = [this_token(texts, {7}), this_token(texts, [5, 6]), next_token(texts, [7]), next_token(texts, [5]), this_token(texts, [])]
    marks = [["".join(".x"[one] for one in row) for row in marked.int().tolist()] for marked in found]
    assert marks == [["..x.x", ".x..."], [".x.x.", "..x.."], [".x.x.", "....."], [".....", ".x..."], [".....", "....."]]


def test_a_perfect_detector_is_found_and_holds_on_the_other_half(tiny):
    """A class that is made of what one neuron does: the neuron gets 1 on both halves, and 0 for the rest."""
    texts = random_texts(40)
    values = plain(tiny, texts)
    stats = top_contexts(tiny, texts, k=1).stats
    planted = (1, int((stats.active[1] - 0.4).abs().argmin()))
    labels = values[planted] > 0.01
    found = class_selectivities(tiny, texts, [labels])[0]
    assert found.validation[planted] == found.test[planted] == 1
    assert found.best(1)[0] == (planted, 1.0, 1.0)
    others = class_selectivities(tiny, texts, [~labels], layers=[1])[0]
    assert others.validation[0, planted[1]] == others.test[0, planted[1]] == 0 and others.layers == (1,)


@pytest.mark.parametrize("seed", range(4))
def test_selectivity_is_the_auc_of_each_half_and_these_share_no_text(tiny, seed):
    """Five texts with 1, 2, 4, 8, 16 positions of the class: how many a half has tells which texts are in it."""
    texts = random_texts(5, longest=24, shortest=24, seed=1)
    labels = torch.arange(24)[None] <= torch.tensor([1, 2, 4, 8, 16])[:, None]  # position 0 does not count
    found = class_selectivities(tiny, texts, [labels], seed=seed)[0]
    halves = [[row for row in range(5) if count >> row & 1] for count in found.n_class]
    assert sorted(halves[0] + halves[1]) == list(range(5)) and [len(half) for half in halves] == [2, 3]
    assert found.n_rest == tuple(23 * len(half) - count for half, count in zip(halves, found.n_class, strict=True))
    values = plain(tiny, texts)
    for rows, measured in zip(halves, (found.validation, found.test), strict=True):
        here = torch.zeros_like(texts.mask)
        here[rows] = texts.mask[rows]
        for neuron in [(0, 0), (0, 77), (1, 5), (1, 127)]:
            expected = pairs(values[neuron][here & labels].tolist(), values[neuron][here & ~labels].tolist())
            assert measured[neuron].item() == pytest.approx(expected, abs=1e-3)


def test_several_classes_in_one_scan_are_each_by_itself(tiny):
    texts = random_texts(40)
    classes = [texts.tokens < 150, random_class(texts, texts.tokens < 150), texts.tokens < 150]
    found = class_selectivities(tiny, texts, classes)
    for together, labels in zip(found, classes, strict=True):
        alone = class_selectivities(tiny, texts, [labels])[0]
        assert torch.equal(together.test, alone.test) and torch.equal(together.validation, alone.validation)
    assert not torch.equal(found[0].test, found[1].test)


def test_a_random_class_has_as_many_positions_and_none_that_is_no_text(tiny):
    texts = random_texts(40)
    labels = texts.tokens < 150
    mixed = random_class(texts, labels, seed=3)
    assert int(mixed.sum()) == int((labels & texts.mask).sum()) and not bool((mixed & ~texts.mask).any())
    assert torch.equal(mixed, random_class(texts, labels, seed=3)) and not torch.equal(mixed, random_class(texts, labels, seed=4))


def test_no_more_positions_are_drawn_than_the_limit(tiny):
    texts = random_texts(30)
    found = class_selectivities(tiny, texts, [texts.tokens < 150], limit=20)[0]
    assert found.n_class == (20, 20) and found.n_rest == (40, 40)


def test_a_class_that_a_half_lacks_is_refused_with_a_sentence(tiny):
    texts = random_texts(6)
    one = torch.zeros_like(texts.mask)
    one[0, 1] = True
    for labels in (one, torch.ones_like(one), torch.zeros_like(one)):
        with pytest.raises(ValueError, match=r"no position inside the class, or none outside: label more positions, or scan more texts\."):
            class_selectivities(tiny, texts, [labels])[0]


def test_the_best_neurons_are_chosen_by_the_choosing_half_alone():
    found = Selectivity((2, 5), torch.tensor([[0.5, 0.9], [0.7, 0.9]]), torch.tensor([[1.0, 0.6], [0.8, 0.4]]), (3, 3), (6, 6))
    best = found.best(3)
    assert [neuron for neuron, _, _ in best] == [(2, 1), (5, 1), (5, 0)]
    assert [tuple(round(value, 3) for value in rest) for _, *rest in best] == [(0.9, 0.6), (0.9, 0.4), (0.7, 0.8)]
    assert found.table(1).splitlines() == ["neuron     choosing  held out", "L2 N1         0.900     0.600"]
    assert name((5, 185)) == "L5 N185"


def test_the_correlation_with_grades_is_that_of_each_neuron_by_itself():
    values, grades = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20.0) % 5
    values[1, :, 2] = 7.0  # a neuron that never changes
    found = grade_correlations(values, grades)
    expected = [[torch.corrcoef(torch.stack([values[at, :, unit], grades]))[0, 1] for unit in range(3)] for at in range(2)]
    assert torch.allclose(found[:, :2], torch.tensor(expected)[:, :2], atol=1e-5) and found[1, 2] == 0


def test_controls_are_as_loud_and_without_the_trait():
    there = torch.tensor([[1.0, 0.9, 5.0, 0.0, 1.2, 1.0], [1.0] * 6])
    trait = torch.tensor([[0.8, 0.1, 0.0, 0.0, -0.2, -0.7], [0.0] * 6])
    assert controls_at(there, trait, (0, 0), n=2) == [(0, 1), (0, 4)]
    with pytest.raises(ValueError, match=r"Only 3 neurons of layer 0 are active there without the trait, not 4: ask for fewer\."):
        controls_at(there, trait, (0, 0), n=4)
    assert controls_at(there, trait, (0, 0), n=2, exclude=[(0, 1), (1, 4)]) == [(0, 4), (0, 2)]
    with pytest.raises(ValueError, match=r"L0 N3 is silent at these places"):
        controls_at(there, trait, (0, 3))


def test_within_a_text_only_its_own_places_are_compared():
    values, mask = torch.tensor([[0.0, 5, 1, 2, 9], [0, 20, 30, 10, 0], [0, 1, 2, 3, 4]]), torch.ones(3, 5, dtype=torch.bool)
    mask[:, 0] = mask[0, 4] = False
    labels = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    assert auc_within(values, labels, mask) == pytest.approx([1.0, 1 / 3])  # the third text has no such place


def test_the_number_of_jobs_goes_from_one_to_all_whatever_the_rulers():
    effects = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    found = number_of_jobs(effects)
    assert found[0] == pytest.approx(1.0) and found[2] == 0 and 2.8 < found[1] < 3
    assert torch.allclose(found, number_of_jobs(effects * torch.tensor([[1.0], [100.0], [0.01]])), atol=1e-5)
