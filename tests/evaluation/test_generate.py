import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import protocol

from harmonica.evaluation import evaluate, generate
from harmonica.evaluation.features.networks import get_extractor
from harmonica.evaluation.metrics import METRICS
from harmonica.evaluation.records import Manifest
from harmonica.evaluation.references import get_reference
from harmonica.execution.seeds import noise_and_labels
from harmonica.models import MODELS
from harmonica.plan import all_compute
from harmonica.utils import write_json
from harmonica.utils.errors import UserError

BRANCHES = len(MODELS["pocket-dit"].layout.branches)


def images_of(folder, images=6, chunk=4, batch=4, first=0):
    return generate.generate(all_compute(protocol(2), BRANCHES), folder, first, images, chunk, batch)


def test_image_k_does_not_depend_on_shard_or_batch(tmp_path):
    complete, labels = generate.read(images_of(tmp_path / "a", images=8, chunk=8, batch=8))
    parts = images_of(tmp_path / "b", images=5, chunk=3, batch=2) + images_of(
        tmp_path / "b", images=3, chunk=3, batch=1, first=5
    )
    again, labels_again = generate.read(parts)
    assert (labels == labels_again).all()
    assert (
        np.abs(complete.astype(int) - again).max() <= 1
    )  # products are blocked by batch size: the last bit may differ
    assert len({image.tobytes() for image in complete}) == 8


def test_every_seed_and_every_image_is_its_own():
    noise = [noise_and_labels(seed, first, 1, (4, 2, 2), 10)[0] for seed in (0, 1, 2) for first in (0, 1, 7)]
    assert len({x.numpy().tobytes() for x in noise}) == 9


def test_a_stopped_run_resumes(tmp_path, monkeypatch):
    calls, real = [], generate._batch

    def breaks(plan, parts, seed, first, *more):
        calls.append(first)
        if first == 4:
            raise KeyboardInterrupt
        return real(plan, parts, seed, first, *more)

    monkeypatch.setattr(generate, "_batch", breaks)
    with pytest.raises(KeyboardInterrupt):
        images_of(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["000000-000003.npz"]
    monkeypatch.setattr(generate, "_batch", real)
    kept = (tmp_path / "000000-000003.npz").stat().st_mtime_ns
    images, _ = generate.read(images_of(tmp_path))
    assert len(images) == 6 and (tmp_path / "000000-000003.npz").stat().st_mtime_ns == kept


def test_a_chunk_is_written_while_the_next_is_generated(tmp_path, monkeypatch):
    next_began, met = threading.Event(), []
    generating, writing = generate._batch, generate.write_npz

    def generates(plan, parts, seed, first, *more):
        if first == 4:
            next_began.set()
        return generating(plan, parts, seed, first, *more)

    def writes(path, arrays, **options):
        if arrays["first"] == 0:
            met.append(next_began.wait(60))
        writing(path, arrays, **options)

    monkeypatch.setattr(generate, "_batch", generates)
    monkeypatch.setattr(generate, "write_npz", writes)
    images, _ = generate.read(images_of(tmp_path))
    assert met == [True] and len(images) == 6


def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch):
    import errno
    import os

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        images_of(tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_missing_and_doubled_chunks(tmp_path):
    files = images_of(tmp_path, images=12)
    with pytest.raises(UserError, match="starts at image 8, but"):
        generate.read([files[0], files[2]])
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(UserError, match="not a complete chunk"):
        generate.read(files)


def test_the_folder_name_depends_on_everything_that_decides_the_pixels():
    plan = all_compute(protocol(2), BRANCHES)
    names = {generate.folder_name(p, "x", seed=k) for p in (plan, plan.with_protocol(cfg=2.0)) for k in (0, 1)}
    assert len(names) == 4 and generate.folder_name(plan.with_origin(method="other", seed=1), "x") in names


def measured(folder, keep=None, extractor="fashion-mnist-cnn", **sizes):
    extract = evaluate.extractor(extractor, get_extractor("fashion-mnist-cnn"))
    plan = all_compute(protocol(2), BRANCHES)
    return generate.generate(plan, folder, 0, 8, 4, 4, extract=extract, keep=keep, **sizes)


def test_images_are_dropped_after_their_features(tmp_path):
    """The metrics are those of the kept images, PSNR is over the images that are left, and nothing is generated
    twice."""
    reference = get_reference("fashion-mnist-cnn", None, MODELS["pocket-dit"])
    about, network = {"extractor": "fashion-mnist-cnn"}, get_extractor("fashion-mnist-cnn")
    extract = evaluate.extractor("fashion-mnist-cnn", network)
    every = measured(tmp_path / "all")
    some = measured(tmp_path / "some", keep=4)
    assert sorted(p.name for p in (tmp_path / "some").iterdir()) == [
        "000000-000003.features.npz", "000000-000003.npz", "000004-000007.features.npz",
    ]  # fmt: skip
    targets = evaluate.Targets(measured(tmp_path / "uncached"), converged=255 - generate.read(every)[0][:6])
    base = evaluate.gather("full", targets.uncached, targets, extract, reference, about)
    targets = replace(targets, base=base)
    a, b = (
        evaluate.results(evaluate.gather("x", files, targets, extract, reference, about)) for files in (every, some)
    )
    assert [(m.pop("N"), m.pop("N_pairs"), m.pop("N_converged")) for m in (a, b)] == [(8, 8, 6), (8, 4, 4)]
    assert a["PSNR"] == b["PSNR"] > 70 and a["SSIM"] == b["SSIM"] == 1 and a["PSNR_converged"] < 20
    of_all = [k for k, m in METRICS.items() if k in a and m.needs in ("features", "uncached", "labels")]
    assert len(of_all) == 9 and all(a[k] == b[k] and a["blocks"].get(k) == b["blocks"].get(k) for k in of_all)
    assert {"PSNR", "PSNR_converged"} & set(evaluate.results(base)) == {"PSNR_converged"}  # none to itself
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "some").iterdir()}
    assert measured(tmp_path / "some", keep=4) == some
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "some").iterdir()} == times
    with pytest.raises(UserError, match="were dropped after their features"):
        generate.read(some)
    with pytest.raises(UserError, match="dropped after features by fashion-mnist-cnn"):
        evaluate.gather("x", some, targets, extract, reference, {"extractor": "another"})


def test_features_of_another_network_are_not_used(tmp_path):
    """Features that say another network made them are computed again while there are images."""
    files = measured(tmp_path, extractor="another")
    about, extract = {"extractor": "fashion-mnist-cnn"}, get_extractor("fashion-mnist-cnn")
    own = evaluate.extractor("fashion-mnist-cnn", extract)
    reference, targets = get_reference("fashion-mnist-cnn", None, MODELS["pocket-dit"]), evaluate.Targets(files)
    assert evaluate.results(evaluate.gather("x", files, targets, own, reference, about))["N"] == 8


def test_a_damaged_file_of_features_is_made_again(tmp_path):
    files = measured(tmp_path, keep=4)
    features = generate.features_file(files[1])
    features.write_bytes(features.read_bytes()[:100])
    with pytest.raises(UserError, match="not a complete chunk"):
        list(generate.chunks(files))
    measured(tmp_path, keep=4)
    assert len(list(generate.chunks(files))) == 2


def test_images_cannot_be_dropped_without_features(tmp_path):
    with pytest.raises(UserError, match="only be dropped after their features"):
        generate.generate(all_compute(protocol(2), BRANCHES), tmp_path, 0, 4, 4, 4, keep=2)


def test_a_manifest_says_where_its_images_were_made(tmp_path):
    for k, precision in enumerate(("float32", "float16", "float32")):
        Manifest("x", precision, 0, {"row": "pocket-dit"}, {"row": [chunk(k)]}).save(tmp_path / f"{k}.json")
    paths = [tmp_path / f"{k}.json" for k in range(3)]
    found = Manifest.read(paths)
    assert found.files == {"row": [chunk(0), chunk(1), chunk(2)]} and found.model(["row"]) == "pocket-dit"
    assert [m["precision"] for m in found.made_on] == ["float32", "float16"]
    write_json(paths[0], {"device": "x", "precision": "float32", "images": {"row": [chunk(0)]}})
    with pytest.raises(UserError, match="0.json is not a manifest of images, or an older version wrote it"):
        Manifest.read(paths)
    Manifest("x", "float32", 0, {"row": "pocket-uvit"}, {"row": [chunk(0)]}).save(paths[0])
    with pytest.raises(UserError, match="images of the models pocket-dit, pocket-uvit are not measured together"):
        Manifest.read(paths).model(["row"])


def chunk(k: int) -> str:
    return f"a/{k:06d}-{k:06d}.npz"


def test_batches_fit_into_memory():
    plan = all_compute(protocol(2).__class__("dit-xl-2-256", "ddim", 2, 1.5), 56)
    assert generate.batch_size(plan, None, "float16", None) == generate.CPU_BATCH
    few, many = (generate.batch_size(plan, None, "float16", gib * 2**30) for gib in (2, 3))
    assert 0 < few < many <= generate.GPU_BATCH and generate.batch_size(plan, 3, "float16", 3 * 2**30) == 3
    with pytest.raises(UserError, match="one image of DiT-XL/2 needs 1.4 GiB under this plan, more than the 0.7 GiB"):
        generate.batch_size(plan, None, "float16", 2**30)


def test_features_of_a_network_that_was_trained_anew_are_not_used(tmp_path, monkeypatch):
    """It has the name that it had."""
    monkeypatch.setattr(evaluate, "fingerprint", lambda name: "another content")
    files = measured(tmp_path, keep=4)
    monkeypatch.undo()
    about, own = {"extractor": "fashion-mnist-cnn"}, evaluate.extractor("fashion-mnist-cnn", None)
    reference = get_reference("fashion-mnist-cnn", None, MODELS["pocket-dit"])
    with pytest.raises(UserError, match="the images of x were dropped after features by fashion-mnist-cnn"):
        evaluate.gather("x", files[1:], evaluate.Targets(files[1:]), own, reference, about)
