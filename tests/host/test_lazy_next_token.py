"""Dynamic VRAM on a CPU for next-token models and the VQGAN, as ``test_lazy`` does for others."""

from __future__ import annotations

import tiny_next_token
from host_process import run_script

SCRIPT = r"""
models, *choices = arguments
from pack.mmgen_core.conditioners.multimodal_prompt import multimodal_prompt
from pack.mmgen_core.systems.next_token import PictureWish

folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()
FILE = "tiny_chameleon.safetensors"
read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    # its file mapping needs the native library, which starts on a GPU only
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo

def draw(choice, lazy):
    comfy.memory_management.aimdo_enabled = lazy
    model = host.load_next_token_model(FILE, choice)
    tokenizer = host.load_tokenizer(FILE, "fp32")
    for loaded in (model, tokenizer):
        for name, parameter in loaded.patcher.model.named_parameters():
            assert not parameter.is_meta, name
    prompt = multimodal_prompt("a red fox <image>", [torch.full((20, 20, 3), 0.3)])
    with host.loaded(model, tokenizer) as device:
        wish = PictureWish(batch=2, seed=4)
        tokens = model.system.draw(model.module, tokenizer.module, prompt, wish, device)
        return tokens, tokenizer.vae.decode(tokenizer.module.features(tokens))

@torch.inference_mode()  # as the host runs prompts
def pair(choice):
    return draw(choice, False), draw(choice, True)

for choice in choices:
    plain, lazy = pair(choice)
    assert plain[0].codebook == lazy[0].codebook
    assert torch.equal(plain[0].ids[0], lazy[0].ids[0]), choice
    assert torch.equal(plain[1], lazy[1]) and plain[1].std() > 0.01
comfy.memory_management.aimdo_enabled = True
precision = host.choose_precision("auto", torch.device("cpu"), {"a": torch.zeros(1)})
assert precision.operations().Linear(2, 2, dtype=torch.float32).weight is None, "not lazy"
"""


def test_lazy_models_give_the_same(tmp_path):
    tiny_next_token.write_chameleon(tmp_path)
    run_script(SCRIPT, tmp_path, str(tmp_path), "fp32", "fp8", "int8")
