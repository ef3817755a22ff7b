"""The widget of lesson 4a, driven as a reader drives it: what it shows is true, and whatever is set gets an answer or a sentence."""

import re
from functools import partial
from html import escape, unescape
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_widgets_circuits import balanced
from test_widgets_neurons import ENOUGH, WORDS, answered, controls_of
from tiny_models import write_tiny_model

from helpers.interventions import record, resid_post, resid_pre
from helpers.prediction import TopTokens, next_token_probs, pieces, tokenize, truncate
from helpers.running import lens_logits
from helpers.speak import widgets_lens as lab
from helpers.speak.lens import LensTable, logit_lens
from helpers.speak.tuned_lens import TunedLens
from helpers.speak.widgets_lens import LENSES, MOST_TOKENS, LensViewer, lens_html
from helpers.widgets import bars_html, keeping, readable, word

RAW, TUNED = LENSES
TEXT = "The Golden Gate Bridge is in San"
HEADING = "the model says"
LAYERS = (-1, 0, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 of two layers, which reads 64 tokens."""
    from helpers.models import load_model

    return load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tuned() -> TunedLens:
    """Random maps; the last layer's is the identity."""
    plain, rng = TunedLens.identity(2, 32), torch.Generator().manual_seed(0)
    weights, biases = torch.randn(3, 32, 32, generator=rng), torch.randn(3, 32, generator=rng)
    weights[-1], biases[-1] = plain.weights[-1], plain.biases[-1]
    return TunedLens(weights, biases)


@pytest.fixture
def viewed(tiny, tuned):
    return partial(lens_html, tiny, tuned)


def squares(html: str) -> list[tuple[str, str, str]]:
    """Style, title and word of each square, row by row."""
    found = re.findall(r'<td style="([^"]*)" title="([^"]*)">(.*?)</td>', html)
    return [(style, unescape(title), unescape(shown)) for style, title, shown in found]


# ------------------------------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("lens", LENSES)
def test_every_square_has_the_best_token_of_the_lens_there(tiny, tuned, viewed, lens: str):
    """By the model's own norm and unembedding, on states of a run of its own."""
    tokens = tokenize(tiny, TEXT)
    seen = record(tiny, tokens[None], resid_pre(0), resid_post(0), resid_post(1))
    states = torch.stack([stream[0] for stream in seen.values()])
    if lens == TUNED:
        states = torch.stack([state @ weight.T + bias for state, weight, bias in zip(states, tuned.weights, tuned.biases, strict=True)])
    probs, ids = lens_logits(tiny, states).softmax(-1).topk(10)
    found, final = squares(viewed(TEXT, 0, 3, lens)), ids[-1, :, 0]
    assert len(found) == 3 * len(tokens)
    places = [(layer, pos) for layer in range(3) for pos in range(len(tokens))]
    for (layer, pos), (style, title, shown) in zip(places, found, strict=True):
        names = pieces(tiny, ids[layer, pos])
        assert shown == word(names[0])
        place = f"{('the entry', 'layer 0', 'layer 1')[layer]}, after {word(pieces(tiny, tokens[pos : pos + 1])[0], 24)}"
        best = [f"{word(name, 24)} {prob:.1%}" for name, prob in zip(names, probs[layer, pos].tolist(), strict=True)]
        assert title.split("\n")[0] == place
        assert [line.rsplit(" ", 1)[0] for line in title.split("\n")[1:]] == [line.rsplit(" ", 1)[0] for line in best]
        depth = float(re.findall(r"rgba\(213,94,0,([\d.]+)\)", style)[0])
        assert depth == pytest.approx(0.6 * probs[layer, pos, 0].item(), abs=0.006)
        assert ("bold" in style) == (ids[layer, pos, 0] == final[pos]) and style.endswith("border:2px solid") == ((layer, pos) == (1, 3))


def test_the_last_row_is_what_the_model_says(tiny, viewed):
    best = word(pieces(tiny, next_token_probs(tiny, TEXT).argmax()[None])[0])
    assert squares(viewed(TEXT, 1, 5))[-1][2] == best and "bold" in squares(viewed(TEXT, 1, 5))[-1][0]


def test_rows_are_layers_and_columns_are_tokens(tiny, viewed):
    html, tokens = viewed(TEXT, 0, 0), tokenize(tiny, TEXT)
    heads = re.findall(r"<th style='[^']*' title='token (\d+)'>(.*?)</th>", html)
    assert heads == [(str(at), escape(word(piece))) for at, piece in enumerate(pieces(tiny, tokens))]
    assert re.findall(r"<tr><th style='[^']*'>([^<]*)</th>", html) == ["layer", "in", "0", "1"] and balanced(html)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("layer", "pos", "place"), [(-1, 2, "The entry"), (1, 0, "Layer 1")])
def test_the_chosen_square_has_its_ten_best_as_bars(tiny, tuned, viewed, layer: int, pos: int, place: str, lens: str):
    html, found = viewed(TEXT, layer, pos, lens), logit_lens(tiny, TEXT, k=10, tuned=tuned if lens == TUNED else None)
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
    assert readable(story) == f"After ·<7> (token 0) the model says ·<3> (25.0%). By the tuned lens {says}"
    assert balanced(story)


def test_a_word_fits_into_its_square():
    assert word(" Paris") == "·Paris" and word("a\nb") == "a⏎b" and word("\x00\u200f") == "��"
    assert word("x" * 10) == "x" * 10 and word("x" * 11) == "x" * 9 + "…" and word("x" * 11, 24) == "x" * 11


def test_what_is_typed_is_no_markup(tiny, viewed):
    text = "<script>alert(1)</script> & \"'"
    html = viewed(text, 1, len(tokenize(tiny, text)) - 1)
    assert "<script" not in html and "&lt;" in html and balanced(html)
    square = lab._square(made(1, 3), 0, 0, 3, framed=False)
    assert square.endswith('title="layer 0, after ·&lt;7&gt;&#10;·&lt;3&gt; 25.0%">·&lt;3&gt;</td>')
    heads = re.findall(r"title='token \d+'>(.*?)</th>", viewed("<>&\"'", 1, 0))
    assert heads[-5:] == [escape(letter) for letter in "<>&\"'"]


def test_of_long_texts_the_end_is_shown_and_one_sentence_says_so(tiny, viewed):
    text = "The Gate is in San. " * 4
    n = len(tokenize(tiny, text))
    assert MOST_TOKENS < n <= 64
    html = viewed(text, 0, n - 1)
    assert f"Of {n} tokens the last 16 are shown." in readable(html) and len(squares(html)) == 3 * 16
    assert re.findall("title='token (\\d+)'", html) == [str(at) for at in range(n - 16, n)]
    assert [shown for *_, shown in squares(html)[-16:]] == [word(logit_lens(tiny, text).cell(1, at)[0][0]) for at in range(n - 16, n)]
    long = text * 90
    whole = len(tokenize(tiny, long))
    html = viewed(long, 0, 63)
    assert f"Of {whole:,} tokens the model reads 64, the most it can, and the last 16 are shown." in readable(html)
    best = logit_lens(tiny, truncate(tiny, tokenize(tiny, long))).cell(1, 63)[0][0]
    assert squares(html)[-1][2] == word(best) and "tokens" not in readable(viewed("x", 0, 0))


def test_what_is_not_there_is_answered_in_a_sentence(tiny, tuned, viewed):
    for text in ("", " \n\t "):
        assert viewed(text, 0, 0) == "<p>There is nothing to read: write some words.</p>"
    n = len(tokenize(tiny, TEXT))
    for pos in (-1, n):
        assert readable(viewed(TEXT, 0, pos)) == f"There is no token {pos} to choose: the tokens shown are {max(0, n - 16)} to {n - 1}."
    for layer in (2, -2):
        assert readable(viewed(TEXT, layer, 0)).startswith(
            f"There is no layer {layer}: this model's layers are -1 (what enters block 0) and 0 to 1"
        )
    assert readable(viewed(TEXT, 0, 0, "glass")) == "There is no lens 'glass'; choose one of: logit lens, tuned lens."
    assert readable(lens_html(tiny, None, TEXT, 0, 0, TUNED)).startswith("No tuned lens was given: load one")
    assert readable(viewed("word " * 500, 0, 7)) == "There is no token 7 to choose: the tokens shown are 48 to 63."
    other = TunedLens.identity(5, 8)
    assert readable(lens_html(tiny, other, TEXT, 0, 0, TUNED)).startswith("This tuned lens is for a model of 5 layers of width 8")
    assert HEADING in readable(lens_html(tiny, other, TEXT, 0, 0, RAW))


# ------------------------------------------------------------------------------------------------------------------ widget


@pytest.fixture
def widget(tiny, tuned) -> LensViewer:
    return LensViewer(tiny, TEXT, tuned)


def test_the_first_picture_is_there_at_once_and_every_control_moves_it(tiny, widget, viewed):
    last = len(tokenize(tiny, TEXT)) - 1
    assert widget.panel.value == viewed(TEXT, 1, last, RAW)
    seen = {widget.panel.value}
    for control, value in (("pos", 2), ("layer", -1), ("lens", TUNED), ("text", "a cat")):
        getattr(widget, control).value = value
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)
    assert widget.panel.value == viewed("a cat", -1, len(tokenize(tiny, "a cat")) - 1, TUNED)


def test_a_new_text_offers_its_tokens_and_chooses_the_last(tiny, widget):
    names = pieces(tiny, tokenize(tiny, TEXT))
    assert widget.pos.options == tuple((f"{at} {word(name)}", at) for at, name in enumerate(names))
    text = "The Gate is in San. " * 9
    widget.text.value = text
    assert [at for _, at in widget.pos.options] == list(range(48, 64)) and widget.pos.value == 63
    kept = truncate(tiny, tokenize(tiny, text))
    assert widget.pos.options[-1] == (f"63 {word(pieces(tiny, kept[-1:])[0])}", 63)
    widget.text.value = "x"
    assert widget.pos.value == len(tokenize(tiny, "x")) - 1 and HEADING in readable(widget.panel.value)


def test_a_new_text_is_answered_once(tiny, widget, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(lab, "lens_html", lambda model, tuned, **values: asked.append(values) or "<table></table>")
    widget.text.value = "x"
    assert asked == [{"text": "x", "layer": 1, "pos": len(tokenize(tiny, "x")) - 1, "lens": RAW}]


def test_a_text_is_read_once_however_often_layer_and_token_are_changed(widget, tiny, monkeypatch: pytest.MonkeyPatch):
    read = []
    lab.lens_of.cache_clear()
    monkeypatch.setattr(lab, "logit_lens", lambda *arguments, **options: read.append(arguments) or logit_lens(*arguments, **options))
    widget.text.value = "The Gate"
    assert len(read) == 1
    for layer, pos in ((-1, 0), (0, 1), (1, 0)):
        widget.layer.value, widget.pos.value = layer, pos
    assert len(read) == 1
    widget.lens.value = TUNED
    assert len(read) == 2


def test_where_nothing_can_be_read_the_last_table_stays(widget):
    before, options = widget.panel.value, widget.pos.options
    widget.text.value = "  "
    assert readable(widget.panel.value).startswith("There is nothing to read: write some words.\nBelow is still the last answer.")
    assert before in widget.panel.value and balanced(widget.panel.value) and widget.pos.options == options
    widget.layer.value = -1
    assert before in widget.panel.value and widget.panel.value.count("There is nothing to read") == 1
    widget.text.value = TEXT
    assert "Below is still" not in widget.panel.value and widget.panel.value != before  # the layer has changed meanwhile


def test_where_nothing_was_ever_read_there_is_only_the_sentence(tiny):
    widget = LensViewer(tiny, "")
    assert widget.panel.value == "<p>There is nothing to read: write some words.</p>" and widget.pos.value == 0
    widget.text.value = "a cat"
    assert HEADING in readable(widget.panel.value)
    assert keeping(lambda: "<p>No.</p>")() == "<p>No.</p>"


def test_without_a_tuned_lens_there_is_nothing_to_switch(tiny, viewed):
    widget = LensViewer(tiny, TEXT, layer=-1)
    assert [control.description for control in controls_of(widget)] == ["Text", "Layer", "After the token"]
    assert widget.panel.value == viewed(TEXT, -1, len(tokenize(tiny, TEXT)) - 1, RAW)


def test_controls_have_words_and_wait_for_the_end_of_a_move(widget):
    controls = list(controls_of(widget))
    assert [control.description for control in controls] == ["Text", "Layer", "After the token", "Lens"]
    assert not any(getattr(control, "continuous_update", False) for control in controls)
    assert widget.children[-1] is widget.panel and widget.layer.options == (("in", -1), ("0", 0), ("1", 1))
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widget))


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(tiny, viewed):
    tokens = tokenize(tiny, "hello you")[None]
    before = tiny(tokens)
    assert viewed(TEXT, 1, 1, TUNED) and viewed("q" * 999, 1, 1, RAW) and viewed("", 7, 7)
    assert torch.equal(tiny(tokens), before) and not any(point.fwd_hooks for point in tiny.hook_dict.values())


NUMBERS = st.integers(-2, 9) | st.integers()


@settings(max_examples=150, **ENOUGH)
@given(WORDS, NUMBERS, NUMBERS, st.sampled_from(LENSES) | st.text(max_size=5))
def test_any_text_number_and_name_gives_an_answer(viewed, text: str, layer: int, pos: int, lens: str):
    html = viewed(text, layer, pos, lens)
    assert answered(html, HEADING) and balanced(html) and html.encode()


INPUTS, MOVES = 300, 40


def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(tiny, tuned):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(
        st.tuples(st.just("text"), WORDS),
        st.tuples(st.just("layer"), st.sampled_from(LAYERS)),
        st.tuples(st.just("pos"), st.integers(0, 99)),
        st.tuples(st.just("lens"), st.sampled_from(LENSES)),
    )
    ran = 0

    @settings(max_examples=INPUTS // 15, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=MOVES, max_size=MOVES))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        if ran >= INPUTS:
            return
        widget = LensViewer(tiny, TEXT, tuned)
        for control, value in changes:
            box, before = getattr(widget, control), getattr(widget, control).value
            box.value = box.options[value % len(box.options)][1] if control == "pos" else value
            ran += box.value != before
            assert answered(widget.panel.value, HEADING)

    drive()
    assert ran >= INPUTS
