"""JAX archives: read whole or refused with one clear error; code never runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_unified_io import packed

from mmgen_core.checkpoints import CheckpointError, read_checkpoint
from mmgen_core.checkpoints.msgpack import CHUNKED

FILE = Path(__file__).parent / "golden" / "unified-io" / "msgpack"


def written(path: Path, content) -> Path:
    path.write_bytes(packed(content))
    return path


def test_reads_what_flax_wrote_without_touching_it(tmp_path):
    copy = tmp_path / "small.bin"
    copy.write_bytes((FILE / "weights.bin").read_bytes())
    tensors = read_checkpoint(copy).tensors
    expected = load_file(FILE / "weights.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    next(iter(tensors.values())).zero_()  # the memory is ours, the file is not
    assert copy.read_bytes() == (FILE / "weights.bin").read_bytes()


def test_joins_arrays_that_flax_split(tmp_path):
    whole = torch.arange(6.0)
    chunks = {"0": whole[:4], "1": whole[4:]}
    content = {"a": {CHUNKED: 1, "shape": {"0": 2, "1": 3}, "chunks": chunks}}
    tensors = read_checkpoint(written(tmp_path / "x.msgpack", content)).tensors
    assert torch.equal(tensors["a"], whole.view(2, 3))


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_file_cut_off_is_refused(tmp_path, share):
    raw = (FILE / "weights.bin").read_bytes()
    cut = tmp_path / "cut.bin"
    cut.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.bin.*cut off.*Download it again"):
        read_checkpoint(cut)


def nested(depth: int) -> dict:
    return {"a": nested(depth - 1)} if depth else {}


def test_strange_content_is_refused(tmp_path):
    def refused(raw: bytes, reason: str) -> None:
        path = tmp_path / "bad.bin"
        path.write_bytes(raw)
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)

    refused(b"\x81\xd9\x01a\xd4\x05x", "extension of type 5")
    array = packed([[3], "float32", b"1234"])
    refused(b"\x81\xd9\x01a\xc7" + bytes([len(array)]) + b"\x01" + array, "has 4 bytes")
    array = packed([[1], "object", b"1234"])
    refused(b"\x81\xd9\x01a\xc7" + bytes([len(array)]) + b"\x01" + array, "dtype 'object'")
    refused(packed(nested(40)), "nested")
    refused(packed({"a": torch.ones(2)}) + b"more", "4 bytes follow")
    refused(b"\xdf\xff\xff\xff\xff", "values are announced")
    refused(b"\x81\x01\x02", "name is a int")
    refused(packed({"a": 1}), "no tensors")
