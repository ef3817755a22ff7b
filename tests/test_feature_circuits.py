"""Feature circuits: estimates against real patches, ablation and its shares by hand, and the parts of SHIFT against known truths."""

import pytest
import torch
from test_autoencoders import HOOK, random_sae
from test_neurons import as_before, tiny

from helpers.cluster import feature_circuits
from helpers.cluster.feature_circuits import (
    HE,
    SHE,
    Biographies,
    Faithfulness,
    FeatureCircuit,
    NodeEffects,
    NodeMeans,
    ShiftReport,
    agreement_runs,
    attribute_nodes,
    attribute_probe,
    biographies,
    circuit_of,
    circuit_sizes,
    features_of,
    gendered_stories,
    judged,
    measure_circuits,
    neurons_before,
    node_means,
    only,
    patch_nodes,
    shift,
    text_means,
)
from helpers.cluster.patching import PromptPairs, metric_at_ends, prompt_pairs
from helpers.course_lm.corpus.prose import PROFESSIONS
from helpers.course_lm.world import World
from helpers.interventions import intervene, mlp_post, record, set_to
from helpers.metrics import log_odds
from helpers.one_layer.probes import Probes
from helpers.prediction import token_id
from helpers.texts import Texts, as_texts

__all__ = ["as_before", "tiny"]  # fixtures

PROMPTS = ["The Eiffel Tower is in Paris.", "Taipei 101", "The Golden Gate Bridge is in San Francisco, and", "in"]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def pair(tiny) -> PromptPairs:
    """Three pairs of six random tokens behind the mark; they differ from position 2 on."""
    rng = torch.Generator().manual_seed(3)
    clean = torch.randint(1, 300, (3, 7), generator=rng)
    corrupted = torch.cat([clean[:, :2], torch.randint(1, 300, (3, 5), generator=rng)], 1)
    return prompt_pairs(tiny, clean, corrupted, log_odds(torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])))


@pytest.fixture
def sae():
    return random_sae("topk", k=5)


def states(model, texts: Texts) -> torch.Tensor:
    return record(model, texts.tokens, HOOK)[HOOK]


# ---------------------------------------------------------------------------------------------------- indirect effects


def test_integrated_gradients_add_up_to_the_whole_difference(tiny, sae, pair):
    effects = attribute_nodes(tiny, sae, pair, steps=100)
    whole = metric_at_ends(tiny, pair, texts=pair.corrupted) - metric_at_ends(tiny, pair)
    assert effects.values.shape == (3, 7, 51) and effects.values[:, :2].abs().max() < 1e-5  # the same so far
    assert torch.allclose(effects.values.sum((1, 2)), whole, rtol=0.03, atol=0.03)
    single = attribute_nodes(tiny, sae, pair).values.sum((1, 2))
    assert not torch.allclose(single, whole, rtol=0.03, atol=0.03)


def test_the_plain_estimate_is_the_slope_of_a_patch(tiny, sae, pair):
    effects, clean, corrupted = attribute_nodes(tiny, sae, pair).values, states(tiny, pair.clean), states(tiny, pair.corrupted)
    features = [sae.encode(x) for x in (clean, corrupted)]
    errors = [x - sae.decode(a) for x, a in zip((clean, corrupted), features, strict=True)]
    changed = (features[1] - features[0]).abs().sum(0)
    before, right = metric_at_ends(tiny, pair), []
    for pos, node in [(2, int(changed[2].argmax())), (6, int(changed[6].argmax())), (4, 50), (6, 50)]:
        move = errors[1] - errors[0] if node == 50 else (features[1] - features[0])[..., node, None] * sae.W_dec[node]
        moved = clean.clone()
        moved[:, pos] += 1e-3 * move[:, pos]
        slope = (metric_at_ends(tiny, pair, set_to(HOOK, moved)) - before) * 1e3
        right += torch.isclose(effects[:, pos, node], slope, rtol=0.1, atol=0.03).tolist()
        assert effects[:, pos, node].abs().max() > 0.03
    assert sum(right) >= len(right) - 1  # a ReLU may turn at this very point


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_patches_put_one_corrupted_value_into_the_clean_run(tiny, sae, pair, monkeypatch, tokens):
    monkeypatch.setattr(feature_circuits, "COPIED_TOKENS", tokens)
    clean, corrupted = states(tiny, pair.clean), states(tiny, pair.corrupted)
    a, b = sae.encode(clean), sae.encode(corrupted)
    nodes = [(2, int((b - a).abs().sum(0)[2].argmax())), (5, 50), (3, int((b - a).abs().sum(0)[3].argmax())), (0, 1)]
    found, before = patch_nodes(tiny, sae, pair, nodes), metric_at_ends(tiny, pair)
    for (pos, node), change in zip(nodes, found, strict=True):
        features, error = a.clone(), clean - sae.decode(a)
        if node == 50:
            error[:, pos] = (corrupted - sae.decode(b))[:, pos]
        else:
            features[:, pos, node] = b[:, pos, node]
        by_hand = metric_at_ends(tiny, pair, set_to(HOOK, sae.decode(features) + error)) - before
        assert torch.allclose(change, by_hand, atol=1e-4)
    assert found[:3].abs().amax(1).min() > 1e-3 and found[3].abs().max() < 1e-5


def test_the_largest_nodes_come_first_and_the_error_only_when_asked(tiny):
    values = torch.zeros(2, 3, 5)
    values[:, 1, 2], values[:, 2, 0], values[0, 0, 1], values[:, 2, 4] = -3.0, 2.0, 9.0, 4.0  # the third: 4.5 on average
    effects = NodeEffects(values, 0)
    assert effects.top(3) == [(0, 1), (1, 2), (2, 0)] and effects.top(2, errors=True) == [(0, 1), (2, 4)]
    assert effects.of([(1, 2), (0, 1)]).tolist() == [-3.0, 4.5] and effects.error.tolist() == [0, 0, 4]
    assert effects.by_feature.tolist() == [2.0, 4.5, -3.0, 0.0, 4.0]
    assert effects.table(2).split("\n")[2].split() == ["2", "error", "+4.000"]


def test_wrong_nodes_and_lengths_are_one_sentence(tiny, sae, pair):
    with pytest.raises(ValueError, match=r"no node \(7, 0\): positions are 0 to 6"):
        patch_nodes(tiny, sae, pair, [(7, 0)])
    with pytest.raises(ValueError, match=r"no node \(0, 51\)"):
        patch_nodes(tiny, sae, pair, [(0, 51)])
    with pytest.raises(ValueError, match="no node to patch"):
        patch_nodes(tiny, sae, pair, [])
    uneven = PromptPairs(as_texts(tiny, ["in", "Taipei 101"]), as_texts(tiny, ["is", "Taipei in"]), log_odds(1, 2))
    for use in (attribute_nodes, node_means):
        with pytest.raises(ValueError, match="one length; these have"):
            use(tiny, sae, uneven)


def test_agreement_prompts_differ_in_the_number_of_their_subject(course_lm):
    both, ids = agreement_runs(course_lm, 6, seed=1), [token_id(course_lm, word) for word in (" is", " are")]
    nouns = {row["singular"]: row["plural"] for row in World.load().rows("nouns")}
    logits = torch.zeros(6, 1, course_lm.cfg.d_vocab)
    logits[..., ids[0]] = 1.0
    assert len(set(both.clean.lengths.tolist())) == 1 and len(set(both.first_difference.tolist())) == 1
    for row, value in enumerate(both.metric(logits).tolist()):
        one, two = (course_lm.tokenizer.decode(side.tokens[row, 1:].tolist()) for side in (both.clean, both.corrupted))
        [(a, b)] = [words for words in zip(one.split(), two.split(), strict=True) if words[0] != words[1]]
        assert " that the " in one and (nouns.get(a) == b or nouns.get(b) == a)
        assert value == (1 if nouns.get(a) == b else -1)  # a singular subject wants "is"
    assert agreement_runs(course_lm, 6, seed=2).clean.tokens.tolist() != both.clean.tokens.tolist()
    with pytest.raises(ValueError, match="not 3 prompts of one length in the group 'future'"):
        agreement_runs(course_lm, 3, "future")


# ------------------------------------------------------------------------------------------------------ faithfulness


def test_what_is_outside_the_circuit_has_its_mean(tiny, sae, pair):
    means, x = node_means(tiny, sae, pair), states(tiny, pair.clean)
    both = torch.cat([x, states(tiny, pair.corrupted)])
    features = sae.encode(both)
    assert torch.allclose(means.features, features.mean(0), atol=1e-5)
    assert torch.allclose(means.error, (both - sae.decode(features)).mean(0), atol=1e-4)
    node = (4, int(features[:3, 4].sum(0).argmax()))
    for circuit in (circuit_of([node], means), FeatureCircuit("feature", torch.arange(50) == node[1], error=True)):
        kept, own = means.features.expand(3, 7, 50).clone(), sae.encode(x)
        places = [4] if circuit.keep.ndim == 2 else list(range(7))
        kept[:, places, node[1]] = own[:, places, node[1]]
        error = x - sae.decode(own) if circuit.error else means.error
        with intervene(tiny, only(sae, means, circuit)):
            assert torch.allclose(states(tiny, pair.clean), sae.decode(kept) + error, atol=1e-4)


def test_all_nodes_are_the_full_model_and_none_the_empty_one(tiny, sae, pair):
    means, every = node_means(tiny, sae, pair), torch.ones(50, dtype=torch.bool)
    circuits = [FeatureCircuit("all", every, True), FeatureCircuit("none", ~every), FeatureCircuit("error", ~every, True)]
    found = measure_circuits(tiny, sae, pair, means, circuits)
    assert torch.allclose(found.values[0], found.full, atol=1e-4) and torch.allclose(found.values[1], found.empty)
    assert torch.allclose(found.faithfulness[:2], torch.tensor([1.0, 0.0]), atol=1e-3) and found.faithfulness[2].abs() > 1e-3
    assert torch.allclose(found.full, metric_at_ends(tiny, pair))
    same = NodeMeans(sae.encode(states(tiny, pair.clean))[0], states(tiny, pair.clean)[0] - sae(states(tiny, pair.clean))[0])
    alone = PromptPairs(pair.clean.take([0]), pair.corrupted.take([0]), log_odds(5, 8))
    with pytest.raises(ValueError, match="not on its way"):
        measure_circuits(tiny, sae, alone, same, circuits)


def test_faithfulness_by_hand():
    circuits = (FeatureCircuit("top", torch.tensor([True, False])), FeatureCircuit("top", torch.tensor([True, True]), True))
    found = Faithfulness(circuits, torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([3.0, 5.0]), torch.tensor([0.0, 0.0]))
    assert found.faithfulness.tolist() == [0.375, 1.125]
    assert found.of("top") == [(1, 0.375)] and found.of("top", error=True) == [(2, 1.125)]
    assert found.intervals[0][0] < 0.375 < found.intervals[0][1] and "kept" in found.table().split("\n")[2]


def test_circuits_of_all_sizes_have_their_controls():
    means = NodeMeans(torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]]), torch.zeros(2, 4))
    values = torch.zeros(1, 2, 4)
    values[0, 0, 1], values[0, 1, 0], values[0, 0, 3] = 5.0, -2.0, 99.0
    made = circuit_sizes(NodeEffects(values, 0), means, sizes=(0, 1, 2))
    top = [circuit for circuit in made if circuit.name == "top" and not circuit.error]
    assert [circuit.n for circuit in top] == [0, 1, 2] and top[1].keep.nonzero().tolist() == [[0, 1]]
    rest = [circuit for circuit in made if circuit.name == "all but the top" and circuit.error]
    assert all(torch.equal(a.keep, ~b.keep) for a, b in zip(rest, top, strict=True))
    drawn = [circuit for circuit in made if circuit.name == "random"]
    assert [circuit.n for circuit in drawn] == [0, 1, 2] * 2 and not (drawn[2].keep & (means.features == 0)).any()


# ------------------------------------------------------------------------------------------------- SHIFT: the texts


def words_of(text: str) -> set[str]:
    return {word.strip(".,?") for word in text.split()}


def test_biographies_have_the_bias_that_was_asked_for():
    biased, balanced, test = biographies(40, True), biographies(40, False), biographies(40, False, "test")
    assert torch.equal(biased.profession, biased.gender) and int(biased.gender.sum()) == 20
    for data in (balanced, test):
        assert all(int((a & b).sum()) == 10 for a in (data.profession, ~data.profession) for b in (data.gender, ~data.gender))
    names = set(World.load().column("firstnames", "name"))
    used = [set().union(*map(words_of, data.texts)) & names for data in (biased, balanced, test)]
    assert used[0] and not (used[0] | used[1]) & used[2]
    for text, second, he in zip(test.texts, test.profession, test.gender, strict=True):
        lower = {word.lower() for word in words_of(text)}
        assert bool(lower & set(HE)) == bool(he) and bool(lower & set(SHE)) != bool(he)
        _, places, tasks, _ = PROFESSIONS["professor" if second else "nurse"]
        assert any(clue in text for clue in (*places, *tasks)) and not lower & set(PROFESSIONS)
    assert biographies(12, True, seed=3) is not None and biographies(12, True, seed=3).texts != biographies(12, True, seed=4).texts
    assert biographies(12, True, seed=3).texts == biographies(12, True, seed=3).texts


def test_without_gender_only_the_clues_are_left():
    data = biographies(32, False, "test")
    for text, blind in zip(data.texts, data.without_gender(), strict=True):
        gone = words_of(text) - words_of(blind)
        assert gone and not {word.lower() for word in words_of(blind)} & {*SHE, *HE}
        assert gone <= {*World.load().column("firstnames", "name"), *SHE, *HE, *(word.capitalize() for word in (*SHE, *HE))}


def test_stories_tell_of_one_gender_and_of_no_profession():
    texts, he = gendered_stories(6)
    assert he.tolist() == [False, True] * 3 and len(texts) == 6
    for text, own in zip(texts, he.tolist(), strict=True):
        words = {word.strip('.,?!"').lower() for word in text.split()}
        assert words & set(HE if own else SHE) and not words & set(SHE if own else HE) and not words & set(PROFESSIONS)


def test_unknown_biographies_are_one_sentence():
    with pytest.raises(ValueError, match="no profession 'wizard'"):
        biographies(4, True, professions=("nurse", "wizard"))
    for n in (0, 6):
        with pytest.raises(ValueError, match=f"multiple of 4, not {n}"):
            biographies(n, False)
    with pytest.raises(ValueError, match="no part 'dev'"):
        biographies(4, True, "dev")


# -------------------------------------------------------------------------------------------- SHIFT: units and judges


def test_means_over_texts_leave_position_0_and_the_filling_out(tiny, sae):
    texts = as_texts(tiny, PROMPTS)
    found = text_means(tiny, PROMPTS, features_of(sae).places, read=features_of(sae).read)
    for row, length in enumerate(texts.lengths.tolist()):
        alone = sae.encode(record(tiny, texts.tokens[row : row + 1, :length], HOOK)[HOOK])[0, 1:].mean(0)
        assert torch.allclose(found[row], alone, atol=1e-4)


@pytest.mark.parametrize("kind", [features_of, neurons_before])
def test_units_are_set_to_0_and_nothing_else_changes(tiny, sae, kind):
    units, texts = kind(sae), as_texts(tiny, PROMPTS)
    before = record(tiny, texts.tokens, HOOK, mlp_post(0))
    chosen = units.read([before[place] for place in units.places])[:, 1:].sum((0, 1)).topk(2).indices.tolist()
    with intervene(tiny, *units.without(chosen, tiny.cfg.d_mlp)):
        after = record(tiny, texts.tokens, HOOK, mlp_post(0))
    values = units.read([before[place] for place in units.places])[..., chosen]
    moved = values @ (sae.W_dec[chosen] if units.sae else tiny.blocks[0].mlp.W_out[chosen])
    moved[:, 0] = 0
    assert moved.abs().max() > 0.1 and torch.allclose(after[HOOK], before[HOOK] - moved, atol=1e-4)
    assert units.without([], tiny.cfg.d_mlp) == []


@pytest.mark.parametrize("kind", [features_of, neurons_before])
def test_the_attribution_of_a_probe_is_what_it_loses(tiny, sae, kind):
    units, rng = kind(sae), torch.Generator().manual_seed(0)
    data = Biographies(tuple(PROMPTS), torch.tensor([True, False, False, True]), torch.tensor([True, False, True, False]))
    probe = Probes(torch.randn(1, 32, generator=rng), torch.tensor([0.3]))
    made, signs = attribute_probe(tiny, sae, units, probe, data), data.profession.float() * 2 - 1
    before = probe.log_odds(text_means(tiny, PROMPTS, [HOOK])[None])[0]
    for unit in made.abs().topk(4).indices.tolist():
        without = text_means(tiny, PROMPTS, [HOOK], *units.without([unit], tiny.cfg.d_mlp))
        lost = (signs * (before - probe.log_odds(without[None])[0])).mean()
        assert made[unit].item() == pytest.approx(lost.item(), rel=1e-2, abs=1e-3)


def test_units_are_judged_by_how_well_they_tell_the_stories_apart():
    he = torch.tensor([True, True, False, False])
    values = torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0], [1.0, 5.0, 1.0], [2.0, 0.0, 0.0]])  # AUC 1, 0.25 and 0.5
    assert judged(values, he).tolist() == [True, True, False] and judged(values, he, margin=0.3).tolist() == [True, False, False]


# ----------------------------------------------------------------------------------------------------------- SHIFT


def test_the_report_counts_by_hand():
    test = Biographies(("",) * 4, torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True]))
    answers = torch.tensor([[False, True, False, True], [False, False, True, False]])
    report = ShiftReport(("follows", "mostly right"), (0, 3), answers, test, {})
    assert report.profession.tolist() == [0.5, 0.75] and report.gender.tolist() == [1.0, 0.25] and report.worst.tolist() == [0.0, 0.0]
    assert report.hits("mostly right").tolist() == [True, True, True, False]
    assert report.table().split("\n")[2].split() == ["mostly", "right", "75.0%", "25.0%", "0.0%", "3"]
    with pytest.raises(ValueError, match="no method 'magic'"):
        report.hits("magic")


def test_a_bias_is_taken_out_with_its_controls(tiny, sae):
    report = shift(tiny, sae, n=16, candidates=8, margin=0.0, seed=1)
    again = shift(tiny, sae, n=16, candidates=8, margin=0.0, seed=1)
    assert torch.equal(report.answers, again.answers) and report.chosen == again.chosen
    sizes = dict(zip(report.methods, report.n, strict=True))
    n = len(report.chosen["features"])
    assert n and sizes["features about gender"] == sizes["as many top features"] == n
    assert sizes["top features, unjudged"] == 8 and sizes["random features"] <= n and sizes["biased probe"] == 0
    assert sizes["neurons about gender + retrain"] == len(report.chosen["neurons"])
    assert report.answers.shape == (15, 16) and "oracle: balanced training" in report.methods
    strict = shift(tiny, sae, n=16, candidates=8, margin=0.5, seed=1)  # nothing is about gender: nothing is taken out
    same = strict.answers[strict.methods.index("features about gender")]
    assert strict.chosen["features"] == () and torch.equal(same, strict.answers[0])
