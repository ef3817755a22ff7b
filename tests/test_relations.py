"""Relations: Jacobians against finite differences on every architecture, surrogates and edits against a model that is linear by hand."""

from collections import Counter
from functools import partial

import pytest
import torch
from tiny_models import ARCHITECTURES
from torch import Tensor

from helpers.cluster import linear_relations, relation_reports
from helpers.cluster.linear_relations import (
    LinearRelation,
    fit_lre,
    fit_lre_layers,
    identity,
    jacobian,
    jacobians,
    most_likely,
    regression,
    relation_states,
    subject_positions,
    translation,
)
from helpers.cluster.relation_reports import (
    BaselineComparison,
    LreSweep,
    choose_edit,
    compare_to_baselines,
    edit_delta,
    edit_pairs,
    edit_report,
    edit_subjects,
    relation_report,
    sweep_lre,
)
from helpers.cluster.relations import RelationData, course_relations, known_subjects, relation_data, split
from helpers.course_lm.facts import Fact, all_facts
from helpers.course_lm.world import World
from helpers.interventions import Intervention, attn_out, intervene, mlp_out, record, resid_post, resid_pre, set_to, zero_ablate
from helpers.prediction import pieces, token_id, tokenize
from helpers.running import layer_hook, lens_logits
from helpers.stats import wilson

pytestmark = pytest.mark.usefixtures("no_gradients")

SUBJECTS = ("Taipei", "The Golden Gate Bridge", "Paris", "San Francisco")
DATA = RelationData("place", "The Tower of {s} is in", SUBJECTS, ("Paris", "Taipei", "Gate", "San"))
FIRST = RelationData("first", "{s} is", ("T", "Taipei", "S", "Paris"), ("a", "b", "c", "d"))  # two subjects are the first token of all
LETTERS = RelationData("letters", "x{s}y", tuple("abcdefghijkl"), tuple("bcdefghijklm"))
MAP = LinearRelation("r", "LRE", 2, torch.eye(2), torch.zeros(2), beta=1.5)


@pytest.fixture
def linear(small):
    """The small model with no blocks, but for one affine map from the last token but one, after block 0, to the end: its M and c."""
    rng = torch.Generator().manual_seed(3)
    m, c = torch.randn(16, 16, generator=rng) + 2 * torch.eye(16), torch.randn(16, generator=rng)

    def send(stream: Tensor, pick: object) -> Tensor:
        if stream.shape[1] == 1:  # a single token, whose stream is being replaced
            return stream
        return torch.cat([stream[:, :-1], (stream[:, -2] @ m.T + c)[:, None]], 1)

    blocks = [zero_ablate(place(layer)) for layer in range(2) for place in (attn_out, mlp_out)]
    with intervene(small, *blocks, Intervention(resid_post(1), send)):
        yield small, m, c


# ---------------------------------------------------------------------------------------------------------------- data


def test_prompts_and_answers():
    assert DATA.prompts[:2] == ["The Tower of Taipei is in", "The Tower of The Golden Gate Bridge is in"]
    assert DATA.answer_of["San Francisco"] == "San" and len(DATA) == 4
    assert DATA.take([2, 0]).answer_of == {"Paris": "Gate", "Taipei": "Paris"}
    several = relation_data("r", "{s} is", [("a", "x"), ("b", "x"), ("a", "y"), ("b", "x"), ("c", "z")])
    assert several.answer_of == {"b": "x", "c": "z"}  # a subject with several objects is left out


def test_the_relations_of_the_course_lm_are_asked_as_its_facts_are():
    found = course_relations()
    facts: dict[str, list[Fact]] = {}
    for one in all_facts(World.load()):
        facts.setdefault(one.relation.name, []).append(one)
    assert len(found) >= 20
    for name, data in found.items():
        told = [t for t in facts[name][0].relation.forward if t.startswith(data.template + " {o}")]
        probes = {(probe.prompt, probe.answer) for one in facts[name] for probe in [one.probe(told[0])]}
        assert {*zip(data.prompts, data.objects, strict=True)} <= probes, name
        assert max(Counter(data.subjects).values()) == 1 and not data.template.endswith((" a", " an")), name
    assert found["capital"].answer_of["Poland"] == "Warsaw" and found["capital"].template == "The capital of {s} is"
    assert list(course_relations(["spouse", "capital"])) == ["spouse", "capital"]


def test_split_is_disjoint_and_repeatable():
    parts = split(LETTERS, 4)
    sides = [set(side.subjects) for side in (parts.train, parts.choose, parts.test)]
    assert [len(side) for side in sides] == [4, 4, 4] and set.union(*sides) == set(LETTERS.subjects)
    assert all(side.answer_of[one] == LETTERS.answer_of[one] for side in (parts.train, parts.test) for one in side.subjects)
    assert split(LETTERS, 4) == parts != split(LETTERS, 4, seed=1)


def test_known_keeps_what_the_model_answers_right(small):
    data = RelationData("l", "x{s}y", LETTERS.subjects, ("\nq",) * 5 + ("q",) * 7)  # a word begins with a space, unless it has a line break
    with intervene(small, set_to(resid_post(1), 50 * small.W_U[:, token_id(small, "\n")])):
        assert known_subjects(small, data).subjects == LETTERS.subjects[:5]
        with pytest.raises(ValueError, match="no right answer"):
            known_subjects(small, data.take([6, 7]))


# -------------------------------------------------------------------------------------------------------------- states


def test_the_last_token_of_a_subject_is_found(small, gpt2):
    data = RelationData("l", "xy {s} z", ("a", "bcd", "é"), ("q", "q", "q"))
    assert subject_positions(small, data).tolist() == [4, 6, 5]  # the mark, x, y, space, and the small; é is two bytes
    for prompt, subject, last in zip(DATA.prompts, SUBJECTS, subject_positions(gpt2, DATA), strict=True):
        shown = pieces(gpt2, tokenize(gpt2, prompt)[: last + 1])
        assert "".join(shown).endswith(" " + subject) and not "".join(shown[:-1]).endswith(subject)


@pytest.mark.parametrize("architecture", ["gpt2", "neox-serial", "gemma2"])
def test_states_are_those_of_single_prompts(load, architecture):
    model = load(architecture)
    found, last = relation_states(model, DATA, [-1, 1]), resid_post(1)
    for row, prompt in enumerate(DATA.prompts):
        tokens = tokenize(model, prompt)[None]
        seen = record(model, tokens, resid_pre(0), last)
        place = len(tokenize(model, "The Tower of " + SUBJECTS[row])) - 1
        assert torch.allclose(found.at(-1)[row], seen[resid_pre(0)][0, place], atol=1e-5)
        assert torch.allclose(found.at(1)[row], seen[last][0, place], atol=1e-5)
        assert torch.allclose(found.o[row], seen[last][0, -1], atol=1e-5)
        logits = model(tokens)[0, -1]
        assert int(found.token[row]) == int(logits.argmax())
        assert torch.allclose(lens_logits(model, found.o)[row], logits, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- Jacobians


def end_state(model, tokens: Tensor, place: str, pos: int, states: Tensor) -> Tensor:
    """What the whole model computes at the end of a prompt from each of some states: the definition, run from the first token on."""
    last = resid_post(model.cfg.n_layers - 1)
    where = set_to(place, states[:, None], pos=torch.full((len(states),), pos))
    with torch.no_grad(), intervene(model, where):
        return record(model, tokens.repeat(len(states), 1), last)[last][:, -1]


def differences(model, data: RelationData, row: int, layer: int, step: float) -> Tensor:
    """The Jacobian of one subject by central finite differences."""
    tokens, pos = tokenize(model, data.prompts[row])[None], int(subject_positions(model, data)[row])
    place = layer_hook(layer)
    s, steps = record(model, tokens, place)[place][0, pos].detach(), step * torch.eye(model.cfg.d_model, dtype=torch.float64)
    return ((end_state(model, tokens, place, pos, s + steps) - end_state(model, tokens, place, pos, s - steps)) / (2 * step)).T


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_jacobians_are_finite_differences(load, architecture):
    model = load(architecture, dtype="float64")
    coarse = architecture.startswith(("llama", "qwen2", "gemma2"))  # these compute their softmax in float32 whatever they are loaded in
    step, close = (1e-3, 2e-3) if coarse else (1e-5, 1e-6)
    for data, layers in ((DATA, (-1, 0, 1)), (FIRST, (0,))):
        found = jacobians(model, data, layers)
        assert found.dtype == torch.float64 and found.shape == (len(layers), 4, 32, 32)
        for row in range(4):
            for at, layer in enumerate(layers):
                expected = differences(model, data, row, layer, step)
                assert torch.allclose(found[at, row], expected, atol=close), (row, layer)
                assert (expected.abs().max() > 0.01) == (layer < 1)  # after the last block nothing goes from token to token


@pytest.mark.parametrize("architecture, group, basis", [("gpt2", 1, 1024), ("gpt2", 3, 16), ("llama", 3, 16)])
def test_jacobians_of_any_groups_are_those_of_each_subject_alone(load, architecture, group, basis, monkeypatch):
    model = load(architecture)
    expected = torch.stack([jacobian(model, DATA, subject, 0) for subject in SUBJECTS])
    monkeypatch.setattr(linear_relations, "GROUP", group)
    monkeypatch.setattr(linear_relations, "BASIS_TOKENS", basis)
    assert torch.allclose(jacobians(model, DATA, [0])[0], expected, atol=1e-5)


def test_a_subject_at_the_end_is_its_own_output_in_the_last_layer_and_the_model_is_left_as_it_was(gpt2):
    before, data = gpt2(tokenize(gpt2, "The Tower")[None]), RelationData("end", "The Tower of {s}", SUBJECTS, DATA.objects)
    assert torch.equal(jacobians(gpt2, data, [1])[0], torch.eye(32).expand(4, 32, 32))
    assert torch.equal(before, gpt2(tokenize(gpt2, "The Tower")[None])) and all(p.grad is None for p in gpt2.parameters())


# ---------------------------------------------------------------------------------------------------------- surrogates


def test_a_fit_is_the_mean_slope_and_what_is_missing(gpt2):
    found, slopes = fit_lre_layers(gpt2, DATA, [0, -1], beta=2.0), jacobians(gpt2, DATA, [0, -1])
    states = relation_states(gpt2, DATA, [0, -1])
    for at, one in enumerate(found):
        assert (one.layer, one.beta, one.kind, one.relation) == ((0, -1)[at], 2.0, "LRE", "place")
        assert torch.allclose(one.weight, slopes[at].mean(0), atol=1e-5)
        missing = torch.stack([states.o[row] - slopes[at, row] @ states.s[at, row] for row in range(4)]).mean(0)
        assert torch.allclose(one.bias, missing, atol=1e-4)
    assert torch.allclose(fit_lre(gpt2, DATA, -1).weight, found[1].weight, atol=1e-5) and fit_lre(gpt2, DATA, -1).beta == 1


def test_a_surrogate_is_an_affine_map():
    one = LinearRelation("r", "LRE", 0, torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([10.0, 20.0]), beta=2.0)
    assert one(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[24.0, 26.0], [10.0, 20.0]]


def test_baselines_by_hand(gpt2):
    states = relation_states(gpt2, DATA, [0, 1])
    s, o = states.at(1), states.o
    assert torch.equal(identity(states, 1)(s), s)
    assert torch.allclose(translation(states, 1)(s), s + (o - s).mean(0), atol=1e-5)
    found = regression(states, 1, penalty=0.3)
    x, y = (s - s.mean(0)).double(), (o - o.mean(0)).double()
    weight = y.T @ x @ torch.linalg.inv(x.T @ x + 0.3 * x.square().sum(1).mean() * torch.eye(32, dtype=torch.float64))
    assert torch.allclose(found.weight.double(), weight, atol=1e-5)
    assert torch.allclose(found(s.mean(0)), o.mean(0), atol=1e-4)
    assert torch.allclose(regression(states, 1, penalty=1e-9)(s), o, atol=1e-3)  # fewer subjects than dimensions: nothing is left over
    assert {one.kind for one in (identity(states, 1), translation(states, 1), found)} == {"identity", "translation", "regression"}


# -------------------------------------------------------------------------------------------------------- faithfulness


def test_a_linear_model_is_found_out(linear):
    model, m, c = linear
    parts = split(LETTERS, 4)
    found = fit_lre(model, parts.train, 0)
    assert torch.allclose(found.weight, m, atol=1e-5) and torch.allclose(found.bias, c, atol=1e-4)
    states = relation_states(model, parts.test, [0])
    assert torch.allclose(found(states.s[0]), states.o, atol=1e-4)
    assert compare_to_baselines(model, parts, found).shares["LRE"] == 1


def test_comparison_judges_all_methods_on_the_test_subjects(small):
    def usual(data: RelationData) -> int:
        return Counter(relation_states(small, data, [0]).token.tolist()).most_common(1)[0][0]

    data = RelationData("ends", "x{s}", LETTERS.subjects, LETTERS.objects)
    parts = next(parts for seed in range(50) if usual((parts := split(data, 4, seed)).train) != usual(parts.test))
    lre = fit_lre(small, parts.train, 0, 1.5)
    train, test = (relation_states(small, some, [0]) for some in (parts.train, parts.test))
    found = compare_to_baselines(small, parts, lre)
    for one in (lre, *(method(train, 0) for method in (identity, translation, regression))):
        assert torch.equal(found.of(one.kind).bool(), lens_logits(small, one(test.s[0])).argmax(-1) == test.token)
    assert torch.equal(found.of("most frequent").bool(), test.token == usual(parts.train))
    assert found.shares["most frequent in test"] == max(Counter(test.token.tolist()).values()) / 4
    assert "regression, all" in found.methods and found.lre is lre
    others = [fit_lre(small, parts.choose, 0), translation(train, 0)]
    beside = compare_to_baselines(small, parts, lre, others)
    right = [(most_likely(small, one(test.s[0])) == test.token).float() for one in others]
    assert torch.equal(beside.of("other maps"), torch.stack(right).mean(0)) and "other maps" not in found.methods


def test_the_rival_is_the_best_of_the_simpler_maps_of_the_same_subjects():
    methods = ("LRE", "identity", "translation", "regression, all", "other maps")
    hits = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0.5, 1, 1]])
    assert BaselineComparison(MAP, methods, hits).rival == "translation"


def test_tables_by_hand():
    table = BaselineComparison(MAP, ("LRE", "identity"), torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 0]])).table()
    low, high = wilson(3, 4)
    assert table.splitlines()[0] == "r, layer 2, beta 1.5, 4 subjects"
    assert table.splitlines()[1] == f"LRE        75.0%  [{low:.1%}, {high:.1%}]" and table.splitlines()[2].startswith("identity    0.0%")


def test_sweep_tries_every_layer_and_factor(small):
    parts = split(LETTERS, 4)
    found = sweep_lre(small, parts, [0, 1], [0.5, 1.0, 3.0])
    assert found.share.shape == found.log_prob.shape == (2, 3)
    states = relation_states(small, parts.choose, [0, 1])
    for at, layer in enumerate((0, 1)):
        for number, beta in enumerate((0.5, 1.0, 3.0)):
            one = fit_lre(small, parts.train, layer, beta)
            logits = lens_logits(small, one(states.s[at]))
            assert torch.equal(found.hits[at, number], logits.argmax(-1) == states.token)
            logp = logits.log_softmax(-1).gather(-1, states.token[:, None]).mean()
            assert torch.allclose(found.log_prob[at, number], logp, atol=1e-3)
    assert found.table().splitlines()[0].split() == ["layer", "0.5", "1", "3"] and len(found.table().splitlines()) == 3


def test_the_best_of_a_sweep_agrees_most_and_is_surest():
    fitted = tuple(LinearRelation("r", "LRE", layer, torch.eye(2), torch.zeros(2)) for layer in (3, 5))
    hits = torch.tensor([[[True, False], [True, True]], [[True, True], [False, False]]])
    found = LreSweep(fitted, (1.0, 2.0), hits, torch.tensor([[-0.1, -3.0], [-2.0, -0.5]]))
    assert (found.best.layer, found.best.beta) == (5, 1.0)


def test_report_judges_each_relation_and_skips_small_ones(small, monkeypatch):
    monkeypatch.setattr(relation_reports, "known_rows", lambda model, data: list(range(len(data)))[: 8 if data.name == "few" else 11])
    other = RelationData("other", "q{s}yz", LETTERS.subjects, LETTERS.objects)
    few = RelationData("few", "q{s}yz", LETTERS.subjects, LETTERS.objects)
    found = relation_report(small, [LETTERS, other, few], [0, 1], [2.0, 3.0], n_train=4, most=9, least=9)
    assert found.skipped == ("few",) and {entry.name for entry in found.entries} == {"letters", "other"}
    shares = [entry.comparison.shares["LRE"] for entry in found.entries]
    assert shares == sorted(shares, reverse=True)
    for entry in found.entries:
        parts = entry.parts
        assert entry.known == 11 / 12 and [len(side) for side in (parts.train, parts.choose, parts.test)] == [4, 2, 3]
        assert set(entry.subjects.subjects) <= set(LETTERS.subjects) and len(set(entry.subjects.subjects)) == 9
        best = entry.sweep.best
        [other] = (one.sweep for one in found.entries if one is not entry)
        others = [
            LinearRelation(o.relation, o.kind, o.layer, o.weight, o.bias, other.best.beta) for o in other.maps if o.layer == best.layer
        ]
        again = compare_to_baselines(small, parts, fit_lre(small, parts.train, best.layer, best.beta), others)
        assert (entry.comparison.lre.layer, entry.comparison.lre.beta) == (best.layer, best.beta) and best.beta in (2.0, 3.0)
        assert torch.equal(again.hits, entry.comparison.hits) and again.methods == entry.comparison.methods
    lines = found.table().splitlines()
    assert len(lines) == 4 and lines[-1] == "too few known subjects: few" and " 92%" in lines[1]
    assert "too few known subjects: letters" in relation_report(small, [LETTERS], [0], [1.0], least=50).table()


# ------------------------------------------------------------------------------------------------------------- editing


def test_the_inverse_of_full_rank_inverts_and_a_low_rank_forgets():
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    one = LinearRelation("r", "LRE", 0, weight, torch.ones(6))
    assert torch.allclose(one.inverse(6) @ weight, torch.eye(6), atol=1e-4)
    for sizes, kept in (([2.0, 4.0, 1.0], [0.5, 0.25, 0.0]), ([2.0, 0.0], [0.5, 0.0])):
        diagonal, inverse = torch.diag(torch.tensor(sizes)), torch.diag(torch.tensor(kept))
        assert torch.allclose(LinearRelation("r", "LRE", 0, diagonal, torch.zeros(len(sizes))).inverse(2), inverse, atol=1e-6)
    s, wanted = torch.randn(3, 6), torch.randn(3, 6)
    for rank in (6, 2):
        assert torch.allclose(one(s + edit_delta(one, one(s), wanted, rank)), wanted, atol=1e-3) == (rank == 6)


def test_edits_of_a_linear_model_succeed_all(linear):
    model, m, c = linear
    pairs = edit_pairs(model, LETTERS, 10)
    found = edit_subjects(model, LETTERS, LinearRelation("letters", "LRE", 0, m, c), pairs, rank=16)
    assert found.done["edited"].all() and found.done["subject"].all()
    assert found.done["random"].shape == (5, 10) and not found.done["random"].all(1).any()
    nothing = edit_subjects(model, LETTERS, LinearRelation("letters", "LRE", 0, m * 1e6, c), pairs, rank=16)
    assert (
        not nothing.done["edited"].any() and nothing.shares["edited"] == 0
    )  # a map a million times as steep asks for no change, and the model says what it always did


def test_each_edit_is_made_in_the_model_at_the_subject(gpt2):
    one = fit_lre(gpt2, DATA, 0)
    pairs = [("Taipei", "The Golden Gate Bridge"), ("San Francisco", "Paris"), ("The Golden Gate Bridge", "San Francisco")]
    other = LinearRelation("other", "LRE", 0, torch.randn(32, 32, generator=torch.Generator().manual_seed(1)), torch.zeros(32))
    found, states = edit_subjects(gpt2, DATA, one, pairs, 8, 2, seed=4, others=[other]), relation_states(gpt2, DATA, [0])
    drawn = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(4))
    for number, (subject, wished) in enumerate(pairs):
        now, wanted = SUBJECTS.index(subject), SUBJECTS.index(wished)
        tokens, pos, s = tokenize(gpt2, DATA.prompts[now])[None], int(states.subject[now]), states.s[0, now]
        step = states.o[wanted] - states.o[now]
        delta = one.inverse(8) @ step
        words = gpt2.W_U[:, states.token[[now, wanted]]].T
        vectors = {
            "edited": [delta],
            "capped": [delta * min(1, s.norm() / delta.norm())],
            "other maps": [other.inverse(8) @ step],
            "output": [words[1] - words[0]],
            "random": [*drawn[:, number]],
        }
        for kind in ("other maps", "output", "random"):
            vectors[kind] = [vector * delta.norm() / vector.norm() for vector in vectors[kind]]
        ends = {kind: [s + vector for vector in some] for kind, some in vectors.items()}
        ends |= {"subject": [states.s[0, wanted]], "end": [states.o[wanted]], "word": [words[1] * s.norm() / words[1].norm()]}
        assert list(ends) == list(found.done) and found.length[number] == pytest.approx((delta.norm() / s.norm()).item(), rel=1e-4)
        for kind, some in ends.items():
            made = most_likely(gpt2, end_state(gpt2, tokens, resid_post(0), pos, torch.stack(some))) == states.token[wanted]
            assert torch.equal(found.done[kind][:, number], made), kind


def test_pairs_have_different_answers(small):
    token = dict(zip(LETTERS.subjects, relation_states(small, LETTERS, [0]).token.tolist(), strict=True))
    every = edit_pairs(small, LETTERS, 1000)
    assert {*every} == {(a, b) for a in token for b in token if token[a] != token[b]} and len({*every}) == len(every) > 10
    assert len(edit_pairs(small, LETTERS, 7)) == 7 and edit_pairs(small, LETTERS, 7) != edit_pairs(small, LETTERS, 7, seed=1)


def test_the_map_and_rank_are_chosen_by_successful_edits(small):
    maps, pairs = fit_lre_layers(small, split(LETTERS, 4).train, [-1, 0]), edit_pairs(small, LETTERS, 9)
    hits = [[edit_subjects(small, LETTERS, one, pairs, rank, draws=1).done["edited"].sum() for rank in (2, 8, 16)] for one in maps]
    best, rank = divmod(int(torch.tensor(hits).argmax()), 3)
    assert choose_edit(small, maps, LETTERS, [2, 8, 16], n=9) == (maps[best], (2, 8, 16)[rank])


def test_edit_report_chooses_on_one_half_and_reports_the_other(small, monkeypatch):
    monkeypatch.setattr(relation_reports, "known_rows", lambda model, data: list(range(len(data))))
    same = RelationData("same", "{s}", LETTERS.subjects, LETTERS.objects)
    different = relation_reports._different
    monkeypatch.setattr(relation_reports, "_different", lambda model, data: [] if data.name == "same" else different(model, data))
    found, tried = relation_report(small, [LETTERS, same], [0], [1.0], n_train=4, least=8), []
    monkeypatch.setattr(relation_reports, "choose_edit", lambda *given, **more: tried.append(given[2]) or choose_edit(*given, **more))
    edits = edit_report(small, found, [4, 16], n=6, draws=2)
    assert [one.lre.relation for one in edits.edits] == ["letters"]
    entry = next(entry for entry in found.entries if entry.name == "letters")
    assert tried == [entry.parts.choose]
    surrogate, rank = choose_edit(small, entry.sweep.maps, entry.parts.choose, [4, 16])
    again = edit_subjects(small, entry.parts.test, surrogate, edit_pairs(small, entry.parts.test, 6), rank, 2)
    one = edits.edits[0]
    assert one.rank == rank and all(torch.equal(one.done[kind], again.done[kind]) for kind in ("edited", "random"))
    assert {subject for pair in one.pairs for subject in pair} <= set(entry.parts.test.subjects)
    assert edits.agreement == (entry.comparison.shares["LRE"],) and len(edits.table().splitlines()) == 2


# -------------------------------------------------------------------------------------------------------------- errors


def test_errors_are_sentences(small, gpt2):
    constant = LinearRelation("place", "LRE", 0, torch.eye(32), torch.zeros(32))
    cases = [
        *((partial(RelationData, "r", told, ("a",), ("b",)), "needs the subject once") for told in ("It is", "{s} {s} is", "{s} is {o}")),
        (lambda: BaselineComparison(MAP, ("LRE",), torch.ones(1, 2)).of("guess"), "There is no method 'guess'"),
        (lambda: RelationData("r", "{s} is", ("a", "b"), ("c",)), "2 subjects and 1 objects"),
        (lambda: course_relations(["capitol"]), "There is no relation 'capitol'; choose one of: .*capital"),
        (lambda: split(LETTERS, 11), "has 12 subjects; fitting 11 and judging needs 13"),
        (lambda: split(LETTERS, 0), "1 or more, not 0"),
        (lambda: relation_states(gpt2, DATA, [2]), "There is no layer 2"),
        (lambda: fit_lre(gpt2, DATA, 2), "this model's layers are 0 to 1"),
        (lambda: jacobian(gpt2, DATA, "Rome", 0), "'Rome' is no subject of 'place'"),
        (lambda: relation_states(gpt2, DATA, [0]).at(1), "There is no layer 1; choose one of: 0"),
        (lambda: relation_states(gpt2, DATA.take([]), [0]), "There are no prompts"),
        (lambda: subject_positions(gpt2, RelationData("r", "In Par{s}s", ("i",), ("a",))), "are not separate from the text around"),
        (lambda: subject_positions(small, RelationData("r", "{s} is", ("a" * 40,), ("b",))), "this model reads 24"),
        (lambda: sweep_lre(small, split(LETTERS, 4), [0], []), "at least one layer and one beta"),
        (lambda: MAP.inverse(3), "from 1 to 2, not 3"),
        (lambda: MAP.inverse(0), "from 1 to 2, not 0"),
        (lambda: edit_subjects(gpt2, DATA, constant, [], 4), "no pair of subjects"),
        (lambda: edit_subjects(gpt2, DATA, constant, [("Taipei", "Rome")], 4), "'Rome' is no subject"),
        (lambda: edit_subjects(gpt2, DATA, constant, [("Taipei", "Paris")], 40), "from 1 to 32, not 40"),
        (lambda: edit_pairs(gpt2, DATA.take([0])), "two subjects with different answers"),
    ]
    for run, message in cases:
        with pytest.raises(ValueError, match=message):
            run()
