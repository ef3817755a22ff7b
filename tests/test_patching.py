"""Activation patching gives the numbers of TransformerLens's own loops, and its estimates by gradients are right where they can be.

This is the one test that imports ``transformer_lens`` past the door of the course: its sweeps are an independent truth.
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tiny_models import ARCHITECTURES, write_tiny_model

TINY = [name for name in ARCHITECTURES if name != "course-like"]
RIGHT, WRONG = torch.tensor([5, 9, 7]), torch.tensor([6, 6, 8])
SWEEPS = {  # by the name of the place: ours, and the end of the library's name
    "resid_pre": ("patch_positions", "resid_pre"),
    "mlp_out": ("patch_positions", "mlp_out"),
    "attn_out": ("patch_positions", "attn_out"),
    "head_out": ("patch_heads", "attn_head_out_all_pos"),
    "head_q": ("patch_heads", "attn_head_q_all_pos"),
    "head_k": ("patch_heads", "attn_head_k_all_pos"),
    "head_v": ("patch_heads", "attn_head_v_all_pos"),
    "pattern": ("patch_heads", "attn_head_pattern_all_pos"),
}


@pytest.fixture(scope="module")
def h():
    """All that is tested here."""
    from helpers import interventions, metrics, texts
    from helpers.cluster import patching

    return SimpleNamespace(**vars(metrics) | vars(interventions) | vars(texts) | vars(patching))


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a tiny random model, once."""
    from helpers.models import load_model

    loaded = {}

    def of(family: str, raw: bool = False):
        if (family, raw) not in loaded:
            loaded[family, raw] = load_model(write_tiny_model(family, tmp_path_factory.mktemp(family)), raw=raw)
        return loaded[family, raw]

    return of


@pytest.fixture(scope="module")
def model(load):
    return load("gpt2")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def random_pairs(lengths=(7, 7, 7), first=3, seed=1) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupted tokens that differ at ``first`` and at the token before each end."""
    clean = torch.randint(5, 250, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    corrupted = clean.clone()
    corrupted[:, first] += 1
    corrupted[torch.arange(len(lengths)), torch.tensor(lengths) - 2] += 2
    return clean, corrupted


def pairs(h, model, lengths=(7, 7, 7), first=3, seed=1, metric=None):
    sides = [h.Texts(tokens, torch.tensor(lengths), ("text",) * len(lengths)) for tokens in random_pairs(lengths, first, seed)]
    return h.prompt_pairs(model, *sides, metric or h.log_odds(RIGHT[: len(lengths)], WRONG[: len(lengths)]))


@pytest.fixture(scope="module")
def both(h, model):
    return pairs(h, model)


def sweep_of_library(name: str) -> Callable:
    """A sweep of TransformerLens: ``(model, corrupted tokens, clean cache, metric of all logits that is one number)``."""
    from transformer_lens import patching as library

    return getattr(library, f"get_act_patch_{name}")


def by_library(model, both, name: str, **options) -> torch.Tensor:
    """The mean metric after each patch, one run of the model for each."""
    _, cache = model.run_with_cache(both.clean.tokens)
    return sweep_of_library(name)(model, both.corrupted.tokens, cache, lambda logits: both.metric(logits).mean(), **options)


def metric(both, model, tokens) -> torch.Tensor:
    """The metric of each prompt by the whole run, read at each prompt's end."""
    logits = model(tokens)[torch.arange(len(tokens)), both.ends]
    return both.metric(logits[:, None])


# ------------------------------------------------------------------------------------------------- the library's numbers


def assert_as_library(h, model, both, place: str) -> None:
    ours, theirs = SWEEPS[place]
    result, expected = getattr(h, ours)(model, both, getattr(h, place)), by_library(model, both, theirs)
    torch.testing.assert_close(result.after.mean(-1), expected, atol=1e-4, rtol=0)
    assert (expected - result.corrupted.mean()).abs().max() > 1e-3, "the comparison would not see a difference"
    assert result.after.shape == (*expected.shape, len(both)) and len(result.columns) == expected.shape[1]


@pytest.mark.parametrize("place", [place for place in SWEEPS if place not in ("head_q", "head_k")])  # these further below
@pytest.mark.parametrize("architecture", TINY)
def test_patches_equal_those_of_the_library(h, load, architecture, place):
    assert_as_library(h, load(architecture), pairs(h, load(architecture), (5, 5), first=2), place)


@pytest.mark.parametrize("place", ["resid_pre", "head_out", "pattern"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_patches_of_raw_models_equal_those_of_the_library(h, load, architecture, place):
    model = load(architecture, raw=True)
    assert_as_library(h, model, pairs(h, model, (5, 5), first=2), place)


@pytest.mark.parametrize("place", SWEEPS)
@pytest.mark.parametrize("architecture", ["neox-serial", "llama-grouped"])
def test_prompts_that_differ_from_the_first_token_on(h, load, architecture, place):
    both = pairs(h, load(architecture), (4, 4), first=0)
    assert both.first_difference.tolist() == [0, 0]
    assert_as_library(h, load(architecture), both, place)


@pytest.mark.parametrize("place", ["attn_out", "head_k", "pattern"])
@pytest.mark.parametrize("first", [2, 17])
def test_prompts_longer_than_a_sliding_window(h, load, place, first):
    both = pairs(h, load("gemma2"), (20, 20), first=first)  # the window is 16; the shared beginning may be longer than that
    assert_as_library(h, load("gemma2"), both, place)


def test_prompts_that_differ_in_their_last_token_only(h, model):
    clean, _ = random_pairs()
    corrupted = clean.clone()
    corrupted[:, -1] += 1
    both = h.prompt_pairs(model, clean, corrupted, h.log_odds(RIGHT, WRONG))
    assert_as_library(h, model, both, "resid_pre")
    assert torch.allclose(h.patch_positions(model, both).effect[:, -1], torch.ones(2), atol=1e-4)


@pytest.mark.parametrize("place", ["head_out", "head_q"])
def test_heads_at_one_position_of_each_prompt(h, load, place):
    model = load("gpt2")
    both, at = pairs(h, model, (4, 4, 4), first=1), torch.tensor([2, 3, 1])
    kind = {"head_out": "out", "head_q": "q"}[place]
    rows = [pairs_of_row(h, both, row) for row in range(3)]
    expected = [by_library(model, one, f"attn_head_{kind}_by_pos")[:, at[row]] for row, one in enumerate(rows)]
    result = h.patch_heads(model, both, getattr(h, place), pos=at)
    torch.testing.assert_close(result.after, torch.stack(expected, -1), atol=1e-4, rtol=0)


def pairs_of_row(h, both, row: int):
    """One pair alone, without filling."""
    return h.PromptPairs(both.clean.take([row]), both.corrupted.take([row]), h.log_odds(RIGHT[row : row + 1], WRONG[row : row + 1]))


def test_many_small_passes_give_the_numbers_of_one(h, model, both, monkeypatch):
    from helpers.cluster import patching

    sweeps = (h.patch_positions, h.resid_pre), (h.patch_heads, h.head_out), (h.patch_heads, h.pattern)
    before = [sweep(model, both, place).after for sweep, place in sweeps]
    monkeypatch.setattr(patching, "PATCHED_TOKENS", 8)  # two patches in a pass
    for expected, (sweep, place) in zip(before, sweeps, strict=True):
        torch.testing.assert_close(sweep(model, both, place).after, expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------- prompts, positions


@pytest.mark.parametrize("architecture", ["neox-parallel", "gemma2"])
def test_prompts_of_unequal_length_give_the_numbers_of_each_alone(h, load, architecture):
    model, lengths = load(architecture), (8, 6, 7)
    both, at = pairs(h, model, lengths), [torch.full((3,), 3), torch.tensor(lengths) - 2, torch.tensor(lengths) - 1]
    named = h.patch_positions(model, both, positions=at, names=["changed", "before", "end"])
    estimated = h.attribute_positions(model, both, positions=at)
    every = [h.patch_heads(model, both, place).after for place in (h.head_out, h.head_k, h.pattern)]
    assert named.columns == ("changed", "before", "end") and estimated.columns[0] == "position 0"
    for row in range(3):
        alone, chosen = pairs_of_row(h, both, row), [int(pos[row]) for pos in at]
        torch.testing.assert_close(named.after[..., row], h.patch_positions(model, alone).after[:, chosen, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(estimated.after[..., row], h.attribute_positions(model, alone).after[:, chosen, 0], atol=1e-4, rtol=0)
        for found, place in zip(every, (h.head_out, h.head_k, h.pattern), strict=True):
            torch.testing.assert_close(found[..., row], h.patch_heads(model, alone, place).after[..., 0], atol=1e-4, rtol=0)


def test_what_stands_in_the_filling_plays_no_part(h, model):
    both = pairs(h, model, (8, 6, 7))
    other = []
    for number, side in enumerate((both.clean, both.corrupted)):
        tokens = side.tokens.clone()
        tokens[torch.arange(8) >= side.lengths[:, None]] = 11 + number
        other.append(h.Texts(tokens, side.lengths, side.kinds))
    again = h.prompt_pairs(model, *other, both.metric)
    for sweep in (h.patch_heads, h.attribute_heads):
        torch.testing.assert_close(sweep(model, again).after, sweep(model, both).after, atol=1e-5, rtol=0)


def test_first_differences_and_ends_are_those_of_each_prompt(h, model):
    clean = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    corrupted = torch.tensor([[5, 6, 7, 8, 1], [1, 6, 7, 8, 1], [5, 1, 7, 1, 9]])
    both = h.prompt_pairs(model, clean, corrupted, h.log_odds(1, 2))
    assert both.first_difference.tolist() == [4, 0, 1] == both.swapped.first_difference.tolist()
    assert both.ends.tolist() == [4, 4, 4] and len(both) == 3
    assert torch.equal(both.swapped.clean.tokens, corrupted) and torch.equal(both.swapped.corrupted.tokens, clean)


@pytest.mark.parametrize("architecture", ["gpt2", "neox-parallel", "gemma2"])
def test_before_the_first_difference_a_patch_changes_nothing(h, load, architecture):
    model = load(architecture)
    both = pairs(h, model)
    for place in (h.resid_pre, h.mlp_out):
        assert (h.patch_positions(model, both, place).change[:, :3] == 0).all()
    nowhere = h.patch_positions(model, both, positions=[torch.tensor([0, 1, 2])])
    torch.testing.assert_close(nowhere.after, nowhere.corrupted.expand(2, 1, -1), atol=1e-5, rtol=0)
    early = h.patch_heads(model, both, pos=torch.tensor([0, 2, 4]))
    assert (early.after[..., :2] == early.corrupted[:2]).all() and not (early.after[0, :, 2] == early.corrupted[2]).any()
    assert h.attribute_positions(model, both).change[:, :3].abs().max() < 1e-5


def test_pairs_whose_first_differences_lie_apart(h, model):
    clean, corrupted = random_pairs((7, 7, 7), 5)
    corrupted[2, 0], corrupted[1, 3] = 3, 4  # so at position 3 the first prompt alone has nothing to patch
    assert_as_library(h, model, h.prompt_pairs(model, clean, corrupted, h.log_odds(RIGHT, WRONG)), "resid_pre")


# --------------------------------------------------------------------------------------------------- what must come out


@pytest.mark.parametrize("architecture", TINY)
def test_clean_and_corrupted_are_the_metric_of_the_whole_runs(h, load, architecture):
    model = load(architecture)
    both = pairs(h, model, (8, 6, 7))
    sides = metric(both, model, both.clean.tokens), metric(both, model, both.corrupted.tokens)
    result = h.patch_heads(model, both)
    for found in ((result.clean, result.corrupted), (h.metric_at_ends(model, both), h.metric_at_ends(model, both, texts=both.corrupted))):
        torch.testing.assert_close(found, sides, atol=1e-4, rtol=0)


def test_a_metric_under_an_intervention(h, model, both):
    expected = both.metric(model.run_with_hooks(both.clean.tokens, fwd_hooks=[(h.mlp_post(0), lambda value, hook: value * 0)]))
    torch.testing.assert_close(h.metric_at_ends(model, both, h.zero_ablate(h.mlp_post(0))), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", TINY)
def test_the_whole_clean_stream_gives_the_clean_run(h, load, architecture):
    model = load(architecture)
    clean, corrupted = random_pairs()
    corrupted[:, 4:] = clean[:, 4:]  # now they differ at one position only
    both = h.prompt_pairs(model, clean, corrupted, h.log_odds(RIGHT, WRONG))
    result = h.patch_positions(model, both)
    torch.testing.assert_close(result.after[0, 3], result.clean, atol=1e-4, rtol=0)
    assert abs(result.effect[0, 3] - 1) < 1e-2
    seen = h.record(model, both.clean.tokens, h.resid_pre(0))[h.resid_pre(0)]
    restored = h.metric_at_ends(model, pairs(h, model), h.resample_ablate(h.resid_pre(0), seen), texts=pairs(h, model).corrupted)
    torch.testing.assert_close(restored, result.clean, atol=1e-4, rtol=0)


def test_of_the_last_layer_nothing_but_the_last_position_counts(h, model, both):
    result = h.patch_positions(model, both, h.resid_post)
    torch.testing.assert_close(result.after[-1, :-1], result.corrupted.expand(6, -1), atol=1e-5, rtol=0)  # batches differ in size
    torch.testing.assert_close(result.after[-1, -1], result.clean, atol=1e-4, rtol=0)


def test_swapped_runs_carry_the_corrupted_value_into_the_clean_run(h, model, both):
    result, place = h.patch_positions(model, both.swapped, h.mlp_out), h.mlp_out(1)
    seen = h.record(model, both.corrupted.tokens, place)[place]
    with h.intervene(model, h.resample_ablate(place, seen, pos=5)):
        expected = both.metric(model(both.clean.tokens))
    torch.testing.assert_close(result.after[1, 5], expected, atol=1e-4, rtol=0)
    forward = h.patch_positions(model, both, h.mlp_out)
    for one, other in ((result.clean, forward.corrupted), (result.corrupted, forward.clean)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # the two stand in other rows of the batch


def test_a_metric_with_a_token_for_each_prompt_keeps_prompts_apart(h, model):
    token = torch.tensor([5, 90, 200])
    both = pairs(h, model, metric=h.log_prob(token))
    place = h.head_out(1)
    seen = h.record(model, both.clean.tokens, place)[place]
    with h.intervene(model, h.resample_ablate(place, seen, head=2)):
        expected = model(both.corrupted.tokens)[:, -1].log_softmax(-1)[torch.arange(3), token]
    torch.testing.assert_close(h.patch_heads(model, both).after[1, 2], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", TINY)
def test_the_model_is_bit_equal_before_and_after_even_after_an_error(h, load, architecture):
    model, calls = load(architecture), []
    both = pairs(h, model)
    before = model(both.clean.tokens)
    for work in (h.patch_heads, h.attribute_positions):
        work(model, both)
        assert torch.equal(model(both.clean.tokens), before)

    def fails_later(logits):
        calls.append(1)
        return h.log_odds(RIGHT, WRONG)(logits) if len(calls) < 4 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        h.patch_heads(model, pairs(h, model, metric=fails_later))
    with pytest.raises(ZeroDivisionError), model.hooks(fwd_hooks=[(h.mlp_out(1), lambda value, hook: 1 / 0)]):
        h.patch_heads(model, both)
    assert torch.equal(model(both.clean.tokens), before) and not any(parameter.grad is not None for parameter in model.parameters())


# -------------------------------------------------------------------------------------------------------------- the maps


@pytest.fixture
def by_hand(h):
    """Two layers, three columns, two prompts; the clean metric is 3 above the corrupted one on average."""
    after = torch.tensor([[[0.0, 1.0], [4.0, 3.0], [0.0, 1.0]], [[-3.0, -2.0], [0.0, 4.0], [2.0, 5.0]]])
    return h.PatchMap(after, torch.tensor([4.0, 3.0]), torch.tensor([0.0, 1.0]), ("a", "bb", "head 2"), "attn.hook_z")


def test_effects_are_shares_of_the_difference_between_the_runs(by_hand):
    assert torch.allclose(by_hand.change, torch.tensor([[0.0, 3.0, 0.0], [-3.0, 1.5, 3.0]]))
    assert torch.allclose(by_hand.effect, torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.5, 1.0]]))


def test_where_the_runs_do_not_differ_nothing_is_restored(by_hand):
    from dataclasses import replace

    same = replace(by_hand, corrupted=by_hand.clean)
    assert not same.effect.isfinite().all()
    with pytest.raises(ValueError, match="the same in the clean and in the corrupted runs"):
        same.interval(0, 0)


def test_the_largest_effects_come_first_whatever_their_sign(by_hand):
    assert by_hand.top(4) == [(0, 1), (1, 0), (1, 2), (1, 1)]
    lines = by_hand.table(3).splitlines()
    assert lines == [" layer  where   effect", "     0  bb        1.00", "     1  a        -1.00", "     1  head 2    1.00"]


def test_the_interval_of_an_effect_is_that_of_the_prompts(by_hand):
    from helpers.stats import mean_interval

    assert by_hand.interval(1, 1) == pytest.approx(mean_interval([0.0, 1.0]))
    assert by_hand.interval(1, 2) == pytest.approx(mean_interval([2 / 3, 4 / 3]))


def test_columns_are_named_by_tokens_or_heads(h, model, both):
    assert h.patch_heads(model, both).columns == ("head 0", "head 1", "head 2", "head 3")
    columns = h.patch_positions(model, h.prompt_pairs(model, ["Paris is"], ["Paris in"], h.log_odds(5, 6))).columns
    assert columns[0] == "0 <|endoftext|>" and columns[-1].split(" ", 1)[1].startswith(("·", "s"))
    assert h.patch_heads(model, both, h.head_v).place == "attn.hook_v" and h.patch_positions(model, both).place == "hook_resid_pre"


def test_grouped_queries_have_fewer_keys_and_values_than_heads(h, load):
    model = load("llama-grouped")
    both = pairs(h, model)
    widths = {
        place.__name__: h.patch_heads(model, both, place).effect.shape[1] for place in (h.head_out, h.head_q, h.head_k, h.head_v, h.pattern)
    }
    assert widths == {"head_out": 4, "head_q": 4, "head_k": 2, "head_v": 2, "pattern": 4}


# -------------------------------------------------------------------------------------------------- attribution patching


def step_towards(h, model, both, place: str, share: float, **where) -> torch.Tensor:
    """By how much the metric of each corrupted prompt rises for a small step of one place towards the clean value, per whole step."""
    seen = [h.record(model, side.tokens, place)[place] for side in (both.clean, both.corrupted)]
    sides = [h.resample_ablate(place, seen[1] + sign * share * (seen[0] - seen[1]), **where) for sign in (1, -1)]
    after, before = (h.metric_at_ends(model, both, side, texts=both.corrupted) for side in sides)
    return (after - before) / (2 * share)


@pytest.mark.parametrize("place", ["resid_pre", "mlp_out", "attn_out", "head_out"])
@pytest.mark.parametrize("architecture", ["neox-parallel", "llama-grouped", "gemma2"])
def test_estimates_are_the_slope_of_a_small_step(h, load, architecture, place):
    model, where = load(architecture), getattr(h, place)
    both = pairs(h, model, (8, 6, 7))
    estimated = h.attribute_positions(model, both, where, positions=[torch.full((3,), 3), both.ends])
    for column, pos in enumerate((torch.full((3,), 3), both.ends)):
        slope = step_towards(h, model, both, where(1), 0.02, pos=pos)
        torch.testing.assert_close(estimated.after[1, column] - estimated.corrupted, slope, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("place", ["head_out", "head_q", "head_k", "head_v", "pattern"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama-grouped"])
def test_estimates_of_heads_are_the_slope_of_a_small_step(h, load, architecture, place):
    model, where = load(architecture), getattr(h, place)
    both = pairs(h, model, (8, 6, 7))
    estimated = h.attribute_heads(model, both, where)
    for head in (0, len(estimated.columns) - 1):
        choice = dict(pos=head) if place == "pattern" else dict(head=head)
        slope = step_towards(h, model, both, where(0), 0.02, **choice)
        torch.testing.assert_close(estimated.after[0, head] - estimated.corrupted, slope, atol=2e-3, rtol=2e-2)


def test_estimates_of_heads_at_one_position(h, model, both):
    at = torch.tensor([3, 6, 5])
    estimated = h.attribute_heads(model, both, h.head_q, pos=at)
    slope = step_towards(h, model, both, h.head_q(1), 0.02, pos=at, head=2)
    torch.testing.assert_close(estimated.after[1, 2] - estimated.corrupted, slope, atol=2e-3, rtol=2e-2)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A model in which the logits are linear in what the last attention writes: its MLPs write nothing, its last norm hardly divides."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers.models import load_model

    folder = write_tiny_model("gpt2", tmp_path_factory.mktemp("linear"))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for block in plain.transformer.h:
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
            block.attn.c_proj.weight.mul_(1e-3)  # too little to move the scale of the last norm
    plain.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return load_model(folder)


def test_estimates_are_exact_where_the_metric_is_linear(h, linear):
    clean, corrupted = random_pairs()
    corrupted[:, -1] = clean[:, -1]
    both = h.prompt_pairs(linear, clean, corrupted, h.log_odds(RIGHT, WRONG))
    for place, estimate, patch in (
        (h.attn_out, h.attribute_positions, h.patch_positions),
        (h.head_out, h.attribute_heads, h.patch_heads),
        (h.head_v, h.attribute_heads, h.patch_heads),
        (h.pattern, h.attribute_heads, h.patch_heads),
    ):
        found, expected = (work(linear, both, place).change[-1] for work in (estimate, patch))
        assert (found - expected).abs().max() < 0.01 * expected.abs().max() and expected.abs().max() > 1e-5


def test_integrated_gradients_of_the_embedding_add_up_to_the_whole_difference(h, load):
    for family in ("llama", "neox-parallel"):
        both = pairs(h, load(family))
        for steps, close in ((0, False), (20, True)):
            result = h.attribute_positions(load(family), both, steps=steps)
            total, wanted = result.after[0].sub(result.corrupted).sum(0), result.clean - result.corrupted
            assert torch.allclose(total, wanted, atol=0.02) == close, (family, steps)


def test_integrated_gradients_are_nearer_to_the_patches_where_the_way_is_curved(h, load):
    errors = torch.zeros(2)
    for seed in range(4):
        both = pairs(h, load("llama"), seed=seed)
        patched = h.patch_positions(load("llama"), both).change
        errors += torch.stack([(h.attribute_positions(load("llama"), both, steps=steps).change - patched).abs().mean() for steps in (0, 8)])
    assert errors[1] < 0.9 * errors[0]


def test_a_single_step_stands_halfway(h, model, both):
    halfway = h.attribute_positions(model, both, steps=1)
    embedded = [h.record(model, side.tokens, "hook_embed")["hook_embed"] for side in (both.clean, both.corrupted)]
    with torch.enable_grad():
        middle = ((embedded[0] + embedded[1]) / 2).requires_grad_()
        with h.intervene(model, h.resample_ablate("hook_embed", middle)):
            slope = torch.autograd.grad(both.metric(model(both.corrupted.tokens)).sum(), middle)[0]
    expected = ((embedded[0] - embedded[1]) * slope).sum(-1).T  # [pos, prompt]
    torch.testing.assert_close(halfway.after[0] - halfway.corrupted, expected, atol=1e-4, rtol=0)


def test_the_correlation_of_two_maps(h, by_hand):
    assert h.correlation(by_hand, by_hand) == pytest.approx(1)
    turned = h.PatchMap(-by_hand.after, by_hand.clean, -by_hand.corrupted, by_hand.columns, by_hand.place)
    assert h.correlation(by_hand, turned) == pytest.approx(-1)
    shifted = h.PatchMap(by_hand.after.flip(0), by_hand.clean, by_hand.corrupted, by_hand.columns, by_hand.place)
    x, y = by_hand.change.flatten() - by_hand.change.mean(), shifted.change.flatten() - shifted.change.mean()
    assert h.correlation(by_hand, shifted) == pytest.approx((x @ y / (x.norm() * y.norm())).item(), abs=1e-5)


# ---------------------------------------------------------------------------------------------------------------- errors


def odds_of_words(h, model):
    return h.word_odds(model, ["Paris is"], ["x"], ["y"])


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (
            lambda h, m, b: h.prompt_pairs(m, ["Paris is"], ["Paris is"], b.metric),
            "The two prompts of pair 0 are the same: there is nothing",
        ),
        (lambda h, m, b: h.prompt_pairs(m, ["Paris is"], ["The tower is in"], b.metric), "both prompts need equally many"),
        (
            lambda h, m, b: h.prompt_pairs(m, ["Paris is"], ["Paris is", "Paris in"], b.metric),
            "There are 1 clean prompts and 2 corrupted ones",
        ),
        (lambda h, m, b: h.prompt_pairs(m, ["Paris is"], ["Paris in"], odds_of_words(h, m)), "reads the last position only"),
        (lambda h, m, b: h.patch_positions(m, pairs(h, m, (8, 6, 7))), "not equally long, so their positions do not correspond"),
        (lambda h, m, b: h.patch_positions(m, b, positions=[torch.tensor([1, 2, 7])]), "Positions count from 0 to a prompt's last token"),
        (lambda h, m, b: h.patch_positions(m, b, positions=[torch.tensor([1, -1, 3])]), "Positions count from 0"),
        (lambda h, m, b: h.patch_positions(m, b, positions=[]), "at least one is needed"),
        (lambda h, m, b: h.patch_positions(m, b, positions=[b.ends], names=["a", "b"]), "There are 2 names and 1 positions"),
        (lambda h, m, b: h.patch_positions(m, b, names=["a"]), "There are 1 names and 7 positions"),
        (lambda h, m, b: h.patch_positions(m, b, h.pattern), "belongs to no single position: use patch_heads"),
        (lambda h, m, b: h.attribute_positions(m, b, h.pattern), "belongs to no single position: use patch_heads"),
        (lambda h, m, b: h.patch_heads(m, b, h.pattern, pos=b.ends), "is patched for all positions at once: leave pos out"),
        (lambda h, m, b: h.attribute_heads(m, b, h.pattern, pos=b.ends), "is patched for all positions at once: leave pos out"),
        (lambda h, m, b: h.patch_heads(m, b, pos=torch.tensor([0, 7, 1])), "Positions count from 0"),
        (lambda h, m, b: h.attribute_heads(m, b, pos=torch.tensor([0, 7, 1])), "Positions count from 0"),
        (lambda h, m, b: h.patch_heads(m, b, h.mlp_out), "blocks.0.hook_mlp_out has no heads to patch"),
        (lambda h, m, b: h.attribute_heads(m, b, h.mlp_out), "blocks.0.hook_mlp_out has no heads to patch"),
        (lambda h, m, b: h.patch_positions(m, b, lambda layer: f"blocks.{layer}.hook_none"), "has no place 'hook_none'"),
        (lambda h, m, b: h.patch_heads(m, pairs(h, m, metric=lambda logits: logits.mean())), "must give one number for each of the 3"),
        (lambda h, m, b: h.correlation(constant(h), constant(h)), "has the same value everywhere"),
        (lambda h, m, b: h.attribute_heads(m, pairs(h, m, metric=lambda logits: logits[:, -1].argmax(-1) * 1.0)), "has no gradient"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(h, model, both, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(h, model, both)
    assert sentence in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


def constant(h):
    return h.PatchMap(torch.ones(2, 2, 1), torch.ones(1), torch.zeros(1), ("a", "b"), "attn.hook_z")


def test_sides_may_be_filled_differently(h, model):
    clean, corrupted = random_pairs()
    wide = h.Texts(torch.cat([corrupted, corrupted[:, :2]], 1), torch.full((3,), 7), ("text",) * 3)
    both, expected = (
        h.prompt_pairs(model, clean, wide, h.log_odds(RIGHT, WRONG)),
        h.prompt_pairs(model, clean, corrupted, h.log_odds(RIGHT, WRONG)),
    )
    assert torch.equal(h.patch_heads(model, both).after, h.patch_heads(model, expected).after)
    filled = [h.Texts(torch.tensor([[5, 6, 7, fill], [5, 6, 7, 8 + fill]]), torch.tensor([3, 4]), ("text",) * 2) for fill in (1, 2)]
    with pytest.raises(ValueError, match="The two prompts of pair 0 are the same"):
        h.prompt_pairs(model, *filled, h.log_odds(5, 6))
