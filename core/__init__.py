"""What every room of the house shares: settings, errors, records, logging. No torch, no SQL, no HTTP."""
