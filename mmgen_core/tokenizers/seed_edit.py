"""SEED tokens changed by hand: positions named in a text, codes set, taken over or blended.

The order is causal: the first codes carry the coarse meaning, later ones add to it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..image_tokens import ImageTokens
from .seed import SeedImageTokenizer, SeedTokenizer


def positions(text: str, count: int) -> list[int]:
    """Numbers and ranges such as "0-7, 12" in 0..count - 1; "all" or nothing is every position.

    Raises:
        ValueError: names the part that is no such number or range.
    """
    if text.strip().lower() in ("", "all"):
        return list(range(count))
    found: list[int] = []
    for part in filter(None, (p.strip() for p in text.replace(";", ",").split(","))):
        first, _, last = part.partition("-")
        try:
            start, stop = int(first), int(last or first)
        except ValueError:
            raise ValueError(
                f"{part!r} is no position: give numbers and ranges, such as 0-7, 12, or all."
            ) from None
        if not 0 <= start <= stop < count:
            raise ValueError(f"{part!r} lies outside of the positions 0-{count - 1}.")
        found += range(start, stop + 1)
    return sorted(set(found))


def with_codes(tokens: ImageTokens, where: list[int], codes: list[int], vocab: int) -> ImageTokens:
    """The tokens with codes set at positions, in every picture of the batch.

    Raises:
        ValueError: another number of codes than positions (one code fills all), or a code that
            is not in the codebook.
    """
    if len(codes) not in (1, len(where)):
        raise ValueError(
            f"{len(codes)} codes do not fit {len(where)} positions: give one code per position, "
            f"or one for all of them."
        )
    wrong = [code for code in codes if not 0 <= code < vocab]
    if wrong:
        raise ValueError(f"Code {wrong[0]} is unknown: this codebook has 0..{vocab - 1}.")
    ids = tokens.ids[0].clone()
    ids[..., where] = torch.tensor(codes).expand(len(where))
    return replace(tokens, ids=(ids,), features=None)


def mixed(
    tokenizer: SeedTokenizer | SeedImageTokenizer,
    first: ImageTokens,
    second: ImageTokens,
    share: float,
    where: list[int],
    device: torch.device | None = None,
) -> ImageTokens:
    """At some positions ``share`` of the second pictures' codes, 1 for those codes themselves.

    Codes blended halfway are no entries of the codebook: the tokens carry their vectors then, which
    the way back reads and a language model cannot. Their ids are those of the larger share.

    Raises:
        ValueError: the batches do not fit, or tokens of another codebook.
    """
    if first.batch != second.batch and 1 not in (first.batch, second.batch):
        raise ValueError(f"{first.batch} and {second.batch} pictures cannot be mixed.")
    batch = max(first.batch, second.batch)
    a, b = (spread(t, batch) for t in (first, second))
    chosen = torch.zeros(tokenizer.params.codes, dtype=torch.bool)
    chosen[where] = True
    ids = torch.where(chosen & (share >= 0.5), b.ids[0], a.ids[0])
    vectors = [tokenizer.features(tokens, device).cpu() for tokens in (a, b)]
    if share in (0.0, 1.0) and a.features is None and b.features is None:
        return replace(a, ids=(ids,), mask=None)
    blend = torch.where(chosen, torch.lerp(*vectors, share), vectors[0])
    return ImageTokens((ids,), first.codebook, features=blend)


def spread(tokens: ImageTokens, batch: int) -> ImageTokens:
    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.expand(batch, *tensor.shape[1:])

    return ImageTokens((wide(tokens.ids[0]),), tokens.codebook, features=wide(tokens.features))


def as_text(tokens: ImageTokens) -> str:
    """The ids of every picture, one line each."""
    rows = tokens.ids[0].flatten(1).tolist()
    return "\n".join(" ".join(map(str, row)) for row in rows)
