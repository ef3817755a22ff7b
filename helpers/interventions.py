"""Interventions: change what passes a place of the model, look at what follows, and take the change away again.

A *place* is a hook point, named as in TransformerLens (``blocks.5.mlp.hook_post``); the functions at the top write such names.
An intervention says what happens there, and where exactly: at which positions of the text, to which units (entries of the last
axis: neurons, or dimensions of the residual stream), in which head. ``intervene`` puts any number of them into a model, in
order, and removes them at the end, whatever happens in between. All techniques of the course are built from these few.

    with intervene(model, zero_ablate(mlp_post(5), units=185)):
        logits = model(tokens)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.models import TransformerBridge

Index = int | Sequence[int] | slice | Int[Tensor, "..."] | None
AXES = ("row", "position", "head", "unit")
Pick = Callable[[Tensor], Tensor]  # the same selection, made in another tensor that is as wide as the activation


def mlp_post(layer: int) -> str:
    """The neurons of a block, after their activation function: ``[batch, pos, d_mlp]``."""
    return f"blocks.{layer}.mlp.hook_post"


def resid_pre(layer: int) -> str:
    """The residual stream before a block: ``[batch, pos, d_model]``."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post(layer: int) -> str:
    """The residual stream after a block: ``[batch, pos, d_model]``."""
    return f"blocks.{layer}.hook_resid_post"


def attn_out(layer: int) -> str:
    """What the attention of a block adds to the residual stream: ``[batch, pos, d_model]``."""
    return f"blocks.{layer}.hook_attn_out"


def mlp_out(layer: int) -> str:
    """What the MLP of a block adds to the residual stream: ``[batch, pos, d_model]``."""
    return f"blocks.{layer}.hook_mlp_out"


def head_out(layer: int) -> str:
    """The outputs of the heads of a block, before they are mixed: ``[batch, pos, head, d_head]``."""
    return f"blocks.{layer}.attn.hook_z"


def pattern(layer: int) -> str:
    """Where the heads of a block look: ``[batch, head, query pos, key pos]``."""
    return f"blocks.{layer}.attn.hook_pattern"


def head_q(layer: int) -> str:
    """What the heads of a block ask for: ``[batch, pos, head, d_head]``."""
    return f"blocks.{layer}.attn.hook_q"


def head_k(layer: int) -> str:
    """By what the tokens are found: ``[batch, pos, head, d_head]``, in some models one for several heads."""
    return f"blocks.{layer}.attn.hook_k"


def head_v(layer: int) -> str:
    """What is carried from a token that is looked at: ``[batch, pos, head, d_head]``, in some models one for several heads."""
    return f"blocks.{layer}.attn.hook_v"


def check_hook(model: TransformerBridge, hook: str) -> None:
    """Raises ValueError, with one sentence, where the model has no such hook point."""
    if hook in model.hook_dict:
        return
    layer = hook.split(".")[1] if hook.startswith("blocks.") else ""
    if not layer.isdigit() or int(layer) >= model.cfg.n_layers:
        last = model.cfg.n_layers - 1
        example = "blocks.0.mlp.hook_post"
        raise ValueError(f"There is no place {hook!r}: this model's layers are 0 to {last}, and its places are named like {example!r}.")
    near = [name.split(".", 2)[2] for name in model.hook_dict if name.startswith(f"blocks.{layer}.hook_")]
    raise ValueError(f"Layer {layer} of this model has no place {hook.split('.', 2)[2]!r}; it has {', '.join(near)} and others.")


@dataclass(frozen=True)
class Intervention:
    """One change at one place.

    ``pos``: positions of the text, ``None`` for all, or a tensor ``[batch]`` with one position for each row of the batch.
    ``units``: entries of the last axis, ``None`` for all, or a tensor ``[batch, k]`` with units of its own for each row.
    ``head``: heads, where the place has them; a tensor ``[batch, k]`` has heads of its own for each row. ``change`` gets the
    selected values, ``[batch, pos, (head,) unit]``.
    """

    hook: str
    change: Callable[[Tensor, Pick], Tensor]
    pos: Index = None
    units: Index = None
    head: Index = None

    def __call__(self, activation: Float[Tensor, "batch pos *rest"], hook: Any = None) -> Float[Tensor, "batch n *rest"]:
        """The activation with this change made in a copy of it; a change of everything gives whatever ``change`` returns."""
        if self.pos is None and self.units is None and self.head is None:
            return self.change(activation, lambda other: other.to(activation).expand_as(activation))
        where = self.where(activation.shape, activation.device)
        new = activation.clone()
        new[where] = self.change(activation[where], lambda other: other.to(activation).expand_as(activation)[where])
        return new

    def where(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
        """Index tensors, one for each axis, that together select ``[batch, pos, (head,) unit]``."""
        n_axes = len(shape)
        if self.head is not None and n_axes != 4:
            raise ValueError(f"{self.hook} has no heads to choose from; leave head out, or name a place such as 'blocks.0.attn.hook_z'.")
        wanted = [None, self.pos, self.head, self.units] if n_axes == 4 else [None, self.pos, self.units]
        names = [axis for axis in AXES if n_axes == 4 or axis != "head"]
        indices = []
        for axis, (size, index, name) in enumerate(zip(shape, wanted, names, strict=True)):
            view = [1] * n_axes
            view[axis] = -1
            if torch.is_tensor(index) and index.ndim == (1 if name == "position" else 2):  # each row has its own
                view[0] = shape[0]
            indices.append(numbers(index, size, self.hook, name).to(device).reshape(view))
        return tuple(indices)


def numbers(index: Index, size: int, hook: str, what: str) -> Int[Tensor, "..."]:
    """An index as a tensor of numbers from 0 to ``size`` - 1. Raises ValueError for what is out of range."""
    every = torch.arange(size)
    if index is None or isinstance(index, slice):
        return every if index is None else every[index]
    chosen = torch.as_tensor(index, dtype=torch.long)
    if chosen.numel() and not (-size <= chosen.min() and chosen.max() < size):
        worst = next(i for i in chosen.flatten().tolist() if not -size <= i < size)
        raise ValueError(f"There is no {what} {worst} at {hook}: it has {size}, numbered 0 to {size - 1}.")
    return chosen % size


def zero_ablate(hook: str, **where: Index) -> Intervention:
    """Zero ablation: the selected values become 0, which is itself a message if 0 is not their usual value."""
    return Intervention(hook, lambda values, pick: torch.zeros_like(values), **where)


def clamp(hook: str, value: float, **where: Index) -> Intervention:
    """The selected values become ``value``, whatever they were."""
    return Intervention(hook, lambda values, pick: torch.full_like(values, value), **where)


def mean_ablate(hook: str, average: Float[Tensor, "*width"], **where: Index) -> Intervention:
    """Mean ablation: the selected values become those of ``average``, e.g. ``[d_mlp]``."""
    return Intervention(hook, lambda values, pick: pick(average), **where)


def resample_ablate(hook: str, other: Float[Tensor, "batch pos *rest"], **where: Index) -> Intervention:
    """Resample ablation: the selected values become those that the same place had in another run."""
    return Intervention(hook, lambda values, pick: pick(other), **where)


def set_to(hook: str, values: Float[Tensor, "..."], **where: Index) -> Intervention:
    """The selected values become ``values``, which must fit the selection ``[batch, pos, (head,) unit]``."""
    return Intervention(hook, lambda old, pick: values.to(old).expand_as(old), **where)


def add(hook: str, vector: Float[Tensor, "..."], scale: float = 1.0, **where: Index) -> Intervention:
    """``scale`` times ``vector`` is added to the selected values."""
    return Intervention(hook, lambda values, pick: values + scale * vector.to(values), **where)


def project_out(hook: str, direction: Float[Tensor, "width"], **where: Index) -> Intervention:
    """The part of the selected values along ``direction`` is taken away: ``x - (x . d) d`` with ``d`` of length 1."""
    if not direction.norm() > 0:
        raise ValueError("A direction of length 0 points nowhere: was a mean subtracted from itself?")
    unit = direction / direction.norm()
    return Intervention(hook, lambda values, pick: values - (values @ unit.to(values))[..., None] * unit.to(values), **where)


def unembed_only_at(places: Int[Tensor, "batch n"]) -> Intervention:
    """Only these positions of each row are unembedded, and the logits are ``[batch, n, d_vocab]``."""

    def pick_places(values: Tensor, pick: Pick) -> Tensor:
        return values[torch.arange(len(values), device=values.device)[:, None], places.to(values.device)]

    return Intervention("unembed.hook_in", pick_places)


def watch(hook: str, keep: Callable[[Tensor], None]) -> Intervention:
    """Changes nothing: ``keep`` is called with what passes, gradients and all, as earlier interventions have left it."""

    def hand_on(values: Tensor, pick: Pick) -> Tensor:
        keep(values)
        return values

    return Intervention(hook, hand_on)


@contextmanager
def intervene(model: TransformerBridge, *interventions: Intervention) -> Iterator[TransformerBridge]:
    """Inside the block the model runs with these interventions, made in this order; afterwards it is as before."""
    for intervention in interventions:
        check_hook(model, intervention.hook)
    with model.hooks(fwd_hooks=[(intervention.hook, intervention) for intervention in interventions]):
        yield model


def record(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], *hooks: str) -> dict[str, Float[Tensor, "batch *rest"]]:
    """What passes the named places, and nothing else; the model runs no further than the last of them."""
    for hook in hooks:
        check_hook(model, hook)
    kept: dict[str, Tensor] = {}

    class Complete(Exception):
        """All places have been seen."""

    def keep(name: str, activation: Tensor, hook: Any) -> None:
        kept[name] = activation
        if len(kept) == len(set(hooks)):
            raise Complete

    with suppress(Complete), model.hooks(fwd_hooks=[(hook, partial(keep, hook)) for hook in hooks]):
        model(tokens)
    return kept
