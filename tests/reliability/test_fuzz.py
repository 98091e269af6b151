"""A short run of the fuzzer; docs/reliability.md has the long one."""

from fuzz import Target, content, fuzz, outcome


def test_damaged_files_are_refused_or_read_as_they_were(capsys):
    found = fuzz(400, seed=7)
    assert len(found) == 23 and sum(sum(counts.values()) for counts in found.values()) == 400
    assert not any(counts["FAILED"] for counts in found.values()), capsys.readouterr().err


def test_the_fuzzer_sees_what_it_looks_for(tmp_path):
    """A reader without a checksum gives other content in silence, another raises what nobody expects."""
    path, silent = tmp_path / "x", Target("x", lambda p: p.write_bytes(b"abc"), lambda p: p.read_bytes())
    silent.write(path)
    expected = content(silent.read(path))
    assert outcome(silent, path, expected) == "equal"
    path.write_bytes(b"abd")
    assert outcome(silent, path, expected) == "FAILED: other content"
    broken = Target("x", silent.write, lambda p: {}[p.read_bytes()])
    assert outcome(broken, path, expected).startswith("FAILED: KeyError")
