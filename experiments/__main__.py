"""`python -m experiments`: the command, on a machine that is set up before anything imports jax."""

import sys

from rlkl.config import machine, terminal

if __name__ == "__main__":
    if "--quick" in sys.argv:
        machine.compile_quickly()
    machine.configure()
    terminal.configure()
    from experiments.harness import command
    from rlkl.runs.store import program_cache

    program_cache.enable()
    sys.exit(command.main(sys.argv[1:]))
