"""Show-o's net: the shared decoder over text, special ids and image codes, and what turns
CLIP-ViT features into tokens in the variants that look at pictures through CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoder import Decoder, DecoderParams

SPECIALS = 10  # ids between text and codes


@dataclass(frozen=True)
class ShowOParams:
    """Sizes.

    Attributes:
        text_vocab: ids of the text tokenizer as it was shipped.
        codes: of the image tokenizer.
        image_tokens: of a picture the model was trained for.
        prompt_tokens: of a drawing prompt at most, [t2i] and the mark before the text included.
        end_of_text: marks begin and end of a text.
        clip_width: of the CLIP-ViT features; 0 where pictures are looked at as codes.
        codebook: fingerprint of the tokenizer the model belongs to, where its file says so.
    """

    decoder: DecoderParams
    text_vocab: int
    codes: int
    image_tokens: int = 256
    prompt_tokens: int = 128
    end_of_text: int = 50256
    clip_width: int = 0
    codebook: str | None = None

    @property
    def pad(self) -> int:
        return self.text_vocab

    @property
    def soi(self) -> int:
        """Start of image."""
        return self.text_vocab + 1

    @property
    def eoi(self) -> int:
        """End of image."""
        return self.text_vocab + 2

    @property
    def t2i(self) -> int:
        """Opens a prompt to draw."""
        return self.text_vocab + 5

    @property
    def mmu(self) -> int:
        """Opens a question about a picture."""
        return self.text_vocab + 6

    @property
    def first_code(self) -> int:
        return self.text_vocab + SPECIALS

    @property
    def mask(self) -> int:
        """Stands for a code that is not known yet."""
        return self.first_code + self.codes

    @property
    def side(self) -> int:
        """Codes along one side of a picture."""
        return round(self.image_tokens**0.5)


class ClipProjector(nn.Module):
    def __init__(self, clip_width: int, width: int, operations: Any, **kw):
        super().__init__()
        self.up = operations.Linear(clip_width, width, **kw)
        self.out = operations.Linear(width, width, **kw)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(features)))


class ShowO(nn.Module):
    def __init__(
        self,
        params: ShowOParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params = params
        self.decoder = Decoder(params.decoder, dtype, device, operations)
        self.projector = None
        if params.clip_width:
            kw = {"dtype": dtype, "device": device}
            width = params.decoder.width
            self.projector = ClipProjector(params.clip_width, width, operations, **kw)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.decoder.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.decoder.compute_dtype = dtype

    def code_scores(self, hidden: Tensor) -> Tensor:
        """fp32 logits [..., codes] of the image codes alone."""
        return self.decoder.scores(hidden, slice(1, 2))
