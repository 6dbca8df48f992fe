"""`python -m rotor_actors` is the command line `rotor`."""

from rotor_actors.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
