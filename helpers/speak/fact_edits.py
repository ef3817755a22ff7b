"""Facts in feed-forward layers: the neurons that hold one, and how to write another answer into them.

Dai et al. 2022 (arXiv 2104.08696) find *knowledge neurons* by integrated gradients over paraphrases of one fact, turn them off and up
(section 4), and change their value vectors so that the model says another answer (section 5). Meng et al. 2022 (ROME, arXiv 2202.05262)
write a new answer with one change of rank one, at the last token of the subject. An edit is good if paraphrases follow and all else stays.

    facts = known_facts(model, n=30)
    found, probes = knowledge_neurons_of(model, facts), probe_facts(model, facts)
    print(edit_values(model, probes, found).table())

Both papers read an answer off its first token, and so it is here. Edits are made in the weights, and undone to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import product, zip_longest
from random import Random
from statistics import mean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Neuron, check_layers, check_neuron, name, scan
from helpers.cluster.fact_prompts import fact_prompt, subject_span
from helpers.course_lm.facts import Fact, all_facts
from helpers.course_lm.world import World
from helpers.interventions import Intervention, intervene, mlp_out, mlp_post, record, resid_pre, set_to, unembed_only_at, watch
from helpers.metrics import whole_words
from helpers.models import Prefix, TransformerBridge, empty_cache, run_from
from helpers.prediction import pieces
from helpers.progress import progress
from helpers.stats import Interval, bootstrap_interval, mean_interval
from helpers.texts import Texts, as_texts, held_out_texts

STEPS = 20  # of the path from 0 to the activation (Dai et al., equation 2)
THRESHOLD, SHARED = 0.2, 0.7  # share of the highest score of a paraphrase, share of the paraphrases (Dai et al., section 3.3)
EACH = 4  # paraphrases that are used, and as many that are held out, at most
PATH_ROWS = 512  # points of paths in one pass
NEAREST = 10  # a control neuron is drawn from so many that are about as active
REPORTED, CHOSEN = 0, 1  # the two halves of the subjects: settings are chosen on the one, results reported on the other
CONTROLS = ("equally active", "any")
GROUPS = ("edited", "paraphrases", "neighbours", "same relation", "random")
CHANGED = GROUPS[:2]  # prompts that should get the new answer; all others should keep theirs
MOST = {"neighbours": 6, "same relation": 6, "random": 12}
N_TEXTS, TEXT_TOKENS = 16, 24  # held-out texts for the perplexity, and how many tokens of each are read at most

# Settings for the course LM, by the highest score on 16 known facts about the half of the subjects called CHOSEN (seed 0).
# ``choose`` repeats the choice of neurons (4 to 64), strength (0.25 to 4) and layers (the last third rather than all of them), and
# ``choose_rome`` that of ROME's layer; its rate was chosen from 0.1, 0.2 and 0.3 on the same facts. MINUS is the paper's own.
N_NEURONS, PLUS, MINUS = 16, 1.0, 1.0
ROME_LAYER, ROME_STEPS, ROME_RATE = 5, 30, 0.1
ROME_ENOUGH = 0.9  # probability of the new answer after every used paraphrase at which its value is good enough

# ---------------------------------------------------------------------------------------------------------------- facts


def paraphrases(fact: Fact) -> tuple[list[str], list[str]]:
    """The prompts that ask for a fact, its answer last: those that are used, and those held out, in turns; at most ``EACH`` of both.

    Sentences with ``a {o}`` are left out, since their article would tell. Raises ValueError where fewer than two are left.
    """
    told = _told(fact)
    if len(told) < 2:
        raise ValueError(f"{fact.relation.name!r} has fewer than two sentences that end in their answer: choose another relation.")
    prompts = [fact.probe(template).prompt for template in told]
    return prompts[0::2][:EACH], prompts[1::2][:EACH]


def _told(fact: Fact) -> list[str]:
    return [template for template in fact.relation.forward if " a {o}" not in template]


def find_fact(relation: str, subject: str) -> Fact:
    """One fact of the course LM's world. Raises ValueError for an unknown relation or subject."""
    found = {fact.subject: fact for fact in world_facts() if fact.relation.name == relation}
    if not found:
        known = sorted({fact.relation.name for fact in world_facts()})
        raise ValueError(f"There is no relation {relation!r} to edit; there are: {', '.join(known)}.")
    if subject not in found:
        near = get_close_matches(subject, found, n=3, cutoff=0.5) or list(found)[:3]
        raise ValueError(f"The relation {relation!r} has no subject {subject!r}: perhaps {' or '.join(near)} was meant.")
    return found[subject]


@cache
def world_facts() -> tuple[Fact, ...]:
    """The facts of the world that can be asked for in two ways or more, with one answer, which the prompt does not give away."""
    answers: dict[tuple[str, str], set[str]] = {}
    for fact in (every := all_facts(World.load())):
        answers.setdefault((fact.relation.name, fact.subject), set()).add(fact.object)
    return tuple(fact for fact in every if _usable(fact) and len(answers[fact.relation.name, fact.subject]) == 1)


def _usable(fact: Fact) -> bool:
    subject, answer = fact.subject.lower(), fact.object.lower()
    return len(_told(fact)) > 1 and fact.answer == fact.object and answer not in subject and subject not in answer


def known_facts(model: TransformerBridge, n: int = 30, part: int = REPORTED, seed: int = 0) -> list[Fact]:
    """``n`` facts of the world that the model knows, the relations taking turns: it answers each of their paraphrases right.

    ``part``: the facts of one half of the subjects, so that no subject is in ``CHOSEN`` and in ``REPORTED``; every subject comes once.
    Raises ValueError where the model knows fewer.
    """
    if n < 1 or part not in (REPORTED, CHOSEN):
        raise ValueError(f"Ask for 1 fact or more, of part {REPORTED} (REPORTED) or {CHOSEN} (CHOSEN), not for {n} of part {part}.")
    drawn, kept = _draw(part, seed), []
    for start in range(0, len(drawn), n):
        some = drawn[start : start + n]
        asked = ask(model, [[*used, *held] for used, held in map(paraphrases, some)], [fact.object for fact in some])
        right = says(model, asked.texts) == asked.answers
        kept += [fact for at, fact in enumerate(some) if bool(right[asked.fact == at].all()) and _answers(model, fact)]
        if len(kept) >= n:
            return kept[:n]
    raise ValueError(f"n says how many known facts to draw: this model knows {len(kept)} of these, and {n} were asked for.")


def _draw(part: int, seed: int) -> list[Fact]:
    """The facts of a part, the relations in turn, every subject once."""
    rng, subjects = Random(seed), sorted({fact.subject for fact in world_facts()})
    own = set(Random(0).sample(subjects, len(subjects) // 2))
    pools: dict[str, list[Fact]] = {}
    for fact in world_facts():
        if (fact.subject in own) == (part == REPORTED):
            pools.setdefault(fact.relation.name, []).append(fact)
    turns = zip_longest(*(rng.sample(pool, len(pool)) for pool in pools.values()))
    return list({fact.subject: fact for row in turns for fact in row if fact}.values())


def new_answer(model: TransformerBridge, fact: Fact, seed: int = 0) -> str:
    """Another answer to the same question, drawn from those of the relation: a word for which the model has a token."""
    if not (words := _answers(model, fact)):
        raise ValueError(f"{fact.relation.name!r} has no other answer that begins with a whole word: write the new answer yourself.")
    return Random(f"{seed} {fact.subject}").choice(words)


def _answers(model: TransformerBridge, fact: Fact) -> list[str]:
    """All other answers of the relation that begin with a token for a whole word, and another one than the fact's own."""
    others = sorted({other.object for other in world_facts() if other.relation is fact.relation} - {fact.object})
    prompt = paraphrases(fact)[0][0]
    ids = [ids[0] for ids in whole_words(model, [prompt], [[fact.object, *others]]).ids]
    firsts = pieces(model, torch.tensor(ids))
    return [
        word for word, one, first in zip(others, ids[1:], firsts[1:], strict=True) if one != ids[0] and first.strip() == word.split()[0]
    ]


def new_token(model: TransformerBridge, fact: Fact, word: str) -> int:
    """The first token of a new answer. Raises ValueError unless it is a whole word, and another one than the old answer's."""
    prompt = paraphrases(fact)[0][0]
    if not word.strip():
        raise ValueError("The new answer is empty: write a word.")
    new, old = (ids[0] for ids in whole_words(model, [prompt], [[word, fact.object]]).ids)
    first = pieces(model, torch.tensor([new]))[0]
    if new == model.tokenizer.unk_token_id or first.strip() != word.split()[0]:
        raise ValueError(f"This model has no token for {word.split()[0]!r}, with which the new answer begins: choose a more common word.")
    if new == old:
        raise ValueError(f"{word!r} begins with the same token as the old answer {fact.object!r}: choose another one.")
    return new


@dataclass(frozen=True)
class Asked:
    """Prompts as tokens, each with the first token of its answer, and the number of the fact that it asks for."""

    texts: Texts
    answers: Int[Tensor, "prompt"]
    fact: Int[Tensor, "prompt"]

    def take(self, rows: Sequence[int] | Int[Tensor, "kept"]) -> "Asked":
        """Some of the prompts."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        return Asked(self.texts.take(chosen), self.answers[chosen], self.fact[chosen])

    def of_each_length(self) -> Iterator[Int[Tensor, "some"]]:
        """The rows of prompts that have equally many tokens."""
        for length in self.texts.lengths.unique():
            yield (self.texts.lengths == length).nonzero().flatten()


def ask(model: TransformerBridge, prompts: Sequence[Sequence[str]], answers: Sequence[str]) -> Asked:
    """Several prompts for each of some answers. Raises ValueError where an answer cannot be read off behind its prompts."""
    rows = [(number, prompt) for number, some in enumerate(prompts) for prompt in some]
    texts = [prompt for _, prompt in rows]
    ids = [ids[0] for ids in whole_words(model, texts, [[answers[number]] for number, _ in rows]).ids]
    return Asked(as_texts(model, texts), torch.tensor(ids), torch.tensor([number for number, _ in rows]))


@torch.no_grad()
def says(model: TransformerBridge, texts: Texts) -> Int[Tensor, "prompt"]:
    """The most likely next token after each text."""
    found = torch.empty(len(texts), dtype=torch.long)
    for rows in texts.batches():
        part = texts.take(rows)
        with intervene(model, unembed_only_at(part.lengths[:, None] - 1)):
            found[rows] = model(part.tokens.to(model.cfg.device))[:, 0].argmax(-1).cpu()
    return found


# ------------------------------------------------------------------------------------------------------- finding neurons


@dataclass(frozen=True)
class KnowledgeNeurons:
    """The scores of the neurons of some layers for one fact, and their activations, at the last token of each used paraphrase.

    A score is the share that a neuron has in the probability of the answer. Neurons of other layers have score 0.
    """

    fact: Fact
    scores: Float[Tensor, "prompt layer d_mlp"]
    active: Float[Tensor, "prompt layer d_mlp"]

    def top(self, n: int) -> list[Neuron]:
        """The ``n`` neurons with the highest mean scores, fewer where fewer are above 0; the highest first."""
        return self._ordered(self.scores.mean(0) > 0)[:n]

    def shared(self, threshold: float = THRESHOLD, share: float = SHARED) -> list[Neuron]:
        """The rule of Dai et al. (section 3.3): ``threshold`` times the highest score or more, in ``share`` of the paraphrases or more."""
        high = self.scores >= threshold * self.scores.flatten(1).amax(1)[:, None, None]
        return self._ordered((high & (self.scores > 0)).float().mean(0) >= share)

    def _ordered(self, chosen: Bool[Tensor, "layer d_mlp"]) -> list[Neuron]:
        means, width = self.scores.mean(0).masked_fill(~chosen, -torch.inf).flatten(), self.scores.shape[-1]
        return [(at // width, at % width) for at in means.argsort(descending=True, stable=True)[: int(chosen.sum())].tolist()]

    def control(self, neurons: Sequence[Neuron], kind: str = "equally active", seed: int = 0) -> list[Neuron]:
        """As many other neurons of the same layers, drawn at random: ``equally active`` on these prompts, or ``any``.

        Raises ValueError for another kind, and where a layer has too few of them.
        """
        if kind not in CONTROLS:
            raise ValueError(f"There is no control {kind!r}: choose one of {', '.join(CONTROLS)}.")
        rng, drawn, taken = Random(f"{seed} {self.fact.subject}"), [], set(neurons)
        active = {layer: self.active[:, layer].mean(0).tolist() for layer, _ in neurons}
        for layer, neuron in neurons:
            here, wanted = active[layer], active[layer][neuron]
            others = [at for at in range(len(here)) if (layer, at) not in taken and (kind == "any" or here[at] > 0)]
            if kind == "equally active":
                others = sorted(others, key=lambda at: abs(here[at] - wanted))[:NEAREST]
            if not others:
                raise ValueError(f"Layer {layer} has no further active neuron to draw as a control: take fewer neurons.")
            drawn.append((layer, rng.choice(others)))
            taken.add(drawn[-1])
        return drawn

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` highest: its name, its mean score, and its mean activation."""
        means, active = self.scores.mean(0), self.active.mean(0)
        return "\n".join(
            ["neuron       score  activation", *(f"{name(one):<10} {means[one]:+7.0e} {active[one]:11.2f}" for one in self.top(n))]
        )


def upper_layers(model: TransformerBridge) -> list[int]:
    """The last third of the layers, whose value vectors reach the answer most directly; there the neurons are looked for."""
    return list(range(2 * model.cfg.n_layers // 3, model.cfg.n_layers))


def knowledge_neurons(model: TransformerBridge, fact: Fact, layers: Sequence[int] | None = None, steps: int = STEPS) -> KnowledgeNeurons:
    """The scores of all neurons of some layers (``None``: the last third) for one fact, from the paraphrases that are used."""
    return knowledge_neurons_of(model, [fact], layers, steps)[0]


def knowledge_neurons_of(
    model: TransformerBridge, facts: Sequence[Fact], layers: Sequence[int] | None = None, steps: int = STEPS
) -> list[KnowledgeNeurons]:
    """The same for many facts, prompts of the same length together."""
    asked = _ask_facts(model, facts)
    scores, active = integrated_gradients(model, asked, layers, steps)
    return [KnowledgeNeurons(fact, scores[asked.fact == at], active[asked.fact == at]) for at, fact in enumerate(facts)]


def _ask_facts(model: TransformerBridge, facts: Sequence[Fact], used: bool = True) -> Asked:
    if not facts:
        raise ValueError("There is no fact: give at least one.")
    return ask(model, [paraphrases(fact)[0 if used else 1] for fact in facts], [fact.object for fact in facts])


Scores = Float[Tensor, "prompt layer d_mlp"]


def integrated_gradients(
    model: TransformerBridge, asked: Asked, layers: Sequence[int] | None = None, steps: int = STEPS
) -> tuple[Scores, Scores]:
    """The share of every neuron at the last token in the probability of the answer, and its activation there.

    Dai et al., equation 2: ``w * mean over k of dP(k/steps * w)/dw``, with ``w`` the activations of one layer, which grow together from 0.
    The scores of a layer add up to what all its neurons there do to the probability, the better the more steps. The tokens before are
    read once, and only the blocks from the layer on are run. Raises ValueError for unknown layers, and fewer steps than one.
    """
    if steps < 1:
        raise ValueError(f"steps says how many points of the path to take; it must be 1 or more, not {steps}.")
    chosen, shape = check_layers(model, upper_layers(model) if layers is None else layers), (model.cfg.n_layers, model.cfg.d_mlp)
    scores, active = torch.zeros(len(asked.texts), *shape), torch.zeros(len(asked.texts), *shape)
    with progress(total=len(asked.texts), desc="prompts") as bar:
        for alike in asked.of_each_length():
            for rows in alike.split(max(1, PATH_ROWS // steps)):
                scores[rows], active[rows] = _along_paths(model, asked.take(rows), chosen, steps)
                bar.update(len(rows))
    return scores, active


def _along_paths(model: TransformerBridge, asked: Asked, layers: Sequence[int], steps: int) -> tuple[Scores, Scores]:
    """Scores and activations for prompts that have equally many tokens."""
    n, width = len(asked.texts), model.cfg.d_mlp
    prefix, seen = _last_token(model, asked.texts, [*map(resid_pre, layers), *map(mlp_post, layers)])
    several = torch.arange(n).repeat(steps)
    share = torch.arange(1, steps + 1, device=model.cfg.device).repeat_interleave(n)[:, None] / steps
    scores, active = torch.zeros(n, model.cfg.n_layers, width), torch.zeros(n, model.cfg.n_layers, width)
    for layer in layers:
        here = seen[mlp_post(layer)][:, 0]
        path = (share * here[several]).requires_grad_()
        with torch.enable_grad(), intervene(model, set_to(mlp_post(layer), path[:, None])):
            logits = run_from(model, seen[resid_pre(layer)][several], layer, prefix, several)[:, -1]
            right = logits.softmax(-1)[torch.arange(len(several)), asked.answers[several].to(logits.device)]
            slope = torch.autograd.grad(right.sum(), path)[0]
        scores[:, layer] = (here * slope.unflatten(0, (steps, n)).mean(0)).float().cpu()
        active[:, layer] = here.float().cpu()
    return scores, active


@torch.no_grad()
def _last_token(model: TransformerBridge, texts: Texts, places: Sequence[str]) -> tuple[Prefix, dict[str, Float[Tensor, "prompt 1 *rest"]]]:
    """What the model remembers of all but the last token of prompts with equally many tokens, and what passes some places at the last."""
    seen: dict[str, Tensor] = {}
    keep = [watch(place, lambda value, place=place: seen.__setitem__(place, value[:, -1:])) for place in places]
    cache, ends = empty_cache(), texts.lengths[:, None] - 1
    with intervene(model, *keep, unembed_only_at(ends)):
        model(texts.tokens.to(model.cfg.device), past_key_values=cache, use_cache=True)
    layers = tuple((layer.keys[:, :, :-1], layer.values[:, :, :-1]) for layer in cache.layers)
    return Prefix(layers, texts.tokens.shape[1] - 1), seen


# ------------------------------------------------------------------------------------------------------- turned off and up


@dataclass(frozen=True)
class Scaled:
    """The probability of the answer of every prompt, as it is and while some neurons of its fact are multiplied by a number."""

    names: tuple[str, ...]
    before: Float[Tensor, "prompt"]
    after: Float[Tensor, "condition prompt"]
    fact: Int[Tensor, "prompt"]
    used: Bool[Tensor, "prompt"]

    def change(self, condition: str, used: bool = True) -> Float[Tensor, "fact"]:
        """By which share the probability changes (-0.3: it is 30 % lower), the mean over each fact's prompts, used or held out."""
        return self._by_fact((self.after[self._at(condition)] - self.before) / self.before, used)

    def log_odds(self, condition: str, used: bool = True) -> Float[Tensor, "fact"]:
        """The change of the log-odds ``log P - log(1 - P)`` in nats, which does not stop at a probability of 1."""
        before, after = (torch.logit(p.double(), eps=1e-7).float() for p in (self.before, self.after[self._at(condition)]))
        return self._by_fact(after - before, used)

    def _at(self, condition: str) -> int:
        if condition not in self.names:
            raise ValueError(f"There is no condition {condition!r}; there are {', '.join(self.names)}.")
        return self.names.index(condition)

    def _by_fact(self, values: Float[Tensor, "prompt"], used: bool) -> Float[Tensor, "fact"]:
        chosen = self.used if used else ~self.used
        return torch.stack([values[chosen & (self.fact == at)].mean() for at in self.fact.unique()])

    def table(self) -> str:
        """One line for each condition: the change of the probability in percent with its interval, of held-out prompts, of log-odds."""
        lines = ["condition                   P(answer)   95 % interval    held out   log-odds"]
        for condition in self.names:
            own, other, odds = self.change(condition), self.change(condition, used=False), self.log_odds(condition)
            low, high = mean_interval(own)
            shown = f"[{low:+.1%}, {high:+.1%}]"
            lines.append(f"{condition:<26} {own.mean():+10.1%}   {shown:<16} {other.mean():+8.1%} {odds.mean():+10.2f}")
        return "\n".join(lines)


DOSES = {"suppressed": 0.0, "amplified": 2.0}


@torch.no_grad()
def scale_neurons(model: TransformerBridge, found: Sequence[KnowledgeNeurons], n: int | None = N_NEURONS, seed: int = 0) -> Scaled:
    """Suppresses (0) and amplifies (2) each fact's neurons at the last token of its prompts, used and held out (Dai et al., section 4).

    ``n``: so many neurons with the highest scores, or ``None`` for the paper's rule. The control are as many other neurons that are
    equally active. All facts together are a few passes.
    """
    facts = [one.fact for one in found]
    sides = [paraphrases(fact) for fact in facts]
    asked = ask(model, [[*used, *held] for used, held in sides], [fact.object for fact in facts])
    is_used = torch.tensor([flag for used, held in sides for flag in [True] * len(used) + [False] * len(held)])
    own = [one.shared() if n is None else one.top(n) for one in found]
    other = [one.control(some, seed=seed) for one, some in zip(found, own, strict=True)]
    plans = {f"{what}{whose}": _factors(model, some, by) for whose, some in (("", own), (", control", other)) for what, by in DOSES.items()}
    probs = _scaled_probs(model, asked, torch.stack([torch.ones_like(plans["suppressed"]), *plans.values()]))
    return Scaled(tuple(plans), probs[0], probs[1:], asked.fact, is_used)


def _factors(model: TransformerBridge, neurons: Sequence[Sequence[Neuron]], factor: float) -> Float[Tensor, "fact layer d_mlp"]:
    """1 for every neuron but those named for a fact, which get the factor."""
    factors = torch.ones(len(neurons), model.cfg.n_layers, model.cfg.d_mlp, device=model.cfg.device)
    for number, some in enumerate(neurons):
        for layer, neuron in some:
            factors[number, layer, neuron] = factor
    return factors


def _scaled_probs(
    model: TransformerBridge, asked: Asked, factors: Float[Tensor, "condition fact layer d_mlp"]
) -> Float[Tensor, "condition prompt"]:
    """The probability of each answer while the neurons at the last token are multiplied by the factors of its fact."""
    layers = (factors != 1).any(-1).flatten(0, 1).any(0).nonzero().flatten().tolist() or [model.cfg.n_layers - 1]
    kept = torch.empty(len(factors), len(asked.texts))
    for rows in progress(list(asked.of_each_length()), desc="lengths"):
        prefix, seen = _last_token(model, asked.texts.take(rows), [resid_pre(layers[0])])
        for condition, table in enumerate(factors):
            own = table[asked.fact[rows].to(table.device)]  # [row, layer, d_mlp]
            changes = [Intervention(mlp_post(at), lambda old, pick, by=own[:, at, None]: old * by.to(old)) for at in layers]
            with intervene(model, *changes):
                logits = run_from(model, seen[resid_pre(layers[0])], layers[0], prefix)[:, -1]
            kept[condition, rows] = logits.softmax(-1).float().cpu()[torch.arange(len(rows)), asked.answers[rows]]
    return kept


# --------------------------------------------------------------------------------------------------- changing the weights


@dataclass(frozen=True)
class Update:
    """What is added to some value vectors of one layer: rows of ``W_out``, ``[d_mlp, d_model]``."""

    layer: int
    units: Int[Tensor, "unit"]
    change: Float[Tensor, "unit d_model"]


@contextmanager
def edited(model: TransformerBridge, updates: Sequence[Update]) -> Iterator[TransformerBridge]:
    """Inside the block the value vectors have these additions; afterwards the weights are as before, to the last bit.

    Raises ValueError for models that rescale what their MLPs write (Gemma 2).
    """
    places = [(value_vectors(model, update.layer), update) for update in updates]
    before: list[Tensor] = []
    try:
        for vectors, update in places:
            before.append(vectors[update.units].clone())
            vectors[update.units] += update.change.to(vectors)
        yield model
    finally:
        for (vectors, update), old in reversed(list(zip(places, before, strict=False))):
            vectors[update.units] = old


def value_vectors(model: TransformerBridge, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The value vectors of a layer, one for each neuron, as the model holds them: what is written here, it uses.

    Raises ValueError for an unknown layer, and for models that rescale what their MLPs write (Gemma 2).
    """
    check_layers(model, [layer])
    if hasattr(model.blocks[0], "ln1_post"):
        raise ValueError("This model rescales what its MLPs write, so a value vector has no length of its own: choose another model.")
    inner = model.blocks[layer].mlp.out.original_component
    weight = inner.weight.detach()
    return weight.T if isinstance(inner, torch.nn.Linear) else weight


def value_edit(
    model: TransformerBridge, neurons: Sequence[Neuron], old: int, new: int, plus: float = PLUS, minus: float = MINUS
) -> list[Update]:
    """Dai et al., section 5.3, with the lengths of their code: ``v += |v| (plus * u_new - minus * u_old)`` for each neuron's value ``v``.

    ``u`` is the unembedding direction of a token, with length 1. Meant for neurons whose activation is above 0, as after a ReLU: below,
    the change works the other way round. Raises ValueError for an unknown neuron, or none.
    """
    if not neurons:
        raise ValueError("There is no neuron whose value could be edited: take a lower threshold, or a number of neurons.")
    units: dict[int, list[int]] = {}
    for layer, neuron in sorted(set(neurons)):
        check_neuron(model, layer, neuron)
        units.setdefault(layer, []).append(neuron)
    away, to = (torch.nn.functional.normalize(model.W_U.detach()[:, token], dim=0) for token in (old, new))
    step, updates = plus * to - minus * away, []
    for layer, some in units.items():
        chosen = torch.tensor(some)
        updates.append(Update(layer, chosen, value_vectors(model, layer)[chosen].norm(dim=1, keepdim=True) * step))
    return updates


# ------------------------------------------------------------------------------------------------- what changed, what broke


@dataclass(frozen=True)
class Probes:
    """What is asked after a fact was edited, as states before block ``start``, so that only the blocks from there on need to be run.

    ``before`` is the model's own token after each prompt. Facts that it does not know are not asked for.
    """

    fact: Fact
    new: str
    new_token: int
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    asked: Asked
    before: Int[Tensor, "prompt"]
    streams: Float[Tensor, "prompt pos d_model"]
    shared: "SharedProbes"

    @property
    def old_token(self) -> int:
        """The first token of the old answer."""
        return int(self.asked.answers[0])

    def to(self, model: TransformerBridge, new: str) -> "Probes":
        """The same for another new answer. Raises ValueError for one that cannot be (see ``new_token``)."""
        return replace(self, new=new, new_token=new_token(model, self.fact, new))


@dataclass(frozen=True)
class SharedProbes:
    """Held-out texts as states before block ``start``, with the perplexity that the model has on them."""

    start: int
    texts: Texts
    streams: Float[Tensor, "text pos d_model"]
    perplexity: float


def probe_facts(
    model: TransformerBridge, facts: Sequence[Fact], start: int | None = None, n_texts: int = N_TEXTS, seed: int = 0
) -> list[Probes]:
    """For each fact its paraphrases, facts about the same subject, the same relation and others, and a new answer drawn at random.

    ``start``: the first layer that edits will change, ``None`` for the first of ``upper_layers``. One pass over all prompts.
    """
    start = upper_layers(model)[0] if start is None else check_layers(model, [start])[0]
    rng = Random(seed)
    anywhere = rng.sample(world_facts(), min(MOST["random"], len(world_facts())))
    plans = [_plan(fact, anywhere, rng) for fact in facts]
    lines = [(at, group, prompt, word) for at, plan in enumerate(plans) for group, prompt, word in plan]
    number = {asked: at for at, asked in enumerate(dict.fromkeys((prompt, word) for _, _, prompt, word in lines))}
    asked = ask(model, [[prompt] for prompt, _ in number], [word for _, word in number])
    before, streams = _read(model, asked.texts, start)
    shared = _shared(model, held_out_texts(model, n_texts), start)
    known, probes = before == asked.answers, []
    for at, fact in enumerate(facts):
        mine = [(number[line[2:]], *line[1:3]) for line in lines if line[0] == at]
        mine = [line for line in mine if line[1] in CHANGED or bool(known[line[0]])]
        rows, groups, prompts = zip(*mine, strict=True)
        own = asked.take(rows)
        kept, word = streams[list(rows), : own.texts.tokens.shape[1]], new_answer(model, fact, seed)
        probes.append(Probes(fact, word, new_token(model, fact, word), prompts, groups, own, before[list(rows)], kept, shared))
    return probes


def _plan(fact: Fact, anywhere: Sequence[Fact], rng: Random) -> list[tuple[str, str, str]]:
    """Group, prompt and right answer of all that is asked after one edit."""
    used, held = paraphrases(fact)
    about = [other for other in world_facts() if other.subject == fact.subject and other.relation is not fact.relation]
    alike = [other for other in world_facts() if other.relation is fact.relation and other.subject != fact.subject]
    alike = [other for other in alike if other.object != fact.object]
    far = [other for other in anywhere if other.subject != fact.subject and other.relation is not fact.relation]
    others = {"neighbours": about, "same relation": alike, "random": far}
    drawn = {group: rng.sample(some, min(MOST[group], len(some))) if group != "random" else some for group, some in others.items()}
    return [
        *(("edited", prompt, fact.object) for prompt in used),
        *(("paraphrases", prompt, fact.object) for prompt in held),
        *((group, paraphrases(other)[0][0], other.object) for group, some in drawn.items() for other in some),
    ]


@torch.no_grad()
def _read(model: TransformerBridge, texts: Texts, start: int) -> tuple[Int[Tensor, "prompt"], Float[Tensor, "prompt pos d_model"]]:
    """The most likely token after each text, and the states before a block."""
    before, streams = torch.empty(len(texts), dtype=torch.long), torch.zeros(*texts.tokens.shape, model.cfg.d_model)
    for rows in progress(list(texts.batches()), desc="prompts"):
        part, seen = texts.take(rows), []
        with intervene(model, watch(resid_pre(start), seen.append), unembed_only_at(part.lengths[:, None] - 1)):
            before[rows] = model(part.tokens.to(model.cfg.device))[:, 0].argmax(-1).cpu()
        streams[rows, : part.tokens.shape[1]] = seen[0].float().cpu()
    return before, streams


def _shared(model: TransformerBridge, texts: Texts, start: int) -> SharedProbes:
    texts = Texts(texts.tokens[:, :TEXT_TOKENS], texts.lengths.clamp(max=TEXT_TOKENS), texts.kinds)
    shared = SharedProbes(start, texts, _read(model, texts, start)[1], 0.0)
    return replace(shared, perplexity=_perplexity(model, shared))


@torch.no_grad()
def _perplexity(model: TransformerBridge, shared: SharedProbes) -> float:
    """``exp`` of the mean loss over the tokens of the held-out texts, from the stored states on."""
    here, texts = shared.texts.mask[:, 1:].nonzero(), shared.texts
    with intervene(model, _only(here)):
        logits = run_from(model, shared.streams.to(model.cfg.device), shared.start)[:, 0]
    right = texts.tokens[here[:, 0], here[:, 1] + 1].to(logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), right).exp().item()


class _Places(Intervention):
    """Lets single positions of the rows pass, each as a row of its own: texts of different lengths cost no more than their tokens."""

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], hook: object = None) -> Float[Tensor, "item 1 d_model"]:
        return self.change(activation, None)


def _only(places: Int[Tensor, "item 2"]) -> Intervention:
    """Only these (row, position) are unembedded."""
    return _Places("unembed.hook_in", lambda values, pick: values[places[:, 0], places[:, 1]][:, None])


@dataclass(frozen=True)
class Edit:
    """One edit and what followed: for every prompt the group, the token before and after, and whether that is as it should be.

    That is: the new answer after the fact's own prompts, the old token after all others. ``perplexity``: before and after.
    """

    fact: Fact
    new: str
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    hits: tuple[bool, ...]
    perplexity: tuple[float, float]

    def share(self, group: str) -> float | None:
        """The share of a group's prompts that are as they should be; None where the group is empty."""
        if group not in GROUPS:
            raise ValueError(f"There is no group {group!r}; there are {', '.join(GROUPS)}.")
        mine = [hit for hit, own in zip(self.hits, self.groups, strict=True) if own == group]
        return mean(mine) if mine else None

    def table(self) -> str:
        """One line for each prompt: its group, itself, the token before and after, and a cross where it is not as it should be."""
        rows = zip(self.groups, self.prompts, self.before, self.after, self.hits, strict=True)
        width = max(map(len, self.prompts))
        lines = [f"{group:<14} {text:<{width}}  {old:>12} ->{new:<12} {'' if hit else '✗'}" for group, text, old, new, hit in rows]
        return "\n".join([*(line.rstrip() for line in lines), f"perplexity {self.perplexity[0]:.2f} -> {self.perplexity[1]:.2f}"])


@dataclass(frozen=True)
class Edits:
    """Many edits, each made alone; what is averaged are facts."""

    edits: tuple[Edit, ...]

    def values(self, group: str) -> list[float]:
        """The share of each fact that has such prompts."""
        shares = [edit.share(group) for edit in self.edits]
        return [share for share in shares if share is not None]

    def mean(self, group: str) -> float:
        """The mean of the shares over the facts; NaN where no fact has such prompts."""
        return mean(self.values(group)) if self.values(group) else float("nan")

    def interval(self, group: str) -> Interval:
        """The 95 % interval of that mean; the facts are the sample."""
        return bootstrap_interval(self.values(group))

    @property
    def perplexity(self) -> float:
        """By which factor the perplexity on held-out texts grows, on average."""
        return mean(edit.perplexity[1] / edit.perplexity[0] for edit in self.edits)

    @property
    def score(self) -> float:
        """The harmonic mean of all groups (Meng et al., section 3.4, there of three of them): high only if all are high."""
        means = [self.mean(group) for group in GROUPS if self.values(group)]
        return len(means) / sum(1 / max(value, 1e-6) for value in means)

    def table(self) -> str:
        """One line for each group: what should be, the share of prompts where it is so, its interval, the number of facts."""
        lines = ["prompts         should    share   95 % interval    facts"]
        for group in GROUPS:
            if len(self.values(group)) > 1:
                low, high = self.interval(group)
                wanted = "change" if group in CHANGED else "stay"
                lines.append(f"{group:<15} {wanted:<7} {self.mean(group):7.1%}   [{low:6.1%}, {high:6.1%}] {len(self.values(group)):6}")
        return "\n".join([*lines, f"perplexity x {self.perplexity:.3f}, score {self.score:.3f}"])


@torch.no_grad()
def apply_edit(model: TransformerBridge, probes: Probes, updates: Sequence[Update]) -> Edit:
    """Makes one edit, asks everything, and undoes it. Raises ValueError for an edit below the layer from which the probes start."""
    if (lowest := min((update.layer for update in updates), default=probes.shared.start)) < probes.shared.start:
        raise ValueError(f"The probes start at layer {probes.shared.start} and the edit is in layer {lowest}: probe_facts(start={lowest}).")
    ends = (probes.asked.texts.lengths - 1)[:, None]
    with edited(model, updates):
        with intervene(model, unembed_only_at(ends)):
            after = run_from(model, probes.streams.to(model.cfg.device), probes.shared.start)[:, 0].argmax(-1).cpu()
        harmed = _perplexity(model, probes.shared)
    changed = torch.tensor([group in CHANGED for group in probes.groups])
    hits = torch.where(changed, after == probes.new_token, after == probes.before)
    said = [tuple(pieces(model, tokens)) for tokens in (probes.before, after)]
    return Edit(probes.fact, probes.new, probes.prompts, probes.groups, *said, tuple(hits.tolist()), (probes.shared.perplexity, harmed))


def try_edit(model: TransformerBridge, probes: Probes, found: KnowledgeNeurons, new: str, n: int = N_NEURONS, plus: float = PLUS) -> Edit:
    """One fact gets a new answer by its ``n`` best neurons: what changed, and what broke. The neurons were found before.

    Raises ValueError for a new answer that cannot be, fewer neurons than one, and a strength that is not above 0.
    """
    if n < 1 or not plus > 0:
        raise ValueError(f"An edit needs 1 neuron or more and a strength above 0, not {n} and {plus:g}.")
    probes = probes.to(model, new)
    return apply_edit(model, probes, value_edit(model, found.top(n), probes.old_token, probes.new_token, plus))


def edit_values(
    model: TransformerBridge,
    probes: Sequence[Probes],
    found: Sequence[KnowledgeNeurons],
    n: int | None = N_NEURONS,
    plus: float = PLUS,
    minus: float = MINUS,
    control: str | None = None,
    seed: int = 0,
) -> Edits:
    """Edits each fact alone by the value vectors of its neurons, ``n`` or (``None``) those of the paper's rule.

    ``control``: instead of them as many random neurons, ``equally active`` or ``any``, with the same strength.
    """
    edits = []
    for probe, one in zip(progress(probes, desc="edits"), found, strict=True):
        neurons = one.shared() if n is None else one.top(n)
        neurons = one.control(neurons, control, seed) if control else neurons
        edits.append(apply_edit(model, probe, value_edit(model, neurons, probe.old_token, probe.new_token, plus, minus)))
    return Edits(tuple(edits))


@dataclass(frozen=True)
class Choice:
    """All settings that were tried, each with what its edits did; chosen is the highest score."""

    tried: Mapping[tuple[float, ...], Edits]

    @property
    def best(self) -> tuple[float, ...]:
        """The settings with the highest score."""
        return max(self.tried, key=lambda setting: self.tried[setting].score)

    def table(self) -> str:
        """One line for each setting: the shares of all groups, the perplexity's factor, the score."""
        lines = ["setting        " + "".join(f"{group:>15}" for group in GROUPS) + "  perplexity  score"]
        for setting, edits in self.tried.items():
            shares = "".join(f"{edits.mean(group):15.2f}" for group in GROUPS)
            mark = " <-" if setting == self.best else ""
            lines.append(f"{', '.join(f'{x:g}' for x in setting):<15}{shares} {edits.perplexity:11.3f} {edits.score:6.3f}{mark}")
        return "\n".join(lines)


def choose(
    model: TransformerBridge,
    n: Sequence[int] = (4, 8, 16, 32),
    plus: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    layers: Sequence[int] | None = None,
    n_facts: int = 16,
) -> Choice:
    """Tries numbers of neurons and strengths on facts about the half of the subjects (``CHOSEN``) on which nothing is reported.

    ``N_NEURONS`` and ``PLUS`` were chosen so; it takes half a minute. ``layers``: where neurons are looked for (``None``: the last third).
    """
    facts = known_facts(model, n_facts, CHOSEN)
    found = knowledge_neurons_of(model, facts, layers)
    probes = probe_facts(model, facts, start=None if layers is None else min(layers))
    grid = list(product(n, plus))
    return Choice({setting: edit_values(model, probes, found, *setting) for setting in progress(grid, desc="settings")})


# ------------------------------------------------------------------------------------------------------------------ ROME


def second_moment(model: TransformerBridge, layer: int, n_texts: int = 300, ridge: float = 1e-2) -> Float[Tensor, "d_mlp d_mlp"]:
    """``C``: the mean of ``k k^T`` over the tokens of held-out texts, ``k`` the activations of a layer (Meng et al., section 3.1).

    ``ridge`` times its mean diagonal is added to the diagonal, so that neurons that are never active do no harm.
    """
    total, count = torch.zeros(model.cfg.d_mlp, model.cfg.d_mlp, dtype=torch.float64), 0
    for batch in scan(model, held_out_texts(model, n_texts), [check_layers(model, [layer])[0]]):
        keys = batch.activations[layer][batch.mask].float()
        total += (keys.T @ keys).cpu()
        count += len(keys)
    moment = total / count
    return (moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)).float()


def rank_one(
    values: Float[Tensor, "d_mlp d_model"],
    key: Float[Tensor, "d_mlp"],
    target: Float[Tensor, "d_model"],
    moment: Float[Tensor, "d_mlp d_mlp"],
) -> Float[Tensor, "d_mlp d_model"]:
    """What to add to the value vectors so that ``key`` gives ``target`` and keys ``k`` with ``k C^-1 key = 0`` give what they gave.

    Meng et al., equation 2: ``(v* - W k*) (C^-1 k*)^T / (k*^T C^-1 k*)``, here transposed. Raises ValueError for a key of 0.
    """
    if not key.norm() > 0:
        raise ValueError("No neuron of this layer is active at the subject, so it has no key to write to: choose another layer.")
    towards = torch.linalg.solve(moment.double(), key.double())
    missing = target.double() - key.double() @ values.double()
    return (torch.outer(towards, missing) / (key.double() @ towards)).to(values)


@torch.no_grad()
def rome(
    model: TransformerBridge, probes: Sequence[Probes], layer: int = ROME_LAYER, steps: int = ROME_STEPS, moment: Tensor | None = None
) -> list[Update]:
    """One update for each fact that writes its new answer at the last token of the subject, all of them found together.

    The key is the mean activation there over the used paraphrases; the new value is what has to be added to the MLP's output there for
    the new answer to be said (Adam, as in Meng et al., section 3.1, without their penalty for what else the subject is).
    """
    moment = second_moment(model, layer) if moment is None else moment
    asked, places = _subjects(model, probes)
    tokens, rows = asked.texts.tokens.to(model.cfg.device), torch.arange(len(asked.texts))
    seen = record(model, tokens, resid_pre(layer), mlp_post(layer))
    found = seen[mlp_post(layer)][rows, places]
    keys = torch.stack([found[asked.fact == at].mean(0) for at in range(len(probes))])
    values = value_vectors(model, layer)
    missing = _new_values(model, asked, places, seen[resid_pre(layer)], layer, steps)
    every = torch.arange(model.cfg.d_mlp)
    changes = [rank_one(values, key, key @ values + more, moment.to(key)) for key, more in zip(keys, missing, strict=True)]
    return [Update(layer, every, change) for change in changes]


def _subjects(model: TransformerBridge, probes: Sequence[Probes]) -> tuple[Asked, Int[Tensor, "prompt"]]:
    """The used paraphrases of all facts with the new answers, and where the last token of the subject stands."""
    some = [paraphrases(probe.fact)[0] for probe in probes]
    told = [fact_prompt(text, probe.new, probe.fact.subject) for probe, texts in zip(probes, some, strict=True) for text in texts]
    places = torch.tensor([subject_span(model, one)[-1] for one in told])
    return ask(model, some, [probe.new for probe in probes]), places


def _new_values(
    model: TransformerBridge,
    asked: Asked,
    places: Int[Tensor, "prompt"],
    streams: Float[Tensor, "prompt pos d_model"],
    layer: int,
    steps: int,
) -> Float[Tensor, "fact d_model"]:
    """What to add to the MLP's output at the subject of each fact until its new answer has ``ROME_ENOUGH`` after every prompt."""
    n_facts = int(asked.fact.max()) + 1
    more, still = torch.zeros(n_facts, model.cfg.d_model, device=streams.device), torch.ones(n_facts, dtype=torch.bool)
    momentum = torch.optim.Adam([more], lr=ROME_RATE)
    for _ in progress(range(steps), desc="steps"):
        rows = still[asked.fact].nonzero().flatten()
        probs, slope = _slope(model, asked.take(rows), places[rows], streams[rows], layer, more)
        least = torch.ones(n_facts).scatter_reduce(0, asked.fact[rows], probs, "amin")
        still &= least < ROME_ENOUGH
        if not bool(still.any()):
            break
        kept, more.grad = more.clone(), slope
        momentum.step()
        more[~still] = kept[~still]  # what is done stays, whatever momentum it had
    return more


def _at_subject(
    layer: int, more: Float[Tensor, "fact d_model"], fact: Int[Tensor, "prompt"], places: Int[Tensor, "prompt"]
) -> Intervention:
    """What belongs to the fact of each prompt is added to the MLP's output at one of its positions, gradients and all."""
    return Intervention(mlp_out(layer), lambda old, pick: old + more[fact][:, None], pos=places)


def _slope(
    model: TransformerBridge,
    asked: Asked,
    places: Int[Tensor, "prompt"],
    streams: Float[Tensor, "prompt pos d_model"],
    layer: int,
    more: Float[Tensor, "fact d_model"],
) -> tuple[Float[Tensor, "prompt"], Float[Tensor, "fact d_model"]]:
    """The probability of each answer with these additions at the subject, and the slope of the loss along them."""
    here, ends = more.detach().clone().requires_grad_(), asked.texts.lengths[:, None] - 1
    with torch.enable_grad(), intervene(model, _at_subject(layer, here, asked.fact, places), unembed_only_at(ends)):
        logp = run_from(model, streams[:, : asked.texts.tokens.shape[1]], layer)[:, 0].log_softmax(-1)
        said = logp[torch.arange(len(asked.texts)), asked.answers.to(logp.device)]
        slope = torch.autograd.grad(-said.sum(), here)[0]
    return said.detach().exp().float().cpu(), slope


def choose_rome(model: TransformerBridge, layers: Sequence[int] = (3, 4, 5, 6), n_facts: int = 16) -> Choice:
    """Tries layers for ROME on facts of ``CHOSEN``; ``ROME_LAYER`` was chosen so."""
    facts = known_facts(model, n_facts, CHOSEN)
    return Choice(
        {(layer,): edit_rank_one(model, probe_facts(model, facts, start=layer), layer) for layer in progress(layers, desc="layers")}
    )


def edit_rank_one(model: TransformerBridge, probes: Sequence[Probes], layer: int = ROME_LAYER, steps: int = ROME_STEPS) -> Edits:
    """Edits each fact alone with ROME; the probes must start at ``layer`` or before (``probe_facts(model, facts, start=layer)``)."""
    updates = rome(model, probes, layer, steps)
    return Edits(tuple(apply_edit(model, probe, [update]) for probe, update in zip(progress(probes, desc="edits"), updates, strict=True)))
