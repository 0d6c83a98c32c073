from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - {"common", "labelsets", "packages"})


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _imported("common", monkeypatch)


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _imported("plots", monkeypatch)


def _imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for module in ("common", "plots", "fidelity"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return __import__(name)


def test_a_table_says_how_it_was_made_and_reads_back(common: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "table.csv"
    given = common.options("speed", "", ["-o", str(out), "--seed", "7", "--threads", "1", "--quick"])
    results = common.Results(given)
    results.add(how="a, b", rows_per_s=1234.5678, note="")
    results.add(how="c", rows_per_s=float("inf"), note="x")
    facts, rows = common.read_csv(out)
    assert facts["command"] == "python benchmarks/speed.py --seed 7 --threads 1 --quick"
    assert {"seed", "commit", "cpu", "memory", "python", "torch", "numpy", "softpack", "zstandard"} <= set(
        facts
    )
    assert rows == [
        {"how": "a, b", "rows_per_s": "1234.6", "note": ""},
        {"how": "c", "rows_per_s": "inf", "note": "x"},
    ]


def test_a_smoke_test_overwrites_no_published_table(common: ModuleType) -> None:
    assert common.options("speed", "", ["--quick"]).out is None
    assert common.options("speed", "", []).out == BENCHMARKS / "results" / "speed.csv"


def test_missing_data_is_said_plainly(common: ModuleType, tmp_path: Path) -> None:
    given = common.options("fidelity", "", ["--data", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=r"imagenet_lite0\.npz is not there; give the folder .* with --data DIR"
    ):
        given.lite0  # noqa: B018


def test_ways_take_turns_and_the_first_turn_does_not_count(common: ModuleType) -> None:
    seen: list[str] = []
    steps = {name: lambda number, name=name: len(seen.append(f"{name}{number}") or name) for name in ("a", "b")}
    found = common.rates(steps, at_least=0.0, repeats=2)
    assert seen == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert found["a"].least <= found["a"].median <= found["a"].most
    assert common.Spread.of([3.0, 1.0, 2.0]).columns("s") == {"s": 2.0, "s_min": 1.0, "s_max": 3.0}


def test_a_share_beyond_is_told_turn_by_turn(common: ModuleType) -> None:
    base = [100.0 * 2**turn for turn in range(64)]  # a machine that never keeps its speed
    way = [rate / (1.05 if turn % 8 else 3.0) for turn, rate in enumerate(base)]
    found = common.beyond(way, base)
    assert [found.median, found.least, found.most] == pytest.approx([0.05] * 3)
    assert common.beyond([1.0, 2.0], [1.0, 3.0]).most == 0.5


def test_only_the_rate_that_has_a_target_is_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fidelity = _imported("fidelity", monkeypatch)
    row = {"rows": "all", "codec": "vqae", "seed": 0, "code_bits": 384, "kl1_mean": 0.05, "kl20_mean": 0.09}
    row |= {"fit_s": 40.0}
    rows = [{**row, "code_bits": 64, "kl1_mean": 0.3}, row, {**row, "seed": 1, "kl20_mean": float("nan")}]
    fidelity._say_target(SimpleNamespace(rows=rows))
    judged = capsys.readouterr().out.strip().splitlines()[1:]
    assert judged == ["  seed 0: 0.0500, 0.0900, 40 s: met", "  seed 1: 0.0500, nan, 40 s: missed"]
    fidelity._say_target(SimpleNamespace(rows=rows[:1]))
    assert capsys.readouterr().out.endswith("fitted within 180 s: not measured\n")


def _row(codec: str, settings: str, bits: float, kl: float, rows: str = "all") -> dict[str, str]:
    kls = {f"kl{T}_mean": str(kl) for T in (1, 4, 20)}
    return {"rows": rows, "codec": codec, "settings": settings, "marginal_bits": str(bits), **kls}


ROWS = [
    _row("vqae", "slots=8", 64, 0.12),
    _row("vqae", "slots=8", 66, 0.14),  # another seed
    _row("vqae", "slots=16", 130, 0.2),  # beaten by fewer bits
    _row("vqae", "slots=48", 385, 0.06),
    _row("vqae", "slots=48", 385, 9.0, rows="held-out views"),
    _row("topk", "k=20 value=fp16 tail=uniform tail_temperature=1.0", 500, 0.13),
    _row("topk", "k=20 value=fp16 tail=zero tail_temperature=1.0", 500, float("inf")),
]


def test_curves_average_seeds_and_keep_what_is_not_beaten(plots: ModuleType) -> None:
    found = plots.points(ROWS, plots.CURVES[0], 1)
    assert found == [pytest.approx((65, 0.13)), pytest.approx((385, 0.06))]
    assert plots.points(ROWS, plots.CURVES[1], 1) == []


def test_the_figure_is_drawn(plots: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(ROWS, tmp_path / "fidelity.png")
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_in_the_readme(name: str) -> None:
    assert f"`{name}.py`" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
