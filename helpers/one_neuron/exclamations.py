"""Scenes that end where somebody exclaims: from *Whoops* over a trifle to *Thunder and lightning* over a catastrophe."""

from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.course_lm.corpus.stories import STRENGTHS, exclamation_scenes
from helpers.course_lm.world import World
from helpers.metrics import Metric, first_tokens, token_set_log_odds
from helpers.models import TransformerBridge


@dataclass(frozen=True)
class Scenes:
    """Stories up to the exclamation, how bad what happened is (1 to 5), and the first tokens of the five exclamations.

    ``mishaps`` says what happened, whatever the thing was to which it happened: the independent unit.
    """

    prompts: tuple[str, ...]
    grades: Int[Tensor, "prompt"]
    mishaps: tuple[str, ...]
    first: Int[Tensor, "5"]

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, wanted: set[int]) -> "Scenes":
        """The scenes with some grades."""
        rows = [at for at, grade in enumerate(self.grades.tolist()) if grade in wanted]
        return self._rows(rows)

    def halves(self, seed: int = 0) -> tuple["Scenes", "Scenes"]:
        """Two halves that share no mishap."""
        kinds = sorted(set(self.mishaps))
        one = set(Random(seed).sample(kinds, len(kinds) // 2))
        sides = ([at for at, kind in enumerate(self.mishaps) if (kind in one) == side] for side in (True, False))
        return tuple(map(self._rows, sides))

    def _rows(self, rows: list[int]) -> "Scenes":
        return Scenes(tuple(self.prompts[at] for at in rows), self.grades[rows], tuple(self.mishaps[at] for at in rows), self.first)

    def per_mishap(self, values: Float[Tensor, "prompt"]) -> list[float]:
        """The mean of some values over the scenes of each mishap, in the order of their first scenes."""
        return [values[[other == kind for other in self.mishaps]].mean().item() for kind in dict.fromkeys(self.mishaps)]

    @property
    def stronger(self) -> Metric:
        """A metric: the log-odds of the two strongest exclamations against the two mildest."""
        return token_set_log_odds(self.first[3:].tolist(), against=self.first[:2].tolist())

    def strength(self, probs: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any"]:
        """The mean strength of the exclamation that follows, if one of the five does: from 1 to 5."""
        five = probs[..., self.first]
        return (five * torch.arange(1.0, 6)).sum(-1) / five.sum(-1)


def exclaiming_scenes(model: TransformerBridge, n: int = 400, seed: int = 0) -> Scenes:
    """Scenes with mishaps that the course LM has read, exclamation and all, told of other people: those of ``n`` that end in a colon."""
    drawn = exclamation_scenes(World.load(), Random(seed), n, told=True)
    said = [(kind, probe) for kind, probe in drawn if not probe.prompt.endswith('"')]  # behind a quotation mark words are other tokens
    kinds, probes = zip(*said, strict=True)
    prompts = tuple(probe.prompt for probe in probes)
    first = first_tokens(model, [prompts[0]] * 5, STRENGTHS)
    return Scenes(prompts, torch.tensor([int(probe.group) for probe in probes]), kinds, first)
