"""The guidance scale at which a model's images are closest to real ones. A table should be made there: past it the
images vary less than real ones, so that any disturbance adds variety and improves the FID."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from harmonica.evaluation import generate
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.metrics import METRICS, Evidence
from harmonica.evaluation.references import Reference
from harmonica.evaluation.statistics import Estimate, block_means
from harmonica.experiments import Experiment

CHUNK = 500  # images whose features are computed together


def scan(
    model: str,
    sampler: str,
    steps: int,
    scales: Sequence[float],
    images: int,
    extract: Callable[[np.ndarray], Features],
    reference: Reference,
    seed: int = 0,
) -> Iterator[dict[str, float | str | int]]:
    """One row per guidance scale, all from the same noise and labels: FID with its 95 % interval, and the IS.

    Raises UserError for a wrong name, scale or number.
    """
    experiments = [Experiment.of(model, sampler, steps, cfg, "full", {}) for cfg in scales]
    parts, fid = generate.load_parts(model), METRICS["FID"]
    for e in experiments:
        pictures, _ = generate.in_memory(e.make()[0], images, parts, seed=seed)
        features = Features.join(extract(pictures[i : i + CHUNK]) for i in range(0, images, CHUNK))
        evidence = Evidence(features, reference)
        value = fid.function(evidence)
        assert fid.influence is not None
        low, high = Estimate(value, block_means(fid.influence(evidence))).interval()
        yield {
            "model": model, "sampler": sampler, "steps": steps, "cfg": e.protocol.cfg, "FID": value, "FID_low": low,
            "FID_high": high, "IS": METRICS["IS"].function(evidence), "images": images,
        }  # fmt: skip
