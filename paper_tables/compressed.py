"""What tables with compressions say below their title."""

import pandas as pd

from paper_tables.published import table


def full_precision() -> list[str]:
    """What the columns of size and bits are."""
    return [
        "Size: bytes of the file with all of the denoiser's weights (10⁶), of the uncompressed model 4 bytes a weight; "
        "*FP32 ÷ size* and *FP16 ÷ size* are against its weights in either. *Bit op. ×*: bit operations (MACs × bits "
        "of the weight × bits of the activation; 32 where a product is one of floats) of the uncompressed row over the "
        "row's. Real × is what this device does: integers are quantised and scaled by separate operations, not fused "
        "kernels. *Compression s* includes calibration and training. FID to uncached compares with the uncached and "
        "uncompressed images. A row *compression + method* has its router trained on the compressed model, teacher and "
        "student."
    ]


def beside(method: str) -> list[str]:
    """A method's own published rows, of other protocols, beside the number that the paper prints for it."""
    rows, printed = table("sources_quantization"), table("table4_pruning_quantization")
    own = rows[rows.method == method]
    if own.empty:
        return []
    (fid,) = printed[printed.method == method].FID
    full = rows[rows.method == "full"].set_index(["sampler", "steps"]).FID
    parts = [
        f"{r.bits} at {r.steps} {r['sampler']} steps {r.FID:g} (full precision {full[r['sampler'], r.steps]:g}; "
        f"{r.images} images, {r.source})"
        for _, r in own.iterrows()
    ]
    return [
        f"The paper prints FID {fid:g} for {method} on DiT-XL/2 256 at 20 DDIM steps. FIDs of {method} on that model "
        f"from elsewhere, of other protocols: {'; '.join(parts)}."
    ]


def interaction(rows: pd.DataFrame) -> list[str]:
    """Whether the errors of a compression and of a cache add up."""
    text = (
        "*Interaction*: FID to uncached of a compression with a cache, less that of the compression and that of the "
        "cache by themselves. Above 0, the two together change images by more than their sum; below 0, by less."
    )
    if "interaction" not in rows:
        return [text]
    found = rows[rows.interaction.notna()]
    verdicts = []
    for _, row in found.iterrows():
        low, high = row.interaction_low, row.interaction_high
        what = "more than their sum" if low > 0 else "less than their sum" if high < 0 else "undecided"
        verdicts.append(
            f"- case {row.case}, {row.method}: **{what}** ({row.interaction:+.3g}, {low:+.3g} … {high:+.3g})"
        )
    return [text + " Do quantisation and caching add up?\n\n" + "\n".join(verdicts)] if verdicts else [text]
