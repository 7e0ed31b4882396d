"""SEED's objectives: tiny models learn them, on shapes of several colours."""

from __future__ import annotations

import pytest
import torch

from mmgen_core.conditioners.reverse_qformer import DetokenizerParams
from mmgen_core.models.qformer import QFormerParams
from mmgen_core.models.vision_transformer import VisionTransformer, VisionTransformerParams
from mmgen_core.tokenizers.seed import SeedTokenizer, SeedTokenizerParams
from mmgen_core.tokenizers.seed_contrast import SeedContrast, SeedContrastParams
from mmgen_core.training.seed_objectives import (
    Rebuilder,
    contrastive_loss,
    place_codes,
    retrieval,
    revive_codes,
    second_stage,
)

COLOURS, PLACES, WIDTH = 4, 4, 48
CONTRAST_MARGIN = 0.5  # above chance, of retrieval among all combinations
COSINE = 0.8  # of rebuilt states; random ones have about 0


def vision() -> VisionTransformer:
    return VisionTransformer(VisionTransformerParams(1, WIDTH, 4, 96, 4, 4))


def qformer(**more) -> QFormerParams:
    return QFormerParams(2, WIDTH, 4, 96, 32, WIDTH, (0,), causal=True, **more)


def scenes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [B, 3, 16, 16] of a coloured square in one corner, and its words [B, 3]: begin,
    colour, corner; every combination as often."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % (COLOURS * PLACES)
    colour, place = which % COLOURS, which // COLOURS
    palette = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [2, 2, -1]])
    pixels = 0.2 * torch.randn(count, 3, 16, 16, generator=generator)
    for i in range(count):
        top, left = 8 * int(place[i] // 2), 8 * int(place[i] % 2)
        pixels[i, :, top : top + 8, left : left + 8] += palette[colour[i], :, None, None]
    words = torch.stack([torch.full((count,), 1), 2 + colour, 2 + COLOURS + place], dim=1)
    return pixels, words


def test_first_stage_learns_to_retrieve():
    torch.manual_seed(0)
    eye = vision()
    model = SeedContrast(SeedContrastParams(qformer(vocab=2 + COLOURS + PLACES, positions=3), 32))
    parameters = [*eye.parameters(), *model.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    held, words = scenes(16, seed=999)
    mask = torch.ones_like(words)
    before = retrieval(model, eye(held), words, mask)
    for step in range(150):
        pixels, ids = scenes(16, seed=step)
        loss = contrastive_loss(model, eye(pixels), ids, torch.ones_like(ids))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = retrieval(model, eye(held), words, mask)
    assert before < 0.3 and after > 1 / 16 + CONTRAST_MARGIN, (before, after)


def tokenizer(generation: int) -> SeedTokenizer:
    reverse = QFormerParams(2, WIDTH, 4, 96, 5, WIDTH, (0,)) if generation == 1 else None
    down = () if reverse else (64, 32, 16)
    detokenizer = DetokenizerParams(32, WIDTH, 1, 96, 24, reverse=reverse, down=down)
    return SeedTokenizer(SeedTokenizerParams(qformer(), 64, 8, detokenizer, generation))


@pytest.mark.parametrize("generation", [1, 2])
def test_second_stage_learns_to_rebuild_and_to_condition(generation):
    """From frozen states: their cosine rises past ``COSINE``, and the condition comes as close to
    its target as half of the target's variance; both through 64 codes."""
    torch.manual_seed(1)
    eye, model = vision().requires_grad_(False), tokenizer(generation)
    rebuilder = Rebuilder(model)
    torch.nn.init.normal_(model.qformer.queries.weight)
    tokens = 5 if generation == 1 else 1
    targets = torch.randn(COLOURS * PLACES, tokens, 24)
    pixels, _ = scenes(32, seed=7)
    with torch.no_grad():
        seen = eye(pixels)
        states = model.states(seen)
        states = (states - states.mean(0)) / states.std(0)  # what tells pictures apart
        place_codes(model, model.code_inputs(states).flatten(0, 1))
    trained = [
        *model.encode_task_layer.parameters(),
        *model.decode_task_layer.parameters(),
        *model.embedding.parameters(),
        *model.detokenizer.parameters(),
        *rebuilder.parameters(),
    ]
    optimiser = torch.optim.AdamW(trained, lr=3e-3)
    target = targets[torch.arange(32) % (COLOURS * PLACES)]
    first = second_stage(model, rebuilder, states)
    for _ in range(250):
        stage = second_stage(model, rebuilder, states)
        loss = stage.loss(target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    stage = second_stage(model, rebuilder, states)
    error = (stage.condition - target).square().mean() / target.var()
    assert 1 - first.cosine.item() < 0.3
    assert 1 - stage.cosine.item() > COSINE, (1 - stage.cosine.item(), error.item())
    assert error < 0.5, error
    # what was trained is what the tokenizer gives for its ids
    again = model.condition(model.embedding(stage.ids))
    torch.testing.assert_close(again, stage.condition, atol=1e-3, rtol=1e-3)


def test_gradient_passes_straight_through_the_codes():
    model = tokenizer(1)
    states = torch.randn(2, 32, WIDTH, requires_grad=True)
    second_stage(model, Rebuilder(model), states).condition.sum().backward()
    assert states.grad.abs().sum() > 0
    assert model.embedding.weight.grad is None  # only the codes' own loss moves them


def test_unused_codes_are_put_onto_vectors():
    model, vectors = tokenizer(2), torch.randn(40, 8)
    count = torch.ones(64)
    count[3] = count[9] = 0
    assert revive_codes(model, count, vectors) == 2
    assert (model.embedding.weight[3] == vectors).all(1).any() and not count.any()
