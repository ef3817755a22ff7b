"""Concepts of the course LM's corpus, marked on every token: the truth against which features and neurons are judged.

The corpus is written by rules, so for each text it is known what it is about. A concept is a yes or no for every token:

- ``element``, ``country``, ``capital``, ``landmark``: the last token of that thing's name;
- ``language``: a token that holds a Chinese character or a part of one;
- ``kind``: a text of this kind, such as ``tasks.sums`` or ``stories.story``;
- ``task``: a list of this task, such as antonyms;
- ``answer``: what the assistant says, where it is a refusal or help, praise or honest, a person's or a machine's word about itself;
- ``error``: an error message of the Python console, from the name of the error to the end of its line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.course_lm.corpus import lists
from helpers.course_lm.corpus.chat import refuses
from helpers.course_lm.corpus.opinions import flatters
from helpers.course_lm.corpus.speakers import speaks_as
from helpers.course_lm.world import World
from helpers.models import TransformerBridge
from helpers.one_neuron.neurons import this_token
from helpers.prediction import tokenize
from helpers.texts import Texts

NAMES = {
    "element": ("elements", "name"),
    "country": ("countries", "name"),
    "capital": ("countries", "capital"),
    "landmark": ("landmarks", "name"),
}
JUDGES: dict[str, Callable[[str], str | None]] = {  # what an answer is, in the chats of a kind
    "chat.request": lambda text: "refusal" if refuses(text) else "help",
    "chat.praise": lambda text: {True: "praise", False: "honest"}.get(flatters(text)),
    "chat.roles": lambda text: speaks_as(text) and f"of a {speaks_as(text)}",
}
ERRORS = ("NameError", "TypeError", "ValueError", "ZeroDivisionError", "IndexError", "KeyError")


@dataclass(frozen=True)
class Concepts:
    """Concepts by name, each in a group, and for each token of some texts whether it belongs to them.

    Tokens are those of ``texts.mask``, in their order; ``of_texts`` has one row for each text instead. ``count`` says how many
    tokens, or texts, each concept has.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Bool[Tensor, "token concept"]

    @property
    def count(self) -> Int[Tensor, "concept"]:
        """How many tokens, or texts, each concept has."""
        return self.labels.sum(0)

    def of_texts(self, texts: Texts) -> "Concepts":
        """The same concepts for whole texts: a text belongs to those that any of its tokens belongs to."""
        text_of = torch.arange(len(texts)).repeat_interleave(texts.mask.sum(1))
        if len(text_of) != len(self.labels):
            raise ValueError(f"The concepts are those of {len(self.labels)} tokens, the texts have {len(text_of)}: give the same texts.")
        found = torch.zeros(len(texts), len(self.names)).index_add_(0, text_of, self.labels.float()) > 0
        return Concepts(self.names, self.groups, found)

    def in_groups(self, *groups: str) -> "Concepts":
        """The concepts of some groups."""
        return self.keep([at for at, group in enumerate(self.groups) if group in groups])

    def keep(self, chosen: Sequence[int]) -> "Concepts":
        """Some of the concepts."""
        return Concepts(tuple(self.names[i] for i in chosen), tuple(self.groups[i] for i in chosen), self.labels[:, list(chosen)])

    def table(self) -> str:
        """One line for each group: how many concepts, and how many tokens the rarest and the commonest have."""
        lines = ["group       concepts    the rarest, the commonest"]
        for group in dict.fromkeys(self.groups):
            counts = sorted(count for count, own in zip(self.count.tolist(), self.groups, strict=True) if own == group)
            lines.append(f"{group:<10} {len(counts):9} {counts[0]:>10,} {counts[-1]:>10,}")
        return "\n".join(lines)


def concepts_in(model: TransformerBridge, texts: Texts) -> Concepts:
    """All concepts of the corpus that occur in some texts of it."""
    world, found = World.load(), {}
    named = [(group, name) for group, (table, column) in NAMES.items() for name in dict.fromkeys(world.column(table, column))]
    numbers = runs_in(texts, [_ids(model, name) for _, name in named])
    by_token = {place: tokens for place, tokens in zip(named, numbers, strict=True) if len(tokens)}
    for kind in dict.fromkeys(texts.kinds):
        found["kind", kind] = of_kind(texts, kind)
    for task, marked in tasks_of(model, texts).items():
        found["task", task] = marked
    for answer, marked in answers_in(model, texts).items():
        found["answer", answer] = marked
    newline = _ids(model, "\n")[-1]
    found["error", "console error"] = torch.stack([spans(texts, _ids(model, name), newline) for name in ERRORS]).any(0)
    found["language", "Chinese"] = in_chinese(model, texts)
    by_token |= {place: marked[texts.mask].nonzero().flatten() for place, marked in found.items() if bool((marked & texts.mask).any())}
    labels = torch.zeros(texts.n_tokens, len(by_token), dtype=torch.bool)
    for at, tokens in enumerate(by_token.values()):
        labels[tokens, at] = True
    return Concepts(tuple(f"{group}: {name}" for group, name in by_token), tuple(group for group, _ in by_token), labels)


def judged(choose: Concepts, test: Concepts, least: int) -> tuple[Concepts, Concepts]:
    """The concepts that both halves have on at least ``least`` tokens, in the same order on both sides."""
    common = [name for name, count in zip(choose.names, choose.count.tolist(), strict=True) if count >= least and name in test.names]
    common = [name for name in common if int(test.count[test.names.index(name)]) >= least]
    return choose.keep([choose.names.index(name) for name in common]), test.keep([test.names.index(name) for name in common])


def runs_in(texts: Texts, runs: Sequence[Sequence[int]]) -> list[Int[Tensor, "found"]]:
    """For each of many runs of tokens where it ends, as numbers of tokens in the order of ``texts.mask``; one sort serves all."""
    flat, width = texts.tokens.flatten(), texts.tokens.shape[1]
    ordered, places = flat.sort(stable=True)
    number = texts.mask.flatten().cumsum(0) - 1
    found = []
    for run in runs:
        first, last = torch.searchsorted(ordered, torch.tensor([run[-1], run[-1] + 1])).tolist()
        ends = places[first:last]
        ends = ends[(ends % width >= len(run) - 1) & texts.mask.flatten()[ends]]
        for back, one in enumerate(reversed(run[:-1]), 1):
            ends = ends[flat[ends - back] == one]
        found.append(number[ends])
    return found


def ends_of(texts: Texts, ids: Sequence[int]) -> Bool[Tensor, "row pos"]:
    """Where a run of tokens ends."""
    ends = torch.zeros(texts.n_tokens, dtype=torch.bool)
    ends[runs_in(texts, [ids])[0]] = True
    return torch.zeros_like(texts.mask).masked_scatter(texts.mask, ends)


def spans(texts: Texts, start: Sequence[int], end: int) -> Bool[Tensor, "row pos"]:
    """From where a run of tokens ends up to the token before the next ``end``."""
    place = torch.arange(1, texts.tokens.shape[1] + 1)
    last_begin = (ends_of(texts, start) * place).cummax(1).values
    last_end = ((texts.tokens == end) * place).cummax(1).values
    return (last_begin > last_end) & texts.mask


def of_kind(texts: Texts, kind: str) -> Bool[Tensor, "row pos"]:
    """All tokens of the texts of one kind."""
    return torch.tensor([own == kind for own in texts.kinds])[:, None] & texts.mask


def answers_in(model: TransformerBridge, texts: Texts) -> dict[str, Bool[Tensor, "row pos"]]:
    """What the assistant says in chats of three kinds, by what it is; in a chat with a refusal nothing else is help."""
    start, end = model.tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    said = spans(texts, [start], end) & (texts.tokens != start)
    found: dict[str, Tensor] = {}
    for row, kind in enumerate(texts.kinds):
        places = said[row].nonzero().flatten() if kind in JUDGES else torch.zeros(0, dtype=torch.long)
        answers = places.tensor_split((places.diff() > 1).nonzero().flatten() + 1) if len(places) else ()
        verdicts = [JUDGES[kind](model.tokenizer.decode(texts.tokens[row, part].tolist()).strip()) for part in answers]
        for part, verdict in zip(answers, verdicts, strict=True):
            if verdict and not (verdict == "help" and "refusal" in verdicts):
                found.setdefault(verdict, torch.zeros_like(texts.mask))[row, part] = True
    return found


def in_chinese(model: TransformerBridge, texts: Texts) -> Bool[Tensor, "row pos"]:
    """The tokens that hold a Chinese character; where a text has one, its parts of letters too: rare characters are cut into bytes."""
    decoded = model.tokenizer.batch_decode([[token] for token in range(model.cfg.d_vocab)])
    whole = this_token(texts, [token for token, text in enumerate(decoded) if any("一" <= letter <= "鿿" for letter in text)])
    parts = this_token(texts, [token for token, text in enumerate(decoded) if "\N{REPLACEMENT CHARACTER}" in text])
    return whole | (parts & whole.any(1, keepdim=True))


def tasks_of(model: TransformerBridge, texts: Texts) -> dict[str, Bool[Tensor, "row pos"]]:
    """The lists of each task: those whose lines are all pairs of it, and of no other task."""
    world = World.load()
    known = {task: set(lists.pairs(world, task)) for task in lists.TASKS}
    marked = {task: torch.zeros_like(texts.tokens, dtype=torch.bool) for task in known}
    for row, kind in enumerate(texts.kinds):
        if kind == "lists.lists":
            text = model.tokenizer.decode(texts.tokens[row, 1 : texts.lengths[row]].tolist()).strip()
            pairs = [tuple(part.replace(" -> ", ": ").split(": ")) for part in text.replace("\n", ", ").split(", ")]
            fitting = [task for task, whole in known.items() if all(pair in whole for pair in pairs)]
            if len(fitting) == 1:
                marked[fitting[0]][row] = texts.mask[row]
    return marked


def _ids(model: TransformerBridge, text: str) -> list[int]:
    """The tokens of a text within a text."""
    ids = tokenize(model, text).tolist()
    return ids[1:] if model.cfg.default_prepend_bos else ids
