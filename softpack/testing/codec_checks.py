"""Checks that any codec must pass, built in or not. Each tells what is wrong by an AssertionError."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Codes, code_dtype, code_values
from softpack.codecs.registry import codec_ids, make_codec
from softpack.codecs.spaces import centred_logits, to_logits
from softpack.codecs.sparse import NO_CLASS
from softpack.errors import CodecError
from softpack.records import HIDDEN, SPACES, LabelSpec
from softpack.testing.rows import random_rows

SEED = 7
OTHER_SIZES = {2: 33, 5003: 9}  # classes: rows
ODD_BATCHES = (0, 1, 3)
ENOUGH_BITS = 1 << 20
KNOWN = 0.8  # share of a row that its made-up context knows
NAME = re.compile(r"[a-z][a-z0-9_]*")
SAME = 1e-4  # of the largest number: what the order of a sum may change in float32
PIECES = 8  # odd batches of a size that are encoded
AS_GOOD, NEARLY = 2.0, 0.05  # times as far off, and mass besides, that codes that are as good may be
ONE_IN = 25  # rows may be coded otherwise in another batch: where such a change decides between codes as good


def check_codec(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None = None) -> None:
    """Check that a codec keeps the contract of `softpack.codecs.abc`.

    Args:
        codec: not yet fitted; its settings are those to be checked. One of hidden states has its output matrix.
        rows_BC: float32 rows [B, C] of `codec.spec`, some tens or more, on the device to be checked.
        context_BC: float32 [B, C], for codecs that take a context; made up of the rows where None.

    Raises:
        AssertionError: it does not; the message says where and how.
    """
    _require(len(rows_BC) >= 8, f"check_codec was given {len(rows_BC)} rows; expected 8 or more")
    if context_BC is None:
        context_BC = made_up_context(codec, rows_BC)
    check_settings(codec)
    fitted = check_fit(codec, rows_BC, context_BC)
    check_settings(fitted)
    check_context(fitted, rows_BC, context_BC)
    codes = check_encode(fitted, rows_BC, context_BC)
    check_decode(fitted, codes, context_BC)
    check_sparse(fitted, codes)
    check_batches(fitted, rows_BC, context_BC)
    check_state(fitted, rows_BC, context_BC)
    check_at_bits(codec)
    if codec.spec.space != HIDDEN:  # whose output matrix is of one size
        check_other_sizes(codec)


def made_up_context(codec: Codec, rows_BC: Tensor) -> Tensor | None:
    """Return what a prototype may know of rows: their logits and noise; None for codecs that take no context."""
    if not codec.takes_context:
        return None
    logits_BC = centred_logits(rows_BC, codec.spec)
    noise_BC = torch.randn(rows_BC.shape, generator=torch.Generator().manual_seed(SEED)).to(rows_BC.device)
    context_BC = KNOWN * logits_BC + (1 - KNOWN) * logits_BC.std() * noise_BC
    return context_BC - context_BC.mean(dim=-1, keepdim=True)


def check_settings(codec: Codec) -> None:
    """Check the id, the declared arrays, the config's way through JSON, equality and repr."""
    _check_name("codec_id", codec.codec_id)
    config = codec.get_config()
    for name, value in config.items():
        flat = isinstance(value, (int, str, bool, float))
        _require(flat, f"setting {name} is {value!r}; expected int, str, bool or float")
        _require(f"{name}={value!r}" in repr(codec), f"repr does not show {name}={value!r}: {codec!r}")
    again = _make(codec, codec.spec, json.loads(json.dumps(config)))
    _require(type(again) is type(codec), f"make_codec({codec.codec_id!r}) gives {type(again).__name__}")
    _require(again == codec, f"settings do not survive JSON: {codec!r} came back as {again!r}")
    _require(
        again.codes == codec.codes, f"equal settings declare other arrays: {codec.codes} and {again.codes}"
    )
    _refused("an unknown setting", lambda: _make(codec, codec.spec, {**config, "no_such_setting": 1}))
    _require(
        again.takes_context == codec.takes_context, f"{codec!r}: takes_context does not follow from settings"
    )
    same_classes = codec.gives.classes == codec.spec.classes
    _require(same_classes or codec.spec.space == HIDDEN, f"gives {codec.gives}, but takes {codec.spec}")
    _require(codec.gives.space in SPACES, f"gives {codec.gives.space}; expected one of {', '.join(SPACES)}")
    names = [array.name for array in codec.codes]
    _require(bool(names) and len(set(names)) == len(names), f"arrays are named {names}; expected unique names")
    for array in codec.codes:
        _check_name("array", array.name)
        fewest = max(1, (array.levels - 1).bit_length())
        _require(array.bits == fewest <= 32, f"{array}: {array.levels} levels need {fewest} bits, at most 32")
    total, said = sum(array.bits_per_row for array in codec.codes), codec.bits_per_label()
    _require(said == total, f"bits_per_label is {said}, but the arrays sum to {total}")


def check_fit(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codec:
    """Check that the same seed gives the same codec, whatever torch's own generator did; return it fitted."""
    contexts = None if context_BC is None else [context_BC]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        fitted = codec.fit([rows_BC], seed=SEED, contexts=contexts)
        _require(torch.equal(torch.get_rng_state(), before), "fit draws from torch's generator; use another")
        torch.manual_seed(2)
        again = codec.fit([rows_BC], seed=SEED, contexts=contexts)
    _require(fitted == again, f"the same rows and seed gave {fitted!r} and {again!r}")
    _require(fitted.spec == codec.spec, f"fit changed the spec from {codec.spec} to {fitted.spec}")
    _require(fitted.takes_context == codec.takes_context, "fit changed whether the codec takes a context")
    _require(fitted.can_encode, "can_encode is False after fit")
    _same_tensors("fitting twice", _all_tensors(fitted), _all_tensors(again))
    starts = range(0, len(rows_BC), 5)
    parts = None if context_BC is None else (context_BC[i : i + 5] for i in starts)
    blocks = codec.fit((rows_BC[i : i + 5] for i in starts), seed=SEED, contexts=parts)
    _require(blocks == fitted, "the same rows in smaller blocks give other settings")
    return fitted


def check_context(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None) -> None:
    """Check that a codec that takes a context uses it, leaves it as it was, and cannot do without."""
    if context_BC is None:
        return
    given_BC = context_BC.clone()
    codes = codec.encode(rows_BC, given_BC)
    _require(torch.equal(given_BC, context_BC), "encode changed the context it was given")
    decoded_BC = codec.decode(codes, given_BC)
    _require(torch.equal(given_BC, context_BC), "decode changed the context it was given")
    flipped_BC = context_BC.flip(0)
    other_BC = codec.decode(codes, flipped_BC)
    _require(not torch.equal(other_BC, decoded_BC), "decode gives the same rows whatever their context is")
    _close("decode_onto", codec.decode_onto(given_BC.clone(), codes), decoded_BC)
    found = [codec.features(each_BC) for each_BC in (context_BC, flipped_BC, context_BC + 2 * flipped_BC)]
    features_BX, others_BX, sums_BX = found
    if features_BX is not None and others_BX is not None and sums_BX is not None:
        _close("features of sums", sums_BX, features_BX + 2 * others_BX)
        _close("decode_onto of features", codec.decode_onto(given_BC, codes, features_BX), decoded_BC)
    _refused("encode without the context", lambda: codec.encode(rows_BC))
    _refused("decode without the context", lambda: codec.decode(codes))


def check_encode(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
    """Check names, shapes, dtypes and ranges of codes, and that the rows are left as they were."""
    given_BC = rows_BC.clone()
    codes = codec.encode(given_BC, context_BC)
    _require(torch.equal(given_BC, rows_BC), "encode changed the rows it was given")
    _check_codes(codec, codes, len(rows_BC))
    kept = {name: values.clone() for name, values in codes.items()}
    given_BC.zero_()
    _same_tensors("codes share memory with the rows: when those change", codes, kept)
    columns_BC = rows_BC.t().contiguous().t()
    found = codec.encode(columns_BC, context_BC)
    n_other = _other_rows("rows that lie column by column", codec, rows_BC, found, codes, context_BC)
    _same_codes("rows that lie column by column", len(rows_BC), n_other)
    return codes


def check_decode(codec: Codec, codes: Codes, context_BC: Tensor | None = None) -> None:
    """Check shape, dtype and range of decoded rows, and that the codes are left as they were.

    Log-probabilities may be -inf, which is a probability of zero; all else is finite. Probabilities sum to 1.
    """
    kept = {name: values.clone() for name, values in codes.items()}
    rows_BC = codec.decode(codes, context_BC)
    n_rows = len(next(iter(codes.values())))
    found = f"{rows_BC.dtype} {list(rows_BC.shape)} on {rows_BC.device.type}"
    expected = f"torch.float32 {[n_rows, codec.gives.classes]} on {next(iter(codes.values())).device.type}"
    _require(found == expected, f"decode gives {found}; expected {expected}")
    gives = codec.gives.space
    allowed_BC = torch.isfinite(rows_BC) | ((rows_BC == -torch.inf) & (gives == "log_probs"))
    _require(bool(allowed_BC.all()), f"decoded {gives} hold {rows_BC[~allowed_BC][:1].tolist()}")
    if gives != "logits":
        mass_B = (rows_BC.exp() if gives == "log_probs" else rows_BC).sum(dim=-1)
        off = float((mass_B - 1).abs().max()) if n_rows else 0.0
        _require(off < 0.05, f"decoded {gives} sum to 1 but for {off:.3g}; expected at most 0.05")
    rows_BC.zero_()
    _same_tensors("decode changed the codes, or its rows share their memory", codes, kept)


def check_sparse(codec: Codec, codes: Codes) -> None:
    """Check that the classes that are kept are those of whole rows, each once; codecs that keep all refuse."""
    if not codec.is_sparse:
        _refused("decode_sparse of a codec that keeps all classes", lambda: codec.decode_sparse(codes))
        return
    rows = codec.decode_sparse(codes)
    _require(rows.spec == codec.gives, f"decode_sparse gives {rows.spec}; expected {codec.gives}")
    found, expected = rows.ids_BK.shape, (len(next(iter(codes.values()))), rows.log_probs_BK.shape[1])
    _require(found == expected, f"decode_sparse gives ids {list(found)}; expected {list(expected)}")
    sorted_BK = rows.ids_BK.sort(dim=1).values
    is_twice_BK = (sorted_BK.diff(dim=1) == 0) & (sorted_BK[:, 1:] != NO_CLASS)
    inside = bool(((sorted_BK >= NO_CLASS) & (sorted_BK < codec.gives.classes)).all())
    _require(
        inside and not bool(is_twice_BK.any()), "decode_sparse names a class twice, or one that there is not"
    )
    _close("decode_sparse", rows.dense(), codec.decode(codes))


def check_batches(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None = None) -> None:
    """Check that a row's codes and its decoding do not depend on the other rows of the batch."""
    codes = codec.encode(rows_BC, context_BC)
    decoded_BC = codec.decode(codes, context_BC)
    for n_rows in ODD_BATCHES:
        n_other = n_seen = 0
        for start in range(0, max(1, min(PIECES * n_rows, len(rows_BC) - n_rows)), max(1, n_rows)):
            piece = slice(start, start + n_rows)
            part_context_BC = None if context_BC is None else context_BC[piece]
            found = codec.encode(rows_BC[piece], part_context_BC)
            _check_codes(codec, found, n_rows)
            expected = {name: values[piece] for name, values in codes.items()}
            where = f"batches of {n_rows}"
            n_other += _other_rows(where, codec, rows_BC[piece], found, expected, part_context_BC)
            n_seen += n_rows
            found_BC = codec.decode(expected, part_context_BC)
            shape = (n_rows, codec.gives.classes)
            _require(
                found_BC.shape == shape,
                f"{n_rows} rows decode to {list(found_BC.shape)}; expected {list(shape)}",
            )
            _close(f"decoding a batch of {n_rows}", found_BC, decoded_BC[piece])
        _same_codes(f"batches of {n_rows}", n_seen, n_other)


def check_state(codec: Codec, rows_BC: Tensor, context_BC: Tensor | None = None) -> None:
    """Check that a codec comes back from its tensors, decodes from `state()` alone, and refuses wrong ones."""
    state, encoder_state = codec.state(), codec.encoder_state()
    both = state.keys() & encoder_state.keys()
    _require(not both, f"state and encoder_state both hold {', '.join(sorted(both))}")
    copies = {name: tensor.clone().contiguous() for name, tensor in _all_tensors(codec).items()}
    fresh = _make(codec, codec.spec, codec.get_config())
    whole = fresh.load_state(copies)
    _same_tensors("load_state(state and encoder_state)", _all_tensors(whole), copies)
    _require(whole.can_encode, "can_encode is False after load_state with all tensors")
    codes = codec.encode(rows_BC, context_BC)
    _same_tensors("encoding after load_state", whole.encode(rows_BC, context_BC), codes)
    decoder = fresh.load_state({name: copies[name] for name in state})
    decoded_BC = codec.decode(codes, context_BC)
    found_BC = decoder.decode(codes, context_BC)
    _require(torch.equal(found_BC, decoded_BC), "load_state(state()) does not decode as the codec it came from")
    if encoder_state:
        _require(not decoder.can_encode, "can_encode is True without encoder_state")
        _refused("encode without encoder_state", lambda: decoder.encode(rows_BC, context_BC))
    more = {**copies, "no_such_tensor": torch.zeros(1)}
    _refused("load_state with an unknown tensor", partial(fresh.load_state, more))
    for name in state:
        less = {other: tensor for other, tensor in copies.items() if other != name}
        _refused(f"load_state without {name}", partial(fresh.load_state, less))
        for what, wrong in (("shape", copies[name][None]), ("dtype", copies[name].to(torch.complex64))):
            changed = {**copies, name: wrong}
            _refused(f"load_state with {name} of another {what}", partial(fresh.load_state, changed))
    moved = codec.to(rows_BC.device)
    _require(torch.equal(moved.decode(codes, context_BC), decoded_BC), "to(device) decodes otherwise")


def check_at_bits(codec: Codec) -> None:
    """Check that `at_bits` never costs more than was asked for, keeps what is set, and refuses the impossible."""
    cls, spec, bits = type(codec), codec.spec, codec.bits_per_label()
    kept = cls.at_bits(spec, bits, **codec.get_config())
    _require(kept == codec, f"at_bits with every setting given changed {codec!r} to {kept!r}")
    _refused("at_bits of 0", lambda: cls.at_bits(spec, 0))
    costs: list[int] = []
    for target_bits in (bits / 7, bits / 2, bits - 0.5, bits, bits + 0.5, 3 * bits):
        try:
            found = cls.at_bits(spec, target_bits)
        except CodecError as error:
            _require(not costs, f"at_bits refuses {target_bits:g} bits, but gave {costs} for less: {error}")
            continue
        costs.append(found.bits_per_label())
        _require(costs[-1] <= target_bits, f"at_bits({target_bits:g}) gives {costs[-1]} bits: {found!r}")
    _require(costs == sorted(costs), f"at_bits gives fewer bits where more are asked for: {costs}")


def check_other_sizes(codec: Codec) -> None:
    """Check rows of 2 classes and of very many; a codec may refuse its settings there, but not break."""
    for classes, n_rows in OTHER_SIZES.items():
        spec = dataclasses.replace(codec.spec, classes=classes)
        try:
            other = _make(codec, spec, codec.get_config())
        except CodecError as error:
            _require(len(str(error)) > 20, f"settings refused at {classes} classes without a reason: {error}")
            other = type(codec).at_bits(spec, ENOUGH_BITS)
        rows_BC = random_rows(spec, n_rows, seed=SEED)
        context_BC = made_up_context(other, rows_BC)
        fitted = other.fit([rows_BC], seed=SEED, contexts=None if context_BC is None else [context_BC])
        check_decode(fitted, check_encode(fitted, rows_BC, context_BC), context_BC)


def _make(codec: Codec, spec: LabelSpec, config: Mapping[str, object]) -> Codec:
    if codec.codec_id in codec_ids():
        return make_codec(codec.codec_id, spec, config)
    try:  # a codec under way, whose package does not yet bring an entry point
        return type(codec)(spec, **config)
    except TypeError as error:
        raise CodecError(str(error)) from None


def _all_tensors(codec: Codec) -> dict[str, Tensor]:
    return {**codec.state(), **codec.encoder_state()}


def _check_codes(codec: Codec, codes: Codes, n_rows: int) -> None:
    declared = {array.name: array for array in codec.codes}
    _require(codes.keys() == declared.keys(), f"encode gives {list(codes)}; declared are {list(declared)}")
    for name, array in declared.items():
        values = codes[name]
        found = f"{values.dtype} {list(values.shape)}"
        expected = f"{code_dtype(array.bits)} {[n_rows, *array.shape]}"
        _require(found == expected, f"codes {name} are {found}; expected {expected}")
        # Codes of 16 and of 32 bits fill their signed dtype; narrower ones stand in it as they are.
        fills = array.bits == 8 * values.element_size()
        numbers = code_values(values, array.bits) if fills else values.to(torch.int64)
        wrong = numbers[(numbers < 0) | (numbers >= array.levels)]
        _require(not len(wrong), f"codes {name} hold {wrong[:3].tolist()}; expected 0 to {array.levels - 1}")


def _other_rows(
    where: str, codec: Codec, rows_BC: Tensor, found: Codes, expected: Codes, context_BC: Tensor | None
) -> int:
    """Return how many rows have other codes that decode to other rows, which must be about as good."""
    if all(torch.equal(found[array.name], expected[array.name]) for array in codec.codes):
        return 0
    found_BC, expected_BC = codec.decode(found, context_BC), codec.decode(expected, context_BC)
    is_other_B = ~_are_close(found_BC, expected_BC).all(dim=1)
    if bool(is_other_B.any()):
        takes = codec.gives if codec.spec.space == HIDDEN else codec.spec
        teacher_BC = _probs(codec.teacher_rows(rows_BC)[is_other_B], takes)
        found_off, expected_off = (
            float((_probs(decoded_BC[is_other_B], codec.gives) - teacher_BC).abs().sum(dim=1).mean())
            for decoded_BC in (found_BC, expected_BC)
        )
        _require(
            found_off <= AS_GOOD * expected_off + NEARLY,
            f"{where}: a row is coded otherwise than in the whole batch, and its probabilities are {found_off:.3g} off "
            f"the teacher's in all instead of {expected_off:.3g}; expected codes that are as good",
        )
    return int(is_other_B.sum())


def _probs(rows_BC: Tensor, spec: LabelSpec) -> Tensor:
    return torch.softmax(to_logits(rows_BC.float(), spec), dim=1)


def _same_codes(where: str, n_rows: int, n_other: int) -> None:
    most = max(1, n_rows // ONE_IN)
    _require(
        n_other <= most,
        f"{where}: {n_other} of {n_rows} rows are coded otherwise than in the whole batch, and decode to other rows; "
        f"expected {most} at most, where rounding decides between codes that are as good",
    )


def _same_tensors(where: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    _require(found.keys() == expected.keys(), f"{where}: found {sorted(found)}; expected {sorted(expected)}")
    for name, tensor in expected.items():
        same = found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        _require(same, f"{where}: {name} is not the same to the bit")


def _close(where: str, found_BC: Tensor, expected_BC: Tensor) -> None:
    same = bool(_are_close(found_BC, expected_BC).all())
    _require(same, f"{where}: rows are other ones, by more than {SAME:g} of the largest number")


def _are_close(found_BC: Tensor, expected_BC: Tensor) -> Tensor:
    finite_BC = torch.isfinite(expected_BC)
    scale = float(expected_BC[finite_BC].abs().max()) if bool(finite_BC.any()) else 1.0
    return torch.isclose(found_BC, expected_BC, rtol=SAME, atol=SAME * scale)


def _check_name(what: str, name: str) -> None:
    _require(NAME.fullmatch(name) is not None, f"{what} is named {name!r}; expected {NAME.pattern}")


def _refused(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except CodecError as error:
        _require(len(str(error)) > 10, f"{what} is refused without a reason: {error}")
        return
    raise AssertionError(f"{what} is accepted; expected a CodecError")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
