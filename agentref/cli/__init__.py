"""The command `agentref`: looks after a store from a shell."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and end the process with its exit code.

    Needs the extra `cli`; without it, one line on stderr says how to install that, and the code is 2.
    """
    try:
        try:
            import rich  # noqa: F401, PLC0415  (looked for here, so that the package imports without it)
            import typer  # noqa: F401, PLC0415
        except ImportError:
            sys.stderr.write(
                "error: The command needs typer and rich: pip install 'agentref-checkpoint[cli]'\n"
            )
            sys.exit(2)
        from agentref.cli.app import app  # noqa: PLC0415

        app(prog_name="agentref")
    except KeyboardInterrupt:  # most of a short run is imports
        sys.exit(130)
