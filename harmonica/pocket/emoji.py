"""Noto emoji and their names: pictures of 32×32 on white, captions, and how the captions were made."""

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonica.models.catalog import TEXT_TO_IMAGE
from harmonica.utils import UserError, write_atomic

CAPTIONS = TEXT_TO_IMAGE / "captions.csv"
HELD_OUT = 400  # the first captions of the file; no model was trained on them or on their pictures
SIDE = 32
_HUES = ((14, "red"), (40, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (340, "pink"),
         (361, "red"))  # fmt: skip
COLOURS = {"brown", "grey", "white", "black"} | {name for _, name in _HUES}


@dataclass(frozen=True)
class Caption:
    image: str  # file name
    caption: str
    colour: str  # the main one, if there is one and the caption does not name it; else empty
    group: str  # Unicode's subgroup ("heart", "food-fruit"), the classifier's classes
    base: str  # the emoji without skin tones


def read_captions(path: Path = CAPTIONS) -> list[Caption]:
    """All captions in the file's order, which is a pseudo-random one. Raises UserError if it is another file."""
    try:
        return [Caption(**row) for row in csv.DictReader(io.StringIO(path.read_text("utf-8")))]
    except (OSError, TypeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not a file of captions ({type(e).__name__}: {e})") from None


def read_images(package: Path, captions: list[Caption]) -> np.ndarray:
    """Pictures uint8 (n, 32, 32, 3) of the captions from the unpacked npm package emoji-datasource-google 16."""
    folder = package / "img" / "google" / "64"
    lacking = [c.image for c in captions if not (folder / c.image).is_file()]
    if lacking:
        raise UserError(
            f"{folder / lacking[0]} is missing: pass the folder of the unpacked npm package "
            "emoji-datasource-google 16.0.0"
        )
    return np.stack([_picture(folder / c.image) for c in captions])


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as f:
        picture = f.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(
        Image.alpha_composite(white, picture).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    )


def make_captions(package: Path, path: Path = CAPTIONS) -> None:
    """Write the caption file from the package's list of emoji and the CLDR short names in the PyPI package `emoji`.

    The order is that of the captions' sha256, so that any first n captions are a fair sample.
    """
    from emoji import EMOJI_DATA

    rows = []
    for about in json.loads((package / "emoji.json").read_text("utf-8")):
        for one in [about, *about.get("skin_variations", {}).values()]:
            character = "".join(chr(int(x, 16)) for x in one["unified"].split("-"))
            known = next(EMOJI_DATA[c] for c in (character, character.replace("\ufe0f", "")) if c in EMOJI_DATA)
            name = known["en"].strip(":").replace("_", " ").replace("’", "'").lower()
            if about["subcategory"].endswith("flag") and "flag" not in name:
                name = f"flag of {name}"
            colour = _colour(package / "img" / "google" / "64" / one["image"])
            said = COLOURS & set(name.split())
            if about["category"] in ("People & Body", "Flags") or said:
                colour = ""
            rows.append(Caption(one["image"], name, colour, about["subcategory"], about["image"]))
    rows.sort(key=lambda c: hashlib.sha256(c.caption.encode()).hexdigest())
    out = io.StringIO()
    writer = csv.DictWriter(out, [f for f in Caption.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    writer.writerows(c.__dict__ for c in rows)
    write_atomic(path, out.getvalue())


def _colour(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as f:
        pixels = np.asarray(f.convert("RGBA")).reshape(-1, 4)
    return main_colour(pixels[pixels[:, 3] > 128, :3])


def main_colour(pixels: np.ndarray) -> str:
    """The colour of at least 60 % of the pixels uint8 (n, 3), or an empty string."""
    solid = pixels.astype(float) / 255
    if not len(solid):
        return ""
    top, low = solid.max(1), solid.min(1)
    spread = np.maximum(top - low, 1e-9)
    r, g, b = solid.T
    hue = np.where(top == r, (g - b) / spread % 6, np.where(top == g, (b - r) / spread + 2, (r - g) / spread + 4)) * 60
    names = np.array([name for _, name in _HUES])[np.searchsorted([limit for limit, _ in _HUES], hue, side="right")]
    names[(top < 0.55) & (names == "orange")] = "brown"
    names[top - low < 0.12] = "grey"
    names[(top - low < 0.12) & (top > 0.85)] = "white"
    names[top < 0.25] = "black"
    found, counts = np.unique(names, return_counts=True)
    return str(found[counts.argmax()]) if counts.max() >= 0.6 * len(names) else ""
