"""How things grow: 100,000 trials in one study, 1,000 virtual devices, trials per second of Optuna's storages."""
