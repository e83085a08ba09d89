"""Whatever bytes, headers and settings come: they are read as they are, or refused by the one error that is meant."""

import gzip
import json
import pickle
import struct

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seglens.cohorts.volumes import VolumeError, read_volume
from seglens.foreign.arrays import ArrayError, parse_npy
from seglens.foreign.pickles import read_pickle
from seglens.foreign.tensors import ITEM_BYTES, WeightsError, check_safetensors
from seglens.foreign.yaml_text import MAX_DEPTH, YamlError, parse_yaml
from seglens.studies.settings import SettingsError, StudySettings

KINDS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@quick
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    kind=st.sampled_from(KINDS),
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    sizes=st.tuples(*[st.floats(0.1, 10)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    packed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_sound_volume_is_read_as_nibabel_reads_it(  # noqa: PLR0917
    tmp_path, shape, kind, order, flips, sizes, origin, packed, seed
):
    data = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    assume(data.min() < data.max())
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[order] * np.array(flips)[:, None] * np.array(sizes)
    affine[:3, 3] = origin
    image = nibabel.Nifti1Image(data, affine)
    path = tmp_path / "a.nii"
    path.write_bytes(gzip.compress(image.to_bytes(), 1) if packed else image.to_bytes())
    read, theirs = read_volume(path), nibabel.as_closest_canonical(image)
    assert np.array_equal(read.data, theirs.get_fdata(dtype=np.float32))
    assert np.allclose(read.affine, theirs.affine, atol=1e-4)
    assert np.allclose(read.spacing_mm, theirs.header.get_zooms(), rtol=1e-4)


@quick
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_a_volume_with_any_header_is_read_or_refused(tmp_path, changes):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    content = bytearray(image.to_bytes())
    for place, new in changes:
        content[place : place + len(new)] = new
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    try:
        volume = read_volume(path, max_bytes=2**20)
    except VolumeError as error:
        assert error.code
        assert str(path) in str(error)
    else:
        assert np.isfinite(volume.data).all()
        assert np.isfinite(volume.affine).all()
        assert min(volume.spacing_mm) > 0


@quick
@given(
    values=arrays.arrays(st.sampled_from(KINDS), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    protocol=st.integers(0, 5),
    turned=st.booleans(),
)
def test_any_array_is_the_same_after_pickle_and_npy(tmp_path, values, protocol, turned):
    values = np.asfortranarray(values.T) if turned else values
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps((values, [values, {"a": values}]), protocol))
    first, (second, third) = read_pickle(path)
    np.save(tmp_path / "a.npy", values)
    for read in (first, second, third["a"], parse_npy((tmp_path / "a.npy").read_bytes(), "a")):
        assert np.array_equal(read, values, equal_nan=values.dtype.kind == "f")
        assert (read.dtype, read.shape) == (values.dtype, values.shape)


@quick
@given(content=st.binary(max_size=300), head=st.sampled_from([b"", b"\x80\x04", b"(", b"\x93NUMPY\x01\x00", b"]"]))
def test_any_bytes_are_arrays_or_refused(tmp_path, content, head):
    path = tmp_path / "a.pkl"
    path.write_bytes(head + content)
    for read in (lambda: read_pickle(path), lambda: parse_npy(head + content, "a")):
        try:
            read()
        except ArrayError as error:
            assert len(str(error)) < 1000


@quick
@given(
    entries=st.lists(
        st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=4
    ),
    shift=st.integers(-2, 2),
    which=st.integers(0, 3),
    longer=st.integers(-3, 3),
)
def test_a_safetensors_header_is_sound_or_refused(tmp_path, entries, shift, which, longer):
    header, end = {}, 0
    for number, (kind, shape) in enumerate(entries):
        begin, end = end, end + ITEM_BYTES[kind] * int(np.prod(shape, dtype=int))
        header[str(number)] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    sound = longer == 0 and (shift == 0 or which >= len(entries))
    if which < len(entries):
        header[str(which)]["data_offsets"][0] += shift
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(max(0, end + longer)))
    if sound:
        check_safetensors(path)
    elif end + longer >= 0:
        with pytest.raises(WeightsError):
            check_safetensors(path)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=15,
)


@quick
@given(content=plain)
def test_yaml_of_plain_values_is_read_as_it_was_written(content):
    parsed = parse_yaml(yaml.safe_dump(content, allow_unicode=True))
    assert parsed.content == content
    assert all(line >= 1 and len(place) <= MAX_DEPTH for place, line in parsed.lines.items())


@quick
@given(text=st.text("abc:-[]{}&*<>!?|#'\"% \n\t01.,~=\\é", max_size=60))
def test_any_text_is_a_study_or_refused(tmp_path, text):
    try:
        parse_yaml(text)
    except YamlError as error:
        assert str(error)
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"study\.yaml"):
        StudySettings.read(path)


@quick
@given(
    place=st.sampled_from(
        ["size", "seed", "tau", "name", "sequences", "cohorts", "segmenters", "dictionaries", "store"]
    ),
    value=plain,
)
def test_any_value_of_a_setting_is_kept_or_refused(place, value):
    content = {
        "sequences": ["T1c"],
        "cohorts": {"adult": {"phantom": {"population": "adult"}}},
        "segmenters": {"adult": {"cohort": "adult"}},
    }
    try:
        read = StudySettings.parse(content | {place: value}, "study.yaml")
    except SettingsError as error:
        assert place in str(error) or "the file" in str(error)
    else:
        again = read.model_dump(mode="json")
        assert StudySettings.parse(again, "again") == read
        if place in ("size", "seed", "tau"):
            assert again[place] == value
            assert not isinstance(value, bool)
