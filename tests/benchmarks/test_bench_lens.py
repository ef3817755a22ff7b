"""How long the lens takes beside the pass that it reads, and beside what no lens can do without: `make bench`.

All layers at all positions take one unembedding for each layer. Those of the course LM cost more than its whole pass does (an
unembedding has 2 million weights, all blocks together 5 million), so no lens over all layers can come near the time of a pass. The limit
is therefore set beside a bare lens: the pass, and at each layer the final norm and the product with the unembedding, no more. The lens
over a single layer is set beside the pass itself.
"""

from statistics import median

import pytest
import torch
from bench_tools import one_thread
from jaxtyping import Int
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import Job, folder, seconds
from test_bench_neurons import beside, corpus, model, record_ratio

from helpers.interventions import record
from helpers.models import TransformerBridge
from helpers.running import check_layers, layer_hook
from helpers.speak.lens import logit_lens, target_probs
from helpers.speak.tuned_lens import sample_states, train_tuned_lens
from helpers.texts import Texts

__all__ = ["corpus", "folder", "model", "one_thread"]  # the fixtures

BARE_LIMIT = 1.3  # at most: all layers, as a multiple of a bare lens
PASS_LIMIT = 1.3  # at most: one layer, as a multiple of the whole pass
PROMPT_LIMIT = 1.3  # at most: an answer at all layers and the ends of prompts, as a multiple of the whole pass
TRAINING_LIMIT, BATCH = 4.0, 64  # at most: a short training, as a multiple of collecting its states and unembedding them


def bare_lens(model: TransformerBridge, tokens: Int[torch.Tensor, "batch pos"]) -> None:
    """Nothing but the pass, and each layer's norm and unembedding."""
    seen = record(model, tokens, *map(layer_hook, check_layers(model, None)))
    for state in seen.values():
        model.unembed(model.ln_final(state))


@torch.no_grad()
@pytest.mark.parametrize("length", [12, 96])
def test_all_layers_and_positions_of_a_text(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts, length: int) -> None:
    tokens = corpus.tokens.flatten()[:length][None]
    assert logit_lens(model, tokens[0]).top.shape[:2] == (model.cfg.n_layers + 1, length)
    ratio = beside(benchmark, lambda: logit_lens(model, tokens[0]), lambda: bare_lens(model, tokens))
    to_pass = in_turns(lambda: logit_lens(model, tokens[0]), lambda: model(tokens))
    record_ratio(benchmark, ratio_to_bare_lens=ratio, ratio_to_pass=to_pass)
    assert ratio <= BARE_LIMIT


def in_turns(ours: Job, theirs: Job, rounds: int = 7) -> float:
    """The ratio of the median times of two jobs that take turns."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return median(one for one, _ in times) / median(other for _, other in times)


@torch.no_grad()
def test_one_layer_and_all_positions_of_a_text(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    tokens, layer = corpus.tokens.flatten()[: model.cfg.n_ctx], model.cfg.n_layers // 2
    ratio = beside(benchmark, lambda: logit_lens(model, tokens, [layer]), lambda: model(tokens[None]))
    record_ratio(benchmark, ratio_to_pass=ratio)
    assert ratio <= PASS_LIMIT


@torch.no_grad()
def test_answers_at_all_layers(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    """The lens at the last token of many prompts, at all layers: there the pass is the greater part of the work."""
    rows = (corpus.lengths >= 24).nonzero().flatten()[:64]
    texts = Texts(corpus.tokens[rows, :24], torch.full((len(rows),), 24), ("prompt",) * len(rows))
    ratio = beside(benchmark, lambda: target_probs(model, texts, torch.full((len(rows),), 5)), lambda: model(texts.tokens))
    record_ratio(benchmark, ratio_to_pass=ratio)
    assert ratio <= PROMPT_LIMIT


@torch.no_grad()
def test_training_a_tuned_lens(benchmark: BenchmarkFixture, model: TransformerBridge, corpus: Texts) -> None:
    """A step, beside the unembedding forward of the states that it learns from: forward and backward cannot take less than two of these."""
    texts, some = corpus.take(range(100)), 10
    states = torch.randn(model.cfg.n_layers + 1, BATCH, model.cfg.d_model)

    def bare() -> None:
        sample_states(model, texts)
        for _ in range(some):
            model.unembed(model.ln_final(states))

    ratio = beside(benchmark, lambda: train_tuned_lens(model, texts, some, BATCH), bare, rounds=5)
    seconds_each = (benchmark.stats["median"] - seconds(lambda: sample_states(model, texts))) / some
    record_ratio(benchmark, ratio_to_unembedding=ratio, seconds_for_300_steps=300 * seconds_each)
    assert ratio <= TRAINING_LIMIT
