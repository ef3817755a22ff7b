"""Widgets and what they are built on, driven as a reader drives them: whatever is set gets an answer or a sentence, never a traceback.

What holds for every widget is tested here for all of them; what the pictures show is compared in ``test_widgets_*.py``.
"""

import gc
import re
import weakref
from pathlib import Path
from random import Random

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from tiny_models import write_tiny_model
from widget_tools import CASES, ODD, answered, as_before, balanced, case, logits_after, move, odd_values, small_world, tiny

from helpers.cluster.widgets_relations import FactEditor
from helpers.inputs import chosen
from helpers.models import load_model
from helpers.one_layer.widgets_autoencoders import ClampBench
from helpers.one_layer.widgets_directions import RefusalDial
from helpers.one_neuron.widgets import DoseLab
from helpers.prediction import adjust, last_logits, tokenize
from helpers.speak.widgets_lens import remembered
from helpers.widgets import KEPT, Demo, _in_words, choice_slider, dropdown, html_to_text, prompt_html, slider, text_field, tick_box

__all__ = ["as_before", "small_world"]  # fixtures

ROOT = Path(__file__).parents[1]
MOVES = 25  # of the controls of one widget


every_widget = pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)


@every_widget
def test_the_first_picture_is_there_at_once_and_on_a_page_without_a_kernel_and_has_words(kind: type[Demo]):
    demo = case(kind).make()
    html = demo.panel.value
    assert case(kind).heading in html_to_text(html) and balanced(html) and "<script" not in html and "<svg" not in html
    assert html.count("<img") == html.count("<img alt=")
    assert all("%" in row for row in re.findall(r"<tr><td style='font-family:monospace'>.*?</tr>", html))  # bars carry their number
    controls = [control for row in demo.children[:-2] for control in row.children]
    assert controls == list(demo.controls.values()) and demo.children[-1] is demo.panel
    assert all(control.description.strip() and not getattr(control, "continuous_update", False) for control in controls)
    caption, frame = html_to_text(demo.frame()).splitlines()[0], demo.frame()  # on a page without a kernel
    assert frame.startswith('<div class="course-frame">') and frame.endswith(f"{html}</div>") and balanced(frame)
    assert all(f"{control.description} {_in_words(control)}".strip() in caption for control in demo.settings().values())
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(demo))


@every_widget
def test_every_control_changes_the_panel(kind: type[Demo]):
    for name in case(kind).make().controls:
        demo, rng = case(kind).make(), Random(1)
        if name not in demo.settings():  # it plays no part while a word is searched for
            demo.search.value = False
        first = demo.panel.value
        assert any((move(demo.controls[name], rng), demo.panel.value != first)[1] for _ in range(30)), name


@every_widget
def test_whatever_is_set_in_whatever_order_the_panel_has_the_answer_to_it(kind: type[Demo]):
    """Nothing is stale: after each move the panel is what the function writes for the controls as they stand."""
    demo, rng = case(kind).make(), Random(2)
    for _ in range(MOVES):
        move(rng.choice(list(demo.controls.values())), rng)
        html = demo.panel.value
        assert answered(html, case(kind).heading)
        assert html.split("<p><small>Below is still")[0] == case(kind).write(**demo.values())
        assert "working" not in demo.status.value


@every_widget
def test_whatever_a_control_could_never_be_set_to_is_answered_too(kind: type[Demo]):
    values = case(kind).make().values()
    for name, value in values.items():
        for odd in odd_values(value):
            assert answered(case(kind).write(**values | {name: odd}), case(kind).heading), (name, odd)


def test_what_is_not_in_a_list_is_answered_with_what_is():
    assert chosen({"a": 1, "<b>": 2}, "<b>", "map") == 2
    with pytest.raises(ValueError, match=r"^There is no map 'c'; choose one of: a, <b>\.$"):
        chosen({"a": 1, "<b>": 2}, "c", "map")


LARGEST = {DoseLab: ("dose", 10_000), ClampBench: ("multiple", 100), RefusalDial: ("multiple", 100), FactEditor: ("strength", 100)}


@pytest.mark.parametrize("kind", LARGEST, ids=lambda kind: kind.__name__)
def test_a_number_that_is_none_or_too_large_is_answered_in_a_sentence(kind: type[Demo]):
    name, most = LARGEST[kind]
    values, write = case(kind).make().values(), case(kind).write
    for value in (float("nan"), -float("inf"), most + 0.5):
        assert write(**values | {name: value}) == f"<p>The {name} must be a number from -{most} to {most}, not {value}.</p>"
    for value in (-most, most):
        html = write(**values | {name: value})
        assert case(kind).heading in html_to_text(html) and "nan" not in html


def test_a_text_that_is_too_long_is_cut_with_a_sentence_and_an_empty_one_may_need_one(monkeypatch: pytest.MonkeyPatch):
    says = "64 tokens. The model reads 64 tokens at most, so the first 37 of the text are cut off."
    assert html_to_text(prompt_html(tiny(), "y" * 100)).startswith(says) and "cut off" not in prompt_html(tiny(), "y")
    assert all("most likely next tokens" in prompt_html(tiny(), text) for text in ODD.values())
    monkeypatch.setattr(tiny().cfg, "default_prepend_bos", False)
    assert prompt_html(tiny(), "") == "<p>There is nothing to continue: this model needs at least one token, so give it some text.</p>"


def test_temperature_and_top_k_change_how_tokens_are_drawn_and_not_what_the_model_says():
    def bars(*settings: float) -> list[tuple[str, str]]:
        rows = re.findall(r"<tr><td style='font-family.*?</tr>", prompt_html(tiny(), "hello", *settings), re.S)
        return [tuple(re.findall(r"([\d.]+)%", row)[-2:]) for row in rows]

    plain, drawn = zip(*bars(0.5, 3), strict=True)
    assert plain == tuple(first for first, _ in bars(2.0, 0)) == tuple(both for _, both in bars(1.0, 0))
    assert plain == tuple(f"{100 * prob:.1f}" for prob in logits_after(tiny(), "hello").softmax(-1).topk(10).values.tolist())
    probs = adjust(last_logits(tiny(), tokenize(tiny(), "hello")), 0.5, 3).sort(descending=True).values[:10]
    assert drawn == tuple(f"{100 * prob:.1f}" for prob in probs.tolist()) and drawn[3:] == ("0.0",) * 7


@pytest.fixture
def demo():
    """A small widget that counts its answers and fails where it is told to; its second control follows the first."""

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
    said = []
    demo.status.observe(lambda change: said.append(html_to_text(change["new"]).splitlines()[-1]), names="value")
    demo.number.value = 2
    assert [line.split()[-2] for line in said] == ["working", "its"]
    assert html_to_text(demo.status.value) == "A text is read when you press Enter or leave its field."


@pytest.mark.parametrize(("text", "several", "kind"), [("a", False, "Text"), ("two\nlines", False, "Textarea"), ("a", True, "Textarea")])
def test_a_field_has_one_line_unless_its_text_has_more(text: str, several: bool, kind: str):
    assert type(text_field(text, "Prompt", several)).__name__ == kind


def test_a_page_without_a_kernel_shows_a_picture_with_the_settings(demo):
    demo.kind.value = "<y>"
    bundle = demo._repr_mimebundle_()
    assert bundle["text/plain"] == "[A <demo>, once the notebook runs.]"
    assert html_to_text(bundle["text/html"]).splitlines() == [
        "A <demo>. This is a picture; run the notebook to change its settings: Word a , Number 1 , Kind <y> .",
        "a 1",
    ]
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == demo.model_id


def test_settings_are_put_in_words():
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


def test_html_to_text_takes_the_words_out_of_html():
    assert html_to_text("<p><b>a &lt; b</b></p><table><tr><td>c</td><td>1</td></tr></table>") == "a < b\nc 1"


def test_a_function_remembers_its_last_results_and_keeps_no_model_alive(tmp_path: Path):
    asked, model = [], load_model(write_tiny_model("gpt2", tmp_path))
    double, kept = remembered(lambda model, number: asked.append(number) or 2 * number), weakref.ref(model)
    assert [double(model, number) for number in (1, 2, 1)] == [2, 4, 2] and asked == [1, 2]
    assert double(tiny(), 1) == 2 and asked == [1, 2, 1]
    assert [double(model, number) for number in range(3, KEPT + 2)][-1] == 2 * (KEPT + 1)
    assert double(model, 2) == 4 and asked.count(2) == 1 and double(model, 1) == 2 and asked.count(1) == 3  # the oldest was forgotten
    del model
    gc.collect()
    assert kept() is None
