"""Atomic writes, and hashes that change with what they are of."""

import os

import pytest

from harmonica.utils import content_hash, file_hash, source_hash, write_atomic, write_json


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "first")
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(path, "second")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_hashes_change_with_name_and_content(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_json(a, [1])
    write_json(b, [1])
    assert file_hash(a) == file_hash(b) and content_hash(a) != content_hash(b)
    assert content_hash(a, b) == content_hash(b, a)
    before = content_hash(a)
    write_json(a, [2])
    assert content_hash(a) != before


def test_a_source_hash_is_of_whole_packages(tmp_path):
    outside = tmp_path / "baseline.py"
    outside.write_text("x = 1")
    assert len({source_hash("plan"), source_hash("plan", "samplers"), source_hash("plan", str(outside))}) == 3
    assert source_hash("plan", "samplers") == source_hash("samplers", "plan")
    before = source_hash("plan", str(outside))
    outside.write_text("x = 2")
    assert source_hash("plan", str(outside)) == before  # a process keeps what it first found
    source_hash.cache_clear()
    assert source_hash("plan", str(outside)) != before
