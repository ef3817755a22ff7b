"""What is measured of a model's answer: a *metric* is a function of the logits with one number for each prompt.

A logit difference, the log-odds of a set of tokens, and the probability of whole words of several tokens are metrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import Index, Intervention, add, intervene, mlp_post, numbers, unembed_only_at, watch
from helpers.models import TransformerBridge
from helpers.prediction import pad, tokenize
from helpers.texts import Texts, as_texts

Metric = Callable[[Float[Tensor, "prompt pos d_vocab"]], Float[Tensor, "prompt"]]
AFTER_FIRST = slice(1, None)


def log_odds(right: int | Int[Tensor, "prompt"], wrong: int | Int[Tensor, "prompt"]) -> Metric:
    """How much likelier the token ``right`` is than ``wrong`` after each prompt, as a log-ratio (natural); one pair or one a prompt."""

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, -1, right] - logits[rows, -1, wrong]

    return metric


def log_prob(token: int | Int[Tensor, "prompt"]) -> Metric:
    """The log-probability (natural) of a token after each prompt; one token for all, or one for each prompt."""

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        rows = torch.arange(len(logits), device=logits.device)
        return logits[:, -1].log_softmax(-1)[rows, token]

    return metric


@dataclass(frozen=True)
class Words:
    """Prompts and the whole words that may follow them, however many tokens a word has.

    ``ids`` are a word's tokens, and ``item`` is the number of its prompt. A row of ``texts`` is a prompt and all tokens of a word but the
    last; words that differ in their last token alone share one, and ``row`` says which is a word's own. Run the model on ``texts`` to read
    the words off.
    """

    texts: Texts
    ids: tuple[tuple[int, ...], ...]
    item: Int[Tensor, "word"]
    row: Int[Tensor, "word"]

    def log_probs(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "word"]:
        """The log-probability of each word after its prompt, from logits that end where the rows end."""
        logp = logits[:, -max(map(len, self.ids)) :].log_softmax(-1)
        each = zip(self.row.tolist(), self.ids, strict=True)
        return torch.stack([sum(logp[row, at - len(ids), one] for at, one in enumerate(ids)) for row, ids in each])

    @torch.no_grad()
    def read(self, model: TransformerBridge) -> Float[Tensor, "word"]:
        """The same under whatever interventions are at work, from one pass; on the CPU."""
        with intervene(model, unembed_only_at(self.texts.last_positions(max(map(len, self.ids))))):
            return self.log_probs(model(self.texts.tokens.to(model.cfg.device))).float().cpu()


@dataclass(frozen=True)
class WordOdds(Words):
    """A metric: how much likelier any of the right words is than any of the wrong ones, as a log-ratio, for each prompt.

    It belongs to its own ``texts``: ``attribute_neurons(model, odds.texts, odds)``.
    """

    right: Bool[Tensor, "word"]

    def __len__(self) -> int:
        """How many prompts there are, and so how many numbers the metric gives."""
        return int(self.item.max()) + 1

    def __call__(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "prompt"]:
        """One number for each prompt: the log of P(a right word) / P(a wrong word)."""
        logp = self.log_probs(logits)
        sides = [[logp[(self.item == item) & side].logsumexp(0) for side in (self.right, ~self.right)] for item in range(len(self))]
        return torch.stack([right - wrong for right, wrong in sides])


def word_odds(
    model: TransformerBridge, prompts: Sequence[str], right: Sequence[str | Sequence[str]], wrong: Sequence[str | Sequence[str]]
) -> WordOdds:
    """The metric that sets right words against wrong ones after each prompt; for each prompt one word, or several, on each side.

    Raises ValueError where words and prompts are not equally many, or a prompt and a word do not stay apart as tokens.
    """
    if not len(prompts) == len(right) == len(wrong):
        raise ValueError(f"Each prompt needs right and wrong words: there are {len(prompts)} prompts, {len(right)} and {len(wrong)} words.")
    sides = [[[side] if isinstance(side, str) else list(side) for side in both] for both in zip(right, wrong, strict=True)]
    if not all(yes and no for yes, no in sides):
        raise ValueError("Each prompt needs one right word and one wrong word at least.")
    words = whole_words(model, prompts, [[*yes, *no] for yes, no in sides])
    flags = [flag for yes, no in sides for flag in [True] * len(yes) + [False] * len(no)]
    return WordOdds(words.texts, words.ids, words.item, words.row, torch.tensor(flags))


def whole_words(model: TransformerBridge, prompts: Sequence[str], words: Sequence[Sequence[str]]) -> Words:
    """Each prompt with each of its words, written after a space unless the prompt ends in one or in an opening mark."""
    as_texts(model, prompts)  # a look at them: ValueError where there is none, or an empty one
    if not all(words):
        raise ValueError("There is no word to read off: give at least one for each prompt.")
    rows: dict[tuple[int, ...], int] = {}  # the number of each different row
    ids, item, row = [], [], []
    for number, (prompt, options) in enumerate(zip(prompts, words, strict=True)):
        start = tokenize(model, prompt).tolist()
        for word in options:
            gap = "" if prompt.endswith((" ", "\n", '"', "(", "|>")) or word.startswith((" ", "\n")) else " "
            full = tokenize(model, prompt + gap + word).tolist()
            if not word or full[: len(start)] != start or len(full) == len(start) or len(full) > model.cfg.n_ctx:
                why = "it is no word of its own there, or the prompt is too long"
                raise ValueError(f"{word!r} cannot be read off after {prompt!r}: {why}.")
            row.append(rows.setdefault(tuple(full[:-1]), len(rows)))
            ids.append(tuple(full[len(start) :]))
            item.append(number)
    texts = Texts(*pad(model, [torch.tensor(tokens, dtype=torch.long) for tokens in rows]), ("prompt",) * len(rows))
    return Words(texts, tuple(ids), torch.tensor(item), torch.tensor(row))


def first_tokens(model: TransformerBridge, prompts: Sequence[str], words: Sequence[str]) -> Int[Tensor, "prompt"]:
    """The first token of each word as it stands after its prompt (see ``whole_words``)."""
    return torch.tensor([ids[0] for ids in whole_words(model, prompts, [[word] for word in words]).ids])


def word_probs(model: TransformerBridge, prompts: Sequence[str], words: Sequence[str]) -> Float[Tensor, "prompt word"]:
    """The probability of each of some whole words after each prompt, under whatever interventions are at work."""
    return whole_words(model, prompts, [words] * len(prompts)).read(model).exp().reshape(len(prompts), len(words))


def measure(metric: Metric, logits: Float[Tensor, "row pos d_vocab"], texts: Texts) -> Float[Tensor, "prompt"]:
    """The metric of each prompt. Raises ValueError unless it gives one number a prompt."""
    whole = isinstance(metric, WordOdds)
    if whole and int(metric.row.max()) + 1 != len(texts):
        raise ValueError("The odds of whole words are read off their own texts: give odds.texts as the prompts.")
    values, wanted = metric(_ends_aligned(logits, texts.lengths)), len(metric) if whole else len(texts)
    if not torch.is_tensor(values) or values.shape != (wanted,):
        given = f"a tensor of shape {list(values.shape)}" if torch.is_tensor(values) else f"a {type(values).__name__}"
        raise ValueError(f"The metric must give one number for each of the {wanted} prompts, a tensor [{wanted}]; it gave {given}.")
    return values.float()


def tokens_read(metric: Metric) -> int:
    """How many positions at the end of each text a metric reads: as many as its longest word has tokens."""
    return max(map(len, metric.ids)) if isinstance(metric, WordOdds) else 1


def _ends_aligned(logits: Float[Tensor, "row pos d_vocab"], lengths: Int[Tensor, "row"]) -> Float[Tensor, "row pos d_vocab"]:
    """The logits shifted to the right, so that every prompt ends at the last position; in front the first one is repeated."""
    width = logits.shape[1]
    if bool((lengths == width).all()):
        return logits
    places = (torch.arange(width) - (width - lengths[:, None])).clamp(min=0).to(logits.device)
    return logits[torch.arange(len(logits), device=logits.device)[:, None], places]


def selected(pos: Index, texts: Texts) -> Bool[Tensor, "prompt pos"]:
    """Where the positions are that ``pos`` selects, a negative one counted from each prompt's end, none behind it."""
    pos, place = _position(pos, texts), torch.arange(texts.tokens.shape[1])
    if _one_a_prompt(pos, texts):
        chosen = place == pos[:, None]
    else:
        chosen = torch.zeros(len(place), dtype=torch.bool)
        chosen[numbers(pos, len(place), mlp_post(0), "position")] = True
    return chosen & (place < texts.lengths[:, None])


def run_with_gradients(
    model: TransformerBridge, texts: Texts, metric: Metric, places: Sequence[str], *changes: Intervention
) -> tuple[Float[Tensor, "prompt"], list[Float[Tensor, "row *rest"]]]:
    """The metric of each prompt and the activations at the places that led to it, in one pass, ready for a gradient.

    ``changes`` are at work during the pass. To be called inside ``torch.enable_grad()``.
    """
    seen: list[Tensor] = []
    start = add("hook_embed", torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True))
    n = tokens_read(metric)
    ends = unembed_only_at(texts.last_positions(n))
    with intervene(model, start, *changes, *(watch(place, seen.append) for place in places), ends):
        values = measure(metric, model(texts.tokens.to(model.cfg.device)), texts.last(n))
    if not values.requires_grad:
        raise ValueError("The metric has no gradient: it must be computed from the logits by differentiable steps, so without argmax.")
    return values, seen


def token_set_log_odds(ids: Sequence[int], against: Sequence[int] | None = None) -> Metric:
    """The log-odds that one of some tokens comes next, and not one of ``against`` (``None``: any other).

    With the first tokens of refusals this is the refusal score of Arditi et al. (section 2.3). Where answers begin with many
    words, some of which begin refusals as well, ``against`` are those that begin none.
    """

    def metric(logits: Float[Tensor, "prompt pos d_vocab"]) -> Float[Tensor, "prompt"]:
        logp = logits[:, -1].double().log_softmax(-1)
        inside = torch.zeros(logp.shape[-1], dtype=torch.bool, device=logp.device)
        inside[list(ids)] = True
        others = ~inside if against is None else list(against)
        return (logp[:, inside].logsumexp(-1) - logp[:, others].logsumexp(-1)).float()

    return metric


def _one_a_prompt(pos: Index, texts: Texts) -> bool:
    return torch.is_tensor(pos) and pos.ndim == 1 and len(pos) == len(texts)


def _position(pos: Index, texts: Texts) -> Index:
    """A position as interventions want it: one number, or one a prompt, counts from each prompt's own end if it is negative."""
    if not isinstance(pos, int) and not _one_a_prompt(pos, texts):
        return pos
    asked = torch.as_tensor(pos).expand(len(texts))
    places = torch.where(asked < 0, texts.lengths + asked, asked)
    if bool((wrong := (places < 0) | (places >= texts.lengths)).any()):
        shortest = int(texts.lengths.min())
        raise ValueError(f"There is no position {int(asked[wrong][0])} in every prompt: the shortest has {shortest} tokens.")
    return places
