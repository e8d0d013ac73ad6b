"""A run's status in words and figures: the same ones in the live table, in plain lines and at the end."""

from collections.abc import Sequence

from trainyard_api.status import Progress, Quarantined, Recovery, Status, Tier

ANEW: dict[Tier, str] = {
    "ranks": "ranks started anew",
    "container": "container started anew",
    "pod": "pod made anew",
    "group": "group made anew",
}


def progress(progress: Progress | None) -> str:
    """`step 40/300 loss 5.213 12,345 tokens/s, 2m10s left`, as far as it is known."""
    if progress is None:
        return ""
    parts = []
    if progress.steps:
        parts.append(f"step {progress.step}/{progress.steps}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.held_out_loss is not None:
        parts.append(f"held-out loss {progress.held_out_loss:.3f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.mfu is not None:
        parts.append(f"{progress.mfu:.1%} MFU")
    if progress.skipped_batches:
        parts.append(f"{progress.skipped_batches} skipped batch{'es' if progress.skipped_batches > 1 else ''}")
    if progress.eta_seconds and progress.step < progress.steps:
        parts.append(f"{duration(progress.eta_seconds)} left")
    return ", ".join(parts)


def recovery(recovery: Recovery) -> str:
    """What happened, how much is made anew, and the three clocks, as far as they have been read."""
    clocks = [ANEW[recovery.tier]]
    if recovery.detect_seconds is not None:
        clocks.append(f"detected in {recovery.detect_seconds:.1f} s")
    if recovery.reform_seconds is not None:
        clocks.append(f"running again after {recovery.reform_seconds:.1f} s")
    if recovery.resumed_step is not None:
        where = f" in {recovery.restored_from}" if recovery.restored_from else ""
        clocks.append(f"resumed from step {recovery.resumed_step}{where}")
    if recovery.recomputed_steps is not None:
        clocks.append(f"{recovery.recomputed_steps} steps computed again")
    what = recovery.message or recovery.cause
    return f"{recovery.stage} attempt {recovery.attempt}: {what} ({', '.join(clocks)})"


def quarantined(found: Quarantined) -> str:
    """`checkpoint of step 20 set aside: manifest.json is missing`"""
    return f"checkpoint of step {found.step} set aside: {found.reason}"


def headline(status: Status) -> str:
    """`base: Running (Training)`, and the message if there is one."""
    text = f"{status.phase} ({status.reason})"
    if status.stage:
        text = f"{status.stage}: {text}"
    return f"{text}: {status.message}" if status.message else text


def size(count: int) -> str:
    """`812 B`, `12.5 KiB`, `3.1 GiB`"""
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def duration(seconds: float) -> str:
    """`45s`, `3m5s`, `2h10m`, `3d4h`: two units at most, as kubectl does it."""
    whole = max(0, int(seconds))
    for size, unit, next_size, next_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size}{unit}" + (f"{rest}{next_unit}" if rest else "")
    return f"{whole}s"
