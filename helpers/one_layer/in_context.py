"""In-context vectors: what the demonstrations of a task put into the last token, carried into a prompt without demonstrations.

A prompt shows pairs of a task and ends after a question: ``hot: cold⏎big: small⏎dark:``. Hendel et al. 2023 (arXiv 2310.15916) take the
state of the stream at the last token, Todd et al. 2024 (arXiv 2310.15213) the outputs of a few heads there, Liu et al. 2024 (arXiv
2311.06668) a principal component of differences between texts. Layer ``l`` is the stream *after* block ``l`` (``resid_post``).

    states = task_states(model, task)  # from prompts whose questions are only dummies
    print(patch_sweep(model, states, zero_shot_prompts(task, 40)).table())

A vector is found with the pairs for demonstrations, and judged with the questions, which never stand among them. An answer counts if
greedy decoding would write the whole of it; vectors are put in at the last token of the prompt only, not at those of the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import Index, Intervention, check_hook, head_out, intervene, resid_post, unembed_only_at
from helpers.metrics import COPIED_TOKENS
from helpers.models import TransformerBridge
from helpers.one_layer.tasks import Pair, Prompt, Task, icl_prompts, shuffled_prompts, zero_shot_prompts
from helpers.prediction import pad, tokenize
from helpers.progress import progress
from helpers.running import activations_at, last_heads, of_rows
from helpers.texts import Texts, as_texts

Head = tuple[int, int]  # layer and number
HOW = ("replace", "add")

# ---------------------------------------------------------------------------------------------------------------- tasks


# -------------------------------------------------------------------------------------------------------------- prompts


# -------------------------------------------------------------------------------------------------- what a model answers


@dataclass(frozen=True)
class Asked:
    """Prompts with their answers as tokens: a row holds a prompt and all tokens of its answer but the last.

    ``ids`` are the tokens of the answers, filled up with -1; ``ends`` is where the last token of each prompt stands.
    """

    texts: Texts
    ids: Int[Tensor, "prompt answer"]
    ends: Int[Tensor, "prompt"]

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.ends)

    def take(self, rows: Int[Tensor, "kept"]) -> "Asked":
        """Some of the prompts, any of them several times."""
        return Asked(self.texts.take(rows), self.ids[rows], self.ends[rows])

    @property
    def places(self) -> Int[Tensor, "prompt answer"]:
        """Where the tokens of each answer are read off; where it has none any more, somewhere in the row."""
        return (self.ends[:, None] + torch.arange(self.ids.shape[1])).clamp(max=self.texts.tokens.shape[1] - 1)

    def read(self, logits: Float[Tensor, "prompt answer d_vocab"]) -> tuple[Bool[Tensor, "prompt"], Float[Tensor, "prompt"]]:
        """From the logits at ``places``: which whole answers greedy decoding would write, and the probability of each."""
        ids, none = self.ids.to(logits.device), (self.ids < 0).to(logits.device)
        logp = logits.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0].masked_fill(none, 0)
        return ((logits.argmax(-1) == ids) | none).all(1).cpu(), logp.sum(1).exp().cpu()


def ask(model: TransformerBridge, prompts: Sequence[Prompt], first: bool = False) -> Asked:
    """The prompts as tokens; where one is longer than the model can read, its first demonstrations are left out.

    ``first`` lets the first token of an answer count for the whole, as Todd et al. do. Raises ValueError where there is no prompt,
    a question with its answer is too long, or an answer is no word of its own after the prompt.
    """
    if not prompts:
        raise ValueError("There are no prompts: give at least one.")
    rows, ids, ends = [], [], []
    for prompt in prompts:
        start, full = _tokens(model, _shortened(model, prompt))
        stop = len(start) + 1 if first else len(full)
        rows.append(full[: stop - 1])
        ids.append(full[len(start) : stop])
        ends.append(len(start) - 1)
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
    return Asked(Texts(*pad(model, rows), ("prompt",) * len(rows)), padded, torch.tensor(ends))


def _tokens(model: TransformerBridge, prompt: Prompt) -> tuple[Int[Tensor, "pos"], Int[Tensor, "longer"]]:
    """The tokens of a prompt, and of the prompt with its answer."""
    start, full = tokenize(model, prompt.text), tokenize(model, prompt.full)
    if len(full) <= len(start) or not torch.equal(full[: len(start)], start):
        raise ValueError(f"{prompt.answer!r} cannot be read off after {prompt.text[-20:]!r}: it is no word of its own there.")
    return start, full


def _shortened(model: TransformerBridge, prompt: Prompt) -> Prompt:
    """The prompt without as many of its first demonstrations as do not fit the model's context."""
    while len(tokenize(model, prompt.full)) > model.cfg.n_ctx:
        if not prompt.shown:
            raise ValueError(f"The question {prompt.question[:40]!r} is longer than the {model.cfg.n_ctx} tokens of this model: cut it.")
        prompt = replace(prompt, shown=prompt.shown[1:])
    return prompt


def accuracy(
    model: TransformerBridge, prompts: Sequence[Prompt], interventions: Sequence[Intervention] = (), first: bool = False
) -> Bool[Tensor, "prompt"]:
    """Which prompts are answered right, with some interventions or none; position -1 is the last token of each prompt."""
    return _answers(model, ask(model, prompts, first), _given(interventions))[0]


def probability(
    model: TransformerBridge, prompts: Sequence[Prompt], interventions: Sequence[Intervention] = (), first: bool = False
) -> Float[Tensor, "prompt"]:
    """The probability of the right answer after each prompt, with some interventions or none (see ``accuracy``)."""
    return _answers(model, ask(model, prompts, first), _given(interventions))[1]


Changes = Callable[[Int[Tensor, "batch"], Int[Tensor, "batch"]], list[Intervention]]  # from rows and their last positions
Values = Callable[[Tensor, Int[Tensor, "batch"], Int[Tensor, "batch"]], Tensor]  # new values from old ones, copies and prompts


def _given(interventions: Sequence[Intervention]) -> Changes:
    return lambda rows, ends: [of_rows(intervention, rows, ends + 1) for intervention in interventions]


@torch.no_grad()
def _answers(model: TransformerBridge, asked: Asked, changes: Changes) -> tuple[Bool[Tensor, "prompt"], Float[Tensor, "prompt"]]:
    """Hits and probabilities, batch by batch, each batch with its own interventions."""
    hits, probs = torch.zeros(len(asked), dtype=torch.bool), torch.zeros(len(asked))
    for rows in progress(list(asked.texts.batches(COPIED_TOKENS)), desc="batches"):
        part = asked.take(rows)
        with intervene(model, *changes(rows, part.ends), unembed_only_at(part.places)):
            hits[rows], probs[rows] = part.read(model(part.texts.tokens.to(model.cfg.device)))
    return hits, probs


def _in_copies(
    model: TransformerBridge, asked: Asked, places: Sequence[str], new: Values
) -> tuple[Bool[Tensor, "copy prompt"], Float[Tensor, "copy prompt"]]:
    """All prompts once for each place, with new values there at the last token; copies for several places share a forward pass."""

    def changes(rows: Tensor, ends: Tensor) -> list[Intervention]:
        copies = rows // len(asked)
        here = [places[copy] for copy in copies.tolist()]
        fill = partial(new, copies=copies, prompts=rows % len(asked))
        return [_only(place, torch.tensor([one == place for one in here]), fill, ends) for place in sorted(set(here))]

    for place in places:
        check_hook(model, place)
    many = asked.take(torch.arange(len(asked)).repeat(len(places)))
    hits, probs = _answers(model, many, changes)
    return hits.reshape(len(places), -1), probs.reshape(len(places), -1)


def _only(place: str, mine: Bool[Tensor, "batch"], fill: Callable[[Tensor], Tensor], ends: Int[Tensor, "batch"]) -> Intervention:
    """New values in some rows of the batch, and the old ones in the others."""

    def change(old: Tensor, pick: object) -> Tensor:
        return torch.where(mine.to(old.device).reshape(-1, *[1] * (old.ndim - 1)), fill(old), old)

    return Intervention(place, change, pos=ends)


# ------------------------------------------------------------------------------------------- vectors from hidden states


def mean_states(model: TransformerBridge, prompts: Sequence[Prompt]) -> Float[Tensor, "layer d_model"]:
    """The mean of the stream after every block at the last token of the prompts (means in float64); on the CPU."""
    return activations_at(model, _read_texts(model, prompts), _stream(model))[:, :, 0].double().mean(1).float()


def _read_texts(model: TransformerBridge, prompts: Sequence[Prompt]) -> list[str]:
    """The texts of the prompts, as ``ask`` would shorten them."""
    return [_shortened(model, prompt).text for prompt in prompts]


def _stream(model: TransformerBridge) -> list[str]:
    return [resid_post(layer) for layer in range(model.cfg.n_layers)]


def task_states(
    model: TransformerBridge, task: Task, n: int = 50, shots: int = 5, seed: int = 0, shuffled: bool = False
) -> Float[Tensor, "layer d_model"]:
    """The task's vector at every layer: the mean state at the last token of ``n`` prompts with a dummy question (Hendel et al., section 3).

    ``shuffled`` takes prompts whose demonstrations are all wrong: a control with the same words.
    """
    write = shuffled_prompts if shuffled else icl_prompts
    return mean_states(model, write(task, n, shots, seed, dummy=True))


def zero_shot_states(model: TransformerBridge, task: Task, n: int = 50, seed: int = 0) -> Float[Tensor, "layer d_model"]:
    """The mean state at the last token of the same dummy questions without demonstrations."""
    return mean_states(model, zero_shot_prompts(task, n, seed, dummy=True))


def task_differences(
    model: TransformerBridge, task: Task, n: int = 50, shots: int = 5, seed: int = 0, shuffled: bool = False
) -> Float[Tensor, "layer d_model"]:
    """What the demonstrations change in the mean state: a vector to be added, ``task_states`` minus ``zero_shot_states``."""
    return task_states(model, task, n, shots, seed, shuffled) - zero_shot_states(model, task, n, seed)


def random_states(like: Float[Tensor, "layer d_model"], seed: int = 0) -> Float[Tensor, "layer d_model"]:
    """A control: at every layer a direction drawn at random, as long as the vector of ``like`` there."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * like.norm(dim=-1, keepdim=True).cpu()


def with_controls(
    model: TransformerBridge, task: Task, other: Task, n: int = 50, shots: int = 5, seed: int = 0, how: str = "replace"
) -> dict[str, Float[Tensor, "layer d_model"]]:
    """The task's vector beside its controls: another task's, one of shuffled labels, a random one of the same length."""
    _check_how(how)
    vector = task_states if how == "replace" else task_differences
    own = vector(model, task, n, shots, seed)
    return {
        task.name: own,
        f"other task: {other.name}": vector(model, other, n, shots, seed),
        "shuffled labels": vector(model, task, n, shots, seed, shuffled=True),
        "random": random_states(own, seed),
    }


def _check_how(how: str) -> None:
    if how not in HOW:
        raise ValueError(f"how says what to do with the vector: 'replace' the state, or 'add' to it, not {how!r}.")


def _at_every_layer(model: TransformerBridge, vector: Float[Tensor, "*layer d_model"]) -> Float[Tensor, "n_layers d_model"]:
    """A vector for each layer; a single one is meant for all of them. Raises ValueError for another shape."""
    wanted = (model.cfg.n_layers, model.cfg.d_model)
    if vector.shape not in (wanted, wanted[1:]):
        raise ValueError(f"A vector for this model has the shape {list(wanted)}, or {list(wanted[1:])}, not {list(vector.shape)}.")
    return vector.expand(wanted)


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
        return _first_best(self.accuracy)

    def table(self) -> str:
        """One line for each layer: the share of right answers, with the prompts as they are on top."""
        lines = [f"{layer:>6} {share:9.1%}" for layer, share in enumerate(self.accuracy.tolist())]
        return "\n".join([" layer  accuracy", f"  none {_share(self.before):9.1%}", *lines])


def _first_best(shares: Float[Tensor, "layer"]) -> int:
    return int((shares == shares.max()).nonzero()[0])


def _share(hits: Bool[Tensor, "prompt"]) -> float:
    return hits.float().mean().item()


def patch_sweep(
    model: TransformerBridge,
    states: Float[Tensor, "*layer d_model"],
    prompts: Sequence[Prompt],
    how: str = "replace",
    scale: float = 1.0,
    first: bool = False,
) -> LayerSweep:
    """Puts a vector into the last token of the prompts, at one layer after the other, and counts the right answers.

    ``states``: a vector for each layer (``task_states``), or one for all of them (``function_vector``). ``how``: it replaces the state
    (Hendel et al., section 3), or ``scale`` times it is added (Todd et al., section 2.3). In models with learned positions (GPT-2, the
    course LM) a mean state also says where in the text it stood, and far from there it misleads: add ``task_differences`` instead.
    """
    asked = ask(model, prompts, first)
    found = _patched(model, asked, _at_every_layer(model, states)[None], torch.zeros(len(asked), dtype=torch.long), how, scale)
    return LayerSweep(found, _answers(model, asked, _given(()))[0])


def _patched(
    model: TransformerBridge,
    asked: Asked,
    vectors: Float[Tensor, "vector layer d_model"],
    which: Int[Tensor, "prompt"],
    how: str,
    scale: float = 1.0,
) -> Bool[Tensor, "layer prompt"]:
    """Hits with a vector at each layer; ``which`` names the vector of each prompt."""
    _check_how(how)

    def new(old: Tensor, copies: Tensor, prompts: Tensor) -> Tensor:
        vector = vectors[which[prompts], copies][:, None].to(old)  # [batch, 1, d_model]
        return old + scale * vector if how == "add" else vector

    return _in_copies(model, asked, _stream(model), new)[0]


@dataclass(frozen=True)
class Comparison:
    """Several vectors, each at every layer, on prompts for choosing the layer and on others.

    ``references`` are the right answers on the other prompts without a vector, by name.
    """

    names: tuple[str, ...]
    choosing: Bool[Tensor, "vector layer chosen"]
    hits: Bool[Tensor, "vector layer prompt"]
    references: dict[str, Bool[Tensor, "prompt"]]

    @property
    def accuracy(self) -> Float[Tensor, "vector layer"]:
        """The share of right answers with each vector at each layer, on the prompts that did not choose."""
        return self.hits.float().mean(-1)

    @property
    def best(self) -> tuple[int, ...]:
        """The best layer of each vector by the prompts for choosing: the controls have a layer of their own too."""
        return tuple(_first_best(shares) for shares in self.choosing.float().mean(-1))

    @property
    def at_best(self) -> Bool[Tensor, "vector prompt"]:
        """Right answers at each vector's best layer, on the prompts that did not choose."""
        return self.hits[torch.arange(len(self.names)), torch.tensor(self.best)]

    def of(self, name: str) -> Bool[Tensor, "prompt"]:
        """Right answers with one vector at its best layer, or those of a reference. Raises ValueError for an unknown name."""
        if name not in (*self.names, *self.references):
            raise ValueError(f"There is no {name!r} here: there are {', '.join((*self.names, *self.references))}.")
        return self.references[name] if name in self.references else self.at_best[self.names.index(name)]

    def table(self) -> str:
        """One line for each reference and each vector: its layer and the share of right answers."""
        width = max(map(len, (*self.names, *self.references, "vector")))
        lines = [f"{name:<{width}} {'':>6} {_share(hits):9.1%}" for name, hits in self.references.items()]
        rows = zip(self.names, self.best, self.at_best, strict=True)
        lines += [f"{name:<{width}} {layer:>6} {_share(hits):9.1%}" for name, layer, hits in rows]
        return "\n".join([f"{'vector':<{width}}  layer  accuracy", *lines])


def compare(
    model: TransformerBridge,
    vectors: Mapping[str, Float[Tensor, "*layer d_model"]],
    choose: Sequence[Prompt],
    test: Sequence[Prompt],
    how: str = "replace",
    scale: float = 1.0,
    icl: Sequence[Prompt] = (),
    first: bool = False,
) -> Comparison:
    """Puts each of some vectors in at each layer; every vector's layer is chosen with ``choose`` and judged with ``test``.

    ``icl``: the questions of ``test`` with demonstrations, as a reference. Raises ValueError where there is no vector, where the two
    sets share a question, or where ``icl`` asks another number of questions.
    """
    if not vectors:
        raise ValueError("There is no vector to compare: give at least one, by its name.")
    if both := {prompt.text for prompt in choose} & {prompt.text for prompt in test}:
        raise ValueError(f"{min(both)[-40:]!r} is asked for choosing and for the test: take the two halves of a task.")
    if icl and len(icl) != len(test):
        raise ValueError(f"The reference has {len(icl)} prompts and the test {len(test)}: ask the same questions in both.")
    stacked = torch.stack([_at_every_layer(model, vector).cpu() for vector in vectors.values()])
    sides = []
    for prompts in (choose, test):
        asked, every = ask(model, prompts, first), torch.arange(len(vectors)).repeat_interleave(len(prompts))
        copies = asked.take(torch.arange(len(asked)).repeat(len(vectors)))
        found = _patched(model, copies, stacked, every, how, scale)  # [layer, vector x prompt]
        sides.append(found.reshape(len(found), len(vectors), -1).transpose(0, 1))
    named = {"zero-shot": test} | ({"in-context learning": icl} if icl else {})
    return Comparison(tuple(vectors), *sides, {name: accuracy(model, prompts, first=first) for name, prompts in named.items()})


# ------------------------------------------------------------------------------------------------- vectors from heads


def head_means(model: TransformerBridge, task: Task, n: int = 100, shots: int = 5, seed: int = 0) -> Float[Tensor, "layer head d_head"]:
    """The mean output of every head, before W_O, at the last token of ``n`` prompts with a dummy question (Todd et al., section 2.3)."""
    return mean_heads(model, icl_prompts(task, n, shots, seed, dummy=True))


def mean_heads(model: TransformerBridge, prompts: Sequence[Prompt]) -> Float[Tensor, "layer head d_head"]:
    """The mean output of every head, before W_O, at the last token of some prompts; on the CPU."""
    return last_heads(model, _read_texts(model, prompts)).double().mean(1).float()


@torch.no_grad()
def head_outputs(model: TransformerBridge, means: Float[Tensor, "layer head d_head"]) -> Float[Tensor, "layer head d_model"]:
    """What each head writes to the stream when its output is ``means``: through its own part of W_O; on the CPU.

    Raises ValueError for models that normalise once more what their attention writes (Gemma 2).
    """
    _check_heads(model, means)
    if hasattr(model.blocks[0], "ln1_post"):
        raise ValueError("This model rescales what its heads write together, so no head has an output of its own: use task_states.")
    mixers = [block.attn.W_O for block in model.blocks]  # [head, d_head, d_model] each
    written = [torch.einsum("hd,hdm->hm", own.to(mixer), mixer) for own, mixer in zip(means, mixers, strict=True)]
    return torch.stack(written).float().cpu()


def _check_heads(model: TransformerBridge, means: Float[Tensor, "..."]) -> None:
    wanted = [model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head]
    if list(means.shape) != wanted:
        raise ValueError(f"The means of all heads of this model have the shape {wanted}, not {list(means.shape)}: use head_means.")


@dataclass(frozen=True)
class IndirectEffects:
    """By how much the probability of the right answer rises when one head's output becomes its mean over clean prompts (CIE).

    ``before`` is the probability without a change.
    """

    effect: Float[Tensor, "layer head prompt"]
    before: Float[Tensor, "prompt"]

    @property
    def mean(self) -> Float[Tensor, "layer head"]:
        """The mean over the prompts."""
        return self.effect.mean(-1)

    def top(self, n: int = 10) -> list[Head]:
        """The ``n`` heads with the largest mean effects."""
        return top_heads(self.mean, n)

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` heads with the largest effects: layer, head, mean change of the probability."""
        return _head_table(self.mean, n)


@dataclass(frozen=True)
class AverageEffects:
    """The mean indirect effects of all heads in several tasks, and over the tasks (AIE; Todd et al., section 2.3)."""

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
        return _head_table(self.mean, n)


def top_heads(effect: Float[Tensor, "layer head"], n: int = 10) -> list[Head]:
    """The ``n`` heads with the largest numbers, the largest first. Raises ValueError where there are not so many heads."""
    if not 1 <= n <= effect.numel():
        raise ValueError(f"n says how many heads to take; this model has {effect.numel()}, so it must be from 1 to that, not {n}.")
    return [divmod(at, effect.shape[1]) for at in effect.flatten().argsort(descending=True, stable=True)[:n].tolist()]


def random_heads(model: TransformerBridge, n: int, seed: int = 0, exclude: Sequence[Head] = ()) -> list[Head]:
    """``n`` heads drawn at random, without those to ``exclude``: the control of the top heads. Raises ValueError where too few are left."""
    rest = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads) if (layer, head) not in exclude]
    if not 1 <= n <= len(rest):
        raise ValueError(f"n says how many heads to draw; {len(rest)} are left, so it must be from 1 to that, not {n}.")
    return sorted(Random(seed).sample(rest, n))


def _head_table(effect: Float[Tensor, "layer head"], n: int) -> str:
    chosen = top_heads(effect, min(n, effect.numel()))
    return "\n".join([" layer  head   effect", *(f"{layer:>6} {head:>5} {effect[layer, head]:+8.4f}" for layer, head in chosen)])


def indirect_effects(
    model: TransformerBridge, means: Float[Tensor, "layer head d_head"], prompts: Sequence[Prompt], first: bool = False
) -> IndirectEffects:
    """The causal indirect effect of every head: its output at the last token becomes its mean, and p(answer) is read again.

    ``prompts`` come from ``shuffled_prompts``, ``means`` from ``head_means``: ``CIE = p(y | a := mean) - p(y)`` (Todd et al., section 2.3).
    Copies of the prompts for many heads share a forward pass. The answer is the whole word, or its ``first`` token as in the paper.
    """
    _check_heads(model, means)
    asked, every = ask(model, prompts, first), [divmod(at, model.cfg.n_heads) for at in range(model.cfg.n_layers * model.cfg.n_heads)]
    flat, head = means.flatten(0, 1), torch.tensor([number for _, number in every])

    def new(old: Tensor, copies: Tensor, prompts: Tensor) -> Tensor:
        changed = old.clone()  # [batch, 1, head, d_head]
        changed[torch.arange(len(old)), 0, head[copies]] = flat[copies].to(old)
        return changed

    before = _answers(model, asked, _given(()))[1]
    after = _in_copies(model, asked, [head_out(layer) for layer, _ in every], new)[1]
    return IndirectEffects((after - before).reshape(model.cfg.n_layers, model.cfg.n_heads, -1), before)


def average_effects(
    model: TransformerBridge,
    tasks: Sequence[Task],
    n: int = 25,
    shots: int = 5,
    seed: int = 0,
    n_means: int = 100,
    zero_shot: bool = False,
    first: bool = False,
) -> AverageEffects:
    """The indirect effects of all heads on ``n`` shuffled prompts of each task, averaged over the tasks (AIE).

    ``zero_shot`` takes prompts without demonstrations instead: where a model knows a task by its words alone, wrong labels spoil
    nothing that a head could mend. The prompts ask about pairs for demonstrations, so that heads are chosen without the questions.
    """
    if not tasks:
        raise ValueError("There is no task to average over: give at least one.")
    found = []
    for task in progress(tasks, desc="tasks"):
        spoilt = zero_shot_prompts(task, n, seed + 1, True) if zero_shot else shuffled_prompts(task, n, shots, seed + 1, True)
        found.append(indirect_effects(model, head_means(model, task, n_means, shots, seed), spoilt, first).mean)
    return AverageEffects(tuple(task.name for task in tasks), torch.stack(found))


def function_vector(outputs: Float[Tensor, "layer head d_model"], heads: Sequence[Head]) -> Float[Tensor, "d_model"]:
    """The function vector: the sum of what some heads write (``head_outputs``; Todd et al., section 2.3), to be added at one layer."""
    layers, width, _ = outputs.shape
    if not heads:
        raise ValueError("There is no head to sum: name at least one, such as (4, 2) for head 2 of layer 4.")
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < width):
            raise ValueError(f"There is no head ({layer}, {head}): layers are 0 to {layers - 1}, and heads 0 to {width - 1}.")
    return torch.stack([outputs[layer, head] for layer, head in dict.fromkeys(heads)]).sum(0)


# -------------------------------------------------------------------------------------------------- tasks and layers


@dataclass(frozen=True)
class Grid:
    """Right answers for several tasks, with each task's vector at each layer (the lecture's figure 21).

    ``choosing`` holds the questions that choose each task's layer. ``zero_shot``, ``icl`` and ``shuffled`` are without a vector, the
    last two with right and with wrong demonstrations of the same questions as ``hits``.
    """

    tasks: tuple[str, ...]
    choosing: Bool[Tensor, "task layer prompt"]
    hits: Bool[Tensor, "task layer prompt"]
    zero_shot: Bool[Tensor, "task prompt"]
    icl: Bool[Tensor, "task prompt"]
    shuffled: Bool[Tensor, "task prompt"]

    @property
    def accuracy(self) -> Float[Tensor, "task layer"]:
        """The share of right answers with the vector, on the questions that did not choose."""
        return self.hits.float().mean(-1)

    @property
    def best(self) -> tuple[int, ...]:
        """The best layer of each task by the questions for choosing."""
        return tuple(_first_best(shares) for shares in self.choosing.float().mean(-1))

    @property
    def patched(self) -> Bool[Tensor, "task prompt"]:
        """Right answers with the vector at each task's best layer, on the questions that did not choose."""
        return self.hits[torch.arange(len(self.tasks)), torch.tensor(self.best)]

    def table(self) -> str:
        """One line for each task: accuracy without demonstrations, with the vector and its layer, with right and with wrong ones."""
        width = max(map(len, (*self.tasks, "task")))
        columns = [each.float().mean(-1).tolist() for each in (self.zero_shot, self.patched, self.icl, self.shuffled)]
        rows = zip(self.tasks, self.best, *columns, strict=True)
        lines = [f"{name:<{width}} {zero:9.1%} {own:8.1%} {at:>6} {icl:6.1%} {bad:9.1%}" for name, at, zero, own, icl, bad in rows]
        return "\n".join([f"{'task':<{width}} zero-shot   vector  layer    ICL  shuffled", *lines])


def accuracy_grid(
    model: TransformerBridge,
    tasks: Sequence[Task],
    n: int = 40,
    shots: int = 5,
    seed: int = 0,
    how: str = "replace",
    n_states: int = 50,
    vectors: Float[Tensor, "task layer d_model"] | None = None,
    first: bool = False,
) -> Grid:
    """Each task's vector at each layer, for ``n`` questions that choose its layer and ``n`` others, with its references.

    ``vectors`` are those of ``task_states`` (or, to be added, of ``task_differences``) unless given, e.g. function vectors.
    """
    if not tasks:
        raise ValueError("There is no task to try: give at least one.")
    _check_how(how)
    if vectors is None:
        vector = task_states if how == "replace" else task_differences
        vectors = torch.stack([vector(model, task, n_states, shots, seed) for task in progress(tasks, desc="tasks")])
    if len(vectors) != len(tasks):
        raise ValueError(f"There are {len(tasks)} tasks and vectors for {len(vectors)}: give each task its own.")
    stacked = torch.stack([_at_every_layer(model, own).cpu() for own in vectors])
    halves = [task.halves(seed) for task in tasks]
    asked = [[prompt for two in halves for prompt in zero_shot_prompts(two[side], n, seed)] for side in (0, 1)]
    which = torch.arange(len(tasks)).repeat_interleave(n)
    sweeps = [_patched(model, ask(model, prompts, first), stacked, which, how) for prompts in asked]  # [layer, task x prompt]
    shown = [[prompt for _, test in halves for prompt in write(test, n, shots, seed)] for write in (icl_prompts, shuffled_prompts)]
    columns = [accuracy(model, prompts, first=first).reshape(len(tasks), n) for prompts in (asked[1], *shown)]
    both = [sweep.reshape(len(sweep), len(tasks), n).transpose(0, 1) for sweep in sweeps]
    return Grid(tuple(task.name for task in tasks), *both, *columns)


# ------------------------------------------------------------------------------------------------------ vector algebra


def compose(
    v_ad: Float[Tensor, "*layer d_model"], v_bc: Float[Tensor, "*layer d_model"], v_ac: Float[Tensor, "*layer d_model"]
) -> Float[Tensor, "*layer d_model"]:
    """The vector of a task BD from three others: ``v_BD = v_AD + v_BC - v_AC`` (Todd et al., section 3.3; the lecture's figure 22).

    With A first, B last, C copy, D capital of: the capital of the first, plus the last, minus the first, is the capital of the last.
    """
    return v_ad + v_bc - v_ac


def composition(
    model: TransformerBridge,
    ad: Task,
    bc: Task,
    ac: Task,
    bd: Task,
    n: int = 40,
    shots: int = 5,
    seed: int = 0,
    how: str = "add",
    n_states: int = 50,
    first: bool = False,
) -> Comparison:
    """Answers to the composite task ``bd`` with the composed vector, with its own vector, and with each parent alone.

    The questions of ``bd`` are halved: one half chooses each vector's layer. References are ``bd`` without demonstrations and with.
    ``how``: differences of mean states are added as function vectors are, or mean states replace the state.
    """
    _check_how(how)
    vector = task_states if how == "replace" else task_differences
    own, v_ad, v_bc, v_ac = (vector(model, task, n_states, shots, seed) for task in progress((bd, ad, bc, ac), desc="tasks"))
    vectors = {"composed": compose(v_ad, v_bc, v_ac), f"direct: {bd.name}": own}
    vectors |= {f"parent: {task.name}": parent for task, parent in ((ad, v_ad), (bc, v_bc), (ac, v_ac))}
    choose, test = bd.halves(seed)
    prompts = zero_shot_prompts(choose, n, seed), zero_shot_prompts(test, n, seed)
    return compare(model, vectors, *prompts, how, icl=icl_prompts(test, n, shots, seed), first=first)


# ------------------------------------------------------------------------------------------- demonstrations against vector


@dataclass(frozen=True)
class Conflict:
    """Prompts that demonstrate task A with the vector of task B put in at each layer: which answer A's way, and which B's.

    ``before_a`` and ``before_b`` are the answers without the vector.
    """

    tasks: tuple[str, str]
    a: Bool[Tensor, "layer prompt"]
    b: Bool[Tensor, "layer prompt"]
    before_a: Bool[Tensor, "prompt"]
    before_b: Bool[Tensor, "prompt"]

    def table(self) -> str:
        """One line for each layer: the share of answers of A and of B, with those without the vector on top."""
        rows = [("none", _share(self.before_a), _share(self.before_b))]
        rows += [(str(layer), _share(a), _share(b)) for layer, (a, b) in enumerate(zip(self.a, self.b, strict=True))]
        widths = [max(len(name), 7) for name in self.tasks]
        head = " layer " + " ".join(f"{name:>{width}}" for name, width in zip(self.tasks, widths, strict=True))
        return "\n".join([head, *(f"{at:>6} {a:{widths[0]}.1%} {b:{widths[1]}.1%}" for at, a, b in rows)])


def conflict(
    model: TransformerBridge,
    a: Task,
    b: Task,
    states: Float[Tensor, "*layer d_model"],
    n: int = 40,
    shots: int = 5,
    seed: int = 0,
    first: bool = False,
) -> Conflict:
    """Demonstrates task A, and replaces the state at the last token by the vector of B (Hendel et al., section 5).

    Asked are questions of A that are inputs of B with another answer; such inputs are demonstrated too, where there are enough.
    Raises ValueError where no question of A has another answer in B.
    """
    in_b = dict((*b.demonstrations, *b.questions))
    differs = [tuple(pair for pair in side if in_b.get(pair[0], pair[1]) != pair[1]) for side in (a.demonstrations, a.questions)]
    if not differs[1]:
        raise ValueError(f"No question of {a.name!r} has another answer in {b.name!r}: choose two tasks on the same inputs.")
    shared = replace(a, demonstrations=differs[0] if len(differs[0]) > shots else a.demonstrations, questions=differs[1])
    prompts = icl_prompts(shared, n, shots, seed)
    both = [*prompts, *(replace(prompt, answer=in_b[prompt.question]) for prompt in prompts)]
    asked = ask(model, both, first)
    vector = _at_every_layer(model, states)[None]
    found = _patched(model, asked, vector, torch.zeros(len(asked), dtype=torch.long), "replace")
    return Conflict((a.name, b.name), *found.split(n, 1), *_answers(model, asked, _given(()))[0].split(n))


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


def in_context_vector(model: TransformerBridge, pairs: Sequence[Pair]) -> InContextVector:
    """The first principal component of the differences ``H(y) - H(x)``, which points from x to y (Liu et al., section 3).

    ``H`` is the stream after every block at the last token of a text, all layers one after the other. Nothing is centred: the component
    has the largest mean square of ``h . (H(y) - H(x))``. Raises ValueError where there is no pair, or no difference.
    """
    if not pairs:
        raise ValueError("There are no pairs of texts: give at least one.")
    sides = [activations_at(model, as_texts(model, list(texts)), _stream(model))[:, :, 0] for texts in zip(*pairs, strict=True)]
    difference = (sides[1] - sides[0]).transpose(0, 1).flatten(1).double()  # [pair, layer x d_model]
    if not difference.norm() > 0:
        raise ValueError("The two texts of every pair leave the same states at their last tokens: give texts that differ.")
    _, sizes, axes = torch.linalg.svd(difference, full_matrices=False)
    along = difference @ axes[0]
    sign = -1.0 if along.sum() < 0 else 1.0
    direction = (sign * axes[0]).reshape(model.cfg.n_layers, model.cfg.d_model).float()
    return InContextVector(direction, abs(along.mean().item()), (sizes[0] ** 2 / (sizes**2).sum()).item())


def add_rescaled(hook: str, vector: Float[Tensor, "width"], scale: float = 1.0, **where: Index) -> Intervention:
    """``scale`` times ``vector`` is added to the selected values, which then get back the length that they had."""

    def change(values: Tensor, pick: object) -> Tensor:
        moved = values + scale * vector.to(values)
        return moved * (values.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    return Intervention(hook, change, **where)


def icv_interventions(vector: Float[Tensor, "layer d_model"], strength: float = 1.0, pos: Index = None) -> list[Intervention]:
    """Adds the vector after every block and at every token, and rescales to the old length (Liu et al., section 3).

    The authors' code does this to the outputs of the MLPs, each first brought to length 1; here it is done to the stream itself.
    """
    return [add_rescaled(resid_post(layer), own, strength, pos=pos) for layer, own in enumerate(vector)]
