"""The demo models, opened the way every other file is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..checkpoints.architecture import Match, build
from ..checkpoints.files import CheckpointError, read_checkpoint
from ..systems.var import ARCHITECTURES


def load_model(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """A tokenizer or scale model in fp32 from a file trained here.

    Raises CheckpointError for a file of another kind.
    """
    checkpoint = read_checkpoint(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    for architecture in ARCHITECTURES:
        params = architecture.recognise(shapes, checkpoint.config, checkpoint.tensors)
        if params is not None:
            match = Match(architecture, params)
            return build(match, checkpoint, dtype=torch.float32, device=device)
    raise CheckpointError(f"{path} is neither a VAR tokenizer nor a VAR transformer.")
