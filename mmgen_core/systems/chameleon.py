"""Chameleon 7B and 34B (Meta 2024, arXiv 2405.09818) and what was made of them: ANOLE
(arXiv 2407.06135) and Lumina-mGPT (arXiv 2408.02657) share architecture and vocabulary.

Three published layouts: Meta's consolidated files (34B: four model-parallel parts), Hugging
Face's, and Hugging Face's with the q/k norms of the model-parallel parts (Lumina-mGPT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Match, Shapes
from ..checkpoints.files import Checkpoint, CheckpointError
from ..models.decoder import Decoder, DecoderParams, interleaved_to_halves
from ..tokenizers.text import (
    JSON_NAMES,
    TokenizerError,
    find_text_tokenizer,
    load_text_tokenizer,
)
from .chameleon_system import ChameleonSystem
from .lumina_mgpt import LuminaSystem, is_lumina, target_of
from .var import count_of
from .vqgan import HF_PREFIX, LICENCE

FIRST_CODE = 4  # id of image code 0; before it <s>, <pad>, </s>, <unk>
PUBLISHED_CODES = 8192
SWIN_DEPTH = 48  # the 34B; no shape tells where its norms stand
CODEBOOK_KEY = f"{HF_PREFIX}quantize.embedding.weight"
RANK = re.compile(r"rank(\d+)\.(.*)")


def code_count(shapes: Shapes, vocab: int) -> int:
    """Image codes in the vocabulary: those of the tokenizer in the same file, else the published
    number; 0 where the vocabulary has no room for them."""
    if CODEBOOK_KEY in shapes:
        return shapes[CODEBOOK_KEY][0]
    return PUBLISHED_CODES if vocab > FIRST_CODE + PUBLISHED_CODES else 0


def head_blocks(vocab: int, codes: int) -> tuple[int, ...]:
    """The head in three id ranges, so that a picture costs only the rows of its codes."""
    return (FIRST_CODE, codes, vocab - FIRST_CODE - codes) if codes else ()


def recognise_original(checkpoint: Checkpoint) -> DecoderParams | None:
    """Sizes of consolidated files, by the names of their q/k norms."""
    shapes = checkpoint.shapes
    parts = {m[1] for key in shapes if (m := RANK.fullmatch(key))}
    if parts:
        shapes = {m[2]: shape for key, shape in shapes.items() if (m := RANK.fullmatch(key))}
    if "layers.0.attention.q_normalization.weight" not in shapes:
        return None
    n = max(len(parts), 1)
    head = shapes["layers.0.attention.q_normalization.weight"][0]
    vocab, part_width = shapes["tok_embeddings.weight"]
    width = shapes["norm.weight"][0]
    if part_width * n != width:
        raise CheckpointError(
            f"{checkpoint.path.name} is one of {width // part_width} parts of a model, and {n} of "
            f"them {'is' if n == 1 else 'are'} there. Put consolidated.00.pth to "
            f"consolidated.{width // part_width - 1:02}.pth into one folder and choose the first."
        )
    model = checkpoint.config.get("model", checkpoint.config)
    return _params(
        depth=count_of(shapes, r"layers\.(\d+)\."),
        width=width,
        heads=shapes["layers.0.attention.wq.weight"][0] * n // head,
        kv_heads=shapes["layers.0.attention.wk.weight"][0] * n // head,
        mlp_width=shapes["layers.0.feed_forward.w1.weight"][0] * n,
        vocab=vocab,
        head_size=head,
        codes=code_count(shapes, vocab),
        config=model,
    )


def recognise_hf(checkpoint: Checkpoint) -> DecoderParams | None:
    """Sizes of Hugging Face files; q/k norms with a bias tell them from LLaMA and others."""
    shapes = checkpoint.shapes
    layer = "model.layers.0."
    if f"{layer}self_attn.q_norm.bias" not in shapes:
        return None
    vocab, width = shapes["model.embed_tokens.weight"]
    head = shapes[f"{layer}self_attn.q_norm.weight"][-1]
    return _params(
        depth=count_of(shapes, r"model\.layers\.(\d+)\."),
        width=width,
        heads=shapes[f"{layer}self_attn.q_proj.weight"][0] // head,
        kv_heads=shapes[f"{layer}self_attn.k_proj.weight"][0] // head,
        mlp_width=shapes[f"{layer}mlp.gate_proj.weight"][0],
        vocab=vocab,
        head_size=head,
        codes=code_count(shapes, vocab),
        config=checkpoint.config,
    )


def _params(codes: int, config: Mapping[str, Any], **sizes: int) -> DecoderParams:
    return DecoderParams(
        **sizes,
        head_blocks=head_blocks(sizes["vocab"], codes),
        norm_eps=config.get("rms_norm_eps", config.get("norm_eps", 1e-5)),
        norm_after=config.get("swin_norm", sizes["depth"] == SWIN_DEPTH),
        qk_norm="per head",
        rotary_base=config.get("rope_theta") or 10000.0,
    )


# original name -> ours, within a layer; then those outside of layers
_ORIGINAL = {
    "attention.wq": "attention.q",
    "attention.wk": "attention.k",
    "attention.wv": "attention.v",
    "attention.wo": "attention.o",
    "attention.q_normalization": "attention.q_norm",
    "attention.k_normalization": "attention.k_norm",
    "feed_forward.w1": "mlp.gate",
    "feed_forward.w2": "mlp.down",
    "feed_forward.w3": "mlp.up",
    "attention_norm": "attention_norm",
    "ffn_norm": "mlp_norm",
    "tok_embeddings": "embed",
    "norm": "norm",
    "output": "head",
}
_HF = {
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.o",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.down_proj": "mlp.down",
    "mlp.up_proj": "mlp.up",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "embed_tokens": "embed",
    "norm": "norm",
    "lm_head": "head",
}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    layer, rest = re.fullmatch(r"((?:layers\.\d+\.)?)(.*)", key.removeprefix("model.")).groups()
    stem, _, kind = rest.rpartition(".")
    return f"{layer}{names.get(stem, stem)}.{kind}"


def joined_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Model-parallel parts as one model, in the original layout; the parts' own q/k norms stand
    one under the other, [parts, head size]."""
    parts: dict[str, list[Tensor]] = {}
    for key in sorted(tensors):
        parts.setdefault(RANK.fullmatch(key)[2], []).append(tensors[key])
    joined = {}
    for key, pieces in parts.items():
        stem = key.rpartition(".")[0]
        if "_normalization" in key:
            joined[key] = torch.stack(pieces)
        elif stem.endswith("norm"):
            joined[key] = pieces[0]  # the same in every part
        else:
            across = stem.endswith(("attention.wo", "feed_forward.w2", "tok_embeddings"))
            joined[key] = torch.cat(pieces, dim=1 if across else 0)
    return joined


def convert_original(tensors: Mapping[str, Tensor], codes: int | None = None) -> dict[str, Tensor]:
    """Rotary pairs of neighbours become halves, in weights and q/k norms alike."""
    if any(RANK.fullmatch(key) for key in tensors):
        tensors = joined_parts(tensors)
    state = {}
    for key, tensor in tensors.items():
        if "_normalization." in key:
            rows = tensor.reshape(-1, tensor.shape[-1])
            tensor = torch.stack([interleaved_to_halves(row, 1) for row in rows])
        elif key.endswith(("attention.wq.weight", "attention.wk.weight")):
            stem, letter = key.removesuffix("wq.weight").removesuffix("wk.weight"), key[-8]
            head = tensors[f"{stem}{letter}_normalization.weight"].shape[-1]
            tensor = interleaved_to_halves(tensor, tensor.shape[0] // head)
        state[_renamed(key, _ORIGINAL)] = tensor
    return _finished(state, codes)


def convert_hf(tensors: Mapping[str, Tensor], codes: int | None = None) -> dict[str, Tensor]:
    if codes is None and CODEBOOK_KEY in tensors:
        codes = len(tensors[CODEBOOK_KEY])
    state = {_renamed(k, _HF): v for k, v in tensors.items() if not k.startswith(HF_PREFIX)}
    return _finished(state, codes)


def _finished(state: dict[str, Tensor], codes: int | None) -> dict[str, Tensor]:
    """q/k norms for every head, and the head in its blocks."""
    for key in [key for key in state if "_norm." in key and ".attention." in key]:
        layer, norm = key.split(".attention.")
        rows = state[f"{layer}.attention.{norm[0]}.weight"].shape[0]
        given = state[key].reshape(-1, state[key].shape[-1])
        state[key] = given.repeat_interleave(rows // given.shape[-1] // len(given), dim=0)
    head = state.pop("head.weight", None)
    if head is not None:
        codes = code_count({}, len(head)) if codes is None else codes
        blocks = head.split(head_blocks(len(head), codes) or (len(head),))
        state |= {f"head.{i}.weight": block for i, block in enumerate(blocks)}
    return state


def publish(state: Mapping[str, Tensor], params: DecoderParams) -> dict[str, Tensor]:
    """Hugging Face's layout."""
    theirs = {ours: name for name, ours in _HF.items()}
    tensors = {}
    for key, tensor in state.items():
        if key.startswith("head."):
            continue
        layer, rest = re.fullmatch(r"((?:layers\.\d+\.)?)(.*)", key).groups()
        stem, _, kind = rest.rpartition(".")
        tensors[f"model.{layer}{theirs[stem]}.{kind}"] = tensor
    blocks = [state[f"head.{i}.weight"] for i in range(len(params.blocks))]
    tensors["lm_head.weight"] = torch.cat(blocks)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def system_of(
    match: Match, checkpoint: Checkpoint, folders: Sequence[Path] = ()
) -> ChameleonSystem:
    """Lumina-mGPT for its files, else Chameleon, which ANOLE's files are to every appearance.

    Raises:
        TokenizerError: the text tokenizer is missing, or another model's.
    """
    path, params = checkpoint.path, match.params
    tokenizer = load_text_tokenizer(find_text_tokenizer(path, folders, JSON_NAMES))
    common = (params.vocab, tokenizer, checkpoint.config, path.name)
    if is_lumina(checkpoint):
        system = LuminaSystem("Lumina-mGPT", *common, target=target_of(path))
    else:
        system = ChameleonSystem("Chameleon", *common)
    v = system.vocabulary
    if len(tokenizer) > params.vocab or params.blocks[:2] != (v.first_code, v.codes):
        raise TokenizerError(
            f"{tokenizer.path} has {len(tokenizer)} tokens with {v.codes} image codes, "
            f"{path.name} has {params.vocab} ids. Put the tokenizer of this model beside it."
        )
    return system


ARCHITECTURES = (
    Architecture(
        name="Chameleon transformer",
        kind="next-token model",
        recognise=recognise_hf,
        module=Decoder,
        convert=convert_hf,
        publish=publish,
        system=system_of,
        licence=LICENCE,
        origin="https://huggingface.co/facebook/chameleon-7b, GAIR/Anole-7b-v0.1, "
        "Alpha-VLLM/Lumina-mGPT-7B-768",
        ignored={
            f"{HF_PREFIX}encoder.*": "the image tokenizer, loaded by Load Image Tokenizer",
            f"{HF_PREFIX}decoder.*": "the image tokenizer's",
            f"{HF_PREFIX}quant_conv.*": "the image tokenizer's",
            f"{HF_PREFIX}post_quant_conv.*": "the image tokenizer's",
        },
    ),
    Architecture(
        name="Chameleon transformer (original layout)",
        kind="next-token model",
        recognise=recognise_original,
        module=Decoder,
        convert=convert_original,
        publish=publish,
        system=system_of,
        licence=LICENCE,
        origin="https://huggingface.co/GAIR/Anole-7b-v0.1, eastwind/meta-chameleon-30b",
        ignored={"*rope.freqs": "rotary frequencies, implied by the head size"},
    ),
)
