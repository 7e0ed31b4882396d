"""What the loader of masked and flow models needs to know of either system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..models.flow_transformer import FlowTransformer
from ..models.paper_transfusion import PaperTransfusion
from ..models.show_o import ShowO, ShowOParams
from ..tokenizers.text import TextTokenizer
from . import show_o_runs, transfusion_runs


def text_of_masked(params: Any, checkpoint: Path, folders: Sequence[Path]) -> TextTokenizer:
    """The text tokenizer beside a Show-o or Transfusion file.

    Raises:
        TokenizerError: missing, or of another model.
    """
    if isinstance(params, ShowOParams):
        return show_o_runs.text_tokenizer(params, checkpoint, folders)
    return transfusion_runs.text_tokenizer(params, checkpoint, folders)


def show_o_of(module: nn.Module, file: str) -> ShowO:
    """The module, if it is a Show-o.

    Raises:
        ValueError: it is another masked or flow model.
    """
    if not isinstance(module, ShowO):
        raise ValueError(
            f"{file} is a Transfusion model, which solves latents: use Flow Sampler. This node "
            f"needs a Show-o model."
        )
    return module


def transfusion_of(module: nn.Module, file: str) -> FlowTransformer | PaperTransfusion:
    """The module, if it is a Transfusion.

    Raises:
        ValueError: it is another masked or flow model.
    """
    if isinstance(module, ShowO):
        raise ValueError(
            f"{file} is a Show-o model, which draws image tokens: use Masked Sampler. This node "
            f"needs a Transfusion model."
        )
    return module
