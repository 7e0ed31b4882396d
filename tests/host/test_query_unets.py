"""SEED-X's UNet as a stock MODEL: recognised at its published shapes, loaded whole or laid on a
base, and drawn with by a stock KSampler."""

from __future__ import annotations

import json

import tiny_queries
import tiny_sd21_base
import torch
from host_process import run_script
from safetensors.torch import save_file
from tiny_queries import QUERIES

from mmgen_core.commands.places import ROOT
from mmgen_core.models.sdxl_adapter import SdxlAdapter, SdxlAdapterParams
from mmgen_core.systems import seed_x

LISTS = ROOT / "tests" / "checkpoints" / "seed-x.json"

SHAPES = r"""
import json
import comfy.model_detection
(lists,) = arguments
for entry in json.loads(Path(lists).read_text())["files"]:
    if "seed_detokenizer" not in entry["file"]:
        continue
    unet = {key.removeprefix("unet."): torch.empty(shape, device="meta")
            for key, shape in entry["tensors"].items() if key.startswith("unet.")}
    config = comfy.model_detection.model_config_from_diffusers_unet(unet)
    edits = "second" in entry["file"]
    assert type(config).__name__ == ("SDXL_instructpix2pix" if edits else "SDXL"), config
    assert config.unet_config["in_channels"] == (8 if edits else 4)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    assert len(unet) == 1680 and set(unet) <= set(names)
    del unet["mid_block.resnets.0.conv1.bias"]
    try:
        host.diffusion_models.stock_unet(unet, entry["file"], "fp16")
    except ValueError as error:
        assert "lacks 1 tensors" in str(error) and "base_model" in str(error), error
    else:
        raise AssertionError("no complaint")
"""


def test_published_shapes(tmp_path):
    run_script(SHAPES, tmp_path, str(LISTS))


OVERLAY = r"""
import comfy.sd
from safetensors.torch import load_file
base_path, part_path = arguments
base = comfy.sd.load_checkpoint_guess_config(base_path, output_vae=False, output_clip=False)[0]
part = load_file(part_path)
model = host.diffusion_models.overlaid(base, part, "part.bin")
names = comfy.utils.unet_to_diffusers(base.model.model_config.unet_config)
(key, wanted), = part.items()
place = f"diffusion_model.{names[key]}"
before = base.model.state_dict()[place].clone()
comfy.model_management.load_models_gpu([model])
weight = model.model.state_dict()[place]
torch.testing.assert_close(weight.float(), wanted.float(), atol=1e-3, rtol=1e-3)
comfy.model_management.load_models_gpu([base])
torch.testing.assert_close(base.model.state_dict()[place], before)
for bad in ({key: torch.zeros(3, 3)}, {"no.such.weight": torch.zeros(3)}):
    try:
        host.diffusion_models.overlaid(base, bad, "part.bin")
    except ValueError as error:
        assert "does not fit the base_model" in str(error), error
    else:
        raise AssertionError("no complaint")
for channels, texts in ((8, ("8 input channels", "has 4")), (None, ("width 77", "takes 1024"))):
    try:
        host.check_model(base, 1024 if channels else 77, channels, "SEED-X")
    except ValueError as error:
        assert all(text in str(error) for text in texts), error
    else:
        raise AssertionError("no complaint")
"""


def test_a_part_is_laid_on_a_base(tmp_path):
    base = tiny_sd21_base.write(tmp_path / "base.safetensors")
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.randn(320, 1024)}, tmp_path / "part.safetensors")
    run_script(OVERLAY, tmp_path, str(base), str(tmp_path / "part.safetensors"))


# The smallest UNet with SDXL's conditions that ComfyUI knows by its shapes.
SMALL_SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -1,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "legacy": False,
}

DRAWING = r"""
import json
import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file
sys.path.insert(0, str(Path(pack_folder) / "tests"))
from tiny_sd15 import write_with_holes
import importlib
import nodes as stock

folder, sizes = arguments
folder_paths.folder_names_and_paths["mmgen"] = ([folder], set())
host.register_folders()
pack_nodes = importlib.import_module("pack.nodes")
sizes = json.loads(sizes)
layers = {"dtype": torch.float16, "operations": comfy.ops.disable_weight_init}
net = UNetModel(**sizes, device="meta", **layers)
shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
names = comfy.utils.unet_to_diffusers(sizes)
adapter = load_file(Path(folder) / "adapter.safetensors")
content = {f"unet.{theirs}": shapes[ours] for theirs, ours in names.items() if ours in shapes}
content |= {key: tuple(value.shape) for key, value in adapter.items()}

def values(name, shape):
    return adapter[name].half().numpy().tobytes() if name in adapter else None

write_with_holes(Path(folder) / "stage.safetensors", list(content.items()), values)

from pack.mmgen_core.conditioners.seed_x import ImageFeatures
with torch.inference_mode():
    model, detokenizer = pack_nodes.LoadSeedXDetokenizer.execute("stage.safetensors", "fp16").args
    assert type(model.model).__name__ == "SDXL" and not detokenizer.edits
    features = ImageFeatures.of(torch.randn(1, 4, 24), torch.randn(1, 16, 24))
    asked = pack_nodes.SeedXConditioning.execute(detokenizer, features, diffusion_model=model).args
    assert asked[0][0][0].shape[-1] == 2048 and asked[0][0][1]["pooled_output"].shape == (1, 1280)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    (drawn,) = stock.KSampler().sample(
        model, 1, 1, 7.5, "euler", "ddim_uniform", asked[0], asked[1], latent)
    assert drawn["samples"].shape == (1, 4, 8, 8) and torch.isfinite(drawn["samples"]).all()
    source = torch.rand(1, 8, 8, 3)
    try:
        pack_nodes.SeedXConditioning.execute(detokenizer, features, source)
    except ValueError as error:
        assert "first stage, which cannot edit" in str(error), error
    else:
        raise AssertionError("no complaint")
"""


def test_whole_file_draws_through_the_stock_sampler(tmp_path):
    params = SdxlAdapterParams(1, 64, 64, 6, 24, 32, (768, 1280), 1280, 1)
    net = tiny_queries.randomise(SdxlAdapter(params), 3)
    save_file(seed_x.publish_adapter(net.state_dict(), params), tmp_path / "adapter.safetensors")
    assert QUERIES == 4
    run_script(DRAWING, tmp_path, str(tmp_path), json.dumps(SMALL_SDXL))
