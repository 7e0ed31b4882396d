"""The multi-scale VQ tokenizer of VAR and STAR: a picture as a pyramid of code maps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..image_tokens import ImageTokens
from .autoencoder import AutoencoderParams, Decoder, Encoder
from .image_tokenizer import ImageTokenizer, to_picture
from .resample import area_resample
from .residual_quantizer import ResidualQuantizer

# Sides of the published schedules by finest grid (VAR 256 and 512 px, STAR 1024 px).
PUBLISHED_SCALES = {
    16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    64: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}


@dataclass(frozen=True)
class MultiScaleVQParams:
    autoencoder: AutoencoderParams
    vocab: int
    phi_count: int = 4
    phi_ratio: float = 0.5
    cosine: bool = False  # nearest code by cosine; no public file uses it
    scales: tuple[int, ...] = PUBLISHED_SCALES[16]


def codebook_fingerprint(codebook_VC: Tensor) -> str:
    """Name of a codebook, the same for an fp32 file and its bf16 conversion."""
    rounded = codebook_VC.detach().cpu().bfloat16().contiguous().view(torch.int16)
    digest = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()[:12]
    return f"multiscale-vq {codebook_VC.shape[0]}x{codebook_VC.shape[1]} {digest}"


def proportional_sizes(scales: Sequence[int], grid: tuple[int, int]) -> list[tuple[int, int]]:
    """A square scale list stretched to a grid (h, w); the list itself for its own grid.

    VAE nodes take pictures and tiles of any shape, for which no list is published.
    """
    last = scales[-1]
    sizes = [tuple(max(1, round(side * length / last)) for length in grid) for side in scales[:-1]]
    return [*sizes, tuple(grid)]


class MultiScaleVQ(ImageTokenizer):
    """Convolutional autoencoder with a multi-scale residual quantiser in between.

    Latents are fp32 code maps f_hat [B, C, h, w]; pictures are [B, H, W, 3] in 0..1.
    """

    def __init__(
        self,
        params: MultiScaleVQParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        channels = params.autoencoder.latent_channels
        kw = {"dtype": dtype, "device": device}
        self.encoder = Encoder(params.autoencoder, operations, **kw)
        self.decoder = Decoder(params.autoencoder, operations, **kw)
        self.quant_conv = operations.Conv2d(channels, channels, 3, padding=1, **kw)
        self.post_quant_conv = operations.Conv2d(channels, channels, 3, padding=1, **kw)
        self.quantize = ResidualQuantizer(
            params.vocab,
            channels,
            params.phi_count,
            params.phi_ratio,
            params.cosine,
            device,
            operations,
        )

    @property
    def stride(self) -> int:
        return self.params.autoencoder.stride

    @property
    def latent_channels(self) -> int:
        return self.params.autoencoder.latent_channels

    @property
    def width(self) -> int:
        return self.params.autoencoder.channels

    def sizes_for(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """The scale list for a latent grid: the file's own, or the published one of that side."""
        own = {self.params.scales[-1]: self.params.scales}
        sides = {**PUBLISHED_SCALES, **own}.get(grid[0]) if grid[0] == grid[1] else None
        if sides is None:
            known = ", ".join(f"{s * self.stride}" for s in sorted({**PUBLISHED_SCALES, **own}))
            raise ValueError(
                f"No scale list is known for a picture of {grid[1] * self.stride} x "
                f"{grid[0] * self.stride} pixels. Resize it to a square of side {known}, "
                f"or give the scale list of the model that will read the tokens."
            )
        return [(side, side) for side in sides]

    def encode_features(self, image_BHWC: Tensor) -> Tensor:
        """Encoder output f [B, C, h, w], fp32, of a picture [B, H, W, 3] in 0..1.

        Raises:
            ValueError: a side is no multiple of the stride.
        """
        return self.quant_conv(self.encoder(self.encoder_input(image_BHWC))).float()

    def encode(self, image_BHWC: Tensor, scales: Sequence[int] | None = None) -> ImageTokens:
        """Tokens of pictures [B, H, W, 3] in 0..1.

        Args:
            scales: sides of the code maps, coarse to fine, ending with the latent side;
                by default the tokenizer's own or the published list for this size.
        """
        f = self.encode_features(image_BHWC)
        sizes = [(s, s) for s in scales] if scales else self.sizes_for(tuple(f.shape[-2:]))
        ids, _ = self.quantize.encode(f, sizes)
        return ImageTokens(tuple(i.cpu() for i in ids), self.fingerprint)

    def code_map(self, image_BHWC: Tensor) -> Tensor:
        """Code map f_hat of a picture's tokens, in every size the encoder can take."""
        f = self.encode_features(image_BHWC)
        sizes = proportional_sizes(self.params.scales, tuple(f.shape[-2:]))
        return self.quantize.encode(f, sizes)[1]

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The code map f_hat [B, C, h, w] that the tokens stand for.

        Raises:
            ValueError: tokens of another codebook, or ids outside it.
        """
        tokens.check_codebook(self.fingerprint)
        if tokens.features is not None:
            return tokens.features.to(device)
        self.check_ids(tokens.ids)
        return self.quantize.partial_sums([ids.to(device) for ids in tokens.ids])[-1]

    def decode_features(self, f_hat_BChw: Tensor) -> Tensor:
        """Picture [B, H, W, 3] in 0..1, fp32, of a code map [B, C, h, w]."""
        image = self.decoder(self.post_quant_conv(f_hat_BChw.to(self.compute_dtype)))
        return to_picture(image)

    def decode_partial(self, f_hat_BChw: Tensor, side: int = 16) -> Tensor:
        """Preview of an unfinished code map: the first picture, at most ``side`` codes wide."""
        f_hat = f_hat_BChw[:1]
        if max(f_hat.shape[-2:]) > side:
            f_hat = area_resample(f_hat, (side, side))
        return self.decode_features(f_hat)
