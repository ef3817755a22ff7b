"""The exercises of notebook 03b, "A cluster of neurons: circuits": what each asks for, and what its check says to an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_unlike
from helpers.cluster.attribution import direct_effects
from helpers.cluster.circuits import EdgeScores, judge
from helpers.cluster.edges import ABLATIONS, Circuit
from helpers.cluster.ioi import IoiSentences, ioi_sentences, knocked_out
from helpers.cluster.patching import PatchMap, PromptPairs, metric_at_ends
from helpers.exercises import Exercises
from helpers.interventions import head_out, intervene, record, resample_ablate, resid_pre, zero_ablate
from helpers.metrics import log_prob
from helpers.models import TransformerBridge
from helpers.running import score_prompts

exercises = Exercises("03b_cluster_circuits")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

KEPT, SHARE = 0.8, 0.02  # what exercise 3.10 asks for
BROKEN = 0.3  # and 3.11


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
def predict_then_measure(answer: Any, model: TransformerBridge, data: IoiSentences) -> str:
    """The mean loss of the logit difference without head 9.0 at the last token."""
    loss = expect_number(answer, what="your loss")
    before = metric_at_ends(model, data.pairs(model))
    end = data.positions["END"]
    right = (before - knocked_out(model, data, [(9, 0)], pos=end)).mean().item()
    expect(abs(loss + right) > 0.01 or abs(right) < 0.01, "That is the change; the loss is it with the other sign.")
    everywhere = (before - knocked_out(model, data, [(9, 0)])).mean().item()
    expect(abs(loss - everywhere) > 1e-3 or abs(everywhere - right) < 2e-3, "This takes the head away at every position: say pos=.")
    expect_close(loss, right, "your loss", "The mean of `clean` minus what is left without the head, at END.", tolerance=5e-3)
    share = direct_effects(model, data.tokens, data.io, data.s).of("a9.0").mean().item()
    return f"{right:.2f} logits are lost, and the head's own share was {share:.2f}: what it does by way of the MLPs is the rest."


@exercises.add("3.9", "Where the straight line bends", minutes=8)
def where_it_bends(answer: Any, estimated: PatchMap, measured: PatchMap) -> str:
    """A layer and a position's name at which the measured change is above 1 and the estimate off by a quarter of it."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here, such as (7, 'END').")
    (layer,) = expect_indices(answer[0], "your layer", layer=len(measured.change))
    expect(answer[1] in measured.columns, f"There is no position {answer[1]!r}: there are {', '.join(measured.columns)}.")
    at = measured.columns.index(answer[1])
    guess, truth = estimated.change[layer, at].item(), measured.change[layer, at].item()
    expect(truth > 1, f"At layer {layer}, {answer[1]}, the patch changes {truth:.2f} logits only: take one that matters.")
    off = abs(guess - truth) / truth
    expect(off >= 0.25, f"At layer {layer}, {answer[1]}, the estimate is {guess:.2f}, the truth {truth:.2f}: off by {off:.0%}, too little.")
    return f"Estimated {guess:.2f}, measured {truth:.2f}, off by {off:.0%}: the way from there to the answer is long and bent."


@exercises.add("3.10", "A circuit of your own", minutes=12)
def own_circuit(answer: Any, model: TransformerBridge, pairs: PromptPairs) -> str:
    """A circuit with less than 2 % of the edges and a faithfulness of 0.8 under resample ablation, on other sentences."""
    expect(isinstance(answer, Circuit), "A circuit is needed here: found.top(n), found.greedy(n), or acdc(...).circuit.")
    expect(
        len(answer) < SHARE * len(answer.graph),
        f"Your circuit has {len(answer):,} of {len(answer.graph):,} edges ({answer.share:.1%}); less than {SHARE:.0%} are wanted.",
    )
    expect(len(answer) > 0, "Your circuit has no edge.")
    fresh = ioi_sentences(model, 12, seed=77, frames=["when went"]).pairs(model)
    kept = judge(model, fresh, [answer]).faithfulness[0].item()
    expect(
        kept >= KEPT,
        f"On sentences that you have not seen your {len(answer)} edges keep {kept:.0%} of the logit difference; {KEPT:.0%} are wanted. "
        "Which of them lie on a path from the words to the logits?",
    )
    return f"{len(answer)} edges ({answer.share:.1%}) keep {kept:.0%} on sentences that you have not seen."


@exercises.add("3.11", "Break the number", minutes=8)
def break_the_number(answer: Any, model: TransformerBridge, pairs: PromptPairs, scores: EdgeScores) -> str:
    """A number of edges and two kinds of ablation under which the same circuit is faithful and is not."""
    expect(
        isinstance(answer, tuple | list) and len(answer) == 3 and all(kind in ABLATIONS for kind in answer[1:]),
        f"A triple is needed here: a number of edges and two of {', '.join(ABLATIONS)}, such as (50, 'mean', 'resample').",
    )
    n = int(expect_number(answer[0], 1, 400, "your number of edges"))
    circuit = scores.top(n)
    high, low = (judge(model, pairs, [circuit], kind).faithfulness[0].item() for kind in answer[1:])
    expect(high >= KEPT, f"With {n} edges the faithfulness under {answer[1]} is {high:.2f}; {KEPT:g} or more is wanted.")
    expect(low < BROKEN, f"With {n} edges the faithfulness under {answer[2]} is {low:.2f}, and that is not below {BROKEN:g}.")
    return (
        f"{n} edges: {high:.2f} under {answer[1]}, {low:.2f} under {answer[2]}. The circuit is the same; what changes is the world "
        "around it, and the cut edges are most of the world."
    )


@exercises.add("3.12", "One head, two jobs", minutes=10, core=False)
def two_jobs(answer: Any, model: TransformerBridge, data: IoiSentences, prompts: Sequence[str], right: Int[Tensor, "prompt"]) -> str:
    """A head among the five that cost the gifts most and the three that cost the capitals most, when they are zero at the last token."""
    layer, head = expect_indices(answer, "your head", layer=model.cfg.n_layers, head=model.cfg.n_heads)
    every = [(at, number) for at in range(model.cfg.n_layers) for number in range(model.cfg.n_heads)]
    costs = []
    for texts, metric in ((data.tokens, data.metric), (list(prompts), log_prob(right))):
        plain = score_prompts(model, texts, metric).mean()
        gone = {(at, n): score_prompts(model, texts, metric, zero_ablate(head_out(at), pos=-1, head=n)).mean() for at, n in every}
        costs.append({one: (plain - left).item() for one, left in gone.items()})
    gifts, capitals = costs
    ranks = [1 + sorted(every, key=lambda one, cost=cost: -cost[one]).index((layer, head)) for cost in costs]
    expect(ranks[0] <= 5, f"Without {layer}.{head} the gifts lose {gifts[layer, head]:.2f} logits: it is number {ranks[0]} of all heads.")
    expect(ranks[1] <= 3, f"Without {layer}.{head} the capitals lose {capitals[layer, head]:.2f} nats: number {ranks[1]} of all heads.")
    return (
        f"Without {layer}.{head} the gifts lose {gifts[layer, head]:.2f} logits, and the capitals {capitals[layer, head]:.2f} nats "
        f"(numbers {ranks[0]} and {ranks[1]} of {len(every)}): it fetches what it is told to fetch."
    )
