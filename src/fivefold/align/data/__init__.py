"""Training data: authored safe answers, everyday instructions, pair building."""
