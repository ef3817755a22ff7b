"""The widgets of lesson 2b: what they show is true of features, texts and activations that are computed here by other means."""

import re
from html import escape

import pytest
import torch
from torch import Tensor
from widget_tools import (
    HOOK,
    alive,
    as_before,
    changed,
    features,
    numbers,
    perplexity_of,
    randn,
    sae,
    small_world,
    texts,
    tiny,
    writer,
)

from helpers.interventions import record
from helpers.one_layer import widgets_directions as benches
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.one_layer.features import FeatureActivations, max_activations
from helpers.one_layer.widgets_autoencoders import ClampBench, FeatureBrowser, feature_html, strongest_on
from helpers.one_layer.widgets_directions import ANSWER
from helpers.prediction import pieces, sample, tokenize, visible
from helpers.texts import as_texts
from helpers.widgets import html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

WORD, PROMPT = "Paris", "Taipei 101"

browse = writer(FeatureBrowser)
clamp = writer(ClampBench)


def hand_made(n_tokens: int, *found: dict[int, float]) -> FeatureActivations:
    """Features by hand: for each its activation on some tokens."""
    tokens = torch.tensor([token for feature in found for token in feature], dtype=torch.long)
    values = torch.tensor([value for feature in found for value in feature.values()])
    return FeatureActivations(values, tokens, torch.tensor([0, *map(len, found)]).cumsum(0), n_tokens)


def one_feature() -> SparseAutoencoder:
    return SparseAutoencoder(randn(32, 1), randn(1), randn(1, 32), randn(32), hook=HOOK)


def plain() -> list[Tensor]:
    """All features on every text, ``[pos, feature]`` from position 1 on, each text run by itself."""
    cut = [row[:length] for row, length in zip(texts().tokens, texts().lengths.tolist(), strict=True)]
    return [sae().encode(record(tiny(), row[None], HOOK)[HOOK][0, 1:]) for row in cut]


def test_the_browser_shows_how_often_how_strong_and_where():
    number = alive()[1]
    on_texts = [values[:, number] for values in plain()]
    everything, html = torch.cat(on_texts), browse(WORD, number)
    active = everything[everything > 0]
    facts = f"active on {len(active) / len(everything):.2%} of {len(everything)} tokens, highest {active.max():.1f}"
    assert html_to_text(html).startswith(f"Feature {number} : {facts}") and len(active) < len(everything) / 2
    best = sorted((values for values in on_texts if values.max() > 0), key=lambda values: -values.max().item())
    shown = re.findall(r"most on .*? \(([\d.]+)\)", html_to_text(html))
    assert len(best) > 1 and [float(value) for value in shown] == pytest.approx([v.max().item() for v in best[:6]], abs=0.051)


def test_the_contexts_of_the_browser_are_cut_around_their_peak_and_share_one_scale():
    found = hand_made(33, {20: 4.0, 2: 3.0, 31: 2.0})
    html = feature_html(tiny(), one_feature(), as_texts(tiny(), ["x" * 30, "y" * 3]), found, "", 0)
    spans = re.findall(r'<span title="([^"]*)" style="([^"]*)">', html)
    assert [title for title, _ in spans] == ["x 0.00"] * 10 + ["x 4.00"] + ["x 0.00"] * 4 + ["y 0.00", "y 2.00", "y 0.00"]
    assert [re.findall(r",([\d.]+)\)", style) for _, style in spans if style] == [["0.60"], ["0.30"]]


def test_the_browser_lists_what_the_direction_promotes_and_suppresses():
    logits = sae().W_dec[alive()[0]] @ tiny().W_U
    order = [*logits.argsort(descending=True)[:8], *logits.argsort()[:8]]
    codes = re.findall(r"<code>(.*?)</code>", browse(WORD, alive()[0]).split("It promotes")[1], re.DOTALL)
    assert codes == [escape(visible(piece)) for piece in pieces(tiny(), torch.stack(order))]


def test_the_histogram_counts_the_activations_from_0_to_the_highest():
    values = dict(enumerate([12.0, 1.5, 1.0, 1.25, 5.0, 5.5]))  # 12 bars: one each, and 3, 2 and 1 of the values in three of them
    ten = as_texts(tiny(), ["x" * 10])
    html = feature_html(tiny(), one_feature(), ten, hand_made(10, values), "", 0)
    assert "<code>·█···▆·····▃</code> from 0 to 12.0" in html and "active on 60.00% of 10 tokens, highest 12.0" in html_to_text(html)
    assert "<code>···········█</code> from 0 to 0.2" in feature_html(tiny(), one_feature(), ten, hand_made(10, {3: 0.25}), "", 0)


def test_a_dead_feature_is_called_dead():
    dead = int((features().active_share == 0).nonzero()[0])
    assert html_to_text(browse(WORD, dead)) == (
        f"Feature {dead} is never active on these {features().n_tokens} tokens: dead, or waiting for something rare."
    )


def test_a_word_leads_to_the_feature_that_is_strongest_on_its_last_token():
    seen = set()
    for word in (" Paris", " in", "at", "o", "."):
        ids, values = tokenize(tiny(), word)[1:].tolist(), []
        for row, on_text in zip(texts().tokens.tolist(), plain(), strict=True):
            ends = [pos for pos in range(len(ids), len(on_text) + 1) if row[pos + 1 - len(ids) : pos + 1] == ids]
            values += [on_text[pos - 1] for pos in ends]
        number = int(torch.stack(values).mean(0).argmax())
        assert strongest_on(tiny(), texts(), features(), word) == number
        assert browse(word, alive()[0], search=True) == browse("", number) and f"Feature {number} " in html_to_text(browse("", number))
        seen.add(number)
    assert len(seen) > 2


def test_all_tokens_of_a_word_count():
    abxb = as_texts(tiny(), ["abxb"])
    assert pieces(tiny(), abxb.tokens[0, 1:]) == list("abxb")
    found = hand_made(4, {3: 9.0}, {1: 5.0}, {0: 7.0, 2: 1.0})
    assert [strongest_on(tiny(), abxb, found, word) for word in ("ab", "xb", "b", "a", "x", "abxb")] == [1, 0, 0, 2, 2, 0]


def test_a_word_is_looked_for_from_its_first_token_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny().cfg, "default_prepend_bos", False)  # no mark in front, so that a text may begin in the midst of a word
    two = as_texts(tiny(), ["bcz", "zabc"])
    found = hand_made(5, {0: 9.0, 1: 1.0}, {4: 5.0})  # position 0 of a text is no token
    assert strongest_on(tiny(), two, found, "abc") == 1 and strongest_on(tiny(), two, found, "bc") == 0


@pytest.mark.parametrize(
    "word, sentence",
    [
        *((word, f"'{word}' does not stand in these texts: look for another word.") for word in ("zzz", "<b>", "x" * 500)),
        ("", "Prompt 0 has no word in it (prompts are counted from 0): write something there."),
    ],
    ids=["absent", "markup", "longer than the model reads", "nothing"],
)
def test_a_word_that_cannot_be_found_is_answered_in_a_sentence(word: str, sentence: str):
    assert browse(word, 0, search=True) == f"<p>{escape(sentence)}</p>"


def test_features_that_do_not_fit_the_texts_are_answered_in_a_sentence():
    ab = as_texts(tiny(), ["ab"])
    html = feature_html(tiny(), sae(), ab, hand_made(2, {0: 1.0}), "b", 0, search=True)
    assert html == "<p>No feature is active on &#x27;b&#x27; in these texts: look for another word.</p>"
    html = feature_html(tiny(), sae(), ab, features(), WORD, alive()[0])
    assert html == f"<p>The features are those of {features().n_tokens} tokens, the texts have 2: give the same texts.</p>"


def test_a_browser_may_begin_with_a_number_which_counts_while_no_word_is_looked_for():
    browser = FeatureBrowser(tiny(), sae(), texts(), features(), WORD, search=False)
    assert browser.panel.value == browse(WORD, 0) and "Feature <b>" in browser.frame()
    browser.search.value = True
    browser.feature.value = alive()[1]
    assert browser.panel.value == browse(WORD, 0, search=True) and "Feature <b>" not in browser.frame()


def answers(html: str) -> list[str]:
    """The texts in a panel, as HTML."""
    return re.findall(r"<span style='white-space:pre-wrap'>(.*?)</span>", html, re.DOTALL)


@pytest.mark.parametrize("multiple", [2.0, -0.5, 0.0])
def test_the_clamp_shows_what_follows_with_the_feature_held(multiple: float):
    feature = alive()[2]
    value = multiple * max_activations(features())[feature].item()

    def held(x: Tensor) -> Tensor:
        return x + (value - sae().encode(x)[..., feature, None]) * sae().W_dec[feature]

    before, after = (changed(tiny(), some, lambda: sample(tiny(), PROMPT, ANSWER, temperature=0).strip()) for some in ({}, {HOOK: held}))
    html = clamp(PROMPT, feature, multiple)
    assert answers(html) == [escape(before), escape(after)] and (before != after or multiple == 0)
    expected = [perplexity_of(tiny(), f"{PROMPT} {text}") for text in (before, after)]
    assert numbers(html, "perplexity to the plain model #") == pytest.approx(expected, abs=0.06)
    assert html.index("<b>As it is</b>") < html.index(f"<b>Feature {feature} held at {value:.1f}</b>")


@pytest.mark.parametrize("said, shown", [("", "nothing: the answer ends at once"), ("<b>&amp;", "&lt;b&gt;&amp;amp;")])
def test_an_answer_that_ends_at_once_is_put_in_words_and_none_is_markup(monkeypatch: pytest.MonkeyPatch, said: str, shown: str):
    monkeypatch.setattr(benches, "generate", lambda *arguments: [said])
    assert answers(clamp(PROMPT, 0, 1.0)) == [shown] * 2
