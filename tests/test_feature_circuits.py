"""Feature circuits: estimates against small steps, ablation and its shares by hand."""

import pytest
import torch
from layer_tools import HOOK, as_before, random_sae

from helpers.cluster.feature_circuits import (
    FeatureCircuit,
    NodeEffects,
    NodeFaithfulness,
    NodeMeans,
    agreement_pairs,
    attribute_nodes,
    circuit_of,
    circuit_sizes,
    measure_circuits,
    node_means,
    only,
)
from helpers.cluster.patching import PromptPairs, metric_at_ends, prompt_pairs
from helpers.course_lm.world import World
from helpers.interventions import intervene, record, set_to
from helpers.metrics import log_odds
from helpers.prediction import token_id
from helpers.texts import Texts, as_texts

__all__ = ["as_before"]  # a fixture

SAE = random_sae("topk", k=5)


@pytest.fixture
def pair(tiny) -> PromptPairs:
    """Three pairs of six random tokens behind the mark; they differ from position 2 on."""
    rng = torch.Generator().manual_seed(3)
    clean = torch.randint(1, 300, (3, 7), generator=rng)
    corrupted = torch.cat([clean[:, :2], torch.randint(1, 300, (3, 5), generator=rng)], 1)
    return prompt_pairs(tiny, clean, corrupted, log_odds(torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])))


def states(model, texts: Texts) -> torch.Tensor:
    return record(model, texts.tokens, HOOK)[HOOK]


def test_integrated_gradients_add_up_to_the_whole_difference(tiny, pair):
    effects = attribute_nodes(tiny, SAE, pair, steps=50)
    whole = metric_at_ends(tiny, pair, texts=pair.corrupted) - metric_at_ends(tiny, pair)
    assert effects.values.shape == (3, 7, 51) and effects.values[:, :2].abs().max() < 1e-5  # the same so far
    assert torch.allclose(effects.values.sum((1, 2)), whole, rtol=0.03, atol=0.03)
    single = attribute_nodes(tiny, SAE, pair).values.sum((1, 2))
    assert not torch.allclose(single, whole, rtol=0.03, atol=0.03)


def test_the_plain_estimate_is_the_slope_of_a_patch(tiny, pair):
    effects, clean, corrupted = attribute_nodes(tiny, SAE, pair).values, states(tiny, pair.clean), states(tiny, pair.corrupted)
    features = [SAE.encode(x) for x in (clean, corrupted)]
    errors = [x - SAE.decode(a) for x, a in zip((clean, corrupted), features, strict=True)]
    changed = (features[1] - features[0]).abs().sum(0)
    before, right = metric_at_ends(tiny, pair), []
    for pos, node in [(2, int(changed[2].argmax())), (6, int(changed[6].argmax())), (4, 50), (6, 50)]:
        move = errors[1] - errors[0] if node == 50 else (features[1] - features[0])[..., node, None] * SAE.W_dec[node]
        moved = clean.clone()
        moved[:, pos] += 1e-3 * move[:, pos]
        slope = (metric_at_ends(tiny, pair, set_to(HOOK, moved)) - before) * 1e3
        right += torch.isclose(effects[:, pos, node], slope, rtol=0.1, atol=0.03).tolist()
        assert effects[:, pos, node].abs().max() > 0.03
    assert sum(right) >= len(right) - 1  # a ReLU may turn at this very point


def test_the_largest_nodes_come_first_and_the_error_only_when_asked():
    values = torch.zeros(2, 3, 5)
    values[:, 1, 2], values[:, 2, 0], values[0, 0, 1], values[:, 2, 4] = -3.0, 2.0, 9.0, 4.0  # the third: 4.5 on average
    effects = NodeEffects(values)
    assert effects.top(3) == [(0, 1), (1, 2), (2, 0)] and effects.top(2, errors=True) == [(0, 1), (2, 4)]
    assert effects.table(2).split("\n")[2].split() == ["2", "error", "+4.000"]


def test_prompts_have_one_length(tiny):
    uneven = PromptPairs(as_texts(tiny, ["in", "Taipei 101"]), as_texts(tiny, ["is", "Taipei in"]), log_odds(1, 2))
    for use in (attribute_nodes, node_means):
        with pytest.raises(ValueError, match="one length; these have"):
            use(tiny, SAE, uneven)


def test_agreement_prompts_differ_in_the_number_of_their_subject(course_lm):
    both, ids = agreement_pairs(course_lm, 6, seed=1), [token_id(course_lm, word) for word in (" is", " are")]
    nouns = {row["singular"]: row["plural"] for row in World.load().rows("nouns")}
    logits = torch.zeros(6, 1, course_lm.cfg.d_vocab)
    logits[..., ids[0]] = 1.0
    assert len(set(both.clean.lengths.tolist())) == 1 and len(set(both.first_difference.tolist())) == 1
    for row, value in enumerate(both.metric(logits).tolist()):
        one, two = (course_lm.tokenizer.decode(side.tokens[row, 1:].tolist()) for side in (both.clean, both.corrupted))
        [(a, b)] = [words for words in zip(one.split(), two.split(), strict=True) if words[0] != words[1]]
        assert " that the " in one and (nouns.get(a) == b or nouns.get(b) == a)
        assert value == (1 if nouns.get(a) == b else -1)  # a singular subject wants "is"
    assert agreement_pairs(course_lm, 6, seed=2).clean.tokens.tolist() != both.clean.tokens.tolist()
    alike = agreement_pairs(course_lm, 20, seed=3, like=both)
    assert alike.clean.tokens.shape[1] == both.clean.tokens.shape[1] and alike.first_difference[0] == both.first_difference[0]
    with pytest.raises(ValueError, match="not 3 prompts of one length in the group 'future'"):
        agreement_pairs(course_lm, 3, "future")


def test_what_is_outside_the_circuit_has_its_mean(tiny, pair):
    means, x = node_means(tiny, SAE, pair), states(tiny, pair.clean)
    both = torch.cat([x, states(tiny, pair.corrupted)])
    features = SAE.encode(both)
    assert torch.allclose(means.features, features.mean(0), atol=1e-5)
    assert torch.allclose(means.error, (both - SAE.decode(features)).mean(0), atol=1e-4)
    node = (4, int(features[:3, 4].sum(0).argmax()))
    for circuit in (circuit_of([node], means, "one"), FeatureCircuit("feature", torch.arange(50) == node[1], error=True)):
        kept, own = means.features.expand(3, 7, 50).clone(), SAE.encode(x)
        places = [4] if circuit.keep.ndim == 2 else list(range(7))
        kept[:, places, node[1]] = own[:, places, node[1]]
        error = x - SAE.decode(own) if circuit.error else means.error
        with intervene(tiny, only(SAE, means, circuit)):
            assert torch.allclose(states(tiny, pair.clean), SAE.decode(kept) + error, atol=1e-4)


def test_all_nodes_are_the_full_model_and_none_the_empty_one(tiny, pair):
    means, every = node_means(tiny, SAE, pair), torch.ones(50, dtype=torch.bool)
    circuits = [FeatureCircuit("all", every, True), FeatureCircuit("none", ~every), FeatureCircuit("error", ~every, True)]
    found = measure_circuits(tiny, SAE, pair, means, circuits)
    assert torch.allclose(found.values[0], found.full, atol=1e-4) and torch.allclose(found.values[1], found.empty)
    assert torch.allclose(found.faithfulness[:2], torch.tensor([1.0, 0.0]), atol=1e-3) and found.faithfulness[2].abs() > 1e-3
    assert torch.allclose(found.full, metric_at_ends(tiny, pair))
    same = NodeMeans(SAE.encode(states(tiny, pair.clean))[0], states(tiny, pair.clean)[0] - SAE(states(tiny, pair.clean))[0])
    alone = PromptPairs(pair.clean.take([0]), pair.corrupted.take([0]), log_odds(5, 8))
    with pytest.raises(ValueError, match="not on its way"):
        measure_circuits(tiny, SAE, alone, same, circuits)


def test_faithfulness_by_hand():
    circuits = (FeatureCircuit("top", torch.tensor([True, False])), FeatureCircuit("top", torch.tensor([True, True]), True))
    found = NodeFaithfulness(circuits, torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([3.0, 5.0]), torch.tensor([0.0, 0.0]))
    assert found.faithfulness.tolist() == [0.375, 1.125]
    assert found.intervals[0][0] < 0.375 < found.intervals[0][1]
    assert found.table().split("\n")[2].split()[:3] == ["top", "2", "1.12"]


def test_circuits_of_all_sizes_have_their_controls():
    means = NodeMeans(torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]]), torch.zeros(2, 4))
    values = torch.zeros(1, 2, 4)
    values[0, 0, 1], values[0, 1, 0], values[0, 0, 3] = 5.0, -2.0, 99.0
    made = circuit_sizes(NodeEffects(values), means, sizes=(1, 2))
    assert [(circuit.name, circuit.n, circuit.error) for circuit in made] == [(name, n, True) for n in (1, 2) for name in ("top", "random")]
    assert made[0].keep.nonzero().tolist() == [[0, 1]]
    assert torch.equal(made[2].keep, made[3].keep)  # only two nodes have an effect
