"""Direct logit attribution: what each head and each MLP adds to the answer's logit by itself, on the direct way to the unembedding.

The last state of the stream is a sum: the embedding, what every head wrote, what every MLP wrote, and biases. With the scale of the
final norm held as it is, the logits are linear in that sum, so every term has a share of its own (Elhage et al. 2021; Wang et al. 2022,
arXiv 2211.00593, section 3). What a component does by way of later ones is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.interventions import attn_out, head_out, intervene, mlp_out, record, resid_pre, watch
from helpers.models import TransformerBridge
from helpers.running import check_plain_writes
from helpers.stats import mean_interval
from helpers.tables import table
from helpers.texts import TextsLike, as_texts


@dataclass(frozen=True)
class DirectEffects:
    """What each component adds to the logit difference of right and wrong answer, for each prompt; all of them add up to ``total``.

    ``readout``: whatever is written at the end of a prompt adds its product with this, the scale of the final norm held as it is.
    """

    effect: Float[Tensor, "component prompt"]
    names: tuple[str, ...]
    n_heads: int
    readout: Float[Tensor, "prompt d_model"]

    @property
    def total(self) -> Float[Tensor, "prompt"]:
        """The logit difference of each prompt: the sum over all components."""
        return self.effect.sum(0)

    @property
    def mean(self) -> Float[Tensor, "component"]:
        """The mean over the prompts."""
        return self.effect.mean(1)

    @property
    def of_heads(self) -> Float[Tensor, "layer head"]:
        """The mean effect of every head."""
        return self.mean[[at for at, name in enumerate(self.names) if "." in name]].reshape(-1, self.n_heads)

    def of(self, name: str) -> Float[Tensor, "prompt"]:
        """The effect of one component, such as ``a4.2`` or ``m5``, on each prompt. Raises ValueError for an unknown one."""
        if name not in self.names:
            raise ValueError(f"There is no component {name!r}: heads are named like a4.2, MLPs like m5.")
        return self.effect[self.names.index(name)]

    def top(self, n: int = 8) -> list[str]:
        """The ``n`` components with the largest mean effects, whatever their sign."""
        return [self.names[at] for at in self.mean.abs().argsort(descending=True, stable=True)[:n].tolist()]

    def table(self, n: int = 8, groups: Sequence[str] = ()) -> str:
        """One line for each of the ``n`` largest effects, with its 95 % interval, and its mean in each group of the prompts."""
        members = {one: torch.tensor([other == one for other in groups]) for one in sorted(set(groups))}
        rows = []
        for name in self.top(n):
            effect, interval = self.of(name), "  [{:+.2f}, {:+.2f}]".format(*mean_interval(self.of(name)))
            rows.append((name, effect.mean().item(), *(effect[of].mean().item() for of in members.values()), interval))
        return table({"component": "<9", "logits": "+7.2f", **dict.fromkeys(members, "+7.2f"), "  95 % interval": "<"}, rows)


def component_names(n_layers: int, n_heads: int) -> tuple[str, ...]:
    """The names of all writers to the stream in order: the embedding, then each layer's heads, its attention's bias, and its MLP."""
    blocks = [(*(f"a{layer}.{head}" for head in range(n_heads)), f"bias {layer}", f"m{layer}") for layer in range(n_layers)]
    return ("embed", *(name for block in blocks for name in block))


@torch.no_grad()
def components(model: TransformerBridge, prompts: TextsLike) -> Float[Tensor, "component prompt d_model"]:
    """What every component of ``component_names`` writes to the stream at the last token of each prompt; on the CPU.

    Raises ValueError for models that normalise once more what their attention writes (Gemma 2).
    """
    check_plain_writes(model, "no head has an output of its own to attribute to")
    layers, texts = range(model.cfg.n_layers), as_texts(model, prompts)
    places = [resid_pre(0), *(place(layer) for layer in layers for place in (head_out, attn_out, mlp_out))]
    seen = record(model, texts.tokens.to(model.cfg.device), *places)
    rows, ends = torch.arange(len(texts)), texts.lengths - 1
    seen = {name: value[rows, ends].float().cpu() for name, value in seen.items()}
    parts = [seen[resid_pre(0)][None]]
    for layer in layers:
        written = torch.einsum("phd,hdm->hpm", seen[head_out(layer)], model.blocks[layer].attn.W_O.float().cpu())
        parts += [written, (seen[attn_out(layer)] - written.sum(0))[None], seen[mlp_out(layer)][None]]
    return torch.cat(parts)


@torch.no_grad()
def direct_effects(
    model: TransformerBridge,
    prompts: TextsLike,
    right: Int[Tensor, "prompt"],
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt several"],
) -> DirectEffects:
    """What each component adds to the logit of ``right`` minus that of ``wrong`` (or minus the mean of several wrong ones).

    The effects of one prompt add up to its logit difference. Raises ValueError for models whose heads have no output of their own.
    """
    parts = components(model, prompts)
    directions, biases = (_of_tokens(rows, right) - _of_tokens(rows, wrong) for rows in (model.W_U.T, model.b_U))
    linear, _, bias = _linear_norm(model, torch.eye(model.cfg.d_model))
    _, scale, _ = _linear_norm(model, parts.sum(0))
    readout = directions @ linear.T / scale
    constant = (bias * directions).sum(-1) + biases
    names = (*component_names(model.cfg.n_layers, model.cfg.n_heads), "constant")
    return DirectEffects(torch.cat([(parts * readout).sum(-1), constant[None]]), names, model.cfg.n_heads, readout)


def _of_tokens(rows: Float[Tensor, "d_vocab *width"], tokens: Int[Tensor, "prompt *several"]) -> Float[Tensor, "prompt *width"]:
    """The rows of some tokens; of several for each prompt their mean."""
    found = rows.detach().float().cpu()[tokens]
    return found.mean(1) if tokens.ndim == 2 else found


def _linear_norm(
    model: TransformerBridge, states: Float[Tensor, "state d_model"]
) -> tuple[Float[Tensor, "state d_model"], Float[Tensor, "state 1"], Float[Tensor, "1 d_model"]]:
    """The final norm without its division and bias, which is linear; the scale by which it would divide; and its bias."""
    scales: list[Tensor] = []
    with intervene(model, watch("ln_final.hook_scale", scales.append)):
        normed = model.ln_final(states[:, None].to(model.cfg.device, model.cfg.dtype))[:, 0].float().cpu()
    bias = model.ln_final(torch.zeros_like(states[:1, None]).to(model.cfg.device, model.cfg.dtype))[:, 0].float().cpu()
    scale = scales[0].reshape(len(states), 1).float().cpu()
    return (normed - bias) * scale, scale, bias
