"""Training-time alignment: losses, data, one trainer, recipes."""
