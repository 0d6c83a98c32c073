"""Choose codec and settings for a target: try on a sample, then fit the best.

Trials are short fits. They say which codec is best and how divergence falls with the bits; what is chosen is then
fitted in full and, for a divergence or a size, corrected by what it turned out to be.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from softpack.codecs.abc import Progress
from softpack.errors import CodecError
from softpack.rate.shares import Shares, moved, shares
from softpack.rate.target import Target
from softpack.rate.trial import FIXED_BYTES, Bench, Plan, Trial, degrees_worth

CODECS = ("vqae", "klt")  # that are tried where none is asked for
CLOSE = 0.05  # of what was asked: near enough
FITS = {"vqae": 4}  # in full, at most
CHEAP_FITS = 10  # of codecs that train nothing
SLOPE = -0.6  # of log KL over log bits, where nothing is known
LEAST_GAIN, MOST_GAIN = 0.25, 4.0  # measured bits for each bit more of a plan, as far as is believed
START_BITS = (64.0, 512.0, 4096.0, 32768.0)  # a divergence is looked for from the first that can be had
MOST_HIDDEN = 256  # units of a network
WIDE_CODEWORD, MANY_CLASSES = 16, 512  # numbers of a codeword where there are so many classes
LEAP = 4.0  # the bits are multiplied or divided by this at most, from one fit to the next
QUICK_STEPS, FULL_STEPS = 200, 5000
STILL_TO_GAIN = {"vqae": 0.7}  # what a fit in full leaves of the divergence of a short one
SEARCH = 8
LEAST_VIEWS = 2.0  # labels an item, below which a prototype costs what it saves
MOST_BITS = 8192.0
FIXED_SHARE = 0.2  # of a rate that the file's own parts may take before they come on top of it
BUDGET_SHARES = (0.35, 0.6, 0.8)  # of a budget that codes and prototypes may take, the rest being the model
Say = Callable[[Trial, str], None]


@dataclass
class Control:
    """Looks for the plan that meets a target best.

    Args:
        bench: tries plans.
        target: to meet; a divergence is that at the bench's first temperature.
        codec_id: of the codec; None chooses.
        settings: that stay as they are.
        progress: is told how far a full fit is.
        say: is told of every trial and what it was for.
    """

    bench: Bench
    target: Target
    codec_id: str | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    progress: Progress | None = None
    say: Say = lambda trial, what: None

    _fitted: dict[tuple[Any, ...], Trial] = dataclasses.field(default_factory=dict)  # in full

    def run(self) -> Trial:
        """Return the fitted model that meets the target.

        Raises:
            CodecError: it cannot be met; says what can.
        """
        if self.target.bits is not None:
            return self._at_bits(self.target.bits)
        if self.target.kl is not None:
            return self._at_kl(self.target.kl)
        return self._at_bytes(float(self.target.n_bytes or 0))

    # -- three targets ---------------------------------------------------------------------------------

    def _at_bits(self, bits: float) -> Trial:
        def counted(trial: Trial) -> float:
            plan = trial.plan
            return trial.marginal_bits - self._fixed_bits(plan) + self._counted_fixed(plan, bits)

        return self._first_landed(self._ranked(self._families(bits), "at that rate"), counted, bits)

    def _at_kl(self, kl: float) -> Trial:
        temperature = self.bench.temperatures[0]
        plan, bits = self._best_at_some_rate()
        tried: list[tuple[float, float, Trial]] = []
        for _ in range(FITS.get(plan.codec_id, CHEAP_FITS)):
            try:
                trial = self._full(self._plan_at(plan, bits))
            except CodecError:  # so few bits cannot be had
                if not any(entry[1] <= kl for entry in tried):
                    raise
                break
            found = trial.kl[temperature]
            tried.append((bits, found, trial))
            if (1 - CLOSE) * kl <= found <= kl or (found < kl and bits <= 1):
                break
            bits = _next_bits(tried, kl)
        good = [entry for entry in tried if entry[1] <= kl]
        if not good:
            nearest = min(tried, key=lambda entry: entry[1])
            raise CodecError(
                f"a KL of {kl:g} at T={temperature:g} cannot be met: the least found is {nearest[1]:.3g}, at "
                f"{nearest[2].marginal_bits:.0f} bits a label; ask for {nearest[1]:.3g} or more, or take raw"
            )
        return max(good, key=lambda entry: entry[1])[2]

    def _best_at_some_rate(self) -> tuple[Plan, float]:
        """Return the best plan at the first rate that some codec can have, and that rate."""
        refusals = []
        for bits in START_BITS:
            try:
                return self._ranked(self._families(bits), f"at {bits:g} bits")[0].plan, bits
            except CodecError as refusal:
                refusals.append(refusal)
        raise refusals[0]

    def _at_bytes(self, n_bytes: float) -> Trial:
        ranked = self._ranked(self._budget_plans(n_bytes), "in the budget", n_bytes)
        a_byte = 8 / self.bench.n_rows  # in bits a label
        return self._first_landed(ranked, lambda trial: trial.n_bytes * a_byte, n_bytes * a_byte)

    def _fixed_bits(self, plan: Plan) -> float:
        """Return the bits a label of the file's own parts, which no setting can change."""
        return 8 * self.bench.fixed_bytes(plan.takes_context) / self.bench.n_rows

    def _counted_fixed(self, plan: Plan, bits: float) -> float:
        """Return the bits of the file's own parts, or 0 where labels are so few that these would be all there is."""
        fixed = self._fixed_bits(plan)
        return fixed if fixed <= FIXED_SHARE * bits else 0.0

    # -- plans -----------------------------------------------------------------------------------------

    def _families(self, bits: float) -> Iterator[Plan]:
        """Yield each codec, with context and without, at a marginal rate."""
        for codec_id in [self.codec_id] if self.codec_id else CODECS:
            widths = width(codec_id, self.bench.source.n_rows, self.bench.source.spec.classes)
            for context, degree in self._contexts(codec_id):
                settings = {**widths, "context": context, **self.settings}
                yield self._plan_at(Plan(codec_id, settings, degree=degree), bits)

    def _contexts(self, codec_id: str) -> Iterator[tuple[bool, int]]:
        """Yield whether there is context, and the degree of the functions of crops that it is of."""
        asked = self.settings.get("context")
        views = self.bench.views
        if asked is None and (codec_id not in CODECS or views < LEAST_VIEWS):
            yield False, 0
            return
        if asked is not False:
            yield from ((True, degree) for degree in degrees_worth(self.bench.source, self.bench.replay))
        if not asked:
            yield False, 0

    def _plan_at(self, plan: Plan, bits: float) -> Plan:
        """Return a plan whose file costs about `bits` a label, model and replay not counted."""
        source = self.bench.source
        left = bits - self._counted_fixed(plan, bits)
        if not plan.takes_context:
            return dataclasses.replace(plan, bits=max(left, 1.0))
        views = self.bench.views
        shared = shares(left, plan.codec_id, plan.settings, source.spec, views, plan.degree)
        return dataclasses.replace(plan, bits=shared.codes, item_bits=shared.items * views)

    def _moved(self, plan: Plan, by: float) -> Plan:
        """Return a plan of `by` more bits a label."""
        if not plan.takes_context or plan.item_bits is None:
            return dataclasses.replace(plan, bits=max((plan.bits or 0.0) + by, 1.0))
        source, views = self.bench.source, self.bench.views
        before = Shares(plan.bits or 0.0, plan.item_bits / views)
        shared = moved(before, by, plan.codec_id, plan.settings, source.spec)
        return dataclasses.replace(plan, bits=shared.codes, item_bits=shared.items * views)

    def _budget_plans(self, n_bytes: float) -> Iterator[Plan]:
        source, bench = self.bench.source, self.bench
        room = n_bytes - bench.replay_bytes
        if room < FIXED_BYTES:
            less = ", or leave the columns out with --no-replay" if bench.replay_bytes else ""
            raise CodecError(
                f"a budget of {n_bytes:,.0f} bytes cannot be met: the replay columns take {bench.replay_bytes:,.0f} "
                f"and the file's own parts {FIXED_BYTES:,}; ask for more{less}"
            )
        for share in BUDGET_SHARES:
            bits = 8 * room * share / bench.n_rows
            n_wide = int(room * (1 - share) / (2 * source.spec.classes))
            for plan in self._families(bits):
                sized = _at_width(plan, n_wide, source.spec.classes)
                if sized is not None and (plan.bits or 0) >= 1:
                    yield sized

    # -- trials ----------------------------------------------------------------------------------------

    def _ranked(self, plans: Iterator[Plan], what: str, n_bytes: float = math.inf) -> list[Trial]:
        """Try plans by short fits, and return those that fit into a size, the best first."""
        trials, refusals = [], []
        for plan in plans:
            quick = {"steps": QUICK_STEPS, "search": 0} if plan.codec_id == "vqae" else {}
            try:
                trial = self.bench.run(dataclasses.replace(plan, settings={**plan.settings, **quick}))
            except CodecError as refusal:
                refusals.append(str(refusal))
                continue
            trial = dataclasses.replace(trial, plan=plan)
            self.say(trial, what)
            trials.append(trial)
        fitting = [trial for trial in trials if trial.n_bytes <= n_bytes * (1 + CLOSE)]
        if not fitting:
            least = min((trial.n_bytes for trial in trials), default=math.inf)
            reason = f"the least found is {least:,.0f} bytes" if trials else "; ".join(refusals)
            raise CodecError(f"nothing was found {what}: {reason}")
        return sorted(fitting, key=lambda trial: trial.loss * STILL_TO_GAIN.get(trial.plan.codec_id, 1.0))

    def _full(self, plan: Plan) -> Trial:
        full = (
            {"steps": full_steps(self.bench.source.n_rows), "search": SEARCH} if plan.codec_id == "vqae" else {}
        )
        plan = dataclasses.replace(plan, settings={**full, **plan.settings, **self.settings})
        settled = self.bench.settled(plan)
        if settled not in self._fitted:
            self._fitted[settled] = self.bench.run(plan, self.progress)
            self.say(self._fitted[settled], "in full")
        return self._fitted[settled]

    def _first_landed(self, ranked: list[Trial], measure: Callable[[Trial], float], most: float) -> Trial:
        """Return the first of some plans that meets the target; few bits cannot be had of every one."""
        refusals = []
        for trial in ranked:
            try:
                return self._landed(trial, measure, most)
            except CodecError as refusal:
                refusals.append(refusal)
        raise refusals[0]

    def _landed(self, trial: Trial, measure: Callable[[Trial], float], most: float) -> Trial:
        """Fit in full until what is measured, in bits a label, is at most `most`, and near it.

        A short fit takes about the bits that one in full takes, so its plan is moved by what it took already.
        """
        aim, best, least = (1 - CLOSE / 4) * most, None, math.inf
        plan, offset, points = trial.plan, 0.0, [(0.0, measure(trial))]
        plans = {0.0: plan}  # by how far they were moved
        is_met = plan.bits is None or (1 - CLOSE) * most <= points[0][1] <= most
        for _ in range(FITS.get(plan.codec_id, CHEAP_FITS)):
            if not is_met:
                offset = _next_offset(points, aim)
                near = min(points, key=lambda point: abs(point[1] - aim))[0]
                plan = self._moved(plans[near], offset - near)
                if plan in plans.values():  # the codec has no other rate near
                    break
            trial = self._full(plan)
            found = measure(trial)
            least = min(least, found)
            points.append((offset, found))
            plans[offset] = plan
            if found <= most and (best is None or measure(best) < found):
                best = trial
            is_met = plan.bits is None or (1 - CLOSE) * most <= found <= most
            is_short = max(bits for _, bits in points) < most
            if is_met or (is_short and found == points[-2][1] and len(points) > 2):  # no use for more
                break
        known = [offset for offset, bits in points if bits <= most]
        if best is None and known:  # the short fit had such a rate, and those in full looked for a nearer one
            trial = self._full(plans[max(known)])
            best = trial if measure(trial) <= most else None
        if best is None:
            raise CodecError(
                f"the target of {most:.4g} bits a label cannot be met: the least found is {least:.4g}; ask for that "
                "or more, or take another codec"
            )
        return best


def full_steps(n_rows: int) -> int:
    """Return the steps of a fit in full: fewer where there are few rows to see again and again."""
    return max(800, min(FULL_STEPS, n_rows // 3))


def width(codec_id: str, n_rows: int, classes: int) -> dict[str, Any]:
    """Return the settings of a network that suits the rows, where its weights are not what counts.

    Codewords of two numbers for each bit of a code lose least, of rows that have so many directions.
    """
    if codec_id != "vqae":
        return {}
    found = {"d_h": max(32, min(MOST_HIDDEN, n_rows // 32 // 8 * 8))}
    if found["d_h"] == MOST_HIDDEN and classes >= MANY_CLASSES:
        found["d_c"] = WIDE_CODEWORD
    return found


def _at_width(plan: Plan, width: int, classes: int) -> Plan | None:
    """Return a plan whose model has about `width` rows of one number a class; None where it cannot be so small.

    Codebooks and the weights of hidden units count too: of few classes they are most of the model.
    """
    if plan.codec_id != "vqae":
        return plan
    prototypes = width // 4 if plan.takes_context else 0
    d_x = min(64, max(4, width // 8)) if plan.takes_context else 0
    left = width - prototypes - d_x
    slots = max(1, round((plan.bits or 8) / 8))
    words = plan.settings.get("k", 256) / classes
    for d_c in range(max(1, min(8, left // (2 * slots))), 0, -1):
        latent = slots * d_c
        d_h = int((left - latent * (1 + words)) / (1 + (latent + d_x) / classes)) // 8 * 8
        if d_h >= 8:
            break
    else:
        return None
    settings = {**plan.settings, "d_c": d_c, "d_h": d_h}
    return dataclasses.replace(plan, settings={**settings, "d_x": d_x} if d_x else settings)


def _next_offset(points: list[tuple[float, float]], aim: float) -> float:
    """Return how far a plan is to be moved so that it takes `aim` bits, from (offset, bits found) so far.

    Between the nearest on both sides where there are such; else by what the last move gave, for bits that say nothing
    new are coded away, and more of them may need more of a model.
    """
    below = max((point for point in points if point[1] <= aim), default=None)
    above = min((point for point in points if point[1] > aim), default=None)
    if below and above and below[0] < above[0]:
        share = (aim - below[1]) / (above[1] - below[1])
        return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
    (x0, y0), (x1, y1) = points[-2:] if len(points) > 1 else (points[0], points[0])
    gain = (y1 - y0) / (x1 - x0) if x1 != x0 else 1.0
    gain = min(max(gain, LEAST_GAIN), MOST_GAIN) if gain > 0 else 1.0
    return x1 + (aim - y1) / gain


def _next_bits(tried: list[tuple[float, float, Trial]], kl: float) -> float:
    """Return where the divergence is likely to be the target: straight lines between logarithms, and no wide leaps."""
    points = sorted((math.log(bits), math.log(max(found, 1e-9))) for bits, found, _ in tried)
    aim = math.log(kl * (1 - CLOSE / 2))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 <= aim <= y0 and y1 < y0:
            share = (y0 - aim) / (y0 - y1)
            return math.exp(x0 + min(max(share, 0.1), 0.9) * (x1 - x0))
    x, y = points[-1] if aim < points[-1][1] else points[0]
    step = min(max((aim - y) / SLOPE, -math.log(LEAP)), math.log(LEAP))
    return min(MOST_BITS, max(1.0, math.exp(x + step)))
