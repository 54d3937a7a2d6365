"""The winning cell as PEFT code, as a study file and as a saved model."""
