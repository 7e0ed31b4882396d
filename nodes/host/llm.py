"""Language models from folders to the memory manager."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch
from torch import Tensor, nn

from ...mmgen_core.checkpoints.files import CheckpointError
from ...mmgen_core.conditioners.endpoint import EndpointWriter
from ...mmgen_core.conditioners.endpoint_http import Endpoint
from ...mmgen_core.conditioners.folder_llm import is_llm_folder, read_llm
from ...mmgen_core.conditioners.llm_writer import LlmWriter
from .folders import FOLDER
from .precision import DTYPES
from .text_model import TextModel

FOLDERS = (FOLDER, "LLM", "text_encoders")  # keys of folders that may hold language models
_DEPTHS = ("*/config.json", "*/*/config.json")


def llm_folders() -> list[str]:
    """Names of all language model folders."""
    found = {
        path.parent.relative_to(base).as_posix()
        for base in _bases()
        for pattern in _DEPTHS
        for path in base.glob(pattern)
        if is_llm_folder(path.parent)
    }
    return sorted(found)


def _bases() -> list[Path]:
    keys = [key for key in FOLDERS if key in folder_paths.folder_names_and_paths]
    paths = [Path(path) for key in keys for path in folder_paths.get_folder_paths(key)]
    paths.append(Path(folder_paths.models_dir) / "LLM")  # usual, though no key of the host's own
    return [path for path in paths if path.is_dir()]


def llm_path(name: str) -> Path:
    """The folder of that name, which must lie in one of the model folders."""
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    for base in _bases() if inside else []:
        if (base / name / "config.json").is_file():
            return base / name
    places = ", ".join(str(base) for base in _bases())
    raise CheckpointError(
        f"There is no language model folder {name!r} (with config.json, *.safetensors and a "
        f"tokenizer) in {places}."
    )


def load_llm(name: str, dtype: str) -> TextModel:
    device = comfy.model_management.text_encoder_device()
    offload_device = comfy.model_management.text_encoder_offload_device()
    weights = DTYPES.get(dtype) or comfy.model_management.text_encoder_dtype(device)
    llm = read_llm(llm_path(name), weights)
    replace_layers(llm.module)
    patcher = comfy.model_patcher.CoreModelPatcher(
        Managed(llm.module), load_device=device, offload_device=offload_device
    )
    return TextModel(LlmWriter(llm, lambda: patcher.load_device), patcher)


class Managed(nn.Module):
    """What the patcher holds: it notes the device on its model, where transformers' classes have
    a property of that name."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


def replace_layers(module: nn.Module) -> None:
    """Put ComfyUI's layers in the place of torch's, so that weights can be streamed.

    Norms keep their own classes: they are small and have many forms.
    """
    layers = [*module.named_modules()]
    embeddings = {
        layer.weight.data_ptr(): name for name, layer in layers if isinstance(layer, nn.Embedding)
    }
    heads = []
    for name, layer in layers:
        if type(layer) is nn.Embedding:
            new: nn.Module = comfy.ops.manual_cast.Embedding(
                layer.num_embeddings,
                layer.embedding_dim,
                padding_idx=layer.padding_idx,
                device="meta",
                dtype=layer.weight.dtype,
            )
        elif type(layer) is nn.Linear:
            if tied := embeddings.get(layer.weight.data_ptr()):
                heads.append((name, tied, layer.bias))
                continue
            new = comfy.ops.manual_cast.Linear(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                device="meta",
                dtype=layer.weight.dtype,
            )
        else:
            continue
        new.load_state_dict(layer.state_dict(), assign=True)
        _set(module, name, new.eval().requires_grad_(False))
    for name, tied, bias in heads:
        _set(module, name, TiedHead(module.get_submodule(tied), bias))


def _set(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, layer)


class TiedHead(nn.Module):
    """An output head with the weights of the embedding, which stay in one place only."""

    def __init__(self, embedding: nn.Module, bias: nn.Parameter | None):
        super().__init__()
        self._embedding = [embedding]  # in a list, else it would be registered twice
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        layer: Any = self._embedding[0]
        if not hasattr(layer, "comfy_cast_weights"):  # a model's own kind of embedding
            return torch.nn.functional.linear(hidden, layer.weight.to(hidden), self.bias)
        weight, _, stream = comfy.ops.cast_bias_weight(layer, hidden, offloadable=True)
        scores = torch.nn.functional.linear(hidden, weight, self.bias)
        comfy.ops.uncast_bias_weight(layer, weight, None, stream)
        return scores


def connect_llm(url: str, model: str, key_variable: str, timeout: float, retries: int) -> TextModel:
    """A served model; nothing is sent yet."""
    endpoint = Endpoint(url.strip(), model.strip(), _key(key_variable.strip()), timeout, retries)
    return TextModel(EndpointWriter(endpoint))


def _key(variable: str) -> str:
    if not variable:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise ValueError(
            "key_variable holds the name of an environment variable, such as OPENAI_API_KEY, not "
            "the key: a key in a workflow is shared with it."
        )
    if not (variable.endswith("_API_KEY") or variable.startswith("MMGEN_")):
        # else somebody's workflow could send any secret of this machine to its own server
        raise ValueError(
            f"key_variable is {variable}; only variables named ..._API_KEY or MMGEN_... are sent."
        )
    if not os.environ.get(variable):
        raise ValueError(
            f"The environment variable {variable} is not set where ComfyUI runs. Set it and "
            f"start ComfyUI again, or leave key_variable empty if the server needs no key."
        )
    return os.environ[variable]
