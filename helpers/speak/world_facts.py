"""Facts of the course LM's world that can be edited: how they are asked, which of them a model knows, and other answers to them.

An answer is read off its first token, as in the papers on editing (Dai et al. 2022, arXiv 2104.08696; Meng et al. 2022, arXiv 2202.05262).
"""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from itertools import zip_longest
from random import Random

from helpers.cluster.fact_prompts import fit_to_ask
from helpers.course_lm.facts import Fact, all_facts
from helpers.course_lm.world import World
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.prediction import pieces
from helpers.running import next_tokens

EACH = 4  # paraphrases that are used, and as many that are held out, at most
REPORTED, CHOSEN = 0, 1  # the two halves of the subjects: settings are chosen on the one, results reported on the other


@cache
def world_facts() -> tuple[Fact, ...]:
    """The facts of the world that can be asked for in two ways or more, with one answer, which the prompt does not give away."""
    answers: dict[tuple[str, str], set[str]] = {}
    for fact in (every := all_facts(World.load())):
        answers.setdefault((fact.relation.name, fact.subject), set()).add(fact.object)
    return tuple(
        fact for fact in every if len(_told(fact)) > 1 and fit_to_ask(fact) and len(answers[fact.relation.name, fact.subject]) == 1
    )


def _told(fact: Fact) -> list[str]:
    """The sentences with the answer last, but for those with ``a {o}``, since their article would tell it."""
    return [template for template in fact.relation.forward if " a {o}" not in template]


def paraphrases(fact: Fact) -> tuple[list[str], list[str]]:
    """The prompts that ask for a fact: those that are used, and those held out, in turns; at most ``EACH`` of both.

    Raises ValueError if there are fewer than two.
    """
    prompts = [fact.probe(template).prompt for template in _told(fact)]
    if len(prompts) < 2:
        raise ValueError(f"{fact.relation.name!r} has fewer than two sentences that end in their answer: choose another relation.")
    return prompts[0::2][:EACH], prompts[1::2][:EACH]


def find_fact(relation: str, subject: str) -> Fact:
    """One fact of the course LM's world. Raises ValueError for an unknown relation or subject."""
    found = {fact.subject: fact for fact in world_facts() if fact.relation.name == relation}
    if not found:
        known = sorted({fact.relation.name for fact in world_facts()})
        raise ValueError(f"There is no relation {relation!r} to edit; there are: {', '.join(known)}.")
    if subject not in found:
        near = get_close_matches(subject, found, n=3, cutoff=0.5) or list(found)[:3]
        raise ValueError(f"The relation {relation!r} has no subject {subject!r}: perhaps {' or '.join(near)} was meant.")
    return found[subject]


def known_facts(model: TransformerBridge, n: int = 30, part: int = REPORTED, seed: int = 0) -> list[Fact]:
    """``n`` facts of the world that the model knows, the relations taking turns: it answers each of their paraphrases right.

    ``part``: the facts of one half of the subjects, so that no subject is in ``CHOSEN`` and in ``REPORTED``; every subject comes once.
    Raises ValueError if the model knows fewer.
    """
    if n < 1 or part not in (REPORTED, CHOSEN):
        raise ValueError(f"Ask for 1 fact or more, of part {REPORTED} (REPORTED) or {CHOSEN} (CHOSEN), not for {n} of part {part}.")
    drawn, kept = _draw(part, seed), []
    for start in range(0, len(drawn), n):
        some = drawn[start : start + n]
        asked = [(fact, prompt) for fact in some for side in paraphrases(fact) for prompt in side]
        prompts = [prompt for _, prompt in asked]
        right = next_tokens(model, prompts) == first_tokens(model, prompts, [fact.object for fact, _ in asked])
        missed = {fact.subject for (fact, _), hit in zip(asked, right.tolist(), strict=True) if not hit}
        kept += [fact for fact in some if fact.subject not in missed and _other_answers(model, fact)]
        if len(kept) >= n:
            return kept[:n]
    raise ValueError(f"n says how many known facts to draw: this model knows {len(kept)} of these, and {n} were asked for.")


def _draw(part: int, seed: int) -> list[Fact]:
    """The facts of a part, the relations in turn, every subject once."""
    rng, subjects = Random(seed), sorted({fact.subject for fact in world_facts()})
    own = set(Random(0).sample(subjects, len(subjects) // 2))
    pools: dict[str, list[Fact]] = {}
    for fact in world_facts():
        if (fact.subject in own) == (part == REPORTED):
            pools.setdefault(fact.relation.name, []).append(fact)
    turns = zip_longest(*(rng.sample(pool, len(pool)) for pool in pools.values()))
    return list({fact.subject: fact for row in turns for fact in row if fact}.values())


def new_answer(model: TransformerBridge, fact: Fact, seed: int = 0) -> str:
    """Another answer to the same question, drawn from those of the relation: a word for which the model has a token."""
    if not (words := _other_answers(model, fact)):
        raise ValueError(f"{fact.relation.name!r} has no other answer that begins with a whole word: write the new answer yourself.")
    return Random(f"{seed} {fact.subject}").choice(words)


def _other_answers(model: TransformerBridge, fact: Fact) -> list[str]:
    """All other answers of the relation that begin with a token for a whole word, and another one than the fact's own."""
    words = sorted({other.object for other in world_facts() if other.relation is fact.relation} - {fact.object})
    own, *others = _first(model, fact, [fact.object, *words])
    return [word for word, (token, text) in zip(words, others, strict=True) if token != own[0] and text == word.split()[0]]


def _first(model: TransformerBridge, fact: Fact, words: Sequence[str]) -> list[tuple[int, str]]:
    """The first token of each word as an answer to the fact's first prompt, and its text."""
    tokens = first_tokens(model, [paraphrases(fact)[0][0]] * len(words), words)
    return [(token, text.strip()) for token, text in zip(tokens.tolist(), pieces(model, tokens), strict=True)]


def new_token(model: TransformerBridge, fact: Fact, word: str) -> int:
    """The first token of a new answer. Raises ValueError unless it is a whole word, and another one than the old answer's."""
    if not word.strip():
        raise ValueError("The new answer is empty: write a word.")
    (new, text), (old, _) = _first(model, fact, [word, fact.object])
    if new == model.tokenizer.unk_token_id or text != word.split()[0]:
        raise ValueError(f"This model has no token for {word.split()[0]!r}, with which the new answer begins: choose a more common word.")
    if new == old:
        raise ValueError(f"{word!r} begins with the same token as the old answer {fact.object!r}: choose another one.")
    return new
