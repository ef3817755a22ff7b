"""Makes the student versions of the assignments, and grades what comes back, with nbgrader (see docs/instructors.md):

    python tools/grade.py assignments [NAME ...]      # the student versions, in runs/grading/release
    python tools/grade.py grade FOLDER                # FOLDER holds a folder for each student, with their notebooks anywhere in it

Grading ends with runs/grading/grades.csv, a row for each student and assignment; pages with feedback are in runs/grading/feedback.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "assignments"
WORK = Path(os.environ.get("COURSE_GRADING") or ROOT / "runs" / "grading").resolve()
TABLE = "grades.csv"
CHECKPOINTS = ".ipynb_checkpoints"


def names() -> list[str]:
    """The names of the assignments."""
    return sorted(path.parent.name for path in SOURCES.glob("*/*.ipynb") if path.stem == path.parent.name)


def nbgrader(command: str, *arguments: str) -> int:
    """Runs one of nbgrader's commands with the course's configuration, and returns its status."""
    binaries = str(Path(sys.executable).parent)  # nbgrader calls alembic by its name
    path = os.pathsep.join([binaries, os.environ.get("PATH", "")])
    environment = os.environ | {"COURSE_GRADING": str(WORK), "PATH": path, "PYTHONWARNINGS": "ignore"}
    run = [sys.executable, "-m", "nbgrader", command, *arguments, "--log-level=ERROR"]
    return subprocess.run(run, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode


def make_assignments(wanted: Sequence[str]) -> None:
    """Writes the student versions: without solutions, without hidden tests."""
    for name in wanted:
        if nbgrader("generate_assignment", name, "--force"):
            sys.exit(f"nbgrader could not make {name}: what it said stands above.")
        print(f"{name}: {WORK / 'release' / name / name}.ipynb", flush=True)


def submissions(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Student, assignment and notebook of all that lies in a folder of submissions; the newest where a student has two of one name."""
    for student in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for name in names():
            found = [path for path in student.rglob(f"{name}.ipynb") if CHECKPOINTS not in path.parts]
            if found:
                yield student.name, name, max(found, key=lambda path: path.stat().st_mtime)


def problem(notebook: Path) -> str:
    """Why a file is no notebook, or an empty text."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        return "" if isinstance(content["cells"], list) else "it has no cells"
    except (OSError, ValueError, KeyError, TypeError):
        return "it is no notebook"


def take_in(folder: Path) -> list[tuple[str, str, str]]:
    """Copies the submissions to where nbgrader looks for them; returns student, assignment and what is wrong with it, if anything."""
    taken = []
    for student, name, notebook in submissions(folder):
        wrong = problem(notebook)
        if not wrong:
            place = WORK / "submitted" / student / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            shutil.copy2(notebook, place / f"{name}.ipynb")
        taken.append((student, name, wrong))
    return taken


def scores() -> dict[tuple[str, str], tuple[float, float, float, bool]]:
    """Automatic points, all points so far, points that can be had, and whether a person has still to read it; by student and assignment."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{WORK / 'gradebook.db'}") as book:
        return {
            (found.student.id, assignment.name): (
                sum(grade.auto_score or 0 for notebook in found.notebooks for grade in notebook.grades),
                found.score,
                found.max_score,
                found.needs_manual_grade,
            )
            for assignment in book.assignments
            for found in assignment.submissions
        }


def write_table(taken: Sequence[tuple[str, str, str]]) -> list[dict[str, object]]:
    """Writes the table of grades, and returns its rows. What could not be graded has no points, and the reason instead."""
    known, rows = scores(), []
    for student, name, wrong in taken:
        graded = (WORK / "autograded" / student / name / f"{name}.ipynb").is_file()
        note = wrong or ("" if graded else "it could not be run: see what nbgrader said")
        auto, score, most, unread = known[student, name] if not note else ("", "", "", False)
        note = note or ("written answers to read" if unread else "")
        rows.append({"student": student, "assignment": name, "automatic": auto, "score": score, "of": most, "note": note})
    with (WORK / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["student", "assignment", "automatic", "score", "of", "note"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def grade(folder: Path) -> None:
    """Takes submissions in, runs the tests on each, writes feedback and the tables. One bad submission holds no other up."""
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: give one that holds a folder for each student.")
    taken = take_in(folder)
    if not taken:
        sys.exit(f"No assignment lies in {folder}: it needs a folder for each student, with notebooks such as {names()[0]}.ipynb in it.")
    for name in sorted({name for _, name, wrong in taken if not wrong}):
        if nbgrader("generate_assignment", name, "--force"):
            sys.exit(f"nbgrader could not make {name}: what it said stands above.")
        nbgrader("autograde", name, "--force")  # its status is 1 where one of many could not be run: the table says which
        nbgrader("generate_feedback", name, "--force")
    nbgrader("export", f"--CsvExportPlugin.to={WORK / 'nbgrader.csv'}")
    rows = write_table(taken)
    for row in rows:
        points = f"{row['automatic']} automatic points" if row["automatic"] != "" else "not graded"
        print(f"{row['student']:<20} {row['assignment']:<16}", "; ".join(filter(None, [points, row["note"]])))
    print(f"The table is {WORK / TABLE}; feedback is in {WORK / 'feedback'}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """The two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("assignments", help="write the student versions")
    make.add_argument("names", nargs="*", help=f"some of {', '.join(names())}; all without")
    commands.add_parser("grade", help="grade a folder of submissions").add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    try:
        import nbgrader  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('Grading needs nbgrader: pip install --constraint constraints.txt --editable ".[instructor]"')
    WORK.mkdir(parents=True, exist_ok=True)
    if given.command == "grade":
        grade(given.folder)
        return
    if unknown := sorted(set(given.names) - set(names())):
        sys.exit(f"There is no assignment {unknown[0]}; there are: {', '.join(names())}.")
    make_assignments(given.names or names())


if __name__ == "__main__":
    main()
