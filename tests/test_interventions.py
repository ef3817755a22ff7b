"""Interventions do what they say, at the named places only, and leave the model to the last bit as it was."""

import pytest
import torch
from byte_model import small
from tiny_models import write_tiny_model

from helpers import interventions as tools
from helpers.models import load_model

__all__ = ["small"]  # the fixture

TOKENS = torch.tensor([[0, 5, 6, 7, 8], [0, 9, 8, 7, 6]])


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_each_kind_does_what_it_says(small):
    place = tools.mlp_post(1)
    before = tools.record(small, TOKENS, place)[place]
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
        with tools.intervene(small, change):
            assert torch.allclose(tools.record(small, TOKENS, place)[place], expected, atol=1e-5), name


@pytest.mark.parametrize(
    "where",
    [
        {"units": 3},
        {"units": [1, -1], "pos": [0, 2]},
        {"pos": -1},
        {"pos": slice(1, None), "units": slice(0, 4)},
        {"pos": torch.tensor([1, 3])},
        {"pos": torch.tensor([1, 3]), "units": torch.tensor([[0, 2], [4, 5]])},
    ],
    ids=str,
)
def test_only_what_is_selected_changes(small, where):
    place = tools.mlp_post(0)
    before = tools.record(small, TOKENS, place)[place]
    with tools.intervene(small, tools.clamp(place, 77.0, **where)):
        after = tools.record(small, TOKENS, place)[place]
    expected = before.clone()
    for row in range(2):
        pos, units = where.get("pos", slice(None)), where.get("units", slice(None))
        positions = torch.arange(5)[pos[row] if torch.is_tensor(pos) else pos].reshape(-1)
        chosen = torch.arange(before.shape[-1])[units[row] if torch.is_tensor(units) else units].reshape(-1)
        expected[row, positions[:, None], chosen] = 77
    assert torch.equal(after, expected)


@pytest.mark.parametrize("kind", ["zero_ablate", "clamp", "mean_ablate", "set_to", "add", "project_out"])
@pytest.mark.parametrize("axes", [3, 4])
def test_everything_is_the_same_as_all_positions(small, axes, kind):
    place = tools.mlp_post(0) if axes == 3 else tools.head_out(0)
    before = tools.record(small, TOKENS, place)[place]
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


def test_mean_and_resample_pick_the_same_units(small):
    place = tools.mlp_post(0)
    before = tools.record(small, TOKENS, place)[place]
    other = torch.arange(before.numel(), dtype=before.dtype).reshape(before.shape)
    with tools.intervene(small, tools.resample_ablate(place, other, units=[2, 4], pos=-1), tools.mean_ablate(place, other[0, 0], units=0)):
        after = tools.record(small, TOKENS, place)[place]
    assert torch.equal(after[:, -1, [2, 4]], other[:, -1, [2, 4]]) and (after[..., 0] == 0).all()
    assert torch.equal(after[:, :-1, 1:], before[:, :-1, 1:])


def test_a_single_head_can_be_chosen(small):
    place = tools.head_out(1)
    before = tools.record(small, TOKENS, place)[place]
    with tools.intervene(small, tools.zero_ablate(place, head=1)):
        after = tools.record(small, TOKENS, place)[place]
    assert (after[:, :, 1] == 0).all() and torch.equal(after[:, :, 0], before[:, :, 0])


def test_interventions_work_in_order_and_contexts_nest(small):
    place = tools.resid_post(0)
    one = torch.ones(small.cfg.d_model)
    with tools.intervene(small, tools.clamp(place, 5.0), tools.add(place, one)):
        with tools.intervene(small, tools.add(place, one)):
            assert (tools.record(small, TOKENS, place)[place] == 7).all()
        assert (tools.record(small, TOKENS, place)[place] == 6).all()


def test_the_model_is_bit_equal_before_and_after_even_after_an_error(small):
    before = small(TOKENS)
    with tools.intervene(small, tools.zero_ablate(tools.mlp_post(0)), tools.add(tools.resid_post(1), torch.ones(small.cfg.d_model))):
        changed = small(TOKENS)
    assert not torch.equal(before, changed) and torch.equal(before, small(TOKENS))
    with pytest.raises(KeyError), tools.intervene(small, tools.zero_ablate(tools.mlp_post(0))):
        raise KeyError
    assert torch.equal(before, small(TOKENS))


def test_recording_changes_nothing_and_stops_early(small):
    seen = []
    with small.hooks(fwd_hooks=[(tools.resid_post(1), lambda value, hook: seen.append(1))]):
        kept = tools.record(small, TOKENS, tools.resid_post(0), "hook_embed")
    assert set(kept) == {tools.resid_post(0), "hook_embed"} and not seen
    assert tools.record(small, TOKENS, "ln_final.hook_normalized")["ln_final.hook_normalized"].shape == (2, 5, small.cfg.d_model)


def test_gradients_flow_through_an_intervention(small):
    with torch.enable_grad():
        dose = torch.zeros(small.cfg.d_model, requires_grad=True)
        with tools.intervene(small, tools.add(tools.resid_post(0), dose)):
            small(TOKENS)[0, -1, 5].backward()
    assert dose.grad.abs().sum() > 0


def test_heads_of_its_own_for_each_row(small):
    place = tools.head_out(1)
    before = tools.record(small, TOKENS, place)[place]
    with tools.intervene(small, tools.clamp(place, 7.0, head=torch.tensor([[1], [0]]), pos=torch.tensor([2, 4]))):
        after = tools.record(small, TOKENS, place)[place]
    expected = before.clone()
    expected[0, 2, 1] = expected[1, 4, 0] = 7
    assert torch.equal(after, expected)


@pytest.mark.parametrize("where", [{}, {"pos": -1}, {"units": [0, 3]}, {"units": torch.tensor([[0, 3], [1, 2]])}], ids=str)
def test_several_heads_for_each_row_take_their_own_values(small, where):
    place = tools.head_out(0)
    before = tools.record(small, TOKENS, place)[place]
    other, chosen = torch.arange(before.numel(), dtype=before.dtype).reshape(before.shape), torch.tensor([[0, 1], [1, 1]])
    after = tools.resample_ablate(place, other, head=chosen, **where)(before)
    expected = before.clone()
    for row in range(2):
        pos, units = [4] if "pos" in where else range(5), torch.as_tensor(where.get("units", range(before.shape[-1])))
        for at in pos:
            for head in chosen[row]:
                mine = units[row] if units.ndim == 2 else units
                expected[row, at, head, mine] = other[row, at, head, mine]
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_heads_are_chosen_in_a_list_as_in_rows_that_are_all_the_same(small):
    place = tools.head_out(0)
    before = tools.record(small, TOKENS, place)[place]
    for heads in ([1], [0, 1]):
        rows = torch.tensor([heads, heads])
        assert torch.equal(tools.zero_ablate(place, head=heads)(before), tools.zero_ablate(place, head=rows)(before))


@pytest.fixture(scope="module", params=["gpt2", "neox-parallel", "llama-grouped", "gemma2"])
def family(request, tmp_path_factory):
    return load_model(write_tiny_model(request.param, tmp_path_factory.mktemp(request.param)))


def test_values_and_pattern_make_the_output_of_each_head(family):
    seen = tools.record(family, TOKENS, tools.head_v(1), tools.pattern(1), tools.head_out(1))
    values, pattern, out = seen[tools.head_v(1)], seen[tools.pattern(1)], seen[tools.head_out(1)]
    assert values.shape[:2] == out.shape[:2] and values.shape[2] in (2, 4) and out.shape[2] == 4
    shared = values.repeat_interleave(4 // values.shape[2], dim=2)  # a grouped-query model has one for two heads
    assert torch.allclose(torch.einsum("bhqk,bkhd->bqhd", pattern, shared), out, atol=1e-5)


def test_queries_ask_and_keys_are_found(family):
    queries, keys = tools.head_q(1), tools.head_k(1)
    seen = tools.record(family, TOKENS, queries, keys)
    assert seen[queries].shape == (2, 5, 4, 8) and seen[keys].shape[:2] == (2, 5) and seen[keys].shape[2] in (2, 4)
    even = 1 / torch.arange(1, 6.0)[:, None].expand(5, 5).tril()  # without a question all earlier tokens count the same
    for change in (tools.zero_ablate(queries), tools.zero_ablate(keys)):
        with tools.intervene(family, change):
            looks = tools.record(family, TOKENS, tools.pattern(1))[tools.pattern(1)]
        assert torch.allclose(looks, torch.where(even.isfinite(), even, 0).expand_as(looks), atol=1e-6)


def test_a_query_of_one_head_moves_no_other_head(family):
    before = tools.record(family, TOKENS, tools.pattern(0))[tools.pattern(0)]
    with tools.intervene(family, tools.clamp(tools.head_q(0), 2.0, head=torch.tensor([[1], [3]]), pos=4)):
        after = tools.record(family, TOKENS, tools.pattern(0))[tools.pattern(0)]
    moved = (after - before).abs().amax(-1) > 1e-4  # [row, head, query]
    assert moved.nonzero().tolist() == [[0, 1, 4], [1, 3, 4]]


def test_watching_changes_nothing_and_sees_what_others_have_left(small):
    place, seen = tools.resid_post(0), []
    whole = small(TOKENS)
    with tools.intervene(small, tools.watch(place, seen.append)):
        assert torch.equal(small(TOKENS), whole)
    with tools.intervene(small, tools.watch(place, seen.append), tools.clamp(place, 3.0), tools.watch(place, seen.append)):
        assert not torch.equal(small(TOKENS), whole)
    assert len(seen) == 3 and torch.equal(seen[0], seen[1]) and (seen[2] == 3).all()
    assert torch.equal(seen[0], tools.record(small, TOKENS, place)[place])
    assert torch.equal(small(TOKENS), whole) and len(seen) == 3


def test_what_is_watched_has_its_gradient(small):
    seen = []
    with torch.enable_grad(), tools.intervene(small, tools.watch(tools.resid_post(0), seen.append)):
        slope = torch.autograd.grad(small(TOKENS)[:, -1, 5].sum(), seen[0])[0]
    assert slope.shape == seen[0].shape and slope.abs().sum() > 0


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: tools.zero_ablate(tools.mlp_post(99)), "this model's layers are 0 to 1"),
        (lambda: tools.zero_ablate("blocks.0.hook_nothing"), "has no place 'hook_nothing'; it has hook_"),
        (lambda: tools.zero_ablate("nonsense"), "There is no place 'nonsense'"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), units=10_000), "There is no unit 10000 at blocks.0.mlp.hook_post: it has"),
        (lambda: tools.zero_ablate(tools.mlp_post(0), pos=9), "There is no position 9"),
        (lambda: tools.zero_ablate(tools.head_out(0), head=64), "There is no head 64"),
        (
            lambda: tools.zero_ablate(tools.head_out(0), head=torch.tensor([[0], [2]])),
            "There is no head 2 at blocks.0.attn.hook_z",
        ),
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
