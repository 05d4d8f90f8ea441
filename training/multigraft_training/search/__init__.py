"""The search for a recipe's best settings: by grid, at random, or by Optuna's Bayesian sampler."""
