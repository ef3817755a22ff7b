"""How long a reader waits for a widget: from a control that changes to the panel that has its answer, in the kernel: `make bench`.

Each widget gets 50 settings, one control at a time as a reader would move it. The limits are for the time that 95 % of the answers
keep. After each answer a bare forward pass over a short prompt is timed, so that ``passes_p95`` says on any machine how many of
these an answer costs. On one thread; with the course LM, or with a random model of the same shape.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from random import Random
from statistics import median
from typing import Any

import ipywidgets
import pytest
import torch
from bench_tools import one_thread
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder, seconds
from test_bench_neurons import model

from helpers.activations import TopContexts, top_contexts
from helpers.cluster.circuits import attribute_edges
from helpers.cluster.edges import ABLATIONS
from helpers.cluster.fact_prompts import course_facts
from helpers.cluster.ioi import IoiSentences, ioi_sentences
from helpers.cluster.linear_relations import LinearRelation
from helpers.cluster.patching import patch_heads, patch_positions
from helpers.cluster.relations import RelationData, course_relations
from helpers.cluster.widgets_circuits import SHOWN_AS, CircuitPruner, HeadViewer, PatchingMap
from helpers.cluster.widgets_relations import CUT, FactEditor, KnockoutBench, RelationExplorer
from helpers.interventions import resid_post
from helpers.models import TransformerBridge
from helpers.one_layer.autoencoders import SparseAutoencoder, activations_of
from helpers.one_layer.directions import difference_in_means
from helpers.one_layer.features import FeatureActivations, feature_activations
from helpers.one_layer.in_context import task_differences
from helpers.one_layer.sae_training import PenaltySweep
from helpers.one_layer.tasks import course_tasks
from helpers.one_layer.widgets_autoencoders import ClampBench, FeatureBrowser, SparsitySlider
from helpers.one_layer.widgets_directions import RefusalDial, SteeringLab, TaskVectorBench
from helpers.one_neuron.superposition import SPARSITIES
from helpers.one_neuron.widgets import FEATURES, HIDDEN, KINDS, DoseLab, NeuronMicroscope, RemoveIt, SuperpositionLab
from helpers.prediction import tokenize
from helpers.running import chat_prompts
from helpers.speak.fact_edits import edit_prompts
from helpers.speak.tuned_lens import load_tuned_lens
from helpers.speak.two_hops import TwoHop, answered, course_questions
from helpers.speak.widgets_lens import LENSES, LensViewer
from helpers.speak.widgets_memories import MemoryBrowser, MemoryEditor
from helpers.speak.widgets_multihop import BackPatchMap, TwoHopTimeline
from helpers.speak.widgets_patchscopes import PatchscopeBench
from helpers.speak.word_categories import word_categories
from helpers.speak.world_facts import known_facts
from helpers.texts import held_out_texts
from helpers.widgets import PromptExplorer

__all__ = ["folder", "model", "one_thread"]  # the fixtures

SETTINGS = 50
ANSWER_LIMIT = 0.1  # seconds, at most, for 95 % of the answers
WRITING_LIMIT = 0.3  # the same where the model writes a text, or reads all of its layers
MAP_LIMIT = 1.0  # the same where it runs with each pair of layers
PROMPTS = (
    "The capital of Poland is",
    "Here is a book and three keys. I like",
    "The author of the book was born in",
    "Seven children sang in the park. They",
    "Two plus three is",
    "She found a cup near two letters on the floor of the kitchen, and she will keep",
    "hello",
)

Choices = Mapping[str, Sequence[Any]]  # for each control the values that it may get


@pytest.fixture(scope="module")
def top(model: TransformerBridge) -> TopContexts:
    """The top contexts of all neurons in a small corpus."""
    return top_contexts(model, held_out_texts(model, 300))


def waiting_times(widget: ipywidgets.VBox, choices: Choices, marks: str, model: TransformerBridge) -> list[tuple[float, float]]:
    """Seconds for each of 50 answers, and for a bare forward pass after it. Every answer has to hold the words ``marks``."""
    rng, prompt, times, answers = Random(0), tokenize(model, PROMPTS[0])[None], [], set()
    for _ in range(SETTINGS):
        control = rng.choice(list(choices))
        value = rng.choice([value for value in choices[control] if value != getattr(widget, control).value])
        times.append((seconds(partial(setattr, getattr(widget, control), "value", value)), seconds(partial(model, prompt))))
        answers.add(widget.panel.value)
        assert marks in widget.panel.value, f"{control} = {value!r} gave {widget.panel.value[:200]}"
    assert len(answers) > SETTINGS / 5  # the panel followed the controls
    return times


@torch.no_grad()
def keeps(
    benchmark: BenchmarkFixture, limit: float, widget: ipywidgets.VBox, choices: Choices, marks: str, model: TransformerBridge
) -> None:
    """Asserts that 95 % of the answers come within ``limit`` seconds."""
    answers, passes = zip(*benchmark.pedantic(waiting_times, (widget, choices, marks, model), rounds=1), strict=True)
    p95 = sorted(answers)[ceil(0.95 * len(answers)) - 1]
    benchmark.extra_info |= {"p95_ms": round(1e3 * p95, 1), "passes_p95": round(p95 / median(passes), 1), "limit_ms": 1e3 * limit}
    typical, worst, one = (1e3 * time for time in (median(answers), max(answers), median(passes)))
    print(f"\n{benchmark.name}: median {typical:.0f} ms, p95 {1e3 * p95:.0f} ms, worst {worst:.0f} ms; a bare pass {one:.1f} ms")
    assert p95 <= limit


def neuron_choices(model: TransformerBridge) -> Choices:
    """Some layers and neurons."""
    return {"layer": range(model.cfg.n_layers), "neuron": range(0, model.cfg.d_mlp, 7)}


def test_neuron_microscope(benchmark: BenchmarkFixture, model: TransformerBridge, top: TopContexts) -> None:
    choices = {"text": PROMPTS, "most_active": (False, True), **neuron_choices(model)}
    keeps(benchmark, ANSWER_LIMIT, NeuronMicroscope(model, top, (0, 0), PROMPTS[0]), choices, "and suppresses", model)


def test_remove_it(benchmark: BenchmarkFixture, model: TransformerBridge, top: TopContexts) -> None:
    choices = {"prompt": PROMPTS, "kind": KINDS, **neuron_choices(model)}
    widget = RemoveIt(model, top.texts, top.stats.mean, (0, 0), PROMPTS[0])
    keeps(benchmark, ANSWER_LIMIT, widget, choices, "taken away", model)


def test_dose_lab(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    choices = {"prompt": PROMPTS, "dose": [at / 2 for at in range(21)], **neuron_choices(model)}
    keeps(benchmark, WRITING_LIMIT, DoseLab(model, (0, 0), PROMPTS[0]), choices, "It goes on", model)


def test_superposition_lab(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    choices = {"features": FEATURES, "hidden": HIDDEN, "sparsity": SPARSITIES}
    keeps(benchmark, ANSWER_LIMIT, SuperpositionLab(), choices, "mean interference", model)


def test_prompt_explorer(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    choices = {"text": PROMPTS, "temperature": (0, 0.5, 1.0, 1.5), "top_k": (0, 1, 5, 20), "seed": range(21)}
    keeps(benchmark, WRITING_LIMIT, PromptExplorer(model), choices, "A sampled continuation", model)


# ---------------------------------------------------------------------------------------------------------------- lesson 2


def test_refusal_dial(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    found = difference_in_means(model, chat_prompts(model, PROMPTS[:2]), chat_prompts(model, PROMPTS[1:3]), positions=2)
    choices = {"request": PROMPTS, "layer": range(model.cfg.n_layers), "multiple": [at / 2 for at in range(-6, 7)]}
    keeps(benchmark, WRITING_LIMIT, RefusalDial(model, found, [5], 4, PROMPTS[0]), choices, "refuses with probability", model)


def test_steering_lab(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    drawn = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    lab = SteeringLab(model, {"one": (3, drawn[0]), "other": (6, drawn[1])}, PROMPTS[0])
    strengths = [at / 2 for at in range(-4, 5)]
    choices = {"prompt": PROMPTS, "strength": strengths, "other_strength": strengths, "first": ("one", "other")}
    keeps(benchmark, WRITING_LIMIT, lab, choices, "perplexity", model)


def test_task_vector_bench(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    tasks = course_tasks("antonym", "plural")
    widget = TaskVectorBench(model, {name: task_differences(model, task, n=10) for name, task in tasks.items()}, 8, "dark")
    choices = {"task": list(tasks), "layer": range(model.cfg.n_layers), "word": ("dark", "big", "city", "a long word")}
    keeps(benchmark, ANSWER_LIMIT, widget, choices, "as it is", model)


@pytest.fixture(scope="module")
def dictionary(model: TransformerBridge) -> SparseAutoencoder:
    """A random dictionary of the size of the shipped ones."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(2048, model.cfg.d_model, generator=rng), dim=1)
    zeros = torch.zeros(2048), torch.zeros(model.cfg.d_model)
    return SparseAutoencoder(directions.T.contiguous(), zeros[0], directions, zeros[1], "topk", 24, hook=resid_post(5))


@pytest.fixture(scope="module")
def active(model: TransformerBridge, dictionary: SparseAutoencoder, top: TopContexts) -> FeatureActivations:
    """Its features on the corpus."""
    return feature_activations(dictionary, activations_of(model, top.texts, dictionary.hook))


def test_feature_browser(
    benchmark: BenchmarkFixture, model: TransformerBridge, dictionary: SparseAutoencoder, active: FeatureActivations, top: TopContexts
) -> None:
    widget = FeatureBrowser(model, dictionary, top.texts, active, " is", search=False)
    keeps(benchmark, ANSWER_LIMIT, widget, {"feature": range(0, 2048, 7)}, "Feature", model)


def test_clamp_bench(
    benchmark: BenchmarkFixture, model: TransformerBridge, dictionary: SparseAutoencoder, active: FeatureActivations
) -> None:
    widget = ClampBench(model, dictionary, active, 3, PROMPTS[0])
    choices = {"prompt": PROMPTS, "feature": range(0, 2048, 7), "multiple": [at / 2 for at in range(-8, 9)]}
    keeps(benchmark, WRITING_LIMIT, widget, choices, "held at", model)


def test_sparsity_slider(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    penalties = tuple(float(at) for at in range(1, 21))
    widget = SparsitySlider(PenaltySweep(penalties, *(tuple(at / 20 for at in range(1, 21)) for _ in range(3))))
    keeps(benchmark, ANSWER_LIMIT, widget, {"penalty": penalties}, "penalty", model)


# ---------------------------------------------------------------------------------------------------------------- lesson 3


@pytest.fixture(scope="module")
def maps(model: TransformerBridge) -> dict[str, tuple[RelationData, LinearRelation]]:
    """Random maps of the size of the fitted ones."""
    rng, width = torch.Generator().manual_seed(0), model.cfg.d_model
    drawn = {name: torch.randn(width + 1, width, generator=rng) / width**0.5 for name in ("capital", "language", "performer")}
    relations = course_relations(list(drawn))
    return {name: (relations[name], LinearRelation(name, "LRE", 3, values[1:], values[0], 2.0)) for name, values in drawn.items()}


SUBJECTS = ("France", "Japan", "Yesterday", "the red house", "Atlantis", "seven", "Imagine", "Kenya")


def test_relation_explorer(
    benchmark: BenchmarkFixture, model: TransformerBridge, maps: dict[str, tuple[RelationData, LinearRelation]]
) -> None:
    choices = {"relation": list(maps), "subject": SUBJECTS}
    keeps(benchmark, ANSWER_LIMIT, RelationExplorer(model, maps), choices, "the model", model)


def test_fact_editor(benchmark: BenchmarkFixture, model: TransformerBridge, maps: dict[str, tuple[RelationData, LinearRelation]]) -> None:
    widget = FactEditor(model, {name: (*found, 32) for name, found in maps.items()})
    choices = {"relation": list(maps), "subject": SUBJECTS, "other": SUBJECTS, "rank": widget.rank.options}
    keeps(benchmark, WRITING_LIMIT, widget, choices | {"strength": [at / 4 for at in range(-4, 13)]}, "as it is", model)


def test_knockout_bench(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    layers, widget = range(model.cfg.n_layers), KnockoutBench(model, course_facts(n=20))
    choices = {"fact": widget.fact.options, "source": list(CUT), "first": layers, "width": [at + 1 for at in layers]}
    keeps(benchmark, ANSWER_LIMIT, widget, choices, "as it is", model)


@pytest.fixture(scope="module")
def gifts(model: TransformerBridge) -> IoiSentences:
    """Eight sentences of one frame."""
    return ioi_sentences(model, 8, frames=["when went"])


def test_patching_map(benchmark: BenchmarkFixture, model: TransformerBridge, gifts: IoiSentences) -> None:
    both, where = gifts.pairs(model), dict(positions=list(gifts.positions.values()), names=list(gifts.positions))
    widget = PatchingMap(model, gifts, {"stream": patch_positions(model, both, **where), "heads": patch_heads(model, both)})
    widget.component.value = "heads"
    choices = {"shown": SHOWN_AS, "layer": range(model.cfg.n_layers), "column": widget.column.options}
    keeps(benchmark, ANSWER_LIMIT, widget, choices, "with the patch", model)


def test_circuit_pruner(benchmark: BenchmarkFixture, model: TransformerBridge, gifts: IoiSentences) -> None:
    both = gifts.pairs(model)
    widget = CircuitPruner(model, attribute_edges(model, both), both)
    keeps(benchmark, WRITING_LIMIT, widget, {"size": widget.size.options, "ablation": ABLATIONS}, "Faithfulness", model)


def test_head_viewer(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    choices = {"text": PROMPTS, "layer": range(model.cfg.n_layers), "head": range(model.cfg.n_heads)}
    keeps(benchmark, ANSWER_LIMIT, HeadViewer(model, PROMPTS[0]), choices, "From the last token", model)


def test_lens_viewer(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    widget = LensViewer(model, PROMPTS[0], load_tuned_lens())
    keeps(benchmark, WRITING_LIMIT, widget, {"text": PROMPTS, "layer": range(model.cfg.n_layers), "lens": LENSES}, "After", model)


def test_memory_browser(benchmark: BenchmarkFixture, model: TransformerBridge, top: TopContexts) -> None:
    widget = MemoryBrowser(model, top, word_categories(model))
    keeps(benchmark, WRITING_LIMIT, widget, neuron_choices(model), "Key", model)


def test_memory_editor(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    widget = MemoryEditor(model, edit_prompts(model, known_facts(model, 4)))
    choices = {"fact": widget.fact.options, "n": (1, 4, 16, 40), "plus": (0.5, 1.0, 4.0)}
    keeps(benchmark, WRITING_LIMIT, widget, choices, "it says now", model)


def test_patchscope_bench(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    layers = range(model.cfg.n_layers)
    choices = {"text": PROMPTS[:4], "source_layer": layers, "target_layer": layers}
    keeps(benchmark, WRITING_LIMIT, PatchscopeBench(model), choices, "The model goes on", model)


@pytest.fixture(scope="module")
def hops(model: TransformerBridge) -> list[TwoHop]:
    """Two-hop questions, some of which are answered wrong."""
    return list(answered(model, course_questions()[:200]).wrong[:20])


def test_two_hop_timeline(benchmark: BenchmarkFixture, model: TransformerBridge, hops: list[TwoHop]) -> None:
    widget = TwoHopTimeline(model, hops)
    keeps(benchmark, WRITING_LIMIT, widget, {"question": [value for _, value in widget.question.options]}, "bridge", model)


def test_back_patch_map(benchmark: BenchmarkFixture, model: TransformerBridge, hops: list[TwoHop]) -> None:
    layers, widget = range(model.cfg.n_layers), BackPatchMap(model, hops)
    choices = {"question": widget.question.options, "at": ("t1", "t2"), "source": layers, "target": layers}
    keeps(benchmark, MAP_LIMIT, widget, choices, "Unpatched", model)
