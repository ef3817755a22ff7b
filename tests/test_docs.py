"""The pages that help a reader: the glossary, the messages with their remedies and the figures agree with the code and the notebooks."""

import ast
import doctest
import re
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageChops, ImageStat

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"(?<!\\)\]\((?P<target>[^)\s]+)\)")


def tool(name: str) -> ModuleType:
    """A program of tools/ as a module."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return import_module(name)


@cache
def all_messages() -> list:
    """The messages of the code."""
    return tool("errors_page").messages()


# ------------------------------------------------------------------------------------------------------------- the glossary

ROW = re.compile(
    r'^\| <a id="(?P<anchor>[^"]+)"></a>\*\*(?P<term>[^*]+)\*\* \| (?P<zh>[^|]+) \| (?P<says>[^|]+) \| \[\w+\]\((?P<path>[^)]+)\) \|$'
)


def glossary() -> list[dict[str, str]]:
    """The terms of the glossary."""
    lines = (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
    return [match.groupdict() for line in lines if line.startswith("| <a") and (match := ROW.match(line))]


TERMS = glossary()


@cache
def words_of(path: Path) -> str:
    """What a notebook says in its prose and its code, in small letters; names of code are cut into their words."""
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
    lines = (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
    assert len(TERMS) == sum(line.startswith("| <a") for line in lines) >= 60
    names = [row["term"] for row in TERMS]
    assert names == sorted(set(names), key=str.casefold)
    assert [row["anchor"] for row in TERMS] == [re.sub(r"[^a-z0-9]+", "-", name.lower()) for name in names]


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row["anchor"])
def test_each_term_is_explained_in_two_languages_and_stands_in_the_notebook_that_it_names(row: dict[str, str]):
    assert re.search(r"[\u4e00-\u9fff]", row["zh"]), "the Chinese column has no Chinese"
    assert row["says"].endswith(".") and len(row["says"]) > 30
    assert missing_words(row["term"], words_of(DOCS / row["path"])) == []


def test_a_term_that_a_notebook_does_not_have_is_reported():
    assert missing_words("logit microscope", words_of(ROOT / "notebooks" / "00_start_here.ipynb")) == ["microscope"]


# ------------------------------------------------------------------------------------------------------------- messages

CODE = """
class Thing:
    def __post_init__(self):
        checks = [(self.n < 1, f"n is {self.n}, and must be one"), (not self.name, "it has no name at all")]
        if sentence := next((text for wrong, text in checks if wrong), ""):
            raise ValueError(sentence)

    def put(self, path):
        try:
            read(path)
        except KeyError as problem:
            raise ValueError(f"{path}: {problem}") from None
        raise errors.Odd("not by its own name")


def load(name):
    if not name:
        problem = f"There is no name in {name!r}"
    else:
        problem = "It is something else"
    raise ModelNotAvailable(f"{problem}.")


def check(kind):
    wrong = "is empty as well" if kind else "begins badly"
    raise ValueError(f"{kind}: {wrong}.")


def add(what):
    if problem := _problem(what):
        raise ValueError(problem)
    raise ValueError(f"There are {len(what):,} of them: " "take fewer.")


def _problem(what):
    checks = [(what, "this is wrong indeed")]
    return next((f"{what}: {sentence}." for wrong, sentence in checks if wrong), None)


def answer():
    raise NotYet("This is no answer at all.")


def stop():
    raise _Complete
"""
READ = {
    ("Thing.__post_init__", "ValueError", "n is …, and must be one"),
    ("Thing.__post_init__", "ValueError", "it has no name at all"),
    ("Thing.put", "Odd", "not by its own name"),
    ("load", "ModelNotAvailable", "There is no name in '…'."),
    ("load", "ModelNotAvailable", "It is something else."),
    ("check", "ValueError", "…: is empty as well."),
    ("check", "ValueError", "…: begins badly."),
    ("add", "ValueError", "…: this is wrong indeed."),
    ("add", "ValueError", "There are … of them: take fewer."),
}


def test_messages_are_read_off_the_code():
    assert set(tool("errors_page").raised(ast.parse(CODE))) == READ


def test_a_message_that_cannot_be_read_off_is_reported():
    unreadable = "def f(x):\n    raise ValueError(x.text)\n"
    with pytest.raises(ValueError, match="No message can be read off f, line 2"):
        list(tool("errors_page").raised(ast.parse(unreadable)))


def test_the_page_has_every_message_of_the_code_and_no_other():
    errors = tool("errors_page")
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    found = all_messages()
    rows = [line for line in text.partition(errors.START)[2].splitlines() if line.startswith("| ") and "](#" in line]
    wanted = [message.row(errors.remedy_for(message, errors.read_remedies(text))) for message in found]
    again = "; run python tools/errors_page.py"
    assert [row for row in wanted if row not in rows] == [], f"messages of the code without an entry{again}"
    assert [row for row in rows if row not in wanted] == [], f"entries without a message in the code{again}"
    assert text == errors.page(text, found), f"docs/errors.md is out of date{again}"


def raised_words(tree: ast.Module) -> set[str]:
    """The longer pieces of text in all `raise` statements of a module, wherever they stand, but for those of checks of exercises."""
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    said = [call for call in calls if ast.unparse(call.func) != "NotYet"]
    parts = [part.value for call in said for part in ast.walk(call) if isinstance(part, ast.Constant)]
    return {part for part in parts if isinstance(part, str) and len(part) > 12}


@pytest.mark.parametrize("path", sorted((ROOT / "helpers").rglob("*.py")), ids=lambda path: path.relative_to(ROOT / "helpers").as_posix())
def test_all_words_that_a_module_raises_stand_on_the_page(path: Path):
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    words = raised_words(ast.parse(path.read_text(encoding="utf-8")))
    assert [part for part in words if part.replace("|", r"\|").replace("<", r"\<") not in text] == []


def test_words_are_found_wherever_they_are_raised():
    assert raised_words(ast.parse("if x:\n    raise Odd(f'a message of a module, {x}')")) == {"a message of a module, "}
    assert raised_words(ast.parse("def f():\n    raise NotYet('this is what a check says')")) == set()


def test_nearly_every_message_has_a_kind_with_a_remedy_and_every_kind_has_messages():
    errors = tool("errors_page")
    remedies = errors.read_remedies((DOCS / "errors.md").read_text(encoding="utf-8"))
    found = all_messages()
    kinds = [errors.remedy_for(message, remedies) for message in found]
    assert remedies[-1].words == "" and len({remedy.anchor for remedy in remedies}) == len(remedies)
    assert [remedy.title for remedy in remedies[:-1] if remedy not in kinds] == [], "a kind without a message"
    assert kinds.count(remedies[-1]) <= len(found) // 50, "give these a kind: python tools/errors_page.py lists them"


def cause_no_direction() -> None:
    from torch import zeros

    from helpers.interventions import project_out

    project_out("blocks.0.hook_resid_pre", zeros(3))


def cause_no_folder() -> None:
    from helpers.models import load_model

    load_model("./no_such_model")


def cause_no_device() -> None:
    from helpers.models import choose_device

    choose_device("abacus")


def cause_no_prompt_file() -> None:
    from helpers.prompts import load_prompts

    load_prompts("99_nothing")


def cause_no_table() -> None:
    from helpers.course_lm.world import World

    World.load().rows("dragons")


def cause_odd_finding() -> None:
    from helpers.findings import Declared

    Declared("demo.share", control_is=" ")


def cause_odd_settings() -> None:
    from helpers.autoencoders import Settings

    Settings(kind="magic")


def cause_no_interval() -> None:
    from helpers.statistics import bootstrap_interval

    bootstrap_interval([1.0])


def cause_uneven_pairs() -> None:
    from helpers.statistics import paired_differences

    paired_differences([1.0, 2.0], [1.0])


def cause_no_values() -> None:
    from helpers.statistics import as_numbers

    as_numbers([])


def cause_no_exercise() -> None:
    from helpers.exercises import Exercises

    Exercises("09_demo").exercise("9.9")


CAUSES: dict[Callable[[], None], str] = {
    cause_no_direction: "Numbers that cannot be computed with",
    cause_no_folder: "A model that must be fetched",
    cause_no_device: "A device or a number type",
    cause_no_prompt_file: "A prompt file",
    cause_no_table: "Names",
    cause_odd_finding: "Findings",
    cause_odd_settings: "Settings of a training",
    cause_no_interval: "Too few to measure",
    cause_uneven_pairs: "Lists that do not match",
    cause_no_values: "Nothing was given",
    cause_no_exercise: "Exercises",
}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_a_message_that_somebody_saw_is_found_with_its_remedy(cause: Callable[[], None]):
    errors = tool("errors_page")
    remedies = errors.read_remedies((DOCS / "errors.md").read_text(encoding="utf-8"))
    with pytest.raises((ValueError, RuntimeError, LookupError)) as raised:
        cause()
    best = errors.find(f"{raised.type.__name__}: {raised.value}", all_messages())[0]
    assert best.pattern.fullmatch(str(raised.value).strip("\"'")) and best.error == raised.type.__name__
    assert errors.remedy_for(best, remedies).title == CAUSES[cause]


def test_a_number_in_the_place_of_a_text_is_recognised_too():
    found = tool("errors_page").find("demo.share: value must be one number, not [3].", all_messages())
    assert found[0].text == "… must be one number, not '…'."


def test_a_message_of_which_only_some_words_are_known_is_found_too_and_printed(capsys: pytest.CaptureFixture[str]):
    errors = tool("errors_page")
    errors.main(["a direction of length 0", "points somewhere"])
    printed = capsys.readouterr().out
    assert printed.startswith("A direction of length 0 points nowhere") and "helpers/directions.py" in printed
    assert errors.find("xyzzy", all_messages()) == []


def test_tables_need_their_marks():
    with pytest.raises(ValueError, match=r"docs/errors\.md has no place for the messages"):
        tool("errors_page").put_between_marks("# Messages\n", "| none |")


# ------------------------------------------------------------------------------------------------------------ the figures


@cache
def all_figures() -> list:
    """The figures that the committed notebooks show."""
    return tool("figures_page").read_figures()


def test_the_figure_page_is_what_the_committed_notebooks_make():
    figures = tool("figures_page")
    found = all_figures()
    again = "run python tools/figures_page.py"
    assert len(found) == 57 and all(figure.text or figure.pictures for figure in found)
    assert (DOCS / "figures.md").read_text(encoding="utf-8") == figures.page(found), again
    assert sorted(path.name for path in (DOCS / "figures").iterdir()) == sorted(file for figure in found for file in figure.files), again


def test_its_pictures_are_small_and_those_of_the_notebooks():
    found = all_figures()
    pictures = {file: png for figure in found for file, png in zip(figure.files, figure.pictures, strict=True)}
    sizes = [(DOCS / "figures" / file).stat().st_size for file in pictures]
    assert pictures and max(sizes) < 60_000 and sum(sizes) < 2_000_000
    far = [file for file, png in pictures.items() if difference((DOCS / "figures" / file).read_bytes(), png) > 4]
    assert far == [], "these pictures are of another run: python tools/figures_page.py"


def difference(one: bytes, other: bytes) -> float:
    """How much two pictures differ on average, seen from afar: 0 to 255."""
    afar = [Image.open(BytesIO(png)).convert("RGB").resize((48, 32), Image.Resampling.BOX) for png in (one, other)]
    return sum(ImageStat.Stat(ImageChops.difference(*afar)).mean) / 3


def png(colour: str, size: tuple[int, int] = (1000, 500)) -> bytes:
    """A picture of one colour."""
    file = BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def small_tree(tmp_path: Path) -> SimpleNamespace:
    """A tree with one notebook in which one cell shows a figure, as text and as a picture."""
    from base64 import b64encode

    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    about = "8,1 One neuron,It is so.,01_one,{},neurons.promoted,test_one.py::test_it"
    lines = [about.format("fig-08"), "9,1 One neuron,It is not shown yet.,,,,"]
    (tmp_path / "data" / "lecture_map.csv").write_text("figure,section,claim,notebook,cell,helper,test\n" + "\n".join(lines) + "\n")
    outputs = [
        new_output("stream", name="stdout", text="three\n\nof four\n"),
        new_output("display_data", data={"image/png": b64encode(png("#ff0000")).decode(), "text/plain": "<Figure>"}),
    ]
    cells = [
        new_markdown_cell("# One\n\nText\n\n## 2 · Two\n\nText"),
        new_code_cell("draw()", outputs=outputs, metadata={"tags": ["fig-08"]}),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "01_one.ipynb")
    return SimpleNamespace(root=tmp_path, row=about)


def test_a_page_of_one_figure(small_tree: SimpleNamespace, capsys: pytest.CaptureFixture[str]):
    folder = small_tree.root / "docs" / "figures"
    folder.mkdir(parents=True)
    (folder / "fig-99.png").write_bytes(b"old")
    tool("figures_page").main(small_tree.root)
    text = (small_tree.root / "docs" / "figures.md").read_text(encoding="utf-8")
    assert "### Figure 8\n\nThe lecture: **It is so.**\n\n[Notebook 01](../notebooks/01_one.ipynb), *2 · Two*" in text
    assert "](figures/fig-08.png)" in text and "```text\nthree\nof four\n```" in text and "```python\ndraw()\n```" in text
    assert "Figure 9" not in text and "<Figure>" not in text
    assert [path.name for path in folder.iterdir()] == ["fig-08.png"]
    assert Image.open(folder / "fig-08.png").size == (720, 360) and difference((folder / "fig-08.png").read_bytes(), png("#ff0000")) < 1
    assert "shows 1 figures, 1 of them with a picture; 1 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "shows"),
    [
        ([], ["drawn"], True),
        (["drawn"], ["text"], True),
        ([], ["text", "drawn"], True),
        ([], ["# Another section", "drawn"], False),
        (["drawn", "# Another section"], [], False),
        ([], ["of another figure", "drawn"], False),
    ],
)
def test_a_figure_that_draws_nothing_shows_what_its_section_draws_beside_it(
    before: list[str], after: list[str], shows: bool, small_tree: SimpleNamespace
):
    path = small_tree.root / "notebooks" / "01_one.ipynb"
    drawn = nbformat.read(path, as_version=4).cells[1]
    drawn.metadata.tags = []
    others = {"drawn": drawn, "of another figure": new_code_cell("", metadata={"tags": ["fig-09"]})}
    own = new_code_cell("show()", outputs=[new_output("stream", name="stdout", text="three\n")], metadata={"tags": ["fig-08"]})
    cells = [others.get(name) or new_markdown_cell(name) for name in before] + [own]
    cells += [others.get(name) or new_markdown_cell(name) for name in after]
    nbformat.write(new_notebook(cells=cells), path)
    figure = tool("figures_page").read_figures(small_tree.root)[0]
    assert (figure.text, len(figure.pictures), figure.beside) == ("three\n", int(shows), shows)
    assert ("![What notebook 01 draws beside figure 8" in figure.entry()) == shows


def test_a_sketch_stands_in_for_a_picture_of_an_idea():
    figures = tool("figures_page")
    assert all((ROOT / "notebooks" / "figures" / file).is_file() for file in figures.SKETCHES.values())
    by_number = {figure.figure: figure for figure in all_figures()}
    entry = by_number[34].entry()
    assert not by_number[34].files and "](../notebooks/figures/model_of_model.svg)" in entry


def test_a_figure_whose_cell_is_missing_is_named(small_tree: SimpleNamespace):
    (small_tree.root / "data" / "lecture_map.csv").write_text(
        f"figure,section,claim,notebook,cell,helper,test\n{small_tree.row.format('fig-80')}\n"
    )
    with pytest.raises(ValueError, match="No cell of 01_one is tagged fig-80: tag the one that shows figure 8"):
        tool("figures_page").read_figures(small_tree.root)


def test_pictures_of_another_run_are_told_apart():
    assert difference(png("#ffffff"), png("#ffffff", (500, 250))) == 0
    assert difference(png("#ffffff"), png("#ff0000")) > 100


@pytest.mark.parametrize("name", ["errors_page", "figures_page"])
def test_the_examples_of_the_tools_hold(name: str):
    result = doctest.testmod(tool(name))
    assert result.attempted > 0 and result.failed == 0


def test_printed_text_is_shortened():
    shorten = tool("figures_page").shorten
    assert shorten("a b\n\n  c  \n") == "a b\n  c"
    many = "\n".join(map(str, range(30))).splitlines()
    assert shorten("\n".join(many)).splitlines() == [*many[:16], "… and 14 lines more"]
    assert shorten("\n".join(many[:17])).splitlines() == many[:17], "to leave out one line saves none"
    wrapped = shorten("word " * 40).splitlines()
    assert len(wrapped) == 2 and max(map(len, wrapped)) <= 118 and wrapped[1].startswith("    word")


# ---------------------------------------------------------------------------------------------------- links, and citation


def anchors(text: str) -> set[str]:
    """The places of a Markdown page to which a link can lead: its headings, as GitHub names them, and its own anchors."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)
    named = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-") for heading in headings]
    return {*named, *re.findall(r'<a id="([^"]+)"', text)}


def broken_links(text: str, folder: Path) -> list[str]:
    """The links of a page in ``folder`` to files and places that are not there; addresses of the web are not looked up."""
    found = []
    for match in LINK.finditer(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
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
    assert broken_links(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_links_of_notebooks_to_these_pages_lead_somewhere(path: Path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    assert [target for target in broken_links(text, path.parent) if target.startswith("../")] == []


def test_links_that_lead_nowhere_are_reported(tmp_path: Path):
    (tmp_path / "there.md").write_text("# A place, and\n")
    links = "[a](there.md#a-place-and) [b](there.md#elsewhere) [c](gone.md) [d](#here-i-am) [e](#gone) [f](https://x.org/y#z)"
    text = f"{links}\n\n## Here I am\n"
    assert broken_links(text, tmp_path) == ["there.md#elsewhere", "gone.md", "#gone"]


def test_the_citation_agrees_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = dict(re.findall(r'^(version|license|repository-code): "?([^"\n]+)"?$', text, flags=re.MULTILINE))
    setup = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4).cells[2].source
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert f'"{cited["repository-code"]}"' in setup
