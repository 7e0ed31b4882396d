"""Solved latents and streams of the golden cases in the lucidrains layout."""

from __future__ import annotations

import math

import torch
from golden_transfusion import samples_of

from mmgen_core.decoding import flow_stream
from mmgen_core.decoding.flow import midpoint
from mmgen_core.decoding.flow_sequence import Picture
from mmgen_core.decoding.flow_stream import StreamSampling, generate, latents_alone


def alone_runs(case) -> list[str]:
    return [
        n
        for n in ("modality", "modality_only")
        if any(k.startswith(f"{n}.") for k in case.expected)
    ]


def run_alone(case, model, name: str, monkeypatch) -> dict[str, torch.Tensor]:
    if name == "modality":
        x, times = case.inputs["modality.noised"], case.inputs["modality.times"]
        return {"modality.flow": latents_alone(model, kind_of(model, x), times, x)}
    noise = case.inputs["modality_only.ode0.noise"]
    kind = kind_of(model, noise)
    steps = case.spec["config"]["modality_steps"]
    record = Recorder(torch.linspace(0, 1, steps), noise)

    def velocity(time, x, last):
        return latents_alone(model, kind, time.expand(len(x)), x)

    final = midpoint(record.watch(velocity), noise, record.times, record.on_step)
    return {"modality_only.final": final, **record.tensors("modality_only.ode0")}


def kind_of(model, batch: torch.Tensor) -> int:
    """Which kind of latents a batch has the shape of."""
    for number, kind in enumerate(model.params.kinds):
        channels = batch.shape[1 if kind.channels_first else -1]
        if (channels, batch.ndim - 2) == (kind.channels, kind.axes):
            return number
    raise ValueError(f"no kind of latents has the shape {tuple(batch.shape)}")


class Recorder:
    """Evaluations and states of one solve."""

    def __init__(self, times: torch.Tensor, noise: torch.Tensor):
        self.times, self.states, self.seen = times, [noise], []

    def watch(self, velocity):
        def watched(time, x, last):
            flow = velocity(time, x, last)
            self.seen.append((time, flow))
            return flow

        return watched

    def on_step(self, step, total, x):
        self.states.append(x)

    def tensors(self, name: str, shape=lambda x: x) -> dict[str, torch.Tensor]:
        results = {f"{name}.times": self.times}
        results[f"{name}.trajectory"] = torch.stack([shape(x) for x in self.states])
        for i, (time, flow) in enumerate(self.seen):
            results[f"{name}.eval{i}.t"] = time
            results[f"{name}.eval{i}.velocity"] = shape(flow)
        return results


def recorded(context) -> list[Recorder]:
    """Every solve of a stream, recorded from now on."""
    records = []

    def watched(velocity, noise, times, on_step):
        records.append(Recorder(times, noise))
        record = records[-1]
        return midpoint(record.watch(velocity), noise, times, record.on_step)

    context.setattr(flow_stream, "midpoint", watched)
    return records


def stream_results(stem: str, parts) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.part{i}.{f'modality{p.kind}' if isinstance(p, Picture) else 'text'}": (
            p.latents if isinstance(p, Picture) else p
        )
        for i, p in enumerate(parts)
    }


def run_many(case, model, monkeypatch) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    sampling = StreamSampling(
        steps=config["modality_steps"],
        guidance=config["cfg_scale"],
        temperature=0,
        max_tokens=config["max_length"],
        shape=tuple(config["fixed_modality_shape"]),
    )
    results, solves = {}, []
    for i, prompt in enumerate(samples_of(case, "prompt")):
        noise = [stream_noise(case, model)] * 64
        with monkeypatch.context() as context:
            records = recorded(context)
            parts = generate(model, prompt, 0, sampling, "cpu", noise=noise)
        results |= stream_results(f"sample{i}", parts)
        solves.append(records)
    return {**results, **joint_solves(solves)}


def stream_noise(case, model) -> torch.Tensor:
    shape = tuple(case.spec["config"]["fixed_modality_shape"])
    return started(case.inputs["init_noise"], model.params.kinds[0], shape)


def started(noise: torch.Tensor, kind, shape: tuple[int, ...]) -> torch.Tensor:
    """Recorded noise [tokens, channels], of which a picture takes what it needs."""
    latents = noise[: math.prod(shape), : kind.channels].reshape(*shape, kind.channels)
    return latents.movedim(-1, 0) if kind.channels_first else latents


def joint_solves(solves: list[list[Recorder]]) -> dict[str, torch.Tensor]:
    """The reference solves the pictures of all streams that wait for one together: the k-th of
    each, padded to the largest."""
    results, rounds = {}, max(map(len, solves), default=0)
    for k in range(rounds):
        together = [records[k] for records in solves if len(records) > k]
        tensors = [record.tensors(f"many.ode{k}", flat_tokens) for record in together]
        for name in tensors[0]:
            parts = [t[name] for t in tensors]
            if name.endswith((".t", ".times")):
                results[name] = parts[0]
            else:
                results[name] = torch.cat(parts, dim=-3)
    return results


def flat_tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1, -2)


def sample_runs(case) -> list[str]:
    names = {n.rsplit(".part", 1)[0] for n in case.expected if n.startswith("sample.")}
    return sorted(n for n in names if ".ode" not in n)


def run_sample(case, model, name: str, monkeypatch) -> dict[str, torch.Tensor]:
    """sample.cfg3.kv and the like: a prompt, then a picture of a forced size. With and without
    the reference's cache is the same here."""
    config = case.spec["config"]
    p, shape = model.params, tuple(config["sample_shape"])
    guidance = float(name.split(".")[1].removeprefix("cfg"))
    sampling = StreamSampling(config["modality_steps"], guidance, 0, max_tokens=0)
    drawn = [n for n in case.expected if n.startswith(f"{name}.part") and ".modality" in n]
    kind = int(drawn[0].rpartition(".modality")[2])
    start = torch.tensor([*p.shape_ids(shape), p.som(kind)])
    noise = started(case.inputs["sample.init_noise"], p.kinds[kind], shape)
    with monkeypatch.context() as context:
        records = recorded(context)
        prompt = [case.inputs["sample.prompt"], start]
        parts = generate(model, prompt, 0, sampling, "cpu", noise=[noise])
    results = stream_results(name, parts)
    return {**results, **records[0].tensors(f"{name}.ode0", lambda x: x[0])}
