"""SEED-X and DreamLLM loaded from their published layouts: nodes against the library, lazily built
models, answers through the stock Generate Text, and bad files."""

from __future__ import annotations

import tiny_queries
import tiny_query_files
import torch
from host_process import run_script
from tiny_queries import DREAM_ADDED, SEED_X_ADDED, TinyText

from mmgen_core.conditioners import dreamllm, pictures, seed_x
from mmgen_core.conditioners.pictures import READING_GRIDS
from mmgen_core.decoding.stream import Context
from mmgen_core.models.qwen_vit import pooled_features

CPU = torch.device("cpu")

SETTING = r"""
models, *given = arguments
folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()
import importlib
nodes = importlib.import_module("pack.nodes")

read = comfy.utils.load_torch_file

def read_without_aimdo(*given, **named):
    was, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        return read(*given, **named)
    finally:
        comfy.memory_management.aimdo_enabled = was

comfy.utils.load_torch_file = read_without_aimdo

def complains(call, *texts):
    try:
        call()
    except (ValueError, FloatingPointError) as error:
        assert all(text in str(error) for text in texts), error
    else:
        raise AssertionError("no complaint")
"""

DREAM_SCRIPT = (
    SETTING
    + r"""
name, broken, expected = given
expected = torch.load(expected, weights_only=True)
from comfy_extras.nodes_textgen import TextGenerate
from pack.mmgen_core.conditioners.text_writer import TextRequest

class Prompt:
    parts = ("a", expected["picture"])

with torch.inference_mode():
    for lazy in (False, True):
        comfy.memory_management.aimdo_enabled = lazy
        model, clip = nodes.LoadQueryModel.execute(name, "fp32").args
        assert len(model.get_models()) == 4 and clip.patcher is model.patcher
        positive, negative = nodes.DreamQueries.execute(model, "red cat", "sky").args
        for found, wanted in ((positive, "positive"), (negative, "negative")):
            assert found[0][1] == {}
            torch.testing.assert_close(found[0][0], expected[wanted], atol=1e-5, rtol=1e-4)
        shown, _ = nodes.DreamQueries.execute(model, "red cat", "", Prompt()).args
        torch.testing.assert_close(shown[0][0], expected["shown"], atol=1e-5, rtol=1e-4)
        text = TextGenerate.execute(clip, "a cat", 12, {"sampling_mode": "off"}).args[0]
        picture = expected["picture"][None]
        other = TextGenerate.execute(clip, "a", 12, {"sampling_mode": "off"}, image=picture).args[0]
        assert isinstance(text, str) and isinstance(other, str) and "<" not in text + other
    comfy.memory_management.aimdo_enabled = False
    sigmas = nodes.DreamSigmas.execute(150).args[0]
    assert len(sigmas) == 151 and sigmas[-1] == 0

    complains(lambda: nodes.DreamQueries.execute(model, "red " * 400, ""), "401 tokens", "256")
    nodes.DreamQueries.execute(model, "", "")  # the empty caption is the unconditional branch
    many = type("Many", (), {"parts": (expected["picture"],) * 20})
    complains(lambda: nodes.DreamQueries.execute(model, "a", "", many), "20 pictures", "fewer")
    complains(lambda: nodes.SeedXFeatures.execute(model, nodes.seed_x.TASKS[0], "a", True),
              "works with SEED-X", "DreamLLM")
    bad, _ = nodes.LoadQueryModel.execute(broken, "fp32").args
    complains(lambda: nodes.DreamQueries.execute(bad, "red cat", ""), "not finite",
              "stable_diffusion_head has NaN", "layers.0.weight")

    model, _ = nodes.LoadQueryModel.execute(name, "bf16").args
    found = nodes.DreamQueries.execute(model, "red cat", "sky").args[0]
    torch.testing.assert_close(found[0][0], expected["positive"], atol=0.1, rtol=0.1)
    for stem in ("dream_embedding", "stable_diffusion_head"):
        path = Path(models) / Path(name).parent / f"{stem}.bin"
        kept = path.read_bytes()
        path.unlink()
        complains(lambda: nodes.LoadQueryModel.execute(name, "fp32"), "missing beside it", stem)
        path.write_bytes(kept[:100])
        complains(lambda: nodes.LoadQueryModel.execute(name, "fp32"), stem, "cut off")
        path.write_bytes(kept)
    nodes.LoadQueryModel.execute(name, "fp32")
"""
)


def test_dreamllm(tmp_path):
    name = tiny_query_files.write_dreamllm(tmp_path / "dream")
    broken = tiny_query_files.write_dreamllm(tmp_path / "broken")
    bad = {"projector.projector.weight": torch.full((12, 32), torch.nan)}
    torch.save(bad, tmp_path / "broken" / "stable_diffusion_head.bin")
    text = TinyText(DREAM_ADDED)
    language = tiny_queries.language(len(text.vocabulary), 7)
    tokens = dreamllm.DreamTokens.of(text, {})
    queries, projector = tiny_queries.dream_queries(), tiny_queries.projector()
    picture = tiny_queries.picture()
    seen = dreamllm.Seen(dreamllm.read_picture(tiny_queries.clip(), picture, CPU))
    documents = {
        "positive": [dreamllm.Words("red cat")],
        "negative": [dreamllm.Words("sky")],
        "shown": [dreamllm.Words("a"), seen, dreamllm.Words("red cat")],
    }
    expected = {"picture": picture}
    for kind, parts in documents.items():
        context = dreamllm.document(text, tokens, queries(CPU), parts)
        found, _ = dreamllm.conditions(language, queries, projector, tokens, [context], CPU)
        expected[kind] = found.clone()
    torch.save(expected, tmp_path / "expected.pt")
    run_script(DREAM_SCRIPT, tmp_path, str(tmp_path), name, broken, str(tmp_path / "expected.pt"))


SEED_X_SCRIPT = (
    SETTING
    + r"""
name, blind, expected = given
expected = torch.load(expected, weights_only=True)
from comfy_extras.nodes_textgen import TextGenerate
picture, tasks = expected["picture"], nodes.seed_x.TASKS

def near(found, wanted):
    torch.testing.assert_close(found, expected[wanted], atol=1e-5, rtol=1e-4)

with torch.inference_mode():
    for lazy in (False, True):
        comfy.memory_management.aimdo_enabled = lazy
        model, clip = nodes.LoadQueryModel.execute(name, "fp32").args
        drawn = nodes.SeedXFeatures.execute(model, "draw (SEED-X)", "a red cat", True)
        features, answer = drawn.args
        near(features.features, "drawn")
        near(features.unconditional, "pooled nothing")
        assert answer == ""
        edited, _ = nodes.SeedXFeatures.execute(
            model, "edit (SEED-X-Edit)", "blue", True, picture[None]).args
        near(edited.features, "edited")
        seen = nodes.ReadSeedXPicture.execute(model, picture[None]).args[0]
        near(seen.features, "read")
        near(seen.unconditional, "nothing")
        adapter = host.query_models.load_part(
            Path(models) / "adapter.safetensors", "de-tokenizer", "fp32")[0]
        asked = nodes.SeedXConditioning.execute(host.Detokenizer(adapter, False), features).args
        near(asked[0][0][0], "context")
        near(asked[0][0][1]["pooled_output"], "pooled")
        assert torch.equal(asked[1][0][0], asked[2][0][0]), "no source: image only is negative"
        for given in ({}, {"image": picture[None]}):
            text = TextGenerate.execute(clip, "a", 20, {"sampling_mode": "off"}, **given).args[0]
            assert isinstance(text, str) and "<img" not in text
    comfy.memory_management.aimdo_enabled = False

    for choice in host.dtype_choices():
        small, _ = nodes.LoadQueryModel.execute(name, choice).args
        drawn = nodes.SeedXFeatures.execute(small, "draw (SEED-X)", "a red cat", True).args[0]
        assert torch.isfinite(drawn.features).all(), choice
        torch.testing.assert_close(drawn.features, features.features, atol=0.3, rtol=0.3)

    answer = "<loc-112><loc-56><loc-112><loc-56><box_end> ]] and <loc-200><loc-200><loc-100>"
    answer += "<loc-100><box_end>"
    found = nodes.SeedXBoxes.execute(answer, torch.zeros(1, 100, 200, 3), "cat").args[0][0]
    assert [(b["x"], b["y"], b["width"], b["height"]) for b in found] == [
        (50, 12, 100, 26), (134, 67, 66, 33)], found
    assert found[0]["metadata"]["desc"] == "cat"

    assert host.prompt_style("x/seed_x_i/llm/a.json", "auto") == "instruct"
    assert host.prompt_style("x/seed_x/llm/a.json", "auto") == "base"
    complains(lambda: nodes.DreamQueries.execute(model, "a", ""), "works with DreamLLM", "SEED-X")
    complains(lambda: nodes.SeedXFeatures.execute(model, tasks[0], "a", True, picture[None]),
              "1 pictures", "0 places")
    many = picture.expand(30, -1, -1, -1)
    complains(lambda: nodes.SeedXFeatures.execute(model, "plain", "a", True, many), "30 pictures")
    thin = torch.zeros(1, 4, 400, 3)
    complains(lambda: nodes.SeedXFeatures.execute(model, "plain", "a", True, thin), "too narrow")
    complains(lambda: nodes.SeedXFeatures.execute(
        model, "draw (SEED-X-I)", "a", False, max_tokens=3), "SEED-X answered", "force_picture")
    sightless, _ = nodes.LoadQueryModel.execute(blind, "fp32").args
    complains(lambda: nodes.ReadSeedXPicture.execute(sightless, picture[None]), "qwen_vit_G.pt")
    complains(lambda: nodes.SeedXFeatures.execute(sightless, tasks[0], "a", True), "qwen_vit_G.pt")
    # A story: the model is made to ask for a picture, sees it, and goes on.
    import pack.mmgen_core.conditioners.seed_x as library
    from pack.mmgen_core.decoding.next_token import TokenSampling
    adapter = host.query_models.load_part(Path(models) / "adapter.safetensors", "de-tokenizer",
                                          "fp32")[0]
    detokenizer = host.Detokenizer(adapter, False)
    a, start, stop = model.text.id_of("a"), model.tokens.image_start, model.tokens.eos
    script = []
    TokenSampling.choose = lambda self, logits, noise: torch.tensor([script.pop(0)])

    def turn(ids, **given):
        script[:] = ids
        return nodes.StoryTurn.execute(model, 40, 0.0, 0, 0.0, 1, detokenizer=detokenizer,
                                       **given).args

    story, text, positive, negative = turn([a, start], text="the sun")
    assert story.awaits and text == "a" and positive[0][0].shape == (1, 6, 16)
    assert positive[0][1]["pooled_output"].shape == (1, 10) and not script
    written = story.context.ids.tolist()
    assert written[-len(model.tokens.image) - 1 : -1] == list(model.tokens.image)
    complains(lambda: turn([stop], story=story), "asked for a picture", "connect")
    after, text, *blocked = turn([a, stop], story=story, picture=picture[None])
    assert after.ended and text == "a" and type(blocked[0]).__name__ == "ExecutionBlocker"
    assert after.context.ids[: len(written)].tolist() == written, "the same tokens, now seen"
    assert len(after.context.at) == len(model.tokens.image) and len(after.images) == 1
    texts, pictures, whole = nodes.StoryParts.execute(after).args
    assert texts == ["a", "a"] and len(pictures) == 1 and whole == "a\n<image>\na"
    complains(lambda: turn([stop], story=after, picture=picture[None]), "asked for no picture")
    complains(lambda: nodes.StoryTurn.execute(model, 40, 0.0, 0, 0.0, 1, text="a"), "detokenizer")
    complains(lambda: turn([a], text="a " * 240), "trained for 256")

    agent = Path(models) / Path(name).parent.parent / "agent" / "model.safetensors"
    agent.rename(agent.with_name("elsewhere.txt"))
    complains(lambda: nodes.LoadQueryModel.execute(name, "fp32"), "no resamplers", "agent")
    complains(lambda: nodes.LoadQueryModel.execute(
        name, "fp32", "bundle/QwenViT/qwen_vit_G.safetensors"), "vision encoder", "resamplers")
"""
)


def test_seed_x(tmp_path):
    name = tiny_query_files.write_seed_x(tmp_path / "bundle")
    blind = tiny_query_files.write_seed_x(tmp_path / "apart" / "blind", vit=False)
    adapter = tiny_query_files.adapter_tensors()
    tiny_query_files.configured(
        adapter, tmp_path / "adapter.safetensors", tiny_query_files.ADAPTER_CONFIG
    )
    text = TinyText(SEED_X_ADDED)
    tokens = seed_x.SeedXTokens.of(text, tiny_queries.QUERIES)
    language, agent = tiny_queries.language(len(text.vocabulary), 0), tiny_queries.agent()
    vit, picture = tiny_queries.vit(), tiny_queries.picture()

    def drawn(task: str, words: str, shown: list, ending: str = "") -> torch.Tensor:
        context: Context = seed_x.prompt(
            text, tokens, seed_x.TEMPLATES[task] + ending, words, shown
        )
        return seed_x.drawn_features(language, agent, tokens, [context], CPU).clone()

    edit = [seed_x.read_picture(vit, agent, picture, CPU, READING_GRIDS[:1])]
    nothing = vit.unconditional(CPU)
    made = tiny_queries.adapter()(drawn("draw (SEED-X)", "a red cat", []))
    expected = {
        "picture": picture,
        "context": made[0],
        "pooled": made[1],
        "drawn": drawn("draw (SEED-X)", "a red cat", []),
        "edited": drawn("edit (SEED-X-Edit)", "blue", edit, "<img>"),
        "read": vit(pictures.squashed(picture, vit.params.image_size)),
        "nothing": nothing,
        "pooled nothing": pooled_features(nothing, tiny_queries.QUERIES),
    }
    torch.save(expected, tmp_path / "expected.pt")
    folders = (str(tmp_path), name, f"apart/{blind}", str(tmp_path / "expected.pt"))
    run_script(SEED_X_SCRIPT, tmp_path, *folders)
