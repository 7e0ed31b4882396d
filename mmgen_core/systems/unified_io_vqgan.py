"""The image tokenizers within the files of Unified-IO (16 x 16 codes) and Unified-IO 2 (32 x 32).

Both number blocks in flat names, upwards from the coarsest level; JAX archives also lay their
convolutions out as [height, width, in, out].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint
from ..tokenizers.vqgan import (
    VQGAN,
    VQGANParams,
    codebook_fingerprint,
    fuse_attention,
    split_attention,
    vqgan_params,
)
from . import unified_io, unified_io_2

PREFIXES = (unified_io.VQGAN, unified_io_2.VQGAN)
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "embedding.weight"}


def named(key: str, levels: int) -> str | None:
    """The name that VQGAN files of other systems have; None for a tensor of something else."""
    prefix = next((p for p in PREFIXES if key.startswith(p)), None)
    if prefix is None:
        return None
    key = key.removeprefix(prefix)
    if prefix == unified_io.VQGAN:
        stem, _, leaf = key.replace("/", ".").rpartition(".")
        key = f"{stem}.{_LEAVES.get(leaf, leaf)}"
    key = re.sub(r"\.mid_(block|attn)_(\d+)\.", r".mid.\1_\2.", key)
    key = re.sub(r"\.down_(\d+)_(block|attn)_(\d+)\.", r".down.\1.\2.\3.", key)
    key = re.sub(r"\.down_(\d+)_downsample\.", r".down.\1.downsample.", key)
    return re.sub(
        r"\.up_(\d+)_(?:(block|attn)_(\d+)|(upsample))\.",
        lambda m: f".up.{levels - 1 - int(m[1])}." + (m[4] or f"{m[2]}.{m[3]}") + ".",
        key,
    )


def _levels(keys: Mapping[str, object]) -> int:
    numbers = [int(m[1]) for key in keys if (m := re.search(r"[./]encoder[./]down_(\d+)_", key))]
    return 1 + max(numbers, default=0)


def recognise(checkpoint: Checkpoint) -> VQGANParams | None:
    levels, shapes = _levels(checkpoint.shapes), {}
    for key, shape in checkpoint.shapes.items():
        if (name := named(key, levels)) is not None:
            flax = key.startswith(unified_io.VQGAN) and len(shape) == 4
            shapes[name] = tuple(shape[i] for i in (3, 2, 0, 1)) if flax else shape
    return vqgan_params(shapes)


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and layouts of other VQGAN files; what is no part of the tokenizer keeps its name,
    and is refused on loading."""
    levels, state = _levels(tensors), {}
    for key, tensor in tensors.items():
        name = named(key, levels)
        flax = key.startswith(unified_io.VQGAN) and tensor.ndim == 4
        state[name or key] = tensor.permute(3, 2, 0, 1).contiguous() if flax else tensor
    return fuse_attention(state)


def publish(state: Mapping[str, Tensor], params: VQGANParams) -> dict[str, Tensor]:
    return split_attention(state)


OTHERS = "the transformer of the same file, loaded by Load Next-Token Model"
ARCHITECTURES = (
    Architecture(
        name="VQGAN tokenizer of Unified-IO",
        kind="image tokenizer",
        recognise=recognise,
        module=VQGAN,
        convert=convert,
        publish=publish,
        licence=unified_io.LICENCE,
        origin=unified_io.ORIGIN,
        ignored={
            "token_embedder/*": OTHERS,
            "encoder/*": OTHERS,
            "decoder/*": OTHERS,
            "encoder.*": OTHERS,
            "decoder.*": OTHERS,
            "*_token_embedder.*": OTHERS,
            "input_embedders.*": OTHERS,
            "target_embedders.*.modality_embedding": OTHERS,
            "target_embedders.audio.*": "the tokenizer of sounds",
        },
        fingerprint=lambda state: codebook_fingerprint(state["quantize.embedding.weight"]),
    ),
)
