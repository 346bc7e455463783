"""Programs that measure or show something; run them from the root of the clone."""
