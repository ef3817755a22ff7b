"""The widgets of lesson 2a, "One layer": a dial for refusal, a lab for steering with two directions, and a bench for task vectors."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape

from jaxtyping import Float
from torch import Tensor

from helpers.interventions import Intervention, add, intervene, resid_post
from helpers.metrics import token_set_log_odds
from helpers.models import TransformerBridge
from helpers.one_layer.directions import Directions, ablate_direction, add_at
from helpers.prediction import tokenize, top_tokens, truncate
from helpers.running import chat_prompts, generate, losses, score_prompts
from helpers.widgets import Demo, bars_html, dropdown, said, slider, text_field

MODES = ("add at this layer", "project out everywhere")
INERT = "<p><small>Projecting out takes away whatever lies along the direction: the multiple plays no part.</small></p>"
ANSWER = 5  # tokens of an answer
LARGEST = 100.0  # no multiple of a direction beyond it: the model would only stammer


def _multiple(value: float) -> float:
    """A multiple that can be added. Raises ValueError for one that is no number or far too large."""
    if not abs(value) <= LARGEST:
        raise ValueError(f"The multiple must be a number from {-LARGEST:g} to {LARGEST:g}, not {value}.")
    return float(value)


def cut(model: TransformerBridge, text: str) -> tuple[str, str]:
    """The end of a text that is too long for the model with an answer behind it, and HTML that says so; for others the text, and nothing.

    Raises ValueError where there is no text.
    """
    if not text.strip():
        raise ValueError("There is nothing to answer: write something.")
    tokens, space = tokenize(model, text), model.cfg.n_ctx - 2 * ANSWER
    if len(tokens) <= space:
        return text, ""
    said_of_it = f"The text has {len(tokens):,} tokens, and there is room for {space}: the first {len(tokens) - space:,} are cut off."
    return model.tokenizer.decode(tokens[-space:].tolist()), f"<p><small>{said_of_it}</small></p>"


@lru_cache(maxsize=64)
def plain_answer(model: TransformerBridge, prompt: str, tokens: int) -> str:
    """What the untouched model says; remembered, since a slider moves often and the prompt seldom."""
    return generate(model, [prompt], tokens)[0]


@lru_cache(maxsize=64)
def plain_metric(model: TransformerBridge, prompt: str, refusals: tuple[int, ...]) -> float:
    """How likely the untouched model begins with one of these tokens; remembered as well."""
    return score_prompts(model, [prompt], token_set_log_odds(refusals)).sigmoid().item()


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
    changes = [add_at(layer, vector, _multiple(multiple))] if mode == MODES[0] else ablate_direction(model, vector)
    text, note = cut(model, request)
    [prompt] = chat_prompts(model, [text])
    before, after = (
        plain_metric(model, prompt, tuple(refusals)),
        score_prompts(model, [prompt], token_set_log_odds(refusals), *changes).sigmoid().item(),
    )
    answer = generate(model, [prompt], ANSWER, *changes)[0]
    adding = mode == MODES[0]
    how = f"{multiple:g} × the direction, added there" if adding else "its direction projected out everywhere"
    parts = (("As it is", plain_answer(model, prompt, ANSWER), before), (f"Layer {layer}: {how}", answer, after))
    html = "".join(_answer_html(label, said_of_it, f" (refuses with probability {score:.1%})") for label, said_of_it, score in parts)
    return note + html + ("" if adding else INERT)


class RefusalDial(Demo):
    """Controls for a request, a layer, a multiple and the kind of change, and a ``panel`` with the answer before and after."""

    def __init__(self, model: TransformerBridge, found: Directions, refusals: Sequence[int], layer: int, request: str) -> None:
        super().__init__(
            "A dial for refusal",
            lambda **values: dial_html(model, found, refusals, **values),
            {"request": text_field(request, "Request")},
            {
                "layer": slider(layer, 0, model.cfg.n_layers - 1, "Layer"),
                "multiple": slider(1.0, -3, 3, "Multiple", step=0.5),
                "mode": dropdown(MODES, "Change"),
            },
        )


# ------------------------------------------------------------------------------------------------------- the steering lab

Named = Mapping[str, tuple[int, Float[Tensor, "d_model"]]]  # directions by name, each with the layer where it is added


@said
def steering_html(
    model: TransformerBridge, directions: Named, prompt: str, first: str, strength: float, second: str, other_strength: float
) -> str:
    """What follows a prompt with two directions added, each with a strength of its own, as HTML, and how odd the plain model finds it."""
    (text, note), changes = cut(model, prompt), []
    for name, scale in ((first, strength), (second, other_strength)):
        if name not in directions:
            raise ValueError(f"There is no direction {name!r}; choose one of: {', '.join(directions)}.")
        layer, vector = directions[name]
        changes.append(add_at(layer, vector, _multiple(scale)))
    parts = [_steered(model, text, "As it is", [])]
    parts.append(_steered(model, text, f"{strength:g} × {first}, {other_strength:g} × {second}", changes))
    return note + "".join(parts)


def _steered(model: TransformerBridge, text: str, label: str, changes: Sequence[Intervention]) -> str:
    answer = generate(model, [text], ANSWER, *changes)[0] if changes else plain_answer(model, text, ANSWER)
    return _answer_html(label, answer, f" (perplexity to the plain model {oddness(model, f'{text} {answer}'):.1f})")


class SteeringLab(Demo):
    """Controls for a prompt and two directions with their strengths, and a ``panel`` with the text and its perplexity."""

    def __init__(self, model: TransformerBridge, directions: Named, prompt: str) -> None:
        names = list(directions)
        super().__init__(
            "A lab for steering",
            lambda **values: steering_html(model, directions, **values),
            {"prompt": text_field(prompt, "Prompt")},
            {"first": dropdown(names, "Direction"), "strength": slider(1.0, -3, 3, "Strength", step=0.5)},
            {"second": dropdown(names, "and", names[-1]), "other_strength": slider(0.0, -3, 3, "Strength", step=0.5)},
        )


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
    last = len(truncate(model, tokenize(model, prompt))) - 1
    before = top_tokens(model, prompt, 5)
    with intervene(model, add(resid_post(layer), vectors[task][layer], pos=last)):
        after = top_tokens(model, prompt, 5)
    cells = "".join(
        f"<td style='vertical-align:top;padding-right:24px'><b>{escape(head)}</b>{bars_html(top)}</td>"
        for head, top in (("as it is", before), (f"{task}, layer {layer}", after))
    )
    return f"<table><tr>{cells}</tr></table>"


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
