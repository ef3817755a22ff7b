"""AI explains AI: one program writes a sentence about a neuron, another predicts the neuron from the sentence alone.

After Bills et al. (2023, "Language models can explain neurons in language models"): an *explainer* sees texts with the neuron's
activations and writes one sentence; a *simulator* gets the sentence and new texts, and guesses an activation from 0 to 10 for
every token; the *score* is the correlation of guesses and activations on texts that the explainer has not seen, half of them
the neuron's own best, half drawn at random. There both are large language models. Here the explainer is any function from
contexts to a sentence; the one built in, and the simulator (``simulate``), share a toy language, so that the game can be played offline.

The toy language. A sentence is made of clauses, separated by semicolons. A clause names what the neuron is active on, and
where; of things of one sort any may hold, things of different sorts must hold together:

    what   "Paris", "New York"            the text up to this token ends with these words
           words ending in "s", words starting with "un"
           numbers, capitalised words, punctuation, line breaks, Chinese characters, accented letters, chat marks,
           later pieces of a word
    where  after "of", before "is"         the words right before or after this token
           after numbers, before Chinese characters    the same for a kind of token
           in texts with "Poland"          somewhere before this token
           at the start of a sentence, at the start of a line, at the start of the text, inside quotation marks,
           in an answer of the assistant

    Active on "is" and "are", after "capital" or "city"; weakly on numbers, in texts with "euro".

*weakly* halves the guess. Everything else is read over, so a person may write freely around these words. Capital letters do
not matter.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from helpers.activations import Context, Neuron, TopContexts, contexts, name
from helpers.models import ModelNotAvailable, TransformerBridge, load_model
from helpers.running import chat_prompts, generate

Explainer = Callable[[Sequence[Context]], str]
Flags = Bool[ndarray, "pos"]

STRONG, WEAK = 10.0, 5.0
NOTHING = "Active on nothing in particular."
KIND = " a kind"  # of token: "before a kind" has the name of a class as its word, "before" a word itself


# ------------------------------------------------------------------------------------------------------- the toy language


@dataclass(frozen=True)
class Condition:
    """Something that holds at a token or does not: a fixed phrase, or a kind of ``SPOKEN`` with what stands in quotation marks.

    With ``KIND`` behind it, *after* and *before* have a fixed phrase as their word.
    """

    kind: str
    word: str = ""

    @property
    def sort(self) -> str:
        """Conditions of one sort are alternatives: *what* the token is, and several sorts of *where*."""
        first = self.kind.removesuffix(KIND)
        return first if first in ("after", "before", "with") else "place" if self.kind in PLACES else "what"


Look = Callable[[Condition], Flags]  # at which tokens a condition holds


@dataclass(frozen=True)
class Clause:
    """Conditions, and the guess where they hold: of each sort at least one must."""

    conditions: tuple[Condition, ...]
    level: float = STRONG

    def guess(self, look: Look) -> Float[ndarray, "pos"]:
        """Its level at every token where it holds, 0 elsewhere."""
        sorts = {condition.sort for condition in self.conditions}
        groups = [np.logical_or.reduce([look(c) for c in self.conditions if c.sort == sort]) for sort in sorts]
        return self.level * np.logical_and.reduce(groups)


PLACES: dict[str, Callable[[str, str], bool]] = {  # from the text before a token, and the token, to whether it stands there
    "at the start of a sentence": lambda before, piece: not before.strip() or before.rstrip(" ").endswith((".", "!", "?", "\n", "|>")),
    "at the start of a line": lambda before, piece: not before.strip() or before.endswith("\n"),
    "at the start of the text": lambda before, piece: len(before.split()) < 2,
    "inside quotation marks": lambda before, piece: before.count('"') % 2 == 1,
    "in an answer of the assistant": lambda before, piece: before.rpartition("<|")[2].startswith("assistant|>"),
}
CLASSES: dict[str, Callable[[str, str], bool]] = {
    "numbers": lambda before, piece: piece.strip().isdigit(),
    "capitalised words": lambda before, piece: piece.strip()[:1].isupper() and not _inside_word(before, piece),
    "punctuation": lambda before, piece: bool(piece.strip()) and not re.search(r"\w|<\||�", piece),
    "line breaks": lambda before, piece: "\n" in piece,
    "Chinese characters": lambda before, piece: any("㐀" <= letter <= "鿿" for letter in piece),
    "accented letters": lambda before, piece: any("À" <= letter <= "ɏ" for letter in piece),
    "chat marks": lambda before, piece: piece.strip().startswith("<|"),
    "later pieces of a word": lambda before, piece: _inside_word(before, piece),
}
AFFIXES = {"ending": "words ending in", "starting": "words starting with"}
SORTS = {"what": "on ", "after": "after ", "before": "before ", "place": "", "with": "in texts with "}  # and how each begins
SPOKEN = ("on", *AFFIXES, "after", "before", "with")  # the kinds that have words of their own


def _inside_word(before: str, piece: str) -> bool:
    """Does the piece go on with the word that the text before it ends in?"""
    return before[-1:].isalpha() and piece[:1].isalpha()


@lru_cache(maxsize=20_000)
def holds(condition: Condition, pieces: tuple[str, ...]) -> Flags:
    """At which tokens of a text a condition holds."""
    if condition.kind.endswith(KIND):
        there = holds(Condition(condition.word), pieces)
        return np.concatenate([there[1:], [False]] if condition.kind.startswith("before") else [[False], there[:-1]])
    if condition.kind == "before":
        return np.array([_begins_with("".join(pieces[place + 1 : place + 5]), condition.word) for place in range(len(pieces))], dtype=bool)
    check = CLASSES.get(condition.kind) or PLACES.get(condition.kind) or _spoken(condition)
    return np.array([check(before, piece) for before, piece in zip(_befores(pieces), pieces, strict=True)], dtype=bool)


@lru_cache(maxsize=2_000)
def _befores(pieces: tuple[str, ...]) -> list[str]:
    """The text before each piece."""
    return ["".join(pieces[:place]) for place in range(len(pieces))]


def _spoken(condition: Condition) -> Callable[[str, str], bool]:
    """The check of a condition that has words of its own."""
    word = condition.word
    return {
        "on": lambda before, piece: piece.strip().casefold() == word or _ends_with(before + piece, word),
        "ending": lambda before, piece: piece.strip().casefold().endswith(word) and piece.strip().casefold() != word,
        "starting": lambda before, piece: piece.strip().casefold().startswith(word) and not _inside_word(before, piece),
        "after": lambda before, piece: _ends_with(before, word),
        "with": lambda before, piece: word in before.casefold(),
    }[condition.kind]


def _ends_with(text: str, word: str) -> bool:
    """Does a text end in this word, as a word of its own?"""
    text = text[-200:].casefold().rstrip()
    return text.endswith(word) and not (word[:1].isalpha() and text[: -len(word)][-1:].isalpha())


def _begins_with(text: str, word: str) -> bool:
    """Does a text begin with this word, as a word of its own?"""
    text = text.casefold().lstrip()
    return text.startswith(word) and not (word[-1:].isalpha() and text[len(word) :][:1].isalpha())


def write(clauses: Sequence[Clause]) -> str:
    """The sentence that says these clauses; ``read`` understands it."""
    parts = [f"{'weakly ' if clause.level == WEAK else ''}{_write_conditions(clause.conditions)}" for clause in clauses]
    return f"Active {'; '.join(parts)}." if parts else NOTHING


def _write_conditions(conditions: Sequence[Condition]) -> str:
    """The conditions sort by sort, *what* first; words in quotation marks before fixed phrases."""
    told = []
    for sort, opening in SORTS.items():
        here = [c for c in conditions if c.sort == sort]
        phrases = [f'"{c.word}"' for c in here if c.kind in SORTS or c.kind == "on"]
        fixed = [c for c in here if c.kind not in SORTS and c.kind != "on"]
        phrases += [f'{AFFIXES[c.kind]} "{c.word}"' if c.kind in AFFIXES else c.word or c.kind for c in fixed]
        if phrases:
            told.append(opening + " or ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]])))
    return ", ".join(told)


_TOKENS = re.compile(
    "|".join(
        [
            r'"(?P<straight>[^"]{1,200})"|“(?P<curly>[^”]{1,200})”',
            r"(?P<ending>\b(?:ending|end|ends) (?:in|with)\b)|(?P<starting>\b(?:starting|start|starts|beginning) with\b)",
            f"(?P<fixed>{'|'.join(map(re.escape, [*PLACES, *CLASSES]))})",
            r"(?P<weak>\bweakly\b)|(?P<after>\bafter\b)|(?P<before>\bbefore\b)|(?P<with>\btexts? with\b)|(?P<on>\bon\b)|(?P<next>;)",
        ]
    ),
    re.IGNORECASE,
)


def read(sentence: str) -> list[Clause]:
    """The clauses that a sentence says in the toy language; whatever else it says is read over."""
    clauses, conditions, level, role = [], [], STRONG, "on"
    for found in _TOKENS.finditer(sentence + ";"):
        what, text = found.lastgroup, found.group(found.lastgroup)
        if what in ("straight", "curly"):
            conditions += [Condition(role, text.strip().casefold())] if text.strip() else []
        elif what == "fixed":
            kind = next(kind for kind in (*PLACES, *CLASSES) if kind.casefold() == text.casefold())
            near = role in ("after", "before") and kind in CLASSES
            conditions.append(Condition(role + KIND, kind) if near else Condition(kind))
        elif what == "weak":
            level = WEAK
        elif what == "next":
            clauses += [Clause(tuple(dict.fromkeys(conditions)), level)] if conditions else []
            conditions, level, role = [], STRONG, "on"
        else:
            role = what
    return clauses


def simulate(sentence: str, pieces: Sequence[str]) -> list[float]:
    """The built-in simulator: a guess from 0 to 10 for each token, from the sentence alone."""
    text, clauses = tuple(pieces), read(sentence)
    return guess(clauses, lambda condition: holds(condition, text)).tolist() if clauses else [0.0] * len(text)


def guess(clauses: Sequence[Clause], look: Look) -> Float[ndarray, "pos"]:
    """What some clauses guess together: at each token the highest level of those that hold."""
    return np.maximum.reduce([clause.guess(look) for clause in clauses])


# ------------------------------------------------------------------------------------------------- the built-in explainer


def correlation(guesses: Sequence[float] | Float[ndarray, "token"], truth: Sequence[float] | Float[ndarray, "token"]) -> float:
    """Pearson's correlation; 0 where one of the two never changes, since it then tells nothing."""
    x, y = np.asarray(guesses, dtype=float), np.asarray(truth, dtype=float)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length > 1e-12 else 0.0


GAIN = 0.02  # a condition must raise the correlation by this much to be worth its words
MOST = 8  # conditions in a sentence, so that it stays one that a person would read


def explain_simply(seen: Sequence[Context]) -> str:
    """The built-in explainer: adds the condition that raises the correlation on the contexts most, as long as it is worth it.

    It tries the tokens at which the neuron is most active, the words around them, what the texts have in common, and the fixed
    phrases of the toy language, but no kind of token next to this one. It is no language model: it has no idea what words mean.
    """
    if not seen:
        raise ValueError("There is nothing to explain: give at least one context.")
    truth, texts = np.concatenate([context.values for context in seen]), [context.pieces for context in seen]
    flags = {condition: np.concatenate([holds(condition, text) for text in texts]) for condition in _candidates(seen)}
    clauses, best = [], 0.0
    for _ in range(MOST):
        tried = [(correlation(guess(option, flags.__getitem__), truth), option) for option in _steps(clauses, list(flags))]
        value, option = max(tried, key=lambda item: item[0])
        if value < best + GAIN:
            break
        clauses, best = option, value
    return write(clauses)


def _steps(clauses: Sequence[Clause], candidates: Sequence[Condition]) -> Iterator[list[Clause]]:
    """All ways to say one thing more: a condition in a clause, or a new clause, strong or weak."""
    for condition in candidates:
        if any(condition in clause.conditions for clause in clauses):
            continue
        for at, clause in enumerate(clauses):
            yield [*clauses[:at], replace(clause, conditions=(*clause.conditions, condition)), *clauses[at + 1 :]]
        yield [*clauses, Clause((condition,))]
        if clauses:
            yield [*clauses, Clause((condition,), WEAK)]


def _candidates(seen: Sequence[Context], n: int = 12) -> list[Condition]:
    """What the contexts suggest: words weighted by the activation on them, the words around those, and all fixed phrases."""
    weights: dict[str, Counter[str]] = {kind: Counter() for kind in SPOKEN}
    for context in seen:
        words = [piece.strip().casefold() for piece in context.pieces]
        top = max(context.values, default=0.0)
        for at, value in enumerate(context.values):
            if value > top / 4 > 0:
                for kind, word in _suggested(words, at):
                    weights[kind][word] += value
        for word in dict.fromkeys(words[: context.peak]) if top > 0 else ():
            weights["with"][word] += top if len(word) > 2 and word.isalpha() else 0.0
    quotable = re.compile(r'[^"“”\n]+')
    spoken = [Condition(kind, w) for kind, c in weights.items() for w, weight in c.most_common(n) if weight > 0 and quotable.fullmatch(w)]
    return [*spoken, *(Condition(kind) for kind in (*CLASSES, *PLACES))]


def _suggested(words: Sequence[str], at: int) -> Iterator[tuple[str, str]]:
    """What an active token suggests: itself, its neighbours, its first and its last letters."""
    word = words[at]
    yield "on", word
    if at > 0:
        yield "after", words[at - 1]
    if at + 1 < len(words):
        yield "before", words[at + 1]
    if word.isalpha():
        yield from (("ending", word[-size:]) for size in (1, 2, 3) if len(word) > size + 1)
        yield from (("starting", word[:size]) for size in (2, 3) if len(word) > size + 1)


# ----------------------------------------------------------------------------------------------------------------- scores


def score(sentence: str, unseen: Sequence[Context]) -> float:
    """How well a sentence predicts a neuron: the correlation of guesses and activations over all tokens of unseen contexts.

    1 is a perfect prediction, 0 none at all. Raises ValueError if there is no context.
    """
    if not unseen:
        raise ValueError("A sentence can only be scored on contexts: give at least one.")
    guesses = [guess for context in unseen for guess in simulate(sentence, context.pieces)]
    return correlation(guesses, [value for context in unseen for value in context.values])


def mixed_contexts(
    model: TransformerBridge, top: TopContexts, neurons: Sequence[Neuron], n_top: int = 10, n_random: int = 10, seed: int = 0
) -> dict[Neuron, list[Context]]:
    """For each neuron its ``n_top`` best contexts of the texts that ``top`` scanned, then ``n_random`` other texts of them."""
    rng, wanted = Random(seed), {}
    for neuron in neurons:
        best = top.where(*neuron)[0][:n_top]
        others = sorted(set(range(len(top.texts))) - set(best))
        wanted[neuron] = [*best, *rng.sample(others, min(n_random, len(others)))]
    return contexts(model, top.texts, wanted)


@dataclass(frozen=True)
class Explanations:
    """A sentence for each neuron, its score on unseen texts, and the scores there of sentences about other neurons."""

    neurons: tuple[Neuron, ...]
    sentences: tuple[str, ...]
    scores: tuple[float, ...]
    controls: tuple[tuple[float, ...], ...]

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` best explained neurons: score, mean score of other sentences, sentence."""
        order = sorted(range(len(self.scores)), key=lambda at: -self.scores[at])[:n]
        means = [sum(row) / len(row) if row else 0.0 for row in self.controls]
        lines = [f"{name(self.neurons[at]):<10} {self.scores[at]:+.2f}  {means[at]:+.2f}   {self.sentences[at]}" for at in order]
        return "\n".join(["neuron     score  control", *lines])


def explain(
    model: TransformerBridge,
    seen: TopContexts,
    unseen: TopContexts,
    neurons: Sequence[Neuron],
    explainer: Explainer = explain_simply,
    n_controls: int = 5,
    seed: int = 0,
) -> Explanations:
    """Explains each neuron from one set of texts and scores the sentence on another, beside ``n_controls`` about other neurons.

    Explainer and score both get ten top contexts and ten random texts.
    """
    known, new = mixed_contexts(model, seen, neurons, seed=seed), mixed_contexts(model, unseen, neurons, seed=seed + 1)
    sentences, rng = [explainer(known[neuron]) for neuron in neurons], Random(seed)
    scores, controls = [], []
    for at, neuron in enumerate(neurons):
        others = [*sentences[:at], *sentences[at + 1 :]]
        scores.append(score(sentences[at], new[neuron]))
        controls.append(tuple(score(other, new[neuron]) for other in rng.sample(others, min(n_controls, len(others)))))
    return Explanations(tuple(neurons), tuple(sentences), tuple(scores), tuple(controls))


# ------------------------------------------------------------------------------------------------- a chat model explains


INSTRUCTION = """Below are texts in which one neuron of a language model was measured. Behind each token on which it is active \
stands its activation in brackets, from 1 to 10. Say in one short sentence what the neuron is active on. Put the decisive words \
in double quotation marks, for example: Active on "is" or "are", after "capital"; weakly on numbers. You may also use: words \
ending in "...", words starting with "...", before "...", in texts with "...", {phrases}.

{texts}

The sentence:"""


def chat_explainer(model: str, tokens: int = 60) -> Explainer:
    """An explainer that asks a chat model, such as ``"Qwen/Qwen2.5-0.5B-Instruct"``, loaded as every model of the course.

    Raises ModelNotAvailable where it cannot be had, or is no chat model.
    """
    chat = load_model(model)
    if not chat.tokenizer.chat_template:
        remedy = "take one whose name ends in -Instruct or -it"
        raise ModelNotAvailable(f"{model} is no chat model, since its tokenizer has no chat template: {remedy}.")

    def explain_by_chat(seen: Sequence[Context]) -> str:
        answer = generate(chat, chat_prompts(chat, [instruction(seen)]), tokens)[0]
        return next((line.strip() for line in answer.splitlines() if line.strip()), NOTHING)

    return explain_by_chat


def instruction(seen: Sequence[Context]) -> str:
    """What a chat model is asked about a neuron: the task, then the contexts with activations rounded to 0 to 10."""
    top = max((max(context.values) for context in seen), default=0) or 1.0
    texts = []
    for context in seen:
        levels = [round(10 * max(0.0, value) / top) for value in context.values]
        marked = [f"{piece} [{level}]" if level else piece for piece, level in zip(context.pieces, levels, strict=True)]
        texts.append(f"- {''.join(marked)}".replace("\n", "⏎"))
    return INSTRUCTION.format(phrases=", ".join((*CLASSES, *PLACES)), texts="\n".join(texts))
