"""Unified-IO 2 (Lu et al. 2023): text and pictures in, text or a picture's codes out.

Text, a main picture and a history of pictures are embedded, encoded together, and read by a
decoder through cross-attention. The file's audio parts are not built.

Suffixes: B prompts, S encoder tokens, N packed decoder tokens, P patches, V values of a patch,
K frames, C width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .decoder import Segment, positions
from .encoder_decoder import (
    CrossCache,
    Decoder,
    Encoder,
    StackParams,
    rotary_1d,
    rotary_2d,
    same_parts,
)
from .unified_io_2_vision import (
    Resampler,
    ResamplerParams,
    VisionEncoder,
    VisionParams,
    pair_bias,
)

CODES_FROM = 2  # image ids before the first code: start, mask


def image_blocks(vocab: int, codes: int) -> tuple[int, ...]:
    """Image ids: start and mask, the codes, and padding of the table if there is any."""
    padding = vocab - CODES_FROM - codes
    return (CODES_FROM, codes, padding) if padding else (CODES_FROM, codes)


@dataclass(frozen=True)
class UnifiedIO2Params:
    """Attributes:
    codes: of the image tokenizer; the ids before the codes are start and mask.
    grid: patches of the main picture; history_grid: of a frame; target_grid: codes drawn, of
    ``stride`` pixels each.
    text_limit: most tokens of a prompt, and of an answer.
    """

    stack: StackParams
    vision: VisionParams
    history: ResamplerParams
    text_vocab: int
    image_vocab: int
    codes: int
    grid: tuple[int, int] = (24, 24)
    history_grid: tuple[int, int] = (16, 16)
    target_grid: tuple[int, int] = (32, 32)
    text_limit: int = 512
    stride: int = 8

    @property
    def blocks(self) -> tuple[int, ...]:
        """Of the head that scores image ids."""
        return image_blocks(self.image_vocab, self.codes)

    @property
    def answer_limit(self) -> int:
        return self.text_limit

    @property
    def patch(self) -> int:
        """Pixels of a patch's side."""
        return math.isqrt(self.vision.patch_values // 3)


@dataclass(frozen=True, eq=False)
class Patches:
    """Pictures as the encoder takes them: patches [..., P, V], mask [..., P] (True where there
    is a picture and not padding), row-major places in the grid [..., P]."""

    values: Tensor
    mask: Tensor
    places: Tensor


@dataclass(frozen=True)
class EncoderInput:
    """Embedded prompts [B, S, C], cosines and sines [B, S, D / 2, 2], mask [B, S]."""

    x: Tensor
    rotary: Tensor
    mask: Tensor

    @staticmethod
    def joined(parts: Sequence[EncoderInput]) -> EncoderInput:
        names = ("x", "rotary", "mask")
        return EncoderInput(*(torch.cat([getattr(p, n) for p in parts], dim=1) for n in names))

    def compact(self) -> EncoderInput:
        """One prompt without its masked tokens, which nothing reads."""
        kept = self.mask[0]
        return EncoderInput(self.x[:, kept], self.rotary[:, kept], self.mask[:, kept])


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a picture or text is made from: ids [n], a main picture, a history of frames."""

    ids: Tensor
    image: Patches | None = None
    history: Patches | None = None

    def equals(self, other: Prompt) -> bool:
        return same_parts(self, other)


class UnifiedIO2(nn.Module):
    def __init__(
        self,
        params: UnifiedIO2Params,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        p, C, kw = params, params.stack.width, {"dtype": dtype, "device": device}
        self.text_embed = operations.Embedding(p.text_vocab, C, **kw)
        self.image_embed = operations.Embedding(p.image_vocab, C, **kw)
        names = ("text", "image", "history", "text_target", "image_target")
        self.modality = nn.ParameterDict({n: nn.Parameter(torch.empty(C, **kw)) for n in names})
        self.vision = VisionEncoder(p.vision, operations, **kw)
        self.image_project = operations.Linear(2 * p.vision.width, C, bias=False, **kw)
        H = p.history.width
        self.history_project = operations.Linear(p.vision.width, H, bias=False, **kw)
        self.resampler = Resampler(p.history, operations, **kw)
        self.history_out = operations.Linear(H, C, bias=False, **kw)
        self.encoder = Encoder(p.stack, operations, **kw)
        self.decoder = Decoder(p.stack, operations, **kw)
        # The published heads are the embedding tables. They are layers of their own here, since
        # a host that streams weights has no table to share.
        self.text_head = operations.Linear(C, p.text_vocab, bias=False, **kw)
        self.image_head = nn.ModuleList(
            operations.Linear(C, size, bias=False, **kw)
            for size in image_blocks(p.image_vocab, p.codes)
        )

    @property
    def run_device(self) -> torch.device:
        """Where the run happens: where the host put a raw parameter."""
        return self.modality["text"].device

    def marked(self, x: Tensor, name: str) -> Tensor:
        x = x.to(self.compute_dtype)
        return x + self.modality[name].to(x)

    def embed_text(self, ids_BS: Tensor, mask_BS: Tensor | None = None) -> EncoderInput:
        x = self.marked(self.text_embed(ids_BS), "text")
        at = torch.arange(ids_BS.shape[1], device=ids_BS.device).expand_as(ids_BS)
        mask = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS.bool()
        return EncoderInput(x, rotary_1d(at, self.params.stack.head_size), mask)

    def embed_image(self, image: Patches) -> EncoderInput:
        """The main pictures: patches [B, P, V]."""
        p = self.params
        values = image.values.to(self.compute_dtype)
        features = self.vision(values, image.mask, image.places, p.grid)
        x = self.image_project(torch.cat(features, dim=-1))
        stretch = math.sqrt(math.prod(p.target_grid) / math.prod(p.grid))
        rows, columns = image.places // p.grid[1], image.places % p.grid[1]
        rotary = rotary_2d(rows * stretch, columns * stretch, p.stack.head_size)
        return EncoderInput(self.marked(x, "image"), rotary, image.mask.bool())

    def embed_history(self, history: Patches) -> EncoderInput:
        """Frames [B, K, P, V], each as a few latents; a frame that is all padding is masked."""
        p, (B, K) = self.params, history.values.shape[:2]
        flat = (t.flatten(0, 1) for t in (history.values, history.mask, history.places))
        values, mask, places = flat
        features, _ = self.vision(values.to(self.compute_dtype), mask, places, p.history_grid)
        latents = self.resampler(self.history_project(features), mask)
        x = self.marked(self.history_out(latents).view(B, K * p.history.latents, -1), "history")
        frame = torch.arange(K, device=x.device)[:, None].expand(-1, p.history.latents)
        latent = torch.arange(p.history.latents, device=x.device).expand_as(frame)
        rotary = rotary_2d(frame.flatten(), latent.flatten(), p.stack.head_size)
        seen = history.mask.bool().any(-1).repeat_interleave(p.history.latents, dim=1)
        return EncoderInput(x, rotary.expand(B, -1, -1, -1), seen)

    def embed_prompt(self, prompt: Prompt) -> EncoderInput:
        """One prompt, S tokens, none of them masked."""
        parts = [self.embed_text(prompt.ids[None].to(self.run_device))]
        for pictures, embed in (
            (prompt.image, self.embed_image),
            (prompt.history, self.embed_history),
        ):
            if pictures is not None:
                fields = (pictures.values, pictures.mask, pictures.places)
                parts.append(embed(Patches(*(t[None].to(self.run_device) for t in fields))))
        return EncoderInput.joined(parts).compact()

    def encode(self, given: EncoderInput) -> Tensor:
        """Encoder states [B, S, C]."""
        return self.encoder(given.x, given.rotary, pair_bias(given.mask, given.x.dtype))

    def target(self, kind: str) -> Target:
        """The decoder over text ids, or over image ids."""
        return Target(self, kind)


class Target:
    """The decoder over one of the two vocabularies: what a next-token engine drives.

    Image ids are scored in blocks, so that a picture's codes alone can be asked for.
    """

    def __init__(self, model: UnifiedIO2, kind: str):
        self.model, self.kind, self.params = model, kind, model.params
        self.compute_dtype, self.device = model.compute_dtype, model.run_device
        self.head = model.image_head if kind == "image" else nn.ModuleList([model.text_head])
        self.start = (0,)

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model's weights, among which an engine looks for what is not finite."""
        return self.model.state_dict()

    def read(self, prompt: Prompt) -> CrossCache:
        """A cache of one row, with room for the start token, whose cross-attention reads the
        prompt."""
        model, stack = self.model, self.params.stack
        given = model.embed_prompt(prompt)
        cross = model.decoder.cross(model.encode(given), given.rotary)
        sizes = (stack.decoder_depth, 1, stack.heads, len(self.start), stack.head_size)
        return CrossCache(*sizes, self.compute_dtype, model.run_device, cross=cross)

    def embed_ids(self, ids: Tensor) -> Tensor:
        table = self.model.text_embed if self.kind == "text" else self.model.image_embed
        return self.model.marked(table(ids), f"{self.kind}_target")

    def __call__(self, x_NC: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden states [N, C]; every segment's cache grows by its tokens."""
        at, size = positions(segments, x_NC.device), self.params.stack.head_size
        if self.kind == "text":
            return self.model.decoder(x_NC, segments, rotary_1d(at, size))
        # The start token takes the first cell: every input sits at the cell it predicts.
        columns = self.params.target_grid[1]
        return self.model.decoder(x_NC, segments, rotary_2d(at // columns, at % columns, size))

    def scores(self, hidden: Tensor, blocks: slice | None = None) -> Tensor:
        """fp32 logits [..., V] of all ids, or of some of the head's blocks."""
        chosen = self.head if blocks is None else self.head[blocks]
        scores = torch.cat([block(hidden).float() for block in chosen], dim=-1)
        return scores / math.sqrt(self.params.stack.width)
