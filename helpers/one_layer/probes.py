"""Linear probes: what can be read off an activation with one weighted sum (Alain and Bengio 2016, arXiv 1610.01644).

Many probes are fitted at once: one for each place, such as every head of a model, all on the same examples.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Probes:
    """Logistic probes: the odds of the label at place ``p`` are ``exp(x . weights[p] + bias[p])``."""

    weights: Float[Tensor, "place width"]
    bias: Float[Tensor, "place"]

    def log_odds(self, states: Float[Tensor, "place item width"]) -> Float[Tensor, "place item"]:
        """How sure each probe is that an item has the label, as log-odds."""
        return torch.einsum("piw,pw->pi", states, self.weights) + self.bias[:, None]

    def accuracy(self, states: Float[Tensor, "place item width"], labels: Bool[Tensor, "item"]) -> Float[Tensor, "place"]:
        """The share of items whose label each probe gets right."""
        return ((self.log_odds(states) > 0) == labels).float().mean(1)


@torch.enable_grad()
def fit_probes(states: Float[Tensor, "place item width"], labels: Bool[Tensor, "item"], penalty: float = 1e-2, steps: int = 60) -> Probes:
    """Fits a logistic probe at every place, with ``penalty`` times the squared weights of standardised inputs (L-BFGS).

    Raises ValueError unless both labels occur and every item has one.
    """
    labels = torch.as_tensor(labels, dtype=torch.bool)
    if states.ndim != 3 or states.shape[1] != len(labels):
        raise ValueError(f"States are [place, item, width] with a label for each item; here {list(states.shape)} and {len(labels)} labels.")
    if labels.all() or not labels.any():
        raise ValueError("A probe needs examples with the label and examples without it.")
    states = states.detach().double()
    centre, scale = states.mean(1, keepdim=True), states.std(1, keepdim=True).clamp(min=1e-8)
    inputs, targets = (states - centre) / scale, labels.double().expand(len(states), -1)
    weights = torch.zeros(states.shape[0], states.shape[2], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(states.shape[0], dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        odds = torch.einsum("piw,pw->pi", inputs, weights) + bias[:, None]
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(odds, targets, reduction="none").mean(1)
        total = (wrong + penalty * weights.square().sum(1)).sum()  # places do not touch each other, so one sum fits all
        total.backward()
        return total

    optimiser.step(loss)
    own = weights.detach() / scale[:, 0]
    return Probes(own.float(), (bias.detach() - (own * centre[:, 0]).sum(1)).float())
