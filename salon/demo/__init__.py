"""The demo: a simulated audience, named as such, that uses the product over HTTP as people would, and the story it tells."""
