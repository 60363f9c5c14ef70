"""llmux: one OpenAI-compatible endpoint, many models, too little GPU memory for all of them at once."""
