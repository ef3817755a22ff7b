"""Activation patching gives the numbers of TransformerLens's own loops, and its estimates by gradients are right where they can be.

This is the one test that imports ``transformer_lens`` past the door of the course: its sweeps are an independent truth.
"""

from collections.abc import Callable

import pytest
import torch
from tiny_models import ARCHITECTURES

from helpers import interventions
from helpers.cluster.patching import (
    PARTS,
    PatchMap,
    PromptPairs,
    attribute_positions,
    correlation,
    metric_at_ends,
    patch_heads,
    patch_parts,
    patch_positions,
    prompt_pairs,
)
from helpers.interventions import head_k, head_out, mlp_out, pattern, record, resample_ablate, resid_pre
from helpers.metrics import log_odds, word_odds
from helpers.texts import Texts

pytestmark = pytest.mark.usefixtures("no_gradients")

RIGHT, WRONG = torch.tensor([5, 9, 7]), torch.tensor([6, 6, 8])
NAMES = ("resid_pre", "mlp_out", "attn_out", "head_out", "head_q", "head_k", "head_v", "pattern")
PLACES = {name: getattr(interventions, name) for name in NAMES}
SWEEPS = {  # the library's names
    name: f"attn_head_{name.removeprefix('head_')}_all_pos" if name.startswith(("head", "pattern")) else name for name in PLACES
}
CONSTANT = PatchMap(torch.ones(2, 2, 1), torch.ones(1), torch.zeros(1), ("a", "b"), "attn.hook_z")


@pytest.fixture(scope="module")
def model(load):
    return load("gpt2")


def random_pairs(lengths=(7, 7, 7), first=3, seed=1) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupted tokens that differ at ``first`` and at the token before each end."""
    clean = torch.randint(5, 250, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    corrupted = clean.clone()
    corrupted[:, first] += 1
    corrupted[torch.arange(len(lengths)), torch.tensor(lengths) - 2] += 2
    return clean, corrupted


def make_pairs(model, lengths=(7, 7, 7), first=3, seed=1, metric=None):
    sides = [Texts(tokens, torch.tensor(lengths), ("text",) * len(lengths)) for tokens in random_pairs(lengths, first, seed)]
    return prompt_pairs(model, *sides, metric or log_odds(RIGHT[: len(lengths)], WRONG[: len(lengths)]))


@pytest.fixture(scope="module")
def pairs(model):
    return make_pairs(model)


def sweep_of_library(name: str) -> Callable:
    """A sweep of TransformerLens: ``(model, corrupted tokens, clean cache, metric of all logits that is one number)``."""
    from transformer_lens import patching as library

    return getattr(library, f"get_act_patch_{name}")


def by_library(model, pairs, name: str, **options) -> torch.Tensor:
    """The mean metric after each patch, one run of the model for each."""
    _, cache = model.run_with_cache(pairs.clean.tokens)
    return sweep_of_library(name)(model, pairs.corrupted.tokens, cache, lambda logits: pairs.metric(logits).mean(), **options)


def metric(pairs, model, tokens) -> torch.Tensor:
    """The metric of each prompt by the whole run, read at each prompt's end."""
    logits = model(tokens)[torch.arange(len(tokens)), pairs.ends]
    return pairs.metric(logits[:, None])


def assert_as_library(model, pairs, place: str) -> None:
    sweep = patch_heads if SWEEPS[place].endswith("all_pos") else patch_positions
    result, expected = sweep(model, pairs, PLACES[place]), by_library(model, pairs, SWEEPS[place])
    torch.testing.assert_close(result.after.mean(-1), expected, atol=1e-4, rtol=0)
    assert (expected - result.corrupted.mean()).abs().max() > 1e-3, "the comparison would not see a difference"
    assert result.after.shape == (*expected.shape, len(pairs)) and len(result.columns) == expected.shape[1]


@pytest.mark.parametrize("place", [place for place in SWEEPS if place not in ("head_q", "head_k")])  # these further below
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patches_equal_those_of_the_library(load, architecture, place):
    assert_as_library(load(architecture), make_pairs(load(architecture), (5, 5), first=2), place)


@pytest.mark.parametrize(
    "architecture, places, length, first, options",
    [
        ("gpt2", ["resid_pre", "head_out", "pattern"], 5, 2, {"raw": True}),
        ("gemma2", ["resid_pre", "head_out", "pattern"], 5, 2, {"raw": True}),
        ("neox-serial", SWEEPS, 4, 0, {}),  # prompts that differ from the first token on
        ("llama-grouped", SWEEPS, 4, 0, {}),
        ("gemma2", ["attn_out", "head_k", "pattern"], 20, 2, {}),  # longer than a sliding window of 16; the shared beginning
        ("gemma2", ["attn_out", "head_k", "pattern"], 20, 17, {}),  # may be longer than that
    ],
)
def test_patches_of_other_prompts_and_raw_models_equal_those_of_the_library(load, architecture, places, length, first, options):
    model = load(architecture, **options)
    for place in places:
        assert_as_library(model, make_pairs(model, (length, length), first=first), place)


def pairs_of_row(pairs, row: int):
    """One pair alone, without filling."""
    return PromptPairs(pairs.clean.take([row]), pairs.corrupted.take([row]), log_odds(RIGHT[row : row + 1], WRONG[row : row + 1]))


@pytest.mark.parametrize("architecture", ["neox-parallel", "gemma2"])
def test_prompts_of_unequal_length_give_the_numbers_of_each_alone(load, architecture):
    model, lengths = load(architecture), (8, 6, 7)
    pairs, at = make_pairs(model, lengths), [torch.full((3,), 3), torch.tensor(lengths) - 2, torch.tensor(lengths) - 1]
    named = patch_positions(model, pairs, positions=at, names=["changed", "before", "end"])
    estimated = attribute_positions(model, pairs, positions=at)
    every = [patch_heads(model, pairs, place).after for place in (head_out, head_k, pattern)]
    assert named.columns == ("changed", "before", "end") and estimated.columns[0] == "position 0"
    for row in range(3):
        alone, chosen = pairs_of_row(pairs, row), [int(pos[row]) for pos in at]
        torch.testing.assert_close(named.after[..., row], patch_positions(model, alone).after[:, chosen, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(estimated.after[..., row], attribute_positions(model, alone).after[:, chosen, 0], atol=1e-4, rtol=0)
        for found, place in zip(every, (head_out, head_k, pattern), strict=True):
            torch.testing.assert_close(found[..., row], patch_heads(model, alone, place).after[..., 0], atol=1e-4, rtol=0)


def test_what_stands_in_the_filling_plays_no_part(model):
    pairs = make_pairs(model, (8, 6, 7))
    other = []
    for number, side in enumerate((pairs.clean, pairs.corrupted)):
        tokens = side.tokens.clone()
        tokens[torch.arange(8) >= side.lengths[:, None]] = 11 + number
        other.append(Texts(tokens, side.lengths, side.kinds))
    again = prompt_pairs(model, *other, pairs.metric)
    torch.testing.assert_close(patch_heads(model, again).after, patch_heads(model, pairs).after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "neox-parallel", "gemma2"])
def test_before_the_first_difference_a_patch_changes_nothing(load, architecture):
    model = load(architecture)
    pairs = make_pairs(model)
    for place in (resid_pre, mlp_out):
        assert (patch_positions(model, pairs, place).change[:, :3] == 0).all()
    nowhere = patch_positions(model, pairs, positions=[torch.tensor([0, 1, 2])])
    torch.testing.assert_close(nowhere.after, nowhere.corrupted.expand(2, 1, -1), atol=1e-5, rtol=0)
    assert attribute_positions(model, pairs).change[:, :3].abs().max() < 1e-5


def test_pairs_whose_first_differences_lie_apart(model):
    clean, corrupted = random_pairs((7, 7, 7), 5)
    corrupted[2, 0], corrupted[1, 3] = 3, 4  # so at position 3 the first prompt alone has nothing to patch
    pairs = prompt_pairs(model, clean, corrupted, log_odds(RIGHT, WRONG))
    assert pairs.first_difference.tolist() == [5, 3, 0] and pairs.ends.tolist() == [6, 6, 6] and len(pairs) == 3
    assert_as_library(model, pairs, "resid_pre")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clean_and_corrupted_are_the_metric_of_the_whole_runs(load, architecture):
    model = load(architecture)
    pairs = make_pairs(model, (8, 6, 7))
    sides = metric(pairs, model, pairs.clean.tokens), metric(pairs, model, pairs.corrupted.tokens)
    result = patch_heads(model, pairs)
    for found in ((result.clean, result.corrupted), (metric_at_ends(model, pairs), metric_at_ends(model, pairs, texts=pairs.corrupted))):
        torch.testing.assert_close(found, sides, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_is_bit_equal_before_and_after_even_after_an_error(load, architecture):
    model = load(architecture)
    pairs = make_pairs(model)
    before = model(pairs.clean.tokens)
    attribute_positions(model, pairs)
    with pytest.raises(ZeroDivisionError), model.hooks(fwd_hooks=[(mlp_out(1), lambda value, hook: 1 / 0)]):
        patch_heads(model, pairs)
    assert torch.equal(model(pairs.clean.tokens), before) and not any(parameter.grad is not None for parameter in model.parameters())


def test_effects_tables_and_correlations_by_hand():
    after = torch.tensor([[[0.0, 1.0], [4.0, 3.0], [0.0, 1.0]], [[-3.0, -2.0], [0.0, 4.0], [2.0, 5.0]]])  # [layer, column, prompt]
    by_hand = PatchMap(after, torch.tensor([4.0, 3.0]), torch.tensor([0.0, 1.0]), ("a", "bb", "head 2"), "attn.hook_z")
    assert torch.allclose(by_hand.change, torch.tensor([[0.0, 3.0, 0.0], [-3.0, 1.5, 3.0]]))
    assert torch.allclose(by_hand.effect, torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.5, 1.0]]))
    assert by_hand.top(4) == [(0, 1), (1, 0), (1, 2), (1, 1)]
    lines = by_hand.table(3).splitlines()
    assert lines == [" layer  where   effect", "     0  bb        1.00", "     1  a        -1.00", "     1  head 2    1.00"]
    turned = PatchMap(-by_hand.after, by_hand.clean, -by_hand.corrupted, by_hand.columns, by_hand.place)
    assert correlation(by_hand, by_hand) == pytest.approx(1) and correlation(by_hand, turned) == pytest.approx(-1)


def step_towards(model, pairs, place: str, share: float, **where) -> torch.Tensor:
    """By how much the metric of each corrupted prompt rises for a small step of one place towards the clean value, per whole step."""
    seen = [record(model, side.tokens, place)[place] for side in (pairs.clean, pairs.corrupted)]
    sides = [resample_ablate(place, seen[1] + sign * share * (seen[0] - seen[1]), **where) for sign in (1, -1)]
    after, before = (metric_at_ends(model, pairs, side, texts=pairs.corrupted) for side in sides)
    return (after - before) / (2 * share)


def assert_slope(model, pairs, found: PatchMap, place: str, layer: int, column: int, **where) -> None:
    slope = step_towards(model, pairs, PLACES[place](layer), 0.02, **where)
    torch.testing.assert_close(found.after[layer, column] - found.corrupted, slope, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("place", ["resid_pre", "mlp_out", "attn_out", "head_out"])
@pytest.mark.parametrize("architecture", ["neox-parallel", "llama-grouped", "gemma2"])
def test_estimates_are_the_slope_of_a_small_step(load, architecture, place):
    model = load(architecture)
    pairs = make_pairs(model, (8, 6, 7))
    positions = [torch.full((3,), 3), pairs.ends]
    estimated = attribute_positions(model, pairs, PLACES[place], positions)
    for column, pos in enumerate(positions):
        assert_slope(model, pairs, estimated, place, 1, column, pos=pos)


def test_integrated_gradients_of_the_embedding_add_up_to_the_whole_difference(load):
    for family in ("llama", "neox-parallel"):
        pairs = make_pairs(load(family))
        for steps, close in ((0, False), (20, True)):
            result = attribute_positions(load(family), pairs, steps=steps)
            total, wanted = result.after[0].sub(result.corrupted).sum(0), result.clean - result.corrupted
            assert torch.allclose(total, wanted, atol=0.02) == close, (family, steps)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m, b: prompt_pairs(m, ["Paris is"], ["Paris is"], b.metric), "The two prompts of pair 0 are the same: there is nothing"),
        (lambda m, b: prompt_pairs(m, ["Paris is"], ["The tower is in"], b.metric), "both prompts need equally many"),
        (lambda m, b: prompt_pairs(m, ["Paris is"], ["Paris is", "x"], b.metric), "There are 1 clean prompts and 2 corrupted ones"),
        (lambda m, b: prompt_pairs(m, ["a"], ["b"], word_odds(m, ["a"], ["x"], ["y"])), "reads the last position only"),
        (lambda m, b: patch_positions(m, make_pairs(m, (8, 6, 7))), "not equally long, so their positions do not"),
        (lambda m, b: patch_positions(m, b, positions=[torch.tensor([1, 2, 7])]), "Positions count from 0 to a prompt's last token"),
        (lambda m, b: patch_positions(m, b, positions=[torch.tensor([1, -1, 3])]), "Positions count from 0"),
        (lambda m, b: patch_positions(m, b, positions=[]), "at least one is needed"),
        (lambda m, b: patch_positions(m, b, positions=[b.ends], names=["a", "b"]), "There are 2 names and 1 positions"),
        (lambda m, b: patch_positions(m, b, names=["a"]), "There are 1 names and 7 positions"),
        (lambda m, b: patch_positions(m, b, pattern), "belongs to no single position: use patch_heads"),
        (lambda m, b: patch_heads(m, b, mlp_out), "blocks.0.hook_mlp_out has no heads to patch"),
        (lambda m, b: patch_positions(m, b, lambda layer: f"blocks.{layer}.hook_none"), "has no place 'hook_none'"),
        (lambda m, b: patch_heads(m, make_pairs(m, metric=lambda logits: logits.mean())), "must give one number for each of the 3"),
        (lambda m, b: correlation(CONSTANT, CONSTANT), "has the same value everywhere"),
        (lambda m, b: attribute_positions(m, make_pairs(m, metric=lambda logits: logits[:, -1].argmax(-1) * 1.0)), "has no gradient"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(model, pairs, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(model, pairs)
    assert sentence in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_sides_may_be_filled_differently(model):
    clean, corrupted = random_pairs()
    wide = Texts(torch.cat([corrupted, corrupted[:, :2]], 1), torch.full((3,), 7), ("text",) * 3)
    found, expected = (patch_heads(model, prompt_pairs(model, clean, side, log_odds(RIGHT, WRONG))).after for side in (wide, corrupted))
    assert torch.equal(found, expected)
    filled = [Texts(torch.tensor([[5, 6, 7, fill], [5, 6, 7, 8 + fill]]), torch.tensor([3, 4]), ("text",) * 2) for fill in (1, 2)]
    with pytest.raises(ValueError, match="The two prompts of pair 0 are the same"):
        prompt_pairs(model, *filled, log_odds(5, 6))


def test_parts_of_a_head_restore_what_their_maps_say(model, pairs):
    lines = [line.split() for line in patch_parts(model, pairs, [(1, 2), (0, 1)]).splitlines()]
    assert lines[0] == ["head", *PARTS] and [line[0] for line in lines[1:]] == ["a1.2", "a0.1"]
    for number, place in enumerate(PARTS.values(), 1):
        effect = patch_heads(model, pairs, place).effect
        assert [float(line[number]) for line in lines[1:]] == pytest.approx([effect[1, 2].item(), effect[0, 1].item()], abs=0.006)
