"""Reading a question about a picture as Show-o was trained to: the picture's tokens see each
other, the text behind them is causal. The answer is then written by the next-token engine."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.decoder import Segment
from ..models.show_o import ShowO
from .kv_cache import KVCache
from .stream import Prefix


@torch.inference_mode()
def read_codes_question(model: ShowO, ids: Tensor, device: torch.device | str) -> Prefix:
    """A prompt of ``question_ids``: all up to the picture's end sees all of that."""
    stop = int((ids == model.params.eoi).nonzero()[0]) + 1
    x = model.decoder.embed_ids(ids.to(device))
    cache = model.decoder.cache(1, len(ids), device)
    model.decoder(x[:stop], [Segment(cache, stop, "full")])
    return _rest(model, cache, x[stop:])


@torch.inference_mode()
def read_features_question(
    model: ShowO, before: Tensor, features: Tensor, behind: Tensor, device: torch.device | str
) -> Prefix:
    """A prompt of ``clip_question_ids`` around CLIP features [m, C]: everything sees those.

    Raises:
        ValueError: features of another width than the model's.
    """
    if model.projector is None or features.shape[-1] != model.params.clip_width:
        raise ValueError(
            f"The picture's CLIP features have {features.shape[-1]} channels, this model takes "
            f"{model.params.clip_width or 'none: it looks at image tokens'}. The published models "
            f"take those of clip-vit-large-patch14-336."
        )
    decoder = model.decoder
    shown = model.projector(features.to(device, model.compute_dtype))
    x = torch.cat([decoder.embed_ids(before.to(device)), shown])
    cache = decoder.cache(1, len(x) + len(behind), device)
    attend = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).tril()
    attend[:, len(before) :] = True
    decoder(x, [Segment(cache, len(x), attend)])
    return _rest(model, cache, decoder.embed_ids(behind.to(device)))


def _rest(model: ShowO, cache: KVCache, x: Tensor) -> Prefix:
    hidden = model.decoder(x, [Segment(cache, len(x))])
    return Prefix((), (cache,), hidden[-1:])
