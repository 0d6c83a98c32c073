"""Megatron-LM's cached log-probabilities of a teacher: `cpC_dpD__I.tar`, one for each rank and time that it saved.

    _meta.json     {"hash", "identifiers", "saver"}: of the run, "sequence_length" among the identifiers
    I.pt.zst       of each iteration: zstd of what torch.save makes of {"values", "indices_low", "bit_17"}, each a list
                   of tensors [positions, sequences, k], one for each microbatch

An id is indices_low + 65536 * bit_17. Where rows keep fewer than k, their values are -1000, and their ids, once put
together again, 131071, which is also a token; so the value says which are none.

Ranks of data parallelism take microbatches in turns. Ranks of context parallelism share the positions of a sequence:
of 2 C chunks, rank c has the chunks c and 2 C - 1 - c. Items are sequences in the order in which they were trained on,
from the first iteration that is there. Which tokens they have no file says, nor how many there are.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.files.stored import reading
from softpack.sources.files.tars import Span, members_of
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.row_files import leaving_out, refuse_missing
from softpack.sources.peers.sequences import PartRows, Parts, Runs, SequenceSource
from softpack.sources.peers.settled import Tally, settled
from softpack.sources.pickles.pool import PicklePool

TAR = re.compile(r"cp(\d+)_dp(\d+)__(\d+)\.tar")
MEMBER = re.compile(r"(\d+)\.pt\.zst")
META = "_meta.json"
NONE_VALUE = -1000.0  # of a token that is none
MOST_CLASSES = 1 << 17
MAX_META_BYTES = 1 << 20
MAX_PAYLOAD = 4 << 30  # bytes of an iteration
PARTS = ("values", "indices_low", "bit_17")


@dataclass(frozen=True)
class _Member:
    """An iteration of a rank, and where it stands."""

    iteration: int
    dp: int
    cp: int
    path: Path
    span: Span


@dataclass(frozen=True)
class _Sizes:
    """What an iteration of a rank holds: microbatches of so many sequences, and positions of each; k at most."""

    microbatches: int
    sequences: int
    positions: int
    k: int


def looks_like(names: set[str]) -> bool:
    """Return whether names in a folder are those of the layout."""
    return any(TAR.fullmatch(name) for name in names)


def open_megatron(path: Path, given: Given) -> SequenceSource:
    """Open a folder of Megatron's tars.

    Raises:
        DataError: it is none, an iteration is missing, or it does not say how many tokens there are and nobody does.
    """
    names = sorted(entry.name for entry in path.iterdir())
    tars = [path / name for name in names if TAR.fullmatch(name)]
    if not tars:
        raise DataError(f"{path}: has no cp0_dp0__N.tar; expected one or more, as Megatron-LM saves them")
    need(
        path, {"how many tokens the padded vocabulary has, 131072 at most (--classes C)": given.classes is None}
    )
    assert given.classes is not None
    if given.classes > MOST_CLASSES:
        raise DataError(
            f"{path}: ids have 17 bits, which tell {MOST_CLASSES} tokens apart; --classes is {given.classes}"
        )
    left_out, found, metas = (
        dict[str, str](),
        dict[tuple[int, int, int], _Member](),
        dict[Path, dict[str, Any]](),
    )
    for tar in tars:
        with leaving_out(tar, given.skip_bad, left_out):
            meta, members = _scanned(tar)
            metas[tar] = meta
            for member in members:
                cell = (member.iteration, member.dp, member.cp)
                if cell in found:
                    raise DataError(
                        f"{tar}: has iteration {cell[0]}, as {found[cell].path.name} has; expected it once"
                    )
                found[cell] = member
    if not found:
        raise DataError(next(iter(left_out.values()), f"{path}: its tars hold no iterations"))
    _check_alike(metas)
    members = [found[cell] for cell in sorted(found)]
    left_out |= refuse_missing(path, list(_missing(path, members)), given.skip_bad)
    sizes = _first_sizes(members, given.skip_bad, left_out)
    n_cp = 1 + max(member.cp for member in members)
    said = next(iter(metas.values())).get("identifiers", {}).get("sequence_length", sizes.positions * n_cp)
    if said != sizes.positions * n_cp:
        raise DataError(
            f"{path}: labels have {sizes.positions} positions a rank, of {n_cp} ranks, and {META} says sequences of "
            f"{said}; tars of some ranks may be missing"
        )
    runs, starts = _runs(members, sizes, n_cp)
    return SequenceSource(
        path=path,
        spec=LabelSpec(given.classes, "log_probs", given.temperature or 1.0),
        items=int(runs.item_Q.max()) + 1,
        views=runs.n_views,
        n_rows=int(starts[-1]),
        columns=(),
        item_columns={},
        ignored=tuple(name for name in names if not TAR.fullmatch(name)),
        runs=runs,
        part_starts=starts,
        parts_of=partial(_Parts, members, sizes),
        n_kept=sizes.k,
        n_stored_bytes=sum(tar.stat().st_size for tar in tars),
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _scanned(tar: Path) -> tuple[dict[str, Any], list[_Member]]:
    """Return what a tar says of its run, and its iterations. Headers alone are read."""
    cp, dp, _ = map(int, TAR.fullmatch(tar.name).groups())  # type: ignore[union-attr]
    meta, members = dict[str, Any](), []
    with reading(tar):
        for name, span in members_of(tar):
            if name == META:
                meta = _meta(tar, span)
            elif found := MEMBER.fullmatch(name):
                members.append(_Member(int(found[1]), dp, cp, tar, span))
    return meta, members


def _meta(tar: Path, span: Span) -> dict[str, Any]:
    if span.size > MAX_META_BYTES:
        raise DataError(f"has a {META} of {span.size} bytes; expected a few hundred")
    with tar.open("rb") as file:
        file.seek(span.offset)
        found = json.loads(file.read(span.size))
    if not isinstance(found, dict) or not isinstance(found.get("identifiers", {}), dict):
        raise DataError(f"has a {META} that is no object with identifiers")
    return found


def _check_alike(metas: dict[Path, dict[str, Any]]) -> None:
    (first, meta), *others = metas.items()
    for tar, other in others:
        if other.get("hash") != meta.get("hash"):
            raise DataError(
                f"{tar}: is of another run than {first.name}, by its hash {other.get('hash')}; expected "
                f"{meta.get('hash')}: put each run into a folder of its own"
            )


def _missing(path: Path, members: list[_Member]) -> Iterator[Path]:
    """Yield iterations that some rank lacks, or that all do between the first and the last."""
    there = {(member.iteration, member.dp, member.cp) for member in members}
    first, last = members[0].iteration, members[-1].iteration
    if last - first > 2 * len(members) + 1000:
        raise DataError(
            f"{path}: has iterations {first} and {last}, and {len(members)} in all; expected all between"
        )
    for iteration in range(first, last + 1):
        for dp in range(1 + max(member.dp for member in members)):
            for cp in range(1 + max(member.cp for member in members)):
                if (iteration, dp, cp) not in there:
                    yield path / f"cp{cp}_dp{dp}__*.tar" / f"{iteration}.pt.zst"


def _first_sizes(members: list[_Member], skip_bad: bool, left_out: dict[str, str]) -> _Sizes:
    """Return the sizes of the first iteration, or the first good one."""
    with PicklePool(1) as pool:
        for member in members:
            with leaving_out(Path(_name(member)), skip_bad, left_out):
                return _sizes(_payload(member, pool), _name(member))
    raise DataError(next(iter(left_out.values())))


def _runs(members: list[_Member], sizes: _Sizes, n_cp: int) -> tuple[Runs, np.ndarray]:
    """Return the runs of all rows, by iteration, rank, microbatch, sequence and chunk; and where microbatches begin."""
    first = members[0].iteration
    n_dp = 1 + max(member.dp for member in members)
    iteration_P, dp_P, cp_P = np.array([(m.iteration - first, m.dp, m.cp) for m in members]).T
    in_batch = n_dp * sizes.sequences
    of_member = np.arange(sizes.microbatches)[:, None] * in_batch + np.arange(sizes.sequences)
    start_P = iteration_P * (sizes.microbatches * in_batch) + dp_P * sizes.sequences
    item_PS = start_P[:, None] + of_member.reshape(-1)
    n_chunks = 1 if n_cp == 1 else 2
    size = sizes.positions // n_chunks
    chunk_PX = np.stack([cp_P, 2 * n_cp - 1 - cp_P][:n_chunks], axis=1)
    item_Q = np.repeat(item_PS.reshape(-1), n_chunks)
    view_Q = np.repeat(chunk_PX[:, None, :] * size, item_PS.shape[1], axis=1).reshape(-1)
    rows, n_parts = sizes.sequences * sizes.positions, len(members) * sizes.microbatches
    return Runs(item_Q, view_Q, np.arange(len(item_Q) + 1) * size), np.arange(n_parts + 1) * rows


def _name(member: _Member) -> str:
    return f"{member.path}: iteration {member.iteration}"


def _payload(member: _Member, pool: PicklePool) -> dict[str, list[np.ndarray]]:
    """Return the arrays of an iteration by their names.

    Raises:
        DataError: it is damaged, or holds something else.
    """
    name = _name(member)
    with tempfile.TemporaryDirectory() as folder:
        inflated = Path(folder) / "iteration.pt"
        try:
            with member.path.open("rb") as file, inflated.open("wb") as out:
                file.seek(member.span.offset)
                reader = zstandard.ZstdDecompressor().stream_reader(
                    _Window(file, member.span.size)  # type: ignore[arg-type]  # it reads
                )
                n_bytes = 0
                while chunk := reader.read(1 << 20):
                    n_bytes += len(chunk)
                    if n_bytes > MAX_PAYLOAD:
                        raise DataError(f"{name}: inflates to more than {MAX_PAYLOAD} bytes; it is damaged")
                    out.write(chunk)
            found = pool.read(inflated)
        except zstandard.ZstdError as error:
            raise DataError(f"{name}: is no zstd: {error}; copy the file from where it is whole") from None
        except DataError as error:
            raise DataError(str(error).replace(str(inflated), name)) from None
    are_lists = isinstance(found, dict) and all(
        isinstance(found.get(part), list)
        and found[part]
        and all(isinstance(a, np.ndarray) for a in found[part])
        for part in PARTS
    )
    if not are_lists or len({len(found[part]) for part in PARTS}) != 1:
        raise DataError(f"{name}: holds no lists of tensors {', '.join(PARTS)}, one for each microbatch")
    return found  # type: ignore[no-any-return]


@dataclass
class _Window:
    """The next bytes of an open file alone."""

    file: Any
    left: int

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data: bytes = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data


def _sizes(payload: dict[str, list[np.ndarray]], name: str) -> _Sizes:
    shapes = {part: [array.shape for array in payload[part]] for part in PARTS}
    if not all(shapes[part] == shapes["values"] for part in PARTS) or len(shapes["values"][0]) != 3:
        raise DataError(
            f"{name}: has tensors of shapes {shapes['values'][:3]}; expected [positions, sequences, k] of all"
        )
    leads = {shape[:2] for shape in shapes["values"]}
    if len(leads) != 1:
        raise DataError(
            f"{name}: has microbatches of {sorted(leads)} positions and sequences; expected all alike"
        )
    positions, sequences = leads.pop()
    return _Sizes(len(payload["values"]), sequences, positions, max(shape[2] for shape in shapes["values"]))


class _Parts(Parts):
    """Microbatches of iterations of ranks."""

    def __init__(self, members: list[_Member], sizes: _Sizes, tally: Tally) -> None:
        self._members, self._sizes, self._tally = members, sizes, tally
        self._pool = PicklePool(1)
        self._number, self._held = -1, dict[str, list[np.ndarray]]()  # of the iteration that was read last
        self._error: DataError | None = None

    def name(self, number: int) -> str:
        """Return which microbatch of which file it is."""
        member, batch = divmod(number, self._sizes.microbatches)
        return f"{_name(self._members[member])}, microbatch {batch}"

    def read(self, number: int) -> PartRows:
        """Return the rows of a microbatch, sequence by sequence."""
        member, batch = divmod(number, self._sizes.microbatches)
        if member != self._number:
            self._number, self._held, self._error = member, {}, None
            try:
                self._held = self._checked(member)
            except DataError as error:
                self._error = error
        if self._error is not None:
            raise self._error
        values_SBK, low_SBK, high_SBK = (self._held[part][batch] for part in PARTS)
        if values_SBK.dtype.kind != "f" or low_SBK.dtype.kind not in "iu" or high_SBK.dtype != bool:
            raise DataError(
                f"{self.name(number)}: holds values of {values_SBK.dtype} and ids of {low_SBK.dtype}, {high_SBK.dtype}"
            )
        k = values_SBK.shape[2]
        value_BK = values_SBK.swapaxes(0, 1).reshape(-1, k).astype(np.float32)
        id_SBK = low_SBK.astype(np.int32) + (high_SBK.astype(np.int32) << 16)
        is_none_BK = value_BK <= NONE_VALUE
        id_BK = np.where(is_none_BK, -1, id_SBK.swapaxes(0, 1).reshape(-1, k))
        value_BK = np.where(is_none_BK, np.float32(-np.inf), value_BK)
        return PartRows(settled(id_BK, value_BK, self._tally))

    def _checked(self, member: int) -> dict[str, list[np.ndarray]]:
        """Return the arrays of an iteration, which are as large as those of the first."""
        name, payload = _name(self._members[member]), _payload(self._members[member], self._pool)
        found, expected = _sizes(payload, name), self._sizes
        if replace(found, k=expected.k) != expected:
            raise DataError(
                f"{name}: has {found.microbatches} microbatches of {found.sequences} sequences of {found.positions} "
                f"positions; expected {expected.microbatches} of {expected.sequences} of {expected.positions}, as "
                "the first iteration has; sets whose batches grow are read in parts, each in a folder of its own"
            )
        return payload

    def close(self) -> None:
        """Give the process back that reads pickles."""
        self._pool.__exit__(None, None, None)
