"""A run on a cluster that waits for people: its page is reached through the API server, whatever becomes of its pod."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from collecting import Annotator
from conditions import eventually
from kind.cluster import Namespace, Run, get, kubectl, trainyard
from kind.faults import CONTROL_PLANE, docker
from kind.runs import small_run
from local_runs import TRAINYARD

ITEMS = 6
COLLECTING = "CollectingComparisons"
HOST = "compare.example.org"


def a_run_with_people(namespace: Namespace) -> dict[str, object]:
    """prepare → pretrain → sft → collect, in one worker each."""
    rows = [{"prompt": f"Say {number}", "completion": f"{number}, gladly"} for number in range(200)]
    for name, lines in (("chat", rows), ("prompts", rows[:ITEMS])):
        file = namespace.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in lines))
        file.chmod(0o644)
    run = small_run("asked", workers=1, steps=10)
    corpus, base, *_ = run["spec"]["stages"]
    chat = {"sources": [{"path": "chat.jsonl", "format": "conversations"}], "tokenizer": {"stage": "corpus"}}
    tuned = base["pretrain"] | {"data": "chat", "model": {"stage": "base"}}
    draw = {"prompts": "prompts.jsonl", "models": ["tuned"], "maxNewTokens": 8}
    run["spec"]["stages"] = [
        corpus,
        base,
        {"name": "chat", "prepare": chat},
        {"name": "tuned", "sft": tuned},
        {
            "name": "judged",
            "collect": {"draw": draw, "votesPerMinute": 10_000, "repeats": 0, "ingress": {"host": HOST}},
        },
    ]
    return run


@contextmanager
def opened(kubeconfig: Path, namespace: Namespace) -> Iterator[Annotator]:
    """Someone with a link of `trainyard collect open`, which forwards the page's port for so long."""
    command = [TRAINYARD, "collect", "open", "asked", "anna", "-n", namespace.name, "--rule", "the longer one"]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    log = kubeconfig.with_name("open.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout
            name, url = (process.stdout.readline() or f"none {log.read_text()}").split(maxsplit=1)
            assert name == "anna", url
            yield Annotator.by_link(url)
        finally:
            process.terminate()


def judge_one(anna: Annotator, run: Run, answer: str) -> bool:
    """Judge one more; whether nothing is left to judge."""
    try:
        if anna.task().get("task") is None:
            return True
        assert anna.answer(answer).status == 200
    except (OSError, HTTPException):  # not served yet, or not any more
        return run.status.get("reason") != COLLECTING
    return False


def answers_by_its_service(namespace: Namespace) -> bool:
    """Whether a node of the cluster reaches the page at the address of its Service."""
    [service] = get("services", "-n", namespace.name)["items"]
    url = f"http://{service['spec']['clusterIP']}/healthz"
    code = docker(
        "exec", CONTROL_PLANE, "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url
    )
    return code == "200"


def test_a_run_waits_for_people_whose_votes_outlive_its_pod(namespace: Namespace, kubeconfig: Path) -> None:
    run = namespace.apply(a_run_with_people(namespace))
    run.until(lambda s: s.get("reason") == COLLECTING and s["progress"]["steps"] > 1, 240, "collects")
    with opened(kubeconfig, namespace) as anna:
        assert not judge_one(anna, run, "1")
        assert anna.task()["done"] == 1
    assert answers_by_its_service(namespace)
    [ingress] = get("ingresses", "-n", namespace.name)["items"]
    assert ingress["spec"]["rules"][0]["host"] == HOST
    assert trainyard(kubeconfig, "collect", "links", "asked", "anna", "-n", namespace.name).startswith(
        f"anna http://{HOST}/enter/v1."
    )
    pod = run.group("judged")[0]
    run.delete_pod(0, "judged", force=True)
    run.until(lambda s: s.get("reason") == COLLECTING and run.group("judged").get(0) not in (None, pod), 120, "again")
    with opened(kubeconfig, namespace) as anna:
        assert answers_by_its_service(namespace)
        eventually(lambda: judge_one(anna, run, "2"), 60, "all is judged")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 120, "goes on by itself")
    folder = run.folder / "judged"
    kept = (folder / "items.jsonl").read_text().splitlines()
    assert status["stages"][-1]["metrics"]["judgements"] == len(kept) > 2
    raw = [json.loads(line) for line in (folder / "collected/votes.jsonl").read_text().splitlines()]
    kubectl("-n", namespace.name, "delete", "trainingrun", "asked")
    eventually(lambda: not get("services,ingresses", "-n", namespace.name)["items"], 60, "the way to the page is gone")
    assert [vote["rule"] for vote in raw] == ["the longer one"] * len(kept), "none lost, none twice"
