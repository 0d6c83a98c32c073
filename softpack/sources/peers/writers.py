"""What writes labels as others lay them out, by the names of `peers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from softpack.sources.encoding import Counted
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.to_distillkit import write_distillkit
from softpack.sources.peers.to_fkd import write_fkd
from softpack.sources.peers.to_fkdmix import write_edc, write_gvbsm, write_lpqld, write_sre2l
from softpack.sources.peers.to_maxtext import write_maxtext
from softpack.sources.peers.to_megatron import write_megatron
from softpack.sources.peers.to_tinyvit import write_tinyvit
from softpack.sources.peers.to_vllm import write_vllm

# Path of the `.spk` file, folder, what is asked of the layout, whether to replace it, and what is told how far it is.
WRITERS: dict[str, Callable[[Path, Path, Asked, bool, Counted | None], None]] = {
    "sre2l": write_sre2l,
    "lpld": write_sre2l,
    "gvbsm": write_gvbsm,
    "edc": write_edc,
    "lpqld": write_lpqld,
    "fkd": write_fkd,
    "tinyvit": write_tinyvit,
    "distillkit": write_distillkit,
    "megatron": write_megatron,
    "maxtext": write_maxtext,
    "vllm": write_vllm,
}
