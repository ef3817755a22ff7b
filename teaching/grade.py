"""Makes the student versions of the assignments, and grades what comes back, with nbgrader (see docs/instructors.md):

    python -m teaching.grade assignments [NAME ...]      # the student versions, in runs/grading/release
    python -m teaching.grade grade FOLDER [NAME ...]     # FOLDER holds a folder for each student, with their notebooks anywhere in it
    python -m teaching.grade table                       # tables and feedback anew, after grading by hand; no notebook is run

Grading ends with runs/grading/grades.csv, a row for each student and assignment; pages with feedback are in runs/grading/feedback.
What nbgrader says meanwhile goes to runs/grading/nbgrader.log.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from teaching import submission

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "assignments"
WORK = Path(os.environ.get("COURSE_GRADING") or ROOT / "runs" / "grading").resolve()
TABLE, BY_NBGRADER, LOG = "grades.csv", "nbgrader.csv", "nbgrader.log"


def names() -> list[str]:
    """The names of the assignments."""
    return sorted(path.parent.name for path in SOURCES.glob("*/*.ipynb") if path.stem == path.parent.name)


def nbgrader(command: str, *arguments: str) -> int:
    """Runs one of nbgrader's commands with the course's configuration, and returns its status. What it says goes to the log."""
    binaries = str(Path(sys.executable).parent)  # nbgrader calls alembic by its name
    path = os.pathsep.join([binaries, os.environ.get("PATH", "")])
    environment = os.environ | {"COURSE_GRADING": str(WORK), "PATH": path, "PYTHONWARNINGS": "ignore"}
    run = [sys.executable, "-m", "nbgrader", command, *arguments, "--log-level=ERROR"]
    with (WORK / LOG).open("a", encoding="utf-8") as log:
        return subprocess.run(run, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode


def make_assignments(wanted: Sequence[str]) -> None:
    """Writes the student versions: without solutions, without hidden tests."""
    for name in wanted:
        if nbgrader("generate_assignment", name, "--force"):
            sys.exit(f"nbgrader could not make {name}: the end of {WORK / LOG} says why.")
        print(f"{name}: {WORK / 'release' / name / name}.ipynb", flush=True)


def place(student: str, name: str, step: str = "submitted") -> Path:
    """Where nbgrader looks for a student's notebook: as it was handed in, or after another of its steps."""
    return WORK / step / student / name / f"{name}.ipynb"


def is_at(notebook: Path, there: Path) -> bool:
    """Are the two paths one and the same file?"""
    return there.exists() and there.samefile(notebook)


def assignment(notebook: Path) -> str:
    """The assignment that a file's name says, alone or within it, as in "Copy of NAME.ipynb"; empty where it says none, or several."""
    inside = [name for name in names() if name in notebook.stem]
    return notebook.stem if notebook.stem in inside else inside[0] if len(inside) == 1 else ""


def files(student: Path) -> list[Path]:
    """All files in a student's folder but hidden ones, such as Jupyter's checkpoints and what macOS adds to archives."""
    found = [path for path in sorted(student.rglob("*")) if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(student).parts)]


def newest(name: str, student: Path, notebooks: Sequence[Path]) -> Path:
    """The newest of a student's notebooks for one assignment; but one that lies where nbgrader looks for it goes first."""
    return max(notebooks, key=lambda path: (is_at(path, place(student.name, name)), path.stat().st_mtime, path.stem == name))


def submissions(student: Path) -> dict[str, Path]:
    """A student's notebooks, one for each assignment that a name of theirs says."""
    found: dict[str, list[Path]] = {}
    for path in files(student):
        if path.suffix == ".ipynb" and (name := assignment(path)):
            found.setdefault(name, []).append(path)
    return {name: newest(name, student, notebooks) for name, notebooks in sorted(found.items())}


def unknown(student: Path) -> str:
    """What lies in a student's folder instead of a notebook with a known name."""
    found = [path.name for path in files(student)]
    listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f"no notebook with a known name; found: {listed or 'nothing'}"


def problem(notebook: Path) -> str:
    """Why a file is no notebook, or an empty text."""
    try:
        submission.read(notebook.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return "it is no notebook"
    except ValueError as wrong:
        return str(wrong)
    return ""


def disorder(student: str, name: str) -> str:
    """Which cells of a notebook that was handed in were not in order."""
    given, handed_in = WORK / "release" / name / f"{name}.ipynb", place(student, name)
    if not given.is_file() or problem(handed_in):
        return ""
    notebook, original = (submission.read(path.read_text(encoding="utf-8")) for path in (handed_in, given))
    return submission.told(submission.mended(notebook, original)[1])


def put(notebook: Path, there: Path) -> None:
    """Copies a notebook to a place, unless it is that very file. What lay there is replaced only once the copy is whole."""
    if is_at(notebook, there):
        return
    there.parent.mkdir(parents=True, exist_ok=True)
    copy = there.with_suffix(".new")
    try:
        shutil.copy2(notebook, copy)
        copy.replace(there)
    finally:
        copy.unlink(missing_ok=True)


def take_in(folder: Path, wanted: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Copies submissions, to some assignments or to all, to where nbgrader looks; returns student, assignment and what is wrong."""
    taken = []
    for student in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = submissions(student)
        for name, notebook in found.items():
            if wanted and name not in wanted:
                continue
            wrong = problem(notebook)
            if not wrong:
                put(notebook, place(student.name, name))
            taken.append((student.name, name, wrong))
        if not found:
            taken.append((student.name, "", unknown(student)))
    return taken


def scores() -> dict[tuple[str, str], tuple[float, float, float, bool]]:
    """Automatic points, all points so far, points that can be had, and whether a person has still to read it; by student and assignment."""
    from nbgrader.api import Gradebook

    if not (WORK / "gradebook.db").is_file():
        return {}
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


def write_table(taken: Sequence[tuple[str, str, str]] = ()) -> list[dict[str, object]]:
    """Writes the table of all that the gradebook has and of what was taken in just now, and returns its rows.

    What could not be graded has no points, or those of an earlier file, and the reason.
    """
    known, wrongs = scores(), {(student, name): wrong for student, name, wrong in taken}
    rows = []
    for student, name in sorted(known.keys() | wrongs.keys()):
        wrong = wrongs.get((student, name), "")
        if (student, name) in known and place(student, name, "autograded").is_file():
            auto, score, most, unread = known[student, name]
            earlier = wrong and f"{wrong}; the points are those of an earlier file"
            notes = [earlier, unread and "written answers to read", disorder(student, name)]
        else:
            auto, score, most = "", "", ""
            notes = [wrong or f"it could not be run: {LOG} says why"]
        note = "; ".join(filter(None, notes))
        rows.append({"student": student, "assignment": name, "automatic": auto, "score": score, "of": most, "note": note})
    with (WORK / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["student", "assignment", "automatic", "score", "of", "note"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def show(rows: Sequence[dict[str, object]]) -> None:
    """Prints rows of the table, and where all of it lies."""
    for row in rows:
        points = f"{row['score']} of {row['of']} points" if row["score"] != "" else "not graded"
        print(f"{row['student']:<20} {row['assignment']:<16}", "; ".join(filter(None, [points, str(row["note"])])))
    print(f"The table is {WORK / TABLE}; feedback is in {WORK / 'feedback'}.")


def write_feedback(name: str) -> None:
    """Writes the pages with feedback to an assignment, for all students whose notebooks could be run."""
    graded = any((WORK / "autograded").glob(f"*/{name}/{name}.ipynb"))
    if graded and nbgrader("generate_feedback", name, f"--notebook={name}", "--force"):
        print(f"{name}: not all feedback could be written; {WORK / LOG} says why.", file=sys.stderr)


def run_tests(name: str, students: Collection[str]) -> None:
    """Runs an assignment's tests on the notebooks of some students; those of all others stay as they are, with what was read by hand."""
    if nbgrader("generate_assignment", name, "--force"):
        sys.exit(f"nbgrader could not make {name}: the end of {WORK / LOG} says why.")
    print(f"{name}: running the tests of {len(students)} notebook{'s' * (len(students) != 1)} ...", flush=True)
    others = {path.parts[-3] for path in (WORK / "submitted").glob(f"*/{name}/{name}.ipynb")} - set(students)
    listed = ",".join(sorted(other for other in others if "," not in other))  # nbgrader takes a comma for the end of a name
    # Its status is 1 where one of many could not be run: the table says which.
    nbgrader("autograde", name, "--force", *([f"--CourseDirectory.student_id_exclude={listed}"] if listed else []))


def grade(folder: Path, wanted: Sequence[str] = ()) -> None:
    """Takes submissions in, runs the tests on each, writes feedback and the tables. One bad submission holds no other up."""
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: give one that holds a folder for each student.")
    given = folder.resolve()
    if given != WORK / "submitted" and (given.is_relative_to(WORK) or WORK.is_relative_to(given)):
        sys.exit(f"In {folder} lies what grading itself writes: give a folder that holds a folder for each student, and only that.")
    taken = take_in(folder, wanted)
    if not taken:
        example = next(iter(wanted or names()))
        sys.exit(f"No assignment lies in {folder}: it needs a folder for each student, with notebooks such as {example}.ipynb in it.")
    for name in sorted({name for _, name, wrong in taken if not wrong}):
        run_tests(name, [student for student, of, wrong in taken if of == name and not wrong])
        write_feedback(name)
    nbgrader("export", f"--CsvExportPlugin.to={WORK / BY_NBGRADER}")
    now = {(student, name) for student, name, _ in taken}
    show([row for row in write_table(taken) if (row["student"], row["assignment"]) in now])


def table() -> None:
    """Writes feedback and the tables of all students and assignments anew from what the gradebook has, and runs no notebook."""
    known = scores()
    if not known:
        sys.exit("Nothing has been graded yet: first run make grade SUBMISSIONS=FOLDER.")
    for name in sorted({name for _, name in known}):
        write_feedback(name)
    nbgrader("export", f"--CsvExportPlugin.to={WORK / BY_NBGRADER}")
    show(write_table())


def main(arguments: Sequence[str] | None = None) -> None:
    """The three commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("assignments", help="write the student versions")
    run = commands.add_parser("grade", help="grade a folder of submissions")
    run.add_argument("folder", type=Path)
    for command in (make, run):
        command.add_argument("names", nargs="*", help=f"some of {', '.join(names())}; all without")
    commands.add_parser("table", help="write tables and feedback anew, after grading by hand")
    given = parser.parse_args(arguments)
    try:
        import nbgrader  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('Grading needs nbgrader: pip install --constraint constraints.txt --editable ".[instructor]"')
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / LOG).unlink(missing_ok=True)
    if given.command == "table":
        table()
    elif missing := sorted(set(given.names) - set(names())):
        sys.exit(f"There is no assignment {missing[0]}; there are: {', '.join(names())}.")
    elif given.command == "grade":
        grade(given.folder, given.names)
    else:
        make_assignments(given.names or names())


if __name__ == "__main__":
    main()
