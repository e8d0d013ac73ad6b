"""A run from YAML to an exported model on a cluster, and the same run through everything that can happen to its pods.

The disturbed run must end with the undisturbed run's weights, bit for bit.
"""

import subprocess
import sys

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, Run, kubectl
from kind.runs import STEPS, a_pair, training_run


def test_kubectl_get_tells_the_story_of_a_run(story: list[dict[str, str]]) -> None:
    told = story
    stages = [row["STAGE"] for row in told if row["STAGE"]]
    assert sorted(set(stages), key=stages.index) == ["corpus", "base", "report", "folder"], told
    for stage, workers in {"corpus": "1", "base": "4", "report": "1", "folder": "1"}.items():
        running = [row for row in told if (row["STAGE"], row["PHASE"]) == (stage, "Running")]
        assert running or stage != "base", f"training was never shown running: {told}"  # the others may be too quick
        ready = [int(row["WORKERS"]) for row in running]  # an agent that is starved is not ready for a moment
        assert max(ready, default=int(workers)) == int(workers), running
        assert {row["REASON"] for row in running} <= {"Training" if stage == "base" else "StageRunning"}
    training = [row for row in told if row["REASON"] == "Training" and row["STEP"]]
    steps = [int(row["STEP"]) for row in training]
    assert steps == sorted(steps)
    assert steps[-1] <= STEPS
    assert all(0 < float(row["LOSS"]) < 10 for row in training if row["LOSS"])
    assert told[-1]["CHECKPOINT"] == str(STEPS)
    assert told[-1]["REASON"] == "Completed"
    assert {row["RESTARTS"] for row in told if row["RESTARTS"]} <= {"0"}


def test_every_stage_succeeds_and_says_what_it_made(undisturbed: Run) -> None:
    status = undisturbed.status
    assert [(stage["name"], stage["phase"]) for stage in status["stages"]] == [
        (name, "Succeeded") for name in ("corpus", "base", "report", "folder")
    ]
    assert all(len(stage["digest"]) == 64 for stage in status["stages"])
    report = status["stages"][2]["metrics"]
    assert 0 < report["bits_per_byte"] < report["unigram_bits_per_byte"], report
    assert status["conditions"][0]["type"] == "Succeeded"
    assert status["conditions"][0]["status"] == "True"
    assert status["conditions"][0]["observedGeneration"] == 1
    kubectl(
        "-n",
        undisturbed.namespace.name,
        "wait",
        "--for=condition=Succeeded",
        f"trainingrun/{undisturbed.name}",
        "--timeout=5s",
    )


def test_workers_spread_over_both_nodes(undisturbed: Run) -> None:
    nodes = {undisturbed.pod(worker, "base")["spec"]["nodeName"] for worker in range(4)}
    assert nodes == {"trainyard-worker", "trainyard-worker2"}


def test_pods_of_a_finished_run_keep_their_logs(undisturbed: Run) -> None:
    eventually(lambda: undisturbed.pod(0, "folder")["status"]["phase"] == "Succeeded", 30, "the last pod has ended")
    pod = undisturbed.pod(0, "base")["metadata"]["name"]
    logs = kubectl("-n", undisturbed.namespace.name, "logs", pod).stdout
    assert f"[agent] progress step={STEPS} steps={STEPS} loss=" in logs
    assert f"[agent] checkpoint step={STEPS} " in logs


def test_deletion_eviction_and_a_dead_operator_cost_no_bit_of_the_weights(
    undisturbed: Run, namespace: Namespace, operator_pod: str
) -> None:
    run = namespace.apply(training_run("stormy"))

    run.until_step(20, attempt=2, saved=10)
    first = run.group("base")
    run.delete_pod(1, "base", force=True)
    run.until_step(40, attempt=3, saved=10)
    second = run.group("base")
    run.evict_pod(2, "base")
    run.until_step(60, attempt=4, saved=10)
    third = run.group("base")
    assert [worker for worker in range(4) if second[worker] != first[worker]] == [1], (first, second)
    assert [worker for worker in range(4) if third[worker] != second[worker]] == [2], (second, third)
    kubectl("-n", SYSTEM, "delete", "pod", operator_pod, "--force", "--grace-period=0")
    kubectl("-n", SYSTEM, "rollout", "status", "deployment/trainyard", "--timeout=90s")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds after all that")

    assert [(recovery["cause"], recovery["tier"]) for recovery in status["recoveries"]] == [
        ("PodDeleted", "pod"),
        ("Evicted", "pod"),
    ]
    assert status["recoveries"][1]["pod"] == second[2]
    assert status["restarts"]["total"] == status["restarts"]["disruptions"] == 2
    for recovery in status["recoveries"]:
        assert recovery["reformSeconds"] < 60
        assert recovery["resumedStep"] >= 10
        assert recovery["recomputedSteps"] < STEPS
    assert run.trained() == undisturbed.trained()


def test_a_crashed_rank_is_a_failure_with_its_exit_code_and_the_run_recovers(
    namespace: Namespace, undisturbed: Run
) -> None:
    run = namespace.apply(training_run("crash"))
    run.until_step(10, saved=10)
    group = run.group("base")
    pod = group[3]
    killer = "import os,glob\nfor p in glob.glob('/proc/[0-9]*'):\n"
    killer += "  if open(p+'/comm').read().startswith('rank-'): os.kill(int(p[6:]), 9)"
    kubectl("-n", namespace.name, "exec", pod, "--", "python", "-c", killer, check=False)
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds after the crash")
    (recovery,) = status["recoveries"]
    assert (recovery["cause"], recovery["pod"], recovery["exitCode"]) == ("ProcessFailed", pod, 137)
    assert (recovery["tier"], recovery["rank"]) == ("ranks", 3)
    assert run.group("base") == group, "no pod was made anew for a rank"
    assert status["restarts"]["failures"] == 1
    assert run.trained() == undisturbed.trained()


def test_deleting_a_run_in_mid_training_leaves_nothing_behind(namespace: Namespace) -> None:
    run = namespace.apply(a_pair("brief", steps=10_000))
    run.until(lambda s: s.get("stage") == "base" and s.get("phase") == "Running", 120, "trains")
    kubectl("-n", namespace.name, "delete", "trainingrun", "brief", "--wait=false")

    def left() -> str:
        kinds = "trainingruns,pods,services,secrets,configmaps"
        listed = kubectl("-n", namespace.name, "get", kinds, "-o", "name").stdout.split()
        ours = [name for name in listed if "brief" in name]
        return "\n".join(ours)

    eventually(lambda: not left(), 90, "everything of the deleted run is gone", detail=left)


def test_the_exported_folder_opens_with_transformers(undisturbed: Run) -> None:
    folder = undisturbed.folder / "folder/model"
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "t = AutoTokenizer.from_pretrained(sys.argv[1]); m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); "
        "print(len(m.generate(**t('The', return_tensors='pt'), max_new_tokens=4)[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4
