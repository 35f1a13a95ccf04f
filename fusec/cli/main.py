"""Entry point: the group of verbs, and how every error becomes one message and one exit code."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
import time

import click

from fusec import __version__
from fusec.cli.text import printable
from fusec.errors import FusecError

VERBS = {
    "compile": "Compile an ONNX model into a plan file.",
    "run": "Run a model or a plan and show its outputs.",
    "bench": "Compare fused, unfused and onnxruntime, interleaved.",
    "inspect": "Show what is inside a model or a plan.",
    "explain": "Show for every edge why it was fused or not.",
    "verify": "Compare with a float64 reference or with onnxruntime.",
    "cache": "Look at, check or clear the cache of machine code.",
    "doctor": "Check this machine and installation.",
}
INTERRUPTED, INTERNAL = 130, 70


class Verbs(click.Group):
    """Verbs by name; the module of a verb is imported when it is called, its help line is known without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of the work."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"fusec.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"fusec.cli.{cmd_name} holds no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help lines, without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest verb for an unknown one; a bare model file means `inspect`."""
        if args and args[0] not in VERBS:
            if args[0].endswith((".onnx", ".fplan")):
                args = ["inspect", *args]
            elif not args[0].startswith("-"):
                from fusec.errors import nearest

                ctx.fail(f"unknown command {args[0]!r}; {nearest(args[0], list(VERBS))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="fusec")
def group() -> None:
    """Compile ONNX models into persistent-thread kernels that fuse across matrix products.

    Every verb takes an .onnx model or an .fplan plan. `--json` prints one JSON document and nothing else on stdout.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code (0 ok, 1 check failed, 2 usage, 3 model, ... see the README)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    start = time.perf_counter()
    code = _run(arguments)
    if not _quiet(arguments) and arguments and arguments[0] in VERBS and "--help" not in arguments:
        verdict = "PASSED" if code == 0 else "FAILED"
        command = printable(shlex.join(["fusec", *arguments]))
        click.echo(f"{verdict} · {time.perf_counter() - start:.1f} s · {command}", err=True)
    sys.stdout.flush()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        group.main(arguments, prog_name="fusec", standalone_mode=False)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        _fail(arguments, "FS-A001", e.format_message(), None)
        return 2
    except FusecError as e:
        if "--traceback" in arguments:
            raise
        _fail(arguments, e.code, e.message, e.hint)
        return e.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has seen enough; keep the interpreter's own flush at exit quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _fail(arguments, "FS-R001", "out of memory", "use a smaller batch, or raise the limit of this process")
        return 9
    except Exception as e:
        if "--traceback" in arguments:
            raise
        _fail(arguments, "FS-B001", f"internal error: {type(e).__name__}: {e}", "please report it with --traceback")
        return INTERNAL
    return 0


def _fail(arguments: list[str], code: str, message: str, hint: str | None) -> None:
    if "--json" in arguments:
        click.echo(json.dumps({"error": {"code": code, "message": message, "hint": hint}}))
        return
    click.echo(f"{code} {printable(message)}" + (f"\n  {printable(hint)}" if hint else ""), err=True)


def _quiet(arguments: list[str]) -> bool:
    return "--json" in arguments or "-q" in arguments or "--quiet" in arguments
