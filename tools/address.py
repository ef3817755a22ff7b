"""Writes the course's address, which stands in pyproject.toml, wherever else it has to stand: badges, setup cells, how to cite.

python tools/address.py            writes it; run this after a change of `Repository` in pyproject.toml
python tools/address.py --check    only names the files in which another address stands, and fails if there is one
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/(?P<path>[\w.-]+/[\w.-]+)")
# What stands before and after OWNER/NAME, by the files in which it stands; the text of a notebook has its quotes escaped.
SETUP = (r'REPOSITORY = \\"https://github\.com/', r'\\"')
PLACES = {
    "notebooks/*.ipynb": ((r"colab\.research\.google\.com/github/", r"/blob/main/"), SETUP),
    "notebooks/assignments/*/*.ipynb": (SETUP,),  # no badge: what lies there has the solutions in it
    "CITATION.cff": ((r'repository-code: "https://github\.com/', r'"'),),
    "README.md": ((r"url +=\s\{https://github\.com/", r"\}"),),
}


def address(root: Path = ROOT) -> str:
    """The OWNER/NAME of the address in pyproject.toml; ends the program where that is no repository of GitHub."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    given = project.get("urls", {}).get("Repository", "")
    found = ADDRESS.fullmatch(given)
    if not found:
        sys.exit(f"Repository in pyproject.toml is {given!r}: it has to be https://github.com/OWNER/NAME, which Colab can open.")
    return found["path"]


def rewritten(root: Path, path: str) -> Iterator[tuple[Path, str, str]]:
    """Each file that has the address in it, its text, and its text with ``path`` (OWNER/NAME) for the address."""
    for pattern, places in PLACES.items():
        for file in sorted(root.glob(pattern)):
            before = after = file.read_bytes().decode("utf-8")  # no newline is changed
            for head, tail in places:
                after, found = re.subn(f"({head})[\\w.-]+/[\\w.-]+?(?={tail})", lambda match: match[1] + path, after)
                if not found:
                    sys.exit(f"{file.relative_to(root)} has no address at {head!r}: write one there by hand once.")
            yield file, before, after


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Writes the address, or checks it; returns the status."""
    other = [(file, after) for file, before, after in rewritten(root, address(root)) if before != after]
    if arguments == ["--check"]:
        print(*(f"{file.relative_to(root)} has another address than pyproject.toml: run make address" for file, _ in other), sep="\n")
        return int(bool(other))
    for file, after in other:
        file.write_bytes(after.encode("utf-8"))
    print(f"https://github.com/{address(root)} stands everywhere; {len(other)} files changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
