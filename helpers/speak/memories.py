"""Feed-forward layers as key-value memories (Geva et al. 2021, "Transformer feed-forward layers are key-value memories", 2012.14913).

A feed-forward layer computes ``FF(x) = f(x K^T) V`` (section 2), which is a sum over its neurons: ``sum of m_i v_i``, and a bias. Each
neuron is one memory. Its *key* ``k_i`` says when it answers: the *triggers* are the texts in which it rises highest. Its *memory
coefficient* ``m_i = f(x . k_i)`` is the activation, another one for every token. Its *value* ``v_i`` is a row of ``W_out`` and always the
same. So the coefficients are the weights of the sum, and the values are the vectors that are summed: it is these that are unembedded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Context, Neuron, Promoted, TopContexts, check_layers, check_neuron, name, promoted
from helpers.course_lm.corpus.languages import EVERYDAY
from helpers.course_lm.world import World
from helpers.interventions import mlp_out, mlp_post, record
from helpers.models import TransformerBridge
from helpers.one_layer.concepts import FUNCTION_WORDS
from helpers.prediction import pieces, visible
from helpers.progress import progress
from helpers.running import top_k
from helpers.stats import Interval, wilson
from helpers.texts import as_texts

TOLERANCE = 1e-4  # what the sum of a layer's memories may miss by rounding, where its output has length 1 or less; else in proportion
LOGITS = 2**23  # numbers held at once while values are unembedded
LEAST_LETTERS = 3  # of a word that is cut into tokens, the first one must have as many to stand for the word


# --------------------------------------------------------------------------------------------------- a sum of memories


@dataclass(frozen=True)
class MemorySum:
    """What one feed-forward layer wrote at one token, taken apart: ``output = bias + sum of coefficients x values``.

    The memories stand in the order of the length that each adds, ``|m_i| |v_i|``, the longest first; ``neurons`` are their numbers.
    """

    layer: int
    token: str
    neurons: Int[Tensor, "d_mlp"]
    coefficients: Float[Tensor, "d_mlp"]
    values: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, "d_model"]
    output: Float[Tensor, "d_model"]
    words: tuple[tuple[str, ...], ...]  # what the longest parts promote

    @property
    def parts(self) -> Float[Tensor, "d_mlp d_model"]:
        """What each memory adds, ``m_i v_i``."""
        return self.coefficients[:, None] * self.values

    @property
    def lengths(self) -> Float[Tensor, "d_mlp"]:
        """The length of each part, ``|m_i| |v_i|``, falling."""
        return self.coefficients.abs() * self.values.norm(dim=-1)

    @property
    def active(self) -> int:
        """How many memories have a coefficient other than 0."""
        return int((self.coefficients != 0).sum())

    @property
    def error(self) -> float:
        """The largest difference of any number of the output from the sum of the parts and the bias."""
        return (self.parts.sum(0) + self.bias - self.output).abs().max().item()

    def alike(self, n: int) -> float:
        """The cosine of the sum of the ``n`` longest parts with the sum of all parts."""
        return torch.cosine_similarity(self.parts[:n].sum(0), self.parts.sum(0), dim=0).item()

    def table(self) -> str:
        """One line for each of the longest parts: neuron, coefficient, length of value and of part, the tokens that the part promotes."""
        columns = zip(
            *(column.tolist() for column in (self.neurons, self.coefficients, self.values.norm(dim=-1), self.lengths)), strict=True
        )
        lines = [
            f"{name((self.layer, neuron)):<10} {m:8.2f} {value:8.2f} {length:8.2f}   {' '.join(map(visible, words))}"
            for (neuron, m, value, length), words in zip(columns, self.words, strict=False)
        ]
        n = len(self.words)
        active = f"{self.active} of {len(self.neurons)} memories are active"
        end = f"{active}; the sum of the longest {n} has cosine {self.alike(n):.2f} with that of all."
        return "\n".join(["neuron          m_i    |v_i|   length   promotes", *lines, end])


@torch.no_grad()
def memory_sum(model: TransformerBridge, text: str, layer: int, pos: int = -1, shown: int = 10, k: int = 5) -> MemorySum:
    """What the feed-forward layer writes at one token of a text, as a sum of memories (2012.14913, section 5.1).

    Of the ``shown`` longest parts the ``k`` tokens that they promote are read off; a negative coefficient turns them round. Raises
    ValueError where there is no such layer or position, and where the sum is not the output, as in models that normalise it.
    """
    check_layers(model, [layer])
    if not 1 <= shown <= model.cfg.d_mlp:
        raise ValueError(f"shown says of how many parts the tokens are read off; it must be from 1 to {model.cfg.d_mlp}, not {shown}.")
    tokens, place = as_texts(model, [text]).tokens, [mlp_post(layer), mlp_out(layer)]
    if not -tokens.shape[1] <= pos < tokens.shape[1]:
        raise ValueError(f"There is no position {pos} in this text: it has {tokens.shape[1]} tokens, counted from 0.")
    seen = record(model, tokens.to(model.cfg.device), *place)
    m, output = (seen[hook][0, pos].float().cpu() for hook in place)
    values = values_of(model, layer)
    order = (m.abs() * values.norm(dim=-1)).argsort(descending=True, stable=True)
    m, values = m[order], values[order]
    turned = values[:shown] * torch.where(m[:shown] < 0, -1.0, 1.0)[:, None]
    words = tuple(tuple(pieces(model, ids)) for ids in _tops(model, turned, k))
    found = MemorySum(layer, pieces(model, tokens[0, [pos]])[0], order, m, values, _bias(model, layer), output, words)
    if found.error > TOLERANCE * max(1.0, output.norm().item()):
        why = "this model changes what they write, or its numbers have too few digits (load it in float32)"
        raise ValueError(f"The sum of the memories of layer {layer} misses its output by {found.error:.2g}: {why}.")
    return found


def values_of(model: TransformerBridge, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The value vectors of a layer, the rows of ``W_out``, weights folded."""
    return model.blocks[layer].mlp.W_out.detach().float().cpu()


def _bias(model: TransformerBridge, layer: int) -> Float[Tensor, "d_model"]:
    """The bias that a layer adds to its memories; 0 in families that have none."""
    bias = getattr(model.blocks[layer].mlp, "b_out", None)
    return torch.zeros(model.cfg.d_model) if bias is None else bias.detach().float().cpu()


# -------------------------------------------------------------------------------------------------- categories of words

TABLES = {  # columns of the world's tables
    "country": ("countries.name",),
    "city": ("countries.capital", "cities.name"),
    "nationality": ("countries.demonym",),
    "language": ("countries.language",),
    "currency": ("countries.currency",),
    "continent": ("countries.continent",),
    "first name": ("firstnames.name",),
    "god": ("gods.name",),
    "landmark": ("landmarks.name", "mountains.name", "rivers.name"),
    "company": ("companies.name",),
    "element": ("elements.name",),
    "sport": ("sports.name",),
    "colour": ("nouns.colour",),
    "animal": ("animals.name", "animals.plural"),
    "occupation": ("people.occupation",),
    "food": ("dishes.name",),
    "instrument": ("instruments.name",),
    "adjective": ("adjectives.word", "adjectives.synonym"),
    "comparative": ("adjectives.comparative",),
    "superlative": ("adjectives.superlative",),
    "verb, base": ("verbs.base",),
    "verb, third person": ("verbs.third",),
    "verb, past": ("verbs.past", "verbs.participle"),
    "verb, gerund": ("verbs.gerund",),
    "noun, singular": ("nouns.singular", "animals.name"),
    "noun, plural": ("nouns.plural", "animals.plural"),
}
NOUNS = {  # kinds of nouns, in the singular and the plural
    "animal": ("animal",),
    "occupation": ("person",),
    "food": ("food", "fruit", "vegetable", "drink"),
    "instrument": ("instrument",),
    "body": ("body",),
    "clothing": ("clothing", "jewel"),
    "building": ("building", "place"),
    "home": ("home", "furniture", "kitchen", "container"),
    "nature": ("nature",),
    "vehicle": ("vehicle",),
    "tool": ("tool", "device"),
    "school": ("school",),
}
SEQUENCES = {"day, month, season": ("day", "month", "season"), "planet": ("planet",), "ordinal": ("ordinal",), "number": ("number",)}
LANGUAGES = {"French": "fr", "German": "de"}
SHAPES: dict[str, Callable[[str], bool]] = {  # categories that a token's own letters tell
    "number": str.isdigit,
    "Chinese": lambda text: any("一" <= letter <= "鿿" for letter in text),
    "punctuation": lambda text: text.isprintable() and "�" not in text and not any(map(str.isalnum, text)),
}


def category_words(world: World | None = None) -> dict[str, list[str]]:
    """The words of every category, from the tables of the world; French and German ones only if no English word is written so."""
    world = world or World.load()
    found = {category: [word for path in paths for word in world.column(*path.split("."))] for category, paths in TABLES.items()}
    found["family name"] = [person.split()[-1] for person in world.column("people", "name") if " " in person]
    for category, kinds in NOUNS.items():
        rows = [row for row in world.rows("nouns") if row["category"] in kinds]
        found[category] = found.get(category, []) + [row[number] for row in rows for number in ("singular", "plural") if row[number]]
    for category, kinds in SEQUENCES.items():
        found[category] = [row["item"] for row in world.rows("sequences") if row["kind"] in kinds]
    english = {word.lower() for words in found.values() for word in words} | {row["en"] for row in EVERYDAY}
    for language, code in LANGUAGES.items():
        tables = [row for table in ("nouns", "adjectives", "verbs") for row in world.rows(table)]
        words = [row.get(code) for row in [*tables, *EVERYDAY]] + list(FUNCTION_WORDS[language])
        found[language] = [word for word in words if word and word.lower() not in english]
    return found


@dataclass(frozen=True)
class Categories:
    """Categories of words, the smallest first, and which tokens of a model's vocabulary belong to each: a token may be in several."""

    names: tuple[str, ...]
    members: Bool[Tensor, "category d_vocab"]

    def judge(self, tokens: Int[Tensor, "*value k"], least: int = 5) -> Int[Tensor, "*value"]:
        """For each list of ``k`` tokens the category that most of them share, if ``least`` do, else -1; of two the smaller category."""
        shared, category = self.members.sum(1).new_zeros(tokens.shape[:-1]), torch.full(tokens.shape[:-1], -1)
        for number, member in enumerate(self.members):  # one by one: all at once would be large
            here = member[tokens].sum(-1)
            better = (here > shared) & (here >= least)
            shared, category = torch.where(better, here, shared), torch.where(better, number, category)
        return category

    def table(self) -> str:
        """One line for each category: how many tokens it has."""
        width = max(map(len, ("category", *self.names)))
        counts = zip(self.names, self.members.sum(1).tolist(), strict=True)
        return "\n".join([f"{'category':<{width}}  tokens", *(f"{category:<{width}} {count:7,}" for category, count in counts)])


def word_categories(model: TransformerBridge, words: Mapping[str, Sequence[str]] | None = None) -> Categories:
    """The tokens that begin a word of each category; ``None``: those of ``category_words``, and numbers, Chinese and punctuation.

    Words count as they stand in the middle of a text or at its beginning, with a small or a capital letter. A name of several words is
    known by its first. Where the model cuts that into tokens, the first token counts if it has three letters or more.
    Raises ValueError where no category has a token.
    """
    texts = [text.strip() for text in model.tokenizer.batch_decode([[token] for token in range(model.cfg.d_vocab)])]
    found = {category: _beginnings(model, own, texts) for category, own in (category_words() if words is None else words).items()}
    for category, fits in SHAPES.items() if words is None else ():
        found.setdefault(category, set()).update(token for token, text in enumerate(texts) if text and fits(text))
    ordered = sorted((category for category, tokens in found.items() if tokens), key=lambda category: len(found[category]))
    if not ordered:
        raise ValueError(
            "None of the categories has a token in this model's vocabulary: give words that it does not cut into short pieces."
        )
    members = torch.zeros(len(ordered), model.cfg.d_vocab, dtype=torch.bool)
    for row, category in enumerate(ordered):
        members[row, sorted(found[category])] = True
    return Categories(tuple(ordered), members)


def _beginnings(model: TransformerBridge, words: Sequence[str], texts: Sequence[str]) -> set[int]:
    """The first tokens of the words in all spellings, where they show enough of the word; ``texts`` are those of all tokens."""
    first = dict.fromkeys(word.removeprefix("The ").split()[0] for word in words if word.strip())
    written = [gap + form for word in first for form in dict.fromkeys((word, word[0].upper() + word[1:])) for gap in ("", " ")]
    ids = model.tokenizer(written, add_special_tokens=False)["input_ids"] if written else []
    begun = {(one[0], word.strip()) for one, word in zip(ids, written, strict=True) if one}
    return {
        token for token, word in begun if texts[token] == word or (len(texts[token]) >= LEAST_LETTERS and word.startswith(texts[token]))
    }


# ------------------------------------------------------------------------------------------------ are values readable?


@dataclass(frozen=True)
class Readable:
    """Which value vectors are readable: the number of the category that ``least`` of their ``k`` top tokens share, or -1.

    ``shuffled`` says the same of as many vectors of which each coordinate is another value vector's of the layer: the control.
    """

    layers: tuple[int, ...]
    names: tuple[str, ...]
    found: Int[Tensor, "layer d_mlp"]
    shuffled: Int[Tensor, "layer d_mlp"]
    k: int
    least: int

    @property
    def hits(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether each value is readable."""
        return self.found >= 0

    @property
    def control(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether each shuffled vector is readable."""
        return self.shuffled >= 0

    def intervals(self, control: bool = False) -> list[Interval]:
        """The 95 % interval (Wilson) of the share of readable values in each layer, or of readable shuffled vectors."""
        return [wilson(int(row.sum()), len(row)) for row in (self.control if control else self.hits)]

    def category(self, layer: int, neuron: int) -> str | None:
        """The category of one value; None where it is not readable. Raises ValueError for one that was not judged."""
        if layer not in self.layers or not 0 <= neuron < self.found.shape[1]:
            judged = f"layers {', '.join(map(str, self.layers))}, neurons 0 to {self.found.shape[1] - 1}"
            raise ValueError(f"{name((layer, neuron))} was not judged: look at {judged}.")
        number = int(self.found[self.layers.index(layer), neuron])
        return self.names[number] if number >= 0 else None

    def neurons(self, category: str) -> list[Neuron]:
        """The neurons whose values are readable as this category. Raises ValueError for a category that does not exist."""
        if category not in self.names:
            raise ValueError(f"There is no category {category!r}: choose from {', '.join(self.names)}.")
        return [(self.layers[row], neuron) for row, neuron in (self.found == self.names.index(category)).nonzero().tolist()]

    def commonest(self, layer: int, n: int = 3) -> list[tuple[str, int]]:
        """The categories that most values of a layer have, each with their number. Raises ValueError for a layer that was not judged."""
        if layer not in self.layers:
            raise ValueError(f"Layer {layer} was not judged; these were: {', '.join(map(str, self.layers))}.")
        row = self.found[self.layers.index(layer)]
        counts = torch.bincount(row[row >= 0], minlength=len(self.names))
        best = counts.argsort(descending=True, stable=True)[:n].tolist()
        return [(self.names[number], int(counts[number])) for number in best if counts[number]]

    def table(self) -> str:
        """One line for each layer: the share of readable values, that of the shuffled vectors, and the commonest categories."""
        lines = ["layer  readable                shuffled                commonest"]
        for layer, real, mixed in zip(self.layers, self.hits, self.control, strict=True):
            common = ", ".join(f"{category} {count}" for category, count in self.commonest(layer))
            lines.append(f"{layer:>5}  {_share(real)}  {_share(mixed)}  {common}".rstrip())
        lines.append(f"  all  {_share(self.hits)}  {_share(self.control)}")
        return "\n".join(lines)


@torch.no_grad()
def readable_values(
    model: TransformerBridge,
    categories: Categories | None = None,
    layers: Sequence[int] | None = None,
    k: int = 10,
    least: int = 5,
    seed: int = 0,
) -> Readable:
    """Judges the value vectors of some layers (``None``: all) by the words that they promote: no person looks at them.

    A value is readable if ``least`` of its ``k`` top tokens belong to one category (``None``: those of ``word_categories``). The
    control permutes each coordinate among the vectors of the layer, which keeps all of its numbers but not which stand together.
    Raises ValueError for a ``k`` or a ``least`` that cannot be.
    """
    chosen = check_layers(model, layers)
    _check_least(least, k)
    categories, rng = categories or word_categories(model), torch.Generator().manual_seed(seed)
    judged = []
    for layer in progress(chosen, desc="layers"):
        values = values_of(model, layer)
        judged.append([categories.judge(_tops(model, vectors, k), least) for vectors in (values, shuffled(values, rng))])
    found, mixed = (torch.stack(column) for column in zip(*judged, strict=True))
    return Readable(tuple(chosen), categories.names, found, mixed, k, least)


def shuffled(values: Float[Tensor, "d_mlp d_model"], rng: torch.Generator) -> Float[Tensor, "d_mlp d_model"]:
    """Each coordinate permuted among the vectors, by itself."""
    return values.gather(0, torch.rand(values.shape, generator=rng).argsort(0))


def _unembedded(model: TransformerBridge, vectors: Float[Tensor, "value d_model"]) -> Iterator[Float[Tensor, "some d_vocab"]]:
    """What the vectors add to the logits on the direct path, as many at a time as memory likes."""
    for some in vectors.split(max(1, LOGITS // model.cfg.d_vocab)):
        yield some.to(model.W_U) @ model.W_U


def _tops(model: TransformerBridge, vectors: Float[Tensor, "value d_model"], k: int) -> Int[Tensor, "value k"]:
    """The ``k`` tokens that each vector promotes most, best first. Raises ValueError for a ``k`` that cannot be."""
    if not 1 <= k <= model.cfg.d_vocab:
        raise ValueError(f"k says how many tokens to list; it must be from 1 to {model.cfg.d_vocab}, not {k}.")
    return torch.cat([top_k(logits, k)[1].cpu() for logits in _unembedded(model, vectors)])


def _check_least(least: int, k: int) -> None:
    if not 1 <= least <= k:
        raise ValueError(f"least says how many of the {k} top tokens must share a category; it must be from 1 to {k}, not {least}.")


def _share(hits: Bool[Tensor, "*value"]) -> str:
    """A share with its interval, in percent: 22 letters."""
    n_hits, n = int(hits.sum()), hits.numel()
    low, high = wilson(n_hits, n)
    return f"{n_hits / max(1, n):6.1%} [{low:5.1%}, {high:6.1%}]"


# -------------------------------------------------------------------------------------- does the value say what follows?


@dataclass(frozen=True)
class Agreement:
    """For every neuron the top token of its value, and the token that follows in the text where it rises highest (-1: none).

    ``ranks`` says how high that next token stands among all that the value promotes: 1 is the top (0 where there is none).
    ``shuffled_ranks`` is the control: the same with the next token of another neuron of the layer.
    """

    layers: tuple[int, ...]
    best: Int[Tensor, "layer d_mlp"]
    follows: Int[Tensor, "layer d_mlp"]
    ranks: Int[Tensor, "layer d_mlp"]
    shuffled_ranks: Int[Tensor, "layer d_mlp"]

    @property
    def known(self) -> Bool[Tensor, "layer d_mlp"]:
        """Which neurons have a trigger that something follows: the others do not count."""
        return self.follows >= 0

    @property
    def hits(self) -> Bool[Tensor, "layer d_mlp"]:
        """Whether the value's top token is the one that follows the trigger."""
        return self.known & (self.best == self.follows)

    @property
    def rate(self) -> list[float]:
        """The agreement in each layer: the share of hits among the neurons that count."""
        return [int(hits.sum()) / max(1, int(known.sum())) for hits, known in zip(self.hits, self.known, strict=True)]

    @property
    def chance(self) -> list[float]:
        """The agreement in each layer of the value of one neuron and the trigger of another one, over all such pairs."""
        return [_chance(best[known], follows[known]) for best, follows, known in zip(self.best, self.follows, self.known, strict=True)]

    @property
    def overall_chance(self) -> float:
        """The mean of the layers' chances, each with the weight of its neurons that count: it belongs to the share of all hits."""
        counts = self.known.sum(1).tolist()
        return sum(chance * n for chance, n in zip(self.chance, counts, strict=True)) / max(1, sum(counts))

    def table(self) -> str:
        """One line for each layer: the agreement, that of different neurons, the median rank of the next token, and of another one's."""
        lines = ["layer  agreement                chance   median rank  shuffled  neurons"]
        rows = zip(self.layers, self.hits, self.known, self.ranks, self.shuffled_ranks, self.chance, strict=True)
        for layer, hits, known, own, other, chance in rows:
            lines.append(_agreement_line(str(layer), hits[known], chance, own[known], other[known]))
        known, pooled = self.known, (self.ranks, self.shuffled_ranks)
        lines.append(_agreement_line("all", self.hits[known], self.overall_chance, *(ranks[known] for ranks in pooled)))
        return "\n".join(lines)


def _agreement_line(
    label: str, hits: Bool[Tensor, "neuron"], chance: float, own: Int[Tensor, "neuron"], other: Int[Tensor, "neuron"]
) -> str:
    middles = [f"{int(ranks.median()):,}" if len(ranks) else "-" for ranks in (own, other)]
    return f"{label:>5}  {_share(hits)}  {chance:7.2%}  {middles[0]:>12}  {middles[1]:>8}  {len(hits):>7,}"


def _chance(best: Int[Tensor, "neuron"], follows: Int[Tensor, "neuron"]) -> float:
    """The share of pairs of two different neurons in which the first one's top token follows the second one's trigger."""
    n = len(best)
    if n < 2:
        return 0.0
    size = int(max(best.max(), follows.max())) + 1
    pairs = int((torch.bincount(best, minlength=size) * torch.bincount(follows, minlength=size)).sum())
    return (pairs - int((best == follows).sum())) / (n * (n - 1))


@torch.no_grad()
def agreement(model: TransformerBridge, top: TopContexts, seed: int = 0) -> Agreement:
    """Compares the top token of each value with the token that follows the neuron's top trigger (2012.14913, section 4).

    The trigger is the highest of the contexts in ``top`` (``helpers.activations.top_contexts``) behind which the text goes on.
    Raises ValueError where the contexts are those of another model.
    """
    _check_same(model, top)
    follows, rng = next_tokens(top), torch.Generator().manual_seed(seed)
    found = [
        _judged(model, values_of(model, layer), torch.stack([own, of_another(own, rng)], 1))
        for layer, own in zip(progress(top.stats.layers, desc="layers"), follows, strict=True)
    ]
    best, ranks = (torch.stack(column) for column in zip(*found, strict=True))
    return Agreement(top.stats.layers, best, follows, *ranks.unbind(-1))


def next_tokens(top: TopContexts) -> Int[Tensor, "layer d_mlp"]:
    """The token behind the highest peak of each neuron that does not end its text; -1 for a neuron without one."""
    texts, behind = top.texts, top.positions + 1
    usable = (top.values > 0) & (behind < texts.lengths[top.rows])
    first = usable.int().argmax(-1, keepdim=True)
    rows, places = (column.gather(-1, first)[..., 0] for column in (top.rows, behind.clamp(max=texts.tokens.shape[1] - 1)))
    return torch.where(usable.any(-1), texts.tokens[rows, places], -1)


def of_another(follows: Int[Tensor, "neuron"], rng: torch.Generator) -> Int[Tensor, "neuron"]:
    """For each neuron with a next token that of another one, all of them once: a random ring of neurons; -1 stays -1."""
    known = (follows >= 0).nonzero().flatten()
    ring = known[torch.randperm(len(known), generator=rng)]
    found = follows.clone()
    found[ring] = follows[ring.roll(1)]
    return found


def _judged(
    model: TransformerBridge, values: Float[Tensor, "d_mlp d_model"], asked: Int[Tensor, "d_mlp two"]
) -> tuple[Int[Tensor, "d_mlp"], Int[Tensor, "d_mlp two"]]:
    """The top token of each value, and the ranks of two tokens in what it promotes; 0 for the token -1."""
    best, ranks, start = [], [], 0
    for logits in _unembedded(model, values):
        some = asked[start : start + len(logits)].to(logits.device)
        own = logits.gather(1, some.clamp(min=0))
        above = torch.stack([(logits > one[:, None]).sum(1) for one in own.T], 1)
        best.append(logits.argmax(1).cpu())
        ranks.append(torch.where(some >= 0, above + 1, 0).cpu())
        start += len(logits)
    return torch.cat(best), torch.cat(ranks)


def _check_same(model: TransformerBridge, top: TopContexts) -> None:
    """Raises ValueError where the contexts cannot be those of this model."""
    if top.values.shape[1] != model.cfg.d_mlp or max(top.stats.layers) >= model.cfg.n_layers:
        raise ValueError(
            f"These contexts were found for layers of {top.values.shape[1]} neurons, not for this model: scan the texts with it."
        )


# ------------------------------------------------------------------------------------------------------------ one memory


@dataclass(frozen=True)
class Memory:
    """One memory: the contexts that trigger its key, the tokens that its value promotes, and their category if it is readable."""

    layer: int
    neuron: int
    triggers: tuple[Context, ...]
    promoted: Promoted
    category: str | None

    def table(self) -> str:
        """The triggers, a line each with the peak in brackets, and the promoted tokens beside the suppressed ones."""
        key = [f"  {trigger.around()}" for trigger in self.triggers] or ["  never active in these texts"]
        value = [f"  {line}" for line in self.promoted.table().splitlines()]
        judged = f"readable: {self.category}" if self.category else "in no category"
        return "\n".join([f"{name((self.layer, self.neuron))}, key: triggers", *key, f"value: promoted, suppressed ({judged})", *value])


@torch.no_grad()
def memory(
    model: TransformerBridge, layer: int, neuron: int, top: TopContexts, categories: Categories, n: int = 5, k: int = 10, least: int = 5
) -> Memory:
    """One neuron as a memory: its ``n`` top triggers beside the ``k`` tokens that its value promotes.

    ``top`` and ``categories`` are made once, by ``top_contexts`` and ``word_categories``; then each neuron is a matter of milliseconds.
    Raises ValueError for a neuron that does not exist or a layer that was not scanned.
    """
    check_neuron(model, layer, neuron)
    _check_same(model, top)
    _check_least(least, k)
    triggers = top.contexts(model, layer, neuron, n)
    number = int(categories.judge(_tops(model, values_of(model, layer)[[neuron]], k), least)[0])
    return Memory(layer, neuron, tuple(triggers), promoted(model, layer, neuron, k), categories.names[number] if number >= 0 else None)
