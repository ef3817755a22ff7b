"""Directions of the residual stream, which the lecture calls function vectors: found as a difference of means, added, ablated.

Arditi et al. 2024 (arXiv 2406.11717) found with them how chat models refuse; Rimsky et al. 2024 (arXiv 2312.06681) steer with them.
The stream is looked at *before* each block, as in the first paper: layer ``l`` is ``resid_pre(l)``. Positions are counted from the
end of the prompt: -1 is its last token.

    found = difference_in_means(model, harmful, harmless, positions=2)
    with intervene(model, *ablate_direction(model, found.vector(layer=5))):
        print(generate(model, harmful[:3]))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.interventions import Index, Intervention, add, attn_out, mlp_out, project_out, resid_pre
from helpers.metrics import Metric
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import check_plain_writes, last_states, logits_at_end, score_prompts
from helpers.tables import table
from helpers.texts import TextsLike, as_texts

KL_LIMIT = 0.1  # nats: what a projection may change on harmless prompts (Arditi et al., section 2.3 and their code)
DEPTH_LIMIT = 0.8  # of the layers: behind them a direction is near the words of the answer itself (same place)


@dataclass(frozen=True)
class Directions:
    """Differences of two means of the stream, for every layer and for each of the last positions."""

    positive: Float[Tensor, "layer pos d_model"]
    negative: Float[Tensor, "layer pos d_model"]

    @property
    def vectors(self) -> Float[Tensor, "layer pos d_model"]:
        """Mean of the positive prompts minus mean of the negative ones."""
        return self.positive - self.negative

    def vector(self, layer: int, pos: int = -1) -> Float[Tensor, "d_model"]:
        """The difference at one layer and position. Raises ValueError where there is none."""
        layers, positions, _ = self.vectors.shape
        if not 0 <= layer < layers or not -positions <= pos < 0:
            raise ValueError(f"There are directions for layers 0 to {layers - 1} and positions {-positions} to -1, not ({layer}, {pos}).")
        return self.vectors[layer, pos]

    def cosines(self, pos: int = -1) -> Float[Tensor, "layer layer"]:
        """How alike the directions of the layers are: the cosine between each two of them."""
        units = torch.nn.functional.normalize(self.vectors[:, pos], dim=-1)
        return units @ units.T


def difference_in_means(model: TransformerBridge, positive: TextsLike, negative: TextsLike, positions: int = 1) -> Directions:
    """The directions from the negative prompts to the positive ones (Arditi et al., section 2.3; means in float64)."""
    return Directions(*(last_states(model, prompts, positions).double().mean(1).float() for prompts in (positive, negative)))


@dataclass(frozen=True)
class Plane:
    """Points of a space in the two directions in which they spread most (principal components), and the share of variance of each."""

    points: Float[Tensor, "point 2"]
    explained: tuple[float, float]


def principal_plane(states: Float[Tensor, "point d_model"]) -> Plane:
    """The two principal components of some states."""
    centred = states.float() - states.float().mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    share = sizes.square() / sizes.square().sum()
    return Plane(centred @ axes[:2].T, (share[0].item(), share[1].item()))


def add_at(layer: int, vector: Float[Tensor, "d_model"], scale: float = 1.0, pos: Index = None) -> Intervention:
    """Sufficiency: ``x + scale * vector`` before one block, at all positions or at some (Arditi et al., equation 3)."""
    return add(resid_pre(layer), vector, scale, pos=pos)


def ablate_direction(model: TransformerBridge, direction: Float[Tensor, "d_model"]) -> list[Intervention]:
    """Necessity: no block reads the direction and none writes it (Arditi et al., equation 4): ``x - (x . d) d`` in every layer."""
    places = [place(layer) for layer in range(model.cfg.n_layers) for place in (resid_pre, attn_out, mlp_out)]
    return [project_out(place, direction) for place in places]


@contextmanager
def orthogonalised(model: TransformerBridge, direction: Float[Tensor, "d_model"]) -> Iterator[TransformerBridge]:
    """Inside the block no weight writes the direction: ``W - (W d) d`` for embeddings, attention and MLP outputs, and their biases.

    The same as ``ablate_direction``, but in the weights (Arditi et al., section 4.1); afterwards the weights are as before.
    Raises ValueError where embedding and unembedding are one matrix (load the model with ``raw=False``), and for models that
    normalise once more what their blocks write (Gemma 2).
    """
    if not direction.norm() > 0:
        raise ValueError("A direction of length 0 points nowhere: was a mean subtracted from itself?")
    unit = (direction / direction.norm()).to(model.W_E)
    written = [(weights, weights.detach().clone(), axis) for weights, axis in _writers(model)]
    try:
        with torch.no_grad():
            for weights, old, axis in written:
                weights.copy_(old - unit[:, None] * (unit @ old) if axis == 0 else old - (old @ unit)[..., None] * unit)
        yield model
    finally:
        with torch.no_grad():
            for weights, old, _ in written:
                weights.copy_(old)


def _writers(model: TransformerBridge) -> Iterator[tuple[Tensor, int]]:
    """The weights and biases that write to the residual stream, each with its axis d_model: its first (0) or its last one (-1)."""
    if model.W_U.data_ptr() == model.W_E.data_ptr() or torch.equal(model.W_U.T, model.W_E):
        raise ValueError("Embedding and unembedding are one matrix in this model: load it with raw=False, which makes them two.")
    check_plain_writes(model, "its weights cannot hold a direction back: use ablate_direction")
    modules = [model.embed, *([model.pos_embed] if hasattr(model, "pos_embed") else [])]
    for block in model.blocks:
        modules += [block.attn.o, block.mlp.out]
    for module in modules:
        inner = module.original_component
        yield inner.weight, 0 if isinstance(inner, torch.nn.Linear) else -1  # GPT-2 and embeddings have the output last
        if getattr(inner, "bias", None) is not None:
            yield inner.bias, -1


@dataclass(frozen=True)
class Candidate:
    """A direction that might be chosen, and how it does on the validation prompts: mean scores in log-odds, divergence in nats."""

    layer: int
    pos: int
    projected: float  # refusal score on harmful prompts with the direction projected out everywhere: low is good
    added: float  # refusal score on harmless prompts with the direction added at its layer: above 0 is needed
    kl: float  # how far the projection changes what follows harmless prompts: below a limit is needed
    allowed: bool


@dataclass(frozen=True)
class Selection:
    """All candidates, in the order of their layers and positions."""

    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The allowed candidate whose projection leaves the least refusal. Raises ValueError where none is allowed."""
        allowed = [candidate for candidate in self.candidates if candidate.allowed]
        if not allowed:
            raise ValueError("No direction passes: none makes harmless prompts refused without changing much else. Are the two sets apart?")
        return min(allowed, key=lambda candidate: candidate.projected)

    def table(self, n: int = 6) -> str:
        """The ``n`` candidates that leave the least refusal, allowed or not."""
        best = sorted(self.candidates, key=lambda c: (not c.allowed, c.projected))[:n]
        columns = {"layer": "5", "pos": "4", "projected": "11.2f", "added": "9.2f", "KL (nats)": "11.4f", "": "<13"}
        return table(columns, [(c.layer, c.pos, c.projected, c.added, c.kl, "" if c.allowed else "  not allowed") for c in best])


@torch.no_grad()
def select_direction(
    model: TransformerBridge, found: Directions, positive: TextsLike, negative: TextsLike, metric: Metric, kl_limit: float = KL_LIMIT
) -> Selection:
    """Tries every layer and position by the rule of Arditi et al. (section 2.3) on validation prompts, harmful and harmless.

    Chosen is what, projected out, leaves the lowest score on the positive prompts, among those that, added, bring the negative
    ones above 0, change little (KL below the limit) when projected out, and lie in the first 80 % of the layers.
    """
    positive, negative = as_texts(model, positive), as_texts(model, negative)
    clean = logits_at_end(model, negative).log_softmax(-1)
    candidates = []
    n_layers, positions = found.vectors.shape[0] - 1, found.vectors.shape[1]
    for layer, pos in progress([(layer, pos) for layer in range(n_layers) for pos in range(-positions, 0)], desc="candidates"):
        vector = found.vector(layer, pos)
        if not vector.norm() > 0:  # at a position that the two sets share, such as the first token
            continue
        ablated = ablate_direction(model, vector)
        projected = score_prompts(model, positive, metric, *ablated).mean().item()
        added = score_prompts(model, negative, metric, add_at(layer, vector)).mean().item()
        logp = logits_at_end(model, negative, *ablated).log_softmax(-1)
        kl = (clean.exp() * (clean - logp)).sum(-1).mean().item()
        candidates.append(Candidate(layer, pos, projected, added, kl, added > 0 and kl < kl_limit and layer < int(DEPTH_LIMIT * n_layers)))
    return Selection(tuple(candidates))


@dataclass(frozen=True)
class Steering:
    """A metric after each prompt, for each multiple of a vector that was added."""

    layer: int
    scales: tuple[float, ...]
    values: Float[Tensor, "scale prompt"]

    @property
    def mean(self) -> Float[Tensor, "scale"]:
        """The mean over the prompts."""
        return self.values.mean(1)

    @property
    def slopes(self) -> Float[Tensor, "prompt"]:
        """How much each prompt's metric rises with one more multiple: the slope of the line through its points (steerability)."""
        x = torch.tensor(self.scales) - torch.tensor(self.scales).mean()
        return (x[:, None] * self.values).sum(0) / x.square().sum()


def steer(
    model: TransformerBridge,
    prompts: TextsLike,
    metric: Metric,
    layer: int,
    vector: Float[Tensor, "d_model"],
    scales: Sequence[float],
    positions: int | None = None,
) -> Steering:
    """Adds multiples of a vector before one block and reads the metric of each prompt.

    It is added at all positions, or at the last few: a number of ``positions``.
    """
    places = range(-positions, 0) if positions else [None]
    values = [score_prompts(model, prompts, metric, *(add_at(layer, vector, scale, pos) for pos in places)) for scale in scales]
    return Steering(layer, tuple(map(float, scales)), torch.stack(values))
