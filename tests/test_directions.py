"""Directions: found as differences of means, added and taken away, and what that does: against hand-made truths on tiny models."""

import math
import re
from functools import cache
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import tiny_tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from helpers import running
from helpers.interventions import add, clamp, intervene, record, resid_post, resid_pre
from helpers.metrics import token_set_log_odds
from helpers.one_layer import directions
from helpers.one_layer.directions import (
    Candidate,
    Directions,
    Selection,
    Steering,
    ablate_direction,
    add_at,
    difference_in_means,
    orthogonalised,
    principal_plane,
    select_direction,
    steer,
)
from helpers.prediction import tokenize
from helpers.running import chat_prompts, generate, last_states, losses, perplexity, post_instruction, score_prompts, starts_with
from helpers.texts import Texts

pytestmark = pytest.mark.usefixtures("no_gradients")

SOME = ["gpt2", "gpt2-relu", "llama", "qwen2"]
OTHERS = ["neox-serial", "neox-parallel", "llama-grouped", "gemma2"]
PROMPTS = ["The Golden Gate Bridge is in", "Taipei", "The Tower, and Taipei 101 is in Paris", "San Francisco", "The Gate"]
OTHER_PROMPTS = ["Paris is in Taipei", "The Eiffel Bridge", "Golden Tower. The Gate is in San"]
CONTEXT = 64


@cache
def twin(model):
    """Hugging Face's own model of the same folder."""
    return AutoModelForCausalLM.from_pretrained(model.folder).eval()


@pytest.fixture(params=SOME)
def model(load, request):
    """Each of the architectures of the course in turn."""
    return load(request.param)


@pytest.fixture
def end_at():
    """Makes a token of a model the one that ends a document, until the test is over."""
    changed = []

    def set_end(model, token: int) -> None:
        changed.append((model.tokenizer, model.tokenizer.eos_token))
        model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(token)
        assert model.tokenizer.eos_token_id == token

    yield set_end
    for tokenizer, before in reversed(changed):
        tokenizer.eos_token = before


@pytest.fixture
def small_batches(monkeypatch):
    """Texts come in batches of some 20 tokens, so that several of them are needed; says how often they were asked for."""
    whole, asked = Texts.batches, []

    def batches(self, tokens=20):
        cut = list(whole(self, 20))
        asked.append(len(cut))
        return iter(cut)

    monkeypatch.setattr(Texts, "batches", batches)
    return asked


def drawn(model, seed: int = 0) -> Tensor:
    """A direction drawn at random, of another length than 1."""
    return 3 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))


def alone(model, prompt: str, *changes) -> Tensor:
    """The logits ``[pos, d_vocab]`` of one prompt, run by itself."""
    with intervene(model, *changes):
        return model(tokenize(model, prompt)[None])[0]


def components(model, direction: Tensor, *changes) -> dict[str, float]:
    """For each layer: the largest component of ``resid_post`` along a direction, as a share of the stream's length."""
    tokens, unit = torch.arange(1, 21).reshape(2, 10), direction / direction.norm()
    places = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    with intervene(model, *changes):
        seen = record(model, tokens, *places)
    return {place: ((values @ unit).abs() / values.norm(dim=-1)).max().item() for place, values in seen.items()}


@pytest.mark.parametrize("positions", [1, 2])
def test_last_states_are_those_of_each_prompt_alone(model, small_batches, positions):
    states = last_states(model, PROMPTS[:4], positions)
    assert states.shape == (model.cfg.n_layers + 1, 4, positions, model.cfg.d_model) and small_batches[0] > 1
    hooks = [*map(resid_pre, range(model.cfg.n_layers)), resid_post(model.cfg.n_layers - 1)]
    for row, prompt in enumerate(PROMPTS[:4]):
        seen = record(model, tokenize(model, prompt)[None], *hooks)
        assert all(torch.allclose(states[layer, row], seen[hook][0, -positions:], atol=1e-5) for layer, hook in enumerate(hooks))


def test_adding_changes_its_layer_and_those_behind(model):
    tokens, vector = torch.arange(1, 9)[None], drawn(model)
    hooks = [resid_pre(0), resid_pre(1), resid_post(1)]
    before = record(model, tokens, *hooks)
    with intervene(model, add_at(1, vector, scale=-2.0, pos=[3])):
        after = record(model, tokens, *hooks)
    assert torch.equal(before[hooks[0]], after[hooks[0]])
    before[hooks[1]][0, 3] -= 2 * vector
    assert torch.allclose(after[hooks[1]], before[hooks[1]], atol=1e-6)
    changed = (before[hooks[2]] != after[hooks[2]]).any(-1)[0]
    assert not changed[:3].any() and changed[3:].all()  # later tokens see it, earlier ones cannot


def test_the_direction_is_the_difference_of_two_means(model, small_batches):
    found, places = difference_in_means(model, PROMPTS, OTHER_PROMPTS, positions=2), [resid_pre(0), resid_pre(1), resid_post(1)]
    means = []
    for prompts in (PROMPTS, OTHER_PROMPTS):
        runs = [record(model, tokenize(model, prompt)[None], *places) for prompt in prompts]
        means.append(torch.stack([torch.stack([run[place][0, -2:] for run in runs]).mean(0) for place in places]))
    expected = means[0] - means[1]
    assert torch.allclose(found.vectors, expected, atol=1e-5) and min(small_batches) > 1
    assert torch.allclose(found.vector(1), expected[1, -1], atol=1e-5) and torch.allclose(found.vector(2, -2), expected[2, 0], atol=1e-5)


def test_means_are_taken_in_double_precision(tiny, monkeypatch):
    states = torch.tensor([2.0**25, 1.0, -(2.0**25), 1.0]).reshape(1, 4, 1, 1)  # in float32 the first 1 is lost
    monkeypatch.setattr(directions, "last_states", lambda *_: states)
    assert difference_in_means(tiny, PROMPTS, PROMPTS).positive.item() == 0.5


def test_there_are_vectors_for_the_layers_and_positions_that_were_looked_at():
    found = Directions(torch.arange(12.0).reshape(3, 2, 2) + 1, torch.ones(3, 2, 2))
    assert found.vector(0).tolist() == [2, 3] and found.vector(2, -2).tolist() == [8, 9]
    for layer, pos in [(3, -1), (-1, -1), (0, 0), (0, -3)]:
        with pytest.raises(ValueError, match=re.escape(f"layers 0 to 2 and positions -2 to -1, not ({layer}, {pos})")):
            found.vector(layer, pos)


def test_cosines_are_those_of_each_two_layers():
    found = Directions(torch.tensor([[[9.0, 9.0], [3.0, 0.0]], [[9.0, 9.0], [2.0, 2.0]], [[9.0, 9.0], [0.0, -5.0]]]), torch.zeros(3, 2, 2))
    half = math.sqrt(0.5)
    assert torch.allclose(found.cosines(), torch.tensor([[1, half, 0], [half, 1, -half], [0, -half, 1]]), atol=1e-6)
    assert torch.allclose(found.cosines(-2), torch.ones(3, 3))


def test_the_plane_is_that_of_the_covariance():
    rng = np.random.RandomState(0)
    points = rng.randn(40, 6) * [5, 0.3, 2, 0.2, 0.1, 0.5] + 7
    sizes, axes = np.linalg.eigh(np.cov(points.T))
    plane = principal_plane(torch.tensor(points))
    assert plane.explained == pytest.approx(tuple(sizes[::-1][:2] / sizes.sum()), abs=1e-5)
    expected = (points - points.mean(0)) @ axes[:, ::-1][:, :2]
    signs = np.sign(expected[0] * plane.points[0].numpy())  # an axis may point either way
    assert np.allclose(plane.points.numpy(), expected * signs, atol=1e-4)


@pytest.mark.parametrize("architecture", SOME + OTHERS)
def test_a_projected_direction_is_nowhere_in_the_stream(load, architecture):
    model = load(architecture)
    direction = drawn(model)
    before = components(model, direction)
    after = components(model, direction, *ablate_direction(model, direction))
    assert min(before.values()) > 0.05 and max(after.values()) < 1e-5 and len(after) == model.cfg.n_layers


@pytest.mark.parametrize("architecture", [*SOME, *OTHERS[:3]])
def test_weights_without_the_direction_do_the_same(load, architecture):
    model = load(architecture)
    direction = drawn(model)
    expected = alone(model, PROMPTS[0], *ablate_direction(model, direction)).log_softmax(-1)
    with orthogonalised(model, direction):
        assert max(components(model, direction).values()) < 1e-5
        given = alone(model, PROMPTS[0]).log_softmax(-1)
    assert torch.allclose(given, expected, atol=1e-4)
    assert not torch.allclose(given, alone(model, PROMPTS[0]).log_softmax(-1), atol=1e-2)


def test_the_weights_are_bit_equal_afterwards_even_after_an_error(model):
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    with pytest.raises(KeyError), orthogonalised(model, drawn(model)):
        changed = [name for name, weights in model.named_parameters() if not torch.equal(weights, before[name])]
        raise KeyError
    assert changed and all(torch.equal(weights, before[name]) for name, weights in model.named_parameters())


def test_what_cannot_be_written_into_the_weights_is_refused(load, tiny):
    raw, gemma = load("gpt2-relu", raw=True), load("gemma2")
    for model, direction, sentence in (
        (raw, drawn(raw), "one matrix in this model: load it with raw=False"),
        (gemma, drawn(gemma), "use ablate_direction"),
        (tiny, torch.zeros(tiny.cfg.d_model), "points nowhere"),
    ):
        with pytest.raises(ValueError, match=sentence), orthogonalised(model, direction):
            pass
    with pytest.raises(ValueError, match="points nowhere"):
        ablate_direction(tiny, torch.zeros(tiny.cfg.d_model))


def test_any_of_is_the_log_odds_of_the_tokens_together_also_where_their_probability_is_almost_one():
    logits = torch.tensor([[[60.0, 59.0, 1.0, 2.0]], [[-60.0, -59.0, 1.0, 2.0]], [[0.3, -1.0, 1.0, 0.2]]])
    for given, found in zip(logits[:, 0].tolist(), token_set_log_odds([0, 1])(logits).tolist(), strict=True):
        inside, outside = (math.fsum(map(math.exp, some)) for some in (given[:2], given[2:]))
        assert found == pytest.approx(math.log(inside) - math.log(outside), rel=1e-6)
    found = token_set_log_odds([0, 1], against=[3])(logits[2:]).item()
    assert found == pytest.approx(math.log(math.exp(0.3) + math.exp(-1)) - 0.2, rel=1e-6)


@pytest.mark.parametrize("pos", [-1, -2, 1, torch.tensor([2, 1, 5, 0, 1]), torch.tensor([-3, 1, -1, 0, -2])], ids=str)
def test_positions_and_units_belong_to_their_own_prompts(tiny, small_batches, pos):
    refusal, units = token_set_log_odds([5, 80]), torch.arange(10).reshape(5, 2)
    own = pos.tolist() if torch.is_tensor(pos) else [pos] * 5
    changes = [clamp(resid_pre(1), 9.0, units=some.tolist(), pos=[place]) for some, place in zip(units, own, strict=True)]
    expected = [refusal(alone(tiny, prompt, change)[None]).item() for prompt, change in zip(PROMPTS, changes, strict=True)]
    given = score_prompts(tiny, PROMPTS, refusal, clamp(resid_pre(1), 9.0, units=units, pos=pos))
    assert given.tolist() == pytest.approx(expected, abs=1e-4)


def decoded(model, ids) -> str:
    return model.tokenizer.decode(list(map(int, ids)), clean_up_tokenization_spaces=False).strip()


def by_hand(model, prompt: str, tokens: int, *changes, run=None) -> list[int]:
    """The most likely tokens one after the other, each from a run of the model on all that fits before it."""
    ids = tokenize(model, prompt).tolist()
    start, marked = len(ids), ids[:1] == [model.tokenizer.bos_token_id]
    for _ in range(tokens):
        kept = ids if len(ids) <= CONTEXT else [ids[0], *ids[1 - CONTEXT :]] if marked else ids[-CONTEXT:]
        with intervene(model, *changes):
            ids.append(int((run or model)(torch.tensor([kept]))[0, -1].argmax()))
    return ids[start:]


def generated(model, ids: Tensor, tokens: int, end: int) -> list[int]:
    """What Hugging Face's own model and loop write after some tokens, the most likely one each time, up to an end token."""
    settings = dict(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=end)
    return twin(model).generate(ids[None], attention_mask=torch.ones_like(ids[None]), **settings)[0, len(ids) :].tolist()


def early_for_some(continuations: list[list[int]]) -> int:
    """A token that comes in some continuation, but not as its first one, and in another one never."""
    firsts = {ids[0] for ids in continuations}
    return next(one for ids in continuations for one in ids[1:5] if one not in firsts and not all(one in other for other in continuations))


@pytest.mark.parametrize("architecture", SOME)
def test_continuations_are_those_of_hugging_face(load, architecture):
    model = load(architecture)
    expected = [decoded(model, generated(model, tokenize(model, prompt), 9, model.tokenizer.eos_token_id)) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 9) == expected and (architecture == "gpt2" or len(set(expected)) > 3)
    assert generate(model, ["The"], 0) == [""]


@pytest.mark.parametrize("architecture", SOME[1:])
def test_a_continuation_stops_at_the_end_token_and_the_others_go_on(load, architecture, end_at):
    model = load(architecture)
    plain = [by_hand(model, prompt, 8) for prompt in PROMPTS]
    end = early_for_some(plain)
    end_at(model, end)
    new = [generated(model, tokenize(model, prompt), 8, end) for prompt in PROMPTS]
    lengths = [len(ids) for ids in new]
    expected = [decoded(model, ids[:-1] if ids[-1] == end else ids) for ids in new]
    assert 1 < min(lengths) < max(lengths) == 8
    assert generate(model, PROMPTS, 8) == expected


@pytest.mark.parametrize("architecture", SOME[1:])
def test_continuations_go_on_beyond_the_context(load, architecture):
    model = load(architecture)
    short = " ".join(PROMPTS)
    long = [" ".join(PROMPTS * 3), short + "?" * (60 - len(tokenize(model, short))), "Taipei"]
    sizes = [len(tokenize(model, prompt)) for prompt in long]
    assert sizes[0] > CONTEXT and sizes[1] == 60
    expected = [decoded(model, by_hand(model, prompt, 12, run=lambda ids: twin(model)(ids).logits)) for prompt in long]
    assert generate(model, long, 12) == expected


@pytest.mark.parametrize("pos", [None, -1, slice(0, 3)], ids=str)
def test_interventions_act_on_new_tokens_too_the_newest_of_which_is_minus_1(tiny, pos):
    change = add_at(1, drawn(tiny, seed=3), 2.0, pos=pos)
    expected = [decoded(tiny, by_hand(tiny, prompt, 6, change)) for prompt in PROMPTS]
    assert generate(tiny, PROMPTS, 6, change) == expected != generate(tiny, PROMPTS, 6)


def test_positions_of_their_own_stay_with_the_prompts_that_go_on(tiny, end_at):
    places, vector = [1, 0, 3, 2, 1], drawn(tiny, seed=3)
    changes = [add_at(1, vector, 2.0, pos=[place]) for place in places]
    plain = [by_hand(tiny, prompt, 6, change) for prompt, change in zip(PROMPTS, changes, strict=True)]
    end = early_for_some(plain)
    end_at(tiny, end)
    expected = [decoded(tiny, ids[: ids.index(end)] if end in ids else ids) for ids in plain]
    assert generate(tiny, PROMPTS, 6, add_at(1, vector, 2.0, pos=torch.tensor(places))) == expected


def test_answers_end_where_the_chat_template_ends_a_turn():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn_end|>"]})
    ends = lambda: unwrap(running._stop_tokens)(SimpleNamespace(tokenizer=tokenizer))  # noqa: E731
    assert ends() == {0}  # a line break after an answer is no end: it may stand in one
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|turn_end|>\n' }}{% endfor %}"
    assert ends() == {0, tokenizer.convert_tokens_to_ids("<|turn_end|>")}
    tokenizer.chat_template = None
    assert ends() == {0}
    tokenizer.eos_token = None
    assert ends() == set()


def test_beginnings_are_compared_without_their_capitals():
    texts = ["I cannot do that.", "  i CANNOT", "Sorry, no.", "Well, I cannot", ""]
    assert starts_with(texts, ["I cannot", "SORRY"]) == [True, True, True, False, False]
    assert starts_with(texts, []) == [False] * 5 and starts_with([], ["I"]) == []


def test_losses_are_cross_entropies_without_the_first_token_and_the_padding(model, small_batches):
    change = add_at(1, drawn(model))
    for changes in ((), (change,)):
        expected, nats, count = [], 0.0, 0
        for prompt in PROMPTS:
            ids = tokenize(model, prompt)
            each = cross_entropy(alone(model, prompt, *changes)[:-1].double(), ids[1:], reduction="none")
            expected.append(each.mean().item())
            nats, count = nats + each.sum().item(), count + len(each)
        assert losses(model, PROMPTS, *changes).tolist() == pytest.approx(expected, rel=1e-4)
        assert perplexity(model, PROMPTS, *changes) == pytest.approx(math.exp(nats / count), rel=1e-4)
        assert math.exp(nats / count) != pytest.approx(math.exp(np.mean(expected)), rel=1e-3)  # tokens count, not texts
    assert min(small_batches) > 1


def test_a_single_token_has_no_loss(load):
    model = load("qwen2")  # it has no mark of a new document, so that a text may be one token
    with pytest.raises(ValueError, match="Text 1 has a single token"):
        losses(model, ["The Tower", "a"])
    with pytest.raises(ValueError, match="Text 0 has a single token"):
        perplexity(model, ["a"])


def test_a_direction_is_chosen_as_by_hand(tiny, monkeypatch):
    found = difference_in_means(tiny, PROMPTS[:3], OTHER_PROMPTS, positions=3)
    found.positive[0, 1] = found.negative[0, 1]  # a place where both sets are alike has no direction
    refusal = token_set_log_odds(range(5, 120))
    places = [(layer, pos) for layer in range(tiny.cfg.n_layers) for pos in (-3, -2, -1) if (layer, pos) != (0, -2)]
    rows = []
    for layer, pos in places:
        vector = found.vector(layer, pos)
        removed = ablate_direction(tiny, vector)
        projected = np.mean([refusal(alone(tiny, prompt, *removed)[None]).item() for prompt in PROMPTS])
        added = np.mean([refusal(alone(tiny, prompt, add_at(layer, vector))[None]).item() for prompt in OTHER_PROMPTS])
        before, after = (torch.stack([alone(tiny, p, *c)[-1].double().softmax(-1) for p in OTHER_PROMPTS]) for c in ((), removed))
        rows.append((layer, pos, projected, added, (before * (before / after).log()).sum(-1).mean().item()))
    limit = float(np.median([row[4] for row in rows]))  # so that about half of them pass
    shift = float(np.median([row[3] for row in rows])) - 1e-4
    metric = lambda logits: refusal(logits) - shift  # noqa: E731
    for depth in (1.0, 0.9):
        monkeypatch.setattr(directions, "DEPTH_LIMIT", depth)
        given = select_direction(tiny, found, PROMPTS, OTHER_PROMPTS, metric, limit + 1e-4)
        assert [(c.layer, c.pos) for c in given.candidates] == places
        for candidate, (layer, _, projected, added, kl) in zip(given.candidates, rows, strict=True):
            assert (candidate.projected, candidate.added) == pytest.approx((projected - shift, added - shift), abs=1e-4)
            assert candidate.kl == pytest.approx(kl, abs=1e-4)
            assert candidate.allowed == (added > shift and kl < limit + 1e-4 and layer < int(depth * 2))
    assert {(added > shift, kl < limit + 1e-4) for _, _, _, added, kl in rows} >= {(True, False), (False, True)}


def test_the_best_candidate_is_the_allowed_one_that_leaves_the_least_and_comes_first_in_the_table():
    rows = [Candidate(0, -1, -1.5, 2.0, 0.01, True), Candidate(1, -2, -9.0, -1.0, 0.02, False), Candidate(2, -1, -4.25, 0.5, 0.0312, True)]
    assert Selection(tuple(rows)).best is rows[2] and (directions.KL_LIMIT, directions.DEPTH_LIMIT) == (0.1, 0.8)  # those of the paper
    lines = Selection(tuple(rows)).table().splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "2", "0", "1"]
    assert lines[1].split() == ["2", "-1", "-4.25", "0.50", "0.0312"]
    assert lines[3].endswith("not allowed") and "not allowed" not in "".join(lines[:3])
    assert len(Selection(tuple(rows)).table(n=2).splitlines()) == 3
    for none in ((), (rows[1],)):
        with pytest.raises(ValueError, match="No direction passes: none makes harmless prompts refused"):
            print(Selection(none).best)


def test_steering_reads_the_metric_with_each_multiple(model):
    vector, refusal = drawn(model), token_set_log_odds([5, 80])
    given = steer(model, PROMPTS, refusal, 1, vector, scales=[-1, 0, 0.5])
    assert given.scales == (-1.0, 0.0, 0.5) and given.layer == 1 and given.values.shape == (3, 5)
    for scale, row in zip(given.scales, given.values, strict=True):
        expected = [refusal(alone(model, prompt, add(resid_pre(1), scale * vector))[None]).item() for prompt in PROMPTS]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)
    two = steer(model, PROMPTS, refusal, 1, vector, [0.5], positions=2).values[0]
    places = [tokenize(model, prompt).shape[0] - 1 for prompt in PROMPTS]
    expected = [
        refusal(alone(model, prompt, add(resid_pre(1), 0.5 * vector, pos=[at - 1, at]))[None]).item()
        for prompt, at in zip(PROMPTS, places, strict=True)
    ]
    assert two.tolist() == pytest.approx(expected, abs=1e-4)


def test_slopes_are_those_of_straight_lines():
    scales = (-2.0, 0.0, 1.0, 3.0)
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    given = Steering(0, scales, values).slopes
    assert given.tolist() == pytest.approx([np.polyfit(scales, row, 1)[0] for row in values.T.double().numpy()], abs=1e-5)
    straight = torch.tensor(scales)[:, None] * torch.tensor([2.0, -0.5]) + 7
    assert Steering(0, scales, straight).slopes.tolist() == pytest.approx([2, -0.5], abs=1e-5)


def test_steering_that_cannot_be_is_said(tiny):
    with pytest.raises(ValueError, match="layers are 0 to 1"):
        steer(tiny, PROMPTS, token_set_log_odds([5]), 7, drawn(tiny), [1.0])
    with pytest.raises(ValueError, match="There is no position -9 in every prompt: the shortest has"):
        score_prompts(tiny, PROMPTS, token_set_log_odds([5]), add_at(1, drawn(tiny), pos=-9))


def test_requests_are_written_in_the_chat_template_and_the_answer_is_left_open(tiny, monkeypatch):
    assert chat_prompts(tiny, ["Sing", "Draw"]) == ["user: Sing\n", "user: Draw\n"]
    assert chat_prompts(tiny, ["Sing"], system="Be kind") == ["system: Be kind\nuser: Sing\n"]
    assert chat_prompts(tiny, []) == []
    opened = tiny.tokenizer.chat_template + "{% if add_generation_prompt %}assistant:{% endif %}"
    monkeypatch.setattr(tiny.tokenizer, "chat_template", opened)
    assert chat_prompts(tiny, ["Sing"]) == ["user: Sing\nassistant:"]


@pytest.mark.parametrize("ending", ["", "assistant:", "assistant: in Paris"])
def test_what_follows_the_instruction_is_counted_in_tokens(tiny, monkeypatch, ending):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", tiny.tokenizer.chat_template + ending)
    expected = len(tiny.tokenizer("\n" + ending, add_special_tokens=False)["input_ids"])
    assert post_instruction(tiny) == expected and (not ending or expected > 1)


@pytest.mark.parametrize("write", [lambda model: chat_prompts(model, ["Sing"]), post_instruction])
def test_without_a_chat_template_there_is_no_chat(tiny, monkeypatch, write):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="This model has no chat template"):
        write(tiny)
