"""The headline experiments, lesson by lesson, as the notebooks do them; the findings have the notebooks' names.

Every function gets a ``Lab`` and yields findings. Its first line says what the experiment is about. A ValueError of the helpers (no chat
template, norms behind the heads, too few known facts) ends it, and says why this model cannot show the findings that are left.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from random import Random

import numpy as np
import torch
from torch import Tensor

from helpers import findings
from helpers.activations import Neuron, NeuronStats, top_contexts
from helpers.cluster.attribution import direct_effects
from helpers.cluster.circuits import attribute_edges, curve, difference_scores, judge, random_circuit
from helpers.cluster.edges import EdgeGraph
from helpers.cluster.fact_prompts import FactPrompt, course_facts, subject_span
from helpers.cluster.ioi import copies, ioi_sentences, self_repair
from helpers.cluster.knockout import knockout_curves
from helpers.cluster.linear_relations import subject_positions
from helpers.cluster.patching import attribute_positions, correlation, metric_at_ends, patch_positions
from helpers.cluster.relation_reports import RelationReport, edit_report, relation_entry, relation_report, sweep_lre
from helpers.cluster.relations import N_TRAIN, RelationData, course_relations, relation_data, split
from helpers.course_lm.corpus.chat import refuses
from helpers.course_lm.corpus.prose import determiner_probes
from helpers.course_lm.world import World
from helpers.findings import Finding
from helpers.interventions import Intervention, mlp_out, record
from helpers.metrics import WordOdds, Words, log_odds, token_set_log_odds, whole_words, word_odds
from helpers.one_layer.autoencoders import SparseAutoencoder, quality
from helpers.one_layer.directions import KL_LIMIT, ablate_direction, add_at, difference_in_means, select_direction
from helpers.one_layer.in_context import accuracy_grid, demonstrated, task_differences, task_states
from helpers.one_layer.sae_files import load_sae
from helpers.one_layer.tasks import course_tasks
from helpers.one_neuron.ablation import ablate_groups, attribute_neurons
from helpers.prediction import token_id, tokenize
from helpers.prompts import MinimalPair, load_prompts
from helpers.reproduce.lab import LEAST, Lab, NotForThisModel, attempt, experiment
from helpers.running import chat_prompts, generate, next_tokens, post_instruction, random_like, score_prompts, starts_with
from helpers.speak.back_patching import back_patch_with_controls
from helpers.speak.lens import answer_tokens, target_probs
from helpers.speak.memories import agreement
from helpers.speak.patchscope_evaluation import precision_by_layer
from helpers.speak.tuned_lens import load_tuned_lens
from helpers.speak.two_hops import TwoHop, answered, course_chains, course_questions
from helpers.stats import correlation_interval
from helpers.texts import held_out_texts

PROMPTS = "reproduce"
TRIED = 12  # two-hop questions that are asked for each one that is wanted, where only a few are wanted


@experiment("01", "plural.ablation.20_neurons", "plural.ablation.decisions_changed")
def plural(lab: Lab) -> Iterator[Finding]:
    """Twenty neurons that hold up this/these are taken away, found on other sentences than those on which they are judged."""
    model = lab.model
    probes = lab.fitting(
        determiner_probes(World.load(), Random(1), lab.size(30) + lab.size(60)), lambda one: _odds(lab, [one]), "sentences"
    )
    every = _odds(lab, probes)
    rows = lab.kept(score_prompts(model, every.texts, every) > 0, "determiners")
    third = len(rows) // 3
    chosen = _odds(lab, [probes[row] for row in rows[:third]])
    judged = _odds(lab, [probes[row] for row in rows[third:]])
    stats = top_contexts(model, held_out_texts(model, lab.size(lab.number("plural", "texts"))), k=1).stats
    ranked = attribute_neurons(model, chosen.texts, chosen, baseline=stats.mean).top(20, sign=-1)
    others = [_similar(stats, neuron, seed) for seed, neuron in enumerate(ranked)]
    done = ablate_groups(model, judged.texts, judged, [ranked, others], baseline=stats.mean)
    own, other = done.after - done.before
    yield findings.mean("plural.ablation.20_neurons", own, control=other)
    own, other = (done.after > 0) != (done.before > 0)
    yield findings.share("plural.ablation.decisions_changed", own, control=other)


def _odds(lab: Lab, probes: Sequence) -> WordOdds:
    return word_odds(lab.model, *([getattr(one, field) for one in probes] for field in ("prompt", "answer", "wrong")))


def _similar(stats: NeuronStats, neuron: Neuron, seed: int) -> Neuron:
    """A neuron of the same layer with a similar mean, or where there is none (some means are near 0, or below) any other."""
    layer, unit = neuron
    ratio = stats.mean[stats.row(layer)] / stats.mean[stats.row(layer), unit]
    ratio[unit] = 0
    similar = ((ratio >= 1 / 3) & (ratio <= 3)).nonzero().flatten().tolist()
    return layer, Random(seed).choice(similar or [other for other in range(len(ratio)) if other != unit])


@experiment("02a", "refusal.harmless.added", "refusal.harmful.projected")
def refusal(lab: Lab) -> Iterator[Finding]:
    """The direction of refusal, added and projected out; layer and position by the rule of Arditi et al. 2024."""
    model = lab.model
    sets = load_prompts("02a_one_layer_directions")
    system = lab.setting("refusal", "system") or None
    begins, against = (
        [token for word in lab.words("refusal", setting) if (token := attempt(token_id, model, word)) is not None]
        for setting in ("begins", "against")
    )
    if not begins:
        raise NotForThisModel("none of the words with which a refusal begins is one of its tokens")
    refuse = token_set_log_odds(begins, against or None)
    says = lab.words("refusal", "says")

    def requests(kind: str, group: str, full: int) -> list[str]:
        return chat_prompts(model, [one.text for one in sets[kind].of(group)][: lab.size(full)], system)

    def right(kind: str, group: str, full: int) -> list[str]:
        some = requests(kind, group, full)
        scores = score_prompts(model, some, refuse)
        return [some[row] for row in lab.kept(scores > 0 if kind == "harmful" else scores < 0, f"{kind} requests ({group})")]

    def refused(some: Sequence[str], *changes: Intervention) -> list[bool]:
        answers = generate(model, some, lab.number("refusal", "tokens"), *changes)
        return starts_with(answers, says) if says else [refuses(answer) for answer in answers]

    positions = min(lab.number("refusal", "positions"), post_instruction(model))
    found = difference_in_means(model, right("harmful", "direction", 96), right("harmless", "direction", 96), positions)
    validation = (right(kind, "validation", 12) for kind in ("harmful", "harmless"))
    tried = select_direction(model, found, *validation, refuse, float(lab.setting("refusal", "kl") or KL_LIMIT))
    kept_anyway = lab.keep_wrong and not any(one.allowed for one in tried.candidates)  # although the rule allows none
    best = min(tried.candidates, key=lambda one: one.projected) if kept_anyway else tried.best
    vector = found.vector(best.layer, best.pos)
    others = random_like(vector, 10)

    def by_chance(some: Sequence[str], change: Callable[[Tensor], list[Intervention]]) -> list[bool]:  # each with one of the ten
        return [refused([prompt], *change(others[at % len(others)]))[0] for at, prompt in enumerate(some)]

    harmful = requests("harmful", "test", 60)
    harmful = [harmful[row] for row in lab.kept(refused(harmful), "harmful requests")]
    harmless = requests("harmless", "test", 60)
    harmless = [harmless[row] for row in lab.kept((not hit for hit in refused(harmless)), "harmless requests")]
    pushed = by_chance(harmless, lambda other: [add_at(best.layer, other)])
    yield findings.share("refusal.harmless.added", refused(harmless, add_at(best.layer, vector)), control=pushed)
    removed = by_chance(harmful, lambda other: ablate_direction(model, other))
    yield findings.share("refusal.harmful.projected", refused(harmful, *ablate_direction(model, vector)), control=removed)


@experiment("02b", "icl.replaced", "icl.task_vector", "icl.few_shot")
def task_vectors(lab: Lab) -> Iterator[Finding]:
    """A task's vector in place of its demonstrations (Hendel et al. 2023), or added; its layer chosen on half of the questions."""
    tasks = list(course_tasks(*lab.words("task_vectors", "tasks")).values())
    for name, vector, how in (("icl.replaced", task_states, "replace"), ("icl.task_vector", task_differences, "add")):
        grid = accuracy_grid(lab.model, tasks, [vector(lab.model, task, lab.size(50)) for task in tasks], lab.size(11), how)
        yield findings.share(name, grid.patched, control=grid.zero_shot)
    shown, wrong = (torch.cat(demonstrated(lab.model, tasks, lab.size(11), shuffled)) for shuffled in (False, True))
    yield findings.share("icl.few_shot", shown, control=wrong)


@experiment("02c", "sae.variance_explained", "sae.loss_recovered", "sae.l0")
def dictionary(lab: Lab) -> Iterator[Finding]:
    """What a dictionary keeps of the states, and of the predictions, on three sets of new texts (Templeton et al. 2024)."""
    model = lab.model
    source = lab.sae or lab.setting("dictionary", "sae")
    if not source:
        raise NotForThisModel("there is no sparse autoencoder for it in data/reproduce.csv; name one with --sae")
    sae = load_sae(source).to(model.cfg.device)
    if sae.d_model != model.cfg.d_model:
        raise NotForThisModel(f"the dictionary {source} is for states of {sae.d_model} numbers, and this model's have {model.cfg.d_model}")
    parts = [held_out_texts(model, lab.size(40), seed=20_301 + part) for part in range(3)]  # 20_300 is what it was trained on
    found = [quality(model, sae, sae.hook, part) for part in parts]
    active = max(1, round(sum(one.l0 for one in found) / len(found)))
    drawn = torch.randn(sae.d_sae, sae.d_model, generator=torch.Generator().manual_seed(0))
    drawn = torch.nn.functional.normalize(drawn, dim=1).to(sae.W_dec)
    random = SparseAutoencoder(drawn.T, torch.zeros_like(sae.b_enc), drawn, sae.b_dec, "topk", active, hook=sae.hook)
    by_chance = quality(model, random, sae.hook, parts[0])
    yield findings.mean("sae.variance_explained", [one.variance_explained for one in found], control=by_chance.variance_explained)
    yield findings.mean("sae.l0", [one.l0 for one in found], control=float(sae.d_model))
    yield findings.mean("sae.loss_recovered", [one.loss_recovered for one in found], control=by_chance.loss_recovered)


@experiment("03a", "recall.knockout.subject_layer")
def recall(lab: Lab) -> Iterator[Finding]:
    """When the last token looks at the relation, and when at the subject: where a cut costs most (Geva et al. 2023)."""
    facts = _facts(lab, 100)
    width = max(1, lab.part(lab.setting("recall", "window") or "25%", lab.model.cfg.n_layers))
    curves = knockout_curves(lab.model, facts, width=width, sources=("subject", "relation"))
    both = ~curves.change.isnan().any(1).any(0)  # a prompt that begins with its subject may have nothing else
    if int(both.sum()) < LEAST:
        raise NotForThisModel("too few of its facts have a subject and a relation apart from it")
    subject, relation = curves.change[:, :, both].argmin(1)
    yield findings.mean("recall.knockout.subject_layer", subject, control=relation)


def _facts(lab: Lab, full: int) -> list[FactPrompt]:
    """Facts of the course's world that the model knows, of those whose words its tokens keep apart."""

    def first(fact: FactPrompt) -> int:
        subject_span(lab.model, fact)
        return whole_words(lab.model, [fact.text], [[fact.answer]]).ids[0][0]

    facts = lab.fitting(course_facts(n=min(full, 6 * lab.size(full))), first, "facts")
    own = next_tokens(lab.model, [fact.text for fact in facts]).tolist()
    if lab.keep_wrong:
        facts = [replace(fact, answer=lab.model.tokenizer.decode([token]).strip()) for fact, token in zip(facts, own, strict=True)]
    right = [fact for fact, token in zip(facts, own, strict=True) if attempt(first, fact) == token]
    if len(right) < LEAST:
        raise NotForThisModel(f"it gets {len(right)} of {len(facts)} facts right, and an interval needs {LEAST}")
    return right[: lab.size(full)]


@experiment("03a", "lre.faithfulness.mean", "lre.editing.success")
def linear_relations(lab: Lab) -> Iterator[Finding]:
    """One affine map for a relation: faithful, and good for edits (Hernandez et al. 2024), judged on other subjects."""
    layers = lab.layers("linear_relations")
    betas = [float(beta) for beta in lab.words("linear_relations", "betas")]
    names = lab.words("linear_relations", "relations")[: lab.size(99) // 4 or 1]
    most = lab.size(40)
    n_train = min(N_TRAIN, most // 3)
    least = min(16, most - 2)
    datas = [data for name in names if (data := attempt(_relation, lab, name)) is not None]
    if not datas:
        raise NotForThisModel("its tokens keep subjects and answers apart in none of the relations")
    if lab.keep_wrong:
        parts = [split(data.take(range(min(most, len(data)))), n_train) for data in datas]
        tried = [(one, sweep_lre(lab.model, one, layers, betas)) for one in parts]
        found = RelationReport(tuple(relation_entry(lab.model, *one, 1.0) for one in tried), ())
    else:
        found = relation_report(lab.model, datas, layers, betas, n_train, most, least)
    if not found.entries:
        raise NotForThisModel(f"it knows fewer than {least} subjects of each relation: {', '.join(found.skipped)}")
    hits = torch.cat([entry.comparison.of("LRE") for entry in found.entries])
    guess = torch.cat([entry.comparison.of(entry.comparison.rival) for entry in found.entries])
    yield findings.share("lre.faithfulness.mean", hits, control=guess)
    ranks = [rank for rank in map(int, lab.words("linear_relations", "ranks")) if rank <= lab.model.cfg.d_model]
    edits = edit_report(lab.model, found, ranks, n=lab.size(20), draws=3).edits
    if not edits:
        raise NotForThisModel("all subjects that were left for the edits have the same answer")
    done, plain = (torch.cat([one.of(kind) for one in edits]) for kind in ("edited", "output"))
    yield findings.mean("lre.editing.success", done, control=plain, clusters=[pair[0] for one in edits for pair in one.pairs])


def _relation(lab: Lab, name: str) -> RelationData:
    """A relation of the course's world with this model's template, its subjects those that its tokens keep apart."""
    data = course_relations([name])[name]
    if template := lab.setting("linear_relations", f"template.{name}"):
        data = relation_data(name, template, list(zip(data.subjects, data.objects, strict=True)))

    def apart(row: int) -> Words:
        one = data.take([row])
        subject_positions(lab.model, one)
        return whole_words(lab.model, one.prompts, [list(one.objects)])

    return data.take(lab.fitting(range(len(data) if lab.n is None else min(len(data), 4 * lab.n)), apart, "subjects"))


@experiment("03b", "ioi.eight_prompts")
def eight_prompts(lab: Lab) -> Iterator[Finding]:
    """The eight published sentences about a gift, receiver against giver: a known answer for GPT-2 small."""

    def names(one: MinimalPair) -> list[int]:
        return [token_id(lab.model, f" {name}") for name in (one.answer, one.wrong)]

    prompts = lab.fitting(load_prompts(PROMPTS)["eight_prompts"], names, "sentences")
    io, s = torch.tensor([names(one) for one in prompts]).T
    yield findings.mean("ioi.eight_prompts", score_prompts(lab.model, [one.prompt for one in prompts], log_odds(io, s)), control=0.0)


@experiment("03b", "ioi.logit_diff", "ioi.name_mover.copies", "ioi.self_repair")
def indirect_objects_heads(lab: Lab) -> Iterator[Finding]:
    """Who receives the gift: preference, name mover, self-repair (Wang et al. 2023).

    The mover is the head with the largest direct effect, chosen on other sentences than those on which it is judged.
    """
    model = lab.model
    data = ioi_sentences(model, lab.size(44))
    strangers = data.pairs(model, "unrelated")
    nobody = metric_at_ends(model, strangers, texts=strangers.corrupted)
    yield findings.mean("ioi.logit_diff", metric_at_ends(model, data.pairs(model)), control=nobody)
    other = ioi_sentences(model, lab.size(44), seed=1)
    every = [(layer, number) for layer in range(model.cfg.n_layers) for number in range(model.cfg.n_heads)]
    copied = copies(model, every, data)
    mover = int(direct_effects(model, other.tokens, other.io, other.s).of_heads.argmax())
    yield findings.share("ioi.name_mover.copies", copied[mover], control=copied.flatten().tolist())
    [gone] = self_repair(model, data, [every[mover]], direct_effects(model, data.tokens, data.io, data.s))
    yield findings.difference("ioi.self_repair", gone.after, control=gone.expected)


@experiment("03b", "attribution.correlation")
def attribution(lab: Lab) -> Iterator[Finding]:
    """Patches of MLPs, estimated by one gradient and measured, layer by layer and place by place (Syed et al. 2023)."""
    model = lab.model
    data = ioi_sentences(model, lab.size(44))
    pairs = data.pairs(model)
    places = list(data.positions.values())
    measured = patch_positions(model, pairs, mlp_out, places, tuple(data.positions))
    r = correlation(attribute_positions(model, pairs, mlp_out, places, tuple(data.positions)), measured)
    hooks = [mlp_out(layer) for layer in range(model.cfg.n_layers)]
    clean, corrupted = (record(model, some.tokens.to(model.cfg.device), *hooks) for some in (pairs.clean, pairs.corrupted))
    length = [(clean[hook] - corrupted[hook]).float().norm(dim=-1).cpu() for hook in hooks]
    size = torch.tensor([[some[torch.arange(len(data)), at].mean() for at in places] for some in length])
    plain = torch.corrcoef(torch.stack([size.flatten(), measured.change.flatten().float()]))[0, 1].item()
    low, high = correlation_interval(r, measured.change.numel())
    yield findings.value("attribution.correlation", r, low, high, measured.change.numel(), control=plain)


@experiment("03b", "circuit.faithfulness")
def circuit(lab: Lab) -> Iterator[Finding]:
    """A circuit for the receiver's name: integrated gradients on some sentences (Hanna et al. 2024), cut on others."""
    model = lab.model
    graph = EdgeGraph.of(model)
    frames = [lab.setting("indirect_objects", "frame") or "when went"]
    few, judged = (ioi_sentences(model, lab.size(n), seed=seed, frames=frames).pairs(model) for n, seed in ((16, 1), (24, 2)))
    n_edges = max(1, lab.part(lab.setting("indirect_objects", "edges") or "2.2%", len(graph)))
    best, size = attribute_edges(model, few, steps=5), difference_scores(model, few)
    kept = curve(model, judged, best.top, [n_edges])
    rivals = judge(model, judged, [random_circuit(graph, n_edges), size.top(n_edges)])
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = kept.intervals[0]
        value = kept.faithfulness[0].item()
    if not isfinite(low) or not isfinite(high):
        raise NotForThisModel("what a circuit could keep is too close to 0 in these sentences for an interval")
    yield findings.value("circuit.faithfulness", value, low, high, len(judged), control=rivals.faithfulness.max().item())


@experiment("04a", "lens.answer_layer", "lens.answer_layer_with_context")
def lens(lab: Lab) -> Iterator[Finding]:
    """The layer from which the answer leads: without a context, after the fact itself, and after another fact."""
    model = lab.model
    facts = _facts(lab, lab.number("lens", "facts"))
    prompts = [fact.text for fact in facts]
    answers = (
        [[token] for token in next_tokens(model, prompts).tolist()] if lab.keep_wrong else [answer_tokens(model, f.answer) for f in facts]
    )
    plain = target_probs(model, prompts, answers).leads
    fine = ~plain.isnan()
    if int(fine.sum()) < LEAST:
        raise NotForThisModel("its answers lead at the last layer in fewer than two prompts")
    control = 0.0
    if tuned := lab.setting("lens", "tuned"):
        early = target_probs(model, prompts, answers, tuned=load_tuned_lens(tuned)).leads
        control = early[~early.isnan()].tolist()
    yield findings.mean("lens.answer_layer", plain[fine], control=control)
    told = [f"{fact.text} {fact.answer}." for fact in facts]
    contexts = ([f"{before} {prompt}" for before, prompt in zip(some, prompts, strict=True)] for some in (told, told[1:] + told[:1]))
    own, other = (target_probs(model, context, answers).leads for context in contexts)
    kept = ~(plain + own + other).isnan()
    if int(kept.sum()) < LEAST:
        raise NotForThisModel("its answers lead in all three contexts for fewer than two facts")
    yield findings.difference("lens.answer_layer_with_context", own[kept], control=other[kept])


@experiment("04a", "lens.poland_layer", "lens.warsaw_layer")
def poland(lab: Lab) -> Iterator[Finding]:
    """Poland, and then Warsaw: the first layer with each word on top (Merullo et al. 2024); one prompt, so no interval."""
    (asked,) = load_prompts(PROMPTS)["poland"].entries
    depth = lab.model.cfg.n_layers
    missing = []
    for name, word in (("lens.poland_layer", asked.wrong), ("lens.warsaw_layer", asked.answer)):
        first = target_probs(lab.model, [asked.prompt], [answer_tokens(lab.model, word)], range(depth)).appears.item()
        if isfinite(first):
            yield findings.value(name, first, first, first, 1, control=float(depth))
        else:
            missing.append(word)
    if missing:
        raise NotForThisModel(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} on top in none of its layers")


@experiment("04a", "ffn.value_says_next")
def memories(lab: Lab) -> Iterator[Finding]:
    """Does a neuron's value, in the upper half of the layers, say what follows its trigger? (Geva et al. 2021)"""
    model = lab.model
    upper = list(range(model.cfg.n_layers // 2, model.cfg.n_layers))
    found = agreement(model, top_contexts(model, held_out_texts(model, lab.size(lab.number("memories", "texts"))), k=10, layers=upper))
    hits = found.hits[found.has_next]
    if len(hits) < LEAST:
        raise NotForThisModel("none of its neurons in the upper half is active in these texts")
    yield findings.share("ffn.value_says_next", hits, control=found.control[found.has_next])


@experiment("04b", "patchscope.precision_mid_layers")
def patchscopes(lab: Lab) -> Iterator[Finding]:
    """The next token told by a Patchscope and by the lens, from the middle layers (Ghandeharioun et al. 2024)."""
    texts = held_out_texts(lab.model, lab.number("patchscopes", "texts"))
    if (n := lab.size(len(texts))) < len(texts):  # the longest ones have a token at the position that is read
        texts = texts.take(texts.lengths.argsort(descending=True, stable=True)[:n])
    found = precision_by_layer(lab.model, texts, lab.layers("patchscopes"))
    own, other = (found.of(name).flatten() for name in ("Patchscope", "logit lens"))
    yield findings.share("patchscope.precision_mid_layers", own, control=other)


@experiment("04b", "backpatch.oracle")
def back_patching(lab: Lab) -> Iterator[Finding]:
    """Late states put into early layers of failed two-hop questions (Biran et al. 2024), beside another question's states."""
    model = lab.model

    def apart(one: TwoHop) -> list[Words]:
        start = tokenize(model, one.phrase).tolist()
        whole = tokenize(model, one.text).tolist()
        if whole[: len(start)] != start or len(whole) > model.cfg.n_ctx:
            raise ValueError("the phrase runs on into what follows")
        asked = ((one.text, one.e3), (one.phrase, one.e2), (one.hops[0], one.e2), (one.hops[1], one.e3))
        return [whole_words(model, [prompt], [[word]]) for prompt, word in asked]

    most = lab.number("back_patching", "questions")
    every = course_questions()
    drawn = every if lab.n is None else Random(0).sample(every, min(len(every), TRIED * lab.size(most)))  # few of them pass the filters
    asked = lab.fitting(drawn, apart, "questions")
    failed = tuple(asked) if lab.keep_wrong else answered(model, course_chains(model, among=asked)).wrong
    failed = list({one.e1: one for one in failed}.values())[: lab.size(most)]
    if len(failed) < LEAST:
        raise NotForThisModel("it fails fewer than two of the questions of which it knows both hops")
    tried = back_patch_with_controls(model, failed, "t1", ("own", "another question"))
    yield findings.share("backpatch.oracle", tried.oracle("own"), control=tried.oracle("another question"))
