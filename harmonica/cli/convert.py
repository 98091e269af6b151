"""`harmonica convert`"""

from pathlib import Path

HELP = "Convert a DiT between the original .pt and a diffusers transformer/ folder."
EXAMPLE = "harmonica convert DiT-XL-2-256x256.pt -o transformer/"


def add_arguments(parser) -> None:
    parser.add_argument("source", type=Path, help="an original checkpoint, or a diffusers folder with config.json")
    parser.add_argument("--heads", type=int, help="of an original checkpoint; default: those of the published sizes")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder, or from a folder the file, to write")


def run(args) -> None:
    from harmonica.models.convert import to_diffusers_folder, to_original_file

    if args.source.is_dir():
        to_original_file(args.source, args.out)
        return
    c = to_diffusers_folder(args.source, args.out, args.heads)
    print(f"{args.out}: {c['num_layers']} blocks, {c['num_attention_heads']} heads × {c['attention_head_dim']}, "
          f"patch {c['patch_size']}, {c['num_embeds_ada_norm']} classes")  # fmt: skip
