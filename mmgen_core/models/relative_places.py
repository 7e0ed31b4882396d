"""Unified-IO's relative biases: T5's buckets for text, and buckets of rows and columns for
pictures. Formulas and quirks are the reference's: the quadrants are not symmetric."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEXT_BUCKETS, IMAGE_BUCKETS = 32, 256
_EPS = torch.finfo(torch.float32).eps


def text_buckets(at_T: Tensor, both_ways: bool) -> Tensor:
    """Buckets [T, T] of T5 for query (first) and key: 32, distances beyond 128 share the last."""
    distance = at_T[:, None] - at_T  # of the query after the key
    if both_ways:
        count, offset = TEXT_BUCKETS // 2, (distance < 0).long() * (TEXT_BUCKETS // 2)
        distance = distance.abs()
    else:
        count, offset = TEXT_BUCKETS, 0
        distance = distance.clamp(min=0)
    return offset + _logarithmic(distance, count // 2, count, 128)


def _logarithmic(distance: Tensor, exact: int, count: int, farthest: int) -> Tensor:
    """Distances below ``exact`` as they are, longer ones in logarithmic steps up to count - 1."""
    steps = torch.log(distance.float() / exact + _EPS) / math.log(farthest / exact)
    longer = exact + (steps * (count - exact)).int()
    return torch.where(distance < exact, distance, longer.clamp(max=count - 1))


def image_buckets(places_P: Tensor, columns: int) -> Tensor:
    """Buckets [P, P] for query (first) and key patches: quadrant, rows apart, columns apart."""
    y, x = places_P // columns, places_P % columns
    dx, dy = x[:, None] - x, y[:, None] - y
    quadrant = torch.zeros_like(dx)
    quadrant = quadrant.masked_fill((dx > 0) & (dy <= 0), 1)
    quadrant = quadrant.masked_fill((dx < 0) & (dy >= 0), 2)
    quadrant = quadrant.masked_fill((dx <= 0) & (dy < 0), 3)
    near_x, near_y = (_logarithmic(d.abs(), 4, 8, 20) for d in (dx, dy))
    return quadrant * 64 + near_x + 8 * near_y


class RelativeBias(nn.Module):
    """Learned numbers per head and bucket."""

    def __init__(self, heads: int, **kw):
        super().__init__()
        self.text = nn.Parameter(torch.empty(heads, TEXT_BUCKETS, **kw))
        self.image = nn.Parameter(torch.empty(heads, IMAGE_BUCKETS, **kw))


def text_and_image_bias(
    tables: RelativeBias, at_T: Tensor, places_P: Tensor | None, columns: int, both_ways: bool
) -> Tensor:
    """Bias [H, T + P, T + P]: within the text, within the picture, nothing between the two."""
    text = tables.text[:, text_buckets(at_T, both_ways)]
    if places_P is None:
        return text
    image = tables.image[:, image_buckets(places_P, columns)]
    T, P = len(at_T), len(places_P)
    bias = text.new_zeros(len(text), T + P, T + P)
    bias[:, :T, :T], bias[:, T:, T:] = text, image
    return bias
