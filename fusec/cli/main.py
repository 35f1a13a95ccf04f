"""Entry point: the group of verbs, and how every error becomes one message and one exit code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from types import FrameType

import click

from fusec import __version__
from fusec.cli.text import printable
from fusec.errors import BugError, FusecError, ResourceError, UsageError

VERBS = {
    "compile": "Compile an ONNX model into a plan file.",
    "run": "Run a model or a plan and show its outputs.",
    "bench": "Compare fused, unfused and onnxruntime, interleaved.",
    "profile": "Show where the time of a run goes, kernel by kernel.",
    "inspect": "Show what is inside a model or a plan.",
    "explain": "Show for every edge why it was fused or not.",
    "verify": "Compare with a float64 reference or with onnxruntime.",
    "calibrate": "Measure what this machine can do at best.",
    "passes": "List the passes that -P switches on and off.",
    "cache": "Look at, check or clear the cache of machine code.",
    "doctor": "Check this machine and installation.",
}


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

    Every verb takes an .onnx model, and an .fplan plan where that holds enough; `fusec MODEL.onnx` alone inspects it.
    Results go to stdout, everything else to stderr; `--json` prints one JSON document on stdout, errors included.

    \b
    Exit codes: 0 ok, 1 a check failed, 2 usage, 3 the model, 4 an unsupported operator, 5 run inputs,
    6 code generation, 7 execution, 8 a plan, 9 memory or disk, 70 a bug in fusec, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code (0 ok, 1 check failed, 2 usage, 3 model, ... see the README)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {printable(str(message))}", err=True)
    start = time.perf_counter()
    with _CtrlC() as ctrl_c:
        code = _run(arguments, ctrl_c)
    if arguments and arguments[0] in VERBS and not {"-q", "--quiet", "--json", "-h", "--help"} & set(arguments):
        verdict = "PASSED" if code == 0 else "FAILED"
        command = printable(shlex.join(["fusec", *arguments]))
        click.echo(f"{verdict} · {time.perf_counter() - start:.1f} s · {command}", err=True)
    sys.stdout.flush()
    sys.exit(code)


class _CtrlC:
    """Remembers that Ctrl-C was pressed, for an extension module that is being imported may make another error of it.

    The first one raises KeyboardInterrupt as always; the second one ends the process at once.
    """

    pressed = False

    def __enter__(self) -> _CtrlC:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) == self._press:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.default_int_handler(number, frame)


def _run(arguments: list[str], ctrl_c: _CtrlC) -> int:
    try:
        group.main(arguments, prog_name="fusec", standalone_mode=False)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return UsageError.exit_code
    except click.ClickException as e:
        return _fail(arguments, UsageError(e.format_message(), hint=_usage_hint(e)))
    except FusecError as e:
        if "--traceback" in arguments:
            raise
        return _fail(arguments, e)
    except (KeyboardInterrupt, click.Abort):
        return _fail(arguments, Interrupted("interrupted"))
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has seen enough; click makes SystemExit of it. Keep the flush at exit quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 0
    except MemoryError:
        return _fail(arguments, ResourceError("out of memory", hint="use a smaller batch, or free memory"))
    except OSError as e:
        if "--traceback" in arguments or e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return _bug(arguments, e)
        return _fail(arguments, ResourceError(f"cannot write {e.filename or 'a file'}: {e.strerror}"))
    except Exception as e:
        return _fail(arguments, Interrupted("interrupted")) if ctrl_c.pressed else _bug(arguments, e)
    return 0


class Interrupted(FusecError):
    """Ctrl-C."""

    code, exit_code = "FS-0130", 130


def _bug(arguments: list[str], e: Exception) -> int:
    if "--traceback" in arguments:
        raise e
    again = "this is a bug in fusec: please report it with the model and what the same command says with --traceback"
    return _fail(arguments, BugError(f"internal error: {type(e).__name__}: {e}", hint=again))


def _fail(arguments: list[str], e: FusecError) -> int:
    """Tell an error, as text on stderr or as the one JSON document on stdout, and give its exit code."""
    if "--json" in arguments:
        places = {k: getattr(e, k) for k in ("node", "op", "input", "path") if getattr(e, k)}
        document = {"code": e.code, "exit_code": e.exit_code, "message": e.message, "hint": e.hint, **places}
        click.echo(json.dumps({"error": document}))
    else:
        click.echo(f"{e.code} {printable(e.message)}" + (f"\n  {printable(e.hint)}" if e.hint else ""), err=True)
    return e.exit_code


def _usage_hint(e: click.ClickException) -> str | None:
    if isinstance(e, click.UsageError) and e.ctx is not None and e.ctx.parent is not None:
        return f"see {e.ctx.command_path} --help"
    return None
