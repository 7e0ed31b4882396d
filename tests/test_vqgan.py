"""The VQGAN: layouts, sizes, files without a decoder, previews."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from mmgen_core.checkpoints.architecture import build
from mmgen_core.checkpoints.files import Checkpoint, CheckpointError
from mmgen_core.systems import identify
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.vqgan import VQGAN, VQGANParams, split_attention, vqgan_params


def tensors(attention=(), blocks=1, seed=0) -> dict[str, torch.Tensor]:
    autoencoder = AutoencoderParams(32, (1, 1, 2), blocks, 6, attention=attention)
    module = tiny.randomise(VQGAN(VQGANParams(autoencoder, 24, 4)), seed)
    return split_attention(module.state_dict())


def loaded(files: dict[str, torch.Tensor]) -> VQGAN:
    checkpoint = Checkpoint(Path("vqgan.ckpt"), files)
    return build(identify(checkpoint, "image tokenizer"), checkpoint)


@pytest.mark.parametrize("attention", [(), (2,), (1, 2)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_sizes_come_from_shapes(attention, blocks):
    params = vqgan_params({k: tuple(v.shape) for k, v in tensors(attention, blocks).items()})
    assert params == VQGANParams(
        AutoencoderParams(32, (1, 1, 2), blocks, 6, attention=attention), 24, 4
    )


@torch.inference_mode()
def test_layouts_are_one_tokenizer_and_unknown_extras_do_not_matter():
    files = tensors()
    extra = {"loss.discriminator.main.0.weight": torch.ones(3), "quantize.ema": torch.ones(1)}
    theirs = {f"model.vqmodel.{k}": v for k, v in files.items()} | {"lm_head.weight": torch.ones(1)}
    image = torch.rand(2, 12, 20, 3, generator=torch.Generator().manual_seed(0))
    plain, snapshot, hf = loaded(files), loaded(files | extra), loaded(theirs)
    tokens = plain.encode(image)
    assert tokens.grid == (3, 5) and tokens.batch == 2
    for other in (snapshot, hf):
        assert other.fingerprint == plain.fingerprint
        assert torch.equal(other.encode(image).ids[0], tokens.ids[0])
        assert torch.equal(other.decode(tokens), plain.decode(tokens))
    assert torch.equal(plain.code_map(image), plain.features(tokens))


@torch.inference_mode()
def test_a_file_without_decoder_encodes_and_says_why_it_cannot_decode():
    files = {k: v for k, v in tensors().items() if not k.startswith("decoder.")}
    tokenizer = loaded(files)
    tokens = tokenizer.encode(torch.rand(1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"encoder only.*vqgan\.ckpt"):
        tokenizer.decode(tokens)


def test_bad_pictures_and_tokens_are_refused():
    tokenizer = loaded(tensors())
    with pytest.raises(ValueError, match="10 x 8.*multiples of 4"):
        tokenizer.encode(torch.rand(1, 8, 10, 3))
    tokens = tokenizer.encode(torch.rand(1, 8, 8, 3))
    tokens.ids[0][0, 0, 0] = 24
    with pytest.raises(ValueError, match=r"0\.\.23"):
        tokenizer.features(tokens)
    with pytest.raises(ValueError, match="codebook"):
        loaded(tensors(seed=1)).features(tokens)


def test_an_incomplete_file_is_refused():
    files = tensors()
    del files["decoder.up.0.block.0.conv1.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*conv1\.bias"):
        loaded(files)


@torch.inference_mode()
def test_previews_grow_row_by_row():
    tokenizer = loaded(tensors())
    ids = torch.zeros(3, 2, dtype=torch.int64)
    for done, rows in ((1, 1), (2, 1), (5, 2), (6, 3)):
        picture = tokenizer.decode_partial(ids, done)
        assert picture.shape == (1, 12, 8, 3)
        assert bool((picture[:, rows * 4 :] == 0.5).all())
        assert not bool((picture[:, : rows * 4] == 0.5).all())
