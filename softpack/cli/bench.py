"""`softpack bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softpack.accounting import grid
from softpack.cli.options import DEVICE, SEED, positive
from softpack.cli.source import opened, source_options
from softpack.codecs.registry import check_codec_id
from softpack.records import TEMPERATURES


@click.group(
    short_help="Measure codecs on your own labels.",
    epilog="\b\nExample:\n  softpack bench rd logits.npz -o rd --codecs topk,quantize",
)
def bench() -> None:
    """Measure codecs on labels of your own."""


@bench.command(
    short_help="Curves of rate over distortion.",
    epilog="\b\nExample:\n  softpack bench rd logits.npz -o rd --codecs topk,quantize",
)
@click.argument("source", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), metavar="DIR", help="Where tables and pictures go."
)
@click.option("--codecs", metavar="A,B,C", help="Codecs to measure [default: all]")
@click.option("--temperature", "temperatures", type=float, multiple=True, callback=positive, metavar="T",
              help="To measure at; may be repeated [default: 1, 4, 20]")  # fmt: skip
@source_options
@SEED
@DEVICE
def rd(
    source: str,
    out: str,
    codecs: str | None,
    temperatures: tuple[float, ...],
    seed: int,
    device: str,
    **how: Any,
) -> None:
    """Encode SOURCE with every codec at several rates, and draw what it costs.

    Writes DIR/rd.csv, and rd_marginal and rd_all_in as .png and .svg. Settings of published methods stand beside
    the curves by name, and the bound of a Gaussian source beside the squared error. It takes minutes; where it was
    stopped it goes on.
    """
    names = None if codecs is None else tuple(codecs.split(","))
    for name in names or ():
        check_codec_id(name)
    rows = opened(source, how)
    from softpack.rate.curve import CODECS, Case, measure
    from softpack.rate.plot import draw

    def say(point: dict[str, Any]) -> None:
        click.echo(
            f"softpack: {point['curve']} {point['asked_bits']}: {point['marginal_bits']:.1f} bits a label, "
            f"fitted in {point['fit_s']:.0f} s",
            err=True,
        )

    def refused(case: Case, why: str) -> None:
        click.echo(f"softpack: {case.curve} {case.asked_bits}: left out: {why}", err=True)

    at = temperatures or TEMPERATURES
    curves = measure(rows, Path(out), names or CODECS, at, seed, device, say, refused)
    pictures = draw(
        curves, Path(out), f"{rows.path.name}: {rows.n_rows:,} rows of {rows.spec.classes:,} classes"
    )
    click.echo(grid([_head(at), *(_cells(point, at) for point in curves.points)]))
    click.echo(f"\n{', '.join(str(path) for path in [Path(out) / 'rd.csv', *pictures])}")


def _head(temperatures: tuple[float, ...]) -> list[str]:
    return ["codec", "marginal bits", "all-in bits", *(f"KL T={T:g}" for T in temperatures), "top-1"]


def _cells(point: dict[str, Any], temperatures: tuple[float, ...]) -> list[str]:
    kls = [f"{point[f'kl_{T:g}']:.4f}" for T in temperatures]
    bits = [f"{point[name]:.1f}" for name in ("marginal_bits", "all_in_bits")]
    return [point["curve"], *bits, *kls, f"{100 * point['top1']:.1f}%"]
