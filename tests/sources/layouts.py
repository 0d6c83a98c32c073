"""Label sets laid out as the scripts of others write them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch.utils.data import RandomSampler

SIZE = 224


@dataclass(frozen=True)
class Written:
    """A set that was written, and what it says.

    Args:
        path: of the folder.
        rows: by (item, view): logits, crop as (x, y, w, h) in pixels, flip, mix partner, share and box.
        size_hw: of the images.
    """

    path: Path
    rows: dict[tuple[int, int], dict[str, Any]]
    size_hw: np.ndarray


def write_sre2l(
    path: Path,
    items: int = 23,
    epochs: int = 3,
    batch: int = 8,
    classes: int = 10,
    mix: str | None = "cutmix",
    dtype: torch.dtype = torch.float16,
    seed: int = 42,
    index: bool = False,
    says_items: bool = False,
    strips: int | None = None,
    cutout: bool = False,
) -> Written:
    """Write a set of SRe2L; with `index` of LPLD, with `says_items` of G-VBSM, with `strips` of EDC, 0: unshuffled.

    With `cutout` of ImageNet-21K.
    """
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    size_hw = random.integers(200, 400, (items, 2))
    rows, order = {}, {}
    for epoch in range(epochs):
        folder = path / f"epoch_{epoch}"
        folder.mkdir(parents=True)
        order[str(epoch)] = drawn = list(RandomSampler(range(items), generator=generator))
        for number, start in enumerate(range(0, items, batch)):
            of_rows = np.array(drawn[start : start + batch])
            made = _batch(random, of_rows, size_hw[of_rows], classes, mix, dtype)
            listed, said = made
            if cutout:
                listed[1] = _cut_out(random, said)
            if strips is not None:  # of tensors, whose sides EDC takes for each other
                h_B1, w_B1 = size_hw[of_rows].astype(np.float32).T[:, :, None]
                listed[0] = listed[0] * torch.from_numpy(
                    np.tile(np.concatenate([h_B1 / w_B1, w_B1 / h_B1], 1), 2)
                )
                listed += [torch.from_numpy(of_rows), _shuffled(random, said, strips)]
            elif says_items:
                listed.append(torch.from_numpy(of_rows))
            torch.save(listed, folder / f"batch_{number}.tar")
            rows |= {(int(item), epoch): row for item, row in zip(of_rows, said, strict=True)}
    if index:
        (path / "sampler_indices_epoch.json").write_text(json.dumps(order))
    return Written(path, rows, size_hw)


def _cut_out(random: np.random.Generator, said: list[dict[str, Any]]) -> torch.Tensor:
    """Return a rectangle (row, column, height, width, colour) for each row, and say it of the rows."""
    place_B4 = random.integers(0, SIZE, (len(said), 4)) / SIZE
    cutout_B7 = np.concatenate([place_B4, random.integers(0, 256, (len(said), 3))], 1).astype(np.float32)
    for row, cutout in zip(said, cutout_B7, strict=True):
        row |= {"flip": None, "cutout": cutout[[1, 0, 3, 2, 4, 5, 6]]}
    return torch.from_numpy(cutout_B7)


def _shuffled(random: np.random.Generator, said: list[dict[str, Any]], strips: int) -> torch.Tensor:
    """Return which strip stands where, from the left and from the top, and say it of the rows."""
    if not strips:
        return torch.zeros(len(said), 2, 2, dtype=torch.int32)
    orders_B2f = np.stack([[random.permutation(strips) for _ in range(2)] for _ in said])
    for row, (columns, rows) in zip(said, orders_B2f, strict=True):
        row["patch_order"] = [int("1" + "".join(map(str, order)), 16) for order in (rows, columns)]
    return torch.from_numpy(orders_B2f)


def write_lpqld(
    path: Path,
    items: int = 23,
    rows: tuple[int, ...] = (8, 8, 7, 8, 8),
    classes: int = 10,
    k: int | None = 3,
    mix: str | None = "cutmix",
    rand_augment: bool = False,
    cutout: bool = False,
    seed: int = 0,
) -> Written:
    """Write a set of LPQLD of batches of so many rows; an epoch ends where its items do."""
    random, index, said_of, left, view = np.random.default_rng(seed), {}, {}, np.empty(0, np.int64), -1
    path.mkdir(parents=True)
    first = -1
    size_hw = random.integers(200, 400, (items, 2))
    for number, n in enumerate(rows):
        if len(left) < n:
            left, view = random.permutation(items), view + 1
            if view:  # the first is of the epoch before too
                left = np.concatenate([[first], left[left != first]])
            first = int(left[0])
        of_rows, left = left[:n], left[n:]
        (coords, flip, mix_index, lam, box, logits_BC), said = _batch(
            random, of_rows, size_hw[of_rows], classes, mix if mix != "mixup" else "mixup", torch.float32
        )
        flip = _cut_out(random, said) if cutout else flip
        index[str(number)] = of_rows.tolist()
        parts = [coords.half(), flip]
        if rand_augment:
            ops = [torch.randint(0, 15, (n,)), torch.ones(n).half(), torch.full((n,), -99.0).half()]
            parts.append([ops, ops])
        parts += [
            None if mix_index is None else mix_index.to(torch.uint8), lam,
            None if box is None else [torch.tensor(min(edge, 224), dtype=torch.uint8) for edge in box],
        ]  # fmt: skip
        top = logits_BC.half().topk(classes if k is None else k, dim=1)
        kept_BC = torch.full((n, classes), -torch.inf, dtype=torch.float16).scatter_(1, top.indices, top.values)
        parts += [kept_BC] if k is None else [top.values, top.indices.short()]
        torch.save(parts, path / f"batch_{number}.tar")
        for item, row, kept in zip(of_rows.tolist(), said, kept_BC, strict=True):
            said_of[item, view] = row | {"logits": kept.numpy()}
    (path / "sampler_indices_batch.json").write_text(json.dumps(index))
    return Written(path, said_of, size_hw)


def write_hald(
    path: Path, items: int = 23, epochs: int = 3, batch: int = 8, classes: int = 10, mix: str | None = "cutmix"
) -> Written:
    """Write a set of HALD: probabilities at T = 20, a file for each epoch."""
    random, index, rows = np.random.default_rng(1), {}, {}
    path.mkdir(parents=True)
    size_hw = random.integers(200, 400, (items, 2))
    for epoch in range(epochs):
        drawn = torch.randperm(items, generator=torch.Generator().manual_seed(42 + epoch)).numpy()
        index[str(epoch)] = drawn.tolist()
        batches = []
        for start in range(0, items, batch):
            of_rows = drawn[start : start + batch]
            listed, said = _batch(random, of_rows, size_hw[of_rows], classes, mix, torch.float32)
            probs_BC = (listed[5] * 20 / 20).softmax(1).half()
            batches.append([listed[0].half(), *listed[1:5], probs_BC])
            for item, row, probs in zip(of_rows.tolist(), said, probs_BC, strict=True):
                rows[item, epoch] = row | {"logits": probs.numpy()}
        torch.save(batches, path / f"epoch_{epoch}.tar")
    torch.save(index, path / "sampler_indices_dict.pt")
    return Written(path, rows, size_hw)


def _batch(
    random: np.random.Generator,
    items_B: np.ndarray,
    size_hw_B2: np.ndarray,
    classes: int,
    mix: str | None,
    dtype: Any,
) -> tuple[list[Any], list[dict[str, Any]]]:
    n = len(items_B)
    crop_hw_B2 = random.integers(1, size_hw_B2 + 1)
    top_left_B2 = random.integers(0, size_hw_B2 - crop_hw_B2 + 1)
    coords_B4 = np.concatenate([top_left_B2, crop_hw_B2], 1) / np.tile(size_hw_B2, 2)
    flip_B = random.random(n) < 0.5
    logits_BC = torch.from_numpy(random.normal(size=(n, classes))).to(dtype)
    index_B, lam, box = random.permutation(n), float(random.beta(1, 1)), None
    if mix == "cutmix":
        (r1, r2), (c1, c2) = np.sort(random.integers(0, SIZE + 1, (2, 2)))
        box = [r1, c1, r2, c2]  # numpy int64, as the scripts have them
    mixing = [torch.from_numpy(index_B), lam, box] if mix else [None, None, None]
    said = [
        {
            "logits": logits_BC[row].numpy(),
            "crop_xywh": [*top_left_B2[row, ::-1], *crop_hw_B2[row, ::-1]],
            "flip": flip_B[row],
            "mix_item": items_B[index_B[row]] if mix else None,
            "mix_lam": lam if mix == "mixup" else None,
            "mix_box_xyxy": [box[1], box[0], box[3], box[2]] if box else None,
        }
        for row in range(n)
    ]
    coords = torch.from_numpy(coords_B4.astype(np.float32))
    return [coords, torch.from_numpy(flip_B), *mixing, logits_BC], said


def write_fkd(
    path: Path,
    names: list[str],
    kind: str = "marginal_smoothing_k3",
    views: int = 4,
    classes: int = 10,
    temperature: float = 1.0,
    dtype: Any = np.float32,
    lost: int = 0,
) -> Written:
    """Write a set of FKD for images by the names CLASS/STEM; `lost` crops of each have no label."""
    random = np.random.default_rng(len(names))
    size_hw = random.integers(200, 400, (len(names), 2))
    rows = {}
    for item, name in enumerate(names):
        crop_hw_V2 = random.integers(1, np.tile(size_hw[item], (views + lost, 1)) + 1)
        top_left_V2 = random.integers(0, size_hw[item] - crop_hw_V2 + 1)
        coords_V4 = np.concatenate([top_left_V2, crop_hw_V2], 1) / np.tile(size_hw[item], 2)
        flip_V = random.random(views + lost) < 0.5
        logits_VC = torch.from_numpy(random.normal(size=(views, classes)).astype(np.float32) * 3)
        label, probs_VC = _fkd_label((logits_VC / temperature).softmax(1), kind, dtype)
        file = path / "train" / f"{name}.tar"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save([coords_V4.astype(dtype), flip_V, label], file)
        for view in range(views):
            crop = [*top_left_V2[view, ::-1], *crop_hw_V2[view, ::-1]]
            rows[item, view] = {"probs": probs_VC[view], "crop_xywh": crop, "flip": flip_V[view]}
    return Written(path, rows, size_hw)


def _fkd_label(probs_VC: torch.Tensor, kind: str, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what a file holds, and all probabilities that a student makes of it."""
    v, classes = probs_VC.shape
    if kind == "ori":
        return probs_VC.numpy().astype(dtype), probs_VC.numpy().astype(dtype).astype(np.float32)
    k = int(kind.rpartition("k")[2]) if "_k" in kind else 1
    top = probs_VC.topk(k)
    value_VK = top.values.numpy().astype(dtype)
    if kind == "hard":
        label = top.indices[:, 0].numpy()
        return label, np.eye(classes, dtype=np.float32)[label]
    label = np.stack([top.indices.numpy().astype(dtype), value_VK], 1)
    rest_V1 = np.zeros((v, 1)) if "renorm" in kind else (1 - value_VK.sum(1, keepdims=True)) / (classes - k)
    dense = np.repeat(rest_V1, classes, 1).astype(np.float32)
    kept = value_VK / value_VK.sum(1, keepdims=True) if "renorm" in kind else value_VK
    np.put_along_axis(dense, top.indices.numpy(), kept.astype(np.float32), 1)
    return (label[:, :, 0] if kind == "smoothing" else label), dense


def write_named_images(path: Path, names: list[str], size_hw: np.ndarray) -> None:
    """Write images CLASS/NAME of these sizes."""
    from PIL import Image

    for name, (height, width) in zip(names, size_hw, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (int(width), int(height))).save(path / name)


def write_images(path: Path, size_hw: np.ndarray, classes: int = 10) -> None:
    """Write images of these sizes, whose order in folders of classes is that of the items."""
    from PIL import Image

    for item, (height, width) in enumerate(size_hw):
        folder = path / f"{item * classes // len(size_hw):03d} ünï"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (int(width), int(height))).save(folder / f"{item:05d} a.b.png")


def write_tinyvit(
    path: Path,
    keys: list[str],
    epochs: int = 3,
    k: int = 4,
    classes: int = 10,
    ranks: int = 2,
    repeats: int = 0,
    sharp: float = 3.0,
) -> Written:
    """Write a set of TinyViT for items with these keys; each rank repeats the first keys of the epoch."""
    random, rows = np.random.default_rng(len(keys)), {}
    for epoch in range(epochs):
        folder = path / f"logits_top{k}_epoch{epoch}"
        folder.mkdir(parents=True)
        drawn = random.permutation(len(keys))
        for rank in range(ranks):
            items = [*drawn[rank::ranks].tolist(), *drawn[:repeats].tolist()]
            lines, values = "", b""
            for item in dict.fromkeys(items):  # a rank writes no key twice
                seed, (ids, probs) = random.integers(1 << 31), _top_of_one(random, k, classes, sharp)
                record = struct.pack("<i", seed) + ids.astype("<i2").tobytes() + probs.astype("<f2").tobytes()
                lines, values = lines + keys[item] + "\n", values + record
                said = {"seed": seed, "ids": ids, "probs": probs, "record": record}
                rows.setdefault((item, epoch), said)
            (folder / f"rank{rank}-keys.txt").write_text(lines, encoding="utf-8")
            (folder / f"rank{rank}-values.bin").write_bytes(values)
    return Written(path, rows, np.zeros((len(keys), 2), int))


def _top_of_one(
    random: np.random.Generator, k: int, classes: int, sharp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest probabilities of a row, fp16, and their classes."""
    logits = sharp * random.normal(size=classes)
    probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    ids = np.argsort(-probs)[:k]
    return ids, probs[ids].astype(np.float16)


CROP, FLIP = "random_resized_crop", "random_horizontal_flip"
WITHOUT_PARAMETERS = ("uint8", "to_tensor", "normalize")


def write_mldr(
    path: Path,
    items: int = 5,
    views: int = 4,
    k: int = 3,
    classes: int = 10,
    saved_by: str = "zip",
    compress: bool = True,
    transforms: tuple[str, ...] = (CROP, FLIP),
    mixed: bool = False,
) -> Written:
    """Write a set of ml-dr, saved by torch as "zip" or "streams", or by "joblib"; `mixed`, with all that it draws."""
    random, rows = np.random.default_rng(items), {}
    size_hw = random.integers(200, 400, (items, 2))
    path.mkdir(parents=True)
    names = (*transforms, *(("rand_augment", "random_erase", "mixup", "cutmix") if mixed else ()))
    for item in range(items):
        listed = []
        for view in range(views):
            ids, probs = _top_of_one(random, k, classes, 3.0)
            probs = random.permutation(probs.astype(np.float32))  # in no order
            crop_hw = random.integers(1, size_hw[item] + 1)
            top_left = random.integers(0, size_hw[item] - crop_hw + 1)
            drawn = {
                CROP: ((*top_left.tolist(), *crop_hw.tolist()), (1, 2, 3, 4)),
                FLIP: (bool(random.random() < 0.5), view % 2 == 0),
                "rand_augment": ([("ShearX", 0.3), ("Equalize", 0.0)], None),
                "random_erase": (None, (-1, -1, 2, 3)),
                "mixup": None,
                "cutmix": (0.3, tuple(np.array([1, 2, 3, 4]))),  # numpy's own numbers
            }
            params = {name: drawn[name] for name in names}
            if compress:
                pairs = {
                    name: list(pair) if mixed else pair[0] for name, pair in params.items() if pair is not None
                }
                stored = [*([items - 1] if mixed else []), *pairs.values()]
            else:
                stored = params | dict.fromkeys(WITHOUT_PARAMETERS, ((), ()))
            listed.append({"params": stored, "prob": (probs.tolist(), ids.tolist())})
            crop = [*top_left[::-1].tolist(), *crop_hw[::-1].tolist()]
            rows[item, view] = {"ids": ids, "probs": probs, "crop_xywh": crop, "flip": drawn[FLIP][0]}
        _save((item, listed), path / f"{item}.pth.tar", saved_by)
    augmentation = {name: {"enable": True} for name in (*WITHOUT_PARAMETERS, *names[::-1])}
    augmentation |= {"normalize": {"mean": [0.5] * 3, "std": [0.2] * 3}, "center_crop": {"enable": False}}
    reinforce = {"num_samples": views, "topk": k, "compress": compress, "image_augmentation": augmentation}
    torch.save({"num_classes": classes, "seed": None, "reinforce": reinforce}, path / "config.pth.tar")
    return Written(path, rows, size_hw)


def _save(held: Any, path: Path, saved_by: str) -> None:
    if saved_by == "joblib":
        joblib.dump(held, path, compress=True)
    else:
        torch.save(held, path, pickle_protocol=4, _use_new_zipfile_serialization=saved_by == "zip")
