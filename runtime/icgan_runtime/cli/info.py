"""icgan info."""

from __future__ import annotations

import argparse

from icgan_runtime.backends.select import BACKENDS
from icgan_runtime.bundle import info
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.verify import verify_bundle


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(commands, "info", run, "icgan info --verify bundles/demo")
    command.add_argument("bundle", metavar="BUNDLE", help=shared.BUNDLE)
    command.add_argument(
        "--verify", action="store_true", help="check every hash and binding, and run the pinned samples"
    )
    command.add_argument(
        "--backend",
        choices=BACKENDS[1:],
        default="ort-cpu",
        help="what runs the samples of --verify (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """What a bundle holds; with --verify, whether it is what it says."""
    if not options.verify:
        shared.refuse_given(options, ("backend",), "is for --verify, which runs the graphs")
    bundle = Bundle.open(options.bundle)
    if not options.verify:
        facts = info.describe(bundle)
        shared.say_text(options, info.render(facts))
        shared.say_json(options, facts)
        return 0
    checks = []
    for check in verify_bundle(bundle, options.backend):
        checks.append(check)
        shared.say_text(options, f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}")
    failed = sum(not check.passed for check in checks)
    shared.say_text(options, f"{len(checks)} checks, {failed} failed")
    shared.say_json(options, {"passed": failed == 0, "checks": [vars(check) for check in checks]})
    return 1 if failed else 0
