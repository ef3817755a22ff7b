"""Direct logit attribution: the shares of all components add up, and a head whose weights are set by hand has the right one."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import ARCHITECTURES, write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

FAMILIES = [name for name in ARCHITECTURES if name not in ("course-like", "gemma2")]
LENGTHS = (7, 5, 6)
RIGHT, WRONG = torch.tensor([5, 9, 7]), torch.tensor([6, 8, 40])


@pytest.fixture(scope="module")
def h():
    """All that is tested here."""
    from helpers import interventions, metrics, texts
    from helpers.cluster import attribution

    return SimpleNamespace(**vars(metrics) | vars(interventions) | vars(texts) | vars(attribution))


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
def prompts(h):
    """Three prompts of unequal length."""
    tokens = torch.randint(5, 250, (3, 7), generator=torch.Generator().manual_seed(1))
    return h.Texts(tokens, torch.tensor(LENGTHS), ("text",) * 3)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def last_logits(model, texts) -> torch.Tensor:
    return model(texts.tokens)[torch.arange(len(texts)), texts.lengths - 1]


def logit_difference(model, texts, right=RIGHT, wrong=WRONG) -> torch.Tensor:
    logits, rows = last_logits(model, texts), torch.arange(len(texts))
    return logits[rows, right] - logits[rows, wrong]


# -------------------------------------------------------------------------------------------------------------- the sum


@pytest.mark.parametrize("raw", [False, True], ids=["folded", "raw"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_effects_add_up_to_the_logit_difference(h, load, prompts, architecture, raw):
    model = load(architecture, raw)
    effects, expected = h.direct_effects(model, prompts, RIGHT, WRONG), logit_difference(model, prompts)
    torch.testing.assert_close(effects.total, expected, atol=1e-4, rtol=0)
    assert effects.of_heads.shape == (2, 4) and effects.of_mlps.shape == (2,) and expected.abs().min() > 1e-3
    assert min(effects.of(name).abs().max() for name in ("embed", "a0.0", "a1.3", "m0", "m1")) > 1e-3


@pytest.mark.parametrize("architecture", FAMILIES)
def test_components_add_up_to_the_last_stream(h, load, prompts, architecture):
    model = load(architecture)
    parts, place = h.components(model, prompts), h.resid_post(1)
    stream = h.record(model, prompts.tokens, place)[place][torch.arange(3), prompts.lengths - 1]
    torch.testing.assert_close(parts.sum(0), stream, atol=1e-4, rtol=0)
    assert len(parts) == len(h.component_names(2, 4)) == 1 + 2 * (4 + 1 + 1)


def test_half_precision_adds_up_too(h, prompts, tmp_path):
    from helpers.models import load_model

    model = load_model(write_tiny_model("neox-parallel", tmp_path), dtype="bfloat16", device="cpu")
    found = h.direct_effects(model, prompts, RIGHT, WRONG)
    assert found.effect.isfinite().all() and found.effect.dtype == torch.float32


def test_names_are_those_of_the_writers_in_order(h):
    assert h.component_names(2, 2) == ("embed", "a0.0", "a0.1", "bias 0", "m0", "a1.0", "a1.1", "bias 1", "m1")


@pytest.mark.parametrize("architecture", ["gpt2", "llama-grouped"])
def test_each_component_is_what_its_writer_wrote(h, load, prompts, architecture):
    model, rows, ends = load(architecture), torch.arange(3), prompts.lengths - 1
    parts = dict(zip(h.component_names(2, 4), h.components(model, prompts), strict=True))
    before = h.record(model, prompts.tokens, h.attn_out(1))[h.attn_out(1)][rows, ends]
    with h.intervene(model, h.zero_ablate(h.head_out(1), head=2)):
        without = h.record(model, prompts.tokens, h.attn_out(1))[h.attn_out(1)][rows, ends]
    torch.testing.assert_close(parts["a1.2"], before - without, atol=1e-5, rtol=0)
    with h.intervene(model, h.zero_ablate(h.head_out(1))):
        bias = h.record(model, prompts.tokens, h.attn_out(1))[h.attn_out(1)][rows, ends]
    torch.testing.assert_close(parts["bias 1"], bias, atol=1e-5, rtol=0)
    written = h.record(model, prompts.tokens, h.mlp_out(0))[h.mlp_out(0)][rows, ends]
    torch.testing.assert_close(parts["m0"], written, atol=1e-6, rtol=0)


def test_several_wrong_answers_count_with_their_mean(h, load, prompts):
    model, several = load("gpt2"), torch.tensor([[6, 8, 40], [1, 2, 3], [9, 8, 7]])
    logits, rows = last_logits(model, prompts), torch.arange(3)
    expected = logits[rows, RIGHT] - logits[rows[:, None], several].mean(1)
    effects = h.direct_effects(model, prompts, RIGHT, several)
    torch.testing.assert_close(effects.total, expected, atol=1e-4, rtol=0)
    single = [h.direct_effects(model, prompts, RIGHT, several[:, at]).effect for at in range(3)]
    torch.testing.assert_close(effects.effect, torch.stack(single).mean(0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "neox-parallel", "llama"])
def test_effects_under_an_intervention_are_those_of_the_changed_run(h, load, prompts, architecture):
    model, plain = load(architecture), h.direct_effects(load(architecture), prompts, RIGHT, WRONG)
    change = h.zero_ablate(h.head_out(0), head=1)
    with h.intervene(model, change):
        expected = logit_difference(model, prompts)
    effects = h.direct_effects(model, prompts, RIGHT, WRONG, change)
    torch.testing.assert_close(effects.total, expected, atol=1e-4, rtol=0)
    assert effects.of("a0.1").abs().max() == 0 < plain.of("a0.1").abs().max()
    assert (effects.of("m1") - plain.of("m1")).abs().max() > 1e-4  # what reads the head writes something else
    torch.testing.assert_close(h.direct_effects(model, prompts, RIGHT, WRONG).effect, plain.effect, atol=0, rtol=0)


@pytest.mark.parametrize("raw", [False, True], ids=["folded", "raw"])
def test_models_that_rescale_what_heads_write_are_refused(h, load, prompts, raw):
    for work in (lambda model: h.components(model, prompts), lambda model: h.direct_effects(model, prompts, RIGHT, WRONG)):
        with pytest.raises(ValueError, match="rescales what its heads write together, so no head has an output of its own") as caught:
            work(load("gemma2", raw))
        assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- a planted head


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A GPT-2 in which head a1.2 alone writes: the mean of one reading of all tokens, for token 5 and against token 6."""
    from helpers.models import load_model

    folder = write_tiny_model("gpt2", tmp_path_factory.mktemp("planted"))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for block in plain.transformer.h:
            for part in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.zero_()
        for norm in (plain.transformer.ln_f, plain.transformer.h[1].ln_1):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        head = plain.transformer.h[1].attn
        head.c_attn.weight[3, 2 * 32 + 2 * 8] = 1.0  # the first number that head 2 carries is the fourth of the normed stream
        table = plain.transformer.wte.weight
        table.sub_(table.mean(1, keepdim=True))
        head.c_proj.weight[2 * 8] = table[5] - table[6]
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder), plain


def test_a_planted_head_has_the_right_share(h, planted, prompts):
    model, plain = planted
    table, rows = plain.transformer.wte.weight, torch.arange(3)
    direction, ends = table[5] - table[6], prompts.lengths - 1
    stream = table[prompts.tokens] + plain.transformer.wpe.weight[:7]
    carried = torch.nn.functional.layer_norm(stream, (32,))[..., 3]
    read = torch.stack([carried[row, : ends[row] + 1].mean() for row in rows])  # nothing is asked for, so all tokens count the same
    start = stream[rows, ends] - stream[rows, ends].mean(1, keepdim=True)
    last = start + read[:, None] * direction
    scale = (last.pow(2).mean(1) + 1e-5).sqrt()
    right, wrong = torch.full((3,), 5), torch.full((3,), 6)
    effects = h.direct_effects(model, prompts, right, wrong)
    torch.testing.assert_close(effects.of("a1.2"), read * direction.pow(2).sum() / scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(effects.of("embed"), start @ direction / scale, atol=1e-4, rtol=1e-4)
    others = [at for at, name in enumerate(effects.names) if name not in ("a1.2", "embed")]
    assert effects.effect[others].abs().max() < 1e-4 and effects.of("a1.2").abs().min() > 0.05
    assert effects.of_heads.abs().argmax() == 1 * 4 + 2


def test_only_what_a_head_puts_out_at_the_last_position_counts(h, planted, prompts):
    model, _ = planted
    right, wrong, place = torch.full((3,), 5), torch.full((3,), 6), h.head_out(1)
    ends = prompts.lengths - 1
    taken = [h.direct_effects(model, prompts, right, wrong, h.zero_ablate(place, head=2, pos=at)) for at in (ends, ends - 1)]
    assert taken[0].of("a1.2").abs().max() == 0
    torch.testing.assert_close(taken[1].effect, h.direct_effects(model, prompts, right, wrong).effect, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------------- the result


@pytest.fixture
def by_hand(h):
    """One layer with two heads, two prompts."""
    names = (*h.component_names(1, 2), "constant")
    return h.DirectEffects(torch.tensor([[0.0, 1.0], [2.0, 4.0], [-5.0, -3.0], [0.0, 0.0], [1.0, 3.0], [0.5, 0.5]]), names, 2)


def test_means_heads_and_mlps_by_hand(by_hand):
    assert by_hand.mean.tolist() == [0.5, 3.0, -4.0, 0.0, 2.0, 0.5]
    assert by_hand.of_heads.tolist() == [[3.0, -4.0]] and by_hand.of_mlps.tolist() == [2.0]
    assert by_hand.total.tolist() == [-1.5, 5.5] and by_hand.of("m0").tolist() == [1.0, 3.0]


def test_the_largest_effects_come_first_with_their_intervals(by_hand):
    from helpers.stats import mean_interval

    assert by_hand.top(3) == ["a0.1", "a0.0", "m0"]
    assert by_hand.interval("a0.1") == pytest.approx(mean_interval([-5.0, -3.0]))
    lines = by_hand.table(2).splitlines()
    assert lines == ["component  logits   95 % interval", "a0.1        -4.00   [-5.96, -2.04]", "a0.0        +3.00   [+1.04, +4.96]"]


@pytest.mark.parametrize("name", ["a9.9", "embedding", "a0.2"])
def test_an_unknown_component(by_hand, name):
    with pytest.raises(ValueError, match=rf"There is no component '{name}': heads are named like a4\.2, MLPs like m5\.$"):
        by_hand.of(name)
    with pytest.raises(ValueError, match="There is no component"):
        by_hand.interval(name)


# ---------------------------------------------------------------------------------------------------- resampling of heads


def test_heads_put_out_what_they_did_in_another_run(h, load, prompts):
    model, chosen = load("gpt2"), [(1, 0), (0, 1), (1, 3)]
    places, other = [h.head_out(0), h.head_out(1)], (prompts.tokens + 1) % 250
    values, before = (h.record(model, tokens, *places) for tokens in (other, prompts.tokens))
    changes = h.other_outputs(chosen, values)
    assert [change.hook for change in changes] == places  # one for each layer
    for change, place in zip(changes, places, strict=True):
        after = change(before[place])
        heads = [head for layer, head in chosen if h.head_out(layer) == place]
        rest = [head for head in range(4) if head not in heads]
        assert torch.equal(after[:, :, heads], values[place][:, :, heads]) and torch.equal(after[:, :, rest], before[place][:, :, rest])


def test_heads_put_out_something_else_at_one_position(h, load, prompts):
    model, place = load("gpt2"), h.head_out(1)
    values, before = (h.record(model, tokens, place) for tokens in ((prompts.tokens + 1) % 250, prompts.tokens))
    change = h.other_outputs([(1, 2)], values, pos=prompts.lengths - 1)[0]
    expected, rows = before[place].clone(), torch.arange(3)
    expected[rows, prompts.lengths - 1, 2] = values[place][rows, prompts.lengths - 1, 2]
    assert torch.equal(change(before[place]), expected) and not torch.equal(expected, before[place])
    assert h.other_outputs([], values) == []


def test_the_direction_of_a_token_is_its_column_of_the_unembedding(h, load):
    model = load("gpt2")
    tokens, several = torch.tensor([5, 9]), torch.tensor([[5, 9], [1, 1]])
    assert torch.equal(h.unembedding(model, tokens), model.W_U[:, [5, 9]].T)
    expected = torch.stack([(model.W_U[:, 5] + model.W_U[:, 9]) / 2, model.W_U[:, 1]])
    torch.testing.assert_close(h.unembedding(model, several), expected, atol=1e-6, rtol=0)


def test_the_model_is_bit_equal_before_and_after(h, load, prompts):
    for family in ("gpt2", "llama-grouped"):
        model = load(family)
        before = model(prompts.tokens)
        h.direct_effects(model, prompts, RIGHT, WRONG, h.zero_ablate(h.mlp_post(0)))
        assert torch.equal(model(prompts.tokens), before)
