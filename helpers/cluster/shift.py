"""SHIFT: a bias taken out of a classifier, feature by feature (Marks et al. 2024, arXiv 2403.19647, section 4).

A probe for a profession is trained on biographies in which one profession is always "she" and the other always "he". Of the features on
which it leans, those are taken out that are about gender.

    print(shift(model, sae).table())
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.corpus.prose import HOBBIES, PROFESSIONS, PRONOUNS
from helpers.course_lm.corpus.stories import story
from helpers.course_lm.world import World
from helpers.inputs import chosen
from helpers.interventions import Intervention, add, intervene, mlp_post, project_out, record
from helpers.metrics import AFTER_FIRST
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder, layer_of
from helpers.one_layer.probes import Probes, fit_probes
from helpers.one_neuron.ablation import ablate_neurons
from helpers.progress import progress
from helpers.stats import auc
from helpers.tables import table
from helpers.texts import TextsLike, as_texts

Read = Callable[[Sequence[Tensor]], Tensor]

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
PAIR = ("nurse", "professor")
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


def biographies(n: int, biased: bool, part: str = "train", seed: int = 0) -> Biographies:
    """``n`` biographies: ``biased``, a nurse is always "she" and a professor always "he"; else all four groups are equal.

    The parts ``train`` and ``test`` share neither names nor sentences, only the clues: places and tasks of the course LM's corpus.
    Raises ValueError for an unknown part, and where ``n`` makes no equal groups.
    """
    if n < 4 or n % 4:
        raise ValueError(f"n says how many biographies to write for four equal groups; it must be a multiple of 4, not {n}.")
    chosen(BIOGRAPHIES, part, "part of the biographies")
    rng = Random(f"{seed} {part} {biased}")
    groups = [(False, False), (True, True)] if biased else [(False, False), (True, True), (False, True), (True, False)]
    labels = [groups[number % len(groups)] for number in range(n)]
    texts = [_biography(rng, part, PAIR[second], "he" if he else "she") for second, he in labels]
    profession, gender = (torch.tensor(column) for column in zip(*labels, strict=True))
    return Biographies(tuple(texts), profession, gender)


def _biography(rng: Random, part: str, profession: str, pronoun: str) -> str:
    """One biography of a person with a pronoun."""
    _, places, tasks, _ = PROFESSIONS[profession]
    names = [row["name"] for row in World.load().rows("firstnames") if row["pronoun"] == pronoun][part == "test" :: 2]
    words = dict(zip(("he", "his", "him", "task", "task2"), (*PRONOUNS[pronoun], *rng.sample(tasks, 2)), strict=True))
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
    return [found[number % 2 == 1][number // 2] for number in range(n)], torch.arange(n) % 2 == 1


@dataclass(frozen=True)
class Units:
    """What can be taken out: the features of an autoencoder, or the neurons of all layers up to its place, numbered through."""

    name: str
    places: tuple[str, ...]
    sae: SparseAutoencoder | None = None

    def read(self, seen: Sequence[Float[Tensor, "batch pos width"]]) -> Float[Tensor, "batch pos unit"]:
        """The units, from what passes the places."""
        return self.sae.encode(seen[0].float()) if self.sae else torch.cat(list(seen), -1)

    def gradients(self, gradients: Sequence[Float[Tensor, "batch pos width"]]) -> Float[Tensor, "batch pos unit"]:
        """The gradient of each unit, from those of the places."""
        return gradients[0].float() @ self.sae.W_dec.T if self.sae else torch.cat(list(gradients), -1)

    def without(self, chosen: list[int], d_mlp: int) -> list[Intervention]:
        """The interventions that set some units to 0; of features the error and all others stay."""
        if self.sae is None:
            return ablate_neurons([divmod(unit, d_mlp) for unit in chosen])

        def change(values: Tensor, pick: object) -> Tensor:
            return values - (self.sae.encode(values.float())[..., chosen] @ self.sae.W_dec[chosen]).to(values)

        return [Intervention(self.sae.hook, change, pos=AFTER_FIRST)] if chosen else []


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
    texts, means = as_texts(model, prompts), {}
    for batch in progress(list(texts.batches()), desc="batches"):
        part = texts.take(batch)
        with intervene(model, *changes):
            seen = record(model, part.tokens.to(model.cfg.device), *places)
        values, mask = read([seen[place] for place in places]).float().cpu(), part.mask[..., None]
        means |= dict(zip(batch.tolist(), (values * mask).sum(1) / mask.sum(1), strict=True))
    return torch.stack([means[row] for row in range(len(texts))])


@torch.no_grad()
def _states(model: TransformerBridge, prompts: TextsLike, hook: str) -> list[Float[Tensor, "1 pos d_model"]]:
    """What passes one place, text by text, without the filling."""
    texts, found = as_texts(model, prompts), {}
    for batch in texts.batches():
        values = record(model, texts.tokens[batch].to(model.cfg.device), hook)[hook].float().cpu()
        found |= {row: value[None, : int(texts.lengths[row])] for row, value in zip(batch.tolist(), values, strict=True)}
    return [found[row] for row in range(len(texts))]


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
            total = total + (units.read([seen[place] for place in units.places]) * units.gradients(gradients)).sum((0, 1)).cpu()
    return total


def judged(values: Float[Tensor, "text unit"], he: Bool[Tensor, "text"], margin: float = 0.1) -> Bool[Tensor, "unit"]:
    """Which units are about gender: their means over a text tell stories with "he" from stories with "she".

    That is, the AUC is farther than ``margin`` from one half. The corpus is the judge; in the paper it was a person.
    """
    return (auc(values[he], values[~he]) - 0.5).abs() > margin


@dataclass(frozen=True)
class ShiftReport:
    """What each classifier answers on the balanced test texts, and how many units were taken out; True is the second profession."""

    methods: tuple[str, ...]
    n: tuple[int, ...]
    answers: Bool[Tensor, "method text"]
    test: Biographies
    chosen: dict[str, list[int]]  # the units that were judged to be about gender, by their kind

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
        right, groups = (self.answers == self.test.profession).float(), 2 * self.test.profession + self.test.gender
        return torch.stack([right[:, groups == group].mean(1) for group in range(4)]).amin(0)

    def table(self) -> str:
        """One line for each method: right professions, answers that follow the gender, the worst group, and the units taken out."""
        method = f"<{max(map(len, self.methods))}"
        columns = {"method": method, "profession": "11.1%", "gender": "7.1%", "worst group": "12.1%", "units": "7"}
        return table(columns, zip(self.methods, self.profession, self.gender, self.worst, self.n, strict=True))


def shift(
    model: TransformerBridge,
    sae: SparseAutoencoder,
    n: int = 240,
    test: int = 480,
    candidates: int = 30,
    margin: float = 0.1,
    seed: int = 0,
) -> ShiftReport:
    """Trains a probe for the profession on ``n`` biased biographies, takes out of its input what is about gender, and tests it.

    Of the ``candidates`` units that make most of its margin those are taken out that stories show to be about gender (``judged``);
    ``+ retrain`` fits the probe again without them. Controls: random features as many, the candidates unjudged, neurons judged in the
    same way, the direction between the means of the two kinds of stories, texts without names and pronouns, and balanced training. The
    ``test`` balanced test texts choose nothing.
    """
    train, fair, asked = (biographies(*kind, seed) for kind in ((n, True, "train"), (n, False, "train"), (test, False, "test")))
    stories, he = gendered_stories(2 * n, seed)
    found: list[tuple[str, int, Tensor]] = []
    plain: dict[tuple[str, ...], list[Tensor]] = {}

    def means_of(texts: Sequence[str], *changes: Intervention) -> Float[Tensor, "text d_model"]:
        if any(change.hook != sae.hook for change in changes):
            return text_means(model, texts, [sae.hook], *changes)
        if (key := tuple(texts)) not in plain:  # what is changed at the place itself needs no other run
            plain[key] = _states(model, texts, sae.hook)
        return torch.stack([reduce(lambda state, change: change(state), changes, one)[0, 1:].mean(0) for one in plain[key]])

    def fit(texts: Sequence[str], labels: Bool[Tensor, "text"], *changes: Intervention) -> Probes:
        return fit_probes(means_of(texts, *changes)[None], labels)

    def note(method: str, n_units: int, probes: Mapping[str, Probes], texts: Sequence[str], *changes: Intervention) -> None:
        states = means_of(texts, *changes)[None]
        found.extend((method + kind, n_units, probe.log_odds(states)[0] > 0) for kind, probe in probes.items())

    def compare(method: str, n_units: int, *changes: Intervention) -> None:
        note(method, n_units, {"": probe, " + retrain": fit(train.texts, train.profession, *changes)}, asked.texts, *changes)

    probe = fit(train.texts, train.profession)
    note("biased probe", 0, {"": probe}, asked.texts)
    chosen, rng = {}, torch.Generator().manual_seed(seed)
    for units in (features_of(sae), neurons_before(sae)):
        made = attribute_probe(model, sae, units, probe, train)
        top = made.abs().topk(min(candidates, len(made))).indices.tolist()
        about = judged(text_means(model, stories, units.places, read=units.read), he, margin)
        chosen[units.name] = [unit for unit in top if about[unit]]
        groups = {f"{units.name} about gender": chosen[units.name]}
        if units.sae is not None:
            active = made.nonzero().flatten()
            drawn = active[torch.randperm(len(active), generator=rng)[: len(chosen[units.name])]].tolist()
            groups |= {"top features, unjudged": top, "as many top features": top[: len(drawn)], "random features": drawn}
        for name, group in groups.items():
            compare(name, len(group), *units.without(group, model.cfg.d_mlp))
    means = text_means(model, stories, [sae.hook])
    compare("one direction projected out", 1, project_out(sae.hook, means[he].mean(0) - means[~he].mean(0), pos=AFTER_FIRST))
    note("names and pronouns deleted", 0, {"": fit(train.without_gender(), train.profession)}, asked.without_gender())
    note("oracle: balanced training", 0, {"": fit(fair.texts, fair.profession)}, asked.texts)
    methods, n_units, answers = zip(*found, strict=True)
    return ShiftReport(methods, n_units, torch.stack(answers), asked, chosen)
