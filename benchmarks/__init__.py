"""One script for each question; RESULTS.md keeps the answers."""
