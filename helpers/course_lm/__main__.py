"""``python -m helpers.course_lm train | report``: trains the course LM, or measures the one that is shipped."""

import os
import sys

# Large buffers stay with the process, in large pages, instead of going back to the system after each step; glibc reads this at its start.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "500000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def main() -> None:
    """Reads the command line and does what it says."""
    if sys.platform == "linux" and "train" in sys.argv and not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", "helpers.course_lm", *sys.argv[1:]], os.environ | ALLOCATOR)
    from helpers.course_lm.cli import run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
