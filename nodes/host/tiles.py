"""Decoding a code map in tiles where the memory does not suffice for the whole picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
from torch import Tensor

PARTS = (2, 4, 8)  # of the picture's side that a tile covers, one after the other


def tiles_that_fit(decode_tiled: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The stock VAE's tiled decode with tiles that are parts of the picture.

    Where VAE Decode runs out of memory the stock class takes tiles of 64 x 64 latents. A code map
    has at most that many in all (STAR, 1024 px: 64 x 64), so one of its passes would be the whole
    picture once more. Tiles that the user asks for are taken as they are.
    """

    def decode(samples: Tensor, *tiles: int, **named: Any) -> Tensor:
        if tiles or named:
            return decode_tiled(samples, *tiles, **named)
        side = max(samples.shape[-2:])
        sides = [side // part for part in PARTS if side // part >= 4]
        for tile in sides[:-1]:
            try:
                return decode_tiled(samples, tile_x=tile, tile_y=tile, overlap=tile // 4)
            except RuntimeError as error:
                comfy.model_management.raise_non_oom(error)
            # Outside of the handler, whose exception still holds the tensors of the failed run.
            logging.warning("mmgen: out of memory with tiles of %d x %d codes.", tile, tile)
            comfy.model_management.soft_empty_cache()
        last = sides[-1] if sides else side
        return decode_tiled(samples, tile_x=last, tile_y=last, overlap=last // 4)

    return decode
