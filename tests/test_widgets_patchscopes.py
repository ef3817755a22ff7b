"""The widget of lesson 4b on Patchscopes, driven as a reader drives it: what it shows is true, and whatever is set gets an answer."""

import re
from functools import partial
from html import unescape
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_widgets_circuits import balanced
from test_widgets_neurons import ENOUGH, WORDS, answered, controls_of
from tiny_models import END, draw_weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from helpers.interventions import record, resid_post
from helpers.prediction import sample, tokenize
from helpers.running import layer_name
from helpers.speak import widgets_patchscopes as lab
from helpers.speak.patchscopes import DESCRIPTION, IDENTITY, ITSELF, SAME, Source, Target, patchscope
from helpers.speak.widgets_patchscopes import (
    OWN,
    TARGETS,
    TOKENS,
    PatchscopeBench,
    in_words,
    name_at,
    patchscope_html,
    target_of,
    tokens_of,
)
from helpers.widgets import readable

VOCABULARY = "x is in The wife of home the singer , . Imagine Help Bath. Dune John Paul Ringo Starr Jane Yoko Bath London Tacoma"
TEXT = "The wife of Ringo Starr is"
ASKED = {"home": Target("The home of x is", until="."), "wife": Target("The singer , the wife of x")}
HEADING = "The model goes on:"
LAYERS = range(-1, 3)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 of three layers that reads whole words, 24 at most."""
    from helpers.models import load_model

    words = [END, *VOCABULARY.split()]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=3, n_head=2, n_positions=24, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        draw_weights(model)
    for name, weights in model.named_parameters():  # such that what it says depends on what it reads
        weights.data *= 2 if ".h." in name and weights.ndim > 1 else 1
    folder = tmp_path_factory.mktemp("deep")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END).save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What was computed in an earlier test is forgotten."""
    for remembered in (lab.readings_of, lab.in_words):
        remembered.cache_clear()


@pytest.fixture
def put(deep):
    return partial(patchscope_html, deep, ASKED)


def three_of(html: str) -> dict[str, str]:
    """What is said with the state, with nothing put in, and in words."""
    first = html.split("</table>")[0]
    rows = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", first)
    return {readable(label): readable(text) for label, text in rows}


def layers_of(html: str) -> list[tuple[str, str, str, str, str]]:
    """From, into, style, what is said, and what it is the same as."""
    row = r"<tr><th[^>]*>([^<]*)</th><th[^>]*>([^<]*)</th><td style='([^']*)'>(.*?)</td><td[^>]*>([^<]*)</td></tr>"
    return [tuple(map(unescape, found)) for found in re.findall(row, html)]


# ------------------------------------------------------------------------------------------------------------ what is said


def written(text: str) -> str:
    """As the panel shows a continuation."""
    return text or "nothing; the text ends here"


def by_hand(model, text: str, pos: int, prompt: str, source_layer: int, target_layer: int) -> str:
    """A state of a text put in place of the x at the same position by a hook, each new token from a run over everything."""
    state = record(model, tokenize(model, text)[None], resid_post(source_layer))[resid_post(source_layer)][0, pos]
    ids = tokenize(model, prompt)
    assert ids[pos] == model.tokenizer("x", add_special_tokens=False)["input_ids"][0]

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = activation.clone()
        changed[:, pos] = state
        return changed

    n = len(ids)
    for _ in range(TOKENS):
        with model.hooks(fwd_hooks=[(resid_post(target_layer), hook)]):
            new = model(ids[None])[0, -1].argmax()
        if int(new) == 0:
            break
        ids = torch.cat([ids, new[None]])
    return model.tokenizer.decode(ids[n:].tolist()).split(".")[0].strip()


@pytest.mark.parametrize(("source_layer", "target_layer"), [(0, 0), (2, 0), (1, 1), (0, 2)])
def test_the_state_is_put_in_the_place_of_the_placeholder(deep, put, source_layer: int, target_layer: int):
    """Token and placeholder both stand at position 4, so that there is no filler."""
    said = by_hand(deep, TEXT, 4, ASKED["home"].prompt, source_layer, target_layer)
    html = put(TEXT, 4, ASKED["home"].prompt, source_layer, target_layer)
    assert three_of(html)["with the state"] == written(said)
    assert len({text for *_, text, _ in layers_of(html)}) > 1 or target_layer == 2
    bare = sample(deep, ASKED["home"].prompt, TOKENS, temperature=0).split(".")[0].strip()
    assert three_of(html)["with nothing put in, x as it is"] == written(bare)
    head = f"The state of Ringo (token 4) after layer {source_layer} is put in the place of x after layer {target_layer} . {HEADING}"
    assert " ".join(readable(html).splitlines()[0].replace(".", " .").split()) == " ".join(head.replace(".", " .").split())


@pytest.mark.parametrize("prompt", [target.prompt for target in ASKED.values()] + ["the home of x"])
@pytest.mark.parametrize("into", [0, 2, -1, SAME])
def test_every_source_layer_has_its_line_and_the_chosen_one_a_frame(deep, put, prompt: str, into: int | str):
    target = next((one for one in ASKED.values() if one.prompt == prompt), Target(prompt))
    found = patchscope(deep, [Source(TEXT, 5)], target, None, into, tokens=TOKENS)
    for row, layer in enumerate(LAYERS):
        html = put(TEXT, 5, prompt, layer, into)
        lines = layers_of(html)
        assert [line[:2] for line in lines] == [(layer_name(one), layer_name(one if into == SAME else into)) for one in LAYERS]
        assert [readable(line[3]) for line in lines] == [written(text) for [text] in found.texts]
        assert ["border:2px solid" in line[2] for line in lines] == [at == row for at in range(4)]
        assert three_of(html)["with the state"] == written(found.texts[row][0]) and balanced(html)


def test_the_name_is_written_into_the_target_in_words(deep, put):
    text = sample(deep, "The home of Ringo Starr is", TOKENS, temperature=0)
    said = text.split(".")[0].strip()
    assert in_words(deep, ASKED["home"], "Ringo Starr") == said
    assert three_of(put(TEXT, 5, ASKED["home"].prompt, 0, 0))["with Ringo Starr in words"] == written(said)
    assert three_of(put(TEXT, 4, ASKED["home"].prompt, 0, 0)).keys() >= {"with Ringo in words"}
    dot = put("John is .", 3, ASKED["home"].prompt, 0, 0)
    assert len(three_of(dot)) == 2 and "in words" not in readable(dot)  # a full stop is no name


def test_continuations_in_words_end_where_readings_do(deep):
    whole = sample(deep, "The home of John is", TOKENS, temperature=0).split()
    assert len(whole) > 2
    for word in whole:
        cut = " ".join(whole[: whole.index(word)])
        assert in_words(deep, Target("The home of x is", until=word), "John") == cut
    assert in_words(deep, Target("The home of x is"), "John " * 15) is None  # no room


def test_a_reading_is_coloured_where_it_is_as_in_words_or_as_without():
    assert lab._kind("a", "a", "b")[1] == lab._kind("a", "a", "a")[1] == "as in words" and lab.GREEN in lab._kind("a", "a", "b")[0]
    assert (
        lab._kind("b", "a", "b")[1] == lab._kind("b", None, "b")[1] == "as with nothing put in" and lab.WARM in lab._kind("b", "a", "b")[0]
    )
    assert lab._kind("c", "a", "b") == lab._kind("c", None, "b") == ("", "")


def test_the_state_of_the_entry_says_what_the_name_says_where_it_goes_into_the_entry(put):
    """A word of one token at the same position: the same run."""
    html = put("The wife of John is", 4, ASKED["home"].prompt, -1, -1)
    assert layers_of(html)[0][4] == "as in words" and lab.GREEN in layers_of(html)[0][2]
    assert three_of(html)["with the state"] == three_of(html)["with John in words"]


@pytest.mark.parametrize(
    ("text", "pos", "name"),
    [
        (TEXT, 5, "Ringo Starr"),
        (TEXT, 4, "Ringo"),
        (TEXT, 6, "is"),
        (TEXT, 1, "The"),
        ("The Dune", 2, "The Dune"),
        ("John is in the Bath", 5, "Bath"),
        ("John . Paul", 3, "Paul"),
        ("Bath. Paul", 2, "Paul"),
        ("John , is", 2, ""),
    ],
)
def test_a_name_is_a_word_with_the_capitalised_ones_before_it(deep, text: str, pos: int, name: str):
    assert name_at(deep, text, pos) == name


def test_targets_to_choose_from_and_a_prompt_of_ones_own(deep):
    assert [TARGETS[name] for name in list(TARGETS)[:3]] == [DESCRIPTION, IDENTITY, ITSELF]
    assert target_of(deep, ASKED, ASKED["home"].prompt) is ASKED["home"]
    assert target_of(deep, ASKED, "x is the") == Target("x is the")


def test_the_tokens_of_a_source_are_offered_without_the_mark(deep):
    assert tokens_of(deep, "John is") == [("1 John", 1), ("2 is", 2)]
    assert tokens_of(deep, "") == tokens_of(deep, " ") == tokens_of(deep, "is " * 24) == [] and len(tokens_of(deep, "is " * 23)) == 23


def test_what_cannot_be_read_is_answered_in_a_sentence(deep, put):
    home = ASKED["home"].prompt
    for text in ("", " \n", END):
        assert readable(put(text, 1, home, 0, 0)) == "The source text is empty: write some words."
        assert readable(put(TEXT, 1, text, 0, 0)) == "The target text is empty: write some words."
    assert readable(put("is " * 40, 1, home, 0, 0)) == "The source text has 41 tokens and there is room for 24: shorten it."
    assert readable(put(TEXT, 1, "is " * 20 + "x", 0, 0)) == "The target text has 22 tokens and there is room for 18: shorten it."
    for pos in (0, 7, -1):
        assert readable(put(TEXT, pos, home, 0, 0)) == f"There is no token {pos} to choose: those of this text are 1 to 6."
    assert readable(put(TEXT, 4, "The home of is", 0, 0)).startswith("The placeholder 'x' does not occur in 'The home of is'")
    assert readable(put(TEXT, 4, "x of x is", 0, 0)).startswith("The placeholder 'x' occurs 2 times in 'x of x is'")
    for layers in ((3, 0), (0, 3), (-2, 0)):
        assert readable(put(TEXT, 4, home, *layers)).startswith("There is no layer ")


@pytest.mark.parametrize("pos", range(1, 24))
def test_where_filler_leaves_no_room_a_sentence_says_so(put, pos: int):
    """Target and answer have 6 and 6 tokens, of which the last one is not read; the placeholder stands at 4."""
    html = put("is " * 23, pos, ASKED["home"].prompt, 0, 0)
    if pos > 16:
        assert (
            readable(html) == "The token stands so late that target and answer, moved there, are longer than 24 tokens: shorten the source."
        )
    elif pos < 4:
        assert readable(html) == "The placeholder stands so late that the source, moved there, is longer than 24 tokens: shorten either."
    else:
        assert HEADING in readable(html)


def test_what_is_typed_is_no_markup(put, deep, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "in_words", lambda *_: "<i>\n&")
    html = put("<script> is", 1, ASKED["home"].prompt, 0, 0)
    assert "<script" not in html and balanced(html)
    html = put("John is", 1, ASKED["home"].prompt, 0, 0)
    assert "&lt;i&gt;⏎&amp;" in html and balanced(html)


# ------------------------------------------------------------------------------------------------------------------ widget


@pytest.fixture
def widget(deep) -> PatchscopeBench:
    return PatchscopeBench(deep, TEXT, ASKED)


def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widget, put):
    home, wife = (ASKED[name].prompt for name in ASKED)
    assert widget.panel.value == put(TEXT, 6, home, 1, 0)
    seen = {widget.panel.value}
    moves = (("pos", 4), ("source_layer", -1), ("target_layer", SAME), ("target", "wife"), ("prompt", "the home of x"), ("text", "John is"))
    for control, value in moves:
        getattr(widget, control).value = value
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)
    assert widget.panel.value == put("John is", 2, "the home of x", -1, SAME)
    widget.target.value = "wife"
    assert widget.panel.value == put("John is", 2, wife, -1, SAME)


def test_a_target_fills_its_text_and_a_rewritten_text_is_ones_own(widget):
    assert widget.target.value == "home" and widget.prompt.value == ASKED["home"].prompt
    widget.target.value = "wife"
    assert widget.prompt.value == ASKED["wife"].prompt
    widget.prompt.value = "the x is"
    assert widget.target.value == OWN and widget.prompt.value == "the x is"
    widget.prompt.value = ASKED["home"].prompt
    assert widget.target.value == "home"
    widget.target.value = OWN
    assert widget.prompt.value == ASKED["home"].prompt


def test_a_new_source_offers_its_tokens_and_chooses_the_last(widget):
    assert widget.pos.options[3] == ("4 Ringo", 4) and widget.pos.value == 6
    widget.text.value = "Dune is"
    assert widget.pos.options == (("1 Dune", 1), ("2 is", 2)) and widget.pos.value == 2
    assert readable(widget.panel.value).startswith("The state of is (token 2)")


def test_all_source_layers_are_read_once(widget, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(lab, "patchscope", lambda *arguments, **options: asked.append(arguments[1]) or patchscope(*arguments, **options))
    widget.text.value = "John is"
    assert asked == [[Source("John is", 2)]]
    for layer in LAYERS:
        widget.source_layer.value = layer
    assert len(asked) == 1
    widget.target_layer.value = 1
    assert len(asked) == 2


def test_where_nothing_can_be_read_the_last_answer_stays(widget):
    before, options = widget.panel.value, widget.pos.options
    widget.text.value = "  "
    assert readable(widget.panel.value).startswith("The source text is empty: write some words.\nBelow is still the last answer.")
    assert before in widget.panel.value and balanced(widget.panel.value) and widget.pos.options == options
    widget.text.value, widget.prompt.value = TEXT, "no placeholder"
    assert "does not occur" in widget.panel.value and before in widget.panel.value
    widget.target.value = "home"
    assert widget.panel.value == before


def test_a_bench_for_a_model_and_targets_of_ones_own(deep):
    with pytest.raises(ValueError, match="There is no target to choose from"):
        PatchscopeBench(deep, TEXT, {})
    bench = PatchscopeBench(deep, "")
    assert bench.target.options == (*TARGETS, OWN) and bench.pos.value == 0
    assert readable(bench.panel.value) == "The source text is empty: write some words."
    bench.text.value, bench.prompt.value = "John is", "the x is"
    assert HEADING in readable(bench.panel.value)


def test_controls_have_words_and_wait_for_the_end_of_a_move(widget):
    controls = list(controls_of(widget))
    names = ["Source", "Its token", "Target", "Its text, x the placeholder", "From layer", "Into layer"]
    assert [control.description for control in controls] == names and widget.children[-1] is widget.panel
    assert not any(getattr(control, "continuous_update", False) for control in controls)
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widget))


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(deep, put):
    tokens = tokenize(deep, TEXT)[None]
    before = deep(tokens)
    assert put(TEXT, 4, ASKED["home"].prompt, 0, 0) and put("", 9, "", 9, 9) and put("is " * 23, 23, "x", 0, 0)
    assert torch.equal(deep(tokens), before) and not any(point.fwd_hooks for point in deep.hook_dict.values())


SOME = WORDS | st.lists(st.sampled_from(VOCABULARY.split()), max_size=26).map(" ".join)


@settings(max_examples=120, **ENOUGH)
@given(SOME, st.integers(-1, 30), SOME, st.integers(-2, 4), st.integers(-2, 4) | st.just(SAME))
def test_any_text_number_and_layer_gives_an_answer(put, text: str, pos: int, prompt: str, source_layer: int, target_layer: int | str):
    html = put(text, pos, prompt, source_layer, target_layer)
    assert answered(html, HEADING) and balanced(html) and html.encode()


def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(deep):
    steps = st.one_of(
        st.tuples(st.just("text"), SOME),
        st.tuples(st.just("prompt"), SOME | st.just("the x is")),
        st.tuples(st.sampled_from(["pos", "target", "source_layer", "target_layer"]), st.integers(0, 99)),
    )
    ran = 0

    @settings(max_examples=10, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=30, max_size=30))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        widget = PatchscopeBench(deep, TEXT, ASKED)
        for control, value in changes:
            box = getattr(widget, control)
            if isinstance(value, int):
                box.index = value % len(box.options)
            else:
                box.value = value
            ran += 1
            assert answered(widget.panel.value, HEADING)

    drive()
    assert ran >= 200
