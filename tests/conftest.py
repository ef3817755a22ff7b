"""What all tests share. `helpers` is imported inside the fixtures: its types are checked from the first import on."""

import os
from typing import TYPE_CHECKING

os.environ.setdefault("TQDM_DISABLE", "1")  # notebooks are compared with outputs that have no progress bars
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads anything by accident
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import matplotlib
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

matplotlib.use("Agg")  # figures are drawn, never shown
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")


@pytest.fixture(scope="session")
def course_lm() -> "TransformerBridge":
    """The course LM, loaded once for all tests; who changes it puts it back."""
    from helpers.check import WEIGHTS
    from helpers.models import load_model

    if not (WEIGHTS / "SHA256SUMS").exists():
        pytest.skip("the course LM has not been trained yet: make model")
    return load_model("course-lm")
