"""helpers/check.py finds what is broken, names the remedy, and never shows a traceback."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import check

CONTENT = b"numbers" * 1000
SUMS = f"{hashlib.sha256(CONTENT).hexdigest()}  model.safetensors\n"


@pytest.mark.parametrize(
    ("content", "sums", "ok", "said"),
    [
        (CONTENT, SUMS, True, "1 files are whole"),
        (b"N" + CONTENT[1:], SUMS, False, "model.safetensors is damaged"),
        (CONTENT[:-1], SUMS, False, "model.safetensors is damaged"),
        (None, SUMS, False, "model.safetensors is missing"),
        (CONTENT, None, False, "SHA256SUMS is missing"),
        (CONTENT, "\n", False, ""),
    ],
)
def test_weights_are_whole_or_what_is_wrong_is_named(tmp_path: Path, content: bytes | None, sums: str | None, ok: bool, said: str):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    if sums is not None:
        (tmp_path / "SHA256SUMS").write_text(sums)
    good, message, remedy = check.check_weights(tmp_path)
    assert good is ok and said in message and "git checkout" in remedy


@pytest.mark.parametrize(
    ("run", "version", "ok"),
    [
        *((check.check_python, version, ok) for version, ok in (("3.10.14", False), ("3.11.0", True), ("3.13.9", True), ("3.14.0", False))),
        *((check.check_kernel, version, True) for version in ("6.29.5", "7.4.0", "7.5.0a1")),
        *((check.check_kernel, version, False) for version in ("7.0.1", "7.3.0")),
    ],
)
def test_versions_of_python_and_of_the_kernel(run: Callable[[str], check.Result], version: str, ok: bool):
    good, message, remedy = run(version)
    assert good is ok and version in message and remedy


def test_packages_missing_too_old_and_right_and_memory():
    ok, message, remedy = check.check_packages(["numpy>=99", "no-such-package>=1", "torch>=1"])
    assert not ok and "numpy is" in message and "no-such-package is missing" in message and "torch" not in message
    assert "pip install" in remedy and check.check_packages()[0]
    assert check.check_memory(needed=0)[0] and not check.check_memory(needed=1e6)[0]


@pytest.mark.parametrize(("answer", "ok"), [(" Warsaw", True), (" Paris", False)])
def test_the_known_answer(answer: str, ok: bool):
    class Model:
        tokenizer = SimpleNamespace(decode=lambda tokens: {3: answer}[tokens[0]])

        def to_tokens(self, text: str) -> torch.Tensor:
            return torch.zeros(1, len(text.split()), dtype=torch.long)

        def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full_like(tokens, 3), 5).float()

    result = check.check_answer(Model())
    assert result[0] is ok and answer in result[1]


def test_an_error_is_one_sentence_and_the_others_still_run(capsys: pytest.CaptureFixture):
    def broken() -> check.Result:
        raise RuntimeError("the file\nends too early")

    def unimportable() -> check.Result:
        import no_such_module  # noqa: F401

    code = check.main({"broken": broken, "import": unimportable, "fine": lambda: (True, "yes", "")})
    out = capsys.readouterr().out
    assert code == 1
    assert "[FAIL] broken: RuntimeError: the file ends too early\n" in out
    assert "[FAIL] import: no_such_module cannot be imported\n" in out
    assert "[OK]   fine: yes\n" in out and "2 of 3 checks failed" in out and "Traceback" not in out


@pytest.mark.skipif(not (check.WEIGHTS / "SHA256SUMS").exists(), reason="the course LM has not been trained yet: make model")
def test_all_is_well_here(capsys: pytest.CaptureFixture):
    checks = {name: run for name, run in check.CHECKS.items() if name != "memory"}
    assert check.main(checks) == 0, capsys.readouterr().out
