"""Token masks and pictures of token maps."""

from __future__ import annotations

import pytest
import torch

from mmgen_core.token_maps import blend_mask, code_colours, code_map_grid, token_mask


def test_mask_takes_tokens_by_coverage():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4, :3] = 1  # covers two tokens of 2 x 2 columns: one whole, one half
    assert token_mask(mask, (4, 4), 0.1)[0].tolist() == [[1, 1, 0, 0]] * 2 + [[0] * 4] * 2
    assert token_mask(mask, (4, 4), 0.5)[0].tolist() == [[1, 0, 0, 0]] * 2 + [[0] * 4] * 2


def test_mask_may_be_smaller_than_the_grid():
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert token_mask(mask, (4, 4), 0.1).sum() == 4


def test_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"16 x 8.*4 x 4"):
        token_mask(torch.ones(1, 8, 16), (4, 4), 0.1)


def test_empty_mask_is_refused_in_any_row():
    mask = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    with pytest.raises(ValueError, match="row 1.*nothing would be redrawn"):
        token_mask(mask, (4, 4), 0.1)


def test_blend_mask_spares_every_kept_pixel():
    redraw = torch.zeros(1, 4, 4)
    redraw[:, 1:3, 1:] = 1  # up to the right border
    blend = blend_mask(redraw, (64, 64))[0]
    kept = redraw[0].repeat_interleave(16, 0).repeat_interleave(16, 1) == 0
    assert (blend[kept] == 0).all()
    assert (blend[24:40, 24:] == 1).all(), "full strength from the tokens' centres on"
    assert ((blend[:, 40].diff()).abs() < 0.2).all(), "no hard edge"


def test_code_colours_differ():
    colours = code_colours(torch.arange(256))
    assert colours.shape == (256, 3) and 0 <= colours.min() and colours.max() <= 1
    assert len({tuple(c) for c in (colours * 255).int().tolist()}) > 200


def test_grid_of_code_maps():
    ids = [torch.zeros(2, s, s, dtype=torch.int64) + s for s in (1, 2, 4, 5, 6)]
    sheet = code_map_grid(ids, 16)
    assert sheet.shape == (2, 2 * 20 - 4, 3 * 20 - 4, 3)
    assert torch.equal(sheet[0, 0, 0], code_colours(ids[0])[0, 0, 0])
    assert (sheet[:, -1, -1] == 1).all(), "an empty place stays white"
