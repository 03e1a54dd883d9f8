"""Images in NPY and NPZ files."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from koopflow import datasets
from koopflow.exceptions import ArgumentError, DatasetError, DtypeError, NonFiniteError, ShapeError

from .image_bytes import COLOUR, LEVELS, NUMBERS, PLANES, assert_images, scaled


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        (LEVELS, {}, scaled(LEVELS)[:, None]),
        (LEVELS, {"layout": "NHW"}, scaled(LEVELS)[:, None]),
        (COLOUR, {}, scaled(PLANES)),
        (PLANES, {}, scaled(PLANES)),
        (np.asfortranarray(PLANES), {}, scaled(PLANES)),
        (COLOUR, {"layout": "NHWC"}, scaled(PLANES)),
        # Seven channels, because somebody says so.
        (COLOUR, {"layout": "NCHW"}, scaled(COLOUR)),
        (PLANES[:, :, :4, :3], {"layout": "NCHW"}, scaled(PLANES[:, :, :4, :3])),
        (LEVELS / 255.0, {}, scaled(LEVELS)[:, None]),
        (scaled(LEVELS).astype(np.float16), {"limits": (-1, 1)}, scaled(LEVELS).astype(np.float16)[:, None]),
        (scaled(LEVELS), {}, scaled(LEVELS)[:, None]),
        (LEVELS.astype(np.float32), {"limits": (0, 255)}, scaled(LEVELS)[:, None]),
        (LEVELS.astype(">i8"), {"limits": (0, 255)}, scaled(LEVELS)[:, None]),
        (LEVELS, {"limits": (0, 510)}, LEVELS[:, None] / 255.0 - 1.0),
        (LEVELS > 100, {}, np.where(LEVELS > 100, 1.0, -1.0)[:, None]),
    ],
)
def test_arrays_of_every_layout_and_scale(tmp_path, stored, options, expected):
    np.save(tmp_path / "some.npy", stored)
    np.savez_compressed(tmp_path / "some.npz", pixels=stored, names=np.array(["a", "b"]))
    for path in (tmp_path / "some.npy", tmp_path / "some.npz"):
        images, labels = datasets.arrays(path, **options)
        assert_images(images, expected)
        assert labels is None
        np.testing.assert_array_equal(datasets.images(path, **options)[0], images)


def test_archives_hold_labels(tmp_path):
    np.savez(tmp_path / "one.npz", pixels=LEVELS, numbers=NUMBERS)
    np.testing.assert_array_equal(datasets.arrays(tmp_path / "one.npz")[1], NUMBERS)
    several = {"x_train": LEVELS, "y_train": NUMBERS, "x_test": LEVELS[:2], "y_test": NUMBERS[:2]}
    np.savez(tmp_path / "several.npz", **several)
    images, labels = datasets.arrays(tmp_path / "several.npz", images="x_test", labels="y_test")
    assert_images(images, scaled(LEVELS[:2])[:, None])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, NUMBERS[:2])
    with pytest.raises(ArgumentError, match=r"images: expected a name, .*'x_train' \(5, 4, 3\)"):
        datasets.arrays(tmp_path / "several.npz")
    with pytest.raises(ArgumentError, match="labels: expected a name"):
        datasets.arrays(tmp_path / "several.npz", images="x_test")
    with pytest.raises(ArgumentError, match="images: expected one of the arrays .*, got 'x_valid'"):
        datasets.arrays(tmp_path / "several.npz", images="x_valid")
    with pytest.raises(DatasetError, match="expected 2 labels, one for each image of .*'x_test', got 5"):
        datasets.arrays(tmp_path / "several.npz", images="x_test", labels="y_train")
    with pytest.raises(ShapeError, match=r"'x_train': .* shape \(N,\) or \(N, 1\), got \(5, 4, 3\)"):
        datasets.arrays(tmp_path / "several.npz", images="x_test", labels="x_train")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_labels_may_be_a_column(tmp_path, dtype):
    np.savez(tmp_path / "keras.npz", x=LEVELS, y=NUMBERS[:, None].astype(dtype))
    for read in (datasets.arrays, datasets.images):
        labels = read(tmp_path / "keras.npz")[1]
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, NUMBERS)
    np.savez(tmp_path / "keras.npz", x=LEVELS, y=NUMBERS[:4, None])
    with pytest.raises(DatasetError, match="array 'y': expected 5 labels, .*, got 4"):
        datasets.arrays(tmp_path / "keras.npz")
    np.save(tmp_path / "images.npy", LEVELS)
    (tmp_path / "keras.npz").unlink()
    np.save(tmp_path / "labels.npy", NUMBERS[:, None])
    np.testing.assert_array_equal(datasets.images(tmp_path)[1], NUMBERS)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (NUMBERS.astype(np.float64), DtypeError, r"shape \(N,\) or \(N, 1\), got float64"),
        (NUMBERS[:, None].astype(np.float32), DtypeError, "got float32"),
        (np.array(list("abcde")), DtypeError, "got <U1"),
        (NUMBERS > 2, DtypeError, "got bool"),
        (np.eye(6, dtype=np.uint8)[NUMBERS], ShapeError, r"got \(5, 6\)"),
        (np.eye(6)[NUMBERS], ShapeError, r"got \(5, 6\)"),
    ],
)
def test_what_cannot_be_labels_is_named(tmp_path, labels, kind, message):
    file = tmp_path / "some.npz"
    np.savez(file, x=LEVELS, y=labels)
    for read in (datasets.arrays, datasets.images):
        with pytest.raises(kind, match=f"some.npz, array 'y': expected labels as integers .*{message}"):
            read(file)
    images, none = datasets.arrays(file, labels=False)
    assert_images(images, scaled(LEVELS)[:, None])
    assert none is None
    # Next to labels that are labels, and if there are not as many rows as images, it is something else.
    np.savez(file, x=LEVELS, y=labels, z=NUMBERS)
    np.testing.assert_array_equal(datasets.arrays(file)[1], NUMBERS)
    np.savez(file, x=LEVELS, y=labels[:4])
    assert datasets.arrays(file)[1] is None


def test_folders_are_joined_in_the_order_of_names(tmp_path):
    for name, part in (("b", LEVELS[2:]), ("a", LEVELS[:2])):
        np.save(tmp_path / f"{name}.npy", part)
    (tmp_path / "readme.txt").write_text("passed over")
    (tmp_path / ".hidden.npy").write_text("passed over")
    images, labels = datasets.arrays(tmp_path)
    assert_images(images, scaled(LEVELS)[:, None])
    assert labels is None
    np.save(tmp_path / "labels.npy", NUMBERS)
    np.testing.assert_array_equal(datasets.images(tmp_path)[1], NUMBERS)
    np.save(tmp_path / "labels.npy", NUMBERS[:3])
    with pytest.raises(DatasetError, match="labels.npy: expected 5 labels, .*, got 3"):
        datasets.arrays(tmp_path)
    np.save(tmp_path / "labels.npy", NUMBERS / 2)
    with pytest.raises(DtypeError, match="labels.npy: expected labels as integers .*, got float64"):
        datasets.arrays(tmp_path)


def test_folders_of_archives_join_labels(tmp_path):
    np.savez(tmp_path / "1.npz", x=LEVELS[:2], y=NUMBERS[:2])
    np.savez(tmp_path / "2.npz", x=LEVELS[2:], y=NUMBERS[2:])
    images, labels = datasets.arrays(tmp_path)
    assert_images(images, scaled(LEVELS)[:, None])
    np.testing.assert_array_equal(labels, NUMBERS)
    np.save(tmp_path / "labels.npy", NUMBERS)
    with pytest.raises(DatasetError, match="labels.npy: expected labels there or in .*, got both"):
        datasets.arrays(tmp_path)
    (tmp_path / "labels.npy").unlink()
    np.savez(tmp_path / "3.npz", x=LEVELS)
    with pytest.raises(DatasetError, match="3.npz: expected labels in all files .*, got only some"):
        datasets.arrays(tmp_path)


def test_scales_are_those_of_all_files(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4)))
    np.save(tmp_path / "b.npy", np.full((2, 4, 4), -1.0))
    np.testing.assert_array_equal(datasets.arrays(tmp_path)[0][:, 0, 0, 0], [0, 0, -1, -1])
    np.save(tmp_path / "b.npy", np.zeros((2, 4, 5)))
    with pytest.raises(ShapeError, match=r"b.npy: expected .* \(1, 4, 4\) as in .*a.npy, got \(1, 4, 5\)"):
        datasets.arrays(tmp_path)
    np.save(tmp_path / "b.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DtypeError, match=r"b.npy: expected float64 as in .*a.npy, got uint8"):
        datasets.arrays(tmp_path)


@pytest.mark.parametrize(
    ("stored", "options", "kind", "message"),
    [
        (np.zeros((5, 64)), {}, ShapeError, r"expected shape \(N, H, W\), .*, got \(5, 64\)"),
        (np.zeros((5, 3, 8, 3)), {}, ShapeError, r"layout, 'NCHW' or 'NHWC', .* could be either"),
        (np.zeros((5, 8, 8, 8)), {}, ShapeError, r"layout, 'NCHW' or 'NHWC', .* shows no channels"),
        (np.zeros((5, 8, 8)), {"layout": "NCHW"}, ShapeError, "expected 4 dimensions for layout NCHW"),
        (np.zeros((5, 8, 8, 1)), {"layout": "NHW"}, ShapeError, "expected 3 dimensions for layout NHW"),
        (np.zeros((5, 8, 8)), {"layout": "HWN"}, ArgumentError, "layout: expected one of NHW, NHWC, NCHW"),
        (np.zeros((0, 8, 8)), {}, DatasetError, r"at least one image, got an array of shape \(0, 8, 8\)"),
        (np.zeros((5, 8, 8), complex), {}, DtypeError, "expected real numbers, got complex128"),
        (np.zeros((5, 8, 8), "U3"), {}, DtypeError, "expected real numbers, got <U3"),
        (np.full((5, 8, 8), None), {}, DtypeError, "pickled Python objects"),
        (np.full((5, 8, 8), np.nan), {}, NonFiniteError, "expected finite images"),
        (np.full((5, 8, 8), 1e300), {"limits": (0, 1)}, NonFiniteError, "expected finite images"),
        (LEVELS.astype(np.float32), {}, ArgumentError, r"limits: expected .* \(0, 255\), .*float32 in \["),
        (LEVELS.astype(np.int64), {}, ArgumentError, "limits: expected the values of black and white"),
        (LEVELS, {"limits": (0, 100)}, ArgumentError, "limits: expected limits that hold all values of .*"),
        (LEVELS, {"limits": (1, 1)}, ArgumentError, "limits: expected two rising finite numbers"),
        (LEVELS, {"limits": (0, np.inf)}, ArgumentError, "limits: expected two rising finite numbers"),
        (LEVELS, {"images": "x"}, ArgumentError, "images, labels: expected None"),
    ],
)
def test_arrays_say_what_is_wrong_with_an_array(tmp_path, stored, options, kind, message):
    np.save(tmp_path / "some.npy", stored, allow_pickle=True)
    with pytest.raises(kind, match=message):
        datasets.arrays(tmp_path / "some.npy", **options)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a" + bytes(100),
        pickle.dumps({"images": LEVELS}),
        npy(LEVELS)[:40],
        npy(LEVELS)[:-1],
        npy(LEVELS) + b"\0",
        npy(LEVELS).replace(b"(5, 4, 3)", b"(-5,-4,3)"),
        # A header that asks for 2^60 bytes must not get them.
        npy(LEVELS).replace(b"(5, 4, 3), ", b"(%d, 4, 3)" % 2**58),
        npy(LEVELS).replace(b"(5, 4, 3)", b"(5, 4, 3L"),
        npy(LEVELS).replace(b"'shape'", b"'shave'"),
        b"\x93NUMPY\x09\0" + npy(LEVELS)[8:],
    ],
)
def test_a_damaged_array_is_named(tmp_path, content):
    (tmp_path / "some.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for name, kind in (("some.npy", "NPY"), ("some.npz", "NPZ")):
        with pytest.raises(DatasetError, match=f"expected an {kind} file, got something damaged") as caught:
            datasets.arrays(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_an_array_of_objects_is_named(tmp_path):
    np.savez(tmp_path / "some.npz", x=LEVELS, notes=np.array([{"a": 1}, None]))
    with pytest.raises(DtypeError, match="some.npz, array 'notes': expected numbers, got pickled Python"):
        datasets.arrays(tmp_path / "some.npz")


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, x=LEVELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DatasetError, match="some.npz: expected an NPZ file, got something damaged"):
        datasets.arrays(path)
    # A flipped bit in the packed pixels: found by inflation or by the checksum.
    for place in range(80, 180, 10):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        with pytest.raises(DatasetError, match="some.npz"):
            datasets.arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(DatasetError, match="an array of three or four dimensions, got nothing"):
        datasets.arrays(path)


def test_arrays_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npy"):
        datasets.arrays(tmp_path / "nowhere.npy")
    np.save(tmp_path / "labels.npy", NUMBERS)
    with pytest.raises(DatasetError, match=r"expected .npy or .npz files, got a folder with none"):
        datasets.arrays(tmp_path)
    (tmp_path / "some.csv").write_text("1,2")
    with pytest.raises(DatasetError, match=r"some.csv: expected a name that ends in .npy or .npz"):
        datasets.arrays(tmp_path / "some.csv")
