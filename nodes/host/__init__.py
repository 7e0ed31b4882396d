"""Everything this pack asks of ComfyUI: folders, devices, precision, loading, progress.

The only package that imports comfy or folder_paths. Names of comfy are looked up at call time,
because main.py rebinds some of them (CoreModelPatcher) at start-up.
"""

from .diffusion_models import (
    Detokenizer,
    check_model,
    conditioning,
    load_detokenizer,
    source_latent,
    to_outputs,
)
from .expansion import drawn_then, sampler_names, scheduler_names
from .folders import model_files, new_tokens_path, register_folders, tokens_files, tokens_path
from .llm import connect_llm, llm_folders, load_llm
from .loading import (
    MaskedModel,
    NextTokenModel,
    ScaleModel,
    Tokenizer,
    load_masked_model,
    load_next_token_model,
    load_scale_model,
    load_tokenizer,
)
from .picture_features import clip_features
from .precision import DTYPES, Precision, choose_precision, dtype_choices
from .query_models import (
    DreamLLM,
    QueryModel,
    SeedX,
    as_text_model,
    following,
    load_query_model,
    prompt_style,
)
from .running import Progress, StepProgress, in_parts, loaded, nothing, patchers_of, to_output
from .seed import (
    SeedCodec,
    check_seed_target,
    checked_seed,
    clip_vision_output,
    load_seed_tokenizer,
    seed_encode_bytes,
)
from .small_diffusion import load_small_diffusion
from .text_encoder import load_text_encoder, text_encoder_files
from .text_model import FollowText, NotAnEncoder, TextModel, show_text
from .texts import text_features
from .writing import (
    encode_prompt,
    gligen_boxes,
    grounding_feature,
    own_presets,
    preset_names,
    with_gligen,
    write_text,
)

__all__ = [
    "gligen_boxes",
    "with_gligen",
    "write_text",
    "preset_names",
    "own_presets",
    "grounding_feature",
    "encode_prompt",
    "connect_llm",
    "DTYPES",
    "Detokenizer",
    "DreamLLM",
    "MaskedModel",
    "FollowText",
    "NextTokenModel",
    "NotAnEncoder",
    "Precision",
    "Progress",
    "QueryModel",
    "ScaleModel",
    "SeedX",
    "StepProgress",
    "TextModel",
    "Tokenizer",
    "as_text_model",
    "check_model",
    "choose_precision",
    "conditioning",
    "drawn_then",
    "clip_features",
    "SeedCodec",
    "StepProgress",
    "TextModel",
    "Tokenizer",
    "check_seed_target",
    "checked_seed",
    "choose_precision",
    "clip_vision_output",
    "dtype_choices",
    "following",
    "in_parts",
    "load_detokenizer",
    "load_masked_model",
    "load_next_token_model",
    "llm_folders",
    "load_llm",
    "load_query_model",
    "load_scale_model",
    "load_seed_tokenizer",
    "load_small_diffusion",
    "load_text_encoder",
    "load_tokenizer",
    "loaded",
    "model_files",
    "new_tokens_path",
    "nothing",
    "prompt_style",
    "patchers_of",
    "register_folders",
    "sampler_names",
    "scheduler_names",
    "seed_encode_bytes",
    "show_text",
    "source_latent",
    "text_encoder_files",
    "text_features",
    "to_output",
    "to_outputs",
    "tokens_files",
    "tokens_path",
]
