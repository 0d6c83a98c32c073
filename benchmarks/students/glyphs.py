"""1000 Chinese characters in the typefaces of Debian: classes as many as ImageNet's, small enough for two cores.

A class is a character, an image is how one typeface draws it. Faces to test and to choose settings by are none of those
that are trained on, nor of their families. Nothing but the way to render them is kept here.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from packages import debian

from students.pictures import Part, Pictures

CLASSES = 1000
PIXELS = 32  # of an image
SIZE = 16  # of what networks see: at 32 pixels the task is too easy
POINTS = 28
# Levels of the standards in which common characters stand, as lead bytes.
LEVELS = {"euc_jp": range(0xB0, 0xD0), "gb2312": range(0xB0, 0xD8), "big5": range(0xA4, 0xC7)}


class Face(NamedTuple):
    """One typeface.

    Args:
        package: of Debian.
        file: of its font.
        index: within a collection.
    """

    package: str
    file: str
    index: int = 0


TRAIN = (
    Face("fonts-aoyagi-kouzan-t", "AoyagiKouzanT.ttf"),
    Face("fonts-aoyagi-soseki", "aoyagi-soseki.ttf"),
    Face("fonts-arphic-bkai00mp", "bkai00mp.ttf"),
    Face("fonts-arphic-bsmi00lp", "bsmi00lp.ttf"),
    Face("fonts-arphic-gbsn00lp", "gbsn00lp.ttf"),
    Face("fonts-arphic-gkai00mp", "gkai00mp.ttf"),
    Face("fonts-arphic-ukai", "ukai.ttc"),
    Face("fonts-arphic-uming", "uming.ttc"),
    Face("fonts-babelstone-han", "BabelStoneHan.ttf"),
    Face("fonts-baekmuk", "batang.ttf"),
    Face("fonts-baekmuk", "dotum.ttf"),
    Face("fonts-cwtex-fs", "cwfs.ttf"),
    Face("fonts-cwtex-heib", "cwheib.ttf"),
    Face("fonts-cwtex-kai", "cwkai.ttf"),
    Face("fonts-cwtex-ming", "cwming.ttf"),
    Face("fonts-dejima-mincho", "dejima-mincho-r227.ttf"),
    Face("fonts-droid-fallback", "DroidSansFallbackFull.ttf"),
    Face("fonts-ipaexfont-gothic", "ipaexg.ttf"),
    Face("fonts-ipaexfont-mincho", "ipaexm.ttf"),
    Face("fonts-ipafont-gothic", "ipag.ttf"),
    Face("fonts-ipafont-mincho", "ipam.ttf"),
    Face("fonts-kouzan-mouhitsu", "kouzan-mouhitsu.ttf"),
    Face("fonts-kouzan-mouhitsu", "kouzan-mouhitsu-gyosho.ttf"),
    Face("fonts-migmix", "migmix-1p-regular.ttf"),
    Face("fonts-migmix", "migmix-1p-bold.ttf"),
    Face("fonts-mona", "mona.ttf"),
    Face("fonts-morisawa-bizud-mincho", "BIZUDMincho-Regular.ttf"),
    Face("fonts-mplus", "Mplus1-Regular.otf"),
    Face("fonts-mplus", "Mplus1-Thin.otf"),
    Face("fonts-mplus", "Mplus1-Black.otf"),
    Face("fonts-ricty-diminished", "RictyDiminished-Regular.ttf"),
    Face("fonts-sawarabi-gothic", "sawarabi-gothic-medium.ttf"),
    Face("fonts-unifont", "unifont.otf"),
    Face("fonts-unifont", "unifont_jp.otf"),
    Face("fonts-vlgothic", "VL-Gothic-Regular.ttf"),
)
VALIDATION = (
    Face("fonts-cwtex-yen", "cwyen.ttf"),
    Face("fonts-monapo", "monapo.ttf"),
    Face("fonts-smiley-sans", "SmileySans-Oblique.ttf"),
    Face("fonts-train", "TrainOne-Regular.ttf"),
)
TEST = (
    Face("fonts-dotgothic16", "DotGothic16-Regular.ttf"),
    Face("fonts-hanazono", "HanaMinA.ttf"),
    Face("fonts-kiloji", "kiloji.ttf"),
    Face("fonts-kiloji", "kiloji_b.ttf"),
    Face("fonts-konatu", "Konatu.ttf"),
    Face("fonts-motoya-l-cedar", "MTLc3m.ttf"),
    Face("fonts-motoya-l-maruberi", "MTLmr3m.ttf"),
    Face("fonts-oradano-mincho-gsrr", "OradanoGSRR.ttf"),
    Face("fonts-reggae", "ReggaeOne-Regular.ttf"),
    Face("fonts-seto", "setofont.ttf"),
    Face("fonts-wqy-zenhei", "wqy-zenhei.ttc"),
)


def glyphs(cache: Path) -> Pictures:
    """Return the characters, rendered once into a file of the cache."""
    path = cache / "glyphs.npz"
    if not path.is_file():
        _render_all(cache, path)
    with np.load(path) as arrays:
        parts = [_part(arrays[name]) for name in ("train", "validation", "test")]
    return Pictures(*parts, SIZE)


def _part(images_FCHW: np.ndarray) -> Part:
    """Return images of F faces as a part, the faces of a character after one another."""
    images_CFHW = torch.from_numpy(images_FCHW).transpose(0, 1)
    targets_CF = torch.arange(images_CFHW.shape[0])[:, None].expand(images_CFHW.shape[:2])
    return Part(images_CFHW.reshape(-1, 1, PIXELS, PIXELS).contiguous(), targets_CF.reshape(-1))


def _render_all(cache: Path, path: Path) -> None:
    paths = {face: _path(cache, face) for face in (*TRAIN, *VALIDATION, *TEST)}
    known = set.intersection(*(_characters(font, face.index) for face, font in paths.items()))
    text = [character for character in _common() if character in known]
    with ProcessPoolExecutor() as pool:
        work = partial(_rendered, text)
        drawn = dict(zip(paths, pool.map(work, paths.values(), [face.index for face in paths]), strict=True))
    has_ink_T = np.min([images_THW.any((1, 2)) for images_THW in drawn.values()], axis=0)
    chosen_C = np.flatnonzero(has_ink_T)[:CLASSES]
    if len(chosen_C) < CLASSES:
        raise RuntimeError(f"only {len(chosen_C)} characters are in every face; expected {CLASSES}")
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    arrays = {name: np.stack([drawn[face][chosen_C] for face in faces]) for name, faces in parts.items()}
    np.savez_compressed(path, characters=np.array([text[t] for t in chosen_C]), **arrays)


def _path(cache: Path, face: Face) -> Path:
    found = sorted(debian(cache, face.package).rglob(face.file))
    if not found:
        raise RuntimeError(
            f"{face.package} holds no {face.file}; another version was fetched than was measured"
        )
    return next((path for path in found if not path.is_symlink()), found[0])


def _common() -> list[str]:
    """Return the characters of all levels, in the order of the Japanese standard."""
    levels = [_level(encoding, leads) for encoding, leads in LEVELS.items()]
    return [character for character in levels[0] if all(character in level for level in levels[1:])]


def _level(encoding: str, leads: range) -> dict[str, None]:
    pairs = (bytes((lead, trail)) for lead in leads for trail in range(0x40, 0xFF))
    texts = (pair.decode(encoding, "ignore") for pair in pairs)
    return {text: None for text in texts if len(text) == 1 and ord(text) > 0xFF}


def _characters(path: Path, index: int) -> set[str]:
    from fontTools.ttLib import TTFont

    with TTFont(path, fontNumber=index, lazy=True) as font:
        return {chr(code) for code in font.getBestCmap()}


def _rendered(text: list[str], path: Path, index: int) -> np.ndarray:
    """Return characters in one face, uint8 [T, PIXELS, PIXELS], white on black, the ink in the middle."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(path), POINTS, index=index)
    images_THW = np.zeros((len(text), PIXELS, PIXELS), np.uint8)
    for t, character in enumerate(text):
        page = Image.new("L", (3 * PIXELS, 3 * PIXELS))
        ImageDraw.Draw(page).text((PIXELS, PIXELS), character, 255, font)
        if (box := page.getbbox()) is not None:
            left, top = ((low + high - PIXELS) // 2 for low, high in zip(box[:2], box[2:], strict=True))
            images_THW[t] = page.crop((left, top, left + PIXELS, top + PIXELS))
    return images_THW
