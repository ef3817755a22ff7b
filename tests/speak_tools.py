"""Rigs of the tests of lesson 4: models that read whole words, and all architectures of the tiny models."""

import torch
from tiny_models import ARCHITECTURES, END, draw_weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

NAMES = [name for name in ARCHITECTURES if name not in ("course-like", "gpt2-relu")]


def write_word_model(folder, words, change=lambda model: None, **sizes):
    """Writes a random GPT-2 with a token for each word; ``change`` may put a hand to its weights."""
    words = [END, *words]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **sizes))
        draw_weights(model)
    change(model)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END, unk_token=END)
    tokenizer.save_pretrained(folder)
    return folder


def token(model, word):
    """The token of a word."""
    return model.tokenizer(word, add_special_tokens=False)["input_ids"][0]
