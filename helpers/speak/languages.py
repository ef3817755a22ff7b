"""Does the model pass through English? Words in several languages, layer by layer (Wendler et al. 2024, arXiv 2402.10588)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.course_lm.corpus import languages as corpus
from helpers.course_lm.world import World
from helpers.interventions import Intervention
from helpers.models import TransformerBridge
from helpers.running import activations_at, check_layers, layer_hook, layer_name, logits_at_end, read_lens
from helpers.speak.lens import answer_tokens, padded_sets
from helpers.speak.tuned_lens import TunedLens
from helpers.tables import table

LEAST_TOGETHER = 0.001  # what the languages of a word must have together for a share of it to count


@dataclass(frozen=True)
class Translation:
    """A word to translate, after four demonstrations, and what it is in each language (by its code: en, fr, de, zh)."""

    prompt: str
    words: Mapping[str, str]


def translations(source: str = "fr", target: str = "zh") -> list[Translation]:
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
    rng, rows = Random(0), {row["singular"]: row for row in World.load().common("nouns")}
    asked = rng.sample(shown, len(shown))
    probes = [corpus.list_probe(one, other, noun, shown, rng) for noun in asked]
    words = [{"en": noun[2], source: noun[0], target: noun[1], "de": rows[noun[2]]["de"]} for noun in asked]
    return [Translation(probe.prompt, said) for probe, said in zip(probes, words, strict=True)]


@dataclass(frozen=True)
class LanguageProbs:
    """The lens' probability of the right word in each language after each prompt, its first tokens with and without a space summed."""

    layers: tuple[int, ...]
    words: tuple[Mapping[str, str], ...]
    probs: Mapping[str, Float[Tensor, "layer prompt"]]

    def table(self) -> str:
        """One line for each layer: the mean probability of each language."""
        rows = zip(map(layer_name, self.layers), *(probs.mean(1).tolist() for probs in self.probs.values()), strict=True)
        return table({"layer": ">5"} | dict.fromkeys(self.probs, "9.5f"), rows, gap="  ")


@torch.no_grad()
def language_probs(
    model: TransformerBridge,
    prompts: Sequence[str],
    words: Sequence[Mapping[str, str]],
    before: int = 0,
    tuned: TunedLens | None = None,
) -> LanguageProbs:
    """Follows the right word of each prompt through the layers in all its languages (Wendler et al., section 3).

    It is read at the last token, or ``before`` tokens before it: with 3 at the word that the prompts of ``translations`` ask for. Words
    are left out that begin with the same token in two languages. Raises ValueError unless each prompt has its words in the same languages,
    where none is left, and where ``before`` is more than the shortest prompt has.
    """
    if len(prompts) != len(words) or not prompts:
        raise ValueError(f"Each prompt needs its words: there are {len(prompts)} prompts and {len(words)} sets of words.")
    codes = tuple(words[0])
    if any(set(said) != set(codes) for said in words):
        raise ValueError(f"Every set of words needs the same languages; the first has {', '.join(codes)}.")
    sets = [{code: answer_tokens(model, said[code]) for code in codes} for said in words]
    apart = [not any(set(one) & set(two) for one, two in combinations(ids.values(), 2)) for ids in sets]
    kept = [at for at, alone in enumerate(apart) if alone]
    if not kept:
        raise ValueError("Every word begins with the same token in two of its languages, so no language can be told from another.")
    ids = {code: padded_sets([sets[at][code] for at in kept], len(kept)) for code in codes}

    def read(logits: Float[Tensor, "layer some d_vocab"], some: Int[Tensor, "some"]) -> Float[Tensor, "layer some language"]:
        probs = logits.cpu().double().softmax(-1)
        return torch.stack([_summed(probs, ids[code][some]) for code in codes], -1)

    layers = check_layers(model, None)
    hooks = [layer_hook(layer) for layer in layers]
    states = activations_at(model, [prompts[at] for at in kept], hooks, before + 1)[:, :, 0]
    found = read_lens(model, tuned.mapped(model, layers, states) if tuned else states, read).float()
    return LanguageProbs(layers, tuple(words[at] for at in kept), dict(zip(codes, found.unbind(-1), strict=True)))


def _summed(probs: Float[Tensor, "layer some d_vocab"], ids: Int[Tensor, "some most"]) -> Float[Tensor, "layer some"]:
    """The probability of the tokens of each row together; -1 is no token."""
    every = ids.expand(len(probs), -1, -1)
    return (probs.gather(-1, every.clamp(min=0)) * (every >= 0)).sum(-1)


def language_shares(found: LanguageProbs) -> dict[str, Float[Tensor, "layer prompt"]]:
    """What each language's word has of what the right word has in all of them together."""
    total = torch.stack(list(found.probs.values())).sum(0)
    return {code: probs / total.clamp(min=torch.finfo(torch.float).tiny) for code, probs in found.probs.items()}


def worth_sharing(found: LanguageProbs) -> Bool[Tensor, "layer"]:
    """At which layers the word has 0.1 % or more in all languages together, on average: shares of less say how common words are."""
    return torch.stack(list(found.probs.values())).sum(0).mean(1) >= LEAST_TOGETHER


@dataclass(frozen=True)
class AtPeak:
    """Two languages' shares for each prompt, at the ``layer`` where the first is most ahead in the other half of the prompts."""

    layer: Int[Tensor, "prompt"]
    own: Float[Tensor, "prompt"]
    other: Float[Tensor, "prompt"]


def at_peak(found: LanguageProbs, own: str = "en", other: str = "de") -> AtPeak:
    """Compares the shares of two languages where the first has its best chance, which is chosen on prompts that are not judged.

    Raises ValueError for fewer than two prompts, and where the languages never have anything together.
    """
    if (n := len(found.words)) < 2:
        raise ValueError("The layer is chosen on one half of the prompts and judged on the other: follow two words or more.")
    if not (usable := worth_sharing(found)).any():
        raise ValueError(f"At no layer do the words have {LEAST_TOGETHER:.1%} together, in any language: there is nothing to share.")
    share, each, rows = language_shares(found), torch.arange(n), torch.empty(n, dtype=torch.long)
    ahead = (share[own] - share[other]).masked_fill(~usable[:, None], -torch.inf)
    for half in (each % 2 == 0, each % 2 == 1):
        rows[half] = ahead[:, ~half].mean(1).argmax()
    return AtPeak(torch.tensor(found.layers)[rows], share[own][rows, each], share[other][rows, each])


@torch.no_grad()
def log_probs_without(
    model: TransformerBridge, prompts: Sequence[str], answers: Sequence[str], removed: Sequence[str], layers: Sequence[int]
) -> Float[Tensor, "prompt"]:
    """``log P(answer)`` while another word cannot be read off the stream: its unembedding directions are projected out at all positions.

    Each prompt loses the word of its own in ``removed``, with a space in front of it and without, after each of the ``layers``.
    """
    ids = padded_sets([answer_tokens(model, word) for word in removed], len(prompts))
    columns = model.W_U.detach().float().T[ids.clamp(min=0)].mT.cpu() * (ids >= 0)[:, None]  # [prompt, d_model, token]
    onto = columns @ torch.linalg.pinv(columns)

    def remove(rows: Int[Tensor, "batch"]) -> list[Intervention]:
        own = onto[rows]
        return [Intervention(layer_hook(layer), lambda values, pick: values - values @ own.to(values)) for layer in layers]

    logp = logits_at_end(model, prompts, each=remove).log_softmax(-1).cpu()
    said = padded_sets([answer_tokens(model, word) for word in answers], len(prompts))
    return logp.gather(1, said.clamp(min=0)).masked_fill(said < 0, -torch.inf).logsumexp(1)
