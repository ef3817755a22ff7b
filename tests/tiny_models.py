"""Small checkpoints with random weights and a real tokenizer, written to a folder: every architecture of the course, offline.

All weights are drawn, those of the normalisation layers and the biases too, so that folding them is put to the test.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

END = "<|endoftext|>"
CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
TEXT = "The Eiffel Tower is in Paris. The Golden Gate Bridge is in San Francisco, and Taipei 101 is in Taipei. "

GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
NEOX = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, rotary_pct=0.5, max_position_embeddings=64)
LLAMA = NEOX | dict(intermediate_size=48)
del LLAMA["rotary_pct"]

ARCHITECTURES: dict[str, tuple[type[PretrainedConfig], dict]] = {
    "gpt2": (GPT2Config, GPT2),
    "gpt2-relu": (GPT2Config, GPT2 | dict(activation_function="relu")),
    "neox-serial": (GPTNeoXConfig, NEOX | dict(use_parallel_residual=False)),
    "neox-parallel": (GPTNeoXConfig, NEOX | dict(use_parallel_residual=True)),
    "llama": (LlamaConfig, LLAMA),
    "llama-grouped": (LlamaConfig, LLAMA | dict(num_key_value_heads=2)),
    "qwen2": (Qwen2Config, LLAMA | dict(num_key_value_heads=2)),
    "qwen3": (Qwen3Config, LLAMA | dict(num_key_value_heads=2, head_dim=8)),
    "gemma2": (Gemma2Config, LLAMA | dict(num_key_value_heads=2, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)),
    "gemma3": (Gemma3TextConfig, LLAMA | dict(num_key_value_heads=2, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)),
}
NAMES = [name for name in ARCHITECTURES if name != "gpt2-relu"]


def write_tiny_model(architecture: str, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None, **changed: Any) -> Path:
    """Writes a checkpoint of ``architecture`` (a key of ``ARCHITECTURES``, some settings changed) with a tokenizer to ``folder``."""
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    config_class, settings = ARCHITECTURES[architecture]
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_class(**settings | {"vocab_size": len(tokenizer)} | ends | changed))
        draw_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def draw_weights(model: torch.nn.Module) -> None:
    """Draws every matrix anew, and moves every vector (biases, normalisation weights) away from its starting value."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(noise * 0.2)


def tiny_tokenizer(texts: Iterable[str] = (TEXT,), vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on some texts whose begin, end and padding token is the same, like the course LM's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    wrapped.chat_template = CHAT
    return wrapped


def write_byte_model(folder: Path) -> Path:
    """Writes a random GPT-2 with a token for each byte; the last one, 256, begins and ends a document."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True)])
    sizes = dict(vocab_size=257, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=256, eos_token_id=256)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END).save_pretrained(folder)
    return folder


def write_word_model(
    folder: Path, words: Iterable[str], change: Callable[[torch.nn.Module], None] = lambda model: None, seed: int = 0, **sizes: Any
) -> Path:
    """Writes a random GPT-2 with a token for each word; ``change`` may put a hand to its weights."""
    words = [END, *words]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **sizes))
        draw_weights(model)
    change(model)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END, unk_token=END)
    tokenizer.save_pretrained(folder)
    return folder


def token(model: Any, word: str) -> int:
    """The first token of a word."""
    return model.tokenizer(word, add_special_tokens=False)["input_ids"][0]


def last_logits(model: Any, texts: Any) -> torch.Tensor:
    """The logits at the end of each text, from a run of the whole model."""
    return model(texts.tokens)[torch.arange(len(texts)), texts.lengths - 1]
