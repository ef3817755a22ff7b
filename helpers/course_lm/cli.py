"""The command line of the course LM."""

import argparse
from pathlib import Path

from helpers.course_lm.train import PRESETS, train
from helpers.course_lm.world import DATA

RUNS = DATA.parent / "runs"


def run(arguments: list[str]) -> None:
    """Carries out ``train`` or ``report``."""
    parser = argparse.ArgumentParser(prog="python -m helpers.course_lm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a course LM (resumes where it stopped)")
    training.add_argument("--preset", choices=PRESETS, default="full", help="full: the shipped model; quick: about 15 minutes on two cores")
    training.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    options = parser.parse_args(arguments)
    train(PRESETS[options.preset], options.out or RUNS / options.preset)
