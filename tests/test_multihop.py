"""Two hops: every patch against a run by hand, oracles and fixed pairs on hand-made truths, filters with stubbed predictions."""

from dataclasses import replace

import pytest
import torch
from tiny_models import NAMES, token, write_word_model

from helpers import interventions
from helpers.course_lm.facts import chains
from helpers.interventions import intervene, record, resid_post
from helpers.models import load_model
from helpers.prediction import tokenize
from helpers.running import next_tokens, random_like
from helpers.speak import back_patching, two_hops
from helpers.speak.back_patching import (
    SOURCES,
    BackPatch,
    BackPatchRuns,
    back_patch_with_controls,
    e1_halves,
    rate,
)
from helpers.speak.bridges import EntityRanks, entity_ranks, fit_probe
from helpers.speak.two_hops import (
    PLACES,
    Answered,
    TwoHop,
    answered,
    course_chains,
    course_questions,
    has_shortcut,
    hops_known,
    partners,
)
from helpers.stats import cluster_interval

WORDS = ("The", "wife", "home", "of", "singer", "writer", "Imagine", "Help", "Emma", "Dune", "is", "John", "Paul", "Jane", "Frank")
ANSWERS = ("Yoko", "Linda", "Tom", "Beverly", "Liverpool", "London", "Bath", "Tacoma")
SONGS = (("Imagine", "John", "Yoko"), ("Help", "Paul", "Linda"), ("Emma", "Jane", "Tom"), ("Dune", "Frank", "Beverly"))


def song(e1: str, e2: str, e3: str, kind: str = "singer+wife") -> TwoHop:
    first, second = kind.split("+")
    return TwoHop(f"The {second} of the {first} of {e1} is", f"The {second} of the {first} of {e1}", e1, e2, e3, kind)


QUESTIONS = [song(*names) for names in SONGS]
PROSE = [
    TwoHop("The Tower of the Bridge in Taipei is in", "The Tower of the Bridge in Taipei", "Taipei", "Eiffel", "Paris", "a"),
    TwoHop("The Gate in Paris is", "The Gate in Paris", "Paris", "Golden", "San", "a"),
    TwoHop("The Bridge of San Francisco is in the", "The Bridge of San Francisco", "San Francisco", "Tower", "Taipei", "a"),
]


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, load):
    """A random model of each architecture."""
    return load(request.param)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A random GPT-2 of four layers, with a token for each word."""

    def louder(model):  # such that what it says depends on what it reads
        for name, weights in model.named_parameters():
            if ".h." in name or weights.ndim == 1:
                weights.data *= 2 if weights.ndim > 1 else 1 if "ln_f" in name else 0.3 if "bias" in name else 1

    sizes = dict(n_embd=16, n_layer=4, n_head=2, n_positions=16)
    return load_model(write_word_model(tmp_path_factory.mktemp("deep"), [*WORDS, "the", *ANSWERS], louder, **sizes))


# ------------------------------------------------------------------------------------------------------------ questions


@pytest.fixture(scope="module", params=[True, False], ids=["held out", "trained"])
def course(request):
    """Which side was asked for, and all questions of the course's world on it."""
    return request.param, course_questions(request.param)


def test_course_questions_tell_neither_bridge_nor_answer(course):
    _, found = course
    assert len({one.kind for one in found}) > 30
    for one in found:
        assert one.text.startswith(one.phrase) and one.text[len(one.phrase) :].split()[0] == "is"
        assert one.phrase.lower().endswith(one.e1.lower())
        assert one.e3.lower() not in one.text.lower().replace(one.phrase.lower(), "") and one.e2 not in one.e1 and one.e3 not in one.e1
        assert not one.hops[0].endswith(one.e2) and one.e1.split()[-1] in one.hops[0] and one.e2 in one.hops[1]
        assert one.e1 in one.direct and len(one.direct) < len(one.text)
    bridges = {}
    for one in found:
        assert bridges.setdefault((one.kind, one.e1), one.e2) == one.e2


def test_held_out_first_entities_stand_in_no_two_hop_sentence(course):
    side, found = course
    trained = {chain.first.subject for chain in chains() if not chain.held_out}
    assert bool({one.e1 for one in found} & trained) == (not side) and len({one.e1 for one in found}) > 300


# -------------------------------------------------------------------------------------------------------------- filters


def stubbed(monkeypatch, model, says):
    """The model says a given word after each prompt, with the probability given or 0.9, and spreads the rest."""

    def stub(model, prompts):
        found = torch.full((len(prompts), model.cfg.d_vocab), 0.001)
        for row, prompt in enumerate(prompts):
            word, prob = (says.get(prompt, "is"), 0.9) if isinstance(says.get(prompt, "is"), str) else says[prompt]
            found[row, token(model, word)] = prob
        return (found / found.sum(-1, keepdim=True)).log()

    monkeypatch.setattr(two_hops, "logits_at_end", stub)
    monkeypatch.setattr(two_hops, "next_tokens", lambda model, prompts: stub(model, prompts).argmax(-1))


def with_hops(one: TwoHop) -> TwoHop:
    return replace(one, hops=(f"The singer of {one.e1} is", f"The wife of {one.e2} is"), direct=f"The wife of {one.e1} is")


def test_both_hops_must_be_known(deep, monkeypatch):
    asked = [with_hops(one) for one in QUESTIONS]
    says = {prompt: word for one in asked for prompt, word in zip(one.hops, (one.e2, one.e3), strict=True)}
    stubbed(monkeypatch, deep, says)
    assert hops_known(deep, asked).tolist() == [True] * 4
    stubbed(monkeypatch, deep, says | {asked[0].hops[0]: "Paul", asked[2].hops[1]: "Yoko"})
    assert hops_known(deep, asked).tolist() == [False, True, False, True]


def test_the_second_relation_alone_is_a_shortcut(deep, monkeypatch):
    asked = [with_hops(one) for one in QUESTIONS]
    stubbed(monkeypatch, deep, {asked[1].direct: "Linda", asked[2].direct: "Linda"})
    assert has_shortcut(deep, asked).tolist() == [False, True, False, False]


def test_the_relations_alone_are_a_shortcut(deep, monkeypatch):
    asked = [replace(one, e3="Linda") for one in QUESTIONS[:2]] + [replace(QUESTIONS[2], e3="Yoko")]
    stubbed(monkeypatch, deep, {asked[0].text: "Linda", asked[1].text: ("Tom", 0.8), asked[2].text: "Yoko"})
    # mean without the first: Tom .4, Yoko .45; without the second: Linda and Yoko alike, Linda later in the vocabulary; third: Linda .45
    assert has_shortcut(deep, asked).tolist() == [False, False, False]
    stubbed(monkeypatch, deep, {asked[0].text: "Linda", asked[1].text: ("Linda", 0.8), asked[2].text: "Yoko"})
    # the others say: Linda .8 or Yoko .9 about the first; Linda .9 or Yoko .9 about the second; Linda about the third
    assert has_shortcut(deep, asked).tolist() == [False, False, False]
    stubbed(monkeypatch, deep, {asked[0].text: "Linda", asked[1].text: ("Linda", 0.95), asked[2].text: ("Yoko", 0.5)})
    assert has_shortcut(deep, asked).tolist() == [True, True, False]


def test_neither_the_same_entity_nor_another_kind_makes_a_shortcut(deep, monkeypatch):
    twice = [QUESTIONS[0], replace(QUESTIONS[0], e2="Paul")]
    other = song("Help", "Paul", "Yoko", "singer+home")
    stubbed(monkeypatch, deep, {one.text: "Yoko" for one in [*twice, other, QUESTIONS[1]]})
    assert has_shortcut(deep, [*twice, other]).tolist() == [False, False, False]
    assert has_shortcut(deep, [*twice, song("Help", "Paul", "Yoko")]).tolist() == [True, True, True]


def test_course_chains_pass_both_filters(deep, monkeypatch):
    asked = [*QUESTIONS, *QUESTIONS[:2]]
    monkeypatch.setattr(two_hops, "course_questions", lambda: asked)
    monkeypatch.setattr(two_hops, "hops_known", lambda model, some: torch.tensor([True, True, True, True, False, False]))
    monkeypatch.setattr(two_hops, "has_shortcut", lambda model, some: torch.tensor([True, False, False, False, True, False]))
    assert course_chains(deep) == course_chains(deep, among=asked) == asked[1:4]
    monkeypatch.setattr(two_hops, "has_shortcut", lambda model, some: torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="None of these questions passes the filters"):
        course_chains(deep)


# ------------------------------------------------------------------------------------------------------- right and wrong


def test_questions_are_sorted_by_their_answer(deep, monkeypatch):
    stubbed(monkeypatch, deep, {QUESTIONS[0].text: "Yoko", QUESTIONS[1].text: "Yoko", QUESTIONS[3].text: "Beverly"})
    found = answered(deep, QUESTIONS)
    assert found.right == (QUESTIONS[0], QUESTIONS[3]) and found.wrong == (QUESTIONS[1], QUESTIONS[2])


def test_a_table_sorts_by_the_second_relation_and_counts_entities_once():
    one, other = QUESTIONS[:2]
    table = Answered((one, song("Imagine", "John", "Liverpool", "singer+home")), (other, replace(one, kind="writer+wife"))).table()
    rows = [line.split() for line in table.splitlines()]
    assert [row[:4] for row in rows[1:]] == [["home", "1", "1", "100.0%"], ["wife", "3", "2", "33.3%"], ["all", "4", "2", "50.0%"]]
    assert len(rows[1]) == 4 and rows[2][4:] == ["[0.0%,", "50.0%]"]


def test_matched_questions_are_of_the_same_kinds():
    homes = [song(f"{row}", "John", "Bath", "writer+home") for row in range(4)]
    found = Answered((*QUESTIONS[:1], *homes[:3]), (*QUESTIONS[1:], *homes[3:]))
    kept = found.matched()
    assert [one.kind for one in kept.right] == [one.kind for one in kept.wrong] == ["singer+wife", "writer+home"]
    assert {*kept.right} <= {*found.right} and {*kept.wrong} <= {*found.wrong}
    assert "4      4  100.0% [51.0%, 100.0%]" in Answered(tuple(QUESTIONS), ()).table()  # Wilson's: four entities are not certainty


# ----------------------------------------------------------------------------------------------------- partners, states


def test_a_partner_shares_no_entity_and_is_of_the_same_kind():
    asked = [*QUESTIONS, *(song(e1, e2, place, "writer+home") for (e1, e2, _), place in zip(SONGS, ANSWERS[4:], strict=True))]
    seen = set()
    for seed in range(10):
        for row, other in enumerate(partners(asked, seed).tolist()):
            assert asked[other].kind == asked[row].kind
            assert not {asked[other].e1, asked[other].e2, asked[other].e3} & {asked[row].e1, asked[row].e2, asked[row].e3}
            seen.add((row, other))
    assert len(seen) == 8 * 3  # every one that there is


def test_a_partner_of_another_kind_where_the_kind_has_none():
    same_bridge = [song("Imagine", "John", "Yoko"), song("Help", "John", "Linda"), song("Emma", "Paul", "Bath", "singer+home")]
    assert partners(same_bridge).tolist()[:2] == [2, 2]


def test_some_pairs_must_not_meet():
    barred = torch.tensor([[False, True, True, False], [True, False, False, True], [False] * 4, [False] * 4])
    for seed in range(5):
        assert partners(QUESTIONS, seed, barred).tolist()[:2] == [3, 2]


# ---------------------------------------------------------------------------------------------------- when it can be read


RANKS = torch.tensor([[9, 3, -1, 0], [4, 0, -1, 5], [0, 7, -1, 0], [0, 0, -1, 2]])


def test_earliest_layers_shares_and_medians():
    found = EntityRanks(tuple(QUESTIONS), {"e2 at t1": RANKS})
    assert found.earliest("e2 at t1").tolist() == [2, 1, -1, 0]
    assert found.share("e2 at t1").tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    middle, (low, high) = found.median("e2 at t1")
    assert middle == 1 and (low, high) == (0.0, 2.0)
    assert "100.0%      3" in found.table()
    assert found.readable("e2 at t1").tolist() == [True, True, False, True]
    assert found.known("e2 at t1").questions == found.found("e2 at t1").questions == (*QUESTIONS[:2], QUESTIONS[3])
    swapped = found.among([QUESTIONS[3], QUESTIONS[0]])
    assert swapped.e1 == ["Dune", "Imagine"] and swapped.earliest("e2 at t1").tolist() == [0, 2]
    never = EntityRanks(tuple(QUESTIONS), {"e2 at t1": RANKS + 1 - 2 * (RANKS < 0).long()})
    assert never.earliest("e2 at t1").tolist() == [4, 4, -1, 4] and never.median("e2 at t1")[0] == 4


def planted(seed: int):
    """States of four bridges, three questions each, in two kinds that lie far apart, and one direction of much noise in all."""
    rng = torch.Generator().manual_seed(seed)
    names = [(kind, e2) for kind in ("singer+wife", "writer+home") for e2 in ("John", "Paul", "Jane", "Frank") for _ in range(3)]
    asked = [song(f"{seed}-{row}", e2, "Yoko", kind) for row, (kind, e2) in enumerate(names)]
    points = torch.nn.functional.one_hot(torch.tensor([["John", "Paul", "Jane", "Frank"].index(e2) for _, e2 in names]), 6).float()
    points[:, 5] = 10 * torch.randn(len(names), generator=rng)
    points[12:, 4] += 100
    return asked, torch.stack([points, torch.randn(points.shape, generator=rng)])


def test_a_probe_reads_the_bridge_through_kinds_and_noise():
    probe = fit_probe(*planted(0), penalty=1e-4)
    asked, seen = planted(1)
    right = probe.ranks(asked, seen, [one.e2 for one in asked])
    assert right[0].tolist() == [0] * 24  # planted
    assert right[1].float().mean() > 0.7  # noise: some 1.5 of four
    others = probe.ranks(asked, seen, [("Paul", "John")[one.e2 == "Paul"] for one in asked])
    assert (others[0] > 0).sum() == sum(one.e2 in ("John", "Paul") for one in asked) + sum(one.e2 in ("Jane", "Frank") for one in asked)


def test_a_probe_knows_what_it_does_not_know():
    train, shown = planted(0)
    probe = fit_probe(train, shown)
    asked, seen = planted(1)
    strange = [replace(asked[0], kind="cook+home"), *asked[1:]]
    ranks = probe.ranks(strange, seen, ["John", "Nobody", *(one.e2 for one in asked[2:])])
    assert ranks[:, :2].tolist() == [[-1, -1], [-1, -1]] and bool((ranks[:, 2:] >= 0).all())
    kept = [row for row, one in enumerate(train) if one.second == "wife" or one.e2 != "John"]  # nobody asks for John's home
    probe = fit_probe([train[row] for row in kept], shown[:, kept])
    ranks = probe.ranks(asked, seen, [one.e2 for one in asked])
    assert [one.kind for one, rank in zip(asked, ranks[0].tolist(), strict=True) if rank < 0] == ["writer+home"] * 3
    assert int(probe.ranks(asked, seen, ["Paul"] * 24)[:, 12:].max()) <= 2  # of three names that it has met there
    with pytest.raises(ValueError, match="'0-0' is a first entity of both sets"):
        probe.ranks(train, shown, [one.e2 for one in train])


def test_bridge_and_answer_are_read_by_probes_of_one_make(deep):
    train = [song(e1, e2, e3) for e1, e2, e3 in (("John", "Jane", "Tom"), ("Paul", "Jane", "Tom"), ("Frank", "John", "Yoko"))]
    found = entity_ranks(deep, QUESTIONS, train)
    for row, one in enumerate(QUESTIONS):
        own = torch.stack([states_of(deep, one, "t1")], 1)
        shown = torch.stack([states_of(deep, other, "t1") for other in train], 1)
        assert found.ranks["e2 at t1"][:, row].tolist() == fit_probe(train, shown).ranks([one], own, [one.e2])[:, 0].tolist()
    assert found.ranks["e2 at t1"].shape == (4, 4)
    assert (found.ranks["e2 at t2"] < 0).tolist() == [[False, True, False, True]] * 4  # no Paul, no Frank
    assert (found.ranks["e3 at t2"] < 0).tolist() == [[False, True, False, True]] * 4  # no Linda, no Beverly
    other = partners(QUESTIONS).tolist()
    assert (found.ranks["another e2 at t2"][0] < 0).tolist() == [QUESTIONS[row].e2 in ("Paul", "Frank") for row in other]
    with pytest.raises(ValueError, match="'Imagine' is a first entity of both sets"):
        entity_ranks(deep, QUESTIONS, [*train, QUESTIONS[0]])


# --------------------------------------------------------------------------------------------------------- back-patching


def back_patch(model, questions, at="t1", source="own", pairs=(), seed=0):
    """The patches with the states of one source."""
    return back_patch_with_controls(model, questions, at, [source], pairs, seed=seed).run(source)


def by_hand(model, one, at, pair, state):
    """What the model says when a state stands at the target layer's place: one full run."""
    tokens = tokenize(model, one.text)[None]
    pos = len(tokenize(model, one.phrase)) - 1 if at == "t1" else tokens.shape[1] - 1
    with intervene(model, interventions.set_to(resid_post(pair[1]), state[None, None], pos=pos)):
        return model(tokens)[0, -1].argmax().item()


@torch.no_grad()
def states_of(model, one, at):
    """The state after every block, in a run of its own."""
    tokens = tokenize(model, one.text)[None]
    pos = len(tokenize(model, one.phrase)) - 1 if at == "t1" else tokens.shape[1] - 1
    seen = record(model, tokens, *map(resid_post, range(model.cfg.n_layers)))
    return torch.stack([stream[0, pos] for stream in seen.values()])


@torch.no_grad()
@pytest.mark.parametrize("at", PLACES)
def test_every_cell_is_a_run_by_hand(tiny, at):
    pairs = [(source, target) for source in range(2) for target in range(2)]
    found = back_patch(tiny, PROSE, at, pairs=pairs)
    for row, one in enumerate(PROSE):
        own = states_of(tiny, one, at)
        assert found.tokens[:, row].tolist() == [by_hand(tiny, one, at, pair, own[pair[0]]) for pair in pairs]


@torch.no_grad()
@pytest.mark.parametrize("at", PLACES)
def test_every_source_is_a_run_by_hand(deep, at, monkeypatch):
    said = torch.tensor([token(deep, word) for word in ("Yoko", "Yoko", "Yoko", "Tom")])
    plain = next_tokens(deep, [one.text for one in QUESTIONS])
    monkeypatch.setattr(back_patching, "next_tokens", lambda *_: said)  # only the last may be the first one's unknowing partner
    barred = torch.tensor([[True, True, True, False], [False] * 4, [False, False, False, True], [False] * 4])
    unknowing = partners(QUESTIONS, 0, barred).tolist()
    assert partners(QUESTIONS).tolist()[0] != unknowing[0] == 3
    own = torch.stack([states_of(deep, one, at) for one in QUESTIONS], 1)
    given = {
        "own": own,
        "another question": own[:, unknowing],
        "random": random_like(own, 1)[0],  # of the norm of the own state
    }
    for source in SOURCES:
        found = back_patch(deep, QUESTIONS, at, source)
        assert found.pairs == PAIRS and (found.tokens != plain).any()  # some patch does something
        for row, pair in ((0, (1, 0)), (0, (3, 1)), (3, (3, 2)), (3, (3, 0))):
            expected = by_hand(deep, QUESTIONS[row], at, pair, given[source][pair[0], row])
            assert found.tokens[found.pairs.index(pair), row] == expected


@pytest.mark.parametrize("at", PLACES)
def test_a_state_put_back_where_it_was_changes_nothing(deep, at):
    same, plain = [(layer, layer) for layer in range(4)], next_tokens(deep, [one.text for one in QUESTIONS])
    found, foreign = (back_patch(deep, QUESTIONS, at, source, pairs=same) for source in ("own", "random"))
    assert (found.tokens == found.before).all() and (foreign.tokens != foreign.before).any()
    assert torch.equal(found.before, plain) and found.answers.tolist() == [token(deep, one.e3) for one in QUESTIONS]
    some = found.take([2, 0])
    assert some.questions == (QUESTIONS[2], QUESTIONS[0]) and some.tokens.tolist() == found.tokens[:, [2, 0]].tolist()
    assert some.hits.tolist() == found.hits[:, [2, 0]].tolist()


BROKEN = TwoHop("The Tower is in", "The To", "Tower", "Paris", "Taipei")
WRONG = [
    (lambda m: replace(QUESTIONS[0], phrase=""), "must be the beginning"),
    (lambda m: replace(QUESTIONS[0], phrase="The singer"), "must be the beginning"),
    (lambda m: replace(QUESTIONS[0], phrase=QUESTIONS[0].text), "must be the beginning"),
    (lambda m: hops_known(m, QUESTIONS), "both its hops"),
    (lambda m: partners(QUESTIONS, 0, torch.ones(4, 4, dtype=torch.bool)), "no fitting question"),
    (lambda m: partners([QUESTIONS[0], song("Help", "John", "Linda")]), "no fitting question"),
    (lambda m: back_patch(m, QUESTIONS, at="t3"), "no position 't3'"),
    (lambda m: back_patch(m, QUESTIONS, source="next token"), "no source 'next token'"),
    (lambda m: back_patch(m, QUESTIONS, pairs=[(4, 0)]), "There is no layer 4: this model's layers are 0 to 3"),
    (lambda m: back_patch(m, QUESTIONS, pairs=[(1, -1)]), "There is no layer -1"),
    (lambda m: back_patch(m, [BROKEN]), "not separate from the text around"),
    (lambda m: BackPatchRuns({"own": [each_its_own(3)]}).oracle("random"), "no source 'random'"),
    (lambda m: e1_halves(["Imagine"] * 2), "two first entities"),
    (lambda m: EntityRanks(tuple(QUESTIONS), {"e2 at t1": RANKS}).earliest("e3 at t2"), "no entity 'e3 at t2'"),
    (lambda m: entity_ranks(m, [], QUESTIONS), "There are no prompts"),
    *((lambda m, ask=ask: ask(m, []), "There are no prompts") for ask in (back_patch, answered, hops_known, has_shortcut)),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_what_cannot_be_asked_is_said(deep, gpt2, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(gpt2 if "separate" in sentence else deep)


# ------------------------------------------------------------------------------------------------ rates on hand-made truths


PAIRS = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2))  # all that go back in four layers


def made(tokens, answers, questions=None):
    """Patches with the given tokens, ``[pair][question]``; 0 was said before."""
    questions = questions or [song(str(row), f"{row}'s", "Yoko") for row in range(len(answers))]
    before = torch.zeros(len(answers), dtype=torch.long)
    return BackPatch(tuple(questions), PAIRS[: len(tokens)], torch.tensor(tokens), before, torch.tensor(answers), 4)


def test_the_oracle_needs_one_pair():
    found = made([[5, 0, 0], [0, 0, 7], [5, 0, 0]], answers=[5, 6, 7])
    assert found.oracle.tolist() == [True, False, True]
    assert found.hits.tolist() == [[True, False, False], [False, False, True], [True, False, False]]
    expected = torch.full((4, 4), torch.nan)
    expected[1:, 0] = 1 / 3
    assert torch.allclose(found.map, expected, equal_nan=True)


def each_its_own(n):
    """Two questions about each of ``n`` entities; a pair of layers helps one entity only, with both its questions."""
    asked = [song(str(row // 2), f"{row}'s", "Yoko") for row in range(2 * n)]
    return made([[5 if row // 2 == pair else 0 for row in range(2 * n)] for pair in range(n)], [5] * 2 * n, questions=asked)


def test_a_fixed_pair_never_sees_the_entities_it_is_judged_on():
    found = BackPatchRuns({"own": [each_its_own(6)]})
    assert found.oracle().tolist() == [1.0] * 12  # the oracle is perfect,
    assert found.fixed().tolist() == [0.0] * 12  # and of no use: whoever chooses by other entities never helps
    assert found.run().hits.float().mean(1).max() > 0  # while the best pair of all, chosen by all, would help some


def test_a_pair_that_helps_all_is_found():
    tokens = [[0] * 12, [5] * 12, [5, 5] + [0] * 10]
    asked = each_its_own(6).questions
    found = BackPatchRuns({"own": [made(tokens, [5] * 12, asked)], "random": [made([tokens[0], tokens[0], tokens[1]], [5] * 12)]})
    assert found.fixed().tolist() == [1.0] * 12
    assert found.fixed("random").tolist() == [1.0] * 12  # the control's own best pair


def test_the_table_has_each_source_beside_the_own_states():
    asked = each_its_own(6).questions
    own, other = made([[5] * 12], [5] * 12, asked), made([[5] * 6 + [0] * 6], [5] * 12, asked)
    _, first, second = BackPatchRuns({"own": [own], "another question": [other]}).table().splitlines()
    assert first.split() == ["own", "100.0%", "[100.0%,", "100.0%]"]
    assert second.startswith("another question  50.0% [") and "+50.0% [+" in second


def test_the_draws_of_a_control_are_averaged(deep):
    asked = each_its_own(2).questions
    helped, idle = (made([[token] * 4], [5] * 4, asked) for token in (5, 0))
    found = BackPatchRuns({"own": [helped], "random": [helped, idle, idle, idle]})
    assert found.oracle("random").tolist() == found.fixed("random").tolist() == [0.25] * 4
    drawn = back_patch_with_controls(deep, QUESTIONS, "t1", ("own", "random"), seed=3, draws=2)
    assert [len(runs) for runs in drawn.runs.values()] == [1, 2]
    assert drawn.runs["random"][1].tokens.tolist() == back_patch(deep, QUESTIONS, "t1", "random", seed=4).tokens.tolist()


def test_rates_have_intervals_over_entities():
    values, e1 = torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0]), [str(row // 2) for row in range(8)]
    assert rate(values, e1) == "50.0% [{:.1%}, {:.1%}]".format(*cluster_interval(values, e1))


def test_halves_share_no_entity():
    e1 = each_its_own(5).e1
    splits = e1_halves(e1)
    assert len({tuple(one) for one, _ in splits}) > 1
    for one, other in splits:
        assert sorted(one + other) == list(range(10))
        assert not {e1[row] for row in one} & {e1[row] for row in other} and one and other


def test_back_patching_has_equally_many_tries_for_all(deep):
    found = back_patch_with_controls(deep, QUESTIONS, "t2", seed=4)
    assert list(found.runs) == list(SOURCES) and {found.run(source).tokens.shape for source in SOURCES} == {(6, 4)}
    for source in ("own", "random"):
        assert found.run(source).tokens.tolist() == back_patch(deep, QUESTIONS, "t2", source, seed=4).tokens.tolist()
