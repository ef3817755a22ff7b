"""Recall: facts as prompts, knockout against one pass at a time, attributes and extraction by hand."""

from dataclasses import replace

import pytest
import torch
from tiny_models import END, NAMES

from helpers.cluster import extraction as extraction_module
from helpers.cluster.extraction import enrichment, extraction, first_tokens
from helpers.cluster.fact_prompts import FactPrompt, course_facts, fact_prompt, known_facts, subject_span
from helpers.cluster.knockout import SOURCES, Knockout, cut_attention, knockout_curves, layer_windows, source_masks
from helpers.interventions import add, attn_out, head_out, intervene, mlp_out, pattern, record, resid_post, watch, zero_ablate
from helpers.prediction import pieces, tokenize
from helpers.running import lens_logits

pytestmark = pytest.mark.usefixtures("no_gradients")

ABOUT = dict(attributes=("Paris", "San Francisco"), others=("Bridge", "Taipei"))
FACTS = [
    fact_prompt("The Eiffel Tower is in", "Paris", "Eiffel Tower", **ABOUT),
    fact_prompt("Taipei 101 is in the city of", "Taipei", "Taipei 101", **ABOUT),
    fact_prompt("And the Golden Gate Bridge is in the Bay of", "San Francisco", "golden gate bridge", **ABOUT),
    fact_prompt("The Tower is in", "Paris", "Tower", **ABOUT),
]


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, load):
    """A random model of each architecture."""
    return load(request.param)


def test_a_subject_is_found_whatever_its_capitals_and_its_marks():
    assert fact_prompt("Sushi comes from", "Japan", "sushi").start == 0
    found = fact_prompt("The firm Yahoo! is from", "America", "Yahoo!", relation="home")
    assert (found.start, found.relation) == (len("The firm "), "home")
    assert fact_prompt("Parisians love Paris for", "art", "Paris").start == len("Parisians love ")


def test_subject_tokens_at_the_start_and_in_the_middle(tiny):
    for fact, words in zip(FACTS, (" Eiffel Tower", "Taipei 101", " Golden Gate Bridge", " Tower"), strict=True):
        span, tokens = subject_span(tiny, fact), tokenize(tiny, fact.text)
        assert len(span) > 1 and "".join(pieces(tiny, tokens[span.start : span.stop])).strip() == words.strip(), fact
        assert "".join(pieces(tiny, tokens[: span.start])).removeprefix(END) == fact.text[: fact.start].rstrip()


def test_only_known_facts_are_kept(gpt2):
    first = int(tokenize(gpt2, "in Paris")[len(tokenize(gpt2, "in"))])
    push = torch.zeros(gpt2.cfg.d_vocab).index_fill(0, torch.tensor([first]), 1000.0)
    with intervene(gpt2, add("unembed.hook_out", push)):
        assert known_facts(gpt2, [*FACTS, replace(FACTS[0], answer="San Francisco")]) == [FACTS[0], FACTS[3]]


def test_facts_of_the_world():
    facts = course_facts(n=90, seed=3)
    assert facts == course_facts(n=90, seed=3) != course_facts(n=90, seed=4)
    assert len({(fact.relation, fact.subject) for fact in facts}) == 90 and len({fact.relation for fact in facts}) > 30
    at_start = [fact.text[: fact.start].strip() in ("", "The", "the", "A") for fact in facts]
    assert 20 < sum(at_start) < 70
    for fact in facts:
        assert fact.text[fact.start :].lower().startswith(fact.subject.lower()) and len(fact.text) > fact.start + len(fact.subject)
        assert fact.answer in fact.attributes and fact.subject not in fact.attributes and not {*fact.attributes} & {*fact.others}
    capitals = course_facts(["capital"], n=20)
    assert {fact.relation for fact in capitals} == {"capital"}
    assert sum(fact.text[: fact.start].strip() in ("", "The") for fact in capitals) == 10


def test_cut_attention_is_zero_and_the_rest_sums_to_one(tiny):
    tokens = torch.randint(5, 250, (3, 7), generator=torch.Generator().manual_seed(0))
    keys = torch.zeros(3, 7, dtype=torch.bool)
    keys[0, [1, 2]], keys[1, [3, 4]] = True, True  # nothing in the third row
    seen = []
    with intervene(tiny, watch(pattern(1), seen.append)):
        tiny(tokens)
        with intervene(tiny, cut_attention(1, keys)):
            tiny(tokens)
    usual, looks = seen
    assert (looks[0, :, 6, [1, 2]] == 0).all() and (looks[1, :, 6, [3, 4]] == 0).all()
    rest = usual.clone()
    rest[0, :, 6, [1, 2]], rest[1, :, 6, [3, 4]] = 0, 0
    assert torch.allclose(looks, rest / rest.sum(-1, keepdim=True), atol=1e-6)
    assert torch.equal(looks[2], usual[2]) and not torch.allclose(looks[0], usual[0])


def test_sources_share_out_the_prompt(gpt2):
    masks = source_masks(gpt2, FACTS)
    assert tuple(masks) == SOURCES
    for row, fact in enumerate(FACTS):
        length, span = len(tokenize(gpt2, fact.text)), subject_span(gpt2, fact)
        parts = {name: set(mask[row].nonzero().flatten().tolist()) for name, mask in masks.items()}
        assert parts["subject"] == set(span)
        assert parts["relation"] == set(range(1, length - 1)) - parts["subject"]
        assert parts["random"] <= parts["relation"] and len(parts["random"]) == min(len(span), len(parts["relation"]))
    assert masks["random"][2].sum() < masks["relation"][2].sum()  # a prompt with more other tokens than the subject has, and one without
    assert torch.equal(masks["random"][0], masks["relation"][0])
    others = [source_masks(gpt2, FACTS, seed)["random"] for seed in range(5)]
    assert any(not torch.equal(other, masks["random"]) for other in others)


def one_by_one(model, fact, window, positions):
    """The probability of the predicted token in a pass of its own, with scores of minus infinity."""

    def cut(scores, hook):
        scores = scores.clone()
        scores[0, :, -1, positions] = -torch.inf
        return scores

    tokens = tokenize(model, fact.text)[None]
    before = model(tokens)[0, -1].softmax(-1)
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in window]):
        after = model(tokens)[0, -1].softmax(-1)
    return ((after - before) / before)[before.argmax()] * 100


def test_batched_windows_of_every_source_equal_one_pass_each(tiny):
    masks = source_masks(tiny, FACTS)
    curves = knockout_curves(tiny, FACTS, width=2)  # the layers before each layer and its own: 0, and then 0 and 1
    assert curves.names == SOURCES and curves.change.shape == (3, 2, 4)
    for row, fact in enumerate(FACTS):
        for number, name in enumerate(SOURCES):
            positions = masks[name][row].nonzero().flatten()
            for at, window in enumerate(([0], [0, 1])):
                expected = one_by_one(tiny, fact, window, positions).item() if len(positions) else torch.nan  # no such source
                assert curves.change[number, at, row].item() == pytest.approx(expected, abs=2e-3, nan_ok=True)
    assert curves.change[0].abs().min() > 1e-3


def test_a_window_of_upper_layers_starts_there(tiny):
    curves = knockout_curves(tiny, FACTS, width=1, sources=["subject"])
    for row, fact in enumerate(FACTS):
        assert curves.change[0, 1, row].item() == pytest.approx(one_by_one(tiny, fact, [1], [*subject_span(tiny, fact)]).item(), abs=2e-3)


def test_means_leave_out_prompts_without_the_source():
    nan = torch.nan
    change = torch.tensor([[[-10.0, -20.0, -30.0], [0.0, 0.0, 3.0]], [[nan, 2.0, 4.0], [nan, -6.0, -2.0]]])
    curves = Knockout(("subject", "relation"), change)
    assert torch.equal(curves.mean, torch.tensor([[-20.0, 1.0], [3.0, -4.0]]))
    assert curves.table().split("\n")[1].split() == ["0", "-20.0%", "+3.0%"]


def test_windows():
    assert [list(window) for window in layer_windows(4, 3)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert [list(window) for window in layer_windows(3, 2)] == [[0], [0, 1], [1, 2]]
    assert all(len(window) == 1 for window in layer_windows(5, 1))


def test_first_tokens_of_words(gpt2):
    assert first_tokens(gpt2, ["Zyx"]) == set()  # which begins with " Z" there
    words = ["Paris", "the San Francisco", "in it", "Tower, 20"]
    expected = {int(tokenize(gpt2, f"is {word}")[len(tokenize(gpt2, "is"))]) for word in ("Paris", "San", "Francisco")}
    kept = {one for one in expected if len(pieces(gpt2, torch.tensor([one]))[0].strip()) >= 3}
    assert first_tokens(gpt2, words, subject="Eiffel Tower") == kept != set()


def planted(monkeypatch, model, best):
    """The lens puts some tokens first whatever it sees, and keeps what it saw."""
    seen, logits = [], torch.zeros(model.cfg.d_vocab)
    logits[best] = torch.arange(len(best), 0, -1.0)

    def read_lens(model, states, read):
        seen.append(states)
        return read(logits.expand(*states.shape[:-1], -1), torch.arange(states.shape[-2]))

    monkeypatch.setattr(extraction_module, "read_lens", read_lens)
    return seen


def test_the_words_of_a_subject_ahead_of_anothers_by_hand(gpt2, monkeypatch):
    own, both, other = 10, 20, 30  # first tokens of words
    firsts = {"Own": {own, 40, both}, "Other": {both, other}}
    monkeypatch.setattr(extraction_module, "first_tokens", lambda model, words, subject: set().union(*(firsts[word] for word in words)))
    planted(monkeypatch, gpt2, [own, 3, other, 4, both])
    found = enrichment(gpt2, [replace(FACTS[0], attributes=("Own",), others=("Other",))])
    assert found.flatten().tolist() == pytest.approx([1 / 3, 1 / 3])  # of three own words, what both have among them, one is ahead


def test_enrichment_looks_at_the_last_token_of_the_subject(tiny, monkeypatch):
    seen = planted(monkeypatch, tiny, [1])
    enrichment(tiny, FACTS)
    for number, fact in enumerate(FACTS):
        tokens, at = tokenize(tiny, fact.text)[None], subject_span(tiny, fact)[-1]
        kept = record(tiny, tokens, resid_post(0), resid_post(1))
        for layer in range(2):
            assert torch.allclose(seen[0][layer, number], kept[resid_post(layer)][0, at], atol=1e-4)


def test_nothing_is_ahead_of_no_words(gpt2):
    assert enrichment(gpt2, [replace(FACTS[0], others=())]).isnan().all()


@pytest.mark.parametrize("place", [mlp_out, attn_out])
def test_enrichment_without_a_part_is_read_where_it_writes_nothing_at_the_subject(tiny, monkeypatch, place):
    seen = planted(monkeypatch, tiny, [1])
    enrichment(tiny, FACTS, place, [1])
    for number, fact in enumerate(FACTS):
        tokens, at = tokenize(tiny, fact.text)[None], subject_span(tiny, fact)[-1]
        with intervene(tiny, zero_ablate(place(1), pos=at)):
            kept = record(tiny, tokens, resid_post(1))[resid_post(1)][0, at]
        assert torch.allclose(seen[0][1, number], kept, atol=1e-4)


def test_extraction_equals_one_fact_at_a_time(tiny, monkeypatch):
    if hasattr(tiny.blocks[0], "ln1_post"):
        with pytest.raises(ValueError, match="no head has an output of its own"):
            extraction(tiny, FACTS)
        return
    facts = [*FACTS[:2], FACTS[3]]
    answers = [int(tokenize(tiny, f"in {fact.answer}")[len(tokenize(tiny, "in"))]) for fact in facts]

    def two_way(model, states):  # only the two answers compete, so that a random model says some of them
        logits = lens_logits(model, states)
        return torch.full_like(logits, -torch.inf).index_copy(-1, torch.tensor(answers[:2]), logits[..., answers[:2]])

    monkeypatch.setattr(extraction_module, "read_lens", lambda model, states, read: read(two_way(model, states), None))
    found = extraction(tiny, facts)
    expected, looks = torch.zeros(2, 2, 3, dtype=torch.bool), torch.zeros_like(found.to_subject)
    by_head = torch.zeros_like(found.heads)
    for number, fact in enumerate(facts):
        tokens, span = tokenize(tiny, fact.text)[None], subject_span(tiny, fact)
        for layer in range(2):
            looked, places = [], (attn_out(layer), mlp_out(layer), head_out(layer))
            with intervene(tiny, watch(pattern(layer), looked.append)):
                seen = record(tiny, tokens, *places)
            for kind, place in enumerate((attn_out, mlp_out)):
                expected[kind, layer, number] = two_way(tiny, seen[place(layer)][:, -1]).argmax() == answers[number]
            looks[layer, :, number] = looked[0][0, :, -1, span.start : span.stop].sum(-1)
            for head in range(tiny.cfg.n_heads):
                others = [at for at in range(tiny.cfg.n_heads) if at != head]
                with intervene(tiny, zero_ablate(head_out(layer), head=others)):
                    alone = record(tiny, tokens, attn_out(layer))[attn_out(layer)][0, -1]
                with intervene(tiny, zero_ablate(head_out(layer))):
                    bias = record(tiny, tokens, attn_out(layer))[attn_out(layer)][0, -1]
                by_head[layer, head, number] = two_way(tiny, alone - bias).argmax() == answers[number]
    assert torch.equal(found.attention, expected[0]) and torch.equal(found.mlp, expected[1]) and torch.equal(found.heads, by_head)
    assert torch.allclose(found.to_subject, looks, atol=1e-5)
    assert torch.equal(found.control, ~(found.attention & found.mlp))  # of two answers, what is not the one is the other
    assert found.events["attention"] == pytest.approx(expected[0].any(0).float().mean().item())
    best, to_subject = by_head.float().mean(-1).max(), looks.mean(-1)
    layer, head, said, looked = found.head_table(1).splitlines()[1].split()
    assert said == f"{best:.1%}" and looked == f"{to_subject[int(layer), int(head)]:.1%}"


def test_wrong_answers_come_from_the_same_relation_if_they_can():
    facts = [replace(FACTS[0], relation=name) for name in ("a", "a", "b", "b", "c")]
    drawn = extraction_module._wrong_answers(facts, torch.tensor([1, 2, 3, 3, 4]), seed=0).tolist()
    assert drawn[:2] == [2, 1] and drawn[2] in (1, 2, 4) and drawn[4] in (1, 2, 3)
    assert extraction_module._wrong_answers(facts[:2], torch.tensor([1, 1]), seed=0).tolist() == [-1, -1]


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: fact_prompt("Parisians are from", "France", "Paris"), "must stand in 'Parisians are from' once, but is there 0 times"),
        (lambda m: fact_prompt("Paris is not Paris but", "France", "Paris"), "but is there 2 times"),
        (lambda m: subject_span(m, FactPrompt("The Eiffel Tower is in", "Paris", "Eif", 4)), "are not separate from the text around"),
        (lambda m: subject_span(m, fact_prompt("In Paris", "we", "Paris")), "ends with its subject"),
        (lambda m: subject_span(m, fact_prompt("Paris is" + " so very old" * 20, "x", "Paris")), "this model reads 64: shorten it"),
        (lambda m: source_masks(m, []), "There are no prompts"),
        (lambda m: known_facts(m, [replace(FACTS[1], answer="ZZ")]), "answers none of these prompts right"),
        (lambda m: course_facts(["shoe size"], n=1), "no relation 'shoe size'"),
        (lambda m: course_facts(n=0), "n says how many facts of these relations to draw; it must be from 1 to"),
        (lambda m: course_facts(["genre"], n=9999), "of these relations to draw; it must be from 1 to 88, not 9999"),
        (lambda m: layer_windows(3, 0), "from 1 to 3, not 0"),
        (lambda m: layer_windows(3, 4), "from 1 to 3, not 4"),
        (lambda m: knockout_curves(m, FACTS, 1, ["verb"]), "no source 'verb'"),
        (lambda m: enrichment(m, [replace(FACTS[3], attributes=("Tower", "of"))]), "Nothing is given that is true of 'Tower'"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(gpt2, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        wrong(gpt2)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
