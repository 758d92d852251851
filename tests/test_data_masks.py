"""Masks by their mode: each way of saving one known shape gives that shape back, or is refused; never another shape."""

import numpy as np
import pytest
from PIL import Image

from omniad.config import SourceSettings
from omniad.data.index import read_index, write_index
from omniad.data.masks import decode_mask
from omniad.data.pack_writer import write_pack
from omniad.data.packs import open_pack
from omniad.errors import UserError

H, W = 40, 60
SHAPE = np.zeros((H, W), bool)
SHAPE[8:20, 10:45] = True
WHITE = np.where(SHAPE, 255, 0).astype(np.uint8)
FULL = np.full((H, W), 255, np.uint8)


def palette(ground, defect, index_of_defect=1) -> Image.Image:
    """A palette image whose index says nothing: its colours do."""
    image = Image.fromarray(np.where(SHAPE, index_of_defect, 1 - index_of_defect).astype(np.uint8)).convert("P")
    colours = [ground, defect] if index_of_defect else [defect, ground]
    image.putpalette([value for colour in colours for value in colour])
    return image


def rgb(ground, defect) -> np.ndarray:
    return np.where(SHAPE[..., None], np.array(defect), np.array(ground)).astype(np.uint8)


def numbered() -> np.ndarray:
    """VisA's: kinds of defect are numbered."""
    mask = SHAPE.astype(np.uint8)
    mask[8:12, 10:45] = 9
    mask[12:14, 10:45] = 4
    return mask


SURE = {
    "grey": WHITE,
    "grey, dark defect of 1": SHAPE.astype(np.uint8),
    "grey on nearly black": np.where(SHAPE, 255, 1).astype(np.uint8),
    "numbers": numbered(),
    "1 bit": SHAPE,
    "16 bits": WHITE.astype(np.uint16) * 257,
    "16 bits of 0 and 255": WHITE.astype(np.uint16),
    "RGB": np.dstack([WHITE] * 3),
    "RGB, red on black": rgb((0, 0, 0), (255, 0, 0)),
    "RGB, dark blue on black": rgb((0, 0, 0), (0, 0, 90)),
    "grey+alpha, opaque": np.dstack([WHITE, FULL]),
    "RGBA, opaque": np.dstack([WHITE, WHITE, WHITE, FULL]),
    "RGBA, shape in alpha": np.dstack([FULL, FULL, FULL, WHITE]),
    "RGBA, black brush": np.dstack([FULL * 0, FULL * 0, FULL * 0, WHITE]),
    "RGBA, both": np.dstack([WHITE] * 4),
    "RGBA, noise beneath what is transparent": np.dstack([np.where(SHAPE, 255, np.arange(W) % 7)] * 3 + [WHITE]).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("name", SURE)
def test_every_mode_gives_the_shape_without_a_word(tmp_path, name):
    Image.fromarray(SURE[name]).save(tmp_path / "mask.png")
    defect, told = decode_mask(tmp_path / "mask.png")
    assert (defect.dtype, told) == (np.bool_, "")
    np.testing.assert_array_equal(defect, SHAPE)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits(tmp_path, kind):
    for number, values in enumerate((SHAPE, WHITE)):
        Image.fromarray(values.astype(kind)).save(tmp_path / f"{number}.tif")
        np.testing.assert_array_equal(decode_mask(tmp_path / f"{number}.tif")[0], SHAPE)


@pytest.mark.parametrize("index_of_defect", [0, 1])
@pytest.mark.parametrize("defect", [(255, 255, 255), (128, 0, 0), (3, 3, 3)])
def test_a_palettes_colours_decide_not_its_indices(tmp_path, defect, index_of_defect):
    palette((0, 0, 0), defect, index_of_defect).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.png")[0], SHAPE)


def test_a_transparent_colour_is_ground(tmp_path):
    palette((0, 0, 0), (255, 255, 255)).save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.png")[0], SHAPE)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_noise_of_a_lossy_format_is_told_and_read_at_the_middle(tmp_path, mode):
    Image.fromarray(WHITE).convert(mode).save(tmp_path / "mask.jpg", quality=85)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg").convert("L")) > 0).sum() > SHAPE.sum()  # there is noise
    defect, told = decode_mask(tmp_path / "mask.jpg")
    assert told.endswith("grey levels, thresholded in the middle")
    np.testing.assert_array_equal(defect, SHAPE)


def test_a_soft_edge_is_told(tmp_path):
    soft = WHITE.copy()
    soft[7, 10:45], soft[20, 10:45] = 100, 160
    Image.fromarray(soft).save(tmp_path / "mask.png")
    defect, told = decode_mask(tmp_path / "mask.png")
    assert told == "4 grey levels, thresholded in the middle"
    np.testing.assert_array_equal(defect, soft > 127)
    np.testing.assert_array_equal(decode_mask(tmp_path / "mask.png", numbered=True)[0], soft > 0)  # as VisA's authors


AMBIGUOUS = {
    "two light greys": np.where(SHAPE, 255, 200).astype(np.uint8),
    "two dark greys": np.where(SHAPE, 60, 30).astype(np.uint8),
    "a grey image": np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1)),
    "three greys, dark": np.where(numbered() == 9, 100, 50 * SHAPE).astype(np.uint8),
    "red on white": rgb((255, 255, 255), (255, 0, 0)),
    "red on green": rgb((0, 255, 0), (255, 0, 0)),
    "colour and alpha differ": np.dstack([WHITE, WHITE, WHITE, np.roll(WHITE, 5, axis=0)]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_mean_two_things_is_refused(tmp_path, name):
    Image.fromarray(AMBIGUOUS[name]).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="convert the mask to black"):
        decode_mask(tmp_path / "mask.png")


def test_nothing_and_everything(tmp_path):
    for value, share in ((0, 0.0), (255, 1.0), (1, 1.0)):
        Image.new("L", (5, 4), value).save(tmp_path / "mask.png")
        assert decode_mask(tmp_path / "mask.png")[0].mean() == share


# EXIF's orientation -> how an upright image is stored, as the standard says where row 0 and column 0 lie.
STORED = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def save(file, pixels, orientation=1):
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, exif=exif)


@pytest.mark.parametrize("orientation", STORED)
def test_a_mask_is_turned_with_its_image_or_refused(tmp_path, orientation):
    """Drawn on the stored or on the upright image, with and without an entry of its own."""
    grey = np.random.default_rng(0).integers(0, 256, (H, W), np.uint8)
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    save(image, STORED[orientation](grey), orientation)
    save(mask, STORED[orientation](WHITE), orientation)  # turned alike
    np.testing.assert_array_equal(decode_mask(mask, image)[0], SHAPE)
    for drawn in (STORED[orientation](WHITE), WHITE):
        save(mask, drawn)
        if orientation >= 5:  # height and width tell which
            np.testing.assert_array_equal(decode_mask(mask, image)[0], SHAPE)
        else:
            with pytest.raises(ValueError, match="orientation is unclear, because its image has an EXIF rotation"):
                decode_mask(mask, image)


def test_a_square_image_leaves_open_how_its_mask_is_turned(tmp_path):
    square = WHITE[:, :H]
    save(tmp_path / "image.png", STORED[6](square), 6)
    save(tmp_path / "mask.png", square)
    with pytest.raises(ValueError, match="an EXIF rotation"):
        decode_mask(tmp_path / "mask.png", tmp_path / "image.png")


def photographs(folder, orientation=6, mask=WHITE):
    """A product in MVTec-AD's layout, whose defective image is a turned photograph."""
    for name, pixels, turn in (
        ("train/good/0", WHITE, 1),
        ("train/good/1", WHITE, 1),
        ("test/bent/0", STORED[orientation](WHITE), orientation),
        ("ground_truth/bent/0_mask", mask, 1),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save(folder / f"{name}.png", pixels, turn)
    return SourceSettings(title="Own", layout="own", folder=str(folder))


def test_index_and_pack_of_own_images_lay_the_mask_over_the_image(tmp_path):
    for mask in (WHITE, STORED[6](WHITE)):
        source = photographs(tmp_path / "own", mask=mask)
        write_index(source, tmp_path / "prepared/index.csv")
        write_pack(source, tmp_path / "prepared/index.csv", tmp_path / "prepared/32", 32)
        pack = open_pack(tmp_path / "prepared/32")
        row = int(np.flatnonzero(pack.index["label"])[0])
        image = np.asarray(Image.fromarray(WHITE).resize((32, 32), Image.Resampling.BILINEAR))
        inside = (image > 140) | (image < 110)  # not on the edge, where rounding decides
        np.testing.assert_array_equal(pack.masks(row)[inside], (image > 127)[inside])
        np.testing.assert_array_equal(pack.images[row, ..., 0], image)


def test_the_index_names_masks_that_fit_neither_way(tmp_path):
    with pytest.raises(UserError, match=r"Mask whose orientation is unclear.* \(1\): ground_truth/bent/0_mask\.png"):
        write_index(photographs(tmp_path / "a", orientation=3), tmp_path / "index.csv")
    with pytest.raises(
        UserError, match=r"a different size than its image \(1\): ground_truth/bent/0_mask\.png \(59x40, not"
    ):
        write_index(photographs(tmp_path / "b", mask=WHITE[:, 1:]), tmp_path / "index.csv")


def test_the_pack_tells_which_masks_are_not_two_level(tmp_path, caplog):
    source = photographs(tmp_path / "own")
    (tmp_path / "own/ground_truth/bent/0_mask.png").unlink()
    Image.fromarray(WHITE).save(tmp_path / "own/ground_truth/bent/0_mask.jpg", quality=80)
    write_index(source, tmp_path / "prepared/index.csv")
    with caplog.at_level("WARNING"):
        write_pack(source, tmp_path / "prepared/index.csv", tmp_path / "prepared/32", 32)
    assert "1 mask is not two-level: " in caplog.text and "bent/0_mask.jpg (" in caplog.text
    assert len(read_index(tmp_path / "prepared/index.csv")) == 3
