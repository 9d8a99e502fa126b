"""The static report and the dashboard."""
