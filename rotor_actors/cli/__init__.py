"""The command line `rotor`. Each command's module is loaded when it is asked for: start-up is felt."""
