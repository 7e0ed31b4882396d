"""What SEED-X has around its language model (Ge et al. 2024, arXiv 2404.14396): a resampler from
image features to input embeddings, one from hidden states to regressed image features, and the
positions of the parts of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention_pool import AttentionPool, AttentionPoolParams


@dataclass(frozen=True)
class SeedXAgentParams:
    reading: AttentionPoolParams  # image features -> input embeddings
    drawing: AttentionPoolParams  # hidden states -> image features

    @property
    def queries(self) -> int:
        """Image tokens of the language model per picture or tile."""
        return self.drawing.queries


class SeedXAgent(nn.Module):
    def __init__(
        self,
        params: SeedXAgentParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.input_resampler = AttentionPool(params.reading, operations, **kw)
        self.output_resampler = AttentionPool(params.drawing, operations, **kw)
        self.patch_pos_embed = operations.Embedding(4, params.reading.width, **kw)

    def read(self, features_BNC: Tensor, centres_B2: Tensor) -> Tensor:
        """Input embeddings [B, queries, C] of the parts of a picture.

        Args:
            centres_B2: x and y of each part's centre in 0..1; the whole picture's is the middle.
        """
        x = self.input_resampler(features_BNC.to(self.compute_dtype))
        corners = torch.cat([centres_B2, 1 - centres_B2], dim=-1).to(x) / 2
        table = self.patch_pos_embed(torch.arange(4, device=x.device)).to(x.dtype)
        return x + (corners @ table)[:, None]

    def draw(self, hidden_BNC: Tensor) -> Tensor:
        """Image features [B, queries, C] from the language model's states at its image tokens."""
        return self.output_resampler(hidden_BNC.to(self.compute_dtype))
