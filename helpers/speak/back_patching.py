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
from helpers.running import activations_at, next_tokens, random_like, read_suffix
from helpers.speak.two_hops import Located, TwoHop, located, partners
from helpers.stats import cluster_interval
from helpers.tables import table
from helpers.texts import Texts

SOURCES = ("own", "other prompt", "another question", "previous token", "random")  # whose state is put in (see `back_patch`)
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


@torch.no_grad()
def back_patch(
    model: TransformerBridge,
    questions: Sequence[TwoHop],
    at: str = "t1",
    source: str = "own",
    pairs: Sequence[Pair] | None = None,
    seed: int = 0,
) -> BackPatch:
    """Runs every question again for each pair of layers, with the state of the source layer in the place of the target layer's.

    ``source`` is whose state: the question's ``own``, or, as controls with equally many tries, that of an ``other prompt`` (see
    ``partners``), of ``another question``, which moreover does not say this question's answer by mistake, as a failed question does not
    either; of the ``previous token``; or a ``random`` one of equal norm. Only what stands from the position on is run, from the target
    layer on. Raises ValueError for an unknown layer, position or source.
    """
    layers = model.cfg.n_layers
    pairs = tuple((late, early) for early in range(layers) for late in range(early + 1, layers)) if pairs is None else tuple(pairs)
    if not pairs or not all(0 <= layer < layers for pair in pairs for layer in pair):
        raise ValueError(f"A pair is (source layer, target layer), each from 0 to {layers - 1}; give at least one such pair.")
    asked = located(model, questions)
    places = asked.place(at)
    before = next_tokens(model, asked.texts)
    given = _given(model, asked, places, source, before, seed)
    tokens = torch.empty(len(pairs), len(questions), dtype=torch.long)
    for place in progress(places.unique().tolist(), desc=f"{at}, {source}"):
        rows = (places == place).nonzero().flatten()
        tokens[:, rows] = _patched(model, asked.texts.take(rows), place, given[:, rows], pairs)
    return BackPatch(asked.questions, pairs, tokens, before, asked.e3, layers)


def _given(
    model: TransformerBridge, asked: Located, places: Int[Tensor, "question"], source: str, before: Int[Tensor, "question"], seed: int
) -> Float[Tensor, "layer question d_model"]:
    """The states that are put in, for each source layer."""
    if chosen(SOURCES, source, "source") == "previous token":
        if int(places.min()) == 0:
            raise ValueError("A first hop ends at the first token, so there is no previous one: begin the prompt with another word.")
        places = places - 1
    hooks = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    states = activations_at(model, asked.texts, hooks, places[:, None])[:, :, 0]
    if source == "random":
        return random_like(states, 1, seed)[0]
    if source == "other prompt":
        return states[:, partners(asked.questions, seed)]
    if source == "another question":
        return states[:, partners(asked.questions, seed, barred=asked.e3[:, None] == before)]
    return states


def _patched(
    model: TransformerBridge, texts: Texts, place: int, given: Float[Tensor, "layer question d_model"], pairs: Sequence[Pair]
) -> Int[Tensor, "pair question"]:
    """What the model says after each patch at one position: all that stands before it is read once for all patches."""
    sources, targets = torch.tensor(pairs).T
    suffix = read_suffix(model, texts.tokens, place, [layer + 1 for layer in targets.unique().tolist()])
    found = torch.empty(len(pairs), len(texts), dtype=torch.long)
    for layer, stream in suffix.entering.items():
        which = torch.cartesian_prod((targets == layer - 1).nonzero().flatten(), torch.arange(len(texts)))
        for some in which.split(max(1, PATCHED_TOKENS // stream.shape[1])):
            number, rows = some.T
            patched = stream[rows].clone()
            patched[:, 0] = given[sources[number], rows].to(stream)
            logits = suffix.logits(model, layer, rows, texts.lengths[rows] - 1, stream=patched)
            found[number, rows] = logits.argmax(-1).cpu()
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

    def fixed(self, source: str = "own", chosen: str = "") -> Float[Tensor, "question"]:
        """How often each question is right under a single pair of layers that was chosen without any question about its e1.

        The e1 are split in halves; the pair with most right answers on one half is judged on the other one, and the other way round; means
        over the splits. ``chosen`` says for whose states the pair was chosen, by default for those of ``source`` itself.
        """
        halves = e1_halves(self.run(source).e1)
        found = torch.zeros(len(self.run(source).questions))
        for run in self.runs[source]:
            judged, chooser = run.hits.float(), self.run(chosen).hits.float() if chosen else run.hits.float()
            for one, other in halves:
                for choose, report in ((one, other), (other, one)):
                    found[report] += judged[chooser[:, choose].mean(1).argmax(), report]
        return found / SPLITS / len(self.runs[source])

    def table(self, only: Sequence[str] = ()) -> str:
        """For the oracle, for each source's own best pair and for the best pair of the own states: the rate with each source's states, and
        by how much the own states surpass it, with 95 % intervals over distinct e1.

        ``only``: the beginnings of the lines to keep, such as "any pair".
        """
        measures = {
            "any pair (oracle)": self.oracle,
            "its own best pair": self.fixed,
            "the pair best for own": lambda source="own": self.fixed(source, "own"),
        }
        rows = []
        for name, measure in measures.items():
            for source in self.runs:
                own, right, e1 = measure(), measure(source), self.run(source).e1
                rows.append((name, source, rate(right, e1), "" if source == "own" else rate(own - right, e1, sign="+")))
        columns = {"judged by": "<23", "states from": "<18", "right": "<23", "own minus it": "<"}
        return table(columns, [row for row in rows if not only or row[0].startswith(tuple(only))], gap="")


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


def back_patch_with_controls(
    model: TransformerBridge,
    wrong: Sequence[TwoHop],
    at: str = "t1",
    sources: Sequence[str] = SOURCES,
    seed: int = 0,
    pairs: Sequence[Pair] | None = None,
    draws: int = 1,
) -> BackPatchRuns:
    """Back-patches questions that were answered wrong, for every pair of layers or for some, with their own states and the controls'.

    ``draws``: how often each control that is random is drawn, with the seeds from ``seed`` on.
    """

    def tries(source: str) -> tuple[BackPatch, ...]:
        seeds = range(seed, seed + (1 if source in ("own", "previous token") else draws))
        return tuple(back_patch(model, wrong, at, source, pairs, one) for one in seeds)

    return BackPatchRuns({source: tries(source) for source in sources})
