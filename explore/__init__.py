"""What a latent space is for: morphs, attributes, samples, outliers, compression. Every function takes a Searcher."""
