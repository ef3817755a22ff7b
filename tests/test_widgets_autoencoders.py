"""The widgets of lesson 2b, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

import re
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import ipywidgets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_autoencoders import HOOK, random_sae
from test_neurons import PROMPTS, as_before, tiny
from test_widgets_neurons import ENOUGH, NUMBERS, WORDS, answered, controls_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.interventions import record
from helpers.one_layer import widgets_autoencoders as benches
from helpers.one_layer.autoencoders import SparseAutoencoder, activations_of
from helpers.one_layer.features import FeatureActivations, feature_activations, max_activations
from helpers.one_layer.sae_training import PenaltySweep
from helpers.one_layer.widgets_autoencoders import (
    ANSWER,
    ClampBench,
    FeatureBrowser,
    SparsitySlider,
    clamp_html,
    feature_html,
    sparsity_html,
    strongest_on,
)
from helpers.one_layer.widgets_directions import LARGEST
from helpers.prediction import pieces, sample, tokenize, visible
from helpers.texts import Texts, as_texts
from helpers.widgets import readable

__all__ = ["as_before", "tiny"]  # the fixtures

FOUND = PenaltySweep((0.1, 0.5, 2.0, 8.0), l0=(9.0, 4.5, 2.0, 0.0), unexplained=(0.01, 0.02, 0.25, 1.0), mmcs=(0.5, 0.625, 0.98, 0.125))
WORD, PROMPT = "Paris", "Taipei 101"


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What the untouched model said in an earlier test is forgotten."""
    from helpers.one_layer.widgets_directions import oddness, plain_answer, plain_metric

    for remembered in (plain_answer, plain_metric, oddness):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def texts(tiny) -> Texts:
    return as_texts(tiny, [*PROMPTS, "a cat", "hello you"])


@pytest.fixture(scope="module")
def sae(tiny, texts) -> SparseAutoencoder:
    """Random directions around the mean of these texts, so that different tokens have different features."""
    mean, drawn = activations_of(tiny, texts, HOOK).mean(0), random_sae()
    return SparseAutoencoder(drawn.W_enc, torch.zeros(50), drawn.W_dec, mean, "topk", k=2, hook=HOOK)


@pytest.fixture(scope="module")
def features(tiny, sae, texts) -> FeatureActivations:
    return feature_activations(sae, activations_of(tiny, texts, HOOK))


@pytest.fixture(scope="module")
def peaks(features) -> Tensor:
    return max_activations(features)


@pytest.fixture(scope="module")
def alive(features) -> list[int]:
    """The features that are active anywhere, the most frequent one first."""
    order = features.active_share.argsort(descending=True, stable=True)
    return order[features.active_share[order] > 0].tolist()


@pytest.fixture
def browse(tiny, sae, texts, features):
    return partial(feature_html, tiny, sae, texts, features)


@pytest.fixture
def clamp(tiny, sae, peaks):
    return partial(clamp_html, tiny, sae, peaks)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a single token, so that many can be had in a moment."""
    monkeypatch.setattr(benches, "ANSWER", 1)


def hand_made(n_tokens: int, *features: dict[int, float]) -> FeatureActivations:
    """Features by hand: for each its activation on some tokens."""
    tokens = torch.tensor([token for feature in features for token in feature], dtype=torch.long)
    values = torch.tensor([value for feature in features for value in feature.values()])
    return FeatureActivations(values, tokens, torch.tensor([0, *map(len, features)]).cumsum(0), n_tokens)


# ------------------------------------------------------------------------------------------------- the browser: what is shown


def plain(model, sae: SparseAutoencoder, texts: Texts) -> list[Tensor]:
    """All features on every text, ``[pos, feature]`` from position 1 on, each text run by itself."""
    cut = [row[:length] for row, length in zip(texts.tokens, texts.lengths.tolist(), strict=True)]
    return [sae.encode(record(model, row[None], HOOK)[HOOK][0, 1:]) for row in cut]


def test_the_browser_shows_how_often_how_strong_and_where(tiny, sae, texts, browse, alive):
    number = alive[1]
    on_texts = [values[:, number] for values in plain(tiny, sae, texts)]
    everything, html = torch.cat(on_texts), browse(WORD, number)
    active = everything[everything > 0]
    facts = f"active on {len(active) / len(everything):.2%} of {len(everything)} tokens, highest {active.max():.1f}"
    assert readable(html).startswith(f"Feature {number} : {facts}") and len(active) < len(everything) / 2
    best = sorted((values for values in on_texts if values.max() > 0), key=lambda values: -values.max().item())
    shown = re.findall(r"most on .*? \(([\d.]+)\)", readable(html))
    assert len(best) > 1 and [float(value) for value in shown] == pytest.approx([v.max().item() for v in best[:6]], abs=0.051)


def test_the_contexts_of_the_browser_are_cut_around_their_peak_and_share_one_scale(tiny):
    texts = as_texts(tiny, ["x" * 30, "y" * 3])
    features = hand_made(33, {20: 4.0, 2: 3.0, 31: 2.0})
    html = feature_html(tiny, random_sae(d_sae=1), texts, features, "", 0)
    spans = re.findall(r'<span title="([^"]*)" style="([^"]*)">', html)
    assert [title for title, _ in spans] == ["x 0.00"] * 10 + ["x 4.00"] + ["x 0.00"] * 4 + ["y 0.00", "y 2.00", "y 0.00"]
    assert [re.findall(r",([\d.]+)\)", style) for _, style in spans if style] == [["0.60"], ["0.30"]]


def test_the_browser_lists_what_the_direction_promotes_and_suppresses(tiny, sae, browse, alive):
    logits = sae.W_dec[alive[0]] @ tiny.W_U
    order = [*logits.argsort(descending=True)[:8], *logits.argsort()[:8]]
    codes = re.findall(r"<code>(.*?)</code>", browse(WORD, alive[0]).split("It promotes")[1], re.DOTALL)
    assert codes == [escape(visible(piece)) for piece in pieces(tiny, torch.stack(order))]


def test_the_histogram_counts_the_activations_from_0_to_the_highest(tiny):
    texts = as_texts(tiny, ["x" * 10])
    values = dict(enumerate([12.0, 1.5, 1.0, 1.25, 5.0, 5.5]))  # 12 bars: one each, and 3, 2 and 1 of the values in three of them
    html = feature_html(tiny, random_sae(d_sae=1), texts, hand_made(10, values), "", 0)
    assert "<code>·█···▆·····▃</code> from 0 to 12.0" in html and "active on 60.00% of 10 tokens, highest 12.0" in readable(html)
    one = feature_html(tiny, random_sae(d_sae=1), texts, hand_made(10, {3: 0.25}), "", 0)
    assert "<code>···········█</code> from 0 to 0.2" in one


def test_a_dead_feature_is_called_dead(browse, features):
    dead = int((features.active_share == 0).nonzero()[0])
    assert readable(browse(WORD, dead)) == (
        f"Feature {dead} is never active on these {features.n_tokens} tokens: dead, or waiting for something rare."
    )


# ----------------------------------------------------------------------------------------------- the browser: looking for a word


def test_a_word_leads_to_the_feature_that_is_strongest_on_its_last_token(tiny, sae, texts, features, browse, alive):
    seen = set()
    for word in (" Paris", " in", "at", "o", "."):
        ids, values = tokenize(tiny, word)[1:].tolist(), []
        for row, on_text in zip(texts.tokens.tolist(), plain(tiny, sae, texts), strict=True):
            ends = [pos for pos in range(len(ids), len(on_text) + 1) if row[pos + 1 - len(ids) : pos + 1] == ids]
            values += [on_text[pos - 1] for pos in ends]
        assert values, word
        number = int(torch.stack(values).mean(0).argmax())
        assert strongest_on(tiny, texts, features, word) == number
        assert browse(word, alive[0], search=True) == browse("", number) and f"Feature {number} " in readable(browse("", number))
        seen.add(number)
    assert len(seen) > 2


def test_all_tokens_of_a_word_count(tiny):
    texts = as_texts(tiny, ["abxb"])
    assert pieces(tiny, texts.tokens[0, 1:]) == list("abxb")
    found = hand_made(4, {3: 9.0}, {1: 5.0}, {0: 7.0, 2: 1.0})
    assert [strongest_on(tiny, texts, found, word) for word in ("ab", "xb", "b", "a", "x", "abxb")] == [1, 0, 0, 2, 2, 0]


def test_a_word_is_looked_for_from_its_first_token_on(tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny.cfg, "default_prepend_bos", False)  # no mark in front, so that a text may begin in the midst of a word
    texts = as_texts(tiny, ["bcz", "zabc"])
    found = hand_made(5, {0: 9.0, 1: 1.0}, {4: 5.0})  # position 0 of a text is no token
    assert strongest_on(tiny, texts, found, "abc") == 1 and strongest_on(tiny, texts, found, "bc") == 0


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("zzz", "'zzz' does not stand in these texts: look for another word."),
        ("<b>", "'<b>' does not stand in these texts: look for another word."),
        ("x" * 500, f"'{'x' * 500}' does not stand in these texts: look for another word."),
        ("", "Prompt 0 has no word in it (prompts are counted from 0): write something there."),
    ],
    ids=["absent", "markup", "longer than the model reads", "nothing"],
)
def test_a_word_that_cannot_be_found_is_answered_in_a_sentence(browse, word: str, sentence: str):
    assert browse(word, 0, search=True) == f"<p>{escape(sentence)}</p>"


def test_a_word_on_which_no_feature_is_active_is_answered_in_a_sentence(tiny, sae):
    html = feature_html(tiny, sae, as_texts(tiny, ["ab"]), hand_made(2, {0: 1.0}), "b", 0, search=True)
    assert html == "<p>No feature is active on &#x27;b&#x27; in these texts: look for another word.</p>"


# --------------------------------------------------------------------------------------------------------------- the clamp


def answers(html: str) -> list[str]:
    """The texts in a panel, as HTML."""
    return re.findall(r"<br>(.*?)</p>", html, re.DOTALL)


def perplexities(html: str) -> list[float]:
    return [float(number) for number in re.findall(r"perplexity to the plain model ([\d.]+)", html)]


def greedy(model, prompt: str) -> str:
    return sample(model, prompt, ANSWER, temperature=0).strip()


def held(model, sae: SparseAutoencoder, feature: int, value: float, prompt: str) -> str:
    """What follows a prompt while one feature has a value at all positions, by a hook of its own."""

    def change(x: Tensor, hook: Any) -> Tensor:
        return x + (value - sae.encode(x)[..., feature, None]) * sae.W_dec[feature]

    with model.hooks(fwd_hooks=[(HOOK, change)]):
        return greedy(model, prompt)


@pytest.mark.parametrize("multiple", [2.0, -0.5, 0.0])
def test_the_clamp_shows_what_follows_with_the_feature_held(tiny, sae, clamp, peaks, alive, multiple: float):
    feature = alive[2]
    value = multiple * peaks[feature].item()
    before, after = greedy(tiny, PROMPT), held(tiny, sae, feature, value, PROMPT)
    html = clamp(PROMPT, feature, multiple)
    assert answers(html) == [escape(before), escape(after)] and (before != after or multiple == 0)
    expected = []
    for text in (before, after):
        tokens = tokenize(tiny, f"{PROMPT} {text}")[-tiny.cfg.n_ctx :]
        expected.append(cross_entropy(tiny(tokens[None])[0, :-1], tokens[1:]).exp().item())
    assert perplexities(html) == pytest.approx(expected, abs=0.06)
    assert html.index("<b>As it is</b>") < html.index(f"<b>Feature {feature} held at {value:.1f}</b>")


@pytest.mark.parametrize("said, shown", [("", "nothing: the text ends at once"), ("<b>&amp;", "&lt;b&gt;&amp;amp;")])
def test_an_answer_that_ends_at_once_is_put_in_words_and_none_is_markup(clamp, monkeypatch: pytest.MonkeyPatch, said: str, shown: str):
    monkeypatch.setattr(benches, "generate", lambda *arguments: [said])
    monkeypatch.setattr(benches, "plain_answer", lambda *arguments: said)
    assert answers(clamp(PROMPT, 0, 1.0)) == [shown] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 100.5])
def test_a_multiple_that_is_no_number_or_too_large_is_answered_in_a_sentence(brief, clamp, alive, value: float):
    assert clamp(PROMPT, alive[0], value) == f"<p>The multiple must be a number from -100 to 100, not {value}.</p>"
    assert "As it is" in clamp(PROMPT, alive[0], LARGEST) and "nan" not in clamp(PROMPT, alive[0], -LARGEST)


def test_what_there_is_not_is_answered_in_a_sentence(tiny, sae, browse, clamp, peaks):
    for number in (-1, 50):
        sentence = f"<p>There is no feature {number}: this autoencoder has 50, numbered 0 to 49.</p>"
        assert browse(WORD, number) == clamp(PROMPT, number, 1.0) == sentence
    for text in ("", " \n\t "):
        assert clamp(text, 0, 1.0) == "<p>There is nothing to answer: write something.</p>"
    nowhere = SparseAutoencoder(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    assert readable(clamp_html(tiny, nowhere, peaks, PROMPT, 0, 1.0)).startswith("There is no place ''")


def test_features_of_other_texts_are_answered_in_a_sentence(tiny, sae, features, alive):
    html = feature_html(tiny, sae, as_texts(tiny, ["ab"]), features, WORD, alive[0])
    assert html == f"<p>The features are those of {features.n_tokens} tokens, the texts have 2: give the same texts.</p>"


# ------------------------------------------------------------------------------------------------------------- the penalty


def test_the_slider_shows_the_numbers_of_the_sweep_each_with_its_bar():
    html = sparsity_html(FOUND, 0.5)
    assert readable(html).splitlines() == ["penalty 0.5", "active at a time 4.5", "variance lost 2.0%", "cosine with the truth 0.625"]
    assert re.findall(r"width:(\d+)px", html) == ["100", "4", "125"]  # of 200, which are 9 features, all of the variance, a cosine of 1
    assert readable(sparsity_html(FOUND, 8.0)).splitlines()[1] == "active at a time 0.0"


def test_a_sweep_in_which_nothing_is_active_is_shown():
    silent = PenaltySweep((1.0,), l0=(0.0,), unexplained=(0.0,), mmcs=(0.0,))
    assert re.findall(r"width:(\d+)px", sparsity_html(silent, 1.0)) == ["0", "0", "0"]


@pytest.mark.parametrize("penalty", [0.3, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_was_not_tried_is_answered_in_a_sentence(penalty: float):
    assert sparsity_html(FOUND, penalty) == f"<p>No autoencoder was trained with the penalty {penalty}; choose 0.1, 0.5, 2, 8.</p>"


# ----------------------------------------------------------------------------------------------------------------- widgets

MULTIPLES = st.floats(-12, 12) | st.floats()
HEADINGS = {"browser": "Feature", "clamp": "As it is", "slider": "penalty"}


@settings(max_examples=60, **ENOUGH)
@given(WORDS | st.sampled_from(["Paris", " in", "cat"]), NUMBERS, st.booleans(), MULTIPLES, st.sampled_from(FOUND.penalties) | st.floats())
def test_any_text_and_number_gives_an_answer(brief, browse, clamp, text, number, search, multiple, penalty):
    assert answered(browse(text, number, search), HEADINGS["browser"])
    assert answered(clamp(text, number, multiple), HEADINGS["clamp"])
    assert answered(sparsity_html(FOUND, penalty), HEADINGS["slider"])


@pytest.fixture
def widgets(tiny, sae, texts, features, alive) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    return {
        "browser": lambda: FeatureBrowser(tiny, sae, texts, features, WORD),
        "clamp": lambda: ClampBench(tiny, sae, features, alive[0], PROMPT),
        "slider": lambda: SparsitySlider(FOUND),
    }


CONTROLS: dict[str, dict[str, st.SearchStrategy]] = {
    "browser": {"word": WORDS | st.sampled_from(["Paris", " in", "cat"]), "search": st.booleans(), "feature": NUMBERS},
    "clamp": {"prompt": WORDS, "feature": NUMBERS, "multiple": st.floats(-12, 12) | st.floats(allow_nan=False)},
    "slider": {"penalty": st.sampled_from(FOUND.penalties)},
}
INPUTS = {"browser": 660, "clamp": 160, "slider": 200}  # together over 1,000
MOVES = 40  # of the controls of one widget


@pytest.mark.parametrize("name", CONTROLS)
def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(brief, widgets, name: str):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(*(st.tuples(st.just(control), values) for control, values in CONTROLS[name].items()))
    ran = 0

    @settings(max_examples=INPUTS[name] // 10, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=MOVES, max_size=MOVES))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        if ran >= INPUTS[name]:
            return
        widget = widgets[name]()
        for control, value in changes:
            box, before = getattr(widget, control), getattr(widget, control).value
            box.value = value
            ran += box.value != before
            assert answered(widget.panel.value, HEADINGS[name])

    drive()
    assert ran >= INPUTS[name]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, alive, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"word": "cat", "search": False, "feature": alive[3], "prompt": "a cat", "multiple": -2.0, "penalty": 8.0}
    seen = {widget.panel.value}
    for control in CONTROLS[name]:
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(widgets, browse, clamp, alive):
    browser, bench, slider = (make() for make in widgets.values())
    assert browser.panel.value == browse(WORD, 0, search=True) and bench.panel.value == clamp(PROMPT, alive[0], 1.0)
    assert slider.panel.value == sparsity_html(FOUND, 2.0)  # in the middle
    browser.feature.value, bench.multiple.value, slider.penalty.value = alive[1], 2.5, 0.1
    assert browser.panel.value == browse(WORD, 0, search=True)  # the number does not count while a word is looked for
    browser.search.value, bench.feature.value, bench.prompt.value = False, alive[1], "a cat"
    assert browser.panel.value == browse("", alive[1]) and bench.panel.value == clamp("a cat", alive[1], 2.5)
    assert slider.panel.value == sparsity_html(FOUND, 0.1)


def test_a_browser_may_begin_with_a_number(tiny, sae, texts, features, browse):
    assert FeatureBrowser(tiny, sae, texts, features, WORD, search=False).panel.value == browse(WORD, 0)


def test_controls_end_where_the_autoencoder_and_the_scale_end(widgets):
    browser, bench, slider = (make() for make in widgets.values())
    browser.search.value = False
    browser.feature.value = bench.feature.value = 99_999
    bench.multiple.value = 1e9
    assert browser.feature.value == bench.feature.value == 49 and bench.multiple.value == 10
    assert "Feature 49" in readable(browser.panel.value) and "Feature 49 held at" in readable(bench.panel.value)
    browser.feature.value, bench.multiple.value = -5, -1e9
    assert browser.feature.value == 0 and bench.multiple.value == -10 and slider.penalty.options == FOUND.penalties


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_pictures_have_words(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS[name]) and all(control.description.strip() for control in controls)
    assert widget.children[-1] is widget.panel
    assert "<img" not in widget.panel.value and "<svg" not in widget.panel.value


@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_without_a_kernel_shows_a_sentence(widgets, name: str):
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widgets[name]()))


def test_where_a_word_is_searched_for_the_caption_of_the_picture_has_no_number(widgets):
    browser = widgets["browser"]()
    for search, named in ((True, False), (False, True)):
        browser.search.value = search
        assert ("Feature <b>" in browser.frame()) == named
