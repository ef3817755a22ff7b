"""Training the course LM: the corpus as rows of tokens, the optimisers, checkpoints, and the training loop.

A run is a function of its settings alone: stopping and resuming gives the same weights as running
through. A training may consist of several stages, each a run of its own that starts from the
weights in which the one before ended.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.course_lm.corpus.mixture import documents
from helpers.course_lm.model import DROPOUT, build_model, load_weights, parameter_groups, revive
from helpers.course_lm.muon import Muon
from helpers.course_lm.tokenizer import encode_documents, load_tokenizer, train_tokenizer

REVIVED = 256  # rows on which a neuron must be silent to be given a new start
CHUNK = 20_000  # documents that are written, cut and packed together


@dataclass(frozen=True)
class Settings:
    """Everything on which a training run depends."""

    tokens: int = 22_000_000  # tokens read in all
    seed: int = 0
    vocab_size: int = 10240
    layers: int = 12
    width: int = 256
    context: int = 96
    batch: int = 32  # rows in one step
    warmup: int = 200  # steps: short ones kill the neurons of whole layers
    matrix_lr: float = 0.02  # Muon, matrices that read from the residual stream
    writer_lr: float = 0.01  # Muon, matrices that write to it: smaller, so that its norm grows smoothly
    decay: float = 0.002  # learning rate times weight decay, the same for both
    token_lr: float = 0.02  # AdamW, token embeddings
    small_lr: float = 0.003  # AdamW, positions, norms and biases
    mixture: str = "broad"  # of the corpus: what the documents are about (corpus/mixture.py)
    dropout: float = DROPOUT  # of attention and of what attention and MLPs write
    revive: bool = False  # neurons that the earlier stages left silent
    read_before: int = 0  # tokens that the weights from which the run starts have read in earlier stages

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, self.tokens // (self.batch * self.context))


# The later stages go without dropout. Looking up and repeating came in them; more such text came at the same time,
# so which of the two did it is open.
SECOND = Settings(
    tokens=5_000_000, seed=1, mixture="skills", read_before=21_998_592,
    matrix_lr=0.012, writer_lr=0.006, decay=0.001, token_lr=0.008, small_lr=0.002, dropout=0.0,
)  # fmt: skip
THIRD = Settings(
    tokens=5_000_000, seed=2, mixture="review", read_before=26_996_736,
    matrix_lr=0.01, writer_lr=0.005, decay=0.0008, token_lr=0.006, small_lr=0.0015, dropout=0.0,
)  # fmt: skip
FOURTH = Settings(
    tokens=3_000_000, seed=3, mixture="letters", read_before=31_994_880,
    matrix_lr=0.008, writer_lr=0.004, decay=0.0006, token_lr=0.005, small_lr=0.001, dropout=0.0,
)  # fmt: skip
FIFTH = Settings(
    tokens=22_000_000, seed=4, mixture="whole", read_before=34_993_152, revive=True,
    matrix_lr=0.014, writer_lr=0.007, decay=0.001, token_lr=0.01, small_lr=0.002, dropout=0.0,
)  # fmt: skip
# Each preset is a list of stages. Small batches learn more from each token, large ones are faster on many cores.
PRESETS: dict[str, tuple[Settings, ...]] = {
    "full": (Settings(), SECOND, THIRD, FOURTH, FIFTH),
    "quick": (Settings(tokens=3_000_000),),
    "smoke": (Settings(tokens=60_000, layers=2, width=96, vocab_size=2048, batch=64),),
}


# --- corpus ---------------------------------------------------------------------------------------


def pack(documents_ids: list[list[int]], context: int, bos: int, pad: int) -> list[list[int]]:
    """Puts whole documents, each after a BOS, into rows of ``context`` tokens; too long ones are cut.

    First-fit over the open rows wastes little and nearly keeps the order; a row is closed when 64 newer ones are open.
    """
    done: list[list[int]] = []
    rows: list[list[int]] = []
    for ids in documents_ids:
        piece = [bos, *ids][:context]
        row = next((r for r in rows if len(r) + len(piece) <= context), None)
        if row is None:
            rows.append(row := [])
        row += piece
        if len(rows) > 64:
            done.append(rows.pop(0))
    done += rows
    return [row + [bos] * (len(row) < context) + [pad] * (context - len(row) - 1) for row in done]


def corpus_rows(settings: Settings, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Int[Tensor, "row context"]:
    """All training rows, in the order of reading; written once and kept in ``folder``."""
    path = folder / "rows.safetensors"
    wanted = settings.steps * settings.batch
    if path.exists() and len(rows := load_file(path)["rows"]) >= wanted:
        return rows[:wanted]
    rows, source = [], documents(settings.seed, mixture=settings.mixture)
    with tqdm(total=wanted, desc="writing the corpus", unit="row") as bar:
        while len(rows) < wanted:
            ids = encode_documents(tokenizer, [d.text for d in islice(source, CHUNK)])
            packed = pack(ids, settings.context, tokenizer.bos_token_id, tokenizer.pad_token_id)
            rows += [torch.tensor(row, dtype=torch.int16) for row in packed]
            bar.update(len(packed))
    stacked = torch.stack(rows)[:wanted]
    save_file({"rows": stacked}, path)
    return stacked


# --- training -------------------------------------------------------------------------------------


@cache
def precision(device: torch.device) -> torch.dtype:
    """The faster of bfloat16 and float32 for matrix products: many processors only imitate bfloat16."""
    if device.type == "cuda":
        return torch.bfloat16
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(512, 256, dtype=dtype, device=device)
        right = torch.ones(256, 1024, dtype=dtype, device=device)
        left @ right
        start = time.perf_counter()
        left @ right
        times[dtype] = time.perf_counter() - start
    return min(times, key=times.get)


def optimisers(model: GPT2LMHeadModel, s: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and biases."""
    groups = parameter_groups(model)
    muon = Muon(
        [
            {"params": groups["readers"], "lr": s.matrix_lr, "weight_decay": s.decay / s.matrix_lr},
            {"params": groups["writers"], "lr": s.writer_lr, "weight_decay": s.decay / s.writer_lr},
        ],
        lr=s.matrix_lr,
        dtype=precision(groups["readers"][0].device),
    )
    adam = torch.optim.AdamW(
        [{"params": groups["tokens"], "lr": s.token_lr}, {"params": groups["small"], "lr": s.small_lr}], betas=(0.9, 0.98), weight_decay=0.0
    )
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def schedule(step: int, s: Settings) -> float:
    """The share of the peak learning rate at ``step``: a short warm-up, then half a cosine down to 2 %."""
    if step < s.warmup:
        return (step + 1) / s.warmup
    done = (step - s.warmup) / max(1, s.steps - s.warmup)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * done))


def train_step(
    model: GPT2LMHeadModel, optims: list[torch.optim.Optimizer], rows: Int[Tensor, "row context"], pad: int, share: float
) -> float:
    """One step on one batch at ``share`` of the peak learning rates, in the faster precision.

    Returns the mean cross-entropy of the next token in nats, padding left out.
    """
    dtype = precision(rows.device)
    with torch.autocast(rows.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(rows, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten(), ignore_index=pad)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optims:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * share
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def train_stages(stages: Sequence[Settings], folder: Path, watch=None) -> tuple[GPT2LMHeadModel, Path]:
    """Trains stage after stage, each in a folder inside ``folder``; returns the model and the last stage's folder."""
    before = None
    for number, settings in enumerate(stages, 1):
        model = train(settings, folder / f"stage-{number}", watch=watch, start=before)
        before = folder / f"stage-{number}"
    return model, before


def train(settings: Settings, folder: Path, device: str | None = None, watch=None, start: Path | None = None) -> GPT2LMHeadModel:
    """Trains a model in ``folder``, going on from its last checkpoint if there is one.

    ``watch(model, tokenizer)``, which runs eight times, returns accuracies for the progress line. ``start`` is the folder of an
    earlier stage, whose tokenizer and last weights are taken over.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    _remember(settings, folder)
    if start and not (folder / "tokenizer.json").exists():
        load_tokenizer(start).save_pretrained(folder)
    tokenizer = prepare_tokenizer(settings, folder)
    torch.manual_seed(settings.seed)
    shape = settings.layers, settings.width, settings.context, settings.dropout
    model = build_model(len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id, *shape)
    if start:
        load_weights(model, start / f"milestone-{json.loads((start / 'log.json').read_text())['step']}.safetensors")
    model.to(device).train()
    optims = optimisers(model, settings)
    first, history = load_checkpoint(folder, model, optims)
    rows = corpus_rows(settings, tokenizer, folder) if first < settings.steps else torch.empty(0)
    if settings.revive and first == 0:
        revive(model, rows[:REVIVED].long().to(device))
    marks = {round(settings.steps * share) for share in (0.03, 0.06, 0.12, 0.2, 0.35, 0.5, 0.75, 1.0)}
    kept = marks | {round(settings.steps * share / 40) for share in range(1, 40)}
    bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, desc="training", unit="step", mininterval=5)
    running, begun, seen = None, time.time(), 0
    for step in bar:
        batch = rows[step * settings.batch : (step + 1) * settings.batch].long().to(device)
        torch.manual_seed(1_000_000 * settings.seed + step)  # what dropout leaves out depends on the step alone, also after a break
        loss = train_step(model, optims, batch, tokenizer.pad_token_id, schedule(step, settings))
        running = loss if running is None else 0.98 * running + 0.02 * loss
        seen += batch.numel()
        probes = history[-1]["probes"] if history else {}
        bar.set_postfix(loss=f"{running:.3f}", tokens_per_s=f"{seen / (time.time() - begun):.0f}", **probes)
        if step + 1 in marks:
            history.append(_milestone(model, tokenizer, step + 1, settings, running, seen / (time.time() - begun), watch))
            save_weights(model, folder / f"milestone-{step + 1}.safetensors")
        if step + 1 in kept:
            save_checkpoint(folder, model, optims, step + 1, history)
    return model


def _milestone(model, tokenizer, step: int, s: Settings, loss: float, speed: float, watch) -> dict:
    """What is written down of the run at a milestone."""
    model.eval()
    probes = {name: round(value, 3) for name, value in watch(model, tokenizer).items()} if watch else {}
    model.train()
    tokens = s.read_before + step * s.batch * s.context
    return {"step": step, "tokens": tokens, "loss": round(loss, 3), "tokens_per_s": round(speed), "probes": probes}


def _remember(settings: Settings, folder: Path) -> None:
    """Writes the settings of the run, and refuses to go on with a run that had others."""
    path = folder / "settings.json"
    if path.exists() and json.loads(path.read_text()) != asdict(settings):
        raise ValueError(f"{folder} holds a run with other settings; delete it or choose another folder with --out.")
    path.write_text(json.dumps(asdict(settings), indent=1) + "\n")


def prepare_tokenizer(settings: Settings, folder: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer, trained at the first call."""
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    tokenizer = train_tokenizer(settings.seed, settings.vocab_size)
    tokenizer.model_max_length = settings.context
    tokenizer.save_pretrained(folder)
    return tokenizer


# --- checkpoints ----------------------------------------------------------------------------------


def save_checkpoint(folder: Path, model: GPT2LMHeadModel, optims: list[torch.optim.Optimizer], step: int, history: list[dict]) -> None:
    """Weights and optimiser state as safetensors; the old checkpoint goes only when the new one is whole."""
    state = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    for number, optimiser in enumerate(optims):
        for index, values in optimiser.state_dict()["state"].items():
            state |= {f"optim.{number}.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in values.items()}
    save_file(state, folder / "checkpoint.tmp", metadata={"step": str(step)})
    whole = (folder / "checkpoint.tmp").replace(folder / f"checkpoint-{step}.safetensors")
    (folder / "log.json").write_text(json.dumps({"step": step, "history": history}, indent=1) + "\n")
    for old in set(folder.glob("checkpoint-*.safetensors")) - {whole}:
        old.unlink()


def load_checkpoint(folder: Path, model: GPT2LMHeadModel, optims: list[torch.optim.Optimizer]) -> tuple[int, list[dict]]:
    """Puts the last checkpoint of ``folder`` into model and optimisers; returns its step and history, or (0, [])."""
    if not (folder / "log.json").exists():
        return 0, []
    log = json.loads((folder / "log.json").read_text())
    state = load_file(folder / f"checkpoint-{log['step']}.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"model.{name}"])
    for number, optimiser in enumerate(optims):
        whole = optimiser.state_dict()
        for key, value in state.items():
            if key.startswith(f"optim.{number}."):
                _, _, index, name = key.split(".", 3)
                whole["state"].setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(whole)
    return log["step"], log["history"]


def save_weights(model: GPT2LMHeadModel, path: Path) -> None:
    """The weights alone, in 16 bits, under their Hugging Face names, without the tied output matrix."""
    save_file({name: p.detach().half().contiguous() for name, p in model.named_parameters()}, path, metadata={"format": "pt"})


def export(model: GPT2LMHeadModel, run: Path, folder: Path) -> None:
    """Writes the trained model as an ordinary Hugging Face checkpoint: 16 bits on disk, 32 in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare_tokenizer(Settings(), run).save_pretrained(folder)
    save_weights(model, folder / "model.safetensors")
    model.config.dtype = torch.float32
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(folder)
