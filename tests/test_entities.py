"""Entities: prompts that name, translate, describe or only touch them, peaks by hand, and a rule that finds planted neurons."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch

from helpers.course_lm.facts import all_facts
from helpers.course_lm.world import World
from helpers.interventions import mlp_post, record
from helpers.one_neuron.entities import (
    DESCRIPTION,
    LANGUAGES,
    NAME,
    RELATED,
    EntityPeaks,
    country_prompts,
    entity_peaks,
    name_wordings,
    neurons_in_any_words,
    own_neurons,
)
from helpers.prediction import tokenize
from helpers.prompts import LabelledPrompt

COUNTRIES = country_prompts(12)


def test_every_country_is_named_in_the_same_wordings():
    prompts = country_prompts(15, each=6)
    wordings = name_wordings()[:6]
    rows = {row["name"]: row for row in World.load().rows("countries")[:15]}
    facts = {(known.relation.name, known.subject): known for known in all_facts(World.load())}
    named = {group: [p.text for p in prompts if p.group == group and p.label == NAME] for group in {p.group for p in prompts}}
    assert len(named) > 5 and set(named) <= set(rows)
    for entity, texts in named.items():
        expected = [facts[relation.name, entity].tell(wording) for relation, wording in wordings]
        assert len(texts) == 6 and all(whole.startswith(text) for text, whole in zip(texts, expected, strict=True))
        assert all(entity in text for text in texts)


def test_the_relations_take_turns_so_that_few_wordings_ask_for_many_facts():
    wordings = name_wordings()
    about = {relation.name for relation, _ in wordings}
    assert len(about) > 3 and {relation.name for relation, _ in wordings[: len(about)]} == about
    assert len({wording for _, wording in wordings}) == len(wordings) and all(r.subject == "name" for r, _ in wordings)


def test_names_in_other_languages_stand_in_sentences_of_the_names():
    rows = {row["name"]: row for row in World.load().rows("countries")}
    for code, language in LANGUAGES.items():
        told = [p for p in COUNTRIES if p.label == language]
        assert told
        for entity in {p.group for p in told}:
            foreign = rows[entity][code]
            texts = [p.text for p in told if p.group == entity]
            plain = [p.text for p in COUNTRIES if p.group == entity and p.label == NAME]
            assert len(texts) == 5 and all(foreign in text for text in texts) and foreign != entity
            shared = [set(text.replace(foreign, "").split()) <= set(name.split()) for text, name in zip(texts, plain, strict=False)]
            assert all(shared)


def test_a_name_that_is_the_same_in_another_language_is_not_counted_twice():
    rows = World.load().rows("countries")[:40]
    same = {(row["name"], language) for row in rows for code, language in LANGUAGES.items() if row[code] == row["name"]}
    assert same and not same & {(p.group, p.label) for p in country_prompts(40)}


@cache
def answers() -> dict[str, set[str]]:
    """For each sentence of the world that ends before its answer: what may follow."""
    found: dict[str, set[str]] = {}
    for known in all_facts(World.load()):
        for wording in known.relation.forward:
            found.setdefault(known.probe(wording).prompt, set()).add(known.object)
    return found


def test_descriptions_lead_to_the_country_and_neither_they_nor_what_is_related_name_it():
    told = [p for p in country_prompts(40) if p.label in (DESCRIPTION, RELATED)]
    assert told and all(p.group not in p.text for p in told)
    assert all(p.group in answers()[p.text] for p in told if p.label == DESCRIPTION)
    assert all(answers()[p.text] - {p.group} for p in told if p.label == RELATED)


def test_what_is_related_shares_a_fact_with_the_entity():
    facts = all_facts(World.load())
    for entity in ("France", "Japan"):
        partners = {f.subject for f in facts if f.object == entity} | {f.object for f in facts if f.subject == entity}
        texts = [p.text for p in COUNTRIES if p.group == entity and p.label == RELATED]
        assert texts and all(any(partner in text for partner in partners) for text in texts)


def test_there_are_at_most_so_many_of_a_kind_none_twice_and_the_seed_decides_which():
    counts = Counter((p.group, p.label) for p in COUNTRIES)
    assert max(counts.values()) == 10 and {p.label for p in COUNTRIES} == {NAME, *LANGUAGES.values(), DESCRIPTION, RELATED}
    assert len(set(COUNTRIES)) == len(COUNTRIES)
    assert max(Counter((p.group, p.label) for p in country_prompts(12, each=3)).values()) == 3
    assert country_prompts(12) == COUNTRIES
    other = country_prompts(12, seed=1)
    assert other != COUNTRIES
    assert [p for p in other if p.label == NAME] == [p for p in COUNTRIES if p.label == NAME]


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda m: entity_peaks(m, []), r"There are no prompts: give at least one text\.$"),
        (lambda m: entity_peaks(m, [SHORT[0], LabelledPrompt("", NAME, "B")]), "Prompt 1 has no word in it"),
        (lambda m: made(SHORT_PEAKS).by_kind("C", (0, 0)), r"There are no prompts about 'C'; there are some about A, B and others\.$"),
        *((lambda m, n=n: own_neurons(planted({}, n)), r"two or more prompts with the label 'name'\.$") for n in (6, 7, 0)),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(small, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(small)


SHORT = [
    LabelledPrompt("ab", NAME, "A"),
    LabelledPrompt("a longer one", NAME, "B"),
    LabelledPrompt("x", "French", "A"),
    LabelledPrompt("four", DESCRIPTION, "B"),
]


SHORT_PEAKS = [1.0, 2.0, 5.0, 9.0]


def test_peaks_are_the_highest_activations_of_each_prompt_without_its_first_position(small):
    found = entity_peaks(small, SHORT)
    assert found.peaks.shape == (4, small.cfg.n_layers, small.cfg.d_mlp) and found.entities == ("A", "B")
    for row, prompt in enumerate(SHORT):
        for layer in range(small.cfg.n_layers):
            with torch.no_grad():
                alone = record(small, tokenize(small, prompt.text)[None], mlp_post(layer))[mlp_post(layer)][0]
            assert torch.allclose(found.peaks[row, layer], alone[1:].amax(0), atol=1e-5)
    assert (found.peaks < 0).any()  # what only rises to a negative number is not lifted to the filling's 0


def made(values: list[float]) -> EntityPeaks:
    """Peaks of a model with one layer of one neuron, on the four prompts of ``SHORT``."""
    return EntityPeaks(tuple(SHORT), torch.tensor(values)[:, None, None])


def test_a_neurons_peaks_kind_by_kind():
    found = made(SHORT_PEAKS).by_kind("A", (0, 0))
    assert found == {NAME: [1.0], "French": [5.0]}
    assert made(SHORT_PEAKS).by_kind("A", (0, 0), others=True) == {NAME: [2.0], "French": []}
    assert made(SHORT_PEAKS).aucs("A", (0, 0)) == {NAME: 0.0}  # nobody else is told of in French
    assert made([3.0, 2.0, 5.0, 9.0]).aucs("A", (0, 0)) == {NAME: 1.0}


ENTITIES = ("Austria", "Belgium", "Chile", "Denmark")


def planted(changes: dict[tuple[int, int, int], list[float]], n: int = 24) -> EntityPeaks:
    """Two layers of three neurons on the first ``n`` of six name prompts of each of four entities, hardly different.

    ``changes``: peaks by ``(entity, layer, neuron)``.
    """
    prompts = [LabelledPrompt(f"{entity} {number}", NAME, entity) for entity in ENTITIES for number in range(6)]
    peaks = 1 + 0.2 * torch.rand(len(prompts), 2, 3, generator=torch.Generator().manual_seed(0))
    for (entity, layer, neuron), values in changes.items():
        peaks[6 * entity : 6 * entity + 6, layer, neuron] = torch.tensor(values)
    return EntityPeaks(tuple(prompts[:n]), peaks[:n])


def test_a_planted_neuron_is_found_and_no_other():
    peaks = planted({(1, 1, 2): [5.0, 6.0, 5.0, 7.0, 5.0, 8.0]})
    counted = own_neurons(peaks)
    assert [entry.entity for entry in counted.entries] == list(ENTITIES)
    [found] = counted.found
    assert (found.entity, found.neuron, found.auc, found.found) == ("Belgium", (1, 2), 1.0, True)
    assert found.own == pytest.approx(7.0)  # the second, fourth and sixth prompt judge
    judged = [peaks.peaks[6 * at + 1 : 6 * at + 6 : 2, 1, 2].mean().item() for at in (0, 2, 3)]
    assert found.second == pytest.approx(max(judged))


@pytest.mark.parametrize(
    "changes, passes",
    [
        ({(1, 1, 2): [5.0, 1.1] * 3}, False),  # high on the prompts that choose only
        ({(1, 1, 2): [2.0] * 6, (1, 0, 0): [1.1, 9.0] * 3}, True),  # what judges does not choose
    ],
)
def test_some_prompts_choose_and_others_judge(changes, passes: bool):
    [_, belgium, *_] = own_neurons(planted(changes)).entries
    assert belgium.neuron == (1, 2) and belgium.found == passes and belgium.own == pytest.approx(changes[1, 1, 2][1])


def test_the_margin_counts_and_what_two_entities_share_belongs_to_none():
    shared = planted({(1, 1, 2): [6.0] * 6, (2, 1, 2): [4.0] * 6})
    assert [entry.entity for entry in own_neurons(shared).found] == ["Belgium"]
    assert [entry.second for entry in own_neurons(shared).found] == [4.0]
    assert own_neurons(shared, margin=1.6).found == ()
    assert own_neurons(planted({(1, 1, 2): [6.0] * 6, (2, 1, 2): [6.0] * 6})).found == ()


def test_one_high_prompt_among_low_ones_is_stopped_by_the_auc():
    peaks = planted({(1, 1, 2): [9.0, 9.0, 9.0, 9.0, 9.0, 0.0]})
    [_, belgium, *_] = own_neurons(peaks).entries
    assert belgium.own == 6.0 and belgium.auc == pytest.approx(2 / 3) and not belgium.found
    assert own_neurons(peaks, least_auc=0.6).found == (replace(belgium, found=True),)


def test_a_neuron_that_is_never_above_zero_is_nobodys():
    peaks = planted({})
    below = peaks.peaks - 5
    below[6:12] += 3
    assert own_neurons(replace(peaks, peaks=below)).found == ()


def test_standing_out_is_measured_in_standard_deviations():
    loud = torch.tensor([[0.0, 40, 80, 120], [0.0, 0, 0, 10]])  # the loud neuron leads by more, the quiet one more clearly
    peaks = planted({})
    for neuron, values in enumerate(loud):
        peaks.peaks[:, 0, neuron] = values.repeat_interleave(6)
    assert own_neurons(peaks).entries[3].neuron == (0, 1)


def test_other_kinds_of_prompt_take_no_part():
    peaks = planted({(1, 1, 2): [6.0] * 6})
    more = tuple(LabelledPrompt(f"{entity} {number}", RELATED, entity) for entity in ENTITIES for number in range(3))
    both = EntityPeaks(peaks.prompts + more, torch.cat([peaks.peaks, torch.full((len(more), 2, 3), 50.0)]))
    assert own_neurons(both) == own_neurons(peaks)


def test_the_highest_come_first_and_the_table_says_the_numbers():
    counted = own_neurons(planted({(1, 1, 2): [6.0] * 6, (2, 1, 2): [3.0] * 6, (3, 0, 1): [9.0] * 6}))
    assert [entry.entity for entry in counted.found] == ["Denmark", "Belgium"]
    lines = counted.table().splitlines()
    assert len(lines) == 3 and lines[2].split() == ["Belgium", "L1", "N2", "6.00", "3.00", "1.000"]
    assert len(counted.table(1).splitlines()) == 2
    assert own_neurons(planted({})).table() == "entity  neuron       own second    AUC"


def test_the_shuffled_control_mixes_up_whose_name_prompts_are_whose_and_nothing_else():
    peaks = planted({(1, 1, 2): [6.0] * 6})
    peaks = replace(peaks, prompts=(*peaks.prompts[:-1], LabelledPrompt("France", RELATED, "Denmark")))
    mixed = peaks.shuffled()
    assert [(p.text, p.label) for p in mixed.prompts] == [(p.text, p.label) for p in peaks.prompts]
    assert Counter(p.group for p in mixed.prompts) == Counter(p.group for p in peaks.prompts)
    assert mixed.prompts[-1] == peaks.prompts[-1] and mixed.peaks is peaks.peaks
    assert mixed.prompts != peaks.prompts and mixed.prompts == peaks.shuffled().prompts != peaks.shuffled(1).prompts


def test_shuffled_entities_have_no_neurons_of_their_own():
    peaks = planted({(at, at % 2, at // 2): [6.0] * 6 for at in range(4)})
    assert len(own_neurons(peaks).found) == 4
    assert own_neurons(peaks.shuffled()).found == ()


def test_the_auc_of_every_neuron_is_that_of_each_by_itself():
    peaks = planted({(1, 1, 2): [5.0, 1.1, 5.0, 1.0, 1.15, 7.0], (2, 0, 0): [1.1] * 6})
    found = peaks.all_aucs(NAME)
    expected = [[peaks.aucs(entity, divmod(unit, 3))[NAME] for unit in range(6)] for entity in ENTITIES]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6) and (peaks.all_aucs(NAME) < 1).any()
    alone = EntityPeaks((*peaks.prompts, LabelledPrompt("x", "French", "Chile")), torch.cat([peaks.peaks, peaks.peaks[:1]]))
    assert (alone.all_aucs("French")[[0, 1, 3]] == 1).all()  # of those that are not told of in French


def test_in_whatever_words_means_in_the_worst_kind_on_prompts_that_did_not_choose():
    peaks = planted({(1, 1, 2): [5.0] * 6, (2, 0, 0): [5.0, 1.0] * 3})
    more = tuple(LabelledPrompt(f"{entity} {number}", DESCRIPTION, entity) for entity in ENTITIES for number in range(4))
    values = torch.zeros(len(more), 2, 3)
    values[4:8, 1, 2], values[8:12, 0, 0] = 2.0, 2.0
    both = EntityPeaks(peaks.prompts + more, torch.cat([peaks.peaks, values]))
    found = neurons_in_any_words(both, (NAME, DESCRIPTION))
    assert found["Belgium"] == ((1, 2), 1.0) and found["Chile"][0] == (0, 0) and found["Chile"][1] < 0.9
    assert neurons_in_any_words(both, (NAME, "French"))["Belgium"] == ((1, 2), 1.0)  # nobody is told of in French
