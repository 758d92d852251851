"""Headers of image files, most of which are read from the file's start alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from omniad.data.opening import START, read_header

NOISE = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)  # hard to compress
FORMATS = ("avif", "bmp", "gif", "jp2", "jpg", "pcx", "png", "ppm", "tga", "tif", "webp")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_header_is_what_pil_tells_of_the_whole_file(tmp_path, suffix, turned):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(file)
    assert file.stat().st_size > START
    header = read_header(file, turned)
    with Image.open(file) as whole:
        assert (header.size, header.mode, header.orientation) == (whole.size, whole.mode, 1)
    assert header.status.st_size == file.stat().st_size


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_a_header_that_is_longer_than_the_start(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010E] = "a description " * 3000  # tag ImageDescription
    exif[0x0112] = 6  # orientation: to be turned
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(file, exif=exif)
    assert read_header(file, turned=True).orientation == 6
    assert read_header(file, turned=False).orientation == 1


def test_an_image_of_several_pictures(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(file, "MPO", save_all=True, append_images=[Image.fromarray(NOISE)])
    assert read_header(file, turned=True).size == (200, 150)
