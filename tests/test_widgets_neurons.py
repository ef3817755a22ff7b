"""The widgets of lesson 1, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from html import escape
from typing import Any

import ipywidgets
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_prediction import small
from test_widgets import ODD

from helpers.activations import TopContexts, promoted, top_contexts
from helpers.interventions import mlp_post, record
from helpers.one_neuron import widgets as lab
from helpers.one_neuron.ablation import resampled
from helpers.one_neuron.superposition import SPARSITIES, train_toys
from helpers.one_neuron.widgets import (
    FEATURES,
    HIDDEN,
    KINDS,
    LARGEST_DOSE,
    DoseLab,
    NeuronMicroscope,
    RemoveIt,
    SuperpositionLab,
    dose_html,
    loudest,
    microscope_html,
    removal_html,
    superposition_html,
)
from helpers.prediction import sample, tokenize, top_tokens, visible
from helpers.texts import as_texts
from helpers.widgets import bars_html, readable

__all__ = ["small"]  # the fixture

TEXTS = ["The cat sat on it.", "Paris is big", "12 dogs run", "a\nb\nc", "hello there", " x"]


@pytest.fixture(scope="module")
def top(small) -> TopContexts:
    """A few short texts, scanned."""
    return top_contexts(small, as_texts(small, TEXTS), k=3)


@pytest.fixture
def quick_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy models that have hardly been trained, in a moment."""
    monkeypatch.setattr(lab, "toys_for", quickly)


@cache
def quickly(features: int, hidden: int):
    return train_toys(features, hidden, steps=3, starts=1)


@pytest.fixture
def microscope(small, top):
    return partial(microscope_html, small, top)


@pytest.fixture
def removal(small, top):
    return partial(removal_html, small, top.texts, top.stats.mean)


@pytest.fixture
def dose(small):
    return partial(dose_html, small)


# ---------------------------------------------------------------------------------------------------------- what is shown


def test_the_microscope_shows_the_neuron_on_the_text_and_where_it_rises_highest(small, top, microscope):
    html = microscope("hello you", 1, 7)
    with torch.no_grad():
        values = record(small, tokenize(small, "hello you")[None], mlp_post(1))[mlp_post(1)][0, 1:, 7].tolist()
    titles = re.findall(r'title="([^"]*)"', html.split("The texts in which")[0])
    assert titles == [f"{visible(piece)} {value:.2f}" for piece, value in zip("hello you", values, strict=True)]
    words = readable(html)
    assert words.startswith(
        f"L1 N7 : active on {top.stats.active[1, 7]:.1%} of the tokens of the corpus, highest {top.stats.peak[1, 7]:.1f}"
    )
    best = top.contexts(small, 1, 7, n=5)
    assert len(best) == 3 and words.count("most on") == 1 + len(best)
    peaks = [f"most on {visible(found.pieces[found.peak])} ({max(found.values):.1f})" for found in best]
    assert [line for line in words.splitlines() if line.startswith("most on")][1:] == peaks


def test_the_microscope_lists_what_the_neuron_promotes_and_suppresses(small, microscope):
    found = promoted(small, 0, 5, 8)
    codes = re.findall(r"<code>(.*?)</code>", microscope("hello", 0, 5), re.DOTALL)
    assert codes == [escape(visible(piece)) for piece, _ in (*found.up, *found.down)]


def test_the_readers_text_is_coloured_by_the_neurons_own_peak(small, top, microscope):
    layer, neuron = next((at, n) for at, n in top.stats.peak.gt(1).nonzero().tolist() if top.rows[at, n, 0] == 4)
    for text in ("hello there", "a cat"):  # the text in which it rises highest, and another one
        with torch.no_grad():
            highest = record(small, tokenize(small, text)[None], mlp_post(layer))[mlp_post(layer)][0, 1:, neuron].max().item()
        own = microscope(text, layer, neuron).split("The texts in which")[0]
        depths = [float(depth) for depth in re.findall(r"rgba\(213,94,0,([\d.]+)\)", own)]
        expected = 0.6 * min(highest / top.stats.peak[layer, neuron].item(), 1)
        assert max(depths, default=0) == pytest.approx(expected, abs=0.006)
        assert (expected == pytest.approx(0.6)) == (text == "hello there")


def at_the_end(model, top, text: str) -> torch.Tensor:
    """The activations of all scanned layers at the last token of a text."""
    with torch.no_grad():
        seen = record(model, tokenize(model, text)[None], *map(mlp_post, top.stats.layers))
    return torch.stack([seen[mlp_post(layer)][0, -1] for layer in top.stats.layers])


def test_the_most_active_neuron_is_the_one_nearest_to_its_own_peak_at_the_last_token(small, top, microscope):
    typical, best = top.stats.peak.median(), (-1.0, 0, 0)
    for layer in range(small.cfg.n_layers):
        with torch.no_grad():
            last = record(small, tokenize(small, "some cat")[None], mlp_post(layer))[mlp_post(layer)][0, -1]
        for neuron in range(small.cfg.d_mlp):
            if top.stats.peak[layer, neuron] > typical:
                best = max(best, ((last[neuron] / top.stats.peak[layer, neuron]).item(), layer, neuron))
    assert loudest(top, at_the_end(small, top, "some cat")) == best[1:]
    assert microscope("some cat", 0, 0, most_active=True) == microscope("some cat", *best[1:])
    assert microscope("some cat", 99, 9999, most_active=True) == microscope("some cat", *best[1:])


def test_a_neuron_that_is_never_active_and_a_layer_that_was_not_scanned(small, top):
    peak, values = top.stats.peak.clone(), top.values.clone()
    peak[0, 3], values[0, 3] = 0.0, -1.0
    silent = replace(top, values=values, stats=replace(top.stats, peak=peak))
    assert "It is never active." in readable(microscope_html(small, silent, "hello", 0, 3))
    first = top_contexts(small, top.texts, k=2, layers=[0])
    assert microscope_html(small, first, "hello", 1, 3) == "<p>Layer 1 was not scanned; these were: 0.</p>"
    assert loudest(first, at_the_end(small, first, "some cat"))[0] == 0


def set_to(model, layer: int, neuron: int, value: Any, look: Callable[[], Any]) -> Any:
    """What ``look`` sees while one neuron is set to a value at all positions but the first, by a hook of its own."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = activation.clone()
        changed[:, 1:, neuron] = value
        return changed

    with model.hooks(fwd_hooks=[(mlp_post(layer), hook)]):
        return look()


def test_taking_a_neuron_away_shows_the_next_tokens_before_and_after(small, top, removal):
    prompt, layer, neuron = "hello you", 0, 3
    before = bars_html(top_tokens(small, prompt, 8))
    drawn = resampled(small, [prompt], top.texts)[layer, :, 1:, neuron]
    values = {"zero": 0.0, "mean": top.stats.mean[layer, neuron], "resample": drawn}
    seen = set()
    for kind in KINDS:
        html = removal(prompt, layer, neuron, kind)
        after = bars_html(set_to(small, layer, neuron, values[kind], lambda: top_tokens(small, prompt, 8)))
        assert before in html and after in html and before != after
        assert html.index(before) < html.index(f"L0 N3 taken away ({kind})") < html.index(after)
        seen.add(html)
    assert len(seen) == 3


def test_a_prompt_of_nothing_but_the_mark_is_not_changed(removal, small):
    assert removal("", 0, 3, "zero").count(bars_html(top_tokens(small, "", 8))) == 2


def test_a_dose_holds_the_neuron_at_it_and_shows_what_follows(small, dose):
    after, text = set_to(small, 1, 9, 6.0, lambda: (bars_html(top_tokens(small, "hello", 5)), sample(small, "hello", 10, temperature=0)))
    html = dose("hello", 1, 9, 6.0)
    assert bars_html(top_tokens(small, "hello", 5)) in html and after in html and "L1 N9 held at 6.0" in html
    assert f"<span style='white-space:pre-wrap'>{escape(text)}</span>" in html
    assert len(dose("hello", 1, 9, 6.0, length=2)) < len(html)


def test_the_dose_that_the_neuron_has_anyway_changes_nothing(small, dose):
    with torch.no_grad():
        own = record(small, tokenize(small, "x")[None], mlp_post(1))[mlp_post(1)][0, 1, 9].item()
    assert dose("x", 1, 9, own).count(bars_html(top_tokens(small, "x", 5))) == 2


def test_a_continuation_that_ends_at_once_is_put_in_words(dose, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "sample", lambda *arguments, **options: "")
    assert "nothing; the text ends here" in readable(dose("x", 0, 0, 1.0))


def test_the_grid_of_superposition_is_that_of_its_toy_model(quick_toys):
    toys = quickly(5, 2)
    for at, sparsity in enumerate(SPARSITIES):
        html = superposition_html(5, 2, sparsity)
        cells = re.findall(r"<td title='([^']*)'", html)
        assert cells == [f"{value:.2f}" for value in toys.overlaps[at].flatten().tolist()] and html.count("<tr>") == 5
        kept = toys.norms[at] > 0.5
        shared = toys.interference[at][kept].mean().item() if kept.any() else 0.0
        start = f"{int(kept.sum())} of 5 features in 2 neurons; mean interference {shared:.2f}; loss {toys.loss[at]:.4f}"
        assert readable(html).startswith(start) and f"2 most important: {toys.dedicated_loss[at]:.4f}" in readable(html)


def test_orange_is_above_zero_and_blue_below(quick_toys):
    html = superposition_html(10, 2, 0.9)
    cells = re.findall(r"<td title='([^']*)' style='[^']*rgba\(([\d,]+),([\d.]+)\)", html)
    assert len(cells) == 100 and {colour for _, colour, _ in cells} == {"213,94,0", "0,114,178"}
    for value, colour, depth in cells:
        assert float(value) >= 0 if colour == "213,94,0" else float(value) <= 0
        assert float(depth) == pytest.approx(min(abs(float(value)), 1), abs=0.011)


def test_the_toys_of_the_widget_are_trained_once_and_show_superposition():
    toys = lab.toys_for(5, 2)
    assert toys is lab.toys_for(5, 2) and toys.sparsities == SPARSITIES
    assert toys.represented[-1] > toys.represented[0] >= 2


# ----------------------------------------------------------------------------------------------- what cannot be, in a sentence


@pytest.mark.parametrize(
    ("layer", "neuron", "sentence"),
    [
        (2, 0, "There is no layer 2: this model&#x27;s layers are 0 to 1."),
        (-1, 0, "There is no layer -1: this model&#x27;s layers are 0 to 1."),
        (1, 64, "There is no neuron 64 in layer 1: it has 64, numbered 0 to 63."),
        (0, -3, "There is no neuron -3 in layer 0: it has 64, numbered 0 to 63."),
    ],
)
def test_an_unknown_layer_or_neuron_is_answered_in_a_sentence(microscope, removal, dose, layer: int, neuron: int, sentence: str):
    for html in (microscope("hello", layer, neuron), removal("hello", layer, neuron, "zero"), dose("hello", layer, neuron, 1.0)):
        assert html == f"<p>{sentence}</p>"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 10_001.0])
def test_a_dose_that_is_no_number_or_too_large_is_answered_in_a_sentence(dose, value: float):
    assert dose("hello", 0, 0, value) == f"<p>The dose must be a number from -10000 to 10000, not {value}.</p>"
    assert "It goes on:" in dose("hello", 0, 0, LARGEST_DOSE) and "nan" not in dose("hello", 0, 0, -LARGEST_DOSE)


def test_other_settings_that_there_are_not_are_answered_in_a_sentence(quick_toys, removal):
    assert readable(removal("hello", 0, 0, "magic")) == "There is no kind of ablation called 'magic'; choose zero, mean, resample."
    expected = "There is no toy model for a sparsity of 0.5; choose one of 0.0, 0.7, 0.9, 0.97, 0.99."
    assert readable(superposition_html(5, 2, 0.5)) == expected
    assert readable(superposition_html(0, 2, 0.9)) == "A toy model needs one feature and one hidden dimension at least, not 0 and 2."
    assert readable(superposition_html(5, -1, 0.9)) == "A toy model needs one feature and one hidden dimension at least, not 5 and -1."


def test_a_text_without_a_word_is_answered_in_a_sentence(microscope, removal):
    for html in (microscope("", 0, 0), microscope("<|endoftext|>", 0, 0), removal("", 0, 0, "resample")):
        assert "has no word in it" in html and readable(html).endswith("write something there.")


def test_a_model_that_needs_a_text_says_so(small, microscope, removal, dose, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small.cfg, "default_prepend_bos", False)
    for html in (removal("", 0, 0, "mean"), dose("", 0, 0, 1.0)):
        assert html == "<p>There is nothing to continue: this model needs at least one token, so give it some text.</p>"
    for html in (microscope("a", 0, 0), removal("a", 0, 0, "resample"), dose("a", 0, 0, 1.0)):  # its only token is the first
        assert "<b>" in html


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(small, microscope, removal, dose):
    tokens = tokenize(small, "hello you")[None]
    with torch.no_grad():
        before = small(tokens)
        for html in (removal("hello", 0, 3, "mean"), removal("hello", 0, 3, "no"), dose("hello", 1, 3, 1e4), microscope("hello", 0, 99)):
            assert html
        assert torch.equal(small(tokens), before)
    assert not any(point.fwd_hooks for point in small.hook_dict.values())


NUMBERS = st.integers(-3, 70) | st.integers()
WORDS = st.sampled_from([*ODD.values(), "مرحبا بالعالم", "     ", "\n\n", "x" * 10_000, "🙂" * 40]) | st.text(max_size=40)
ENOUGH = dict(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def answered(html: str, heading: str) -> bool:
    """Is this a picture with words, or else one sentence that says what cannot be, and no markup but the widget's own?"""
    words = readable(html)
    sentence = re.fullmatch(r"<p>[^<>\n]+[.]</p>", html) is not None
    return "<script" not in html and (heading in words or (sentence and len(words.split()) > 5))


@settings(max_examples=60, **ENOUGH)
@given(WORDS, NUMBERS, NUMBERS, st.sampled_from(KINDS) | st.text(max_size=5), st.floats() | st.floats(-20, 20))
@example("\ud83d", 0, 0, "resample", 0.0)
def test_any_text_number_and_setting_gives_an_answer(microscope, removal, dose, text: str, layer: int, neuron: int, kind: str, held: float):
    assert answered(microscope(text, layer, neuron), "rises highest")
    assert answered(removal(text, layer % 3, neuron, kind), "taken away")
    assert answered(dose(text, layer % 3, neuron % 65, held, length=2), "It goes on:")


@settings(max_examples=60, **ENOUGH)
@given(st.integers(-1, 12), st.integers(-1, 4), st.sampled_from(SPARSITIES) | st.floats())
def test_any_numbers_for_superposition_give_an_answer(quick_toys, features: int, hidden: int, sparsity: float):
    assert answered(superposition_html(features, hidden, sparsity), f"{features} features in {hidden} neurons")


# ----------------------------------------------------------------------------------------------------------------- widgets


@pytest.fixture
def widgets(small, top, quick_toys) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    return {
        "microscope": lambda: NeuronMicroscope(small, top, (1, 7), "hello you"),
        "removal": lambda: RemoveIt(small, top.texts, top.stats.mean, (1, 7), "hello you"),
        "dose": lambda: DoseLab(small, (1, 7), "hello you"),
        "superposition": SuperpositionLab,
    }


NEURON = {"layer": NUMBERS, "neuron": NUMBERS}
CONTROLS: dict[str, dict[str, st.SearchStrategy]] = {
    "microscope": {"text": WORDS} | NEURON | {"most_active": st.booleans()},
    "removal": {"prompt": WORDS, "kind": st.sampled_from(KINDS)} | NEURON,
    "dose": {"prompt": WORDS, "dose": st.floats(-1, 11) | st.floats()} | NEURON,
    "superposition": {"features": st.sampled_from(FEATURES), "hidden": st.sampled_from(HIDDEN), "sparsity": st.sampled_from(SPARSITIES)},
}
HEADINGS = {"microscope": "rises highest", "removal": "taken away", "dose": "It goes on:", "superposition": "features in"}
INPUTS = {"microscope": 300, "removal": 300, "dose": 200, "superposition": 200}  # together 1,000


@pytest.mark.parametrize("name", CONTROLS)
def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(widgets, name: str):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(*(st.tuples(st.just(control), values) for control, values in CONTROLS[name].items()))
    ran = 0

    @settings(max_examples=INPUTS[name] // 10, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=22, max_size=22))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        widget = widgets[name]()
        for control, value in changes:
            box, before = getattr(widget, control), getattr(widget, control).value
            box.value = value
            ran += box.value != before
            assert answered(widget.panel.value, HEADINGS[name])

    drive()
    assert ran >= INPUTS[name]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"text": "a cat", "prompt": "a cat", "layer": 0, "neuron": 8, "most_active": True, "kind": "zero", "dose": 7.0}
    others |= {"features": 5, "hidden": 2, "sparsity": 0.97}
    seen = {widget.panel.value}
    for control in CONTROLS[name]:
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(widgets, microscope, removal, dose, quick_toys):
    one, two, three, four = (make() for make in widgets.values())
    assert one.panel.value == microscope("hello you", 1, 7) and two.panel.value == removal("hello you", 1, 7, "mean")
    assert three.panel.value == dose("hello you", 1, 7, three.dose.max) and four.panel.value == superposition_html(20, 5, 0.0)
    one.neuron.value, two.kind.value, three.dose.value, four.features.value = 9, "resample", 4.0, 10
    assert one.panel.value == microscope("hello you", 1, 9) and two.panel.value == removal("hello you", 1, 7, "resample")
    assert three.panel.value == dose("hello you", 1, 7, 4.0) and four.panel.value == superposition_html(10, 5, 0.0)


def test_sliders_end_where_the_model_ends(small, widgets):
    for make in list(widgets.values())[:3]:
        widget = make()
        widget.layer.value, widget.neuron.value = 99, 99_999
        assert (widget.layer.value, widget.neuron.value) == (small.cfg.n_layers - 1, small.cfg.d_mlp - 1)
        assert f"L{small.cfg.n_layers - 1} N{small.cfg.d_mlp - 1}" in readable(widget.panel.value)
    assert DoseLab(small, (0, 0), "x", highest=4.0).dose.max == 4.0


def controls_of(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """All that can be set in a widget."""
    for child in getattr(widget, "children", ()):
        if not isinstance(child, ipywidgets.HTML):
            yield from controls_of(child) if hasattr(child, "children") else [child]


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_pictures_have_words(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS[name]) and all(control.description.strip() for control in controls)
    assert widget.children[-1] is widget.panel
    html = widget.panel.value
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html)) and "<svg" not in html
    assert all("%" in row for row in re.findall(r"<tr><td style='font-family:monospace'>.*?</tr>", html))  # bars carry their number
    if name == "superposition":
        assert "<table style='border-collapse:collapse' aria-label='how much of each feature comes out as each other feature'>" in html
        assert html.count("<td") == html.count("<td title=") == 400
    else:
        assert html.count("<span title=") == len(re.findall(r'<span title="[^"]*-?\d\.\d\d"', html))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_without_a_kernel_shows_a_sentence(widgets, name: str):
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widgets[name]()))


def test_no_word_of_a_reader_is_taken_for_markup(small, top):
    widget = NeuronMicroscope(small, top, (0, 0), "<b>&amp;</b>")
    assert readable(widget.panel.value).split("Your text\n")[1].startswith("< b > & a m p ; < / b >")
