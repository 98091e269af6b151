"""`harmonica metrics`"""

import sys
from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils import UserError

HELP = "Compute the metrics of generated images."
EXAMPLE = "harmonica metrics manifest.json --uncached full -o metrics.json"


def add_arguments(parser) -> None:
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("--uncached", required=True, help="name of the plan whose images PSNR compares with")
    parser.add_argument("--only", nargs="+", metavar="PLAN", help="names of plans; default: all in the manifests")
    _shared.network_arguments(parser, "fashion-mnist-cnn")
    parser.add_argument("--reference", type=Path, help="made by `harmonica reference`; default: the extractor's own")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation import generate
    from harmonica.evaluation.evaluate import gather, results
    from harmonica.evaluation.metrics import METRICS
    from harmonica.evaluation.references import get_reference
    from harmonica.utils import provenance, write_json

    reference = get_reference(args.extractor, args.reference)
    extract, about = _shared.networks(args)
    _shared.loaded()
    files = generate.read_manifests(args.manifests)
    names = args.only or list(files)
    for name in (*names, args.uncached):
        if name not in files:
            raise UserError(f"no images of {name!r} among {', '.join(sorted(files))}")
    rows, hardware = {}, {"device": provenance.device(), "images_made_on": generate.made_on(args.manifests)}
    plain = files[args.uncached]
    base = gather(args.uncached, plain, plain, extract, reference, about)
    for name in names:
        is_base = name == args.uncached
        found = results(base if is_base else gather(name, files[name], plain, extract, reference, about, base))
        rows[name] = found | about | hardware
        print(
            name,
            " ".join(f"{k} {METRICS[k].format.format(v)}" for k, v in found.items() if k in METRICS),
            file=sys.stderr,
        )
    write_json(args.out, rows)
