"""Patchscopes: a state is put into another text, in the place of a placeholder, and the model says in words what it makes of it.

Ghandeharioun et al. 2024 (arXiv 2401.06102, section 3): the state ``h`` of token ``i`` of a source text ``S`` after layer ``l`` *replaces*
the state of the placeholder in a target text ``T`` after layer ``l*``; then the model writes on. What the
target text asks is what one learns: the token that comes next, what an entity is, one of its attributes.

    print(describe(model, "Imagine", range(6), target_layer=0).table())

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0. Two things matter in small models with
learned positions, and are done here unless switched off or left out: the source token must not stand much earlier than the placeholder
(``match``: both at the same position, with a filler before the shorter text), and late states are put into an early layer, since the
reading of the placeholder is done by the first layers. A fluent answer is no evidence by itself: every share stands beside what other
entities' states would have got.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.interventions import intervene, record, set_to
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
    """What the model is asked: a prompt in which the placeholder ``x`` stands once; the answer is cut at ``until``, if it comes.

    Raises ValueError unless the placeholder occurs exactly once as a word.
    """

    prompt: str
    until: str = "\n"

    def __post_init__(self) -> None:
        if (count := len(self.parts) - 1) != 1:
            said = f"occurs {count} times" if count else "does not occur"
            raise ValueError(f"The placeholder 'x' {said} in {self.prompt!r}: it must stand there once, as a word.")

    @property
    def parts(self) -> list[str]:
        """What stands before the placeholder, and behind it."""
        return re.split(r"(?<!\w)x(?!\w)", self.prompt)

    def times(self, n: int) -> tuple[str, list[int]]:
        """The prompt with the placeholder ``n`` times in a row, and where each of them stands."""
        before, after = self.parts
        return f"{before}{' '.join('x' * n)}{after}", [len(before) + 2 * number for number in range(n)]


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
        filler = filler.repeat(n // len(filler) + 1)[-n:]
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
    """Where a target is patched: at its placeholder, which stands there ``n`` times."""
    text, starts = target.times(n)
    return Place(tokenize(model, text), tuple(_word(model, text, start, start + 1)[-1] for start in starts))


def matched(model: TransformerBridge, source: Place, target: Place) -> tuple[Place, Place]:
    """Both at the same position: with as much filler as needed before the one that comes too early."""
    shift = target.at[-1] - source.at[-1]
    if shift > 0:
        return source.filled(model, shift), target
    return source, target.filled(model, -shift) if shift else target


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


@torch.no_grad()
def describe(
    model: TransformerBridge, name: str, source_layers: Sequence[int] | None = None, target_layer: int = 1, target: Target = DESCRIPTION
) -> Readings:
    """What the model says a name is, from the state of its last token after each layer (section 4.3; Figure 55 of the lecture).

    Step by step what ``patchscope`` does with many names at once. All states go into an early layer: from there on the model reads
    what the placeholder is.
    """
    source, layers = Source(name), check_layers(model, source_layers)
    place, blank = matched(model, source_place(model, source), target_place(model, target))
    seen = record(model, place.tokens[None].to(model.cfg.device), *map(layer_hook, layers))
    states = torch.stack([seen[layer_hook(layer)][0, place.at[0]] for layer in layers])[:, None]  # [layer, 1, d_model]
    with intervene(model, set_to(layer_hook(target_layer), states, pos=blank.at[0])):
        written = _continued(model, blank.tokens.repeat(len(layers), 1))  # a row for each layer
    [bare] = _continued(model, blank.tokens[None])
    texts = tuple((_text(model, ids, target.until),) for ids in written)
    return Readings((source,), target, layers, (target_layer,) * len(layers), texts, (_text(model, bare, target.until),))


def _continued(model: TransformerBridge, rows: Int[Tensor, "row pos"]) -> list[list[int]]:
    """The most likely next tokens of each row, every one from a run over the whole text."""
    start, rows = rows.shape[1], rows.to(model.cfg.device)
    for _ in range(TOKENS):
        rows = torch.cat([rows, model(rows)[:, -1:].argmax(-1)], 1)
    return rows[:, start:].tolist()


def _text(model: TransformerBridge, ids: list[int], until: str) -> str:
    """Tokens as text, up to the end of the answer or of the document."""
    end = model.tokenizer.eos_token_id
    ids = ids[: ids.index(end)] if end in ids else ids
    return model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).split(until)[0].strip()


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
    groups: dict[tuple[int, int], list[tuple[int, Place, Place]]] = defaultdict(list)  # sources that go into the same target
    for row, source in enumerate(asked):
        place = source_place(model, source, whole)
        blank = target_place(model, target, len(place.at))
        place, blank = matched(model, place, blank) if match else (place, blank)
        groups[len(place.at), len(blank.tokens)].append((row, place, blank))
        if (length := len(blank.tokens)) + tokens > model.cfg.n_ctx:
            room = f"The target has {length} tokens and this model reads {model.cfg.n_ctx}"
            raise ValueError(f"{room}, so {tokens} more are too many: ask for fewer.")
    said: dict[int, tuple[list[str], str]] = {}  # of each source: a text for each layer, and that of the bare target
    for group in progress(list(groups.values()), desc="targets"):
        rows, places, blanks = zip(*group, strict=True)
        states = states_at(model, places, layers)
        changes = zip(into, states, strict=True) if target_layer == SAME else [(into[0], states.flatten(0, 1))]
        ids: list[list[int]] = []
        for layer, every in changes:
            for some in every.split(PATCHED_ROWS):  # copies of the target, each with its own states in it while the text goes on
                patch = set_to(layer_hook(layer), some, pos=list(blanks[0].at))
                ids += generate_tokens(model, blanks[0].tokens.expand(len(some), -1), tokens, patch)
        *written, bare = [_text(model, one, target.until) for one in (*ids, *generate_tokens(model, blanks[0].tokens[None], tokens))]
        said |= {row: (written[at :: len(rows)], bare) for at, row in enumerate(rows)}
    texts, unpatched = zip(*(said[row] for row in range(len(asked))), strict=True)
    return Readings(asked, target, layers, into, tuple(zip(*texts, strict=True)), unpatched, tuple(answers))


def states_at(model: TransformerBridge, places: Sequence[Place], layers: Sequence[int]) -> Float[Tensor, "layer place n d_model"]:
    """The states of the layers at the positions of some texts, equally many in each."""
    texts = Texts(*pad(model, [place.tokens for place in places]), ("source",) * len(places))
    return activations_at(model, texts, [layer_hook(layer) for layer in layers], torch.tensor([place.at for place in places]))


@torch.no_grad()
def own_place(model: TransformerBridge, target: Target) -> Float[Tensor, "layer"]:
    """The check of the machinery: the largest change of any logit when the placeholder's own state is put back. It must be 0.0."""
    layers, place = check_layers(model, None), target_place(model, target)
    before, changes = logits_at_end(model, place.tokens[None]), []
    for layer, state in zip(layers, states_at(model, [place], layers), strict=True):
        own = set_to(layer_hook(layer), state, pos=list(place.at))
        changes.append((logits_at_end(model, place.tokens[None], own) - before).abs().max().cpu())
    return torch.stack(changes)
