"""Text tokenizers from the published files: tokenizer.json, or a sentencepiece tokenizer.model.

They are read from beside a checkpoint, where a downloaded repository has them; nothing is
fetched, and no code of a repository runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

JSON_NAMES = ("tokenizer.json", "text_tokenizer.json")
SENTENCEPIECE_NAMES = ("tokenizer.model", "spiece.model")
FOLDERS = ("", "tokenizer", "original_tokenizers", "../tokenizer", "../../tokenizer")


class TokenizerError(ValueError):
    """A text tokenizer that is missing or cannot be used: says which file, and what to do."""


class TextTokenizer(ABC):
    """Text to ids and back, without any begin or end mark added.

    Attributes:
        path: the file it was read from.
    """

    path: Path

    @property
    @abstractmethod
    def vocabulary(self) -> Mapping[str, int]:
        """Names of all ids."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""

    def id_of(self, name: str) -> int:
        """Id of a name.

        Raises:
            TokenizerError: the vocabulary lacks it.
        """
        if name not in self.vocabulary:
            raise TokenizerError(
                f"{self.path.name} has no token {name}: it belongs to another model "
                f"({len(self.vocabulary)} tokens). Put the model's own file beside it."
            )
        return self.vocabulary[name]

    def __len__(self) -> int:
        return 1 + max(self.vocabulary.values())


class JsonTokenizer(TextTokenizer):
    """A tokenizer.json of Hugging Face's ``tokenizers``."""

    def __init__(self, path: Path):
        from tokenizers import Tokenizer  # brought by the host; not needed before a model loads

        self.path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise TokenizerError(
                f"{path} is no readable tokenizer file: {error}. Download it again."
            ) from error

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


class SentencePieceTokenizer(TextTokenizer):
    """A tokenizer.model of sentencepiece (LLaMA, T5)."""

    def __init__(self, path: Path):
        from sentencepiece import SentencePieceProcessor

        self.path = path
        try:
            self._tokenizer = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise TokenizerError(
                f"{path} is no readable sentencepiece model: {error}. Download it again."
            ) from error

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        return {self._tokenizer.id_to_piece(i): i for i in range(len(self._tokenizer))}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids])


def find_text_tokenizer(
    checkpoint: Path, more: Sequence[Path] = (), names: Sequence[str] = ()
) -> Path:
    """The tokenizer file of a checkpoint: ``<its name>.tokenizer.json``, else a published name in
    its folder, in a folder "tokenizer" there or above it, or in the folders of ``more``.

    Args:
        names: published names to look for, best first; by default all that are known.

    Raises:
        TokenizerError: there is none; names the places that were searched.
    """
    stem = checkpoint.name.removesuffix(".json").removesuffix(".index").rpartition(".")[0]
    own = checkpoint.with_name(f"{stem}.tokenizer.json")
    if own.is_file():
        return own
    wanted = tuple(names) or (*JSON_NAMES, *SENTENCEPIECE_NAMES)
    folders = [checkpoint.parent / folder for folder in FOLDERS] + list(more)
    for folder in folders:
        for name in wanted:
            if (folder / name).is_file():
                return (folder / name).resolve()
    raise TokenizerError(
        f"{checkpoint.name} needs its text tokenizer, one of {', '.join(wanted)} (or "
        f"{own.name}), and none was found. Copy it from the model's repository to "
        f"{checkpoint.parent}, or to a folder named tokenizer there."
    )


def load_text_tokenizer(path: Path) -> TextTokenizer:
    """Open a tokenizer file by its kind.

    Raises:
        TokenizerError: no readable tokenizer.
    """
    return JsonTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def added_tokens(path: Path) -> dict[str, int]:
    """Names and ids that an ``added_tokens.json`` beside a tokenizer adds; empty without one."""
    beside = path.with_name("added_tokens.json")
    if not beside.is_file():
        return {}
    try:
        content: Any = json.loads(beside.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{beside} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{beside} is no table of tokens and ids.")
    return content
