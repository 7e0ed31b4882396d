"""Language models built lazily give the same texts; GLIGEN's boxes are those of the stock node."""

from __future__ import annotations

import tiny_llm
from host_process import run_script

SCRIPT = r"""
folder = arguments[0]
import comfy.ops
from pack.mmgen_core.conditioners.text_writer import TextSettings
from pack.mmgen_core.conditioners.layout.grammar import LayoutGrammar

folder_paths.folder_names_and_paths["mmgen"] = ([folder], set())
host.register_folders()
assert {"tied", "gemma", "untied"} <= set(host.llm_folders())

def text(name, choice, lazy):
    comfy.memory_management.aimdo_enabled = lazy
    try:
        model = host.load_llm(name, choice)
        for parameter, value in model.patcher.model.named_parameters():
            assert not value.is_meta, parameter
        kinds = {type(m) for m in model.patcher.model.modules()}
        assert torch.nn.Linear not in kinds and torch.nn.Embedding not in kinds, kinds
        with torch.inference_mode():
            free = host.write_text(model, "a cat", TextSettings(12, 0.7, seed=3))
            grammar = LayoutGrammar(objects=1, lengths=(5, 5, 5, 5))
            held = host.write_text(model, "a cat", TextSettings(300, 0.7, seed=3), grammar=grammar)
        assert grammar.feed(held).complete
        return free, held
    finally:
        comfy.memory_management.aimdo_enabled = False

for name in ("tied", "gemma", "untied"):
    assert text(name, "fp32", False) == text(name, "fp32", True), name
    text(name, "bf16", False)
tied = host.load_llm("tied", "fp32").patcher.model
embedding = tied.network.model.embed_tokens.weight
sizes = sum(p.numel() for p in tied.parameters())
assert sizes < 2 * embedding.numel() + 40000, "the head has weights of its own"

# GLIGEN
from comfy_extras.nodes_bounding_boxes import CreateBoundingBoxes
import nodes as stock
from pack.nodes.layout_use import LayoutToGligen
from pack.nodes.layout import ReadLayout

class Encoder:
    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text, return_pooled):
        assert return_pooled == "unprojected"
        return torch.zeros(1), torch.full((1, 4), float(len(text)))

class Grounding:
    class model:
        max_objs = 30

text = '[{"label": "a cat", "box": [40, 80, 200, 333]}, {"label": "dog", "box": [8, 9, 100, 77]}]'
boxes = ReadLayout.execute(text, 512, 512, "pixels").args[0]
before = [[torch.zeros(1, 2, 3), {"pooled_output": 1}], [torch.ones(1, 2, 3), {}]]
ours = LayoutToGligen.execute(before, Encoder(), Grounding, boxes, 512, 512).args[0]
theirs, node = before, stock.GLIGENTextBoxApply()
for box in boxes[0]:
    place = [box[name] for name in ("width", "height", "x", "y")]
    theirs = node.append(theirs, Encoder(), Grounding, box["metadata"]["desc"], *place)[0]

def plain(conditioning):
    return [
        (cond.tolist(), extra["gligen"][:2], [(p[0].tolist(), *p[1:]) for p in extra["gligen"][2]],
         {k: v for k, v in extra.items() if k != "gligen"})
        for cond, extra in conditioning
    ]

assert plain(ours) == plain(theirs)
again = LayoutToGligen.execute(ours, Encoder(), Grounding, boxes, 512, 512).args[0]
assert len(again[0][1]["gligen"][2]) == 4 and len(ours[0][1]["gligen"][2]) == 2
"""


def test_lazy_models_and_gligen(tmp_path):
    tiny_llm.write(tmp_path / "tied")
    tiny_llm.write(tmp_path / "untied", "qwen2", tie_word_embeddings=False)
    tiny_llm.write(tmp_path / "gemma", "mistral", head_dim=8)
    run_script(SCRIPT, tmp_path, str(tmp_path))
