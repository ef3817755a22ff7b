"""Task vectors: what the demonstrations of a task put into the last token, carried into a prompt without demonstrations.

A prompt shows pairs of a task and ends after a question: ``hot: cold⏎big: small⏎dark:``. Hendel et al. 2023 (arXiv 2310.15916) take the
state of the stream at its last token. Todd et al. 2024 (arXiv 2310.15213) take what a few heads write there (see
``helpers.one_layer.function_vectors``), and Liu et al. 2024 (arXiv 2311.06668) a principal component of differences between texts. Layer
``l`` is the stream *after* block ``l`` (``resid_post``).

    states = task_states(model, task)  # from prompts whose questions are only dummies
    print(patch_sweep(model, states, zero_shot_prompts(task, 40)).table())

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
from helpers.interventions import Intervention, add, resid_post, set_to, unembed_only_at
from helpers.models import TransformerBridge
from helpers.one_layer.tasks import Prompt, Task, icl_prompts, shuffled_prompts, zero_shot_prompts
from helpers.prediction import pad, tokenize
from helpers.progress import progress
from helpers.running import Changes, activations_at, batched_logits, of_rows, random_like
from helpers.tables import table
from helpers.texts import Texts

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


def task_states(
    model: TransformerBridge, task: Task, n: int = 50, shots: int = 5, seed: int = 0, shuffled: bool = False
) -> Float[Tensor, "layer d_model"]:
    """The task's vector at every layer: the mean state at the last token of ``n`` prompts with a dummy question (Hendel et al., section 3).

    ``shuffled`` takes prompts whose demonstrations are all wrong: a control with the same words.
    """
    return mean_states(model, icl_prompts(task, n, shots, seed, dummy=True, shuffled=shuffled))


def task_differences(
    model: TransformerBridge, task: Task, n: int = 50, shots: int = 5, seed: int = 0, shuffled: bool = False
) -> Float[Tensor, "layer d_model"]:
    """What the demonstrations change in the mean state, to be added: ``task_states`` minus that of the same questions without any."""
    return task_states(model, task, n, shots, seed, shuffled) - mean_states(model, zero_shot_prompts(task, n, seed, dummy=True))


def mean_states(model: TransformerBridge, prompts: Sequence[Prompt]) -> Float[Tensor, "layer d_model"]:
    """The mean of the stream after every block at the last token of the prompts (means in float64); on the CPU."""
    asked = tokenize_prompts(model, prompts)
    states = activations_at(model, asked.texts, [*map(resid_post, range(model.cfg.n_layers))], asked.ends[:, None])
    return states[:, :, 0].double().mean(1).float()


def with_controls(
    model: TransformerBridge, task: Task, other: Task, n: int = 50, shots: int = 5, seed: int = 0, how: str = "replace"
) -> dict[str, Float[Tensor, "layer d_model"]]:
    """The task's vector beside its controls: another task's, one of shuffled labels, a random one of the same length."""
    vector = chosen({"replace": task_states, "add": task_differences}, how, "way to put a vector in")
    own = vector(model, task, n, shots, seed)
    return {
        task.name: own,
        f"other task: {other.name}": vector(model, other, n, shots, seed),
        "shuffled labels": vector(model, task, n, shots, seed, shuffled=True),
        "random": random_like(own, 1, seed)[0],
    }


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

    def table(self) -> str:
        """One line for each layer: the share of right answers, with the prompts as they are on top."""
        shares = [("none", _share(self.before)), *enumerate(self.accuracy.tolist())]
        return table({"layer": ">6", "accuracy": "9.1%"}, [(str(layer), share) for layer, share in shares])


def _share(hits: Bool[Tensor, "prompt"]) -> float:
    return hits.float().mean().item()


def patch_sweep(
    model: TransformerBridge, states: Float[Tensor, "*layer d_model"], prompts: Sequence[Prompt], how: str = "replace"
) -> LayerSweep:
    """Puts a vector into the last token of the prompts, at one layer after the other, and counts the right answers.

    ``states``: a vector for each layer (``task_states``), or one for all of them (``function_vector``). ``how``: it replaces the state
    (Hendel et al., section 3), or is added to it (Todd et al., section 2.3). In models with learned positions (GPT-2, the course LM) a
    mean state also says where in the text it stood, and far from there it misleads: add ``task_differences`` instead.
    """
    wanted = (model.cfg.n_layers, model.cfg.d_model)
    if states.shape not in (wanted, wanted[1:]):
        raise ValueError(f"A vector for this model has the shape {list(wanted)}, or {list(wanted[1:])}, not {list(states.shape)}.")
    patch = chosen({"replace": set_to, "add": add}, how, "way to put a vector in")
    asked = tokenize_prompts(model, prompts)
    hits = [read_answers(model, asked, patch(resid_post(at), vector, pos=-1))[0] for at, vector in enumerate(states.expand(wanted))]
    return LayerSweep(torch.stack(hits), read_answers(model, asked)[0])


@dataclass(frozen=True)
class Sweeps:
    """Several vectors by name, or tasks, each at every layer: prompts for validation choose the layer, and others test it."""

    validation: dict[str, LayerSweep]
    test: dict[str, LayerSweep]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the vectors, or of the tasks."""
        return tuple(self.test)

    @property
    def best(self) -> tuple[int, ...]:
        """The best layer of each by the validation prompts: controls have a layer of their own too."""
        return tuple(sweep.best for sweep in self.validation.values())


@dataclass(frozen=True)
class VectorComparison(Sweeps):
    """Several vectors; ``references`` are the right answers to the test prompts without a vector, by name."""

    references: dict[str, Bool[Tensor, "prompt"]]

    def of(self, name: str) -> Bool[Tensor, "prompt"]:
        """Right answers to the test prompts with one vector at its best layer, or those of a reference."""
        return self.references[name] if name in self.references else self.test[name].hits[self.validation[name].best]

    def table(self) -> str:
        """One line for each reference and each vector: its layer and the share of right answers."""
        layers = dict.fromkeys(self.references, "") | dict(zip(self.names, map(str, self.best), strict=True))
        width = max(map(len, (*layers, "vector")))
        rows = [(name, layer, _share(self.of(name))) for name, layer in layers.items()]
        return table({"vector": f"<{width}", "layer": ">6", "accuracy": "9.1%"}, rows)


def compare_vectors(
    model: TransformerBridge,
    vectors: Mapping[str, Float[Tensor, "*layer d_model"]],
    validation: Sequence[Prompt],
    test: Sequence[Prompt],
    how: str = "replace",
    icl: Sequence[Prompt] = (),
) -> VectorComparison:
    """Puts each of some vectors in at each layer; every vector's layer is chosen with ``validation`` and judged with ``test``.

    ``icl``: the questions of ``test`` with demonstrations, as a reference. Raises ValueError if there is no vector, if the two
    sets share a question, or if ``icl`` asks another number of questions.
    """
    if not vectors:
        raise ValueError("There is no vector to compare: give at least one, by its name.")
    if both := {prompt.text for prompt in validation} & {prompt.text for prompt in test}:
        raise ValueError(f"{min(both)[-40:]!r} is asked for validation and for the test: take the two halves of a task.")
    if icl and len(icl) != len(test):
        raise ValueError(f"The reference has {len(icl)} prompts and the test {len(test)}: ask the same questions in both.")
    chosen, tested = ({name: patch_sweep(model, own, some, how) for name, own in vectors.items()} for some in (validation, test))
    references = {"zero-shot": next(iter(tested.values())).before}
    references |= {"in-context learning": read_answers(model, icl)[0]} if icl else {}
    return VectorComparison(chosen, tested, references)


@dataclass(frozen=True)
class TaskGrid(Sweeps):
    """Right answers for several tasks, with each task's vector at each layer (the lecture's figure 21).

    ``icl`` and ``shuffled`` are the answers to the questions of ``test`` without a vector, after right and after wrong demonstrations.
    """

    icl: Bool[Tensor, "task prompt"]
    shuffled: Bool[Tensor, "task prompt"]

    @property
    def accuracy(self) -> Float[Tensor, "task layer"]:
        """The share of right answers to the test questions with the vector."""
        return torch.stack([sweep.accuracy for sweep in self.test.values()])

    @property
    def patched(self) -> Bool[Tensor, "task prompt"]:
        """Right answers to the test questions with the vector at each task's best layer."""
        return torch.stack([sweep.hits[layer] for sweep, layer in zip(self.test.values(), self.best, strict=True)])

    @property
    def zero_shot(self) -> Bool[Tensor, "task prompt"]:
        """Right answers to the test questions without demonstrations and without a vector."""
        return torch.stack([sweep.before for sweep in self.test.values()])

    def table(self) -> str:
        """One line for each task: accuracy without demonstrations, with the vector and its layer, with right and with wrong ones."""
        shares = [hits.float().mean(1).tolist() for hits in (self.zero_shot, self.patched, self.icl, self.shuffled)]
        rows = [(name, zero, own, at, icl, bad) for name, at, zero, own, icl, bad in zip(self.names, self.best, *shares, strict=True)]
        width = max(map(len, (*self.names, "task")))
        return table({"task": f"<{width}", "zero-shot": "9.1%", "vector": "8.1%", "layer": "6", "ICL": "6.1%", "shuffled": "9.1%"}, rows)


def accuracy_grid(
    model: TransformerBridge,
    tasks: Sequence[Task],
    vectors: Sequence[Float[Tensor, "*layer d_model"]],
    n: int = 40,
    shots: int = 5,
    seed: int = 0,
    how: str = "replace",
) -> TaskGrid:
    """Each task's vector at each layer, for ``n`` questions that choose its layer and ``n`` others, with its references.

    ``vectors``: one for each task, from ``task_states`` (to replace the state), ``task_differences`` or ``function_vector`` (to be added).
    """
    validation, tested, icl, shuffled = {}, {}, [], []
    for task, vector in zip(tasks, vectors, strict=True):
        choose, test = task.halves(seed)
        validation[task.name] = patch_sweep(model, vector, zero_shot_prompts(choose, n, seed), how)
        tested[task.name] = patch_sweep(model, vector, zero_shot_prompts(test, n, seed), how)
        icl.append(read_answers(model, icl_prompts(test, n, shots, seed))[0])
        shuffled.append(read_answers(model, shuffled_prompts(test, n, shots, seed))[0])
    return TaskGrid(validation, tested, torch.stack(icl), torch.stack(shuffled))


# -------------------------------------------------------------------------------------------- algebra, and two tasks at once


def composition(model: TransformerBridge, ad: Task, bc: Task, ac: Task, bd: Task, n: int = 40, shots: int = 5) -> VectorComparison:
    """The vector of a task BD from three others, ``v_BD = v_AD + v_BC - v_AC`` (Todd et al., section 3.3; the lecture's figure 22).

    With A first, B last, C copy, D capital of: the capital of the first, plus the last, minus the first, is the capital of the last.
    It answers ``bd`` beside the task's own vector, and each parent alone. One half of the questions of ``bd`` chooses each vector's
    layer. References are ``bd`` without demonstrations and with. Differences of mean states are added, as function vectors are.
    """
    own, v_ad, v_bc, v_ac = (task_differences(model, task, shots=shots) for task in progress((bd, ad, bc, ac), desc="tasks"))
    vectors = {"composed": v_ad + v_bc - v_ac, f"direct: {bd.name}": own}
    vectors |= {f"parent: {task.name}": parent for task, parent in ((ad, v_ad), (bc, v_bc), (ac, v_ac))}
    validation, test = bd.halves(0)
    return compare_vectors(model, vectors, zero_shot_prompts(validation, n), zero_shot_prompts(test, n), "add", icl_prompts(test, n, shots))


@dataclass(frozen=True)
class Conflict:
    """Prompts that demonstrate task A with the vector of task B put in at each layer: which answer A's way, and which B's."""

    tasks: tuple[str, str]
    a: LayerSweep
    b: LayerSweep

    def table(self) -> str:
        """One line for each layer: the share of answers of A and of B, with those without the vector on top."""
        rows = [("none", _share(self.a.before), _share(self.b.before))]
        rows += [(str(at), *shares) for at, shares in enumerate(zip(self.a.accuracy.tolist(), self.b.accuracy.tolist(), strict=True))]
        return table({"layer": ">6"} | {name: f"{max(len(name), 7)}.1%" for name in self.tasks}, rows)


def conflict(
    model: TransformerBridge, a: Task, b: Task, states: Float[Tensor, "*layer d_model"], n: int = 40, shots: int = 5, seed: int = 0
) -> Conflict:
    """Demonstrates task A, and replaces the state at the last token by the vector of B (Hendel et al., section 5).

    Asked are questions of A that are inputs of B with another answer; such inputs are demonstrated too, if there are enough.
    Raises ValueError if no question of A has another answer in B.
    """
    in_b = dict((*b.demonstrations, *b.questions))
    differs = [tuple(pair for pair in side if in_b.get(pair[0], pair[1]) != pair[1]) for side in (a.demonstrations, a.questions)]
    if not differs[1]:
        raise ValueError(f"No question of {a.name!r} has another answer in {b.name!r}: choose two tasks on the same inputs.")
    shared = replace(a, demonstrations=differs[0] if len(differs[0]) > shots else a.demonstrations, questions=differs[1])
    prompts = icl_prompts(shared, n, shots, seed)
    of_b = [replace(prompt, answer=in_b[prompt.question]) for prompt in prompts]
    return Conflict((a.name, b.name), patch_sweep(model, states, prompts), patch_sweep(model, states, of_b))


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
