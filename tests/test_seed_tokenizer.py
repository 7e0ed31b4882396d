"""The SEED tokenizer: order of its states, batches, layouts both ways, tokens mixed and edited."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import tiny_seed
import torch

from mmgen_core.checkpoints import Checkpoint, CheckpointError
from mmgen_core.checkpoints.architecture import build
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.models.qformer import QFormerParams
from mmgen_core.systems import identify
from mmgen_core.systems.seed import check_vision, joined_files, unused_block
from mmgen_core.systems.seed_layout import convert_first_stage, publish_first_stage
from mmgen_core.tokenizers.seed import SeedImageTokenizer, see
from mmgen_core.tokenizers.seed_contrast import SeedContrast, SeedContrastParams
from mmgen_core.tokenizers.seed_edit import mixed, positions, with_codes


def pictures(count: int = 3, side: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, side, side + 9, 3, generator=generator)


def encoded(generation: int = 2, count: int = 3) -> tuple:
    tokenizer = tiny_seed.tokenizer(generation)
    return tokenizer, tokenizer.encode(see(tiny_seed.vision(), pictures(count)))


def checkpoint(tensors: dict, name: str = "tiny.safetensors") -> Checkpoint:
    return Checkpoint(Path(name), tensors, tiny_seed.CONFIG)


def test_states_are_causal():
    """A query's state depends on itself and those before it only."""
    tokenizer = tiny_seed.tokenizer(1)
    seen = tiny_seed.vision()(torch.randn(1, 3, 28, 28))
    before = tokenizer.states(seen)
    tokenizer.qformer.queries.weight[20] += torch.randn(24)
    after = tokenizer.states(seen)
    torch.testing.assert_close(after[:, :20], before[:, :20])
    assert (after[:, 20:] - before[:, 20:]).abs().amax(-1).min() > 1e-4


def test_batch_equals_single_pictures():
    tokenizer, together = encoded(2)
    vision = tiny_seed.vision()
    for i, picture in enumerate(pictures()):
        alone = tokenizer.encode(see(vision, picture[None]))
        assert torch.equal(alone.ids[0], together.ids[0][i : i + 1])
        torch.testing.assert_close(tokenizer.decode(alone), tokenizer.decode(together)[i : i + 1])
    assert together.grid == (1, 32) and len(together.ids[0].unique()) > 8


def test_other_picture_sizes_resample_the_positions():
    vision = tiny_seed.vision()
    assert vision(torch.randn(1, 3, 42, 28)).shape == (1, 1 + 6, 32)
    with pytest.raises(ValueError, match="multiples of 14"):
        vision(torch.randn(1, 3, 30, 28))


@pytest.mark.parametrize("generation", [1, 2])
def test_layouts_both_ways(generation):
    tensors = tiny_seed.complete_tensors(generation)
    for kind, own in (
        ("SEED tokenizer", tiny_seed.tokenizer(generation)),
        ("vision transformer", tiny_seed.vision()),
    ):
        file = checkpoint(tensors)
        match = identify(file, kind)
        assert match.params == own.params
        module = build(match, file)
        for key, value in own.state_dict().items():
            assert torch.equal(module.state_dict()[key], value), key


def test_unlisted_tensors_are_ignored_and_missing_ones_are_named():
    tensors = tiny_seed.tokenizer_tensors(2) | {"blocks_text.0.norm1.weight": torch.ones(3)}
    tensors |= {"something.new": torch.ones(3), "distill_text_proj.weight": torch.ones(2, 2)}
    file = checkpoint(tensors)
    assert build(identify(file), file).params.generation == 2
    del tensors["blocks_image.0.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors: detokenizer.blocks.0.mlp.fc1.bia"):
        build(identify(file), file)


def test_two_files_of_the_first_generation():
    tensors = tiny_seed.tokenizer_tensors(1)
    first = {k: v for k, v in tensors.items() if k.startswith(("Qformer", "query", "ln_"))}
    rest = {k: v for k, v in tensors.items() if k not in first}
    rest["query_tokens"] = tensors["query_tokens"]
    both = joined_files([checkpoint(first, "causal_qformer.pth"), checkpoint(rest)])
    assert identify(both).params == tiny_seed.tokenizer_params(1)
    with pytest.raises(CheckpointError, match="no Q-Former.*causal_qformer.pth"):
        identify(checkpoint(rest), "SEED tokenizer")


def test_last_block_of_the_public_vision_file():
    params = tiny_seed.vision_params()
    assert unused_block("blocks.2.norm1.weight", params)
    assert unused_block("visual_encoder.blocks.17.norm1.weight", params)
    assert not unused_block("blocks.1.norm1.weight", params)


def test_vision_transformer_of_another_width():
    wide = tiny_seed.VisionTransformerParams(1, 48, 2, 96, 14, 2)
    with pytest.raises(CheckpointError, match="a.pth gives .* width 48, b.pth reads width 32"):
        check_vision(wide, tiny_seed.tokenizer_params(2), ("a.pth", "b.pth"))


def test_first_stage_layout_both_ways():
    params = QFormerParams(2, 24, 2, 48, 32, 32, (0,), causal=True, vocab=30, positions=8)
    module = tiny.randomise(SeedContrast(SeedContrastParams(params, 12)), 0)
    tensors = publish_first_stage(module.state_dict(), module.params)
    match = identify(checkpoint(tensors))
    assert match.params == module.params and match.architecture.kind.startswith("first stage")
    again = convert_first_stage(tensors)
    assert all(torch.equal(again[k], v) for k, v in module.state_dict().items())


def test_tokens_of_another_codebook_and_form():
    tokenizer, tokens = encoded(2)
    other = tiny_seed.tokenizer(2, seed=9)
    with pytest.raises(ValueError, match="codebook"):
        other.decode(tokens)
    short = ImageTokens((tokens.ids[0][..., :31],), tokenizer.fingerprint)
    with pytest.raises(ValueError, match="row of 32 SEED tokens"):
        tokenizer.decode(short)
    high = ImageTokens((tokens.ids[0] + 60,), tokenizer.fingerprint)
    with pytest.raises(ValueError, match=r"0\.\.63"):
        tokenizer.decode(high)


def test_weights_that_are_no_numbers():
    vision, tokenizer = tiny_seed.vision(), tiny_seed.tokenizer(2)
    whole = SeedImageTokenizer(tokenizer, vision, "tiny.pt")
    tokens = whole.encode(pictures())
    tokenizer.detokenizer.project.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the SEED tokenizer .*detokenizer.project.bias"):
        whole.decode(tokens)
    vision.blocks[1].norm1.weight[0] = torch.inf
    with pytest.raises(FloatingPointError, match="vision transformer .*blocks.1.norm1.weight"):
        whole.encode(pictures())


# Mixing and editing


def test_positions():
    assert positions("0-3, 7;9", 32) == [0, 1, 2, 3, 7, 9]
    assert positions("all", 4) == positions(" ", 4) == [0, 1, 2, 3]
    for wrong in ("x", "3-1", "32", "-1"):
        with pytest.raises(ValueError, match=wrong):
            positions(wrong, 32)


def test_taken_over_tokens_are_codes():
    tokenizer, tokens = encoded(2)
    a, b = tokens.rows(0, 1), tokens.rows(1, 2)
    swapped = mixed(tokenizer, a, b, 1.0, [0, 1, 5])
    assert swapped.features is None
    expected = a.ids[0].clone()
    expected[..., [0, 1, 5]] = b.ids[0][..., [0, 1, 5]]
    assert torch.equal(swapped.ids[0], expected)
    assert torch.equal(mixed(tokenizer, a, b, 0.0, [0]).ids[0], a.ids[0])


def test_blends_lie_between():
    tokenizer, tokens = encoded(1)
    a, b = tokens.rows(0, 1), tokens.rows(1, 2)
    half = mixed(tokenizer, a, b, 0.5, list(range(32)))
    expected = (tokenizer.features(a) + tokenizer.features(b)) / 2
    torch.testing.assert_close(tokenizer.features(half), expected)
    assert not torch.allclose(tokenizer.decode(half), tokenizer.decode(a))
    only = mixed(tokenizer, a, b, 0.5, [3])
    kept = [i for i in range(32) if i != 3]
    torch.testing.assert_close(only.features[..., kept], tokenizer.features(a)[..., kept])


def test_one_picture_mixes_with_many():
    tokenizer, tokens = encoded(1)
    assert mixed(tokenizer, tokens.rows(0, 1), tokens, 0.5, [0]).batch == 3
    with pytest.raises(ValueError, match="2 and 3"):
        mixed(tokenizer, tokens.rows(0, 2), tokens, 0.5, [0])


def test_codes_are_set():
    _, tokens = encoded(2)
    one = with_codes(tokens, [1, 2], [7], 64)
    assert (one.ids[0][..., 1:3] == 7).all() and torch.equal(
        one.ids[0][..., 3:], tokens.ids[0][..., 3:]
    )
    assert with_codes(tokens, [1, 2], [7, 8], 64).ids[0][0, 0, 1:3].tolist() == [7, 8]
    with pytest.raises(ValueError, match="3 codes do not fit 2"):
        with_codes(tokens, [1, 2], [1, 2, 3], 64)
    with pytest.raises(ValueError, match="Code 64"):
        with_codes(tokens, [1], [64], 64)
