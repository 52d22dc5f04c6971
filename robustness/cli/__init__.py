"""The commands of the console program, one module each; what is heavy is imported in them."""
