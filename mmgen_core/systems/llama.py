"""LLaMA in Hugging Face's layout: the language model inside SEED-LLaMA, SEED-X and DreamLLM.

The files of these systems differ in vocabulary and in what lies beside them, not in layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint
from ..models.decoder import Decoder, DecoderParams
from .var import count_of

HEAD_SIZE = 128  # of every public LLaMA here; a config says otherwise
EPS_BY_VOCAB = {32008: 1e-6}  # DreamLLM stands on Vicuna 1.1; the others on LLaMA 2


def recognise(checkpoint: Checkpoint) -> DecoderParams | None:
    """Sizes of a LLaMA file, which has separate projections and no norm of queries and keys."""
    shapes, config = checkpoint.shapes, checkpoint.config
    first = "model.layers.0."
    needed = ("self_attn.q_proj.weight", "mlp.gate_proj.weight", "input_layernorm.weight")
    if "model.embed_tokens.weight" not in shapes or any(first + k not in shapes for k in needed):
        return None
    if f"{first}self_attn.q_norm.weight" in shapes or f"{first}self_attn.q_proj.bias" in shapes:
        return None
    vocab, width = shapes["model.embed_tokens.weight"]
    heads = config.get("num_attention_heads", max(1, width // HEAD_SIZE))
    head_size = shapes[f"{first}self_attn.q_proj.weight"][0] // heads
    return DecoderParams(
        depth=count_of(shapes, r"model\.layers\.(\d+)\."),
        width=width,
        heads=heads,
        kv_heads=shapes[f"{first}self_attn.k_proj.weight"][0] // head_size,
        mlp_width=shapes[f"{first}mlp.gate_proj.weight"][0],
        vocab=vocab,
        head_size=head_size,
        norm_eps=config.get("rms_norm_eps", EPS_BY_VOCAB.get(vocab, 1e-5)),
        rotary_base=config.get("rope_theta", 10000.0),
    )


# file name -> module name, both ways
_RENAMED = {
    "model.embed_tokens.": "embed.",
    "model.norm.": "norm.",
    "model.layers.": "layers.",
    "lm_head.": "head.0.",
    ".self_attn.q_proj.": ".attention.q.",
    ".self_attn.k_proj.": ".attention.k.",
    ".self_attn.v_proj.": ".attention.v.",
    ".self_attn.o_proj.": ".attention.o.",
    ".mlp.gate_proj.": ".mlp.gate.",
    ".mlp.up_proj.": ".mlp.up.",
    ".mlp.down_proj.": ".mlp.down.",
    ".input_layernorm.": ".attention_norm.",
    ".post_attention_layernorm.": ".mlp_norm.",
}


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {renamed(key, _RENAMED): tensor for key, tensor in tensors.items()}


def publish(state: Mapping[str, Tensor], params: DecoderParams) -> dict[str, Tensor]:
    back = {ours: file for file, ours in _RENAMED.items()}
    return {renamed(key, back): tensor.contiguous() for key, tensor in state.items()}


def renamed(key: str, names: Mapping[str, str]) -> str:
    """A key with every part of it renamed; names that begin without a dot begin the key."""
    for old, new in names.items():
        key = re.sub(f"^{re.escape(old)}" if old[0] != "." else re.escape(old), new, key)
    return key


ARCHITECTURES = (
    Architecture(
        name="LLaMA language model",
        kind="next-token model",
        recognise=recognise,
        module=Decoder,
        convert=convert,
        publish=publish,
        licence="Llama 2 Community License, and the system's own",
        origin="https://huggingface.co/AILab-CVC/SEED-X-17B, "
        "https://huggingface.co/RunpeiDong/dreamllm-7b-chat-aesthetic-v1.0",
        ignored={"*.rotary_emb.inv_freq": "rotary frequencies, implied by the sizes"},
    ),
)
