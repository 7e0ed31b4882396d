"""Our small text encoders, and the stock ones, as a stock ``CLIP``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import folder_paths
import torch

from ...mmgen_core.checkpoints.architecture import load_state
from ...mmgen_core.checkpoints.files import read_checkpoint
from ...mmgen_core.models.clip_text import ClipText, ClipTextParams
from ...mmgen_core.systems import identify
from ...mmgen_core.tokenizers.clip_text import ClipTextTokenizer, tokenizer_of
from .folders import FOLDER, model_files
from .loading import _read

STOCK_FOLDER = "text_encoders"
STOCK_VOCAB = 49408  # CLIP's own: the host brings its tokenizer and builds the model
NAME = "mmgen_text"  # of the one part our encoders have


def text_encoder_files() -> list[str]:
    """Names for a picker: ours, then those of models/text_encoders."""
    stock = folder_paths.get_filename_list(STOCK_FOLDER)
    return list(dict.fromkeys([*model_files(), *stock]))


def load_text_encoder(name: str) -> comfy.sd.CLIP:
    """A CLIP text encoder of any size.

    Raises:
        CheckpointError: another kind of file, or one whose tokenizer is missing.
    """
    path = _path(name)
    checkpoint = read_checkpoint(path, _read)
    match = identify(checkpoint, "text encoder")
    load_state(ClipText(match.params, device="meta"), match, checkpoint)  # names what is missing
    if match.params.vocab == STOCK_VOCAB and "tokenizer" not in checkpoint.config:
        return comfy.sd.load_clip(
            [str(path)],
            folder_paths.get_folder_paths("embeddings"),
            comfy.sd.CLIPType.STABLE_DIFFUSION,
        )
    tokenizer = tokenizer_of(checkpoint, match.params.positions)
    tensors = match.architecture.state_dict(checkpoint.tensors)
    published = match.architecture.publish(tensors, match.params)
    published["text_projection.weight"] = torch.eye(match.params.width)  # the host's model has one
    clip = comfy.sd.CLIP(
        _target(match.params, tokenizer),
        embedding_directory=None,
        parameters=sum(tensor.numel() for tensor in published.values()),
        state_dict=[published],
    )
    clip.tokenizer.end_mark = tokenizer.end
    return clip


def _path(name: str) -> Path:
    found = folder_paths.get_full_path(FOLDER, name)
    return Path(found or folder_paths.get_full_path_or_raise(STOCK_FOLDER, name))


def _target(params: ClipTextParams, tokenizer: ClipTextTokenizer) -> SimpleNamespace:
    """What comfy.sd.CLIP builds from: the host's own classes at this encoder's sizes."""
    marks = {"start": tokenizer.start, "end": tokenizer.end, "pad": tokenizer.end}
    config = {
        "num_hidden_layers": params.depth,
        "hidden_size": params.width,
        "num_attention_heads": params.heads,
        "intermediate_size": params.hidden,
        "hidden_act": "quick_gelu" if params.quick_gelu else "gelu",
        "max_position_embeddings": params.positions,
        "eos_token_id": tokenizer.end,
        "vocab_size": params.vocab,
    }
    model = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=params.positions,
        textmodel_json_config=config,
        model_class=_TextModel,
        special_tokens=marks,
        return_projected_pooled=False,
    )
    reader = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=tokenizer,
        tokenizer_class=_Reader,
        max_length=params.positions,
        embedding_size=params.width,
        embedding_key=NAME,
    )
    return SimpleNamespace(
        params={},
        clip=partial(comfy.sd1_clip.SD1ClipModel, name=NAME, clip_model=model),
        tokenizer=partial(comfy.sd1_clip.SD1Tokenizer, name=NAME, tokenizer=reader),
    )


class _TextModel(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model with a vocabulary of another size."""

    def __init__(self, config_dict: dict, dtype: torch.dtype, device: Any, operations: Any):
        super().__init__(config_dict, dtype, device, operations)
        size = config_dict["vocab_size"], config_dict["hidden_size"]
        embeddings = self.text_model.embeddings
        embeddings.token_embedding = operations.Embedding(*size, dtype=dtype, device=device)


class _Reader:
    """Our tokenizer with the few methods that the host's tokenizer class calls."""

    def __init__(self, tokenizer: ClipTextTokenizer):
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, tokenizer: ClipTextTokenizer, **ignored: Any) -> _Reader:
        return cls(tokenizer)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.ids(text)}

    def get_vocab(self) -> dict[str, int]:
        return self._tokenizer.tokenizer.get_vocab()

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return self._tokenizer.tokenizer.decode(token_ids, skip_special_tokens)
