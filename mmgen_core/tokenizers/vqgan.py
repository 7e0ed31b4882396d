"""The VQGAN tokenizer (Esser et al. 2021): a picture as one map of codes.

Chameleon, ANOLE and Lumina-mGPT have it, Unified-IO 1 and 2 with other sizes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image_tokens import ImageTokens
from .autoencoder import AutoencoderParams, Decoder, Encoder
from .image_tokenizer import ImageTokenizer, to_picture

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class VQGANParams:
    autoencoder: AutoencoderParams
    vocab: int
    code_channels: int
    decoder: bool = True  # Meta's Hugging Face files have the encoder only


def vqgan_params(shapes: Shapes) -> VQGANParams | None:
    """Sizes of a VQGAN from the shapes of its published names; None if it is none."""
    needed = ("encoder.conv_in.weight", "quantize.embedding.weight", "quant_conv.weight")
    if any(key not in shapes for key in needed) or len(shapes["quant_conv.weight"]) != 4:
        return None
    if shapes["quant_conv.weight"][-1] != 1:
        return None
    base = shapes["encoder.conv_in.weight"][0]
    levels = 1 + _highest(shapes, r"encoder\.down\.(\d+)\.downsample\.") + 1
    blocks = 1 + _highest(shapes, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = [_width(shapes, level, base) for level in range(levels)]
    attention = [n for n in range(levels) if f"encoder.down.{n}.attn.0.norm.weight" in shapes]
    vocab, code_channels = shapes["quantize.embedding.weight"]
    autoencoder = AutoencoderParams(
        channels=base,
        multipliers=tuple(width // base for width in widths),
        blocks=blocks,
        latent_channels=shapes["encoder.conv_out.weight"][0],
        attention=tuple(attention),
    )
    return VQGANParams(autoencoder, vocab, code_channels, "decoder.conv_in.weight" in shapes)


def _highest(shapes: Shapes, pattern: str) -> int:
    return max((int(m[1]) for key in shapes if (m := re.match(pattern, key))), default=-1)


def _width(shapes: Shapes, level: int, base: int) -> int:
    for place in ("decoder.up", "encoder.down"):
        if (key := f"{place}.{level}.block.0.conv1.weight") in shapes:
            return shapes[key][0]
    return base  # an encoder without blocks keeps its width


def fuse_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The files' separate q, k, v convolutions as one ``qkv``."""
    state = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.*attn.*\.)([qkv])\.(weight|bias)", key)
        if found is None:
            state[key] = tensor
        elif found[2] == "q":
            parts = [tensors.get(f"{found[1]}{part}.{found[3]}") for part in "qkv"]
            if all(part is not None for part in parts):
                state[f"{found[1]}qkv.{found[3]}"] = torch.cat(parts)
    return state


def split_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back of ``fuse_attention``."""
    tensors = {}
    for key, tensor in state.items():
        stem, dot, kind = key.rpartition(".qkv.")
        parts = zip("qkv", tensor.chunk(3), strict=True) if dot else ()
        tensors |= {f"{stem}.{part}.{kind}": piece.contiguous() for part, piece in parts}
        if not dot:
            tensors[key] = tensor
    return tensors


def codebook_fingerprint(codebook_VC: Tensor) -> str:
    """Name of a codebook, the same for an fp32 file and its bf16 conversion."""
    rounded = codebook_VC.detach().cpu().bfloat16().contiguous().view(torch.int16)
    digest = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()[:12]
    return f"vqgan {codebook_VC.shape[0]}x{codebook_VC.shape[1]} {digest}"


class Codebook(nn.Module):
    """Code vectors [V, C]; all arithmetic fp32 whatever the rest runs in."""

    def __init__(self, vocab: int, channels: int, device: Any, operations: Any):
        super().__init__()
        self.vocab, self.channels = vocab, channels
        self.embedding = operations.Embedding(vocab, channels, device=device, dtype=torch.float32)

    def vectors(self, device: torch.device) -> Tensor:
        """All of them. Looked up, not read: the host may stream the weight."""
        return self.embedding(torch.arange(self.vocab, device=device)).float()

    def nearest(self, z_BChw: Tensor) -> Tensor:
        """Ids [B, h, w] of the nearest codes; of equal ones the first."""
        B, C, h, w = z_BChw.shape
        z = z_BChw.float().permute(0, 2, 3, 1).reshape(-1, C)
        codes = self.vectors(z.device)
        distance = z.square().sum(1, keepdim=True) + codes.square().sum(1)
        return distance.addmm_(z, codes.T, alpha=-2).argmin(dim=1).view(B, h, w)

    def lookup(self, ids_Bhw: Tensor) -> Tensor:
        """Code vectors of ids as a map [B, C, h, w]."""
        return self.embedding(ids_Bhw).float().permute(0, 3, 1, 2).contiguous()


class VQGAN(ImageTokenizer):
    """Convolutional autoencoder with one map of codes in between; any size that is a multiple
    of the stride. Latents are fp32 code maps [B, C, h, w]; pictures are [B, H, W, 3] in 0..1.
    """

    def __init__(
        self,
        params: VQGANParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        latent, codes = params.autoencoder.latent_channels, params.code_channels
        kw = {"dtype": dtype, "device": device}
        self.encoder = Encoder(params.autoencoder, operations, **kw)
        self.decoder = Decoder(params.autoencoder, operations, **kw) if params.decoder else None
        self.quant_conv = operations.Conv2d(latent, codes, 1, **kw)
        self.post_quant_conv = operations.Conv2d(codes, latent, 1, **kw)
        self.quantize = Codebook(params.vocab, codes, device, operations)

    @property
    def stride(self) -> int:
        return self.params.autoencoder.stride

    @property
    def latent_channels(self) -> int:
        return self.params.code_channels

    @property
    def width(self) -> int:
        return self.params.autoencoder.channels

    def encode_features(self, image_BHWC: Tensor) -> Tensor:
        """Encoder output [B, C, h, w], fp32, of a picture [B, H, W, 3] in 0..1.

        Raises:
            ValueError: a side is no multiple of the stride.
        """
        return self.quant_conv(self.encoder(self.encoder_input(image_BHWC))).float()

    def encode(self, image_BHWC: Tensor) -> ImageTokens:
        """Tokens of pictures [B, H, W, 3] in 0..1."""
        ids = self.quantize.nearest(self.encode_features(image_BHWC))
        return ImageTokens((ids.cpu(),), self.fingerprint)

    def code_map(self, image_BHWC: Tensor) -> Tensor:
        """The code map of a picture's tokens."""
        return self.quantize.lookup(self.quantize.nearest(self.encode_features(image_BHWC)))

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The code map [B, C, h, w] that the tokens stand for.

        Raises:
            ValueError: tokens of another codebook, or ids outside it.
        """
        tokens.check_codebook(self.fingerprint)
        ids = tokens.ids[-1]
        self.check_ids([ids])
        return self.quantize.lookup(ids.to(device))

    def decode_features(self, codes_BChw: Tensor) -> Tensor:
        """Picture [B, H, W, 3] in 0..1, fp32, of a code map [B, C, h, w].

        Raises:
            ValueError: the file has no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "This tokenizer file holds the encoder only (as Meta's Hugging Face files of "
                "Chameleon do), so it cannot make pictures. Load vqgan.ckpt or another file "
                "with the decoder; the tokens stay valid."
            )
        image = self.decoder(self.post_quant_conv(codes_BChw.to(self.compute_dtype)))
        return to_picture(image)

    def decode_partial(self, ids_hw: Tensor, done: int) -> Tensor:
        """Preview [1, H, W, 3] of a picture of which the first ``done`` codes of the map
        [h, w] are drawn: its finished rows, and grey below."""
        h, w = ids_hw.shape
        rows = max(1, done // w)
        codes = ids_hw[:rows].clamp(0, self.params.vocab - 1)
        image = self.decode_features(self.quantize.lookup(codes[None]))
        return F.pad(image, (0, 0, 0, 0, 0, (h - rows) * self.stride), value=0.5)
