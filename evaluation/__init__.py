"""The ladder: what each encoder is worth on a collection, beside what needs no training at all."""
