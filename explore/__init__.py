"""Tools for the latent space: morphs, attributes, samples, maps, outliers and compression."""
