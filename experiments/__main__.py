"""`python -m experiments`: the command, on a machine that is set up before anything imports jax."""

import sys

from rlkl import machine

if __name__ == "__main__":
    machine.configure()
    from experiments import command

    sys.exit(command.main(sys.argv[1:]))
