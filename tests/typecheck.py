"""How types and shapes are checked while tests run, in which modules, and by whom.

Beartype checks, with an int where a float is meant allowed as everywhere in Python. The factory of the corpus is left out: it
handles texts alone, in millions of calls, and checking them takes ten times as long as writing them.
"""

from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parents[1]
FACTORY = {ROOT / "helpers/course_lm" / name for name in ("corpus", "facts.py", "heldout.py", "world.py")}
CHECKED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "helpers").rglob("*.py"))
    if path.name != "__init__.py" and not FACTORY & {path, *path.parents}
]

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
