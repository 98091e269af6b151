"""`harmonica import-router`"""

from pathlib import Path

from harmonica.cli import _shared

HELP = "Read a released router file (Learning-to-Cache, HarmoniCa)."
EXAMPLE = "harmonica import-router DDIM20_router.pt --threshold 0.1 -o released.safetensors"


def add_arguments(parser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--threshold", type=float, help="τ, compute where r > τ; default: as released, 0.1, for U-ViT 0.9"
    )
    parser.add_argument("--model", help="default: the one that the file names or fits")
    parser.add_argument("--method", choices=["harmonica", "learning_to_cache"], help="default: inferred from the file")
    parser.add_argument("--cfg", type=float, help="guidance scale; default: the model's own")
    parser.add_argument("-o", "--out", type=Path, help="write the plan here, and the router beside it")


def run(args) -> None:
    from harmonica.experiments import identity
    from harmonica.methods import released_routers as released
    from harmonica.plan import COMPUTE, LIMIT, sigmoid

    found = released.read(args.file)
    router = found.router(args.model, args.method, args.cfg)
    p = router.protocol
    identity.check_protocol(p)
    threshold = released.threshold(p.model) if args.threshold is None else args.threshold
    plan = router.plan(threshold)
    steps, branches = router.logits.shape
    below = 100 * float((sigmoid(found.logits) <= threshold).mean())
    print(f"{args.file}: {router.origin.method} for {p.model}, {p.sampler}, {steps} steps × {branches} branches")
    routed = (router.logits < LIMIT).any(1)
    reused = 100 * float((plan.actions[routed] != COMPUTE).mean()) if routed.any() else 0.0
    print(f"{below:.2f} % of its ratios are at or below {threshold:g}; of the {routed.sum()} routed steps' branches, "
          f"{reused:.2f} % are reused")  # fmt: skip
    print(_shared.summary(plan))
    if args.out:
        _shared.save_plan(plan, router, args.out)
