"""The widgets of lesson 4b on two hops: squares are what the lens reads, and what back-patching brings."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from tiny_models import token
from widget_tools import (
    QUESTIONS,
    as_before,
    asked,
    balanced,
    case,
    reader,
    small_world,
    squares,
    writer,
)

from helpers.prediction import next_token_probs, pieces, tokenize
from helpers.speak import widgets_multihop as lab
from helpers.speak.back_patching import back_patch_with_controls
from helpers.speak.lens import logit_lens, target_probs
from helpers.speak.two_hops import PLACES, TwoHop
from helpers.speak.widgets_multihop import CONTROLS, BackPatchMap, TwoHopTimeline, back_patch_html, first_layer, stranger, timeline_html
from helpers.widgets import html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

LAYERS = range(3)
PAIRS = [(source, target) for source in LAYERS for target in LAYERS]

timed = writer(TwoHopTimeline)
mapped = writer(BackPatchMap)


@pytest.fixture
def first() -> TwoHop:
    return next(iter(asked().values()))


def every() -> list[TwoHop]:
    return list(asked().values())


def piece(token_id: int) -> str:
    return pieces(reader(), torch.tensor([token_id]))[0]


def says(one: TwoHop) -> int:
    return int(next_token_probs(reader(), one.text).argmax())


def test_a_stranger_shares_no_entity_and_is_of_the_same_kind_before_others():
    one, two, three = QUESTIONS[:3]
    far = replace(two, kind="other")
    for order in permutations([far, one, two]):
        assert stranger(reader(), one, order) == two
        assert stranger(reader(), one, [other for other in order if other != two]) == far
    alike = [replace(two, **{name: getattr(one, name)}) for name in ("e1", "e2", "e3")]
    assert stranger(reader(), one, [one, *alike]) is None and stranger(reader(), one, [*alike, three]) == three


def test_an_unknowing_stranger_says_the_answer_of_neither(monkeypatch: pytest.MonkeyPatch):
    one, two, three, four = QUESTIONS
    words = {one.text: "Tom", two.text: "Yoko", three.text: "Bath", four.text: "Bath"}  # three's answer, and one's, said by mistake
    monkeypatch.setattr(lab, "next_tokens", lambda model, texts: torch.tensor([token(model, words[text]) for text in texts]))
    assert {stranger(reader(), one, [other], unknowing=True) for other in (two, three)} == {None}
    assert stranger(reader(), one, QUESTIONS, unknowing=True) == four and stranger(reader(), one, [two]) == two


def test_every_square_has_the_best_token_and_bridge_and_answer_are_coloured():
    rows = []
    for one in every():
        ids = {"bridge": token(reader(), one.e2), "answer": token(reader(), one.e3)}
        best = logit_lens(reader(), one.text, LAYERS, k=10).top
        for top, (style, title, shown) in zip(best.flatten(0, 1).tolist(), squares(timed(one.text)), strict=True):
            seen = sorted((top.index(id), name) for name, id in ids.items() if id in top)
            assert shown.split("<br>")[0] == lab.word(piece(top[0])) and title.startswith("layer ") and title.count("\n") == 10
            assert re.findall(r"<br><small>([^<]*)</small>", shown) == [f"{name} {lab.RANKS[rank]}" for rank, name in seen]
            colours = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style)
            expected = [
                ("0,114,178" if name == "bridge" else "213,94,0", 0.6 if not rank else 0.36 if rank < 5 else 0.18) for rank, name in seen
            ]
            assert [(colour, pytest.approx(float(depth))) for colour, depth in colours] == expected[:1]
            rows += seen
    assert {rank == 0 for rank, _ in rows} == {True, False} and {name for _, name in rows} == {"bridge", "answer"}


def test_it_is_said_from_which_layer_on_they_can_be_read_as_the_lens_finds_it():
    def line(name: str, layers: list[int | None]) -> str:
        return f"\n{name} {' '.join('never' if layer in (None, 3) else f'layer {layer}' for layer in layers)}\n"

    for one in every():
        words, other = html_to_text(timed(one.text)), stranger(reader(), one, every())
        asked_for = (("bridge", one.e2, "t1", one.phrase), ("bridge", one.e2, "t2", one.text), ("answer", one.e3, "t2", one.text))
        for name, wanted, at, prompt in asked_for:
            [rank] = target_probs(reader(), [prompt], [[token(reader(), wanted)]], LAYERS).rank.T.tolist()
            firsts = [next((layer for layer in LAYERS if rank[layer] < top), None) for top in (1, 5)]
            assert line(f"{name}, {wanted}, at {at}", firsts) in words
        table = lab.lens_of(reader(), one)
        firsts = [first_layer(table, token(reader(), other.e2), len(tokenize(reader(), one.phrase)) - 1, top) for top in (1, 5)]
        assert line(f"another bridge, {other.e2}, at t1", firsts) in words and f"\nanother answer, {other.e3}, at t2 " in words
    assert "another" not in html_to_text(timeline_html(reader(), {one.text: one}, one.text))


def test_the_story_says_whether_the_answer_is_right_and_t1_and_t2_are_marked():
    for one in every():
        prob = next_token_probs(reader(), one.text).max().item()
        verdict = "right ✓" if token(reader(), one.e3) == says(one) else "wrong ✗"
        story = f"The model says {lab.word(piece(says(one)), 24)} ({prob:.1%}), which is {verdict}: the answer is {lab.word(one.e3, 24)}."
        assert html_to_text(timed(one.text)).splitlines()[0] == f"{one.e1} → {one.e2} → {one.e3}. {story}"
    assert "right ✓" in timed(QUESTIONS[3].text) and "wrong ✗" in timed(QUESTIONS[1].text)
    heads = re.findall(r"title='token (\d+)'>(.*?)<br><small>(.*?)</small></th>", timed(QUESTIONS[0].text))
    assert [(int(at), name, mark) for at, name, mark in heads if mark] == [(7, "Imagine", "t1"), (8, "is", "t2")] and len(heads) == 9


SIGNS = {"right": "✓", "changed": "~", "the same": ""}


def verdicts(one: TwoHop, at: str, source: str, *lenders: TwoHop) -> tuple[list[int], list[str]]:
    """What the model says for each pair of layers, and what that is."""
    run, answer = back_patch_with_controls(reader(), [one, *lenders], at, [source], PAIRS).run(source), token(reader(), one.e3)
    tokens = run.tokens[:, 0].tolist()
    return tokens, ["right" if seen == answer else "changed" if seen != says(one) else "the same" for seen in tokens]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("control", ["another question", "random"])
def test_every_square_of_both_maps_is_a_patch(first: TwoHop, at: str, control: str):
    """And the pairs are counted, back and forward."""
    lenders = [stranger(reader(), first, every()[:3], unknowing=True)] if control == "another question" else []
    html = mapped(first.text, at, control, 2, 1)
    found = squares(html)
    assert len(found) == 2 * len(PAIRS)
    for side, (source, others) in enumerate((("own", []), (control, lenders))):
        tokens, kinds = verdicts(first, at, source, *others)
        for pair, seen, kind, (style, title, sign) in zip(PAIRS, tokens, kinds, found[len(PAIRS) * side :], strict=False):
            assert sign == SIGNS[kind] and title == f"from layer {pair[0]} to layer {pair[1]}: {piece(seen)}"
            assert style.endswith("border:2px solid") == (pair == (2, 1)) and ("2px solid rgba" in style) == (pair[0] == pair[1])
            assert style.count("rgba(0,158,115") == (kind == "right")
        for way, sign in (("Back", 1), ("Forward", -1)):
            some = [kind for (late, early), kind in zip(PAIRS, kinds, strict=True) if (late - early) * sign > 0]
            says_it = f"{way}: right with {some.count('right')} of 3 pairs, changed with {some.count('changed')}."
            assert says_it in html_to_text(html).split("Control: states of")[side]


def test_the_chosen_patch_and_the_story_are_told_in_words(first: TwoHop):
    words = {"right": "right now ✓", "changed": "another answer than before, and wrong", "the same": "the same as before"}
    tokens, kinds = verdicts(first, "t2", "own")
    assert "right" in kinds
    for (source, target), seen, kind in zip(PAIRS, tokens, kinds, strict=True):
        said = f"From layer {source} to layer {target}: the model says {piece(seen)}, {words[kind]}."
        assert said in html_to_text(mapped(first.text, "t2", "random", source, target))
    lender = stranger(reader(), first, every()[:3], unknowing=True)
    story = f"Unpatched the model says {piece(says(first))}; right would be {first.e3}."
    start = f"{first.e1} → {first.e2} → {first.e3}. {story}\nThe question's own"
    for control, named in (("another question", f"another failed question, “{lender.text}”"), ("random", CONTROLS["random"])):
        told = html_to_text(mapped(first.text, "t1", control, 0, 0))
        assert told.startswith(start) and f"\nControl: states of {named}\n" in told


def test_a_question_without_a_control_has_its_own_map_and_a_sentence(monkeypatch: pytest.MonkeyPatch):
    one = QUESTIONS[0]
    alone = back_patch_html(reader(), {one.text: one}, one.text, "t1", "another question", 1, 0)
    assert "For this question there is no other one with another chain" in html_to_text(alone)
    assert len(squares(alone)) == len(PAIRS) and balanced(alone)


def test_a_map_is_run_once_however_often_its_squares_are_chosen(monkeypatch: pytest.MonkeyPatch):
    runs, fresh = [], [replace(one, direct="new") for one in every()]  # of which nothing is remembered

    def counted(*arguments, **options):
        runs.append((arguments[2], *arguments[3]))
        return back_patch_with_controls(*arguments, **options)

    monkeypatch.setattr(lab, "back_patch_with_controls", counted)
    widget = BackPatchMap(reader(), fresh)
    for source, target in ((0, 0), (2, 0), (1, 2)):
        widget.source.value, widget.target.value = source, target
    widget.control.value = "random"
    widget.at.value = "t2"
    assert runs == [("t1", "own"), ("t1", "another question"), ("t1", "random"), ("t2", "own"), ("t2", "random")]


TEXT = QUESTIONS[0].text


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: timed("Why?"), "There is no question 'Why?' here: choose one of the 4 in the list."),
        (lambda: mapped("Why?", "t1", "random", 0, 0), "There is no question 'Why?' here: choose one of the 3 in the list."),
        (lambda: mapped(TEXT, "t1", "random", 3, 0), "There is no pair of layers 3 and 0: this model's layers are 0 to 2."),
        (lambda: mapped(TEXT, "t1", "random", 0, -1), "There is no pair of layers 0 and -1: this model's layers are 0 to 2."),
    ],
)
def test_what_is_not_there_is_answered_in_a_sentence(ask: Callable[[], str], sentence: str):
    assert sentence in html_to_text(ask())


def test_a_question_is_no_markup():
    odd = TwoHop("The <b> of Help is", "The <b> of Help", "<i>", "<u>", "<script>", "a")
    for html in (timeline_html(reader(), {"x": odd}, "x"), back_patch_html(reader(), {"x": odd}, "x", "t1", "random", 1, 0)):
        assert "<script" not in html and "&lt;i&gt; → &lt;u&gt; → &lt;script&gt;" in html and balanced(html)


def test_the_lists_say_which_are_right_and_have_the_failed_ones_for_the_map():
    texts, timeline, backs = list(asked()), case(TwoHopTimeline).make(), case(BackPatchMap).make()
    assert timeline.question.options == tuple((f"{'✓' if text == texts[3] else '✗'} {text}", text) for text in texts)
    assert backs.question.options == tuple(texts[:3]) and {value for _, value in backs.control.options} == set(CONTROLS)
    for widget in (TwoHopTimeline, BackPatchMap):
        with pytest.raises(ValueError, match="There are no prompts"):
            widget(reader(), [])
    with pytest.raises(ValueError, match=r"^The model answers all of these questions right, so none needs a second pass"):
        BackPatchMap(reader(), every()[3:])
