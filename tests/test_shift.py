"""SHIFT: its texts, units and judges against known truths, and the whole with its controls."""

import pytest
import torch
from layer_tools import HOOK, PROMPTS, as_before, random_sae

from helpers.cluster.shift import (
    HE,
    PROFESSIONS,
    SHE,
    Biographies,
    ShiftReport,
    attribute_probe,
    biographies,
    gendered_stories,
    judged,
    shift,
    text_means,
)
from helpers.course_lm.world import World
from helpers.interventions import record
from helpers.one_layer.probes import Probes
from helpers.texts import as_texts

__all__ = ["as_before"]  # a fixture

SAE = random_sae("topk", k=5)


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
    assert biographies(40, True).texts == biased.texts != biographies(40, True, seed=1).texts


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


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(n=0), "multiple of 4, not 0"),
        (dict(n=6), "multiple of 4, not 6"),
        (dict(n=4, part="dev"), "no part of the biographies 'dev'"),
    ],
)
def test_unknown_biographies_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        biographies(**arguments, biased=True)


def test_means_over_texts_leave_position_0_and_the_filling_out(tiny):
    texts, found = as_texts(tiny, PROMPTS), text_means(tiny, SAE, PROMPTS)
    for row, length in enumerate(texts.lengths.tolist()):
        alone = record(tiny, texts.tokens[row : row + 1, :length], HOOK)[HOOK][0, 1:]
        assert torch.allclose(found.states[row], alone.mean(0), atol=1e-4)
        assert torch.allclose(found.features[row], SAE.encode(alone).mean(0), atol=1e-4)


def test_features_are_set_to_0_and_the_probe_loses_what_they_made(tiny):
    rng, means = torch.Generator().manual_seed(0), text_means(tiny, SAE, PROMPTS)
    second, probe = torch.tensor([True, False, False, True, False]), Probes(torch.randn(1, 32, generator=rng), torch.tensor([0.3]))
    made, signs = attribute_probe(SAE, probe, means, second), second.float() * 2 - 1
    before = probe.log_odds(means.states[None])[0]
    for unit in made.abs().topk(4).indices.tolist():
        alone = [record(tiny, as_texts(tiny, [text]).tokens, HOOK)[HOOK][0, 1:] for text in PROMPTS]
        bare = torch.stack([(states - SAE.encode(states)[:, [unit]] * SAE.W_dec[unit]).mean(0) for states in alone])
        assert torch.allclose(means.without(SAE, [unit]), bare, atol=1e-4) and (bare - means.states).abs().max() > 0.01
        assert made[unit].item() == pytest.approx((signs * (before - probe.log_odds(bare[None])[0])).mean().item(), rel=1e-2, abs=1e-3)
    assert torch.equal(means.without(SAE, []), means.states)


def test_features_are_judged_by_how_well_they_tell_the_stories_apart():
    he = torch.tensor([True, True, False, False])
    values = torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0], [1.0, 5.0, 1.0], [2.0, 0.0, 0.0]])  # AUC 1, 0.25 and 0.5
    assert judged(values, he).tolist() == [True, True, False] and judged(values, he, margin=0.3).tolist() == [True, False, False]


def test_the_report_counts_by_hand():
    test = Biographies(("",) * 4, torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True]))
    answers = torch.tensor([[False, True, False, True], [False, False, True, False]])
    report = ShiftReport(("follows", "mostly right"), (0, 3), answers, test)
    assert report.profession.tolist() == [0.5, 0.75] and report.gender.tolist() == [1.0, 0.25] and report.worst.tolist() == [0.0, 0.0]
    assert report.table().split("\n")[2].split() == ["mostly", "right", "75.0%", "25.0%", "0.0%", "3"]


def test_a_bias_is_taken_out_with_its_controls(tiny):
    report = shift(tiny, SAE, n=16, test=16, candidates=8, margin=0.0, seed=1)
    sizes = dict(zip(report.methods, report.n, strict=True))
    n = sizes["features about gender"]
    assert n and sizes["as many top features"] == sizes["features about gender + retrain"] == n
    assert sizes["all candidates"] == 8 and sizes["biased probe"] == 0
    assert report.answers.shape == (10, 16) and "oracle: balanced training" in report.methods
    strict = shift(tiny, SAE, n=16, test=16, candidates=8, margin=0.5, seed=1)  # nothing is about gender: nothing is taken out
    at = strict.methods.index("features about gender")
    assert strict.n[at] == 0 and torch.equal(strict.answers[at], strict.answers[0])
