"""``python -m helpers.exercises collect FOLDER`` prints what a class has solved, as CSV (see ``helpers.exercises.collect``)."""

import sys

from helpers.exercises.collect import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
