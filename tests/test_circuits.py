"""Edges and circuits: the sum of the senders is the stream, cut edges carry what they should, and a planted circuit is found."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_models import last_logits, tiny_tokenizer, write_tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.cluster.circuits import (
    EdgeScores,
    attribute_edges,
    curve,
    difference_scores,
    in_top,
    judge,
    prune_dead,
    random_circuit,
    ratio_interval,
)
from helpers.cluster.edges import Circuit, EdgeGraph, circuit_metrics, cut_each, logits_of, open_edges, outputs, sender_means
from helpers.cluster.graph_plots import circuit_graph, places
from helpers.cluster.patching import prompt_pairs
from helpers.interventions import add, intervene, record
from helpers.metrics import log_odds
from helpers.models import load_model
from helpers.texts import Texts

pytestmark = pytest.mark.usefixtures("no_gradients")

FAMILIES = ("gpt2", "neox-serial", "neox-parallel", "llama", "llama-grouped", "qwen2")
PLANTED = {"embed -> a0.0.v", "a0.0 -> a1.0.k", "a1.0 -> logits"}
KINDS, SPOTS, HEAD = 8, 12, 20  # tokens that mean something, positions, width of a head


def run_circuit(model, pairs, circuit, ablation="resample"):
    """The logits after each clean prompt when all edges outside the circuit are cut."""
    return logits_of(model, pairs, [circuit], ablation)[0]


@pytest.fixture(scope="module")
def tiny(load):
    return load("gpt2")


def make_pairs(model, lengths=(7, 5, 7, 6)):
    """Clean and corrupted prompts that differ in two tokens, some of them shorter than others."""
    rng = torch.Generator().manual_seed(1)
    clean = torch.randint(5, 250, (len(lengths), max(lengths)), generator=rng)
    corrupted = clean.clone()
    for column in (torch.full((len(lengths),), 2), torch.tensor(lengths) - 1):
        corrupted[torch.arange(len(lengths)), column] += 1
    sides = [Texts(tokens, torch.tensor(lengths), ("text",) * len(lengths)) for tokens in (clean, corrupted)]
    return prompt_pairs(model, *sides, log_odds(torch.tensor([5, 9, 5, 7][: len(lengths)]), 6))


@pytest.fixture(scope="module")
def pairs(tiny):
    return make_pairs(tiny)


def plant(folder: Path) -> Path:
    """A GPT-2 without MLPs in which one head copies the previous token, another looks for it, and nothing else reaches the logits.

    The stream has a place for the token, for the position, for the previous token, and for the answer.
    """
    tokenizer = tiny_tokenizer()
    token, spot, previous, answer = 0, KINDS, KINDS + SPOTS, 2 * KINDS + SPOTS
    width = 2 * HEAD
    one = torch.eye(KINDS)
    shape = dict(vocab_size=len(tokenizer), n_positions=SPOTS, n_embd=width, n_layer=2, n_head=2, n_inner=4, tie_word_embeddings=False)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[1 : KINDS + 1, token : token + KINDS] = one
        model.transformer.wpe.weight[:, spot : spot + SPOTS] = torch.eye(SPOTS)
        first, second = (block.attn for block in model.transformer.h)
        query, key, value = 0, width, 2 * width
        first.c_attn.weight[spot + 1 : spot + SPOTS, query : query + SPOTS - 1] = 4 * torch.eye(SPOTS - 1)  # the position before this one
        first.c_attn.weight[spot : spot + SPOTS, key : key + SPOTS] = torch.eye(SPOTS)
        first.c_attn.weight[token : token + KINDS, value : value + KINDS] = one
        first.c_proj.weight[:KINDS, previous : previous + KINDS] = 0.1 * one
        second.c_attn.weight[token : token + KINDS, query : query + KINDS] = 2 * one
        second.c_attn.weight[previous : previous + KINDS, key : key + KINDS] = one
        second.c_attn.weight[token : token + KINDS, value : value + KINDS] = one
        second.c_proj.weight[:KINDS, answer : answer + KINDS] = one
        model.lm_head.weight[1 : KINDS + 1, answer : answer + KINDS] = 2 * one
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The model with the circuit, and prompts ``. a b c d a`` that go on with ``b``, beside ``. c b a d a`` that go on with ``d``."""
    model = load_model(plant(tmp_path_factory.mktemp("planted")))
    rng = torch.Generator().manual_seed(3)
    rows = [torch.randperm(KINDS, generator=rng)[:5] + 1 for _ in range(6)]
    clean = torch.stack([torch.stack([s, a, b, c, d, a]) for s, a, b, c, d in rows])
    corrupted = torch.stack([torch.stack([s, c, b, a, d, a]) for s, a, b, c, d in rows])
    b, d = clean[:, 2], clean[:, 4]
    assert (model(clean)[:, -1].argmax(-1) == b).all() and (model(corrupted)[:, -1].argmax(-1) == d).all()
    return model, prompt_pairs(model, clean, corrupted, log_odds(b, d))


def test_a_planted_circuit_is_found_by_estimates(planted):
    model, pairs = planted
    for scores in (attribute_edges(model, pairs), attribute_edges(model, pairs, steps=5)):
        assert set(scores.top(3).names) == PLANTED == set(scores.greedy(3).names)
        assert (scores.values[scores.top(3).kept] < 0).all()  # without them the answer suffers
        assert scores.values[~scores.top(3).kept].abs().max() < 0.2 * scores.values[scores.top(3).kept].abs().min()


def test_edges_are_named_and_counted():
    assert len(EdgeGraph(12, 4, 4, False)) == 4555
    one = EdgeGraph(1, 1, 1, False)
    heads = ["embed -> a0.0.q", "embed -> a0.0.k", "embed -> a0.0.v"]
    assert list(one.edges) == [*heads, "embed -> m0", "a0.0 -> m0", "embed -> logits", "a0.0 -> logits", "m0 -> logits"]
    assert set(one.edges) - set(EdgeGraph(1, 1, 1, True).edges) == {"a0.0 -> m0"}
    shared = EdgeGraph(1, 4, 2, False)
    assert [name for name in shared.receivers if name.endswith("k")] == ["a0.0.k", "a0.1.k"]
    assert [shared.senders[shared.owners(name)] for name in ("a0.3.q", "a0.1.k", "m0")] == [("a0.3",), ("a0.2", "a0.3"), ("m0",)]
    hangs = [name for name, row in zip(shared.receivers, shared.hangs, strict=True) if row[4]]
    assert hangs == ["a0.3.q", "a0.1.k", "a0.1.v"] and not shared.hangs[:, 0].any()
    circuit = one.circuit(["embed -> a0.0.k", "m0 -> logits"])
    assert len(circuit) == 2 and circuit.share == 2 / 8 and set(circuit.complement.names) == set(one.edges) - set(circuit.names)


@pytest.mark.parametrize("family", FAMILIES)
def test_senders_and_biases_sum_to_what_each_receiver_reads(load, family):
    model = load(family)
    graph, tokens = EdgeGraph.of(model), torch.randint(5, 250, (2, 6), generator=torch.Generator().manual_seed(0))
    written, places = outputs(model, tokens), graph.places()[1]
    with open_edges(model):
        read = record(model, tokens, *(name for name, _ in places))
    for name, which in places:
        for number in range(which.start, which.stop):
            receiver = graph.receivers[number]
            before = graph.layer(receiver) + (receiver.startswith("m") and not graph.parallel)
            biases = [bias for block in model.blocks[:before] if (bias := getattr(block.attn, "b_O", None)) is not None]
            own = read[name] if read[name].ndim == 3 else read[name][:, :, number - which.start]
            assert torch.allclose(written[: graph.seen[number]].sum(0) + sum(biases), own, atol=1e-4), receiver


@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_are_the_model_and_none_the_corrupted_run(load, family):
    model = load(family)
    pairs, graph = make_pairs(model), EdgeGraph.of(model)
    clean, corrupted = last_logits(model, pairs.clean), last_logits(model, pairs.corrupted)
    assert not torch.allclose(clean, corrupted, atol=1e-2)
    assert torch.allclose(run_circuit(model, pairs, graph.empty), corrupted, atol=1e-4)
    for ablation in ("resample", "mean", "zero"):
        assert torch.allclose(run_circuit(model, pairs, graph.full, ablation), clean, atol=1e-4), ablation


def test_the_model_is_as_before_even_after_an_error(tiny, pairs):
    before = tiny(pairs.clean.tokens)
    with pytest.raises(KeyError), open_edges(tiny):
        raise KeyError
    assert torch.equal(before, tiny(pairs.clean.tokens))
    assert not (tiny.cfg.use_split_qkv_input or tiny.cfg.use_hook_mlp_in or tiny.cfg.use_attn_result)


@pytest.mark.parametrize("edge, hook, head", [("a0.2 -> a1.1.q", "blocks.1.hook_q_input", 1), ("a0.2 -> m1", "blocks.1.hook_mlp_in", None)])
def test_path_patching_is_the_patch_by_hand(tiny, pairs, edge, hook, head):
    place = "blocks.0.attn.hook_result"
    with open_edges(tiny):
        corrupted, clean = (record(tiny, side.tokens, place)[place][:, :, 2:3] for side in (pairs.corrupted, pairs.clean))
        change = add(hook, (corrupted - clean)[:, :, 0]) if head is None else add(hook, corrupted - clean, head=head)
        with intervene(tiny, change):
            by_hand = last_logits(tiny, pairs.clean)
    change = cut_each(tiny, pairs, [edge, "embed -> m0"])
    expected = pairs.measured(by_hand) - pairs.measured(last_logits(tiny, pairs.clean))
    assert torch.allclose(change[0], expected, atol=1e-4) and expected.abs().max() > 1e-3


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_what_enters_a_node_is_of_no_account_when_all_that_leaves_it_is_cut(tiny, pairs, ablation):
    graph = EdgeGraph.of(tiny)
    leaving = graph.circuit([name for name in graph.edges if name.startswith("m0 ->")]).kept
    entering = graph.circuit(["embed -> m0", "a0.1 -> m0"]).kept
    alone, together, inward = (run_circuit(tiny, pairs, Circuit(graph, ~cut), ablation) for cut in (leaving, leaving | entering, entering))
    assert torch.allclose(alone, together, atol=1e-4)  # the current output is taken away, not the clean one
    assert not torch.allclose(alone, inward, atol=1e-2)


def test_zero_ablation_of_everything_leaves_the_biases(tiny, pairs):
    alone = tiny.unembed(tiny.ln_final(sum(block.attn.b_O for block in tiny.blocks).expand(4, 1, -1)))[:, 0]
    assert torch.allclose(run_circuit(tiny, pairs, EdgeGraph.of(tiny).empty, "zero"), alone, atol=1e-4)


def test_means_are_taken_over_the_prompts_that_reach_a_position(tiny, pairs):
    written, means = outputs(tiny, pairs.corrupted.tokens), sender_means(tiny, pairs.corrupted)
    assert torch.allclose(means[:, :5], written[:, :, :5].mean(1), atol=1e-5)
    assert torch.allclose(means[:, 5], written[:, [0, 2, 3], 5].mean(1), atol=1e-5)  # the second prompt has 5 tokens
    circuit = random_circuit(EdgeGraph.of(tiny), 60)
    asked, *others = (circuit_metrics(tiny, pairs, [circuit], kind) for kind in ("mean", "resample", "zero"))
    assert all(not torch.allclose(asked, other, atol=1e-2) for other in others)


@pytest.mark.parametrize("family", ["gpt2", "llama-grouped"])
def test_circuits_in_batches_are_those_alone(load, family, monkeypatch):
    model = load(family)
    pairs, graph = make_pairs(model), EdgeGraph.of(model)
    circuits = [random_circuit(graph, 40, seed) for seed in range(5)]
    together, estimates = circuit_metrics(model, pairs, circuits), attribute_edges(model, pairs, steps=2).values
    monkeypatch.setattr("helpers.cluster.edges.RUN_TOKENS", 7)
    apart = circuit_metrics(model, pairs, circuits)
    assert torch.allclose(together, apart, atol=1e-4) and together.std(0).min() > 1e-3
    assert torch.allclose(attribute_edges(model, pairs, steps=2).values, estimates, atol=1e-4)
    assert torch.allclose(pairs.measured(run_circuit(model, pairs, circuits[1])), together[1], atol=1e-4)


def test_estimates_are_exact_for_small_differences(tmp_path):
    folder = write_tiny_model("gpt2", tmp_path)
    near = GPT2LMHeadModel.from_pretrained(folder)
    near.transformer.wte.weight[9] = near.transformer.wte.weight[8] + 0.03 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    near.save_pretrained(folder)
    model = load_model(folder)
    clean = torch.randint(10, 250, (3, 6), generator=torch.Generator().manual_seed(1))
    clean[:, [3, 5]] = 8
    pairs = prompt_pairs(model, clean, torch.where(clean == 8, 9, clean), log_odds(torch.tensor([20, 21, 22]), 30))
    graph = EdgeGraph.of(model)
    estimates, measured = attribute_edges(model, pairs).values, cut_each(model, pairs, graph.edges).mean(1)
    assert torch.corrcoef(torch.stack([estimates, measured]))[0, 1] > 0.99
    assert (estimates - measured).abs().max() < 0.05 * measured.abs().max()


def test_integrated_gradients_share_out_the_whole_difference(tiny, pairs):
    """Every way from prompt to metric begins at the embedding, so the integral over its edges is the change of the metric."""
    gap = (pairs.measured(last_logits(tiny, pairs.corrupted)) - pairs.measured(last_logits(tiny, pairs.clean))).mean()
    first = EdgeGraph.of(tiny).exists.nonzero()[:, 1] == 0
    fine, coarse = (attribute_edges(tiny, pairs, steps).values[first].sum() for steps in (60, 0))
    assert fine == pytest.approx(gap.item(), rel=0.02, abs=0.01) and abs(coarse - gap) > 10 * abs(fine - gap)


def test_circuits_are_cut_from_scores():
    graph = EdgeGraph(2, 1, 1, False)
    values = torch.zeros(len(graph))
    for name, value in {"embed -> a0.0.q": 9, "m1 -> logits": -1, "a0.0 -> m1": 2, "embed -> a0.0.v": -3, "m0 -> a1.0.k": 5}.items():
        values[graph.numbers[name]] = value
    scores = EdgeScores(graph, values)
    assert set(scores.top(2).names) == {"embed -> a0.0.q", "m0 -> a1.0.k"}
    assert set(scores.greedy(4).names) == {"m1 -> logits", "a0.0 -> m1", "embed -> a0.0.q", "embed -> a0.0.v"}
    assert len(scores.top(0)) == len(scores.greedy(0)) == 0 and len(scores.greedy(len(graph))) == len(graph)
    assert scores.table(1).splitlines()[1].split() == ["embed", "->", "a0.0.q", "+9.0000"]


def test_dead_edges_are_pruned_and_change_nothing(tiny, pairs):
    graph = EdgeGraph(2, 1, 1, False)
    alive = ["embed -> a0.0.q", "a0.0 -> m1", "m1 -> logits"]
    dead = ["m0 -> logits", "embed -> a1.0.v", "a0.0 -> a1.0.k", "a1.0 -> m1"]  # nothing enters m0; a1.0 is on a path by its key
    pruned = prune_dead(graph.circuit(alive + dead))
    assert set(pruned.names) == {*alive, *dead} - {"m0 -> logits"}
    assert set(prune_dead(graph.circuit([*alive, *dead[:3]])).names) == set(alive)
    assert len(prune_dead(graph.full)) == len(graph) and not len(prune_dead(graph.empty))
    drawn = random_circuit(EdgeGraph.of(tiny), 55)
    assert len(prune_dead(drawn)) < 55 == len(drawn)
    assert torch.equal(drawn.kept, random_circuit(drawn.graph, 55).kept) and (drawn.kept != random_circuit(drawn.graph, 55, 1).kept).any()
    assert torch.allclose(*(run_circuit(tiny, pairs, circuit) for circuit in (drawn, prune_dead(drawn))), atol=1e-4)


def test_faithfulness_runs_from_the_empty_circuit_to_the_model(tiny, pairs):
    graph = EdgeGraph.of(tiny)
    for ablation in ("resample", "mean", "zero"):
        ends = judge(tiny, pairs, [graph.empty, graph.full], ablation)
        assert ends.faithfulness.tolist() == pytest.approx([0, 1], abs=1e-4) and ends.ablation == ablation
        assert ends.same[1].all()
    half = random_circuit(graph, 55, 3)
    value = judge(tiny, pairs, [half])
    logits = run_circuit(tiny, pairs, half), last_logits(tiny, pairs.clean), last_logits(tiny, pairs.corrupted)
    circuit, clean, corrupted = (pairs.measured(one).mean() for one in logits)
    assert value.faithfulness[0] == pytest.approx(((circuit - corrupted) / (clean - corrupted)).item(), abs=1e-3)
    assert torch.equal(value.same[0], logits[0].argmax(-1) == logits[1].argmax(-1))
    assert value.intervals[0][0] <= value.faithfulness[0] <= value.intervals[0][1]


def test_a_curve_is_read_off(planted):
    model, pairs = planted
    graph, scores = EdgeGraph.of(model), attribute_edges(model, pairs)
    found = curve(model, pairs, scores.top, [1, 3, 10])
    assert found.faithfulness[1:].tolist() == pytest.approx([1, 1], abs=0.02) and abs(found.faithfulness[0]) < 0.01
    assert found.edges == (1, 3, 10) and found.alive[:2] == (0, 3)
    lines = found.table().splitlines()
    assert lines[2].split()[:4] == ["3", "3", f"{3 / len(graph):.1%}", f"{found.same[1].float().mean():.0%}"] and "(resample)" in lines[0]
    chance = curve(model, pairs, partial(random_circuit, graph), [3])
    assert chance.faithfulness[0] < 0.1


def test_the_rival_without_a_gradient_ranks_senders_by_their_difference(tiny, pairs):
    scores, graph = difference_scores(tiny, pairs), EdgeGraph.of(tiny)
    clean, corrupted = (outputs(tiny, side.tokens) for side in (pairs.clean, pairs.corrupted))
    size = (corrupted - clean).norm(dim=-1).sum(-1).mean(1)
    for edge in ("embed -> m0", "m0 -> logits", "m0 -> m1"):
        sender = graph.senders.index(edge.split(" -> ")[0])
        assert scores.values[graph.numbers[edge]].item() == pytest.approx(size[sender].item())


def test_the_interval_of_a_ratio_is_that_of_both_means_together():
    under = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert ratio_interval(0.5 * under, under) == pytest.approx((0.5, 0.5))
    low, high = ratio_interval(torch.tensor([0.0, 1.0] * 50), torch.ones(100))
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_hits_among_the_best_are_counted(tiny, pairs):
    logits = torch.tensor([[[9.0, 3.0, 2.0, 1.0]], [[0.0, 3.0, 3.0, 1.0]]])
    assert in_top(torch.tensor([2, 2]), k=2)(logits).tolist() == [0, 1]
    best = last_logits(tiny, pairs.clean).argmax(-1)
    graph = EdgeGraph.of(tiny)
    assert circuit_metrics(tiny, pairs, [graph.full], metric=in_top(best, 1)).tolist() == [[1, 1, 1, 1]]


def test_no_box_of_a_drawing_lies_on_another():
    graph = EdgeGraph(12, 4, 4, False)
    circuit = random_circuit(graph, 40, 2)
    at = places([(*name.split(" -> "), 1.0) for name in circuit.names])
    spots = sorted(at.values(), key=lambda spot: (spot[1], spot[0]))
    assert all(a[1] != b[1] or b[0] - a[0] > 0.99 for a, b in pairwise(spots))
    assert min(x for x, _ in spots) == 0


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m, b, g: g.circuit(["a1.0 -> a0.0.q"]), "There is no edge 'a1.0 -> a0.0.q'"),
        (lambda m, b, g: random_circuit(g, 1000), "cannot have 1,000 of them"),
        (lambda m, b, g: EdgeScores(g, torch.zeros(len(g))).top(-1), "cannot have -1 of them"),
        (lambda m, b, g: run_circuit(m, b, g.full, "noise"), "no ablation 'noise'"),
        (lambda m, b, g: run_circuit(m, b, EdgeGraph(1, 1, 1, False).full), "a model of another shape"),
        (lambda m, b, g: circuit_metrics(m, b, []), "There is no circuit to run"),
        (lambda m, b, g: attribute_edges(m, replace(b, metric=in_top(torch.zeros(4, dtype=torch.long)))), "no gradient"),
        (lambda m, b, g: judge(m, replace(b, metric=lambda x: x[:, -1, 0] * 0), [g.full]), "nothing that a circuit could keep"),
        (lambda m, b, g: circuit_graph(g.empty), "no edge to draw"),
        (lambda m, b, g: circuit_graph(g.full, torch.zeros(3)), "there are 110 edges and 3 scores"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tiny, pairs, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(tiny, pairs, EdgeGraph.of(tiny))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_family_with_other_sums_is_refused(load):
    with pytest.raises(ValueError, match="Edges cannot be cut in this model"):
        EdgeGraph.of(load("gemma2"))
