"""A random model whose tokens are single bytes, for tests that count tokens."""

from pathlib import Path

import pytest
import torch

CONTEXT = 24


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory):
    """A random GPT-2 whose tokenizer knows single bytes only, loaded through the course's door; its folder as an attribute."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from helpers.models import load_model

    folder: Path = tmp_path_factory.mktemp("small")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=256,
        eos_token_id=256,
    )
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(config).save_pretrained(folder)
    model = load_model(folder)
    model.folder = folder
    return model
