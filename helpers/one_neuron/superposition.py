"""More features than dimensions: the toy model of superposition, and how many directions fit into a space.

Elhage et al. (2022, "Toy models of superposition"): ``n`` features, each absent most of the time, go through ``m < n`` hidden
dimensions and are to come out again: ``x' = ReLU(W^T W x + b)``. If features are rare, the model keeps more of them than it
has dimensions, in directions that are not quite orthogonal; what one disturbs in another is its price.

4096 neurons that are on or off have 2^4096 patterns, but that many *concepts* cannot be told apart. What there is room for is
nearly orthogonal directions: far more of them than dimensions (their number grows exponentially with these, at a fixed
angle), as long as only a few are active at once, because whoever reads one of them off, by a product with its direction, gets
a little of all the others too. ``nearly_orthogonal`` counts them, and ``read_out`` shows where that ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.tables import table

SPARSITIES = (0.0, 0.7, 0.9, 0.97, 0.99)


@dataclass(frozen=True)
class ToyModels:
    """Trained toy models, one for each sparsity: the share of the time that a feature is absent.

    ``weights`` are the columns W_i: where the model puts feature i. ``importance`` weighs a feature's error in the loss.
    ``loss`` is that of the model on fresh data, and ``dedicated_loss`` the least that a model reaches which keeps the most
    important features in a dimension each, exactly, and answers the mean of each of the others.
    """

    sparsities: tuple[float, ...]
    weights: Float[Tensor, "model hidden feature"]
    biases: Float[Tensor, "model feature"]
    importance: Float[Tensor, "feature"]
    loss: Float[Tensor, "model"]
    dedicated_loss: Float[Tensor, "model"]

    @property
    def norms(self) -> Float[Tensor, "model feature"]:
        """The length of W_i: near 1 where the feature is represented, near 0 where it is ignored."""
        return self.weights.norm(dim=1)

    @property
    def overlaps(self) -> Float[Tensor, "model feature feature"]:
        """``W^T W``: on its diagonal how much of a feature comes through, beside it how much each disturbs the others."""
        return self.weights.mT @ self.weights

    @property
    def interference(self) -> Float[Tensor, "model feature"]:
        """How much of a feature's direction the others share: the sum over j of ``(u_i . W_j)^2``, with ``u_i`` of length 1."""
        units = self.weights / self.norms[:, None].clamp(min=1e-6)
        shared = (units.mT @ self.weights).square()
        return shared.sum(2) - shared.diagonal(dim1=1, dim2=2)

    @property
    def represented(self) -> tuple[int, ...]:
        """How many features each model represents: those whose length is above one half."""
        return tuple((self.norms > 0.5).sum(1).tolist())

    def table(self) -> str:
        """One line for each sparsity: features represented, dimensions for each, mean interference, loss beside the dedicated one."""
        rows = []
        for at, count in enumerate(self.represented):
            disturbed = self.interference[at][self.norms[at] > 0.5].mean().item() if count else 0.0
            space = f"{self.weights.shape[1] / count:.2f}" if count else "-"
            rows.append((self.sparsities[at], count, space, disturbed, self.loss[at].item(), self.dedicated_loss[at].item()))
        columns = {"sparsity": "8.2f", "features": "9", "dims/feature": "13", "interference": "13.2f", "loss": "7.4f", "dedicated": "10.4f"}
        return table(columns, rows)


def train_toys(
    features: int = 20, hidden: int = 5, sparsities: Sequence[float] = SPARSITIES, decay: float = 0.9, steps: int = 1000, starts: int = 4
) -> ToyModels:
    """Trains toy models for each sparsity, all of them together, in a second or two on a CPU.

    Each feature is absent with the probability ``sparsity``, else drawn evenly from 0 to 1; feature i has the importance
    ``decay^i``. Of ``starts`` random starts the model with the lowest loss is kept, since some get stuck.
    Raises ValueError for sizes below 1 and sparsities that are not in [0, 1).
    """
    if features < 1 or hidden < 1:
        raise ValueError(f"A toy model needs one feature and one hidden dimension at least, not {features} and {hidden}.")
    if not sparsities or not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise ValueError(f"A sparsity is the share of the time that a feature is absent, from 0 to below 1; not {list(sparsities)}.")
    rng = torch.Generator().manual_seed(0)
    absent = torch.tensor([float(sparsity) for sparsity in sparsities]).repeat(starts)  # start by start
    importance = decay ** torch.arange(features, dtype=torch.float)
    weights, biases = _train(absent, importance, hidden, steps, rng)
    loss = _loss(weights, biases, draw_features(absent, features, 4000, rng), importance)
    best = loss.reshape(starts, -1).argmin(0) * len(sparsities) + torch.arange(len(sparsities))
    absent, weights, biases = absent[best], weights[best], biases[best]
    loss = _loss(weights, biases, draw_features(absent, features, 20_000, rng), importance)
    there = 1 - absent
    variance = there / 3 - there.square() / 4  # of a feature
    return ToyModels(tuple(map(float, sparsities)), weights, biases, importance, loss, variance * importance[hidden:].sum())


def _train(
    absent: Float[Tensor, "model"], importance: Float[Tensor, "feature"], hidden: int, steps: int, rng: torch.Generator, batch: int = 256
) -> tuple[Float[Tensor, "model hidden feature"], Float[Tensor, "model feature"]]:
    """Weights and biases after ``steps`` steps of Adam; losses are scaled by how often features are there, so that all learn alike."""
    size = (len(absent), hidden, len(importance))
    weights = (0.2 * torch.randn(size, generator=rng)).requires_grad_()
    biases = torch.zeros(size[0], size[2], requires_grad=True)
    optimiser = torch.optim.Adam([weights, biases], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            loss = _loss(weights, biases, draw_features(absent, size[2], batch, rng), importance)
            (loss / (1 - absent)).sum().backward()
            optimiser.step()
            schedule.step()
    return weights.detach(), biases.detach()


def draw_features(absent: Float[Tensor, "model"], features: int, batch: int, rng: torch.Generator) -> Float[Tensor, "model batch feature"]:
    """Feature vectors for each model: 0 with the model's probability ``absent``, else evenly from 0 to 1."""
    size = (len(absent), batch, features)
    return torch.rand(size, generator=rng) * (torch.rand(size, generator=rng) >= absent[:, None, None])


def _loss(
    weights: Float[Tensor, "model hidden feature"],
    biases: Float[Tensor, "model feature"],
    x: Float[Tensor, "model batch feature"],
    importance: Float[Tensor, "feature"],
) -> Float[Tensor, "model"]:
    """The squared error of ``ReLU(W^T W x + b)`` weighted by importance: summed over features, averaged over the batch."""
    written = ((x @ weights.mT) @ weights + biases[:, None]).relu()
    return ((x - written).square() * importance).sum(2).mean(1)


def unit_directions(n: int, dims: int, seed: int = 0) -> Float[Tensor, "direction dims"]:
    """``n`` random directions of length 1."""
    drawn = torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def nearly_orthogonal(dims: int, limit: float, tries: int = 4000, seed: int = 0) -> int:
    """How many of ``tries`` random directions can be kept, one after the other, so that no two have a cosine beyond ``limit``.

    A lower bound on what fits, since nothing is arranged: at ``limit`` 0 no more than ``dims`` directions fit, and with any
    limit above 0 the number grows exponentially with ``dims``; where all tries are kept, more would have fitted.
    """
    if not 0 < limit < 1:
        raise ValueError(f"The limit is the largest cosine allowed between two directions, between 0 and 1; not {limit}.")
    drawn = unit_directions(tries, dims, seed)
    close = (drawn @ drawn.T).abs() > limit
    kept = torch.zeros(tries, dtype=torch.bool)
    for at in range(tries):
        kept[at] = not bool((close[at] & kept).any())
    return int(kept.sum())


def read_out(dims: int, directions: int, active: Sequence[int], trials: int = 50, seed: int = 0) -> list[float]:
    """For each number k of active features: the share of them that a linear reading finds among the k strongest answers.

    ``directions`` random directions share ``dims`` dimensions; k of them are added up, and every feature is read off by a
    product with its own direction. Chance is k / directions. Raises ValueError where more are to be active than there are.
    """
    if wrong := [k for k in active if not 1 <= k <= directions]:
        raise ValueError(f"From 1 to all {directions} features can be active at once, not {wrong[0]}.")
    basis, rng = unit_directions(directions, dims, seed), torch.Generator().manual_seed(seed + 1)
    shares = []
    for k in active:
        on = torch.rand(trials, directions, generator=rng).argsort(1)[:, :k]  # [trial, k]
        answers = basis[on].sum(1) @ basis.T  # [trial, direction]
        found = answers.topk(k, 1).indices
        shares.append((found[:, :, None] == on[:, None]).any(2).float().mean().item())
    return shares
