"""A plan carried out: locks and claims, journal, engine, the numbered order, recovery."""
