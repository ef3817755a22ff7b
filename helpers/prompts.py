"""Prompt sets: typed, written by hand in ``data/prompts/<notebook>.json``, and checked when they are loaded.

A file is one object; each of its keys names a set, and each set says what kind of entries it has:

    {
      "everyday":  {"about": "...", "type": "text",
                    "entries": [{"text": "It rains.", "group": "weather"}]},
      "agreement": {"about": "...", "type": "pair",
                    "entries": [{"prompt": "The keys", "answer": "are", "wrong": "is", "group": "plural"}]},
      "entities":  {"about": "...", "type": "labelled", "labels": ["name", "unrelated"],
                    "entries": [{"text": "Here is the Eiffel Tower.", "label": "name", "group": "Eiffel Tower"}]}
    }

A wrong file is one sentence that says which file, which set and entry, and what is wrong with it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from helpers.course_lm.corpus.base import Probe
from helpers.inputs import chosen

FOLDER = Path(__file__).parents[1] / "data" / "prompts"


class PromptFileError(ValueError):
    """A prompt file that cannot be used; the message says which entry of which file is wrong, and how."""


@dataclass(frozen=True)
class TextPrompt:
    """A plain text, and the group to which it belongs."""

    text: str
    group: str


@dataclass(frozen=True)
class MinimalPair(Probe):
    """A probe with a right and a wrong continuation; ``corrupted`` is its prompt changed so that the wrong one becomes right.

    As in every probe of the course LM, ``prompt`` ends without a space, and ``answer`` and ``wrong`` begin without one.
    """

    corrupted: str | None = None


@dataclass(frozen=True)
class LabelledPrompt:
    """A text about something, the ``group``, with a ``label`` that says what kind of text about it this is."""

    text: str
    label: str
    group: str


Prompt = TextPrompt | MinimalPair | LabelledPrompt
TYPES: dict[str, tuple[type[Prompt], tuple[str, ...]]] = {  # the class of an entry, and the fields that it must have
    "text": (TextPrompt, ("text", "group")),
    "pair": (MinimalPair, ("prompt", "answer", "wrong", "group")),
    "labelled": (LabelledPrompt, ("text", "label", "group")),
}


@dataclass(frozen=True)
class PromptSet:
    """Some prompts of one type. ``about`` says in a sentence what they are for; ``labels`` orders the labels, if there are any."""

    name: str
    about: str
    entries: tuple[Prompt, ...]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of prompts."""
        return len(self.entries)

    def __iter__(self) -> Iterator[Prompt]:
        """The prompts in the order of the file."""
        return iter(self.entries)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, each once, in the order of the file."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.entries))

    def of(self, group: str, label: str | None = None) -> tuple[Prompt, ...]:
        """The prompts of one group, and of one label of it. Raises ValueError where there is no such group or label."""
        for word, known, kind in ((group, self.groups, "group"), (label, self.labels, "label")):
            if word is not None:
                chosen(known, word, kind)
        return tuple(p for p in self.entries if p.group == group and label in (None, getattr(p, "label", None)))


@dataclass(frozen=True)
class Prompts:
    """All prompt sets of one notebook, by name: ``prompts["agreement"]``."""

    notebook: str
    sets: Mapping[str, PromptSet]

    def __getitem__(self, name: str) -> PromptSet:
        """The set of this name. Raises ValueError where there is none."""
        return chosen(self.sets, name, "set of prompts")


def load_prompts(notebook: str, folder: Path = FOLDER) -> Prompts:
    """The prompt sets of a notebook. Raises PromptFileError, with one sentence, for a file that is missing or wrong."""
    path = folder / f"{notebook}.json"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in folder.glob("*.json"))) or "none"
        raise PromptFileError(f"There is no prompt file data/prompts/{path.name}; there are prompts for: {there}.")
    raw = _read(path)
    return Prompts(notebook, {name: _prompt_set(name, spec, f"{path.name}, set {name!r}") for name, spec in raw.items()})


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as problem:
        raise PromptFileError(f"{path.name}, line {problem.lineno}: this is no valid JSON ({problem.msg}).") from None
    except (UnicodeDecodeError, PromptFileError) as problem:
        raise PromptFileError(f"{path.name} cannot be read: {problem}") from None
    if not isinstance(raw, dict) or not raw:
        raise PromptFileError(f"{path.name} must be an object with a name for each of its sets.")
    return raw


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise PromptFileError(f"the name {double!r} stands twice in one object.")
    return dict(pairs)


def _prompt_set(name: str, spec: Any, where: str) -> PromptSet:
    """A set out of the object that describes it."""
    _check_fields(spec, ("about", "type", "entries"), ("labels",), where)
    if spec["type"] not in TYPES:
        raise PromptFileError(f"{where}: there is no type {spec['type']!r}; it is one of: {', '.join(TYPES)}.")
    labels = spec.get("labels", [])
    if (spec["type"] == "labelled") != bool(labels):  # listed, so that a mistyped one is found
        raise PromptFileError(f"{where}: a set of type 'labelled' lists its 'labels', and no other set does.")
    if not spec["entries"]:
        raise PromptFileError(f"{where}: its 'entries' must not be empty.")
    entries = [_prompt(raw, spec["type"], labels, f"{where}, entry {number}") for number, raw in enumerate(spec["entries"], 1)]
    for number, entry in enumerate(entries, 1):
        if (first := entries.index(entry) + 1) < number:
            raise PromptFileError(f"{where}, entry {number}: it is the same as entry {first}.")
    return PromptSet(name, spec["about"], tuple(entries), tuple(labels))


def _prompt(raw: Any, kind: str, labels: list[str], where: str) -> Prompt:
    """One entry as a prompt."""
    made, needed = TYPES[kind]
    _check_fields(raw, needed, [field.name for field in fields(made)], where)
    for field, text in raw.items():
        if not text or text != text.strip():
            raise PromptFileError(f"{where}: its {field!r} must be a text that neither begins nor ends with a space, not {text!r}.")
    if "label" in raw and raw["label"] not in labels:
        raise PromptFileError(f"{where}: there is no label {raw['label']!r} in this set; it has: {', '.join(map(str, labels))}.")
    if kind == "pair" and raw["answer"] == raw["wrong"]:
        raise PromptFileError(f"{where}: its 'answer' and its 'wrong' answer are both {raw['answer']!r}.")
    return made(**raw)


def _check_fields(raw: Any, needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    """Are all needed fields there, no unknown ones, and each a text or, where it holds several things, a list?"""
    if not isinstance(raw, dict):
        raise PromptFileError(f"{where}: it must be an object with the fields {', '.join(needed)}, not {raw!r}.")
    if missing := [name for name in needed if name not in raw]:
        raise PromptFileError(f"{where}: its {missing[0]!r} is missing.")
    if unknown := [name for name in raw if name not in (*needed, *optional)]:
        raise PromptFileError(f"{where}: there is no field {unknown[0]!r}; it may have: {', '.join(dict.fromkeys((*needed, *optional)))}.")
    for name, value in raw.items():
        if not isinstance(value, list if name in ("entries", "labels") else str):
            raise PromptFileError(f"{where}: its {name!r} must be a {'list' if name in ('entries', 'labels') else 'text'}, not {value!r}.")
