"""The pocket scale: small real models, shipped in the package, and the recipes that made them."""

from pathlib import Path

HERE = Path(__file__).parent
CLASS_CONDITIONAL = HERE / "fashion-mnist"
TEXT_TO_IMAGE = HERE / "noto-emoji"
LONG_SKIPS = HERE / "fashion-mnist-uvit"
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
