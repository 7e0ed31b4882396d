"""What Show-o is asked for: pictures of a text, parts of pictures, wider pictures, answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..conditioners.show_o_prompt import codes_to_redraw, drawing_ids
from ..decoding.kv_cache import KVCache
from ..decoding.masked import UNKNOWN, MaskedSampling, Prompts
from ..decoding.noise import row_generators
from ..decoding.painting import DIRECTIONS, Painter, extend, windows_of
from ..image_tokens import ImageTokens
from ..models.show_o import ShowO, ShowOParams
from ..tokenizers.lookup_free import LookupFreeTokenizer
from ..tokenizers.text import (
    TextTokenizer,
    TokenizerError,
    find_text_tokenizer,
    load_text_tokenizer,
)

# (step, steps, a preview to make if there is time); may raise to stop the run.
OnStep = Callable[[int, int, Callable[[], Tensor]], None]


def text_tokenizer(params: ShowOParams, checkpoint: Path, folders: Sequence[Path]) -> TextTokenizer:
    """The text tokenizer of a model: that of microsoft/phi-1_5 for the public files.

    Raises:
        TokenizerError: there is none, or one of another size.
    """
    path = find_text_tokenizer(checkpoint, folders, ("tokenizer.json",))
    tokenizer = load_text_tokenizer(path)
    if len(tokenizer) != params.text_vocab:
        raise TokenizerError(
            f"{path} has {len(tokenizer)} tokens, {checkpoint.name} was trained with "
            f"{params.text_vocab}. The public Show-o files take tokenizer.json of "
            f"microsoft/phi-1_5, as it is there."
        )
    return tokenizer


@dataclass(frozen=True)
class Painting:
    """How pictures are painted.

    Attributes:
        seed: of the first picture; picture i has seed + i.
        count: pictures.
    """

    sampling: MaskedSampling
    seed: int = 0
    count: int = 1

    def painter(self, params: ShowOParams) -> Painter:
        generators = list(row_generators(self.seed, self.count))
        return Painter(params.side, self.sampling, generators)


def check_tokenizer(model: ShowO, tokenizer: nn.Module) -> LookupFreeTokenizer:
    """The image tokenizer, if it is one of the model's kind.

    Raises:
        ValueError: another kind, another vocabulary, or another than the model names.
    """
    p = model.params
    if not isinstance(tokenizer, LookupFreeTokenizer) or tokenizer.params.vocab != p.codes:
        raise ValueError(
            f"This Show-o model draws {p.codes} codes of a MAGVIT-v2 tokenizer; the tokenizer "
            f"given is {tokenizer.fingerprint}. Load the model's own (showlab/magvitv2 for the "
            f"public files)."
        )
    if p.codebook not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"This Show-o model belongs to the tokenizer {p.codebook}, the one given is "
            f"{tokenizer.fingerprint}. Load the model's own."
        )
    return tokenizer


def known_codes(tokenizer: LookupFreeTokenizer, tokens: ImageTokens, count: int) -> Tensor:
    """Codes [count, h, w] of pictures to go on from.

    Raises:
        ValueError: tokens of another tokenizer, ids outside its codes, another number of pictures.
    """
    tokens.check_codebook(tokenizer.fingerprint)
    codes = tokens.ids[-1]
    if tokens.batch not in (1, count):
        raise ValueError(f"{tokens.batch} pictures of tokens do not fit a batch of {count}.")
    if int(codes.min()) < 0 or int(codes.max()) >= tokenizer.params.vocab:
        raise ValueError(f"Token ids must lie in 0..{tokenizer.params.vocab - 1}.")
    return codes.expand(count, -1, -1).clone()


def canvas_of(
    model: ShowO,
    tokenizer: LookupFreeTokenizer,
    painting: Painting,
    start: ImageTokens | None,
    mask_BHW: Tensor | None,
    size: tuple[int, int] | None,
) -> Tensor:
    """Codes [B, h, w], unknown where they are to be drawn.

    Args:
        start: pictures of which a part is redrawn: what their own mask or ``mask_BHW`` marks.
        mask_BHW: pixels to redraw, by the reference's rule (``codes_to_redraw``).
        size: width and height in pixels of a new picture; None for the model's own.

    Raises:
        ValueError: a mask without pictures or pictures without a mask, or that do not fit.
    """
    side = model.params.side
    if start is None:
        if mask_BHW is not None:
            raise ValueError("A mask needs the tokens of the picture: connect start_tokens.")
        width, height = size or (side * tokenizer.stride,) * 2
        if width % tokenizer.stride or height % tokenizer.stride:
            raise ValueError(
                f"width and height must be multiples of {tokenizer.stride}, found {width} x "
                f"{height}."
            )
        grid = (height // tokenizer.stride, width // tokenizer.stride)
        return torch.full((painting.count, *grid), UNKNOWN)
    codes = known_codes(tokenizer, start, painting.count)
    grid = tuple(codes.shape[-2:])
    if mask_BHW is not None:
        redraw = codes_to_redraw(checked_mask(mask_BHW, grid), grid)
    elif start.mask is not None:
        redraw = start.mask > 0.5
    else:
        raise ValueError(
            "Nothing says which part of the start tokens to redraw: connect a mask, or pass them "
            "through Token Mask."
        )
    if not redraw.flatten(1).any(1).all():
        raise ValueError("The mask covers no token: nothing would be redrawn. Paint a larger one.")
    if len(redraw) not in (1, painting.count):
        raise ValueError(f"{len(redraw)} masks do not fit {painting.count} pictures.")
    return torch.where(redraw, UNKNOWN, codes)


def checked_mask(mask_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
    height, width = mask_BHW.shape[-2:]
    if height * grid[1] != width * grid[0]:
        raise ValueError(
            f"The mask is {width} x {height}, the picture's tokens are {grid[1]} x {grid[0]}: "
            f"their shapes differ. Scale and crop the mask as the picture was."
        )
    return mask_BHW.cpu()


@torch.inference_mode()
def paint(
    model: ShowO,
    tokenizer: LookupFreeTokenizer,
    text: list[int],
    canvas_Bhw: Tensor,
    painting: Painting,
    device: torch.device,
    on_step: OnStep | None = None,
) -> ImageTokens:
    """Pictures of a text: all that is unknown of ``canvas_of`` drawn.

    Raises:
        ValueError: an over-long text, a canvas smaller than what the model draws.
        FloatingPointError: scores that are not finite.
    """
    windows = windows_of((canvas_Bhw == UNKNOWN).any(0), model.params.side)
    prompts = read_prompts(model, text, painting, device)
    shown = Shown(tokenizer, device, on_step)
    painter = painting.painter(model.params)
    canvas = painter.fill(prompts, canvas_Bhw.to(device), windows, shown)
    return ImageTokens((canvas.cpu(),), tokenizer.fingerprint)


@dataclass(frozen=True)
class Extension:
    """One step of an extrapolation: a direction and the text of what is to be there."""

    direction: str
    text: list[int]


def read_extensions(text: str) -> list[tuple[str, str]]:
    """Directions and texts of lines "direction: text"; empty lines say nothing.

    Raises:
        ValueError: no lines, or one without a known direction; names the line.
    """
    steps = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        way, _, said = line.partition(":")
        if way.strip().lower() not in DIRECTIONS:
            raise ValueError(
                f"Line {number} is {line.strip()!r}: it must begin with {', '.join(DIRECTIONS)} "
                f"and a colon, then what is to be there."
            )
        steps.append((way.strip().lower(), said.strip()))
    if not steps:
        raise ValueError('No steps: write a line such as "right: a green tree".')
    return steps


@torch.inference_mode()
def extrapolate(
    model: ShowO,
    tokenizer: LookupFreeTokenizer,
    start: ImageTokens,
    steps: Sequence[Extension],
    offset: int,
    painting: Painting,
    device: torch.device,
    on_step: OnStep | None = None,
) -> ImageTokens:
    """Pictures made larger step by step, in any directions in any order.

    Each step adds half of what the model draws, plus ``offset`` codes. The reference fails going
    down, and where a horizontal step follows a vertical one; here the model's window then moves
    along the longer side.
    """
    canvas = known_codes(tokenizer, start, painting.count).to(device)
    plan, trial = [], canvas.cpu()
    for step in steps:
        trial, windows = extend(trial, step.direction, model.params.side, offset)
        plan.append(windows)
    total, done = sum(map(len, plan)), 0
    painter, shown = painting.painter(model.params), Shown(tokenizer, device, on_step)
    for step, windows in zip(steps, plan, strict=True):
        canvas, _ = extend(canvas, step.direction, model.params.side, offset)
        prompts = read_prompts(model, step.text, painting, device)
        canvas = painter.fill(prompts, canvas, windows, shown, done, total)
        done += len(windows)
    return ImageTokens((canvas.cpu(),), tokenizer.fingerprint)


def read_prompts(
    model: ShowO, text: list[int], painting: Painting, device: torch.device
) -> Prompts:
    p = model.params
    prompt = drawing_ids(p, text)
    empty = drawing_ids(p, []) if painting.sampling.guidance > 0 else None
    return Prompts(model, [prompt] * painting.count, empty, p.image_tokens, device)


class Shown:
    """Turns a canvas into a preview for ``on_step``."""

    def __init__(
        self, tokenizer: LookupFreeTokenizer, device: torch.device, on_step: OnStep | None
    ):
        self.tokenizer, self.device, self.on_step = tokenizer, device, on_step

    def __call__(self, step: int, total: int, canvas_Bhw: Tensor) -> None:
        if self.on_step is not None:
            self.on_step(step, total, lambda: self.tokenizer.preview(canvas_Bhw[:1]))


def memory_required(model: ShowO, painting: Painting) -> int:
    """Bytes a run takes beside the weights: keys and values, widest activations, logits."""
    p, d = model.params, model.params.decoder
    rows = painting.count * (1 + (painting.sampling.guidance > 0))
    tokens, size = p.prompt_tokens + 3 + p.image_tokens, model.compute_dtype.itemsize
    cache = KVCache.nbytes(d.depth, rows, d.kv_heads, tokens, d.head_width, model.compute_dtype)
    activations = rows * (p.image_tokens + 2) * (4 * d.width + d.mlp_width) * size
    logits = (rows + 4 * painting.count) * p.image_tokens * p.codes * 4
    return int(cache + activations + logits)
