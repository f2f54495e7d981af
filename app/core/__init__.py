"""What every part shares and nothing else needs: clock, SPIFFE ids, errors, callers, the decision value."""
