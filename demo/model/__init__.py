"""The demo classifier: its architecture, and factories that `corelocker export` can call."""
