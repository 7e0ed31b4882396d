"""SEED-X and DreamLLM from their files to the memory manager."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from torch import Tensor, nn

from ...mmgen_core.checkpoints.files import Checkpoint, CheckpointError, read_checkpoint
from ...mmgen_core.conditioners.dreamllm import DreamTokens
from ...mmgen_core.conditioners.query_writer import QueryWriter
from ...mmgen_core.conditioners.seed_x import SeedXTokens, readable
from ...mmgen_core.conditioners.streaming import streaming_note
from ...mmgen_core.systems import identify
from ...mmgen_core.systems.query_files import agent_file, dreamllm_files, is_dreamllm, vit_file
from ...mmgen_core.tokenizers.added_tokens import AddedTokens
from ...mmgen_core.tokenizers.text import find_text_tokenizer, load_text_tokenizer
from . import loading
from .folders import FOLDER
from .loading import ManagedModel
from .precision import QUANTISED
from .text_model import FollowText, TextModel

AUTO = "auto"
SEED_X_NAMES = r"</?(?:img|patch)(?:_\d+)?>|<loc-\d+>|<box_(?:start|end)>"
DREAM_NAMES = r"\[PAD\]|<(?:image|dream|im_patch|(?:im|dream)_(?:start|end))>"
SEED_X_TOKENIZER = "cvlm_llama2_tokenizer_100img_and_224loc_addpatch"


@dataclass(frozen=True, eq=False)
class QueryModel:
    """A language model that draws by queries, with what belongs to it."""

    language: ManagedModel
    text: AddedTokens
    positions: int
    vision: ManagedModel | None

    @property
    def patcher(self) -> Any:
        return self.language.patcher

    def get_models(self) -> list[Any]:
        """For ComfyUI, which protects the models of a running prompt."""
        return [part.patcher for part in self.parts().values()]

    def parts(self) -> dict[str, ManagedModel]:
        parts = {"the language model": self.language, "the vision encoder": self.vision}
        return {name: part for name, part in parts.items() if part is not None}

    def modules(self) -> dict[str, nn.Module]:
        return {name: part.module for name, part in self.parts().items()}


@dataclass(frozen=True, eq=False)
class SeedX(QueryModel):
    agent: ManagedModel
    tokens: SeedXTokens
    name = "SEED-X"
    # What the vision encoder says of a picture of nothing; of its weights alone.
    memo: dict[str, Tensor] = field(default_factory=dict)

    def parts(self) -> dict[str, ManagedModel]:
        return super().parts() | {"the agent": self.agent}

    def needs_vision(self, what: str) -> ManagedModel:
        if self.vision is None:
            raise ValueError(
                f"{what} needs SEED-X's vision encoder, and none was found. Copy qwen_vit_G.pt "
                f"(the part transformer.visual of Qwen-VL-Chat) to models/mmgen, and choose it in "
                f"Load Query Model."
            )
        return self.vision


@dataclass(frozen=True, eq=False)
class DreamLLM(QueryModel):
    queries: ManagedModel
    projector: ManagedModel
    tokens: DreamTokens
    name = "DreamLLM"

    def parts(self) -> dict[str, ManagedModel]:
        own = {"dream_embedding": self.queries, "stable_diffusion_head": self.projector}
        return super().parts() | own


def as_text_model(model: QueryModel, style: str) -> TextModel:
    """The model as a CLIP of the stock Generate Text node.

    Args:
        style: of SEED-X's prompts: "base", "instruct", or "auto" for what its folder says.
    """
    writer = QueryWriter(model.language.file, model, model.patcher.load_device, style)
    own, *others = model.get_models()
    return TextModel(writer, own, others)


def following(model: QueryModel) -> Callable[[int, int, Tensor], None]:
    """An ``on_token`` of a turn: interrupt, progress bar, and the text so far on the node."""
    follow = FollowText()

    def on_token(count: int, total: int, ids_1n: Tensor) -> None:
        follow(count, total, readable(model.text.decode(ids_1n[0].tolist())))

    return on_token


def prompt_style(name: str, style: str) -> str:
    """SEED-X-I and SEED-X-Edit were trained on instructions; their folders are named so."""
    if style != AUTO:
        return style
    instructed = re.search(r"seed[_-]x[_-](i|edit)\b|instruct", name.lower().replace("\\", "/"))
    return "instruct" if instructed else "base"


def load_query_model(name: str, agent: str, vision: str, dtype: str) -> QueryModel:
    """SEED-X or DreamLLM, told apart by what lies beside the language model.

    Args:
        agent, vision: files of the model folders, or "auto" for the published places.
    """
    path = _path(name)
    if agent == AUTO and is_dreamllm(path):
        return _load_dreamllm(path, dtype)
    agent_path = _path(agent) if agent != AUTO else agent_file(path)
    vision_path = _path(vision) if vision != AUTO else vit_file(path, loading.model_folders())
    agent_part, _ = load_part(agent_path, "resamplers", dtype)
    language, checkpoint = load_part(path, "next-token model", dtype)
    vision_part = vision_path and load_part(vision_path, "vision encoder", dtype)[0]
    text = _text(path, SEED_X_NAMES, strip=True)
    tokens = SeedXTokens.of(text, agent_part.module.params.queries)
    _check_widths(language, {agent_part.file: agent_part.module.params.reading.width})
    _report(language, "SEED-X")
    positions = checkpoint.config.get("max_position_embeddings", 4096)
    return SeedX(language, text, positions, vision_part or None, agent_part, tokens)


def _load_dreamllm(path: Path, dtype: str) -> DreamLLM:
    files = dreamllm_files(path)
    kinds = {
        "vision": "vision encoder",
        "queries": "dream queries",
        "projector": "condition projector",
    }
    parts = {n: load_part(files[n], kind, dtype)[0] for n, kind in kinds.items()}
    language, checkpoint = load_part(path, "next-token model", dtype)
    text = _text(path, DREAM_NAMES)
    tokens = DreamTokens.of(text, checkpoint.config)
    widths = {
        parts["vision"].file: parts["vision"].module.params.output_widths[-1],
        parts["queries"].file: parts["queries"].module.params.width,
        parts["projector"].file: parts["projector"].module.params.widths[0],
    }
    _check_widths(language, widths)
    _report(language, "DreamLLM")
    positions = checkpoint.config.get("max_position_embeddings", 2048)
    own = (parts["queries"], parts["projector"], tokens)
    return DreamLLM(language, text, positions, parts["vision"], *own)


def _path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def load_part(path: Path, kind: str, dtype: str) -> tuple[ManagedModel, Checkpoint]:
    """One file, in the chosen precision; what is not the language model is never 8-bit."""
    checkpoint = read_checkpoint(path, loading._read)
    match = identify(checkpoint, kind)
    own = dtype if kind == "next-token model" or dtype not in QUANTISED else AUTO
    patcher = loading.fill_transformer(checkpoint, match, own)
    return ManagedModel(patcher, path.name), checkpoint


def _text(path: Path, names: str, strip: bool = False) -> AddedTokens:
    more = [
        folder / SEED_X_TOKENIZER
        for folder in [*path.resolve().parents[:3], *loading.model_folders()]
    ]
    return AddedTokens(load_text_tokenizer(find_text_tokenizer(path, more)), names, strip)


def _check_widths(language: ManagedModel, widths: dict[str, int]) -> None:
    width = language.module.params.width
    for file, found in widths.items():
        if found != width:
            raise CheckpointError(
                f"{file} is of width {found}, the language model {language.file} of width {width}: "
                f"they belong to different models. Choose files of one repository."
            )


def _report(language: ManagedModel, name: str) -> None:
    """Say in numbers whether the language model will be streamed, and what that means."""
    device = language.patcher.load_device
    size = comfy.model_management.module_size(language.module)
    if device.type == "cpu":
        return
    free = comfy.model_management.get_free_memory(device)
    logging.info("mmgen: %s", streaming_note(name, size, free, str(device)))
