"""The files from which the corpus is made: a slip is named by its line."""

from pathlib import Path

import pytest

from helpers.course_lm.world import DATA, read_json, read_table

FOLDER = DATA / "corpus"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.*")), ids=lambda path: path.name)
def test_every_file_can_be_read_and_the_readme_names_it(path: Path) -> None:
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text(encoding="utf-8") or path.name == "README.md"
    assert path.suffix == ".md" or (read_table if path.suffix == ".csv" else read_json)(path)


def test_a_row_with_a_missing_or_a_superfluous_cell_is_named(tmp_path: Path) -> None:
    for number, row in enumerate(("one", "one,two,three")):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"left,right\na,b\n{row}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{number}\.csv, line 3: a row needs 2 cells\.$"):
            read_table(path)


def test_a_slip_in_a_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{\n  "names": ["Anna"\n  "Paul"]\n}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"words\.json, line 3: Expecting ',' delimiter\.$"):
        read_json(path)


def test_cells_and_phrases_keep_their_spaces_quotes_and_letters(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('left,right\n" a ","say ""é"", 雲"\n', encoding="utf-8")
    assert read_table(tmp_path / "a.csv") == [{"left": " a ", "right": 'say "é", 雲'}]
    (tmp_path / "a.json").write_text('{"x": ["", " a ", "\\"雲\\""]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"x": ["", " a ", '"雲"']}
