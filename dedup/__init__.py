"""Finding copies in an indexed collection, explaining them, and acting on what was decided."""
