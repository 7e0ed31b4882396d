"""What DreamLLM has around its language model (Dong et al. 2024, arXiv 2309.11499): the learned
dream queries, and the projector from their hidden states to a diffusion model's context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DreamQueriesParams:
    queries: int
    width: int


class DreamQueries(nn.Module):
    def __init__(
        self,
        params: DreamQueriesParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.queries = operations.Embedding(
            params.queries, params.width, dtype=dtype, device=device
        )

    def forward(self, device: torch.device) -> Tensor:
        """Input embeddings [queries, width]."""
        at = torch.arange(self.params.queries, device=device)
        return self.queries(at).to(self.compute_dtype)


@dataclass(frozen=True)
class DreamProjectorParams:
    widths: tuple[int, ...]  # input, then of each layer; more than one layer: GELUs between
    pooled_width: int = 0  # of the SDXL variant, which was never published


class DreamProjector(nn.Module):
    def __init__(
        self,
        params: DreamProjectorParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, kw = params, {"dtype": dtype, "device": device, "bias": False}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.layers = nn.ModuleList(
            operations.Linear(a, b, **kw) for a, b in zip(p.widths, p.widths[1:], strict=False)
        )
        self.pooled = (
            operations.Linear(p.widths[0], p.pooled_width, **kw) if p.pooled_width else None
        )

    def forward(self, hidden_BNC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Context [B, N, C'], and of the SDXL variant a pooled vector of their mean [B, P]."""
        x = hidden_BNC = hidden_BNC.to(self.compute_dtype)
        for index, layer in enumerate(self.layers):
            x = layer(F.gelu(x) if index else x)
        return x, self.pooled(hidden_BNC.mean(1)) if self.pooled is not None else None
