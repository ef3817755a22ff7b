"""Direct logit attribution: the shares of all components add up, and a head whose weights are set by hand has the right one."""

import pytest
import torch
from tiny_models import ARCHITECTURES, last_logits, write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.cluster.attribution import DirectEffects, component_names, components, direct_effects
from helpers.interventions import attn_out, head_out, intervene, mlp_out, record, resid_post, zero_ablate
from helpers.models import load_model
from helpers.texts import Texts

pytestmark = pytest.mark.usefixtures("no_gradients")

FAMILIES = [name for name in ARCHITECTURES if name != "gemma2"]
LENGTHS = (7, 5, 6)
RIGHT, WRONG = torch.tensor([5, 9, 7]), torch.tensor([6, 8, 40])


@pytest.fixture(scope="module")
def prompts():
    """Three prompts of unequal length."""
    tokens = torch.randint(5, 250, (3, 7), generator=torch.Generator().manual_seed(1))
    return Texts(tokens, torch.tensor(LENGTHS), ("text",) * 3)


def logit_difference(model, texts, right=RIGHT, wrong=WRONG) -> torch.Tensor:
    logits, rows = last_logits(model, texts), torch.arange(len(texts))
    return logits[rows, right] - logits[rows, wrong]


@pytest.mark.parametrize("raw", [False, True], ids=["folded", "raw"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_effects_add_up_to_the_logit_difference(load, prompts, architecture, raw):
    model = load(architecture, raw=raw)
    effects, expected = direct_effects(model, prompts, RIGHT, WRONG), logit_difference(model, prompts)
    torch.testing.assert_close(effects.total, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close((components(model, prompts) * effects.readout).sum(-1), effects.effect[:-1], atol=1e-5, rtol=0)
    assert effects.of_heads.shape == (2, 4) and expected.abs().min() > 1e-3
    assert min(effects.of(name).abs().max() for name in ("embed", "a0.0", "a1.3", "m0", "m1")) > 1e-3


def test_half_precision_adds_up_too(prompts, tmp_path):
    model = load_model(write_tiny_model("neox-parallel", tmp_path), dtype="bfloat16", device="cpu")
    found = direct_effects(model, prompts, RIGHT, WRONG)
    assert found.effect.isfinite().all() and found.effect.dtype == torch.float32


@pytest.mark.parametrize("architecture", ["gpt2", "llama-grouped"])
def test_each_component_is_what_its_writer_wrote(load, prompts, architecture):
    model, rows, ends = load(architecture), torch.arange(3), prompts.lengths - 1
    parts = dict(zip(component_names(2, 4), components(model, prompts), strict=True))
    stream = record(model, prompts.tokens, resid_post(1))[resid_post(1)][rows, ends]
    torch.testing.assert_close(sum(parts.values()), stream, atol=1e-4, rtol=0)
    before = record(model, prompts.tokens, attn_out(1))[attn_out(1)][rows, ends]
    with intervene(model, zero_ablate(head_out(1), head=2)):
        without = record(model, prompts.tokens, attn_out(1))[attn_out(1)][rows, ends]
    torch.testing.assert_close(parts["a1.2"], before - without, atol=1e-5, rtol=0)
    with intervene(model, zero_ablate(head_out(1))):
        bias = record(model, prompts.tokens, attn_out(1))[attn_out(1)][rows, ends]
    torch.testing.assert_close(parts["bias 1"], bias, atol=1e-5, rtol=0)
    written = record(model, prompts.tokens, mlp_out(0))[mlp_out(0)][rows, ends]
    torch.testing.assert_close(parts["m0"], written, atol=1e-6, rtol=0)


def test_several_wrong_answers_count_with_their_mean(load, prompts):
    model, several = load("gpt2"), torch.tensor([[6, 8, 40], [1, 2, 3], [9, 8, 7]])
    logits, rows = last_logits(model, prompts), torch.arange(3)
    expected = logits[rows, RIGHT] - logits[rows[:, None], several].mean(1)
    effects = direct_effects(model, prompts, RIGHT, several)
    torch.testing.assert_close(effects.total, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("raw", [False, True], ids=["folded", "raw"])
def test_models_that_rescale_what_heads_write_are_refused(load, prompts, raw):
    for work in (lambda model: components(model, prompts), lambda model: direct_effects(model, prompts, RIGHT, WRONG)):
        with pytest.raises(ValueError, match="so no head has an output of its own") as caught:
            work(load("gemma2", raw=raw))
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A GPT-2 in which head a1.2 alone writes: the mean of one reading of all tokens, for token 5 and against token 6."""
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


def test_a_planted_head_has_the_right_share(planted, prompts):
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
    effects = direct_effects(model, prompts, right, wrong)
    torch.testing.assert_close(effects.of("a1.2"), read * direction.pow(2).sum() / scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(effects.of("embed"), start @ direction / scale, atol=1e-4, rtol=1e-4)
    others = [at for at, name in enumerate(effects.names) if name not in ("a1.2", "embed")]
    assert effects.effect[others].abs().max() < 1e-4 and effects.of("a1.2").abs().min() > 0.05
    assert effects.of_heads.abs().argmax() == 1 * 4 + 2


def test_means_tables_and_heads_by_hand():
    names = (*component_names(1, 2), "constant")
    found = DirectEffects(
        torch.tensor([[0.0, 1.0], [2.0, 4.0], [-5.0, -3.0], [0.0, 0.0], [1.0, 3.0], [0.5, 0.5]]), names, 2, torch.zeros(2, 1)
    )
    assert found.mean.tolist() == [0.5, 3.0, -4.0, 0.0, 2.0, 0.5] and found.of_heads.tolist() == [[3.0, -4.0]]
    assert found.total.tolist() == [-1.5, 5.5] and found.of("m0").tolist() == [1.0, 3.0] and found.top(3) == ["a0.1", "a0.0", "m0"]
    lines = found.table(2).splitlines()
    assert lines == ["component  logits   95 % interval", "a0.1        -4.00   [-5.96, -2.04]", "a0.0        +3.00   [+1.04, +4.96]"]
    with pytest.raises(ValueError, match=r"There is no component 'a0.2': heads are named like a4\.2, MLPs like m5\.$"):
        found.of("a0.2")
