"""What the tests of the section on clusters share: tiny random models, loaded once, and pairs of random prompts."""

from collections.abc import Callable

import pytest
import torch
from byte_model import small as letters
from tiny_models import ARCHITECTURES, write_tiny_model

__all__ = ["letters", "load", "no_gradients"]  # the fixtures

TINY = [name for name in ARCHITECTURES if name != "course-like"]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A tiny random model by the name of its architecture, each loaded once."""
    from helpers.models import load_model

    loaded = {}

    def of(family: str, **options):
        key = (family, *options.items())
        if key not in loaded:
            loaded[key] = load_model(write_tiny_model(family, tmp_path_factory.mktemp(family)), **options)
        return loaded[key]

    return of


@pytest.fixture(autouse=True)
def no_gradients():
    """Gradients only where a helper asks for them."""
    with torch.no_grad():
        yield


def last_logits(model, texts) -> torch.Tensor:
    """The logits at the end of each text, from a run of the whole model."""
    return model(texts.tokens)[torch.arange(len(texts)), texts.lengths - 1]
