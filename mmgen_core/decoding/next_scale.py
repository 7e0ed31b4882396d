"""The next-scale engine: token maps coarse to fine, one transformer pass each (VAR, STAR).

Suffixes: B pictures, R rows (2B under guidance: first the conditional ones), n tokens of the
scale, V codes, C code channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.architecture import first_bad_weight
from ..image_tokens import ImageTokens
from ..models.scale_transformer import ScaleCondition, ScaleTransformer
from ..tokenizers.multiscale_vq import MultiScaleVQ
from ..tokenizers.residual_quantizer import next_input
from .kv_cache import KVCache
from .noise import ScaleNoise, scale_noise
from .sampling import draw, filter_logits, gumbel_mixture

# (tokens done, tokens in all, code map so far [B, C, h, w]); may raise to stop the run.
OnStep = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class ScaleSampling:
    """How ids are chosen. Published: guidance 4, top-k 900, top-p 0.95 for good looks;
    guidance 1.5, top-k 900, top-p 0.96 for the FID of the paper."""

    guidance: float = 4.0  # strength at the last scale; grows linearly from 0 at the first
    top_k: int = 900
    top_p: float = 0.95
    smooth: bool = False  # mix codes by Gumbel-softmax: smoother, less varied pictures

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(
                f"guidance and top_k must not be negative, top_p must lie in 0..1; got "
                f"guidance {self.guidance}, top_k {self.top_k}, top_p {self.top_p}."
            )


@torch.inference_mode()
def generate(
    model: ScaleTransformer,
    tokenizer: MultiScaleVQ,
    class_ids: Sequence[int],
    seed: int,
    sampling: ScaleSampling,
    start: ImageTokens | None = None,
    keep_scales: int = 0,
    on_step: OnStep | None = None,
    noise: list[ScaleNoise] | None = None,
) -> ImageTokens:
    """Draw one picture per class id.

    Args:
        class_ids: one per picture; -1 or ``params.classes`` is "no class".
        seed: of the first picture; picture i uses seed + i and equals a single run with it.
        start: tokens of a picture to begin from or to edit (batch 1 or that of class_ids).
        keep_scales: the first k scales are those of ``start``. A mask on ``start`` keeps its
            tokens at every scale where the mask is 0 (zero-shot editing of the VAR paper,
            section 5.3); the 1x1 map is then always kept, as published.
        on_step: called after every scale.
        noise: overrides the seed, one entry per scale.

    Returns:
        tokens on the CPU; under ``smooth`` with the mixed code map as features.

    Raises:
        ValueError: a class, tokens or a combination that cannot be; a non-finite result.
    """
    check_pair(model, tokenizer)
    classes = check_classes(model, class_ids)
    params, device = model.params, model_device(model)
    forced = forced_tokens(model, tokenizer, start, keep_scales, len(classes), device)
    if noise is None:
        counts = params.tokens_per_scale
        noise = scale_noise(seed, len(classes), counts, params.vocab, sampling.smooth)
    noise = [scale.to(device) for scale in noise]
    guided = sampling.guidance > 0
    rows = classes + [params.classes] * len(classes) * guided
    condition = model.condition(torch.tensor(rows, device=device))
    run = _Run(model, tokenizer, condition, sampling, len(classes), device)
    for scale in range(len(params.scales)):
        run.step(scale, noise[scale], forced[scale])
        if on_step is not None:
            on_step(sum(params.tokens_per_scale[: scale + 1]), params.tokens, run.f_hat)
    return run.result()


class _Run:
    """State of one run: nothing of it lives on the model, and every buffer that outlasts a
    scale has its final size from the start, so that a step can be captured as a graph."""

    def __init__(
        self,
        model: ScaleTransformer,
        tokenizer: MultiScaleVQ,
        condition: ScaleCondition,
        sampling: ScaleSampling,
        batch: int,
        device: torch.device,
    ):
        p = model.params
        self.model, self.tokenizer, self.condition = model, tokenizer, condition
        self.sampling, self.batch = sampling, batch
        self.rows = condition.first.shape[0]
        head_size, dtype = p.width // p.heads, model.compute_dtype
        self.cache = KVCache(p.depth, self.rows, p.heads, p.tokens, head_size, dtype, device)
        side = p.scales[-1]
        self.f_hat = torch.zeros(batch, p.code_channels, side, side, device=device)
        self.codebook = tokenizer.quantize.codebook(device)
        self.ids: list[Tensor] = []
        self.logit_sum = torch.zeros((), device=device)  # NaN once any logit was; read at the end

    def step(self, scale: int, noise: ScaleNoise, forced: tuple | None) -> None:
        """One scale: logits, guidance, draw, forced tokens, code map."""
        side, scales = self.model.params.scales[scale], self.model.params.scales
        logits = self.guided(self.logits(scale), scale)
        self.logit_sum += logits.sum()
        logits = filter_logits(logits, self.sampling.top_k, self.sampling.top_p)
        ids = draw(logits, noise.draw)
        h = self.codes(ids, logits, noise, scale)
        ids = ids.view(self.batch, side, side)
        h = h.transpose(1, 2).reshape(self.batch, -1, side, side)
        if forced is not None:
            given_ids, given_h, keep = forced
            ids = torch.where(keep, given_ids, ids)
            h = torch.where(keep[:, None], given_h, h)
        self.ids.append(ids)
        size = (scales[-1], scales[-1])
        self.f_hat += self.tokenizer.quantize.upsampled(h, scale, len(scales), size)

    def logits(self, scale: int) -> Tensor:
        """Raw fp32 logits [R, n, V] of a scale."""
        if scale == 0:
            x = self.condition.first
        else:
            side = self.model.params.scales[scale]
            x = self.model.embed(next_input(self.f_hat, (side, side)), scale)
            x = x.repeat(self.rows // self.batch, 1, 1)
        return self.model.logits(self.model.hidden(x, self.condition, self.cache), self.condition)

    def guided(self, logits_RnV: Tensor, scale: int) -> Tensor:
        """Classifier-free guidance [B, n, V], its strength a ramp over the scales."""
        if self.rows == self.batch:
            return logits_RnV
        t = self.sampling.guidance * self.ramp(scale)
        cond, uncond = logits_RnV.chunk(2)
        return (1 + t) * cond - t * uncond

    def ramp(self, scale: int) -> float:
        return scale / max(len(self.model.params.scales) - 1, 1)

    def codes(self, ids: Tensor, logits: Tensor, noise: ScaleNoise, scale: int) -> Tensor:
        """Code vectors [B, n, C]: of the ids, or under ``smooth`` a mixture of the codebook."""
        if not self.sampling.smooth:
            return F.embedding(ids, self.codebook)
        ramp = self.ramp(scale)
        temperature = max(0.27 * (1 - 0.95 * ramp), 0.005)
        return gumbel_mixture(logits * (1 + ramp), noise.gumbel, temperature) @ self.codebook

    def result(self) -> ImageTokens:
        if not torch.isfinite(self.logit_sum + self.f_hat.sum()):
            raise ValueError(non_finite_message(self.model, self.tokenizer))
        features = self.f_hat.cpu() if self.sampling.smooth else None
        ids = tuple(ids.cpu() for ids in self.ids)
        return ImageTokens(ids, self.tokenizer.fingerprint, features=features)


def forced_tokens(
    model: ScaleTransformer,
    tokenizer: MultiScaleVQ,
    start: ImageTokens | None,
    keep_scales: int,
    batch: int,
    device: torch.device,
) -> list[tuple[Tensor, Tensor, Tensor] | None]:
    """Per scale (ids [B, p, p], code vectors [B, C, p, p], keep bool [B, p, p]), or None."""
    scales = model.params.scales
    if start is None:
        if keep_scales:
            raise ValueError("keep_scales needs start tokens to keep scales of.")
        return [None] * len(scales)
    check_start(start, tokenizer, scales, keep_scales, batch)
    ids_per_scale = start.ids
    if start.features is not None:  # mixed codes: the ids nearest to them, not those drawn
        ids_per_scale, _ = tokenizer.quantize.encode(start.features.to(device), start.sizes)
    forced = []
    for scale, ids in enumerate(ids_per_scale):
        keep = keep_map(start.mask, scales[scale], scale < keep_scales).expand(batch, -1, -1)
        ids = ids.to(device).expand(batch, -1, -1)
        forced.append((ids, tokenizer.quantize.lookup(ids), keep.to(device)))
    return forced


def keep_map(mask_Bhw: Tensor | None, side: int, whole: bool) -> Tensor:
    """bool [B or 1, side, side], True where the start tokens stay.

    The mask (1 = draw anew) is inverted and resized bilinearly; more than half keeps. Maps of
    at most three tokens are kept whole, as in the reference's editing notebook.
    """
    if whole or (mask_Bhw is not None and side * side <= 3):
        return torch.ones(1, side, side, dtype=torch.bool)
    if mask_Bhw is None:
        return torch.zeros(1, side, side, dtype=torch.bool)
    keep = F.interpolate(1 - mask_Bhw[:, None].float(), size=(side, side), mode="bilinear")
    return keep[:, 0] > 0.5


def check_start(
    start: ImageTokens, tokenizer: MultiScaleVQ, scales: tuple[int, ...], keep: int, batch: int
) -> None:
    start.check_codebook(tokenizer.fingerprint)
    found = [h for h, _ in start.sizes]
    if start.sizes != [(s, s) for s in scales]:
        raise ValueError(
            f"The start tokens have scales of side {found}, the model draws {list(scales)}. "
            f"Encode the picture with this model's schedule, at its size."
        )
    if start.batch not in (1, batch):
        raise ValueError(f"{start.batch} start pictures do not fit a batch of {batch}.")
    if not 0 <= keep <= len(scales):
        raise ValueError(f"keep_scales must lie in 0..{len(scales)}, got {keep}.")
    if keep == 0 and start.mask is None:
        raise ValueError(
            "Start tokens are connected but unused: set keep_scales, or give the tokens a mask."
        )


def check_pair(model: ScaleTransformer, tokenizer: MultiScaleVQ) -> None:
    """Raise ValueError unless the tokenizer's codes are of the model's kind."""
    ours = (model.params.vocab, model.params.code_channels)
    theirs = (tokenizer.params.vocab, tokenizer.params.autoencoder.latent_channels)
    if ours != theirs:
        raise ValueError(
            f"The scale model draws {ours[0]} codes of {ours[1]} channels, the tokenizer has "
            f"{theirs[0]} of {theirs[1]}. Load the tokenizer that belongs to the model."
        )


def check_classes(model: ScaleTransformer, class_ids: Sequence[int]) -> list[int]:
    classes = model.params.classes
    for class_id in class_ids:
        if not -1 <= class_id <= classes:
            raise ValueError(
                f"Class {class_id} is unknown: this model has classes 0..{classes - 1}, "
                f"and -1 for no class."
            )
    return [classes if class_id < 0 else int(class_id) for class_id in class_ids]


def model_device(model: ScaleTransformer) -> torch.device:
    """Where the run happens: where the host put the start position, a raw parameter."""
    return model.pos_start.device


def non_finite_message(model: ScaleTransformer, tokenizer: MultiScaleVQ) -> str:
    for part, module in (("scale model", model), ("tokenizer", tokenizer)):
        if (name := first_bad_weight(module)) is not None:
            return f"The picture is not finite: the {part} file has NaN or infinity in {name}."
    return (
        f"The picture is not finite though all weights are: {model.compute_dtype} overflowed. "
        f"Choose fp32 or bf16."
    )


def memory_required(model: ScaleTransformer, batch: int, guided: bool) -> int:
    """Bytes a run takes beside the weights: KV cache, widest activations, logits."""
    p, rows = model.params, batch * (1 + guided)
    n, size = p.tokens_per_scale[-1], model.compute_dtype.itemsize
    cache = KVCache.nbytes(
        p.depth, rows, p.heads, p.tokens, p.width // p.heads, model.compute_dtype
    )
    activations = rows * n * p.width * size * (4 + 2 * p.mlp_ratio)
    logits = (rows + 5 * batch) * n * p.vocab * 4
    return int(cache + activations + logits)
