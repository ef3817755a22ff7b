"""The widgets of lesson 2a, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

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
from test_widgets_neurons import ENOUGH, WORDS, answered, controls_of
from tiny_models import write_tiny_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.one_layer import widgets_directions as dials
from helpers.one_layer.directions import Directions
from helpers.one_layer.widgets_directions import (
    ANSWER,
    LARGEST,
    MODES,
    RefusalDial,
    SteeringLab,
    TaskVectorBench,
    cut,
    dial_html,
    steering_html,
    task_vector_html,
)
from helpers.prediction import sample, tokenize, top_tokens
from helpers.widgets import bars_html, readable

ADD, OUT = MODES
REFUSALS = [70, 71, 72, 280]
REQUEST, PROMPT, WORD = "hello you", "Paris is", "hot"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FOUND = Directions(2 * randn(3, 1, 32), torch.zeros(3, 1, 32), n=(1, 1))  # for the two layers of the tiny model and what follows them
NAMED = {"polite": (0, 3 * randn(32, seed=1)), "<formal>": (1, 3 * randn(32, seed=2)), "past": (1, 3 * randn(32, seed=3))}
TASKS = {"antonym": 4 * randn(2, 32, seed=4), "capital & co": 4 * randn(2, 32, seed=5)}


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What the untouched model said in an earlier test is forgotten."""
    from helpers.one_layer.widgets_directions import oddness, plain_answer, plain_metric

    for remembered in (plain_answer, plain_metric, oddness):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 with a chat template, which reads 64 tokens."""
    from helpers.models import load_model

    return load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a single token, so that many can be had in a moment."""
    monkeypatch.setattr(dials, "ANSWER", 1)


@pytest.fixture
def dial(tiny):
    return partial(dial_html, tiny, FOUND, REFUSALS)


@pytest.fixture
def steered(tiny):
    return partial(steering_html, tiny, NAMED)


@pytest.fixture
def bench(tiny):
    return partial(task_vector_html, tiny, TASKS)


# ---------------------------------------------------------------------------------------------------------- what is shown


def with_changes(model, changes: dict[str, Callable[[Tensor], Tensor]], look: Callable[[], Any]) -> Any:
    """What ``look`` sees while the values at some places are changed, by hooks of its own."""
    with model.hooks(fwd_hooks=[(place, lambda values, hook, change=change: change(values)) for place, change in changes.items()]):
        return look()


def answers(html: str) -> list[str]:
    """The answers in a panel, as HTML."""
    return re.findall(r"<span style='white-space:pre-wrap'>(.*?)</span>", html, re.DOTALL)


def numbers(html: str, before: str) -> list[float]:
    """The numbers that stand after some words."""
    return [float(number) for number in re.findall(rf"{before} ([\d.]+)", html)]


def probability(model, prompt: str) -> float:
    """How likely one of the tokens of a refusal comes next, in percent."""
    return 100 * model(tokenize(model, prompt)[None])[0, -1].softmax(-1)[REFUSALS].sum().item()


def greedy(model, prompt: str) -> str:
    return sample(model, prompt, ANSWER, temperature=0).strip()


def look_at(model, prompt: str) -> tuple[str, float]:
    return escape(greedy(model, prompt)), probability(model, prompt)


@pytest.mark.parametrize(("layer", "multiple"), [(0, 1.0), (1, -2.5), (1, 0.0)])
def test_the_dial_answers_as_it_is_and_with_the_direction_added(tiny, dial, layer: int, multiple: float):
    prompt = f"user: {REQUEST}\n"  # the tiny model's chat template
    change = {f"blocks.{layer}.hook_resid_pre": lambda values: values + multiple * FOUND.vectors[layer, 0]}
    expected = [look_at(tiny, prompt), with_changes(tiny, change, lambda: look_at(tiny, prompt))]
    html = dial(REQUEST, layer, multiple, ADD)
    assert answers(html) == [text for text, _ in expected]
    assert numbers(html, "refuses with probability") == pytest.approx([refusal for _, refusal in expected], abs=0.06)
    assert (expected[0][0] == expected[1][0]) == (multiple == 0)
    assert html.index("<b>As it is</b>") < html.index(f"<b>Layer {layer}: {multiple:g} × the direction, added there</b>")


def test_the_dial_projects_the_direction_out_of_every_layer(tiny, dial):
    prompt, unit = f"user: {REQUEST}\n", FOUND.vectors[1, 0] / FOUND.vectors[1, 0].norm()
    places = [f"blocks.{layer}.hook_{what}" for layer in (0, 1) for what in ("resid_pre", "attn_out", "mlp_out")]
    change = dict.fromkeys(places, lambda values: values - (values @ unit)[..., None] * unit)
    expected = [look_at(tiny, prompt), with_changes(tiny, change, lambda: look_at(tiny, prompt))]
    html = dial(REQUEST, 1, 1.0, OUT)
    assert answers(html) == [text for text, _ in expected] and expected[0][0] != expected[1][0]
    assert numbers(html, "refuses with probability") == pytest.approx([refusal for _, refusal in expected], abs=0.06)
    assert "<b>Layer 1: its direction projected out everywhere</b>" in html
    assert html == dial(REQUEST, 1, -3.0, OUT) and "the multiple plays no part" in readable(html)


def perplexity(model, text: str) -> float:
    """What the plain model finds of a text."""
    tokens = tokenize(model, text)[-model.cfg.n_ctx :]
    return cross_entropy(model(tokens[None])[0, :-1], tokens[1:]).exp().item()


def test_the_lab_adds_both_directions_each_at_its_layer_and_with_its_strength(tiny, steered):
    change = {
        "blocks.0.hook_resid_pre": lambda values: values + 1.5 * NAMED["polite"][1],
        "blocks.1.hook_resid_pre": lambda values: values - 0.5 * NAMED["<formal>"][1],
    }
    plain, moved = greedy(tiny, PROMPT), with_changes(tiny, change, lambda: greedy(tiny, PROMPT))
    html = steered(PROMPT, "polite", 1.5, "<formal>", -0.5)
    assert answers(html) == [escape(plain), escape(moved)] and plain != moved
    expected = [perplexity(tiny, f"{PROMPT} {text}") for text in (plain, moved)]
    assert numbers(html, "perplexity to the plain model") == pytest.approx(expected, abs=0.06) and expected[0] < expected[1]
    assert "<b>As it is</b>" in html and "<b>1.5 × polite, -0.5 × &lt;formal&gt;</b>" in html


def test_the_same_direction_twice_adds_up_and_strength_0_changes_nothing(steered):
    both, one = (answers(steered(PROMPT, *setting)) for setting in (("past", 1.0, "past", 0.5), ("past", 1.5, "polite", 0.0)))
    assert both == one and both[0] != both[1]
    same = answers(steered(PROMPT, "past", 0.0, "polite", 0.0))
    assert same[0] == same[1] == both[0]


@pytest.mark.parametrize("layer", [0, 1])
def test_the_bench_adds_a_tasks_vector_after_the_block_at_the_colon_only(tiny, bench, layer: int):
    def add_at_the_end(values: Tensor) -> Tensor:
        return torch.cat([values[:, :-1], values[:, -1:] + TASKS["antonym"][layer]], dim=1)

    before = bars_html(top_tokens(tiny, "hot:", 5))
    after = with_changes(tiny, {f"blocks.{layer}.hook_resid_post": add_at_the_end}, lambda: bars_html(top_tokens(tiny, "hot:", 5)))
    html = bench("antonym", layer, "hot")
    assert before in html and after in html and before != after and html.index("as it is") < html.index(f"antonym, layer {layer}")
    assert bench("antonym", layer, "  hot\t") == html  # blanks around a word do not count


def test_the_colon_of_a_word_that_is_too_long_is_found_too(tiny, bench):
    html = bench("antonym", 1, "x" * 500)
    assert bars_html(top_tokens(tiny, "x" * 500 + ":", 5)) in html and "antonym, layer 1" in html


def test_long_texts_keep_their_end_leave_room_for_an_answer_and_say_so(tiny, dial, steered):
    assert cut(tiny, "hello you") == ("hello you", "")
    space = tiny.cfg.n_ctx - 2 * ANSWER
    long = "xyz " * 100 + "the end"
    end, note = cut(tiny, long)
    assert end == long[-len(end) :] and f"room for {space}: the first" in note
    end, note = cut(tiny, "q" * 500)
    assert len(tokenize(tiny, end)) == space + 1 and set(end) == {"q"}  # and the mark in front
    assert readable(note) == f"The text has 501 tokens, and there is room for {space}: the first {501 - space} are cut off."
    assert cut(tiny, "q" * (space - 1)) == ("q" * (space - 1), "")
    for html in (dial("q" * 500, 0, 1.0, ADD), steered("q" * 500, "past", 1.0, "past", 0.0)):
        assert html.startswith(note)


def test_an_answer_that_ends_at_once_is_put_in_words(dial, steered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dials, "generate", lambda *arguments: [""])
    for html in (dial(REQUEST, 0, 1.0, ADD), steered(PROMPT, "past", 1.0, "past", 0.0)):
        assert answers(html) == ["nothing: the answer ends at once"] * 2


def test_an_answer_is_no_markup(dial, steered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dials, "generate", lambda *arguments: ["<b>&amp;"])
    for html in (dial(REQUEST, 0, 1.0, ADD), steered(PROMPT, "past", 1.0, "past", 0.0)):
        assert answers(html) == ["&lt;b&gt;&amp;amp;"] * 2


# ----------------------------------------------------------------------------------------------- what cannot be, in a sentence


def test_what_there_is_not_is_answered_in_a_sentence(dial, steered, bench):
    assert readable(dial(REQUEST, 0, 1.0, "magic")) == (
        "There is no kind of change called 'magic'; choose one of: add at this layer, project out everywhere."
    )
    assert readable(dial(REQUEST, -1, 1.0, ADD)).startswith("There are directions for layers 0 to 2")
    assert readable(dial(REQUEST, 2, 1.0, ADD)).startswith("There is no place 'blocks.2.hook_resid_pre': this model's layers are 0 to 1")
    for html in (steered(PROMPT, "rude", 1.0, "past", 0.0), steered(PROMPT, "past", 1.0, "rude", 0.0)):
        assert html == "<p>There is no direction &#x27;rude&#x27;; choose one of: polite, &lt;formal&gt;, past.</p>"
    assert readable(bench("sums", 0, WORD)) == "There is no task 'sums'; choose one of: antonym, capital & co."
    for layer in (-1, 2):
        assert readable(bench("antonym", layer, WORD)) == f"There is no layer {layer}: this model's layers are 0 to 1."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 100.5])
def test_a_multiple_that_is_no_number_or_too_large_is_answered_in_a_sentence(dial, steered, value: float):
    sentence = f"<p>The multiple must be a number from -100 to 100, not {value}.</p>"
    assert dial(REQUEST, 0, value, ADD) == sentence
    assert steered(PROMPT, "past", value, "past", 0.0) == steered(PROMPT, "past", 0.0, "past", value) == sentence
    assert "As it is" in dial(REQUEST, 0, LARGEST, ADD) and "nan" not in steered(PROMPT, "past", LARGEST, "past", -LARGEST)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_nothing_typed_is_answered_in_a_sentence(dial, steered, bench, text: str):
    for html in (dial(text, 0, 1.0, ADD), steered(text, "past", 1.0, "past", 0.0)):
        assert html == "<p>There is nothing to answer: write something.</p>"
    assert bench("antonym", 0, text) == "<p>There is no word: write one, such as hot.</p>"


def test_a_direction_of_length_0_and_a_model_that_does_not_chat_get_a_sentence(tiny, dial, monkeypatch: pytest.MonkeyPatch):
    nothing = Directions(torch.ones(3, 1, 32), torch.ones(3, 1, 32), n=(1, 1))
    assert readable(dial_html(tiny, nothing, REFUSALS, REQUEST, 0, 1.0, OUT)).startswith("A direction of length 0 points nowhere")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    assert readable(dial(REQUEST, 0, 1.0, ADD)).startswith("This model has no chat template")


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(tiny, dial, steered, bench):
    tokens = tokenize(tiny, "hello you")[None]
    before = tiny(tokens)
    for html in (dial(REQUEST, 1, 2.0, ADD), dial(REQUEST, 1, 2.0, OUT), dial(REQUEST, 9, 2.0, OUT)):
        assert html
    assert steered(PROMPT, "past", 2.0, "polite", 1.0) and bench("antonym", 1, WORD) and bench("antonym", 7, WORD)
    assert torch.equal(tiny(tokens), before)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


NUMBERS = st.integers(-2, 3) | st.integers()
SCALES = st.floats(-4, 4) | st.floats()
HEADINGS = {"dial": "As it is", "lab": "As it is", "bench": "as it is"}


@settings(max_examples=40, **ENOUGH)
@given(WORDS, NUMBERS, SCALES, SCALES, st.sampled_from(MODES), st.sampled_from([*NAMED, *TASKS]) | st.text(max_size=5))
def test_any_text_number_and_name_gives_an_answer(brief, dial, steered, bench, text, layer, scale, other, mode, name):
    assert answered(dial(text, layer, scale, mode), HEADINGS["dial"])
    assert answered(steered(text, name, scale, "past", other), HEADINGS["lab"])
    assert answered(bench(name, layer, text), HEADINGS["bench"])


# ----------------------------------------------------------------------------------------------------------------- widgets


@pytest.fixture
def widgets(tiny) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    return {
        "dial": lambda: RefusalDial(tiny, FOUND, REFUSALS, 1, REQUEST),
        "lab": lambda: SteeringLab(tiny, NAMED, PROMPT),
        "bench": lambda: TaskVectorBench(tiny, TASKS, 1, WORD),
    }


DIRECTION, STRENGTH = st.sampled_from(list(NAMED)), st.floats(-3, 3) | st.floats(allow_nan=False)
CONTROLS: dict[str, dict[str, st.SearchStrategy]] = {
    "dial": {"request": WORDS, "layer": NUMBERS, "multiple": STRENGTH, "mode": st.sampled_from(MODES)},
    "lab": {"prompt": WORDS, "first": DIRECTION, "strength": STRENGTH, "second": DIRECTION, "other_strength": STRENGTH},
    "bench": {"word": WORDS, "task": st.sampled_from(list(TASKS)), "layer": NUMBERS},
}
INPUTS = {"dial": 200, "lab": 160, "bench": 660}  # together over 1,000; those that write answers are slow
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
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"request": "a cat", "prompt": "a cat", "word": "cat", "layer": 0, "multiple": -2.0, "mode": OUT}
    others |= {"first": "past", "strength": 2.5, "second": "polite", "other_strength": 1.5, "task": "capital & co"}
    seen = {widget.panel.value}
    for control in CONTROLS[name]:
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(widgets, dial, steered, bench):
    one, two, three = (make() for make in widgets.values())
    assert one.panel.value == dial(REQUEST, 1, 1.0, ADD) and two.panel.value == steered(PROMPT, "polite", 1.0, "past", 0.0)
    assert three.panel.value == bench("antonym", 1, WORD)
    one.multiple.value, one.layer.value, three.task.value, three.layer.value = -1.5, 0, "capital & co", 0
    two.first.value, two.strength.value, two.second.value, two.other_strength.value = "<formal>", 2.0, "polite", -1.0
    assert one.panel.value == dial(REQUEST, 0, -1.5, ADD) and three.panel.value == bench("capital & co", 0, WORD)
    assert two.panel.value == steered(PROMPT, "<formal>", 2.0, "polite", -1.0)
    one.mode.value = OUT
    assert one.panel.value == dial(REQUEST, 0, -1.5, OUT)


def test_sliders_end_where_the_model_and_the_scale_end(tiny, widgets):
    dial, lab, bench = (make() for make in widgets.values())
    dial.layer.value = bench.layer.value = 99
    dial.multiple.value, lab.strength.value, lab.other_strength.value = 1e9, -1e9, 1e9
    assert dial.layer.value == bench.layer.value == tiny.cfg.n_layers - 1
    assert (dial.multiple.value, lab.strength.value, lab.other_strength.value) == (3, -3, 3)
    assert "Layer 1: 3 × the direction" in readable(dial.panel.value) and "-3 × polite, 3 × past" in readable(lab.panel.value)
    assert lab.first.options == lab.second.options == tuple(NAMED) and bench.task.options == tuple(TASKS)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_pictures_have_words(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS[name]) and all(control.description.strip() for control in controls)
    assert widget.children[-1] is widget.panel
    html = widget.panel.value
    assert "<img" not in html and "<svg" not in html
    assert all("%" in row for row in re.findall(r"<tr><td style='font-family:monospace'>.*?</tr>", html))  # bars carry their number


@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_without_a_kernel_shows_a_sentence(widgets, name: str):
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widgets[name]()))
