"""Task vectors: what the demonstrations of a task put into the last token, carried into a prompt without demonstrations.

A prompt shows pairs of a task and ends after a question: ``hot: cold⏎big: small⏎dark:``. Hendel et al. 2023 (arXiv 2310.15916) take the
state of the stream at its last token. Todd et al. 2024 (arXiv 2310.15213) take what a few heads write there (see
``helpers.one_layer.function_vectors``), and Liu et al. 2024 (arXiv 2311.06668) a principal component of differences between texts. Layer
``l`` is the stream *after* block ``l`` (``resid_post``).

    states = task_states(model, task)  # from prompts whose questions are only dummies
    print(patch_sweep(model, states, zero_shot_prompts(task, 40), "replace").accuracy)

A vector is found with the pairs for demonstrations and tested with the questions, which never stand among them. An answer counts if
greedy decoding would write the whole of it; vectors are put in at the last token of the prompt only, not at those of the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.inputs import chosen
from helpers.interventions import Intervention, add, resid_post, unembed_only_at
from helpers.models import TransformerBridge
from helpers.one_layer.tasks import Prompt, Task, icl_prompts, zero_shot_prompts
from helpers.prediction import pad, tokenize
from helpers.progress import progress
from helpers.running import Changes, activations_at, batched_logits, of_rows, output_direction
from helpers.tables import table
from helpers.texts import Texts

CHOOSE = 12  # questions that choose a vector's layer, at most

# -------------------------------------------------------------------------------------------------- what a model answers


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompts with their answers as tokens: a row holds a prompt and all tokens of its answer but the last.

    ``ids`` are the tokens of the answers, padded with -1; ``ends`` is the position of the last token of each prompt.
    """

    texts: Texts
    ids: Int[Tensor, "prompt answer"]
    ends: Int[Tensor, "prompt"]

    def take(self, rows: Int[Tensor, "kept"]) -> "TokenizedPrompts":
        """Some of the prompts."""
        return TokenizedPrompts(self.texts.take(rows), self.ids[rows], self.ends[rows])

    @property
    def places(self) -> Int[Tensor, "prompt answer"]:
        """The positions whose logits predict the tokens of each answer; where there is only padding, any position of the row."""
        return (self.ends[:, None] + torch.arange(self.ids.shape[1])).clamp(max=self.texts.tokens.shape[1] - 1)

    def read(self, logits: Float[Tensor, "prompt answer d_vocab"]) -> tuple[Bool[Tensor, "prompt"], Float[Tensor, "prompt"]]:
        """From the logits at ``places``: which whole answers greedy decoding would write, and the probability of each."""
        ids = self.ids.to(logits.device)
        padding = ids < 0
        logp = logits.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0].masked_fill(padding, 0)
        return ((logits.argmax(-1) == ids) | padding).all(1).cpu(), logp.sum(1).exp().cpu()


def tokenize_prompts(model: TransformerBridge, prompts: Sequence[Prompt]) -> TokenizedPrompts:
    """The prompts as tokens; if one is longer than the context, its first demonstrations are left out.

    Raises ValueError if there is no prompt, a question with its answer is too long, or an answer is not a separate token after its prompt.
    """
    if not prompts:
        raise ValueError("There are no prompts: give at least one.")
    rows, ids, ends = [], [], []
    for prompt in prompts:
        kept = prompt
        while len(tokenize(model, kept.full)) > model.cfg.n_ctx:
            if not kept.shown:
                raise ValueError(f"The question {kept.question[:40]!r} is longer than the {model.cfg.n_ctx} tokens of this model: cut it.")
            kept = replace(kept, shown=kept.shown[1:])
        start = tokenize(model, kept.text)
        full = tokenize(model, kept.full)
        if len(full) <= len(start) or not torch.equal(full[: len(start)], start):
            raise ValueError(f"{kept.answer!r} cannot be read off after {kept.text[-20:]!r}: it is not a separate token there.")
        rows.append(full[:-1])
        ids.append(full[len(start) :])
        ends.append(len(start) - 1)
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
    return TokenizedPrompts(Texts(*pad(model, rows), ("prompt",) * len(rows)), padded, torch.tensor(ends))


@torch.no_grad()
def read_answers(
    model: TransformerBridge, prompts: Sequence[Prompt] | TokenizedPrompts, *interventions: Intervention, each: Changes | None = None
) -> tuple[Bool[Tensor, "prompt"], Float[Tensor, "prompt"]]:
    """Which prompts are answered right, and the probability of each right answer, with some interventions or none.

    Position -1 of an intervention is the last token of each prompt; ``each`` makes further interventions for the rows of a batch.
    """
    asked = prompts if isinstance(prompts, TokenizedPrompts) else tokenize_prompts(model, prompts)

    def changes(rows: Int[Tensor, "batch"]) -> list[Intervention]:
        part = asked.take(rows)
        own = each(rows) if each else []
        return [*(of_rows(one, rows, part.ends + 1) for one in interventions), *own, unembed_only_at(part.places)]

    hits = torch.zeros(len(asked.texts), dtype=torch.bool)
    probs = torch.zeros(len(asked.texts))
    for rows, _, logits in batched_logits(model, asked.texts, each=changes):
        hits[rows], probs[rows] = asked.take(rows).read(logits)
    return hits, probs


# ------------------------------------------------------------------------------------------- vectors from hidden states


def task_states(model: TransformerBridge, task: Task, n: int = 30, shuffled: bool = False) -> Float[Tensor, "layer d_model"]:
    """The task's vector at every layer: the mean state at the last token of ``n`` prompts with a dummy question (Hendel et al., section 3).

    ``shuffled`` takes prompts whose demonstrations are all wrong: a control with the same words.
    """
    return mean_states(model, icl_prompts(task, n, dummy=True, shuffled=shuffled))


def task_differences(model: TransformerBridge, task: Task, n: int = 30, shuffled: bool = False) -> Float[Tensor, "layer d_model"]:
    """What the demonstrations change in the mean state, to be added: ``task_states`` minus that of the same questions without any."""
    return task_states(model, task, n, shuffled) - mean_states(model, zero_shot_prompts(task, n, dummy=True))


def mean_states(model: TransformerBridge, prompts: Sequence[Prompt]) -> Float[Tensor, "layer d_model"]:
    """The mean of the stream after every block at the last token of the prompts (means in float64); on the CPU."""
    asked = tokenize_prompts(model, prompts)
    states = activations_at(model, asked.texts, [*map(resid_post, range(model.cfg.n_layers))], asked.ends[:, None])
    return states[:, :, 0].double().mean(1).float()


def with_controls(model: TransformerBridge, task: Task, other: Task) -> dict[str, Float[Tensor, "layer d_model"]]:
    """What the task's demonstrations bring beside its controls, all to be added: another task's, one of shuffled labels, plain words.

    The plain words are the answers' minus the questions', by the first token of each, as the unembedding has them.
    """
    own = task_differences(model, task)
    inputs, answers = zip(*task.demonstrations, strict=True)
    words = output_direction(model, *(_first_ids(model, task, side) for side in (answers, inputs)), own[0])
    return {
        task.name: own,
        f"other task: {other.name}": task_differences(model, other),
        "shuffled labels": task_differences(model, task, shuffled=True),
        "the answers' words": words / words.norm() * own.norm(dim=-1, keepdim=True),
    }


def _first_ids(model: TransformerBridge, task: Task, words: Sequence[str]) -> list[int]:
    return [int(ids[0]) for ids in tokenize_prompts(model, [Prompt("", word, arrow=task.arrow) for word in words]).ids]


# ------------------------------------------------------------------------------------------------------- layer by layer


@dataclass(frozen=True)
class LayerSweep:
    """Which prompts are answered right with a vector put in at each layer, and without it (``before``)."""

    hits: Bool[Tensor, "layer prompt"]
    before: Bool[Tensor, "prompt"]

    @property
    def accuracy(self) -> Float[Tensor, "layer"]:
        """The share of right answers at each layer."""
        return self.hits.float().mean(1)

    @property
    def best(self) -> int:
        """The layer with the highest accuracy, the first of several; report it on other prompts than these."""
        shares = self.accuracy.tolist()
        return shares.index(max(shares))


def _share(hits: Bool[Tensor, "prompt"]) -> float:
    return hits.float().mean().item()


def patch_sweep(model: TransformerBridge, states: Float[Tensor, "*layer d_model"], prompts: Sequence[Prompt], how: str) -> LayerSweep:
    """Puts a vector into the last token of the prompts, at one layer after the other, and counts the right answers.

    ``states``: a vector for each layer (``task_states``), or one for all of them (``function_vector``). ``how``: it replaces the state
    (Hendel et al., section 3), or is added to it (Todd et al., section 2.3).
    """
    wanted = (model.cfg.n_layers, model.cfg.d_model)
    if states.shape not in (wanted, wanted[1:]):
        raise ValueError(f"A vector for this model has the shape {list(wanted)}, or {list(wanted[1:])}, not {list(states.shape)}.")
    change = chosen({"replace": _replace, "add": _add}, how, "way to put a vector in")
    asked = tokenize_prompts(model, prompts)
    copies = asked.take(torch.arange(len(asked.texts)).repeat(len(model.blocks)))  # one for each layer, all in one pass
    layer = torch.arange(len(model.blocks)).repeat_interleave(len(asked.texts))

    def patch(rows: Int[Tensor, "batch"]) -> list[Intervention]:
        some = layer[rows].unique().tolist()
        changes = [partial(change, layer[rows] == at, states.expand(wanted)[at]) for at in some]
        return [Intervention(resid_post(at), one, pos=copies.ends[rows]) for at, one in zip(some, changes, strict=True)]

    hits = read_answers(model, copies, each=patch)[0].reshape(len(model.blocks), -1)
    return LayerSweep(hits, read_answers(model, asked)[0])


def _replace(own: Tensor, vector: Tensor, values: Tensor, pick: object) -> Tensor:
    """The vector in place of the values of some rows, ``own``."""
    return torch.where(own[:, None, None].to(values.device), vector.to(values), values)


def _add(own: Tensor, vector: Tensor, values: Tensor, pick: object) -> Tensor:
    """The vector added to the values of some rows, ``own``."""
    return values + own[:, None, None].to(values) * vector.to(values)


@dataclass(frozen=True)
class VectorComparison:
    """Right answers to some questions with each of several vectors, put in at the ``layers`` that other questions chose.

    ``answers`` also has those without a vector, by what was done instead.
    """

    layers: dict[str, int]
    answers: dict[str, Bool[Tensor, "prompt"]]

    def table(self) -> str:
        """One line for each: the vector's layer, if it works anywhere, and the share of right answers."""
        width = max(map(len, (*self.answers, "vector")))
        rows = [
            (name, str(self.layers[name]) if name in self.layers and hits.any() else "", _share(hits))
            for name, hits in self.answers.items()
        ]
        return table({"vector": f"<{width}", "layer": ">6", "accuracy": "9.1%"}, rows)


def compare_vectors(
    model: TransformerBridge,
    vectors: Mapping[str, Float[Tensor, "*layer d_model"]],
    validation: Sequence[Prompt],
    test: Sequence[Prompt],
    icl: Sequence[Prompt] = (),
) -> VectorComparison:
    """Adds each of some vectors at the last token; its layer is chosen with ``validation``, and it is judged with ``test``.

    ``icl``: the questions of ``test`` with demonstrations, as a reference. Raises ValueError if the two sets share a question.
    """
    if both := {prompt.text for prompt in validation} & {prompt.text for prompt in test}:
        raise ValueError(f"{min(both)[-40:]!r} is asked for validation and for the test: take the two halves of a task.")
    asked = tokenize_prompts(model, test)
    layers = {name: patch_sweep(model, vector, validation, "add").best for name, vector in vectors.items()}
    answers = {"zero-shot": read_answers(model, asked)[0]}
    answers |= {"in-context learning": read_answers(model, icl)[0]} if icl else {}
    for name, layer in layers.items():
        vector = vectors[name].expand(model.cfg.n_layers, model.cfg.d_model)[layer]
        answers[name] = read_answers(model, asked, add(resid_post(layer), vector, pos=-1))[0]
    return VectorComparison(layers, answers)


@dataclass(frozen=True)
class TaskGrid:
    """Right answers for several tasks, with each task's vector at each layer (the lecture's figure 21).

    Of each task one half of the questions chooses the layer (``validation``), and the other half is judged (``test``).
    """

    validation: dict[str, LayerSweep]
    test: dict[str, LayerSweep]

    @property
    def accuracy(self) -> Float[Tensor, "task layer"]:
        """The share of right answers to the test questions with the vector."""
        return torch.stack([sweep.accuracy for sweep in self.test.values()])

    def at_best(self, layers: Sequence[int] | None = None) -> list[Bool[Tensor, "prompt"]]:
        """For each task, right answers to the test questions at the best of all (or some) layers, by its other questions."""
        options = list(range(len(self.accuracy[0])) if layers is None else layers)
        chosen = [max(options, key=lambda at: sweep.accuracy[at].item()) for sweep in self.validation.values()]
        return [sweep.hits[layer] for sweep, layer in zip(self.test.values(), chosen, strict=True)]

    @property
    def patched(self) -> Bool[Tensor, "question"]:
        """Right answers to the test questions of all tasks, one after the other, with the vector at each task's best layer."""
        return torch.cat(self.at_best())

    @property
    def zero_shot(self) -> Bool[Tensor, "question"]:
        """Right answers to the same questions without demonstrations and without a vector."""
        return torch.cat([sweep.before for sweep in self.test.values()])

    @property
    def tasks(self) -> list[str]:
        """The task of each of these questions."""
        return [name for name, sweep in self.test.items() for _ in sweep.before]

    def table(self, **others: Sequence[Bool[Tensor, "prompt"]]) -> str:
        """One line for each task: accuracy without demonstrations, with the vector, its layer if it works, and ``others``."""
        best = [str(sweep.best) if hits.any() else "" for sweep, hits in zip(self.validation.values(), self.at_best(), strict=True)]
        before = [sweep.before for sweep in self.test.values()]
        shares = [list(map(_share, hits)) for hits in (before, self.at_best(), *others.values())]
        rows = [(name, own[0], own[1], at, *own[2:]) for name, at, *own in zip(self.test, best, *shares, strict=True)]
        columns = {"zero-shot": "9.1%", "vector": "8.1%", "layer": ">6"} | {name: f"{max(6, len(name) + 1)}.1%" for name in others}
        return table({"task": f"<{max(map(len, (*self.test, 'task')))}"} | columns, rows)


def accuracy_grid(
    model: TransformerBridge, tasks: Sequence[Task], vectors: Sequence[Float[Tensor, "*layer d_model"]], n: int, how: str
) -> TaskGrid:
    """Each task's vector at each layer, for a few questions that choose its layer and up to ``n`` others that judge it.

    ``vectors``: one for each task, from ``task_states`` (to replace the state), ``task_differences`` or ``function_vector`` (to be added).
    """
    sweeps: tuple[dict[str, LayerSweep], ...] = ({}, {})
    for task, vector in zip(tasks, vectors, strict=True):
        for half, most, found in zip(task.halves(), (CHOOSE, n), sweeps, strict=True):
            found[task.name] = patch_sweep(model, vector, zero_shot_prompts(half, min(most, len(half.questions))), how)
    return TaskGrid(*sweeps)


def demonstrated(model: TransformerBridge, tasks: Sequence[Task], n: int, shuffled: bool = False) -> list[Bool[Tensor, "prompt"]]:
    """For each task, right answers to the test questions of ``accuracy_grid`` after five demonstrations, right or shuffled ones."""
    asked = [(test, min(n, len(test.questions))) for _, test in (task.halves() for task in tasks)]
    return [read_answers(model, icl_prompts(test, some, shuffled=shuffled))[0] for test, some in asked]


# -------------------------------------------------------------------------------------------- algebra, and two tasks at once


def composition(model: TransformerBridge, ad: Task, bc: Task, ac: Task, bd: Task, n: int) -> VectorComparison:
    """The vector of a task BD from three others, ``v_BD = v_AD + v_BC - v_AC`` (Todd et al., section 3.3; the lecture's figure 22).

    With A first, B last, C copy, D capital of: the capital of the first, plus the last, minus the first, is the capital of the last.
    It answers up to ``n`` questions of ``bd``, beside the task's own vector and each parent alone; a few others choose each vector's
    layer. Differences of mean states are added, as function vectors are.
    """
    own, v_ad, v_bc, v_ac = (task_differences(model, task) for task in progress((bd, ad, bc, ac), desc="tasks"))
    vectors = {"composed": v_ad + v_bc - v_ac, f"direct: {bd.name}": own}
    vectors |= {f"parent: {task.name}": parent for task, parent in ((ad, v_ad), (bc, v_bc), (ac, v_ac))}
    choose, test = bd.halves()
    chosen_by, n = zero_shot_prompts(choose, min(CHOOSE, len(choose.questions))), min(n, len(test.questions))
    return compare_vectors(model, vectors, chosen_by, zero_shot_prompts(test, n), icl_prompts(test, n))


def conflict(model: TransformerBridge, a: Task, b: Task, states: Float[Tensor, "*layer d_model"], n: int) -> tuple[LayerSweep, LayerSweep]:
    """Demonstrates task A, and replaces the state at the last token by the vector of B (Hendel et al., section 5): who answers?

    Asked are questions of A that are inputs of B with another answer. The answers of A are counted, and those of B.
    """
    in_b = dict((*b.demonstrations, *b.questions))
    shared = replace(a, questions=tuple(pair for pair in a.questions if in_b.get(pair[0], pair[1]) != pair[1]))
    prompts = icl_prompts(shared, n)
    of_b = [replace(prompt, answer=in_b[prompt.question]) for prompt in prompts]
    return patch_sweep(model, states, prompts, "replace"), patch_sweep(model, states, of_b, "replace")


# -------------------------------------------------------------------------------------- vectors by a principal component


@dataclass(frozen=True)
class InContextVector:
    """One direction for all layers together, of length 1 over all of them: where pairs of texts differ most.

    ``size`` is the mean difference along it, ``explained`` the share of the squared differences that lies along it.
    """

    direction: Float[Tensor, "layer d_model"]
    size: float
    explained: float

    @property
    def vector(self) -> Float[Tensor, "layer d_model"]:
        """The direction as long as the pairs differ along it on average."""
        return self.size * self.direction


def in_context_vector(model: TransformerBridge, pairs: Sequence[tuple[str, str]]) -> InContextVector:
    """The first principal component of the differences ``H(y) - H(x)``, which points from x to y (Liu et al., section 3).

    ``H`` is the stream after every block at the last token of a text, all layers one after the other. Nothing is centred: the component
    has the largest mean square of ``h . (H(y) - H(x))``. Raises ValueError if there is no pair, or no difference.
    """
    if not pairs:
        raise ValueError("There are no pairs of texts: give at least one.")
    hooks = [*map(resid_post, range(model.cfg.n_layers))]
    x, y = (activations_at(model, list(texts), hooks)[:, :, 0] for texts in zip(*pairs, strict=True))
    difference = (y - x).transpose(0, 1).flatten(1).double()  # [pair, layer x d_model]
    if not difference.norm() > 0:
        raise ValueError("The two texts of every pair leave the same states at their last tokens: give texts that differ.")
    _, sizes, axes = torch.linalg.svd(difference, full_matrices=False)
    along = difference @ axes[0]
    sign = -1.0 if along.sum() < 0 else 1.0
    direction = (sign * axes[0]).reshape(model.cfg.n_layers, model.cfg.d_model).float()
    return InContextVector(direction, abs(along.mean().item()), (sizes[0] ** 2 / (sizes**2).sum()).item())


def icv_interventions(vector: Float[Tensor, "layer d_model"], strength: float = 1.0) -> list[Intervention]:
    """Adds the vector after every block and at every token, and rescales to the old length (Liu et al., section 3).

    The authors' code does this to the outputs of the MLPs, each first brought to length 1; here it is done to the stream itself.
    """

    def steer(own: Tensor, values: Tensor, pick: object) -> Tensor:
        moved = values + strength * own.to(values)
        return moved * (values.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    return [Intervention(resid_post(layer), partial(steer, own)) for layer, own in enumerate(vector)]
