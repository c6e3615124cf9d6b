"""Sizes of pictures, against OpenCV, which loads them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdet_droploss.annotations.pictures import check_pictures

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, "XMP's 6"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "bmp"])
def test_a_size_is_what_opencv_loads(tmp_path, suffix, orientation):
    path = tmp_path / f"1.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    form = {"xmp": XMP} if isinstance(orientation, str) else {"exif": exif}
    noise = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    try:
        Image.fromarray(noise).save(path, **form)
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"Pillow here writes no {suffix}: {error}")
    loaded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if loaded is None:
        pytest.skip(f"OpenCV here reads no {suffix}")
    height, width = loaded.shape[:2]
    image = {"id": 1, "file_name": path.name, "width": width, "height": height}
    assert list(check_pictures([image], tmp_path)) == [None]
    swapped = {**image, "width": height, "height": width}
    assert next(check_pictures([swapped], tmp_path)) is not None
