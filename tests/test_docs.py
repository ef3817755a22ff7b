"""The pages that help a reader: they agree with the notebooks, all links lead somewhere, and all that they name is there."""

import re
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import helpers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import lecture_map_page  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES} | {"helpers/__init__.py": helpers.__doc__}
LINK = re.compile(r"(?:(?<!\\)\]\(|^\[\w+\]: )(?P<target>[^)\s]+)", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


ROW = re.compile(
    r'^\| <a id="(?P<anchor>[^"]+)"></a>\*\*(?P<term>[^*]+)\*\* \| (?P<zh>[^|]+) \| (?P<says>[^|]+) \| \[(?P<lesson>\w+)\] \|$'
)
LINES = [line for line in TEXTS["glossary.md"].splitlines() if line.startswith("| <a")]
TERMS = [match.groupdict() for line in LINES if (match := ROW.match(line))]


@cache
def words_of(lesson: str) -> str:
    """What a notebook says in its prose and its code, in small letters; names of code are cut into their words."""
    [path] = (ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    return "\n".join(cell.source if cell.cell_type == "markdown" else cell.source.replace("_", " ") for cell in notebook.cells).lower()


def missing_words(term: str, text: str) -> list[str]:
    """The words of a term of which no form stands in a text; of long words the ending may differ.

    >>> missing_words("dead features", "a feature that is dead"), missing_words("dead neuron", "a feature that is dead")
    ([], ['neuron'])
    """
    stems = {word: re.escape(word[: max(4, len(word) - 3)]) for word in term.lower().split() if word != "and"}
    return [word for word, stem in stems.items() if not re.search(rf"(?<![a-z]){stem}", text)]


def test_the_glossary_has_sixty_terms_in_order_each_with_an_anchor_of_its_own():
    assert len(TERMS) == len(LINES) >= 60
    names = [row["term"] for row in TERMS]
    assert names == sorted(set(names), key=str.casefold)
    assert [row["anchor"] for row in TERMS] == [re.sub(r"[^a-z0-9]+", "-", name.lower()) for name in names]


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row["anchor"])
def test_each_term_is_explained_in_two_languages_and_stands_in_the_notebook_that_it_names(row: dict[str, str]):
    assert re.search(r"[\u4e00-\u9fff]", row["zh"]), "the Chinese column has no Chinese"
    assert row["says"].endswith(".") and len(row["says"]) > 30
    assert missing_words(row["term"], words_of(row["lesson"])) == []


def test_the_map_of_the_lecture_is_up_to_date_and_names_the_section_of_each_figure():
    assert TEXTS["lecture_map.md"] == lecture_map_page.page(lecture_map_page.rows()), "make pages"


def test_a_figure_stands_in_the_last_section_above_its_cell(tmp_path: Path):
    cells = [new_markdown_cell("# 01\n\ntext\n\n## 2 · Two"), new_code_cell("1"), new_code_cell("2", metadata={"tags": ["fig-07"]})]
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_one.ipynb")
    row = {"figure": "7", "claim": "a | b", "notebook": "01_one", "cell": "fig-07", "helper": "neurons.name"}
    lines = lecture_map_page.page([row], tmp_path).splitlines()
    assert lines[-3:] == [r"| 7 | a \| b | [01], *2 · Two* | `helpers.neurons.name` |", "", "[01]: ../notebooks/01_one.ipynb"]
    with pytest.raises(ValueError, match="No cell is tagged fig-08"):
        lecture_map_page.page([row | {"cell": "fig-08"}], tmp_path)


def anchors(text: str) -> set[str]:
    """The places of a Markdown page to which a link can lead: its headings, as GitHub names them, and its own anchors."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    named = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-") for heading in headings]
    return {*named, *re.findall(r'<a id="([^"]+)"', text)}


def broken_links(text: str, folder: Path) -> list[str]:
    """The links of a page in ``folder`` to files and places that are not there; addresses of the web are not looked up."""
    found = []
    for match in LINK.finditer(FENCE.sub("", text)):
        path, _, place = match["target"].partition("#")
        if "://" in match["target"]:
            continue
        there = not path or (folder / path).exists()
        page = text if not path else (folder / path).read_text("utf-8") if there and path.endswith(".md") else ""
        if not there or (place and page and place not in anchors(page)):
            found.append(match["target"])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    assert broken_links(text, page.parent) == []
    assert set(re.findall(r"(?<!\])\[(\d\d[ab]?)\](?![(:])", text)) <= set(re.findall(r"^\[(\w+)\]: ", text, re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_links_of_notebooks_to_these_pages_lead_somewhere(path: Path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    assert [target for target in broken_links(text, path.parent) if target.startswith("../")] == []


def test_links_that_lead_nowhere_are_reported(tmp_path: Path):
    (tmp_path / "there.md").write_text("# A place, and\n")
    links = "[a](there.md#a-place-and) [b](there.md#elsewhere) [c](gone.md) [d](#here-i-am) [e](#gone) [f](https://x.org/y#z) [01]"
    text = f"{links}\n\n## Here I am\n\n[01]: gone.ipynb\n"
    assert broken_links(text, tmp_path) == ["there.md#elsewhere", "gone.md", "#gone", "gone.ipynb"]


FOLDERS = "helpers|teaching|tests|tools|data|docs|notebooks"
PLACEHOLDER = re.compile(r"<[^>]*>|NAME|NN|…")
MODULES = [*ROOT.glob("*.py"), *(path for folder in ("helpers", "teaching", "tests", "tools") for path in (ROOT / folder).rglob("*.py"))]
DEFINED = {name for path in MODULES for name in re.findall(r"\b(?:def|class) (\w+)", path.read_text(encoding="utf-8"))}
COMMANDS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def is_there(name: str) -> bool:
    """Is a dotted name a module, or something in one?"""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(import_module(module), attribute) or import_module(name) is not None
    except ImportError:
        return False


def named_in_vain(text: str) -> list[str]:
    """The paths, dotted names, modules, functions and commands that a page names and that are not there."""
    code = "\n".join([*FENCE.findall(text), *re.findall(r"(?<!`)`([^`\n]+)`", FENCE.sub("", text))])
    paths = {path.rstrip("/.") for path in re.findall(rf"(?<![\w/~.-])(?:{FOLDERS})/[\w./*<>…-]*", code)}
    found = [path for path in sorted(paths) if not any(ROOT.glob(PLACEHOLDER.sub("*", path)))]
    modules = set(re.findall(r"(?<![\w/*>-])\w+\.py\b", code)) - {"test_file.py"}
    found += [name for name in sorted(modules) if not any(path.match(PLACEHOLDER.sub("*", name)) for path in MODULES)]
    found += [name for name in sorted(set(re.findall(r"\b(?:helpers|teaching)(?:\.[a-z]\w*)+", code))) if not is_there(name)]
    found += [name for name in sorted(set(re.findall(r"^(\w+)\(", code, re.MULTILINE))) if name not in DEFINED]
    return found + [name for name in sorted(set(re.findall(r"\bmake ([a-z][a-z-]*)", code))) if name not in COMMANDS]


@pytest.mark.parametrize("page", TEXTS)
def test_everything_that_a_page_names_is_there(page: str):
    assert named_in_vain(TEXTS[page]) == []


def test_what_is_gone_is_reported():
    gone = ["helpers/exercises/lesson_NN.py", "effects.py", "helpers.neurons.name", "load_models", "tests"]
    there = "`helpers/models.py` `notebooks/NN_<name>.ipynb` `models.py` `helpers.models.load_model` `load_model()` `make test ARGS=x`"
    assert named_in_vain(there) == []
    assert named_in_vain(f"{there} `{gone[0]}` `{gone[1]}` `{gone[2]}` `{gone[3]}()` `make {gone[4]}`") == gone


def test_the_citation_agrees_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = dict(re.findall(r'^(version|license|repository-code): "?([^"\n]+)"?$', text, flags=re.MULTILINE))
    setup = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4).cells[2].source
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert f'"{cited["repository-code"]}"' in setup
