"""LPQLD's label sets: `batch_0.tar` and so on, each a list as `fkdmix` describes, and the items of each in a JSON file.

Files hold the k largest logits of each row (arXiv:2604.18135), or all of them. There are no folders of epochs: a batch
is of the next view where it has an item that its view has already.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import rows_of
from softpack.sources.peers.given import Given
from softpack.sources.peers.listed_files import Listed, Numbered, open_listed
from softpack.sources.peers.orders import BatchOrder
from softpack.sources.peers.row_files import RowFiles

INDEX = "sampler_indices_batch.json"


def open_lpqld(path: Path, given: Given) -> RowFiles:
    """Open a set of LPQLD.

    Raises:
        DataError: it is none, a batch is missing, or it does not say how many classes there are and nobody does.
    """
    found = Numbered.of(path, "batch_", INDEX)
    order = BatchOrder(path / INDEX, None if given.folder is None else len(given.folder))
    listed = Listed(
        order.n_items, order.n_epochs, order.epoch_of, order.items_of, np.array(list(found.names)), order.how
    )
    take = partial(rows_of, classes=given.classes, replay=given.replay)
    return open_listed(found, listed, given, take, LabelSpec)
