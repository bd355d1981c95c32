"""``python -m wsiseg_cli.reference``: the command reference (docs/cli.md), made from the commands' own help."""

from __future__ import annotations

import click

from wsiseg_cli.group import cli

_HEADER = """# Command reference

Made from `--help` by `make docs`; a test keeps it in step.

## Exit codes

| code | meaning |
|---|---|
| 0 | everything was done |
| 1 | internal error: please report it |
| 2 | usage or configuration |
| 3 | some slides failed or are partial |
| 4 | all slides failed |
| 5 | environment: disk, permission, device, cluster |
| 6 | all was done, and a slide has a worse grade than `--min-grade` |
| 130, 143 | stopped by Ctrl-C, by SIGTERM |

## Output

What was asked for goes to standard output, progress to standard error: bars on a terminal, else plain lines and
nothing with `--json`. Names, metadata and messages are written so that no terminal obeys them, and what
a stream's encoding lacks is escaped; `--json` stays JSON. A closed stream, or a pipe whose reader leaves
(`| head -1`), ends no run and changes no exit code. A full one (`> /full/disk`) is exit code 5 where the answer was
lost, and changes nothing where the results are on disk. Without a folder that numba can write to (an installation
that is read-only, no HOME), compiled functions are kept in a folder of yours among the temporary files, or nowhere;
`wsiseg doctor` says where, `NUMBA_CACHE_DIR` decides it.
"""


def reference() -> str:
    """The text of docs/cli.md."""
    context = click.Context(cli, info_name="wsiseg", terminal_width=100, help_option_names=["-h", "--help"])
    parts = [_HEADER, _section(cli, context)]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, context, info_name=name, terminal_width=100)
        parts.append(_section(command, inner))
        subcommands = command.commands if isinstance(command, click.Group) else {}
        for part, subcommand in subcommands.items():
            parts.append(_section(subcommand, click.Context(subcommand, inner, info_name=part, terminal_width=100)))
    return "\n".join(parts)


def _section(command: click.Command, context: click.Context) -> str:
    return f"## {context.command_path}\n\n```\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")
