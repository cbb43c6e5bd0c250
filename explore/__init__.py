"""What a latent space is for: morphs, attributes, samples, outliers. Every function takes a Searcher."""
