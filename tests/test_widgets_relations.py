"""The widgets of lesson 3a: maps, edits and cuts give what hooks of one's own and the section's helpers give."""

import re
from dataclasses import replace
from functools import partial
from html import unescape

import pytest
import torch
from torch import Tensor
from widget_tools import (
    FACTS,
    FITTED,
    MAPS,
    PLACE,
    as_before,
    at_position,
    case,
    changed,
    columns,
    logits_after,
    numbers,
    same,
    small_world,
    state_of,
    tiny,
    writer,
)

from helpers.cluster import widgets_relations as lab
from helpers.cluster.fact_prompts import FactPrompt, fact_prompt
from helpers.cluster.knockout import source_masks
from helpers.cluster.linear_relations import LinearRelation
from helpers.cluster.relation_reports import edit_subjects
from helpers.cluster.relations import RelationData
from helpers.cluster.widgets_relations import CUT, FactEditor, KnockoutBench, RelationExplorer, edit_html, knockout_html, relation_html
from helpers.html import WARM
from helpers.prediction import pieces, tokenize, top_tokens, visible
from helpers.running import random_like
from helpers.widgets import html_to_text, named_layer

__all__ = ["as_before", "small_world"]  # fixtures

explored = writer(RelationExplorer)
edited = writer(FactEditor)
benched = writer(KnockoutBench)


def best(prompt: str) -> str:
    return visible(top_tokens(tiny(), prompt, 1).tokens[0])


LAST = "blocks.1.hook_resid_post"
CASES = [
    ("place", "Paris", "Taipei", "The Tower of", "blocks.0.hook_resid_post"),
    ("<first>", "zebra x", "Eiffel", "", "blocks.0.hook_resid_pre"),
]


@pytest.mark.parametrize(("relation", "subject", "_", "before", "place"), CASES)
def test_the_map_is_asked_at_the_subjects_last_token_and_the_model_beside_it(relation, subject, _, before, place):
    prompt = MAPS[relation][0].template.replace("{s}", subject)
    at, found = len(tokenize(tiny(), f"{before} {subject}".strip())) - 1, MAPS[relation][1]
    o = 1.5 * found.weight @ state_of(tiny(), place, at, prompt) + found.bias
    html = explored(relation, f" {subject}\t")  # blanks around a subject do not count
    mapped, own = columns(html)
    assert same(mapped, tiny(), tiny().unembed(tiny().ln_final(o[None, None]))[0, 0]) and same(own, tiny(), logits_after(tiny(), prompt))
    assert html_to_text(html).startswith(f"{prompt} …\nthe map (LRE, {named_layer(found.layer)}, beta 1.5)") and "<b>the model</b>" in html
    assert f"They differ: the map says {mapped[0][0]}, the model {own[0][0]}." in html_to_text(html)


def test_a_map_that_says_what_the_model_says_agrees():
    o = state_of(tiny(), LAST, -1, "The Tower of Paris is in")
    constant = {"place": (PLACE, replace(MAPS["place"][1], weight=torch.zeros(32, 32), bias=o))}
    shown = partial(relation_html, tiny(), constant, FITTED, "place")
    mapped, own = columns(shown("Paris"))
    assert mapped == own and f"Both say {best('The Tower of Paris is in')}." in html_to_text(shown("Paris"))
    other = next(word for word in map(str, range(99)) if best(f"The Tower of {word} is in") != mapped[0][0])
    assert "They differ" in shown(other)


def test_it_is_said_whether_the_map_was_fitted_on_the_subject_and_which_there_are():
    assert "The map was fitted on 2 subjects, among them Paris." in explored("place", "Paris")
    assert "The map was fitted on 2 subjects, not on San Francisco." in explored("place", "San Francisco")
    assert "The map was fitted on 1 subjects, not on Atlantis." in explored("<first>", "Atlantis")
    for html in (explored("place", "x"), edited("place", "x", "y", 3, 1.0)):
        assert html_to_text(html).endswith("Subjects of this relation: Taipei, The Golden Gate Bridge, Paris, San Francisco.")
    assert html_to_text(explored("<first>", "x")).endswith("Subjects of this relation: Taipei 101, Eiffel, a, b, c, d and others.")


def delta_by_hand(relation: str, prompts: tuple[str, str], rank: int) -> Tensor:
    """The difference of the last states, brought back by the strongest directions of the map one after the other."""
    left, sizes, right = torch.linalg.svd(MAPS[relation][1].weight.double())
    now, wanted = (state_of(tiny(), LAST, -1, prompt).double() for prompt in prompts)
    return sum(((wanted - now) @ left[:, at]) / sizes[at] * right[at] for at in range(rank)).float()


@pytest.mark.parametrize(("rank", "strength"), [(3, 1.0), (3, -0.5), (20, 0.25)])
@pytest.mark.parametrize(("relation", "subject", "other", "before", "place"), CASES)
def test_the_edit_is_added_at_the_subjects_last_token_beside_a_random_vector(relation, subject, other, before, place, rank, strength):
    prompts = tuple(MAPS[relation][0].template.replace("{s}", word) for word in (subject, other))
    at, delta = len(tokenize(tiny(), f"{before} {subject}".strip())) - 1, delta_by_hand(relation, prompts, rank)

    def adding(vector: Tensor) -> Tensor:
        hook = {place: at_position(at, lambda values: values + vector)}
        return changed(tiny(), hook, lambda: logits_after(tiny(), prompts[0]))

    html = edited(relation, subject, other, rank, strength)
    expected = [adding(vector) for vector in (0 * delta, strength * delta, strength * random_like(delta, 1, 0)[0])]
    assert [same(column, tiny(), logits) for column, logits in zip(columns(html), expected, strict=True)] == [True] * 3
    assert len({str(column) for column in columns(html)}) == 3 and f"<b>{strength:g} × the edit</b>" in html
    lengths = numbers(html, f"The edit is # long and # were added, to a state at {named_layer(MAPS[relation][1].layer)} that is # long.")
    size = state_of(tiny(), place, at, prompts[0]).norm().item()
    assert lengths == pytest.approx([delta.norm().item(), abs(strength) * delta.norm().item(), size], abs=0.06)
    wished = int(logits_after(tiny(), prompts[1]).argmax())
    shares = numbers(html, "its probability is #%; it was #%, and is #% with the random vector.")
    assert shares == pytest.approx([100 * expected[i].softmax(-1)[wished].item() for i in (1, 0, 2)], abs=0.06)
    assert ("The edit gives it:" in html) == (int(expected[1].argmax()) == wished)
    assert f"Wished for: {best(prompts[1])}, as after {other}." in html_to_text(html)


def test_an_edit_with_a_map_that_is_right_succeeds_as_in_the_helper():
    """With the last block's own state at the prompt's end the map from it to the output is the identity."""
    names = tuple(map(str, range(200)))
    data, exact = RelationData("end", "It is {s}", names, names), LinearRelation("end", "identity", 1, torch.eye(32), torch.zeros(32))
    other = next(name for name in names if best(f"It is {name}") != best("It is 0"))
    assert edit_subjects(tiny(), data, exact, [("0", other)], 32).done["edited"].all()
    shown = partial(edit_html, tiny(), {"end": (data, exact, 32)}, "end", "0", other, 32)
    plain, pushed, _ = columns(shown(1.0))
    assert "The edit gives it:" in shown(1.0) and pushed[0][0] == best(f"It is {other}") != plain[0][0]
    assert "The edit does not give it:" in shown(0.0)


def test_the_same_subject_changes_nothing():
    html = edited("place", "Paris", " Paris", 3, 2.0)
    plain, pushed, by_chance = columns(html)
    assert plain == pushed == by_chance and "The edit is 0.0 long and 0.0 were added" in html


def test_a_new_relation_brings_its_rank_and_subjects_but_not_for_those_that_were_written(monkeypatch: pytest.MonkeyPatch):
    asked, editor = [], case(FactEditor).make()
    monkeypatch.setattr(lab, "edit_html", lambda *arguments, **values: asked.append(values) or "<p>once</p>")
    editor.relation.value = "<first>"
    assert asked == [{"relation": "<first>", "subject": "Taipei 101", "other": "Eiffel", "rank": 8, "strength": 1.0}]
    editor.subject.value = "nonsense"
    editor.relation.value = "place"
    assert (editor.subject.value, editor.other.value, editor.rank.value) == ("nonsense", "Paris", 3) and len(asked) == 3


def test_the_editor_begins_with_two_different_answers_if_there_are_any_and_keeps_subjects_that_a_new_relation_has_too():
    alike, shared = replace(PLACE, objects=("Paris",) * 4), replace(PLACE, subjects=("Eiffel", "Golden", "San Francisco", "Taipei"))
    widget = FactEditor(tiny(), {"alike": (alike, MAPS["place"][1], 5), "shared": (shared, MAPS["place"][1], 3)})
    assert (widget.subject.value, widget.other.value) == ("Taipei", "San Francisco") and 5 in widget.rank.options
    widget.relation.value = "shared"
    assert (widget.subject.value, widget.other.value) == ("Taipei", "San Francisco")


def keys_of(fact: FactPrompt, source: str) -> list[int]:
    return source_masks(tiny(), [fact])[source][0].nonzero().flatten().tolist()


@pytest.mark.parametrize("source", CUT)
@pytest.mark.parametrize(("first", "width", "layers"), [(0, 1, [0]), (0, 2, [0, 1]), (1, 2, [1])])
def test_the_bench_keeps_the_last_token_from_looking_in_the_window_only(source: str, first, width, layers):
    fact = FACTS[0]
    keys, last = keys_of(fact, source), len(tokenize(tiny(), fact.text)) - 1

    def cut(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, :, last, keys] = -torch.inf
        return scores

    plain = logits_after(tiny(), fact.text)
    expected = changed(tiny(), {f"blocks.{layer}.attn.hook_attn_scores": cut for layer in layers}, lambda: logits_after(tiny(), fact.text))
    html = benched(fact.text, source, first, width)
    before, after = columns(html)
    assert same(before, tiny(), plain) and same(after, tiny(), expected) and before != after
    answer = int(tokenize(tiny(), fact.text + " Paris")[last + 1])
    was, now = (100 * logits.softmax(-1)[answer].item() for logits in (plain, expected))
    assert f"answer, {visible(pieces(tiny(), torch.tensor([answer]))[0])}, was" in html_to_text(html)
    assert numbers(html, "was #% and is #%: a change of #%.") == pytest.approx([was, now, 100 * (now - was) / was], abs=0.06)
    assert (f"In layer {layers[0]} the last" if len(layers) == 1 else "In layers 0 to 1 the last") in html_to_text(html)
    assert f"<b>without looking at {CUT[source]}</b>" in html


@pytest.mark.parametrize("source", CUT)
@pytest.mark.parametrize("fact", FACTS[:2], ids=lambda fact: fact.subject)
def test_what_is_cut_is_coloured_and_named(fact, source: str):
    html, keys, tokens = benched(fact.text, source, 0, 1), keys_of(fact, source), pieces(tiny(), tokenize(tiny(), fact.text))
    spans = re.findall(r'<span style="([^"]*)">(.*?)</span>', html)
    assert [unescape(token) for _, token in spans] == [visible(token) for token in tokens]
    assert [at for at, (style, _) in enumerate(spans) if WARM in style] == keys != []
    named = ", ".join(visible(tokens[at]) for at in keys)
    assert f"the last token, {visible(tokens[-1])}, cannot look at {named}." in html_to_text(html)


def test_sources_that_a_prompt_does_not_have_are_said_and_change_nothing():
    for source in ("relation", "random"):
        html = benched("Paris is", source, 0, 2)
        assert "Nothing is cut: there are no such tokens." in html and columns(html)[0] == columns(html)[1]
        assert "a change of +0.0%." in html_to_text(html) and WARM not in html.split("<table>")[0]


def test_an_answer_whose_probability_is_0_has_no_change(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "next_token_probs", lambda model, text: torch.nn.functional.one_hot(torch.tensor(5), 300).float())
    assert "a change of not defined, since it was 0." in html_to_text(benched(FACTS[0].text, "subject", 0, 1))


@pytest.mark.parametrize(
    ("panel", "asked", "says"),
    [
        (
            edited,
            ("place", "Paris", "Taipei", 33, 1.0),
            "The rank says how many singular values are used; it must be from 1 to 32",
        ),
        (benched, ("Paris is", "subject", 2, 1), "There is no layer 2: this model's layers are 0 to 1."),
        (benched, ("Paris is", "subject", 0, 0), "The window has a number of layers; it must be from 1 to 2, not 0."),
        (benched, ("Paris is", "subject", 0, 3), "The window has a number of layers; it must be from 1 to 2, not 3."),
    ],
)
def test_what_there_is_not_is_answered_in_a_sentence(panel, asked, says):
    assert html_to_text(panel(*asked)).startswith(says)


@pytest.mark.parametrize(("text", "sentence"), [
    (" \n\t ", "There is no subject: write one, such as Taipei."),
    ("q" * 10_000, f"'The Tower of {'q' * 27}' has 10010 tokens and this model reads 64: shorten it."),
])  # fmt: skip
def test_no_subject_or_one_that_is_too_long_is_answered_in_a_sentence(text: str, sentence: str):
    for html in (explored("place", text), edited("place", text, "Paris", 3, 1.0), edited("place", "Paris", text, 3, 1.0)):
        assert html_to_text(html) == sentence


def test_half_a_letter_is_replaced_so_that_the_panel_can_be_sent():
    assert b"The Tower of a? is in" in explored("place", "a\ud83d").encode()


def test_a_fact_that_cannot_be_asked_and_nothing_to_choose_from():
    facts = {"x": fact_prompt("It is Paris", "big", "Paris")}
    assert html_to_text(knockout_html(tiny(), facts, "x", "subject", 0, 1)).startswith("'It is Paris' ends with its subject")
    nothing = [(RelationExplorer, "relation", ({}, {})), (FactEditor, "relation", ({},)), (KnockoutBench, "fact", ([], 0))]
    for make, what, given in nothing:
        with pytest.raises(ValueError, match=rf"^There is no {what} to choose from: give at least one\.$"):
            make(tiny(), *given)
