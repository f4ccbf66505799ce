"""The demo's graph with an InMemorySaver: memory, time and bytes with and without agentref."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import zstandard

from benchmarks.measure import MB, Row, child, scratch
from examples._demo.corpus import write_texts
from examples._demo.process import directory_bytes
from examples._demo.worker import STORE, Report

__all__ = ["rows"]

_ROUNDS = 5
_VARIANTS = {
    "none": ["--saver", "none"],
    "stock": ["--saver", "memory"],
    "agentref": ["--saver", "memory", "--agentref"],
}


def _median(ours: list[Report], theirs: list[Report], key: Literal["peak", "seconds", "cpu"]) -> float:
    return statistics.median(our[key] / their[key] for our, their in zip(ours, theirs, strict=True))


def _runs(directory: Path, texts: Path) -> tuple[dict[str, list[Report]], int]:
    """Every variant in turns, each run in a process of its own; and what the store holds after one."""
    runs: dict[str, list[Report]] = {name: [] for name in _VARIANTS}
    stored = 0
    for index in range(_ROUNDS):
        for name in list(_VARIANTS) if index % 2 == 0 else reversed(_VARIANTS):
            work = directory / f"{name}-{index}"
            work.mkdir()
            runs[name].append(child("examples._demo.worker", str(texts), str(work), *_VARIANTS[name]))
            stored = directory_bytes(work / STORE) or stored
    hashes = {report["hash"] for reports in runs.values() for report in reports}
    if len(hashes) != 1:
        raise RuntimeError(f"Equal runs ended in different states: {hashes}")
    return runs, stored


def rows() -> Iterator[Row]:
    """Medians of five rounds; time is that of the whole run, nodes included."""
    with scratch() as directory:
        texts = directory / "texts"
        texts.mkdir()
        write_texts(texts, "demo")
        runs, stored = _runs(directory, texts)
        raw = [path.read_bytes() for path in texts.iterdir()]
        distinct = sum(len(zstandard.compress(text, 3)) for text in raw)
    none, stock, ours = runs["none"], runs["stock"], runs["agentref"]
    what = "the demo's graph, InMemorySaver"
    for name, reports in runs.items():
        peak = statistics.median(report["peak"] for report in reports)
        yield Row(f"{what}: {name}, peak memory", peak / 2**20, "MiB")
        yield Row(f"{what}: {name}, CPU", statistics.median(report["cpu"] for report in reports), "s")
    yield Row(f"{what}: no checkpointer / stock, peak memory", _median(none, stock, "peak"), "x")
    yield Row(f"{what}: agentref / stock, peak memory", _median(ours, stock, "peak"), "x", at_most=0.155)
    yield Row(f"{what}: no checkpointer / stock, time", _median(none, stock, "seconds"), "x")
    yield Row(f"{what}: agentref / stock, time", _median(ours, stock, "seconds"), "x", at_most=0.95)
    yield Row(f"{what}: agentref / stock, CPU", _median(ours, stock, "cpu"), "x")
    size = sum(map(len, raw)) / MB
    note = f"{size:.1f} MB of documents and pages, each alone at zstd-3: {distinct / MB:.2f} MB"
    yield Row(f"{what}: store / distinct text compressed", stored / distinct, "x", at_most=1.3, note=note)
    yield Row(f"{what}: stock keeps", stock[0]["kept"] / MB, "MB")
    yield Row(f"{what}: agentref, checkpointer keeps", ours[0]["kept"] / MB, "MB", at_most=1.0)
