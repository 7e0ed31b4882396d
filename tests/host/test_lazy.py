"""Dynamic VRAM on a CPU: layers are built empty and filled on loading, and nothing changes.

ComfyUI turns it on for NVIDIA cards only. A process of its own sets the same switch before it
builds the models, and compares the tokens drawn with those of models built without it.
"""

from __future__ import annotations

import tiny
from host_process import run_script

CHOICES = ("fp32", "fp8", "int8")
SCRIPT = r"""
models, *choices = arguments
from pack.mmgen_core.conditioners.scale_prompt import ClassPrompt, TextFeatures, TextPrompt
from pack.mmgen_core.decoding.next_scale import ScaleSampling, generate

folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()
assert models in folder_paths.folder_names_and_paths["mmgen"][0], "a user's folder was dropped"

read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    # its file mapping needs the native library, which starts on a GPU only
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo

numbers = torch.Generator().manual_seed(0)
texts = [
    TextFeatures(
        torch.randn(1, 5, 12, generator=numbers),
        torch.randn(1, 12, generator=numbers),
        torch.ones(1, 5, dtype=torch.bool),
    )
    for _ in range(2)
]
PROMPTS = {
    "tiny_var.safetensors": ClassPrompt([0, -1]),
    "tiny_star.safetensors": TextPrompt(*texts).expand(2),
}

def draw(file, choice, lazy, assign=False):
    comfy.memory_management.aimdo_enabled = lazy
    patcher = comfy.model_patcher.ModelPatcher
    is_dynamic = patcher.is_dynamic
    if assign:
        patcher.is_dynamic = lambda self: True
    try:
        return drawn(file, choice)
    finally:
        patcher.is_dynamic = is_dynamic

def drawn(file, choice):
    model = host.load_scale_model(file, choice)
    tokenizer = host.load_tokenizer("tiny_vae.safetensors", "fp32")
    for loaded in (model, tokenizer):
        for name, parameter in loaded.patcher.model.named_parameters():
            assert not parameter.is_meta, name
    with torch.inference_mode(), host.loaded(model, tokenizer):
        tokens = generate(
            model.module, tokenizer.module, PROMPTS[file], 3, ScaleSampling(top_k=0)
        )
        picture = tokenizer.vae.decode(tokenizer.module.features(tokens))
        latent = tokenizer.vae.encode(picture)
    return tokens, picture, latent

def same(plain, lazy):
    assert plain[0].codebook == lazy[0].codebook
    for a, b in zip(plain[0].ids, lazy[0].ids, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain[1], lazy[1]) and torch.equal(plain[2], lazy[2])
    assert torch.isfinite(plain[1]).all() and plain[1].std() > 0.01

comfy.memory_management.aimdo_enabled = True
precision = host.choose_precision("auto", torch.device("cpu"), {"a": torch.zeros(1)})
layer = precision.operations().Linear(2, 2, dtype=torch.float32)
assert layer.weight is None, "layers were not built lazily: the test tests nothing"
with torch.inference_mode():
    for file in PROMPTS:
        for choice in choices:
            same(draw(file, choice, False), draw(file, choice, True))
        same(draw(file, "auto", False), draw(file, "auto", True, assign=True))
        # Here lazy layers keep the file's precision; on a GPU the host casts as it streams.
        assert torch.isfinite(draw(file, "bf16", True)[1]).all()
"""


def test_lazy_models_give_the_same(tmp_path):
    files = {
        "tiny_var": (tiny.transformer_tensors(), tiny.TRANSFORMER_CONFIG),
        "tiny_star": (tiny.star_tensors(), tiny.STAR_CONFIG),
        "tiny_vae": (tiny.tokenizer_tensors(), tiny.TOKENIZER_CONFIG),
    }
    for name, content in files.items():
        tiny.write(tmp_path / f"{name}.safetensors", *content)
    run_script(SCRIPT, tmp_path, str(tmp_path), *CHOICES)
