"""Writes the tables of docs/errors.md: every message that the helpers raise, where, and what to do about it.

    python tools/errors_page.py                            writes the tables
    python tools/errors_page.py "There is no layer 12"     finds the entry of a message that somebody saw

The messages are read off the code. What to do about each kind of them is written by hand on the page itself, with the words
by which messages of this kind are known in a comment.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
GAP = "…"  # stands for what differs from case to case
LEFT_OUT = {"NotYet"}  # what a check says about an answer: see the section on exercises
LETTERS = 9  # a text with fewer of them says nothing by itself
START, END = "<!-- messages: these tables are written by `python tools/errors_page.py` -->", "<!-- /messages -->"
SECTION = re.compile(r"^### (?P<title>[^\n]+)\n+<!-- words: (?P<words>.*?) ?-->\n+(?P<short>.+?)\n\n", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"[^\W\d_]{2,}")


# ------------------------------------------------------------------------------------------------- remedies by kind


@dataclass(frozen=True)
class Remedy:
    """What to do about a kind of message: the messages that have a match of ``words`` and of no kind before it."""

    title: str
    words: str
    short: str

    @property
    def anchor(self) -> str:
        """The name by which the page links to its section."""
        return re.sub(r"[^a-z0-9-]", "", self.title.lower().replace(" ", "-"))

    def fits(self, message: "Message") -> bool:
        """Does the message have the words of this kind, in its text, its kind of error or its module?"""
        return bool(re.search(self.words, f"{message.error} {message.module}: {message.text}"))


def read_remedies(text: str) -> list[Remedy]:
    """The remedies of the page's own sections, in their order; the last one has no words of its own and fits everything."""
    return [Remedy(part["title"].strip(), part["words"], " ".join(part["short"].split())) for part in SECTION.finditer(text)]


# ------------------------------------------------------------------------------------------------- messages of the code


@dataclass(frozen=True)
class Message:
    """A message of the code: ``text`` with gaps where it differs from case to case, raised in these functions of a module."""

    module: str
    error: str
    text: str
    functions: tuple[str, ...] = field(compare=False)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What every message of this kind matches; a repr has quotation marks only where it is that of a text."""
        return re.compile(".*".join(map(re.escape, re.split(f"'{GAP}'|{GAP}", self.text))), re.DOTALL)

    def row(self, remedy: Remedy) -> str:
        """Its line in the table of its module."""
        where = ", ".join(f"`{name}`" for name in self.functions)
        error = "" if self.error == "ValueError" else f"{self.error}: "
        cells = [error + self.text, where, f"{remedy.short} [More](#{remedy.anchor})"]
        return "| " + " | ".join(cell.replace("|", r"\|").replace("<", r"\<") for cell in cells) + " |"


def messages(root: Path = ROOT) -> list[Message]:
    """All messages that the helpers raise, by module; each once in a module, with all functions that raise it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    folder = root / "helpers"
    for path in sorted(folder.rglob("*.py")):
        module = path.relative_to(folder).with_suffix("").as_posix().removesuffix("/__init__")
        for function, error, text in raised(ast.parse(path.read_text(encoding="utf-8"))):
            functions = found.setdefault((module, error, text), [])
            functions += [function] * (function not in functions)
    return [Message(*key, tuple(functions)) for key, functions in found.items()]


def raised(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """``(function, kind of error, text)`` of each message that a module raises. Raises ValueError where a message cannot be read off."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name, function in within(tree):
        for node in own_nodes(function):
            error = error_of(node)
            if error is None or error.startswith("_") or error in LEFT_OUT:
                continue
            said = sorted(set(texts_of(node.exc.args[0], function, functions))) if node.exc.args else []
            if not said and not passes_on(node.exc.args, function):
                raise ValueError(f"No message can be read off {name}, line {node.lineno}: raise it with a text, or assign one there.")
            yield from ((name, error, text) for text in said)


def within(node: ast.AST, before: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of a module by its name, with its class in front."""
    for child in ast.iter_child_nodes(node):
        name = f"{before}{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else before
        if isinstance(child, ast.FunctionDef):
            yield name, child
        yield from within(child, f"{name}." if isinstance(child, ast.FunctionDef | ast.ClassDef) else before)


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def error_of(node: ast.AST) -> str | None:
    """The name of the error that a node raises anew, if it does."""
    match node:
        case ast.Raise(exc=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name
    return None


def passes_on(said: Sequence[ast.expr], function: ast.FunctionDef) -> bool:
    """Does a text only repeat an error that the function caught, whose message has its entry already?"""
    caught = {node.name for node in own_nodes(function) if isinstance(node, ast.ExceptHandler)}
    return any(isinstance(node, ast.Name) and node.id in caught for part in said for node in ast.walk(part))


def texts_of(said: ast.expr, function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """The texts that an expression may be: its own words, or where it has few, with the sentences that it gets from elsewhere.

    Elsewhere is a name that the function gives to a text, a list of checks, or another function of the module.
    """
    if says_something(text := template(said)):
        yield text
        return
    for name in sorted({node.id for node in ast.walk(said) if isinstance(node, ast.Name)}):
        yield from filter(says_something, (template(said, name, sentence) for sentence in sentences(name, function, functions)))


def sentences(name: str, function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """Texts that a name of a function may stand for: assigned to it, listed with a condition, or returned by another function."""
    for node in own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=known)], value=value) if known == name:
                yield from map(template, strings(value))
            case ast.Tuple(elts=[_, second]):
                yield template(second)
            case ast.NamedExpr(target=ast.Name(id=known), value=ast.Call(func=ast.Name(id=called))) if known == name:
                yield from returned(functions[called]) if called in functions else ()


def returned(function: ast.FunctionDef) -> Iterator[str]:
    """The texts that a function may return; where it returns one out of a list of checks, each of the list with what is put around it."""
    listed = [template(node.elts[1]) for node in own_nodes(function) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
    for node in own_nodes(function):
        for text in strings(node.value) if isinstance(node, ast.Return) and node.value else ():
            if says_something(template(text)):
                yield template(text)
            else:
                names = {part.id for part in ast.walk(text) if isinstance(part, ast.Name)}
                yield from (template(text, name, sentence) for name in names & {"sentence", "problem"} for sentence in listed)


def strings(node: ast.expr) -> Iterator[ast.expr]:
    """The whole texts in an expression, not the parts of them."""
    if isinstance(node, ast.JoinedStr | ast.Constant):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def template(node: ast.expr, name: str = "", given: str = "") -> str:
    """A text with gaps for what is put into it, but for the value of ``name``, if it is given; empty for what is no text.

    >>> template(ast.parse("f'There is no {what!r}: {why}.'", mode="eval").body, "why", "it was lost")
    "There is no '…': it was lost."
    """
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part, name, given) for part in parts)
        case ast.FormattedValue(value=ast.Name(id=known)) if known == name:
            return given
        case ast.FormattedValue(conversion=conversion):
            return f"'{GAP}'" if conversion == ord("r") else GAP  # a repr has quotation marks, which a reader sees
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return (template(left, name, given) or GAP) + (template(right, name, given) or GAP)
        case ast.Name(id=known):
            return given if known == name else GAP
    return ""


def says_something(text: str) -> bool:
    """Has a text enough words of its own to be looked for?"""
    return " " in text.strip() and sum(map(str.isalpha, text.replace(GAP, ""))) >= LETTERS


# ------------------------------------------------------------------------------------------------------------ the page


def put_between_marks(text: str, tables: str) -> str:
    """The page with new tables between its two marks. Raises ValueError where a mark is missing."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"docs/errors.md has no place for the messages: put the lines {START} and {END} where the tables belong.")
    return f"{before}{START}\n\n{tables}\n\n{END}{after}"


def page(text: str, found: Sequence[Message]) -> str:
    """The page with its own text and with the tables of these messages."""
    remedies = read_remedies(text)
    modules = dict.fromkeys(message.module for message in found)
    tables = [table(module, [message for message in found if message.module == module], remedies) for module in modules]
    return put_between_marks(text, "\n\n".join(tables))


def table(module: str, found: Iterable[Message], remedies: Sequence[Remedy]) -> str:
    """The messages of one module, each with its remedy."""
    rows = [message.row(remedy_for(message, remedies)) for message in found]
    return f"### helpers/{module}\n\n" + "\n".join(["| message | raised in | what to do |", "|---|---|---|", *rows])


def remedy_for(message: Message, remedies: Sequence[Remedy]) -> Remedy:
    """The first kind that fits."""
    return next(remedy for remedy in remedies if remedy.fits(message))


def find(said: str, found: Sequence[Message]) -> list[Message]:
    """The messages that ``said`` may be, the best first; where none fits, those that share the most words with it."""
    said = re.sub(r"^[\w.]*(Error|NotAvailable|ThisModel): ", "", said.strip()).strip("\"'")
    if fitting := [message for message in found if message.pattern.fullmatch(said)]:
        return sorted(fitting, key=lambda message: -len(message.text))
    words = set(WORD.findall(said.lower()))
    shared = {message: len(words & set(WORD.findall(message.text.lower()))) for message in found}
    return [message for message in sorted(found, key=lambda message: -shared[message])[:3] if shared[message] > 1]


def main(words: Sequence[str] = (), root: Path = ROOT) -> None:
    """Writes the tables into the page; with words of a message, prints what to do about it instead."""
    path = root / "docs" / "errors.md"
    text, found = path.read_text(encoding="utf-8"), messages(root)
    remedies = read_remedies(text)
    if words:
        for message in find(" ".join(words), found):
            place = f"helpers/{message.module}.py, {', '.join(message.functions)}"
            print(f"{message.text}\n    {place}\n    {remedy_for(message, remedies).short}\n")
        return
    path.write_text(page(text, found), encoding="utf-8")
    print(f"docs/errors.md has {len(found)} messages of {len({message.module for message in found})} modules.")
    for message in found:
        if remedy_for(message, remedies) == remedies[-1]:
            print(f"no kind of remedy fits this message of helpers/{message.module}: {message.text}")


if __name__ == "__main__":
    main(sys.argv[1:])
