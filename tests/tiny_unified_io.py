"""Tiny random Unified-IO models in the published layouts: one file holds the transformer and the
image tokenizer, the text vocabulary lies beside it."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from tiny import randomise

from mmgen_core.models.encoder_decoder import StackParams
from mmgen_core.models.unified_io import UnifiedIO, UnifiedIOParams
from mmgen_core.models.unified_io_2 import UnifiedIO2, UnifiedIO2Params
from mmgen_core.models.unified_io_2_vision import ResamplerParams, VisionParams
from mmgen_core.systems import unified_io, unified_io_2
from mmgen_core.systems.unified_io_system import rounded_up
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.vqgan import VQGAN, VQGANParams, split_attention

CODES, STRIDE, SIDE = 24, 2, 4  # codes, pixels of one, codes of a side: pictures of 8 x 8
WORDS = "a red cat on the mat sees one blue dog and two green birds what is where".split()
BASE = 100  # sentencepiece pieces
CONFIG_2 = {
    "t5_config": {
        "image_vit_patch_size": 4,
        "default_image_vit_size": [16, 16],
        "default_image_history_vit_size": [8, 8],
        "default_image_size": [SIDE * STRIDE] * 2,
        "encoder_max_text_length": 96,
    },
    "image_vit_cfg": {"num_heads": 2},
    "image_history_cfg": {"max_frames": 4},
}
CONFIG_1 = {"encoder_max_text_length": 96, "decoder_max_text_length": 48}


def spm(path: Path, llama: bool) -> Path:
    """A sentencepiece model trained on a few words, with T5's or LLaMA's first pieces."""
    t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": BASE}
    own = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "byte_fallback": True, "vocab_size": BASE + 256}
    writer = io.BytesIO()
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=writer,
        hard_vocab_limit=False,
        minloglevel=2,
        **(own if llama else t5),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(writer.getvalue())
    return path


def pieces(path: Path) -> int:
    return len(sentencepiece.SentencePieceProcessor(model_file=str(path)))


def tokenizer_tensors(seed: int) -> dict[str, torch.Tensor]:
    """A VQGAN in the usual names."""
    params = VQGANParams(AutoencoderParams(32, (1, 1), 1, 4, attention=(1,)), CODES, 4)
    return split_attention(randomise(VQGAN(params), seed).state_dict())


def flat(key: str, levels: int = 2) -> str:
    """The flat names that Unified-IO's files have."""
    key = re.sub(r"\.mid\.(block|attn)_(\d)\.", r".mid_\1_\2.", key)
    key = re.sub(r"\.down\.(\d)\.(block|attn)\.(\d)\.", r".down_\1_\2_\3.", key)
    key = re.sub(r"\.down\.(\d)\.downsample\.", r".down_\1_downsample.", key)
    up = lambda m: f".up_{levels - 1 - int(m[1])}_"  # noqa: E731
    key = re.sub(r"\.up\.(\d)\.", up, key)
    return re.sub(r"(\.up_\d_(?:block|attn))\.(\d)\.", r"\1_\2.", key)


def flax(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A VQGAN tensor as JAX archives have it."""
    key = flat(key).replace(".", "/")
    if tensor.ndim == 4:
        return key.replace("/weight", "/kernel"), tensor.permute(2, 3, 1, 0).contiguous()
    if key == "quantize/embedding/weight":
        return "quantize/embedding", tensor
    return key.replace("/weight", "/scale"), tensor


def stack(rotary: bool) -> StackParams:
    return StackParams(24, 3, 8 if rotary else 6, 32, 2, 2, rotary, not rotary)


def tensors_1(text_ids: int, seed: int = 5) -> dict[str, torch.Tensor]:
    params = UnifiedIOParams(
        stack(False),
        rounded_up(text_ids),
        CODES,
        patch=4,
        grid=(4, 4),
        text_limit=96,
        target_grid=(SIDE, SIDE),
        answer_limit=48,
        stride=STRIDE,
    )
    module = randomise(UnifiedIO(params), seed)
    found = unified_io.publish(module.state_dict(), params)
    for name in ("q", "k"):
        found[f"decoder/cross_position_{name}_linear/kernel"] = torch.zeros(24, 18)
    for key, tensor in tokenizer_tensors(seed + 1).items():
        key, tensor = flax(key, tensor)
        found[f"{unified_io.VQGAN}{key}"] = tensor
    return found


def tensors_2(text_ids: int, seed: int = 6) -> dict[str, torch.Tensor]:
    params = UnifiedIO2Params(
        stack(True),
        VisionParams(3, 16, 2, 32, 48, 10),
        ResamplerParams(2, 16, 2, 8, 32, 3, False, 4),
        rounded_up(text_ids),
        CODES + 6,
        CODES,
    )
    module = randomise(UnifiedIO2(params), seed)
    found = unified_io_2.publish(module.state_dict(), params)
    for key, tensor in tokenizer_tensors(seed + 1).items():
        found[f"{unified_io_2.VQGAN}{flat(key)}"] = tensor
    found["audio_token_embedder.weight"] = torch.zeros(8, 24)
    return {key: tensor.contiguous().clone() for key, tensor in found.items()}


def write_1(folder: Path, msgpack: bool = True) -> Path:
    """Unified-IO as published: a JAX archive called .bin, T5's vocabulary beside it."""
    vocabulary = spm(folder / "spiece.model", llama=False)
    tensors = tensors_1(pieces(vocabulary) + 1100)
    (folder / "config.json").write_text(json.dumps(CONFIG_1))
    if not msgpack:
        save_file(tensors, folder / "tiny_uio.safetensors")
        return folder / "tiny_uio.safetensors"
    tree: dict = {}
    for key, tensor in tensors.items():
        *path, leaf = key.split("/")
        at = tree
        for name in path:
            at = at.setdefault(name, {})
        at[leaf] = tensor
    (folder / "tiny_uio.bin").write_bytes(packed(tree))
    return folder / "tiny_uio.bin"


FINDS_A_BOX = 15  # a seed whose random model answers with a box where places are forced


def write_2(folder: Path, seed: int = 6) -> Path:
    """Unified-IO 2 as published: a torch checkpoint, its config and LLaMA's vocabulary."""
    vocabulary = spm(folder / "tokenizer.model", llama=True)
    (folder / "config.json").write_text(json.dumps(CONFIG_2))
    torch.save(tensors_2(pieces(vocabulary) + 1225, seed), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def packed(value) -> bytes:
    """msgpack of maps, lists, texts, small numbers, bytes and fp32 arrays, as flax writes them."""
    if isinstance(value, dict):
        pairs = b"".join(packed(k) + packed(v) for k, v in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + pairs
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xd9" + struct.pack(">B", len(value)) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, int):
        return b"\xcd" + struct.pack(">H", value)
    content = packed([list(value.shape), "float32", value.numpy().tobytes()])
    return b"\xc9" + struct.pack(">I", len(content)) + b"\x01" + content
