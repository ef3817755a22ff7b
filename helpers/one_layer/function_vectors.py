"""Function vectors: which heads carry a task into the last token, and the sum of what they write (Todd et al. 2024, arXiv 2310.15213).

A head's *causal indirect effect* (CIE) on a prompt is how much likelier the right answer becomes when its output at the last token is
replaced by its mean over prompts with demonstrations: ``CIE = p(y | a := mean) - p(y)``. Averaged over prompts and tasks it is the
*average indirect effect* (AIE). The function vector of a task is the sum of the mean outputs of the heads with the highest AIE.

    outputs = head_outputs(model, head_means(model, task))
    vector = function_vector(outputs, average_indirect_effects(model, tasks).top(10))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import check_number
from helpers.interventions import Intervention, head_out, set_to
from helpers.models import TransformerBridge
from helpers.one_layer.in_context import read_answers, tokenize_prompts
from helpers.one_layer.tasks import Prompt, Task, icl_prompts, zero_shot_prompts
from helpers.progress import progress
from helpers.running import activations_at, check_plain_writes
from helpers.tables import table
from helpers.texts import TextsLike

Head = tuple[int, int]  # layer and number


def head_means(model: TransformerBridge, task: Task, n: int = 50) -> Float[Tensor, "layer head d_head"]:
    """The mean output of every head, before W_O, at the last token of ``n`` prompts with a dummy question (section 2.3); on the CPU."""
    asked = tokenize_prompts(model, icl_prompts(task, n, dummy=True))
    outputs = activations_at(model, asked.texts, [*map(head_out, range(model.cfg.n_layers))], asked.ends[:, None])
    return outputs[:, :, 0].double().mean(1).float()


@torch.no_grad()
def head_outputs(model: TransformerBridge, means: Float[Tensor, "layer head d_head"]) -> Float[Tensor, "layer head d_model"]:
    """What each head writes to the stream when its output is ``means``: through its own part of W_O; on the CPU.

    Raises ValueError for models that normalise once more what their attention writes (Gemma 2).
    """
    check_plain_writes(model, "no head has an output of its own: use task_states")
    mixers = [block.attn.W_O for block in model.blocks]  # [head, d_head, d_model] each
    written = [torch.einsum("hd,hdm->hm", own.to(mixer), mixer) for own, mixer in zip(means, mixers, strict=True)]
    return torch.stack(written).float().cpu()


def causal_indirect_effects(
    model: TransformerBridge, means: Float[Tensor, "layer head d_head"], prompts: Sequence[Prompt]
) -> Float[Tensor, "layer head prompt"]:
    """The causal indirect effect of every head on each prompt; ``means`` come from ``head_means``.

    A copy of the prompts for each head of a layer shares a forward pass.
    """
    asked = tokenize_prompts(model, prompts)
    before = read_answers(model, asked)[1]
    copies = asked.take(torch.arange(len(before)).repeat(model.cfg.n_heads))
    head = torch.arange(model.cfg.n_heads).repeat_interleave(len(before))  # of each copy
    effects = []
    for layer in range(model.cfg.n_layers):

        def patch(rows: Int[Tensor, "batch"], layer: int = layer) -> list[Intervention]:
            own = means[layer, head[rows], None, None]  # [batch, pos, head, d_head]
            return [set_to(head_out(layer), own, pos=copies.ends[rows], head=head[rows, None])]

        effects.append(read_answers(model, copies, each=patch)[1].reshape(model.cfg.n_heads, -1) - before)
    return torch.stack(effects)


@dataclass(frozen=True)
class AverageIndirectEffects:
    """The mean causal indirect effects of all heads in several tasks, and over the tasks (AIE)."""

    tasks: tuple[str, ...]
    by_task: Float[Tensor, "task layer head"]

    @property
    def mean(self) -> Float[Tensor, "layer head"]:
        """The mean over the tasks."""
        return self.by_task.mean(0)

    def top(self, n: int = 10) -> list[Head]:
        """The ``n`` heads with the largest mean effects."""
        return top_heads(self.mean, n)

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` heads with the largest effects: layer, head, mean change of the probability."""
        rows = [(layer, head, self.mean[layer, head].item()) for layer, head in self.top(min(n, self.mean.numel()))]
        return table({"layer": "6", "head": "5", "effect": "+8.4f"}, rows)


def average_indirect_effects(model: TransformerBridge, tasks: Sequence[Task], n: int, n_means: int = 50) -> AverageIndirectEffects:
    """The causal indirect effects of all heads on ``n`` questions of each task without demonstrations, averaged over them and the tasks.

    Todd et al. (section 2.3) take prompts with shuffled labels instead; if a model knows a task by its words alone, wrong labels spoil
    nothing that a head could mend. Asked are pairs for demonstrations, so that heads are chosen without the questions.
    """
    found = []
    for task in progress(tasks, desc="tasks"):
        prompts = zero_shot_prompts(task, n, seed=1, dummy=True)
        found.append(causal_indirect_effects(model, head_means(model, task, n_means), prompts).mean(-1))
    return AverageIndirectEffects(tuple(task.name for task in tasks), torch.stack(found))


def top_heads(effect: Float[Tensor, "layer head"], n: int = 10) -> list[Head]:
    """The ``n`` heads with the largest numbers, the largest first. Raises ValueError if there are not so many heads."""
    check_number("n says how many heads of this model to take", n, high=effect.numel())
    return [divmod(at, effect.shape[1]) for at in effect.flatten().argsort(descending=True, stable=True)[:n].tolist()]


def random_heads(model: TransformerBridge, n: int, seed: int = 0, exclude: Sequence[Head] = ()) -> list[Head]:
    """``n`` heads drawn at random, without those to ``exclude``: the control of the top heads. Raises ValueError if too few are left."""
    rest = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads) if (layer, head) not in exclude]
    check_number("n says how many of the heads that are left to draw", n, high=len(rest))
    return sorted(Random(seed).sample(rest, n))


def function_vector(outputs: Float[Tensor, "layer head d_model"], heads: Sequence[Head]) -> Float[Tensor, "d_model"]:
    """The function vector: the sum of what some heads write (``head_outputs``), to be added at one layer (section 2.3)."""
    return torch.stack([outputs[layer, head] for layer, head in dict.fromkeys(heads)]).sum(0)


def last_heads(model: TransformerBridge, prompts: TextsLike) -> Float[Tensor, "layer prompt head d_head"]:
    """What every head puts out at the last token of each prompt, before the heads are mixed; on the CPU."""
    return activations_at(model, prompts, [*map(head_out, range(model.cfg.n_layers))])[:, :, 0]
