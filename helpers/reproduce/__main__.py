"""``python -m helpers.reproduce --model gpt2 [--section 03b]``: the headline experiments on a model, and the table of findings."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from helpers.findings import Finding
from helpers.models import COURSE_LM, ModelNotAvailable
from helpers.reproduce import experiments as _registered  # noqa: F401  (fills EXPERIMENTS)
from helpers.reproduce.identities import MIXED, identities, mixed_types
from helpers.reproduce.lab import EXPERIMENTS, Experiment, Lab, read_settings
from helpers.reproduce.machine import measured_cost, open_model
from helpers.reproduce.results import RUNS, Done, Results, as_markdown, as_text, cell, folder_of, read_published, rows

HELPERS = Path(__file__).resolve().parents[1]
TOO_LITTLE = "the memory of this device is too small for it; take --dtype bfloat16, a smaller model, or a smaller --n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out the command; 0 if all went well, 1 if something failed, 2 where a model or an option cannot be had."""
    options = parse(arguments)
    try:
        chosen = _chosen(options.section)
        if options.list:
            print(*(f"{one.section}  {one.name}: {one.about}\n       {', '.join(one.findings)}" for one in chosen), sep="\n")
            return 0
        folder = Path(options.model).expanduser()
        name = folder.resolve().name if folder.is_dir() else options.model
        results = Results(folder_of(name, options.out))
        about = {"n": options.n, "keep_wrong": options.keep_wrong, "dtype": options.dtype, "sae": options.sae}
        waiting = [one for one in chosen if options.again or not results.has(one.name, about)]
        failed = _run_all(options, name, waiting, len(chosen), results, about) if waiting else 0
    except (ModelNotAvailable, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    table = rows(chosen, {key: one for key, one in results.done.items() if one.about == about}, read_published(), name)
    (results.path.parent / "table.md").write_text(as_markdown(table, name), encoding="utf-8")
    print(f"\n{as_text(table, name)}\n\nKept in {results.path} and beside it in table.md.")
    if options.keep_wrong:
        print("With --keep-wrong: what the model says was taken for right, so these numbers show that all runs, and nothing about facts.")
    return int(failed > 0)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.reproduce", description=__doc__)
    add = parser.add_argument
    add("--model", default=COURSE_LM, help="course-lm, a folder, or a name of the Hugging Face Hub (default: course-lm)")
    add("--section", action="append", help="01, 02a ... 04b, or the name of an experiment; may be given several times (default: all)")
    add("--list", action="store_true", help="list the experiments and stop")
    add("--n", type=_positive, help="at most so many cases in each experiment, for a quick look (default: the full size)")
    add("--again", action="store_true", help="run experiments again that have been run")
    add("--device", help="cpu, cuda, cuda:1, or mps (default: the GPU if there is one; mps only if asked for)")
    add("--device-map", help="auto: spread the model over all GPUs")
    add("--dtype", default="float32", help="float32, bfloat16 or float16 (default: float32)")
    add("--sae", help="a sparse autoencoder for section 02c: a folder, or RELEASE/PATH of the Hugging Face Hub")
    add("--keep-wrong", action="store_true", help="keep facts that the model answers wrong: only to see that all runs, on random weights")
    add("--out", type=Path, default=RUNS, help="folder of the results (default: runs/reproduce)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"{text} is too few: an interval and a split need 4 cases or more")
    return int(text)


def _chosen(sections: Sequence[str] | None) -> list[Experiment]:
    """The experiments that were asked for. Raises ValueError for an unknown section or name."""
    every = EXPERIMENTS.values()
    known = [*dict.fromkeys(one.section for one in every), *EXPERIMENTS]
    if unknown := [asked for asked in sections or () if asked not in known]:
        raise ValueError(f"There is no section or experiment {unknown[0]!r}: there are {', '.join(known)}.")
    return [one for one in every if not sections or one.section in sections or one.name in sections]


def _run_all(
    options: argparse.Namespace, name: str, waiting: Sequence[Experiment], of: int, results: Results, about: dict[str, object]
) -> int:
    """Loads the model, checks what must hold in any, and runs what has not run yet; how many experiments failed."""
    with measured_cost(options.device or ("cuda" if torch.cuda.is_available() else "cpu")) as loading:
        model = open_model(options.model, options.device, options.dtype, options.device_map)
    cfg = model.cfg
    print(f"{name}: {cfg.n_layers} layers of width {cfg.d_model} in {options.dtype} on {cfg.device}, {loading}", flush=True)
    found = identities(model)
    print(*(one.row() for one in found), sep="\n", flush=True)
    if broken := [one for one in found if not one.holds]:
        raise ValueError(f"What must hold in any model does not hold here ({broken[0].name}), so nothing was measured: try --device cpu.")
    if of > len(waiting):
        print(f"{of - len(waiting)} of {of} experiments have run before; --again runs them anew.")
    lab = Lab(model, name, read_settings(), options.n, options.keep_wrong, options.sae)
    failed = 0
    for number, one in enumerate(waiting, 1):
        print(f"[{number}/{len(waiting)}] {one.section} {one.name}: {one.about} ...", flush=True)
        with measured_cost(str(cfg.device)) as cost:
            found, reason, error = carry_out(one, lab)
        if error:  # nothing is kept, so that it is tried again next time
            failed += 1
            print(f"      failed after {cost}: {error}", file=sys.stderr, flush=True)
            model.reset_hooks()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        results.add(Done(one.name, tuple(found), reason, round(cost.seconds, 1), round(cost.gigabytes, 2), about))
        for finding in found:
            print(f"      {finding.name}: {cell(finding)}")
        print(f"      {f'{cell(reason)}; ' if reason else ''}{cost}", flush=True)
    return failed


def carry_out(one: Experiment, lab: Lab) -> tuple[list[Finding], str, str]:
    """The findings of an experiment; why the others are not for this model, or what went wrong."""
    found: list[Finding] = []
    try:
        with torch.no_grad():
            found.extend(one.run(lab))
    except torch.OutOfMemoryError:
        return [], "", TOO_LITTLE
    except Exception as problem:
        if is_a_refusal(problem) or mixed_types(problem):
            return found, MIXED if mixed_types(problem) else str(problem).rstrip("."), ""
        return [], "", f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
    return found, "", ""


def is_a_refusal(problem: Exception) -> bool:
    """Is it one of the helpers' own sentences, rather than an error of a library or of Python that has the same kind?"""
    last = traceback.extract_tb(problem.__traceback__)[-1]
    ours = HELPERS in Path(last.filename).resolve().parents and (last.line or "").startswith("raise ")
    return ours and isinstance(problem, (ValueError, ModelNotAvailable))


if __name__ == "__main__":
    sys.exit(main())
