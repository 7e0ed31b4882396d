"""Language models from folders that transformers reads: config, safetensors, tokenizer.

No code of a folder runs: its classes are those of the installed transformers, its weights are
safetensors, its conversation template is rendered in transformers' sandbox.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..checkpoints.files import INDEX_SUFFIX, CheckpointError, check_file, first_line, shards_of

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class FolderLLM:
    """A language model with its tokenizer, on the CPU."""

    folder: Path
    module: nn.Module
    tokenizer: Any


def is_llm_folder(folder: Path) -> bool:
    """Whether a folder looks like a language model: files only, nothing is opened."""
    return (
        (folder / "config.json").is_file()
        and any((folder / name).is_file() for name in TOKENIZERS)
        and any(folder.glob("*.safetensors"))
    )


def read_llm(folder: Path, dtype: torch.dtype) -> FolderLLM:
    """Load a folder.

    Raises:
        CheckpointError: not a causal language model that transformers can read without code of
            the folder; a file is missing, cut off or does not fit.
    """
    config = _checked_config(folder)
    _check_weights(folder)
    tokenizer = _tokenizer(folder)
    module = _module(folder, dtype, config)
    return FolderLLM(folder, module.eval().requires_grad_(False), tokenizer)


def _checked_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder.name} is a LoRA adapter, no model. Merge it into its base model first."
        )
    if not path.is_file():
        raise CheckpointError(
            f"{folder.name} has no config.json. A language model is a folder with config.json, "
            f"*.safetensors and a tokenizer, as downloaded from Hugging Face."
        )
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no model's config: {first_line(error)}.") from error
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise CheckpointError(
            f"{folder.name} is stored quantised ({method}), which needs packages ComfyUI does "
            f"not bring. Use the unquantised model, or serve it and use Connect LLM Endpoint."
        )
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    if kind not in known:
        raise CheckpointError(
            f"{folder.name} is a {kind!r} model, which the installed transformers does not know "
            f"as a language model. Code of the folder is never run. Update transformers, or "
            f"serve the model and use Connect LLM Endpoint."
        )
    return config


def _check_weights(folder: Path) -> None:
    index = folder / f"model{INDEX_SUFFIX}"
    files = shards_of(index) if index.is_file() else [folder / "model.safetensors"]
    for path in files:
        if not path.is_file():
            raise CheckpointError(
                f"{folder.name} has neither model.safetensors nor model{INDEX_SUFFIX}. Pickled "
                f"weights are not read; get the safetensors version."
            )
        check_file(path)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(
            f"{folder.name} has no tokenizer (looked for {', '.join(TOKENIZERS)}). Copy it from "
            f"where the model comes from."
        )
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(
            f"The tokenizer of {folder.name} cannot be read: {first_line(error)}."
        ) from error


def _module(folder: Path, dtype: torch.dtype, config: dict[str, Any]) -> nn.Module:
    from transformers import AutoModelForCausalLM

    options = {
        "dtype": dtype,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    # Never the attention that the config names, which may be a kernel to be downloaded.
    for attention in ("sdpa", "eager"):
        try:
            module, report = AutoModelForCausalLM.from_pretrained(
                str(folder), attn_implementation=attention, **options
            )
            break
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise CheckpointError(
                f"{folder.name} ({config['model_type']}) cannot be loaded: {first_line(error)}."
            ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder.name} lacks {len(missing)} weights of its model: {', '.join(missing[:3])}. "
            f"Download it again."
        )
    return module
