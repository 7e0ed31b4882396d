"""Every public file is recognised by names and shapes alone, and its module takes its tensors.

Lists are found in ``MMGEN_CHECKPOINT_LISTS`` (default tests/checkpoints), one per system.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mmgen_core.checkpoints import Checkpoint
from mmgen_core.systems import identify

ROOT = Path(os.environ.get("MMGEN_CHECKPOINT_LISTS", Path(__file__).parent / "checkpoints"))


def files() -> list:
    entries = []
    for path in sorted(ROOT.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        by_name = {entry["file"]: entry for entry in content["files"]}
        for entry in content["files"]:
            tensors = entry.get("tensors") or by_name[entry["same_tensors_as"]]["tensors"]
            name = f"{path.stem}/{entry['file']}"
            entries.append(pytest.param(content["system"], entry, tensors, id=name))
    return entries


def test_there_are_lists():
    assert files(), f"no checkpoint lists in {ROOT}"


@pytest.mark.parametrize(("system", "entry", "tensors"), files())
def test_public_file(system: str, entry: dict, tensors: dict):
    integers = set(entry.get("non_float_keys", []))
    checkpoint = Checkpoint(
        Path(entry["file"]),
        {
            name: torch.empty(
                shape, device="meta", dtype=torch.int64 if name in integers else torch.float32
            )
            for name, shape in tensors.items()
        },
    )
    match = identify(checkpoint)
    SIZES[system](entry, match.params)
    module = match.architecture.module(match.params, torch.float32, "meta")
    state = match.architecture.state_dict(checkpoint.tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected
    assert all(match.architecture.ignored.values()), "an ignored tensor needs its reason"


def var_sizes(entry: dict, params) -> None:
    config = entry["config"]
    if "v_patch_nums" in config:
        a = params.autoencoder
        assert (params.vocab, a.latent_channels) == (config["vocab_size"], config["z_channels"])
        assert (a.channels, list(a.multipliers)) == (config["ch"], config["ch_mult"])
        assert (a.blocks, a.norm_groups) == (config["num_res_blocks"], config["norm_num_groups"])
        assert (params.phi_count, params.phi_ratio) == (
            config["share_quant_resi"],
            config["quant_resi"],
        )
        assert list(params.scales) == config["v_patch_nums"]
        assert a.stride == config["downsample"]
        return
    assert (params.depth, params.width, params.heads, params.classes) == (
        config["depth"],
        config["embed_dim"],
        config["num_heads"],
        config["num_classes"],
    )
    assert (list(params.scales), params.tokens) == (config["patch_nums"], config["tokens"])
    assert params.shared_adaln == config["shared_aln"]
    assert params.qk_norm == config["attn_l2_norm"]
    assert (params.vocab, params.code_channels) == (config["vocab_size"], config["z_channels"])


def star_sizes(entry: dict, params) -> None:
    config = entry["config"]
    if "num_hidden_layers" in config:
        assert (params.depth, params.width, params.heads) == (
            config["num_hidden_layers"],
            config["hidden_size"],
            config["num_attention_heads"],
        )
        assert (params.hidden, params.vocab) == (config["intermediate_size"], config["vocab_size"])
        assert (params.positions, params.end_id) == (
            config["max_position_embeddings"],
            config["eos_token_id"],
        )
        assert params.quick_gelu == (config["hidden_act"] == "quick_gelu")
        return
    assert (params.depth, params.width, params.heads, params.text_width) == (
        config["depth"],
        config["embed_dim"],
        config["num_heads"],
        config["in_dim_cross"],
    )
    assert (list(params.scales), params.tokens) == (config["patch_nums"], config["tokens"])
    assert (params.rotary.theta, params.rotary.norm) == (config["rope_theta"], config["rope_norm"])
    assert params.refine_from == config["sample_from_idx"]
    assert params.head_norm and not params.smooth_filtered and params.classes == 0
    assert (params.vocab, params.code_channels) == (config["vocab_size"], config["z_channels"])


# A system's check that the recognised sizes are those of the file's published config.
SIZES = {"var": var_sizes, "star": star_sizes}
