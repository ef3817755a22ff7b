"""A model's accounts of its answers: what is asked, what stands there, and when two accounts are the same."""

import pytest

from helpers.speak.self_explanations import SelfExplanations, additions, self_explanations


def test_the_model_is_asked_why_after_its_own_answer(tiny, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def answer(model, prompts, tokens):
        seen.append(list(prompts))
        return [f"answer {len(seen)}" for _ in prompts]

    monkeypatch.setattr("helpers.speak.self_explanations.generate", answer)
    found = self_explanations(tiny, ["One?", "Two?"], why="Why?")
    assert (found.answers, found.reasons) == (("answer 1", "answer 1"), ("answer 2", "answer 2"))
    assert seen[0] == ["user: One?\n", "user: Two?\n"]
    assert seen[1] == [f"user: {question}\nassistant: answer 1\nuser: Why?\n" for question in ("One?", "Two?")]


def test_an_answer_is_put_into_its_mouth(tiny):
    found = self_explanations(tiny, ["One?"], ["Never said."], tokens=2)
    assert found.answers == ("Never said.",) and len(found.reasons) == 1


def test_the_same_reasons_are_counted_word_for_word():
    one = SelfExplanations(("a?", "b?"), ("a", "b"), ("I counted up from 7.", "I read it."))
    other = SelfExplanations(("a?", "b?"), ("c", "d"), ("I counted up from 8.", "I read it."))
    assert one.same(other) == [False, True]
    assert one.table(1) == "a?  a  I counted up from 7."
    with pytest.raises(ValueError, match="compared in pairs; here are 2 and 1"):
        one.same(SelfExplanations(("a?",), ("c",), ("I read it.",)))


def test_sums_are_written_or_never_written_and_not_both():
    written, never = set(additions()), set(additions(written=False))
    assert written and never and not written & never
    assert all(a + b <= 20 for a, b in written | never)


def test_wrong_questions_are_explained(tiny, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="There is no question"):
        self_explanations(tiny, [])
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        self_explanations(tiny, ["One?", "Two?"], ["One."])
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        self_explanations(tiny, ["One?"])
