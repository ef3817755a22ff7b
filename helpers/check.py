"""Is everything in place? ``python -m helpers.check`` prints [OK] or [FAIL] for each part, and what to do about it.

Every check returns ``(ok, message, remedy)``. Whatever a check raises is reported as [FAIL] in one sentence. The
libraries of the course are imported only where they are needed: the checks have to run where nothing is installed.
"""

import hashlib
import platform
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "data" / "course_lm"
MEMORY_NEEDED = 2.0  # GB
QUESTION, ANSWER = "The capital of Poland is", " Warsaw"
REINSTALL = "Run `make lab` (or, in your environment: pip install -e .[dev] -c constraints.txt)."

Result = tuple[bool, str, str]


def project() -> dict:
    """The ``[project]`` table of pyproject.toml, where the needed versions stand."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def check_python(version: str = platform.python_version()) -> Result:
    """Is this a Python that the course supports?"""
    from packaging.specifiers import SpecifierSet

    needed = project()["requires-python"]
    ok = SpecifierSet(needed).contains(version, prereleases=True)
    return ok, f"Python {version} at {sys.executable} (needed: {needed})", "Install Python 3.12 and make a new environment with it."


def check_packages(requirements: Sequence[str] | None = None) -> Result:
    """Is every package installed, in a version within its range?"""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in (project()["dependencies"] if requirements is None else requirements)]
    problems = [problem for requirement in wanted if (problem := _problem(requirement.name, requirement.specifier))]
    return not problems, "; ".join(problems) or f"all {len(wanted)} are installed in a version that fits", REINSTALL


def _problem(name: str, specifier) -> str:
    """What is wrong with one package, or nothing."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is missing"
    return "" if specifier.contains(version, prereleases=True) else f"{name} is {version}, needed is {specifier}"


def check_kernel(version: str = "") -> Result:
    """Does this version of ipykernel answer widgets between cells? Others do it beside a running cell, in the one model that there is."""
    from packaging.specifiers import SpecifierSet

    version = version or metadata.version("ipykernel")
    ok = not SpecifierSet(">=7.0,<7.4").contains(version, prereleases=True)
    said = "answers widgets between cells" if ok else "answers widgets beside a running cell (the course's own wait; yours would not)"
    return ok, f"ipykernel {version} {said}", 'Take another version: pip install "ipykernel>=7.4"'


def check_weights(folder: Path = WEIGHTS) -> Result:
    """Are the files of the course LM there, and are they what was trained?"""
    sums = folder / "SHA256SUMS"
    remedy = "Restore the files (git checkout -- data/course_lm), or train the model again: make model"
    if not sums.exists():
        return False, f"{sums} is missing", remedy
    lines = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines() if line.strip()]
    problems = [problem for digest, name in lines if (problem := _damage(folder / name.strip().lstrip("*"), digest))]
    return not problems and bool(lines), "; ".join(problems) or f"{len(lines)} files are whole", remedy


def _damage(path: Path, digest: str) -> str:
    """What is wrong with one file, or nothing."""
    if not path.exists():
        return f"{path.name} is missing"
    return "" if hashlib.sha256(path.read_bytes()).hexdigest() == digest.lower() else f"{path.name} is damaged (its checksum differs)"


def check_model() -> Result:
    """Does the course LM load?"""
    from helpers.models import load_model

    config = load_model().cfg
    return True, f"the course LM loads ({config.n_layers} layers of width {config.d_model})", REINSTALL


def check_answer(model=None) -> Result:
    """Does the course LM know one fact that it has read often?"""
    from helpers.models import load_model

    model = load_model() if model is None else model
    token = int(model(model.to_tokens(QUESTION))[0, -1].argmax())
    answer = model.tokenizer.decode([token])
    remedy = "The weights are not the ones that were shipped: git checkout -- data/course_lm"
    return answer == ANSWER, f"{QUESTION!r} is continued with {answer!r}" + ("" if answer == ANSWER else f", not {ANSWER!r}"), remedy


def check_memory(needed: float = MEMORY_NEEDED) -> Result:
    """Is there enough free memory for the largest notebook?"""
    import psutil

    free = psutil.virtual_memory().available / 1e9
    return free >= needed, f"{free:.1f} GB are free (needed: {needed:g} GB)", "Close other programs, browsers and notebook kernels first."


def check_real_models() -> Result:
    """Which real models are on this machine? None is needed; who has them sees more."""
    from helpers.real_models import REAL_MODELS

    there = [name for name, model in REAL_MODELS.items() if model.ready]
    others = [name for name in REAL_MODELS if name not in there]
    missing = f"{', '.join(others)} not, which `make real` fetches" if others else "none is missing"
    return True, f"{', '.join(there) or 'none'} here; {missing}", ""


CHECKS: dict[str, Callable[[], Result]] = {
    "Python": check_python,
    "packages": check_packages,
    "kernel": check_kernel,
    "weights": check_weights,
    "model": check_model,
    "answer": check_answer,
    "memory": check_memory,
    "real models": check_real_models,
}


def run_check(check: Callable[[], Result]) -> Result:
    """Runs one check; an error becomes a failed check of one sentence."""
    try:
        return check()
    except ImportError as error:
        return False, f"{error.name or error} cannot be imported", REINSTALL
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return False, reason[:300], "Put the lines above right first; if they are all [OK]: " + REINSTALL


def main(checks: dict[str, Callable[[], Result]] = CHECKS) -> int:
    """Prints a line for each check; 0 if all is well, else 1."""
    failed = 0
    for name, check in checks.items():
        ok, message, remedy = run_check(check)
        failed += not ok
        print(f"{'[OK]  ' if ok else '[FAIL]'} {name}: {message}" + ("" if ok else f"\n       {remedy}"), flush=True)
    print("Everything is in place." if not failed else f"{failed} of {len(checks)} checks failed; start with the first.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
