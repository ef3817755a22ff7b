"""Another answer is written into a fact's value vectors (Dai et al. 2022, arXiv 2104.08696, section 5), and what breaks is counted.

The value vector of each of its knowledge neurons loses the old answer's direction and gets the new one's (``value_edit``). An edit is good
if paraphrases follow and all else stays: other facts about the same subject; the *neighborhood*, which is the same relation of other
subjects (Meng et al. 2022, arXiv 2202.05262); random facts; and ordinary text.

    facts = known_facts(model, n=30)
    print(edit_values(model, edit_prompts(model, facts), knowledge_neurons_of(model, facts)).table())

Edits are made in the weights, and undone to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from statistics import mean

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.rnn import pad_sequence

from helpers.activations import Neuron, check_neuron
from helpers.course_lm.corpus.base import Probe
from helpers.course_lm.facts import Fact
from helpers.inputs import chosen
from helpers.interventions import Intervention, Pick, intervene, mlp_out, mlp_post, record, resid_pre, unembed_only_at, watch
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge, run_from
from helpers.prediction import pieces
from helpers.progress import progress
from helpers.running import check_layers, check_plain_writes
from helpers.speak.knowledge_neurons import N_NEURONS, KnowledgeNeurons, knowledge_neurons_of, upper_layers
from helpers.speak.memories import value_vectors
from helpers.speak.world_facts import CHOSEN, known_facts, new_answer, new_token, paraphrases, world_facts
from helpers.stats import bootstrap_interval
from helpers.tables import table
from helpers.texts import Texts, as_texts, held_out_texts

GROUPS = ("edited", "paraphrases", "same subject", "neighborhood", "random")
CHANGED = GROUPS[:2]  # prompts that should get the new answer; all others should keep theirs
MOST = {"same subject": 6, "neighborhood": 6, "random": 12}
N_TEXTS, TEXT_TOKENS = 16, 24  # held-out texts for the perplexity, and how many tokens of each are read at most

# Settings for the course LM, by the highest score on 16 known facts about the half of the subjects called CHOSEN (seed 0):
# ``choose`` tries 4 to 32 neurons, and strengths from 0.5 to 4.
PLUS = 1.0
DOSES = (0.25, 0.5, 1.0, 2.0)  # strengths of ``dose_curves``


@dataclass(frozen=True)
class Update:
    """What is added to some value vectors of one layer: rows of ``W_out``, ``[d_mlp, d_model]``."""

    layer: int
    units: Int[Tensor, "unit"]
    change: Float[Tensor, "unit d_model"]


@contextmanager
def edited(model: TransformerBridge, updates: Sequence[Update]) -> Iterator[TransformerBridge]:
    """Inside the block the value vectors have these additions; afterwards the weights are as before, to the last bit.

    Raises ValueError for models that normalise what their MLPs write (Gemma 2).
    """
    check_plain_writes(model, "a value vector has no length of its own: choose another model")
    before: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for update in updates:
            vectors = value_vectors(model, update.layer)
            before.append((vectors, update.units, vectors[update.units].clone()))
            vectors[update.units] += update.change.to(vectors)
        yield model
    finally:
        for vectors, units, old in reversed(before):
            vectors[units] = old


def value_edit(model: TransformerBridge, neurons: Sequence[Neuron], old: int, new: int, plus: float = PLUS) -> list[Update]:
    """Dai et al., section 5.3, with the lengths of their code: ``v += plus |v| (u_new - u_old)`` for each neuron's value ``v``.

    ``u`` is the unembedding direction of a token, with length 1. The paper has two strengths, 1 for the old answer and 8 for the new one;
    here both are the same, so that 0 is no edit. Meant for neurons whose activation is above 0, as after a ReLU: below,
    the change works the other way round. Raises ValueError for an unknown neuron, or none.
    """
    if not neurons:
        raise ValueError("There is no neuron whose value could be edited: take a lower threshold, or a number of neurons.")
    units: dict[int, list[int]] = {}
    for layer, neuron in sorted(set(neurons)):
        check_neuron(model, layer, neuron)
        units.setdefault(layer, []).append(neuron)
    u_old, u_new = (normalize(model.W_U.detach()[:, token], dim=0) for token in (old, new))
    values = {layer: value_vectors(model, layer)[some] for layer, some in units.items()}
    step = plus * (u_new - u_old)
    return [Update(layer, torch.tensor(some), values[layer].norm(dim=1, keepdim=True) * step) for layer, some in units.items()]


@dataclass(frozen=True)
class EditPrompts:
    """What is asked after a fact was edited, each prompt in one of ``GROUPS``, and what the model says to it ``before``.

    ``old_token`` and ``new_token`` are the first tokens of both answers; ``held_out`` are texts, ``perplexity`` is the model's on them.
    Of all of these the states before block ``start`` are kept, so that only the blocks from there on are run after an edit.
    """

    fact: Fact
    new: str
    old_token: int
    new_token: int
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    before: Int[Tensor, "prompt"]
    start: int
    texts: Texts
    streams: Float[Tensor, "prompt pos d_model"]
    held_out: Texts
    held_out_streams: Float[Tensor, "text width d_model"]
    perplexity: float

    def to(self, model: TransformerBridge, new: str) -> "EditPrompts":
        """The same for another new answer. Raises ValueError for one that cannot be (see ``new_token``)."""
        return replace(self, new=new, new_token=new_token(model, self.fact, new))


@torch.no_grad()
def edit_prompts(model: TransformerBridge, facts: Sequence[Fact], start: int | None = None, seed: int = 0) -> list[EditPrompts]:
    """For each fact its paraphrases, other facts (those that the model knows), and a new answer drawn at random.

    ``start``: the first layer that edits will change, ``None`` for the first of ``upper_layers``.
    """
    start = check_layers(model, [upper_layers(model)[0] if start is None else start], first=0)[0]
    rng = Random(seed)
    anywhere = rng.sample(world_facts(), min(MOST["random"], len(world_facts())))
    plans = [_plan(fact, anywhere, rng) for fact in facts]
    held_out = held_out_texts(model, N_TEXTS)
    held_out = Texts(held_out.tokens[:, :TEXT_TOKENS], held_out.lengths.clamp(max=TEXT_TOKENS), held_out.kinds)
    texts_kept = (held_out, _entering(model, held_out, start))
    usual, found = _perplexity(model, *texts_kept, start), []
    for fact, plan in zip(facts, plans, strict=True):
        prompts = [probe.prompt for probe in plan]
        texts = as_texts(model, prompts)
        stream = _entering(model, texts, start)
        said = _said(model, texts, stream, start)
        right = first_tokens(model, prompts, [probe.answer for probe in plan])
        rows = [row for row, probe in enumerate(plan) if probe.group in CHANGED or said[row] == right[row]]
        kept, new = texts.take(rows), new_answer(model, fact, seed)
        named = tuple(prompts[row] for row in rows), tuple(plan[row].group for row in rows), said[rows]
        asked = (start, kept, stream[rows, : kept.tokens.shape[1]], *texts_kept, usual)
        found.append(EditPrompts(fact, new, int(right[0]), new_token(model, fact, new), *named, *asked))
    return found


def _said(model: TransformerBridge, texts: Texts, stream: Float[Tensor, "text pos d_model"], start: int) -> Int[Tensor, "text"]:
    """The most likely token after each text, from the states before a block on."""
    with intervene(model, unembed_only_at(texts.last_positions(1))):
        return run_from(model, stream, start)[:, 0].argmax(-1).cpu()


def _entering(model: TransformerBridge, texts: Texts, layer: int) -> Float[Tensor, "text pos d_model"]:
    """The states before a block."""
    return record(model, texts.tokens.to(model.cfg.device), resid_pre(layer))[resid_pre(layer)]


def _perplexity(model: TransformerBridge, texts: Texts, stream: Float[Tensor, "text pos d_model"], start: int) -> float:
    """``exp`` of the mean loss over all tokens of the texts, from the states before a block on."""
    read = texts.mask[:, 1:]
    logits = run_from(model, stream, start)[:, :-1][read.to(stream.device)]
    return cross_entropy(logits.float(), texts.tokens[:, 1:][read].to(logits.device)).exp().item()


def _plan(fact: Fact, anywhere: Sequence[Fact], rng: Random) -> list[Probe]:
    """All that is asked after one edit, each in its group."""
    used, held = paraphrases(fact)
    about = [other for other in world_facts() if other.subject == fact.subject and other.relation is not fact.relation]
    alike = [other for other in world_facts() if other.relation is fact.relation and other.subject != fact.subject]
    alike = [other for other in alike if other.object != fact.object]
    far = [other for other in anywhere if other.subject != fact.subject and other.relation is not fact.relation]
    drawn = {"same subject": rng.sample(about, min(MOST["same subject"], len(about)))}
    drawn |= {"neighborhood": rng.sample(alike, min(MOST["neighborhood"], len(alike))), "random": far}
    return [
        *(Probe(prompt, fact.object, group="edited") for prompt in used),
        *(Probe(prompt, fact.object, group="paraphrases") for prompt in held),
        *(Probe(paraphrases(other)[0][0], other.object, group=group) for group, some in drawn.items() for other in some),
    ]


@dataclass(frozen=True)
class Edit:
    """One edit and what followed: for every prompt the group, the token before and after, and whether that is as it should be.

    That is: the new answer after the fact's own prompts, the old token after all others. ``perplexity``: before and after.
    """

    new: str
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    hits: tuple[bool, ...]
    perplexity: tuple[float, float]

    def share(self, group: str) -> float | None:
        """The share of a group's prompts that are as they should be; None where the group is empty."""
        chosen(GROUPS, group, "group")
        mine = [hit for hit, own in zip(self.hits, self.groups, strict=True) if own == group]
        return mean(mine) if mine else None

    def table(self) -> str:
        """One line for each prompt: its group, itself, the token before and after, and a cross where it is not as it should be."""
        rows = zip(self.groups, self.prompts, self.before, self.after, self.hits, strict=True)
        width = max(map(len, self.prompts))
        lines = [f"{group:<14} {text:<{width}}  {old:>12} ->{new:<12} {'' if hit else '✗'}".rstrip() for group, text, old, new, hit in rows]
        return "\n".join([*lines, "perplexity {:.2f} -> {:.2f}".format(*self.perplexity)])


@dataclass(frozen=True)
class EditScores:
    """Many edits, each made alone; what is averaged are facts."""

    edits: tuple[Edit, ...]

    def values(self, group: str) -> list[float]:
        """The share of each fact that has such prompts."""
        shares = [edit.share(group) for edit in self.edits]
        return [share for share in shares if share is not None]

    def mean(self, group: str) -> float:
        """The mean of the shares over the facts; NaN where no fact has such prompts."""
        return mean(self.values(group)) if self.values(group) else float("nan")

    @property
    def perplexity(self) -> float:
        """By which factor the perplexity on held-out texts grows, on average."""
        return mean(edit.perplexity[1] / edit.perplexity[0] for edit in self.edits)

    @property
    def score(self) -> float:
        """The harmonic mean of all groups (Meng et al., section 3.4, there of three of them): high only if all are high."""
        means = [self.mean(group) for group in GROUPS if self.values(group)]
        return len(means) / sum(1 / max(value, 1e-6) for value in means)

    def table(self) -> str:
        """One line for each group: what should be, the share of prompts where it is so, its interval, the number of facts."""
        rows = []
        for group in GROUPS:
            if len(self.values(group)) > 1:
                low, high = bootstrap_interval(self.values(group))  # the facts are the sample
                wanted = "change" if group in CHANGED else "stay"
                rows.append((group, wanted, self.mean(group), f"  [{low:6.1%}, {high:6.1%}]", len(self.values(group))))
        columns = {"prompts": "<15", "should": "<7", "share": "7.1%", "  95 % interval": "<18", "facts ": "6"}
        return table(columns, rows) + f"\nperplexity x {self.perplexity:.3f}, score {self.score:.3f}"


@torch.no_grad()
def apply_edit(model: TransformerBridge, asked: EditPrompts, updates: Sequence[Update]) -> Edit:
    """Makes one edit, asks everything, and undoes it. Raises ValueError for an edit below the layer from which the prompts are run."""
    if (lowest := min((update.layer for update in updates), default=asked.start)) < asked.start:
        raise ValueError(f"The prompts are run from layer {asked.start}, the edit is in layer {lowest}: edit_prompts(start={lowest}).")
    with edited(model, updates):
        after = _said(model, asked.texts, asked.streams, asked.start)
        harmed = _perplexity(model, asked.held_out, asked.held_out_streams, asked.start)
    changed = torch.tensor([group in CHANGED for group in asked.groups])
    hits = torch.where(changed, after == asked.new_token, after == asked.before)
    said = [tuple(pieces(model, tokens)) for tokens in (asked.before, after)]
    return Edit(asked.new, asked.prompts, asked.groups, *said, tuple(hits.tolist()), (asked.perplexity, harmed))


def judge_edits(model: TransformerBridge, asked: Sequence[EditPrompts], updates: Sequence[Sequence[Update]]) -> EditScores:
    """Makes each fact's updates alone, asks everything, and undoes them."""
    pairs = zip(progress(asked, desc="edits"), updates, strict=True)
    return EditScores(tuple(apply_edit(model, one, own) for one, own in pairs))


def try_edit(
    model: TransformerBridge, asked: EditPrompts, found: KnowledgeNeurons, new: str, n: int = N_NEURONS, plus: float = PLUS
) -> Edit:
    """One fact gets a new answer by its ``n`` best neurons: what changed, and what broke.

    Raises ValueError for a new answer that cannot be, fewer neurons than one, and a strength that is not above 0.
    """
    if n < 1 or not plus > 0:
        raise ValueError(f"An edit needs 1 neuron or more and a strength above 0, not {n} and {plus:g}.")
    asked = asked.to(model, new)
    return apply_edit(model, asked, value_edit(model, found.top(n), asked.old_token, asked.new_token, plus))


def edit_values(
    model: TransformerBridge,
    asked: Sequence[EditPrompts],
    found: Sequence[KnowledgeNeurons],
    n: int = N_NEURONS,
    plus: float = PLUS,
    control: bool = False,
) -> EditScores:
    """Edits each fact alone by the value vectors of its ``n`` best neurons; ``control``: of as many that are equally active instead."""
    neurons = [one.control(one.top(n)) if control else one.top(n) for one in found]
    pairs = zip(asked, neurons, strict=True)
    return judge_edits(model, asked, [value_edit(model, own, one.old_token, one.new_token, plus) for one, own in pairs])


@torch.no_grad()
def hits_together(
    model: TransformerBridge, asked: Sequence[EditPrompts], updates: Sequence[Sequence[Update]], group: str = CHANGED[0]
) -> Float[Tensor, "fact"]:
    """The share of each fact's prompts of one group that are as they should be, as in ``judge_edits``, for all facts in one pass.

    No weight is changed: what an edit would add to the output of an MLP is added to it in the prompts of its own fact. NaN where a fact
    has no such prompt. All prompts must be kept from the same layer on.
    """
    rows = [(at, row) for at, one in enumerate(asked) for row, own in enumerate(one.groups) if own == chosen(GROUPS, group, "group")]
    stream = pad_sequence([asked[at].streams[row] for at, row in rows], batch_first=True)
    ends = torch.stack([asked[at].texts.lengths[row] - 1 for at, row in rows])[:, None]
    fact, start = torch.tensor([at for at, _ in rows]), asked[0].start
    changes = [change for layer in range(start, model.cfg.n_layers) for change in _adding(layer, fact, updates)]
    with intervene(model, *changes, unembed_only_at(ends)):
        after = run_from(model, stream, start)[:, 0].argmax(-1).cpu()
    wanted = [asked[at].new_token if group in CHANGED else int(asked[at].before[row]) for at, row in rows]
    hits = (after == torch.tensor(wanted)).float()
    return torch.stack([hits[fact == at].mean() for at in range(len(asked))])


def _adding(layer: int, fact: Int[Tensor, "prompt"], updates: Sequence[Sequence[Update]]) -> list[Intervention]:
    """Interventions that add to each prompt what its fact's updates of this layer would add to the MLP's output: ``m`` times the change."""
    here = [(fact == at, update) for at, some in enumerate(updates) for update in some if update.layer == layer]
    seen: dict[int, Tensor] = {}

    def add(values: Tensor, pick: Pick) -> Tensor:
        new = values.clone()
        for mine, update in here:
            new[mine] += seen[layer][mine][..., update.units] @ update.change.to(values)
        return new

    return [watch(mlp_post(layer), lambda values: seen.update({layer: values})), Intervention(mlp_out(layer), add)] if here else []


def dose_curves(
    model: TransformerBridge,
    asked: Sequence[EditPrompts],
    found: Sequence[KnowledgeNeurons],
    doses: Sequence[float] = DOSES,
    n: int = N_NEURONS,
    draws: int = 10,
    group: str = CHANGED[0],
) -> dict[str, Float[Tensor, "dose fact"]]:
    """The share of one group's prompts that are as they should be, at each strength: knowledge neurons, and equally active ones.

    The control is the mean over ``draws`` of as many other neurons of the same layers.
    """
    sets = {"knowledge neurons": [[one.top(n) for one in found]]}
    sets["equally active neurons"] = [[one.control(one.top(n), seed=seed) for one in found] for seed in range(draws)]

    def shares(neurons: Sequence[Sequence[Neuron]], plus: float) -> Float[Tensor, "fact"]:
        edits = [value_edit(model, own, one.old_token, one.new_token, plus) for one, own in zip(asked, neurons, strict=True)]
        return hits_together(model, asked, edits, group)

    return {
        name: torch.stack([torch.stack([shares(neurons, plus) for neurons in drawn]).mean(0) for plus in doses])
        for name, drawn in sets.items()
    }


@dataclass(frozen=True)
class Choice:
    """All settings that were tried, each with what its edits did; chosen is the highest score."""

    tried: Mapping[tuple[float, ...], EditScores]

    @property
    def best(self) -> tuple[float, ...]:
        """The settings with the highest score."""
        return max(self.tried, key=lambda setting: self.tried[setting].score)

    def table(self) -> str:
        """One line for each setting: the shares of all groups, the perplexity's factor, the score."""
        columns = {"setting": "<15"} | dict.fromkeys(GROUPS, "14.2f") | {" perplexity": "11.3f", "score": "6.3f", "": "<2"}
        rows = [
            (", ".join(f"{x:g}" for x in setting), *map(edits.mean, GROUPS), edits.perplexity, edits.score, "<-" * (setting == self.best))
            for setting, edits in self.tried.items()
        ]
        return table(columns, rows)


def choose(
    model: TransformerBridge, n: Sequence[int] = (4, 8, 16, 32), plus: Sequence[float] = (0.5, 1.0, 2.0, 4.0), n_facts: int = 16
) -> Choice:
    """Tries numbers of neurons and strengths on facts about the half of the subjects (``CHOSEN``) on which nothing is reported.

    ``N_NEURONS`` and ``PLUS`` were chosen so; it takes a minute.
    """
    facts = known_facts(model, n_facts, CHOSEN)
    found, asked, grid = knowledge_neurons_of(model, facts), edit_prompts(model, facts), list(product(n, plus))
    return Choice({setting: edit_values(model, asked, found, *setting) for setting in progress(grid, desc="settings")})
