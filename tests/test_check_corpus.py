"""The proof-reader of the training text finds what is planted, and nothing in the corpus."""

import sys
from itertools import islice
from pathlib import Path

import pytest

from helpers.course_lm.corpus.mixture import MIXTURES, Document, documents

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import check_corpus

PLANTED = {
    "articles": ("I eat a apple.", "She is an nurse.", "Here is an useful tool.", "A old man waits."),
    "doubled_words": ("We saw the the dog.",),
    "doubled_marks": ("A song by R.E.M..", "Really?! Yes."),
    "spaces": ("Not so , please.", "Two  spaces.", "Ends. "),
    "small_beginnings": ("He came. then he went.", "<|user|>hi<|end|><|assistant|>hello.<|end|>"),
    "unfilled": ("The {noun} is here.", "He is None."),
    "quotes": ('She said: "Yes.',),
    "too_long": ("Word " + " ".join(f"word{n}" for n in range(96)) + ".",),
}
RIGHT = (
    "An hour ago a European bought a useful book.",
    "A song by J. R. Smith... It is nice!",
    "<|user|>hi, who are you<|end|><|assistant|>I am here.<|end|>",
    '"Yes," she said. "No!"',
    "Which is it? A is right.",
)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in PLANTED.items() for text in texts])
def test_a_planted_fault_is_found_by_its_rule(rule: str, text: str):
    kind = "chat.planted" if "<|" in text else "prose.planted"
    assert {fault.split(":")[0] for fault in check_corpus.faults(Document(text, kind))} == {rule}


@pytest.mark.parametrize("text", RIGHT)
def test_right_english_is_not_marked(text: str):
    assert check_corpus.faults(Document(text, "prose.planted")) == []


def test_the_corpus_has_no_faults():
    texts = [d for number, mixture in enumerate(MIXTURES) for d in islice(documents(300 + number, mixture=mixture), 1000)]
    assert [(fault, d) for d in texts for fault in check_corpus.faults(d)] == []


def test_the_exit_status_says_whether_there_are_faults(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for text, status in (("All is well.", 0), ("A apple.", 1)):
        monkeypatch.setattr(check_corpus, "documents", lambda seed, mixture, text=text: iter([Document(text, "prose.planted")] * 5))
        assert check_corpus.main(10) == status
    assert "prose.planted, articles: 10 times" in capsys.readouterr().out
