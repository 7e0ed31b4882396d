"""A model that writes text as a CLIP, through the stock Generate Text node's own code."""

from __future__ import annotations

from host_process import run_script

SCRIPT = r"""
import asyncio
import comfy.ops
import comfy.utils
from comfy_extras.nodes_textgen import TextGenerate
from pack.mmgen_core.conditioners.text_writer import TextSettings

class Parrot:
    name, takes_images, takes_grammar = "parrot", True, False

    def __init__(self, module, device):
        self.module, self.device, self.settings = module, device, None

    def encode(self, request):
        return request

    def memory_required(self, prompt, settings):
        return settings.max_tokens

    def write(self, prompt, settings, on_token, grammar=None):
        assert self.module[0].weight.device == self.device
        self.settings, words = settings, []
        for i in range(min(3, settings.max_tokens)):
            words.append(prompt.text)
            on_token(i + 1, settings.max_tokens, " ".join(words))
        pictures = [tuple(picture.shape) for picture in prompt.images]
        return " ".join(words) + f" {pictures} {prompt.template} {prompt.thinking}"

device = comfy.model_management.get_torch_device()
module = torch.nn.Sequential(comfy.ops.manual_cast.Linear(2, 2))
module.load_state_dict({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)})
patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=device)
parrot = Parrot(module, device)
clip = host.TextModel(parrot, patcher)

reports = []
comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, *_, **__: reports.append((value, total))

def ask(mode, clip=clip, **given):
    return TextGenerate.execute(clip, "hello", 2, mode, **given).args[0]

picture = torch.rand(2, 5, 6, 4)
assert ask({"sampling_mode": "off"}, image=picture) == (
    "hello hello [(5, 6, 3), (5, 6, 3)] True False"
)
assert parrot.settings == TextSettings(2, 0.0, 50, 1.0, 0.0, 1.0, 0.0, 0)
assert reports[-1] == (2, 2)
on = {"sampling_mode": "on", "temperature": 0.7, "top_k": 64, "top_p": 0.95, "min_p": 0.05,
      "repetition_penalty": 1.05, "presence_penalty": 0.1, "seed": 9}
assert ask(on, thinking=True, use_default_template=False).endswith("[] False True")
assert parrot.settings == TextSettings(2, 0.7, 64, 0.95, 0.05, 1.05, 0.1, 9)
assert clip.patcher is patcher and clip.get_models() == [patcher]

def complains(call, *texts):
    try:
        call()
    except (ValueError, AttributeError) as error:
        assert all(text in str(error) for text in texts), error
    else:
        raise AssertionError("no complaint")

complains(lambda: ask({"sampling_mode": "off"}, video=picture), "parrot", "video")
complains(lambda: ask({"sampling_mode": "off"}, audio={}), "parrot", "audio")
complains(lambda: clip.encode_from_tokens_scheduled({}), "parrot", "Generate Text")
parrot.takes_images = False
complains(lambda: ask({"sampling_mode": "off"}, image=picture), "parrot", "text only")

comfy.model_management.interrupt_current_processing()
try:
    ask({"sampling_mode": "off"})
except comfy.model_management.InterruptProcessingException:
    pass
else:
    raise AssertionError("not interrupted")

served = host.TextModel(parrot)  # no weights here
assert served.patcher is None and ask({"sampling_mode": "off"}, clip=served).startswith("hello")
"""


def test_stock_node_takes_it(tmp_path):
    run_script(SCRIPT, tmp_path)
