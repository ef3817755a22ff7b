"""What all benchmarks share: one thread, the course LM and texts for it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from helpers.texts import Texts


@pytest.fixture(scope="module", autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs everything on one thread; only when times are asked for."""
    if not request.config.getoption("benchmark_enable"):
        pytest.skip("times are taken by `make bench`")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus(course_lm: "TransformerBridge") -> "Texts":
    """Held-out documents with some 60,000 tokens together."""
    from helpers.texts import held_out_texts

    return held_out_texts(course_lm, 2500)
