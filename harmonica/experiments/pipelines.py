"""Plans made on a diffusers pipeline, by the methods that need nothing but to call it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harmonica.experiments.experiment import with_cost
from harmonica.methods import get_method
from harmonica.plan import Origin, Plan, Router
from harmonica.utils import UserError, digest, parse
from harmonica.utils.provenance import versions


def plan_on_pipeline(
    calls: Any, name: str, settings: dict[str, Any], seed: int = 0, loaded: Callable[[], Any] = lambda: None
) -> Plan:
    """The plan that the method `name` makes by calling a pipeline, `runtimes.pipeline_calls.Calls`.

    Its notes have the transformer's branches with their MACs, and how the pipeline was called. Raises UserError for an
    unknown method or setting, and for a method that needs more than calls of the pipeline.
    """
    import time

    from harmonica.methods.pipeline_task import PipelineTask
    from harmonica.runtimes.pipeline_branches import transformer_of
    from harmonica.utils.memory import Peak

    cls = get_method(name)
    if cls.requires or (cls.kinds and "dit" not in cls.kinds):
        raise UserError(f"{name} does not work on a pipeline: it is for {' and '.join(cls.kinds) or cls.requires}")
    steps, blocks = calls.protocol.steps, len(calls.blocks)
    limits = {"steps": steps, "blocks": blocks, "half the blocks": (blocks - 1) // 2}
    method = parse(cls, name, settings, limits)
    origin = Origin(name, asdict(method), seed, versions())
    precision = str(next(transformer_of(calls.pipe).parameters()).dtype).removeprefix("torch.")
    task = PipelineTask(calls.protocol, origin, f"{name} on {type(calls.pipe).__name__}", precision, calls=calls)
    task.clock.append(time.perf_counter())
    task.peak.append(Peak())
    loaded()
    made = method.make(task)
    if isinstance(made, Router):
        raise UserError(f"{name} trains a router, which a pipeline cannot")
    calls.check(made)
    about = {
        "class": type(calls.pipe).__name__,
        "call": {k: v for k, v in calls.arguments.items() if _plain(v)},
        "prompts": {"count": len(calls.prompts), "sha256": digest(list(calls.prompts))},
    }
    notes = made.origin.notes | {"pipeline": about, "layout": calls.layout.to_json()}
    return with_cost(made, task).with_origin(notes=notes)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def add_arguments(parser: Any, required: bool = False) -> None:
    """Those of a command on a pipeline, besides --steps, --cfg and --precision."""
    parser.add_argument("--pipeline", metavar="FOLDER", required=required,
                        help="a diffusers pipeline, folder or hub repository, instead of a model")  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="FILE", required=required,
                        help="prompts or class labels, one per line; .csv: column `caption`")  # fmt: skip
    parser.add_argument("--call", action="append", default=[], metavar="KEY=VALUE",
                        help="an argument of every call of the pipeline, such as height=512; repeatable")  # fmt: skip
    parser.add_argument("--offload", action="store_true",
                        help="keep the pipeline's parts on the GPU only while they run")  # fmt: skip


def calls_of(args: Any) -> Any:
    """The calls of the pipeline that those arguments name. Raises UserError if there are no prompts."""
    if args.prompts is None:
        raise UserError("--pipeline needs --prompts FILE")
    return load_calls(args.pipeline, args.prompts, args.steps, args.cfg, args.call, args.precision, args.offload)


def load_calls(
    folder: str,
    prompts: Path,
    steps: int,
    cfg: float | None = None,
    arguments: Collection[str] = (),
    precision: str = "float32",
    offload: bool = False,
) -> Any:
    """The calls of the pipeline in a folder or hub repository, with the prompts in a file, on the GPU if there is one.

    `arguments` are KEY=VALUE of every call, values as JSON or text; with `offload` its parts are on the GPU only while
    they run. Raises UserError for a folder, file or argument that is none.
    """
    from harmonica.models.captions import read_captions
    from harmonica.runtimes.pipeline_calls import Calls
    from harmonica.runtimes.pipelines import load_pipeline
    from harmonica.utils.devices import default_device
    from harmonica.utils.precision import dtype_of

    read = read_captions(prompts)
    pipe = load_pipeline(folder, dtype=dtype_of(precision))
    device = default_device()
    if offload and device.type == "cuda":
        pipe.enable_model_cpu_offload()
    else:
        pipe.to(device)
    return Calls.of(pipe, read, steps, cfg, dict(map(_argument, arguments)))


def _argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"--call takes KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
