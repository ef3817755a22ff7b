"""The widgets of lesson 02c, "All the vectors at once": browse features, and hold one of them fixed."""

import ipywidgets
import torch

from helpers.html import activation_html
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder, clamp_feature
from helpers.one_layer.concepts import ends_of
from helpers.one_layer.features import FeatureActivations, feature_contexts, max_activations, promoted_by
from helpers.one_layer.widgets_directions import answer_with, cut
from helpers.texts import Texts, as_texts
from helpers.widgets import LARGEST, Demo, as_text, number_field, promoted_html, slider, text_field, tick_box, within

BINS = 12


@as_text
def feature_html(
    model: TransformerBridge,
    sae: SparseAutoencoder,
    texts: Texts,
    features: FeatureActivations,
    word: str,
    feature: int,
    search: bool = False,
) -> str:
    """One feature as HTML: top contexts, promoted tokens, a histogram. ``search``: the one that is strongest on ``word`` in these texts."""
    number = strongest_on(model, texts, features, word) if search else int(feature)
    sae.check_feature(number)
    values = features.column(number)
    active = values[values > 0]
    if not len(active):
        return f"<p><b>Feature {number}</b> is never active on these {features.n_tokens:,} tokens: dead, or waiting for something rare.</p>"
    shown = [context.around(10, 4) for context in feature_contexts(model, texts, features, number, 6)]
    best = "".join(activation_html(context.pieces, context.values, scale=active.max().item(), n_words=1) for context in shown)
    facts = f"active on {len(active) / features.n_tokens:.2%} of {features.n_tokens:,} tokens, highest {active.max():.1f}"
    return (
        f"<p><b>Feature {number}</b>: {facts}</p><p><b>How strong it is where it is active</b><br>{_histogram(active)}</p>"
        f"<p><b>Where it is strongest</b></p>{best}{promoted_html(promoted_by(model, sae, number, 8))}"
    )


def strongest_on(model: TransformerBridge, texts: Texts, features: FeatureActivations, word: str) -> int:
    """The feature whose activation on a word's last token is highest on average. Raises ValueError where there is none."""
    ids = as_texts(model, [word]).tokens[0].tolist()[int(model.cfg.default_prepend_bos) :]
    here = ends_of(texts, ids)[texts.mask]
    if not here.any():
        raise ValueError(f"{word.strip()!r} does not stand in these texts: look for another word.")
    inside = here[features.tokens]
    totals = torch.zeros(len(features)).index_add_(0, features.features[inside], features.values[inside])
    if not totals.any():
        raise ValueError(f"No feature is active on {word.strip()!r} in these texts: look for another word.")
    return int(totals.argmax())


def _histogram(active: torch.Tensor) -> str:
    """Bars made of blocks, from the weakest to the strongest activation, with the ends of the scale in words."""
    counts = torch.histc(active, BINS, min=0.0, max=active.max().item())
    blocks = "".join("▁▂▃▄▅▆▇█"[int((7 * count / counts.max()).round())] if count else "·" for count in counts)
    return f"<code>{blocks}</code> from 0 to {active.max():.1f}"


class FeatureBrowser(Demo):
    """A word to search for, or a feature's number, and a ``panel`` with what is known of the feature."""

    def __init__(
        self, model: TransformerBridge, sae: SparseAutoencoder, texts: Texts, features: FeatureActivations, word: str, search: bool = True
    ) -> None:
        super().__init__(
            "A browser for features",
            lambda **values: feature_html(model, sae, texts, features, **values),
            {
                "word": text_field(word, "Word", width="16em"),
                "search": tick_box(search, "the feature that is strongest on this word"),
                "feature": number_field(0, 0, sae.d_sae - 1, "Feature"),
            },
        )

    def settings(self) -> dict[str, ipywidgets.Widget]:
        """Where a word is searched for, the number plays no part."""
        return {name: control for name, control in self.controls.items() if name != "feature" or not self.search.value}


@as_text
def clamp_html(model: TransformerBridge, sae: SparseAutoencoder, peaks: torch.Tensor, prompt: str, feature: int, multiple: float) -> str:
    """What follows a prompt with a feature held at a multiple of its highest activation, as HTML, and how odd the plain model finds it."""
    sae.check_feature(int(feature))
    value = within(multiple, LARGEST, "multiple") * peaks[int(feature)].item()
    text, note = cut(model, prompt)
    held = clamp_feature(sae, sae.hook, int(feature), value)
    return note + answer_with(model, text, "As it is") + answer_with(model, text, f"Feature {feature} held at {value:.1f}", held)


class ClampBench(Demo):
    """Controls for a prompt, a feature and a multiple of its highest activation, and a ``panel`` with the text and its perplexity."""

    def __init__(
        self,
        model: TransformerBridge,
        sae: SparseAutoencoder,
        features: FeatureActivations,
        feature: int,
        prompt: str,
        multiple: float = 1.0,
    ) -> None:
        peaks = max_activations(features)
        super().__init__(
            "Hold a feature fixed here",
            lambda **values: clamp_html(model, sae, peaks, **values),
            {"prompt": text_field(prompt, "Prompt")},
            {
                "feature": number_field(feature, 0, sae.d_sae - 1, "Feature"),
                "multiple": slider(multiple, -5, 10, "Multiple of its highest", step=0.1),
            },
        )
