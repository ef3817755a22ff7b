"""Widgets and what they are built on, driven as a reader drives them: whatever is typed gets an answer or a sentence, never a traceback."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from test_prediction import CONTEXT, small

__all__ = ["small"]  # the fixture

ROOT = Path(__file__).parents[1]
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
    assert "most likely next tokens" in words and "continuation (seed" in words
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


def test_every_control_moves_the_panel(explorer, small):
    from helpers.widgets import prompt_html

    explorer.text.value, explorer.temperature.value, explorer.top_k.value, explorer.seed.value = "hello", 1.0, 0, 0
    seen = {explorer.panel.value}
    for control, value in ((explorer.seed, 5), (explorer.temperature, 0.3), (explorer.text, "other"), (explorer.top_k, 1)):
        control.value = value
        assert explorer.panel.value not in seen
        seen.add(explorer.panel.value)
    assert explorer.panel.value == prompt_html(small, "other", 0.3, 1, 5)


def test_temperature_and_top_k_change_how_tokens_are_drawn_and_not_what_the_model_says(small):
    from helpers.prediction import adjust, last_logits, tokenize
    from helpers.widgets import prompt_html

    def bars(*settings: float) -> list[tuple[str, str]]:
        rows = re.findall(r"<tr><td style='font-family.*?</tr>", prompt_html(small, "hello", *settings), re.S)
        return [tuple(re.findall(r"([\d.]+)%", row)[-2:]) for row in rows]

    plain, drawn = zip(*bars(0.5, 3), strict=True)
    assert plain == tuple(first for first, _ in bars(2.0, 0)) == tuple(both for _, both in bars(1.0, 0))
    probs = adjust(last_logits(small, tokenize(small, "hello")), 0.5, 3).sort(descending=True).values[:10]
    assert drawn == tuple(f"{100 * prob:.1f}" for prob in probs.tolist()) and drawn[3:] == ("0.0",) * 7


def test_an_empty_prompt_to_a_model_that_needs_one_gets_a_sentence(small, monkeypatch: pytest.MonkeyPatch):
    from helpers.widgets import prompt_html

    monkeypatch.setattr(small.cfg, "default_prepend_bos", False)
    assert prompt_html(small, "") == "<p>There is nothing to continue: this model needs at least one token, so give it some text.</p>"


def test_a_page_without_a_kernel_shows_a_sentence(explorer):
    assert repr(explorer) == "[Type a prompt here, once the notebook runs.]"


# ------------------------------------------------------------------------------------------------------- the base of all widgets


@pytest.fixture
def demo():
    """A small widget that counts its answers and fails where it is told to; its second control follows the first."""
    from helpers.widgets import Demo, dropdown, slider, text_field

    class Followed(Demo):
        def __init__(self) -> None:
            self.asked = []
            rows = {"word": text_field("a", "Word")}, {"number": slider(1, 0, 9, "Number"), "kind": dropdown(["x", "<y>"], "Kind")}
            super().__init__("A <demo>", self.write, *rows)

        def write(self, **values: object) -> str:
            self.asked.append(values)
            if values["number"] == 7:
                raise IndexError("7 <is> too many")
            return f"<p>{values['word']} {values['number']} {values['kind']}</p>"

        def follow(self, before) -> None:
            if before and self.word.value != before["word"]:
                self.number.value = len(self.word.value)

    return Followed()


def test_a_change_is_answered_once_after_the_controls_that_follow_it(demo):
    demo.word.value = "three"
    assert demo.asked == [{"word": "a", "number": 1, "kind": "x"}, {"word": "three", "number": 5, "kind": "x"}]
    assert demo.panel.value == "<p>three 5 x</p>" and demo.number.value == 5


def test_an_unforeseen_failure_is_said_in_the_panel_and_raised_and_the_next_answer_is_right(demo):
    with pytest.raises(IndexError):
        demo.number.value = 7
    assert demo.panel.value == "<p>This cannot be shown (IndexError: 7 &lt;is&gt; too many): choose something else.</p>"
    demo.number.value = 8
    assert demo.panel.value == "<p>a 8 x</p>"


def test_an_answer_that_is_stopped_says_so_and_the_next_one_is_right(demo, monkeypatch: pytest.MonkeyPatch):
    def stopped(**values: object) -> str:
        raise KeyboardInterrupt

    write = demo._write
    for number in (2, 3):  # twice in a row says it once
        monkeypatch.setattr(demo, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo.number.value = number
        assert demo.panel.value == "<p><b>Stopped: below is still an older answer. Move a control for a new one.</b></p><p>a 1 x</p>"
    monkeypatch.setattr(demo, "_write", write)
    demo.number.value = 4
    assert demo.panel.value == "<p>a 4 x</p>"


def test_a_widget_says_how_a_text_is_sent_and_that_it_works(demo):
    from helpers.widgets import readable

    said = []
    demo.status.observe(lambda change: said.append(readable(change["new"]).splitlines()[-1]), names="value")
    demo.number.value = 2
    assert [line.split()[-2] for line in said] == ["working", "its"]
    assert readable(demo.status.value) == "A text is read when you press Enter or leave its field."


@pytest.mark.parametrize(("text", "several", "kind"), [("a", False, "Text"), ("two\nlines", False, "Textarea"), ("a", True, "Textarea")])
def test_a_field_has_one_line_unless_its_text_has_more(text: str, several: bool, kind: str):
    from helpers.widgets import text_field

    assert type(text_field(text, "Prompt", several)).__name__ == kind


def test_rows_of_controls_wrap_and_a_slider_keeps_its_width(demo):
    rows = demo.children[:2]
    assert all(row.layout.flex_flow == "row wrap" for row in rows)
    assert demo.number.layout.flex == "1 1 340px" and demo.children[-1] is demo.panel


def test_a_page_without_a_kernel_shows_a_picture_with_the_settings(demo):
    from helpers.widgets import readable

    demo.kind.value = "<y>"
    bundle = demo._repr_mimebundle_()
    assert bundle["text/plain"] == "[A <demo>, once the notebook runs.]"
    assert readable(bundle["text/html"]).splitlines() == [
        "A <demo>. This is a picture; run the notebook to change its settings: Word a , Number 1 , Kind <y> .",
        "a 1",
    ]
    assert bundle["text/html"].startswith('<div class="course-frame">') and bundle["text/html"].endswith(f"{demo.panel.value}</div>")
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == demo.model_id


def test_settings_are_put_in_words():
    from helpers.widgets import _in_words, choice_slider, dropdown, slider, text_field, tick_box

    controls = [choice_slider([0.0, 0.5], 0.0, "S"), choice_slider([("entry", -1), ("0", 0)], -1, "L"), dropdown(["a"], "D")]
    controls += [tick_box(True, "T"), tick_box(False, "T"), slider(1.5, 0, 2, "F", step=0.5), text_field("x" * 99, "X")]
    assert [_in_words(control) for control in controls] == ["0.0", "entry", "a", "yes", "no", "1.5", "x" * 59 + "…"]


CHANGED_ELSEWHERE = """
import sys, threading, time
sys.path.insert(0, {root!r})
from helpers.widgets import Demo, slider

running, threads, beside = False, set(), 0

def write(number):
    global beside
    threads.add(threading.current_thread().name)
    beside += running
    return f"<p>{{number}}</p>"

demo = Demo("a demo", write, {{"number": slider(0, 0, 99, "Number")}})
seen = []
demo.panel.observe(lambda change: seen.append(change["new"]), names="value")
"""
MOVED = """
def move():
    for number in range(1, 21):
        demo.number.value = number
        time.sleep(0.01)

running = True
mover = threading.Thread(target=move)
mover.start(); mover.join(); waiting = demo.status.value
running = False
"""


def test_changes_that_come_from_another_thread_are_answered_after_the_cell_once_and_in_the_main_thread():
    """In a real kernel, whatever its version: the thread in which some of them take what a widget sends is made by hand."""
    cells = [CHANGED_ELSEWHERE.format(root=str(ROOT)), MOVED, "print(threads, beside, seen, 'A cell is running' in waiting, demo._awaited)"]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert notebook.cells[2].outputs[0].text == "{'MainThread'} 0 ['<p>20</p>'] True False\n"


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
