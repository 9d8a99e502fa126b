"""One model, white-box or black-box: load, generate, likelihood, activations, gradients, interventions."""
