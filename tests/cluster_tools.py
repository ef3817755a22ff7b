"""What the tests of the section on clusters share: tiny random models, loaded once, and pairs of random prompts."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import ARCHITECTURES, write_tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TINY = [name for name in ARCHITECTURES if name != "course-like"]
LETTERS_CONTEXT = 24  # tokens that the model of letters reads


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A tiny random model by the name of its architecture, each loaded once."""
    from helpers.models import load_model

    loaded = {}

    def of(family: str, **options):
        key = (family, *options.items())
        if key not in loaded:
            loaded[key] = load_model(write_tiny_model(family, tmp_path_factory.mktemp(family)), **options)
        return loaded[key]

    return of


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 with two heads a layer whose tokenizer knows single bytes only."""
    from helpers.models import load_model

    folder = tmp_path_factory.mktemp("letters")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    shape = dict(vocab_size=len(tokenizer), n_positions=LETTERS_CONTEXT, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=256, eos_token_id=256)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(autouse=True)
def no_gradients():
    """Gradients only where a helper asks for them."""
    with torch.no_grad():
        yield


def last_logits(model, texts) -> torch.Tensor:
    """The logits at the end of each text, from a run of the whole model."""
    return model(texts.tokens)[torch.arange(len(texts)), texts.lengths - 1]
