"""Sparse autoencoders: activations as sums of few directions out of many, found without anybody saying what to look for.

An autoencoder (SAE) writes an activation ``x`` as ``b_dec + sum_k a_k W_dec[k]``, where few of the *features* ``a_k >= 0`` are
active at once, each along a *direction* ``W_dec[k]`` of its own; there are more directions than dimensions. Two kinds:

    standard   a = ReLU((x - b_dec) W_enc + b_enc)  (Bricken et al. 2023; Templeton et al. 2024, "Scaling Monosemanticity")
    topk       the same, but only the k largest features stay, as far as they are positive (Gao et al. 2024, arXiv 2406.04093)

All directions of a trained autoencoder have length 1, so that ``a_k`` says how much of the activation goes along ``W_dec[k]``.

    sae, history = train_sae(activations_of(model, texts, hook), Settings("topk", d_sae=1024, k=16))
    print(quality(model, sae, hook, held_out).table())

They are trained in ``helpers.one_layer.sae_training`` and kept in files by ``helpers.one_layer.sae_files``; what their features are
about is in ``helpers.one_layer.features``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import cross_entropy

from helpers.course_lm.corpus.mixture import documents
from helpers.inputs import check_number, chosen
from helpers.interventions import Index, Intervention, record, zero_ablate
from helpers.metrics import AFTER_FIRST
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import batched_logits
from helpers.texts import Texts, as_texts

KINDS = ("standard", "topk")
STATES_AT_ONCE = 1024  # states whose features, with their zeros, are held at a time
CORPUS_SEED = 20_300  # documents to train on: neither those of the language model's training nor the held-out ones (20_261)


class SparseAutoencoder(Module):
    """A trained autoencoder that reads activations as the model has them; see the top of this file for its two kinds.

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
        hook: str = "",
        about: dict[str, Any] | None = None,
    ) -> None:
        """Raises ValueError for an unknown kind, and for a topk one without its ``k``."""
        super().__init__()
        chosen(KINDS, kind, "kind of autoencoder")
        if kind == "topk" and (k is None or not 1 <= k <= len(b_enc)):
            raise ValueError(f"A topk autoencoder needs k, the number of features that stay active: from 1 to {len(b_enc)}, not {k}.")
        self.kind = kind
        self.k = k
        self.hook = hook
        self.about = dict(about or {})
        self.W_enc = _frozen(W_enc)
        self.b_enc = _frozen(b_enc)
        self.W_dec = _frozen(W_dec)
        self.b_dec = _frozen(b_dec)

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
        return before.relu()

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
            self.hook,
            self.about,
        )


def layer_of(hook: str) -> int:
    """The layer in the name of a place; 0 where it names none."""
    number = hook.split(".")[1] if hook.startswith("blocks.") else ""
    return int(number) if number.isdigit() else 0


def _frozen(values: Tensor) -> Parameter:
    return Parameter(values.detach().float().contiguous(), requires_grad=False)


@torch.no_grad()
def activations_of(
    model: TransformerBridge, texts: Texts, hook: str | Sequence[str], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "token width"]:
    """The activations at one hook, such as ``resid_post(5)``, on all tokens of the texts but position 0, on the CPU. No logits are made.

    Tokens are in the order of ``texts.mask.nonzero()``, so that ``labels[texts.mask]`` fits, for labels ``[row, pos]``. The activations
    of several hooks stand side by side, in their order, from one run of the model.
    """
    hooks = [hook] if isinstance(hook, str) else list(hook)
    number = (texts.mask.flatten().cumsum(0) - 1).reshape(texts.mask.shape)  # [row, pos]
    values: Tensor | None = None
    for rows in progress(list(texts.batches()), desc="texts"):
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), *hooks)
        found = torch.cat([seen[place][part.mask.to(model.cfg.device)].flatten(1).to(dtype).cpu() for place in hooks], -1)
        values = found.new_empty(texts.n_tokens, found.shape[1]) if values is None else values
        values[number[rows, : part.tokens.shape[1]][part.mask]] = found
    return values


def corpus_activations(
    model: TransformerBridge, hook: str, n_tokens: int, seed: int = CORPUS_SEED, documents_at_once: int = 500
) -> Iterator[Float[Tensor, "token d_model"]]:
    """Activations on ``n_tokens`` tokens of newly written documents of the course LM's corpus, some thousands at a time.

    The seed is one that neither the language model's training nor the held-out texts use.
    """
    check_number("n_tokens says how many activations to record", n_tokens)
    written, left = documents(seed), n_tokens
    while left > 0:
        texts = as_texts(model, [document.text for document in islice(written, documents_at_once)])
        values = activations_of(model, texts, hook)[:left]
        left -= len(values)
        yield values


def clamp_feature(
    sae: SparseAutoencoder,
    hook: str,
    feature: int,
    value: float | Tensor,
    pos: Index = None,
    along: int | Int[Tensor, "batch"] | None = None,
) -> Intervention:
    """One feature is set to ``value``: ``x + (value - a_k) W_dec[k]``, so that the error and all other features stay.

    Templeton et al. 2024 (section on feature steering); ``value`` there is a multiple of the feature's highest activation. A
    tensor must fit the selection ``[batch, pos]``. ``along``: the same push, just as long, goes along another feature's direction, or
    along one of its own in each row of the batch: the control. Raises ValueError where there is no such feature.
    """
    sae.check_feature(feature)
    towards = sae.W_dec[feature if along is None else along]

    def change(values: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        push = (value - sae.encode(values.float())[..., feature])[..., None]
        return values + (push * (towards if towards.ndim == 1 else towards[:, None])).to(values)

    return Intervention(hook, change, pos=pos)


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

    Raises ValueError if no text has two tokens after position 0, since then nothing is predicted.
    """
    if texts.lengths.max() < 3:
        raise ValueError("These texts are too short to measure a loss: give some with two tokens or more after position 0.")
    x = activations_of(model, texts, hook)
    active = torch.zeros(sae.d_sae)  # on how many tokens
    lost = 0.0
    for part in x.split(STATES_AT_ONCE):
        features = sae.encode(part.to(sae.W_enc))
        active += (features != 0).sum(0).cpu()
        lost += (part.double() - sae.decode(features).cpu()).square().sum().item()
    variance = (x.double() - x.double().mean(0)).square().sum().item()
    splice = Intervention(hook, lambda values, pick: sae(values.float()).to(values), pos=AFTER_FIRST)
    clean, spliced, zeroed = (_loss(model, texts, *changes) for changes in ([], [splice], [zero_ablate(hook, pos=AFTER_FIRST)]))
    dead = (active == 0).float().mean().item()
    return Quality(active.sum().item() / len(x), 1 - lost / variance, dead, clean, spliced, zeroed, len(x))


def _loss(model: TransformerBridge, texts: Texts, *changes: Intervention) -> float:
    """The mean cross-entropy of the next token, as far as it is predicted from behind position 0."""
    nats, count = 0.0, 0
    for _, part, logits in batched_logits(model, texts, *changes):
        predicted = (part.mask[:, :-1] & part.mask[:, 1:]).to(logits.device)
        right = part.tokens[:, 1:].to(logits.device)[predicted]
        nats += cross_entropy(logits[:, :-1][predicted].float(), right, reduction="sum").item()
        count += len(right)
    return nats / count
