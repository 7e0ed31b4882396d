"""The first stage of a SEED tokenizer: a causal Q-Former whose last state names the picture.

Pictures and texts go through the same BERT layers and meet in one space; afterwards only the
Q-Former is kept. Serves training; at inference the tokenizer holds what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.qformer import QFormer, QFormerParams

TEMPERATURE = 0.07  # where training starts


@dataclass(frozen=True)
class SeedContrastParams:
    qformer: QFormerParams
    space: int  # width of the common space


class SeedContrast(nn.Module):
    def __init__(
        self,
        params: SeedContrastParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, kw = params, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.ln_vision = operations.LayerNorm(p.qformer.context_width, eps=1e-5, **kw)
        self.qformer = QFormer(p.qformer, operations=operations, **kw)
        self.vision_proj = operations.Linear(p.qformer.width, p.space, **kw)
        self.text_proj = operations.Linear(p.qformer.width, p.space, **kw)
        self.temp = nn.Parameter(torch.tensor(TEMPERATURE, **kw))

    def picture(self, vision_BNK: Tensor) -> Tensor:
        """Unit vectors [B, space] of pictures: the last causal state, which saw all the others."""
        return F.normalize(self.vision_proj(self.qformer(self.ln_vision(vision_BNK))[:, -1]), dim=1)

    def text(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Unit vectors [B, space] of texts: the state of their first token."""
        return F.normalize(self.text_proj(self.qformer.text_states(ids_BT, mask_BT)[:, 0]), dim=1)
