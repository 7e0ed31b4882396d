"""Which files belong together: a language model that draws by queries, and what is published
beside it (SEED-X, DreamLLM)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..checkpoints.files import CheckpointError
from .dreamllm import PROJECTOR_FILE, QUERIES_FILE, VISION_FILE

DREAM_FILES = {"vision": VISION_FILE, "queries": QUERIES_FILE, "projector": PROJECTOR_FILE}
AGENT_PLACES = ("agent", "../agent")  # seen from the language model's folder
VIT_NAME = "qwen_vit_G"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def same_name(folder: Path, name: str) -> Path | None:
    """A file of this name, or what ``convert`` made of it."""
    stem = folder / name.rpartition(".")[0]
    found = (stem.with_name(stem.name + suffix) for suffix in WEIGHTS)
    return next((path for path in found if path.is_file()), None)


def is_dreamllm(language: Path) -> bool:
    """Whether any of DreamLLM's own files lies beside a language model."""
    return any(same_name(language.parent, name) for name in DREAM_FILES.values())


def dreamllm_files(language: Path) -> dict[str, Path]:
    """DreamLLM's three files beside its language model.

    Raises:
        CheckpointError: one is missing.
    """
    found = {part: same_name(language.parent, name) for part, name in DREAM_FILES.items()}
    missing = [DREAM_FILES[part] for part, path in found.items() if path is None]
    if missing:
        raise CheckpointError(
            f"{language.name} is DreamLLM's language model; missing beside it: "
            f"{', '.join(missing)}. Copy them from its repository to {language.parent}."
        )
    return {part: path for part, path in found.items() if path is not None}


def agent_file(language: Path) -> Path:
    """SEED-X's resamplers: in the folder "agent" beside the language model's.

    Raises:
        CheckpointError: there are none, so that this is no SEED-X, nor a DreamLLM.
    """
    folders = [(language.parent / place).resolve() for place in AGENT_PLACES]
    for folder in folders:
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        weights = [path for path in files if path.suffix in WEIGHTS]
        if weights:
            return weights[0]
    raise CheckpointError(
        f"{language.name}: no resamplers beside it. SEED-X has them in a folder named agent "
        f"(looked in {', '.join(map(str, folders))}); DreamLLM has "
        f"{', '.join(DREAM_FILES.values())} in the same folder. Copy them from the repository, or "
        f"choose the file as agent."
    )


def vit_file(language: Path, folders: Iterable[Path]) -> Path | None:
    """Qwen-VL's vision transformer as SEED-X's instructions save it: beside or above the language
    model, in a folder QwenViT there, or in the model folders."""
    above: Sequence[Path] = language.resolve().parents[:3]
    for folder in [*above, *folders]:
        for place in (folder, folder / "QwenViT"):
            found = same_name(place, f"{VIT_NAME}.pt")
            if found is not None:
                return found
    return None
