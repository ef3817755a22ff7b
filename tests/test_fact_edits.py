"""Facts in feed-forward layers: scores that add up, weights that come back, a planted memory edited by hand, ROME's two promises."""

from dataclasses import replace

import pytest
import torch
from tiny_models import token, write_word_model
from widget_tools import HOME, JOHN, TELL, TOWNS, WIVES, small_world
from widget_tools import WORLD as FACTS

from helpers.course_lm.facts import Fact
from helpers.interventions import clamp, intervene, mlp_out, mlp_post, record, set_to
from helpers.metrics import first_tokens
from helpers.models import load_model
from helpers.running import next_tokens, perplexity
from helpers.speak import fact_edits, knowledge_neurons, rome, world_facts
from helpers.speak.fact_edits import (
    CHANGED,
    GROUPS,
    Choice,
    Edit,
    EditScores,
    Update,
    apply_edit,
    dose_curves,
    edit_prompts,
    edit_values,
    edited,
    hits_together,
    judge_edits,
    try_edit,
    value_edit,
)
from helpers.speak.knowledge_neurons import KnowledgeNeurons, Scaled, integrated_gradients, knowledge_neurons_of, scale_neurons
from helpers.speak.memories import value_vectors
from helpers.speak.rome import edit_rank_one, rank_one, second_moment
from helpers.speak.world_facts import CHOSEN, REPORTED, find_fact, known_facts, new_answer, new_token, paraphrases
from helpers.stats import bootstrap_interval
from helpers.texts import Texts, as_texts

__all__ = ["small_world"]  # a fixture: eight facts, and held-out texts that the tiny tokenizer can read

FRAME = ("The", "In", "the", "home", "of", "is", "lives", "in", "song", "sings", "people", "say", "from", "loves", "wife", "People")
UNIT, LAYER = 7, 2
NOTHING = Update(1, torch.tensor([0]), torch.zeros(1, 32))
WORLD = world_facts.world_facts  # the function itself, which the small world replaces


def write_words(folder):
    """A random GPT-2 of three layers with ReLU neurons and a token for each word."""
    words = [*FRAME, *TOWNS, *TOWNS.values(), *WIVES.values()]
    return load_model(write_word_model(folder, words, n_embd=32, n_layer=3, n_head=2, n_positions=24, activation_function="relu"))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A random model of three layers that reads whole words."""
    return write_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The same with one memory: neuron ``UNIT`` of layer ``LAYER`` is active where John's home is asked for, and says London."""
    model = write_words(tmp_path_factory.mktemp("planted"))
    place = f"blocks.{LAYER}.mlp.hook_in"
    prompts = [prompt for fact in FACTS for prompt in told(fact)]
    texts = as_texts(model, prompts)
    with torch.no_grad():
        inside = record(model, texts.tokens, place)[place][torch.arange(len(texts)), texts.lengths - 1]
        wanted = (torch.arange(len(texts)) < 4).float() * 2 - 1  # +1 after prompts about the fact, -1 after all others
        key = torch.linalg.lstsq(torch.cat([inside, torch.ones(len(texts), 1)], 1), wanted[:, None]).solution[:, 0]
        inner = model.blocks[LAYER].mlp.get_submodule("in").original_component
        inner.weight[:, UNIT], inner.bias[UNIT] = key[:-1], key[-1]
        value_vectors(model, LAYER)[UNIT] = 100 * model.W_U[:, token(model, "London")]
    return model


@pytest.fixture(params=["gpt2", "neox-parallel", "llama-grouped", "qwen2"])
def tiny(request, load):
    return load(request.param)


def told(fact):
    """All prompts of a fact, those that are used first."""
    used, held = paraphrases(fact)
    return [*used, *held]


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(model, before):
    return all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def asked(model, prompts, words):
    """Prompts, and the first tokens of words after them."""
    return as_texts(model, prompts), first_tokens(model, prompts, words)


def knowledge(model, fact, **options):
    return knowledge_neurons_of(model, [fact], **options)[0]


# ---------------------------------------------------------------------------------------------------------------- facts


def test_paraphrases_take_turns_and_end_before_the_answer():
    used, held = paraphrases(JOHN)
    assert used == ["The home of John is", "In the song John sings of"] and held == ["John lives in", "People say John is from"]
    many = replace(HOME, statements=tuple(f"{at} {{s}} is {{o}}" for at in range(20)))
    assert [len(side) for side in paraphrases(replace(JOHN, relation=many))] == [4, 4]
    article = replace(HOME, statements=("{s} is a {o}", "{s} likes {o}", "{s} has {o}"))  # one that tells is left out
    assert paraphrases(replace(JOHN, relation=article)) == (["John likes"], ["John has"])


def test_world_facts_have_one_answer_and_two_prompts():
    real = WORLD()
    assert len({(fact.relation.name, fact.subject) for fact in real}) == len(real) > 1000
    assert all(len(paraphrases(fact)[1]) >= 1 and fact.object.lower() not in fact.subject.lower() for fact in real[::40])


def test_known_facts_are_known_and_no_subject_is_in_both_parts(planted):
    whole = []
    for fact in FACTS:
        texts, answers = asked(planted, told(fact), [fact.object] * len(told(fact)))
        whole += [fact] * bool((next_tokens(planted, texts) == answers).all())
    assert JOHN in whole
    part = REPORTED if any(fact in world_facts._draw(REPORTED, 0) for fact in (JOHN, FACTS[4])) else CHOSEN
    found = next(known_facts(planted, 1, part, seed) for seed in range(9) if JOHN in world_facts._draw(part, seed))
    assert all(fact in whole for fact in found)
    parts = [{fact.subject for seed in range(5) for fact in world_facts._draw(part, seed)} for part in (REPORTED, CHOSEN)]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == set(TOWNS)


def test_a_new_answer_is_another_one_of_the_relation(words):
    drawn = {new_answer(words, JOHN, seed) for seed in range(30)}
    assert drawn == {"Liverpool", "Bath", "Tacoma"} and new_answer(words, JOHN, 3) == new_answer(words, JOHN, 3)
    assert new_token(words, JOHN, "Bath") == token(words, "Bath")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda model: find_fact("home", "Jon"), "has no subject 'Jon': perhaps John"),
        (lambda model: find_fact("house", "John"), "no relation 'house' to edit; there are: home, wife"),
        (lambda model: new_token(model, JOHN, " "), "The new answer is empty"),
        (lambda model: new_token(model, JOHN, "Berlin"), "no token for 'Berlin'"),
        (lambda model: new_token(model, JOHN, "London"), "same token as the old answer 'London'"),
        (lambda model: paraphrases(replace(JOHN, relation=replace(HOME, statements=TELL[:1]))), "fewer than two sentences"),
        (lambda model: known_facts(model, 0), "Ask for 1 fact or more"),
        (lambda model: known_facts(model, 1, part=2), "Ask for 1 fact or more"),
        (lambda model: known_facts(model, 9), "how many known facts to draw: this model knows"),
        (lambda model: knowledge_neurons_of(model, []), "There is no fact"),
        (lambda model: knowledge(model, JOHN, layers=[9]), "no layer 9"),
        (lambda model: knowledge(model, JOHN, steps=0), "it must be 1 or more, not 0"),
        (lambda model: value_edit(model, [], 1, 2), "no neuron whose value could be edited"),
        (lambda model: value_edit(model, [(0, 999)], 1, 2), "no neuron 999 in layer 0"),
        (lambda model: value_vectors(model, 5), "no layer 5"),
        (lambda model: edit_prompts(model, [JOHN], start=3), "no layer 3"),
        (lambda model: knowledge(model, JOHN).control([(2, 0)], "other"), "no control 'other'; choose one of: equally active, any"),
        (lambda model: try_edit(model, edit_prompts(model, [JOHN])[0], knowledge(model, JOHN), "Bath", n=0), "1 neuron or more"),
        (lambda model: try_edit(model, edit_prompts(model, [JOHN])[0], knowledge(model, JOHN), "Rome"), "no token for 'Rome'"),
        (lambda model: judge_edits(model, edit_prompts(model, [JOHN]), [[NOTHING]]), r"in layer 1: edit_prompts\(start=1\)"),
        (lambda model: SCALED.change("third"), "no condition 'third'; choose one of: half"),
        (lambda model: one_edit((True,), ("edited",)).share("others"), "no group 'others'; choose one of: edited"),
        (lambda model: rank_one(torch.zeros(6), torch.ones(4), torch.eye(6)), "has no key to write to"),
        (lambda model: found_by_hand().control([(0, 0), (0, 1), (0, 3)]), "no further active neuron"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(words, wrong, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        wrong(words)
    assert "\n" not in str(caught.value)


def test_other_models_are_refused_in_a_sentence(load):
    with pytest.raises(ValueError, match="no token for 'Zanzibar'"):
        new_token(load("gpt2"), Fact(HOME, "Taipei", "Paris", {}), "Zanzibar")
    with pytest.raises(ValueError, match="so a value vector has no length of its own"), edited(load("gemma2"), [NOTHING]):
        pass


# ------------------------------------------------------------------------------------------------------- finding neurons


def test_scores_of_a_layer_add_up_to_what_its_neurons_do(tiny):
    texts, answers = asked(tiny, ["The Eiffel Tower is in", "The Bridge is in", "The Golden Gate Bridge is in"], ["Paris", "Paris", "San"])
    scores, active = integrated_gradients(tiny, texts, answers, range(2), steps=400)
    for row in range(3):
        tokens = texts.take([row]).tokens
        with torch.no_grad():
            whole = tiny(tokens)[0, -1].softmax(-1)[answers[row]]
            for layer in range(2):
                with intervene(tiny, clamp(mlp_post(layer), 0.0, pos=-1)):
                    without = tiny(tokens)[0, -1].softmax(-1)[answers[row]]
                own = scores[row, layer]
                assert own.sum() == pytest.approx((whole - without).item(), abs=0.02 * own.abs().sum().item() + 1e-6)
                assert torch.allclose(active[row, layer], record(tiny, tokens, mlp_post(layer))[mlp_post(layer)][0, -1], atol=1e-4)
        assert scores[row].abs().sum() > 1e-4


def test_scores_are_gradients_along_the_path_by_hand(words):
    texts, answers = asked(words, ["The home of John is"], ["London"])
    scores, _ = integrated_gradients(words, texts, answers, [1], steps=3)
    here = record(words, texts.tokens, mlp_post(1))[mlp_post(1)][:, -1].detach()
    slopes = []
    for share in (1 / 3, 2 / 3, 1):
        point = (share * here).requires_grad_()
        with torch.enable_grad(), intervene(words, set_to(mlp_post(1), point[:, None], pos=-1)):
            probability = words(texts.tokens)[0, -1].softmax(-1)[answers[0]]
            slopes.append(torch.autograd.grad(probability, point)[0])
    assert torch.allclose(scores[0, 1], (here * sum(slopes) / 3)[0], atol=1e-7) and scores[0, 1].abs().max() > 1e-5
    assert not scores[0, [0, 2]].any()


def test_many_facts_together_are_the_same_as_each_alone(words, monkeypatch):
    monkeypatch.setattr(knowledge_neurons, "PATH_ROWS", 7)
    together = knowledge_neurons_of(words, FACTS[2:6], layers=[1, 2], steps=4)
    for fact, found in zip(FACTS[2:6], together, strict=True):
        alone = knowledge(words, fact, layers=[1, 2], steps=4)
        assert found.fact is fact and torch.allclose(found.scores, alone.scores, atol=1e-6) and found.scores.any()


def found_by_hand():
    """Two layers of four neurons in three paraphrases."""
    scores, active = torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)
    scores[:, 0, 0], scores[:, 1, 1], scores[:, 1, 2] = torch.tensor([1.0, 1, 1]), torch.tensor([0.3, 0.3, 0.1]), torch.tensor([0, 0, 1.0])
    scores[:, 0, 3] = -5
    active[:, 0], active[:, 1] = torch.tensor([2.0, 1.9, 0.0, 0.1]), torch.tensor([0.0, 1.0, 3.0, 1.2])
    return KnowledgeNeurons(JOHN, scores, active)


def test_the_rule_of_the_paper_and_the_best_n():
    found = found_by_hand()
    assert found.top(3) == [(0, 0), (1, 2), (1, 1)] and found.top(99) == found.top(3)
    assert found.shared() == [(0, 0)] and found.shared(share=0.6) == [(0, 0), (1, 1)]
    assert found.shared(threshold=0.05) == [(0, 0), (1, 1)] and "L0 N0       +1e+00        2.00" in found.table()


def test_neurons_of_some_layers_only():
    found = found_by_hand()
    assert found.within([1]).top(99) == [(1, 2), (1, 1)] and found.within([0, 1]).top(99) == found.top(99)
    assert torch.equal(found.within([1]).active, found.active)


def test_controls_are_other_neurons_of_the_layer_and_about_as_active(monkeypatch):
    monkeypatch.setattr(knowledge_neurons, "NEAREST", 1)
    found = found_by_hand()
    assert found.control([(0, 0), (1, 1)]) == [(0, 1), (1, 3)]
    for seed in range(20):
        drawn = found.control([(0, 0), (0, 3)], "any", seed)
        assert sorted(drawn) == [(0, 1), (0, 2)]


def test_the_planted_neuron_is_found(planted):
    found = knowledge(planted, JOHN)
    assert found.top(1) == [(LAYER, UNIT)] and (LAYER, UNIT) in found.shared()
    assert found.scores[:, LAYER, UNIT].min() > 0.5 and found.active[:, LAYER, UNIT].mean() == pytest.approx(1, abs=0.01)


# ------------------------------------------------------------------------------------------------------- turned off and up


def test_scaling_is_the_same_as_by_hand(planted):
    found = knowledge_neurons_of(planted, FACTS)
    scaled = scale_neurons(planted, found, n=3)
    assert scaled.names == ("suppressed", "amplified", "suppressed, control", "amplified, control")
    row = 0
    for fact, one in zip(FACTS, found, strict=True):
        for prompt in told(fact):
            tokens, place, units = as_texts(planted, [prompt]).tokens, mlp_post(LAYER), [unit for _, unit in one.top(3)]
            usual = record(planted, tokens, place)[place][:, -1:, units]
            for at, factor in enumerate((0.0, 2.0)):
                with torch.no_grad(), intervene(planted, set_to(place, factor * usual, units=units, pos=-1)):
                    by_hand = planted(tokens)[0, -1].softmax(-1)[token(planted, fact.object)]
                assert scaled.after[at, row] == pytest.approx(by_hand.item(), abs=1e-5)
            with torch.no_grad():
                assert scaled.before[row] == pytest.approx(planted(tokens)[0, -1].softmax(-1)[token(planted, fact.object)].item(), abs=1e-5)
            row += 1
    assert row == len(scaled.before) and scaled.change("suppressed")[0] < -0.5 < scaled.change("suppressed, control")[0]


BEFORE, AFTER = torch.tensor([0.5, 0.4, 0.2, 0.5]), torch.tensor([[0.25, 0.4, 0.1, 0.75]])
SCALED = Scaled(("half",), BEFORE, AFTER, torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, False, True]))


def test_changes_are_averaged_fact_by_fact():
    assert SCALED.change("half").tolist() == pytest.approx([-0.25, 0.5])
    assert SCALED.log_odds("half")[1].item() == pytest.approx(torch.logit(torch.tensor(0.75)).item(), abs=1e-4)
    both = replace(SCALED, used=torch.tensor([True, False, False, True]), fact=torch.tensor([0, 0, 1, 1]))
    assert both.change("half", used=False).tolist() == pytest.approx([0.0, -0.5]) and "half" in both.table()


# --------------------------------------------------------------------------------------------------- changing the weights


def test_weights_come_back_to_the_last_bit_even_after_an_error(tiny):
    before, tokens = weights_of(tiny), torch.tensor([[0, 5, 6, 7]])
    updates = [
        Update(0, torch.tensor([1, 3]), torch.randn(2, tiny.cfg.d_model)),
        Update(0, torch.tensor([3]), torch.full((1, tiny.cfg.d_model), 0.1)),  # the same neuron twice
        Update(1, torch.arange(tiny.cfg.d_mlp), torch.randn(tiny.cfg.d_mlp, tiny.cfg.d_model)),
    ]
    with torch.no_grad():
        logits = tiny(tokens)
        with edited(tiny, updates):
            assert not same(tiny, before) and not torch.equal(tiny(tokens), logits)
        assert same(tiny, before) and torch.equal(tiny(tokens), logits)
        with pytest.raises(KeyError), edited(tiny, updates):
            raise KeyError
        with pytest.raises((IndexError, RuntimeError)), edited(tiny, [*updates, Update(0, torch.tensor([9999]), torch.zeros(1, 32))]):
            pass
    assert same(tiny, before)


def test_an_update_adds_activation_times_change(tiny):
    tokens, change = torch.tensor([[0, 5, 6, 7]]), torch.randn(2, tiny.cfg.d_model)
    with torch.no_grad():
        before = record(tiny, tokens, mlp_post(1), mlp_out(1))
        with edited(tiny, [Update(1, torch.tensor([4, 9]), change)]):
            after = record(tiny, tokens, mlp_out(1))[mlp_out(1)]
        assert torch.allclose(after - before[mlp_out(1)], before[mlp_post(1)][..., [4, 9]] @ change, atol=1e-5)


def test_a_value_edit_by_hand(words):
    old, new = token(words, "London"), token(words, "Bath")
    first, second = value_edit(words, [(2, 5), (0, 1), (2, 3)], old, new, plus=8.0)
    assert (first.layer, first.units.tolist(), second.layer, second.units.tolist()) == (0, [1], 2, [3, 5])
    away, to = words.W_U[:, old] / words.W_U[:, old].norm(), words.W_U[:, new] / words.W_U[:, new].norm()
    values = words.blocks[2].mlp.W_out[[3, 5]]
    assert torch.allclose(second.change, torch.stack([8 * value.norm() * (to - away) for value in values]), atol=1e-5)


def test_the_planted_memory_takes_a_new_answer_and_gives_the_old_one_back(planted):
    before, found = weights_of(planted), knowledge(planted, JOHN)
    probes = edit_prompts(planted, [JOHN])[0]
    edit = try_edit(planted, probes, found, "Bath", n=1, plus=2.0)
    assert edit.share("edited") == edit.share("paraphrases") == 1 and edit.new == "Bath"
    for group, old, new in zip(edit.groups, edit.before, edit.after, strict=True):
        assert (old.strip(), new.strip()) == ("London", "Bath") if group in CHANGED else old == new
    other = replace(found, scores=torch.roll(found.scores, 1, -1))  # a neuron that is no memory
    assert try_edit(planted, probes, other, "Bath", n=1, plus=2.0).share("edited") == 0
    assert same(planted, before)


# ------------------------------------------------------------------------------------------------- what changed, what broke


def test_what_is_asked_after_an_edit():
    plan = fact_edits._plan(JOHN, FACTS, fact_edits.Random(0))
    found = {group: {(probe.prompt, probe.answer) for probe in plan if probe.group == group} for group in GROUPS}
    assert found["edited"] == {(prompt, "London") for prompt in paraphrases(JOHN)[0]}
    assert found["paraphrases"] == {(prompt, "London") for prompt in paraphrases(JOHN)[1]}
    assert found["same subject"] == {("John loves", "Yoko")}
    assert found["neighborhood"] == {(f"The home of {name} is", town) for name, town in TOWNS.items() if name != "John"}
    assert found["random"] == {(f"{name} loves", wife) for name, wife in WIVES.items() if name != "John"}


def test_only_what_the_model_knows_is_asked_of_others(planted):
    answers = {prompt: fact.object for fact in FACTS for prompt in told(fact)}
    for fact, found in zip(FACTS, edit_prompts(planted, FACTS), strict=True):
        for row, (prompt, group) in enumerate(zip(found.prompts, found.groups, strict=True)):
            said = int(planted(as_texts(planted, [prompt]).tokens)[0, -1].argmax())
            assert said == int(found.before[row]) and (group in CHANGED or said == token(planted, answers[prompt]))
        assert found.fact is fact and found.groups.count("edited") == len(paraphrases(fact)[0])


@pytest.mark.parametrize("start", [0, 1, 2])
def test_an_edit_is_judged_as_by_whole_runs_of_the_edited_model(words, start, monkeypatch):
    monkeypatch.setattr(fact_edits, "TEXT_TOKENS", 3)
    texts = fact_edits.held_out_texts(words, fact_edits.N_TEXTS)
    short = Texts(texts.tokens[:, :3], texts.lengths.clamp(max=3), texts.kinds)
    update = Update(start, torch.arange(4), torch.randn(4, words.cfg.d_model, generator=torch.Generator().manual_seed(1)) * 20)
    plain, changes = perplexity(words, short), 0
    for one in edit_prompts(words, FACTS[:3], start=start):
        edit = apply_edit(words, one, [update])
        with edited(words, [update]):
            after = next_tokens(words, one.prompts)
            assert edit.perplexity == pytest.approx((plain, perplexity(words, short)), rel=1e-4)
        wanted = [
            token == (one.new_token if group in CHANGED else old)
            for group, old, token in zip(one.groups, one.before.tolist(), after.tolist(), strict=True)
        ]
        assert edit.hits == tuple(wanted)
        changes += int((after != one.before).sum())
    assert changes > 0


def one_edit(hits, groups, ratio=1.0):
    empty = ("",) * len(hits)
    return Edit("Bath", ("a prompt",) * len(hits), groups, empty, empty, hits, (2.0, 2.0 * ratio))


def test_shares_are_averaged_over_the_facts_that_have_them():
    one = one_edit((True, False, True), ("edited", "edited", "same subject"), 1.5)
    other = one_edit((True, True), ("edited", "random"), 2.5)
    edits = EditScores((one, other))
    assert edits.values("edited") == [0.5, 1.0] and edits.mean("edited") == 0.75 and edits.values("same subject") == [1.0]
    assert edits.perplexity == 2 and edits.mean("paraphrases") != edits.mean("paraphrases")
    assert edits.score == pytest.approx(3 / (1 / 0.75 + 1 + 1))
    low, high = bootstrap_interval([0.5, 1.0])
    assert f"edited          change    75.0%   [{low:6.1%}, {high:6.1%}]      2" in edits.table()
    assert one.share("random") is None and one.table().count("✗") == 1


def test_the_choice_is_the_highest_score():
    good, bad = EditScores((one_edit((True, True), ("edited", "random")),)), EditScores((one_edit((True, False), ("edited", "random")),))
    choice = Choice({(4.0, 1.0): bad, (8.0, 2.0): good})
    assert choice.best == (8.0, 2.0) and [line.endswith("<-") for line in choice.table().split("\n")] == [False, False, True]


def test_random_neurons_stand_in_for_those_of_the_fact(planted, monkeypatch):
    found, prompts, used = knowledge_neurons_of(planted, FACTS[:2]), edit_prompts(planted, FACTS[:2]), []
    real = fact_edits.value_edit
    monkeypatch.setattr(fact_edits, "value_edit", lambda model, some, *rest: used.append(list(some)) or real(model, some, *rest))
    edit_values(planted, prompts, found, n=4)
    edit_values(planted, prompts, found, n=4, control=True)
    assert used[:2] == [one.top(4) for one in found] and used[2:] == [one.control(one.top(4)) for one in found]
    assert not set(used[0]) & set(used[2])


def test_all_facts_together_are_judged_as_each_alone(planted):
    before, found, prompts = weights_of(planted), knowledge_neurons_of(planted, FACTS), edit_prompts(planted, FACTS)
    for n, plus in ((1, 2.0), (5, 0.5)):
        alone = edit_values(planted, prompts, found, n=n, plus=plus)
        edits = [value_edit(planted, one.top(n), own.old_token, own.new_token, plus) for one, own in zip(found, prompts, strict=True)]
        for group in GROUPS:
            shares = hits_together(planted, prompts, edits, group)
            assert shares[~shares.isnan()].tolist() == pytest.approx(alone.values(group)) and len(shares) == len(FACTS)
    assert same(planted, before)


def test_doses_are_those_of_the_knowledge_neurons_and_of_several_draws(planted):
    found, prompts = knowledge_neurons_of(planted, FACTS[:1]), edit_prompts(planted, FACTS[:1])
    curves = dose_curves(planted, prompts, found, doses=(0.01, 2.0), n=1, draws=2)
    assert {name: shares.shape for name, shares in curves.items()} == dict.fromkeys(("knowledge neurons", "equally active neurons"), (2, 1))
    assert curves["knowledge neurons"].flatten().tolist() == [0, 1] and curves["equally active neurons"][1, 0] < 1


def test_the_control_of_scaling_is_the_mean_of_its_draws(planted):
    found = knowledge_neurons_of(planted, FACTS[:2])
    one, two = (scale_neurons(planted, found, n=2, draws=draws) for draws in (1, 2))
    assert torch.equal(one.after[:2], two.after[:2]) and not torch.equal(one.after[2:], two.after[2:])


def test_settings_are_chosen_on_the_other_half_of_the_subjects(planted, monkeypatch):
    parts = []
    monkeypatch.setattr(fact_edits, "known_facts", lambda model, n, part: parts.append((n, part)) or list(FACTS[:2]))
    choice = fact_edits.choose(planted, n=(1, 2), plus=(2.0,), n_facts=2)
    assert parts == [(2, CHOSEN)] and set(choice.tried) == {(1, 2.0), (2, 2.0)}


# ------------------------------------------------------------------------------------------------------------------ ROME


def test_rank_one_maps_the_key_and_leaves_keys_that_are_orthogonal_under_c():
    rng = torch.Generator().manual_seed(0)
    key, missing, root = (torch.randn(*size, generator=rng) for size in ((6,), (4,), (6, 6)))
    moment = root @ root.T + 0.1 * torch.eye(6)
    change = rank_one(key, missing, moment)
    assert torch.allclose(key @ change, missing, atol=1e-5) and torch.linalg.matrix_rank(change) == 1
    towards = torch.linalg.solve(moment, key)
    others = torch.randn(5, 6, generator=rng)
    others -= (others @ towards / (towards @ towards))[:, None] * towards
    assert torch.allclose(others @ change, torch.zeros(5, 4), atol=1e-4)
    assert not torch.allclose(torch.randn(6, generator=rng) @ change, torch.zeros(4), atol=1e-2)


def test_the_second_moment_by_hand(words):
    texts = fact_edits.held_out_texts(words, 6)
    keys = torch.cat(
        [record(words, texts.tokens[row, :n][None], mlp_post(1))[mlp_post(1)][0, 1:] for row, n in enumerate(texts.lengths.tolist())]
    )
    by_hand = keys.T @ keys / len(keys)
    by_hand += 0.5 * by_hand.diagonal().mean() * torch.eye(len(by_hand))
    assert torch.allclose(second_moment(words, 1, texts, ridge=0.5), by_hand, atol=1e-5)


def test_rome_makes_the_new_answer_likelier_and_changes_nothing_for_good(words):
    before, known, moment = (
        weights_of(words),
        edit_prompts(words, FACTS[:2], start=0),
        second_moment(words, 0, fact_edits.held_out_texts(words, 300)),
    )
    updates = [edit_rank_one(words, one.fact, one.new, moment, layer=0, steps=15) for one in known]
    for one, [update] in zip(known, updates, strict=True):
        prompts = paraphrases(one.fact)[0]
        texts, answers = asked(words, prompts, [one.new] * len(prompts))
        with torch.no_grad():
            usual = log_probs(words, texts, answers)
            with edited(words, [update]):
                assert log_probs(words, texts, answers) > usual + 0.5
        assert torch.linalg.matrix_rank(update.change) == 1 and update.layer == 0
    judged = judge_edits(words, known, updates)
    assert [edit.hits for edit in judged.edits] == [apply_edit(words, *pair).hits for pair in zip(known, updates, strict=True)]
    assert same(words, before)


def log_probs(model, texts, answers):
    """The mean log-probability of the answers."""
    rows = torch.arange(len(texts))
    return model(texts.tokens)[rows, texts.lengths - 1].log_softmax(-1)[rows, answers].mean()


def test_rome_takes_its_key_at_the_last_token_of_the_subject_and_stops_when_the_answer_is_likely(words, monkeypatch):
    [update] = edit_rank_one(words, JOHN, "Bath", torch.eye(words.cfg.d_mlp), layer=1, steps=3)
    texts = as_texts(words, paraphrases(JOHN)[0])
    with torch.no_grad():
        key = record(words, texts.tokens, mlp_post(1))[mlp_post(1)][texts.tokens == token(words, "John")].mean(0)
    row = update.change[:, update.change.abs().sum(0).argmax()]
    assert torch.nn.functional.cosine_similarity(row, key, dim=0).abs() == pytest.approx(1, abs=1e-4)  # with C = 1 along the key
    monkeypatch.setattr(rome, "ROME_ENOUGH", 0.0)
    assert not edit_rank_one(words, JOHN, "Bath", torch.eye(words.cfg.d_mlp), layer=1, steps=5)[0].change.any()
