"""The course LM's architecture and initial weights: a plain GPT-2 with ReLU."""

from math import sqrt
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

# Large embeddings, so that the residual stream grows smoothly instead of exploding in block 0.
EMBEDDING_STD = 0.25
POSITION_STD = 0.02


HEAD_WIDTH = 32
DROPOUT = 0.1  # of attention patterns and of what attention and MLPs write: so that heads back each other up, and nothing is oversure


def build_model(
    vocab_size: int, bos: int, pad: int, layers: int = 12, width: int = 256, context: int = 96, dropout: float = DROPOUT
) -> GPT2LMHeadModel:
    """A fresh model. The final norm's gain is small: the first logits are of order one in spite of large embeddings."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD_WIDTH,
        activation_function="relu",
        resid_pdrop=dropout,
        embd_pdrop=0.0,
        attn_pdrop=dropout,
        bos_token_id=bos,
        eos_token_id=bos,
        pad_token_id=pad,
    )
    config._attn_implementation = "eager"  # on CPU faster than the fused kernel for rows this short
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(0, EMBEDDING_STD)
        model.transformer.wpe.weight.normal_(0, POSITION_STD)
        model.transformer.ln_f.weight.fill_(1 / (EMBEDDING_STD * sqrt(width)))
    return model


def load_weights(model: GPT2LMHeadModel, path: Path) -> None:
    """Puts the 16-bit weights of a milestone into ``model``; the tied output matrix comes with the input's."""
    model.load_state_dict({name: weights.float() for name, weights in load_file(path).items()}, strict=False)


@torch.no_grad()
def revive(model: GPT2LMHeadModel, rows: Int[Tensor, "row context"]) -> int:
    """Gives neurons that are silent on all of these rows new incoming weights, which write nothing at first; returns how many.

    A ReLU that is never above 0 has no gradient and stays silent for ever (Sokar et al. 2023, "The dormant neuron phenomenon").
    """
    silent: dict[int, Tensor] = {}

    def look(at: int, values: Float[Tensor, "row pos neuron"]) -> None:
        silent[at] = silent.get(at, True) & (values <= 0).all(0).all(0)

    blocks = model.transformer.h
    hooks = [block.mlp.act.register_forward_hook(lambda _, __, out, at=at: look(at, out)) for at, block in enumerate(blocks)]
    for some in rows.split(32):
        model.transformer(some)
    for hook in hooks:
        hook.remove()
    for at, block in enumerate(blocks):
        reads, dead = block.mlp.c_fc, silent[at]
        reads.weight[:, dead] = reads.weight[:, ~dead].std() * torch.randn_like(reads.weight[:, dead])
        reads.bias[dead] = 0
        block.mlp.c_proj.weight[dead] = 0
    return int(sum(each.sum() for each in silent.values()))


def parameter_groups(model: GPT2LMHeadModel) -> dict[str, list[nn.Parameter]]:
    """The parameters by how they are trained: readers and writers of the residual stream, embeddings, the rest."""
    groups: dict[str, list[nn.Parameter]] = {"readers": [], "writers": [], "tokens": [], "small": []}
    for name, parameter in model.named_parameters():
        matrix = ".h." in name and parameter.ndim == 2
        group = ("writers" if "c_proj" in name else "readers") if matrix else "tokens" if name.endswith("wte.weight") else "small"
        groups[group].append(parameter)
    return groups
