"""Image tokens: what every visual autoregressive system here writes and every tokenizer reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """Codes of a batch of pictures.

    Attributes:
        ids: int64 [B, h, w] per scale, coarse to fine; single-scale systems have one entry.
        codebook: fingerprint of the tokenizer weights the ids belong to.
        mask: optional float [B or 1, h, w] on the finest grid, 1 = draw anew, 0 = keep.
        features: optional fp32 [B, C, h, w]. Smooth sampling mixes code vectors, which no ids
            can express; decoders then use this map, and the ids say what was drawn.
    """

    ids: tuple[Tensor, ...]
    codebook: str
    mask: Tensor | None = None
    features: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.ids[0].shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the finest scale."""
        return tuple(self.ids[-1].shape[-2:])

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h, w) of every scale."""
        return [tuple(ids.shape[-2:]) for ids in self.ids]

    def check_codebook(self, fingerprint: str) -> None:
        """Raise ValueError unless the ids belong to the tokenizer with this fingerprint."""
        if self.codebook != fingerprint:
            raise ValueError(
                f"These image tokens belong to the codebook {self.codebook}, the tokenizer has "
                f"{fingerprint}. Use the tokenizer the tokens were made with."
            )

    def with_mask(self, mask: Tensor | None) -> ImageTokens:
        return replace(self, mask=mask)

    def rows(self, start: int, stop: int) -> ImageTokens:
        """Some pictures of the batch; a mask for all of them stays as it is."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or len(tensor) == 1 else tensor[start:stop]

        ids = tuple(cut(scale) for scale in self.ids)
        return replace(self, ids=ids, mask=cut(self.mask), features=cut(self.features))

    @classmethod
    def joined(cls, parts: Sequence[ImageTokens]) -> ImageTokens:
        """The pictures of all parts as one batch; masks are left out."""
        ids = tuple(torch.cat(scale) for scale in zip(*(p.ids for p in parts), strict=True))
        features = [part.features for part in parts if part.features is not None]
        return cls(ids, parts[0].codebook, features=torch.cat(features) if features else None)

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file; an existing file is replaced only by a complete one."""
        tensors = {f"ids.{i}": ids.cpu().contiguous() for i, ids in enumerate(self.ids)}
        for name in ("mask", "features"):
            if (value := getattr(self, name)) is not None:
                tensors[name] = value.cpu().contiguous()
        partial = Path(f"{path}.partial")
        save_file(tensors, partial, metadata={"codebook": self.codebook})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> ImageTokens:
        """Read what ``save`` wrote. ValueError if the file holds no image tokens."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                codebook = (file.metadata() or {}).get("codebook")
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
        ids = tuple(tensors[f"ids.{i}"] for i in range(sum(n.startswith("ids.") for n in tensors)))
        if not ids or codebook is None or any(t.dtype != torch.int64 for t in ids):
            raise ValueError(f"{path} holds no image tokens (tensors found: {sorted(tensors)[:5]})")
        return cls(ids, codebook, tensors.get("mask"), tensors.get("features"))
