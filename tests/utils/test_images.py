"""Pictures of every mode are read as what they show, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from harmonica.utils.errors import UserError
from harmonica.utils.images import pictures_in, read_picture

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)


def read(picture, path):
    picture.save(path)
    return np.asarray(read_picture(path)).astype(int)


def test_sixteen_bits_are_scaled(tmp_path):
    """Pillow's own conversion clips at 255: all white."""
    found = read(Image.fromarray(GREY.astype(np.uint16) * 257), tmp_path / "a.png")
    assert (found == GREY[..., None]).all()


def test_a_transparent_grey_of_sixteen_bits(tmp_path):
    grey = GREY.astype(np.uint16) * 257
    own = Image.fromarray(grey)
    own.save(tmp_path / "a.png", transparency=int(grey[1, 1]))
    found = np.asarray(read_picture(tmp_path / "a.png")).astype(int)
    clear = grey == grey[1, 1]
    assert (found[clear] == 255).all() and (found[~clear] == GREY[..., None][~clear]).all()


def test_transparent_pixels_are_on_white(tmp_path):
    alpha = np.full((6, 7), 255, np.uint8)
    alpha[0] = 0
    found = read(Image.fromarray(np.dstack([RGB, alpha])), tmp_path / "a.png")
    assert (found[0] == 255).all() and (found[1:] == RGB[1:]).all()
    palette = Image.fromarray(RGB).quantize(8)
    palette.info["transparency"] = 3
    found = read(palette, tmp_path / "p.png")
    assert (found[np.asarray(palette) == 3] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_other_modes_lose_nothing(tmp_path, mode):
    picture = Image.fromarray(RGB).convert(mode)
    assert (read(picture, tmp_path / "a.png") == np.asarray(picture.convert("RGB"))).all()


def test_cmyk_is_converted(tmp_path):
    picture = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert abs(read(picture, tmp_path / "a.jpg") - [255, 0, 0]).max() < 8


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1", b"\x89PNG\r\n\x1a\n" + b"0" * 30]
)
def test_a_damaged_picture_is_named(tmp_path, content):
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(UserError, match="b.png is a damaged picture"):
        read_picture(tmp_path / "b.png")


def test_numbers_that_are_no_picture_are_refused(tmp_path):
    Image.fromarray(RNG.normal(size=(4, 4)).astype(np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(UserError, match="f.tiff has the mode F"):
        read_picture(tmp_path / "f.tiff")


def test_hidden_files_are_no_pictures(tmp_path):
    for name in (
        "b/1.png",
        "a/2.PNG",
        "0.jpg",
        ".hidden/3.png",
        "a/._2.png",
        "__MACOSX/4.png",
        "a/.ipynb_checkpoints/5.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in pictures_in(tmp_path)] == ["0.jpg", "a/2.PNG", "b/1.png"]
