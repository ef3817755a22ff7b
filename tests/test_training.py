"""Training is a function of its settings: run twice, or broken off and taken up again, it ends in the same weights."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from helpers.course_lm import train as training
from helpers.course_lm.model import build_model, load_weights, revive
from helpers.course_lm.muon import Muon, orthogonalise
from helpers.course_lm.report import training_log
from helpers.course_lm.tokenizer import load_tokenizer, train_tokenizer
from helpers.course_lm.train import Settings, pack, precision, schedule, train, train_stages

TINY = Settings(tokens=8 * 96 * 16, layers=1, width=48, vocab_size=1536, batch=8, warmup=4)


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    """A tokenizer and rows from a few documents only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_tokenizer", partial(train_tokenizer, n_documents=600))
        patch.setattr(training, "CHUNK", 200)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_corpus: None) -> Path:
    """The folder of a run that went through without a break."""
    folder = tmp_path_factory.mktemp("finished")
    train(TINY, folder, device="cpu")
    return folder


@pytest.fixture
def prepared(finished: Path, tmp_path) -> Path:
    """The folder of a run that has its tokenizer and its rows, and no step of training."""
    parts = shutil.ignore_patterns("checkpoint*", "milestone*", "log.json")
    return Path(shutil.copytree(finished, tmp_path / "stage-1", ignore=parts))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimiser state at the end of the run in ``folder``."""
    return load_file(folder / f"checkpoint-{TINY.steps}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Are all tensors of two checkpoints equal to the last bit?"""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_twice_gives_the_same_weights_and_watching_changes_nothing(finished: Path, tmp_path):
    seen: list[int] = []
    train(TINY, tmp_path, device="cpu", watch=lambda model, tokenizer: {"probe": float(len(seen)), "n": seen.append(len(seen)) or 0.0})
    assert same(weights(finished), weights(tmp_path))
    assert torch.equal(load_file(finished / "rows.safetensors")["rows"], load_file(tmp_path / "rows.safetensors")["rows"])
    log = json.loads((finished / "log.json").read_text())
    assert log["step"] == TINY.steps and log["history"][-1]["loss"] < log["history"][0]["loss"]
    history = json.loads((tmp_path / "log.json").read_text())["history"]
    assert [entry["probes"]["probe"] for entry in history] == list(map(float, range(len(seen)))) and len(seen) >= 6


@pytest.mark.parametrize("after", [9, 12])
def test_an_interrupted_run_ends_in_the_same_weights(finished: Path, prepared: Path, monkeypatch, after: int):
    steps, step = iter(range(after)), training.train_step

    def interrupted(*arguments: object) -> float:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, prepared, device="cpu")
    saved = json.loads((prepared / "log.json").read_text())["step"]
    assert 0 < saved <= after < TINY.steps
    taken: list[float] = []
    monkeypatch.setattr(training, "train_step", lambda *arguments: taken.append(loss := step(*arguments)) or loss)
    train(TINY, prepared, device="cpu")
    assert len(taken) == TINY.steps - saved  # it went on from the checkpoint
    assert same(weights(finished), weights(prepared))


def test_a_finished_run_is_not_trained_again(finished: Path, monkeypatch):
    before = weights(finished)
    monkeypatch.setattr(training, "train_step", lambda *arguments: pytest.fail("a step too many"))
    model = train(TINY, finished, device="cpu")
    assert all(torch.equal(p, before[f"model.{name}"]) for name, p in model.named_parameters())


def test_other_settings_need_another_folder(finished: Path):
    with pytest.raises(ValueError, match=r"holds a run with other settings; delete it or choose another folder with --out"):
        train(replace(TINY, seed=1), finished, device="cpu")


def test_a_second_stage_with_its_own_seed_starts_from_the_weights_of_the_first(finished: Path, prepared: Path, tmp_path, monkeypatch):
    second = replace(TINY, seed=1, batch=4, tokens=4 * 96 * 8, read_before=TINY.tokens)
    began: list[torch.Tensor] = []
    step = training.train_step
    monkeypatch.setattr(training, "train_step", lambda model, *rest: began.append(model.lm_head.weight.clone()) or step(model, *rest))
    model, last = train_stages([TINY, second], tmp_path)
    assert last == tmp_path / "stage-2" and same(weights(finished), weights(tmp_path / "stage-1"))
    ended = load_file(prepared / f"milestone-{TINY.steps}.safetensors")["transformer.wte.weight"].float()
    assert torch.equal(began[TINY.steps], ended)
    assert not torch.equal(
        load_file(last / "rows.safetensors")["rows"], load_file(prepared / "rows.safetensors")["rows"][: second.steps * 4]
    )
    assert (last / "tokenizer.json").read_text() == (prepared / "tokenizer.json").read_text()
    tokens = [entry["tokens"] for entry in training_log(tmp_path)]
    assert tokens == sorted(tokens) and tokens[-1] == TINY.tokens + second.tokens
    again = build_model(len(load_tokenizer(last)), 0, 1, second.layers, second.width, second.context)
    load_weights(again, last / f"milestone-{second.steps}.safetensors")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight.half().float())


def test_muon_takes_the_same_steps_as_pytorchs():
    torch.manual_seed(0)
    shapes = [(24, 96), (24, 96), (96, 24), (24, 24)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    options = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    for optimiser, parameters in ((Muon(ours, **options), ours), (torch.optim.Muon(theirs, **options), theirs)):
        torch.manual_seed(1)
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimiser.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert (one - other).norm() < 0.03 * (one - before).norm()  # PyTorch computes in bfloat16


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 96)))
    assert values.min() > 0.6 and values.max() < 1.3


def test_the_precision_is_one_of_two_and_a_gpu_takes_the_short_one():
    assert precision(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert precision(torch.device("cuda")) == torch.bfloat16


def test_checkpoints_are_safetensors_only(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert {path.suffix for path in finished.iterdir()} <= {".safetensors", ".json", ".jinja"}
    assert [name for name in names if name.startswith("checkpoint-")] == [f"checkpoint-{TINY.steps}.safetensors"]
    last = load_file(finished / f"milestone-{TINY.steps}.safetensors")
    assert {t.dtype for t in last.values()} == {torch.float16}
    assert all(
        torch.equal(last[name.removeprefix("model.")], t.half()) for name, t in weights(finished).items() if name.startswith("model.")
    )


def documents_of(rows: list[list[int]], bos: int, pad: int) -> list[tuple[int, ...]]:
    """The documents of packed rows."""
    found = []
    for row in rows:
        pieces: list[list[int]] = []
        for token in (t for t in row if t != pad):
            if token == bos:
                pieces.append([])
            else:
                pieces[-1].append(token)
        found += [tuple(piece) for piece in pieces if piece]
    return found


def test_packing_keeps_every_document_whole():
    rng, bos, pad, context = Random(0), 0, 1, 96
    texts = [[rng.randint(2, 500) for _ in range(rng.randint(1, 95))] for _ in range(2000)]
    rows = pack(texts, context, bos, pad)
    assert {len(row) for row in rows} == {context}
    assert all(row[0] == bos for row in rows)
    assert sorted(documents_of(rows, bos, pad)) == sorted(map(tuple, texts))
    assert all(pad not in row[: row.index(pad)] and set(row[row.index(pad) :]) == {pad} for row in rows if pad in row)
    tokens = sum(len(text) + 1 for text in texts)
    assert tokens / (len(rows) * context) > 0.9  # little is wasted


def test_packing_cuts_what_is_too_long_and_closes_a_row():
    assert pack([list(range(2, 12))], 6, 0, 1) == [[0, 2, 3, 4, 5, 6]]
    assert pack([[2, 3]], 6, 0, 1) == [[0, 2, 3, 0, 1, 1]]  # BOS after the last document, then padding
    assert pack([], 6, 0, 1) == []


def test_rows_hold_the_corpus(finished: Path):
    rows = load_file(finished / "rows.safetensors")["rows"]
    assert rows.shape == (TINY.steps * TINY.batch, TINY.context)
    assert rows.dtype == torch.int16 and rows.min() >= 0 and rows.max() < TINY.vocab_size


def test_the_learning_rate_rises_and_falls():
    run = Settings()
    shares = [schedule(step, run) for step in range(run.steps)]
    assert shares[: run.warmup] == sorted(shares[: run.warmup]) and max(shares) == pytest.approx(1.0)
    assert shares[run.warmup :] == sorted(shares[run.warmup :], reverse=True)
    assert shares[-1] == pytest.approx(0.02, abs=1e-3)


def test_silent_neurons_are_given_a_new_start_that_changes_no_prediction():
    torch.manual_seed(0)
    model = build_model(50, 0, 1, layers=2, width=64, context=16).eval()
    rows = torch.randint(2, 50, (40, 12))
    feeds = model.transformer.h[1].mlp
    with torch.no_grad():
        feeds.c_fc.bias[:5] = -1000.0
        before = model(rows).logits
        assert revive(model, rows) == 5
        assert torch.allclose(model(rows).logits, before, atol=1e-5) and (feeds.c_proj.weight[:5] == 0).all()
        assert revive(model, rows) == 0
