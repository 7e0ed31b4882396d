"""Files as users have them: right, wrong, cut off, hostile."""

from __future__ import annotations

import json
import pickle

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from mmgen_core.checkpoints import Checkpoint, CheckpointError, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.checkpoints.convert import convert_checkpoint, describe
from mmgen_core.systems import identify, var


class Hostile:
    """Unpickling this would create a file; the test's folder must stay empty of it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_published_pickle_loads_and_converts(tmp_path):
    tensors = tiny.transformer_tensors()
    source, target = tmp_path / "var_tiny.pth", tmp_path / "var_tiny.safetensors"
    torch.save(tensors, source)
    (tmp_path / "var_tiny.json").write_text(json.dumps(tiny.TRANSFORMER_CONFIG))
    convert_checkpoint(source, target)
    assert load_file(target).keys() == tensors.keys()
    checkpoint = read_checkpoint(target)
    assert checkpoint.config["classes"][3] == "sun"
    module = build(identify(checkpoint), checkpoint)
    reference = tiny.transformer()
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), reference.state_dict().values(), strict=True)
    )
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(source, target)


def test_legacy_pickle_and_wrapped_snapshot_load(tmp_path):
    tensors = tiny.tokenizer_tensors()
    path = tmp_path / "snapshot.ckpt"
    snapshot = {"epoch": 3, "trainer": {"vae": tensors, "config": tiny.TOKENIZER_CONFIG}}
    torch.save(snapshot, path, _use_new_zipfile_serialization=False)
    checkpoint = read_checkpoint(path)
    assert identify(checkpoint).params.scales == tiny.SCALES


def test_sharded_index_loads_and_names_missing_shards(tmp_path):
    tensors = tiny.transformer_tensors()
    names = sorted(tensors)
    parts = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, tmp_path / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert read_checkpoint(index).tensors.keys() == tensors.keys()
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing beside it: a-2\.safetensors"):
        read_checkpoint(index)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, canary = tmp_path / "evil.pth", tmp_path / "canary"
    torch.save({"weight": torch.zeros(1), "x": Hostile(canary)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth holds more than tensors"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(CheckpointError, match="evil"):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"var{suffix}"
    tensors = tiny.transformer_tensors()
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=rf"var\{suffix}.*Download it again"):
        read_checkpoint(path)


def test_other_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "none.safetensors")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="unknown file type"):
        read_checkpoint(text)
    other = tiny.write(tmp_path / "lora.safetensors", {"lora.up": torch.zeros(2, 2)}, {})
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is none of the known"):
        identify(read_checkpoint(other))
    listed = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], listed)
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(listed)
    broken = tiny.write(tmp_path / "b.safetensors", tiny.tokenizer_tensors(), {})
    broken.with_suffix(".json").write_text("{")
    save_file(load_file(broken), broken)
    with pytest.raises(CheckpointError, match="no valid JSON"):
        read_checkpoint(broken)


def test_the_wrong_kind_is_named(tmp_path):
    path = tiny.write(tmp_path / "vae.safetensors", tiny.tokenizer_tensors(), tiny.TOKENIZER_CONFIG)
    with pytest.raises(CheckpointError, match="tokenizer.*a scale model is needed"):
        identify(read_checkpoint(path), "scale model")


def test_missing_and_unknown_tensors_are_named(tmp_path):
    def attempt(tensors):
        checkpoint = Checkpoint(tmp_path / "v.safetensors", tensors, tiny.TRANSFORMER_CONFIG)
        build(identify(checkpoint), checkpoint)

    tensors = tiny.transformer_tensors()
    lacking = {k: v for k, v in tensors.items() if k != "blocks.1.ffn.fc1.bias"}
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors: blocks\.1\.ffn\.fc1\.bias"):
        attempt(lacking)
    with pytest.raises(CheckpointError, match="has unknown 1 tensors: surprise"):
        attempt({**tensors, "surprise": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit.*head.bias"):
        attempt({**tensors, "head.bias": torch.zeros(7)})


def test_an_unpublished_schedule_asks_for_a_config():
    tensors = {k: v for k, v in tiny.transformer_tensors().items() if k != "lvl_1L"}
    checkpoint = Checkpoint("v.pth", tensors, {})
    with pytest.raises(CheckpointError, match="schedule of 30 tokens"):
        identify(checkpoint)
    with_levels = Checkpoint("v.pth", tiny.transformer_tensors(), {})
    assert identify(with_levels).params.scales == tiny.SCALES


def test_publish_is_the_inverse_of_convert():
    for shared in (False, True):
        tensors = tiny.transformer_tensors(shared=shared)
        again = var.publish_transformer(var.ARCHITECTURES[1].state_dict(tensors), params(shared))
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[k], tensors[k]) for k in tensors)


def params(shared: bool):
    return tiny.transformer(shared=shared).params


def test_describe_names_the_sizes(tmp_path):
    path = tiny.write(tmp_path / "v.safetensors", tiny.transformer_tensors(), {})
    rows = describe(path)
    assert rows["is"] == "VAR transformer" and rows["depth"] == 2 and rows["heads"] == 2
    assert rows["scales"] == tiny.SCALES and rows["dtypes"] == "float32, int64"


def test_byte_floats_are_read_as_numbers_to_compute_with(tmp_path):
    weight = torch.randn(8, 8).to(torch.float8_e4m3fn)
    save_file({"a": weight, "b": torch.ones(2)}, tmp_path / "small.safetensors")
    tensors = read_checkpoint(tmp_path / "small.safetensors").tensors
    assert tensors["a"].dtype == torch.float16 and tensors["b"].dtype == torch.float32
    assert torch.equal(tensors["a"], weight.half())
