"""Many replicas of one service on one store: who owns which run, and what crosses from one to the other."""
