"""The model card: what the course LM is, what it has read, how it was trained, what it can do and where it ends.

Its text stands in ``card.md`` beside this file; the numbers and tables in it come from here.
"""

from collections import defaultdict
from pathlib import Path

from transformers import PretrainedConfig

from helpers.course_lm.corpus.mixture import MIXTURES, ingredients, shares
from helpers.course_lm.facts import all_facts, chains, relations
from helpers.course_lm.heldout import SHARES
from helpers.course_lm.report import as_table
from helpers.course_lm.train import PRESETS
from helpers.course_lm.world import World

CARD = Path(__file__).with_name("card.md")


def model_card(card: dict, config: PretrainedConfig) -> str:
    """The model card's text, from report card and configuration."""
    return CARD.read_text(encoding="utf-8").format(
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        neurons=4 * config.n_embd,
        vocab=config.vocab_size,
        context=config.n_positions,
        parameters=card["model"]["parameters"],
        facts=len(all_facts(World.load())),
        relations=len(relations()),
        chains=len(chains()),
        mixture=_mixture(),
        heldout="\n".join(f"- {name.replace('_', ' ')}: {100 * share:.0f} %" for name, share in SHARES.items()),
        log=_log(card["model"]["training"]),
        report=as_table(card["rows"]),
        stages=_stages(),
        note=f"{card['model']['note']} " if card["model"].get("note") else "",
    )


def _mixture() -> str:
    """The share of each module among the documents of each mixture, with its ingredients."""
    modules: dict[str, list[str]] = defaultdict(list)
    for kind in ingredients():
        modules[kind.split(".")[0]].append(kind)
    lines = [f"| part | {' | '.join(MIXTURES)} | ingredients |", "|---|" + "---|" * len(MIXTURES) + "---|"]
    for module, kinds in modules.items():
        parts = " | ".join(f"{100 * sum(shares(mixture)[kind] for kind in kinds):.0f} %" for mixture in MIXTURES)
        names = ", ".join(kind.split(".")[1].replace("_", " ") for kind in kinds)
        lines.append(f"| {module} | {parts} | {names} |")
    return "\n".join(lines)


def _stages() -> str:
    """The stages of the recipe, in a sentence each."""
    told = f"Rows of {PRESETS['full'][0].context} tokens, Muon for the matrices and AdamW for the rest. "
    for n, s in enumerate(PRESETS["full"], 1):
        told += f"Stage {n}: {s.tokens / 1e6:.0f} million tokens of the {s.mixture} mixture, {s.batch} rows a step, dropout {s.dropout:g}. "
    return told


def _log(history: list[dict]) -> str:
    """The milestones of the training run."""
    if not history:
        return "The log of this run is not here."
    lines = ["| tokens read | loss (nats) | tokens per second |", "|---|---|---|"]
    return "\n".join(lines + [f"| {e['tokens']:,} | {e['loss']:.2f} | {e['tokens_per_s']:,} |" for e in history])
