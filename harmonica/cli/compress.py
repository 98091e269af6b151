"""`harmonica compress`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Compress a model: quantise its layers, or prune its units."
EXAMPLE = "harmonica compress efficientdm --model pocket-dit --sampler ddim --steps 20 --cfg 1.3 -o c.safetensors"


def add_arguments(parser) -> None:
    parser.add_argument("compression", help="see `harmonica methods`")
    _shared.protocol_arguments(parser)
    parser.add_argument("--seed", type=_shared.seed, default=0, help="of what is random in it; default: %(default)s")
    _shared.settings_argument(parser, "compression")
    _shared.precision_argument(parser)
    parser.add_argument("-o", "--out", type=Path, required=True)


def run(args) -> None:
    from harmonica.experiments import CompressedModel

    protocol, given = _shared.protocol_of(args), _shared.settings_of(args)
    made = CompressedModel.of(protocol, args.compression, given, args.seed)
    compression = made.make(_shared.loaded, args.precision).save(args.out)
    cost = "".join(f", {k} = {v:g}" for k, v in compression.origin.cost.items())
    print(f"{made.slug}: {_shared.summary_of(compression)}{cost}")
