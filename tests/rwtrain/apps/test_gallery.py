"""Files of a gallery are those of its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rwtrain.apps.gallery import ImageGallery


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for path in (images / "below" / "one.png", tmp_path / "secret.png"):
        path.write_bytes(b"x")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    gallery = ImageGallery(images, (), np.zeros((0, 4), np.float32))
    assert gallery.path("below/one.png") == images / "below" / "one.png"
    for name in ("../secret.png", "below/../../secret.png", str(tmp_path / "secret.png"), "link.png", "gone.png", "below"):
        assert gallery.path(name) is None
