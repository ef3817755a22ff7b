"""The exercises of notebook 02c, "One layer: all the vectors at once": what each asks for, and what its check says to an answer."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_unlike
from helpers.exercises import Exercises
from helpers.one_layer.autoencoders import SparseAutoencoder, layer_of
from helpers.one_layer.features import FeatureActivations

exercises = Exercises("02c_one_layer_sparse_autoencoders")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

FOUND = 0.8  # the F1 that exercise 2.9 asks for


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
    hint = "Go through the formula of section 1 name by name: is each part there, and in its order?"
    expect_close(features, sae.encode(x), "your features", hint, 1e-3)
    return f"The same as sae.encode on all {features.numel():,} numbers, of which {(features > 0).float().mean():.1%} are not 0."


@exercises.add("2.8", "Which state is it?", minutes=8)
def which_state(answer: Any, hook: str, n_layers: int) -> str:
    """The entry of the ``hidden_states`` of transformers that a hook names, and the block whose output is not among them."""
    entry, block = expect_indices(answer, entry=n_layers + 1, block=n_layers)
    before = "That is the stream as it enters the block. The hook's name ends in post: is it the stream before the block, or behind it?"
    expect(entry != layer_of(hook), before)
    expect(entry == layer_of(hook) + 1, f"Entry {entry} is another state: where is the cosine with ours nearest to 1?")
    every = "That block's output is there as it leaves the block. Is that so for each entry? Look at what comes before the unembedding."
    expect(block == n_layers - 1, every)
    return "Entry i + 1 is the output of block i, except for the last one, which has gone through the final norm."


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


@exercises.add("2.10", "A control as strong", minutes=8)
def same_push(answer: Any) -> str:
    """A function from states ``[token, d_model]``, a feature's activations, its value, and another direction, to states of the control."""
    function = expect_callable(answer)
    rng = torch.Generator().manual_seed(0)
    x, own, other = torch.randn(5, 8, generator=rng), torch.rand(5, generator=rng), torch.randn(8, generator=rng)
    other /= other.norm()
    result = expect_tensor(function(x.clone(), own.clone(), 2.0, other.clone()), 5, 8, what="what your function returns")
    longer = "Your push is as long as the value. The feature has something already, so that it is pushed less far: how far?"
    backwards = "Your push is as long as it should be, and points the other way: is the value above what the feature has, or below?"
    gone = "The states themselves are gone: the control adds to them, and leaves all else as it was."
    push = (2 - own)[:, None] * other
    expect_unlike(result, {longer: x + 2 * other, backwards: x - push, gone: push})
    expect_close(result, x + push, "what your function returns", "On each token: how long is the push, and which way does it go?", 1e-3)
    return "As long as the push of the feature, on every token, and along a stranger: what it does, any push of that length may do."


@exercises.add("2.11", "Why is it silent?", minutes=10, core=False)
def silent(answer: Any, sae: SparseAutoencoder, x: Float[Tensor, "token d_model"]) -> str:
    """A feature that is never active on some states, and its highest value before ReLU and selection."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: the feature's number, and its highest value.")
    [feature] = expect_indices(answer[0], "your feature", feature=sae.d_sae)
    number = expect_number(answer[1], what="your number")
    active = (sae.encode(x)[:, feature] > 0).float().mean().item()
    expect(active == 0, f"Feature {feature} is active on {active:.2%} of these tokens: it is alive.")
    before = ((x - sae.b_dec) @ sae.W_enc[:, feature] + sae.b_enc[feature]).max().item()
    expect_close(number, before, "your number", "It is what the encoder says of this feature, on the token where it says most.", 1e-2)
    if before <= 0:
        return f"At best {before:.2f}, below zero: nothing in these texts points its way far enough."
    return f"It does rise, to {before:.2f}, but on every token {sae.k} others rise higher: it is crowded out, not blind."
