"""How golden SEED-X cases are run: grids, vision transformer, de-tokenizer, language model."""

from __future__ import annotations

import re

import golden_diffusion
import torch

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import pictures, seed_x
from mmgen_core.conditioners.pictures import Grid, best_grid
from mmgen_core.decoding.latent_diffusion import Condition, euler_schedule
from mmgen_core.decoding.stream import Context
from mmgen_core.models.decoder import Segment
from mmgen_core.models.qwen_vit import pooled_features
from mmgen_core.systems import identify
from mmgen_core.systems.seed_x import widened_input

LEFT_OUT = {}


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "size_wh" in case.inputs:
        return run_grids(case)
    if "image" in case.inputs:
        return run_vit(case)
    return run_adapter(case) if "latents" in case.inputs else run_language(case)


def run_grids(case) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    grids = [Grid.parse(text) for text in config["resolution_grids"]]
    chosen = [
        best_grid(tuple(size), grids, config["base_resolution"])
        for size in case.inputs["size_wh"].tolist()
    ]
    return {"grid_cols_rows": torch.tensor([[grid.columns, grid.rows] for grid in chosen])}


def load(case, prefix: str, config: dict, kind: str) -> torch.nn.Module:
    """The part of a case's weights under a prefix, with what stands beside a published file."""
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    tensors = golden_diffusion.part(checkpoint.tensors, prefix)
    return built(Checkpoint(checkpoint.path, tensors, config), kind)


def built(checkpoint: Checkpoint, kind: str) -> torch.nn.Module:
    return build(identify(checkpoint, kind), checkpoint)


@torch.inference_mode()
def run_vit(case) -> dict[str, torch.Tensor]:
    model, results = load(case, "", case.spec["config"], "vision encoder"), {}

    def note(name):
        def hook(module, args, out):
            results.setdefault(f"vit.{name}", out[:1])

        return hook

    watched = {"ln_pre": model.ln_pre, "transformer": model.blocks[-1]}
    watched |= {"attn_pool": model.attn_pool, "ln_post": model.ln_post}
    for name, module in watched.items():
        module.register_forward_hook(note(name))
    features = model(case.inputs["image"])
    pooled = pooled_features(features, features.shape[1] // 4)
    zeros = model.unconditional(torch.device("cpu"))
    return results | {
        "image_embeds": features,
        "image_embeds_pooled4": pooled,
        "image_embeds_of_zeros": zeros,
    }


@torch.inference_mode()
def run_adapter(case) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    vit = load(case, "visual_encoder.", config["visual_encoder"], "vision encoder")
    tensors = read_checkpoint(case.folder / "weights.safetensors").tensors
    published = {k: v for k, v in tensors.items() if k.startswith(("resampler.", "unet."))}
    adapter = built(Checkpoint(case.folder, published, {"resampler": config}), "de-tokenizer")
    unet = golden_diffusion.unet(golden_diffusion.part(tensors, "unet."), config, sdxl=True)
    features = case.inputs["img_gen_feat"]
    zeros = vit.unconditional(torch.device("cpu"))
    pooled_zeros = pooled_features(zeros, features.shape[1])
    results = names(adapter(features), adapter(pooled_zeros))
    positive = Condition(results["prompt_embeds"], results["pooled_prompt_embeds"])
    negative = Condition(
        results["negative_prompt_embeds"], results["negative_pooled_prompt_embeds"]
    )
    pixels = pictures.squashed(case.inputs["detok.rgb_hwc"] / 255, vit.params.image_size)
    results["detok.pixel_values"] = pixels
    detok = names(adapter(vit(pixels)), adapter(zeros))
    results |= {f"detok.{name}": tensor for name, tensor in detok.items()}
    conditions = [positive, negative]
    if "source_image_0_1" in case.inputs:
        vae = golden_diffusion.vae(golden_diffusion.part(tensors, "vae."))
        source = vae.encode(2 * case.inputs["source_image_0_1"] - 1).latent_dist.mode()
        results["image_latents"] = source
        results["conv_in_widened.weight"] = widened_input(
            case.inputs["conv_in_original.weight"], unet.config.in_channels
        )
        conditions = [
            Condition(positive.context, positive.pooled, source),
            Condition(negative.context, negative.pooled, source),
            negative,
        ]
    size = config["latent_size"] * golden_diffusion.vae_stride(tensors)
    scheduler = euler_schedule(config["num_inference_steps"])
    shown = golden_diffusion.drawn(
        unet,
        scheduler,
        case.inputs["latents"],
        conditions,
        guidance=config["guidance_scale"],
        image_guidance=config["image_guidance_scale"] or 1.0,
        time_ids=(size, size, 0, 0, size, size),
    )
    return results | reference_order(shown, len(conditions)) | schedules(scheduler)


def names(positive, negative) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": positive[0],
        "pooled_prompt_embeds": positive[1],
        "negative_prompt_embeds": negative[0],
        "negative_pooled_prompt_embeds": negative[1],
    }


def reference_order(shown, branches: int) -> dict[str, torch.Tensor]:
    """Stage 2 of the reference has the branches in the opposite order of stage 1."""
    if branches == 2:
        return shown
    return {
        k: torch.cat(v.chunk(branches)[::-1]) if k.startswith("unet.") else v
        for k, v in shown.items()
    }


def schedules(scheduler) -> dict[str, torch.Tensor]:
    results = {}
    for name, schedule in (("scheduler", scheduler), ("scheduler50", euler_schedule(50))):
        results |= {
            f"{name}.sigmas": schedule.sigmas,
            f"{name}.timesteps": schedule.timesteps,
            f"{name}.init_noise_sigma": torch.as_tensor(schedule.init_noise_sigma).view(1),
        }
    return results


@torch.inference_mode()
def run_language(case) -> dict[str, torch.Tensor]:
    """All that is asked of the language model, with its image tokens read in one pass."""
    config, cpu = case.spec["config"], torch.device("cpu")
    heads = {"num_heads": config["resampler_heads"]}
    tensors = read_checkpoint(case.folder / "weights.safetensors").tensors
    own = ("input_resampler.", "output_resampler.", "patch_pos_embed")
    published = {k: v for k, v in tensors.items() if k.startswith(own)}
    beside = {"input_resampler": heads, "output_resampler": heads}
    agent = built(Checkpoint(case.folder, published, beside), "resamplers")
    language = load(case, "llm.", config, "next-token model")
    tokens, ids, results = tokens_of(config), case.inputs["input_ids"][0], {}
    context = Context(ids)
    if "rgb_hwc" in case.inputs:
        shown, context = picture_in_prompt(case, agent, ids, tokens)
        results |= shown
    hidden = watched_states(language)
    answer = seed_x.answer(language, agent, tokens, context, cpu, config["max_new_tokens"])
    states = torch.cat(hidden)
    new = torch.tensor(answer.turn.ids)
    whole = torch.cat([ids, new])
    rest = read_unread(language, context, answer.turn.ids, len(states))
    states = torch.cat([states, rest])
    raw = language.scores(states[len(ids) - 1 :])
    done = (new == tokens.image_end).nonzero()[: len(answer.turn.spans), 0]
    results |= {
        "inputs_embeds": context.embed(language, cpu)[None],
        "sequences": whole[None],
        "last_hidden_all": states[None],
        "logits.raw": raw,
        "logits.processed": tokens.processed(raw, whole[len(ids) - 1 : -1]),
        "eoi_positions_in_new_tokens": done,
        "img_hidden": torch.stack(answer.turn.spans),
        "img_gen_feat": answer.features,
    }
    if "processor.scores" in case.inputs:
        results["processor.scores"] = tokens.processed(
            case.inputs["processor.scores"], case.inputs["processor.last_id"][:, 0]
        )
    if int(ids[-1]) == tokens.image_start:  # opened by the prompt: the picture in one pass
        features = seed_x.drawn_features(language, agent, tokens, [context], cpu)
        torch.testing.assert_close(features, answer.features[:1], atol=2e-5, rtol=1e-4)
    return results


def tokens_of(config: dict) -> seed_x.SeedXTokens:
    ids, count = config["tokens"], config["num_img_gen_tokens"]
    image = tuple(range(ids["img_0"], ids["img_0"] + count))
    frame = (ids["boi"], ids["eoi"], ids["bop"], ids["eop"])
    return seed_x.SeedXTokens(ids["bos"], ids["eos"], image, *frame)


def picture_in_prompt(case, agent, ids, tokens):
    """Its pixels, features and embeddings, and the prompt that shows it."""
    config = case.spec["config"]
    vision = load(case, "visual_encoder.", config["visual_encoder"], "vision encoder")
    grids = [Grid.parse(text) for text in config["resolution_grids"]]
    image = case.inputs["rgb_hwc"] / 255
    pixels, centres = pictures.tiles(image, vision.params.image_size, grids)
    parts = seed_x.read_picture(vision, agent, image, torch.device("cpu"), grids)
    asked = config["prompt"].replace("{image}", seed_x.PICTURE)
    prompt = seed_x.prompt(RecordedWords(ids, tokens), tokens, asked, "", [parts])
    assert torch.equal(prompt.ids, ids), "another layout of the picture's tokens"
    shown = torch.zeros(len(ids), dtype=torch.bool)
    shown[prompt.at] = True
    features = vision(pixels)
    results = {
        "pixel_values": pixels,
        "patch_positions": centres,
        "image_embeds": features,
        "input_resampler": agent.input_resampler(features),
        "ids_cmp_mask": shown[None],
    }
    return results, prompt


class RecordedWords:
    """Stands for the text tokenizer: picture tokens by name, the recorded ids for the words."""

    def __init__(self, ids: torch.Tensor, tokens: seed_x.SeedXTokens):
        frame = (tokens.image_start, tokens.image_end, tokens.part_start, tokens.part_end)
        self.names = dict(zip(("<img>", "</img>", "<patch>", "</patch>"), frame, strict=True))
        self.names |= {seed_x.image_token(i): id for i, id in enumerate(tokens.image)}
        known, self.words, last = set(self.names.values()), [], None
        for id in ids[1:].tolist():
            if id not in known:
                self.words += [[]] if last is None or last in known else []
                self.words[-1].append(id)
            last = id

    def encode(self, text: str) -> list[int]:
        pieces, ids = re.split("(" + "|".join(map(re.escape, self.names)) + ")", text), []
        for piece in filter(None, pieces):
            ids += [self.names[piece]] if piece in self.names else self.words.pop(0)
        return ids


def watched_states(language) -> list[torch.Tensor]:
    """States of every token that is read, in the order of the sequence: one row, one branch."""
    seen = []
    language.register_forward_hook(lambda module, args, out: seen.append(out) and None)
    return seen


def read_unread(language, context, new: list[int], done: int) -> torch.Tensor:
    """States of the tokens whose successors were known without them."""
    whole = Context(torch.cat([context.ids, torch.tensor(new)]), context.features, context.at)
    x = whole.embed(language, torch.device("cpu"))[:-1]
    return language(x, [Segment(None, len(x))])[done:]
