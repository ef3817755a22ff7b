"""The widgets of lesson 4a on memories: triggers, promoted words and edits are those of the section's helpers and of edits made by hand."""

import re
from dataclasses import replace
from html import unescape

import pytest
from widget_tools import (
    ALIKE,
    JOHN,
    PAUL,
    as_before,
    balanced,
    categories,
    contexts,
    facts,
    probes,
    reader,
    small_world,
    tiny,
    writer,
)

from helpers.activations import Context, output_logits, top_contexts
from helpers.prediction import pieces, visible
from helpers.speak import widgets_memories as lab
from helpers.speak.fact_edits import CHANGED, Edit, apply_edit, try_edit, value_edit
from helpers.speak.knowledge_neurons import KnowledgeNeurons, knowledge_neurons_of
from helpers.speak.widgets_lens import word
from helpers.speak.widgets_memories import BROKEN, MemoryBrowser, MemoryEditor, memory_html
from helpers.widgets import html_to_text

__all__ = ["as_before", "small_world"]  # fixtures


browsed = writer(MemoryBrowser)


def triggers_of(html: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each trigger the number on its left, and style, title and text of each token."""
    rows = re.findall(r"<tr><td style='[^']*line-height:1.7'>([\d.]+)</td><td[^>]*>(.*?)</td></tr>", html, re.DOTALL)
    spans = r'<span title="([^"]*)" style="([^"]*)">(.*?)</span>'
    return [(value, [(style, unescape(title), text) for title, style, text in re.findall(spans, row, re.S)]) for value, row in rows]


def bars_of(html: str) -> list[tuple[str, int, float]]:
    """Token, width and number of each bar."""
    found = re.findall(r"<tr><td[^>]*>([^<]*)</td><td><span style='[^']*width:(\d+)px'></span>([+-][\d.]+)</td></tr>", html)
    return [(unescape(token), int(width), float(value)) for token, width, value in found]


def test_the_five_highest_texts_are_shown_with_their_peaks():
    shown, best = triggers_of(browsed(1, 5)), [one.around() for one in contexts().contexts(tiny(), 1, 5, 5)]
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
    assert "underline" not in lab._trigger(Context(("a", "b"), (0.0, 1.0), "text", 0), {"a", "b"})  # nothing follows


def test_the_ten_promoted_tokens_have_bars_and_their_numbers():
    logits = output_logits(tiny(), 1, 5)
    values, ids = logits.topk(10)
    bars = bars_of(browsed(1, 5))
    assert [token.removeprefix("● ") for token, *_ in bars] == [word(piece, 20) for piece in pieces(tiny(), ids)]
    assert [value for *_, value in bars] == pytest.approx(values.tolist(), abs=0.0051)
    assert [width for _, width, _ in bars] == [round(130 * max(value, 0) / values[0].item()) for value in values.tolist()]
    down = re.findall(r"<code>(.*?)</code>", browsed(1, 5), re.DOTALL)
    assert [unescape(one) for one in down] == [word(piece, 20) for piece in pieces(tiny(), (-logits).topk(5).indices)]


def test_a_category_is_named_and_its_tokens_are_dotted():
    html = browsed(*ALIKE)
    assert [at for at, (token, *_) in enumerate(bars_of(html)) if token.startswith("● ")] == [0, 1, 3, 4, 6, 7, 9]
    assert "Readable: <fruit> (●, 7 of its 10 best tokens)." in html_to_text(html) and "<fruit>" not in html
    assert "In no category." in html_to_text(browsed(0, 0)) and "●" not in browsed(0, 0)
    stats = contexts().stats
    assert html_to_text(html).startswith(f"L1 N7 : active on {stats.active[ALIKE]:.1%} of the tokens, highest {stats.peak[ALIKE]:.1f}.")


def test_what_is_silent_or_not_there_is_said():
    values, first = contexts().values.clone(), top_contexts(tiny(), contexts().texts, k=2, layers=[0])
    values[0, 3] = -1.0
    html = memory_html(tiny(), replace(contexts(), values=values), categories(), 0, 3)
    assert "It is never active in these texts." in html_to_text(html) and len(bars_of(html)) == 10 and "Bold" not in html
    assert html_to_text(browsed(2, 0)) == "There is no layer 2: this model's layers are 0 to 1."
    assert html_to_text(browsed(0, 128)) == "There is no neuron 128 in layer 0: it has 128, numbered 0 to 127."
    assert memory_html(tiny(), first, categories(), 1, 3) == "<p>There is no scanned layer 1; choose one of: 0.</p>"
    widget = MemoryBrowser(tiny(), contexts(), categories())  # a smaller model begins with its last layer and neuron
    assert (widget.layer.value, widget.neuron.value) == (1, 127) and widget.panel.value == browsed(1, 127)
    assert MemoryBrowser(tiny(), first, categories()).layer.options == (0,)


NAMES = ("The home of John is London", "The home of Paul is Liverpool")
SETTING = ("Bath", 3, 6.0)

changed = writer(MemoryEditor)


def lines_of(html: str) -> list[tuple[str, ...]]:
    """Prompt, word before and after, and the mark if there is one."""
    row = r"<tr><td[^>]*>([^<]*) …</td><td[^>]*>([^<]*)</td><td[^>]*><b>([^<]*)</b></td>(?:<td[^>]*>([✓✗])</td>)?</tr>"
    return [tuple(map(unescape, found)) for found in re.findall(row, html)]


def shares_of(html: str) -> dict[str, tuple[str, ...]]:
    row = r"<tr><th [^>]*>([^<]*)</th><td[^>]*>([^<]*)</td><td[^>]*><b>([^<]*)</b></td><td[^>]*>([^<]*)</td></tr>"
    return {name: rest for name, *rest in re.findall(row, html)}


def test_each_prompt_has_what_was_said_and_is_said_now():
    edit = try_edit(reader(), *facts()[NAMES[0]], *SETTING)
    html, rows = changed(NAMES[0], *SETTING), range(len(edit.prompts))
    assert edit.before != edit.after and tuple(facts()) == NAMES
    marks = [("✓" if edit.hits[row] else "✗") if edit.groups[row] in CHANGED else "" for row in rows]
    shown = sorted((row for row in rows if marks[row] or not edit.hits[row]), key=lambda row: not marks[row])
    assert lines_of(html) == [(edit.prompts[row], edit.before[row], edit.after[row], marks[row]) for row in shown]
    broke = any(not marks[row] for row in shown)
    assert ("What broke" in html) == broke and ("Nothing of what was asked broke." in html) == (not broke)


def test_the_shares_are_counted_for_the_edit_and_for_the_control(monkeypatch: pytest.MonkeyPatch):
    """The control by hand, on all of the probes."""
    asked, found = facts()[NAMES[0]]
    edit, asked = try_edit(reader(), asked, found, *SETTING), asked.to(reader(), "Bath")
    others = value_edit(reader(), found.control(found.top(3)), asked.old_token, asked.new_token, 6.0)
    control = apply_edit(reader(), asked, others)
    shares = shares_of(changed(NAMES[0], *SETTING))
    for group in set(edit.groups):
        counts = [f"{round(one.share(group) * edit.groups.count(group))} of {edit.groups.count(group)}" for one in (edit, control)]
        assert shares[lab.CALLED[group].capitalize()] == ["the new answer" if group in CHANGED else "as before", *counts]
    before, after = edit.perplexity
    assert shares["Perplexity on other texts"] == [f"{before:.2f}, as before", f"{after:.2f}", ""] and len(shares) == 6
    monkeypatch.setattr(KnowledgeNeurons, "control", lambda *_: value_edit(reader(), [], 0, 0))  # raises ValueError: too few
    assert {rest[-1] for rest in shares_of(changed(NAMES[0], *SETTING)).values()} == {"none", ""}


@pytest.mark.parametrize(("n", "words"), [(1, "the neuron {}."), (3, "the 3 neurons {}."), (10, "the 10 neurons {} and 2 more.")])
def test_the_neurons_are_named_some_of_many_and_of_a_longer_answer_the_first_token_counts(n: int, words: str):
    named = ", ".join(f"L{layer} N{neuron}" for layer, neuron in facts()[NAMES[0]][1].top(n)[:8])
    plain, longer = (html_to_text(changed(NAMES[0], new, n, 2.0)).splitlines()[0] for new in ("Bath", "Bath Tacoma"))
    written = f"Written into the values of {words.format(named)}"
    assert plain == f"John: London → Bath. {written}"
    assert longer == f"John: London → Bath Tacoma. {written} An answer is read off its first token, here Bath."


def test_many_broken_prompts_are_cut_short():
    n = BROKEN + 3
    edit = Edit("Bath", ("<p>",) * n, ("random",) * n, ("a",) * n, (" b",) * n, (False,) * n, (1.0, 1.0))
    html = lab._broken_html(edit)
    assert len(lines_of(html)) == BROKEN and "and 3 more" in html and lines_of(html)[0] == ("<p>", "a", "b", "")
    mixed = replace(edit, groups=("edited", "random", "random", *edit.groups[3:]), hits=(False, True, *edit.hits[2:]))
    assert "and 1 more" in lab._broken_html(mixed)  # 11, less one of the edited ones and one that is as it was


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (("x" * 5000, 3, 2.0), "The new answer has 5,000 letters: write a word or a name of 40 letters at most."),
        (("<b>&amp;", 3, 2.0), "This model has no token for '<b>&amp;'"),
        (("Bath", 0, 2.0), "An edit needs 1 neuron or more and a strength above 0, not 0 and 2."),
        (("Bath", 3, float("nan")), "An edit needs 1 neuron or more and a strength above 0, not 3 and nan."),
    ],
)
def test_what_cannot_be_written_is_answered_in_a_sentence(setting: tuple, sentence: str):
    assert html_to_text(changed(NAMES[0], *setting)).startswith(sentence) and balanced(changed(NAMES[0], *setting))


def test_a_fact_that_is_not_there_and_no_facts_at_all():
    assert html_to_text(changed("Bath", *SETTING)) == "There is no fact 'Bath' here: choose one of the 2 in the list."
    with pytest.raises(ValueError, match="There is no fact to edit: give at least one"):
        MemoryEditor(reader(), [], [])
    with pytest.raises(ValueError, match="must be those of the same facts in the same order"):
        MemoryEditor(reader(), probes(), knowledge_neurons_of(reader(), [PAUL, JOHN]))


def test_a_new_fact_brings_its_answer_unless_another_was_written(monkeypatch: pytest.MonkeyPatch):
    written, found = [], [neurons for _, neurons in facts().values()]
    widget = MemoryEditor(reader(), [probes()[0].to(reader(), "Bath"), probes()[1].to(reader(), "Tacoma")], found)
    monkeypatch.setattr(lab, "try_edit", lambda *setting: written.append(setting[3]) or try_edit(*setting))
    widget.fact.value = NAMES[1]
    assert widget.new.value == "Tacoma" and written == ["Tacoma"]  # once, when both were set
    widget.new.value = "Yoko"
    widget.fact.value = NAMES[0]
    assert widget.new.value == "Yoko" and written == ["Tacoma", "Yoko", "Yoko"]
    assert MemoryEditor(reader(), probes()[:1], found[:1]).fact.options == NAMES[:1]  # a single one
