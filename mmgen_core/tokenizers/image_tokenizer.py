"""What every image tokenizer here offers; the loader, the nodes and the stock VAE need no more."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..image_tokens import ImageTokens


class ImageTokenizer(Protocol):
    """Pictures [B, H, W, 3] in 0..1 to tokens and back, by way of code maps [B, C, h, w], fp32.

    Attributes:
        fingerprint: names the codebook; tokens carry it.
        stride: pixels per code.
        latent_channels: C.
        width: channels of the autoencoder's finest level, for memory estimates.
    """

    params: Any
    compute_dtype: torch.dtype
    fingerprint: str

    @property
    def stride(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def width(self) -> int: ...

    def encode(self, image_BHWC: Tensor) -> ImageTokens:
        """Tokens of pictures."""

    def code_map(self, image_BHWC: Tensor) -> Tensor:
        """The code map of a picture's tokens."""

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The code map that tokens stand for."""

    def decode_features(self, codes_BChw: Tensor) -> Tensor:
        """Pictures of a code map."""

    def decode(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """Pictures of tokens."""
