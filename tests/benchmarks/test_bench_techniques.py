"""How fast each technique is, beside the plain way of doing the same in the same run: `make bench`.

The plain way is one whole run for each patch, head or output, or a bare pass, which has no hooks and keeps nothing. Passes of the model
are counted, which needs no clock.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from bench_tools import Job, beside, counted_passes
from pytest_benchmark.fixture import BenchmarkFixture

from helpers.activations import scan, top_contexts
from helpers.cluster.circuits import attribute_edges
from helpers.cluster.edges import EdgeGraph, cut_each
from helpers.cluster.linear_relations import jacobians, subject_positions
from helpers.cluster.patching import PromptPairs, attribute_positions, patch_heads, patch_positions, prompt_pairs
from helpers.cluster.relations import course_relations
from helpers.interventions import Intervention, add, head_out, intervene, record, resample_ablate, resid_post, resid_pre, set_to, watch
from helpers.metrics import log_odds
from helpers.models import TransformerBridge
from helpers.one_layer.directions import difference_in_means
from helpers.one_layer.features import best_features
from helpers.one_layer.function_vectors import causal_indirect_effects, head_means
from helpers.one_layer.in_context import read_answers
from helpers.one_layer.tasks import course_tasks, shuffled_prompts
from helpers.one_neuron.ablation import attribute_neurons
from helpers.prediction import token_id, tokenize
from helpers.prompts import load_prompts
from helpers.running import chat_prompts, check_layers, layer_hook
from helpers.speak.back_patching import back_patch_with_controls
from helpers.speak.lens import logit_lens, target_probs
from helpers.speak.two_hops import course_questions
from helpers.texts import Texts, as_texts

pytestmark = pytest.mark.usefixtures("one_thread")

COORDINATES = 24  # of a Jacobian's outputs that are computed one by one; the limit is for all of them
LAYER = 6  # in the middle


class Jobs(NamedTuple):
    """Two ways of doing the same. Ours takes at most ``limit`` times as long, and at most so many passes, forward and backward together."""

    ours: Job
    theirs: Job
    limit: float | None
    passes: int | None = None
    rounds: int = 3


def layers(model: TransformerBridge) -> range:
    return range(model.cfg.n_layers)


def some(corpus: Texts, n: int, width: int) -> Texts:
    """The beginnings of some texts that are long enough."""
    rows = (corpus.lengths >= width).nonzero().flatten()[:n]
    return Texts(corpus.tokens[rows, :width], torch.full((len(rows),), width), ("prompt",) * len(rows))


def bare(model: TransformerBridge, texts: Texts, last: int | None = None) -> None:
    """A bare pass over the texts, batch by batch."""
    for rows in texts.batches():
        model(texts.tokens[rows, : int(texts.lengths[rows].max())], **({} if last is None else {"stop_at_layer": last + 1}))


def scanning_one_layer(model: TransformerBridge, corpus: Texts) -> Jobs:
    texts = corpus.take(range(1000))
    return Jobs(lambda: [None for _ in scan(model, texts, [LAYER])], lambda: bare(model, texts, LAYER), 1.2)


def best_places_of_all_neurons(model: TransformerBridge, corpus: Texts) -> Jobs:
    texts = corpus.take(range(500))
    return Jobs(lambda: top_contexts(model, texts), lambda: bare(model, texts), None)


def attribution_of_all_neurons(model: TransformerBridge, corpus: Texts) -> Jobs:
    texts, metric = some(corpus, 32, 20), log_odds(5, 6)

    def there_and_back() -> None:
        start = torch.zeros(model.cfg.d_model, requires_grad=True)
        with torch.enable_grad(), intervene(model, add("hook_embed", start)):
            torch.autograd.grad(metric(model(texts.tokens)).sum(), start)

    return Jobs(lambda: attribute_neurons(model, texts, metric), there_and_back, 1.3, passes=2, rounds=10)


def directions_of_all_layers(model: TransformerBridge, corpus: Texts) -> Jobs:
    sets = load_prompts("02a_one_layer_directions")
    sides = [chat_prompts(model, ([one.text for one in sets[kind]] * 2)[:128]) for kind in ("harmful", "harmless")]
    texts = [as_texts(model, side) for side in sides]
    return Jobs(lambda: difference_in_means(model, *sides, positions=2), lambda: [bare(model, side) for side in texts], 1.3)


def indirect_effects_of_all_heads(model: TransformerBridge, corpus: Texts) -> Jobs:
    task, heads = course_tasks("antonym")["antonym"], range(model.cfg.n_heads)
    means, prompts = head_means(model, task, n=20), shuffled_prompts(task, 8)

    def one_by_one() -> torch.Tensor:
        places = [(layer, head) for layer in layers(model) for head in heads]
        patched = [read_answers(model, prompts, set_to(head_out(at), means[at, head], pos=-1, head=head))[1] for at, head in places]
        return torch.stack(patched).unflatten(0, (-1, len(heads))) - read_answers(model, prompts)[1]

    assert torch.allclose(causal_indirect_effects(model, means, prompts), one_by_one(), atol=1e-4)
    few = len(layers(model)) * len(heads) * 3 // 10
    return Jobs(lambda: causal_indirect_effects(model, means, prompts), one_by_one, 1.0, passes=few)


def scores_of_concepts(model: TransformerBridge, corpus: Texts) -> Jobs:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 128, generator=rng)
    labels = features[:, :60] + 0.3 * torch.randn(4000, 60, generator=rng) > 2.4

    def one_sum_for_each_concept() -> torch.Tensor:
        order, answered = features.argsort(dim=0, descending=True), torch.arange(1, len(features) + 1)[:, None]
        return torch.stack([(2 * inside[order].cumsum(0) / (answered + inside.sum())).max() for inside in labels.T])

    assert torch.allclose(best_features(features, labels, features, labels).f1_validation, one_sum_for_each_concept())
    return Jobs(lambda: best_features(features, labels, features, labels), one_sum_for_each_concept, 0.5)


def jacobians_of_a_relation(model: TransformerBridge, corpus: Texts) -> Jobs:
    data, top = course_relations(["capital"])["capital"].take(range(8)), model.cfg.n_layers - 1

    def one_row(prompt: str, pos: int, number: int) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        with torch.enable_grad(), intervene(model, *(watch(resid_post(at), seen.append) for at in (1, top)), start):
            model(tokenize(model, prompt)[None])
            return torch.autograd.grad(seen[1][0, -1, number], seen[0])[0][0, pos]

    start = add("hook_embed", torch.zeros(model.cfg.d_model, requires_grad=True))
    places = list(zip(data.prompts, subject_positions(model, data).tolist(), strict=True))

    def one_by_one() -> torch.Tensor:
        return torch.stack([torch.stack([one_row(*place, number) for number in range(COORDINATES)]) for place in places])

    assert torch.allclose(jacobians(model, data, [1])[0][:, :COORDINATES], one_by_one(), atol=1e-4)
    return Jobs(lambda: jacobians(model, data, [1]), one_by_one, 0.1 * model.cfg.d_model / COORDINATES)


def gifts(model: TransformerBridge) -> PromptPairs:
    """Eight equally long sentences in which the first or the second one gives, beside the same with the other giver."""
    names = (("John", "Mary"), ("Tom", "Anna"), ("Peter", "Lucy"), ("Paul", "Emma"))
    cases = [(pair, *order) for pair in names for order in (pair, pair[::-1])]
    clean, corrupted = ([f"When {a} and {b} went to the park, {who[at]} gave a book to" for (a, b), *who in cases] for at in (0, 1))
    right, wrong = (torch.tensor([token_id(model, f" {who[at]}") for _, *who in cases]) for at in (1, 0))
    return prompt_pairs(model, clean, corrupted, log_odds(right, wrong))


def one_by_one(model: TransformerBridge, pairs: PromptPairs, patches: list[Intervention]) -> torch.Tensor:
    """The mean metric after each patch, one whole run for each."""
    found = []
    for patch in patches:
        with intervene(model, patch):
            found.append(pairs.metric(model(pairs.corrupted.tokens)[torch.arange(len(pairs)), pairs.ends][:, None]).mean())
    return torch.stack(found)


def patches(model: TransformerBridge, sweep: Callable, place: Callable[[int], str], places: list[dict], limit: float) -> Jobs:
    """All patches of one kind: at every layer, at each of the places."""
    pairs = gifts(model)
    clean = record(model, pairs.clean.tokens, *map(place, layers(model)))
    each = [resample_ablate(hook, state, **where) for hook, state in clean.items() for where in places]
    expected = one_by_one(model, pairs, each).unflatten(0, (len(clean), -1))
    assert torch.allclose(sweep(model, pairs, place).after.mean(-1), expected, atol=1e-4)
    return Jobs(lambda: sweep(model, pairs, place), lambda: one_by_one(model, pairs, each), limit)


def patches_at_all_positions(model: TransformerBridge, corpus: Texts) -> Jobs:
    width = gifts(model).clean.tokens.shape[1]
    return patches(model, patch_positions, resid_pre, [{"pos": pos} for pos in range(width)], 0.35)


def patches_of_all_heads(model: TransformerBridge, corpus: Texts) -> Jobs:
    return patches(model, patch_heads, head_out, [{"head": head} for head in range(model.cfg.n_heads)], 0.85)


def estimates_of_patches(model: TransformerBridge, corpus: Texts) -> Jobs:
    pairs = gifts(model)  # both runs and their metrics, then there and back
    return Jobs(lambda: attribute_positions(model, pairs), lambda: patch_positions(model, pairs), 1.0, passes=6)


def integrated_gradients_of_all_edges(model: TransformerBridge, corpus: Texts) -> Jobs:
    pairs = gifts(model)  # five times there and back, and the clean outputs, where no gradient is taken
    return Jobs(lambda: attribute_edges(model, pairs, steps=5), lambda: patch_positions(model, pairs), None, passes=12)


def circuits_side_by_side(model: TransformerBridge, corpus: Texts) -> Jobs:
    both, edges = gifts(model), EdgeGraph.of(model).edges[-48:]
    few = PromptPairs(both.clean.take(range(4)), both.corrupted.take(range(4)), log_odds(5, 6))
    return Jobs(lambda: cut_each(model, few, edges), lambda: [cut_each(model, few, [edge]) for edge in edges], 0.7, rounds=2)


def the_lens_at_all_layers(model: TransformerBridge, corpus: Texts) -> Jobs:
    """Beside a bare lens: the unembeddings alone cost more than the whole pass (2 million weights; all blocks together have 5 million)."""
    tokens = corpus.tokens.flatten()[: model.cfg.n_ctx]

    def bare_lens() -> None:
        for state in record(model, tokens[None], *map(layer_hook, check_layers(model, None))).values():
            model.unembed(model.ln_final(state))

    text = model.tokenizer.decode(tokens[1:])
    return Jobs(lambda: logit_lens(model, text), bare_lens, 1.3, rounds=10)


def the_lens_at_one_layer(model: TransformerBridge, corpus: Texts) -> Jobs:
    tokens = corpus.tokens.flatten()[: model.cfg.n_ctx]
    text = model.tokenizer.decode(tokens[1:])
    return Jobs(lambda: logit_lens(model, text, [LAYER]), lambda: model(tokens[None]), 1.3, rounds=10)


def answers_at_all_layers(model: TransformerBridge, corpus: Texts) -> Jobs:
    texts = some(corpus, 64, 24)
    answers = torch.full((len(texts),), 5)
    return Jobs(lambda: target_probs(model, texts, answers), lambda: model(texts.tokens), 1.3, rounds=10)


def a_map_of_back_patches(model: TransformerBridge, corpus: Texts) -> Jobs:
    question, pairs = course_questions()[0], [(source, target) for source in layers(model) for target in layers(model)]
    tokens, pos = tokenize(model, question.text)[None], len(tokenize(model, question.phrase)) - 1
    seen = record(model, tokens, *map(resid_post, layers(model)))

    def one_by_one() -> list[int]:
        found = []
        for source, target in pairs:
            with intervene(model, set_to(resid_post(target), seen[resid_post(source)][:, pos : pos + 1], pos=pos)):
                found.append(int(model(tokens)[0, -1].argmax()))
        return found

    all_at_once = partial(back_patch_with_controls, model, [question], "t1", ["own"], pairs)
    assert all_at_once().run().tokens[:, 0].tolist() == one_by_one()
    return Jobs(all_at_once, one_by_one, 0.2)


TECHNIQUES: list[Callable[[TransformerBridge, Texts], Jobs]] = [
    scanning_one_layer,
    best_places_of_all_neurons,
    attribution_of_all_neurons,
    directions_of_all_layers,
    indirect_effects_of_all_heads,
    scores_of_concepts,
    jacobians_of_a_relation,
    patches_at_all_positions,
    patches_of_all_heads,
    estimates_of_patches,
    integrated_gradients_of_all_edges,
    circuits_side_by_side,
    the_lens_at_all_layers,
    the_lens_at_one_layer,
    answers_at_all_layers,
    a_map_of_back_patches,
]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.__name__)
def test_a_technique_keeps_its_limit(benchmark: BenchmarkFixture, course_lm: TransformerBridge, corpus: Texts, technique: Callable) -> None:
    ours, theirs, limit, passes, rounds = technique(course_lm, corpus)
    with counted_passes(course_lm) as counts:
        ours()
    made = sum(max([counts[way, layer] for layer in layers(course_lm)], default=0) for way in ("forward", "backward"))
    assert passes is None or 0 < made <= passes
    beside(benchmark, ours, theirs, limit, rounds)
