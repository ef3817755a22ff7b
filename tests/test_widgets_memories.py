"""The widgets of lesson 4a on memories, driven as a reader drives them: what they show is true, and whatever is set gets an answer."""

import re
from dataclasses import replace
from functools import partial
from html import escape, unescape
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fact_edits import FACTS, JOHN, small_world
from test_fact_edits import planted as town
from test_memories import ALIKE, planted, random_texts
from test_widgets_circuits import balanced
from test_widgets_neurons import ENOUGH, WORDS, answered, controls_of

from helpers.activations import Context, TopContexts, output_logits, top_contexts
from helpers.interventions import record, resid_pre
from helpers.prediction import pieces, visible
from helpers.running import next_tokens
from helpers.speak import widgets_memories as lab
from helpers.speak.fact_edits import CHANGED, Edit, EditPrompts, apply_edit, edit_prompts, try_edit, value_edit
from helpers.speak.knowledge_neurons import KnowledgeNeurons, knowledge_neurons_of
from helpers.speak.widgets_memories import BROKEN, MemoryBrowser, MemoryEditor, memory_edit_html, memory_html, prepared
from helpers.speak.word_categories import Categories
from helpers.speak.world_facts import paraphrases
from helpers.texts import as_texts
from helpers.widgets import readable, word

__all__ = ["planted", "small_world", "town"]  # fixtures

HEADING = "it says now"


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def top(planted) -> TopContexts:
    return top_contexts(planted, random_texts(12), k=6)


@pytest.fixture(scope="module")
def categories(planted) -> Categories:
    """Seven of the ten best tokens of one value, and two others of them."""
    best, members = output_logits(planted, *ALIKE).topk(10).indices, torch.zeros(2, planted.cfg.d_vocab, dtype=torch.bool)
    members[0, best[[0, 1, 3, 4, 6, 7, 9]]], members[1, best[[2, 5]]] = True, True
    return Categories(("<fruit>", "pair"), members)


@pytest.fixture
def browsed(planted, top, categories):
    return partial(memory_html, planted, top, categories)


def triggers_of(html: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each trigger the number on its left, and style, title and text of each token."""
    rows = re.findall(r"<tr><td style='[^']*line-height:1.7'>([\d.]+)</td><td[^>]*>(.*?)</td></tr>", html, re.DOTALL)
    spans = r'<span title="([^"]*)" style="([^"]*)">(.*?)</span>'
    return [
        (number, [(style, unescape(title), unescape(text)) for title, style, text in re.findall(spans, row, re.S)]) for number, row in rows
    ]


def bars_of(html: str) -> list[tuple[str, int, float]]:
    """Token, width and number of each bar."""
    found = re.findall(r"<tr><td[^>]*>([^<]*)</td><td><span style='[^']*width:(\d+)px'></span>([+-][\d.]+)</td></tr>", html)
    return [(unescape(token), int(width), float(value)) for token, width, value in found]


def test_the_five_highest_texts_are_shown_with_their_peaks(planted, top, browsed):
    shown, best = triggers_of(browsed(1, 5)), [one.around() for one in top.contexts(planted, 1, 5, 5)]
    assert len(shown) == len(best) == 5
    for (number, spans), context in zip(shown, best, strict=True):
        assert float(number) == pytest.approx(max(context.values), abs=0.051)
        titles = [f"{visible(piece)} {value:.2f}" for piece, value in zip(context.pieces, context.values, strict=True)]
        assert [title for _, title, _ in spans] == titles
        assert [at for at, (style, *_) in enumerate(spans) if "bold" in style] == [context.peak]
        depths = [float(depth) for style, *_ in spans for depth in re.findall(r"213,94,0,([\d.]+)", style)]
        assert max(depths) == 0.6 and len(depths) >= sum(value > 0.02 * max(context.values) for value in context.values)


def test_the_next_token_is_underlined_where_the_value_promotes_it():
    context = Context((" a", " b", " c", " b"), (0.0, 2.0, 1.0, 0.5), "text", 0)
    for promoted, where in (({" c"}, [2]), ({" b"}, []), (set(), [])):
        [(number, spans)] = triggers_of(lab._trigger(context, promoted))
        assert [at for at, (style, *_) in enumerate(spans) if "underline" in style] == where and number == "2.0"
    assert [text for *_, text in spans] == ["a", " b", " c", " b"]  # no blank in front
    last = lab._trigger(Context(("a", "b"), (0.0, 1.0), "text", 0), {"a", "b"})
    assert "underline" not in last  # nothing follows


def test_the_ten_promoted_tokens_have_bars_and_their_numbers(planted, browsed):
    values, ids = output_logits(planted, 1, 5).topk(10)
    bars = bars_of(browsed(1, 5))
    assert [token.removeprefix("● ") for token, *_ in bars] == [word(piece, 20) for piece in pieces(planted, ids)]
    assert [value for *_, value in bars] == pytest.approx(values.tolist(), abs=0.0051)
    assert [width for _, width, _ in bars] == [round(130 * max(value, 0) / values[0].item()) for value in values.tolist()]
    down = re.findall(r"<code>(.*?)</code>", browsed(1, 5), re.DOTALL)
    worst = (-output_logits(planted, 1, 5)).topk(5).indices
    assert [unescape(one) for one in down] == [word(piece, 20) for piece in pieces(planted, worst)]


def test_a_category_is_named_and_its_tokens_are_dotted(browsed):
    html = browsed(*ALIKE)
    assert [at for at, (token, *_) in enumerate(bars_of(html)) if token.startswith("● ")] == [0, 1, 3, 4, 6, 7, 9]
    assert "Readable: <fruit> (●, 7 of its 10 best tokens)." in readable(html) and "<fruit>" not in html
    assert "In no category." in readable(browsed(0, 0)) and "●" not in browsed(0, 0)


def test_facts_about_the_neuron_stand_on_top(top, browsed):
    assert readable(browsed(0, 3)).startswith(
        f"L0 N3 : active on {top.stats.active[0, 3]:.1%} of the tokens, highest {top.stats.peak[0, 3]:.1f}."
    )


def test_a_neuron_that_is_never_active_still_has_a_value(planted, top, categories):
    values = top.values.clone()
    values[0, 3] = -1.0
    html = memory_html(planted, replace(top, values=values), categories, 0, 3)
    assert "It is never active in these texts." in readable(html) and len(bars_of(html)) == 10 and "Bold" not in html and balanced(html)


def test_what_is_not_there_is_answered_in_a_sentence(planted, top, categories, browsed):
    assert readable(browsed(2, 0)) == "There is no layer 2: this model's layers are 0 to 1."
    assert readable(browsed(0, 128)) == "There is no neuron 128 in layer 0: it has 128, numbered 0 to 127."
    first = top_contexts(planted, top.texts, k=2, layers=[0])
    assert memory_html(planted, first, categories, 1, 3) == "<p>Layer 1 was not scanned; these were: 0.</p>"


def test_the_browser_shows_what_the_function_writes(planted, top, categories, browsed):
    widget = MemoryBrowser(planted, top, categories, *ALIKE)
    assert widget.panel.value == browsed(*ALIKE) and balanced(widget.panel.value)
    widget.layer.value = 0
    assert widget.panel.value == browsed(0, ALIKE[1])
    widget.neuron.value = 99
    assert widget.panel.value == browsed(0, 99)
    widget.neuron.value = 10**6
    assert widget.neuron.value == 127 and widget.panel.value == browsed(0, 127)
    assert [control.description for control in controls_of(widget)] == ["Layer", "Neuron"]
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widget))


def test_a_smaller_model_begins_with_its_last_layer_and_neuron(planted, top, categories, browsed):
    widget = MemoryBrowser(planted, top, categories)
    assert (widget.layer.value, widget.neuron.value) == (1, 127) and widget.panel.value == browsed(1, 127)
    one = top_contexts(planted, top.texts, k=2, layers=[0])
    assert MemoryBrowser(planted, one, categories).layer.options == (0,)


@settings(max_examples=60, **ENOUGH)
@given(st.integers(-2, 3), st.integers(-2, 130))
def test_any_neuron_gives_an_answer(browsed, layer: int, neuron: int):
    html = browsed(layer, neuron)
    assert answered(html, "adds to the logits") and balanced(html)


# -------------------------------------------------------------------------------------------------------------- the editor


@pytest.fixture
def probes(town) -> list[EditPrompts]:
    """Two facts; after an edit of the first one prompts of all groups are asked, whatever the model says to them."""
    first, second = edit_prompts(town, [JOHN, FACTS[1]], start=2)
    used, held = paraphrases(JOHN)
    plan = [("edited", used), ("paraphrases", held)]
    plan += [
        (group, paraphrases(fact)[0]) for group, fact in (("same subject", FACTS[4]), ("neighborhood", FACTS[2]), ("random", FACTS[7]))
    ]
    lines = [(group, prompt) for group, prompts in plan for prompt in prompts]
    groups, prompts = zip(*lines, strict=True)
    texts = as_texts(town, prompts)
    streams = record(town, texts.tokens, resid_pre(2))[resid_pre(2)]
    full = dict(prompts=prompts, groups=groups, texts=texts, before=next_tokens(town, texts), streams=streams)
    return [replace(first, **full), second]


@pytest.fixture
def facts(town, probes):
    return prepared(town, probes)


@pytest.fixture
def changed(town, facts):
    return partial(memory_edit_html, town, facts)


NAMES = ("The home of John is London", "The home of Paul is Liverpool")
SETTING = ("Bath", 3, 6.0)


def lines_of(html: str) -> list[tuple[str, ...]]:
    """Prompt, word before and after, and the mark if there is one."""
    row = r"<tr><td[^>]*>([^<]*) …</td><td[^>]*>([^<]*)</td><td[^>]*><b>([^<]*)</b></td>(?:<td[^>]*>([✓✗])</td>)?</tr>"
    return [tuple(map(unescape, found)) for found in re.findall(row, html)]


def shares_of(html: str) -> dict[str, tuple[str, ...]]:
    row = r"<tr><th [^>]*>([^<]*)</th><td[^>]*>([^<]*)</td><td[^>]*><b>([^<]*)</b></td><td[^>]*>([^<]*)</td></tr>"
    return {name: rest for name, *rest in re.findall(row, html)}


def test_facts_are_named_by_the_sentence_that_tells_them(facts, probes):
    assert tuple(facts) == NAMES
    assert [one for one, _ in facts.values()] == probes and [found.fact for _, found in facts.values()] == [JOHN, FACTS[1]]


def test_each_prompt_has_what_was_said_and_is_said_now(town, facts, changed):
    probes, found = facts[NAMES[0]]
    html, edit = changed(NAMES[0], *SETTING), try_edit(town, probes, found, *SETTING)
    assert edit.before != edit.after
    rows = range(len(edit.prompts))
    mine = [row for row in rows if edit.groups[row] in CHANGED]
    broke = [row for row in rows if edit.groups[row] not in CHANGED and not edit.hits[row]]
    expected = [(edit.prompts[row], edit.before[row], edit.after[row], "✓" if edit.hits[row] else "✗") for row in mine]
    expected += [(edit.prompts[row], edit.before[row], edit.after[row], "") for row in broke]
    assert lines_of(html) == expected
    assert ("What broke" in html) == bool(broke) and ("Nothing of what was asked broke." in html) == (not broke)


def test_the_shares_are_counted_for_the_edit_and_for_the_control(town, facts, changed):
    """The control by hand, on all of the probes."""
    probes, found = facts[NAMES[0]]
    edit, asked = try_edit(town, probes, found, *SETTING), probes.to(town, "Bath")
    others = found.control(found.top(3))
    control = apply_edit(town, asked, value_edit(town, others, asked.old_token, asked.new_token, 6.0))
    assert edit.hits != control.hits and edit.fact == control.fact
    shares = shares_of(changed(NAMES[0], *SETTING))
    for group in set(edit.groups):
        counts = [
            f"{sum(hit for hit, own in zip(one.hits, one.groups, strict=True) if own == group)} of {edit.groups.count(group)}"
            for one in (edit, control)
        ]
        assert shares[lab.CALLED[group].capitalize()] == ["the new answer" if group in CHANGED else "as before", *counts]
    before, after = edit.perplexity
    assert shares["Perplexity on other texts"] == [f"{before:.2f}, as before", f"{after:.2f}", ""] and len(shares) == 6


def test_a_layer_without_other_active_neurons_has_no_control(changed, monkeypatch: pytest.MonkeyPatch):
    def nobody(*_: object) -> list:
        raise ValueError("Too few.")

    monkeypatch.setattr(KnowledgeNeurons, "control", nobody)
    assert {rest[-1] for rest in shares_of(changed(NAMES[0], *SETTING)).values()} == {"none", ""}


def test_the_neurons_are_named_some_of_many(facts, changed):
    found = facts[NAMES[0]][1]
    for n, words in ((1, "the neuron {}."), (3, "the 3 neurons {}."), (10, "the 10 neurons {} and 2 more.")):
        named = ", ".join(f"L{layer} N{neuron}" for layer, neuron in found.top(n)[:8])
        expected = f"John: London → Bath. Written into the values of {words.format(named)}"
        assert len(found.top(n)) == n and readable(changed(NAMES[0], "Bath", n, 2.0)).startswith(expected)


def test_of_a_longer_answer_the_first_token_counts(changed):
    assert "An answer is read off its first token, here Bath." in readable(changed(NAMES[0], "Bath Tacoma", 3, 2.0))
    assert "first token" not in changed(NAMES[0], "Bath", 3, 2.0)


def test_many_broken_prompts_are_cut_short():
    n = BROKEN + 3
    edit = Edit(JOHN, "Bath", ("<p>",) * n, ("random",) * n, ("a",) * n, (" b",) * n, (False,) * n, (1.0, 1.0))
    html = lab._broken_html(edit)
    mixed = replace(edit, groups=("edited", "random", "random", *edit.groups[3:]), hits=(False, True, *edit.hits[2:]))
    assert len(lines_of(lab._broken_html(replace(mixed, prompts=tuple(map(str, range(n))))))) == BROKEN
    assert "and 1 more" in lab._broken_html(mixed)  # 11, less one of the edited ones and one that is as it was
    assert len(lines_of(html)) == BROKEN and "and 3 more" in html and "&lt;p&gt;" in html and lines_of(html)[0] == ("<p>", "a", "b", "")
    assert "more" not in lab._broken_html(
        replace(edit, **{name: getattr(edit, name)[:BROKEN] for name in ("prompts", "groups", "before", "after", "hits")})
    )


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (("", 3, 2.0), "The new answer is empty: write a word."),
        ((" \n", 3, 2.0), "The new answer is empty: write a word."),
        (("Cardiff", 3, 2.0), "This model has no token for 'Cardiff'"),
        (("London", 3, 2.0), "'London' begins with the same token as the old answer 'London': choose another one."),
        (("x" * 5000, 3, 2.0), "The new answer has 5,000 letters: write a word or a name of 40 letters at most."),
        (("Bath", 0, 2.0), "An edit needs 1 neuron or more and a strength above 0, not 0 and 2."),
        (("Bath", 3, 0.0), "An edit needs 1 neuron or more and a strength above 0, not 3 and 0."),
        (("Bath", 3, float("nan")), "An edit needs 1 neuron or more and a strength above 0, not 3 and nan."),
    ],
)
def test_what_cannot_be_written_is_answered_in_a_sentence(changed, setting: tuple, sentence: str):
    assert readable(changed(NAMES[0], *setting)).startswith(sentence) and balanced(changed(NAMES[0], *setting))


def test_a_fact_that_is_not_there_and_no_facts_at_all(town, changed, probes):
    assert readable(changed("Bath", *SETTING)) == "There is no fact 'Bath' here: choose one of the 2 in the list."
    with pytest.raises(ValueError, match="There is no fact to edit: give at least one"):
        MemoryEditor(town, [])
    with pytest.raises(ValueError, match="must be those of the same facts in the same order"):
        MemoryEditor(town, probes, knowledge_neurons_of(town, [FACTS[1], JOHN]))


def test_the_editor_shows_what_the_function_writes(town, probes, changed):
    widget = MemoryEditor(town, probes)
    n, plus = widget.n.value, widget.plus.value
    assert widget.panel.value == changed(NAMES[0], probes[0].new, n, plus) and balanced(widget.panel.value)
    widget.new.value = "Bath" if probes[0].new != "Bath" else "Tacoma"
    widget.n.value, widget.plus.value = 2, 8.0
    assert widget.panel.value == changed(NAMES[0], widget.new.value, 2, 8.0)
    assert [control.description for control in controls_of(widget)] == ["Fact", "New answer", "Number of neurons", "Strength"]
    assert not any(getattr(control, "continuous_update", False) for control in controls_of(widget))
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widget))
    assert MemoryEditor(town, probes[0]).fact.options == NAMES[:1]  # a single one


def test_a_new_fact_brings_its_answer_unless_another_was_written(town, probes, monkeypatch: pytest.MonkeyPatch):
    probes = [probes[0].to(town, "Bath"), probes[1].to(town, "Tacoma")]
    widget, written = MemoryEditor(town, probes), []
    monkeypatch.setattr(lab, "try_edit", lambda *setting: written.append(setting[3]) or try_edit(*setting))
    widget.fact.value = NAMES[1]
    assert widget.new.value == "Tacoma" and written == ["Tacoma"]  # once, when both were set
    widget.new.value = "Yoko"
    widget.fact.value = NAMES[0]
    assert widget.new.value == "Yoko" and written == ["Tacoma", "Yoko", "Yoko"]


def test_the_neurons_are_looked_for_once_and_not_where_they_are_given(town, probes, monkeypatch: pytest.MonkeyPatch):
    looked, given = [], knowledge_neurons_of(town, [JOHN, FACTS[1]])
    monkeypatch.setattr(lab, "knowledge_neurons_of", lambda model, facts: looked.append(facts) or given)
    widget = MemoryEditor(town, probes)
    for fact, n in ((NAMES[1], 2), (NAMES[0], 3)):
        widget.fact.value, widget.n.value = fact, n
    assert looked == [[JOHN, FACTS[1]]]
    assert MemoryEditor(town, probes, given).panel.value and len(looked) == 1


def test_where_nothing_can_be_written_the_last_answer_stays(town, probes):
    widget = MemoryEditor(town, probes)
    before = widget.panel.value
    widget.new.value = "Cardiff"
    assert readable(widget.panel.value).startswith("This model has no token for 'Cardiff'")
    assert before in widget.panel.value and "Below is still the last answer." in widget.panel.value


def test_the_weights_are_afterwards_as_they_were(town, changed):
    before = {name: parameter.clone() for name, parameter in town.named_parameters()}
    assert changed(NAMES[0], *SETTING) and changed(NAMES[0], "", 3, 1.0) and changed(NAMES[1], "Bath", 5, 8.0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in town.named_parameters())


@settings(max_examples=80, **ENOUGH)
@given(WORDS | st.sampled_from(["Bath", "Yoko"]), st.integers(-1, 40), st.floats() | st.floats(0, 9))
def test_any_answer_number_and_strength_gives_an_answer(changed, new: str, n: int, plus: float):
    html = changed(NAMES[0], new, n, plus)
    assert answered(html, HEADING) and balanced(html) and html.encode()


def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(town, probes, facts):
    steps = st.one_of(
        st.tuples(st.just("fact"), st.sampled_from(NAMES)),
        st.tuples(st.just("new"), WORDS | st.sampled_from(["Bath", "Yoko"])),
        st.tuples(st.just("n"), st.integers(-3, 99)),
        st.tuples(st.just("plus"), st.floats(-1, 99)),
    )
    found, ran = [one for _, one in facts.values()], 0

    @settings(max_examples=10, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=25, max_size=25))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        widget = MemoryEditor(town, probes, found)
        for control, value in changes:
            box, before = getattr(widget, control), getattr(widget, control).value
            box.value = value
            ran += box.value != before
            assert answered(widget.panel.value, HEADING)

    drive()
    assert ran >= 100


def test_no_word_of_a_reader_is_taken_for_markup(changed):
    html = changed(NAMES[0], "<b>&amp;", 3, 2.0)
    assert "<b>" not in html and escape("<b>&amp;") in html
