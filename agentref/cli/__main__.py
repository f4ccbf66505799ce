"""`python -m agentref.cli` is the command, too."""

from agentref.cli import main

if __name__ == "__main__":
    main()
