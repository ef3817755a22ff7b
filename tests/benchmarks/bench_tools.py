"""What all benchmarks share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs everything on one thread; only when times are asked for."""
    if not request.config.getoption("benchmark_enable"):
        pytest.skip("times are taken by `make bench`")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
