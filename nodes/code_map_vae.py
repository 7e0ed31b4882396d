"""The image tokenizer seen as an autoencoder whose latent is the de-quantised code map."""

from __future__ import annotations

from torch import Tensor, nn

from ..mmgen_core.tokenizers.image_tokenizer import ImageTokenizer


class CodeMapAutoencoder(nn.Module):
    """What ComfyUI's VAE class calls: pictures [B, 3, H, W] in 0..1, latents [B, C, h, w].

    The tokenizer is its only part, so one entry in ComfyUI's memory manager serves both uses.
    """

    def __init__(self, tokenizer: ImageTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def encode(self, image_BCHW: Tensor) -> Tensor:
        return self.tokenizer.code_map(image_BCHW.movedim(1, -1))

    def decode(self, f_hat_BChw: Tensor) -> Tensor:
        return self.tokenizer.decode_features(f_hat_BChw.float()).movedim(-1, 1)
