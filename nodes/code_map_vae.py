"""The image tokenizer seen as an autoencoder whose latent is the de-quantised code map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..mmgen_core.tokenizers.multiscale_vq import MultiScaleVQ


class CodeMapAutoencoder(nn.Module):
    """What ComfyUI's VAE class calls: pictures [B, 3, H, W] in 0..1, latents [B, C, h, w].

    The tokenizer is its only part, so one entry in ComfyUI's memory manager serves both uses.
    """

    def __init__(self, tokenizer: MultiScaleVQ):
        super().__init__()
        self.tokenizer = tokenizer

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Code map f_hat of the picture's tokens, in every size the encoder can take."""
        f = self.tokenizer.encode_features(image_BCHW.movedim(1, -1))
        sizes = proportional_sizes(self.tokenizer.params.scales, tuple(f.shape[-2:]))
        return self.tokenizer.quantize.encode(f, sizes)[1]

    def decode(self, f_hat_BChw: Tensor) -> Tensor:
        return self.tokenizer.decode_features(f_hat_BChw.float()).movedim(-1, 1)


def proportional_sizes(scales: Sequence[int], grid: tuple[int, int]) -> list[tuple[int, int]]:
    """A square scale list stretched to a grid (h, w); the list itself for its own grid.

    VAE nodes take pictures and tiles of any shape, for which no list is published.
    """
    last = scales[-1]
    sizes = [tuple(max(1, round(side * length / last)) for length in grid) for side in scales[:-1]]
    return [*sizes, tuple(grid)]
