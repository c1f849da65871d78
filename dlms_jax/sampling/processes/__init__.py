"""WHICH TRANSITION: the reverse processes, each a step from noisier to cleaner."""
