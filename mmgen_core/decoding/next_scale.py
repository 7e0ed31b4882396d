"""The next-scale engine: token maps coarse to fine, one transformer pass each (VAR, STAR).

Suffixes: B pictures, R rows (2B under guidance: first the conditional ones), n tokens of the
scale, V codes, C code channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.architecture import non_finite
from ..conditioners.scale_prompt import ClassPrompt, TextPrompt, TextRows
from ..image_tokens import ImageTokens
from ..models.scale_transformer import ScaleCondition, ScaleTransformer
from ..tokenizers.multiscale_vq import MultiScaleVQ
from ..tokenizers.residual_quantizer import next_input
from .forced_tokens import forced_tokens
from .kv_cache import KVCache
from .noise import ScaleNoise, scale_noise
from .sampling import draw, filter_logits, gumbel_mixture
from .stable_sampling import place_map, step_count

# (tokens done, tokens in all, code map so far [B, C, h, w]); may raise to stop the run.
OnStep = Callable[[int, int, Tensor], None]


MODES = ("plain", "old", "new", "1024")


@dataclass(frozen=True)
class ScaleSampling:
    """How ids are chosen. Published: guidance 4, top-k 900, top-p 0.95 for good looks;
    guidance 1.5, top-k 900, top-p 0.96 for the FID of the paper."""

    guidance: float = 4.0  # strength at the last scale; grows linearly from 0 at the first
    top_k: int = 900
    top_p: float = 0.95
    smooth: bool = False  # mix codes by Gumbel-softmax: smoother, less varied pictures
    mode: str = "plain"  # STAR's: "old" (fixed filters), "new" and "1024" (placed in steps)

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(
                f"guidance and top_k must not be negative, top_p must lie in 0..1; got "
                f"guidance {self.guidance}, top_k {self.top_k}, top_p {self.top_p}."
            )
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}.")

    def filters(self, scale: int) -> tuple[int, float]:
        """Top-k and top-p of a scale; STAR's "old" mode narrows them towards the finest."""
        if self.mode != "old":
            return self.top_k, self.top_p
        return (self.top_k if scale < 9 else 300 if scale < 12 else 100), 0.8


@torch.inference_mode()
def generate(
    model: ScaleTransformer,
    tokenizer: MultiScaleVQ,
    prompt: ClassPrompt | TextPrompt,
    seed: int,
    sampling: ScaleSampling,
    start: ImageTokens | None = None,
    keep_scales: int = 0,
    on_step: OnStep | None = None,
    noise: list[ScaleNoise] | None = None,
) -> ImageTokens:
    """Draw one picture per class or text of the prompt.

    Args:
        seed: of the first picture; picture i uses seed + i and equals a single run with it.
        start: tokens of a picture to begin from or to edit (batch 1 or that of the prompt).
        keep_scales: the first k scales are those of ``start``. A mask on ``start`` keeps its
            tokens at every scale where the mask is 0 (zero-shot editing of the VAR paper,
            section 5.3); the 1x1 map is then always kept, as published.
        on_step: called after every scale.
        noise: overrides the seed, one entry per scale.

    Returns:
        tokens on the CPU; under ``smooth`` with the mixed code map as features.

    Raises:
        ValueError: a class, tokens or a combination that cannot be.
        FloatingPointError: a result that is not finite.
    """
    check_pair(model, tokenizer)
    check_mode(model, sampling)
    params, device, batch = model.params, model_device(model), prompt.batch
    condition = model.condition(prompt_rows(model, prompt, sampling.guidance > 0, device))
    forced = forced_tokens(tokenizer, params.scales, start, keep_scales, batch, device)
    if noise is None:
        counts, steps = params.tokens_per_scale, placing_steps(model, sampling)
        noise = scale_noise(seed, batch, counts, params.vocab, sampling.smooth, steps)
    noise = [scale.to(device) for scale in noise]
    run = _Run(model, tokenizer, condition, sampling, batch, device)
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
        dtype = model.compute_dtype
        self.cache = KVCache(p.depth, self.rows, p.heads, p.tokens, p.head_size, dtype, device)
        side = p.scales[-1]
        self.f_hat = torch.zeros(batch, p.code_channels, side, side, device=device)
        self.codebook = tokenizer.quantize.codebook(device)
        self.ids: list[Tensor] = []
        self.logit_sum = torch.zeros((), device=device)  # NaN once any logit was; read at the end

    def step(self, scale: int, noise: ScaleNoise, forced: tuple | None) -> None:
        """One scale: its codes, forced tokens, code map."""
        side, scales = self.model.params.scales[scale], self.model.params.scales
        ids, h = (self.placed if noise.steps else self.drawn)(scale, noise)
        ids = ids.view(self.batch, side, side)
        h = h.transpose(1, 2).reshape(self.batch, -1, side, side)
        if forced is not None:
            given_ids, given_h, keep = forced
            ids = torch.where(keep, given_ids, ids)
            h = torch.where(keep[:, None], given_h, h)
        self.ids.append(ids)
        size = (scales[-1], scales[-1])
        self.f_hat += self.tokenizer.quantize.upsampled(h, scale, len(scales), size)

    def drawn(self, scale: int, noise: ScaleNoise) -> tuple[Tensor, Tensor]:
        """Ids [B, n] and code vectors [B, n, C] of a map drawn at once."""
        logits = self.model.logits(self.hidden(scale), self.condition)
        logits = self.guided(logits, self.ramp(scale))
        if self.sampling.smooth and not self.model.params.smooth_filtered:
            weights = self.mixture(logits, noise, scale)
            return weights.argmax(-1), weights @ self.codebook
        logits = filter_logits(logits, *self.sampling.filters(scale))
        ids = draw(logits, noise.draw)
        if self.sampling.smooth:
            return ids, self.mixture(logits, noise, scale) @ self.codebook
        return ids, F.embedding(ids, self.codebook)

    def placed(self, scale: int, noise: ScaleNoise) -> tuple[Tensor, Tensor]:
        """The same of a map placed in steps, the refiner's guidance at full strength."""
        model, condition = self.model, self.condition
        hidden, rotary = self.hidden(scale), model.rotary(scale, self.f_hat.device)

        def base() -> Tensor:
            return self.guided(model.logits(hidden, condition), self.ramp(scale))

        def refined(placed_BnC: Tensor) -> Tensor:
            first = condition.refiner_first
            logits = model.refiner(first, hidden, placed_BnC, scale, rotary)
            return self.guided(logits[:, 1:], 1.0)

        filters = self.sampling.filters(scale)
        mode, codebook = self.sampling.mode, self.codebook
        state = place_map(mode, scale, base, refined, filters, codebook, noise.steps)
        return state.ids, state.h

    def hidden(self, scale: int) -> Tensor:
        """Hidden states [R, n, C] of a scale; the KV cache grows by it."""
        if scale == 0:
            x = self.condition.first
        else:
            side = self.model.params.scales[scale]
            x = self.model.embed(next_input(self.f_hat, (side, side)), scale)
            x = x.repeat(self.rows // self.batch, 1, 1)
        return self.model.hidden(x, self.condition, self.cache, scale)

    def guided(self, logits_RnV: Tensor, ramp: float) -> Tensor:
        """Classifier-free guidance [B, n, V]: (1 + t) cond - t uncond, t = guidance * ramp."""
        if self.rows > self.batch:
            t = self.sampling.guidance * ramp
            cond, uncond = logits_RnV.chunk(2)
            logits_RnV = (1 + t) * cond - t * uncond
        self.logit_sum += logits_RnV.sum()
        return logits_RnV

    def ramp(self, scale: int) -> float:
        return scale / max(len(self.model.params.scales) - 1, 1)

    def mixture(self, logits: Tensor, noise: ScaleNoise, scale: int) -> Tensor:
        """Weights [B, n, V] of all codes, sharper towards the finest scale."""
        ramp = self.ramp(scale)
        temperature = max(0.27 * (1 - 0.95 * ramp), 0.005)
        return gumbel_mixture(logits * (1 + ramp), noise.gumbel, temperature)

    def result(self) -> ImageTokens:
        if not torch.isfinite(self.logit_sum + self.f_hat.sum()):
            parts = {"the scale model": self.model, "the tokenizer": self.tokenizer}
            raise non_finite("The picture", parts)
        features = self.f_hat.cpu() if self.sampling.smooth else None
        ids = tuple(ids.cpu() for ids in self.ids)
        return ImageTokens(ids, self.tokenizer.fingerprint, features=features)


def check_pair(model: ScaleTransformer, tokenizer: MultiScaleVQ) -> None:
    """Raise ValueError unless the tokenizer's codes are of the model's kind."""
    ours = (model.params.vocab, model.params.code_channels)
    theirs = (tokenizer.params.vocab, tokenizer.params.autoencoder.latent_channels)
    if ours != theirs:
        raise ValueError(
            f"The scale model draws {ours[0]} codes of {ours[1]} channels, the tokenizer has "
            f"{theirs[0]} of {theirs[1]}. Load the tokenizer that belongs to the model."
        )
    wanted = model.params.codebook
    if wanted not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"The scale model was trained with the codebook {wanted}, the tokenizer has "
            f"{tokenizer.fingerprint}. Load the tokenizer that belongs to the model."
        )


def check_mode(model: ScaleTransformer, sampling: ScaleSampling) -> None:
    if sampling.mode in ("new", "1024") and model.refiner is None:
        raise ValueError(
            f"Sampling mode {sampling.mode!r} needs STAR's refiner, which this file does not hold. "
            f"Use mode 'plain'."
        )


def placing_steps(model: ScaleTransformer, sampling: ScaleSampling) -> list[int]:
    """Per scale, in how many steps its map is placed; 0 where it is drawn at once."""
    scales = range(len(model.params.scales))
    if sampling.mode not in ("new", "1024"):
        return [0 for _ in scales]
    begin = model.params.refine_from
    return [step_count(sampling.mode, scale) if scale >= begin else 0 for scale in scales]


def prompt_rows(
    model: ScaleTransformer, prompt: ClassPrompt | TextPrompt, guided: bool, device: torch.device
) -> Tensor | TextRows:
    """The model's rows of a prompt: classes for VAR, texts for STAR."""
    p, by_class = model.params, isinstance(prompt, ClassPrompt)
    if by_class != bool(p.classes):
        wanted, given = ("a class", "a text") if p.classes else ("a text", "a class")
        todo = "Disconnect prompt and give a class" if p.classes else "Connect an encoded prompt"
        raise ValueError(f"This model draws from {wanted}, not from {given}. {todo}.")
    if by_class:
        return prompt.rows(p.classes, guided, device)
    return prompt.rows(p.text_width, guided, device, model.compute_dtype)


def model_device(model: ScaleTransformer) -> torch.device:
    """Where the run happens: where the host put the start position, a raw parameter."""
    return model.pos_start.device


def memory_required(
    model: ScaleTransformer,
    batch: int,
    guided: bool,
    sampling: ScaleSampling | None = None,
    text_length: int = 0,
) -> int:
    """Bytes a run takes beside the weights, all of which are announced before any is taken:
    KV cache, what depends on class or text alone, activations and logits of the finest map, the
    random numbers of smooth sampling.

    Args:
        text_length: positions of the encoded text, for a model that draws from words.
    """
    p, rows, sampling = model.params, batch * (1 + guided), sampling or ScaleSampling()
    n, size, dtype = p.tokens_per_scale[-1], model.compute_dtype.itemsize, model.compute_dtype
    cache = KVCache.nbytes(p.depth, rows, p.heads, p.tokens, p.head_size, dtype)
    of_class = (6 * p.depth + 14) * p.width
    of_text = text_length * (2 * p.depth * p.width + 3 * p.text_width)
    condition = rows * size * (of_class if p.classes else of_text)
    rotation = 16 if p.rotary else 0  # fp32 copies of queries and keys while they turn
    activations = rows * n * p.width * (size * (6 + 2 * p.mlp_ratio) + rotation)
    if p.refine_from is not None:
        activations += 4 * rows * n * p.width * size
    unfiltered = not sampling.top_k and not sampling.top_p
    sorted_codes = 0 if unfiltered else min(sampling.top_k or p.vocab, p.vocab)
    logits = n * 4 * (p.vocab * (2 * rows + 5 * batch) + 6 * batch * sorted_codes)
    mixing = 2 * batch * p.tokens * p.vocab * 4 if sampling.smooth else 0
    return int(cache + condition + activations + logits + mixing)
