"""One run of labelling, from the first views to the file, or what is left of one that was stopped.

A first block of views goes into `OUT.spool`, an `.spk` file of fp32 rows, which the codec is fitted to and prototypes
are learned from. From there, and then from the teacher, rows go into `OUT.unfinished`, whose codes become `OUT` in the
end. Both are committed now and then, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from softpack.codecs.abc import Progress, Stage
from softpack.container.create import append, create
from softpack.container.gathering import fit_rows
from softpack.container.model import Model
from softpack.container.reader import Labels
from softpack.container.repack import repack
from softpack.container.stopped import alone, clear_way, make_way, make_whole, unfinished_of
from softpack.container.writer import Writer
from softpack.data.inputs import images_of
from softpack.data.thumbprint import check_images
from softpack.errors import DataError
from softpack.rate.choose import Wanted, choose
from softpack.rate.trial import Trial
from softpack.recipe import Recipe
from softpack.relabelling.labeller import Labeller, same_logits
from softpack.relabelling.survey import Survey, survey
from softpack.relabelling.teacher import Teacher
from softpack.relabelling.views import DrawnViews, ViewPixels
from softpack.sources.encoding import check_device
from softpack.sources.learning import learn
from softpack.sources.opening import open_source

SPOOL = ".spool"
SPOOL_VIEWS = 16  # of each item, which prototypes are learned from


@dataclasses.dataclass
class Run:
    """One run of `relabel`, or what is left of one.

    Args:
        out: of the file.
        wanted: of the encoding.
        n_views: of each item.
        batch_size: views that the teacher sees at once.
        workers: processes that load images.
        store_replay: store the replay columns.
        force: overwrite `out`.
        stage: makes a progress bar for each stage of the work.
        say: is told of each plan that rate control tries.
    """

    out: Path
    wanted: Wanted
    n_views: int
    batch_size: int
    workers: int
    store_replay: bool
    force: bool
    stage: Stage | None
    say: Callable[[Trial, str], None]

    @property
    def spool(self) -> Path:
        """Of the first rows, uncoded."""
        return self.out.with_name(self.out.name + SPOOL)

    @property
    def unfinished(self) -> Path:
        """Of the coded rows so far."""
        return unfinished_of(self.out)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other runs away from the same files."""
        return alone(self.out)

    def prepare(self, restart: bool) -> None:
        """Refuse what cannot be done before anything is, and make whole what an interrupted run left."""
        for name, value in (("views", self.n_views), ("batch_size", self.batch_size)):
            check_whole(name, value)
        check_device(self.wanted.device)
        make_way(self.out, self.unfinished, self.force)
        for path in (self.spool, self.unfinished):
            make_whole(path, restart)

    def label(
        self,
        teacher: Teacher,
        images: Any,
        recipe: Recipe,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        spool_views: int | None,
    ) -> None:
        """Do all of it that has not been done."""
        with self.bar("looking at images", "image") as bar:
            found = survey(images, recipe.seed, self.workers, lambda done, total: bar(done, total, ""))
        recipe = dataclasses.replace(recipe, items=len(found))
        pixels = ViewPixels(images, DrawnViews(recipe, found.source_hw_N2, self.n_views), mean, std)
        labeller = Labeller(teacher, pixels, self.batch_size, self.workers, self.bar)
        self._check_same(recipe, found, labeller.probe, images)
        if not self.unfinished.exists():
            n_spooled = self._n_spooled(spool_views, len(found), labeller.classes)
            if not self.spool.exists():
                self.begin_spool(labeller, found)
            with append(self.spool) as writer:
                labeller.write(writer, self.spool, range(n_spooled), "labelling the first views")
            self.begin_coded(labeller, found)
        self.spool.unlink(missing_ok=True)
        with append(self.unfinished, device=self.wanted.device) as writer:
            labeller.write(writer, self.unfinished, range(self.n_views), "labelling")
        check_images(images_of(images), found.thumbprints)  # that they stayed the same
        clear_way(self.out)
        with self.bar("writing", "row") as bar:
            repack(
                self.unfinished, self.out, force=self.force, counted=lambda done, total: bar(done, total, "")
            )
        self.unfinished.unlink()

    def _n_spooled(self, asked: int | None, n_items: int, classes: int) -> int:
        """Return how many views of each item are spooled: what prototypes, and what the fit takes twice over."""
        if asked is not None:
            check_whole("spool_views", asked)
        n = max(SPOOL_VIEWS, -(-2 * fit_rows(classes) // n_items)) if asked is None else asked
        return max(1, min(n, self.n_views))

    def begin_spool(self, labeller: Labeller, found: Survey) -> None:
        """Make the file of the first rows, with no row in it yet."""
        settings = {"dtype": "fp32", "classes": labeller.classes}
        with self._created(self.spool, "raw", labeller, found, False, settings):
            pass

    def begin_coded(self, labeller: Labeller, found: Survey) -> None:
        """Choose and fit the codec, and write what is spooled with it."""
        source = open_source(self.spool, kind="spk")
        n_rows = len(found) * self.n_views
        with self.bar("fitting", "step") as bar:
            model = choose(source, self.wanted, n_rows=n_rows, progress=bar, say=self.say)
        learned = learn(source, basis=model.basis) if model.prototypes is not None else None
        settings: dict[str, Any] = {} if learned is None else {"prototypes": learned.rows_NPC}
        if self.wanted.max_kl is not None:
            settings |= {"max_kl": self.wanted.max_kl, "temperatures": self.wanted.temperatures or None}
        with (
            self._created(self.unfinished, model, labeller, found, self.store_replay, settings) as writer,
            self.bar("encoding", "row") as bar,
        ):
            done = 0
            for block in source.blocks(fit_rows(source.spec.classes)):
                writer.add(dataclasses.replace(block, replay={}))
                done += len(block)
                bar(done, source.n_rows, "")

    def _created(
        self,
        path: Path,
        codec: str | Model,
        labeller: Labeller,
        found: Survey,
        store_replay: bool,
        settings: Mapping[str, Any],
    ) -> Writer:
        recipe = labeller.recipe
        writer = create(
            path, codec, items=len(found), views=self.n_views, recipe=recipe, replay=store_replay,
            images=found.thumbprints, notes=self._notes(labeller.probe), appendable=True, seed=self.wanted.seed,
            device=self.wanted.device, mix_wh=(recipe.size, recipe.size), **settings,
        )  # fmt: skip
        columns = {"source_hw": found.source_hw_N2, "target": found.target_N}
        writer.set_items(**{name: values for name, values in columns.items() if values is not None})
        return writer

    @property
    def encoding(self) -> str:
        """What is wanted of it, as the file notes it."""
        wanted, target = self.wanted, self.wanted.target
        asked = {**vars(target)} if target is not None else {}
        asked |= {"temperatures": wanted.temperatures, "max_kl": wanted.max_kl, **wanted.settings}
        asked["replay"] = "stored" if self.store_replay else None
        said = [f"{name}={value}" for name, value in asked.items() if value not in (None, ())]
        return " ".join([wanted.codec_id or "any codec", *said])

    def _notes(self, probe: str) -> dict[str, Any]:
        return {"teacher": probe, "views": self.n_views, "encoding": self.encoding}

    def _check_same(self, recipe: Recipe, found: Survey, probe: str, images: Any) -> None:
        """Refuse to go on with what another run left."""
        for path in (self.spool, self.unfinished):
            if not path.exists():
                continue
            labels = Labels(path)
            header = labels.file.header
            ways = [f"{n} is {a!r}, and was {b!r}" for n, a, b in _differences(recipe, header.recipe)]
            asked = {"views": self.n_views} | ({"encoding": self.encoding} if path == self.unfinished else {})
            ways += [
                f"{name} is {new}, and was {header.made_by.get(name)}"
                for name, new in asked.items()
                if header.made_by.get(name) != new
            ]
            if not _same_images(labels, found, images):
                ways.append("the images are others, in size, in class or in how they look")
            if not same_logits(probe, str(header.made_by.get("teacher"))):
                ways.append("the teacher gives other logits: its weights, mean or std are others")
            if ways:
                raise DataError(
                    f"{path}: was left by another run: {'; '.join(ways)}. Call it as it was, or with restart=True "
                    "(--restart) to throw that away"
                )

    def bar(self, what: str, unit: str) -> AbstractContextManager[Progress]:
        """Return what shows how far a stage of the work is."""
        return nullcontext(lambda done, total, seen: None) if self.stage is None else self.stage(what, unit)


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number from 1.

    Raises:
        DataError: says so.
    """
    if type(value) is not int or value < 1:
        raise DataError(f"relabel: {name} is {value!r}; expected a whole number from 1")


def _differences(new: Recipe, old: Recipe | None) -> list[tuple[str, Any, Any]]:
    """Return the settings in which two recipes differ, with what they are in both."""
    if old is None:
        return [("the recipe", new, None)]
    return [(name, a, b) for name, a in vars(new).items() if (b := getattr(old, name)) != a]


def _same_images(labels: Labels, found: Survey, images: Any) -> bool:
    """Return whether images are those that labels are of, as far as the file knows them."""
    columns = {"source_hw": found.source_hw_N2, "target": found.target_N}
    for name, values in columns.items():
        was_there = name in labels.item_columns
        if was_there != (values is not None):
            return False
        if values is not None and not np.array_equal(labels.item_column(name), values):
            return False
    try:
        check_images(images_of(images), labels.images)
    except DataError:
        return False
    return True
