"""What Transfusion models are asked for, in either layout: pictures of a text, and streams of
text and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.architecture import require_finite
from ..decoding import diffusion_stream, flow_stream
from ..decoding.diffusion_stream import DiffusionStream, random_steps
from ..decoding.flow_sequence import Part, Picture, picture_size
from ..decoding.flow_stream import FlowStream, StreamSampling
from ..decoding.kv_cache import KVCache
from ..decoding.noise import row_generators
from ..models.flow_transformer import FlowTransformer, FlowTransformerParams
from ..models.paper_transfusion import PaperTransfusion, PaperTransfusionParams
from ..tokenizers.text import (
    TextTokenizer,
    TokenizerError,
    find_text_tokenizer,
    load_text_tokenizer,
)

TransfusionModel = FlowTransformer | PaperTransfusion
# (step, steps, a preview to make if there is time); may raise to stop the run.
OnStep = Callable[[int, int, Callable[[], Tensor]], None]
PICTURE_MARK = "<image>"


class ByteTokenizer(TextTokenizer):
    """Text as its UTF-8 bytes, as models of 256 text ids are trained."""

    path = Path("bytes")

    @property
    def vocabulary(self) -> dict[str, int]:
        return {f"<{byte:02x}>": byte for byte in range(256)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def text_tokenizer(
    params: FlowTransformerParams | PaperTransfusionParams,
    checkpoint: Path,
    folders: Sequence[Path],
) -> TextTokenizer:
    """The text tokenizer beside a model; bytes for a model of 256 ids of text without one.

    Raises:
        TokenizerError: none found, or one with more tokens than the model has ids.
    """
    flow = isinstance(params, FlowTransformerParams)
    ids = params.text_vocab if flow else params.decoder.vocab
    of_bytes = (params.text_vocab if flow else params.bos) == 256
    try:
        tokenizer = load_text_tokenizer(find_text_tokenizer(checkpoint, folders))
    except TokenizerError:
        if not of_bytes:
            raise
        return ByteTokenizer()
    if len(tokenizer) > ids:
        raise TokenizerError(
            f"{tokenizer.path} has {len(tokenizer)} tokens, {checkpoint.name} has {ids} ids of "
            f"text. Put the model's own tokenizer beside it, as "
            f"{checkpoint.name.rpartition('.')[0]}.tokenizer.json."
        )
    return tokenizer


@torch.inference_mode()
def draw(
    model: TransfusionModel,
    text: Sequence[int],
    grid: tuple[int, int] | None,
    sampling: StreamSampling,
    seed: int,
    count: int,
    device: torch.device,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents [B, L, h, w] of pictures of a text, all solved together.

    Args:
        grid: latent rows and columns; None for the model's own.
    """
    generators = list(row_generators(seed, count))
    prompt: list[Part] = [torch.tensor(list(text), dtype=torch.int64)]
    shown = shown_latents(on_step, is_channels_first(model))
    if isinstance(model, PaperTransfusion):
        p = model.params
        size = (p.channels, *(grid or (p.side, p.side)))
        noise, steps = random_steps(generators, size, sampling.steps)
        stream = DiffusionStream(model, [*prompt, torch.tensor([p.boi])], sampling, device)
        return checked(stream.draw(noise.to(device), steps, shown), model).cpu()
    p = model.params
    kind = p.kinds[0]
    tokens = token_grid_of(model, grid)
    size = picture_size(p, 0, tokens)
    start = torch.tensor([*p.shape_ids(tokens), p.som(0)])
    noise = torch.stack([torch.randn(size, generator=g) for g in generators])
    stream = FlowStream(model, [*prompt, start], sampling, device)
    drawn = checked(flow_stream.solve(stream, noise.to(device), shown), model)
    return (drawn if kind.channels_first else drawn.movedim(-1, 1)).cpu()


def token_grid_of(model: FlowTransformer, grid: tuple[int, int] | None) -> tuple[int, ...]:
    """The grid of tokens of a picture of ``grid`` latent cells.

    Raises:
        ValueError: a model of other than pictures, no size, or one that does not divide.
    """
    kind = model.params.kinds[0]
    if kind.axes != 2:
        raise ValueError(
            f"This model's latents have {kind.axes} axes; pictures, which have two, are needed."
        )
    if grid is None:
        if kind.shape is None:
            raise ValueError(
                "This model's file does not say how large its pictures are: set width and height."
            )
        return kind.shape
    if any(cells % kind.reduction for cells in grid):
        raise ValueError(f"Latent sides must be multiples of {kind.reduction}, found {grid}.")
    return tuple(cells // kind.reduction for cells in grid)


def checked(latents: Tensor, model: TransfusionModel) -> Tensor:
    """The latents, if they are finite."""
    require_finite(latents, "The picture", {"the model": model})
    return latents


def memory_required(
    model: TransfusionModel, grid: tuple[int, int] | None, tokens: int, rows: int
) -> int:
    """Bytes a run takes beside the weights, both guidance branches: keys and values, the widest
    activations, and in the lucidrains layout the attention scores and all layers' states.

    Args:
        tokens: read or written besides a picture's.
    """
    size = model.compute_dtype.itemsize
    if isinstance(model, PaperTransfusion):
        d, p = model.params.decoder, model.params
        cells = grid or (p.side, p.side)
        count = cells[0] * cells[1] // p.patch**2
        shape = (d.depth, 2 * rows, d.kv_heads, tokens + count, d.head_width)
        cache = KVCache.nbytes(*shape, model.compute_dtype)
        return cache + 2 * rows * count * (4 * d.width + 3 * d.mlp_width) * size
    f = model.params
    count = math.prod(token_grid_of(model, grid))
    shape = (f.depth, 2 * rows, f.heads, tokens + count, f.head_size)
    cache = KVCache.nbytes(*shape, model.compute_dtype)
    states = 2 * rows * count * f.width * (f.depth + 8) * size
    scores = 2 * rows * f.heads * count * (tokens + count) * 4 * 3
    return cache + states + scores


@torch.inference_mode()
def write(
    model: TransfusionModel,
    tokenizer: TextTokenizer,
    text: str,
    pictures: Sequence[Tensor],
    grid: tuple[int, int] | None,
    sampling: StreamSampling,
    seed: int,
    device: torch.device,
    on_step: OnStep | None = None,
) -> tuple[str, Tensor | None]:
    """Continue a text with text and pictures.

    Args:
        text: ``<image>`` stands where the next of the pictures is read.
        pictures: latents [L, h, w].

    Returns:
        The new text, ``<image>`` where a picture was drawn, and the drawn pictures.
    """
    prompt = prompt_parts(model, tokenizer, text, pictures)
    shown = shown_latents(on_step, is_channels_first(model))
    if isinstance(model, PaperTransfusion):
        if grid is not None:
            patch = model.params.patch
            sampling = replace(sampling, shape=(grid[0] // patch, grid[1] // patch))
        parts = diffusion_stream.generate(model, prompt, seed, sampling, device, shown)
    else:
        if grid is not None:
            sampling = replace(sampling, shape=token_grid_of(model, grid))
        parts = flow_stream.generate(model, prompt, seed, sampling, device, shown)
    begun = sum(isinstance(part, Picture) for part in prompt)
    drawn = [part for part in parts if isinstance(part, Picture)][begun:]
    said = written_text(model, tokenizer, parts)
    if not drawn:
        return said, None
    first = is_channels_first(model)
    stacked = [p.latents if first else p.latents.movedim(-1, 0) for p in drawn]
    if len({tuple(latents.shape) for latents in stacked}) > 1:
        raise ValueError("The model drew pictures of several sizes; one LATENT holds one size.")
    return said, checked(torch.stack(stacked), model)


def prompt_parts(
    model: TransfusionModel, tokenizer: TextTokenizer, text: str, pictures: Sequence[Tensor]
) -> list[Part]:
    """Texts and pictures in order, with the marks that the model expects around a picture.

    Raises:
        ValueError: more or fewer marks than pictures.
    """
    texts = text.split(PICTURE_MARK)
    if len(texts) - 1 != len(pictures):
        raise ValueError(
            f"The text has {len(texts) - 1} marks {PICTURE_MARK} and {len(pictures)} pictures are "
            f"connected: one mark per picture is needed."
        )
    parts: list[Part] = []
    for i, said in enumerate(texts):
        ids = tokenizer.encode(said)
        if ids:
            parts.append(torch.tensor(ids))
        if i < len(pictures):
            parts += picture_parts(model, pictures[i])
    return parts


def picture_parts(model: TransfusionModel, latents: Tensor) -> list[Part]:
    if isinstance(model, PaperTransfusion):
        return [Picture(latents)]
    p = model.params
    kind = p.kinds[0]
    if latents.shape[0] != kind.channels:
        raise ValueError(
            f"The latent has {latents.shape[0]} channels, this model takes {kind.channels}: use "
            f"the VAE that it was trained with."
        )
    grid = token_grid_of(model, tuple(latents.shape[-2:]))
    start = torch.tensor([*p.shape_ids(grid), p.som(0)])
    shaped = latents if kind.channels_first else latents.movedim(0, -1)
    return [start, Picture(shaped), torch.tensor([p.eom(0)])]


def written_text(model: TransfusionModel, tokenizer: TextTokenizer, parts: Sequence[Part]) -> str:
    """All text of a stream, pictures as marks, special ids left out."""
    most, said = len(tokenizer), ""
    special = set()
    if isinstance(model, PaperTransfusion):
        special = {model.params.bos, model.params.boi, model.params.eoi}
    for part in parts:
        if isinstance(part, Picture):
            said += PICTURE_MARK
        else:
            said += tokenizer.decode(i for i in part.tolist() if i < most and i not in special)
    return said


def shown_latents(
    on_step: OnStep | None, channels_first: bool
) -> Callable[[int, int, Tensor], None] | None:
    """The solver's reports as previews: the first three channels as colours."""
    if on_step is None:
        return None

    def report(step: int, total: int, x: Tensor) -> None:
        first = x[0].float() if channels_first else x[0].float().movedim(-1, 0)
        on_step(step, total, lambda: latent_colours(first))

    return report


def latent_colours(latents_Lhw: Tensor) -> Tensor:
    """[1, h, w, 3] in 0..1."""
    channels = latents_Lhw[:3]
    if len(channels) < 3:
        channels = channels[:1].expand(3, *channels.shape[1:])
    return (channels / 4 + 0.5).clamp(0, 1).movedim(0, -1)[None]


def is_channels_first(model: TransfusionModel) -> bool:
    return isinstance(model, PaperTransfusion) or model.params.kinds[0].channels_first
