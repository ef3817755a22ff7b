"""Lists of words of the course LM's world, such as cities or French words, and which tokens of a model begin one of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.course_lm.corpus.languages import EVERYDAY
from helpers.course_lm.world import World
from helpers.inputs import check_number
from helpers.models import TransformerBridge

FUNCTION_WORDS = {
    "French": ("est", "un", "une", "le", "la", "les", "il", "elle", "je", "pas"),
    "German": ("ist", "ein", "eine", "der", "die", "das", "er", "sie"),
}
LEAST_LETTERS = 3  # of a word that is cut into tokens, the first one must have as many to stand for the word
TABLES = {  # columns of the world's tables
    "country": ("countries.name",),
    "city": ("countries.capital", "cities.name"),
    "nationality": ("countries.demonym",),
    "language": ("countries.language",),
    "currency": ("countries.currency",),
    "continent": ("countries.continent",),
    "first name": ("firstnames.name",),
    "god": ("gods.name",),
    "landmark": ("landmarks.name", "mountains.name", "rivers.name"),
    "company": ("companies.name",),
    "element": ("elements.name",),
    "sport": ("sports.name",),
    "colour": ("nouns.colour",),
    "animal": ("animals.name", "animals.plural"),
    "occupation": ("people.occupation",),
    "food": ("dishes.name",),
    "instrument": ("instruments.name",),
    "adjective": ("adjectives.word", "adjectives.synonym"),
    "comparative": ("adjectives.comparative",),
    "superlative": ("adjectives.superlative",),
    "verb, base": ("verbs.base",),
    "verb, third person": ("verbs.third",),
    "verb, past": ("verbs.past", "verbs.participle"),
    "verb, gerund": ("verbs.gerund",),
    "noun, singular": ("nouns.singular", "animals.name"),
    "noun, plural": ("nouns.plural", "animals.plural"),
}
NOUNS = {  # kinds of nouns, in the singular and the plural
    "animal": ("animal",),
    "occupation": ("person",),
    "food": ("food", "fruit", "vegetable", "drink"),
    "instrument": ("instrument",),
    "body": ("body",),
    "clothing": ("clothing", "jewel"),
    "building": ("building", "place"),
    "home": ("home", "furniture", "kitchen", "container"),
    "nature": ("nature",),
    "vehicle": ("vehicle",),
    "tool": ("tool", "device"),
    "school": ("school",),
}
SEQUENCES = {"day, month, season": ("day", "month", "season"), "planet": ("planet",), "ordinal": ("ordinal",), "number": ("number",)}
LANGUAGES = {"French": "fr", "German": "de"}
SHAPES: dict[str, Callable[[str], bool]] = {  # categories that a token's own letters tell
    "number": str.isdigit,
    "Chinese": lambda text: any("一" <= letter <= "鿿" for letter in text),
    "punctuation": lambda text: text.isprintable() and "�" not in text and not any(map(str.isalnum, text)),
}


def category_words(world: World | None = None) -> dict[str, list[str]]:
    """The words of every category, from the tables of the world; French and German ones only if no English word is written so."""
    world = world or World.load()
    found = {category: [word for path in paths for word in world.column(*path.split("."))] for category, paths in TABLES.items()}
    found["family name"] = [person.split()[-1] for person in world.column("people", "name") if " " in person]
    for category, kinds in NOUNS.items():
        rows = [row for row in world.rows("nouns") if row["category"] in kinds]
        found[category] = found.get(category, []) + [row[number] for row in rows for number in ("singular", "plural") if row[number]]
    for category, kinds in SEQUENCES.items():
        found[category] = [row["item"] for row in world.rows("sequences") if row["kind"] in kinds]
    english = {word.lower() for words in found.values() for word in words} | {row["en"] for row in EVERYDAY}
    for language, code in LANGUAGES.items():
        tables = [row for table in ("nouns", "adjectives", "verbs") for row in world.rows(table)]
        words = [row.get(code) for row in [*tables, *EVERYDAY]] + list(FUNCTION_WORDS[language])
        found[language] = [word for word in words if word and word.lower() not in english]
    return found


@dataclass(frozen=True)
class Categories:
    """Categories of words, the smallest first, and which tokens of a model's vocabulary belong to each: a token may be in several."""

    names: tuple[str, ...]
    members: Bool[Tensor, "category d_vocab"]

    def judge(self, tokens: Int[Tensor, "*value k"], least: int = 5) -> Int[Tensor, "*value"]:
        """For each list of ``k`` tokens the category that most of them share, if ``least`` do, else -1; of two the smaller category."""
        k = tokens.shape[-1]
        check_number(f"least says how many of the {k} top tokens must share a category", least, high=k)
        shared, category = self.members.sum(1).new_zeros(tokens.shape[:-1]), torch.full(tokens.shape[:-1], -1)
        for number, member in enumerate(self.members):  # one by one: all at once would be large
            here = member[tokens].sum(-1)
            better = (here > shared) & (here >= least)
            shared, category = torch.where(better, here, shared), torch.where(better, number, category)
        return category


def word_categories(model: TransformerBridge, words: Mapping[str, Sequence[str]] | None = None) -> Categories:
    """The tokens that begin a word of each category; ``None``: those of ``category_words``, and numbers, Chinese and punctuation.

    Words count as they stand in the middle of a text or at its beginning, with a small or a capital letter. A name of several words is
    known by its first. Where the model cuts that into tokens, the first token counts if it has three letters or more.
    Raises ValueError where no category has a token.
    """
    texts = [text.strip() for text in model.tokenizer.batch_decode([[token] for token in range(model.cfg.d_vocab)])]
    found = {category: _beginnings(model, own, texts) for category, own in (category_words() if words is None else words).items()}
    for category, fits in SHAPES.items() if words is None else ():
        found.setdefault(category, set()).update(token for token, text in enumerate(texts) if text and fits(text))
    ordered = sorted((category for category, tokens in found.items() if tokens), key=lambda category: len(found[category]))
    if not ordered:
        raise ValueError("None of the categories has a token of this model: give words that it does not cut into short pieces.")
    members = torch.zeros(len(ordered), model.cfg.d_vocab, dtype=torch.bool)
    for row, category in enumerate(ordered):
        members[row, sorted(found[category])] = True
    return Categories(tuple(ordered), members)


def _beginnings(model: TransformerBridge, words: Sequence[str], texts: Sequence[str]) -> set[int]:
    """The first tokens of the words in all spellings, where they show enough of the word; ``texts`` are those of all tokens."""
    first = dict.fromkeys(word.removeprefix("The ").split()[0] for word in words if word.strip())
    written = [gap + form for word in first for form in dict.fromkeys((word, word[0].upper() + word[1:])) for gap in ("", " ")]
    ids = model.tokenizer(written, add_special_tokens=False)["input_ids"] if written else []
    begun = {(one[0], word.strip()) for one, word in zip(ids, written, strict=True) if one}
    return {
        token for token, word in begun if texts[token] == word or (len(texts[token]) >= LEAST_LETTERS and word.startswith(texts[token]))
    }
