"""GGUF files, in which small public models are passed around: read once, and written as an ordinary checkpoint.

The weights of such a file are rounded to some four bits each. Here they are written as 16-bit numbers, so nothing more is lost,
but what was rounded stays so: a model's numbers differ a little from those of its original.
"""

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

from helpers.progress import progress

MAGIC = b"GGUF"
CHUNK = 2**20  # bytes
INSTALL = "install the package that reads them with `pip install 'gguf>=0.17,<1'`"


class NotAModel(RuntimeError):
    """A file that is not, or not wholly, the model that it should be; the message is one sentence that says what to do."""


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_gguf(path: Path) -> None:
    """Raises ``NotAModel`` unless ``path`` is a file that begins as a GGUF file does, and the package that reads it is there."""
    if not path.is_file():
        raise NotAModel(f"There is no file {str(path)!r}: check the path.")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise NotAModel(f"{path.name} is no GGUF file (it does not begin with the letters GGUF): fetch it again.")
    if find_spec("gguf") is None:
        raise NotAModel(f"{path.name} is a GGUF file: {INSTALL}.")


def write_checkpoint(gguf: Path, folder: Path, name: str) -> None:
    """Writes the model of a GGUF file as a checkpoint in 16 bits with its tokenizer; ``folder`` appears only when it is whole.

    Raises ``NotAModel`` where transformers cannot read the file.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(gguf)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        part.mkdir(parents=True)
        tied = {key for key in model.state_dict() if model.config.tie_word_embeddings and key == "lm_head.weight"}
        weights = {key: values for key, values in model.state_dict().items() if key not in tied}
        halves = {key: values.half().contiguous() for key, values in progress(weights.items(), desc="writing the weights")}
        save_file(halves, part / "model.safetensors", metadata={"format": "pt"})
        del model.config.quantization_config  # it says how the file was packed, and would be taken for how the checkpoint is
        model.config.dtype, model.config._name_or_path = torch.float16, name
        model.config.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.replace(folder)
    except Exception as error:
        message = next(iter(str(error).splitlines()), "")[:120].rstrip(".")
        raise NotAModel(f"{gguf.name} could not be read ({type(error).__name__}: {message}): fetch it again, or another one.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
