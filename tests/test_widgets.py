"""Widgets, driven as a reader drives them: whatever is typed gets an answer or a sentence, never a traceback."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_prediction import CONTEXT, small

__all__ = ["small"]  # the fixture

ODD = {
    "nothing": "",
    "blanks": " \n\t ",
    "10,000 letters": "abcde fghi" * 1000,
    "emoji": "👩‍👩‍👧‍👦🙂",
    "another alphabet": "Что делает модель? 語言模型 مرحبا",
    "not a number": "NaN",
    "a special token": "<|endoftext|><|user|>",
    "markup": "<script>alert(1)</script> & <b>bold",
    "half a letter": "\ud83d",
    "a null byte": "a\x00b",
}


@pytest.fixture(scope="module")
def explorer(small):
    from helpers.widgets import PromptExplorer

    return PromptExplorer(small, "hello")


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_get_an_answer(explorer, text: str):
    from helpers.widgets import readable

    explorer.text.value = text
    words = readable(explorer.panel.value)
    assert "most likely next tokens" in words and "continuation:" in words
    assert "<script>" not in explorer.panel.value


@settings(max_examples=40)
@given(text=st.text(max_size=60), temperature=st.sampled_from([0, 0.1, 1, 2]), top_k=st.integers(0, 300), seed=st.integers(0, 20))
@example(text="x", temperature=float("nan"), top_k=0, seed=0)
@example(text="x", temperature=-1, top_k=-1, seed=-1)
def test_any_text_and_setting_gives_html_with_words(small, text: str, temperature: float, top_k: int, seed: int):
    from helpers.widgets import prompt_html, readable

    html = prompt_html(small, text, temperature, top_k, seed, length=3)
    assert readable(html) and html == prompt_html(small, text, temperature, top_k, seed, length=3)


def test_a_text_that_is_too_long_is_cut_with_a_sentence(explorer):
    from helpers.widgets import readable

    explorer.text.value = "y" * 100
    assert readable(explorer.panel.value).startswith(
        f"{CONTEXT} tokens. The model reads {CONTEXT} tokens at most, so the first {101 - CONTEXT} of the text are cut off."
    )
    explorer.text.value = "y"
    assert "cut off" not in explorer.panel.value


def test_every_control_moves_the_panel(explorer):
    from helpers.widgets import prompt_html

    explorer.text.value, explorer.temperature.value, explorer.top_k.value, explorer.seed.value = "hello", 1.0, 0, 0
    seen = {explorer.panel.value}
    for control, value in ((explorer.seed, 5), (explorer.temperature, 0.3), (explorer.text, "other"), (explorer.top_k, 1)):
        control.value = value
        assert explorer.panel.value not in seen
        seen.add(explorer.panel.value)
    assert explorer.panel.value == prompt_html(explorer.model, "other", 0.3, 1, 5)


def test_an_empty_prompt_to_a_model_that_needs_one_gets_a_sentence(small, monkeypatch: pytest.MonkeyPatch):
    from helpers.widgets import prompt_html

    monkeypatch.setattr(small.cfg, "default_prepend_bos", False)
    assert prompt_html(small, "") == "<p>There is nothing to continue: this model needs at least one token, so give it some text.</p>"


def test_a_page_without_a_kernel_shows_a_sentence(explorer):
    assert repr(explorer) == "[Type a prompt here, once the notebook runs.]"


def test_readable_takes_the_words_out_of_html():
    from helpers.widgets import readable

    assert readable("<p><b>a &lt; b</b></p><table><tr><td>c</td><td>1</td></tr></table>") == "a < b\nc 1"


REPORT = {
    "rows": [
        {
            "name": "good",
            "value": 0.98,
            "low": 0.97,
            "high": 0.99,
            "n": 10,
            "at_least": 0.9,
            "at_most": None,
            "unit": "share",
            "groups": {},
        },
        {
            "name": "costs $1 or $2",
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 10,
            "at_least": 0.9,
            "at_most": None,
            "unit": "share",
            "groups": {},
        },
        {"name": "free", "value": 3.0, "low": 2.0, "high": 4.0, "n": 10, "at_least": None, "at_most": None, "unit": "logits", "groups": {}},
    ],
    "checkpoints": [{"tokens": 2_000_000, "values": {"good": 0.9}}, {"tokens": 1_000_000, "values": {"good": 0.2, "free": 1.0}}],
}


def test_the_report_card_has_a_panel_for_each_unit_and_names_what_is_missed():
    from helpers.plots import holds, report_card

    assert [holds(row) for row in REPORT["rows"]] == [True, False, True]
    fig = report_card(REPORT)
    fig.draw_without_rendering()
    labels = [label.get_text() for ax in fig.axes for label in ax.get_yticklabels()]
    assert labels == ["good", r"costs \$1 or \$2  (missed)", "free"]


def test_learning_curves_are_drawn_in_the_order_of_training():
    from helpers.plots import learning_curves

    fig = learning_curves(REPORT)
    fig.draw_without_rendering()
    lines = [ax.lines[0] for ax in fig.axes if ax.get_visible()]
    assert len(lines) == 1 and list(lines[0].get_xdata()) == [1, 2] and list(lines[0].get_ydata()) == pytest.approx([20, 90])


def test_other_figures_can_be_drawn_with_any_token():
    from helpers.plots import layer_line, next_token_bars
    from helpers.prediction import TopTokens

    for fig in (next_token_bars(TopTokens("x", (" $a$", "\n", "_^{", "\ufffd"), (0.5, 0.3, 0.1, 0.1))), layer_line([1, 2, 3], "length")):
        fig.draw_without_rendering()
