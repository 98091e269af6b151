"""`harmonica reference`"""

from pathlib import Path

from harmonica.cli import _shared
from harmonica.utils import UserError

HELP = "Make a reference of metrics from one of ADM's files or a folder of pictures."
EXAMPLE = "harmonica reference pictures/val2014 --data coco-2014-val --side 256 -o coco.npz"


def add_arguments(parser) -> None:
    parser.add_argument("source", type=Path)
    parser.add_argument("--side", type=_shared.count, default=256,
                        help="pixels, of a folder's pictures; default: %(default)s")  # fmt: skip
    parser.add_argument("--data", metavar="NAME", help="the data set, as models name it; default: the name "
                        "of the source")  # fmt: skip
    parser.add_argument("--extractor", default="inception-2015-12-05", help="feature network; default: %(default)s")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.evaluation.features.networks import channels, fingerprint, get_extractor
    from harmonica.evaluation.references import adm_reference, folder_reference

    extract = get_extractor(args.extractor)
    _shared.loaded()
    if not args.source.exists():
        raise UserError(
            f"{args.source} is missing: pass one of ADM's files (`harmonica fetch`), or a folder of pictures"
        )
    about = {"network": fingerprint(args.extractor), "data": args.data or args.source.name}
    if args.source.is_dir():
        made = folder_reference(args.source, extract, args.side, **about, channels=channels(args.extractor))
    else:
        made = adm_reference(args.source, extract, **about)
    made.save(args.out)
