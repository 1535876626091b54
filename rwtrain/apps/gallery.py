"""A folder of images, embedded by the model: what texts and images are compared with. The images stay where they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import nearest
from rwtrain.errors import DataError, RWTrainError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.store import load_array

MANIFEST = "manifest.json"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
REMEDY = "Make it again with `rwtrain look gallery IMAGES --model FOLDER --out GALLERY`"


@dataclass(frozen=True)
class ImageGallery:
    """Embeddings [images, C] float32 of image files below `images`; `names` are their paths from there. Use `build` or `open`."""

    images: Path
    names: tuple[str, ...]
    embeddings: np.ndarray

    @classmethod
    def build(cls, app: AppModel, images: str | Path, out: str | Path, *, progress: bool = False) -> tuple[ImageGallery, dict[str, str]]:
        """Embed every image below a folder; return the gallery and, by name, why an image was left out.

        Raises:
            DataError: there is no readable image.
            ConfigError: the model has no image encoder.
        """
        images = Path(images).resolve()
        _ = app.evaluated.image_size
        names, parts, rejected = [], [], {}
        files = sorted(file for file in images.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        for path in tqdm(files, desc="images", unit="image", disable=not progress):
            name = str(path.relative_to(images))
            if not path.resolve().is_relative_to(images):
                rejected[name] = "a link to a file outside the folder"
                continue
            try:
                parts.append(app.evaluated.embed_images([path.read_bytes()]))
                names.append(name)
            except (RWTrainError, OSError) as error:
                rejected[name] = str(error)
        if not names:
            raise DataError(images, "no readable image here", f"Give a folder with {', '.join(ENDINGS)} files")
        with atomic_folder(out) as folder:
            np.save(folder / "embeddings.npy", np.concatenate(parts))
            write_json(folder / MANIFEST, {"images": str(images), "names": names, "rejected": rejected, "probe": app.probe})
        return cls.open(app, out), rejected

    @classmethod
    def open(cls, app: AppModel, folder: str | Path) -> ImageGallery:
        """Open a gallery; raises `DataError` if it is missing, damaged or of another model."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            embeddings = load_array(folder / "embeddings.npy", remedy=REMEDY)
            gallery = cls(Path(manifest["images"]), tuple(manifest["names"]), embeddings)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(folder, f"no readable gallery ({error})", REMEDY) from error
        if embeddings.shape != (len(gallery.names), app.model.config.embedding_dim):
            raise DataError(folder, f"embeddings of shape {embeddings.shape} do not fit {len(gallery.names)} images and this model", REMEDY)
        app.check_probe(folder, manifest.get("probe"), remedy=REMEDY)
        return gallery

    def path(self, name: str) -> Path | None:
        """The file of an image; None if it is gone, or if a name or a link leads out of the gallery's folder."""
        path = (self.images / name).resolve()
        return path if path.is_relative_to(self.images.resolve()) and path.is_file() else None

    def nearest(self, app: AppModel, text: str, count: int) -> list[tuple[str, float]]:
        """(name, cosine) of the images nearest to a text."""
        return self._named(app.embed_texts([text]), count)

    def nearest_to_image(self, app: AppModel, encoded: bytes, count: int) -> list[tuple[str, float]]:
        """(name, cosine) of the images nearest to an encoded image; raises `RWTrainError` if it cannot be decoded."""
        return self._named(app.evaluated.embed_images([encoded]), count)

    def _named(self, queries: np.ndarray, count: int) -> list[tuple[str, float]]:
        numbers, cosines = nearest(queries, self.embeddings, min(count, len(self.names)))
        return [(self.names[int(number)], float(cosine)) for number, cosine in zip(numbers[0], cosines[0], strict=True)]
