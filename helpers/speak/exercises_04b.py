"""The exercises of notebook 04b, "Patchscopes and two hops": what each asks for, and what its check says to an answer."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_text, expect_unlike
from helpers.exercises import Exercises
from helpers.interventions import intervene, record, resid_post, set_to
from helpers.models import TransformerBridge
from helpers.speak.patchscopes import Source, Target, patchscope
from helpers.speak.two_hops import TwoHop, answered, has_shortcut

exercises = Exercises("04b_speak_patchscopes")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

BETTER = 0.2  # the share of entities by which the prompt of exercise 4.9 has to beat the given one


@exercises.add("4.7", "A Patchscope by hand", minutes=10)
def by_hand(answer: Any, model: TransformerBridge) -> str:
    """A function that puts the state of one run into another run, and returns its last logits."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    source, target = (torch.randint(1, model.cfg.d_vocab, (1, n), generator=rng) for n in (6, 9))
    at, into, layer, target_layer = 3, 5, model.cfg.n_layers - 1, 0
    with torch.no_grad():
        found = expect_tensor(function(model, source, at, layer, target, into, target_layer), model.cfg.d_vocab, what="what you return")
        state = {where: record(model, source, resid_post(where))[resid_post(where)][0] for where in {layer, target_layer}}
        right = _put(model, target, state[layer][at], target_layer, into)
        plain = model(target)[0, -1].cpu()
        own = record(model, target, resid_post(target_layer))[resid_post(target_layer)][0, into]
        early = _put(model, target, state[target_layer][at], target_layer, into)
        mistakes = {
            "This is the target's run as it is: the patch must be after `target_layer`, and the model run inside the `with`.": plain,
            "You add the state; a Patchscope replaces.": _put(model, target, own + state[layer][at], target_layer, into),
            "You take the source's state at the target's position.": _put(model, target, state[layer][into], target_layer, into),
            "You take the state after the target's layer; take it after the source's.": early,
            "You put the state in after the source's layer; it belongs after the target's.": _put(
                model, target, state[layer][at], layer, into
            ),
        }
    expect_unlike(found, mistakes, 1e-3)
    hint = "Record the source's state, and put it at the placeholder's position after the target's layer."
    expect_close(found, right, "your logits", hint, 1e-3)
    return "A vector from one text speaks in another."


def _put(model: TransformerBridge, tokens: torch.Tensor, state: torch.Tensor, layer: int, pos: int) -> torch.Tensor:
    with intervene(model, set_to(resid_post(layer), state, pos=pos)):
        return model(tokens)[0, -1].cpu()


@exercises.add("4.8", "The map between two layers", minutes=8)
def map_between(answer: Any) -> str:
    """A function that fits an affine map to pairs of states by least squares."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    inputs, weights, bias = (torch.randn(*shape, generator=rng) for shape in ((60, 7), (7, 7), (7,)))
    inputs = inputs + 2
    given = function(inputs, inputs @ weights.T + bias)
    expect(isinstance(given, tuple | list) and len(given) == 2, "Return two things: the matrix and the vector.")
    found = expect_tensor(given[0], 7, 7, what="your matrix")
    turned = "Your matrix stands the other way round: it must give y = A x for one state x, so return the transpose."
    expect_unlike(found, {turned: weights.T}, 1e-3)
    expect_close(
        found,
        weights,
        "your matrix",
        "Map and vector are found at once: what could a column of the inputs be that is the same for every state?",
        1e-3,
    )
    expect_close(expect_tensor(given[1], 7, what="your vector"), bias, "your vector", "It belongs to the column of ones.", 1e-3)
    return "This is the paper's f: how states of one layer would look in another."


@exercises.add("4.9", "A better question", minutes=12)
def better_question(
    answer: Any, model: TransformerBridge, sources: Sequence[Source], answers: Sequence[str], layers: tuple[int, int], given: Target
) -> str:
    """A target prompt by which more entities are read than by the given one, none of them named in it."""
    text = expect_text(answer, "your prompt")
    try:
        target = Target(text)
    except ValueError as problem:
        expect(False, str(problem))
    named = next((source.name for source in sources if re.search(rf"\b{re.escape(source.name)}\b", text, re.IGNORECASE)), None)
    expect(named is None, f"Your prompt names {named}, which is one of those asked about: take other examples.")
    source, into = layers
    rates = [patchscope(model, sources, one, [source], into, answers=answers).hits[0].float().mean().item() for one in (target, given)]
    expect(
        rates[0] >= rates[1] + BETTER,
        f"By your prompt {rates[0]:.0%} of the {len(sources)} entities are read, by the given one {rates[1]:.0%}; "
        f"{BETTER:.0%} more are wanted, since a few more could be luck.",
    )
    return f"By your prompt {rates[0]:.0%} of the {len(sources)} entities are read, by the given one {rates[1]:.0%}."


@exercises.add("4.10", "A shortcut, and none", minutes=10)
def shortcut(answer: Any, model: TransformerBridge, questions: Sequence[TwoHop]) -> str:
    """The numbers of two questions of one kind, both answered right, one by a shortcut and one without."""
    first, second = expect_indices(answer, "your pair", first=len(questions), second=len(questions))
    pair = [questions[first], questions[second]]
    expect(pair[0].kind == pair[1].kind, f"The first is of the kind {pair[0].kind}, the second {pair[1].kind}: take two of one kind.")
    right = set(answered(model, pair).right)
    for place, one in zip(("first", "second"), pair, strict=True):
        expect(one in right, f"The {place} is not answered right: {one.text!r} should give {one.e3}.")
    short = has_shortcut(model, questions)[[first, second]].tolist()
    expect(short[0], f"Your first question has no shortcut: {pair[0].direct!r} does not give {pair[0].e3}.")
    expect(not short[1], f"Your second question has a shortcut: {pair[1].e3} comes without {pair[1].e2}.")
    (one, around), (two, through) = zip(pair, ("without", "neither test finds a way around"), strict=True)
    return f"{one.e1} gives {one.e3} {around} {one.e2}; from {two.e1} to {two.e3} {through} {two.e2}."


@exercises.add("4.11", "Measured honestly", minutes=8)
def honestly(answer: Any) -> str:
    """A function that chooses the best pair on some questions and reports it on others."""
    function, rng = expect_callable(answer), torch.Generator().manual_seed(0)
    hits = torch.rand(12, 42, generator=rng) < 0.3
    choose, report = list(range(23)), list(range(23, 42))  # 23 and 19: no two rates are the same by chance
    found = expect_number(function(hits, choose, report), 0, 1, "your rate")
    rates = {name: hits[:, rows].float().mean(1) for name, rows in (("choose", choose), ("report", report), ("all", [*choose, *report]))}
    best = int(rates["choose"].argmax())
    mistakes = {
        "This is the best pair of the reported questions: it must be chosen without looking at them.": rates["report"].max(),
        "This reports the rate on the questions that chose the pair: look at the others.": rates["choose"].max(),
        "This chooses and reports on all questions together.": rates["all"].max(),
        "This is the oracle: some pair is right. Only one pair may be used for all questions.": hits[:, report].any(0).float().mean(),
    }
    expect_unlike(found, mistakes, 1e-6)
    expect_close(found, rates["report"][best], "your rate", "argmax over the pairs, on the chosen questions.", 1e-5)
    return f"Chosen honestly: {found:.0%}; chosen on the questions themselves it would have been {rates['report'].max():.0%}."
