"""A few rows through a linear layer: the same numbers, and hosts keep their own forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmgen_core.models import few_rows


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_results_are_the_layers(rows, bias):
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(rows, 24)
    torch.testing.assert_close(few_rows.project(layer, x), layer(x))


@torch.inference_mode()
def test_what_a_host_does_to_a_layer_is_kept():
    x = torch.randn(2, 24)

    class Host(nn.Linear):
        comfy_cast_weights = False
        weight_function: list = []
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    layer = Host(24, 10)
    few_rows.project(layer, x)
    assert layer.calls == 0  # nothing to do: the host's forward is plain
    for name, value in (("comfy_cast_weights", True), ("weight_function", [print])):
        layer = Host(24, 10)
        setattr(layer, name, value)
        few_rows.project(layer, x)
        assert layer.calls == 1, name
    half = Host(24, 10, dtype=torch.bfloat16)
    assert not few_rows.is_plain(half, x)


def test_training_goes_the_usual_way():
    assert not few_rows.is_plain(nn.Linear(4, 4), torch.randn(2, 4))
