"""Runs all lessons as Google Colab would: with its versions, installed as the setup cell does it; `make test-colab`.

    python tools/colab_lane.py VENV [NOTEBOOK ...]      # builds the environment VENV, once, and runs all lessons there, or those named
    python tools/colab_lane.py VENV --build             # only builds it

A virtual environment gets what Colab has (tests/colab-constraints.txt). Then IPython runs the notebooks' setup cell there, told that it is
on Colab; it fetches this folder as it is now in place of the published one. It may change nothing that was there, and may print only its
line of versions. Then nbval compares the outputs of every lesson. The minor version of Python may differ from Colab's, and the output
says so.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tests" / "colab-constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
RUNNER = ("nbval>=0.11,<1", "pytest>=8.4,<10", "pytest-xdist>=3.6,<4")  # what runs the notebooks here; Colab has no need of it
VERSIONS = r"transformer-lens [^\n]+, ipywidgets [\d.]+\n"


def pins() -> dict[str, str]:
    """What Colab has: each package with its version."""
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if "==" in line]
    return dict(line.split("==") for line in lines)


def colab_python() -> str:
    """Colab's Python, as the head of the constraints says."""
    return re.search(r"Python (3\.\d+)", PINS.read_text(encoding="utf-8"))[1]


def setup_cell() -> str:
    """The code of the cell with which every lesson begins."""
    cells = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["cells"]
    return next("".join(cell["source"]) for cell in cells if "setup" in cell["metadata"].get("tags", []))


def setup_script(content: Path, repository: Path) -> str:
    """The setup cell as a script for IPython that believes itself on Colab, with another folder for /content and another repository."""
    pretend = 'import sys, types\nsys.modules["google.colab"] = types.ModuleType("google.colab")\n'
    cell = re.sub('(?<=REPOSITORY = ")[^"]+', lambda _: repository.as_uri(), setup_cell())
    return pretend + cell.replace("/content/", f"{content}/") + "\n"


def publish(repository: Path) -> None:
    """Makes a repository of this folder as it is now, changes that are not committed included."""
    git = ["git", f"--git-dir={repository}", f"--work-tree={ROOT}", "-c", "user.name=lane", "-c", "user.email=lane@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "as it is"]):
        subprocess.run([*git, *command], cwd=ROOT, check=True)


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
    set_up(venv.resolve(), python.absolute())
    after = {name: version.split("+")[0] for name, version in installed(python).items()}
    wanted = {name.lower().replace("-", "_"): version for name, version in pins().items()}
    if problems := changed(wanted, before) + changed(before, after):
        sys.exit("The course changes what Colab has: " + "; ".join(problems) + ".")
    print(f"added to Colab's packages: {', '.join(sorted(set(after) - set(before)))}; changed: none", flush=True)
    done.touch()
    return python


def set_up(venv: Path, python: Path) -> None:
    """Runs the setup cell, as if on Colab; ends the lane if it fails, or says more than its line of versions."""
    content = venv / "content"
    content.mkdir(exist_ok=True)
    publish(venv / "published.git")
    script = content / "setup.ipy"
    script.write_text(setup_script(content, venv / "published.git"), encoding="utf-8")
    start = time.monotonic()
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])  # the cell calls pip by its name
    said = run(
        python, "-m", "IPython", "--TerminalInteractiveShell.term_title=False", str(script), quiet=True, PATH=path, IPYTHONDIR=str(content)
    )
    print(f"the setup cell took {time.monotonic() - start:.0f} s and says: {said.strip()}", flush=True)
    if not re.fullmatch(VERSIONS, said):
        sys.exit("The setup cell has to say its line of versions, and nothing else.")


def main(arguments: list[str]) -> None:
    """Builds the environment named first and runs all lessons in it, or those named after it."""
    venv = Path(arguments[0] if arguments else ".venv-colab")
    if arguments[1:] == ["--build"]:
        build(venv)
        return
    names = arguments[1:] or [str(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    minor = ".".join(platform.python_version_tuple()[:2])
    same = (
        "the same here" if minor == colab_python() else f"here it is {minor}, so this lane cannot see what only {colab_python()} would do"
    )
    print(f"Colab: Python {colab_python()} ({same}); {', '.join(f'{name} {version}' for name, version in pins().items())}", flush=True)
    compare = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg")]
    options = [*compare, "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "-q"]
    parallel = ["-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile"]
    offline = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    run(build(venv), "-m", "pytest", *options, *parallel, *names, **offline)


if __name__ == "__main__":
    main(sys.argv[1:])
