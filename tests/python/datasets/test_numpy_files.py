"""Images in NPY and NPZ files."""

from __future__ import annotations

import io
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
    with pytest.raises(ShapeError, match=r"labels of shape \(N,\), got \(5, 4, 3\)"):
        datasets.arrays(tmp_path / "several.npz", images="x_test", labels="x_train")


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
    with pytest.raises(DtypeError, match="labels.npy: expected labels as integers, got float64"):
        datasets.arrays(tmp_path)


def test_folders_of_archives_join_labels(tmp_path):
    np.savez(tmp_path / "1.npz", x=LEVELS[:2], y=NUMBERS[:2])
    np.savez(tmp_path / "2.npz", x=LEVELS[2:], y=NUMBERS[2:])
    images, labels = datasets.arrays(tmp_path)
    assert_images(images, scaled(LEVELS)[:, None])
    np.testing.assert_array_equal(labels, NUMBERS)
    np.save(tmp_path / "labels.npy", NUMBERS)
    with pytest.raises(DatasetError, match="expected labels there or in .*1.npz, got both"):
        datasets.arrays(tmp_path)
    (tmp_path / "labels.npy").unlink()
    np.savez(tmp_path / "3.npz", x=LEVELS)
    with pytest.raises(DatasetError, match="3.npz, array 'x': expected labels as in .*1.npz, got none"):
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
        (LEVELS, {"limits": (0, 100)}, ArgumentError, "limits: expected all values of .* in between"),
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
    ("content", "message"),
    [
        (b"", "expected an NPY file"),
        (b"GIF89a" + bytes(100), "expected an NPY file, got something else"),
        (npy(LEVELS)[:40], "expected an NPY file"),
        (npy(LEVELS)[:-1], r"expected 60 bytes of uint8 \(5, 4, 3\), got 59: the file is cut off"),
        (npy(LEVELS) + b"\0", "got 61: the file goes on"),
        (npy(LEVELS).replace(b"(5, 4, 3)", b"(-5,-4,3)"), r"at least 0, got the shape \(-5, -4, 3\)"),
        (npy(LEVELS).replace(b"(5, 4, 3)", b"(5, 4, 3L"), "expected an NPY file, got something else"),
        (npy(LEVELS).replace(b"'shape'", b"'shave'"), "expected an NPY file"),
        (b"\x93NUMPY\x09\0" + npy(LEVELS)[8:], "expected"),
    ],
)
def test_a_damaged_array_is_named(tmp_path, content, message):
    (tmp_path / "some.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for name in ("some.npy", "some.npz"):
        with pytest.raises(DatasetError, match=message) as caught:
            datasets.arrays(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, x=LEVELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DatasetError, match="some.npz: expected an NPZ file, got something else"):
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
