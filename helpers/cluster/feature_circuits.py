"""Sparse feature circuits: what each feature of an autoencoder does for one decision, and a bias taken out feature by feature.

Marks et al. 2024 (arXiv 2403.19647). A state of the stream is ``x = sum_k a_k W_dec[k] + b_dec + e``. Its features ``a_k``, and
the error ``e`` that the autoencoder leaves, are the *nodes*, at every position of the prompt: a node is ``(position, feature)``,
and the error has the number ``d_sae``, behind the last feature. The paper has an autoencoder at every place of the model; here it is
one, at ``sae.hook``, so there are no edges.

    both = agreement_runs(model, 40)
    effects = attribute_nodes(model, sae, both, steps=10)
    print(effects.table())

SHIFT (section 4 of the paper) takes the features out of a classifier that are about something else than its task: ``shift``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.cluster.patching import PromptPairs, metric_at_ends, prompt_pairs
from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.corpus.prose import HOBBIES, NOW, PROFESSIONS, PRONOUNS, THEN, agreement_probes
from helpers.course_lm.corpus.stories import story
from helpers.course_lm.world import World
from helpers.interventions import Intervention, add, intervene, mlp_post, project_out, record, set_to, unembed_only_at
from helpers.metrics import AFTER_FIRST, COPIED_TOKENS, log_odds, measure, run_with_gradients
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder, layer_of
from helpers.one_layer.probes import Probes, fit_probes
from helpers.one_neuron.ablation import ablate_neurons
from helpers.prediction import token_id, tokenize
from helpers.progress import progress
from helpers.stats import Interval, auc, mean_interval
from helpers.texts import Texts, TextsLike, as_texts

Read = Callable[[Sequence[Tensor]], Tensor]
Node = tuple[int, int]  # position, and feature; the error is feature d_sae

# ------------------------------------------------------------------------------------------------------- minimal pairs


def agreement_runs(model: TransformerBridge, n: int, group: str = "present relative", seed: int = 0) -> PromptPairs:
    """``n`` prompts that ask for a verb across an attractor, and the same with the number of the subject changed.

    ``Now the bridge that the farmers like`` (is) beside ``Now the bridges that the farmers like`` (are). The nouns stand in no such
    sentence of the course LM's corpus. All prompts have one length, and the subject at one position; ``group`` is that of
    ``agreement_probes``. Raises ValueError where there are too few.
    """
    shapes: dict[tuple[int, int], list[tuple[str, str, str, str]]] = {}
    for probe in agreement_probes(World.load(), Random(f"{seed} agreement"), 100 * n):
        other = _other_number(probe.prompt)
        if probe.group != group or other is None:
            continue
        one, two = (tokenize(model, prompt) for prompt in (probe.prompt, other))
        if len(one) == len(two):
            same = shapes.setdefault((len(one), int((one != two).int().argmax())), [])
            same.append((probe.prompt, other, f" {probe.answer}", f" {probe.wrong}"))
            if len(same) == n:
                clean, corrupted, right, wrong = map(list, zip(*same, strict=True))
                ids = [torch.tensor([token_id(model, word) for word in words]) for words in (right, wrong)]
                return prompt_pairs(model, clean, corrupted, log_odds(*ids))
    raise ValueError(f"There are not {n} prompts of one length in the group {group!r}: ask for fewer, or for 'present near'.")


def _other_number(prompt: str) -> str | None:
    """The prompt with its subject, the noun after the time, in the other number."""
    when = next(time for time in sorted((*NOW, *THEN), key=len, reverse=True) if prompt.startswith(f"{time} the "))
    before = f"{when} the "
    noun, _, rest = prompt.removeprefix(before).partition(" ")
    for row in World.load().rows("nouns"):
        if noun in (row["singular"], row["plural"]) and row["singular"] != row["plural"]:
            return f"{before}{row['plural' if noun == row['singular'] else 'singular']} {rest}"
    return None


# ---------------------------------------------------------------------------------------------------- indirect effects


@dataclass(frozen=True)
class NodeEffects:
    """The estimated indirect effect of every node on the metric of every prompt; of the nodes of a position the error is the last."""

    values: Float[Tensor, "prompt pos node"]
    steps: int

    @property
    def mean(self) -> Float[Tensor, "pos node"]:
        """The mean over the prompts."""
        return self.values.mean(0)

    @property
    def error(self) -> Float[Tensor, "pos"]:
        """The mean effect of the error at each position."""
        return self.mean[:, -1]

    @property
    def by_feature(self) -> Float[Tensor, "node"]:
        """The mean effect of each feature, and of the error, summed over the positions."""
        return self.mean.sum(0)

    def top(self, n: int = 10, errors: bool = False) -> list[Node]:
        """The ``n`` nodes with the largest mean effects, of either sign; ``errors``: the error may be among them."""
        size = self.mean.abs() if errors else self.mean[:, :-1].abs()
        best = size.flatten().argsort(descending=True, stable=True)[:n]
        return [(at // size.shape[1], at % size.shape[1]) for at in best.tolist()]

    def of(self, nodes: Sequence[Node]) -> Float[Tensor, "node"]:
        """The mean effects of some nodes, in their order."""
        return torch.stack([self.mean[node] for node in nodes])

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` nodes with the largest effects, errors among them."""
        lines = ["position  feature   effect"]
        for pos, feature in self.top(n, errors=True):
            label = "error" if feature == self.values.shape[2] - 1 else str(feature)
            lines.append(f"{pos:8}  {label:>7} {self.mean[pos, feature]:+8.3f}")
        return "\n".join(lines)


@torch.no_grad()
def attribute_nodes(model: TransformerBridge, sae: SparseAutoencoder, both: PromptPairs, steps: int = 0) -> NodeEffects:
    """Estimates for all nodes what patching them does: gradient of the metric times (corrupted - clean), on the clean prompts.

    The gradient is that of the clean run (attribution patching, equation 2 of the paper), or with ``steps`` above 0 the mean over as
    many states on the way from clean to corrupted (integrated gradients, equation 3; the paper takes 10).
    """
    _one_length(both.clean)
    clean, corrupted = (_states(model, texts, sae.hook) for texts in (both.clean, both.corrupted))
    shares = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    slopes = torch.zeros_like(clean)
    for share in progress(shares, desc="steps"):
        slopes += _slopes(model, both, set_to(sae.hook, torch.lerp(clean, corrupted, share))) / len(shares)
    features, error = (after - before for before, after in zip(_split(sae, clean), _split(sae, corrupted), strict=True))
    effects = [(slopes @ sae.W_dec.T) * features, (slopes * error).sum(-1, keepdim=True)]
    return NodeEffects(torch.cat(effects, -1).cpu(), steps)


def _one_length(texts: Texts) -> None:
    """Raises ValueError unless all prompts have equally many tokens."""
    lengths = sorted(set(texts.lengths.tolist()))
    if len(lengths) > 1:
        raise ValueError(f"A node has a position, so all prompts need one length; these have {lengths[0]} to {lengths[-1]} tokens.")


def _states(model: TransformerBridge, texts: Texts, hook: str) -> Float[Tensor, "prompt pos d_model"]:
    return record(model, texts.tokens.to(model.cfg.device), hook)[hook].float()


def _split(
    sae: SparseAutoencoder, x: Float[Tensor, "*batch d_model"]
) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_model"]]:
    """The features of states, and the error that these leave."""
    features = sae.encode(x)
    return features, x - sae.decode(features)


def _slopes(model: TransformerBridge, both: PromptPairs, states: Intervention) -> Float[Tensor, "prompt pos d_model"]:
    """The gradient of the metric where the states at a place are these."""
    leaf = add(states.hook, torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True))
    with torch.enable_grad():
        values, [seen] = run_with_gradients(model, both.clean, both.metric, [states.hook], states, leaf)
        return torch.autograd.grad(values.sum(), seen)[0].float()


@torch.no_grad()
def patch_nodes(model: TransformerBridge, sae: SparseAutoencoder, both: PromptPairs, nodes: Sequence[Node]) -> Float[Tensor, "node prompt"]:
    """How the metric really changes when one node of the clean prompts gets its corrupted value and all others stay.

    ``x + (corrupted a_k - clean a_k) W_dec[k]`` at the node's position. Many nodes share a forward pass. Raises ValueError for an
    unknown node.
    """
    _one_length(both.clean)
    _check_nodes(sae, both.clean.tokens.shape[1], nodes)
    sides = [_split(sae, _states(model, texts, sae.hook)) for texts in (both.clean, both.corrupted)]
    features, error = (after - before for before, after in zip(*sides, strict=True))
    before, changes, n = metric_at_ends(model, both), [], len(both)
    at_once = max(1, COPIED_TOKENS // both.clean.tokens.numel())
    for start in progress(range(0, len(nodes), at_once), desc="nodes"):
        part = nodes[start : start + at_once]
        moves = [error[:, pos] if k == sae.d_sae else features[:, pos, k, None] * sae.W_dec[k] for pos, k in part]
        where = torch.tensor([pos for pos, _ in part]).repeat_interleave(n)
        with intervene(model, add(sae.hook, torch.cat(moves)[:, None], pos=where), unembed_only_at(both.ends.repeat(len(part))[:, None])):
            logits = model(both.clean.tokens.repeat(len(part), 1).to(model.cfg.device))
        ends = both.clean.up_to(torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)], 1))
        changes += [measure(both.metric, own, ends).cpu() - before for own in logits.chunk(len(part))]
    return torch.stack(changes)


def _check_nodes(sae: SparseAutoencoder, width: int, nodes: Sequence[Node]) -> None:
    """Raises ValueError where there is no node, or an unknown one."""
    if not nodes:
        raise ValueError("There is no node to patch: give at least one, such as those of effects.top(20).")
    for pos, feature in nodes:
        if not (0 <= pos < width and 0 <= feature <= sae.d_sae):
            last = f"positions are 0 to {width - 1}, features 0 to {sae.d_sae - 1}, and the error is {sae.d_sae}"
            raise ValueError(f"There is no node {(pos, feature)}: {last}.")


# ------------------------------------------------------------------------------------------------------ faithfulness


@dataclass(frozen=True)
class NodeMeans:
    """The mean of every feature and of the error at every position of some prompts of one length: what ablated nodes are set to."""

    features: Float[Tensor, "pos d_sae"]
    error: Float[Tensor, "pos d_model"]


@dataclass(frozen=True)
class FeatureCircuit:
    """Which features stay, ``[d_sae]`` for all positions or ``[pos, d_sae]``, and whether the error stays; all else is ablated."""

    name: str
    keep: Bool[Tensor, "*pos d_sae"]
    error: bool = False

    @property
    def n(self) -> int:
        """How many features, or nodes, stay."""
        return int(self.keep.sum())


@torch.no_grad()
def node_means(model: TransformerBridge, sae: SparseAutoencoder, both: PromptPairs) -> NodeMeans:
    """The means for mean ablation, over the clean and the corrupted prompts, all of one length."""
    _one_length(both.clean)
    states = torch.cat([_states(model, texts, sae.hook) for texts in (both.clean, both.corrupted)])
    return NodeMeans(*(part.mean(0).cpu() for part in _split(sae, states)))


def only(sae: SparseAutoencoder, means: NodeMeans, circuit: FeatureCircuit) -> Intervention:
    """Only a circuit stays: all other features are set to their means, and the error too unless it belongs to the circuit."""

    def change(values: Tensor, pick: object) -> Tensor:
        features, error = _split(sae, values.float())
        kept = torch.where(circuit.keep.to(values.device), features, means.features.to(values.device))
        return (sae.decode(kept) + (error if circuit.error else means.error.to(error))).to(values)

    return Intervention(sae.hook, change)


@dataclass(frozen=True)
class Faithfulness:
    """The metric of every prompt when only a circuit is left, in the whole model, and with every node ablated, the error too."""

    circuits: tuple[FeatureCircuit, ...]
    values: Float[Tensor, "circuit prompt"]
    full: Float[Tensor, "prompt"]
    empty: Float[Tensor, "prompt"]

    @property
    def shares(self) -> Float[Tensor, "circuit prompt"]:
        """How far each prompt's metric comes from the empty to the full model, on the scale of the mean distance."""
        return (self.values - self.empty) / (self.full - self.empty).mean()

    @property
    def faithfulness(self) -> Float[Tensor, "circuit"]:
        """``(m(C) - m(empty)) / (m(full) - m(empty))``, means over the prompts (section 3.3); that of the rest tells how complete C is."""
        return self.shares.mean(1)

    @property
    def intervals(self) -> list[Interval]:
        """The 95 % interval of each; the prompts are the sample."""
        return [mean_interval(row) for row in self.shares]

    def of(self, name: str, error: bool = False) -> list[tuple[int, float]]:
        """The circuits of one name: how many nodes each keeps, and its faithfulness."""
        rows = zip(self.circuits, self.faithfulness.tolist(), strict=True)
        return [(circuit.n, share) for circuit, share in rows if (circuit.name, circuit.error) == (name, error)]

    def table(self) -> str:
        """One line for each circuit: its name, what it keeps, its faithfulness and the 95 % interval."""
        width = max(len("circuit"), *(len(circuit.name) for circuit in self.circuits))
        lines = [f"{'circuit':<{width}}  nodes  error     faithfulness"]
        for circuit, share, (low, high) in zip(self.circuits, self.faithfulness.tolist(), self.intervals, strict=True):
            error = "kept" if circuit.error else "ablated"
            lines.append(f"{circuit.name:<{width}} {circuit.n:6}  {error:<7} {share:8.2f}   [{low:.2f}, {high:.2f}]")
        return "\n".join(lines)


@torch.no_grad()
def measure_circuits(
    model: TransformerBridge, sae: SparseAutoencoder, both: PromptPairs, means: NodeMeans, circuits: Sequence[FeatureCircuit]
) -> Faithfulness:
    """How much of the metric on the clean prompts each circuit keeps; raises ValueError where even the full model has nothing to keep."""
    nothing = FeatureCircuit("nothing", torch.zeros(sae.d_sae, dtype=torch.bool))
    full = metric_at_ends(model, both)
    values = [metric_at_ends(model, both, only(sae, means, circuit)) for circuit in progress([nothing, *circuits], desc="circuits")]
    if not (full - values[0]).mean().abs() > 1e-6:
        raise ValueError("The metric is the same with every node ablated: at this place the autoencoder is not on its way.")
    return Faithfulness(tuple(circuits), torch.stack(values[1:]), full, values[0])


def circuit_of(nodes: Sequence[Node], means: NodeMeans, name: str = "circuit", error: bool = False) -> FeatureCircuit:
    """The circuit of some nodes."""
    keep = torch.zeros_like(means.features, dtype=torch.bool)
    for node in nodes:
        keep[node] = True
    return FeatureCircuit(name, keep, error)


def circuit_sizes(
    effects: NodeEffects, means: NodeMeans, sizes: Sequence[int] = (0, 5, 10, 20, 50, 100, 200), seed: int = 0
) -> list[FeatureCircuit]:
    """For each size the top nodes, as many random ones among those that are ever active, and what is left without the top ones.

    Each with the error kept and with the error ablated.
    """
    active = means.features.gt(0).nonzero()
    order = torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))
    drawn = [tuple(node) for node in active[order].tolist()]
    made = []
    for error in (False, True):
        for size in sizes:
            top = circuit_of(effects.top(size), means, "top", error)
            rest = FeatureCircuit("all but the top", ~top.keep, error)
            made += [top, circuit_of(drawn[:size], means, "random", error), rest]
    return made


# --------------------------------------------------------------------------------------------------- SHIFT: the texts

# A start, the work and an end; the training texts and the test texts have other words around the same clues, and other names.
BIOGRAPHIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (
        (
            "{name} got up early today.",
            "Do you know {name}? {He} lives near us.",
            "My friend {name} is here.",
            "This is {name}. I like {him}.",
        ),
        ("{He} {task}, and {he} {task2}.", "{He} works {place}, where {he} {task}.", "Every day {he} {task} and {task2}."),
        ("In the evening {he} {hobby}.", "On Sundays {he} {hobby} with {his} friends."),
    ),
    "test": (
        ("I met {name} yesterday. {He} was happy.", "Here is {name} with {his} family.", "Everybody likes {name}, and {he} knows it."),
        ("As we know, {he} {task} and {task2}.", "{He} goes to work {place} and {task}.", "I saw how {he} {task}, and then {he} {task2}."),
        ("After work {he} {hobby}.", "{His} sister says that {he} {hobby}."),
    ),
}
SHE, HE = ("she", "her", "hers", "herself"), ("he", "his", "him", "himself")


@dataclass(frozen=True)
class Biographies:
    """Short biographies that name no profession: is it the second one of two, and is the person a "he"?"""

    texts: tuple[str, ...]
    profession: Bool[Tensor, "text"]
    gender: Bool[Tensor, "text"]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.texts)

    def without_gender(self) -> list[str]:
        """The same texts with their names and pronouns deleted."""
        words = (*World.load().column("firstnames", "name"), *(form for word in (*SHE, *HE) for form in (word, sentence(word))))
        return [re.sub(rf" ?\b({'|'.join(words)})\b", "", text).strip() for text in self.texts]


def biographies(
    n: int, biased: bool, part: str = "train", professions: tuple[str, str] = ("nurse", "professor"), seed: int = 0
) -> Biographies:
    """``n`` biographies: ``biased``, the first profession is always "she" and the second always "he"; else all four groups are equal.

    The parts ``train`` and ``test`` share neither names nor sentences, only the clues: places and tasks of the course LM's corpus.
    Raises ValueError for an unknown profession or part, and where ``n`` makes no equal groups.
    """
    if n < 4 or n % 4:
        raise ValueError(f"n says how many biographies to write for four equal groups; it must be a multiple of 4, not {n}.")
    if unknown := [one for one in professions if one not in PROFESSIONS]:
        raise ValueError(f"There is no profession {unknown[0]!r}: choose from {', '.join(PROFESSIONS)}.")
    if part not in BIOGRAPHIES:
        raise ValueError(f"There is no part {part!r} of the biographies: choose train or test.")
    rng = Random(f"{seed} {part} {biased}")
    groups = [(False, False), (True, True)] if biased else [(False, False), (True, True), (False, True), (True, False)]
    labels = [groups[number % len(groups)] for number in range(n)]
    texts = [_biography(rng, part, professions[second], "he" if he else "she") for second, he in labels]
    profession, gender = (torch.tensor(column) for column in zip(*labels, strict=True))
    return Biographies(tuple(texts), profession, gender)


def _biography(rng: Random, part: str, profession: str, pronoun: str) -> str:
    """One biography of a person with a pronoun."""
    _, places, tasks, _ = PROFESSIONS[profession]
    names = [row["name"] for row in World.load().rows("firstnames") if row["pronoun"] == pronoun][part == "test" :: 2]
    words = dict(zip(("he", "his", "him"), PRONOUNS[pronoun], strict=True)) | dict(
        zip(("task", "task2"), rng.sample(tasks, 2), strict=True)
    )
    words |= {"name": rng.choice(names), "place": rng.choice(places), "hobby": rng.choice(HOBBIES)}
    words |= {"He": sentence(words["he"]), "His": sentence(words["his"])}
    return " ".join(rng.choice(sentences).format_map(words) for sentences in BIOGRAPHIES[part])


def gendered_stories(n: int, seed: int = 0) -> tuple[list[str], Bool[Tensor, "text"]]:
    """``n`` stories of the corpus with "she" alone or "he" alone, as many of each, in which no profession is named; is it "he"?"""
    rng, found = Random(f"{seed} stories"), {False: [], True: []}
    while min(map(len, found.values())) < (n + 1) // 2:
        words = set(re.findall(r"[a-z]+", (text := story(World.load(), rng) or "").lower()))
        he = bool(words & set(HE))
        if he != bool(words & set(SHE)) and not words & set(PROFESSIONS):
            found[he].append(text)
    texts = [text for pair in zip(found[False], found[True], strict=False) for text in pair][:n]
    return texts, torch.arange(n) % 2 == 1


# -------------------------------------------------------------------------------------------- SHIFT: units and judges


@dataclass(frozen=True)
class Units:
    """What can be taken out: the features of an autoencoder, or the neurons of all layers up to its place, numbered through."""

    name: str
    places: tuple[str, ...]
    sae: SparseAutoencoder | None = None

    def read(self, seen: Sequence[Float[Tensor, "batch pos width"]]) -> Float[Tensor, "batch pos unit"]:
        """The units, from what passes the places."""
        return self.sae.encode(seen[0].float()) if self.sae else torch.cat(list(seen), -1)

    def slopes(self, gradients: Sequence[Float[Tensor, "batch pos width"]]) -> Float[Tensor, "batch pos unit"]:
        """The gradient of each unit, from those of the places."""
        return gradients[0].float() @ self.sae.W_dec.T if self.sae else torch.cat(list(gradients), -1)

    def without(self, chosen: Sequence[int], d_mlp: int) -> list[Intervention]:
        """The interventions that set some units to 0; of features the error and all others stay."""
        if self.sae is None:
            return ablate_neurons([divmod(unit, d_mlp) for unit in chosen]) if chosen else []
        sae, rows = self.sae, list(chosen)

        def change(values: Tensor, pick: object) -> Tensor:
            return values - (sae.encode(values.float())[..., rows] @ sae.W_dec[rows]).to(values)

        return [Intervention(sae.hook, change, pos=AFTER_FIRST)] if rows else []


def features_of(sae: SparseAutoencoder) -> Units:
    """The features of an autoencoder."""
    return Units("features", (sae.hook,), sae)


def neurons_before(sae: SparseAutoencoder) -> Units:
    """The neurons of every layer up to that of the autoencoder, whose states they have written."""
    return Units("neurons", tuple(map(mlp_post, range(layer_of(sae.hook) + 1))))


@torch.no_grad()
def text_means(
    model: TransformerBridge, prompts: TextsLike, places: Sequence[str], *changes: Intervention, read: Read = lambda seen: seen[0]
) -> Float[Tensor, "text width"]:
    """The mean over the tokens of each text, position 0 left out, of what ``read`` makes of the places, with some interventions."""
    texts = as_texts(model, prompts)
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for batch in progress(list(texts.batches()), desc="batches"):
        part = texts.take(batch)
        with intervene(model, *changes):
            seen = record(model, part.tokens.to(model.cfg.device), *places)
        values, mask = read([seen[place] for place in places]).float().cpu(), part.mask[..., None]
        for row, mean in zip(batch.tolist(), (values * mask).sum(1) / mask.sum(1), strict=True):
            rows[row] = mean
    return torch.stack(rows)


def attribute_probe(
    model: TransformerBridge, sae: SparseAutoencoder, units: Units, probe: Probes, data: Biographies
) -> Float[Tensor, "unit"]:
    """For each unit how much of the probe's margin (its log-odds for the right label) it makes: gradient times activation.

    The probe reads the mean state of a text at ``sae.hook``; for features this is no estimate, since the probe is linear in them.
    """
    texts, signs = as_texts(model, data.texts), data.profession.float() * 2 - 1
    total = torch.zeros(())
    start = add("hook_embed", torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True))
    for batch in progress(list(texts.batches()), desc="batches"):
        part = texts.take(batch)
        weights = (part.mask * (signs[batch] / part.mask.sum(1))[:, None] / len(texts)).to(model.cfg.device)
        with torch.enable_grad(), intervene(model, start):
            seen = record(model, part.tokens.to(model.cfg.device), *dict.fromkeys([*units.places, sae.hook]))
            margin = ((seen[sae.hook].float() @ probe.weights[0].to(model.cfg.device)) * weights).sum()
            gradients = torch.autograd.grad(margin, [seen[place] for place in units.places])
        with torch.no_grad():
            total = total + (units.read([seen[place] for place in units.places]) * units.slopes(gradients)).sum((0, 1)).cpu()
    return total


def judged(values: Float[Tensor, "text unit"], he: Bool[Tensor, "text"], margin: float = 0.1) -> Bool[Tensor, "unit"]:
    """Which units are about gender: their means over a text tell stories with "he" from stories with "she".

    That is, the AUC is farther than ``margin`` from one half. The corpus is the judge; in the paper it was a person.
    """
    return (auc(values[he], values[~he]) - 0.5).abs() > margin


# ----------------------------------------------------------------------------------------------------------- SHIFT


@dataclass(frozen=True)
class ShiftReport:
    """What each classifier answers on the balanced test texts, and how many units were taken out; True is the second profession."""

    methods: tuple[str, ...]
    n: tuple[int, ...]
    answers: Bool[Tensor, "method text"]
    test: Biographies
    chosen: dict[str, tuple[int, ...]]  # the units that were judged to be about gender, by their kind

    @property
    def profession(self) -> Float[Tensor, "method"]:
        """The share of texts whose profession is right."""
        return (self.answers == self.test.profession).float().mean(1)

    @property
    def gender(self) -> Float[Tensor, "method"]:
        """The share of texts answered as in the biased data, where she was the first profession and he the second; 0.5 is no bias."""
        return (self.answers == self.test.gender).float().mean(1)

    @property
    def worst(self) -> Float[Tensor, "method"]:
        """The share of right professions in the worst of the four groups."""
        right = (self.answers == self.test.profession).float()
        first, second = ([labels, ~labels] for labels in (self.test.profession, self.test.gender))
        return torch.stack([right[:, one & two].mean(1) for one in first for two in second]).amin(0)

    def hits(self, method: str) -> Bool[Tensor, "text"]:
        """Which professions one method gets right. Raises ValueError for an unknown method."""
        if method not in self.methods:
            raise ValueError(f"There is no method {method!r}: there are {', '.join(self.methods)}.")
        return self.answers[self.methods.index(method)] == self.test.profession

    def table(self) -> str:
        """One line for each method: right professions, answers that follow the gender, the worst group, and the units taken out."""
        width = max(map(len, self.methods))
        lines = [f"{'method':<{width}}  profession  gender  worst group   units"]
        for row in zip(self.methods, self.profession, self.gender, self.worst, self.n, strict=True):
            lines.append("{:<{width}} {:11.1%} {:7.1%} {:12.1%} {:7}".format(*row, width=width))
        return "\n".join(lines)


def shift(
    model: TransformerBridge,
    sae: SparseAutoencoder,
    professions: tuple[str, str] = ("nurse", "professor"),
    n: int = 240,
    candidates: int = 30,
    margin: float = 0.1,
    seed: int = 0,
) -> ShiftReport:
    """Trains a probe for the profession on ``n`` biased biographies, takes out of its input what is about gender, and tests it.

    Of the ``candidates`` units that make most of its margin those are taken out that stories show to be about gender (``judged``);
    ``+ retrain`` fits the probe again without them. Controls: random features as many, the candidates unjudged, neurons judged in the
    same way, the direction between the means of the two kinds of stories, texts without names and pronouns, and balanced training. The
    ``n`` balanced test texts choose nothing.
    """
    train, fair, test = (
        biographies(n, biased, part, professions, seed) for biased, part in ((True, "train"), (False, "train"), (False, "test"))
    )
    stories, he = gendered_stories(2 * n, seed)
    bench = _Bench(model, sae.hook, train, test)
    probe = bench.biased()
    chosen, rng = {}, torch.Generator().manual_seed(seed)
    for units in (features_of(sae), neurons_before(sae)):
        made = attribute_probe(model, sae, units, probe, train)
        top = made.abs().topk(min(candidates, len(made))).indices.tolist()
        about = judged(text_means(model, stories, units.places, read=units.read), he, margin)
        chosen[units.name] = tuple(unit for unit in top if about[unit])
        groups = {f"{units.name} about gender": chosen[units.name]}
        if units.sae is not None:
            active = made.nonzero().flatten()
            drawn = active[torch.randperm(len(active), generator=rng)[: len(chosen[units.name])]].tolist()
            groups |= {"top features, unjudged": top, "as many top features": top[: len(drawn)], "random features": drawn}
        for name, group in groups.items():
            bench.compare(name, probe, len(group), *units.without(group, model.cfg.d_mlp))
    means = text_means(model, stories, [sae.hook])
    bench.compare("one direction projected out", probe, 1, project_out(sae.hook, means[he].mean(0) - means[~he].mean(0), pos=AFTER_FIRST))
    bench.other_texts("names and pronouns deleted", train.without_gender(), test.without_gender())
    bench.other_texts("oracle: balanced training", list(fair.texts), list(test.texts), fair.profession)
    return ShiftReport(tuple(bench.methods), tuple(bench.n), torch.stack(bench.answers), test, chosen)


class _Bench:
    """Fits and tests probes, and keeps what they answer."""

    def __init__(self, model: TransformerBridge, hook: str, train: Biographies, test: Biographies) -> None:
        self.model, self.hook, self.train, self.test = model, hook, train, test
        self.methods: list[str] = []
        self.n: list[int] = []
        self.answers: list[Tensor] = []
        self.passed: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def states(self, texts: Sequence[str], *changes: Intervention) -> Float[Tensor, "text d_model"]:
        """What a probe reads. Changes at its own place need no new run: they are made in what passed there."""
        if any(change.hook != self.hook for change in changes):
            return text_means(self.model, list(texts), [self.hook], *changes)
        values, mask = self.recorded(tuple(texts))
        for change in changes:
            values = change(values)
        return (values * mask).sum(1) / mask.sum(1)

    def recorded(self, texts: tuple[str, ...]) -> tuple[Float[Tensor, "text pos d_model"], Bool[Tensor, "text pos 1"]]:
        """What passes the place on some texts, on the CPU, and where their tokens stand; run once."""
        if texts not in self.passed:
            rows = as_texts(self.model, list(texts))
            values = torch.zeros(*rows.tokens.shape, self.model.cfg.d_model)
            for batch in rows.batches():
                part = rows.take(batch)
                seen = record(self.model, part.tokens.to(self.model.cfg.device), self.hook)[self.hook]
                values[batch, : seen.shape[1]] = seen.float().cpu()
            self.passed[texts] = values, rows.mask[..., None]
        return self.passed[texts]

    def keep(self, method: str, n: int, probe: Probes, states: Float[Tensor, "text d_model"]) -> None:
        """Notes what a probe answers."""
        self.methods.append(method)
        self.n.append(n)
        self.answers.append(probe.log_odds(states[None])[0] > 0)

    def biased(self) -> Probes:
        """The probe that is to be cured, fitted on states as they are."""
        probe = fit_probes(self.states(self.train.texts)[None], self.train.profession)
        self.keep("biased probe", 0, probe, self.states(self.test.texts))
        return probe

    def compare(self, method: str, probe: Probes, n: int, *changes: Intervention) -> None:
        """With some interventions at work: the probe as it is, and one fitted again."""
        states = self.states(self.test.texts, *changes)
        self.keep(method, n, probe, states)
        self.keep(f"{method} + retrain", n, fit_probes(self.states(self.train.texts, *changes)[None], self.train.profession), states)

    def other_texts(self, method: str, train: Sequence[str], test: Sequence[str], labels: Bool[Tensor, "text"] | None = None) -> None:
        """A probe fitted on other texts."""
        probe = fit_probes(self.states(train)[None], self.train.profession if labels is None else labels)
        self.keep(method, 0, probe, self.states(test))
