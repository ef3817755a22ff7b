"""The headline experiments, lesson by lesson, as the notebooks do them; the findings have the notebooks' names.

Every function gets a ``Lab`` and yields findings, or says in a sentence why one cannot be had of this model (``Absent``). A ValueError
of the helpers is such a sentence too: no chat template, norms behind the heads, too few known facts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import findings
from helpers.activations import Neuron, NeuronStats, top_contexts
from helpers.cluster import relations
from helpers.cluster.attribution import direct_effects
from helpers.cluster.circuits import attribute_edges, curve, random_circuit
from helpers.cluster.edges import EdgeGraph
from helpers.cluster.indirect_objects import copies, indirect_objects, looks, self_repair
from helpers.cluster.patching import attribute_positions, correlation, metric_at_ends, patch_positions
from helpers.cluster.recall import FactPrompt, course_facts, knockout_curves, subject_tokens
from helpers.cluster.relations import Entry, RelationData, Report, course_relations, edit_report, relation_data, report, split, sweep
from helpers.course_lm.corpus.prose import determiner_probes
from helpers.course_lm.world import World
from helpers.interventions import Intervention, mlp_out, record
from helpers.metrics import WordOdds, log_odds, token_set_log_odds, whole_words, word_odds
from helpers.one_layer.autoencoders import SparseAutoencoder, quality
from helpers.one_layer.directions import Candidate, Selection, ablate_direction, add_at, difference_in_means, select_direction
from helpers.one_layer.in_context import accuracy_grid
from helpers.one_layer.sae_files import load_sae
from helpers.one_layer.tasks import course_tasks
from helpers.one_neuron.ablation import ablate_groups, attribute_neurons
from helpers.one_neuron.neurons import matched_controls
from helpers.prediction import token_id, tokenize
from helpers.prompts import load_prompts
from helpers.reproduce.lab import LEAST, Absent, Lab, NotForThisModel, Outcome, experiment, floats, truths
from helpers.running import chat_prompts, generate, next_tokens, post_instruction, random_like, score_prompts, starts_with
from helpers.speak.back_patching import back_patch_with_controls
from helpers.speak.lens import answer_tokens, target_probs, with_context
from helpers.speak.memories import agreement
from helpers.speak.patchscope_evaluation import precision_by_layer
from helpers.speak.tuned_lens import load_tuned_lens
from helpers.speak.two_hops import TwoHop, answered, course_chains, course_questions
from helpers.stats import correlation_interval
from helpers.texts import Texts, held_out_texts

PROMPTS = "reproduce"
TRIED = 12  # two-hop questions that are asked for each one that is wanted, where only a few are wanted

# ------------------------------------------------------------------------------------------------------- 01: one neuron


@experiment(
    "01", "twenty neurons that hold up this/these are taken away", "plural.ablation.20_neurons", "plural.ablation.decisions_changed"
)
def plural(lab: Lab) -> Iterator[Outcome]:
    """The neurons are found on other sentences than those on which they are judged; controls have a similar mean in the same layers."""
    model, (few, many) = lab.model, (lab.size(30), lab.size(60))
    probes = lab.fitting(determiner_probes(World.load(), Random(1), few + many), lambda one: _odds(lab, [one]), "sentences")
    before = _measured(lab, probes)
    rows = lab.kept(before > 0, "determiners")
    choosing, judging = ([probes[row] for row in rows[side]] for side in (slice(0, len(rows) // 3), slice(len(rows) // 3, None)))
    chosen, judged = _odds(lab, choosing), _odds(lab, judging)
    stats = top_contexts(model, held_out_texts(model, lab.size(lab.number("plural", "texts"))), k=1).stats
    ranked = attribute_neurons(model, chosen.texts, chosen, baseline=stats.mean).top(20, sign=-1)
    others = [_similar(stats, neuron, seed) for seed, neuron in enumerate(ranked)]
    done = ablate_groups(model, judged.texts, judged, [ranked, others], baseline=stats.mean)
    change = done.after - done.before
    yield findings.mean("plural.ablation.20_neurons", floats(change[0]), control=floats(change[1]))
    flips = truths((done.after > 0) != (done.before > 0))
    own, other = flips[: len(judging)], flips[len(judging) :]
    yield findings.share("plural.ablation.decisions_changed", own, control=other)


def _odds(lab: Lab, probes: Sequence) -> WordOdds:
    return word_odds(lab.model, *([getattr(one, field) for one in probes] for field in ("prompt", "answer", "wrong")))


def _measured(lab: Lab, probes: Sequence) -> Float[Tensor, "prompt"]:
    odds = _odds(lab, probes)
    return score_prompts(lab.model, odds.texts, odds)


def _similar(stats: NeuronStats, neuron: Neuron, seed: int) -> Neuron:
    """A neuron of the same layer with a similar mean, or where there is none (some means are near 0, or below) any other."""
    layer, unit = neuron
    try:
        return matched_controls(stats, layer, unit, n=1, factor=3, seed=seed)[0]
    except ValueError:
        others = [other for other in range(stats.mean.shape[1]) if other != unit]
        return layer, Random(seed).choice(others)


# ------------------------------------------------------------------------------------------------- 02a: one layer, directions


@experiment("02a", "the direction of refusal, added and projected out", "refusal.harmless.added", "refusal.harmful.projected")
def refusal(lab: Lab) -> Iterator[Outcome]:
    """Arditi et al. 2024: direction, layer and position by their rule, on requests that this model refuses, or does not refuse."""
    model, sets = lab.model, load_prompts("02a_one_layer_directions")
    system = lab.setting("refusal", "system") or None
    begins = [token for word in lab.words("refusal", "begins") if (token := _one_token(lab, word)) is not None]
    if not begins:
        raise NotForThisModel("none of the words with which a refusal begins is one of its tokens")
    refuse, tokens = token_set_log_odds(begins), lab.number("refusal", "tokens")
    prompts: dict[tuple[str, str], list[str]] = {}
    for kind, sign in (("harmful", 1), ("harmless", -1)):
        for group, full in (("direction", 96), ("validation", 12)):
            some = chat_prompts(model, [one.text for one in sets[kind].of(group)][: lab.size(full)], system)
            scores = score_prompts(model, some, refuse)
            prompts[kind, group] = [some[row] for row in lab.kept(sign * scores > 0, f"{kind} requests ({group})")]
    test = {
        kind: chat_prompts(model, [one.text for one in sets[kind].of("test")][: lab.size(60)], system) for kind in ("harmful", "harmless")
    }

    def refused(some: Sequence[str], *changes: Intervention) -> list[bool]:
        return starts_with(generate(model, some, tokens, *changes), lab.words("refusal", "says"))

    positions = min(lab.number("refusal", "positions"), post_instruction(model))
    found = difference_in_means(model, prompts["harmful", "direction"], prompts["harmless", "direction"], positions)
    tried = select_direction(model, found, prompts["harmful", "validation"], prompts["harmless", "validation"], refuse)
    best = _best(lab, tried)
    vector, place = found.vector(best.layer, best.pos), best.pos if lab.setting("refusal", "added") == "position" else None
    others = random_like(vector, 3)
    harmful, harmless = test["harmful"], test["harmless"]
    harmful = [harmful[row] for row in lab.kept(refused(harmful), "harmful requests")]
    harmless = [harmless[row] for row in lab.kept((not hit for hit in refused(harmless)), "harmless requests")]
    pushed = [hit for other in others for hit in refused(harmless, add_at(best.layer, other, pos=place))]
    added = refused(harmless, add_at(best.layer, vector, pos=place))
    yield findings.share("refusal.harmless.added", added, control=pushed)
    removed = [hit for other in others for hit in refused(harmful, *ablate_direction(model, other))]
    projected = refused(harmful, *ablate_direction(model, vector))
    yield findings.share("refusal.harmful.projected", projected, control=removed)


def _one_token(lab: Lab, word: str) -> int | None:
    try:
        return token_id(lab.model, word)
    except ValueError:
        return None


def _best(lab: Lab, tried: Selection) -> Candidate:
    """The candidate of the paper's rule; where anything is kept, also one that the rule does not allow."""
    if lab.keep_wrong and not any(one.allowed for one in tried.candidates):
        return min(tried.candidates, key=lambda one: one.projected)
    return tried.best


@experiment("02a", "a task's vector in place of its demonstrations", "icl.zero_shot", "icl.task_vector", "icl.few_shot")
def task_vectors(lab: Lab) -> Iterator[Outcome]:
    """Hendel et al. 2023 and Todd et al. 2024: for each task the layer is chosen on half of the questions and judged on the other."""
    tasks = course_tasks(*lab.words("task_vectors", "tasks"))
    grid = accuracy_grid(lab.model, list(tasks.values()), n=lab.size(11), how="add", n_states=lab.size(50))
    base, own, shown, wrong = map(truths, (grid.zero_shot, grid.patched, grid.icl, grid.shuffled))
    yield findings.share("icl.zero_shot", base, control=own)
    yield findings.share("icl.task_vector", own, control=base)
    yield findings.share("icl.few_shot", shown, control=wrong)


# ------------------------------------------------------------------------------------- 02b: one layer, sparse autoencoders


@experiment("02b", "a dictionary of states, judged on new texts", "sae.variance_explained", "sae.loss_recovered", "sae.l0")
def dictionary(lab: Lab) -> Iterator[Outcome]:
    """Templeton et al. 2024: what a sparse autoencoder keeps of the states, and of the model's predictions, on three sets of texts."""
    source = lab.sae or lab.setting("dictionary", "sae")
    if not source:
        raise NotForThisModel("there is no sparse autoencoder for it in data/reproduce.csv; name one with --sae")
    model, sae = lab.model, load_sae(source).to(lab.model.cfg.device)
    if sae.d_model != model.cfg.d_model:
        raise NotForThisModel(f"the dictionary {source} is for states of {sae.d_model} numbers, and this model's have {model.cfg.d_model}")
    parts = [held_out_texts(model, lab.size(40), seed=20_300 + part) for part in range(3)]
    found = [quality(model, sae, sae.hook, part) for part in parts]
    active = max(1, round(sum(one.l0 for one in found) / len(found)))
    drawn = torch.randn(sae.d_sae, sae.d_model, generator=torch.Generator().manual_seed(0))
    drawn = torch.nn.functional.normalize(drawn, dim=1).to(sae.W_dec)
    nothing = torch.zeros_like(sae.b_enc)
    by_chance = quality(model, SparseAutoencoder(drawn.T, nothing, drawn, sae.b_dec, "topk", active, hook=sae.hook), sae.hook, parts[0])
    explained, recovered = ([getattr(one, name) for one in found] for name in ("variance_explained", "loss_recovered"))
    yield _of_three("sae.variance_explained", explained, by_chance.variance_explained)
    yield _of_three("sae.loss_recovered", recovered, by_chance.loss_recovered)
    yield _of_three("sae.l0", [one.l0 for one in found], float(sae.d_model))


def _of_three(name: str, values: Sequence[float], control: float) -> Outcome:
    """A mean over the sets of texts, unless the model's loss makes it no number."""
    try:
        return findings.mean(name, values, control=control)
    except ValueError as problem:
        return Absent(name, str(problem).rstrip("."))


# -------------------------------------------------------------------------------------- 03a: a cluster, a model of the model


@experiment("03a", "when the last token looks at the relation, and when at the subject", "recall.knockout.subject_layer")
def recall(lab: Lab) -> Iterator[Outcome]:
    """Geva et al. 2023: the layer around which cutting a source costs most, fact by fact."""
    facts = _facts(lab, 100)
    width = max(1, lab.part(lab.setting("recall", "window") or "25%", lab.model.cfg.n_layers))
    curves = knockout_curves(lab.model, facts, width=width, sources=("subject", "relation"))
    both = ~curves.change.isnan().any(1).any(0)  # a prompt that begins with its subject may have nothing else
    if int(both.sum()) < LEAST:
        raise NotForThisModel("too few of its facts have a subject and a relation apart from it")
    subject, relation = (floats(some[:, both].argmin(0)) for some in curves.change)
    yield findings.mean("recall.knockout.subject_layer", subject, control=relation)


def _facts(lab: Lab, full: int) -> list[FactPrompt]:
    """Facts of the course's world that the model knows, of those whose words its tokens keep apart."""

    def apart(fact: FactPrompt) -> None:
        subject_tokens(lab.model, fact)
        whole_words(lab.model, [fact.text], [[fact.answer]])

    facts = lab.fitting(course_facts(n=min(full, 6 * lab.size(full))), apart, "facts")
    own = next_tokens(lab.model, [fact.text for fact in facts])
    if lab.keep_wrong:
        facts = [replace(fact, answer=lab.model.tokenizer.decode([token]).strip()) for fact, token in zip(facts, own.tolist(), strict=True)]
    hits = [_begins(lab, fact) == token for fact, token in zip(facts, own.tolist(), strict=True)]
    if sum(hits) < LEAST:
        raise NotForThisModel(f"it gets {sum(hits)} of {len(facts)} facts right, and an interval needs {LEAST}")
    return [fact for fact, hit in zip(facts, hits, strict=True) if hit][: lab.size(full)]


def _begins(lab: Lab, fact: FactPrompt) -> int:
    """The token with which the answer to a fact begins, or -1 where it cannot be told apart from the prompt."""
    try:
        return whole_words(lab.model, [fact.text], [[fact.answer]]).ids[0][0]
    except ValueError:
        return -1


@experiment("03a", "one affine map for a relation: faithful, and good for edits", "lre.faithfulness.mean", "lre.editing.success")
def linear_relations(lab: Lab) -> Iterator[Outcome]:
    """Hernandez et al. 2024: layer and factor are chosen on some subjects, and judged on others."""
    model = lab.model
    layers, betas = lab.layers("linear_relations"), [float(beta) for beta in lab.words("linear_relations", "betas")]
    names = lab.words("linear_relations", "relations")[: lab.size(99) // 4 or 1]
    most = lab.size(40)
    n_train, least = min(relations.N_TRAIN, most // 3), min(16, most - 2)
    datas = [data for name in names if (data := _relation(lab, name)) is not None]
    if not datas:
        raise NotForThisModel("its tokens keep subjects and answers apart in none of the relations")
    if lab.keep_wrong:
        found = Report(tuple(_entry(lab, data.take(range(min(most, len(data)))), layers, betas, n_train) for data in datas), ())
    else:
        found = report(model, datas, layers, betas, n_train, most, least)
    if not found.entries:
        raise NotForThisModel(f"it knows fewer than {least} subjects of each relation: {', '.join(found.skipped)}")
    hits, guess = (
        [hit for entry in found.entries for hit in truths(entry.comparison.of(name))] for name in ("LRE", "most frequent in test")
    )
    yield findings.share("lre.faithfulness.mean", hits, control=guess)
    ranks = [rank for rank in map(int, lab.words("linear_relations", "ranks")) if rank <= model.cfg.d_model]
    edits = edit_report(model, found, ranks, n=lab.size(20), draws=3).edits
    if not edits:
        yield Absent("lre.editing.success", "all subjects that were left for the edits have the same answer")
        return
    done, chance = ([hit for one in edits for hit in truths(getattr(one, name))] for name in ("hits", "random"))
    yield findings.share("lre.editing.success", done, control=chance)


def _relation(lab: Lab, name: str) -> RelationData | None:
    """A relation of the course's world with this model's template, its subjects those that its tokens keep apart."""
    data = course_relations([name])[name]
    if template := lab.setting("linear_relations", f"template.{name}"):
        data = relation_data(name, template, list(zip(data.subjects, data.objects, strict=True)))

    def apart(row: int) -> None:
        one = data.take([row])
        relations.locate(lab.model, one)
        whole_words(lab.model, one.prompts, [list(one.objects)])

    try:
        return data.take(lab.fitting(range(len(data) if lab.n is None else min(len(data), 4 * lab.n)), apart, "subjects"))
    except NotForThisModel:
        return None


def _entry(lab: Lab, data: RelationData, layers: Sequence[int], betas: Sequence[float], n_train: int) -> Entry:
    """A relation's entry in a report, right answers or not."""
    parts = split(data, n_train)
    tried = sweep(lab.model, parts, layers, betas)
    return Entry(1.0, parts, tried, relations.compare(lab.model, parts, tried.best.layer, tried.best.beta))


# ---------------------------------------------------------------------------------------------------- 03b: a cluster, circuits


@experiment("03b", "the eight published sentences about a gift", "ioi.eight_prompts")
def eight_prompts(lab: Lab) -> Iterator[Outcome]:
    """The logit difference of receiver and giver in the demo of TransformerLens: a known answer for GPT-2 small."""
    prompts = lab.fitting(
        load_prompts(PROMPTS)["eight_prompts"], lambda one: [token_id(lab.model, f" {w}") for w in (one.answer, one.wrong)], "sentences"
    )
    io, s = (torch.tensor([token_id(lab.model, f" {getattr(one, side)}") for one in prompts]) for side in ("answer", "wrong"))
    right = score_prompts(lab.model, [one.prompt for one in prompts], log_odds(io, s))
    yield findings.mean("ioi.eight_prompts", floats(right), control=0.0)


@experiment(
    "03b", "who receives the gift: preference, name mover, self-repair", "ioi.logit_diff", "ioi.name_mover.copies", "ioi.self_repair"
)
def indirect_objects_heads(lab: Lab) -> Iterator[Outcome]:
    """Wang et al. 2023: the mover is the head that looks most at the receiver, the head taken away the one with the largest direct effect.

    Both are chosen on other sentences than those on which they are judged.
    """
    model, data = lab.model, indirect_objects(lab.model, lab.size(44))
    both, strangers = data.runs(model), data.runs(model, "unrelated")
    clean, nobody = metric_at_ends(model, both), metric_at_ends(model, strangers, texts=strangers.corrupted)
    yield findings.mean("ioi.logit_diff", floats(clean), control=floats(nobody))
    other = indirect_objects(model, lab.size(44), seed=1)
    every = [(layer, number) for layer in range(model.cfg.n_layers) for number in range(model.cfg.n_heads)]
    mover = every[int(looks(model, other)["name mover"].argmax())]
    copied = copies(model, every, data)
    own = truths(copied[every.index(mover)])
    yield findings.share("ioi.name_mover.copies", own, control=truths(copied))
    try:
        strongest = every[int(direct_effects(model, other.tokens, other.io, other.s).of_heads.argmax())]
        gone = self_repair(model, data, strongest)
    except ValueError as problem:
        yield Absent("ioi.self_repair", str(problem).rstrip("."))
        return
    yield findings.difference("ioi.self_repair", floats(gone.after), control=floats(gone.expected))


@experiment("03b", "patches of MLPs, estimated and measured", "attribution.correlation")
def attribution(lab: Lab) -> Iterator[Outcome]:
    """Syed et al. 2023: the estimate by one gradient beside the patches themselves, layer by layer and place by place."""
    model, data = lab.model, indirect_objects(lab.model, lab.size(44))
    both, names = data.runs(model), tuple(data.positions)
    places = [data.positions[name] for name in names]
    measured = patch_positions(model, both, mlp_out, places, names)
    r = correlation(attribute_positions(model, both, mlp_out, places, names), measured)
    rows, size = torch.arange(len(data)), []
    for layer in range(model.cfg.n_layers):
        one, other = (
            record(model, some.tokens.to(model.cfg.device), mlp_out(layer))[mlp_out(layer)] for some in (both.clean, both.corrupted)
        )
        length = (one - other).float().norm(dim=-1).cpu()
        size.append(torch.stack([length[rows, at].mean() for at in places]))
    plain = torch.corrcoef(torch.stack([torch.stack(size).flatten(), measured.change.flatten().float()]))[0, 1].item()
    low, high = correlation_interval(r, measured.change.numel())
    yield findings.value("attribution.correlation", r, low, high, measured.change.numel(), control=plain)


@experiment("03b", "a circuit for the receiver's name", "circuit.faithfulness", "circuit.edges_share")
def circuit(lab: Lab) -> Iterator[Outcome]:
    """Edges ranked by integrated gradients on some sentences (Hanna et al. 2024), and judged by resample ablation on others."""
    model, graph = lab.model, EdgeGraph.of(lab.model)
    frames = [lab.setting("indirect_objects", "frame") or "when went"]
    few, judged = (indirect_objects(model, lab.size(n), seed=seed, frames=frames).runs(model) for n, seed in ((16, 1), (24, 2)))
    n_edges = max(1, lab.part(lab.setting("indirect_objects", "edges") or "2.2%", len(graph)))
    best = attribute_edges(model, few, steps=5)
    kept, chance = (curve(model, judged, which, [n_edges]) for which in (best.top, lambda n: random_circuit(graph, n)))
    with np.errstate(divide="ignore", invalid="ignore"):
        (low, high), value = kept.intervals[0], kept.faithfulness[0].item()
    if not isfinite(low) or not isfinite(high):
        raise NotForThisModel("what a circuit could keep is too close to 0 in these sentences for an interval")
    yield findings.value("circuit.faithfulness", value, low, high, len(judged), control=chance.faithfulness[0].item())
    share = truths(best.top(n_edges).kept)
    yield findings.share("circuit.edges_share", share, control=1.0)


# ---------------------------------------------------------------------------------------------- 04a: speak, lens and memories


@experiment("04a", "the layer from which the answer leads", "lens.answer_layer", "lens.answer_layer_with_context")
def lens(lab: Lab) -> Iterator[Outcome]:
    """The logit lens on facts that the model knows, without a context, after the fact itself, and after another fact."""
    model, facts = lab.model, _facts(lab, lab.number("lens", "facts"))
    prompts = [fact.text for fact in facts]
    answers = [[token] for token in next_tokens(model, prompts).tolist()] if lab.keep_wrong else [answer_tokens(model, f.answer) for f in facts]
    plain = target_probs(model, prompts, answers).leads
    fine = ~plain.isnan()
    if int(fine.sum()) < LEAST:
        raise NotForThisModel("its answers lead at the last layer in fewer than two prompts")
    if tuned := lab.setting("lens", "tuned"):
        early = target_probs(model, prompts, answers, tuned=load_tuned_lens(tuned)).leads
        control = floats(early[~early.isnan()])
    else:
        control = 0.0
    yield findings.mean("lens.answer_layer", floats(plain[fine]), control=control)
    told = [f"{fact.text} {fact.answer}." for fact in facts]
    shifted = []
    for some in (told, told[1:] + told[:1]):
        context = [f"{before} {prompt}" for before, prompt in zip(some, prompts, strict=True)]
        shifted.append(with_context(model, prompts, context, answers).within.leads)
    kept = ~torch.stack([plain, *shifted]).isnan().any(0)
    if int(kept.sum()) < LEAST:
        yield Absent("lens.answer_layer_with_context", "its answers lead in all three contexts for fewer than two facts")
        return
    own, other = (floats(leads[kept]) for leads in shifted)
    yield findings.difference("lens.answer_layer_with_context", own, control=other)


@experiment("04a", "Poland, and then Warsaw, layer by layer", "lens.poland_layer", "lens.warsaw_layer")
def poland(lab: Lab) -> Iterator[Outcome]:
    """Merullo et al. 2024: the first layer at which each word stands on top; one prompt, so no interval."""
    (asked,) = load_prompts(PROMPTS)["poland"].entries
    layers = range(lab.model.cfg.n_layers)
    words = {"lens.poland_layer": asked.wrong, "lens.warsaw_layer": asked.answer}
    for name, word in words.items():
        first = target_probs(lab.model, [asked.prompt], [answer_tokens(lab.model, word)], layers).appears.item()
        if first != first:  # NaN
            yield Absent(name, f"{word} is on top in none of its layers")
            continue
        yield findings.value(name, first, first, first, 1, control=float(len(layers)))


@experiment("04a", "does a neuron's value say what follows its trigger", "ffn.value_says_next")
def memories(lab: Lab) -> Iterator[Outcome]:
    """Geva et al. 2021: in the upper half of the layers, the token that a value promotes most and the one behind the neuron's peak."""
    model = lab.model
    upper = range(model.cfg.n_layers // 2, model.cfg.n_layers)
    top = top_contexts(model, held_out_texts(model, lab.size(lab.number("memories", "texts"))), k=10, layers=list(upper))
    found = agreement(model, top)
    hits = truths(found.hits[found.has_next])
    if len(hits) < LEAST:
        raise NotForThisModel("none of its neurons in the upper half is active in these texts")
    yield findings.share("ffn.value_says_next", hits, control=found.overall_chance)


# ---------------------------------------------------------------------------------------------------- 04b: speak, Patchscopes


@experiment("04b", "the next token told by a Patchscope and by the lens", "patchscope.precision_mid_layers")
def patchscopes(lab: Lab) -> Iterator[Outcome]:
    """Ghandeharioun et al. 2024: which of both names the model's own next token, from the states of the middle layers."""
    texts = held_out_texts(lab.model, lab.number("patchscopes", "texts"))
    found = precision_by_layer(lab.model, _longest(texts, lab.size(len(texts))), lab.layers("patchscopes"))
    own, other = (truths(found.of(name)) for name in ("Patchscope", "logit lens"))
    yield findings.share("patchscope.precision_mid_layers", own, control=other)


def _longest(texts: Texts, n: int) -> Texts:
    """The first ``n`` texts, or where only some are wanted the longest ones, which have a token at the position that is read."""
    return texts if n == len(texts) else texts.take(texts.lengths.argsort(descending=True, stable=True)[:n])


@experiment("04b", "late states put into early layers of failed two-hop questions", "backpatch.oracle")
def back_patching(lab: Lab) -> Iterator[Outcome]:
    """Biran et al. 2024, beside a control: the state of another question, in equally many pairs of layers."""
    model = lab.model

    def apart(one: TwoHop) -> None:
        start, whole = tokenize(model, one.phrase).tolist(), tokenize(model, one.text).tolist()
        if whole[: len(start)] != start or len(whole) > model.cfg.n_ctx:
            raise ValueError("the phrase runs on into what follows")
        for prompt, word in ((one.text, one.e3), (one.phrase, one.e2), (one.hops[0], one.e2), (one.hops[1], one.e3)):
            whole_words(model, [prompt], [[word]])

    most, every = lab.number("back_patching", "questions"), course_questions(forms=("of",))
    drawn = every if lab.n is None else Random(0).sample(every, min(len(every), TRIED * lab.size(most)))  # few of them pass the filters
    asked = lab.fitting(drawn, apart, "questions")
    failed = tuple(asked) if lab.keep_wrong else answered(model, course_chains(model, among=asked)).wrong
    failed = list({one.e1: one for one in failed}.values())[: lab.size(most)]
    if len(failed) < LEAST:
        raise NotForThisModel("it fails fewer than two of the questions of which it knows both hops")
    tried = back_patch_with_controls(model, failed, "t1", ("own", "other prompt"))
    own, other = (truths(tried.oracle(source)) for source in ("own", "other prompt"))
    yield findings.share("backpatch.oracle", own, control=other)
