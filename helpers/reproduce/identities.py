"""What must hold in every model, whatever it has learned: three identities, and how far a model is from each.

They are measured before the experiments, in their number type and on their device, to find a broken kernel or an unknown layout.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from helpers.cluster.attribution import direct_effects
from helpers.interventions import intervene, record, resample_ablate, resid_post, resid_pre
from helpers.models import TransformerBridge
from helpers.one_layer.directions import ablate_direction
from helpers.prediction import tokenize
from helpers.texts import as_texts

PROMPTS = ("The capital of Poland is", "When John and Mary went to the shops, John gave the bag to")
LIMITS = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # as shares, by the type of the numbers
MIXED = "a norm of this model takes no wider numbers than its own; leave --dtype out for float32"


def mixed_types(problem: Exception) -> bool:
    """Is this PyTorch's complaint that float32 meets a narrower type?"""
    return any(words in str(problem) for words in ("mixed dtype", "scalar type", "same dtype"))


@dataclass(frozen=True)
class Identity:
    """How far off the model is, as a share of the size of what was compared, or why it cannot be asked of this model."""

    name: str
    error: float | None
    limit: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Is the error within the limit, or is the identity none of this model's?"""
        return self.error is None or self.error <= self.limit

    def row(self) -> str:
        """The identity as one line."""
        if self.error is None:
            return f"       {self.name}: not for this model: {self.reason}"
        return f"{'[OK]  ' if self.holds else '[FAIL]'} {self.name}: off by {self.error:.0e} (at most {self.limit:.0e})"


@torch.no_grad()
def identities(model: TransformerBridge) -> list[Identity]:
    """Projection takes a direction away, a run patched into itself changes nothing, and contributions add up to the logits."""
    limit = LIMITS.get(model.cfg.dtype, 1e-3)
    error = None
    reason = ""
    try:
        error = _sum(model)
    except ValueError as problem:  # heads without an output of their own
        reason = str(problem).rstrip(".")
    except RuntimeError as problem:
        if not mixed_types(problem):
            raise
        reason = MIXED
    return [
        Identity("a direction projected out is gone from the stream", _projection(model), limit),
        Identity("a run patched into itself stays the same", _patched(model), limit),
        Identity("contributions of heads and MLPs add up to the logits", error, limit, reason),
    ]


def _projection(model: TransformerBridge) -> float:
    """The largest part along a random direction that any block reads, as a share of the stream's length there."""
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    tokens = tokenize(model, PROMPTS[0])[None].to(model.cfg.device)
    with intervene(model, *ablate_direction(model, direction)):
        seen = record(model, tokens, *map(resid_pre, range(model.cfg.n_layers))).values()
    return max(cosine_similarity(state.float().cpu(), direction, dim=-1).abs().max().item() for state in seen)


def _patched(model: TransformerBridge) -> float:
    """The largest change of any logit when each layer's stream is replaced by itself, as a share of the logits' spread."""
    tokens = tokenize(model, PROMPTS[0])[None].to(model.cfg.device)
    clean = model(tokens).float()
    seen = record(model, tokens, *map(resid_post, range(model.cfg.n_layers)))
    with intervene(model, *(resample_ablate(place, state) for place, state in seen.items())):
        again = model(tokens).float()
    return ((again - clean).abs().max() / clean.std()).item()


def _sum(model: TransformerBridge) -> float:
    """The gap between a logit difference and the sum of all contributions, as a share of the logits' spread.

    Raises ValueError where heads have no output of their own.
    """
    texts = as_texts(model, [PROMPTS[1]])
    logits = model(texts.tokens.to(model.cfg.device))[0, -1].float().cpu()
    right, wrong = logits.topk(2).indices.split(1)
    effects = direct_effects(model, texts, right, wrong)
    return ((effects.total - (logits[right] - logits[wrong])).abs().max() / logits.std()).item()
