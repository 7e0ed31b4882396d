"""Dynamic VRAM on a CPU for Show-o and Transfusion: layers built empty change nothing."""

from __future__ import annotations

import tiny_masked
from host_process import run_script

SCRIPT = r"""
(models,) = arguments
from pack.mmgen_core.decoding.flow_stream import StreamSampling
from pack.mmgen_core.decoding.masked import MaskedSampling
from pack.mmgen_core.systems.show_o_runs import Painting, canvas_of, paint
from pack.mmgen_core.systems.transfusion_runs import draw

folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()
read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    # its file mapping needs the native library, which starts on a GPU only
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo

def filled(*models):
    for model in models:
        for name, parameter in model.patcher.model.named_parameters():
            assert not parameter.is_meta, name

def painted(choice):
    model = host.load_masked_model("tiny_show_o.safetensors", choice)
    tokenizer = host.load_tokenizer("tiny_magvit.safetensors", "fp32")
    filled(model, tokenizer)
    painting = Painting(MaskedSampling(4, 1.75), 3, 2)
    canvas = canvas_of(model.module, tokenizer.module, painting, None, None, None)
    with host.loaded(model, tokenizer) as device:
        tokens = paint(model.module, tokenizer.module, [5, 6], canvas, painting, device)
        picture = tokenizer.vae.decode(tokenizer.module.features(tokens))
    return tokens.ids[0], picture

def solved(file, choice):
    model = host.load_masked_model(file, choice)
    filled(model)
    with host.loaded(model) as device:
        return (draw(model.module, [5, 6], None, StreamSampling(3, 2.0), 1, 2, device),)

def run(lazy, make, *given):
    comfy.memory_management.aimdo_enabled = lazy
    return make(*given)

comfy.memory_management.aimdo_enabled = True
precision = host.choose_precision("auto", torch.device("cpu"), {"a": torch.zeros(1)})
layer = precision.operations().Linear(2, 2, dtype=torch.float32)
assert layer.weight is None, "layers were not built lazily: the test tests nothing"
FLOWS = ("tiny_flow", "conv_flow", "tiny_paper", "unet_paper")
for choice in ("fp32", "int8"):
    runs = [(painted, choice)] + [(solved, f"{name}.safetensors", choice) for name in FLOWS]
    for make, *given in runs:
        pairs = zip(run(False, make, *given), run(True, make, *given), strict=True)
        for plain, lazy in pairs:
            assert torch.equal(plain, lazy), given
            assert torch.isfinite(plain.float()).all() and plain.float().std() > 0.01, given
"""


def test_lazy_models_give_the_same(tmp_path):
    tiny_masked.write_tokenizer(tmp_path)
    tiny_masked.write_show_o(tmp_path)
    tiny_masked.write_flow(tmp_path)
    tiny_masked.write_flow(tmp_path, "conv_flow", kind="conv", channels_first=True)
    tiny_masked.write_paper(tmp_path)
    tiny_masked.write_paper(tmp_path, "unet_paper", unet=(8, 16))
    run_script(SCRIPT, tmp_path, str(tmp_path))
