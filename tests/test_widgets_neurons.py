"""The widgets of lesson 1: what they show is what hooks of one's own, or all activations at once, give."""

import re
from dataclasses import replace
from functools import partial
from html import escape

import pytest
import torch
from widget_tools import as_before, at_position, changed, contexts, quick_toys, small_world, texts, tiny, writer

from helpers.activations import promoted, top_contexts
from helpers.interventions import mlp_post, record
from helpers.one_neuron import widgets as lab
from helpers.one_neuron.ablation import resampled
from helpers.one_neuron.superposition import SPARSITIES
from helpers.one_neuron.widgets import KINDS, DoseLab, NeuronMicroscope, RemoveIt, loudest, microscope_html
from helpers.prediction import pieces, sample, tokenize, top_tokens, visible
from helpers.widgets import bars_html, html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

REAL_TOYS = lab.toys_for  # the fixture puts others in their place

microscope = writer(NeuronMicroscope)
removal = writer(RemoveIt)
dose = writer(DoseLab)

zeroed, held = partial(removal, kind="zero"), partial(dose, dose=1.0)
superposition = lab.superposition_html


def activations(text: str, layer: int) -> torch.Tensor:
    """The activations of a layer on a text: ``[pos, neuron]``."""
    return record(tiny(), tokenize(tiny(), text)[None], mlp_post(layer))[mlp_post(layer)][0]


def test_the_microscope_shows_the_neuron_on_the_text_and_where_it_rises_highest():
    html, top = microscope("hello you", 1, 7), contexts()
    titles = re.findall(r'title="([^"]*)"', html.split("The texts in which")[0])
    shown = zip(pieces(tiny(), tokenize(tiny(), "hello you"))[1:], activations("hello you", 1)[1:, 7].tolist(), strict=True)
    assert titles == [escape(f"{visible(piece)} {value:.2f}") for piece, value in shown]
    words = html_to_text(html)
    assert words.startswith(
        f"L1 N7 : active on {top.stats.active[1, 7]:.1%} of the tokens of the corpus, highest {top.stats.peak[1, 7]:.1f}"
    )
    best = top.contexts(tiny(), 1, 7, n=5)
    assert len(best) == 5 and words.count("most on") == 1 + len(best)
    peaks = [f"most on {visible(found.pieces[found.peak])} ({max(found.values):.1f})" for found in best]
    assert [line for line in words.splitlines() if line.startswith("most on")][1:] == peaks


def test_the_microscope_lists_what_the_neuron_promotes_and_suppresses():
    found = promoted(tiny(), 0, 5, 8)
    codes = re.findall(r"<code>(.*?)</code>", microscope("hello", 0, 5), re.DOTALL)
    assert codes == [escape(visible(piece)) for piece, _ in (*found.up, *found.down)]


def test_the_readers_text_is_coloured_by_the_neurons_own_peak():
    top = contexts()
    layer, neuron = next((at, n) for at, n in top.stats.peak.gt(1).nonzero().tolist() if top.rows[at, n, 0] == 4)
    for text in ("hello there", "a cat"):  # the text in which it rises highest, and another one
        highest = activations(text, layer)[1:, neuron].max().item()
        own = microscope(text, layer, neuron).split("The texts in which")[0]
        depths = [float(depth) for depth in re.findall(r"rgba\(213,94,0,([\d.]+)\)", own)]
        expected = 0.6 * min(highest / top.stats.peak[layer, neuron].item(), 1)
        assert max(depths, default=0) == pytest.approx(expected, abs=0.006)
        assert (expected == pytest.approx(0.6)) == (text == "hello there")


def test_the_most_active_neuron_is_the_one_nearest_to_its_own_peak_at_the_last_token():
    stats, last = contexts().stats, torch.stack([activations("some cat", layer)[-1] for layer in (0, 1)])
    high = (stats.peak > stats.peak.median()).nonzero().tolist()
    best = max(high, key=lambda at: (last[at[0], at[1]] / stats.peak[at[0], at[1]]).item())
    assert loudest(contexts(), last) == tuple(best)
    assert microscope("some cat", 99, 9999, most_active=True) == microscope("some cat", *best)


def test_a_neuron_that_is_never_active_and_a_layer_that_was_not_scanned():
    top = contexts()
    peak, values = top.stats.peak.clone(), top.values.clone()
    peak[0, 3], values[0, 3] = 0.0, -1.0
    silent = replace(top, values=values, stats=replace(top.stats, peak=peak))
    assert "It is never active." in html_to_text(microscope_html(tiny(), silent, "hello", 0, 3))
    first = top_contexts(tiny(), texts(), k=2, layers=[0])
    assert microscope_html(tiny(), first, "hello", 1, 3) == "<p>There is no scanned layer 1; choose one of: 0.</p>"


def bars_with(layer: int, neuron: int, value: float | torch.Tensor, prompt: str, k: int) -> str:
    """Bars of the next tokens while one neuron is set to a value at all positions but the first, by a hook of its own."""

    def put_in(values: torch.Tensor) -> torch.Tensor:
        values[..., neuron] = value
        return values

    hook = {mlp_post(layer): at_position(slice(1, None), lambda values: put_in(values.clone()))}
    return changed(tiny(), hook, lambda: bars_html(top_tokens(tiny(), prompt, k)))


def test_taking_a_neuron_away_shows_the_next_tokens_before_and_after():
    prompt, layer, neuron = "hello you", 0, int(activations("hello you", 0)[1:].mean(0).argmax())
    before, seen = bars_html(top_tokens(tiny(), prompt, 8)), set()
    drawn = resampled(tiny(), [prompt], texts())[layer, :, 1:, neuron]
    for kind, value in (("zero", 0.0), ("mean", contexts().stats.mean[layer, neuron]), ("resample", drawn)):
        html, after = removal(prompt, layer, neuron, kind), bars_with(layer, neuron, value, prompt, 8)
        assert before in html and after in html and before != after
        assert html.index(before) < html.index(f"L0 N{neuron} taken away ({kind})") < html.index(after)
        seen.add(html)
    assert len(seen) == len(KINDS) == 3


def test_a_prompt_of_nothing_but_the_mark_is_not_changed():
    html = removal("", 0, 3, "zero")
    assert html.count(bars_html(top_tokens(tiny(), "", 8))) == 2 and "Nothing changes that one can see" in html


def test_a_dose_holds_the_neuron_at_it_and_shows_what_follows():
    hook = {mlp_post(1): at_position(slice(1, None), lambda values: values.index_fill(-1, torch.tensor(9), 6.0))}
    text = changed(tiny(), hook, lambda: sample(tiny(), "hello", 10, temperature=0))
    html = dose("hello", 1, 9, 6.0)
    assert bars_html(top_tokens(tiny(), "hello", 5)) in html and bars_with(1, 9, 6.0, "hello", 5) in html and "L1 N9 held at 6.0" in html
    assert f"<span style='white-space:pre-wrap'>{escape(text)}</span>" in html and len(dose("hello", 1, 9, 6.0, length=2)) < len(html)


def test_a_continuation_that_ends_at_once_is_put_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "sample", lambda *arguments, **options: "")
    assert "nothing; the text ends here" in html_to_text(dose("x", 0, 0, 1.0))


def test_the_grid_of_superposition_is_that_of_its_toy_model():
    toys = quick_toys(5, 2)
    for at, sparsity in enumerate(SPARSITIES):
        html = superposition(5, 2, sparsity)
        cells = re.findall(r"<td title='([^']*)' style='[^']*rgba\(([\d,]+),([\d.]+)\)", html)
        values = toys.overlaps[at].flatten().tolist()
        assert [value for value, _, _ in cells] == [f"{value:.2f}" for value in values] and html.count("<tr>") == 5
        assert [colour for _, colour, _ in cells] == ["213,94,0" if value > 0 else "0,114,178" for value in values]
        assert [float(depth) for *_, depth in cells] == pytest.approx([min(abs(value), 1) for value in values], abs=0.006)
        kept = toys.norms[at] > 0.5
        shared = toys.interference[at][kept].mean().item() if kept.any() else 0.0
        start = f"{int(kept.sum())} of 5 features in 2 neurons; mean interference {shared:.2f}; loss {toys.loss[at]:.4f}"
        assert html_to_text(html).startswith(start) and f"2 most important: {toys.dedicated_loss[at]:.4f}" in html_to_text(html)


def test_the_toys_of_the_widget_are_trained_once_and_show_superposition():
    toys = REAL_TOYS(5, 2)
    assert toys is REAL_TOYS(5, 2) and toys.sparsities == SPARSITIES and toys.represented[-1] > toys.represented[0] >= 2


def test_a_model_that_needs_a_text_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny().cfg, "default_prepend_bos", False)
    for html in (removal("", 0, 0, "mean"), dose("", 0, 0, 1.0)):
        assert html == "<p>There is nothing to continue: this model needs at least one token, so give it some text.</p>"
    for write in (microscope, partial(removal, kind="resample"), held):  # its only token is the first
        assert "<b>" in write("a", layer=0, neuron=0)


def test_no_word_of_a_reader_is_taken_for_markup():
    own = microscope("<b>&amp;</b>", 0, 0).split("Your text")[1].split("The texts in which")[0]
    assert "<b>&" not in own and "".join(re.findall(r'<span title="[^"]*" style="[^"]*">(.*?)</span>', own)) == escape("<b>&amp;</b>")
