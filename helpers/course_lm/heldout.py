"""What the course LM never reads: one rule decides, for all material, what is held out of the corpus.

The rule is a hash of the words themselves, so it depends on no seed and no order: whoever writes a
document and whoever measures the model ask the same function and get the same answer.
"""

from hashlib import blake2b

SHARES: dict[str, float] = {
    "paraphrase": 0.2,  # (relation, subject, template): a way of telling one subject's fact
    "name_pair": 0.1,  # (first name, first name), in either order: indirect-object sentences
    "agreement": 0.2,  # (subject noun, attractor noun): number agreement across a noun in between
    "list_pair": 0.2,  # (task, input): a pair that stands in no list, only in prose
    "topic": 0.15,  # (verb phrase,): a request that no chat ever makes
    "everyday": 0.2,  # (verb phrase,): an everyday task for which no chat asks; it is told in prose
    "unknown": 0.2,  # (question,): a question that cannot be answered and that nobody asks
    "claim": 0.2,  # (subject,): a country about which nobody asks to be agreed with or corrected, a work that nobody shows
    "myth": 0.2,  # (myth,): a superstition that is never told under a context line
    "two_hop": 0.3,  # (first entity,): no two-hop sentence starts from it
    "sum": 0.15,  # (operand, sign, operand): a sum that is never written
    "few_shot": 0.2,  # (entity,): its description stands in no few-shot list
    "story": 0.1,  # (hero, opening): a story opening that is never told
    "quiz": 0.2,  # (relation, subject): a fact that no multiple-choice question asks
    "lookup": 0.15,  # (word,): it stands in no list with letters from which something is looked up
    "console": 0.15,  # (line,): a line that no console ever answers
    "role": 0.2,  # (role,): a role that no chat plays; (role, question): a question that this role is never asked
    "mishap": 0.2,  # (sentence,): a mishap that is told, but never with an exclamation
    "degree": 0.2,  # (weak adjective, strong one): a pair that is never contrasted ("not just cold but freezing"), only in a scale
    "foreign": 0.25,  # (place, language, relation): no sentence tells this fact of the place under its name in the language
    "sentence": 0.1,  # (noun, adjective, verb): no text translates a sentence about them
    "passage": 0.2,  # (name, object): a combination that no reading passage uses
}


def fraction(*key: str) -> float:
    """A number in [0, 1) that is fixed by the words of ``key`` alone."""
    return int.from_bytes(blake2b("\x1f".join(key).encode(), digest_size=8).digest(), "big") / 2**64


def held_out(split: str, *key: str) -> bool:
    """Is ``key`` kept out of the training text in this ``split``?

    >>> held_out("sum", "7", "+", "5") == held_out("sum", "7", "+", "5")
    True
    """
    if split not in SHARES:
        raise ValueError(f"There is no held-out split called {split!r}; choose one of: {', '.join(SHARES)}.")
    return fraction(split, *key) < SHARES[split]
