"""Caption lists, their embeddings on disk, and the CLIP score."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harmonica.evaluation.distances import clip_score
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.clip import Clip
from harmonica.evaluation.references import folder_reference
from harmonica.execution import Plain
from harmonica.models import embeddings, get_model, loading, spec
from harmonica.models.captions import CaptionList, read_captions, write_coco
from harmonica.models.embeddings import EmbeddedCaptions, embed, embedded
from harmonica.models.spec import embeddings_folder
from harmonica.utils.errors import UserError
from harmonica.utils.files import file_hash

TEXTS = ["a", *(f"caption {i}" for i in range(1, 7)), "of no use"]


@dataclass
class Fake:
    """A model whose text encoder writes a caption's length in its real tokens, of which it has at most 3 and at least
    one, and NaN in the others; it counts how often it was loaded."""

    captions: CaptionList
    text_tokens: int = 3
    text_encoder_fingerprint: str = "fake"
    hub: bool = False
    loads: list[int] = field(default_factory=list)

    def load_text_encoder(self):
        self.loads.append(1)

        def encode(texts):
            lengths = torch.tensor([float(len(t)) for t in texts], dtype=torch.float16)
            mask = torch.arange(3) < lengths.clamp(1)[:, None]
            return lengths[:, None, None].expand(-1, 3, 2).masked_fill(~mask[..., None], torch.nan), mask.long()

        return encode


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setenv("HARMONICA_WEIGHTS", str(tmp_path))
    for module in (embeddings, spec):
        monkeypatch.setattr(module, "SHARD", 3)
        monkeypatch.setattr(module, "TRAINING_CAPTIONS", 2)
    monkeypatch.setattr(loading, "load_text_encoder", Fake.load_text_encoder)
    (tmp_path / "list.txt").write_text("\n".join(TEXTS) + "\n")
    return Fake(CaptionList("list", "list.txt", 5))


def test_embeddings_are_read_row_by_row(fake):
    rows = EmbeddedCaptions(embed(fake), 5)
    assert rows.count == 5 and rows.null == 7 and rows.training == range(5, 7)
    e, mask = rows(torch.tensor([6, 7, 0, 7]))  # 7 is the null prompt, ""
    assert e.dtype == torch.float16 and mask.dtype == torch.long
    assert e[..., 1].tolist() == [[9, 9, 9], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_only_what_is_read_is_stored(fake):
    """Two of the three captions that are not for images, and no padding."""
    stored = [load_file(p) for p in sorted(embed(fake).glob("*.safetensors"))]
    assert [x["lengths"].tolist() for x in stored] == [[1, 3, 3], [3, 3, 3], [3, 1]]
    assert [tuple(x["tokens"].shape) for x in stored] == [(7, 2), (9, 2), (4, 2)]


def test_a_list_with_fewer_captions_for_training(fake, monkeypatch):
    monkeypatch.setattr(embeddings, "TRAINING_CAPTIONS", 100)
    assert EmbeddedCaptions(embed(fake), 5).training == range(5, 8)


def test_padding_does_not_matter():
    """The shipped model computes the same from rows padded by the text encoder, and from those on disk."""
    model = get_model("pocket-pixart")
    backbone, rows = loading.load_backbone(model), embedded(model)
    texts, labels = model.captions.read(), torch.tensor([0, 5, 17, 399, 400, 3785])
    padded, mask = loading.load_text_encoder(model)([texts[k] for k in labels])
    stored, stored_mask = rows(labels)
    zeros = padded * mask[..., None]
    assert rows.training == range(400, 3786) and torch.equal(mask, stored_mask) and not torch.equal(padded, zeros)
    torch.testing.assert_close(stored, zeros, atol=1e-5, rtol=1e-4)
    x = torch.randn(len(labels), *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    outputs = [Plain(backbone).evaluate(backbone, x, 500, backbone.read(e, mask)) for e in (padded, zeros)]
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)


def test_only_what_is_missing_is_embedded(fake):
    folder = embed(fake)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert len(before) == 3 and embed(fake) == folder and len(fake.loads) == 1
    lost = folder / "00001.safetensors"
    lost.unlink()
    embed(fake)
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert {p for p in before if before[p] != after[p]} == {lost}


def test_other_content_is_another_folder(fake, tmp_path, monkeypatch):
    first = embeddings_folder(fake)
    (tmp_path / "list.txt").write_text("\n".join(["new", *TEXTS]) + "\n")
    again = Fake(CaptionList("list", "list.txt", 5))
    longer = Fake(CaptionList("list", "list.txt", 5), text_tokens=4)
    found = {first, *(embeddings_folder(m) for m in (again, longer))}
    monkeypatch.setattr(spec, "TRAINING_CAPTIONS", 3)
    assert len({*found, embeddings_folder(longer)}) == 4


def test_a_row_that_ends_early(tmp_path):
    (tmp_path / "a.csv").write_text("id,caption\n1,a red heart\n2\n")
    with pytest.raises(UserError, match="a.csv has no caption in row 2"):
        read_captions(tmp_path / "a.csv")


def test_lists_that_are_wrong(fake, tmp_path):
    with pytest.raises(UserError, match="is missing: see `harmonica captions --help`"):
        CaptionList("coco", "coco.txt", 5).read()
    with pytest.raises(UserError, match="8 captions: 8 are for tables, none is left to train with"):
        CaptionList("list", "list.txt", 8).read()
    path = tmp_path / "list.txt"
    assert CaptionList("list", "list.txt", 5, file_hash(path)).read() == TEXTS
    with pytest.raises(UserError, match="is not the list list: its sha256 begins with"):
        CaptionList("list", "list.txt", 5, "0" * 64).read()


def test_damaged_embeddings(fake, tmp_path):
    folder = embed(fake)
    shard = folder / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(UserError, match="is damaged"):
        EmbeddedCaptions(folder, 5)(torch.tensor([0]))
    with pytest.raises(UserError, match="does not contain embedded captions"):
        EmbeddedCaptions(tmp_path, 5)


def test_coco(tmp_path):
    """One caption an image first, the one of the lowest id; the order is the same every time."""
    found = [{"image_id": i % 6, "id": 100 - i, "caption": f" {i}\n{i % 6} "} for i in range(20)]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": found}))
    assert write_coco(tmp_path / "a.json", tmp_path / "a.txt") == 20
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert sorted(lines[:6]) == sorted(f"{i} {i % 6}" for i in range(14, 20)) and len(set(lines)) == 20
    write_coco(tmp_path / "a.json", tmp_path / "b.txt")
    assert file_hash(tmp_path / "a.txt") == file_hash(tmp_path / "b.txt")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="is not COCO's file of captions"):
        write_coco(tmp_path / "a.json", tmp_path / "c.txt")


def test_the_clip_score_of_a_random_model():
    """By open_clip's own calls on one picture at a time; negative cosines count as zero."""
    from PIL import Image

    torch.manual_seed(0)
    clip = Clip("RN50")
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    asked = ["a red heart", "a star", "a red heart"]
    expected = []
    with torch.inference_mode():
        for picture, text in zip(images, asked, strict=True):
            f = clip.net.encode_image(clip.prepare(Image.fromarray(picture))[None])[0]
            t = clip.net.encode_text(clip.tokenize([text]))[0]
            expected.append(float(torch.cosine_similarity(f, t, 0)))
    np.testing.assert_allclose(clip.cosines(images, asked, batch=2), expected, atol=1e-5)
    assert clip_score(np.array([0.5, -0.3])) == 25


def test_a_model_open_clip_does_not_have():
    with pytest.raises(UserError, match="open_clip cannot load ViT-X/openai"):
        Clip("ViT-X", "openai")


def test_reference_of_a_folder(tmp_path):
    """Pictures of other shapes, cropped in the middle; features of a network that gives their mean colours."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(5):
        picture = np.zeros((40, 20 + 40 * k, 3), np.uint8)
        middle = slice(picture.shape[1] // 2 - 10, picture.shape[1] // 2 + 10)
        picture[10:30, middle] = rng.integers(0, 256, 3)
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "deep" / f"{k}.png")

    def centre(images):
        assert images.shape[1:] == (16, 16, 3)
        colour = images[:, 8, 8].astype(float)
        return Features(colour, colour, colour)

    made = folder_reference(tmp_path, centre, 16, "a network", "colours", chunk=2)
    colours = [np.asarray(Image.open(p))[20, Image.open(p).width // 2] for p in sorted(tmp_path.rglob("*.png"))]
    np.testing.assert_allclose(made.pooled.mu, np.mean(colours, 0), atol=1)
    assert made.features.shape == (5, 3)

    def damaged(images):
        return Features(*3 * [np.full((len(images), 3), np.nan)])

    with pytest.raises(UserError, match="features of a network are not finite: no reference was written"):
        folder_reference(tmp_path, damaged, 16, "a network", "colours").save(tmp_path / "reference.npz")
    assert not (tmp_path / "reference.npz").exists()
    with pytest.raises(UserError, match="none has 0 pictures"):
        folder_reference(tmp_path / "none", centre, 16, "a network", "colours")


@pytest.mark.parametrize("name", ["c.txt", "c.csv"])
def test_captions_of_other_editors(tmp_path, name):
    """A byte-order mark is no part of the first caption, a separator of lines within one does not end it."""
    lines = ["a heart", "one\u2028two", "naïve"] + [f"caption {k}" for k in range(3)]
    head = "caption\r\n" if name.endswith("csv") else ""
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (head + "\r\n".join(lines) + "\r\n").encode())
    assert CaptionList("c", str(tmp_path / name), 2).read() == lines
    (tmp_path / name).write_bytes("caption\nfünf\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        CaptionList("c", str(tmp_path / name), 0).read()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"caption": "a"}\n', "is not a list of captions"),
        ("a.TSV", "id\tcaption\n", "is not a list of captions"),
        ("a.csv", "id,caption\n1,a heart\n2,\n", "no caption in row 2"),
    ],
)
def test_other_forms_of_captions_are_refused(tmp_path, name, text, says):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=says):
        read_captions(tmp_path / name)


def test_a_suffix_counts_in_any_case(tmp_path):
    (tmp_path / "a.CSV").write_text("id,caption\n1,a heart\n", "utf-8")
    assert read_captions(tmp_path / "a.CSV") == ["a heart"]
