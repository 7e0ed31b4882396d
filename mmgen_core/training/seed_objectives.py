"""The two stages in which a SEED tokenizer is trained (arXiv 2307.08041 section 3, 2310.01218).

First stage: the last causal state of a picture and the first state of its text meet in one space
(image-text contrast, both ways). Second stage: the states go through the codebook, and out of the
codes are rebuilt the states themselves (cosine) and the condition of a frozen diffusion model:
its text features (SEED-1) or image embedding (SEED-2), by squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.vision_transformer import Block
from ..tokenizers.seed import SeedTokenizer
from ..tokenizers.seed_contrast import SeedContrast

SMOOTHING = 0.1
CODES, COSINE, CONDITION = 5.0, 2.0, 0.5  # published weights of the second stage's terms
CODEBOOK = 0.25  # of the code's pull to its state; the state's pull to its code has weight 1


def contrastive_loss(
    model: SeedContrast, vision_BNK: Tensor, ids_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    """Every picture picks its text among the batch's and every text its picture."""
    pictures, texts = model.picture(vision_BNK), model.text(ids_BT, mask_BT)
    similarity_BB = pictures @ texts.T / model.temp.clamp(0.001, 0.5)
    target = torch.arange(len(pictures), device=pictures.device)
    one_way = F.cross_entropy(similarity_BB, target, label_smoothing=SMOOTHING)
    return (one_way + F.cross_entropy(similarity_BB.T, target, label_smoothing=SMOOTHING)) / 2


@torch.no_grad()
def retrieval(model: SeedContrast, vision_BNK: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> float:
    """Share of pictures whose own text is the nearest of all texts."""
    similarity = model.picture(vision_BNK) @ model.text(ids_BT, mask_BT).T
    own = torch.arange(len(similarity), device=similarity.device)
    return (similarity.argmax(1) == own).float().mean().item()


class Rebuilder(nn.Module):
    """Code states back to the causal states they were taken from; only training needs it."""

    def __init__(self, tokenizer: SeedTokenizer):
        super().__init__()
        d = tokenizer.params.detokenizer
        self.pos_embed = nn.Parameter(torch.zeros(1, d.codes, d.width))
        self.blocks = nn.ModuleList(
            Block(d.width, d.heads, d.hidden, 1e-6, nn) for _ in range(d.depth)
        )

    def forward(self, x_BNC: Tensor) -> Tensor:
        x_BNC = x_BNC + self.pos_embed
        for block in self.blocks:
            x_BNC = block(x_BNC)
        return x_BNC


@dataclass(frozen=True)
class SecondStage:
    """What a pass of the second stage gives: its terms, and what they were taken from."""

    codes: Tensor  # the vector quantiser's loss
    cosine: Tensor  # 1 - cosine of rebuilt and true states
    condition: Tensor  # [B, tokens, W], carrying gradients
    ids: Tensor  # [B, 32]
    vectors: Tensor  # [B, 32, code width], before the codebook

    def loss(self, target: Tensor | None = None) -> Tensor:
        """The published sum; without a target, that of the codes alone."""
        loss = CODES * self.codes + COSINE * self.cosine
        if target is not None:
            loss = loss + CONDITION * F.mse_loss(self.condition, target.view_as(self.condition))
        return loss


def second_stage(
    tokenizer: SeedTokenizer, rebuilder: Rebuilder, states_BQC: Tensor, quantised: bool = True
) -> SecondStage:
    """One pass from causal states.

    Args:
        states_BQC: of the Q-Former; the paper's is frozen by now (pass them detached).
        quantised: False lets the vectors through as they are, for a warm start of the codebook.
    """
    z = tokenizer.code_inputs(states_BQC).float()
    ids = tokenizer.nearest(z.detach())
    code, loss = tokenizer.embedding(ids).float(), z.new_zeros(())
    if quantised:
        loss = F.mse_loss(z, code.detach()) + CODEBOOK * F.mse_loss(code, z.detach())
    passed = z + (code - z).detach() if quantised else z
    up = tokenizer.decode_task_layer(passed)
    likeness = F.cosine_similarity(rebuilder(up).float(), states_BQC.detach().float(), dim=-1)
    return SecondStage(loss, 1 - likeness.mean(), tokenizer.detokenizer(up), ids, z.detach())


@torch.no_grad()
def place_codes(tokenizer: SeedTokenizer, vectors_NC: Tensor, rounds: int = 8) -> None:
    """First codes: k-means of what is to be quantised."""
    weight = tokenizer.embedding.weight
    chosen = torch.randperm(len(vectors_NC), device=vectors_NC.device)[: len(weight)]
    chosen = chosen.repeat(-(-len(weight) // len(chosen)))[: len(weight)]
    weight.copy_(vectors_NC[chosen] + 1e-4 * torch.randn_like(weight))
    for _ in range(rounds):
        ids = tokenizer.nearest(vectors_NC[None])[0]
        total = torch.zeros_like(weight).index_add_(0, ids, vectors_NC)
        count = torch.bincount(ids, minlength=len(weight))[:, None]
        weight.copy_(torch.where(count > 0, total / count.clamp(min=1), weight))


@torch.no_grad()
def revive_codes(tokenizer: SeedTokenizer, count_V: Tensor, vectors_NC: Tensor) -> int:
    """Codes that went unused are put onto vectors of the current batch; returns how many."""
    dead = (count_V == 0).nonzero().squeeze(1)
    if len(dead):
        pick = torch.randint(len(vectors_NC), (len(dead),), device=vectors_NC.device)
        tokenizer.embedding.weight[dead] = vectors_NC[pick]
    count_V.zero_()
    return len(dead)
