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
    parser.add_argument("--extractor", default="fashion-mnist-cnn", help="feature network; default: %(default)s")
    parser.add_argument("--clip", metavar="MODEL", help="open_clip's name of a model, for the CLIP score of captions")
    parser.add_argument("--clip-pretrained", default="", metavar="TAG", help="open_clip's name of its weights")
    parser.add_argument("--captions", metavar="MODEL", help="the model whose captions the images were generated for")
    parser.add_argument("--reference", type=Path, help="made by `harmonica reference`; default: the extractor's own")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation import generate
    from harmonica.evaluation.evaluate import evaluate
    from harmonica.evaluation.features.networks import get_extractor
    from harmonica.evaluation.metrics import METRICS
    from harmonica.evaluation.references import get_reference
    from harmonica.utils import write_json

    reference, extract = get_reference(args.extractor, args.reference), get_extractor(args.extractor)
    about, clip, captions = {"extractor": args.extractor}, None, []
    if args.clip:
        from harmonica.evaluation.features.clip import SHIPPED, Clip

        if not args.captions:
            raise UserError("the CLIP score needs the captions of the images: pass --captions MODEL")
        if args.clip != SHIPPED and not args.clip_pretrained:
            raise UserError(f"the CLIP model {args.clip} would have random weights: pass --clip-pretrained TAG")
        clip, captions = Clip(args.clip, args.clip_pretrained), _shared.captioned(args.captions).captions.read()
        about["clip_model"] = clip.name
    _shared.loaded()
    files = generate.read_manifests(args.manifests)
    names = args.only or list(files)
    for name in (*names, args.uncached):
        if name not in files:
            raise UserError(f"no images of {name!r} among {', '.join(sorted(files))}")
    rows = {}
    for name in names:
        found = evaluate(name, files[name], files[args.uncached], extract, reference, clip, captions)
        rows[name] = found | about
        print(
            name,
            " ".join(f"{k} {METRICS[k].format.format(v)}" for k, v in found.items() if k in METRICS),
            file=sys.stderr,
        )
    write_json(args.out, rows)
