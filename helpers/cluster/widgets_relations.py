"""The widgets of lesson 3a, "A model of the model": ask a map and the model the same, edit a fact, and keep the last token from looking."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.fact_prompts import FactPrompt
from helpers.cluster.knockout import cut_attention, source_masks
from helpers.cluster.linear_relations import LinearRelation, RelationStates, relation_states
from helpers.cluster.relation_reports import edit_delta
from helpers.cluster.relations import RelationData
from helpers.cluster.widgets_circuits import top_of
from helpers.html import DEEPEST, WARM
from helpers.inputs import check_number, chosen
from helpers.interventions import add, intervene
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.prediction import next_token_probs, pieces, tokenize, visible
from helpers.running import check_layers, layer_hook, lens_logits, random_like
from helpers.widgets import (
    LARGEST,
    Demo,
    as_text,
    choice_slider,
    clean,
    columns_html,
    dropdown,
    framed,
    named_layer,
    slider,
    text_field,
    within,
)

SHOWN = 5  # next tokens in a column
NAMED = 6  # subjects that are named below a picture
CUT = {"subject": "the subject", "relation": "the relation", "random": "random tokens"}  # sources, and their names
SEED = 0  # of random vectors and random tokens
Editor = tuple[RelationData, LinearRelation, int]  # a relation, its map, and the rank that its edits have


def about(data: RelationData, subject: str) -> RelationData:
    """The relation with one subject, whatever a person wrote. Raises ValueError where nothing is written."""
    if not (letters := clean(subject)):
        raise ValueError(f"There is no subject: write one, such as {data.subjects[0]}.")
    return replace(data, subjects=(letters,), objects=("unknown",))


def _columns(model: TransformerBridge, columns: Mapping[str, Float[Tensor, "d_vocab"]]) -> str:
    """Bars of the likeliest next tokens side by side, each under its heading."""
    return columns_html({head: top_of(model, probs, SHOWN) for head, probs in columns.items()})


def _token(model: TransformerBridge, token: Int[Tensor, ""]) -> str:
    """A token, to be read."""
    return visible(pieces(model, token[None])[0])


def _prompt_html(asked: RelationData) -> str:
    return f"<p>{escape(asked.prompts[0])} …</p>"


def _subjects_html(data: RelationData) -> str:
    names = ", ".join(data.subjects[:NAMED])
    return f"<p><small>Subjects of this relation: {escape(names)}{' and others' if len(data) > NAMED else ''}.</small></p>"


@as_text
def relation_html(
    model: TransformerBridge,
    surrogates: Mapping[str, tuple[RelationData, LinearRelation]],
    fitted: Mapping[str, Collection[str]],
    relation: str,
    subject: str,
) -> str:
    """What a relation's map and the model say of a subject, side by side, as HTML, and whether they agree.

    ``fitted`` names the subjects from which each map was fitted. Whatever cannot be done is said in a sentence.
    """
    data, surrogate = chosen(surrogates, relation, "relation")
    asked = about(data, subject)
    states = relation_states(model, asked, [surrogate.layer])
    ours, own = lens_logits(model, torch.cat([surrogate(states.s[0]), states.o])).float().softmax(-1).cpu()
    mapped, true = ours.argmax(), own.argmax()
    differ = f"They differ: the map says {_token(model, mapped)}, the model {_token(model, true)}."
    verdict = f"Both say {_token(model, true)}." if mapped == true else differ
    head = f"the map ({surrogate.kind}, {named_layer(surrogate.layer)}, beta {surrogate.beta:g})"
    bars = _columns(model, {head: ours, "the model": own})
    own_subjects, name = fitted[relation], asked.subjects[0]
    familiar = f"The map was fitted on {len(own_subjects)} subjects, {'among them' if name in own_subjects else 'not on'} {name}."
    return f"{_prompt_html(asked)}{bars}<p><b>{escape(verdict)}</b> {escape(familiar)}</p>{_subjects_html(data)}"


class RelationExplorer(Demo):
    """Controls for a relation and a subject, any text, and a ``panel`` with what the relation's map and the model say of it.

    ``fitted``: for each relation the subjects from which its map was fitted. Raises ValueError where there is no relation.
    """

    def __init__(
        self,
        model: TransformerBridge,
        surrogates: Mapping[str, tuple[RelationData, LinearRelation]],
        fitted: Mapping[str, Collection[str]],
    ) -> None:
        relation = dropdown(list(surrogates), "Relation")
        subject = text_field(surrogates[relation.value][0].subjects[0], "Subject", width="20em")
        super().__init__(
            "Ask a map and the model the same",
            lambda **values: relation_html(model, surrogates, fitted, **values),
            {"relation": relation, "subject": subject},
        )


@as_text
def edit_html(
    model: TransformerBridge, editors: Mapping[str, Editor], relation: str, subject: str, other: str, rank: int, strength: float
) -> str:
    """The next tokens after a prompt as it is, with its subject edited so that it gets another one's answer, and with a random vector.

    ``strength`` is the multiple of the edit that is added; the random vector is as long. Whatever cannot be done is said in a sentence.
    """
    data, surrogate, _ = chosen(editors, relation, "relation")
    within(strength, LARGEST, "strength")
    asked, wished = (relation_states(model, about(data, name), [surrogate.layer]) for name in (subject, other))
    delta = edit_delta(surrogate, asked.o[0], wished.o[0], rank)

    def pushed(vector: Float[Tensor, "d_model"]) -> Float[Tensor, "d_vocab"]:
        with intervene(model, add(layer_hook(surrogate.layer), strength * vector, pos=int(asked.subject[0]))):
            return next_token_probs(model, asked.data.prompts[0])

    before, after, by_chance = map(pushed, (0 * delta, delta, random_like(delta, 1, SEED)[0]))
    bars = _columns(model, {"as it is": before, f"{strength:g} × the edit": after, "a random vector, as long": by_chance})
    size, state = delta.norm().item(), asked.s[0, 0].norm()
    added = f"The edit is {size:.1f} long and {abs(strength) * size:.1f} were added"
    lengths = f"<p>{added}, to a state at {named_layer(surrogate.layer)} that is {state:.1f} long.</p>"
    return f"{_prompt_html(asked.data)}{bars}{_verdict(model, wished, before, after, by_chance)}{lengths}{_subjects_html(data)}"


def _verdict(model: TransformerBridge, wished: RelationStates, *probs: Float[Tensor, "d_vocab"]) -> str:
    """Is the likeliest token the one that was wished for? Its probability as it is, after the edit, and with the random vector."""
    token, [subject] = int(wished.token), wished.data.subjects
    done = "The edit gives it" if int(probs[1].argmax()) == token else "The edit does not give it"
    before, after, by_chance = (f"{one[token]:.1%}" for one in probs)
    words = f"Wished for: {_token(model, wished.token[0])}, as after {subject}. {done}:"
    return f"<p><b>{escape(words)}</b> its probability is {after}; it was {before}, and is {by_chance} with the random vector.</p>"


class FactEditor(Demo):
    """Controls for a relation, a subject, the subject whose answer is wished for, the rank and the strength of the edit, and a ``panel``
    with the next tokens as they are, edited, and with a random vector.

    A new relation brings its rank, and subjects of its own unless somebody wrote others. Raises ValueError where there is no relation.
    """

    def __init__(self, model: TransformerBridge, editors: Mapping[str, Editor]) -> None:
        self._editors = editors
        relation = dropdown(list(editors), "Relation")
        data, _, rank = editors[relation.value]
        subject, other = _two_subjects(data)
        ranks = {2**power for power in range(model.cfg.d_model.bit_length())} | {model.cfg.d_model} | {one[2] for one in editors.values()}
        super().__init__(
            "Edit a fact here",
            lambda **values: edit_html(model, editors, **values),
            {
                "relation": relation,
                "subject": text_field(subject, "Subject", width="20em"),
                "other": text_field(other, "Wished for: the answer of", width="24em"),
            },
            {"rank": choice_slider(sorted(ranks), rank, "Rank"), "strength": slider(1.0, -1, 3, "Strength", step=0.25)},
        )

    def follow(self, before: Mapping[str, Any]) -> None:
        """A new relation: its rank, and its subjects where those of the former one stood."""
        if (old := before.get("relation", self.relation.value)) == self.relation.value:
            return
        former, (data, _, rank) = self._editors[old][0], self._editors[self.relation.value]
        self.rank.value = rank
        for control, subject in zip((self.subject, self.other), _two_subjects(data), strict=True):
            if control.value in former.subjects and control.value not in data.subjects:
                control.value = subject


def _two_subjects(data: RelationData) -> tuple[str, str]:
    """The first subject, and one with another answer if there is any."""
    first, answer = data.subjects[0], data.objects[0]
    return first, next((name for name, other in data.answer_of.items() if other != answer), data.subjects[-1])


@as_text
def knockout_html(model: TransformerBridge, facts: Mapping[str, FactPrompt], fact: str, source: str, first: int, width: int) -> str:
    """The next tokens after a fact's prompt, as it is and while the last token cannot look at a source in some layers, as HTML.

    ``facts`` are named by their texts. Whatever cannot be done is said in a sentence.
    """
    asked = chosen(facts, fact, "fact")
    check_layers(model, [first], first=0)
    check_number("The window has a number of layers", width, high=model.cfg.n_layers)
    window, masks = range(first, min(first + width, model.cfg.n_layers)), source_masks(model, [asked], SEED)
    mask = chosen({name: masks[name] for name in CUT}, source, "source")
    before = next_token_probs(model, asked.text)
    with intervene(model, *(cut_attention(layer, mask) for layer in window)):
        after = next_token_probs(model, asked.text)
    bars = _columns(model, {"as it is": before, f"without looking at {CUT[source]}": after})
    [token] = first_tokens(model, [asked.text], [asked.answer])
    name, was, now = _token(model, token), before[token].item(), after[token].item()
    change = f"{(now - was) / was:+.1%}" if was else "not defined, since it was 0"
    told = f"The probability of the answer, {escape(name)}, was {was:.1%} and is {now:.1%}: a change of <b>{change}.</b>"
    return f"{_cut_html(model, asked, mask[0], window)}{bars}<p>{told}</p>"


def _cut_html(model: TransformerBridge, fact: FactPrompt, mask: Bool[Tensor, "pos"], window: range) -> str:
    """The tokens of a prompt, coloured where they are cut off, and the same in words."""
    tokens = [visible(piece) for piece in pieces(model, tokenize(model, fact.text))]
    colours = [f";background:rgba({WARM},{DEEPEST})" if cut else "" for cut in mask.tolist()]
    frames = "".join(map(framed, tokens, colours))
    layers = f"layer {window[0]}" if len(window) == 1 else f"layers {window[0]} to {window[-1]}"
    gone = ", ".join(tokens[at] for at in mask.nonzero().flatten().tolist())
    words = f"In {layers} the last token, {tokens[-1]}, cannot look at {gone}." if gone else "Nothing is cut: there are no such tokens."
    return f"<p>{frames}</p><p><b>{escape(words)}</b></p>"


class KnockoutBench(Demo):
    """Controls for a fact, a source and a window of layers, and a ``panel`` with the next tokens before and after the cut.

    ``first``: the layer in which the window begins. Raises ValueError where there is no fact.
    """

    def __init__(self, model: TransformerBridge, facts: Sequence[FactPrompt], first: int) -> None:
        named, n_layers = {fact.text: fact for fact in facts}, model.cfg.n_layers
        super().__init__(
            "Keep the last token from looking",
            lambda **values: knockout_html(model, named, **values),
            {
                "fact": dropdown(list(named), "Fact"),
                "source": dropdown([(called, name) for name, called in CUT.items()], "The last token cannot look at"),
            },
            {
                "first": slider(first, 0, n_layers - 1, "First layer"),
                "width": slider(min(3, n_layers), 1, n_layers, "Number of layers"),
            },
        )
