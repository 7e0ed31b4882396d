"""Random language models as folders, with a tokenizer of single bytes and a few words."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["cat", "dog", "red", '{"', "caption", '": "', "objects", '", "', "box", "label", "100"]
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
)


def tokenizer(template: str | None = CHAT, spread: bool = False):
    """Byte-level, as most language models have it; ``spread`` gives letters of several tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if not spread:
        core.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = template
    return fast


def write(folder: Path, kind: str = "llama", template: str | None = CHAT, **sizes) -> Path:
    """A folder as ``save_pretrained`` writes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer(template)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    defaults = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.5,
    }
    config = AutoConfig.for_model(kind, **(defaults | sizes))
    module = AutoModelForCausalLM.from_config(config)
    torch.random.set_rng_state(torch_state)
    module.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
