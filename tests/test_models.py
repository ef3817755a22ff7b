"""The one door to models: the same numbers as Hugging Face, no noise, no network, and errors that say what to do."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from tiny_models import ARCHITECTURES, END, write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from helpers import models
from helpers.models import CATALOGUE, ModelNotAvailable, catalogue, load_model, read_prefix, run_from

ROOT = Path(__file__).parents[1]
TEXT = "The Eiffel Tower is in Paris, and Taipei 101 is in Taipei."
needs_course_lm = pytest.mark.skipif(
    not (models.COURSE_LM_FOLDER / "model.safetensors").exists(), reason="the course LM has not been trained yet: make model"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small checkpoint of every architecture."""
    folder = tmp_path_factory.mktemp("models")
    for architecture in ARCHITECTURES:
        write_tiny_model(architecture, folder / architecture)
    return folder


@cache
def loaded(folder: str | Path, raw: bool = False) -> models.TransformerBridge:
    """A checkpoint that is loaded once for all tests, which leave it as it is."""
    return load_model(folder, device="cpu", raw=raw)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt to connect fails the test, whatever HF_HUB_OFFLINE says."""

    def refuse(*_: object) -> None:
        pytest.fail("a connection was tried")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def sentence(**arguments: object) -> str:
    """The message of the error that ``load_model`` raises; it has to be one sentence without a chain of other errors."""
    with pytest.raises(ModelNotAvailable) as caught:
        load_model(**arguments)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message and len(message) < 320, message
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)
    return message


def assert_same_numbers(name: str | Path, folder: Path) -> None:
    """Raw logits and folded log-probabilities equal those of plain Hugging Face within 1e-4."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = plain(tokens).logits
        assert expected.std() > 0.3, "the comparison would not see a difference"
        torch.testing.assert_close(loaded(name, raw=True)(tokens), expected, atol=1e-4, rtol=0)
        folded = loaded(name)(tokens)
    torch.testing.assert_close(folded.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_numbers_equal_plain_hugging_face(architecture: str, tiny: Path) -> None:
    assert_same_numbers(tiny / architecture, tiny / architecture)


@needs_course_lm
def test_numbers_of_the_course_lm_equal_plain_hugging_face_and_each_text_has_one_begin() -> None:
    assert_same_numbers("course-lm", models.COURSE_LM_FOLDER)
    assert_one_begin(loaded("course-lm"))


@pytest.mark.parametrize("architecture", ["gpt2", "neox-parallel", "llama"])
def test_weights_are_folded_unless_raw(architecture: str, tiny: Path) -> None:
    folded, raw = (loaded(tiny / architecture, raw) for raw in (False, True))
    assert folded.W_U.mean(-1).abs().max() < 1e-6 < 1e-3 < raw.W_U.mean(-1).abs().max()


def test_16_bit_weights_become_float32(tiny: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny / "gpt2-relu").half().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny / "gpt2-relu").save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load_model(tmp_path).parameters()} == {torch.float32}
    assert_same_numbers(tmp_path, tmp_path)
    assert load_model(tmp_path, dtype="bfloat16", raw=True)(TEXT).dtype == torch.bfloat16


def streams(model: models.TransformerBridge, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What enters every block, and what leaves the last one."""
    last = model.cfg.n_layers - 1
    names = [*(f"blocks.{layer}.hook_resid_pre" for layer in range(last + 1)), f"blocks.{last}.hook_resid_post"]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return [cache[name] for name in names]


def fail(value: torch.Tensor, hook: object) -> None:
    """A hook that breaks off the forward pass."""
    raise ZeroDivisionError


def some_tokens(length: int = 20) -> torch.Tensor:
    """Three texts of random tokens, longer than Gemma 2's sliding window of 16."""
    return torch.randint(5, 250, (3, length), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "raw"), [*((name, False) for name in ARCHITECTURES), ("gpt2", True), ("llama-grouped", True), ("gemma2", True)]
)
def test_a_run_from_any_layer_equals_the_whole_run(architecture: str, raw: bool, tiny: Path) -> None:
    model, tokens, rows = loaded(tiny / architecture, raw), some_tokens(), torch.tensor([2, 0, 2, 1])
    whole, entering = model(tokens), streams(model, tokens)
    assert (whole[0] - whole[2]).abs().max() > 0.1 and whole.isfinite().all()
    for layer, stream in enumerate(entering):
        torch.testing.assert_close(run_from(model, stream, layer), whole, atol=1e-4, rtol=0)
        for length in (1, 18):
            prefix = read_prefix(model, tokens[:, :length])
            assert prefix.length == length and len(prefix.layers) == model.cfg.n_layers
            torch.testing.assert_close(run_from(model, stream[:, length:], layer, prefix), whole[:, length:], atol=1e-4, rtol=0)
            some = run_from(model, stream[rows, length:], layer, prefix, rows)
            torch.testing.assert_close(some, whole[rows, length:], atol=1e-4, rtol=0)
    with pytest.raises(ZeroDivisionError), model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", fail)]):
        run_from(model, entering[1], 1)
    assert not any("forward" in vars(block.original_component) for block in model.blocks), "as before, after an error too"
    assert torch.equal(model(tokens), whole)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["gpt2", "neox-parallel", "llama-grouped", "gemma2"])
def test_a_run_from_a_layer_leaves_out_the_blocks_before_it(architecture: str, tiny: Path) -> None:
    model, tokens, ran = loaded(tiny / architecture), some_tokens(8), []
    stream = streams(model, tokens)[1]
    handles = [model.blocks[layer].original_component.mlp.register_forward_hook(lambda *_, at=layer: ran.append(at)) for layer in (0, 1)]
    for start, expected in ((1, [1]), (2, []), (0, [0, 1])):
        ran.clear()
        run_from(model, stream, start)
        assert ran == expected
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_a_prefix_gives_each_run_a_memory_of_its_own(tiny: Path) -> None:
    model, tokens = loaded(tiny / "llama-grouped"), some_tokens(8)
    prefix = read_prefix(model, tokens[:, :5])
    before = [(keys.clone(), values.clone()) for keys, values in prefix.layers]
    assert prefix.layers[0][0].shape == (3, 2, 5, 8)  # texts, heads that are shared by two each, positions, width
    taken = prefix.cache(torch.tensor([2, 2]))
    assert torch.equal(taken.layers[1].values, prefix.layers[1][1][[2, 2]]) and taken.get_seq_length() == 5
    for _ in range(2):
        torch.testing.assert_close(model(tokens[:, 5:], past_key_values=prefix.cache(), use_cache=True), model(tokens)[:, 5:])
    assert all(torch.equal(a, b) for old, new in zip(before, prefix.layers, strict=True) for a, b in zip(old, new, strict=True))


@torch.no_grad()
def test_a_run_from_a_layer_lets_gradients_through(tiny: Path) -> None:
    model, tokens = loaded(tiny / "gpt2"), some_tokens(8)
    stream = streams(model, tokens)[1].requires_grad_()
    with torch.enable_grad():
        slope = torch.autograd.grad(run_from(model, stream, 1)[:, -1, 7].sum(), stream)[0]
    step = 1e-2 * slope / slope.norm()
    rise = (run_from(model, stream + step, 1) - run_from(model, stream - step, 1))[:, -1, 7].sum() / 2
    torch.testing.assert_close(rise, (slope * step).sum(), atol=1e-4, rtol=1e-2)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=rf"There is no layer {layer} to start from: the blocks are 0 to 1, and 2 is behind them\.$"):
            run_from(model, stream, layer)


def assert_one_begin(model: models.TransformerBridge) -> None:
    """A text gets the BOS token exactly once, in every way of handing it over."""
    begin = model.tokenizer.convert_tokens_to_ids(END)
    tokens = model.to_tokens("Paris is")
    assert tokens[0, 0] == begin and (tokens == begin).sum() == 1
    assert model.to_str_tokens("Paris is")[0] == END
    assert torch.equal(model("Paris is"), model(tokens))
    assert begin not in model.to_tokens("Paris is", prepend_bos=False)
    assert model.tokenizer.decode(tokens[0, 1:]).strip() == "Paris is"


@pytest.mark.parametrize("architecture", ["gpt2-relu", "neox-serial"])  # the second one has no begin token by itself
def test_the_course_lm_gets_one_begin_token(architecture: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "COURSE_LM_FOLDER", tiny / architecture)
    model = load_model("course-lm")
    assert model.cfg.d_model < 100  # it is the tiny one
    assert_one_begin(model)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loading_a_folder_is_quiet_and_offline(architecture: str, tiny: Path, capfd: pytest.CaptureFixture, caplog) -> None:
    with warnings.catch_warnings(record=True) as caught:
        load_model(tiny / architecture, device="cpu").generate("Paris", max_new_tokens=2, do_sample=False, verbose=False)
    assert tuple(capfd.readouterr()) == ("", "") and not caplog.records and not caught


def test_settings_are_as_before_afterwards(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models, "_boot", lambda *_: 1 / 0)
    before = constants.HF_HUB_OFFLINE, hf_logging.is_progress_bar_enabled(), logging.root.manager.disable, warnings.filters[:]
    with pytest.raises(ZeroDivisionError):
        load_model(tiny / "gpt2")
    assert (constants.HF_HUB_OFFLINE, hf_logging.is_progress_bar_enabled(), logging.root.manager.disable, warnings.filters[:]) == before


@pytest.mark.usefixtures("no_network")
def test_what_was_downloaded_before_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    repository = tmp_path / "models--somebody--tiny"
    write_tiny_model("neox-parallel", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert load_model("somebody/tiny").cfg.model_name == "somebody/tiny"


def test_a_fresh_python_is_quiet_and_the_door_opens_without_loading_the_libraries(tiny: Path) -> None:
    code = "import sys, helpers.models; print({'torch', 'transformers', 'transformer_lens'} & set(sys.modules) or 'light')"
    code += f"; helpers.models.load_model({str(tiny / 'gemma2')!r}).generate('Paris', max_new_tokens=2, verbose=False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("light\n", "")


class Hub(BaseHTTPRequestHandler):
    """A small stand-in for the Hugging Face Hub: one gated model, one far too large one, and nothing else."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").removesuffix("/auth-check")
        gated, large = name == "google/gemma-2-2b-it", name == "somebody/huge"
        if gated and self.path.endswith("auth-check"):
            return self.answer(403, error="GatedRepo")
        if gated or large:
            return self.answer(200, {"id": name, "safetensors": {"parameters": {"F32": 10**12}, "total": 10**12}})
        self.answer(404, error="RepoNotFound")

    def answer(self, status: int, body: dict | None = None, error: str = "") -> None:
        """Sends ``body`` as JSON, and the kind of the error as the Hub does."""
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body or {}).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HTTPServer]:
    """The stand-in, running, with an empty cache of downloads."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("google/gemma-2-2b-it", "accept its licence at https://huggingface.co/google/gemma-2-2b-it, then run `hf auth login`"),
        ("EleutherAI/pythia-161m", "perhaps 'EleutherAI/pythia-160m'"),
        ("nobody/knows-this-one", "catalogue() shows the models"),
        ("somebody/huge", "choose a smaller model"),
        ("not a name", "cannot be the name of a model"),
    ],
)
def test_models_of_the_hub_that_cannot_be_had(name: str, advice: str) -> None:
    assert advice in sentence(name=name)


def test_no_network(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached: connect, or use load_model() without a name" in sentence(name="gpt2")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (dict(name="./nowhere"), "There is no folder './nowhere'"),
        (dict(name=Path("nowhere")), "There is no folder 'nowhere'"),
        (dict(device="cuda:99"), "use 'cpu'"),
        (dict(device="toaster"), "use 'cpu'"),
        (dict(dtype="int8"), "use 'float32'"),
        (dict(dtype="toaster"), "use 'float32'"),
    ],
)
def test_wrong_arguments(arguments: dict, advice: str) -> None:
    assert advice in sentence(**arguments)


@pytest.mark.parametrize("pattern", ["config.json", "*.safetensors", "tokenizer*"])
def test_incomplete_folders(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_model("gpt2", tmp_path)
    for path in tmp_path.glob(pattern):
        path.unlink()
    assert "missing): save it with save_pretrained" in sentence(name=tmp_path)
    monkeypatch.setattr(models, "COURSE_LM_FOLDER", tmp_path)
    assert "`make model`" in sentence()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"\0" * 1000, "its files are damaged (fetch them again)"),
        ("config.json", b'{"model_type": "abacus", "architectures": ["Abacus"]}', "of a kind that TransformerLens does not know"),
    ],
)
def test_damaged_weights_and_unknown_architectures(file: str, content: bytes, words: str, tmp_path: Path) -> None:
    (write_tiny_model("gpt2", tmp_path) / file).write_bytes(content)
    assert words in sentence(name=tmp_path)


@pytest.mark.parametrize("raw", [False, True])
def test_too_little_memory(raw: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = models.memory_needed(models.stored_params(tiny / "llama"), bytes_each=4, raw=raw)
    monkeypatch.setattr(models, "free_memory", lambda device: needed * 1.01)
    load_model(tiny / "llama", device="cpu", raw=raw)
    monkeypatch.setattr(models, "free_memory", lambda device: needed * 0.99)
    assert "llama needs" in sentence(name=tiny / "llama", device="cpu", raw=raw)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_counted_as_stored(architecture: str, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny / architecture)
    assert models.stored_params(tiny / architecture) == model.num_parameters()


def test_notebooks_show_the_sentence_and_no_traceback(capsys: pytest.CaptureFixture) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell().run_cell("from helpers.models import load_model; load_model('./nowhere')")
    assert capsys.readouterr().out.strip().startswith("ModelNotAvailable: There is no folder './nowhere'")


def test_the_device_is_cuda_or_cpu_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (models.choose_device(), models.choose_device("mps")) == ("cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (models.choose_device(), models.choose_device(torch.device("cuda", 1)), models.choose_device("cpu")) == ("cuda", "cuda:1", "cpu")


def test_the_catalogue_is_a_table_of_a_dozen_models() -> None:
    table = catalogue()
    assert list(table.index) == list(CATALOGUE) and 10 <= len(table) <= 15
    assert list(table.columns) == ["parameters", "memory", "gated", "licence", "used for"]
    assert all(len(use) < 50 for use in table["used for"]), "a notebook cuts longer cells"
    assert {card.name for card in CATALOGUE.values() if card.gated} == {"google/gemma-2-2b-it", "meta-llama/Llama-3.2-1B-Instruct"}
    assert CATALOGUE["gpt2"].params == 124_439_808 and 2 < CATALOGUE["gpt2"].memory_gb < 3
