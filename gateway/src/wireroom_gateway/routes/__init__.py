"""The routes: parse, call a stub, map the answer; nothing else."""
