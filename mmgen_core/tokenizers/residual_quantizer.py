"""Multi-scale residual vector quantiser (VAR, Tian et al. 2024, section 3.2 and algorithms 1, 2).

A feature map is written as a sum of up-sampled code maps, coarse to fine. All arithmetic is
fp32 whatever the rest of the model runs in: codes are chosen by nearest distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resample import area_resample


def phi_assignment(scale_count: int, phi_count: int) -> list[int]:
    """Index of the phi convolution that each scale uses: the tick nearest to s / (S - 1).

    Two of ten scales lie exactly between two ticks of four; the published assignment is the
    one float64 rounding gives (float32 would pick another convolution for scale 7).
    """
    margin = 3 if phi_count == 4 else 2
    edge = 1 / margin / phi_count
    ticks = np.linspace(edge, 1 - edge, phi_count)
    return [int(np.argmin(np.abs(ticks - s / max(scale_count - 1, 1)))) for s in range(scale_count)]


class ResidualQuantizer(nn.Module):
    """Codebook [V, C] and the phi convolutions that smooth every up-sampled code map."""

    def __init__(
        self,
        vocab: int,
        channels: int,
        phi_count: int,
        phi_ratio: float,
        cosine: bool,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        kw = {"device": device, "dtype": torch.float32}
        self.vocab, self.channels = vocab, channels
        self.phi_ratio, self.cosine = phi_ratio, cosine
        self.embedding = operations.Embedding(vocab, channels, **kw)
        self.phi = nn.ModuleList(
            operations.Conv2d(channels, channels, 3, padding=1, **kw) for _ in range(phi_count)
        )

    def codebook(self, device: torch.device) -> Tensor:
        """All code vectors [V, C]. Looked up, not read: the host may stream the weight."""
        return self.embedding(torch.arange(self.vocab, device=device)).float()

    def nearest(self, z_NC: Tensor, codebook_VC: Tensor) -> Tensor:
        """Ids [N] of the nearest codes, by Euclidean distance or by cosine."""
        if self.cosine:
            unit = F.normalize(codebook_VC, dim=-1)
            return (F.normalize(z_NC, dim=-1) @ unit.T).argmax(dim=1)
        distance = z_NC.square().sum(1, keepdim=True) + codebook_VC.square().sum(1)
        return distance.addmm_(z_NC, codebook_VC.T, alpha=-2).argmin(dim=1)

    def upsampled(
        self, h_BCpp: Tensor, scale: int, scale_count: int, size: tuple[int, int]
    ) -> Tensor:
        """What one scale adds to the feature map: phi_s(bicubic(h)), [B, C, *size]."""
        if tuple(h_BCpp.shape[-2:]) != tuple(size):
            h_BCpp = F.interpolate(h_BCpp, size=tuple(size), mode="bicubic")
        return self.smooth(h_BCpp, scale, scale_count)

    def smooth(self, h: Tensor, scale: int, scale_count: int) -> Tensor:
        phi = self.phi[phi_assignment(scale_count, len(self.phi))[scale]]
        return torch.lerp(h, phi(h).float(), self.phi_ratio)

    def encode(self, f_BChw: Tensor, sizes: list[tuple[int, int]]) -> tuple[list[Tensor], Tensor]:
        """Residual encoding, coarse to fine.

        Args:
            f_BChw: encoder features, fp32.
            sizes: (h, w) of every scale; the last must be the size of ``f_BChw``.

        Returns:
            ids per scale [B, h_s, w_s], and the reconstruction f_hat [B, C, h, w].
        """
        if tuple(sizes[-1]) != tuple(f_BChw.shape[-2:]):
            raise ValueError(
                f"the last scale must be the size of the feature map, "
                f"{tuple(f_BChw.shape[-2:])}, but the scale list ends with {tuple(sizes[-1])}"
            )
        rest, f_hat, ids = f_BChw.float(), torch.zeros_like(f_BChw, dtype=torch.float32), []
        codebook = self.codebook(f_BChw.device)
        for scale, size in enumerate(sizes):
            z = rest if scale == len(sizes) - 1 else area_resample(rest, size)
            z_NC = z.permute(0, 2, 3, 1).reshape(-1, self.channels)
            ids.append(self.nearest(z_NC, codebook).view(len(f_BChw), *size))
            h = self.lookup(ids[-1])
            h = self.upsampled(h, scale, len(sizes), f_BChw.shape[-2:])
            f_hat, rest = f_hat + h, rest - h
        return ids, f_hat

    def lookup(self, ids_Bhw: Tensor) -> Tensor:
        """Code vectors of ids as a map [B, C, h, w]."""
        return self.embedding(ids_Bhw).float().permute(0, 3, 1, 2).contiguous()

    def partial_sums(self, ids: list[Tensor]) -> list[Tensor]:
        """Feature maps [B, C, h, w] after each scale; the last one is complete."""
        size, f_hat, sums = ids[-1].shape[-2:], 0, []
        for scale, ids_Bhw in enumerate(ids):
            f_hat = f_hat + self.upsampled(self.lookup(ids_Bhw), scale, len(ids), size)
            sums.append(f_hat)
        return sums

    def partial_sums_at_own_size(self, ids: list[Tensor]) -> list[Tensor]:
        """Like ``partial_sums``, each map at its scale's own size: small, cheap pictures.

        The reference's experimental form; the model was not trained on such maps.
        """
        f_hat, sums = None, []
        for scale, ids_Bhw in enumerate(ids):
            h = self.smooth(self.lookup(ids_Bhw), scale, len(ids))
            if f_hat is not None:
                h = h + F.interpolate(f_hat, size=h.shape[-2:], mode="bicubic")
            f_hat = h
            sums.append(f_hat)
        return sums

    def transformer_inputs(self, ids: list[Tensor]) -> Tensor:
        """Teacher-forcing inputs [B, L - first, C]: each partial sum, area-resampled to the
        next scale (not the previous tokens' embeddings)."""
        sums = self.partial_sums(ids)[:-1]
        return torch.cat(
            [next_input(f, tuple(n.shape[-2:])) for f, n in zip(sums, ids[1:], strict=True)], dim=1
        )


def next_input(f_hat_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """The transformer's input for a scale of ``size``: f_hat area-resampled, as [B, n, C]."""
    if tuple(f_hat_BChw.shape[-2:]) != tuple(size):
        f_hat_BChw = area_resample(f_hat_BChw, size)
    return f_hat_BChw.flatten(2).transpose(1, 2)
