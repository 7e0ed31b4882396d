"""VAE Decode where memory does not suffice: tiles smaller than the picture, at STAR's sizes."""

from __future__ import annotations

from host_process import run_script

SCRIPT = r"""
import json
sys.path.append(str(Path(pack_folder) / "tests"))
sys.modules.setdefault("mmgen_core", sys.modules["pack.mmgen_core"])
import tiny
from safetensors.torch import save_file
from pack.mmgen_core.image_tokens import ImageTokens
from pack.mmgen_core.systems import var
from pack.mmgen_core.tokenizers.autoencoder import AutoencoderParams
from pack.mmgen_core.tokenizers.multiscale_vq import (
    PUBLISHED_SCALES, MultiScaleVQ, MultiScaleVQParams
)
from pack.nodes.tokenizer import DecodeTokens

models = Path(arguments[0])
folder_paths.folder_names_and_paths["mmgen"] = ([str(models)], set())
host.register_folders()

for side in (16, 32, 64):  # 256, 512 and 1024 px of the public tokenizer, whose stride is 16
    scales = PUBLISHED_SCALES[side]
    params = MultiScaleVQParams(AutoencoderParams(8, (1, 1, 2), 1, 8, 4), 32, scales=scales)
    tensors = var.publish_tokenizer(tiny.randomise(MultiScaleVQ(params), 0).state_dict(), params)
    config = {"norm_num_groups": 4, "v_patch_nums": list(scales)}
    save_file(tensors, models / "vae.safetensors", {"config": json.dumps(config)})
    tokenizer = host.load_tokenizer("vae.safetensors", "fp32")
    numbers = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 5, generator=numbers), size=(side * 4, side * 4), mode="bicubic"
    ).clamp(0, 1).movedim(1, -1)
    with torch.inference_mode():
        tokens = tokenizer.module.encode(picture, scales)
        whole = DecodeTokens.execute(tokenizer, tokens).args[0]
        decode, seen = tokenizer.module.decode_features, []
        for share in (4, 16):  # of the whole code map that fits into the memory
            def short_of_memory(f_hat):
                seen.append(f_hat.shape[-1] * f_hat.shape[-2])
                if seen[-1] > side * side // share:
                    raise torch.OutOfMemoryError("no room")
                return decode(f_hat)

            tokenizer.module.decode_features = short_of_memory
            tiled = DecodeTokens.execute(tokenizer, tokens).args[0]
            assert tiled.shape == whole.shape == (1, side * 4, side * 4, 3)
            assert seen[0] == side * side and seen[-1] <= side * side // share
            # Norms and attention see a tile only, so the picture is like the whole one, not it.
            near = torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1]
            assert near > 0.8, (side, share, near)
        tokenizer.module.decode_features = decode
"""


def test_decode_falls_back_to_tiles_that_fit(tmp_path):
    run_script(SCRIPT, tmp_path, str(tmp_path))
