"""Shared by all packages: settings, errors, records, logging. No torch, no SQL, no HTTP."""
