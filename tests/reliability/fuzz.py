"""Damaged files: every reader of the suite gives the content that was written, or refuses the file in one sentence.

`python tests/reliability/fuzz.py --cases 10000 --seed 0` mutates files of every kind and prints a table of outcomes; it
exits 1 if a reader gave other content in silence, raised anything but UserError, or took 10 seconds or 2 GB. `--only
plan` takes cases of one kind, `--only plan:17` repeats one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

LONGEST_S, LARGEST = 10.0, 2 << 30
PROTOCOL = {"model": "pocket-dit", "sampler": "ddim", "steps": 10, "cfg": 1.5}


@dataclass(frozen=True)
class Target:
    """A kind of file: `write` makes a valid one at a path, `read` gives its content. With `exact`, the content must be
    what was written; otherwise the file has no checksum, since people write it, and any valid content will do."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    exact: bool = True


class Slow(BaseException):
    """A reader took too long."""


def content(x: Any) -> bytes:
    """What a reader gave, for comparison."""
    return hashlib.sha256(pickle.dumps(_plain(x))).digest()


def _plain(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return str(x.dtype), x.shape, x.tobytes()
    if hasattr(x, "detach"):
        return str(x.dtype), tuple(x.shape), x.detach().cpu().contiguous().flatten().view(_bytes()).numpy().tobytes()
    if isinstance(x, dict):
        return [(repr(k), _plain(v)) for k, v in sorted(x.items(), key=lambda item: repr(item[0]))]
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    return repr(x)


def _bytes():
    import torch

    return torch.uint8


def targets(folder: Path) -> list[Target]:
    """Every kind of file; `folder` is for what readers need beside the file."""
    return [
        *_plans(), *_images(), *_records(), *_tables(), *_captions(folder), *_moments(folder), *_torch_files(folder),
        _compression(), Target("configuration", _write_configuration, _read_configuration, exact=False),
    ]  # fmt: skip


def _plans() -> Iterator[Target]:
    from harmonica.plan import SPAN_DELTA, Origin, Plan, Protocol, Router, Rule
    from harmonica.plan.io import VERSION

    rng = np.random.default_rng(0)
    origin = Origin(
        "harmonica", {"beta": 1e-4, "compat": "official"}, 3, {"torch": "2"}, {"training_s": 1.5}, {"a": [1.5]}
    )
    actions = rng.integers(0, 5, (10, 16)).astype(np.uint8)
    actions[0] = 0
    plan = Plan(actions, Protocol(**PROTOCOL), origin)
    spans = np.zeros((10, 16), np.uint8)
    spans[2:, 4:] = SPAN_DELTA
    ruled = Plan(spans, plan.protocol, origin, rule=Rule("input", 0.5, 3, 1, (1.0, 2.0), {"decay": 0.5}))
    router = Router(rng.standard_normal((10, 16)).astype(np.float32), Protocol(**PROTOCOL), origin)

    def read_plan(path: Path):
        p = Plan.load(path)
        return p.actions, asdict(p.protocol), asdict(p.origin), len(p.program), p.rule and p.rule.to_json()

    def read_router(path: Path):
        r = Router.load(path)
        return r.logits, asdict(r.protocol), asdict(r.origin)

    checked = VERSION >= 3  # older files have no checksum
    yield Target("plan", plan.save, read_plan, checked)
    yield Target("ruled", ruled.save, read_plan, checked)
    yield Target("router", router.save, read_router, checked)


def _compression() -> Target:
    import torch

    from harmonica.compression import Compression, Layer
    from harmonica.plan import Origin, Protocol

    g = torch.Generator().manual_seed(0)
    tensors = {
        "up.0.integers": torch.randint(-8, 8, (6, 4), generator=g, dtype=torch.int8),
        "up.0.weight_scale": torch.rand(6, generator=g), "tables": torch.rand(3, 4, generator=g),
    }  # fmt: skip
    layers = {"up.0": Layer(4, 4, 8, "step", 24.0)}
    origin = Origin("efficientdm", {"rank": 8}, 3, {"torch": "2"}, {"training_s": 1.5}, {"loss": 0.5})
    made = Compression(
        Protocol(**PROTOCOL), origin, layers, {"heads": 2}, {"other_macs": 7.0}, (9.0, 1.0), lambda: tensors
    )

    def read(path: Path):
        c = Compression.load(path)
        return c.tensors, asdict(c.protocol), asdict(c.origin), c.layers, c.kept, c.layout, c.timesteps

    return Target("compression", made.save, read)


def _images() -> Iterator[Target]:
    from harmonica.evaluation import generate
    from harmonica.evaluation.distances import Gaussian
    from harmonica.evaluation.references import Identity, Reference
    from harmonica.utils.arrays import write_npz

    rng = np.random.default_rng(0)
    labels, x = np.arange(6) % 3, rng.standard_normal((6, 7)).astype(np.float32)
    pictures, skipped = rng.integers(0, 256, (6, 8, 8, 3), np.uint8), rng.integers(0, 2, (6, 2, 5), np.uint8)

    def write_chunk(path: Path) -> None:
        found = {"images": pictures, "labels": labels, "first": np.array(0), "skipped": skipped}
        write_npz(path, found, compressed=False)

    def write_features(path: Path) -> None:
        found = {k: x for k in ("pooled", "spatial", "logits")} | {"cosines": x[:, 0], "clip": np.array("clip")}
        found |= {"extractor": np.array("cnn"), "network": np.array("1f"), "labels": labels, "first": np.array(0)}
        write_npz(path, found)

    def read_chunk(path: Path):
        (chunk,) = generate.chunks([path])
        return chunk.images, chunk.labels, chunk.features, chunk.skipped

    def read_features(path: Path):
        (chunk,) = generate.chunks([path.with_name(path.name.replace(".features", ""))])
        return chunk.images, chunk.labels, chunk.features

    def read_reference(path: Path):
        r = Reference.load(path)
        return r.pooled.mu, r.pooled.sigma, r.spatial.mu, r.spatial.sigma, r.features, r.about

    about = Identity("cnn", "pictures", "a folder", 32, 6)
    reference = Reference(Gaussian.of(x.astype(float)), Gaussian.of(x[:, :3].astype(float)), x, about)
    yield Target("chunk/000000-000005.npz", write_chunk, read_chunk)
    yield Target("features/000000-000005.features.npz", write_features, read_features)
    yield Target("reference", reference.save, read_reference)


def _records() -> Iterator[Target]:
    from harmonica.evaluation.records import Drift, Latency, Manifest, Metrics
    from harmonica.models.own import Found

    row = {"FID": 1.25, "N": 24, "N_pairs": 24, "blocks": {"FID": [0.1, -0.2]}, "extractor": "cnn"}
    records = {
        "manifest": Manifest("cpu", "float32", 0, {"a": "pocket-dit"}, {"a": ["x/000000-000005.npz"]}),
        "metrics": Metrics("cpu", [{"device": "cpu"}], {"side": 32}, {"a": row, "b": row | {"PSNR": 30.0}}),
        "latency": Latency(
            "cpu", "float32", 8, 2, 1, False, {"a": {"latency_s": 0.1, "rounds_s": [0.1, 0.2], "batch": 8}}
        ),
        "drift": Drift("cpu", "float32", 8, {"a": [0.0, 0.5]}),
        "model-note": Found("/models/mine", {"/models/mine/transformer/config.json": [489, 1795933474828696465]}),
    }
    for name, record in records.items():
        yield Target(name, record.save, type(record).load)


def _tables() -> Iterator[Target]:
    import pandas as pd

    from harmonica.sharing import table_files

    table = pd.DataFrame({"method": ["Full", "HarmoniCa"], "FID": [0.25, 0.251], "PSNR": [float("nan"), 31.5]})
    about = {"config": {"images": 24}, "commit": "0" * 40, "written": "2026-01-01", "origins": {"a": [1, 2.5]}}

    def read(path: Path):
        found, record = table_files.read(path.with_name("t.csv"))
        return found.to_csv(), record

    def write(path: Path) -> None:
        table_files.write(path.with_name("t.csv"), table, about)

    yield Target("table/t.csv", write, read)
    yield Target("provenance/t.provenance.json", write, read)


def _captions(folder: Path) -> Iterator[Target]:
    import torch
    from safetensors.torch import save

    from harmonica.models import embeddings
    from harmonica.utils.arrays import CHECKSUM
    from harmonica.utils.torch_files import of_tensors

    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2])
    shard = {"tokens": torch.randn(10, 6, generator=g).half(), "lengths": lengths}
    index = embeddings.EmbeddingsIndex(3, 5, "list", "0" * 64, "cpu", "float32")

    def write_shard(path: Path) -> None:
        index.save(path.parent / "index.json")
        path.write_bytes(save(shard, {CHECKSUM: of_tensors(shard)}))

    def read_shard(path: Path):
        return embeddings.EmbeddedCaptions(path.parent, 2)(torch.tensor([0, 2, 3]))

    def write_index(path: Path) -> None:
        write_shard(path.parent / "00000.safetensors")

    yield Target("embeddings/00000.safetensors", write_shard, read_shard)
    yield Target("embeddings-index/index.json", write_index, read_shard)


def _moments(folder: Path) -> Iterator[Target]:
    import torch

    from harmonica.models import training_images
    from harmonica.utils.arrays import write_npy

    rng = np.random.default_rng(0)
    index = training_images.MomentsIndex(4, 0.5, "digest", "cpu", "float32")

    def write(path: Path) -> None:
        index.save(path.parent / "index.json")
        write_npy(path.parent / "labels.npy", np.arange(4))
        write_npy(path.parent / "00000.npy", rng.random((4, 8, 2, 2)).astype(np.float16))

    def read(path: Path):
        moments = training_images.Moments(path.parent, "harmonica moments x")
        return moments.labels, moments.draw(torch.arange(4), torch.Generator().manual_seed(0))

    for name in ("00000.npy", "labels.npy", "index.json"):
        yield Target(f"moments-{Path(name).stem}/{name}", write, read)


def _torch_files(folder: Path) -> Iterator[Target]:
    import torch

    from harmonica.backbones.dit import DiT
    from harmonica.methods import released_routers
    from harmonica.models.convert import to_diffusers_folder
    from harmonica.models.state_dicts import read_state
    from harmonica.plan import Protocol, Router
    from harmonica.training import checkpoint
    from harmonica.utils.torch_files import save_torch

    rng = np.random.default_rng(0)
    router = Router(rng.standard_normal((10, 56)).astype(np.float32), Protocol("dit-xl-2-256", "ddim", 10, 1.5))
    torch.manual_seed(0)
    state = {k: torch.randn(v.shape) for k, v in _original(DiT).items()}
    training = dict.fromkeys(sorted(checkpoint.STATE), 1.5) | {"logits": torch.randn(10, 16), "pieces": []}

    def read_router(path: Path):
        r = released_routers.read(path).router("dit-xl-2-256")
        return r.logits, asdict(replace(r.origin, notes={})), asdict(r.protocol)

    def read_dit(path: Path):
        config = to_diffusers_folder(path, folder / "transformer", heads=2)
        return config, read_state(path)

    def read_checkpoint(path: Path):
        with redirect_stderr(io.StringIO()) as said:
            found = checkpoint.load(path.parent / "p.safetensors", "id")
        if found is None:
            from harmonica.utils import UserError

            raise UserError(said.getvalue().strip())  # the training starts anew
        return found

    yield Target("released-router/r.pth", lambda p: released_routers.write(router, p), read_router)
    yield Target("dit-checkpoint/d.pt", lambda p: save_torch(p, {"ema": state}), read_dit)
    yield Target("training-checkpoint/.p-id.checkpoint", lambda p: save_torch(p, training), read_checkpoint)


def _original(backbone) -> dict:
    """The parameters of a tiny original DiT."""
    from diffusers import DiTTransformer2DModel

    from harmonica.models.convert import diffusers_to_original

    config = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, in_channels=4, out_channels=8,
                  sample_size=4, patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6)  # fmt: skip
    own = DiTTransformer2DModel(**config)
    first = own.transformer_blocks[0].norm1.emb
    for block in own.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    import torch

    return diffusers_to_original(dict(own.state_dict()) | {"pos_embed.pos_embed": torch.zeros(1, 4, 16)})


def _write_configuration(path: Path) -> None:
    path.write_text(
        "images: 100\nseeds: [0, 1]\ngpu_memory: 22.5\nprecision: {sampling: bfloat16}\n"
        "tables:\n  table1:\n    cfg: 1.5\n"
        "    cases:\n      '4': {model: pocket-dit, steps: 4}\n      'x': {model: pocket-dit, steps: 3, cfg: 2}\n"
        "    methods:\n    - full\n    - fora: {interval: 2}\n    - harmonica: {target_cur: {'4': 20, 'x': 30}}\n"
        "    latency: {batch: 2, rounds: 2, max_rounds: 3, tolerance: 2}\n"
    )


def _read_configuration(path: Path):
    import yaml

    from harmonica.experiments import config as configuration

    workflow = Path(__file__).parent.parent.parent / "workflow"
    shipped = _once("pocket", lambda: yaml.safe_load((workflow / "config" / "pocket.yaml").read_text()))
    schema = _once("schema", lambda: yaml.safe_load((workflow / "schemas" / "config.schema.yaml").read_text()))
    tables = configuration.tables(shipped, configuration.from_yaml(path) | {"scale": "pocket"})
    configuration.check(tables["table1"], schema)
    return [r.slug for r in configuration.rows(tables["table1"])]


_loaded: dict[str, Any] = {}


def _once(name: str, load: Callable[[], Any]) -> Any:
    if name not in _loaded:
        _loaded[name] = load()
    return _loaded[name]


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One to three changes of a file: flips, cuts, doubled or foreign pieces, other numbers."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        n = len(out)
        at, length = (int(rng.integers(0, max(1, n))), int(rng.integers(1, max(2, min(n, 64)))))
        kind = rng.integers(0, 11)
        if n == 0 or kind == 0:
            out[at:at] = rng.bytes(length)
        elif kind in (1, 2, 3):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 4:
            out[at] = int(rng.integers(0, 256))
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            del out[at : at + length]
        elif kind == 7:
            out[at : at + length] = bytes(length)
        elif kind == 8:
            out[at:at] = out[at : at + length]
        elif kind == 9:
            other = others[int(rng.integers(0, len(others)))]
            begin = int(rng.integers(0, max(1, len(other))))
            out[at : at + length] = other[begin : begin + length]
        else:
            digits = [i for i, b in enumerate(out[:4096]) if 48 <= b <= 57]
            if digits:
                i = digits[int(rng.integers(0, len(digits)))]
                new = [b"9", b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"2147483648"]
                out[i : i + 1] = new[int(rng.integers(0, len(new)))]
    return bytes(out)


ODD = (
    None, True, -1, 0, 10**30, float("nan"), float("inf"), "", "../x", "$(id)", "full", [], [[]], {}, {"x": {}},
    [1, "a"], {1: 2}, {"full": None}, {"fora": 3}, {"harmonica": {"cases": 5}}, {"fora": {"interval": {"4": "x"}}},
)  # fmt: skip


def restructured(data: bytes, rng: np.random.Generator) -> bytes:
    """One value or key of a YAML file in place of another, of any type."""
    import yaml

    config = yaml.safe_load(data)
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [config]
    while waiting:
        x = waiting.pop()
        own = list(x) if isinstance(x, dict) else list(range(len(x)))
        places += [(x, k) for k in own]
        waiting += [x[k] for k in own if isinstance(x[k], (dict, list))]
    parent, key = places[int(rng.integers(0, len(places)))]
    odd = ODD[int(rng.integers(0, len(ODD)))]
    if isinstance(parent, dict) and rng.random() < 0.3 and not isinstance(odd, (dict, list)):
        parent[odd] = parent.pop(key)
    elif isinstance(parent, list) and rng.random() < 0.3:
        parent.append(odd)
    else:
        parent[key] = odd
    return yaml.safe_dump(config, sort_keys=False).encode()


@contextmanager
def limited() -> Iterator[None]:
    """Raise Slow after LONGEST_S."""

    def late(signum, frame):
        raise Slow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(target: Target, path: Path, expected: bytes) -> str:
    """ "equal", "refused", for a kind without checksum "other", or what is wrong, after "FAILED: "."""
    from harmonica.utils import UserError

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = content(target.read(path))
        said = "equal" if found == expected else "FAILED: other content" if target.exact else "other"
    except UserError as e:
        text = str(e).strip()
        said = "refused" if text and "\n" not in text else f"FAILED: not a sentence: {text[:200]!r}"
    except Slow:
        said = f"FAILED: more than {LONGEST_S:g} s"
    except Exception as e:
        said = f"FAILED: {type(e).__name__}: {str(e)[:200]}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    return said if grown < LARGEST else f"FAILED: {grown / 2**30:.1f} GiB"


def fuzz(cases: int, seed: int, only: str = "", keep: Path | None = None) -> dict[str, Counter]:
    """Outcomes by kind of file, `cases` in all; a failed file is written to the folder `keep`."""
    found: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = targets(folder)
        originals, expected = {}, {}
        for target in kinds:
            path = folder / "files" / target.name
            path.parent.mkdir(parents=True, exist_ok=True)
            target.write(path)
            originals[target.name], expected[target.name] = path.read_bytes(), content(target.read(path))
        everything = list(originals.values())
        kind, _, number = only.partition(":")
        share = {t.name: cases // len(kinds) + (i < cases % len(kinds)) for i, t in enumerate(kinds)}
        for i, target in enumerate(kinds):
            name, path = target.name.split("/")[0], folder / "files" / target.name
            if kind not in ("", name):
                continue
            counts = found.setdefault(name, Counter())
            for case in [int(number)] if number else range(cases if kind else share[target.name]):
                rng, original = np.random.default_rng([seed, i, case]), originals[target.name]
                by_value = name == "configuration" and case % 2
                data = restructured(original, rng) if by_value else mutated(original, everything, rng)
                path.write_bytes(data)
                said = outcome(target, path, expected[target.name])
                counts[said.split(":")[0]] += 1
                if said.startswith("FAILED"):
                    print(f"{name}:{case} (seed {seed}): {said}", file=sys.stderr)
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{name}-{case}").write_bytes(data)
            path.write_bytes(originals[target.name])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="KIND, or one case: KIND:NUMBER")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    args = parser.parse_args()
    started = time.perf_counter()
    found = fuzz(args.cases, args.seed, args.only, args.keep)
    columns = ("equal", "refused", "other", "FAILED")
    print("| file | cases | " + " | ".join(columns) + " |\n|---|" + "---|" * 5)
    for name, counts in found.items():
        print(f"| {name} | {sum(counts.values())} | " + " | ".join(str(counts[c]) for c in columns) + " |")
    total = sum(found.values(), Counter())
    print(json.dumps({"cases": sum(total.values()), **total, "seconds": round(time.perf_counter() - started)}))
    return bool(total["FAILED"])


if __name__ == "__main__":
    sys.exit(main())
