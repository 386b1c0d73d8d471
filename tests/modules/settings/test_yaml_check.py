"""Configurations of unknown origin: each is read, or refused in one line that names it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from modules.config import load_config

HOSTILE = {
    "name: ${oc.env:HOME}": "line 1 has an interpolation",
    "data:\n  root: [a, '${oc.env:HOME}']": "line 2 has an interpolation",
    "train: {monitor: \"x${name}\"}": "has an interpolation",
    "${oc.env:HOME}: 1": "has an interpolation",
    "[" * 5000: "nested more than 20 levels deep",
    "data:" + " {a:" * 5000: "nested more than 20 levels deep",
    "seed: " + "9" * 5000: "has a number of 5000 digits",
    "data: &a {root: x}\nmodel: *a": "repeats a part by an alias",
    "seed: 4611686018427387904": "seed=4.61e+18: must be at most",
    "data: {image_size: 4611686018427387904}": "data.image_size=4.61e+18: must be at most 8192",
    "model: {width: 100000000}": "model.width=1e+08: must be at most",
    "model: {decoder_layers: 1000000}": "model.decoder_layers=1e+06: must be at most",
    "name: " + "x" * (1 << 21): "too many for a configuration",
    "seed: .inf": "seed",
    "seed: !!python/object/apply:os.system [x]": "hostile.yaml",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_hostile_files_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert HOSTILE[text] in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("override", [
    "name=${oc.env:HOME}", "data.root=[${name}]", "seed=" + "9" * 5000, "seed=" + "[" * 99,
])  # fmt: skip
def test_hostile_arguments_are_refused_in_one_line(override):
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        load_config(path)
    except UserError as error:
        assert "\n" not in str(error)
