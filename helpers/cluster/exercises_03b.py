"""The exercises of notebook 03b, "A cluster of neurons: circuits": what each asks for, and what its check says to an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_unlike
from helpers.cluster.circuits import EdgeScores, judge
from helpers.cluster.edges import Circuit
from helpers.cluster.ioi import IoiSentences, knocked_out
from helpers.cluster.patching import PatchMap, PromptPairs, metric_at_ends
from helpers.exercises import Exercises
from helpers.interventions import head_out, intervene, record, resample_ablate, resid_pre, zero_ablate
from helpers.metrics import log_prob
from helpers.models import TransformerBridge
from helpers.one_layer.function_vectors import Head
from helpers.running import score_prompts

exercises = Exercises("03b_cluster_circuits")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

KEPT, SHARE = 0.8, 0.002  # what exercises 3.10 and 3.11 ask for


@exercises.add("3.7", "Write a patch", minutes=10)
def write_a_patch(answer: Any, model: TransformerBridge) -> str:
    """A function that puts the clean stream before a layer into the corrupted run at one position, and returns the last logits."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(1, model.cfg.d_vocab, (2, 8), generator=rng) for _ in range(2))
    corrupted[:, :5] = clean[:, :5]
    layer, pos = model.cfg.n_layers // 2, 5
    with torch.no_grad():
        result = expect_tensor(function(model, clean, corrupted, layer, pos), 2, model.cfg.d_vocab, what="what your function returns")
        right, other = _patched(model, clean, corrupted, layer, pos), _patched(model, corrupted, clean, layer, pos)
        plain = model(corrupted)[:, -1].cpu()
        everywhere = _patched(model, clean, corrupted, layer, None)
    mistakes = {
        "This is the corrupted run as it is: is the patch inside the `with`, and is the model run there?": plain,
        "This puts the corrupted stream into the clean run; here it goes the other way.": other,
        "This patches every position: say pos=pos.": everywhere,
    }
    expect_unlike(result, mistakes, 1e-3)
    expect_close(result, right, "your logits", "Record the clean stream before the layer, and put it in at one position.", tolerance=1e-3)
    return "One patch works; a sweep is this, for all layers and positions."


def _patched(
    model: TransformerBridge, clean: Int[Tensor, "batch pos"], corrupted: Int[Tensor, "batch pos"], layer: int, pos: int | None
) -> Tensor:
    stream = record(model, clean, resid_pre(layer))[resid_pre(layer)]
    with intervene(model, resample_ablate(resid_pre(layer), stream, pos=pos)):
        return model(corrupted)[:, -1].cpu()


@exercises.add("3.8", "Predict, then measure", minutes=8)
def predict_then_measure(answer: Any, model: TransformerBridge, data: IoiSentences, heads: Sequence[Head]) -> str:
    """The mean loss of the logit difference without several heads at the last token, all of them at once."""
    loss = expect_number(answer, what="your loss")
    before, end = metric_at_ends(model, data.pairs(model)), data.positions["END"]

    def lost(some: Sequence[Head], pos: Tensor | None = end) -> float:
        return (before - knocked_out(model, data, some, pos=pos)).mean().item()

    right, everywhere, single = lost(heads), lost(heads, None), sum(lost([head]) for head in heads)
    mistakes = {
        "That is the change; the loss is it with the other sign.": -right,
        "This takes the heads away at every position: say pos=.": everywhere,
        "This is the sum of the single losses: take all of them away in one run.": single,
    }
    for sentence, wrong in mistakes.items():
        expect(abs(loss - wrong) > 5e-3 or abs(wrong - right) < 0.01, sentence)
    expect_close(loss, right, "your loss", "The mean of the metric before, minus that without the heads, at END.", tolerance=5e-3)
    return f"{right:.2f} logits are lost at once, and one by one {single:.2f} in all: what heads do is no plain sum."


@exercises.add("3.9", "Where the straight line bends", minutes=8)
def where_it_bends(answer: Any, estimated: PatchMap, measured: PatchMap) -> str:
    """The layer and the position's name at which the estimate is farthest from the measured change, in logits."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here, such as (7, 'END').")
    (layer,) = expect_indices(answer[0], "your layer", layer=len(measured.change))
    expect(answer[1] in measured.columns, f"There is no position {answer[1]!r}: there are {', '.join(measured.columns)}.")
    at = measured.columns.index(answer[1])
    guess, truth = estimated.change[layer, at].item(), measured.change[layer, at].item()
    off, worst = abs(guess - truth), (estimated.change - measured.change).abs().max().item()
    expect(
        off > worst - 1e-3,
        f"At layer {layer}, {answer[1]}, the estimate is {guess:.2f}, the truth {truth:.2f}: it is farther off elsewhere.",
    )
    return f"Estimated {guess:.2f}, measured {truth:.2f}: nowhere in the stream is it farther off."


@exercises.add("3.10", "A circuit of your own", minutes=12)
def own_circuit(answer: Any, model: TransformerBridge, pairs: PromptPairs) -> str:
    """A circuit with less than 0.2 % of the edges that says what the model says in 80 % of the prompts, under resample ablation."""
    expect(isinstance(answer, Circuit), "A circuit is needed here: found.top(n) or found.greedy(n).")
    expect(
        len(answer) < SHARE * len(answer.graph),
        f"Your circuit has {len(answer):,} of {len(answer.graph):,} edges ({answer.share:.2%}); less than {SHARE:.1%} are wanted.",
    )
    expect(len(answer) > 0, "Your circuit has no edge.")
    found = judge(model, pairs, [answer])
    same, kept = found.same[0].float().mean().item(), found.faithfulness[0].item()
    expect(
        same >= KEPT,
        f"Your {len(answer)} edges ({found.alive[0]} of them on a whole path) say the model's word in {same:.1%} of prompts that chose "
        f"nothing; {KEPT:.0%} are wanted. Do their scores come from prompts of this task?",
    )
    return f"{len(answer)} edges ({answer.share:.2%}) say the same word in {same:.0%} of the prompts, with a faithfulness of {kept:.2f}."


@exercises.add("3.11", "The price of nothing", minutes=8)
def price_of_nothing(answer: Any, model: TransformerBridge, pairs: PromptPairs, scores: EdgeScores) -> str:
    """A number of edges that keeps the model's word in 80 % of the prompts under zero ablation, while half of it does not."""
    n = int(expect_number(answer, 1, len(scores.graph), "your number of edges"))
    enough, half = judge(model, pairs, [scores.top(n), scores.top(n // 2)], "zero").same.float().mean(1).tolist()
    expect(enough >= KEPT, f"With {n:,} edges the word is the model's in {enough:.1%} of the sentences; {KEPT:.0%} are wanted.")
    expect(half < KEPT, f"With {n:,} edges it is, but half of them are enough, too ({half:.1%}): take fewer.")
    return (
        f"{n:,} edges, {n / len(scores.graph):.0%} of all, keep the word in {enough:.0%} of the sentences; half of them in {half:.0%}. "
        "The edges are the same as under resample: what they need is the background of a living model."
    )


@exercises.add("3.12", "One head, two jobs", minutes=10, core=False)
def two_jobs(answer: Any, model: TransformerBridge, data: IoiSentences, prompts: Sequence[str], right: Int[Tensor, "prompt"]) -> str:
    """The head with the smallest sum of its two ranks: how much gifts, and capitals, lose when it is zero at the last token."""
    layer, head = expect_indices(answer, "your head", layer=model.cfg.n_layers, head=model.cfg.n_heads)
    every = [(at, number) for at in range(model.cfg.n_layers) for number in range(model.cfg.n_heads)]
    costs = []
    for texts, metric in ((data.tokens, data.metric), (list(prompts), log_prob(right))):
        plain = score_prompts(model, texts, metric).mean()
        gone = {(at, n): score_prompts(model, texts, metric, zero_ablate(head_out(at), pos=-1, head=n)).mean() for at, n in every}
        costs.append({one: (plain - left).item() for one, left in gone.items()})
    gifts, capitals = costs
    orders = [sorted(every, key=lambda one, cost=cost: -cost[one]) for cost in costs]
    ranks = {one: [1 + order.index(one) for order in orders] for one in every}
    first, second = ranks[layer, head]
    expect(
        first + second == min(map(sum, ranks.values())),
        f"Without {layer}.{head} the gifts lose {gifts[layer, head]:.2f} logits and the capitals {capitals[layer, head]:.2f} nats: "
        f"numbers {first} and {second} of all heads. There is a head with a smaller sum.",
    )
    return (
        f"Without {layer}.{head} the gifts lose {gifts[layer, head]:.2f} logits, and the capitals {capitals[layer, head]:.2f} nats "
        f"(numbers {first} and {second} of {len(every)})."
    )
