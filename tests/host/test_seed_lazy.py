"""SEED under dynamic VRAM on a CPU: layers built empty and filled on loading change nothing."""

from __future__ import annotations

import json

import tiny_seed
from host_process import run_script
from safetensors.torch import save_file

SCRIPT = r"""
from pack.mmgen_core.conditioners.multimodal_prompt import multimodal_prompt
from pack.mmgen_core.systems.next_token import PictureWish

folder_paths.folder_names_and_paths["mmgen"] = ([arguments[0]], {".safetensors"})
read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    # its file mapping needs the native library, which starts on a GPU only
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo
picture = torch.rand(2, 30, 40, 3, generator=torch.Generator().manual_seed(0))

def drawn(lazy):
    comfy.memory_management.aimdo_enabled = lazy
    results = []
    for name in ("seed1.safetensors", "seed2.safetensors"):
        codec = host.load_seed_tokenizer(name, name, None, "fp32", "fp32")
        for patcher in codec.patchers:
            for key, parameter in patcher.model.named_parameters():
                assert not parameter.is_meta, key
        with torch.inference_mode(), host.loaded(codec):
            tokens = codec.module.encode(picture)
            results += [tokens.ids[0], codec.module.decode(tokens)]
    model = host.load_next_token_model("llama/model.safetensors", "fp32")
    with torch.inference_mode(), host.loaded(model, codec) as device:
        prompt = multimodal_prompt("<image> a fox", [picture[0]])
        wish = PictureWish(seed=3, batch=2)
        drawn = model.system.draw(model.module, codec.module, prompt, wish, device)
    return [*results, drawn.ids[0]]

for a, b in zip(drawn(False), drawn(True), strict=True):
    assert torch.equal(a, b)
"""


def test_lazy_models_give_the_same(tmp_path):
    for generation in (1, 2):
        tensors = tiny_seed.complete_tensors(generation)
        config = {"config": json.dumps(tiny_seed.CONFIG)}
        save_file(tensors, tmp_path / f"seed{generation}.safetensors", config)
    tiny_seed.write_llama(tmp_path / "llama")
    run_script(SCRIPT, tmp_path, str(tmp_path))
