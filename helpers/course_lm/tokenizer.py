"""The course LM's tokenizer: a byte-level BPE trained on the corpus, with the chat format as its template.

A word is one and the same token at the start of a text, after a space and after a new line: every
piece gets a leading space before it is cut, and a new line is a token of its own.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers.course_lm.corpus.base import ASSISTANT, BOS, END, SYSTEM, USER, sentence
from helpers.course_lm.corpus.chat import SIDES, first_word
from helpers.course_lm.corpus.languages import EVERYDAY
from helpers.course_lm.corpus.mixture import documents
from helpers.course_lm.facts import all_facts
from helpers.course_lm.world import World

PAD = "<|pad|>"
SPECIAL = (BOS, PAD, SYSTEM, USER, ASSISTANT, END)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORD_TABLES = {
    "nouns": ("singular", "plural", "category", "fr", "de", "zh", "colour"),
    "adjectives": ("word", "comparative", "superlative", "fr", "de", "zh"),
    "verbs": ("base", "third", "past", "participle", "gerund"),
    "firstnames": ("name",),
    "animals": ("name", "plural", "young", "kind", "home", "food"),
    "sequences": ("item",),
}
CAPITALISED = {"nouns": ("singular", "plural"), "adjectives": ("word",), "verbs": ("base",)}
SMALL_WORDS = ("Yes", "No", "this", "that", "these", "those", "This", "That", "These", "Those")
COUNTED = 1000  # how often each of these words is counted beside the text, so that it becomes one token


def demo_words(world: World) -> list[str]:
    """The words that demonstrations rely on: answers of facts and the words of the lists, one by one."""
    answers = [f.object for f in all_facts(world) if f.relation.name not in ("birthplace", "company_city", "founder")]
    listed = [row[column] for table, columns in WORD_TABLES.items() for column in columns for row in world.common(table)]
    columns = (("countries", "name"), ("countries", "zh"), ("landmarks", "zh"), ("elements", "name"))
    names = [name for table, column in columns for name in world.column(table, column)]
    everyday = [word for row in EVERYDAY for word in row.values()]
    capitals = [sentence(row[column]) for table, columns in CAPITALISED.items() for column in columns for row in world.common(table)]
    letters = [str(i) for i in range(21)] + list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    openings = [first_word(text) for texts in SIDES.values() for text in texts]
    texts = (*answers, *openings, *listed, *names, *everyday, *capitals, *letters, *SMALL_WORDS)
    return sorted({word for text in texts for word in text.split()})


def train_tokenizer(seed: int, vocab_size: int, n_documents: int = 60_000) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the first documents of the corpus; the words of the demonstrations count often."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\n ", "\n")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_training_text(seed, n_documents), trainer)
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        clean_up_tokenization_spaces=False,
    )


def _training_text(seed: int, n_documents: int) -> Iterable[str]:
    """Lines of the corpus, the chat marks turned into line breaks, then the words of the demonstrations."""
    for written in islice(documents(seed), n_documents):
        text = written.text
        for mark in SPECIAL:
            text = text.replace(mark, "\n")
        yield from text.split("\n")
    for word in demo_words(World.load()):
        yield " ".join([word] * COUNTED)


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without the mark at the beginning."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Reads the tokenizer of a checkpoint folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
