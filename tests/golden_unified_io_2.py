"""How golden Unified-IO 2 cases are run: pictures in and out, the vocabulary, the image tokenizer,
the model with all its runs."""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import unified_io_2_prompt
from mmgen_core.models.decoder import Segment
from mmgen_core.models.unified_io_2 import EncoderInput, Patches, Prompt
from mmgen_core.systems import identify
from mmgen_core.tokenizers import unified_io_pictures

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    if "texts" in config:
        return run_vocabulary(case)
    if "IMAGE_INPUT_SIZE" in config:
        return run_pictures(case)
    return run_model(case) if "t5_config" in config else run_tokenizer(case)


def load(case, kind: str) -> torch.nn.Module:
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, case.spec["config"])
    return build(identify(checkpoint, kind), checkpoint)
