"""The multi-scale tokenizer and its tokens beyond the golden cases."""

from __future__ import annotations

import pytest
import tiny
import torch

from mmgen_core.image_tokens import ImageTokens
from mmgen_core.tokenizers.multiscale_vq import codebook_fingerprint
from mmgen_core.tokenizers.resample import area_resample, window_weights
from mmgen_core.tokenizers.residual_quantizer import phi_assignment


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def picture(batch=1, side=16, seed=0):
    return torch.rand(batch, side, side, 3, generator=torch.Generator().manual_seed(seed))


def test_published_phi_assignment_survives_the_float_tie():
    assert phi_assignment(10, 4) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert phi_assignment(14, 4) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert phi_assignment(5, 1) == [0] * 5 and phi_assignment(1, 4) == [0]


def test_tokens_survive_the_disk(tokenizer, tmp_path):
    tokens = tokenizer.encode(picture(2)).with_mask(torch.rand(1, 4, 4))
    path = tmp_path / "t.safetensors"
    tokens.save(path)
    again = ImageTokens.load(path)
    assert again.codebook == tokens.codebook and again.features is None
    assert all(torch.equal(a, b) for a, b in zip(again.ids, tokens.ids, strict=True))
    assert torch.equal(again.mask, tokens.mask)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    other = tiny.write(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="holds no image tokens"):
        ImageTokens.load(other)
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match="no readable safetensors"):
        ImageTokens.load(path)


def test_more_scales_describe_the_features_better(tokenizer):
    f = tokenizer.encode_features(picture())
    sums = tokenizer.quantize.partial_sums(list(tokenizer.encode(picture()).ids))
    errors = [float((f - f_hat).square().mean()) for f_hat in sums]
    assert errors[-1] < errors[0]


def test_batch_rows_are_independent(tokenizer):
    both = tokenizer.encode(torch.cat([picture(seed=1), picture(seed=2)]))
    one = tokenizer.encode(picture(seed=2))
    assert all(torch.equal(a[1], b[0]) for a, b in zip(both.ids, one.ids, strict=True))
    torch.testing.assert_close(tokenizer.decode(both)[1], tokenizer.decode(one)[0])


def test_impossible_pictures_are_named(tokenizer):
    with pytest.raises(ValueError, match="18 x 16 pixels.*multiples of 4"):
        tokenizer.encode(torch.zeros(1, 16, 18, 3))
    with pytest.raises(ValueError, match="No scale list is known for a picture of 20 x 20"):
        tokenizer.encode(torch.zeros(1, 20, 20, 3))
    with pytest.raises(ValueError, match=r"must be the size of the feature map, \(4, 4\)"):
        tokenizer.encode(picture(), scales=(1, 2, 3))
    assert tokenizer.encode(torch.zeros(1, 64, 64, 3)).grid == (16, 16)  # the published list


def test_foreign_tokens_are_refused(tokenizer):
    other = tiny.tokenizer(seed=9)
    with pytest.raises(ValueError, match="belong to the codebook"):
        tokenizer.decode(other.encode(picture()))
    tokens = tokenizer.encode(picture())
    wild = ImageTokens((*tokens.ids[:-1], tokens.ids[-1] + 99), tokens.codebook)
    with pytest.raises(ValueError, match=r"0\.\.31"):
        tokenizer.decode(wild)


@pytest.mark.parametrize(("old", "new"), [(16, 13), (16, 10), (9, 2), (5, 5), (4, 1), (7, 3)])
def test_window_weights_are_those_of_area_interpolation(old, new):
    """The form used where torch cannot pool sizes that do not divide."""
    x, weights = torch.rand(2, 3, old, old), window_weights(old, new)
    torch.testing.assert_close(weights @ x @ weights.T, area_resample(x, (new, new)))


def test_fingerprint_is_that_of_the_half_precision_file_too():
    codebook = torch.randn(16, 4)
    assert codebook_fingerprint(codebook) == codebook_fingerprint(codebook.bfloat16())
    assert codebook_fingerprint(codebook) != codebook_fingerprint(codebook + 1)


def test_partial_picture_is_small(tokenizer):
    f_hat = tokenizer.encode_features(picture(2))
    assert tokenizer.decode_partial(f_hat, side=2).shape == (1, 8, 8, 3)
    assert tokenizer.decode_partial(f_hat).shape == (1, 16, 16, 3)
