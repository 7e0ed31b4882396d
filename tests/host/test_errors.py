"""Bad input ends in one clear message, and the server and the next prompt go on."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import tiny
import torch
from prompts import draw, fails, node
from safetensors.torch import save_file


@pytest.fixture(autouse=True)
def server_goes_on(host, models):
    """After every bad prompt a good one runs."""
    yield
    assert host.images(host.run(draw(seed=os.getpid())))


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_text_instead_of_weights(host, models):
    (models / "page.safetensors").write_text("<html>not found</html>")
    fails(host, draw("page.safetensors"), "page.safetensors", "safetensors", "[Dd]ownload")


def test_truncated_safetensors(host, models):
    whole = (models / "tiny_var.safetensors").read_bytes()
    (models / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    fails(host, draw("cut.safetensors"), "cut.safetensors", "cut off", str(len(whole)))


def test_truncated_pickle(host, models):
    torch.save(tiny.transformer_tensors(), models / "whole.pth")
    whole = (models / "whole.pth").read_bytes()
    (models / "cut.pth").write_bytes(whole[: len(whole) // 2])
    fails(host, draw("cut.pth"), "cut.pth", "cut off")


def test_pickle_loads(host, models):
    torch.save(tiny.transformer_tensors(), models / "whole.pth")
    assert host.images(host.run(draw("whole.pth")))


def test_pickle_with_code_is_not_run(host, models, tmp_path):
    target = tmp_path / "owned"
    (models / "evil.pth").write_bytes(pickle.dumps({"weight": Evil(str(target))}))
    fails(host, draw("evil.pth"), "evil.pth", "code")
    torch.save({"weight": torch.zeros(1), "more": Evil(str(target))}, models / "evil2.pth")
    fails(host, draw("evil2.pth"), "evil2.pth", "code")
    assert not target.exists()


def test_file_of_another_system(host, models):
    keys = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
    save_file(keys, models / "sd.safetensors")
    fails(host, draw("sd.safetensors"), "sd.safetensors", "VAR", "input_blocks")


def test_tokenizer_in_the_model_loader(host, models):
    fails(host, draw("tiny_vae.safetensors"), "tiny_vae.safetensors", "image tokenizer")


def test_missing_tensor(host, models):
    tensors = tiny.transformer_tensors()
    tensors.pop("blocks.1.ffn.fc1.weight")
    tiny.write(models / "lacks.safetensors", tensors, tiny.TRANSFORMER_CONFIG)
    fails(host, draw("lacks.safetensors"), "lacks.safetensors", "blocks.1.ffn.fc1.weight")


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_missing_tensor_in_eight_bits(host, models, dtype):
    spec = host.client.get("/object_info/MMGenLoadScaleModel")["MMGenLoadScaleModel"]
    if dtype not in spec["input"]["required"]["dtype"][1]["options"]:
        pytest.skip(f"this host has no {dtype}")
    tensors = tiny.transformer_tensors()
    tensors.pop("head.weight")
    tiny.write(models / "lacks8.safetensors", tensors, tiny.TRANSFORMER_CONFIG)
    prompt = draw("lacks8.safetensors")
    prompt["model"]["inputs"]["dtype"] = dtype
    fails(host, prompt, "head.weight")


def test_nan_weight_is_named(host, models):
    tensors = tiny.transformer_tensors()
    tensors["blocks.0.ffn.fc2.weight"][0, 0] = float("nan")
    tiny.write(models / "nan.safetensors", tensors, tiny.TRANSFORMER_CONFIG)
    fails(host, draw("nan.safetensors"), "NaN", "blocks.0.ffn.fc2.weight")


def test_tokens_of_another_codebook(host, models):
    tiny.write(models / "other_vae.safetensors", tiny.tokenizer_tensors(9), tiny.TOKENIZER_CONFIG)
    prompt = draw()
    prompt["other"] = node(
        "MMGenLoadImageTokenizer", tokenizer_name="other_vae.safetensors", dtype="auto"
    )
    prompt["decode"]["inputs"]["tokenizer"] = ["other", 0]
    fails(host, prompt, "codebook multiscale-vq 32x8 (\\w+).*multiscale-vq 32x8 (?!\\1)")


def test_tokenizer_of_another_model(host, models):
    tensors = tiny.tokenizer_tensors(vocab=16)
    tiny.write(models / "small_vae.safetensors", tensors, tiny.TOKENIZER_CONFIG)
    fails(host, draw(tokenizer="small_vae.safetensors"), "32 codes", "16")


def test_unknown_class_number(host, models):
    fails(host, draw(class_id=500), "500", "0..7")


def test_class_names(host, models):
    def named(name: str) -> dict:
        prompt = draw()
        prompt["class"] = node("MMGenClassByName", model=["model", 0], name=name)
        prompt["sampler"]["inputs"]["class_id"] = ["class", 0]
        return prompt

    fails(host, named("smilling fase"), "smiling face")
    fails(host, named("face"), "smiling face", "sad face")
    for name in ("SMILING face", "flow", "", "no class"):
        assert host.images(host.run(named(name))), name


def test_start_tokens_without_use(host, models):
    prompt = draw()
    prompt["again"] = node(
        "MMGenScaleSampler", **(prompt["sampler"]["inputs"] | {"start_tokens": ["sampler", 0]})
    )
    prompt["decode"]["inputs"]["tokens"] = ["again", 0]
    fails(host, prompt, "keep_scales", "mask")


def test_picture_of_another_size(host, models):
    prompt = encode(width=32)
    fails(host, prompt, "32 x 16", "16 x 16", "Upscale Image")


def test_empty_mask(host, models):
    prompt = encode()
    prompt["mask"] = node("SolidMask", value=0.0, width=16, height=16)
    prompt["masked"] = node("MMGenTokenMask", tokens=["encode", 0], mask=["mask", 0], coverage=0.1)
    prompt["view"]["inputs"]["tokens"] = ["masked", 0]
    fails(host, prompt, "nothing", "mask")


def test_mask_of_another_shape(host, models):
    prompt = encode()
    prompt["mask"] = node("SolidMask", value=1.0, width=64, height=16)
    prompt["masked"] = node("MMGenTokenMask", tokens=["encode", 0], mask=["mask", 0], coverage=0.1)
    prompt["view"]["inputs"]["tokens"] = ["masked", 0]
    fails(host, prompt, "64 x 16")


def encode(width: int = 16) -> dict[str, dict]:
    """A plain picture to tokens, and a view of them."""
    prompt = draw()
    return {
        "model": prompt["model"],
        "tokenizer": prompt["tokenizer"],
        "picture": node("EmptyImage", width=width, height=16, batch_size=1, color=0x808000),
        "encode": node(
            "MMGenEncodeImage",
            tokenizer=["tokenizer", 0],
            image=["picture", 0],
            model=["model", 0],
        ),
        "view": node("MMGenViewTokens", tokens=["encode", 0], map_size=32),
        "save": node("SaveImage", images=["view", 0], filename_prefix="test"),
    }


def test_saved_tokens_that_are_none(host, models):
    (host.output_dir / "tokens").mkdir(exist_ok=True)
    save_file({"a": torch.zeros(1)}, host.output_dir / "tokens" / "wrong.tokens.safetensors")
    prompt = encode()
    prompt["load"] = node("MMGenLoadTokens", tokens_name="tokens/wrong.tokens.safetensors [output]")
    prompt["view"]["inputs"]["tokens"] = ["load", 0]
    fails(host, prompt, "wrong.tokens.safetensors", "no image tokens")


def test_tokens_are_read_from_the_folders_only(host, models):
    prompt = encode()
    prompt["load"] = node("MMGenLoadTokens", tokens_name="../../secret.tokens.safetensors [output]")
    prompt["view"]["inputs"]["tokens"] = ["load", 0]
    fails(host, prompt, "secret")


def test_tokens_are_written_to_the_output_folder_only(host, models):
    prompt = encode()
    prompt["saving"] = node(
        "MMGenSaveTokens", tokens=["encode", 0], filename_prefix="../../../outside"
    )
    fails(host, prompt, "outside the output folder")


def shard(models) -> str:
    """tiny_var in two files and their index, whose name is returned."""
    tensors = tiny.transformer_tensors(classes=8)
    names = sorted(tensors)
    parts = {
        "big-00001-of-00002.safetensors": names[::2],
        "big-00002-of-00002.safetensors": names[1::2],
    }
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, models / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (models / "big.safetensors.index.json").write_text(json.dumps(index))
    return "big.safetensors.index.json"


def test_sharded_file_loads_and_a_missing_shard_is_named(host, models):
    name = shard(models)
    prompt = draw(name)
    assert host.images(host.run(prompt))
    (models / "big-00002-of-00002.safetensors").unlink()
    prompt["model"]["inputs"]["dtype"] = "fp16"  # else the model comes from the cache
    fails(host, prompt, "big-00002-of-00002.safetensors")
