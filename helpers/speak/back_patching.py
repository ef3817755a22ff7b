"""Back-patching: a late state is put back into an early layer, and the layers in between run a second time.

Biran et al. 2024 (arXiv 2406.12775, section 5): the state after block ``source`` replaces that after block ``target``, at the same position
of the same prompt. The paper's rate is that of an *oracle*: some pair of layers brings the answer. With 66 pairs and a few plausible
answers luck does that too, so every rate stands beside controls with equally many tries.

    print(back_patch_with_controls(model, answered(model, questions).wrong, at="t1").table())
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.inputs import chosen
from helpers.interventions import resid_post
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import activations_at, check_layers, next_tokens, random_like, read_suffix
from helpers.speak.two_hops import Located, TwoHop, located, partners
from helpers.stats import cluster_interval
from helpers.tables import table
from helpers.texts import Texts

SOURCES = ("own", "another question", "random")  # whose state is put in (see `back_patch_with_controls`)
PATCHED_TOKENS = 2048  # tokens in one forward pass over patched copies
SPLITS = 20  # of the first entities into two halves
Pair = tuple[int, int]  # source layer, target layer


@dataclass(frozen=True)
class BackPatch:
    """What the model says after each patch, and what it said ``before``, without a patch; ``answers`` are what it should say."""

    questions: tuple[TwoHop, ...]
    pairs: tuple[Pair, ...]
    tokens: Int[Tensor, "pair question"]
    before: Int[Tensor, "question"]
    answers: Int[Tensor, "question"]
    n_layers: int

    def take(self, rows: Sequence[int]) -> "BackPatch":
        """Some of the questions only."""
        rows = list(rows)
        questions = tuple(self.questions[row] for row in rows)
        return replace(self, questions=questions, tokens=self.tokens[:, rows], before=self.before[rows], answers=self.answers[rows])

    @property
    def e1(self) -> list[str]:
        """The first entity of each question: the cluster to which it belongs."""
        return [one.e1 for one in self.questions]

    @cached_property
    def hits(self) -> Bool[Tensor, "pair question"]:
        """Is the answer right after each patch?"""
        return self.tokens == self.answers

    @property
    def oracle(self) -> Bool[Tensor, "question"]:
        """Is there any pair of layers that brings the right answer? Whoever reports this has looked at the answer."""
        return self.hits.any(0)

    @property
    def map(self) -> Float[Tensor, "source target"]:
        """The share of right answers for each source layer (row) and target layer (column); NaN where nothing was tried."""
        found = torch.full((self.n_layers, self.n_layers), torch.nan)
        sources, targets = torch.tensor(self.pairs).T
        found[sources, targets] = self.hits.float().mean(1)
        return found


@dataclass(frozen=True)
class BackPatchRuns:
    """Back-patching of the same questions with their own states and with those of each control, equally many tries each.

    A control that is drawn at random (another question, a random vector) has a run for each draw; its rates are means over them.
    """

    runs: Mapping[str, Sequence[BackPatch]]

    def run(self, source: str = "own") -> BackPatch:
        """The patches with the states of one source, of the first draw. Raises ValueError where it was left out."""
        return chosen(self.runs, source, "source")[0]

    def oracle(self, source: str = "own") -> Float[Tensor, "question"]:
        """1 where some pair of layers brings the right answer, else 0; for a control the share of its draws in which one does."""
        return torch.stack([run.oracle.float() for run in chosen(self.runs, source, "source")]).mean(0)

    def fixed(self, source: str = "own") -> Float[Tensor, "question"]:
        """How often each question is right under a single pair of layers that was chosen without any question about its e1.

        The e1 are split in halves; the pair with most right answers on one half is judged on the other one, and the other way round; means
        over the splits, and over the draws of a control.
        """
        halves = e1_halves(self.run(source).e1)
        found = torch.zeros(len(self.run(source).questions))
        for run in self.runs[source]:
            hits = run.hits.float()
            for one, other in halves:
                for choose, report in ((one, other), (other, one)):
                    found[report] += hits[hits[:, choose].mean(1).argmax(), report]
        return found / SPLITS / len(self.runs[source])

    def table(self) -> str:
        """For each source of states in what share of the questions some pair brings the right answer, and by how much the own ones surpass
        it, with 95 % intervals over distinct e1.
        """
        own, e1 = self.oracle(), self.run().e1
        every = {source: self.oracle(source) for source in self.runs}
        rows = [(name, rate(right, e1), "" if name == "own" else rate(own - right, e1, sign="+")) for name, right in every.items()]
        return table({"states from": "<18", "some pair is right": "<23", "own minus it": "<"}, rows, gap="")


def rate(values: Float[Tensor, "question"], e1: Sequence[str], sign: str = "") -> str:
    """The mean over questions with its 95 % interval over distinct e1, in percent."""
    low, high = cluster_interval(values, e1)
    return f"{values.mean():{sign}.1%} [{low:{sign}.1%}, {high:{sign}.1%}]"


def e1_halves(e1: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """The rows in two halves that share no e1, split after split. Raises ValueError where there is only one e1."""
    names, rng, found = sorted(set(e1)), Random(0), []
    if len(names) < 2:
        raise ValueError("Splitting needs two first entities at least: ask about more.")
    for _ in range(SPLITS):
        half = set(rng.sample(names, len(names) // 2))
        sides = [[row for row, name in enumerate(e1) if (name in half) == side] for side in (True, False)]
        found.append((sides[0], sides[1]))
    return found


@torch.no_grad()
def back_patch_with_controls(
    model: TransformerBridge,
    questions: Sequence[TwoHop],
    at: str = "t1",
    sources: Sequence[str] = SOURCES,
    pairs: Sequence[Pair] = (),
    draws: int = 1,
    seed: int = 0,
) -> BackPatchRuns:
    """Runs every question again for each pair of layers (all that go back), with the source layer's state in the target layer's place.

    ``sources`` say whose state: the question's ``own``, or, as controls with equally many tries, that of ``another question`` (see
    ``partners``), which does not say this question's answer by mistake, as a failed question does not either; or a ``random`` one of
    equal norm. Controls are drawn ``draws`` times, with the seeds from ``seed`` on. Only what stands from the position on is run, from the
    target layer on. Raises ValueError for an unknown layer, position or source.
    """
    layers, asked = range(model.cfg.n_layers), located(model, questions)
    pairs = tuple(pairs) or tuple((late, early) for early in layers for late in layers if late > early)
    check_layers(model, [layer for pair in pairs for layer in pair], first=0)
    places, before = asked.place(at), next_tokens(model, asked.texts)
    own = activations_at(model, asked.texts, [resid_post(layer) for layer in layers], places[:, None])[:, :, 0]
    drawn = [source for source in sources for _ in range(1 if source == "own" else draws)]
    given = torch.stack([_states(own, asked, before, source, seed + drawn[:run].count(source)) for run, source in enumerate(drawn)])
    tokens = torch.empty(len(drawn), len(pairs), len(questions), dtype=torch.long)
    for place in progress(places.unique().tolist(), desc=f"back-patching at {at}"):
        rows = (places == place).nonzero().flatten()
        tokens[:, :, rows] = _patched(model, asked.texts.take(rows), place, given[:, :, rows], pairs)
    runs = [BackPatch(asked.questions, pairs, one, before, asked.e3, len(layers)) for one in tokens]
    return BackPatchRuns({source: [run for whose, run in zip(drawn, runs, strict=True) if whose == source] for source in sources})


def _states(
    own: Float[Tensor, "layer question d_model"], asked: Located, before: Int[Tensor, "question"], source: str, seed: int
) -> Float[Tensor, "layer question d_model"]:
    """The states that are put in."""
    if chosen(SOURCES, source, "source") == "another question":
        return own[:, partners(asked.questions, seed, barred=asked.e3[:, None] == before)]
    return random_like(own, 1, seed)[0] if source == "random" else own


def _patched(
    model: TransformerBridge, texts: Texts, place: int, given: Float[Tensor, "run layer question d_model"], pairs: Sequence[Pair]
) -> Int[Tensor, "run pair question"]:
    """What the model says after each patch at one position: all that stands before it is read once for all patches."""
    sources, targets = torch.tensor(pairs).T
    suffix = read_suffix(model, texts.tokens, place, [layer + 1 for layer in targets.unique().tolist()])
    found = torch.empty(len(given), len(pairs), len(texts), dtype=torch.long)
    for layer, stream in suffix.entering.items():
        which = torch.cartesian_prod(torch.arange(len(given)), (targets == layer - 1).nonzero().flatten(), torch.arange(len(texts)))
        for some in which.split(max(1, PATCHED_TOKENS // stream.shape[1])):
            run, number, rows = some.T
            patched = stream[rows].clone()
            patched[:, 0] = given[run, sources[number], rows].to(stream)
            logits = suffix.logits(model, layer, rows, texts.lengths[rows] - 1, stream=patched)
            found[run, number, rows] = logits.argmax(-1).cpu()
    return found
