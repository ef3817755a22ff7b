"""Interventions do what they say, at the named places only, and leave the model to the last bit as it was."""

from itertools import product

import pytest
import torch

from helpers import interventions as tools

pytestmark = pytest.mark.usefixtures("no_gradients")
TOKENS = torch.tensor([[0, 5, 6, 7, 8], [0, 9, 8, 7, 6]])


def seen(model, place: str, *changes: tools.Intervention) -> torch.Tensor:
    """What passes a place, with some interventions or none."""
    with tools.intervene(model, *changes):
        return tools.record(model, TOKENS, place)[place]


def test_each_kind_does_what_it_says(small):
    place = tools.mlp_post(1)
    before = seen(small, place)
    average, other, vector = torch.full(before.shape[-1:], 0.25), torch.randn_like(before), torch.randn(before.shape[-1])
    cases = {
        "zero": (tools.zero_ablate(place), torch.zeros_like(before)),
        "clamp": (tools.clamp(place, 3.0), torch.full_like(before, 3)),
        "mean": (tools.mean_ablate(place, average), torch.full_like(before, 0.25)),
        "resample": (tools.resample_ablate(place, other), other),
        "replace": (tools.set_to(place, vector), vector.expand_as(before)),
        "add": (tools.add(place, vector, scale=-2.0), before - 2 * vector),
        "project out": (tools.project_out(place, vector), before - (before @ vector)[..., None] * vector / vector.dot(vector)),
    }
    for name, (change, expected) in cases.items():
        assert torch.allclose(seen(small, place, change), expected, atol=1e-5), name


HEADS = torch.tensor([[0, 1], [1, 1]])


@pytest.mark.parametrize(
    "where",
    [
        {"units": 3},
        {"units": [1, -1], "pos": [0, 2]},
        {"pos": -1},
        {"pos": slice(1, None), "units": slice(0, 4)},
        {"pos": torch.tensor([1, 3])},
        {"pos": torch.tensor([1, 3]), "units": torch.tensor([[0, 2], [4, 5]])},
        {"head": 1},
        {"head": [0, 1], "pos": -1},
        {"head": HEADS},
        {"head": HEADS, "pos": torch.tensor([2, 4])},
        {"head": HEADS, "units": [0, 3]},
        {"head": HEADS, "units": torch.tensor([[0, 3], [1, 2]])},
    ],
    ids=str,
)
def test_only_what_is_selected_changes_and_takes_its_own_values(small, where):
    """By a loop over all numbers: rows may have positions, heads and units of their own."""
    place = tools.head_out(0) if "head" in where else tools.mlp_post(0)
    before = seen(small, place)
    other, expected = torch.arange(before.numel(), dtype=before.dtype).reshape(before.shape), before.clone()
    for row, pos, *heads, unit in product(*map(range, before.shape)):
        place_in_row = zip(("pos", "head", "units"), (pos, *(heads or [0]), unit), (5, 2, before.shape[-1]), strict=True)
        if all(chosen(where.get(name), name, row, size)[at] for name, at, size in place_in_row):
            expected[(row, pos, *heads, unit)] = other[(row, pos, *heads, unit)]
    after = seen(small, place, tools.resample_ablate(place, other, **where))
    assert torch.equal(after, expected) and not torch.equal(after, before)


def chosen(index: object, name: str, row: int, size: int) -> list[bool]:
    """Which numbers from 0 to ``size`` - 1 an index selects in a row."""
    if torch.is_tensor(index) and index.ndim == (1 if name == "pos" else 2):
        index = index[row].reshape(-1)
    selected = torch.arange(size)[slice(None) if index is None else index].reshape(-1).tolist()
    return [at in selected for at in range(size)]


@pytest.mark.parametrize("kind", ["zero_ablate", "clamp", "mean_ablate", "set_to", "add", "project_out"])
@pytest.mark.parametrize("axes", [3, 4])
def test_everything_is_the_same_as_all_positions(small, axes, kind):
    place = tools.mlp_post(0) if axes == 3 else tools.head_out(0)
    before = seen(small, place)
    vector = torch.randn(before.shape[2:] if kind in ("mean_ablate", "set_to", "add") else before.shape[-1:])
    given = {"zero_ablate": (), "clamp": (3.0,)}.get(kind, (vector,))
    kept, activation = vector.clone(), before.clone()
    whole, chosen = getattr(tools, kind)(place, *given), getattr(tools, kind)(place, *given, pos=slice(None))
    assert whole.pos is whole.units is whole.head is None and before.ndim == axes
    assert torch.equal(whole(activation), chosen(activation)) and not torch.equal(whole(activation), before)
    assert torch.equal(activation, before)  # the change is made in a copy
    results = []
    for change in (whole, chosen):
        with tools.intervene(small, change):
            results.append(small(TOKENS))
    assert torch.equal(*results) and not torch.equal(results[0], small(TOKENS)) and torch.equal(vector, kept)


def test_interventions_work_in_order_and_contexts_nest(small):
    place = tools.resid_post(0)
    one = torch.ones(small.cfg.d_model)
    with tools.intervene(small, tools.clamp(place, 5.0), tools.add(place, one)):
        assert (seen(small, place, tools.add(place, one)) == 7).all() and (seen(small, place) == 6).all()


def test_the_model_is_bit_equal_before_and_after_even_after_an_error(small):
    before = small(TOKENS)
    with tools.intervene(small, tools.zero_ablate(tools.mlp_post(0)), tools.add(tools.resid_post(1), torch.ones(small.cfg.d_model))):
        changed = small(TOKENS)
    assert not torch.equal(before, changed) and torch.equal(before, small(TOKENS))
    with pytest.raises(KeyError), tools.intervene(small, tools.zero_ablate(tools.mlp_post(0))):
        raise KeyError
    assert torch.equal(before, small(TOKENS))


def test_recording_changes_nothing_and_stops_early(small):
    later = []
    with small.hooks(fwd_hooks=[(tools.resid_post(1), lambda value, hook: later.append(1))]):
        kept = tools.record(small, TOKENS, tools.resid_post(0), "hook_embed")
    assert set(kept) == {tools.resid_post(0), "hook_embed"} and not later
    assert seen(small, "ln_final.hook_normalized").shape == (2, 5, small.cfg.d_model)


@pytest.fixture(scope="module", params=["gpt2", "neox-parallel", "llama-grouped", "gemma2"])
def family(request, load):
    return load(request.param)


def test_values_and_pattern_make_the_output_of_each_head(family):
    values, pattern, out = tools.record(family, TOKENS, tools.head_v(1), tools.pattern(1), tools.head_out(1)).values()
    assert values.shape[:2] == out.shape[:2] and values.shape[2] in (2, 4) and out.shape[2] == 4
    shared = values.repeat_interleave(4 // values.shape[2], dim=2)  # a grouped-query model has one for two heads
    assert torch.allclose(torch.einsum("bhqk,bkhd->bqhd", pattern, shared), out, atol=1e-5)


def test_queries_ask_and_keys_are_found(family):
    queries, keys = tools.head_q(1), tools.head_k(1)
    assert seen(family, queries).shape == (2, 5, 4, 8) and seen(family, keys).shape in ((2, 5, 2, 8), (2, 5, 4, 8))
    even = 1 / torch.arange(1, 6.0)[:, None].expand(5, 5).tril()  # without a question all earlier tokens count the same
    for change in (tools.zero_ablate(queries), tools.zero_ablate(keys)):
        looks = seen(family, tools.pattern(1), change)
        assert torch.allclose(looks, torch.where(even.isfinite(), even, 0).expand_as(looks), atol=1e-6)


def test_a_query_of_one_head_moves_no_other_head(family):
    before = seen(family, tools.pattern(0))
    after = seen(family, tools.pattern(0), tools.clamp(tools.head_q(0), 2.0, head=torch.tensor([[1], [3]]), pos=4))
    moved = (after - before).abs().amax(-1) > 1e-4  # [row, head, query]
    assert moved.nonzero().tolist() == [[0, 1, 4], [1, 3, 4]]


def test_watching_changes_nothing_and_sees_what_others_have_left(small):
    place, kept = tools.resid_post(0), []
    whole, watch = small(TOKENS), tools.watch(place, kept.append)
    with tools.intervene(small, watch):
        assert torch.equal(small(TOKENS), whole)
    with tools.intervene(small, watch, tools.clamp(place, 3.0), watch):
        assert not torch.equal(small(TOKENS), whole)
    assert len(kept) == 3 and torch.equal(kept[0], kept[1]) and (kept[2] == 3).all()
    assert torch.equal(kept[0], seen(small, place))


def test_gradients_flow_through_interventions_and_to_what_is_watched(small):
    kept, dose = [], torch.zeros(small.cfg.d_model, requires_grad=True)
    changes = tools.add(tools.resid_post(0), dose), tools.watch(tools.resid_post(0), kept.append)
    with torch.enable_grad(), tools.intervene(small, *changes):
        slopes = torch.autograd.grad(small(TOKENS)[:, -1, 5].sum(), [*kept, dose])
    assert slopes[0].abs().sum() > 0 and torch.allclose(slopes[0].sum((0, 1)), slopes[1], atol=1e-6)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: tools.zero_ablate(tools.mlp_post(99)), "this model's layers are 0 to 1"),
        (lambda: tools.zero_ablate("blocks.0.hook_nothing"), "has no place 'hook_nothing'; it has hook_"),
        (lambda: tools.zero_ablate("nonsense"), "There is no place 'nonsense'"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), units=10_000), "There is no unit 10000 at blocks.0.mlp.hook_post: it has"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), pos=9), "There is no position 9"),
        (lambda: tools.zero_ablate(tools.head_out(0), head=64), "There is no head 64"),
        (lambda: tools.zero_ablate(tools.head_out(0), head=torch.tensor([[0], [2]])), "There is no head 2 at blocks.0.attn.hook_z"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), head=0), "has no heads to choose from"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), head=torch.tensor([[0], [1]])), "has no heads to choose from"),
        (lambda: tools.watch("blocks.0.hook_nothing", print), "has no place 'hook_nothing'"),
        (lambda: tools.project_out(tools.resid_post(0), torch.zeros(4)), "points nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(small, wrong, sentence):
    with pytest.raises(ValueError) as caught, tools.intervene(small, wrong()):
        small(TOKENS)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_only_some_places_are_read(small):
    tokens = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(2))
    places = torch.tensor([[6, 0], [3, 3], [1, 2]])
    whole = small(tokens)
    with tools.intervene(small, tools.unembed_only_at(places)):
        some = small(tokens)
    assert torch.allclose(some, whole[torch.arange(3)[:, None], places], atol=1e-6)
    assert torch.equal(small(tokens), whole)
