"""Small checkpoints with random weights and a real tokenizer, written to a folder: every architecture of the course, offline.

All weights are drawn, those of the normalisation layers and the biases too, so that folding them is put to the test.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
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
    "gemma2": (Gemma2Config, LLAMA | dict(num_key_value_heads=2, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)),
    "course-like": (GPT2Config, dict(n_embd=192, n_layer=12, n_head=6, n_positions=96, vocab_size=8192, activation_function="relu")),
}


def write_tiny_model(architecture: str, folder: Path, seed: int = 0, **changed: Any) -> Path:
    """Writes a checkpoint of ``architecture`` (a key of ``ARCHITECTURES``, some settings changed) with its tokenizer to ``folder``."""
    tokenizer = tiny_tokenizer()
    config_class, settings = ARCHITECTURES[architecture]
    end = tokenizer.eos_token_id
    settings = dict(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, pad_token_id=end) | settings | changed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_class(**settings))
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


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 300 tokens whose begin, end and padding token is the same, like the course LM's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    wrapped.chat_template = CHAT
    return wrapped
