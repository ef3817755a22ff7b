"""Scenes that end where somebody exclaims: halves share no mishap, and strength is read off the five words."""

import torch

from helpers.course_lm.corpus.stories import STRENGTHS
from helpers.course_lm.heldout import held_out
from helpers.one_neuron.exclamations import exclaiming_scenes


def test_scenes_come_in_five_grades_and_their_halves_share_no_mishap(course_lm):
    scenes = exclaiming_scenes(course_lm, 200, seed=1)
    one, other = scenes.halves()
    assert 80 < len(scenes) == len(one) + len(other) and not set(one.mishaps) & set(other.mishaps)
    assert set(scenes.grades.tolist()) == {1, 2, 3, 4, 5} and all(prompt.endswith(":") for prompt in scenes.prompts)
    assert set(scenes.take({4, 5}).grades.tolist()) == {4, 5} and not any(
        held_out("mishap", what) for what in scenes.mishaps if "{x}" not in what
    )
    assert [course_lm.tokenizer.decode([token]).strip() for token in scenes.first.tolist()] != [] and len(set(scenes.first.tolist())) == 5
    assert all(word.startswith(course_lm.tokenizer.decode([at]).strip()) for word, at in zip(STRENGTHS, scenes.first.tolist(), strict=True))


def test_strength_is_the_mean_grade_of_the_five_words_alone(course_lm):
    scenes = exclaiming_scenes(course_lm, 40)
    probs = torch.zeros(3, course_lm.cfg.d_vocab)
    probs[0, scenes.first[4]], probs[1, scenes.first[0]] = 0.2, 0.1
    probs[2, scenes.first[1]] = probs[2, scenes.first[3]] = 0.3
    assert scenes.strength(probs).tolist() == [5, 1, 3]
    odds = scenes.stronger((probs + 1e-6).log()[:, None])
    assert odds[0] > 5 and odds[1] < -5 and abs(odds[2]) < 1e-3


def test_mishaps_count_once(course_lm):
    scenes = exclaiming_scenes(course_lm, 100)
    values = scenes.per_mishap(scenes.grades.float())
    assert len(values) == len(set(scenes.mishaps)) and set(values) <= {1.0, 2.0, 3.0, 4.0, 5.0}  # a mishap has one grade
