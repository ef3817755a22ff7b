"""The exercises of notebook 02c, "One layer: all the vectors at once": what each asks for, and what its check says to an answer."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_unlike
from helpers.exercises import Exercises
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.one_layer.features import FeatureActivations

exercises = Exercises("02c_one_layer_sparse_autoencoders")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

FOUND = 0.7  # the F1 that exercise 2.9 asks for


@exercises.add("2.7", "Encode by hand", minutes=8)
def encode(answer: Any, sae: SparseAutoencoder, x: Float[Tensor, "token d_model"]) -> str:
    """The features of some states, ``[token, d_sae]``, from the autoencoder's weights."""
    features = expect_tensor(answer, len(x), sae.d_sae, what="your features")
    before = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    expect(bool((features >= 0).all()), "Some of your features are negative; here nothing is less than absent: is the ReLU missing?")
    mistakes = {"The encoder reads x - b_dec, not x itself.": (x @ sae.W_enc + sae.b_enc).relu()}
    if sae.kind == "topk":
        active = (features > 0).sum(1).float().mean()
        mistakes[f"On average {active:.0f} of your features are active: of these only the {sae.k} largest of each token stay."] = (
            before.relu()
        )
    expect_unlike(features, mistakes, 1e-3)
    hint = "Subtract b_dec, multiply with W_enc, add b_enc, ReLU, keep the k largest."
    expect_close(features, sae.encode(x), "your features", hint, 1e-3)
    return f"The same as sae.encode on all {features.numel():,} numbers, of which {(features > 0).float().mean():.1%} are not 0."


@exercises.add("2.8", "How much is explained?", minutes=6)
def explained(answer: Any) -> str:
    """A function from states and what an autoencoder made of them, both ``[token, d_model]``, to the share of variance explained."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=rng) + 3
    written = x + 0.5 * torch.randn(50, 6, generator=rng)
    number = expect_number(function(x.clone(), written.clone()), what="what your function returns")
    lost = (x - written).square().sum()
    right = 1 - lost / (x - x.mean(0)).square().sum()
    length = "You compare with the states' whole length. Their mean is no achievement: subtract x.mean(0) in the denominator."
    one_mean = "x.mean() is one number for everything; each dimension has a mean of its own: x.mean(0)."
    mistakes = {length: 1 - lost / x.square().sum(), one_mean: 1 - lost / (x - x.mean()).square().sum()}
    expect_unlike(number, mistakes | {"That is the share that is lost; what is explained is the rest.": 1 - right})
    expect_close(
        number,
        right,
        "what your function returns",
        "Two sums of squares: what the autoencoder leaves over, and what there was to explain.",
        1e-3,
    )
    return "Squared error against squared distance from the mean: 1 is perfect, 0 is no better than always writing the mean."


@exercises.add("2.9", "The feature for a concept", minutes=10)
def feature_for(answer: Any, features: FeatureActivations, labels: Bool[Tensor, "token"]) -> str:
    """A feature and a threshold that find the tokens of a concept on texts that were not used for choosing."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the feature's number, and the threshold.")
    [feature] = expect_indices(answer[0], "your feature", feature=len(features))
    threshold = expect_number(answer[1], what="your threshold")
    yes = features.column(feature) >= threshold
    expect(bool(yes.any()), f"Feature {feature} never reaches {threshold:.3g} here: is the threshold too high, or the feature dead?")
    right = (yes & labels).sum().item()
    precision, recall = right / int(yes.sum()), right / int(labels.sum())
    f1 = 2 * right / (int(yes.sum()) + int(labels.sum()))
    weak = "It finds most of them, and much else: raise the threshold. " if precision < recall else "It misses many of them. "
    expect(f1 >= FOUND, f"Precision {precision:.2f}, recall {recall:.2f}, F1 {f1:.2f}; {FOUND} is wanted. {weak}Is there a better feature?")
    return f"Precision {precision:.2f}, recall {recall:.2f}, F1 {f1:.2f}, on texts that you have not seen."


@exercises.add("2.10", "Hold a feature, keep the rest", minutes=8)
def hold(answer: Any) -> str:
    """A function from states ``[token, d_model]``, a feature's activations ``[token]``, a value, and its direction ``[d_model]``."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    x, own, direction = torch.randn(5, 8, generator=rng), torch.rand(5, generator=rng), torch.randn(8, generator=rng)
    direction /= direction.norm()
    result = expect_tensor(function(x.clone(), own.clone(), 2.0, direction.clone()), 5, 8, what="what your function returns")
    gone = "Everything else is gone: other features, and what the autoencoder cannot write. Only this feature may change."
    on_top = "You add the value on top of what the feature has already: the feature is to be 2, not 2 more."
    expect_unlike(result, {on_top: x + 2 * direction, gone: 2 * direction})
    expect_close(
        result,
        x + (2 - own)[:, None] * direction,
        "what your function returns",
        "Take away what the feature has, give it the value instead, and touch nothing else.",
        1e-3,
    )
    return "The feature is held, and all that the autoencoder does not know of stays as it was."


@exercises.add("2.11", "Why is it silent?", minutes=10, core=False)
def silent(answer: Any, sae: SparseAutoencoder, x: Float[Tensor, "token d_model"]) -> str:
    """A feature that is never active on some states, and its highest value before ReLU and selection."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the feature's number, and its highest value.")
    [feature] = expect_indices(answer[0], "your feature", feature=sae.d_sae)
    number = expect_number(answer[1], what="your number")
    active = (sae.encode(x)[:, feature] > 0).float().mean().item()
    expect(active == 0, f"Feature {feature} is active on {active:.2%} of these tokens: it is alive.")
    before = ((x - sae.b_dec) @ sae.W_enc[:, feature] + sae.b_enc[feature]).max().item()
    expect_close(number, before, "your number", "(x - b_dec) @ W_enc[:, feature] + b_enc[feature], then the maximum.", 1e-2)
    if before <= 0:
        return f"At best {before:.2f}, below zero: nothing in these texts points its way far enough."
    return f"It does rise, to {before:.2f}, but on every token {sae.k} others rise higher: it is crowded out, not blind."
