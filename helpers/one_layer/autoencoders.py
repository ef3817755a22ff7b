"""Sparse autoencoders: activations as sums of few directions out of many, found without anybody saying what to look for.

An autoencoder (SAE) writes an activation ``x`` as ``b_dec + sum_k a_k W_dec[k]``, where few of the *features* ``a_k >= 0`` are
active at once, each along a *direction* ``W_dec[k]`` of its own; there are more directions than dimensions. Three kinds:

    standard   a = ReLU((x - b_dec) W_enc + b_enc); trained with |x - x'|^2 + lambda sum_k a_k |W_dec[k]| (Bricken et al. 2023;
               Templeton et al. 2024, "Scaling Monosemanticity")
    topk       the same, but only the k largest features stay, as far as they are positive (Gao et al. 2024, arXiv 2406.04093)
    jumprelu   the same, but only features above a threshold of their own stay (Rajamanoharan et al. 2024, arXiv 2407.14435);
               these are loaded here, not trained

All directions of a trained autoencoder have length 1, so that ``a_k`` says how much of the activation goes along ``W_dec[k]``.

    sae, history = train_sae(activations_of(model, texts, hook).values, Settings("topk", d_sae=1024, k=16))
    print(quality(model, sae, hook, held_out).table())

What their features are about is in ``helpers.one_layer.features``; ``helpers.one_layer.sae_files`` keeps them in files and trains the two of the course LM.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import embedding_bag

from helpers.course_lm.corpus.mixture import documents
from helpers.interventions import Index, Intervention, intervene, record, zero_ablate
from helpers.metrics import AFTER_FIRST
from helpers.models import TransformerBridge
from helpers.one_neuron.superposition import draw_features, unit_directions
from helpers.progress import progress
from helpers.texts import Texts, as_texts

KINDS = ("standard", "topk", "jumprelu")
CORPUS_SEED = 20_300  # documents to train on: neither those of the language model's training nor the held-out ones (20_261)

POOL_BATCHES = 32  # how many batches of a stream are mixed at a time
STANDARD_LENGTH = 0.1  # of the directions of a standard autoencoder before training
PENALTY_WARM_UP = 0.1  # share of the steps over which the penalty rises to its full size


@dataclass(frozen=True)
class Settings:
    """How an autoencoder is trained.

    ``kind``: ``"topk"`` with ``k`` active features, or ``"standard"`` with ``sparsity``, the lambda of its loss (5 in Templeton
    et al.). All sizes are those of activations whose mean squared norm is d_model. A feature counts as dead when none of the
    last ``dead_after`` tokens made it active. ``warm_up`` and ``decay`` are shares of the steps, at the start and at the end.
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
        checks = [
            (self.kind not in KINDS[:2], f"An autoencoder to train is 'topk' or 'standard', not {self.kind!r}."),
            (min(self.d_sae, self.steps, self.batch) < 1, "Training needs one feature, one step and one activation a batch at least."),
            (
                self.kind == "topk" and not 1 <= self.k <= self.d_sae,
                f"k is how many features are active, 1 to {self.d_sae}, not {self.k}.",
            ),
            (self.sparsity < 0, f"The sparsity penalty must be 0 or more, not {self.sparsity}."),
            (not 0 <= self.warm_up + self.decay <= 1, "Warm-up and decay are shares of the steps and fit together into 1."),
        ]
        if sentence := next((sentence for wrong, sentence in checks if wrong), ""):
            raise ValueError(sentence)


# ------------------------------------------------------------------------------------------------------- the autoencoder


class SparseAutoencoder(Module):
    """A trained autoencoder that reads activations as the model has them; see the top of this file for its three kinds.

    ``hook`` is the place that it was trained at, ``about`` whatever else its file says. Its weights take no gradients.
    """

    def __init__(
        self,
        W_enc: Float[Tensor, "d_model d_sae"],
        b_enc: Float[Tensor, "d_sae"],
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, "d_model"],
        kind: str = "standard",
        k: int | None = None,
        threshold: Float[Tensor, "d_sae"] | None = None,
        hook: str = "",
        about: dict[str, Any] | None = None,
    ) -> None:
        """Raises ValueError for an unknown kind, and for one without its ``k`` or ``threshold``."""
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"An autoencoder is of the kind {', '.join(KINDS[:2])} or {KINDS[2]}, not {kind!r}.")
        if kind == "topk" and (k is None or not 1 <= k <= len(b_enc)):
            raise ValueError(f"A topk autoencoder needs k, the number of features that stay active: from 1 to {len(b_enc)}, not {k}.")
        if kind == "jumprelu" and threshold is None:
            raise ValueError("A jumprelu autoencoder needs a threshold for each feature.")
        self.kind, self.k, self.hook, self.about = kind, k, hook, dict(about or {})
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (_frozen(part) for part in (W_enc, b_enc, W_dec, b_dec))
        self.threshold = None if threshold is None else _frozen(threshold)

    @property
    def d_model(self) -> int:
        """How wide the activations are."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """How many features there are."""
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """The features of activations: none is negative, most are 0."""
        if x.shape[-1] != self.d_model:
            raise ValueError(f"This autoencoder reads activations of width {self.d_model}, not {x.shape[-1]}: is it for another model?")
        before = (x - self.b_dec) @ self.W_enc + self.b_enc
        if self.kind == "topk":
            values, chosen = before.topk(self.k, dim=-1)
            return torch.zeros_like(before).scatter(-1, chosen, values.relu())
        return before.relu() if self.kind == "standard" else before.relu() * (before > self.threshold)

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_model"]:
        """The activations that features stand for."""
        return features @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations as the autoencoder writes them: decoded after encoding."""
        return self.decode(self.encode(x))

    def check_feature(self, feature: int) -> None:
        """Raises ValueError where there is no such feature."""
        if not 0 <= feature < self.d_sae:
            raise ValueError(f"There is no feature {feature}: this autoencoder has {self.d_sae}, numbered 0 to {self.d_sae - 1}.")

    def folded(self, scale: float = 1.0) -> "SparseAutoencoder":
        """The same autoencoder for activations before they were multiplied by ``scale``, with directions of length 1.

        What a feature adds to an activation stays the same: ``a_k`` grows by what ``W_dec[k]`` loses in length. (For topk this
        asks that all lengths are equal before, as they are after training: else other features might be among the k.)
        """
        lengths = (self.W_dec.norm(dim=1) / scale).clamp(min=1e-12)
        return SparseAutoencoder(
            self.W_enc * scale * lengths,
            self.b_enc * lengths,
            self.W_dec / scale / lengths[:, None],
            self.b_dec / scale,
            self.kind,
            self.k,
            None if self.threshold is None else self.threshold * lengths,
            self.hook,
            self.about,
        )


def layer_of(hook: str) -> int:
    """The layer in the name of a place; 0 where it names none."""
    number = hook.split(".")[1] if hook.startswith("blocks.") else ""
    return int(number) if number.isdigit() else 0


def _frozen(values: Tensor) -> Parameter:
    return Parameter(values.detach().float().contiguous(), requires_grad=False)


# ---------------------------------------------------------------------------------------------- activations to train on


@dataclass(frozen=True)
class Activations:
    """What passed a place on every token of some texts, position 0 left out, in the order of ``texts.mask.nonzero()``.

    ``places`` says where each token stands, as ``(row, pos)``; so ``labels[texts.mask]`` fits, for labels ``[row, pos]``.
    """

    values: Float[Tensor, "token d_model"]
    places: Int[Tensor, "token two"]

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.values)


@torch.no_grad()
def activations_of(model: TransformerBridge, texts: Texts, hook: str | Sequence[str], dtype: torch.dtype = torch.float32) -> Activations:
    """The activations at one place, such as ``resid_post(5)``, on all tokens of the texts, on the CPU.

    Of several places what passes stands side by side, in their order, from one run of the model.
    """
    hooks = [hook] if isinstance(hook, str) else list(hook)
    mask, values = texts.mask, torch.empty(0)
    number = torch.zeros(mask.shape, dtype=torch.long)
    number[mask] = torch.arange(int(mask.sum()))
    with progress(total=len(texts), desc="texts") as bar:
        for rows in texts.batches():
            width = int(texts.lengths[rows].max())
            passed = record(model, texts.tokens[rows, :width].to(model.cfg.device), *hooks)
            seen = torch.cat([passed[place].flatten(2).to(dtype).cpu() for place in hooks], -1)
            here = mask[rows, :width]
            values = values if values.ndim == 2 else torch.empty(int(mask.sum()), seen.shape[2], dtype=dtype)
            values[number[rows, :width][here]] = seen[here]
            bar.update(len(rows))
    return Activations(values, mask.nonzero())


def corpus_activations(
    model: TransformerBridge, hook: str, n_tokens: int, seed: int = CORPUS_SEED, documents_at_once: int = 500
) -> Iterator[Float[Tensor, "token d_model"]]:
    """Activations on ``n_tokens`` tokens of newly written documents of the course LM's corpus, some thousands at a time.

    The seed is one that neither the language model's training nor the held-out texts use.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens says how many activations to record; it must be 1 or more, not {n_tokens}.")
    written, left = documents(seed), n_tokens
    while left > 0:
        texts = as_texts(model, [document.text for document in islice(written, documents_at_once)])
        values = activations_of(model, texts, hook).values[:left]
        left -= len(values)
        yield values


# --------------------------------------------------------------------------------------------------------------- training


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
        lines = ["  step      loss     L0  explained    dead"]
        for at in torch.linspace(0, len(self.step) - 1, min(n, len(self.step))).round().long().tolist():
            numbers = f"{self.loss[at]:9.3f} {self.l0[at]:6.1f} {1 - self.unexplained[at]:10.3f} {self.dead_share[at]:7.1%}"
            lines.append(f"{self.step[at]:6} {numbers}")
        return "\n".join(lines)


Stream = Float[Tensor, "token d_model"] | Iterable[Float[Tensor, "_ d_model"]]


@torch.enable_grad()
def train_sae(activations: Stream, settings: Settings = Settings(), seed: int = 0, hook: str = "") -> tuple[SparseAutoencoder, History]:
    """Trains an autoencoder on activations ``[token, d_model]``, in float32 or float16, or on a stream of such tensors.

    A tensor is gone through in a new random order as often as ``settings.steps`` batches need; a stream is mixed in pools of 32
    batches and must be long enough. Adam, with a linear warm-up and decay. The same seed gives the same autoencoder. Raises
    ValueError where a stream is too short or there is nothing to learn.
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
    if step < settings.steps - 1:
        raise ValueError(f"The activations ran out after {step + 1} of {settings.steps} steps: give more of them, or take fewer steps.")
    columns = [torch.tensor(column) for column in zip(*log, strict=True)]
    return training.autoencoder(hook).folded(scale), History(columns[0], *(column.float() for column in columns[1:]))


def _batches(activations: Stream, size: int, rng: torch.Generator) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Mixed batches in float32: without end from a tensor, until it runs out from a stream."""
    if torch.is_tensor(activations):
        while len(activations):
            rows = torch.randperm(len(activations), generator=rng).split(size)
            yield from (activations[part].float() for part in rows if len(part) == size or len(rows) == 1)
    pool: list[Tensor] = []
    for part in () if torch.is_tensor(activations) else activations:
        pool.append(part)
        if sum(map(len, pool)) >= POOL_BATCHES * size:
            *full, rest = _mixed(pool, rng).split(size)
            yield from full
            pool = [rest]
    if pool:
        yield from (part for part in _mixed(pool, rng).split(size) if len(part) == size)


def _mixed(pool: Sequence[Float[Tensor, "_ d_model"]], rng: torch.Generator) -> Float[Tensor, "token d_model"]:
    everything = torch.cat([part.float() for part in pool])
    return everything[torch.randperm(len(everything), generator=rng)]


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
        self.settings, self.rng = settings, rng
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

    def autoencoder(self, hook: str) -> SparseAutoencoder:
        """The autoencoder as it stands, for scaled activations."""
        k = self.settings.k if self.settings.kind == "topk" else None
        return SparseAutoencoder(self.encoder.T, self.b_enc, self.W_dec, self.b_dec, self.settings.kind, k, hook=hook)


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


# ------------------------------------------------------------------------------------------------- toy data: known truth


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


@dataclass(frozen=True)
class Sweep:
    """Autoencoders trained with different penalties: active features, share of variance lost, and mean max cosine with the truth."""

    penalties: tuple[float, ...]
    l0: tuple[float, ...]
    unexplained: tuple[float, ...]
    mmcs: tuple[float, ...]

    def table(self) -> str:
        """One line for each penalty."""
        rows = zip(self.penalties, self.l0, self.unexplained, self.mmcs, strict=True)
        return "\n".join(["lambda     L0  unexplained  cosine", *(f"{a:6.3g} {b:6.2f} {c:12.3f} {d:7.3f}" for a, b, c, d in rows)])


def sweep(data: ToyData, penalties: Sequence[float], settings: Settings, seed: int = 0) -> Sweep:
    """Trains a standard autoencoder on toy data with each penalty (the lambda of its loss), and measures it against the truth."""
    if not len(penalties):
        raise ValueError("There is no penalty to try: give at least one.")
    rows, x, variance = [], data.x, (data.x - data.x.mean(0)).square().sum().item()
    for penalty in progress(list(penalties), desc="penalties"):
        sae, _ = train_sae(x, replace(settings, kind="standard", sparsity=float(penalty)), seed)
        features = sae.encode(x)
        lost = (x - sae.decode(features)).square().sum().item() / variance
        rows.append(((features > 0).sum(1).float().mean().item(), lost, mean_max_cosine(sae.W_dec, data.directions)))
    return Sweep(tuple(map(float, penalties)), *zip(*rows, strict=True))


# ------------------------------------------------------------------------------------------------ splicing in, and steering


def splice(sae: SparseAutoencoder, hook: str, pos: Index = AFTER_FIRST) -> Intervention:
    """Activations become what the autoencoder makes of them, its error lost; position 0 is left alone."""
    return Intervention(hook, lambda values, pick: sae(values.float()).to(values), pos=pos)


def clamp_feature(sae: SparseAutoencoder, hook: str, feature: int, value: float | Tensor, pos: Index = None) -> Intervention:
    """One feature is set to ``value``: ``x + (value - a_k) W_dec[k]``, so that the error and all other features stay.

    Templeton et al. 2024 (section on feature steering); ``value`` there is a multiple of the feature's highest activation. A
    tensor must fit the selection ``[batch, pos]``. Raises ValueError where there is no such feature.
    """
    sae.check_feature(feature)

    def change(values: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        old = sae.encode(values.float())[..., feature]
        return values + ((value - old)[..., None] * sae.W_dec[feature]).to(values)

    return Intervention(hook, change, pos=pos)


def ablate_feature(sae: SparseAutoencoder, hook: str, feature: int, pos: Index = None) -> Intervention:
    """One feature is taken away: ``x - a_k W_dec[k]``; where it is not active, nothing changes."""
    return clamp_feature(sae, hook, feature, 0.0, pos)


# ---------------------------------------------------------------------------------------------------------------- quality


@dataclass(frozen=True)
class Quality:
    """How good an autoencoder is on some texts; losses are mean cross-entropies of the next token, in nats.

    ``loss_recovered``: ``(zeroed - spliced) / (zeroed - clean)``, where zeroed means that the activation is set to 0. Dead is a
    feature that none of the ``n_tokens`` tokens makes active.
    """

    l0: float
    variance_explained: float
    dead_share: float
    loss: float
    loss_spliced: float
    loss_zeroed: float
    n_tokens: int

    @property
    def loss_recovered(self) -> float:
        """1: the model predicts as well as without the autoencoder; 0: as badly as without the activation."""
        return (self.loss_zeroed - self.loss_spliced) / (self.loss_zeroed - self.loss)

    def table(self) -> str:
        """One line for each number."""
        losses = f"{self.loss:.3f} clean, {self.loss_spliced:.3f} spliced, {self.loss_zeroed:.3f} zeroed"
        rows = {
            "active features (L0)": f"{self.l0:.1f}",
            "variance explained": f"{self.variance_explained:.3f}",
            "dead features": f"{self.dead_share:.1%} (never active on {self.n_tokens:,} tokens)",
            "loss in nats": losses,
            "loss recovered": f"{self.loss_recovered:.3f}",
        }
        return "\n".join(f"{name:<22}{value}" for name, value in rows.items())


@torch.no_grad()
def quality(model: TransformerBridge, sae: SparseAutoencoder, hook: str, texts: Texts) -> Quality:
    """Measures an autoencoder on texts that it was not trained on; position 0 is neither changed nor counted.

    Raises ValueError where no text has two tokens after position 0, since then nothing is predicted.
    """
    if texts.lengths.max() < 3:
        raise ValueError("These texts are too short to measure a loss: give some with two tokens or more after position 0.")
    measured = _Measured(sae)
    changes = {"clean": None, "spliced": Intervention(hook, measured.splice, pos=AFTER_FIRST), "zeroed": zero_ablate(hook, pos=AFTER_FIRST)}
    losses = dict.fromkeys(changes, 0.0)
    with progress(total=len(texts), desc="texts") as bar:
        for rows in texts.batches():
            width = int(texts.lengths[rows].max())
            tokens, mask = texts.tokens[rows, :width].to(model.cfg.device), texts.mask[rows, :width].to(model.cfg.device)
            measured.mask = mask[:, 1:]
            for name, change in changes.items():
                with intervene(model, *[change] if change else []):
                    losses[name] += _summed_loss(model(tokens), tokens, mask)
            bar.update(len(rows))
    n_predicted = int((texts.lengths - 2).clamp(min=0).sum())
    clean, spliced, zeroed = (losses[name] / n_predicted for name in changes)
    return Quality(*measured.numbers(), clean, spliced, zeroed, measured.n)


def _summed_loss(logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> float:
    """The cross-entropies of all next tokens together, as far as they are predicted from where ``mask`` is true."""
    here = mask[:, :-1] & mask[:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1][here].float(), tokens[:, 1:][here], reduction="sum").item()


class _Measured:
    """Splices an autoencoder in and adds up, meanwhile, what goes in and what is lost."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae, self.mask, self.n, self.active, self.lost, self.square = sae, None, 0, 0, 0.0, 0.0
        self.total, self.ever = torch.zeros(sae.d_model, dtype=torch.double), torch.zeros(sae.d_sae, dtype=torch.bool)

    def splice(self, values: Float[Tensor, "batch pos d_model"], pick: Any) -> Float[Tensor, "batch pos d_model"]:
        """The decoded activations; those of tokens that count are measured."""
        x = values.float()
        features = self.sae.encode(x)
        written, on = self.sae.decode(features), features[self.mask] > 0
        inside = x[self.mask].double()
        self.n += len(inside)
        self.active += int(on.sum())
        self.ever |= on.any(0).cpu()
        self.lost += (inside - written[self.mask]).square().sum().item()
        self.square += inside.square().sum().item()
        self.total += inside.sum(0).cpu()
        return written.to(values)

    def numbers(self) -> tuple[float, float, float]:
        """Active features a token, share of variance explained, share of features that were never active."""
        variance = self.square - self.total.square().sum().item() / self.n
        return self.active / self.n, 1 - self.lost / variance, 1 - self.ever.float().mean().item()
