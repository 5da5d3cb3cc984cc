"""`python -m rl_scaling_callback`: the command line."""

from rl_scaling_callback.cli import main

if __name__ == "__main__":
    main(prog_name="rl-scaling")
