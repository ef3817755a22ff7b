"""A model of the model: one affine map that does what a language model does with a relation such as *the capital of*.

Hernandez et al. 2024 (arXiv 2308.09124): from the state ``s`` at the last token of the subject, a model computes the state ``o`` from which
it reads the object, by all its layers; for many relations the map ``LRE(s) = beta W s + b`` says the same first token. ``W`` is the mean
over a few subjects of the model's own slope there, the Jacobian ``do/ds``, and ``b`` the mean of ``o - (do/ds) s`` (section 3).

    parts = split(known(model, course_relations(["capital"])["capital"]))
    print(compare(model, parts, layer=3, beta=2.0).table())

Layer ``l`` is the stream *after* block ``l`` (``resid_post``), layer -1 the embeddings before block 0. ``o`` is the stream after the last
block at the last token, before the final normalisation. A surrogate is judged by the MODEL's own first token, never by the truth. The
authors show the model the other examples before each prompt; here every prompt stands alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import interventions as change
from helpers.course_lm import facts
from helpers.course_lm.corpus.base import sentence
from helpers.course_lm.world import World
from helpers.interventions import Intervention, intervene, record, resid_post, resid_pre, unembed_only_at
from helpers.metrics import whole_words
from helpers.models import TransformerBridge
from helpers.prediction import pieces, tokenize
from helpers.progress import progress
from helpers.stats import wilson
from helpers.texts import Texts, as_texts

N_TRAIN = 8  # subjects from which a map is fitted (Hernandez et al., section 3)
BETAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # the authors' own choices lie between 2.25 and 8
RANKS = (4, 8, 16, 32, 64, 128)
PENALTY = 0.1  # of the regression, as a share of the mean squared length of the centred states
GROUP = 8  # subjects whose slopes are computed together
BASIS_TOKENS = 1024  # tokens in one backward pass over many output coordinates
DECODED = 512  # states that are read as logits together

Rows = Int[Tensor, "batch"]

# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class RelationData:
    """A relation as text: ``template`` with ``{s}`` for the subject, which ends where the object follows, and who goes with what.

    ``dropped`` counts subjects that ``known`` took away. Raises ValueError for a template without ``{s}``, a subject that stands
    there twice, and where subjects and objects are not equally many.
    """

    name: str
    template: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    dropped: int = 0

    def __post_init__(self) -> None:
        if self.template.count("{s}") != 1 or "{o}" in self.template:
            raise ValueError(
                f"The template {self.template!r} needs the subject once, as {{s}}, and no object: write it like 'The capital of {{s}} is'."
            )
        if len(self.subjects) != len(self.objects):
            raise ValueError(f"{self.name!r} has {len(self.subjects)} subjects and {len(self.objects)} objects: give one for each.")
        if not all(word.strip() for word in (*self.subjects, *self.objects)):
            raise ValueError(f"{self.name!r} has an empty subject or object: give each of them a word.")
        if double := next((subject for subject, count in Counter(self.subjects).items() if count > 1), None):
            raise ValueError(f"{double!r} is a subject of {self.name!r} twice: keep it once, or use relation_data, which leaves it out.")

    def __len__(self) -> int:
        """How many subjects there are."""
        return len(self.subjects)

    @property
    def prompts(self) -> list[str]:
        """What the model reads for each subject."""
        return [self.template.replace("{s}", subject).rstrip() for subject in self.subjects]

    @property
    def answer_of(self) -> dict[str, str]:
        """The object of each subject."""
        return dict(zip(self.subjects, self.objects, strict=True))

    def take(self, rows: Sequence[int]) -> "RelationData":
        """Some of the subjects."""
        return replace(self, subjects=tuple(self.subjects[row] for row in rows), objects=tuple(self.objects[row] for row in rows))


def relation_data(name: str, template: str, pairs: Sequence[tuple[str, str]]) -> RelationData:
    """A relation for any model from pairs of subject and object; a subject with several objects is left out."""
    found: dict[str, set[str]] = {}
    for subject, answer in pairs:
        found.setdefault(subject, set()).add(answer)
    single = {subject: answers.pop() for subject, answers in found.items() if len(answers) == 1}
    return RelationData(name, template, tuple(single), tuple(single.values()))


def course_relations(names: Sequence[str] | None = None) -> dict[str, RelationData]:
    """Relations of the course LM's world by name, or all that can be asked for, each with the first sentence that ends in its object.

    Sentences with ``a {s}`` or ``a {o}`` are passed over, since their article would tell. Raises ValueError for an unknown name.
    """
    templates = {name: found for name, relation in facts.relations().items() if (found := _template(relation))}
    for name in names or ():
        if name not in templates:
            near = get_close_matches(name, templates, n=3, cutoff=0.3) or list(templates)[:3]
            raise ValueError(f"There is no relation {name!r} in the course LM's world: perhaps {', '.join(near)} was meant.")
    return {name: _course_relation(facts.relations()[name], templates[name]) for name in names or templates}


def _template(relation: facts.Relation) -> str | None:
    """The first sentence about a relation in which subject and object stand in that order and without an article that depends on them."""
    plain = (told for told in relation.forward if not any(article in told.lower() for article in ("a {s}", "a {o}")))
    told = next(plain, None)
    return told[: told.index("{o}")].rstrip() if told else None


def _course_relation(relation: facts.Relation, template: str) -> RelationData:
    told = [one for row in World.load().rows(relation.table) if (one := facts.fact(relation, row))]
    start = sentence if template.startswith("{s}") else str
    return relation_data(relation.name, template, [(start(one.phrase), one.answer) for one in told])


def known(model: TransformerBridge, data: RelationData) -> RelationData:
    """The subjects after which the model's most likely token is the first one of the object, as in the paper; ``dropped`` counts others.

    Raises ValueError where the model knows none.
    """
    if not (kept := _known_rows(model, data)):
        raise ValueError(f"The model gives no right answer to {data.template!r}: choose another relation, template or model.")
    return replace(data.take(kept), dropped=data.dropped + len(data) - len(kept))


def _known_rows(model: TransformerBridge, data: RelationData) -> list[int]:
    right = torch.tensor([ids[0] for ids in whole_words(model, data.prompts, [[answer] for answer in data.objects]).ids])
    return (next_tokens(model, as_texts(model, data.prompts)) == right).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Parts:
    """Subjects to fit a map, to choose its layer and factor, and to judge it: no subject is in two of them."""

    train: RelationData
    choose: RelationData
    test: RelationData


def split(data: RelationData, n_train: int = N_TRAIN, seed: int = 0) -> Parts:
    """``n_train`` subjects for fitting, and two halves of the others. Raises ValueError where these would be empty."""
    if n_train < 1:
        raise ValueError(f"n_train says how many subjects to fit; it must be 1 or more, not {n_train}.")
    if len(data) < n_train + 2:
        raise ValueError(f"{data.name!r} has {len(data)} subjects; fitting {n_train} and judging needs {n_train + 2}: lower n_train.")
    order = Random(f"{seed} {data.name}").sample(range(len(data)), len(data))
    middle = n_train + (len(data) - n_train) // 2
    return Parts(data.take(order[:n_train]), data.take(order[n_train:middle]), data.take(order[middle:]))


# -------------------------------------------------------------------------------------------------------------- states


def place_of(model: TransformerBridge, layer: int) -> str:
    """The place of a layer's state: the stream after the block, or before block 0 for layer -1. Raises ValueError out of range."""
    if not -1 <= layer < model.cfg.n_layers:
        raise ValueError(f"There is no layer {layer}: they go from -1, before all blocks, to {model.cfg.n_layers - 1}.")
    return resid_pre(0) if layer == -1 else resid_post(layer)


@dataclass(frozen=True)
class Located:
    """The prompts of a relation as tokens, and at which position the last token of each subject stands."""

    texts: Texts
    subject: Int[Tensor, "subject"]


def locate(model: TransformerBridge, data: RelationData) -> Located:
    """Tokenises the prompts and finds the last token of each subject.

    Raises ValueError where a token holds the end of the subject and the beginning of what follows, and where there is no subject.
    """
    texts, places = as_texts(model, data.prompts), []
    before, after = data.template.split("{s}")
    for row, (subject, prompt) in enumerate(zip(data.subjects, data.prompts, strict=True)):
        ids, start = tokenize(model, prompt).tolist(), tokenize(model, (before + subject).rstrip() if after else prompt).tolist()
        if len(ids) > int(texts.lengths[row]):
            raise ValueError(
                f"The prompt of {subject[:40]!r} has more than the {model.cfg.n_ctx} tokens that this model reads: shorten it."
            )
        if ids[: len(start)] != start or len(start) <= len(tokenize(model, before.rstrip())):
            raise ValueError(f"The tokens of {subject!r} are no stretch of their own in {prompt!r}: a space must follow it there.")
        places.append(len(start) - 1)
    return Located(texts, torch.tensor(places))


@dataclass(frozen=True)
class States:
    """What a model computes for each subject: ``s`` at its last token, ``o`` at the prompt's end, and its own answer."""

    data: RelationData
    located: Located
    layers: tuple[int, ...]
    s: Float[Tensor, "layer subject d_model"]
    o: Float[Tensor, "subject d_model"]
    token: Int[Tensor, "subject"]

    def at(self, layer: int) -> Float[Tensor, "subject d_model"]:
        """The subjects' states in one layer. Raises ValueError for a layer that was not looked at."""
        if layer not in self.layers:
            raise ValueError(f"The states of layer {layer} were not read, only those of {', '.join(map(str, self.layers))}.")
        return self.s[self.layers.index(layer)]


@torch.no_grad()
def read(model: TransformerBridge, data: RelationData, layers: Sequence[int]) -> States:
    """The states and the model's most likely next token for all subjects, in one or few passes; on the CPU."""
    places, located = [place_of(model, layer) for layer in layers], locate(model, data)
    last, width = resid_post(model.cfg.n_layers - 1), model.cfg.d_model
    s, o = torch.empty(len(layers), len(data), width, dtype=_wide(model)), torch.empty(len(data), width, dtype=_wide(model))
    for rows in located.texts.batches():
        part, each = located.texts.take(rows), torch.arange(len(rows))
        seen = record(model, part.tokens.to(model.cfg.device), *{*places, last})
        for number, place in enumerate(places):
            s[number, rows] = seen[place][each, located.subject[rows]].to(s)
        o[rows] = seen[last][each, part.lengths - 1].to(o)
    return States(data, located, tuple(layers), s, o, decode(model, o).argmax(-1))


def _wide(model: TransformerBridge) -> torch.dtype:
    """The type of numbers of states: that of the model, but no narrower than float32."""
    return torch.promote_types(model.cfg.dtype, torch.float32)


@torch.no_grad()
def decode(model: TransformerBridge, o: Float[Tensor, "state d_model"]) -> Float[Tensor, "state d_vocab"]:
    """The logits that the model itself would give if its stream ended in ``o``: its own normalisation and unembedding; on the CPU."""
    last, found = resid_post(model.cfg.n_layers - 1), []
    for some in o.split(DECODED):
        with intervene(model, change.set_to(last, some[:, None].to(model.cfg.device))):
            found.append(model(torch.zeros(len(some), 1, dtype=torch.long, device=model.cfg.device))[:, 0].to(o).cpu())
    return torch.cat(found)


Changes = Callable[[Rows], list[Intervention]]


@torch.no_grad()
def next_tokens(model: TransformerBridge, texts: Texts, changes: Changes = lambda rows: []) -> Int[Tensor, "prompt"]:
    """The most likely next token after each text, batch by batch, each batch with its own interventions."""
    found = torch.empty(len(texts), dtype=torch.long)
    for rows in texts.batches():
        part = texts.take(rows)
        with intervene(model, *changes(rows), unembed_only_at(part.lengths[:, None] - 1)):
            found[rows] = model(part.tokens.to(model.cfg.device))[:, 0].argmax(-1).cpu()
    return found


# ----------------------------------------------------------------------------------------------------------- Jacobians


def jacobian(model: TransformerBridge, data: RelationData, subject: str, layer: int) -> Float[Tensor, "d_out d_in"]:
    """How ``o`` changes with ``s`` for one subject: ``do_i / ds_j``. Raises ValueError for an unknown subject or layer."""
    if subject not in data.subjects:
        raise ValueError(f"{subject!r} is no subject of {data.name!r}: choose one such as {data.subjects[0]!r}.")
    return jacobians(model, data.take([data.subjects.index(subject)]), [layer])[0, 0]


def jacobians(model: TransformerBridge, data: RelationData, layers: Sequence[int]) -> Float[Tensor, "layer subject d_out d_in"]:
    """``do/ds`` for every subject and several layers, all layers from the same backward passes; on the CPU."""
    found = torch.empty(len(layers), len(data), model.cfg.d_model, model.cfg.d_model, dtype=_wide(model))
    for rows, some in _slopes(model, locate(model, data), layers):
        found[:, rows] = some.to(found)
    return found


def _slopes(
    model: TransformerBridge, located: Located, layers: Sequence[int]
) -> Iterator[tuple[Rows, Float[Tensor, "layer batch d_out d_in"]]]:
    """Jacobians for groups of subjects with equally many tokens after them.

    Nothing before the subject's last token depends on ``s``, so only the tokens from there on are run, on what the model remembers
    of the earlier ones (its keys and values); and one pass backward carries many output coordinates at once.
    """
    if not len([place_of(model, layer) for layer in layers]):
        raise ValueError("There is no layer to look at: give at least one.")
    for rows in _groups(located):
        streams, o = _from_subject(model, located, rows, layers)
        found = torch.empty(len(layers), len(rows), o.shape[-1], o.shape[-1], dtype=o.dtype, device=o.device)
        basis, n_tokens = torch.eye(o.shape[-1], dtype=o.dtype, device=o.device), len(rows) * streams[0].shape[1]
        for some in torch.arange(len(basis)).split(max(1, BASIS_TOKENS // n_tokens)):
            upstream = basis[some][:, None].expand(-1, len(rows), -1)  # [coordinate, batch, d_out]
            slopes = torch.autograd.grad(o, streams, upstream, is_grads_batched=True, retain_graph=True)
            for number, slope in enumerate(slopes):  # [coordinate, batch, pos, d_in], of which the subject is the first position
                found[number, :, some] = slope[:, :, 0].transpose(0, 1)
        yield rows, found


def _groups(located: Located) -> Iterator[Rows]:
    """Rows with equally many tokens from the subject's last one on."""
    alike: dict[int, list[int]] = {}
    for row, rest in enumerate((located.texts.lengths - located.subject).tolist()):
        alike.setdefault(rest, []).append(row)
    for rows in alike.values():
        yield from torch.tensor(rows).split(GROUP)


def _from_subject(
    model: TransformerBridge, located: Located, rows: Rows, layers: Sequence[int]
) -> tuple[list[Float[Tensor, "batch rest d_model"]], Float[Tensor, "batch d_model"]]:
    """The stream in some layers from the subject's last token on, and at the end, with a graph that begins in the lowest of the layers."""
    tokens, past = _remembered(model, located, rows)
    top, seen = model.cfg.n_layers - 1, {}

    def keep(layer: int) -> Callable[[Tensor, object], Tensor]:
        def pass_on(value: Tensor, pick: object) -> Tensor:
            seen[layer] = value.detach().requires_grad_() if layer == min(layers) else value
            return seen[layer]

        return pass_on

    with torch.enable_grad(), intervene(model, *(Intervention(place_of(model, layer), keep(layer)) for layer in {*layers, top})):
        model(tokens, **past)
        return [seen[layer] for layer in layers], seen[top][:, -1]


@torch.no_grad()
def _remembered(model: TransformerBridge, located: Located, rows: Rows) -> tuple[Int[Tensor, "batch rest"], dict[str, Any]]:
    """The tokens from the subject's last one on, and the model's keys and values of those before, which are filled up on the left."""
    part, starts = located.texts.take(rows), located.subject[rows]
    rest, width = int(part.lengths[0] - starts[0]), int(starts.max())
    places = torch.arange(width + rest) - (width - starts)[:, None]  # [batch, pos], below 0 where there is only filling
    tokens, mask = part.tokens.gather(1, places.clamp(min=0)).to(model.cfg.device), (places >= 0).long().to(model.cfg.device)
    if not width:
        return tokens, {}
    _, past = model(tokens[:, :width], attention_mask=mask[:, :width], return_type="logits_and_cache", use_cache=True)
    return tokens[:, width:], {"attention_mask": mask, "past_key_values": past}


# ---------------------------------------------------------------------------------------------------------- surrogates


@dataclass(frozen=True)
class Surrogate:
    """The affine map ``o = beta W s + b`` that stands for a model in one relation, for the state ``s`` of one layer."""

    relation: str
    kind: str
    layer: int
    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, "d_out"]
    beta: float = 1.0

    def __call__(self, s: Float[Tensor, "*subject d_in"]) -> Float[Tensor, "*subject d_out"]:
        """What the map makes of some states (Hernandez et al., equation 4)."""
        return self.beta * s.to(self.weight) @ self.weight.T + self.bias

    def predict(self, model: TransformerBridge, s: Float[Tensor, "subject d_in"]) -> Float[Tensor, "subject d_vocab"]:
        """The logits, by the model's own normalisation and unembedding."""
        return decode(model, self(s))

    def top(self, model: TransformerBridge, s: Float[Tensor, "subject d_in"], k: int = 5) -> list[list[str]]:
        """The ``k`` most likely first tokens of each subject's object."""
        return [pieces(model, ids) for ids in self.predict(model, s).topk(min(k, model.cfg.d_vocab)).indices]


def fit(model: TransformerBridge, data: RelationData, layer: int, beta: float = 1.0) -> Surrogate:
    """The linear relational embedding of a relation: ``W`` the mean Jacobian over the subjects, ``b`` the mean of ``o - (do/ds) s``."""
    return fit_layers(model, data, [layer], beta)[0]


def fit_layers(model: TransformerBridge, data: RelationData, layers: Sequence[int], beta: float = 1.0) -> list[Surrogate]:
    """``fit`` for several layers, in the time of the first of them."""
    states = read(model, data, layers)
    weight, moved = torch.zeros(len(layers), *[model.cfg.d_model] * 2, dtype=states.s.dtype), torch.zeros_like(states.s[:, 0])
    for rows, some in _slopes(model, states.located, layers):
        some = some.to(weight)
        weight += some.sum(1) / len(data)
        moved += torch.einsum("lboi,lbi->lo", some, states.s[:, rows]) / len(data)
    bias = states.o.mean(0) - moved
    return [Surrogate(data.name, "LRE", layer, weight[at], bias[at], beta) for at, layer in enumerate(layers)]


def identity(states: States, layer: int) -> Surrogate:
    """The map that leaves the state as it is: what the stream says at the subject already (a logit lens)."""
    eye = torch.eye(states.o.shape[-1], dtype=states.o.dtype)
    return Surrogate(states.data.name, "identity", layer, eye, torch.zeros_like(eye[0]))


def translation(states: States, layer: int) -> Surrogate:
    """The map that adds the mean of ``o - s``, the same for every subject."""
    return replace(identity(states, layer), kind="translation", bias=(states.o - states.at(layer)).mean(0))


def regression(states: States, layer: int, penalty: float = PENALTY) -> Surrogate:
    """The map that fits ``o`` best from ``s`` over the subjects (ridge regression), without a look into the model.

    ``penalty`` is a share of the mean squared length of the states, their mean taken away. Raises ValueError unless it is above 0.
    """
    if not penalty > 0:
        raise ValueError(f"The penalty must be above 0, not {penalty}: there are fewer subjects than dimensions.")
    s, o = (values.double() for values in (states.at(layer), states.o))
    x, y = s - s.mean(0), o - o.mean(0)
    inner = x @ x.T  # [subject, subject]
    ridge = (penalty * inner.diagonal().mean()).clamp(min=1e-12) * torch.eye(len(x), dtype=torch.float64)
    weight = y.T @ torch.linalg.solve(inner + ridge, x)
    return Surrogate(states.data.name, "regression", layer, weight.to(states.o), (o.mean(0) - weight @ s.mean(0)).to(states.o))


# -------------------------------------------------------------------------------------------------------- faithfulness


@dataclass(frozen=True)
class Faithfulness:
    """For each subject: does the surrogate say the same first token as the model?"""

    surrogate: Surrogate
    subjects: tuple[str, ...]
    said: tuple[str, ...]
    model_said: tuple[str, ...]
    hits: Bool[Tensor, "subject"]

    @property
    def share(self) -> float:
        """The share of subjects on which both agree."""
        return self.hits.float().mean().item()

    def table(self) -> str:
        """One line for each subject: what the surrogate says, and the model."""
        width = max(7, *map(len, self.subjects))
        lines = [f"{'subject':<{width}}  surrogate     model"]
        for subject, said, own, hit in zip(self.subjects, self.said, self.model_said, self.hits.tolist(), strict=True):
            lines.append(f"{subject:<{width}}  {said:<12}  {own}{'' if hit else '   (differs)'}")
        return "\n".join(lines)


def faithfulness(surrogate: Surrogate, model: TransformerBridge, data: RelationData) -> Faithfulness:
    """How often a surrogate agrees with the model's own first token, on subjects that were never used to fit or choose it."""
    states = read(model, data, [surrogate.layer])
    said = surrogate.predict(model, states.s[0]).argmax(-1)
    words = [tuple(piece.strip() for piece in pieces(model, ids)) for ids in (said, states.token)]
    return Faithfulness(surrogate, data.subjects, *words, said == states.token)


@dataclass(frozen=True)
class Comparison:
    """The agreement of several methods with the model, subject by subject."""

    relation: str
    layer: int
    beta: float
    methods: tuple[str, ...]
    hits: Bool[Tensor, "method subject"]

    def of(self, method: str) -> Bool[Tensor, "subject"]:
        """The hits of one method. Raises ValueError for one that was not compared."""
        if method not in self.methods:
            raise ValueError(f"{method!r} was not compared: there are {', '.join(self.methods)}.")
        return self.hits[self.methods.index(method)]

    @property
    def shares(self) -> dict[str, float]:
        """The share of subjects on which each method agrees with the model."""
        return dict(zip(self.methods, self.hits.float().mean(1).tolist(), strict=True))

    def table(self) -> str:
        """One line for each method: the share and its 95 % interval (Wilson)."""
        width, n = max(map(len, self.methods)), self.hits.shape[1]
        head = f"{self.relation}, layer {self.layer}, beta {self.beta:g}, {n} subjects"
        ends = [wilson(int(row.sum()), n) for row in self.hits]
        rows = zip(self.shares.items(), ends, strict=True)
        return "\n".join([head, *(f"{method:<{width}}  {share:6.1%}  [{low:.1%}, {high:.1%}]" for (method, share), (low, high) in rows)])


def compare(model: TransformerBridge, parts: Parts, layer: int, beta: float = 1.0) -> Comparison:
    """The linear relational embedding beside its baselines, all fitted on the training subjects and judged on the test subjects.

    Baselines are the identity, a translation, a regression on the same subjects and one on those for choosing too, and two constant
    answers: the model's most frequent one among the training subjects, and even among the test subjects.
    """
    return _compare(model, parts, fit(model, parts.train, layer, beta))


def _compare(model: TransformerBridge, parts: Parts, lre: Surrogate) -> Comparison:
    more = replace(parts.train, subjects=parts.train.subjects + parts.choose.subjects, objects=parts.train.objects + parts.choose.objects)
    train, both, test = (read(model, data, [lre.layer]) for data in (parts.train, more, parts.test))
    fitted = {one.kind: one for one in (lre, *(method(train, lre.layer) for method in (identity, translation, regression)))}
    fitted[f"regression ({len(more)})"] = regression(both, lre.layer)
    hits = {kind: one.predict(model, test.s[0]).argmax(-1) == test.token for kind, one in fitted.items()}
    hits |= {"most frequent": test.token == most_frequent(train.token), "most frequent in test": test.token == most_frequent(test.token)}
    return Comparison(lre.relation, lre.layer, lre.beta, tuple(hits), torch.stack([*hits.values()]))


def most_frequent(tokens: Int[Tensor, "subject"]) -> int:
    """The token that stands there most often, the first of them where several do."""
    return Counter(tokens.tolist()).most_common(1)[0][0]


@dataclass(frozen=True)
class Sweep:
    """Agreement with the model for each layer and factor, and the log-probability of the model's token (nats), which breaks ties."""

    surrogates: tuple[Surrogate, ...]
    betas: tuple[float, ...]
    hits: Bool[Tensor, "layer beta subject"]
    log_prob: Float[Tensor, "layer beta"]

    @property
    def share(self) -> Float[Tensor, "layer beta"]:
        """The share of subjects on which the surrogate agrees with the model."""
        return self.hits.float().mean(-1)

    @property
    def best(self) -> Surrogate:
        """The surrogate of the layer and factor with the highest agreement; of several, the one that is surest of the model's token.

        Differences below a hundredth of a nat are none: then the first layer and factor is taken, on every machine the same.
        """
        top = self.log_prob.mul(100).round().masked_fill(self.share < self.share.max(), -torch.inf)
        layer, beta = divmod(int(top.argmax()), len(self.betas))
        return replace(self.surrogates[layer], beta=self.betas[beta])

    def table(self) -> str:
        """One line for each layer, a column for each factor."""
        return _grid([one.layer for one in self.surrogates], self.betas, self.share)


def sweep(model: TransformerBridge, parts: Parts, layers: Sequence[int] | None = None, betas: Sequence[float] = BETAS) -> Sweep:
    """Fits every layer on the training subjects, and tries each with every factor on those for choosing.

    Raises ValueError where there is no layer or no factor.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    if not len(layers) or not len(betas):
        raise ValueError("There is nothing to try: give at least one layer and one beta.")
    fitted, states = fit_layers(model, parts.train, layers), read(model, parts.choose, layers)
    tried = [replace(one, beta=float(beta))(states.at(one.layer)) for one in fitted for beta in betas]
    logits = decode(model, torch.cat(tried)).unflatten(0, (len(layers), len(betas), -1))
    right = states.token.expand(logits.shape[:-1])
    log_prob = (logits.gather(-1, right[..., None])[..., 0] - logits.logsumexp(-1)).mean(-1)
    return Sweep(tuple(fitted), tuple(map(float, betas)), logits.argmax(-1) == right, log_prob)


# ------------------------------------------------------------------------------------------------- all relations at once


@dataclass(frozen=True)
class Entry:
    """One relation: what was tried on the subjects for choosing, and how the chosen surrogate does on those for testing.

    ``known`` is the share of the relation's subjects that the model knows.
    """

    known: float
    parts: Parts
    sweep: Sweep
    comparison: Comparison


@dataclass(frozen=True)
class Report:
    """Many relations, the best first; ``skipped`` had too few subjects that the model knows."""

    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]

    def table(self) -> str:
        """One line for each relation: chosen layer and factor, the surrogate's agreement with the model, and that of each baseline."""
        if not self.entries:
            return f"No relation has enough subjects that the model knows; skipped: {', '.join(self.skipped)}."
        columns = ["LRE", "identity", "translation", "regression", "most frequent", "most frequent in test"]
        lines = ["relation            known  test  layer  beta  " + "  ".join(columns)]
        for entry in self.entries:
            found = entry.comparison
            shares = "  ".join(f"{found.shares[name]:>{max(len(name), 4)}.0%}" for name in columns)
            lines.append(f"{found.relation:<20}{entry.known:5.0%}  {len(entry.parts.test):4}  {found.layer:5}  {found.beta:4g}  {shares}")
        return "\n".join([*lines, *([f"too few known subjects: {', '.join(self.skipped)}"] if self.skipped else [])])


def report(
    model: TransformerBridge,
    datas: Mapping[str, RelationData] | Sequence[RelationData],
    layers: Sequence[int] | None = None,
    betas: Sequence[float] = BETAS,
    n_train: int = N_TRAIN,
    most: int = 40,
    least: int = 16,
    seed: int = 0,
) -> Report:
    """Every relation: known subjects (``most`` of them, drawn), fitted, layer and factor chosen, judged on the test subjects.

    Relations with fewer than ``least`` known subjects are skipped. Raises ValueError where there is no relation.
    """
    datas, entries, skipped = list(datas.values() if isinstance(datas, Mapping) else datas), [], []
    if not datas:
        raise ValueError("There is no relation to report on: give at least one.")
    for data in progress(datas, desc="relations"):
        some = data.take(Random(f"{seed} report").sample(range(len(data)), min(len(data), 2 * most)))
        kept = _known_rows(model, some)
        if len(kept) < max(least, n_train + 2):
            skipped.append(data.name)
            continue
        parts = split(some.take(kept[:most]), n_train, seed)
        tried = sweep(model, parts, layers, betas)
        entries.append(Entry(len(kept) / len(some), parts, tried, _compare(model, parts, tried.best)))
    entries.sort(key=lambda entry: -entry.comparison.shares["LRE"])
    return Report(tuple(entries), tuple(skipped))


# ------------------------------------------------------------------------------------------------------------- editing

SubjectPair = tuple[str, str]  # the subject to be edited, and the one whose answer is wished for


def low_rank_inverse(weight: Float[Tensor, "d_out d_in"], rank: int) -> Float[Tensor, "d_in d_out"]:
    """The pseudo-inverse made of the ``rank`` largest singular values; all of them give the true inverse of an invertible matrix.

    Raises ValueError for a rank that the matrix cannot have.
    """
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"The rank must lie between 1 and {min(weight.shape)}, the size of the matrix, not {rank}.")
    left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
    used = sizes[:rank] > 1e-12 * sizes[0]  # what the matrix sends to nothing cannot be brought back
    left, sizes, right = left[:, :rank][:, used], sizes[:rank][used], right[:rank][used]
    return ((right.T / sizes) @ left.T).to(weight)


def edit_delta(
    surrogate: Surrogate, o_now: Float[Tensor, "*pair d_out"], o_wanted: Float[Tensor, "*pair d_out"], rank: int
) -> Float[Tensor, "*pair d_in"]:
    """What to add to ``s`` so that ``o`` becomes another: ``W^+ (o' - o)`` with a pseudo-inverse of low rank.

    Hernandez et al., section 4.2; as in the authors' code ``beta`` does not enter.
    """
    return (o_wanted - o_now).to(surrogate.weight) @ low_rank_inverse(surrogate.weight, rank).T


def edit_pairs(model: TransformerBridge, data: RelationData, n: int = 32, seed: int = 0) -> list[SubjectPair]:
    """At most ``n`` pairs of subjects with different answers of the model, drawn at random. Raises ValueError where there is none."""
    every = _different(model, data)
    if not every or n < 1:
        raise ValueError(f"No edit can be tried with {data.name!r}: it takes n = 1 or more, and two subjects with different answers.")
    return Random(f"{seed} pairs").sample(every, min(n, len(every)))


def _different(model: TransformerBridge, data: RelationData) -> list[SubjectPair]:
    """All pairs of subjects of which the model does not say the same."""
    said = list(zip(data.subjects, read(model, data, [-1]).token.tolist(), strict=True))
    return [(one, other) for one, token in said for other, another in said if token != another]


@dataclass(frozen=True)
class Edits:
    """For each pair of subjects: does the model, edited at the first, say what it says of the second?

    ``random`` are vectors drawn at random, each as long as the edit; ``swapped`` puts the second subject's own state in the place
    of the first. Where a subject has several tokens, the model reads the others too, and an edit may do more than a swap.
    """

    relation: str
    layer: int
    rank: int
    pairs: tuple[SubjectPair, ...]
    wished: tuple[str, ...]
    said: tuple[str, ...]
    hits: Bool[Tensor, "pair"]
    random: Bool[Tensor, "draw pair"]
    swapped: Bool[Tensor, "pair"]

    @property
    def shares(self) -> dict[str, float]:
        """The share of successful edits, and those of both controls."""
        return {name: hits.float().mean().item() for name, hits in self._all.items()}

    @property
    def _all(self) -> dict[str, Tensor]:
        return {"edited": self.hits, "random": self.random.flatten(), "swapped": self.swapped}

    def table(self, n: int = 0) -> str:
        """The share of successes with its 95 % interval (Wilson), that of the controls, and the first ``n`` edits."""
        lines = [f"{self.relation}, layer {self.layer}, rank {self.rank}, {len(self.pairs)} pairs"]
        for name, hits in self._all.items():
            low, high = wilson(int(hits.sum()), len(hits))
            lines.append(f"{name:<8} {self.shares[name]:6.1%}  [{low:.1%}, {high:.1%}]")
        for (one, other), wished, said in list(zip(self.pairs, self.wished, self.said, strict=True))[:n]:
            lines.append(f"{one} as {other}: wished {wished}, said {said}")
        return "\n".join(lines)


def edit(
    model: TransformerBridge,
    data: RelationData,
    surrogate: Surrogate,
    pairs: Sequence[SubjectPair],
    rank: int,
    draws: int = 5,
    seed: int = 0,
    by_surrogate: bool = False,
) -> Edits:
    """Adds the surrogate's edit to the MODEL's own state of the first subject of each pair, and reads the model's answer.

    ``o`` and ``o'`` are what the model computes for the two subjects, as in the authors' code, or with ``by_surrogate`` what the
    surrogate makes of them. Raises ValueError for an unknown subject, and where there is no pair or no draw.
    """
    if draws < 1:
        raise ValueError(f"draws says how many random vectors to try for each pair; it must be 1 or more, not {draws}.")
    states, (now, wanted) = read(model, data, [surrogate.layer]), _rows_of(data, pairs)
    s = states.s[0]
    o = surrogate(s) if by_surrogate else states.o
    delta = edit_delta(surrogate, o[now], o[wanted], rank)
    deltas = torch.cat([delta[None], _as_long(delta, draws, seed), (s[wanted] - s[now])[None]])
    tokens = _edited(model, states, surrogate.layer, now, deltas)
    hits = tokens == states.token[wanted]
    words = [tuple(piece.strip() for piece in pieces(model, ids)) for ids in (states.token[wanted], tokens[0])]
    return Edits(data.name, surrogate.layer, rank, tuple(pairs), *words, hits[0], hits[1:-1], hits[-1])


def _rows_of(data: RelationData, pairs: Sequence[SubjectPair]) -> Int[Tensor, "side pair"]:
    """The numbers of the subjects of each pair."""
    if not pairs:
        raise ValueError("There is no pair of subjects to edit: give at least one, or draw some with edit_pairs.")
    if unknown := next((subject for pair in pairs for subject in pair if subject not in data.subjects), None):
        raise ValueError(f"{unknown!r} is no subject of {data.name!r}: choose one such as {data.subjects[0]!r}.")
    return torch.tensor([[data.subjects.index(subject) for subject in side] for side in zip(*pairs, strict=True)])


def _as_long(delta: Float[Tensor, "pair d_model"], draws: int, seed: int) -> Float[Tensor, "draw pair d_model"]:
    """Random vectors, each as long as the one of its pair."""
    drawn = torch.randn(draws, *delta.shape, generator=torch.Generator().manual_seed(seed)).to(delta)
    return drawn / drawn.norm(dim=-1, keepdim=True) * delta.norm(dim=-1, keepdim=True)


def _edited(
    model: TransformerBridge, states: States, layer: int, rows: Rows, deltas: Float[Tensor, "copy pair d_model"]
) -> Int[Tensor, "copy pair"]:
    """The model's most likely next token with vectors added to its own state at the subject, all copies together."""
    many, flat, place = rows.repeat(len(deltas)), deltas.flatten(0, 1), place_of(model, layer)
    texts, at = states.located.texts.take(many), states.located.subject[many]
    return next_tokens(model, texts, lambda some: [change.add(place, flat[some][:, None], pos=at[some])]).unflatten(0, (len(deltas), -1))


@dataclass(frozen=True)
class EditSweep:
    """Which edits succeed with the surrogate of each layer and each rank of the pseudo-inverse."""

    surrogates: tuple[Surrogate, ...]
    ranks: tuple[int, ...]
    hits: Bool[Tensor, "layer rank pair"]

    @property
    def share(self) -> Float[Tensor, "layer rank"]:
        """The share of successful edits."""
        return self.hits.float().mean(-1)

    @property
    def best(self) -> tuple[Surrogate, int]:
        """The layer's surrogate and the rank with most successes; of several, the first layer and the lowest rank."""
        layer, rank = divmod(int(self.share.argmax()), len(self.ranks))
        return self.surrogates[layer], self.ranks[rank]

    def table(self) -> str:
        """One line for each layer, a column for each rank."""
        return _grid([one.layer for one in self.surrogates], self.ranks, self.share)


def edit_sweep(
    model: TransformerBridge,
    surrogates: Sequence[Surrogate],
    data: RelationData,
    ranks: Sequence[int] | None = None,
    n: int = 16,
    seed: int = 0,
) -> EditSweep:
    """Tries the surrogates of several layers and several ranks on ``n`` pairs of subjects for choosing."""
    ranks = [rank for rank in RANKS if rank <= model.cfg.d_model] if ranks is None else ranks
    if not len(surrogates) or not len(ranks):
        raise ValueError("There is nothing to try: give at least one surrogate and one rank.")
    now, wanted = _rows_of(data, edit_pairs(model, data, n, seed))
    states, hits = read(model, data, [one.layer for one in surrogates]), []
    for one in surrogates:
        deltas = torch.stack([edit_delta(one, states.o[now], states.o[wanted], rank) for rank in ranks])
        hits.append(_edited(model, states, one.layer, now, deltas) == states.token[wanted])
    return EditSweep(tuple(surrogates), tuple(ranks), torch.stack(hits))


def _grid(layers: Sequence[int], columns: Sequence[float], shares: Float[Tensor, "layer column"]) -> str:
    """Shares in percent, a line for each layer."""
    lines = [f"{layer:5} " + " ".join(f"{share:6.0%}" for share in row) for layer, row in zip(layers, shares.tolist(), strict=True)]
    return "\n".join(["layer " + " ".join(f"{column:6g}" for column in columns), *lines])


@dataclass(frozen=True)
class EditReport:
    """The edits of many relations, on their test subjects, beside the agreement of the surrogate that was chosen to predict."""

    edits: tuple[Edits, ...]
    agreement: tuple[float, ...]

    def table(self) -> str:
        """One line for each relation: layer, rank, the share of successes, both controls, and the agreement."""
        lines = ["relation            pairs  layer  rank  edited  random  swapped  agreement"]
        for one, agreement in zip(self.edits, self.agreement, strict=True):
            shares = "  ".join(f"{share:{width}.0%}" for share, width in zip((*one.shares.values(), agreement), (6, 6, 7, 9), strict=True))
            lines.append(f"{one.relation:<20}{len(one.pairs):5}  {one.layer:5}  {one.rank:4}  {shares}")
        return "\n".join(lines)


def edit_report(
    model: TransformerBridge, found: Report, ranks: Sequence[int] | None = None, n: int = 32, draws: int = 5, seed: int = 0
) -> EditReport:
    """Edits in every relation of a report: layer and rank chosen on the subjects for choosing, successes counted on the test subjects.

    A relation in which all test subjects have the same answer is left out, and so is one where those for choosing have.
    """
    edits, agreement = [], []
    for entry in progress(found.entries, desc="relations"):
        parts = entry.parts
        if _different(model, parts.choose) and _different(model, parts.test):
            surrogate, rank = edit_sweep(model, entry.sweep.surrogates, parts.choose, ranks, seed=seed).best
            edits.append(edit(model, parts.test, surrogate, edit_pairs(model, parts.test, n, seed), rank, draws, seed))
            agreement.append(entry.comparison.shares["LRE"])
    return EditReport(tuple(edits), tuple(agreement))
