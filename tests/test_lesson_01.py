"""The exercises of notebook 01: each check accepts its solution, and explains what is wrong with typical other answers."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from exercise_tools import assert_exercise


@pytest.fixture(scope="module")
def lesson(course_lm):
    """Small versions of what the notebook has at hand."""
    from types import SimpleNamespace

    from helpers.activations import top_contexts
    from helpers.course_lm.corpus.prose import determiner_probes
    from helpers.course_lm.world import World
    from helpers.metrics import word_odds
    from helpers.one_neuron.exercises_01 import exercises
    from helpers.texts import held_out_texts

    with torch.no_grad():
        texts, unseen = held_out_texts(course_lm, 150), held_out_texts(course_lm, 150, seed=5)
        top, new = (top_contexts(course_lm, some, k=10) for some in (texts, unseen))
        pairs = determiner_probes(World.load(), Random(1), 10)
        odds = word_odds(course_lm, [p.prompt for p in pairs], [p.answer for p in pairs], [p.wrong for p in pairs])
        yield SimpleNamespace(model=course_lm, top=top, new=new, odds=odds, means=top.stats.mean, exercises=exercises)


def test_a_neuron_by_hand(lesson):
    from helpers.interventions import mlp_post, record
    from helpers.prediction import tokenize

    text, (layer, neuron) = "Seven children sang in the park.", (9, 9)
    middle = f"blocks.{layer}.hook_resid_mid"
    seen = record(lesson.model, tokenize(lesson.model, text)[None], middle, mlp_post(layer))
    mlp, x = lesson.model.blocks[layer].mlp, seen[middle][0]
    normed = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
    assert seen[mlp_post(layer)][0, 1:, neuron].max() > 0  # an answer of zeros is wrong
    pre = normed @ mlp.W_in[:, neuron] + mlp.b_in[neuron]
    wrong = [
        (pre - pre.abs().max(), "ReLU"),
        ((x @ mlp.W_in[:, neuron] + mlp.b_in[neuron]).relu(), "without the norm"),
        ((normed @ mlp.W_in[:, neuron]).relu() + 1, "is wrong in"),
        (seen[mlp_post(layer)][0], "an axis too many"),
    ]
    given = {"model": lesson.model, "text": text, "neuron": (layer, neuron)}
    assert_exercise(lesson.exercises, "1.1", pre.relu(), wrong, **given)


def mean_ablation(how: str) -> Callable:
    """A right or a wrong way to write mean ablation."""

    def function(values, average, neuron):
        new = values if how == "in place" else values.clone()
        new[..., neuron] = {"zero": 0.0, "one mean": average.mean()}.get(how, average[neuron])
        return average.expand_as(values) if how == "all" else new

    return function


def test_write_mean_ablation(lesson):
    wrong = [("in place", "clone"), ("zero", "zero ablation"), ("one mean", "average of its own"), ("all", "Only the named neuron")]
    assert_exercise(lesson.exercises, "1.2", mean_ablation("right"), [(mean_ablation(how), words) for how, words in wrong])


def test_the_neuron_that_matters_most(lesson):
    from helpers.one_neuron.ablation import ablate_each, attribute_neurons

    odds, means = lesson.odds, lesson.means
    ranked = attribute_neurons(lesson.model, odds.texts, odds, baseline=means).top(2000)
    measured = ablate_each(lesson.model, odds.texts, odds, ranked[:12], baseline=means).effect.abs().argsort().tolist()
    best, second = ranked[measured[-1]], ranked[measured[-2]]
    loudest = max(ranked[100:], key=lambda one: lesson.top.stats.peak[one])
    silent = divmod(int(means.argmin()), lesson.model.cfg.d_mlp)
    wrong = [
        (loudest, "not by activation alone"),
        (silent, "moves the log-odds by"),
        (second, "an estimate is no measurement"),
        ((99, 0), "There is no layer 99"),
    ]
    assert_exercise(lesson.exercises, "1.3", best, wrong, stub=(..., ...), model=lesson.model, odds=odds, means=means)


def test_a_fair_control(lesson):
    from helpers.interventions import mlp_post
    from helpers.one_neuron.neurons import Selectivity, controls_at
    from helpers.running import activations_at

    model, prompts = lesson.model, ["The capital of Poland is", "Here are two books and a hat. I like", "Who wrote Hamlet? It was"]
    there = activations_at(model, prompts, [*map(mlp_post, range(model.cfg.n_layers))])[:, :, 0].mean(1)
    layer, order = 7, there[7].argsort(descending=True).tolist()
    target, twin = (layer, order[30]), (layer, order[31])
    judged = torch.full_like(there, 0.5)
    judged[target], judged[twin] = 0.95, 0.9
    near = controls_at(there, 2 * judged - 1, target, n=6)
    wrong = [
        (near[:3], "fewer than five"),
        ([*near, target], "compared with itself"),
        ([*near, near[0]], "twice"),
        ([(6, other) for _, other in near], "another layer"),
        ([*near, (layer, order[-1])], "hardly speaks there"),
        ([*near, twin], "a twin is no control"),
    ]
    given = {"model": model, "prompts": prompts, "selectivity": Selectivity(tuple(range(12)), judged, judged, (9, 9), (9, 9))}
    assert_exercise(lesson.exercises, "1.4", near, wrong, stub=[...], neuron=target, **given)


def test_the_smallest_group(lesson):
    from helpers.one_neuron.ablation import attribute_neurons

    estimate = attribute_neurons(lesson.model, lesson.odds.texts, lesson.odds, baseline=lesson.means)
    wrong = [
        (estimate.top(1, sign=-1), "half of that is wanted. Others"),
        (estimate.top(20, sign=1), "mind the sign"),
        ([(7, unit) for unit in range(500)], "anything may break"),
    ]
    given = {"model": lesson.model, "odds": lesson.odds, "means": lesson.means}
    assert_exercise(lesson.exercises, "1.5", estimate.top(300, sign=-1), wrong, stub=[...], **given)


def test_a_better_explanation(lesson):
    from helpers.one_neuron.explanations import Clause, Condition, explain_simply, mixed_contexts, read, score, write
    from helpers.one_neuron.neurons import random_neurons

    for neuron in random_neurons(lesson.top, 12):
        known, unseen = (mixed_contexts(lesson.model, found, [neuron])[neuron] for found in (lesson.top, lesson.new))
        machine, best = explain_simply(known), explain_simply(unseen)  # whoever may look at the answers explains them best, as a rule
        if score(best, unseen) > score(machine, unseen) > 0:
            break
    assert read(best) and write(read(best)) == best
    elsewhere = write([Clause((Condition("at the start of the text"),))])  # where hardly any neuron is at its best
    wrong = [(machine, "the machine's"), (elsewhere, ""), ("It likes nice things.", "in double quotes"), (42, "A text in quotes")]
    assert_exercise(lesson.exercises, "1.6", best, wrong, known=known, unseen=unseen)
