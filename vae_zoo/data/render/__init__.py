"""Drawing of the embedded data sets."""
