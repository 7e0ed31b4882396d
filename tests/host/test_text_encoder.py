"""The host's SD 2 text encoder gives what STAR was trained with.

The file of that encoder alone has 23 layers; the host builds 24, takes the states after the 23rd
and norms them. Those must be our own encoder's states, which golden cases tie to the reference.
"""

from __future__ import annotations

from host_process import run_script

SCRIPT = r"""
import comfy.sd
from pack.mmgen_core.checkpoints.architecture import load_state
from pack.mmgen_core.checkpoints.files import Checkpoint
from pack.mmgen_core.models.clip_text import ClipText, ClipTextParams
from pack.mmgen_core.systems import identify, star

TEXT = "a (red:1.3) fox, 雪"
params = ClipTextParams(depth=23, width=1024, heads=16, hidden=4096, vocab=49408, positions=77)
shapes = {name: p.shape for name, p in ClipText(params, device="meta").named_parameters()}
numbers = torch.Generator().manual_seed(0)

def values(name, shape):
    if "layers" in name and name.split(".")[1] not in ("0", "22"):
        return torch.zeros(1).expand(shape)  # such a layer passes on what it gets
    if "norm" in name:
        return torch.ones(shape) + 0.1 * torch.randn(shape, generator=numbers)
    return torch.randn(shape, generator=numbers) / shape[-1] ** 0.5

published = star.publish_text_encoder({n: values(n, s) for n, s in shapes.items()}, params)
checkpoint = Checkpoint(Path("sd21_text_encoder.safetensors"), published)
match = identify(checkpoint, "text encoder")
assert match.params == params

with torch.inference_mode():
    ours = ClipText(params, device="meta")
    load_state(ours, match, checkpoint)
    clip = comfy.sd.load_text_encoder_state_dicts(
        [dict(published)],
        clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION,
        model_options={"dtype": torch.float32},
    )
    assert type(clip.cond_stage_model).__name__ == "SD2ClipModel"
    for text in (TEXT, "", "one " * 75):
        features = host.text_features(clip, text)
        ids = [entry[0] for entry in clip.tokenize(text, disable_weights=True)["h"][0]]
        assert len(ids) == 77 and features.hidden.shape == (1, 77, 1024)
        end = ids.index(49407)
        assert features.mask.sum() == end + 1
        hidden, pooled = ours(torch.tensor([ids]), features.mask)
        torch.testing.assert_close(
            features.hidden[:, : end + 1], hidden[:, : end + 1], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(features.pooled, pooled, atol=1e-4, rtol=1e-4)
    assert host.text_features(clip, "").mask.sum() == 2
    assert ids[1] == ids[75] and end == 76
"""


def test_sd2_text_encoder_equals_ours(tmp_path):
    run_script(SCRIPT, tmp_path)
