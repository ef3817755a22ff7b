"""A model of the model: one affine map that does what a language model does with a relation such as *the capital of*.

Hernandez et al. 2024 (arXiv 2308.09124): from the state ``s`` at the last token of the subject, a model computes the state ``o`` from which
it reads the object, by all its layers; for many relations the map ``LRE(s) = beta W s + b`` says the same first token (equation 4).
``W`` is the mean over a few subjects of the Jacobian ``do/ds`` of the model itself, and ``b`` the mean of ``o - (do/ds) s`` (section 3).

    lre = fit_lre(model, parts.train, layer=3, beta=2.0)
    lens_logits(model, lre(relation_states(model, parts.test, [3]).s[0]))

``s`` is the stream after block ``layer`` (layer -1 enters block 0); ``o`` is the stream after the last block at the last token, before the
final norm. The authors show the model the other examples before each prompt; here every prompt stands alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.cluster.relations import RelationData
from helpers.inputs import check_number, chosen
from helpers.interventions import Intervention, intervene, resid_post
from helpers.models import TransformerBridge, read_prefix
from helpers.prediction import token_span, tokenize
from helpers.running import activations_at, check_layers, layer_hook, read_lens
from helpers.stats import ridge
from helpers.texts import Texts, as_texts

PENALTY = 0.1  # of the regression, as a share of the mean squared length of the centred states
GROUP = 8  # subjects whose Jacobians are computed together
BASIS_TOKENS = 1024  # tokens in one backward pass over many output coordinates


@dataclass(frozen=True)
class LinearRelation:
    """The affine map ``o = beta W s + b`` that stands for a model in one relation, for the state ``s`` of one layer."""

    relation: str
    kind: str
    layer: int
    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, "d_out"]
    beta: float = 1.0

    def __call__(self, s: Float[Tensor, "*subject d_in"]) -> Float[Tensor, "*subject d_out"]:
        """What the map makes of some states; ``lens_logits`` reads the object off it."""
        return self.beta * s.to(self.weight) @ self.weight.T + self.bias

    @cached_property
    def directions(self) -> tuple[Float[Tensor, "d_out size"], Float[Tensor, "size"], Float[Tensor, "size d_in"]]:
        """The singular value decomposition of ``W``, in float64."""
        return tuple(torch.linalg.svd(self.weight.double(), full_matrices=False))

    def inverse(self, rank: int) -> Float[Tensor, "d_in d_out"]:
        """The pseudo-inverse of ``W`` from its ``rank`` largest singular values; all of them give the true inverse, if there is one.

        Raises ValueError for a rank that the matrix cannot have.
        """
        check_number("The rank says how many singular values are used", rank, high=min(self.weight.shape))
        left, sizes, right = self.directions
        used = torch.arange(rank)[sizes[:rank] > 1e-12 * sizes[0]]  # what the matrix sends to nothing cannot be brought back
        return ((right[used].T / sizes[used]) @ left[:, used].T).to(self.weight)


def fit_lre(model: TransformerBridge, data: RelationData, layer: int, beta: float = 1.0) -> LinearRelation:
    """The linear relational embedding: ``W`` is the mean Jacobian over the subjects, ``b`` the mean of ``o - (do/ds) s``."""
    return fit_lre_layers(model, data, [layer], beta)[0]


def fit_lre_layers(model: TransformerBridge, data: RelationData, layers: Sequence[int], beta: float = 1.0) -> list[LinearRelation]:
    """``fit_lre`` for several layers, in the time of the first of them."""
    s, o, slopes = linearise(model, data, layers)
    weight, bias = slopes.mean(1), (o - torch.einsum("lroi,lri->lro", slopes, s)).mean(1)
    return [LinearRelation(data.name, "LRE", layer, weight[at], bias[at], beta) for at, layer in enumerate(layers)]


def subject_positions(model: TransformerBridge, data: RelationData) -> Int[Tensor, "subject"]:
    """The position of the last token of each subject. Raises ValueError where the tokens of a subject are not separate from the rest."""
    start = data.template.index("{s}")
    prompts = zip(data.subjects, data.prompts, strict=True)
    return torch.tensor([token_span(model, prompt, start, start + len(subject))[-1] for subject, prompt in prompts])


def linearise(
    model: TransformerBridge, data: RelationData, layers: Sequence[int]
) -> tuple[Float[Tensor, "layer row d_in"], Float[Tensor, "row d_out"], Float[Tensor, "layer row d_out d_in"]]:
    """``s``, ``o`` and the Jacobian ``do/ds`` of every subject; on the CPU.

    Subjects share a pass if their prompts have equally many tokens before and after the end of the subject. A backward pass has the
    gradients of many coordinates of ``o``.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    prompts = [tokenize(model, prompt) for prompt in data.prompts]
    for row, start in enumerate(subject_positions(model, data).tolist()):
        alike.setdefault((start, len(prompts[row])), []).append(row)
    width, options = model.cfg.d_model, dict(dtype=torch.promote_types(model.cfg.dtype, torch.float32))
    s, o = torch.empty(len(layers), len(data), width, **options), torch.empty(len(data), width, **options)
    slopes = torch.empty(len(layers), len(data), width, width, **options)
    for (start, length), members in alike.items():
        for rows in torch.tensor(members).split(GROUP):
            streams, end = _from_subject(model, torch.stack([prompts[row] for row in rows]), start, layers)
            basis = torch.eye(width).to(end)
            for some in torch.arange(width).split(max(1, BASIS_TOKENS // (len(rows) * (length - start)))):
                upstream = basis[some][:, None].expand(-1, len(rows), -1)  # [coordinate, row, d_out]
                gradients = torch.autograd.grad(end, streams, upstream, is_grads_batched=True, retain_graph=True)
                for at, gradient in enumerate(gradients):  # [coordinate, row, pos, d_in]; the subject is the first position
                    slopes[at, rows[:, None], some] = gradient[:, :, 0].transpose(0, 1).to(slopes)
            s[:, rows] = torch.stack([stream[:, 0] for stream in streams]).detach().to(s)
            o[rows] = end.detach().to(o)
    return s, o, slopes


def _from_subject(
    model: TransformerBridge, tokens: Int[Tensor, "row pos"], start: int, layers: Sequence[int]
) -> tuple[list[Float[Tensor, "row rest d_model"]], Float[Tensor, "row d_model"]]:
    """The stream of some layers from position ``start`` on, and ``o``, with a graph that begins in the lowest of the layers.

    Nothing before ``start`` depends on them: these tokens are read once, without gradients, and their keys and values kept.
    """
    tokens, seen, past = tokens.to(model.cfg.device), {}, {}
    if start:
        with torch.no_grad():
            past = dict(past_key_values=read_prefix(model, tokens[:, :start]).cache(), use_cache=True)

    def keep(layer: int) -> Callable[[Tensor, object], Tensor]:
        def pass_on(stream: Tensor, pick: object) -> Tensor:
            seen[layer] = stream.detach().requires_grad_() if layer == min(layers) else stream
            return seen[layer]

        return pass_on

    last = model.cfg.n_layers - 1
    with torch.enable_grad(), intervene(model, *(Intervention(layer_hook(layer), keep(layer)) for layer in {*layers, last})):
        model(tokens[:, start:], **past)
        return [seen[layer] for layer in layers], seen[last][:, -1]


def jacobian(model: TransformerBridge, data: RelationData, subject: str, layer: int) -> Float[Tensor, "d_out d_in"]:
    """How ``o`` changes with ``s`` for one subject: ``do_i / ds_j``. Raises ValueError for an unknown subject or layer."""
    return jacobians(model, data.take(data.rows([subject])), [layer])[0, 0]


def jacobians(model: TransformerBridge, data: RelationData, layers: Sequence[int]) -> Float[Tensor, "layer subject d_out d_in"]:
    """``do/ds`` for every subject and several layers, all layers from the same backward passes; on the CPU."""
    return linearise(model, data, layers)[2]


@dataclass(frozen=True)
class RelationStates:
    """What a model computes for each subject: ``s`` at position ``subject``, ``o`` at the prompt's end, and its own next token."""

    data: RelationData
    texts: Texts
    subject: Int[Tensor, "subject"]
    layers: tuple[int, ...]
    s: Float[Tensor, "layer subject d_model"]
    o: Float[Tensor, "subject d_model"]
    token: Int[Tensor, "subject"]

    def at(self, layer: int) -> Float[Tensor, "subject d_model"]:
        """The subjects' states in one layer. Raises ValueError for a layer that was not looked at."""
        return self.s[self.layers.index(chosen(self.layers, layer, "layer"))]


@torch.no_grad()
def relation_states(model: TransformerBridge, data: RelationData, layers: Sequence[int]) -> RelationStates:
    """The states of all subjects, and the model's most likely next token; on the CPU."""
    texts, layers = as_texts(model, data.prompts), check_layers(model, layers)
    subject, hooks = subject_positions(model, data), [*map(layer_hook, layers), resid_post(model.cfg.n_layers - 1)]
    seen = activations_at(model, texts, hooks, torch.stack([subject, texts.lengths - 1], 1))  # [hook, subject, 2, d_model]
    o = seen[-1, :, 1]
    return RelationStates(data, texts, subject, layers, seen[:-1, :, 0], o, most_likely(model, o))


def most_likely(model: TransformerBridge, o: Float[Tensor, "*state d_model"]) -> Int[Tensor, "*state"]:
    """The token that the model itself would say if its stream ended in ``o``; on the CPU."""
    return read_lens(model, o, lambda logits, _: logits.argmax(-1)).cpu()


def identity(states: RelationStates, layer: int) -> LinearRelation:
    """The map that leaves the state as it is: what the stream says at the subject already (a logit lens)."""
    eye = torch.eye(states.o.shape[-1])
    return LinearRelation(states.data.name, "identity", layer, eye, torch.zeros_like(eye[0]))


def translation(states: RelationStates, layer: int) -> LinearRelation:
    """The map that adds the mean of ``o - s``, the same for every subject."""
    return replace(identity(states, layer), kind="translation", bias=(states.o - states.at(layer)).mean(0))


def regression(states: RelationStates, layer: int, penalty: float = PENALTY) -> LinearRelation:
    """The map that fits ``o`` best from ``s`` over the subjects (ridge regression), without a look into the model.

    ``penalty`` is a share of the mean squared length of the centred states.
    """
    s = states.at(layer).double()
    size = (s - s.mean(0)).square().sum(1).mean().item()
    weight, bias = ridge(s, states.o, max(penalty * size, 1e-12))
    return LinearRelation(states.data.name, "regression", layer, weight.to(states.o), bias.to(states.o))
