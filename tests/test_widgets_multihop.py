"""The widgets of lesson 4b, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import unescape
from itertools import permutations
from typing import Any

import ipywidgets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speak_tools import token
from test_multihop import QUESTIONS, by_hand, deep, states_of
from test_widgets_circuits import balanced
from test_widgets_neurons import ENOUGH, answered, controls_of

from helpers.prediction import next_token_probs, pieces, tokenize
from helpers.running import lens_logits
from helpers.speak import widgets_multihop as lab
from helpers.speak.back_patching import back_patch
from helpers.speak.bridges import entity_ranks
from helpers.speak.two_hops import PLACES, TwoHop
from helpers.speak.widgets_multihop import (
    CONTROLS,
    BackPatchMap,
    TwoHopTimeline,
    back_patch_html,
    first_layer,
    marks_of,
    says,
    stranger,
    timeline_html,
)
from helpers.widgets import readable

__all__ = ["deep"]  # the fixture: a random model of four layers with a token for each word

LAYERS = range(4)
PAIRS = [(source, target) for source in LAYERS for target in LAYERS]
HEADINGS = {"timeline": "The model says", "map": "Unpatched the model says"}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What was computed in an earlier test is forgotten."""
    for remembered in (lab.says, lab.marks_of, lab.patched, lab._read):
        remembered.cache_clear()


@pytest.fixture
def asked(deep) -> dict[str, TwoHop]:
    """Four questions. The first has an answer that some patch brings, and the last one the answer that the model gives it."""
    own = back_patch(deep, QUESTIONS[:1], "t2", "own", PAIRS)
    brought = next(int(seen) for seen in own.tokens[:, 0] if seen not in (0, own.before[0]))
    first = replace(QUESTIONS[0], e3=deep.tokenizer.decode([brought]))
    last = replace(QUESTIONS[3], e3=pieces(deep, next_token_probs(deep, QUESTIONS[3].text).argmax()[None])[0])
    return {one.text: one for one in (first, *QUESTIONS[1:3], last)}


@pytest.fixture
def timed(deep, asked):
    return partial(timeline_html, deep, asked)


@pytest.fixture
def mapped(deep, asked):
    return partial(back_patch_html, deep, asked)


def squares(html: str) -> list[tuple[str, str, str]]:
    """Style, title and content of each square, row by row."""
    found = re.findall(r'<td style="([^"]*)" title="([^"]*)">(.*?)</td>', html)
    return [(style, unescape(title), unescape(shown)) for style, title, shown in found]


# --------------------------------------------------------------------------------------------------------- other questions


def test_a_stranger_shares_no_entity_and_is_of_the_same_kind_before_others(deep):
    one, two, three = QUESTIONS[:3]
    far, form = replace(two, kind="other"), replace(three, kind="other", form="possessive")
    for order in permutations([form, far, one, two]):
        assert stranger(deep, one, order) == two
        assert stranger(deep, one, [other for other in order if other != two]) == far
    assert stranger(deep, one, [form]) == form
    alike = [replace(two, **{name: getattr(one, name)}) for name in ("e1", "e2", "e3")]
    assert stranger(deep, one, [one, *alike]) is None and stranger(deep, one, [*alike, three]) == three


def test_an_unknowing_stranger_says_the_answer_of_neither(deep, monkeypatch: pytest.MonkeyPatch):
    one, two, three, four = QUESTIONS
    words = {one.text: "Tom", two.text: "Yoko", three.text: "Bath", four.text: "Bath"}  # three's answer, and one's, said by mistake
    monkeypatch.setattr(lab, "says", lambda model, text: token(deep, words[text]))
    assert {stranger(deep, one, [other], unknowing=True) for other in (two, three)} == {None}
    assert stranger(deep, one, QUESTIONS, unknowing=True) == four and stranger(deep, one, [two]) == two


def test_marks_are_where_the_phrase_ends_and_the_first_tokens(deep):
    marks = marks_of(deep, QUESTIONS[1])
    assert (marks.t1, marks.e2, marks.e3) == (7, token(deep, "Paul"), token(deep, "Linda"))
    assert says(deep, QUESTIONS[1].text) == int(next_token_probs(deep, QUESTIONS[1].text).argmax())


# ------------------------------------------------------------------------------------------------------------ the timeline


def test_every_square_has_the_best_token_and_bridge_and_answer_are_coloured(deep, asked, timed):
    """By the lens on states of a run of its own."""
    rows = []
    for one in asked.values():
        found = squares(timed(one.text))
        tokens, ids = tokenize(deep, one.text), {name: token(deep, getattr(one, name)) for name in ("e2", "e3")}
        at_all = torch.stack([states_of(deep, one, "t2", back) for back in reversed(range(len(tokens)))], 1)
        order = lens_logits(deep, at_all).argsort(-1, descending=True)
        places = [(layer, pos) for layer in LAYERS for pos in range(len(tokens))]
        assert len(found) == len(places)
        for (layer, pos), (style, title, shown) in zip(places, found, strict=True):
            ranks = {name: order[layer, pos].tolist().index(ids[name]) for name in ids}
            seen = sorted((rank, name) for name, rank in ranks.items() if rank < 10)
            assert re.match(r"[^<]*", shown)[0] == lab.word(pieces(deep, order[layer, pos, :1])[0])
            assert title.startswith(f"layer {layer}, after ") and title.count("\n") == 10
            notes = [f"{'bridge' if name == 'e2' else 'answer'} {lab.RANKS[rank]}" for rank, name in seen]
            assert re.findall(r"<br><small>([^<]*)</small>", shown) == notes
            colours = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style)
            assert len(colours) == bool(seen)
            if seen:
                (rank, name), [(colour, depth)] = seen[0], colours
                assert colour == ("0,114,178" if name == "e2" else "213,94,0")
                assert float(depth) == pytest.approx(0.6 if rank == 0 else 0.36 if rank < 5 else 0.18)
            rows += seen
    assert {rank == 0 for rank, _ in rows} == {True, False} and {name for _, name in rows} == {"e2", "e3"}


def test_it_is_said_from_which_layer_on_they_can_be_read_as_the_helper_finds_it(deep, asked, timed):
    every = list(asked.values())
    found = entity_ranks(deep, every)
    for row, one in enumerate(every):
        words, other = readable(timed(one.text)), stranger(deep, one, every)
        names = {"e2 at t1": f"bridge, {one.e2}, at t1", "e2 at t2": f"bridge, {one.e2}, at t2", "e3 at t2": f"answer, {one.e3}, at t2"}
        for what, line in names.items():
            layers = [int(found.earliest(what, top)[row]) for top in (1, 5)]
            assert f"\n{line} {' '.join('never' if layer == 4 else f'layer {layer}' for layer in layers)}\n" in words
        assert f"\nanother bridge, {other.e2}, at t1 " in words and f"\nanother answer, {other.e3}, at t2 " in words


def test_the_controls_are_the_entities_of_another_question(deep, asked, timed):
    one, every = next(iter(asked.values())), list(asked.values())
    other, found = stranger(deep, one, every), lab._read(deep, one.text)
    firsts = [first_layer(found, token(deep, other.e2), 7, top) for top in (1, 5)]
    said = " ".join("never" if first is None else f"layer {first}" for first in firsts)
    assert f"another bridge, {other.e2}, at t1 {said}\n" in readable(timed(one.text))
    alone = readable(timeline_html(deep, {one.text: one}, one.text))
    assert "another" not in alone and f"answer, {one.e3}, at t2" in alone


def test_the_story_says_whether_the_answer_is_right(deep, asked, timed):
    for one in asked.values():
        best, prob = next_token_probs(deep, one.text).max(0).indices, next_token_probs(deep, one.text).max().item()
        verdict = "right ✓" if token(deep, one.e3) == best else "wrong ✗"
        says_what = f"The model says {pieces(deep, best[None])[0]} ({prob:.1%}), which is {verdict}: the answer is {one.e3}."
        assert readable(timed(one.text)).splitlines()[0] == f"{one.e1} → {one.e2} → {one.e3}. {says_what}"
    assert "right ✓" in timed(QUESTIONS[3].text) and "wrong ✗" in timed(QUESTIONS[1].text)


def test_the_columns_of_t1_and_t2_are_marked(timed):
    html = timed(QUESTIONS[0].text)
    heads = re.findall(r"title='token (\d+)'>(.*?)<br><small>(.*?)</small></th>", html)
    assert [(int(at), name, mark) for at, name, mark in heads if mark] == [(7, "Imagine", "t1"), (8, "is", "t2")]
    assert len(heads) == 9 and balanced(html)


# ------------------------------------------------------------------------------------------------------------------ the map

SIGNS = {"right": "✓", "changed": "~", "the same": ""}


def verdicts(model, one: TwoHop, at: str, states) -> tuple[list[int], list[str]]:
    """What the model says for each pair of layers, each in a full run, and what that is."""
    before, answer = says(model, one.text), token(model, one.e3)
    tokens = [by_hand(model, one, at, pair, states[pair[0]]) for pair in PAIRS]
    return tokens, ["right" if seen == answer else "changed" if seen != before else "the same" for seen in tokens]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("control", ["unknowing prompt", "previous token"])
def test_every_square_of_both_maps_is_a_run_by_hand(deep, asked, mapped, at: str, control: str):
    one, every = next(iter(asked.values())), list(asked.values())
    lender = stranger(deep, one, every, unknowing=True)
    lent = states_of(deep, lender, at) if control == "unknowing prompt" else states_of(deep, one, at, back=1)
    html = mapped(one.text, at, control, 3, 1)
    found, expected = squares(html), [verdicts(deep, one, at, some) for some in (states_of(deep, one, at), lent)]
    assert len(found) == 2 * len(PAIRS)
    for side, (tokens, kinds) in enumerate(expected):
        for (source, target), seen, kind, (style, title, sign) in zip(PAIRS, tokens, kinds, found[16 * side :], strict=False):
            assert sign == SIGNS[kind] and title == f"from layer {source} to layer {target}: {pieces(deep, torch.tensor([seen]))[0]}"
            assert style.endswith("border:2px solid") == ((source, target) == (3, 1)) and ("2px solid rgba" in style) == (source == target)
            assert style.count("rgba(0,158,115") == (kind == "right")
    assert all(len(set(kinds)) > 1 for _, kinds in expected[: 1 + (control == "unknowing prompt" and at == "t2")])


def counts(html: str, side: int, way: str) -> list[int]:
    """Right ones, all of them, and changed ones, of a map, back or forward."""
    found = re.findall(rf"{way}: right with (\d+) of (\d+) pairs, changed with (\d+)\.", readable(html))
    return [int(number) for number in found[side]]


@pytest.mark.parametrize("at", PLACES)
def test_the_pairs_are_counted_back_and_forward(deep, asked, mapped, at: str):
    one = next(iter(asked.values()))
    html = mapped(one.text, at, "random", 0, 0)
    for side, source in enumerate(("own", "random")):
        run = back_patch(deep, [one], at, source, PAIRS)
        for way, some in (("Back", lambda s, t: s > t), ("Forward", lambda s, t: s < t)):
            rows = [row for row, pair in enumerate(PAIRS) if some(*pair)]
            right, changed = run.hits[rows, 0], run.tokens[rows, 0] != run.before[0]
            assert counts(html, side, way) == [int(right.sum()), 6, int((changed & ~right).sum())]
    assert balanced(html)


def test_the_chosen_patch_is_told_in_words(deep, asked, mapped):
    one, words = next(iter(asked.values())), {"right": "right now ✓", "changed": "another answer than before, and wrong"}
    tokens, kinds = verdicts(deep, one, "t2", states_of(deep, one, "t2"))
    assert set(kinds) == {"right", "changed", "the same"} or set(kinds) == {"right", "the same"}
    for (source, target), seen, kind in zip(PAIRS, tokens, kinds, strict=True):
        said = f"From layer {source} to layer {target}: the model says {pieces(deep, torch.tensor([seen]))[0]},"
        assert f"{said} {words.get(kind, 'the same as before')}." in readable(mapped(one.text, "t2", "random", source, target))


def test_the_story_and_the_control_have_their_names(deep, asked, mapped):
    one, every = next(iter(asked.values())), list(asked.values())
    lender = stranger(deep, one, every, unknowing=True)
    words = readable(mapped(one.text, "t1", "unknowing prompt", 0, 0))
    before = pieces(deep, torch.tensor([says(deep, one.text)]))[0]
    assert words.startswith(
        f"{one.e1} → {one.e2} → {one.e3}. Unpatched the model says {before}; right would be {one.e3}.\nThe question's own"
    )
    assert f"\nControl: states of another prompt, “{lender.text}”\n" in words
    assert "\nControl: states of the token before\n" in readable(mapped(one.text, "t1", "previous token", 0, 0))
    assert "\nControl: states of random numbers, as long\n" in readable(mapped(one.text, "t1", "random", 0, 0))


def test_a_question_without_a_control_has_its_own_map_and_a_sentence(deep):
    one = QUESTIONS[0]
    html = back_patch_html(deep, {one.text: one}, one.text, "t1", "unknowing prompt", 1, 0)
    assert len(squares(html)) == 16 and "For this question there is no other prompt with another chain" in readable(html) and balanced(html)


def test_a_control_that_cannot_be_run_is_told_beside_the_own_map(mapped, monkeypatch: pytest.MonkeyPatch):
    def patching(model, questions, at, source, *rest):
        if source == "own":
            return back_patch(model, questions, at, source, *rest)
        raise ValueError("There is no token before the first one.")

    monkeypatch.setattr(lab, "back_patch", patching)
    html = mapped(QUESTIONS[0].text, "t1", "previous token", 1, 0)
    assert len(squares(html)) == 16 and "\nThere is no token before the first one.\n" in readable(html) and balanced(html)


def test_a_map_is_run_once_however_often_its_squares_are_chosen(deep, asked, monkeypatch: pytest.MonkeyPatch):
    runs = []
    monkeypatch.setattr(lab, "back_patch", lambda *arguments: runs.append(arguments[2:4]) or back_patch(*arguments))
    widget = BackPatchMap(deep, list(asked.values()))
    for source, target in ((0, 0), (3, 0), (2, 3)):
        widget.source.value, widget.target.value = source, target
    assert runs == [("t1", "own"), ("t1", "unknowing prompt")]
    widget.control.value = "random"
    assert runs[2:] == [("t1", "random")]
    widget.at.value = "t2"
    assert runs[3:] == [("t2", "own"), ("t2", "random")]


# ------------------------------------------------------------------------------------------------------- what is not there


def test_what_is_not_there_is_answered_in_a_sentence(deep, asked, timed, mapped):
    text = QUESTIONS[0].text
    sentence = "There is no question 'Why?' here: choose one of the 4 in the list."
    assert readable(timed("Why?")) == readable(mapped("Why?", "t1", "random", 0, 0)) == sentence
    assert readable(mapped(text, "t3", "random", 0, 0)).startswith("There is no position 't3': t1 is the end")
    assert readable(mapped(text, "t1", "soul", 0, 0)).startswith("There is no control 'soul'; choose one of: unknowing prompt, prev")
    for source, target in ((4, 0), (0, 4), (-1, 0), (0, -1)):
        says_it = f"There is no pair of layers {source} and {target}: this model's layers are 0 to 3."
        assert readable(mapped(text, "t1", "random", source, target)) == says_it
    long = replace(QUESTIONS[0], text=f"{text} {'is ' * 20}is")
    cut = replace(QUESTIONS[0], phrase=text[: text.index("Imagine") + 3])
    for odd in (long, cut):
        assert "does not end where a token ends, or the question is too long." in readable(timeline_html(deep, {"x": odd}, "x"))


def test_there_must_be_questions_and_failed_ones_for_the_map(deep, asked):
    for widget in (TwoHopTimeline, BackPatchMap):
        with pytest.raises(ValueError, match="There are no questions"):
            widget(deep, [])
    with pytest.raises(ValueError, match=r"^The model answers all of these questions right, so none needs a second pass"):
        BackPatchMap(deep, list(asked.values())[3:])


def test_what_is_written_in_a_question_is_no_markup(deep):
    odd = TwoHop("The <b> of Help is", "The <b> of Help", "<i>", "<u>", "<script>", "a")
    for html in (timeline_html(deep, {"x": odd}, "x"), back_patch_html(deep, {"x": odd}, "x", "t1", "random", 1, 0)):
        assert "<script" not in html and "&lt;i&gt; → &lt;u&gt; → &lt;script&gt;" in html and balanced(html)


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(deep, timed, mapped):
    tokens = tokenize(deep, QUESTIONS[0].text)[None]
    before = deep(tokens)
    assert timed(QUESTIONS[0].text) and mapped(QUESTIONS[0].text, "t1", "unknowing prompt", 3, 0) and mapped("", "t9", "", 9, 9)
    assert torch.equal(deep(tokens), before) and not any(point.fwd_hooks for point in deep.hook_dict.values())


# ----------------------------------------------------------------------------------------------------------------- widgets


@pytest.fixture
def widgets(deep, asked) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    every = list(asked.values())
    return {"timeline": lambda: TwoHopTimeline(deep, every), "map": lambda: BackPatchMap(deep, every)}


TEXTS = [one.text for one in QUESTIONS]
NUMBERS = st.integers(-2, 5) | st.integers()
CONTROLS_OF: dict[str, dict[str, st.SearchStrategy]] = {
    "timeline": {"question": st.sampled_from(TEXTS)},
    "map": {
        "question": st.sampled_from(TEXTS[:3]), "at": st.sampled_from(PLACES), "control": st.sampled_from(list(CONTROLS)),
        "source": NUMBERS, "target": NUMBERS,
    },
}  # fmt: skip
INPUTS, MOVES = {"timeline": 60, "map": 120}, 50


@pytest.mark.parametrize("name", CONTROLS_OF)
def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(widgets, name: str):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(*(st.tuples(st.just(control), values) for control, values in CONTROLS_OF[name].items()))
    ran = 0

    @settings(max_examples=INPUTS[name] // 12, **ENOUGH, database=None)
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
            assert HEADINGS[name] in readable(widget.panel.value)

    drive()
    assert ran >= INPUTS[name]


@settings(max_examples=100, **ENOUGH)
@given(st.sampled_from(TEXTS) | st.text(max_size=80), st.sampled_from([*PLACES, *CONTROLS]) | st.text(max_size=5), NUMBERS, NUMBERS)
def test_any_text_number_and_name_gives_an_answer(timed, mapped, text: str, name: str, source: int, target: int):
    assert answered(timed(text), HEADINGS["timeline"])
    assert answered(mapped(text, "t1", name, source, 0), HEADINGS["map"])
    assert answered(mapped(TEXTS[0], name, "random", source, target), HEADINGS["map"])


@pytest.mark.parametrize("name", CONTROLS_OF)
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"question": TEXTS[1], "at": "t2", "control": "random", "source": 3, "target": 2}
    seen = {widget.panel.value}
    for control in CONTROLS_OF[name]:
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(deep, widgets, asked, timed):
    one, two = (make() for make in widgets.values())
    failed = partial(back_patch_html, deep, {text: asked[text] for text in TEXTS[:3]})
    assert one.panel.value == timed(one.question.value) and two.panel.value == failed(TEXTS[0], "t1", "unknowing prompt", 2, 0)
    one.question.value = TEXTS[3]
    two.question.value, two.at.value, two.control.value, two.source.value, two.target.value = TEXTS[2], "t2", "previous token", 1, 99
    assert one.panel.value == timed(TEXTS[3]) and two.panel.value == failed(TEXTS[2], "t2", "previous token", 1, 3)


def test_the_lists_say_which_are_right_and_have_the_failed_ones_for_the_map(widgets):
    one, two = (make() for make in widgets.values())
    assert one.question.options == tuple((f"{'✓' if text == TEXTS[3] else '✗'} {text}", text) for text in TEXTS)
    assert two.question.options == tuple(TEXTS[:3]) and {value for _, value in two.control.options} == set(CONTROLS)


@pytest.mark.parametrize("name", CONTROLS_OF)
def test_controls_have_words_and_a_page_without_a_kernel_a_sentence(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS_OF[name]) and all(control.description.strip() for control in controls)
    assert not any(getattr(control, "continuous_update", False) for control in controls)
    assert widget.children[-1] is widget.panel and "<script" not in widget.panel.value
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widget))
