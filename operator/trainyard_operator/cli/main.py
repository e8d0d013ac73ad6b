"""The `trainyard` command. Each verb's module is imported when it is called: `--help` must not wait for a plot library."""

import argparse
import importlib
import os
import sys
from pathlib import Path

ASSUMED_MFU = 0.4
"""Of a plan where nothing is measured: between what torchtitan and MPT's trainer publish for one node of H100s."""


def main() -> None:
    """Run the verb that the command line names and exit with its code."""
    options = read_options(sys.argv[1:])
    module, function = options.verb.split(":")
    try:
        code: int = getattr(importlib.import_module(f".{module}", __package__), function)(options)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="trainyard", description="Train a model from one TrainingRun.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--home", type=Path, default=Path(".trainyard"), help="folder of the runs (.trainyard)")
    everywhere.add_argument("-n", "--namespace", help="namespace of the run (default)")

    def verb(name: str, target: str, text: str) -> argparse.ArgumentParser:
        each = verbs.add_parser(name, help=text, description=text, parents=[everywhere])
        each.set_defaults(verb=target)
        return each

    def how_to_run(each: argparse.ArgumentParser) -> None:
        each.add_argument("--plain", action="store_true", help="a line for each change instead of a live table")
        each.add_argument("--metrics-port", type=int, metavar="PORT", help="serve /metrics on 127.0.0.1:PORT")

    run = verb("run", "run:run_command", "Run a TrainingRun on this machine; again, to resume it.")
    run.add_argument("file", type=Path, help="YAML file of the TrainingRun")
    run.add_argument("--fresh", action="store_true", help="discard an earlier run of that name and its artifacts")
    how_to_run(run)

    plan = verb("plan", "plan:plan_command", "Work out what a TrainingRun will take, before anything runs.")
    plan.add_argument("file", type=Path, help="YAML file of the TrainingRun")
    plan.add_argument(
        "--hardware", metavar="NAME", help="GPUs to run on (h100): those of api/trainyard_api/hardware.py"
    )
    plan.add_argument(
        "--hardware-file", type=Path, metavar="YAML", help="more of them: name → bf16Flops, memory, watts, …"
    )
    plan.add_argument("--price", type=_amount, metavar="DOLLARS", help="of a GPU and hour")
    plan.add_argument("--mfu", type=_share, default=ASSUMED_MFU, help="share of the peak that is achieved (0.4)")
    plan.add_argument("--measured", metavar="RUN", help="take the speed that ten steps or more of this run have had")
    plan.add_argument("--formulas", action="store_true", help="show them")
    plan.add_argument("--json", action="store_true", help="all figures; bytes, seconds, joules, dollars")

    get = verb("get", "get:get_command", "Show runs.")
    get.add_argument("run", nargs="?", help="name of the run; all runs without it")
    get.add_argument("-o", "--output", choices=("json", "yaml", "wide"), help="format")
    get.add_argument("-w", "--watch", action="store_true", help="show each change until interrupted")

    logs = verb("logs", "logs:logs_command", "Print what the workers of a run have written.")
    logs.add_argument("run", help="name of the run")
    logs.add_argument("--stage", help="this stage alone")
    logs.add_argument("--worker", type=int, help="this worker alone")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")

    for name, text in (
        ("suspend", "Have a run of the cluster save and stop."),
        ("resume", "Have it go on from there."),
    ):
        verb(name, f"life_cycle:{name}_command", text).add_argument("run", help="name of the run")

    delete = verb("delete", "life_cycle:delete_command", "Delete a run; what it made stays.")
    delete.add_argument("run", help="name of the run")
    delete.add_argument("--artifacts", action="store_true", help="delete what it made as well")
    delete.add_argument("--image", help="of the pod that deletes artifacts on a cluster (as the run's own pods)")

    stacks = verb("stacks", "stacks:stacks_command", "Show where the ranks of a run hung, or are.")
    stacks.add_argument("run", help="name of the run")
    stacks.add_argument("--stage", help="this stage alone")
    stacks.add_argument("--attempt", type=_positive, metavar="N", help="of this attempt (the last one that hung)")
    stacks.add_argument("--now", action="store_true", help="where they are this moment, asking their agents")

    text = "List the nodes that runs of the cluster keep off after failures."
    nodes = verbs.add_parser("nodes", help=text, description=text)
    nodes.set_defaults(verb="nodes:nodes_command")
    forgive = nodes.add_subparsers(metavar="[ACTION]").add_parser(
        "forgive", help="have runs use a node again", description="Have runs use a node again."
    )
    forgive.set_defaults(verb="nodes:forgive_command")
    forgive.add_argument("node", help="name of the node")
    nodes.add_argument("-n", "--namespace", help="its runs alone (all that you may see)")
    forgive.add_argument("-n", "--namespace", default=argparse.SUPPRESS, help="its runs alone (all that you may see)")

    text = "Let people in who compare responses, and see how far they are."
    collect = verbs.add_parser("collect", help=text, description=text)
    collecting = collect.add_subparsers(required=True, metavar="ACTION")

    def collecting_action(name: str, text: str) -> argparse.ArgumentParser:
        each = collecting.add_parser(name, help=text, description=text, parents=[everywhere])
        each.set_defaults(verb=f"collect:{name}_command")
        each.add_argument("run", help="name of a run that is collecting")
        return each

    links = collecting_action("links", "Print a personal link for each annotator.")
    opened = collecting_action("open", "Bring the page within reach of this machine, and print links to it.")
    for each, names in ((links, "+"), (opened, "*")):
        each.add_argument("annotators", nargs=names, metavar="NAME", help="whom it is for")
        each.add_argument("--days", type=_amount, default=14, help="for which it works (14)")
        each.add_argument("--url", help="where annotators reach the page, if that is not its own address")
        each.add_argument("--rule", default="", help="of a scripted rater, by which all of its votes are marked")
    collecting_action("status", "Show how far it is, and how far annotators agree.")
    revoke = collecting_action("revoke", "Void all links of an annotator; their votes stay.")
    revoke.add_argument("annotators", nargs="+", metavar="NAME", help="whose")

    plot = verb("plot", "plot:plot_command", "Draw the loss curve of a run.")
    plot.add_argument("run", help="name of the run")
    plot.add_argument("--output", type=Path, help="PNG file (RUN.png)")

    text = "Look after what training has saved."
    checkpoints = verbs.add_parser("checkpoints", help=text, description=text)
    checkpoints.set_defaults(verb="checkpoints:checkpoints_command")
    actions = checkpoints.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        each = actions.add_parser(name, help=text, description=text, parents=[everywhere])
        each.add_argument(
            "run", metavar="RUN|URI", help="name of a run; or path, file:// or s3:// URI of checkpoints or of one"
        )
        each.add_argument("--stage", help="this stage alone (all that have checkpoints)")
        return each

    def step_of(each: argparse.ArgumentParser, default: str) -> None:
        each.add_argument("--step", type=int, help=f"the checkpoint of this step ({default})")

    ls = action("ls", "List checkpoints, with what is wrong with bad ones.")
    show = action("show", "Show what a checkpoint holds.")
    step_of(show, "the newest")
    for each in (ls, show):
        each.add_argument("-o", "--output", choices=("json",), help="format")
    step_of(action("verify", "Read every byte again; exit with 1 if one isn't as it was written."), "all")
    copy = action("copy", "Copy a checkpoint, all or nothing, and verify the copy.")
    copy.add_argument("destination", metavar="URI", help="path or URI of the folder to put step-… into")
    step_of(copy, "the newest")
    prune = action("prune", "Delete old checkpoints, never the newest good one.")
    prune.add_argument("--keep", type=_positive, metavar="N", required=True, help="keep the last N")
    prune.add_argument("--every", type=_positive, metavar="K", help="keep those of every K-th step too")
    prune.add_argument(
        "--best", type=_positive, metavar="N", default=0, help="keep N with the lowest held-out loss too"
    )

    demo = verb("demo", "demo:demo_command", "Train a small model, kill a worker on the way, and show the result.")
    how_to_run(demo)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on")
    return int(text)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give an amount, 0 or more")
    return amount


def _share(text: str) -> float:
    if not 0 < (share := _amount(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share above 0, up to 1")
    return share
