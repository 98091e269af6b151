"""diffusers' pipelines for models of any number of classes and any size, such as the shipped ones.

The classes have diffusers' names, so that a folder they save is one that diffusers loads.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from harmonica.models.state_dicts import brief
from harmonica.utils import UserError, read_json


class DiTPipeline(diffusers.DiTPipeline):
    """diffusers' DiTPipeline for any number of classes: its own sends the label 1000, ImageNet's null class, to the
    transformer under guidance. A call raises UserError for a label that is not a class."""

    @functools.wraps(diffusers.DiTPipeline.__call__)
    def __call__(self, class_labels: list[int], *args: Any, **more: Any):
        classes = self.transformer.config.num_embeds_ada_norm
        labels = torch.as_tensor(class_labels).reshape(-1).tolist()
        wrong = [k for k in labels if not 0 <= k < classes]
        if wrong:
            raise UserError(f"class labels must be in [0, {classes - 1}], got {wrong[0]}")

        def own_null(module, args, kwargs):
            given = kwargs["class_labels"]
            nulls = torch.arange(len(given), device=given.device) >= len(labels)  # diffusers puts them last
            return args, kwargs | {"class_labels": torch.where(nulls, classes, given)}

        hook = self.transformer.register_forward_pre_hook(own_null, with_kwargs=True)
        try:
            return super().__call__(labels, *args, **more)
        finally:
            hook.remove()


class PixArtAlphaPipeline(diffusers.PixArtAlphaPipeline):
    """diffusers' PixArtAlphaPipeline with other defaults: captions are not cleaned, as in the suite, and resolutions
    are binned only for sizes that have bins."""

    @functools.wraps(diffusers.PixArtAlphaPipeline.__call__)
    def __call__(self, *args: Any, **more: Any):
        given = inspect.signature(super().__call__).bind(*args, **more)
        given.arguments.setdefault("clean_caption", False)
        if self.transformer.config.sample_size not in (32, 64, 128):
            given.arguments.setdefault("use_resolution_binning", False)
        return super().__call__(*given.args, **given.kwargs)


OWN = {c.__name__: c for c in (DiTPipeline, PixArtAlphaPipeline)}


def load_pipeline(folder: str | Path, **more: Any):
    """The pipeline in a folder or hub repository, as `from_pretrained` of its class, with the classes of this module
    in place of diffusers' own. Raises UserError if there is no pipeline, or a damaged one."""
    pipe = _loaded(folder, more)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and any(x.is_meta for x in part.parameters()):
            raise UserError(f"{folder} lacks weights of its {name}: download it again")
    return pipe


def _loaded(folder: str | Path, more: dict[str, Any]):
    index = Path(folder) / "model_index.json"
    if Path(folder).is_dir():
        name = read_json(index, "the index of a diffusers pipeline").get("_class_name", "")
        cls = OWN.get(name) or getattr(diffusers, name, None)
        if cls is None:
            raise UserError(
                f"{index} names the pipeline {name!r}, which diffusers {diffusers.__version__} does not have"
            )
        try:
            return cls.from_pretrained(str(folder), **more)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as e:
            why = f"{type(e).__name__}: {brief(e)}"
            raise UserError(f"{folder} is not a complete pipeline of the class {name} ({why})") from None
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), **more)
    except Exception as e:  # the hub's client raises many kinds
        why = f"{type(e).__name__}: {brief(e)}"
        raise UserError(f"{folder} is no folder, and no pipeline of the hub that can be loaded ({why})") from None
    if type(pipe).__name__ not in OWN:
        return pipe
    own = OWN[type(pipe).__name__](**pipe.components)
    if hasattr(pipe, "labels"):  # of a DiT: what get_label_ids looks up
        own.labels = pipe.labels
    return own
