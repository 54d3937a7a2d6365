"""What a study file and a command line may say: keys, layers, options, which file is meant."""
