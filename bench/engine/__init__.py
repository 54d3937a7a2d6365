"""K trials trained at once over one frozen base. Imports torch and transformers, neither optuna nor datasets."""
