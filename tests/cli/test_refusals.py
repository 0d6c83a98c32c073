"""What softpack refuses: the message, the exit code, and that nothing is left behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

COMMANDS_ON_A_FILE = (
    "info {}", "verify {}", "ledger {}", "eval {} --against logits.npz", "decode {} -o new.npz",
    "transcode {} -o new.spk", "encode {} -o new.spk --codec raw", "recover {}",
)  # fmt: skip


def no_spk(path):
    path.write_bytes(b"hello, world")
    return (
        r"bad\.spk is not an \.spk file: it begins with b'hello, w', expected b'.*transfer it again in binary"
    )


def truncated(path):
    path.write_bytes(path.with_name("labels.spk").read_bytes()[:-64])
    return r"bad\.spk: does not end with a commit .*: it was cut off.*`softpack recover .*bad\.spk` gives back"


def flipped(path):
    data = bytearray(path.with_name("labels.spk").read_bytes())
    data[30] ^= 4
    path.write_bytes(data)
    return r"bad\.spk: the superblock fails its checksum; copy the file again from its source"


def later(path):
    data = bytearray(path.with_name("labels.spk").read_bytes())
    data[8:10] = (2).to_bytes(2, "little")
    data[56:64] = xxhash.xxh64_intdigest(bytes(data[:56])).to_bytes(8, "little")
    path.write_bytes(data)
    return r"bad\.spk is of \.spk version 2\.0; this softpack reads 1\.x\. Install a later softpack"


def folder(path):
    path.mkdir()
    return r"bad\.spk: is a (directory|folder)[,;] expected (an \.spk file|a file)"


def missing(path):
    return r"bad\.spk: (is not there; expected an? (file|.spk file)|cannot be (opened|written): No such file)"


@pytest.mark.parametrize(
    "damage", [no_spk, flipped, later, truncated, folder, missing], ids=lambda f: f.__name__
)
def test_files_that_cannot_be_used_are_refused_by_every_command(refused, here, damage):
    expected = damage(here / "bad.spk")
    commands = COMMANDS_ON_A_FILE[:-1] if damage is truncated else COMMANDS_ON_A_FILE
    for command in commands:
        said = refused(command.format("bad.spk"))
        assert re.search(expected, said), (command, said)


def test_a_flipped_bit_among_the_codes_stops_what_reads_them(refused, here, flip_a_code):
    number = flip_a_code(here / "labels.spk")
    for command in ("decode {} -o new.npz", "eval {} --against logits.npz", "transcode {} -o new.spk"):
        said = refused(command.format("labels.spk"))
        assert said.startswith(
            f"softpack: labels.spk, block {number} (tile): the payload fails its checksum: the bytes are not"
        )
        assert "copy the file again from where it is whole; or `softpack recover FILE` leaves out" in said


def with_nan(labels_NVC):
    labels_NVC[2, 1, 7] = np.nan
    return {"logits": labels_NVC}


def no_probabilities(labels_NVC):
    return {"probs": np.abs(labels_NVC)}


def twice(labels_NVC):
    return {"logits": labels_NVC[0], "item": np.array([0, 1, 1, 2]), "view": np.array([0, 3, 3, 0])}


def partner_outside(labels_NVC):
    mix_item = np.full((6, 4), -1)
    mix_item[1, 2] = 6
    return {"logits": labels_NVC, "mix_item": mix_item, "mix_lam": np.ones((6, 4))}


def partner_without_a_row(labels_NVC):
    return {
        "logits": labels_NVC[0], "item": np.array([0, 0, 1, 1]), "view": np.array([0, 1, 0, 2]),
        "mix_item": np.array([1, 1, -1, -1]), "mix_lam": np.full(4, 0.5),
    }  # fmt: skip


def pickled(labels_NVC):
    return {"logits": np.array([{"code": 1}, labels_NVC], object)}


def nothing_known(labels_NVC):
    return {"scores": labels_NVC}


def infinite(labels_NVC):
    return {"logits": labels_NVC.astype("f8") * 1e300}


@pytest.mark.parametrize(
    ("made_of", "expected"),
    [
        (
            with_nan,
            "logits, class 7, of row 9 (item 2, view 1) is nan; expected finite numbers, or -inf for a",
        ),
        (infinite, "of row 0 (item 0, view 0) (and 23 more of the 24 rows read with it) is "),
        (no_probabilities, "expected 1 within 0.011; softmax the rows, or name them logits if they are"),
        (twice, "item 1, view 3 is there twice; every (item, view) has one label"),
        (partner_outside, "mix_item of row 6 (item 1, view 2) is 6; expected an item from 0 to 5, or -1"),
        (partner_without_a_row, "item 1, view 1 is named as a mix partner, but has no label"),
        (pickled, "holds pickled objects, which could run code; softpack never unpickles; save it as an array"),
        (nothing_known, "has none of the arrays logits, log_probs, probs; expected exactly one: rename"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rows_that_cannot_be_used(refused, here, labels_NVC, made_of, expected):
    np.savez(here / "bad.npz", **made_of(labels_NVC.copy()))
    said = refused("encode bad.npz -o new.spk --codec raw --set dtype=fp32")
    assert said.startswith("softpack: bad.npz: ")
    assert expected in said


def test_a_bad_row_behind_good_ones_leaves_no_file(refused, here, labels_NVC, monkeypatch):
    monkeypatch.setattr("softpack.sources.base.BLOCK_VALUES", 50)
    np.savez(here / "bad.npz", **with_nan(labels_NVC.copy()))
    assert "item 2, view 1" in refused("encode bad.npz -o new.spk --codec raw")
    assert "item 2, view 1" in refused("encode bad.npz -o labels.spk --codec raw --force")


def test_hdf5_that_points_at_other_files(refused, here, labels_NVC):
    with h5py.File(here / "link.h5", "w") as file:
        file["logits"] = h5py.ExternalLink("logits.h5", "logits")
    with h5py.File(here / "soft.h5", "w") as file:
        file["logits"] = h5py.SoftLink("/elsewhere")
    with h5py.File(here / "external.h5", "w") as file:
        file.create_dataset("logits", (6, 4, 10), "f2", external=[("logits.npy", 128, labels_NVC.nbytes)])
    for name, expected in {
        "link": "link.h5: logits is a ExternalLink to another place; expected a dataset in the file itself",
        "soft": "soft.h5: logits is a SoftLink to another place; expected a dataset in the file itself",
        "external": "external.h5: logits keeps its numbers in other files; expected them in the file itself",
    }.items():
        assert expected in refused(f"encode {name}.h5 -o new.spk --codec raw")


def test_rows_of_another_width(refused, here, labels_NVC):
    np.save(here / "wide.npy", np.concatenate([labels_NVC, labels_NVC], axis=-1))
    assert refused("eval labels.spk --against wide.npy") == (
        "softpack: labels.spk has rows of 10 classes and wide.npy of 20; expected the source that the file was made "
        "from\n"
    )


def test_nothing_is_overwritten_without_force(refused):
    for line in (
        "encode logits.npz -o labels.spk --codec raw",
        "fit logits.npz -o labels.spk --codec raw",
        "transcode probs.npz -o labels.spk",
        "decode labels.spk -o logits.npy",
    ):
        said = refused(line)
        assert re.search(r"(labels\.spk|logits\.npy) is there already; give --force to overwrite it", said), (
            line
        )
        assert "force=True" not in said  # which is for Python


def test_not_even_force_writes_over_the_source(refused, here):
    (here / "same.npz").symlink_to("logits.npz")
    for line in (
        "encode logits.npz -o logits.npz",
        "encode logits.npz -o same.npz",
        "fit logits.npz -o logits.npz",
        "transcode labels.spk -o labels.spk",
        "decode labels.spk -o labels.spk --to npz",
    ):
        assert "is the source itself, which would be lost; write to another file" in refused(
            f"{line} --force"
        ), line


@pytest.mark.parametrize("command", ["encode logits.npz --codec raw", "fit logits.npz --codec raw",
                                     "transcode labels.spk", "decode labels.spk --to npz"])  # fmt: skip
def test_outputs_that_cannot_be_written(refused, here, command):
    assert "nowhere/new: cannot be written, as there is no folder nowhere; make it first" in refused(
        f"{command} -o nowhere/new"
    )
    assert ".: is a folder; expected the name of a file to write" in refused(f"{command} -o .")


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (KeyboardInterrupt, 1, "Aborted!"),
        (MemoryError, 1, "softpack: not enough memory for this; free some, or take a smaller sample"),
    ],
)
@pytest.mark.parametrize("line", ["encode logits.npz -o new.spk --codec raw", "decode labels.spk -o new.npz",
                                  "transcode labels.spk -o new.spk"])  # fmt: skip
def test_what_stops_a_command_leaves_nothing_behind(run_any, here, monkeypatch, line, stop, code, said):
    def stopped(*arguments):
        raise stop

    before = set(here.iterdir())
    monkeypatch.setattr("softpack.cli.progress.Bar.__call__", stopped)  # after the first rows
    ran = run_any(line)
    assert (ran.code, ran.out, ran.err.strip()) == (code, "", said)
    assert set(here.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", ["encode logits.npz --codec raw", "decode labels.spk --to npz"])
def test_a_folder_that_may_not_be_written(refused, here, command):
    (here / "locked").mkdir(mode=0o500)
    said = refused(f"{command} -o locked/new")
    assert said == (
        "softpack: locked/new: cannot be written, as locked may not be written to; take another folder\n"
    )


@pytest.mark.parametrize(
    "command", ["encode logits.npz -o {}/new --codec raw", "decode labels.spk -o {}/new --to npz"]
)
def test_a_folder_that_no_one_may_write(refused, command):
    folder = "/proc" if Path("/proc/self").is_dir() else "/dev/null"
    assert re.search(rf"softpack: {folder}/new: cannot be written[:,] ", refused(command.format(folder)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--codec quantize --set bits=9", "quantize: bits is 9; expected a whole number from 1 to 8"),
        ("--codec quantize --set bits=x", "quantize: bits is 'x'; expected a whole number"),
        ("--codec quantize --set bit=3", "quantize has no setting bit; its settings are bits"),
        ("--codec topk --set k=11", "topk: k is 11; expected a whole number from 1 to 10"),
        ("--codec topk --set k=3 --set tail=fat", "topk: tail is 'fat'; expected "),
        ("--codec nosuch", "codec 'nosuch' is not known here; found raw, quantize, topk, lowrank, vqae"),
        ("--codec topk --target-bits 3", "topk: 3 bits a label were asked for, but the least is 20 (k=1)"),
        ("--codec raw --device nosuch", "device 'nosuch' cannot be used here: "),
        ("--codec raw --device meta", "device 'meta' cannot be used here: "),
        ("--codec raw --space probs", "holds logits, but space probs was asked for"),
        ("--codec raw --from npy", "logits.npz: the array begins with b'PK"),
        ("--codec raw --from nosuch", "logits.npz: 'nosuch' is no kind of source; expected one of .npy, .npz"),
        ("--codec raw --source-temperature 4", "logits have no temperature, but 4.0 was given"),
        ("--model nosuch.spkm", "nosuch.spkm: cannot be opened: No such file"),
        ("--model logits.npy", "logits.npy is not an .spk file"),
    ],
)
def test_settings_that_softpack_refuses(refused, options, expected):
    assert expected in refused(f"encode logits.npz -o new.spk {options}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--items 0:7", "labels.spk: items 0:7 were asked for; expected a part of 0:6"),
        ("--items 3:3", "labels.spk: items 3:3 were asked for"),
        ("--views 4:", "labels.spk: views 4:4 were asked for; expected a part of 0:4"),
        ("--items 0:1", "is a mix partner of a selected row, but is not selected"),
        ("--as logits --temperature 2", "logits have no temperature, but 2 was asked for"),
        (
            "--to nosuch",
            "new.npz: 'nosuch' is no kind of output; expected one of .npy, .npz, .h5, .hdf5, .safe",
        ),
    ],
)
def test_selections_that_softpack_refuses(refused, options, expected):
    assert expected in refused(f"decode labels.spk -o new.npz {options}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("encod logits.npz", "No such command 'encod'"),
        ("encode", "Missing argument 'SOURCE'"),
        ("encode logits.npz", "Missing option '-o' / '--out'"),
        ("encode logits.npz -o new.spk --set k", "--set k: expected KEY=VALUE, such as --set bits=4"),
        ("encode logits.npz -o new.spk --set =3", "--set =3: expected KEY=VALUE"),
        ("encode logits.npz -o new.spk --set k=3 --set k=4", "--set k is there twice; give it once"),
        ("encode logits.npz -o new.spk --target-bits 0", "'--target-bits': 0: expected a positive number"),
        ("encode logits.npz -o new.spk --target-bits nan", "'--target-bits': nan: expected a positive number"),
        ("encode logits.npz -o new.spk --temperature inf", "'--temperature': inf: expected a positive number"),
        ("encode logits.npz -o new.spk --seed -1", "'--seed': -1: expected a whole number from 0 to 2**63 - 1"),
        ("decode labels.spk -o new.npz --items 3", "--items 3: expected A:B, such as --items 0:100"),
        ("decode labels.spk -o new.npz --views -1:3", "--views -1:3: expected A:B"),
        (
            "decode labels.spk -o new.npz --as odds",
            "'--as': 'odds' is not one of 'logits', 'log_probs', 'probs'",
        ),
        ("eval labels.spk", "Missing option '--against'"),
        (
            "eval labels.spk --against logits.npz --temperature 0",
            "'--temperature': 0: expected a positive number",
        ),
        ("ledger", "Missing argument 'FILES...'"),
        ("ledger labels.spk --format xml", "'--format': 'xml' is not one of"),
    ],
)
def test_wrong_usage(refused, line, expected):
    assert expected in refused(line, code=2)


def test_a_partial_file_of_a_killed_writer_is_kept(refused, run, here):
    (here / "new.spk.partial").write_bytes((here / "labels.spk").read_bytes())
    said = refused("encode logits.npz -o new.spk --codec raw")
    assert (
        "its writer was stopped, or is still writing. `softpack recover new.spk.partial` gives back what it had "
        "written; --force begins anew" in said
    )
    (here / "taken.spk.partial").write_bytes(b"")
    (here / "taken.spk").write_bytes(b"")
    assert "taken.spk is there already; move it away" in refused("recover taken.spk.partial")


def test_names_that_the_system_refuses(refused):
    name = 300 * "x"
    for line in (
        f"encode logits.npz -o {name}",
        f"encode {name}.npz -o new.spk",
        f"info {name}",
        f"recover {name}",
    ):
        assert re.search(rf"softpack: .*{name}.*: (.*File name too long|is not there)", refused(line)), line


def test_the_same_temperature_twice(refused):
    said = refused("eval labels.spk --against logits.npz --temperature 2 --temperature 2")
    assert "temperatures are (2.0, 2.0); expected at least one, each positive and given once" in said


def test_images_that_are_not_there(refused):
    assert "nowhere: there are no images here" in refused("ledger labels.spk --images nowhere")
