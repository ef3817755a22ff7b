"""What all tests share. `helpers` is imported inside the fixtures: its types are checked from the first import on."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("TQDM_DISABLE", "1")  # notebooks are compared with outputs that have no progress bars
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads anything by accident
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import matplotlib
import pytest
from exercise_tools import stubs, with_solutions
from hypothesis import settings
from jaxtyping import install_import_hook
from nbval.plugin import IPyNbCell, IPyNbFile
from typecheck import CHECKED

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from helpers.texts import Texts

install_import_hook(CHECKED, "typecheck.checked")
matplotlib.use("Agg")  # figures are drawn, never shown
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")


def cells_and_solutions(self: IPyNbFile, cells: Callable[[IPyNbFile], Iterator[IPyNbCell]] = IPyNbFile.collect) -> Iterator[IPyNbCell]:
    """The cells of a notebook, and after them, on the same kernel, each exercise's with the folded solution in place of the stub."""
    yield from cells(self)
    for number, cell in stubs(with_solutions(self.path)).items():
        cell.source += f"\nassert exercise('{number}').solved"
        options = defaultdict(bool)  # what it prints is compared with nothing
        yield IPyNbCell.from_parent(self, name=f"Solution {number}", cell_num=999, cell=cell, options=options)


IPyNbFile.collect = cells_and_solutions


@pytest.fixture(scope="session")
def course_lm() -> "TransformerBridge":
    """The course LM, loaded once for all tests; who changes it puts it back."""
    from helpers.check import WEIGHTS
    from helpers.models import load_model

    if not (WEIGHTS / "SHA256SUMS").exists():
        pytest.skip("the course LM has not been trained yet: make model")
    return load_model("course-lm")


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "TransformerBridge"]:
    """A tiny random model by the name of its architecture, each loaded once for all tests; its folder as an attribute."""
    from tiny_models import write_tiny_model

    from helpers.models import load_model

    loaded = {}

    def of(architecture: str, **options: object) -> "TransformerBridge":
        key = (architecture, *options.items())
        if key not in loaded:
            folder = write_tiny_model(architecture, tmp_path_factory.mktemp(architecture))
            loaded[key] = load_model(folder, **options)
            loaded[key].folder = folder
        return loaded[key]

    return of


@pytest.fixture(scope="session")
def gpt2(load: Callable) -> "TransformerBridge":
    return load("gpt2")


@pytest.fixture(scope="session")
def tiny(load: Callable) -> "TransformerBridge":
    """The tiny model that is most like the course LM."""
    return load("gpt2-relu")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> "TransformerBridge":
    """A random GPT-2 whose tokens are single bytes, 24 at most; its folder as an attribute."""
    from tiny_models import write_byte_model

    from helpers.models import load_model

    folder = write_byte_model(tmp_path_factory.mktemp("small"))
    model = load_model(folder)
    model.folder = folder
    return model


@pytest.fixture(scope="module")
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Benchmarks run on one thread, and only when times are asked for."""
    import torch

    if not request.config.getoption("benchmark_enable"):
        pytest.skip("times are taken by `make bench`")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus(course_lm: "TransformerBridge") -> "Texts":
    """Held-out documents with some 60,000 tokens together, for benchmarks."""
    from helpers.texts import held_out_texts

    return held_out_texts(course_lm, 2500)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Gradients only where a helper asks for them."""
    import torch

    with torch.no_grad():
        yield
