"""Training sparse autoencoders, and a toy of which the truth is known.

    standard   the loss is |x - x'|^2 + lambda sum_k a_k |W_dec[k]|  (Bricken et al. 2023; Templeton et al. 2024, "Scaling Monosemanticity")
    topk       |x - x'|^2, and a loss that wakes dead features (Gao et al. 2024, arXiv 2406.04093)

The two autoencoders that belong to the course LM are trained by ``helpers.one_layer.sae_files``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from helpers.inputs import chosen
from helpers.one_layer.autoencoders import KINDS, SparseAutoencoder
from helpers.one_neuron.superposition import draw_features, unit_directions
from helpers.progress import progress
from helpers.tables import table

STANDARD_LENGTH = 0.1  # of the directions of a standard autoencoder before training
PENALTY_WARM_UP = 0.1  # share of the steps over which the penalty rises to its full size


@dataclass(frozen=True)
class Settings:
    """How an autoencoder is trained: ``"topk"`` with ``k`` active features, or ``"standard"`` with ``sparsity``, the lambda of its loss.

    All sizes are those of activations whose mean squared norm is d_model (Templeton et al. take a lambda of 5). A feature counts as dead
    when none of the last ``dead_after`` tokens made it active. ``warm_up`` and ``decay`` are shares of the steps, at the start and the end.
    """

    kind: str = "topk"
    d_sae: int = 2048
    k: int = 24
    sparsity: float = 2.0
    steps: int = 2000
    batch: int = 1024
    learning_rate: float = 2e-3
    warm_up: float = 0.05
    decay: float = 0.2
    dead_after: int = 100_000
    auxiliary: float = 1 / 32  # weight of the loss that wakes dead features (topk; Gao et al., appendix A.2)
    resample_at: tuple[float, ...] = (0.25, 0.5)  # where dead features start anew, as shares of the steps (standard)

    def __post_init__(self) -> None:
        """Raises ValueError, in one sentence, for settings with which nothing can be trained."""
        chosen(KINDS, self.kind, "kind of autoencoder to train")
        if min(self.d_sae, self.steps, self.batch) < 1:
            raise ValueError("Training needs one feature, one step and one activation a batch at least.")
        if self.kind == "topk" and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k is how many features are active, 1 to {self.d_sae}, not {self.k}.")


@dataclass(frozen=True)
class History:
    """How a training went, at about a hundred of its steps: the loss, the mean number of active features, and more."""

    step: Int[Tensor, "logged"]
    loss: Float[Tensor, "logged"]
    l0: Float[Tensor, "logged"]
    unexplained: Float[Tensor, "logged"]  # share of the variance that is lost, in this batch
    dead_share: Float[Tensor, "logged"]

    def table(self, n: int = 8) -> str:
        """``n`` lines from the first to the last step: loss, active features, variance explained, share of dead features."""
        shown = torch.linspace(0, len(self.step) - 1, min(n, len(self.step))).round().long()
        numbers = [self.step, self.loss, self.l0, 1 - self.unexplained, self.dead_share]
        columns = {"step": "6", "loss": "9.3f", "L0": "6.1f", "explained": "10.3f", "dead": "7.1%"}
        return table(columns, zip(*(column[shown].tolist() for column in numbers), strict=True))


@torch.enable_grad()
def train_sae(
    activations: Float[Tensor, "token d_model"], settings: Settings = Settings(), seed: int = 0, hook: str = ""
) -> tuple[SparseAutoencoder, History]:
    """Trains an autoencoder on activations, in float32 or float16.

    They are gone through in a new random order as often as ``settings.steps`` batches need. Adam, with a linear warm-up and decay. The
    same seed gives the same autoencoder. Raises ValueError if there is nothing to learn.
    """
    rng = torch.Generator().manual_seed(seed)
    batches = _batches(activations, settings.batch, rng)
    head = list(islice(batches, 16))
    mean, scale = _statistics(head)
    training = _Training(mean * scale, settings, rng)
    log, stride = [], max(1, settings.steps // 100)
    with progress(total=settings.steps, desc=f"training ({settings.kind})") as bar:
        for step, x in enumerate(islice(chain(head, batches), settings.steps)):
            seen = training.step(x * scale, step)
            if step % stride == 0 or step == settings.steps - 1:
                log.append((step, *(float(number) for number in seen)))
                bar.set_postfix_str("loss {:.2f}, L0 {:.1f}, lost {:.1%}, dead {:.1%}".format(*log[-1][1:]), refresh=False)
            bar.update()
    columns = [torch.tensor(column) for column in zip(*log, strict=True)]
    k = settings.k if settings.kind == "topk" else None
    found = SparseAutoencoder(training.encoder.T, training.b_enc, training.W_dec, training.b_dec, settings.kind, k, hook=hook)
    return found.folded(scale), History(columns[0], *(column.float() for column in columns[1:]))


def _batches(activations: Float[Tensor, "token d_model"], size: int, rng: torch.Generator) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Batches in float32, mixed anew each time all activations were used; without end."""
    while len(activations):
        rows = torch.randperm(len(activations), generator=rng).split(size)
        yield from (activations[part].float() for part in rows if len(part) == size or len(rows) == 1)


def _statistics(head: Sequence[Float[Tensor, "_ d_model"]]) -> tuple[Float[Tensor, "d_model"], float]:
    """The mean of some batches, and the factor that makes their mean squared norm d_model."""
    if not head:
        raise ValueError("There are not enough activations for one batch: give more of them, or make the batch smaller.")
    some = torch.cat(list(head))
    power = some.square().sum(1).mean().item()
    if not 0 < power < float("inf"):
        raise ValueError("There is nothing to learn from activations that are all 0, infinite or not numbers (NaN).")
    return some.mean(0), (some.shape[1] / power) ** 0.5


class _Training:
    """Weights, optimiser and counts while an autoencoder is trained on scaled activations.

    The encoder lies transposed, ``[d_sae, d_model]``, so that each feature has a row of its own in both matrices.
    """

    def __init__(self, mean: Float[Tensor, "d_model"], settings: Settings, rng: torch.Generator) -> None:
        """Random directions, an encoder that reads along them, and ``b_dec`` at the mean of the activations."""
        directions = torch.randn(settings.d_sae, len(mean), generator=rng).to(mean)
        directions /= directions.norm(dim=1, keepdim=True)
        self.settings = settings
        self.rng = rng
        self.encoder = directions.clone().requires_grad_()
        self.W_dec = (directions * (1.0 if settings.kind == "topk" else STANDARD_LENGTH)).requires_grad_()
        self.b_enc = torch.zeros_like(directions[:, 0]).requires_grad_()
        self.b_dec = mean.clone().requires_grad_()
        self.variance = len(mean) - mean.square().sum().item()  # of the scaled activations
        self.unseen = torch.zeros(settings.d_sae, dtype=torch.long, device=mean.device)  # tokens since a feature was last active
        weights = [self.encoder, self.b_enc, self.W_dec, self.b_dec]
        self.optimiser = torch.optim.Adam(weights, lr=settings.learning_rate, fused=True)
        self.resampling = {int(share * settings.steps) for share in settings.resample_at} if settings.kind == "standard" else set()

    @property
    def dead(self) -> Bool[Tensor, "d_sae"]:
        """Which features no token has made active for long."""
        return self.unseen > self.settings.dead_after

    def step(self, x: Float[Tensor, "batch d_model"], step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step; returns the loss, the mean number of active features, the share of variance lost, and that of dead features."""
        topk = self.settings.kind == "topk"
        if step in self.resampling:
            self.resample(x)
        error, loss, n_active = self.topk_loss(x) if topk else self.standard_loss(x, step)
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * self.schedule(step)
        with torch.no_grad():
            if topk:  # the directions keep their length 1: along themselves they get no gradient
                self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec
            self.optimiser.step()
            if topk:
                self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
        return loss.detach(), n_active / len(x), error / self.variance, self.dead.float().mean()

    def schedule(self, step: int) -> float:
        """The learning rate as a share of its highest value: a rise at the start, a fall at the end."""
        steps = self.settings.steps
        rise, fall = max(1, self.settings.warm_up * steps), max(1, self.settings.decay * steps)
        return min(1.0, (step + 1) / rise, (steps - step) / fall)

    def bias(self) -> Float[Tensor, "d_sae"]:
        """What is added to ``x @ encoder.T``; ``b_dec`` is subtracted here, from all of a batch at once."""
        return self.b_enc - self.encoder @ self.b_dec

    def standard_loss(self, x: Float[Tensor, "batch d_model"], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error, loss with the penalty on activations times the lengths of their directions, and how many were active."""
        features = torch.addmm(self.bias(), x, self.encoder.T).relu()
        error = (torch.addmm(self.b_dec, features, self.W_dec) - x).square().sum(1).mean()
        penalty = self.settings.sparsity * min(1.0, (step + 1) / max(1, PENALTY_WARM_UP * self.settings.steps))
        loss = error + penalty * (features @ self.W_dec.norm(dim=1)).mean()
        active = features.detach() > 0
        self.count(x, active.any(0))
        return error.detach(), loss, active.sum()

    def topk_loss(self, x: Float[Tensor, "batch d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error, loss with that of the dead features, and how many features were active."""
        values, chosen = _Strongest.apply(x, self.encoder, self.bias(), self.settings.k)
        values = values.relu()
        rest = x - self.b_dec - embedding_bag(chosen, self.W_dec, per_sample_weights=values, mode="sum")
        error = rest.square().sum(1).mean()
        on = values.detach() > 0
        loss = error + self.settings.auxiliary * self.loss_of_the_dead(x, rest.detach())
        seen = torch.zeros_like(self.unseen, dtype=torch.bool)
        seen[chosen[on]] = True
        self.count(x, seen)
        return error.detach(), loss, on.sum()

    def count(self, x: Float[Tensor, "batch d_model"], seen: Bool[Tensor, "d_sae"]) -> None:
        """Keeps in ``unseen`` for how many tokens each feature was not active."""
        self.unseen += len(x)
        self.unseen[seen] = 0

    def loss_of_the_dead(self, x: Float[Tensor, "batch d_model"], rest: Float[Tensor, "batch d_model"]) -> Tensor:
        """How badly the dead features, d_model / 2 of them at a time, write what the others have left (Gao et al., appendix A.2)."""
        dead = self.dead.nonzero().flatten()
        if not len(dead):
            return rest.new_zeros(())
        values, chosen = _Strongest.apply(x, self.encoder[dead], self.bias()[dead], min(len(dead), max(1, x.shape[1] // 2)))
        written = embedding_bag(chosen, self.W_dec[dead], per_sample_weights=values.relu(), mode="sum")
        return (rest - written).square().sum(1).mean()

    @torch.no_grad()
    def resample(self, x: Float[Tensor, "batch d_model"]) -> None:
        """Dead features start anew, along activations that are written badly (Bricken et al. 2023, appendix on resampling)."""
        dead = self.dead.nonzero().flatten()
        if not len(dead) or len(dead) == len(self.dead):
            return
        features = torch.addmm(self.bias(), x, self.encoder.T).relu()
        rest = x - torch.addmm(self.b_dec, features, self.W_dec)
        drawn = torch.multinomial(rest.square().sum(1).square().cpu(), len(dead), replacement=True, generator=self.rng).to(x.device)
        directions = rest[drawn] / rest[drawn].norm(dim=1, keepdim=True).clamp(min=1e-12)
        alive = ~self.dead
        self.W_dec[dead] = directions * self.W_dec[alive].norm(dim=1).mean()
        self.encoder[dead] = directions * 0.2 * self.encoder[alive].norm(dim=1).mean()
        self.b_enc[dead], self.unseen[dead] = 0.0, 0
        for weight in (self.W_dec, self.encoder, self.b_enc):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[weight][moment][dead] = 0.0


class _Strongest(torch.autograd.Function):
    """The k largest of ``x @ encoder.T + bias`` in each row, and their numbers; a gradient costs no more than these few.

    That and ``embedding_bag`` take a step without a dense matrix of features: less than half the time at usual sizes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
        values, chosen = torch.addmm(bias, x, encoder.T).topk(k, dim=1, sorted=False)
        ctx.save_for_backward(x, chosen)
        ctx.n_features = len(bias)
        ctx.mark_non_differentiable(chosen)
        return values, chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, Tensor, None]:
        x, chosen = ctx.saved_tensors
        feature, order = chosen.flatten().sort(stable=True)
        starts = torch.searchsorted(feature, torch.arange(ctx.n_features, device=x.device))
        weight = grad.flatten()[order]
        d_encoder = embedding_bag(order // chosen.shape[1], x, starts, per_sample_weights=weight, mode="sum")
        return None, d_encoder, torch.zeros_like(x[0, :1]).expand(ctx.n_features).clone().index_add_(0, feature, weight), None


@dataclass(frozen=True)
class ToyData:
    """Activations that are sparse sums of known directions: ``x = features @ directions``."""

    x: Float[Tensor, "sample d_model"]
    features: Float[Tensor, "sample feature"]
    directions: Float[Tensor, "feature d_model"]


def toy_data(n_features: int, d: int, sparsity: float, n: int, seed: int = 0) -> ToyData:
    """``n`` activations in ``d`` dimensions; each feature is absent with the probability ``sparsity``, else even from 0 to 1."""
    if n_features < 1 or d < 1 or n < 1 or not 0 <= sparsity < 1:
        raise ValueError("Toy data need one feature, dimension and sample at least, and a sparsity (share of absences) from 0 to below 1.")
    features = draw_features(torch.tensor([sparsity]), n_features, n, torch.Generator().manual_seed(seed))[0]
    directions = unit_directions(n_features, d, seed + 1)
    return ToyData(features @ directions, features, directions)


def mean_max_cosine(found: Float[Tensor, "direction d_model"], truth: Float[Tensor, "feature d_model"]) -> float:
    """How well true directions were found: the cosine of each with the most similar of those found, averaged (Sharkey et al. 2022)."""
    units = [rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) for rows in (found.float(), truth.float())]
    return (units[1] @ units[0].T).amax(1).mean().item()
