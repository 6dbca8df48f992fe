"""The parts of the code survey that know nothing of workflows: measuring a file, listing a directory, printing."""
