"""The MAGVIT-v2 tokenizer of Show-o: one map of codes, each code the signs of its features.

Look-up-free quantisation (Yu et al. 2024, arXiv 2310.05737): feature k of a code says its bit k,
the first the most significant, so that the codebook is the corners of a cube, not a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image_tokens import ImageTokens
from .autoencoder import Downsample, Middle, ResidualBlock, Upsample
from .image_tokenizer import ImageTokenizer, to_picture


@dataclass(frozen=True)
class LevelParams:
    width: int
    blocks: int


@dataclass(frozen=True)
class LookupFreeParams:
    """Sizes. Unlike in the "vq" family, encoder and decoder differ in widths and blocks.

    Attributes:
        bits: features of a code; the vocabulary is 2 ** bits.
        channels: width of the encoder's first convolution.
        encoder, decoder: levels, fine to coarse.
    """

    bits: int
    channels: int
    encoder: tuple[LevelParams, ...]
    decoder: tuple[LevelParams, ...]
    norm_groups: int = 32

    @property
    def vocab(self) -> int:
        return 2**self.bits

    @property
    def stride(self) -> int:
        return 2 ** (len(self.encoder) - 1)


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next, if any."""

    def __init__(self, width_in: int, params: LevelParams, groups: int, operations: Any, **kw):
        super().__init__()
        widths = [width_in] + [params.width] * (params.blocks - 1)
        self.block = nn.ModuleList(
            ResidualBlock(width, params.width, groups, operations, **kw)
            for width in widths[: params.blocks]
        )
        self.resample = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.resample is None else self.resample(x)


class Encoder(nn.Module):
    """Picture [B, 3, H, W] in -1..1 to features [B, bits, h, w], whose signs are the codes."""

    def __init__(self, params: LookupFreeParams, operations: Any, **kw):
        super().__init__()
        groups, width = params.norm_groups, params.channels
        self.conv_in = operations.Conv2d(3, width, 3, padding=1, **kw)
        self.down = nn.ModuleList()
        for i, level in enumerate(params.encoder):
            stage = Level(width, level, groups, operations, **kw)
            width = level.width
            if i + 1 < len(params.encoder):
                stage.resample = Downsample(operations.Conv2d(width, width, 3, stride=2, **kw))
            self.down.append(stage)
        self.mid = Middle(width, groups, operations=operations, **kw)
        self.norm_out = operations.GroupNorm(groups, width, eps=1e-6, **kw)
        self.conv_out = operations.Conv2d(width, params.bits, 3, padding=1, **kw)
        self.quant_conv = operations.Conv2d(params.bits, params.bits, 1, **kw)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image.contiguous(memory_format=torch.channels_last))
        for stage in self.down:
            x = stage(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class Decoder(nn.Module):
    """Codes as signs [B, bits, h, w] to picture [B, 3, h*stride, w*stride], about -1..1."""

    def __init__(self, params: LookupFreeParams, operations: Any, **kw):
        super().__init__()
        groups, width = params.norm_groups, params.decoder[-1].width
        self.post_quant_conv = operations.Conv2d(params.bits, params.bits, 1, **kw)
        self.conv_in = operations.Conv2d(params.bits, width, 3, padding=1, **kw)
        self.mid = Middle(width, groups, operations=operations, **kw)
        stages = []
        for i, level in reversed(list(enumerate(params.decoder))):
            stage = Level(width, level, groups, operations, **kw)
            width = level.width
            if i:
                stage.resample = Upsample(operations.Conv2d(width, width, 3, padding=1, **kw))
            stages.append(stage)
        self.up = nn.ModuleList(reversed(stages))  # files number levels from the finest
        self.norm_out = operations.GroupNorm(groups, width, eps=1e-6, **kw)
        self.conv_out = operations.Conv2d(width, 3, 3, padding=1, **kw)

    def forward(self, signs: Tensor) -> Tensor:
        x = self.post_quant_conv(signs.contiguous(memory_format=torch.channels_last))
        x = self.mid(self.conv_in(x))
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def bits_to_ids(bits_BKhw: Tensor) -> Tensor:
    """int64 [B, h, w] of booleans [B, K, h, w], the first channel most significant."""
    powers = 2 ** torch.arange(bits_BKhw.shape[1] - 1, -1, -1, device=bits_BKhw.device)
    return torch.einsum("bkhw,k->bhw", bits_BKhw.long(), powers)


def ids_to_signs(ids_Bhw: Tensor, bits: int) -> Tensor:
    """fp32 [B, bits, h, w] of -1 and 1."""
    shifts = torch.arange(bits - 1, -1, -1, device=ids_Bhw.device).view(1, -1, 1, 1)
    return ((ids_Bhw[:, None] >> shifts) & 1).float() * 2 - 1


def lookup_free_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Name of a codebook. Its table is the same for all, so the layer that reads the codes says
    what they mean; rounded, so that a file and its bf16 conversion agree."""
    weight = state["decoder.conv_in.weight"]
    rounded = weight.detach().cpu().bfloat16().contiguous().view(torch.int16)
    digest = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()[:12]
    return f"look-up-free {2 ** weight.shape[1]} {digest}"


class LookupFreeTokenizer(ImageTokenizer):
    """Convolutional autoencoder whose codes are signs.

    Latents are fp32 maps [B, bits, h, w] of -1 and 1; pictures are [B, H, W, 3] in 0..1.
    """

    def __init__(
        self,
        params: LookupFreeParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.encoder = Encoder(params, operations, dtype=dtype, device=device)
        self.decoder = Decoder(params, operations, dtype=dtype, device=device)

    @property
    def stride(self) -> int:
        return self.params.stride

    @property
    def latent_channels(self) -> int:
        return self.params.bits

    @property
    def width(self) -> int:
        return self.params.channels

    def encode_features(self, image_BHWC: Tensor) -> Tensor:
        """Features before their signs are taken, fp32 [B, bits, h, w], of [B, H, W, 3] in 0..1.

        Raises:
            ValueError: a side is no multiple of the stride.
        """
        return self.encoder(self.encoder_input(image_BHWC)).float()

    def encode(self, image_BHWC: Tensor) -> ImageTokens:
        """Tokens of pictures [B, H, W, 3] in 0..1: one map of codes."""
        ids = bits_to_ids(self.encode_features(image_BHWC) > 0)
        return ImageTokens((ids.cpu(),), self.fingerprint)

    def code_map(self, image_BHWC: Tensor) -> Tensor:
        """The code map [B, bits, h, w] of pictures, as the stock VAE's latent."""
        return (self.encode_features(image_BHWC) > 0).float() * 2 - 1

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The code map [B, bits, h, w] that the tokens stand for.

        Raises:
            ValueError: tokens of another codebook, or ids outside it.
        """
        tokens.check_codebook(self.fingerprint)
        if tokens.features is not None:
            return tokens.features.to(device)
        ids = tokens.ids[-1]
        self.check_ids([ids])
        return ids_to_signs(ids.to(device), self.params.bits)

    def decode_features(self, signs_BKhw: Tensor) -> Tensor:
        """Picture [B, H, W, 3] in 0..1, fp32, of a code map [B, bits, h, w]."""
        image = self.decoder(signs_BKhw.to(self.compute_dtype))
        return to_picture(image)

    def preview(self, codes_Bhw: Tensor) -> Tensor:
        """The first picture of codes of which some are not known yet (below 0)."""
        signs = ids_to_signs(codes_Bhw[:1].clamp(min=0), self.params.bits)
        return self.decode_partial(signs * (codes_Bhw[:1] >= 0)[:, None])

    def decode_partial(self, signs_BKhw: Tensor, side: int = 16) -> Tensor:
        """Preview of an unfinished code map, of which unknown codes are all zeros: the first
        picture, at most ``side`` codes wide."""
        signs = signs_BKhw[:1]
        longest = max(signs.shape[-2:])
        if longest > side:
            size = tuple(max(1, length * side // longest) for length in signs.shape[-2:])
            signs = F.interpolate(signs, size=size, mode="nearest-exact")
        return self.decode_features(signs)
