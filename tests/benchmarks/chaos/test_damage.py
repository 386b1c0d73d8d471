"""Damaging files: drawn from the seed, and always a change."""

import numpy as np
import pytest

from benchmarks.chaos.damage import DAMAGES, damage_file


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_depends_on_the_seed_only(damage):
    content = bytes(range(1, 256)) * 4
    results = [[damage(content, np.random.default_rng(seed)) for seed in range(8)] for _ in range(2)]
    assert results[0] == results[1] and len(set(results[0])) > 4 and content not in results[0]
    assert isinstance(damage(b"", np.random.default_rng(0)), bytes)


def test_a_file_is_damaged_removed_or_keeps_its_time(tmp_path):
    path, kinds = tmp_path / "file", set()
    for seed in range(60):
        path.write_bytes(b"content" * 20)
        before = path.stat().st_mtime_ns
        what = damage_file(path, np.random.default_rng(seed))
        assert what.startswith("file")
        kinds.add("removed" if not path.exists() else path.stat().st_mtime_ns == before)
    assert kinds == {"removed", True, False}
