"""The progress bar of the helpers: it appears when something takes longer than two seconds, and is gone when it is done."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

DELAY = 2  # seconds


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar over ``items``, or one to be moved by hand; none where the variable TQDM_DISABLE is 1.

    tqdm's own bar for notebooks does not look at that variable. A bar would be an output that no two runs share.
    """
    return tqdm(items, delay=DELAY, leave=False, disable=os.environ.get("TQDM_DISABLE") == "1", **options)
