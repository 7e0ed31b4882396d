"""The drawings as a SEED recipe needs them: pictures, captions as word ids, latents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import read_checkpoint
from ..checkpoints.architecture import build
from ..systems import identify
from ..tokenizers.pixels import normalised
from .captions import CaptionedDrawing

PAD, UNKNOWN, START = 0, 1, 2
LENGTH = 16  # words of a caption at most
VARIANTS = 6  # of a drawing: half of them mirrored, shifted by up to three pixels


class Words:
    """Word ids of captions; the text side is dropped after training, so words are enough."""

    def __init__(self, captions: list[str]) -> None:
        count = Counter(word for caption in captions for word in split(caption))
        known = sorted(word for word, uses in count.items() if uses > 1)
        self.ids = {word: i + 3 for i, word in enumerate(known)}

    def __len__(self) -> int:
        return len(self.ids) + 3

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """ids [B, LENGTH] with the start token first, and mask."""
        ids = torch.full((len(captions), LENGTH), PAD)
        for row, caption in enumerate(captions):
            words = [START, *(self.ids.get(w, UNKNOWN) for w in split(caption))][:LENGTH]
            ids[row, : len(words)] = torch.tensor(words)
        return ids, (ids != PAD).long()


def split(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", caption.lower())


def variants(pictures_BHWC: Tensor, count: int, seed: int) -> Tensor:
    """[count, B, H, W, 3]: the pictures first, then mirrored and shifted ones, on white."""
    generator = torch.Generator().manual_seed(seed)
    made = [pictures_BHWC]
    height, width = pictures_BHWC.shape[1:3]
    for i in range(1, count):
        picture = pictures_BHWC.flip(2) if i % 2 else pictures_BHWC
        wide = torch.ones(len(picture), height + 6, width + 6, 3)
        wide[:, 3:-3, 3:-3] = picture
        dy, dx = torch.randint(0, 7, (2,), generator=generator).tolist()
        made.append(wide[:, dy : dy + height, dx : dx + width])
    return torch.stack(made)


class SeedPictures:
    """Every variant of every drawing, its latent, and its captions.

    Half of the variants are shown as the image tokenizer gives them back, since pictures that a
    demo model drew are encoded as well.
    """

    def __init__(self, drawings: list[CaptionedDrawing], vae: str, seed: int = 0) -> None:
        self.captions = [drawing.captions for drawing in drawings]
        self.groups = [drawing.group for drawing in drawings]
        pictures = torch.from_numpy(np.stack([d.picture for d in drawings])).float() / 255
        shown = variants(pictures, VARIANTS, seed)
        self.latents, again = latents_of(shown.flatten(0, 1), vae)
        self.latents = self.latents.unflatten(0, shown.shape[:2])
        shown[::2] = again.unflatten(0, shown.shape[:2])[::2]
        self.pixels = normalised(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        self.scale = 1 / self.latents.std().item()

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, size: int, groups: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """pixels [B, 3, H, W], scaled latents [B, C, h, w] and a caption each, all different
        drawings of some groups."""
        known = torch.tensor([i for i, group in enumerate(self.groups) if group in groups])
        rows = known[torch.randperm(len(known))[:size]]
        which = torch.randint(VARIANTS, (len(rows),))
        texts = [self.captions[r] for r in rows.tolist()]
        captions = [t[int(torch.randint(len(t), ()))] for t in texts]
        return self.pixels[which, rows], self.latents[which, rows] * self.scale, captions


@torch.no_grad()
def latents_of(pictures_BHWC: Tensor, vae: str) -> tuple[Tensor, Tensor]:
    """Code maps [B, C, h, w] of the demo image tokenizer, and the pictures it makes of them."""
    checkpoint = read_checkpoint(vae)
    tokenizer = build(identify(checkpoint, "image tokenizer"), checkpoint, dtype=torch.float32)
    maps = [tokenizer.code_map(part) for part in pictures_BHWC.split(64)]
    return torch.cat(maps), torch.cat([tokenizer.decode_features(part) for part in maps])
