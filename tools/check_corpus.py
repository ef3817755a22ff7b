"""Proof-reads the training text of the course LM: writes documents of each stage and reports what a careful reader would mark.

python tools/check_corpus.py            reads 20,000 documents, names the faults with examples, and fails if there is one
python tools/check_corpus.py 3000       reads as many
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.course_lm.corpus.base import an
from helpers.course_lm.corpus.lists import length
from helpers.course_lm.corpus.mixture import MIXTURES, Document, documents

LONGEST = 96  # tokens that the model reads at once, the mark of the beginning included
# Kinds of documents to which a rule does not apply: lists repeat words, the console has braces, French has a space before ? and !
LISTS = ("lists.", "tasks.induction", "tasks.counting", "tasks.lookup", "tasks.console", "letters.")
SENTENCES = ("knowledge.", "prose.", "stories.", "chat.")
AFTER_THE_LETTER = ("is", "or", "and", "in", "of", "as", "at", "on", "if", "it", "A", "I")  # "A is right" is about an option
REPEATED = ("had had", "that that", "her her", "very very", "ha ha", "no no", "yi yi", "it it")  # the last where no marks are typed
ABBREVIATED = r"(?:\b[A-Z]|\b(?:Mr|Mrs|Dr|St|Jr|Sr))\.$"


def articles(text: str, kind: str) -> list[str]:
    """*a* before a vowel, *an* before a consonant; French has a word *a* of its own."""
    if kind.startswith(("languages", *LISTS)):
        return []
    pairs = re.findall(r"(?<![\w'.>-])([Aa]n?) ([^\W\d_][\w'-]*)", text)
    return [f"{a} {word}" for a, word in pairs if not (a[0] == "A" and word in AFTER_THE_LETTER) and an(word).split()[0] != a.lower()]


def doubled_words(text: str, kind: str) -> list[str]:
    """The same word twice."""
    if kind.startswith(("languages", *LISTS)):
        return []
    return [found[0] for found in re.finditer(r"\b([^\W\d_]+) \1\b", text) if found[0].lower() not in REPEATED]


def doubled_marks(text: str, kind: str) -> list[str]:
    """Two marks of punctuation where one is enough; three dots, and the dot of an abbreviation, are none."""
    if kind.startswith("tasks.console"):
        return []
    found = re.finditer(r"[.,;:!?]{2,}", text)
    return [mark[0] for mark in found if mark[0] != "..." and not re.fullmatch(r"\.[,;:?!]", mark[0] * _abbreviated(text, mark.start()))]


def _abbreviated(text: str, dot: int) -> bool:
    return bool(re.search(ABBREVIATED, text[: dot + 1]))


def spaces(text: str, kind: str) -> list[str]:
    """A space before a mark or at an end, or two of them."""
    marks = "[.,]" if kind.startswith("languages") else "[.,;!?]"
    wrong = (rf" {marks}(?![\w.])", r"  ", r"^\s", r"\s$", r" \n", r"\n ")
    return [] if kind.startswith("tasks.console") else [found[0] for one in wrong for found in re.finditer(one, text)]


def small_beginnings(text: str, kind: str) -> list[str]:
    """A sentence that begins with a small letter; what a user types may, in a chat or before an answer in plain text."""
    if not kind.startswith(SENTENCES) or kind == "chat.plain_answers":
        return []
    said = re.sub(r"<\|user\|>.*?<\|end\|>", "", text, flags=re.DOTALL)
    found = re.finditer(r"(?:^|<\|assistant\|>|[.!?] )([a-z]\w*)", said)
    return [one[0] for one in found if not _abbreviated(said, one.start()) and not said[: one.start() + 1].endswith("...")]


def unfilled(text: str, kind: str) -> list[str]:
    """Braces, or the word for nothing, where a word should stand."""
    return [] if kind.startswith("tasks.console") else re.findall(r"[{}]|\bNone\b", text)


def quotes(text: str, kind: str) -> list[str]:
    """Quotation marks that are opened and not closed."""
    odd = text.count('"') % 2 or text.count("「") != text.count("」")
    return ["a quotation mark"] if odd else []


def too_long(text: str, kind: str) -> list[str]:
    """More than the model reads at once (estimated)."""
    tokens = length(re.sub(r"<\|\w+\|>", " ", text)) + text.count("<|") + 1
    return [f"{tokens} tokens"] if tokens > LONGEST else []


RULES: tuple[Callable[[str, str], list[str]], ...] = (
    *(articles, doubled_words, doubled_marks, spaces, small_beginnings, unfilled, quotes, too_long),
)


def faults(document: Document) -> list[str]:
    """All faults of a document, each after the name of its rule."""
    return [f"{rule.__name__}: {found}" for rule in RULES for found in rule(document.text, document.kind)]


def main(count: int = 20_000) -> int:
    """Reads ``count`` documents of all stages, prints the faults by kind and rule, and returns the exit status."""
    marked: dict[tuple[str, str], list[str]] = defaultdict(list)
    for number, mixture in enumerate(MIXTURES):
        for document in islice(documents(1000 + number, mixture=mixture), count // len(MIXTURES)):
            for fault in faults(document):
                marked[document.kind, fault.split(":")[0]].append(f"{fault} in {document.text!r}")
    for (kind, rule), found in sorted(marked.items()):
        print(f"{kind}, {rule.replace('_', ' ')}: {len(found)} times", *found[:4], sep="\n    ")
    print(f"{sum(map(len, marked.values()))} faults in {count} documents")
    return 1 if marked else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
