"""`harmonica captions`"""

from pathlib import Path

HELP = "Make the list of captions of MS-COCO 2014 from its annotations."
EXAMPLE = "harmonica captions captions_val2014.json -o weights/coco-2014-val.txt"


def add_arguments(parser) -> None:
    parser.add_argument("annotations", type=Path, help="captions_val2014.json")
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.models.captions import write_coco
    from harmonica.utils import file_hash

    print(f"{write_coco(args.annotations, args.out)} captions, sha256 {file_hash(args.out)}")
