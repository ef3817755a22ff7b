"""The widgets of lessons 2a and 2b: a dial for refusal, a lab for steering with two directions, and a bench for task vectors."""

from collections.abc import Mapping
from html import escape

from jaxtyping import Float
from torch import Tensor

from helpers.inputs import chosen
from helpers.interventions import Intervention, add, intervene, resid_post
from helpers.metrics import Metric
from helpers.models import TransformerBridge
from helpers.one_layer.directions import Directions, ablate_direction, add_at
from helpers.prediction import tokenize, top_tokens, truncate
from helpers.running import chat_prompts, generate, perplexity, score_prompts
from helpers.widgets import LARGEST, Demo, as_text, columns_html, dropdown, slider, text_field, within

ADD, PROJECT = MODES = ("add at this layer", "project out everywhere")
INERT = "<p><small>Projecting out takes away whatever lies along the direction: the multiple plays no part.</small></p>"
ANSWER = 5  # tokens of an answer


def cut(model: TransformerBridge, text: str) -> tuple[str, str]:
    """The end of a text that is too long for the model with an answer behind it, and HTML that says so; for others the text, and nothing.

    Raises ValueError where there is no text.
    """
    if not text.strip():
        raise ValueError("There is nothing to answer: write something.")
    tokens = tokenize(model, text)
    space = model.cfg.n_ctx - 2 * ANSWER
    if len(tokens) <= space:
        return text, ""
    note = f"The text has {len(tokens):,} tokens, and there is room for {space}: the first {len(tokens) - space:,} are cut off."
    return model.tokenizer.decode(tokens[-space:].tolist()), f"<p><small>{note}</small></p>"


def _answer_html(label: str, text: str, extra: str) -> str:
    written = escape(text) or "nothing: the answer ends at once"
    return f"<p><b>{escape(label)}</b> ({extra})<br><span style='white-space:pre-wrap'>{written}</span></p>"


@as_text
def dial_html(model: TransformerBridge, found: Directions, refuse: Metric, request: str, layer: int, multiple: float, mode: str) -> str:
    """The answer to a request as it is, and with a direction added at a layer or projected out everywhere, as HTML.

    ``refuse``: the log-odds of a refusal against help, a metric.
    """
    vector = found.vector(layer)
    changed = {
        ADD: lambda: [add_at(layer, vector, within(multiple, LARGEST, "multiple"))],
        PROJECT: lambda: ablate_direction(model, vector),
    }
    changes = chosen(changed, mode, "kind of change")()
    text, note = cut(model, request)
    how = f"{multiple:g} × the direction, added there" if mode == ADD else "its direction projected out everywhere"
    parts = [note]
    for label, interventions in (("As it is", []), (f"Layer {layer}: {how}", changes)):
        prompts = chat_prompts(model, [text])
        score = score_prompts(model, prompts, refuse, *interventions).sigmoid().item()
        [answer] = generate(model, prompts, ANSWER, *interventions)
        parts.append(_answer_html(label, answer, f"a refusal rather than help: {score:.1%}"))
    return "".join(parts) + ("" if mode == ADD else INERT)


class RefusalDial(Demo):
    """Controls for a request, a layer, a multiple and the kind of change, and a ``panel`` with the answer before and after."""

    def __init__(self, model: TransformerBridge, found: Directions, refuse: Metric, layer: int, request: str) -> None:
        super().__init__(
            "A dial for refusal",
            lambda **values: dial_html(model, found, refuse, **values),
            {"request": text_field(request, "Request")},
            {
                "layer": slider(layer, 0, model.cfg.n_layers - 1, "Layer"),
                "multiple": slider(1.5, -3, 3, "Multiple", step=0.5),
                "mode": dropdown(MODES, "Change"),
            },
        )


Named = Mapping[str, tuple[int, Float[Tensor, "d_model"]]]  # directions by name, each with the layer where it is added


@as_text
def steering_html(
    model: TransformerBridge, directions: Named, prompt: str, first: str, strength: float, second: str, other_strength: float
) -> str:
    """What follows a prompt with two directions added, each with a strength of its own, as HTML, and how odd the plain model finds it."""
    text, note = cut(model, prompt)
    changes = []
    for name, scale in ((first, strength), (second, other_strength)):
        layer, vector = chosen(directions, name, "direction")
        changes.append(add_at(layer, vector, within(scale, LARGEST, "multiple")))
    label = f"{strength:g} × {first}, {other_strength:g} × {second}"
    return note + answer_with(model, text, "As it is") + answer_with(model, text, label, *changes)


def answer_with(model: TransformerBridge, text: str, label: str, *changes: Intervention) -> str:
    """What follows a text with some interventions, and how odd the plain model finds it."""
    [answer] = generate(model, [text], ANSWER, *changes)
    return _answer_html(label, answer, f"perplexity to the plain model {perplexity(model, [f'{text} {answer}']):.1f}")


class SteeringLab(Demo):
    """Controls for a prompt and two directions with their strengths, and a ``panel`` with the text and its perplexity."""

    def __init__(self, model: TransformerBridge, directions: Named, prompt: str) -> None:
        names = list(directions)
        super().__init__(
            "A lab for steering",
            lambda **values: steering_html(model, directions, **values),
            {"prompt": text_field(prompt, "Prompt")},
            {"first": dropdown(names, "Direction"), "strength": slider(1.5, -3, 3, "Strength", step=0.5)},
            {"second": dropdown(names, "and", names[-1]), "other_strength": slider(0.0, -3, 3, "Strength", step=0.5)},
        )


@as_text
def task_vector_html(
    model: TransformerBridge, vectors: Mapping[str, Float[Tensor, "layer d_model"]], task: str, layer: int, word: str
) -> str:
    """The five likeliest tokens after ``word:``, as it is and with a task's vector added after a block at the colon, as HTML."""
    vector = chosen(dict(enumerate(chosen(vectors, task, "task"))), layer, "layer")
    if not word.strip():
        raise ValueError("There is no word: write one, such as hot.")
    prompt = f"{word.strip()}:"
    before = top_tokens(model, prompt, 5)
    with intervene(model, add(resid_post(layer), vector, pos=len(truncate(model, tokenize(model, prompt))) - 1)):
        after = top_tokens(model, prompt, 5)
    return columns_html({"as it is": before, f"{task}, layer {layer}": after})


class TaskVectorBench(Demo):
    """Controls for a task, a layer and a word, and a ``panel`` with the next tokens before and after."""

    def __init__(self, model: TransformerBridge, vectors: Mapping[str, Float[Tensor, "layer d_model"]], layer: int, word: str) -> None:
        super().__init__(
            "A bench for task vectors",
            lambda **values: task_vector_html(model, vectors, **values),
            {
                "word": text_field(word, "Word", width="16em"),
                "task": dropdown(list(vectors), "Task"),
                "layer": slider(layer, 0, model.cfg.n_layers - 1, "Layer"),
            },
        )
