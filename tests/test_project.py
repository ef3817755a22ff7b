"""The project holds together: one list of dependencies, tested versions within it, and nothing that harms Colab."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def pins(path: Path) -> dict[str, str]:
    """The package names and versions of a constraints file."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line)}


TESTED, COLAB = pins(ROOT / "constraints.txt"), pins(ROOT / "tests" / "colab-constraints.txt")


@pytest.mark.parametrize("requirement", CORE + DEV, ids=lambda requirement: requirement.name)
def test_every_dependency_has_two_bounds_and_a_tested_version_within(requirement: Requirement):
    operators = {specifier.operator for specifier in requirement.specifier}
    assert {">=", "<"} <= operators
    version = TESTED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"constraints.txt has {version}, pyproject.toml wants {requirement.specifier}"


@pytest.mark.parametrize("requirement", [r for r in CORE if canonicalize_name(r.name) in COLAB], ids=lambda requirement: requirement.name)
def test_what_colab_has_is_within_the_ranges(requirement: Requirement):
    assert requirement.specifier.contains(COLAB[canonicalize_name(requirement.name)])


def test_constraints_are_plain_versions_sorted():
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[0-9][0-9a-z.]*", line) for line in lines), "no local versions such as +cpu"
    assert lines == sorted(lines, key=str.lower) and len(lines) == len(TESTED)


def stub_wheel(folder: Path, name: str, version: str, requires: str) -> None:
    """Writes an empty wheel. Its package is published as source only, and pip resolves for another Python only with wheels."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: {requires}\n"
        wheel.writestr(f"{stem}.dist-info/METADATA", about)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def package_index_answers() -> bool:
    """Can pip reach the public package index?"""
    try:
        return urlopen("https://pypi.org/simple/fancy-einsum/", timeout=5).status == 200
    except (URLError, OSError):
        return False


@pytest.mark.network
def test_pip_can_add_the_course_to_colab_without_changing_what_is_there(tmp_path: Path):
    if not package_index_answers():
        pytest.skip("pypi.org cannot be reached, so pip cannot look up what it would install on Colab")
    if int(metadata.version("pip").split(".")[0]) < 24:
        pytest.skip("this pip downloads gigabytes to answer the question: pip install --upgrade pip")
    stub_wheel(tmp_path, "transformers-stream-generator", "0.0.5", "transformers>=4.26.1")
    options = ["--dry-run", "--ignore-installed", "--quiet", "--retries", "1", "--target", tmp_path / "nowhere", "--find-links", tmp_path]
    options += ["--use-feature", "fast-deps"]  # read the metadata of large wheels without downloading them
    options += ["--python-version", "3.13", "--only-binary", ":all:", "--constraint", ROOT / "tests" / "colab-constraints.txt"]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *map(str, CORE)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_conda_takes_its_packages_from_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = re.findall(r"^ +- (.+)$", text, flags=re.MULTILINE)
    assert packages == ["conda-forge", "python=3.12", "pip", "pip:", "-c constraints.txt", "-e .[dev]"]


def test_every_folder_of_helpers_is_a_package_and_its_data_is_found():
    folders = {path.parent for path in (ROOT / "helpers").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    from helpers.course_lm.world import DATA

    assert DATA == ROOT / "data" and list((DATA / "world").glob("*.csv"))


def test_the_door_to_models_is_the_only_importer_of_transformer_lens():
    importers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "helpers").rglob("*.py")
        if re.search(r"^\s*(from|import) transformer_lens", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert importers <= {"helpers/models.py"}


@pytest.mark.skipif(os.name == "nt", reason="make and sh belong to Linux and macOS")
def test_make_alone_lists_the_commands_and_every_command_is_explained():
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert phony and [line.split()[1] for line in listed.splitlines()] == phony[1].split()


@pytest.mark.skipif(os.name == "nt", reason="make and sh belong to Linux and macOS")
@pytest.mark.parametrize("script", ["tools/install.sh", ".ci/run"])
def test_scripts_are_executable_and_their_syntax_is_right(script: str):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_run_in_order_and_carry_nothing_of_one_machine(path: Path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom: make notebooks"
    assert "widgets" not in notebook.metadata, "saved widget state keeps GitHub from showing the file"
    assert not re.search(r"/(home|root|Users|tmp|work)/\w", path.read_text(encoding="utf-8")), "a path of one machine"
