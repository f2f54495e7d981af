"""The demo: a real mesh on one machine, started, looked at and stopped again."""
