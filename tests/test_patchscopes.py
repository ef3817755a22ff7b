"""Patchscopes: a patch is the plain run with a state replaced, whatever is remembered or batched; positions, maps and shares by hand."""

import pytest
import torch
from tiny_models import NAMES, write_tiny_model

from helpers.cluster.relations import RelationData
from helpers.interventions import intervene, record, set_to
from helpers.models import load_model
from helpers.prediction import pieces, tokenize
from helpers.running import layer_hook, lens_logits
from helpers.speak import patchscope_evaluation, patchscopes
from helpers.speak.patchscope_evaluation import (
    METHODS,
    Attributes,
    Precision,
    attribute,
    attribute_extraction,
    fit_maps,
    precision_by_layer,
)
from helpers.speak.patchscopes import (
    DESCRIPTION,
    FILLER,
    IDENTITY,
    ITSELF,
    Readings,
    Source,
    Target,
    begins_with,
    describe,
    matched,
    own_place,
    patchscope,
    source_place,
    target_place,
)
from helpers.speak.tuned_lens import TunedLens
from helpers.stats import wilson

SHORT = Target("a -> a\nx", until="\0")  # read at the placeholder, where random models too say something else about each state
LIST = Target("a -> a\nx:", until="\0")
NAMED = ["Taipei", "Paris", "The Eiffel Tower"]
EVERY = (-1, 0, 1)  # the layers of a tiny model


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, load):
    return load(request.param)


@pytest.fixture
def numbered(monkeypatch):
    """Texts as numbers of tokens, since many tokens of a tiny model are half a letter and look the same."""
    monkeypatch.setattr(patchscopes, "_text", as_numbers)


def as_numbers(model, ids, until=""):
    end = model.tokenizer.eos_token_id
    return " ".join(map(str, ids[: ids.index(end)] if end in ids else ids))


def state_of(model, ids, at, layer):
    with torch.no_grad():
        return record(model, ids[None], layer_hook(layer))[layer_hook(layer)][0, at]


@torch.no_grad()
def by_hand(model, ids, at, state, layer, tokens=3):
    """The plain way: the whole text again for each new token, with the state put in its place each time."""
    change, start = [] if state is None else [set_to(layer_hook(layer), state, pos=at)], len(ids)
    for _ in range(tokens):
        with intervene(model, *change):
            ids = torch.cat([ids, model(ids[None])[0, -1:].argmax(-1)])
    return as_numbers(model, ids[start:].tolist())


# ------------------------------------------------------------------------------------------------------ source and target


@pytest.mark.parametrize("prompt, said", [("cat -> cat", "does not occur"), ("x -> x", "occurs 2 times"), ("exact:", "does not occur")])
def test_a_target_has_one_placeholder(prompt, said):
    with pytest.raises(ValueError, match=f"placeholder 'x' {said} in"):
        Target(prompt)
    assert Target("six: x:").times(2) == ("six: x x:", [5, 7])


def test_a_source_must_hold_its_word(gpt2):
    for word in ("Warsaw", "", " "):
        with pytest.raises(ValueError, match="does not occur in 'Poland is big'"):
            Source("Poland is big", word)
    assert Source("Warsaw is in Poland", "Warsaw").name == "Warsaw" and Source("Warsaw").name == "Warsaw"


def test_the_last_occurrence_and_the_last_token_count(gpt2):
    text = "Paris is in Paris. It"
    ids = tokenize(gpt2, text)
    found = source_place(gpt2, Source(text, "Paris"))
    through = tokenize(gpt2, "Paris is in Paris")
    assert found.tokens.tolist() == ids.tolist() and found.at == (len(through) - 1,)
    whole = source_place(gpt2, Source(text, "Paris"), whole=True)
    assert "".join(pieces(gpt2, ids[list(whole.at)])).strip() == "Paris" and whole.at[-1] == found.at[0]
    assert source_place(gpt2, Source(text)).at == (len(ids) - 1,)
    assert source_place(gpt2, Source(text), whole=True).at == tuple(range(1, len(ids)))  # not the mark of the document
    assert source_place(gpt2, Source(text, 2), whole=True).at == (2,)


def test_placeholders_are_found_one_for_each_token(gpt2):
    target = Target("a: b, x:")
    for n in (1, 3):
        found = target_place(gpt2, target, n)
        assert [piece.strip() for piece in pieces(gpt2, found.tokens[list(found.at)])] == ["x"] * n
        assert gpt2.tokenizer.decode(found.tokens[1:]) == f"a: b, {' '.join('x' * n)}:"


def test_the_papers_targets_have_their_placeholder(course_lm):
    places = {target: target_place(course_lm, target) for target in (IDENTITY, ITSELF, DESCRIPTION)}
    for target, found in places.items():
        assert pieces(course_lm, found.tokens[list(found.at)]) == [" x"]
        assert (found.at[0] == len(found.tokens) - 1) == (target is IDENTITY)
    assert places[IDENTITY].at == places[ITSELF].at


@pytest.mark.parametrize("name", ["gpt2", "neox-serial"])  # with and without a mark of a new document
def test_filler_brings_both_to_one_position(name, load):
    model = load(name)
    marked = int(bool(model.cfg.default_prepend_bos))
    source, target = source_place(model, Source("Taipei")), target_place(model, Target("a -> a; a -> a; x"), 1)
    for one, other in ((source, target), (target, source)):
        first, second = matched(model, one, other)
        assert first.at[-1] == second.at[-1] == max(one.at[-1], other.at[-1])
    long, same = matched(model, source, target)
    assert same is target and long.tokens[:marked].tolist() == source.tokens[:marked].tolist()
    assert FILLER.endswith(model.tokenizer.decode(long.tokens[marked : -len(source.tokens) + marked or None]))
    assert model.tokenizer.decode(long.tokens).endswith("\nTaipei")
    assert matched(model, target, target) == (target, target)


def test_filler_may_be_longer_than_its_text(gpt2, monkeypatch):
    monkeypatch.setattr(patchscopes, "FILLER", "We sat.\n")
    once = gpt2.tokenizer("We sat.\n", add_special_tokens=False)["input_ids"]
    place = source_place(gpt2, Source("Taipei"))
    filled = place.filled(gpt2, 2 * len(once) + 3).tokens[1:].tolist()
    assert filled == [*once[-3:], *once, *once, *place.tokens[1:].tolist()]


# ------------------------------------------------------------------------------------------------------------ the patch


@pytest.mark.parametrize("into", [-1, 0])
def test_a_patch_is_the_plain_run_with_a_state_replaced(tiny, numbered, into):
    """And it stays at work while the text goes on; afterwards the model is as before."""
    blank = target_place(tiny, SHORT)
    with torch.no_grad():
        before = tiny(blank.tokens[None])
    found = patchscope(tiny, NAMED[:2], SHORT, [-1, 1], into, tokens=3, match=False)
    assert found.target_layers == (into, into) and len({*found.texts[0], *found.texts[1]}) > 1
    for number, layer in enumerate(found.layers):
        for row, name in enumerate(NAMED[:2]):
            state = state_of(tiny, tokenize(tiny, name), -1, layer)
            assert found.texts[number][row] == by_hand(tiny, blank.tokens, blank.at[0], state, into)
    assert found.unpatched == (by_hand(tiny, blank.tokens, blank.at[0], None, into),) * 2
    with torch.no_grad():
        assert torch.equal(tiny(blank.tokens[None]), before)


def test_same_puts_each_state_into_its_own_layer(gpt2, numbered):
    every = {into: patchscope(gpt2, NAMED, SHORT, EVERY, into, tokens=3) for into in EVERY}
    same = patchscope(gpt2, NAMED, SHORT, EVERY, tokens=3)
    assert same.target_layers == same.layers == EVERY
    assert same.texts == tuple(every[layer].texts[number] for number, layer in enumerate(EVERY)) and len({*same.texts}) > 1


@pytest.mark.parametrize("prompt", [SHORT.prompt, "a -> a; a -> a; a -> a; a -> a; x"])
def test_matched_patches_are_those_of_the_filled_texts(gpt2, numbered, prompt):
    target, source = Target(prompt, until="\0"), Source("The Golden Gate is", "Golden")
    one, other = matched(gpt2, source_place(gpt2, source), target_place(gpt2, target, 1))
    found = patchscope(gpt2, [source], target, EVERY, 0, tokens=3)
    for number, layer in enumerate(EVERY):
        assert found.texts[number][0] == by_hand(gpt2, other.tokens, other.at[0], state_of(gpt2, one.tokens, one.at[0], layer), 0)
    assert found.unpatched[0] == by_hand(gpt2, other.tokens, other.at[0], None, 0)


def test_whole_names_go_token_by_token(gpt2, numbered):
    names, counts = ["Taipei", "Paris", "Eiffel Tower"], set()  # of different lengths
    found = patchscope(gpt2, names, SHORT, [0], 0, tokens=3, match=False, whole=True)
    for row, name in enumerate(names):
        ids = tokenize(gpt2, name)
        target = target_place(gpt2, SHORT, len(ids) - 1)
        state = state_of(gpt2, ids, list(range(1, len(ids))), 0)
        assert found.texts[0][row] == by_hand(gpt2, target.tokens, list(target.at), state, 0)
        counts.add(len(target.at))
    assert len(counts) > 1 and max(counts) > 1
    assert found.texts != patchscope(gpt2, names, SHORT, [0], 0, tokens=3, match=False).texts


def test_many_are_read_as_each_by_itself(gpt2, numbered, monkeypatch):
    asked = ["Taipei", Source("Taipei is", "Taipei"), "Paris"]
    together = patchscope(gpt2, asked, SHORT, [-1, 1], 0, tokens=2)
    monkeypatch.setattr(patchscopes, "PATCHED_ROWS", 2)
    assert patchscope(gpt2, asked, SHORT, [-1, 1], 0, tokens=2).texts == together.texts
    for row, source in enumerate(together.sources):
        assert patchscope(gpt2, [source], SHORT, [-1, 1], 0, tokens=2).texts == tuple((texts[row],) for texts in together.texts)


def test_the_models_own_state_in_its_own_place_changes_nothing(tiny, numbered):
    changes = own_place(tiny, LIST)
    assert changes.shape == (tiny.cfg.n_layers + 1,) and torch.equal(changes, torch.zeros_like(changes))
    found = patchscope(tiny, [Source(SHORT.prompt, "x")], SHORT, tokens=2)
    assert {row[0] for row in found.texts} == {found.unpatched[0]}


def test_own_place_sees_a_patch_that_adds(gpt2, monkeypatch):
    monkeypatch.setattr(patchscopes, "set_to", lambda hook, states, pos: set_to(hook, 2 * states, pos=pos))
    assert (own_place(gpt2, LIST)[:-1] > 0).all()


def test_a_text_ends_with_its_answer_or_with_the_document(gpt2):
    one, other = (gpt2.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" Paris", ", Taipei"))
    cases = {"Paris": [*one, *other], "Paris Paris": [*one, *one], "": other, "Paris ": [*one, gpt2.tokenizer.eos_token_id, *one]}
    assert [patchscopes._text(gpt2, ids, ",") for ids in cases.values()] == [text.strip() for text in cases]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(sources=[]), "no source to read"),
        (dict(sources=[Source("Taipei", 40)]), "no position 40 in 'Taipei'"),
        (dict(sources=[Source("Taipei", -40)]), "no position -40 in 'Taipei'"),
        (dict(sources=[""]), "no position -1 in ''"),
        (dict(sources=[Source("Eiffel", "iff")]), "tokens of 'iff' are not separate from the text around"),
        (dict(sources=["Paris is in Paris. " * 40]), "this model reads 64: shorten it"),
        (dict(sources=[Source("Paris is in Paris. " * 40, "Paris")]), "this model reads 64: shorten it"),
        (
            dict(sources=["a" * 60], target=Target("x" + " a" * 20)),
            "longer than the 64 tokens .*: shorten source or target",
        ),
        (dict(source_layers=[2]), "There is no layer 2"),
        (dict(target_layer=7), "There is no layer 7"),
        (dict(answers=["a"]), "3 sources and 1 answers"),
        (dict(answers=["a", " ", "b"]), "answer is empty"),
        (dict(tokens=60), "reads 64, so 60 more are too many"),
    ],
)
def test_what_cannot_be_asked_is_refused(gpt2, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        patchscope(gpt2, **dict(sources=NAMED, target=SHORT) | options)


def test_describe_asks_for_a_description(gpt2, numbered):
    """Step by step it is the same as many at a time."""
    found = describe(gpt2, "Eiffel Tower", target=SHORT)
    assert found == patchscope(gpt2, ["Eiffel Tower"], SHORT, None, 1) and found.target_layers == (1, 1, 1)
    assert found.table() == found.shown(0) and found.table().splitlines()[0] == "layer  Eiffel Tower"
    assert [line.split()[0] for line in found.table().splitlines()[1:]] == ["in", "0", "1", "no"]


# --------------------------------------------------------------------------------------------------------------- maps


@pytest.fixture
def planted(monkeypatch):
    """States of three layers: the last is an affine image of the first, the middle one is noise."""
    rng = torch.Generator().manual_seed(0)
    first, noise = torch.randn(200, 4, generator=rng) + 3, torch.randn(200, 4, generator=rng)
    weight, bias = torch.randn(4, 4, generator=rng), torch.randn(4, generator=rng)
    states = torch.stack([first, noise, first @ weight.T + bias])
    monkeypatch.setattr(patchscope_evaluation, "sample_states", lambda model, texts, each: states)
    return weight, bias, states


def test_maps_are_least_squares(gpt2, planted, monkeypatch):
    true_weight, true_bias, states = planted
    monkeypatch.setattr(patchscope_evaluation, "PENALTY", 1e-9)
    found = fit_maps(gpt2, [(0, 1), (-1, 0), (-1, 1)], ["any"])
    for (source, target), (weight, bias) in found.items():
        ones = torch.cat([states[source + 1], torch.ones(200, 1)], 1)
        right = torch.linalg.lstsq(ones, states[target + 1]).solution
        assert torch.allclose(weight, right[:-1].T, atol=1e-4) and torch.allclose(bias, right[-1], atol=1e-3)
    assert torch.allclose(found[-1, 1][0], true_weight, atol=1e-4) and torch.allclose(found[-1, 1][1], true_bias, atol=1e-3)
    monkeypatch.setattr(patchscope_evaluation, "PENALTY", 1e6)  # shrinks towards the mean
    weight, bias = fit_maps(gpt2, [(-1, 1)], ["any"])[-1, 1]
    assert weight.abs().max() < 1e-4 and torch.allclose(states[0] @ weight.T + bias, states[2].mean(0).expand(200, -1), atol=1e-3)


# --------------------------------------------------------------------------------------------------------------- results


def readings(texts, answers, **about):
    sources = tuple(map(Source, "abcdef"[: len(texts[0])]))
    layers = tuple(range(-1, len(texts) - 1))
    return Readings(sources, SHORT, layers, (0,) * len(layers), texts, about.get("unpatched", ("",) * len(sources)), answers)


def test_hits_and_their_controls():
    found = readings((("red.", "blue", "green"), ("blue", "blue sky", "bluer")), ("red", "Blue", "red"), unpatched=("red", "x", "red"))
    assert found.hits.tolist() == [[True, True, False], [False, True, False]]
    assert found.others.tolist() == [[0.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
    assert found.constant == pytest.approx(2 / 3)
    low, high = wilson(2, 3)
    lines = found.table().splitlines()
    assert f"66.7% [{low:.1%}, {high:.1%}]" in lines[1] and lines[1].endswith("16.7%") and lines[1].split()[:2] == ["in", "0"]
    assert lines[-1] == "always the same answer: 66.7%, no patch: 66.7%, n = 3" and len(lines) == 4


def test_results_without_answers_are_shown():
    found = readings((("red.", "blue"),), ())
    assert found.table() == "layer  a\n   in  red.\n   no  " and "blue" in found.shown(1)
    assert "nan" in readings((("red",),), ("red",)).table()


@pytest.mark.parametrize(
    "text, answer, right",
    [("Warsaw. It", "warsaw", True), ("Polandic", "Poland", False), (" a.b", "a.b", True), ("axb", "a.b", False), ("", "a", False)],
)
def test_a_text_begins_with_an_answer(text, answer, right):
    assert begins_with(text, answer) == right


# ------------------------------------------------------------------------------------------------------------- precision

TEXTS = ["The Golden Gate Bridge is in San Francisco.", "Taipei 101 is in Taipei.", "The Eiffel Tower is in Paris.", "is"]


@pytest.mark.parametrize("target", [SHORT, LIST], ids=["at the placeholder", "behind it"])
def test_precision_by_hand(tiny, target):
    blank = target_place(tiny, target)
    ids, at = blank.tokens, blank.at[0]
    unchanged = TunedLens.identity(tiny.cfg.n_layers, tiny.cfg.d_model)
    found = precision_by_layer(tiny, TEXTS, [-1, 1], tuned=unchanged, target=target)
    assert torch.equal(found.of("tuned lens"), found.of("logit lens"))
    rows = [tokens for tokens in map(tokenize, [tiny] * 4, TEXTS) if len(tokens) > at]
    assert found.position == at and found.of("Patchscope").shape == (2, len(rows)) and 0 < len(rows) < 4
    for column, tokens in enumerate(rows):
        own = tiny(tokens[None])[0, at].argmax()
        for number, layer in enumerate(found.layers):
            state = state_of(tiny, tokens, at, layer)
            with torch.no_grad(), intervene(tiny, set_to(layer_hook(layer), state, pos=at)):
                said = tiny(ids[None])[0, -1].argmax()
            assert found.of("Patchscope")[number, column] == (said == own)
            assert found.of("logit lens")[number, column] == (lens_logits(tiny, state).argmax() == own)
    assert found.of("logit lens")[-1].all()


def test_the_last_layer_says_what_the_model_says(gpt2):
    found = precision_by_layer(gpt2, TEXTS, [1], train=TEXTS * 3, target=SHORT)
    assert found.of("Patchscope").all() and found.of("logit lens").all()
    assert torch.equal(found.of("with map"), found.of("linear map"))  # half way through two blocks is the last layer, all there is


ONE, OTHER = torch.tensor([[True] * 9 + [False]]), torch.tensor([[True] * 4 + [False] * 6])


def test_precision_is_compared_text_by_text():
    found = Precision((3,), {"Patchscope": ONE, "logit lens": OTHER}, 0.3, 7)
    [(gain, (low, high))] = found.gain("Patchscope", "logit lens")
    assert gain == pytest.approx(0.5) and 0 < low < 0.5 < high
    assert found.take(slice(1, None, 2)).of("Patchscope").tolist() == [[True] * 4 + [False]]
    lines = found.table().splitlines()
    assert lines[1].split()[:2] == ["3", "90.0%"] and lines[-1] == "most frequent token: 30.0%, n = 10 texts, position 7"


# ------------------------------------------------------------------------------------------------------------ attributes

PAIRS = dict(
    subjects=("Taipei", "Paris", "San Francisco", "Eiffel", "Golden", "Gate", "Tower", "Bridge"),
    objects=("is", "in", "is", "in", "is", "is", "in", "The"),
)
DATA = RelationData("place", "{s} is in", **PAIRS)


@pytest.mark.parametrize("n_layers, goals", [(2, (1,)), (3, (1, 2))])
def test_maps_go_half_way_and_to_the_last_layer(n_layers, goals, tmp_path, monkeypatch):
    asked, same = [], (torch.eye(32), torch.zeros(32))
    monkeypatch.setattr(patchscope_evaluation, "fit_maps", lambda model, pairs, texts: asked.append(pairs) or dict.fromkeys(pairs, same))
    model = load_model(write_tiny_model("gpt2", tmp_path, n_layer=n_layers))
    found = precision_by_layer(model, TEXTS, [0, 1], train=TEXTS, target=SHORT)
    assert asked == [[(layer, into) for layer in (0, 1) for into in goals]]
    assert tuple(found.hits) == METHODS[:-1]  # no tuned lens was given
    assert torch.equal(found.of("linear map"), found.of("logit lens"))  # the maps change nothing
    assert torch.equal(found.of("with map")[1], found.of("Patchscope")[1])


def test_an_attribute_is_asked_in_the_words_of_its_relation():
    assert attribute(RelationData("capital", "The capital of {s} is ", ("Poland",), ("Warsaw",))) == Target("The capital of x is")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda model: precision_by_layer(model, ["is"], target=LIST), "No text has a token at position"),
        (lambda model: precision_by_layer(model, TEXTS, [4], target=SHORT), "There is no layer 4"),
        (lambda model: fit_maps(model, [(5, 0)], TEXTS), "There is no layer 5"),
        (lambda model: attribute_extraction(model, DATA.take([0, 1, 2])), "has 3 subjects; a probe and its test need four"),
        (lambda model: readings((("red.", "blue"),), ()).hits, "no answers to compare with"),
        (lambda model: readings((("red",),), ("red",)).others, "A single source has no others"),
        (lambda model: Precision((3,), {"Patchscope": ONE}, 0.3, 7).of("probe"), "no method 'probe'; choose one of: Patchscope"),
    ],
)
def test_what_cannot_be_measured_is_said(gpt2, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(gpt2)


def test_attributes_of_subjects_that_the_probe_has_not_seen(gpt2, monkeypatch):
    """Each half is judged by the probe of the other one, in the order of the subjects."""
    seen = []

    def probe(model, data, states, train, test):
        seen.append((states, train.tolist(), test.tolist()))
        return (test % 3 == 0).expand(len(states), -1)

    monkeypatch.setattr(patchscope_evaluation, "_probe", probe)
    found = attribute_extraction(gpt2, DATA, EVERY, 0)
    (states, one, other), (_, *swapped) = seen
    assert sorted(one + other) == list(range(8)) and len(one) == 4 and swapped == [other, one]
    assert found.probe.tolist() == [[row % 3 == 0 for row in range(8)]] * 3
    asked, target = [Source(name, name) for name in DATA.subjects], attribute(DATA)
    assert found.readings == patchscope(gpt2, asked, target, EVERY, 0, answers=DATA.objects, tokens=4)
    place, _ = matched(gpt2, source_place(gpt2, asked[1]), target_place(gpt2, target, 1))
    assert torch.allclose(states[2, 1], state_of(gpt2, place.tokens, place.at[0], 1), atol=1e-4) and states.shape == (3, 8, 32)


def test_a_probe_reads_what_is_there_and_nothing_else(gpt2):
    rng = torch.Generator().manual_seed(0)
    words = ("is", "in", "The")
    objects = tuple(words[number % 3] for number in range(60))
    data = RelationData("place", "{s} is in", tuple(f"a{n}" for n in range(60)), objects)
    code = torch.eye(3)[[words.index(word) for word in objects]]
    states = torch.stack([code + 0.1 * torch.randn(60, 3, generator=rng), torch.randn(60, 3, generator=rng)])
    right = patchscope_evaluation._probe(gpt2, data, states, torch.arange(30), torch.arange(30, 60)).float().mean(1)
    assert right[0] == 1 and right[1] < 0.7


def test_attributes_stand_beside_the_probe():
    read = readings((("is", "in"), ("is", "x")), ("is", "in"))
    lines = Attributes("place", read, torch.tensor([[True, False], [False, False]])).table().splitlines()
    assert lines[0] == "place" and lines[2].split()[0] == "in" and lines[-1] == "always the same answer: 50.0%, n = 2"
    assert lines[2].count("%") == 7 and "100.0%" in lines[2] and "50.0%" in lines[2] and len(lines) == 5
