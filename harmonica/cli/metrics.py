"""`harmonica metrics`"""

import sys
from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils import UserError

HELP = "Compute the metrics of generated images."
EXAMPLE = "harmonica metrics manifest.json --uncached full -o metrics.json"


def add_arguments(parser) -> None:
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("--uncached", required=True, help="name of the plan that every row is compared with")
    parser.add_argument("--converged", metavar="PLAN", help="name of the plan that gives the converged solution; its "
                        "images, maybe fewer, are what PSNR_converged compares with")  # fmt: skip
    parser.add_argument("--lpips", action="store_true", help="also LPIPS to the uncached images (AlexNet)")
    parser.add_argument("--fid-infinity", action="store_true", help="also FID∞, extrapolated to infinitely many "
                        "images: FID depends on their number, and by how much on the model")  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="PLAN", help="names of plans; default: all in the manifests")
    _shared.network_arguments(parser, "that of the model of the images")
    parser.add_argument("--reference", type=Path, help="made by `harmonica reference`; default: the extractor's own")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from dataclasses import asdict, replace

    from harmonica.evaluation import generate
    from harmonica.evaluation.evaluate import Targets, gather, results
    from harmonica.evaluation.features.lpips import get_lpips
    from harmonica.evaluation.metrics import METRICS
    from harmonica.evaluation.records import Manifest, Metrics
    from harmonica.evaluation.references import get_reference
    from harmonica.models import get_model
    from harmonica.utils import provenance

    clip = _shared.clip_of(args)
    manifests = Manifest.read(args.manifests)
    manifests.check_seeds()
    files = manifests.files
    names = args.only or [name for name in files if name != args.converged]
    every = (*names, args.uncached, *([args.converged] if args.converged else []))
    for name in every:
        if name not in files:
            raise UserError(f"no images of {name!r} among {', '.join(sorted(files))}")
    model = get_model(manifests.model(every))
    network = args.extractor or model.extractor
    extract, about = _shared.networks(network, *clip)
    reference = get_reference(network, args.reference, model)
    assert reference.about
    lpips = get_lpips() if args.lpips else None
    _shared.loaded()
    rows = {}
    targets = Targets(files[args.uncached], lpips=lpips)
    if args.converged:
        pictures, labels = generate.read(files[args.converged])
        targets = replace(targets, converged=pictures)
        if len(labels) == generate.count(targets.uncached):  # a Fréchet distance needs equal numbers
            alone = Targets(files[args.converged])
            solution = gather(args.converged, files[args.converged], alone, extract, reference, about)
            targets = replace(targets, of_converged=solution)
    base = gather(args.uncached, targets.uncached, targets, extract, reference, about)
    targets = replace(targets, base=base)
    for name in names:
        own = base if name == args.uncached else gather(name, files[name], targets, extract, reference, about)
        found = results(replace(own, extrapolated=True) if args.fid_infinity else own)
        rows[name] = found | about
        print(
            name,
            " ".join(f"{k} {METRICS[k].format.format(v)}" for k, v in found.items() if k in METRICS),
            file=sys.stderr,
        )
    Metrics(provenance.device(), manifests.made_on, asdict(reference.about), rows).save(args.out)
