"""The widgets of lesson 2a: answers, probabilities and perplexities are those of runs with hooks of one's own."""

import re
from html import escape

import pytest
from widget_tools import (
    MODES_OF,
    NAMED,
    REFUSALS,
    TASKS,
    as_before,
    at_position,
    changed,
    logits_after,
    numbers,
    perplexity_of,
    small_world,
    tiny,
    writer,
)

from helpers.one_layer import widgets_directions as dials
from helpers.one_layer.widgets_directions import ADD, ANSWER, PROJECT, RefusalDial, SteeringLab, TaskVectorBench, cut
from helpers.prediction import sample, tokenize, top_tokens
from helpers.widgets import bars_html, html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

REQUEST, PROMPT, WORD = "hello you", "Paris is", "hot"
ASKED = f"user: {REQUEST}\n"  # by the tiny model's chat template

dial = writer(RefusalDial)
steered = writer(SteeringLab)
bench = writer(TaskVectorBench)


def answers(html: str) -> list[str]:
    """The answers in a panel, as HTML."""
    return re.findall(r"<span style='white-space:pre-wrap'>(.*?)</span>", html, re.DOTALL)


def greedy(prompt: str) -> str:
    return sample(tiny(), prompt, ANSWER, temperature=0).strip()


def refusal() -> tuple[str, float]:
    """The answer to the request, and how likely one of the tokens of a refusal comes next, in percent."""
    return escape(greedy(ASKED)), 100 * logits_after(tiny(), ASKED).softmax(-1)[REFUSALS].sum().item()


@pytest.mark.parametrize(("layer", "multiple"), [(0, 1.0), (1, -2.5), (1, 0.0)])
def test_the_dial_answers_as_it_is_and_with_the_direction_added(layer: int, multiple: float):
    change = {f"blocks.{layer}.hook_resid_pre": lambda values: values + multiple * MODES_OF.vectors[layer, 0]}
    expected = [refusal(), changed(tiny(), change, refusal)]
    html = dial(REQUEST, layer, multiple, ADD)
    assert answers(html) == [text for text, _ in expected] and (expected[0][0] == expected[1][0]) == (multiple == 0)
    assert numbers(html, "a refusal rather than help: #%") == pytest.approx([share for _, share in expected], abs=0.06)
    assert html.index("<b>As it is</b>") < html.index(f"<b>Layer {layer}: {multiple:g} × the direction, added there</b>")


def test_the_dial_projects_the_direction_out_of_every_layer():
    unit = MODES_OF.vectors[1, 0] / MODES_OF.vectors[1, 0].norm()
    places = [f"blocks.{layer}.hook_{what}" for layer in (0, 1) for what in ("resid_pre", "attn_out", "mlp_out")]
    expected = [refusal(), changed(tiny(), dict.fromkeys(places, lambda values: values - (values @ unit)[..., None] * unit), refusal)]
    html = dial(REQUEST, 1, 1.0, PROJECT)
    assert answers(html) == [text for text, _ in expected] and expected[0][0] != expected[1][0]
    assert numbers(html, "a refusal rather than help: #%") == pytest.approx([share for _, share in expected], abs=0.06)
    assert "<b>Layer 1: its direction projected out everywhere</b>" in html
    assert html == dial(REQUEST, 1, -3.0, PROJECT) and "the multiple plays no part" in html_to_text(html)


def test_the_lab_adds_both_directions_each_at_its_layer_and_with_its_strength():
    change = {
        "blocks.0.hook_resid_pre": lambda values: values + 1.5 * NAMED["polite"][1],
        "blocks.1.hook_resid_pre": lambda values: values - 0.5 * NAMED["<formal>"][1],
    }
    plain, moved = greedy(PROMPT), changed(tiny(), change, lambda: greedy(PROMPT))
    html = steered(PROMPT, "polite", 1.5, "<formal>", -0.5)
    assert answers(html) == [escape(plain), escape(moved)] and plain != moved
    expected = [perplexity_of(tiny(), f"{PROMPT} {text}") for text in (plain, moved)]
    assert numbers(html, "perplexity to the plain model #") == pytest.approx(expected, abs=0.06) and expected[0] < expected[1]
    assert "<b>As it is</b>" in html and "<b>1.5 × polite, -0.5 × &lt;formal&gt;</b>" in html


@pytest.mark.parametrize("layer", [0, 1])
def test_the_bench_adds_a_tasks_vector_after_the_block_at_the_colon_only(layer: int):
    def bars() -> str:
        return bars_html(top_tokens(tiny(), "hot:", 5))

    change = {f"blocks.{layer}.hook_resid_post": at_position(slice(-1, None), lambda values: values + TASKS["antonym"][layer])}
    before, after = bars(), changed(tiny(), change, bars)
    html = bench("antonym", layer, "hot")
    assert before in html and after in html and before != after and html.index("as it is") < html.index(f"antonym, layer {layer}")
    assert bench("antonym", layer, "  hot\t") == html  # blanks around a word do not count
    assert bars_html(top_tokens(tiny(), "x" * 500 + ":", 5)) in bench("antonym", layer, "x" * 500)


def test_long_texts_keep_their_end_leave_room_for_an_answer_and_say_so():
    assert cut(tiny(), "hello you") == ("hello you", "")
    space = tiny().cfg.n_ctx - 2 * ANSWER
    long = "xyz " * 100 + "the end"
    end, note = cut(tiny(), long)
    assert end == long[-len(end) :] and f"room for {space}: the first" in note
    end, note = cut(tiny(), "q" * 500)
    assert len(tokenize(tiny(), end)) == space + 1 and set(end) == {"q"}  # and the mark in front
    assert html_to_text(note) == f"The text has 501 tokens, and there is room for {space}: the first {501 - space} are cut off."
    assert cut(tiny(), "q" * (space - 1)) == ("q" * (space - 1), "")
    for html in (dial("q" * 500, 0, 1.0, ADD), steered("q" * 500, "past", 1.0, "past", 0.0)):
        assert html.startswith(note)


@pytest.mark.parametrize("said, shown", [("", "nothing: the answer ends at once"), ("<b>&amp;", "&lt;b&gt;&amp;amp;")])
def test_an_answer_that_ends_at_once_is_put_in_words_and_none_is_markup(monkeypatch, said: str, shown: str):
    monkeypatch.setattr(dials, "generate", lambda *arguments: [said])
    for html in (dial(REQUEST, 0, 1.0, ADD), steered(PROMPT, "past", 1.0, "past", 0.0)):
        assert answers(html) == [shown] * 2


@pytest.mark.parametrize(
    "write, sentence",
    [
        *((lambda text=text: dial(text, 0, 1.0, ADD), "There is nothing to answer: write something.") for text in ("", " \n\t ")),
        (lambda: steered(" \n", "past", 1.0, "past", 0.0), "There is nothing to answer: write something."),
        (lambda: bench("antonym", 0, " \n"), "There is no word: write one, such as hot."),
    ],
)
def test_what_there_is_not_is_answered_in_a_sentence(write, sentence: str):
    html = write()
    assert html_to_text(html).startswith(sentence) and html.startswith(f"<p>{escape(sentence)}") and html.count("<") == 2
