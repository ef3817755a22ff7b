"""The course's address stands in pyproject.toml, and everywhere else it is the same one."""

import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import address  # noqa: E402


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A folder with the files in which the address stands, and another address in its pyproject.toml."""
    for path in ("README.md", "CITATION.cff", "notebooks/00_start_here.ipynb", "notebooks/assignments/1_one_neuron/1_one_neuron.ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    give(tmp_path, "https://github.com/ada/engine-1.0")
    return tmp_path


def give(course: Path, repository: str) -> None:
    (course / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{repository}"\n')


def test_the_address_is_the_same_everywhere():
    assert address.main(["--check"]) == 0


def test_a_new_address_is_written_everywhere_once(course: Path, capsys: pytest.CaptureFixture[str]):
    assert address.main(["--check"], course) == 1
    assert capsys.readouterr().out.count("has another address than pyproject.toml: run make address") == 4
    assert address.main([], course) == 0
    assert capsys.readouterr().out == "https://github.com/ada/engine-1.0 stands everywhere; 4 files changed.\n"
    assert address.main(["--check"], course) == 0
    notebook = nbformat.read(course / "notebooks" / "00_start_here.ipynb", as_version=4)
    assert "colab.research.google.com/github/ada/engine-1.0/blob/main/notebooks/00_start_here.ipynb)" in notebook.cells[0].source
    assert 'REPOSITORY = "https://github.com/ada/engine-1.0"\n' in notebook.cells[2].source
    assert "url     = {https://github.com/ada/engine-1.0}" in (course / "README.md").read_text(encoding="utf-8")
    assert address.address().split("/")[0] not in (course / "CITATION.cff").read_text(encoding="utf-8")


def test_only_the_address_is_changed(course: Path):
    before = (course / "notebooks" / "00_start_here.ipynb").read_bytes()
    address.main([], course)
    give(course, f"https://github.com/{address.address()}")
    address.main([], course)
    assert (course / "notebooks" / "00_start_here.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    "given", ["", "https://gitlab.com/ada/course", "https://github.com/ada", "https://github.com/ada/course/tree/main"]
)
def test_an_address_that_colab_cannot_open_is_refused(course: Path, given: str):
    give(course, given)
    with pytest.raises(SystemExit, match=r"it has to be https://github\.com/OWNER/NAME"):
        address.main([], course)


def test_a_file_that_lost_its_address_is_named(course: Path):
    (course / "CITATION.cff").write_text("title: A course\n")
    with pytest.raises(SystemExit, match=r"CITATION\.cff has no address"):
        address.main([], course)
