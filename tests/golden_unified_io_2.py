"""How golden Unified-IO 2 cases are run: pictures in and out, the vocabulary, the image tokenizer,
the model with all its runs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from golden_next_token import SpiedSampling, SpiedStream, codes_image, forced_end, note

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.decoding.beam_search import search_text
from mmgen_core.decoding.encoder_prefix import read_prompts
from mmgen_core.decoding.next_token import PicturePlan, TextRules, draw_pictures, write_text
from mmgen_core.models.decoder import Segment
from mmgen_core.models.unified_io_2 import EncoderInput, Patches, Prompt
from mmgen_core.systems import identify
from mmgen_core.tokenizers.unified_io_pictures import (
    CLIP,
    fit,
    normalised,
    patch_mask,
    patches,
    place_centred,
    undo,
)
from mmgen_core.tokenizers.unified_io_text import UnifiedIO2Tokenizer

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    if "texts" in config:
        return run_vocabulary(case)
    if "IMAGE_INPUT_SIZE" in config:
        return run_pictures(case)
    return Model(case).run() if "t5_config" in config else run_tokenizer(case)


def load(case, kind: str) -> torch.nn.Module:
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, case.spec["config"])
    return build(identify(checkpoint, kind), checkpoint)


def run_vocabulary(case) -> dict[str, torch.Tensor]:
    config, results = case.spec["config"], {}
    tokenizer = UnifiedIO2Tokenizer(case.folder / "base.model")
    assert len(tokenizer) == config["total_pieces"]
    for name, number in config["added_piece_ids"].items():
        assert tokenizer.id_of(name) == number, name
    for i, text in enumerate(config["texts"]):
        ids = tokenizer.encode(text)
        results[f"ids.{i}"] = torch.tensor(ids)
        decoded = tokenizer.decode([*ids, config["eos_id"], 5, 6])
        assert decoded == config["decoded_with_eos_and_junk"][i]
    return results


def run_pictures(case) -> dict[str, torch.Tensor]:
    config, results = case.spec["config"], {}
    names = {name.split(".")[0] for name in case.inputs}
    for name in sorted(names):
        image = case.inputs[name].float() / 255
        results |= {f"{name}.{k}": v for k, v in picture(image, case.inputs, name, config).items()}
    return results


def picture(image, inputs, name: str, config) -> dict[str, torch.Tensor]:
    patch, target_patch = config["IMAGE_INPUT_D"], config["IMAGE_TARGET_D"]
    place = place_centred(*image.shape[:2], config["IMAGE_INPUT_SIZE"])
    framed, inside = fit(image, place)
    grid = (config["IMAGE_INPUT_SIZE"] // patch,) * 2
    values = patches(normalised(framed, CLIP), patch)
    side = config["IMAGE_TARGET_SIZE"]
    target, seen = fit(image, place_centred(*image.shape[:2], side))
    info = (place.top, place.left, 1 / place.scale, place.height, place.width, 0, 0, 0, 0)
    results = {
        "resized": framed,
        "pixel_mask": inside,
        "patches": values,
        "patch_mask": patch_mask(inside, grid, centred=True),
        "pos_ids": torch.arange(len(values)),
        "image_info": torch.tensor([*info, place.scaled_height, place.scaled_width]),
        "target.image": target * 2 - 1,
        "target.mask": patch_mask(seen, (side // target_patch,) * 2, centred=True),
        "undone": undo(inputs[f"{name}.generated"], place),
    }
    frame, seen = fit(image, place_centred(*image.shape[:2], config["IMAGE_HISTORY_INPUT_SIZE"]))
    values = patches(normalised(frame, CLIP), patch)
    grid, missing = (config["IMAGE_HISTORY_INPUT_SIZE"] // patch,) * 2, config["num_frames"] - 1
    mask = patch_mask(seen, grid, centred=True)
    results["history.patches"] = torch.stack([values] + [values * 0] * missing)
    results["history.patch_mask"] = torch.stack([mask] + [mask & False] * missing)
    results["history.pos_ids"] = torch.arange(len(values)).expand(config["num_frames"], -1)
    return results


@torch.inference_mode()
def run_tokenizer(case) -> dict[str, torch.Tensor]:
    """Pictures of the reference lie in -1..1 and channels first."""
    tokenizer, seen = load(case, "image tokenizer"), {}
    tokenizer.encoder.register_forward_hook(lambda m, i, out: seen.update(encoder=out))
    tokenizer.quant_conv.register_forward_hook(lambda m, i, out: seen.update(pre_quant=out))
    tokenizer.decoder.register_forward_hook(lambda m, i, out: seen.update(decoded=out.clone()))
    tokens = tokenizer.encode((case.inputs["image"].permute(0, 2, 3, 1) + 1) / 2)
    image = tokenizer.decode(tokens)
    return {**seen, "codes": tokens.ids[0].flatten(1), "image": image}


class Model:
    """All runs of one case."""

    def __init__(self, case):
        self.case, self.inputs, self.expected = case, case.inputs, case.expected
        self.model, self.tokenizer = load(case, "next-token model"), load(case, "image tokenizer")
        self.steps = [int(n) for n in note(case, r"decode steps \[([\d, ]+)\]").split(",")]
        self.rows = len(self.inputs["tokens"])

    @torch.inference_mode()
    def run(self) -> dict[str, torch.Tensor]:
        results = self.encoded()
        for name in ("greedy", "cfg_greedy", "cfg_sample"):
            if f"{name}.codes" in self.expected:
                results |= {f"{name}.{k}": v for k, v in self.drawn(name).items()}
        if "image.codes" in self.expected:
            drawn = self.drawn("greedy")
            results["image"] = drawn.pop("image")
            results |= {f"image.{k}": v for k, v in drawn.items()}
        if "text.ids" in self.expected:
            results |= self.written()
        return results | (self.taught() if "target_image" in self.inputs else {})

    def patches(self, name: str) -> Patches | None:
        if f"{name}.patches" not in self.inputs:
            return None
        mask = self.inputs[f"{name}.mask"].bool()
        return Patches(self.inputs[f"{name}.patches"], mask, self.inputs[f"{name}.pos_ids"])

    def encoded(self) -> dict[str, torch.Tensor]:
        """The whole batch at once, padding included."""
        model, ids, results = self.model, self.inputs["tokens"], {}
        parts = [model.embed_text(ids, ids != 0)]
        if (image := self.patches("image")) is not None:
            last, second = model.vision(image.values, image.mask, image.places, model.params.grid)
            results |= {"vit.last": last, "vit.second": second}
            parts.append(model.embed_image(image))
        if (history := self.patches("image_history")) is not None:
            seen = {}
            keep = lambda m, i, out: seen.update({m: out})  # noqa: E731
            hooks = [m.register_forward_hook(keep) for m in (model.vision, model.resampler)]
            given = model.embed_history(history)
            for hook in hooks:
                hook.remove()
            results |= {"history.vit": seen[model.vision][0]}
            results |= {"history.resampled": seen[model.resampler]}
            results |= {"history.embed": given.x, "history.mask": given.mask}
            results["history.rope"] = given.rotary.flatten(2)
            parts.append(given)
        given = EncoderInput.joined(parts)
        return results | {
            "encoder_input": given.x,
            "encoder_mask": given.mask,
            "encoder_rope": given.rotary.flatten(2),
            "encoder": model.encode(given),
        }

    def prompt(self, row: int) -> Prompt:
        ids = self.inputs["tokens"][row]
        fields = [self.patches(name) for name in ("image", "image_history")]
        parts = (
            None if p is None else Patches(p.values[row], p.mask[row], p.places[row])
            for p in fields
        )
        return Prompt(ids[ids != 0], *parts)

    def negative(self, row: int) -> Prompt:
        ids = self.inputs["negative_tokens"]
        ids = ids[min(row, len(ids) - 1)]
        return Prompt(ids[ids != 0])

    def drawn(self, name: str) -> dict[str, torch.Tensor]:
        """Pictures by the engine, of every prompt by itself; all ids may come, as there."""
        rows = [self.drawn_row(name, row) for row in range(self.rows)]
        results = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        if name.startswith("cfg"):  # the reference's batch: all prompts, then all negative ones
            logits = results["logits_steps"]
            results["logits_steps"] = torch.cat([logits[0::2], logits[1::2]])
        return results

    def drawn_row(self, name: str, row: int) -> dict[str, torch.Tensor]:
        target, grid = self.model.target("image"), self.model.params.target_grid
        guided = name.startswith("cfg")
        prompts = [self.prompt(row)] + ([self.negative(row)] if guided else [])
        scale = self.case.spec["config"].get("guidance_scale", 0)
        weights = (1 + scale, -scale) if guided else (1.0,)
        total = math.prod(grid)
        stream = SpiedStream(target, read_prompts(target, prompts), 1, total)
        plan = PicturePlan.grid(*grid, slice(None), 0)
        sampling, noise = SpiedSampling(temperature=0), torch.ones(1, total)
        if name == "cfg_sample":
            sampling, noise = self.recorded(row, total)
        ids = draw_pictures(stream, weights, plan, sampling, noise)
        codes = (ids - 2).clamp(0, self.model.params.codes - 1)
        logits = torch.stack([stream.seen[i] for i in self.steps], dim=2)[:, 0]
        results = {"ids": ids, "codes": codes, "logits_steps": logits}
        if guided:
            results["guided_steps"] = self.guided(sampling, logits, weights)
        return {**results, "image": codes_image(self.tokenizer, codes.view(1, *grid))}

    def guided(self, sampling, logits_bnV, weights) -> torch.Tensor:
        """The engine adds scores, the reference log-probabilities: a constant per position lies
        between, which no choice depends on."""
        guided = torch.stack([sampling.seen[i] for i in self.steps], dim=1)
        constant = logits_bnV.logsumexp(-1, keepdim=True) * torch.tensor(weights)[:, None, None]
        return guided - constant.sum(0)

    def recorded(self, row: int, total: int) -> tuple[SpiedSampling, torch.Tensor]:
        """The reference's draw: torch.multinomial over the doubled batch, from a given seed."""
        p = float(note(self.case, r"top_p=([\d.]+)", "0.9"))
        temperature = float(note(self.case, r"temperature=([\d.]+)", "1.0"))
        seed = int(note(self.case, r"manual_seed\((\d+)\)", "1234"))
        generator, vocab = torch.Generator().manual_seed(seed), self.model.params.image_vocab
        steps = [
            torch.empty(2 * self.rows, vocab).exponential_(1, generator=generator)[row]
            for _ in range(total)
        ]
        return SpiedSampling(temperature=temperature, top_p=p), torch.stack(steps)[None]

    def written(self) -> dict[str, torch.Tensor]:
        target, limit = self.model.target("text"), self.expected["text.ids"].shape[1] - 1
        ids, logits, best = [], [], []
        for row in range(self.rows):
            prefix = read_prompts(target, [self.prompt(row)])
            stream = SpiedStream(target, prefix, 1, limit)
            ones = torch.ones(1, limit)
            tokens = write_text(stream, TextRules((), limit), forced_end(1), ones)
            ids.append(F.pad(tokens, (1, 0)))
            logits.append(torch.stack(stream.seen, dim=2)[0])
            if (wanted := self.expected.get("text.beam3_ids")) is not None:
                width, longest = wanted.shape[1] - 1, max(limit, wanted.shape[1] - 1)
                stream = SpiedStream(target, prefix, 3, longest)
                found = search_text(stream, TextRules((1,), longest))
                best.append(F.pad(torch.tensor([found]), (1, width - len(found)), value=1))
                best[-1][:, 0] = 0
        results = {"text.ids": torch.cat(ids), "text.logits": torch.cat(logits)}
        return results | ({"text.beam3_ids": torch.cat(best)} if best else {})

    def taught(self) -> dict[str, torch.Tensor]:
        """Teacher forcing over the codes of a picture."""
        ids = self.tokenizer.encode((self.inputs["target_image"] + 1) / 2).ids[0].flatten(1) + 2
        target, logits = self.model.target("image"), []
        for row in range(self.rows):
            cache = target.read(self.prompt(row)).fork(1, ids.shape[1])
            given = F.pad(ids[row, :-1], (1, 0))
            hidden = target(target.embed_ids(given), [Segment(cache, len(given))])
            logits.append(target.scores(hidden))
        logits = torch.stack(logits)
        losses = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        loss = losses.mean()[None] if self.expected["target.nll"].numel() == 1 else losses.mean(1)
        steps = logits[:, self.steps]
        return {"target.ids": ids, "target.logits_steps": steps, "target.nll": loss}
