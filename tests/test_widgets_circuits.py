"""The widgets of lesson 3b: a patch that runs live is the one that the map has measured, and patterns are those of a run of one's own."""

import base64
import re
from dataclasses import replace
from html import escape

import pytest
import torch
from widget_tools import (
    GIFTS,
    TEXT,
    as_before,
    at_position,
    balanced,
    case,
    changed,
    columns,
    gifts,
    logits_after,
    maps,
    numbers,
    same,
    scores,
    small_world,
    squares,
    state_of,
    tiny,
    writer,
)

from helpers.cluster.circuits import judge, random_circuit
from helpers.cluster.patching import PromptPairs, metric_at_ends, patch_heads, patch_positions
from helpers.cluster.widgets_circuits import (
    CHANGE,
    MOST_DRAWN,
    MOST_TOKENS,
    SHARE,
    CircuitPruner,
    HeadViewer,
    PatchingMap,
    cell,
    head_html,
    patching_html,
    pruner_html,
)
from helpers.interventions import attn_out, head_k, pattern, record
from helpers.metrics import log_odds
from helpers.prediction import pieces, tokenize, top_tokens, truncate, visible
from helpers.widgets import bars_html, html_to_text

__all__ = ["as_before", "small_world"]  # fixtures

CORRUPTED = " San and Taipei, San is"

patched = writer(PatchingMap)
pruned = writer(CircuitPruner)
viewed = writer(HeadViewer)


@pytest.fixture
def pairs() -> PromptPairs:
    return gifts().pairs(tiny())


@pytest.mark.parametrize(("shown", "name"), [(SHARE, "effect"), (CHANGE, "change")])
def test_the_map_has_every_value_in_a_square_that_names_its_place(shown: str, name: str):
    html, values = patched("MLP", shown, 1, "S2"), getattr(maps()["MLP"], name)
    found = squares(html)
    assert len(found) == values.numel() == 6
    for at, (style, title, written) in enumerate(found):
        layer, column = divmod(at, 3)
        value = values[layer, column].item()
        place, titled = title.split(": ")
        assert place == f"layer {layer}, {maps()['MLP'].columns[column]}"
        assert float(titled) == float(written) == pytest.approx(value, abs=0.00501)
        colour, depth = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style)[0]
        assert float(depth) == pytest.approx(0.6 * abs(value) / values.abs().max().item(), abs=0.006)
        assert float(depth) == 0 or colour == ("213,94,0" if value > 0 else "0,114,178")
        assert style.endswith("border:2px solid") == ((layer, column) == (1, 1))
    assert f"MLP, layer 1, S2: <b>{values[1, 1]:z.2f}</b> ({shown})" in html


@pytest.mark.parametrize(
    ("component", "layer", "column"),
    [
        ("stream", 0, "S2"),
        ("stream", 1, "END"),
        ("<attention>", 0, "S2"),
        ("MLP", 0, "S2"),
        ("heads", 0, "head 2"),
        ("queries", 1, "head 1"),
        ("looks", 1, "head 3"),
    ],
)
def test_the_chosen_patch_is_run_on_the_first_pair(pairs, component: str, layer: int, column: str):
    html, found = patched(component, SHARE, layer, column), maps()[component]
    after = found.after[layer, found.columns.index(column), 0].item()
    assert numbers(html, "with the patch: #") == pytest.approx([after], abs=0.00501)
    assert after != pytest.approx(found.corrupted[0].item(), abs=1e-4)
    assert numbers(html, f"clean:{GIFTS[0]} … #") == pytest.approx([metric_at_ends(tiny(), pairs)[0].item()], abs=0.00501)
    assert numbers(html, f"corrupted:{CORRUPTED} … #") == pytest.approx([found.corrupted[0].item()], abs=0.00501)
    assert "San is ahead of Taipei" in html and bars_html(top_tokens(tiny(), CORRUPTED, 3)) in html


def test_the_tokens_before_and_after_a_patch_are_those_of_hooks_of_ones_own():
    at = int(gifts().positions["END"][0])
    clean = state_of(tiny(), attn_out(1), at, GIFTS[0])
    after = changed(tiny(), {attn_out(1): at_position(at, lambda values: clean[None])}, lambda: logits_after(tiny(), CORRUPTED))
    before, shown = columns(patched("<attention>", SHARE, 1, "END"))
    assert same(before, tiny(), logits_after(tiny(), CORRUPTED)) and same(shown, tiny(), after) and before != shown


def test_squares_of_nothing_and_of_no_number_are_drawn():
    assert ">0.00<" in cell(-0.001, 2.0, "x") and ",0.00)" in cell(float("nan"), 2.0, "x")


def test_a_map_of_pairs_that_do_not_differ_in_the_metric_is_still_drawn():
    flat = replace(maps()["MLP"], clean=maps()["MLP"].corrupted)  # every share is something over nothing
    html = patching_html(tiny(), gifts(), {"flat": flat}, "flat", SHARE, 0, "IO")
    assert "flat, layer 0, IO" in html and balanced(html)


def test_maps_of_other_positions_and_no_maps_are_refused(pairs):
    other = {"all": patch_positions(tiny(), pairs)}  # of every position, which have other names
    column = other["all"].columns[2]
    says = f"There is no position {column!r}; choose one of: IO, S2, END."
    assert html_to_text(patching_html(tiny(), gifts(), other, "all", SHARE, 0, column)) == says
    with pytest.raises(ValueError, match="There is no component to choose from: give at least one"):
        PatchingMap(tiny(), gifts(), {})


def test_the_columns_offered_are_those_of_the_component():
    widget = case(PatchingMap).make()
    assert widget.column.options == ("IO", "S2", "END") and widget.column.value == "END"
    widget.component.value = "MLP"
    assert widget.column.value == "END"  # which the MLP has as well
    widget.component.value = "heads"
    assert widget.column.options == ("head 0", "head 1", "head 2", "head 3") and widget.column.value == "head 3"


def test_heads_that_share_their_keys_have_maps_too(load):
    model = load("llama-grouped")
    found = patch_heads(model, gifts().pairs(model), head_k)
    html = patching_html(model, gifts(), {"keys": found}, "keys", CHANGE, 1, "head 1")
    assert found.columns == ("head 0", "head 1")
    assert numbers(html, "with the patch: #") == pytest.approx([found.after[1, 1, 0].item()], abs=0.00501)
    assert html_to_text(head_html(model, TEXT, 1, 3)).startswith("From the last token")


@pytest.mark.parametrize(("size", "ablation"), [(1, "resample"), (10, "mean"), (60, "zero")])
def test_the_pruner_says_what_the_circuit_and_a_random_one_keep_and_draws_it(pairs, size: int, ablation: str):
    html, graph = pruned(size, ablation), scores().graph
    found = judge(tiny(), pairs, [scores().top(size), random_circuit(graph, size)], ablation)
    (low, high), value, chance = found.intervals[0], *found.faithfulness.tolist()
    words, shown = html_to_text(html), min(size, MOST_DRAWN)
    assert words.startswith(f"{size} edges of {len(graph)} ({size / len(graph):.1%}); {found.alive[0]} of them lie on a whole path.")
    assert f"Faithfulness ({ablation}): {value:z.2f} [{low:z.2f}, {high:z.2f}]; as many random edges: {chance:z.2f}. The " in words
    assert f"word is the model's in {found.same[0].float().mean():.0%} of 2 sentences." in words
    [(alt, data)] = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', html)
    assert alt == f"The {shown} edges with the largest scores, from the embedding at the bottom to the logits at the top."
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert ("Drawn are the 40 with the largest scores." in words) == (size > MOST_DRAWN)


def test_a_circuit_that_cannot_be_is_answered_in_a_sentence(pairs):
    for size in (0, len(scores().graph) + 1):
        assert html_to_text(pruned(size, "zero")) == f"A circuit has 1 to {len(scores().graph)} edges, not {size}."
    one = PromptPairs(pairs.clean.take([0]), pairs.corrupted.take([0]), log_odds(5, 6))
    assert html_to_text(pruner_html(tiny(), scores(), one, 5, "zero")) == "A single prompt has no interval: measure at least two."
    same = replace(pairs, metric=lambda logits: logits[:, -1, 0] * 0)
    assert html_to_text(pruner_html(tiny(), scores(), same, 5, "zero")).startswith("The metric is the same with all edges and with none")


def shares(html: str) -> list[tuple[str, float]]:
    """Which token looks at which, and how much."""
    return [(title.rpartition(": ")[0], float(title.rpartition(": ")[2])) for _, title, _ in squares(html)]


def looks_of(text: str, layer: int, head: int) -> tuple[torch.Tensor, list[str]]:
    """The pattern of a head in a run of its own, and the tokens as they are shown."""
    tokens = truncate(tiny(), tokenize(tiny(), text))
    return record(tiny(), tokens[None], pattern(layer))[pattern(layer)][0, head], [visible(piece) for piece in pieces(tiny(), tokens)]


def test_the_viewer_shows_the_pattern_token_by_token_and_where_the_last_one_looks_most():
    html, (looks, named) = viewed(TEXT, 1, 2), looks_of(TEXT, 1, 2)
    back = [(query, key) for query in range(len(named)) for key in range(query + 1)]
    assert [where for where, _ in shares(html)] == [f"{named[query]} → {named[key]}" for query, key in back]
    expected = [looks[place].item() for place in back]
    assert [share for _, share in shares(html)] == pytest.approx(expected, abs=0.00501)
    depths = [float(depth) for depth in re.findall(r"rgba\(213,94,0,([\d.]+)\)", html)]
    assert depths == pytest.approx([0.6 * share for share in expected], abs=0.00501)
    assert [int(at) for at in re.findall("title='token (\\d+)'", html)] == list(range(len(named)))
    best = sorted(range(len(named)), key=lambda at: -looks[-1, at].item())[:3]
    said = ", ".join(f"{named[at]} (token {at}, {looks[-1, at]:.0%})" for at in best)
    assert html_to_text(html).splitlines()[0] == f"From the last token, {named[-1]}, head 1.2 looks at {said}."


@pytest.mark.parametrize("times", [4, 36])
def test_of_long_texts_the_end_is_shown_and_it_is_said(times: int):
    text = "The Gate is in San. " * times
    html, n, (looks, named) = viewed(text, 0, 0), len(tokenize(tiny(), text)), looks_of(text, 0, 0)
    unread = f"The model reads 64 tokens at most, so the first {n - 64} of the text are cut off. "
    assert len(named) > MOST_TOKENS and (unread in html_to_text(html)) == (n > 64)
    assert f"Of {min(n, 64)} tokens the last 24 are shown." in html_to_text(html)
    assert html.count("<tr>") == 25 and len(shares(html)) == 24 * 25 / 2
    assert [where for where, _ in shares(html)[-24:]] == [f"{named[-1]} → {name}" for name in named[-24:]]
    assert [share for _, share in shares(html)[-24:]] == pytest.approx(looks[-1, -24:].tolist(), abs=0.00501)


def test_a_head_or_text_that_is_not_there_is_answered_in_a_sentence():
    for layer, head in ((2, 0), (-1, 0), (0, 4), (0, -1)):
        assert html_to_text(viewed(TEXT, layer, head)) == f"There is no head {layer}.{head}: layers are 0 to 1, and heads 0 to 3."
    assert viewed(" \n\t ", 0, 0) == "<p>There is nothing to look at: write some words.</p>"
    assert html_to_text(viewed("x", 0, 0)).startswith("From the last token, x, head 0.0 looks at ")


def test_what_is_typed_is_no_markup():
    html, typed = viewed("<>&\"'", 1, 1), [escape(letter) for letter in "<>&\"'"]
    for heading in ("title='token \\d+'>", "padding-right:4px'>"):  # of the columns and of the rows
        assert re.findall(rf"{heading}(.*?)</th>", html)[-5:] == typed
