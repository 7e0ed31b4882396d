"""Keys and values of a run, in buffers allocated once and written in place."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Buffers [layers, rows, heads, capacity, head size]; the host knows the fill, so neither
    a mask nor a copy nor a synchronisation is needed as it grows."""

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        capacity: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        shape = (layers, rows, heads, capacity, head_size)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def rows(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def empty(self, rows: int, capacity: int) -> KVCache:
        """Another cache of this kind and layout, without tokens."""
        layers, _, heads, _, head_size = self.keys.shape
        shape = (layers, rows, heads, capacity, head_size)
        return KVCache(*shape, self.keys.dtype, self.keys.device)

    def fork(self, rows: int, capacity: int) -> KVCache:
        """A cache for ``rows`` continuations of the one row here, with its tokens copied."""
        other = self.empty(rows, capacity)
        other.keys[:, :, :, : self.length] = self.keys[:, :, :, : self.length]
        other.values[:, :, :, : self.length] = self.values[:, :, :, : self.length]
        other.length = self.length
        return other

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue what row ``rows[i]`` has been (beam search)."""
        for part in (self.keys, self.values):
            part[:, :, :, : self.length] = part[:, rows, :, : self.length]

    def layer(self, index: int) -> tuple[Tensor, Tensor, int]:
        """One layer's key and value buffers and the number of positions already filled."""
        return self.keys[index], self.values[index], self.length

    def advance(self, count: int) -> None:
        """Called once all layers have written ``count`` new positions."""
        self.length += count

    @staticmethod
    def write(layer: tuple[Tensor, Tensor, int], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [R, H, n, D] and return views of all positions up to and with them."""
        keys, values, start = layer
        end = start + k.shape[2]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]

    @staticmethod
    def nbytes(
        layers: int, rows: int, heads: int, capacity: int, head_size: int, dtype: torch.dtype
    ) -> int:
        return 2 * layers * rows * heads * capacity * head_size * dtype.itemsize
