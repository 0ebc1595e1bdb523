"""(variant, prompt, seed) to pixels, fair to every arm. Knows nothing of experiments, people or the gateway."""
