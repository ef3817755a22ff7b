"""The widget of lesson 4b on Patchscopes: what is said is what the section's helper makes the model say."""

import re
from html import unescape

import pytest
from tiny_models import END
from widget_tools import RINGO, TARGETS, as_before, balanced, case, reader, small_world

from helpers.prediction import sample
from helpers.running import layer_name
from helpers.speak import widgets_patchscopes as lab
from helpers.speak.patchscopes import DESCRIPTION, IDENTITY, ITSELF, SAME, Source, Target, patchscope
from helpers.speak.widgets_patchscopes import OWN, TOKENS, PatchscopeBench, in_words, name_at, patchscope_html, tokens_of
from helpers.widgets import html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

HOME, WIFE = (target.prompt for target in TARGETS.values())
HEADING = "The model goes on:"
LAYERS = range(-1, 3)


def put(*arguments: object) -> str:
    return patchscope_html(reader(), TARGETS, *arguments)


@pytest.fixture
def widget() -> PatchscopeBench:
    return case(PatchscopeBench).make()


def three_of(html: str) -> dict[str, str]:
    """What is said with the state, with nothing put in, and in words."""
    rows = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", html.split("</table>")[0])
    return {html_to_text(label): html_to_text(text) for label, text in rows}


def layers_of(html: str) -> list[tuple[str, str, str, str, str]]:
    """From, into, style, what is said, and what it is the same as."""
    row = r"<tr><th[^>]*>([^<]*)</th><th[^>]*>([^<]*)</th><td style='([^']*)'>(.*?)</td><td[^>]*>([^<]*)</td></tr>"
    return [tuple(map(unescape, found)) for found in re.findall(row, html)]


def written(text: str) -> str:
    """As the panel shows a continuation."""
    return text or "nothing; the text ends here"


@pytest.mark.parametrize(("source_layer", "target_layer"), [(0, 0), (2, 1)])
def test_the_state_is_put_in_the_place_of_the_placeholder(source_layer: int, target_layer: int):
    html = put(RINGO, 4, HOME, source_layer, target_layer)
    assert len({text for *_, text, _ in layers_of(html)}) > 1
    bare = sample(reader(), HOME, TOKENS, temperature=0).split(".")[0].strip()
    assert three_of(html)["with nothing put in, x as it is"] == written(bare)
    head = f"The state of Ringo (token 4) after layer {source_layer} is put in the place of x after layer {target_layer}. {HEADING}"
    assert html_to_text(html).splitlines()[0] == head


@pytest.mark.parametrize(("prompt", "into"), [(HOME, 0), (WIFE, 2), ("the home of x", -1), (WIFE, SAME)])
def test_every_source_layer_has_its_line_and_the_chosen_one_a_frame(prompt: str, into: int | str):
    target = next((one for one in TARGETS.values() if one.prompt == prompt), Target(prompt))
    found = patchscope(reader(), [Source(RINGO, 5)], target, None, into, tokens=TOKENS)
    for row, layer in enumerate(LAYERS):
        html = put(RINGO, 5, prompt, layer, into)
        lines = layers_of(html)
        assert [line[:2] for line in lines] == [(layer_name(one), layer_name(one if into == SAME else into)) for one in LAYERS]
        assert [html_to_text(line[3]) for line in lines] == [written(text) for [text] in found.texts]
        assert ["border:2px solid" in line[2] for line in lines] == [at == row for at in range(4)]
        assert three_of(html)["with the state"] == written(found.texts[row][0])


def test_the_name_is_written_into_the_target_in_words():
    said = sample(reader(), "The home of Ringo Starr is", TOKENS, temperature=0).split(".")[0].strip()
    assert in_words(reader(), TARGETS["home"], "Ringo Starr") == said
    assert three_of(put(RINGO, 5, HOME, 0, 0))["with Ringo Starr in words"] == written(said)
    assert three_of(put(RINGO, 4, HOME, 0, 0)).keys() >= {"with Ringo in words"}
    dot = put("John is .", 3, HOME, 0, 0)
    assert len(three_of(dot)) == 2 and "in words" not in html_to_text(dot)  # a full stop is no name
    whole = sample(reader(), "The home of John is", TOKENS, temperature=0).split()
    assert len(whole) > 2
    for word in whole:
        assert in_words(reader(), Target("The home of x is", until=word), "John") == " ".join(whole[: whole.index(word)])
    assert in_words(reader(), Target("The home of x is"), "John " * 15) is None  # no room


def test_a_reading_is_coloured_where_it_is_as_in_words_or_as_without(monkeypatch: pytest.MonkeyPatch):
    """The state of the entry says what the name says where it goes into the entry: a word of one token at the same position."""
    html = put("The wife of John is", 4, HOME, -1, -1)
    assert layers_of(html)[0][4] == "as in words" and lab.GREEN in layers_of(html)[0][2]
    assert three_of(html)["with the state"] == three_of(html)["with John in words"]
    assert lab._kind("a", "a", "a")[1] == "as in words" and lab._kind("c", "a", "b") == lab._kind("c", None, "b") == ("", "")
    assert lab._kind("b", "a", "b") == lab._kind("b", None, "b") and lab.WARM in lab._kind("b", "a", "b")[0]
    monkeypatch.setattr(lab, "in_words", lambda *_: "<i>\n&")
    html = put("John is", 1, HOME, 0, 0)
    assert "&lt;i&gt;⏎&amp;" in html and balanced(html)  # what is said is no markup


@pytest.mark.parametrize(
    ("text", "pos", "name"),
    [
        (RINGO, 5, "Ringo Starr"),
        (RINGO, 4, "Ringo"),
        (RINGO, 6, "is"),
        ("The Dune", 2, "The Dune"),
        ("John is in the Bath", 5, "Bath"),
        ("John . Paul", 3, "Paul"),
        ("Bath. Paul", 2, "Paul"),
        ("John , is", 2, ""),
    ],
)
def test_a_name_is_a_word_with_the_capitalised_ones_before_it(text: str, pos: int, name: str):
    assert name_at(reader(), text, pos) == name


def test_what_there_is_to_choose_from():
    assert list(lab.TARGETS.values())[:3] == [DESCRIPTION, IDENTITY, ITSELF]
    assert tokens_of(reader(), "John is") == [("1 John", 1), ("2 is", 2)] and len(tokens_of(reader(), "is " * 23)) == 23
    assert tokens_of(reader(), "") == tokens_of(reader(), " ") == tokens_of(reader(), "is " * 24) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((" \n", 1, HOME, 0, 0), "The source text is empty: write some words."),
        ((END, 1, HOME, 0, 0), "There is no token 1 to choose: those of this text are 1 to 0."),
        ((RINGO, 1, "is " * 20 + "x", 0, 0), "With filler to bring both to position 21 a text is longer than the 24 tokens"),
        ((RINGO, 7, HOME, 0, 0), "There is no token 7 to choose: those of this text are 1 to 6."),
        ((RINGO, 0, HOME, 0, 0), "There is no token 0 to choose: those of this text are 1 to 6."),
        ((RINGO, 4, "x of x is", 0, 0), "The placeholder 'x' occurs 2 times in 'x of x is'"),
    ],
)
def test_what_cannot_be_read_is_answered_in_a_sentence(arguments: tuple, sentence: str):
    assert html_to_text(put(*arguments)).startswith(sentence)


@pytest.mark.parametrize("pos", [1, 3, 4, 16, 17, 23])
def test_where_filler_leaves_no_room_a_sentence_says_so(pos: int):
    """The target has 6 tokens, and 6 are written; the placeholder stands at 4, and the source is as long as can be."""
    words = html_to_text(put("is " * 23, pos, HOME, 0, 0))
    assert (HEADING in words) == (4 <= pos <= 16) and ("this model reads" in words) == (not 4 <= pos <= 16)


def test_a_target_fills_its_text_and_a_rewritten_text_is_ones_own(widget):
    assert widget.target.value == "home" and widget.prompt.value == HOME
    widget.target.value = "wife"
    assert widget.prompt.value == WIFE
    widget.prompt.value = "the x is"
    assert widget.target.value == OWN and widget.prompt.value == "the x is"
    widget.prompt.value = HOME
    assert widget.target.value == "home"
    widget.target.value = OWN
    assert widget.prompt.value == HOME


def test_a_new_source_offers_its_tokens_chooses_the_last_and_its_layers_are_read_once(widget, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(lab, "patchscope", lambda *arguments, **options: asked.append(arguments[1]) or patchscope(*arguments, **options))
    assert widget.pos.options[3] == ("4 Ringo", 4) and widget.pos.value == 6
    widget.text.value = "Emma is"
    assert widget.pos.options == (("1 Emma", 1), ("2 is", 2)) and widget.pos.value == 2
    assert html_to_text(widget.panel.value).startswith("The state of is (token 2)") and asked == [[Source("Emma is", 2)]]
    for layer in LAYERS:
        widget.source_layer.value = layer
    assert len(asked) == 1
    widget.target_layer.value = 1
    assert len(asked) == 2


def test_a_bench_for_a_model_and_targets_of_ones_own():
    with pytest.raises(ValueError, match="There is no target to choose from"):
        PatchscopeBench(reader(), RINGO, {})
    bench = PatchscopeBench(reader(), "")
    assert bench.target.options == (*lab.TARGETS, OWN) and bench.pos.value == 0
    assert html_to_text(bench.panel.value) == "The source text is empty: write some words."
    bench.text.value, bench.prompt.value = "John is", "the x is"
    assert HEADING in html_to_text(bench.panel.value)
