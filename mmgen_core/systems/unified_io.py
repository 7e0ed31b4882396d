"""Unified-IO (Lu et al. 2022, arXiv 2206.08916): one vocabulary of texts, places, image codes.

Public files: bucket ai2-prior-uio, public/model-weights-bin/{small,base,large,xl}_1000k.bin, which
are JAX archives (msgpack); code Apache-2.0, the weights name no licence. A file holds the
transformer and the image tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint, CheckpointError
from ..models.encoder_decoder import StackParams
from ..models.unified_io import UnifiedIO, UnifiedIOParams
from .unified_io_system import unified_io_system
from .var import count_of

ORIGIN = "https://ai2-prior-uio.s3.us-west-2.amazonaws.com/public/model-weights-bin/base_1000k.bin"
LICENCE = "not stated for the weights; code Apache-2.0"
VQGAN = "discrete_vae/"
CODEBOOK = f"{VQGAN}quantize/embedding"
TOKENIZER_REASON = "the image tokenizer's, which Load Image Tokenizer takes from the same file"
TOKENIZER_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
TEXT_PLACES = 256  # published, in the prompt and in the answer


def recognise(checkpoint: Checkpoint) -> UnifiedIOParams | None:
    """Sizes of a Unified-IO file; where text places end and patches begin, by config or as
    published."""
    shapes, config = checkpoint.shapes, checkpoint.config
    if "encoder/relpos_bias/image_rel_embedding" not in shapes:
        return None
    inner = config.get("transformer")
    config = inner if isinstance(inner, Mapping) else config
    vocab, width = shapes["token_embedder/embedding"]
    heads = shapes["encoder/relpos_bias/rel_embedding"][0]
    stack = StackParams(
        width=width,
        heads=heads,
        head_size=shapes["decoder/layers_0/self_attention/query/kernel"][1] // heads,
        mlp_width=shapes["decoder/layers_0/mlp/wi_0/kernel"][1],
        encoder_depth=count_of(shapes, r"encoder/layers_(\d+)/"),
        decoder_depth=count_of(shapes, r"decoder/layers_(\d+)/"),
        rotary=False,
        tanh_gelu=True,
    )
    codes = shapes[CODEBOOK][0]
    text = config.get("encoder_max_text_length", TEXT_PLACES)
    answer = config.get("decoder_max_text_length", TEXT_PLACES)
    return UnifiedIOParams(
        stack=stack,
        text_vocab=vocab - codes,
        image_vocab=codes,
        segments=shapes["encoder/segment_embedding/embedding"][0],
        patch=math.isqrt(shapes["encoder/image_projection/kernel"][0] // 3),
        grid=_grid(checkpoint, "encoder/position_embedding/embedding", text),
        text_limit=text,
        target_grid=_grid(checkpoint, "decoder/position_embedding/embedding", answer),
        answer_limit=answer,
        stride=2 ** (count_of(shapes, VQGAN + r"encoder/down_(\d+)_") - 1),
    )


def _grid(checkpoint: Checkpoint, key: str, text: int) -> tuple[int, int]:
    """The square of places that follow those of the text."""
    places = checkpoint.shapes[key][0] - text
    side = math.isqrt(max(places, 0))
    if side == 0 or side * side != places:
        raise CheckpointError(
            f"{checkpoint.path.name}: {key} has {places + text} places, {text} of them for text; "
            f"the other {places} are no square. A config.json beside the file can say how many "
            f"are for text (encoder_max_text_length, decoder_max_text_length)."
        )
    return side, side


_WHOLE = {
    "token_embedder/embedding": "embed.weight",
    "encoder/image_projection/kernel": "patch.weight",
    "encoder/txt_emb_pre_ln/scale": "text_norm.weight",
    "encoder/img_emb_pre_ln/scale": "image_norm.weight",
    "decoder/pre_ln/scale": "target_norm.weight",
    "encoder/segment_embedding/embedding": "segment.weight",
    "encoder/position_embedding/embedding": "position.weight",
    "decoder/segments_embedding/embedding": "target_segment.weight",
    "decoder/position_embedding/embedding": "target_position.weight",
    "encoder/pe_pre_ln/scale": "encoder_places.norm.weight",
    "encoder/position_q_linear/kernel": "encoder_places.q.weight",
    "encoder/position_k_linear/kernel": "encoder_places.k.weight",
    "decoder/pe_pre_ln/scale": "decoder_places.norm.weight",
    "decoder/self_position_q_linear/kernel": "decoder_places.q.weight",
    "decoder/self_position_k_linear/kernel": "decoder_places.k.weight",
    "encoder/relpos_bias/rel_embedding": "encoder_relative.text",
    "encoder/relpos_bias/image_rel_embedding": "encoder_relative.image",
    "decoder/relpos_bias/rel_embedding": "decoder_relative.text",
    "decoder/relpos_bias/image_rel_embedding": "decoder_relative.image",
    "encoder/encoder_norm/scale": "encoder.norm.weight",
    "decoder/decoder_norm/scale": "decoder.norm.weight",
}
_LAYER = {
    "pre_attention_layer_norm/scale": "attention_norm.weight",
    "pre_self_attention_layer_norm/scale": "attention_norm.weight",
    "pre_cross_attention_layer_norm/scale": "cross_norm.weight",
    "pre_mlp_layer_norm/scale": "mlp_norm.weight",
    "mlp/wi_0/kernel": "mlp.gate.weight",
    "mlp/wi_1/kernel": "mlp.up.weight",
    "mlp/wo/kernel": "mlp.down.weight",
}
_BLOCKS = {"attention": "attention", "self_attention": "attention"}
_BLOCKS["encoder_decoder_attention"] = "cross"
for _theirs, _ours in _BLOCKS.items():
    for _part, _letter in zip(("query", "key", "value", "out"), "qkvo", strict=True):
        _LAYER[f"{_theirs}/{_part}/kernel"] = f"{_ours}.{_letter}.weight"


def renamed(key: str) -> str:
    """Our name of a leaf; an unknown one keeps its own, and is refused on loading."""
    if key in _WHOLE:
        return _WHOLE[key]
    layer = re.fullmatch(r"(encoder|decoder)/layers_(\d+)/(.*)", key)
    if layer is None or layer[3] not in _LAYER:
        return key
    return f"{layer[1]}.layers.{layer[2]}.{_LAYER[layer[3]]}"


def is_transposed(key: str) -> bool:
    """Kernels are [in, out], the other way round than torch's."""
    return key.endswith("/kernel")


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames, transposed kernels, and the embedding table a second time, as output head; the
    image tokenizer's codebook says where in it the texts end."""
    state = {}
    for key, tensor in tensors.items():
        state[renamed(key)] = tensor.t().contiguous() if is_transposed(key) else tensor
    table, codebook = state.get("embed.weight"), state.pop(CODEBOOK, None)
    if table is not None and codebook is not None:
        sizes = (len(table) - len(codebook), len(codebook))
        state |= {f"head.{i}.weight": t for i, t in enumerate(table.split_with_sizes(sizes))}
    return state


def publish(state: Mapping[str, Tensor], params: UnifiedIOParams) -> dict[str, Tensor]:
    """The published layout (without the image tokenizer) of a model."""
    back = {ours: theirs for theirs, ours in _WHOLE.items()}
    layers = {"encoder": {}, "decoder": {}}
    for theirs, ours in _LAYER.items():
        for stack, other in (("encoder", "self_attention"), ("decoder", "pre_attention")):
            skipped = theirs.startswith(("attention/", other) if stack == "decoder" else other)
            if not (skipped or (stack == "encoder" and theirs.startswith("pre_self"))):
                layers[stack][ours] = theirs
    tensors = {}
    for key, tensor in state.items():
        if key.startswith("head."):
            continue
        theirs = back.get(key)
        if theirs is None:
            stack, _, number, rest = key.split(".", 3)
            theirs = f"{stack}/layers_{number}/{layers[stack][rest]}"
        tensors[theirs] = (tensor.t() if is_transposed(theirs) else tensor).contiguous()
    return tensors


ARCHITECTURES = (
    Architecture(
        name="Unified-IO",
        kind="next-token model",
        recognise=recognise,
        module=UnifiedIO,
        convert=convert,
        publish=publish,
        system=unified_io_system,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={
            **{f"{VQGAN}{part}/*": TOKENIZER_REASON for part in TOKENIZER_PARTS},
            "decoder/cross_position_*": "computed by the reference but never added to anything",
        },
    ),
)
