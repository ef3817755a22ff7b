"""The widgets of lesson 3b: what they show is true, every control has an effect, and whatever a person types is answered."""

import math
import re
from html import unescape
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from tiny_models import write_tiny_model

ODD = ("", " ", "🙂", "台北", "\n", "<b>", "\udc80", "x" * 10_000, "$a^2$")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory):
    """A tiny model, two sentences about gifts, maps of patches, and scores of edges."""
    from types import SimpleNamespace

    from helpers.circuits import attribute_edges
    from helpers.effects import log_odds
    from helpers.indirect_objects import IndirectObjects
    from helpers.interventions import attn_out, heads, mlp_out, resid_pre
    from helpers.models import load_model
    from helpers.patching import patch_heads, patch_positions, runs
    from helpers.texts import as_texts

    model = load_model(write_tiny_model("gpt2-relu", tmp_path_factory.mktemp("tiny")))
    texts, other = (" San and Taipei, San is", " Taipei and San, Taipei is"), (" San and Taipei, Taipei is", " Taipei and San, San is")
    io, s = torch.tensor([5, 6]), torch.tensor([7, 8])
    both = runs(model, list(texts), list(other), log_odds(io, s))
    ends = both.ends
    places = {"IO": ends * 0 + 1, "S1": ends * 0 + 2, "END": ends}

    class Gifts(IndirectObjects):
        def swapped(self):
            return list(other)

    data = Gifts(texts, ("a", "b"), ("b", "a"), (("a", "b", "c"),) * 2, ("ABB", "BAB"), as_texts(model, list(texts)), io, s, places)
    named = {"stream before the block": resid_pre, "attention": attn_out, "MLP": mlp_out}
    maps = {name: patch_positions(model, both, place, list(places.values()), list(places)) for name, place in named.items()}
    maps["heads"] = patch_heads(model, both, heads)
    return SimpleNamespace(model=model, data=data, maps=maps, both=both, scores=attribute_edges(model, both))


class Balanced(HTMLParser):
    """Counts what was opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(html: str) -> str:
    """The text of a panel, after a look whether its HTML is well formed."""
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return unescape(re.sub(r"<[^>]+>", " ", html))


# ------------------------------------------------------------------------------------------------------- the map of patches


def test_the_map_shows_the_effects_and_one_real_patch(lesson):
    from helpers.interventions import intervene, record, resample, resid_pre
    from helpers.prediction import tokenize, top_tokens, visible
    from helpers.widgets.circuits import patching_html

    html = patching_html(lesson.model, lesson.data, lesson.maps, "stream before the block", "share restored", 1, "END")
    shown = words(html)
    effect = lesson.maps["stream before the block"].effect
    assert all(f"{value:.2f}" in shown for value in effect.flatten().tolist())
    assert f"layer 1, END:  {effect[1, 2]:.2f}" in shown
    clean, corrupted = lesson.data.texts[0], lesson.data.swapped()[0]
    stream = record(lesson.model, tokenize(lesson.model, clean)[None], resid_pre(1))[resid_pre(1)]
    with intervene(lesson.model, resample(resid_pre(1), stream, pos=int(lesson.data.positions["END"][0]))):
        after = top_tokens(lesson.model, corrupted, 3)
    assert f"{visible(after.tokens[0])}  {after.probs[0]:.1%}" in re.sub(r"\s{2,}", "  ", shown)
    assert html.count("outline:2px") == 1


def test_a_head_is_patched_at_all_positions(lesson):
    from helpers.interventions import heads, intervene, record, resample
    from helpers.prediction import tokenize, top_tokens
    from helpers.widgets.circuits import patching_html

    shown = words(patching_html(lesson.model, lesson.data, lesson.maps, "heads", "change in logits", 0, "head 2"))
    values = record(lesson.model, tokenize(lesson.model, lesson.data.texts[0])[None], heads(0))[heads(0)]
    with intervene(lesson.model, resample(heads(0), values, head=2)):
        after = top_tokens(lesson.model, lesson.data.swapped()[0], 3)
    assert f"{after.probs[0]:.1%}" in shown
    assert f"{lesson.maps['heads'].change[0, 2]:.2f}" in shown


def test_every_control_of_the_map_has_an_effect(lesson):
    from helpers.widgets.circuits import PatchingMap

    widget = PatchingMap(lesson.model, lesson.data, lesson.maps)
    seen = [widget.panel.value]
    for name, value in (("shown", "change in logits"), ("layer", 1), ("column", "IO"), ("component", "heads"), ("column", "head 3")):
        getattr(widget, name).value = value
        assert widget.panel.value not in seen, name
        seen.append(widget.panel.value)
    assert repr(widget) == "[A map of patches, once the notebook runs.]"
    with pytest.raises(ValueError, match="There is no map: give at least one of"):
        PatchingMap(lesson.model, lesson.data, {})


@options(max_examples=150)
@given(st.sampled_from(["MLP", "heads", "?", ""]), st.sampled_from(["share restored", "x"]), st.integers(-3, 9), st.text(max_size=8))
def test_the_map_answers_everything(lesson, component: str, shown: str, layer: int, column: str):
    from helpers.widgets.circuits import patching_html

    assert words(patching_html(lesson.model, lesson.data, lesson.maps, component, shown, layer, column)).strip()


# --------------------------------------------------------------------------------------------------------------- the pruner


def test_the_pruner_says_what_the_circuit_keeps(lesson):
    from helpers.circuits import judge, random_circuit
    from helpers.widgets.circuits import pruner_html

    for size, ablation in ((10, "resample"), (30, "zero")):
        html = pruner_html(lesson.model, lesson.scores, lesson.both, size, ablation)
        shown = re.sub(r"\s+", " ", words(html))
        circuits = [lesson.scores.top(size), random_circuit(lesson.scores.graph, size)]
        value, chance = judge(lesson.model, lesson.both, circuits, ablation).faithfulness.tolist()
        assert f"Faithfulness ({ablation}): {value:.2f}" in shown and f"as many random edges: {chance:.2f}" in shown
        assert f"{size} edges" in shown and 'src="data:image/png;base64,' in html and 'alt="The' in html


def test_every_control_of_the_pruner_has_an_effect(lesson):
    from helpers.widgets.circuits import CircuitPruner

    widget = CircuitPruner(lesson.model, lesson.scores, lesson.both)
    first = widget.panel.value
    widget.size.value = 10
    second = widget.panel.value
    widget.ablation.value = "mean"
    assert len({first, second, widget.panel.value}) == 3
    widget.ablation.value = "resample"
    assert widget.panel.value == second
    assert repr(widget) == "[A circuit to be cut down, once the notebook runs.]"


@pytest.mark.parametrize(
    ("size", "ablation", "says"),
    [(0, "resample", "A circuit has 1 to"), (10**9, "zero", "not 1000000000"), (5, "?", "There is no ablation")],
)
def test_what_cannot_be_pruned(lesson, size: int, ablation: str, says: str):
    from helpers.widgets.circuits import pruner_html

    assert says in words(pruner_html(lesson.model, lesson.scores, lesson.both, size, ablation))


# ---------------------------------------------------------------------------------------------------------- the head viewer


def test_the_viewer_shows_the_pattern(lesson):
    from helpers.interventions import pattern, record
    from helpers.prediction import tokenize
    from helpers.widgets.circuits import head_html

    text = "The Golden Gate Bridge is in San"
    html = head_html(lesson.model, text, 1, 2)
    looks = record(lesson.model, tokenize(lesson.model, text)[None], pattern(1))[pattern(1)][0, 2]
    assert f"({looks[-1].max():.0%})" in words(html)
    titles = [float(value) for value in re.findall(r'title="[^"]*: (\d\.\d\d)"', html)]
    assert titles == [pytest.approx(value, abs=0.006) for value in looks.flatten().tolist()]


def test_long_texts_are_cut_and_it_is_said(lesson):
    from helpers.widgets.circuits import MOST_TOKENS, head_html

    html = head_html(lesson.model, "The Gate is in San. " * 8, 0, 0)
    assert f"the last {MOST_TOKENS} are shown" in words(html)
    assert html.count("<tr>") == MOST_TOKENS + 1


def test_every_control_of_the_viewer_has_an_effect(lesson):
    from helpers.widgets.circuits import HeadViewer

    widget = HeadViewer(lesson.model, "The Golden Gate")
    seen = [widget.panel.value]
    for name, value in (("layer", 1), ("head", 3), ("text", "Taipei is in")):
        getattr(widget, name).value = value
        assert widget.panel.value not in seen, name
        seen.append(widget.panel.value)
    for text in ODD:
        widget.text.value = text
        assert words(widget.panel.value).strip()
    assert repr(widget) == "[The attention of any head, once the notebook runs.]"


@options(max_examples=900)
@given(st.one_of(st.text(max_size=30), st.sampled_from(ODD)), st.integers(-2, 4), st.sampled_from([0, 3, 9, -1, math.inf, math.nan]))
def test_the_viewer_answers_everything(lesson, text: str, layer: int, head: float):
    from helpers.widgets.circuits import head_html

    number = int(head) if math.isfinite(head) else 99
    assert words(head_html(lesson.model, text, layer, number)).strip()
