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


SMALL = r"""
import json
import folder_paths
from safetensors.torch import save_file
from pack.mmgen_core.checkpoints.architecture import build
from pack.mmgen_core.checkpoints.files import CheckpointError, read_checkpoint
from pack.mmgen_core.models.clip_text import ClipText, ClipTextParams
from pack.mmgen_core.systems import identify, star
from pack.mmgen_core.tokenizers.clip_text import tokenizer_of
from pack.mmgen_core.training.text_encoder import learn_tokenizer

models = Path(arguments[0])
folder_paths.folder_names_and_paths["mmgen"] = ([str(models)], set())
host.register_folders()
words = "red blue fox heart house noto style fluent".split()
definition = learn_tokenizer(["red fox, noto style", "a blue house"] * 20, words, 600)
params = ClipTextParams(2, 64, 2, 96, len(json.loads(definition)["model"]["vocab"]), 20)
torch.manual_seed(0)
ours = ClipText(params).eval().half().float()  # the host keeps encoders in fp16
config = {"num_attention_heads": 2, "tokenizer": definition, "eos_token_id": params.vocab - 1}

def write(name, config, drop=None):
    tensors = star.publish_text_encoder(ours.state_dict(), params)
    tensors.pop(drop, None)
    save_file(tensors, models / name, {"config": json.dumps(config)})

write("small.safetensors", config)
checkpoint = read_checkpoint(models / "small.safetensors")
tokenizer = tokenizer_of(checkpoint, params.positions)
read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    # its file mapping needs the native library, which starts on a GPU only
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo
for dynamic in (False, True):
    comfy.memory_management.aimdo_enabled = dynamic
    clip = host.load_text_encoder("small.safetensors")
    with torch.inference_mode():
        for text in ("a (red:1.3) fox, 雪", "", "red fox, noto style"):
            features = host.text_features(clip, text)
            ids, mask = tokenizer([text])
            expected = ours.features(ids, mask)
            count = ids.shape[1]
            assert features.mask.sum() == count and features.hidden.shape == (1, 20, 64)
            torch.testing.assert_close(
                features.hidden[:, :count], expected.hidden, atol=1e-4, rtol=1e-4
            )
            torch.testing.assert_close(features.pooled, expected.pooled, atol=1e-4, rtol=1e-4)
comfy.memory_management.aimdo_enabled = False
assert clip.clone().tokenizer.end_mark == params.vocab - 1

def fails(call, *parts):
    try:
        call()
    except ValueError as error:
        assert all(part in str(error) for part in parts), error
    else:
        raise AssertionError(parts)

fails(lambda: host.text_features(clip, "one two three " * 20), "at most 18", "Shorten it")
write("bare.safetensors", {"num_attention_heads": 2})
fails(lambda: host.load_text_encoder("bare.safetensors"), "bare.safetensors", "tokenizer.json")
write("broken.safetensors", config | {"tokenizer": "{}"})
fails(lambda: host.load_text_encoder("broken.safetensors"), "broken.safetensors", "tokenizer")
lost = "text_model.encoder.layers.1.mlp.fc1.weight"
write("lacks.safetensors", config, lost)
fails(lambda: host.load_text_encoder("lacks.safetensors"), "lacks.safetensors", "lacks 1")
fails(lambda: host.load_text_encoder("mmgen_demo_vae.safetensors"), "text encoder is needed")
assert "small.safetensors" in host.text_encoder_files()
"""


def test_small_text_encoder_through_the_hosts_classes(tmp_path):
    run_script(SMALL, tmp_path, str(tmp_path))
