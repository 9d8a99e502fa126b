"""Gates, decisions, documents and provenance; cites numbers and cannot make them."""
