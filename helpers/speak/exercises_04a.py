"""The exercises of notebook 04a, "Thoughts: lens and memories": what each asks for, and what its check says to an answer."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from helpers.activations import Neuron
from helpers.answers import expect, expect_callable, expect_close, expect_indices, expect_number, expect_tensor, expect_text, expect_unlike
from helpers.cluster.fact_prompts import FactPrompt
from helpers.exercises import Exercises
from helpers.models import TransformerBridge
from helpers.prediction import token_id
from helpers.running import lens_logits
from helpers.speak.fact_edits import GROUPS, EditPrompts, EditScores, edit_values
from helpers.speak.knowledge_neurons import N_NEURONS, KnowledgeNeurons
from helpers.speak.lens import answer_tokens, block_effects, logit_lens, target_probs
from helpers.speak.memories import Agreement, ReadableValues
from helpers.speak.self_explanations import WHY, self_explanations
from helpers.speak.tuned_lens import TunedLens

exercises = Exercises("04a_speak_lens_and_memories")
exercise, check, score_table = exercises.exercise, exercises.check, exercises.score_table

ANSWER, RIVAL = " Warsaw", " Paris"  # of exercise 4.2
FEW, NEARLY = 4, 0.9  # exercise 4.6 asks for so many neurons at most, and for this part of the score that the usual number reaches


@exercises.add("4.1", "An account that changes", minutes=6)
def changing_account(answer: Any, model: TransformerBridge, why: str = WHY) -> str:
    """A question, a true answer and a false one, after which the model gives two different accounts."""
    expect(isinstance(answer, tuple | list) and len(answer) == 3, "Three texts are needed here: a question, a true answer, a false answer.")
    kinds = ("your question", "your true answer", "your false answer")
    question, true, false = (expect_text(text, what) for text, what in zip(answer, kinds, strict=True))
    own = self_explanations(model, [question]).answers[0]
    asked = re.search(r"(\d+) *(?:\+|and|plus) *(\d+)", question)
    right = str(int(asked[1]) + int(asked[2])) if asked else _last_word(own)
    says = f"{asked[0]} is {right}" if asked else f"The model's own answer is {own!r}"
    stands = re.compile(rf"(?<!\w){re.escape(right)}(?!\w)")
    expect(bool(stands.search(true)), f"{says}, and your true answer does not have {right!r} in it.")
    expect(not stands.search(false), f"Your false answer has {right!r} in it, which is true: put something else there.")
    reasons = [self_explanations(model, [question], [text], why).reasons[0] for text in (true, false)]
    expect(reasons[0] != reasons[1], f"Here both accounts are {reasons[0]!r}. Try another question.")
    return f"{reasons[0]!r} after {true!r}, and {reasons[1]!r} after {false!r}: another story, for an answer that it never gave."


def _last_word(text: str) -> str:
    """The last word of an answer, which is what it answers."""
    words = text.rstrip(".!? ").split()
    expect(bool(words), "The model does not answer this question: ask for a fact or a sum.")
    return words[-1]


@exercises.add("4.2", "Who is against it?", minutes=6)
def who_is_against(answer: Any, model: TransformerBridge) -> str:
    """The name of the part that adds least to Warsaw over Paris."""
    name = expect_text(answer, "your name")
    right, wrong = (torch.tensor([token_id(model, word)]) for word in (ANSWER, RIVAL))
    effects = block_effects(model, ["The capital of Poland is"], right, wrong)
    expect(name in effects.names, f"There is no part {name!r}: they are called {', '.join(effects.names[:3])} and so on.")
    value, least = effects.effect[effects.names.index(name), 0].item(), effects.effect[:, 0].argmin().item()
    expect(name == effects.names[least], f"{name} adds {value:+.2f} logits; another part adds less. Is the second word{RIVAL}?")
    why = " It is what the biases add in every text: they lean to one word, whatever is asked." * (name == "constant")
    return f"{name} adds {value:+.2f} logits to{ANSWER} over{RIVAL}; all parts together {effects.effect.sum():+.1f}.{why}"


@exercises.add("4.3", "Build the lens", minutes=8)
def build_the_lens(answer: Any, model: TransformerBridge) -> str:
    """A function from states [n, d_model] to the lens' probabilities [n, d_vocab]."""
    function = expect_callable(answer)
    states = 3 * torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [2.0], [-1.0]])
    with torch.no_grad():
        found = expect_tensor(function(model, states), 3, model.cfg.d_vocab, what="what your function returns")
        right = lens_logits(model, states).float()
        bare = states @ model.W_U + model.b_U
    states_too = "Your softmax runs over the states; it belongs over the words: softmax(-1)."
    expect_unlike(found, {"These are logits; take the softmax over the words.": right, states_too: right.softmax(0)})
    for unnormed in (bare, bare.softmax(-1)):
        expect_unlike(found, {"The final norm is missing: subtract the mean and divide by the standard deviation.": unnormed}, 1e-3)
    hint = "Mean and spread belong to each state by itself: mean(-1, keepdim=True)."
    expect_close(found, right.softmax(-1), "your probabilities", hint, 1e-3)
    return "Final norm, unembedding, softmax: that is all of it."


@exercises.add("4.4", "Overtaken", minutes=8)
def overtaken(answer: Any, model: TransformerBridge, facts: Sequence[FactPrompt], tuned: TunedLens) -> str:
    """The number of a fact whose answer appears on top, is overtaken and comes back, and the word that overtakes it."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: a number and a word.")
    (number,) = expect_indices(answer[0], "your number", fact=len(facts))
    word, fact = expect_text(answer[1], "your word"), facts[number]
    scores = target_probs(model, [fact.text], [answer_tokens(model, fact.answer)], tuned=tuned)
    first, last = scores.appears[0].item(), scores.leads[0].item()
    expect(last == last, f"{fact.answer!r} is not on top at the end of {fact.text!r} at all.")
    expect(first < last, f"{fact.answer!r} comes out on top at layer {first:g} and stays there: take a fact where it is overtaken.")
    found = logit_lens(model, fact.text, tuned=tuned)
    lost = [layer for layer in range(int(first), int(last)) if not scores.on_top[layer + 1, 0]]  # the rows begin with "in"
    over = [found.cell(layer)[0][0].strip() for layer in lost]
    expect(word in over, f"{fact.answer!r} is overtaken there, and not by {word!r}: read the layers from {first:g} to {last:g}.")
    return f"{fact.text} …: {fact.answer} at layer {first:g}, then {word}, and from layer {last:g} on {fact.answer} again."


@exercises.add("4.5", "A drawer with a label", minutes=8)
def labelled_drawer(answer: Any, read: ReadableValues, agree: Agreement, shown: Sequence[Neuron] = ()) -> str:
    """A neuron whose value is readable and whose top word follows its top trigger, and none of those ``shown`` in the lesson."""
    layer, neuron = expect_indices(answer, "your neuron", layer=len(read.layers), neuron=read.found.shape[1])
    expect((layer, neuron) not in shown, f"L{layer} N{neuron} stands in the lesson: find another one.")
    category = read.category(layer, neuron)
    expect(category is not None, f"The value of L{layer} N{neuron} is not readable: fewer than {read.least} of its words are in one list.")
    expect(
        bool(agree.hits[agree.layers.index(layer), neuron]),
        f"L{layer} N{neuron} is readable ({category}), but the word that it promotes most does not follow its top trigger.",
    )
    return f"L{layer} N{neuron}: a drawer for the kind {category!r} that opens where such a word comes next."


@exercises.add("4.6", "Edit with a light hand", minutes=15)
def light_hand(answer: Any, model: TransformerBridge, others: Sequence[EditPrompts], found: Sequence[KnowledgeNeurons]) -> str:
    """A number of neurons and a strength, judged on facts for which they were not chosen."""
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "A pair is needed here: a number of neurons and a strength.")
    n, plus = int(expect_number(answer[0], 1, FEW, "your number of neurons")), expect_number(answer[1], 0.01, 50, "your strength")
    mine, usual = edit_values(model, others, found, n, plus), edit_values(model, others, found)
    told = f"On the facts that you did not see your score is {mine.score:.2f} ({_told(mine)})"
    wanted = NEARLY * usual.score
    expect(mine.score >= wanted, f"{told}, and {wanted:.2f} is wanted, {NEARLY:.0%} of what {N_NEURONS} neurons reach.")
    return f"{told}; {N_NEURONS} neurons reach {usual.score:.2f} there."


def _told(edits: EditScores) -> str:
    return ", ".join(f"{group} {edits.mean(group):.0%}" for group in GROUPS if edits.values(group))
