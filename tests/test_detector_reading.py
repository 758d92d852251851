"""Reading people's own images: every mode, every orientation; which files are meant; what they are for."""

from pathlib import Path

import numpy as np
import pytest
from detector_runs import SIZE, write_image, write_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from omniad.config import SourceSettings
from omniad.data.images import decode_image
from omniad.data.index import read_index, write_index
from omniad.data.pack_writer import write_pack
from omniad.data.packs import open_pack
from omniad.detector.inputs import find_images, output_names
from omniad.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
AS_RGB = np.repeat(GREY[..., None], 3, axis=2)


def saved(file: Path, pixels: np.ndarray, **options) -> np.ndarray:
    """The pixels after a round trip through a file."""
    Image.fromarray(pixels).save(file, **options)
    return np.asarray(decode_image(file))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_rgb_and_grey_come_as_they_are(tmp_path, suffix):
    np.testing.assert_array_equal(saved(tmp_path / f"a.{suffix}", RGB), RGB)
    np.testing.assert_array_equal(saved(tmp_path / f"b.{suffix}", GREY), AS_RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    """255 * 257 is 65535: of 16-bit pixels that are 257 times 8-bit ones just those are left."""
    np.testing.assert_array_equal(saved(tmp_path / f"a.{suffix}", GREY.astype(np.uint16) * 257), AS_RGB)
    dark = np.full((2, 2), 12 * 257 + 128, np.uint16)  # dark stays dark: nothing is stretched; 128 is just below a half
    np.testing.assert_array_equal(saved(tmp_path / f"b.{suffix}", dark), np.full((2, 2, 3), 12))


def test_floats_and_integers_of_32_bits_need_a_known_range(tmp_path):
    np.testing.assert_array_equal(saved(tmp_path / "a.tif", (GREY / 255).astype(np.float32)), AS_RGB)
    np.testing.assert_array_equal(saved(tmp_path / "b.tif", GREY.astype(np.int32) * 257), AS_RGB)
    for name, wrong in (("c.tif", np.float32(1.5)), ("d.tif", np.float32("nan")), ("e.tif", np.int32(65536))):
        with pytest.raises(ValueError, match="not within 0 and"):
            saved(tmp_path / name, np.full((2, 2), wrong))


@pytest.mark.filterwarnings("error")
def test_alpha_is_dropped_and_palettes_are_looked_up(tmp_path):
    alpha = np.full((5, 7, 1), 40, np.uint8)
    np.testing.assert_array_equal(saved(tmp_path / "a.png", np.concatenate([RGB, alpha], axis=2)), RGB)
    np.testing.assert_array_equal(saved(tmp_path / "b.png", np.dstack([GREY, alpha[..., 0]])), AS_RGB)
    image = Image.fromarray(RGB).quantize(16)
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    for name, options in (("c.png", {}), ("d.png", {"transparency": bytes([0, 128, 255])})):
        image.save(tmp_path / name, "PNG", **options)
        np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / name)), palette[np.asarray(image)])
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "f.tif")  # without black: 255 minus each of red, green, blue
    np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / "f.tif")), RGB)
    Image.fromarray(GREY > 100).save(tmp_path / "e.png")
    expected = np.where(AS_RGB > 100, 255, 0)
    np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / "e.png")), expected)


# EXIF's orientation -> how the upright image is stored, by the standard's words for where row 0 and column 0 lie.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],  # row 0 at the top, column 0 at the right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("pixels", [RGB, GREY.astype(np.uint16) * 257], ids=["RGB", "16 bits"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_upright(tmp_path, orientation, pixels):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](pixels))
    expected = RGB if pixels is RGB else AS_RGB
    np.testing.assert_array_equal(saved(tmp_path / "a.png", stored, exif=exif), expected)


def test_files_and_folders_are_found_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/b.png",
        "in/a.JPG",
        "in/deep/c.tiff",
        "in/.hidden/d.png",
        "in/note.txt",
        "x.dat",
        "out/maps/e.png",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("in/ground_truth").mkdir()
    Path("in/ground_truth/a_mask.png").touch()
    assert find_images(["in", "x.dat", tmp_path / "in" / "b.png"]) == [
        Path(name) for name in ("in/a.JPG", "in/b.png", "in/deep/c.tiff", "x.dat")
    ]
    assert Path("out/maps/e.png") in find_images(["."])
    assert Path("out/maps/e.png") not in find_images(["."], leave_out=Path("out"))
    with pytest.raises(UserError, match="no such file or folder: absent, gone"):
        find_images(["in", "absent", "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"all images are below in, where the results go; .*--out"):
        find_images(["in"], leave_out=Path("in"))
    with pytest.raises(UserError, match="no images in empty"):
        find_images(["empty"])
    assert find_images("in/deep") == find_images(Path("in/deep")) == [Path("in/deep/c.tiff")]  # not letter by letter


def test_names_tell_folders_apart_only_where_there_are_several():
    assert output_names([Path("a/1.png"), Path("a/2.x.png")]) == ["1", "2.x"]
    assert output_names([Path("a/good/1.png"), Path("a/bad/1.png")]) == ["good_1", "bad_1"]
    assert output_names([Path("a/1.png"), Path("a/1.jpg"), Path("a/1.JPG")]) == ["1", "1-2", "1-3"]
    assert output_names([Path("a/b_c/1.png"), Path("a/b/c_1.png")]) == ["b_c_1", "b_c_1-2"]


@given(st.lists(st.lists(st.text("aB_-.1", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=8))
def test_names_are_all_different_whatever_the_paths(parts):
    files = [Path("x", *(part.replace(".", "") or "y" for part in path)).with_suffix(".png") for path in parts]
    files = list(dict.fromkeys(files))
    names = output_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    assert not any("/" in name for name in names)


def read_splits(folder: Path, tmp_path: Path) -> dict[tuple[str, str, str], int]:
    """How many images each class, split and defect has."""
    write_index(SourceSettings(title="Own", layout="own", folder=str(folder)), tmp_path / "index.csv")
    return read_index(tmp_path / "index.csv").groupby(["class", "split", "defect"]).size().to_dict()


def test_one_folder_of_good_images(tmp_path):
    folder = write_images(tmp_path / "bolts", 11)
    assert read_splits(folder, tmp_path) == {("bolts", "train", "good"): 8, ("bolts", "validation", "good"): 3}


def test_one_folder_a_product(tmp_path):
    write_images(tmp_path / "parts/bolt", 5)
    write_images(tmp_path / "parts/nut/good", 10)
    write_images(tmp_path / "parts/nut/scratch", 3)
    (tmp_path / "parts/empty").mkdir()
    assert read_splits(tmp_path / "parts", tmp_path) == {
        ("bolt", "train", "good"): 4,
        ("bolt", "validation", "good"): 1,
        ("nut", "train", "good"): 8,
        ("nut", "validation", "good"): 2,
        ("nut", "test", "scratch"): 3,
    }


def test_the_layout_of_mvtec_and_one_of_its_classes(tmp_path):
    write_images(tmp_path / "set/bolt/train/good", 5)
    write_images(tmp_path / "set/bolt/test/good", 2)
    write_images(tmp_path / "set/bolt/test/dent", 1)
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(tmp_path / "000_mask.png")
    (tmp_path / "set/bolt/ground_truth/dent").mkdir(parents=True)
    (tmp_path / "000_mask.png").rename(tmp_path / "set/bolt/ground_truth/dent/000_mask.png")
    expected = {
        ("bolt", "train", "good"): 4,
        ("bolt", "validation", "good"): 1,
        ("bolt", "test", "good"): 2,
        ("bolt", "test", "dent"): 1,
    }
    assert read_splits(tmp_path / "set", tmp_path) == expected
    assert read_splits(tmp_path / "set/bolt", tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images in it"),
        (["1.png"], r"has 1 good image\(s\); at least 2 are needed"),
        (["1.png", "2.png", "old/3.png"], r"contains both images and folders of images \(old\)"),
        (["bolt/1.png", "bolt/2.png", "nut/bad/1.png"], "nut: no good images; put them there, or into a folder named"),
    ],
)
def test_folders_that_leave_open_what_is_good_are_refused(tmp_path, files, message):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "note.txt").touch()
    for name in files:
        write_image(folder / name)
    with pytest.raises(UserError, match=message):
        read_splits(folder, tmp_path)


def test_the_pack_of_own_images_is_upright_and_takes_sixteen_bits(tmp_path):
    folder = tmp_path / "bolts"
    upright = write_image(folder / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(STORED[6](upright))).save(folder / "1.png", exif=exif)
    deep = upright[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "2.png")
    source = SourceSettings(title="Own", layout="own", folder=str(folder))
    write_index(source, tmp_path / "prepared" / "index.csv")
    write_pack(source, tmp_path / "prepared" / "index.csv", tmp_path / "prepared" / str(SIZE), SIZE)
    pack = open_pack(tmp_path / "prepared" / str(SIZE))
    images = {name: pack.images[row] for row, name in enumerate(pack.index["image"])}
    np.testing.assert_array_equal(images["0.png"], upright)
    np.testing.assert_array_equal(images["1.png"], upright)
    np.testing.assert_array_equal(images["2.png"], np.repeat(upright[..., :1], 3, axis=2))
