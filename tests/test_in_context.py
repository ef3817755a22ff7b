"""Task vectors: prompts by hand, mean states, patching against one prompt at a time, heads, composition, rescaling."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from helpers.course_lm.world import World
from helpers.interventions import add, attn_out, clamp, head_out, intervene, record, resid_post, set_to
from helpers.one_layer.function_vectors import (
    AverageIndirectEffects,
    average_indirect_effects,
    causal_indirect_effects,
    function_vector,
    head_means,
    head_outputs,
    last_heads,
    random_heads,
    top_heads,
)
from helpers.one_layer.in_context import (
    LayerSweep,
    TaskGrid,
    TokenizedPrompts,
    VectorComparison,
    accuracy_grid,
    compare_vectors,
    composition,
    conflict,
    demonstrated,
    icv_interventions,
    in_context_vector,
    mean_states,
    patch_sweep,
    read_answers,
    task_differences,
    task_states,
    tokenize_prompts,
    with_controls,
)
from helpers.one_layer.tasks import (
    Prompt,
    Task,
    course_tasks,
    deranged,
    icl_prompts,
    item_task,
    shuffled_prompts,
    split_task,
    zero_shot_prompts,
)
from helpers.prediction import tokenize
from helpers.texts import Texts

pytestmark = pytest.mark.usefixtures("no_gradients")

ANTONYM = Task(
    "antonym",
    (("hot", "cold"), ("big", "small"), ("up", "down"), ("in", "out"), ("wet", "dry"), ("old", "new")),
    (("far", "near"), ("on", "off"), ("yes", "no"), ("east", "west")),
)
CAPITALS = Task(
    "capitals",
    (("hot", "Hot"), ("big", "Big"), ("up", "Up"), ("in", "In"), ("wet", "Wet"), ("far", "Far")),
    (("on", "On"), ("yes", "Yes"), ("old", "Old"), ("low", "Low")),
)
PROMPTS = [*zero_shot_prompts(ANTONYM, 3), *icl_prompts(ANTONYM, 3, shots=2)]  # of several lengths


@pytest.fixture(params=["gpt2", "llama-grouped"])
def model(load, request):
    """Architectures with learned and with rotary positions."""
    return load(request.param)


@pytest.fixture
def small_batches(monkeypatch):
    """Prompts come in batches of at most 60 tokens, so that they need several forward passes."""
    whole = Texts.batches
    monkeypatch.setattr(Texts, "batches", lambda self, tokens=60: whole(self, 60))


def alone(model, prompt: Prompt, *changes) -> tuple[bool, float]:
    """Whether one prompt, run by itself, is answered right, and the probability of the answer; ``changes`` take a position."""
    start, full = tokenize(model, prompt.text), tokenize(model, prompt.full)
    with intervene(model, *(change(len(start) - 1) for change in changes)):
        logits = model(full[None, :-1])[0]
    answer = full[len(start) :]
    places = torch.arange(len(start) - 1, len(full) - 1)
    return logits[places].argmax(-1).equal(answer), logits[places].log_softmax(-1)[torch.arange(len(answer)), answer].sum().exp().item()


def toward(model, letter: str) -> Tensor:
    """A long vector of the stream after which the last layer writes this token."""
    return 100 * model.W_U[:, tokenize(model, letter)[-1]]


def answering(task: Task, letter: str) -> Task:
    """The same questions, all with one answer."""
    pairs = ((left for left, _ in side) for side in (task.demonstrations, task.questions))
    return Task(task.name, *(tuple((left, letter) for left in side) for side in pairs), "=")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_prompts_are_written_as_the_corpus_writes_them():
    prompt = Prompt("dark", "light", (("hot", "cold"), ("big", "small")))
    assert prompt.text == "hot: cold\nbig: small\ndark:" and prompt.full == prompt.text + " light"
    arrow = Prompt("dark", "light", (("hot", "cold"),), arrow="→", separator=", ")
    assert arrow.text == "hot→cold, dark→" and arrow.full == "hot→cold, dark→light"


def test_prompts_ask_the_questions_and_show_the_demonstrations():
    prompts = icl_prompts(ANTONYM, 8, shots=3)
    assert {(prompt.question, prompt.answer) for prompt in prompts[:4]} == set(ANTONYM.questions)  # each once before one comes again
    for prompt in prompts:
        assert len(set(prompt.shown)) == 3 and set(prompt.shown) <= set(ANTONYM.demonstrations)
    for prompt in icl_prompts(ANTONYM, 20, shots=5, dummy=True):
        assert (prompt.question, prompt.answer) in ANTONYM.demonstrations
        assert prompt.question not in dict(prompt.shown)


def test_the_answer_is_not_shown_where_others_are_enough():
    task = Task("kind", (("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")), (("e", "x"),))
    assert all("x" not in dict(prompt.shown).values() for prompt in icl_prompts(task, 10, shots=2))
    assert any("x" in dict(prompt.shown).values() for prompt in icl_prompts(task, 10, shots=3))


def test_a_seed_decides_everything():
    for write in (icl_prompts, shuffled_prompts, zero_shot_prompts):
        assert write(ANTONYM, 6, seed=3) == write(ANTONYM, 6, seed=3) != write(ANTONYM, 6, seed=4)
    same = [write(ANTONYM, 6, seed=3) for write in (icl_prompts, shuffled_prompts, zero_shot_prompts)]
    assert len({tuple(prompt.question for prompt in prompts) for prompts in same}) == 1


def test_shuffled_prompts_have_the_same_words_and_no_right_pair():
    for right, wrong in zip(icl_prompts(ANTONYM, 30), shuffled_prompts(ANTONYM, 30), strict=True):
        assert sorted(right.text.split()) == sorted(wrong.text.split()) and right.answer == wrong.answer
        assert [left for left, _ in right.shown] == [left for left, _ in wrong.shown]
        assert not set(wrong.shown) & set(ANTONYM.demonstrations)


def test_shuffling_shows_other_pairs_where_one_answer_is_too_frequent():
    pairs = [(f"q{number}", "x" if number < 8 else "y" if number < 10 else "z") for number in range(12)]
    task = Task("kind", tuple(pairs), (("e", "w"),))
    for prompt in shuffled_prompts(task, 20, shots=4):
        assert len(prompt.shown) == 4 and not set(prompt.shown) & set(pairs)


@pytest.mark.parametrize("answers", ["ab", "aabb", "abc", "aabbc", "abcdefg", "aaabbc"])
def test_no_answer_stays_in_its_place(answers):
    for seed in range(20):
        new = deranged(list(answers), Random(seed))
        assert sorted(new) == sorted(answers) and all(a != b for a, b in zip(answers, new, strict=True))


def test_halves_share_no_question():
    one, two = ANTONYM.halves()
    assert set(one.questions) | set(two.questions) == set(ANTONYM.questions) and len(one.questions) == len(two.questions) == 2
    assert not set(one.questions) & set(two.questions) and one.demonstrations == two.demonstrations == ANTONYM.demonstrations


def test_any_pairs_make_a_task():
    pairs = [(f"word{number}", str(number)) for number in range(10)]
    task = split_task("number", pairs, share=0.3, arrow="→")
    assert len(task.questions) == 3 and set(task.questions) | set(task.demonstrations) == set(pairs)
    assert icl_prompts(task, 1, shots=1)[0].text.count("→") == 2


def test_course_tasks_ask_only_what_no_training_list_shows():
    from helpers.course_lm.heldout import held_out

    tasks = course_tasks("antonym", "country_capital")
    assert list(tasks) == ["antonym", "country_capital"]
    for name, task in tasks.items():
        assert all(held_out("list_pair", name, left) for left, _ in task.questions)
        assert not any(held_out("list_pair", name, left) for left, _ in task.demonstrations)


def test_item_tasks_ask_about_the_first_or_the_last_item():
    from helpers.course_lm.heldout import held_out

    first, last = (item_task(f"{which} copy", "country_capital", n=40) for which in ("first", "last"))
    assert all(left.split(", ")[0] == right for left, right in (*first.demonstrations, *first.questions))
    assert all(left.split(", ")[-1] == right for left, right in (*last.demonstrations, *last.questions))
    assert all(held_out("list_pair", "last copy", right) for _, right in last.questions)
    capital = item_task("last capital_of", "country_capital", n=40)
    capitals = {row["name"]: row["capital"] for row in World.load().rows("countries")}
    assert all(capitals[left.split(", ")[-1]] == right for left, right in (*capital.demonstrations, *capital.questions))
    assert item_task("last capital_of", "country_capital", n=40) == capital


def test_whole_answers_are_read_off_the_logits():
    texts = Texts(torch.zeros(2, 4, dtype=torch.long), torch.tensor([4, 3]), ("prompt",) * 2)
    asked = TokenizedPrompts(texts, torch.tensor([[5, 6], [7, -1]]), torch.tensor([2, 2]))
    logits = torch.zeros(2, 4, 9)
    logits[0, 2, 5], logits[0, 3, 6], logits[1, 2, 7] = 3.0, 3.0, 3.0
    share = torch.tensor(3.0).exp() / (torch.tensor(3.0).exp() + 8)
    assert asked.places.tolist() == [[2, 3], [2, 3]]
    hits, probs = asked.read(logits[:, 2:])
    assert hits.tolist() == [True, True] and torch.allclose(probs, torch.stack([share**2, share]))
    logits[0, 3, 1] = 9.0  # the second token of the first answer
    assert asked.read(logits[:, 2:])[0].tolist() == [False, True]


def test_answers_of_several_prompts_equal_those_of_each_alone(model, small_batches):
    found = [alone(model, prompt) for prompt in PROMPTS]
    hits, probs = read_answers(model, PROMPTS)
    assert hits.tolist() == [hit for hit, _ in found]
    assert torch.allclose(probs, torch.tensor([prob for _, prob in found]), rtol=1e-4)


def test_an_intervention_at_the_end_is_one_at_the_last_token_of_the_prompt(model, small_batches):
    last = model.cfg.n_layers - 1
    prompts = [Prompt(left, answer, shown, "=") for left, shown in (("hot", ()), ("big", (("up", "down"),))) for answer in ("q", "qq", "z")]
    force = clamp(resid_post(last), 0.0, pos=-1), add(resid_post(last), toward(model, "q"), pos=-1)
    hits = read_answers(model, prompts, *force)[0]
    assert hits[[0, 3]].all() and not hits[[2, 5]].any()  # q comes first, and z never
    by_hand = [alone(model, one, lambda pos: set_to(resid_post(last), toward(model, "q"), pos=pos)) for one in prompts]
    assert hits.tolist() == [hit for hit, _ in by_hand]


def test_a_prompt_that_is_too_long_loses_its_first_demonstrations(gpt2):
    shown = tuple((letter * 5, letter) for letter in "abcdefghijkl")
    asked = tokenize_prompts(gpt2, [Prompt("gg", "hh", shown)])
    lengths = [len(tokenize(gpt2, Prompt("gg", "hh", shown[at:]).full)) for at in range(12)]
    first = next(at for at, length in enumerate(lengths) if length <= gpt2.cfg.n_ctx)
    assert first > 0 and asked.texts.tokens[0].tolist() == tokenize(gpt2, Prompt("gg", "hh", shown[first:]).full)[:-1].tolist()
    with pytest.raises(ValueError, match="longer than the 64 tokens of this model: cut it"):
        tokenize_prompts(gpt2, [Prompt("g" * 70, "h")])


def test_states_come_from_dummy_questions(gpt2):
    icl, wrong = (write(ANTONYM, 4, dummy=True) for write in (icl_prompts, shuffled_prompts))
    zero = mean_states(gpt2, zero_shot_prompts(ANTONYM, 4, dummy=True))
    assert torch.equal(task_states(gpt2, ANTONYM, 4), mean_states(gpt2, icl))
    assert torch.equal(task_states(gpt2, ANTONYM, 4, shuffled=True), mean_states(gpt2, wrong))
    assert torch.equal(task_differences(gpt2, ANTONYM, 4), mean_states(gpt2, icl) - zero)


@pytest.mark.parametrize("how, patch", [("replace", set_to), ("add", add)])
def test_a_sweep_equals_one_prompt_and_layer_at_a_time(model, small_batches, how, patch):
    states = torch.stack([toward(model, letter) for letter in "qz"])
    prompts = [Prompt(left, answer, shown, "=") for left, shown in (("hot", ()), ("big", (("up", "down"),))) for answer in ("q", "z", "zq")]
    by_hand = [[alone(model, one, lambda pos, at=at: patch(resid_post(at), states[at], pos=pos))[0] for one in prompts] for at in range(2)]
    sweep = patch_sweep(model, states, prompts, how)
    assert sweep.hits.tolist() == by_hand and sweep.hits[1].tolist()[:2] == [False, True]
    assert sweep.before.tolist() == [alone(model, one)[0] for one in prompts]


def test_a_sweep_knows_its_best_layer():
    sweep = LayerSweep(torch.tensor([[False, False], [True, True], [True, True]]), torch.tensor([False, True]))
    assert sweep.accuracy.tolist() == [0, 1, 1] and sweep.best == 1


def test_controls_are_another_task_wrong_labels_and_plain_words(gpt2):
    found = with_controls(gpt2, ANTONYM, CAPITALS)
    own, other, wrong, words = found.values()
    assert list(found) == ["antonym", "other task: capitals", "shuffled labels", "the answers' words"]
    assert torch.equal(own, task_differences(gpt2, ANTONYM)) and torch.equal(other, task_differences(gpt2, CAPITALS))
    assert torch.equal(wrong, task_differences(gpt2, ANTONYM, shuffled=True)) and not torch.equal(own, wrong)
    columns = [
        torch.stack([gpt2.W_U[:, tokenize(gpt2, f": {word}")[len(tokenize(gpt2, ":"))]] for word in side]).mean(0)
        for side in zip(*ANTONYM.demonstrations, strict=True)
    ]
    plain = columns[1] - columns[0]
    for layer in range(gpt2.cfg.n_layers):
        assert torch.allclose(words[layer], plain / plain.norm() * own[layer].norm(), atol=1e-4)


def test_a_comparison_chooses_with_some_prompts_and_reports_others(gpt2):
    choose, test = [Prompt(left, "q", arrow="=") for left in ("hot", "up")], [Prompt(left, "z", arrow="=") for left in ("big", "in", "on")]
    vectors = {"q": toward(gpt2, "q"), "z": torch.stack([toward(gpt2, "q"), toward(gpt2, "z")])}
    found = compare_vectors(gpt2, vectors, choose, test, icl=PROMPTS[:3])
    sweeps = {name: patch_sweep(gpt2, vector, choose, "add") for name, vector in vectors.items()}
    assert found.layers == {name: sweep.best for name, sweep in sweeps.items()}
    for name, vector in vectors.items():
        assert torch.equal(found.answers[name], patch_sweep(gpt2, vector, test, "add").hits[found.layers[name]])
    assert found.answers["zero-shot"].tolist() == read_answers(gpt2, test)[0].tolist()
    assert found.answers["in-context learning"].tolist() == read_answers(gpt2, PROMPTS[:3])[0].tolist()


def test_tables_name_the_layer_and_the_share_of_each():
    found = VectorComparison(
        {"a": 0, "b": 1}, {"zero-shot": torch.tensor([False]), "a": torch.tensor([False, False]), "b": torch.tensor([True, False])}
    )
    assert [line.split() for line in found.table().splitlines()[1:]] == [["zero-shot", "0.0%"], ["a", "0.0%"], ["b", "1", "50.0%"]]


def test_the_best_layer_is_the_one_of_the_other_questions():
    yes, no = [True, True], [False, False]
    validation, test = (
        {name: LayerSweep(torch.tensor(hits), torch.tensor(no)) for name, hits in zip("ab", some, strict=True)}
        for some in (([yes, no], [no, yes]), ([no, yes], [yes, [True, False]]))
    )
    grid = TaskGrid(validation, test)
    assert grid.patched.tolist() == [False, False, True, False] and grid.zero_shot.tolist() == [False] * 4 and grid.tasks == list("aabb")
    assert [hits.tolist() for hits in grid.at_best([0])] == [no, yes]
    assert grid.accuracy.tolist() == [[0, 1], [1, 0.5]]
    table = grid.table(ICL=[torch.tensor(yes), torch.tensor(no)]).splitlines()
    assert table[0].split() == ["task", "zero-shot", "vector", "layer", "ICL"]
    assert table[2].split() == ["b", "0.0%", "50.0%", "1", "0.0%"]


def test_means_of_states_and_heads_are_those_of_each_prompt_alone(model):
    prompts = icl_prompts(ANTONYM, 4, dummy=True)
    for found, place in ((mean_states(model, prompts), resid_post), (head_means(model, ANTONYM, 4), head_out)):
        places = [place(layer) for layer in range(model.cfg.n_layers)]
        seen = [record(model, tokenize(model, prompt.text)[None], *places) for prompt in prompts]
        by_hand = torch.stack([torch.stack([one[hook][0, -1] for one in seen]).mean(0) for hook in places])
        assert torch.allclose(found, by_hand, atol=1e-5)


def test_what_the_heads_write_adds_up_to_what_the_attention_writes(model):
    [prompt] = PROMPTS[-1:]
    outputs = head_outputs(model, last_heads(model, [prompt.text])[:, 0])
    for layer in range(model.cfg.n_layers):
        whole = record(model, tokenize(model, prompt.text)[None], attn_out(layer))[attn_out(layer)][0, -1]
        bias = model.blocks[layer].attn.b_O
        assert torch.allclose(outputs[layer].sum(0) + (0 if bias is None else bias), whole, atol=1e-4)


def test_a_function_vector_is_the_sum_through_w_o(model):
    means = drawn(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
    by_hand = means[0, 1] @ model.blocks[0].attn.W_O[1] + means[1, 3] @ model.blocks[1].attn.W_O[3]
    assert torch.allclose(function_vector(head_outputs(model, means), [(0, 1), (1, 3)]), by_hand, atol=1e-5)
    assert torch.allclose(function_vector(head_outputs(model, means), [(0, 1), (1, 3), (0, 1)]), by_hand, atol=1e-5)


def test_indirect_effects_equal_those_of_one_head_and_prompt_at_a_time(model, small_batches):
    means, prompts = 3 * drawn(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head), PROMPTS[1:5]
    found = causal_indirect_effects(model, means, prompts)
    before = torch.tensor([alone(model, prompt)[1] for prompt in prompts])
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            change = lambda pos, at=layer, one=head: set_to(head_out(at), means[at, one], pos=pos, head=one)  # noqa: E731
            after = torch.tensor([alone(model, prompt, change)[1] for prompt in prompts])
            assert torch.allclose(found[layer, head] / before, (after - before) / before, atol=1e-3)
    assert (found.abs() / before > 1e-2).any()


def test_the_largest_effects_come_first():
    found = AverageIndirectEffects(("a", "b"), torch.tensor([[[0.2, -0.45], [0.5, 0.0]], [[0.9, 0.0], [0.0, 0.0]]]))
    assert torch.allclose(found.mean[0], torch.tensor([0.55, -0.225])) and found.top(2) == [(0, 0), (1, 0)]
    assert found.table(1).splitlines()[1].split() == ["0", "0", "+0.5500"]


def test_average_effects_are_those_of_each_task(gpt2):
    found = average_indirect_effects(gpt2, [ANTONYM, CAPITALS], n=3, n_means=4)
    prompts = zero_shot_prompts(CAPITALS, 3, seed=1, dummy=True)
    assert found.tasks == ("antonym", "capitals")
    assert torch.allclose(found.by_task[1], causal_indirect_effects(gpt2, head_means(gpt2, CAPITALS, 4), prompts).mean(-1))


def test_random_heads_leave_some_out(gpt2):
    every = [(layer, head) for layer in range(2) for head in range(4)]
    assert random_heads(gpt2, 7, exclude=[(1, 2)]) == [head for head in every if head != (1, 2)]
    assert random_heads(gpt2, 3) == random_heads(gpt2, 3) != random_heads(gpt2, 3, seed=2)


def test_a_grid_is_made_of_each_tasks_sweep(model, small_batches):
    tasks = [replace(one, questions=answering(one, letter).questions, arrow="=") for one, letter in ((ANTONYM, "q"), (CAPITALS, "z"))]
    vectors = [torch.stack([drawn(model.cfg.d_model, seed=7), toward(model, letter)]) for letter in "qz"]
    grid = accuracy_grid(model, tasks, vectors, 3, "replace")
    shown, wrong = (demonstrated(model, tasks, 3, shuffled) for shuffled in (False, True))
    for at, (task, vector) in enumerate(zip(tasks, vectors, strict=True)):
        choose, test = task.halves()
        own = patch_sweep(model, vector, zero_shot_prompts(test, 2), "replace")  # a half has no more questions
        assert torch.equal(grid.validation[task.name].hits, patch_sweep(model, vector, zero_shot_prompts(choose, 2), "replace").hits)
        assert torch.equal(grid.test[task.name].hits, own.hits) and torch.equal(grid.test[task.name].before, own.before)
        assert torch.equal(shown[at], read_answers(model, icl_prompts(test, 2))[0])
        assert torch.equal(wrong[at], read_answers(model, shuffled_prompts(test, 2))[0])
        assert own.hits[1].all()  # each task has got its own vector


def test_composition_by_hand(gpt2):
    numbers = split_task("numbers", [(str(number), f"{number}!") for number in range(9)])
    bd = split_task("letters", [(letter, letter.upper()) for letter in "abcdefghij"], share=0.4)
    found = composition(gpt2, ANTONYM, CAPITALS, numbers, bd, n=9)
    choose, test = bd.halves()
    v_ad, v_bc, v_ac, own = (task_differences(gpt2, task) for task in (ANTONYM, CAPITALS, numbers, bd))
    names = ("composed", "direct: letters", "parent: antonym", "parent: capitals", "parent: numbers")
    vectors = dict(zip(names, (v_ad + v_bc - v_ac, own, v_ad, v_bc, v_ac), strict=True))
    again = compare_vectors(gpt2, vectors, zero_shot_prompts(choose, 2), zero_shot_prompts(test, 2), icl_prompts(test, 2))
    assert tuple(found.layers) == names and str(found) == str(again)


def test_a_conflict_counts_answers_of_both_tasks(gpt2):
    a, b = answering(ANTONYM, "q"), answering(CAPITALS, "z")
    of_a, of_b = conflict(gpt2, a, b, torch.stack([toward(gpt2, "z"), toward(gpt2, "z")]), n=4)
    assert of_b.hits[1].all() and not of_a.hits[1].any()
    of_a, of_b = conflict(gpt2, a, b, torch.stack([toward(gpt2, "q"), toward(gpt2, "q")]), n=4)
    assert of_a.hits[1].all() and not of_b.hits[1].any()
    shared = [pair for pair in a.questions if pair[0] in dict((*b.demonstrations, *b.questions))]
    assert 0 < len(shared) < len(a.questions)  # "east" is no input of the other task, and is not asked
    prompts = icl_prompts(replace(a, questions=tuple(shared)), 4)
    assert torch.equal(of_a.before, read_answers(gpt2, prompts)[0])


def test_an_in_context_vector_is_the_direction_of_the_differences(model):
    pairs = [("hot", "The Tower"), ("up", "Paris is"), ("The", "in Taipei")]
    places = [resid_post(layer) for layer in range(model.cfg.n_layers)]

    def states(text: str) -> Tensor:
        seen = record(model, tokenize(model, text)[None], *places)
        return torch.cat([seen[place][0, -1] for place in places])

    differences = torch.stack([states(y) - states(x) for x, y in pairs])
    values, vectors = torch.linalg.eigh(differences.T @ differences)
    found = in_context_vector(model, pairs)
    along = differences @ found.direction.flatten()
    assert found.direction.flatten().dot(vectors[:, -1]).abs() == pytest.approx(1, abs=1e-4)
    assert found.size == pytest.approx(along.mean().item(), rel=1e-3) and found.size > 0
    assert found.explained == pytest.approx((values[-1] / values.sum()).item(), abs=1e-4)
    assert torch.allclose(found.vector, found.size * found.direction)
    turned = in_context_vector(model, [(y, x) for x, y in pairs])
    assert torch.allclose(turned.direction, -found.direction, atol=1e-4)


def test_rescaling_keeps_every_length_and_turns_towards_the_vector(model):
    tokens, vector = torch.arange(1, 21).reshape(2, 10), 5 * drawn(model.cfg.n_layers, model.cfg.d_model)
    before = record(model, tokens, resid_post(0))[resid_post(0)]
    with intervene(model, *icv_interventions(vector, 2.0)):
        after = record(model, tokens, resid_post(0))[resid_post(0)]
    moved = before + 2 * vector[0]
    assert torch.allclose(after.norm(dim=-1), before.norm(dim=-1), rtol=1e-4)
    assert torch.allclose(torch.cosine_similarity(after, moved, dim=-1), torch.ones(2, 10), atol=1e-5)
    assert not torch.allclose(after, before)
    plain = model(tokens)
    with intervene(model, *icv_interventions(0 * vector)):
        assert torch.allclose(model(tokens), plain, atol=1e-4)
    assert [one.hook for one in icv_interventions(vector)] == [resid_post(layer) for layer in range(model.cfg.n_layers)]


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: Task("t", (("a", " "),), ()), "has an empty side"),
        (lambda m: Task("t", (("a", "b"),), (("a", "c"),)), "'a' is asked about and demonstrated in the task 't'"),
        (lambda m: Task("t", (("a", "b"),), (), arrow=" "), "needs a mark between input and answer"),
        (lambda m: split_task("t", [("a", "b")]), "leave no question or no demonstration"),
        (lambda m: Task("t", (("a", "b"),), (("c", "d"),)).halves(), "has 1 questions, and two halves need two"),
        (lambda m: course_tasks("antonyms"), "There is no task of one word 'antonyms'; choose one of: antonym, comparative"),
        (lambda m: item_task("second copy", "identity"), "There is no item task 'second copy'"),
        (
            lambda m: item_task("first copy", "en_fr"),
            "no source of words 'en_fr'; choose one of: identity, country_capital, antonym, plural, any word",
        ),
        (lambda m: icl_prompts(ANTONYM, 0), "n says how many prompts to write; it must be 1 or more, not 0"),
        (lambda m: icl_prompts(ANTONYM, 1, shots=9), "has 6 pairs to show before a question, not 9: ask for fewer shots"),
        (lambda m: shuffled_prompts(ANTONYM, 1, shots=1), "it must be 2 or more, not 1"),
        (lambda m: zero_shot_prompts(Task("t", (("a", "b"),), ()), 1), "has no pair to ask about"),
        (lambda m: shuffled_prompts(Task("t", tuple((c, "x") for c in "abcd"), (("e", "y"),)), 1, 3), "too few different answers"),
        (lambda m: deranged(["a", "a", "b"], Random(0)), "one of them fills more than half"),
        (lambda m: tokenize_prompts(m, []), "There are no prompts"),
        (lambda m: tokenize_prompts(m, [Prompt("a", "", arrow="=")]), "'' cannot be read off after 'a=': it is not a separate token there"),
        (lambda m: patch_sweep(m, torch.zeros(3, 32), PROMPTS, "add"), "the shape [2, 32], or [32], not [3, 32]"),
        (lambda m: patch_sweep(m, torch.zeros(32), PROMPTS, how="swap"), "no way to put a vector in 'swap'; choose one of: replace, add"),
        (lambda m: compare_vectors(m, {"v": torch.zeros(32)}, PROMPTS[:1], PROMPTS), "take the two halves of a task"),
        (lambda m: top_heads(torch.zeros(2, 4), 9), "it must be from 1 to 8, not 9"),
        (lambda m: random_heads(m, 8, exclude=[(0, 0)]), "it must be from 1 to 7, not 8"),
        (lambda m: in_context_vector(m, []), "There are no pairs of texts"),
        (lambda m: in_context_vector(m, [("a", "a")]), "give texts that differ"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(gpt2, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(gpt2)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_heads_that_are_rescaled_together_have_no_output_of_their_own(load):
    gemma = load("gemma2")
    means = last_heads(gemma, [prompt.text for prompt in PROMPTS]).mean(1)
    assert causal_indirect_effects(gemma, means, PROMPTS[:2]).abs().max() > 0
    with pytest.raises(ValueError, match="so no head has an output of its own: use task_states"):
        head_outputs(gemma, means)
