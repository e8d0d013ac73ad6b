"""What the demo calls a success, and when it kills."""

import json
from pathlib import Path

import pytest
from trainyard_api.protocol import AgentState
from trainyard_api.status import CheckpointStatus, Progress, Reason, Recovery, StageStatus, Status
from trainyard_operator.cli.demo import FILE, due, summary
from trainyard_operator.cli.inputs import read_run_file
from trainyard_operator.cli.taking_up import made_by
from trainyard_operator.cluster.home import Home

RECOVERED = Recovery(time="now", cause=Reason.PROCESS_FAILED, stage="base", attempt=2, resumed_step=150)

ENDINGS = {
    "a kill that was recovered from, and a model that has learnt": (1.3, (RECOVERED,), []),
    "no recovery": (1.3, (), ["failed: no worker was killed and recovered from"]),
    "a recovery that never got as far as training again": (
        1.3,
        (RECOVERED.model_copy(update={"resumed_step": None}),),
        ["failed: no worker was killed and recovered from"],
    ),
    "a model that has learnt too little": (3.0, (RECOVERED,), ["failed: 3.000 bits per byte, not below 3.0"]),
}


@pytest.mark.parametrize(("bits", "recoveries", "mistakes"), ENDINGS.values(), ids=ENDINGS)
def test_the_end_of_the_demo(
    bits: float, recoveries: tuple[Recovery, ...], mistakes: list[str], tmp_path: Path
) -> None:
    home, run = Home(tmp_path), read_run_file(FILE, None)
    report = made_by(home, run) / "report" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"samples": [{"prompt": "The for", "text": " statement"}]}))
    metrics = {"bits_per_byte": bits, "zlib_bits_per_byte": 2.9, "unigram_bits_per_byte": 2.8}
    stages = (StageStatus(name="report", phase="Succeeded", metrics=metrics),)
    lines, found = summary(home, run, Status(stages=stages, recoveries=recoveries))
    assert found == mistakes
    assert "  'The for' → ' statement'" in lines
    assert f"  the model {bits:.3f}" in lines


MOMENTS = {
    "before a third of the steps": (199, 150, False),
    "a third of the steps, but just saved": (201, 200, False),
    "a third of the steps, some of them not saved": (220, 200, True),
    "without a checkpoint there is nothing to go back to": (220, None, False),
}


@pytest.mark.parametrize(("step", "saved", "expected"), MOMENTS.values(), ids=MOMENTS)
def test_when_to_kill(step: int, saved: int | None, expected: bool) -> None:
    checkpoint = CheckpointStatus(step=saved, uri="file:///s", time="now") if saved else None
    state = AgentState(version=1, master_port=1, progress=Progress(step=step, steps=600), checkpoint=checkpoint)
    assert due(state) == expected
