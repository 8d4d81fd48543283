"""`python -m experiments`: the command, on a machine that is set up before anything imports jax."""

import os
import sys

from rlkl.config import machine, terminal

# What is reduced takes longer to compile well than to run badly.
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

if __name__ == "__main__":
    if "--quick" in sys.argv:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMISED}".strip()
    machine.configure()
    terminal.configure()
    from experiments.harness import command
    from rlkl.runs.store import program_cache

    program_cache.enable()
    sys.exit(command.main(sys.argv[1:]))
