"""Language models from folders: texts, seeds, grammars, bad folders."""

from __future__ import annotations

import json

import pytest
import tiny_llm
import torch

from mmgen_core.checkpoints.files import CheckpointError
from mmgen_core.conditioners.folder_llm import is_llm_folder, read_llm
from mmgen_core.conditioners.layout import parse
from mmgen_core.conditioners.layout.grammar import LayoutGrammar
from mmgen_core.conditioners.llm_writer import LlmWriter
from mmgen_core.conditioners.text_writer import TextRequest, TextSettings

CPU = torch.device("cpu")


def quiet(count: int, total: int, text: str) -> None:
    pass


def writer_of(folder) -> LlmWriter:
    return LlmWriter(read_llm(folder, torch.float32), lambda: CPU)


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> LlmWriter:
    return writer_of(tiny_llm.write(tmp_path_factory.mktemp("llm") / "tiny"))


def write(writer: LlmWriter, text: str = "a cat", grammar=None, **settings) -> str:
    prompt = writer.encode(TextRequest(text))
    return writer.write(prompt, TextSettings(**settings), quiet, grammar)


def test_same_seed_same_text(writer):
    texts = [write(writer, max_tokens=20, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_is_what_transformers_writes(writer):
    prompt = writer.encode(TextRequest("a cat"))
    ours = writer.write(prompt, TextSettings(max_tokens=12, temperature=0), quiet)
    ids = torch.tensor([prompt.ids])
    theirs = writer.module.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    assert ours == writer.spell(theirs[0, ids.shape[1] :])


def test_global_random_numbers_are_left_alone(writer):
    before = torch.random.get_rng_state()
    write(writer, max_tokens=3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_progress_and_interrupt(writer):
    seen = []

    def stop(count, total, text):
        seen.append((count, total))
        if count == 3:
            raise KeyboardInterrupt

    prompt = writer.encode(TextRequest("a cat"))
    with pytest.raises(KeyboardInterrupt):
        writer.write(prompt, TextSettings(max_tokens=10), stop)
    assert seen[-1] == (3, 10)


def test_conversation_template(writer, tmp_path):
    said = TextRequest("hi", system="be kind")
    assert writer.spell(writer.encode(said).ids) == "<|system|>be kind<|user|>hi<|assistant|>"
    plain = TextRequest("hi", template=False)
    assert writer.spell(writer.encode(plain).ids) == "hi"
    other = writer_of(tiny_llm.write(tmp_path / "a", template=tiny_llm.NO_SYSTEM))
    assert other.spell(other.encode(said).ids) == "<|user|>be kind\n\nhi<|assistant|>"
    bare = writer_of(tiny_llm.write(tmp_path / "b", template=None))
    assert bare.spell(bare.encode(said).ids) == "be kind\n\nhi"


@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_grammar_makes_a_layout(writer, seed, temperature):
    grammar = LayoutGrammar(objects=3, lengths=(20, 10, 10, 10))
    settings = {"max_tokens": 600, "seed": seed, "temperature": temperature}
    text = write(writer, grammar=grammar, **settings)
    state = grammar.feed(text)
    assert state is not None and state.complete
    layout = parse(text, 512, 512, 1000)
    assert 1 <= len(layout.objects) <= 3 and not layout.issues
    assert [o["label"].strip() for o in json.loads(text)["objects"]]


def test_grammar_with_letters_of_several_tokens(tmp_path):
    folder = tiny_llm.write(tmp_path / "bytes")
    tiny_llm.tokenizer(spread=True).save_pretrained(folder)
    writer = writer_of(folder)
    grammar = LayoutGrammar(objects=2, lengths=(40, 40, 20, 10))
    text = write(writer, grammar=grammar, max_tokens=900, seed=4)
    assert grammar.feed(text).complete
    assert any(ord(letter) > 127 for letter in text), "no letter of several bytes was written"


def test_cut_off_text_is_repaired(writer):
    grammar = LayoutGrammar(lengths=(10, 10, 10, 10))
    whole = write(writer, grammar=grammar, max_tokens=600, seed=1)
    count = len(json.loads(whole)["objects"])
    for end in range(whole.index("]}") + 2, len(whole) - 1):
        part = whole[:end]
        state = grammar.feed(part)
        assert not state.complete
        assert 1 <= len(json.loads(state.repaired(part))["objects"]) <= count


def test_stops_at_the_context(tmp_path):
    writer = writer_of(tiny_llm.write(tmp_path / "short", max_position_embeddings=40))
    counts = []
    prompt = writer.encode(TextRequest("a"))
    settings = TextSettings(max_tokens=500)
    writer.write(prompt, settings, lambda count, total, text: counts.append(total))
    assert counts and counts[-1] == 40 - len(prompt.ids)
    with pytest.raises(ValueError, match=r"has \d+ tokens.*at most 40"):
        writer.encode(TextRequest("word " * 50))


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "mistral", "phi3", "mamba", "gpt_neox"])
def test_other_architectures(tmp_path, kind):
    sizes = {"mamba": {"state_size": 4}, "gemma2": {"head_dim": 8}}.get(kind, {})
    writer = writer_of(tiny_llm.write(tmp_path / kind, kind, **sizes))
    grammar = LayoutGrammar(objects=1, lengths=(5, 5, 5, 5))
    text = write(writer, grammar=grammar, max_tokens=300)
    assert grammar.feed(text).complete


# Bad folders


def refused(folder, *patterns: str) -> None:
    for pattern in patterns:
        with pytest.raises(CheckpointError, match=pattern):
            read_llm(folder, torch.float32)


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_bad_folders(tmp_path):
    folder = tiny_llm.write(tmp_path / "tiny")
    assert is_llm_folder(folder) and not is_llm_folder(tmp_path)
    refused(tmp_path, "no config.json")
    config, weights = folder / "config.json", folder / "model.safetensors"
    good, whole = config.read_text("utf-8"), weights.read_bytes()
    edit(config, model_type="my_own", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    refused(folder, "my_own.*never run")
    config.write_text(good)
    edit(config, quantization_config={"quant_method": "gptq"})
    refused(folder, "gptq")
    config.write_text("{")
    refused(folder, "config.json is no model's config")
    config.write_text(good)
    weights.write_bytes(whole[: len(whole) // 2])
    refused(folder, "cut off")
    weights.write_bytes(b"<html>")
    refused(folder, "no safetensors file")
    weights.unlink()
    refused(folder, "neither model.safetensors")
    weights.write_bytes(whole)
    edit(config, num_hidden_layers=3)
    refused(folder, "lacks 9 weights")
    edit(config, num_hidden_layers=2, hidden_size=64)
    refused(folder, "cannot be loaded")
    config.write_text(good)
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer of tiny cannot be read")
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "LoRA adapter")


def test_damaged_weights(writer):
    scores = torch.full((5,), torch.nan)
    from mmgen_core.decoding.text_sampling import TokenChooser

    with pytest.raises(ValueError, match="not finite"):
        TokenChooser(TextSettings()).choose(scores, [])
