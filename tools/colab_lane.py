"""Runs all lessons as Google Colab would: with its versions, installed as the setup cell does it; `make test-colab`.

A virtual environment gets what Colab has (tests/colab-constraints.txt), then the course, by the command of the notebooks' setup cell, and
nothing that was there may have changed. Then nbval compares the outputs of every lesson. The minor version of Python may differ from
Colab's, and the output says so.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tests" / "colab-constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
RUNNER = ("nbval>=0.11,<1", "pytest>=8.4,<10", "pytest-xdist>=3.6,<4")  # what runs the notebooks here; Colab has no need of it
SETUP_COMMAND = re.compile(r"!pip install (?P<options>.*) /content/course")


def pins() -> dict[str, str]:
    """What Colab has: each package with its version."""
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if "==" in line]
    return dict(line.split("==") for line in lines)


def colab_python() -> str:
    """Colab's Python, as the head of the constraints says."""
    return re.search(r"Python (3\.\d+)", PINS.read_text(encoding="utf-8"))[1]


def setup_options() -> list[str]:
    """The options with which the setup cell calls pip."""
    cells = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["cells"]
    setup = next("".join(cell["source"]) for cell in cells if "setup" in cell["metadata"].get("tags", []))
    return SETUP_COMMAND.search(setup)["options"].split()


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Which packages of Colab are another version than they were, or gone."""
    return [f"{name} was {version} and is {after.get(name, 'gone')}" for name, version in before.items() if after.get(name) != version]


def installed(python: Path) -> dict[str, str]:
    """What an environment has, names as in the constraints."""
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", quiet=True))
    return {entry["name"].lower().replace("-", "_"): entry["version"] for entry in listed}


def run(python: Path, *arguments: str, quiet: bool = False, **more: str) -> str:
    """Runs the environment's Python; ends the lane, with its output, if it fails."""
    done = subprocess.run([python, *arguments], cwd=ROOT, env=os.environ | more, text=True, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def cpu_index() -> list[str]:
    """PyTorch's index of builds without CUDA, if it can be reached: its usual Linux build brings several gigabytes."""
    try:
        urlopen(f"{CPU_INDEX}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--index-url", CPU_INDEX]


def build(venv: Path) -> Path:
    """Makes the environment, once, and returns its Python."""
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = venv / "colab-ready"
    if done.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    packages = [f"{name}=={version}" for name, version in pins().items()]
    torch = next(package for package in packages if package.startswith("torch=="))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(python, *pip, "--no-deps", *cpu_index(), torch)
    run(python, *pip, "--constraint", str(PINS), *packages, *RUNNER)
    before = {name: version.split("+")[0] for name, version in installed(python).items()}
    run(python, *pip, *[option for option in setup_options() if option != "--quiet"], ".")
    after = {name: version.split("+")[0] for name, version in installed(python).items()}
    wanted = {name.lower().replace("-", "_"): version for name, version in pins().items()}
    if problems := changed(wanted, before) + changed(before, after):
        sys.exit("The course changes what Colab has: " + "; ".join(problems) + ".")
    print(f"added to Colab's packages: {', '.join(sorted(set(after) - set(before)))}; changed: none")
    done.touch()
    return python


def main(arguments: list[str]) -> None:
    """Builds the environment named first and runs all lessons in it, or those named after it."""
    venv = Path(arguments[0] if arguments else ".venv-colab")
    names = arguments[1:] or [str(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    minor = ".".join(platform.python_version_tuple()[:2])
    same = (
        "the same here" if minor == colab_python() else f"here it is {minor}, so this lane cannot see what only {colab_python()} would do"
    )
    print(f"Colab: Python {colab_python()} ({same}); {', '.join(f'{name} {version}' for name, version in pins().items())}", flush=True)
    options = ["--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "-q"]
    parallel = ["-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile"]
    offline = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    run(build(venv), "-m", "pytest", *options, *parallel, *names, **offline)


if __name__ == "__main__":
    main(sys.argv[1:])
