"""The widgets of lesson 3a, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser
from typing import Any

import ipywidgets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_widgets_neurons import ENOUGH, WORDS, answered, controls_of
from tiny_models import write_tiny_model
from torch import Tensor

from helpers.cluster import widgets_relations as lab
from helpers.cluster.recall import fact_prompt, knockout, known, source_masks
from helpers.cluster.relations import RelationData, Surrogate, edit
from helpers.cluster.widgets_relations import (
    CUT,
    LARGEST,
    FactEditor,
    KnockoutBench,
    RelationExplorer,
    about,
    edit_html,
    knockout_html,
    relation_html,
    window_of,
)
from helpers.html import WARM
from helpers.prediction import pieces, tokenize, top_tokens, visible
from helpers.running import random_like
from helpers.widgets import named_layer, readable

SUBJECTS = ("Taipei", "The Golden Gate Bridge", "Paris", "San Francisco")
PLACE = RelationData("place", "The Tower of {s} is in", SUBJECTS, ("Paris", "Paris", "Gate", "San"))
FIRST = RelationData("<first>", "{s} is", ("Taipei 101", "Eiffel", *"abcdef"), tuple("abcdefgh"))
FACTS = [
    fact_prompt("The Eiffel Tower is in the city of", "Paris", "Eiffel Tower"),
    fact_prompt("Taipei 101 is in the city of", "Taipei", "Taipei 101"),
    fact_prompt("Paris is", "<big>", "Paris"),  # which has no relation but its last token
]
BY_TEXT = {fact.text: fact for fact in FACTS}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def surrogate(name: str, layer: int, seed: int) -> Surrogate:
    """A map so flat that an edit by it is long: a random model hardly notices a short one."""
    return Surrogate(name, "LRE", layer, randn(32, 32, seed=seed) / 100, randn(32, seed=seed + 1), 1.5)


MAPS = {"place": (PLACE, surrogate("place", 0, 1)), "<first>": (FIRST, surrogate("<first>", -1, 3))}
FITTED = {"place": ("Taipei", "Paris")}
EDITORS = {"place": (*MAPS["place"], 3), "<first>": (*MAPS["<first>"], 8)}


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What the untouched model computed in an earlier test is forgotten."""
    for remembered in (lab.plain_probs, lab.states_of, lab.delta_of, lab.masks_of, lab.answer_token):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2, which reads 64 tokens."""
    from helpers.models import load_model

    return load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def explored(tiny):
    return partial(relation_html, tiny, MAPS, FITTED)


@pytest.fixture
def edited(tiny):
    return partial(edit_html, tiny, EDITORS)


@pytest.fixture
def benched(tiny):
    return partial(knockout_html, tiny, BY_TEXT)


# ------------------------------------------------------------------------------------------------------- looking at panels


class Balanced(HTMLParser):
    """Follows the tags of a text, and notes those that are not closed in their turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.open += [tag] if tag != "br" else []

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def fine(html: str, heading: str) -> bool:
    """An answer or a sentence, in well-formed HTML that can be sent to a browser."""
    found = Balanced(html)
    return answered(html, heading) and not found.open and not found.wrong and bool(html.encode())


def columns(html: str) -> list[list[tuple[str, float]]]:
    """The tokens of each column with their probabilities in percent."""
    row = re.compile(r"<tr><td style='font-family:monospace'>(.*?)</td><td[^>]*>.*?</span>([\d.]+)%</td></tr>", re.DOTALL)
    found = [[(unescape(token), float(number)) for token, number in row.findall(part)] for part in html.split("<b>")]
    return [column for column in found if column]


def same(column: list[tuple[str, float]], logits: Tensor, model) -> bool:
    """Are these the five likeliest tokens?"""
    probs, ids = logits.softmax(-1).topk(5)
    tokens = [visible(piece) for piece in pieces(model, ids)]
    return [token for token, _ in column] == tokens and [number for _, number in column] == pytest.approx((100 * probs).tolist(), abs=0.06)


def logits_with(model, prompt: str, changes: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """The logits after a prompt while the values at some places are changed, by hooks of its own."""
    with model.hooks(fwd_hooks=[(place, lambda values, hook, change=change: change(values)) for place, change in changes.items()]):
        return model(tokenize(model, prompt)[None])[0, -1]


def state(model, name: str, at: int, prompt: str) -> Tensor:
    """The residual stream at one place and position."""
    _, cache = model.run_with_cache(tokenize(model, prompt)[None])
    return cache[name][0, at]


def argmax_of(model, prompt: str) -> str:
    return visible(top_tokens(model, prompt, 1).tokens[0])


def numbers(html: str, words: str) -> list[float]:
    """The numbers in a sentence, for each of which ``words`` has a ``#``."""
    return [float(number) for number in re.search(re.escape(words).replace(r"\#", r"([+-]?[\d.]*\d)"), readable(html)).groups()]


# ------------------------------------------------------------------------------------------------------ the map and the model


CASES = [("place", "Paris", "The Tower of", "blocks.0.hook_resid_post"), ("<first>", "zebra x", "", "blocks.0.hook_resid_pre")]


@pytest.mark.parametrize(("relation", "subject", "before", "place"), CASES)
def test_the_map_is_asked_at_the_subjects_last_token_and_the_model_beside_it(tiny, explored, relation, subject, before, place):
    prompt = MAPS[relation][0].template.replace("{s}", subject)
    at, found = len(tokenize(tiny, f"{before} {subject}".strip())) - 1, MAPS[relation][1]
    o = 1.5 * found.weight @ state(tiny, place, at, prompt) + found.bias
    html = explored(relation, f" {subject}\t")  # blanks around a subject do not count
    mapped, own = columns(html)
    assert same(mapped, tiny.unembed(tiny.ln_final(o[None, None]))[0, 0], tiny) and same(own, logits_with(tiny, prompt, {}), tiny)
    assert [token for token, _ in mapped] == [visible(token) for token in found.top(tiny, state(tiny, place, at, prompt)[None])[0]]
    assert readable(html).startswith(f"{prompt} …\nthe map (LRE, {named_layer(found.layer)}, beta 1.5)") and "<b>the model</b>" in html
    assert f"They differ: the map says {mapped[0][0]}, the model {own[0][0]}." in readable(html)


def test_a_map_that_says_what_the_model_says_agrees(tiny):
    o = state(tiny, "blocks.1.hook_resid_post", -1, "The Tower of Paris is in")
    constant = replace(MAPS["place"][1], weight=torch.zeros(32, 32), bias=o)
    html = relation_html(tiny, {"place": (PLACE, constant)}, {}, "place", "Paris")
    assert columns(html)[0] == columns(html)[1] and f"Both say {argmax_of(tiny, 'The Tower of Paris is in')}." in readable(html)
    other = next(word for word in map(str, range(99)) if argmax_of(tiny, f"The Tower of {word} is in") != columns(html)[0][0][0])
    assert "They differ" in relation_html(tiny, {"place": (PLACE, constant)}, {}, "place", other)


def test_it_is_said_whether_the_map_was_fitted_on_the_subject(explored):
    assert "The map was fitted on 2 subjects, among them Paris." in explored("place", "Paris")
    assert "The map was fitted on 2 subjects, not on San Francisco." in explored("place", "San Francisco")
    assert "The relation's data have no subject Atlantis." in unescape(explored("place", "Atlantis"))
    assert "The relation's data have 8 subjects, among them Eiffel." in unescape(explored("<first>", "Eiffel"))  # nobody said on which


def test_subjects_of_the_relation_are_named_so_that_one_can_write_them(explored, edited):
    for html in (explored("place", "x"), edited("place", "x", "y", 3, 1.0)):
        assert readable(html).endswith("Subjects of this relation: Taipei, The Golden Gate Bridge, Paris, San Francisco.")
    for html in (explored("<first>", "x"), edited("<first>", "x", "y", 3, 1.0)):
        assert readable(html).endswith("Subjects of this relation: Taipei 101, Eiffel, a, b, c, d and others.")


# --------------------------------------------------------------------------------------------------------------- an edit


def delta_by_hand(model, relation: str, prompts: tuple[str, str], rank: int) -> Tensor:
    """The difference of the last states, brought back by the strongest directions of the map one after the other."""
    left, sizes, right = torch.linalg.svd(MAPS[relation][1].weight.double())
    now, wanted = (state(model, "blocks.1.hook_resid_post", -1, prompt).double() for prompt in prompts)
    return sum(((wanted - now) @ left[:, at]) / sizes[at] * right[at] for at in range(rank)).float()


@pytest.mark.parametrize(("rank", "strength"), [(3, 1.0), (3, -0.5), (20, 0.25)])
@pytest.mark.parametrize(("relation", "subject", "other", "before", "place"), [
    ("place", "Paris", "Taipei", "The Tower of", "blocks.0.hook_resid_post"),
    ("<first>", "zebra x", "Eiffel", "", "blocks.0.hook_resid_pre"),
])  # fmt: skip
def test_the_edit_is_added_at_the_subjects_last_token_and_a_random_vector_beside_it(
    tiny, edited, relation, subject, other, before, place, rank, strength
):
    prompts = tuple(MAPS[relation][0].template.replace("{s}", word) for word in (subject, other))
    at, delta = len(tokenize(tiny, f"{before} {subject}".strip())) - 1, delta_by_hand(tiny, relation, prompts, rank)

    def adding(vector: Tensor) -> Tensor:
        return logits_with(tiny, prompts[0], {place: lambda v: torch.cat([v[:, :at], v[:, at : at + 1] + vector, v[:, at + 1 :]], 1)})

    html = edited(relation, subject, other, rank, strength)
    plain, pushed, by_chance = columns(html)
    expected = [adding(vector) for vector in (0 * delta, strength * delta, strength * random_like(delta, 1, 0)[0])]
    assert [same(*pair, tiny) for pair in zip((plain, pushed, by_chance), expected, strict=True)] == [True] * 3
    assert len({str(column) for column in columns(html)}) == 3 and f"<b>{strength:g} × the edit</b>" in html
    lengths = numbers(html, f"The edit is # long and # were added, to a state at {named_layer(MAPS[relation][1].layer)} that is # long.")
    size = state(tiny, place, at, prompts[0]).norm().item()
    assert lengths == pytest.approx([delta.norm().item(), abs(strength) * delta.norm().item(), size], abs=0.06)
    wished = int(tiny(tokenize(tiny, prompts[1])[None])[0, -1].argmax())
    shares = numbers(html, "its probability is #%; it was #%, and is #% with the random vector.")
    assert shares == pytest.approx([100 * expected[i].softmax(-1)[wished].item() for i in (1, 0, 2)], abs=0.06)
    assert ("The edit gives it:" in html) == (int(expected[1].argmax()) == wished)
    assert f"Wished for: {argmax_of(tiny, prompts[1])}, as after {other}." in readable(html)


def test_an_edit_with_a_map_that_is_right_succeeds_as_in_the_helper(tiny):
    """With the last block's own state at the prompt's end the map from it to the output is the identity."""
    names = tuple(map(str, range(200)))
    data = RelationData("end", "It is {s}", names, names)
    exact = Surrogate("end", "identity", 1, torch.eye(32), torch.zeros(32))
    one, other = "0", next(name for name in names if argmax_of(tiny, f"It is {name}") != argmax_of(tiny, "It is 0"))
    assert edit(tiny, data, exact, [(one, other)], 32).hits.all()
    html = edit_html(tiny, {"end": (data, exact, 32)}, "end", one, other, 32, 1.0)
    plain, pushed, _ = columns(html)
    assert "The edit gives it:" in html and pushed[0][0] == argmax_of(tiny, f"It is {other}") != plain[0][0]
    assert "The edit does not give it:" in edit_html(tiny, {"end": (data, exact, 32)}, "end", one, other, 32, 0.0)


def test_no_strength_and_the_same_subject_change_nothing(edited):
    for html in (edited("place", "Paris", "Taipei", 3, 0.0), edited("place", "Paris", " Paris", 3, 2.0)):
        plain, pushed, by_chance = columns(html)
        assert plain == pushed == by_chance
    assert "The edit is 0.0 long and 0.0 were added" in edited("place", "Paris", " Paris", 3, 2.0)


# ---------------------------------------------------------------------------------------------------------- the knockout


def keys_of(model, fact, source: str) -> list[int]:
    return source_masks(model, [fact])[source][0].nonzero().flatten().tolist()


@pytest.mark.parametrize("source", CUT)
@pytest.mark.parametrize(("first", "width", "layers"), [(0, 1, [0]), (0, 2, [0, 1]), (1, 2, [1])])
def test_the_bench_keeps_the_last_token_from_looking_in_the_window_only(tiny, benched, source: str, first, width, layers):
    fact = FACTS[0]
    keys, last = keys_of(tiny, fact, source), len(tokenize(tiny, fact.text)) - 1

    def cut(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, :, last, keys] = -torch.inf
        return scores

    expected = logits_with(tiny, fact.text, {f"blocks.{layer}.attn.hook_attn_scores": cut for layer in layers})
    html = benched(fact.text, source, first, width)
    before, after = columns(html)
    assert same(before, logits_with(tiny, fact.text, {}), tiny) and same(after, expected, tiny) and before != after
    answer = int(tokenize(tiny, fact.text + " Paris")[last + 1])
    was, now = (100 * logits.softmax(-1)[answer].item() for logits in (logits_with(tiny, fact.text, {}), expected))
    assert f"answer, {visible(pieces(tiny, torch.tensor([answer]))[0])}, was" in readable(html)
    assert numbers(html, "was #% and is #%: a change of #%.") == pytest.approx([was, now, 100 * (now - was) / was], abs=0.06)
    assert (f"In layer {layers[0]} the last" if len(layers) == 1 else "In layers 0 to 1 the last") in readable(html)
    assert f"<b>without looking at {CUT[source]}</b>" in html


def test_the_change_is_that_of_the_helper_for_a_fact_that_the_model_knows(tiny):
    prompts = [f"The Eiffel Tower {number} is (" for number in range(200)]  # after "(" a word begins without a space
    said = [(prompt, token) for prompt in prompts if (token := top_tokens(tiny, prompt, 1).tokens[0]).isascii() and token.isalnum()]
    fact = fact_prompt(*said[0], "Eiffel Tower")
    assert known(tiny, [fact]) == [fact]
    for source in ("subject", "relation", "last"):
        change = knockout(tiny, [fact], [[1]], source).item()
        assert numbers(knockout_html(tiny, {"it": fact}, "it", source, 1, 1), "a change of #%.") == pytest.approx([change], abs=0.06)


@pytest.mark.parametrize("source", CUT)
@pytest.mark.parametrize("fact", FACTS[:2], ids=lambda fact: fact.subject)
def test_what_is_cut_is_coloured_and_named(tiny, benched, fact, source: str):
    html, keys, tokens = benched(fact.text, source, 0, 1), keys_of(tiny, fact, source), pieces(tiny, tokenize(tiny, fact.text))
    spans = re.findall(r'<span style="([^"]*)">(.*?)</span>', html)
    assert [unescape(token) for _, token in spans] == [visible(token) for token in tokens]
    assert [at for at, (style, _) in enumerate(spans) if WARM in style] == keys != []
    named = "itself" if source == "last" else ", ".join(visible(tokens[at]) for at in keys)
    assert f"the last token, {visible(tokens[-1])}, cannot look at {named}." in readable(html)


def test_sources_that_a_prompt_does_not_have_are_said_and_change_nothing(benched):
    for source in ("relation", "random"):
        html = benched("Paris is", source, 0, 2)
        assert "Nothing is cut: there are no such tokens." in html and columns(html)[0] == columns(html)[1]
        assert "a change of +0.0%." in readable(html) and WARM not in html.split("<table>")[0]


def test_a_window_ends_where_the_model_ends(tiny):
    assert window_of(tiny, 0, 2) == range(2) and window_of(tiny, 1, 1) == window_of(tiny, 1, 2) == range(1, 2)


def test_an_answer_whose_probability_is_0_has_no_change(benched, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "next_token_probs", lambda model, text: torch.nn.functional.one_hot(torch.tensor(5), 300).float())
    assert "a change of not defined, since it was 0." in readable(benched(FACTS[0].text, "subject", 0, 1))


# ----------------------------------------------------------------------------------------------- what cannot be, in a sentence


def test_what_there_is_not_is_answered_in_a_sentence(explored, edited, benched):
    for html in (explored("rude", "x"), edited("rude", "x", "y", 3, 1.0)):
        assert html == "<p>There is no relation &#x27;rude&#x27;; choose one of: place, &lt;first&gt;.</p>"
    assert readable(benched("What?", "last", 0, 1)).startswith(
        "There is no fact 'What?'; choose one of: The Eiffel Tower is in the city of,"
    )
    for source in ("first", "verb"):
        assert readable(benched("Paris is", source, 0, 1)) == (
            f"There is no source {source!r}; choose one of: subject, relation, last, random."
        )
    for layer in (-1, 2):
        assert readable(benched("Paris is", "last", layer, 1)) == f"There is no layer {layer}: this model's layers are 0 to 1."
    for width in (0, -1, 3):
        assert readable(benched("Paris is", "last", 0, width)) == f"The window must have from 1 to 2 layers, not {width}."
    for rank in (0, -5, 33):
        assert readable(edited("place", "Paris", "Taipei", rank, 1.0)).startswith("The rank must lie between 1 and 32")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 100.5])
def test_a_strength_that_is_no_number_or_too_large_is_answered_in_a_sentence(edited, value: float):
    assert edited("place", "Paris", "Taipei", 3, value) == f"<p>The strength must be a number from -100 to 100, not {value}.</p>"
    assert len(columns(edited("place", "Paris", "Taipei", 3, LARGEST))) == 3


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_nothing_typed_is_answered_in_a_sentence(explored, edited, text: str):
    for html in (explored("place", text), edited("place", text, "Paris", 3, 1.0), edited("place", "Paris", text, 3, 1.0)):
        assert html == "<p>There is no subject: write one, such as Taipei.</p>"


def test_a_subject_that_is_too_long_is_answered_in_a_sentence_of_moderate_length(explored, edited):
    for html in (explored("place", "q" * 10_000), edited("place", "q" * 10_000, "Paris", 3, 1.0)):
        assert "has more than the 64 tokens that this model reads: shorten it." in readable(html) and len(html) < 200


def test_half_a_letter_is_replaced_so_that_the_panel_can_be_sent(explored):
    assert about(PLACE, "a\ud83d ").subjects == ("a?",) and about(PLACE, " Paris\n").subjects == ("Paris",)
    assert b"The Tower of a? is in" in explored("place", "a\ud83d").encode()


def test_a_fact_that_cannot_be_asked_is_answered_in_a_sentence(tiny):
    facts = {"x": fact_prompt("It is Paris", "big", "Paris")}
    assert readable(knockout_html(tiny, facts, "x", "subject", 0, 1)).startswith("'It is Paris' ends with its subject")


def test_there_must_be_something_to_choose_from(tiny):
    for make in (lambda: RelationExplorer(tiny, {}), lambda: FactEditor(tiny, {})):
        with pytest.raises(ValueError, match=r"^There is no relation to choose from: give at least one\.$"):
            make()
    with pytest.raises(ValueError, match=r"^There is no fact to choose from: give at least one\.$"):
        KnockoutBench(tiny, [])


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(tiny, explored, edited, benched):
    tokens = tokenize(tiny, "hello you")[None]
    before = tiny(tokens)
    assert explored("place", "Paris") and edited("place", "Paris", "Taipei", 3, 2.0) and benched("Paris is", "subject", 0, 2)
    assert explored("place", "q" * 999) and edited("place", "Paris", "Taipei", 99, 2.0) and benched("Paris is", "subject", 7, 2)
    assert torch.equal(tiny(tokens), before)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


NUMBERS = st.integers(-2, 3) | st.integers()
SCALES = st.floats(-4, 4) | st.floats()
SUBJECT = st.sampled_from(SUBJECTS) | WORDS
HEADINGS = {"explorer": "the model", "editor": "as it is", "bench": "as it is"}


@settings(max_examples=40, **ENOUGH)
@given(SUBJECT, SUBJECT, NUMBERS, NUMBERS, SCALES, st.sampled_from([*MAPS, *BY_TEXT, *CUT]) | st.text(max_size=5))
def test_any_text_number_and_name_gives_an_answer(explored, edited, benched, text, other, rank, width, strength, name):
    assert fine(explored(name, text), HEADINGS["explorer"]) and fine(explored("<first>", text), HEADINGS["explorer"])
    assert fine(edited(name, text, other, 2, strength), HEADINGS["editor"])
    assert fine(edited("place", text, "Paris", rank, strength), HEADINGS["editor"])
    assert fine(benched(FACTS[1].text, name, rank, width), HEADINGS["bench"]) and fine(benched(name, "last", rank, 1), HEADINGS["bench"])


# ----------------------------------------------------------------------------------------------------------------- widgets


@pytest.fixture
def widgets(tiny) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    return {
        "explorer": lambda: RelationExplorer(tiny, MAPS, FITTED),
        "editor": lambda: FactEditor(tiny, EDITORS),
        "bench": lambda: KnockoutBench(tiny, FACTS),
    }


RELATION, RANKS = st.sampled_from(list(MAPS)), (1, 2, 3, 4, 8, 16, 32)
CONTROLS: dict[str, dict[str, st.SearchStrategy]] = {
    "explorer": {"relation": RELATION, "subject": SUBJECT},
    "editor": {
        "relation": RELATION, "subject": SUBJECT, "other": SUBJECT, "rank": st.sampled_from(RANKS),
        "strength": st.floats(-1, 3) | st.floats(allow_nan=False),
    },
    "bench": {"fact": st.sampled_from(list(BY_TEXT)), "source": st.sampled_from(list(CUT)), "first": NUMBERS, "width": NUMBERS},
}  # fmt: skip
INPUTS = {"explorer": 360, "editor": 330, "bench": 330}  # together over 1,000
MOVES = 40  # of the controls of one widget


@pytest.mark.parametrize("name", CONTROLS)
def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(widgets, name: str):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(*(st.tuples(st.just(control), values) for control, values in CONTROLS[name].items()))
    ran = 0

    @settings(max_examples=INPUTS[name] // 15, **ENOUGH, database=None)
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
            assert fine(widget.panel.value, HEADINGS[name])

    drive()
    assert ran >= INPUTS[name]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"relation": "<first>", "subject": "Paris", "other": "d", "rank": 32, "strength": -0.5}
    others |= {"fact": FACTS[1].text, "source": "relation", "first": 1, "width": 1}
    seen = {widget.panel.value}
    for control in reversed(CONTROLS[name]):
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(widgets, explored, edited, benched):
    one, two, three = (make() for make in widgets.values())
    assert one.panel.value == explored("place", "Taipei") and two.panel.value == edited("place", "Taipei", "Paris", 3, 1.0)
    assert three.panel.value == benched(FACTS[0].text, "subject", 0, 2)
    one.subject.value = "Atlantis"
    two.subject.value, two.other.value, two.rank.value, two.strength.value = "Atlantis", "San Francisco", 16, 2.5
    three.fact.value, three.source.value, three.first.value, three.width.value = FACTS[1].text, "random", 1, 1
    assert one.panel.value == explored("place", "Atlantis")
    assert two.panel.value == edited("place", "Atlantis", "San Francisco", 16, 2.5)
    assert three.panel.value == benched(FACTS[1].text, "random", 1, 1)


def test_in_the_explorer_a_subject_stays_when_the_relation_changes(widgets, explored):
    widget = widgets["explorer"]()
    for subject in ("Taipei", "nonsense"):
        widget.subject.value = subject
        widget.relation.value = "<first>"
        assert widget.subject.value == subject and widget.panel.value == explored("<first>", subject)
        widget.relation.value = "place"


def test_in_the_editor_a_new_relation_brings_its_rank_and_subjects_but_not_for_those_that_were_written(widgets, edited):
    widget = widgets["editor"]()
    widget.relation.value = "<first>"
    assert (widget.subject.value, widget.other.value, widget.rank.value) == ("Taipei 101", "Eiffel", 8)
    assert widget.panel.value == edited("<first>", "Taipei 101", "Eiffel", 8, 1.0)
    widget.subject.value = "nonsense"
    widget.relation.value = "place"
    assert (widget.subject.value, widget.other.value, widget.rank.value) == ("nonsense", "Paris", 3)
    assert widget.panel.value == edited("place", "nonsense", "Paris", 3, 1.0)


def test_in_the_editor_a_subject_that_the_new_relation_has_too_stays(tiny):
    shared = replace(PLACE, name="shared", subjects=("Eiffel", "Golden", "Paris", "Taipei"))
    widget = FactEditor(tiny, EDITORS | {"shared": (shared, MAPS["place"][1], 3)})
    widget.relation.value = "shared"
    assert (widget.subject.value, widget.other.value) == ("Taipei", "Paris")


def test_a_new_relation_is_answered_once(widgets, monkeypatch: pytest.MonkeyPatch):
    widget, asked = widgets["editor"](), []
    monkeypatch.setattr(lab, "edit_html", lambda *arguments, **values: asked.append(values) or "<p>once</p>")
    widget.relation.value = "<first>"
    assert asked == [{"relation": "<first>", "subject": "Taipei 101", "other": "Eiffel", "rank": 8, "strength": 1.0}]


def test_the_editor_begins_with_two_subjects_that_have_different_answers_if_there_are_any(tiny):
    alike = replace(PLACE, objects=("Paris",) * 4)
    widget = FactEditor(tiny, {"alike": (alike, MAPS["place"][1], 5)})
    assert (widget.subject.value, widget.other.value) == ("Taipei", "San Francisco") and 5 in widget.rank.options


def test_what_the_untouched_model_does_is_computed_once(tiny, widgets):
    editor, bench, rows = widgets["editor"](), widgets["bench"](), []
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda values, hook: rows.append(len(values)))]):
        editor.strength.value = 2.0
        assert rows == [3]  # the prompt as it is, with the edit, and with the random vector
        bench.first.value = 1
        assert rows == [3, 1]


def test_sliders_end_where_the_model_and_the_scale_end(tiny, widgets):
    explorer, editor, bench = (make() for make in widgets.values())
    bench.first.value, bench.width.value, editor.strength.value = 99, 99, 1e9
    assert (bench.first.value, bench.width.value, editor.strength.value) == (1, 2, 3)
    assert "In layer 1 the last token" in readable(bench.panel.value) and "3 × the edit" in readable(editor.panel.value)
    editor.strength.value, bench.width.value = -1e9, -9
    assert (bench.width.value, editor.strength.value) == (1, -1) and editor.rank.options == RANKS
    assert explorer.relation.options == editor.relation.options == tuple(MAPS) and bench.fact.options == tuple(BY_TEXT)
    assert dict(bench.source.options) == {called: name for name, called in CUT.items()}


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_pictures_have_words(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS[name]) and all(control.description.strip() for control in controls)
    assert not any(getattr(control, "continuous_update", False) for control in controls)
    assert widget.children[-1] is widget.panel
    html = widget.panel.value
    assert "<img" not in html and "<svg" not in html
    assert all("%" in row for row in re.findall(r"<tr><td style='font-family:monospace'>.*?</tr>", html))  # bars carry their number


@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_without_a_kernel_shows_a_sentence(widgets, name: str):
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widgets[name]()))
