"""The widget of lesson 4a: in its squares stands what the lens reads, and what is odd gets a sentence."""

import re
from html import escape

import pytest
import torch
from widget_tools import TEXT, as_before, balanced, case, small_world, squares, tiny, tuned, writer

from helpers.prediction import TopTokens, next_token_probs, pieces, tokenize, truncate
from helpers.speak import widgets_lens as lab
from helpers.speak.lens import LensTable, logit_lens
from helpers.speak.tuned_lens import TunedLens
from helpers.speak.widgets_lens import LENSES, MOST_TOKENS, RAW, TUNED, LensViewer, keeping, lens_html, word
from helpers.widgets import bars_html, html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

viewed = writer(LensViewer)


@pytest.fixture
def widget() -> LensViewer:
    return case(LensViewer).make()


@pytest.mark.parametrize("lens", LENSES)
def test_every_square_has_the_best_token_of_the_lens_there(lens: str):
    tokens, table = tokenize(tiny(), TEXT), logit_lens(tiny(), TEXT, k=10, tuned=tuned() if lens == TUNED else None)
    found, final = squares(viewed(TEXT, 0, 3, lens)), table.top[-1, :, 0]
    places = [(layer, pos) for layer in range(3) for pos in range(len(tokens))]
    for (layer, pos), (style, title, shown) in zip(places, found, strict=True):
        names = pieces(tiny(), table.top[layer, pos])
        assert shown == word(names[0])
        place = f"{('the entry', 'layer 0', 'layer 1')[layer]}, after {word(pieces(tiny(), tokens[pos : pos + 1])[0], 24)}"
        assert title.split("\n")[0] == place
        assert [line.rsplit(" ", 1)[0] for line in title.split("\n")[1:]] == [word(name, 24) for name in names]
        depth = float(re.findall(r"rgba\(213,94,0,([\d.]+)\)", style)[0])
        assert depth == pytest.approx(0.6 * table.probs[layer, pos, 0].item(), abs=0.006)
        bold, framed = table.top[layer, pos, 0] == final[pos], (layer, pos) == (1, 3)
        assert ("bold" in style) == bold and style.endswith("border:2px solid") == framed
    heads = re.findall(r"<th style='[^']*' title='token (\d+)'>(.*?)</th>", viewed(TEXT, 0, 3, lens))
    assert heads == [(str(at), escape(word(piece))) for at, piece in enumerate(pieces(tiny(), tokens))]
    assert re.findall(r"<tr><th style='[^']*'>([^<]*)</th>", viewed(TEXT, 0, 3, lens)) == ["layer", "in", "0", "1"]
    if lens == RAW:
        assert found[-1][2] == word(pieces(tiny(), next_token_probs(tiny(), TEXT).argmax()[None])[0])  # what the model says


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("layer", "pos", "place"), [(-1, 2, "The entry"), (1, 0, "Layer 1")])
def test_the_chosen_square_has_its_ten_best_as_bars(layer: int, pos: int, place: str, lens: str):
    html, found = viewed(TEXT, layer, pos, lens), logit_lens(tiny(), TEXT, k=10, tuned=tuned() if lens == TUNED else None)
    names, probs = zip(*found.cell(layer, pos), strict=True)
    assert len(names) == 10 and bars_html(TopTokens("", tuple(word(name, 24) for name in names), probs)) in html
    assert f"<b>{place}, after {escape(word(found.words[int(found.tokens[pos])]))}</b>" in html


def made(*best: int) -> LensTable:
    """A table of one position whose best token is given for the entry and each layer."""
    top, tokens = torch.tensor(best)[:, None, None], torch.tensor([7])
    words = {token: f" <{token}>" for token in (*best, 7)}
    return LensTable(tokens, tuple(range(-1, len(best) - 1)), top, torch.full(top.shape, 0.25), words)


@pytest.mark.parametrize(
    ("best", "says"),
    [
        ((1, 2, 3, 3), "it is the best token from layer 1 on."),
        ((3, 3, 3, 3), "it is the best token from the entry on."),
        ((1, 3, 2, 3), "it is the best token from layer 2 on; for the first time it is on top at layer 0."),
        ((3, 3, 2, 3), "it is the best token from layer 2 on; for the first time it is on top at the entry."),
    ],
)
def test_a_sentence_says_from_which_layer_on_the_models_word_can_be_read(best: tuple[int, ...], says: str):
    story = lab._story(made(*best), 0, TUNED)
    assert html_to_text(story) == f"After ·<7> (token 0) the model says ·<3> (25.0%). By the tuned lens {says}"


def test_a_word_fits_into_its_square_and_is_no_markup():
    assert word(" Paris") == "·Paris" and word("a\nb") == "a⏎b" and word("\x00\u200f") == "��"
    assert word("x" * 10) == "x" * 10 and word("x" * 11) == "x" * 9 + "…" and word("x" * 11, 24) == "x" * 11
    square = lab._square(made(1, 3), 0, 0, 3, framed=False)
    assert square.endswith('title="layer 0, after ·&lt;7&gt;&#10;·&lt;3&gt; 25.0%">·&lt;3&gt;</td>')
    heads = re.findall(r"title='token \d+'>(.*?)</th>", viewed("<>&\"'", 1, 0))
    assert heads[-5:] == [escape(letter) for letter in "<>&\"'"]


def test_of_long_texts_the_end_is_shown_and_one_sentence_says_so():
    text = "The Gate is in San. " * 4
    n, whole = (len(tokenize(tiny(), written)) for written in (text, text * 90))
    assert MOST_TOKENS < n <= 64
    found = logit_lens(tiny(), text)
    html, longer = viewed(text, 0, n - 1), viewed(text * 90, 0, 63)
    assert f"Of {n} tokens the last 16 are shown." in html_to_text(html) and len(squares(html)) == 3 * 16
    assert re.findall("title='token (\\d+)'", html) == [str(at) for at in range(n - 16, n)]
    assert [shown for *_, shown in squares(html)[-16:]] == [word(found.cell(1, at)[0][0]) for at in range(n - 16, n)]
    assert (
        f"The model reads 64 tokens at most, so the first {whole - 64:,} of the text are cut off. Of 64 tokens the last 16 are shown."
        in html_to_text(longer)
    )
    best = logit_lens(tiny(), text * 90).cell(1, 63)[0][0]
    assert squares(longer)[-1][2] == word(best) and "tokens" not in html_to_text(viewed("x", 0, 0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((" \n\t ", 0, 0), "There is nothing to read: write some words."),
        ((TEXT, 0, -1), "There is no token -1 to choose: the tokens shown are"),
        ((TEXT, 0, 99), "There is no token 99 to choose: the tokens shown are"),
        (("word " * 500, 0, 7), "There is no token 7 to choose: the tokens shown are 48 to 63."),
        ((TEXT, 2, 0), "There is no layer 2: this model's layers are -1 (what enters block 0) and 0 to 1"),
    ],
)
def test_what_is_not_there_is_answered_in_a_sentence(arguments: tuple, sentence: str):
    assert html_to_text(viewed(*arguments)).startswith(sentence)


def test_a_tuned_lens_must_be_there_and_that_of_the_model():
    assert html_to_text(lens_html(tiny(), None, TEXT, 0, 0, TUNED)).startswith("No tuned lens was given: load one")
    other = TunedLens.identity(5, 8)
    assert html_to_text(lens_html(tiny(), other, TEXT, 0, 0, TUNED)).startswith("This tuned lens is for a model of 5 layers of width 8")
    assert "the model says" in html_to_text(lens_html(tiny(), other, TEXT, 0, 0, RAW))


def test_a_new_text_offers_its_tokens_chooses_the_last_and_is_answered_once(widget, monkeypatch: pytest.MonkeyPatch):
    names = pieces(tiny(), tokenize(tiny(), TEXT))
    assert widget.pos.options == tuple((f"{at} {word(name)}", at) for at, name in enumerate(names)) and widget.pos.value == len(names) - 1
    asked, text = [], "The Gate is in San. " * 9
    monkeypatch.setattr(lab, "lens_html", lambda model, tuned, **values: asked.append(values) or "<table></table>")
    widget.text.value = text
    assert [at for _, at in widget.pos.options] == list(range(48, 64))
    assert widget.pos.options[-1] == (f"63 {word(pieces(tiny(), truncate(tiny(), tokenize(tiny(), text))[-1:])[0])}", 63)
    assert asked == [{"text": text, "layer": 1, "pos": 63, "lens": RAW}]


def test_where_nothing_can_be_read_the_last_table_stays(widget):
    before, options = widget.panel.value, widget.pos.options
    widget.text.value = "  "
    assert html_to_text(widget.panel.value).startswith("There is nothing to read: write some words.\nBelow is still the last answer.")
    assert before in widget.panel.value and balanced(widget.panel.value) and widget.pos.options == options
    widget.layer.value = -1
    assert before in widget.panel.value and widget.panel.value.count("There is nothing to read") == 1
    widget.text.value = TEXT
    assert "Below is still" not in widget.panel.value and widget.panel.value != before  # the layer has changed meanwhile


def test_where_nothing_was_ever_read_there_is_only_the_sentence():
    widget = LensViewer(tiny(), "")
    assert widget.panel.value == "<p>There is nothing to read: write some words.</p>" and widget.pos.value == 0
    assert keeping(lambda: "<p>No.</p>")() == "<p>No.</p>"


def test_without_a_tuned_lens_there_is_nothing_to_switch():
    widget = LensViewer(tiny(), TEXT)
    assert list(widget.controls) == ["text", "layer", "pos"] and widget.layer.options == (("in", -1), ("0", 0), ("1", 1))
    assert widget.panel.value == viewed(TEXT, 1, len(tokenize(tiny(), TEXT)) - 1, RAW)
