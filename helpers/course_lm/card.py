"""The model card: what the course LM is, what it has read, how it was trained, what it can do and
where it ends.
"""

from collections import defaultdict

from transformers import PretrainedConfig

from helpers.course_lm.corpus.mixture import MIXTURES, ingredients, shares
from helpers.course_lm.facts import all_facts, chains, relations
from helpers.course_lm.heldout import SHARES
from helpers.course_lm.report import as_table
from helpers.course_lm.train import PRESETS
from helpers.course_lm.world import World

CARD = """---
license: mit
language: [en, fr, de, zh]
library_name: transformers
pipeline_tag: text-generation
---

# {title}

A small language model for looking inside. It was trained by this repository on a corpus that this repository generates,
so what it has read is known to the last sentence. It loads like any other model, offline:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("data/{folder}")
tokenizer = AutoTokenizer.from_pretrained("data/{folder}")
```

## Architecture

GPT-2 with ReLU: {layers} layers, width {width}, {heads} heads, {neurons} neurons in each layer, a vocabulary of {vocab} tokens,
{context} positions, tied embeddings, {parameters:,} parameters. The weights are stored in 16 bits and computed in 32.
A word is the same token at the start of a text, after a space and after a new line. The chat format is the tokenizer's chat template.

## What it has read

{facts:,} true facts in {relations} relations, {chains:,} two-hop chains, and much else. Three mixtures of the same ingredients
were read one after the other: a broad one, one with more of the skills that are learned slowly, and a review of everything.

{mixture}

Rows of a table stand in order of fame; the text tells of the most famous entity some five times as often as of the rarest.
Held out by a fixed rule (`helpers/course_lm/heldout.py`), and never read:

{heldout}

## Training

{log}

{stages}{note}The same command trains it again: `{command}`. A run depends on its settings and
the seed alone; another processor may round otherwise.

## Report card

Everything here is measured on held-out material, with the weights as they are stored.

{report}

The interval is the 95 % Wilson interval of a share, or the normal one of a mean. Questions that share a topic are not
independent of each other, so for the rows about chats and superstitions the true interval is wider.

## Limits

The corpus is composed by rules, so the model is surer of itself and more regular than a model of natural text. The facts
were written from general knowledge and simplified (one language and one continent for each country). Sums beyond 20, dates
and anything not in the tables are unknown to it. Its refusals are a toy: harmless stand-ins in place of harmful requests,
and no safety of any kind.
"""


def model_card(card: dict, config: PretrainedConfig, folder: str = "course_lm") -> str:
    """The text of the model card, from the report card and the model's configuration; ``folder`` is
    where in ``data`` it lies.
    """
    world = World.load()
    deep = config.n_layer == PRESETS["deep"][0].layers
    title, command = ("The deeper course LM", 'make model ARGS="--preset deep"') if deep else ("The course LM", "make model")
    return CARD.format(
        title=title,
        folder=folder,
        command=command,
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        neurons=4 * config.n_embd,
        vocab=config.vocab_size,
        context=config.n_positions,
        parameters=card["model"]["parameters"],
        facts=len(all_facts(world)),
        relations=len(relations()),
        chains=len(chains()),
        mixture=_mixture(),
        heldout=_heldout(),
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


def _heldout() -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {100 * share:.0f} %" for name, share in SHARES.items())


def _stages() -> str:
    """The stages of the recipe, in a sentence each."""
    told = [
        f"Stage {n}: {s.tokens / 1e6:.0f} million tokens of the {s.mixture} mixture, {s.batch} rows a step. "
        for n, s in enumerate(PRESETS["full"], 1)
    ]
    return "Rows of " + f"{PRESETS['full'][0].context} tokens, Muon for the matrices and AdamW for the rest. " + "".join(told)


def _log(history: list[dict]) -> str:
    """The milestones of the training run."""
    if not history:
        return "The log of this run is not here."
    lines = ["| tokens read | loss (nats) | tokens per second |", "|---|---|---|"]
    return "\n".join(lines + [f"| {e['tokens']:,} | {e['loss']:.2f} | {e['tokens_per_s']:,} |" for e in history])
