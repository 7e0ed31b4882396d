"""Transfusion (Zhou et al. 2024, arXiv 2408.11039): text by next token, pictures by diffusion.

Experimental: the authors published no code and no weights. Loadable are models in the layout of
lucidrains/transfusion-pytorch 0.19 and, in a layout of this pack, the paper's procedure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint
from ..models.flow_transformer import FlowTransformer, FlowTransformerParams
from ..models.latent_patches import PatchLayerParams
from ..models.paper_transfusion import PaperTransfusion, PaperTransfusionParams
from . import llama
from .var import count_of

ORIGIN = "none; https://github.com/lucidrains/transfusion-pytorch trains such models"
PAPER_EPS = 1e-5  # not in the paper; LLaMA's
LICENCE = "that of the model's author; the reference code is MIT"


def recognise_flow(checkpoint: Checkpoint) -> FlowTransformerParams | None:
    """Sizes of a lucidrains file. The config may name ``modality_default_shape``,
    ``modality_num_dim`` and ``patch_stride``, which no tensor shows."""
    shapes = checkpoint.shapes
    if "transformer.to_time_cond.0.weights" not in shapes or "text_embed.weight" not in shapes:
        return None
    vocab, width = shapes["text_embed.weight"]
    first = "transformer.layers.0"
    kinds = count_of(shapes, r"model_to_latent_projs\.(\d+)\.")
    return FlowTransformerParams(
        depth=count_of(shapes, r"transformer\.layers\.(\d+)\."),
        width=width,
        heads=shapes[f"{first}.1.fn.to_gates.0.weight"][0],
        head_size=shapes[f"{first}.1.fn.q_norm.gamma"][0],
        mlp_width=shapes[f"{first}.2.fn.net.3.weight"][1],
        text_vocab=vocab - 3 - 2 * kinds - 129,
        kinds=tuple(_kind(shapes, checkpoint.config, kind, kinds) for kind in range(kinds)),
        skips=any(re.fullmatch(r"transformer\.layers\.\d+\.0\.weight", key) for key in shapes),
        value_residual=any(".to_learned_value_residual." in key for key in shapes),
    )


def _kind(shapes: Shapes, config: Mapping[str, Any], kind: int, kinds: int) -> PatchLayerParams:
    into, out = f"latent_to_model_projs.{kind}.", f"model_to_latent_projs.{kind}."
    shape = _of_kind(config.get("modality_default_shape"), kind, nested=True)
    axial = [k for k in shapes if re.fullmatch(rf"pos_emb_mlp\.{kind}\.mlps\.\d+\.0\.weight", k)]
    axes = len(axial) or _of_kind(config.get("modality_num_dim"), kind) or len(shape or "hw")
    common = {"axes": axes, "axial": bool(axial), "shape": shape}
    if f"{out}1.weight" in shapes:
        _, channels, kernel, _ = shapes[f"{out}1.weight"]
        stride = config.get("patch_stride", 2)
        conv = {"kernel": kernel, "stride": stride, "channels_first": True}
        return PatchLayerParams(channels, "conv", **common, **conv)
    first = f"{out}0.weight" in shapes
    channels = shapes[f"{out}0.weight" if first else f"{out}weight"][0]
    linear = any(key.startswith(into) for key in shapes)
    return PatchLayerParams(
        channels, "linear" if linear else "identity", **common, channels_first=first
    )


def _of_kind(value: Any, kind: int, nested: bool = False) -> Any:
    """A setting of one kind of latents: given for all, or in a list of one per kind."""
    if isinstance(value, Sequence) and not (nested and all(isinstance(v, int) for v in value)):
        value = value[kind]
    return tuple(value) if isinstance(value, Sequence) else value


# Patterns of file names and what our module calls them, in the order they are tried.
_NAMES = (
    (r"transformer\.layers\.(\d+)\.0\.weight", r"layers.\1.skip.weight"),
    (r"transformer\.layers\.(\d+)\.1\.fn\.to_qk\.0\.", r"layers.\1.attention.inner.qk."),
    (r"transformer\.layers\.(\d+)\.1\.fn\.to_v\.0\.", r"layers.\1.attention.inner.v."),
    (r"transformer\.layers\.(\d+)\.1\.fn\.to_gates\.0\.", r"layers.\1.attention.inner.gates."),
    (r"transformer\.layers\.(\d+)\.1\.fn\.to_out\.1\.", r"layers.\1.attention.inner.out."),
    (
        r"transformer\.layers\.(\d+)\.1\.fn\.to_learned_value_residual\.0\.",
        r"layers.\1.attention.inner.value_mix.",
    ),
    (r"transformer\.layers\.(\d+)\.1\.fn\.", r"layers.\1.attention.inner."),
    (r"transformer\.layers\.(\d+)\.2\.fn\.net\.0\.", r"layers.\1.mlp.inner.up."),
    (r"transformer\.layers\.(\d+)\.2\.fn\.net\.3\.", r"layers.\1.mlp.inner.down."),
    (r"transformer\.layers\.(\d+)\.1\.", r"layers.\1.attention."),
    (r"transformer\.layers\.(\d+)\.2\.", r"layers.\1.mlp."),
    (r"transformer\.layers\.(\d+)\.3\.pseudo_queries", r"layers.\1.mix.query"),
    (r"transformer\.layers\.(\d+)\.3\.norm_keys\.", r"layers.\1.mix.norm."),
    (r"transformer\.to_time_cond\.0\.weights", "time_frequencies"),
    (r"transformer\.to_time_cond\.1\.", "time_proj."),
    (r"transformer\.norm\.", "norm."),
    (r"rotary_emb\.freqs", "rotary_frequencies"),
    (r"to_text_logits\.", "text_head."),
    (r"latent_to_model_projs\.(\d+)\.(?:\d\.)?", r"patch_in.\1."),
    (r"model_to_latent_projs\.(\d+)\.(?:\d\.)?", r"patch_out.\1."),
    (r"pos_emb_mlp\.(\d+)\.", r"axial.\1."),
)
_BRANCH = (
    ("layernorm_gamma", "gamma"),
    ("layerscale", "scale"),
    ("to_film.", "film."),
    ("to_ada_ln_zero.", "gate."),
)


def convert_flow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames only."""
    return {_our_name(key): tensor for key, tensor in tensors.items()}


def _our_name(key: str) -> str:
    for pattern, ours in _NAMES:
        if (match := re.match(pattern, key)) is not None:
            key = match.expand(ours) + key[match.end() :]
            break
    for theirs, ours in _BRANCH:
        key = key.replace(theirs, ours)
    return key


def publish_flow(state: Mapping[str, Tensor], params: FlowTransformerParams) -> dict[str, Tensor]:
    """The lucidrains layout of a module trained here."""
    return {_their_name(key, params): tensor.contiguous() for key, tensor in state.items()}


_INNER = {
    "qk.": "to_qk.0.",
    "v.": "to_v.0.",
    "gates.": "to_gates.0.",
    "out.": "to_out.1.",
    "value_mix.": "to_learned_value_residual.0.",
    "up.": "net.0.",
    "down.": "net.3.",
}
_PLAIN = {
    "time_frequencies": "transformer.to_time_cond.0.weights",
    "time_proj.": "transformer.to_time_cond.1.",
    "norm.": "transformer.norm.",
    "rotary_frequencies": "rotary_emb.freqs",
    "text_head.": "to_text_logits.",
    "axial.": "pos_emb_mlp.",
}


def _their_name(key: str, params: FlowTransformerParams) -> str:
    if (match := re.match(r"layers\.(\d+)\.(attention|mlp)\.(inner\.)?(.*)", key)) is not None:
        layer, branch, inner, rest = match.groups()
        for ours, theirs in _INNER.items() if inner else [(o, t) for t, o in _BRANCH]:
            if rest.startswith(ours):
                rest = theirs + rest[len(ours) :]
                break
        part = {"attention": 1, "mlp": 2}[branch]
        return f"transformer.layers.{layer}.{part}.{'fn.' if inner else ''}{rest}"
    if (match := re.match(r"layers\.(\d+)\.(skip|mix)\.(.*)", key)) is not None:
        layer, part, rest = match.groups()
        rest = rest.replace("query", "pseudo_queries").replace("norm.", "norm_keys.")
        return f"transformer.layers.{layer}.{'0' if part == 'skip' else '3'}.{rest}"
    if (match := re.match(r"patch_(in|out)\.(\d+)\.(.*)", key)) is not None:
        way, kind, rest = match.groups()
        p = params.kinds[int(kind)]
        at = {("conv", "in"): "0.", ("conv", "out"): "1."}.get((p.kind, way))
        if at is None:
            at = {"in": "1.", "out": "0."}[way] if p.channels_first else ""
        stem = "latent_to_model_projs" if way == "in" else "model_to_latent_projs"
        return f"{stem}.{kind}.{at}{rest}"
    for ours, theirs in _PLAIN.items():
        if key.startswith(ours):
            return theirs + key[len(ours) :]
    return key


def recognise_paper(checkpoint: Checkpoint) -> PaperTransfusionParams | None:
    """Sizes of a model in this pack's own layout of the paper's procedure: a LLaMA with patch
    layers. Its config says patch size, heads and the ids of [BOS] [BOI] [EOI]."""
    shapes, config = checkpoint.shapes, checkpoint.config
    unet = "patch_net.conv_in.weight" in shapes
    if "time_embed.0.weight" not in shapes or not (unet or "patch_in.weight" in shapes):
        return None
    trunk = llama.recognise(checkpoint)
    if trunk is None:
        return None
    heads = config.get("num_attention_heads", max(1, trunk.width // 64))
    head_size = trunk.width // heads
    eps = config.get("rms_norm_eps", PAPER_EPS)
    trunk = replace(trunk, heads=heads, kv_heads=heads, head_size=head_size, norm_eps=eps)
    width, time_width = shapes["time_embed.0.weight"]
    widths = unet_widths(shapes) if unet else ()
    patch = 2 ** (len(widths) - 1) if unet else config.get("patch_size", 2)
    channels = shapes["patch_net.conv_in.weight"][1] if unet else width // patch**2
    return PaperTransfusionParams(
        trunk,
        channels=channels,
        patch=patch,
        time_width=time_width,
        bos=config.get("bos_id", trunk.vocab - 3),
        boi=config.get("boi_id", trunk.vocab - 2),
        eoi=config.get("eoi_id", trunk.vocab - 1),
        side=config.get("latent_side", 32),
        unet=widths,
    )


def unet_widths(shapes: Shapes) -> tuple[int, ...]:
    """Widths of the U-Net patch layers, fine to coarse."""
    levels = count_of(shapes, r"patch_net\.shrink\.(\d+)\.")
    coarser = [shapes[f"patch_net.shrink.{i}.conv.weight"][0] for i in range(levels)]
    return (shapes["patch_net.conv_in.weight"][0], *coarser)


_PAPER_NAMES = {
    "time_embed.0.": "time_embed.up.",
    "time_embed.2.": "time_embed.out.",
}


def convert_paper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames: the trunk as LLaMA's."""
    trunk = {k: v for k, v in tensors.items() if k.startswith(("model.", "lm_head."))}
    state = {f"decoder.{key}": tensor for key, tensor in llama.convert(trunk).items()}
    rest = {k: v for k, v in tensors.items() if k not in trunk}
    return state | {llama.renamed(key, _PAPER_NAMES): tensor for key, tensor in rest.items()}


def publish_paper(state: Mapping[str, Tensor], params: PaperTransfusionParams) -> dict[str, Tensor]:
    trunk = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    tensors = llama.publish(trunk, params.decoder)
    back = {ours: file for file, ours in _PAPER_NAMES.items()}
    rest = {k: v for k, v in state.items() if not k.startswith("decoder.")}
    return tensors | {llama.renamed(k, back): v.contiguous() for k, v in rest.items()}


ARCHITECTURES = (
    Architecture(
        name="Transfusion transformer (lucidrains layout, experimental)",
        kind="masked or flow model",
        recognise=recognise_flow,
        module=FlowTransformer,
        convert=convert_flow,
        publish=publish_flow,
        licence=LICENCE,
        origin=ORIGIN,
    ),
    Architecture(
        name="Transfusion transformer (the paper's procedure, experimental)",
        kind="masked or flow model",
        recognise=recognise_paper,
        module=PaperTransfusion,
        convert=convert_paper,
        publish=publish_paper,
        licence=LICENCE,
        origin="none; the layout is this pack's own",
        ignored={"*.rotary_emb.inv_freq": "rotary frequencies, implied by the sizes"},
    ),
)
