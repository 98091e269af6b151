"""Plan cards: the README of a hub repository, with a section for each of its plans.

Sections stand between comments with the file's name, so that a later push replaces its own sections and leaves all else
as it is.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from harmonica.models import Model, known
from harmonica.models.own import repository_of
from harmonica.plan import Plan, Protocol, Router
from harmonica.sharing.facts import facts, headline, local_paths
from harmonica.sharing.measured import OnPipeline, Quality
from harmonica.utils import ROOT, UserError

TAGS = ["harmonica", "feature-caching", "diffusion"]
PIPELINES = {"dit": "[3, 7]", "pixart": '"a red heart"'}  # kinds with a diffusers pipeline, and what it is called with


def section(name: str, repository: str, made: Plan | Router, sha256: str, quality: Quality | OnPipeline | None) -> str:
    """The section of the file `name`. Raises UserError if its origin names a folder of the machine that made it."""
    found = local_paths(made.origin)
    if found:
        raise UserError(
            f"{name} is not published: its origin has the path {found[0]!r} of the machine that made it; make it again "
            "with a path relative to the working directory"
        )
    about = [*facts(made.origin), ("sha256", sha256)]
    parts = [f"## {name}", _plain(headline(made)) + ".", _table([("", ""), *about]), *_quality(quality)]
    parts += [_use(name, repository, made)]
    return _marked(name, "\n\n".join(parts))


def readme(sections: dict[str, str], protocols: Iterable[Protocol], old: str | None = None) -> str:
    """The README of a repository: the one that it has, with these sections, by file, put in place of their older ones
    or at its end; a new one if it has none."""
    text = old if old is not None else _front(protocols)
    for name, new in sections.items():
        before, opening, rest = text.partition(_opening(name))
        _, closing, after = rest.partition(_closing(name))
        text = f"{before}{new}{after}" if opening and closing else f"{text.rstrip()}\n\n{new}\n"
    return text


def _front(protocols: Iterable[Protocol]) -> str:
    """Front matter, title, and what the repository is."""
    models = [m for p in protocols if (m := known(p.model))]
    about: dict = {"library_name": "harmonica-bench", "tags": TAGS}
    base = sorted({r for m in models if (m.hub or m.own) and (r := _repository(m))})
    if base:
        about["base_model"] = base
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n# Plans for feature caching\n\n"
        "A plan says what a diffusion transformer computes, and what it reuses or forecasts, at every step and branch. "
        "These are files of HarmoniCa-bench; `harmonica show FILE` prints one.\n"
    )


def _quality(quality: Quality | OnPipeline | None) -> list[str]:
    if quality is None:
        return ["**Quality** has not been measured: no table at hand has a row of exactly this plan."]
    return ["**Quality**", _table([("metric", "value"), *quality.rows()]), _plain(quality.conditions())]


def _use(name: str, repository: str, made: Plan | Router) -> str:
    pull = f"```\nharmonica pull {repository} {name}\n"
    if isinstance(made, Router):
        return f"**Use**\n\n{pull}```\n\n`harmonica.Router.load({name!r}).plan(threshold)` is its plan."
    p = made.protocol
    run = "" if p.scheduler else f"harmonica sample {name} --images 64 -o samples/ --grid grid.png\n"
    lines = [f"{pull}{run}```"]
    model = known(p.model)
    call = PIPELINES.get(model.kind) if model else None
    if model and not call:
        lines.append(f"diffusers has no pipeline of {model.title}.")
    else:
        lines.append(_snippet(name, p, model, call))
    return "\n\n".join(["**Use**", *lines])


def _snippet(name: str, p: Protocol, model: Model | None, call: str | None) -> str:
    """The plan on a diffusers pipeline."""
    lines = ["import harmonica", ""]
    shipped = model is not None and not (model.hub or model.own)
    if model and shipped:
        source = Path(model.source).relative_to(ROOT)
        lines.append(f'pipe = harmonica.load_pipeline("{source}")  # in a checkout of HarmoniCa-bench')
    elif model and not model.companion and (name_on_hub := _repository(model)):
        lines.append(f'pipe = harmonica.load_pipeline("{name_on_hub}")')
    else:
        about = f"{model.title}, {model.resolution} pixels" if model else p.model
        lines.append(f"pipe = ...  # diffusers' pipeline of {about}")
    if not p.scheduler and (model is None or p.sampler != model.sampler):
        lines.append(f"pipe.scheduler = ...  # of {p.sampler}")
    lines.append(f'harmonica.enable_cache(pipe, "{name}")')
    # on a pipeline of one's own it may be `true_cfg_scale`, or the default
    scale = "" if p.scheduler else f", guidance_scale={p.cfg:g}"
    note = f"  # at the guidance scale {p.cfg:g}" if p.scheduler else ""
    lines.append(f"images = pipe({call or '...'}, num_inference_steps={p.steps}{scale}).images{note}")
    return "```python\n" + "\n".join(lines) + "\n```"


def _repository(model: Model) -> str:
    """Where the hub has the model's pipeline; "" if it is not known."""
    return model.source if model.hub else repository_of(model)


def _table(rows: list[tuple[str, str]]) -> str:
    head, *body = [f"| {_plain(a)} | {_plain(b)} |" for a, b in rows]
    return "\n".join([head, "|---|---|", *body])


def _plain(text: str) -> str:
    """Text that Markdown takes literally, on one line."""
    return re.sub(r"([\\`*_|<>\[\]~#])", r"\\\1", " ".join(text.split()))


def _opening(name: str) -> str:
    return f"<!-- harmonica: {name} -->"


def _closing(name: str) -> str:
    return f"<!-- end of harmonica: {name} -->"


def _marked(name: str, text: str) -> str:
    return f"{_opening(name)}\n{text}\n{_closing(name)}"
