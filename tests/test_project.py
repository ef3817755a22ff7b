"""The project holds together: one list of dependencies, tested versions within it, nothing that harms Colab, no import upwards."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]


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


def test_conda_takes_its_packages_from_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = re.findall(r"^ +- (.+)$", text, flags=re.MULTILINE)
    assert packages == ["conda-forge", "python=3.12", "pip", "pip:", "-c constraints.txt", "-e .[dev]"]


def test_every_folder_of_helpers_is_a_package():
    assert all((path.parent / "__init__.py").exists() for path in (ROOT / "helpers").rglob("*.py"))


ROOMS = ("course_lm", "core", "one_neuron", "one_layer", "cluster", "speak", "reproduce")  # each imports itself and those before it,
DATA_FOR_CORE = ("helpers.course_lm.corpus", "helpers.course_lm.world")  # but of the factory the core takes these only


def room(module: str) -> str:
    """The folder of helpers in which a module lies, or "core"."""
    folder = module.split(".")[1]
    return folder if folder in ROOMS else "core"


def imported(source: str) -> set[str]:
    """What a source imports, also within functions; of ``from a import b`` it is a.b."""
    nodes = list(ast.walk(ast.parse(source)))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return whole | {f"{'.' * node.level}{node.module}.{alias.name}" for node in parts for alias in node.names}


def may_import(importer: str, module: str) -> bool:
    """May a module of helpers import this one?"""
    if not module.startswith("helpers."):
        return not module.startswith((".", "teaching")) and (not module.startswith("transformer_lens") or importer == "helpers.models")
    here, there = room(importer), room(module)
    if here == "course_lm" and there == "core":
        return module.split(".")[1] == "stats"
    if here == "core" and there == "course_lm":
        return module.startswith(DATA_FOR_CORE)
    of_another = here != there and module.startswith(f"helpers.{there}.widgets")
    return ROOMS.index(there) <= ROOMS.index(here) and not of_another


def forbidden_imports(root: Path) -> list[str]:
    """Every import in ``root/helpers`` that breaks the rule."""
    found = []
    for path in sorted((root / "helpers").rglob("*.py")):
        importer = ".".join(path.relative_to(root).with_suffix("").parts)
        modules = sorted(imported(path.read_text(encoding="utf-8")))
        found += [f"{importer} imports {module}" for module in modules if not may_import(importer, module)]
    return found


def test_nothing_imports_upwards_and_there_is_one_door_to_models():
    assert forbidden_imports(ROOT) == []
    others = [
        path for folder in ("notebooks", "tools", "teaching") for kind in ("py", "ipynb") for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    assert [path for path in others if re.search(r"(from|import) transformer_lens", path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("importer", "allowed", "planted"),
    [
        ("course_lm/report", "from helpers.stats import mean_interval", "from helpers.prediction import pad"),
        ("models", "import transformer_lens", "from helpers.speak.lens import logit_lens"),
        ("texts", "from helpers.course_lm.corpus.mixture import documents", "from helpers.course_lm import train"),
        ("metrics", "import torch", "import transformer_lens.hook_points"),
        ("one_layer/probes", "from helpers.one_neuron import neurons", "def late():\n    from helpers.cluster.extraction import enrich"),
        ("speak/multihop", "from helpers import course_lm", "from helpers.reproduce import lab"),
        ("cluster/circuits", "from helpers.widgets import Demo", "from helpers.one_layer.widgets_directions import dial"),
        ("reproduce/lab", "import helpers.speak.lens", "import helpers.speak.widgets_lens"),
        ("speak/lens", "from helpers.speak.widgets_lens import page", "from teaching.graded import same"),
        ("speak/accounts", "from helpers.running import generate", "from .lens import logit_lens"),
    ],
)
def test_an_import_that_was_planted_is_found(importer: str, allowed: str, planted: str, tmp_path: Path):
    path = tmp_path / "helpers" / f"{importer}.py"
    path.parent.mkdir(parents=True)
    path.write_text(allowed)
    assert forbidden_imports(tmp_path) == []
    path.write_text(f"{allowed}\n{planted}")
    assert len(forbidden_imports(tmp_path)) == 1


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


def test_shapes_are_checked_while_tests_run():
    """In the factory of the corpus they are not (typecheck.py)."""
    from helpers.course_lm.muon import orthogonalise
    from helpers.course_lm.world import World

    with pytest.raises(TypeCheckError, match="row"):
        orthogonalise(torch.ones(3))
    assert not hasattr(World.pick, "__wrapped__")
