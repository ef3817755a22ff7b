"""Patchscopes: a state is put into another text, in the place of a placeholder, and the model itself says in words what it holds.

Ghandeharioun et al. 2024 (arXiv 2401.06102, section 3): the state ``h`` of token ``i`` of a source text ``S`` after layer ``l`` *replaces*
the state of the placeholder in a target text ``T`` after layer ``l*``, perhaps changed by a map ``f``; then the model writes on. What the
target text asks is what one learns: the token that comes next, what an entity is, one of its attributes.

    print(describe(model, "Imagine", range(6), target_layer=0).table())

*Layer* ``l`` is the stream after block ``l``; layer -1, "in", is the one that enters block 0. Two things matter in small models with
learned positions, and are done here unless switched off or left out: source token and placeholder stand at the same position (``match``:
a filler goes before the shorter of the two), and late states are put into an early layer, since the reading of the placeholder is done by
the first layers. A fluent answer is no evidence by itself: every share stands beside what other entities' states would have got.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.cluster.relations import RelationData
from helpers.interventions import Intervention, intervene, record, unembed_only_at, watch
from helpers.metrics import whole_words
from helpers.models import TransformerBridge, empty_cache, read_prefix, run_from
from helpers.prediction import pad, tokenize
from helpers.progress import progress
from helpers.running import check_layers, layer_hook, layer_name, lens_logits
from helpers.speak.tuned_lens import TunedLens, sample_states
from helpers.stats import Interval, paired_interval, wilson
from helpers.texts import Texts, TextsLike, as_texts

FILLER = "It was a quiet day. The sun was warm and the air was clear. We sat in the garden and talked for a long time.\n"
SAME = "same"  # the target layer is the source layer, as in most of the paper
PATCHED_ROWS = 256  # patched copies of a target in one forward pass
PENALTY = 1e-3  # of a map between layers, as a share of the mean variance of the states
PROBE_PENALTY = 0.1  # of a probe that has few subjects to learn from
TOKENS = 8  # of a continuation

Pair = tuple[int, int]  # source layer, target layer
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
            said = "does not occur" if count == 0 else f"occurs {count} times"
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


def attribute(data: RelationData) -> Target:
    """The target that asks for an attribute in the words of a relation: ``The capital of x is`` (section 4.2)."""
    return Target(data.template.replace("{s}", "x").rstrip())


@dataclass(frozen=True)
class _Place:
    """A text as tokens, and the positions in it that are read or replaced."""

    tokens: Int[Tensor, "pos"]
    at: tuple[int, ...]

    def after(self, filler: Int[Tensor, "some"], start: int) -> "_Place":
        """The same with a filler in front, behind the ``start`` tokens that mark a new document."""
        tokens = torch.cat([self.tokens[:start], filler, self.tokens[start:]])
        return _Place(tokens, tuple(pos + len(filler) for pos in self.at))


def _stretch(model: TransformerBridge, text: str, start: int, end: int) -> tuple[Int[Tensor, "pos"], range]:
    """The tokens of a text, and which of them the letters from ``start`` to ``end`` are. Raises ValueError where they are not their own."""
    ids = tokenize(model, text)
    before, through = (tokenize(model, text[:cut].rstrip(" ")).tolist() for cut in (start, end))
    if len(ids) > model.cfg.n_ctx:
        raise ValueError(f"{text[:40]!r} has {len(ids)} tokens and this model reads {model.cfg.n_ctx}: shorten it.")
    if not len(before) < len(through) or any(ids[: len(part)].tolist() != part for part in (before, through)):
        raise ValueError(f"The tokens of {text[start:end]!r} are no stretch of their own in {text!r}: put spaces around it.")
    begin = len(before)
    while not model.tokenizer.decode([ids[begin]]).strip() and begin < len(through) - 1:  # some models write the space by itself
        begin += 1
    return ids, range(begin, len(through))


def _of_source(model: TransformerBridge, source: Source, whole: bool) -> _Place:
    """Where a source is read: at the last token of its word, or at all of them."""
    if isinstance(source.token, int):
        ids = tokenize(model, source.prompt)
        if not -len(ids) <= source.token < len(ids) or not source.prompt.strip():
            raise ValueError(f"There is no position {source.token} in {source.prompt!r}: it has {len(ids)} tokens.")
        if len(ids) > model.cfg.n_ctx:
            raise ValueError(f"{source.prompt[:40]!r} has {len(ids)} tokens and this model reads {model.cfg.n_ctx}: shorten it.")
        every = range(_marks(model, ids), len(ids))
        return _Place(ids, tuple(every) if whole and source.token == -1 else (source.token % len(ids),))
    start = source.prompt.rindex(source.token)
    ids, found = _stretch(model, source.prompt, start, start + len(source.token))
    return _Place(ids, tuple(found) if whole else (found[-1],))


def _of_target(model: TransformerBridge, target: Target, n: int) -> _Place:
    """Where a target is patched: at its placeholder, which stands there ``n`` times. Raises ValueError if it is not one token each time."""
    text, starts = target.times(n)
    at = []
    for start in starts:
        ids, found = _stretch(model, text, start, start + len(target.placeholder))
        if len(found) != 1:
            raise ValueError(f"The placeholder {target.placeholder!r} is {len(found)} tokens of this model: choose another word.")
        at += found
    return _Place(ids, tuple(at))


def _marks(model: TransformerBridge, ids: Int[Tensor, "pos"]) -> int:
    """How many tokens in front mark a new document: one or none."""
    return int(bool(model.cfg.default_prepend_bos) and len(ids) > 0 and int(ids[0]) == model.tokenizer.bos_token_id)


def _filler(model: TransformerBridge, n: int) -> Int[Tensor, "n"]:
    """The last ``n`` tokens of harmless sentences, which end with a line break: what follows is written as at the start of a text."""
    ids = torch.tensor(model.tokenizer(FILLER, add_special_tokens=False)["input_ids"], dtype=torch.long)
    return ids.repeat(-(-n // len(ids)))[-n:] if n else ids[:0]


def _matched(model: TransformerBridge, source: _Place, target: _Place) -> tuple[_Place, _Place]:
    """Both at the same position: with as much filler as needed before the one that comes too early."""
    shift = target.at[-1] - source.at[-1]
    pair = [source, target]
    if shift:
        early = 0 if shift > 0 else 1
        pair[early] = pair[early].after(_filler(model, abs(shift)), _marks(model, pair[early].tokens))
        if len(pair[early].tokens) > model.cfg.n_ctx:
            raise ValueError(
                f"With filler to bring both to position {pair[early].at[-1]} a text is longer than the {model.cfg.n_ctx} tokens that "
                "this model reads: shorten source or target, or set match=False."
            )
    return pair[0], pair[1]


# ------------------------------------------------------------------------------------------------------ maps between layers


@dataclass(frozen=True)
class LayerMap:
    """An affine map between the streams of two layers: ``f(h) = weight h + bias``."""

    weight: Float[Tensor, "d_model d_model"]
    bias: Float[Tensor, "d_model"]

    @staticmethod
    def identity(d_model: int) -> "LayerMap":
        """The map that changes nothing."""
        return LayerMap(torch.eye(d_model), torch.zeros(d_model))

    def __call__(self, states: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state d_model"]:
        """The states as the target layer would hold them."""
        return states @ self.weight.to(states).T + self.bias.to(states)


def fit_maps(
    model: TransformerBridge, pairs: Sequence[Pair], texts: TextsLike, each: int = 16, penalty: float = PENALTY, seed: int = 0
) -> dict[Pair, LayerMap]:
    """For each pair of layers the affine map from the states of the one to those of the same tokens in the other (least squares, ridge).

    ``each``: positions drawn from each text, never position 0. ``penalty`` is a share of the mean variance of a unit. This is the
    paper's linear mapping when the target is the last layer (section 4.1). Raises ValueError for a layer that the model does not have.
    """
    check_layers(model, [layer for pair in pairs for layer in pair])
    states = sample_states(model, texts, each, seed)  # [layer, state, d_model], from layer -1 on
    found = {}
    for source in sorted({source for source, _ in pairs}):
        targets = [target for own, target in dict.fromkeys(pairs) if own == source]
        solved = _ridge(states[source + 1], torch.cat([states[target + 1] for target in targets], -1), penalty)
        for target, weight, bias in zip(targets, *(part.chunk(len(targets)) for part in solved), strict=True):
            found[source, target] = LayerMap(weight.float().cpu(), bias.float().cpu())
    return {pair: found[pair] for pair in pairs}


def fit_map(model: TransformerBridge, source_layer: int, target_layer: int, texts: TextsLike, **options: Any) -> LayerMap:
    """The affine map from one layer to another (see ``fit_maps``)."""
    return fit_maps(model, [(source_layer, target_layer)], texts, **options)[source_layer, target_layer]


def _ridge(
    inputs: Float[Tensor, "item d_in"], outputs: Float[Tensor, "item d_out"], penalty: float
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out"]]:
    """Weight and bias of the least-squares fit, the squared weights costing ``penalty`` times the mean variance of an input."""
    (x, x_mean), (y, y_mean) = ((part - part.mean(0), part.mean(0).double()) for part in (inputs, outputs))
    square, product = (x.T @ x).double(), (x.T @ y).double()
    square.diagonal().add_(penalty * square.diagonal().mean().clamp(min=torch.finfo(torch.double).tiny))
    weight = torch.linalg.solve(square, product).T
    return weight, y_mean - weight @ x_mean


# ---------------------------------------------------------------------------------------------------------------- the patch


@torch.no_grad()
def _states(model: TransformerBridge, places: Sequence[_Place], layers: Sequence[int]) -> list[Float[Tensor, "layer n d_model"]]:
    """The states of the layers at the positions of each text."""
    tokens, lengths = pad(model, [place.tokens for place in places])
    texts, found = Texts(tokens, lengths, ("source",) * len(places)), [torch.empty(0)] * len(places)
    for rows in texts.batches():
        part = texts.take(rows)
        seen = record(model, part.tokens.to(model.cfg.device), *{layer_hook(layer) for layer in layers})
        for number, row in enumerate(rows.tolist()):
            found[row] = torch.stack([seen[layer_hook(layer)][number, list(places[row].at)] for layer in layers])
    return found


def _put(layer: int, rows: Int[Tensor, "some"], at: Sequence[int], states: Float[Tensor, "some n d_model"]) -> Intervention:
    """Some rows of a batch get their own states at the positions ``at``, after one layer; the other rows stay as they are."""

    def change(values: Tensor, pick: object) -> Tensor:
        new = values.clone()
        new[rows[:, None].to(new.device), torch.tensor(at, device=new.device)] = states.to(new)
        return new

    return Intervention(layer_hook(layer), change)


class _Run:
    """Copies of one target, each with states of its own in place of the placeholder; what stands before it is read once."""

    def __init__(
        self, model: TransformerBridge, target: _Place, states: Float[Tensor, "row n d_model"], layers: Sequence[int | None]
    ) -> None:
        """``layers``: after which layer each row is patched; None for a row that is left as it is."""
        self.model, first = model, target.at[0]
        prefix = read_prefix(model, target.tokens[None, :first]) if first else None
        self.cache = prefix.cache(torch.zeros(len(layers), dtype=torch.long)) if prefix else empty_cache()
        self.rest = target.tokens[first:].expand(len(layers), -1)
        self.changes = []
        for layer in sorted({layer for layer in layers if layer is not None}):
            rows = torch.tensor([row for row, own in enumerate(layers) if own == layer])
            self.changes.append(_put(layer, rows, [pos - first for pos in target.at], states[rows.to(states.device)]))

    def logits(self) -> Float[Tensor, "row d_vocab"]:
        """The logits of what follows the target."""
        last = torch.full((len(self.rest), 1), self.rest.shape[1] - 1)
        with intervene(self.model, *self.changes, unembed_only_at(last)):
            return self._read(self.rest)

    def write(self, tokens: int, stops: set[int]) -> Int[Tensor, "row tokens"]:
        """The most likely continuation; the patch stays at work, since the blocks remember what they made of it."""
        written = [self.logits().argmax(-1).cpu()]
        while len(written) < tokens and not all(stops & set(row) for row in torch.stack(written, 1).tolist()):
            written.append(self._read(written[-1][:, None]).argmax(-1).cpu())
        return torch.stack(written, 1)

    def _read(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        return self.model(tokens.to(self.model.cfg.device), past_key_values=self.cache, use_cache=True)[:, -1]


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
        lines = ["from   into  hits                     others"]
        others = self.others.mean(1).tolist() if len(self.sources) > 1 else [float("nan")] * len(self.layers)
        for layer, into, row, other in zip(self.layers, self.target_layers, self.hits, others, strict=True):
            lines.append(f"{layer_name(layer):>4}  {layer_name(into):>5}  {_share(row)}  {other:6.1%}")
        bare = sum(map(begins_with, self.unpatched, self.answers)) / len(self.answers)
        lines.append(f"always the same answer: {self.constant:.1%}, no patch: {bare:.1%}, n = {len(self.sources)}")
        return "\n".join(lines)

    def shown(self, source: int = 0) -> str:
        """What is said about one source, layer by layer (Figure 55 of the lecture), and about the bare placeholder."""
        lines = [f"{layer_name(layer):>5}  {row[source]}" for layer, row in zip(self.layers, self.texts, strict=True)]
        return "\n".join([f"layer  {self.sources[source].name}", *lines, f"   no  {self.unpatched[source]}"])


def _share(hits: Bool[Tensor, "item"]) -> str:
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
    maps: Mapping[Pair, LayerMap] | None = None,
    tokens: int = TOKENS,
    match: bool = True,
    whole: bool = False,
) -> Readings:
    """Reads the state of each source after each source layer by what the model writes on at the target, greedily.

    ``maps``: the map of each pair of layers (see ``fit_maps``); without it states are put in as they are. ``match``: with filler, source
    token and placeholder stand at the same position. ``whole``: all tokens of a name are put into as many placeholders, each into its own.
    Raises ValueError for an unknown layer, a missing map, texts that are too long, and unless each source has an answer, if there are any.
    """
    asked = tuple(source if isinstance(source, Source) else Source(source) for source in sources)
    layers = check_layers(model, source_layers)
    into = layers if target_layer == SAME else check_layers(model, [target_layer]) * len(layers)
    _check(asked, answers, tokens)
    places, groups = _pairs(model, asked, target, match, whole)
    states, texts = _states(model, places, layers), [[""] * len(asked) for _ in layers]
    unpatched = [""] * len(asked)
    pairs = list(zip(layers, into, strict=True))
    if (longest := max(len(place.tokens) for place, _ in groups)) + tokens > model.cfg.n_ctx:
        raise ValueError(
            f"The target has {longest} tokens and this model reads {model.cfg.n_ctx}, so {tokens} more are too many: ask for fewer."
        )
    for place, rows in progress(groups, desc="targets"):
        given = torch.stack([_mapped(states[row], pairs, maps) for row in rows], 1)  # [layer, source, n, d_model]
        *written, bare = _written(model, place, given, into, tokens, target.until)
        for number, text in enumerate(written):
            texts[number // len(rows)][rows[number % len(rows)]] = text
        for row in rows:
            unpatched[row] = bare
    return Readings(asked, target, layers, into, tuple(map(tuple, texts)), tuple(unpatched), tuple(answers))


def _check(sources: Sequence[Source], answers: Sequence[str], tokens: int) -> None:
    if not sources:
        raise ValueError("There is no source to read: give at least one text.")
    if answers and len(answers) != len(sources):
        raise ValueError(f"Each source needs its answer: there are {len(sources)} sources and {len(answers)} answers.")
    if not all(answer.strip() for answer in answers):
        raise ValueError("An answer is empty: every text would begin with it.")
    if tokens < 1:
        raise ValueError(f"tokens says how many to write; it must be 1 or more, not {tokens}.")


def _pairs(
    model: TransformerBridge, sources: Sequence[Source], target: Target, match: bool, whole: bool
) -> tuple[list[_Place], list[tuple[_Place, list[int]]]]:
    """Where each source is read, and the targets as they are patched, each with the sources that go into it."""
    blank: dict[int, _Place] = {}
    places, targets, groups = [], {}, defaultdict(list)
    for row, source in enumerate(sources):
        place = _of_source(model, source, whole)
        n = len(place.at)
        if n not in blank:
            blank[n] = _of_target(model, target, n)
        place, patched = _matched(model, place, blank[n]) if match else (place, blank[n])
        key = (n, len(patched.tokens))
        targets[key] = patched
        groups[key].append(row)
        places.append(place)
    return places, [(targets[key], rows) for key, rows in groups.items()]


def _mapped(
    states: Float[Tensor, "layer n d_model"], pairs: Sequence[Pair], maps: Mapping[Pair, LayerMap] | None
) -> Float[Tensor, "layer n d_model"]:
    if maps is None:
        return states
    if missing := [pair for pair in pairs if pair not in maps]:
        raise ValueError(f"There is no map from layer {missing[0][0]} to {missing[0][1]}: fit one with fit_maps.")
    return torch.stack([maps[pair](own) for pair, own in zip(pairs, states, strict=True)])


@torch.no_grad()
def _written(
    model: TransformerBridge, place: _Place, states: Float[Tensor, "layer source n d_model"], into: Sequence[int], tokens: int, until: str
) -> list[str]:
    """What is written at copies of one target for each layer and source, and last at the bare target."""
    layers = [layer for layer in into for _ in range(states.shape[1])]
    flat = states.flatten(0, 1)
    flat, layers = torch.cat([flat, flat[:1]]), [*layers, None]
    ends = {model.tokenizer.eos_token_id, *model.tokenizer(until, add_special_tokens=False)["input_ids"][-1:]}
    ids: list[list[int]] = []
    for some in torch.arange(len(layers)).split(PATCHED_ROWS):
        run = _Run(model, place, flat[some.to(flat.device)], [layers[row] for row in some.tolist()])
        ids += run.write(tokens, ends).tolist()
    return [_text(model, row, until) for row in ids]


def _text(model: TransformerBridge, ids: Sequence[int], until: str) -> str:
    """Tokens as text, up to the end of the document or of the answer."""
    end = model.tokenizer.eos_token_id
    kept = ids[: ids.index(end)] if end in ids else ids
    return model.tokenizer.decode(kept, clean_up_tokenization_spaces=False).split(until)[0].strip()


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


@dataclass(frozen=True)
class Patchscope:
    """One reading in the paper's terms (section 3): source text, token and layer, target and its layer, and the map in between."""

    source: SourceLike
    source_layer: int
    target: Target
    target_layer: Layer = SAME
    map: LayerMap | None = None
    tokens: int = TOKENS
    match: bool = True
    whole: bool = False

    def read(self, model: TransformerBridge) -> str:
        """What the model writes. Raises ValueError as ``patchscope`` does."""
        into = self.source_layer if self.target_layer == SAME else self.target_layer
        options = dict(tokens=self.tokens, match=self.match, whole=self.whole)
        if self.map:
            options["maps"] = {(self.source_layer, into): self.map}
        return patchscope(model, [self.source], self.target, [self.source_layer], into, **options).texts[0][0]


@torch.no_grad()
def own_place(model: TransformerBridge, target: Target, layers: Sequence[int] | None = None) -> Float[Tensor, "layer"]:
    """The check of the machinery: the largest change of any logit when the placeholder's own state is put back. It must be 0.0."""
    layers, place = check_layers(model, layers), _of_target(model, target, 1)
    seen: dict[str, Tensor] = {}
    watched = [watch(layer_hook(layer), partial(seen.__setitem__, layer_hook(layer))) for layer in layers]
    with intervene(model, *watched):
        before = _Run(model, place, torch.zeros(1, 1, model.cfg.d_model), [None]).logits()
    own = [seen[layer_hook(layer)][:, :1] for layer in layers]
    changes = [_Run(model, place, state, [layer]).logits() - before for layer, state in zip(layers, own, strict=True)]
    return torch.stack([change.abs().max().cpu() for change in changes])


# ------------------------------------------------------------------------------------------- the next token, layer by layer


@dataclass(frozen=True)
class Precision:
    """Precision@1 (section 4.1): which method names the model's own next token from the state of each layer; one token of each text.

    ``constant`` is the share of the most frequent next token. ``position`` is where the states were read.
    """

    layers: tuple[int, ...]
    hits: Mapping[str, Bool[Tensor, "layer text"]]
    constant: float
    position: int

    def of(self, method: str) -> Bool[Tensor, "layer text"]:
        """The hits of one method. Raises ValueError for a method that was not tried."""
        if method not in self.hits:
            raise ValueError(f"{method!r} was not tried, only {', '.join(map(repr, self.hits))}.")
        return self.hits[method]

    def share(self, method: str) -> Float[Tensor, "layer"]:
        """The share of hits in each layer."""
        return self.of(method).float().mean(1)

    def gain(self, method: str, over: str) -> list[tuple[float, Interval]]:
        """By how much one method is better than another in each layer, text by text, with the 95 % interval (bootstrap)."""
        pairs = zip(self.of(method).float(), self.of(over).float(), strict=True)
        return [((one - other).mean().item(), paired_interval(one, other)) for one, other in pairs]

    def table(self) -> str:
        """One line for each layer: the share of hits of each method with its 95 % interval (Wilson)."""
        lines = ["layer  " + "  ".join(f"{name:<22}" for name in self.hits)]
        for number, layer in enumerate(self.layers):
            lines.append(f"{layer_name(layer):>5}  " + "  ".join(f"{_share(hits[number]):<22}" for hits in self.hits.values()))
        n = next(iter(self.hits.values())).shape[1]
        lines.append(f"most frequent token: {self.constant:.1%}, n = {n} texts, position {self.position}")
        return "\n".join(line.rstrip() for line in lines)


@torch.no_grad()
def precision_by_layer(
    model: TransformerBridge,
    texts: TextsLike,
    layers: Sequence[int] | None = None,
    *,
    train: TextsLike | None = None,
    into: int | None = None,
    tuned: TunedLens | None = None,
    target: Target = IDENTITY,
    position: int | None = None,
) -> Precision:
    """Compares ways to read the next token off the states of each layer: Patchscope, logit lens and, with ``train``, affine maps.

    One token of each text is read, at the position of the placeholder or at another ``position``; shorter texts are left out. "Patchscope"
    puts a state into the layer from which it comes; "with map" into layer ``into`` (half way, if not given) by a map fitted on ``train``;
    "linear map" goes from there into the last layer and unembeds, as the paper's baseline does; "tuned lens" is the one given.
    Raises ValueError where no text is long enough, and for layers that the model does not have.
    """
    layers, place = check_layers(model, layers), _of_target(model, target, 1)
    position, last = place.at[0] if position is None else position, model.cfg.n_layers - 1
    into = (last + 1) // 2 if into is None else check_layers(model, [into])[0]
    *states, final = _at_position(model, texts, position, [*layers, last])
    states, own = torch.stack(states), lens_logits(model, final).argmax(-1).cpu()
    given = {"Patchscope": (states, list(layers))}
    read = {"logit lens": states}
    if train is not None:
        maps = fit_maps(model, [(layer, at) for layer in layers for at in dict.fromkeys((into, last))], train)
        given["with map"] = _through(maps, states, layers, into), [into] * len(layers)
        read["linear map"] = _through(maps, states, layers, last)
    if tuned is not None:
        read["tuned lens"] = tuned.mapped(model, layers, states)
    found = {name: _said(model, place, put, at) for name, (put, at) in given.items()}
    found |= {name: torch.stack([lens_logits(model, layer).argmax(-1).cpu() for layer in mapped]) for name, mapped in read.items()}
    constant = own.bincount().max().item() / len(own)
    return Precision(layers, {name: said == own for name, said in found.items()}, constant, position)


def _at_position(model: TransformerBridge, texts: TextsLike, position: int, layers: Sequence[int]) -> list[Float[Tensor, "text d_model"]]:
    """The states of each layer at one position of all texts that have it."""
    texts = as_texts(model, texts)
    long = [row for row, length in enumerate(texts.lengths.tolist()) if length > position]
    if not long or position < 0:
        raise ValueError(f"No text has a token at position {position}: the longest has {int(texts.lengths.max())} tokens.")
    places = [_Place(texts.tokens[row, : position + 1], (position,)) for row in long]
    return list(torch.stack(_states(model, places, layers), 1)[:, :, 0])


def _through(
    maps: Mapping[Pair, LayerMap], states: Float[Tensor, "layer text d_model"], layers: Sequence[int], into: int
) -> Float[Tensor, "layer text d_model"]:
    return torch.stack([maps[layer, into](own) for layer, own in zip(layers, states, strict=True)])


def _said(
    model: TransformerBridge, place: _Place, states: Float[Tensor, "layer text d_model"], into: Sequence[int]
) -> Int[Tensor, "layer text"]:
    """The most likely token after the target with each state in it; only the blocks behind the patch are run."""
    first, n = place.at[0], states.shape[1]
    prefix = read_prefix(model, place.tokens[None, :first]) if first else None
    bare = record(model, place.tokens[None].to(model.cfg.device), *{layer_hook(layer) for layer in into})
    found = torch.empty(len(into), n, dtype=torch.long)
    for number, layer in enumerate(progress(into, desc="Patchscopes")):
        for some in torch.arange(n).split(PATCHED_ROWS):
            entering = bare[layer_hook(layer)][:, first:].repeat(len(some), 1, 1)
            entering[:, 0] = states[number, some.to(states.device)].to(entering)
            with intervene(model, unembed_only_at(torch.full((len(some), 1), entering.shape[1] - 1))):
                logits = run_from(model, entering, layer + 1, prefix, torch.zeros_like(some))
            found[number, some] = logits[:, 0].argmax(-1).cpu()
    return found


# --------------------------------------------------------------------------------------------------------------- attributes


@dataclass(frozen=True)
class Attributes:
    """Whether an attribute can be read off the states of subjects that no probe has learned from, by Patchscope and by a linear probe.

    ``probe``: is the right answer the nearest of all answers of the relation? ``constant``: is it the most frequent one among the subjects
    that the probe has learned from? ``readings.others`` is the control with an unrelated subject's state.
    """

    relation: str
    readings: Readings
    probe: Bool[Tensor, "layer subject"]
    constant: Bool[Tensor, "subject"]

    def gain(self) -> list[tuple[float, Interval]]:
        """By how much Patchscope is better than the probe in each layer, subject by subject, with the 95 % interval (bootstrap)."""
        pairs = zip(self.readings.hits.float(), self.probe.float(), strict=True)
        return [((one - other).mean().item(), paired_interval(one, other)) for one, other in pairs]

    def table(self) -> str:
        """One line for each layer: shares of right answers of Patchscope and probe with intervals, and of other subjects' states."""
        lines = [f"{self.relation}\nlayer  Patchscope              probe                   other subject"]
        rows = zip(self.readings.layers, self.readings.hits, self.probe, self.readings.others.mean(1).tolist(), strict=True)
        lines += [f"{layer_name(layer):>5}  {_share(own)}  {_share(probe)}  {other:12.1%}" for layer, own, probe, other in rows]
        lines.append(f"always the same answer: {self.constant.float().mean():.1%}, n = {len(self.constant)}")
        return "\n".join(lines)


def attribute_extraction(
    model: TransformerBridge,
    data: RelationData,
    source_layers: Sequence[int] | None = None,
    target_layer: Layer = SAME,
    *,
    source: str = "{s}",
    seed: int = 0,
    **options: Any,
) -> Attributes:
    """Reads the objects of a relation off states of its subjects with a target such as ``The capital of x is``, and with a probe.

    Half of the subjects train the probe: ridge regression from the state to the unembedding of the answer's first token. Both are judged
    on the other half. ``source`` is the text in which a subject is read, ``{s}``. Options are those of ``patchscope``. Raises ValueError
    for fewer than four subjects, and for a ``source`` without ``{s}``.
    """
    if source.count("{s}") != 1:
        raise ValueError(f"The source {source!r} needs the subject once, as {{s}}.")
    if len(data) < 4:
        raise ValueError(f"{data.name!r} has {len(data)} subjects; a probe and its test need four: give more.")
    order = Random(f"{seed} {data.name}").sample(range(len(data)), len(data))
    train, test = data.take(order[: len(data) // 2]), data.take(order[len(data) // 2 :])
    sources = [[Source(source.replace("{s}", name), name) for name in part.subjects] for part in (train, test)]
    target = attribute(data)
    readings = patchscope(model, sources[1], target, source_layers, target_layer, answers=test.objects, **options)
    match = options.get("match", True)
    seen = [_last_states(model, part, target, readings.layers, match) for part in sources]
    common = Counter(train.objects).most_common(1)[0][0]
    probe = _probe(model, train, test, *seen)
    return Attributes(data.name, readings, probe, torch.tensor([answer == common for answer in test.objects]))


def _last_states(
    model: TransformerBridge, sources: Sequence[Source], target: Target, layers: Sequence[int], match: bool
) -> Float[Tensor, "layer subject d_model"]:
    """The states that a Patchscope of last tokens puts in."""
    places, _ = _pairs(model, sources, target, match, whole=False)
    return torch.stack(_states(model, places, layers), 1)[:, :, 0].float().cpu()


def _probe(
    model: TransformerBridge,
    train: RelationData,
    test: RelationData,
    known: Float[Tensor, "layer subject d_model"],
    asked: Float[Tensor, "layer some d_model"],
) -> Bool[Tensor, "layer some"]:
    """Is the right answer nearest to what the probe of each layer predicts? All answers of the relation are candidates."""
    answers = sorted({*train.objects, *test.objects})
    first = torch.tensor([ids[0] for ids in whole_words(model, train.prompts[:1], [answers]).ids])
    vectors = model.W_U.detach()[:, first.to(model.W_U.device)].T.double().cpu()
    learned = vectors[[answers.index(answer) for answer in train.objects]]
    right = torch.tensor([answers.index(answer) for answer in test.objects])
    found = []
    for own, other in zip(known.double(), asked.double(), strict=True):
        weight, bias = _ridge(own, learned, PROBE_PENALTY)
        found.append(torch.cdist(other @ weight.T + bias, vectors).argmin(-1) == right)
    return torch.stack(found)
