"""The widgets of lesson 2a, "One layer": a dial for refusal, a lab for steering with two directions, and a bench for task vectors."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape

import ipywidgets
from jaxtyping import Float
from torch import Tensor

from helpers.directions import Directions, add_at, any_of, chat_prompts, continue_all, losses, metric_of, project_out_everywhere
from helpers.interventions import Intervention, add, intervene, resid_post
from helpers.models import TransformerBridge
from helpers.prediction import fit, tokenize, top_tokens
from helpers.widgets import LABELS, bars_html, connect, said

MODES = ("add at this layer", "project out everywhere")
ANSWER = 5  # tokens of an answer
LARGEST = 100.0  # no multiple of a direction beyond it: the model would only stammer


def _multiple(value: float) -> float:
    """A multiple that can be added. Raises ValueError for one that is no number or far too large."""
    if not abs(value) <= LARGEST:
        raise ValueError(f"The multiple must be a number from {-LARGEST:g} to {LARGEST:g}, not {value}.")
    return float(value)


def cut(model: TransformerBridge, text: str) -> str:
    """The end of a text that is too long for the model with an answer behind it. Raises ValueError where there is no text."""
    if not text.strip():
        raise ValueError("There is nothing to answer: write something.")
    tokens = tokenize(model, text)
    space = model.cfg.n_ctx - 2 * ANSWER
    return text if len(tokens) <= space else model.tokenizer.decode(tokens[-space:].tolist())


@lru_cache(maxsize=64)
def plain_answer(model: TransformerBridge, prompt: str, tokens: int) -> str:
    """What the untouched model says; remembered, since a slider moves often and the prompt seldom."""
    return continue_all(model, [prompt], tokens)[0]


@lru_cache(maxsize=64)
def plain_metric(model: TransformerBridge, prompt: str, refusals: tuple[int, ...]) -> float:
    """How likely the untouched model begins with one of these tokens; remembered as well."""
    return metric_of(model, [prompt], any_of(refusals)).sigmoid().item()


@lru_cache(maxsize=64)
def oddness(model: TransformerBridge, text: str) -> float:
    """The perplexity of a text to the untouched model."""
    return losses(model, [text]).exp().item()


def _answer_html(label: str, text: str, extra: str = "") -> str:
    written = escape(text) or "nothing: the answer ends at once"
    return f"<p><b>{escape(label)}</b>{extra}<br><span style='white-space:pre-wrap'>{written}</span></p>"


# ------------------------------------------------------------------------------------------------------- the refusal dial


@said
def dial_html(
    model: TransformerBridge, found: Directions, refusals: Sequence[int], request: str, layer: int, multiple: float, mode: str
) -> str:
    """The answer to a request as it is, and with a direction added at a layer or projected out everywhere, as HTML."""
    if mode not in MODES:
        raise ValueError(f"There is no kind of change called {mode!r}; choose one of: {', '.join(MODES)}.")
    vector = found.vector(layer)
    changes = [add_at(layer, vector, _multiple(multiple))] if mode == MODES[0] else project_out_everywhere(model, vector)
    [prompt] = chat_prompts(model, [cut(model, request)])
    before, after = plain_metric(model, prompt, tuple(refusals)), metric_of(model, [prompt], any_of(refusals), *changes).sigmoid().item()
    answer = continue_all(model, [prompt], ANSWER, *changes)[0]
    parts = (("As it is", plain_answer(model, prompt, ANSWER), before), (f"With layer {layer}: {mode}", answer, after))
    return "".join(_answer_html(label, text, f" (refuses with probability {score:.1%})") for label, text, score in parts)


class RefusalDial(ipywidgets.VBox):
    """Controls for a request, a layer, a multiple and the kind of change, and a ``panel`` with the answer before and after."""

    def __init__(self, model: TransformerBridge, found: Directions, refusals: Sequence[int], layer: int, request: str) -> None:
        self.request = ipywidgets.Text(request, description="Request", continuous_update=False, layout={"width": "95%"})
        self.layer = ipywidgets.IntSlider(
            layer, min=0, max=model.cfg.n_layers - 1, description="Layer", continuous_update=False, style=LABELS
        )
        self.multiple = ipywidgets.FloatSlider(1.0, min=-3, max=3, step=0.5, description="Multiple", continuous_update=False, style=LABELS)
        self.mode = ipywidgets.Dropdown(options=MODES, value=MODES[0], description="Change", style=LABELS)
        self.panel = ipywidgets.HTML()
        controls = {"request": self.request, "layer": self.layer, "multiple": self.multiple, "mode": self.mode}
        connect(controls, self.panel, lambda **values: dial_html(model, found, refusals, **values))
        super().__init__([self.request, ipywidgets.HBox([self.layer, self.multiple, self.mode]), self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[A dial for refusal, once the notebook runs.]"


# ------------------------------------------------------------------------------------------------------- the steering lab

Named = Mapping[str, tuple[int, Float[Tensor, "d_model"]]]  # directions by name, each with the layer where it is added


@said
def steering_html(
    model: TransformerBridge, directions: Named, prompt: str, first: str, strength: float, second: str, other_strength: float
) -> str:
    """What follows a prompt with two directions added, each with a strength of its own, as HTML, and how odd the plain model finds it."""
    text, changes = cut(model, prompt), []
    for name, scale in ((first, strength), (second, other_strength)):
        if name not in directions:
            raise ValueError(f"There is no direction {name!r}; choose one of: {', '.join(directions)}.")
        layer, vector = directions[name]
        changes.append(add_at(layer, vector, _multiple(scale)))
    parts = [_steered(model, text, "As it is", [])]
    parts.append(_steered(model, text, f"{strength:g} × {first}, {other_strength:g} × {second}", changes))
    return "".join(parts)


def _steered(model: TransformerBridge, text: str, label: str, changes: Sequence[Intervention]) -> str:
    answer = continue_all(model, [text], ANSWER, *changes)[0] if changes else plain_answer(model, text, ANSWER)
    return _answer_html(label, answer, f" (perplexity to the plain model {oddness(model, f'{text} {answer}'):.1f})")


class SteeringLab(ipywidgets.VBox):
    """Controls for a prompt and two directions with their strengths, and a ``panel`` with the text and its perplexity."""

    def __init__(self, model: TransformerBridge, directions: Named, prompt: str) -> None:
        names = list(directions)
        self.prompt = ipywidgets.Textarea(prompt, description="Prompt", continuous_update=False, layout={"width": "95%", "height": "4.5em"})
        self.first = ipywidgets.Dropdown(options=names, value=names[0], description="Direction", style=LABELS)
        self.second = ipywidgets.Dropdown(options=names, value=names[-1], description="and", style=LABELS)
        self.strength, self.other_strength = (
            ipywidgets.FloatSlider(start, min=-3, max=3, step=0.5, description="Strength", continuous_update=False, style=LABELS)
            for start in (1.0, 0.0)
        )
        self.panel = ipywidgets.HTML()
        controls = {
            "prompt": self.prompt, "first": self.first, "strength": self.strength, "second": self.second,
            "other_strength": self.other_strength,
        }  # fmt: skip
        connect(controls, self.panel, lambda **values: steering_html(model, directions, **values))
        rows = [ipywidgets.HBox([self.first, self.strength]), ipywidgets.HBox([self.second, self.other_strength])]
        super().__init__([self.prompt, *rows, self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[A lab for steering, once the notebook runs.]"


# ------------------------------------------------------------------------------------------------------ the task vectors


@said
def task_vector_html(
    model: TransformerBridge, vectors: Mapping[str, Float[Tensor, "layer d_model"]], task: str, layer: int, word: str
) -> str:
    """The five likeliest tokens after ``word:``, as it is and with a task's vector added after a block at the colon, as HTML."""
    if task not in vectors:
        raise ValueError(f"There is no task {task!r}; choose one of: {', '.join(vectors)}.")
    if not 0 <= layer < len(vectors[task]):
        raise ValueError(f"There is no layer {layer}: this model's layers are 0 to {len(vectors[task]) - 1}.")
    if not word.strip():
        raise ValueError("There is no word: write one, such as hot.")
    prompt = f"{word.strip()}:"
    last = len(fit(model, tokenize(model, prompt))) - 1
    before = top_tokens(model, prompt, 5)
    with intervene(model, add(resid_post(layer), vectors[task][layer], pos=last)):
        after = top_tokens(model, prompt, 5)
    cells = "".join(
        f"<td style='vertical-align:top;padding-right:24px'><b>{escape(head)}</b>{bars_html(top)}</td>"
        for head, top in (("as it is", before), (f"{task}, layer {layer}", after))
    )
    return f"<table><tr>{cells}</tr></table>"


class TaskVectorBench(ipywidgets.VBox):
    """Controls for a task, a layer and a word, and a ``panel`` with the next tokens before and after."""

    def __init__(self, model: TransformerBridge, vectors: Mapping[str, Float[Tensor, "layer d_model"]], layer: int, word: str) -> None:
        self.word = ipywidgets.Text(word, description="Word", continuous_update=False)
        self.task = ipywidgets.Dropdown(options=list(vectors), description="Task", style=LABELS)
        self.layer = ipywidgets.IntSlider(
            layer, min=0, max=model.cfg.n_layers - 1, description="Layer", continuous_update=False, style=LABELS
        )
        self.panel = ipywidgets.HTML()
        controls = {"task": self.task, "layer": self.layer, "word": self.word}
        connect(controls, self.panel, lambda **values: task_vector_html(model, vectors, **values))
        super().__init__([ipywidgets.HBox([self.word, self.task, self.layer]), self.panel])

    def __repr__(self) -> str:
        """What a page without a running kernel shows in the widget's place."""
        return "[A bench for task vectors, once the notebook runs.]"
