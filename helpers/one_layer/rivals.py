"""Rivals of a sparse autoencoder: what else can write a state with as many numbers, and was not trained, or hardly.

Those that write states are autoencoders themselves, so that all are measured alike:

    quality(model, principal_components(states, k=24), hook, texts)
    quality(model, Pursuit(random_directions(256, 2048), states.mean(0), k=24), hook, texts)
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.inputs import check_number
from helpers.one_layer.autoencoders import SparseAutoencoder


def mean_alone(x: Float[Tensor, "token d_model"]) -> SparseAutoencoder:
    """Writes the mean of some states, whatever it reads: what costs no number at all."""
    width = x.shape[1]
    return SparseAutoencoder(torch.zeros(width, 1), torch.zeros(1), torch.zeros(1, width), x.mean(0))


def principal_components(x: Float[Tensor, "token d_model"], k: int) -> SparseAutoencoder:
    """Writes a state by its ``k`` largest principal components, the same for every state; each has a feature for either sign."""
    check_number("k says how many components to keep", k, high=min(x.shape))
    axes = torch.linalg.eigh(torch.cov(x.T.double())).eigenvectors[:, -k:].float()  # [d_model, k]
    both = torch.cat([axes, -axes], 1)
    return SparseAutoencoder(both, torch.zeros(2 * k), both.T, x.mean(0))


def random_directions(d_model: int, n: int, seed: int = 0) -> Float[Tensor, "n d_model"]:
    """``n`` directions of length 1 that point anywhere."""
    drawn = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def supervised(
    x: Float[Tensor, "item d_model"], labels: Bool[Tensor, "item concept"], ridge: float = 0.1
) -> Float[Tensor, "concept d_model"]:
    """For each concept the direction that tells it best from all else, by its labels: what one direction can do for one who knows them.

    Linear discriminants: the mean state of the concept, less that of all, measured against how states vary.
    """
    centred = x - x.mean(0)
    means = labels.T.float() @ centred / labels.sum(0)[:, None]
    spread = torch.cov(centred.T)
    return torch.linalg.solve(spread + ridge * spread.diagonal().mean() * torch.eye(len(spread)), means.T).T


class Pursuit(SparseAutoencoder):
    """Orthogonal matching pursuit over given directions: the best coefficients that ``k`` of them can have (Pati et al. 1993).

    Each step takes the direction that has most of what is still missing, with either sign, and fits all that were taken anew. So a
    dictionary is not blamed for its encoder.
    """

    def __init__(self, directions: Float[Tensor, "n d_model"], mean: Float[Tensor, "d_model"], k: int) -> None:
        """Raises ValueError if ``k`` is more than there are directions, or dimensions."""
        check_number("k says how many directions to take", k, high=min(directions.shape))
        units = directions / directions.norm(dim=1, keepdim=True)
        super().__init__(units.T, torch.zeros(len(units)), units, mean)
        self.taken = k

    def encode(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """The coefficients of the directions, all but ``k`` of them 0; they may be negative."""
        wanted = (x - self.b_dec).reshape(-1, self.d_model)
        rows, missing = torch.arange(len(wanted)), wanted
        chosen = torch.zeros(len(wanted), 0, dtype=torch.long)
        for _ in range(self.taken):
            much = (missing @ self.W_enc).abs().scatter(1, chosen, -1.0)  # none is taken twice
            chosen = torch.cat([chosen, much.argmax(1, keepdim=True)], 1)
            basis = self.W_dec[chosen]  # [token, taken, d_model]
            gram, along = basis @ basis.mT, basis @ wanted[..., None]
            fitted = torch.linalg.solve(gram + 1e-6 * torch.eye(gram.shape[-1]), along)[..., 0]
            missing = wanted - (fitted[..., None] * basis).sum(1)
        codes = torch.zeros(len(wanted), self.d_sae)
        codes[rows[:, None], chosen] = fitted
        return codes.reshape(*x.shape[:-1], self.d_sae)
