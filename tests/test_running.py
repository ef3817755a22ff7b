"""The engine: each of its functions equals a run of the whole text by itself, in several architectures and for texts of many lengths."""

import pytest
import torch
from tiny_models import ARCHITECTURES, write_tiny_model

from helpers import running
from helpers.interventions import add, intervene, resid_post, set_to
from helpers.metrics import log_odds, run_with_gradients, tokens_read, word_odds, word_probs
from helpers.models import load_model
from helpers.prediction import next_token_probs, tokenize
from helpers.running import (
    activations_at,
    check_layers,
    check_plain_writes,
    layer_hook,
    logits_at_end,
    next_tokens,
    output_direction,
    parts_along,
    path_gradients,
    random_like,
    read_lens,
    read_suffix,
)
from helpers.texts import as_texts

PROMPTS = ["The Eiffel Tower is in Paris.", "Taipei 101 is", "The Golden Gate Bridge", "A"]
WORDS = 200_000
TWO = ["The Golden Gate Bridge is", "The Golden Tower is in it"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, load):
    return load(request.param)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Every text is a batch of its own now and then, so that rows have to be put back in their order."""
    batches = running.Texts.batches
    monkeypatch.setattr(running.Texts, "batches", lambda self, tokens=12: batches(self, min(tokens, 12)))


def alone(model, prompt, *interventions):
    """The logits of a prompt that is run by itself, at all positions."""
    with torch.no_grad(), intervene(model, *interventions):
        return model(tokenize(model, prompt)[None])[0]


def test_logits_at_the_end_are_those_of_each_prompt_alone(model):
    push = add(resid_post(0), torch.linspace(-3, 3, model.cfg.d_model), pos=-1)
    for changes in ([], [push]):
        expected = torch.stack([alone(model, prompt, *changes)[-1] for prompt in PROMPTS])
        assert torch.allclose(logits_at_end(model, PROMPTS, *changes), expected, atol=1e-4)
        assert torch.equal(next_tokens(model, PROMPTS, *changes), expected.argmax(-1))


def test_each_row_can_have_a_change_of_its_own(model):
    vectors = torch.randn(len(PROMPTS), 1, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    found = logits_at_end(model, PROMPTS, each=lambda rows: [set_to(resid_post(1), vectors[rows], pos=torch.zeros_like(rows))])
    expected = [alone(model, prompt, set_to(resid_post(1), vector, pos=0))[-1] for prompt, vector in zip(PROMPTS, vectors, strict=True)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)


def test_activations_stand_where_they_were_asked_for(model):
    texts, hooks = as_texts(model, PROMPTS[:3]), [resid_post(0), layer_hook(-1)]
    where = torch.tensor([[1, 2], [2, 0], [3, 1]])
    found = activations_at(model, texts, hooks, where)
    for row, prompt in enumerate(PROMPTS[:3]):
        _, cache = model.run_with_cache(tokenize(model, prompt)[None])
        for number, hook in enumerate(hooks):
            assert torch.allclose(found[number, row], cache[hook][0, where[row]], atol=1e-5)
    assert torch.equal(
        activations_at(model, texts, hooks)[:, :, 0], activations_at(model, texts, hooks, texts.lengths[:, None] - 1)[:, :, 0]
    )
    with pytest.raises(ValueError, match="1 to"):
        activations_at(model, PROMPTS, hooks, 99)


def test_reading_activations_makes_no_logits(model):
    made = []
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: made.append(value.shape))]):
        activations_at(model, PROMPTS, [resid_post(0)])
        assert made == []
        logits_at_end(model, PROMPTS)
        assert {shape[1] for shape in made} == {1}


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("layer", [0, 1])
def test_copies_behind_a_cached_beginning_are_whole_runs(model, start, layer):
    texts = as_texts(model, [text[:24] for text in TWO])
    suffix = read_suffix(model, texts.tokens, start, [layer])
    rows, pushes = torch.tensor([1, 0, 1]), torch.randn(3, 1, model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    ends = texts.lengths[rows] - 1
    change = add(layer_hook(layer), pushes, pos=torch.tensor([1, 0, 2]))
    found = suffix.logits(model, layer, rows, ends, change)
    for copy, row in enumerate(rows.tolist()):
        at = [1, 0, 2][copy] + start
        whole = alone(model, TWO[row][:24], add(layer_hook(layer), pushes[copy], pos=at))
        assert torch.allclose(found[copy], whole[int(ends[copy])], atol=1e-4)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with a vocabulary of 200,000 words."""
    return load_model(write_tiny_model("gpt2", tmp_path_factory.mktemp("wide"), vocab_size=WORDS))


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_large_vocabulary_is_unembedded_in_small_parts(wide, monkeypatch, most):
    """No tensor of logits has more than LOGITS numbers, or those of one position (of one text for ``losses``)."""
    monkeypatch.setattr(running, "LOGITS", most * WORDS)
    monkeypatch.setattr(running, "LENS_NUMBERS", most * WORDS)
    texts = as_texts(wide, PROMPTS)
    odds = word_odds(wide, PROMPTS[:2], ["no"] * 2, ["is"] * 2)
    states = torch.randn(9, wide.cfg.d_model)
    longest = int(texts.lengths.max())
    one_by_one = {
        "logits_at_end": (lambda: logits_at_end(wide, texts), most),
        "next_tokens": (lambda: next_tokens(wide, texts), most),
        "score_prompts": (lambda: running.score_prompts(wide, texts, log_odds(3, 4)), most),
        "whole words": (lambda: running.score_prompts(wide, odds.texts, odds), max(most, tokens_read(odds))),
        "read_lens": (lambda: read_lens(wide, states, lambda logits, some: logits.argmax(-1)), most),
        "next_token_probs": (lambda: next_token_probs(wide, PROMPTS[0]), 1),
        "losses": (lambda: running.losses(wide, texts), max(most, longest)),
    }
    together = {
        "generate": (lambda: running.generate(wide, PROMPTS, 3), len(PROMPTS)),
        "gradients": (lambda: run_with_gradients(wide, texts, log_odds(3, 4), [resid_post(0)]), len(PROMPTS)),
        "word_probs": (lambda: word_probs(wide, PROMPTS, ["no"]), len(PROMPTS) * tokens_read(word_odds(wide, ["A"], ["no"], ["no"]))),
    }
    for name, (call, positions) in (one_by_one | together).items():
        sizes = []
        with wide.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook, sizes=sizes: sizes.append(value.numel()))]):
            call()
        assert sizes and max(sizes) <= positions * WORDS, name


def test_the_lens_reads_the_same_in_pieces_of_any_size(model, monkeypatch):
    states = torch.randn(2, 7, model.cfg.d_model)
    whole = running.lens_logits(model, states)
    monkeypatch.setattr(running, "LENS_NUMBERS", 3 * 2 * model.cfg.d_vocab)
    sizes = []
    found = read_lens(model, states, lambda logits, some: sizes.append(len(some)) or logits)
    assert torch.allclose(found, whole, atol=1e-4) and sizes == [3, 3, 1]


def test_random_vectors_are_as_long_as_those_they_stand_beside():
    like = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    drawn = random_like(like, 1000, seed=3)
    assert drawn.shape == (1000, 2, 2) and torch.allclose(drawn.norm(dim=-1), like.norm(dim=-1).expand(1000, 2))
    assert torch.equal(drawn, random_like(like, 1000, seed=3)) and not torch.equal(drawn, random_like(like, 1000, seed=4))
    assert drawn[:, 0].mean(0).abs().max() < 0.5


def test_the_output_direction_says_some_tokens_and_a_vector_has_two_parts_along_it(tiny):
    like = torch.randn(tiny.cfg.d_model, generator=torch.Generator().manual_seed(1))
    plain = output_direction(tiny, [5, 6], [7], like)
    assert plain.norm().item() == pytest.approx(like.norm().item(), rel=1e-5)
    said = plain @ tiny.W_U.cpu()
    assert said[[5, 6]].mean() > said[7]
    along, rest = parts_along(like, plain)
    assert torch.allclose(along + rest, like, atol=1e-5) and abs(rest @ plain).item() < 1e-3
    assert torch.allclose(along / along.norm(), (1 if like @ plain > 0 else -1) * plain / plain.norm(), atol=1e-5)
    with pytest.raises(ValueError, match="name different ones"):
        output_direction(tiny, [5], [5], like)


def test_integrated_gradients_add_up_to_the_change_of_a_curve():
    start, end = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])

    def run(fraction):
        point = (start + fraction * (end - start)).requires_grad_()
        return (point**3).sum()[None], [point]

    (gradient,) = path_gradients(run, 200)
    assert (gradient * (end - start)).sum().item() == pytest.approx(((end**3) - start**3).sum().item(), abs=1e-3)
    (at_start,) = path_gradients(run, 0)
    assert torch.allclose(at_start, 3 * start**2)


def test_layers_are_looked_up_with_and_without_the_one_that_enters(model):
    last = model.cfg.n_layers - 1
    assert check_layers(model, None) == tuple(range(-1, last + 1)) and check_layers(model, None, first=0) == tuple(range(last + 1))
    assert check_layers(model, [1, -1]) == (1, -1)
    for wrong, first in (([-1], 0), ([last + 1], -1), ([], -1)):
        with pytest.raises(ValueError, match="There is no layer"):
            check_layers(model, wrong, first)


def test_a_model_that_normalises_its_writes_is_refused_where_that_matters(model, request):
    if request.node.callspec.params["model"] == "gemma2":
        with pytest.raises(ValueError, match="so it cannot be edited"):
            check_plain_writes(model, "it cannot be edited")
    else:
        check_plain_writes(model, "it cannot be edited")


def test_a_metric_of_the_ends_is_that_of_the_whole_logits(model):
    texts = as_texts(model, PROMPTS)
    metric = log_odds(3, torch.tensor([4, 5, 6, 7]))
    whole = torch.stack([alone(model, prompt)[-1] for prompt in PROMPTS])
    expected = whole[:, 3] - whole[torch.arange(4), torch.tensor([4, 5, 6, 7])]
    assert torch.allclose(running.score_prompts(model, texts, metric), expected, atol=1e-4)


@pytest.mark.parametrize("pos", [None, 0, 1, 2])
def test_texts_that_begin_alike_are_written_as_each_one_alone(model, pos: int | None):
    change = add(resid_post(0), torch.linspace(-2, 2, model.cfg.d_model), pos=pos)
    each = [running.generate_tokens(model, [prompt], 4, change)[0] for prompt in TWO]
    assert running.generate_tokens(model, TWO, 4, change) == each
