"""The tuned lens: an affine map for every layer, trained so that the lens says what the model will say.

Belrose et al. 2023 (arXiv 2303.08112, section 3). ``make lens`` trains the one of the course LM.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import check_number
from helpers.interventions import record
from helpers.models import COURSE_LM, DATA, ModelNotAvailable, TransformerBridge
from helpers.progress import progress
from helpers.running import check_layers, layer_hook, lens_logits
from helpers.texts import Texts, TextsLike, as_texts, held_out_texts

FOLDER = DATA / "lens"
WEIGHTS = "tuned_lens.safetensors"
CONFIG = "cfg.json"
TRAINING_SEED = 20_262  # evaluation uses helpers.texts.HELD_OUT_SEED, the report card 20_260, the course LM small seeds


@dataclass(frozen=True)
class TunedLens:
    """For each layer an affine map into the basis of the last one (Belrose et al. 2023, arXiv 2303.08112, section 3).

    The lens reads ``weights x + bias`` in place of ``x``: ``softmax(W_U LN_f(A x + b))``. Rows are the layers from -1 ("in") on; the last
    one is the model itself, unchanged. It fits the model with folded weights (``load_model`` without ``raw``).
    """

    weights: Float[Tensor, "layer d_model d_model"]
    biases: Float[Tensor, "layer d_model"]

    @staticmethod
    def identity(n_layers: int, d_model: int) -> "TunedLens":
        """Maps that change nothing: with them the tuned lens is the logit lens."""
        return TunedLens(torch.eye(d_model).repeat(n_layers + 1, 1, 1), torch.zeros(n_layers + 1, d_model))

    def mapped(
        self, model: TransformerBridge, layers: Sequence[int], states: Float[Tensor, "layer state d_model"]
    ) -> Float[Tensor, "layer state d_model"]:
        """States of some layers in the basis of the last one. Raises ValueError for a model of another shape, and for an unknown layer."""
        wanted = (model.cfg.n_layers + 1, model.cfg.d_model)
        if self.biases.shape != wanted:
            shape, own = (f"{rows - 1} layers of width {width}" for rows, width in (self.biases.shape, wanted))
            raise ValueError(f"This tuned lens is for a model of {shape}, and this one has {own}: train a lens for it.")
        rows = [layer + 1 for layer in check_layers(model, layers)]
        return _mapped(states, self.weights[rows].to(states), self.biases[rows].to(states))


def _mapped(
    states: Float[Tensor, "layer state d_model"], weights: Float[Tensor, "layer d_model d_model"], biases: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "layer state d_model"]:
    return states @ weights.mT + biases[:, None]


def training_texts(model: TransformerBridge, n: int = 6000) -> Texts:
    """Documents for training a lens: of another seed than those for evaluation, and without the few that stand among these by chance."""
    texts, others = held_out_texts(model, n, TRAINING_SEED), held_out_texts(model)
    taken = {_ids(others, row) for row in range(len(others))}
    return texts.take([row for row in range(len(texts)) if _ids(texts, row) not in taken])


def _ids(texts: Texts, row: int) -> tuple[int, ...]:
    return tuple(texts.tokens[row, : int(texts.lengths[row])].tolist())


def sample_states(model: TransformerBridge, texts: TextsLike, each: int = 4, seed: int = 0) -> Float[Tensor, "layer state d_model"]:
    """The states of all layers at up to ``each`` random positions of each text, in random order; position 0 never.

    Raises ValueError unless ``each`` is 1 or more, and where no text has a second token.
    """
    check_number("each says how many positions of a text to take", each)
    rng, kept = torch.Generator().manual_seed(seed), []
    for _, part, states in layer_states(model, as_texts(model, texts), check_layers(model, None)):
        drawn = torch.rand(part.mask.shape, generator=rng).masked_fill(~part.mask, 2.0).argsort(1).argsort(1)
        chosen = (drawn < each)[part.mask]
        kept.append(states[:, chosen.to(states.device)].float())
    if not sum(states.shape[1] for states in kept):
        raise ValueError("The texts have no position but the first: give longer ones to train on.")
    found = torch.cat(kept, 1)
    return found[:, torch.randperm(found.shape[1], generator=rng).to(found.device)]


def train_tuned_lens(
    model: TransformerBridge, texts: TextsLike, steps: int = 400, batch: int = 64, learning_rate: float = 5e-3, each: int = 4, seed: int = 0
) -> TunedLens:
    """Trains all layers' maps at once from the identity on, so that the lens says what the model says at the end.

    Minimised is KL(model || lens) (Belrose et al., section 3) with Adam, whose steps shrink to 0. Nothing of the model changes.
    Raises ValueError unless ``steps`` and ``batch`` are 1 or more.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be 1 or more, not {steps} and {batch}.")
    states = sample_states(model, texts, each, seed)
    start, rng = TunedLens.identity(model.cfg.n_layers, model.cfg.d_model), torch.Generator().manual_seed(seed)
    maps = [tensor[:-1].clone().to(states).requires_grad_() for tensor in (start.weights, start.biases)]
    adam = torch.optim.Adam(maps, learning_rate)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
    for _ in progress(range(steps), desc="training the lens"):
        some = states[:, torch.randint(states.shape[1], (batch,), generator=rng).to(states.device)]
        for tensor, gradient in zip(maps, _gradients(model, some, *maps), strict=True):
            tensor.grad = gradient
        adam.step()
        decay.step()
    trained = [torch.cat([tensor.detach().cpu(), fixed[-1:]]) for tensor, fixed in zip(maps, (start.weights, start.biases), strict=True)]
    return TunedLens(*trained)


@torch.enable_grad()
def _gradients(
    model: TransformerBridge,
    states: Float[Tensor, "all state d_model"],
    weights: Float[Tensor, "layer d_model d_model"],
    biases: Float[Tensor, "layer d_model"],
) -> tuple[Tensor, ...]:
    """How the mean KL of each layer changes with its maps: with the lens' logits z it changes by softmax(z) - p, p being the model's."""
    logits = lens_logits(model, _mapped(states[:-1], weights, biases))
    with torch.no_grad():
        goal = lens_logits(model, states[-1]).float().softmax(-1)
        slope = logits.float().softmax(-1).sub_(goal).div_(states.shape[1])
    return torch.autograd.grad(logits, (weights, biases), slope.to(logits))


def save_tuned_lens(lens: TunedLens, folder: str | Path, **about: Any) -> Path:
    """Writes a lens to a folder: weights in float16, and what is known about it."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weights": lens.weights, "biases": lens.biases}
    save_file({name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    config = {"n_layers": len(lens.biases) - 1, "d_model": lens.biases.shape[1], **about}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def load_tuned_lens(name: str | Path = COURSE_LM) -> TunedLens:
    """Loads a lens: one of ``data/lens`` by its name, or a folder. Raises ModelNotAvailable, with one sentence, where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = next((place for place in (Path(name).expanduser(), FOLDER / name) if (place / WEIGHTS).is_file()), None)
    if folder is None:
        raise ModelNotAvailable(
            f"There is no tuned lens {str(name)!r}: give a folder with {WEIGHTS}, or train the course LM's (make lens)."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        return TunedLens(tensors["weights"].float(), tensors["biases"].float())
    except (SafetensorError, KeyError):
        raise ModelNotAvailable(f"The tuned lens in {folder} is damaged: save it again, or train the course LM's (make lens).") from None


def layer_states(
    model: TransformerBridge, texts: Texts, layers: Sequence[int]
) -> Iterator[tuple[Int[Tensor, "batch"], Texts, Float[Tensor, "layer state d_model"]]]:
    """The texts batch by batch, with their rows, and the states of the layers at all positions but 0, text by text."""
    for rows in progress(list(texts.batches()), desc="texts"):
        part = texts.take(rows)
        with torch.no_grad():
            seen = record(model, part.tokens.to(model.cfg.device), *{layer_hook(layer) for layer in layers})
        yield rows, part, torch.stack([seen[layer_hook(layer)][part.mask.to(model.cfg.device)] for layer in layers])
