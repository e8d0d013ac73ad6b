"""From a base model to one that people prefer, by one file: fine-tuned on conversations, its responses judged on the page by a
scripted rater, for whom the run waits, and trained on what was preferred.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from collecting import Annotator, rate
from conditions import eventually
from local_runs import PRETRAIN, TRAINED, made, rank_processes, running, stored, trainyard, write_run

RULE = "the longer response"
PROMPTS = 12


def write(folder: Path) -> None:
    """The run's file, and the user's own files that it names."""
    rows = [{"prompt": f"Say {number}", "completion": f"{number}, gladly"} for number in range(400)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(PROMPTS)))
    chat = {"path": str(folder / "chat.jsonl"), "format": "conversations"}
    trained = PRETRAIN | {"steps": 20, "profile": None}
    tuned = trained | {"data": "chat", "model": {"stage": "base"}}
    draw = {"prompts": str(folder / "prompts.jsonl"), "models": ["tuned"], "temperatures": [1, 1.5], "maxNewTokens": 8}
    samples = {"prompts": ["Say 7"], "maxNewTokens": 8}
    report = {"model": "tuned", "data": "chat", "sequenceLength": 64, "samples": samples}
    preferred = trained | {"data": "votes", "model": {"stage": "tuned"}, "sequenceLength": 128, "steps": 4}
    stages = [
        TRAINED[0],
        {"name": "base", "pretrain": trained | {"sequenceLength": 128}},
        {"name": "chat", "prepare": {"sources": [chat], "tokenizer": {"stage": "corpus"}}},
        {"name": "tuned", "sft": tuned | {"sequenceLength": 128}},
        {"name": "report", "evaluate": report},
        {"name": "judged", "collect": {"draw": draw, "repeats": 0, "votesPerMinute": 10_000}},
        {
            "name": "votes",
            "prepare": {
                "sources": [{"stage": "judged", "format": "preferences"}],
                "tokenizer": {"stage": "corpus"},
                "heldOutFraction": 0.3,
            },
        },
        {"name": "preferred", "dpo": preferred | {"globalBatch": 1, "microBatch": 1}},
    ]
    write_run(folder, stages, workers={"count": 1})


@pytest.mark.timeout(400)
def test_a_run_waits_for_people_and_goes_on_by_itself(tmp_path: Path) -> None:
    write(tmp_path)
    with running(tmp_path) as process:

        def link() -> subprocess.CompletedProcess[str]:
            return trainyard(tmp_path, "collect", "links", "tiny", "anna", "--rule", RULE)

        def told() -> str:
            return (tmp_path / "output.txt").read_text()

        eventually(lambda: link().returncode == 0 or process.poll() is not None, 200, "the run collects", told)
        name, url = link().stdout.split()
        assert name == "anna"
        rater = Annotator.by_link(url)
        eventually(rater.served, 60, "the page is served", told)
        assert rate(rater, len, 3) == 3
        [pid] = rank_processes(tmp_path).values()
        os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: set(rank_processes(tmp_path).values()) - {pid} and rater.served(), 60, "it is served again", told
        )
        status = json.loads(trainyard(tmp_path, "collect", "status", "tiny").stdout)
        assert status["done"] == 3, "none lost, none counted twice"
        while rate(rater, len, 50):
            pass
        assert process.wait(150) == 0, told()
    said = told()
    assert "judged: Running (CollectingComparisons)" in said
    *_, judged, votes, preferred = stored(tmp_path)["status"]["stages"]
    items = [json.loads(line) for line in (made(tmp_path) / "judged/items.jsonl").read_text().splitlines()]
    assert judged["metrics"]["judgements"] == len(items) > 5
    raw = [json.loads(line) for line in (made(tmp_path) / "judged/collected/votes.jsonl").read_text().splitlines()]
    assert {vote["rule"] for vote in raw} == {RULE}
    assert votes["metrics"]["documents_kept"] == judged["metrics"]["preferences"]
    assert preferred["metrics"]["steps"] == 4
    assert stored(tmp_path)["status"]["stages"][4]["metrics"]["response_loss"] > 0
    assert trainyard(tmp_path, "plot", "tiny", "--output", "loss.png").returncode == 0
