"""Patchscopes: a state is put into another text, in the place of a placeholder, and the model itself says in words what it holds.

Ghandeharioun et al. 2024 (arXiv 2401.06102, section 3): the state ``h`` of token ``i`` of a source text ``S`` after layer ``l`` *replaces*
the state of the placeholder in a target text ``T`` after layer ``l*``; then the model writes on. What the
target text asks is what one learns: the token that comes next, what an entity is, one of its attributes.

    print(describe(model, "Imagine", range(6), target_layer=0).table())

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0. Two things matter in small models with
learned positions, and are done here unless switched off or left out: source token and placeholder stand at the same position (``match``:
a filler goes before the shorter of the two), and late states are put into an early layer, since the reading of the placeholder is done by
the first layers. A fluent answer is no evidence by itself: every share stands beside what other entities' states would have got.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import Intervention, record
from helpers.models import TransformerBridge
from helpers.prediction import pad, token_span, tokenize
from helpers.progress import progress
from helpers.running import activations_at, check_layers, generate_tokens, layer_hook, layer_name, logits_at_end
from helpers.stats import wilson
from helpers.tables import table
from helpers.texts import Texts

FILLER = "It was a quiet day. The sun was warm and the air was clear. We sat in the garden and talked for a long time.\n"
SAME = "same"  # the target layer is the source layer, as in most of the paper
PATCHED_ROWS = 256  # patched copies of a target in one forward pass
TOKENS = 8  # of a continuation

Layer = int | str  # the target layer, or "same"

# ------------------------------------------------------------------------------------------------------ source and target


@dataclass(frozen=True)
class Source:
    """What is asked about: the state of ``token`` in ``prompt``; a word, of which the last token counts, or a position.

    Of a word that occurs several times the last occurrence counts. Raises ValueError for a word that does not occur.
    """

    prompt: str
    token: str | int = -1

    def __post_init__(self) -> None:
        if isinstance(self.token, str) and not (self.token.strip() and self.token in self.prompt):
            raise ValueError(f"{self.token!r} does not occur in {self.prompt!r}: name a word of the prompt, letter by letter.")

    @property
    def name(self) -> str:
        """The word that is asked about, or the whole prompt where a position was given."""
        return self.token if isinstance(self.token, str) else self.prompt


SourceLike = Source | str  # a text by itself is asked about at its last token


@dataclass(frozen=True)
class Target:
    """What the model is asked: a prompt in which the word ``placeholder`` stands once; the answer is cut at ``until``, if it comes.

    Raises ValueError unless the placeholder occurs exactly once as a word.
    """

    prompt: str
    placeholder: str = "x"
    until: str = "\n"

    def __post_init__(self) -> None:
        count = len(self._found)
        if count != 1 or not self.placeholder:
            said = f"occurs {count} times" if count else "does not occur"
            raise ValueError(f"The placeholder {self.placeholder!r} {said} in {self.prompt!r}: it must stand there once, as a word.")

    @property
    def _found(self) -> list[int]:
        return [found.start() for found in re.finditer(rf"(?<!\w){re.escape(self.placeholder)}(?!\w)", self.prompt)]

    def times(self, n: int) -> tuple[str, list[int]]:
        """The prompt with the placeholder ``n`` times in a row, and where each of them begins."""
        at = self._found[0]
        text = self.prompt[:at] + " ".join([self.placeholder] * n) + self.prompt[at + len(self.placeholder) :]
        return text, [at + number * (len(self.placeholder) + 1) for number in range(n)]


# The paper's targets (section 4) in the forms in which the course LM's corpus writes such lists; no word in them is held out there.
IDENTITY = Target("cat -> cat\n7 -> 7\nParis -> Paris\nx")  # read at the placeholder itself: what came next in the source
ITSELF = Target("cat -> cat\n7 -> 7\nParis -> Paris\nx ->")  # read behind the arrow: the source token
DESCRIPTION = Target("Syria: country in Asia, Marie Curie: chemist from Poland, Samsung: maker of phones, x:", until=",")


@dataclass(frozen=True)
class Place:
    """A text as tokens, and the positions in it that are read or replaced."""

    tokens: Int[Tensor, "pos"]
    at: tuple[int, ...]

    def filled(self, model: TransformerBridge, n: int) -> "Place":
        """The same with ``n`` tokens of harmless sentences in front; they end with a line break, so what follows begins a text."""
        if len(self.tokens) + n > model.cfg.n_ctx:
            raise ValueError(
                f"With filler to bring both to position {self.at[-1] + n} a text is longer than the {model.cfg.n_ctx} tokens that this "
                "model reads: shorten source or target, or set match=False."
            )
        start = len(tokenize(model, ""))  # the mark of a new document, if there is one
        filler = torch.tensor(model.tokenizer(FILLER, add_special_tokens=False)["input_ids"])
        filler = filler.repeat(-(-n // len(filler)))[len(filler) * -(-n // len(filler)) - n :]
        return Place(torch.cat([self.tokens[:start], filler, self.tokens[start:]]), tuple(pos + n for pos in self.at))


def _word(model: TransformerBridge, text: str, start: int, end: int) -> range:
    """The tokens of a word, without the space in front of it where that is a token of its own."""
    tokens, found = tokenize(model, text), token_span(model, text, start, end)
    while len(found) > 1 and not model.tokenizer.decode([tokens[found[0]]]).strip():
        found = found[1:]
    return found


def source_place(model: TransformerBridge, source: Source, whole: bool = False) -> Place:
    """Where a source is read: at the last token of its word, or (``whole``) at all of them."""
    tokens, token = tokenize(model, source.prompt), source.token
    if isinstance(token, int):
        if not -len(tokens) <= token < len(tokens) or not source.prompt.strip():
            raise ValueError(f"There is no position {token} in {source.prompt!r}: it has {len(tokens)} tokens.")
        every = token_span(model, source.prompt, 0, len(source.prompt))  # all but the mark of a new document
        return Place(tokens, tuple(every) if whole and token == -1 else (token % len(tokens),))
    start = source.prompt.rindex(token)
    found = _word(model, source.prompt, start, start + len(token))
    return Place(tokens, tuple(found) if whole else (found[-1],))


def target_place(model: TransformerBridge, target: Target, n: int = 1) -> Place:
    """Where a target is patched: at its placeholder, which stands there ``n`` times. Raises ValueError if it is not one token each time."""
    text, starts = target.times(n)
    found = [_word(model, text, start, start + len(target.placeholder)) for start in starts]
    if odd := next((span for span in found if len(span) != 1), None):
        raise ValueError(f"The placeholder {target.placeholder!r} is {len(odd)} tokens of this model: choose another word.")
    return Place(tokenize(model, text), tuple(span[0] for span in found))


def matched(model: TransformerBridge, source: Place, target: Place) -> tuple[Place, Place]:
    """Both at the same position: with as much filler as needed before the one that comes too early."""
    shift = target.at[-1] - source.at[-1]
    if shift > 0:
        return source.filled(model, shift), target
    return source, target.filled(model, -shift) if shift else target


def states_at(model: TransformerBridge, places: Sequence[Place], layers: Sequence[int]) -> Float[Tensor, "layer place n d_model"]:
    """The states of the layers at the positions of some texts, equally many in each."""
    texts = Texts(*pad(model, [place.tokens for place in places]), ("source",) * len(places))
    return activations_at(model, texts, [layer_hook(layer) for layer in layers], torch.tensor([place.at for place in places]))


# ------------------------------------------------------------------------------------------------------------- patchscopes


@dataclass(frozen=True)
class Readings:
    """What the model wrote about each source, its state taken after each source layer.

    ``unpatched`` is what it writes about the bare placeholder: what the target suggests by itself. ``answers`` are the right
    continuations, if there are any; a reading is a hit if it begins with the answer.
    """

    sources: tuple[Source, ...]
    target: Target
    layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]  # [layer, source]
    unpatched: tuple[str, ...]
    answers: tuple[str, ...] = ()

    @cached_property
    def _found(self) -> Bool[Tensor, "layer source answer"]:
        """Does the reading of a source begin with the answer of another? Raises ValueError where there are no answers."""
        if not self.answers:
            raise ValueError("There are no answers to compare with: give patchscope the right answer of each source.")
        return torch.tensor([[[begins_with(text, answer) for answer in self.answers] for text in row] for row in self.texts])

    @property
    def hits(self) -> Bool[Tensor, "layer source"]:
        """Which readings begin with the right answer."""
        return self._found.diagonal(dim1=1, dim2=2)

    @property
    def others(self) -> Float[Tensor, "layer source"]:
        """The control: which share of the OTHER sources' readings begin with this answer. Raises ValueError for a single source."""
        if len(self.sources) < 2:
            raise ValueError("A single source has no others beside it: read at least two.")
        return (self._found.sum(1) - self.hits.int()) / (len(self.sources) - 1)

    @property
    def constant(self) -> float:
        """The share of sources that have the most frequent answer: what always saying the same would get."""
        return max(Counter(self.answers).values(), default=0) / len(self.sources)

    def table(self) -> str:
        """One line for each layer: the share of hits with its interval, and that of others' readings; without answers, an example."""
        if not self.answers:
            return self.shown(0)
        others = self.others.mean(1).tolist() if len(self.sources) > 1 else [float("nan")] * len(self.layers)
        layers = [[layer_name(layer) for layer in some] for some in (self.layers, self.target_layers)]
        rows = zip(*layers, map(share, self.hits), others, strict=True)
        lines = table({"from": ">4", "into": ">5", "hits": "<23", "others": "6.1%"}, rows, gap="  ")
        bare = sum(map(begins_with, self.unpatched, self.answers)) / len(self.answers)
        return f"{lines}\nalways the same answer: {self.constant:.1%}, no patch: {bare:.1%}, n = {len(self.sources)}"

    def shown(self, source: int = 0) -> str:
        """What is said about one source, layer by layer (Figure 55 of the lecture), and about the bare placeholder."""
        lines = [f"{layer_name(layer):>5}  {row[source]}" for layer, row in zip(self.layers, self.texts, strict=True)]
        return "\n".join([f"layer  {self.sources[source].name}", *lines, f"   no  {self.unpatched[source]}"])


def share(hits: Bool[Tensor, "item"]) -> str:
    """A share with its 95 % interval (Wilson), in percent."""
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{hits.float().mean():6.1%} {f'[{low:.1%}, {high:.1%}]':<16}"


def begins_with(text: str, answer: str) -> bool:
    """Does a text begin with the answer, and not in the middle of a longer word?

    >>> begins_with("Warsaw. It is", "warsaw"), begins_with("Polandic", "Poland")
    (True, False)
    """
    return re.match(re.escape(answer.strip()) + r"(?!\w)", text.strip(), re.IGNORECASE) is not None


def patchscope(
    model: TransformerBridge,
    sources: Sequence[SourceLike],
    target: Target,
    source_layers: Sequence[int] | None = None,
    target_layer: Layer = SAME,
    *,
    answers: Sequence[str] = (),
    tokens: int = TOKENS,
    match: bool = True,
    whole: bool = False,
) -> Readings:
    """Reads the state of each source after each source layer by what the model writes on at the target, greedily.

    ``match``: with filler, source token and placeholder stand at the same position. ``whole``: all tokens of a name are put into as many
    placeholders, each into its own. Raises ValueError for an unknown layer, texts that are too long, and unless each source has an answer,
    if there are any.
    """
    asked = tuple(source if isinstance(source, Source) else Source(source) for source in sources)
    layers = check_layers(model, source_layers)
    into = layers if target_layer == SAME else check_layers(model, [target_layer]) * len(layers)
    if not asked:
        raise ValueError("There is no source to read: give at least one text.")
    if answers and len(answers) != len(asked):
        raise ValueError(f"Each source needs its answer: there are {len(asked)} sources and {len(answers)} answers.")
    if not all(answer.strip() for answer in answers):
        raise ValueError("An answer is empty: every text would begin with it.")
    if tokens < 1:
        raise ValueError(f"tokens says how many to write; it must be 1 or more, not {tokens}.")
    groups: dict[tuple[int, int], list[tuple[int, Place, Place]]] = defaultdict(list)  # sources that go into the same target
    for row, source in enumerate(asked):
        place = source_place(model, source, whole)
        blank = target_place(model, target, len(place.at))
        place, blank = matched(model, place, blank) if match else (place, blank)
        groups[len(place.at), len(blank.tokens)].append((row, place, blank))
        if (length := len(blank.tokens)) + tokens > model.cfg.n_ctx:
            raise ValueError(
                f"The target has {length} tokens and this model reads {model.cfg.n_ctx}, so {tokens} more are too many: ask for fewer."
            )
    texts = [[""] * len(asked) for _ in layers]
    unpatched = [""] * len(asked)
    for group in progress(list(groups.values()), desc="targets"):
        rows, places, blanks = zip(*group, strict=True)
        *written, bare = _written(model, blanks[0], states_at(model, places, layers), into, tokens)
        for number, ids in enumerate(written):
            texts[number // len(rows)][rows[number % len(rows)]] = _text(model, ids, target.until)
        for row in rows:
            unpatched[row] = _text(model, bare, target.until)
    return Readings(asked, target, layers, into, tuple(map(tuple, texts)), tuple(unpatched), tuple(answers))


def _written(
    model: TransformerBridge, place: Place, states: Float[Tensor, "layer source n d_model"], into: Sequence[int], tokens: int
) -> list[list[int]]:
    """What is written at copies of one target for each layer and source, and last at the bare target."""
    layers = torch.tensor([*(layer for layer in into for _ in range(states.shape[1])), -2])  # -2: a copy that no patch is for
    states = torch.cat([states.flatten(0, 1), states[0, :1]])
    ids = []
    for some in torch.arange(len(layers)).split(PATCHED_ROWS):
        patches = [patch(layer, place.at, states[some], layers[some] == layer) for layer in sorted(set(into))]
        ids += generate_tokens(model, place.tokens.expand(len(some), -1), tokens, *patches)
    return ids


def patch(layer: int, at: Sequence[int], states: Float[Tensor, "row n d_model"], rows: Bool[Tensor, "row"]) -> Intervention:
    """Some rows of a batch get their own states at the positions ``at``, after one layer; the other rows stay as they are.

    While a text goes on, the patch stays at work, since the blocks remember what they made of it.
    """

    def change(old: Tensor, pick: object) -> Tensor:
        return torch.where(rows[:, None, None].to(old.device), states.to(old), old)

    return Intervention(layer_hook(layer), change, pos=list(at))


def _text(model: TransformerBridge, ids: Sequence[int], until: str) -> str:
    """Tokens as text, up to the end of the answer."""
    return model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).split(until)[0].strip()


def describe(
    model: TransformerBridge,
    entity: SourceLike,
    source_layers: Sequence[int] | None = None,
    target_layer: Layer = 1,
    target: Target = DESCRIPTION,
    **options: Any,
) -> Readings:
    """What the model says an entity is, from its state after each layer (section 4.3; Figure 55 of the lecture).

    All states go into an early layer, unless ``target_layer`` says otherwise: from there on the model reads what the placeholder is.
    """
    return patchscope(model, [entity], target, source_layers, target_layer, **options)


@torch.no_grad()
def own_place(model: TransformerBridge, target: Target, layers: Sequence[int] | None = None) -> Float[Tensor, "layer"]:
    """The check of the machinery: the largest change of any logit when the placeholder's own state is put back. It must be 0.0."""
    layers, place = check_layers(model, layers), target_place(model, target)
    tokens, every = place.tokens[None], torch.ones(1, dtype=torch.bool)
    before, changes = logits_at_end(model, tokens), []
    for layer in layers:
        state = record(model, tokens.to(model.cfg.device), layer_hook(layer))[layer_hook(layer)][:, list(place.at)]
        changes.append((logits_at_end(model, tokens, patch(layer, place.at, state, every)) - before).abs().max().cpu())
    return torch.stack(changes)
