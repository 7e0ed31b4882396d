"""The demo models, opened the way every other file is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..checkpoints.architecture import build
from ..checkpoints.files import read_checkpoint
from ..systems import identify


def load_model(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """A tokenizer or scale model in fp32 from a file trained here.

    Raises CheckpointError for a file that is none of the known architectures.
    """
    checkpoint = read_checkpoint(path)
    return build(identify(checkpoint), checkpoint, dtype=torch.float32, device=device)
