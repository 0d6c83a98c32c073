"""Labels as MaxText's trainer reads them: an ArrayRecord of a tf.Example for each sequence; see `maxtext`.

The values are log-probabilities, which are logits as good as any.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from softpack.sources.encoding import Counted
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.maxtext import import_array_record
from softpack.sources.peers.tf_example import example_of
from softpack.sources.peers.to_folder import label_folder
from softpack.sources.peers.to_sequences import Sequences

FILES = r"teacher_top_k_part_\d+_host_\d+\.array_record"
FILE_BYTES = 256 << 20


def write_maxtext(
    path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None
) -> None:
    """Write the labels of an `.spk` file as a set of MaxText, which appears whole or not at all.

    Args:
        path: of the `.spk` file, which says the tokens of its sequences.
        out: of the folder.
        asked: how many tokens are kept of a row.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: the file does not say what the layout needs, or array_record is not installed.
        ExistsError: `out` is there, and `force` is not given.
    """
    module = import_array_record()
    sequences = Sequences.of(path, asked.k, True, counted, asked.matrix)
    sequences.check_one_length("MaxText")
    with label_folder(path, out, force, FILES) as folder:
        writer, n_files, n_bytes = None, 0, 0
        for sequence in sequences:
            sequence.check_full(str(path))
            if writer is None:
                name = f"teacher_top_k_part_{n_files:05d}_host_000.array_record"
                writer = module.ArrayRecordWriter(str(folder / name), "group_size:1")
            assert sequence.tokens is not None
            n = len(sequence.ids_Rk)
            record = example_of(
                {
                    "inputs": sequence.tokens[:n],
                    "top_k_logits": sequence.log_probs_Rk.reshape(-1).astype(np.float32),
                    "top_k_indices": sequence.ids_Rk.reshape(-1),
                    "targets": sequence.tokens[1:],
                    "targets_segmentation": (sequence.tokens[1:] >= 0).astype(np.int64),
                }
            )
            writer.write(record)
            n_bytes += len(record)
            if n_bytes > FILE_BYTES:
                writer.close()
                writer, n_files, n_bytes = None, n_files + 1, 0
        if writer is not None:
            writer.close()
