"""What tests of widgets share: small models and their data, every widget of the course, a driver of controls, and readers of panels.

``case(DoseLab)`` is a widget on random models: how to make it, the function that writes its panel, and words that every picture has.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import ipywidgets
import pytest
import torch
from tiny_models import END, write_tiny_model, write_word_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.activations import TopContexts, output_logits, top_contexts
from helpers.cluster.circuits import EdgeScores
from helpers.cluster.edges import EdgeGraph
from helpers.cluster.fact_prompts import fact_prompt
from helpers.cluster.ioi import IoiSentences
from helpers.cluster.linear_relations import LinearRelation
from helpers.cluster.patching import PatchMap, patch_heads, patch_positions
from helpers.cluster.relations import RelationData
from helpers.cluster.widgets_circuits import CircuitPruner, HeadViewer, PatchingMap, head_html, patching_html, pruner_html
from helpers.cluster.widgets_relations import FactEditor, KnockoutBench, RelationExplorer, edit_html, knockout_html, relation_html
from helpers.course_lm.facts import Fact, Relation
from helpers.interventions import attn_out, head_out, head_q, mlp_out, pattern, record, resid_post, resid_pre
from helpers.metrics import token_set_log_odds
from helpers.models import TransformerBridge, load_model
from helpers.one_layer.autoencoders import SparseAutoencoder, activations_of
from helpers.one_layer.directions import Directions
from helpers.one_layer.features import FeatureActivations, feature_activations, max_activations
from helpers.one_layer.widgets_autoencoders import ClampBench, FeatureBrowser, clamp_html, feature_html
from helpers.one_layer.widgets_directions import RefusalDial, SteeringLab, TaskVectorBench, dial_html, steering_html, task_vector_html
from helpers.one_neuron import widgets as neurons
from helpers.one_neuron.superposition import train_toys
from helpers.prediction import next_token_probs, pieces, token_id, tokenize, visible
from helpers.running import next_tokens
from helpers.speak import fact_edits, world_facts
from helpers.speak.back_patching import back_patch_with_controls
from helpers.speak.fact_edits import EditPrompts, edit_prompts
from helpers.speak.knowledge_neurons import knowledge_neurons_of
from helpers.speak.patchscopes import Target
from helpers.speak.tuned_lens import TunedLens
from helpers.speak.two_hops import TwoHop
from helpers.speak.widgets_lens import LensViewer, lens_html
from helpers.speak.widgets_memories import MemoryBrowser, MemoryEditor, memory_edit_html, memory_html, prepared
from helpers.speak.widgets_multihop import BackPatchMap, TwoHopTimeline, back_patch_html, timeline_html
from helpers.speak.widgets_patchscopes import PatchscopeBench, patchscope_html
from helpers.speak.word_categories import Categories
from helpers.speak.world_facts import paraphrases
from helpers.texts import Texts, as_texts
from helpers.widgets import Demo, PromptExplorer, html_to_text, prompt_html

# ---------------------------------------------------------------------------------------------------------------- models

LOADED: dict[TransformerBridge, Tensor] = {}  # each model, and what it says to some tokens


def loaded(folder: Path) -> TransformerBridge:
    model = load_model(folder)
    with torch.no_grad():
        LOADED[model] = model(torch.arange(1, 13)[None])
    return model


@cache
def tiny() -> TransformerBridge:
    """A random GPT-2 with ReLU: two layers, four heads, 64 tokens of context, words cut in pieces, a chat template."""
    with tempfile.TemporaryDirectory() as folder:
        return loaded(write_tiny_model("gpt2-relu", Path(folder)))


FRAME = "x is in The wife of home the singer , . lives song sings people say from loves In Imagine Help Emma Dune Bath."
NAMES = "John Paul Jane Frank Ringo Starr Yoko Linda Tom Beverly London Liverpool Bath Tacoma"
WORDS = f"{FRAME} {NAMES}".split()


@cache
def reader() -> TransformerBridge:
    """A random GPT-2 of three layers that reads whole words, 24 at most, and in which the words that it reads matter."""

    def louder(model: torch.nn.Module) -> None:
        for name, weights in model.named_parameters():
            weights.data *= 3 if ".h." in name and weights.ndim > 1 else 1

    sizes = dict(n_embd=32, n_layer=3, n_head=2, n_positions=24, activation_function="relu")
    with tempfile.TemporaryDirectory() as folder:
        return loaded(write_word_model(Path(folder), WORDS, louder, seed=3, **sizes))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No gradients; after each test every model says to the last bit what it said at first, and has no hook left in it."""
    with torch.no_grad():
        yield
        for model, logits in LOADED.items():
            assert torch.equal(model(torch.arange(1, 13)[None]), logits)
            assert not any(point.fwd_hooks for point in model.hook_dict.values())


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------- data of lessons 1 and 2

TEXT = "The Golden Gate Bridge is in San"
TEXTS = (
    "The Eiffel Tower is in Paris.",
    "Taipei 101",
    f"{TEXT} Francisco, and",
    "in",
    "hello there",
    "Paris is in the",
    "a cat",
    "hello you",
)
HOOK = resid_post(0)


@cache
def contexts() -> TopContexts:
    """A few short texts, scanned for all neurons."""
    return top_contexts(tiny(), as_texts(tiny(), TEXTS), k=6)


quick_toys = cache(partial(train_toys, steps=3, starts=1))  # toy models that have hardly been trained, in a moment
MODES_OF = Directions(2 * randn(3, 1, 32), torch.zeros(3, 1, 32))  # for the two layers of the tiny model and what follows them
REFUSALS = [70, 71, 72, 280]
REFUSE = token_set_log_odds(REFUSALS)
NAMED = {"polite": (0, 3 * randn(32, seed=1)), "<formal>": (1, 3 * randn(32, seed=2)), "past": (1, 3 * randn(32, seed=3))}
TASKS = {"antonym": 4 * randn(2, 32, seed=4), "capital & co": 4 * randn(2, 32, seed=5)}


@cache
def texts() -> Texts:
    return as_texts(tiny(), TEXTS)


@cache
def sae() -> SparseAutoencoder:
    """Random directions around the mean of the texts, so that different tokens have different features."""
    mean = activations_of(tiny(), texts(), HOOK).mean(0)
    return SparseAutoencoder(randn(32, 50), torch.zeros(50), randn(50, 32, seed=1), mean, "topk", k=2, hook=HOOK)


@cache
def features() -> FeatureActivations:
    return feature_activations(sae(), activations_of(tiny(), texts(), HOOK))


def alive() -> list[int]:
    """The features that are active anywhere, the most frequent one first."""
    share = features().active_share
    return [number for number in share.argsort(descending=True, stable=True).tolist() if share[number] > 0]


# -------------------------------------------------------------------------------------------------------------- data of lesson 3

SUBJECTS = ("Taipei", "The Golden Gate Bridge", "Paris", "San Francisco")
PLACE = RelationData("place", "The Tower of {s} is in", SUBJECTS, ("Paris", "Paris", "Gate", "San"))
FIRST = RelationData("<first>", "{s} is", ("Taipei 101", "Eiffel", *"abcdef"), tuple("abcdefgh"))


def surrogate(name: str, layer: int, seed: int) -> LinearRelation:
    """A map so flat that an edit by it is long: a random model hardly notices a short one."""
    return LinearRelation(name, "LRE", layer, randn(32, 32, seed=seed) / 100, randn(32, seed=seed + 1), 1.5)


MAPS = {"place": (PLACE, surrogate("place", 0, 1)), "<first>": (FIRST, surrogate("<first>", -1, 3))}
FITTED = {"place": ("Taipei", "Paris"), "<first>": ("Eiffel",)}
EDITORS = {"place": (*MAPS["place"], 3), "<first>": (*MAPS["<first>"], 8)}
FACTS = (
    fact_prompt("The Eiffel Tower is in the city of", "Paris", "Eiffel Tower"),
    fact_prompt("Taipei 101 is in the city of", "Taipei", "Taipei 101"),
    fact_prompt("Paris is", "<big>", "Paris"),  # which has no relation but its last token
)
GIFTS = (" San and Taipei, Taipei is", " Taipei and San, San is")


@cache
def gifts() -> IoiSentences:
    """Two sentences with names that are one token each."""
    receivers, givers = ("San", "Taipei"), ("Taipei", "San")
    tokens = as_texts(tiny(), GIFTS)
    io, s = (torch.tensor([token_id(tiny(), f" {name}") for name in side]) for side in (receivers, givers))
    second = tokens.tokens.shape[1] - 1 - (tokens.tokens == s[:, None]).flip(1).int().argmax(1)
    positions = {"IO": (tokens.tokens == io[:, None]).int().argmax(1), "S2": second, "END": tokens.lengths - 1}
    return IoiSentences(GIFTS, receivers, givers, (("a", "b", "c"),) * 2, ("ABB", "ABB"), tokens, io, s, positions)


@cache
def maps() -> dict[str, PatchMap]:
    """Maps of positions and of heads, among them where heads look, which has other axes."""
    pairs, at = gifts().pairs(tiny()), dict(positions=list(gifts().positions.values()), names=list(gifts().positions))
    places = {"stream": resid_pre, "<attention>": attn_out, "MLP": mlp_out}
    found = {name: patch_positions(tiny(), pairs, place, **at) for name, place in places.items()}
    return found | {name: patch_heads(tiny(), pairs, at) for name, at in (("heads", head_out), ("queries", head_q), ("looks", pattern))}


@cache
def scores() -> EdgeScores:
    """Random scores: what they are is not the widget's concern."""
    graph = EdgeGraph.of(tiny())
    return EdgeScores(graph, randn(len(graph)))


# -------------------------------------------------------------------------------------------------------------- data of lesson 4

ALIKE = (1, 7)  # the neuron that has a category


@cache
def tuned() -> TunedLens:
    """Random maps; the last layer's is the identity."""
    plain = TunedLens.identity(2, 32)
    weights, biases = randn(3, 32, 32), randn(3, 32, seed=1)
    weights[-1], biases[-1] = plain.weights[-1], plain.biases[-1]
    return TunedLens(weights, biases)


@cache
def categories() -> Categories:
    """Seven of the ten best tokens of one value, and two others of them."""
    best, members = output_logits(tiny(), *ALIKE).topk(10).indices, torch.zeros(2, tiny().cfg.d_vocab, dtype=torch.bool)
    members[0, best[[0, 1, 3, 4, 6, 7, 9]]], members[1, best[[2, 5]]] = True, True
    return Categories(("<fruit>", "pair"), members)


TELL = ("The home of {s} is {o}", "{s} lives in {o}", "In the song {s} sings of {o}", "people say {s} is from {o}", "{o} is home of {s}")
HOME = Relation("home", "songs", "name", "home", "home", TELL, ())
WIFE = Relation("wife", "songs", "name", "wife", "wife", ("{s} loves {o}", "The wife of {s} is {o}"), ())
TOWNS = {"John": "London", "Paul": "Liverpool", "Jane": "Bath", "Frank": "Tacoma"}
WIVES = {"John": "Yoko", "Paul": "Linda", "Jane": "Tom", "Frank": "Beverly"}
WORLD = (
    *(Fact(HOME, subject, town, {"name": subject, "home": town}) for subject, town in TOWNS.items()),
    *(Fact(WIFE, subject, wife, {"name": subject, "wife": wife}) for subject, wife in WIVES.items()),
)
JOHN, PAUL = WORLD[:2]


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of eight facts, held-out texts that the reader of words can read, and toy models that are hardly trained."""
    monkeypatch.setattr(neurons, "toys_for", quick_toys)
    lines = ["John loves Yoko in the song", "The home of Paul is Bath", "people say Frank lives in London", "Tom is from Liverpool"]
    for module in (fact_edits, world_facts):
        monkeypatch.setattr(module, "world_facts", lambda: WORLD)
    monkeypatch.setattr(fact_edits, "held_out_texts", lambda model, n: as_texts(model, (lines * n)[:n]))


@cache
def probes() -> list[EditPrompts]:
    """Two facts; after an edit of the first one prompts of all groups are asked, whatever the model says to them."""
    first, second = edit_prompts(reader(), [JOHN, PAUL], start=2)
    used, held = paraphrases(JOHN)
    plan = [("edited", used), ("paraphrases", held)]
    plan += [(group, paraphrases(WORLD[at])[0]) for group, at in (("same subject", 4), ("neighborhood", 2), ("random", 7))]
    groups, prompts = zip(*((group, prompt) for group, some in plan for prompt in some), strict=True)
    texts = as_texts(reader(), prompts)
    streams = record(reader(), texts.tokens, resid_pre(2))[resid_pre(2)]
    before = next_tokens(reader(), texts)
    return [replace(first, prompts=prompts, groups=groups, texts=texts, before=before, streams=streams), second]


@cache
def facts() -> dict:
    return prepared(probes(), knowledge_neurons_of(reader(), [one.fact for one in probes()]))


SONGS = (("Imagine", "John", "Yoko"), ("Help", "Paul", "Linda"), ("Emma", "Jane", "Tom"), ("Dune", "Frank", "Beverly"))


PHRASE = "The wife of the singer of {}"
QUESTIONS = [TwoHop(f"{PHRASE} is".format(e1), PHRASE.format(e1), e1, e2, e3, "singer+wife") for e1, e2, e3 in SONGS]


@cache
def asked() -> dict[str, TwoHop]:
    """Four questions. The first has an answer that some patch brings, and the last one the answer that the model gives it."""
    pairs = [(source, target) for source in range(3) for target in range(3)]
    own = back_patch_with_controls(reader(), QUESTIONS[:1], "t2", ["own"], pairs).run()
    brought = next(int(seen) for seen in own.tokens[:, 0] if seen not in (0, own.before[0]))
    first = replace(QUESTIONS[0], e3=reader().tokenizer.decode([brought]))
    last = replace(QUESTIONS[3], e3=pieces(reader(), next_token_probs(reader(), QUESTIONS[3].text).argmax()[None])[0])
    return {one.text: one for one in (first, *QUESTIONS[1:3], last)}


RINGO = "The wife of Ringo Starr is"
TARGETS = {"home": Target("The home of x is", until="."), "wife": Target("The singer , the wife of x")}

# ------------------------------------------------------------------------------------------------------------- all the widgets


@dataclass(frozen=True)
class Case:
    """How to make a widget, the function that writes its panel, and words that stand in every panel but a sentence."""

    make: Callable[[], Demo]
    write: Callable[..., str]
    heading: str


def _case(widget: type[Demo], write: Callable[..., str], heading: str, *shared: Any, **start: Any) -> Case:
    """A widget whose first arguments are those of the function that writes its panel."""
    return Case(partial(widget, *shared, **start), partial(write, *shared), heading)


def _one_patched(**values: Any) -> str:
    """The panel of the bench does not depend on the name of a target, only on its text."""
    return patchscope_html(reader(), TARGETS, **{name: value for name, value in values.items() if name != "target"})


CASES: dict[type[Demo], Callable[[], Case]] = {
    PromptExplorer: lambda: _case(PromptExplorer, prompt_html, "most likely next tokens", tiny(), text="hello"),
    neurons.NeuronMicroscope: lambda: _case(
        neurons.NeuronMicroscope, neurons.microscope_html, "rises highest", tiny(), contexts(), neuron=(1, 7), text="hello you"
    ),
    neurons.RemoveIt: lambda: _case(
        neurons.RemoveIt, neurons.removal_html, "taken away", tiny(), texts(), contexts().stats.mean, neuron=(1, 7), prompt="hello you"
    ),
    neurons.DoseLab: lambda: _case(neurons.DoseLab, neurons.dose_html, "It goes on:", tiny(), neuron=(1, 7), prompt="hello you"),
    neurons.SuperpositionLab: lambda: _case(neurons.SuperpositionLab, neurons.superposition_html, "features in"),
    RefusalDial: lambda: _case(RefusalDial, dial_html, "As it is", tiny(), MODES_OF, REFUSE, layer=1, request="hello you"),
    SteeringLab: lambda: _case(SteeringLab, steering_html, "As it is", tiny(), NAMED, prompt="Paris is"),
    TaskVectorBench: lambda: _case(TaskVectorBench, task_vector_html, "as it is", tiny(), TASKS, layer=1, word="hot"),
    FeatureBrowser: lambda: _case(FeatureBrowser, feature_html, "Feature", tiny(), sae(), texts(), features(), word="Paris"),
    ClampBench: lambda: Case(
        lambda: ClampBench(tiny(), sae(), features(), alive()[0], "Taipei 101"),
        partial(clamp_html, tiny(), sae(), max_activations(features())),
        "As it is",
    ),
    RelationExplorer: lambda: _case(RelationExplorer, relation_html, "the model", tiny(), MAPS, FITTED),
    FactEditor: lambda: _case(FactEditor, edit_html, "as it is", tiny(), EDITORS),
    KnockoutBench: lambda: Case(
        lambda: KnockoutBench(tiny(), FACTS, 0), partial(knockout_html, tiny(), {fact.text: fact for fact in FACTS}), "as it is"
    ),
    PatchingMap: lambda: _case(PatchingMap, patching_html, "the corrupted sentence", tiny(), gifts(), maps()),
    CircuitPruner: lambda: _case(CircuitPruner, pruner_html, "Faithfulness", tiny(), scores(), gifts().pairs(tiny())),
    HeadViewer: lambda: _case(HeadViewer, head_html, "From the last token", tiny(), text=TEXT, layer=1, head=2),
    LensViewer: lambda: Case(lambda: LensViewer(tiny(), TEXT, tuned()), partial(lens_html, tiny(), tuned()), "the model says"),
    MemoryBrowser: lambda: _case(
        MemoryBrowser, memory_html, "adds to the logits", tiny(), contexts(), categories(), layer=ALIKE[0], neuron=ALIKE[1]
    ),
    MemoryEditor: lambda: Case(
        lambda: MemoryEditor(reader(), probes(), [found for _, found in facts().values()]),
        partial(memory_edit_html, reader(), facts()),
        "it says now",
    ),
    TwoHopTimeline: lambda: Case(
        lambda: TwoHopTimeline(reader(), list(asked().values())), partial(timeline_html, reader(), asked()), "The model says"
    ),
    BackPatchMap: lambda: Case(
        lambda: BackPatchMap(reader(), list(asked().values())),
        partial(back_patch_html, reader(), dict(list(asked().items())[:3])),
        "Unpatched the model says",
    ),
    PatchscopeBench: lambda: Case(lambda: PatchscopeBench(reader(), RINGO, TARGETS), _one_patched, "The model goes on:"),
}


@cache
def case(widget: type[Demo]) -> Case:
    return CASES[widget]()


def writer(widget: type[Demo]) -> Callable[..., str]:
    """The function that writes the panel of a widget, on models that are loaded when it is first called."""
    return lambda *arguments, **values: case(widget).write(*arguments, **values)


# ------------------------------------------------------------------------------------------------------- controls, and odd values

ODD = {
    "nothing": "",
    "blanks": " \n\t ",
    "10,000 letters": "abcde fghi" * 1000,
    "emoji": "👩‍👩‍👧‍👦🙂",
    "another alphabet": "Что делает модель? 語言模型 مرحبا",
    "not a number": "NaN",
    "a special token": f"{END}<|user|>",
    "markup": "<script>alert(1)</script> & <b>bold",
    "half a letter": "\ud83d",
    "a null byte": "a\x00b",
}
USUAL = ("hello you", "Paris", "a cat", "Taipei 101", "John is", "Bath", "Yoko", RINGO, "the x is", "In the song x sings")


def move(control: ipywidgets.Widget, rng: Random) -> None:
    """Sets a control to anything that a person could set it to."""
    if isinstance(control, ipywidgets.Checkbox):
        control.value = not control.value
    elif hasattr(control, "options"):
        control.index = rng.randrange(len(control.options))
    elif isinstance(control.value, str):
        control.value = rng.choice([*ODD.values(), *USUAL])
    else:
        control.value = rng.choice([control.min, control.max, type(control.value)(rng.uniform(control.min, control.max))])


def odd_values(value: Any) -> list[Any]:
    """Values that a control like this can never have, and texts that are odd."""
    if isinstance(value, bool):
        return []
    if isinstance(value, str):
        return list(ODD.values())
    return [-7, 99] if isinstance(value, int) else [float("nan"), float("inf"), -1e300, 0.123]


# ------------------------------------------------------------------------------------------------------------ looking at panels


class _Tags(HTMLParser):
    """Follows the tags of a text, and notes those that are not closed in their turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.open += [tag] if tag not in ("br", "img") else []

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def balanced(html: str) -> bool:
    """Is everything that is opened closed, in the right order, and can it be sent to a browser?"""
    found = _Tags(html)
    return not found.open and not found.wrong and bool(html.encode())


def answered(html: str, heading: str) -> bool:
    """Is this a picture with words, or else one sentence that says what cannot be, and no markup but the widget's own?"""
    html = html.split("<p><small>Below is still")[0]
    words = html_to_text(html)
    sentence = re.fullmatch(r"<p>[^<>\n]+[.]</p>", html) is not None and len(words.split()) > 5
    return "<script" not in html and balanced(html) and (heading in words or sentence)


def numbers(html: str, words: str) -> list[float]:
    """The numbers in a text, for each of which ``words`` has a ``#``, wherever these words stand."""
    pattern = re.escape(words).replace(r"\#", r"([+-]?[\d.]*\d)")
    found = re.findall(pattern, html_to_text(html))
    return [float(number) for groups in found for number in ([groups] if isinstance(groups, str) else groups)]


def columns(html: str) -> list[list[tuple[str, float]]]:
    """The tokens of each column of bars with their probabilities in percent."""
    row = re.compile(r"<tr><td style='font-family:monospace'>(.*?)</td><td[^>]*>.*?</span>([\d.]+)%</td></tr>", re.DOTALL)
    found = [[(unescape(name), float(number)) for name, number in row.findall(part)] for part in html.split("<b>")]
    return [column for column in found if column]


def same(column: list[tuple[str, float]], model: TransformerBridge, logits: Tensor) -> bool:
    """Are these the likeliest tokens, with their probabilities?"""
    probs, ids = logits.softmax(-1).topk(len(column))
    names = [visible(piece) for piece in pieces(model, ids)]
    return [name for name, _ in column] == names and [number for _, number in column] == pytest.approx((100 * probs).tolist(), abs=0.06)


def squares(html: str) -> list[tuple[str, str, str]]:
    """Style, title and content of each square of a table, row by row."""
    found = re.findall(r'<td style="([^"]*)" title="([^"]*)">(.*?)</td>', html)
    return [(style, unescape(title), unescape(shown)) for style, title, shown in found]


# --------------------------------------------------------------------------------------------------------- by hooks of one's own


def changed(model: TransformerBridge, changes: dict[str, Callable[[Tensor], Tensor]], look: Callable[[], Any]) -> Any:
    """What ``look`` sees while the values at some places are changed, by hooks of its own."""
    with model.hooks(fwd_hooks=[(place, lambda values, hook, change=change: change(values)) for place, change in changes.items()]):
        return look()


def at_position(pos: int | slice, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of the values at some positions only."""

    def some(values: Tensor) -> Tensor:
        new = values.clone()
        new[:, pos] = change(values[:, pos])
        return new

    return some


def logits_after(model: TransformerBridge, prompt: str) -> Tensor:
    return model(tokenize(model, prompt)[None])[0, -1]


def perplexity_of(model: TransformerBridge, text: str) -> float:
    """What the plain model finds of a text."""
    tokens = tokenize(model, text)[-model.cfg.n_ctx :]
    return cross_entropy(model(tokens[None])[0, :-1], tokens[1:]).exp().item()


def state_of(model: TransformerBridge, place: str, pos: int, prompt: str) -> Tensor:
    """What passes a place at one position of a prompt."""
    return record(model, tokenize(model, prompt)[None], place)[place][0, pos]
