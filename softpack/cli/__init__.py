"""The command line: parse, call, print. Commands are imported when they are used, so that help starts at once."""

from __future__ import annotations

import errno
import importlib

import click

from softpack import __version__
from softpack.cli.options import DEBUG, say_what_helps_damage
from softpack.errors import CorruptError, SoftpackError

COMMANDS = {
    "encode": "softpack.cli.encode:encode",
    "decode": "softpack.cli.decode:decode",
    "fit": "softpack.cli.encode:fit",
    "transcode": "softpack.cli.transcode:transcode",
    "relabel": "softpack.cli.relabel:relabel",
    "capture": "softpack.cli.capture:capture",
    "check": "softpack.cli.check:check",
    "info": "softpack.cli.info:info",
    "verify": "softpack.cli.verify:verify",
    "eval": "softpack.cli.eval:evaluate",
    "ledger": "softpack.cli.ledger:ledger",
    "bench": "softpack.cli.bench:bench",
    "recover": "softpack.cli.recover:recover",
    "formats": "softpack.cli.formats:formats",
    "demo": "softpack.cli.demo:demo",
}


class Commands(click.Group):
    """Commands by name, in the order in which one meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        if DEBUG not in command.params:  # people write it behind the command as well as before it
            command.params.append(DEBUG)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what softpack refuses becomes one message and exit code 1."""
        try:
            return super().invoke(ctx)
        except SoftpackError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"softpack: {error}", err=True)
            if isinstance(error, CorruptError) and ctx.invoked_subcommand != "recover":
                say_what_helps_damage()
            ctx.exit(error.exit_code)
        except OSError as error:  # a folder that may not be searched, a name too long
            if ctx.params.get("debug") or error.errno == errno.EPIPE or not error.filename:
                raise
            click.echo(
                f"softpack: {error.filename}: {error.strerror}; check the path and its permissions", err=True
            )
            ctx.exit(1)
        except MemoryError:
            if ctx.params.get("debug"):
                raise
            click.echo("softpack: not enough memory for this; free some, or take a smaller sample", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="softpack")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Soft labels in one small, checked file that trains a student.

    \b
    Begin with:
      softpack demo                                     see it work on real labels
      softpack encode logits.npz -o labels.spk          compress your own
      softpack eval labels.spk --against logits.npz     see what it cost
    """
