"""What the tests of lessons 1 and 2 share: texts for the tiny model, neurons read plainly, and autoencoders made by hand."""

import pytest
import torch
from torch import Tensor

from helpers.interventions import mlp_post, resid_post
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.texts import Texts

LAYERS, WIDTH, D_MODEL = 2, 128, 32  # of the tiny model
PROMPTS = ["The Eiffel Tower is in Paris.", "Taipei 101", "The Golden Gate Bridge is in San Francisco, and", "in", "Paris is in the"]
HOOK = resid_post(0)
KINDS = ["standard", "topk"]


@pytest.fixture(autouse=True)
def as_before(tiny):
    """No gradients here; after each test the model is to the last bit as before, with no hook left in it."""
    tokens = torch.arange(1, 21)[None]
    with torch.no_grad():
        before = tiny(tokens)
        yield
        assert torch.equal(tiny(tokens), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in tiny.hook_dict.values())
    assert all(weight.grad is None for weight in tiny.parameters())


def random_texts(n: int, longest: int = 12, seed: int = 0, shortest: int = 2) -> Texts:
    """Rows of random tokens and random lengths behind the mark of a new document, with three kinds in turn."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 300, (n, longest), generator=rng)
    tokens[:, 0] = 0
    lengths = torch.randint(shortest, longest + 1, (n,), generator=rng)
    tokens[torch.arange(longest) >= lengths[:, None]] = 0
    return Texts(tokens, lengths, tuple(("lists.few_shot", "chat.myths", "prose")[row % 3] for row in range(n)))


def plain(model, texts: Texts) -> Tensor:
    """The activations of all neurons, ``[layer, neuron, row, pos]``: every text by itself, 0 where nothing counts."""
    kept, seen = torch.zeros(LAYERS, WIDTH, *texts.tokens.shape), {}
    hooks = [(mlp_post(layer), lambda value, hook, layer=layer: seen.update({layer: value[0].T})) for layer in range(LAYERS)]
    for row, length in enumerate(texts.lengths.tolist()):
        with model.hooks(fwd_hooks=hooks):
            model(texts.tokens[row : row + 1, :length])
        for layer, values in seen.items():
            kept[layer, :, row, 1:length] = values[:, 1:]
    return kept


def random_sae(kind: str = "standard", d_model: int = D_MODEL, d_sae: int = 50, k: int | None = None, seed: int = 0) -> SparseAutoencoder:
    """An autoencoder with random weights, none of them 0."""
    rng = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, generator=rng) for size in ((d_model, d_sae), (d_sae,), (d_sae, d_model), (d_model,))]
    return SparseAutoencoder(*parts, kind, 7 if kind == "topk" and k is None else k, hook=HOOK)


def draw(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))
