"""The SEED tokenizer (Ge et al. 2023, arXiv 2307.08041 and 2310.01218): a picture as 32 words.

A frozen vision transformer looks at the picture, a causal Q-Former reads it into 32 states in a
left-to-right order, a codebook turns them into ids that a language model can read and write. The
way back gives no pixels but the condition of a Stable Diffusion U-Net: the picture's meaning.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.architecture import require_finite
from ..conditioners.reverse_qformer import Detokenizer, DetokenizerParams
from ..image_tokens import ImageTokens
from ..models.qformer import QFormer, QFormerParams
from ..models.vision_transformer import VisionTransformer
from .pixels import normalised, resized

TEXT_FEATURES, IMAGE_EMBEDDING = 1, 2  # the generation of SEED, by what it writes


@dataclass(frozen=True)
class SeedTokenizerParams:
    qformer: QFormerParams
    vocab: int
    code_width: int
    detokenizer: DetokenizerParams
    generation: int  # SEED-1 or SEED-2

    @property
    def codes(self) -> int:
        """Codes of a picture."""
        return self.qformer.queries

    @property
    def condition(self) -> str:
        """What the tokens become, in words."""
        width = self.detokenizer.condition_width
        if self.generation == IMAGE_EMBEDDING:
            return f"an image embedding of {width} values for Stable Diffusion 2.1 unCLIP"
        tokens = self.detokenizer.condition_tokens
        return f"{tokens} x {width} text features for Stable Diffusion 1.x"


def codebook_fingerprint(codebook_VC: Tensor) -> str:
    """Name of a codebook, the same for an fp32 file and its fp16 or bf16 conversion."""
    rounded = codebook_VC.detach().cpu().bfloat16().contiguous().view(torch.int16)
    digest = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()[:12]
    return f"seed {codebook_VC.shape[0]}x{codebook_VC.shape[1]} {digest}"


def two_layers(width_in: int, width: int, width_out: int, operations: Any, **kw) -> nn.Sequential:
    return nn.Sequential(
        operations.Linear(width_in, width, **kw),
        nn.Tanh(),
        operations.Linear(width, width_out, **kw),
    )


class SeedTokenizer(nn.Module):
    """Everything but the vision transformer, which is a file of its own.

    Built in fp32 by default: two codes may be so close that a lower precision swaps them.
    """

    def __init__(
        self,
        params: SeedTokenizerParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, kw = params, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        width = p.qformer.width
        self.ln_vision = operations.LayerNorm(p.qformer.context_width, eps=1e-5, **kw)
        self.qformer = QFormer(p.qformer, operations=operations, **kw)
        self.encode_task_layer = two_layers(width, width, p.code_width, operations, **kw)
        self.embedding = operations.Embedding(p.vocab, p.code_width, **kw)
        self.decode_task_layer = two_layers(
            p.code_width, p.code_width, p.detokenizer.width, operations, **kw
        )
        self.detokenizer = Detokenizer(p.detokenizer, operations, **kw)
        self.fingerprint = ""  # named by the loader, which sees the weights

    def states(self, vision_BNK: Tensor) -> Tensor:
        """Causal states [B, 32, C] of what the vision transformer saw."""
        vision = self.ln_vision(vision_BNK.float().to(self.compute_dtype))
        return self.qformer(vision)

    def code_inputs(self, states_BQC: Tensor) -> Tensor:
        """The vectors [B, 32, code width] whose nearest codes are taken."""
        return self.encode_task_layer(states_BQC)

    def nearest(self, z_BQc: Tensor) -> Tensor:
        """Ids [B, 32] of the nearest codes, by Euclidean distance."""
        z_Nc = z_BQc.flatten(0, 1)
        codebook = self.embedding(torch.arange(self.params.vocab, device=z_Nc.device)).to(z_Nc)
        distance = z_Nc.square().sum(1, keepdim=True) + codebook.square().sum(1)
        return distance.addmm_(z_Nc, codebook.T, alpha=-2).argmin(1).view(z_BQc.shape[:-1])

    def encode(self, vision_BNK: Tensor) -> ImageTokens:
        """Tokens of what the vision transformer saw."""
        z_BQc = self.code_inputs(self.states(vision_BNK))
        require_finite(z_BQc, "What the codes are chosen by", {"the SEED tokenizer": self})
        ids_BQ = self.nearest(z_BQc)
        return ImageTokens((ids_BQ[:, None].cpu(),), self.fingerprint)

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """Code vectors [B, code width, 1, 32] that tokens stand for: of their ids, or mixed.

        Raises:
            ValueError: tokens of another codebook, not 32 of them, or ids outside the codebook.
        """
        tokens.check_codebook(self.fingerprint)
        if len(tokens.ids) != 1 or tokens.grid != (1, self.params.codes):
            raise ValueError(
                f"A picture is a row of {self.params.codes} SEED tokens; these are maps of "
                f"{', '.join(f'{h} x {w}' for h, w in tokens.sizes)}."
            )
        if tokens.features is not None:
            return tokens.features.to(device)
        ids = tokens.ids[0]
        if int(ids.min()) < 0 or int(ids.max()) >= self.params.vocab:
            raise ValueError(
                f"SEED token ids must lie in 0..{self.params.vocab - 1}, found "
                f"{int(ids.min())}..{int(ids.max())}."
            )
        return self.embedding(ids.to(device)).float().movedim(-1, 1)

    def decode(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The condition of tokens, fp32: SEED-1 [B, 77, W] text features, SEED-2 [B, 1, W] image
        embeddings."""
        codes_BQc = self.features(tokens, device)[:, :, 0].movedim(1, -1)
        return self.condition(codes_BQc)

    def condition(self, codes_BQc: Tensor) -> Tensor:
        """The condition [B, tokens, W] of code vectors [B, 32, code width]."""
        found = self.detokenizer(self.decode_task_layer(codes_BQc.to(self.compute_dtype))).float()
        require_finite(found, "The condition", {"the SEED tokenizer": self})
        return found


def see(
    vision: VisionTransformer,
    image_BHWC: Tensor,
    method: str = "bilinear",
    device: torch.device | None = None,
) -> Tensor:
    """States of the vision transformer for pictures [B, H, W, 3] in 0..1.

    Args:
        method: how pictures are brought to its square, aspect ratio not kept: "bilinear" as the
            published scripts do, "bicubic" as SEED-1's code and some entry points do.
        device: of the transformer; by default that of the pictures.
    """
    pixels = resized(image_BHWC, (vision.params.side, vision.params.side), method)
    return vision(normalised(pixels.to(device or image_BHWC.device)))


class SeedImageTokenizer:
    """A tokenizer and its vision transformer as one, from pictures to tokens to conditions."""

    def __init__(self, tokenizer: SeedTokenizer, vision: VisionTransformer | None, file: str):
        """
        Args:
            vision: None for tokens that are only decoded.
        """
        self.tokenizer, self.vision, self.file = tokenizer, vision, file

    @property
    def params(self) -> SeedTokenizerParams:
        return self.tokenizer.params

    @property
    def fingerprint(self) -> str:
        return self.tokenizer.fingerprint

    def encode(
        self,
        image_BHWC: Tensor,
        method: str = "bilinear",
        device: torch.device | None = None,
    ) -> ImageTokens:
        """Tokens of pictures in 0..1, of any size.

        Raises:
            ValueError: there is no vision transformer, or the pictures have alpha.
        """
        if self.vision is None:
            raise ValueError(
                f"{self.file} was loaded without a vision transformer and can only decode. Choose "
                f"one as vision_name of Load SEED Tokenizer: eva_vit_g.pth for the public files."
            )
        if image_BHWC.shape[-1] != 3:
            raise ValueError(
                f"The picture has {image_BHWC.shape[-1]} channels; SEED takes 3 (red, green, "
                f"blue). Remove alpha with the stock node Split Image with Alpha."
            )
        seen = see(self.vision, image_BHWC, method, device)
        require_finite(seen, "What was seen", {"the vision transformer": self.vision})
        return self.tokenizer.encode(seen)

    def features(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        return self.tokenizer.features(tokens, device)

    def decode(self, tokens: ImageTokens, device: torch.device | None = None) -> Tensor:
        """The condition that tokens stand for; see ``SeedTokenizer.decode``."""
        return self.tokenizer.decode(tokens, device)
