"""A small diffusers U-Net as a stock MODEL gives what diffusers gives."""

from __future__ import annotations

from pathlib import Path

import tiny_seed
from host_process import run_script

SCRIPT = r"""
import json
from safetensors.torch import load_file, safe_open
from diffusers import UNet2DConditionModel
import folder_paths

path = Path(arguments[0])
folder_paths.folder_names_and_paths["mmgen"] = ([str(path.parent)], {".safetensors"})
patcher = host.load_small_diffusion(path.name, "fp32")
with safe_open(path, "pt") as file:
    config = json.loads(file.metadata()["config"])
config = {k: v for k, v in config.items() if k not in ("scaling_factor", "prediction_type")}
peer = UNet2DConditionModel(**config).eval()
peer.load_state_dict(load_file(path))
torch.manual_seed(0)
x, context = torch.randn(2, 16, 8, 8), torch.randn(2, 5, config["cross_attention_dim"])
steps = torch.tensor([3.0, 700.0])
with torch.inference_mode():
    theirs = peer(x, steps, context).sample
    ours = patcher.model.diffusion_model(x, steps, context)
torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
assert patcher.model.model_type.name == "V_PREDICTION"
assert patcher.model.latent_format.latent_channels == 16
scaled = patcher.model.process_latent_in(torch.ones(1))
assert abs(float(scaled) - 3.0) < 1e-6
for step in (0, 500, 999):
    from diffusers import DDPMScheduler

    noise = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha = noise.alphas_cumprod[step]
    sigma = ((1 - alpha) / alpha) ** 0.5
    found = patcher.model.model_sampling.sigmas[step]
    torch.testing.assert_close(found, sigma, atol=1e-3, rtol=1e-3)
"""


def test_same_as_diffusers(tmp_path: Path):
    path = tiny_seed.write_unet(tmp_path / "tiny_unet.safetensors")
    run_script(SCRIPT, tmp_path, str(path))
