"""The widgets of lesson 4a on memories: browse what feed-forward neurons answer to and say, and write another answer into a fact."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch

from helpers.activations import Context, Neuron, TopContexts, name, output_logits
from helpers.html import BAR, DEEPEST, GREEN, SIDES, TABLE, WARM
from helpers.models import TransformerBridge
from helpers.prediction import pieces, visible
from helpers.speak.fact_edits import CHANGED, GROUPS, PLUS, Edit, EditPrompts, apply_edit, try_edit, value_edit
from helpers.speak.knowledge_neurons import N_NEURONS, KnowledgeNeurons
from helpers.speak.memories import Memory, memory
from helpers.speak.widgets_lens import keeping, word
from helpers.speak.word_categories import Categories
from helpers.widgets import Demo, as_text, choice_slider, clean, dropdown, number_field, slider, text_field

TOKENS, TRIGGERS = 10, 5  # tokens that a value promotes, and texts, that are listed
BAR_WIDTH = 130  # pixels of the longest bar
LONGEST = 40  # letters of a new answer
MOST_NEURONS, STRONGEST = 32, 8.0
NAMED, BROKEN = 8, 8  # neurons in a sentence, and prompts that are listed as broken
CELL = "text-align:left;vertical-align:top;padding:1px 14px 1px 0"
NUMBER = "text-align:right;vertical-align:top;padding:1px 10px 1px 0;font-family:monospace"


@as_text
def memory_html(model: TransformerBridge, top: TopContexts, categories: Categories, layer: int, neuron: int) -> str:
    """One neuron as a memory, as HTML: its triggers, their peaks marked, beside the tokens that its value promotes, and their category.

    Whatever cannot be done is said in a sentence.
    """
    found = memory(model, layer, neuron, top, categories, TRIGGERS, TOKENS)
    promoted = {piece for piece, _ in found.promoted.up}
    triggers = "".join(_trigger(context.around(), promoted) for context in found.triggers)
    key = f"<table style='{TABLE}'>{triggers}</table>" if triggers else "<p>It is never active in these texts.</p>"
    hint = "Bold: the peak, its height on the left."
    hint += " Underlined: the next token, which the value promotes." if "underline" in triggers else ""
    left = f"<p><b>Key: the texts in which it rises highest</b></p>{key}<p><small>{hint if triggers else ''}</small></p>"
    right = f"<p><b>Value: what each unit of activation adds to the logits</b></p>{_value(model, found, categories)}"
    sides = f"<div style='max-width:34em'>{left}</div><div style='max-width:30em'>{right}</div>"
    at = top.stats.row(layer), neuron
    rises = f"active on {top.stats.active[at]:.1%} of the tokens, highest {top.stats.peak[at]:.1f}"
    return f"<p><b>{name((layer, neuron))}</b>: {rises}.</p><div style='{SIDES}'>{sides}</div>"


def _trigger(context: Context, promoted: set[str]) -> str:
    """A text on one row: the deeper the colour, the higher the activation; its peak bold, the next token underlined if promoted."""
    values, peak = context.values, context.peak
    spans = []
    for at, (piece, value) in enumerate(zip(context.pieces, values, strict=True)):
        depth = DEEPEST * max(value, 0) / values[peak]
        style = f"background:rgba({WARM},{depth:.2f});border-radius:3px" if depth >= 0.005 else ""
        if at == peak:
            style += ";font-weight:bold"
        if at == peak + 1 and piece in promoted:
            style += f";background:rgba({GREEN},0.35);border-radius:3px;text-decoration:underline"
        shown = escape(piece if at else piece.lstrip(" ")).replace("\r", "⏎").replace("\n", "⏎").replace("\t", "⇥")
        spans.append(f'<span title="{escape(visible(piece))} {value:.2f}" style="{style.lstrip(";")}">{shown}</span>')
    text = f"<span style='white-space:pre-wrap;line-height:1.7'>{''.join(spans)}</span>"
    return f"<tr><td style='{NUMBER};line-height:1.7'>{values[peak]:.1f}</td><td style='{CELL}'>{text}</td></tr>"


def _value(model: TransformerBridge, found: Memory, categories: Categories) -> str:
    """The promoted tokens as bars, those of the category with a dot, and the suppressed ones in a line."""
    dots, up = _of_category(model, found, categories), found.promoted.up
    longest = max(up[0][1], 1e-9)
    rows = [
        f"<tr><td style='{NUMBER};text-align:left'>{'● ' if dot else ''}{escape(word(piece, 20))}</td>"
        f"<td><span style='{BAR};width:{BAR_WIDTH * max(value, 0) / longest:.0f}px'></span>{value:+.2f}</td></tr>"
        for (piece, value), dot in zip(up, dots, strict=True)
    ]
    judged = f"Readable: {found.category}" if found.category else "In no category."
    count = f" (●, {sum(dots)} of its {len(up)} best tokens)." if found.category else ""
    down = " ".join(f"<code>{escape(word(piece, 20))}</code>" for piece, _ in found.promoted.down[: TOKENS // 2])
    return f"<table style='{TABLE}'>{''.join(rows)}</table><p><b>{escape(judged)}</b>{count}</p><p><small>It suppresses {down}</small></p>"


def _of_category(model: TransformerBridge, found: Memory, categories: Categories) -> list[bool]:
    """Which of the promoted tokens belong to the memory's category; none where it has no category."""
    if found.category is None:
        return [False] * len(found.promoted.up)
    best = output_logits(model, found.layer, found.neuron).topk(len(found.promoted.up)).indices
    return categories.members[categories.names.index(found.category)][best].tolist()


class MemoryBrowser(Demo):
    """Controls for a layer and a neuron, and a ``panel`` with its triggers, the tokens that its value promotes, and their category.

    ``top`` and ``categories`` are those of ``top_contexts`` and ``word_categories``. Where the model is smaller, the last neuron is shown.
    """

    def __init__(self, model: TransformerBridge, top: TopContexts, categories: Categories, layer: int = 11, neuron: int = 504) -> None:
        layers, last = top.stats.layers, model.cfg.d_mlp - 1
        super().__init__(
            "Browse the memories of the feed-forward layers",
            keeping(lambda **values: memory_html(model, top, categories, **values)),
            {
                "layer": choice_slider(layers, layer if layer in layers else layers[-1], "Layer"),
                "neuron": number_field(max(0, min(neuron, last)), 0, last, "Neuron"),
            },
        )


Prepared = tuple[EditPrompts, KnowledgeNeurons]  # what is asked after an edit of one fact, and the neurons that hold it
CALLED = {
    "edited": "its own prompts",
    "paraphrases": "other ways to ask",
    "same subject": "other facts about it",
    "neighborhood": "the same about others",
    "random": "anything else",
}


def prepared(probes: Sequence[EditPrompts], found: Sequence[KnowledgeNeurons]) -> dict[str, Prepared]:
    """The facts by the sentences that tell them, each with its knowledge neurons.

    Raises ValueError where there is no fact, and where the neurons are those of other facts.
    """
    if not probes:
        raise ValueError("There is no fact to edit: give at least one, prepared by edit_prompts.")
    if [one.fact for one in found] != [one.fact for one in probes]:
        raise ValueError("The knowledge neurons must be those of the same facts in the same order: use knowledge_neurons_of.")
    return {f"{one.prompts[0]} {one.fact.answer}": (one, neurons) for one, neurons in zip(probes, found, strict=True)}


@as_text
def memory_edit_html(model: TransformerBridge, facts: Mapping[str, Prepared], fact: str, new: str, n: int, plus: float) -> str:
    """What the model says after a new answer was written into the values of a fact's ``n`` best neurons, and what broke, as HTML.

    Beside it stands the control: the same done to as many other neurons that are as active. Whatever cannot be done is said in a sentence.
    """
    if fact not in facts:
        raise ValueError(f"There is no fact {fact[:60]!r} here: choose one of the {len(facts)} in the list.")
    probes, found = facts[fact]
    if len(letters := clean(new)) > LONGEST:
        raise ValueError(f"The new answer has {len(letters):,} letters: write a word or a name of {LONGEST} letters at most.")
    edit = try_edit(model, probes, found, letters, n, plus)
    neurons = found.top(n)
    asked = probes.to(model, edit.new)
    control = control_edit(model, asked, found, neurons, plus)
    left = f"<div>{_said_html(edit)}</div>"
    right = f"<div style='max-width:36em'>{_shares_html(edit, control)}{_broken_html(edit)}</div>"
    return f"{_head(model, asked, edit, neurons)}<div style='{SIDES}'>{left}{right}</div>"


def control_edit(
    model: TransformerBridge, probes: EditPrompts, found: KnowledgeNeurons, neurons: Sequence[Neuron], plus: float
) -> Edit | None:
    """The same edit of as many other neurons of the same layers, as active; None where a layer has too few."""
    try:
        others = found.control(neurons)
    except ValueError:
        return None
    return apply_edit(model, probes, value_edit(model, others, probes.old_token, probes.new_token, plus))


def _head(model: TransformerBridge, probes: EditPrompts, edit: Edit, neurons: Sequence[Neuron]) -> str:
    """The fact, its old and its new answer, and which neurons were edited."""
    named = ", ".join(map(name, neurons[:NAMED])) + (f" and {len(neurons) - NAMED} more" if len(neurons) > NAMED else "")
    which = "the neuron" if len(neurons) == 1 else f"the {len(neurons)} neurons"
    change = f"{escape(probes.fact.subject)}: {escape(probes.fact.object)} → {escape(edit.new)}."
    first = pieces(model, torch.tensor([probes.new_token]))[0].strip()
    read = "" if first == edit.new else f" An answer is read off its first token, here {escape(first)}."
    return f"<p><b>{change}</b> Written into the values of {which} {named}.{read}</p>"


def _shown(piece: str) -> str:
    """A token as a word."""
    return escape(word(piece.strip() or piece, 20))


def _said_html(edit: Edit) -> str:
    """The fact's own prompts and paraphrases, each with what the model said and what it says now."""
    rows, group = [], ""
    for row, own in enumerate(edit.groups):
        if own not in CHANGED:
            continue
        if own != group:
            rows.append(f"<tr><th colspan='4' style='{CELL};padding-top:8px'>{CALLED[own].capitalize()}</th></tr>")
        colour, sign = (GREEN, "✓") if edit.hits[row] else (WARM, "✗")
        mark = f"<td style='text-align:center;padding:1px 6px;background:rgba({colour},0.35)'>{sign}</td>"
        rows.append(f"<tr>{_line(edit, row)}{mark}</tr>")
        group = own
    heads = "".join(f"<th style='{CELL}'>{head}</th>" for head in ("", "it said", "it says now"))
    return f"<table style='{TABLE}'><tr>{heads}<th></th></tr>{''.join(rows)}</table>"


def _line(edit: Edit, row: int) -> str:
    """A prompt, and the token before and after."""
    before, after = _shown(edit.before[row]), _shown(edit.after[row])
    return f"<td style='{CELL}'>{escape(edit.prompts[row])} …</td><td style='{CELL}'>{before}</td><td style='{CELL}'><b>{after}</b></td>"


def _shares_html(edit: Edit, control: Edit | None) -> str:
    """How many prompts of each group are as they should be, after the edit and after the control, and the perplexity."""
    rows = []
    for group in dict.fromkeys(own for own in GROUPS if own in edit.groups):
        should = "the new answer" if group in CHANGED else "as before"
        rows.append((CALLED[group].capitalize(), should, f"<b>{_count(edit, group)}</b>", _count(control, group)))
    before, after = edit.perplexity
    rows.append(("Perplexity on other texts", f"{before:.2f}, as before", f"<b>{after:.2f}</b>", ""))
    lines = ""
    for what, *texts in rows:
        cells = "".join(f"<td style='{CELL};white-space:nowrap'>{text}</td>" for text in texts)
        lines += f"<tr><th style='{CELL};font-weight:normal'>{what}</th>{cells}</tr>"
    heads = "".join(f"<th style='{CELL}'>{head}</th>" for head in ("", "should be", "is so", "control"))
    note = "Control: the same change made to as many other neurons of the same layers that are as active here."
    return f"<table style='{TABLE}'><tr>{heads}</tr>{lines}</table><p style='contain:inline-size'><small>{note}</small></p>"


def _count(edit: Edit | None, group: str) -> str:
    if edit is None:
        return "none"
    hits = [hit for hit, own in zip(edit.hits, edit.groups, strict=True) if own == group]
    return f"{sum(hits)} of {len(hits)}"


def _broken_html(edit: Edit) -> str:
    """The prompts that should have stayed and did not."""
    rows = [row for row, group in enumerate(edit.groups) if group not in CHANGED and not edit.hits[row]]
    if not rows:
        return "<p><b>Nothing of what was asked broke.</b></p>"
    lines = "".join(f"<tr>{_line(edit, row)}</tr>" for row in rows[:BROKEN])
    more = f"<p><small>and {len(rows) - BROKEN} more</small></p>" if len(rows) > BROKEN else ""
    return f"<p><b>What broke</b></p><table style='{TABLE}'>{lines}</table>{more}"


class MemoryEditor(Demo):
    """Controls for a fact, its new answer, the number of neurons and the strength of the edit, and a ``panel`` with what changed and broke.

    A new fact brings an answer of its own unless somebody wrote another. Raises ValueError where there is no fact.
    """

    def __init__(self, model: TransformerBridge, probes: Sequence[EditPrompts], found: Sequence[KnowledgeNeurons]) -> None:
        self._facts = facts = prepared(probes, found)
        most = min(MOST_NEURONS, model.cfg.d_mlp)
        super().__init__(
            "Write another answer into a fact's memories",
            keeping(lambda **values: memory_edit_html(model, facts, **values)),
            {"fact": dropdown(list(facts), "Fact"), "new": text_field(next(iter(facts.values()))[0].new, "New answer", width="20em")},
            {
                "n": slider(min(N_NEURONS, most), 1, most, "Number of neurons"),
                "plus": slider(PLUS, 0.25, STRONGEST, "Strength", step=0.25),
            },
        )

    def follow(self, before: Mapping[str, Any]) -> None:
        """A new fact: its own new answer where that of the former one stood."""
        former, chosen = (self._facts[fact][0] for fact in (before.get("fact", self.fact.value), self.fact.value))
        if self.new.value == former.new:
            self.new.value = chosen.new
