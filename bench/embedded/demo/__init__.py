"""The embedded task and model: a grammar of reviews, text for pretraining from the same grammar, and tiny-roberta."""
