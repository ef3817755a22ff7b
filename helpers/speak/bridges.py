"""In which layer the entities of a two-hop question can be read (Biran et al. 2024, arXiv 2406.12775, section 4).

The bridge e2 is looked for at t1 and t2 and the answer e3 at t2, by the logit lens, and all three by a linear probe: what two tools read
cannot be compared in time. *Layer* ``l`` is the stream after block ``l``.

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
from helpers.running import activations_at, read_lens
from helpers.speak.two_hops import PLACES, Located, TwoHop, located, partners
from helpers.stats import Interval, as_numbers, cluster_interval

PENALTY = 0.1  # of the probe, as a share of the mean variance of the states
READ = (("e2", "t1"), ("e2", "t2"), ("e3", "t2"))  # what is looked for where


@dataclass(frozen=True)
class EntityRanks:
    """At which place among all tokens, or among all names of a probe, something stands after each block: 0 is the first; -1 is unknown.

    ``ranks`` has "e2 at t1", "e2 at t2" and "e3 at t2" by the logit lens, the same by a probe where one was trained ("e2 at t1, probe"),
    and for each a control: the same for the e2 or e3 of another question ("another e2 at t1").
    """

    questions: tuple[TwoHop, ...]
    ranks: Mapping[str, Int[Tensor, "layer question"]]

    def earliest(self, what: str, top: int = 1) -> Int[Tensor, "question"]:
        """The first layer in which each is among the ``top`` best; ``n_layers`` where it never is, -1 where it is unknown."""
        ranks = self._of(what)
        hits = torch.cat([(ranks < top) & (ranks >= 0), torch.ones(1, ranks.shape[1], dtype=torch.bool)])
        return torch.where(ranks[0] < 0, -1, hits.int().argmax(0))

    def readable(self, what: str, top: int = 1) -> Bool[Tensor, "question"]:
        """Where something is ever among the ``top`` best, in any layer."""
        first = self.earliest(what, top)
        return (first >= 0) & (first < len(self._of(what)))

    def among(self, questions: Sequence[TwoHop]) -> "EntityRanks":
        """The same for some of the questions. Raises ValueError for one that was not read."""
        return self.take([self.questions.index(one) for one in questions])

    def found(self, what: str) -> "EntityRanks":
        """The same for the questions where something is ever the best."""
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

    def share(self, what: str, top: int = 1) -> Float[Tensor, "layer"]:
        """The share of questions where it is among the ``top`` best, layer by layer."""
        ranks = self._of(what)
        return (ranks[:, ranks[0] >= 0] < top).float().mean(1)

    def median(self, what: str, top: int = 1) -> tuple[float, Interval]:
        """The median of the earliest layers and its 95 % interval over distinct e1; ``n_layers`` counts as never."""
        first = self.earliest(what, top)
        kept = (first >= 0).nonzero().flatten().tolist()
        values, clusters = first[kept].tolist(), self.take(kept).e1
        return float(np.median(as_numbers(values))), cluster_interval(values, clusters, statistic=np.median)

    def _of(self, what: str) -> Int[Tensor, "layer question"]:
        return chosen(self.ranks, what, "entity")

    def table(self, top: int = 1, only: str = "") -> str:
        """One line for each: the median earliest layer with its interval, and in which share of the questions it can ever be read.

        ``only``: the end of the lines to keep, such as "probe".
        """
        lines = [f"{'':<28} median earliest layer   ever      n"]
        for what in (name for name in self.ranks if name.endswith(only)):
            first, (middle, (low, high)) = self.earliest(what, top), self.median(what, top)
            ever = self.readable(what, top)[first >= 0].float().mean()
            lines.append(f"{what:<28} {middle:>6.1f} [{low:.1f}, {high:.1f}] {ever:>8.1%} {(first >= 0).sum():>6}")
        return "\n".join(lines)


@torch.no_grad()
def entity_ranks(model: TransformerBridge, questions: Sequence[TwoHop], train: Sequence[TwoHop] = (), seed: int = 0) -> EntityRanks:
    """After which blocks e2 can be read at t1 and t2, and e3 at t2, by the logit lens; with questions to ``train`` on, also by a probe.

    Controls read for the entities of another question (see ``partners``). Raises ValueError where an e1 stands on both sides.
    """
    asked, other = located(model, questions), partners(questions, seed)
    seen, ranks = _states(model, asked), {}
    for what, at in READ:
        tokens = getattr(asked, what)
        ranks[f"{what} at {at}"], ranks[f"another {what} at {at}"] = _lens_ranks(model, seen[at], torch.stack([tokens, tokens[other]]))
    shown = _states(model, located(model, train)) if train else {}
    for what, at in READ if train else ():
        probe, own = fit_probe(train, shown[at], what), [getattr(one, what) for one in questions]
        ranks[f"{what} at {at}, probe"] = probe.ranks(questions, seen[at], own)
        ranks[f"another {what} at {at}, probe"] = probe.ranks(questions, seen[at], [own[row] for row in other.tolist()])
    return EntityRanks(tuple(questions), ranks)


def _states(model: TransformerBridge, asked: Located) -> dict[str, Float[Tensor, "layer question d_model"]]:
    """The stream after every block at t1 and at t2."""
    hooks = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    seen = activations_at(model, asked.texts, hooks, torch.stack([asked.place(at) for at in PLACES], 1))
    return dict(zip(PLACES, seen.unbind(2), strict=True))


def _lens_ranks(
    model: TransformerBridge, seen: Float[Tensor, "layer question d_model"], ids: Int[Tensor, "which question"]
) -> Int[Tensor, "which layer question"]:
    """How many tokens the logit lens puts before each of the given ones."""

    def ranks(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Int[Tensor, "layer some which"]:
        logits = logits.cpu()
        own = logits.gather(-1, ids[:, some].T.expand(len(logits), -1, -1))
        return torch.stack([(logits > one[..., None]).sum(-1) for one in own.unbind(-1)], -1)

    return read_lens(model, seen, ranks).movedim(-1, 0)


@dataclass(frozen=True)
class EntityProbe:
    """A linear probe for e2, or e3: the nearest of the names' mean states, where differences within a name are scaled to be alike (LDA).

    Every state is taken relative to the ``means`` of its kind and form. ``scale`` is the inverse covariance within names.
    """

    groups: tuple[str, ...]
    names: tuple[str, ...]
    e1: frozenset[str]
    means: Float[Tensor, "layer group d_model"]
    centroids: Float[Tensor, "layer name d_model"]
    scale: Float[Tensor, "layer d_model d_model"]

    def ranks(
        self, questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], names: Sequence[str]
    ) -> Int[Tensor, "layer question"]:
        """How many names are nearer to each state than the given one; -1 where the probe knows the name or the kind not.

        Raises ValueError for an e1 that the probe was trained on.
        """
        if both := sorted({one.e1 for one in questions} & self.e1):
            raise ValueError(f"{both[0]!r} is a first entity of both sets: a probe must be trained on questions about other e1.")
        group = torch.tensor([self.groups.index(one.group) if one.group in self.groups else -1 for one in questions])
        at = torch.tensor([self.names.index(name) if name in self.names else -1 for name in names])
        states = seen - self.means[:, group]
        size = ((self.centroids @ self.scale) * self.centroids).sum(-1)
        distance = size[:, None] - 2 * states @ self.scale @ self.centroids.mT  # up to a term that all names share
        own = distance.gather(2, at.clamp(min=0).expand(len(seen), -1)[..., None])
        return torch.where((at < 0) | (group < 0), -1, (distance < own).sum(-1))


def fit_probe(
    questions: Sequence[TwoHop], seen: Float[Tensor, "layer question d_model"], what: str = "e2", penalty: float = PENALTY
) -> EntityProbe:
    """Fits the probe for "e2" or "e3"; ``penalty`` times the states' mean variance is added to the variances within names."""
    own = [getattr(one, what) for one in questions]
    groups, names = sorted({one.group for one in questions}), sorted(set(own))
    group = torch.tensor([groups.index(one.group) for one in questions])
    name = torch.tensor([names.index(one) for one in own])
    means = _means(seen, group)
    inputs = seen - means[:, group]
    centroids = _means(inputs, name)
    rest = inputs - centroids[:, name]
    ridge = penalty * inputs.square().mean((1, 2))[:, None, None] * torch.eye(seen.shape[-1])
    scale = torch.linalg.inv(rest.mT @ rest / len(questions) + ridge)
    return EntityProbe(tuple(groups), tuple(names), frozenset(one.e1 for one in questions), means, centroids, scale)


def _means(seen: Float[Tensor, "layer question d_model"], number: Int[Tensor, "question"]) -> Float[Tensor, "layer number d_model"]:
    """The mean state of the questions with each number."""
    member = torch.nn.functional.one_hot(number).float()
    return (member / member.sum(0)).T @ seen
