"""Muon: the optimiser of the blocks' matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

PyTorch has Muon too, but takes its products in bfloat16, one matrix after the other: on a processor
without bfloat16 one step of the course LM then lasts eight seconds. This one works in the precision
that is given to it, all matrices of one shape at once.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; steep at zero, so five rounds are enough


def orthogonalise(matrices: Float[Tensor, "n row column"], rounds: int = 5) -> Float[Tensor, "n row column"]:
    """Brings the singular values of each matrix close to 1 (between about 0.7 and 1.2), keeps its singular vectors."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalise(matrices.mT, rounds).mT
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: every direction of a matrix moves by ``lr * sqrt(max(1, rows / columns))``."""

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.95, weight_decay: float = 0.0, dtype: torch.dtype = torch.float32):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = orthogonalise(torch.stack([self._direction(p, group["momentum"]) for p in parameters]).to(self.dtype))
                size = group["lr"] * max(1, rows / columns) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.to(parameter.dtype), alpha=size)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov momentum."""
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)
