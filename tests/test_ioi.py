"""Indirect objects: sentences, positions and corrupted copies are right in every frame; what heads do is measured by hand as well.

The models are tiny and random, with a tokenizer that is trained here on the sentences, so that forty names are one token each.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from tiny_models import tiny_tokenizer, write_tiny_model
from transformers import PreTrainedTokenizerFast

from helpers.cluster.attribution import components, direct_effects
from helpers.cluster.ioi import (
    ORDERS,
    attention_to,
    copies,
    head_table,
    ioi_sentences,
    knocked_out,
    repeated_scores,
    role_attention,
    role_table,
    self_repair,
    single_names,
)
from helpers.cluster.patching import metric_at_ends
from helpers.course_lm.corpus.tasks import FRAMES, hidden_pair
from helpers.course_lm.world import World
from helpers.interventions import head_out, intervene, pattern, record, resample_ablate, set_to, watch
from helpers.models import load_model
from helpers.prediction import pieces, token_id
from helpers.texts import as_texts

pytestmark = pytest.mark.usefixtures("no_gradients")

N = 44  # every frame in both orders


@pytest.fixture(scope="module")
def known() -> list[str]:
    """Forty first names."""
    return World.load().column("firstnames", "name")[:40]


@pytest.fixture(scope="module")
def tokenizer(known) -> PreTrainedTokenizerFast:
    """A byte-level BPE that was trained on the names, and on the frames without names."""
    words = [frame.format(people="", giver="", Giver="", place="park", gave="gave", thing="a book") for frame in FRAMES.values()]
    return tiny_tokenizer([*words, *(f" {name}" for name in known for _ in range(50))], 700)


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return load_model(write_tiny_model("gpt2", tmp_path_factory.mktemp("gifts"), tokenizer))


@pytest.fixture(scope="module")
def data(model):
    return ioi_sentences(model, N)


def test_frames_and_orders_are_balanced_and_names_are_hidden_pairs_of_single_tokens(data, known, model):
    assert len(data) == N and Counter(data.orders) == {"ABB": N // 2, "BAB": N // 2} and single_names(model) == known
    heads = [frame.split("{")[0] for frame in FRAMES.values()]
    assert all(text.startswith(heads[number % len(heads)]) for number, text in enumerate(data.texts))
    assert {(number % len(heads), order) for number, order in enumerate(data.orders)} == {(at, o) for at in range(22) for o in ORDERS}
    for text, receiver, giver, order in zip(data.texts, data.receivers, data.givers, data.orders, strict=True):
        found = [name for word in text.split(" ") if (name := word.strip(",.")) in (receiver, giver)]
        assert found == ([receiver, giver, giver] if order == "ABB" else [giver, receiver, giver]), text
        assert text.endswith(" to") and hidden_pair((receiver, giver))
    assert len(set(data.receivers) | set(data.givers)) > 20


def test_positions_name_the_right_tokens(data, model):
    rows, tokens = torch.arange(N), data.tokens.tokens
    at = {name: tokens[rows, pos] for name, pos in data.positions.items()}
    assert set(at) == {"IO", "S1", "S1+1", "S2", "END"}
    assert torch.equal(at["IO"], data.io) and torch.equal(at["S1"], data.s) and torch.equal(at["S2"], data.s)
    assert pieces(model, data.io) == [f" {name}" for name in data.receivers] and set(pieces(model, at["END"])) == {" to"}
    assert pieces(model, data.s) == [f" {name}" for name in data.givers]
    positions = data.positions
    assert torch.equal(positions["S1+1"], positions["S1"] + 1) and torch.equal(positions["END"], data.tokens.lengths - 1)
    assert (positions["S1"] < positions["S2"]).all() and (positions["IO"] < positions["S2"]).all()
    assert ((positions["IO"] < positions["S1"]) == torch.tensor([order == "ABB" for order in data.orders])).all()
    assert data.tokens.lengths.unique().numel() > 1  # so some rows have filling


@pytest.mark.parametrize("kind", ["swapped", "unrelated"])
def test_corrupted_sentences_have_other_names_in_the_same_places(data, model, kind):
    found, rows = as_texts(model, getattr(data, kind)()), torch.arange(N)
    names = {"S2": data.receivers} if kind == "swapped" else dict(zip(("IO", "S1", "S2"), zip(*data.others, strict=True), strict=True))
    expected = data.tokens.tokens.clone()
    for place, own in names.items():
        expected[rows, data.positions[place]] = torch.tensor([token_id(model, f" {name}") for name in own])
    assert torch.equal(found.tokens, expected) and torch.equal(found.lengths, data.tokens.lengths)
    for names, receiver, giver in zip(data.others, data.receivers, data.givers, strict=True):
        assert len({*names, receiver, giver}) == 5


def test_runs_and_the_metric(data, model):
    logits = model(data.tokens.tokens)[torch.arange(N), data.positions["END"]]
    expected = logits[torch.arange(N), data.io] - logits[torch.arange(N), data.s]
    torch.testing.assert_close(data.metric(logits[:, None]), expected)
    for kind, places in (("swapped", ["S2"]), ("unrelated", ["IO", "S1", "S2"])):
        pairs = data.pairs(model, kind)
        first = torch.stack([data.positions[place] for place in places]).amin(0)
        assert torch.equal(pairs.first_difference, first) and torch.equal(pairs.clean.tokens, data.tokens.tokens)
    assert torch.equal(data.pairs(model).corrupted.tokens, data.pairs(model, "swapped").corrupted.tokens)
    with pytest.raises(ValueError, match=r"There is no corruption 'mixed'; choose one of: swapped, unrelated\.$"):
        data.pairs(model, "mixed")


def test_seeds_and_frames_can_be_chosen(data, model):
    assert ioi_sentences(model, 10).texts == data.texts[:10] != ioi_sentences(model, 10, seed=1).texts
    some = ioi_sentences(model, 8, frames=["argument", "when went"])
    assert [text.split(" ")[0] for text in some.texts] == ["Then,", "When"] * 4
    assert some.orders == ("ABB", "ABB", "BAB", "BAB") * 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(n=0), "it must be 1 or more, not 0"),
        (dict(n=4, frames=["when flew"]), "There is no frame 'when flew'; choose one of: when went, "),
        (dict(model="gpt2", n=4), "and only 0 are"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(model, load, arguments, sentence):
    with pytest.raises(ValueError) as caught:
        ioi_sentences(load(arguments.pop("model")) if "model" in arguments else model, **arguments)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


WAYS = {"name mover": "END IO", "S-inhibition": "END S2", "duplicate token": "S2 S1", "induction": "S2 S1+1", "previous token": "S1+1 S1"}


@pytest.mark.parametrize("role", WAYS)
def test_a_head_that_looks_as_its_role_says_is_found(model, data, role):
    query, key = (data.positions[name] for name in WAYS[role].split())
    width, rows = data.tokens.tokens.shape[1], torch.arange(N)
    planted = torch.eye(width).repeat(N, 1, 1)
    planted[rows, query] = torch.nn.functional.one_hot(key, width).float()
    with intervene(model, set_to(pattern(1), planted[:, None], pos=2)):  # of a pattern the first axis after the batch are its heads
        scores = role_attention(model, data)
        lines = role_table(scores).splitlines()
    assert set(scores) == {*WAYS} and all(score.shape == (2, 4) for score in scores.values())
    assert scores[role][1, 2] == 1 and (scores[role].flatten()[[0, 1, 2, 3, 4, 5, 7]] < 0.9).all()
    whole = record(model, data.tokens.tokens, pattern(0))[pattern(0)]
    looks = torch.stack([whole[row, :, query[row], key[row]] for row in range(N)])
    assert torch.allclose(scores[role][0], looks.mean(0), atol=1e-6)
    assert [line.split("  ")[0] for line in lines] == list(scores)
    assert next(line for line in lines if line.startswith(role)).split()[-4:-2] == ["a1.2", "(1.00),"]


def test_attention_to_a_name_counts_all_its_places(model, data):
    found, to_io = attention_to(model, data.tokens, torch.stack([data.s, data.io]))
    whole = record(model, data.tokens.tokens, pattern(1))[pattern(1)]
    for row in range(3):
        places = [int(data.positions[name][row]) for name in ("S1", "S2")]
        assert torch.allclose(found[1, :, row], whole[row, :, data.positions["END"][row], places].sum(-1), atol=1e-6)
        assert torch.allclose(to_io[1, :, row], whole[row, :, data.positions["END"][row], data.positions["IO"][row]], atol=1e-6)
    assert found.shape == (2, 4, N)


def test_heads_have_a_line_for_each_order(model, data):
    direct, looks = direct_effects(model, data.tokens, data.io, data.s), attention_to(model, data.tokens, torch.stack([data.io, data.s]))
    lines = [line.split() for line in head_table(model, data, direct, looks, [(1, 2), (0, 1)]).splitlines()]
    assert [line[:2] for line in lines[1:]] == [["a1.2", "ABB"], ["a1.2", "BAB"], ["a0.1", "ABB"], ["a0.1", "BAB"]]
    giver_first = [order == "BAB" for order in data.orders]
    values = direct.of("a1.2"), looks[0, 1, 2], looks[1, 1, 2]
    assert [float(cell) for cell in lines[2][2:5]] == pytest.approx([value[giver_first].mean().item() for value in values], abs=0.006)


def test_repeated_tokens_show_what_heads_do_by_rule(model):
    n, length = 6, 8
    steps = {"previous token": 1, "duplicate token": length, "induction": length - 1}
    width = 2 * length + 1  # with the mark of a new document
    planted = [torch.zeros(n, 1, width, width) for _ in steps]
    for number, step in enumerate(steps.values()):
        for query in range(width):
            planted[number][:, :, query, max(0, query - step)] = 1
    with intervene(model, *(set_to(pattern(1), one, pos=head) for head, one in enumerate(planted))):
        scores = repeated_scores(model, n, length)
    assert set(scores) == set(steps)
    for head, role in enumerate(steps):
        assert scores[role].shape == (2, 4) and scores[role][1, head] == 1
        assert all(scores[other][1, head] == 0 for other in steps if other != role)
        assert ((scores[role][0] > 0) & (scores[role][0] < 1)).all()  # random heads look everywhere a little


def test_repeated_tokens_come_twice_after_the_mark_and_depend_on_the_seed(model):
    seen = []
    with intervene(model, watch("hook_embed", seen.append)):
        for seed in (0, 0, 1):
            repeated_scores(model, 3, 5, seed)
    mark = model.W_E[model.tokenizer.bos_token_id]
    assert seen[0].shape[:2] == (3, 11) and torch.equal(seen[0][:, 0], mark.expand(3, -1))
    assert torch.equal(seen[0][:, 1:6], seen[0][:, 6:]) and torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    with pytest.raises(ValueError, match="32 tokens twice are too long for this model, which reads 64: take fewer"):
        repeated_scores(model, 2, 32)


@pytest.mark.parametrize("family", ["gpt2", "llama-grouped", "qwen2"])
def test_copying_is_what_the_head_writes_if_it_looks_at_the_name_only(tokenizer, tmp_path, family):
    model = load_model(write_tiny_model(family, tmp_path, tokenizer))
    data = ioi_sentences(model, 24)
    rows, name, end = torch.arange(24), data.positions["IO"], data.positions["END"]
    looking = torch.nn.functional.one_hot(name, data.tokens.tokens.shape[1]).float()[:, None, None]
    with intervene(model, set_to(pattern(1), looking)):
        put_out = record(model, data.tokens.tokens, head_out(1))[head_out(1)][rows, end]  # [prompt, head, d_head]
    written = torch.einsum("phd,hdm->hpm", put_out, model.blocks[1].attn.W_O)
    best = model.unembed(model.ln_final(written)).topk(60).indices
    expected = (best == data.io[:, None]).any(-1)
    assert torch.equal(copies(model, [(1, head) for head in range(4)], data, k=60), expected)
    lowest = (model.unembed(model.ln_final(-written)).topk(60).indices == data.io[:, None]).any(-1)
    if model.cfg.normalization_type == "RMS":  # where turning the output round turns the logits round
        assert torch.equal(copies(model, [(1, head) for head in range(4)], data, k=60, lowest=True), lowest)
    assert 0 < expected.sum() < expected.numel() and not torch.equal(expected[0], expected[1])


def by_hooks(model, data, chosen, ends_only: bool) -> torch.Tensor:
    """The logit difference with the outputs of some heads from the unrelated sentences; the library's own hooks, row by row."""
    _, cache = model.run_with_cache(as_texts(model, data.unrelated()).tokens)
    rows, ends = torch.arange(len(data)), data.positions["END"]

    def exchange(value, hook, layer, head):
        value = value.clone()
        where = (rows, ends, head) if ends_only else (slice(None), slice(None), head)
        value[where] = cache[head_out(layer)][where]
        return value

    hooks = [(head_out(layer), partial(exchange, layer=layer, head=head)) for layer, head in chosen]
    logits = model.run_with_hooks(data.tokens.tokens, fwd_hooks=hooks)[rows, ends]
    return logits[rows, data.io] - logits[rows, data.s]


def test_heads_are_knocked_out_everywhere_or_at_one_position(model, data):
    chosen = [(1, 3), (0, 1), (1, 0)]
    everywhere, at_end = knocked_out(model, data, chosen), knocked_out(model, data, chosen, data.positions["END"])
    torch.testing.assert_close(everywhere, by_hooks(model, data, chosen, False), atol=1e-4, rtol=0)
    torch.testing.assert_close(at_end, by_hooks(model, data, chosen, True), atol=1e-4, rtol=0)
    assert (everywhere - at_end).abs().max() > 1e-3
    torch.testing.assert_close(knocked_out(model, data, []), metric_at_ends(model, data.pairs(model)), atol=1e-5, rtol=0)


def test_self_repair_by_its_parts(model, data):
    heads, direct = [(0, 2), (1, 3)], direct_effects(model, data.tokens, data.io, data.s)
    values = record(model, as_texts(model, data.unrelated()).tokens, head_out(0), head_out(1))
    for (layer, head), result in zip(heads, self_repair(model, data, heads, direct), strict=True):
        torch.testing.assert_close(result.before, metric_at_ends(model, data.pairs(model)), atol=1e-4, rtol=0)
        torch.testing.assert_close(result.after, by_hooks(model, data, [(layer, head)], True), atol=1e-4, rtol=0)
        torch.testing.assert_close(result.expected, result.before - result.direct)
        with intervene(model, resample_ablate(head_out(layer), values[head_out(layer)], head=head, pos=data.positions["END"])):
            written = components(model, data.tokens)[direct.names.index(f"a{layer}.{head}")]
        torch.testing.assert_close(result.direct, direct.of(f"a{layer}.{head}") - (written * direct.readout).sum(-1), atol=1e-4, rtol=0)
