"""Whether a diffusers pipeline runs what a plan was made for: model, scheduler, guidance scale."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from harmonica.models import known
from harmonica.models.state_dicts import weight_files
from harmonica.plan import Plan, Protocol
from harmonica.samplers import make_sampler
from harmonica.samplers.ddim import DDIM
from harmonica.samplers.diffusers_scheduler import DiffusersSampler
from harmonica.samplers.schedules import get_schedule
from harmonica.utils import UserError, digest, unknown

MAY_DIFFER = ("model", "scheduler", "guidance")
# names of the scale in a call; where both have a value the first is of a distilled guidance, and the second of another
GUIDANCE = ("guidance_scale", "true_cfg_scale")
TIMES = ("timesteps", "sigmas")  # arguments of calls
SHAPE = ("num_layers", "num_attention_heads", "attention_head_dim", "patch_size", "in_channels", "sample_size")
# settings of a scheduler that change nothing while another one is off; and the variance, which follows the model
SWITCHES = {"clip_sample_range": "clip_sample", "dynamic_thresholding_ratio": "thresholding",
            "sample_max_value": "thresholding", "flow_shift": "use_flow_sigmas",
            "time_shift_type": "use_dynamic_shifting"}  # fmt: skip
WITHOUT_EFFECT = ("variance_type",)
KINDS = {"DiTTransformer2DModel": "dit", "PixArtTransformer2DModel": "pixart"}  # of the suite's own models
FAMILIES = ("PixArtAlpha", "PixArtSigma")  # of transformers of one class and shape, in names of pipelines
COMPARED = 16  # parameters of a transformer, of hundreds
SPACING = ("timestep_spacing", "steps_offset")


def check_names(allow: Collection[str]) -> None:
    """Raise UserError for a name that is not in MAY_DIFFER."""
    for name in allow:
        if name not in MAY_DIFFER:
            raise unknown("difference to allow", name, MAY_DIFFER)


def check(found: dict[str, str], plan: Plan, allow: Collection[str]) -> None:
    """Raise UserError for the differences that are not allowed; warn of those that are."""
    wrong = {what: about for what, about in found.items() if what not in allow}
    if wrong:
        raise UserError(
            f"the plan of {plan.origin.method} for {plan.protocol.model} does not fit the pipeline: "
            f"{'; '.join(wrong.values())} (enable_cache(pipe, plan, allow={list(wrong)}) runs it all the same)"
        )
    for what, about in found.items():
        warnings.warn(f"allow={[what]}: {about}; the plan is run all the same", stacklevel=2)


def identity(transformer: Any) -> str:
    """A transformer's name in plans that are made on it: its class, and eight hex digits of its configuration and of
    samples of its weights, in bfloat16, so that it is the same in every precision."""
    about: list[Any] = [[k, str(v)] for k, v in sorted(transformer.config.items()) if not k.startswith("_")]
    for name, module in transformer.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                weight = _offloaded(module, own)
            sample = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
            text = sample.to("cpu", torch.bfloat16).view(torch.int16).tolist()
            about.append([name.replace("_orig_mod.", ""), own, list(weight.shape), text])
    return f"{type(transformer).__name__}-{digest(about)[:8]}"


def _offloaded(module: Any, name: str) -> torch.Tensor:
    """A weight that accelerate offloaded: it keeps them in maps of its hooks."""
    hook = module._hf_hook
    maps = (getattr(h, "weights_map", None) for h in getattr(hook, "hooks", [hook]))
    return next(m for m in maps if m is not None)[name]


def in_effect(config: Any) -> dict[str, Any]:
    """The settings of a scheduler that change what it does."""
    off = {k for k, switch in SWITCHES.items() if not config.get(switch)}
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in off and k not in WITHOUT_EFFECT}


def scheduler_settings(scheduler: Any) -> str:
    """The settings of a scheduler, for a plan's protocol."""
    return json.dumps(in_effect(scheduler.config), sort_keys=True, default=str)


def model_difference(plan: Plan, transformer: Any, pipeline: str = "") -> dict[str, str]:
    """How a transformer differs from the plan's model: in its shape, in its family, by the class of the `pipeline`, in
    its weights if those of the model are here; or in its content, if the plan was made on a pipeline."""
    name = plan.protocol.model
    if plan.protocol.scheduler:
        found = identity(transformer)
        return {} if found == name else {"model": f"the pipeline's transformer is {found}, not {name}"}
    model = known(name)
    if model is None:
        return {"model": f"the plan's model {name} is not known here"}
    kind = KINDS.get(type(transformer).__name__)
    if model.kind != kind:
        return {"model": f"{name} is a {model.kind}, the pipeline's transformer a {type(transformer).__name__}"}
    family = next((f for f in FAMILIES if f in pipeline), "")
    if family and model.hub and family.lower() not in re.sub("[^a-z]", "", name):
        return {"model": f"the transformer is of a {pipeline}, not {name}"}
    own, theirs = model.config, transformer.config
    keys = [k for k in (*SHAPE, *(("num_embeds_ada_norm",) if kind == "dit" else ())) if k in own]
    other = [f"{k} {theirs[k]}, not {own[k]}" for k in keys if theirs[k] != own[k]]
    other = other or _other_weights(
        transformer, model.place("transformer") if model.hub else model.folder("transformer")
    )
    return {"model": f"the transformer is not {name}: {', '.join(other)}"} if other else {}


def _other_weights(transformer: Any, folder: Path) -> list[str]:
    """The first of some parameters that are not those of the model's own files, up to half precision; [] if there are
    no such files here, or none that can be read."""
    try:
        files = [p for p in weight_files(folder) if p.suffix == ".safetensors"] if folder.is_dir() else []
        parameters = transformer.named_parameters() if files else ()
        own = {k.replace("_orig_mod.", ""): x for k, x in parameters if _is_plain(x)}
        for file in files:
            with safe_open(file, "pt") as stored:
                names = sorted(own.keys() & stored.keys())
                for name in names[:: max(1, len(names) // COMPARED)]:
                    y, x = stored.get_tensor(name).float(), own[name].detach().to("cpu", torch.float32)
                    if x.shape != y.shape or not torch.allclose(x, y, rtol=0.02, atol=1e-3 * float(y.abs().max())):
                        return [f"its {name} has other values"]
    except (OSError, SafetensorError, UserError):
        return []
    return []


def _is_plain(x: torch.Tensor) -> bool:
    """Whether a parameter has its values: one that is offloaded or quantised does not."""
    usual = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return usual and type(x) in (torch.Tensor, torch.nn.Parameter) and not x.is_meta


def check_evaluations(scheduler: Any) -> None:
    """Raise UserError for a scheduler that evaluates the model several times per step."""
    order = getattr(scheduler, "order", 1)
    if order > 1:
        raise UserError(
            f"{type(scheduler).__name__} evaluates the model more than once per step (it is of order {order}), and a "
            "plan has one row per evaluation: use the scheduler that the plan was made for"
        )


def scheduler_difference(plan: Plan, scheduler: Any) -> dict[str, str]:
    """How a scheduler differs from the plan's sampler, in its class and its settings."""
    p = plan.protocol
    if p.prior_noise:
        return {"scheduler": "the plan adds prior noise, which no pipeline does"}
    if p.scheduler:
        return _other_settings(p, scheduler)
    expected, free = _scheduler_of(plan)
    if expected is None:
        return {"scheduler": f"the plan is for the sampler {p.sampler}, which no diffusers scheduler is"}
    if type(scheduler).__name__ != type(expected).__name__:
        own = f"{p.sampler} ({type(expected).__name__})"
        return {"scheduler": f"the plan is for {own}, the pipeline has {type(scheduler).__name__}"}
    ours, theirs = in_effect(expected.config), scheduler.config
    other = [f"{k} {theirs[k]}, not {ours[k]}" for k in ours if k not in free and k in theirs and theirs[k] != ours[k]]
    return {"scheduler": f"the pipeline's {type(scheduler).__name__} has {', '.join(other)}"} if other else {}


def _other_settings(p: Protocol, scheduler: Any) -> dict[str, str]:
    """How a scheduler differs from that of the pipeline that a plan was made on."""
    if type(scheduler).__name__ != p.sampler:
        return {"scheduler": f"the plan is for {p.sampler}, the pipeline has {type(scheduler).__name__}"}
    own, theirs = json.loads(p.scheduler), json.loads(scheduler_settings(scheduler))
    other = [f"{k} {theirs[k]}, not {own[k]}" for k in own if k in theirs and theirs[k] != own[k]]
    return {"scheduler": f"the pipeline's {p.sampler} has {', '.join(other)}"} if other else {}


def _schedule(plan: Plan) -> str:
    model = known(plan.protocol.model)
    return model.schedule if model else "linear"


def _scheduler_of(plan: Plan) -> tuple[Any, tuple[str, ...]]:
    """The diffusers scheduler that a plan's sampler is, or is closest to, and the settings that may differ: DDIM and
    IDDPM keep training steps that no spacing of diffusers gives."""
    from diffusers import DDIMScheduler

    p = plan.protocol
    sampler = make_sampler(p.sampler, p.steps, _schedule(plan))
    if isinstance(sampler, DiffusersSampler):
        return sampler.scheduler, SPACING if p.sampler == "iddpm" else ()
    if isinstance(sampler, DDIM):
        return DDIMScheduler(**get_schedule(_schedule(plan)).diffusers, clip_sample=False), SPACING
    return None, ()


def check_steps(plan: Plan, scheduler: Any) -> None:
    """Raise UserError unless the scheduler is set to as many evaluations as the plan has steps."""
    found, asked = len(scheduler.timesteps), getattr(scheduler, "num_inference_steps", None)
    if found == plan.steps:
        return
    if asked == plan.steps:
        raise UserError(
            f"{type(scheduler).__name__} evaluates the model {found} times in {asked} steps, and a plan has one row "
            "per evaluation: use the scheduler that the plan was made for"
        )
    raise UserError(
        f"the plan is for {plan.steps} steps, but the pipeline runs {found}: pass "
        f"num_inference_steps={plan.steps}, or make another plan"
    )


def timestep_difference(plan: Plan, scheduler: Any) -> dict[str, str]:
    """Whether the timesteps of a call are other ones than the plan's, by more than two steps of the schedule."""
    p = plan.protocol
    if p.scheduler:  # they follow from its settings
        return {}
    own = make_sampler(p.sampler, p.steps, _schedule(plan)).timesteps
    for s, (a, b) in enumerate(zip(scheduler.timesteps.tolist(), own, strict=True)):
        if abs(a - b) > 2000 / plan.steps:
            return {"scheduler": f"step {s} is at t = {a:g}, and the plan's at {b:g}"}
    return {}


def given_times(plan: Plan, arguments: dict[str, Any]) -> dict[str, str]:
    """Whether a call brings its own timesteps to a plan whose timesteps follow from the scheduler's settings, or other
    noise between the steps of DDIM (η) than the plan's."""
    own = [k for k in TIMES if arguments.get(k) is not None] if plan.protocol.scheduler else []
    if own:
        return {"scheduler": f"the plan is for the scheduler's own timesteps, and the call gives {own[0]}"}
    eta, planned = (x.get("eta") or 0.0 for x in (arguments, plan.origin.notes.get("pipeline", {}).get("call", {})))
    if eta != planned and plan.protocol.sampler in ("ddim", "DDIMScheduler"):
        return {"scheduler": f"the plan is for eta={planned:g}, and the call has {eta:g}"}
    return {}


def guidance_of(arguments: dict[str, Any]) -> dict[str, float]:
    """The guidance scales among the arguments of a call, by name, none or up to two. A scale below 1 is without
    guidance."""
    return {k: max(float(arguments[k]), 1.0) for k in GUIDANCE if arguments.get(k) is not None}


def guidance_difference(plan: Plan, arguments: dict[str, Any]) -> dict[str, str]:
    """Whether a call's guidance scales are not the plan's; where a call has none they are not checked."""
    own = (plan.protocol.cfg, plan.protocol.true_cfg)
    pairs = [(k, a, b) for (k, a), b in zip(guidance_of(arguments).items(), own, strict=False) if abs(a - b) >= 1e-6]
    other = [f"the plan is for {k}={b:g}, the call has {a:g}" for k, a, b in pairs]
    return {"guidance": ", and ".join(other)} if other else {}
