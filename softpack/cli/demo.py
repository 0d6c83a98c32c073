"""`softpack demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from softpack.accounting import grid, render
from softpack.cli.options import JSON
from softpack.cli.progress import Bar

if TYPE_CHECKING:
    from softpack.demo.run import Result


@click.command(short_help="See it work, on real labels.", epilog="\b\nExample:\n  softpack demo -o demo")
@click.option("-o", "--out", type=click.Path(), default="softpack-demo", show_default=True, metavar="DIR",
              help="Folder for the files that it makes.")  # fmt: skip
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the fits and the students."
)
@JSON
def demo(out: str, seed: int, as_json: bool) -> None:
    """See softpack at work: real labels of real photos through every codec, and students of real digits.

    Needs `pip install 'softpack[demo]'` and no network; takes about three minutes on two cores.
    """
    from softpack.demo.plot import plot_points
    from softpack.demo.run import HEADLINE, run_demo

    folder = Path(out)
    result = run_demo(folder, Bar, seed)
    plot_points(result.points, folder / "rate_distortion.png")
    headline = next(point for point in result.points if point.name == HEADLINE)
    (folder / "ledger.txt").write_text(render([headline.account], "table") + "\n")
    if as_json:
        click.echo(json.dumps(_document(result)))
        return
    rows = headline.account.n_rows
    click.echo(
        f"{rows:,} labels of 1,000 classes: EfficientNet-Lite0 on real photos, cropped, flipped and mixed\n"
    )
    click.echo(codec_table(result))
    click.echo(
        f"\nKL(teacher || decoded) x T^2 in nats, mean over rows; all-in is the whole file.\n\n{HEADLINE}:"
    )
    click.echo(render([headline.account], "table"))
    click.echo(
        "\nStudents of 100 real digits (8 x 8 scans, 50 views each), accuracy on 600 others, last epoch:\n"
    )
    click.echo(student_table(result))
    click.echo(
        f"\nteacher {100 * result.teacher_accuracy:.1f}%. Files, tables, ledger and plot are in {folder}"
    )


def codec_table(result: Result) -> str:
    """Return the codecs as a table."""
    from softpack.demo.run import marginal_ratio

    rows: list[tuple[str, ...]] = [("codec", "marginal", "all-in", "marginal", "all-in", "KL", "KL", "KL", "top-1"),
            ("", "bits", "bits", "ratio", "ratio", "T=1", "T=4", "T=20", "same")]  # fmt: skip
    for point in result.points:
        account = point.account
        rows.append((
            point.name, f"{account.marginal_bits_per_label:,.0f}", f"{account.all_in_bits_per_label:,.0f}",
            f"{marginal_ratio(account):.1f}", f"{account.ratio_vs(16):.1f}",
            *(f"{kl:.3f}" for kl in point.kl), f"{100 * point.found.top1_agreement:.1f}%",
        ))  # fmt: skip
    return grid(rows, head=2)


def student_table(result: Result) -> str:
    """Return the students as a table."""
    seeds = range(len(result.arms[0].accuracies))
    rows = [("labels", *(f"seed {seed}" for seed in seeds), "mean")]
    rows += [
        (arm.name, *(f"{100 * a:.1f}%" for a in arm.accuracies), f"{100 * arm.mean:.1f}%")
        for arm in result.arms
    ]
    return grid(rows)


def _document(result: Result) -> dict[str, object]:
    codecs = [
        {"name": point.name, **{k: v for k, v in point.account.to_json().items() if k != "entries"},
         **point.found.to_json()}
        for point in result.points
    ]  # fmt: skip
    students = [{"labels": arm.name, "test_accuracy": list(arm.accuracies)} for arm in result.arms]
    return {"codecs": codecs, "students": students, "teacher_accuracy": result.teacher_accuracy}
