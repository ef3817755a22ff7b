"""The widgets of lesson 3b, driven as a reader drives them: what they show is true, and whatever is set gets an answer or a sentence."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import escape
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

from helpers.cluster import widgets_circuits as lab
from helpers.cluster.circuits import EdgeScores, judge, random_circuit
from helpers.cluster.edges import ABLATIONS, EdgeGraph
from helpers.cluster.indirect_objects import IndirectObjects
from helpers.cluster.patching import PatchMap, PromptPairs, metric_at_ends, patch_heads, patch_positions
from helpers.cluster.widgets_circuits import (
    MOST_DRAWN,
    MOST_JUDGED,
    MOST_TOKENS,
    SHOWN_AS,
    CircuitPruner,
    HeadViewer,
    PatchingMap,
    cell,
    first_pairs,
    head_html,
    patching_html,
    pruner_html,
)
from helpers.interventions import attn_out, head_k, head_out, head_q, mlp_out, pattern, record
from helpers.metrics import log_odds
from helpers.prediction import pieces, token_id, tokenize, top_tokens, truncate, visible
from helpers.texts import as_texts
from helpers.widgets import bars_html, readable

SHARE, CHANGE = SHOWN_AS
RECEIVERS, GIVERS = ("San", "Taipei"), ("Taipei", "San")
GIFTS = tuple(f" {io} and {s}, {s} is" for io, s in zip(RECEIVERS, GIVERS, strict=True))
TEXT = "The Golden Gate Bridge is in San"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 of two layers with four heads, which reads 64 tokens."""
    from helpers.models import load_model

    return load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def data(tiny) -> IndirectObjects:
    """Two sentences with names that are one token each."""
    tokens = as_texts(tiny, list(GIFTS))
    io, s = (torch.tensor([token_id(tiny, f" {name}") for name in side]) for side in (RECEIVERS, GIVERS))
    second = tokens.tokens.shape[1] - 1 - (tokens.tokens == s[:, None]).flip(1).int().argmax(1)
    positions = {"IO": (tokens.tokens == io[:, None]).int().argmax(1), "S2": second, "END": tokens.lengths - 1}
    return IndirectObjects(GIFTS, RECEIVERS, GIVERS, (("a", "b", "c"),) * 2, ("ABB", "ABB"), tokens, io, s, positions)


@pytest.fixture(scope="module")
def both(tiny, data) -> PromptPairs:
    return data.runs(tiny)


@pytest.fixture(scope="module")
def maps(tiny, data, both) -> dict[str, PatchMap]:
    """Maps of positions and of heads, among them where heads look, which has other axes."""
    at = dict(positions=list(data.positions.values()), names=list(data.positions))
    found = {"stream before the block": patch_positions(tiny, both, **at), "<attention>": patch_positions(tiny, both, attn_out, **at)}
    found["MLP"] = patch_positions(tiny, both, mlp_out, **at)
    by_head = {"heads": head_out, "queries": head_q, "looks": pattern}
    return found | {name: patch_heads(tiny, both, place) for name, place in by_head.items()}


@pytest.fixture(scope="module")
def scores(tiny) -> EdgeScores:
    """Random scores: what they are is not the widget's concern."""
    graph = EdgeGraph.of(tiny)
    return EdgeScores(graph, torch.randn(len(graph), generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def patched(tiny, data, maps):
    return partial(patching_html, tiny, data, maps)


@pytest.fixture
def pruned(tiny, scores, both):
    return partial(pruner_html, tiny, scores, both)


@pytest.fixture
def viewed(tiny):
    return partial(head_html, tiny)


class Balanced(HTMLParser):
    """Looks whether everything that is opened is closed, in the right order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def balanced(html: str) -> bool:
    parser = Balanced()
    parser.feed(html)
    return parser.open == []


# ------------------------------------------------------------------------------------------------------- the map of patches


def bold(html: str, after: str) -> list[float]:
    """The bold numbers that come next after some words."""
    return [float(number) for number in re.findall(rf"{re.escape(after)}[^<]*<b>(-?[\d.]+)</b>", html)]


@pytest.mark.parametrize(("shown", "name"), [(SHARE, "effect"), (CHANGE, "change")])
def test_the_map_has_every_value_in_a_square_that_names_its_place(maps, patched, shown: str, name: str):
    html, values = patched("MLP", shown, 1, "S2"), getattr(maps["MLP"], name)
    squares = re.findall(r'<td style="([^"]*)" title="layer (\d+), (\w+): ([^"]*)">([^<]*)</td>', html)
    assert len(squares) == values.numel() == 6
    for style, layer, column, titled, written in squares:
        value = values[int(layer), maps["MLP"].columns.index(column)].item()
        assert float(titled) == float(written) == pytest.approx(value, abs=0.00501)
        colour, depth = re.findall(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style)[0]
        assert float(depth) == pytest.approx(0.6 * abs(value) / values.abs().max().item(), abs=0.006)
        assert float(depth) == 0 or colour == ("213,94,0" if value > 0 else "0,114,178")
        assert style.endswith("border:2px solid") == ((layer, column) == ("1", "S2"))
    assert f"MLP, layer 1, S2: <b>{values[1, 1]:z.2f}</b> ({shown})" in html


@pytest.mark.parametrize(
    ("component", "layer", "column"),
    [
        ("stream before the block", 0, "S2"),
        ("stream before the block", 1, "END"),
        ("<attention>", 0, "S2"),
        ("MLP", 0, "S2"),
        ("heads", 0, "head 2"),
        ("queries", 1, "head 1"),
        ("looks", 1, "head 3"),
    ],
)
def test_the_chosen_patch_is_run_on_the_first_pair(tiny, data, both, maps, patched, component: str, layer: int, column: str):
    """The patch that runs live is the one that the map has measured."""
    html, found = patched(component, SHARE, layer, column), maps[component]
    after = found.after[layer, found.columns.index(column), 0].item()
    assert bold(html, "with the patch:") == pytest.approx([after], abs=0.00501)
    assert after != pytest.approx(found.corrupted[0].item(), abs=1e-4)
    assert bold(html, f"clean: {GIFTS[0]}") == pytest.approx([metric_at_ends(tiny, both)[0].item()], abs=0.00501)
    corrupted = " San and Taipei, San is"
    assert bold(html, f"corrupted: {corrupted}") == pytest.approx([found.corrupted[0].item()], abs=0.00501)
    assert "San is ahead of Taipei" in html and bars_html(top_tokens(tiny, corrupted, 3)) in html and balanced(html)


def test_the_tokens_before_and_after_a_patch_are_those_of_hooks_of_ones_own(tiny, data, patched):
    clean, corrupted = data.texts[0], data.swapped()[0]
    stream, at = record(tiny, tokenize(tiny, clean)[None], attn_out(1))[attn_out(1)], int(data.positions["END"][0])

    def put_in(values: Tensor, hook: Any) -> Tensor:
        return torch.cat([values[:, :at], stream[:, at : at + 1], values[:, at + 1 :]], dim=1)

    before = bars_html(top_tokens(tiny, corrupted, 3))
    with tiny.hooks(fwd_hooks=[(attn_out(1), put_in)]):
        after = bars_html(top_tokens(tiny, corrupted, 3))
    html = patched("<attention>", SHARE, 1, "END")
    assert html.index(before) < html.index(after) and before != after
    assert html.index("the corrupted sentence</b>") < html.index("with the patch</b>")


def test_squares_of_nothing_and_of_no_number_are_drawn():
    assert "rgba(213,94,0,0.60)" in cell(2.0, 2.0, "x") and "rgba(0,114,178,0.30)" in cell(-1.0, 2.0, "x")
    assert "rgba(213,94,0,0.60)" in cell(9.0, 2.0, "x")  # never deeper
    assert ">0.00<" in cell(-0.001, 2.0, "x") and ",0.00)" in cell(float("nan"), 2.0, "x")
    assert 'title="&lt;x&gt;: 1.00"' in cell(1.0, 2.0, "<x>") and "border:2px solid" in cell(1.0, 2.0, "x", framed=True)


def test_a_map_of_pairs_that_do_not_differ_in_the_metric_is_still_drawn(tiny, data, maps):
    flat = replace(maps["MLP"], clean=maps["MLP"].corrupted)  # every share is something over nothing
    html = patching_html(tiny, data, {"flat": flat}, "flat", SHARE, 0, "IO")
    assert "flat, layer 0, IO" in html and balanced(html)
    still = replace(flat, after=flat.corrupted.expand_as(flat.after))
    assert html.count("nan") < patching_html(tiny, data, {"flat": still}, "flat", SHARE, 0, "IO").count("nan")


def test_a_map_that_is_not_there_is_answered_in_a_sentence(tiny, data, both, patched):
    assert readable(patched("soul", SHARE, 0, "IO")).startswith("There is no map of 'soul'; choose one of: stream before the block, <att")
    assert readable(patched("MLP", "love", 0, "IO")) == "A map shows the share restored or the change in logits, not 'love'."
    for layer, column in ((2, "IO"), (-1, "IO"), (0, "head 0")):
        says = f"This map has no layer {layer} with '{column}': its layers are 0 to 1, its columns IO, S2, END."
        assert readable(patched("MLP", SHARE, layer, column)) == says
    other = {"all": patch_positions(tiny, both)}  # of every position, which have other names
    column = other["all"].columns[2]
    says = f"These sentences have no position {column!r}: make the map with the positions IO, S2, END."
    assert readable(patching_html(tiny, data, other, "all", SHARE, 0, column)) == says
    with pytest.raises(ValueError, match="There is no map to show: give at least one"):
        PatchingMap(tiny, data, {})


def test_the_columns_offered_are_those_of_the_component(tiny, data, maps, patched):
    widget = PatchingMap(tiny, data, maps)
    assert widget.column.options == ("IO", "S2", "END") and widget.column.value == "END"
    widget.component.value = "MLP"
    assert widget.column.value == "END"  # which the MLP has as well
    widget.component.value = "heads"
    assert widget.column.options == ("head 0", "head 1", "head 2", "head 3")
    assert widget.panel.value == patched("heads", SHARE, widget.layer.value, widget.column.options[-1])
    widget.component.value = "<attention>"
    assert widget.panel.value == patched("<attention>", SHARE, widget.layer.value, "END")


# --------------------------------------------------------------------------------------------------------------- the pruner


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("size", [1, 10, 60])
def test_the_pruner_says_what_the_circuit_and_a_random_one_keep(tiny, scores, both, pruned, size: int, ablation: str):
    html, graph = pruned(size, ablation), scores.graph
    found = judge(tiny, both, [scores.top(size), random_circuit(graph, size)], ablation)
    (low, high), value, chance = found.intervals[0], *found.faithfulness.tolist()
    words = readable(html)
    assert words.startswith(f"{size} edges of {len(graph)} ({size / len(graph):.1%}); {found.alive[0]} of them lie on a whole path.")
    assert f"Faithfulness ({ablation}): {value:z.2f} [{low:z.2f}, {high:z.2f}]; as many random edges: {chance:z.2f}. 2 sentences." in words
    assert balanced(html)


@pytest.mark.parametrize("size", [10, 60])
def test_the_drawing_is_a_picture_with_words(scores, pruned, size: int):
    html, shown = pruned(size, "resample"), min(size, MOST_DRAWN)
    [(alt, data)] = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', html)
    assert alt == f"The {shown} edges with the largest scores, from the embedding at the bottom to the logits at the top."
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert ("Drawn are the 40 with the largest scores." in readable(html)) == (size > MOST_DRAWN)


def test_a_circuit_that_cannot_be_is_answered_in_a_sentence(tiny, scores, both, pruned):
    assert readable(pruned(5, "magic")) == "There is no ablation 'magic'; choose one of: resample, mean, zero."
    for size in (0, -1, len(scores.graph) + 1):
        assert readable(pruned(size, "zero")) == f"A circuit has 1 to {len(scores.graph)} edges, not {size}."
    one = PromptPairs(both.clean.take([0]), both.corrupted.take([0]), log_odds(5, 6))
    assert readable(pruner_html(tiny, scores, one, 5, "zero")) == "A single prompt has no interval: measure at least two."
    same = replace(both, metric=lambda logits: logits[:, -1, 0] * 0)
    assert readable(pruner_html(tiny, scores, same, 5, "zero")).startswith("The metric is the same with all edges and with none")


def test_the_pruner_judges_the_first_pairs_only(tiny, scores, both):
    order = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0]
    right, wrong = torch.arange(11) + 40, torch.arange(11) + 80
    many = PromptPairs(both.clean.take(order), both.corrupted.take(order), log_odds(right, wrong))
    few = first_pairs(many)
    assert len(few) == MOST_JUDGED == 8 and first_pairs(both) is both
    assert torch.allclose(metric_at_ends(tiny, few), metric_at_ends(tiny, many)[:8], atol=1e-5)
    assert torch.allclose(metric_at_ends(tiny, few.swapped), metric_at_ends(tiny, many.swapped)[:8], atol=1e-5)
    widget = CircuitPruner(tiny, scores, many)
    assert "8 sentences." in readable(widget.panel.value) and widget.panel.value == pruner_html(tiny, scores, few, 30, "resample")


def test_a_circuit_is_judged_once_however_often_it_is_looked_at(tiny, scores, both, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return judged(*arguments)

    judged = lab.run_wires
    monkeypatch.setattr(lab, "run_wires", counted)
    widget = CircuitPruner(tiny, scores, replace(both, metric=lambda logits: both.metric(logits)))
    at_first = len(calls)
    assert at_first == 2 * len(ABLATIONS)  # the ends, and a circuit with its random one
    seen = {}
    for size in (10, 20, 10, 30, 20):
        widget.size.value = size
        assert seen.setdefault(size, widget.panel.value) == widget.panel.value
    assert len(calls) <= at_first + 2 and len(set(seen.values())) == 3


def test_the_slider_has_the_sizes_that_the_graph_has(tiny, scores, both):
    widget = CircuitPruner(tiny, scores, both, size=33)
    assert widget.size.value == 30 and widget.size.options[0] == 5
    assert max(widget.size.options) <= len(scores.graph) and widget.size.options == tuple(sorted(widget.size.options))


# ---------------------------------------------------------------------------------------------------------- the head viewer


def shares(html: str) -> list[tuple[str, float]]:
    """Which token looks at which, as titles have it, and how much."""
    return [(where, float(share)) for where, share in re.findall(r'<td style="[^"]*" title="([^"]*): (\d\.\d\d)">[^<]*</td>', html)]


def test_the_viewer_shows_the_pattern_token_by_token(tiny, viewed):
    tokens = tokenize(tiny, TEXT)
    looks, named = record(tiny, tokens[None], pattern(1))[pattern(1)][0, 2], [visible(piece) for piece in pieces(tiny, tokens)]
    html, back = viewed(TEXT, 1, 2), [(query, key) for query in range(len(tokens)) for key in range(query + 1)]
    assert [where for where, _ in shares(html)] == [escape(f"{named[query]} → {named[key]}") for query, key in back]
    assert [share for _, share in shares(html)] == pytest.approx([looks[place].item() for place in back], abs=0.00501)
    depths = [float(depth) for depth in re.findall(r"rgba\(213,94,0,([\d.]+)\)", html)]
    assert depths == pytest.approx([0.6 * looks[place].item() for place in back], abs=0.00501)
    assert [int(at) for at in re.findall("title='token (\\d+)'", html)] == list(range(len(tokens))) and balanced(html)


def test_the_viewer_says_where_the_last_token_looks_most(tiny, viewed):
    tokens = tokenize(tiny, TEXT)
    last, named = record(tiny, tokens[None], pattern(0))[pattern(0)][0, 3, -1], [visible(piece) for piece in pieces(tiny, tokens)]
    best = sorted(range(len(tokens)), key=lambda at: -last[at].item())[:3]
    said = ", ".join(f"{named[at]} (token {at}, {last[at]:.0%})" for at in best)
    assert readable(viewed(TEXT, 0, 3)).splitlines()[0] == f"From the last token, {named[-1]}, head 0.3 looks at {said}."
    assert "cut off" not in viewed(TEXT, 0, 3) and "are shown" not in viewed(TEXT, 0, 3)


def test_of_long_texts_the_end_is_shown_and_it_is_said(tiny, viewed):
    text = "The Gate is in San. " * 4
    n = len(tokenize(tiny, text))
    assert MOST_TOKENS < n <= 64
    html = viewed(text, 0, 0)
    assert f"Of {n} tokens the last 24 are shown." in readable(html) and "cut off" not in html
    assert html.count("<tr>") == 25 and len(shares(html)) == 24 * 25 / 2
    named = [escape(visible(piece)) for piece in pieces(tiny, tokenize(tiny, text))]
    assert [where for where, _ in shares(html)[-24:]] == [f"{named[-1]} → {name}" for name in named[-24:]]
    looks = record(tiny, tokenize(tiny, text)[None], pattern(0))[pattern(0)][0, 0, -1, -24:]
    assert [share for _, share in shares(html)[-24:]] == pytest.approx(looks.tolist(), abs=0.00501)
    html, n = viewed(text * 9, 0, 0), len(tokenize(tiny, text * 9))
    assert f"The model reads 64 tokens at most, so the first {n - 64} of the text are cut off. Of 64 tokens" in readable(html)
    kept = truncate(tiny, tokenize(tiny, text * 9))
    looks = record(tiny, kept[None], pattern(0))[pattern(0)][0, 0, -1, -24:]
    assert [share for _, share in shares(html)[-24:]] == pytest.approx(looks.tolist(), abs=0.00501)


def test_a_head_or_text_that_is_not_there_is_answered_in_a_sentence(viewed):
    for layer, head in ((2, 0), (-1, 0), (0, 4), (0, -1)):
        assert readable(viewed(TEXT, layer, head)) == f"There is no head {layer}.{head}: layers are 0 to 1, and heads 0 to 3."
    for text in ("", " \n\t "):
        assert viewed(text, 0, 0) == "<p>There is nothing to look at: write some words.</p>"
    assert readable(viewed("x", 0, 0)).startswith("From the last token, x, head 0.0 looks at ")


def test_what_is_typed_is_no_markup(viewed):
    html = viewed("<script>alert(1)</script> & \"'", 1, 1)
    assert "<script" not in html and "&lt;" in html and balanced(html)
    typed = [escape(letter) for letter in "<>&\"'"]
    for heading in ("title='token \\d+'>", "padding-right:4px'>"):  # of the columns and of the rows
        assert re.findall(rf"{heading}(.*?)</th>", viewed("<>&\"'", 1, 1))[-5:] == typed


# ----------------------------------------------------------------------------------------------------------------- widgets


def test_the_model_is_afterwards_as_it_was_whatever_was_asked(tiny, patched, pruned, viewed):
    tokens = tokenize(tiny, "hello you")[None]
    before = tiny(tokens)
    assert patched("heads", SHARE, 1, "head 1") and patched("MLP", SHARE, 9, "END") and pruned(7, "zero") and viewed(TEXT, 1, 1)
    assert torch.equal(tiny(tokens), before) and not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_heads_that_share_their_keys_have_maps_too(data, tmp_path):
    from helpers.models import load_model

    model = load_model(write_tiny_model("llama-grouped", tmp_path))
    both = data.runs(model)
    found = patch_heads(model, both, head_k)
    html = patching_html(model, data, {"keys": found}, "keys", CHANGE, 1, "head 1")
    assert found.columns == ("head 0", "head 1")
    assert bold(html, "with the patch:") == pytest.approx([found.after[1, 1, 0].item()], abs=0.00501)
    assert readable(head_html(model, TEXT, 1, 3)).startswith("From the last token")


@pytest.fixture
def widgets(tiny, data, maps, scores, both) -> dict[str, Callable[[], ipywidgets.VBox]]:
    """How to make each widget anew."""
    return {
        "map": lambda: PatchingMap(tiny, data, maps),
        "pruner": lambda: CircuitPruner(tiny, scores, both),
        "viewer": lambda: HeadViewer(tiny, TEXT, 1, 2),
    }


NUMBERS = st.integers(-2, 5) | st.integers()
COMPONENTS = ("stream before the block", "<attention>", "MLP", "heads", "queries", "looks")
CONTROLS: dict[str, dict[str, st.SearchStrategy]] = {
    "map": {"component": st.sampled_from(COMPONENTS), "shown": st.sampled_from(SHOWN_AS), "layer": NUMBERS, "column": st.integers(0, 3)},
    "pruner": {"size": st.sampled_from([5, 10, 20, 30, 50, 75]), "ablation": st.sampled_from(ABLATIONS)},
    "viewer": {"text": WORDS, "layer": NUMBERS, "head": NUMBERS},
}
HEADINGS = {"map": "the corrupted sentence", "pruner": "Faithfulness", "viewer": "From the last token"}
INPUTS = {"map": 250, "pruner": 50, "viewer": 300}  # with the 150 for each function below over 1,000
MOVES = 50  # of the controls of one widget


@pytest.mark.parametrize("name", CONTROLS)
def test_whatever_is_set_in_whatever_order_the_panel_has_an_answer(widgets, name: str):
    """Each example sets a fresh widget's controls many times; what counts is how often its callback ran."""
    steps = st.one_of(*(st.tuples(st.just(control), values) for control, values in CONTROLS[name].items()))
    ran = 0

    @settings(max_examples=INPUTS[name] // 10, **ENOUGH, database=None)
    @given(st.lists(steps, min_size=MOVES, max_size=MOVES))
    def drive(changes: list[tuple[str, Any]]) -> None:
        nonlocal ran
        if ran >= INPUTS[name]:
            return
        widget = widgets[name]()
        for control, value in changes:
            box, before = getattr(widget, control), getattr(widget, control).value
            box.value = box.options[value % len(box.options)] if control == "column" else value
            ran += box.value != before
            assert answered(widget.panel.value, HEADINGS[name])

    drive()
    assert ran >= INPUTS[name]


@settings(max_examples=150, **ENOUGH)
@given(WORDS, NUMBERS, NUMBERS, st.sampled_from([*COMPONENTS, *SHOWN_AS, *ABLATIONS, "IO", "head 1"]) | st.text(max_size=5), st.data())
def test_any_text_number_and_name_gives_an_answer(patched, pruned, viewed, text: str, layer: int, number: int, name: str, more):
    component, column = (more.draw(st.sampled_from(some)) for some in (["heads", "MLP", name], ["IO", "head 3", name]))
    shown, ablation = (more.draw(st.sampled_from(some)) for some in ([SHARE, name], ["zero", name]))
    assert answered(patched(component, shown, layer, column), HEADINGS["map"])
    assert answered(pruned(min(number, 9), ablation), HEADINGS["pruner"])
    assert answered(viewed(text, layer, number), HEADINGS["viewer"])


@pytest.mark.parametrize("name", CONTROLS)
def test_the_first_picture_is_there_at_once_and_every_control_moves_it(widgets, name: str):
    widget = widgets[name]()
    assert HEADINGS[name] in readable(widget.panel.value)
    others = {"component": "MLP", "shown": CHANGE, "layer": 1, "column": "S2", "size": 20, "ablation": "zero", "text": "a cat", "head": 0}
    others["layer"] = 0 if widget.__class__ is HeadViewer else 1 - widget.layer.value if name == "map" else 1
    seen = {widget.panel.value}
    for control in CONTROLS[name]:
        getattr(widget, control).value = others[control]
        assert widget.panel.value not in seen, control
        seen.add(widget.panel.value)


def test_a_panel_shows_what_the_function_writes_for_the_controls(widgets, patched, pruned, viewed):
    one, two, three = (make() for make in widgets.values())
    assert one.panel.value == patched("stream before the block", SHARE, one.layer.value, "END")
    assert two.panel.value == pruned(30, "resample")
    assert three.panel.value == viewed(TEXT, 1, 2)
    one.component.value, one.shown.value, one.layer.value, one.column.value = "looks", CHANGE, 1, "head 2"
    two.size.value, two.ablation.value, three.text.value, three.layer.value, three.head.value = 10, "mean", "a cat", 0, 3
    assert one.panel.value == patched("looks", CHANGE, 1, "head 2") and two.panel.value == pruned(10, "mean")
    assert three.panel.value == viewed("a cat", 0, 3)


def test_sliders_end_where_the_model_ends(widgets):
    one, three = widgets["map"](), widgets["viewer"]()
    one.layer.value = three.layer.value = three.head.value = 99
    assert (one.layer.value, three.layer.value, three.head.value) == (1, 1, 3)
    assert "layer 1, END" in readable(one.panel.value) and "head 1.3 looks at" in readable(three.panel.value)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_pictures_have_words(widgets, name: str):
    widget = widgets[name]()
    controls = list(controls_of(widget))
    assert len(controls) == len(CONTROLS[name]) and all(control.description.strip() for control in controls)
    assert all(not control.continuous_update for control in controls if hasattr(control, "continuous_update"))
    assert widget.children[-1] is widget.panel and "<script" not in widget.panel.value


@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_without_a_kernel_shows_a_sentence(widgets, name: str):
    assert re.fullmatch(r"\[[A-Z][^\[\]]+, once the notebook runs\.\]", repr(widgets[name]()))
