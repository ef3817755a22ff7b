"""The command line of the course LM: ``train`` it, ``report`` on it."""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from helpers.course_lm.card import model_card
from helpers.course_lm.report import as_table, learning_curve, load_folder, measure, training_log, watch
from helpers.course_lm.train import PRESETS, export, train_stages
from helpers.course_lm.world import DATA

SHIPPED = DATA / "course_lm"


def run(arguments: list[str]) -> None:
    """Carries out ``train`` or ``report``."""
    options = parse(arguments)
    if options.command == "train":
        folder = options.out or DATA.parent / "runs" / options.preset
        model, last = train_stages(PRESETS[options.preset], folder, watch=watch)
        export(model, last, SHIPPED if options.ship else folder / "model")
        if options.ship:
            report(SHIPPED, folder)
    else:
        report(options.model, options.run)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.course_lm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a course LM (goes on where it stopped)")
    presets = "full: the shipped model; quick: about 15 minutes on two cores"
    training.add_argument("--preset", choices=PRESETS, default="full", help=presets)
    training.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    training.add_argument("--ship", action="store_true", help="put the trained model in data/course_lm and measure it")
    reporting = commands.add_parser("report", help="measure a course LM on what it has never read")
    reporting.add_argument("--model", type=Path, default=SHIPPED, help="the model's folder (default: data/course_lm)")
    reporting.add_argument("--run", type=Path, help="its training run, for the learning curves (default: keep what is there)")
    return parser.parse_args(arguments)


def report(folder: Path, run: Path | None) -> None:
    """Measures the model of ``folder`` and writes report.json, the model card and the checksums beside it."""
    reader = load_folder(folder)
    rows = measure(reader.model, reader.tokenizer)
    path = folder / "report.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = card.get("model", {})
    curves = card.get("checkpoints", [])
    if run:
        about = {"training": training_log(run)}
        curves = learning_curve(run, reader.tokenizer, rows)
    about = {"parameters": reader.model.num_parameters(), "training": about.get("training", []), "note": about.get("note", "")}
    card = {"model": about, "rows": [{**asdict(row), "met": row.met} for row in rows], "checkpoints": curves}
    print(as_table(card["rows"]), flush=True)
    path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(card, reader.model.config), encoding="utf-8")
    checksums(folder)


def checksums(folder: Path) -> None:
    """Writes the SHA-256 of the files that make the model."""
    parts = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in parts if (folder / name).exists()]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
