"""The workshop: from data cards to an artifact directory. Never imports `serving`."""
