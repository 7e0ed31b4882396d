"""Pictures through the host's own CLIP vision encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def clip_features(clip_vision: Any) -> Callable[[Tensor], Tensor]:
    """A picture [1, H, W, 3] to its patches' states before the last layer, [m, C]: what LLaVA
    and Show-o read. The host scales and crops the picture to the encoder's size."""

    def features(picture: Tensor) -> Tensor:
        output = clip_vision.encode_image(picture)
        return output.penultimate_hidden_states[0, 1:]  # the first one is the class token

    return features
