"""In which layer the entities of a two-hop question can be read (Biran et al. 2024, arXiv 2406.12775, section 4).

The bridge e2 is looked for at t1 and t2 and the answer e3 at t2, each by a linear probe of the same make: what two tools read cannot be
compared in time. *Layer* ``l`` is the stream after block ``l``.

    print(entity_ranks(model, questions, train=course_questions(held_out=False)).table())
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.inputs import chosen
from helpers.interventions import resid_post
from helpers.models import TransformerBridge
from helpers.running import activations_at
from helpers.speak.two_hops import PLACES, TwoHop, located, partners
from helpers.stats import Interval, as_numbers, cluster_interval

PENALTY = 0.1  # of the probe, as a share of the mean variance of the states
READ = (("e2", "t1"), ("e2", "t2"), ("e3", "t2"))  # what is looked for where


@dataclass(frozen=True)
class EntityRanks:
    """At which place among all names of a probe something stands after each block: 0 is the nearest; -1 is unknown to the probe.

    ``ranks`` has "e2 at t1", "e2 at t2" and "e3 at t2", and for each a control: the e2 or e3 of another question ("another e2 at t1").
    """

    questions: tuple[TwoHop, ...]
    ranks: Mapping[str, Int[Tensor, "layer question"]]

    def earliest(self, what: str) -> Int[Tensor, "question"]:
        """The first layer in which each is the nearest; ``n_layers`` where it never is, -1 where it is unknown."""
        ranks = self._of(what)
        hits = torch.cat([ranks == 0, torch.ones(1, ranks.shape[1], dtype=torch.bool)])
        return torch.where(ranks[0] < 0, -1, hits.int().argmax(0))

    def readable(self, what: str) -> Bool[Tensor, "question"]:
        """Where something is the nearest in any layer."""
        first = self.earliest(what)
        return (first >= 0) & (first < len(self._of(what)))

    def among(self, questions: Sequence[TwoHop]) -> "EntityRanks":
        """The same for some of the questions. Raises ValueError for one that was not read."""
        return self.take([self.questions.index(one) for one in questions])

    def found(self, what: str) -> "EntityRanks":
        """The same for the questions where something is ever the nearest."""
        return self.take(self.readable(what).nonzero().flatten().tolist())

    def known(self, what: str) -> "EntityRanks":
        """The same for the questions where it could be found: the probe has learnt the name and the kind."""
        return self.take((self.earliest(what) >= 0).nonzero().flatten().tolist())

    def take(self, rows: Sequence[int]) -> "EntityRanks":
        """The same for the questions with some numbers."""
        return EntityRanks(tuple(self.questions[row] for row in rows), {what: ranks[:, rows] for what, ranks in self.ranks.items()})

    @property
    def e1(self) -> list[str]:
        """The first entity of each question: the cluster to which it belongs."""
        return [one.e1 for one in self.questions]

    def share(self, what: str) -> Float[Tensor, "layer"]:
        """The share of the questions with a known name where it is the nearest, layer by layer."""
        ranks = self._of(what)
        return (ranks[:, ranks[0] >= 0] == 0).float().mean(1)

    def median(self, what: str) -> tuple[float, Interval]:
        """The median of the earliest layers and its 95 % interval over distinct e1; ``n_layers`` counts as never."""
        known = self.known(what)
        first = as_numbers(known.earliest(what))
        return float(np.median(first)), cluster_interval(first, known.e1, statistic=np.median)

    def _of(self, what: str) -> Int[Tensor, "layer question"]:
        return chosen(self.ranks, what, "entity")

    def table(self) -> str:
        """One line for each: the median earliest layer with its interval, and in which share of the questions it can ever be read."""
        lines = [f"{'':<20} median earliest layer   ever      n"]
        for what in self.ranks:
            known, (middle, (low, high)) = self.known(what), self.median(what)
            ever = known.readable(what).float().mean()
            lines.append(f"{what:<20} {middle:>6.1f} [{low:.1f}, {high:.1f}] {ever:>8.1%} {len(known.questions):>6}")
        return "\n".join(lines)


@torch.no_grad()
def entity_ranks(model: TransformerBridge, questions: Sequence[TwoHop], train: Sequence[TwoHop], seed: int = 0) -> EntityRanks:
    """After which blocks e2 can be read at t1 and t2, and e3 at t2, by probes that are trained on other questions.

    Controls read for the entities of another question (see ``partners``). Raises ValueError where an e1 stands on both sides.
    """
    seen, shown, other = _states(model, questions), _states(model, train), partners(questions, seed).tolist()
    ranks = {}
    for what, at in READ:
        probe, own = fit_probe(train, shown[at], what), [getattr(one, what) for one in questions]
        ranks[f"{what} at {at}"] = probe.ranks(questions, seen[at], own)
        ranks[f"another {what} at {at}"] = probe.ranks(questions, seen[at], [own[row] for row in other])
    return EntityRanks(tuple(questions), ranks)


def _states(model: TransformerBridge, questions: Sequence[TwoHop]) -> dict[str, Float[Tensor, "layer question d_model"]]:
    """The stream after every block at t1 and at t2."""
    asked = located(model, questions)
    hooks = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    seen = activations_at(model, asked.texts, hooks, torch.stack([asked.place(at) for at in PLACES], 1))
    return dict(zip(PLACES, seen.unbind(2), strict=True))


@dataclass(frozen=True)
class EntityProbe:
    """A linear probe for e2, or e3: the nearest of the names' mean states, where differences within a name are scaled to be alike (LDA).

    Every state is taken relative to the ``means`` of its kind of question, and compared with the names that were ``met`` where the same
    was asked for. ``scale`` is the inverse covariance within names.
    """

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    met: frozenset[tuple[str, str]]  # the second relation, and a name
    e1: frozenset[str]
    means: Float[Tensor, "layer kind d_model"]
    centroids: Float[Tensor, "layer name d_model"]
    scale: Float[Tensor, "layer d_model d_model"]

    def ranks(
        self, questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], names: Sequence[str]
    ) -> Int[Tensor, "layer question"]:
        """How many names are nearer to each state than the given one; -1 where the probe has not met the name, or the kind.

        Raises ValueError for an e1 that the probe was trained on.
        """
        if both := sorted({one.e1 for one in questions} & self.e1):
            raise ValueError(f"{both[0]!r} is a first entity of both sets: a probe must be trained on questions about other e1.")
        kind = torch.tensor([self.kinds.index(one.kind) if one.kind in self.kinds else -1 for one in questions])
        at = torch.tensor([self.names.index(name) if name in self.names else -1 for name in names])
        met = torch.tensor([[(one.second, name) in self.met for name in self.names] for one in questions])
        known = torch.tensor([(one.second, name) in self.met for one, name in zip(questions, names, strict=True)]) & (kind >= 0)
        states = seen - self.means[:, kind]
        size = ((self.centroids @ self.scale) * self.centroids).sum(-1)
        distance = size[:, None] - 2 * states @ self.scale @ self.centroids.mT  # up to a term that all names share
        own = distance.gather(2, at.clamp(min=0).expand(len(seen), -1)[..., None])
        return torch.where(known, ((distance < own) & met).sum(-1), -1)


def fit_probe(
    questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], what: str = "e2", penalty: float = PENALTY
) -> EntityProbe:
    """Fits the probe for "e2" or "e3"; ``penalty`` times the states' mean variance is added to the variances within names."""
    own = [getattr(one, what) for one in questions]
    kinds, names = sorted({one.kind for one in questions}), sorted(set(own))
    kind = torch.tensor([kinds.index(one.kind) for one in questions])
    name = torch.tensor([names.index(one) for one in own])
    means = _means(seen, kind)
    inputs = seen - means[:, kind]
    centroids = _means(inputs, name)
    rest = inputs - centroids[:, name]
    ridge = penalty * inputs.square().mean((1, 2))[:, None, None] * torch.eye(seen.shape[-1])
    scale = torch.linalg.inv(rest.mT @ rest / len(questions) + ridge)
    met = frozenset(zip((one.second for one in questions), own, strict=True))
    return EntityProbe(tuple(kinds), tuple(names), met, frozenset(one.e1 for one in questions), means, centroids, scale)


def _means(seen: Float[Tensor, "layer question d_model"], number: Int[Tensor, "question"]) -> Float[Tensor, "layer number d_model"]:
    """The mean state of the questions with each number."""
    member = torch.nn.functional.one_hot(number).float()
    return (member / member.sum(0)).T @ seen
