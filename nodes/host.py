"""Everything this pack asks of ComfyUI: folders, devices, precision, loading, progress.

The only file that imports comfy or folder_paths. Names of comfy are looked up at call time,
because main.py rebinds some of them (CoreModelPatcher) at start-up.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import comfy.cli_args
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.quant_ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from PIL import Image
from torch import Tensor, nn

from ..mmgen_core.checkpoints.architecture import Match, load_state
from ..mmgen_core.checkpoints.files import Checkpoint, CheckpointError, read_checkpoint, read_file
from ..mmgen_core.conditioners.scale_prompt import TextFeatures
from ..mmgen_core.systems import identify
from ..mmgen_core.systems.var import class_names
from .code_map_vae import CodeMapAutoencoder
from .muted import muted

FOLDER = "mmgen"
EXTENSIONS = {".safetensors", ".json", ".pth", ".pt", ".bin", ".ckpt"}
TOKENS_FOLDER, TOKENS_SUFFIX = "tokens", ".tokens.safetensors"
QUANTISED = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_PREVIEW_SHARE = 0.2  # of the time a run has taken so far
T = TypeVar("T")


# Folders and files


def register_folders() -> None:
    """Make models/mmgen and this pack's own models folder known; keep what a user's
    extra_model_paths.yaml has already registered under the same key."""
    known, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    own = str(Path(__file__).resolve().parent.parent / "models")
    wanted = [str(Path(folder_paths.models_dir) / FOLDER), own]
    paths = [*known, *(path for path in wanted if path not in known)]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(EXTENSIONS))


def model_files() -> list[str]:
    """Names for a picker: no config files, and of a sharded model only its index."""
    names = folder_paths.get_filename_list(FOLDER)
    return [name for name in names if _is_model(name)]


def _is_model(name: str) -> bool:
    if name.endswith(".json"):
        return name.endswith(".safetensors.index.json")
    return not _SHARD.search(name)


def tokens_files() -> list[str]:
    """Saved image tokens, below the output folder's "tokens" and in the input folder, as
    annotated names. Not the whole output folder: pickers are filled for every prompt."""
    output = Path(folder_paths.get_output_directory())
    saved = sorted((output / TOKENS_FOLDER).rglob(f"*{TOKENS_SUFFIX}"))
    given = sorted(Path(folder_paths.get_input_directory()).glob(f"*{TOKENS_SUFFIX}"))
    names = [f"{path.relative_to(output).as_posix()} [output]" for path in saved]
    return names + [f"{path.name} [input]" for path in given]


def tokens_path(annotated_name: str) -> Path:
    """Path of a saved tokens file; the host refuses names outside its folders."""
    return Path(folder_paths.get_annotated_filepath(annotated_name))


def new_tokens_path(prefix: str) -> tuple[Path, str]:
    """Path for a new tokens file below the output folder, and its name relative to that."""
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
        f"{TOKENS_FOLDER}/{prefix}", folder_paths.get_output_directory()
    )
    name = f"{stem}_{counter:05}_{TOKENS_SUFFIX}"
    return Path(folder) / name, (Path(subfolder) / name).as_posix()


# Precision


@dataclass(frozen=True)
class Precision:
    weights: torch.dtype
    compute: torch.dtype
    quantised: str | None = None  # a key of QUANTISED: how linear layers are stored

    def operations(self, always_cast: bool = False) -> Any:
        if self.quantised:
            return comfy.ops.mixed_precision_ops({}, self.compute, full_precision_mm=True)
        if always_cast:
            return comfy.ops.manual_cast
        return comfy.ops.pick_operations(self.weights, self.compute)


def dtype_choices() -> list[str]:
    """What the dtype picker of a transformer offers on this host."""
    device = comfy.model_management.get_torch_device()
    choices = ["auto", *DTYPES]
    if _layout("fp8") and comfy.model_management.supports_cast(device, torch.float8_e4m3fn):
        choices.append("fp8")
    return [*choices, "int8"] if _layout("int8") else choices


def _layout(choice: str) -> Any | None:
    """The host's tensor layout for an 8-bit format; None where it has none."""
    algorithm = comfy.quant_ops.QUANT_ALGOS.get(QUANTISED[choice], {})
    return comfy.quant_ops.get_layout_class(algorithm.get("comfy_tensor_layout"))


def choose_precision(choice: str, device: torch.device, tensors: dict[str, Tensor]) -> Precision:
    """Weight and compute dtype of a model, by the host's policy where the user leaves it open."""
    supported = [torch.bfloat16, torch.float16, torch.float32]
    weights = DTYPES.get(choice) or comfy.model_management.unet_dtype(
        device,
        sum(tensor.numel() for tensor in tensors.values()),
        supported,
        comfy.utils.weight_dtype(tensors),
    )
    compute = comfy.model_management.unet_manual_cast(weights, device, supported) or weights
    if choice in QUANTISED:
        return Precision(compute, compute, choice)
    return Precision(weights, compute)


def tokenizer_precision(choice: str, device: torch.device, tensors: dict[str, Tensor]) -> Precision:
    """As ``choose_precision``, but "auto" follows the host's policy for VAEs."""
    if choice == "auto":
        dtype = comfy.model_management.vae_dtype(device, [torch.bfloat16, torch.float32])
        return Precision(dtype, dtype)
    return choose_precision(choice, device, tensors)


def quantising(match: Match, layers: list[str], choice: str) -> Match:
    """The match, its conversion extended: weights of ``layers`` in the host's 8-bit format."""
    layout, note = _layout(choice), json.dumps({"format": QUANTISED[choice]}).encode()

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        state = match.architecture.convert(tensors)
        for name in layers:
            if f"{name}.weight" not in state:  # the host's layers would not complain
                raise CheckpointError(f"The file lacks the weights of the layer {name}.weight.")
            codes, params = layout.quantize(state[f"{name}.weight"].float(), scale="recalculate")
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = codes, params.scale
            state[f"{name}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        return state

    return replace(match, architecture=replace(match.architecture, convert=convert))


# Loading


@dataclass(frozen=True, eq=False)
class ScaleModel:
    """A next-scale model known to ComfyUI's memory manager."""

    patcher: Any
    file: str
    classes: tuple[str, ...]  # names, in label order

    @property
    def module(self) -> nn.Module:
        return self.patcher.model


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """An image tokenizer known to the memory manager, and the same as a stock VAE."""

    patcher: Any
    file: str
    vae: comfy.sd.VAE

    @property
    def module(self) -> nn.Module:
        return self.patcher.model.tokenizer


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The host's safetensors reader (its dynamic VRAM streams from the file slices it keeps)."""
    if path.suffix != ".safetensors":
        return read_file(path)
    tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    return tensors, metadata or {}


def open_checkpoint(name: str, kind: str) -> tuple[Checkpoint, Match]:
    """Read a file of the model folders and make sure that it is a ``kind``."""
    checkpoint = read_checkpoint(folder_paths.get_full_path_or_raise(FOLDER, name), _read)
    return checkpoint, identify(checkpoint, kind)


def _fill(
    match: Match,
    checkpoint: Checkpoint,
    precision: Precision,
    devices: tuple[torch.device, torch.device],
    wrap: Callable[[nn.Module], nn.Module],
    always_cast: bool = False,
) -> Any:
    """Build the module, hand it to the memory manager, load its weights. Returns the patcher."""
    load_device, offload_device = devices
    operations = precision.operations(always_cast)
    module = match.architecture.module(match.params, precision.weights, offload_device, operations)
    module.compute_dtype = precision.compute
    wrapped = wrap(module).eval().requires_grad_(False)
    patcher = comfy.model_patcher.CoreModelPatcher(
        wrapped, load_device=load_device, offload_device=offload_device
    )
    comfy.model_management.archive_model_dtypes(wrapped)  # before loading: the wanted dtypes
    if precision.quantised:
        layers = [n for n, m in module.named_modules() if isinstance(m, operations.Linear)]
        match = quantising(match, layers, precision.quantised)
    load_state(module, match, checkpoint, assign=patcher.is_dynamic())
    return patcher


def load_scale_model(name: str, dtype: str) -> ScaleModel:
    checkpoint, match = open_checkpoint(name, "scale model")
    device = comfy.model_management.get_torch_device()
    precision = choose_precision(dtype, device, checkpoint.tensors)
    devices = (device, comfy.model_management.unet_offload_device())
    patcher = _fill(match, checkpoint, precision, devices, wrap=lambda module: module)
    return ScaleModel(patcher, name, class_names(match.params, checkpoint.config))


def load_tokenizer(name: str, dtype: str) -> Tokenizer:
    checkpoint, match = open_checkpoint(name, "image tokenizer")
    device = comfy.model_management.vae_device()
    precision = tokenizer_precision(dtype, device, checkpoint.tensors)
    devices = (device, comfy.model_management.vae_offload_device())
    # Casting layers follow their input, so the code look-ups of a sampler run on its device
    # even where --cpu-vae keeps the tokenizer elsewhere.
    patcher = _fill(match, checkpoint, precision, devices, CodeMapAutoencoder, always_cast=True)
    vae = _stock_vae(patcher, precision)
    state = patcher.model.tokenizer.state_dict
    vae.get_sd = lambda: match.architecture.publish(state(), match.params)  # for Save VAE
    return Tokenizer(patcher, name, vae)


def _stock_vae(patcher: Any, precision: Precision) -> comfy.sd.VAE:
    """A VAE object around our autoencoder.

    Made from an empty state dict, so that every attribute this version of ComfyUI's VAE has
    gets its default; then the parts that name the model and its sizes are set.
    """
    with muted("No VAE weights detected"):
        vae = comfy.sd.VAE(sd={})
    tokenizer = patcher.model.tokenizer
    width, stride = tokenizer.params.autoencoder.channels, tokenizer.stride
    vae.first_stage_model, vae.patcher = patcher.model, patcher
    vae.device, vae.vae_dtype = patcher.load_device, torch.float32
    vae.output_device = comfy.model_management.intermediate_device()
    vae.latent_channels = tokenizer.params.autoencoder.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = stride
    vae.process_input = vae.process_output = lambda image: image
    bytes_per_value = comfy.model_management.dtype_size(precision.compute)
    # Stock estimates for an autoencoder of width 128, per pixel, scaled to this width.
    vae.memory_used_encode = lambda shape, dtype: (
        1767 / 128 * width * shape[2] * shape[3] * bytes_per_value
    )
    vae.memory_used_decode = lambda shape, dtype: (
        2178 / 128 * width * stride**2 * shape[2] * shape[3] * bytes_per_value
    )
    vae.model_size()
    return vae


# Texts

CLIP_END = 49407  # the end of the text in CLIP's vocabulary
CLIP_TOKENS = 75  # of a text, beside its start and its end


def text_features(clip: Any, text: str) -> TextFeatures:
    """Features of a text by one of the host's CLIP encoders, as STAR takes them: the states
    after the final norm, the one at the end of the text as summary, without projection.

    The host's SD 2 encoder gives the states after its 23rd layer, which is the last one in the
    files of that encoder alone.

    Raises:
        ValueError: a text of several 77-token windows, or an encoder of several parts.
    """
    tokens = clip.tokenize(text, return_word_ids=True, disable_weights=True)
    if len(tokens) != 1:
        raise ValueError(
            f"This text encoder has {len(tokens)} parts ({', '.join(tokens)}). Load the single "
            f"encoder that the model was trained with."
        )
    windows = next(iter(tokens.values()))
    # An entry is a token id, or a vector where the text names a textual inversion.
    ids = [entry[0] if isinstance(entry[0], int) else None for entry in windows[0]]
    if CLIP_END not in ids:
        raise ValueError("This text encoder is no CLIP model: its tokens have no end mark.")
    if len(windows) > 1:
        count = sum(entry[-1] > 0 for window in windows for entry in window)  # of a word
        raise ValueError(
            f"The text has {count} tokens, the model was trained with at most {CLIP_TOKENS}. "
            f"Shorten it: {text[:60]!r} ..."
        )
    end = ids.index(CLIP_END)
    hidden = clip.encode_from_tokens(tokens)
    mask = (torch.arange(hidden.shape[1]) <= end)[None].to(hidden.device)
    return TextFeatures(hidden, hidden[:, end], mask)


# Running


@contextmanager
def loaded(*models: ScaleModel | Tokenizer, memory_required: float = 0) -> Iterator[torch.device]:
    """Bring models to their devices with room for a run; yields the first one's device."""
    device = models[0].patcher.load_device
    with comfy.model_management.cuda_device_context(device):
        patchers = [model.patcher for model in models]
        comfy.model_management.load_models_gpu(patchers, memory_required=memory_required)
        yield device


def in_parts(run: Callable[[int, int], T], start: int, stop: int) -> list[T]:
    """``run(start, stop)`` over rows of a batch; in halves where the memory does not suffice."""
    try:
        return [run(start, stop)]
    except RuntimeError as error:
        comfy.model_management.raise_non_oom(error)
        if stop - start == 1:
            raise
    # Outside of the handler, whose exception still holds the tensors of the failed run.
    logging.warning("mmgen: out of memory with %d pictures, trying halves.", stop - start)
    comfy.model_management.soft_empty_cache()
    middle = (start + stop) // 2
    return in_parts(run, start, middle) + in_parts(run, middle, stop)


def to_output(image: Tensor) -> Tensor:
    """An IMAGE or MASK on the device and in the dtype that ComfyUI passes between nodes."""
    return image.to(
        comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    )


class Progress:
    """An ``on_step`` of a sampler: interrupt, progress bar, and pictures of the unfinished map.

    A picture is left out where pictures have so far taken more than a fifth of the time.
    """

    def __init__(self, picture: Callable[[Tensor], Tensor]):
        self._picture = picture
        self._bar = comfy.utils.ProgressBar(1)
        self._started, self._spent = time.perf_counter(), 0.0

    def __call__(self, step: int, total: int, f_hat_BChw: Tensor) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(step, total, self._preview(f_hat_BChw))

    def _preview(self, f_hat_BChw: Tensor) -> tuple[str, Image.Image, int] | None:
        args = comfy.cli_args.args
        if args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews:
            return None
        comfy.model_management.synchronize()  # else the sampler's queued work counts as ours
        begun = time.perf_counter()
        if self._spent > _PREVIEW_SHARE * (begun - self._started):
            return None
        pixels = self._picture(f_hat_BChw)[0].mul(255).to("cpu", torch.uint8)
        self._spent += time.perf_counter() - begun
        return "JPEG", Image.fromarray(pixels.numpy()), args.preview_size
