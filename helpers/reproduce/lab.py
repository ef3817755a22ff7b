"""What an experiment gets: a model, its settings, the size of the samples, and which facts it keeps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from helpers.course_lm.world import Row, read_table
from helpers.findings import Finding
from helpers.models import DATA, TransformerBridge

LEAST = 2  # cases without which a value has no interval
T = TypeVar("T")


class NotForThisModel(ValueError):
    """An experiment that this model cannot show; its message is one sentence that says why."""


@dataclass(frozen=True)
class Experiment:
    """One experiment: its section, what it is about, and the names of the findings that it yields, as the table shows them."""

    name: str
    section: str
    about: str
    findings: tuple[str, ...]
    run: Callable[["Lab"], Iterator[Finding]]


EXPERIMENTS: dict[str, Experiment] = {}


def experiment(section: str, *findings: str) -> Callable[[Callable], Callable]:
    """Registers a function as an experiment of a section, under its own name; its docstring's first line says what it is about."""

    def register(run: Callable[["Lab"], Iterator[Finding]]) -> Callable:
        about = run.__doc__.splitlines()[0].rstrip(".")
        EXPERIMENTS[run.__name__] = Experiment(run.__name__, section, about, findings, run)
        return run

    return register


def attempt(function: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
    """What a function returns, or None where it raises a ValueError."""
    try:
        return function(*arguments, **options)
    except ValueError:
        return None


def read_settings(path: Path = DATA / "reproduce.csv") -> list[Row]:
    """What an experiment does in the models whose names fit, line by line. Raises ValueError for a line without a reason."""
    rows = read_table(path)
    for number, row in enumerate(rows, 2):
        if not row["because"]:
            raise ValueError(f"{path.name}, line {number}: say in 'because' why {row['setting']} is {row['value']!r}.")
    return rows


@dataclass(frozen=True)
class Lab:
    """A model with all that an experiment needs.

    ``n`` caps every sample (None: the full size). ``keep_wrong`` keeps facts that the model answers wrong, and takes what it says for
    its answer: only so do experiments on facts run at all on random weights. ``sae`` names a dictionary in place of the usual one.
    """

    model: TransformerBridge
    name: str
    settings: Sequence[Row]
    n: int | None = None
    keep_wrong: bool = False
    sae: str | None = None

    def size(self, full: int) -> int:
        """How many cases to take where ``full`` is the usual number."""
        return full if self.n is None else min(full, self.n)

    def setting(self, experiment: str, name: str) -> str | None:
        """The first setting whose model fits this one, exact names before patterns; None where there is none."""
        rows = [row for row in self.settings if (row["experiment"], row["setting"]) == (experiment, name)]
        rows = [row for row in rows if fnmatch(self.name, row["model"])]
        rows.sort(key=lambda row: (row["model"] != self.name, -len(row["model"].rstrip("*"))))
        return rows[0]["value"] if rows else None

    def words(self, experiment: str, name: str) -> list[str]:
        """A setting that is a list."""
        return [word for word in (self.setting(experiment, name) or "").split("|") if word]

    def number(self, experiment: str, name: str) -> int:
        """A setting that is one number. Raises ValueError where there is none."""
        value = self.setting(experiment, name)
        if value is None:
            raise ValueError(f"data/reproduce.csv has no {name} for {experiment}: add a line for the model {self.name!r} or for '*'.")
        return int(value)

    def layers(self, experiment: str) -> list[int]:
        """Layers by the rule of the settings: numbers as they are, shares of the depth rounded down, each once."""
        return sorted({self.part(word, self.model.cfg.n_layers) for word in self.words(experiment, "layers")})

    @staticmethod
    def part(word: str, whole: int) -> int:
        """A number, or a share of ``whole`` written with a percent sign, rounded down and less than ``whole``."""
        return min(whole - 1, int(whole * float(word.removesuffix("%")) / 100)) if word.endswith("%") else int(word)

    def kept(self, hits: Iterable[Any], what: str) -> list[int]:
        """The numbers of the cases that the model gets right, or of all of them. Raises NotForThisModel for fewer than two."""
        hits = [bool(hit) for hit in hits]
        rows = [at for at, hit in enumerate(hits) if hit or self.keep_wrong]
        if len(rows) < LEAST:
            raise NotForThisModel(f"it gets {len(rows)} of {len(hits)} {what} right, and an interval needs {LEAST}")
        return rows

    def fitting(self, items: Iterable[T], test: Callable[[T], Any], what: str) -> list[T]:
        """The items of which ``test`` returns something, and raises no ValueError: this model's tokens keep their words apart."""
        items = list(items)
        found = [item for item in items if attempt(test, item) is not None]
        if len(found) < LEAST:
            raise NotForThisModel(f"its tokens keep the words apart in only {len(found)} of {len(items)} {what}")
        return found
