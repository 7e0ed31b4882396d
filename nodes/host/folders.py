"""Model folders, pickers, and where image tokens are saved."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

FOLDER = "mmgen"
EXTENSIONS = {".safetensors", ".json", ".pth", ".pt", ".bin", ".ckpt", ".msgpack"}
TOKENS_FOLDER, TOKENS_SUFFIX = "tokens", ".tokens.safetensors"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def register_folders() -> None:
    """Make models/mmgen and this pack's own models folder known; keep what a user's
    extra_model_paths.yaml has already registered under the same key."""
    known, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    own = str(Path(__file__).resolve().parents[2] / "models")
    wanted = [str(Path(folder_paths.models_dir) / FOLDER), own]
    paths = [*known, *(path for path in wanted if path not in known)]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(EXTENSIONS))


def model_files() -> list[str]:
    """Names for a picker: no config files, and of a sharded model only its index."""
    names = folder_paths.get_filename_list(FOLDER)
    return [name for name in names if _is_model(name)]


def _is_model(name: str) -> bool:
    if name.endswith(".json"):
        return name.endswith((".safetensors.index.json", ".bin.index.json"))
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
