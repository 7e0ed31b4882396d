"""Tiny models learn by the objectives of SEED-X and DreamLLM."""

from __future__ import annotations

import tiny_queries
import torch
from diffusers import UNet2DConditionModel
from tiny_queries import DREAM_ADDED, QUERIES, SEED_X_ADDED, TinyText

from mmgen_core.conditioners import dreamllm, seed_x
from mmgen_core.decoding.stream import Context
from mmgen_core.training.query_objectives import noisy, regress_features, synthesise

CPU = torch.device("cpu")
CAPTIONS = ("a red cat", "the sun is blue")


def trainable(*modules: torch.nn.Module) -> list[torch.nn.Parameter]:
    for module in modules:
        module.requires_grad_(True)
    return [p for module in modules for p in module.parameters()]


def test_seed_x_learns_features_and_words():
    text = TinyText(SEED_X_ADDED)
    tokens = seed_x.SeedXTokens.of(text, QUERIES)
    language, agent = tiny_queries.language(len(text.vocabulary)), tiny_queries.agent()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, 24, generator=generator)
    contexts = [
        Context(torch.tensor([1, *text.encode(caption), *tokens.chain, tokens.eos]))
        for caption in CAPTIONS
    ]
    learned = [c.ids == tokens.image_start for c in contexts]
    optimizer = torch.optim.Adam(trainable(language, agent), 3e-3)
    seen = []
    for _ in range(60):
        losses = regress_features(language, agent, tokens, contexts, features, learned)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        seen.append(losses)
    assert seen[-1].picture < 0.4 * seen[0].picture and seen[-1].text < 0.2 * seen[0].text

    drawn = seed_x.drawn_features(
        language, agent, tokens, [Context(c.ids[: -len(tokens.chain) - 1]) for c in contexts], CPU
    )
    targets = features.unflatten(1, (QUERIES, -1)).mean(2)
    distance = (drawn[:, None] - targets[None]).pow(2).mean((-1, -2))
    assert distance.argmin(1).tolist() == [0, 1], "each caption gives its own picture's features"


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def trained_unet(latents: torch.Tensor, known: torch.Tensor) -> UNet2DConditionModel:
    """A diffusion model that draws either latent by its known context."""
    unet, generator = small_unet(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(unet.parameters(), 4e-3)
    for _ in range(150):
        which = torch.randint(0, 2, (8,), generator=generator)
        times = torch.randint(0, 1000, (8,), generator=generator)
        noise = torch.randn(8, 4, 8, 8, generator=generator)
        predicted = unet(noisy(latents[which], noise, times), times, known[which]).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(predicted, noise).backward()
        optimizer.step()
    return unet.eval().requires_grad_(False)


def test_dreamllm_learns_through_a_frozen_unet():
    text = TinyText(DREAM_ADDED)
    tokens = dreamllm.DreamTokens.of(text, {})
    numbers = torch.Generator().manual_seed(2)
    latents = 2 * torch.randn(2, 4, 8, 8, generator=numbers).sign()
    unet = trained_unet(latents, torch.randn(2, QUERIES, 12, generator=numbers))
    language = tiny_queries.language(len(text.vocabulary), 7)
    queries, projector = tiny_queries.dream_queries(), tiny_queries.projector()
    contexts = [Context(torch.tensor([1, *text.encode(caption)])) for caption in CAPTIONS]
    learned = [torch.zeros(len(c.ids), dtype=torch.bool) for c in contexts]
    before = {name: p.clone() for name, p in unet.named_parameters()}
    modules = (language, queries, projector)
    optimizer = torch.optim.Adam(trainable(*modules), 4e-3)

    def losses(order: list[int], seed: int):
        chosen = ([contexts[i] for i in order], [learned[i] for i in order])
        generator = torch.Generator().manual_seed(seed)
        return synthesise(*modules, tokens, *chosen, unet, latents, generator)

    first = losses([0, 1], 99)
    for step in range(60):
        now = losses([0, 1], step)
        optimizer.zero_grad()
        now.total.backward()
        optimizer.step()
    with torch.no_grad():
        right = [losses([0, 1], seed).picture for seed in range(100, 110)]
        wrong = [losses([1, 0], seed).picture for seed in range(100, 110)]
    assert sum(right) < 0.8 * sum(wrong), "a caption's dream leads to its own picture"
    assert losses([0, 1], 99).text < 0.1 * first.text, "and it asks for a picture behind a caption"
    assert all(torch.equal(p, before[name]) for name, p in unet.named_parameters())
