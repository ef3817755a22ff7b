"""The exercises of notebook 01, "One neuron": what each asks for, and what its check says to an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.activations import Context, Neuron, name
from helpers.answers import NotYet, expect, expect_callable, expect_close, expect_indices, expect_tensor, expect_text, expect_unlike
from helpers.exercises import Exercises
from helpers.interventions import mlp_post, record
from helpers.metrics import WordOdds
from helpers.models import TransformerBridge
from helpers.one_neuron.ablation import Attribution, ablate_each, ablate_groups, attribute_neurons
from helpers.one_neuron.explanations import explain_simply, score
from helpers.one_neuron.neurons import Selectivity
from helpers.prediction import tokenize
from helpers.running import activations_at
from helpers.texts import TextsLike

exercises = Exercises("01_one_neuron")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

FACTOR = 3.0  # how far the activation of a control may lie from the neuron's, either way
ALIKE = 0.25  # how much of the neuron's trait a control may have
MOST = 400  # neurons in the group of exercise 1.5
LEFT = 1 / 2  # the share of the preference that may be left then


@exercises.add("1.1", "A neuron by hand", minutes=5)
def by_hand(answer: Any, model: TransformerBridge, text: str, neuron: Neuron) -> str:
    """The activation of another neuron on every token of a text, ``[pos]``."""
    layer, unit = neuron
    tokens, middle = tokenize(model, text)[None].to(model.cfg.device), f"blocks.{layer}.hook_resid_mid"
    seen = record(model, tokens, middle, mlp_post(layer))
    right = seen[mlp_post(layer)][0, :, unit].cpu()
    values = expect_tensor(answer, len(right), what="your activation")
    expect(bool((values >= 0).all()), "Some of your values are negative, and ReLU lets none of these through: is the last step missing?")
    mlp, x = model.blocks[layer].mlp, seen[middle][0]
    hint = "The vector that the neuron reads has been centred and divided by its standard deviation; then w, b, and ReLU."
    raw = (x @ mlp.W_in[:, unit] + mlp.b_in[unit]).relu().cpu()
    expect_unlike(values, {f"This is w · x + b for the stream as it stands, without the norm. {hint}": raw})
    expect_close(values, right, "your activation", hint, tolerance=1e-3)
    return f"The same as the model's own value on all {len(right)} tokens: a neuron is two products and a threshold, nothing more."


@exercises.add("1.2", "Write mean ablation", minutes=8)
def mean_ablation(answer: Any) -> str:
    """A function from values ``[batch, pos, d_mlp]``, an average ``[d_mlp]`` and a neuron's number to new values."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    values, average = torch.randn(2, 3, 8, generator=rng), torch.randn(8, generator=rng)
    given = values.clone()
    result = expect_tensor(function(given, average, 5), 2, 3, 8, what="what your function returns")
    right = values.clone()
    right[..., 5] = average[5]
    expect(torch.equal(given, values), "Your function changes the tensor that it was given, and so the model's past: work on a .clone().")
    column = result[..., 5]
    zero = "Your neuron is 0 now. That is zero ablation; here it is to get its own average."
    expect_unlike(column, {zero: 0.0, "Each neuron has an average of its own; take average[neuron].": average.mean()})
    expect_close(result, right, "what your function returns", "Only the named neuron may change, at every position of every row.")
    return "Exactly the helper's result: the neuron says what it always says, and all others are left alone."


@exercises.add("1.3", "The neuron that matters most, without trying them all", minutes=10)
def most_important(answer: Any, model: TransformerBridge, odds: WordOdds, means: Float[Tensor, "layer d_mlp"]) -> str:
    """The ``(layer, neuron)`` whose removal changes the odds most, found by gradient times activation."""
    mine = expect_indices(answer, layer=model.cfg.n_layers, neuron=model.cfg.d_mlp)
    tried = attribute_neurons(model, odds.texts, odds, baseline=means).top(12)
    effects = ablate_each(model, odds.texts, odds, [*tried, mine], baseline=means).effect.abs().tolist()
    said = f"Taking {name(mine)} away moves the log-odds by {effects[-1]:.3f}"
    if effects[-1] >= max(effects) - 1e-6:
        return f"{said}, more than any other of the estimate's dozen: an estimate finds candidates, a measurement decides."
    turned = "The two numbers may be the wrong way round: the layer comes first. " if mine[::-1] in tried else ""
    if mine in tried:
        advice = "It is one of the dozen that the estimate puts on top, but an estimate is no measurement: take each of the dozen away."
    else:
        advice = "Sort by the size of gradient × (mean - activation), not by activation alone, and measure those on top."
    raise NotYet(f"{said}; another one moves them by {max(effects):.3f}. {turned}{advice}")


@exercises.add("1.4", "Design a fair control", minutes=10)
def fair_control(answer: Any, model: TransformerBridge, prompts: TextsLike, selectivity: Selectivity, neuron: Neuron) -> str:
    """Five or more neurons with which one neuron may be compared: as active where the prompts end, and without its trait."""
    there = activations_at(model, prompts, [*map(mlp_post, range(model.cfg.n_layers))])[:, :, 0].mean(1)  # [layer, d_mlp]
    trait = 2 * selectivity.validation - 1  # from -1 to 1; 0 is a coin
    layers, width = there.shape
    expect(hasattr(answer, "__len__") and len(answer) >= 5, "A control of fewer than five neurons is mostly chance: name five or more.")
    chosen = [expect_indices(one, "one of your neurons", layer=layers, neuron=width) for one in answer]
    expect(neuron not in chosen, f"{name(neuron)} itself is among your controls: it would be compared with itself.")
    expect(len(set(chosen)) == len(chosen), "The same neuron stands in your list twice; each one counts only once.")
    away = next((one for one in chosen if one[0] != neuron[0]), neuron)
    depth = f"{name(away)} lies in another layer, where everything has more or fewer layers left to act: stay in layer {neuron[0]}."
    expect(away == neuron, depth)
    ratios = {one: (there[one] / there[neuron]).item() for one in chosen}
    worst = max(ratios, key=lambda one: max(ratios[one], 1 / max(ratios[one], 1e-9)))
    expect(
        1 / FACTOR <= ratios[worst] <= FACTOR,
        f"{name(worst)} has {ratios[worst]:.2g} times the activation of {name(neuron)} at the places where you take it away: taking away "
        f"what hardly speaks there changes nothing by construction. Keep within a factor of {FACTOR:g}.",
    )
    twin = max(chosen, key=lambda one: abs(trait[one].item()))
    expect(
        abs(trait[twin].item()) <= ALIKE * abs(trait[neuron].item()),
        f"{name(twin)} tells those places as well (AUC {selectivity.validation[twin]:.2f}): a twin is no control, since taking it away "
        f"does the same. Stay nearer to a coin, within {ALIKE:.0%} of what {name(neuron)} is from it.",
    )
    return f"{len(chosen)} neurons of the same layer, as loud there, and without the trait: what they do is what *any* neuron does."


@exercises.add("1.5", "The smallest group that takes half of a preference", minutes=12, core=False)
def halving_group(answer: Any, model: TransformerBridge, odds: WordOdds, means: Float[Tensor, "layer d_mlp"]) -> str:
    """A group of neurons without which the mean log-odds are at most half of what they were."""
    expect(hasattr(answer, "__len__") and len(answer) > 0, "A list of neurons is needed here, such as [(5, 185), (7, 20)].")
    group = list(dict.fromkeys(expect_indices(one, "one of them", layer=model.cfg.n_layers, neuron=model.cfg.d_mlp) for one in answer))
    expect(len(group) <= MOST, f"That takes away {len(group)} neurons; with so many gone anything may break. Try {MOST} or fewer.")
    removal = ablate_groups(model, odds.texts, odds, [group], baseline=means)
    before, after = removal.before.mean().item(), removal.after[0].mean().item()
    attribution: Attribution = attribute_neurons(model, odds.texts, odds, baseline=means)
    towards = sum(attribution.effect[one].item() for one in group)
    way = "The estimate says that your group works against the right word, so removing it helps: mind the sign. " if towards > 0 else ""
    expect(
        after <= LEFT * before,
        f"Without your {len(group)} neurons the log-odds are {after:.1f}, and {before:.1f} with them; half of that is wanted. "
        f"{way}Others are needed, or more of them.",
    )
    share = f"{removal.flips[0].item():.0%} of the decisions turn"
    return (
        f"Without {len(group)} neurons {after:.1f} is left of {before:.1f}, and {share}. With how few can you do? One is far from enough."
    )


@exercises.add("1.6", "Explain a neuron better than the machine", minutes=12, core=False)
def better_explanation(answer: Any, known: Sequence[Context], unseen: Sequence[Context]) -> str:
    """A sentence about a neuron that predicts it better on unseen texts than the built-in explainer's."""
    sentence = expect_text(answer, "your sentence")
    machine = explain_simply(known)
    mine, its = score(sentence, unseen), score(machine, unseen)
    expect(mine != 0, "Your sentence predicts nothing: put the decisive words in double quotes, or use a phrase: Chinese characters.")
    expect(mine > 0, f"Your sentence points at the wrong tokens ({mine:+.2f}): is the neuron active *on* them, or *before* them?")
    expect(
        mine > its,
        f"Your sentence reaches {mine:.3f} on texts that neither of you has seen, the machine's {its:.3f} ({machine}) "
        "Look at the contexts again: on which tokens is it silent although your sentence says otherwise?",
    )
    return f"{mine:.2f} against {its:.2f}: you have seen what the machine could not."
