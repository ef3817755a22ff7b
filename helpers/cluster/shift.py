"""SHIFT: a bias taken out of a classifier, feature by feature (Marks et al. 2024, arXiv 2403.19647, section 4).

A probe for a profession is trained on biographies in which one profession is always "she" and the other always "he". Of the features on
which it leans, those are taken out that are about gender.

    print(shift(model, sae).table())
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.corpus.prose import HOBBIES, PROFESSIONS, PRONOUNS
from helpers.course_lm.corpus.stories import story
from helpers.course_lm.world import World
from helpers.inputs import chosen
from helpers.interventions import record
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.one_layer.probes import Probes, fit_probes
from helpers.progress import progress
from helpers.stats import auc
from helpers.tables import table
from helpers.texts import TextsLike, as_texts

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
class TextMeans:
    """The mean state of each text at the place of an autoencoder, and the mean of each feature; position 0 is left out."""

    states: Float[Tensor, "text d_model"]
    features: Float[Tensor, "text d_sae"]

    def without(self, sae: SparseAutoencoder, chosen: Int[Tensor, "some"] | Sequence[int]) -> Float[Tensor, "text d_model"]:
        """The mean states with some features set to 0; the error and all other features stay."""
        return self.states - self.features[:, chosen] @ sae.W_dec[chosen]


@torch.no_grad()
def text_means(model: TransformerBridge, sae: SparseAutoencoder, prompts: TextsLike) -> TextMeans:
    """What a probe can read of some texts at the place of an autoencoder. Both are means, so whatever is taken out of the one is exact."""
    texts = as_texts(model, prompts)
    states, features = torch.empty(len(texts), sae.d_model), torch.empty(len(texts), sae.d_sae)
    for rows in progress(list(texts.batches()), desc="batches"):
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), sae.hook)[sae.hook].float()
        mask = part.mask[..., None].to(seen.device)
        states[rows], features[rows] = (((values * mask).sum(1) / mask.sum(1)).cpu() for values in (seen, sae.encode(seen)))
    return TextMeans(states, features)


def attribute_probe(sae: SparseAutoencoder, probe: Probes, means: TextMeans, second: Bool[Tensor, "text"]) -> Float[Tensor, "feature"]:
    """For each feature how much of the probe's margin (its log-odds for the right label) it makes, a mean over the texts.

    The probe is linear in the features, so this is no estimate.
    """
    signs = second.float()[:, None] * 2 - 1
    return (signs * means.features).mean(0) * (sae.W_dec.cpu() @ probe.weights[0])


def judged(values: Float[Tensor, "text feature"], he: Bool[Tensor, "text"], margin: float = 0.1) -> Bool[Tensor, "feature"]:
    """Which features are about gender: their means over a text tell stories with "he" from stories with "she".

    That is, the AUC is farther than ``margin`` from one half. The corpus is the judge; in the paper it was a person.
    """
    return (auc(values[he], values[~he]) - 0.5).abs() > margin


@dataclass(frozen=True)
class ShiftReport:
    """What each classifier answers on the balanced test texts, and how many features were taken out; True is the second profession."""

    methods: tuple[str, ...]
    n: tuple[int, ...]
    answers: Bool[Tensor, "method text"]
    test: Biographies

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
        """One line for each method: right professions, answers that follow the gender, the worst group, and the features taken out."""
        method = f"<{max(map(len, self.methods))}"
        columns = {"method": method, "profession": "11.1%", "gender": "7.1%", "worst group": "12.1%", "features": "9"}
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

    Of the ``candidates`` features that make most of its margin those are taken out that stories show to be about gender (``judged``);
    ``+ retrain`` fits the probe again without them. Rivals: as many candidates unjudged, all of them, the direction between the means of
    the two kinds of stories, texts without names and pronouns, and balanced training. The ``test`` balanced test texts choose nothing.
    """
    train, fair, asked = (biographies(*kind, seed) for kind in ((n, True, "train"), (n, False, "train"), (test, False, "test")))
    texts, he = gendered_stories(2 * n, seed)
    learn, exam, stories = (text_means(model, sae, some) for some in (train.texts, asked.texts, texts))
    found: list[tuple[str, int, Tensor]] = []

    def fit(states: Float[Tensor, "text d_model"], labels: Bool[Tensor, "text"] = train.profession) -> Probes:
        return fit_probes(states[None], labels)

    def note(method: str, n_features: int, probes: Probes, states: Float[Tensor, "text d_model"]) -> None:
        found.append((method, n_features, probes.log_odds(states[None])[0] > 0))

    note("biased probe", 0, probe := fit(learn.states), exam.states)
    top = attribute_probe(sae, probe, learn, train.profession).abs().topk(min(candidates, sae.d_sae)).indices
    about = top[judged(stories.features, he, margin)[top]]
    groups = {"features about gender": about, "as many top features": top[: len(about)], "all candidates": top}
    for name, group in groups.items():
        note(name, len(group), probe, exam.without(sae, group))
        note(f"{name} + retrain", len(group), fit(learn.without(sae, group)), exam.without(sae, group))
    unit = torch.nn.functional.normalize(stories.states[he].mean(0) - stories.states[~he].mean(0), dim=0)
    note("one direction projected out", 1, probe, exam.states - (exam.states @ unit)[:, None] * unit)
    bare = [text_means(model, sae, one.without_gender()).states for one in (train, asked)]
    note("names and pronouns deleted", 0, fit(bare[0]), bare[1])
    note("oracle: balanced training", 0, fit(text_means(model, sae, fair.texts).states, fair.profession), exam.states)
    methods, n_features, answers = zip(*found, strict=True)
    return ShiftReport(methods, n_features, torch.stack(answers), asked)
