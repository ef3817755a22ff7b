"""Effects of neurons: ablation against plain hooks, one prompt at a time, and the estimate is a gradient."""

from dataclasses import replace

import pytest
import torch
from layer_tools import LAYERS, PROMPTS, WIDTH, as_before, random_texts
from torch import Tensor

from helpers.interventions import Intervention, clamp, intervene, mlp_post, record
from helpers.metrics import log_odds, log_prob, measure, whole_words, word_odds, word_probs
from helpers.one_neuron.ablation import (
    AblationEffects,
    Attribution,
    ablate_each,
    ablate_groups,
    attribute_neurons,
    baselines,
    by_kind,
    held_at,
    resampled,
)
from helpers.prediction import tokenize
from helpers.running import score_prompts
from helpers.stats import mean_interval
from helpers.texts import Texts, as_texts

__all__ = ["as_before"]  # a fixture

SOME = [(1, 5), (0, 77), (1, 127), (0, 0)]
ODDS = log_odds(20, 30)
EMPTY = Texts(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, dtype=torch.long), ("", ""))


@pytest.fixture(scope="module")
def double(load):
    """The same model with twice as many digits, for differences that are finite."""
    return load("gpt2-relu", dtype="float64")


def each_by_itself(model, texts: Texts, metric, *changes: Intervention) -> Tensor:
    """The metric of every prompt, run alone and without filling."""
    alone = [texts.take([row]) for row in range(len(texts))]
    with intervene(model, *changes):
        return torch.cat([metric(model(one.tokens)) for one in alone])


def everyone() -> list[tuple[int, int]]:
    """All neurons of the model, in order."""
    return [(layer, neuron) for layer in range(LAYERS) for neuron in range(WIDTH)]


def word_prob(model, prompt: str, word: str) -> float:
    """The probability of a word by hand: the product of those of its tokens, each after all that stands before it."""
    start, full = tokenize(model, prompt).tolist(), tokenize(model, prompt + word).tolist()
    product = 1.0
    for place in range(len(start), len(full)):
        product *= model(torch.tensor([full[:place]]))[0, -1].softmax(-1)[full[place]].item()
    return product


def test_log_odds_and_log_probs_are_those_of_tokens_at_the_end():
    logits, right, wrong = torch.randn(3, 4, 7), torch.tensor([0, 1, 2]), torch.tensor([6, 5, 4])
    ends, rows = logits[:, -1], range(3)
    assert torch.equal(log_odds(2, 5)(logits), ends[:, 2] - ends[:, 5])
    assert torch.equal(log_odds(right, wrong)(logits), ends[rows, right] - ends[rows, wrong])
    assert torch.allclose(log_prob(3)(logits), ends.softmax(-1)[:, 3].log(), atol=1e-5)
    assert torch.allclose(log_prob(wrong)(logits), ends.softmax(-1)[rows, wrong].log(), atol=1e-5)


def test_a_metric_reads_every_prompt_at_its_own_end(tiny):
    texts = as_texts(tiny, PROMPTS)
    assert len(set(texts.lengths.tolist())) > 2
    assert torch.allclose(measure(ODDS, tiny(texts.tokens), texts), each_by_itself(tiny, texts, ODDS), atol=1e-4)


@pytest.mark.parametrize(
    "metric, given",
    [
        (lambda logits: logits[:, -1], r"it gave a tensor of shape \[5, 300\]\.$"),
        (lambda logits: logits[:, -1, 0].mean(), r"it gave a tensor of shape \[\]\.$"),
        (lambda logits: logits[:2, -1, 0], r"it gave a tensor of shape \[2\]\.$"),
        (lambda logits: logits[0, -1, 0].item(), r"it gave a float\.$"),
    ],
)
def test_a_metric_gives_one_number_a_prompt_or_a_sentence_says_so(tiny, metric, given):
    with pytest.raises(ValueError, match=r"The metric must give one number for each of the 5 prompts, a tensor \[5\]; " + given):
        ablate_each(tiny, PROMPTS, metric, SOME)


def test_the_rows_of_words_are_prompt_and_word_without_its_last_token(tiny):
    words = whole_words(tiny, ["The Eiffel Tower is in", "The"], [["Paris", "the"], ["Golden"]])
    assert words.item.tolist() == [0, 0, 1]
    for at, full in enumerate(["The Eiffel Tower is in Paris", "The Eiffel Tower is in the", "The Golden"]):
        ids, row = tokenize(tiny, full).tolist(), int(words.row[at])
        assert words.texts.tokens[row, : words.texts.lengths[row]].tolist() == ids[:-1]
        assert list(words.ids[at]) == ids[-len(words.ids[at]) :]
    assert max(map(len, words.ids)) > 1


def test_words_of_one_token_share_a_row(tiny):
    one, several = whole_words(tiny, ["The", "Taipei"], [["x", "y"], ["x"]]), whole_words(tiny, ["The"], [["Paris", "x"]])
    assert one.row.tolist() == [0, 0, 1] and len(one.texts) == 2 and len(one.ids) == 3
    assert len(several.texts) == len(set(several.row.tolist())) == 1 + (len(several.ids[0]) > 1)


@pytest.mark.parametrize(
    "prompt, word, whole",
    [
        ("The", "is", "The is"),
        ("The", " is", "The is"),
        ("The ", "(", "The ("),
        ("The\n", "is", "The\nis"),
        ("The", "\nis", "The\nis"),
        ('The "', "is", 'The "is'),
        ("The (", "is", "The (is"),
        ("<|endoftext|>x<|endoftext|>", "is", "<|endoftext|>x<|endoftext|>is"),
    ],
)
def test_a_word_stands_after_one_space_unless_there_is_one_or_an_opening_mark(tiny, prompt, word, whole):
    words = whole_words(tiny, [prompt], [[word]])
    assert [*words.texts.tokens[0].tolist(), words.ids[0][-1]] == tokenize(tiny, whole).tolist()


@pytest.mark.parametrize("changes", [[], [clamp(mlp_post(1), 3.0, units=slice(0, 64))]], ids=["plain", "changed"])
def test_the_probability_of_a_word_is_the_product_over_its_tokens(tiny, changes):
    prompts, words = ["The Eiffel Tower is in", "Taipei", "Paris is in the Golden Gate"], ["Paris", "the", "Francisco", "q"]
    assert len({len(ids) for ids in whole_words(tiny, prompts, [words] * 3).ids}) > 2
    with intervene(tiny, *changes):
        expected = [[word_prob(tiny, prompt, f" {word}") for word in words] for prompt in prompts]
        assert torch.allclose(word_probs(tiny, prompts, words).log(), torch.tensor(expected).log(), atol=1e-3)


def test_word_odds_set_all_right_words_against_all_wrong_ones(tiny):
    prompts = ["The Eiffel Tower is in", "Taipei"]
    right, wrong = ["Paris", ["is", "Golden Gate"]], [["San", "Taipei", "the"], "in"]
    odds = word_odds(tiny, prompts, right, wrong)
    assert len(odds) == 2 and odds.right.tolist() == [True, False, False, False, True, True, False]
    words = ["Paris", "San", "Taipei", "the", "is", "Golden Gate", "in"]
    p, q = ({word: word_prob(tiny, prompt, f" {word}") for word in words} for prompt in prompts)
    ratios = [p["Paris"] / (p["San"] + p["Taipei"] + p["the"]), (q["is"] + q["Golden Gate"]) / q["in"]]
    assert torch.allclose(score_prompts(tiny, odds.texts, odds), torch.tensor(ratios).log(), atol=1e-3)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: word_odds(m, ["a", "b"], ["x"], ["y", "z"]), r"there are 2 prompts, 1 and 2 words\.$"),
        (lambda m: word_odds(m, ["a"], [[]], ["y"]), r"Each prompt needs one right word and one wrong word at least\.$"),
        (lambda m: word_odds(m, [], [], []), r"There are no prompts: give at least one text\.$"),
        (lambda m: word_odds(m, ["a"], ["x" * 99], ["y"]), "x' cannot be read off after 'a': it is no word of its own there, or"),
        (lambda m: word_odds(m, ["a"], ["x"], [""]), "'' cannot be read off after 'a'"),
        (lambda m: word_odds(m, ["The "], ["is"], ["y"]), "'is' cannot be read off after 'The ': it is no word of its own there"),
        (lambda m: word_probs(m, ["The"], []), r"There is no word to read off: give at least one for each prompt\.$"),
        (lambda m: word_probs(m, [], ["x"]), "There are no prompts"),
        (lambda m: attribute_neurons(m, ["The"], word_odds(m, ["The"], [["is", "in"]], ["a"])), r"give odds\.texts as the prompts\.$"),
    ],
)
def test_words_that_cannot_be_read_off_are_refused_with_a_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(tiny)


def test_resampled_values_are_those_of_another_text_all_neurons_together(tiny):
    texts, others = as_texts(tiny, PROMPTS), random_texts(6, seed=4)
    values = resampled(tiny, texts, others)
    assert values.shape == (LAYERS, *texts.tokens.shape, WIDTH) and (values[:, :, 0] == 0).all()
    own = [record(tiny, one.tokens, *map(mlp_post, range(LAYERS))) for one in (others.take([row]) for row in range(6))]
    own = [torch.stack([seen[mlp_post(layer)][0, 1:] for layer in range(LAYERS)], 1) for seen in own]  # [pos, layer, neuron]
    found = [_sources(values[:, row, 1:].transpose(0, 1), own) for row in range(len(texts))]
    assert all(len(sources) == 1 for sources in found)  # one text for each prompt
    assert len({sources[0] for sources in found}) > 1  # and not the same one for all


def _sources(values: Tensor, own: list[Tensor]) -> list[int]:
    """The texts that have, for every one of the values, a token at which all neurons of all layers have them."""
    near = [(values[:, None] - seen[None]).abs().amax((2, 3)).amin(1).max() for seen in own]
    return [row for row, distance in enumerate(near) if distance < 1e-4]


def test_every_token_of_another_text_may_be_drawn_but_the_first(tiny):
    others = Texts(torch.tensor([[0, 5, 6, 7], [0, 0, 0, 0]]), torch.tensor([4, 1]), ("", "empty"))
    drawn = resampled(tiny, torch.randint(1, 300, (6, 12)), others)[:, :, 1:].flatten(1, 2)
    own = record(tiny, others.tokens[:1], mlp_post(0))[mlp_post(0)][0, 1:]
    nearest = torch.cdist(drawn[0], own).min(1)
    assert nearest.values.max() < 1e-2 and set(nearest.indices.tolist()) == {0, 1, 2}


def test_resampling_follows_its_seed(tiny):
    others, texts = random_texts(30, seed=4), as_texts(tiny, torch.randint(1, 300, (4, 6)))
    first = resampled(tiny, texts, others, seed=3)
    assert torch.equal(first, resampled(tiny, texts, others, seed=3))
    assert not torch.allclose(first, resampled(tiny, texts, others, seed=4))


def test_there_are_three_baselines(tiny):
    means, others = torch.rand(LAYERS, WIDTH), random_texts(5)
    ways = baselines(tiny, PROMPTS, others, means)
    assert list(ways) == ["zero", "mean", "resample"] and ways["zero"] == 0 and ways["mean"] is means
    assert torch.equal(ways["resample"], resampled(tiny, PROMPTS, others))


def some_baseline(kind: str, texts: Texts):
    """A number, one number a neuron, or one for each neuron at each position."""
    rng = torch.Generator().manual_seed(9)
    shape = {"a neuron": (LAYERS, WIDTH), "a position": (LAYERS, *texts.tokens.shape, WIDTH)}.get(kind)
    return torch.rand(shape, generator=rng) if shape else 0.0 if kind == "zero" else 0.7


def one_row(baseline, row: int, length: int):
    """A baseline for one prompt without filling."""
    return baseline[:, row : row + 1, :length] if torch.is_tensor(baseline) and baseline.ndim == 4 else baseline


KINDS = ["zero", "number", "a neuron", "a position"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_the_slope_on_the_way_to_the_baseline(double, kind):
    """Every neuron is moved by a millionth of its way, forth and back: the metric changes by a millionth of the estimate."""
    texts, step = as_texts(double, PROMPTS[:3]), 1e-6
    baseline = some_baseline(kind, texts)
    found = attribute_neurons(double, texts, ODDS, baseline)
    alone = [texts.take([row]) for row in range(3)]
    assert found.before.tolist() == pytest.approx([ODDS(double(one.tokens)).item() for one in alone], abs=1e-4)
    slopes = torch.zeros(LAYERS, WIDTH, dtype=torch.float64)
    for row, one in enumerate(alone):
        length = one.tokens.shape[1]
        target, copies = one_row(baseline, row, length), one.tokens.expand(WIDTH, -1)
        for layer in range(LAYERS):
            to = target[layer].double() if torch.is_tensor(target) else torch.tensor(target).double()

            def move(sign: int, layer=layer, to=to, copies=copies) -> Tensor:
                def change(value, hook):
                    own = torch.eye(WIDTH, dtype=value.dtype)[:, None, :].repeat(1, value.shape[1], 1)  # in copy i only neuron i
                    own[:, 0] = 0
                    return value + sign * step * own * (to - value)

                with double.hooks(fwd_hooks=[(mlp_post(layer), change)]):
                    return ODDS(double(copies))

            slopes[layer] += (move(1) - move(-1)) / (2 * step) / 3
    assert found.effect.shape == (LAYERS, WIDTH) and found.effect.abs().max() > 1e-2
    assert torch.allclose(found.effect.double(), slopes, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pos", [-1, 1, None, [1, 2], slice(2, 3), torch.tensor([1, 2]), torch.tensor([-1, -2])], ids=str)
def test_estimate_and_effect_look_at_the_same_positions(tiny, pos):
    texts, last = as_texts(tiny, ["The Golden Gate", "Taipei"]), [(1, neuron) for neuron in range(0, WIDTH, 5)]
    with tiny.hooks(fwd_hooks=[("ln_final.hook_scale", lambda scale, hook: torch.full_like(scale, 2.0))]):
        estimate = attribute_neurons(tiny, texts, ODDS, 0.7, pos)
        measured = ablate_each(tiny, texts, ODDS, last, 0.7, pos)
    assert torch.allclose(estimate.of(last), measured.effect, atol=1e-4)


def test_several_words_for_each_prompt_are_averaged_over_the_prompts(double):
    """With rows of several words the metric has fewer numbers than there are rows; the mean is over the prompts, as in a removal."""
    odds = word_odds(double, ["The Golden", "Taipei 101 is"], [["Gate", "Paris"], "in"], ["is", ["Paris", "San Francisco"]])
    seen = record(double, odds.texts.tokens, *map(mlp_post, range(LAYERS)))
    near = torch.stack([seen[mlp_post(layer)] for layer in range(LAYERS)]) + 1e-3
    estimate, measured = attribute_neurons(double, odds.texts, odds, near), ablate_each(double, odds.texts, odds, everyone(), near)
    assert estimate.before.shape == (2,) and torch.allclose(estimate.before, measured.before, atol=1e-4)
    assert measured.effect.abs().max() > 1e-4 and torch.allclose(estimate.of(everyone()), measured.effect, atol=2e-5)


def test_estimates_are_ranked_by_size_or_by_sign():
    found = Attribution(torch.tensor([[0.1, -0.5, 0.0], [0.4, -0.2, 0.3]]), torch.zeros(2))
    assert found.top(3) == [(0, 1), (1, 0), (1, 2)]
    assert found.top(20, sign=1) == [(1, 0), (1, 2), (0, 0)] and found.top(20, sign=-1) == [(0, 1), (1, 1)]
    assert found.of([(1, 1), (0, 0)]).tolist() == pytest.approx([-0.2, 0.1])
    assert found.table(2).splitlines() == ["neuron     estimate", "L0 N1        -0.500", "L1 N0        +0.400"]


def by_hand(model, texts: Texts, metric, group, baseline) -> Tensor:
    """The metric of every prompt, each by itself, with the neurons of a group set by one plain hook for each."""
    values = []
    for row, length in enumerate(texts.lengths.tolist()):
        target = one_row(baseline, row, length)

        def setter(layer: int, neuron: int, target=target):
            def change(value, hook):
                value = value.clone()
                value[:, 1:, neuron] = target[layer].expand_as(value)[:, 1:, neuron] if torch.is_tensor(target) else target
                return value

            return mlp_post(layer), change

        with model.hooks(fwd_hooks=[setter(*one) for one in group]):
            values.append(metric(model(texts.tokens[row : row + 1, :length])))
    return torch.cat(values)


def test_only_the_ends_are_unembedded(tiny):
    texts, sizes = as_texts(tiny, PROMPTS), []
    with tiny.hooks(fwd_hooks=[("unembed.hook_out", lambda logits, hook: sizes.append(logits.shape[1]))]):
        ablate_each(tiny, texts, ODDS, SOME)
        attribute_neurons(tiny, texts, ODDS)
        held_at(tiny, texts, SOME[0], [1.0])
    assert set(sizes) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_set_together_and_each_neuron_by_itself_as_by_plain_hooks(tiny, kind):
    texts = as_texts(tiny, PROMPTS)
    baseline, groups = some_baseline(kind, texts), [SOME, [(0, 3), (1, 3)], SOME[:1], [(1, 7)]]
    found = ablate_groups(tiny, texts, ODDS, groups, baseline)
    assert found.groups == tuple(map(tuple, groups))
    expected = torch.stack([by_hand(tiny, texts, ODDS, group, baseline) for group in groups])
    assert torch.allclose(found.after, expected, atol=1e-4) and torch.allclose(found.before, each_by_itself(tiny, texts, ODDS), atol=1e-4)
    each = ablate_each(tiny, texts, ODDS, [SOME[0], (1, 7), SOME[0]], baseline)
    assert each.groups == ((SOME[0],), ((1, 7),), (SOME[0],)) and torch.equal(each.after, found.after[[2, 3, 2]])


@pytest.mark.parametrize("pos", [-1, -2, 1])
def test_one_position_counts_from_the_end_of_each_prompt(tiny, pos):
    texts = as_texts(tiny, ["The Golden Gate", "Taipei"])
    expected = each_by_itself(tiny, texts, ODDS, clamp(mlp_post(1), 5.0, units=5, pos=pos))
    assert torch.allclose(ablate_each(tiny, texts, ODDS, SOME[:1], 5.0, pos=pos).after[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: ablate_each(m, PROMPTS, ODDS, [(1, 5), (7, 0)]), "There is no layer 7: this model's layers are 0 to 1"),
        (lambda m: ablate_each(m, PROMPTS, ODDS, []), r"There is no neuron to ablate: name at least one, such as \(5, 185\)"),
        (lambda m: ablate_groups(m, PROMPTS, ODDS, [[(1, 5)], []]), "There is no neuron to ablate"),
        (lambda m: ablate_groups(m, PROMPTS, ODDS, [[(1, 5)], [(0, -1)]]), "There is no neuron -1 in layer 0"),
        (lambda m: ablate_each(m, [], ODDS, SOME), "There are no prompts"),
        (lambda m: attribute_neurons(m, ["a", ""], ODDS), "Prompt 1 has no word in it"),
        (
            lambda m: ablate_groups(m, PROMPTS, ODDS, [SOME], torch.zeros(3, WIDTH)),
            r"\[2, 128\] or for .*; it has \[3, 128\]\.$",
        ),
        (lambda m: attribute_neurons(m, ["The"], ODDS, torch.zeros(2, 1, 9, 128)), r"\[2, 1, \d, 128\]; it has \[2, 1, 9, 128\]\.$"),
        (lambda m: ablate_each(m, ["The Golden Gate", "is"], ODDS, SOME, pos=-3), "There is no position -3 in every prompt: the"),
        (lambda m: attribute_neurons(m, ["The", "in"], ODDS, pos=7), "There is no position 7 in every prompt: the shortest has 2 tokens"),
        (lambda m: attribute_neurons(m, ["The"], ODDS, pos=[1, 40]), r"There is no position 40 at blocks\.0\.mlp\.hook_post: it has"),
        (lambda m: ablate_each(m, ["The Golden Gate", "is"], ODDS, SOME, pos=torch.tensor([1, 3])), "no position 3 in every prompt"),
        (
            lambda m: attribute_neurons(m, PROMPTS, lambda logits: logits[:, -1].argmax(-1).float()),
            "The metric has no gradient: it must be",
        ),
        (lambda m: resampled(m, PROMPTS, EMPTY), r"no token from which to resample: give at least one with a word in it\.$"),
        (lambda m: held_at(m, ["The"], (0, 500), [1.0]), "There is no neuron 500 in layer 0"),
        (lambda m: held_at(m, [""], (0, 1), [1.0]), "Prompt 0 has no word in it"),
        (lambda m: held_at(m, ["The"], (0, 1), [1.0], pos=9), "There is no position 9 in every prompt"),
    ],
)
def test_what_cannot_be_ablated_is_refused_with_a_sentence(tiny, wrong, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        wrong(tiny)
    assert "\n" not in str(caught.value)


EFFECTS = AblationEffects(
    (((5, 185),), ((0, 1), (2, 3))),
    before=torch.tensor([1.0, -1.0, 2.0, 0.0]),
    after=torch.tensor([[0.5, -2.0, -1.0, 0.0], [1.0, 1.0, -2.0, 1.0]]),
)


def test_an_effect_is_the_mean_change_and_a_flip_a_change_of_sign_one_group_a_line():
    assert EFFECTS.effect.tolist() == pytest.approx([-4.5 / 4, -1 / 4])
    assert EFFECTS.flips.tolist() == [0.25, 0.75]  # a draw at 0 counts as no decision for the right side
    assert EFFECTS.intervals == [mean_interval([-0.5, -1.0, -3.0, 0.0]), mean_interval([0.0, 2.0, -4.0, 1.0])]
    lines = ["taken away     change  decisions", "L5 N185        -1.125      25.0%", "2 neurons      -0.250      75.0%"]
    assert EFFECTS.table().splitlines() == lines and EFFECTS.table(1).splitlines() == lines[:2]


def test_kinds_of_ablation_are_written_one_a_line():
    other = replace(EFFECTS, after=EFFECTS.before + torch.tensor([[1.0], [0.0]]))
    low, high = EFFECTS.intervals[0]
    assert by_kind({"zero": EFFECTS, "mean": other}).splitlines() == [
        "ablation     change        95 % interval",
        f"zero         -1.125     [{low:+.3f}, {high:+.3f}]",
        "mean         +1.000     [+1.000, +1.000]",
    ]


@pytest.mark.parametrize("pos", [slice(1, None), -1], ids=str)
def test_held_at_gives_the_whole_distribution_at_the_end_of_each_prompt(tiny, pos):
    texts, doses = as_texts(tiny, PROMPTS), [0.0, 1.5, -2.0, 40.0]
    changes = [clamp(mlp_post(0), dose, units=9, pos=pos) for dose in doses]
    expected = [each_by_itself(tiny, texts, lambda logits: logits[:, -1].softmax(-1), change) for change in changes]
    assert torch.allclose(held_at(tiny, texts, (0, 9), doses, pos), torch.stack(expected), atol=1e-5)


def test_gradient_mode_is_left_as_it_was(tiny):
    attribute_neurons(tiny, PROMPTS, ODDS)
    assert not torch.is_grad_enabled()
    with torch.enable_grad():
        ablate_each(tiny, PROMPTS, ODDS, SOME[:1])
        assert torch.is_grad_enabled()
        assert not word_probs(tiny, ["The"], ["is"]).requires_grad and not held_at(tiny, ["The"], (0, 1), [1.0]).requires_grad
