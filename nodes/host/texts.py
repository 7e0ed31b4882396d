"""Texts through the host's own CLIP encoders."""

from __future__ import annotations

from typing import Any

import torch

from ...mmgen_core.conditioners.scale_prompt import TextFeatures

CLIP_END = 49407  # the end of the text in CLIP's vocabulary


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
    mark = getattr(clip.tokenizer, "end_mark", CLIP_END)  # our own encoders name theirs
    if mark not in ids:
        raise ValueError("This text encoder is no CLIP model: its tokens have no end mark.")
    if len(windows) > 1:
        count = sum(entry[-1] > 0 for window in windows for entry in window)  # of a word
        raise ValueError(
            f"The text has {count} tokens, the model was trained with at most "
            f"{len(windows[0]) - 2}. Shorten it: {text[:60]!r} ..."
        )
    end = ids.index(mark)
    hidden = clip.encode_from_tokens(tokens)
    mask = (torch.arange(hidden.shape[1]) <= end)[None].to(hidden.device)
    return TextFeatures(hidden, hidden[:, end], mask)
