"""Everything this pack asks of ComfyUI: folders, devices, precision, loading, progress.

The only package that imports comfy or folder_paths. Names of comfy are looked up at call time,
because main.py rebinds some of them (CoreModelPatcher) at start-up.
"""

from .folders import model_files, new_tokens_path, register_folders, tokens_files, tokens_path
from .llm import llm_folders, load_llm
from .loading import (
    NextTokenModel,
    ScaleModel,
    Tokenizer,
    load_next_token_model,
    load_scale_model,
    load_tokenizer,
)
from .precision import DTYPES, Precision, choose_precision, dtype_choices
from .running import Progress, StepProgress, in_parts, loaded, nothing, to_output
from .text_encoder import load_text_encoder, text_encoder_files
from .text_model import NotAnEncoder, TextModel, show_text
from .texts import text_features

__all__ = [
    "DTYPES",
    "NextTokenModel",
    "NotAnEncoder",
    "Precision",
    "Progress",
    "ScaleModel",
    "StepProgress",
    "TextModel",
    "Tokenizer",
    "choose_precision",
    "dtype_choices",
    "in_parts",
    "load_next_token_model",
    "llm_folders",
    "load_llm",
    "load_scale_model",
    "load_text_encoder",
    "load_tokenizer",
    "loaded",
    "model_files",
    "new_tokens_path",
    "nothing",
    "register_folders",
    "show_text",
    "text_encoder_files",
    "text_features",
    "to_output",
    "tokens_files",
    "tokens_path",
]
