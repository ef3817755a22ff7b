"""The features of a sparse autoencoder, looked at: where each is active in a corpus, what it promotes, and which concept it stands for.

    found = feature_activations(sae, activations_of(model, texts, sae.hook))
    for context in feature_contexts(model, texts, found, feature=7):
        print(context.around())

Features are scored against concepts one by one (``best_features``), and neurons or random directions in the same way beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Context, Promoted, contexts_of, promoted_tokens
from helpers.interventions import Index
from helpers.metrics import AFTER_FIRST, Metric, run_with_gradients, selected
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder, layer_of
from helpers.progress import progress
from helpers.running import read_suffix
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

ENCODED_NUMBERS = 500_000  # features (with their zeros) that are encoded at once: 2 MB
SORTED_NUMBERS = 2_000_000  # that are sorted at once, some 50 MB of memory
MOST_ANSWERS = 10  # times as often as a concept occurs: with more "yes" than that no F1 is above 0.19
COPIES = 128  # of a prompt that are run at once, each with a cache of its own


@dataclass(frozen=True)
class FeatureActivations:
    """The active features of all tokens of some texts, feature by feature, without their zeros.

    Feature k is active on ``tokens[starts[k]:starts[k + 1]]``, with ``values`` at the same places. Tokens are numbered as in
    ``texts.mask.nonzero()``.
    """

    values: Float[Tensor, "active"]
    tokens: Int[Tensor, "active"]
    starts: Int[Tensor, "bounds"]
    n_tokens: int

    def __len__(self) -> int:
        """How many features there are."""
        return len(self.starts) - 1

    @property
    def features(self) -> Int[Tensor, "active"]:
        """The feature of each value."""
        return torch.arange(len(self)).repeat_interleave(self.starts.diff())

    @property
    def active_share(self) -> Float[Tensor, "feature"]:
        """The share of tokens on which each feature is active."""
        return self.starts.diff() / self.n_tokens

    def columns(self, start: int, stop: int) -> Float[Tensor, "token feature"]:
        """Some features on every token, zeros written out."""
        here = slice(int(self.starts[start]), int(self.starts[stop]))
        dense = torch.zeros(stop - start, self.n_tokens)
        dense[self.features[here] - start, self.tokens[here]] = self.values[here]
        return dense.T

    def column(self, feature: int) -> Float[Tensor, "token"]:
        """One feature on every token. Raises ValueError where there is no such feature."""
        if not 0 <= feature < len(self):
            raise ValueError(f"There is no feature {feature}: there are {len(self)}, numbered 0 to {len(self) - 1}.")
        return self.columns(feature, feature + 1)[:, 0]


Features = Float[Tensor, "_ _"] | FeatureActivations  # [token, feature], with or without zeros


@torch.no_grad()
def feature_activations(sae: SparseAutoencoder, activations: Float[Tensor, "token d_model"]) -> FeatureActivations:
    """The features of many activations, such as ``activations_of(model, texts, hook)``."""
    rows_at_once = max(1, ENCODED_NUMBERS // sae.d_sae)
    values, tokens, features = [torch.empty(0)], [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    for number, rows in enumerate(progress(activations.split(rows_at_once), desc="features")):
        found = sae.encode(rows.to(sae.W_enc)).cpu()
        token, feature = found.nonzero(as_tuple=True)
        values.append(found[token, feature])
        tokens.append(token + number * rows_at_once)
        features.append(feature)
    feature, order = torch.cat(features).sort(stable=True)
    starts = torch.searchsorted(feature, torch.arange(sae.d_sae + 1))
    return FeatureActivations(torch.cat(values)[order], torch.cat(tokens)[order], starts, len(activations))


def max_activations(features: FeatureActivations) -> Float[Tensor, "feature"]:
    """The highest activation of each feature, 0 where it is never active: the measure of how strongly to steer with it."""
    return torch.zeros(len(features)).scatter_reduce_(0, features.features, features.values, "amax")


def feature_contexts(model: TransformerBridge, texts: Texts, features: FeatureActivations, feature: int, n: int = 10) -> list[Context]:
    """The ``n`` texts in which a feature rises highest, with its activation on every token; the mark is cut off.

    ``features`` belong to all tokens of ``texts``. Fewer than ``n`` where it is active in fewer texts.
    """
    if features.n_tokens != texts.n_tokens:
        raise ValueError(f"The features are those of {features.n_tokens} tokens, the texts have {texts.n_tokens}: give the same texts.")
    on_texts = torch.zeros(texts.tokens.shape)
    on_texts[texts.mask] = features.column(feature)
    peaks, rows = on_texts.amax(1).sort(descending=True, stable=True)
    best = rows[: int((peaks[:n] > 0).sum())]
    return contexts_of(model, texts, best.tolist(), on_texts[best])


def mean_over_texts(features: Features, texts: Texts) -> Float[Tensor, "text feature"]:
    """The mean activation of each feature over the tokens of each text: what the text as a whole is about.

    ``features`` (or neurons) are those of all tokens of ``texts``; ValueError if they are not.
    """
    n_features, n_tokens = _sizes(features)
    if n_tokens != texts.n_tokens:
        raise ValueError(f"The features are those of {n_tokens} tokens, the texts have {texts.n_tokens}: give the same texts.")
    text_of = texts.mask.nonzero()[:, 0]  # [token]
    sums = torch.zeros(len(texts), n_features)
    if torch.is_tensor(features):
        for start in range(0, n_features, 256):  # of all at once a copy would be as large as the features
            sums[:, start : start + 256].index_add_(0, text_of, features[:, start : start + 256].float())
    else:
        sums.flatten().index_add_(0, text_of[features.tokens] * n_features + features.features, features.values)
    return sums / texts.mask.sum(1).clamp(min=1)[:, None]


def promoted_by(model: TransformerBridge, sae: SparseAutoencoder, feature: int, k: int = 10) -> Promoted:
    """The ``k`` tokens that a feature's direction promotes most, and the ``k`` that it suppresses most: ``W_dec[k] @ W_U``."""
    sae.check_feature(feature)
    logits = (sae.W_dec[feature].to(model.W_U) @ model.W_U).detach().float().cpu()
    return Promoted(layer_of(sae.hook), feature, *promoted_tokens(model, logits, k))


def attribute_features(
    model: TransformerBridge, sae: SparseAutoencoder, prompts: TextsLike, metric: Metric, pos: Index = AFTER_FIRST
) -> Float[Tensor, "prompt d_sae"]:
    """For each prompt and feature an estimate of how much the metric changes when the feature is taken away, in one pass.

    ``-a_k (W_dec[k] . gradient)``, summed over the positions of ``pos``: attribution patching (Nanda 2023), with a feature in
    place of a neuron (Templeton et al. 2024, section on attribution).
    """
    texts = as_texts(model, prompts)
    where = selected(pos, texts)
    with torch.enable_grad():
        values, [states] = run_with_gradients(model, texts, metric, [sae.hook])
        [slopes] = torch.autograd.grad(values.sum(), [states])
    with torch.no_grad():
        effects = -sae.encode(states.float()) * (slopes.float() @ sae.W_dec.T)
    return (effects.cpu() * where[..., None]).sum(1)


@torch.no_grad()
def with_pushes(
    model: TransformerBridge,
    prompts: TextsLike,
    layer: int,
    pushes: Callable[[Float[Tensor, "d_model"], int], Float[Tensor, "copy d_model"]],
    read: Callable[[Float[Tensor, "copy d_vocab"]], Tensor],
    back: int = 1,
) -> list[Tensor]:
    """For each prompt what ``read`` takes from the logits of many copies of it, each with another vector added after block ``layer``.

    The vectors go to the state ``back`` tokens before the end (1: the last token); ``pushes`` makes them from that state and the
    prompt's number. What stands before it is read once, and the blocks up to ``layer`` as well.
    """
    texts, found = as_texts(model, prompts), {}
    for length in texts.lengths.unique().tolist():
        rows = (texts.lengths == length).nonzero().flatten()
        suffix = read_suffix(model, texts.take(rows).tokens, length - back, [layer + 1])
        entering = suffix.entering[layer + 1]  # [row, pos, d_model]
        added = [pushes(entering[at, 0], row) for at, row in enumerate(rows.tolist())]
        own = torch.arange(len(rows)).repeat_interleave(torch.tensor(list(map(len, added))))  # [copy]
        stream = entering[own].clone()
        stream[:, 0] += torch.cat(added)
        logits = [
            suffix.logits(model, layer + 1, own[part], torch.full_like(part, length - 1), stream=stream[part])
            for part in torch.arange(len(own)).split(COPIES)
        ]
        found |= {row: read(part) for row, part in zip(rows.tolist(), torch.cat(logits).split(list(map(len, added))), strict=True)}
    return [found[row] for row in range(len(texts))]


@dataclass(frozen=True)
class ConceptScores:
    """For each concept the best single feature with its threshold, chosen on one half (validation); scores are those on the other (test).

    A feature says "yes" where it is ``threshold`` or higher. ``f1_validation`` is what it reached on the validation half.
    """

    names: tuple[str, ...]
    feature: Int[Tensor, "concept"]
    threshold: Float[Tensor, "concept"]
    precision: Float[Tensor, "concept"]
    recall: Float[Tensor, "concept"]
    f1: Float[Tensor, "concept"]
    f1_validation: Float[Tensor, "concept"]
    n_tokens: Int[Tensor, "concept"]

    def __len__(self) -> int:
        """How many concepts there are."""
        return len(self.names)

    def share(self, f1: float = 0.8) -> float:
        """The share of the concepts that have a feature of this F1 or better."""
        return (self.f1 >= f1).float().mean().item()

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` concepts that are found best."""
        best = self.f1.argsort(descending=True, stable=True)[:n]
        numbers = [self.feature, self.precision, self.recall, self.f1, self.n_tokens]
        rows = zip([self.names[at] for at in best.tolist()], *(column[best].tolist() for column in numbers), strict=True)
        columns = {"concept": f"<{max(7, *map(len, self.names))}", "feature": "7"}
        return table(columns | {"precision": "10.3f", "recall": "7.3f", "F1": "6.3f", "tokens": "7"}, rows)


@torch.no_grad()
def best_features(
    features: Features,
    labels: Bool[Tensor, "token concept"],
    features_test: Features,
    labels_test: Bool[Tensor, "other concept"],
    names: Sequence[str] = (),
) -> ConceptScores:
    """For each concept the feature and threshold with the best F1 on one half of the tokens, and its scores on the other half.

    Features are compared by themselves, without any weighted sum. Every threshold is tried at which F1 can be highest: the
    activations on the tokens of the concept, but none at which it would be below 0.19. Neurons and random directions ``[token, n]``
    are measured in the same way; it is fair to take as many of them as there are features (and a direction twice, once with its sign
    turned, where values can be negative). Raises ValueError where a concept has no token on either side, or shapes do not fit.
    """
    names = _check_concepts(features, labels, features_test, labels_test, names)
    wanted = [labels[:, concept].nonzero().flatten() for concept in range(len(names))]
    best, feature, threshold = torch.zeros(len(names)), torch.zeros(len(names), dtype=torch.long), torch.zeros(len(names))
    n_features, n_tokens = _sizes(features)
    at_once, most = max(1, SORTED_NUMBERS // n_tokens), min(n_tokens, MOST_ANSWERS * max(map(len, wanted)))
    for start in progress(range(0, n_features, at_once), desc="features"):
        columns = _columns(features, start, min(start + at_once, n_features)).T.float().contiguous()  # [feature, token]
        yes = _tokens_at_or_above(columns, most)
        for concept, tokens in enumerate(wanted):
            f1, where = _best_f1(yes[:, tokens])
            if (top := f1.max()) > best[concept]:
                winner = int(f1.argmax())
                best[concept], feature[concept] = top, start + winner
                threshold[concept] = columns[winner, tokens[where[winner]]]
    scores = _scores(features_test, labels_test, feature, threshold)
    return ConceptScores(names, feature, threshold, *scores, best, labels_test.sum(0))


def _tokens_at_or_above(columns: Float[Tensor, "feature token"], most: int) -> Int[Tensor, "feature token"]:
    """For each value how many tokens of its row are as high or higher; all of them, where that is more than ``most``."""
    ordered, order = columns.topk(most, dim=1)
    last = torch.ones_like(ordered, dtype=torch.bool)  # of several equal values, the last one knows how many there are
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    n_tokens = columns.shape[1]
    if most < n_tokens:  # values as high as the last one may stand behind it as well
        last[:, -1] = False
    count = torch.arange(1, most + 1).expand_as(order)
    until = torch.where(last, count, n_tokens).flip(1).cummin(1).values.flip(1)
    return torch.full(columns.shape, n_tokens).scatter_(1, order, until)


def _best_f1(yes: Int[Tensor, "feature inside"]) -> tuple[Float[Tensor, "feature"], Int[Tensor, "feature"]]:
    """For each feature the best F1, and the token of the concept whose value is its threshold.

    ``yes`` says for each token of the concept how many tokens are as high: with that threshold so many are answered "yes".
    """
    answered, order = yes.sort(dim=1)
    right = torch.arange(1, yes.shape[1] + 1)  # of equal values the last one counts right, and has the higher F1
    f1, at = (2 * right / (answered + yes.shape[1])).max(1)
    return f1, order.gather(1, at[:, None])[:, 0]


def _scores(
    features: Features, labels: Bool[Tensor, "token concept"], feature: Int[Tensor, "concept"], threshold: Float[Tensor, "concept"]
) -> tuple[Float[Tensor, "concept"], Float[Tensor, "concept"], Float[Tensor, "concept"]]:
    """Precision, recall and F1 of one feature for each concept."""
    yes = torch.stack([_columns(features, k, k + 1)[:, 0].float() for k in feature.tolist()], 1) >= threshold
    right, answered, inside = (part.sum(0).float() for part in (yes & labels, yes, labels))
    return right / answered.clamp(min=1), right / inside, 2 * right / (answered + inside)


def _sizes(features: Features) -> tuple[int, int]:
    """How many features there are, and how many tokens."""
    return (features.shape[1], features.shape[0]) if torch.is_tensor(features) else (len(features), features.n_tokens)


def _columns(features: Features, start: int, stop: int) -> Float[Tensor, "token some"]:
    return features[:, start:stop] if torch.is_tensor(features) else features.columns(start, stop)


def _check_concepts(
    features: Features, labels: Tensor, features_test: Features, labels_test: Tensor, names: Sequence[str]
) -> tuple[str, ...]:
    """The names of the concepts, their numbers if they have none; ValueError if something does not fit."""
    (n_features, n_tokens), (n_test_features, n_test_tokens) = _sizes(features), _sizes(features_test)
    if n_features != n_test_features or (len(labels), len(labels_test)) != (n_tokens, n_test_tokens):
        raise ValueError("Both halves need the same features, and one row of labels for each token.")
    names = tuple(names) or tuple(map(str, range(labels.shape[1])))
    if not len(names) == labels.shape[1] == labels_test.shape[1]:
        raise ValueError(f"There are {labels.shape[1]} concepts and {len(names)} names: give one name for each, or none at all.")
    missing = ~(labels.any(0) & labels_test.any(0))
    if missing.any():
        raise ValueError(f"The concept {names[int(missing.nonzero()[0])]!r} has no token in one of the halves: leave it out or take more.")
    return names
