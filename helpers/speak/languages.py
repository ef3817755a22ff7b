"""Does the model pass through English? Words in several languages, layer by layer (Wendler et al. 2024, arXiv 2402.10588)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm.corpus import languages as corpus
from helpers.course_lm.world import World
from helpers.models import TransformerBridge
from helpers.running import activations_at, check_layers, layer_hook, layer_name, read_lens
from helpers.speak.lens import answer_tokens, first_of, padded_sets, to_the_end
from helpers.speak.tuned_lens import TunedLens
from helpers.stats import DRAWS, Interval, bootstrap_interval
from helpers.tables import table

LEAST_TOGETHER = 0.001  # what the languages of a word must have together for a share of it to count


@dataclass(frozen=True)
class Translation:
    """A word to translate, after four demonstrations, and what it is in each language (by its code: en, fr, de, zh)."""

    prompt: str
    words: Mapping[str, str]


def translations(source: str = "fr", target: str = "zh", n: int | None = None, seed: int = 0) -> list[Translation]:
    """Nouns of the course LM's world to be translated between French and Chinese, which never meet in its corpus.

    Of the words that are asked and shown, the ways to English, and on from there, do stand in the corpus' lists. Raises ValueError for
    other languages.
    """
    if {source, target} != {"fr", "zh"}:
        raise ValueError(f"Only French and Chinese never meet in the corpus: ask from fr to zh or from zh to fr, not {source} to {target}.")
    one, other = corpus.LANGUAGES[source], corpus.LANGUAGES[target]
    shown = [
        noun
        for noun in corpus.clear_nouns(World.load(), one, other)
        if corpus.in_lists(one, corpus.ENGLISH, noun[0]) and corpus.in_lists(corpus.ENGLISH, other, noun[2])
    ]
    rng, rows = Random(seed), {row["singular"]: row for row in World.load().common("nouns")}
    asked = rng.sample(shown, len(shown))[:n]
    probes = [corpus.list_probe(one, other, noun, shown, rng) for noun in asked]
    words = [{"en": noun[2], source: noun[0], target: noun[1], "de": rows[noun[2]]["de"]} for noun in asked]
    return [Translation(probe.prompt, said) for probe, said in zip(probes, words, strict=True)]


@dataclass(frozen=True)
class LanguageProbs:
    """The lens' probability of the right word in each language after each prompt, its first tokens with and without a space summed.

    The controls are the English words of the other prompts: ``other`` is their mean probability, and ``other_share`` the mean share that
    each of them has where it stands in for the right English word among the languages.
    """

    layers: tuple[int, ...]
    target: str
    words: tuple[Mapping[str, str], ...]
    probs: Mapping[str, Float[Tensor, "layer prompt"]]
    other: Float[Tensor, "layer prompt"]
    other_share: Float[Tensor, "layer prompt"]

    def table(self) -> str:
        """One line for each layer: the mean probability of each language, and of the other English words."""
        columns = {**self.probs, "other en": self.other}
        rows = zip(map(layer_name, self.layers), *(probs.mean(1).tolist() for probs in columns.values()), strict=True)
        return table({"layer": ">5"} | dict.fromkeys(columns, "9.5f"), rows, gap="  ")


@torch.no_grad()
def language_probs(
    model: TransformerBridge,
    prompts: Sequence[str],
    words: Sequence[Mapping[str, str]],
    target: str = "zh",
    before: int = 0,
    tuned: TunedLens | None = None,
) -> LanguageProbs:
    """Follows the right word of each prompt through the layers in all its languages (Wendler et al., section 3).

    It is read at the last token, or ``before`` tokens before it: with 3 at the word that the prompts of ``translations`` ask for. Words
    are left out that begin with the same token in two languages. Raises ValueError unless each prompt has its words in the same languages,
    English and the target among them, where none is left, and where ``before`` is more than the shortest prompt has.
    """
    if len(prompts) != len(words) or not prompts:
        raise ValueError(f"Each prompt needs its words: there are {len(prompts)} prompts and {len(words)} sets of words.")
    codes = tuple(words[0])
    if not {"en", target} <= set(codes) or any(set(said) != set(codes) for said in words):
        raise ValueError(f"Every set of words needs the same languages, en and {target} among them; the first has {', '.join(codes)}.")
    sets = [{code: answer_tokens(model, said[code]) for code in codes} for said in words]
    apart = [not any(set(one) & set(two) for one, two in combinations(ids.values(), 2)) for ids in sets]
    kept = [at for at, alone in enumerate(apart) if alone]
    if not kept:
        raise ValueError("Every word begins with the same token in two of its languages, so no language can be told from another.")
    ids = {code: padded_sets([sets[at][code] for at in kept], len(kept)) for code in codes}
    english = sorted({sets[at]["en"] for at in kept})
    alien = torch.tensor([[not set(sets[at]["en"]) & set(other) for other in english] for at in kept])  # shares no token with the own

    def read(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some column"]:
        probs = logits.cpu().double().softmax(-1)
        own = torch.stack([_summed(probs, ids[code][some]) for code in codes], -1)
        each = torch.stack([probs[..., list(other)].sum(-1) for other in english], -1).masked_fill(~alien[some], torch.nan)
        rest = own.sum(-1, keepdim=True) - own[..., [codes.index("en")]]
        return torch.cat([own, each.nanmean(-1, keepdim=True), (each / (rest + each)).nanmean(-1, keepdim=True)], -1)

    layers = check_layers(model, None)
    hooks = [layer_hook(layer) for layer in layers]
    states = activations_at(model, [prompts[at] for at in kept], hooks, before + 1)[:, :, 0]
    found = read_lens(model, tuned.mapped(model, layers, states) if tuned else states, read).float()
    probs = {code: found[:, :, at] for at, code in enumerate(codes)}
    return LanguageProbs(layers, target, tuple(words[at] for at in kept), probs, found[:, :, -2], found[:, :, -1])


def _summed(probs: Float[Tensor, "layer some d_vocab"], ids: Int[Tensor, "some most"]) -> Float[Tensor, "layer some"]:
    """The probability of the tokens of each row together; -1 is no token."""
    every = ids.expand(len(probs), -1, -1)
    return (probs.gather(-1, every.clamp(min=0)) * (every >= 0)).sum(-1)


@dataclass(frozen=True)
class EnglishShare:
    """The English word's share of what the languages have together at each layer; the control is an unrelated English word in its place.

    A share among tiny probabilities says more about how common words are than about this one. The ``peak`` is therefore where the share is
    highest above the control, among the layers where the languages have 0.1 % or more together (``total``) on average.
    """

    layers: tuple[int, ...]
    share: Float[Tensor, "layer prompt"]
    control: Float[Tensor, "layer prompt"]
    total: Float[Tensor, "layer prompt"]
    ahead: Bool[Tensor, "layer prompt"]  # is English ahead of the target?

    @property
    def peak(self) -> int:
        """The layer at which the mean share is highest above the control's."""
        return self._peaks(torch.arange(self.share.shape[1])[None])[0]

    @property
    def height(self) -> tuple[float, Interval]:
        """The mean share at the peak, with its 95 % interval (bootstrap over the words)."""
        row = self.share[self.layers.index(self.peak)]
        return row.mean().item(), bootstrap_interval(row)

    def peak_interval(self, seed: int = 0) -> Interval:
        """Between which layers 95 % of the peaks lie when the words are drawn again."""
        n = self.share.shape[1]
        drawn = torch.from_numpy(np.random.RandomState(seed).randint(n, size=(DRAWS, n)))
        low, high = np.percentile(self._peaks(drawn), [2.5, 97.5])
        return float(low), float(high)

    def _peaks(self, rows: Int[Tensor, "draw prompt"]) -> list[int]:
        above = (self.share - self.control)[:, rows].mean(-1)
        heights = above.masked_fill(self.total.mean(1, keepdim=True) < LEAST_TOGETHER, -torch.inf)
        return [self.layers[at] for at in heights.argmax(0).tolist()]

    @property
    def overtakes(self) -> Float[Tensor, "prompt"]:
        """From which layer on the target stays ahead of English, for each word; NaN where it is not ahead at the end."""
        return first_of(self.layers, to_the_end(~self.ahead))

    def table(self) -> str:
        """One line for each layer: share with its interval, control, total, and how often English is ahead; then peak and overtaking."""
        rows = []
        for at, layer in enumerate(self.layers):
            low, high = bootstrap_interval(self.share[at])
            share = f"{self.share[at].mean():6.1%} [{low:.1%}, {high:.1%}]"
            rows.append((layer_name(layer), share, self.control[at].mean(), self.total[at].mean(), self.ahead[at].float().mean()))
        columns = {"layer": ">5", "English share": "<22", "other word": "10.1%", " together": "9.5f", "English ahead": "13.0%"}
        (height, (low, high)), (first, last) = self.height, self.peak_interval()
        beside = self.control[self.layers.index(self.peak)].mean()
        found = f"{height:.1%} [{low:.1%}, {high:.1%}] beside {beside:.1%} for another word"
        peak = f"peak: layer {self.peak} [{first:g}, {last:g}], {found}"
        end = f"the target is ahead from layer {self.overtakes.nanquantile(0.5):g} on (median), n = {self.share.shape[1]}"
        return "\n".join([table(columns, rows, gap="  "), peak, end])


def english_share(found: LanguageProbs) -> EnglishShare:
    """How much of what the right word has in all its languages together is English.

    Raises ValueError for fewer than two different English words, and where the languages never have anything together.
    """
    if found.other.isnan().any():
        raise ValueError("A single word has no interval and no other English words beside it: follow at least two.")
    total, english = torch.stack(list(found.probs.values())).sum(0), found.probs["en"]
    if not (total.mean(1) >= LEAST_TOGETHER).any():
        raise ValueError(f"At no layer do the words have {LEAST_TOGETHER:.1%} together, in any language: there is nothing to share.")
    share = english / total.clamp(min=torch.finfo(torch.float).tiny)
    return EnglishShare(found.layers, share, found.other_share, total, english > found.probs[found.target])
