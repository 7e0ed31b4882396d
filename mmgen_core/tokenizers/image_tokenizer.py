"""What every image tokenizer here is; the loader, the nodes and the stock VAE need no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..image_tokens import ImageTokens


class ImageTokenizer(nn.Module, ABC):
    """Pictures [B, H, W, 3] in 0..1 to tokens and back, by way of code maps [B, C, h, w], fp32.

    Attributes:
        fingerprint: names the codebook; tokens carry it. Set by the loader, which sees the weights.
    """

    params: Any
    compute_dtype: torch.dtype
    fingerprint: str = ""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels per code."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """C of the code maps."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of the autoencoder's finest level, for memory estimates."""

    @abstractmethod
    def encode(self, image_BHWC: Tensor) -> ImageTokens:
        """Tokens of pictures."""

    @abstractmethod
    def code_map(self, image_BHWC: Tensor) -> Tensor:
        """The code map of a picture's tokens."""

    @abstractmethod
    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The code map that tokens stand for.

        Raises:
            ValueError: tokens of another codebook, or ids outside it.
        """

    @abstractmethod
    def decode_features(self, codes_BChw: Tensor) -> Tensor:
        """Pictures, fp32, of a code map."""

    def decode(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """Pictures of tokens."""
        return self.decode_features(self.features(tokens, device))

    def encoder_input(self, image_BHWC: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 in the compute dtype.

        Raises:
            ValueError: a side is no multiple of the stride.
        """
        H, W = image_BHWC.shape[1:3]
        if H % self.stride or W % self.stride:
            raise ValueError(
                f"The picture is {W} x {H} pixels; this tokenizer needs sides that are multiples "
                f"of {self.stride}. Resize or crop it first."
            )
        return image_BHWC[..., :3].permute(0, 3, 1, 2).to(self.compute_dtype) * 2 - 1

    def check_ids(self, maps: Iterable[Tensor]) -> None:
        """Raise ValueError where an id lies outside of the codebook."""
        lowest, highest = zip(*((int(ids.min()), int(ids.max())) for ids in maps), strict=True)
        if min(lowest) < 0 or max(highest) >= self.params.vocab:
            raise ValueError(
                f"Token ids must lie in 0..{self.params.vocab - 1}, found {min(lowest)} to "
                f"{max(highest)}."
            )


def to_picture(decoded_BCHW: Tensor) -> Tensor:
    """A decoder's output in -1..1 as fp32 [B, H, W, 3] in 0..1."""
    return decoded_BCHW.float().clamp(-1, 1).add_(1).mul_(0.5).permute(0, 2, 3, 1)
