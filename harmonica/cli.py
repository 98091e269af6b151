"""The command line, which the workflow's rules call, too. Heavy imports wait until a command needs them."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from harmonica import __version__
from harmonica.errors import UserError, guarded, unknown
from harmonica.memory import keep_freed_memory
from harmonica.precision import PRECISIONS
from harmonica.timing import log_times

EXAMPLES = """examples:
  harmonica methods                                              every method and its settings
  harmonica plan fora --steps 20 --set interval=3 -o fora.safetensors
  harmonica plan harmonica --steps 10 --set target_cur=22.86 -o hc.safetensors
  harmonica show hc.safetensors                                  CUR, MACs, theoretical speed-up, steps x branches
  harmonica sample hc.safetensors --images 1000 -o samples/ --grid grid.png
  harmonica latency full.safetensors hc.safetensors
  harmonica drift fora.safetensors hc.safetensors -o drift.json
  harmonica replay tests/data/ltc_dit_T10.safetensors            compare with the published code's recorded numbers
  harmonica import-router DDIM20_router.pt -o ltc.safetensors    a released router as a plan
  harmonica fetch dit-xl-2-256                                   weights for the paper scale
  harmonica captions captions_val2014.json -o weights/coco-2014-val.txt
  harmonica smoke --scale paper                                  DiT-XL/2 at its true shape, random weights
  harmonica bench inference                                      real against theoretical speed-up
  harmonica timing results/                                      where a run of the workflow spent its time
  harmonica pocket train --data fashion-mnist/ -o my-pocket/     make the shipped models again
"""


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="harmonica", description="Learned and heuristic feature caching for diffusion transformers.",
        epilog=EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"harmonica {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function, text: str, example: str) -> argparse.ArgumentParser:
        p = commands.add_parser(name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=raw)
        p.set_defaults(function=function)
        return p

    command("methods", list_methods, "List the methods and their settings.", "harmonica methods")

    p = command("plan", make_plan, "Make (or train) the caching plan of a method.",
                "harmonica plan delta_dit --steps 50 --set interval=2 --set blocks=4 -o plan.safetensors")  # fmt: skip
    p.add_argument("method", help="see `harmonica methods`")
    p.add_argument("--model", default="pocket-dit", help="default: %(default)s")
    p.add_argument("--sampler", default="ddim", help="default: %(default)s")
    p.add_argument("--steps", type=int, default=50, help="T, sampling steps; default: %(default)s")
    p.add_argument("--cfg", type=float, default=1.5, help="guidance scale; default: %(default)s")
    p.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method; repeatable"
    )
    p.add_argument("--from", dest="sources", action="append", default=[], metavar="PLAN",
                   help="a plan that the method starts from")  # fmt: skip
    p.add_argument("-o", "--out", type=Path, required=True, help="plan file; a trained router is written beside it")

    p = command("show", show_plan, "Print what a plan does and what it saves.", "harmonica show plan.safetensors")
    p.add_argument("plan", type=Path)

    p = command("sample", sample, "Draw images under one plan or several; goes on where it was stopped.",
                "harmonica sample plan.safetensors --images 1000 -o samples/")  # fmt: skip
    p.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
    p.add_argument("--images", type=int, default=64, help="how many a plan; default: %(default)s")
    p.add_argument("--first", type=int, default=0, help="index of the first image; default: %(default)s")
    p.add_argument("--batch", type=int, default=25, help="images in one forward pass; default: %(default)s")
    p.add_argument("--chunk", type=int, default=250, help="images in one file; default: %(default)s")
    p.add_argument("--model", help="refuse plans for another model")
    p.add_argument("--sampler", help="refuse plans for another sampler")
    p.add_argument("--steps", type=int, help="refuse plans for another number of steps")
    p.add_argument("-o", "--out", type=Path, required=True, help="folder")
    p.add_argument("--manifest", type=Path, help="write the names of the chunk files here (JSON)")
    p.add_argument("--grid", type=Path, help="also write the first 64 images of the first plan as one picture")

    p = command("metrics", measure, "Compute the metrics of drawn images.",
                "harmonica metrics manifest.json --uncached full -o metrics.json")  # fmt: skip
    p.add_argument("manifests", type=Path, nargs="+")
    p.add_argument("--uncached", required=True, help="name of the plan whose images PSNR compares with")
    p.add_argument("--only", nargs="+", metavar="PLAN", help="names of plans; default: all in the manifests")
    p.add_argument("--extractor", default="fashion-mnist-cnn", help="default: %(default)s")
    p.add_argument("--clip", metavar="MODEL", help="open_clip's name of a model, for the CLIP score of captions")
    p.add_argument("--clip-pretrained", default="", metavar="TAG", help="open_clip's name of its weights")
    p.add_argument("--captions", metavar="MODEL", help="the model whose captions the images were drawn for")
    p.add_argument("--reference", type=Path, help="made by `harmonica reference`; default: the extractor's own")
    p.add_argument("-o", "--out", type=Path, required=True)

    p = command("reference", reference, "Make a reference of metrics from one of ADM's files or a folder of pictures.",
                "harmonica reference weights/VIRTUAL_imagenet256_labeled.npz -o imagenet256.npz\n"
                "  harmonica reference weights/coco/val2014 --side 256 -o coco.npz")  # fmt: skip
    p.add_argument("source", type=Path)
    p.add_argument("--side", type=int, default=256, help="of a folder's pictures, cropped; default: %(default)s")
    p.add_argument("--extractor", default="inception-2015-12-05", help="default: %(default)s")
    p.add_argument("-o", "--out", type=Path, required=True)

    p = command("captions", captions, "Make the list of captions of MS-COCO 2014 from its annotations.",
                "harmonica captions weights/captions_val2014.json -o weights/coco-2014-val.txt")  # fmt: skip
    p.add_argument("annotations", type=Path, help="captions_val2014.json")
    p.add_argument("-o", "--out", type=Path, required=True)

    p = command("embed", embed, "Embed a model's captions with its text encoder; sampling and training read them.",
                "harmonica embed pixart-alpha-256")  # fmt: skip
    p.add_argument("model")
    p.add_argument("--done", type=Path, help="write what was embedded (JSON)")

    p = command("fetch", fetch, "Download weights and reference files; goes on where it was stopped.",
                "harmonica fetch dit-xl-2-256 DDIM20_router.pt")  # fmt: skip
    p.add_argument("names", nargs="*", help="models and files; without any, they are listed")
    p.add_argument("--done", type=Path, help="write the hashes of what is there (JSON)")

    p = command("latency", latency, "Time the denoising loop of several plans, interleaved.",
                "harmonica latency full.safetensors fora.safetensors --rounds 9")  # fmt: skip
    p.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
    p.add_argument("--batch", type=int, default=8, help="images; default: %(default)s, as in the paper")
    p.add_argument("--rounds", type=int, default=7, help="measurements a plan; default: %(default)s")
    p.add_argument("-o", "--out", type=Path, help="write JSON here")

    p = command("drift", drift, "Measure how far the latents of several plans drift from the uncached ones.",
                "harmonica drift fora.safetensors hc.safetensors -o drift.json")  # fmt: skip
    p.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
    p.add_argument("--images", type=int, default=64, help="default: %(default)s")
    p.add_argument("-o", "--out", type=Path, required=True)

    p = command("import-router", import_router, "Read a released router file (Learning-to-Cache, HarmoniCa).",
                "harmonica import-router ddim20_router.pt --threshold 0.1 -o released.safetensors")  # fmt: skip
    p.add_argument("file", type=Path)
    p.add_argument("--threshold", type=float, help="τ, compute where r > τ; default: 0.1, for U-ViT 0.9, as released")
    p.add_argument("--model", help="default: the one that the file names or fits")
    p.add_argument("--method", choices=["harmonica", "learning_to_cache"], help="default: told from the file")
    p.add_argument("--cfg", type=float, help="guidance scale; default: the model's own")
    p.add_argument("-o", "--out", type=Path, help="write the plan here, and the router beside it")

    p = command("export-router", export_router, "Write a trained router in the released layout.",
                "harmonica export-router hc.router.safetensors -o router.pt")  # fmt: skip
    p.add_argument("router", type=Path)
    p.add_argument("-o", "--out", type=Path, required=True)

    p = command("convert", convert, "Convert a DiT between the original .pt and a diffusers transformer/ folder.",
                "harmonica convert DiT-XL-2-256x256.pt -o transformer/")  # fmt: skip
    p.add_argument("source", type=Path, help="an original checkpoint, or a diffusers folder with config.json")
    p.add_argument("--heads", type=int, help="of an original checkpoint; default: those of the published sizes")
    p.add_argument("-o", "--out", type=Path, required=True, help="the folder or, from a folder, the file to write")

    p = command("replay", replay, "Replay a reference trace of the published code; exits 1 where this code differs.",
                "harmonica replay tests/data/harmonica_dit_T10.safetensors")  # fmt: skip
    p.add_argument("trace", type=Path)
    p.add_argument("--precision", choices=PRECISIONS, default="float32",
                   help="of the branches; each has its tolerances; default: %(default)s")  # fmt: skip

    p = command("smoke", smoke, "Try a paper-scale model at its true shape, with random weights.",
                "harmonica smoke --scale paper --model pixart-alpha-1024")  # fmt: skip
    p.add_argument("--scale", choices=["paper"], default="paper", help="default: %(default)s")
    p.add_argument("--model", default="dit-xl-2-256", help="default: %(default)s")
    p.add_argument("--steps", type=int, help="T, sampling steps; default: 10, for 1024 pixels and more 2")
    p.add_argument("--blocks", type=int, help="default: all, for more than 1024 pixels on a CPU 2")

    p = command("bench", bench, "Measure what is promised of speed and memory: a line a case, ratio and spread.",
                "harmonica bench inference --rounds 5\n  harmonica bench training memory metrics -o b.csv")  # fmt: skip
    p.add_argument("suites", nargs="+", choices=["inference", "plain", "compiled", "training", "memory", "metrics"])
    p.add_argument("--rounds", type=int, default=3, help="of both sides, interleaved; default: %(default)s")
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        help="also write the lines here (csv; in a folder, a file named for the device), provenance beside",
    )
    p.add_argument("--need-gpu", action="store_true", help="fail where there is no GPU, rather than measure the CPU")

    p = command("estimate", estimate, "Say what tables will cost on this machine: hours, disk, memory of every rule.",
                "harmonica estimate results/table1.csv --scale paper --images 50000")  # fmt: skip
    p.add_argument("targets", nargs="+", metavar="TABLE", help="results/table1.csv, or table1")
    p.add_argument("--scale", choices=["pocket", "paper"], default="pocket", help="default: %(default)s")
    p.add_argument("--images", type=int, help="a row; default: as configured")
    p.add_argument("--cores", type=int, help="of the run; default: this machine's")

    p = command("timing", timing, "Say where a run of the workflow spent its time.", "harmonica timing results/")
    p.add_argument("folder", type=Path)

    p = command("pocket", pocket, "Make the shipped pocket models again from their data.",
                "harmonica pocket train --data /usr/share/datasets/fashion-mnist -o my-pocket/")  # fmt: skip
    p.add_argument("action", choices=["train"])
    p.add_argument("--model", choices=["pocket-dit", "pocket-pixart", "pocket-uvit"], default="pocket-dit",
                   help="default: %(default)s")  # fmt: skip
    p.add_argument("--data", type=Path, required=True,
                   help="folder with Fashion-MNIST's four .gz files, or Noto emoji's unpacked npm package")  # fmt: skip
    p.add_argument("--work", type=Path, default=Path("checkpoints"), help="for checkpoints; default: %(default)s")
    p.add_argument("-o", "--out", type=Path, required=True,
                   help="folder to make or replace (harmonica/pocket/ has the shipped ones)")  # fmt: skip
    p.add_argument("--steps", type=int, help="of every stage, for a trial; default: the recipe's")
    p.add_argument("--images", type=int, help="to measure quality; default: 1000 a seed, of captions the 400 held out")
    return parser


def list_methods(args) -> None:
    import dataclasses

    from harmonica import methods

    for name in sorted(methods.known()):
        try:
            module = methods.get_method(name)
        except UserError as e:
            print(f"{name:20} {e}")
            continue
        print(f"{name:20} {module.TITLE}: {(module.__doc__ or '').strip().splitlines()[0]}")
        for f in dataclasses.fields(module.Settings):
            by_scale = f.default is None and f.name in getattr(module.Settings, "RECIPE", ())
            print(f"    --set {f.name}={'by scale' if by_scale else f.default}")


def make_plan(args) -> None:
    from harmonica.experiment import Experiment
    from harmonica.plan import Plan

    given = {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, not {item!r}")
        given[key] = _number(value)
    e = Experiment.of(args.model, args.sampler, args.steps, args.cfg, args.method, given, args.seed)
    sources = {}
    for path in args.sources:
        source = Plan.load(path)
        sampler, steps = e.source
        source.check_fits(model=e.model, sampler=sampler, steps=steps, shape=_shape(source))
        sources[source.origin.method] = source
    _started()
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several:
        from harmonica import distributed

        distributed.start()
    plan, router = e.make(sources, args.out, _started)
    if several:
        first = distributed.rank() == 0
        distributed.stop()
        if not first:
            return
    _save(plan, router, args.out)
    for checkpoint in args.out.parent.glob(f".{args.out.stem}-*.checkpoint"):
        checkpoint.unlink()
    cost = "".join(f", {k} = {v:g}" for k, v in plan.origin.cost.items())
    print(f"{e.slug}: {_summary(plan)}{cost}")


def show_plan(args) -> None:
    from harmonica.plan import Plan

    plan = Plan.load(args.plan)
    o = plan.origin
    print(f"{o.method} for {o.model}, {o.sampler}, {plan.steps} steps, guidance scale {o.cfg:g}: {_summary(plan)}")
    for what in ("settings", "notes", "cost"):
        if getattr(o, what):
            print(f"{what}: " + ", ".join(f"{k} = {v}" for k, v in getattr(o, what).items()))
    print("one row a step, noisiest first; `.` computes, `r` reuses, `d` adds a span's delta, `o` takes its output")
    for s, row in enumerate(plan.actions):
        print(f"{s:4} {''.join('.rdo'[a] for a in row)}")


def sample(args) -> None:
    import torch  # noqa: F401  (its import is counted as start-up)
    from tqdm import tqdm

    from harmonica import shards
    from harmonica.models import get_model

    plans = _load_plans(args.plans)
    for plan in plans.values():
        asked = {k: getattr(plan.origin, k) if getattr(args, k) is None else getattr(args, k)
                 for k in ("model", "sampler", "steps")}  # fmt: skip
        plan.check_fits(**asked, shape=_shape(plan))
    names = {p.origin.model for p in plans.values()}
    loaded = {n: (get_model(n).load_backbone(), get_model(n).load_decoder()) for n in names}
    _started()
    manifest = {}
    with tqdm(total=len(plans) * args.images, desc="sample", unit="image", mininterval=5) as bar:
        for name, plan in plans.items():
            folder = args.out / shards.folder_name(plan, name)
            parts = loaded[plan.origin.model]
            files = shards.draw(plan, folder, args.first, args.images, args.chunk, args.batch, parts, bar.update)
            manifest[name] = [str(f) for f in files]
    if args.manifest:
        _write_json(args.manifest, manifest)
    if args.grid:
        images, _ = shards.read(next(iter(manifest.values()))[: -(-64 // args.chunk)])
        _save_grid(images[:64], args.grid)


def measure(args) -> None:
    import torch  # noqa: F401

    from harmonica import shards
    from harmonica.evaluation import evaluate
    from harmonica.extractors import get_extractor, get_reference

    reference, extract = get_reference(args.extractor, args.reference), get_extractor(args.extractor)
    about, clip, captions = {"extractor": args.extractor}, None, []
    if args.clip:
        from harmonica.clip import Clip

        if not args.captions:
            raise UserError("the CLIP score needs the captions that were drawn: pass --captions MODEL")
        clip, captions = Clip(args.clip, args.clip_pretrained), _captioned(args.captions).captions.read()
        about["clip_model"] = clip.name
    _started()
    files = shards.read_manifests(args.manifests)
    names = args.only or list(files)
    for name in (*names, args.uncached):
        if name not in files:
            raise UserError(f"no samples of {name!r} among {', '.join(sorted(files))}")
    rows = {}
    for name in names:
        found = evaluate(name, files[name], files[args.uncached], extract, reference, clip, captions)
        rows[name] = found | about
        print(name, " ".join(f"{k} {v:.4g}" for k, v in found.items()), file=sys.stderr)
    _write_json(args.out, rows)


def reference(args) -> None:
    import torch  # noqa: F401

    from harmonica.extractors import adm_reference, folder_reference, get_extractor

    extract = get_extractor(args.extractor)
    _started()
    if not args.source.exists():
        raise UserError(
            f"{args.source} is missing: pass one of ADM's files (`harmonica fetch`), or a folder of pictures"
        )
    of_folder = args.source.is_dir()
    made = folder_reference(args.source, extract, args.side) if of_folder else adm_reference(args.source, extract)
    made.save(args.out)


def captions(args) -> None:
    from harmonica.captions import write_coco
    from harmonica.provenance import file_hash

    print(f"{write_coco(args.annotations, args.out)} captions, sha256 {file_hash(args.out)}")


def embed(args) -> None:
    from harmonica.captions import embed

    folder = embed(_captioned(args.model))
    print(folder)
    if args.done:
        _write_json(args.done, json.loads((folder / "index.json").read_text()))


def fetch(args) -> None:
    from harmonica import downloads
    from harmonica.models import MODELS, get_model
    from harmonica.provenance import file_hash

    if not args.names:
        for f in downloads.FILES.values():
            print(f"{f.name:45} {f.what}")
        for model in (m for m in MODELS.values() if m.hub):
            print(f"{model.name:45} {model.title} {model.resolution}, {model.source}")
        return
    files = []
    for name in args.names:
        if name in downloads.FILES:
            path = downloads.fetch(name)
            files.append((path, path.parent))
        else:
            folders = downloads.fetch_model(get_model(name))
            files += [(p, f.parent.parent) for f in folders for p in sorted(f.iterdir()) if p.is_file()]
            path = folders[0].parent
        print(path)
    if args.done:
        _write_json(args.done, {str(p.relative_to(folder)): file_hash(p) for p, folder in files})


def latency(args) -> None:
    import torch  # noqa: F401

    from harmonica import provenance
    from harmonica.latency import measure

    plans = _load_plans(args.plans)
    _started()
    result = measure(plans, args.batch, args.rounds)
    for name, row in result.items():
        print(f"{name:60} {1000 * row['latency_s']:9.1f} ms", file=sys.stderr)
    if args.out:
        _write_json(args.out, {"batch": args.batch, "rounds": args.rounds, "device": provenance.device(),
                               "threads": torch.get_num_threads(), "plans": result})  # fmt: skip


def drift(args) -> None:
    import torch  # noqa: F401

    from harmonica.drift import measure

    plans = _load_plans(args.plans)
    _started()
    _write_json(args.out, measure(plans, args.images))


def import_router(args) -> None:
    from harmonica import released
    from harmonica.plan import COMPUTE
    from harmonica.router import LIMIT, sigmoid

    found = released.read(args.file)
    router = found.router(args.model, args.method, args.cfg)
    threshold = released.threshold(router.origin.model) if args.threshold is None else args.threshold
    plan, o = router.plan(threshold), router.origin
    steps, branches = router.logits.shape
    below = 100 * float((sigmoid(found.logits) <= threshold).mean())
    print(f"{args.file}: {o.method} for {o.model}, {o.sampler}, {steps} steps × {branches} branches")
    routed = (router.logits < LIMIT).any(1)
    left = 100 * float((plan.actions[routed] != COMPUTE).mean()) if routed.any() else 0.0
    print(f"{below:.2f} % of its entries are at or below {threshold:g}; of the {routed.sum()} routed steps' branches, "
          f"{left:.2f} % are reused")  # fmt: skip
    print(_summary(plan))
    if args.out:
        _save(plan, router, args.out)


def export_router(args) -> None:
    from harmonica import released
    from harmonica.router import Router

    router = Router.load(args.router)
    released.write(router, args.out)
    if "threshold" in router.origin.notes:  # one that was trained here, whose plan may need another than the usual
        print(f"{args.out}: its plan computes where r > {router.origin.notes['threshold']:g}")


def convert(args) -> None:
    from harmonica.convert import to_diffusers_folder, to_original_file

    if args.source.is_dir():
        to_original_file(args.source, args.out)
        return
    c = to_diffusers_folder(args.source, args.out, args.heads)
    print(f"{args.out}: {c['num_layers']} blocks, {c['num_attention_heads']} heads × {c['attention_head_dim']}, "
          f"patch {c['patch_size']}, {c['num_embeds_ada_norm']} classes")  # fmt: skip


def replay(args) -> int:
    from harmonica.replay import RELATIVE, replay

    failed = 0
    for k, c in enumerate(replay(args.trace, args.precision)):
        if not k:
            print(f"{'quantity':32} {'largest error':>13}  tolerance")
        failed += not c.passed
        mark = "" if c.passed else "  OVER"
        kind = "relative" if c.kind in RELATIVE else "absolute"
        print(f"{c.quantity:32} {c.error:13.2e}  {c.tolerance:g} {kind}{mark}", flush=True)
    print(f"{failed} quantities are over tolerance" if failed else "every quantity is within its tolerance")
    return int(failed > 0)


def smoke(args) -> None:
    from harmonica.smoke import smoke

    smoke(args.model, args.steps, args.blocks)


def bench(args) -> None:
    import re

    import pandas as pd
    import torch

    from harmonica import bench, provenance

    if args.rounds < 1:
        raise UserError(f"a benchmark needs at least one round, not {args.rounds}")
    device = provenance.device()
    if args.need_gpu and not torch.cuda.is_available():
        raise UserError(f"no GPU can be used here, only {device}")
    out = args.out
    if out and not out.suffix:
        out = out / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.csv"
    lines = []
    for suite in args.suites:
        for line in bench.SUITES[suite](args.rounds):
            print(f"{suite:10} {line}", flush=True)
            lines.append(line.record())
    if out:
        about = {"commit": provenance.commit(), "versions": provenance.versions(), "device": device,
                 "threads": torch.get_num_threads(), "rounds": args.rounds}  # fmt: skip
        _write_json(out.with_suffix(".provenance.json"), about)
        provenance.write_whole(out, pd.DataFrame(lines).to_csv(index=False, float_format="%.6g"))
        print(out)


def estimate(args) -> None:
    import torch
    import yaml

    from harmonica import estimate, provenance, suite

    path = provenance.ROOT / "workflow" / "config" / f"{args.scale}.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: an estimate needs a checkout of the project")
    given = {"scale": args.scale} | ({} if args.images is None else {"images": args.images})
    print(f"measuring what {', '.join(args.targets)} will cost from nothing …", file=sys.stderr)
    known = suite.tables(yaml.safe_load(path.read_text()), given)
    names = [Path(t).stem for t in args.targets]
    for name in names:
        if name not in known:
            raise unknown("table", name, known)
    gpu = torch.cuda.is_available()
    if not gpu and args.scale == "pocket":
        torch.set_num_threads(1)  # as the workflow's jobs have it
    rules = estimate.estimate({n: known[n] for n in names}, args.scale, estimate.start_ups())
    print(estimate.text(rules, args.cores or len(os.sched_getaffinity(0)), gpu))


def timing(args) -> None:
    from harmonica.timing import report

    print(report(args.folder))


def pocket(args) -> None:
    if args.model == "pocket-dit":
        from harmonica.pocket.build import build
    elif args.model == "pocket-uvit":
        from harmonica.pocket.build_uvit import build
    else:
        from harmonica.pocket.build_text import build
    options = {} if args.images is None else {"images": args.images}
    build(args.data, args.out, args.work, args.steps, **options)


def _load_plans(paths: list[Path]) -> dict:
    """Plans by file name. Raises UserError when two files have one name."""
    from harmonica.plan import Plan

    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two plans are named {name}: results are filed by that name, rename one of the files")
    return {path.stem: Plan.load(path) for path in paths}


def _captioned(name: str):
    """A model that draws captions. Raises UserError for another."""
    from harmonica.models import get_model

    model = get_model(name)
    if not model.captions:
        raise UserError(f"{name} draws classes, not captions")
    return model


def _save(plan, router, path: Path) -> None:
    """The plan, and beside it the router that it comes from, if any."""
    if router is not None:
        router.save(path.with_suffix(".router.safetensors"))
    plan.save(path)


def _summary(plan) -> str:
    shape = _shape(plan)
    return (
        f"CUR {plan.cur:.2f} %, {plan.macs(shape) / 1e9:.4g} GMACs an image and guidance half, "
        f"theoretical speed-up {plan.theoretical_speedup(shape):.2f}x over its own steps"
    )


def _shape(plan):
    from harmonica.models import get_model

    return get_model(plan.origin.model).shape


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _write_json(path: Path, obj) -> None:
    from harmonica.provenance import write_whole

    write_whole(path, json.dumps(obj, indent=1) + "\n")


def _save_grid(images, path: Path) -> None:
    import io

    import numpy as np
    from PIL import Image

    from harmonica.provenance import write_whole

    side = max(1, int(len(images) ** 0.5))
    rows = [np.concatenate(list(images[i : i + side]), 1) for i in range(0, side * side, side)]
    data = io.BytesIO()
    Image.fromarray(np.concatenate(rows).squeeze()).save(data, "png")
    write_whole(path, data.getvalue())


_start_up = None


def _started() -> None:
    """Note that imports and loading are over: `harmonica timing` tells start-up from work."""
    global _start_up
    _start_up = time.time()


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    keep_freed_memory()
    status = guarded("harmonica", lambda: args.function(args))
    if status == 0 and args.command in ("plan", "sample", "metrics", "latency", "drift", "reference"):
        log_times(_start_up)
    return status


if __name__ == "__main__":
    sys.exit(main())
